"""The paper's experiments: a sweep of methods over photos and seeds gives tidy rows, and intervals are made from the rows.

A `Method` says how an LQ photo becomes a picture: Alg. 2 with some `Sampler`, or a baseline. `sweep` measures every method on
every photo with every seed. The experiments (`policies`, `alpha_curve`, …) are lists of methods.
Finished rows stay on disk under a key of everything they depend on, so that a sweep that was stopped goes on from there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from pandas import DataFrame
from scipy.ndimage import distance_transform_edt
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from itersr.config import Tier, as_defined
from itersr.lab import metrics
from itersr.lab.evaluation import pair as pair_files
from itersr.lab.reproduce import ROOT
from itersr.masking import POLICIES
from itersr.model import ITER
from itersr.pictures import bundled
from itersr.sampling import EvaluatorFn, RefinerFn, Restored, Sampler, categorical, proposer
from itersr.training.validate import Pair, calibrate, calibrated, held_out, judge, make_pairs, tokens_of  # noqa: F401
from itersr.upscaling.read import image_files, read


@dataclass(frozen=True)
class Sizes:
    """How much an experiment measures."""

    photos: int | None  # how many of `unseen_photos`; None: all
    side: int  # of the centre crops, in HQ pixels
    seeds: tuple[int, ...]
    alphas: tuple[float, ...]
    steps: tuple[int, ...]  # values of T
    temperatures: tuple[float, ...]


def sizes(tier: Tier, seed: int = 0) -> Sizes:
    """Two small crops and one seed at `smoke`; all photos, three seeds and 21 α at every other tier."""
    if tier.name == "smoke":
        return Sizes(2, 96, (seed,), (0.0, 0.25, 0.5, 0.75, 1.0), (1, 2, 8, 16), (0.7, 1.0))
    alphas = tuple(round(0.05 * i, 2) for i in range(21))
    return Sizes(None, 160, tuple(seed + i for i in range(3)), alphas, (1, 2, 4, 8, 16, 32), (0.4, 0.55, 0.7, 0.85, 1.0))


def bench_folder() -> Path | None:
    """The folder with test/kodak24, test/realsrset and published/…: ITERSR_BENCH, else datasets/bench (which `python -m
    data_prep bench` makes) or ../shared/data of the repository; None where there is none."""
    named = os.environ.get("ITERSR_BENCH")
    places = [Path(named)] if named else [ROOT / "datasets" / "bench", ROOT.parent / "shared" / "data"]
    return next((place for place in places if place.is_dir()), None)


def unseen_photos(limit: int | None = None, bench: Path | None = None, sets: Sequence[str] = ("kodak24",)) -> dict[str, Tensor]:
    """The photos that no tier trains on: scikit-image's test split, then those of `sets` that `bench`/test has."""
    photos = bundled("test")
    folders = [] if bench is None else [bench / "test" / name for name in sets]
    for folder in filter(Path.is_dir, folders):
        photos |= {f"{folder.name.rstrip('0123456789')}{path.stem}": read(path).tensor for path in image_files(folder)}
    return dict(list(photos.items())[:limit])


def bicubic(lq: Tensor, scale: int) -> Tensor:
    """(B, 3, h, w) → (B, 3, s·h, s·w), clamped, with the kernel of OpenCV's INTER_CUBIC (a = −0.75), as in Table 1."""
    return F.interpolate(lq, scale_factor=scale, mode="bicubic", align_corners=False).clamp(0, 1)


# ---------------------------------------------------------------------------- where a mask puts its tokens (Fig. 8)


def expected_joins(shape: Sequence[int], k: int) -> float:
    """How many adjacent pairs of kept tokens a random mask with k of h·w tokens has on average."""
    h, w = shape
    return (h * (w - 1) + w * (h - 1)) * k * (k - 1) / (h * w * (h * w - 1))


def _neighbours(x: Tensor) -> Tensor:
    """The products of all adjacent pairs in a map (h, w)."""
    return torch.cat([(x[1:] * x[:-1]).flatten(), (x[:, 1:] * x[:, :-1]).flatten()])


