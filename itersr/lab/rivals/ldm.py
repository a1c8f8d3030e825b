"""The second rival: continuous diffusion on the latents of the same VQGAN (as LDM-BSR, Rombach et al. 2022), in small.

Flow matching (Lipman et al. 2023): z is the latent of HQ, ε Gaussian noise, x_t = (1 − t) z + t ε, and a U-Net that sees x_t,
t and the LQ image predicts the velocity ε − z. Sampling walks from t = 1 to 0 in as many Euler steps as one likes; then D_H
decodes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from itersr.config import Tier, TrainConfig
from itersr.tiling import whole_windows
from itersr.training.data import generator_for, uniform
from itersr.training.loop import Task
from itersr.vqgan import VQGAN


def features_of(t: Tensor, width: int) -> Tensor:
    """Sines and cosines of t (B,), (B, width): a number as a network can read it."""
    waves = t.float()[:, None] * 1000 * torch.exp(torch.linspace(0, -math.log(10_000), width // 2, device=t.device))
    return torch.cat([waves.sin(), waves.cos()], 1)


class Block(nn.Module):
    """Two convolutions with a shortcut; what t says is added between them. (B, inputs, h, w) → (B, outputs, h, w)."""

    def __init__(self, inputs: int, outputs: int, time: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.GroupNorm(8, inputs), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, padding=1))
        self.time = nn.Linear(time, outputs)
        self.second = nn.Sequential(nn.GroupNorm(8, outputs), nn.SiLU(), nn.Conv2d(outputs, outputs, 3, padding=1))
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return self.shortcut(x) + self.second(self.first(x) + self.time(time)[:, :, None, None])


class Attention(nn.Module):
    """Every place reads every place, (B, width, h, w) → the same."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.norm, self.heads = nn.GroupNorm(8, width), heads
        self.qkv, self.out = nn.Conv2d(width, 3 * width, 1), nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        q, k, v = self.qkv(self.norm(x)).view(b, 3, self.heads, c // self.heads, h * w).transpose(3, 4).unbind(1)
        return x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(b, c, h, w))


class UNet(nn.Module):
    """x_t (B, dim, h, w), t (B,) and what is known (B, given, h, w) → the velocity (B, dim, h, w).

    Three resolutions, attention at the lowest. Sides that are no multiples of 4 are padded on the way.
    """

    def __init__(self, dim: int, given: int, width: int) -> None:
        super().__init__()
        widths, self.width = (width, 3 * width // 2, 2 * width), width
        time = 2 * width
        self.time = nn.Sequential(nn.Linear(width, time), nn.SiLU(), nn.Linear(time, time), nn.SiLU())
        self.enter = nn.Conv2d(dim + given, width, 3, padding=1)
        self.down, self.shrink, self.up = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        now = width
        for own in widths:
            self.down.append(Block(now, own, time))
            self.shrink.append(nn.Conv2d(own, own, 3, stride=2, padding=1) if own != widths[-1] else nn.Identity())
            now = own
        self.middle = nn.ModuleList([Block(now, now, time), Attention(now), Block(now, now, time)])
        for own in reversed(widths):
            self.up.append(Block(now + own, own, time))
            now = own
        self.leave = nn.Sequential(nn.GroupNorm(8, now), nn.SiLU(), nn.Conv2d(now, dim, 3, padding=1))

    def forward(self, x: Tensor, t: Tensor, given: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        x = F.pad(torch.cat([x, given], 1), (0, -w % 4, 0, -h % 4), mode="replicate")
        time = self.time(features_of(t, self.width))
        x, kept = self.enter(x), []
        for block, shrink in zip(self.down, self.shrink, strict=True):
            kept.append(block(x, time))
            x = shrink(kept[-1])
        before, attention, after = self.middle
        x = after(attention(before(x, time)), time)
        for block in self.up:
            beside = kept.pop()
            x = block(torch.cat([F.interpolate(x, beside.shape[-2:]), beside], 1), time)
        return self.leave(x)[..., :h, :w]


class LDM(Task):
    """The loss of the diffusion as one module, for `training.loop.train`. The VQGAN is frozen, as for ITER."""

    def __init__(self, tier: Tier, config: TrainConfig, seed: int = 0, vqgan: VQGAN | None = None) -> None:
        super().__init__()
        self.tier, self.config, self.seed = tier, config, seed
        self.vqgan = (vqgan or VQGAN(tier.vqgan)).requires_grad_(False)
        self.ratio = tier.vqgan.factor // tier.scale  # LQ pixels along a side of a latent
        self.unet = UNet(tier.vqgan.code_dim, 3 * self.ratio**2, 32 if tier.name == "smoke" else 80)
        self.trained = self.parts = {"unet": self.unet}

    fingerprint = "untrained"  # of the weights that were loaded

    @property
    def scale(self) -> Tensor:
        """The spread of the codes, by which latents are divided: noise has spread 1."""
        return self.vqgan.codebook.embedding.weight.float().std()

    def given(self, lq: Tensor) -> Tensor:
        """LQ images (B, 3, H, W) at the size of the latents, in [−1, 1]."""
        return 2 * F.pixel_unshuffle(lq, self.ratio) - 1

    def forward(self, batch: dict[str, Tensor], along: float, part: str) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error of the velocity, at one random t for each image."""
        hq, index = batch["hq"], batch["index"].to(batch["hq"].device)
        with torch.no_grad(), torch.autocast(hq.device.type, enabled=False):
            z = self.vqgan.encoder(hq).float() / self.scale
        t = uniform(self.seed, index, "time")
        noise = torch.special.ndtri(uniform(self.seed, index, "noise", z.shape[1:]).double().clamp(1e-7, 1 - 1e-7)).to(z)
        x = torch.lerp(z, noise, t.to(z)[:, None, None, None])
        loss = F.mse_loss(self.unet(x, t, self.given(batch["lq"])).float(), noise - z)
        return loss, {"velocity": loss}

    @torch.no_grad()
    def restore(self, lq: Tensor, steps: int = 20, seed: int = 0, temperature: float = 1.0) -> Tensor:
        """Images (B, 3, sH, sW) in [0, 1] of LQ images (B, 3, H, W), in `steps` calls of the U-Net.

        temperature: of the noise at the start; less gives likelier, smoother pictures.
        """
        h, w = (side * self.tier.scale for side in lq.shape[-2:])
        given = self.given(whole_windows(lq, self.tier.unit // self.tier.scale))
        shape = (self.vqgan.config.code_dim, *given.shape[-2:])
        x = torch.stack([torch.randn(shape, generator=generator_for(seed, i, "start")) for i in range(len(lq))]).to(lq.device)
        x = temperature * x
        for i in range(steps):
            t = torch.full((len(lq),), 1 - i / steps, device=lq.device)
            x = x - self.unet(x, t, given).float() / steps
        return self.vqgan.decode(self.vqgan.codebook.nearest(x * self.scale))[..., :h, :w].float().clamp(0, 1)
