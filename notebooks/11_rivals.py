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
# experiments on claims of the paper's abstract: that ITER is easier to train than a GAN, and needs fewer steps than continuous
# diffusion.
#
# **Why.** A method is judged beside its rivals. Here all three have the same photos, degradation, time and size.
#
# **What you need.** [02](02_vqgan.ipynb), [06](06_adaptive_inference.ipynb), and the paired differences of
# [07](07_topk_vs_evaluator.ipynb). Symbols: [one table](symbols.md).
#
# **Minutes.** Reading 35. With `tier = "smoke"` all three are trained here for a few seconds each. That shows how it is done and
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

from itersr.lab import experiments, ledger, metrics, rivals
from itersr.lab.reproduce import ROOT
from itersr.lab.rivals import measure
from itersr.lab.rivals.gan import RRDBNet
from itersr.lab.rivals.ldm import UNet
from itersr.model import ITER

LIVE = run.tier.name == "smoke"


def table(lines, **options):
    """A dictionary of rows as a table."""
    return pd.DataFrame.from_dict(lines, orient="index", **options)


# %% [markdown]
# ## 1. One pixel, two answers
#
# An LQ pixel seldom has one right answer. Let a pixel of HQ be +1 or −1, each half of the time, with the same LQ. What does each
# family answer?
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
# **A GAN** adds an adversary that tells real pixels from made ones. The mean is never real, so the answer must move to +1 or −1. But
# one LQ gives one answer: it picks a side, for good.
#
# **Continuous diffusion** walks from noise to an answer. With x_t = (1 − t) z + t ε, the best velocity is the *expected* ε − z given
# x_t. Here it can be written down: z is ±1, ε is Gaussian.

# %%
def velocity(x, t):
    """E[ε − z | x_t = x] for z = ±1 with equal odds and ε ~ N(0, 1)."""
    odds = torch.tanh((1 - t) * x / t**2)  # E[z | x]: how much likelier +1 is than −1
    return (x - (1 - t) * odds) / t - odds  # ε = (x − (1 − t) z) / t


def walk(steps, n=4000):
    """n answers of `steps` Euler steps from t = 1 to 0."""
    x = torch.randn(n, generator=run.generator(1, "cpu"))
    for i in range(steps):
        t = torch.tensor(1 - i / steps)
        x = x - velocity(x, t) / steps
    return x


# check the formula by counting
numeric = [torch.randn(400_000, generator=run.generator(i, "cpu")) for i in (2, 3)]
z, eps = numeric[0].sign(), numeric[1]
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
# *The answers of exact diffusion after 1, 2, 5, 20 and 100 steps. With one step it gives the mean: blur. It takes several small steps
# to arrive at real answers, although there is one pixel and the velocity is exact.*
#
# **ITER** draws a token. A token is +1 or −1 and nothing between: one step is already sharp. What one step cannot do is let several
# tokens agree ([notebook 10](10_where_steps_pay.ipynb)). So the number of steps buys two different things in the two families:
# *a sharp answer* in continuous diffusion, *answers that agree* in ITER.

# %% tags=["nbval-check-output"]
draw = torch.where(torch.rand(4000, generator=run.generator(4, "cpu")) < 0.5, 1.0, -1.0)
print("one step of a categorical draw: "
      f"{float(((draw.abs() - 1).abs() < 0.1).float().mean()):.0%} near ±1")

# %% [markdown]
# ## 2. Three families on one page
#
# | | GAN | continuous diffusion (LDM) | ITER |
# |---|---|---|---|
# | what is trained | generator and adversary, by turns | a U-Net, on a frozen VQGAN | E_l, φ_r, φ_e, on a frozen VQGAN |
# | the loss | L1 + perceptual + adversary | squared error of the velocity ε − z | cross-entropy on tokens (Eq. 2, 4, 5) |
# | what the network sees | LQ | x_t, t, LQ | S_t, m_t, S_l (here also LQ) |
# | what it gives | the picture | a velocity | a distribution over tokens |
# | a step | there is one | a small move of all latents | some tokens are kept, the others drawn anew |
# | another seed | the same picture | another picture | another picture |
#
# **The GAN's generator** is RRDBNet: dense blocks at the size of LQ, then twice ×2. Every block adds a fifth of its change, so
# that a deep network starts near the identity. Here is one dense block by hand.

