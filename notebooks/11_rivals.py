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
# # 11 · Rivals
#
# **What you build.** The two other families that restore photos, each on one page: a GAN and continuous diffusion. Then two
# experiments on claims of the paper: that ITER is easier to train than a GAN, and that it is more efficient than continuous
# diffusion (in the introduction: it needs fewer steps).
#
# **Why.** A method is judged beside its rivals. Here all three have the same photos and degradation, the same minutes of
# training and, within a fifth, as many parameters. Not the same: how many crops they see in these minutes, and that ITER and
# the LDM begin with a VQGAN that was trained before.
#
# **What you need.** [02](02_vqgan.ipynb), [06](06_adaptive_inference.ipynb), and the paired differences of
# [07](07_topk_vs_evaluator.ipynb). Symbols: [one table](symbols.md).
#
# **Minutes.** Reading 35. With `tier = "smoke"` all three are trained here, for a minute in all. That shows how it is done and
# says nothing about which is better. As it stands the notebook shows what was measured once, see section 3.

# %% tags=["parameters"]
tier = "tiny"
seed = 0
device = "auto"
data = None
out = None

# %%
from itersr.lab.reproduce import Run

run = Run.start("11", tier=tier, seed=seed, device=device, data=data, out=out)

# %%
import json
import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from IPython.display import Image, Markdown, display
from matplotlib.ticker import LogLocator

from itersr.lab import experiments, ledger, metrics, rivals
from itersr.lab.ledger import says
from itersr.lab.reproduce import ROOT
from itersr.lab.rivals import measure
from itersr.lab.rivals.gan import RRDBNet
from itersr.lab.rivals.ldm import UNet
from itersr.model import ITER

LIVE = run.tier.name == "smoke"


def table(lines):
    """A dictionary of rows as a table."""
    return pd.DataFrame.from_dict(lines, orient="index")


# %% [markdown]
# ## 1. One pixel, two answers
#
# An LQ pixel seldom has one right answer. Let a pixel of HQ be +1 or −1, each half of the time, with the same LQ. What does
# each family answer?
#
# **A network trained for pixels** (L2) has one answer, the one with the least expected error.

# %% tags=["nbval-check-output"]
answers = torch.linspace(-1.5, 1.5, 301)
l2 = ((answers - 1) ** 2 + (answers + 1) ** 2) / 2
print(f"least expected squared error at {answers[l2.argmin()].abs():.2f}: "
      "the mean, which is never right")


# %% [markdown]
# That is blur: the mean of all sharp pictures that fit. L1 is no better here: every answer from −1 to 1 costs the same.
#
# **A GAN** adds an adversary that tells real pixels from made ones. L1 does not mind where between −1 and 1 the answer lies, so
# the adversary can push it to one side. Which side may change during training. Afterwards the same LQ always gives the same
# answer.
#
# **Continuous diffusion** walks from noise to an answer. With x_t = (1 − t) z + t ε, the best velocity is the *expected* ε − z
# given x_t. Here it can be written down: z is ±1, ε is Gaussian.

# %%
def velocity(x, t):
    """E[ε − z | x_t = x] for z = ±1 with equal odds and ε ~ N(0, 1)."""
    mean_z = torch.tanh((1 - t) * x / t**2)  # E[z | x_t = x]
    return (x - (1 - t) * mean_z) / t - mean_z  # ε = (x − (1 − t) z) / t


def walk(steps, n=4000):
    """n answers of `steps` Euler steps from t = 1 to 0."""
    x = torch.randn(n, generator=run.generator(1, "cpu"))
    for i in range(steps):
        t = torch.tensor(1 - i / steps)
        x = x - velocity(x, t) / steps
    return x


# check the formula by counting
numbers = [torch.randn(400_000, generator=run.generator(i, "cpu")) for i in (2, 3)]
z, eps = numbers[0].sign(), numbers[1]
near = ((0.5 * z + 0.5 * eps) - 0.3).abs() < 0.02
assert abs((eps - z)[near].mean() - velocity(torch.tensor(0.3), torch.tensor(0.5))) < 0.05

# %%
fig, axes = plt.subplots(1, 5, figsize=(8, 1.8), sharey=True, layout="constrained")
near_truth = {}
for axis, steps in zip(axes, (1, 2, 5, 20, 100)):
    x = walk(steps)
    near_truth[steps] = float(((x.abs() - 1).abs() < 0.1).float().mean())
    axis.hist(x.numpy(), bins=np.linspace(-2.05, 2.05, 42), density=True, color="C1")
    axis.set(title=f"{steps} step{'s' * (steps > 1)}\n{near_truth[steps]:.0%} near ±1",
             xticks=[-1, 0, 1])
