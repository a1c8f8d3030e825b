"""Does training on its own samples (`TrainConfig.corrupt`) take something from φ_r? What notebook 10 shows of that.

    python -m tests.own_samples OUT --data FOLDER

φ_r of the tier `stripes` is trained on from the weights that ship, with and without its own samples among the kept tokens, all
else equal; both are measured over T and temperature with random masks. FOLDER: pictures of `python -m itersr.lab.worlds`.
Writes figures/10_own_samples.json. OUT keeps the runs and the finished rows.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from itersr import weights
from itersr.config import tier
from itersr.lab import experiments, worlds
from itersr.lab.experiments import Method
from itersr.lab.reproduce import ROOT
from itersr.model import ITER
from itersr.training.run import train_stage
from itersr.training.validate import neighbour_information

ARMS = {"without own samples": 0.0, "with own samples": 0.5}
STEPS, TEMPERATURES = (1, 4, 8, 16), (0.1, 0.3, 0.5, 0.7, 1.0)


def train(out: Path, corrupt: float, data: Path, steps: int, side: int = 128) -> ITER:
    """φ_r trained on for `steps`; what OUT holds already is not trained again."""
    if not (out / "weights").exists():
        shutil.copytree(weights.SHIPPED / "stripes", out / "weights")
    config = tier("stripes")
    settings = dataclasses.replace(config.train["token_nets"], steps=steps, corrupt=corrupt, lr=5e-4, validations=2)
    config = dataclasses.replace(config, train={**config.train, "refiner": settings})
    train_stage("refiner", config, data, out, validation=(4, side), resume=True, device="cpu", precision="no")
    return ITER.from_pretrained(out / "weights", "cpu")


def measure(model: ITER, store: Path, pictures: int = 24, seeds: Sequence[int] = (0, 1, 2), *,
            names: Sequence[str] = ("lpips", "psnr")) -> dict[str, Any]:
    """Losses by the share of S_h that is kept, and rows over T and temperature at the lowest dial."""
    pairs = worlds.pairs(model.tier, pictures, worlds.DIALS[0], size=96)
    base = model.sampler(adaptive=False, policy="random", remask=False)
    methods = [Method(f"T = {T}", sampler=dataclasses.replace(base, steps=T, temperature=x), dial=x)
               for x in TEMPERATURES for T in STEPS]
    rows = experiments.sweep(model, methods, pairs, seeds, store=store, names=names)
    kept = rows[["method", "dial", "photo", "seed", names[0], "coherence"]].round(4)
    return {"loss": {str(share): loss for share, loss in neighbour_information(model, pairs).items()},
            "rows": kept.to_dict("list")}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.own_samples", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder of the runs")
    parser.add_argument("--data", type=Path, metavar="FOLDER", required=True, help="pictures to train on")
    parser.add_argument("--steps", type=int, default=2000, help="of each training (default: %(default)s)")
    args = parser.parse_args(arguments)
    found = {name: measure(train(args.out / name.replace(" ", "_"), corrupt, args.data, args.steps), args.out / "rows.jsonl")
             for name, corrupt in ARMS.items()}
    record = {"tier": "stripes", "steps": args.steps, "dial": worlds.DIALS[0], "arms": found}
    (ROOT / "figures" / "10_own_samples.json").write_text(json.dumps(record) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
