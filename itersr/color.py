"""Colours of the result held to those of the input: a VQ decoder drifts in flat, low-frequency parts, where the input is right.

`model.upscale(image, color_fix="wavelet")`; names as users of StableSR and its kin know them. `wavelet` is the default because
it measured best (tests/benchmarks/bench_color.py); `model.restore` corrects nothing, it is Algorithm 2 alone.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

KINDS = ("none", "wavelet", "adain")
LEVELS = 2
"""À trous levels of `low_band`, in LQ pixels: details finer than about 2^LEVELS pixels of the input stay the model's own."""


def low_band(x: Tensor, levels: int = LEVELS) -> Tensor:
    """What `levels` levels of an à trous wavelet transform leave of (B, C, H, W): [1 2 1]/4 on both axes, holes growing."""
    taps = x.new_tensor([0.25, 0.5, 0.25])
    kernel = (taps[:, None] * taps).expand(x.shape[1], 1, 3, 3)
    for level in range(levels):
        hole = 2**level
        x = F.conv2d(F.pad(x, (hole,) * 4, mode="replicate"), kernel, dilation=hole, groups=x.shape[1])
    return x


def match(image: Tensor, lq: Tensor, kind: str, levels: int = LEVELS) -> Tensor:
    """The result (B, 3, s·H, s·W) in [0, 1] with colours of its input (B, 3, H, W); may reuse `image`'s memory.

    kind: "wavelet" replaces the low band of the result by the input's; "adain" gives every channel the input's mean and
    standard deviation; "none" leaves it. Needs room for one more picture of the result's size. ValueError for another kind.
    """
    if kind not in KINDS:
        raise ValueError(f"color_fix {kind!r}: there are {', '.join(KINDS)}")
    if kind == "none":
        return image
    if kind == "wavelet":
        missing = low_band(lq - F.interpolate(image, size=lq.shape[-2:], mode="area"), levels)
        return image.add_(F.interpolate(missing, size=image.shape[-2:], mode="bilinear", align_corners=False)).clamp_(0, 1)
    spread, wanted = (x.std((-2, -1), keepdim=True, correction=0) for x in (image, lq))
    mean, target = (x.mean((-2, -1), keepdim=True) for x in (image, lq))
    return image.sub_(mean).mul_(wanted / spread.clamp(min=1e-5)).add_(target).clamp_(0, 1)


def drift(image: Tensor, reference: Tensor, block: int = 32) -> Tensor:
    """Mean absolute difference of the mean colours of blocks of `block`² pixels, (B,): how far colours have drifted."""
    return F.avg_pool2d(image - reference, min(block, *image.shape[-2:])).abs().mean((1, 2, 3))
