"""What `itersr train` runs: Stage I, then Algorithm 1, in one folder.

`train_all` runs the stages of a tier's `plan` one after the other, each in its share of the time, and writes the card.

    OUT/STAGE     a run of a stage, a key of `STAGES`: checkpoint, log.csv, samples.png
    OUT/weights   averaged weights in half precision, for ITER.from_pretrained

The token networks are trained on the VQGAN as it ships, rounded to half precision. A stage begins with the weights of its
networks in OUT/weights where there are some: to train a stage once more, copy OUT/weights into a new OUT. Only `vqgan` always
begins anew, since weights hold no discriminator.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from itersr import weights
from itersr.config import Tier, TrainConfig
from itersr.model import ITER, pick_device
from itersr.training import STAGES, algorithm1, ship, stage1
from itersr.training.data import Crops, Photos, ranges, validation_pairs
from itersr.training.loop import alone, keep_record, make_accelerator, train
from itersr.training.perceptual import perceptual

log = logging.getLogger(__name__)


def train_stage(stage: str, config: Tier, data: str | Path | None, out: Path, *, seed: int = 0, device: str = "auto",
                precision: str = "auto", validation: tuple[int, int] | None = None,
                photos: tuple[Photos, Photos] | None = None, **options: Any) -> dict[str, float]:
    """Train one stage of a tier; gives the last validation's scalars (in the first of several processes, {} in the others).

    stage: "vqgan"; or, from OUT/weights' VQGAN, "lq_encoder" and then "token_nets" ("refiner" and "evaluator" are its halves),
    or "iter" for all three at once. validation: how many held-out crops, and their side in HQ pixels. photos: to train on and
    held out, where they have been read already (else those of `data`). options: go to `loop.train`.
    """
    if stage not in STAGES:
        raise ValueError(f"stage {stage!r}: there are {', '.join(STAGES)}")
    accelerator = make_accelerator(device, precision)
    settings = dataclasses.replace(config.train.get(stage, config.train["token_nets"]), networks=STAGES[stage])
    crops, pairs = materials(config, settings, photos or Photos.of(data).split(), seed, accelerator.device,
                             validation=validation, degraded=stage != "vqgan")
    folder = out / "weights"
    look = perceptual().to(accelerator.device)
    validated: dict[str, float] = {}

    task: Any
    torch.manual_seed(seed)  # the initial weights of this run
    if stage == "vqgan":
        task = stage1.Stage1(config, seed)

        def validate() -> tuple[dict[str, float], dict[str, Tensor]]:
            return stage1.validate(task.vqgan, pairs, look)
    else:
        task = algorithm1.Algorithm1(load_networks(folder, config, settings.networks), settings, seed)

        def validate() -> tuple[dict[str, float], dict[str, Tensor]]:
            return algorithm1.validate(task.model, pairs, look, settings.networks, seed)

    def save() -> None:
        weights.save(folder, task.trained, config)

    record = {"stage": stage, **record_of(config, settings, crops, accelerator, seed, options.get("minutes"))}
    with torch.random.fork_rng(devices=[]), alone(out / stage, accelerator.is_main_process):
        validated = train(task, crops, out / stage, validate=validate, save_weights=save, record=record,
                          accelerator=accelerator, **options)
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


def record_of(config: Tier, settings: TrainConfig, crops: Crops, accelerator: Any, seed: int, minutes: float | None
              ) -> dict[str, Any]:
    """What settings.json says of a run beside its stage."""
    names = "\n".join(Path(name).name for name in crops.photos.names)
    return {"tier": config.name, **dataclasses.asdict(settings), "seed": seed, "precision": accelerator.mixed_precision,
            "photos": len(crops.photos), "names of photos": hashlib.sha256(names.encode()).hexdigest()[:12],
            "minutes": minutes, "processes": accelerator.num_processes}


def train_all(config: Tier, data: str | Path | None, out: Path, *, minutes: float | None = None, by: str | None = None,
              **options: Any) -> dict[str, float]:
    """Train all networks of a tier, the stages of its `plan` one after the other; gives the last validation of the last stage.

    minutes: for everything, shared out as the plan says; None: the steps that the tier names. Called again after it was
    interrupted, it continues where it was. In the end OUT/weights has φ_e's shift, the best settings of Alg. 2, the curves and
    a model card. by: the command that the card names, where it is one. options: those of `train_stage`.
    """
    began, validated = time.monotonic(), dict[str, float]()
    main = os.environ.get("RANK", "0") == "0"  # of several processes one writes what belongs to the whole run
    out.mkdir(parents=True, exist_ok=True)
    photos = Photos.of(data).split()
    keep_record(out / "all.json", {"tier": config.name, "minutes": minutes, "seed": options.get("seed", 0)},
                (out / "all.json").exists(), main, may_change=())
    for stage, share in config.plan.items():
        log.info("%s: %s", stage, "by steps" if minutes is None else f"{share * minutes:.2g} minutes")
        validated = train_stage(stage, config, data, out, photos=photos, resume=True,
                                minutes=None if minutes is None else share * minutes, **options) or validated
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


def load_networks(folder: Path, config: Tier, trained: tuple[str, ...]) -> ITER:
    """An ITER with the VQGAN of `folder` and every network there that this stage will not train itself, or trains on."""
    model = ITER(config)
    for name in weights.NETWORKS:
        path = folder / f"{name}.safetensors"
        if path.exists():
            weights.load_state(model.get_submodule(name), weights.read_tensors(path), str(path))
        elif name == "vqgan" or (name == "lq_encoder" and not {"vqgan", "lq_encoder"} & set(trained)):
            raise weights.WeightsError(f"{path}: no such file; train the stage before this one first")
    if not (folder / "refiner.safetensors").exists():
        model.refiner.start_from(model.lq_encoder)
    return model


def run(args: argparse.Namespace, others: Mapping[str, Callable[..., dict[str, float]]] = MappingProxyType({})) -> int:
    """`itersr train {all,vqgan,…} …`: see `itersr train --help`. others: what trains further names that may be given."""
    config = weights.read_tier(args.tier)
    pick_device(args.device)  # before anything is written
    given = {name: value for name in ("minutes", "steps", "batch", "crop", "lr") if (value := getattr(args, name)) is not None}
    for name, value in given.items():
        if not value > 0:
            raise ValueError(f"--{name} {value:g}: must be above 0")
    changes = {name: value for name, value in given.items() if name != "minutes"}
    config = dataclasses.replace(config, train={name: dataclasses.replace(settings, **changes)
                                                for name, settings in config.train.items()})
    options = {name: getattr(args, name) for name in ("seed", "device", "precision", "minutes", "workers")}
    if args.what == "all":
        said = {"data": "DIR"} if args.data else {}
        by = ship.call("all", tier=Path(args.tier).name, **said, **given, **({"seed": args.seed} if args.seed else {}))
        scalars = train_all(config, args.data, Path(args.out), by=by, **options)
    elif args.what in others:
        scalars = others[args.what](config, args.data, Path(args.out), changes=changes, resume=args.resume, **options)
    else:
        scalars = train_stage(args.what, config, args.data, Path(args.out), resume=args.resume, **options)
    for name, value in scalars.items():
        print(f"{args.what}: {name} {value:.4g}")
    return 0
