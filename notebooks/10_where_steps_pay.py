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
# **What you will build.** A world in which everything is known, a number to hold beside the gain of several steps over one, and
# a fair contest of critics. A **critic** (or judge) gives every proposed token a score, and the scores decide which tokens
# stay. φ_e is one critic; random masks use none.
#
# **Why.** On photos, this course found eight steps of φ_r no better than one ([08](08_alpha_curves.ipynb)), and φ_e's masks no
# better than random ones ([07](07_topk_vs_evaluator.ipynb)). This notebook looks for the reason, and for a place where the
# steps pay.
#
# **What you need.** Algorithm 2 ([06](06_adaptive_inference.ipynb)); entropy in nats. Symbols: [one table](symbols.md).
#
# **Minutes.** Reading 35. With `tier = "smoke"` φ_r is trained here, in about a minute on two CPU cores, and everything is
# small. As it stands the notebook measures the weights that ship, which takes hours on two cores; finished rows are kept on
# disk.

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
from itertools import combinations, product

import matplotlib.pyplot as plt
import pandas as pd
import torch
from IPython.display import Markdown, display

from itersr import weights
from itersr.lab import critics, experiments, ledger, metrics, worlds
from itersr.lab.course import model_to_measure
from itersr.lab.experiments import Method, apply
from itersr.lab.ledger import says
from itersr.lab.reproduce import ROOT
from itersr.model import ITER
from itersr.schedule import tokens_to_keep
from itersr.training.run import load_networks, train_stage
from itersr.training.validate import neighbour_information


# %% [markdown]
# In the sentences below, "better", "worse", "rises" and "falls" are used only if the whole 95 % interval lies on one side of
# zero and there are at least six pictures (`ledger.says`). Otherwise the text says "not told apart". `percent` only formats a
# number.

# %%
def percent(x):
    """A share in per cent, with a minus sign and without −0 %."""
    return f"{round(x, 2) + 0.0:.0%}".replace("-", "−")


# %% [markdown]
# ## 1. What one step cannot do
#
# φ_r gives every place its own distribution. One step draws all places at once, each for itself: that is a *product* of
# distributions. What is lost is what the places know of each other.
#
# The smallest case. Eight tokens lie along one stripe. All show the same phase, A or B, each half of the time. φ_r knows that
# perfectly: with nothing known it says ½ and ½ everywhere; once one token is known, it is sure of all others.
#
# - The true world has two pictures, `AAAAAAAA` and `BBBBBBBB`: an entropy of ln 2 nats.
# - One step draws 2⁸ pictures, all equally likely. Only two of them are whole.
# - The difference of the two entropies, 8 ln 2 − ln 2, is the **information that the tokens hold about each other**. It is also
#   the distance (the Kullback–Leibler divergence) between the true world and what one step draws.
#
# With more steps, the first step keeps k₁ tokens, and those are drawn blindly; all later ones agree if these do. So a stripe is
# whole with probability 2^(1 − k₁). Count it:

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
# With an exact φ_r the steps can win back this and nothing else: where neighbours add nothing to what the LQ image tells, one
# step is exact and more steps are only slower. (Li and Cai 2025, arXiv 2505.21400, prove the bound in general: the error of
# drawing several tokens at a time is limited by the information between them.) A trained φ_r is not exact.
#
# ## 2. A world of stripes
#
# Now pictures with that property, made from a seed. A picture is cut into random cells; each cell has stripes of a direction, a
# period, two colours and a phase. The LQ image is a quarter of the size and degraded by the `mild` ranges of [notebook
# 01](01_degradation.ipynb): weak blur, noise and JPEG. One **dial** multiplies all periods:
#
# - *short stripes*: the LQ image has lost where each stripe begins. A token can be several things, and one neighbour tells
#   which.
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
# *What to see. Top: one picture (the same cells and directions) at the five dials. Bottom: what the networks get, a quarter of
# the size.*
#
# The LQ image has one pixel for four along each side. A wave with a period of less than two pixels cannot be told there from a
# longer one (the sampling theorem): what the LQ image shows of it, the chequered patches above, is another wave, its alias. A
# period of little more than two pixels is hardly better:

# %% tags=["nbval-check-output"]
for dial in worlds.DIALS:
    in_lq = ", ".join(f"{period * dial / 4:.2f}" for period in worlds.PERIODS)
    print(f"dial {dial:4g}: a period is {in_lq} LQ pixels long")


# %% [markdown]
# ### A measure that needs no original
#
# LPIPS asks for *the* original, also where the LQ image cannot tell it: another phase, perfectly drawn, counts as an error. In
# this world we can ask directly whether stripes are whole.
#
# In each window of 12 pixels compute one Fourier coefficient, at the direction and period of the cell. It is a complex number,
# and its angle is the phase of the stripes in that window. Add the coefficients of all windows of a cell, and take the absolute
# value. If the angles agree, it is large; if the stripes are broken, the coefficients cancel each other. Add these values over
# all cells that have at least eight windows, and divide by the same number for the true picture. (Weak contrast or a wrong
# direction lowers it too.) That is the **coherence**: 1 for whole stripes, whatever their phase.

# %% tags=["nbval-check-output"]
def summed_phases(value: torch.Tensor, period: float, window: int = 12) -> float:
    ("|Σ| of the Fourier coefficients of all windows; "
     "value (H, W): stripes across x, bright +½, dark −½.")
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
# The tier `stripes` has networks of `tiny`'s form, smaller, for these pictures: f = 4, 96 codes. At `smoke` its VQGAN and E_l
# are those that ship, and **φ_r is trained here and now**, from E_l's weights; otherwise all four ship. To make them again:
# `python -m itersr.lab.worlds FOLDER` writes the pictures, `itersr train all --tier stripes --data FOLDER --minutes 40` trains.

# %%
LIVE = run.tier.name == "smoke"


def pictures(count: int):
    """A folder with that many pictures of stripes to train on."""
    folder = run.checkpoints / f"{count}_pictures"
    if len(list(folder.glob("*.png"))) < count:
        worlds.write(folder, count)
    return folder


def trained_here(steps: int = 200) -> ITER:
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
# How much does φ_r gain from its neighbours? Hide a quarter of the tokens of S_h. Measure φ_r's loss there (Eq. 4, in nats per
# token) twice: with nothing known, and with the other three quarters known. What goes away can be counted in nats, or as a
# share of the loss with nothing known. The share is the **neighbour information**. By hand, for one picture:

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
# Now for every dial, over pictures that nobody trained on (`itersr.training.validate.neighbour_information`); and for
# **photos**, with the networks that notebooks 06–09 measure.

