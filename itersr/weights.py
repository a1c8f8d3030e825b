"""Weights on disk: one folder per model, four safetensors files in half precision, its configuration and a model card."""

from __future__ import annotations

import hashlib
import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import nn

from itersr.config import TIERS, Tier, from_dict, to_dict
from itersr.disk import replace_file

NETWORKS = ("vqgan", "lq_encoder", "refiner", "evaluator")
SHIPPED = Path(__file__).parent / "shipped"
BEST_FIRST = ("small", "tiny", "smoke", "stripes")  # the last is for made pictures


class WeightsError(Exception):
    """A weights file or folder is missing or wrong; the message is one line that names it."""


def shipped() -> tuple[str, ...]:
    """The tiers whose weights ship with the package, best first."""
    return tuple(name for name in BEST_FIRST if (SHIPPED / name / "config.json").is_file())


def locate(name: str | Path | None) -> Path:
    """The folder of a tier's shipped weights, of the best that ships (None), or a folder given as such.

    Where a folder has the name of a tier, a `Path` is that folder and a string the tier.
    """
    name = shipped()[0] if name is None else name
    folder = Path(name)
    own = (folder / "config.json").is_file()
    if str(name) in shipped() and not (own and isinstance(name, Path)):
        return SHIPPED / str(name)
    if not own:
        raise WeightsError(f"{name}: no folder with a config.json, and no tier whose weights ship ({', '.join(shipped())})")
    return folder


def load(module: nn.Module, path: Path) -> None:
    """Fill `module` from a safetensors file; WeightsError where that is missing, damaged, or of another network."""
    try:
        module.load_state_dict(load_file(path))
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{path}: no weights of this network ({textwrap.shorten(str(error), 200)})") from None


def save(folder: Path, networks: dict[str, nn.Module], tier: Tier, extra: dict[str, Any] | None = None, *,
         dtype: torch.dtype = torch.float16) -> None:
    """Write networks (keys of `NETWORKS`), in half precision by default, and `config.json` with the tier and `extra`."""
    for name, module in networks.items():
        state = {key: value.detach().to("cpu", dtype).contiguous() for key, value in module.state_dict().items()}
        replace_file(folder / f"{name}.safetensors", to_bytes(state))  # a run that is killed continues from this file
    write_config(folder, tier, extra or {})


def write_config(folder: Path, tier: Tier, extra: dict[str, Any]) -> None:
    """Write `config.json`: the tier and `extra`."""
    replace_file(folder / "config.json", json.dumps({"tier": to_dict(tier), **extra}, indent=1) + "\n")


def read_config(place: Path) -> tuple[Tier, dict[str, Any]]:
    """The tier and the extras of a weights folder, or of a JSON file like its `config.json`."""
    path = place if place.is_file() else place / "config.json"
    try:
        values = json.loads(path.read_text())
        return from_dict(values.pop("tier")), values
    except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: not a configuration of itersr ({error})") from None


def read_tier(name: str) -> Tier:
    """The tier of that name, or the one in a folder of weights or a JSON file: `{"tier": …}` as `write_config` writes it.

    ValueError where there is neither, WeightsError for a file that holds no tier.
    """
    if name not in TIERS and not Path(name).exists():
        raise ValueError(f"tier {name!r}: neither one of {', '.join(TIERS)} nor a folder of weights or a JSON file with a tier")
    return TIERS[name] if name in TIERS else read_config(Path(name))[0]


def fingerprint(folder: Path, files: Sequence[Path] = ()) -> str:
    """A hash of all weights in a folder (or of these files): 12 hexadecimal digits that name them in results and notebooks."""
    paths = files or sorted(folder.glob("*.safetensors"))
    whole = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            whole.update((path.name + hashlib.file_digest(file, "sha256").hexdigest()).encode())
    return whole.hexdigest()[:12]
