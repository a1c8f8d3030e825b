"""Claims 8 and 9 and Fig. 5: quality against the number of steps for ITER, the GAN and continuous diffusion; which share of
the settings of a training is usable; and noise that stays."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from itersr.lab import experiments
from itersr.lab.experiments import Kind, Method, Pair, alg2
from itersr.model import ITER
from itersr.training.validate import tokens_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

ITER_STEPS, LDM_STEPS = (1, 2, 4, 8, 16), (1, 2, 4, 8, 16, 32, 64)
TEMPERATURES = (0.7, 0.85, 1.0)


def calls(method: str, steps: int) -> int:
    """Calls of a network before the decoder: E_l once, φ_r in every step, φ_e in all but the last; the U-Net; the generator."""
    return {"ITER": 2 * steps, "LDM": steps, "GAN": 1}[method]


def curves(model: ITER, gan: Any, ldm: Any, pairs: Sequence[Pair], seeds: Sequence[int], *,
           iter_steps: Sequence[int] = ITER_STEPS, ldm_steps: Sequence[int] = LDM_STEPS,
           temperatures: Sequence[float] = TEMPERATURES, **options: Any) -> DataFrame:
    """Rows of all three, by steps and temperature; ITER from nothing known, with φ_e's masks. Columns also: steps, calls."""
    methods = []
    for family, rival, counts in (("ITER", None, iter_steps), ("LDM", ldm, ldm_steps), ("GAN", gan, (1,))):
        for steps, temperature in itertools.product(counts, (1.0,) if family == "GAN" else temperatures):
            sampler = alg2(model, steps=steps, temperature=temperature, adaptive=False)
            kind: Kind = "iter" if rival is None else "rival"
            methods.append(Method(f"{family}, {steps}", kind, sampler, dial=temperature, rival=rival))
    rows = experiments.sweep(model, methods, pairs, seeds, **options)
    family, steps = (rows.method.str.split(", ").str[i] for i in range(2))
    rows = rows.assign(family=family, steps=steps.astype(int))
    return rows.assign(calls=[calls(*own) for own in zip(rows.family, rows.steps, strict=True)])


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


@torch.no_grad()
def of_noisy(model: ITER, gan: Any, ldm: Any, pair: Pair, sigma: float, ldm_steps: int = 20) -> dict[str, Tensor]:
    """What the three make of LQ with Gaussian noise of `sigma` 8-bit levels, ITER from nothing known; beside them LQ itself,
    its bicubic enlargement, the VQGAN's bound (S_h decoded) and HQ."""
    noise = torch.randn(pair.lq.shape, generator=torch.Generator().manual_seed(0))
    lq = (pair.lq + sigma / 255 * noise).clamp(0, 1).to(model.device)
    made = {"LQ": lq, "bicubic": experiments.bicubic(lq, model.tier.scale), "GAN": gan.restore(lq),
            "LDM": ldm.restore(lq, ldm_steps), "ITER": model.restore(lq, alg2(model, adaptive=False)).image,
            "bound": model.vqgan.decode(tokens_of(model, pair)), "HQ": pair.hq}
    return {name: image.float().clamp(0, 1).cpu() for name, image in made.items()}


def noise(model: ITER, gan: Any, ldm: Any, pairs: Sequence[Pair], sigmas: Sequence[float], **options: Any
          ) -> list[dict[str, Any]]:
    """`noise_left` by photo, noise and family; "HQ" is its own, "beyond" how far a family's is from that of HQ."""
    found = []
    for pair, sigma in itertools.product(pairs, sigmas):
        left = {name: noise_left(image, pair.hq) for name, image in of_noisy(model, gan, ldm, pair, sigma, **options).items()
                if name != "LQ"}
        found += [{"photo": pair.name, "sigma": sigma, "family": name, "left": round(value, 3),
                   "beyond": round(abs(value - left["HQ"]), 3)} for name, value in left.items()]
    return found


def noise_figure(model: ITER, gan: Any, ldm: Any, pair: Pair, sigma: float, **options: Any) -> Figure:
    """Fig. 5 in small: the pictures of `of_noisy` side by side."""
    from matplotlib.figure import Figure

    pictures = of_noisy(model, gan, ldm, pair, sigma, **options)
    del pictures["bicubic"], pictures["bound"]
    figure = Figure(figsize=(8, 1.9), layout="constrained")
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


@torch.no_grad()
def seconds(model: ITER, gan: Any, ldm: Any, pair: Pair, *, iter_steps: Sequence[int] = ITER_STEPS,
            ldm_steps: Sequence[int] = LDM_STEPS, repeats: int = 3) -> list[dict[str, Any]]:
    """What a restoration of one picture takes, the least of `repeats`: rows of family, calls and seconds of processor time."""
    lq = pair.lq.to(model.device)
    jobs: list[tuple[str, int, Any]] = [("GAN", 1, partial(gan.restore, lq))]
    jobs += [("ITER", n, partial(model.restore, lq, alg2(model, steps=n, adaptive=False))) for n in iter_steps]
    jobs += [("LDM", n, partial(ldm.restore, lq, n)) for n in ldm_steps]
    found = []
    for family, steps, job in jobs:
        spent = []
        for _ in range(repeats):
            began = time.process_time()
            job()
            spent.append(time.process_time() - began)
        found.append({"family": family, "calls": calls(family, steps), "seconds": round(min(spent), 4)})
    return found


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


def usable_difference(a: DataFrame, b: DataFrame, value: str, draws: int = 2000) -> dict[str, Any]:
    """The share of usable runs of a − that of b, with its 95 % interval by bootstrap over seeds; n: the fewer runs.

    The runs of one seed stay together: they began from the same weights. What is usable is found anew in each draw.
    """
    def share(runs: DataFrame) -> float:
        return float(np.mean(usable([None if np.isnan(x) else x for x in runs[value]])))

    random, groups = np.random.default_rng(0), [dict(list(runs.groupby("seed"))) for runs in (a, b)]
    found = []
    for _ in range(draws):
        shares = [share(pd.concat([own[seed] for seed in random.choice(list(own), len(own))])) for own in groups]
        found.append(shares[0] - shares[1])
    low, high = np.quantile(found, (0.025, 0.975))
    return {"mean": share(a) - share(b), "low": float(low), "high": float(high), "n": min(len(a), len(b)), "of": "runs"}


def logs_of(folder: Path, points: int = 60) -> dict[str, dict[str, list[list[float]]]]:
    """The curves of all runs in a folder: {run: {loss or "validation score": [[minutes, value], …]}}, about so many points."""
    runs = {}
    for file in sorted(folder.glob("*/log.csv")):
        log = pd.read_csv(file)
        log = log[~log.name.isin(["learning rate", "images a second", "share of waiting"])]
        curves = runs[file.parent.name] = dict[str, list[list[float]]]()
        for (split, name), own in log.groupby(["split", "name"], sort=False):
            thin = pd.concat([own.iloc[: -1 : max(len(own) // points, 1)], own.iloc[-1:]])  # the last point in any case
            curves[name if split == "train" else f"{split} {name}"] = [
                [round(x / 60, 3), float(f"{y:.5g}")] for x, y in zip(thin.seconds, thin.value, strict=True)]
    return runs
