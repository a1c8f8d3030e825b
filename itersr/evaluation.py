"""Folders of results, measured the same way: what `itersr evaluate` does (the paper's Table 1, for any method's outputs)."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from itersr import metrics
from itersr.upscaling.read import ImageError, image_files, read

log = logging.getLogger(__name__)


def pair(outputs: Sequence[Path], references: Sequence[Path]) -> dict[Path, Path]:
    """The reference of each output: the same file name without suffix, or the longest one that it begins with, as in
    `Lincoln_BSRGAN.png` for `Lincoln.png`.

    Raises:
        ImageError: an output without a reference.
    """
    by_stem = {path.stem: path for path in references}
    pairs = {}
    for output in outputs:
        fitting = [stem for stem in by_stem if output.stem == stem or output.stem.startswith(f"{stem}_")]
        if not fitting:
            raise ImageError(output, "has no reference", "give both the same name; a _suffix on the output is fine")
        pairs[output] = by_stem[max(fitting, key=len)]
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

    outputs = image_files(folder)
    pairs = pair(outputs, image_files(reference)) if reference is not None else {}
    rows: list[dict[str, Any]] = []
    for path in tqdm(outputs, unit="image", desc=str(folder), disable=not progress):
        image = read(path)
        other = read(pairs[path]) if path in pairs else None
        if other is not None and other.size != image.size:
            (h, w), (rh, rw) = image.size, other.size
            raise ImageError(path, f"is {w}×{h}, its reference {pairs[path]} is {rw}×{rh}", "compare pictures of one size")
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
