"""From the table to a finished folder.

    ROOT/archives/FILE          what was downloaded; FILE.part while it is on its way
    ROOT/.work/NAME/            unpacked images and patches, while they are made
    ROOT/NAME/                  appears whole, by one rename: images and dataset.json

So a folder ROOT/NAME with a dataset.json is complete. After a stop the next run goes on with the download, and cuts anew.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

from . import PrepError
from .datasets import Dataset
from .download import NO_SPACE, obtain, read_json, sha256_of
from .patches import SIZE, cut, each, pixels
from .unpack import find_images

SEED = 0  # of the synthetic pairs


def prepare(dataset: Dataset, root: Path, size: int = SIZE) -> str:
    """Make ROOT/NAME if it is not there yet; returns a line that says what is there now.

    Raises PrepError with one line that says what to do; what was downloaded until then is kept.
    """
    final, work = root / dataset.name, root / ".work" / dataset.name
    if os.path.lexists(final):
        if read_json(final / "dataset.json").get("name") != dataset.name:
            raise PrepError(f"{final}: exists and was not made here; move it away or choose another --root")
        return f"{final}: was there already"
    made = work / "made"
    try:
        shutil.rmtree(work, ignore_errors=True)
        path, archive = obtain(dataset, root / "archives")
        images = find_images(path, dataset, work / "unpacked")
        if dataset.kind == "patches":
            count, left_out = cut({Path(name).name: image for name, image in images.items()}, made / "patches", size)
        else:
            count, left_out = _keep(images, made) if dataset.kind == "images" else _degrade(images, made)
        if not count:
            raise PrepError(f"{dataset.title}: no usable image; the first was left out because: {[*left_out.values()][0]}")
        missing = dataset.images - len(images)
        told = f"{count} {dataset.kind} from {len(images) - len(left_out)} images"
        told += f", {len(left_out)} left out" if left_out else ""
        told += f", {missing} fewer images than published" if missing > 0 else ""
        about = {"name": dataset.name, "title": dataset.title, "told": told, "left_out": left_out, "source": archive.file,
                 "sha256": archive.sha256 or (sha256_of(path) if path.is_file() else None),
                 "licence": dataset.licence, "citation": dataset.citation}
        (made / "dataset.json").write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        os.rename(made, final)  # it refuses what has appeared there meanwhile
        return f"{final}: {told}"
    except OSError as error:
        if error.errno in NO_SPACE:
            raise PrepError(f"{root}: no space left for {dataset.name}; make room and run again to go on") from error
        raise PrepError(f"{error.filename2 or error.filename or root}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)  # after a full disk the user needs the room


def _keep(images: dict[str, Path], made: Path) -> tuple[int, dict[str, str]]:
    """Copy images that have a partner in every folder (hq and lq, where there are two) into `made`; gives what `each` does."""
    folders = sorted({name.split("/")[0] for name in images})
    stems = {name.rpartition(".")[0] for name in images}
    for folder in folders:
        (made / folder).mkdir(parents=True)

    def one(name: str, path: Path) -> int:
        if not all(f"{folder}/{Path(name).stem}" in stems for folder in folders):
            raise ValueError("has no partner among " + " and ".join(folders))
        pixels(path)  # ValueError where it is damaged
        shutil.copyfile(path, made / name)
        return 1

    return each(one, images, "check")


def _degrade(images: dict[str, Path], made: Path) -> tuple[int, dict[str, str]]:
    """made/hq, made/lq and made/draws.jsonl: the same as `itersr degrade IN -o OUT --seed 0`, with the paper's ranges.

    HQ images are cut at the right and lower border to a multiple of 4. An LQ image depends on the seed and its file name alone.
    """
    from itersr.upscaling import files  # with PyTorch, which the other datasets do not need

    failures = files.degrade_files([*images.values()], made, seed=SEED, scale=4, force=True, progress=sys.stderr.isatty())
    if broken := [failure for failure in failures if not failure.usage]:  # the machine's fault: a full disk, say
        raise PrepError(f"{broken[0].message}; mend it and run again")
    return len(images) - len(failures), {Path(failure.source).name: failure.message for failure in failures}
