"""The authors' released weights (release v0.1.0 of chaofengc/ITER): their names, mapped to ours, and their files, read safely.

Two files make a model: `ITER_swinvqgan.pth` (Stage I) and `ITER_x4.pth` or `ITER_x2.pth` (Stages II and III). They are no
part of this project and not under its licence (CC BY-NC-SA 4.0 and S-Lab 1.0: not for commercial use). Who has them uses
them with `load`, or turns them once into a folder of safetensors with `convert`.

These networks hold layers that mix the whole picture (GroupNorm, and a gate on the mean over all tokens): every token depends
on every other, on the mirrored padding too, so that tiles, or one column of pixels more, change the picture everywhere.

`table` is the whole mapping, a row for each kind of tensor. What each file holds beside it is named in `RECOMPUTED` and in
`read_vqgan`; anything else is refused by name, and so is a tensor that is missing or of another shape.
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

Rows = list[tuple[str, str]]  # (our name, theirs); `#` is a number that stays as it is, `.weight` and `.bias` follow both


def under(ours: str, theirs: str, rows: Rows) -> Rows:
    """The same rows, inside a module that is called `ours` here and `theirs` there."""
    return [(f"{ours}.{a}", f"{theirs}.{b}") for a, b in rows]


SWIN_LAYERS: Rows = [
    ("conv_in", "conv_in"),
    ("groups.#.blocks.#.norm1", "swin_blks.#.residual_group.blocks.#.norm1"),
    ("groups.#.blocks.#.attention.bias_table", "swin_blks.#.residual_group.blocks.#.attn.relative_position_bias_table"),
    ("groups.#.blocks.#.attention.qkv", "swin_blks.#.residual_group.blocks.#.attn.qkv"),
    ("groups.#.blocks.#.attention.proj", "swin_blks.#.residual_group.blocks.#.attn.proj"),
    ("groups.#.blocks.#.norm2", "swin_blks.#.residual_group.blocks.#.norm2"),
    ("groups.#.blocks.#.fc1", "swin_blks.#.residual_group.blocks.#.mlp.fc1"),
    ("groups.#.blocks.#.gate.squeeze", "swin_blks.#.residual_group.blocks.#.mlp.attn.0"),
    ("groups.#.blocks.#.gate.excite", "swin_blks.#.residual_group.blocks.#.mlp.attn.2"),
    ("groups.#.blocks.#.fc2", "swin_blks.#.residual_group.blocks.#.mlp.fc2"),
    ("groups.#.conv", "swin_blks.#.conv"),
    ("conv_out", "conv_out"),
]
# One numbered list of blocks each, counted alike on both sides.
CODER_BLOCK: Rows = [
    ("blocks.#", "blocks.#"),  # first and last convolution, last norm
    ("blocks.#.norm1", "blocks.#.norm1"),
    ("blocks.#.conv1", "blocks.#.conv1"),
    ("blocks.#.norm2", "blocks.#.norm2"),
    ("blocks.#.conv2", "blocks.#.conv2"),
    ("blocks.#.skip", "blocks.#.conv_out"),  # theirs also calls the last convolution of the Swin layers conv_out
    ("blocks.#.conv", "blocks.#.conv"),  # down- and upsampling
    *under("blocks.#", "blocks.#", SWIN_LAYERS),
]
VQGAN_ROWS: Rows = [
    *under("encoder", "encoder", CODER_BLOCK),
    *under("decoder", "decoder", CODER_BLOCK),
    ("codebook.embedding", "quantize.embedding"),
]
LQ_STAGE: Rows = [
    ("0", "0"),  # the stride-2 convolution
    ("#.norm1", "#.conv.0.norm"),
    ("#.conv1", "#.conv.2"),
    ("#.norm2", "#.conv.3.norm"),
    ("#.conv2", "#.conv.5"),
]
TOKEN_NET: Rows = [
    ("table", "code_emb"),  # theirs a 1×1 convolution of one-hot maps (width, entries, 1, 1), ours the table (entries, width)
    ("combine", "combine"),
    *under("swin", "swin_layers", SWIN_LAYERS),
    ("norm", "conv_out.0"),
    ("head", "conv_out.2"),
]


def lq_encoder_rows(halvings: int) -> Rows:
    """E_l, whose parts are numbered through: with each halving (×4 has one, ×2 has two) there is one stage more."""
    stages = [row for i in range(halvings) for row in under(f"stages.{i}", f"model.{1 + i}", LQ_STAGE)]
    return [
        ("conv_in", "model.0"),
        *stages,
        ("project", f"model.{halvings + 1}"),
        *under("swin", f"model.{halvings + 2}", SWIN_LAYERS),
        ("head", f"model.{halvings + 3}"),
    ]


def table(halvings: int) -> dict[str, tuple[str, Rows]]:
    """Our network → (what its names start with in the released file, its rows)."""
    return {
        "vqgan": ("", VQGAN_ROWS),
        "lq_encoder": ("lq_encoder.", lq_encoder_rows(halvings)),
        "refiner": ("token_refine_net.token_refine_net.", TOKEN_NET),
        "evaluator": ("token_refine_net.token_crit_net.", TOKEN_NET),
    }


RECOMPUTED = (".relative_position_index", ".attn_mask")  # buffers of theirs that follow from sizes alone: never loaded


def published_name(ours: str, rows: Rows) -> str:
    """The released name of one of our tensors; KeyError where the table has no row for it."""
    for own, theirs in rows:
        match = re.fullmatch(re.escape(own).replace(r"\#", r"(\d+)") + r"(\.weight|\.bias)?", ours)
        if match:
            *numbers, kind = match.groups()
            for number in numbers:
                theirs = theirs.replace("#", number, 1)
            return theirs + (kind or "")
    raise KeyError(f"no row of the table is for {ours}")


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
    if not isinstance(content, dict) or not isinstance(content.get("params"), dict):
        held = ", ".join(str(key) for key in list(content)[:5]) if isinstance(content, dict) else type(content).__name__
        held = held or "nothing"
        raise WeightsError(f"{path}: no dictionary `params` of tensors, as the released files have (it holds: {held})")
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


def halvings_of(state: dict[str, Tensor]) -> int:
    """How many stages E_l has in a released file: 1 in ×4, 2 in ×2."""
    return sum(f"lq_encoder.model.{i}.0.weight" in state for i in range(1, 4))


def fill(module: nn.Module, state: dict[str, Tensor], prefix: str, rows: Rows, source: str | Path) -> None:
    """Fill one of our networks with released tensors, taking each of them out of `state`.

    WeightsError names, by its released name, the first tensor that is missing, of another shape or not of finite numbers,
    and then what is left in `state` under the prefix, which no row of the table asks for.
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
    for name in state:
        if name.startswith(prefix) and not name.endswith(RECOMPUTED):
            raise WeightsError(f"{source}: tensor {name} is unexpected")
    module.load_state_dict(ours, assign=True)


