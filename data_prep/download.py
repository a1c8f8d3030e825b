"""Download one file so that a cut connection costs nothing and a wrong file is never taken for the right one."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import json
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from . import PrepError
from .datasets import Archive

CHUNK = 2**20
TRIES = 4  # of one address without a byte gained
PAUSE = 1.0  # seconds before the second try, doubled for each further one
TIMEOUT = 30.0  # seconds without a byte


class Unreachable(PrepError):
    """No address gave the file; another packing of the same images may do."""


class Wrong(Exception):
    """An address cannot give the file; the message is its reason, and the next address is tried."""


def obtain(archive: Archive, folder: Path, extra: Path | None = None, quiet: bool = False) -> Path:
    """The verified archive: from `extra` (a folder of the user's) or `folder` if it is there, else downloaded into `folder`.

    In `extra` an unpacked folder named as the archive without its endings is taken as well; its content cannot be verified.
    Raises Unreachable with every address and its reason if none gave the file, PrepError for what the user has to mend first.
    """
    for place in (extra, folder):
        if place is None:
            continue
        if (place / archive.file).is_file():
            verify(place / archive.file, archive, folder)
            return place / archive.file
        if (unpacked := place / bare_name(archive.file)).is_dir():
            return unpacked
    folder.mkdir(parents=True, exist_ok=True)
    reasons = []
    for address in archive.addresses:
        try:
            _download(address, archive, folder, quiet)
            return folder / archive.file
        except Wrong as reason:
            reasons.append(f"{address}: {reason}")
    raise Unreachable(f"{archive.file}: " + ("; ".join(reasons) or "has no address that a program can use"))


def bare_name(file: str) -> str:
    """The name of an archive without its endings: a.tar.gz becomes a."""
    for ending in (".tar.gz", ".tgz", ".tar", ".zip"):
        if file.endswith(ending):
            return file.removesuffix(ending)
    return file


def verify(path: Path, archive: Archive, folder: Path) -> None:
    """Compare size and checksum with the table or, where it has none, with the record of the first download.

    Raises PrepError naming both values. A first file without a published checksum is written down in checksums.json.
    """
    size = path.stat().st_size
    if archive.size is not None and size != archive.size:
        raise PrepError(f"{path}: has {size:,} bytes, need {archive.size:,}; delete it and run again")
    digest = sha256(path)
    record_path = folder / "checksums.json"
    record = _read_json(record_path)
    known = archive.sha256 or record.get(archive.file, {}).get("sha256")
    if known is not None and digest != known:
        where = "the table" if archive.sha256 else f"the first download, see {record_path}"
        raise PrepError(f"{path}: sha256 is {digest}, need {known} ({where}); delete it and run again")
    if record.get(archive.file, {}).get("sha256") != digest:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(record_path, json.dumps({**record, archive.file: {"sha256": digest, "size": size}}, indent=1) + "\n")


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(address: str, archive: Archive, folder: Path, quiet: bool) -> None:
    part = folder / f"{archive.file}.part"
    resumed = part.exists()
    _connect(address, archive, part, quiet)
    try:
        verify(part, archive, folder)
    except PrepError as error:
        _forget(part)
        if resumed:  # the older bytes may be at fault
            return _download(address, archive, folder, quiet)
        raise Wrong(str(error).replace("; delete it and run again", "").replace(str(part), "what it gave")) from error
    os.replace(part, folder / archive.file)
    _forget(part)


def _connect(address: str, archive: Archive, part: Path, quiet: bool) -> None:
    """Connect as often as it brings something, until all bytes are there."""
    folder, tries = part.parent, 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            return _transfer(address, archive, part, quiet)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code in (429, 500, 502, 503, 504):
                reason = f"answered {error.code} {error.reason}"
            else:
                raise Wrong(f"answered {error.code} {error.reason}") from error
        except (OSError, http.client.HTTPException) as error:  # urllib's URLError is an OSError
            if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
                raise PrepError(f"{folder}: no space left for {archive.file}; make room and run again to go on") from error
            if isinstance(error, PermissionError):
                raise PrepError(f"{folder}: cannot be written ({error.strerror})") from error
            reason = str(getattr(error, "reason", None) or error) or type(error).__name__
        after = part.stat().st_size if part.exists() else 0
        tries = 0 if after > before else tries + 1
        if tries >= TRIES:
            raise Wrong(f"{reason} ({TRIES} tries)")
        time.sleep(PAUSE * 2 ** max(0, tries - 1))


def _transfer(address: str, archive: Archive, part: Path, quiet: bool) -> None:
    """One connection: go on where `part` ends, if it came from this address and the file there is still the same."""
    state_path = part.with_suffix(".part.json")
    state = _read_json(state_path)
    have = part.stat().st_size if part.exists() else 0
    # Bytes of another mirror are only gone on with if the checksum of the whole is known beforehand.
    same = state.get("address") == address or archive.sha256 is not None
    headers = {"User-Agent": "itersr-data-prep", "Accept-Encoding": "identity"}
    if have and same:
        headers["Range"] = f"bytes={have}-"
        if state.get("address") == address and state.get("validator"):
            headers["If-Range"] = state["validator"]
    else:
        have = 0
    try:
        answer = urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        error.close()
        if have and error.headers.get("Content-Range", "").rpartition("/")[2] == str(have):
            return  # all of it was there already
        _forget(part)
        raise ConnectionError(f"could not go on at byte {have}") from error
    with answer:
        if answer.headers.get_content_type() == "text/html":
            raise Wrong("answered with a web page instead of the file")
        start, total = 0, None
        if answer.status == 206:
            first, _, whole = answer.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
            start, total = int(first.partition("-")[0]), int(whole) if whole.isdigit() else None
            if start != have:
                _forget(part)
                raise ConnectionError(f"asked for byte {have}, was given byte {start}")
        else:
            length = answer.headers.get("Content-Length")
            total = int(length) if length else None
        if archive.size is not None and total not in (None, archive.size):
            raise Wrong(f"offers {total:,} bytes, need {archive.size:,}")
        free = shutil.disk_usage(part.parent).free
        if total is not None and total - start > free:
            raise PrepError(
                f"{part.parent}: {archive.file} needs {(total - start) / 1e6:,.1f} MB more and {free / 1e6:,.1f} MB are free; "
                "make room and run again"
            )
        validator = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
        if validator and validator.startswith("W/"):
            validator = answer.headers.get("Last-Modified")
        write_whole(state_path, json.dumps({"address": address, "validator": validator}))
        bar = tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=archive.file, disable=quiet or None)
        # Unbuffered, and whatever has come: even a killed program has what was downloaded.
        with part.open("r+b" if start else "wb", buffering=0) as file, bar:
            file.seek(start)
            file.truncate()
            while chunk := answer.read1(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
            got = file.tell()
        if total is not None and got < total:
            raise ConnectionError(f"the connection ended after {got:,} of {total:,} bytes")


def _forget(part: Path) -> None:
    for path in (part, part.with_suffix(".part.json")):
        path.unlink(missing_ok=True)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    made = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield made
    finally:
        made.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Write a text file so that a reader meets all of it or what was there before."""
    with _temporary(path) as made:
        with made.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(made, path)
