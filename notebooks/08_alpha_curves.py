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
# # 08 · α curves
#
# **What you build.** The curves of Fig. 7: what the threshold α does to the number of steps, to fidelity and to texture; a
# correction that makes α the probability that it is meant to be; and the same question asked of every other dial of
# Algorithm 2.
#
# **Why.** α is the one number a user turns. "Good" is a judgement of φ_e, and a judgement that is too strict or too generous
# bends the whole curve. Before one argues about the shape of a curve, its axis has to mean something.
#
# **What you need.** Algorithm 2 ([06](06_adaptive_inference.ipynb)), intervals and paired differences
# ([07](07_topk_vs_evaluator.ipynb)). Symbols: [one table](symbols.md). **Time.** At `smoke`, two photos and one seed, about a
# minute on two CPU cores; at `tiny`, sweeps over 27 photos and three seeds, about an hour, resumed where they stopped.

# %% tags=["parameters"]
tier = "tiny"
seed = 0
device = "auto"
data = None
out = None

# %%
from itersr.lab.reproduce import Run

run = Run.start("08", tier=tier, seed=seed, device=device, data=data, out=out)

# %%
import math
import time

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from IPython.display import Markdown, display

from itersr.lab import experiments, ledger
from itersr.lab.experiments import Method, apply
from itersr.sampling import RELEASED, Sampler
from itersr.schedule import start_step, tokens_to_keep


# %% [markdown]
# ## From α to T_s, by hand
#
# φ_e gives every token of S_l a probability of being good. Those with at least α are good: m_s. Algorithm 2, line 6, then
# starts at the smallest t whose S_t keeps no more tokens than that; the more are good, the later the start, the fewer the
# steps.

# %%
def start_by_hand(probability, alpha, T, kind="cosine"):
    n = probability.numel()
    good = int((probability >= alpha).sum()) if alpha < 1 else 0  # at α = 1 nothing is trusted
    for t in range(T + 1):
        if tokens_to_keep(t, T, n, kind) <= good:
            return t


p = torch.rand(64, generator=run.generator(1, "cpu"))
for alpha in (0.0, 0.2, 0.5, 0.9, 1.0):
    good = int((p >= alpha).sum()) if alpha < 1 else 0
    assert start_by_hand(p, alpha, 8) == start_step(good, 64, 8)

# %% tags=["nbval-check-output"]
print("good of 64:", list(range(0, 65, 8)))
for kind in ("cosine", "linear", "square"):
    print(f"T_s, {kind:7}", [start_step(good, 64, 8, kind) for good in range(0, 65, 8)])

# %% [markdown]
# ## A property, before any network: what shape must the curve have?
#
# Suppose φ_e's probabilities were uniform over the tokens. Then α is the share of tokens to redo, and T_s follows from γ alone.
# A staircase that rises with α, from 0 to T: any other picture below is the doing of φ_e's probabilities.

# %%
axis = np.linspace(0, 1, 201)
fig, ax = plt.subplots(figsize=(5, 3))
for kind in ("cosine", "linear", "square"):
    ax.step(axis, [start_step(round((1 - a) * 1024), 1024, 8, kind) for a in axis],
            where="mid", label=kind)
ax.set(xlabel="share of tokens judged bad", ylabel="T_s of 8")
ax.legend(title="γ")
fig.tight_layout()
path = run.save_figure(fig, "start_step")

# %% [markdown]
# *Across: the share of tokens judged bad; up: T_s, a colour for each γ. The same share of bad tokens starts earlier or later
# under another γ: α means little without naming the schedule.*
#
# ## The networks, and photos that none of them saw
#
# How much is measured at each tier: a look at `smoke`, the experiment elsewhere.

# %% tags=["nbval-check-output"]
from itersr.config import tier as tier_of

for name in ("smoke", "tiny", "small", "paper"):
    s = experiments.sizes(tier_of(name))
    print(f"{name:5} crops of {s.side}², {len(s.seeds)} seed(s), {len(s.alphas)} α, T of", *s.steps)

# %%
from itersr.lab.course import model_to_measure

model = model_to_measure(run.tier, run.data, run.checkpoints, seed=run.seed, device=str(run.device))
size = experiments.sizes(run.tier, run.seed)
pairs = experiments.make_pairs(
    experiments.unseen_photos(size.photos, experiments.bench_folder()),
    model.tier, size.side, run.seed)
