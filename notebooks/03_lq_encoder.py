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
# # 03 · The LQ encoder E_l (Stage II) and its Swin layers
#
# **What you will build.** E_l, a network that reads the damaged, small photo and says for every place which token the good
# photo has there. It ends in *Swin layers*, attention inside small windows of tokens; all four networks of ITER use them, so
# you build them here by hand, once.
#
# **Why.** ITER splits restoration into two jobs (Chen et al. 2024, abstract). The first is to remove the distortion: E_l
# reads the LQ image and predicts HQ tokens, in one pass. The second is to add texture: φ_r refines those tokens, step by
# step.
#
# E_l's answer S_l is what the diffusion of notebooks 04 to 06 starts from, and what all of it must beat.
#
# **What you need to know.** Attention (queries, keys, values), cross-entropy, and notebook 02.
# Symbols: [one table](symbols.md).
#
# **Time.** About 35 minutes to read. As it stands the notebook shows `tiny`, whose weights ship. With `tier = "smoke"` E_l
# trains while you watch, under a minute on two CPU cores (and the VQGAN first, if notebook 02 of this run has not left one);
# the numbers are then other ones.

# %% tags=["parameters"]
tier = "tiny"
seed = 0
device = "auto"
data = None
out = None

# %%
from itersr.lab.reproduce import Run

run = Run.start("03", tier=tier, seed=seed, device=device, data=data, out=out)

# %%
import math

import matplotlib.pyplot as plt
import pandas as pd
import torch
from IPython.display import Markdown, display
from torch.nn import functional as F

from itersr import config
from itersr.lab.course import learning_curve, load_or_train, recipe
from itersr.lq_encoder import LQEncoder
from itersr.pictures import bundled
from itersr.sampling import categorical
from itersr.swin import (
    SwinBlock,
    WindowAttention,
    attend,
    relative_index,
    shift_mask,
    unwindows,
    windows,
)
from itersr.training.algorithm1 import auc
from itersr.training.data import Crops, Photos, ranges, validation_pairs
from itersr.training.perceptual import perceptual, psnr

# %% [markdown]
# ## 1 · What E_l must do
#
# In: an LQ image, s times smaller than the HQ one (s = 4). Out: K logits for every token of the HQ image. A token covers f HQ
# pixels a side, so there are f/s LQ pixels to a token: with f = 4 exactly one, and E_l needs no stride; with f = 8, as
# published, E_l halves its map once.

# %% tags=["nbval-check-output"]
swin = config.SwinConfig(width=16, groups=1, depth=2, heads=2, window=4, mlp_ratio=2)
for f in (4, 8):
    halvings = int(math.log2(f / 4))
    e_l = LQEncoder(config.LQEncoderConfig(width=8, swin=swin), codes=64, halvings=halvings)
    logits = e_l(torch.rand(2, 3, 16, 24))
    print(f"f = {f}: LQ (2, 3, 16, 24) -> {halvings} halving(s) -> logits {tuple(logits.shape)}; "
          f"HQ would be {4 * 16}×{4 * 24}, S_h {4 * 16 // f}×{4 * 24 // f}")

# %% [markdown]
# It is a *classifier at every place*, like semantic segmentation: K classes, no ambiguity about the loss. That is why Stage
# II is easy to train. What makes it hard is the photo: many good photos give the same bad one, and E_l can only name how
# likely each token is.
#
# Convolutions first; then Swin layers, so that each token can ask those around it.
#
# ## 2 · Cutting a map into windows
#
# Number the places of an 8×8 map and cut it into windows of side 4, first by loops.

# %% tags=["nbval-check-output"]
numbers = torch.arange(64).view(8, 8)
cut = [numbers[y : y + 4, x : x + 4].flatten() for y in (0, 4) for x in (0, 4)]
print(numbers)
print("window 1 (top right):", cut[1].tolist())

by_module = windows(numbers.view(1, 8, 8, 1), 4)  # (B·windows, side², C)
assert torch.equal(by_module.squeeze(-1), torch.stack(cut))
assert torch.equal(unwindows(by_module, 4, 8, 8).view(8, 8), numbers)
print("module:", tuple(by_module.shape), "equal to the loops; unwindows puts it back")

# %% [markdown]
# Why windows at all? Attention costs one score for every pair of tokens that may see each other.

# %% tags=["nbval-check-output"]
for side in (32, 64, 128):
    n, pairs = side * side, side * side * 64
    print(f"{side:3}×{side:<3} tokens: full attention {n * n:>11,} scores, "
          f"windows of 8×8 {pairs:>9,} (1/{n * n // pairs})")


# %% [markdown]
# ## 3 · Where is the neighbour? The relative position bias
#
# Attention alone does not know where a token stands. Swin adds a number to the score of query i and key j that depends only
# on the offset (y−y′, x−x′). In a window of side w an offset takes 2w−1 values an axis, so a head has a table of (2w−1)²
# numbers. By hand: which row of the table does each pair use?

