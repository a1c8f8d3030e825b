# ---
# jupyter:
#   jupytext:
#     notebook_metadata_filter: kernelspec,jupytext,-jupytext.text_representation.jupytext_version
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 10 · Where the steps pay
#
# **What you will build.** A world in which everything is known, one number that foretells whether several steps can be better than one, and a fair
# contest of critics: who should say which tokens stay?
#
# **Why.** On photos, this course found one step of φ_r as good as eight ([08](08_alpha_curves.ipynb)), and φ_e's masks no better than
# random ones ([07](07_topk_vs_evaluator.ipynb)). A result without a reason is half a result. Here is the reason, and a place where the method works.
#
# **What you need.** Algorithm 2 ([06](06_adaptive_inference.ipynb)); entropy in nats.
# Symbols: [one table](symbols.md).
#
# **Minutes.** Reading 30. With `tier = "smoke"` φ_r is trained here, in about a minute on two CPU cores, and everything is small. As it stands the notebook measures the
# weights that ship, which takes hours on two cores; finished rows are kept on disk.

# %% tags=["parameters"]
tier = "tiny"
seed = 0
device = "auto"
data = None
out = None

# %%
from itersr.lab.reproduce import Run

run = Run.start("10", tier=tier, seed=seed, device=device, data=data, out=out)

# %%
import dataclasses
import json
import math
import shutil
from itertools import product

import matplotlib.pyplot as plt
import pandas as pd
import torch
from IPython.display import Markdown, display

from itersr import weights
from itersr.lab import critics, experiments, ledger, metrics, worlds
from itersr.lab.course import model_to_measure
from itersr.lab.experiments import Method, apply
from itersr.lab.reproduce import ROOT
from itersr.model import ITER
from itersr.schedule import tokens_to_keep
from itersr.training.run import load_networks, train_stage
from itersr.training.validate import neighbour_information


# %% [markdown]
# ## 1. What one step cannot do
#
# φ_r gives every place its own distribution. One step draws all places at once, each for itself: that is a *product* of distributions. What is lost is
# what the places know of each other.
#
# The smallest case. Eight tokens lie along one stripe. All show the same phase, A or B, each half of the time. φ_r knows that perfectly: with nothing
# known it says ½ and ½ everywhere; once one token is known, it is sure of all others.
#
# - The true world has two pictures, `AAAAAAAA` and `BBBBBBBB`: an entropy of ln 2 nats.
# - One step draws 2⁸ pictures, all equally likely. Only two of them are whole.
# - The difference of the two entropies, 8 ln 2 − ln 2, is the **information that the tokens hold about each other**. It is also the distance (the
#   Kullback–Leibler divergence) between the true world and what one step draws.
#
# With more steps, the first step keeps k₁ tokens, and those are drawn blindly; all later ones agree if these do. So a stripe is whole with probability
# 2^(1 − k₁). Count it:

# %% tags=["nbval-check-output"]
def whole_by_counting(T: int, n: int = 8) -> float:
    ("The probability that n tokens of one stripe agree after T steps: "
     "over all first draws that are kept.")
    k1 = tokens_to_keep(T - 1, T, n)  # kept after the first step; with T = 1 all are
    draws = list(product("AB", repeat=k1))
    return sum(len(set(draw)) == 1 for draw in draws) / len(draws)


for T in (1, 2, 4, 8):
    k1 = tokens_to_keep(T - 1, T, 8)
    assert math.isclose(whole_by_counting(T), 2.0 ** (1 - k1))
    print(f"T = {T}: {k1} of 8 tokens are drawn blindly, "
          f"a stripe is whole with {whole_by_counting(T):.4f}")
product_entropy = 8 * math.log(2)
world_entropy = -2 * 0.5 * math.log(0.5)
print(f"information between the tokens: {product_entropy - world_entropy:.3f} nats")

# %% [markdown]
# So the steps can win back what the tokens know of each other, **and nothing else**: where neighbours add nothing to what the LQ image tells, one step
# is exact and more steps are only slower. (Li and Cai 2025, arXiv 2505.21400, prove the bound in general: the error of drawing several tokens at a time is
# limited by the information between them.)
#
# ## 2. A world of stripes
#
# Now pictures with that property, made from a seed. A picture is cut into random cells; each cell has stripes of a direction, a period, two colours
# and a phase. The LQ image is a quarter of the size and degraded by the `mild` ranges. One **dial** multiplies all periods:
#
# - *short stripes*: the LQ image has lost where each stripe begins. A token can be several things, and one neighbour tells which.
# - *long stripes*: the LQ image still shows every stripe. Neighbours add less.

# %%
base = ITER.from_pretrained("stripes", str(run.device))
example = {dial: worlds.pairs(base.tier, 1, dial, first=worlds.TEST + 2)[0]
           for dial in worlds.DIALS}


