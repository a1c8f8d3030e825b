"""From the table to a finished folder.

    ROOT/archives/FILE          what was downloaded; FILE.part while it is on its way
    ROOT/.work/NAME/            unpacked images, patches so far, a journal of the images done
    ROOT/NAME/                  appears whole, by one rename: images, manifest.jsonl, dataset.json

So a folder ROOT/NAME with a dataset.json is complete, and a stop at any moment costs at most the image in hand.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from . import PrepError
from .datasets import Archive, Dataset
from .download import Unreachable, obtain, write_whole
from .pairs import make_pairs
from .patches import SIZE, cut, digest, pixels
from .unpack import unpack


def prepare(
    dataset: Dataset, root: Path, jobs: int = 1, archive_dir: Path | None = None, size: int = SIZE, quiet: bool = False
) -> str:
    """Make ROOT/NAME if it is not there yet; returns a line that says what is there now.

    Raises PrepError with one line that says what to do. What was done until then is kept, and a further call goes on from it.
    """
    final = root / dataset.name
    spec = {"kind": dataset.kind, "take": [list(pair) for pair in dataset.take], "size": size}
    if final.exists():
        return _check_done(final, json.loads(json.dumps(spec)))
    work = root / ".work" / dataset.name
    try:
        work.mkdir(parents=True, exist_ok=True)
        source = _unpacked(dataset, spec, root, work, archive_dir, quiet)
        made = work / "made"
        make = {"patches": _patches, "images": _images, "pairs": _pairs}[dataset.kind]
        lines, left_out = make(work, made, jobs, size, quiet)
        if not lines:
            raise PrepError(f"{dataset.title}: no usable image; the first was left out because: {left_out[0]['left_out']}")
        about: dict[str, Any] = {
            "name": dataset.name, "title": dataset.title, "spec": spec, "source": source, "entries": len(lines),
            "sources": len({line["source"] for line in lines}), "sources_expected": dataset.images, "left_out": left_out,
            "licence": dataset.licence, "citation": dataset.citation,
        }  # fmt: skip
        write_whole(made / "manifest.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
        write_whole(made / "dataset.json", json.dumps(about, indent=1, ensure_ascii=False) + "\n")
        os.replace(made, final)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise PrepError(f"{root}: no space left for {dataset.name}; make room and run again to go on") from error
        raise PrepError(f"{error.filename or root}: {error.strerror or error}") from error
    shutil.rmtree(work, ignore_errors=True)
    return _told(final, about)


def _check_done(final: Path, spec: dict[str, Any]) -> str:
    try:
        about = json.loads((final / "dataset.json").read_text())
        same = about["spec"] == spec
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PrepError(f"{final}: exists and was not made here; move it away or choose another --root") from error
    if not same:
        raise PrepError(f"{final}: was made with other settings ({about['spec']}); delete it to make it again")
    return _told(final, about) + " (was there already)"


def _told(final: Path, about: dict[str, Any]) -> str:
    missing = about["sources_expected"] - about["sources"] - len(about["left_out"])
    line = f"{final}: {about['entries']} {about['spec']['kind']} from {about['sources']} images"
    line += f", {len(about['left_out'])} left out" if about["left_out"] else ""
    return line + (f", {missing} fewer images than published" if missing > 0 else "")


def _unpacked(
    dataset: Dataset, spec: dict[str, Any], root: Path, work: Path, archive_dir: Path | None, quiet: bool
) -> dict[str, Any]:
    """Fill work/unpacked from the first archive that can be had; returns what it was."""
    note = work / "source.json"
    if (work / "unpacked").exists() and note.exists():
        source = json.loads(note.read_text())
        if source.pop("spec") == json.loads(json.dumps(spec)):
            return source
    shutil.rmtree(work)
    work.mkdir()
    path, archive = _archive(dataset, root, archive_dir, quiet)
    unpack(path, archive, dataset, work / "unpacking", quiet)
    record = json.loads((root / "archives" / "checksums.json").read_text()) if path.is_file() else {}
    source = {**asdict(archive), **record.get(archive.file, {})}
    source = {key: source[key] for key in ("file", "addresses", "size", "sha256")}
    write_whole(note, json.dumps({**source, "spec": spec}))
    os.replace(work / "unpacking", work / "unpacked")
    return json.loads(json.dumps(source))


def _archive(dataset: Dataset, root: Path, archive_dir: Path | None, quiet: bool) -> tuple[Path, Archive]:
    reasons = []
    # What is on disk already comes before any download, whichever packing it is.
    for archive in dataset.archives:
        with contextlib.suppress(Unreachable):
            return obtain(replace(archive, addresses=()), root / "archives", archive_dir), archive
    for archive in dataset.archives:
        try:
            return obtain(archive, root / "archives", archive_dir, quiet), archive
        except Unreachable as error:
            reasons.append(str(error))
    files = " or ".join(archive.file for archive in dataset.archives)
    raise PrepError(
        f"{dataset.title}: {'; '.join(reasons)}. Get it by hand from {dataset.by_hand}, put it as {files} into a folder, "
        "and run again with --archive-dir FOLDER"
    )


Made = tuple[list[dict[str, Any]], list[dict[str, Any]]]  # manifest lines, images left out


def _patches(work: Path, made: Path, jobs: int, size: int, quiet: bool) -> Made:
    done = cut(work / "unpacked" / "hq", made / "patches", work / "journal.jsonl", jobs, size, quiet)
    lines = [line for image in done for line in image.get("patches", ())]
    wanted = {line["patch"] for line in lines}
    for path in (made / "patches").iterdir():  # a stop may have left patches of an image that was left out later
        if path.name not in wanted:
            path.unlink()
    return lines, [image for image in done if "left_out" in image]


def _images(work: Path, made: Path, jobs: int, size: int, quiet: bool) -> Made:
    shutil.rmtree(made, ignore_errors=True)
    folders = sorted(path for path in (work / "unpacked").iterdir())
    stems = [{path.stem for path in folder.iterdir()} for folder in folders]
    for folder in folders:
        (made / folder.name).mkdir(parents=True)

    def one(path: Path) -> dict[str, Any]:
        source = f"{path.parent.name}/{path.name}"
        if not all(path.stem in others for others in stems):
            return {"source": source, "left_out": "has no partner among " + " and ".join(f.name for f in folders)}
        try:
            rgb = pixels(path)
        except ValueError as error:
            return {"source": source, "left_out": str(error)}
        shutil.copyfile(path, made / source)
        return {"image": source, "source": source, "box": [0, 0, rgb.shape[1], rgb.shape[0]], "sha256": digest(rgb)}

    lines = _in_parallel(one, [path for folder in folders for path in sorted(folder.iterdir())], jobs, "check", quiet)
    return [line for line in lines if "image" in line], [line for line in lines if "left_out" in line]


def _in_parallel(
    one: Callable[[Path], dict[str, Any]], paths: Sequence[Path], jobs: int, what: str, quiet: bool
) -> list[dict[str, Any]]:
    pool = ThreadPoolExecutor(jobs)
    try:
        return list(tqdm(pool.map(one, paths), total=len(paths), desc=what, unit=" images", disable=quiet or None))
    finally:
        pool.shutdown(cancel_futures=True)  # a stop waits for those in hand alone


def _pairs(work: Path, made: Path, jobs: int, size: int, quiet: bool) -> Made:
    shutil.rmtree(made, ignore_errors=True)
    left_out = [
        {"source": file, "left_out": reason} for file, reason in make_pairs(work / "unpacked" / "hq", made, quiet=quiet)
    ]

    def one(path: Path) -> dict[str, Any]:
        hq, lq = pixels(made / "hq" / path.name), pixels(path)
        box = [0, 0, hq.shape[1], hq.shape[0]]
        return {"image": f"lq/{path.name}", "source": path.name, "box": box, "sha256": digest(lq), "sha256_hq": digest(hq)}

    paths = sorted((made / "lq").iterdir()) if (made / "lq").exists() else []
    return _in_parallel(one, paths, jobs, "check", quiet), left_out