# %%
few = 4 if LIVE else 48
seeds = (run.seed,) if LIVE else tuple(run.seed + i for i in range(3))
dials = (worlds.DIALS[0], worlds.DIALS[-1]) if LIVE else worlds.DIALS
side = 96
world_pairs = {dial: worlds.pairs(model.tier, few, dial, size=side) for dial in dials}
lowest = f"stripes, dial {dials[0]:g}"

photo_model = model_to_measure(run.tier, run.data, run.checkpoints,
                               seed=run.seed, device=str(run.device))
size = experiments.sizes(run.tier, run.seed)
unseen = experiments.unseen_photos(size.photos, experiments.bench_folder())
photo_pairs = experiments.make_pairs(unseen, photo_model.tier, size.side, run.seed)
photo_name = f"photos, {photo_model.tier.name}, f = {photo_model.tier.vqgan.factor}"

places = {f"stripes, dial {dial:g}": (model, pairs) for dial, pairs in world_pairs.items()}
places[photo_name] = (photo_model, photo_pairs)
colours = {name: plt.cm.viridis(i / len(dials)) for i, name in enumerate(places)}
colours[photo_name] = "black"

# %%
told = {name: {own: neighbour_information(net, pairs, own=own) for own in (False, True)}
        for name, (net, pairs) in places.items()}
nats = {name: found[False][0.0] - found[False][0.75] for name, found in told.items()}
information = {name: nats[name] / found[False][0.0] for name, found in told.items()}

fig, axis = plt.subplots(figsize=(7, 3.4), layout="constrained")
for name, found in told.items():
    for own, style in ((False, "o-"), (True, "o--")):
        axis.plot(list(found[own]), list(found[own].values()), style, ms=3, color=colours[name],
                  label=None if own else name)
axis.set(xlabel="share of the tokens that is known",
         ylabel="φ_r's loss on the hidden ones, nats", ylim=(0, None))
axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
path = run.save_figure(fig, "neighbours")

# %% [markdown]
# *What to see: the loss on the same hidden quarter, from nothing known (left) to three quarters known (right). One colour a
# dial, black for photos. Solid: the known tokens are the true ones. Dashed: they are φ_r's own draws, which is what inference
# has.*

# %%
misled = [name for name, found in told.items() if found[True][0.75] > found[True][0.0]]
display(pd.DataFrame({
    name: {
        "nothing known": f"{found[False][0.0]:.2f}",
        "¾ known": f"{found[False][0.75]:.2f}",
        "nats less": f"{nats[name]:.2f}".replace("-", "−"),
        "neighbour information": percent(information[name]),
        "¾ own draws": f"{found[True][0.75]:.2f}",
    }
    for name, found in told.items()
}).T)
display(Markdown(f"With φ_r's own draws the loss ends higher than it began on {len(misled)} of "
                 f"the {len(told)} sets of pictures (dashed)."))

