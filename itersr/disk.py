"""Files that appear whole or not at all, and one line for whatever is wrong with a file."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO

_LOCKED = ("the folder may not be written to", "choose another folder (-o)")
_REASONS = {
    errno.ENOSPC: ("no space left on the disk", "free some or write elsewhere"),
    errno.EDQUOT: ("the disk quota is used up", "free some or write elsewhere"),
    errno.EACCES: _LOCKED,
    errno.EPERM: _LOCKED,
    errno.EROFS: _LOCKED,
}


def shown(path: str | os.PathLike[str]) -> str:
    """A path as one line of text that every terminal takes: names may hold line breaks and bytes that are no text."""
    name = os.fspath(path)
    return name if name.isprintable() else repr(name)


class FileError(Exception):
    """A file that cannot be used: its `path`, `what` is wrong with it, and the `cure`, told in one line."""

    def __init__(self, path: str | os.PathLike[str], what: str, cure: str) -> None:
        self.path, self.what, self.cure = os.fspath(path), what, cure
        super().__init__(" ".join(f"{shown(self.path)}: {what}; {cure}".split()))


class WriteError(FileError):
    """An output that could not be written. Nothing is left at its path that was not there before."""


@contextlib.contextmanager
def whole_file(target: Path) -> Iterator[IO[bytes]]:
    """A file that takes its name only when the block ends well; nothing is left of it otherwise, Ctrl-C included.

    It is written beside its place under a hidden name, flushed to the disk and then renamed. WriteError where it cannot be.
    """
    part = _beside(target)
    with _told(target):
        try:
            with open(part, "xb") as handle:
                yield handle
                handle.flush()
                os.fsync(handle.fileno())
            os.replace(part, target)
        finally:
            part.unlink(missing_ok=True)


def replace_file(target: Path, content: bytes | str) -> None:
    """Write a file of a training run: a kill leaves the old one or the new one. What it leaves of a third is used again."""
    part = target.with_name(target.name + ".part")
    with open(part, "wb") as handle:
        handle.write(content.encode() if isinstance(content, str) else content)
        handle.flush()
        os.fsync(handle.fileno())
    os.replace(part, target)


@contextlib.contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """The same for a folder with all that the block puts into it. No folder that holds anything is replaced."""
    part = _beside(target)
    with _told(target):
        try:
            part.mkdir(parents=True)
            yield part
            os.replace(part, target)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def _beside(target: Path) -> Path:
    return target.with_name(f".{target.stem[:50]}.{secrets.token_hex(4)}.part")


@contextlib.contextmanager
def _told(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason, cure = _REASONS.get(error.errno or 0, (error.strerror or str(error), "write elsewhere (-o)"))
        raise WriteError(target, f"cannot be written ({reason})", cure) from error
