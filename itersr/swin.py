"""Swin layers: attention inside windows of tokens, every second block with the windows shifted by half a side.

The layers follow the published networks: pre-norm blocks, a learned relative position bias, residual groups that end in
a 3×3 convolution. Inside this file tokens are channels-last, (B, H, W, C); the modules take and give (B, C, H, W).
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from itersr.config import Norm, SwinConfig


class ChannelLayerNorm(nn.LayerNorm):
    """LayerNorm over the channels of each position of (B, C, H, W): unlike GroupNorm it mixes no positions."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def normalization(kind: Norm, channels: int) -> nn.Module:
    """The normalisation of a (B, C, H, W) map: "group" (published), "layer" (each position alone) or "none"."""
    if kind == "group":
        return nn.GroupNorm(32, channels, eps=1e-6)
    return ChannelLayerNorm(channels) if kind == "layer" else nn.Identity()


def add(y: Tensor, x: Tensor) -> Tensor:
    """y + x, written into y where there are no gradients: new memory takes several times as long as the sum. Nothing else may
    use y."""
    return y + x if torch.is_grad_enabled() or y.dtype != x.dtype else y.add_(x)


def windows(x: Tensor, side: int) -> Tensor:
    """Cut (B, H, W, C) into windows: (B·H/side·W/side, side², C), row by row."""
    b, h, w, c = x.shape
    x = x.view(b, h // side, side, w // side, side, c).transpose(2, 3)  # (B, h, w, side, side, C)
    return x.reshape(-1, side * side, c)


def unwindows(x: Tensor, side: int, h: int, w: int) -> Tensor:
    """The inverse of `windows`: back to (B, H, W, C)."""
    c = x.shape[-1]
    x = x.view(-1, h // side, w // side, side, side, c).transpose(2, 3)
    return x.reshape(-1, h, w, c)


@lru_cache(maxsize=8)
def relative_index(side: int) -> Tensor:
    """(side², side²): the row of the bias table for query (y, x) and key (y', x'), (y−y'+side−1)·(2·side−1) + (x−x'+side−1)."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    y, x = y.flatten(), x.flatten()
    return (y[:, None] - y + side - 1) * (2 * side - 1) + (x[:, None] - x + side - 1)


def shift_mask(h: int, w: int, side: int) -> Tensor:
    """(windows, side², side²) additive mask for windows shifted by side/2: 0 within a region, −100 across regions.

    A roll brings the far edge of the picture into the last row and column of windows, where tokens that were not neighbours
    must not attend to each other. Each axis has three regions: whole windows, the rest of the edge, and what was rolled in.
    """
    def region(n: int) -> Tensor:
        at = torch.arange(n)
        return (at >= n - side).long() + (at >= n - side // 2).long()

    label = (3 * region(h)[:, None] + region(w))[None, :, :, None]  # (1, H, W, 1)
    label = windows(label, side).squeeze(-1)  # (windows, side²)
    return (label[:, :, None] != label[:, None, :]) * -100.0


@lru_cache(maxsize=32)
def mask_kinds(h: int, w: int, side: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """The masks of `shift_mask` without repetition, at most four (inside, right edge, bottom edge, corner), and the number of
    each window's mask."""
    kinds, of_window = shift_mask(h, w, side).unique(dim=0, return_inverse=True)
    return kinds.to(device), of_window.to(device)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """softmax(q·kᵀ/√d + bias)·v for q, k, v (B·windows, heads, N, d) and an additive bias (1 or windows, heads, N, N).

    The fused kernel is faster, except where the bias is trained (with its gradient PyTorch does not use the fast kernel) and
    in bfloat16 on a CPU: there the plain form is faster.
    """
    trained = torch.is_grad_enabled() and bias.requires_grad
    if trained or (q.device.type == "cpu" and q.dtype == torch.bfloat16):
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        scores = add(scores.view(-1, *bias.shape), bias)  # one bias for every window of an image, whatever the batch
        return scores.softmax(-1).to(v.dtype).view(*q.shape[:-1], -1) @ v
    bias = bias if len(bias) == 1 else bias.repeat(len(q) // len(bias), 1, 1, 1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))


class WindowAttention(nn.Module):
    """Multi-head attention within windows, with a learned bias for each relative position and head."""

    def __init__(self, config: SwinConfig, shifted: bool) -> None:
        super().__init__()
        if config.width % config.heads:
            raise ValueError(f"Swin width {config.width} must be a multiple of its {config.heads} heads")
        self.side, self.heads, self.shifted = config.window, config.heads, shifted
        self.register_buffer("index", relative_index(self.side).flatten(), persistent=False)
        self.index: Tensor
        self.bias_table = nn.Parameter(torch.zeros((2 * self.side - 1) ** 2, self.heads))
        nn.init.trunc_normal_(self.bias_table, std=0.02)
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.proj = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """Attention in the windows of x (B, H, W, C)."""
        b, h, w, c = x.shape
        n, side, shift = self.side**2, self.side, self.side // 2
        if self.shifted:
            x = x.roll((-shift, -shift), (1, 2))
        qkv = self.qkv(windows(x, side))  # (B·windows, N, 3C)
        q, k, v = qkv.view(-1, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)  # (B·windows, heads, N, d), no copies
        rows = self.bias_table.index_select(0, self.index)  # whole rows are the fastest to select
        bias = rows.t().contiguous().view(1, self.heads, n, n)  # a strided view would be read half as fast
        if self.shifted:
            kinds, of_window = mask_kinds(h, w, side, x.device)
            bias = bias + kinds[:, None].to(bias.dtype)  # (kinds, heads, N, N)
            bias = bias.index_select(0, of_window)  # (windows, heads, N, N)
        out = attend(q, k, v, bias)  # (B·windows, heads, N, d)
        out = self.proj(out.transpose(1, 2).reshape(-1, n, c))
        out = unwindows(out, side, h, w)
        return out.roll((shift, shift), (1, 2)) if self.shifted else out


class Gate(nn.Module):
    """The released MLP's gate: sigmoid of a small MLP on the mean over *all* tokens (the paper does not mention it)."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Linear(hidden, hidden // 16), nn.Linear(hidden // 16, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """What to multiply the activations x (B, H, W, hidden) with, (B, hidden)."""
        share = x.new_full((len(x), 1, x[0, ..., 0].numel()), 1 / x[0, ..., 0].numel())
        mean = (share @ x.flatten(1, 2)).flatten(1)  # as a product: in half precision much faster than `mean`
        return torch.sigmoid(self.excite(F.silu(self.squeeze(mean))))


class SwinBlock(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x)), on (B, H, W, C)."""

    def __init__(self, config: SwinConfig, shifted: bool) -> None:
        super().__init__()
        hidden = config.mlp_ratio * config.width
        self.norm1, self.norm2 = nn.LayerNorm(config.width), nn.LayerNorm(config.width)
        self.attention = WindowAttention(config, shifted)
        self.fc1, self.fc2 = nn.Linear(config.width, hidden), nn.Linear(hidden, config.width)
        self.gate = Gate(hidden) if config.gate else None

    def forward(self, x: Tensor) -> Tensor:
        x = add(self.attention(self.norm1(x)), x)
        return add(self.contract(F.gelu(self.fc1(self.norm2(x)))), x)

    def contract(self, y: Tensor) -> Tensor:
        """fc2(gate · y), as (W·gate)·y for one image: the matrix has fewer entries than there are activations."""
        if self.gate is None:
            return self.fc2(y)
        gate = self.gate(y)  # (B, hidden)
        if len(y) == 1:
            return F.linear(y, self.fc2.weight * gate, self.fc2.bias)
        return self.fc2(y * gate[:, None, None])


class SwinGroup(nn.Module):
    """`depth` Swin blocks, a 3×3 convolution, and the input added."""

    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(SwinBlock(config, shifted=i % 2 == 1) for i in range(config.depth))
        self.conv = nn.Conv2d(config.width, config.width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = x.permute(0, 2, 3, 1)  # (B, H, W, C)
        for block in self.blocks:
            y = block(y)
        return add(self.conv(y.permute(0, 3, 1, 2)), x)


class SwinLayers(nn.Module):
    """x + conv(groups(conv(x))) on (B, channels, H, W); H and W must be multiples of the window (ValueError)."""

    def __init__(self, channels: int, config: SwinConfig) -> None:
        super().__init__()
        self.window = config.window
        self.conv_in = nn.Conv2d(channels, config.width, 3, padding=1)
        self.groups = nn.ModuleList(SwinGroup(config) for _ in range(config.groups))
        self.conv_out = nn.Conv2d(config.width, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-2] % self.window or x.shape[-1] % self.window:
            h, w = x.shape[-2:]
            raise ValueError(f"token map {h}×{w}: both sides must be multiples of the window, {self.window}")
        y = self.conv_in(x)
        for group in self.groups:
            y = group(y)
        return add(self.conv_out(y), x)
