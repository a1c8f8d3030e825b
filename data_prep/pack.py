"""Copy folders of photos into a small one: WebP, at the highest quality that keeps the total below a given size."""

from __future__ import annotations

import argparse
import io
import os
from bisect import bisect_right
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from . import PrepError
from .patches import pixels

SAMPLE = 40  # photos on which the quality is searched, before all are encoded


def opened(path: Path, longest: int | None = None) -> Image.Image:
    """A photo as upright 8 bit RGB, its longer side at most `longest` pixels. Raises PrepError, which names the photo."""
    try:
        image = Image.fromarray(pixels(path))
    except ValueError as error:
        raise PrepError(f"{path}: {error}") from error
    if longest is not None and max(image.size) > longest:
        image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    return image


def encoded(path: Path, quality: int, longest: int | None = None) -> bytes:
    """A photo as WebP; quality 1 to 100. Raises PrepError where WebP cannot hold it (above 16383 pixels on a side)."""
    file = io.BytesIO()
    try:
        opened(path, longest).save(file, "WEBP", quality=quality, method=4)
    except ValueError as error:
        raise PrepError(f"{path}: {error}; a smaller --longest may help") from error
    return file.getvalue()


def psnr(path: Path, data: bytes, longest: int | None = None) -> float:
    """PSNR in dB over RGB of a packed photo against its source; at most 68, so that equal ones keep a mean finite."""
    packed = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), np.float32)
    error = float(np.square(packed - np.asarray(opened(path, longest), np.float32)).mean())
    return float(10 * np.log10(255**2 / max(error, 0.01)))


def size(files: list[bytes]) -> int:
    """Bytes of all together."""
    return sum(map(len, files))


def targets(folders: list[Path], out: Path = Path()) -> dict[str, Path]:
    """The packed names and their photos: a/b/dir → dir/…/name.webp, sorted.

    Raises PrepError if two have one name, or `out` cannot take one; a warning names what is left out.
    """
    from itersr.disk import FileError, check_place
    from itersr.upscaling.read import image_files  # with PyTorch, which the datasets do not need

    found = []
    try:
        for folder in folders:
            root = folder.resolve().name
            found += [((root / path.relative_to(folder)).with_suffix(".webp").as_posix(), path) for path in image_files(folder)]
        for name, _ in found:
            check_place(out / name)
    except FileError as error:
        raise PrepError(str(error)) from error
    name, count = Counter(name for name, _ in found).most_common(1)[0]
    if count > 1:
        raise PrepError(f"{' and '.join(str(path) for each, path in found if each == name)}: both would be called {name}")
    return dict(sorted(found))


def pack(
    folders: list[Path], out: Path, megabytes: float, longest: int | None = None, jobs: int = 1, quiet: bool = False
) -> str:
    """Write the photos below `folders` to `out` in at most `megabytes` (of 10⁶ bytes); returns the line that sums up.

    Bigger files come with higher quality: a bisection on a sample finds about where the total meets the budget, and all photos
    are then encoded there and a step beside it, until the highest quality that fits is known. Nothing is written before that.

    Raises:
        PrepError: `out` holds something, a photo is damaged, two would have one name, or they do not fit at quality 1.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise PrepError(f"{out}: is there and not an empty folder, name another")
    photos = targets(folders, out)
    paths, budget = list(photos.values()), megabytes * 1e6
    with ThreadPoolExecutor(jobs) as pool:  # Pillow decodes and encodes outside Python's lock

        def at(quality: int, some: list[Path]) -> list[bytes]:
            work = pool.map(partial(encoded, quality=quality, longest=longest), some)
            return list(tqdm(work, total=len(some), desc=f"quality {quality}", unit=" photos", disable=quiet or None))

        sample = paths[:: max(1, len(paths) // SAMPLE)]
        share = len(sample) / len(paths)
        quality = 1 + bisect_right(range(2, 101), budget * share, key=lambda q: size(at(q, sample)))
        data = at(quality, paths)  # the sample may be off by a step or two
        while size(data) <= budget and quality < 100 and size(more := at(quality + 1, paths)) <= budget:
            quality, data = quality + 1, more
        while size(data) > budget and quality > 1:
            quality, data = quality - 1, at(quality - 1, paths)
        if size(data) > budget:
            needed = f"{size(data) / 1e6:.1f} MB at quality 1"
            raise PrepError(f"{len(paths)} photos take {needed}: need --megabytes above it, or --longest")
        mean = sum(pool.map(partial(psnr, longest=longest), paths, data)) / len(paths)

    for name, content in zip(photos, data, strict=True):
        file = out / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return f"{out}: {len(paths)} photos, {size(data) / 1e6:.1f} MB, WebP at quality {quality}, PSNR {mean:.1f} dB on average"


def arguments_of(arguments: list[str]) -> argparse.Namespace:
    """The command line of `python -m data_prep pack`. A call that makes no sense ends with exit code 2."""
    parser = argparse.ArgumentParser(prog="python -m data_prep pack", description=__doc__)
    parser.add_argument("--data", type=Path, action="append", required=True, help="a folder of photos; may be given again")
    parser.add_argument("-o", "--out", type=Path, required=True, help="a new or empty folder")
    parser.add_argument("--megabytes", type=float, required=True, help="the most that all may take (of 10⁶ bytes)")
    parser.add_argument("--longest", type=int, help="shrink photos whose longer side is above this (default: keep)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="photos at once (default: %(default)s)")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    args = parser.parse_args(arguments)
    for folder in args.data:
        if not folder.is_dir():
            parser.error(f"--data {folder}: is not a folder")
    for name, least in (("longest", 16), ("jobs", 1)):
        if (value := getattr(args, name)) is not None and value < least:
            parser.error(f"--{name} {value}: need {least} or more")
    if not args.megabytes > 0:
        parser.error(f"--megabytes {args.megabytes}: need more than 0")
    return args