def published_tier(halvings: int) -> Tier:
    """`paper` for ×4; for ×2 the same networks with one more halving in E_l."""
    paper = tier("paper")
    return paper if halvings == paper.halvings else dataclasses.replace(paper, name="paper-x2", scale=2)


def read(vqgan_path: str | Path, iter_path: str | Path) -> ITER:
    """The model of two released files, in float32 on the CPU; its scale is read off the second one."""
    stage1, rest = read_vqgan(vqgan_path), read_pickle(iter_path)
    halvings = halvings_of(rest)
    if halvings not in (1, 2):
        first = next(iter(rest), "none")
        raise WeightsError(f"{iter_path}: not an ITER file of scale 4 or 2: it has {halvings} stages of lq_encoder.model, "
                           f"needed are 1 or 2 (its first tensor: {first})")
    model = ITER(published_tier(halvings))
    for network, (prefix, rows) in table(halvings).items():
        state, source = (stage1, vqgan_path) if network == "vqgan" else (rest, iter_path)
        fill(model.get_submodule(network), state, prefix, rows, source)
    for name in rest:
        if not name.endswith(RECOMPUTED):
            raise WeightsError(f"{iter_path}: tensor {name} is unexpected")
    model.fingerprint = weights.fingerprint(Path(), [Path(vqgan_path), Path(iter_path)])
    return model


def load(folder: str | Path, scale: int | None = None, device: str | torch.device = "auto") -> ITER:
    """The published model from a folder that holds the released files; ×4 where both scales are there and none is asked for."""
    vqgan_path, iter_path = locate(folder, scale)
    return read(vqgan_path, iter_path).ready(device)


def locate(folder: str | Path, scale: int | None = None) -> tuple[Path, Path]:
    """The two released files in a folder; WeightsError names the one that is not there."""
    folder = Path(folder)
    if scale is not None and scale not in ITER_FILES:
        raise WeightsError(f"scale {scale}: the authors released {' and '.join(f'×{s}' for s in ITER_FILES)}")
    candidates = [ITER_FILES[s] for s in ITER_FILES if scale in (None, s)]
    found = [name for name in candidates if (folder / name).is_file()]
    for needed, there in ((VQGAN_FILE, (folder / VQGAN_FILE).is_file()), (" or ".join(candidates), bool(found))):
        if not there:
            raise WeightsError(f"{folder}: no {needed} in this folder")
    return folder / VQGAN_FILE, folder / found[0]


CARD = """# ITER, the published ×{scale} networks

Converted by itersr from the authors' released files, names mapped, values untouched ({dtype}).

- made by: Chaofeng Chen et al., *Iterative Token Evaluation and Refinement for Real-World Super-Resolution*, AAAI 2024
- licence: CC BY-NC-SA 4.0 and S-Lab License 1.0, as released: **not for commercial use**
- data, training and metrics: theirs, in the paper (Sec. 4); itersr trained nothing here
- from: `{vqgan_file}` (sha256 {vqgan_hash}) and `{iter_file}` (sha256 {iter_hash})
- holds: {values:,} values, in {networks}
- released settings: `model.upscale(image, preset="released", color_fix="none")`
"""


def convert(vqgan_path: str | Path, iter_path: str | Path, out_dir: str | Path, dtype: torch.dtype = torch.float32) -> Path:
    """Turn two released files into a folder that `ITER.from_pretrained` reads: safetensors, configuration, model card.

    The values stay in float32, about 510 MB, so that the folder computes exactly what the released files do; with
    torch.float16 it is half the size and no longer equal. WeightsError for what is wrong with the files or the folder.
    """
    model = read(vqgan_path, iter_path)
    card = CARD.format(
        scale=model.tier.scale, dtype=str(dtype).removeprefix("torch."),
        vqgan_file=Path(vqgan_path).name, vqgan_hash=weights.sha256(Path(vqgan_path)),
        iter_file=Path(iter_path).name, iter_hash=weights.sha256(Path(iter_path)),
        values=sum(p.numel() for p in model.parameters()), networks=", ".join(weights.NETWORKS))
    out = Path(out_dir)
    try:
        model.save(out, dtype=dtype, source="published")
        (out / "README.md").write_text(card, encoding="utf-8")
    except OSError as error:
        raise WeightsError(f"{out}: cannot be written ({error.strerror or error})") from None
    return out