# %%
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
# **The LDM's U-Net** works on latents at three sizes; t reaches every block as sines and cosines. The LQ image lies beside x_t as
# more channels. Its loss, for one latent and one t:

# %%
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
# One command each, with the loop, the photos, the degradation and the minutes that ITER has:
#
# ```
# itersr train rival-iter --tier tiny --data DIR --out RUNS --minutes 30
# itersr train rival-gan  --tier tiny --data DIR --out RUNS --minutes 30
# itersr train rival-ldm  --tier tiny --data DIR --out RUNS --minutes 30
# python -m itersr.lab.rivals.measure RUNS --minutes 30
# ```
#
# ITER and the LDM work on the frozen VQGAN that ships, as the paper's ITER and LDM-BSR work on one that was trained before. Its hours
# are not in the 30 minutes, and the GAN has no such help: remember that when you compare the levels below.
#
# At `smoke` all of it happens here and now, with few steps. As the notebook stands, the curves and numbers are those of
# `figures/11_rivals.json`, which the last command wrote.

# %%
size = experiments.sizes(run.tier, run.seed)
recorded = json.loads((ROOT / "figures" / "11_rivals.json").read_text(encoding="utf-8"))
if LIVE:
    folder = run.checkpoints / "rivals"
    few = {
        "changes": {"steps": 120},
        "seed": run.seed,
        "device": str(run.device),
        "resume": True,
        "progress": False,
        "validation": (2, 96),
    }
    rivals.train_iter(run.tier, run.data, folder, **few)
    for what in rivals.RIVALS:
        rivals.train_rival(what, run.tier, run.data, folder, **few)
    model = ITER.from_pretrained(folder / "weights", run.device)
    gan, ldm = (rivals.load(what, folder / "weights", str(run.device)) for what in rivals.RIVALS)
    pairs = experiments.make_pairs(experiments.unseen_photos(size.photos),
                                   run.tier, size.side, run.seed)
    rows = measure.curves(model, gan, ldm, pairs, size.seeds,
                          iter_steps=(1, 4), ldm_steps=(1, 4, 16), temperatures=(1.0,),
                          store=run.checkpoints / "rivals.jsonl",
                          names=["psnr", "lpips" if metrics.available("lpips") else "gmsd"])
    costs, logs, trained = (
        measure.costs(model, gan, ldm),
        measure.logs_of(folder),
        "120 steps a stage, here",
    )
else:
    rows, costs, logs = pd.DataFrame(recorded["rows"]), recorded["costs"], recorded["logs"]
    trained = f"{recorded['minutes']:g} minutes of one core, ITER's weights {recorded['weights']}"
value = "lpips" if "lpips" in rows else "gmsd"
VALUE = value.upper()
print(f"each trained for {trained}; {rows.photo.nunique()} photos, {rows.seed.nunique()} seed(s)")

# %% [markdown]
# **The curves of training.** Each family minimizes another thing, so no two curves have the same unit; look at their shapes.

# %%
drawn = {
    "ITER: E_l's loss (Eq. 2)": ("lq_encoder", "lq_encoder"),
    "ITER: φ_r's loss (Eq. 4)": ("token", "refiner"),
    "LDM: error of the velocity": ("rival-ldm", "velocity"),
    "GAN: L1": ("rival-gan", "l1"),
    "GAN: the adversary's loss": ("rival-gan", "discriminator"),
}
fig, axes = plt.subplots(1, 5, figsize=(8, 2), layout="constrained")
for axis, (title, (stage, name)) in zip(axes, drawn.items()):
    stage = next(found for found in logs
                 if found == stage or stage == "token" and found in ("iter", "token_nets"))
    axis.plot(*zip(*logs[stage].get(name, [[0, math.nan]])), lw=1)
    axis.set_title(title, fontsize=7)
    axis.set_xlabel("minutes", fontsize=7)
    axis.tick_params(labelsize=6)
path = run.save_figure(fig, "training")

