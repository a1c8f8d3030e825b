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
# # 09 · Benchmark
#
# **What you build.** The measuring bench itself: intervals by bootstrap, a check that the metrics measure what the paper
# measured, then Table 1 (real photos), the pictures of Figs. 1, 4 and 6, and the ledger: every claim of the paper with a
# verdict that intervals decide.
#
# **Why.** A table without intervals invites a story; a metric of the same name may be another metric. Both are settled before
# any number of ours stands beside one of the paper's.
#
# **What you need.** Algorithm 2 ([06](06_adaptive_inference.ipynb)), paired differences ([07](07_topk_vs_evaluator.ipynb)), α
# ([08](08_alpha_curves.ipynb)). Symbols: [one table](symbols.md). **Time.** At `smoke` about a minute on two CPU cores without
# the real photos, which do not ship (see below), two with them.

# %% tags=["parameters"]
tier = "tiny"
seed = 0
device = "auto"
data = None
out = None

# %%
from itersr.lab.reproduce import Run

run = Run.start("09", tier=tier, seed=seed, device=device, data=data, out=out)

# %%
import json
import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from IPython.display import Markdown, display

from itersr.lab import experiments, ledger, metrics
from itersr.lab.experiments import Method, apply
from itersr.lab.reproduce import ROOT

# %% [markdown]
# ## What is measured, exactly
#
# Numbers of one name differ between papers by colour conversion, border crop and network. These are the conventions here:

# %% tags=["nbval-check-output"]
for name in ("psnr", "ssim", "gmsd", "niqe", "pi"):
    print(f"{name:5} {'less' if metrics.find(name).lower_better else 'more'} is better: "
          f"{metrics.describe(name)}")


# %% [markdown]
# ## Bicubic, by hand
#
# The baseline of every table, and not one thing either: Pillow's differs from OpenCV's. OpenCV's kernel is the cubic
# convolution with a = −0.75, on half-pixel centres, without a filter. In one dimension:

# %% tags=["nbval-check-output"]
def cubic(x, a=-0.75):
    x = abs(x)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def enlarge_by_hand(row, scale):
    n = len(row)
    result = []
    for i in range(n * scale):
        centre = (i + 0.5) / scale - 0.5
        left = math.floor(centre)
        result.append(sum(cubic(centre - j) * row[min(max(j, 0), n - 1)]
                          for j in range(left - 1, left + 3)))
    return np.clip(result, 0, 1)


print("weights of the four neighbours, at the four phases of a ×4 enlargement:")
for i in range(4):
    phase = (i + 0.5) / 4 - 0.5 - math.floor((i + 0.5) / 4 - 0.5)
    four = [cubic(phase - j) for j in (-1, 0, 1, 2)]
    assert math.isclose(sum(four), 1)
    print(f"phase {i}:", *(f"{weight:+.4f}" for weight in four))


row = torch.rand(12, generator=run.generator(1, "cpu"))
ours = experiments.bicubic(row.expand(1, 3, 12, 12), 4)[0, 0, 20]
assert np.allclose(enlarge_by_hand(row.tolist(), 4), ours.numpy(), atol=1e-5)


# %% [markdown]
# ## Intervals, by hand
#
# *Bootstrap*: draw as many photos as there are, with replacement, take the mean, do it often; the middle 95 % of these means is
# the interval. With several seeds, draw those too. For two methods on the same photos, bootstrap their *differences*.

# %%
def interval_by_hand(values, resamples=4000):
    rng = np.random.default_rng(run.seed)
    photos, seeds = values.shape
    means = [values[rng.integers(photos, size=photos)][:, rng.integers(seeds, size=seeds)].mean()
             for _ in range(resamples)]
    return values.mean(), *np.quantile(means, [0.025, 0.975])


made_up = (np.random.default_rng(1).normal(size=(24, 3))
           + np.random.default_rng(2).normal(size=(24, 1)))
hand = interval_by_hand(made_up)
package = metrics.mean_interval(made_up, run.generator(2, "cpu"), resamples=4000)
bounds = [package[name] for name in ("mean", "low", "high")]
assert np.allclose(hand, bounds, atol=0.06), (hand, package)

# %% [markdown]
# ## A property, before any network: how many photos make an interval?
#
# An interval that is called 95 % should hold the truth 95 times in 100. Draw photos from a known distribution and count.

