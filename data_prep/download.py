"""Find an archive on disk or download it: a cut connection loses no byte, and a wrong file is never accepted.

Pooch and torch.hub begin again after a cut. Gdown goes on, but does not remember between two runs which address and which
state of the file its bytes are from. So this module asks for the missing bytes itself.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import json
import os
import shutil
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from tqdm import tqdm

from . import PrepError
from .datasets import Archive, Dataset

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
TRIES = 4  # of one address without a byte gained
PAUSE = 1.0  # seconds before the second try, doubled for each further one
TIMEOUT = 30.0  # seconds without a byte


class Wrong(Exception):
    """An address cannot give the file; the message is its reason, and the next address is tried."""


def obtain(dataset: Dataset, folder: Path, extra: Path | None = None, quiet: bool = False) -> tuple[Path, Archive]:
    """A verified archive: one in `extra` (a folder of the user's) or `folder`, else the first that can be had, in `folder`.

    On disk an unpacked folder named as the archive without its endings is taken as well; its content cannot be verified.
    Raises PrepError with every address and its reason if none gave a file, or for what the user has to mend first.
    """
    for archive in dataset.archives:
        for place in [folder] if extra is None else [extra, folder]:
            path = place / archive.file
            if path.is_file():
                if wrong := fault(path, archive, folder):
                    raise PrepError(f"{path}: {wrong}; delete it and run again")
                return path, archive
            if (unpacked := place / Path(archive.file.removesuffix(".gz")).stem).is_dir():
                return unpacked, archive
    folder.mkdir(parents=True, exist_ok=True)
    reasons = []
    for archive in dataset.archives:
        for address in archive.addresses:
            try:
                return _download(address, archive, folder, quiet), archive
            except Wrong as reason:
                reasons.append(f"{address}: {reason}")
        if not archive.addresses:
            reasons.append(f"{archive.file}: has no address that a program can use")
    files = " or ".join(archive.file for archive in dataset.archives)
    raise PrepError(f"{dataset.title}: {'; '.join(reasons)}. Get it by hand from {dataset.by_hand}, put it as {files} into a "
                    "folder, and run again with --archive-dir FOLDER")


def fault(path: Path, archive: Archive, folder: Path) -> str:
    """What is wrong with size or checksum, by the table or, where it has none, by the record of the first download.

    "" if nothing is; a first file without a published checksum is then written down in checksums.json.
    """
    size = path.stat().st_size
    if archive.size is not None and size != archive.size:
        return f"has {size:,} bytes, need {archive.size:,}"
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    record = read_json(folder / "checksums.json")
    first = record.get(archive.file, {}).get("sha256")
    known = archive.sha256 or first or digest
    if digest != known:
        where = "the table" if archive.sha256 else f"the first download, see {folder / 'checksums.json'}"
        return f"sha256 is {digest}, need {known} ({where})"
    if first != digest:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / "checksums.json", json.dumps({**record, archive.file: {"sha256": digest, "size": size}}, indent=1))
    return ""


def _download(address: str, archive: Archive, folder: Path, quiet: bool) -> Path:
    """Connect as often as it brings something, until all bytes are there and right."""
    part, state, final = (folder / f"{archive.file}{ending}" for ending in (".part", ".part.json", ""))
    resumed, tries, reason = part.exists(), 0, ""
    while tries < TRIES:
        before = _size(part)
        try:
            _transfer(address, archive, part, state, quiet)
            break
        except (OSError, http.client.HTTPException) as error:  # urllib's errors are OSErrors
            if isinstance(error, PermissionError) or getattr(error, "errno", None) in NO_SPACE:
                raise
            reason = str(getattr(error, "reason", None) or error) or type(error).__name__
            if isinstance(error, urllib.error.HTTPError):
                reason = f"answered {error.code} {error.reason}"
                if error.code == 416:  # it has fewer bytes than are here: they are others
                    part.unlink(missing_ok=True)
                elif error.code not in (429, 500, 502, 503, 504):
                    raise Wrong(reason) from error
        tries = 0 if _size(part) > before else tries + 1
        time.sleep(PAUSE * 2 ** max(0, tries - 1) if tries < TRIES else 0)
    else:
        raise Wrong(f"{reason} ({TRIES} tries)")
    wrong = fault(part, archive, folder)
    if not wrong:
        put(part, final)
    part.unlink(missing_ok=True)
    state.unlink(missing_ok=True)
    if not wrong:
        return final
    if resumed:  # the older bytes may be at fault
        return _download(address, archive, folder, quiet)
    raise Wrong(f"what it gave: {wrong}")


def _transfer(address: str, archive: Archive, part: Path, state: Path, quiet: bool) -> None:
    """One connection: go on where `part` ends, if it came from this address and the file there is still the same."""
    last, have = read_json(state), _size(part)
    here = last.get("address") == address
    if here and have and have == last.get("total"):
        return  # a stop came after the last byte
    headers = {"User-Agent": "itersr-data-prep", "Accept-Encoding": "identity"}
    # Bytes of another mirror are only continued if the checksum of the whole is known beforehand.
    if have and (here or archive.sha256):
        headers["Range"] = f"bytes={have}-"
        if here and last.get("validator"):
            headers["If-Range"] = last["validator"]  # the whole file comes if it has changed
    with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=TIMEOUT) as answer:
        if answer.headers.get_content_type() == "text/html":
            raise Wrong("answered with a web page instead of the file")
        start = have if answer.status == 206 else 0
        if start and not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            part.unlink()
            raise ConnectionError(f"asked for byte {have}, was given others")
        length = answer.headers.get("Content-Length")
        total = start + int(length) if length else None
        if archive.size is not None and total not in (None, archive.size):
            raise Wrong(f"offers {total:,} bytes, need {archive.size:,}")
        missing, free = (total or start) - start, shutil.disk_usage(part.parent).free
        if missing > free:
            room = f"{missing / 1e6:,.1f} MB more and {free / 1e6:,.1f} MB are free"
            raise PrepError(f"{part.parent}: {archive.file} needs {room}; make room and run again")
        tag = answer.headers.get("ETag") or "W/"
        validator = answer.headers.get("Last-Modified") if tag.startswith("W/") else tag  # a weak tag is not for ranges
        bar = tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=archive.file, disable=quiet or None)
        with part.open("ab" if start else "wb") as file, bar:
            # After the opening, which empties the file: a stop between the two must not call other bytes these.
            write_whole(state, json.dumps({"address": address, "validator": validator, "total": total}))
            while chunk := answer.read1(2**20):
                file.write(chunk)
                file.flush()  # even a killed program has what has come
                bar.update(len(chunk))
    if total is not None and (got := _size(part)) < total:
        raise ConnectionError(f"the connection ended after {got:,} of {total:,} bytes")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def read_json(path: Path) -> dict[str, Any]:
    """What a JSON file says; nothing if it is not there or damaged."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def write_whole(path: Path, text: str) -> None:
    """Write a text file so that a reader meets all of it or what was there before."""
    made = path.with_name(f".{path.name}.tmp")
    made.write_text(text, encoding="utf-8")
    os.replace(made, path)


def put(made: Path, final: Path) -> None:
    """Give what was made its name, unless something else has it by now."""
    if os.path.lexists(final):
        raise PrepError(f"{final}: has appeared meanwhile and is left as it is; run again")
    os.replace(made, final)
