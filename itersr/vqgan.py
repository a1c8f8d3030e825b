"""Stage I: the Swin-VQGAN. E_H turns an HQ image into a map of codebook entries (Eq. 1), D_H turns the map into an image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from itersr.config import Norm, VQGANConfig
from itersr.losses import quantization
from itersr.swin import SwinLayers, add, normalization


class ResBlock(nn.Module):
    """norm → activation → conv, twice, plus the input (through a 1×1 convolution where the widths differ)."""

    def __init__(self, width_in: int, width_out: int, norm: Norm, slope: float | None = None) -> None:
        super().__init__()
        self.norm1, self.norm2 = normalization(norm, width_in), normalization(norm, width_out)
        self.conv1 = nn.Conv2d(width_in, width_out, 3, padding=1)
        self.conv2 = nn.Conv2d(width_out, width_out, 3, padding=1)
        self.skip = nn.Conv2d(width_in, width_out, 1) if width_in != width_out else nn.Identity()
        self.slope = slope  # of a LeakyReLU; None: SiLU
        self.inplace = norm != "none"  # a norm's result is a new tensor, which nothing else uses
        if norm == "none":  # with nothing to normalise it, a deep residual stack must start near the identity
            nn.init.zeros_(self.conv2.weight)

    def activate(self, x: Tensor) -> Tensor:
        inplace = self.inplace and not torch.is_grad_enabled()  # see `add`
        return F.silu(x, inplace) if self.slope is None else F.leaky_relu(x, self.slope, inplace)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(self.activate(self.norm1(x)))
        y = self.conv2(self.activate(self.norm2(y)))
        return add(y, self.skip(x))


class Downsample(nn.Module):
    """Half the sides: a stride-2 convolution on an input padded by one on the right and the bottom."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


def folded(weight: Tensor) -> Tensor:
    """The kernel (in, out, 4, 4) of the transposed convolution that equals nearest ×2 followed by the 3×3 `weight`.

    After nearest ×2 every pixel is there twice along each axis, so two of the three taps meet the same pixel and their weights
    add up: an even row reads the row above with w0 and its own with w1 + w2, an odd row its own with w0 + w1 and the row
    below with w2. Four 2×2 kernels, one for each parity, do 4/9 of the arithmetic; a transposed convolution of stride 2
    interleaves their results.
    """
    for axis in (2, 3):
        w0, w1, w2 = weight.unbind(axis)
        weight = torch.stack([w2, w1 + w2, w0 + w1, w0], axis)
    return weight.transpose(0, 1)


class Upsample(nn.Module):
    """Double the sides: nearest neighbour, then a 3×3 convolution; for inference both in one, with the same result."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))
        kernel = folded(self.conv.weight).contiguous(memory_format=torch.channels_last)  # strided views are a fifth slower
        return F.conv_transpose2d(x, kernel, self.conv.bias, stride=2, padding=1)


def levels(widths: list[int], config: VQGANConfig, resample: type[Downsample] | type[Upsample]) -> list[nn.Module]:
    """Residual blocks at every level's width, and a `resample` between two levels."""
    blocks: list[nn.Module] = []
    for level, width in enumerate(widths):
        if level > 0:
            blocks.append(resample(widths[level - 1]))
        for i in range(config.res_blocks):
            before = widths[max(level - 1, 0)] if i == 0 else width
            blocks.append(ResBlock(before, width, config.norm))
    return blocks


class Encoder(nn.Module):
    """E_H: image (B, 3, H, W) in [0, 1] → latent (B, code_dim, H/f, W/f)."""

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        widths = [config.width * m for m in config.multipliers]
        width = widths[-1]
        blocks: list[nn.Module] = [nn.Conv2d(3, widths[0], 3, padding=1), *levels(widths, config, Downsample)]
        blocks.append(ResBlock(width, width, config.norm))
        if config.encoder_swin:
            blocks.append(SwinLayers(width, config.swin))
        blocks.append(ResBlock(width, width, config.norm))
        blocks += [normalization(config.norm, width), nn.Conv2d(width, config.code_dim, 3, padding=1)]
        self.blocks = nn.Sequential(*blocks)

    def forward(self, image: Tensor) -> Tensor:
        return self.blocks((2 * image - 1).to(next(self.parameters()).dtype))