path = run.save_figure(fig, "walk")
assert near_truth[1] == 0 and near_truth[100] > 0.9, near_truth

# %% [markdown]
# *The answers of exact diffusion after 1, 2, 5, 20 and 100 steps; across: the answer; height: density. One step gives the mean:
# blur. Real answers need several steps, although there is one pixel and the velocity is exact. Here five are nearly enough; how
# many photos need is measured in section 4.*
#
# **ITER** draws a token. A token is +1 or −1 and nothing between: one step is already sharp. What one step cannot do is let
# several tokens agree ([notebook 10](10_where_steps_pay.ipynb)). So in continuous diffusion steps buy both, sharp answers and
# answers that agree. In ITER they buy only the second.

# %% tags=["nbval-check-output"]
draws = torch.where(torch.rand(4000, generator=run.generator(4, "cpu")) < 0.5, 1.0, -1.0)
print(f"one step of a categorical draw: {float((draws == 1).float().mean()):.0%} are +1, "
      "the others are −1, none lies between")

# %% [markdown]
# ## 2. Three families on one page
#
# | | GAN | continuous diffusion (LDM) | ITER |
# |---|---|---|---|
# | what is trained | generator and adversary, by turns | a U-Net, on a frozen VQGAN | E_l, φ_r, φ_e, on a frozen VQGAN |
# | the loss | L1 + LPIPS + adversary | squared error of the velocity ε − z | cross-entropy on tokens (Eq. 2, 4, 5) |
# | what the network sees | LQ | x_t, t, LQ | S_t, m_t, S_l (in `tiny` also what E_l thinks; φ_r also LQ) |
# | what it gives | the picture | a velocity | a distribution over tokens |
# | a step | there is one | a small move of all latents | some tokens are kept, the others drawn anew |
# | another seed | the same picture | another picture | another picture |
#
# **The GAN's generator** is RRDBNet: dense blocks at the size of LQ, then twice ×2. It has 7 groups of blocks in place of
# ESRGAN's 23, to have ITER's size. Every block adds a fifth of its change, so that a deep network starts near the identity.
# Here is one dense block by hand.

# %% tags=["nbval-check-output"]
net = RRDBNet(16, 1).eval()
block = net.body[0].blocks[0]
x = torch.rand(1, 16, 8, 8, generator=run.generator(5, "cpu"))
seen = [x]
for conv in block.convs[:-1]:
    seen.append(torch.nn.functional.leaky_relu(conv(torch.cat(seen, 1)), 0.2))
with torch.no_grad():
    by_hand = x + 0.2 * block.convs[-1](torch.cat(seen, 1))
    assert torch.allclose(by_hand, block(x), atol=1e-6)
print("channels that its five convolutions read:", [conv.in_channels for conv in block.convs])

# %% [markdown]
# **The LDM's U-Net** works on latents at three sizes; t reaches every block as sines and cosines. The LQ image lies beside x_t
# as more channels. This is flow matching with Euler's steps. Its paths are straighter than those of LDM-BSR, so it needs fewer
# steps, and the test is harder for ITER. A better solver would need fewer still. Before D_H each latent is rounded to its
# nearest code.
#
# Its loss, for one latent and one t:

# %%
torch.manual_seed(run.seed)
unet = UNet(4, 3, 16).eval()
z, lq, eps = (torch.randn(1, c, 8, 8, generator=run.generator(6 + i, "cpu"))
              for i, c in enumerate((4, 3, 4)))
t = torch.tensor([0.7])
x_t = (1 - t) * z + t * eps
with torch.no_grad():
    print(f"loss of an untrained U-Net: {(unet(x_t, t, lq) - (eps - z)).square().mean():.2f}; "
          f"of the answer 0: {(eps - z).square().mean():.2f}")

