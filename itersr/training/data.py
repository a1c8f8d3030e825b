"""Training crops and validation crops, where every random number is a function of (seed, index).

A run has no hidden state in its data: sample number `index` is the same crop, flip and degradation whenever, wherever and
in however many processes it is made. That is why a resumed run goes on to the bit, and why two processes equal one.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from itersr.degradation import MILD, Degradation, degrade, mirror_pad
from itersr.pictures import bundled, middle
from itersr.upscaling.read import ImageError, image_files, read

log = logging.getLogger(__name__)
HOLD_OUT_EVERY = 20  # one photo in twenty is never trained on: validation and calibration use those


def generator_for(seed: int, index: int, purpose: str = "") -> torch.Generator:
    """The random generator of sample `index` for one purpose: a hash, so that neighbours have nothing in common."""
    digest = hashlib.sha256(f"{seed}/{index}/{purpose}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def mixed(x: Tensor) -> Tensor:
    """The finalizer of SplitMix64 (Steele et al. 2014) on int64: neighbouring numbers in, unrelated ones out."""
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15), (31, 1)):
        x = (x ^ (x >> shift & (1 << 64 - shift) - 1)) * factor  # >> copies the sign bit, which an unsigned shift would not
    return x


def uniform(seed: int, index: Tensor, purpose: str, shape: Sequence[int] = ()) -> Tensor:
    """Uniform numbers in [0, 1), (B, *shape), for the samples with numbers `index` (B,): each a hash of seed, purpose,
    sample and place, so that every device, process and resumed run gets the same ones, and nothing waits for a CPU."""
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    start = mixed(index.long() + int.from_bytes(digest[:8], "little", signed=True))
    place = torch.arange(1, math.prod(shape) + 1, device=index.device) * -0x61C8864680B583EB  # SplitMix64's step, odd
    bits = mixed(start[:, None] + place) >> 40 & 0xFFFFFF  # as many as a float32 can hold
    return (bits.float() / (1 << 24)).view(len(index), *shape)


class Photos:
    """A set of training photos, from files or tensors, kept as bytes while they fit into memory."""

    def __init__(self, items: Sequence[Path] | dict[str, Tensor], cache_bytes: int = 8 << 30) -> None:
        """items: picture files, or named tensors (3, H, W) in [0, 1]. ValueError where there are none."""
        if not items:
            raise ValueError("no photos to train on")
        self.items: list[Any] = list(items.values() if isinstance(items, dict) else items)
        self.names = [str(item) for item in items]  # of tensors their names, of files their paths
        self._cache: dict[int, tuple[int, tuple[int, int]]] = {}  # photo → where its bytes begin, and its sides
        self._bytes = torch.empty(0, dtype=torch.uint8)
        self._room = min(cache_bytes, _memory() // 4)
        self._read_once = False

    def preload(self, share: bool = False) -> None:
        """Read all files now, and keep what fits into memory. What is no whole picture is named and left out.

        share: keep them where processes that make crops can see them.
        """
        if isinstance(self.items[0], Path) and not self._read_once:
            good, bad, parts, begin = list[Path](), list[ImageError](), list[Tensor](), 0
            with ThreadPoolExecutor() as pool:
                for path, photo in zip(self.items, pool.map(_read_or_error, self.items), strict=True):
                    if isinstance(photo, ImageError):
                        bad.append(photo)
                        continue
                    if begin + photo.numel() <= self._room:
                        self._cache[len(good)] = begin, (photo.shape[1], photo.shape[2])
                        parts.append(photo.flatten())
                        begin += photo.numel()
                    good.append(path)
            for error in bad:
                log.warning("%s; it is left out", error)
            if not good:
                raise ValueError(f"no photos to train on: none of {len(self.items)} files can be read")
            if len(parts) < len(good):
                log.info("%d photos do not fit into memory: they are read for every crop", len(good) - len(parts))
            self.items, self.names, self._read_once = good, [str(path) for path in good], True
            self._bytes = torch.cat([self._bytes, *parts])
        if share and not self._bytes.is_shared():
            self._bytes.share_memory_()

    def large_enough(self, side: int) -> list[int]:
        """The photos with at least `side` pixels along both sides; the others are named."""
        good = []
        for i, name in enumerate(self.names):
            h, w = self.stored(i).shape[-2:]
            if min(h, w) >= side:
                good.append(i)
            else:
                log.warning("%s: has %d×%d pixels; it is left out of the held-out photos, which need %d", name, w, h, side)
        return good

    @classmethod
    def of(cls, data: str | Path | None) -> Photos:
        """The photos below a folder, or (None) the scikit-image photos set aside for training."""
        return cls(bundled("train") if data is None else image_files(Path(data)))

    def __len__(self) -> int:
        return len(self.names)

    def stored(self, i: int) -> Tensor:
        """Photo i, (3, H, W), as it lies in memory: bytes from a file, else floats in [0, 1]."""
        if i in self._cache:
            begin, (h, w) = self._cache[i]
            return self._bytes[begin : begin + 3 * h * w].view(3, h, w)
        return self.items[i] if isinstance(self.items[i], Tensor) else _read(self.items[i])

    def __getitem__(self, i: int) -> Tensor:
        """Photo i, (3, H, W) in [0, 1]."""
        return as_float(self.stored(i))

    def split(self) -> tuple[Photos, Photos]:
        """(training, held out): every 20th photo by name is held out.

        The three bundled photos are all trained on; what is held out for them is the bundled test split.
        """
        if isinstance(self.items[0], Tensor):
            return self, Photos(bundled("test"))
        held = sorted(self.items)[min(HOLD_OUT_EVERY // 2, len(self) - 1) :: HOLD_OUT_EVERY]
        rest = [path for path in self.items if path not in set(held)]
        return Photos(rest or held), Photos(held)


def _memory() -> int:
    """Bytes of memory of this machine, where the system tells."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 32 << 30


