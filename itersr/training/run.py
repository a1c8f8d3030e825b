"""What `itersr train` runs: Stage I, then Algorithm 1, in one folder.

`train_all` runs the stages of a tier's `plan` one after the other, each in its share of the time, and writes the card.

    OUT/vqgan, OUT/lq_encoder, OUT/token_nets, OUT/iter   a run each: checkpoint, log.csv, TensorBoard, samples.png
    OUT/token_nets_refiner, OUT/token_nets_2, …           a run of some of a stage's networks (`--networks refiner`); one more
                                                          run of a stage, on from what the last one gave (`--again`)
    OUT/weights                                           averaged weights in half precision, for ITER.from_pretrained

The token networks are trained on the VQGAN as it ships, rounded to half precision.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import logging
import os
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from itersr import weights
from itersr.config import TIERS, Norm, Tier, tier
from itersr.model import ITER, pick_device
from itersr.reproduce import ROOT
from itersr.training import algorithm1, stage1
from itersr.training.data import Crops, Photos, ranges, validation_pairs
from itersr.training.loop import keep_record, make_accelerator, train
from itersr.training.perceptual import perceptual

log = logging.getLogger(__name__)
STAGES = {"vqgan": ("vqgan",), "lq_encoder": ("lq_encoder",), "token_nets": ("refiner", "evaluator"),
          "iter": ("lq_encoder", "refiner", "evaluator")}
"""Which networks each stage trains."""


def runs_of(out: Path, stage: str, network: str = "") -> dict[str, dict[str, Any]]:
    """The runs of a stage below OUT (those that trained `network`): name → settings, in the order in which they began."""
    found = {file.parent.name: json.loads(file.read_text()) for file in out.glob("*/settings.json")}
    found = {name: used for name, used in found.items() if used.get("stage") == stage and network in ("", *used["networks"])}
    return dict(sorted(found.items(), key=lambda item: item[1]["order"]))


def place_of(out: Path, stage: str, networks: tuple[str, ...], again: bool = False) -> Path:
    """The folder of a run of `networks`: that of their last run, or (`again`, or there was none) a new one."""
    name = stage if set(networks) == set(STAGES[stage]) else "_".join((stage, *networks))
    number = sum(set(used["networks"]) == set(networks) for used in runs_of(out, stage).values()) + again
    return out / (f"{name}_{number}" if number > 1 else name)


def train_stage(stage: str, config: Tier, data: str | Path | None, out: Path, *, seed: int = 0, device: str = "auto",
                precision: str = "auto", validation: tuple[int, int] | None = None, again: bool = False,
                photos: tuple[Photos, Photos] | None = None, **options: Any) -> dict[str, float]:
    """Train one stage of a tier; gives the last validation's scalars (in the first of several processes, {} in the others).

    stage: "vqgan"; or, from OUT/weights' VQGAN, "lq_encoder" and then "token_nets", or "iter" for all three at once.
    validation: how many held-out crops, and their side in HQ pixels. again: start another run, from OUT/weights and with a
    schedule of its own, beside those there. photos: to train on and held out, where they have been read already (else those of
    `data`). options: go to `loop.train`.
    """
    if stage not in STAGES:
        raise ValueError(f"stage {stage!r}: there are {', '.join(STAGES)}")
    if again and stage == "vqgan":
        raise ValueError("vqgan cannot go on from weights (they hold no discriminator): name another folder")
    accelerator = make_accelerator(device, precision)
    photographs, held_out = photos or Photos.of(data).split()
    held_out.preload()
    settings = config.train[stage]
    networks = STAGES[stage] if stage == "vqgan" else settings.networks
    count, side = validation or ((4, 96) if config.name == "smoke" else (16, 192))
    pairs = validation_pairs(held_out, count, side, seed, degradation=ranges(config.degradation), scale=config.scale,
                             unit=config.unit)
    pairs = {name: value.to(accelerator.device) for name, value in pairs.items()}
    folder, log_to = out / "weights", place_of(out, stage, networks, again)
    accelerator.wait_for_everyone()  # all have counted the runs before one of them adds its own
    look = perceptual().to(accelerator.device)
    validated: dict[str, float] = {}

    task: Any
    torch.manual_seed(seed)  # the initial weights of this run
    if stage == "vqgan":
        crops = Crops(photographs, settings.crop, seed)
        task = stage1.Stage1(config, seed)

        def validate() -> tuple[dict[str, float], dict[str, Tensor]]:
            return stage1.validate(task.vqgan, pairs, look)
    else:
        crops = Crops(photographs, settings.crop, seed, degradation=ranges(config.degradation), scale=config.scale,
                      mild=settings.mild)
        task = algorithm1.Algorithm1(load_networks(folder, config, settings.networks), settings, seed)

        def validate() -> tuple[dict[str, float], dict[str, Tensor]]:
            return algorithm1.validate(task.model, pairs, look, settings.networks, seed)

    def save() -> None:
        weights.save(folder, task.trained, config)

    order = runs_of(out, stage).get(log_to.name, {}).get("order", len(list(out.glob("*/settings.json"))))
    names = hashlib.sha256("\n".join(Path(name).name for name in photographs.names).encode()).hexdigest()[:12]
    record = {"stage": stage, "tier": config.name, **dataclasses.asdict(settings), "networks": networks, "seed": seed,
              "precision": accelerator.mixed_precision, "photos": len(photographs), "names of photos": names,
              "minutes": options.get("minutes"), "processes": accelerator.num_processes, "order": order}
    with torch.random.fork_rng(devices=[]):
        validated = train(task, crops, log_to, validate=validate, save_weights=save, record=record, accelerator=accelerator,
                          **options)
    accelerator.end_training()
    return validated if accelerator.is_main_process else {}


def train_all(config: Tier, data: str | Path | None, out: Path, *, minutes: float | None = None, hardware: str | None = None,
              describe: str | None = None, **options: Any) -> dict[str, float]:
    """Train all networks of a tier, the stages of its `plan` one after the other; gives the last validation of the last stage.

    minutes: for everything, shared out as the plan says; None: the steps that the tier names. Called again after it was
    interrupted, it continues where it was. In the end OUT/weights has φ_e's shift, the best temperature and α, the curves and a
    model card. hardware, describe: what the card says of the machine and the photos. options: those of `train_stage`.
    """
    from itersr.training import ship

    began, validated = time.monotonic(), dict[str, float]()
    said = ship.command_for_all(config, data is not None, minutes, options.get("seed", 0))
    out.mkdir(parents=True, exist_ok=True)
    photos = Photos.of(data).split()
    keep_record(out / "all.json", {"tier": config.name, "minutes": minutes, "seed": options.get("seed", 0)},
                (out / "all.json").exists(), os.environ.get("RANK", "0") == "0", may_change=())
    for stage, share in config.plan.items():
        log.info("%s: %s", stage, "by steps" if minutes is None else f"{share * minutes:.2g} minutes")
        validated = train_stage(stage, config, data, out, photos=photos, resume=True,
                                minutes=None if minutes is None else share * minutes, **options) or validated
    left = None if minutes is None else max(60 * minutes - (time.monotonic() - began), 5.0)
    if torch.distributed.is_initialized() and torch.distributed.get_rank():
        return validated  # one process writes the card
    card = out / "weights" / "MODEL_CARD.md"
    if card.exists() and weights.fingerprint(card.parent) in card.read_text(encoding="utf-8"):
        log.info("%s: has been trained", out)  # and its card, the last of all, written
        return validated
    kept = f", {len(photos[1])} others held out" if data is not None else " of scikit-image"
    ship.export(out, None if data is None else Path(data), data=describe or f"{len(photos[0])} photos{kept}",
                hardware=hardware, by=said, device=options.get("device", "auto"), seconds=left)
    return validated


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


def load_or_train(stage: str, config: Tier, data: str | Path | None, out: Path, **options: Any) -> ITER:
    """The model with every network up to `stage`: from the tier's shipped weights, else from OUT/weights, else trained now.

    What a notebook calls: `smoke` trains live in seconds, the other tiers load what ships, and a tier that is named after a
    folder (see `Run.start`) loads what lies there.
    """
    if config.name not in TIERS:
        model = ITER.from_pretrained(ROOT / config.name, options.get("device", "auto"))
        model.tier = config  # named after the folder
        return model
    if config.name in weights.shipped() and config.name != "smoke":
        return ITER.from_pretrained(config.name, options.get("device", "auto"))
    wanted = ("vqgan",) if stage == "vqgan" else config.train[stage].networks
    if not all((out / "weights" / f"{name}.safetensors").exists() for name in wanted):
        train_stage(stage, config, data, out, **{"resume": True, "progress": False, **options})
    model = load_networks(out / "weights", config, wanted)
    return model.to(pick_device(options.get("device", "auto"))).eval().requires_grad_(False)


def model_to_measure(config: Tier, data: str | Path | None, out: Path, **options: Any) -> ITER:
    """What the result notebooks (06–09) look at: a tier's networks, all four; at `smoke`, a quick look at the best that ship.

    Networks that trained for seconds show whether code runs, not what the method does.
    """
    if config.name == "smoke" and weights.shipped()[:1] not in ((), ("smoke",)):
        return ITER.from_pretrained(device=options.get("device", "auto"))
    for stage in ("vqgan", "lq_encoder", "token_nets"):
        model = load_or_train(stage, config, data, out, **options)
    return model


def learning_curve(config: Tier, stage: str, out: Path, network: str = "") -> Any:
    """The log of a stage's last run (of the last that trained `network`) as a tidy pandas frame: step, seconds, split, name,
    value. This run's, else the shipped one."""
    import pandas as pd

    own = [log for run in runs_of(out, stage, network) if (log := out / run / "log.csv").exists()]
    if own:
        return pd.read_csv(own[-1])
    shipped = weights.SHIPPED / config.name
    return pd.read_csv(shipped / f"{[stage, *_recorded(shipped, stage, network)][-1]}.csv")