# %% [markdown]
# *A cross-entropy and a squared error of noise fall and flatten; lower is better, and one can see when to stop. The GAN's adversary has
# a loss of its own that neither falls nor should: it says who is ahead, not how good the pictures are.*
#
# ## 4. Fewer steps than continuous diffusion?
#
# One axis for all: calls of a network before the decoder. ITER calls φ_r in every step, φ_e in all but the last, and E_l once: 2T.
# Each point is at the temperature that is best on the *other* photos. (For the LDM that is the spread of the noise it starts from.)

# %%
families = list(dict.fromkeys(rows.family))
values = [value, *(["niqe"] if "niqe" in rows and rows.niqe.notna().all() else [])]


def at_best(family, calls):
    "Rows of a family at so many calls, each photo at the temperature that is best on the others."
    return experiments.at_its_best(rows[(rows.family == family) & (rows.calls == calls)], value)


found = {(family, n): at_best(family, n)
         for family in families
         for n in sorted(rows[rows.family == family].calls.unique())}
fig, axes = plt.subplots(1, len(values) + 1, figsize=(8, 3), layout="constrained")
for family, colour in zip(families, ("C0", "C1", "C2")):
    own = {n: some for (name, n), some in found.items() if name == family}
    for axis, what in zip(axes, values):
        bands = [experiments.interval(some, what) for some in own.values()]
        axis.plot(list(own), [band["mean"] for band in bands], "o-",
                  ms=3, color=colour, label=family)
        axis.fill_between(list(own), [band["low"] for band in bands],
                          [band["high"] for band in bands], color=colour, alpha=0.15)
        axis.set(xscale="log", xlabel="calls of a network", title=f"{what.upper()} ↓")
    seconds = [float(some.seconds.median()) for some in own.values()]
    axes[-1].plot(seconds, [float(some[value].mean()) for some in own.values()], "o-",
                  ms=3, color=colour)
axes[-1].set(xscale="log", xlabel="seconds a picture", title=f"{VALUE} ↓")
for axis in axes:
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter("")
axes[0].legend(fontsize=7)
path = run.save_figure(fig, "steps")

# %% [markdown]
# *Mean and 95 % interval over photos and seeds against the number of calls; on the right against seconds, on the machine that measured.
# The GAN has one call and one point.*

# %%
tables = {family: measure.by_calls(rows, family, value) for family in families}
need = {family: measure.enough(table_) for family, table_ in tables.items()}
best = {family: found[family, int(table_.mean().idxmin())] for family, table_ in tables.items()}
evidence = {
    f"{VALUE}, ITER − {family}, each at its best":
        experiments.difference(best["ITER"], best[family], value)
    for family in families if family != "ITER"
}
evidence["calls within .01 of the best, ITER − LDM"] = measure.enough_difference(
    tables["ITER"], tables["LDM"])
# LDM's count of calls whose seconds are nearest to those of ITER's best
target = float(best["ITER"].seconds.median())
equal = min((n for family, n in found if family == "LDM"),
            key=lambda n: abs(math.log(float(found["LDM", n].seconds.median()) / target)))
evidence[f"{VALUE}, ITER − LDM, at equal seconds"] = experiments.difference(
    best["ITER"], found["LDM", equal], value)
table({
    family: {
        f"best {VALUE}": ledger.show(experiments.interval(best[family], value)),
        "calls there": int(best[family].calls.iloc[0]),
        "calls within .01 of it": need[family],
        "seconds there": f"{best[family].seconds.median():.2f}",
    }
    for family in families
})

# %%
table({name: {"mean [95 %]": ledger.show(gap)} for name, gap in evidence.items()})

# %% [markdown]
# ## 5. Easier to train than a GAN?
#
# "Easier" as an experiment: the same short runs for both, with three learning rates × three seeds, and for the GAN three weights of its
# adversary each (`python -m itersr.lab.rivals.grid`). Three questions: how far do results spread, how many runs break off or end worse
# than bicubic, and which share of the runs is within 5 % of their family's best? The last does not ask who is better, only how much
# it matters that one has chosen well.

# %%
tried = pd.DataFrame(recorded["grid"])
bicubic = None


def scores(own):
    """The last score of each run, None where it broke off."""
    return [None if math.isnan(x) else x
            for x in own.get("lpips", pd.Series([math.nan] * len(own)))]


