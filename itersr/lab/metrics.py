"""Image quality with pyiqa: every convention is stated, nothing is downloaded unless asked for; and intervals of means.

Numbers of the same name differ between papers by colour conversion, border crop and network. So each metric here says in one
line what it computes (`describe`): print that beside the number. pyiqa would fetch missing weights at first use, which fails
offline. Here `available` looks on the disk, `score` never downloads, and `fetch` does.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import socket
import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from itersr.pictures import to_tensor
from itersr.training import perceptual
from itersr.training.perceptual import not_here


class MetricUnavailable(RuntimeError):
    """A metric whose weights are not on this machine; the message names the files and how to get them."""


@dataclass(frozen=True)
class Metric:
    """What one name computes, by pyiqa's metric `pyiqa_name` with `options`."""

    pyiqa_name: str
    says: str  # the convention
    needs_reference: bool
    lower_better: bool
    smallest: int = 1  # shortest side in pixels
    files: tuple[str, ...] = ()  # weights below the torch hub folder
    options: tuple[tuple[str, Any], ...] = ()


_Y = (("test_y_channel", True), ("color_space", "ycbcr"))
_NIQE, _NRQM = "pyiqa/niqe_modelparameters.mat", "pyiqa/NRQM_model.mat"


def _lpips(net: str, smallest: int, files: tuple[str, ...]) -> Metric:
    return Metric("lpips", f"LPIPS v0.1, net {net}, RGB", True, True, smallest, files, (("net", net), ("version", "0.1")))


METRICS = {
    "psnr": Metric("psnr", "PSNR in dB, Y of YCbCr (BT.601, 16 to 235), no border crop", True, False, options=_Y),
    "ssim": Metric("ssim", "SSIM, Y of YCbCr (BT.601, 16 to 235), 11×11 Gaussian window, no border crop", True, False, 11,
                   options=_Y),
    "gmsd": Metric("gmsd", "GMSD, Y of YIQ, no border crop", True, True, 4),
    "lpips-alex": _lpips("alex", 31, ("checkpoints/alexnet-owt-7be5be79.pth", "pyiqa/LPIPS_v0.1_alex-df73285e.pth")),
    "lpips-squeeze": _lpips("squeeze", 17, perceptual.FILES),
    "lpips-vgg": _lpips("vgg", 16, ("checkpoints/vgg16-397923af.pth", "pyiqa/LPIPS_v0.1_vgg-a78928a0.pth")),
    "niqe": Metric("niqe", "NIQE, Y of YIQ, no border crop", False, True, 96, (_NIQE,)),
    "nrqm": Metric("nrqm", "NRQM (Ma et al.), Y of YIQ, no border crop", False, False, 96, (_NRQM,)),
    "pi": Metric("pi", "PI = (10 - NRQM + NIQE) / 2, Y of YCbCr, 4 border pixels left out", False, True, 104, (_NIQE, _NRQM)),
}
"""Every metric by name. "lpips" alone stands for the first of "lpips-…" whose weights are on the disk."""


def find(name: str) -> Metric:
    """The metric that `name` stands for on this machine: "lpips" depends on whose weights are here. ValueError if unknown."""
    if name == "lpips":
        nets = [metric for key, metric in METRICS.items() if key.startswith("lpips-")]
        return next((net for net in nets if not not_here(net.files)), nets[0])
    if name not in METRICS:
        raise ValueError(f"metric is {name!r}, needed one of lpips, {', '.join(METRICS)}")
    return METRICS[name]


def describe(name: str) -> str:
    """The convention of a metric in one line, for example "LPIPS v0.1, net squeeze, RGB"."""
    return find(name).says


def available(name: str) -> bool:
    """Whether `score` can compute it on this machine: its weights are on the disk. ValueError for an unknown name."""
    return not not_here(find(name).files)


