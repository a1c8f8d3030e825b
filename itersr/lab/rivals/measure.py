"""Claim 9 and Fig. 5: quality against the number of steps for ITER, the GAN and continuous diffusion; and noise that stays.

    python -m itersr.lab.rivals.measure RUNS --minutes 30 [--grid GRID]

RUNS is the folder in which rival-iter, rival-gan and rival-ldm were trained for equal minutes; GRID is the folder of `grid`.
Writes figures/11_rivals.json. Rows that are finished are kept in RUNS/rows.jsonl.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import resource
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from itersr.lab import experiments, rivals
from itersr.lab.experiments import Method, Pair, alg2
from itersr.lab.reproduce import ROOT
from itersr.model import ITER

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

ITER_STEPS, LDM_STEPS = (1, 2, 4, 8, 16), (1, 2, 5, 10, 20, 50, 100, 200)
TEMPERATURES = (0.85, 1.0)
SETS = ("kodak24", "gb82")


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


def of_noisy(model: ITER, gan: Any, ldm: Any, pair: Pair, sigma: float, ldm_steps: int = 20) -> dict[str, Tensor]:
    """LQ with noise of `sigma` levels, what the three make of it, and HQ."""
    lq = noisy_pair(pair, sigma).lq.to(model.device)
    made = {"ITER": model.restore(lq).image, "LDM": ldm.restore(lq, ldm_steps), "GAN": gan.restore(lq)}
    return {name: image.cpu().float() for name, image in {"LQ": lq, **made, "HQ": pair.hq}.items()}


def noise(model: ITER, gan: Any, ldm: Any, pairs: Sequence[Pair], sigmas: Sequence[float], **options: Any
          ) -> list[dict[str, Any]]:
    """`noise_left` by photo, noise and family, "HQ" for its own."""
    found = []
    for pair, sigma in itertools.product(pairs, sigmas):
        images = of_noisy(model, gan, ldm, pair, sigma, **options)
        found += [{"photo": pair.name, "sigma": sigma, "family": name, "left": round(noise_left(image, pair.hq), 3)}
                  for name, image in images.items() if name != "LQ"]
    return found


def noise_figure(model: ITER, gan: Any, ldm: Any, pair: Pair, sigma: float, **options: Any) -> Figure:
    """Fig. 5 in small: the pictures of `of_noisy` side by side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.9), layout="constrained")
    pictures = of_noisy(model, gan, ldm, pair, sigma, **options)
    for axis, (name, image) in zip(figure.subplots(1, len(pictures)), pictures.items(), strict=True):
        axis.imshow(image[0].permute(1, 2, 0).numpy(), interpolation="nearest")
        axis.set(title=name, xticks=[], yticks=[])
    return figure


def costs(model: ITER, gan: Any, ldm: Any) -> dict[str, dict[str, int]]:
    """Trained parameters of each family, and those that are used at inference."""
    def count(*modules: torch.nn.Module) -> int:
        return sum(p.numel() for module in modules for p in module.parameters())

    decoder = (model.vqgan.decoder, model.vqgan.codebook)
    nets = (model.lq_encoder, model.refiner, model.evaluator)
    return {"ITER": {"trained": count(model.vqgan, *nets), "used": count(*decoder, *nets)},
            "LDM": {"trained": count(model.vqgan, ldm.unet), "used": count(*decoder, ldm.unet)},
            "GAN": {"trained": count(gan.generator, gan.discriminator), "used": count(gan.generator)}}


def by_calls(rows: DataFrame, family: str, value: str) -> DataFrame:
    """A family's value for each photo (down) and number of calls (across), at the temperature that is best on other photos."""
    own = rows[rows.family == family]
    best = {n: experiments.at_its_best(some, value) for n, some in own.groupby("calls")}
    return pd.DataFrame({n: some.groupby("photo")[value].mean() for n, some in best.items()})


def enough(values: DataFrame, margin: float = 0.01) -> int:
    """The fewest calls whose mean is within `margin` of the best; values: of `by_calls`, where less is better."""
    means = values.mean()
    return int(means.index[means <= means.min() + margin].min())


def enough_difference(a: DataFrame, b: DataFrame, margin: float = 0.01, draws: int = 2000) -> dict[str, float]:
    """`enough` of a − that of b, with its 95 % interval by bootstrap over photos: {"mean", "low", "high", "n"}."""
    chosen = np.random.default_rng(0).integers(len(a), size=(draws, len(a)))
    found = [enough(a.iloc[rows], margin) - enough(b.iloc[rows], margin) for rows in chosen]
    low, high = np.quantile(found, (0.025, 0.975))
    return {"mean": enough(a, margin) - enough(b, margin), "low": float(low), "high": float(high), "n": len(a)}


