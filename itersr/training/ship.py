"""Make a trained tier ship: its weights, its learning curves, and a model card written from what the run itself recorded.

    python -m itersr.training.ship --run checkpoints --photos DIR --data "what it was trained on" --hardware "2 CPU cores"

φ_e's shift (`ITER.calibration`), the temperature and α are chosen here, on the photos below DIR that training held out. The
numbers on test photos come later, from notebook 09: `python -m itersr.ledger` writes them into the card.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import logging
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from itersr import experiments, weights
from itersr.config import TIERS, Tier
from itersr.ledger import CARD_BEGIN, CARD_END
from itersr.model import ITER
from itersr.training.run import STAGES, form_of, runs_of

log = logging.getLogger(__name__)
CURVE_ROWS = 60  # training rows kept of every curve
SETTINGS = {"temperature": (0.7, 0.85, 1.0), "alpha": (0.5, 0.7, 0.9)}
"""What is tried on held-out photos; α is 0.5 in the paper and 0.7 in the authors' code."""


def ship(run: Path, to: Path, *, photos: Path | None, data: str, hardware: str, commit: str,
         notes: str = "") -> None:
    """Copy RUN/weights to `to`, thin the logs of its stages to curves there, fit φ_e's shift, and write the card.

    photos: the folder it was trained on (None: scikit-image's). WeightsError where a network is missing.
    """
    config, extra = weights.read_config(run / "weights")
    for name in weights.NETWORKS:
        if not (run / "weights" / f"{name}.safetensors").exists():
            raise weights.WeightsError(f"{run / 'weights'}: {name}.safetensors is missing; train its stage first")
    shutil.copytree(run / "weights", to, dirs_exist_ok=True)
    logs, runs = {}, {}
    for stage in STAGES:
        for name, used in runs_of(run, stage).items():
            logs[name] = _thin(run / name / "log.csv")
            logs[name].to_csv(to / f"{name}.csv", index=False)
            runs[name] = {"stage": stage, "networks": used["networks"], "command": command(stage, config, used),
                          "steps": int(logs[name].step.max()), "hardware": hardware,
                          "minutes": round(logs[name].seconds.max() / 60)}
            # a run of what an earlier one trained has gone on from its weights
            before = [done["networks"] for other, done in runs.items() if other != name and done["stage"] == stage]
            runs[name]["command"] += " --again" if used["networks"] in before else ""
    model = ITER.from_pretrained(to)
    held_out = experiments.held_out(photos)
    model.calibration = round(experiments.calibrate(model, held_out), 4)
    config = dataclasses.replace(config, **best(model, held_out, **SETTINGS))  # type: ignore[arg-type]
    extra |= {"calibration": model.calibration, "runs": runs}
    weights.write_config(to, config, extra)
    (to / "MODEL_CARD.md").write_text(card(config, extra, logs, weights.fingerprint(to), data, hardware, commit, notes))


def best(model: ITER, photos: Mapping[str, Tensor], **grid: Sequence[float]) -> dict[str, float]:
    """Of all combinations of `Sampler` fields in `grid` the one with which Alg. 2 is nearest to HQ on `photos` (`look_here`).

    Crops of 160², two seeds. Temperature and α have to be chosen together: both decide how likely the kept tokens are.
    """
    choices = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    methods = [experiments.Method("ITER", sampler=model.sampler(**choice), dial=i)  # type: ignore[arg-type]
               for i, choice in enumerate(choices)]
    look = experiments.look_here()
    rows = experiments.sweep(model, methods, experiments.make_pairs(photos, model.tier, 160), (0, 1), names=(look,))
    means = rows.groupby("dial")[look].mean()
    log.info("held-out %s: %s", look, "; ".join(f"{choice} {means[i]:.4f}" for i, choice in enumerate(choices)))
    return choices[int(means.idxmin())]