def show(axis, image, title=""):
    axis.imshow(image[0].permute(1, 2, 0).clamp(0, 1).cpu().numpy(), interpolation="nearest")
    axis.set_title(title, fontsize=8)
    axis.set(xticks=[], yticks=[])


fig, axes = plt.subplots(2, len(example), figsize=(8, 3.4), layout="constrained")
for (dial, pair), (top, bottom) in zip(example.items(), axes.T):
    show(top, pair.hq, f"HQ, dial {dial:g}")
    show(bottom, pair.lq, "LQ")
path = run.save_figure(fig, "worlds")

# %% [markdown]
# *Top: one picture (the same cells and directions) at the five dials. Bottom: what the networks get, a quarter of the size.*
#
# The LQ image has one pixel for four along each side. A wave with a period of less than two pixels cannot be told there from a longer one (the sampling theorem): what the
# LQ image shows of it, the chequered patches above, is another wave, its alias. A period of little more than two pixels is hardly better:

# %% tags=["nbval-check-output"]
for dial in worlds.DIALS:
    in_lq = ", ".join(f"{period * dial / 4:.2f}" for period in worlds.PERIODS)
    print(f"dial {dial:4g}: a period is {in_lq} LQ pixels long")


# %% [markdown]
# ### A measure that needs no original
#
# LPIPS asks for *the* original, also where the LQ image cannot tell it: another phase, perfectly drawn, counts as an error. In this world we can ask directly whether
# stripes are whole. Take the known direction and period of a cell; in small windows measure the phase and strength of the stripes there, as one complex number. Where
# windows agree on a phase, their sum is long; where stripes are broken, it is short. Divided by the same of whole stripes that is the **coherence**: 1 for whole
# stripes, whatever their phase.

# %% tags=["nbval-check-output"]
def summed_phases(value: torch.Tensor, period: float, window: int = 12) -> float:
    """|Σ| of the windows' complex numbers; value (H, W): stripes across x, bright +½, dark −½."""
    total = 0
    for y in range(0, value.shape[0] - window + 1, window):
        for x in range(0, value.shape[1] - window + 1, window):
            piece = value[y : y + window, x : x + window]
            turn = [-2 * math.pi * (x + i + 0.5) / period for i in range(window)]
            wave = torch.tensor([complex(math.cos(a), math.sin(a)) for a in turn])
            total = total + (piece * wave).mean()
    return float(abs(total))


x = torch.arange(96) + 0.5
bars = torch.sign(torch.sin(2 * math.pi * x / 8)).expand(96, 96) / 2  # one cell, period 8
bright, dark = torch.tensor(worlds.COLORS[0])
paint = lambda v: dark[:, None, None] + (v + 0.5) * (bright - dark)[:, None, None]
one_cell = worlds.World(paint(bars), torch.zeros(96, 96, dtype=torch.long), torch.zeros(1),
                        torch.tensor([8.0]), torch.zeros(1, dtype=torch.long))
half = bars.clone()
half[48:] *= -1  # the lower half is shifted by half a period
for name, picture in (("whole", bars), ("shifted whole", bars.roll(3, 1)),
                      ("broken in the middle", half)):
    by_hand = summed_phases(picture, 8) / summed_phases(bars, 8)
    ours = worlds.coherence(paint(picture), one_cell)
    assert abs(by_hand - ours) < 1e-4
    print(f"{name:<22} coherence {ours:.3f}")

# %% [markdown]
# ## 3. The networks
#
# The tier `stripes` has networks of `tiny`'s form, smaller, for these pictures: f = 4, 96 codes. At `smoke` its VQGAN and E_l are those that ship, and **φ_r is trained
# here and now**, from E_l's weights; otherwise all four ship. `itersr train all --tier stripes --data FOLDER --minutes 40` makes them again
# (`python -m itersr.lab.worlds FOLDER` writes the pictures).

# %%
LIVE = run.tier.name == "smoke"


def pictures(count: int):
    """A folder with that many pictures of stripes to train on."""
    folder = run.checkpoints / f"{count}_pictures"
    if len(list(folder.glob("*.png"))) < count:
        worlds.write(folder, count)
    return folder


def trained_here(steps: int = 300) -> ITER:
    """φ_r of `stripes`, trained for some steps; the networks before it ship."""
    folder = run.checkpoints / "stripes" / "weights"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("vqgan", "lq_encoder"):
        shutil.copy(weights.SHIPPED / "stripes" / f"{name}.safetensors", folder)
    settings = dataclasses.replace(base.tier.train["token_nets"], steps=steps, validations=1)
    config = dataclasses.replace(base.tier, train={"refiner": settings, "token_nets": settings})
    train_stage("refiner", config, pictures(100), folder.parent, validation=(1, 96), resume=True,
                progress=False, device=str(run.device))
    model = load_networks(folder, config, ("refiner",))
    model.evaluator.load_state_dict(base.evaluator.state_dict())
    return model.ready(run.device)