class Decoder(nn.Module):
    """D_H: quantized latent (B, code_dim, h, w) → image (B, 3, f·h, f·w), about [0, 1] and *not* clamped.

    Clamped in training, a pixel beyond [0, 1] would have no gradient.
    """

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        widths = [config.width * m for m in reversed(config.multipliers)]
        width = widths[0]
        blocks: list[nn.Module] = [nn.Conv2d(config.code_dim, width, 3, padding=1)]
        blocks += [ResBlock(width, width, config.norm), SwinLayers(width, config.swin), ResBlock(width, width, config.norm)]
        blocks += levels(widths, config, Upsample)
        blocks += [normalization(config.norm, widths[-1]), nn.Conv2d(widths[-1], 3, 3, padding=1)]
        self.blocks = nn.Sequential(*blocks)

    def forward(self, latent: Tensor) -> Tensor:
        return (self.blocks(latent).float() + 1) / 2  # in half precision the halving would cost a bit of the pixels


class Codebook(nn.Module):
    """K vectors; a latent becomes the nearest of them (Eq. 1). The id of that vector is the token."""

    def __init__(self, codes: int, dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codes, dim)
        nn.init.uniform_(self.embedding.weight, -1 / codes, 1 / codes)

    def nearest(self, latent: Tensor) -> Tensor:
        """Eq. 1: ids (B, h, w) of the nearest codes of latents (B, D, h, w).

        In float32: half precision moves ids across cell borders.
        """
        with torch.autocast(latent.device.type, enabled=False):
            flat = latent.float().permute(0, 2, 3, 1)  # (B, h, w, D)
            codes = self.embedding.weight.float()
            # ‖z − e‖² = ‖z‖² − 2 z·e + ‖e‖², and ‖z‖² is the same for every code
            return (codes.square().sum(1) - 2 * flat @ codes.T).argmin(-1)

    def lookup(self, tokens: Tensor) -> Tensor:
        """Codes (B, D, h, w) of the ids (B, h, w)."""
        return self.embedding(tokens).permute(0, 3, 1, 2)


@dataclass
class Quantized:
    """What quantization gives: `latent` with the straight-through gradient, the ids, and the two terms of Eq. 1."""

    latent: Tensor  # (B, D, h, w)
    tokens: Tensor  # (B, h, w)
    codebook_loss: Tensor  # ‖sg[E_H(x)] − z_q‖², moves the codes
    commitment_loss: Tensor  # ‖E_H(x) − sg[z_q]‖², moves the encoder; β weighs this one


class VQGAN(nn.Module):
    """E_H, the codebook and D_H."""

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.codebook = Codebook(config.codes, config.code_dim)

    def quantize(self, latent: Tensor) -> Quantized:
        """Nearest codes of a latent (B, D, h, w), with gradients passed straight through to it."""
        tokens = self.codebook.nearest(latent)
        codes = self.codebook.lookup(tokens).float()
        z = latent.float()
        return Quantized(z + (codes - z).detach(), tokens, *quantization(z, codes))

    def encode(self, image: Tensor) -> Tensor:
        """S_h: the tokens (B, H/f, W/f) of images (B, 3, H, W) in [0, 1]; sides must be multiples of f (ValueError)."""
        f = self.config.factor
        if image.shape[-2] % f or image.shape[-1] % f:
            raise ValueError(f"image {image.shape[-2]}×{image.shape[-1]}: both sides must be multiples of f = {f}")
        return self.codebook.nearest(self.encoder(image))

    def decode(self, tokens: Tensor) -> Tensor:
        """Images (B, 3, f·h, f·w), not clamped, of tokens (B, h, w)."""
        return self.decoder(self.codebook.lookup(tokens))

    def forward(self, image: Tensor) -> tuple[Tensor, Quantized]:
        """The reconstruction, not clamped, and what the quantizer did."""
        quantized = self.quantize(self.encoder(image))
        return self.decoder(quantized.latent), quantized


class PatchDiscriminator(nn.Module):
    """The adversary of Stage I: logits for overlapping patches, high for real images. Takes images (B, 3, H, W)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        channels = 3
        for out in (width, 2 * width, 4 * width):
            conv = nn.Conv2d(channels, out, 4, stride=2, padding=1)
            blocks += [nn.utils.parametrizations.spectral_norm(conv), nn.LeakyReLU(0.2)]
            channels = out
        blocks.append(nn.Conv2d(channels, 1, 3, padding=1))
        self.blocks = nn.Sequential(*blocks)

    def forward(self, image: Tensor) -> Tensor:
        return self.blocks(2 * image - 1)