def command(stage: str, config: Tier, used: dict[str, Any]) -> str:
    """The call that trained a stage, with those settings that are not the tier's own."""
    plain = TIERS[config.name]
    usual = plain.train[stage]
    other = f" --crop {used['crop']}" if used["crop"] != usual.crop else ""
    other += f" --lr {used['lr']:g}" if used.get("lr", usual.lr) != usual.lr else ""
    networks = used["networks"]
    other += f" --networks {','.join(networks)}" if set(networks) != set(STAGES[stage]) else ""
    other += f" --factor {config.vqgan.factor}" if config.vqgan.factor != plain.vqgan.factor else ""
    other += f" --form {form_of(config)}" if form_of(config) != form_of(plain) else ""
    return (f"itersr train {stage} --tier {config.name} --steps {used['steps']} --batch {used['batch']}{other} "
            f"--precision {used['precision']} --seed {used['seed']}")


def _thin(path: Path) -> Any:
    """A log with about CURVE_ROWS steps of training and every validation; seconds run on over resumed calls."""
    import pandas as pd

    log = pd.read_csv(path)
    log = log.sort_values("step", kind="stable")
    train = sorted(log[log.split == "train"].step.unique())
    keep = set(train[:: max(len(train) // CURVE_ROWS, 1)]) | set(train[-1:])
    return log[(log.split == "validation") | log.step.isin(keep)]


def card(config: Any, extra: dict[str, Any], logs: dict[str, Any], fingerprint: str, data: str, hardware: str,
         commit: str, notes: str = "") -> str:
    """The model card: what these weights are, how they came about, and what they reached on held-out photos."""
    lines = [
        f"# itersr `{config.name}`: {config.notes}", "",
        f"Weights of ITER (Chen et al., AAAI 2024) for ×{config.scale} super-resolution, trained by this project's code.", "",
        f"- fingerprint: `{fingerprint}`", f"- data: {data}",
        f"- degradation: `{config.degradation}` ranges (`itersr.degradation`)",
        f"- hardware: {hardware}; commit {commit}",
        f"- VQGAN: f = {config.vqgan.factor}, {config.vqgan.codes} codes of {config.vqgan.code_dim} dimensions",
        f"- φ_e's logit is shifted by {extra.get('calibration', 0.0):.3f} (share of good tokens, held-out training photos)",
        f"- unless told, φ_r's samples have temperature {config.temperature:g} and α is {config.alpha:g}: the best of "
        + " × ".join(", ".join(f"{x:g}" for x in tried) for tried in SETTINGS.values()) + " on held-out training photos",
        *([f"- {notes}"] if notes else []), "",
        "For research and teaching. The numbers below are the last validation's, on photos that were not trained on.", "",
        "| stage | steps | minutes | command |", "|---|---|---|---|",
    ]
    for stage, done in extra["runs"].items():
        lines.append(f"| {stage} | {done['steps']} | {done['minutes']} | `{done['command']}` |")
    lines += ["", "| stage | what | value |", "|---|---|---|"]
    for stage, log in logs.items():
        last = log[log.split == "validation"]
        last = last[last.step == last.step.max()]
        lines += [f"| {stage} | {row.name_} | {row.value:.4g} |" for row in last.rename(columns={"name": "name_"}).itertuples()]
    return "\n".join([*lines, "", "## On test photos", "", CARD_BEGIN, "Not measured yet.", CARD_END]) + "\n"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m itersr.training.ship", description=__doc__.split("\n")[0])
    parser.add_argument("--run", type=Path, default=Path("checkpoints"), help="the folder that `itersr train --out` wrote")
    parser.add_argument("--photos", type=Path, help="the folder it was trained on (default: scikit-image's photos)")
    parser.add_argument("--data", required=True, help="what it was trained on, for the card")
    parser.add_argument("--hardware", required=True, help="for the card")
    parser.add_argument("--commit", default="unknown", help="the commit that trained it, for the card")
    parser.add_argument("--notes", default="", help="a line more for the card")
    args = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        config, _ = weights.read_config(args.run / "weights")
        ship(args.run, weights.SHIPPED / config.name, photos=args.photos, data=args.data, hardware=args.hardware,
             commit=args.commit, notes=args.notes)
    except weights.WeightsError as error:
        print(f"ship: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