def joins(keep: Tensor) -> float:
    """Join count of a mask (h, w) over that of random masks of equal size: 1 random, more is clustered. NaN for k < 2."""
    k = int(keep.sum())
    return int(_neighbours(keep.int()).sum()) / expected_joins(keep.shape, k) if k > 1 else math.nan


def moran(keep: Tensor) -> float:
    """Moran's I of a mask (h, w) over its four neighbours: 1 one block, −1 a chequerboard, −1/(h·w − 1) random.

    NaN where all tokens are kept, or none.
    """
    x = keep.double() - keep.double().mean()
    variance = float(x.square().mean())
    return float(_neighbours(x).mean()) / variance if variance > 0 else math.nan


def nearness(new: Tensor, kept: Tensor) -> float:
    """How far newly kept tokens lie from those kept before, over the same for tokens chosen at random; masks (h, w).

    1 is random, less means that a mask grows from its neighbours. The mean over all free places is the exact expectation
    of a random choice. NaN where nothing is new or nothing was kept.
    """
    if not new.any() or not kept.any():
        return math.nan
    distance = torch.from_numpy(distance_transform_edt((~kept).cpu().numpy()))
    return float(distance[new.cpu()].mean() / distance[~kept.cpu()].mean())


def random_band(statistic: Any, shape: Sequence[int], k: int, generator: torch.Generator, draws: int = 200) -> Tensor:
    """A statistic of `draws` random masks with k tokens, (draws,): the control for any mask of that size."""
    places = shape[0] * shape[1]
    masks = [torch.zeros(places, dtype=torch.bool).index_fill(0, torch.randperm(places, generator=generator)[:k], True)
             for _ in range(draws)]
    return torch.tensor([statistic(mask.view(*shape)) for mask in masks], dtype=torch.float64)


def mask_statistics(restored: Restored, s_h: Tensor | None = None) -> list[dict[str, Any]]:
    """A row for each step of one image that had something to choose: t, k, and where the kept tokens lie."""
    before = restored.condition_keep[0]
    rows = []
    for s in restored.steps:
        keep = s.keep[0]
        if s.score is not None:
            row = {"t": s.t, "k": int(keep.sum()), "nearness": nearness(keep & ~before, before), "joins": joins(keep),
                   "moran": moran(keep)}
            if s_h is not None:
                row["kept right"] = float((s.tokens[0] == s_h[0])[keep].double().mean())
            rows.append({name: None if math.isnan(value) else value for name, value in row.items()})
        before = keep
    return rows


Kind = Literal["iter", "mixed", "oracle", "again", "bicubic", "bound", "S_l", "sample", "rival"]
MIXED = 3  # how many restorations a "mixed" one takes its tokens from


@dataclass(frozen=True)
class Method:
    """One way from an LQ photo to a picture.

    kind: "iter" (Alg. 2), "oracle" (Alg. 2 where φ_e knows S_h), "again" (Alg. 2 where φ_r judges, see `asked_again`),
    "sample" (one plain sample of E_l, at the sampler's temperature), "S_l" (E_l's argmax, decoded), "bound" (S_h decoded: no
    token method can be better), "bicubic", "rival" (`itersr.lab.rivals`, in as many steps as the sampler has); and "mixed"
    (each token from one of `MIXED` independent runs of Alg. 2 at random: every token is as likely as before, but its
    neighbours were not chosen to fit it).
    """

    name: str
    kind: Kind = "iter"
    sampler: Sampler = field(default_factory=Sampler)
    shift: float | None = None  # of φ_e's logit; None: the model's own
    dial: float | None = None  # where the method stands on the axis of a curve
    rival: Any = None  # what `rivals.load` gave
    # proposals from log p_l + trust · (log φ_r − log p_l): 1 is φ_r, 0 is E_l, which does not see what is kept
    trust: float = 1.0

    @property
    def draws(self) -> bool:
        """Whether another seed gives another picture."""
        return self.kind in ("iter", "mixed", "oracle", "again", "sample", "rival")

    def settings(self) -> dict[str, Any]:
        """Everything that its result depends on, beside model, photo and seed."""
        if self.kind == "rival":
            return {"kind": self.kind, "weights": self.rival.fingerprint, "steps": self.sampler.steps,
                    "temperature": self.sampler.temperature}
        if self.kind == "sample":
            return {"kind": self.kind, "temperature": self.sampler.temperature}
        if not self.draws:
            return {"kind": self.kind}
        alpha = self.sampler.alpha if self.sampler.adaptive else None  # without an adaptive start it decides nothing
        return {"kind": self.kind, "shift": self.shift, "trust": self.trust, **dataclasses.asdict(self.sampler), "alpha": alpha}


