"""Images in and out: files, PIL pictures, NumPy arrays, and the photos that ship inside scikit-image.

Inside the package an image is a float RGB tensor in [0, 1], (B, 3, H, W). This module is the border: it reads any usual
file into a `Photo`, keeps what the picture carried (bit depth, alpha, grey, ICC profile, EXIF), and writes results
so that a reader of the folder never meets half a file. Whatever is wrong with a file becomes one `ImageError` of one
line.
"""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import struct
import sys
import tempfile
import threading
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from PIL import Image, ImageCms
from torch import Tensor
from torch.nn import functional as F

log = logging.getLogger(__name__)

MAX_PIXELS = 100_000_000
"""Largest picture that `read` decodes unless told otherwise: a few kilobytes of PNG can claim gigabytes of pixels."""

READ_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM")
SUFFIXES = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
}
"""What `write` can make, by file name suffix. `folder` lists these and what can only be read (GIF, PPM)."""
READ_SUFFIXES = frozenset(SUFFIXES) | {".gif", ".ppm", ".pgm"}
_LONGEST_SIDE = {"JPEG": 65_500, "WEBP": 16_383}
_ALPHA_FORMATS = {"PNG", "WEBP", "TIFF"}
_DEEP_FORMATS = {"PNG", "TIFF"}

# EXIF fields that stay true of an enlarged picture: who, when, with what, where. Orientation is applied, sizes would
# be wrong.
_EXIF_KEPT = (270, 271, 272, 282, 283, 296, 305, 306, 315, 33432)
_EXIF_FOLDERS = {0x8769: (0xA002, 0xA003, 0xA005), 0x8825: ()}  # Exif (without pixel sizes), GPS
_ORIENTATION = 0x0112
_LUMA = (0.299, 0.587, 0.114)
_TOP = {"uint8": 255, "uint16": 65535}  # what 1.0 is in each; floating point is itself


class ImageError(Exception):
    """An input that cannot be used: `path`, `what` is wrong with it, and the `cure`, told in one line."""

    def __init__(self, path: str | os.PathLike[str], what: str, cure: str) -> None:
        name = os.fspath(path)
        self.path, self.what, self.cure = name, what, cure
        shown = name if name.isprintable() else repr(name)
        super().__init__(" ".join(f"{shown}: {what}; {cure}".split()))


class WriteError(ImageError):
    """An output that could not be written. Nothing is left at its path that was not there before."""


@dataclass(frozen=True)
class Meta:
    """What a file said about its picture beside the pixels.

    `bits` is 8 or 16 a channel. `icc` is the profile of the pixels as they are in `Photo.tensor`; `exif` has neither
    orientation (it is applied) nor pixel sizes. `notes` tell what the file held and the photo does not (further
    frames, a CMYK profile).
    """

    format: str = "PNG"
    mode: str = "RGB"
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

    def upscaled(self, tensor: Tensor) -> Photo:
        """This photo with the pixels of `tensor` (3, sH, sW): alpha resized bicubically with it, the rest kept."""
        return replace(self, tensor=tensor, alpha=None if self.alpha is None else resize(self.alpha, tensor.shape[-2:]))