T = experiments.alg2(model).steps
store = run.checkpoints / "rows.jsonl"
print(f"{len(pairs)} photos, crops of {size.side}², {len(size.seeds)} seed(s), "
      f"{len(size.alphas)} values of α, T = {T}")

# %% [markdown]
# The hand-made T_s against the package, on a real photo:

# %%
logits, good = experiments.judge(model, pairs[:1])
for alpha in size.alphas:
    _, restored, _ = apply(
        model, Method("raw", sampler=experiments.alg2(model, alpha=alpha), shift=0.0), pairs[0])
    by_hand = start_by_hand(logits.sigmoid().float(), alpha, T)
    assert abs(by_hand - int(restored.start)) <= (0 if alpha in (0, 1) else 1), (
        alpha, by_hand, int(restored.start))

# %% [markdown]
# ## Is α a probability?
#
# φ_e learned on S_l *and* on φ_r's samples, with another share of good tokens than S_l has on new photos. A classifier that
# ranks well but has the wrong prior is wrong by a *shift of its logit*, and one number puts that right: the shift b with
#
# mean σ(logit + b) = share of good tokens.
#
# That is also the maximum of the likelihood in b (set its derivative to zero). Fitted on photos of the *training* side,
# never on those that are measured below. By hand: walk along b and look.

# %%
side = 128 if run.tier.name == "smoke" else 256
fit_pairs = experiments.make_pairs(experiments.held_out(run.data), model.tier, side, run.seed)
assert not {pair.name for pair in fit_pairs} & {pair.name for pair in pairs}
fit_logits, fit_good = experiments.judge(model, fit_pairs)
candidates = torch.linspace(-8, 8, 1601, dtype=torch.float64)
likelihood = torch.stack([
    torch.where(fit_good, torch.nn.functional.logsigmoid(fit_logits + b),
                torch.nn.functional.logsigmoid(-fit_logits - b)).mean()
    for b in candidates
])
by_hand = candidates[likelihood.argmax()].item()
fitted = experiments.calibrate(model, experiments.held_out(run.data), side=side, seed=run.seed)
assert abs(by_hand - fitted) < 0.02, (by_hand, fitted)
# weights that ship carry the shift that the held-out photos of their own training gave
shift = model.calibration or fitted


# %%
def reliability(logits, good, bins=8):
    """Per bin of φ_e's probability: its mean, the share that is good, how many."""
    p = logits.sigmoid()
    edges = torch.linspace(0, 1, bins + 1, dtype=p.dtype)
    found = []
    for low, high in zip(edges[:-1], edges[1:]):
        inside = (p >= low) & (p <= high if high == 1 else p < high)
        if inside.sum() >= 20:
            found.append((p[inside].mean().item(), good[inside].double().mean().item(),
                          int(inside.sum())))
    return np.array(found)


logits, good = experiments.judge(model, pairs)
fig, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2))
left.plot([0, 1], [0, 1], color="0.7", lw=1)
for name, b in (("raw", 0.0), ("corrected", shift)):
    found = reliability(logits + b, good)
    left.plot(found[:, 0], found[:, 1], "o-", ms=4, label=name)
    right.hist((logits + b).sigmoid(), bins=40, range=(0, 1), histtype="step", label=name)
left.set(xlabel="φ_e says", ylabel="share that equals S_h", xlim=(0, 1), ylim=(0, 1))
right.set(xlabel="φ_e's probability of “good”", ylabel="tokens of S_l")
left.legend()
fig.tight_layout()
path = run.save_figure(fig, "reliability")
gap = {name: abs(float((logits + b).sigmoid().mean() - good.double().mean()))
       for name, b in (("raw", 0.0), ("corrected", shift))}

# %% [markdown]
# *Left: each point is a bin of tokens; on the grey diagonal, α means what it says. Right: where α lies in the tokens'
# probabilities decides how many are kept; a curve over α is flat wherever there are none. Bins of fewer than 20 tokens are left
# out.*