# %%
counts = (2, 3, 4, 6, 8, 12, 24, 48)
rng = np.random.default_rng(run.seed)
covered = []
for n in counts:
    sets = rng.normal(size=(800, n))  # the truth is 0
    picks = rng.integers(n, size=(200, n))
    means = sets[:, picks].mean(2)  # (sets, resamples)
    low, high = np.quantile(means, [0.025, 0.975], axis=1)
    covered.append(float(((low <= 0) & (high >= 0)).mean()))
fig, ax = plt.subplots(figsize=(5, 2.8))
ax.plot(counts, covered, "o-")
ax.axhline(0.95, color="0.6", lw=1)
ax.axvline(ledger.FEWEST, color="C3", lw=1, ls=":")
ax.set_xscale("log")
ax.set_xticks(counts, [str(n) for n in counts])
ax.minorticks_off()
ax.set(xlabel="photos", ylabel="share of intervals\nthat hold the truth", ylim=(0.4, 1))
fig.tight_layout()
path = run.save_figure(fig, "coverage")
assert covered[0] < 0.6 and covered[-1] > 0.92, covered

# %% [markdown]
# *Across: the number of photos, on a logarithmic axis. Grey line: the promised 95 %. With two photos the interval lies between
# the two values, and the truth is outside half of the time. That is why the ledger gives no verdict on fewer than six photos
# (red, dotted), and why six are still few.*
#
# ## The networks

# %%
from itersr.lab.course import model_to_measure

model = model_to_measure(run.tier, run.data, run.checkpoints, seed=run.seed, device=str(run.device))
size = experiments.sizes(run.tier, run.seed)
bench = experiments.bench_folder()
pairs = experiments.make_pairs(experiments.unseen_photos(size.photos, bench),
                               model.tier, size.side, run.seed)
shift = model.calibration or experiments.calibrate(  # notebook 08
    model, experiments.held_out(run.data), side=size.side, seed=run.seed)
store = run.checkpoints / "rows.jsonl"
T = experiments.alg2(model).steps
evidence = {}
print(f"{len(pairs)} photos, crops of {size.side}², {len(size.seeds)} seed(s), T = {T}")

# %% [markdown]
# ## Does the bench agree with the paper? Table 1 on RealSRSet
#
# RealSRSet (Zhang et al. 2021) is 20 photos that are bad for real: no original, so only a metric without a reference, NIQE, can
# judge. Three rows of Table 1 can be remade without any network of ours: OpenCV's bicubic, the outputs that BSRGAN's authors
# published, and those of Real-ESRGAN with its published weights. If they agree, the bench measures what the paper measured, and
# only then a row of ours may stand beside them.
#
# The photos do not ship. `ITERSR_BENCH` names a folder with `test/realsrset` and, for other methods, `published/NAME` with
# their outputs (a folder `../shared/data` beside the repository is found without it). Any method's outputs are measured alike
# by `itersr evaluate --outputs NAME=DIR`.

# %%
real = None
if bench is None or not (bench / "test" / "realsrset").is_dir():
    print("RealSRSet is not here (set ITERSR_BENCH): Table 1 is not measured; "
          "the rest uses scikit-image's photos.")
elif not metrics.available("niqe"):
    print("NIQE's weights are not here (set TORCH_HOME): Table 1 is not measured.")
else:
    real = experiments.real_set(model, bench, experiments.alg2(model), shift=shift,
                                largest=120 if run.tier.name == "smoke" else None, store=store)
    print(real.groupby("method", sort=False).photo.count().to_string())

# %%
paper = {
    "FeMaSR": 5.18,
    "MM-RealSR": 5.25,
    "ITER": 5.29,
    "SwinIR-GAN": 5.30,
    "BSRGAN": 5.49,
    "Real-ESRGAN": 5.65,
    "LDM-BSR": 6.03,
    "Bicubic": 7.98,
}
measured = {} if real is None else {
    name: experiments.interval(real[real.method == name], "niqe") for name in real.method.unique()}
