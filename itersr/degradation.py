"""Second-order degradation: from a sharp photo to a low-quality one, as ITER's training pairs are made.

    HQ ─ blur ─ resize ─ noise ─ JPEG ─┐                      first order
       ┌───────────────────────────────┘
       └ blur ─ resize ─ noise ─┐                             second order
       ┌────────────────────────┘
       └ (resize to H/s, sinc, JPEG) or (JPEG, resize to H/s, sinc) ─ LQ

The model and its default ranges are Real-ESRGAN's (Wang et al. 2021, section 3 and the published training options for
x4), which ITER's section 4.1 follows. Theirs draws size, interpolation and noise type once a batch; here every image has
its own draw.

Three parts: what may happen (`Degradation`), what was drawn (`Draw`, plain numbers that can be stored and replayed), and
the operators, pure functions of tensors. `degrade` is `draw` followed by `apply`. All randomness comes from a CPU
generator, noise too: one seed means one picture on every device, up to float rounding.
"""

from __future__ import annotations

import io
import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

# ---------------------------------------------------------------------------------------------------- what may happen

Range = tuple[float, float]  # [low, high], drawn uniformly
FAMILIES = ("iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso")
INTERPOLATIONS = ("area", "bilinear", "bicubic")
NUMBERS_PER_DRAW = 64  # uniform numbers that one image takes from the generator, used or not


@dataclass(frozen=True)
class Degradation:
    """Every probability and range of the degradation; the defaults are Real-ESRGAN's published values.

    A field that holds a pair of entries has one for the first order and one for the second.
    """

    # Probability of the second order. Without it the first JPEG is left out too: the last one takes its place, and what
    # remains is the classical chain blur, resize, noise, JPEG.
    second_order: float = 1.0

    # Blur: probability that an order blurs; odd kernel sizes, both ends included, equally likely.
    blur: tuple[float, float] = (1.0, 0.8)
    kernel_size: tuple[tuple[int, int], tuple[int, int]] = ((7, 21), (7, 21))
    # Probability of a sinc kernel (ringing) in place of the six families, and its cut-off ω in radians a pixel,
    # for kernels of a size below `sinc_small` and for the others.
    sinc: tuple[float, float] = (0.1, 0.1)
    sinc_small: int = 13
    sinc_cutoff_small: tuple[Range, Range] = ((math.pi / 3, math.pi), (math.pi / 3, math.pi))
    sinc_cutoff_large: tuple[Range, Range] = ((math.pi / 5, math.pi), (math.pi / 5, math.pi))
    # Probabilities of the six families, in the order of FAMILIES.
    families: tuple[tuple[float, ...], tuple[float, ...]] = ((0.45, 0.25, 0.12, 0.03, 0.12, 0.03),) * 2
    # Width σ in pixels (one draw for an isotropic kernel, one for each axis of an anisotropic one) and the angle of
    # the first axis.
    sigma: tuple[Range, Range] = ((0.2, 3.0), (0.2, 1.5))
    angle: tuple[Range, Range] = ((-math.pi, math.pi), (-math.pi, math.pi))
    # Shape β of the generalized families (β = 1 is the Gaussian) and of the plateau families. With probability
    # `beta_below_one` it is drawn from [low, 1], else from [1, high]; a range that starts at 1 gives β = 1 that often.
    beta_generalized: tuple[Range, Range] = ((0.5, 4.0), (0.5, 4.0))
    beta_plateau: tuple[Range, Range] = ((1.0, 2.0), (1.0, 2.0))
    beta_below_one: float = 0.5

    # Resize: probabilities of up, down and keep, and the factors. The first order's factor is relative to the HQ size,
    # the second order's to the final LQ size. Probabilities of INTERPOLATIONS, none with an anti-aliasing filter.
    resize: tuple[tuple[float, float, float], tuple[float, float, float]] = ((0.2, 0.7, 0.1), (0.3, 0.4, 0.3))
    resize_up: tuple[Range, Range] = ((1.0, 1.5), (1.0, 1.2))
    resize_down: tuple[Range, Range] = ((0.15, 1.0), (0.3, 1.0))
    interpolation: tuple[float, float, float] = (1 / 3, 1 / 3, 1 / 3)

    # Noise: probability of Gaussian (else Poisson), its σ in 1/255, the Poisson noise's scale, probability of the
    # same noise in R, G and B.
    gaussian: tuple[float, float] = (0.5, 0.5)
    gaussian_sigma: tuple[Range, Range] = ((1.0, 30.0), (1.0, 25.0))
    poisson_scale: tuple[Range, Range] = ((0.05, 3.0), (0.05, 2.5))
    grey: tuple[float, float] = (0.4, 0.4)

    # JPEG quality, both ends included: after the first order, and in the last step.
    jpeg_quality: tuple[tuple[int, int], tuple[int, int]] = ((30, 95), (30, 95))

    # Last step: probability of (resize, sinc, JPEG) against (JPEG, resize, sinc); probability that there is a sinc
    # filter; kernel size and cut-off of that filter.
    last_jpeg_after: float = 0.5
    last_sinc: float = 0.8
    last_kernel_size: tuple[int, int] = (7, 21)
    last_sinc_cutoff: Range = (math.pi / 3, math.pi)

    def __post_init__(self) -> None:
        """Raises ValueError, naming the field, for what is no probability, no range, or an even kernel size."""
        for name in ("second_order", "blur", "sinc", "beta_below_one", "gaussian", "grey", "last_jpeg_after", "last_sinc"):
            if not all(0 <= p <= 1 for p in np.ravel(getattr(self, name))):
                raise ValueError(f"Degradation.{name} is {getattr(self, name)}, need a probability in [0, 1]")
        for name, needed in (("families", 6), ("resize", 3), ("interpolation", 3)):
            choices = np.atleast_2d(getattr(self, name))  # a row for each order
            if choices.shape[1] != needed or choices.min() < 0 or not np.allclose(choices.sum(1), 1):
                raise ValueError(f"Degradation.{name} is {getattr(self, name)}, need {needed} probabilities that add up to 1")
        limits = {
            "kernel_size": (1, math.inf), "last_kernel_size": (1, math.inf),
            "sinc_cutoff_small": (0, math.pi), "sinc_cutoff_large": (0, math.pi), "last_sinc_cutoff": (0, math.pi),
            "sigma": (1e-3, math.inf), "angle": (-math.inf, math.inf),
            "beta_generalized": (1e-3, math.inf), "beta_plateau": (1e-3, math.inf),
            "resize_up": (1, math.inf), "resize_down": (1e-3, 1),
            "gaussian_sigma": (0, math.inf), "poisson_scale": (0, math.inf), "jpeg_quality": (1, 100),
        }  # fmt: skip
        for name, (low, high) in limits.items():
            for a, b in np.atleast_2d(getattr(self, name)):
                if not low <= a <= b <= high:
                    raise ValueError(f"Degradation.{name} is [{a}, {b}], need a range inside [{low}, {high}]")
                if name.endswith("kernel_size") and not a % 2 == b % 2 == 1:
                    raise ValueError(f"Degradation.{name} is [{a}, {b}], need odd sizes")