def _read(path: Path) -> Tensor:
    return (read(path).tensor * 255).round().to(torch.uint8)


def _read_or_error(path: Path) -> Tensor | ImageError:
    try:
        return _read(path)
    except ImageError as error:
        return error


def as_float(pixels: Tensor) -> Tensor:
    """Bytes, or floats in [0, 1], as floats in [0, 1]."""
    return pixels if pixels.is_floating_point() else pixels.float() / 255


def random_crop(photo: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """A random crop (3, size, size), in half of the cases of the photo shrunk by up to 2, in one of its 8 orientations.

    photo: (3, H, W), bytes or floats in [0, 1]. One that is smaller than the crop is mirrored at its edges first.
    """
    def draw(low: float, high: float) -> float:
        return low + (high - low) * torch.rand((), generator=generator).item()

    h, w = photo.shape[-2:]
    zoom = draw(1, 2) if draw(0, 1) < 0.5 else 1.0
    side = max(size, min(round(size * zoom), h, w))  # the side that becomes `size`
    if min(h, w) < side:
        short = side - min(h, w)
        photo = mirror_pad(as_float(photo)[None], short)[0, :, short : short + max(h, side), short : short + max(w, side)]
    y, x = (int(draw(0, n - side + 1)) for n in photo.shape[-2:])
    crop = as_float(photo[:, y : y + side, x : x + side])  # a whole photo as floats would cost more than all else
    if side != size:
        crop = F.interpolate(crop[None], (size, size), mode="bicubic", antialias=True)[0].clamp(0, 1)
    orientation = int(draw(0, 8))
    crop = crop.rot90(orientation % 4, (1, 2))
    return (crop.flip(2) if orientation >= 4 else crop).contiguous()


class Crops(Dataset):
    """Endless HQ crops, and LQ ones where a degradation is given: sample `index` depends on the seed and the index alone.

    mild: the share of the crops that have the mild ranges in place of `degradation`.
    """

    def __init__(self, photos: Photos, size: int, seed: int, *, degradation: Degradation | None = None, scale: int = 4,
                 mild: float = 0.0) -> None:
        self.photos, self.size, self.seed = photos, size, seed
        self.degradation, self.scale, self.mild = degradation, scale, mild

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        generator = generator_for(self.seed, index, "crop")
        which = int(torch.randint(len(self.photos), (), generator=generator))
        hq = random_crop(self.photos.stored(which), self.size, generator)
        sample = {"hq": hq, "index": torch.tensor(index), "photo": torch.tensor(which)}
        if self.degradation is not None:
            chosen = MILD if self.mild and torch.rand((), generator=generator) < self.mild else self.degradation
            sample["lq"] = degrade(hq[None], generator=generator, scale=self.scale, ranges=chosen)[0]
        return sample


def validation_pairs(photos: Photos, count: int, size: int, seed: int, *, degradation: Degradation, scale: int,
                     unit: int = 32) -> dict[str, Tensor]:
    """`count` fixed centre crops of held-out photos, each degraded with its own fixed seed: {"hq", "lq"}.

    size: of a crop in pixels; less, for all of them, where a photo is smaller. unit: the side is a multiple of it, so that
    token maps are whole windows; photos that have not even that are left out. ValueError where none is left.
    """
    good = photos.large_enough(unit) if size >= unit else []
    if not good:
        raise ValueError(f"held-out photos, or the crop of {size} pixels, are smaller than a window of tokens ({unit} pixels)")
    chosen = [photos[good[i % len(good)]] for i in range(count)]
    side = min(size, *(n for photo in chosen for n in photo.shape[-2:])) // unit * unit
    hq, lq = [], []
    for i, photo in enumerate(chosen):
        crop = middle(photo[None], side, side)
        hq.append(crop)
        lq.append(degrade(crop, generator=generator_for(seed, i, "validation"), scale=scale, ranges=degradation))
    return {"hq": torch.cat(hq), "lq": torch.cat(lq)}


def ranges(name: str) -> Degradation:
    """The degradation ranges that a tier names: "paper" (Real-ESRGAN's) or "mild"."""
    return MILD if name == "mild" else Degradation()