ours = {"Bicubic": measured.get("bicubic"), "ITER": measured.get("ITER")}
ours |= {name: measured.get(name.lower().replace("-", "")) for name in paper if name not in ours}
table = [
    {
        "method": name,
        "NIQE in the paper": paper[name],
        "NIQE here [95 %]": ledger.show(ours[name]) if ours[name] else "not measured here",
        "photos here": f"{ours[name]['n']}" if ours[name] else "–",
    }
    for name in paper
]
evidence |= {f"NIQE of {name} on RealSRSet": ours[name] for name in paper if ours[name]}
evidence = {name.replace("Bicubic", "bicubic"): value for name, value in evidence.items()}
pd.DataFrame(table).set_index("method")

# %% [markdown]
# The paper's numbers are those of Table 1, RealSRSet, NIQE (Chen et al. 2024), the best first. PI, the other column of that
# table, needs NRQM's weights: `itersr evaluate --download --metrics pi` fetches them. Real-ESRGAN's pictures were made with the
# weights that `python -m data_prep realesrgan` gets; FeMaSR's authors published 19 of 20.

# %%
limits = {"Bicubic": 0.03, "BSRGAN": 0.02, "Real-ESRGAN": 0.02}  # as in the ledger, claim 6
gaps = {name: abs(ours[name]["mean"] - paper[name]) for name in limits
        if ours[name] and ours[name]["n"] == 20}
if measured:
    smaller = (", the smallest ones: not comparable with its row in the paper."
               if ours["ITER"]["n"] < 20 else ".")
    display(Markdown(
        "Checked, on all 20 photos, distance from the paper in NIQE: "
        + (", ".join(f"{name} **{gap:.3f}**" for name, gap in gaps.items()) or "none")
        + ". Not checked, not measured on all 20: "
        + (", ".join(name for name in limits if name not in gaps) or "none")
        + f". ITER's row is tier `{model.tier.name}` on {ours['ITER']['n']} of the 20 photos"
        + smaller))
for name, gap in gaps.items():
    assert gap <= limits[name], f"{name}: NIQE is {gap:.3f} away from the paper's"

# %% [markdown]
# ## With and without refinement (Fig. 6), and against one plain sample
#
# S_l is E_l's *most likely* token everywhere: safe and smooth. Refinement samples, and samples have texture. But so has **one
# plain sample of E_l**, without φ_r, φ_e or any step. The paper does not show it; if ITER does not beat it, Stage III buys
# nothing. And so has **one plain sample of φ_r**, all tokens at once from nothing known (Alg. 2 with T = 1): if ITER does not
# beat that, the *steps* buy nothing. Each of the three gets its own best temperature, chosen for every photo on the other
# photos.

# %%
rows = experiments.refinement(model, pairs, size.seeds, size.temperatures, shift=shift, store=store)
names = [name for name in ("psnr", "ssim", "lpips", "gmsd", "niqe") if name in rows]
look = "lpips" if "lpips" in names else "gmsd"
LOOK = look.upper()
if look == "gmsd":
    print("LPIPS's weights are not on this machine (TORCH_HOME): GMSD stands in, "
          "and claims about LPIPS are not measured.")
of = {name: rows[rows.method == name] for name in rows.method.unique()}
best = {name: experiments.at_its_best(of[name], look)
        for name in ("ITER", "one sample of E_l", "one sample of φ_r")}
tidy = pd.concat([rows[~rows.method.isin(list(best))], *best.values()])
order = ["bicubic", "S_l", "one sample of E_l", "one sample of φ_r", "ITER", "VQGAN bound"]


def compared(tidy):
    """The summary of a set of photos, and ITER's paired differences from what it has to beat."""
    own = {name: tidy[tidy.method == name] for name in order}
    found = experiments.summary(pd.concat(own.values()), [*names, "token accuracy"])
    return found, {f"{LOOK}, ITER − {name}": experiments.difference(own["ITER"], own[name], look)
                   for name in order[:4]}


table, against = compared(tidy)
table["shown"] = [ledger.show(r) for r in table.to_dict("records")]
table.pivot(index="method", columns="value", values="shown").reindex(
    index=order, columns=[*names, "token accuracy"]).fillna("–")

# %%
by_temperature = experiments.summary(rows[rows.method.isin(list(best))], [look],
                                     by=("method", "dial"))
