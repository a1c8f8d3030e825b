"""Stage II: E_l reads the LQ image and predicts, for every place, which token the HQ image has there (Eq. 2)."""

from __future__ import annotations

from torch import Tensor, nn

from itersr.config import LQEncoderConfig
from itersr.swin import SwinLayers
from itersr.vqgan import ResBlock


class Stem(nn.Module):
    """The convolutions with which E_l begins: LQ image (B, 3, H, W) in [0, 1] → (B, Swin width, H/2ⁿ, W/2ⁿ)."""

    def __init__(self, config: LQEncoderConfig, halvings: int) -> None:
        super().__init__()
        width = config.width
        self.conv_in = nn.Conv2d(3, width, 3, padding=1)
        stages: list[nn.Module] = []
        for i in range(max(halvings, 1)):  # at least one stage, without a stride where there is one token for each LQ pixel
            stride = 2 if i < halvings else 1
            stages.append(nn.Sequential(
                nn.Conv2d(width, 2 * width, 3, stride=stride, padding=1),
                ResBlock(2 * width, 2 * width, config.norm, slope=0.2),
                ResBlock(2 * width, 2 * width, config.norm, slope=0.2),
            ))
            width *= 2
        self.stages = nn.ModuleList(stages)
        self.project = nn.Conv2d(width, config.swin.width, 1)

    def lq_features(self, lq: Tensor) -> Tensor:
        """What the Swin layers read of LQ images: (B, Swin width, H/2ⁿ, W/2ⁿ)."""
        x = self.conv_in(lq.to(self.conv_in.weight.dtype))
        for stage in self.stages:
            x = stage(x)
        return self.project(x)


class LQEncoder(Stem):
    """E_l: LQ image (B, 3, H, W) in [0, 1] → logits (B, codes, H/2ⁿ, W/2ⁿ) for n halvings; S_l is their argmax.

    Sides must be multiples of 2ⁿ × window (the Swin layers raise a ValueError).
    """

    def __init__(self, config: LQEncoderConfig, codes: int, halvings: int) -> None:
        super().__init__(config, halvings)
        self.swin = SwinLayers(config.swin.width, config.swin)
        self.head = nn.Conv2d(config.swin.width, codes, 1)

    def hidden(self, lq: Tensor) -> Tensor:
        """What the output layer, a 1×1 convolution, reads: (B, Swin width, H/2ⁿ, W/2ⁿ), often fewer numbers than the logits."""
        return self.swin(self.lq_features(lq))

    def forward(self, lq: Tensor) -> Tensor:
        return self.head(self.hidden(lq))
