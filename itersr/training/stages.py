"""The stages of a training, and the folders of their runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

STAGES = {"vqgan": ("vqgan",), "lq_encoder": ("lq_encoder",), "token_nets": ("refiner", "evaluator"),
          "iter": ("lq_encoder", "refiner", "evaluator")}
"""Which networks each stage trains."""


def read_record(path: Path) -> dict[str, Any]:
    """What settings.json or all.json says of a run; ValueError where the file is damaged."""
    try:
        record = dict[str, Any](json.loads(path.read_text(encoding="utf-8")).items())
    except (ValueError, OSError, AttributeError) as error:
        raise ValueError(f"{path}: this record of a run is damaged ({error}); remove {path.parent} to train it anew") from None
    return record


def runs_of(out: Path, stage: str, network: str = "") -> dict[str, dict[str, Any]]:
    """The runs of a stage below OUT (those that trained `network`): name → settings, in the order in which they began."""
    found = {file.parent.name: read_record(file) for file in out.glob("*/settings.json")}
    found = {name: used for name, used in found.items() if used.get("stage") == stage and network in ("", *used["networks"])}
    return dict(sorted(found.items(), key=lambda item: item[1]["order"]))


def place_of(out: Path, stage: str, networks: tuple[str, ...], again: bool = False) -> Path:
    """The folder of a run of `networks`: that of their last run, or (`again`, or there was none) a new one."""
    name = stage if set(networks) == set(STAGES[stage]) else "_".join((stage, *networks))
    number = sum(set(used["networks"]) == set(networks) for used in runs_of(out, stage).values()) + again
    return out / (f"{name}_{number}" if number > 1 else name)