def resize(x: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """(C, h, w) in [0, 1] -> (C, *size) in [0, 1] by antialiased bicubic interpolation (what alpha is resized with)."""
    big = F.interpolate(x[None].float(), size=tuple(size), mode="bicubic", align_corners=False, antialias=True)
    return big[0].clamp(0, 1)


# ---------------------------------------------------------------------------------------------------- photos at hand

# scikit-image ships eight colour photographs in its wheel. Left out are a star field, a stained tissue and an eye
# ground: not what the prior of a photo upscaler is about. The stereo pair shows one scene twice, so both halves lie
# on one side of the split.
TRAIN = ("astronaut", "motorcycle_left", "motorcycle_right")
TEST = ("chelsea", "coffee", "rocket")


def bundled(split: str = "test") -> dict[str, Tensor]:
    """Photos inside the installed scikit-image (no download): name -> (3, H, W) float32 in [0, 1].

    The split is fixed. `"train"` (astronaut and both halves of the motorcycle stereo pair: skin, cloth, metal, wood,
    print; one megapixel) trains the `smoke` tier. `"test"` (chelsea, a cat's fur; coffee, smooth and strongly
    coloured; rocket, fine lattice before a gradient) is never trained on by any tier.

    Raises:
        ValueError: `split` is neither "train" nor "test".
    """
    from skimage import data

    if split == "train":
        left, right, _ = data.stereo_motorcycle()
        arrays = dict(zip(TRAIN, (data.astronaut(), left, right), strict=True))
    elif split == "test":
        arrays = dict(zip(TEST, (data.chelsea(), data.coffee(), data.rocket()), strict=True))
    else:
        raise ValueError(f'split is {split!r}, needed "train" or "test"')
    return {name: to_tensor(array)[0] for name, array in arrays.items()}


def folder(path: str | os.PathLike[str]) -> list[Path]:
    """Every image file below a folder, subfolders included, sorted by path; hidden files and folders are left out.

    Raises:
        ImageError: not a folder, or no image file in it.
    """
    root = Path(path)
    if not root.is_dir():
        raise ImageError(root, "is not a folder" if root.exists() else "does not exist", "name a folder with images")
    found = [
        file
        for file in root.rglob("*")
        if file.suffix.lower() in READ_SUFFIXES
        and not any(part.startswith(".") for part in file.relative_to(root).parts)
        and file.is_file()
    ]
    if not found:
        raise ImageError(root, "holds no image file", "put " + ", ".join(sorted(READ_SUFFIXES)) + " files into it")
    return sorted(found, key=lambda file: file.relative_to(root).as_posix())


# ------------------------------------------------------------------------------------------------------------- read


def read(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> Photo:
    """Read one image file as a `Photo`.

    PNG, JPEG, WebP, TIFF, BMP, GIF (first frame) and PPM; 1, 8 and 16 bit, grey, RGB, palette, CMYK, Lab, each with
    alpha where the format has it. EXIF orientation is applied. ICC profiles of RGB and grey pictures are kept,
    pixels untouched; CMYK and Lab become sRGB through their profile.

    Args:
        path: the file.
        max_pixels: refuse larger pictures (width × height) before they are decoded.

    Raises:
        ImageError: missing, a folder, unreadable, empty, not an image, truncated or damaged, or larger than
        `max_pixels`.
    """
    data = _file_bytes(path)
    with _no_pillow_limit(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of odd metadata; what matters becomes an ImageError or a note
        try:
            image = Image.open(io.BytesIO(data), formats=READ_FORMATS)
        except Exception as error:
            unknown = isinstance(error, Image.UnidentifiedImageError)
            what = "is not an image in a format known here" if unknown else "is damaged"
            raise ImageError(path, what, "use a whole PNG, JPEG, WebP, TIFF, BMP, GIF or PPM file") from error
        width, height = image.size
        if width * height > max_pixels:
            raise ImageError(
                path,
                f"has {width}×{height} = {width * height:,} pixels, more than the limit of {max_pixels:,}",
                "if it is meant to be so large, raise the limit (--max-pixels)",
            )
        try:
            with _quiet_libtiff(image):
                return _decode(data, image)
        except MemoryError as error:
            what = f"needs more memory than there is ({width}×{height})"
            raise ImageError(path, what, "cut it into parts") from error
        except Exception as error:
            # Decoders meet hostile bytes here; Pillow raises OSError, SyntaxError, ValueError, struct.error and more.
            reason = str(error) or type(error).__name__
            what, cure = f"cannot be decoded ({reason})", "the file is truncated or damaged: get it again"
            raise ImageError(path, what, cure) from error


def _file_bytes(path: str | os.PathLike[str]) -> bytes:
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError as error:
        raise ImageError(path, "does not exist", "check the name") from error
    except IsADirectoryError as error:
        raise ImageError(path, "is a folder", "name an image file") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ImageError(path, f"cannot be read ({reason})", "check the file and its permissions") from error
    if not data:
        raise ImageError(path, "is empty (0 bytes)", "get the file again")
    return data


_limit_lock = threading.Lock()


@contextlib.contextmanager
def _no_pillow_limit() -> Iterator[None]:
    # Pillow's limit is one global number; ours is an argument and is checked between open (header only) and load.
    with _limit_lock:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _decode(data: bytes, image: Any) -> Photo:
    """Pixels and meta of a freshly opened (not yet loaded) Pillow image."""
    notes: list[str] = []
    source_format = "JPEG" if image.format == "MPO" else image.format  # a phone's JPEG with a second picture behind it
    source_mode = image.mode
    stored_turn, exif = _exif(image, notes)
    with contextlib.suppress(Exception):
        if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
            notes.append(f"{image.n_frames} frames or pages: only the first is used")
            image.seek(0)
    deep = _is_deep(data, image)
    image.load()  # a truncated file fails here, whichever decoder makes the pixels

    profile = image.info.get("icc_profile")
    # Pillow turns TIFFs while it loads them, and then says so in the EXIF data.
    turn = 1 if source_format == "TIFF" and image.getexif().get(_ORIENTATION, 1) == 1 else stored_turn
    pixels = _deep_pixels(data, image, notes) if deep else None
    if pixels is None:
        image, profile = _plain_mode(image, profile, notes)
        pixels = np.asarray(image)
    photo = _photo(pixels, turn)
    icc = profile if _profile_fits(profile, photo.meta.grey) else None
    meta = replace(photo.meta, format=source_format, mode=source_mode, icc=icc, exif=exif, notes=tuple(notes))
    return replace(photo, meta=meta)


def _photo(pixels: np.ndarray, turn: int = 1) -> Photo:
    """The `Photo` of (H, W) or (H, W, 1 to 4) pixels as Pillow gives them; ValueError for values out of range."""
    if pixels.dtype == np.float32:  # F: floating point TIFF
        _check_values("float32", pixels.shape, True, (), pixels, "image of mode F")
    elif pixels.dtype == np.int32:  # I: how older Pillow versions give 16 bit grey
        if pixels.min() < 0 or pixels.max() > 65535:
            raise ValueError(f"image of mode I holds {pixels.min()} to {pixels.max()}, needed [0, 65535]")
        pixels = pixels.astype(np.uint16)
    channels = _turned(_chw(pixels if pixels.ndim == 3 else pixels[..., None]), turn)
    grey = channels.shape[0] < 3
    alpha = channels[-1:].clone() if channels.shape[0] in (2, 4) else None
    rgb = channels[:1].repeat(3, 1, 1) if grey else channels[:3].contiguous()
    return Photo(rgb, alpha, Meta(bits=8 if pixels.dtype == np.uint8 else 16, grey=grey))


def _is_deep(data: bytes, image: Any) -> bool:
    """Whether a channel has 16 bits in the file; Pillow's mode does not tell (it reads 16 bit RGB as 8 bit)."""
    if image.format == "PNG":
        return data[24] == 16  # IHDR: length, name, width, height, bit depth
    if image.format == "TIFF":
        return max(image.tag_v2.get(258, (8,))) == 16
    return False


def _deep_pixels(data: bytes, image: Any, notes: list[str]) -> np.ndarray | None:
    """(H, W, C) uint16 of a 16 bit colour PNG or TIFF; None where Pillow itself keeps 16 bits or it cannot be had.

    Pillow decodes such files and keeps the upper byte of every value. Asked to unpack the same bytes in the other byte order,
    it keeps the lower one: two readings are the whole picture, whatever the compression.
    """
    if image.mode not in ("RGB", "RGBA", "LA") or "transparency" in image.info:
        return None
    if image.format == "PNG" and data[25] == 4:
        return _grey_alpha_png16(data)
    low: Any = Image.open(io.BytesIO(data), formats=READ_FORMATS)
    tiles, wanted = [], {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
    for tile in low.tile:
        first, rest = (tile[3], ()) if isinstance(tile[3], str) else (tile[3][0], tile[3][1:])
        if first[:-1] not in ("RGB;16", "RGBA;16"):
            notes.append(f"16 bit {image.format} read with 8 bits (stored as {first})")
            return None
        swapped = first[:-1] + wanted[first[-1]]
        tiles.append((*tile[:3], (swapped, *rest) if rest else swapped))
    low.tile = [type(old)(*new) if type(old) is not tuple else new for old, new in zip(low.tile, tiles, strict=True)]
    low.load()
    return np.asarray(image).astype(np.uint16) * 256 + np.asarray(low)


def _grey_alpha_png16(data: bytes) -> np.ndarray:
    """(H, W, 2) uint16. Four bytes a pixel are filtered the same way, whether they are two values or four: read as RGBA."""
    header = bytearray(data[12:29])  # name and content of IHDR
    header[12], header[13] = 8, 6  # bits and colour type
    four = data[:12] + bytes(header) + struct.pack(">I", zlib.crc32(header)) + data[33:]
    pixels = np.asarray(Image.open(io.BytesIO(four), formats=["PNG"])).astype(np.uint16)
    return pixels[..., 0::2] * 256 + pixels[..., 1::2]


@contextlib.contextmanager
def _quiet_libtiff(image: Any) -> Iterator[None]:
    """libtiff prints what it finds wrong straight to the process's stderr; the ImageError says it once, with the name."""
    if image.format != "TIFF":
        yield
        return
    if sys.stderr is not None:
        sys.stderr.flush()
    kept, sink = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(sink)


def _plain_mode(image: Any, profile: bytes | None, notes: list[str]) -> tuple[Any, bytes | None]:
    """The Pillow image in one of L, LA, RGB, RGBA, I, I;16, F, and the profile that is then true of it."""
    mode = image.mode
    if "transparency" in image.info and mode in ("1", "L", "I;16", "P", "RGB"):
        return image.convert("LA" if mode in ("1", "L") else "RGBA"), profile
    if mode in ("L", "LA", "RGB", "RGBA", "I", "F"):
        return image, profile
    if mode.startswith("I;16"):
        return Image.fromarray(np.asarray(image).astype(np.uint16)), profile
    if mode in ("CMYK", "LAB"):
        notes.append(f"{mode} turned into sRGB" + (" through its ICC profile" if profile and mode == "CMYK" else ""))
        return _to_srgb(image, profile), None
    plain = {"1": "L", "La": "LA", "PA": "RGBA", "RGBa": "RGBA"}.get(mode, "RGB")
    return image.convert(plain), profile


def _to_srgb(image: Any, profile: bytes | None) -> Any:
    srgb = ImageCms.createProfile("sRGB")
    if image.mode == "LAB":
        return ImageCms.profileToProfile(image, ImageCms.createProfile("LAB"), srgb, outputMode="RGB")
    if profile:
        with contextlib.suppress(ImageCms.PyCMSError):
            return ImageCms.profileToProfile(image, io.BytesIO(profile), srgb, outputMode="RGB")
    return image.convert("RGB")


def _profile_fits(profile: bytes | None, grey: bool) -> bool:
    # Bytes 16 to 20 of an ICC profile name the colour space of the pixels that it describes.
    return profile is not None and len(profile) >= 128 and profile[16:20] == (b"GRAY" if grey else b"RGB ")


def _exif(image: Any, notes: list[str]) -> tuple[int, bytes | None]:
    """(orientation 1..8, the EXIF fields worth keeping as bytes or None)."""
    try:
        found = image.getexif()
        turn = int(found.get(_ORIENTATION, 1))
        kept = Image.Exif()
        for tag in _EXIF_KEPT:
            if tag in found:
                kept[tag] = found[tag]
        for tag, stale in _EXIF_FOLDERS.items():
            inside = {key: value for key, value in found.get_ifd(tag).items() if key not in stale}
            if inside:
                kept[tag] = inside
        return (turn if 1 <= turn <= 8 else 1), (kept.tobytes() if len(kept) else None)
    except Exception:  # EXIF written by broken tools is common; the picture is still good
        notes.append("damaged EXIF data left out")
        return 1, None


def _turned(x: Tensor, orientation: int) -> Tensor:
    """(C, H, W) as EXIF orientation 1..8 asks for it to be shown."""
    if orientation >= 5:
        x = x.transpose(-2, -1)
    flips = {2: (-1,), 3: (-2, -1), 4: (-2,), 6: (-1,), 7: (-2, -1), 8: (-2,)}.get(orientation, ())
    return x.flip(flips).contiguous() if flips else x.contiguous()


def _chw(pixels: np.ndarray) -> Tensor:
    """(H, W, C) uint8, uint16 or float -> (C, H, W) float32 in [0, 1]."""
    top = np.float32(_TOP.get(pixels.dtype.name, 1))
    return torch.from_numpy(pixels.astype(np.float32) / top).permute(2, 0, 1).contiguous()


# ------------------------------------------------------------------------------------------------------------ write


def check_output(path: str | os.PathLike[str], size: tuple[int, int] | None = None) -> str:
    """The format that `write` will use for `path`; worth asking before a long computation.

    Raises:
        WriteError: unknown suffix, a folder where the file should go, no folder to write in, or `size` (height,
        width) beyond what
            the format holds.
    """
    target = Path(path)
    name = SUFFIXES.get(target.suffix.lower())
    if name is None:
        raise WriteError(target, f"has the suffix {target.suffix!r}", "use one of " + ", ".join(SUFFIXES))
    if target.is_dir():
        raise WriteError(target, "is a folder", "name a file")
    if not target.parent.is_dir():
        raise WriteError(target, f"has no folder {str(target.parent)!r} to lie in", "make that folder first")
    longest = _LONGEST_SIDE.get(name)
    if size is not None and longest is not None and max(size) > longest:
        what = f"would be {size[1]}×{size[0]}, {name} ends at {longest}"
        raise WriteError(target, what, "write PNG or TIFF (--ext png)")
    return name


def write(photo: Photo, path: str | os.PathLike[str], quality: int = 95) -> None:
    """Write a photo; the format follows the suffix (png, jpg, jpeg, webp, tif, tiff, bmp).

    16 bit stays 16 bit in PNG and TIFF and becomes 8 bit elsewhere; grey stays grey; ICC and EXIF are kept where the
    format has room. JPEG and BMP have no alpha: the picture is laid on white there. The file appears whole or not at
    all: it is written beside its place under a hidden name, flushed to the disk and then renamed.

    Args:
        photo: what to write; values are clipped to [0, 1].
        path: where; an existing file is replaced.
        quality: of JPEG (4:4:4) and WebP, 1 to 100.

    Raises:
        WriteError: unknown suffix, unwritable folder, full disk, too large for the format.
    """
    target = Path(path)
    file_format = check_output(target, photo.size)
    with whole_file(target) as handle:
        _encode(photo, file_format, handle, quality)


@contextlib.contextmanager
def whole_file(target: Path) -> Iterator[IO[bytes]]:
    """A file that takes its name only when the block ends well; nothing is left of it otherwise, Ctrl-C included."""
    part: str | None = None
    try:
        number, part = tempfile.mkstemp(dir=target.parent, prefix=f".{target.stem[:50]}.", suffix=".part")
        with os.fdopen(number, "wb") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.chmod(part, 0o666 & ~_umask())  # mkstemp makes files that only their owner may read
        os.replace(part, target)
        part = None
    except OSError as error:
        reason, cure = {
            errno.ENOSPC: ("no space left on the disk", "free some or write elsewhere"),
            errno.EDQUOT: ("the disk quota is used up", "free some or write elsewhere"),
            errno.EACCES: ("the folder may not be written to", "choose another folder (-o)"),
            errno.EPERM: ("the folder may not be written to", "choose another folder (-o)"),
            errno.EROFS: ("the folder may not be written to", "choose another folder (-o)"),
        }.get(error.errno or 0, (error.strerror or str(error), "write elsewhere (-o)"))
        raise WriteError(target, f"cannot be written ({reason})", cure) from error
    finally:
        if part is not None:
            with contextlib.suppress(OSError):
                os.unlink(part)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _encode(photo: Photo, file_format: str, handle: IO[bytes], quality: int) -> None:
    rgb, alpha, meta = photo.tensor, photo.alpha, photo.meta
    if alpha is not None and file_format not in _ALPHA_FORMATS:
        log.warning("%s has no alpha: the picture is laid on white", file_format)
        rgb = rgb.clamp(0, 1) * alpha + (1 - alpha)
        alpha = None
    # Pillow opens no 16 bit grey TIFF with alpha: such a picture is written as RGBA
    grey = meta.grey and not (file_format == "TIFF" and meta.bits == 16 and alpha is not None)
    icc = meta.icc if _profile_fits(meta.icc, grey) else None
    deep = meta.bits == 16 and file_format in _DEEP_FORMATS
    pixels = _hwc(rgb, alpha, grey, np.uint16 if deep else np.uint8)
    if deep and file_format == "PNG":
        return _write_png16(handle, pixels, icc, meta.exif)
    if deep:
        return _write_tiff16(handle, pixels, icc)
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    if file_format == "WEBP" and image.mode.startswith("L"):
        image = image.convert("RGBA" if image.mode == "LA" else "RGB")  # the format knows no grey
        icc = None if grey else icc
    options: dict[str, Any] = {}
    if file_format == "JPEG":
        options = {"quality": quality, "subsampling": 0}  # 4:4:4
    elif file_format == "WEBP":
        options = {"quality": quality, "exact": True}
    elif file_format == "TIFF":
        options = {"compression": "tiff_adobe_deflate"}
    if icc is not None and file_format != "BMP":
        options["icc_profile"] = icc
    if meta.exif is not None and file_format != "BMP":
        options["exif"] = meta.exif
    image.save(handle, format=file_format, **options)


def _hwc(rgb: Tensor, alpha: Tensor | None, grey: bool, dtype: Any) -> np.ndarray:
    """(3, H, W), and (1, H, W) or None -> (H, W, C) of `dtype`, clipped; in strips: copies of a large picture take room."""
    out = np.empty((*rgb.shape[-2:], (1 if grey else 3) + (alpha is not None)), dtype)
    top = _TOP.get(out.dtype.name)
    for start in range(0, len(out), 256):
        rows = slice(start, start + 256)
        strip = rgb[:, rows].detach().cpu().float().clamp(0, 1)
        parts = [luma(strip) if grey else strip] + ([] if alpha is None else [alpha[:, rows].cpu().float().clamp(0, 1)])
        values = torch.cat(parts).permute(1, 2, 0).numpy()
        out[rows] = values if top is None else values * top + 0.5
    return out


def _write_png16(handle: IO[bytes], pixels: np.ndarray, icc: bytes | None, exif: bytes | None) -> None:
    """A 16 bit PNG from (H, W, C) uint16: neither Pillow nor torchvision writes colour with 16 bits."""
    height, width, channels = pixels.shape
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = pixels.astype(">u2").view(np.uint8).reshape(height, -1)
    # Each row begins with its filter: 2 = "Up", the difference to the row above (bytes, modulo 256), which deflates well.
    lines = np.full((height, 1 + rows.shape[1]), 2, dtype=np.uint8)
    lines[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=lines[1:, 1:])
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0))]
    if icc is not None:
        chunks.append((b"iCCP", b"ICC profile\0\0" + zlib.compress(icc)))
    if exif is not None:
        chunks.append((b"eXIf", exif.removeprefix(b"Exif\0\0")))
    handle.write(b"\x89PNG\r\n\x1a\n")
    for name, content in [*chunks, (b"IDAT", zlib.compress(lines.data, 6)), (b"IEND", b"")]:
        handle.write(struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content)))


