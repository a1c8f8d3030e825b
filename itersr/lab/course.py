"""The networks that a notebook shows, and how they were trained: shipped weights, this run's, or trained now."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from itersr import weights
from itersr.config import TIERS, Tier
from itersr.lab.reproduce import ROOT
from itersr.model import ITER, pick_device
from itersr.training import STAGES
from itersr.training.run import load_networks, train_stage

SHOWN = "tiny"
"""The tier that the course shows, also where better weights ship: readers can train it themselves, on a CPU."""


def _ready(config: Tier, data: str | Path | None, device: str) -> ITER | None:
    """The model of a folder of weights, or of those that ship; None where it has to be trained. Prints which."""
    if config.name not in TIERS:
        model = ITER.from_pretrained(ROOT / config.name, device)
        model.tier = config  # named after the folder
        print(f"weights: those of the folder {config.name}, {model.fingerprint}")
        return model
    if data is None and config.name != "smoke" and config.name in weights.shipped():
        ships, _ = weights.read_config(weights.SHIPPED / config.name)
        if all(getattr(ships, name) == getattr(config, name) for name in weights.NETWORKS):
            model = ITER.from_pretrained(config.name, device)
            print(f"weights: {config.name}, as it ships with the package, {model.fingerprint}")
            return model
    return None


def load_or_train(stage: str, config: Tier, data: str | Path | None, out: Path, device: str = "auto", **options: Any) -> ITER:
    """The model with every network up to `stage`: from the tier's shipped weights, else from OUT/weights, else trained now.

    `smoke` trains now, in seconds. A tier that is named after a folder (see `Run.start`) loads what lies there. Shipped weights
    are not used with photos of the reader's own (`data`), nor for networks of other sizes. Prints where they come from.
    """
    if (ready := _ready(config, data, device)) is not None:
        return ready
    wanted = STAGES[stage]
    trained = all((out / "weights" / f"{name}.safetensors").exists() for name in wanted)
    photos = "scikit-image's photos" if data is None else Path(data).name
    print(f"weights: {', '.join(wanted)} of {config.name}, trained on {photos}, {'earlier in this run' if trained else 'now'}")
    if not trained:
        train_stage(stage, config, data, out, **{"resume": True, "progress": False, "device": device, **options})
    model = load_networks(out / "weights", config, wanted)
    return model.to(pick_device(device)).eval().requires_grad_(False)


def model_to_measure(config: Tier, data: str | Path | None, out: Path, device: str = "auto", **options: Any) -> ITER:
    """What the result notebooks (06–10) measure: a tier's networks, all four; at `smoke` those of `SHOWN`.

    Networks that trained for seconds show whether code runs, not what the method does.
    """
    if config.name == "smoke" and SHOWN in weights.shipped():
        return ITER.from_pretrained(SHOWN, device)
    if (ready := _ready(config, data, device)) is not None:
        return ready
    for stage in ("vqgan", "lq_encoder", "token_nets"):
        model = load_or_train(stage, config, data, out, device, **options)
    return model


def learning_curve(config: Tier, stage: str, out: Path, network: str = "") -> pd.DataFrame:
    """The log of a stage (of the run of `network` alone, where there is one), this run's or else the last shipped one.

    Tidy: step, seconds, split, name, value.
    """
    for own in (out / name / "log.csv" for name in (network, stage) if name):
        if own.exists():
            return pd.read_csv(own)
    shipped = weights.SHIPPED / config.name
    return pd.read_csv(shipped / f"{[stage, *_recorded(shipped, stage, network)][-1]}.csv")


def _recorded(folder: Path, stage: str, network: str = "") -> dict[str, dict[str, Any]]:
    """The runs of a stage (those that trained `network`) that made the weights in `folder`, from their config.json."""
    _, extra = weights.read_config(folder)
    return {name: done for name, done in extra.get("runs", {}).items()
            if done["stage"] in (stage, network) and network in ("", *done["networks"])}


def recipe(stage: str, network: str = "", *, name: str = SHOWN,
           minutes: tuple[float, ...] = (2, 10, 30)) -> tuple[str, pd.DataFrame]:
    """How a stage (or one `network` of it) of shipped weights was trained: one line, and a table of the last run's log.

    The table shows these minutes and the end, so that readers can compare a run of their own while it goes on. Training values
    are means of five logged steps. WeightsError where these weights do not say how they were made.
    """
    folder = weights.locate(name)
    runs = _recorded(folder, stage, network)
    if not runs:
        raise weights.WeightsError(f"{folder.name}: no record of the stage {stage}")
    last, done = list(runs.items())[-1]
    log = pd.read_csv(folder / f"{last}.csv")
    table: dict[str, dict[str, float]] = {}
    for (split, value), rows in log[log.name != "learning rate"].groupby(["split", "name"], sort=False):
        for minute in (*minutes, done["minutes"]):
            so_far = rows[rows.seconds <= 60 * minute + 30].value
            if len(so_far):
                mean = so_far.tail(5 if split == "train" else 1).mean()
                table.setdefault(f"{split}: {value}", {})[f"{minute:g} min"] = round(mean, 3)
    line = "; then ".join("`{command}`: {steps} steps in {minutes} minutes".format(**run) for run in runs.values())
    line += f"; on {done['hardware']}" + (". Of the last run:" if len(runs) > 1 else "")
    return line, pd.DataFrame(table).T.astype(object).where(lambda cell: cell.notna(), "–")
