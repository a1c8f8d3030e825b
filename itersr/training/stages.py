"""The stages of a training, the folders of their runs, and tiers with one decision of the method changed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from itersr.config import Norm, Tier

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


FORMS = {"paper": (False, False), "posterior": (True, False), "image": (True, True)}
"""What φ_r reads beside tokens: `posterior` and `reads_lq` of each form (φ_e has the first of the two)."""


def form_of(config: Tier) -> str:
    """The form of a tier's φ_r, a key of `FORMS`."""
    return {value: key for key, value in FORMS.items()}[config.refiner.posterior, config.refiner.reads_lq]


def variant(config: Tier, *, factor: int | None = None, form: str | None = None) -> Tier:
    """A tier with one decision of the method changed, to be measured beside the tier itself.

    factor: f, pixels that a token covers along a side. For each doubling the VQGAN gets one level more and twice the codes,
    since a code then has four times the pixels to tell; E_l gets one halving more.
    form: what φ_r and φ_e read beside tokens, see `FORMS`; "paper" is the paper's own, which knows E_l's argmax S_l alone.
    ValueError for a factor that is not the tier's, doubled some times, and for an unknown form.
    """
    vqgan = config.vqgan
    while factor is not None and vqgan.factor < factor:
        top = vqgan.multipliers[-1] + 1
        vqgan = dataclasses.replace(vqgan, multipliers=(*vqgan.multipliers, top), codes=2 * vqgan.codes,
                                    swin=dataclasses.replace(vqgan.swin, width=top * vqgan.width))
    if factor not in (None, vqgan.factor):
        raise ValueError(f"factor {factor}: {config.name} can have {config.vqgan.factor}, {2 * config.vqgan.factor}, …")
    config = dataclasses.replace(config, vqgan=vqgan)
    if form in (None, form_of(config)):
        return config
    if form not in FORMS:
        raise ValueError(f"form {form!r}: there are {', '.join(FORMS)}")
    posterior, reads_lq = FORMS[form]
    norm: Norm = config.refiner.norm
    if reads_lq != config.refiner.reads_lq:  # E_l, of which φ_r is a copy if it looks at the image, has none
        norm = "none" if reads_lq else "layer"
    refiner = dataclasses.replace(config.refiner, posterior=posterior, reads_lq=reads_lq, norm=norm)
    evaluator = dataclasses.replace(config.evaluator, posterior=posterior, norm=norm)
    return dataclasses.replace(config, refiner=refiner, evaluator=evaluator)