# %% tags=["nbval-check-output"]
def row_of_table(y: int, x: int, y2: int, x2: int, side: int) -> int:
    return (y - y2 + side - 1) * (2 * side - 1) + (x - x2 + side - 1)


places = [(y, x) for y in range(2) for x in range(2)]  # a window of side 2, row by row
by_hand = torch.tensor([[row_of_table(*query, *key, 2) for key in places] for query in places])
assert torch.equal(by_hand, relative_index(2))
places = [(y, x) for y in range(8) for x in range(8)]
assert torch.equal(torch.tensor([[row_of_table(*q, *k, 8) for k in places] for q in places]),
                   relative_index(8))
print(by_hand, "\nrows used:", relative_index(8).unique().numel(), "=", (2 * 8 - 1) ** 2)

# %% [markdown]
# The diagonal is one number: each token's offset to itself is (0, 0), the middle row of the table.
#
# ## 4 · Window attention is full attention with a mask
#
# The clearest way to say what window attention does: *all* tokens attend to all tokens, and every pair in different windows
# is forbidden (score −∞). Written so, it is slow, and easy to check.

# %%
SIDE = 4


def visible(y: int, x: int, y2: int, x2: int, shift: int = 0) -> bool:
    """Are (y, x) and (y2, x2) in one window? Windows begin `shift` later."""
    return ((y - shift) // SIDE == (y2 - shift) // SIDE
            and (x - shift) // SIDE == (x2 - shift) // SIDE)


def full_attention(layer: WindowAttention, x: torch.Tensor, shift: int) -> torch.Tensor:
    """`layer` on x (H, W, C) as full attention over H·W tokens with an explicit mask and bias."""
    h, w, c = x.shape
    # each (heads, N, d)
    q, k, v = layer.qkv(x.view(h * w, c)).view(h * w, 3, layer.heads, -1).permute(1, 2, 0, 3)
    bias = torch.full((layer.heads, h * w, h * w), -math.inf)
    for i in range(h * w):
        for j in range(h * w):
            if visible(*divmod(i, w), *divmod(j, w), shift):
                bias[:, i, j] = layer.bias_table[row_of_table(*divmod(i, w), *divmod(j, w), SIDE)]
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1]) + bias
    return layer.proj((scores.softmax(-1) @ v).transpose(0, 1).reshape(h * w, c)).view(h, w, c)


def randomize(network: torch.nn.Module, generator: torch.Generator) -> torch.nn.Module:
    """Random weights, biases and bias tables included, so that every part matters."""
    with torch.no_grad():
        for p in network.parameters():
            p.normal_(0, p.shape[-1] ** -0.5, generator=generator)
    return network


# %%
g = run.generator(device="cpu")
x = torch.randn(1, 8, 12, 16, generator=g)  # (B, H, W, C)
plain = randomize(WindowAttention(swin, shifted=False), g)
with torch.no_grad():
    difference = (plain(x)[0] - full_attention(plain, x[0], shift=0)).abs().max().item()
assert difference < 1e-5
print("96 tokens in 6 windows, 2 heads: "
      f"module and masked full attention differ by at most {difference:.1e}")

# %% [markdown]
# ## 5 · Shifted windows
#
# Two neighbours on either side of a window's border never see each other. So every second block moves its windows by half a
# side.
# Nothing changes in the definition: `shift` is 2 in `visible`, and −1 // 4 = −1 makes the strip at the edge a window of its
# own.

