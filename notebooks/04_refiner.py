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
# # 04 · The refiner φ_r
#
# **What you will build.** The network that adds texture: φ_r reads a map in which some tokens are masked, and says which token
# belongs at every masked place. You will write the diffusion process that masks them, the loss (Eq. 4), and φ_r's half of a
# step of the paper's Algorithm 1, each by hand first and then as a call of the module that must give the same numbers.
#
# **Why.** E_l ([notebook 03](03_lq_encoder.ipynb)) answers every place separately. The likeliest token everywhere gives a clean
# picture without texture. Independent samples have texture, but neighbours do not fit. φ_r predicts masked tokens *given their
# neighbours*: that is a diffusion model on tokens. A few of its steps can give texture that fits.
#
# **What you need.** Cross-entropy, embeddings, notebooks 02 and 03 (S_h, S_l, E_l). No knowledge of diffusion.
# Symbols: [one table](symbols.md).
#
# **How it is ordered.** Sections 1 to 5 have the paper's φ_r, sections 6 and 7 what trained weights do. Everything in which
# these weights go beyond the paper is in section 8.
#
# **Minutes.** Reading 40. As it stands the notebook shows `tiny`, whose weights ship. With `tier = "smoke"` the networks
# train here: the cells then take about a minute on two CPU cores (some more if notebooks 02 and 03 have not run yet), well
# under one on a GPU.

# %% tags=["parameters"]
tier = "tiny"
seed = 0
device = "auto"
data = None
out = None

# %%
from itersr.lab.reproduce import Run

run = Run.start("04", tier=tier, seed=seed, device=device, data=data, out=out)

# %%
import dataclasses
import json
import math

import matplotlib.pyplot as plt
import pandas as pd
import torch
from IPython.display import Markdown, display
from torch.nn import functional as F
from torch.utils.data import default_collate

from itersr.config import SwinConfig, TokenNetConfig
from itersr.lab import ledger
from itersr.lab.course import learning_curve, load_or_train, recipe
from itersr.lab.reproduce import ROOT
from itersr.losses import per_image
from itersr.masking import random_mask
from itersr.model import ITER
from itersr.pictures import bundled
from itersr.sampling import categorical
from itersr.schedule import gamma, share_revealed, tokens_to_keep, tokens_to_mask
from itersr.token_nets import Refiner
from itersr.training.algorithm1 import Algorithm1
from itersr.training.data import Crops, Photos, ranges, validation_pairs
from itersr.training.validate import Pair, neighbour_information


# %% [markdown]
# ## 1. Masking tokens is a diffusion process
#
# Diffusion destroys the data step by step and trains a network to undo it. On pixels one adds Gaussian noise. On tokens there
# is something simpler: at step t every kept token is masked with probability β_t, and **once masked it stays masked**. The
# mask token is an *absorbing* state. With K = 3 codes (and the mask as a fourth state) a step is this matrix; row = from,
# column = to.

# %%
def transition(beta: float, codes: int = 3) -> torch.Tensor:
    ("Q_t: a token stays what it is with 1 − β, becomes the mask with β; "
     "the mask stays the mask.")
    q = (1 - beta) * torch.eye(codes + 1, dtype=torch.float64)
    q[:, codes] += beta  # the last state is the mask: its own row becomes (0, 0, 0, 1)
    return q


transition(0.25)


# %% [markdown]
# Nobody wants to choose β_t. One chooses the **schedule** γ(r), the share of tokens that are masked at time r = t/T, with γ(0)
# = 0 and γ(1) = 1. Write γ_t = γ(t/T). β_t follows: of the tokens still kept at t − 1, the share 1 − γ_{t−1}, exactly γ_t −
# γ_{t−1} must go, so β_t = (γ_t − γ_{t−1}) / (1 − γ_{t−1}). The schedules here: linear r; cosine cos(π/2 · (1 − r)); square r²;
# cubic r³; sqrt √r.
#
# The **forward marginal** is the product of all steps, $Q_1 Q_2 \cdots Q_t$. Its first row says what token 0 has become after
# t steps. The table shows that it is "masked with probability γ(t/T), else untouched". So training can jump to any t at once
# and never walks there.

# %% tags=["nbval-check-output"]
def beta(t: int, T: int, kind: str) -> float:
    before, after = gamma((t - 1) / T, kind), gamma(t / T, kind)
    return (after - before) / (1 - before)


T, product = 8, torch.eye(4, dtype=torch.float64)
print("t   β_t     P(token 0)  P(1)    P(2)    P(mask)  γ(t/T)")
for t in range(1, T + 1):
    product = product @ transition(beta(t, T, "cosine"))
    first = product[0].tolist()
    print(f"{t}   {beta(t, T, 'cosine'):.4f}  {first[0]:.4f}      {first[1]:.4f}  {first[2]:.4f}  "
          f"{first[3]:.4f}   {gamma(t / T, 'cosine'):.4f}")
    assert abs(first[3] - gamma(t / T, "cosine")) < 1e-12

# %% [markdown]
# ### Exact counts
#
# A coin for every token gives γ·N masked tokens *on average*. The paper (RandomMask in Algorithm 1; Algorithm 2) uses **exact
# counts**: in training ⌈γ(r)·N⌉ tokens are masked; at inference S_t keeps ⌈(1 − γ(t/T))·N⌉. The table says how many of N = 64
# tokens S_t keeps, for T = 8. Inference starts in the right column, at t = 8, and goes left.

# %% tags=["nbval-check-output"]
print("kept of 64 at t =", *(f"{t:3d}" for t in range(T + 1)))
for kind in ("linear", "cosine", "square", "cubic", "sqrt"):
    print(f"{kind:>15}  ", *(f"{tokens_to_keep(t, T, 64, kind):3d}" for t in range(T + 1)))


# %% [markdown]
# Now by hand, in three lines. One uniform number a token decides which are masked: those with the largest numbers.

# %%
def random_mask_by_hand(r: float, noise: torch.Tensor) -> torch.Tensor:
    """m_t (h, w), True = keep: the ⌈γ(r)·N⌉ places of largest noise are masked, γ cosine."""
    # the 1e-9 forgives the last bit
    masked = math.ceil(math.cos(math.pi / 2 * (1 - r)) * noise.numel() - 1e-9)
    keep = torch.ones(noise.numel(), dtype=torch.bool)
    keep[noise.flatten().argsort(descending=True)[:masked]] = False
    return keep.view_as(noise)


noise = torch.rand(40, 8, 8, generator=run.generator(1, "cpu"))
for i, one in enumerate(noise):
    r = (i + 1) / 40
    assert torch.equal(random_mask_by_hand(r, one),
                       random_mask(tokens_to_mask(r, 64, "cosine"), one[None])[0])
print("RandomMask: three lines by hand == itersr.masking.random_mask, at 40 times r")


# %% [markdown]
# The chain and the schedule, compared on 4,000 tokens: at step t each kept token is masked with probability β_t.

# %%
def walk(kind: str, T: int, count: int, generator: torch.Generator) -> list[float]:
    """The share of masked tokens after each step of the chain."""
    kept, shares = torch.ones(count, dtype=torch.bool), [0.0]
    for t in range(1, T + 1):
        kept &= torch.rand(count, generator=generator) >= beta(t, T, kind)
        shares.append(1 - kept.float().mean().item())
    return shares


walked = {kind: walk(kind, T, 4000, run.generator(2, "cpu"))
          for kind in ("linear", "cosine", "square")}
for kind, shares in walked.items():
    for t, share in enumerate(shares):
        expected = gamma(t / T, kind)
        assert abs(share - expected) <= 5 * math.sqrt(expected * (1 - expected) / 4000) + 1e-9, (
            f"{kind}: {share} at t = {t}")

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
grid = [i / 100 for i in range(101)]
for i, (kind, shares) in enumerate(walked.items()):
    left.plot(grid, [gamma(r, kind) for r in grid], color=f"C{i}", label=kind)
    left.plot([t / T for t in range(T + 1)], shares, "o", color=f"C{i}", ms=4)
    new = [tokens_to_keep(t - 1, T, 64, kind) - tokens_to_keep(t, T, 64, kind)
           for t in range(T, 0, -1)]
    right.bar([j + 0.27 * (i - 1) for j in range(1, T + 1)], new, width=0.25,
              color=f"C{i}", label=kind)