# %% [markdown]
# ## 3. Train them
#
# One command each, with the same training loop:
#
# ```
# itersr train rival-iter --tier tiny --data DIR --out RUNS --minutes M
# itersr train rival-gan  --tier tiny --data DIR --out RUNS --minutes M
# itersr train rival-ldm  --tier tiny --data DIR --out RUNS --minutes M
# python -m tests.rivals grid GRID --tier smoke --data DIR --minutes 2
# python -m tests.rivals measure RUNS --minutes M --grid GRID
# ```
#
# The last command replaces `figures/11_rivals.json`, which this notebook shows (`--out FILE` keeps it). ITER and the LDM work
# on the frozen VQGAN that ships, as the paper's ITER and LDM-BSR work on one that was trained before. Its hours are not in the
# minutes, and the GAN has no such help.
#
# The GAN has another help: its loss contains the LPIPS that section 4 measures, from 40 % of the run on. The VQGAN's decoder,
# which ITER and the LDM share, was trained with it too; E_l, φ_r and the U-Net never see it. So LPIPS flatters the GAN most,
# and section 4 shows GMSD beside it, which nobody was trained on.
#
# At `smoke` all three are trained here and now, with few steps.

# %%
size = experiments.sizes(run.tier, run.seed)
recorded = json.loads((ROOT / "figures" / "11_rivals.json").read_text(encoding="utf-8"))
if LIVE:
    folder = run.checkpoints / "rivals"
    few = {"changes": {"steps": 60}, "seed": run.seed, "device": str(run.device),
           "resume": True, "progress": False, "validation": (2, 96)}
    rivals.train_iter(run.tier, run.data, folder, **few)
    for what in rivals.RIVALS:
        rivals.train_rival(what, run.tier, run.data, folder, **few)
    model = ITER.from_pretrained(folder / "weights", run.device)
    gan, ldm = (rivals.load(what, folder / "weights", str(run.device)) for what in rivals.RIVALS)

# %%
if LIVE:
    pairs = experiments.make_pairs(experiments.unseen_photos(size.photos),
                                   run.tier, size.side, run.seed)
    few_steps = {"iter_steps": (1, 4), "ldm_steps": (1, 4, 16)}
    names = ["psnr", "gmsd", *(["lpips"] if metrics.available("lpips") else [])]
    rows = measure.curves(model, gan, ldm, pairs, size.seeds, temperatures=(1.0,), names=names,
                          store=run.checkpoints / "rivals.jsonl", **few_steps)
    seconds = measure.seconds(model, gan, ldm, pairs[0], **few_steps)
    costs, logs = measure.costs(model, gan, ldm), measure.logs_of(folder)
    shown, side, trained = run.tier.name, size.side, "60 steps a stage, here"
else:
    rows, seconds = pd.DataFrame(recorded["rows"]), recorded["seconds"]
    costs, logs = recorded["costs"], recorded["logs"]
    shown, side = recorded["tier"], recorded["side"]
    trained = f"{recorded['minutes']:g} minutes of one core"
value = "lpips" if "lpips" in rows else "gmsd"
VALUE = value.upper()
display(Markdown(
    f"Tier `{shown}`, each trained for {trained}. {rows.photo.nunique()} photos, "
    f"crops of {side}², {rows.seed.nunique()} seed(s)."))
if not LIVE:
    print("The minutes are processor time, so that other work on the machine does not matter.")
    print("On other tiers the notebook shows the same record.")

# %% [markdown]
# **The curves of training.** The losses differ in kind, so look at their shapes.

# %%
token_stage = "iter" if "iter" in logs else "token_nets"
drawn = {
    "ITER: E_l's loss (Eq. 2)": ("lq_encoder", "lq_encoder"),
    "ITER: φ_r's loss (Eq. 4)": (token_stage, "refiner"),
    "LDM: error of the velocity": ("rival-ldm", "velocity"),
    "GAN: L1": ("rival-gan", "l1"),
    "GAN: the adversary's loss": ("rival-gan", "discriminator"),
}
fig, axes = plt.subplots(1, 5, figsize=(8, 2), layout="constrained")
for axis, (title, (stage, name)) in zip(axes, drawn.items()):
    axis.plot(*zip(*logs.get(stage, {}).get(name, [[0, math.nan]])), lw=1)
    axis.set_title(title, fontsize=7)
    axis.set_xlabel("minutes of the stage", fontsize=7)
    axis.tick_params(labelsize=6)
path = run.save_figure(fig, "training")

