"""Pictures in memory: PIL images, H×W×C arrays and tensors, into what the networks take and back.

Inside the package an image is a float RGB tensor in [0, 1], (B, 3, H, W). A `Photo` also holds what its file said beside the
pixels: bit depth, alpha, grey, ICC profile, EXIF. `itersr.upscaling` reads and writes files.
"""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageCms
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Meta:
    """What a file said about its picture beside the pixels.

    `bits` is 8 or 16 a channel. `icc` is the profile of the pixels as they are in `Photo.tensor`; `exif` has neither
    orientation (it is applied) nor pixel sizes. `notes` tell what the file held and the photo does not (further frames, a CMYK
    profile).
    """

    bits: int = 8
    grey: bool = False
    icc: bytes | None = None
    exif: bytes | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Photo:
    """One picture: `tensor` (3, H, W) float32 in [0, 1], `alpha` (1, H, W) in [0, 1] or None, and its `meta`.

    A grey picture has three equal channels and `meta.grey`; it is written as grey again.
    """

    tensor: Tensor
    alpha: Tensor | None = None
    meta: Meta = field(default_factory=Meta)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.tensor.shape[-2], self.tensor.shape[-1]

    def visible(self) -> Tensor:
        """`tensor`, but what alpha hides wholly has the colours of what is seen around it.

        Its own are arbitrary, often black, and would bleed into the rim of the object when the picture is resized.
        """
        return self.tensor if self.alpha is None else _spread(self.tensor, self.alpha > 0)

    def upscaled(self, tensor: Tensor) -> Photo:
        """This photo with the pixels of `tensor` (3, sH, sW): alpha resized bicubically with it, the rest kept."""
        return replace(self, tensor=tensor, alpha=None if self.alpha is None else resize(self.alpha, tensor.shape[-2:]))


def _spread(x: Tensor, known: Tensor) -> Tensor:
    """(3, H, W) where places that are not `known` (1, H, W) get colours from a coarser picture of the known ones."""
    if known.all() or not known.any():
        return x
    share = F.avg_pool2d(known.float(), 2, ceil_mode=True)
    mean = F.avg_pool2d(x * known, 2, ceil_mode=True) / share.clamp(min=0.1)  # a share is 0, or at least a quarter
    coarse = _spread(mean, share > 0)
    return torch.where(known, x, F.interpolate(coarse[None], size=x.shape[-2:], mode="bilinear", align_corners=False)[0])


def bundled(split: str = "test") -> dict[str, Tensor]:
    """Photos inside the installed scikit-image (no download): name -> (3, H, W) float32 in [0, 1].

    `"train"` (skin, cloth, metal, wood, print; one megapixel) trains the `smoke` tier; both halves of its stereo pair show one
    scene, so they lie on one side of the split. `"test"` (a cat's fur; smooth and strongly coloured; a fine lattice before a
    gradient) is never trained on by any tier. ValueError for another split.
    """
    from skimage import data

    if split == "train":
        left, right, _ = data.stereo_motorcycle()
        arrays = {"astronaut": data.astronaut(), "motorcycle_left": left, "motorcycle_right": right}
    elif split == "test":
        arrays = {"chelsea": data.chelsea(), "coffee": data.coffee(), "rocket": data.rocket()}
    else:
        raise ValueError(f'split is {split!r}, needed "train" or "test"')
    return {name: to_tensor(array)[0] for name, array in arrays.items()}


# ---------------------------------------------------------------------------------------------------- in, and back out