def _recorded(folder: Path, stage: str, network: str = "") -> dict[str, dict[str, Any]]:
    """The runs of a stage (those that trained `network`) that made the weights in `folder`, as their config.json tells."""
    _, extra = weights.read_config(folder)
    return {name: done for name, done in extra.get("runs", {}).items()
            if done["stage"] == stage and network in ("", *done["networks"])}


def recipe(stage: str, network: str = "", *, name: str | None = None, minutes: tuple[float, ...] = (2, 10, 30)
           ) -> tuple[str, Any]:
    """How a stage (or one `network` of it) of shipped weights (of the best tier, or of `name`) was trained: one line, and a
    pandas frame of what the log of the last run showed at these minutes and at the end, so that a reader's own run can be
    told to be healthy while it still runs.

    Training values are means of five logged steps. WeightsError where these weights do not say how they were made.
    """
    import pandas as pd

    folder = weights.locate(name)
    runs = _recorded(folder, stage, network)
    if not runs:
        raise weights.WeightsError(f"{folder.name}: no record of the stage {stage}")
    last, done = list(runs.items())[-1]
    log = pd.read_csv(folder / f"{last}.csv")
    table: dict[str, dict[str, float]] = {}
    for (split, value), rows in log.groupby(["split", "name"], sort=False):
        for minute in (*minutes, done["minutes"]):
            so_far = rows[rows.seconds <= 60 * minute + 30].value
            if value != "learning rate" and len(so_far):
                mean = so_far.tail(5 if split == "train" else 1).mean()
                table.setdefault(f"{split}: {value}", {})[f"{minute:g} min"] = round(mean, 3)
    line = "; then ".join("`{command}`: {steps} steps in {minutes} minutes".format(**run) for run in runs.values())
    line += f"; on {done['hardware']}" + (". Of the last run:" if len(runs) > 1 else "")
    return line, pd.DataFrame(table).T.astype(object).where(lambda cell: cell.notna(), "–")


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


