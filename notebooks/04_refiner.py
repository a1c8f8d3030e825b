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
# **What you will build.** The network that paints texture: φ_r looks at a picture in which some tokens are hidden, and says which token
# belongs in every hidden place. You will write the diffusion process that hides them, the loss (Eq. 4), and one whole step of the
# paper's Algorithm 1, each by hand first and then as a call of the module that must give the same numbers.
#
# **Why.** E_l ([notebook 03](03_lq_encoder.ipynb)) answers every place at once. It cannot let its answer here depend on its answer next
# door, so its picture is clean but flat. Hiding tokens and predicting them *given their neighbours* is a diffusion model on tokens. It
# is what turns one answer into a few steps that agree with each other.
#
# **What you need.** Cross-entropy, embeddings, notebooks 02 and 03 (S_h, S_l, E_l). No knowledge of diffusion.
# Symbols: [one table](symbols.md).
#
# **Minutes.** Reading 40. As it stands the notebook shows `tiny`, whose weights ship. With `tier = "smoke"` the networks train here: the cells then take about a minute on two CPU cores (some more if notebooks 02 and 03 have not run
# yet), well under one on a GPU.

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
import math

import matplotlib.pyplot as plt
import torch
from IPython.display import Markdown, display
from torch.nn import functional as F
from torch.utils.data import default_collate

from itersr.lab.course import learning_curve, load_or_train, recipe
from itersr.masking import random_mask
from itersr.model import ITER
from itersr.pictures import bundled
from itersr.schedule import gamma, share_revealed, tokens_to_keep, tokens_to_mask
from itersr.token_nets import Refiner
from itersr.losses import per_image
from itersr.training.algorithm1 import Algorithm1
from itersr.training.data import Crops, Photos, ranges, validation_pairs
from itersr.training.validate import Pair, neighbour_information


# %% [markdown]
# ## 1. Hiding tokens is a diffusion process
#
# Diffusion destroys the data step by step and trains a network to undo it. On pixels one adds Gaussian noise. On tokens there is
# something simpler: at step t every token that is still visible is hidden with probability β_t, and **once hidden it stays hidden**. The
# mask token is an *absorbing* state. With K = 3 codes (and the mask as a fourth state) a step is this matrix; row = from, column = to.

# %%
def transition(beta: float, codes: int = 3) -> torch.Tensor:
    ("Q_t: a token stays what it is with 1 − β, becomes the mask with β; "
     "the mask stays the mask.")
    q = (1 - beta) * torch.eye(codes + 1, dtype=torch.float64)
    q[:, codes] += beta  # the last state is the mask: its own row becomes (0, 0, 0, 1)
    return q


transition(0.25)


# %% [markdown]
# Nobody wants to choose β_t. One chooses the **schedule** γ(r), the share of tokens that are masked at time r = t/T, with γ(0) = 0 and
# γ(1) = 1; β_t follows: of the tokens still visible at t − 1, the share 1 − γ_{t−1}, exactly γ_t − γ_{t−1} must go.
#
# The **forward marginal** is the product of all steps, $Q_1 Q_2 \cdots Q_t$. Its first row says what token 0 has become after t steps.
# The table shows that it is "masked with probability γ(t/T), else untouched". So training can jump to any t at once and never walks there.

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
# A fair coin for every token gives γ·N masked tokens *on average*. The paper (RandomMask in Algorithm 1; Algorithm 2) uses **exact
# counts**: in training ⌈γ(r)·N⌉ tokens are masked; at inference S_t keeps ⌈(1 − γ(t/T))·N⌉. This table is the clock of the whole method:
# how many of N = 64 tokens S_t keeps, for T = 8. Read it from right to left, as inference does.

# %% tags=["nbval-check-output"]
print("kept of 64 at t =", *(f"{t:3d}" for t in range(T + 1)))
for kind in ("linear", "cosine", "square", "cubic", "sqrt"):
    print(f"{kind:>15}  ", *(f"{tokens_to_keep(t, T, 64, kind):3d}" for t in range(T + 1)))


# %% [markdown]
# Now by hand, in three lines. One uniform number a token decides who goes: the largest ones do.

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
# Both ways of hiding tokens, compared. The dots walk the chain: 4,000 tokens, at step t each visible one is hidden with probability β_t.
# The lines are γ.

# %%
def walk(kind: str, T: int, count: int, generator: torch.Generator) -> list[float]:
    """The share of masked tokens after each step of the chain."""
    visible, shares = torch.ones(count, dtype=torch.bool), [0.0]
    for t in range(1, T + 1):
        visible &= torch.rand(count, generator=generator) >= beta(t, T, kind)
        shares.append(1 - visible.float().mean().item())
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
# *What to see. Left: the dots lie on the lines, so the mean share of masked tokens is that of the step-by-step chain. Right: the
# cosine dares little at first, when hardly anything is known, and decides most tokens at the end, when each has many known neighbours.
# Linear decides equally many in each step; square begins boldly.*

