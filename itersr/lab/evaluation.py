"""Folders of results, measured the same way: what `itersr evaluate` does (the paper's Table 1, for any method's outputs)."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from itersr.disk import listed, shown
from itersr.lab import metrics
from itersr.upscaling.read import ImageError, image_files, read

log = logging.getLogger(__name__)


def pair(folder: str | os.PathLike[str], reference: str | os.PathLike[str]) -> dict[Path, Path | None]:
    """Each image below `reference` and its output, None where there is none: that of the same name in the same subfolder of
    `folder`, or one that begins with it and with no longer one, as `a/Lincoln_BSRGAN.png` for `a/Lincoln.png`.

    A suffix may differ, but of `x.png` and `x.jpg` the output `x_out.png` has the first.

    Raises:
        ImageError: an output without a reference, or with two that fit; two outputs of one reference.
    """
    pairs: dict[Path, Path | None] = dict.fromkeys(image_files(reference))
    for output in image_files(folder):
        place = Path(reference, output.relative_to(folder).parent)
        fitting = [file for file in pairs if file.parent == place and f"{output.stem}_".startswith(f"{file.stem}_")]
        longest = [file for file in fitting if len(file.stem) == max(len(other.stem) for other in fitting)]
        same = [file for file in longest if file.suffix.lower() == output.suffix.lower()]
        found = same if len(same) == 1 else longest
        if not found:
            cure = f"give both the same name in the same folder below {reference}; a _suffix on the output is fine"
            raise ImageError(output, "has no reference", cure)
        if len(found) > 1:
            raise ImageError(output, f"has the references {shown(found[0])} and {shown(found[1])}", "leave one")
        twin, pairs[found[0]] = pairs[found[0]], output
        if twin is not None:
            raise ImageError(output, f"has the same reference as {shown(twin)}: {shown(found[0])}", "leave one")
    return pairs


def measure(
    folder: str | os.PathLike[str],
    names: Sequence[str],
    reference: str | os.PathLike[str] | None = None,
    device: str | torch.device = "cpu",
    progress: bool = False,
) -> list[dict[str, Any]]:
    """Score every image of a folder: tidy rows {"image", "metric", "value"}, images in order of name.

    Raises:
        ImageError: no images, a damaged one, an output without a reference or of another size.
        MetricUnavailable, ValueError: see `metrics.score`.
    """
    from tqdm import tqdm

    jobs: list[tuple[Path, Path | None]]
    if reference is None:
        jobs = [(path, None) for path in image_files(folder)]
    else:
        pairs = pair(folder, reference)
        jobs = sorted((output, original) for original, output in pairs.items() if output is not None)
        if missing := [original for original, output in pairs.items() if output is None]:
            log.warning("%s: no result for %d of the references: %s", shown(folder), len(missing), listed(missing))
    rows: list[dict[str, Any]] = []
    for path, original in tqdm(jobs, unit="image", desc=str(folder), disable=not progress):
        image = read(path)
        other = None if original is None else read(original)
        if other is not None and other.size != image.size:
            (h, w), (rh, rw) = image.size, other.size
            raise ImageError(path, f"is {w}×{h}, its reference {original} is {rw}×{rh}", "compare pictures of one size")
        for name in names:
            full = metrics.find(name).needs_reference
            try:
                value = metrics.score(name, image, other if full else None, device)
            except ValueError as error:
                raise ImageError(path, str(error), "leave that metric or that image out") from error
            rows.append({"image": path.relative_to(folder).as_posix(), "metric": name, "value": float(value)})
    return rows


def summarise(rows: Sequence[Mapping[str, Any]], seed: int = 0) -> dict[str, dict[str, float | int | None]]:
    """Mean and 95 % bootstrap interval over the images, for each metric: {metric: {"mean", "low", "high", "n"}}.

    One image has no interval: its bounds are None.
    """
    result: dict[str, dict[str, float | int | None]] = {}
    for name in dict.fromkeys(row["metric"] for row in rows):
        values = [row["value"] for row in rows if row["metric"] == name]
        if len(values) == 1:
            result[name] = {"mean": values[0], "low": None, "high": None, "n": 1}
            continue
        interval = metrics.mean_interval(values, torch.Generator().manual_seed(int(seed)))
        result[name] = {"mean": interval.mean, "low": interval.low, "high": interval.high, "n": interval.n}
    return result


def table(summaries: Mapping[str, Mapping[str, Mapping[str, float | int | None]]]) -> str:
    """A plain text table, one row a method: {method: what `summarise` gives}. ↑ or ↓ says which way is better."""
    names = list(dict.fromkeys(name for summary in summaries.values() for name in summary))
    head = ["", "images", *(f"{name} {'↓' if metrics.find(name).lower_better else '↑'}" for name in names)]
    body = []
    for method, summary in summaries.items():
        count = next(iter(summary.values()))["n"] if summary else 0
        cells = []
        for name in names:
            s = summary[name]
            bounds = "" if s["low"] is None else f" [{s['low']:.3f}, {s['high']:.3f}]"
            cells.append(f"{s['mean']:.3f}{bounds}")
        body.append([method, str(count), *cells])
    rows = [head, *body]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
