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
# # 07 · Top-k or evaluator
#
# **What you build.** Three statistics that say whether a mask grows from its neighbours, a fair control for each, and the
# comparison of Fig. 8: who should choose the tokens to keep, φ_r's own confidence (top-k, as in MaskGIT) or the evaluator φ_e?
#
# **Why.** Chen et al. (2024) show pictures of masks. A picture persuades; it does not measure. Sampling alone makes a mask look
# even, so without random masks of equal size nobody can tell an evaluator's merit from the evenness of dice.
#
# **What you need.** Algorithm 2 ([06](06_adaptive_inference.ipynb)); the share of tokens kept at each step (γ). Symbols: [one
# table](symbols.md). **Time.** At `smoke`, two photos and one seed, about a minute on two CPU cores; at `tiny`, 27 photos and
# three seeds, about an hour. Finished rows are kept on disk.

# %% tags=["parameters"]
tier = "tiny"
seed = 0
device = "auto"
data = None
out = None

# %%
from itersr.lab.reproduce import Run

run = Run.start("07", tier=tier, seed=seed, device=device, data=data, out=out)

# %%
import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from IPython.display import Markdown, display

from itersr import masking
from itersr.lab import experiments, ledger
from itersr.lab.experiments import Method, apply, joins, moran, nearness
from itersr.lab.ledger import says
from itersr.sampling import Sampler, proposer, restore
from itersr.schedule import tokens_to_keep

# %% [markdown]
# ## One step chooses k tokens
#
# Every policy below keeps *the same number* of tokens at the same step, ⌈(1 − γ((t−1)/T))·N⌉ (Alg. 2). Only *which* ones
# differs. That makes the comparison fair: nothing but the choice can explain a difference.

# %% tags=["nbval-check-output"]
for kind in ("cosine", "linear"):
    print(f"{kind:7} T = 8, N = 64, kept after the step from t = 8 … 1:",
          [tokens_to_keep(t - 1, 8, 64, kind) for t in range(8, 0, -1)])

# %% [markdown]
# ## Three ways to choose, by hand
#
# Take a map of log-scores (higher: more trusted). *Greedy* keeps the k best. *Sampled* draws k without replacement, each next
# token with probability ∝ exp(score) of those left. *Random* ignores the score.

# %%
toy = torch.randn(1, 8, 8, generator=run.generator(1, "cpu")) - 2
noise = torch.rand(1, 8, 8, generator=run.generator(2, "cpu"))


def keep_greedy(score, k):
    order = sorted(range(score.numel()), key=lambda i: -score.flatten()[i].item())
    mask = torch.zeros(score.numel(), dtype=torch.bool)
    mask[order[:k]] = True
    return mask.view(score.shape)


assert torch.equal(keep_greedy(toy[0], 20),
                   masking.keep_best(masking.greedy(toy, noise, 0.5), 20)[0])

# %% [markdown]
# Sampling without replacement needs no loop: add Gumbel noise to the log-scores and keep the k largest. Is that really the
# same draw? The first token of a draw must fall on place i with probability softmax(score)_i. Count 20,000 draws.

# %%
small = torch.tensor([[[0.0, 1.0], [2.0, -1.0]]])
many = torch.rand(20_000, 2, 2, generator=run.generator(3, "cpu"))
first = masking.keep_best(masking.sampled(small.expand(20_000, 2, 2), many, 0.5),
                          1).double().mean(0)
wanted = small[0].flatten().softmax(0).view(2, 2).double()
assert (first - wanted).abs().max() < 0.015, (
    f"Gumbel top-1 gives {first.tolist()}, needed is {wanted.tolist()}")

# two tokens, drawn one after the other, by torch's own sampler
one_by_one = torch.zeros(2, 2, dtype=torch.float64)
pairs_drawn = torch.multinomial(small.flatten().softmax(0).expand(20_000, 4), 2,
                                generator=run.generator(4, "cpu"))
for place in range(4):
    one_by_one.view(-1)[place] = (pairs_drawn == place).any(1).double().mean()
both = masking.keep_best(masking.sampled(small.expand(20_000, 2, 2), many, 0.5),
                         2).double().mean(0)
assert (both - one_by_one).abs().max() < 0.015

