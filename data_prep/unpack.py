"""Take the wanted images out of a zip or tar file, whatever else it holds and whoever made it.

Every name in the archive is looked at before anything is written: a path that leads outside, a link or a device refuses the
whole archive. What is written gets a name made here, so that nothing of the archive's own paths reaches the disk.
"""

from __future__ import annotations

import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from tqdm import tqdm

from . import PrepError
from .datasets import Archive, Dataset

CHUNK = 2**20


@dataclass(frozen=True)
class Member:
    """One file in an archive: its path there, its stated size, and how to open it."""

    path: str
    size: int
    open: Callable[[], IO[bytes]]


def unpack(source: Path, archive: Archive, dataset: Dataset, target: Path, quiet: bool = False) -> None:
    """Write the images that `dataset.take` names from `source` (an archive or a folder) to target/FOLDER/NAME.ending.

    `target` is made anew. Raises PrepError for a damaged or hostile archive, one that holds more than `archive.limit` bytes,
    or one without a wanted image; `target` is gone then.
    """
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    try:
        with _opened(source) as members:
            _write(members, source, archive, dataset, target, quiet)
    except BaseException as error:
        shutil.rmtree(target, ignore_errors=True)
        if isinstance(error, (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, RuntimeError, NotImplementedError)):
            raise PrepError(f"{source}: is damaged or no archive ({error}); delete it and run again") from error
        raise


def _write(
    members: Iterator[Member], source: Path, archive: Archive, dataset: Dataset, target: Path, quiet: bool
) -> None:
    written, taken = 0, set()
    patterns = [(folder, re.compile(pattern)) for folder, pattern in dataset.take]
    for member in tqdm(members, desc=f"unpack {source.name}", unit=" files", disable=quiet or None):
        path = PurePosixPath(member.path)
        if path.name.startswith(".") or "__MACOSX" in path.parts:
            continue
        for folder, pattern in patterns:
            match = pattern.fullmatch(member.path.removeprefix("./"))
            if match is None:
                continue
            name = "_".join(group for group in match.groups() if group) + path.suffix.lower()
            if not re.fullmatch(r"[\w.+() -]+", name) or name.startswith("."):
                raise PrepError(f"{source}: holds a file with the odd name {member.path!r}")
            made = target / folder / name
            if made in taken:
                raise PrepError(f"{source}: holds {folder}/{name} twice (again as {member.path!r})")
            taken.add(made)
            if written + member.size > archive.limit:
                raise PrepError(f"{source}: holds more than {archive.limit:,} bytes of images; refused")
            made.parent.mkdir(exist_ok=True)
            with member.open() as packed, made.open("wb") as file:
                size = 0
                while chunk := packed.read(CHUNK):
                    size += len(chunk)
                    if size > member.size:
                        raise PrepError(f"{source}: {member.path!r} has more than the {member.size:,} bytes it states; refused")
                    file.write(chunk)
            if size < member.size:
                raise PrepError(f"{source}: {member.path!r} ends at byte {size:,} of {member.size:,}; delete it and run again")
            written += size
            break
    if not taken:
        raise PrepError(f"{source}: holds no image of {dataset.title} (looked for {[p for _, p in dataset.take]})")


class _opened:
    """The files of an archive or folder, each checked for where its path leads."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self.archive: zipfile.ZipFile | tarfile.TarFile | None = None

    def __enter__(self) -> Iterator[Member]:
        if self.source.is_dir():
            return self._folder()
        if zipfile.is_zipfile(self.source):
            self.archive = zipfile.ZipFile(self.source)
            return self._zip(self.archive)
        if tarfile.is_tarfile(self.source):
            self.archive = tarfile.open(self.source)
            return self._tar(self.archive)
        raise PrepError(f"{self.source}: is neither a zip nor a tar file; delete it and run again")

    def __exit__(self, *_: object) -> None:
        if self.archive is not None:
            self.archive.close()

    def _safe(self, name: str) -> str:
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or ":" in (path.parts or ("",))[0] or "\0" in name:
            raise PrepError(f"{self.source}: holds {name!r}, which leads outside its folder; refused")
        return path.as_posix()

    def _zip(self, archive: zipfile.ZipFile) -> Iterator[Member]:
        infos = archive.infolist()
        for info in infos:  # all of them before the first is written
            self._safe(info.filename)
            mode = info.external_attr >> 16
            if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise PrepError(f"{self.source}: holds {info.filename!r}, a link or device; refused")
        for info in infos:
            if not info.is_dir():
                yield Member(self._safe(info.filename), info.file_size, lambda info=info: archive.open(info))  # type: ignore[misc]

    def _tar(self, archive: tarfile.TarFile) -> Iterator[Member]:
        # A compressed tar has no table of contents, so each header is checked as it comes; a refusal removes what was written.
        for info in archive:
            path = self._safe(info.name)
            if info.isdir():
                continue
            if not info.isreg():
                raise PrepError(f"{self.source}: holds {info.name!r}, a link or device; refused")

            def opened(info: tarfile.TarInfo = info) -> IO[bytes]:
                file = archive.extractfile(info)
                assert file is not None  # a regular file has content
                return file

            yield Member(path, info.size, opened)

    def _folder(self) -> Iterator[Member]:
        for path in sorted(self.source.rglob("*")):
            if path.is_file():
                yield Member(path.relative_to(self.source).as_posix(), path.stat().st_size, lambda p=path: p.open("rb"))  # type: ignore[misc]
