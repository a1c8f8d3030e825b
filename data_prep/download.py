"""Find an archive on disk or download it: a cut connection loses no byte, and a wrong file is never accepted.

Pooch and torch.hub begin again after a cut. Gdown goes on, but does not remember between two runs which address and which
state of the file its bytes are from. So this module asks for the missing bytes itself.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import json
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


def obtain(dataset: Dataset, folder: Path) -> tuple[Path, Archive]:
    """A verified archive: one that lies in `folder` already, else the first that can be had.

    An unpacked folder named as the archive without its endings is taken as well; its content cannot be verified.
    Raises PrepError with every address and its reason if none gave a file, or for what the user has to mend first.
    """
    for archive in dataset.archives:
        path = folder / archive.file
        if path.is_file():
            if wrong := fault(path, archive):
                raise PrepError(f"{path}: {wrong}; delete it and run again")
            return path, archive
        if (unpacked := folder / Path(archive.file.removesuffix(".gz")).stem).is_dir():
            return unpacked, archive
    folder.mkdir(parents=True, exist_ok=True)
    reasons = []
    for archive in dataset.archives:
        for address in archive.addresses:
            try:
                return fetch(address, archive, folder), archive
            except Wrong as reason:
                reasons.append(f"{address}: {reason}")
        if not archive.addresses:
            reasons.append(f"{archive.file}: has no address that a program can use")
    files = " or ".join(archive.file for archive in dataset.archives)
    raise PrepError(f"{dataset.title}: {'; '.join(reasons)}. Get it by hand from {dataset.by_hand}, put it as {files} into "
                    f"{folder}, and run again")


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fault(path: Path, archive: Archive) -> str:
    """What is wrong with a file's size or checksum by the table, "" if nothing is."""
    size = path.stat().st_size
    if archive.size not in (None, size):
        return f"has {size:,} bytes, need {archive.size:,}"
    if archive.sha256 and (digest := sha256_of(path)) != archive.sha256:
        return f"sha256 is {digest}, need {archive.sha256}"
    return ""


def fetch(address: str, archive: Archive, folder: Path) -> Path:
    """Connect as often as it brings something, until all bytes are there and right: folder/FILE. Wrong says why not."""
    part, state = folder / f"{archive.file}.part", folder / f"{archive.file}.part.json"
    tries, reason = 0, ""
    while tries < TRIES:
        before = _size(part)
        try:
            _transfer(address, archive, part, state)
            break
        except (OSError, http.client.HTTPException) as error:  # urllib's errors are OSErrors
            if isinstance(error, PermissionError) or getattr(error, "errno", None) in NO_SPACE:
                raise
            reason = str(error) or type(error).__name__
            if isinstance(error, urllib.error.HTTPError) and error.code not in (429, 500, 502, 503, 504):
                raise Wrong(reason) from error
        tries = 0 if _size(part) > before else tries + 1
        time.sleep(PAUSE * 2 ** max(0, tries - 1) if tries < TRIES else 0)
    else:
        raise Wrong(f"{reason} ({TRIES} tries)")
    wrong = fault(part, archive)
    state.unlink()
    if wrong:
        part.unlink()
        raise Wrong(f"what it gave: {wrong}")
    return part.replace(folder / archive.file)


def _transfer(address: str, archive: Archive, part: Path, state: Path) -> None:
    """One connection: go on where `part` ends, if it came from this address and the file there is known to be the same."""
    last, have = read_json(state), _size(part)
    same = last.get("address") == address
    if same and have and have == last["total"]:
        return  # a stop came after the last byte
    headers = {"User-Agent": "itersr-data-prep", "Accept-Encoding": "identity"}
    if same and have and last["validator"]:
        headers |= {"Range": f"bytes={have}-", "If-Range": last["validator"]}  # the whole file comes if it has changed
    with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=TIMEOUT) as answer:
        if answer.headers.get_content_type() == "text/html":
            raise Wrong("answered with a web page instead of the file")
        start = have if answer.status == 206 else 0
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
        bar = tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=archive.file, disable=None)
        with part.open("ab" if start else "wb") as file, bar:
            # After the opening, which empties the file: a stop between the two must not call other bytes these.
            state.write_text(json.dumps({"address": address, "validator": validator, "total": total}))
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
