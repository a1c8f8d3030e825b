"""Released files for tests: the published layout with the reference's stand-in values, and a miniature of the same design."""

from __future__ import annotations

import dataclasses
import json
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from itersr import ITER, published
from itersr.config import SwinConfig, Tier, TokenNetConfig, tier
from tests.reference.fill import fill

HERE = Path(__file__).parent / "reference"
LAYOUT: dict[str, list[int]] = json.loads((HERE / "iter_x4_layout.json").read_text())


@lru_cache(maxsize=1)
def vectors() -> dict[str, Tensor]:
    """The stored inputs and outputs of the published networks; token maps as (B, h, w) int64, masks as (B, h, w) bool."""
    with np.load(HERE / "iter_x4_vectors.npz") as arrays:
        stored = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    for name in ("tokens", "condition", "indices"):
        stored[name] = stored[name].reshape(1, 16, 16).long()
    for name in ("keep", "condition_keep"):
        stored[name] = stored[name].reshape(1, 16, 16).bool()
    return stored


def twice(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Stage I as released: the decoder is there a second time, as the generator."""
    copy = {name.replace("decoder.", "generator.", 1): value for name, value in state.items() if name.startswith("decoder.")}
    return {**state, **copy}


def write(folder: Path, stage1: dict[str, Tensor], rest: dict[str, Tensor], scale: int = 4) -> tuple[Path, Path]:
    """The two files, under the names they have in the release."""
    paths = folder / "ITER_swinvqgan.pth", folder / f"ITER_x{scale}.pth"
    for path, state in zip(paths, (stage1, rest), strict=True):
        torch.save({"params": state}, path)
    return paths


def reference(folder: Path) -> tuple[Path, Path]:
    """Both files at full size, every tensor of the layout filled as the reference was."""
    state = {name: torch.from_numpy(fill(name, tuple(shape))) for name, shape in LAYOUT.items()}
    stage1 = {name.removeprefix("vqgan."): value for name, value in state.items() if name.startswith("vqgan.")}
    return write(folder, twice(stage1), {name: value for name, value in state.items() if not name.startswith("vqgan.")})


def small(scale: int = 4) -> Tier:
    """The published design at the smallest widths that GroupNorm's 32 groups allow."""
    paper = tier("paper")
    swin = SwinConfig(width=32, groups=1, depth=2, gate=True)
    net = TokenNetConfig(width=32, swin=dataclasses.replace(swin, groups=2), norm="group")
    return dataclasses.replace(
        paper, name="small-paper", scale=scale, refiner=net, evaluator=net,
        vqgan=dataclasses.replace(paper.vqgan, width=32, multipliers=(1, 1, 1, 2), codes=40, code_dim=16, swin=swin),
        lq_encoder=dataclasses.replace(paper.lq_encoder, width=32, swin=swin))


def released(model: ITER) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What the authors' two files would hold for a model."""
    stage1: dict[str, Tensor] = {}
    rest: dict[str, Tensor] = {}
    for network, (prefix, rows) in published.table(model.tier.halvings).items():
        for name, value in model.get_submodule(network).state_dict().items():
            theirs = value.T[:, :, None, None].contiguous() if name == "table.weight" else value
            (stage1 if network == "vqgan" else rest)[prefix + published.published_name(name, rows)] = theirs
    return twice(stage1), rest
