"""The networks of a model on one picture, in tiles or in one piece, in the form in which Algorithm 2 calls them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from itersr import tiling
from itersr.sampling import categorical

if TYPE_CHECKING:
    from itersr.model import ITER

BLENDED_OVERLAP = 16
"""By how many tokens tiles overlap their neighbours on each side where no halo makes them exact (`paper`)."""


def tile_for(model: ITER, size: tuple[int, int], tile: int | None = None) -> int:
    """The side of a tile in LQ pixels for a picture of `size` (height, width), 0 for one piece.

    tile: what is asked for. None chooses: one piece up to a size whose largest map in D_H has 25 million numbers (216×216 at
    `tiny`), beyond it tiles of that size, which need about a gigabyte. Four times as many on a GPU, and where tiles are not
    exact (`paper`), because larger tiles are nearer to the whole. Raises ValueError for a negative tile.
    """
    unit = model.tier.unit // model.tier.scale
    if tile is None:
        numbers = 25_000_000 * (1 if tiling.is_local(model.tier) and model.device.type == "cpu" else 4)
        side = math.isqrt(numbers // model.tier.vqgan.width) // model.tier.scale
        tile = side // unit * unit
        return 0 if size[0] * size[1] <= tile**2 else tile
    if tile < 0:
        raise ValueError(f"tile = {tile}: must be a number of LQ pixels, or 0 for one piece")
    tile = max(unit, tile // unit * unit) if tile else 0
    return 0 if max(size) <= tile else tile


class TiledNetworks:
    """E_l, φ_r, φ_e and D_H on one padded LQ image. Each works in tiles; one piece is a single tile.

    First `read` the image; `propose` and `evaluate` are then φ_r and φ_e for all of it. `decode` needs no `read`.
    """

    def __init__(self, model: ITER, size: tuple[int, int], tile: int, tick: Callable[[], None] = lambda: None) -> None:
        """size: height and width of the padded image, tile: side of a tile, both in LQ pixels; tile 0: one piece.

        tick is called before each tile of E_l, φ_r, φ_e and D_H.
        """
        self.model, self.tick = model, tick
        self.size = size[0] // model.cell, size[1] // model.cell  # in tokens
        self.tile = tile // model.cell or max(self.size)
        self.one_piece = self.tile >= max(self.size)
        self.window = model.tier.lq_encoder.swin.window
        self.exact, self.reach = tiling.is_local(model.tier), tiling.reach(model.tier)
        self.kept: Tensor | None = None  # see `read`
        self.lq_features: Tensor | None = None

    def cut(self, network: str) -> tuple[tuple[int, int], int, int, int]:
        """How the token map is cut for a network, see `tiling.tiles`: its size, and side, halo and unit of the tiles."""
        return self.size, self.tile, self.reach[network] if self.exact else BLENDED_OVERLAP, self.window

    def join(self, network: str, part: tiling.Part, factor: int = 1) -> Tensor:
        """What `part` gives for the whole token map, computed in tiles; see `tiling.apply_tiled`."""
        if self.one_piece:
            return part(slice(0, self.size[0]), slice(0, self.size[1]))
        return (tiling.apply_tiled if self.exact else tiling.blend)(part, *self.cut(network), factor)

    def read(self, lq: Tensor) -> Tensor:
        """S_l (1, h, w) of the padded LQ image (1, 3, H, W). What φ_r and φ_e read of the image is kept.

        In one piece these are E_l's log-probabilities. In tiles it is what E_l's output layer reads: fewer numbers, from which
        that 1×1 convolution computes the log-probabilities of a tile anew.
        """
        def pixels(rows: slice, columns: slice) -> Tensor:
            return lq[..., tiling.scaled(rows, self.model.cell), tiling.scaled(columns, self.model.cell)]

        def encode(rows: slice, columns: slice) -> Tensor:
            self.tick()
            return (self.model.log_posterior if self.one_piece else self.model.lq_encoder.hidden)(pixels(rows, columns))

        self.kept = self.join("lq_encoder", encode)
        if (stem := self.model.refiner.stem) is not None:
            self.lq_features = self.join("stem", lambda rows, columns: stem.lq_features(pixels(rows, columns)))
        s_l = torch.empty((1, *self.size), dtype=torch.long, device=lq.device)
        for row, column in tiling.grid(self.size, self.tile, 0, self.window):
            log_probs = self.log_probs(row.core, column.core)
            assert log_probs is not None
            s_l[..., row.core, column.core] = log_probs.argmax(1)
        if not (self.model.tier.refiner.posterior or self.model.tier.evaluator.posterior):
            self.kept = None
        return s_l

    def log_probs(self, rows: slice, columns: slice) -> Tensor | None:
        """log p_l(token | LQ) of a part of the token map, (1, codes, h, w); None where neither φ_r nor φ_e reads it."""
        if self.kept is None:
            return None
        part, output_layer = self.kept[..., rows, columns], self.model.lq_encoder.head
        return part if self.one_piece else output_layer(part.to(output_layer.weight.dtype)).float().log_softmax(1)

    def propose(self, tokens: Tensor, keep: Tensor, condition: Tensor, condition_keep: Tensor, noise: Tensor,
                temperature: float, given: Tensor) -> tuple[Tensor, Tensor]:
        """Samples of φ_r and their log-probabilities, each (1, h, w); see `sampling.ProposeFn`."""
        def logits(rows: slice, columns: slice) -> Tensor:
            self.tick()
            part = (..., rows, columns)
            lq_features = None if self.lq_features is None else self.lq_features[part]
            refine, _ = self.model.functions(self.log_probs(rows, columns), lq_features)
            return refine(tokens[part], keep[part], condition[part], condition_keep[part])

        blended = None if self.exact else self.join("refiner", logits)
        proposal, confidence = torch.empty_like(tokens), torch.empty_like(noise)
        for row, column in tiling.grid(*self.cut("refiner")):  # sampled tile by tile: the logits are much larger than all else
            core = (..., row.core, column.core)
            inner = logits(row.read, column.read)[..., row.inner, column.inner] if blended is None else blended[core]
            proposal[core], confidence[core] = categorical(inner, noise[core], temperature, given[core])
        return proposal, confidence

    def evaluate(self, tokens: Tensor, condition: Tensor) -> Tensor:
        """φ_e's log-probability that each token is good, (1, h, w)."""
        def score(rows: slice, columns: slice) -> Tensor:
            self.tick()
            _, judge = self.model.functions(self.log_probs(rows, columns))
            return judge(tokens[..., rows, columns], condition[..., rows, columns])

        return self.join("evaluator", score)

    def decode(self, tokens: Tensor) -> Tensor:
        """The picture (1, 3, f·h, f·w) in [0, 1] of tokens (1, h, w)."""
        def picture(rows: slice, columns: slice) -> Tensor:
            self.tick()
            return self.model.vqgan.decode(tokens[..., rows, columns]).float().clamp(0, 1)

        return self.join("decoder", picture, self.model.tier.vqgan.factor)