# %% [markdown]
# The policies of the package: what they look at, and how they choose.

# %% tags=["nbval-check-output"]
for name, (scored, policy) in masking.POLICIES.items():
    print(f"{name:19} looks at {scored:11} and chooses by {policy.__name__}")


# %% [markdown]
# ## Statistic 1: how near do new tokens lie to old ones?
#
# For each newly kept token, the distance to the nearest token kept before; the mean of it, divided by the mean over *all* free
# places. A policy that picks free places at random gets exactly 1 on average. Less than 1: the mask grows from its neighbours.

# %%
def nearness_by_hand(new, kept):
    h, w = kept.shape
    old = [(y, x) for y in range(h) for x in range(w) if kept[y, x]]
    free = [(y, x) for y in range(h) for x in range(w) if not kept[y, x]]
    distance = {p: min(math.dist(p, q) for q in old) for p in free}
    chosen = [distance[p] for p in free if new[p]]
    return (sum(chosen) / len(chosen)) / (sum(distance.values()) / len(distance))


kept = torch.zeros(8, 8, dtype=torch.bool)
kept[2:4, 2:4] = True
ring = torch.zeros_like(kept)
ring[1:5, 1:5] = True
ring &= ~kept
assert math.isclose(nearness_by_hand(ring, kept), nearness(ring, kept))
corners = torch.zeros_like(kept)
corners[0, 7] = corners[7, 0] = corners[7, 7] = True
assert math.isclose(nearness_by_hand(corners, kept), nearness(corners, kept))


# %% [markdown]
# ## Statistics 2 and 3: join count and Moran's I
#
# The *join count* is how many pairs of neighbours are both kept, over what a random mask of equal size has. *Moran's I* is the
# correlation of a mask with itself one step aside: I = (n/W) · Σ_ij w_ij (x_i − x̄)(x_j − x̄) / Σ_i (x_i − x̄)², where w_ij is
# 1 for the four neighbours. A random mask has I = −1/(n−1), not 0, because one token cannot be drawn twice.

# %%
def moran_by_hand(keep):
    h, w = keep.shape
    x = keep.double()
    mean, above, weight = x.mean(), 0.0, 0
    for y in range(h):
        for z in range(w):
            for dy, dz in ((0, 1), (1, 0), (0, -1), (-1, 0)):
                if 0 <= y + dy < h and 0 <= z + dz < w:
                    above += (x[y, z] - mean) * (x[y + dy, z + dz] - mean)
                    weight += 1
    return float(h * w / weight * above / ((x - mean) ** 2).sum())


scattered = masking.random_mask(44, noise)[0]
assert math.isclose(moran_by_hand(scattered), moran(scattered), abs_tol=1e-12)
assert math.isclose(moran_by_hand(kept), moran(kept), abs_tol=1e-12)

# %% [markdown]
# A second opinion that shares no line with either: the neighbours as a sparse matrix A, built from two paths.
# Then the join count is xᵀAx/2 and Moran's I is a quotient of quadratic forms.

# %%
from scipy import sparse


def by_matrix(keep):
    h, w = keep.shape
    path = lambda n: sparse.diags([1.0, 1.0], [-1, 1], shape=(n, n))
    A = sparse.kron(sparse.identity(h), path(w)) + sparse.kron(path(h), sparse.identity(w))
    x = keep.double().numpy().ravel()
    d = x - x.mean()
    return x @ A @ x / 2, len(x) / A.sum() * (d @ A @ d) / (d @ d)


for mask in (kept, ring, scattered):
    count, value = by_matrix(mask)
    assert math.isclose(moran(mask), value, abs_tol=1e-12)
    assert math.isclose(joins(mask),
                        count / experiments.expected_joins(mask.shape, int(mask.sum())))

# %% [markdown]
# Masks whose answer one knows. A block is as local as can be, a chequerboard the opposite; 1,000 random masks of 32 tokens
# average to the values that the formulas promise.

# %% tags=["nbval-check-output"]
block = torch.zeros(8, 8, dtype=torch.bool)
block[:4] = True
board = torch.tensor([[(y + x) % 2 == 0 for x in range(8)] for y in range(8)])
controls = {s.__name__: experiments.random_band(s, (8, 8), 32,
                                                torch.Generator().manual_seed(0), 1000)
            for s in (joins, moran)}