# %% [markdown]
# ### The way back: Eq. 3
#
# The chain forward is fixed; there is nothing to learn in it. What we want is the step back, from s_t to s_{t−1}. If somebody told us s_0, Bayes' rule would give it:
# $$q(s_{t-1} \mid s_t, s_0) = \frac{q(s_t \mid s_{t-1})\; q(s_{t-1} \mid s_0)}{q(s_t \mid s_0)} .$$
# For this chain it is short. A token that is visible at t was the same at t − 1, since nothing is ever changed but by masking. A token that is masked at t was
# already masked at t − 1 with probability γ_{t−1}/γ_t; otherwise it was s_0, with probability **w_t = (γ_t − γ_{t−1})/γ_t**. Check it twice: by Bayes' rule on
# the matrices above, and by counting in 200,000 chains.

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
# 1. **Predicting s_0 is enough.** In the step back everything is known but s_0. So a network that gives p(s_0 | s_t) gives the step as well: it is what φ_r does.
# 2. **φ_r needs no time input.** Which tokens are masked does not depend on what they are. So p(s_0 | s_t) is the same at every t: the next cell counts it in a world
#    of two tokens.
# 3. **Eq. 4 drops weights.** The bound on the likelihood that belongs to this chain (Austin et al. 2021) is a sum over t of w_t times the cross-entropy on masked
#    tokens. Eq. 4 has the cross-entropy without w_t (and over all tokens, section 3), so that steps with many masked tokens count more.
# 4. **One step is not enough.** A step back draws each newly revealed token from its own distribution: a *product*. Tokens that are drawn in the same step do not
#    know of each other; tokens of later steps know the earlier ones. [Notebook 10](10_where_steps_pay.ipynb) measures what that is worth.

# %% tags=["nbval-check-output"]
world = {"AA": 0.4, "AB": 0.1, "BA": 0.2, "BB": 0.3}
for t in (1, 4, 7):
    g = gamma(t / 8, "cosine")
    # first visible, second masked
    seen = {pair: p * (1 - g) * g for pair, p in world.items() if pair[0] == "A"}
    second = {pair[1]: p / sum(seen.values()) for pair, p in seen.items()}
    print(f"t = {t}: 'A?' is seen; "
          f"the second token is A with {second['A']:.2f}, B with {second['B']:.2f}")
    assert math.isclose(second["A"], world["AA"] / (world["AA"] + world["AB"]))

# %% [markdown]
# ### The process on a photo
#
# Now on real tokens: held-out photos that no network here was trained on, their HQ and LQ crops, and S_h from the VQGAN of notebook 02.
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


