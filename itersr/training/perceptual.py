"""How different two pictures look: LPIPS v0.1 on SqueezeNet, and a substitute where its weights cannot be had.

LPIPS compares what a network trained on photos sees: at seven depths, the features of both images are scaled to length 1 at
every place, and their squared differences are summed with one weight for each channel. The weights of the channels were
fitted to the judgements of people. The paper: Zhang et al., 2018, arXiv:1801.03924.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import squeezenet1_1

log = logging.getLogger(__name__)

FILES = ("checkpoints/squeezenet1_1-b8a52dc0.pth", "pyiqa/LPIPS_v0.1_squeeze-4a5350f2.pth")
"""The weights of SqueezeNet and of the channels, below the torch hub folder."""
TAPS = (1, 4, 7, 9, 10, 11, 12)
"""The layers of SqueezeNet 1.1 whose outputs are compared: the last one at each width and size, and then every one."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's RGB in [0, 1]: the network was trained on pictures scaled with them."""


def not_here(files: Iterable[str]) -> list[Path]:
    """Those of these files that are not on the disk, or empty.

    files: paths below torch's hub folder, which is TORCH_HOME/hub, by default ~/.cache/torch/hub.
    """
    paths = [Path(torch.hub.get_dir(), file) for file in files]
    return [path for path in paths if not (path.is_file() and path.stat().st_size > 0)]


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
    """LPIPS v0.1 on SqueezeNet 1.1. Nothing in it is trained; gradients reach the images.

    Raises:
        RuntimeError: the weights are not on this machine; nothing is downloaded here.
    """

    name = "lpips"

    def __init__(self) -> None:
        super().__init__()
        if missing := not_here(FILES):
            raise RuntimeError(f"LPIPS weights are not on this machine: {', '.join(str(path) for path in missing)}")
        network, heads = (torch.load(Path(torch.hub.get_dir(), file), map_location="cpu", weights_only=True) for file in FILES)
        with torch.device("meta"):  # no first values are drawn: the random numbers of a training stay as they are
            self.features = squeezenet1_1().features
        self.features.load_state_dict(
            {key.removeprefix("features."): value for key, value in network.items() if key.startswith("features.")},
            assign=True,
        )
        for i in range(len(TAPS)):
            self.register_buffer(f"weight{i}", heads[f"lin{i}.model.1.weight"])  # (1, channels, 1, 1)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1))
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> LPIPS:
        """Stays in eval mode whatever is asked: this network is a fixed ruler."""
        return super().train(False)

    def seen(self, image: Tensor) -> list[Tensor]:
        """What the network sees: float32 features at each of `TAPS`, (B, channels, h, w), of length 1 at every place."""
        x, features = (image - self.mean) / self.std, []
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in TAPS:
                y = x.float()  # under autocast too: differences of nearly equal features need the digits
                features.append(y / (torch.linalg.vector_norm(y, dim=1, keepdim=True) + 1e-10))
        return features

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        """How different they look: (B,) float32, 0 for equal images, seldom above 1.

        image, target: (B, 3, H, W) RGB in [0, 1], at least 17 pixels on each side.
        """
        total = torch.zeros(len(image), device=image.device)
        for i, (a, b) in enumerate(zip(self.seen(image), self.seen(target), strict=True)):
            total = total + ((a - b).square() * self.get_buffer(f"weight{i}")).sum(1).mean((1, 2))
        return total


def perceptual() -> nn.Module:
    """LPIPS if its weights are here, the substitute otherwise; the choice is logged, and told by `.name`."""
    try:
        return LPIPS()
    except (RuntimeError, OSError) as error:
        log.warning("perceptual loss: image gradients instead of LPIPS (%s)", error)
        return GradientLoss()


def scores(image: Tensor, hq: Tensor, look: nn.Module) -> dict[str, float]:
    """PSNR and the perceptual distance of pictures (B, 3, H, W) from HQ, means over pictures, each of which is seen alone."""
    distances = [look(a, b) for a, b in zip(image.split(1), hq.split(1), strict=True)]
    return {"psnr": psnr(image, hq).mean().item(), str(look.name): torch.cat(distances).mean().item()}


def psnr(image: Tensor, target: Tensor) -> Tensor:
    """PSNR in dB over RGB in [0, 1], one value per image, (B,)."""
    return -10 * torch.log10((image - target).square().mean((1, 2, 3)).clamp(min=1e-10))