# %%
display(Markdown(
    f"On these photos **{good.double().mean():.1%}** of S_l's tokens are good. "
    f"φ_e says {logits.sigmoid().mean():.1%} raw and "
    f"{(logits + shift).sigmoid().mean():.1%} with the shift of **{shift:+.2f}** "
    + (f"that is stored with the weights. The fit above, on {len(fit_pairs)} photos of the "
       f"training side, gives {fitted:+.2f}." if model.calibration else "of the fit above.")))

# %% [markdown]
# *Can the shift make the gap larger?* Yes. It is the right one for the share of good tokens on the photos that it was fitted
# on, and sets of photos differ in that share by more than a small shift changes. Where φ_e's mean is already right within a
# point or two, there is nothing left for one number to put right.
#
# A third way to place α: by **quantile**. To have a share q of tokens redone, take as α the q-quantile of φ_e's probabilities,
# on the same held-out training photos. It needs no belief in probabilities at all, only in φ_e's ranking.

# %%
quantiles = {q: float(torch.quantile(fit_logits.sigmoid(), q)) if 0 < q < 1 else q
             for q in size.alphas}
kept_share = {q: float((fit_logits.sigmoid() >= alpha).double().mean())
              for q, alpha in quantiles.items() if 0 < q < 1}
assert all(abs(share - (1 - q)) < 0.02 for q, share in kept_share.items()), kept_share

# %% [markdown]
# ## The sweep (Fig. 7)

# %%
# α as it is meant gets the fine grid, its two rivals a coarse one
coarse = size.alphas if len(size.alphas) <= 5 else size.alphas[::5]
rows = pd.concat([
    experiments.alpha_curve(model, pairs, size.seeds, {a: a for a in size.alphas},
                            name="corrected", shift=shift, store=store),
    experiments.alpha_curve(model, pairs, size.seeds, {a: a for a in coarse},
                            name="raw", shift=0.0, store=store),
    experiments.alpha_curve(model, pairs, size.seeds, {q: quantiles[q] for q in coarse},
                            name="quantile", shift=0.0, store=store),
])
names = [name for name in ("psnr", "ssim", "lpips", "gmsd", "niqe") if name in rows]
look = "lpips" if "lpips" in names else "gmsd"
LOOK = look.upper()
if look == "gmsd":
    print("LPIPS's weights are not on this machine (TORCH_HOME): GMSD stands in, "
          "and claims about LPIPS are not measured.")
curves = experiments.summary(rows, ["T_s", *names, "token accuracy"], by=("method", "dial"))
print(f"{len(rows)} rows: {len(size.alphas)} α corrected, {len(coarse)} raw, "
      f"{len(coarse)} by quantile, × {len(pairs)} photos × {len(size.seeds)} seed(s)")

# %%
# At α = 0 every token passes and the answer is S_l; at α = 1 none does and all T steps are run.
# T_s never falls with α.
for (method, photo, own_seed), own in rows.groupby(["method", "photo", "seed"]):
    starts = own.sort_values("dial").T_s.tolist()
    assert starts == sorted(starts) and starts[0] == 0 and starts[-1] == T, (method, photo, starts)

# %%
shown_values = ["T_s", "psnr", look, *(["niqe"] if "niqe" in names else [])]
fig, axes = plt.subplots(1, len(shown_values), figsize=(8, 3))
for ax, value in zip(axes, shown_values):
    for method, colour in zip(("raw", "corrected", "quantile"), ("0.6", "C0", "C1")):
        own = curves[(curves.method == method) & (curves.value == value)].sort_values("dial")
        ax.plot(own.dial, own["mean"], "o-", ms=2.5, color=colour, lw=1.3, label=method)
        ax.fill_between(own.dial, own.low, own.high, color=colour, alpha=0.15)
    ax.set_title({"T_s": "mean T_s", "psnr": "PSNR ↑", "niqe": "NIQE ↓"}.get(value, f"{LOOK} ↓"),
                 fontsize=9)
    ax.set_xlabel("α, or share to redo", fontsize=8)
    ax.tick_params(labelsize=7)
axes[0].legend(fontsize=7)
fig.tight_layout()
path = run.save_figure(fig, "alpha_curves")