if len(tried):
    bicubic = float(tried[tried.method == "bicubic"].lpips.iloc[0])
    gans = tried[tried.method == "GAN"]
    groups = {
        "ITER, 3 rates × 3 seeds": tried[tried.method == "ITER"],
        "GAN, the same, usual weight": gans[gans.weight == 1],
        "GAN, 3 weights each": gans,
    }
    lines = {}
    for name, own in groups.items():
        ended = [x for x in scores(own) if x is not None]
        lines[name] = {
            "runs": len(own),
            "best LPIPS": f"{min(ended):.3f}",
            "median": f"{np.median(ended):.3f}",
            "worst": f"{max(ended):.3f}",
            "spread of PSNR": f"{own.psnr.std():.2f} dB",
            "broke off": len(own) - len(ended),
            "worse than bicubic": sum(x > bicubic for x in ended),
            "within 5 % of the best": f"{np.mean(measure.usable(scores(own))):.0%}",
        }
    ours = scores(groups["ITER, 3 rates × 3 seeds"])
    evidence |= {
        "usable runs, ITER − GAN": measure.usable_difference(ours, scores(gans)),
        "usable runs, ITER − GAN at its usual weight":
            measure.usable_difference(ours, scores(gans[gans.weight == 1])),
    }
    conditions = (f"tier {tried.tier.dropna().iloc[0]}, {tried.minutes.dropna().iloc[0]:g} "
                  f"minutes each; bicubic {bicubic:.3f}")
    display(table(lines), Markdown(
        f"{conditions}. Difference of the usable share, by bootstrap over runs: "
        + "; ".join(f"{name} {ledger.show(gap)}"
                    for name, gap in evidence.items() if name.startswith("usable"))))
else:
    print("The grid has not been run for this copy of figures/11_rivals.json.")

# %%
if len(tried):
    fig, axes = plt.subplots(1, 2, figsize=(7, 2.6), layout="constrained", sharey=True)
    for axis, (method, last) in zip(axes, (("ITER", None), ("GAN", "rival-gan"))):
        for row in recorded["grid"]:
            if row["method"] == method:
                stage = last or next(name for name in ("iter", "token_nets") if name in row["logs"])
                curve = row["logs"][stage].get("lpips" if last else "lpips ITER", [])
                axis.plot(*zip(*curve), "o-", ms=2, lw=0.8,
                          color=f"C{[1 / 3, 1, 3].index(row['rate'])}", alpha=0.7)
        axis.axhline(bicubic, color="0.5", ls="--", lw=1)
        axis.set(title=method, xlabel="minutes of the last stage",
                 ylabel="LPIPS ↓" if method == "ITER" else "")
    path = run.save_figure(fig, "grid")

# %% [markdown]
# *LPIPS on held-out crops while each run of the grid was trained; colour: the learning rate, a third of the usual (blue), the usual
# (orange), three times it (green). Dashed: bicubic.*
#
# **What "no GAN" means here.** In the paper Stages II and III have no adversary, but Stage I of the published model has one. `tiny`'s
# VQGAN has none at all (`gan_start = 1`), and `smoke`'s has a weak one at the very end. So on our side the claim is tested in its strict form.
#
# ## 6. Noise that stays (Fig. 5)
#
# The paper shows a photo on which a diffusion model keeps noise that it should remove. To measure that: add noise to LQ, restore, and look
# at what stands out from its own local mean where HQ is flat.

# %%
flat = experiments.make_pairs(experiments.unseen_photos(1), run.tier, size.side, run.seed)[0]
where = measure.flat_places(flat.hq)
assert abs(float(where.float().mean()) - 0.3) < 0.02
quiet, loud = (
    measure.noise_left(
        (
            flat.hq
            + s / 255 * torch.randn(flat.hq.shape, generator=run.generator(9, "cpu"))
        ).clamp(0, 1),
        flat.hq,
    )
    for s in (0, 20)
)
print(f"left in HQ itself: {quiet:.1f} levels; in HQ with noise of 20 levels: {loud:.1f}")
assert loud > quiet + 10

# %%
if LIVE:
    noise = measure.noise(model, gan, ldm, pairs, (25,), ldm_steps=16)
    display(measure.noise_figure(model, gan, ldm, pairs[0], 25, ldm_steps=16))
else:
    noise = recorded["noise"]
    display(Image(filename=ROOT / "figures" / "11_rivals_noise.png"))

