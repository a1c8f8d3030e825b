"""Image quality through pyiqa, with every convention stated, no surprise downloads, and intervals for what is averaged.

Numbers of the same name differ between papers by colour conversion, border crop and network, so each metric here
says in one line what it computes (`describe`); print it beside the number. pyiqa fetches missing weights at first
use, which hangs or fails offline: here `available` looks on the disk, `score` never downloads, and `fetch` downloads
when told to. pyiqa is imported inside the functions: training and upscaling run without it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import os
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from itersr.pictures import to_tensor
from itersr.training import perceptual
from itersr.training.perceptual import hub_folder, not_here


class MetricUnavailable(RuntimeError):
    """A metric whose weights are not on this machine; the message names the files and how to get them."""


@dataclass(frozen=True)
class Metric:
    """What one name computes: `says` is its convention, `files` its weights below the torch hub folder, `smallest` the
    shortest side in pixels that it can judge, `options` what pyiqa is told."""

    name: str
    says: str
    needs_reference: bool
    lower_better: bool
    smallest: int = 1
    files: tuple[str, ...] = ()
    pyiqa_name: str = ""
    options: tuple[tuple[str, Any], ...] = ()


_Y = (("test_y_channel", True), ("color_space", "ycbcr"))
_NIQE_FILE, _NRQM_FILE = "pyiqa/niqe_modelparameters.mat", "pyiqa/NRQM_model.mat"


def _lpips(net: str, smallest: int, files: tuple[str, str]) -> Metric:
    options = (("net", net), ("version", "0.1"))
    return Metric(f"lpips-{net}", f"LPIPS v0.1, net {net}, RGB", True, True, smallest, files, "lpips", options)


METRICS = {
    metric.name: metric
    for metric in (
        Metric(
            "psnr", "PSNR in dB, Y of YCbCr (BT.601, 16 to 235), no border crop", True, False, 1, (), "psnr", _Y
        ),
        Metric(
            "ssim", "SSIM, Y of YCbCr (BT.601, 16 to 235), 11×11 Gaussian window, no border crop", True, False, 11, (),
            "ssim", _Y,
        ),
        Metric("gmsd", "GMSD, Y of YIQ, no border crop", True, True, 4, (), "gmsd"),
        _lpips("alex", 31, ("checkpoints/alexnet-owt-7be5be79.pth", "pyiqa/LPIPS_v0.1_alex-df73285e.pth")),
        _lpips("squeeze", 17, perceptual.FILES),
        _lpips("vgg", 16, ("checkpoints/vgg16-397923af.pth", "pyiqa/LPIPS_v0.1_vgg-a78928a0.pth")),
        Metric("niqe", "NIQE, Y of YIQ, no border crop", False, True, 96, (_NIQE_FILE,), "niqe"),
        Metric("nrqm", "NRQM (Ma et al.), Y of YIQ, no border crop", False, False, 96, (_NRQM_FILE,), "nrqm"),
        Metric(
            "pi", "PI = (10 - NRQM + NIQE) / 2, Y of YCbCr, 4 border pixels left out", False, True, 104,
            (_NIQE_FILE, _NRQM_FILE), "pi",
        ),
    )
}  # fmt: skip
"""Every metric by name. "lpips" alone stands for the first of `LPIPS_ORDER` whose weights are on the disk."""

LPIPS_ORDER = ("lpips-alex", "lpips-squeeze", "lpips-vgg")
TABLE_1 = ("niqe", "pi")
"""The no-reference metrics of the paper's Table 1."""


def names() -> tuple[str, ...]:
    """Every name that `score` takes."""
    return ("lpips", *METRICS)


def find(name: str) -> Metric:
    """The metric that `name` stands for on this machine ("lpips" depends on which network's weights are here).

    Raises:
        ValueError: unknown name.
    """
    if name == "lpips":
        return next((METRICS[each] for each in LPIPS_ORDER if not missing_files(each)), METRICS[LPIPS_ORDER[0]])
    if name not in METRICS:
        raise ValueError(f"metric is {name!r}, needed one of {', '.join(names())}")
    return METRICS[name]


def describe(name: str) -> str:
    """The convention of a metric in one line, for example "LPIPS v0.1, net squeeze, RGB"."""
    return find(name).says


def missing_files(name: str) -> list[Path]:
    """The weights of a metric that are not on the disk; empty when it can be computed (or needs none)."""
    return not_here(find(name).files)


def available(name: str) -> bool:
    """Whether `score(name, ...)` works on this machine as it is: pyiqa installed, weights on the disk. Never downloads.

    Raises:
        ValueError: unknown name.
    """
    return not missing_files(name) and importlib.util.find_spec("pyiqa") is not None