def run(args: argparse.Namespace) -> int:
    """`itersr train {all,vqgan,lq_encoder,token_nets,iter} …`: see `itersr train --help`."""
    config = variant(tier(args.tier), factor=args.factor, form=args.form)
    stage, out = args.what, Path(args.out)
    pick_device(args.device)  # before anything is written
    for name in ("minutes", "steps", "batch", "crop", "lr"):
        value = getattr(args, name)
        if value is not None and not value > 0:
            raise ValueError(f"--{name} {value:g}: must be above 0")
    changes = {name: getattr(args, name) for name in ("steps", "batch", "crop", "lr") if getattr(args, name) is not None}
    train = {name: dataclasses.replace(settings, **changes) if stage in ("all", name) else settings
             for name, settings in config.train.items()}
    options = {"seed": args.seed, "device": args.device, "precision": args.precision, "minutes": args.minutes,
               "workers": args.workers}
    if stage == "all":
        if args.networks is not None or args.again:
            raise ValueError("--networks and --again are for single stages, not for `train all`")
        scalars = train_all(dataclasses.replace(config, train=train), args.data, out, **options)
    else:
        if args.networks is not None:
            asked = tuple(args.networks.split(","))
            if not set(asked) <= set(STAGES[stage]):
                raise ValueError(f"--networks {args.networks}: {stage} trains {', '.join(STAGES[stage])}")
            train[stage] = dataclasses.replace(train[stage], networks=tuple(n for n in STAGES[stage] if n in asked))
        scalars = train_stage(stage, dataclasses.replace(config, train=train), args.data, out, resume=args.resume,
                              again=args.again, **options)
    for name, value in scalars.items():
        print(f"{stage}: {name} {value:.4g}")
    return 0
