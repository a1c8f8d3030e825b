"""Megapixels a second of cutting into patches, with OpenCV's PNG writer and with Pillow's in its place.

    python -m tests.benchmarks.bench_patches [--megapixels 60]
"""

from __future__ import annotations

import argparse
import io
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image

from data_prep import patches


def pillow_png(rgb: np.ndarray, level: int = 1) -> bytes:
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, "PNG", compress_level=level)
    return file.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megapixels", type=float, default=60)
    args = parser.parse_args()
    photo = np.tile(skimage.data.astronaut(), (3, 4, 1))[:1356]  # about the size of DIV2K's
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "source")
        source.mkdir()
        threads = os.cpu_count() or 1
        count = max(threads, round(args.megapixels * 1e6 / photo.shape[0] / photo.shape[1]))
        for i in range(count):
            Image.fromarray(np.roll(photo, 8 * i, 1)).save(source / f"{i:04d}.png", compress_level=6 if i == 0 else 1)
        ours, rows = patches.png, dict[str, tuple[float, float]]()
        for name, writer in (("Pillow, level 1", pillow_png), ("OpenCV", ours)) * 2:
            patches.png = writer
            made = Path(folder, f"made {time.monotonic()}")
            start = time.perf_counter()
            patch_count, _ = patches.cut({path.name: path for path in source.iterdir()}, made)
            seconds = time.perf_counter() - start
            pixels = count * photo.shape[0] * photo.shape[1]
            size = sum(path.stat().st_size for path in made.iterdir()) / (patch_count * 256 * 256)
            rows[name] = max(rows.get(name, (0.0, 0.0)), (pixels / 1e6 / seconds, size))
        patches.png = ours
        small = [pillow_png(photo[top : top + 256, left : left + 256], 6) for top, left in patches.boxes(*photo.shape[:2])]
    what = f"{count} PNGs of {photo.shape[1]}×{photo.shape[0]}"
    print(f"cut: megapixels a second, {threads} threads, {what}")
    least = sum(map(len, small)) / (len(small) * 256 * 256)
    for name, (rate, size) in rows.items():
        times = rate / rows["Pillow, level 1"][0]
        print(f"  {name:24s} {rate:6.1f}   x{times:.2f}   {size:.2f} bytes a pixel (Pillow, level 6: {least:.2f})")


if __name__ == "__main__":
    main()