# %% [markdown]
# *Each point is one batch of training crops, so much of the up and down is easy and hard batches. All but the last should fall;
# that they flatten may be the falling learning rate. E_l's panel is Stage II alone; φ_e's loss is not shown. The adversary
# joins late, so its axis begins late. Its loss is 0 where it always tells real from made, 1 where it gives no answer, and above
# 1 where it is mostly wrong: it says who is ahead, not how good the pictures are.*
#
# ## 4. Fewer steps than continuous diffusion?
#
# One axis for all: calls of a network before the decoder. ITER calls φ_r in every step, φ_e in all but the last, and E_l once:
# 2T. It starts from nothing known: the adaptive start, which saves steps, is left out. Each point is at the one of three
# temperatures (.7, .85 and 1) that is best on the *other* photos. (For the LDM that is the spread of the noise from which it
# starts.)

# %%
families = ["ITER", "LDM", "GAN"]
values = [name for name in (value, "gmsd", "niqe") if name in rows and rows[name].notna().all()]
values = list(dict.fromkeys(values))
spent = {(row["family"], row["calls"]): row["seconds"] for row in seconds}
at_calls = {
    family: {n: experiments.at_its_best(some, value) for n, some in own.groupby("calls")}
    for family, own in rows.groupby("family")
}

# %%
fig, axes = plt.subplots(1, len(values) + 1, figsize=(8, 2.8), layout="constrained")
for family, colour in zip(families, ("C0", "C1", "C2")):
    own = at_calls[family]
    for axis, what in zip(axes, values):
        bands = pd.DataFrame([experiments.interval(some, what) for some in own.values()])
        axis.plot(list(own), bands["mean"], "o-", ms=3, color=colour, label=family)
        axis.fill_between(list(own), bands.low, bands.high, color=colour, alpha=0.15)
        if len(own) == 1:  # where there is no band
            axis.vlines(list(own), bands.low, bands.high, color=colour, lw=2)
        axis.set(xscale="log", xlabel="calls of a network", title=f"{what.upper()} ↓")
    axes[-1].plot([spent[family, n] for n in own], [some[value].mean() for some in own.values()],
                  "o-", ms=3, color=colour)
axes[-1].set(xscale="log", xlabel="seconds a picture", title=f"{VALUE} ↓")
for axis in axes:
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter("")
    axis.tick_params(labelsize=7)
axes[0].legend(fontsize=7)
path = run.save_figure(fig, "steps")

# %% [markdown]
# *Mean and 95 % interval over photos against the number of calls; right: against seconds of processor time of one thread. The
# GAN has one call and one point. Each network was trained once: another training could move a whole curve. The temperature is
# chosen by the first metric, in all panels. Where two are nearly equal, this choice is pessimistic: leaving a photo out favours
# the temperature that is worse for it, and a spike can come from that. The right panel has no intervals. NIQE needs larger
# pictures than these crops: read its panel with care.*
#
# **Each at its own best**: calls and temperature chosen together, for each photo on the others.

# %%
setting = rows.calls.astype(str) + " calls, temperature " + rows.dial.astype(str)
joined = rows.assign(setting=setting)
best = {family: experiments.at_its_best(joined[joined.family == family], value, over="setting")
        for family in families}
by_photo = {family: measure.by_calls(rows, family, value) for family in families}
need = {family: measure.enough(values_) for family, values_ in by_photo.items()}
table({
    family: {
        f"best {VALUE}": ledger.show(experiments.interval(own, value)),
        "at": own.setting.mode()[0],
        "calls within .01 of the best": need[family],
        "seconds at the best": f"{spent[family, int(own.calls.mode()[0])]:.2f}",
    }
    for family, own in best.items()
})

# %% [markdown]
# A family that gains nothing from steps needs the fewest, and a bad family can be near its own best at once. So the count of
# calls says something only beside the quality there. (ITER's two calls are *one* step: E_l once, φ_r once.) The same at equal
# seconds: the LDM's count of calls whose time is nearest to that of ITER's best.

# %%
target = spent["ITER", int(best["ITER"].calls.mode()[0])]
equal = min(at_calls["LDM"], key=lambda n: abs(math.log(spent["LDM", n] / target)))
evidence = {
    f"{VALUE}, ITER − LDM, each at its best":
        experiments.difference(best["ITER"], best["LDM"], value),
    f"{VALUE}, ITER − GAN, each at its best":
        experiments.difference(best["ITER"], best["GAN"], value),
    f"{VALUE}, ITER − LDM, at equal seconds":
        experiments.difference(best["ITER"], at_calls["LDM"][equal], value),
    "calls within .01 of the best, ITER − LDM":
        measure.enough_difference(by_photo["ITER"], by_photo["LDM"]),
}
evidence |= {
    f"GMSD, ITER − {family}, each at its best":
        experiments.difference(best["ITER"], best[family], "gmsd")
    for family in ("LDM", "GAN") if value != "gmsd"
}
table({name: {"mean [95 %]": ledger.show(gap)} for name, gap in evidence.items()})


