"""The losses of Stage I: how far a reconstruction is from its image, and what an adversary makes of it."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings

import torch
from torch import Tensor, nn
from torch.nn import functional as F

log = logging.getLogger(__name__)


class GradientLoss(nn.Module):
    """The named substitute for LPIPS where its weights cannot be had: L1 between image gradients on four scales."""

    name = "gradients"

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        """One value per image, (B,)."""
        total = torch.zeros(len(image), device=image.device)
        for _ in range(4):
            for dim in (-1, -2):
                total = total + (image.diff(dim=dim) - target.diff(dim=dim)).abs().mean((1, 2, 3))
            image, target = F.avg_pool2d(image, 2), F.avg_pool2d(target, 2)
        return total


class LPIPS(nn.Module):
    """LPIPS v0.1 on SqueezeNet features (pyiqa); RuntimeError or ImportError where they cannot be had."""

    name = "lpips"

    def __init__(self) -> None:
        super().__init__()
        from itersr import metrics

        if not metrics.available("lpips"):
            raise RuntimeError("LPIPS weights are not on this machine")
        import pyiqa

        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():  # it prints a path and warns
            warnings.simplefilter("ignore")
            self.net = pyiqa.create_metric("lpips", net="squeeze", as_loss=True, loss_reduction="none", device="cpu")
        self.requires_grad_(False)

    def train(self, mode: bool = True) -> LPIPS:
        return super().train(False)  # its dropout must stay off

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        """One value per image, (B,)."""
        return self.net(image, target).flatten()


def perceptual() -> nn.Module:
    """LPIPS if its weights are here, the substitute otherwise; the choice is logged, and told by `.name`."""
    try:
        return LPIPS()
    except (ImportError, RuntimeError, OSError) as error:
        log.warning("perceptual loss: image gradients instead of LPIPS (%s)", error)
        return GradientLoss()


def hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """The adversary's hinge loss on its logits for real images and for reconstructions."""
    return (F.relu(1 - real) + F.relu(1 + fake)).mean() / 2


def hinge_generator(fake: Tensor) -> Tensor:
    """The generator's side: make the adversary's logits for reconstructions large."""
    return -fake.mean()