def _write_tiff16(handle: IO[bytes], pixels: np.ndarray, icc: bytes | None) -> None:
    import tifffile

    channels = pixels.shape[2]
    body = io.BytesIO()  # tifffile seeks about
    tifffile.imwrite(
        body,
        pixels[..., 0] if channels == 1 else pixels,
        photometric="minisblack" if channels < 3 else "rgb",
        planarconfig="contig" if channels > 1 else None,
        extrasamples=["unassalpha"] if channels in (2, 4) else None,
        compression="zlib",
        iccprofile=icc,
        metadata=None,
    )
    handle.write(body.getvalue())


# ------------------------------------------------------------------------------ pictures of other libraries, and back


def to_tensor(x: Any) -> Tensor:
    """A picture of another library as (B, 3, H, W) float32 in [0, 1].

    Takes a PIL image of any mode, a NumPy array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of uint8, uint16 or float
    in [0, 1], a tensor (1 or 3, H, W) or (B, 1 or 3, H, W) of uint8 or float in [0, 1], or a `Photo`. Alpha does not
    enter; `like` carries it over. A float32 tensor (B, 3, H, W) comes back as it is, not copied.

    Raises:
        TypeError: none of these kinds.
        ValueError: another dtype, shape or range, NaN or infinity, or no pixels; the message names what was met and
        needed.
    """
    if isinstance(x, Photo):
        return x.tensor[None]
    if isinstance(x, Image.Image):
        return _from_pil(x).tensor[None]
    if isinstance(x, np.ndarray):
        if x.ndim == 2:
            x = x[..., None]
        if x.ndim != 3 or x.shape[2] not in (1, 3, 4):
            raise ValueError(f"array has the shape {x.shape}, needed (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)")
        _check_values(x.dtype.name, x.shape, x.dtype.kind == "f", ("uint8", "uint16"), x, "array")
        y = _chw(x[..., :3])[None]
    elif isinstance(x, Tensor):
        if x.ndim not in (3, 4) or x.shape[-3] not in (1, 3):
            raise ValueError(f"tensor has the shape {tuple(x.shape)}, needed (3, H, W) or (B, 3, H, W)")
        _check_values(str(x.dtype).removeprefix("torch."), x.shape, x.is_floating_point(), ("uint8",), x, "tensor")
        y = x.float() if x.is_floating_point() else x.float() / 255
        y = y if y.ndim == 4 else y[None]
    else:
        raise TypeError(f"image is a {type(x).__name__}, needed a PIL image, a NumPy array, a tensor or a Photo")
    return y if y.shape[1] == 3 else y.expand(-1, 3, -1, -1).contiguous()