def oracle(s_h: Tensor, doubt: float = 1e-3) -> EvaluatorFn:
    """An evaluator that knows: log 1 for tokens that equal S_h, log `doubt` for the others. The bound of any φ_e."""
    return lambda tokens, condition: torch.where(tokens == s_h, 0.0, math.log(doubt))


def refiner_of(model: ITER, lq: Tensor) -> tuple[Tensor, RefinerFn]:
    """log p_l and φ_r for one LQ image (1, 3, H, W), padded to whole windows."""
    padded = model.pad(lq)
    log_probs = model.log_posterior(padded)
    return log_probs, model.functions(log_probs, model.lq_features(padded))[0]


def asked_again(model: ITER, lq: Tensor) -> EvaluatorFn:
    """φ_r as a critic: the log-probability of each token given those of the other colour of a chequerboard; (1, 3, H, W).

    Two calls of φ_r. What it asks is whether tokens fit each other and the LQ image, not whether they equal S_h.
    """
    _, refine = refiner_of(model, lq)

    def fits(tokens: Tensor, condition: Tensor) -> Tensor:
        y, x = torch.meshgrid(*(torch.arange(n, device=tokens.device) for n in tokens.shape[-2:]), indexing="ij")
        board = ((y + x) % 2 == 0).expand(tokens.shape)
        half, other = (refine(tokens, keep, condition, torch.zeros_like(board)).float() for keep in (~board, board))
        given = torch.where(board[:, None], half, other).log_softmax(1)
        return given.gather(1, tokens[:, None])[:, 0]

    return fits


def trusting(model: ITER, lq: Tensor, trust: float) -> RefinerFn:
    """φ_r of which only a share is believed, see `Method.trust`; for one image (1, 3, H, W)."""
    log_probs, refine = refiner_of(model, lq)
    return lambda *maps: log_probs + trust * (refine(*maps).float().log_softmax(1) - log_probs)


@torch.no_grad()
def apply(model: ITER, method: Method, pair: Pair, seed: int = 0) -> tuple[Tensor, Restored | None, Tensor | None]:
    """The picture (1, 3, H, W) that a method makes, on the CPU; what Alg. 2 did, where it did; and the final tokens."""
    lq = pair.lq.to(model.device)
    generator = torch.Generator().manual_seed(seed)
    if method.kind == "bicubic":
        return bicubic(lq, model.tier.scale).cpu(), None, None
    if method.kind == "rival":
        return method.rival.restore(lq, method.sampler.steps, seed, method.sampler.temperature).cpu(), None, None
    if method.kind == "bound":
        tokens = tokens_of(model, pair)
    elif method.kind in ("S_l", "sample"):
        log_p = model.log_posterior(lq)
        noise = torch.rand(log_p[:, 0].shape, generator=generator).to(model.device)
        tokens, _ = categorical(log_p, noise, 0.0 if method.kind == "S_l" else method.sampler.temperature)
    else:
        judges = {"oracle": lambda: oracle(tokens_of(model, pair)), "again": lambda: asked_again(model, lq)}
        evaluator = judges[method.kind]() if method.kind in judges else None
        propose = None if method.trust == 1 else proposer(trusting(model, lq, method.trust))
        seeds = [seed] if method.kind != "mixed" else [1000 + MIXED * seed + i for i in range(MIXED)]
        with calibrated(model, method.shift):
            traces = [model.restore(lq, method.sampler, seed=own, evaluator=evaluator, propose=propose) for own in seeds]
        if method.kind != "mixed":
            return traces[0].image.cpu(), traces[0].restored, traces[0].restored.tokens
        runs = torch.stack([trace.restored.tokens for trace in traces])
        which = torch.randint(MIXED, runs[:1].shape, generator=generator).to(model.device)
        tokens = runs.gather(0, which)[0]
    return model.vqgan.decode(tokens).float().clamp(0, 1).cpu(), None, tokens