# %% [markdown]
# *One photo of scikit-image, its LQ with Gaussian noise of 25 levels on top, and what the three make of it.*

# %%
noise = pd.DataFrame(noise).assign(seed=0)
left = {(sigma, family): experiments.interval(own, "left")
        for (sigma, family), own in noise.groupby(["sigma", "family"], sort=False)}
for family in ("LDM", "GAN"):
    strongest = noise[noise.sigma == noise.sigma.max()]
    evidence[f"noise left, {family} − ITER"] = experiments.difference(
        strongest[strongest.family == family], strongest[strongest.family == "ITER"], "left")
pd.Series({
    f"noise {sigma:g}, {family}": ledger.show(gap) for (sigma, family), gap in left.items()
}).to_frame("levels left in flat places")

# %% [markdown]
# *HQ's own value is the goal: less is too smooth, more is noise that stayed, or texture that was put in its place.*
#
# ## 7. Table 1
#
# Table 1 of Chen et al. (2024): NIQE / PI on four sets of real photos, the methods in the order of their NIQE on RealSRSet.
# Only RealSRSet was at hand here; its column with intervals comes from [notebook 09](09_benchmark.ipynb). Our ITER is `tiny`, not the
# paper's network. For another set: `python -m data_prep realsr drealsr dped-iphone` gets the photos, or says how; then
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
        "trained for": trained.split(",")[0],
        "calls at its best": int(best[family].calls.iloc[0]),
        "seconds a picture": f"{best[family].seconds.median():.2f}",
        "memory beyond the weights, MB": own.get("megabytes", "–"),
    }
    for family, own in costs.items()
})

# %% [markdown]
# *Pictures of 160² pixels, on one core. ITER's and the LDM's trained parameters include the VQGAN, which was trained before.*
#
# ## What was learned

# %%
said = {-1: "fewer", 0: "not decided", 1: "more"}[
    ledger.sign(evidence["calls within .01 of the best, ITER − LDM"])]
learned = [
    f"Exact continuous diffusion on one pixel: {near_truth[1]:.0%} of the answers are real "
    f"after one step, {near_truth[100]:.0%} after 100.",
    f"Calls within .01 {VALUE} of one's own best: "
    f"{', '.join(f'{family} {n}' for family, n in need.items())} "
    f"(ITER against the LDM: {said}).",
    *(f"{name}: {ledger.show(gap)}." for name, gap in evidence.items()
      if name.startswith((VALUE, "usable", "noise"))),
]
if LIVE:
    learned.append("Networks trained for seconds: these numbers show that the code runs, "
                   "and not which family is better.")
display(Markdown("\n".join(f"- {line}" for line in learned)))

# %% [markdown]
# - The mean of sharp answers is blurred. Each family has its own way out: an adversary, many small steps, or tokens.
# - Compare at equal time, at equal calls, and each at its own best.
# - "Easier to train" is a distribution over settings, not a story about one run.
#
# ## Check yourself
#
# <details><summary>1. Why is the mean of two sharp answers not a sharp answer?</summary>
#
# It lies between them. The network that is trained for least squared error gives it all the same, because being half wrong twice costs
# less than being quite wrong once.
#
# </details>
#
# <details><summary>2. What do more steps buy in continuous diffusion, and what in ITER?</summary>
#
# There a sharp answer: one Euler step gives the mean. In ITER tokens that agree with each other; each token is sharp from the first step.
#
# </details>
#
# <details><summary>3. Why is the adversary's loss no measure of quality?</summary>
#
# It says how well the adversary tells real from made. It can rise because the pictures got better, or because the adversary got worse.
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
# **Next:** train all three on your own photos for the same minutes, and give the folder to `python -m itersr.lab.rivals.measure`.

# %%
path = run.record(
    measured=(f"calls within .01 {VALUE} of the best: "
              + ", ".join(f"{family} {n}" for family, n in need.items())),
    evidence=evidence,
    near_truth={str(n): share for n, share in near_truth.items()},
    costs=costs,
    trained=trained,
    noise={f"{s:g}, {f}": gap for (s, f), gap in left.items()},
    photos=int(rows.photo.nunique()),
    seeds=int(rows.seed.nunique()),
)