fig, ax = plt.subplots(figsize=(7, 3))
for (method, own), colour in zip(by_temperature.groupby("method", sort=False), ("C0", "C2", "C1")):
    ax.plot(own.dial, own["mean"], "o-", color=colour, label=method)
    ax.fill_between(own.dial, own.low, own.high, color=colour, alpha=0.15)
for name, style in (("S_l", "--"), ("VQGAN bound", ":"), ("bicubic", "-.")):
    ax.axhline(of[name][look].mean(), color="0.5", ls=style, lw=1, label=name)
ax.set(xlabel="temperature", ylabel=f"{LOOK} ↓")
ax.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
fig.tight_layout()
path = run.save_figure(fig, "temperatures")

# %% [markdown]
# *Coloured: mean and 95 % interval (band) at each temperature. Grey lines: methods without a temperature. Bands can overlap
# even where one method is better on every photo; the paired differences below decide.*

# %%
low, high = min(size.temperatures), max(size.temperatures)
edges = {low: ", the lowest that was tried", high: ", the highest that was tried"}
lines = []
for name in best:
    means = by_temperature[by_temperature.method == name].set_index("dial")["mean"]
    lines.append(f"- {name}: lowest mean {LOOK} at temperature {means.idxmin():g}"
                 + edges.get(means.idxmin(), ""))
display(Markdown("\n".join(lines) + "\n\nWhere the best is the lowest or the highest that was "
                 "tried, a temperature beyond it may be better still."))

# %%
evidence |= {
    **against,
    f"{LOOK}, ITER − one sample of φ_r, at temperature 1": experiments.difference(
        of["ITER"][of["ITER"].dial == 1],
        of["one sample of φ_r"][of["one sample of φ_r"].dial == 1], look),
    f"{LOOK}, one sample of φ_r − one sample of E_l": experiments.difference(
        best["one sample of φ_r"], best["one sample of E_l"], look),
    "token accuracy of S_l": experiments.interval(of["S_l"], "token accuracy"),
    "token accuracy of ITER": experiments.interval(best["ITER"], "token accuracy"),
    "token accuracy of one sample of E_l": experiments.interval(
        best["one sample of E_l"], "token accuracy"),
}
steps_buy = evidence[f"{LOOK}, ITER − one sample of φ_r"]
gain = {-1: "the steps help", 1: "the steps cost", 0: "no gain of the steps is found"}
steps_said = ("ITER against one sample of φ_r, each at its best temperature: "
              f"**{gain[ledger.sign(steps_buy)]}**, {ledger.show(steps_buy)} in {LOOK}.")
display(Markdown("\n".join(f"- {name}: {ledger.show(value)}" for name, value in evidence.items()
                           if name.startswith(LOOK)) + f"\n\n{steps_said}"))

# %% [markdown]
# ### What the steps buy, taken apart
#
# Alg. 2 adds three things to one sample of E_l: φ_r *proposes*, seeing what is kept; φ_e *judges*; and so neighbours are chosen
# to *go together*. Each is taken alone, at one temperature, from nothing known. (Where φ_r proposes all at once, nothing is
# kept and nobody judges.) The third is measured by **mixing**: run Alg. 2 three times and take every token from one of the runs
# at random. Each token is as likely as before to be this or that, but neighbours know nothing of each other. What mixing costs
# is what their agreement was worth.

# %%
warmth = float(by_temperature[by_temperature.method == "ITER"].set_index("dial")["mean"].idxmin())
apart = experiments.taken_apart(model, pairs, size.seeds, warmth, store=store)
part = {name: apart[apart.method == name] for name in apart.method.unique()}
gains = {name: experiments.difference(own, part["one sample of E_l"], look)
         for name, own in part.items() if name != "one sample of E_l"}
fig, ax = plt.subplots(figsize=(7, 2.6))
ledger.draw(ax, {f"{name} ({part[name]['token accuracy'].mean():.1%} right)": gap
                 for name, gap in gains.items()})
ax.set_xlabel(f"{LOOK} − that of one sample of E_l (less is better), temperature {warmth:g}")
fig.tight_layout()
path = run.save_figure(fig, "taken_apart")