# %% [markdown]
# *LPIPS and GMSD: negative means that ITER is better. Calls: negative means that ITER needs fewer.*

# %%
def beside(metric):
    """ITER beside each rival in one metric, each at its best, in words."""
    found = {family: evidence[f"{metric}, ITER − {family}, each at its best"]
             for family in ("LDM", "GAN")}
    return ", ".join(
        f"{says(gap, 'better than', 'worse than', 'not told apart from')} the {family}"
        for family, gap in found.items())


verdict = f"Each at its best, in {VALUE} ITER is {beside(VALUE)}"
if value != "gmsd":
    verdict += f"; in GMSD, which nobody was trained on, {beside('GMSD')}"
fewer = says(evidence["calls within .01 of the best, ITER − LDM"],
             "fewer calls", "more calls", "as many calls, as far as these photos can tell,")

# %%
lowest = [family for family in ("ITER", "LDM") if best[family].dial.min() == rows.dial.min()]
display(Markdown(
    f"{verdict}. It needs {fewer} to come within .01 of its own best: "
    f"{need['ITER']} against the LDM's {need['LDM']}."
    + (f" Best at the lowest temperature that was tried: {' and '.join(lowest)}. A lower one may "
       "be better still." if lowest and not LIVE else "")))

# %% [markdown]
# ## 5. Easier to train than a GAN?
#
# "Easier" as an experiment: the same short runs for both, with three learning rates × three seeds, and for the GAN three
# weights of its adversary each. Every run is judged by its last weights, on the same held-out crops. Three questions: how far
# do results spread, how many runs break off or end worse than bicubic, and which share of the runs is within 5 % of their
# family's best? The last does not ask who is better, only how much it matters that one has chosen well. A family that learns
# nothing would have 100 %, so read it beside the best and the median. The fair pair is nine runs against nine: of 27 runs the
# best is better by chance alone.

# %%
tried = pd.DataFrame(recorded["grid"])
short, bicubic = tried[tried.method != "bicubic"], tried[tried.method == "bicubic"].lpips.iloc[0]
ours, gans = (short[short.method == method] for method in ("ITER", "GAN"))
groups = {"ITER, 3 rates × 3 seeds": ours, "GAN, the same, usual weight": gans[gans.weight == 1],
          "GAN, 3 weights each": gans}


def line(runs):
    """How the runs of a group ended."""
    scores = [None if math.isnan(x) else x for x in runs.lpips]
    return {
        "runs": len(runs), "best LPIPS": f"{runs.lpips.min():.3f}",
        "median": f"{runs.lpips.median():.3f}", "worst": f"{runs.lpips.max():.3f}",
        "spread of PSNR": f"{runs.psnr.std():.2f} dB", "broke off": int(runs.lpips.isna().sum()),
        "worse than bicubic": int((runs.lpips > bicubic).sum()),
        "within 5 % of the best": f"{np.mean(measure.usable(scores)):.0%}",
    }


table({name: line(runs) for name, runs in groups.items()})

# %%
share = "usable short runs, ITER − GAN at"
usable = {
    f"{share} its usual weight": measure.usable_difference(ours, gans[gans.weight == 1], "lpips"),
    f"{share} all weights": measure.usable_difference(ours, gans, "lpips"),
}
if not LIVE:  # what is shown at smoke is the record, and not of this run
    evidence |= usable
by_rate = {method: runs.groupby("rate").lpips.median() for method, runs in short.groupby("method")}
rates = {method: ", ".join(f"×{rate:.2g} {x:.3f}" for rate, x in own.items())
         for method, own in by_rate.items()}
display(Markdown(
    f"Tier `{short.tier.iloc[0]}`, {short.minutes.iloc[0]:g} minutes of one core a run; bicubic "
    f"has {bicubic:.3f}. Difference of the usable share, by bootstrap over seeds: "
    + "; ".join(f"{name} {ledger.show(gap)}" for name, gap in usable.items())
    + ". Nine runs against nine: "
    + says(usable[f"{share} its usual weight"], "fewer of ITER's runs are usable",
           "more of ITER's runs are usable", "not decided which has more usable runs")
    + ". Median LPIPS by learning rate (times the usual): "
    + f"ITER {rates['ITER']}; GAN {rates['GAN']}."))