def measure(model: ITER, method: Method, pair: Pair, seed: int, names: Sequence[str]) -> dict[str, Any]:
    """What a row holds beside its labels: T_s, steps run, seconds, token accuracy against S_h, metrics, masks of every step."""
    began = time.perf_counter()
    image, restored, tokens = apply(model, method, pair, seed)
    row: dict[str, Any] = {"seconds": time.perf_counter() - began}
    if tokens is not None:
        s_h = tokens_of(model, pair)
        if restored is not None:
            row |= {"T_s": int(restored.start), "run": len(restored.steps), "masks": mask_statistics(restored, s_h)}
        row["token accuracy"] = float((tokens == s_h).double().mean())
    for name in names:
        fits = min(image.shape[-2:]) >= metrics.find(name).smallest
        row[name] = float(metrics.score(name, image, pair.hq, model.device)) if fits else None
    return row | pair.facts(image)


def metrics_here() -> list[str]:
    """PSNR, SSIM, LPIPS (GMSD where the weights of LPIPS are not on this machine), and NIQE where its weights are."""
    look = "lpips" if metrics.available("lpips") else "gmsd"
    return ["psnr", "ssim", look, *(["niqe"] if metrics.available("niqe") else [])]


def fingerprint(model: ITER) -> str:
    """12 hexadecimal digits that name the weights in memory (in half precision, as they are kept in files)."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode() + tensor.detach().half().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def small_pair(tier: Tier, side: int) -> Pair:
    """A crop of one photo, `side` HQ pixels."""
    return make_pairs({"small": bundled("test")["chelsea"]}, tier, side)[0]


def behaviour(model: ITER, method: Method, names: Sequence[str], pair: Pair) -> dict[str, Any]:
    """The row that a method gives on a `small_pair`, without its seconds, and with four digits of each number.

    It stands for the code in a row's key. Networks, samplers or metrics that work in another way give another key; a comment
    or another name in their code does not.
    """
    row = measure(model, method, pair, 0, names)
    del row["seconds"]
    return dict(json.loads(json.dumps(row), parse_float=lambda digits: round(float(digits), 4)))


def metric_behaviour(model: ITER, names: Sequence[str]) -> dict[str, Any]:
    """What the metrics say they compute, and their values of a bicubic picture that is large enough for each."""
    values = behaviour(model, Method("bicubic", "bicubic"), names, small_pair(model.tier, 128))
    return {name: [metrics.describe(name), values[name]] for name in names}


class Store(dict[str, dict[str, Any]]):
    """Finished rows by key, each also a line of JSON in a file (None: no file). Lines that a crash cut short are left out."""

    def __init__(self, path: Path | None) -> None:
        super().__init__()
        self.path = path
        if path is not None and path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    entry = json.loads(line)
                    super().__setitem__(entry["key"], entry["row"])

    def __setitem__(self, key: str, row: dict[str, Any]) -> None:
        super().__setitem__(key, row)
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:  # a new line first: the last one may be cut short
                file.write("\n" + json.dumps({"key": key, "row": row}, allow_nan=False))


def key_of(**parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]


def sweep(model: ITER, methods: Sequence[Method], pairs: Sequence[Pair], seeds: Sequence[int] = (0,), *,
          store: Path | None = None, names: Sequence[str] | None = None) -> DataFrame:
    """Every method on every photo with every seed: one row each, in that order.

    store: a file of finished rows; what is there is not computed again. Weights, the behaviour of the code, pixels, settings,
    metrics and seed make a row's key. names: metrics, by default `metrics_here()`.
    """
    names = metrics_here() if names is None else names
    common = {"weights": fingerprint(model), "device": model.device.type, "metrics": metric_behaviour(model, names)}
    small = small_pair(model.tier, 2 * model.tier.unit)
    jobs = [(method, behaviour(model, method, names, small)) for method in methods]
    finished = Store(store)
    rows = []
    for (method, code), pair, seed in tqdm(list(product(jobs, pairs, seeds)), unit="row"):
        own_seed = seed if method.draws else 0
        shift = model.calibration if method.shift is None and method.draws else None
        key = key_of(**common, pair=pair.digest, seed=own_seed, shift=shift, settings=method.settings(), behaviour=code)
        if key not in finished:
            finished[key] = measure(model, method, pair, own_seed, names)
        labels: dict[str, Any] = {"method": method.name, "photo": pair.name, "seed": seed, "dial": method.dial}
        rows.append({**labels, **method.settings(), **finished[key]})
    return DataFrame(rows)


def steps_of(rows: DataFrame) -> DataFrame:
    """The masks of every step as tidy rows: method, photo, seed, t, k, nearness, joins, moran, kept right."""
    own = rows[rows["masks"].map(lambda masks: isinstance(masks, list))]
    return DataFrame([{"method": r.method, "photo": r.photo, "seed": r.seed, **step}
                      for r in own.itertuples() for step in r.masks]).astype({"nearness": float})


# --------------------------------------------------------------------------------------------------------- experiments


def alg2(model: ITER, **settings: Any) -> Sampler:
    """Alg. 2 as the paper has it, at T, α and temperature of the tier's definition (the weights' best may be one step)."""
    usual = as_defined(model.tier)
    own = {"steps": usual.steps, "alpha": usual.alpha, "temperature": usual.temperature}
    return model.sampler("paper", **{**own, **settings})


def baselines(temperatures: Sequence[float] = ()) -> list[Method]:
    """What Alg. 2 has to beat, and what bounds it."""
    fixed = [Method("bicubic", "bicubic"), Method("S_l", "S_l"), Method("VQGAN bound", "bound")]
    return fixed + [Method("one sample of E_l", "sample", Sampler(temperature=x), dial=x) for x in temperatures]


def policies(model: ITER, pairs: Sequence[Pair], seeds: Sequence[int], **options: Any) -> DataFrame:
    """Fig. 8: who chooses the tokens to keep. All from nothing known, so that T and every k are equal; then the baselines."""
    base = alg2(model, adaptive=False)
    methods = [Method(name, sampler=dataclasses.replace(base, policy=name)) for name in POLICIES]
    return sweep(model, [*methods, Method("oracle", "oracle", base), *baselines([base.temperature])], pairs, seeds, **options)


CRITICS: dict[str, tuple[Kind, str, bool]] = {  # kind, policy, re-masking
    "random": ("iter", "random", False),
    "random, re-masking": ("iter", "random", True),
    "evaluator": ("iter", "evaluator", False),
    "evaluator, re-masking": ("iter", "evaluator", True),
    "evaluator, greedy": ("iter", "evaluator_greedy", False),
    "evaluator, greedy, re-masking": ("iter", "evaluator_greedy", True),
    "topk": ("iter", "topk", False),  # φ_r says nothing of a token that it is shown: no re-masking by confidence
    "confidence_sampled": ("iter", "confidence_sampled", False),
    "asked again": ("again", "evaluator", False),
    "asked again, re-masking": ("again", "evaluator", True),
    "asked again, greedy": ("again", "evaluator_greedy", False),
    "asked again, greedy, re-masking": ("again", "evaluator_greedy", True),
    "oracle": ("oracle", "evaluator", False),
}


def critics(model: ITER, pairs: Sequence[Pair], seeds: Sequence[int], temperatures: Sequence[float], *, steps: int = 8,
            only: Sequence[str] = tuple(CRITICS), **options: Any) -> DataFrame:
    """Who judges, over temperatures (`dial`), for T = `steps`; all from nothing known. only: names in `CRITICS`."""
    methods = [
        Method(f"{name}, T = {steps}", kind, dial=temperature,
               sampler=model.sampler(steps=steps, policy=policy, remask=remask, temperature=temperature, adaptive=False))
        for name, (kind, policy, remask) in CRITICS.items() if name in only for temperature in temperatures
    ]
    return sweep(model, methods, pairs, seeds, **options)


def alpha_curve(model: ITER, pairs: Sequence[Pair], seeds: Sequence[int], alphas: Mapping[float, float], *,
                name: str = "raw", shift: float = 0.0, temperature: float | None = None, **options: Any) -> DataFrame:
    """Fig. 7: the threshold. `alphas`: {place on the axis: α}; the same number twice where α itself is the axis.

    temperature: in place of the tier's.
    """
    base = alg2(model) if temperature is None else alg2(model, temperature=temperature)
    methods = [Method(name, sampler=dataclasses.replace(base, alpha=alpha), shift=shift, dial=dial)
               for dial, alpha in alphas.items()]
    return sweep(model, methods, pairs, seeds, **options)


def step_curve(model: ITER, pairs: Sequence[Pair], seeds: Sequence[int], counts: Sequence[int], **options: Any) -> DataFrame:
    """Quality against T, from nothing known, so that T steps are run."""
    methods = [Method("T", sampler=alg2(model, steps=T, adaptive=False), dial=T) for T in counts]
    return sweep(model, methods, pairs, seeds, **options)


def variants(model: ITER, pairs: Sequence[Pair], seeds: Sequence[int], temperatures: Sequence[float], *,
             shift: float | None = None, **options: Any) -> DataFrame:
    """One setting of Alg. 2 changed at a time: start, re-masking, γ, temperature, and the released sampler's preset."""
    base = alg2(model)
    samplers = {
        "Alg. 2": base,
        "full start": alg2(model, adaptive=False),
        "re-masking": alg2(model, remask=True),
        "γ linear": alg2(model, schedule="linear"),
        "γ square": alg2(model, schedule="square"),
        **{f"temperature {x:g}": alg2(model, temperature=x) for x in temperatures if x != base.temperature},
        "released": model.sampler("released"),
    }
    return sweep(model, [Method(name, sampler=s, shift=shift) for name, s in samplers.items()], pairs, seeds, **options)