def score(name: str, image: Any, reference: Any = None, device: str | torch.device = "cpu") -> Tensor:
    """Quality of images, by "lpips" or a key of `METRICS`: (B,) float64 on the CPU.

    image, reference: (B, 3, H, W) in [0, 1], or anything else that `pictures.to_tensor` takes. A metric that does not compare
    ignores the reference.

    Raises:
        ValueError: unknown name, no reference where one is needed, other sizes, too few pixels, values outside [0, 1].
        MetricUnavailable: the metric's weights are not on this machine.
    """
    metric = find(name)
    pictures = [to_tensor(image).clamp(0, 1)]
    h, w = pictures[0].shape[-2:]
    if min(h, w) < metric.smallest:
        raise ValueError(f"{name} was given {w}×{h} pixels, needed at least {metric.smallest} on each side")
    if metric.needs_reference:
        if reference is None:
            raise ValueError(f"{name} compares two images: reference is None, needed an image like the first")
        pictures.append(to_tensor(reference).clamp(0, 1))
        if pictures[1].shape != pictures[0].shape:
            raise ValueError(f"{name}: reference has the shape {tuple(pictures[1].shape)}, needed {tuple(pictures[0].shape)}")
    if not available(name):
        raise MetricUnavailable(_how_to_get(name))
    network = _load(metric, str(torch.device(device)), torch.hub.get_dir())
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        values = network(*(picture.to(device) for picture in pictures))
    return values.reshape(len(pictures[0])).detach().double().cpu()


def fetch(name: str) -> None:
    """Download the weights of a metric where they are missing. MetricUnavailable where that fails or 20 silent seconds pass."""
    if available(name):
        return
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(20.0)
    try:
        _load(find(name), "cpu", torch.hub.get_dir())
    except Exception as error:
        raise MetricUnavailable(f"{_how_to_get(name)} (tried just now: {error})") from error
    finally:
        socket.setdefaulttimeout(before)


def _how_to_get(name: str) -> str:
    missing = ", ".join(map(str, not_here(find(name).files)))
    return f"{name} needs weights not found here: {missing}; itersr evaluate --download gets them, or set TORCH_HOME"


@lru_cache(maxsize=16)
def _load(metric: Metric, device: str, hub: str) -> Any:
    """pyiqa's object for a metric. The cache needs `hub`: a notebook may set TORCH_HOME after the first call."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():  # it prints and warns while it loads
        warnings.simplefilter("ignore")
        import pyiqa
        from pyiqa.utils import download_util

        logging.getLogger("pyiqa").setLevel(logging.WARNING)
        download_util.DEFAULT_CACHE_DIR = os.path.join(hub, "pyiqa")  # pyiqa chooses it at import otherwise
        return pyiqa.create_metric(metric.pyiqa_name, device=torch.device(device), **dict(metric.options)).eval()


def mean_interval(values: Any, generator: torch.Generator, resamples: int = 10_000) -> dict[str, float]:
    """Mean and 95 % percentile bootstrap interval of values (images,) or (images, seeds): {"mean", "low", "high", "n"}.

    Images are resampled, and seeds (crossed with them) where there are several. The same state of `generator` gives the same
    interval. ValueError: fewer than two images, NaN or infinity, another shape.
    """
    x = torch.as_tensor(values, dtype=torch.float64)
    x = x[:, None] if x.ndim == 1 else x
    if x.ndim != 2 or x.shape[0] < 2 or x.shape[1] < 1 or not torch.isfinite(x).all():
        raise ValueError(f"values of the shape {tuple(x.shape)}: needed finite ones (images ≥ 2,) or (images ≥ 2, seeds)")
    images, seeds = x.shape
    means = []
    for start in range(0, resamples, 1000):  # in parts: memory stays small for many images
        count = min(1000, resamples - start)
        rows = torch.randint(images, (count, images, 1), generator=generator)
        columns = torch.randint(seeds, (count, 1, seeds), generator=generator)
        means.append(x[rows, columns].mean((1, 2)))
    tail = (1 - 0.95) / 2
    low, high = torch.quantile(torch.cat(means), torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return {"mean": float(x.mean()), "low": low, "high": high, "n": images}