# %% [markdown]
# *Lines: means; bands: 95 % intervals over photos and seeds. Dots: the α that were measured, closely for "corrected", and a few
# for "raw" and "quantile". In the paper's Fig. 7 PSNR falls with α while LPIPS has its best inside. Look first at the left
# panel: where T_s does not move, little else can. The bands are wide because photos differ, and grey lies mostly under blue:
# the paired differences below decide. For "quantile" the axis is the share of tokens to sample anew.*
#
# **Where is the best α?** The lowest point of a noisy curve looks better than it is, because it was chosen for being low. So
# for every photo α is chosen on the *other* photos.

# %%
inside = rows[(rows.method == "corrected") & rows.dial.between(0, 1, inclusive="neither")]
best = experiments.at_its_best(inside, look)
end = {a: rows[(rows.method == "corrected") & (rows.dial == a)] for a in (0.0, 1.0)}
evidence = {
    f"{LOOK}, best α inside − α = 0": experiments.difference(best, end[0.0], look),
    f"{LOOK}, best α inside − α = 1": experiments.difference(best, end[1.0], look),
    "PSNR, α = 1 − α = 0": experiments.difference(end[1.0], end[0.0], "psnr"),
    **{f"T_s, {name}, α = .75 − α = .25": experiments.difference(
           *(rows[(rows.method == name) & (rows.dial == a)] for a in (0.75, 0.25)), "T_s")
       for name in ("raw", "corrected")},
    **{f"PSNR at α = {a:g}": experiments.interval(end[a], "psnr") for a in end},
    **{f"token accuracy at α = {a:g}": experiments.interval(end[a], "token accuracy") for a in end},
}
where = inside.groupby("dial")[look].mean().idxmin()

# %%
# the same at temperature 1, plain sampling, on the coarse grid
warm = experiments.alpha_curve(model, pairs, size.seeds, {a: a for a in coarse},
                               name="temperature 1", shift=shift, temperature=1.0, store=store)
warm_best = experiments.at_its_best(warm[warm.dial.between(0, 1, inclusive="neither")], look)
evidence |= {
    f"{LOOK}, best α inside − α = {a:g}, at temperature 1": experiments.difference(
        warm_best, warm[warm.dial == a], look)
    for a in end
}
display(Markdown(
    f"Lowest mean {LOOK} inside, over all these photos, at α = **{where:g}** (corrected). "
    "With α chosen for each photo on the others, the best inner α differs from α = 0 (S_l) by "
    f"{ledger.show(evidence[f'{LOOK}, best α inside − α = 0'])} "
    "and from α = 1 (everything redone) by "
    f"{ledger.show(evidence[f'{LOOK}, best α inside − α = 1'])}. At temperature 1: "
    f"{ledger.show(evidence[f'{LOOK}, best α inside − α = 0, at temperature 1'])} and "
    f"{ledger.show(evidence[f'{LOOK}, best α inside − α = 1, at temperature 1'])}."))

# %% [markdown]
# ## Pictures at five α, with the masks they start from

# %%
five = [0.0, 0.25, 0.5, 0.75, 1.0]
shown = pairs[1]  # one of scikit-image's photos
fig, axes = plt.subplots(2, 6, figsize=(8, 2.9))
for column, alpha in enumerate(five):
    image, restored, _ = apply(
        model, Method("corrected", sampler=experiments.alg2(model, alpha=alpha), shift=shift),
        shown, run.seed)
    axes[0, column].imshow(image[0].permute(1, 2, 0).numpy())
    axes[0, column].set_title(f"α = {alpha:g}, T_s = {int(restored.start)}", fontsize=8)
    axes[1, column].imshow(restored.condition_keep[0].cpu(), cmap="gray", vmin=0, vmax=1,
                           interpolation="nearest")
axes[0, 5].imshow(shown.hq[0].permute(1, 2, 0).numpy())
axes[0, 5].set_title("HQ", fontsize=8)
axes[1, 5].imshow(
    (experiments.judge(model, [shown])[1]).view(restored.condition_keep.shape[1:]),
    cmap="gray", interpolation="nearest")
axes[1, 5].set_xlabel("truly good", fontsize=8)
for ax in axes.flat:
    ax.set(xticks=[], yticks=[])
axes[1, 0].set_ylabel("m_s", fontsize=8)
fig.tight_layout(pad=0.4)
path = run.save_figure(fig, "five_alphas")

