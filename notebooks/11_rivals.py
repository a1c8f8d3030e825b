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
# [07](07_topk_vs_evaluator.ipynb).
#
# **Minutes.** Reading 35. With `tier = "smoke"` all three are trained here for a few seconds each. That shows how it is done and
# says nothing about which is better. At other tiers the notebook shows what was measured once, see section 4.

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
from IPython.display import Markdown, display

from itersr.lab import evaluation, experiments, ledger, metrics, rivals
from itersr.lab.course import load_or_train
from itersr.lab.reproduce import ROOT
from itersr.lab.rivals import measure
from itersr.lab.rivals.gan import RRDBNet
from itersr.lab.rivals.ldm import UNet

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
print(f"least expected squared error at {answers[l2.argmin()].abs():.2f}: the mean, which is never right")

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


numeric = [torch.randn(400_000, generator=run.generator(i, "cpu")) for i in (2, 3)]  # check the formula by counting
z, eps = numeric[0].sign(), numeric[1]
near = ((0.5 * z + 0.5 * eps) - 0.3).abs() < 0.02
assert abs((eps - z)[near].mean() - velocity(torch.tensor(0.3), torch.tensor(0.5))) < 0.05

# %%
fig, axes = plt.subplots(1, 5, figsize=(8, 1.8), sharey=True, layout="constrained")
near_truth = {}
for axis, steps in zip(axes, (1, 2, 5, 20, 100)):
    x = walk(steps)
    near_truth[steps] = float(((x.abs() - 1).abs() < 0.1).float().mean())
    axis.hist(x.numpy(), bins=np.linspace(-2, 2, 41), density=True, color="C1")
    axis.set(title=f"{steps} step{'s' * (steps > 1)}\n{near_truth[steps]:.0%} near ±1", xticks=[-1, 0, 1])
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
print(f"one step of a categorical draw: {float(((draw.abs() - 1).abs() < 0.1).float().mean()):.0%} near ±1")

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
z, lq, eps = (torch.randn(1, c, 8, 8, generator=run.generator(6 + i, "cpu")) for i, c in enumerate((4, 3, 4)))
t = torch.tensor([0.7])
x_t = (1 - t) * z + t * eps
with torch.no_grad():
    print(f"loss of an untrained U-Net: {(unet(x_t, t, lq) - (eps - z)).square().mean():.2f}; "
          f"of the answer 0: {(eps - z).square().mean():.2f}")

# %% [markdown]
# ## 3. Train them
#
# One command each, with the loop that trains ITER:
#
# ```
# itersr train all       --tier tiny --data DIR --out RUNS --minutes 60
# itersr train rival-gan --tier tiny --data DIR --out RUNS --minutes 60
# itersr train rival-ldm --tier tiny --data DIR --out RUNS --minutes 60
# ```
#
# At `smoke` that happens here and now; at other tiers the curves and numbers below are those of `figures/11_rivals.json`, which
# `python -m itersr.lab.rivals.measure RUNS` wrote.

# %%
size = experiments.sizes(run.tier, run.seed)
recorded = json.loads((ROOT / "figures" / "11_rivals.json").read_text(encoding="utf-8"))
if LIVE:
    folder = run.checkpoints / "rivals"
    for stage in ("vqgan", "lq_encoder", "token_nets"):
        model = load_or_train(stage, run.tier, run.data, run.checkpoints, seed=run.seed, device=str(run.device))
    trained = {}
    for what in rivals.RIVALS:
        changes = {"steps": 120, "validations": 2}
        rivals.train_rival(what, run.tier, run.data, folder, changes=changes, seed=run.seed, device=str(run.device), resume=True,
                           progress=False, validation=(2, 96))
        trained[what] = rivals.load(what, folder / "weights", str(run.device))
    pairs = experiments.make_pairs(experiments.unseen_photos(size.photos), run.tier, size.side, run.seed)
    rows = measure.curves(model, trained["rival-gan"], trained["rival-ldm"], pairs, size.seeds, iter_steps=(1, 4),
                          ldm_steps=(1, 4, 16), temperatures=(1.0,), store=run.checkpoints / "rivals.jsonl",
                          names=["psnr", "lpips" if metrics.available("lpips") else "gmsd"])
    costs, minutes = measure.costs(model, trained["rival-gan"], trained["rival-ldm"]), None
