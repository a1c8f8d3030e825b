"""Large pictures in tiles: the same result as in one piece, in memory that does not grow with the picture.

A network without a layer that mixes the whole picture gives a place a value that depends on its neighbourhood alone, its
receptive field. A tile that is computed with a margin (halo) of that width around it is therefore exact inside, and its inner
part can be put in place as it is: no blending, no seams. Windows of attention, strides and padding count from the origin, so
tiles begin at multiples of `multiple` (Swin: twice the shift, that is the window; a strided network: its stride as well).
Where the receptive field is larger than a halo can be, tiles overlap and are `blended` instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor


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
    """Cut an axis into tiles: the cores cover 0..length once, in order, each of `tile` places (the last has the rest).

    Args:
        length: places along the axis.
        tile: places a core has; rounded down to a multiple of `multiple`, but at least one.
        overlap: halo on each side where the axis goes on; rounded up to a multiple of `multiple`.
        multiple: every `read` begins at a multiple of this, and ends at one or at the end of the axis.

    Raises:
        ValueError: a length, tile or multiple below 1, or a negative overlap.
    """
    for name, value, least in (("length", length, 1), ("tile", tile, 1), ("multiple", multiple, 1), ("overlap", overlap, 0)):
        if value < least:
            raise ValueError(f"{name} is {value}, needed at least {least}")
    step = max(multiple, tile // multiple * multiple)
    halo = -(-overlap // multiple) * multiple
    return [
        Tile(
            core=slice(start, min(start + step, length)),
            read=slice(max(0, start - halo), min(start + step + halo, length)),
        )
        for start in range(0, length, step)
    ]


def grid(size: tuple[int, int], tile: int, overlap: int = 0, multiple: int = 1) -> Iterator[tuple[Tile, Tile]]:
    """The tiles of a picture (height, width), row by row."""
    rows, columns = (tiles(length, tile, overlap, multiple) for length in size)
    for row in rows:
        for column in columns:
            yield row, column


Factor = int | Fraction


def scaled(s: slice, factor: Factor) -> slice:
    """The same stretch where every place has become `factor` places (a Fraction where places are merged)."""
    return slice(int(s.start * factor), int(s.stop * factor))


def apply_tiled(
    fn: Callable[[Tensor], Tensor], x: Tensor, tile: int, overlap: int, factor: Factor = 1, multiple: int = 1
) -> Tensor:
    """fn(x) tile by tile: (B, C, H, W) -> (B, C', factor·H, factor·W).

    Equal to `fn(x)` when `overlap` covers fn's receptive field, fn pads with what it would see outside the picture only (zeros
    at the border stay at the border), and windows and strides divide `multiple`. A picture that one tile covers goes through fn
    as it is. Memory: the result, and fn's needs for one tile of at most (tile + 2·overlap)².

    Args:
        fn: a network; gets (B, C, h, w), gives (B, C', factor·h, factor·w).
        x: what to run it on.
        tile, overlap, multiple: in places of x, see `tiles`.
        factor: how many places along a side fn makes of one; Fraction(1, 2) for a network that halves (`multiple` must then
            be a multiple of 2, and the picture's sides too).

    Raises:
        ValueError: fn gives another size, and what `tiles` refuses.
    """
    h, w = x.shape[-2:]
    out: Tensor | None = None
    for row, column in grid((h, w), tile, overlap, multiple):
        y = _run(fn, x[..., row.read, column.read], factor)
        if out is None:
            out = y.new_empty((*y.shape[:-2], int(h * factor), int(w * factor)))
        inner = y[..., scaled(row.inner, factor), scaled(column.inner, factor)]
        out[..., scaled(row.core, factor), scaled(column.core, factor)] = inner
    assert out is not None  # there is at least one tile
    return out


def _run(fn: Callable[[Tensor], Tensor], part: Tensor, factor: Factor) -> Tensor:
    y = fn(part)
    wanted = (part.shape[-2] * factor, part.shape[-1] * factor)
    if tuple(y.shape[-2:]) != wanted:
        sizes = f"{tuple(y.shape[-2:])} of a tile {tuple(part.shape[-2:])}, needed ({wanted[0]}, {wanted[1]})"
        raise ValueError(f"fn made {sizes}")
    return y


def ramp(tile: Tile, length: int, factor: Factor = 1) -> Tensor:
    """Blending weights of one tile along one axis, (read length · factor,): 1 inside, falling to 0 over the overlaps.

    Two neighbours' ramps, as `tiles` cuts them, are symmetric about their common border, so that they add up to 1 on it; at the
    ends of the axis there is nothing to blend with and the weight stays 1.
    """
    size = int((tile.read.stop - tile.read.start) * factor)
    places = torch.arange(size, dtype=torch.float32) + 0.5
    weight = torch.ones(size)
    before, after = tile.core.start - tile.read.start, tile.read.stop - tile.core.stop
    if tile.core.start > 0 and before > 0:
        weight = torch.minimum(weight, places / float(2 * before * factor))
    if tile.core.stop < length and after > 0:
        weight = torch.minimum(weight, (size - places) / float(2 * after * factor))
    return weight


def blend(
    fn: Callable[[Tensor], Tensor], x: Tensor, tile: int, overlap: int, factor: Factor = 1, multiple: int = 1
) -> Tensor:
    """fn(x) tile by tile where no halo can make tiles exact: neighbours are cross-faded over their overlap.

    Arguments, result and errors as for `apply_tiled`; constant pictures stay constant, and without overlap it is the same.
    """
    h, w = x.shape[-2:]
    total: Tensor | None = None
    weights = torch.zeros(int(h * factor), int(w * factor))
    for row, column in grid((h, w), tile, overlap, multiple):
        y = _run(fn, x[..., row.read, column.read], factor)
        if total is None:
            total = y.new_zeros((*y.shape[:-2], int(h * factor), int(w * factor)), dtype=torch.float32)
        weight = ramp(row, h, factor)[:, None] * ramp(column, w, factor)[None, :]
        place = (scaled(row.read, factor), scaled(column.read, factor))
        total[..., place[0], place[1]] += y.float() * weight.to(y.device)
        weights[place[0], place[1]] += weight
    assert total is not None
    return total / weights.to(total.device)