# %% [markdown]
# *White: a token of S_l that is kept from the start. As α grows, fewer pass and the picture moves from E_l's answer to φ_r's.
# Right: the tokens that truly equal S_h's, which a perfect φ_e would keep.*
#
# ## How many steps?
#
# The abstract says that ITER "performs well within just 8 iterative steps" (Chen et al. 2024). Here T varies and every run
# starts from nothing, so that T steps are really made.

# %%
by_T = experiments.step_curve(model, pairs, size.seeds, size.steps, store=store)
T_curve = experiments.summary(by_T, [*names], by=("dial",))
fig, axes = plt.subplots(1, 2, figsize=(7, 2.8))
for ax, value in zip(axes, ("psnr", look)):
    own = T_curve[T_curve.value == value]
    ax.plot(own.dial, own["mean"], "o-", ms=4)
    ax.fill_between(own.dial, own.low, own.high, alpha=0.2)
    ax.set_xscale("log", base=2)
    ax.set_xticks(list(size.steps), [f"{t}" for t in size.steps], fontsize=7)
    ax.minorticks_off()
    ax.set(xlabel="T", title="PSNR ↑" if value == "psnr" else f"{LOOK} ↓")
fig.tight_layout()
path = run.save_figure(fig, "steps")
of_T = {t: by_T[by_T.dial == t] for t in size.steps}
most = max(size.steps)
evidence |= {
    f"{LOOK}, T = 8 − most steps": experiments.difference(of_T[8], of_T[most], look),
    f"{LOOK}, T = 1 − most steps": experiments.difference(of_T[1], of_T[most], look),
    f"{LOOK}, T = 1 − T = 8": experiments.difference(of_T[1], of_T[8], look),
}
display(Markdown(
    f"Against T = {most}: eight steps {ledger.show(evidence[f'{LOOK}, T = 8 − most steps'])}, "
    f"one step {ledger.show(evidence[f'{LOOK}, T = 1 − most steps'])} in {LOOK}."))

# %% [markdown]
# *Mean and 95 % interval (band) over photos and seeds, against T on a logarithmic axis. The bands overlap; the paired
# differences decide.*

# %%
one_step = evidence[f"{LOOK}, T = 1 − T = 8"]
told = {-1: "One step is better than eight", 1: "Eight steps are better than one",
        0: "One step and eight cannot be told apart"}[ledger.sign(one_step)]
display(Markdown(f"**{told}** in {LOOK}: T = 1 minus T = 8 is {ledger.show(one_step)}."))

# %% [markdown]
# **What more steps can and cannot do.** Several steps differ from one in this alone: later tokens are drawn knowing earlier
# ones. What that can win is limited by what tokens tell of each other beyond the LQ image, the **neighbour information**.
# [Notebook 04](04_refiner.ipynb) measures it for these networks: on photos with tokens of 4×4 pixels it is small.
#
# More steps can also do harm. A kept token that was drawn wrong is treated as true in all later steps, and the masks of φ_e
# prefer likely tokens, which works like a lower temperature ([07](07_topk_vs_evaluator.ipynb)). The curve shows the sum of all
# this and does not say how much each part is. [Notebook 10](10_where_steps_pay.ipynb) shows a world in which neighbours tell
# much: there one step is the worst choice.
#
# ## The other dials, one at a time
#
# Algorithm 2 as built in [06](06_adaptive_inference.ipynb) (cosine γ, the tier's temperature, kept tokens stay kept, adaptive
# start at the tier's α, corrected), and each setting changed alone. The last row is the `RELEASED` preset at the same
# temperature.

# %% tags=["nbval-check-output"]
plain = Sampler()
print("RELEASED differs from this Alg. 2 in:",
      {k: v for k, v in vars(RELEASED).items() if v != getattr(plain, k)})

# %%
changed = experiments.variants(model, pairs, size.seeds, size.temperatures,
                               shift=shift, store=store)
reference = changed[changed.method == "Alg. 2"]
lines = []
for name in changed.method.unique():
    own = changed[changed.method == name]
    line = {
        "setting": name,
        "mean steps": f"{own.run.mean():.1f}",
        "PSNR": ledger.show(experiments.interval(own, "psnr")),
        LOOK: ledger.show(experiments.interval(own, look)),
    }
    line[f"{LOOK}, change"] = (
        "–" if name == "Alg. 2" else ledger.show(experiments.difference(own, reference, look)))
    lines.append(line)