def to_tensor(x: Any) -> Tensor:
    """A picture of another library as (B, 3, H, W) float32 in [0, 1].

    Takes a PIL image of any mode, turned upright, a NumPy array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), a tensor
    (1 or 3, H, W) or (B, 1 or 3, H, W), each of uint8, uint16 or float in [0, 1], or a `Photo`. Alpha does not enter, but
    what it hides wholly gets other colours (`Photo.visible`); `like` carries it over. A float32 tensor (B, 3, H, W) comes
    back as it is, not copied. TypeError for another kind, ValueError for another dtype, shape or range, NaN, or no pixels.
    """
    if not isinstance(x, Tensor):
        return _photo(x).visible()[None]
    if x.ndim not in (3, 4) or x.shape[-3] not in (1, 3):
        raise ValueError(f"tensor has the shape {tuple(x.shape)}, needed (3, H, W) or (B, 3, H, W)")
    _check(x.detach(), "tensor")
    y = x.float() if x.is_floating_point() else x.float() / _top(x)
    y = y if y.ndim == 4 else y[None]
    return y if y.shape[1] == 3 else y.expand(-1, 3, -1, -1).contiguous()


def like(x: Any, tensor: Tensor) -> Any:
    """`tensor` (B, 3, H, W) in [0, 1] as the kind of picture that `x` is: the way back from `to_tensor`.

    The kind, dtype, number of channels and (for tensors) device are x's, the size is the tensor's. Grey comes back as grey by
    luma; alpha of x is resized bicubically to the new size. PIL modes that hold no computed pixels come back as the nearest
    that does: 1 -> L, P and CMYK -> RGB (RGBA with transparency). ValueError for another shape, or several images where x can
    hold one.
    """
    if tensor.ndim != 4 or tensor.shape[1] != 3:
        raise ValueError(f"tensor has the shape {tuple(tensor.shape)}, needed (B, 3, H, W)")
    if len(tensor) != 1 and getattr(x, "ndim", 3) != 4:
        raise ValueError(f"tensor holds {len(tensor)} images, needed 1 for the kind of picture that came in")
    y = tensor.detach().clamp(0, 1)
    if isinstance(x, Tensor):
        y = (luma(y) if x.shape[-3] == 1 else y).to(x.device)
        y = y.to(x.dtype) if x.is_floating_point() else (y * _top(x)).round().to(x.dtype)
        return y if x.ndim == 4 else y[0]
    photo = _photo(x).upscaled(y[0].float().cpu())
    if isinstance(x, Photo):
        return photo
    if isinstance(x, np.ndarray):
        pixels = to_pixels(photo, x.dtype)
        return pixels[..., 0] if x.ndim == 2 else pixels
    deep = photo.meta.bits == 16 and photo.alpha is None  # PIL holds 16 bits in one channel only
    image = to_pil(to_pixels(photo, (np.float32 if x.mode == "F" else np.uint16) if deep else np.uint8))
    if photo.meta.icc is not None:
        image.info["icc_profile"] = photo.meta.icc
    return image


def _photo(x: Any) -> Photo:
    if isinstance(x, Photo):
        return x
    if isinstance(x, Image.Image):
        return from_pil(x)
    if not isinstance(x, np.ndarray):
        raise TypeError(f"image is a {type(x).__name__}, needed a PIL image, a NumPy array, a tensor or a Photo")
    if x.ndim != 2 and (x.ndim != 3 or x.shape[2] not in (1, 3, 4)):
        raise ValueError(f"array has the shape {x.shape}, needed (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)")
    _check(x, "array")
    return from_pixels(x)


def _check(x: Any, kind: str) -> None:
    """ValueError unless x, an array or a tensor, holds uint8, uint16 or floating point in [0, 1]."""
    dtype = str(x.dtype).removeprefix("torch.")
    if dtype not in ("uint8", "uint16") and "float" not in dtype:
        raise ValueError(f"{kind} has the dtype {dtype}, needed uint8 or uint16, or floating point in [0, 1]")
    if 0 in x.shape:
        raise ValueError(f"{kind} has the shape {tuple(x.shape)}, needed at least one pixel")
    if "float" in dtype:
        low, high = float(x.min()), float(x.max())
        if not (low >= -1e-4 and high <= 1 + 1e-4):  # also true for NaN, which spreads through min and max
            hint = "; divide by 255" if low >= 0 and 1 < high <= 255 else ""
            raise ValueError(f"{kind} holds values from {low:.4g} to {high:.4g}, needed [0, 1]{hint}")