for name, mask in (("block", block), ("chequerboard", board)):
    print(f"{name:13} {int(mask.sum())} of 64 kept   joins {joins(mask):.2f}   "
          f"Moran's I {moran(mask):+.2f}")
assert abs(controls["joins"].mean() - 1) < 0.02 and abs(controls["moran"].mean() + 1 / 63) < 0.01
print("random masks  32 of 64 kept   joins 1.00   "
      "Moran's I -1/63 (mean of 1,000, within .02 and .01)")

# %% [markdown]
# ## A property, before any network: confidence feeds on its neighbours
#
# Why should top-k masks spread? Make φ_r up: it is more confident the nearer a known token is, as any network that reads its
# neighbours will be. Make φ_e up: it judges each token for itself. Then let Algorithm 2 run with both.

# %%
from scipy.ndimage import distance_transform_edt


def made_up_refiner(tokens, keep, condition, condition_keep):
    near = (
        torch.zeros(keep.shape) if not keep.any() else
        torch.from_numpy(np.exp(-distance_transform_edt(~keep[0].numpy()) / 2))[None].float()
    )
    logits = torch.zeros(1, 2, *keep.shape[1:])
    logits[:, 1] = 1 + 4 * near + 0.1 * lone  # one of two codes, the surer the nearer
    return logits


# %%
made_up_map = torch.rand(1, 16, 16, generator=run.generator(5, "cpu"))
lone = torch.rand(1, 16, 16, generator=run.generator(6, "cpu"))
blank = torch.zeros(1, 16, 16, dtype=torch.long)
toy_runs = {
    policy: restore(blank, Sampler(steps=6, policy=policy, adaptive=False, temperature=0),
                    propose=proposer(made_up_refiner),
                    evaluator=lambda tokens, condition: made_up_map.log(),
                    generators=[run.generator(7, "cpu")])
    for policy in ("topk", "evaluator_greedy", "random")
}


# %%
def show_masks(runs, title):
    """Rows: steps; columns: policies. Dark: kept before; light: newly kept; white: masked."""
    steps = max(sum(s.score is not None for s in r.steps) for r in runs.values())
    fig, axes = plt.subplots(steps, len(runs),
                             figsize=(min(8, 1.15 * len(runs)), 0.95 * steps + 0.5),
                             squeeze=False)
    for column, (name, restored) in enumerate(runs.items()):
        before = restored.condition_keep[0].cpu()
        for row, s in enumerate(s for s in restored.steps if s.score is not None):
            now = s.keep[0].cpu()
            axes[row, column].imshow(before.int() * 2 + (now & ~before).int(), cmap="Blues",
                                     vmin=0, vmax=2, interpolation="nearest")
            axes[row, column].set(xticks=[], yticks=[])
            axes[0, column].set_title(name.replace("_", "\n"), fontsize=7)
            axes[row, 0].set_ylabel(f"t = {s.t}", fontsize=7)
            before = now
    fig.suptitle(title, fontsize=9)
    fig.tight_layout()
    return fig


# %%
fig = show_masks(toy_runs, "Made-up networks: top-k grows from what it has")
path = run.save_figure(fig, "made_up_masks")

# %% [markdown]
# *Rows: steps. Light: newly kept, dark: kept before, white: masked. Top-k, left, builds islands; a score that judges each token
# alone, and dice, do not.* The statistic must see it:

# %%
toy_near = {
    name: float(np.mean([s["nearness"] for s in experiments.mask_statistics(r)
                         if s["nearness"] is not None]))
    for name, r in toy_runs.items()
}
display(Markdown("Mean nearness: "
                 + ", ".join(f"{name} **{value:.2f}**" for name, value in toy_near.items())))
assert toy_near["topk"] < 0.8 < toy_near["evaluator_greedy"], toy_near
assert abs(toy_near["random"] - 1) < 0.25, toy_near

# %% [markdown]
# ## The trained networks
#
# The weights that ship with the package; a tier that does not ship is taken from this run's earlier notebooks, or trained now.

# %%
from itersr.lab.course import model_to_measure