# %%
fig, axes = plt.subplots(1, 2, figsize=(7, 3.4), layout="constrained")
for axis, shift in zip(axes, (0, SIDE // 2), strict=True):
    label = torch.tensor([[10 * ((y - shift) // SIDE) + (x - shift) // SIDE for x in range(16)]
                          for y in range(16)])
    _, label = label.unique(return_inverse=True)
    axis.imshow(label * 7 % 25, cmap="tab20", interpolation="nearest")
    axis.set(title=f"{int(label.max()) + 1} {'shifted' if shift else 'plain'} windows",
             xticks=[], yticks=[])
    axis.scatter([5], [5], color="k", marker="x")
path = run.save_figure(fig, "windows")


# %% [markdown]
# *What to see: 16×16 tokens. Neighbouring windows differ in colour (a colour may come again); × is one token, which sees the
# window that it is in. The borders on the right run through the middle of the windows on the left. The windows at the edges
# are cut: 2 wide, or 2×2 in the corners.*
#
# A GPU wants windows of one shape. The module therefore **rolls** the map by (−2, −2), so that all windows are whole again,
# and the cut pieces from opposite edges share a window. They must not see each other: that is `shift_mask`. How many keys
# does each token really see?

# %% tags=["nbval-check-output"]
def keys_seen(h: int, w: int, side: int) -> torch.Tensor:
    """How many keys each token sees by the module's mask, rolled back to its place."""
    seen = (shift_mask(h, w, side) == 0).sum(-1)  # (windows, side²)
    return unwindows(seen.unsqueeze(-1), side, h, w).view(h, w).roll((side // 2, side // 2), (0, 1))


print(keys_seen(8, 8, SIDE))
spots = [(y, x) for y in range(8) for x in range(8)]
assert keys_seen(8, 8, SIDE).flatten().tolist() == [
    sum(visible(*a, *b, shift=2) for b in spots) for a in spots]

# %% [markdown]
# 4 in the corners, 8 at the edges, 16 inside, as the picture says. And the attention itself, rolled and masked by −100 in the
# module, must be the full attention with `shift=2`.

# %%
shifted = randomize(WindowAttention(swin, shifted=True), g)
with torch.no_grad():
    by_hand = full_attention(shifted, x[0], shift=SIDE // 2)
    difference = (shifted(x)[0] - by_hand).abs().max().item()
    wrong = (shifted(x)[0] - full_attention(shifted, x[0], shift=0)).abs().max().item()
assert difference < 1e-5 < wrong
print(f"shifted: differ by at most {difference:.1e} (with the wrong shift it would be {wrong:.1f})")

# %% [markdown]
# ## 6 · Two ways to compute the same thing
#
# `attend` has the three textbook lines and a call of PyTorch's fused kernel `scaled_dot_product_attention`. It takes the
# textbook form in two cases: where the bias table is trained (asked for the gradient of a bias, PyTorch leaves its fast
# path), and in bfloat16 on a CPU, where plain matrix products are faster than the fused kernel.

# %%
q, k, v = torch.randn(3, 6, 2, 16, 8, generator=g)  # (B·windows, heads, N, d)
bias = torch.randn(1, 2, 16, 16, generator=g, requires_grad=True)  # the same for every window
explicit = attend(q, k, v, bias)  # textbook: the bias wants a gradient
with torch.no_grad():
    fused = attend(q, k, v, bias)
by_hand = ((q @ k.transpose(-2, -1) / math.sqrt(8) + bias).softmax(-1) @ v).detach()
assert explicit.requires_grad and not fused.requires_grad
assert torch.allclose(explicit, by_hand, atol=1e-6) and torch.allclose(fused, by_hand, atol=1e-6)
print(f"textbook and fused differ by at most {(explicit - fused).abs().max():.1e}")


# %% [markdown]
# ## 7 · How far can a token see?
#
# Before any training, a property that a bug would spoil. Stack 1 to 4 blocks, plain and shifted in turn, and ask by gradient
# which inputs the output token × depends on. By hand: what it sees through two blocks is what is seen by those it sees.

# %% tags=["nbval-check-output"]
def reach_by_gradient(shifts: list[bool], size: int = 16,
                      at: tuple[int, int] = (5, 6)) -> torch.Tensor:
    x = torch.randn(1, size, size, swin.width, generator=g, requires_grad=True)
    y = x
    for shift in shifts:
        y = randomize(SwinBlock(swin, shift), g)(y)
    (gradient,) = torch.autograd.grad(y[0, at[0], at[1]].sum(), x)
    return gradient[0].abs().sum(-1) > 0


def reach_by_hand(shifts: list[bool], size: int = 16, at: tuple[int, int] = (5, 6)) -> torch.Tensor:
    seen = {at}
    for shift in reversed(shifts):  # from the output back to the input
        seen = {(y, x) for y in range(size) for x in range(size)
                if any(visible(a, b, y, x, 2 * shift) for a, b in seen)}
    return torch.tensor([[(y, x) in seen for x in range(size)] for y in range(size)])


stacks = {
    "1 block": [False],
    "2 blocks": [False, True],
    "3 blocks": [False, True, False],
    "4 blocks": [False, True] * 2,
    "4, never shifted": [False] * 4,
}
reach = {name: reach_by_gradient(shifts) for name, shifts in stacks.items()}
for name, shifts in stacks.items():
    assert torch.equal(reach[name], reach_by_hand(shifts)), name
    print(f"{name:17} {int(reach[name].sum()):3} of 256 tokens")

# %%
fig, axes = plt.subplots(1, 5, figsize=(8, 2.1), layout="constrained")
for axis, (name, seen) in zip(axes, reach.items(), strict=True):
    axis.imshow(seen, cmap="Blues", vmin=0, vmax=1.6)
    axis.scatter([6], [5], color="k", marker="x", s=20)
    for border in (3.5, 7.5, 11.5):
        axis.axhline(border, color="0.8", linewidth=0.7)
        axis.axvline(border, color="0.8", linewidth=0.7)
    axis.set(xticks=[], yticks=[])
    axis.set_title(name, fontsize=9)
path = run.save_figure(fig, "receptive_field")

# %% [markdown]
# *What to see: blue is what the token × can depend on, grey lines are the borders of the plain windows. With shifted blocks
# the view grows across borders; without a shift it never leaves its window. An unmasked roll would paint the opposite edges
# blue.*
#
# ## 8 · Equation 2
#
# E_l is trained by cross-entropy: the negative log-probability that it gives to the HQ image's token, averaged over all N
# places,
#
# $$\mathcal{L}_{E_l} = -\frac{1}{N}\sum_i \log p_l\big(S_h^{(i)} \mid \text{LQ}\big)$$
#
# By hand for two places and three codes:

# %% tags=["nbval-check-output"]
logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [-1.0, 1.0]]).view(1, 3, 1, 2)  # (B, K, h, w)
s_h = torch.tensor([[[0, 2]]])  # (B, h, w)
by_hand = 0.0
for place in range(2):
    column = logits[0, :, 0, place].tolist()
    probability = math.exp(column[s_h[0, 0, place]]) / sum(math.exp(c) for c in column)
    by_hand -= math.log(probability) / 2
    print(f"place {place}: p(right token) = {probability:.3f}")
assert math.isclose(by_hand, F.cross_entropy(logits, s_h).item(), rel_tol=1e-6)
print(f"Eq. 2: {by_hand:.3f} nats; knowing nothing costs log 3 = {math.log(3):.3f}")

# %% [markdown]
# ## 9 · Train E_l
#
# The VQGAN of notebook 02 is frozen: it only says what S_h is. LQ images come from the degradation of notebook 01, new ones
# every step.

# %%
where = {"seed": run.seed, "device": str(run.device)}
# notebook 02's, or trained now
load_or_train("vqgan", run.tier, run.data, run.checkpoints, **where)
model = load_or_train("lq_encoder", run.tier, run.data, run.checkpoints, **where)
K = run.tier.vqgan.codes
count = sum(p.numel() for p in model.lq_encoder.parameters())
print(f"E_l of tier {run.tier.name}: {count / 1e6:.2f} M parameters, {K} codes, "
      f"{run.tier.halvings} halvings")

# %%
pairs = validation_pairs(Photos(bundled("test")), 3, 256, run.seed,
                         degradation=ranges(run.tier.degradation), scale=run.tier.scale)
hq, lq = (pairs[name].to(run.device) for name in ("hq", "lq"))
with torch.no_grad():
    s_h = torch.cat([model.vqgan.encode(image) for image in hq.split(1)])
    log_probs = model.log_posterior(lq)  # log p_l, (B, K, h, w)
s_l = log_probs.argmax(1)

usage = torch.bincount(s_h.flatten(), minlength=K).double().cpu()
# of the tokens, whatever the LQ image
entropy = torch.special.entr(usage / usage.sum()).sum().item()
nats = F.nll_loss(log_probs, s_h).item()
accuracy = (s_l == s_h).float().mean().item()
top5 = (log_probs.topk(5, 1).indices == s_h[:, None]).any(1).float().mean().item()

# %%
# Two guesses that never look at the photo: the most frequent token of training crops,
# and of these very photos
training, _ = Photos.of(run.data).split()
crops = Crops(training, run.tier.train["lq_encoder"].crop, run.seed)
with torch.no_grad():
    seen = torch.cat([model.vqgan.encode(crops[-1 - i]["hq"][None].to(run.device)).flatten()
                      for i in range(16)])
common = torch.bincount(seen, minlength=K).argmax()
constant = (s_h == common).float().mean().item()
told = (usage.max() / usage.sum()).item()

# %%
curve = learning_curve(run.tier, "lq_encoder", run.checkpoints)


def trace(split: str, name: str):
    rows = curve[(curve.split == split) & (curve.name == name)]
    return rows.step.to_numpy(), rows.value.to_numpy()


fig, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
left.plot(*trace("train", "lq_encoder"), label="training")
steps, held_out = trace("validation", "E_l cross-entropy")
left.plot(steps, held_out, marker=".", label="held out")
left.axhline(math.log(K), color="k", linestyle=":", label="knowing nothing, log K")
# E_l explained = 1 − cross-entropy / entropy of the histogram
left.plot(steps, held_out / (1 - trace("validation", "E_l explained")[1]), color="tab:red",
          linestyle=":", label="knowing the histogram")
left.set(title="Eq. 2, nats", xlabel="step")
left.set_ylim(top=1.35 * math.log(K))
left.legend(fontsize=8, loc="upper right", ncols=2)
right.plot(*trace("train", "lq_encoder accuracy"), label="training")
right.plot(*trace("validation", "E_l top-1"), marker=".", label="held out")
right.plot(*trace("validation", "best constant"), color="tab:red", linestyle=":",
           label="best constant, told the answers")
right.set(title="Share of right tokens", xlabel="step", ylim=(0, None))
right.set_ylim(top=1.4 * right.get_ylim()[1])
right.legend(fontsize=8, loc="upper left")
path = run.save_figure(fig, "learning")
losses = trace("train", "lq_encoder")[1]
assert losses[-1] < losses[0], "the loss must fall"

# %%
display(Markdown(
    f"On crops of three photos of scikit-image, {hq.shape[-1]} pixels a side, which no tier "
    f"trains on: **{accuracy:.1%}** of tokens right (top five: {top5:.1%}). "
    f"The best constant guess that training photos offer gets {constant:.1%}; "
    f"one that is told these photos' own most frequent token gets {told:.1%}, "
    f"which E_l {'beats' if accuracy > told else 'does not beat'}. "
    f"Cross-entropy {nats:.2f} nats, where their histogram alone leaves {entropy:.2f}: "
    f"E_l explains **{1 - nats / entropy:.0%}** of that."))
assert accuracy > constant, (
    f"accuracy {accuracy:.1%} must be above the best constant guess, {constant:.1%}")

# %% [markdown]
# *What to see: the log of the training; orange is of the crops that training held out, which are not the three photos of the
# line above. The red lines are told how often each token occurs in these very crops. Where orange is below the left one, E_l
# has learned something that depends on the photo; above the right one it is right more often than any fixed answer.*
#
# **The run behind the weights that ship.** Its command, and what its log showed on the way: a run that is far from this at
# minute 2 has something wrong, and need not be waited for.

# %%
line, healthy = recipe("lq_encoder")
display(Markdown(line))
healthy.loc[["train: lq_encoder", "train: lq_encoder accuracy",
             *(f"validation: {name}" for name in ("E_l cross-entropy", "E_l explained", "E_l top-1",
                                                  "E_l top-5", "best constant", "lpips S_l"))]]

# %% [markdown]
# Do not expect 100 %: much of S_h *cannot* be known from LQ, because the degradation destroyed it.
#
# ## 10 · Wrong, but how far off?
#
# A wrong token may look almost like the right one. Rank all codes by their distance from E_l's guess: which rank has the
# true one? As controls, guesses shuffled among places (right frequencies, no photo), and pure chance.

# %%
codes = model.vqgan.codebook.embedding.weight.float()
# rank[a, b]: b is the so-many-th nearest to a; 0 is a itself
rank = torch.cdist(codes, codes).argsort(1).argsort(1)

shuffled = s_l.flatten()[
    torch.randperm(s_l.numel(), generator=run.generator(1, device="cpu")).to(run.device)]
ranks = {}
for name, guess in {"E_l": s_l.flatten(), "shuffled": shuffled}.items():
    miss = guess != s_h.flatten()
    ranks[name] = rank[guess[miss], s_h.flatten()[miss]].cpu()
within8 = {name: (values <= 8).float().mean().item() for name, values in ranks.items()}
medians = {name: values.float().median().item() for name, values in ranks.items()}

fig, axis = plt.subplots(figsize=(6, 3), layout="constrained")
for name, values in ranks.items():
    axis.plot(range(1, K), torch.bincount(values, minlength=K)[1:].cumsum(0) / len(values),
              label={"E_l": "E_l's wrong tokens"}.get(name, name))
axis.plot(range(1, K), torch.arange(1, K) / (K - 1), color="k", linestyle=":", label="chance")
axis.set(xlabel="the true code is among the … nearest to the guess",
         ylabel="share of wrong tokens", xlim=(1, K - 1), ylim=(0, 1))
axis.legend()
path = run.save_figure(fig, "near_misses")
print(f"true code within the 8 nearest of a wrong guess: E_l {within8['E_l']:.0%}, "
      f"shuffled {within8['shuffled']:.0%}, chance {8 / (K - 1):.0%}; "
      f"median rank {medians['E_l']:.0f}, {medians['shuffled']:.0f}, {K / 2:.0f}")
assert within8["E_l"] > within8["shuffled"], (
    "E_l's misses must be nearer in code space than shuffled guesses")

# %% [markdown]
# *What to see: the higher the curve rises on the left, the nearer the misses. E_l mixes up codes that look alike.
# Cross-entropy never told it so: Eq. 2 punishes every wrong token alike.*
#
# ## 11 · Three ways to turn probabilities into a picture
#
# E_l gives a distribution at each place. What shall D_H be shown?
#
# 1. **argmax**: S_l, the likeliest token. ITER starts here.
# 2. **a sample**: draw a token at each place.
# 3. **the average**: no token at all, the mean of the codes weighed by p. It leaves the codebook.
#
# Drawing by hand: walk along the cumulative probabilities until they pass a uniform number.

# %%
# one number a token
noise = torch.rand(s_l.shape, generator=run.generator(2, device="cpu")).to(run.device)
sample, log_p = categorical(log_probs, noise)

p = log_probs[0, :, 3, 5].exp().tolist()
total, by_hand = 0.0, 0
while total + p[by_hand] <= noise[0, 3, 5].item():
    total += p[by_hand]
    by_hand += 1
assert by_hand == sample[0, 3, 5].item()
assert math.isclose(log_p[0, 3, 5].item(), math.log(p[by_hand]), rel_tol=1e-4)

often = torch.stack([
    categorical(
        log_probs[:1, :, :8, :8],
        torch.rand(1, 8, 8, generator=run.generator(3 + i, device="cpu")).to(run.device))[0]
    for i in range(300)])
counted = F.one_hot(often, K).float().mean(0).permute(0, 3, 1, 2)
drift = (counted - log_probs[:1, :, :8, :8].exp()).abs().mean().item()
assert drift < 0.01, "300 draws must follow E_l's probabilities"
print(f"drawn by hand: token {by_hand}, as the module; "
      f"300 draws of 64 places are {drift:.4f} from p on average")

# %%
with torch.no_grad():
    average = torch.einsum("bkhw,kd->bdhw", log_probs.exp(), codes)

    def draw(latent: torch.Tensor) -> torch.Tensor:
        return torch.cat([model.vqgan.decoder(one).float().clamp(0, 1) for one in latent.split(1)])

    lookup = model.vqgan.codebook.lookup
    pictures = {
        "bicubic": F.interpolate(lq, scale_factor=run.tier.scale, mode="bicubic").clamp(0, 1),
        "argmax S_l": draw(lookup(s_l)),
        "a sample of E_l": draw(lookup(sample)),
        "averaged latent": draw(average),
        "bound: S_h": draw(lookup(s_h)),
    }

# %%
look = perceptual().to(run.device)


@torch.no_grad()
def distance(picture: torch.Tensor) -> float:
    return torch.cat([
        look(a, b) for a, b in zip(picture.split(1), hq.split(1), strict=True)]).mean().item()


def detail(picture: torch.Tensor) -> float:
    return (picture.diff(dim=-1).abs().mean() / hq.diff(dim=-1).abs().mean()).item()


maps = {"argmax S_l": s_l, "a sample of E_l": sample, "bound: S_h": s_h}
rows = {}
for name, picture in pictures.items():
    rows[name] = {
        "PSNR dB": psnr(picture, hq).mean().item(),
        look.name: distance(picture),
        "detail, HQ = 1": detail(picture),
        "colour off": (picture.mean((2, 3)) - hq.mean((2, 3))).abs().mean().item(),
    }
for name, ids in maps.items():
    rows[name]["tokens right"] = (ids == s_h).float().mean().item()
    rows[name]["equal neighbours"] = (ids[..., 1:] == ids[..., :-1]).float().mean().item()
assert rows["argmax S_l"]["equal neighbours"] > rows["a sample of E_l"]["equal neighbours"], (
    "independent draws must agree less than the argmax")
assert rows["averaged latent"]["detail, HQ = 1"] < rows["a sample of E_l"]["detail, HQ = 1"], (
    "the average must be smoother than a sample")
print(pd.DataFrame(rows).T.astype(float).round(3).to_string(na_rep="-"))

# %%
fig, axes = plt.subplots(3, 6, figsize=(8, 4.4), layout="constrained")
for row in range(3):
    for axis, (name, picture) in zip(axes[row], {**pictures, "HQ": hq}.items(), strict=True):
        axis.imshow(picture[row, :, 64:192, 64:192].cpu().permute(1, 2, 0), interpolation="nearest")
        axis.axis("off")
        if row == 0:
            axis.set_title(name, fontsize=8)
path = run.save_figure(fig, "argmax_sample_average")

# %%
contest = ["argmax S_l", "a sample of E_l", "averaged latent"]
by_look = min(contest, key=lambda name: rows[name][look.name])
by_psnr = max(contest, key=lambda name: rows[name]["PSNR dB"])
display(Markdown(
    f"Here the best PSNR of the three has *{by_psnr}*, "
    f"the best {look.name} (lower is better) *{by_look}*. Neighbouring tokens are equal "
    f"{rows['bound: S_h']['equal neighbours']:.0%} of the time in S_h, "
    f"{rows['argmax S_l']['equal neighbours']:.0%} in S_l, "
    f"{rows['a sample of E_l']['equal neighbours']:.0%} in the sample."))

# %% [markdown]
# *What to see, in the pictures (a part of each of the three photos; "bound: S_h" is what D_H draws from the true tokens, the
# mark for any choice of tokens) and in the last column of the table:*
#
# - *The argmax is too uniform. Where several tokens are possible it takes the same likeliest one again and again: flat areas
#   grow, texture goes.*
# - *The sample has texture, but every place is drawn **on its own**. E_l gives one distribution a place, not a joint one, so
#   neighbours do not know of each other's draw: the grain of one does not go on in the next.*
# - *The average is smooth, and a mean of codes is no code: D_H was trained on codes alone.*
#
# None is what we want: a draw in which neighbours agree. That takes a network that sees the tokens already chosen, and
# several steps. It is φ_r, in notebook 04. And note what must be beaten: the whole diffusion only pays off if it is better
# than **one plain sample of E_l**, which needs no further network.
#
# ## 12 · Does E_l know when it is wrong?
#
# *Calibration*: of all tokens with confidence near 0.3 about 30 % should be right. Ten bins of confidence; the expected
# calibration error (ECE) is their mean gap, weighed by how many tokens are in each.

# %%
confidence, right = (
    log_probs.amax(1).exp().flatten().cpu().double(), (s_l == s_h).flatten().cpu().double())
bins = (confidence * 10).long().clamp(max=9)
size = torch.bincount(bins, minlength=10)
said = torch.bincount(bins, confidence, minlength=10) / size.clamp(min=1)
came = torch.bincount(bins, right, minlength=10) / size.clamp(min=1)
ece = ((said - came).abs() * size / size.sum()).sum().item()
bias = (confidence.mean() - right.mean()).item()
knows = auc(confidence, right.bool())

fig, (left, right_axis) = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
filled = size >= 20
left.plot([0, 1], [0, 1], color="k", linestyle=":", label="calibrated")
left.plot(said[filled], came[filled], marker="o", label="E_l, held out")
left.set(xlabel="confidence of E_l", ylabel="share right", title=f"Reliability: ECE {ece:.3f}",
         xlim=(0, 1), ylim=(0, 1))
left.legend()
right_axis.bar([0.05 + i / 10 for i in range(10)], 100 * size / size.sum(), width=0.09)
right_axis.set(xlabel="confidence of E_l", ylabel="% of tokens", title="How often it is said")
path = run.save_figure(fig, "reliability")
display(Markdown(
    f"Mean confidence {confidence.mean():.1%}, right {right.mean():.1%}: on these photos E_l is "
    f"""**{'over-confident' if bias > 0.01 else 'under-confident' if bias < -0.01
           else 'about right on average'}**. """
    f"A right token has the higher confidence in **{knows:.0%}** of all pairs of a right and "
    "a wrong one (AUC; chance is 50 %)."))

# %% [markdown]
# *What to see: above the dotted line E_l is right more often than it says, below it less often. Bins with fewer than 20
# tokens are not drawn. The line above says which of the two it is on average; it differs from run to run.*
#
# Where is it sure?

# %%
fig, axes = plt.subplots(2, 4, figsize=(8, 4.2), layout="constrained")
for row, i in enumerate((0, 1)):
    sure = log_probs[i].amax(0).exp().cpu()
    for axis, (title, picture, style) in zip(axes[row], (
            ("LQ", lq[i].cpu().permute(1, 2, 0), {}),
            ("S_l decoded", pictures["argmax S_l"][i].cpu().permute(1, 2, 0), {}),
            ("confidence", sure, {"cmap": "viridis", "vmin": 0, "vmax": 1}),
            ("right (white)", (s_l == s_h)[i].cpu(), {"cmap": "gray"})), strict=True):
        axis.imshow(picture, interpolation="nearest", **style)
        axis.set_title(title, fontsize=9)
        axis.axis("off")
path = run.save_figure(fig, "confidence")


# %% [markdown]
# *What to see: the third column is E_l's confidence, from 0 (dark) to 1 (bright). With the weights of `tiny`, fur is dark all
# over, since many tokens are possible there. The cup is surer: brightest along its white rim and on plain red, where few
# tokens fit. White in the last column is more frequent where the third is bright.*
#
# E_l's own confidence tells right tokens from wrong ones to the degree that its AUC says. The evaluator φ_e of notebook 05 is
# a whole network for that job and has to do better; 05 compares the two on the same tokens.
#
# ## What you learned
#
# - E_l is a classifier at every place; Eq. 2 is its cross-entropy.
# - Window attention is full attention with a mask; a shift moves the borders, and a roll plus `shift_mask` makes that cheap.
# - With shifts the view grows block by block; without them it never leaves its window.
# - Accuracy means something only beside a constant guess; misses are nearer in code space than chance.
# - The argmax is too flat, a sample is not coherent, an average is blurred: the tokens' *joint* distribution is missing.
#
# ## Check yourself
#
# <details><summary>1. Why can S_l, E_l's argmax, look flat although E_l is a good classifier?</summary>
#
# Where several textures are equally likely, each place takes its own most likely token, and the safe one is often the smooth
# one.
#
# </details>
#
# <details><summary>2. What are the three ways to turn E_l's probabilities into a picture, and what does each cost?</summary>
#
# Argmax: sharp but flat. A sample: texture, with neighbours that do not know of each other. The mean of codes: blurred, which
# PSNR rewards.
#
# </details>
#
# <details><summary>3. Why do Swin layers shift their windows in every other block?</summary>
#
# Without the shift no information would ever cross the border of a window.
#
# </details>
#
# <details><summary>4. E_l is right for 30 % of tokens. Why can its picture still be good?</summary>
#
# Many of the wrong tokens are near misses: their codes look almost like the right one.
#
# </details>
#
# ## Exercises
#
# Fill in the function, run the check below it. The solution is the folded cell between them.
#
# **1 · How many keys?** Count, without a mask, the tokens that the one at (y, x) sees on an h×w map (both multiples of
# `side`), plain or shifted by half a side.

# %% tags=["exercise"]
def count_keys(y: int, x: int, h: int, w: int, side: int, shifted: bool) -> int:
    """Number of tokens, itself included, in the window of (y, x)."""
    raise NotImplementedError


# %% jupyter={"source_hidden": true} tags=["solution"]
def count_keys(y: int, x: int, h: int, w: int, side: int, shifted: bool) -> int:
    def along(at: int, length: int) -> int:
        if not shifted:
            return side
        start = (at - side // 2) // side * side + side // 2
        return min(start + side, length) - max(start, 0)

    return along(y, h) * along(x, w)


# %% tags=["check"]
assert count_keys(0, 0, 8, 8, 4, False) == 16 and count_keys(0, 0, 8, 8, 4, True) == 4
assert [[count_keys(y, x, 8, 12, 4, True) for x in range(12)]
        for y in range(8)] == keys_seen(8, 12, 4).tolist()


# %% [markdown]
# **2 · Back from the table.** Given a row of the bias table, which offset (y−y′, x−x′) is it for?

# %% tags=["exercise"]
def offset_of_row(row: int, side: int) -> tuple[int, int]:
    """The inverse of row_of_table: (y − y', x − x')."""
    raise NotImplementedError


# %% jupyter={"source_hidden": true} tags=["solution"]
def offset_of_row(row: int, side: int) -> tuple[int, int]:
    dy, dx = divmod(row, 2 * side - 1)
    return dy - side + 1, dx - side + 1


# %% tags=["check"]
assert offset_of_row(relative_index(8)[0, 0].item(), 8) == (0, 0)
for y, x, y2, x2 in ((0, 0, 0, 0), (3, 0, 0, 2), (0, 3, 1, 0), (1, 2, 3, 3)):
    assert offset_of_row(row_of_table(y, x, y2, x2, 4), 4) == (y - y2, x - x2)


# %% [markdown]
# **3 · Top-k accuracy.** The share of places where the true token is among E_l's k likeliest.

# %% tags=["exercise"]
def top_k_accuracy(logits: torch.Tensor, tokens: torch.Tensor, k: int) -> float:
    """logits (B, K, h, w), tokens (B, h, w) -> share in [0, 1]."""
    raise NotImplementedError


# %% jupyter={"source_hidden": true} tags=["solution"]
def top_k_accuracy(logits: torch.Tensor, tokens: torch.Tensor, k: int) -> float:
    return (logits.topk(k, dim=1).indices == tokens[:, None]).any(1).float().mean().item()


# %% tags=["check"]
assert math.isclose(top_k_accuracy(log_probs, s_h, 1), accuracy, abs_tol=1e-6)
assert math.isclose(top_k_accuracy(log_probs, s_h, 5), top5, abs_tol=1e-6)
assert top_k_accuracy(log_probs, s_h, K) == 1


# %% [markdown]
# **4 · One number to calibrate.** Divide the logits by a temperature before the softmax: above 1 flattens, below 1 sharpens,
# the argmax stays. Find the one of several candidates with the lowest cross-entropy.

# %% tags=["exercise"]
def best_temperature(logits: torch.Tensor, tokens: torch.Tensor, candidates: list[float]) -> float:
    """The candidate with the lowest cross-entropy of softmax(logits / temperature)."""
    raise NotImplementedError


# %% jupyter={"source_hidden": true} tags=["solution"]
def best_temperature(logits: torch.Tensor, tokens: torch.Tensor, candidates: list[float]) -> float:
    return min(candidates, key=lambda t: F.cross_entropy(logits / t, tokens).item())


# %% tags=["check"]
_candidates = [0.25, 0.5, 1.0, 2.0, 4.0]
# says 75 %, and is right in 3 of 4
_logits = torch.tensor([0.0, math.log(3)]).view(1, 2, 1, 1).expand(4, 2, 1, 1)
_tokens = torch.tensor([1, 1, 1, 0]).view(4, 1, 1)
assert best_temperature(_logits, _tokens, _candidates) == 1.0
assert (best_temperature(_logits * 4, _tokens, _candidates) == 4.0
        and best_temperature(_logits / 4, _tokens, _candidates) == 0.25)

# %% [markdown]
# ## Next
#
# A network that fills in tokens while looking at those already there: [04 · The refiner φ_r](04_refiner.ipynb).

# %%
path = run.record(
    measured=f"E_l {accuracy:.1%} of tokens right (constant guess {constant:.1%}), ECE {ece:.3f}",
    accuracy=accuracy, top5=top5, best_constant=constant, constant_told_the_answers=told,
    cross_entropy=nats, token_entropy=entropy, explained=1 - nats / entropy,
    within_8_nearest=within8, median_rank=medians,
    ece=ece, confidence_minus_accuracy=bias, confidence_auc=knows,
    decoded={name: {key: value for key, value in row.items() if value is not None}
             for name, row in rows.items()},
    perceptual=look.name, parameters=count,
)
