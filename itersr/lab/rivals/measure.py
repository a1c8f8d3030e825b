"""Claim 9 and Fig. 5: quality against the number of steps for ITER, the GAN and continuous diffusion; and noise that stays.

    python -m itersr.lab.rivals.measure RUNS --minutes 60 [--grid GRID]

RUNS holds `weights` of all three, trained for equal minutes; GRID is the folder of `grid`. Writes figures/11_rivals.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from itersr.lab import experiments, rivals
from itersr.lab.experiments import Method, Pair, alg2
from itersr.lab.reproduce import ROOT
from itersr.model import ITER

if TYPE_CHECKING:
    from pandas import DataFrame

ITER_STEPS, LDM_STEPS = (1, 2, 4, 8, 16), (1, 2, 5, 10, 20, 50, 100, 200)
TEMPERATURES = (0.7, 0.85, 1.0)


def calls(method: str, steps: int) -> int:
    """Calls of a network before the decoder: E_l once, φ_r in every step, φ_e in all but the last; the U-Net; the generator."""
    return {"ITER": 2 * steps, "LDM": steps, "GAN": 1}[method]


def curves(model: ITER, gan: Any, ldm: Any, pairs: Sequence[Pair], seeds: Sequence[int], *,
           iter_steps: Sequence[int] = ITER_STEPS, ldm_steps: Sequence[int] = LDM_STEPS,
           temperatures: Sequence[float] = TEMPERATURES, **options: Any) -> DataFrame:
    """Rows of all three, by steps and temperature; ITER from nothing known, with φ_e's masks. Columns also: steps, calls."""
    methods, meaning = [], {}
    for method, counts in (("ITER", iter_steps), ("LDM", ldm_steps), ("GAN", (1,))):
        for steps in counts:
            for temperature in temperatures if method != "GAN" else (1.0,):
                name = f"{method}, {steps}"
                sampler = alg2(model, steps=steps, temperature=temperature, adaptive=False)
                own: dict[str, Any] = {} if method == "ITER" else {"kind": "rival", "rival": ldm if method == "LDM" else gan}
                methods.append(Method(name, sampler=sampler, dial=temperature, **own))
                meaning[name] = {"family": method, "steps": steps, "calls": calls(method, steps)}
    rows = experiments.sweep(model, methods, pairs, seeds, **options)
    return rows.assign(**{key: rows.method.map({name: own[key] for name, own in meaning.items()})
                          for key in ("family", "steps", "calls")})


def flat_places(hq: Tensor, share: float = 0.3) -> Tensor:
    """The flattest places of an HQ image (1, 3, H, W): True where its local contrast is among the lowest `share`, (H, W)."""
    grey = F.pad(hq.mean(1, keepdim=True), [4] * 4, mode="reflect")
    mean, square = (F.avg_pool2d(x, 9, stride=1) for x in (grey, grey.square()))
    contrast = (square - mean.square())[0, 0]
    return contrast <= torch.quantile(contrast, share)


def noise_left(image: Tensor, hq: Tensor) -> float:
    """The spread of what an image (1, 3, H, W) has beyond its own local mean in the flat places of HQ, in 8-bit levels.

    What is left of noise, or was put there in its place. HQ's own value says how flat "flat" is.
    """
    local = F.avg_pool2d(F.pad(image, [2] * 4, mode="reflect"), 5, stride=1)
    return float((image - local)[0, :, flat_places(hq)].std() * 255)


def noisy_pair(pair: Pair, sigma: float, seed: int = 0) -> Pair:
    """A pair with more noise: Gaussian, with a spread of `sigma` 8-bit levels, on its LQ image."""
    noise = torch.randn(pair.lq.shape, generator=torch.Generator().manual_seed(seed))
    return dataclasses.replace(pair, lq=(pair.lq + sigma / 255 * noise).clamp(0, 1))


def costs(model: ITER, gan: Any, ldm: Any) -> dict[str, dict[str, int]]:
    """Trained parameters of each family, and those that are used at inference."""
    def count(*modules: torch.nn.Module) -> int:
        return sum(p.numel() for module in modules for p in module.parameters())

    decoder = (model.vqgan.decoder, model.vqgan.codebook)
    nets = (model.lq_encoder, model.refiner, model.evaluator)
    return {"ITER": {"trained": count(model.vqgan, *nets), "used": count(*decoder, *nets)},
            "LDM": {"trained": count(model.vqgan, ldm.unet), "used": count(*decoder, ldm.unet)},
            "GAN": {"trained": count(gan.generator, gan.discriminator), "used": count(gan.generator)}}


def enough(rows: DataFrame, value: str, margin: float = 0.01) -> Mapping[str, tuple[int, float]]:
    """For each family the fewest calls whose mean is within `margin` of its own best, and that best mean; each count of calls
    at the temperature that is best on the other photos."""
    found = {}
    for family, own in rows.groupby("family", sort=False):
        means = {n: float(experiments.at_its_best(some, value)[value].mean()) for n, some in own.groupby("calls")}
        best = min(means.values())
        found[str(family)] = min(n for n, mean in means.items() if mean <= best + margin), best
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m itersr.lab.rivals.measure", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("runs", type=Path, metavar="RUNS", help="a folder with the weights of all three in RUNS/weights")
    parser.add_argument("--grid", type=Path, metavar="GRID", help="the folder of `python -m itersr.lab.rivals.grid`")
    parser.add_argument("--minutes", type=float, required=True, help="that each of the three was trained, for the record")
    args = parser.parse_args(arguments)
    folder = args.runs / "weights"
    model = ITER.from_pretrained(folder, "cpu")
    gan, ldm = (rivals.load(what, folder) for what in rivals.RIVALS)
    size = experiments.sizes(model.tier)
    pairs = experiments.make_pairs(experiments.unseen_photos(None, experiments.bench_folder()), model.tier, size.side, 0)
    rows = curves(model, gan, ldm, pairs, size.seeds, store=args.runs / "rows.jsonl")
    noise = []
    for pair in pairs:
        for sigma in (10, 25):
            harder = noisy_pair(pair, sigma)
            images = {"HQ": pair.hq, "ITER": model.restore(harder.lq).image, "LDM": ldm.restore(harder.lq, 20),
                      "GAN": gan.restore(harder.lq)}
            noise += [{"photo": pair.name, "sigma": sigma, "family": family, "left": noise_left(image.cpu().float(), pair.hq)}
                      for family, image in images.items()]
    grid = [] if args.grid is None else [json.loads(line) for line in (args.grid / "grid.jsonl").read_text().splitlines()]
    kept = ["family", "steps", "calls", "dial", "photo", "seed", "seconds",
            *(name for name in ("psnr", "lpips", "niqe") if name in rows)]
    record = {"tier": model.tier.name, "minutes": args.minutes, "weights": experiments.fingerprint(model),
              "costs": costs(model, gan, ldm), "noise": noise, "grid": grid,
              "rows": {name: [round(x, 5) if isinstance(x, float) else x for x in rows[name]] for name in kept}}
    (ROOT / "figures" / "11_rivals.json").write_text(json.dumps(record) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
