"""From the table to a finished folder.

    ROOT/archives/FILE          what was downloaded; FILE.part while it is on its way
    ROOT/.work/NAME/            unpacked images and patches, while they are made
    ROOT/NAME/                  appears whole, by one rename: images, manifest.jsonl, dataset.json

So a folder ROOT/NAME with a dataset.json is complete. After a stop the next run goes on with the download, and cuts anew.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from . import PrepError
from .datasets import Dataset
from .download import NO_SPACE, obtain, put, read_json, write_whole
from .patches import SIZE, Line, cut, digest, each, pixels
from .unpack import unpack

SEED = 0  # of the synthetic pairs


def prepare(dataset: Dataset, root: Path, jobs: int = 1, archive_dir: Path | None = None, size: int = SIZE,
            quiet: bool = False) -> str:
    """Make ROOT/NAME if it is not there yet; returns a line that says what is there now.

    Raises PrepError with one line that says what to do; what was downloaded until then is kept.
    """
    final, work = root / dataset.name, root / ".work" / dataset.name
    spec = json.loads(json.dumps({"kind": dataset.kind, "take": dataset.take, "size": size}))
    if os.path.lexists(final):
        about = read_json(final / "dataset.json")
        if "spec" not in about:
            raise PrepError(f"{final}: exists and was not made here; move it away or choose another --root")
        if about["spec"] != spec:
            raise PrepError(f"{final}: was made with other settings ({about['spec']}); delete it to make it again")
        return _told(final, about) + " (was there already)"
    if archive_dir is not None and archive_dir.resolve().is_relative_to(work.resolve()):
        raise PrepError(f"{archive_dir}: lies in {work}, which is deleted in the end; move it elsewhere")
    made = work / "made"
    make = {"patches": _patches, "images": _images, "pairs": _pairs}[dataset.kind]
    try:
        shutil.rmtree(work, ignore_errors=True)
        path, archive = obtain(dataset, root / "archives", archive_dir, quiet)
        unpack(path, archive, dataset, work / "unpacked", quiet)
        done = make(work / "unpacked", made, jobs, size, quiet)
        lines = [line for line in done if "left_out" not in line]
        left_out = [line for line in done if "left_out" in line]
        if not lines:
            raise PrepError(f"{dataset.title}: no usable image; the first was left out because: {left_out[0]['left_out']}")
        known = read_json(root / "archives" / "checksums.json").get(archive.file, {}) if path.is_file() else {}
        source = {"file": archive.file, "addresses": archive.addresses, "size": archive.size, "sha256": archive.sha256, **known}
        about = {"name": dataset.name, "title": dataset.title, "spec": spec, "source": source, "entries": len(lines),
                 "sources": len({line["source"] for line in lines}), "sources_expected": dataset.images,
                 "left_out": left_out, "licence": dataset.licence, "citation": dataset.citation}
        write_whole(made / "manifest.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
        write_whole(made / "dataset.json", json.dumps(about, indent=1, ensure_ascii=False) + "\n")
        put(made, final)
        return _told(final, about)
    except OSError as error:
        if error.errno in NO_SPACE:
            raise PrepError(f"{root}: no space left for {dataset.name}; make room and run again to go on") from error
        raise PrepError(f"{error.filename or root}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)  # after a full disk the user needs the room


def _told(final: Path, about: dict[str, Any]) -> str:
    missing = about["sources_expected"] - about["sources"] - len(about["left_out"])
    line = f"{final}: {about['entries']} {about['spec']['kind']} from {about['sources']} images"
    line += f", {len(about['left_out'])} left out" if about["left_out"] else ""
    return line + (f", {missing} fewer images than published" if missing > 0 else "")


# Each of these makes the folder `made` from the unpacked images; returns the manifest's lines and those of images left out.


def _patches(unpacked: Path, made: Path, jobs: int, size: int, quiet: bool) -> list[Line]:
    done = cut(unpacked / "hq", made / "patches", jobs, size, quiet)
    return [line for image in done for line in image.get("patches", [image])]


def _images(unpacked: Path, made: Path, jobs: int, size: int, quiet: bool) -> list[Line]:
    stems = {folder.name: {path.stem for path in folder.iterdir()} for folder in sorted(unpacked.iterdir())}
    for folder in stems:
        (made / folder).mkdir(parents=True)

    def one(source: str) -> Line:
        if not all(Path(source).stem in others for others in stems.values()):
            raise ValueError("has no partner among " + " and ".join(stems))
        rgb = pixels(unpacked / source)
        shutil.copyfile(unpacked / source, made / source)
        return {"image": source, "box": [0, 0, rgb.shape[1], rgb.shape[0]], "sha256": digest(rgb)}

    sources = sorted(path.relative_to(unpacked).as_posix() for path in unpacked.glob("*/*"))
    return list(each(one, sources, jobs, "check", quiet))


def _pairs(unpacked: Path, made: Path, jobs: int, size: int, quiet: bool) -> list[Line]:
    """made/hq, made/lq and made/draws.jsonl: the same as `itersr degrade IN -o OUT --seed 0`, with the paper's ranges.

    HQ images are cut at the right and lower border to a multiple of 4. An LQ image depends on the seed and its file name alone.
    """
    from itersr.upscaling import files  # with PyTorch, which the other datasets do not need

    failures = files.degrade_files([unpacked / "hq"], made, seed=SEED, scale=4, force=True, progress=not quiet)
    if broken := [failure for failure in failures if not failure.usage]:  # the machine's fault: a full disk, say
        raise PrepError(f"{broken[0].message}; mend it and run again")

    def one(source: str) -> Line:
        hq, lq = pixels(made / "hq" / source), pixels(made / "lq" / source)
        box = [0, 0, hq.shape[1], hq.shape[0]]
        return {"image": f"lq/{source}", "box": box, "sha256": digest(lq), "sha256_hq": digest(hq)}

    left_out = [{"source": Path(failure.source).name, "left_out": failure.message} for failure in failures]
    return left_out + list(each(one, sorted(path.name for path in made.glob("lq/*")), jobs, "check", quiet))
