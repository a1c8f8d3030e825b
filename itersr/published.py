"""The authors' released weights (release v0.1.0 of chaofengc/ITER): their names, mapped to ours, and their files, read safely.

Two files make a model: `ITER_swinvqgan.pth` (Stage I) and `ITER_x4.pth` or `ITER_x2.pth` (Stages II and III). They are no
part of this project and not under its licence (CC BY-NC-SA 4.0 and S-Lab 1.0: not for commercial use). Who has them uses
them with `load`, and `load(DIR).save(folder, dtype=torch.float32)` makes a folder of safetensors of them.

These networks hold layers that mix the whole picture (GroupNorm, and a gate on the mean over all tokens): every token depends
on every other and on the mirrored padding, so that tiles, or one column of pixels more, change the picture everywhere.

`table` is the whole mapping. What the files hold beside it is named in `RECOMPUTED` and in `read_vqgan`; anything else is
refused by name, and so is a tensor that is missing or of another shape.
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
ITER_FILES = {4: "ITER_x4.pth", 2: "ITER_x2.pth"}  # by scale

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
LQ_STAGE: Rows = [
    (r"^(stages\.\d+\.\d+)\.norm1", r"\1.conv.0.norm"),
    (r"^(stages\.\d+\.\d+)\.conv1", r"\1.conv.2"),
    (r"^(stages\.\d+\.\d+)\.norm2", r"\1.conv.3.norm"),
    (r"^(stages\.\d+\.\d+)\.conv2", r"\1.conv.5"),
]
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
    path = Path(path)
    try:
        with path.open("rb") as file:
            head = file.read(64).lstrip().lower()
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from None
    if head.startswith((b"<", b"{")):
        raise WeightsError(f"{path}: a web page, not weights: the download went wrong, fetch the file itself")
    try:
        with warnings.catch_warnings(action="ignore"):  # on a damaged file PyTorch warns before it raises
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken pickle can raise nearly anything
        raise WeightsError(f"{path}: not a readable file of tensors: truncated, damaged, or holding more than tensors "
                           f"({type(error).__name__})") from None
    held = list(content)[:5] if isinstance(content, dict) else [type(content).__name__]
    if not isinstance(content, dict) or not isinstance(content.get("params"), dict):
        raise WeightsError(f"{path}: no dictionary `params` of tensors, as the released files have "
                           f"(it holds: {', '.join(map(str, held)) or 'nothing'})")
    for name, value in content["params"].items():
        if not isinstance(name, str) or not isinstance(value, Tensor) or value.layout != torch.strided or value.is_quantized:
            raise WeightsError(f"{path}: {name!r} is no plain tensor but a {type(value).__name__}")
    return content["params"]


def read_vqgan(path: str | Path) -> dict[str, Tensor]:
    """The tensors of `ITER_swinvqgan.pth`, without the decoder's second copy, `generator.…`, which must equal the first."""
    state = read_pickle(path)
    for name in [name for name in state if name.startswith("generator.")]:
        twin = state.get(name.replace("generator.", "decoder.", 1))
        copy = state.pop(name)
        if name.endswith(RECOMPUTED):
            continue
        if twin is None:
            raise WeightsError(f"{path}: tensor {name} is unexpected: the decoder has no such tensor")
        if not torch.equal(copy, twin):
            raise WeightsError(f"{path}: tensor {name} differs from its twin in the decoder; they should be one")
    return state


def fill(module: nn.Module, state: dict[str, Tensor], prefix: str, rows: Rows, source: str | Path) -> None:
    """Fill one of our networks with released tensors, each of which is taken out of `state`.

    WeightsError names, by its released name, the first tensor that is missing, of another shape or not of finite numbers.
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
        if not value.is_floating_point() or value.is_meta or not bool(value.sum().isfinite()):
            raise WeightsError(f"{source}: tensor {name} ({value.dtype}) does not hold finite floating-point numbers")
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
    stage1, rest = read_vqgan(vqgan_path), read_pickle(iter_path)
    halvings = sum(f"lq_encoder.model.{i}.0.weight" in rest for i in range(1, 4))  # stages of E_l: 1 in ×4, 2 in ×2
    if halvings not in (1, 2):
        raise WeightsError(f"{iter_path}: not an ITER file of scale 4 or 2: it has {halvings} stages of lq_encoder.model, "
                           f"needed are 1 or 2 (its first tensor: {next(iter(rest), 'none')})")
    model = ITER(published_tier(halvings))
    for network, (prefix, rows) in table(halvings).items():
        state, source = (stage1, vqgan_path) if network == "vqgan" else (rest, iter_path)
        fill(model.get_submodule(network), state, prefix, rows, source)
    for state, source in ((stage1, vqgan_path), (rest, iter_path)):
        for name in state:
            if not name.endswith(RECOMPUTED):
                raise WeightsError(f"{source}: tensor {name} is unexpected")
    model.fingerprint = weights.fingerprint(Path(), [Path(vqgan_path), Path(iter_path)])
    return model


def load(folder: str | Path, scale: int | None = None, device: str | torch.device = "auto") -> ITER:
    """The published model from a folder that holds the released files; ×4 where both scales are there and none is asked for.

    WeightsError names the file that is not there.
    """
    folder, found = Path(folder), []
    if scale is not None and scale not in ITER_FILES:
        raise WeightsError(f"scale {scale}: the authors released {' and '.join(f'×{s}' for s in ITER_FILES)}")
    for candidates in ([VQGAN_FILE], [ITER_FILES[s] for s in ITER_FILES if scale in (None, s)]):
        there = [folder / name for name in candidates if (folder / name).is_file()]
        if not there:
            raise WeightsError(f"{folder}: no {' or '.join(candidates)} in this folder")
        found.append(there[0])
    return read(*found).ready(device)