left.set(xlabel="r = t / T", ylabel="γ(r), masked share",
         title="lines: γ; dots: the chain, step by step")
right.set(xlabel="inference step (1st … 8th)", ylabel="tokens newly kept, of 64",
          title="what each step decides")
left.legend()
path = run.save_figure(fig, "schedules")


# %% [markdown]
# *What to see. Left: lines are γ, dots the chain of 4,000 tokens, a colour for each schedule. The dots lie on the lines: the
# chain masks the share that γ says. Right: bars, in the same colours, are the tokens that each inference step adds to the kept
# ones. The cosine adds few in the first steps, when hardly any token is kept, and most in the last ones, when each place has
# many kept neighbours. Linear adds equally many in each step; square adds most in its first steps.*

# %% [markdown]
# ### The way back: Eq. 3
#
# The chain forward is fixed; there is nothing to learn in it. What we want is the step back, from s_t to s_{t−1}. If somebody
# told us s_0, Bayes' rule would give it:
# $$q(s_{t-1} \mid s_t, s_0) = \frac{q(s_t \mid s_{t-1})\; q(s_{t-1} \mid s_0)}{q(s_t \mid s_0)} .$$
# For this chain it is short. A token that is kept at t was the same at t − 1, since nothing is ever changed but by masking.
# A token that is masked at t was already masked at t − 1 with probability γ_{t−1}/γ_t; otherwise it was s_0, with probability
# **w_t = (γ_t − γ_{t−1})/γ_t**. Check it twice: by Bayes' rule on the matrices above, and by counting in 200,000 chains.

# %%
def way_back(t: int, T: int, kind: str, codes: int = 3) -> torch.Tensor:
    """q(s_{t−1} | s_t = mask, s_0 = token 0), for s_{t−1} = token 0, 1, 2, mask: Bayes' rule."""
    start = torch.eye(codes + 1, dtype=torch.float64)
    for earlier in range(1, t):
        start = start @ transition(beta(earlier, T, kind), codes)
    joint = start[0] * transition(beta(t, T, kind), codes)[:, codes]
    return joint / joint.sum()


def by_counting(t: int, T: int, kind: str, chains: int = 200_000) -> float:
    """Of the chains that are masked at t, the share that was not yet masked at t − 1."""
    generator = run.generator(11, "cpu")
    masked = torch.zeros(chains, dtype=torch.bool)
    for now in range(1, t + 1):
        before, chance = masked, beta(now, T, kind)
        masked = masked | (torch.rand(chains, generator=generator) < chance)
    return ((masked & ~before).sum() / masked.sum()).item()


print("      w_t, t = 1 … 8")
for kind in ("linear", "cosine"):
    weights_t = [share_revealed(t, 8, kind) for t in range(1, 9)]
    for t, w in enumerate(weights_t, start=1):
        exact = way_back(t, 8, kind)
        assert abs(exact[0] - w) < 1e-12 and abs(exact[3] - (1 - w)) < 1e-12
        assert abs(by_counting(t, 8, kind) - w) < 0.01
    print(f"{kind}", *(f"{w:.3f}" for w in weights_t))

# %% [markdown]
# Four things follow, and with them the design of φ_r.
#
# 1. **Predicting s_0 is enough.** In the step back everything is given but s_0. So a network that gives p(s_0 | s_t) gives the
#    step as well: it is what φ_r does.
# 2. **φ_r needs no time input.** Which tokens are masked does not depend on what they are. So p(s_0 | s_t) is the same at
#    every t: the next cell computes it in a world of two tokens.
# 3. **Eq. 4 has no weights.** Diffusion models are usually trained on a lower bound of the log-likelihood. For this chain it
#    is a sum over t of w_t times the cross-entropy on masked tokens (Austin et al. 2021). The paper's loss (Eq. 4, section 3)
#    leaves w_t out and counts all tokens, so steps with many masked tokens count more. (With the mean over masked places,
#    `masked_loss` of section 8, and a linear γ, it is the bound up to a factor. You may skip this on a first reading.)
# 4. **One step can lose something.** A step back draws each of its tokens from a distribution of its own: a *product*. Tokens
#    that are drawn in the same step do not see each other; tokens of later steps depend on the earlier ones. How much is lost
#    depends on how much neighbours tell. [Notebook 10](10_where_steps_pay.ipynb) measures that, on photos too.

# %% tags=["nbval-check-output"]
world = {"AA": 0.4, "AB": 0.1, "BA": 0.2, "BB": 0.3}
for t in (1, 4, 7):
    g = gamma(t / 8, "cosine")
    # first kept, second masked
    joint = {pair: p * (1 - g) * g for pair, p in world.items() if pair[0] == "A"}
    second = {pair[1]: p / sum(joint.values()) for pair, p in joint.items()}
    print(f"t = {t}: 'A?' is kept; "
          f"the second token is A with {second['A']:.2f}, B with {second['B']:.2f}")
    assert math.isclose(second["A"], world["AA"] / (world["AA"] + world["AB"]))

# %% [markdown]
# ### The process on a photo
#
# Now on real tokens: photos that no network here was trained on, their HQ and LQ crops, and S_h from the VQGAN of notebook 02.
# `load_or_train` takes what earlier notebooks of this run have left, or trains it.

# %%
options = {"seed": run.seed, "device": str(run.device)}
load_or_train("vqgan", run.tier, run.data, run.checkpoints, **options)
model = load_or_train("lq_encoder", run.tier, run.data, run.checkpoints, **options)

f, codes = model.vqgan.config.factor, model.vqgan.config.codes
held_out = Photos(bundled("test"))
pairs = validation_pairs(held_out, 6, 32 * f, run.seed,
                         degradation=ranges(run.tier.degradation), scale=run.tier.scale)
hq, lq = pairs["hq"].to(run.device), pairs["lq"].to(run.device)
with torch.no_grad():
    s_h = torch.cat([model.vqgan.encode(x) for x in hq.split(1)])  # (6, 32, 32)
    log_probs = model.log_posterior(lq)  # log p_l(token | LQ), (6, codes, 32, 32)
s_l = log_probs.argmax(1)
n = s_h[0].numel()
print(f"S_h {tuple(s_h.shape)}, {codes} codes, a token covers {f}×{f} pixels")


# %%
@torch.no_grad()
def picture(tokens: torch.Tensor) -> torch.Tensor:
    """Decoded tokens (h, w) as (H, W, 3) to show."""
    return model.vqgan.decode(tokens[None])[0].clamp(0, 1).permute(1, 2, 0).cpu()