model = trained_here() if LIVE else base


# %% [markdown]
# ## 4. What neighbours tell
#
# How much does φ_r gain from its neighbours? Hide a quarter of the tokens of S_h. Measure φ_r's loss there (Eq. 4, in nats) twice: with nothing known, and
# with the other three quarters known. The share of the loss that goes away is the **neighbour information**. By hand, for one picture:

# %%
@torch.no_grad()
def neighbour_loss(model, pair, share, order):
    """φ_r's loss on the quarter of S_h that stays hidden, where `share` of the tokens is known."""
    lq = pair.lq.to(model.device)
    s_h = model.vqgan.encode(pair.hq.to(model.device))
    log_probs = model.log_posterior(lq)
    refine, _ = model.functions(log_probs, model.lq_features(lq))
    known, quarter = order < share, order >= 0.75
    nobody = torch.zeros_like(known)
    log_p = refine(s_h, known, log_probs.argmax(1), nobody).float().log_softmax(1)
    return float(-log_p.gather(1, s_h[:, None])[:, 0][quarter].mean())


one = example[1.0]
n_places = (one.hq.shape[-1] // model.tier.vqgan.factor) ** 2
order = torch.rand(1, int(n_places**0.5), int(n_places**0.5),
                   generator=run.generator(1, "cpu")).to(run.device)
alone, helped = (neighbour_loss(model, one, share, order) for share in (0.0, 0.75))
print(f"one picture at dial 1: {alone:.2f} nats with nothing known, "
      f"{helped:.2f} with three quarters known: {1 - helped / alone:.0%} of the loss goes away")

# %% [markdown]
# Now for every dial, over pictures that nobody trained on (`itersr.training.validate.neighbour_information`); and for **photos**, with the networks that notebooks 06–09
# measure. Solid lines: the known tokens are the true ones. Dashed: they are φ_r's own draws, which is what inference has; they were drawn without each other,
# so they tell less, or mislead.

# %%
few = 4 if LIVE else 48
seeds = (run.seed,) if LIVE else tuple(run.seed + i for i in range(3))
dials = (worlds.DIALS[0], worlds.DIALS[-1]) if LIVE else worlds.DIALS
side = 96
world_pairs = {dial: worlds.pairs(model.tier, few, dial, size=side) for dial in dials}

photo_model = model_to_measure(run.tier, run.data, run.checkpoints,
                               seed=run.seed, device=str(run.device))
size = experiments.sizes(run.tier, run.seed)
unseen = experiments.unseen_photos(size.photos, experiments.bench_folder())
photo_pairs = experiments.make_pairs(unseen, photo_model.tier, size.side, run.seed)
photo_name = f"photos, {photo_model.tier.name}, f = {photo_model.tier.vqgan.factor}"

places = {f"stripes, dial {dial:g}": (model, pairs) for dial, pairs in world_pairs.items()}
places[photo_name] = (photo_model, photo_pairs)
told = {name: {own: neighbour_information(net, pairs, own=own) for own in (False, True)}
        for name, (net, pairs) in places.items()}
information = {name: 1 - found[False][0.75] / found[False][0.0] for name, found in told.items()}

fig, axis = plt.subplots(figsize=(6, 3.6), layout="constrained")
for i, (name, found) in enumerate(told.items()):
    colour = "black" if name == photo_name else plt.cm.viridis(i / len(dials))
    for own, style in ((False, "o-"), (True, "o--")):
        axis.plot(list(found[own]), list(found[own].values()), style, ms=3, color=colour,
                  label=None if own else name)
axis.set(xlabel="share of the tokens that is known",
         ylabel="φ_r's loss on the hidden ones, nats", ylim=(0, None))
axis.legend(fontsize=7)
path = run.save_figure(fig, "neighbours")
pd.DataFrame({
    name: {
        "nothing known": found[False][0.0],
        "¾ known": found[False][0.75],
        "¾ own draws": found[True][0.75],
        "neighbour information": f"{information[name]:.0%}",
    }
    for name, found in told.items()
}).T

# %% [markdown]
# ## 5. Steps
#
# The same φ_r, the same γ, temperature 1, and random masks, so that nothing but the number of steps T differs. First look.

# %%
shown_T = (1, 2, 8) if LIVE else (1, 2, 4, 8, 16)
plain = model.sampler(adaptive=False, policy="random", remask=False, temperature=1.0)
pair = world_pairs[dials[0]][1]
shown = {"LQ": pair.lq, "S_l": apply(model, Method("S_l", "S_l"), pair)[0]}
for T in shown_T:
    shown[f"T = {T}"] = apply(model, Method("T", sampler=dataclasses.replace(plain, steps=T)),
                              pair, run.seed)[0]
shown["HQ"] = pair.hq
fig, axes = plt.subplots(1, len(shown), figsize=(8, 1.5), layout="constrained")
for axis, (name, image) in zip(axes, shown.items()):
    score = "" if name == "LQ" else f"\n{pair.facts(image)['coherence']:.2f}"
    show(axis, image, name + score)
path = run.save_figure(fig, "steps_seen")

# %% [markdown]
# *One picture at the lowest dial; the number is its coherence. At T = 1 the tokens of a stripe do not know of each other and the edges are ragged. With more steps
# more of them agree; at temperature 1 and with random masks much stays ragged. Section 7 does better.*
#
# Then measure: LPIPS (less is better) and coherence (more is better) against T.

# %%
counts = (1, 8) if LIVE else (1, 2, 4, 8, 16)
store = run.checkpoints / "rows.jsonl"
look = "lpips" if metrics.available("lpips") else "gmsd"


def over_T(net, pairs, steps):
    """Rows of φ_r with random masks at temperature 1, for several T."""
    base_sampler = net.sampler(adaptive=False, policy="random", remask=False, temperature=1.0)
    methods = [Method("T", sampler=dataclasses.replace(base_sampler, steps=T), dial=T)
               for T in steps]
    return experiments.sweep(net, methods, pairs, seeds, store=store, names=[look])


curves = {name: over_T(net, pairs[:24], counts) if net is model else over_T(net, pairs, (1, 8))
          for name, (net, pairs) in places.items()}
values = [look, "coherence"]
fig, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
for axis, value in zip(axes, values):
    for i, (name, rows) in enumerate(curves.items()):
        if value not in rows:
            continue
        colour = "black" if name == photo_name else plt.cm.viridis(i / len(dials))
        table = experiments.summary(rows, [value], by=["dial"])
        axis.plot(table.dial, table["mean"], "o-", ms=3, color=colour, label=name)
        axis.fill_between(table.dial, table.low, table.high, color=colour, alpha=0.15, lw=0)
    axis.set(xlabel="T", ylabel=value.upper() if value == look else value, xscale="log",
             xticks=list(counts), xticklabels=list(counts))
    axis.minorticks_off()
axes[0].legend(fontsize=7)
path = run.save_figure(fig, "steps")

# %% [markdown]
# ## 6. One number that foretells
#
# Across: neighbour information, measured without any sampling. Up: how much of the LPIPS of one step eight steps take away.

# %%
gains = {name: experiments.gain_of_steps(rows, look) for name, rows in curves.items()}
recorded = json.loads((ROOT / "figures" / "10_elsewhere.json").read_text(encoding="utf-8"))
elsewhere = {name: point for name, point in recorded.items() if name not in gains}
fig, axis = plt.subplots(figsize=(5.5, 3.6), layout="constrained")
for i, (name, found) in enumerate(gains.items()):
    colour = "black" if name == photo_name else plt.cm.viridis(i / len(dials))
    axis.plot([information[name]] * 2, [found["low"], found["high"]], color=colour, lw=2)
    axis.plot(information[name], found["mean"], "o", color=colour)
    axis.annotate(name, (information[name], found["mean"]), xytext=(5, 3),
                  textcoords="offset points", fontsize=7)
for name, point in elsewhere.items():  # hollow
    axis.plot([point["information"]] * 2, [point["gain"]["low"], point["gain"]["high"]],
              color="0.5", lw=1)
    axis.plot(point["information"], point["gain"]["mean"], "o", color="0.5", mfc="white")
    axis.annotate(name, (point["information"], point["gain"]["mean"]), xytext=(5, -9),
                  textcoords="offset points", fontsize=7)
axis.axhline(0, color="grey", lw=0.7)
axis.set(xlabel="neighbour information (share of φ_r's loss)",
         ylabel=f"{look.upper()} that eight steps take away")
axis.margins(x=0.2)
path = run.save_figure(fig, "foretold")
points = {name: (information[name], found) for name, found in gains.items()}
points |= {name: (point["information"], point["gain"]) for name, point in elsewhere.items()}
pd.DataFrame({name: {"neighbour information": f"{x:.0%}", "gain of eight steps": ledger.show(found)}
              for name, (x, found) in points.items()}).T

# %% [markdown]
# *A point far to the right and high up: a place for ITER. Near the left edge one step is as good, and an eighth of the work. Hollow, if there are any: weights that do not ship,
# measured once (`figures/10_elsewhere.json` says how they were trained). To see where another model lies, give its folder of weights to
# `python -m tests.foretold FOLDER`; the authors' weights become such a folder by
# `itersr.published.load("folder with the .pth files").save("published")`.*
#
# ## 7. Who should judge?
#
# Steps pay here with random masks. Is there a critic that does better? The candidates:
#
# - `random`: no critic. The control.
# - `evaluator`: φ_e, which was trained on "does the token equal S_h?". Notebook 05 showed that this asks for confidence, not for agreement.
# - `topk`, `confidence_sampled`: φ_r's own confidence, greedy or drawn (MaskGIT).
# - `φ_e, label equal` and `label original`: φ_e trained for nine minutes more, on maps that the final φ_r drew, with Eq. 5's label or with Token-Critic's
#   (Lezama et al. 2022: was this token given, or drawn?). See `itersr.lab.critics`. Not at `smoke`.
# - `asked again`: φ_r itself, asked about each token with the other colour of a chequerboard known (`experiments.asked_again`). It asks whether
#   tokens fit each other, for two more calls of φ_r a step.
# - `oracle`: a judge that knows S_h, as the bound.
#
# Each with kept tokens for good, and with **re-masking** (kept tokens compete again). Two settings move together with every critic and must not be confused with it:
# the temperature (a mask of likely tokens acts like a lower temperature; arXiv 2510.04525 finds that in MaskGIT), so every critic is compared at temperature 1 *and*
# at its own best temperature, chosen for each picture on all the others.

# %%
temperatures = (1.0,) if LIVE else (0.0, 0.1, 0.3, 0.5, 0.7, 1.0)
contest = world_pairs[dials[0]]  # where neighbours tell most
measured = [look, "psnr"]
options = {"store": store, "names": measured}
rows = experiments.critics(model, contest, seeds, temperatures, **options)
if not LIVE:
    some = ["random, re-masking", "evaluator, re-masking", "asked again, re-masking",
            "asked again, greedy, re-masking", "oracle"]
    rows = pd.concat([rows, experiments.critics(model, contest, seeds, (0.3, 0.5, 0.7), steps=16,
                                                only=some, **options)])
    for label in ("equal", "original"):  # φ_e trained further, with all else as it is
        folder = run.checkpoints / "critics" / label
        critics.train_critic(label, folder, data=pictures(800), minutes=9, device=str(run.device))
        trained = folder / "weights" / "evaluator.safetensors"
        other = critics.with_critic(ITER.from_pretrained("stripes", str(run.device)), trained)
        judges = ["evaluator, re-masking", "evaluator, greedy, re-masking"]
        judged = experiments.critics(other, contest, seeds, temperatures[2:], only=judges,
                                     **options)
        rows = pd.concat([rows, judged.assign(
            method=judged.method.str.replace("evaluator", f"φ_e, label {label}"))])
names = list(rows.method.unique())


def T_of(name):
    """The number of steps in a method's name."""
    return name.rpartition(", T = ")[2]


def best_of(name, rows=rows):
    """A critic's rows at its own best temperature."""
    return experiments.at_its_best(rows[rows.method == name], look)


def row_at_one(name, rows=rows):
    """A critic's rows at temperature 1; none where it was not run there."""
    return rows[(rows.method == name) & (rows.dial == 1.0)]


def way_to_oracle(ours, random, oracle, value=look):
    """How far from random masks to the oracle, in per cent of that way."""
    mean = {key: float(r[value].mean())
            for key, r in (("ours", ours), ("random", random), ("oracle", oracle))}
    return (mean["ours"] - mean["random"]) / (mean["oracle"] - mean["random"])


def table_of(rows):
    ("Per critic: LPIPS at temperature 1 and at its best one, "
     "and there the difference from random masks of as many steps.")
    lines = {}
    for name in rows.method.unique():
        T = T_of(name)
        control = f"random, T = {T}" if T == "8" else f"random, re-masking, T = {T}"
        at_best, random, bound = (best_of(each, rows)
                                  for each in (name, control, f"oracle, T = {T}"))
        at_one = row_at_one(name, rows)
        lines[name] = {
            f"{look.upper()} at 1":
                ledger.show(experiments.interval(at_one, look)) if len(at_one) else "–",
            f"{look.upper()} at its best": ledger.show(experiments.interval(at_best, look)),
            "best": ", ".join(f"{t:g}" for t in sorted(at_best.dial.unique())),
            **({"coherence": f"{at_best.coherence.mean():.3f}"} if "coherence" in at_best else {}),
            "− random":
                "–" if name == control
                else ledger.show(experiments.difference(at_best, random, look)),
            "of the way to the oracle":
                "–" if name == control else f"{way_to_oracle(at_best, random, bound):.0%}",
        }
    return lines


lines = table_of(rows)
pd.DataFrame(lines).T

# %%
fig, axes = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained")
for axis, value in zip(axes, values):
    for i, name in enumerate(name for name in names if T_of(name) == "8"):
        table = experiments.summary(rows[rows.method == name], [value], by=["dial"])
        axis.plot(table.dial, table["mean"], "o-" if "re-masking" not in name else "o--",
                  ms=3, lw=1, color=plt.cm.tab20(i), label=name.rpartition(",")[0])
    axis.set(xlabel="temperature", ylabel=value.upper() if value == look else value)
axes[1].legend(fontsize=6, loc="center left", bbox_to_anchor=(1, 0.5))
path = run.save_figure(fig, "critics")

# %% [markdown]
# *T = 8; dashed: with re-masking. Each point is a mean over pictures and seeds. Compare curves at their lowest points (left) or highest points
# (right), and not at one temperature only.*
#
# ### The same on photos
#
# Here neighbours tell little, so a judge of coherence has little to find. The photos and networks are those of section 4.

# %%
on_photos = {}
if LIVE:
    print("At smoke the critics are not compared on photos.")
else:
    photo_temperatures = (0.5, 0.7, 0.85, 1.0)
    judges = [name for name in experiments.CRITICS
              if name not in ("evaluator, greedy", "asked again", "asked again, greedy")]
    photo_rows = experiments.critics(photo_model, photo_pairs, seeds, photo_temperatures,
                                     only=judges, **options)
    on_photos = table_of(photo_rows)
pd.DataFrame(on_photos).T

# %% [markdown]
# *Critics that keep likely tokens, or tokens that fit each other, take texture away on photos, which LPIPS punishes. Where the best temperature is the
# highest tried, that critic may do better at a higher one.*
#
# ## 8. ITER against what it is made of
#
# Algorithm 2 at its best setting, against the same networks used once: S_l (E_l's argmax), one sample of E_l, one sample of φ_r (T = 1). Each at its own best temperature.

# %%
one_step = [
    Method("one sample of φ_r", dial=x,
           sampler=model.sampler(steps=1, adaptive=False, policy="random", temperature=x))
    for x in temperatures
]
once = experiments.sweep(model, [*one_step, *experiments.baselines(temperatures)],
                         contest, seeds, **options)
means = {name: float(best_of(name)[look].mean()) for name in names if not name.startswith("oracle")}
champion = (min(means, key=means.get) if metrics.find(look).lower_better
            else max(means, key=means.get))
ours = best_of(champion)
rivals = {
    "S_l": once[once.method == "S_l"].assign(dial=1.0),
    "one sample of E_l": experiments.at_its_best(once[once.method == "one sample of E_l"], look),
    "one sample of φ_r": experiments.at_its_best(once[once.method == "one sample of φ_r"], look),
    "random masks, T = 8": best_of("random, T = 8"),
}
against = {f"{look.upper()}, best − {name}": experiments.difference(ours, theirs, look)
           for name, theirs in rivals.items()}
against |= {f"coherence, best − {name}": experiments.difference(ours, theirs, "coherence")
            for name, theirs in rivals.items()}
print(f"best here: {champion}, {look.upper()} {means[champion]:.4f}")
pd.Series({name: ledger.show(found) for name, found in against.items()}).to_frame("mean [95 %]")

# %% [markdown]
# ## 9. The threshold α
#
# Fig. 7 of the paper in this world: α = 0 takes S_l as it is, α = 1 starts from nothing known.

# %%
alphas = (0.0, 0.25, 0.75, 1.0) if LIVE else (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)
by_alpha = experiments.alpha_curve(model, contest, seeds, {a: a for a in alphas},
                                   shift=model.calibration, **options)
fig, axes = plt.subplots(1, 3, figsize=(8, 2.6), layout="constrained")
for axis, value in zip(axes, (look, "coherence", "T_s")):
    table = experiments.summary(by_alpha, [value], by=["dial"])
    axis.plot(table.dial, table["mean"], "o-", ms=3, color="black")
    axis.fill_between(table.dial, table.low, table.high, color="black", alpha=0.15, lw=0)
    axis.set(xlabel="α", title=value.upper() if value == look else value)
path = run.save_figure(fig, "alpha")

# %% [markdown]
# *Left: LPIPS, less is better. Middle: coherence, more is better. Right: the step at which Algorithm 2 begins (of T).*

# %% [markdown]
# ## 10. The paper's claims in this world
#
# The ledger of claims (README) has a column for the stripes. Its evidence, by the same names as on photos: masks and policies at T = 8 and temperature 1; ITER is Algorithm 2
# with φ_e at its best temperature and form.

# %%
LOOK = look.upper()
curve = curves[f"stripes, dial {dials[0]:g}"]
of_T = {T_: curve[curve.dial == T_] for T_ in counts}
of_alpha = {a: by_alpha[by_alpha.dial == a] for a in alphas}
inner = experiments.at_its_best(by_alpha[by_alpha.dial.between(0, 1, inclusive="neither")], look)
chosen_alpha = min((a for a in alphas if 0 < a < 1), key=lambda a: abs(a - 0.5))  # the paper's
phi_e = [name for name in names if name.startswith("evaluator") and name.endswith("T = 8")]
with_phi_e = best_of(min(phi_e, key=lambda name: float(best_of(name)[look].mean())))
near = {}
for short, name in (("top-k", "topk"), ("the evaluator", "evaluator"), ("random masks", "random")):
    of_steps = experiments.steps_of(row_at_one(f"{name}, T = 8"))
    near[short] = of_steps.groupby(["method", "photo", "seed"], as_index=False)["nearness"].mean()
evidence = {
    **{f"nearness of {short}": experiments.interval(own, "nearness")
       for short, own in near.items()},
    "nearness, top-k − evaluator": experiments.difference(
        near["top-k"], near["the evaluator"], "nearness"),
    f"{LOOK}, evaluator − top-k": experiments.difference(
        row_at_one("evaluator, T = 8"), row_at_one("topk, T = 8"), look),
    f"{LOOK}, evaluator − random": experiments.difference(
        row_at_one("evaluator, T = 8"), row_at_one("random, T = 8"), look),
    f"{LOOK}, evaluator − random, each at its best temperature": experiments.difference(
        best_of("evaluator, T = 8"), best_of("random, T = 8"), look),
    f"{LOOK}, oracle − evaluator": experiments.difference(
        row_at_one("oracle, T = 8"), row_at_one("evaluator, T = 8"), look),
    "T_s, corrected, α = .75 − α = .25": experiments.difference(
        of_alpha[0.75], of_alpha[0.25], "T_s"),
    "PSNR, α = 1 − α = 0": experiments.difference(of_alpha[1.0], of_alpha[0.0], "psnr"),
    f"{LOOK}, best α inside − α = 0": experiments.difference(inner, of_alpha[0.0], look),
    f"{LOOK}, best α inside − α = 1": experiments.difference(inner, of_alpha[1.0], look),
    f"{LOOK}, T = 8 − most steps": experiments.difference(of_T[8], of_T[max(counts)], look),
    f"{LOOK}, T = 1 − most steps": experiments.difference(of_T[1], of_T[max(counts)], look),
    "steps, adaptive − full start": experiments.difference(
        of_alpha[chosen_alpha], of_alpha[1.0], "run"),
    f"{LOOK}, adaptive − full start": experiments.difference(
        of_alpha[chosen_alpha], of_alpha[1.0], look),
    **{f"{LOOK}, ITER − {name}": experiments.difference(with_phi_e, rivals[name], look)
       for name in ("S_l", "one sample of E_l", "one sample of φ_r")},
}
pd.Series({name: ledger.show(found) for name, found in evidence.items()}).to_frame("mean [95 %]")


# %% [markdown]
# ## What was learned

# %%
def says(found, better, worse, undecided):
    return {-1: better, 1: worse, 0: undecided}[ledger.sign(found)]


least, most = min(information, key=information.get), max(information, key=information.get)
step_gain = experiments.difference(best_of("random, T = 8"), rivals["one sample of φ_r"], look)
fe_gain = evidence[f"{LOOK}, evaluator − random, each at its best temperature"]
random_there = best_of(min((name for name in names
                            if name.startswith("random") and T_of(name) == T_of(champion)),
                           key=lambda name: float(best_of(name)[look].mean())))
oracle_there = best_of(f"oracle, T = {T_of(champion)}")
critic_way, critic_gain = (way_to_oracle(ours, random_there, oracle_there),
                           experiments.difference(ours, random_there, look))
alpha_means = by_alpha.groupby("dial")[look].mean()
best_alpha = float(alpha_means.idxmin() if metrics.find(look).lower_better
                   else alpha_means.idxmax())
inside = 0 < best_alpha < 1
undecided = "not told apart by these few pictures"
display(Markdown(
    "\n"
    f"- Neighbour information runs from {information[least]:.0%} ({least}) "
    f"to {information[most]:.0%} ({most}); eight steps take away\n"
    f"  {gains[least]['mean']:.0%} and {gains[most]['mean']:.0%} "
    f"of one step's {look.upper()}.\n"
    "- Steps alone: random masks at T = 8 against one sample of φ_r, "
    f"each at its best temperature: {ledger.show(step_gain)}\n"
    f"  ({says(step_gain, 'better', 'worse', undecided)}).\n"
    "- The critic of the paper: φ_e's masks against random ones at T = 8, "
    f"each at its best temperature: {ledger.show(fe_gain)}\n"
    f"  ({says(fe_gain, 'better', 'worse', undecided)}).\n"
    f"- Best of all settings tried: **{champion}**. Against random masks with as many steps: "
    f"{ledger.show(critic_gain)}, {critic_way:.0%} of the way from\n"
    "  random masks to the oracle.\n"
    f"- The best α is {best_alpha:g}: {'inside' if inside else 'at the end of the range'}.\n"
    "\n"
    f"{'φ_r trained here for a few hundred steps, ' if LIVE else 'Shipped weights, '}"
    f"{few} pictures a dial, {len(seeds)} seed(s).\n"
))


# %% [markdown]
# - A step can only win what tokens know of each other. Measure that first.
# - Temperature, mask and number of steps trade for each other: compare at equal settings *and* each at its best.
# - "Equals S_h" and "fits its neighbours" are two questions; a critic answers the one that it was trained on.
#
# ## Check yourself
#
# <details><summary>1. What is neighbour information?</summary>
#
# The share of φ_r's loss on hidden tokens that goes away when three quarters of the true ones are shown.
#
# </details>
#
# <details><summary>2. Why can one step never make a whole stripe when its phase is open?</summary>
#
# Each token draws its phase for itself; they agree by chance alone.
#
# </details>
#
# <details><summary>3. Why does φ_e gain nothing over random masks once the temperature is free?</summary>
#
# It asks for likely tokens, and so does a lower temperature.
#
# </details>
#
# <details><summary>4. What does "asked again" ask, and what does it cost?</summary>
#
# Whether each token fits the other colour of a chequerboard, by φ_r itself: two more calls of φ_r in every step.
#
# </details>
#
# ## Exercises
#
# **1.** A stripe of n tokens has K equally likely phases, and all tokens agree. How many nats do the tokens hold about each other (the entropy of the product
# less the entropy of the world)?

# %% tags=["exercise"]
def information_of_a_stripe(n: int, K: int) -> float:
    """Nats by which one step misses the world."""
    raise NotImplementedError


# %% jupyter={"source_hidden": true} tags=["solution"]
def information_of_a_stripe(n: int, K: int) -> float:
    """Nats by which one step misses the world."""
    return n * math.log(K) - math.log(K)


# %% tags=["check"]
assert math.isclose(information_of_a_stripe(8, 2), product_entropy - world_entropy), (
    "K = 2, n = 8 is the case of section 1")
assert information_of_a_stripe(1, 5) == 0, "a single token has no neighbour to know of"


# %% [markdown]
# **2.** With K phases, and k₁ tokens drawn blindly in the first step, with what probability is a stripe whole? (Section 1 has K = 2.)

# %% tags=["exercise"]
def whole(k1: int, K: int) -> float:
    """The probability that k1 tokens, drawn each for itself from K phases, agree."""
    raise NotImplementedError


# %% jupyter={"source_hidden": true} tags=["solution"]
def whole(k1: int, K: int) -> float:
    """The probability that k1 tokens, drawn each for itself from K phases, agree."""
    return K ** (1.0 - k1)


# %% tags=["check"]
_count = [len(set(draw)) == 1 for draw in product(range(3), repeat=4)]
assert math.isclose(whole(4, 3), sum(_count) / len(_count)), (
    "count all 81 draws of 4 tokens from 3 phases")
assert whole(1, 7) == 1, "one token always agrees with itself"

# %% [markdown]
# **Next:** your own data. Train on it (`itersr train all`), read the neighbour information in the model card, and decide whether the steps are worth their time.

# %%
path = run.record(
    measured=f"neighbour information {information[least]:.0%} to {information[most]:.0%}, "
             f"gain of eight steps {gains[least]['mean']:.0%} to {gains[most]['mean']:.0%}",
    evidence=evidence,
    against={f"{LOOK}, random masks at T = 8 − one sample of φ_r": step_gain, **against},
    information=information, gains=gains,
    losses={name: {"true": found[False], "own": found[True]} for name, found in told.items()},
    critics=lines, **{"critics on photos": on_photos}, champion=champion,
    way_to_oracle=critic_way, best_alpha=best_alpha,
    weights=experiments.fingerprint(model), photos=few, seeds=len(seeds), side=side,
    by_T=[{"place": name, **row} for name, found in curves.items()
          for row in experiments.summary(found, [v for v in values if v in found],
                                         by=["dial"]).to_dict("records")],
    by_temperature=experiments.summary(rows, values, by=["method", "dial"]).to_dict("records"),
    by_alpha=experiments.summary(by_alpha, [look, "coherence", "T_s"],
                                 by=["dial"]).to_dict("records"),
)
