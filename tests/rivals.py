"""What notebook 11 records: a grid of short trainings, and the measurements of the three that were trained alike.

    python -m tests.rivals grid GRID --tier smoke --data DIR --minutes 2
    python -m tests.rivals measure RUNS --minutes 30 [--grid GRID]

`grid` trains ITER and the GAN for the same minutes, with three learning rates × three seeds, and for the GAN three weights of
its adversary each. Every run is judged by its last weights on the same held-out crops. GRID/grid.jsonl has a row for each
finished run; called again, it goes on where it was. `measure` writes figures/11_rivals.json; RUNS is the folder in which
rival-iter, rival-gan and rival-ldm were trained, and RUNS/rows.jsonl keeps the rows that are finished.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import resource
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from itersr.config import Tier, tier
from itersr.lab import experiments, rivals
from itersr.lab.experiments import bicubic
from itersr.lab.reproduce import ROOT
from itersr.lab.rivals import measure, settings_of, train_iter, train_rival
from itersr.model import ITER
from itersr.training.data import Photos
from itersr.training.loop import TrainingError
from itersr.training.perceptual import perceptual, scores
from itersr.training.run import materials

RATES = (1 / 3, 1.0, 3.0)  # times the usual learning rate
SEEDS = (0, 1, 2)
WEIGHTS = (1 / 3, 1.0, 3.0)  # times the usual weight of the adversary
SETS = ("kodak24", "gb82")


def runs() -> Iterator[dict[str, Any]]:
    """What is tried, in an order that has something of everything early."""
    for seed in SEEDS:
        for rate in RATES:
            yield {"method": "ITER", "rate": rate, "weight": None, "seed": seed}
            for weight in WEIGHTS:
                yield {"method": "GAN", "rate": rate, "weight": weight, "seed": seed}


def train(run: dict[str, Any], config: Tier, photos: tuple[Photos, Photos], out: Path, minutes: float, **options: Any) -> None:
    """Train one run; TrainingError where it diverges."""
    options |= {"seed": run["seed"], "photos": photos, "progress": False, "resume": True}
    if run["method"] == "GAN":
        usual = settings_of("rival-gan", config)
        changes = {"lr": usual.lr * run["rate"], "gan_weight": usual.gan_weight * run["weight"]}
        train_rival("rival-gan", config, None, out, changes=changes, minutes=minutes, **options)
    else:
        config = dataclasses.replace(config, train={name: dataclasses.replace(settings, lr=settings.lr * run["rate"])
                                                    for name, settings in config.train.items()})
        train_iter(config, None, out, minutes=minutes, **options)


def restored(run: dict[str, Any], folder: Path, lq: Tensor) -> Tensor:
    """LQ images (B, 3, H, W) restored by what a run has trained; ITER by Alg. 2 at temperature .7."""
    if run["method"] == "GAN":
        return rivals.load("rival-gan", folder).restore(lq)
    return ITER.from_pretrained(folder, "cpu").restore(lq, temperature=0.7).image


def grid(config: Tier, data: Path | None, out: Path, minutes: float, **options: Any) -> list[dict[str, Any]]:
    """All runs of `runs`, each of `minutes`, and bicubic; gives the rows of OUT/grid.jsonl."""
    out.mkdir(parents=True, exist_ok=True)
    file, photos = out / "grid.jsonl", Photos.of(data).split()
    _, pairs = materials(config, config.train["iter"], photos, 0, torch.device("cpu"), validation=(24, 128))
    look = perceptual()
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    if not rows:
        rows.append({"method": "bicubic", **scores(bicubic(pairs["lq"], config.scale), pairs["hq"], look)})
        file.write_text(json.dumps(rows[0]) + "\n")
    for i, run in enumerate(runs()):
        if any(run.items() <= row.items() for row in rows):
            continue
        folder = out / f"{i:02d}"
        try:
            train(run, config, photos, folder, minutes, **options)
            found: dict[str, Any] = scores(restored(run, folder / "weights", pairs["lq"]), pairs["hq"], look)
        except TrainingError as error:
            found = {"failed": str(error)}
        rows.append({**run, "tier": config.name, "minutes": minutes, **found, "logs": measure.logs_of(folder, 12)})
        with file.open("a") as lines:
            lines.write(json.dumps(rows[-1]) + "\n")
        print({name: value for name, value in rows[-1].items() if name != "logs"}, flush=True)
    return rows


def memory(folder: Path, family: str, side: int) -> float:
    """MB by which the peak memory of a process grows when it restores an LQ image of side², after the networks were loaded."""
    net: Any = ITER.from_pretrained(folder, "cpu") if family == "ITER" else rivals.load(f"rival-{family.lower()}", folder)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    net.restore(torch.rand(1, 3, side, side))
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def record(runs: Path, minutes: float, grid: Path | None, seeds: int) -> dict[str, Any]:
    """What figures/11_rivals.json holds; also draws figures/11_rivals_noise.png."""
    folder, side = runs / "weights", 192  # in which NIQE finds four of its blocks
    model = ITER.from_pretrained(folder, "cpu")
    gan, ldm = (rivals.load(what, folder) for what in rivals.RIVALS)
    pairs = experiments.make_pairs(experiments.unseen_photos(None, experiments.bench_folder(), SETS), model.tier, side, 0)
    names = ["psnr", "lpips", "gmsd", "niqe"]
    rows = measure.curves(model, gan, ldm, pairs, range(seeds), store=runs / "rows.jsonl", names=names)
    measure.noise_figure(model, gan, ldm, pairs[0], 25).savefig(ROOT / "figures" / "11_rivals_noise.png", dpi=100)
    spent = measure.costs(model, gan, ldm)
    for family, own in spent.items():
        with ProcessPoolExecutor(1, multiprocessing.get_context("forkserver")) as alone:  # a spawned one inherits our peak
            own["megabytes"] = round(alone.submit(memory, folder, family, side // model.tier.scale).result())
    lines = [] if grid is None else [json.loads(line) for line in (grid / "grid.jsonl").read_text().splitlines()]
    kept = ["family", "steps", "calls", "dial", "photo", "seed", *names]
    return {
        "tier": model.tier.name, "minutes": minutes, "weights": experiments.fingerprint(model), "side": side, "costs": spent,
        "seconds": measure.seconds(model, gan, ldm, pairs[0]), "logs": measure.logs_of(runs),
        "noise": measure.noise(model, gan, ldm, pairs, (10, 25)), "grid": lines,
        "rows": {name: [round(x, 5) if isinstance(x, float) else x for x in rows[name]] for name in kept},
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.rivals", description=(__doc__ or "").split("\n")[0])
    parts = parser.add_subparsers(dest="what", required=True)
    one = parts.add_parser("grid", help="a grid of short trainings")
    one.add_argument("out", type=Path, metavar="GRID", help="the folder of the runs")
    one.add_argument("--tier", default="smoke", help="(default: %(default)s)")
    one.add_argument("--data", type=Path, metavar="DIR", help="photos (default: scikit-image's)")
    one.add_argument("--minutes", type=float, default=2.0, help="for each run (default: %(default)s)")
    one.add_argument("--precision", default="auto", choices=("auto", "no", "bf16"))
    two = parts.add_parser("measure", help="measure what was trained")
    two.add_argument("runs", type=Path, metavar="RUNS", help="the folder in which all three were trained")
    two.add_argument("--grid", type=Path, metavar="GRID", help="the folder of `grid`")
    two.add_argument("--minutes", type=float, required=True, help="that each of the three was trained, for the record")
    two.add_argument("--seeds", type=int, default=1, help="restorations of each photo (default: %(default)s)")
    two.add_argument("--out", type=Path, default=ROOT / "figures" / "11_rivals.json", help="(default: %(default)s)")
    args = parser.parse_args(arguments)
    if args.what == "grid":
        grid(tier(args.tier), args.data, args.out, args.minutes, precision=args.precision)
    else:
        args.out.write_text(json.dumps(record(args.runs, args.minutes, args.grid, args.seeds)) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
