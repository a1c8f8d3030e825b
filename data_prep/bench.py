"""What the course measures on, in one folder: `python -m data_prep bench`.

    ROOT/bench/test/kodak24     24 photos (Kodak lossless true color image suite; free to use)
    ROOT/bench/test/gb82        25 photos (gb82-image-set by Gianni Rosato; CC0 1.0)
    ROOT/bench/test/realsrset   20 low-quality pictures (RealSRSet; academic research)

and the weights of LPIPS and NIQE where PyTorch keeps such (TORCH_HOME). bench.json holds the sha256 of every photo's pixels.
Notebooks look into datasets/bench of the repository by themselves; any other place is named in ITERSR_BENCH.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from . import PrepError
from .datasets import TABLE, Archive
from .download import Wrong, fetch
from .patches import digest, pixels
from .prepare import prepare

_CORPUS = "https://raw.githubusercontent.com/imazen/codec-corpus/main"
_GB82 = "https://raw.githubusercontent.com/gianni-rosato/gb82-image-set/502f9f94cb73d1ad5c89ce06fe6b100d0a27df8f"
TABLE_OF_PHOTOS = Path(__file__).parent / "bench.json"
METRICS = ("lpips", "niqe")


def addresses(name: str) -> tuple[str, ...]:
    """Where a photo of bench.json can be had."""
    folder, file = name.split("/")
    if folder == "kodak24":
        return tuple(f"{place}/kodim{file}" for place in ("https://r0k.us/graphics/kodak/kodak", f"{_CORPUS}/kodak"))
    return tuple(f"{place}/{file}" for place in (f"{_GB82}/png", f"{_CORPUS}/gb82"))


def photo(name: str, sha256: str, bench: Path) -> None:
    """bench/test/NAME, unless it is there. PrepError with every address and its reason where none gives the same pixels."""
    target, reasons = bench / "test" / name, []

    def right(path: Path) -> bool:
        try:
            return path.exists() and digest(pixels(path)) == sha256
        except ValueError:  # damaged
            return False

    for address in addresses(name) if not right(target) else ():
        try:
            got = fetch(address, Archive(name.replace("/", "_"), (address,)), bench / ".downloads")
        except Wrong as reason:
            reasons.append(f"{address}: {reason}")
            continue
        if right(got):
            target.parent.mkdir(parents=True, exist_ok=True)
            got.replace(target)
            break
        reasons.append(f"{address}: gives another picture")
    if not right(target):
        raise PrepError(f"bench: {name}: {'; '.join(reasons)}. Put the photo there by hand as {target}, and run again")


def make(root: Path) -> str:
    """Make ROOT/bench, or complete it; gives a line that says what is there. PrepError names what cannot be had.

    What one place does not give is told at the end: all the rest is fetched.
    """
    bench, missing = root / "bench", list[str]()
    photos = json.loads(TABLE_OF_PHOTOS.read_text(encoding="utf-8"))
    (bench / ".downloads").mkdir(parents=True, exist_ok=True)
    for name, sha256 in photos.items():
        try:
            photo(name, sha256, bench)
        except PrepError as error:
            missing.append(str(error))
    shutil.rmtree(bench / ".downloads")
    try:
        prepare(next(dataset for dataset in TABLE if dataset.name == "realsrset"), root)
        shutil.copytree(root / "realsrset" / "lq", bench / "test" / "realsrset", dirs_exist_ok=True)
    except PrepError as error:
        missing.append(f"realsrset: {error}")
    missing += metric_weights()
    if missing:
        first = "; ".join(missing[:3]) + (f"; and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise PrepError(f"{len(missing)} of {len(photos) + 1 + len(METRICS)} parts of bench are missing: {first}")
    return f"{bench}: {len(photos)} photos, RealSRSet, and the weights of {' and '.join(METRICS)}"


def metric_weights() -> list[str]:
    """Fetch the weights of the metrics; gives what went wrong, a line for each metric."""
    from itersr.lab import metrics

    wrong = []
    for name in METRICS:
        try:
            metrics.fetch(name)
        except metrics.MetricUnavailable as error:
            wrong.append(str(error))
    return wrong
