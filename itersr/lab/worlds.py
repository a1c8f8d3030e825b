"""A world in which everything is known: pictures of stripes, made from a seed.

A picture is cut into random cells (Voronoi). Each cell is filled with stripes that have a direction, a period, two colours and
a phase. Shrunk by four and blurred, short stripes lose their phase: the LQ picture may still tell direction, period and
colours, but not where a stripe begins. A token of such a cell can then be several things, and one neighbour tells which. With
long stripes the phase survives, and neighbours add nothing to what the LQ picture tells.

    python -m itersr.lab.worlds OUT [--count 400]      PNG files to train the tier `stripes` on
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from itersr.config import Tier
from itersr.training.validate import Pair, make_pairs

DIRECTIONS = (0.0, 45.0, 90.0, 135.0)  # degrees, of the way across the stripes
PERIODS = (7, 8, 10)  # pixels, at a dial of 1
COLORS = (  # pairs of RGB in [0, 1]
    ((0.95, 0.90, 0.75), (0.15, 0.25, 0.45)), ((0.90, 0.45, 0.25), (0.20, 0.10, 0.25)),
    ((0.85, 0.95, 0.85), (0.10, 0.40, 0.25)), ((0.95, 0.85, 0.30), (0.45, 0.15, 0.15)),
)
DIALS = (0.75, 1.0, 1.5, 2.0, 3.0)
"""What periods are multiplied by. At .75 an LQ picture of a quarter of the size has lost most phases, at 3 it has lost none."""
TEST, CHOOSE = 1_000_000, 2_000_000  # the first seeds of pictures to test on and to choose settings on
CELL = 48  # pixels: about the side of a cell


@dataclass(frozen=True)
class World:
    """A picture and what it was made of."""

    image: Tensor  # (3, H, W) in [0, 1]
    cell: Tensor  # which cell each pixel belongs to, (H, W)
    direction: Tensor  # of each cell, radians, (N,)
    period: Tensor  # pixels, (N,)
    color: Tensor  # which pair of COLORS, (N,)


def stripes(seed: int, size: int = 160, dial: float = 1.0) -> World:
    """The picture (3, size, size) of a seed. dial: what periods are multiplied by, see `DIALS`."""
    generator = torch.Generator().manual_seed(seed)
    n = max(round((size / CELL) ** 2), 1)
    centres = torch.rand(n, 2, generator=generator) * size
    places = torch.stack(torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij"), -1) + 0.5  # y, x
    cell = torch.cdist(places.view(-1, 2), centres).argmin(1).view(size, size)

    def choose(options: int) -> Tensor:
        return torch.randint(options, (n,), generator=generator)

    direction = torch.tensor(DIRECTIONS)[choose(len(DIRECTIONS))].deg2rad()
    period = torch.tensor(PERIODS)[choose(len(PERIODS))] * dial
    color = choose(len(COLORS))
    phase = torch.rand(n, generator=generator)
    along = places[..., 1] * direction[cell].cos() + places[..., 0] * direction[cell].sin()
    turns = along / period[cell] + phase[cell]
    bright = 0.5 + 0.5 * (4 * torch.sin(2 * math.pi * turns)).tanh()  # bars with an edge of about a pixel
    pairs = torch.tensor(COLORS)[color[cell]]  # (H, W, 2, 3)
    image = (pairs[..., 1, :] + bright[..., None] * (pairs[..., 0, :] - pairs[..., 1, :])).permute(2, 0, 1)
    return World(image, cell, direction, period, color)


def coherence(image: Tensor, world: World, window: int = 12) -> float:
    """How far the stripes of each cell are whole, from 0 to 1, in a restored picture (3, H, W).

    The picture, along the line between a cell's two colours, is compared with a wave of the cell's direction and period. In
    windows of `window` pixels that gives a local phase and strength, as one complex number. Over a cell these add up where they
    agree on a phase, and cancel where stripes are broken. The coherence is the length of that sum over the same of the world's
    own picture, all cells together. The true phase is not asked for: a cell whose stripes are whole and shifted counts fully.
    Cells with fewer than 8 whole windows are left out; NaN without any.
    """
    found = whole = 0.0
    for i in range(len(world.period)):
        local, own = _local_phases(image.cpu(), world, i, window), _local_phases(world.image, world, i, window)
        if len(own) >= 8:
            found += float(local.sum().abs())
            whole += float(own.sum().abs())
    return found / whole if whole else math.nan


def _local_phases(image: Tensor, world: World, i: int, window: int) -> Tensor:
    """Phase and strength of the stripes in each window that lies in cell i, as complex numbers (windows,)."""
    h, w = world.cell.shape
    y, x = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
    bright, dark = torch.tensor(COLORS[int(world.color[i])])
    axis = (bright - dark) / (bright - dark).square().sum()
    value = ((image - (bright + dark)[:, None, None] / 2) * axis[:, None, None]).sum(0)  # −½ to ½
    along = x * world.direction[i].cos() + y * world.direction[i].sin()
    wave = torch.polar(torch.ones_like(along), -2 * math.pi * along / world.period[i])
    local, inside = (m.unfold(0, window, window).unfold(1, window, window).mean((-1, -2))
                     for m in (value * wave, (world.cell == i).float()))
    return local[inside == 1]


@dataclass(frozen=True)
class WorldPair(Pair):
    """A picture of stripes as a pair of HQ and LQ, which knows what it was made of."""

    world: World

    def facts(self, image: Tensor) -> dict[str, float]:
        """The coherence of a restored picture (1, 3, H, W)."""
        return {"coherence": coherence(image[0], self.world)}


def pairs(tier: Tier, count: int, dial: float = 1.0, *, size: int = 128, first: int = TEST) -> list[Pair]:
    """`count` pictures with the seeds first, first + 1, …, degraded as the tier was trained.

    Pictures to train on have seeds from 0; those to choose settings on are best from `CHOOSE`, those to test on from `TEST`.
    """
    found: list[Pair] = []
    for seed in range(first, first + count):
        world = stripes(seed, size, dial)
        pair = make_pairs({f"stripes {seed}, dial {dial:g}": world.image}, tier, size)[0]
        found.append(WorldPair(pair.name, pair.hq, pair.lq, world))
    return found


def write(folder: Path, count: int, size: int = 160) -> None:
    """`count` pictures as PNG, the dials in turn."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        dial = DIALS[i % len(DIALS)]
        pixels = (stripes(i, size, dial).image * 255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(folder / f"{i:04d}_dial{dial:g}.png")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m itersr.lab.worlds", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder for the pictures")
    parser.add_argument("--count", type=int, default=400, help="how many (default: %(default)s)")
    parser.add_argument("--size", type=int, default=160, help="pixels along a side (default: %(default)s)")
    args = parser.parse_args(arguments)
    write(args.out, args.count, args.size)
    return 0


if __name__ == "__main__":
    sys.exit(main())