# %%
fig, axes = plt.subplots(1, 2, figsize=(7, 2.6), layout="constrained", sharey=True)
scored = {"ITER": "validation lpips ITER", "GAN": "validation lpips"}
for axis, (method, name) in zip(axes, scored.items()):
    for row in recorded["grid"]:
        curves = [stage[name] for stage in row.get("logs", {}).values() if stage.get(name)]
        if row["method"] != method or not curves:
            continue
        before = row["logs"].get("lq_encoder", {}).get("lq_encoder", [[0, 0]])[-1][0]  # Stage II
        minutes, scores = zip(*curves[-1])
        axis.plot([before + x for x in minutes], scores, "o-", ms=2, lw=0.8, alpha=0.7,
                  color=f"C{[1 / 3, 1, 3].index(row['rate'])}")
    axis.axhline(bicubic, color="0.5", ls="--", lw=1)
    axis.set(title=method, xlabel="minutes of the run", xlim=(0, None))
axes[0].set_ylabel("LPIPS ↓")
path = run.save_figure(fig, "grid")

# %% [markdown]
# *The validations of each run; colour: the learning rate, a third of the usual (blue), the usual (orange), three times it
# (green). Dashed: bicubic on the crops of the table. The curves are on other crops, four, which differ from seed to seed, so
# look at their shapes and do not read them against the dashed line: the table has all on the same crops. ITER's curves begin
# after Stage II. The GAN's panel has all three weights of its adversary.*
#
# What this does not say. The grid varies Stages II and III alone, on a VQGAN that was trained before: how hard Stage I is to
# train is not counted. ITER's usual settings were found in this project; the GAN's were taken from Real-ESRGAN's paper and
# tried once. In runs this short, an instability that comes late cannot be seen.
#
# **What "no GAN" means.** In the paper Stages II and III have no adversary, but Stage I of the published model has one.
# `tiny`'s VQGAN has none (`gan_start = 1`), and `smoke`'s has a weak one at the very end.
#
# ## 6. Noise that stays (Fig. 5)
#
# The paper shows two photos on which a diffusion model keeps noise that it should remove. To measure that: add noise to LQ,
# restore, and look at what stands out from its own local mean where HQ is flat. HQ's own value is the goal: less is too smooth,
# more is noise that stayed, or texture that was put in its place.

# %%
flat = experiments.make_pairs(experiments.unseen_photos(1), run.tier, size.side, run.seed)[0]
where = measure.flat_places(flat.hq)
assert abs(float(where.float().mean()) - 0.3) < 0.02
noise = torch.randn(flat.hq.shape, generator=run.generator(9, "cpu"))
quiet, loud = (measure.noise_left((flat.hq + level / 255 * noise).clamp(0, 1), flat.hq)
               for level in (0, 20))
print(f"left in HQ itself: {quiet:.1f} levels; in HQ with noise of 20 levels: {loud:.1f}")
assert loud > quiet + 10

# %%
if LIVE:
    noisy = measure.noise(model, gan, ldm, pairs, (25,), ldm_steps=16)
    display(measure.noise_figure(model, gan, ldm, pairs[0], 25, ldm_steps=16))
else:
    noisy = recorded["noise"]
    display(Image(filename=ROOT / "figures" / "11_rivals_noise.png"))

# %% [markdown]
# *A photo of scikit-image: its LQ with Gaussian noise of 25 levels on top, what the GAN, the LDM (20 steps) and ITER (from
# nothing known) make of it, and HQ. The degradation of the training has noise of at most 10 levels, so 25 is more than any of
# them has met.*

# %%
noisy = pd.DataFrame(noisy).assign(seed=0)
strongest = noisy[noisy.sigma == noisy.sigma.max()]
beyond = {name: own for name, own in strongest.groupby("family", sort=False)}
evidence |= {
    f"noise left beyond HQ's, {family} − ITER":
        experiments.difference(beyond[family], beyond["ITER"], "beyond")
    for family in ("LDM", "GAN")
}
left = {(sigma, family): experiments.interval(own, "left")
        for (sigma, family), own in noisy.groupby(["sigma", "family"], sort=False)}
pd.Series({(family, f"noise {sigma:g}"): ledger.show(gap) for (sigma, family), gap in left.items()}
          ).unstack(sort=False).rename_axis("levels left in flat places, mean [95 %]")