def _top(x: Any) -> int:
    """What 1.0 is in the integers or floats of an array or a tensor."""
    return 255 if x.dtype in (np.uint8, torch.uint8) else 65535 if x.dtype in (np.uint16, torch.uint16) else 1


def from_pixels(pixels: np.ndarray, turn: int = 1, profile: bytes | None = None) -> Photo:
    """(H, W) or (H, W, 1 to 4) uint8, uint16 or float as a `Photo`, from the EXIF orientation `turn` made upright."""
    x = torch.from_numpy(pixels.astype(np.float32) / np.float32(_top(pixels)))
    x = x[None] if x.ndim == 2 else x.permute(2, 0, 1)
    flips = {2: (-1,), 3: (-2, -1), 4: (-2,), 6: (-1,), 7: (-2, -1), 8: (-2,)}.get(turn, ())
    x = (x.transpose(-2, -1) if turn >= 5 else x).flip(flips).contiguous()
    grey = len(x) < 3
    meta = Meta(8 if pixels.dtype == np.uint8 else 16, grey, profile if profile_fits(profile, grey) else None)
    return Photo(x[:1].repeat(3, 1, 1) if grey else x[:3].contiguous(), x[-1:].clone() if len(x) in (2, 4) else None, meta)


def from_pil(image: Any) -> Photo:
    """A PIL image of any mode as a `Photo`, turned upright. ValueError for values out of range."""
    image.load()
    mode, clear, profile = image.mode, image.info.get("transparency"), image.info.get("icc_profile")
    turn = orientation(image)
    if mode in ("CMYK", "LAB"):
        return from_pixels(np.asarray(_to_srgb(image, profile)), turn)
    if mode == "F" or mode.startswith("I"):  # floats, or 16 bit grey; the plain mode I could hold more
        values, top = np.asarray(image, np.float32), np.float32(1 if mode == "F" else 65535)
        white_is_0 = getattr(image, "tag_v2", {}).get(262) == 0  # in a TIFF: Pillow sees to it up to 8 bits only
        values = (top - values if white_is_0 else values) / top
        _check(values, f"image of mode {mode}")
        return from_pixels(values if clear is None else np.dstack([values, np.asarray(image) != clear]), turn, profile)
    if clear is not None and mode in ("1", "L", "P", "RGB"):
        image = image.convert("LA" if mode in ("1", "L") else "RGBA")
    elif mode not in ("L", "LA", "RGB", "RGBA"):
        image = image.convert({"1": "L", "La": "LA", "PA": "RGBA", "RGBa": "RGBA"}.get(mode, "RGB"))
    return from_pixels(np.asarray(image), turn, profile)


def orientation(image: Any) -> int:
    """The EXIF orientation of a PIL image, 1 to 8; 1 where there is none, or EXIF data are damaged."""
    with contextlib.suppress(Exception):
        turn = image.getexif().get(0x0112)
        return int(turn) if turn in range(1, 9) else 1
    return 1


def profile_fits(profile: bytes | None, grey: bool) -> bool:
    """Whether an ICC profile describes such pixels: its bytes 16 to 20 name their colour space."""
    return profile is not None and len(profile) >= 128 and profile[16:20] == (b"GRAY" if grey else b"RGB ")


def _to_srgb(image: Any, profile: bytes | None) -> Any:
    own: Any = ImageCms.createProfile("LAB") if image.mode == "LAB" else io.BytesIO(profile) if profile else None
    if own is not None:
        with contextlib.suppress(ImageCms.PyCMSError):
            return ImageCms.profileToProfile(image, own, ImageCms.createProfile("sRGB"), outputMode="RGB")
    return image.convert("RGB")