else:
    rows, costs, minutes = pd.DataFrame(recorded["rows"]), recorded["costs"], recorded["minutes"]
look = "lpips" if "lpips" in rows else "gmsd"
LOOK = look.upper()
said = "trained here for 120 steps each" if LIVE else f"trained for {minutes:g} minutes each ({recorded['weights']})"
print(f"{rows.family.nunique()} families, {said}; {rows.photo.nunique()} photos, {rows.seed.nunique()} seed(s)")

# %% [markdown]
# ## 4. Fewer steps than continuous diffusion?
#
# One axis for all: calls of a network before the decoder (ITER calls φ_r in every step, φ_e in all but the last, and E_l once). Each
# point is at the temperature that is best on the other photos.

# %%
def at_best(family, calls):
    """Rows of a family at so many calls, each photo at the temperature that is best on the others."""
    return experiments.at_its_best(rows[(rows.family == family) & (rows.calls == calls)], look)


values = [look, *(["niqe"] if "niqe" in rows and rows.niqe.notna().all() else [])]
fig, axes = plt.subplots(1, len(values) + 1, figsize=(8, 3), layout="constrained")
for (family, own), colour in zip(rows.groupby("family", sort=False), ("C0", "C1", "C2")):
    counts = sorted(own.calls.unique())
    for axis, value in zip(axes, values):
        found = [experiments.interval(at_best(family, n), value) for n in counts]
        axis.plot(counts, [f["mean"] for f in found], "o-", ms=3, color=colour, label=family)
        axis.fill_between(counts, [f["low"] for f in found], [f["high"] for f in found], color=colour, alpha=0.15)
        axis.set(xscale="log", xlabel="calls of a network", title=f"{value.upper()} ↓")
    seconds = [float(at_best(family, n).seconds.median()) for n in counts]
    axes[-1].plot(seconds, [float(at_best(family, n)[look].mean()) for n in counts], "o-", ms=3, color=colour)
axes[-1].set(xscale="log", xlabel="seconds a picture", title=f"{LOOK} ↓")
axes[0].legend(fontsize=7)
path = run.save_figure(fig, "steps")

# %% [markdown]
# *Left: mean and 95 % interval over photos and seeds against the number of calls. Right: the same against seconds on the machine that
# measured. The GAN has one call and one point.*

# %%
need = measure.enough(rows, look)
most = {family: max(own.calls) for family, own in rows.groupby("family")}
best = {family: at_best(family, min((n for n in own.calls.unique()), key=lambda n: float(at_best(family, n)[look].mean())))
        for family, own in rows.groupby("family", sort=False)}
against = {f"{LOOK}, ITER − {family}, each at its best": experiments.difference(best["ITER"], best[family], look)
           for family in best if family != "ITER"}
equal = {}
for family in ("LDM",):  # at equal seconds: LDM's count of calls whose seconds are nearest to ITER's best
    target = float(best["ITER"].seconds.median())
    calls = min(rows[rows.family == family].calls.unique(), key=lambda n: abs(math.log(float(at_best(family, n).seconds.median()) / target)))
    equal[f"{LOOK}, ITER − {family}, at equal seconds"] = experiments.difference(best["ITER"], at_best(family, calls), look)
table({family: {f"best {LOOK}": ledger.show(experiments.interval(best[family], look)), "calls there": int(best[family].calls.iloc[0]),
                "calls within .01 of it": need[family][0], "seconds there": f"{best[family].seconds.median():.2f}"} for family in best})

# %%
table({name: {"mean [95 %]": ledger.show(found)} for name, found in {**against, **equal}.items()})

# %% [markdown]
# ## 5. Easier to train than a GAN?
#
# "Easier" as an experiment: the same short runs for both, with three learning rates × three seeds, and for the GAN three weights of its
# adversary each (`itersr.lab.rivals.grid`). Three questions: how far do results spread, how many runs end worse than bicubic or break
# off, and which share of the settings is within 5 % of the best?

