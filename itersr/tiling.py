"""Large pictures in tiles: the same result as in one piece, in memory that does not grow with the picture.

In a network without a layer that mixes the whole picture, a place depends on a neighbourhood alone, its receptive field. A
tile that is computed with a margin (halo) of that width around it is therefore exact inside, and the inner parts are put
together without blending and without seams (`apply_tiled`). Windows of attention count from the origin, so tiles begin at
multiples of the window. Padding of convolutions and the mask of shifted windows act at the border of a tile too, where the
whole picture has none; the halo covers what they change (`reach`). Where a layer mixes the whole picture no halo is enough,
and tiles overlap and are cross-faded instead (`blend`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from itersr.config import SwinConfig, Tier

Part = Callable[[slice, slice], Tensor]  # the rows and columns to read -> what a network makes of them, (B, C, h, w)


@dataclass(frozen=True)
class Tile:
    """One tile along one axis: `core` is what it contributes, `read` what is computed for it (core and halo)."""

    core: slice
    read: slice

    @property
    def inner(self) -> slice:
        """Where `core` lies inside `read`."""
        return slice(self.core.start - self.read.start, self.core.stop - self.read.start)


def tiles(length: int, tile: int, overlap: int = 0, multiple: int = 1) -> list[Tile]:
    """Cut an axis of `length` places: the cores cover it once, in order, each of `tile` places (the last has the rest).

    overlap: width of the halo on each side where the axis goes on. Both are rounded to a multiple of `multiple` (tile down, but
    to one at least; overlap up), so that every `read` begins at a multiple, and ends at one or at the end of the axis.
    """
    step = max(multiple, tile // multiple * multiple)
    halo = -(-overlap // multiple) * multiple
    cores = [slice(start, min(start + step, length)) for start in range(0, length, step)]
    return [Tile(core, slice(max(0, core.start - halo), min(core.start + step + halo, length))) for core in cores]


def grid(size: tuple[int, int], tile: int, overlap: int = 0, multiple: int = 1) -> Iterator[tuple[Tile, Tile]]:
    """The tiles of a picture (height, width), row by row."""
    rows, columns = (tiles(length, tile, overlap, multiple) for length in size)
    return product(rows, columns)


def scaled(s: slice, factor: int) -> slice:
    """The same places where every place has become `factor` places."""
    return slice(s.start * factor, s.stop * factor)


# ------------------------------------------------------------------------------------------------------- how wide a halo


def swin_reach(places: int, config: SwinConfig) -> int:
    """How many places from a tile's border are wrong after `SwinLayers`, when `places` of its input are.

    A convolution carries an error one place further. A window that holds one wrong token is wrong as a whole: after a block
    the errors end at a border of its windows, which in every second block are shifted by half a side.
    """
    side = config.window
    places += 1
    for _ in range(config.groups):
        for block in range(config.depth):
            shift = side // 2 if block % 2 else 0
            places = max(shift, shift + -(-(places - shift) // side) * side)
        places += 1
    return places + 1


def reach(tier: Tier) -> dict[str, int]:
    """The halo, in tokens, with which a tile of each part is exact: "stem", "lq_encoder", "refiner", "evaluator", "decoder"."""
    places = 1  # E_l: a convolution, then in each stage one (of stride 2, perhaps) and two residual blocks of two
    for i in range(max(tier.halvings, 1)):
        places = -(-(places + 1) // (2 if i < tier.halvings else 1)) + 4
    decoder = float(swin_reach(3, tier.vqgan.swin) + 2)  # D_H: conv, block, Swin layers, block; then a finer grid at each level
    levels = len(tier.vqgan.multipliers)
    for level in range(levels):
        upsampled = 0.5 if level < levels - 1 else 1  # a convolution on the next grid; the last convolution on this one
        decoder += (2 * tier.vqgan.res_blocks + upsampled) / 2**level
    return {
        "stem": places,
        "lq_encoder": swin_reach(places, tier.lq_encoder.swin),
        "refiner": swin_reach(0, tier.refiner.swin),
        "evaluator": swin_reach(0, tier.evaluator.swin),
        "decoder": -int(-decoder // 1),
    }


def is_local(tier: Tier) -> bool:
    """Whether no layer mixes the whole picture (GroupNorm, the released gate), so that tiles can be exact."""
    nets = (tier.vqgan, tier.lq_encoder, tier.refiner, tier.evaluator)
    return not any(net.norm == "group" or net.swin.gate for net in nets)


# ------------------------------------------------------------------------------------------------------- putting together


def apply_tiled(fn: Part, size: tuple[int, int], tile: int, overlap: int, multiple: int = 1, factor: int = 1) -> Tensor:
    """What `fn` gives for a picture of `size` (H, W), computed tile by tile: (B, C, factor·H, factor·W).

    fn gets the rows and columns to read and gives (B, C, factor·rows, factor·columns). The result equals that of
    `fn(slice(0, H), slice(0, W))` when `overlap` covers fn's receptive field and windows divide `multiple`. Memory: the result
    and what fn needs for (tile + 2·overlap)² places.
    """
    out = torch.empty(0)
    for row, column in grid(size, tile, overlap, multiple):
        y = fn(row.read, column.read)
        if not out.numel():
            out = y.new_empty((*y.shape[:-2], size[0] * factor, size[1] * factor))
        inner = y[..., scaled(row.inner, factor), scaled(column.inner, factor)]
        out[..., scaled(row.core, factor), scaled(column.core, factor)] = inner
    return out


def ramp(tile: Tile, factor: int = 1) -> Tensor:
    """Blending weights of one tile along one axis, (read length · factor,): 1 inside, falling to 0 over the overlaps.

    Two neighbours' ramps are symmetric about their common border and add up to 1; at the ends of the axis there is nothing to
    blend with and the weight stays 1.
    """
    size = (tile.read.stop - tile.read.start) * factor
    places = torch.arange(size, dtype=torch.float32) + 0.5
    weight = torch.ones(size)
    if before := tile.core.start - tile.read.start:
        weight = torch.minimum(weight, places / float(2 * before * factor))
    if after := tile.read.stop - tile.core.stop:
        weight = torch.minimum(weight, (size - places) / float(2 * after * factor))
    return weight


def blend(fn: Part, size: tuple[int, int], tile: int, overlap: int, multiple: int = 1, factor: int = 1) -> Tensor:
    """What `fn` gives for a picture of `size`, where no halo makes tiles exact: neighbours are cross-faded.

    Arguments as for `apply_tiled`, the result in float32; constant pictures stay constant.
    """
    total = torch.empty(0)
    weights = torch.zeros(size[0] * factor, size[1] * factor)
    for row, column in grid(size, tile, overlap, multiple):
        y = fn(row.read, column.read)
        if not total.numel():
            total = y.new_zeros((*y.shape[:-2], *weights.shape), dtype=torch.float32)
        weight = ramp(row, factor)[:, None] * ramp(column, factor)
        rows, columns = scaled(row.read, factor), scaled(column.read, factor)
        total[..., rows, columns] += y.float() * weight.to(y.device)
        weights[rows, columns] += weight
    return total.div_(weights.to(total.device))


def whole_windows(images: Tensor, unit: int) -> Tensor:
    """Mirror images (B, C, H, W) at their right and bottom until both sides are multiples of `unit`, and no further."""
    for dim in (-1, -2):  # one axis at a time, in as many mirrors as a very small picture needs
        while missing := -images.shape[dim] % unit:
            add = min(missing, images.shape[dim])
            images = torch.cat([images, images.narrow(dim, images.shape[dim] - add, add).flip(dim)], dim)
    return images