def grey(image: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """Paint the masked places of an (H, W, 3) picture grey."""
    pixels = keep.cpu().repeat_interleave(f, 0).repeat_interleave(f, 1)
    return torch.where(pixels[..., None], image, torch.tensor(0.35))


places = torch.rand(s_h.shape, generator=run.generator(3, "cpu")).to(run.device)
times = (0, 2, 4, 6, 7, 8)
masks = {kind: [random_mask(tokens_to_mask(t / T, n, kind), places[:1])[0] for t in times]
         for kind in ("linear", "cosine")}
for several in masks.values():
    for earlier, later in zip(several, several[1:]):
        assert not (later & ~earlier).any(), (
            "a masked token must never come back in the forward process")

fig, axes = plt.subplots(2, len(times), figsize=(8, 2.9), layout="constrained")
full = picture(s_h[0])
for row, (kind, several) in zip(axes, masks.items()):
    for axis, t, keep in zip(row, times, several):
        axis.imshow(grey(full, keep))
        axis.set(xticks=[], yticks=[], title=f"t = {t}: {int(keep.sum())} kept")
        axis.title.set_fontsize(8)
    row[0].set_ylabel(kind)
path = run.save_figure(fig, "masks_over_t")

# %% [markdown]
# *What to see: the forward process, left to right, with the linear schedule above and the cosine below; masked tokens are grey.
# The picture is S_h of one crop, decoded. What is masked stays masked (the cell asserts it: the mask is absorbing). Half way,
# at t = 4, the linear schedule keeps half of the tokens, the cosine fewer than a third. Inference starts at t = 8 and has to
# predict what is grey.*

# %% [markdown]
# ## 2. What φ_r reads
#
# Eq. 4 gives φ_r three maps of h×w: **S_t** with its mask **m_t** (the tokens kept so far), and **S_l** (E_l's guess). Here a
# fourth goes with them, **m_s**: which tokens of S_l are good, by the evaluator of [notebook 05](05_evaluator.ipynb). It is the
# mask with which Algorithm 2 starts (Eq. 6); the paper's Eq. 4 does not name it.
#
# **A lookup is a convolution.** The published network turns a token map into one-hot channels and applies a 1×1 convolution.
# All but one of the products are with 0: the result is a column of the weight. So an embedding table does the same, without
# the K − 1 zeros.

# %%
table = torch.randn(codes, 16, generator=run.generator(4, "cpu"))  # a row for each code
tokens = s_h[:1].cpu()
one_hot = F.one_hot(tokens, codes).permute(0, 3, 1, 2).float()  # (1, codes, h, w)
by_convolution = F.conv2d(one_hot, table.T[:, :, None, None])  # weight (16, codes, 1, 1)
by_lookup = F.embedding(tokens, table).permute(0, 3, 1, 2)
assert torch.equal(by_convolution, by_lookup), "adding zeros must not change a bit"
print(f"one-hot {tuple(one_hot.shape)} → {tuple(by_convolution.shape)}, "
      "the same as the lookup to the last bit")


# %% [markdown]
# **The mask token** is one more row of that table. In S_t it *replaces* a masked token, whose value must not be read. In S_l
# it is *added* to a token judged bad: the value stays (a bad guess is still a hint), and the sum is a flag. Here is the input
# by hand, and the rest of the network through `predict`. The network has this tier's sizes and the paper's form, and random
# weights: equality must hold for any.

# %%
def papers(config: TokenNetConfig) -> TokenNetConfig:
    """The same sizes without what goes beyond the paper (section 8)."""
    norm = "layer" if config.norm == "none" else config.norm
    return dataclasses.replace(config, norm=norm, posterior=False, reads_lq=False)


form = dataclasses.replace(run.tier, refiner=papers(run.tier.refiner),
                           evaluator=papers(run.tier.evaluator))
with torch.random.fork_rng(devices=[]):  # nothing outside this block sees the seed
    torch.manual_seed(run.seed)
    untrained = ITER(form).refiner.to(run.device).eval().requires_grad_(False)
    for weights in untrained.parameters():
        torch.nn.init.normal_(weights, std=0.1)

# %%
keep = random_mask(n // 2, places)[:1]  # m_t: half of the tokens are kept
good = (s_l == s_h)[:1]  # a stand-in for m_s, until notebook 05 has a real evaluator
weight = untrained.table.weight  # (codes + 1, width): the last row is the mask token
of_s_t = torch.where(keep[..., None], weight[s_h[:1]], weight[codes])  # replaced
of_s_l = weight[s_l[:1]] + (~good)[..., None] * weight[codes]  # flagged
# the last two inputs are for networks that go beyond the paper; here they are not read
by_hand = untrained.predict(of_s_l, of_s_t, s_l[:1], None)
by_module = untrained(s_h[:1], keep, s_l[:1], good)
torch.testing.assert_close(by_hand, by_module)

# %% [markdown]
# What may change φ_r's answer, and what not? Four changes to its input tell. If the value of a masked token left any trace,
# training would only teach φ_r to find that trace.

# %% tags=["nbval-check-output"]
other = (s_h[:1] + 1) % codes  # another token at every place
changes = {
    "values of masked tokens of S_t": (torch.where(keep, s_h[:1], other), s_l[:1], good),
    "values of kept tokens of S_t": (torch.where(keep, other, s_h[:1]), s_l[:1], good),
    "values of S_l judged bad": (s_h[:1], torch.where(good, s_l[:1], (s_l[:1] + 1) % codes), good),
    "the flags m_s": (s_h[:1], s_l[:1], ~good),
}
for what, (tokens, condition, flags) in changes.items():
    same = torch.equal(untrained(tokens, keep, condition, flags), by_module)
    print(f"change {what:<30} → logits {'stay' if same else 'change'}")

# %% [markdown]
# ## 3. The loss: Eq. 4
#
# For the true tokens S_h, φ_r is trained by cross-entropy: the mean over all places i of
# $$-\log p_{\phi_r}\left(S_h^i \mid S_t, m_t, S_l, m_s\right) .$$
# On a toy of 2×3 places and 4 codes, spelled out:

# %% tags=["nbval-check-output"]
logits = torch.randn(1, 4, 2, 3, generator=torch.Generator().manual_seed(0))
truth = torch.tensor([[[0, 1, 2], [3, 0, 1]]])
kept = torch.tensor([[[True, False, True], [False, False, True]]])
nats = torch.empty(1, 2, 3)
for y in range(2):
    for x in range(3):
        p = logits[0, :, y, x].exp() / logits[0, :, y, x].exp().sum()  # softmax
        nats[0, y, x] = -p[truth[0, y, x]].log()
torch.testing.assert_close(nats, F.cross_entropy(logits, truth, reduction="none"))
torch.testing.assert_close(nats.mean(), F.cross_entropy(logits, truth))
torch.testing.assert_close(nats[~kept].mean(), per_image(nats, ~kept))
print(f"Eq. 4, over all {nats.numel()} places; "
      f"and over the {int((~kept).sum())} masked ones alone (per_image)")

# %% [markdown]
# `per_image` takes the mean within each picture, then over pictures: a picture with three masked tokens weighs as much as one
# with a thousand.
#
# ### Copying lowers the loss
#
# The paper's mean runs over *all* places, kept tokens included, and a kept token can be copied. Take a network that copies
# and has learned nothing else (every code equally likely at masked places). Its numbers look as if it had learned a lot:

# %% tags=["nbval-check-output"]
N, K = 64, 64
print("masked   accuracy, all places   accuracy, masked places   loss (uniform guess: 4.159)")
for r in (0.1, 0.25, 0.5, 0.75, 1.0):
    masked = tokens_to_mask(r, N, "linear")
    everywhere = (N - masked + masked / K) / N
    print(f"{masked:2d} of {N}        {everywhere:6.1%}                 "
          f"{1 / K:6.1%}              {masked / N * math.log(K):.3f}")

# %% [markdown]
# So we watch the accuracy **on masked tokens alone**, and compare it with the best constant answer: the one code that is most
# frequent.
#
# ## 4. A toy world in which only neighbours help
#
# Before photos, a world small enough to compute everything: 8×8 token maps of diagonal or straight **stripes**, 4 codes, 16
# possible maps. S_l is the same for all of them and says nothing. With no token kept, every code is equally likely at every
# place: 25 % right is the best anyone can do. A few kept tokens fix slope and phase, and with them the whole map. A φ_r that
# cannot learn this is broken.

# %%
down, across = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
world = torch.stack([(a * down + b * across + phase) % 4
                     for a, b in ((1, 0), (0, 1), (1, 1), (1, 3)) for phase in range(4)])

g = run.generator(5, "cpu")
with torch.random.fork_rng(devices=[]):
    torch.manual_seed(run.seed)
    toy = Refiner(TokenNetConfig(
        width=16, swin=SwinConfig(width=16, groups=1, depth=2, heads=2, mlp_ratio=2)), codes=4)


def toy_logits(tokens: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    nothing = torch.zeros_like(tokens)  # S_l: code 0 everywhere, all judged bad
    return toy(tokens, keep, nothing, nothing > 0)


# %% [markdown]
# This is the whole of masked token modelling, in ten lines: draw maps, draw r, mask, predict, Eq. 4, step.

# %%
optimizer = torch.optim.Adam(toy.parameters(), lr=8e-3)
for step in range(300):
    maps = world[torch.randint(len(world), (16,), generator=g)]
    masked = torch.tensor([tokens_to_mask(1 - x, 64) for x in torch.rand(16, generator=g).tolist()])
    keep = random_mask(masked, torch.rand(maps.shape, generator=g))
    loss = F.cross_entropy(toy_logits(maps, keep), maps)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

# %%
toy.requires_grad_(False)
maps = world[torch.randint(len(world), (200,), generator=g)]
toy_accuracy = {}
for count in (0, 1, 2, 4, 8, 16, 32):
    keep = random_mask(64 - count, torch.rand(maps.shape, generator=g))
    toy_accuracy[count] = (toy_logits(maps, keep).argmax(1) == maps)[~keep].float().mean().item()
    print(f"{count:2d} of 64 tokens kept: {toy_accuracy[count]:.1%} of the masked ones right")
assert abs(toy_accuracy[0] - 0.25) < 0.06, "with no token kept nothing can be known"
assert toy_accuracy[16] > 0.9, "with 16 tokens kept nearly everything can be known"


# %% [markdown]
# **And this is why one iterates.** With no token kept φ_r is right to say 25 % for every code, *at each place*. But places that
# are sampled at the same time do not depend on each other: the result is noise, though each token alone is as likely as it
# should be. So sample, keep a few, mask the rest, and sample again given those few. (Which to keep is chosen at random here;
# choosing better is the subject of notebook 05.)

# %%
def sample(T: int, count: int, generator: torch.Generator) -> torch.Tensor:
    ("`count` maps from nothing in T steps: propose at masked places, keep the kept ones, "
     "mask again at random.")
    tokens = torch.zeros(count, 8, 8, dtype=torch.long)
    keep, order = tokens > 0, torch.rand(tokens.shape, generator=generator)
    for t in range(T, 0, -1):
        proposed, _ = categorical(toy_logits(tokens, keep),
                                  torch.rand(tokens.shape, generator=generator))
        tokens = torch.where(keep, tokens, proposed)
        # one fixed order, so that kept tokens stay kept
        keep = random_mask(64 - tokens_to_keep(t - 1, T, 64), order)
    return tokens


def agreement(tokens: torch.Tensor) -> torch.Tensor:
    """How much of each map equals the nearest of the 16 maps of this world."""
    return (tokens[:, None] == world).float().mean((2, 3)).amax(1)


samples = {T: sample(T, 100, g) for T in (1, 4, 8, 16)}
whole = {T: agreement(tokens).mean().item() for T, tokens in samples.items()}
assert whole[16] > whole[1] + 0.2, (
    "sampling in steps must agree with itself better than sampling at once")

fig, axes = plt.subplots(2, 8, figsize=(8, 2.3), layout="constrained")
for column, axis in enumerate(axes.flat):
    T, i = list(samples)[column % 8 // 2], 2 * (column // 8) + column % 2
    axis.imshow(samples[T][i], cmap="Set2", vmin=0, vmax=7)
    axis.set(xticks=[], yticks=[])
    if column < 8 and column % 2 == 0:
        axis.set_title(f"T = {T}: {whole[T]:.0%}", fontsize=9, loc="left")
path = run.save_figure(fig, "toy_samples")

# %% [markdown]
# *What to see: four samples each, from nothing, in 1, 4, 8 and 16 steps; a colour for each code. The number is how much of a
# map equals the nearest of the 16 true maps, on average over 100 samples (the number at T = 1 is what noise gets). One step:
# noise. Four steps: parts of stripes. Eight and sixteen: most maps are nearly whole; one that has settled on two phases that do
# not fit stays broken. It is the same network with the same weights.*

# %% [markdown]
# ## 5. One step of Algorithm 1, by hand
#
# The printed Algorithm 1 takes S_l and S_h and updates φ_r (Eq. 4) and φ_e (Eq. 5). E_l (Eq. 2) learns at the same time; that
# is in the paper's training details. Here is φ_r's half, with the paper's loss. We start from the VQGAN and E_l of the
# earlier notebooks, and from an untrained φ_r and φ_e in the paper's form.

# %%
with torch.random.fork_rng(devices=[]):
    torch.manual_seed(run.seed)
    fresh = ITER(form).to(run.device)
fresh.vqgan.load_state_dict(model.vqgan.state_dict())
fresh.lq_encoder.load_state_dict(model.lq_encoder.state_dict())

settings = run.tier.train["token_nets"]
# this tier's settings, without two that go beyond the paper (section 8)
paper = dataclasses.replace(settings, networks=("refiner",), corrupt=0.0, masked_loss=False)
task = Algorithm1(fresh, paper, run.seed)

# %% [markdown]
# **A batch** of HQ crops x_h and their degraded LQ versions x_l. A crop is a function of its index and the seed: index 8 is
# the same crop, blur and noise whenever it is asked for.

# %%
training, _ = Photos.of(run.data).split()
crops = Crops(training, settings.crop, run.seed,
              degradation=ranges(run.tier.degradation), scale=run.tier.scale)
batch = {name: value.to(run.device)
         for name, value in default_collate([crops[i] for i in range(8, 12)]).items()}
print({name: tuple(value.shape) for name, value in batch.items()})

# %% [markdown]
# **Tokens.** S_h from the HQ crop, S_l = argmax of E_l from the LQ crop. Neither needs a gradient here.

# %%
with torch.no_grad():
    b_h = fresh.vqgan.encode(batch["hq"])  # (4, h, w)
    b_l = fresh.lq_encoder(batch["lq"]).argmax(1)
print(f"S_h and S_l {tuple(b_h.shape)}; "
      f"E_l is right at {(b_h == b_l).float().mean():.1%} of these places")

# %% [markdown]
# **m_s**, which tokens of S_l are good, by φ_e at a threshold α. At inference α is the user's choice, so training here draws it
# at random; and in half of the pictures no token is good, as when inference starts from nothing. Algorithm 1 says neither. φ_e
# is untrained here and says about ½ everywhere: a small α passes nearly all tokens, an α near 1 none. (`task.noise` gives
# uniform numbers that depend on the crop's index and a purpose: a resumed run draws the same.)

# %%
per_picture = task.noise(batch, "per image", torch.Size([2]))
alpha = per_picture[:, 1]
coin = task.noise(batch, "start", torch.Size([]))
with torch.no_grad():
    probability_good = fresh.evaluator(b_l, b_l).softmax(1)[:, 1]
m_s = (probability_good >= alpha[:, None, None]) & (coin > 0.5)[:, None, None]
assert run.seed or (m_s.any() and not m_s.all()), "one value alone would hide a wrong m_s"
print("α", [round(a, 2) for a in alpha.tolist()],
      "→ good tokens of S_l:", m_s.flatten(1).sum(1).tolist(), "of", b_l[0].numel())

# %% [markdown]
# **RandomMask.** r ~ U(0, 1] for each picture, then ⌈γ(r)·N⌉ tokens of S_h are masked. (`noise` is in [0, 1), so 1 − noise is
# in (0, 1]: a picture without any masked token would teach nothing.)

# %%
r = 1 - per_picture[:, 0]
b_masked = torch.tensor([tokens_to_mask(x, b_h[0].numel(), paper.gamma) for x in r.tolist()],
                        device=run.device)
m_t = random_mask(b_masked, task.noise(batch, "mask", b_h.shape[1:]))
assert (~m_t).flatten(1).sum(1).tolist() == b_masked.tolist()
print("r", [round(x, 2) for x in r.tolist()], "→ masked:", b_masked.tolist(), "of", b_h[0].numel())

# %% [markdown]
# **Eq. 4**, and the same step through the module.

# %%
logits = fresh.refiner(b_h, m_t, b_l, m_s).float()  # (4, codes, h, w)
nats = F.cross_entropy(logits, b_h, reduction="none")  # (4, h, w)
by_hand, by_hand_masked = nats.mean(), per_image(nats, ~m_t)

by_module, scalars = task(batch, 0, "iter")
torch.testing.assert_close(by_hand, by_module)
torch.testing.assert_close(by_hand_masked, scalars["refiner masked"])
print(f"Eq. 4 by hand {by_hand.item():.4f} = Algorithm1 {by_module.item():.4f}; "
      f"ln K = {math.log(codes):.4f}")

# %% [markdown]
# (`"iter"` names the paper's joint stage; here it computes φ_r's loss alone.) The network is untrained, so its loss is near ln
# K, that of a uniform guess. **Then the gradient step.** Before any long training, one check finds most bugs in a minute: over
# and over on *one* batch, the loss must fall.

# %%
optimizer = torch.optim.Adam(fresh.refiner.parameters(), lr=1e-3, betas=settings.betas)
overfit = []
for step in range(15):
    optimizer.zero_grad(set_to_none=True)
    loss, _ = task(batch, step, "iter")
    loss.backward()
    torch.nn.utils.clip_grad_norm_(fresh.refiner.parameters(), settings.clip)
    optimizer.step()
    overfit.append(loss.item())
print("loss on one batch:", " ".join(f"{x:.2f}" for x in overfit[::2]))
assert overfit[-1] < overfit[0] - 0.05, "φ_r cannot even learn one batch"

# %% [markdown]
# ## 6. Training
#
# The weights shown from here on go beyond the paper; section 8 says how.
#
# The real run does the same step on new crops, with a learning rate that warms up and decays, and keeps a running mean of the
# weights. φ_r and φ_e train side by side, as in Algorithm 1: φ_e ([notebook 05](05_evaluator.ipynb)) needs φ_r's samples to
# judge, φ_r needs φ_e's m_s. E_l is trained already (notebook 03) and does not change; the paper trains all three at once,
# which is the stage `"iter"`.

# %%
model = load_or_train("token_nets", run.tier, run.data, run.checkpoints, **options)
curve = learning_curve(run.tier, "token_nets", run.checkpoints, "refiner")
train_curve = curve[curve["split"] == "train"]
validated = curve[curve["split"] == "validation"]
on_masked = train_curve[train_curve["name"] == "refiner masked"]
print(f"{int(curve['step'].max())} steps; "
      f"φ_r: {sum(p.numel() for p in model.refiner.parameters()) / 1e6:.2f} M parameters")

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(8, 2.8), layout="constrained")
left.plot(on_masked["step"], on_masked["value"], label="φ_r, masked places")
left.axhline(math.log(codes), color="grey", ls=":", label="ln K: uniform guess")
left.set(xlabel="step", ylabel="nats a token", title="masked places, training crops",
         ylim=(None, 1.25 * math.log(codes)))
for i, ratio in enumerate((0.25, 0.5, 0.75, 1.0)):
    rows = validated[validated["name"] == f"φ_r masked accuracy at {ratio}"]
    right.plot(rows["step"], 100 * rows["value"], "o-", ms=3, color=plt.cm.viridis(i / 3.5),
               label=f"φ_r, {ratio:.0%} masked")
for name, label, color, line in (("E_l top-1", "E_l", "C1", "--"),
                                 ("best constant", "best constant", "grey", ":")):
    rows = validated[validated["name"] == name]
    right.plot(rows["step"], 100 * rows["value"], color=color, ls=line, label=label)
right.set(xlabel="step", ylabel="% right", title="masked tokens of held-out crops", ylim=(0, None))
left.legend(fontsize=8, loc="upper right")
right.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
path = run.save_figure(fig, "training")
assert on_masked["value"].iloc[-1] < math.log(codes), "φ_r must be better than a uniform guess"

# %%
line, healthy = recipe("token_nets", "refiner")
number = line.count("; then ") + 1
begins = "" if number == 1 else (
    f" (At `tiny` it is the curve of the last of {number} runs, so it does not begin near ln K.)")
inside = model.tier.refiner
judged = ("What counts is the distance to the dashed line, E_l, from which this φ_r started."
          if inside.posterior or inside.reads_lq else
          "What counts is the distance to the dashed line, E_l, whose guess this φ_r reads.")
display(Markdown(
    "*What to see. Left: the loss on masked places, which copying cannot lower; each point is "
    f"one batch with its own mask ratios, so neighbouring points differ much.{begins} "
    "Right: crops of photos held out of the training set, masked tokens alone, a colour for "
    f"each mask ratio; the dotted line is the best constant answer. {judged}*"))

# %% [markdown]
# **The run behind the weights that ship.** Its commands, and what the log of the last one said on the way. `refiner masked` is
# φ_r's loss on masked tokens in nats, `E_l top-1` how often E_l's likeliest token is right, `at 0.25` with 25 % of the tokens
# masked, `lpips ITER` that of Algorithm 2's pictures (less is better).

# %%
display(Markdown(line))
healthy.loc[["train: refiner masked", "train: refiner masked accuracy", "validation: E_l top-1",
             *(f"validation: φ_r masked accuracy at {ratio}" for ratio in (0.25, 0.5, 0.75, 1.0)),
             "validation: lpips S_l", "validation: lpips one sample of E_l",
             "validation: lpips ITER"]]

# %%
display(Markdown(
    "To compare a run of your own minute by minute, start it from the weights "
    "that this last run started from." if number > 1 else
    "A run of your own that is far from this at minute 2 has an error; do not wait for it."))

# %% [markdown]
# ## 7. What φ_r predicts as more tokens are kept
#
# The measure for this notebook. φ_r is given a growing share of the *true* tokens, and has to predict the rest; no token of
# S_l is marked as good. If φ_r reads its neighbours, it gets surer (entropy falls) and better as more tokens are kept. If it
# only reads E_l's guess, the curve is flat.

# %%
e_l_there = validated.loc[validated["name"] == "E_l top-1", "value"].iloc[-1]
accuracy_l = (s_l == s_h).float().mean().item()
display(Markdown(
    "These are not the crops of section 6. There: photos held out of the training set. Here: "
    f"{len(s_h)} crops of {len(held_out)} photos that come with scikit-image. E_l is right at "
    f"{e_l_there:.1%} of the tokens there and at {accuracy_l:.1%} here, so the accuracies of "
    "the two sections cannot be compared."))

# %%
nobody = torch.zeros_like(s_l, dtype=torch.bool)


@torch.no_grad()
def refine(keep: torch.Tensor, tokens: torch.Tensor = s_h) -> torch.Tensor:
    """φ_r's logits for the six crops, given `tokens` (the true ones) where `keep` is True."""
    logits = []
    for p in (slice(i, i + 1) for i in range(len(s_h))):
        # `functions` gives φ_r what its form reads besides (section 8)
        phi_r, _ = model.functions(log_probs[p], model.lq_features(lq[p]))
        logits.append(phi_r(tokens[p], keep[p], s_l[p], nobody[p]).float())
    return torch.cat(logits)


def entropy(logits: torch.Tensor) -> torch.Tensor:
    """−Σ p·log p at each place, in nats: 0 is certain, ln K is a uniform guess."""
    log_p = logits.log_softmax(1)
    return -(log_p.exp() * log_p).sum(1)


rows, masked_shares = [], (1.0, 0.9, 0.75, 0.5, 0.25, 0.1)
for ratio in masked_shares:
    keep = random_mask(round(ratio * n), places)
    logits = refine(keep)
    rows.append({
        "masked": ratio,
        "accuracy": (logits.argmax(1) == s_h)[~keep].float().mean().item(),
        "entropy": entropy(logits)[~keep].mean().item(),
    })
# the best constant answer, chosen with hindsight
constant = torch.bincount(s_h.flatten()).max().item() / s_h.numel()
for row in rows:
    print(f"masked {row['masked']:4.0%}: "
          f"accuracy {row['accuracy']:.1%}, entropy {row['entropy']:.2f} nats")
print(f"best constant {constant:.1%}, S_l (E_l's argmax) {accuracy_l:.1%}, uniform {1 / codes:.1%}")
masked_accuracy = sum(row["accuracy"] for row in rows) / len(rows)
assert masked_accuracy > constant, (
    f"φ_r's masked accuracy {masked_accuracy:.1%} is not above the best constant's {constant:.1%}")

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(8, 2.8), layout="constrained")
share = [100 * (1 - row["masked"]) for row in rows]
left.plot(share, [100 * row["accuracy"] for row in rows], "o-", label="φ_r")
left.axhline(100 * accuracy_l, color="C1", ls="--", label="S_l (E_l's argmax)")
left.axhline(100 * constant, color="grey", ls=":", label="best constant")
left.set(xlabel="% of tokens kept", ylabel="% of masked tokens right", ylim=(0, None),
         title="accuracy on masked tokens")
right.plot(share, [row["entropy"] for row in rows], "o-", color="C2", label="φ_r")
right.axhline(math.log(codes), color="grey", ls=":", label="ln K: uniform guess")
right.set(xlabel="% of tokens kept", ylabel="nats", ylim=(0, None),
          title="entropy of φ_r on masked tokens")
left.legend(fontsize=8), right.legend(fontsize=8)
path = run.save_figure(fig, "accuracy_vs_shown")

# %%
gain = 100 * (rows[-1]["accuracy"] - rows[0]["accuracy"])
drop = rows[0]["entropy"] - rows[-1]["entropy"]
verdict = ("it reads its neighbours" if gain > 1
           else "it hardly uses its neighbours, and answers nearly as E_l does")
display(Markdown(
    "*What to see: how much the kept tokens help; each point is the mean over the masked places "
    "of its own mask. Left: accuracy, with the two answers that read no kept token as lines. "
    "Right: entropy; the dotted line is a uniform guess.* From no token kept to 90 % kept, "
    f"φ_r's accuracy on masked tokens moves by **{gain:+.1f} points** "
    f"and its entropy by **{-drop:+.2f} nats**: at this tier {verdict}. "
    f"Its mean accuracy is **{masked_accuracy:.1%}**; the best constant has **{constant:.1%}**, "
    f"S_l **{accuracy_l:.1%}**."))

# %% [markdown]
# Where is φ_r unsure? Below, one of the six crops: the kept tokens, the entropy at each masked place, and the picture when
# every masked token is φ_r's best guess.

# %%
which, levels = 1, (1.0, 0.9, 0.75, 0.5, 0.25)
fig, axes = plt.subplots(3, len(levels) + 1, figsize=(8, 4.1), layout="constrained")
full, top = picture(s_h[which]), math.log(codes)
for column, ratio in zip(axes.T, levels):
    keep = random_mask(round(ratio * n), places)
    logits = refine(keep)
    completed = torch.where(keep, s_h, logits.argmax(1))
    column[0].imshow(grey(full, keep[which]))
    heat = column[1].imshow(entropy(logits)[which].cpu().masked_fill(keep[which].cpu(), math.nan),
                            vmin=0, vmax=top, cmap="magma")
    column[2].imshow(picture(completed[which]))
    column[0].set_title(f"{1 - ratio:.0%} kept", fontsize=9)
axes[0, -1].imshow(full)
axes[0, -1].set_title("S_h", fontsize=9)
for axis, name in zip(axes[:, 0], ("S_t", "entropy", "best guess")):
    axis.set_ylabel(name, fontsize=9)
for axis in axes.flat:
    axis.set(xticks=[], yticks=[], facecolor="0.85")
for axis in axes[1:, -1]:
    axis.set_visible(False)
fig.colorbar(heat, ax=axes[1], label="nats", shrink=0.9)
path = run.save_figure(fig, "entropy_maps")

# %%
at_once = refine(nobody)  # no token kept, as in the first step of Algorithm 2
guess, unsure_at = at_once[which].argmax(0), entropy(at_once)[which]
right = guess == s_h[which]
spread = [torch.special.entr(torch.bincount(x.flatten(), minlength=codes) / n).sum().item()
          for x in (guess, s_h[which])]
display(Markdown(
    "*What to see: from left to right more tokens are kept; the last picture is S_h, decoded. "
    "First row: S_t, masked places grey. Second row: entropy, dark is sure and bright unsure, "
    "kept places light grey. Third row: kept tokens and best guesses, decoded.* "
    f"With no token kept, φ_r's entropy on this crop is **{unsure_at[right].mean():.2f}** nats "
    "where its best guess equals S_h and "
    f"**{unsure_at[~right].mean():.2f}** nats where it does not. The best guesses use "
    f"{len(guess.unique())} different codes, with an entropy of {spread[0]:.2f} nats; "
    f"S_h uses {len(s_h[which].unique())}, with {spread[1]:.2f}. "
    + ("The likeliest tokens vary less than the true ones: that is why inference **samples** from "
       "φ_r and does not take its argmax." if spread[0] < spread[1] else
       "On this crop the likeliest tokens vary as much as the true ones.")))

# %% [markdown]
# ## 8. Beyond the paper
#
# Sections 1 to 5 had the paper's form of φ_r, with m_s added. Trained weights, as in sections 6 and 7, can have four more
# options; each was made for a reason given below.

# %%
config, changed = run.tier.refiner, []
for on, what in ((config.posterior, "E_l's posterior as an input (8a)"),
                 (config.reads_lq, "the LQ image as an input (8b)"),
                 (settings.masked_loss, "the loss on masked places alone (8c)"),
                 (settings.corrupt > 0, "own samples in place of true tokens (8d)")):
    changed += [what] if on else []
display(Markdown(f"This tier, `{run.tier.name}`, has: "
                 f"**{'; '.join(changed) or 'none of them'}**."))

# %% [markdown]
# ### 8a. What S_l leaves out: E_l's posterior
#
# S_l is the *argmax* of E_l. Where E_l says "code 5 with 31 %, code 9 with 30 %", φ_r reads "5", as if it were certain. How
# much is lost? On the six crops:

# %%
order = log_probs.argsort(1, descending=True)
rank = (order == s_h[:, None]).float().argmax(1)  # 0: E_l's first choice is the true token
for k in (1, 2, 5, 10):
    print(f"the true token is among E_l's first {k:2d}: {(rank < k).float().mean():.1%}")
unsure = entropy(log_probs).mean().item()
print(f"mean entropy of E_l: {unsure:.2f} nats, "
      f"as unsure as {math.exp(unsure):.1f} equally likely codes; S_l says 1")

# %% [markdown]
# The option `posterior=True` gives E_l's log-probabilities to φ_r (and φ_e) as a further input, **and adds them to φ_r's
# logits**; its output layers start at zero. So φ_r begins as E_l (up to rounding) and learns a correction: what the Swin layers
# find, and, through one plain 5×5 convolution of the kept tokens (`nearby`), which codes stand beside which. φ_e begins
# likewise: a token is as good as E_l finds it probable.
#
# ### 8b. The LQ image itself
#
# A posterior is what *one* network could say about the picture; with `reads_lq=True` φ_r reads the picture too. It gets E_l's
# whole network, stem, Swin layers and output layer, **copied from the trained E_l**; the tokens, the masks and the posterior
# are added in front of the Swin layers through convolutions that start at zero. Again φ_r begins as E_l, and all its layers
# are used from the first step on.

# %%
with torch.random.fork_rng(devices=[]):
    torch.manual_seed(run.seed)
    informed = Refiner(
        dataclasses.replace(run.tier.refiner, posterior=True, reads_lq=False), codes
    ).to(run.device).requires_grad_(False)
    looking = ITER(dataclasses.replace(run.tier, refiner=dataclasses.replace(
        run.tier.refiner, norm="none", posterior=True, reads_lq=True)))
looking = looking.refiner.to(run.device).requires_grad_(False)
looking.start_from(model.lq_encoder)
maps = (s_h[:1], nobody[:1], s_l[:1], nobody[:1], log_probs[:1])
for start in (informed(*maps), looking(*maps, looking.lq_features(lq[:1]))):
    torch.testing.assert_close(start.log_softmax(1), log_probs[:1], atol=1e-4, rtol=1e-4)
print("untrained, with `posterior`, or with `reads_lq` as well: φ_r = E_l")


# %% [markdown]
# **What has φ_r added to E_l?** A network that begins with a good answer can stay with it, and its loss looks good from the
# first step on. So compare it with E_l, on the same places, with half of the true tokens kept. Where φ_r has the convolution
# `nearby`, compare once more without it: what is left comes from the Swin layers.

# %%
def nats_of(keep: torch.Tensor, tokens: torch.Tensor = s_h) -> torch.Tensor:
    """Eq. 4 at each place of the six crops, (6, h, w)."""
    return F.cross_entropy(refine(keep, tokens), s_h, reduction="none")


half = random_mask(n // 2, places)
nats_l = F.nll_loss(log_probs, s_h, reduction="none")  # E_l's, (6, h, w)
compared = {"E_l alone": nats_l, "φ_r": nats_of(half)}
if model.refiner.nearby is not None:
    with model.refiner.nearby.register_forward_hook(lambda layer, inputs, output: 0 * output):
        compared["φ_r without `nearby`"] = nats_of(half)
compared = {name: nats[~half].mean().item() for name, nats in compared.items()}
layers = compared.get("φ_r without `nearby`", compared["φ_r"])
display(Markdown(
    "Nats on the masked tokens: "
    + "; ".join(f"{name} **{value:.3f}**" for name, value in compared.items()) + ". "
    + ("The Swin layers alone are better than E_l."
       if layers < compared["E_l alone"] - 0.01 else
       "The Swin layers alone are not better than E_l: what φ_r has learned is in `nearby`."
       if compared["φ_r"] < compared["E_l alone"] - 0.01 else
       "φ_r is not better than E_l.")))

# %% [markdown]
# Two forms in the tables of [notebook 09](09_benchmark.ipynb), `tiny-posterior-form` and `tiny-f8`, failed a test of this kind:
# their Swin layers had learned nothing that depends on the picture. Their output layer began at zero, and a LayerNorm stood
# before it. This pair is suspected; it was not tested alone. A φ_r that reads the image has neither.
#
# ### 8c. The loss on masked places alone
#
# A kept token can be copied, so its loss teaches φ_r little (section 3). With `masked_loss` the mean runs over the masked
# places of each picture. With a linear γ, this is also the bound of section 1 up to a factor: a masked token then weighs
# 1/(γ_t·N) at each of T equally likely steps, and the bound's weight w_t is 1/(T·γ_t).

# %%
for t in range(1, T + 1):
    weight_here = 1 / (gamma(t / T, "linear") * n) / T
    assert math.isclose(share_revealed(t, T, "linear") / weight_here, n)
print("linear γ: at every t, w_t is N times the weight that `masked_loss` gives a masked token")

# %% [markdown]
# ### 8d. Own samples in place of true tokens
#
# RandomMask keeps tokens of S_h. At inference the kept tokens were *sampled*, and most samples are not S_h's token. Text
# models that train on true words and then read their own have the same gap; it is called **exposure bias**. Measure φ_r's loss
# with its own samples as the kept tokens, and with the true ones; always on the same places, the last 10 % that stay masked.

# %%
drawn, _ = categorical(
    at_once, torch.rand(s_h.shape, generator=run.generator(9, "cpu")).to(s_h.device), 0.7)
last = ~random_mask(round(masked_shares[-1] * n), places)  # masked at every share
exposure = {name: [nats_of(random_mask(round(ratio * n), places), tokens)[last].mean().item()
                   for ratio in masked_shares]
            for name, tokens in (("true tokens", s_h), ("its own samples", drawn))}
assert exposure["true tokens"][0] == exposure["its own samples"][0], (
    "where all is masked no value may be read")
fig, axis = plt.subplots(figsize=(5, 2.8), layout="constrained")
for name, values in exposure.items():
    axis.plot(share, values, "o-", ms=4, label=f"kept: {name}")
axis.axhline(nats_l[last].mean().item(), color="grey", ls=":", label="E_l alone")
axis.set(xlabel="% of tokens kept", ylabel="nats, the last 10 % of places")
axis.legend(fontsize=8)
path = run.save_figure(fig, "exposure")

# %%
of_true, of_own = (values[-1] - values[0] for values in exposure.values())
display(Markdown(
    "*What to see: φ_r's loss against S_h as more tokens are kept, true ones (blue) or its own "
    "samples (orange); the dotted line is E_l on the same places.* "
    f"{(drawn != s_h).float().mean():.0%} of these samples are not S_h's token. "
    f"90 % of them kept moves the loss by **{of_own:+.3f} nats**; true tokens "
    f"move it by **{of_true:+.3f}**."))

# %% [markdown]
# A rise of the orange curve has two possible reasons. Either φ_r follows draws that do not fit each other. Or it rightly
# follows a draw that is possible but is not S_h's: a perfect φ_r that is given another possible picture must predict *that*
# picture, and its loss against S_h rises. This curve cannot tell the two apart.
#
# `TrainConfig.corrupt` trains on such maps: in that share of the pictures, half to all of the kept tokens are φ_r's own
# samples, drawn with no token kept at temperatures of ½ to 1; the other pictures keep true tokens, as in the paper. The target
# stays S_h. This has a risk. The draws were made from LQ, without S_h: once LQ is known, they say nothing about S_h. So in
# these pictures the best answer ignores the neighbours, where φ_r should follow them at inference. The two aims conflict.
# [Notebook 10](10_where_steps_pay.ipynb), section 6, measures what this training changes in a world where steps pay.
#
# ### 8e. Neighbour information
#
# How much can steps win at all? Several steps differ from one in this alone: later tokens are drawn *given* earlier ones. So
# take the places that stay masked when three quarters of S_h are kept. Which part of φ_r's loss there goes away, from no token
# kept to three quarters kept? That share is the **neighbour information** (`neighbour_information`; the model card has it too).
# For an exact φ_r: if it is zero, one step is as good as eight. For a trained φ_r it is a hint.

# %%
crops = [Pair(str(i), hq[i : i + 1].cpu(), lq[i : i + 1].cpu()) for i in range(len(hq))]
told = {own: neighbour_information(model, crops, own=own, seed=run.seed) for own in (False, True)}
information = 1 - told[False][0.75] / told[False][0.0]
display(Markdown(
    f"With no token kept φ_r's loss is {told[False][0.0]:.2f} nats a token, "
    f"with three quarters of the true tokens kept {told[False][0.75]:.2f}: a neighbour "
    f"information of **{information:.0%}** on these crops. "
    f"With three quarters of its own draws kept the loss is {told[True][0.75]:.2f}. "
    "[Notebook 10](10_where_steps_pay.ipynb) measures the same share on other photos, and in "
    "worlds of stripes where neighbours tell more."))

# %% [markdown]
# ### 8f. What each option brought
#
# Notebook 09 measured whole runs of `tiny` in three forms, on the same VQGAN and E_l: φ_r with the paper's inputs, with the
# posterior, and with the LQ image as well (the form that ships). Less LPIPS is better, so a negative difference is a gain.

# %%
kept_results = ROOT / "figures" / "results"
forms = {name: json.loads((kept_results / file).read_text(encoding="utf-8"))["results"]["evidence"]
         for name, file in (("paper's inputs", "variants/tiny-paper-form.json"),
                            ("posterior (8a)", "variants/tiny-posterior-form.json"),
                            ("posterior and LQ image (8b)", "09.json"))}
asked = {"Algorithm 2 − one sample of E_l": "LPIPS, ITER − one sample of E_l",
         "φ_r's proposals − E_l's": "LPIPS, φ_r proposes − E_l proposes"}
pd.DataFrame({name: {what: ledger.show(evidence[key]) for what, key in asked.items()}
              for name, evidence in forms.items()}).T

# %%
outcome = {-1: "better than", 0: "not distinguished from", 1: "worse than"}
lines = []
for name, evidence in forms.items():
    by_steps, by_proposal = (outcome[ledger.sign(evidence[key])] for key in asked.values())
    lines.append(f"- **{name}**: φ_r's proposals are {by_proposal} E_l's; "
                 f"Algorithm 2 is {by_steps} one sample of E_l.")
display(Markdown("\n".join(lines)))


# %% [markdown]
# *The table has LPIPS differences, mean and 95 % interval over photos; the sentences below it go by the intervals.* The forms
# were not trained equally long (their commands are in the files): the paper's inputs got the fewest steps. So the table does
# not say what the inputs alone brought. Option 8c has no such comparison here; for 8d see [notebook
# 10](10_where_steps_pay.ipynb), section 6.

# %% [markdown]
# ## What you learned
#
# - Masking is diffusion with an absorbing state; its forward marginal is "masked with probability γ(t/T)", so one can jump to
#   any t.
# - γ fixes how many tokens each step decides; counts are exact integers.
# - φ_r reads S_t with a mask token in place of masked values, and S_l with its bad tokens flagged; a lookup is a one-hot
#   convolution.
# - Eq. 4 is plain cross-entropy. Over all places it can be lowered by copying; judge by masked tokens, against the best
#   constant.
# - Sampling all places at once gives tokens that do not agree; a few steps do, where neighbours tell something.
# - Where φ_r is unsure it has to sample, and somebody has to judge the samples: [notebook 05](05_evaluator.ipynb).
# - Beyond the paper, φ_r may read E_l's posterior and the LQ image; it then begins as E_l.
#
# ## Check yourself
#
# <details><summary>1. Which way does t count, and what is kept at t = T?</summary>
#
# t counts down from T, where no token is kept, to 0, where all are.
#
# </details>
#
# <details><summary>2. Why does φ_r need no input for t?</summary>
#
# Which tokens are masked does not depend on what they are. So p(s_0 | s_t) is the same at every t, and t would add nothing.
#
# </details>
#
# <details><summary>3. Why are several steps needed at all, if φ_r predicts all tokens at once?</summary>
#
# One step draws each token for itself: a product of distributions. Only when some are kept can the next ones be drawn to fit
# them.
#
# </details>
#
# <details><summary>4. φ_r's loss hardly falls when true neighbours are kept. What does that say about the gain of
# steps?</summary>
#
# It suggests a small gain: what tokens tell of each other is little beside what LQ tells. This is certain only for an exact
# φ_r; notebook 10 measures both.
#
# </details>
#
# ## Exercises
#
# **1. How many does a step reveal?** On average over the chain of section 1, how many of N tokens are masked at t and kept at t
# − 1? (w_t is conditional: of the tokens that are masked at t, the share w_t is kept at t − 1. How many of N are masked at t?)
# The steps together must reveal all N, and each about as many as the exact counts say.

# %% tags=["exercise"]
def revealed(t: int, T: int, N: int, kind: str) -> float:
    """The mean number of tokens that the step from t to t − 1 reveals."""
    raise NotImplementedError


# %% jupyter={"source_hidden": true} tags=["solution"]
def revealed(t: int, T: int, N: int, kind: str) -> float:
    """The mean number of tokens that the step from t to t − 1 reveals."""
    return N * gamma(t / T, kind) * share_revealed(t, T, kind)


# %% tags=["check"]
for kind in ("linear", "cosine", "square"):
    of_steps = [revealed(t, 8, 64, kind) for t in range(1, 9)]
    assert abs(sum(of_steps) - 64) < 1e-9, (
        f"{kind}: the steps reveal {sum(of_steps)} of 64 tokens in all; needed is 64")
    for t, mean in enumerate(of_steps, start=1):
        exact = tokens_to_keep(t - 1, 8, 64, kind) - tokens_to_keep(t, 8, 64, kind)
        assert abs(mean - exact) <= 1, (
            f"{kind}, t = {t}: {mean:.1f} on average, {exact} by the exact counts of section 1")


# %% [markdown]
# **2. How hard is a schedule?** Training draws r ~ U(0, 1]. What share of tokens is masked on average under γ? (A sum over many
# r will do.)

# %% tags=["exercise"]
def mean_masked_share(kind: str) -> float:
    """The mean of γ(r) over r in (0, 1]."""
    raise NotImplementedError


# %% jupyter={"source_hidden": true} tags=["solution"]
def mean_masked_share(kind: str) -> float:
    """The mean of γ(r) over r in (0, 1]."""
    steps = 10_000
    return sum(gamma((i + 0.5) / steps, kind) for i in range(steps)) / steps


# %% tags=["check"]
assert abs(mean_masked_share("linear") - 1 / 2) < 1e-3
assert abs(mean_masked_share("cosine") - 2 / math.pi) < 1e-3
assert abs(mean_masked_share("square") - 1 / 3) < 1e-3


# %% [markdown]
# **3. Accuracy that copying cannot raise.** Per picture, the share of masked tokens that are right; then the mean over
# pictures. A picture without masked tokens counts as 0.

# %% tags=["exercise"]
def masked_accuracy_of(predicted: torch.Tensor, truth: torch.Tensor, keep: torch.Tensor) -> float:
    """All (B, h, w); keep is False where the token was masked."""
    raise NotImplementedError


# %% jupyter={"source_hidden": true} tags=["solution"]
def masked_accuracy_of(predicted: torch.Tensor, truth: torch.Tensor, keep: torch.Tensor) -> float:
    """All (B, h, w); keep is False where the token was masked."""
    hits = ((predicted == truth) & ~keep).flatten(1).sum(1)
    return (hits / (~keep).flatten(1).sum(1).clamp(min=1)).mean().item()


# %% tags=["check"]
_g = torch.Generator().manual_seed(1)
_truth, _guess = (torch.randint(4, (3, 5, 5), generator=_g) for _ in range(2))
# the last picture is fully kept
_keep = torch.rand(3, 5, 5, generator=_g) < torch.tensor([0.2, 0.5, 1.0])[:, None, None]
assert abs(masked_accuracy_of(_guess, _truth, _keep)
           - per_image((_guess == _truth).float(), ~_keep).item()) < 1e-6
# right where the token is kept, wrong elsewhere
_copier = torch.where(_keep, _truth, (_truth + 1) % 4)
assert masked_accuracy_of(_copier, _truth, _keep) == 0

# %%
path = run.record(
    measured=(f"masked-token accuracy {masked_accuracy:.1%} "
              f"(best constant {constant:.1%}, S_l {accuracy_l:.1%})"),
    masked_accuracy=masked_accuracy, best_constant=constant, s_l_accuracy=accuracy_l,
    by_ratio=[{"masked": row["masked"], "accuracy": row["accuracy"], "entropy": row["entropy"]}
              for row in rows],
    neighbour_information=information, toy_accuracy=toy_accuracy, toy_agreement=whole,
    e_l_entropy=unsure, e_l_top5=(rank < 5).float().mean().item(), overfit=overfit,
)

# %% [markdown]
# Next: φ_r samples tokens, good ones and bad ones. [05 · The evaluator φ_e](05_evaluator.ipynb) learns to tell them apart.