model = model_to_measure(run.tier, run.data, run.checkpoints, seed=run.seed, device=str(run.device))
size = experiments.sizes(run.tier, run.seed)
pairs = experiments.make_pairs(
    experiments.unseen_photos(size.photos, experiments.bench_folder()),
    model.tier, size.side, run.seed)
T = experiments.alg2(model).steps
print(f"{len(pairs)} photos that no tier trains on, crops of {size.side}², "
      f"{len(size.seeds)} seed(s), T = {T}")

# %% [markdown]
# All policies start at t = T from nothing known. An adaptive start would give the oracle, which judges S_l differently, other
# T_s and other k. The **oracle** is an evaluator that knows S_h: no φ_e can answer Eq. 5's question better. It shows what masks
# could buy where nearness to HQ is measured (PSNR, LPIPS); NIQE, which knows no HQ, need not agree. It is one line: `log 1`
# where a proposed token equals S_h's, `log .001` elsewhere.

# %%
s_h = experiments.tokens_of(model, pairs[0])
knows = experiments.oracle(s_h)
assert (knows(s_h, s_h) == 0).all()
assert torch.allclose(knows(s_h + 1, s_h).exp().cpu(), torch.tensor(1e-3))

# %% [markdown]
# ### What even the best φ_e could know
#
# Before measuring, think about what can come out. Eq. 5 asks φ_e whether a token *equals* S_h. At inference every token of the
# map was drawn by φ_r (or E_l) from the LQ image; S_h is another draw from that same image. Given the LQ image, the map
# therefore holds nothing about S_h, and the best possible answer is p(token | LQ), which is φ_r's own confidence. [Notebook
# 05](05_evaluator.ipynb) ("Equality is not coherence") tests it by regression: beside φ_r's log-probability, φ_e adds hardly
# anything. So φ_e's masks can do what confidence does, keep likely tokens, and that works like a lower temperature. What would
# be worth more is a judge of whether tokens *fit each other*: [notebook 10](10_where_steps_pay.ipynb) looks for one.

# %%
rows = experiments.policies(model, pairs, size.seeds, store=run.checkpoints / "rows.jsonl")
names = [name for name in ("psnr", "ssim", "lpips", "gmsd", "niqe") if name in rows]
look = "lpips" if "lpips" in names else "gmsd"
if look == "gmsd":
    print("LPIPS's weights are not on this machine (TORCH_HOME): GMSD stands in, "
          "and claims about LPIPS are not measured.")
print(f"{len(rows)} rows: {rows.method.nunique()} methods × {len(pairs)} photos × "
      f"{len(size.seeds)} seed(s)")

# %% [markdown]
# **The fairness check.** At every step, every policy kept the same number of tokens.

# %%
steps = experiments.steps_of(rows)
assert (steps.groupby(["photo", "t"]).k.nunique() == 1).all()
n_tokens = s_h[0].numel()
assert [
    int(k) for k in
    steps[steps.photo == pairs[0].name].groupby("t").k.first().sort_index(ascending=False)
] == [tokens_to_keep(t - 1, T, n_tokens) for t in range(T, 1, -1)]

# %% [markdown]
# ## (a) The masks of every step, side by side (Fig. 8)

# %%
base = experiments.alg2(model, adaptive=False)
shown = pairs[1]  # one of scikit-image's photos
traces, pictures = {}, {}
for name in [*masking.POLICIES, "oracle"]:
    sampler = base if name == "oracle" else experiments.alg2(model, adaptive=False, policy=name)
    method = Method(name, "oracle" if name == "oracle" else "iter", sampler)
    pictures[name], traces[name], _ = apply(model, method, shown, run.seed)
fig = show_masks(traces, f"{shown.name}, {model.tier.name}: "
                         "newly kept tokens (light) and those kept before (dark)")
path = run.save_figure(fig, "masks")

# %% [markdown]
# *Rows: steps, columns: policies. The last step, t = 1, keeps all and is not drawn. Light: newly kept, dark: kept before,
# white: masked. Read a column downwards. Where light tokens hug dark ones, the mask grows from its neighbours; Halton's order
# is the other extreme, spread by construction; compare the evaluator's column with `random`'s, not with an empty picture.*
#
# ## (b) Locality, measured against random masks
#
# The policies' noise comes from the seed alone. So `random` draws the same masks on every photo, and its mean rests on as many
# masks as there are seeds. The grey band holds 95 % of such means, of random masks of that size. At a step where a policy lies
# in the band, Moran's I does not tell its masks from random ones.

