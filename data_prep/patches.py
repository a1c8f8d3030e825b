"""Cut images into the paper's training patches: 256×256, non-overlapping, in the order of reading.

The grid starts at the top left corner. A rest at the right or the lower border that is narrower than a patch is left out
(patches are neither padded nor shifted, so that no pixel is seen twice); an image narrower than a patch is named and left out.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

SIZE = 256


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


def cut_image(path: Path, name: str, target: Path, size: int = SIZE) -> list[dict[str, Any]]:
    """Write the patches of one image to target/NAME_TOP_LEFT.png; returns their manifest lines.

    A line: {"patch": file, "source": name, "box": [left, top, right, bottom], "sha256": of the pixels}.
    Raises ValueError with the reason if the image is damaged or too small.
    """
    rgb = pixels(path)
    height, width = rgb.shape[:2]
    if min(height, width) < size:
        raise ValueError(f"is {width}×{height}, need at least {size}×{size}")
    lines = []
    for top, left in boxes(height, width, size):
        patch = rgb[top : top + size, left : left + size]
        file = f"{Path(name).stem}_{top:05d}_{left:05d}.png"
        (target / file).write_bytes(png(patch))
        box = [left, top, left + size, top + size]
        lines.append({"patch": file, "source": name, "box": box, "sha256": digest(patch)})
    return lines


def cut(
    source: Path, target: Path, journal: Path, jobs: int = 1, size: int = SIZE, quiet: bool = False
) -> list[dict[str, Any]]:
    """Cut every image of the folder `source` into `target`; images that `journal` lists are done already.

    The journal gets one line an image, {"source", "patches": lines} or {"source", "left_out": reason}, after its patches are
    written. Returns these lines sorted by source.
    """
    target.mkdir(parents=True, exist_ok=True)
    done = {line["source"]: line for line in read_lines(journal)}
    names = sorted(path.name for path in source.iterdir())
    waiting = [name for name in names if name not in done]

    def one(name: str) -> dict[str, Any]:
        try:
            return {"source": name, "patches": cut_image(source / name, name, target, size)}
        except ValueError as error:
            return {"source": name, "left_out": str(error)}

    bar = tqdm(total=len(names), initial=len(names) - len(waiting), desc="cut", unit=" images", disable=quiet or None)
    pool = ThreadPoolExecutor(jobs)  # decoding and packing run outside Python's lock
    running: set[Future[dict[str, Any]]] = set()
    try:
        with journal.open("a") as file, bar:
            if journal.stat().st_size and not journal.read_bytes().endswith(b"\n"):
                file.write("\n")  # a line that a stop cut short
            while waiting or running:
                while waiting and len(running) < 2 * jobs:  # a stop or a full disk waits for few
                    running.add(pool.submit(one, waiting.pop(0)))
                ready, running = wait(running, return_when=FIRST_COMPLETED)
                for future in ready:
                    line = future.result()
                    file.write(json.dumps(line) + "\n")
                    file.flush()
                    done[line["source"]] = line
                    bar.update()
    finally:
        pool.shutdown(cancel_futures=True)
    return [done[name] for name in names]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a JSON-lines file; one that a stop cut short is left out."""
    return list(_whole_lines(path)) if path.exists() else []


def _whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text().splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict) and "source" in value:
            yield value
