"""The first rival: a GAN that turns LQ pixels into HQ pixels in one pass.

RRDBNet is the generator of ESRGAN (Wang et al. 2018), trained as Real-ESRGAN is (Wang et al. 2021): first for pixels alone
(L1), then with a perceptual loss and an adversary. No tokens, no steps, no noise: one LQ photo gives one picture.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from itersr.config import Tier, TrainConfig
from itersr.losses import hinge_discriminator, hinge_generator
from itersr.training.loop import Task
from itersr.training.perceptual import perceptual
from itersr.vqgan import PatchDiscriminator

GROWTH = 32  # channels that each convolution of a dense block adds


class DenseBlock(nn.Module):
    """Five convolutions; each reads what all before it gave. (B, width, h, w) → the same."""

    def __init__(self, width: int) -> None:
        super().__init__()
        outputs = [GROWTH] * 4 + [width]
        self.convs = nn.ModuleList(nn.Conv2d(width + i * GROWTH, out, 3, padding=1) for i, out in enumerate(outputs))

    def forward(self, x: Tensor) -> Tensor:
        seen = [x]
        for conv in self.convs[:-1]:
            seen.append(F.leaky_relu(conv(torch.cat(seen, 1)), 0.2))
        return x + 0.2 * self.convs[-1](torch.cat(seen, 1))


class RRDB(nn.Module):
    """Residual in residual: three dense blocks, of whose change a fifth is added."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(DenseBlock(width) for _ in range(3)))

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.2 * self.blocks(x)


class RRDBNet(nn.Module):
    """LQ images (B, 3, H, W) in [0, 1] → images (B, 3, 4H, 4W), about [0, 1] and not clamped."""

    def __init__(self, width: int = 64, blocks: int = 23) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.Sequential(*(RRDB(width) for _ in range(blocks)), nn.Conv2d(width, width, 3, padding=1))
        self.up = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.last = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(width, 3, 3, padding=1))

    def forward(self, lq: Tensor) -> Tensor:
        x = self.first(lq)
        x = x + self.body(x)
        for conv in self.up:
            x = F.leaky_relu(conv(F.interpolate(x, scale_factor=2.0)), 0.2)
        return self.last(x)


class GAN(Task):
    """The losses of the GAN as one module, for `training.loop.train`.

    Until `gan_start` of the run L1 alone; then L1 + perceptual_weight · LPIPS + gan_weight · adversary, by turns with the
    adversary's own hinge loss.
    """

    def __init__(self, tier: Tier, config: TrainConfig, seed: int = 0) -> None:
        super().__init__()
        if tier.scale != 4:
            raise ValueError(f"scale {tier.scale}: the GAN has ×4 alone")
        self.config, self.seed = config, seed
        self.generator = RRDBNet(64, 2 if tier.name == "smoke" else 7)
        self.discriminator = PatchDiscriminator(config.disc_width)
        self.perceptual = perceptual()
        self.trained = {"generator": self.generator}
        self.parts = {"generator": self.generator, "discriminator": self.discriminator}
        self.output: Tensor  # of the generator's pass, for the discriminator's

    fingerprint = "untrained"  # of the weights that were loaded

    def active(self, along: float) -> list[str]:
        return ["generator", "discriminator"] if along >= self.config.gan_start else ["generator"]

    def forward(self, batch: dict[str, Tensor], along: float, part: str) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a part and the scalars to log."""
        hq = batch["hq"]
        if part == "discriminator":
            loss = hinge_discriminator(self.discriminator(hq), self.discriminator(self.output))
            return loss, {"discriminator": loss}
        output = self.generator(batch["lq"]).float()
        loss = l1 = F.l1_loss(output, hq)
        scalars = {"l1": l1}
        if along >= self.config.gan_start:
            self.output = output.detach()
            look, adversarial = self.perceptual(output, hq).mean(), hinge_generator(self.discriminator(output))
            loss = l1 + self.config.perceptual_weight * look + self.config.gan_weight * adversarial
            scalars |= {str(self.perceptual.name): look, "adversarial": adversarial}
        return loss, scalars

    @torch.no_grad()
    def restore(self, lq: Tensor, steps: int = 1, seed: int = 0, temperature: float = 1.0) -> Tensor:
        """Images (B, 3, 4H, 4W) in [0, 1] of LQ images (B, 3, H, W), in one pass: the other arguments change nothing."""
        return self.generator(lq.to(next(self.generator.parameters()).dtype)).float().clamp(0, 1)