# %%
runs = len(size.seeds)  # not × photos: all photos share a seed's masks
band = {}  # t: where 95 % of the means over `runs` random masks lie
for t in range(2, T + 1):
    k = tokens_to_keep(t - 1, T, n_tokens)
    draws = experiments.random_band(moran, s_h.shape[1:], k, run.generator(10 + t, "cpu"),
                                    1000 * runs).view(1000, runs).mean(1)
    band[t] = tuple(np.quantile(draws.numpy(), [0.025, 0.975]))

# %%
by_step = steps.groupby(["method", "t"])[["nearness", "moran", "joins"]].mean().reset_index()
fig, axes = plt.subplots(1, 2, figsize=(8, 3.4))
axes[0].axhline(1, color="0.4", lw=1, ls="--")
axes[1].fill_between(list(band), *zip(*band.values()), color="0.85", label="random masks, 95 %")
colours = dict(zip(masking.POLICIES, plt.cm.tab10.colors)) | {"oracle": "k"}
for axis, value in zip(axes, ("nearness", "moran")):
    for name, colour in colours.items():
        own = by_step[(by_step.method == name) & by_step[value].notna()]
        axis.plot(own.t, own[value], "o-", ms=3, lw=1, color=colour, label=name)
    axis.set(xlabel="t (time runs to the left)", xticks=range(2, T + 1))
axes[0].set_title("distance of new to kept, over random", fontsize=9)
axes[1].set_title("Moran's I of the mask", fontsize=9)
axes[1].legend(fontsize=6, loc="center left", bbox_to_anchor=(1, 0.5))
fig.tight_layout()
path = run.save_figure(fig, "locality")

# %% [markdown]
# *Means over photos and seeds at each step; a colour for each policy, the oracle black. Left: the dashed line at 1 is a random
# choice; below it masks grow from their neighbours. At the first step nothing was kept before, so there is no distance.
# `random` itself strays from 1, because it rests on one mask a seed. Right: the grey band is that of random masks.*
#
# Note the **greedy** evaluator. If it clusters while the sampled one does not, then the evenness comes from the sampling,
# and what the evaluator adds has to show in the quality, not in the look of the masks.

# %%
per_run = steps.groupby(["method", "photo", "seed"], as_index=False, sort=False)[
    ["nearness", "moran", "joins", "kept right"]].mean()
order = [*masking.POLICIES, "oracle"]
same = per_run[per_run.method == "random"].groupby("seed").moran
assert (same.max() - same.min() < 1e-9).all(), "random masks differ between photos"
inside = {name: sum(low - 1e-9 <= own[t] <= high + 1e-9 for t, (low, high) in band.items())
          for name, own in by_step.set_index("t").groupby("method").moran}
nearness_of = {name: experiments.interval(per_run[per_run.method == name], "nearness")
               for name in order}
moran_of = {name: experiments.interval(per_run[per_run.method == name], "moran") for name in order}
pd.DataFrame({
    "nearness [95 %]": {n: ledger.show(v) for n, v in nearness_of.items()},
    "Moran's I [95 %]": {n: ledger.show(v) for n, v in moran_of.items()},
    f"of {len(band)} steps, in the band": {n: inside[n] for n in order},
    "kept tokens right": {n: f"{per_run[per_run.method == n]['kept right'].mean():.1%}"
                          for n in order},
})

# %%
told = ("at the other steps its masks differ from random ones" if inside["evaluator"] < len(band)
        else "by Moran's I its masks cannot be told from random ones")
display(Markdown(
    f"Random masks lie in the band at {inside['random']} of {len(band)} steps; about one step in "
    f"twenty may be outside by chance. The sampled evaluator does at {inside['evaluator']}: "
    f"{told}. Its mean Moran's I is {moran_of['evaluator']['mean']:.3f}, "
    f"top-k's {moran_of['topk']['mean']:.3f}."))