# %%
tried = pd.DataFrame([row for row in recorded["grid"]])


def usable(own):
    """What a family's runs say about how hard it is to train: spread, failures, share of good runs."""
    ended = own[own[look].notna()] if look in own else own.iloc[:0]
    floor = float(tried[tried.method == "bicubic"][look].iloc[0])
    best = float(ended[look].min())
    failed = len(own) - len(ended)
    return {"runs": len(own), f"best {LOOK}": f"{best:.3f}", f"median {LOOK}": f"{ended[look].median():.3f}",
            "spread (standard deviation)": f"{ended[look].std():.3f}", "broke off": failed,
            "worse than bicubic": int((ended[look] > floor).sum()), "within 5 % of the best": f"{(ended[look] <= 1.05 * best).sum() / len(own):.0%}"}


if len(tried):
    usual = tried[(tried.method == "GAN") & (tried.weight == 1.0)]
    families = {"ITER": tried[tried.method == "ITER"], "GAN, usual weight": usual, "GAN, three weights": tried[tried.method == "GAN"]}
    display(table({name: usable(own) for name, own in families.items()}))
else:
    print("The grid has not been run for this copy of figures/11_rivals.json.")

# %% [markdown]
# Our own VQGAN can have an adversary too (Stage I). "No GAN" in the paper means that Stages II and III have none; Stage I of the published
# model has one. `tiny` has none at all (`gan_start = 1`).
#
# ## 6. Noise that stays (Fig. 5)
#
# The paper shows a photo on which a diffusion model keeps noise that it should remove. To measure that: add noise to LQ, restore, and look
# at what stands out from its own local mean where HQ is flat.

# %%
photo = experiments.unseen_photos(1)
flat = experiments.make_pairs(photo, run.tier, size.side, run.seed)[0]
where = measure.flat_places(flat.hq)
assert abs(float(where.float().mean()) - 0.3) < 0.02
quiet, loud = (measure.noise_left((flat.hq + s / 255 * torch.randn(flat.hq.shape, generator=run.generator(9, "cpu"))).clamp(0, 1), flat.hq)
               for s in (0, 20))
print(f"left in HQ itself: {quiet:.1f} levels; in HQ with noise of 20 levels: {loud:.1f}")
assert loud > quiet + 10

# %%
if LIVE:
    noise = []
    for pair in pairs:
        harder = measure.noisy_pair(pair, 25)
        images = {"HQ": pair.hq, "ITER": model.restore(harder.lq.to(run.device)).image,
                  **{name: trained[what].restore(harder.lq.to(run.device), 16) for name, what in (("LDM", "rival-ldm"), ("GAN", "rival-gan"))}}
        noise += [{"photo": pair.name, "sigma": 25, "family": family, "left": measure.noise_left(image.cpu().float(), pair.hq)}
                  for family, image in images.items()]
else:
    noise = recorded["noise"]
noise = pd.DataFrame(noise).assign(seed=0)
left = {(sigma, family): experiments.interval(own, "left") for (sigma, family), own in noise.groupby(["sigma", "family"], sort=False)}
pd.Series({f"noise {sigma:g}, {family}": ledger.show(found) for (sigma, family), found in left.items()}).to_frame("levels left in flat places")

# %% [markdown]
# *HQ's own value is the goal: less is too smooth, more is noise that stayed, or texture that was put in its place.*
#
# ## 7. Table 1
#
# NIQE and PI as the paper prints them (Chen et al. 2024, Table 1), for four sets of real photos.