# %% [markdown]
# *Dots: means; bars: 95 % intervals. Blue: better than one sample of E_l, red: worse, grey: not decided. In brackets the share
# of tokens that equal S_h's. Compare rows, not only with zero: the same judge with another proposer, the same proposer with
# another judge, and "runs mixed" with "φ_r proposes, φ_e judges". The oracle's two rows are where a perfect φ_e would end. And
# compare brackets with places: a judge that knows no more about the photo than φ_r prefers the tokens that are likely anyway.
# That is a lower temperature by another name: more tokens are right, and the picture is smoother, which past some point is
# worse in LPIPS. Only a judge that knows something new, as the oracle does, gets both.*

# %%
def tells(value):
    return {-1: "helps", 1: "costs", 0: "cannot be told from no difference"}[ledger.sign(value)]


# %%
agreement = experiments.difference(part["φ_r proposes, φ_e judges"],
                                   part["φ_r proposes, φ_e judges, runs mixed"], look)
proposing = experiments.difference(part["φ_r proposes, φ_e judges"],
                                   part["E_l proposes, φ_e judges"], look)
judging = experiments.difference(part["φ_r proposes, φ_e judges"],
                                 part["φ_r proposes, dice judge"], look)
evidence |= {
    f"{LOOK}, ITER from nothing known − one sample of E_l": experiments.difference(
        part["φ_r proposes, φ_e judges"], best["one sample of E_l"], look),
    f"{LOOK}, one run − runs mixed": agreement,
    f"{LOOK}, φ_r proposes − E_l proposes": proposing,
    f"{LOOK}, φ_e judges − dice judge": judging,
    f"{LOOK}, oracle on E_l's proposals − one sample of E_l":
        gains["E_l proposes, an oracle judges"],
    f"{LOOK}, oracle on φ_r's proposals − one sample of φ_r": experiments.difference(
        part["φ_r proposes, an oracle judges"], part["φ_r proposes all at once"], look),
}
display(Markdown(
    "\n"
    f"- φ_r proposes, and not E_l: {tells(proposing)}, {ledger.show(proposing)}.\n"
    f"- φ_e judges, and not dice: {tells(judging)}, {ledger.show(judging)}.\n"
    "- Neighbours go together, and are not mixed: "
    f"{tells(agreement)}, {ledger.show(agreement)}.\n"
    "- Alg. 2 from nothing known at this temperature, against one sample of E_l at its best: "
    f"{ledger.show(evidence[f'{LOOK}, ITER from nothing known − one sample of E_l'])}\n"
    "  (with the adaptive start, above: "
    f"{ledger.show(evidence[f'{LOOK}, ITER − one sample of E_l'])}).\n"
))

# %% [markdown]
# The same comparison on Kodak24 alone, the set that others report; the model card of the weights takes its numbers from here.

# %%
kodak = tidy[tidy.photo.str.startswith("kodak")]
sets = {}
if kodak.photo.nunique() >= ledger.FEWEST:
    found, gaps = compared(kodak)
    sets["Kodak24"] = {"photos": int(kodak.photo.nunique()), "summary": found.to_dict("records"),
                       "differences": gaps}
    print(f"{kodak.photo.nunique()} photos; "
          + "; ".join(f"{what} {ledger.show(gap)}" for what, gap in gaps.items()))

# %% [markdown]
# ### Other forms, same bench
#
# Two decisions separate `tiny` from the paper. A token covers 4×4 pixels here and 8×8 there (f), where a token is more than one
# LQ pixel and its neighbours may matter more. And φ_r reads E_l's posterior and the LQ image here, E_l's argmax S_l alone
# there; in between lies the form that reads the posterior and no image. Does one of these decide what Stage III buys? Each was
# trained on the same photos and measured by this notebook: `itersr train … --tier FILE` with that one decision changed in a
# copy of `tiny`'s `config.json` (on `tiny`'s own VQGAN and E_l), then `itersr reproduce --tier FOLDER --only 09`. What those
# runs recorded is kept in `figures/results/variants`, with the commands, whose `--factor` and `--form` made that change then.
# (At f = 8, where φ_r reads the posterior alone, the crops are 128² and not 160², since a map of tokens is whole windows. These
# forms ran with α = .5. A dash: not measured then.)

# %%
kept = ROOT / "figures" / "results"
forms = {"tiny": ledger.read_results(kept)["09"]["results"]}
forms |= {path.stem: json.loads(path.read_text(encoding="utf-8"))["results"]
          for path in sorted(kept.glob("variants/*.json"))}