# %% [markdown]
# The interval of `random` comes from one mask for each seed and is too narrow: the photos add no other masks. Compare `random`
# with the band. Halton's order draws nothing, and has no interval.
#
# ## (c), (d), (e) Quality: pictures, tokens, and the bounds
#
# Intervals are 95 %, by bootstrap over photos and seeds. With two photos, as at `smoke`, an interval is little more than the
# two values themselves: it says how little two photos prove.

# %%
table = experiments.summary(rows, [*names, "token accuracy"])
table["shown"] = [ledger.show(r) for r in table.to_dict("records")]
table.pivot(index="method", columns="value", values="shown").reindex(
    index=rows.method.unique(), columns=[*names, "token accuracy"]).fillna("–")

# %% [markdown]
# Arrows help: PSNR, SSIM and token accuracy ↑, LPIPS, GMSD and NIQE ↓. **Paired differences** say more than two separate
# intervals: the same photos and seeds, so their spread cancels out. Left of zero, the first is better.

# %%
of = {name: rows[rows.method == name] for name in rows.method.unique()}
LOOK = look.upper()
compared = {
    f"{LOOK}, evaluator − top-k": ("evaluator", "topk"),
    f"{LOOK}, evaluator − annealed top-k": ("evaluator", "topk_annealed"),
    f"{LOOK}, evaluator − confidence sampled": ("evaluator", "confidence_sampled"),
    f"{LOOK}, evaluator − Halton": ("evaluator", "halton"),
    f"{LOOK}, evaluator − random": ("evaluator", "random"),
    f"{LOOK}, evaluator − its greedy form": ("evaluator", "evaluator_greedy"),
    f"{LOOK}, oracle − evaluator": ("oracle", "evaluator"),
    f"{LOOK}, evaluator − one sample of E_l": ("evaluator", "one sample of E_l"),
    f"{LOOK}, evaluator − S_l": ("evaluator", "S_l"),
}
differences = {name: experiments.difference(of[a], of[b], look)
               for name, (a, b) in compared.items()}

# %%
# The same two critics over temperatures: masks of likely tokens act like a lower temperature,
# so one temperature is not enough.
temperatures = (0.7, 1.0) if run.tier.name == "smoke" else (0.5, 0.7, 0.85, 1.0)
warm = experiments.critics(model, pairs, size.seeds, temperatures, steps=T,
                           only=["random", "evaluator"],
                           store=run.checkpoints / "rows.jsonl", names=["psnr", look])
ours, dice = (warm[warm.method == f"{name}, T = {T}"] for name in ("evaluator", "random"))
differences |= {
    f"{LOOK}, evaluator − random, at temperature 1": experiments.difference(
        ours[ours.dial == 1], dice[dice.dial == 1], look),
    f"{LOOK}, evaluator − random, each at its best temperature": experiments.difference(
        experiments.at_its_best(ours, look), experiments.at_its_best(dice, look), look),
}

# %%
fig, axis = plt.subplots(figsize=(7, 3.2))
ledger.draw(axis, {name.partition(", ")[2]: d for name, d in differences.items()})
axis.set_xlabel(f"difference in {LOOK} (less is better): mean and 95 % interval")
fig.tight_layout()
path = run.save_figure(fig, "differences")

# %% [markdown]
# *Blue: the first is better, red: it is worse, grey: these photos and seeds do not decide (fewer than six photos never do: two
# that happen to agree prove nothing). Rows that name no temperature have that of the tier, the same on both sides.*

# %%
shown_pictures = {name: apply(model, Method(name, kind), shown)[0] for name, kind in
                  (("bicubic", "bicubic"), ("S_l", "S_l"), ("VQGAN bound", "bound"))}
shown_pictures |= {name: pictures[name] for name in ("topk", "evaluator", "random", "oracle")}
rows_of = ("bicubic", "S_l", "topk", "evaluator"), ("random", "oracle", "VQGAN bound", "HQ")
fig, axes = plt.subplots(2, 4, figsize=(8, 4.5))
for name, axis in zip(sum(rows_of, ()), axes.flat):
    image = shown.hq if name == "HQ" else shown_pictures[name]
    axis.imshow(image[0].permute(1, 2, 0).numpy())
    score = float(experiments.metrics.score(look, image, shown.hq))
    axis.set_title(name if name == "HQ" else f"{name}: {LOOK} {score:.3f}", fontsize=8)
    axis.axis("off")
