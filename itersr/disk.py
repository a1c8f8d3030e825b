"""Files that appear whole or not at all, and one line for whatever is wrong with a file."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO


def shown(path: str | os.PathLike[str]) -> str:
    """A path as one line of text that every terminal takes: names may hold line breaks and bytes that are no text."""
    name = os.fspath(path)
    return name if name.isprintable() else repr(name)


def listed(paths: Iterable[str | os.PathLike[str]], most: int = 10) -> str:
    """Paths in one line: the first ones, and how many more there are."""
    names = [shown(path) for path in paths]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


class FileError(Exception):
    """A file that cannot be used: its path, what is wrong with it, and the cure, in one line."""

    def __init__(self, path: str | os.PathLike[str], what: str, cure: str) -> None:
        super().__init__(" ".join(f"{shown(path)}: {what}; {cure}".split()))


class WriteError(FileError):
    """An output that could not be written. Nothing is left at its path that was not there before."""


@contextlib.contextmanager
def writing(target: Path) -> Iterator[None]:
    """What keeps the block from writing becomes a WriteError that names `target`."""
    try:
        yield
    except OSError as error:
        raise WriteError(target, f"cannot be written ({error.strerror or error})", "write elsewhere (-o)") from error


def check_place(path: Path) -> os.stat_result | None:
    """What lies at `path` (None: nothing). FileError for a name that is too long, WriteError where nothing can be written."""
    if any(len(os.fsencode(part)) > 255 for part in path.parts):  # the system does not say so while the folder is missing
        raise FileError(path, "cannot be written (its name is too long)", "choose a shorter one")
    with writing(path):
        with contextlib.suppress(FileNotFoundError):
            return os.stat(path)
        folder = next(folder for folder in path.absolute().parents if folder.exists())
        if not os.access(folder, os.W_OK):
            raise PermissionError("Permission denied")
    return None


@contextlib.contextmanager
def whole_file(target: Path, part: Path | None = None) -> Iterator[IO[bytes]]:
    """A file that takes its name only when the block ends well; nothing is left of it otherwise, Ctrl-C included.

    It is written beside its place under a hidden name (or as `part`), flushed to the disk and then renamed. Folders are made
    where they are missing. WriteError where it cannot be.
    """
    mode, part = ("wb", part) if part else ("xb", target.with_name(f".{target.stem[:50]}.{secrets.token_hex(4)}.part"))
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(part, mode) as handle:
                yield handle
                handle.flush()
                os.fsync(handle.fileno())
            os.replace(part, target)
        finally:
            part.unlink(missing_ok=True)


def replace_file(target: Path, content: bytes | str) -> None:
    """Write a whole file at once: a kill leaves the old one or the new one, and of the new one at most one `.part`."""
    with whole_file(target, target.with_name(target.name + ".part")) as handle:
        handle.write(content.encode() if isinstance(content, str) else content)