# %%
display(Markdown("How far each is from HQ's own value, at the stronger noise: " + "; ".join(
    f"{family} against ITER: " + says(evidence[f"noise left beyond HQ's, {family} − ITER"],
                                      "nearer", "farther", "not decided")
    for family in ("LDM", "GAN")) + "."))

# %% [markdown]
# *"bound" is S_h decoded: what the VQGAN itself leaves. "bicubic" is LQ enlarged, noise and all. Enlarged noise is soft spots,
# which the local mean (5×5 pixels) largely follows: a low value there is no clean picture. Compare the three families with each
# other only.* The paper's reason is that ITER's diffusion sees tokens that E_l has cleaned. `tiny`'s φ_r reads LQ too, so this
# reason is not what is tested here.
#
# ## 7. Table 1
#
# Table 1 of Chen et al. (2024): NIQE / PI on four sets of real photos, less is better, the methods in the order of their NIQE
# on RealSRSet. Only RealSRSet was at hand here; its column with intervals comes from [notebook 09](09_benchmark.ipynb) (FeMaSR
# over 19 of 20 photos). ITER is there the network `tiny` that ships, not the one of sections 3–6 and not the paper's. For
# another set: `python -m data_prep realsr drealsr dped-iphone` gets the photos, or says how; then
#
# ```
# itersr upscale LQ_DIR --tier tiny -o OUR_DIR
# itersr evaluate --outputs ITER=OUR_DIR --metrics niqe,pi --peer realesrgan --inputs LQ_DIR
# ```

# %%
PAPER = pd.DataFrame.from_dict({
    "FeMaSR": {"RealSRSet": "5.18 / 4.31", "RealSR": "4.74 / 4.51",
               "DRealSR": "4.20 / 4.30", "DPED-iphone": "5.11 / 4.36"},
    "MM-RealSR": {"RealSRSet": "5.25 / 4.59", "RealSR": "4.69 / 4.50",
                  "DRealSR": "4.82 / 4.76", "DPED-iphone": "5.56 / 5.36"},
    "ITER": {"RealSRSet": "5.29 / 4.62", "RealSR": "4.67 / 4.47",
             "DRealSR": "4.15 / 4.27", "DPED-iphone": "4.84 / 4.23"},
    "SwinIR-GAN": {"RealSRSet": "5.30 / 4.68", "RealSR": "4.76 / 4.65",
                   "DRealSR": "4.71 / 4.74", "DPED-iphone": "4.95 / 4.78"},
    "BSRGAN": {"RealSRSet": "5.49 / 4.79", "RealSR": "5.74 / 4.51",
               "DRealSR": "6.14 / 4.78", "DPED-iphone": "5.99 / 4.55"},
    "Real-ESRGAN": {"RealSRSet": "5.65 / 4.92", "RealSR": "4.83 / 4.54",
                    "DRealSR": "4.98 / 4.77", "DPED-iphone": "5.44 / 5.02"},
    "LDM-BSR": {"RealSRSet": "6.03 / 4.60", "RealSR": "5.56 / 4.75",
                "DRealSR": "5.14 / 4.46", "DPED-iphone": "5.89 / 4.61"},
    "Bicubic": {"RealSRSet": "7.98 / 7.35", "RealSR": "6.24 / 8.16",
                "DRealSR": "6.58 / 8.58", "DPED-iphone": "6.01 / 7.48"},
}, orient="index")
of_09 = json.loads(
    (ROOT / "figures" / "results" / "09.json").read_text(encoding="utf-8")
)["results"]["evidence"]
measured = {name: of_09.get(f"NIQE of {name.replace('Bicubic', 'bicubic')} on RealSRSet")
            for name in PAPER.index}
here = [ledger.show(found) if found else "not measured" for found in measured.values()]
table_1 = PAPER.copy()
table_1.insert(1, "RealSRSet, NIQE here [95 %]", here)
table_1

# %% [markdown]
# ## 8. What each costs

# %%
table({
    family: {
        "parameters trained, M": f"{own['trained'] / 1e6:.1f}",
        "used at inference, M": f"{own['used'] / 1e6:.1f}",
        "trained for": trained,
        "calls at its best": int(best[family].calls.mode()[0]),
        "seconds a picture": f"{spent[family, int(best[family].calls.mode()[0])]:.2f}",
        "memory beyond the loaded networks, MB": own.get("megabytes", "–"),
    }
    for family, own in costs.items()
})

