"""Take the wanted images out of a zip file, a tar file or a folder, whatever else it holds and whoever made it.

What is written gets a name made here, so no path of the archive reaches the disk. `zipfile` and `tarfile` see to the rest: both
give what a file's header states or say that it is damaged, and tarfile's data filter refuses devices and what leads outside.
"""

from __future__ import annotations

import gzip
import re
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from tqdm import tqdm

from . import PrepError
from .datasets import Archive, Dataset

# A RuntimeError is what zipfile says to a password or a packing that it does not know.
DAMAGED = (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error, RuntimeError)


def unpack(source: Path, archive: Archive, dataset: Dataset, target: Path, quiet: bool = False) -> None:
    """Write the images that `dataset.take` names from `source` (an archive or a folder) to target/FOLDER/NAME.ending.

    Raises PrepError for a damaged archive, one that holds more than `archive.limit` bytes of images, two images of one name
    (whatever their endings), or none.
    """
    try:
        _take(source, archive, dataset, target, quiet)
    except DAMAGED as error:
        raise PrepError(f"{source}: is damaged or no archive ({error}); delete it and run again") from error


def _take(source: Path, archive: Archive, dataset: Dataset, target: Path, quiet: bool) -> None:
    written, taken = 0, set[tuple[str, str]]()
    for path, size, opened in tqdm(_members(source), desc=f"unpack {source.name}", unit=" files", disable=quiet or None):
        where = PurePosixPath(path)
        matches = [(folder, re.fullmatch(pattern, path.removeprefix("./"))) for folder, pattern in dataset.take]
        found = [(folder, "_".join(filter(None, match.groups()))) for folder, match in matches if match]
        if not found or where.name.startswith(".") or "__MACOSX" in where.parts:
            continue
        folder, name = found[0]
        if not re.fullmatch(r"[\w+() -][\w.+() -]*", name):
            raise PrepError(f"{source}: holds a file with the odd name {path!r}")
        if (folder, name) in taken:  # patches and partners go by the name without its ending
            raise PrepError(f"{source}: holds {folder}/{name} twice (again as {path!r})")
        taken.add((folder, name))
        written += size
        if written > archive.limit:
            raise PrepError(f"{source}: holds more than {archive.limit:,} bytes of images; refused")
        (target / folder).mkdir(parents=True, exist_ok=True)
        with opened() as packed, (target / folder / (name + where.suffix.lower())).open("xb") as file:
            shutil.copyfileobj(packed, file)
    if not taken:
        raise PrepError(f"{source}: holds no image of {dataset.title} (looked for {[p for _, p in dataset.take]})")


def _members(source: Path) -> Iterator[tuple[str, int, Callable[[], Any]]]:
    """Path, stated size and opener of each file. A folder's paths begin with its own name, as they do inside the archive."""
    if source.is_dir():
        for path in sorted(source.rglob("*")):
            if path.is_file():
                yield path.relative_to(source.parent).as_posix(), path.stat().st_size, partial(path.open, "rb")
    elif tarfile.is_tarfile(source):
        with tarfile.open(source) as tar:
            for info in tar:
                if tarfile.data_filter(info, str(source.parent)).isreg():
                    yield info.name, info.size, partial(tar.extractfile, info)
    else:
        with zipfile.ZipFile(source) as archive:
            for entry in archive.infolist():
                if not entry.is_dir():
                    yield entry.filename, entry.file_size, partial(archive.open, entry)