def hide(image: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
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
        axis.imshow(hide(full, keep))
        axis.set(xticks=[], yticks=[], title=f"t = {t}: {int(keep.sum())} kept")
        axis.title.set_fontsize(8)
    row[0].set_ylabel(kind)
path = run.save_figure(fig, "masks_over_t")

# %% [markdown]
# *What to see: the forward process, left to right; grey tokens are masked. Every mask contains the one before it (the cell asserts it: the
# mask is absorbing). Half way, at t = 4, the linear schedule shows half of the tokens, the cosine fewer than a third. Inference walks
# from right to left and has to invent what is grey.*

# %% [markdown]
# ## 2. What φ_r is given
#
# Four maps, all of h×w: **S_t** with its mask **m_t** (what is known so far), and **S_l** with **m_l** (E_l's guess, and which of its tokens
# the evaluator of [notebook 05](05_evaluator.ipynb) found good).
#
# **A lookup is a convolution.** The published network turns a token map into one-hot channels and applies a 1×1 convolution. All but one
# of the products are with 0: the result is a column of the weight. So an embedding table does the same, without the K − 1 zeros.

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
# **The mask token** is one more row of that table: it stands for "unknown". In S_t it *replaces* a masked token, whose value must not be
# seen. In S_l it is *added* to a token judged bad: the value stays (a bad guess is still a hint), and the sum is a flag. Here is
# the input by hand, and the rest of the network through `predict`. The weights are random: equality must hold for any.

# %%
with torch.random.fork_rng(devices=[]):  # nothing outside this block sees the seed
    torch.manual_seed(run.seed)
    untrained = ITER(run.tier).refiner.to(run.device).eval().requires_grad_(False)
    for weights in untrained.parameters():
        torch.nn.init.normal_(weights, std=0.1)

keep = random_mask(n // 2, places)[:1]  # m_t: half of the tokens are known
good = (s_l == s_h)[:1]  # a stand-in for m_l, until notebook 05 has a real evaluator
# this and the LQ features: see section 8
seen = log_probs[:1] if run.tier.refiner.posterior else None
lq_features = untrained.lq_features(lq[:1])  # of the image itself, where it reads that

weight = untrained.table.weight  # (codes + 1, width): the last row is the mask token
known = torch.where(keep[..., None], weight[s_h[:1]], weight[codes])  # replaced
hint = weight[s_l[:1]] + (~good)[..., None] * weight[codes]  # flagged
by_hand = untrained.predict(hint, known, torch.where(keep, s_h[:1], s_l[:1]), seen, lq_features)
if seen is not None:
    by_hand = (by_hand
               + untrained.nearby((weight[s_h[:1]] * keep[..., None]).permute(0, 3, 1, 2))
               + (seen if lq_features is None else 0))
by_module = untrained(s_h[:1], keep, s_l[:1], good, seen, lq_features)
torch.testing.assert_close(by_hand, by_module)

# %% [markdown]
# What may φ_r know, and what not? Three changes to its input tell. A masked token that left any trace would make training a
# game of reading the answer.

# %% tags=["nbval-check-output"]
other = (s_h[:1] + 1) % codes  # another token at every place
changes = {
    "values under the mask of S_t": (torch.where(keep, s_h[:1], other), s_l[:1], good),
    "values of kept tokens of S_t": (torch.where(keep, other, s_h[:1]), s_l[:1], good),
    "values of S_l judged bad": (s_h[:1], torch.where(good, s_l[:1], (s_l[:1] + 1) % codes), good),
    "the flags m_l": (s_h[:1], s_l[:1], ~good),
}
for what, (tokens, condition, flags) in changes.items():
    same = torch.equal(untrained(tokens, keep, condition, flags, seen, lq_features), by_module)
    print(f"change {what:<29} → logits {'stay' if same else 'change'}")

# %% [markdown]
# ## 3. The loss: Eq. 4
#
# For the true tokens S_h, φ_r is trained by cross-entropy: the mean over all places i of
# $$-\log p_{\phi_r}\left(S_h^i \mid S_t, m_t, S_l, m_l\right) .$$
# On a toy of 2×3 places and 4 codes, spelled out:

# %% tags=["nbval-check-output"]
logits = torch.randn(1, 4, 2, 3, generator=torch.Generator().manual_seed(0))
truth = torch.tensor([[[0, 1, 2], [3, 0, 1]]])
shown = torch.tensor([[[True, False, True], [False, False, True]]])
nats = torch.empty(1, 2, 3)
for y in range(2):
    for x in range(3):
        p = logits[0, :, y, x].exp() / logits[0, :, y, x].exp().sum()  # softmax
        nats[0, y, x] = -p[truth[0, y, x]].log()
torch.testing.assert_close(nats, F.cross_entropy(logits, truth, reduction="none"))
torch.testing.assert_close(nats.mean(), F.cross_entropy(logits, truth))
torch.testing.assert_close(nats[~shown].mean(), per_image(nats, ~shown))
print(f"Eq. 4, over all {nats.numel()} places; "
      f"and over the {int((~shown).sum())} masked ones alone (per_image)")

# %% [markdown]
# `per_image` takes the mean within each picture, then over pictures: a picture with three masked tokens weighs as much as one with
# a thousand.
#
# ### Copying fools the loss
#
# The paper's mean runs over *all* places, visible tokens included, and a visible token can be copied. Take a network that copies, and
# knows nothing else (every code equally likely at masked places). Its numbers look as if it had learned a lot:

# %% tags=["nbval-check-output"]
N, K = 64, 64
print("masked   accuracy, all places   accuracy, masked places   loss (nothing known: 4.159)")
for r in (0.1, 0.25, 0.5, 0.75, 1.0):
    masked = tokens_to_mask(r, N, "linear")
    everywhere = (N - masked + masked / K) / N
    print(f"{masked:2d} of {N}        {everywhere:6.1%}                 "
          f"{1 / K:6.1%}              {masked / N * math.log(K):.3f}")

# %% [markdown]
# So we watch the accuracy **on masked tokens alone**, and hold it against the best constant answer: the one code that is most frequent. Some
# tiers also train on masked tokens alone (`masked_loss`); the paper's form is all places.

# %%
settings = run.tier.train["token_nets"]
where = "masked places alone" if settings.masked_loss else "all places, as in the paper"
display(Markdown(f"This tier, `{run.tier.name}`, takes Eq. 4 over **{where}**; "
                 f"γ is **{settings.gamma}** in training."))

# %% [markdown]
# ## 4. A toy world in which only neighbours help
#
# Before photos, a world small enough to know all about: 8×8 token maps of diagonal or straight **stripes**, 4 codes, 16 possible maps. S_l is
# the same for all of them and says nothing. With nothing shown, every code is equally likely at every place: 25 % right is the
# best anyone can do. With a few tokens shown, slope and phase are fixed, and everything can be known. A φ_r that cannot do this is broken.

# %%
from itersr.config import SwinConfig, TokenNetConfig
from itersr.sampling import categorical

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
    print(f"{count:2d} of 64 tokens shown: {toy_accuracy[count]:.1%} of the hidden ones right")
assert abs(toy_accuracy[0] - 0.25) < 0.06, "with nothing shown nothing can be known"
assert toy_accuracy[16] > 0.9, "with 16 tokens shown nearly everything can be known"


# %% [markdown]
# **And this is why one iterates.** With nothing shown φ_r is right to say 25 % for every code, *at each place*. But all places sampled at
# once do not know of each other: the result is noise, though each token alone is as likely as it should be. Sample, keep a few, mask the rest, sample again
# given those few: the map comes out as one piece. (Which to keep is chosen at random here; choosing better is notebook 05's subject.)

# %%
def sample(T: int, count: int, generator: torch.Generator) -> torch.Tensor:
    ("`count` maps from nothing in T steps: propose at masked places, keep what is known, "
     "re-mask at random.")
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
# *What to see: four samples each, from nothing, in 1, 4, 8 and 16 steps; the number is how much of a map equals the nearest of the 16 true maps,
# on average over 100 (in one step, what pure noise gets). In one step: noise. In more steps: stripes, with a fault here and there. It is the same
# network with the same weights.*

# %% [markdown]
# ## 5. One step of Algorithm 1, by hand
#
# Algorithm 1 trains E_l (Eq. 2), φ_r (Eq. 4) and φ_e (Eq. 5). Here is its middle part, for φ_r, with the paper's loss. We start from the VQGAN
# and E_l of the earlier notebooks, and from an untrained φ_r and φ_e.

# %%
with torch.random.fork_rng(devices=[]):
    torch.manual_seed(run.seed)
    fresh = ITER(run.tier).to(run.device)
fresh.vqgan.load_state_dict(model.vqgan.state_dict())
fresh.lq_encoder.load_state_dict(model.lq_encoder.state_dict())
# changes nothing unless φ_r reads the LQ image too (section 8)
fresh.refiner.start_from(fresh.lq_encoder)

paper = dataclasses.replace(settings, networks=("refiner",), corrupt=0.0, masked_loss=False)
task = Algorithm1(fresh, paper, run.seed)

# %% [markdown]
# **A batch** of HQ crops x_h and their degraded LQ versions x_l. A crop is a function of its index and the seed: index 7 is the same
# crop, blur and noise whenever it is asked for.

# %%
training, _ = Photos.of(run.data).split()
crops = Crops(training, settings.crop, run.seed,
              degradation=ranges(run.tier.degradation), scale=run.tier.scale)
batch = {name: value.to(run.device)
         for name, value in default_collate([crops[i] for i in range(4)]).items()}
print({name: tuple(value.shape) for name, value in batch.items()})

# %% [markdown]
# **Tokens.** S_h from the HQ crop, S_l = argmax of E_l from the LQ crop. Neither needs a gradient here.

# %%
with torch.no_grad():
    b_h = fresh.vqgan.encode(batch["hq"])  # (4, h, w)
    b_log_probs = fresh.lq_encoder(batch["lq"]).float().log_softmax(1)
b_l = b_log_probs.argmax(1)
b_seen = b_log_probs if run.tier.refiner.posterior else None
print(f"S_h and S_l {tuple(b_h.shape)}; "
      f"E_l is right at {(b_h == b_l).float().mean():.1%} of these places")

# %% [markdown]
# **m_l**, which tokens of S_l are good, by φ_e at a threshold α. At inference α is the user's choice, so training draws it at random; and in
# half of the pictures no token is known to be good, as it is when inference starts from nothing. (`task.noise` gives uniform numbers that
# depend on the crop's index and a purpose: a resumed run draws the same.)

# %%
# r, α, and a third number that only `corrupt` uses
per_picture = task.noise(batch, "per image", torch.Size([3]))
coin = task.noise(batch, "start", torch.Size([]))
with torch.no_grad():
    probability_good = fresh.evaluator(
        b_l, b_l, b_log_probs if run.tier.evaluator.posterior else None).softmax(1)[:, 1]
alpha = per_picture[:, 1]
m_l = (probability_good >= alpha[:, None, None]) & (coin > 0.5)[:, None, None]
print("α", [round(a, 2) for a in alpha.tolist()],
      "→ good tokens of S_l:", m_l.flatten(1).sum(1).tolist(), "of", b_l[0].numel())

# %% [markdown]
# **RandomMask.** r ~ U(0, 1] for each picture, then ⌈γ(r)·N⌉ tokens of S_h are masked. (`rand` gives [0, 1), so 1 − rand gives (0, 1]: a
# picture without any masked token would teach nothing.)

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
logits = fresh.refiner(b_h, m_t, b_l, m_l, b_seen,
                       fresh.refiner.lq_features(batch["lq"])).float()  # (4, codes, h, w)
nats = F.cross_entropy(logits, b_h, reduction="none")  # (4, h, w)
by_hand, by_hand_masked = nats.mean(), per_image(nats, ~m_t)

by_module, scalars = task(batch, 0, "iter")
torch.testing.assert_close(by_hand, by_module)
torch.testing.assert_close(by_hand_masked, scalars["refiner masked"])
print(f"Eq. 4 by hand {by_hand.item():.4f} = Algorithm1 {by_module.item():.4f}; "
      f"ln K = {math.log(codes):.4f}")

# %% [markdown]
# The network is untrained. Without E_l's posterior its loss is near ln K, that of a uniform guess; with it (section 8) it starts at E_l's own loss. **Then the
# gradient step.** Before any long training, one check that finds most bugs in a minute: the loss on *one* batch, over and over, must
# fall.

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
# The real run does the same step on new crops, with a learning rate that warms up and decays, and keeps a running mean of the weights.
# φ_r and φ_e train side by side, as in Algorithm 1: φ_e ([notebook 05](05_evaluator.ipynb)) needs φ_r's samples to judge, φ_r needs φ_e's m_l. E_l
# is trained already (notebook 03) and rests; the paper trains all three at once, which is the stage `"iter"`.

# %%
model = load_or_train("token_nets", run.tier, run.data, run.checkpoints, **options)
curve = learning_curve(run.tier, "token_nets", run.checkpoints, "refiner")
train_curve = curve[curve["split"] == "train"]
masked_loss = train_curve[train_curve["name"] == "refiner masked"]
print(f"{int(curve['step'].max())} steps; "
      f"φ_r: {sum(p.numel() for p in model.refiner.parameters()) / 1e6:.2f} M parameters")

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(8, 2.8), layout="constrained")
left.plot(masked_loss["step"], masked_loss["value"], label="φ_r, masked places")
left.axhline(math.log(codes), color="grey", ls=":", label="ln K: knows nothing")
left.set(xlabel="step", ylabel="nats a token", title="Eq. 4 on training crops")
validated = curve[curve["split"] == "validation"]
for i, ratio in enumerate((0.25, 0.5, 0.75, 1.0)):
    rows = validated[validated["name"] == f"φ_r masked accuracy at {ratio}"]
    right.plot(rows["step"], 100 * rows["value"], "o-", ms=3, color=plt.cm.viridis(i / 3.5),
               label=f"{ratio:.0%} masked")
constant = validated[validated["name"] == "best constant"]
right.plot(constant["step"], 100 * constant["value"], color="grey", ls=":", label="best constant")
right.set(xlabel="step", ylabel="% right", title="masked tokens of held-out crops")
left.legend(fontsize=8), right.legend(fontsize=8)
path = run.save_figure(fig, "training")
assert masked_loss["value"].iloc[-1] < math.log(codes), "φ_r must know more than nothing at the end"

# %% [markdown]
# *What to see. Left: the loss on masked places, which copying cannot lower; each point is one batch with its own mask ratios, so it is rough.
# Right: held-out crops, the masked tokens alone, at four mask ratios; what counts is the distance to the dotted line.*

# %% [markdown]
# **The run behind the weights that ship.** Its command, and what its log showed on the way: a run that is far from this at minute 2 has
# something wrong, and need not be waited for.

# %%
line, healthy = recipe("token_nets", "refiner")
display(Markdown(line))
healthy.loc[["train: refiner masked", "train: refiner masked accuracy", "validation: E_l top-1",
             *(f"validation: φ_r masked accuracy at {ratio}" for ratio in (0.25, 0.5, 0.75, 1.0)),
             "validation: lpips S_l", "validation: lpips one sample of E_l",
             "validation: lpips ITER"]]

# %% [markdown]
# ## 7. What φ_r predicts as more tokens are shown
#
# The measure for this notebook. On the held-out crops we show φ_r a growing share of the *true* tokens, and ask for the rest; no token
# of S_l is said to be good. If φ_r reads its neighbours, it gets surer (entropy falls) and better as more is shown. If it only reads
# E_l's guess, the curve is flat.

# %%
nobody = torch.zeros_like(s_l, dtype=torch.bool)


@torch.no_grad()
def refine(network: Refiner, keep: torch.Tensor, shown: torch.Tensor = s_h) -> torch.Tensor:
    ("φ_r's logits for the held-out crops, given the tokens `shown` (the true ones) "
     "where `keep` is True.")
    logits = []
    for p in (slice(i, i + 1) for i in range(len(s_h))):
        seen = log_probs[p] if network.posterior is not None else None
        logits.append(network(shown[p], keep[p], s_l[p], nobody[p], seen,
                              network.lq_features(lq[p])).float())
    return torch.cat(logits)


def entropy(logits: torch.Tensor) -> torch.Tensor:
    """−Σ p·log p at each place, in nats: 0 is certain, ln K is a uniform guess."""
    log_p = logits.log_softmax(1)
    return -(log_p.exp() * log_p).sum(1)


rows, masked_shares = [], (1.0, 0.9, 0.75, 0.5, 0.25, 0.1)
for ratio in masked_shares:
    keep = random_mask(round(ratio * n), places)
    logits = refine(model.refiner, keep)
    right = logits.argmax(1) == s_h
    rows.append({
        "masked": ratio,
        "accuracy": right[~keep].float().mean().item(),
        "entropy": entropy(logits)[~keep].mean().item(),
        "copied": right[keep].float().mean().item() if keep.any() else float("nan"),
    })
# the best constant answer, chosen with hindsight
constant = torch.bincount(s_h.flatten()).max().item() / s_h.numel()
accuracy_l = (s_l == s_h).float().mean().item()
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
left.set(xlabel="% of tokens shown", ylabel="% of hidden tokens right", ylim=(0, None),
         title="accuracy on masked tokens")
right.plot(share, [row["entropy"] for row in rows], "o-", color="C2")
right.axhline(math.log(codes), color="grey", ls=":", label="ln K")
right.set(xlabel="% of tokens shown", ylabel="nats", ylim=(0, None),
          title="entropy of φ_r on masked tokens")
left.legend(fontsize=8), right.legend(fontsize=8)
path = run.save_figure(fig, "accuracy_vs_shown")

# %%
gain = 100 * (rows[-1]["accuracy"] - rows[0]["accuracy"])
drop = rows[0]["entropy"] - rows[-1]["entropy"]
verdict = ("it reads its neighbours" if gain > 1
           else "it hardly uses its neighbours, and leans on E_l's guess")
display(Markdown(
    "*What to see: how much the visible tokens help.* From nothing shown to 90 % shown, "
    f"φ_r's accuracy on hidden tokens moves by **{gain:+.1f} points** "
    f"and its entropy by **{-drop:+.2f} nats**: at this tier {verdict}. "
    f"Its mean accuracy, **{masked_accuracy:.1%}**, "
    f"stands against **{constant:.1%}** for the best constant and **{accuracy_l:.1%}** for S_l."))

# %% [markdown]
# Numbers hide where. Below, one held-out photo: what φ_r is shown, how unsure it is at each place, and the picture when all hidden tokens
# are its best guess.

# %%
which, levels = 1, (1.0, 0.9, 0.75, 0.5, 0.25)
fig, axes = plt.subplots(3, len(levels) + 1, figsize=(8, 4.1), layout="constrained")
full, top = picture(s_h[which]), math.log(codes)
for j, ratio in enumerate((1.0, *levels)):
    keep = random_mask(round(ratio * n), places)
    logits = refine(untrained if j == 0 else model.refiner, keep)
    completed = torch.where(keep, s_h, logits.argmax(1))
    axes[0, j].imshow(hide(full, keep[which]))
    heat = axes[1, j].imshow(entropy(logits)[which].cpu().masked_fill(keep[which].cpu(), math.nan),
                             vmin=0, vmax=top, cmap="magma")
    axes[2, j].imshow(picture(completed[which]))
    axes[0, j].set_title("untrained" if j == 0 else f"{1 - ratio:.0%} shown", fontsize=9)
for axis, name in zip(axes[:, 0], ("S_t", "entropy", "best guess")):
    axis.set_ylabel(name, fontsize=9)
for axis in axes.flat:
    axis.set(xticks=[], yticks=[], facecolor="0.85")
fig.colorbar(heat, ax=axes[1], label="nats", shrink=0.9)
path = run.save_figure(fig, "entropy_maps")

# %% [markdown]
# *What to see. First column: untrained, and whatever it says there it has not learned: the best guess below is noise. Then, left to right, φ_r as more tokens are shown (kept tokens are light grey in the middle row). Dark is sure, bright is
# unsure: compare with the photo above, and say which kinds of places are bright. The best guesses in the last row are smooth where φ_r is unsure, which is why inference
# **samples** from φ_r and does not take its argmax.*

# %% [markdown]
# ### What is kept at inference is not the truth
#
# RandomMask shows φ_r tokens of S_h. At inference the tokens that are kept were *sampled*, and most samples are not S_h's token. A network that has
# only met the truth believes what it sees, and passes the errors of its neighbours on: **exposure bias**, known from text models that train on
# true words and then read their own. Measure it: show φ_r its own samples in place of the true tokens, and ask for the true ones behind the rest.

# %%
at_once = refine(model.refiner, nobody)  # from nothing known, as in the first step of Algorithm 2
drawn, _ = categorical(
    at_once, torch.rand(s_h.shape, generator=run.generator(9, "cpu")).to(s_h.device), 0.7)
believed = {"true tokens": s_h, "its own samples": drawn}


def hidden_loss(keep: torch.Tensor, shown: torch.Tensor = s_h) -> float:
    """Eq. 4 on the hidden tokens of the held-out crops, in nats a token."""
    return F.cross_entropy(
        refine(model.refiner, keep, shown), s_h, reduction="none")[~keep].mean().item()


exposure = {name: [hidden_loss(random_mask(round(ratio * n), places), tokens)
                   for ratio in masked_shares]
            for name, tokens in believed.items()}
assert exposure["true tokens"][0] == exposure["its own samples"][0], (
    "where all is masked no value may be seen")
fig, axis = plt.subplots(figsize=(5, 2.8), layout="constrained")
for name, values in exposure.items():
    axis.plot(share, values, "o-", ms=4, label=f"shown: {name}")
axis.axhline(F.nll_loss(log_probs, s_h).item(), color="grey", ls=":", label="E_l alone")
axis.set(xlabel="% of tokens shown", ylabel="nats, hidden tokens")
axis.legend(fontsize=8)
path = run.save_figure(fig, "exposure")
harm = exposure["its own samples"][-1] - exposure["its own samples"][0]

# %%
display(Markdown(
    f"{(drawn != s_h).float().mean():.0%} of these samples are not S_h's token. "
    f"Showing 90 % of them moves φ_r's loss on the rest by **{harm:+.3f} nats**; true tokens "
    f"move it by {exposure['true tokens'][-1] - exposure['true tokens'][0]:+.3f}."))

# %% [markdown]
# *What to see: the loss should not rise as more samples are shown* (they hold nothing about the picture that φ_r did not put there); where it does, φ_r
# takes its own samples for true. `TrainConfig.corrupt` is
# meant to help, and helps in part where the curve still rises: in that share of the training pictures, half to all of the shown tokens are φ_r's own samples, drawn from nothing known at temperatures of ½ to 1; the
# others show the truth, as in the paper. How well the shown tokens fit the photo tells φ_r which of the two it sees, and so it learns what they are worth. `smoke`
# trains without it, `tiny` with `corrupt = 0.5`. ([Notebook 09](09_benchmark.ipynb) asks what proposals of φ_r are worth in pictures.)

# %% [markdown]
# ### One number: neighbour information
#
# How much can an order of revealing win at all? Several steps differ from one in this alone: later tokens are drawn *knowing* earlier ones. So take the places that
# stay hidden when three quarters of S_h are known. How much of φ_r's loss there goes away, from nothing known to three quarters known? That share is the
# **neighbour information** (`neighbour_information`; the model card has it too). If it is near zero, φ_r draws all tokens at once as well as in eight steps.

# %%
crops = [Pair(str(i), hq[i : i + 1].cpu(), lq[i : i + 1].cpu()) for i in range(len(hq))]
told = {own: neighbour_information(model, crops, own=own, seed=run.seed) for own in (False, True)}
information = 1 - told[False][0.75] / told[False][0.0]
display(Markdown(
    f"With nothing known φ_r's loss is {told[False][0.0]:.2f} nats a token, "
    f"with three quarters of the true tokens known {told[False][0.75]:.2f}: a neighbour "
    f"information of **{information:.0%}**. "
    f"With three quarters of its own draws known it is {told[True][0.75]:.2f}. "
    "[Notebook 10](10_where_steps_pay.ipynb) has a world in which that share is "
    "several times as large, and there the steps pay."))

# %% [markdown]
# ## 8. Beyond the paper: E_l's posterior, and the LQ image itself
#
# S_l is the *argmax* of E_l. Where E_l says "code 5 with 31 %, code 9 with 30 %", φ_r sees "5", as if it were certain. How much is thrown
# away? On the held-out crops:

# %%
order = log_probs.argsort(1, descending=True)
rank = (order == s_h[:, None]).float().argmax(1)  # 0: E_l's first choice is the true token
for k in (1, 2, 5, 10):
    print(f"the true token is among E_l's first {k:2d}: {(rank < k).float().mean():.1%}")
unsure = entropy(log_probs).mean().item()
print(f"mean entropy of E_l: {unsure:.2f} nats, "
      f"as unsure as {math.exp(unsure):.1f} equally likely codes; S_l says 1")

# %% [markdown]
# The option `posterior=True` hands E_l's log-probabilities to φ_r (and φ_e) as a further input, **and adds them to φ_r's logits**; its output layers
# start at zero. So φ_r begins as E_l, to the bit, and learns a correction: what the Swin layers see, and, through one plain 5×5 convolution of the
# known tokens, which codes stand beside which. φ_e begins likewise: a token is as good as E_l finds it probable.
#
# The option `reads_lq=True` goes on from there. A posterior is what *one* network could say about the picture; φ_r may look for itself. It gets E_l's whole
# network, stem, Swin layers and output layer, **copied from the trained E_l**; the tokens, the masks and the posterior are added in front of the Swin
# layers through convolutions that start at zero. Again φ_r begins as E_l, and this time every layer is at work from the first step on.

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
config = run.tier.refiner
reads = ("S_l alone, as in the paper" if not config.posterior
         else "E_l's posterior as well" if not config.reads_lq
         else "E_l's posterior and the LQ image as well")
display(Markdown(
    f"Untrained, φ_r = E_l either way. At this tier φ_r reads **{reads}** "
    "(`posterior` and `reads_lq` in the tier's `refiner`). "
    "What that changes is reported beside the paper's own form in notebook 09."))

# %% [markdown]
# ### Do the layers say anything?
#
# A network that begins with a good answer can stay with it, and its loss will look healthy from the first step on. So ask it: replace what φ_r's Swin
# layers say, the output of its last layer, by its mean over all places and pictures, and leave the rest (the 5×5 convolution, and E_l's posterior where it is
# added) as it is. If the loss on hidden tokens does not move, these layers know nothing about this picture.
#
# This is no idle question. The first weights of `tiny` had the form `posterior` with a LayerNorm before the output layer, and when this notebook first asked,
# muting moved the loss from 2.2273 to 2.2274 nats. The output layer started at zero, which lets no gradient through at first; the layers below drifted, to
# activations of 300,000 that differed by one per cent from place to place; and the LayerNorm hid it. Everything that φ_r had learned was in the one
# convolution of known tokens, and no curve had shown it. That is why a φ_r that reads the image has no zeros in its trunk and no norm before its output.

# %%
said, half = [], random_mask(n // 2, places)
with model.refiner.head.register_forward_hook(
        lambda layer, inputs, output: said.append(output.mean((0, 2, 3), keepdim=True))):
    spoken = hidden_loss(half)
with model.refiner.head.register_forward_hook(
        lambda layer, inputs, output: torch.stack(said).mean(0).expand_as(output)):
    silent = hidden_loss(half)
found = "they do their part" if silent - spoken > 0.01 else (
    "**they have collapsed**: whatever φ_r adds to E_l's posterior comes from "
    "the one convolution of known tokens. What these weights show about φ_r's "
    "proposals (notebooks 07 and 09) they show about that convolution")
display(Markdown(
    f"With half of the true tokens shown: {spoken:.4f} nats as trained, "
    f"{silent:.4f} with the Swin layers' answer made the same everywhere; {found}."))


# %% [markdown]
# ## What you learned
#
# - Masking is diffusion with an absorbing state; its forward marginal is "masked with probability γ(t/T)", so one can jump to any t.
# - γ fixes how many tokens each step decides; counts are exact integers.
# - φ_r reads S_t with a mask token in place of unknown values, and S_l with its bad tokens flagged; a lookup is a one-hot convolution.
# - Eq. 4 is plain cross-entropy. Over all places it can be lowered by copying; judge by masked tokens, against the best constant.
# - Sampling all places at once gives tokens that do not agree; a few steps do. That is what diffusion buys, where neighbours tell something.
# - The more is shown, the surer a well-trained φ_r is. Where it is unsure, it has to sample, and somebody has to judge the samples:
#   [notebook 05](05_evaluator.ipynb).
#
# ## Check yourself
#
# <details><summary>1. Which way does t count, and what is known at t = T?</summary>
#
# t counts down from T, where nothing is known, to 0, where all tokens are.
#
# </details>
#
# <details><summary>2. Why does φ_r need no input for t?</summary>
#
# The mask shows how many tokens are known, and with it the time.
#
# </details>
#
# <details><summary>3. Why are several steps needed at all, if φ_r predicts all tokens at once?</summary>
#
# One step draws each token for itself: a product of distributions. Only when some are kept can the next ones be drawn to fit them.
#
# </details>
#
# <details><summary>4. φ_r's loss hardly falls when true neighbours are shown. What does that foretell?</summary>
#
# That steps can win little: what tokens tell of each other is small beside what LQ tells. Notebook 10 makes a measure of it.
#
# </details>
#
# ## Exercises
#
# **1. How many does a step reveal?** On average over the chain of section 1, how many of N tokens are masked at t and visible at t − 1? (w_t is given that a token
# is masked.) The steps together must reveal all N, and each about as many as the exact counts say.

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
# **2. How hard is a schedule?** Training draws r ~ U(0, 1]. What share of tokens is masked on average under γ? (A sum over many r will do.)

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
# **3. Accuracy that copying cannot raise.** Per picture, the share of masked tokens that are right; then the mean over pictures. A picture
# without masked tokens counts as 0.

# %% tags=["exercise"]
def masked_accuracy_of(predicted: torch.Tensor, truth: torch.Tensor, keep: torch.Tensor) -> float:
    """All (B, h, w); keep is True where the token was visible."""
    raise NotImplementedError


# %% jupyter={"source_hidden": true} tags=["solution"]
def masked_accuracy_of(predicted: torch.Tensor, truth: torch.Tensor, keep: torch.Tensor) -> float:
    """All (B, h, w); keep is True where the token was visible."""
    hits = ((predicted == truth) & ~keep).flatten(1).sum(1)
    return (hits / (~keep).flatten(1).sum(1).clamp(min=1)).mean().item()


# %% tags=["check"]
_g = torch.Generator().manual_seed(1)
_truth, _guess = (torch.randint(4, (3, 5, 5), generator=_g) for _ in range(2))
_keep = torch.rand(3, 5, 5, generator=_g) < torch.tensor([0.2, 0.5, 0.9])[:, None, None]
assert abs(masked_accuracy_of(_guess, _truth, _keep)
           - per_image((_guess == _truth).float(), ~_keep).item()) < 1e-6
# right wherever it can look, wrong elsewhere
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