# %% [markdown]
# *Pictures of the size named in section 3, seconds of one thread. ITER's and the LDM's trained parameters include the VQGAN,
# which was trained before. Memory: the growth of the peak; where loading had a high peak itself, it is at least so much.*
#
# ## What was learned

# %%
learned = [
    f"Exact continuous diffusion on one pixel: {near_truth[1]:.0%} of the answers are real after "
    f"one step, {near_truth[5]:.0%} after 5, {near_truth[100]:.0%} after 100.",
    f"Calls within .01 {VALUE} of one's own best: "
    + ", ".join(f"{family} {n}" for family, n in need.items())
    + f". {verdict}.",
    *(f"{name}: {ledger.show(gap)}." for name, gap in evidence.items()
      if name.startswith((VALUE, "GMSD", "usable", "noise"))),
]
if LIVE:
    learned.append("Networks trained for seconds: these numbers show that the code runs, "
                   "and not which family is better.")
display(Markdown("\n".join(f"- {line}" for line in learned)))


# %% [markdown]
# - The mean of sharp answers is blurred. Each family has its own way out: an adversary, several small steps, or tokens.
# - Compare at equal time, at equal calls, and each at its own best.
# - "Easier to train" is a distribution over settings, not a story about one run.
#
# ## Check yourself
#
# <details><summary>1. Why is the mean of two sharp answers not a sharp answer?</summary>
#
# It lies between them. The network that is trained for least squared error gives it all the same, because being half wrong
# twice costs less than being quite wrong once.
#
# </details>
#
# <details><summary>2. What do more steps buy in continuous diffusion, and what in ITER?</summary>
#
# There both a sharp answer and one whose parts agree: one Euler step gives the mean. In ITER only tokens that agree with each
# other; each token is sharp from the first step.
#
# </details>
#
# <details><summary>3. Why is the adversary's loss no measure of quality?</summary>
#
# It says how well the adversary tells real from made. It can rise because the pictures got better, or because the adversary got
# worse.
#
# </details>
#
# <details><summary>4. One run of A is better than one run of B. What is missing before "A is easier to train"?</summary>
#
# Other seeds and other settings: how much of the range of settings gives a result near each method's own best.
#
# </details>
#
# ## Exercises
#
# **1.** Euler's step in continuous diffusion: from x at t to x at t − 1/n, given the velocity.

# %% tags=["exercise"]
def euler(x, v, n):
    """x after one of n steps against the velocity v = ε − z."""
    raise NotImplementedError


# %% jupyter={"source_hidden": true} tags=["solution"]
def euler(x, v, n):
    """x after one of n steps against the velocity v = ε − z."""
    return x - v / n


# %% tags=["check"]
assert euler(3.0, 3.0 - 1.0, 1) == 1.0, (
    "one step from ε = 3 with the true velocity ε − z arrives at z = 1")
assert math.isclose(euler(3.0, 2.0, 4), 2.5), "a quarter of the way from 3 to 1 is 2.5"


# %% [markdown]
# **2.** Which share of the settings is usable? Lower scores are better; `nan` is a run that broke off.

# %% tags=["exercise"]
def usable_share(scores, margin=0.05):
    """The share of all runs whose score is within `margin` (relative) of the best."""
    raise NotImplementedError


# %% jupyter={"source_hidden": true} tags=["solution"]
def usable_share(scores, margin=0.05):
    """The share of all runs whose score is within `margin` (relative) of the best."""
    scores = np.asarray(scores, dtype=float)
    return float((scores <= (1 + margin) * np.nanmin(scores)).mean())


# %% tags=["check"]
assert usable_share([0.2, 0.205, 0.3, float("nan")]) == 0.5, (
    "two of four runs; one that broke off counts among the four")
assert usable_share([1.0]) == 1.0

# %% [markdown]
# **Next:** train all three on your own photos for the same minutes, and give the folder to `python -m tests.rivals measure RUNS
# --minutes M --out mine.json`.

# %%
same = LIVE or recorded["tier"] == run.tier.name  # else the record is of another tier
path = run.record(
    measured=f"calls within .01 {VALUE} of the best: "
             + ", ".join(f"{family} {n}" for family, n in need.items()),
    evidence=evidence if same else {}, weights=None if LIVE else recorded["weights"],
    near_truth={str(n): share for n, share in near_truth.items()}, costs=costs, trained=trained,
    noise={f"{s:g}, {f}": gap for (s, f), gap in left.items()},
    photos=int(rows.photo.nunique()), seeds=int(rows.seed.nunique()),
)
