"""Which is easier to train? The same short runs for ITER and for the GAN: three learning rates × three seeds, and for the GAN
three weights of its adversary each.

    python -m itersr.lab.rivals.grid OUT --tier tiny --data DIR --minutes 5

Every run gets the same minutes and is judged on the same held-out crops. OUT/grid.jsonl has a row for each finished run; called
again, it goes on where it was.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from itersr.config import Tier, tier
from itersr.lab.experiments import bicubic
from itersr.lab.rivals import settings_of, train_iter, train_rival
from itersr.lab.rivals.measure import last_scores, logs_of
from itersr.training.data import Photos
from itersr.training.loop import TrainingError
from itersr.training.perceptual import perceptual, scores
from itersr.training.run import materials

RATES = (1 / 3, 1.0, 3.0)  # times the usual learning rate
SEEDS = (0, 1, 2)
WEIGHTS = (1 / 3, 1.0, 3.0)  # times the usual weight of the adversary


def runs() -> Iterator[dict[str, Any]]:
    """What is tried, in an order that has something of everything early."""
    for seed in SEEDS:
        for rate in RATES:
            yield {"method": "ITER", "rate": rate, "weight": None, "seed": seed}
            for weight in WEIGHTS:
                yield {"method": "GAN", "rate": rate, "weight": weight, "seed": seed}


def train(run: dict[str, Any], config: Tier, photos: tuple[Photos, Photos], out: Path, minutes: float, **options: Any
          ) -> dict[str, Any]:
    """Train one run; gives its last PSNR and perceptual distance, or "failed": the reason, where it diverged."""
    options |= {"seed": run["seed"], "photos": photos, "progress": False, "resume": True}
    try:
        if run["method"] == "GAN":
            usual = settings_of("rival-gan", config)
            changes = {"lr": usual.lr * run["rate"], "gan_weight": usual.gan_weight * run["weight"]}
            train_rival("rival-gan", config, None, out, changes=changes, minutes=minutes, **options)
            return last_scores(out / "rival-gan")
        config = dataclasses.replace(config, train={name: dataclasses.replace(settings, lr=settings.lr * run["rate"])
                                                    for name, settings in config.train.items()})
        train_iter(config, None, out, minutes=minutes, **options)
        found = last_scores(out / list(config.plan)[-1])
        return {name.removesuffix(" ITER"): value for name, value in found.items() if name.endswith(" ITER")}
    except TrainingError as error:
        return {"failed": str(error)}


def bicubic_row(config: Tier, photos: tuple[Photos, Photos]) -> dict[str, Any]:
    """What bicubic reaches on the same held-out crops: worse than this is no result."""
    _, pairs = materials(config, config.train["iter"], photos, 0, torch.device("cpu"))
    return {"method": "bicubic", **scores(bicubic(pairs["lq"], config.scale), pairs["hq"], perceptual())}


def grid(config: Tier, data: Path | None, out: Path, minutes: float, **options: Any) -> list[dict[str, Any]]:
    """All runs of `runs`, each of `minutes`, and bicubic; gives the rows of OUT/grid.jsonl."""
    out.mkdir(parents=True, exist_ok=True)
    file, photos = out / "grid.jsonl", Photos.of(data).split()
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    if not rows:
        rows.append(bicubic_row(config, photos))
        file.write_text(json.dumps(rows[0]) + "\n")
    for i, run in enumerate(runs()):
        if any(run.items() <= row.items() for row in rows):
            continue
        folder = out / f"{i:02d}"
        found = train(run, config, photos, folder, minutes, **options)
        rows.append({**run, "tier": config.name, "minutes": minutes, **found, "logs": logs_of(folder, 12)})
        with file.open("a") as lines:
            lines.write(json.dumps(rows[-1]) + "\n")
        print({name: value for name, value in rows[-1].items() if name != "logs"}, flush=True)
    return rows


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m itersr.lab.rivals.grid", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder of the runs")
    parser.add_argument("--tier", default="tiny", help="(default: %(default)s)")
    parser.add_argument("--data", type=Path, metavar="DIR", help="photos (default: scikit-image's)")
    parser.add_argument("--minutes", type=float, default=5.0, help="for each run (default: %(default)s)")
    parser.add_argument("--precision", default="auto", choices=("auto", "no", "bf16"))
    args = parser.parse_args(arguments)
    grid(tier(args.tier), args.data, args.out, args.minutes, precision=args.precision)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