PUBLISHED = Degradation()

# For networks that are too small for the full range: one order, each step of it gentler, and no ringing. On the Kodak photos
# the sinc filters alone take bicubic's LPIPS from .53 to .66, which leaves little for a small E_l to read. Half of the
# pictures get Poisson noise; at the end of its scale its σ at mid-grey is that of the Gaussian's end (10/255).
MILD = Degradation(
    second_order=0.0,
    sinc=(0.0, 0.0),
    last_sinc=0.0,
    sigma=((0.2, 2.0), (0.2, 1.5)),
    resize_up=((1.0, 1.2), (1.0, 1.2)),
    resize_down=((0.5, 1.0), (0.3, 1.0)),
    gaussian_sigma=((0.0, 10.0), (0.0, 10.0)),
    poisson_scale=((0.0, 0.9), (0.0, 0.9)),
    jpeg_quality=((50, 95), (50, 95)),
)


# ---------------------------------------------------------------------------------------------- what was drawn


@dataclass(frozen=True)
class Kernel:
    """A blur kernel by its numbers: one of FAMILIES with σ (pixels), angle (radians), β, or "sinc" with cut-off ω."""

    family: str
    size: int
    sigma_x: float = 0.0
    sigma_y: float = 0.0
    angle: float = 0.0
    beta: float = 1.0
    cutoff: float = 0.0