# %%
PAPER = {
    "RealSR": "6.24/8.16 5.74/4.51 4.83/4.54 4.76/4.65 4.74/4.51 4.69/4.50 5.56/4.75 4.67/4.47",
    "DRealSR": "6.58/8.58 6.14/4.78 4.98/4.77 4.71/4.74 4.20/4.30 4.82/4.76 5.14/4.46 4.15/4.27",
    "DPED-iphone": "6.01/7.48 5.99/4.55 5.44/5.02 4.95/4.78 5.11/4.36 5.56/5.36 5.89/4.61 4.84/4.23",
    "RealSRSet": "7.98/7.35 5.49/4.79 5.65/4.92 5.30/4.68 5.18/4.31 5.25/4.59 6.03/4.60 5.29/4.62",
}
NAMES = ["Bicubic", "BSRGAN", "Real-ESRGAN", "SwinIR-GAN", "FeMaSR", "MM-RealSR", "LDM-BSR", "ITER"]
printed = {name: dict(zip(NAMES, line.split(), strict=True)) for name, line in PAPER.items()}
measured = {}
bench = experiments.bench_folder()
if bench is not None and (bench / "published").is_dir() and metrics.available("niqe") and not LIVE:
    for name, folder_ in (("BSRGAN", "bsrgan"), ("Real-ESRGAN", "realesrgan"), ("FeMaSR", "femasr")):
        if (bench / "published" / folder_).is_dir():
            scores = evaluation.measure(bench / "published" / folder_, ["niqe"])
            measured[name] = experiments.interval(pd.DataFrame(scores).rename(columns={"image": "photo", "value": "niqe"}).assign(seed=0), "niqe")
table({name: {peer: value.replace("/", " / ") for peer, value in line.items()} for name, line in printed.items()})

# %%
ours = {name: {"NIQE in the paper": printed["RealSRSet"][name].split("/")[0], "NIQE here [95 %]": ledger.show(found), "photos": found["n"]}
        for name, found in measured.items()}
table(ours) if ours else print("Peers' outputs are not here, or this is smoke: see `python -m data_prep bench`, and notebook 09.")

# %% [markdown]
# RealSRSet can be measured here where its photos and a peer's outputs are. The other three sets: `python -m data_prep realsr drealsr
# dped-iphone` gets them, and `itersr evaluate --outputs NAME=DIR` measures any method on them. One peer runs on any photos:
#
# ```
# python -m data_prep realesrgan
# itersr evaluate --peer realesrgan --inputs LQ --reference HQ
# ```
#
# ## 8. What each costs

# %%
table({family: {"parameters trained, M": f"{own['trained'] / 1e6:.1f}", "used at inference, M": f"{own['used'] / 1e6:.1f}",
                "minutes of training": "a few steps" if LIVE else f"{minutes:g}", "calls at its best": int(best[family].calls.iloc[0]),
                "seconds a picture": f"{best[family].seconds.median():.2f}"} for family, own in costs.items()})

# %% [markdown]
# ## What was learned

# %%
display(Markdown(f"""
- Exact continuous diffusion on one pixel: {near_truth[1]:.0%} of the answers are real after one step, {near_truth[100]:.0%} after 100.
- Calls within .01 {LOOK} of one's own best: {', '.join(f'{family} {n}' for family, (n, _) in need.items())}.
- {'; '.join(f'{name}: {ledger.show(found)}' for name, found in against.items())}.
{'- Networks trained for seconds: these numbers show that the code runs, and not which family is better.' if LIVE else ''}
"""))

# %% [markdown]
# - The mean of sharp answers is blurred. Each family has its own way out: an adversary, many small steps, or tokens.
# - Compare at equal time, at equal calls, and each at its own best.
# - "Easier to train" is a distribution over settings, not a story about one run.
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
assert euler(3.0, 3.0 - 1.0, 1) == 1.0, "one step from ε = 3 with the true velocity ε − z arrives at z = 1"
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
assert usable_share([0.2, 0.205, 0.3, float("nan")]) == 0.5, "two of four runs; one that broke off counts among the four"
assert usable_share([1.0]) == 1.0

# %% [markdown]
# **Next:** train all three on your own photos for the same minutes, and give the folder to `python -m itersr.lab.rivals.measure`.

# %%
path = run.record(
    measured=f"calls within .01 {LOOK} of the best: " + ", ".join(f"{family} {n}" for family, (n, _) in need.items()),
    against={**against, **equal}, need={family: {"calls": n, "best": mean} for family, (n, mean) in need.items()},
    near_truth={str(n): share for n, share in near_truth.items()}, costs=costs, noise={f"{s:g}, {f}": found for (s, f), found in left.items()},
    niqe={name: found for name, found in measured.items()}, photos=int(rows.photo.nunique()), seeds=int(rows.seed.nunique()),
)
