"""Cut images into the paper's training patches: 256×256, non-overlapping, in the order of reading.

The grid starts at the top left corner. A rest at the right or the lower border that is narrower than a patch is left out
(patches are neither padded nor shifted, so that no pixel is seen twice); an image narrower than a patch is named and left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps
from tqdm.contrib.concurrent import thread_map

SIZE = 256


def boxes(height: int, width: int, size: int = SIZE) -> list[tuple[int, int]]:
    """(top, left) of each patch, row by row from the top left."""
    return [(y, x) for y in range(0, height - size + 1, size) for x in range(0, width - size + 1, size)]


def pixels(path: Path) -> np.ndarray:
    """An 8 bit image as (H, W, 3) uint8, turned as its EXIF data says. Raises ValueError with the reason if unusable."""
    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"has mode {image.mode}, need 8 bits a channel")
            ImageOps.exif_transpose(image, in_place=True)
            return np.asarray(image.convert("RGB"))
    except Exception as error:  # decoders raise all kinds for damaged files; a bomb is refused by Pillow itself
        if isinstance(error, MemoryError) or getattr(error, "errno", None) is not None:
            raise
        raise ValueError(str(error) or type(error).__name__) from error


def digest(rgb: np.ndarray) -> str:
    """sha256 of the pixels in order: the same whatever library packed them."""
    return hashlib.sha256(np.ascontiguousarray(rgb).data).hexdigest()


def png(rgb: np.ndarray) -> bytes:
    """(H, W, 3) uint8 as PNG: OpenCV's own settings take less than half the time of Pillow's fastest level.

    tests/benchmarks/bench_patches.py has the figures.
    """
    return cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))[1].tobytes()


def each(one: Callable[[str, Path], int], images: Mapping[str, Path], what: str) -> tuple[int, dict[str, str]]:
    """How many files `one` made of all images together, and {name: reason} of the images for which it raises ValueError.

    Threads are enough: decoding and packing run outside Python's lock. A stop waits only for the current images.
    """

    def told(name: str) -> int | str:
        try:
            return one(name, images[name])
        except ValueError as error:
            return str(error)

    done = dict(zip(images, thread_map(told, images, desc=what, unit=" images", disable=None), strict=True))
    return sum(n for n in done.values() if isinstance(n, int)), {name: x for name, x in done.items() if isinstance(x, str)}


def cut(images: Mapping[str, Path], target: Path, size: int = SIZE) -> tuple[int, dict[str, str]]:
    """Cut images into target/NAME_TOP_LEFT.png: how many patches that gives, and the images left out (see `each`)."""

    def one(name: str, path: Path) -> int:
        rgb = pixels(path)
        height, width = rgb.shape[:2]
        if min(height, width) < size:
            raise ValueError(f"is {width}×{height}, need at least {size}×{size}")
        places = boxes(height, width, size)
        for top, left in places:
            file = f"{Path(name).stem}_{top:05d}_{left:05d}.png"
            (target / file).write_bytes(png(rgb[top : top + size, left : left + size]))
        return len(places)

    target.mkdir(parents=True)
    return each(one, images, "cut")
