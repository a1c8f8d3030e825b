"""What `itersr evaluate` does: measure folders of results, of any method, in the same way (the paper's Table 1)."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

from itersr import weights
from itersr.disk import listed, shown
from itersr.lab import metrics
from itersr.lab.rivals.gan import RRDBNet
from itersr.pictures import Photo
from itersr.upscaling.files import Options, plan
from itersr.upscaling.read import ImageError, image_files, read
from itersr.upscaling.write import write

log = logging.getLogger(__name__)


def pair(folder: str | os.PathLike[str], reference: str | os.PathLike[str]) -> dict[Path, Path | None]:
    """Each image below `reference` and its output in the same subfolder of `folder`, None where there is none.

    The output of `a/Lincoln.png` has the same name, or a longer one such as `a/Lincoln_BSRGAN.png`. The suffix may differ.
    Where several references fit, it is the one with the longest name; of `x.png` and `x.jpg`, the one with the output's suffix.

    Raises:
        ImageError: an output without a reference, or with two that fit; two outputs of one reference.
    """
    pairs: dict[Path, Path | None] = dict.fromkeys(image_files(reference))
    for output in image_files(folder):
        place = Path(reference, output.relative_to(folder).parent)
        fit = {file: (len(file.stem), file.suffix.lower() == output.suffix.lower()) for file in pairs
               if file.parent == place and f"{output.stem}_".startswith(f"{file.stem}_")}
        best = [file for file in fit if fit[file] == max(fit.values())]
        if not best:
            cure = f"give both the same name in the same folder below {reference}; a _suffix on the output is fine"
            raise ImageError(output, "has no reference", cure)
        if len(best) > 1:
            raise ImageError(output, f"has the references {shown(best[0])} and {shown(best[1])}", "leave one")
        if other := pairs[best[0]]:
            raise ImageError(output, f"has the same reference as {shown(other)}: {shown(best[0])}", "leave one")
        pairs[best[0]] = output
    return pairs


def measure(folder: str | os.PathLike[str], names: Sequence[str], reference: str | os.PathLike[str] | None = None,
            device: str | torch.device = "cpu", progress: bool = False) -> list[dict[str, Any]]:
    """Score every image of a folder: tidy rows {"image", "metric", "value"}, images in order of name.

    Raises:
        ImageError: no images, a damaged one, an output without a reference or of another size.
        MetricUnavailable, ValueError: see `metrics.score`.
    """
    if reference is None:
        jobs: list[tuple[Path, Path | None]] = [(path, None) for path in image_files(folder)]
    else:
        pairs = pair(folder, reference)
        jobs = sorted((output, original) for original, output in pairs.items() if output is not None)
        if missing := [original for original, output in pairs.items() if output is None]:
            log.warning("%s: no result for %d of the references: %s", shown(folder), len(missing), listed(missing))
    rows: list[dict[str, Any]] = []
    for path, original in tqdm(jobs, unit="image", desc=str(folder), disable=not progress):
        image = read(path)
        other = None if original is None else read(original)
        for name in names:
            try:
                value = metrics.score(name, image, other, device)
            except ValueError as error:
                raise ImageError(path, str(error), "leave that metric or that image out") from error
            rows.append({"image": path.relative_to(folder).as_posix(), "metric": name, "value": float(value)})
    return rows


@torch.no_grad()
def upscale_by_peer(name: str, peers: Path, inputs: str | os.PathLike[str], to: Path, device: str | torch.device = "cpu",
                    progress: bool = False) -> None:
    """×4 outputs of a peer for every image of a folder, as PNG in the same subfolders of `to`.

    peers: where `python -m data_prep NAME` put the weights. FileNotFoundError where it has not been run, ValueError for two
    images of one name.
    """
    file = peers / name / "generator.safetensors"
    if not file.exists():
        raise FileNotFoundError(f"{file}: no such file; get it by `python -m data_prep {name}`")
    network = RRDBNet()
    weights.load(network, file)
    network.to(device).eval()
    for job in tqdm(plan([inputs], to, Options(suffix="", ext="png")), unit="image", desc=name, disable=not progress):
        output = network(read(job.source).tensor[None].to(device)).float().clamp(0, 1)[0].cpu()
        job.target.parent.mkdir(parents=True, exist_ok=True)
        write(Photo(output), job.target)


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float | int | None]]:
    """Mean and 95 % bootstrap interval over the images, for each metric: {metric: {"mean", "low", "high", "n"}}.

    One image has no interval: its bounds are None.
    """
    def interval(values: pd.Series) -> dict[str, Any]:
        if len(values) == 1:
            return {"mean": values.item(), "low": None, "high": None, "n": 1}
        return metrics.mean_interval(values.tolist(), torch.Generator().manual_seed(0))

    return {str(name): interval(values) for name, values in pd.DataFrame(rows).groupby("metric", sort=False).value}


def table(summaries: Mapping[str, Mapping[str, Mapping[str, float | int | None]]]) -> str:
    """A plain text table, one row a method: {method: what `summarise` gives}. ↑ or ↓ says which way is better."""
    rows: dict[str, dict[str, Any]] = {}
    for method, summary in summaries.items():
        rows[method] = {"images": next(iter(summary.values()))["n"]}
        for name, found in summary.items():
            bounds = "" if found["low"] is None else f" [{found['low']:.3f}, {found['high']:.3f}]"
            arrow = "↓" if metrics.find(name).lower_better else "↑"
            rows[method][f"{name} {arrow}"] = f"{found['mean']:.3f}{bounds}"
    return pd.DataFrame.from_dict(rows, orient="index").to_string()
