"""Measure one more point of notebook 10's section 6: `python -m tests.elsewhere FOLDER [--trained-by "…"]`.

FOLDER holds weights for photos. Neighbour information and the gain of eight steps over one (random masks, temperature 1) are
measured as the notebook does, on the photos that no tier trains on, and written to figures/10_elsewhere.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from itersr.lab import experiments
from itersr.lab.experiments import Method
from itersr.lab.reproduce import ROOT
from itersr.model import ITER
from itersr.training.validate import neighbour_information

RECORD = ROOT / "figures" / "10_elsewhere.json"


def point(model: ITER, photos: int | None = None, seeds: tuple[int, ...] = (0, 1, 2),
          value: str = "lpips") -> dict[str, Any]:
    """The point of these weights: where it lies, and what it was measured with."""
    size = experiments.sizes(model.tier)
    pairs = experiments.make_pairs(experiments.unseen_photos(photos, experiments.bench_folder()), model.tier, size.side, 0)
    nats = neighbour_information(model, pairs, (0.0, 0.75))
    plain = model.sampler(adaptive=False, policy="random", remask=False, temperature=1.0)
    methods = [Method("T", dial=T, sampler=dataclasses.replace(plain, steps=T)) for T in (1, 8)]
    gain = experiments.gain_of_steps(experiments.sweep(model, methods, pairs, seeds, names=[value]), value)
    return {"information": 1 - nats[0.75] / nats[0.0], "gain": gain, "nats": list(nats.values()), "side": size.side,
            "seeds": len(seeds), "weights": experiments.fingerprint(model)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.elsewhere", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", metavar="FOLDER", help="a folder of weights")
    parser.add_argument("--trained-by", default="", metavar="TEXT", help="the command that trained them, for the record")
    args = parser.parse_args()
    model = ITER.from_pretrained(args.folder, "auto")
    name = f"photos, {model.tier.name}, f = {model.tier.vqgan.factor}"
    recorded = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}
    recorded[name] = {**point(model), "trained by": args.trained_by, "folder": Path(args.folder).name}
    RECORD.write_text(json.dumps(recorded, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(name, json.dumps(recorded[name], ensure_ascii=False))


if __name__ == "__main__":
    main()