if sets and look == "lpips":  # this run's own; a quick look, at smoke, has too few photos
    forms[model.tier.name] = {"sets": sets, "evidence": evidence}
lines = {}
for name, result in forms.items():
    on_kodak, parts = result["sets"]["Kodak24"], result["evidence"]
    mean = {row["method"]: f"{row['mean']:.3f}" for row in on_kodak["summary"]
            if row["value"] == "lpips"}
    lines[name] = {method: mean.get(method, "–") for method in order} | {
        "ITER − one sample":
            ledger.show(on_kodak["differences"]["LPIPS, ITER − one sample of E_l"]),
        "φ_r proposes − E_l proposes": ledger.show(parts["LPIPS, φ_r proposes − E_l proposes"]),
        "one run − runs mixed": ledger.show(parts["LPIPS, one run − runs mixed"])}
pd.DataFrame(lines)

# %%
said = []
for name, result in forms.items():
    parts = result["evidence"]
    said.append(
        f"- `{name}`: iterating in place of one sample: "
        f"{tells(parts['LPIPS, ITER − one sample of E_l'])}; φ_r's proposals in place of E_l's: "
        f"{tells(parts['LPIPS, φ_r proposes − E_l proposes'])}; "
        f"ITER − S_l: {ledger.show(parts['LPIPS, ITER − S_l'])}.")
display(Markdown("\n".join(said)))

# %% [markdown]
# *Read down a column. The bound says how much of a picture the tokens can hold at all: where S_l already lies next to it, no
# sampler has much left to win. And a φ_r that sees S_l alone has to learn again what E_l knew; what the argmax threw away is
# what the posterior gives back. The Swin layers of φ_r had collapsed in `tiny-posterior-form` and in `tiny-f8`
# ([04](04_refiner.ipynb), section 8): their rows speak of E_l's posterior and one convolution. Where φ_r reads the image it is
# a copy of E_l that trained further, as a second look at the photo: what its proposals gain over E_l's is gained before any
# step, and the line above, "one sample of φ_r", is what the steps have to be compared with.*

# %% [markdown]
# ## Side by side (Fig. 4)
#
# On photos that may be shown (scikit-image's), each at the first seed. Below each picture its distance to HQ by the metric
# named (less is better).

# %%
methods = [
    Method("bicubic", "bicubic"),
    Method("S_l", "S_l"),
    Method("ITER", sampler=experiments.alg2(model, temperature=warmth), shift=shift),
    Method("VQGAN bound", "bound"),
]
shown = pairs[: min(3, len(pairs))]
fig, axes = plt.subplots(len(shown), len(methods) + 2, figsize=(8, 1.55 * len(shown)),
                         squeeze=False)
for line, pair in zip(axes, shown):
    line[0].imshow(pair.lq[0].permute(1, 2, 0).numpy(), interpolation="nearest")
    line[0].set_ylabel(pair.name, fontsize=8)
    for ax, method in zip(line[1:], methods):
        image = apply(model, method, pair, run.seed)[0]
        ax.imshow(image[0].permute(1, 2, 0).numpy())
        ax.set_xlabel(f"{LOOK} {float(metrics.score(look, image, pair.hq)):.3f}", fontsize=7)
    line[-1].imshow(pair.hq[0].permute(1, 2, 0).numpy())
for ax, title in zip(axes[0], ["LQ", *(m.name for m in methods), "HQ"]):
    ax.set_title(title, fontsize=8)
for ax in axes.flat:
    ax.set(xticks=[], yticks=[])
fig.tight_layout(pad=0.4)
path = run.save_figure(fig, "side_by_side")

# %% [markdown]
# *Look for texture (fur, foam, lattice) and for colour: a weak E_l drifts in colour, which costs decibels and not detail. The
# VQGAN bound, second from the right, is S_h decoded: what a sampler gives that has every token right.*
#
# ## The trajectory (Fig. 1)
#
# One restoration from nothing known, so that all T steps are run; at most five of them are shown. Above: the complete map after
# the step, decoded. Below: what was kept.

# %%
trace = model.restore(shown[1].lq.to(model.device),
                      experiments.alg2(model, adaptive=False, temperature=warmth), seed=run.seed)