@dataclass(frozen=True)
class Noise:
    """Noise by its numbers: "gaussian" with σ in 1/255 or "poisson" with its scale; `seed` makes the field itself."""

    kind: str
    strength: float
    grey: bool
    seed: int


@dataclass(frozen=True)
class Order:
    """One order: blur (or None), resize, noise. `factor` is relative to the HQ size in the first, the LQ size in the second."""

    kernel: Kernel | None
    factor: float
    interpolation: str
    noise: Noise


@dataclass(frozen=True)
class Draw:
    """All that was drawn for one image: enough to make its LQ image again, and plain enough for a line of JSON."""

    first: Order
    jpeg_first: int
    second: Order | None
    interpolation: str
    sinc: Kernel | None
    jpeg_after: bool
    jpeg_last: int

    def to_dict(self) -> dict[str, Any]:
        """Nested dictionary of numbers, strings and None; `Draw.from_dict` is its inverse, also through JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Draw:
        """The draw that `to_dict` wrote. Raises TypeError or KeyError, with its name, where a field is missing or unknown."""
        def kernel(record: dict[str, Any] | None) -> Kernel | None:
            return Kernel(**record) if record else None

        def order(record: dict[str, Any]) -> Order:
            return Order(**{**record, "kernel": kernel(record["kernel"]), "noise": Noise(**record["noise"])})

        second = order(record["second"]) if record["second"] else None
        return cls(**{**record, "first": order(record["first"]), "second": second, "sinc": kernel(record["sinc"])})


class _Numbers:
    """Uniform numbers turned into what a draw needs, each from one number, in a fixed order."""

    def __init__(self, numbers: Sequence[float]) -> None:
        self.numbers = iter(numbers)

    def chance(self, probability: float) -> bool:
        return next(self.numbers) < probability

    def uniform(self, limits: Range) -> float:
        low, high = limits
        return low + (high - low) * next(self.numbers)

    def integer(self, low: int, high: int, step: int = 1) -> int:
        return low + step * int(next(self.numbers) * ((high - low) // step + 1))

    def choice(self, probabilities: Sequence[float]) -> int:
        last = max(i for i, p in enumerate(probabilities) if p > 0)  # for a number above a sum that rounding left below 1
        return min(bisect_right(list(accumulate(probabilities)), next(self.numbers)), last)


def draw(batch: int, *, generator: torch.Generator, ranges: Degradation = PUBLISHED) -> list[Draw]:
    """Draw the degradation of `batch` images.

    Every image takes the same count of numbers from the generator, whatever is drawn: a batch of n is n batches of one,
    and two ranges under one seed differ only where they say so.
    """
    return [_draw_one(ranges, generator) for _ in range(batch)]


def _draw_one(ranges: Degradation, generator: torch.Generator) -> Draw:
    numbers = _Numbers(torch.rand(NUMBERS_PER_DRAW, generator=generator, dtype=torch.float64).tolist())
    second_order = numbers.chance(ranges.second_order)
    first, second = (_draw_order(ranges, i, numbers) for i in (0, 1))
    jpeg_first, jpeg_last = (numbers.integer(*ranges.jpeg_quality[i]) for i in (0, 1))
    interpolation = INTERPOLATIONS[numbers.choice(ranges.interpolation)]
    filtered = numbers.chance(ranges.last_sinc)
    size, cutoff = numbers.integer(*ranges.last_kernel_size, step=2), numbers.uniform(ranges.last_sinc_cutoff)
    sinc = Kernel("sinc", size, cutoff=cutoff) if filtered else None
    jpeg_after = numbers.chance(ranges.last_jpeg_after)
    return Draw(first, jpeg_first, second if second_order else None, interpolation, sinc, jpeg_after, jpeg_last)


def _draw_order(ranges: Degradation, i: int, numbers: _Numbers) -> Order:
    blurred = numbers.chance(ranges.blur[i])
    kernel = _draw_kernel(ranges, i, numbers)
    way = numbers.choice(ranges.resize[i])
    up, down = numbers.uniform(ranges.resize_up[i]), numbers.uniform(ranges.resize_down[i])
    interpolation = INTERPOLATIONS[numbers.choice(ranges.interpolation)]
    gaussian = numbers.chance(ranges.gaussian[i])
    sigma, scale = numbers.uniform(ranges.gaussian_sigma[i]), numbers.uniform(ranges.poisson_scale[i])
    grey, seed = numbers.chance(ranges.grey[i]), numbers.integer(0, 2**48 - 1)
    noise = Noise("gaussian", sigma, grey, seed) if gaussian else Noise("poisson", scale, grey, seed)
    return Order(kernel if blurred else None, (up, down, 1.0)[way], interpolation, noise)


def _draw_kernel(ranges: Degradation, i: int, numbers: _Numbers) -> Kernel:
    size = numbers.integer(*ranges.kernel_size[i], step=2)
    is_sinc = numbers.chance(ranges.sinc[i])
    cutoff = numbers.uniform((ranges.sinc_cutoff_small if size < ranges.sinc_small else ranges.sinc_cutoff_large)[i])
    family = FAMILIES[numbers.choice(ranges.families[i])]
    sigma_x, sigma_y = numbers.uniform(ranges.sigma[i]), numbers.uniform(ranges.sigma[i])
    angle = numbers.uniform(ranges.angle[i])
    low, high = (ranges.beta_plateau if family.startswith("plateau") else ranges.beta_generalized)[i]
    below = numbers.chance(ranges.beta_below_one)
    beta = numbers.uniform((min(low, 1.0), min(high, 1.0)) if below else (max(low, 1.0), max(high, 1.0)))
    if is_sinc:
        return Kernel("sinc", size, cutoff=cutoff)
    if not family.startswith(("generalized", "plateau")):
        beta = 1.0
    if not family.endswith("aniso"):
        sigma_y, angle = sigma_x, 0.0
    return Kernel(family, size, sigma_x, sigma_y, angle, beta)


# ------------------------------------------------------------------------------------------------------ kernels


def _squared_distance(size: int, sigma_x: float, sigma_y: float, angle: float) -> Tensor:
    """xᵀ Σ⁻¹ x for each pixel x of a kernel, from its middle; Σ has σ_x and σ_y along axes turned by `angle`."""
    axis = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    y, x = axis[:, None], axis[None, :]
    along, across = math.cos(angle) * x + math.sin(angle) * y, math.cos(angle) * y - math.sin(angle) * x
    return (along / sigma_x) ** 2 + (across / sigma_y) ** 2  # (size, size)


def generalized_kernel(size: int, sigma_x: float, sigma_y: float, angle: float = 0.0, beta: float = 1.0) -> Tensor:
    """Generalized Gaussian exp(−q^β / 2), q = xᵀ Σ⁻¹ x: (size, size) float64 of sum 1. Isotropic for σ_x = σ_y.

    The Gaussian for β = 1, peaked for β < 1, flat-topped for β > 1.
    """
    kernel = torch.exp(-0.5 * _squared_distance(size, sigma_x, sigma_y, angle) ** beta)
    return kernel / kernel.sum()


def plateau_kernel(size: int, sigma_x: float, sigma_y: float, angle: float, beta: float) -> Tensor:
    """Plateau-shaped kernel 1 / (1 + q^β): long tails, like a lens out of focus. (size, size) float64 of sum 1."""
    kernel = 1 / (1 + _squared_distance(size, sigma_x, sigma_y, angle) ** beta)
    return kernel / kernel.sum()


def sinc_kernel(size: int, cutoff: float) -> Tensor:
    """Circular low-pass ω J₁(ω r) / (2π r) that stops at ω radians a pixel; it rings, as sharpening and strong JPEG do.

    (size, size) float64 of sum 1. It is the ideal filter cut to the kernel's window.
    """
    r = _squared_distance(size, 1.0, 1.0, 0.0).sqrt()
    ring = cutoff * torch.special.bessel_j1(cutoff * r) / (2 * math.pi * r)
    kernel = torch.where(r > 0, ring, cutoff**2 / (4 * math.pi))  # its limit in the middle
    return kernel / kernel.sum()


def kernel_weights(kernel: Kernel) -> Tensor:
    """The weights of a drawn kernel, (size, size) float64 of sum 1. Raises ValueError for an unknown family."""
    if kernel.family == "sinc":
        return sinc_kernel(kernel.size, kernel.cutoff)
    if kernel.family not in FAMILIES:
        raise ValueError(f"kernel family is {kernel.family!r}, need 'sinc' or one of {FAMILIES}")
    make = plateau_kernel if kernel.family.startswith("plateau") else generalized_kernel  # β is 1 for the Gaussian
    return make(kernel.size, kernel.sigma_x, kernel.sigma_y, kernel.angle, kernel.beta)


# ---------------------------------------------------------------------------------------------------- operators


def mirror_pad(images: Tensor, width: int) -> Tensor:
    """Pad (B,C,H,W) by `width` on all sides, mirrored about the edge pixel, again and again if the image is smaller."""
    if width < min(images.shape[-2:]):
        return F.pad(images, [width] * 4, mode="reflect")  # the same, and faster
    for dim in (-2, -1):
        n = images.shape[dim]
        period = max(2 * n - 2, 1)
        index = torch.arange(-width, n + width, device=images.device).remainder(period)
        images = images.index_select(dim, torch.where(index < n, index, period - index))
    return images


def blur(images: Tensor, kernel: Tensor) -> Tensor:
    """Correlate (B,3,H,W) with one odd (k,k) kernel, borders mirrored.

    Three savings, all exact. A kernel that is the product of its margins (an isotropic Gaussian) runs as a column and a
    row, 2k products instead of k². The picture is cut into five strips that go through one grouped convolution as 15
    channels: the CPU works on 16 channels at a time. And sizes are rounded up, because the library prepares a convolution
    anew for every size that it meets.
    """
    b, c, h, w = images.shape
    k, strips = kernel.shape[-1], 5
    height, width = 4 * -(-h // (4 * strips)), 16 * -(-w // 16)  # of a strip, rounded up
    padded = F.pad(mirror_pad(images, k // 2), [0, width - w, 0, strips * height - h])
    cut = padded.unfold(2, height + k - 1, height).transpose(3, 4)  # (B, 3, strips, height+k-1, width+k-1)
    filtered = cut.reshape(b, c * strips, height + k - 1, width + k - 1)
    column, row = kernel.sum(1, keepdim=True), kernel.sum(0, keepdim=True)
    separable = torch.allclose(column * row, kernel * kernel.sum(), rtol=0, atol=1e-9)
    for part in (column, row / kernel.sum()) if separable else (kernel,):
        weights = part.to(images).expand(c * strips, 1, *part.shape)
        filtered = F.conv2d(filtered, weights, groups=c * strips)
    return filtered.reshape(b, c, strips * height, width)[..., :h, :w]


def resize(images: Tensor, size: tuple[int, int], interpolation: str) -> Tensor:
    """Resize (B,3,H,W) to (height, width) by "area", "bilinear" or "bicubic" (a = −0.75), with no smoothing first."""
    if tuple(images.shape[-2:]) == size:
        return images
    return F.interpolate(images, size=size, mode=interpolation)


def add_gaussian_noise(images: Tensor, sigma: float, *, grey: bool, generator: torch.Generator) -> Tensor:
    """Add Gaussian noise of σ = `sigma`/255 to (B,3,H,W), the same in R, G and B if `grey`; not clamped."""
    b, c, h, w = images.shape
    field = torch.randn(b, 1 if grey else c, h, w, generator=generator)
    return images + field.to(images) * (sigma / 255)


def add_poisson_noise(images: Tensor, scale: float, *, grey: bool, generator: torch.Generator) -> Tensor:
    """Add `scale` times Poisson (photon) noise to (B,3,H,W), that of the grey picture if `grey`; not clamped.

    As published: the picture, rounded to 1/255, is read as photon counts out of v, the power of two at or above the
    count of values that occur in it, so that the noise's variance is scale² · image / v.
    """
    levels = (luma(images) if grey else images).mul(255).round_().clamp_(0, 255)  # integers as floats
    noise = torch.empty(levels.shape)
    for i, one in enumerate(levels.cpu()):
        values = int((torch.bincount(one.flatten().to(torch.int64), minlength=256) > 0).sum())
        photons = 2 ** math.ceil(math.log2(values))
        mean = one / 255
        noise[i] = torch.poisson(mean * photons, generator=generator) / photons - mean
    return images + noise.to(images) * scale


def luma(images: Tensor) -> Tensor:
    """Grey value 0.2989 R + 0.587 G + 0.114 B (ITU-R BT.601) of (B,3,H,W), as (B,1,H,W)."""
    r, g, b = images.unbind(1)
    return (0.2989 * r + 0.587 * g + 0.114 * b)[:, None]


def add_noise(images: Tensor, noise: Noise) -> Tensor:
    """Add the drawn noise to (B,3,H,W) and clamp to [0, 1]. Raises KeyError for an unknown kind."""
    add = {"gaussian": add_gaussian_noise, "poisson": add_poisson_noise}[noise.kind]
    return add(images, noise.strength, grey=noise.grey, generator=torch.Generator().manual_seed(noise.seed)).clamp_(0, 1)


def jpeg(images: Tensor, quality: int) -> Tensor:
    """Write (B,3,H,W) as JPEG and read it again: libjpeg itself, 4:2:0 chroma. Clamped and rounded as a file is."""
    pixels = images.mul(255).round_().clamp_(0, 255).to(torch.uint8).cpu().numpy()  # (B,3,H,W)
    coded = np.empty_like(pixels)
    for planes, out in zip(pixels, coded, strict=True):
        file = io.BytesIO()
        Image.merge("RGB", [Image.fromarray(plane) for plane in planes]).save(file, "JPEG", quality=quality)
        for plane, band in zip(out, Image.open(file).split(), strict=True):
            plane[:] = band
    return torch.from_numpy(coded).to(images.device).to(images.dtype).div_(255)


def round_to_bytes(images: Tensor) -> Tensor:
    """Clamp to [0, 1] and round to multiples of 1/255, the values that an 8-bit file can hold."""
    return images.mul(255).round_().clamp_(0, 255).div_(255)


# ---------------------------------------------------------------------------------------------------- the chain


def degrade(hq: Tensor, *, generator: torch.Generator, scale: int = 4, ranges: Degradation = PUBLISHED) -> Tensor:
    """Make LQ images: (B,3,H,W) in [0, 1] to (B,3,H/scale,W/scale), multiples of 1/255, each image with its own draw.

    `generator` is a CPU generator, whatever the device of `hq`; the same state gives the same batch again.
    Raises ValueError for a wrong shape, type or range, or sizes that are no multiple of `scale`.
    """
    return apply(hq, draw(len(hq), generator=generator, ranges=ranges), scale=scale)


@torch.no_grad()
def apply(hq: Tensor, draws: Sequence[Draw], *, scale: int = 4) -> Tensor:
    """Degrade each image of (B,3,H,W) as its draw says; shapes, range and errors as for `degrade`.

    The same draw gives the same image, alone or in a batch.
    """
    if hq.ndim != 4 or hq.shape[1] != 3 or not hq.is_floating_point():
        raise ValueError(f"hq has shape {tuple(hq.shape)} and is {hq.dtype}, need (B, 3, H, W) and floating point")
    h, w = hq.shape[2:]
    if scale < 1 or not h or not w or h % scale or w % scale:
        raise ValueError(f"hq is {h}×{w}, need multiples of scale {scale}, which is 1 or more")
    if hq.numel() and not (hq.min() >= -1e-3 and hq.max() <= 1 + 1e-3):  # also true for NaN
        raise ValueError(f"hq has values in [{hq.min():.4g}, {hq.max():.4g}], need [0, 1]")
    if len(hq) == 0:
        return hq.new_zeros(0, 3, h // scale, w // scale)
    return torch.cat([_degrade_one(image, d, scale) for image, d in zip(hq.float().split(1), draws, strict=True)])


def _degrade_one(image: Tensor, d: Draw, scale: int) -> Tensor:
    """One image (1,3,H,W) to its LQ image (1,3,H/scale,W/scale): the diagram at the top of this file, line by line."""
    h, w = image.shape[2] // scale, image.shape[3] // scale
    image = _order(image, d.first, scale * h, scale * w)
    if d.second is not None:
        image = jpeg(image, d.jpeg_first)
        image = _order(image, d.second, h, w)
    if not d.jpeg_after:
        image = jpeg(image, d.jpeg_last)
    image = resize(image, (h, w), d.interpolation)
    if d.sinc is not None:
        image = blur(image, kernel_weights(d.sinc))
    if d.jpeg_after:
        image = jpeg(image, d.jpeg_last)
    return round_to_bytes(image)


def _order(image: Tensor, order: Order, h: int, w: int) -> Tensor:
    if order.kernel is not None:
        image = blur(image, kernel_weights(order.kernel))
    size = max(1, int(h * order.factor)), max(1, int(w * order.factor))
    return add_noise(resize(image, size, order.interpolation), order.noise)