def usable(scores: Sequence[float | None], margin: float = 0.05) -> list[bool]:
    """Which runs of one family are within `margin` (relative) of its best; None: the run broke off."""
    best = min(score for score in scores if score is not None)
    return [score is not None and score <= (1 + margin) * best for score in scores]


def usable_difference(a: Sequence[float | None], b: Sequence[float | None], draws: int = 2000) -> dict[str, float]:
    """The share of usable runs of a − that of b, with its 95 % interval by bootstrap over runs; n: the fewer runs."""
    random = np.random.default_rng(0)
    shares = [random.choice(usable(scores), size=(draws, len(scores))).mean(1) for scores in (a, b)]
    low, high = np.quantile(shares[0] - shares[1], (0.025, 0.975))
    mean = np.mean(usable(a)) - np.mean(usable(b))
    return {"mean": float(mean), "low": float(low), "high": float(high), "n": min(len(a), len(b))}


def logs_of(folder: Path, points: int = 60) -> dict[str, dict[str, list[list[float]]]]:
    """The curves of all runs in a folder: {run: {loss or score: [[minutes, value], …]}}, of about so many points each."""
    return {run.parent.name: _log(run, points) for run in sorted(folder.glob("*/log.csv"))}


def last_scores(run: Path) -> dict[str, float]:
    """The scores of a run's last validation."""
    log = pd.read_csv(run / "log.csv")
    last = log[(log.split == "validation") & (log.step == log.step.max())]
    return dict(zip(last.name, last.value, strict=True))


def _log(file: Path, points: int) -> dict[str, list[list[float]]]:
    log = pd.read_csv(file)
    log = log[~log.name.isin(["learning rate", "images a second", "share of waiting"])]
    thinned = {str(name): own.iloc[:: max(len(own) // points, 1)] for name, own in log.groupby("name", sort=False)}
    return {name: [[round(x / 60, 3), float(f"{y:.5g}")] for x, y in zip(own.seconds, own.value, strict=True)]
            for name, own in thinned.items()}


def memory(folder: Path, family: str, side: int) -> float:
    """MB that a restoration of an LQ image of side² takes beyond the loaded networks; for a process that does nothing else."""
    net: Any = ITER.from_pretrained(folder, "cpu") if family == "ITER" else rivals.load(f"rival-{family.lower()}", folder)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    net.restore(torch.rand(1, 3, side, side))
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m itersr.lab.rivals.measure", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("runs", type=Path, metavar="RUNS", help="the folder in which all three were trained")
    parser.add_argument("--grid", type=Path, metavar="GRID", help="the folder of `python -m itersr.lab.rivals.grid`")
    parser.add_argument("--minutes", type=float, required=True, help="that each of the three was trained, for the record")
    parser.add_argument("--seeds", type=int, default=1, help="restorations of each photo (default: %(default)s)")
    args = parser.parse_args(arguments)
    folder = args.runs / "weights"
    model = ITER.from_pretrained(folder, "cpu")
    gan, ldm = (rivals.load(what, folder) for what in rivals.RIVALS)
    size = experiments.sizes(model.tier)
    pairs = experiments.make_pairs(experiments.unseen_photos(None, experiments.bench_folder(), SETS), model.tier, size.side, 0)
    rows = curves(model, gan, ldm, pairs, range(args.seeds), store=args.runs / "rows.jsonl", names=["psnr", "lpips", "niqe"])
    noise_figure(model, gan, ldm, pairs[0], 25).savefig(ROOT / "figures" / "11_rivals_noise.png", dpi=100)
    grid = [] if args.grid is None else [json.loads(line) for line in (args.grid / "grid.jsonl").read_text().splitlines()]
    kept = ["family", "steps", "calls", "dial", "photo", "seed", "seconds",
            *(name for name in ("psnr", "lpips", "niqe") if name in rows)]
    spent = costs(model, gan, ldm)
    for family, own in spent.items():
        with ProcessPoolExecutor(1, get_context("spawn")) as fresh:
            own["megabytes"] = round(fresh.submit(memory, folder, family, size.side // model.tier.scale).result())
    record = {"tier": model.tier.name, "minutes": args.minutes, "weights": experiments.fingerprint(model), "costs": spent,
              "logs": logs_of(args.runs), "noise": noise(model, gan, ldm, pairs, (10, 25)), "grid": grid,
              "rows": {name: [round(x, 5) if isinstance(x, float) else x for x in rows[name]] for name in kept}}
    (ROOT / "figures" / "11_rivals.json").write_text(json.dumps(record) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