steps = trace.restored.steps
places = sorted({round(i) for i in np.linspace(0, len(steps) - 1, min(5, len(steps)))})
fig, axes = plt.subplots(2, len(places) + 1, figsize=(8, 3.2))
axes[0, 0].imshow(trace.at(0)[0].cpu().permute(1, 2, 0).numpy())
axes[0, 0].set_title("S_l", fontsize=8)
axes[1, 0].imshow(trace.restored.condition_keep[0].cpu(), cmap="gray", vmin=0, vmax=1)
for column, i in enumerate(places, start=1):
    axes[0, column].imshow(trace.at(i + 1)[0].cpu().permute(1, 2, 0).numpy())
    axes[0, column].set_title(f"step {i + 1}, t = {steps[i].t}", fontsize=8)
    axes[1, column].imshow(steps[i].keep[0].cpu(), cmap="gray", vmin=0, vmax=1,
                           interpolation="nearest")
    axes[1, column].set_xlabel(f"{int(steps[i].keep.sum())} kept", fontsize=7)
for ax in axes.flat:
    ax.set(xticks=[], yticks=[])
fig.tight_layout(pad=0.4)
path = run.save_figure(fig, "trajectory")
assert bool(steps[-1].keep.all()) and torch.equal(trace.at(len(steps)), trace.image)

# %% [markdown]
# *White: kept. What is white stays as it is from there on; the last step keeps everything. Under S_l the mask is black: nothing
# was known.*
#
# ## The ledger
#
# Each claim names the evidence it needs and where that interval has to lie; nothing of a verdict is typed. Evidence comes from
# notebooks 07, 08, 10 (the column of stripes: made pictures in which neighbouring tokens tell much of each other) and 11, as
# this run, or else the repository, has it, and from this one. A claim whose notebook has left nothing reads *not measured*.
# What the claims ask for:

# %% tags=["nbval-check-output"]
for claim in ledger.CLAIMS:
    print(f"{claim.number:2} needs", "; ".join(map(str, claim.needs)))

# %%
own = {
    "provenance": {"tier": model.tier.name},
    "results": {"evidence": evidence, "weights": experiments.fingerprint(model),
                "photos": len(pairs), "seeds": len(size.seeds)},
}
found = ledger.claims(ledger.read_results(ROOT / "figures" / "results")
                      | ledger.read_results(run.out / "results") | {"09": own})
display(Markdown(ledger.markdown(found)))

# %% [markdown]
# ## What was learned
#
# - A bench is calibrated like any instrument: first the rows whose answer is known, then one's own.
# - An interval needs photos, not resamples: two photos give half the promised coverage.
# - Always ask what the cheapest method with the same ingredients does. Here that is one sample of E_l, and for the steps one
#   sample of φ_r.

# %%
verdicts = pd.Series([row["verdict"] for row in found]).value_counts()
display(Markdown(
    f"Weights of `{model.tier.name}`: "
    + ", ".join(f"{count} × {name}" for name, count in verdicts.items())
    + ".\n\n- ITER against one sample of E_l, each at its best temperature: "
      f"{ledger.show(evidence[f'{LOOK}, ITER − one sample of E_l'])} in {LOOK}.\n"
      f"- {steps_said}"))


# %% [markdown]
# ## Check yourself
#
# <details><summary>1. Why measure bicubic and published outputs before one's own method?</summary>
#
# If the bench gives the paper's numbers for these, it measures what the paper measured.
#
# </details>
#
# <details><summary>2. What are the two baselines without steps, and why do they matter?</summary>
#
# One sample of E_l and one sample of φ_r. If ITER does not beat them, the steps or Stage III buy nothing.
#
# </details>
#
# <details><summary>3. What does mixing three runs measure?</summary>
#
# What it is worth that neighbouring tokens were chosen to go together: each token is as likely as before, but the neighbours do
# not match.
#
# </details>
#
# <details><summary>4. Two intervals overlap. Can the difference still be decided?</summary>
#
# Yes, if it is paired: what photos differ by cancels out in the difference.
#
# </details>
#
# ## Exercises
#
# **1.** PSNR on luma, as in the convention above: Y = (65.481 R + 128.553 G + 24.966 B + 16)/255 for R, G, B in [0, 1].

# %% tags=["exercise"]
def psnr_y(image, reference):
    """PSNR in dB of the Y channels of two images (1, 3, H, W) in [0, 1]."""
    raise NotImplementedError


