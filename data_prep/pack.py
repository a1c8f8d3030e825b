"""Copy folders of photos into a small one: WebP, at the highest quality that keeps the total below a given size."""

from __future__ import annotations

import io
import os
from bisect import bisect_right
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from . import PrepError
from .patches import pixels

SAMPLE = 40  # photos on which the quality is searched, before all are encoded


def encoded(path: Path, quality: int, longest: int | None = None) -> bytes:
    """A photo as upright 8 bit RGB in WebP; quality 1 to 100, its longer side at most `longest` pixels.

    Raises PrepError, which names the photo, where it is damaged or WebP cannot hold it (above 16383 pixels on a side).
    """
    file = io.BytesIO()
    try:
        image = Image.fromarray(pixels(path))
        image.thumbnail((longest or max(image.size),) * 2, Image.Resampling.LANCZOS)  # it never enlarges
        image.save(file, "WEBP", quality=quality, method=4)
    except ValueError as error:
        raise PrepError(f"{path}: {error}") from error
    return file.getvalue()


def targets(folders: list[Path]) -> dict[str, Path]:
    """The packed names and their photos: a/b/dir → dir/…/name.webp, sorted. PrepError for a folder without photos, or two of
    one name; a warning names what is left out."""
    from itersr.upscaling.read import ImageError, image_files  # with PyTorch, which the datasets do not need

    found: dict[str, Path] = {}
    for folder in folders:
        try:
            photos = image_files(folder)
        except ImageError as error:
            raise PrepError(str(error)) from error
        for path in photos:
            name = Path(folder.resolve().name, path.relative_to(folder)).with_suffix(".webp").as_posix()
            if name in found:
                raise PrepError(f"{found[name]} and {path}: both would be called {name}")
            found[name] = path
    return dict(sorted(found.items()))


def pack(folders: list[Path], out: Path, megabytes: float, longest: int | None = None) -> str:
    """Write the photos below `folders` to `out` in at most `megabytes` (of 10⁶ bytes); returns the line that sums up.

    Bigger files come with higher quality: a bisection on a sample finds about where the total meets the budget, and all photos
    are then encoded there, and a step lower until they fit. Nothing is written before that.

    Raises:
        PrepError: `out` holds something, a photo is damaged, two would have one name, or they do not fit at quality 1.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise PrepError(f"{out}: is there and not an empty folder, name another")
    photos = targets(folders)
    paths, budget = list(photos.values()), megabytes * 1e6
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes and encodes outside Python's lock

        def at(quality: int, some: list[Path]) -> list[bytes]:
            work = pool.map(partial(encoded, quality=quality, longest=longest), some)
            return list(tqdm(work, f"quality {quality}", len(some), unit=" photos", disable=None))

        sample = paths[:: max(1, len(paths) // SAMPLE)]
        share = len(sample) / len(paths)
        quality = 1 + bisect_right(range(2, 101), budget * share, key=lambda q: sum(map(len, at(q, sample))))
        while (size := sum(map(len, data := at(quality, paths)))) > budget:  # the sample may be off by a step or two
            if quality == 1:
                needed = f"{size / 1e6:.1f} MB at quality 1"
                raise PrepError(f"{len(paths)} photos take {needed}: need --megabytes above it, or --longest")
            quality -= 1
    for name, content in zip(photos, data, strict=True):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(content)
    return f"{out}: {len(paths)} photos, {size / 1e6:.1f} MB, WebP at quality {quality}"
