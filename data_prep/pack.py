"""Copy folders of photos into a small one: WebP, at the highest quality that keeps the total below a given size."""

from __future__ import annotations

import io
from bisect import bisect_right
from functools import partial
from pathlib import Path

from PIL import Image
from tqdm.contrib.concurrent import thread_map

from . import PrepError
from .patches import pixels


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

    Bigger files come with higher quality: a bisection finds the highest one at which the total fits. Nothing is written before.

    Raises:
        PrepError: `out` holds something, a photo is damaged, two would have one name, or they do not fit at quality 1.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise PrepError(f"{out}: is there and not an empty folder, name another")
    photos = targets(folders)
    paths, budget = list(photos.values()), megabytes * 1e6

    def at(quality: int) -> list[bytes]:  # threads are enough: Pillow decodes and encodes outside Python's lock
        one = partial(encoded, quality=quality, longest=longest)
        return thread_map(one, paths, desc=f"quality {quality}", unit=" photos", disable=None)

    quality = 1 + bisect_right(range(2, 101), budget, key=lambda q: sum(map(len, at(q))))
    size = sum(map(len, data := at(quality)))
    if size > budget:
        raise PrepError(f"{len(paths)} photos take {size / 1e6:.1f} MB at quality 1: need --megabytes above it, or --longest")
    for name, content in zip(photos, data, strict=True):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(content)
    return f"{out}: {len(paths)} photos, {size / 1e6:.1f} MB, WebP at quality {quality}"