# %% jupyter={"source_hidden": true} tags=["solution"]
def psnr_y(image, reference):
    """PSNR in dB of the Y channels of two images (1, 3, H, W) in [0, 1]."""
    weights = torch.tensor([65.481, 128.553, 24.966], dtype=torch.float64).view(1, 3, 1, 1) / 255
    error = ((image.double() - reference.double()) * weights).sum(1)
    return float(10 * torch.log10(1 / error.square().mean()))


# %% tags=["check"]
assert abs(psnr_y(torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 4, 4))
           - 20 * math.log10(255 / 219)) < 1e-4  # black and white are 16 and 235
candidate = experiments.bicubic(shown[0].lq, model.tier.scale)
assert abs(psnr_y(candidate, shown[0].hq)
           - float(metrics.score("psnr", candidate, shown[0].hq))) < 0.01


# %% [markdown]
# **2.** Why pairs? Two methods differ by .05 on every photo, the photos by much more. Give the share of experiments in which
# the *unpaired* intervals of `a` and `b`, mean ± 1.96·standard error, do not touch, and the share in which the interval of a −
# b leaves out 0.

# %% tags=["exercise"]
def decided(a, b):
    """(unpaired, paired) share of decided experiments; a, b: (experiments, photos)."""
    raise NotImplementedError


# %% jupyter={"source_hidden": true} tags=["solution"]
def decided(a, b):
    """(unpaired, paired) share of decided experiments; a, b: (experiments, photos)."""
    half = lambda x: 1.96 * x.std(1, ddof=1) / math.sqrt(x.shape[1])
    unpaired = abs(a.mean(1) - b.mean(1)) > half(a) + half(b)
    paired = abs((a - b).mean(1)) > half(a - b)
    return float(unpaired.mean()), float(paired.mean())


# %% tags=["check"]
assert decided(np.zeros((5, 4)), np.ones((5, 4))) == (1, 1)
easy = np.random.default_rng(3).normal(size=(200, 24))
unpaired_share, paired_share = decided(
    easy, easy + 0.05 + 0.05 * np.random.default_rng(4).normal(size=(200, 24)))
assert unpaired_share < 0.05 and paired_share > 0.95


# %% [markdown]
# **3.** A verdict of one's own: a claim that a method is *as good as* another within a margin. When does the interval of their
# difference (less is better) support it, when does it refute it, and when is it open?

# %% tags=["exercise"]
def as_good_as(low, high, margin):
    ('"yes", "no" or "open" for a difference whose 95 % interval is [low, high], '
     'where less is better.')
    raise NotImplementedError


# %% jupyter={"source_hidden": true} tags=["solution"]
def as_good_as(low, high, margin):
    ('"yes", "no" or "open" for a difference whose 95 % interval is [low, high], '
     'where less is better.')
    return "yes" if high <= margin else "no" if low > margin else "open"


# %% tags=["check"]
assert as_good_as(-0.02, 0.005, 0.01) == "yes"
assert as_good_as(0.02, 0.05, 0.01) == "no"
assert as_good_as(-0.02, 0.05, 0.01) == "open"
assert as_good_as(0.0, 0.01, 0.01) == "yes"

# %% [markdown]
# **Where to go from here:** [00 · Start here](00_start_here.ipynb) with your own photos; `make reproduce TIER=small DEVICE=cuda
# DATA=photos` for networks that have trained longer; the [README](../README.md) holds the ledger of the shipped weights.

# %%
path = run.record(
    measured=f"{LOOK}: ITER {tidy[tidy.method == 'ITER'][look].mean():.3f}, "
             f"one sample {tidy[tidy.method == 'one sample of E_l'][look].mean():.3f}, "
             f"S_l {of['S_l'][look].mean():.3f}, bicubic {of['bicubic'][look].mean():.3f}",
    evidence=evidence, shift=shift, weights=experiments.fingerprint(model),
    photos=len(pairs), seeds=len(size.seeds), steps=T, side=size.side,
    coverage=dict(zip(map(str, counts), covered)),
    conventions={name: metrics.describe(name) for name in names},
    table_1=[{"method": name, "paper": paper[name], "here": ours[name]} for name in paper],
    sets=sets, tier=model.tier.name,
)