def to_pixels(photo: Photo, dtype: Any) -> np.ndarray:
    """(H, W, 1 to 4) of `dtype`, clipped; in strips: copies of a large picture take room."""
    grey, alpha = photo.meta.grey, photo.alpha
    out = np.empty((*photo.size, (1 if grey else 3) + (alpha is not None)), dtype)
    for start in range(0, len(out), 256):
        rows = slice(start, start + 256)
        strip = photo.tensor[:, rows].detach().cpu().float().clamp(0, 1)
        strip = luma(strip) if grey else strip
        if alpha is not None:
            strip = torch.cat([strip, alpha[:, rows].cpu().float().clamp(0, 1)])
        values = strip.permute(1, 2, 0).numpy()
        out[rows] = values if out.dtype.kind == "f" else values * _top(out) + 0.5
    return out


def to_pil(pixels: np.ndarray) -> Image.Image:
    """(H, W, C) as a PIL image of the mode that fits: L, I;16 or F, LA, RGB, RGBA."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


# ------------------------------------------------------------------------------------------------- sizes and colours


def resize(x: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """(C, h, w) in [0, 1] -> (C, *size) in [0, 1] by antialiased bicubic interpolation (what alpha is resized with)."""
    big = F.interpolate(x[None].float(), size=tuple(size), mode="bicubic", align_corners=False, antialias=True)
    return big[0].clamp(0, 1)


def middle(x: Tensor, h: int, w: int) -> Tensor:
    """The middle h×w places of (…, H, W), as a view; where a side cannot be halved, one place more is left below or right."""
    top, left = (x.shape[-2] - h) // 2, (x.shape[-1] - w) // 2
    return x[..., top : top + h, left : left + w]


def luma(x: Tensor) -> Tensor:
    """(..., 3, H, W) -> (..., 1, H, W): 0.299 R + 0.587 G + 0.114 B (BT.601), what PIL's convert("L") computes."""
    return (x * x.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(-3, keepdim=True)


COLOR_FIXES = ("none", "wavelet", "adain")
LEVELS = 2
"""À trous levels of `low_band`, in LQ pixels: details finer than about 2^LEVELS pixels of the input stay the model's own."""


def low_band(x: Tensor, levels: int = LEVELS) -> Tensor:
    """What `levels` levels of an à trous wavelet transform leave of (B, C, H, W): [1 2 1]/4 on both axes, holes growing."""
    taps = x.new_tensor([0.25, 0.5, 0.25])
    kernel = (taps[:, None] * taps).expand(x.shape[1], 1, 3, 3)
    for level in range(levels):
        hole = 2**level
        x = F.conv2d(F.pad(x, (hole,) * 4, mode="replicate"), kernel, dilation=hole, groups=x.shape[1])
    return x


def match_colors(image: Tensor, lq: Tensor, kind: str, levels: int = LEVELS) -> Tensor:
    """The result (B, 3, s·H, s·W) in [0, 1] with colours of its input (B, 3, H, W); may reuse `image`'s memory.

    A VQ decoder drifts in flat, low-frequency parts, where the input is right. kind: "wavelet" replaces the low band of the
    result by the input's (the default of `model.upscale`: it measured best, tests/benchmarks/bench_color.py); "adain" gives
    every channel the input's mean and standard deviation; "none" leaves it. Names as in StableSR. ValueError for another kind.
    """
    if kind not in COLOR_FIXES:
        raise ValueError(f"color_fix {kind!r}: there are {', '.join(COLOR_FIXES)}")
    if kind == "none":
        return image
    if kind == "wavelet":
        missing = low_band(lq - F.interpolate(image, size=lq.shape[-2:], mode="area"), levels)
        return image.add_(F.interpolate(missing, size=image.shape[-2:], mode="bilinear", align_corners=False)).clamp_(0, 1)
    spread, wanted = (x.std((-2, -1), keepdim=True, correction=0) for x in (image, lq))
    mean, target = (x.mean((-2, -1), keepdim=True) for x in (image, lq))
    return image.sub_(mean).mul_(wanted / spread.clamp(min=1e-5)).add_(target).clamp_(0, 1)
