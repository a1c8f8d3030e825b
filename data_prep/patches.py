"""Cut images into the paper's training patches: 256×256, non-overlapping, in the order of reading.

The grid starts at the top left corner. A rest at the right or the lower border that is narrower than a patch is left out
(patches are neither padded nor shifted, so that no pixel is seen twice); an image narrower than a patch is named and left out.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

SIZE = 256
Line = dict[str, Any]


def boxes(height: int, width: int, size: int = SIZE) -> list[tuple[int, int]]:
    """(top, left) of each patch, row by row from the top left."""
    return [(y, x) for y in range(0, height - size + 1, size) for x in range(0, width - size + 1, size)]


def pixels(path: Path) -> np.ndarray:
    """An 8 bit image as (H, W, 3) uint8, turned as its EXIF data says. Raises ValueError with the reason if unusable."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                if image.mode.startswith(("I", "F")):
                    raise ValueError(f"has mode {image.mode}, need 8 bits a channel")
                ImageOps.exif_transpose(image, in_place=True)
                return np.asarray(image.convert("RGB"))
    except MemoryError:
        raise
    except Exception as error:  # decoders raise all kinds for damaged files; a bomb is refused by Pillow itself
        if getattr(error, "errno", None) is not None:
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


def each(one: Callable[[str], Line], sources: list[str], jobs: int, what: str, quiet: bool) -> Iterator[Line]:
    """{"source": name, ...what `one` says of it}, or {"source", "left_out": reason} where it raises ValueError, in order.

    Threads are enough: decoding and packing run outside Python's lock. A stop waits only for the current images.
    """

    def told(source: str) -> Line:
        try:
            return {"source": source, **one(source)}
        except ValueError as error:
            return {"source": source, "left_out": str(error)}

    pool = ThreadPoolExecutor(jobs)
    try:
        yield from tqdm(pool.map(told, sources), what, len(sources), unit=" images", disable=quiet or None)
    finally:
        pool.shutdown(cancel_futures=True)


def cut(source: Path, target: Path, jobs: int = 1, size: int = SIZE, quiet: bool = False) -> list[Line]:
    """Cut every image of the folder `source` into target/NAME_TOP_LEFT.png.

    Gives a line an image, in order: {"source", "left_out": reason}, or {"source", "patches"} with the manifest's line of each
    patch, {"patch": file, "source", "box": [left, top, right, bottom], "sha256": of the pixels}.
    """

    def one(name: str) -> Line:
        rgb, lines = pixels(source / name), []
        height, width = rgb.shape[:2]
        if min(height, width) < size:
            raise ValueError(f"is {width}×{height}, need at least {size}×{size}")
        for top, left in boxes(height, width, size):
            patch = rgb[top : top + size, left : left + size]
            file = f"{Path(name).stem}_{top:05d}_{left:05d}.png"
            (target / file).write_bytes(png(patch))
            box = [left, top, left + size, top + size]
            lines.append({"patch": file, "source": name, "box": box, "sha256": digest(patch)})
        return {"patches": lines}

    target.mkdir(parents=True)
    return list(each(one, sorted(path.name for path in source.iterdir()), jobs, "cut", quiet))