def score(name: str, image: Any, reference: Any = None, device: str | torch.device = "cpu") -> Tensor:
    """Quality of images: (B,) float64 on the CPU.

    Args:
        name: "psnr", "ssim", "gmsd", "lpips", "niqe" or another of `names()`; `describe(name)` tells its convention.
        image: (B, 3, H, W) in [0, 1], or anything else that `pictures.to_tensor` takes.
        reference: the same size, for metrics that compare; the others ignore it.
        device: where to compute. Metric objects are kept for each device.

    Raises:
        ValueError: unknown name, no reference where one is needed, other sizes, too few pixels, values outside [0, 1].
        MetricUnavailable: pyiqa or the metric's weights are not on this machine.
    """
    metric = find(name)
    x = to_tensor(image).clamp(0, 1)
    if min(x.shape[-2:]) < metric.smallest:
        size = f"{x.shape[-1]}×{x.shape[-2]}"
        raise ValueError(f"{name} was given {size} pixels, needed at least {metric.smallest} on each side")
    y = None
    if metric.needs_reference:
        if reference is None:
            raise ValueError(f"{name} compares two images: reference is None, needed an image like the first")
        y = to_tensor(reference).clamp(0, 1)
        if y.shape != x.shape:
            raise ValueError(f"{name}: reference has the shape {tuple(y.shape)}, needed {tuple(x.shape)}")
    if not available(metric.name):
        raise MetricUnavailable(_how_to_get(metric))
    network = _load(metric.name, str(torch.device(device)), str(hub_folder()))
    x = x.to(device)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        values = network(x) if y is None else network(x, y.to(device))
    return values.reshape(len(x)).detach().double().cpu()


def fetch(name: str, timeout: float = 20.0) -> None:
    """Download a metric's weights into the torch hub folder, once.

    Raises:
        MetricUnavailable: pyiqa is not installed, or the download failed; `timeout` is the longest silence in seconds.
    """
    import socket

    metric = find(name)
    if available(metric.name):
        return
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(timeout)
    try:
        _load(metric.name, "cpu", str(hub_folder()))
    except Exception as error:
        raise MetricUnavailable(f"{_how_to_get(metric)} (tried just now: {error})") from error
    finally:
        socket.setdefaulttimeout(before)


def _how_to_get(metric: Metric) -> str:
    if importlib.util.find_spec("pyiqa") is None:
        return f"{metric.name} needs pyiqa, which is not installed: pip install 'itersr[notebooks]'"
    gone = ", ".join(str(path) for path in missing_files(metric.name))
    return f"{metric.name} needs weights not found here: {gone}; itersr evaluate --download gets them, or set TORCH_HOME"


@lru_cache(maxsize=16)
def _load(name: str, device: str, hub: str) -> Any:
    """pyiqa's object for a metric; `hub` belongs to the key: a notebook may set TORCH_HOME after the first call."""
    metric = METRICS[name]
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():  # it prints and warns while it loads
        warnings.simplefilter("ignore")
        import pyiqa
        from pyiqa.utils import download_util

        logging.getLogger("pyiqa").setLevel(logging.WARNING)
        download_util.DEFAULT_CACHE_DIR = os.path.join(hub, "pyiqa")  # fixed at import otherwise
        network = pyiqa.create_metric(metric.pyiqa_name, device=torch.device(device), **dict(metric.options))
    return network.eval()


# --------------------------------------------------------------------------------------------------------- intervals


@dataclass(frozen=True)
class Interval:
    """A mean and its bootstrap interval; `n` is the number of images."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.4g} [{self.low:.4g}, {self.high:.4g}]"


def mean_interval(values: Any, generator: torch.Generator, level: float = 0.95, resamples: int = 10_000) -> Interval:
    """Mean and percentile bootstrap interval.

    Args:
        values: (images,) or (images, seeds). Images are resampled, and seeds (crossed with them) where there are
        several. generator: draws the resamples; the same state gives the same interval.
        level: probability mass inside, 0.95 by default.
        resamples: number of bootstrap means.

    Raises:
        ValueError: fewer than two images, NaN or infinity, more than two dimensions, or a level outside (0, 1).
    """
    x = torch.as_tensor(values, dtype=torch.float64)
    x = x[:, None] if x.ndim == 1 else x
    if x.ndim != 2 or x.shape[0] < 2 or x.shape[1] < 1:
        raise ValueError(f"values have the shape {tuple(x.shape)}, needed (images ≥ 2,) or (images ≥ 2, seeds)")
    if not torch.isfinite(x).all():
        raise ValueError("values hold NaN or infinity, needed finite numbers")
    if not 0 < level < 1:
        raise ValueError(f"level is {level}, needed between 0 and 1")
    images, seeds = x.shape
    means = []
    for start in range(0, resamples, 1000):  # in parts: memory stays small for many images
        count = min(1000, resamples - start)
        rows = torch.randint(images, (count, images, 1), generator=generator)
        columns = torch.randint(seeds, (count, 1, seeds), generator=generator)
        means.append(x[rows, columns].mean((1, 2)))
    tail = (1 - level) / 2
    low, high = torch.quantile(torch.cat(means), torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return Interval(float(x.mean()), low, high, images)


def paired_interval(
    a: Any, b: Any, generator: torch.Generator, level: float = 0.95, resamples: int = 10_000
) -> Interval:
    """Mean and interval of a − b where both were measured on the same images (and seeds): their spread cancels out.

    Raises:
        ValueError: different shapes, and what `mean_interval` refuses.
    """
    x, y = torch.as_tensor(a, dtype=torch.float64), torch.as_tensor(b, dtype=torch.float64)
    if x.shape != y.shape:
        raise ValueError(f"paired values have the shapes {tuple(x.shape)} and {tuple(y.shape)}, needed the same")
    return mean_interval(x - y, generator, level, resamples)