fig.tight_layout(pad=0.3)
path = run.save_figure(fig, "pictures")

# %% [markdown]
# *One photo, and above each picture its distance to HQ by the metric named (less is better). `topk`, `evaluator`, `random` and
# `oracle`: Algorithm 2 from nothing known with these masks, at the same temperature and seed. The VQGAN bound is S_h, decoded.
# One photo decides nothing; the table and the intervals above are over all of them.*
#
# ## What was learned

# %%
near_gap = experiments.difference(per_run[per_run.method == "topk"],
                                  per_run[per_run.method == "evaluator"], "nearness")
accuracy = {name: experiments.interval(of[name], "token accuracy")
            for name in ("S_l", "evaluator", "topk", "random", "oracle")}
first = differences[f"{LOOK}, evaluator − top-k"]
control, sample = (differences[f"{LOOK}, evaluator − random"],
                   differences[f"{LOOK}, evaluator − one sample of E_l"])
display(Markdown(
    "\n"
    f"- Locality: top-k {nearness_of['topk']['mean']:.2f}, "
    f"sampled evaluator {nearness_of['evaluator']['mean']:.2f}, greedy evaluator\n"
    f"  {nearness_of['evaluator_greedy']['mean']:.2f}, "
    f"random {nearness_of['random']['mean']:.2f} (1 is expected of a random choice; "
    f"{runs} random mask(s) of each size).\n"
    f"  Top-k minus evaluator: {ledger.show(near_gap)}.\n"
    "- Quality: the evaluator's masks are "
    f"{says(first, 'better than', 'worse than', 'not told apart from')} top-k's in {LOOK} "
    f"({ledger.show(first)}).\n"
    "- The control: they are "
    f"{says(control, 'better than', 'worse than', 'not told apart from')} random masks "
    f"of the same size ({ledger.show(control)}),\n"
    f"  at temperature {base.temperature:g}. At temperature 1: "
    f"{ledger.show(differences[f'{LOOK}, evaluator − random, at temperature 1'])}; "
    "each at its best\n"
    "  temperature: "
    f"{ledger.show(differences[f'{LOOK}, evaluator − random, each at its best temperature'])}.\n"
    f"- An oracle would change {LOOK} by "
    f"{ledger.show(differences[f'{LOOK}, oracle − evaluator'])}: "
    "that is all that an evaluator which answers Eq. 5 could win here.\n"
    "- Against one plain sample of E_l, iterating is "
    f"{says(sample, 'better', 'worse', 'undecided')} ({ledger.show(sample)}).\n"
    f"- Tokens equal to S_h: S_l {accuracy['S_l']['mean']:.1%}, "
    f"evaluator {accuracy['evaluator']['mean']:.1%}, "
    f"top-k {accuracy['topk']['mean']:.1%}, oracle {accuracy['oracle']['mean']:.1%}.\n"
    "\n"
    f"Weights of `{model.tier.name}`, {len(pairs)} photos, {len(size.seeds)} seed(s), T = {T}.\n"
))


# %% [markdown]
# - A statistic without its control is a picture with digits.
# - Locality and quality are two questions; a mask may look even and help nobody.
# - Equal k, equal T, equal seeds, paired differences: then only the choice is left to explain what is seen.
#
# ## Check yourself
#
# <details><summary>1. Why must every policy keep the same number of tokens in a step?</summary>
#
# Else a difference could come from the number and not from the choice.
#
# </details>
#
# <details><summary>2. What is the control for "the masks look even"?</summary>
#
# Random masks of the same size. Sampling alone makes masks even.
#
# </details>
#
# <details><summary>3. Why do top-k masks grow from what they have?</summary>
#
# φ_r is surest next to tokens that it knows, so the next best token is a neighbour.
#
# </details>
#
# <details><summary>4. The evaluator's masks are better than random ones at one temperature, worse at another. What does that mean?</summary>
#
# Masks of likely tokens act like a lower temperature. The comparison is fair only at equal temperatures *and* with each at its
# best.
#
# </details>
#
# ## Exercises
#
# **1.** Write the mean distance of kept tokens to their *nearest other kept token* (double loop is fine). A block gives 1.