def refinement(model: ITER, pairs: Sequence[Pair], seeds: Sequence[int], temperatures: Sequence[float], *,
               shift: float | None = None, **options: Any) -> DataFrame:
    """Fig. 6: Alg. 2 against S_l, one plain sample of E_l, and one of φ_r; over temperatures.

    One sample of φ_r is Alg. 2 with T = 1, from nothing known: all tokens at once, and nothing to judge.
    """
    methods = [Method("ITER", sampler=alg2(model, temperature=x), shift=shift, dial=x) for x in temperatures]
    methods += [Method("one sample of φ_r", sampler=alg2(model, steps=1, adaptive=False, temperature=x), dial=x)
                for x in temperatures]
    return sweep(model, [*methods, *baselines(temperatures)], pairs, seeds, **options)


def taken_apart(model: ITER, pairs: Sequence[Pair], seeds: Sequence[int], temperature: float, **options: Any) -> DataFrame:
    """Where the difference between Alg. 2 and one sample of E_l comes from, one change at a time.

    Who proposes, who judges, and whether neighbours agree. One temperature for all, and all from nothing known. (Where E_l
    proposes and dice judge, that is one sample of E_l.)
    """
    base = alg2(model, adaptive=False, temperature=temperature)
    methods = [
        Method("one sample of E_l", "sample", base),
        Method("E_l proposes, φ_e judges", sampler=base, trust=0.0),
        Method("E_l proposes, an oracle judges", "oracle", base, trust=0.0),
        Method("φ_r proposes all at once", sampler=dataclasses.replace(base, steps=1)),
        Method("φ_r proposes, dice judge", sampler=dataclasses.replace(base, policy="random")),
        Method("φ_r proposes, φ_e judges", sampler=base),
        Method("φ_r proposes, an oracle judges", "oracle", base),
        Method("φ_r proposes, φ_e judges, runs mixed", "mixed", base),
    ]
    return sweep(model, methods, pairs, seeds, **options)


