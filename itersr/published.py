"""The authors' released weights (release v0.1.0 of chaofengc/ITER): their names, mapped to ours, and their files, read safely.

Two files make a model: `ITER_swinvqgan.pth` (Stage I) and `ITER_x4.pth` or `ITER_x2.pth` (Stages II and III). They are no
part of this project and not under its licence (CC BY-NC-SA 4.0 and S-Lab 1.0: not for commercial use). Who has them uses
them with `load`, and `load(DIR).save(folder, dtype=torch.float32)` makes a folder of safetensors of them.

These networks hold layers that mix the whole picture (GroupNorm, and a gate on the mean over all tokens): every token depends
on every other and on the mirrored padding, so that tiles, or one column of pixels more, change the picture everywhere.

`table` is the whole mapping. What the files hold beside it is named in `RECOMPUTED` and `TWIN`; anything else is refused by
name, and so is a tensor that is missing or of another shape.
"""

from __future__ import annotations

import dataclasses
import re
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from itersr import weights
from itersr.config import Tier, tier
from itersr.model import ITER
from itersr.weights import WeightsError

VQGAN_FILE = "ITER_swinvqgan.pth"
ITER_FILES = ("ITER_x4.pth", "ITER_x2.pth")

Rows = list[tuple[str, str]]  # (pattern in our name, what it becomes in theirs), one after the other

SWIN_LAYERS: Rows = [
    (r"\.groups\.", ".swin_blks."),
    (r"(swin_blks\.\d+)\.blocks", r"\1.residual_group.blocks"),
    (r"attention\.bias_table", "attn.relative_position_bias_table"),
    (r"attention\.", "attn."),
    (r"gate\.squeeze", "mlp.attn.0"),
    (r"gate\.excite", "mlp.attn.2"),
    (r"\.fc(\d)\.", r".mlp.fc\1."),
]
VQGAN: Rows = [(r"^codebook", "quantize"), (r"\.skip\.", ".conv_out."), *SWIN_LAYERS]
LQ_STAGE: Rows = [(rf"^(stages\.\d+\.\d+)\.{ours}", rf"\1.conv.{theirs}") for ours, theirs in
                  (("norm1", "0.norm"), ("conv1", "2"), ("norm2", "3.norm"), ("conv2", "5"))]
TOKEN_NET: Rows = [
    (r"^table", "code_emb"),  # theirs a 1×1 convolution of one-hot maps (width, entries, 1, 1), ours the table (entries, width)
    (r"^swin", "swin_layers"),
    (r"^norm", "conv_out.0"),
    (r"^head", "conv_out.2"),
    *SWIN_LAYERS,
]


def lq_encoder_rows(halvings: int) -> Rows:
    """E_l, whose parts are numbered through: with each halving (×4 has one, ×2 has two) there is one stage more."""
    parts = ["conv_in", *(rf"stages\.{i}" for i in range(halvings)), "project", "swin", "head"]
    return [*LQ_STAGE, *((rf"^{part}\.", f"model.{i}.") for i, part in enumerate(parts)), *SWIN_LAYERS]


def table(halvings: int) -> dict[str, tuple[str, Rows]]:
    """Our network → (what its names start with in the released file, its rows)."""
    return {
        "vqgan": ("", VQGAN),
        "lq_encoder": ("lq_encoder.", lq_encoder_rows(halvings)),
        "refiner": ("token_refine_net.token_refine_net.", TOKEN_NET),
        "evaluator": ("token_refine_net.token_crit_net.", TOKEN_NET),
    }


RECOMPUTED = (".relative_position_index", ".attn_mask")  # buffers of theirs that follow from sizes alone: never loaded
TWIN = "generator."  # in the file of Stage I: the decoder a second time


def published_name(ours: str, rows: Rows) -> str:
    """The released name of one of our tensors."""
    for pattern, theirs in rows:
        ours = re.sub(pattern, theirs, ours)
    return ours


# ----------------------------------------------------------------------------------------------------------------- files


def read_pickle(path: str | Path) -> dict[str, Tensor]:
    """The tensors under `params` of a released file. Nothing but tensors is ever unpickled (`weights_only=True`).

    WeightsError, in one line, for a file that is missing, truncated, a web page, no PyTorch file, or holds anything else.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # on a damaged file PyTorch warns before it raises
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken pickle can raise nearly anything
        raise WeightsError(f"{path}: not a readable file of tensors: missing, truncated, a web page, or holding more than "
                           f"tensors ({type(error).__name__})") from None
    params = content.get("params") if isinstance(content, dict) else None
    if not isinstance(params, dict) or not all(isinstance(value, Tensor) for value in params.values()):
        raise WeightsError(f"{path}: no dictionary `params` of tensors alone, as the released files have")
    return params


def fill(module: nn.Module, state: dict[str, Tensor], prefix: str, rows: Rows, source: str | Path) -> None:
    """Fill one of our networks with released tensors, each of which is taken out of `state`.

    WeightsError names, by its released name, the first tensor that is missing or of another shape.
    """
    ours: dict[str, Tensor] = {}
    for own, tensor in module.state_dict().items():
        name = prefix + published_name(own, rows)
        if name not in state:
            raise WeightsError(f"{source}: tensor {name} is missing")
        value = state.pop(name)
        needed = tuple(tensor.shape) if own != "table.weight" else (*tensor.shape[::-1], 1, 1)
        if tuple(value.shape) != needed:
            raise WeightsError(f"{source}: tensor {name} has shape {tuple(value.shape)}, needed is {needed}")
        ours[own] = (value[:, :, 0, 0].T if own == "table.weight" else value).float().contiguous()
    module.load_state_dict(ours, assign=True)


def published_tier(halvings: int) -> Tier:
    """`paper` for ×4; for ×2 the same networks with one more halving in E_l."""
    paper = tier("paper")
    return paper if halvings == paper.halvings else dataclasses.replace(paper, name="paper-x2", scale=2)


def read(vqgan_path: str | Path, iter_path: str | Path) -> ITER:
    """The model of two released files, in float32 on the CPU; its scale is read off the second one.

    WeightsError names what is wrong with a file. `model.ready()` makes it fit for inference.
    """
    stage1, rest = read_pickle(vqgan_path), read_pickle(iter_path)
    halvings = sum(f"lq_encoder.model.{i}.0.weight" in rest for i in range(1, 4))  # stages of E_l: 1 in ×4, 2 in ×2
    model = ITER(published_tier(halvings))
    for network, (prefix, rows) in table(halvings).items():
        state, source = (stage1, vqgan_path) if network == "vqgan" else (rest, iter_path)
        fill(model.get_submodule(network), state, prefix, rows, source)
    for state, source in ((stage1, vqgan_path), (rest, iter_path)):
        if left := [name for name in state if not name.endswith(RECOMPUTED) and not name.startswith(TWIN)]:
            raise WeightsError(f"{source}: tensor {left[0]} is unexpected")
    model.fingerprint = weights.fingerprint(Path(), [Path(vqgan_path), Path(iter_path)])
    return model


def load(folder: str | Path, device: str | torch.device = "auto") -> ITER:
    """The published model from a folder that holds the released files; ×4 where both scales are there.

    WeightsError names the file that is not there.
    """
    paths = [Path(folder, name) for name in ITER_FILES if Path(folder, name).is_file()]
    if not Path(folder, VQGAN_FILE).is_file() or not paths:
        raise WeightsError(f"{folder}: needed in this folder are {VQGAN_FILE} and {' or '.join(ITER_FILES)}")
    return read(Path(folder, VQGAN_FILE), paths[0]).ready(device)