def _check_values(dtype: str, shape: Any, floating: bool, integers: tuple[str, ...], x: Any, kind: str) -> None:
    if not floating and dtype not in integers:
        raise ValueError(f"{kind} has the dtype {dtype}, needed {' or '.join(integers)}, or floating point in [0, 1]")
    if 0 in shape:
        raise ValueError(f"{kind} has the shape {tuple(shape)}, needed at least one pixel")
    if floating:
        low, high = float(x.min()), float(x.max())  # NaN spreads through min and max
        if not (np.isfinite(low) and np.isfinite(high)):
            raise ValueError(f"{kind} holds NaN or infinity, needed finite values in [0, 1]")
        if low < -1e-4 or high > 1 + 1e-4:
            hint = "; divide by 255" if low >= 0 and 1 < high <= 255 else ""
            raise ValueError(f"{kind} holds values from {low:.4g} to {high:.4g}, needed [0, 1]{hint}")


def _from_pil(image: Any) -> Photo:
    if 0 in image.size:
        raise ValueError(f"image has the size {image.size}, needed at least one pixel")
    plain, _ = _plain_mode(image, image.info.get("icc_profile"), [])
    photo = _photo(np.asarray(plain))
    return replace(photo, meta=replace(photo.meta, mode=image.mode))


def like(x: Any, tensor: Tensor) -> Any:
    """`tensor` (B, 3, H, W) in [0, 1] as the kind of picture that `x` is: the way back from `to_tensor`.

    The kind, dtype, number of channels and (for tensors) device are x's, the size is the tensor's. Grey comes back
    as grey by luma; alpha of x is resized bicubically to the new size. PIL modes that hold no computed pixels come
    back as the nearest that does: 1 -> L, P and CMYK -> RGB (RGBA with transparency).

    Raises:
        ValueError: `tensor` is not (B, 3, H, W), or holds several images and x can hold one.
    """
    if tensor.ndim != 4 or tensor.shape[1] != 3:
        raise ValueError(f"tensor has the shape {tuple(tensor.shape)}, needed (B, 3, H, W)")
    if isinstance(x, Tensor):
        y = tensor.detach().clamp(0, 1)
        y = (luma(y) if x.shape[-3] == 1 else y).to(x.device)
        y = (y * 255).round().to(x.dtype) if not x.is_floating_point() else y.to(x.dtype)
        return y if x.ndim == 4 else _single(y)
    y = _single(tensor.detach()).float().cpu()
    if isinstance(x, Photo):
        return x.upscaled(y.clamp(0, 1))
    if isinstance(x, np.ndarray):
        grey = x.ndim == 2 or x.shape[2] == 1
        alpha = resize(_chw(x[..., 3:]), y.shape[-2:]) if x.ndim == 3 and x.shape[2] == 4 else None
        values = _hwc(y, alpha, grey, x.dtype)
        return values[..., 0] if x.ndim == 2 else values
    photo = _from_pil(x).upscaled(y)
    if photo.meta.bits == 16:  # I;16, I, F: grey, one channel
        return Image.fromarray(_hwc(y, None, True, np.float32 if x.mode == "F" else np.uint16)[..., 0])
    values = _hwc(y, photo.alpha, photo.meta.grey, np.uint8)
    image = Image.fromarray(values[..., 0] if values.shape[2] == 1 else values)
    profile = x.info.get("icc_profile")
    if profile is not None and _profile_fits(profile, photo.meta.grey):
        image.info["icc_profile"] = profile
    return image


def _single(y: Tensor) -> Tensor:
    if y.shape[0] != 1:
        raise ValueError(f"tensor holds {y.shape[0]} images, needed 1 for the kind of picture that came in")
    return y[0]


def luma(x: Tensor) -> Tensor:
    """(..., 3, H, W) -> (..., 1, H, W): 0.299 R + 0.587 G + 0.114 B (BT.601), what PIL's convert("L") computes."""
    weights = x.new_tensor(_LUMA).view(3, 1, 1)
    return (x * weights).sum(-3, keepdim=True)