pd.DataFrame(lines).set_index("setting")

# %% [markdown]
# **Does the adaptive start save anything?** Steps are counted, seconds are measured on this machine; both paired by photo and
# seed.

# %%
full = changed[changed.method == "full start"]


def seconds_of(samplers, repeats=3):
    "Rows of the least seconds of several restorations of each photo, where the methods take turns."
    found = []
    for pair in pairs:
        taken = {name: [] for name in samplers}
        for _ in range(repeats):
            for name, sampler in samplers.items():
                began = time.perf_counter()
                model.restore(pair.lq, sampler, seed=run.seed, keep_steps=False)
                taken[name].append(time.perf_counter() - began)
        found += [{"method": name, "photo": pair.name, "seed": run.seed, "seconds": min(all_)}
                  for name, all_ in taken.items()]
    return pd.DataFrame(found)


# %%
with experiments.calibrated(model, shift):
    timed = seconds_of({"adaptive": experiments.alg2(model),
                        "full": experiments.alg2(model, adaptive=False)})
evidence |= {
    "steps, adaptive − full start": experiments.difference(reference, full, "run"),
    f"{LOOK}, adaptive − full start": experiments.difference(reference, full, look),
    "seconds, adaptive − full start": experiments.difference(
        timed[timed.method == "adaptive"], timed[timed.method == "full"], "seconds"),
}
display(Markdown(
    "Adaptive minus full start: "
    f"steps {ledger.show(evidence['steps, adaptive − full start'])} of {T}, "
    f"{LOOK} {ledger.show(evidence[f'{LOOK}, adaptive − full start'])}, "
    f"seconds {ledger.show(evidence['seconds, adaptive − full start'])}."))

# %% [markdown]
# *Why fewer steps need not mean fewer seconds.* The adaptive start has a price of its own: one more call of φ_e, on S_l. It
# pays where T_s falls well below T, and not where few tokens of S_l pass the threshold. The two take turns on each photo, and
# the least of three times counts.
#
# ## What was learned

# %%
at_half = curves[(curves.dial == 0.5) & (curves.value == "T_s")].set_index("method")["mean"]
changes = "makes smaller" if gap["corrected"] < gap["raw"] else "makes larger"
display(Markdown(
    "\n"
    f"- A shift of {shift:+.2f}, fitted on other photos, **{changes}** the gap between what φ_e "
    f"says and what is true: {100 * gap['raw']:.1f} percentage points without it, "
    f"{100 * gap['corrected']:.1f} with it.\n"
    f"- Mean T_s at α = .5: raw {at_half['raw']:.1f}, corrected {at_half['corrected']:.1f}, "
    f"by quantile {at_half['quantile']:.1f}, of {T}.\n"
    f"- From α = 0 to α = 1 PSNR changes by {ledger.show(evidence['PSNR, α = 1 − α = 0'])} dB.\n"
    "\n"
    f"Weights of `{model.tier.name}`, {len(pairs)} photos, {len(size.seeds)} seed(s). "
    f"With fewer than {ledger.FEWEST} photos no verdict is given, whatever the intervals say.\n"
))


# %% [markdown]
# - A threshold is only as meaningful as the probability it cuts: correct the prior on held-out training data, or place it by
#   rank.
# - Choose on some photos, score on others; otherwise the optimum of a noisy curve flatters itself.
# - One dial at a time, paired, against the same reference.
#
# ## Check yourself
#
# <details><summary>1. Why must α be corrected by a shift of φ_e's logit?</summary>
#
# φ_e's prior for "good" comes from its training maps. On new photos the share of good tokens differs, and α would not mean what
# it says.
#
# </details>
#
# <details><summary>2. Why is the best α chosen on the other photos?</summary>
#
# The lowest point of a noisy curve flatters itself: it was picked for being low.
#
# </details>
#
# <details><summary>3. PSNR falls as α grows. Is the picture getting worse?</summary>
#
# By PSNR, which prefers the safe S_l. LPIPS, which sees texture, mostly improves.
#
# </details>
#
# <details><summary>4. When does the adaptive start save time?</summary>
#
# When many tokens of S_l pass α, so that T_s is well below T. Each photo pays one more call of φ_e for it.
#
# </details>
#
# ## Exercises
#
# **1.** The *expected calibration error*: the mean of |said − true| over bins, weighted by their counts, from `reliability`'s
# rows.