def real_set(model: ITER, bench: Path, sampler: Sampler, *, shift: float | None = None, largest: int | None = None,
             store: Path | None = None) -> DataFrame:
    """Table 1 on RealSRSet (bench/test/realsrset): bicubic, ITER, and every folder of another method's outputs in
    bench/published, scored alike without a reference. Tidy rows: method, photo, niqe (and pi, where its weights are here).

    largest: ITER skips LQ photos with a longer side in pixels; the others score all photos.
    """
    def restored(lq: Tensor, tile: int | None = None) -> Tensor:
        with calibrated(model, shift):
            return model.restore(lq, sampler, tile=tile).image.cpu()

    paths = image_files(bench / "test" / "realsrset")
    jobs = [("bicubic", path, path) for path in paths]
    for folder in sorted((bench / "published").glob("*/")):
        jobs += [(folder.name, source, output) for source, output in pair_files(folder, paths[0].parent).items() if output]
    jobs += [("ITER", path, path) for path in paths if max(read(path).size) <= (largest or math.inf)]

    names = [name for name in ("niqe", "pi") if metrics.available(name)]
    measures, small = metric_behaviour(model, names), small_pair(model.tier, 2 * model.tier.unit)
    errors = [round(float(F.mse_loss(restored(small.lq, tile), small.hq)), 6) for tile in (0, 1)]  # in one piece and in tiles
    own = {"weights": fingerprint(model), "settings": dataclasses.asdict(sampler), "behaviour": errors,
           "shift": model.calibration if shift is None else shift}
    finished, rows = Store(store), []
    for name, source, file in tqdm(jobs, unit="photo"):
        image = read(file).tensor[None]
        if name == "bicubic":
            image = bicubic(image, model.tier.scale)
        pixels = hashlib.sha256(image.numpy().tobytes()).hexdigest()
        key = key_of(metrics=measures, pixels=pixels, method=own if name == "ITER" else None)
        if key not in finished:
            image = restored(image) if name == "ITER" else image
            image = (image * 255).round() / 255  # as a file would hold it
            finished[key] = {metric: float(metrics.score(metric, image)) for metric in names}
        rows.append({"method": name, "photo": source.stem, "seed": 0, **finished[key]})
    return DataFrame(rows)