# %% tags=["exercise"]
def mean_gap(keep):
    """Mean distance from each kept token of a mask (h, w) to the nearest other kept token."""
    raise NotImplementedError


# %% jupyter={"source_hidden": true} tags=["solution"]
def mean_gap(keep):
    """Mean distance from each kept token of a mask (h, w) to the nearest other kept token."""
    places = [tuple(p) for p in keep.nonzero().tolist()]
    return sum(min(math.dist(p, q) for q in places if q != p) for p in places) / len(places)


# %% tags=["check"]
assert mean_gap(block) == 1
assert math.isclose(mean_gap(board), math.sqrt(2))


# %% [markdown]
# **2.** MaskGIT anneals: noise × 4.5 × the share of time left. Write a policy with any scale; at scale 0 it is top-k, at a huge
# scale it is random.

# %% tags=["exercise"]
def annealed_with(scale):
    """A policy (score, noise, time) -> merit whose Gumbel noise has weight scale · time."""
    def policy(score, noise, time):
        raise NotImplementedError

    return policy


# %% jupyter={"source_hidden": true} tags=["solution"]
def annealed_with(scale):
    """A policy (score, noise, time) -> merit whose Gumbel noise has weight scale · time."""
    def policy(score, noise, time):
        return score.double() + scale * time * masking.gumbel(noise)

    return policy


# %% tags=["check"]
assert torch.equal(annealed_with(4.5)(toy, noise, 0.5), masking.annealed(toy, noise, 0.5))
assert torch.equal(masking.keep_best(annealed_with(0)(toy, noise, 0.5), 20),
                   masking.keep_best(masking.greedy(toy, noise, 0.5), 20))
assert torch.equal(masking.keep_best(annealed_with(1e9)(toy, noise, 0.5), 20),
                   masking.keep_best(masking.uniform(toy, noise, 0.5), 20))


# %% [markdown]
# **3.** The expected join count of a random mask was taken from `expected_joins`. Derive it: there are h(w−1) + w(h−1) pairs of
# neighbours; with what probability are both of a pair among k of n tokens?

# %% tags=["exercise"]
def both_kept(k, n):
    """The probability that two given places are both among k of n, drawn without replacement."""
    raise NotImplementedError


# %% jupyter={"source_hidden": true} tags=["solution"]
def both_kept(k, n):
    """The probability that two given places are both among k of n, drawn without replacement."""
    return k * (k - 1) / (n * (n - 1))


# %% tags=["check"]
assert both_kept(2, 2) == 1 and both_kept(1, 5) == 0
assert math.isclose((8 * 7 + 8 * 7) * both_kept(32, 64), experiments.expected_joins((8, 8), 32))

# %% [markdown]
# **Next:** [08 · α curves](08_alpha_curves.ipynb): one threshold trades fidelity against texture.

# %%
evidence = {
    "nearness of top-k": nearness_of["topk"],
    "nearness of the evaluator": nearness_of["evaluator"],
    "nearness of the greedy evaluator": nearness_of["evaluator_greedy"],
    "nearness of random masks": nearness_of["random"],
    "nearness, top-k − evaluator": near_gap,
    "Moran's I of top-k": moran_of["topk"],
    "Moran's I of the evaluator": moran_of["evaluator"],
    **differences,
    **{f"token accuracy of {name}": value for name, value in accuracy.items()},
}
path = run.record(
    measured=f"nearness: top-k {nearness_of['topk']['mean']:.2f}, "
             f"evaluator {nearness_of['evaluator']['mean']:.2f}, "
             f"random {nearness_of['random']['mean']:.2f}",
    evidence=evidence, weights=experiments.fingerprint(model),
    photos=len(pairs), seeds=len(size.seeds), steps=T, side=size.side,
    conventions={name: experiments.metrics.describe(name) for name in names},
    rows=[{k: v for k, v in r.items()
           if k in ("method", "photo", "seed", "token accuracy", *names) and v == v}
          for r in rows.to_dict("records")],
    by_step=by_step.astype(object).where(by_step.notna(), None).to_dict("records"),
)
