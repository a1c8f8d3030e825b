"""Find the wanted images in a folder, or take them alone out of a zip or tar file.

`zipfile` and `tarfile` let nothing be written outside the folder, see when a file is damaged, and refuse devices.
"""

from __future__ import annotations

import gzip
import re
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from . import PrepError
from .datasets import Dataset

# A RuntimeError is what zipfile says to a password or a packing that it does not know.
DAMAGED = (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error, RuntimeError)


def find_images(source: Path, dataset: Dataset, scratch: Path) -> dict[str, Path]:
    """The images that `dataset.take` names, {"FOLDER/NAME.ending": file}; those of an archive are unpacked into `scratch`.

    source: a zip file, a tar file or a folder, whose paths begin with its own name, as they do inside the archive.
    Raises PrepError for a damaged archive, an odd name, two images of one name (whatever their endings), or none.
    """
    if source.is_file():
        try:
            _extract(source, dataset, scratch)
        except DAMAGED as error:
            raise PrepError(f"{source}: is damaged or no archive ({error}); delete it and run again") from error
    top, root = (scratch, scratch) if source.is_file() else (source, source.parent)
    found: dict[str, Path] = {}
    stems = set[str]()  # patches and partners go by the name without its ending
    for path in sorted(path for path in top.rglob("*") if path.is_file()):
        if name := wanted(path.relative_to(root).as_posix(), dataset):
            stem = name.rpartition(".")[0]
            if stem in stems:
                raise PrepError(f"{source}: holds {stem} twice (again as {path.relative_to(root).as_posix()!r})")
            stems.add(stem)
            found[name] = path
    if not found:
        raise PrepError(f"{source}: holds no image of {dataset.title} (looked for {[p for _, p in dataset.take]})")
    return found


def wanted(path: str, dataset: Dataset) -> str:
    """The name FOLDER/NAME.ending that a file gets, "" where it is not wanted. PrepError where it could lead elsewhere."""
    where = PurePosixPath(path)
    if where.name.startswith(".") or "__MACOSX" in where.parts:
        return ""
    for folder, pattern in dataset.take:
        if match := re.fullmatch(pattern, str(where)):
            name = "_".join(filter(None, match.groups()))
            if not re.fullmatch(r"[\w+() -][\w.+() -]*", name):
                raise PrepError(f"{path!r} is an odd name in an archive of {dataset.title}")
            return f"{folder}/{name}{where.suffix.lower()}"
    return ""


def _extract(source: Path, dataset: Dataset, target: Path) -> None:
    if tarfile.is_tarfile(source):
        with tarfile.open(source) as tar:
            for member in tqdm(tar, f"unpack {source.name}", unit=" files", disable=None):
                if wanted(member.name, dataset):
                    tar.extract(member, target, filter="data")
    else:
        with zipfile.ZipFile(source) as archive:
            for name in tqdm(archive.namelist(), f"unpack {source.name}", unit=" files", disable=None):
                if wanted(name, dataset):
                    archive.extract(name, target)
