"""What `itersr train` runs: Stage I, then Algorithm 1, in one folder.

`train_all` runs the stages of a tier's `plan` one after the other, each in its share of the time, and writes the card.

    OUT/STAGE     a run of a stage, a key of `STAGES`: checkpoint, log.csv, samples.png
    OUT/weights   averaged weights in half precision, for ITER.from_pretrained

The token networks are trained on the VQGAN as it ships, rounded to half precision. A stage begins with the weights of its
networks in OUT/weights where there are some: to train a stage once more, copy OUT/weights into a new OUT. Only `vqgan` always
begins anew, since weights hold no discriminator.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from itersr import weights
from itersr.config import Tier, TrainConfig
from itersr.model import ITER
from itersr.training import STAGES, ship
from itersr.training.algorithm1 import Algorithm1
from itersr.training.data import Crops, Photos, ranges, validation_pairs
from itersr.training.loop import Task, alone, keep_record, make_accelerator, train
from itersr.training.stage1 import Stage1

log = logging.getLogger(__name__)


def changed(settings: TrainConfig, changes: Mapping[str, Any]) -> TrainConfig:
    """Settings with some fields changed. Where that makes fewer steps, there are fewer validations too (unless `changes` says
    how many), since a short run would do little else."""
    share = min(changes.get("steps", settings.steps) / settings.steps, 1)
    return dataclasses.replace(settings, **{"validations": max(round(share * settings.validations), 1), **changes})


def train_stage(stage: str, config: Tier, data: str | Path | None, out: Path, *, seed: int = 0, **options: Any
                ) -> dict[str, float]:
    """Train one stage of a tier: "vqgan"; or, from OUT/weights' VQGAN, "lq_encoder" and then "token_nets" ("refiner" and
    "evaluator" are its halves), or "iter" for all three at once. options and result: those of `fit`."""
    if stage not in STAGES:
        raise ValueError(f"stage {stage!r}: there are {', '.join(STAGES)}")
    settings = dataclasses.replace(config.train.get(stage, config.train["token_nets"]), networks=STAGES[stage])

    def task() -> Task:
        if stage == "vqgan":
            return Stage1(config, seed)
        return Algorithm1(load_networks(out / "weights", config, settings.networks), settings, seed)

    return fit(stage, task, config, settings, data, out, seed=seed, degraded=stage != "vqgan", **options)


def fit(what: str, make: Callable[[], Task], config: Tier, settings: TrainConfig, data: str | Path | None, out: Path, *,
        seed: int = 0, device: str = "auto", precision: str = "auto", photos: tuple[Photos, Photos] | None = None,
        validation: tuple[int, int] | None = None, degraded: bool = True, **options: Any) -> dict[str, float]:
    """Train the task that `make` gives into OUT/WHAT, and its networks into OUT/weights.

    validation: how many held-out crops, and their side in HQ pixels. photos: to train on and held out, where they have been
    read already (else those of `data`). degraded: crops have LQ images too. options: go to `loop.train`. Gives the last
    validation's scalars (in the first of several processes, {} in the others).
    """
    accelerator = make_accelerator(device, precision)
    crops, pairs = materials(config, settings, photos or Photos.of(data).split(), seed, accelerator.device,
                             validation=validation, degraded=degraded)
    torch.manual_seed(seed)  # the initial weights of this run
    task = make()
    names = "\n".join(Path(name).name for name in crops.photos.names)
    record = {"stage": what, "tier": config.name, **dataclasses.asdict(settings), "seed": seed,
              "precision": accelerator.mixed_precision, "photos": len(crops.photos),
              "names of photos": hashlib.sha256(names.encode()).hexdigest()[:12], "minutes": options.get("minutes"),
              "processes": accelerator.num_processes}
    with torch.random.fork_rng(devices=[]), alone(out / what, accelerator.is_main_process):
        validated = train(task, crops, pairs, out / what, accelerator=accelerator, record=record,
                          save_weights=lambda: weights.save(out / "weights", task.trained, config), **options)
    accelerator.end_training()
    return validated if accelerator.is_main_process else {}


def materials(config: Tier, settings: TrainConfig, photos: tuple[Photos, Photos], seed: int, device: torch.device, *,
              validation: tuple[int, int] | None = None, degraded: bool = True) -> tuple[Crops, dict[str, Tensor]]:
    """What a task trains on and what it is judged by: crops of the first photos, fixed pairs of those held out, on a device.

    validation: how many pairs, and their side in HQ pixels. degraded: the crops have LQ images too.
    """
    count, side = validation or ((4, 96) if config.name == "smoke" else (16, 192))
    degradation = ranges(config.degradation)
    photos[1].preload()
    pairs = validation_pairs(photos[1], count, side, seed, degradation=degradation, scale=config.scale, unit=config.unit)
    crops = Crops(photos[0], settings.crop, seed, degradation=degradation if degraded else None, scale=config.scale,
                  mild=settings.mild)
    return crops, {name: value.to(device) for name, value in pairs.items()}


def train_all(config: Tier, data: str | Path | None, out: Path, *, minutes: float | None = None, by: str | None = None,
              **options: Any) -> dict[str, float]:
    """Train all networks of a tier, the stages of its `plan` one after the other; gives the last validation of the last stage.

    minutes: for everything, shared out as the plan says; None: the steps that the tier names. Called again after it was
    interrupted, it continues where it was. In the end OUT/weights has φ_e's shift, the best settings of Alg. 2, the curves and
    a model card. by: the command that the card names, where it is one. options: those of `train_stage`.
    """
    began = time.monotonic()
    main = os.environ.get("RANK", "0") == "0"  # of several processes one writes what belongs to the whole run
    out.mkdir(parents=True, exist_ok=True)
    photos = Photos.of(data).split()
    keep_record(out / "all.json", {"tier": config.name, "minutes": minutes, "seed": options.get("seed", 0)},
                (out / "all.json").exists(), main, may_change=())
    validated = train_plan(config, data, out, photos=photos, resume=True, minutes=minutes, **options)
    left = None if minutes is None else max(60 * minutes - (time.monotonic() - began), 5.0)
    if not main:
        return validated
    card = out / "weights" / "MODEL_CARD.md"
    if card.exists() and weights.fingerprint(card.parent) in card.read_text(encoding="utf-8"):
        log.info("%s: has been trained", out)  # and its card, the last of all, written
        return validated
    kept = f", {len(photos[1])} others held out" if data is not None else " of scikit-image"
    ship.export(out, None if data is None else Path(data), data=f"{len(photos[0])} photos{kept}", by=by,
                device=options.get("device", "auto"), seconds=left)
    return validated


def train_plan(config: Tier, data: str | Path | None, out: Path, *, minutes: float | None = None, **options: Any
               ) -> dict[str, float]:
    """The stages of a tier's `plan`, each in its share of the minutes; gives the last validation of the last stage."""
    validated: dict[str, float] = {}
    for stage, share in config.plan.items():
        limit = None if minutes is None else share * minutes
        log.info("%s: %s", stage, "by steps" if limit is None else f"{limit:.2g} minutes")
        validated = train_stage(stage, config, data, out, minutes=limit, **options) or validated
    return validated


def load_networks(folder: Path, config: Tier, trained: tuple[str, ...]) -> ITER:
    """An ITER with the VQGAN of `folder` and every network there that this stage will not train itself, or trains on."""
    model = ITER(config)
    for name in weights.NETWORKS:
        path = folder / f"{name}.safetensors"
        if path.exists():
            weights.load(model.get_submodule(name), path)
        elif name == "vqgan" or (name == "lq_encoder" and not {"vqgan", "lq_encoder"} & set(trained)):
            raise weights.WeightsError(f"{path}: no such file; train the stage before this one first")
    if not (folder / "refiner.safetensors").exists():
        model.refiner.start_from(model.lq_encoder)
    return model