# %% [markdown]
# A dashed curve that rises is no fault by itself. Given the LQ image, the draws are independent of S_h. An exact φ_r follows a
# draw that is possible, as it should, and S_h may be another possible one: its loss against S_h rises too.
#
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
scores = {name: pair.facts(image)["coherence"] for name, image in shown.items() if name != "LQ"}
fig, axes = plt.subplots(2, len(shown) // 2, figsize=(8, 4.4), layout="constrained")
for axis, (name, image) in zip(axes.flat, shown.items()):
    show(axis, image, f"{name}, coherence {scores[name]:.2f}" if name in scores else name)
path = run.save_figure(fig, "steps_seen")

# %%
most_whole = max((f"T = {T}" for T in shown_T), key=scores.get)
display(Markdown(
    "*What to see: one picture at the lowest dial. At T = 1 the tokens of a stripe are drawn "
    "without each other, and the stripes are ragged.* "
    f"In this picture coherence is highest at {most_whole} among the values of T; "
    "one picture and one seed decide nothing."))

# %% [markdown]
# Ragged places remain at larger T too, and S_l, E_l's likeliest token everywhere, can look clean where its stripes are shifted
# or run another way. So measure: LPIPS (less is better) and coherence (more is better) against T.

# %%
counts = (1, 8) if LIVE else (1, 2, 4, 8, 16)
store = run.checkpoints / "rows.jsonl"
look = "lpips" if metrics.available("lpips") else "gmsd"
LOOK, values = look.upper(), [look, "coherence"]
label = {look: LOOK, "coherence": "coherence", "T_s": "T_s"}


def over_T(net, pairs, steps):
    """Rows of φ_r with random masks at temperature 1, for several T."""
    base_sampler = net.sampler(adaptive=False, policy="random", remask=False, temperature=1.0)
    methods = [Method("T", sampler=dataclasses.replace(base_sampler, steps=T), dial=T)
               for T in steps]
    return experiments.sweep(net, methods, pairs, seeds, store=store, names=[look])


curves = {name: over_T(net, pairs[:24], counts) if net is model else over_T(net, pairs, (1, 8))
          for name, (net, pairs) in places.items()}

# %%
fig, axes = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
for axis, value in zip(axes, values):
    for name, rows in curves.items():
        if value not in rows:
            continue
        table = experiments.summary(rows, [value], by=["dial"])
        axis.plot(table.dial, table["mean"], "o-", ms=3, color=colours[name], label=name)
        axis.fill_between(table.dial, table.low, table.high, color=colours[name], alpha=0.15, lw=0)
    axis.set(xlabel="T", ylabel=label[value], xscale="log",
             xticks=list(counts), xticklabels=list(counts))
    axis.minorticks_off()
fig.legend(*axes[0].get_legend_handles_labels(), fontsize=7, loc="outside right center")
path = run.save_figure(fig, "steps")


# %% [markdown]
# *What to see: means over pictures and seeds, T on a logarithmic axis; bands are 95 % intervals over pictures and seeds; they
# overlap, so read the paired differences below. Photos (black, left only) were measured at T = 1 and 8: they have no stripes,
# so no coherence.*

# %%
def counted(value):
    """On how many sets of pictures T = 8 less T = 1 falls, rises, or is not decided."""
    signs = [ledger.sign(found[value]) for found in by_steps.values() if value in found]
    return (f"falls on {signs.count(-1)}, rises on {signs.count(1)}, "
            f"not told apart on {signs.count(0)} of {len(signs)}")


by_steps = {name: {value: experiments.difference(rows[rows.dial == 8], rows[rows.dial == 1], value)
                   for value in values if value in rows} for name, rows in curves.items()}
more_whole = by_steps[lowest]["coherence"]
to_whole = 1 - float(curves[lowest].query("dial == 1").coherence.mean())
display(Markdown(
    f"From T = 1 to T = 8, at the lowest dial, {LOOK} changes by "
    f"{ledger.show(by_steps[lowest][look])} and coherence by {ledger.show(more_whole)}; at T = 1, "
    f"{to_whole:.2f} is missing to whole stripes. "
    + says(more_whole, "So coherence falls: the steps do not make the stripes whole.",
           f"So coherence rises, by {more_whole['mean'] / to_whole:.0%} of what is missing.",
           "So coherence is not told apart from unchanged: that the steps make the stripes whole "
           "is not shown, whatever LPIPS says.")
    + f" Over the sets of pictures: {LOOK} {counted(look)}; coherence {counted('coherence')}. "
    "Section 7 asks whether a critic does better."))

# %% [markdown]
# ## 6. Neighbour information and the gain of steps
#
# The **gain** of eight steps is the share of one step's LPIPS that they take away, with random masks at temperature 1. (Section
# 8 has the gain where both have their best temperature.) What neighbours tell was measured without any sampling. Do the two go
# together?

# %%
gains = {name: experiments.gain_of_steps(rows, look) for name, rows in curves.items()}
file = ROOT / "figures" / "10_elsewhere.json"  # measured with LPIPS
recorded = json.loads(file.read_text(encoding="utf-8")) if look == "lpips" else {}
elsewhere = {name: point for name, point in recorded.items() if name not in gains}
points = {name: (information[name], nats[name], gains[name]) for name in gains}
points |= {name: (point["information"], point["nats"][0] - point["nats"][-1], point["gain"])
           for name, point in elsewhere.items()}
colours |= {name: f"C{i + 1}" for i, name in enumerate(elsewhere)}

fig, axes = plt.subplots(1, 2, figsize=(8, 3), sharey=True, layout="constrained")
for axis, which, unit in zip(axes, (0, 1), (100, 1)):
    for name, point in points.items():
        mean, low, high = (100 * point[2][part] for part in ("mean", "low", "high"))
        axis.errorbar(unit * point[which], mean, [[mean - low], [high - mean]], fmt="o",
                      color=colours[name], mfc="white" if name in elsewhere else None, label=name)
    axis.axhline(0, color="grey", lw=0.7)
axes[0].set(xlabel="neighbour information, % of φ_r's loss",
            ylabel=f"gain, % of one step's {LOOK}")
axes[1].set(xlabel="the same in nats a token")
fig.legend(*axes[0].get_legend_handles_labels(), fontsize=7, loc="outside right center")
path = run.save_figure(fig, "gain")


# %% [markdown]
# *What to see. Up: the gain; above the line eight steps are better than one. Across: what true neighbours take off φ_r's loss,
# left as a share, right in nats. Bars are 95 % intervals. *

# %%
def spans(found):
    """A share and its interval in per cent."""
    return f"{percent(found['mean'])} [{percent(found['low'])}, {percent(found['high'])}]"


def apart(a, b):
    """Whether two intervals do not overlap, with enough pictures behind both."""
    enough = min(a["n"], b["n"]) >= ledger.FEWEST
    return enough and (a["high"] < b["low"] or b["high"] < a["low"])


pd.DataFrame({name: {"neighbour information": percent(share),
                     "in nats": f"{less:.2f}".replace("-", "−"),
                     "gain of eight steps": spans(gain)}
              for name, (share, less, gain) in points.items()}).T

# %%
stripes = [name for name in gains if name != photo_name]
above = [name for name in stripes if apart(gains[name], gains[photo_name])
         and gains[name]["mean"] > gains[photo_name]["mean"]]
two = list(combinations(stripes, 2))
told_apart = [both for both in two if apart(*(gains[name] for name in both))]
fewer_nats = [name for name in stripes if nats[name] < nats[photo_name]]
against_nats = [name for name in fewer_nats if name in above]
fewest_share = information[photo_name] == min(information.values())

# %%
photo_gain = spans(gains[photo_name]) + says(gains[photo_name], ", eight steps are worse than one",
                                             ", eight steps are better than one",
                                             ", not told apart from no gain")
display(Markdown(
    "\n- *The share.* "
    + f"The photos {'have' if fewest_share else 'do not have'} the smallest. "
    + f"The gain is larger on {len(above)} of {len(stripes)} dials, with intervals apart; "
    f"on photos it is {photo_gain}.\n"
    f"- *Among the stripes* the intervals of the gain lie apart for {len(told_apart)} of "
    f"{len(two)} pairs of dials"
    + (".\n" if len(told_apart) == len(two) else ": the share does not order the others.\n")
    + f"- *In nats* the photos have {nats[photo_name]:.2f}. "
    + (f"{len(fewer_nats)} of {len(stripes)} dials have less" if fewer_nats
       else "Every dial has more")
    + (f", and of these {len(against_nats)} a larger gain than the photos: "
       "nats do not order photos and stripes.\n" if against_nats else ".\n")
    + f"- {len(elsewhere) or 'No'} further points from `figures/10_elsewhere.json`"
    + (", which says how their weights were trained.\n" if elsewhere else " yet.\n")
    + "\nSo the share " + ("tells the photos from the stripes here."
                           if fewest_share and above == stripes
                           else "does not tell the photos from the stripes here.")))

# %% [markdown]
# This is an observation on one set of photos and one kind of made picture, not a law. To see where another model lies, give its
# folder of weights to `python -m tests.elsewhere FOLDER`; the authors' weights become such a folder by
# `itersr.published.load("folder with the .pth files").save("published")`.
#
# ### Do own samples in training take the gain away?
#
# `TrainConfig.corrupt` shows φ_r its own samples in half of the training pictures ([notebook 04](04_refiner.ipynb), section
# 8d). Beside them the best answer ignores the neighbours, so this training itself could lower what steps bring. The test: φ_r
# of `stripes` trained on from the weights that ship, with and without own samples, all else equal. `python -m
# tests.own_samples` made `figures/10_own_samples.json`, which says for how many steps. Two limits: both runs start from weights
# that have already learned with own samples, and the test is on stripes, not on photos. So it cannot say why steps bring little
# on photos.

# %%
file = ROOT / "figures" / "10_own_samples.json"
own_samples = json.loads(file.read_text(encoding="utf-8"))
arms = {name: pd.DataFrame(arm["rows"]) for name, arm in own_samples["arms"].items()}
without, with_own = arms


def of_arm(name, T, temperature=None):
    """An arm's rows at T steps; without a temperature, at its best one."""
    rows = arms[name][arms[name].method == f"T = {T}"]
    at_one = rows[rows.dial == temperature]
    return experiments.at_its_best(rows, "lpips") if temperature is None else at_one


def between_arms(T, temperature=None):
    """Without − with own samples, in LPIPS."""
    both = (of_arm(name, T, temperature) for name in (without, with_own))
    return experiments.difference(*both, "lpips")


# %%
def cells_of(T, temperature=None):
    """A table's row: LPIPS of both arms, and their difference."""
    means = {name: f"{of_arm(name, T, temperature).lpips.mean():.3f}" for name in arms}
    return {**means, "difference": ledger.show(between_arms(T, temperature))}


pd.DataFrame({(f"T = {T}", "temperature 1" if x else "each at its best"): cells_of(T, x)
              for x in (1.0, None) for T in (1, 8, 16)}).T

# %%
arm_gains = {name: experiments.difference(of_arm(name, 8), of_arm(name, 1), "lpips")
             for name in arms}
worth = {name: arm["loss"]["0.0"] - arm["loss"]["0.75"]
         for name, arm in own_samples["arms"].items()}
hot, best_gap = between_arms(8, 1.0), between_arms(8)
display(Markdown(
    f"Trained on for {own_samples['steps']} steps, without own samples true neighbours take "
    f"{worth[without]:.2f} nats off φ_r's loss, with them {worth[with_own]:.2f}. Without them "
    f"LPIPS at T = 8 is {says(hot, 'better', 'worse')} at temperature 1 ({ledger.show(hot)}) and "
    f"{says(best_gap, 'better', 'worse')} with each at its best ({ledger.show(best_gap)}). "
    f"What eight steps change at the best temperatures: {ledger.show(arm_gains[without])} without, "
    f"{ledger.show(arm_gains[with_own])} with own samples: "
    + ("these lie apart." if apart(*arm_gains.values()) else
       "these intervals overlap, so own samples in training are not what keeps the gain small.")))

# %% [markdown]
# ## 7. Who should judge?
#
# So far the masks were random. Is there a critic that does better? The candidates:
#
# - `random`: no critic. The control.
# - `evaluator`: φ_e, which was trained on "does the token equal S_h?". Notebook 05 showed that this asks for confidence, not
#   for agreement.
# - `topk`, `confidence_sampled`: φ_r's own confidence, greedy or drawn (MaskGIT).
# - `φ_e, label equal` and `label original`: φ_e trained nine minutes longer (of wall-clock time: a faster machine does more
#   steps), on maps that the final φ_r drew, with Eq. 5's label or with Token-Critic's (Lezama et al. 2022: was this token
#   given, or drawn?). See `itersr.lab.critics`. Not at `smoke`.
# - `asked again`: colour the token map like a chessboard. Mask the white tokens and ask φ_r how likely each is, given the black
#   ones; then swap the colours. A token's score is this log-probability (`experiments.asked_again`). So it asks whether tokens
#   fit each other, for two more calls of φ_r in every step but the last.
# - `oracle`: a judge that knows S_h, as the bound.
#
# Where it makes sense, each is run with kept tokens for good and with **re-masking** (kept tokens compete again). (φ_r's
# confidence says nothing of a token that φ_r was shown; the oracle keeps what is right.) With T = 16 only some of them run.
#
# Two settings change with every critic and must not be confused with it. *Temperature*: a mask of likely tokens acts like a
# lower temperature (arXiv 2510.04525 finds that in MaskGIT). So every critic is compared at temperature 1 *and* at its own best
# one. The best is chosen by leave-one-out: for each picture, the temperature with the best mean LPIPS on all *other* pictures,
# so that no picture chooses its own. At temperature 0, φ_r takes its likeliest token; steps can still matter then, because the
# likeliest token changes when neighbours become known. *Calls of φ_r*: `asked again` needs 46 of them at T = 16. So random
# masks also run with T = 48 (48 calls), at temperatures up to .5.

# %%
temperatures = (1.0,) if LIVE else (0.0, 0.1, 0.3, 0.5, 0.7, 1.0)
contest = world_pairs[dials[0]]  # where neighbours tell most
options = {"store": store, "names": [look, "psnr"]}
parts = [experiments.critics(model, contest, seeds, temperatures, **options)]
if not LIVE:
    some = ["random, re-masking", "evaluator, re-masking", "asked again, re-masking",
            "asked again, greedy, re-masking", "oracle"]
    parts.append(experiments.critics(model, contest, seeds, temperatures, steps=16, only=some,
                                     **options))
    parts.append(experiments.critics(model, contest, seeds, temperatures[:4], steps=48,
                                     only=some[:1], **options))


# %%
def trained_further(label):
    """Rows of φ_e trained further by a label, with all else as it is."""
    folder = run.checkpoints / "critics" / label
    critics.train_critic(label, folder, data=pictures(800), minutes=9, device=str(run.device))
    other = ITER.from_pretrained("stripes", str(run.device))
    weights.load(other.evaluator, folder / "weights" / "evaluator.safetensors")
    judges = ["evaluator, re-masking", "evaluator, greedy, re-masking"]
    judged = experiments.critics(other, contest, seeds, temperatures, only=judges, **options)
    return judged.assign(method=judged.method.str.replace("evaluator", f"φ_e, label {label}"))


rows = pd.concat(parts if LIVE else [*parts, *map(trained_further, ("equal", "original"))])
names = list(rows.method.unique())


# %%
def T_of(name):
    """The number of steps in a method's name."""
    return int(name.rpartition(", T = ")[2])


def control_of(name):
    """Random masks of the same T, with re-masking where the critic has it."""
    return f"random, {'re-masking, ' if 're-masking' in name else ''}T = {T_of(name)}"


def calls_of(name):
    """How often one restoration calls φ_r and φ_e; the last step keeps all and asks no judge."""
    judged = T_of(name) - 1
    return (T_of(name) + (2 * judged if name.startswith("asked") else 0),
            judged if name.startswith(("evaluator", "φ_e")) else 0)


# %%
def at_best(rows):
    """{critic: its rows at its own best temperature}."""
    return {name: experiments.at_its_best(rows[rows.method == name], look)
            for name in rows.method.unique()}


def row_at_one(name, rows=rows):
    """A critic's rows at temperature 1; none where it was not run there."""
    return rows[(rows.method == name) & (rows.dial == 1.0)]


def way_to_oracle(ours, random, oracle, value=look):
    """How far from random masks to the oracle, as a share of that way."""
    mean = {key: float(r[value].mean())
            for key, r in (("ours", ours), ("random", random), ("oracle", oracle))}
    return (mean["ours"] - mean["random"]) / (mean["oracle"] - mean["random"])


# %%
def minus_random(best, value=look):
    """{critic: its difference from its control, both at their best temperatures}."""
    return {name: experiments.difference(found, best[control_of(name)], value)
            for name, found in best.items() if control_of(name) in set(best) - {name}}


# %%
def table_of(rows, best):
    """Per critic: its calls, its values, and its difference from random masks."""
    lines, differences = {}, minus_random(best)
    for name, found in best.items():
        at_one = row_at_one(name, rows)
        line = dict(zip(("calls of φ_r", "of φ_e"), calls_of(name)))
        line[f"{LOOK} at 1"] = f"{at_one[look].mean():.3f}" if len(at_one) else "–"
        line["at its best"] = f"{found[look].mean():.3f}"
        line["temperature"] = ", ".join(f"{t:g}" for t in sorted(found.dial.unique()))
        if "coherence" in found:
            line["coherence"] = f"{found.coherence.mean():.3f}"
        line |= {"− random": "–", "of the way to the oracle": "–"}
        if name in differences:
            random, bound = best[control_of(name)], best[f"oracle, T = {T_of(name)}"]
            line["− random"] = ledger.show(differences[name])
            line["of the way to the oracle"] = percent(way_to_oracle(found, random, bound))
        lines[name] = line
    return lines


best = at_best(rows)
lines = table_of(rows, best)
pd.DataFrame(lines).T


# %% [markdown]
# *Each critic at temperature 1, and at its best temperature (several, where pictures differ in the choice); then its difference
# from random masks of the same T, with re-masking where the critic has it, and the share of the way from these to the oracle: 0
# % is as good as random masks, 100 % as good as the oracle, negative is worse than random masks. Where that way is short,
# percentages become large.*

# %%
def listed(names):
    return "; ".join(name.removesuffix(", T = 8") for name in names) or "none"


def sorted_out(differences, sign):
    """The critics, but for the oracle, whose difference from random masks has a sign."""
    return listed(name for name, found in differences.items()
                  if ledger.sign(found) == sign and not name.startswith("oracle"))


def against_random(best):
    """Sentences: which critics are better than random masks, which worse, which neither."""
    found = minus_random(best)
    return (f"- {LOOK}, better than random masks: {sorted_out(found, -1)}.\n"
            f"- Not told apart from them: {sorted_out(found, 0)}.\n"
            f"- Worse: {sorted_out(found, 1)}.\n")


def extent(found):
    """The least and the largest of some numbers."""
    return f"{min(found):.3f} to {max(found):.3f}"


# %%
at_8 = [name for name in names if T_of(name) == 8 and not name.startswith("oracle")]
in_coherence = minus_random(best, "coherence")
display(Markdown(
    "\nAll at their best temperatures; T = 8 where no other T is named.\n\n"
    f"{against_random(best)}"
    f"- *Temperature.* Without the oracle, {LOOK} at T = 8 runs from "
    f"{extent([row_at_one(name)[look].mean() for name in at_8])} at temperature 1, and from "
    f"{extent([best[name][look].mean() for name in at_8])} at the best temperatures.\n"
    f"- *Coherence* at T = 8 runs from {extent([best[name].coherence.mean() for name in at_8])}; "
    f"higher than with random masks: {sorted_out(in_coherence, 1)}; "
    f"lower: {sorted_out(in_coherence, -1)}. The oracle has "
    f"{best['oracle, T = 8'].coherence.mean():.3f}, "
    f"{ledger.show(in_coherence['oracle, T = 8'])} against random masks.\n"))

# %%
if not LIVE:
    asked, dice = (best[f"{name}, re-masking, T = {T}"]
                   for name, T in (("asked again", 16), ("random", 48)))
    equal_calls = {value: experiments.difference(asked, dice, value) for value in values}
    display(Markdown(
        f"*About equal calls of φ_r.* Asked again, re-masking, T = 16 (calls: "
        f"{calls_of('asked again, T = 16')[0]}), minus random masks, re-masking, T = 48 (calls: "
        f"{calls_of('random, T = 48')[0]}): {LOOK} {ledger.show(equal_calls[look])} "
        f"({says(equal_calls[look], 'better', 'worse')}), "
        f"coherence {ledger.show(equal_calls['coherence'])} "
        f"({says(equal_calls['coherence'], 'lower', 'higher')})."))

# %%
thick = {"random": "black", "evaluator": "C1", "topk": "C3", "asked again, re-masking": "C2",
         "φ_e, label original, re-masking": "C4", "oracle": "C0"}
fig, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
for axis, value in zip(axes, values):
    for name in (name for name in names if T_of(name) == 8):
        critic = name.rpartition(",")[0]
        if value == "coherence" and critic == "oracle":
            continue
        table = experiments.summary(rows[rows.method == name], [value], by=["dial"])
        axis.plot(table.dial, table["mean"], "o-", ms=3, lw=2 if critic in thick else 0.7,
                  color=thick.get(critic, "0.75"), zorder=2 + (critic in thick),
                  label=critic if critic in thick else None)
    axis.set(xlabel="temperature", ylabel=label[value])
fig.legend(*axes[0].get_legend_handles_labels(), fontsize=7, loc="outside right center")
path = run.save_figure(fig, "critics")

# %% [markdown]
# *What to see: T = 8; each point is a mean over pictures and seeds. Six critics in colour, the others grey. The oracle's
# coherence is left out of the right panel; the list above has it. Compare curves at their lowest points (left) or highest
# points (right), and not at one temperature only. No intervals are drawn here: the list above has those of the differences.*
#
# ### The same on photos
#
# The photos and networks are those of section 4. The temperatures end at 1: where the best one is 1, the true best may lie
# above it, and "worse" then means worse at temperatures up to 1.

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
    photo_best = at_best(photo_rows)
    on_photos = table_of(photo_rows, photo_best)
    at_the_end = [name for name, found in photo_best.items() if 1.0 in set(found.dial)]
    display(pd.DataFrame(on_photos).T)
    display(Markdown(
        f"\n{against_random(photo_best)}- The best temperature is the highest tried for: "
        f"{listed(at_the_end)}. Above it these may do better.\n"
        + ("- Probably critics that keep likely tokens, or tokens that fit each other, take "
           "texture away on photos, and LPIPS punishes that.\n"
           if sorted_out(minus_random(photo_best), 1) != "none" else "")))


# %% [markdown]
# ## 8. The best sampler found, against one step
#
# Method and temperature together are chosen for each picture on all the others, from every row of section 7 but the oracle's.
# Among nearly equal settings this choice is pessimistic: a picture tends to get the setting that is worse for it, so the
# mixture can be worse than each setting in it. Read it beside the table of section 7. It is compared with the same networks
# used once: S_l (E_l's argmax), one sample of E_l, one sample of φ_r (T = 1), each at its best temperature; and with random
# masks at their best setting. Section 7 compared a critic with random masks of the same T. Here random masks may choose their
# own T, up to 48, which costs about as many calls of φ_r as `asked again` at T = 16. So this asks: is a critic better than the
# same calls spent on more steps?

# %%
def one_step(net, temperatures):
    """One sample of φ_r, at several temperatures."""
    return [Method("one sample of φ_r", dial=x,
                   sampler=net.sampler(steps=1, adaptive=False, policy="random", temperature=x))
            for x in temperatures]


def chosen(names):
    """Rows of the best setting: method and temperature, chosen for each picture on the others."""
    own = rows[rows.method.isin(names)]
    setting = own.method + ", temperature " + own.dial.map("{:g}".format)
    return experiments.at_its_best(own.assign(setting=setting), look, over="setting")


once = experiments.sweep(model, [*one_step(model, temperatures),
                                 *experiments.baselines(temperatures)], contest, seeds, **options)
ours = chosen([name for name in names if not name.startswith("oracle")])
random_best, oracle_best = (chosen([name for name in names if name.startswith(kind)])
                            for kind in ("random", "oracle"))
how_often = ours.groupby("setting").photo.nunique().sort_values(ascending=False)
champion = how_often.index[0]

# %%
rivals = {
    "S_l": once[once.method == "S_l"],
    "one sample of E_l": experiments.at_its_best(once[once.method == "one sample of E_l"], look),
    "one sample of φ_r": experiments.at_its_best(once[once.method == "one sample of φ_r"], look),
    "random masks": random_best,
}
against = {f"{label[value]}, best − {name}": experiments.difference(ours, theirs, value)
           for value in values for name, theirs in rivals.items()}
uses = {True: "It asks φ_r again and uses no φ_e, so it is not Algorithm 2; with φ_e: section 10.",
        False: "Rows with φ_e in its best form: section 10."}[champion.startswith("asked")]
settings = "; ".join(f"{name} (for {n} of {len(contest)})" for name, n in how_often.items())
display(Markdown(f"Best setting: {settings}. {uses} {LOOK} {ours[look].mean():.3f}."))
pd.Series({name: ledger.show(found) for name, found in against.items()}).to_frame("mean [95 %]")

# %%
E_l_at = set(rivals["one sample of E_l"].dial)
whole_gain = against["coherence, best − one sample of φ_r"]
display(Markdown(
    ("E_l's best temperature is 0, where its sample is S_l: these two rows are the same. "
     if E_l_at == {0.0} else "")
    + f"In {LOOK} the best setting is "
    + says(against[f"{LOOK}, best − one sample of φ_r"], "better than",
           "worse than", "not told apart from") + " one sample of φ_r; in coherence it is "
    + says(whole_gain, "worse", "better", "not told apart from it") + ". "
    + f"Its coherence is {ours.coherence.mean():.2f}, that of one sample of φ_r "
    f"{rivals['one sample of φ_r'].coherence.mean():.2f}, that of the oracle "
    f"{oracle_best.coherence.mean():.2f}."))


# %% [markdown]
# ### The gain of eight steps once more
#
# Section 6 measured it at temperature 1. Here also with the best temperature for one step and for eight, random masks both.

# %%
def gain(one, eight):
    """The share of one step's value that eight steps take away."""
    return experiments.gain_of_steps(pd.concat([one.assign(dial=1), eight.assign(dial=8)]), look)


def both_gains(one, eight):
    """The gain at temperature 1, and with the best temperature for each."""
    chosen_each = [experiments.at_its_best(own, look) for own in (one, eight)]
    return {"at temperature 1": gain(one[one.dial == 1], eight[eight.dial == 1]),
            "each at its best temperature": gain(*chosen_each)}


two_gains = {lowest: both_gains(once[once.method == "one sample of φ_r"],
                                rows[rows.method == "random, T = 8"])}
if not LIVE:
    photo_once = experiments.sweep(photo_model, one_step(photo_model, photo_temperatures),
                                   photo_pairs, seeds, **options)
    two_gains[photo_name] = both_gains(photo_once,
                                       photo_rows[photo_rows.method == "random, T = 8"])
pd.DataFrame({name: {which: spans(found) for which, found in both.items()}
              for name, both in two_gains.items()}).T

# %% [markdown]
# *On stripes over all pictures of section 7, so the first number may differ a little from section 6. A gain below zero: eight
# steps are worse.*
#
# ## 9. The threshold α
#
# Fig. 7 of the paper in this world: α = 0 takes S_l as it is, α = 1 starts from nothing known. This is Algorithm 2 with φ_e's
# masks, T = 8, kept tokens for good, and the temperature of the tier's definition, which is lower than the 1 of sections 5 and
# 6.

# %%
alphas = (0.0, 0.25, 0.75, 1.0) if LIVE else (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)
by_alpha = experiments.alpha_curve(model, contest, seeds, {a: a for a in alphas},
                                   shift=model.calibration, **options)
fig, axes = plt.subplots(1, 3, figsize=(8, 2.6), layout="constrained")
for axis, value in zip(axes, (look, "coherence", "T_s")):
    table = experiments.summary(by_alpha, [value], by=["dial"])
    axis.plot(table.dial, table["mean"], "o-", ms=3, color="black")
    axis.fill_between(table.dial, table.low, table.high, color="black", alpha=0.15, lw=0)
    axis.set(xlabel="α", title=label[value])
path = run.save_figure(fig, "alpha")

# %% [markdown]
# *What to see. Left: LPIPS, less is better. Middle: coherence, more is better. Right: mean T_s, the step at which Algorithm 2
# begins (T = 8). Bands are 95 % intervals over pictures and seeds; they overlap, so read the paired differences below.*

# %%
of_alpha = {a: by_alpha[by_alpha.dial == a] for a in alphas}
inner = experiments.at_its_best(by_alpha[by_alpha.dial.between(0, 1, inclusive="neither")], look)
half = min((a for a in alphas if 0 < a < 1), key=lambda a: abs(a - 0.5))  # the paper's α
from_alpha = {
    "T_s, corrected, α = .75 − α = .25": experiments.difference(
        of_alpha[0.75], of_alpha[0.25], "T_s"),
    "PSNR, α = 1 − α = 0": experiments.difference(of_alpha[1.0], of_alpha[0.0], "psnr"),
    f"{LOOK}, best α inside − α = 0": experiments.difference(inner, of_alpha[0.0], look),
    f"{LOOK}, best α inside − α = 1": experiments.difference(inner, of_alpha[1.0], look),
    "steps, adaptive − full start": experiments.difference(of_alpha[half], of_alpha[1.0], "run"),
    f"{LOOK}, adaptive − full start": experiments.difference(of_alpha[half], of_alpha[1.0], look),
}
best_alpha = float(by_alpha.groupby("dial")[look].mean().idxmin())  # less is better
ends = {a: from_alpha[f"{LOOK}, best α inside − α = {a}"] for a in (0, 1)}
inside = "; ".join(f"minus α = {a}: {ledger.show(found)} ({says(found, 'better', 'worse')})"
                   for a, found in ends.items())
display(Markdown(
    f"The lowest mean of {LOOK} is at α = {best_alpha:g}, picked on these very pictures. The best "
    f"α inside, chosen for each picture on the others, {inside}. "
    f"The adaptive start at α = {half:g} changes the number of steps by "
    f"{ledger.show(from_alpha['steps, adaptive − full start'])} and {LOOK} by "
    f"{ledger.show(from_alpha[f'{LOOK}, adaptive − full start'])}."))

# %% [markdown]
# ## 10. The paper's claims in this world
#
# README's table of claims has a column for the stripes. Its evidence has the same names as on photos. Comparisons of masks and
# policies are at T = 8 and temperature 1, from nothing known; rows with α are those of section 9, at its temperature. The
# words:
#
# - *Nearness*: how far newly kept tokens lie from those kept before, over the same for tokens chosen at random. 1 is random;
#   less means that a mask grows from what it has.
# - *T_s, corrected*: α is compared with φ_e's probability after the shift of its logit ([08](08_alpha_curves.ipynb)).
# - *Best α inside*: of the α between 0 and 1, the one with the least LPIPS on the other pictures.
# - *Adaptive − full start*: α = .5 (at `smoke` the nearest one), less α = 1.
# - *Most steps*: the largest T of section 5.
# - *ITER*: Algorithm 2 with φ_e, T = 8, from nothing known, in its best form and at its best temperature, both chosen for each
#   picture on the others.

# %%
with_phi_e = chosen([name for name in at_8 if name.startswith("evaluator")])
of_T = {T: curves[lowest][curves[lowest].dial == T] for T in counts}
near = {}
for short, name in (("top-k", "topk"), ("the evaluator", "evaluator"), ("random masks", "random")):
    of_steps = experiments.steps_of(row_at_one(f"{name}, T = 8"))
    near[short] = of_steps.groupby(["method", "photo", "seed"], as_index=False)["nearness"].mean()


def at_8_steps(a, b, rows_of=row_at_one):
    """The difference of two critics at T = 8; rows_of: at temperature 1, or another choice."""
    return experiments.difference(rows_of(f"{a}, T = 8"), rows_of(f"{b}, T = 8"), look)


# %%
evidence = {
    **{f"nearness of {short}": experiments.interval(own, "nearness")
       for short, own in near.items()},
    "nearness, top-k − evaluator": experiments.difference(
        near["top-k"], near["the evaluator"], "nearness"),
    f"{LOOK}, evaluator − top-k": at_8_steps("evaluator", "topk"),
    f"{LOOK}, evaluator − random": at_8_steps("evaluator", "random"),
    f"{LOOK}, evaluator − random, each at its best temperature": at_8_steps(
        "evaluator", "random", best.get),
    f"{LOOK}, oracle − evaluator": at_8_steps("oracle", "evaluator"),
    **from_alpha,
    f"{LOOK}, T = 8 − most steps": experiments.difference(of_T[8], of_T[max(counts)], look),
    f"{LOOK}, T = 1 − most steps": experiments.difference(of_T[1], of_T[max(counts)], look),
    **{f"{LOOK}, ITER − {name}": experiments.difference(with_phi_e, rivals[name], look)
       for name in ("S_l", "one sample of E_l", "one sample of φ_r")},
}
pd.Series({name: ledger.show(found) for name, found in evidence.items()}).to_frame("mean [95 %]")

# %%
psnr = evidence["PSNR, α = 1 − α = 0"]
at_one = evidence[f"{LOOK}, evaluator − random"]
at_its_best = evidence[f"{LOOK}, evaluator − random, each at its best temperature"]
display(Markdown(
    "\n- *PSNR* from α = 0 to α = 1: " + ledger.show(psnr) + " dB. "
    + says(psnr, "It falls, as in Fig. 7 of the paper.",
           "It rises, against Fig. 7 of the paper, where it falls ([08](08_alpha_curves.ipynb) "
           "has it for photos). The reason was not looked for.", "Neither rise nor fall is shown.")
    + "\n- *φ_e's masks* are " + says(at_one, "better than", "worse than", "not told apart from")
    + " random ones at temperature 1, and " + says(at_its_best, "better", "worse", "not told apart")
    + " where each has its best temperature.\n"))

# %% [markdown]
# ## What was learned

# %%
least, most = min(information, key=information.get), max(information, key=information.get)
step_gain = experiments.difference(best["random, T = 8"], rivals["one sample of φ_r"], look)
critic_gain = experiments.difference(ours, random_best, look)
critic_way = way_to_oracle(ours, random_best, oracle_best)
learned = [
    f"Neighbour information runs from {percent(information[least])} ({least}) to "
    f"{percent(information[most])} ({most}). The gain of eight steps there, at temperature 1: "
    f"{spans(gains[least])} and {spans(gains[most])}.",
    *(f"{name}, each at its best temperature: a gain of "
      f"{spans(found['each at its best temperature'])}." for name, found in two_gains.items()),
    f"{lowest}, coherence: from T = 1 to T = 8 at temperature 1 {ledger.show(more_whole)} "
    f"({says(more_whole, 'falls', 'rises')}); best setting minus one sample of φ_r "
    f"{ledger.show(whole_gain)} ({says(whole_gain, 'lower', 'higher')}). The best setting has "
    f"{ours.coherence.mean():.2f}, the oracle {oracle_best.coherence.mean():.2f}.",
    f"Own samples in φ_r's training, without minus with, T = 8: {ledger.show(hot)} at temperature 1 "
    f"({says(hot, 'better', 'worse')}), {ledger.show(best_gap)} with each at its best "
    f"({says(best_gap, 'better', 'worse')}).",
    "The critic of the paper: φ_e's masks minus random ones at T = 8, each at its best "
    f"temperature: {ledger.show(at_its_best)} ({says(at_its_best, 'better', 'worse')}).",
    f"The best setting (most often {champion}) minus random masks at their best setting: "
    f"{ledger.show(critic_gain)} ({says(critic_gain, 'better', 'worse')}), "
    f"{percent(critic_way)} of the way to the oracle.",
    f"The best α inside, minus α = 1: {ledger.show(ends[1])} "
    f"({says(ends[1], 'better', 'worse')}).",
    f"{'φ_r trained here for a few hundred steps' if LIVE else 'Shipped weights'}, "
    f"{few} pictures a dial, {len(seeds)} seed(s).",
]
display(Markdown("\n" + "".join(f"- {line}\n" for line in learned)))


# %% [markdown]
# - With an exact φ_r, steps win only what tokens know of each other. Measure that first.
# - LPIPS and coherence are two questions: better for LPIPS is not yet whole.
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
# <details><summary>2. Why does one step make a whole stripe only by chance, where its phase is open?</summary>
#
# Each token draws its phase for itself, without the others.
#
# </details>
#
# <details><summary>3. Once the temperature is free, why would φ_e's masks gain little over random ones?</summary>
#
# Probably because φ_e asks for likely tokens, and a lower temperature does so too. That is suggested here, not shown.
#
# </details>
#
# <details><summary>4. What does "asked again" ask, and what does it cost?</summary>
#
# Whether each token fits the other colour of a chequerboard, by φ_r itself: two more calls of φ_r in every step but the last.
#
# </details>
#
# <details><summary>5. Why can the loss with one's own draws known be higher than with nothing known?</summary>
#
# The draws are one possible picture and S_h is another. φ_r rightly follows what it is shown.
#
# </details>
#
# ## Exercises
#
# **1. A stripe with K phases.** A stripe of n tokens has K equally likely phases, and all tokens agree. How many nats do the
# tokens hold about each other (the entropy of the product less the entropy of the world)?

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
# **2. Nats or share.** From φ_r's loss by share known, as section 4 has it in `told[name][False]` (`False`: true tokens known;
# `True`: φ_r's own draws): how many nats a token go away when ¾ are known, and which share of the loss with nothing known is
# that?

# %% tags=["exercise"]
def neighbours_tell(loss: dict[float, float]) -> tuple[float, float]:
    """(nats, share) that go away; loss: {0.0: with nothing known, …, 0.75: with ¾ known}."""
    raise NotImplementedError


# %% jupyter={"source_hidden": true} tags=["solution"]
def neighbours_tell(loss: dict[float, float]) -> tuple[float, float]:
    """(nats, share) that go away; loss: {0.0: with nothing known, …, 0.75: with ¾ known}."""
    less = loss[0.0] - loss[0.75]
    return less, less / loss[0.0]


# %% tags=["check"]
assert neighbours_tell({0.0: 2.0, 0.75: 2.0}) == (0, 0), "neighbours tell nothing there"
assert math.isclose(neighbours_tell(told[lowest][False])[1], information[lowest])
many, few_left = neighbours_tell({0.0: 4.0, 0.75: 3.0}), neighbours_tell({0.0: 0.5, 0.75: 0.1})
assert many[0] > few_left[0] and many[1] < few_left[1], "the two need not order places alike"

# %% [markdown]
# **Next:** your own data. Train on it (`itersr train all`) and measure the gain of the steps there (`python -m tests.elsewhere
# FOLDER`); the neighbour information in the model card is only a hint.

# %%
path = run.record(
    measured=f"neighbour information {percent(information[least])} to "
             f"{percent(information[most])}, gain of eight steps "
             f"{percent(gains[least]['mean'])} to {percent(gains[most]['mean'])}",
    evidence=evidence,
    against={f"{LOOK}, random masks at T = 8 − one sample of φ_r": step_gain, **against},
    information=information, nats=nats, gains=gains, **{"gains at both temperatures": two_gains},
    losses={name: {"true": found[False], "own": found[True]} for name, found in told.items()},
    critics=lines, **{"critics on photos": on_photos}, champion=champion,
    way_to_oracle=critic_way, best_alpha=best_alpha,
    own_samples={"at temperature 1": hot, "each at its best": best_gap, "gains": arm_gains},
    weights=experiments.fingerprint(model), photos=few, seeds=len(seeds), side=side,
    by_T=[{"place": name, **row} for name, found in curves.items()
          for row in experiments.summary(found, [v for v in values if v in found],
                                         by=["dial"]).to_dict("records")],
    by_temperature=experiments.summary(rows, values, by=["method", "dial"]).to_dict("records"),
    by_alpha=experiments.summary(by_alpha, [look, "coherence", "T_s"],
                                 by=["dial"]).to_dict("records"),
)