# --------------------------------------------------------------------------------------------------- what rows answer


def _table(rows: DataFrame, value: str) -> Tensor:
    """(photos, seeds) of one value of one method's rows; ValueError where one is missing or there twice."""
    wide = rows.dropna(subset=[value]).pivot(index="photo", columns="seed", values=value)
    if wide.empty or wide.isna().any(axis=None):
        raise ValueError(f"{value} is missing for some photo and seed")
    return torch.tensor(wide.sort_index().to_numpy(), dtype=torch.float64)


def _interval(values: Tensor) -> dict[str, float]:
    return metrics.mean_interval(values, torch.Generator().manual_seed(0), resamples=4000)


def interval(rows: DataFrame, value: str) -> dict[str, float]:
    """Mean and 95 % interval by bootstrap over photos and seeds, of one method's rows: {"mean", "low", "high", "n"}."""
    return _interval(_table(rows, value))


def difference(a: DataFrame, b: DataFrame, value: str) -> dict[str, float]:
    """The same for a − b, paired by photo and seed: what photos differ by cancels out."""
    if {*zip(a.photo, a.seed, strict=True)} != {*zip(b.photo, b.seed, strict=True)}:
        raise ValueError("a and b were not measured on the same photos and seeds")
    return _interval(_table(a, value) - _table(b, value))


def gain_of_steps(rows: DataFrame, value: str) -> dict[str, float]:
    """The share of the value at T = 1 that T = 8 takes away, where less is better and `dial` is T; else as `difference`."""
    one = rows[rows.dial == 1]
    found = difference(one, rows[rows.dial == 8], value)
    return {key: x if key == "n" else x / float(one[value].mean()) for key, x in found.items()}


def summary(rows: DataFrame, values: Sequence[str], by: Sequence[str] = ("method",)) -> DataFrame:
    """`interval` of every value for every group, in order of appearance: the groups, value, mean, low, high, n."""
    return DataFrame([{**dict(zip(by, group, strict=True)), "value": value, **interval(own, value)}
                      for group, own in rows.groupby(list(by), sort=False, dropna=False)
                      for value in values if value in own and own[value].notna().all()])


def at_its_best(rows: DataFrame, value: str, over: str = "dial") -> DataFrame:
    """For each photo the rows at the level of `over` that is best on all *other* photos: chosen without seeing its score."""
    picked = []
    for photo in rows.photo.unique():
        means = rows[rows.photo != photo].groupby(over)[value].mean()
        best = means.idxmin() if metrics.find(value).lower_better else means.idxmax()
        picked.append(rows[(rows.photo == photo) & (rows[over] == best)])
    return pd.concat(picked)