# %% tags=["exercise"]
def calibration_error(bins):
    """bins: rows (mean probability, share good, count). Gives Σ count·|p − share| / Σ count."""
    raise NotImplementedError


# %% jupyter={"source_hidden": true} tags=["solution"]
def calibration_error(bins):
    """bins: rows (mean probability, share good, count). Gives Σ count·|p − share| / Σ count."""
    bins = np.asarray(bins, dtype=float)
    return float((bins[:, 2] * np.abs(bins[:, 0] - bins[:, 1])).sum() / bins[:, 2].sum())


# %% tags=["check"]
assert calibration_error([[0.5, 0.5, 10]]) == 0
assert math.isclose(calibration_error([[0.2, 0.4, 30], [0.9, 0.8, 10]]), 0.175)


# %% [markdown]
# **2.** Which α gives a wanted T_s for one photo? From φ_e's probabilities, find the *largest* α (among those probabilities)
# whose start is at most T_s.

# %% tags=["exercise"]
def alpha_for(probability, wanted, T, kind="cosine"):
    ("The largest of the given probabilities that, as α, starts at `wanted` or later "
     "in the schedule (T_s ≤ wanted).")
    raise NotImplementedError


# %% jupyter={"source_hidden": true} tags=["solution"]
def alpha_for(probability, wanted, T, kind="cosine"):
    ("The largest of the given probabilities that, as α, starts at `wanted` or later "
     "in the schedule (T_s ≤ wanted).")
    need = tokens_to_keep(wanted, T, probability.numel(), kind)  # so many must be good
    return float(probability.flatten().sort(descending=True).values[max(need, 1) - 1])


# %% tags=["check"]
assert alpha_for(p, 0, 8) == float(p.min())
for wanted in range(1, 8):
    alpha = alpha_for(p, wanted, 8)
    assert start_by_hand(p, alpha, 8) <= wanted
    larger = p[p > alpha]
    assert not len(larger) or start_by_hand(p, float(larger.min()), 8) > wanted


# %% [markdown]
# **3.** Choosing on the data that one scores on flatters. Show it on pure noise: given `scores` (settings, photos) of settings
# that are all equal, give the mean score of the best setting chosen on the same photos, and chosen, for each photo, on the
# others (lower is better).

# %% tags=["exercise"]
def chosen_both_ways(scores):
    """Mean score of the choice on the same photos and on the others; scores: (settings, photos)."""
    raise NotImplementedError


# %% jupyter={"source_hidden": true} tags=["solution"]
def chosen_both_ways(scores):
    """Mean score of the choice on the same photos and on the others; scores: (settings, photos)."""
    same = scores.mean(1).min()
    other = [scores[(scores.sum(1) - scores[:, i]).argmin(), i] for i in range(scores.shape[1])]
    return float(same), float(np.mean(other))


# %% tags=["check"]
assert chosen_both_ways(np.array([[0.0, 2.0], [1.5, 1.0]])) == (1.0, 1.75)
on_the_same, on_the_others = chosen_both_ways(np.random.default_rng(0).normal(size=(20, 200)))
assert on_the_same < -0.08 < on_the_others

# %% [markdown]
# **Next:** [09 · Benchmark](09_benchmark.ipynb): the method against others, on real photos.

# %%
path = run.record(
    measured=f"shift {shift:+.2f}; T_s at α .5 {at_half['corrected']:.1f} of {T}; "
             f"best {LOOK} inside at {where:g}",
    evidence=evidence, shift=shift, weights=experiments.fingerprint(model),
    photos=len(pairs), seeds=len(size.seeds), steps=T, side=size.side,
    best_alpha=float(where), share_good=float(good.double().mean()),
    conventions={name: experiments.metrics.describe(name) for name in names},
    curves=curves.to_dict("records"), T_curve=T_curve.to_dict("records"), settings=lines,
)
