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
# # 02 · The VQGAN (Stage I)
#
# **What you will build.** An encoder E_H that turns a photo into a small map of whole numbers, the *tokens*, and a decoder
# D_H that turns the map back into a photo. Between them sits a *codebook*: K vectors, and a token is the number of one of
# them.
#
# **Why.** ITER never predicts pixels. It predicts tokens, one choice out of K at each place, and leaves the drawing to D_H.
# The diffusion of the later notebooks therefore works on indices of a codebook, and that codebook was learned from sharp
# pictures alone (Chen et al. 2024, abstract and Stage I).
#
# Everything later stands on this: no restoration can look better than what D_H draws from the *right* tokens.
#
# **What you need to know.** Convolutions, autograd, what an autoencoder is, and what PSNR and LPIPS say (section 8 of
# [01](01_degradation.ipynb)).
# Symbols: [one table](symbols.md).
#
# **Time.** About 35 minutes to read. As it stands the notebook shows `tiny`, whose weights ship. With `tier = "smoke"` in the
# next cell the networks train from scratch while you watch, one to two minutes on two CPU cores and well under a minute on a
# GPU; the numbers are then other ones.

# %% tags=["parameters"]
tier = "tiny"
seed = 0
device = "auto"
data = None
out = None

# %%
from itersr.lab.reproduce import Run

run = Run.start("02", tier=tier, seed=seed, device=device, data=data, out=out)

# %%
import dataclasses
import math

import matplotlib.pyplot as plt
import torch
from IPython.display import Markdown, display
from torch.nn import functional as F

from itersr import config
from itersr.lab.course import learning_curve, load_or_train, recipe
from itersr.pictures import bundled
from itersr.training import stage1
from itersr.training.perceptual import psnr as psnr_of
from itersr.training.data import Photos
from itersr.losses import hinge_discriminator, hinge_generator
from itersr.vqgan import VQGAN, Codebook, PatchDiscriminator

# %% [markdown]
# ## 1 · The path of a photo
#
# A toy VQGAN first, small enough to look at. `multipliers` has three entries, so the encoder halves the sides twice: **f =
# 4**, and a token stands for a patch of 4×4 pixels (and sees somewhat more than that, section 11). `swin` is for the attention
# layers in D_H, which notebook 03 builds. Follow the shapes.

# %% tags=["nbval-check-output"]
toy = config.VQGANConfig(width=8, multipliers=(1, 2, 4), codes=16, code_dim=4, encoder_swin=False,
                         swin=config.SwinConfig(width=16, groups=1, depth=2, heads=2, window=4))
toy_vqgan = VQGAN(toy)
image = torch.rand(1, 3, 32, 48, generator=run.generator(device="cpu"))

latent = toy_vqgan.encoder(image)  # E_H
tokens = toy_vqgan.codebook.nearest(latent)
codes = toy_vqgan.codebook.lookup(tokens)
output = toy_vqgan.decoder(codes)  # D_H

print(f"f = {toy.factor}")
for name, x in {
    "image x": image,
    "latent E_H(x)": latent,
    "tokens S_h": tokens,
    "codes z_q": codes,
    "output D_H(z_q)": output,
}.items():
    print(f"{name:16} {str(tuple(x.shape)):18} {x.dtype}")

# %% [markdown]
# How much is left? A photo of 256×256 has 256·256·24 bits. A token is one of K codes: log₂ K bits.

# %% tags=["nbval-check-output"]
for name in config.TIERS:
    net = config.tier(name).vqgan
    side = 256 // net.factor
    bits = side * side * math.log2(net.codes)
    print(f"{name:6} f = {net.factor}, K = {net.codes:3}: {side}×{side} tokens, {bits:7.0f} bits, "
          f"1 : {256 * 256 * 24 / bits:.0f}")

# %% [markdown]
# ## 2 · The nearest code, by two loops
#
# Quantization is one sentence: *each latent vector becomes the code nearest to it*. Four codes at the corners of a square,
# and a 2×3 map of latents with two channels; you can do it by eye.

# %% tags=["nbval-check-output"]
corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])  # K = 4 codes of D = 2
z = torch.tensor([[[0.1, 0.2], [0.9, 0.3], [0.2, 0.7]],
                  [[0.8, 0.9], [0.6, 0.4], [-2.0, 3.0]]])  # (h, w, D)


def nearest_by_loops(z: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """(h, w, D), (K, D) -> ids (h, w)."""
    ids = torch.zeros(z.shape[:2], dtype=torch.long)
    for y in range(z.shape[0]):
        for x in range(z.shape[1]):
            distances = [((z[y, x] - code) ** 2).sum().item() for code in codes]
            ids[y, x] = distances.index(min(distances))
    return ids


print(nearest_by_loops(z, corners))

# %% [markdown]
# The module does the same for a batch of channels-first latents. On random latents and codes the two must agree in every place.

# %%
g = run.generator(device="cpu")
book = Codebook(16, 4)
with torch.no_grad():
    book.embedding.weight.normal_(generator=g)
    latents = torch.randn(2, 4, 6, 5, generator=g)  # (B, D, h, w)
    by_loops = torch.stack([nearest_by_loops(one.permute(1, 2, 0), book.embedding.weight)
                            for one in latents])
    assert torch.equal(book.nearest(latents), by_loops)
    assert torch.equal(book.lookup(by_loops)[1, :, 2, 3], book.embedding.weight[by_loops[1, 2, 3]])
print(f"{by_loops.numel()} tokens, all equal")

# %% [markdown]
# ## 3 · Why the module never computes ‖z − e‖
#
# Subtracting each of K codes from each of N latents needs a tensor of N·K·D numbers. Multiply the square out,
#
# ‖z − e‖² = ‖z‖² − 2 z·e + ‖e‖²,
#
# and the middle term is one matrix product, N·K numbers. ‖z‖² is the same for every code, so for the *nearest* one it can go
# too.

# %%
with torch.no_grad():
    rows, codes = latents.permute(0, 2, 3, 1).flatten(0, 2), book.embedding.weight  # (N, D), (K, D)
    differences = ((rows[:, None] - codes) ** 2).sum(-1)  # (N, K, D), summed
    expanded = (rows**2).sum(1, keepdim=True) - 2 * rows @ codes.T + (codes**2).sum(1)
    assert torch.allclose(differences, expanded, atol=1e-4)
    assert torch.equal((expanded - (rows**2).sum(1, keepdim=True)).argmin(1), by_loops.flatten())

# %% tags=["nbval-check-output"]
n, k, d = 32 * 32, 512, 128  # one 256×256 photo at the paper's sizes
print(f"subtract first: {n * k * d:,} numbers; multiplied out: {n * k:,} (1/{d})")

# %% [markdown]
# ## 4 · A gradient through a step
#
# `argmin` jumps. Move a latent a little and, unless it crosses a border between two codes, its code does not move at all: the
# true gradient is 0, and E_H would never learn. The **straight-through** trick puts another gradient in its place:
#
# z_q = z + sg[e − z]
#
# `sg` is *stop gradient* (`.detach()`). The value is e. The gradient that reaches z is the one that arrived at e, as if the
# step were not there. With one channel it can be drawn: four codes on a line, and a loss (z_q − 0.9)² that wants to go to
# 0.9.

# %%
line = torch.tensor([-1.6, -0.3, 0.7, 1.7])
zs = torch.linspace(-2.4, 2.4, 481, requires_grad=True)
e = line[(zs[:, None] - line).abs().argmin(1)]
z_q = zs + (e - zs).detach()
loss = (z_q - 0.9) ** 2
(slope,) = torch.autograd.grad(loss.sum(), zs)

fig, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
left.plot(zs.detach(), zs.detach(), color="0.75", label="z")
left.plot(zs.detach(), z_q.detach(), label="z_q")
left.scatter(line, line, color="k", zorder=3, s=18, label="codes")
left.set(xlabel="z", title="Quantization is a staircase")
left.legend()
right.plot(zs.detach(), loss.detach())
# one latent on each step
at = [(zs - start).abs().argmin().item() for start in (-2.2, -0.7, 0.5, 2.2)]
right.quiver(zs.detach()[at], loss.detach()[at] + 0.25, -slope[at], torch.zeros(len(at)),
             color="tab:red", angles="xy", scale_units="xy", scale=3, width=0.008)
right.set(xlabel="z", ylabel="loss", title="The loss, and −gradient as handed to z (red)",
          ylim=(-0.3, 7))
path = run.save_figure(fig, "straight_through")

# %% [markdown]
# *What to see: the loss is flat but for its jumps, and yet each red arrow points to where a better code is. The arrow is the
# same along a whole flat, because it is the gradient at the code; at the best code it is nearly 0.*
#
# Now the proof by finite differences, on the module. Let `head` be any smooth function of the quantized latent. Its gradient
# in z, as autograd reports it, must be the measured slope of `head` **at the code**; while the slope measured through the
# quantizer is exactly 0.

# %%
weight = torch.randn(4, generator=g, dtype=torch.float64)


def head(latent: torch.Tensor) -> torch.Tensor:
    """A stand-in for D_H and its loss: (1, 4, h, w) -> a number."""
    return torch.tanh(latent.double() * weight[:, None, None]).square().mean()


z = torch.randn(1, 4, 2, 2, generator=g)
quantizer = VQGAN(toy)
quantizer.codebook.load_state_dict(book.state_dict())
free = z.clone().requires_grad_(True)
quantized = quantizer.quantize(free)
(reported,) = torch.autograd.grad(head(quantized.latent), free)

step, at_code, through = 1e-5, torch.zeros_like(z), torch.zeros_like(z)
code = quantizer.codebook.lookup(quantized.tokens).detach().double()
for i in range(z.numel()):
    nudge = torch.zeros(z.numel(), dtype=torch.float64)
    nudge[i] = step
    nudge = nudge.view_as(z)
    at_code.view(-1)[i] = (head(code + nudge) - head(code - nudge)) / (2 * step)
    up, down = (quantizer.codebook.lookup(quantizer.codebook.nearest(z + s * nudge.float()))
                for s in (1, -1))
    through.view(-1)[i] = ((head(up) - head(down)) / (2 * step)).detach()

assert torch.allclose(reported, at_code, atol=1e-6), (
    "straight-through must give the slope at the code")
assert through.abs().max() == 0, "the true slope through argmin is 0"
print(f"largest slope at the code {at_code.abs().max():.4f}, "
      f"autograd differs by at most {(reported - at_code).abs().max():.1e}; through argmin 0")

# %% [markdown]
# ## 5 · Equation 1: who moves to whom
#
# Straight-through teaches E_H and D_H, but no gradient reaches the codes: in z + sg[e − z] the code is inside the `sg`. So
# Eq. 1 adds two terms with the same value and opposite gradients:
#
# $$\mathcal{L} = \mathcal{L}_{\text{image}}(x, \hat x)\;+\;\underbrace{\lVert \mathrm{sg}[E_H(x)] - z_q \rVert^2}_{\text{codebook}}\;+\;\beta\,\underbrace{\lVert E_H(x) - \mathrm{sg}[z_q] \rVert^2}_{\text{commitment}}$$
#
# The image term is L1 and LPIPS (section 9). The codebook term moves codes to the latents. The commitment term makes the
# encoder *commit*: its latents may not drift away from the codes faster than those can follow. **β is on the encoder's
# side.** (Easy to get wrong: in the authors' released code it sits on the other term.) `quantize` returns both; see who gets
# a gradient.

# %% tags=["nbval-check-output"]
toy_vqgan = VQGAN(toy)
for term in ("codebook_loss", "commitment_loss"):
    toy_vqgan.zero_grad(set_to_none=True)
    getattr(toy_vqgan.quantize(toy_vqgan.encoder(image)), term).backward()
    touched = {name: any(p.grad is not None and bool(p.grad.any()) for p in part.parameters())
               for name, part in {"codebook": toy_vqgan.codebook, "encoder": toy_vqgan.encoder,
                                  "decoder": toy_vqgan.decoder}.items()}
    print(f"{term:16}", touched)

# %% [markdown]
# And β by hand. One latent z, its nearest code e: the code is pulled by 2(e − z)/D, the latent by β·2(z − e)/D. So the pull
# on the latent is −β times the pull on the code.

# %%
beta = run.tier.train["vqgan"].commitment
z = torch.randn(1, 4, 1, 1, generator=g).requires_grad_(True)
quantized = quantizer.quantize(z)
e = quantizer.codebook.embedding.weight
loss = quantized.codebook_loss + beta * quantized.commitment_loss
on_latent, on_codes = torch.autograd.grad(loss, [z, e])
on_code = on_codes[quantized.tokens.item()]

by_hand = 2 * (e[quantized.tokens.item()] - z.flatten()) / 4
assert torch.allclose(on_code, by_hand) and torch.allclose(on_latent.flatten(), -beta * by_hand)
assert (on_codes.abs().sum(1) > 0).sum() == 1, "only the chosen code is moved"
print(f"β = {beta}: pull on the latent / pull on its code = "
      f"{(on_latent.flatten() / on_code).mean():.2f}")

# %% [markdown]
# The last assertion of that cell hides a problem: **a code that nobody chooses gets no gradient, ever.** Where the codes start
# decides how many live.
#
# ## 6 · Where codes start: cells in two dimensions
#
# Give latents two channels and the codebook can be drawn. The codes cut the plane into cells (Voronoi cells); every latent in
# a cell gets its code's number. The usual start is uniform in ±1/K, all codes close to the origin. The other one is k-means
# of the latents, here by hand: assign, average, repeat.

# %%
g = run.generator(1, device="cpu")
centres = torch.tensor([[2.2, 1.0], [-1.8, 1.6], [0.3, -2.0]])
blobs = torch.cat([c + torch.randn(300, 2, generator=g) * s
                   for c, s in zip(centres, (0.75, 0.45, 0.6), strict=True)])
K = 24

uniform = (torch.rand(K, 2, generator=g) * 2 - 1) / K
lloyd = blobs[torch.randperm(len(blobs), generator=g)[:K]].clone()
for _ in range(25):
    owner = torch.cdist(blobs, lloyd).argmin(1)  # assign
    lloyd = torch.stack([blobs[owner == i].mean(0) if (owner == i).any() else lloyd[i]
                         for i in range(K)])  # average

# %% [markdown]
# The module's way is `Stage1.start_codebook`: SciPy's k-means (with its smarter "++" start) on the latents of 64 crops. It
# must do about as well as ours.

# %%
flat = dataclasses.replace(config.tier("smoke"),
                           vqgan=dataclasses.replace(toy, codes=K, code_dim=2))
trainer = stage1.Stage1(flat, seed=run.seed)
trainer.start_codebook(blobs)
from_module = trainer.vqgan.codebook.embedding.weight.detach().clone()


def quantization_error(points: torch.Tensor, codes: torch.Tensor) -> float:
    return torch.cdist(points, codes).amin(1).square().mean().item()


errors = {name: quantization_error(blobs, c)
          for name, c in {"uniform": uniform, "by hand": lloyd, "module": from_module}.items()}
assert (errors["module"] < 0.2 * errors["uniform"]
        and abs(errors["module"] / errors["by hand"] - 1) < 0.3)
print({name: round(value, 3) for name, value in errors.items()})


# %%
def draw_cells(axis, points: torch.Tensor, codes: torch.Tensor, title: str,
               area=(-4.0, 5.0, -4.0, 4.0)) -> None:
    """The points, the codes (red: nearest to no point) and their cells by `Codebook.nearest`."""
    book = Codebook(len(codes), 2)
    book.load_state_dict({"embedding.weight": codes})
    x, y = torch.meshgrid(torch.linspace(*area[:2], 300), torch.linspace(*area[2:], 300),
                          indexing="xy")
    cells = book.nearest(torch.stack([x, y])[None])[0]
    used = torch.bincount(book.nearest(points.T[None, :, None])[0, 0], minlength=len(codes)) > 0
    axis.imshow((cells * 7 % len(codes)).numpy(), origin="lower", extent=area,
                cmap="Pastel1", interpolation="nearest", aspect="auto")
    for code in range(len(codes)):
        axis.contour(x, y, (cells == code).float(), [0.5], colors="0.6", linewidths=0.4)
    axis.scatter(*points.T, s=3, color="0.35", linewidths=0)
    axis.scatter(*codes[~used].T, color="red", marker="x", s=24)
    axis.scatter(*codes[used].T, color="k", marker="x", s=24)
    axis.set(title=f"{title}: {int(used.sum())} of {len(codes)} codes used",
             xlim=area[:2], ylim=area[2:])


fig, axes = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained")
draw_cells(axes[0], blobs, uniform, "Uniform start")
draw_cells(axes[1], blobs, from_module, "k-means start")
inset = axes[0].inset_axes((0.01, 0.02, 0.31, 0.38))
draw_cells(inset, blobs, uniform, "", area=(-0.06, 0.06, -0.06, 0.06))
inset.set(title="", xticks=[], yticks=[])
path = run.save_figure(fig, "cells")

# %% [markdown]
# *What to see: latents are grey, codes are crosses, cells are coloured (a colour may come again, a thin line parts the cells).
# On the left all codes lie within ±1/24 of the origin; the inset shows ±0.06. The cells of the outer codes are wedges that hold
# all latents; red codes have none. On the right cells are small where latents are dense: detail where it is needed.*
#
# This is why training starts as a **plain autoencoder**, without a codebook: k-means needs latents that already mean something.
#
# ## 7 · A dead code and its restart
#
# Latents move while E_H trains, so codes can still be left behind. Every 100 steps `restart_dead_codes` moves each code that
# nobody chose onto a latent picked at random. It stops half-way through a run (`restart_until`): Stages II and III learn
# token *numbers*, which must hold still.

# %%
left_behind = from_module.clone()
# six codes where no latent is
left_behind[:6] = torch.tensor([4.3, -3.4]) + 0.35 * torch.randn(6, 2, generator=g)
trainer.vqgan.codebook.load_state_dict({"embedding.weight": left_behind})
trainer.used.copy_(torch.bincount(
    trainer.vqgan.codebook.nearest(blobs.T[None, :, None]).flatten(), minlength=K))
dead = trainer.used == 0
trainer.restart_dead_codes(blobs, step=0)
restarted = trainer.vqgan.codebook.embedding.weight.detach().clone()

assert dead[:6].all(), "the six codes far away are dead"
assert torch.equal(restarted[~dead], left_behind[~dead]), "codes in use stay where they are"
assert all((blobs == code).all(1).any() for code in restarted[dead]), (
    "a restarted code sits on a latent")
assert quantization_error(blobs, restarted) < quantization_error(blobs, left_behind)

fig, axes = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained")
draw_cells(axes[0], blobs, left_behind, "Left behind")
draw_cells(axes[1], blobs, restarted, "Restarted")
axes[1].scatter(*restarted[dead].T, s=70, facecolors="none", edgecolors="red")
path = run.save_figure(fig, "restart")

# %% [markdown]
# *What to see: the red codes at the lower right are nearest to no latent. After the restart each (red rings) lies among
# latents; the others did not move.*
#
# ## 8 · The adversary
#
# L1 and LPIPS alone leave textures soft: where many textures are possible their mean is the safest answer. A *patch
# discriminator* D looks at overlapping patches and gives each a logit, high for "real". Its hinge loss, and what D_H gets
# from it:
#
# L_D = ½ · mean( max(0, 1 − D(x)) + max(0, 1 + D(x̂)) ),  L_G = − mean D(x̂)

# %% tags=["nbval-check-output"]
real, fake = [2.0, 0.5, -1.0], [-2.0, 0.25, 1.0]
by_hand_d = sum(max(0.0, 1 - r) + max(0.0, 1 + f) for r, f in zip(real, fake, strict=True)) / 3 / 2
by_hand_g = -sum(fake) / 3
assert math.isclose(
    hinge_discriminator(torch.tensor(real), torch.tensor(fake)).item(), by_hand_d, rel_tol=1e-6)
assert math.isclose(hinge_generator(torch.tensor(fake)).item(), by_hand_g, rel_tol=1e-6)

logits = torch.tensor([real, fake], requires_grad=True)
(pull,) = torch.autograd.grad(hinge_discriminator(*logits), logits)
print(f"L_D = {by_hand_d:.4f}, L_G = {by_hand_g:.4f}")
print("pull on real logits", [round(p, 3) + 0.0 for p in pull[0].tolist()],
      "(0 where a logit is beyond +1)")
print("pull on fake logits", [round(p, 3) + 0.0 for p in pull[1].tolist()],
      "(0 where a logit is beyond −1)")

# %% [markdown]
# That is the point of the hinge: what is already judged clearly is left alone. How large are the patches? Ask the gradient of
# one logit.

# %% tags=["nbval-check-output"]
discriminator = PatchDiscriminator(width=8)
picture = torch.rand(1, 3, 96, 96, generator=run.generator(device="cpu"), requires_grad=True)
judged = discriminator(picture)
(seen,) = torch.autograd.grad(judged[0, 0, 6, 6], picture)
ys, xs = (seen.abs().sum((0, 1)).sum(dim).nonzero().flatten() for dim in (1, 0))
print(f"image 96×96 -> logits {tuple(judged.shape[-2:])}; "
      f"one logit sees {len(ys)}×{len(xs)} pixels")

# %% [markdown]
# ## 9 · Train: autoencoder, k-means, VQGAN, adversary
#
# | share of the run | what |
# |---|---|
# | 0 … `autoencoder` | E_H and D_H without a codebook: L1 + LPIPS |
# | then once | codes ← k-means of latents |
# | … `gan_start` | Eq. 1: + codebook + β · commitment; dead codes restart in the first half |
# | … 1 | + `gan_weight` · L_G; the discriminator trains in turn |
#
# One plan in shares serves runs of any length, in steps or in minutes. The adversary joins late, or never (`gan_start = 1`,
# as for `tiny`): a discriminator that gets blurred pictures from step 0 wins at once, and D_H learns nothing from it. Where
# LPIPS' weights cannot be had, an L1 of image gradients stands in (the curve says which). `load_or_train` loads this tier's
# weights if they ship or this run has them, and trains otherwise.

# %%
model = load_or_train("vqgan", run.tier, run.data, run.checkpoints,
                      seed=run.seed, device=str(run.device))
vqgan = model.vqgan
count = sum(p.numel() for p in vqgan.parameters())
print(f"VQGAN of tier {run.tier.name}: {count / 1e6:.2f} M parameters, "
      f"f = {run.tier.vqgan.factor}, {run.tier.vqgan.codes} codes "
      f"of {run.tier.vqgan.code_dim} dimensions")

# %%
curve = learning_curve(run.tier, "vqgan", run.checkpoints)


def trace(split: str, name: str):
    rows = curve[(curve.split == split) & (curve.name == name)]
    return rows.step.to_numpy(), rows.value.to_numpy()


look = "lpips" if "lpips" in set(curve.name) else "gradients"
# as the log tells: the first step with this term
when = {label: curve[(curve.name == name) & (curve.value != 0)].step.min()
        for label, name in (("k-means", "codebook"), ("adversary joins", "adversarial"))}
fig, axes = plt.subplots(2, 2, figsize=(8, 4.8), layout="constrained", sharex=True)
for axis, split, name, title in (
        (axes[0, 0], "train", "l1", "L1, training"),
        (axes[0, 1], "validation", "psnr", "PSNR in dB, held out"),
        (axes[1, 0], "train", "codebook", "codebook term, training"),
        (axes[1, 1], "validation", look, f"{look}, held out (lower is better)")):
    axis.plot(*trace(split, name), marker="." if split == "validation" else None)
    for (label, step), color in zip(when.items(), ("k", "tab:red"), strict=True):
        if step == step:  # there was such a term at all (NaN is not equal to itself)
            axis.axvline(step, color=color, linestyle=":", label=label)
    axis.set_title(title)
axes[0, 0].legend()
for axis in axes[1]:
    axis.set_xlabel("step")
path = run.save_figure(fig, "learning")

steps_l1, l1 = trace("train", "l1")
assert l1[-1] < l1[0], "the L1 loss must fall"
assert trace("validation", "psnr")[1][-1] > trace("validation", "psnr")[1][0], (
    "the held-out PSNR must rise")

# %%
joins = when["adversary joins"]
display(Markdown(
    "This log has no adversarial loss: the weights were trained without the adversary."
    if math.isnan(joins) else f"The adversary is in the log from step {joins} on (red line)."))

# %% [markdown]
# *What to see: the log of the training, step by step; left on training crops, right on held-out ones. Before the black dotted
# line there is no codebook, so its term is 0; from there on the term is the squared distance between latents and their
# codes, and L1 suffers from it too. A held-out point before that line decodes tokens of a codebook that has not been made
# yet: it says nothing of the autoencoder.*
#
# **The run behind the weights that ship.** Its command, and what its log showed on the way: a run that is far from this at
# minute 2 has something wrong, and need not be waited for. The perplexity (section 12) is of the tokens of the held-out crops.

# %%
line, healthy = recipe("vqgan")
display(Markdown(line))
healthy.loc[["train: l1", "train: lpips", "validation: psnr", "validation: lpips",
             "validation: perplexity"]]

# %% [markdown]
# ## 10 · Held-out photos
#
# Three photos that no tier ever trains on. Photo, tokens (each code its own colour), and what D_H draws from the tokens alone,
# with its PSNR (of the whole photo; shown is a piece of it. Over RGB here; over luma in section 8 of 01).

# %%
unit = run.tier.vqgan.factor * run.tier.vqgan.swin.window  # whole windows in D_H's Swin layers
photos = {}
for name, photo in bundled("test").items():
    h, w = (side - side % unit for side in photo.shape[-2:])
    photos[name] = photo[None, :, :h, :w].to(run.device)
with torch.no_grad():
    tokens = {name: vqgan.encode(photo) for name, photo in photos.items()}  # S_h
    decoded = {name: vqgan.decode(ids).float().clamp(0, 1) for name, ids in tokens.items()}

# %%
psnr = {name: psnr_of(decoded[name], photo).item() for name, photo in photos.items()}
colours = torch.rand(run.tier.vqgan.codes, 3, generator=run.generator(2, device="cpu"))
f, side = run.tier.vqgan.factor, 192

fig, axes = plt.subplots(3, 3, figsize=(6, 6.2), layout="constrained")
for column, (name, photo) in zip(axes.T, photos.items(), strict=True):
    y, x = ((n - side) // 2 // f * f for n in photo.shape[-2:])
    cut = (0, slice(None), slice(y, y + side), slice(x, x + side))
    ids = tokens[name][0, y // f : (y + side) // f, x // f : (x + side) // f].cpu()
    for axis, picture, title in zip(
            column,
            (photo[cut].cpu().permute(1, 2, 0), colours[ids],
             decoded[name][cut].cpu().permute(1, 2, 0)),
            (name, "tokens S_h", f"D_H(S_h): {psnr[name]:.1f} dB"), strict=True):
        axis.imshow(picture, interpolation="nearest")
        axis.set_title(title)
        axis.axis("off")
path = run.save_figure(fig, "reconstruction")

# %% [markdown]
# *What to see: in the cup and the rocket, edges and shading are already in the token map, and equal areas share tokens; fur has
# another token at nearly every place. In the last row look for what K codes could not say: faint colours, fine hair, straight
# lines that wobble with the token grid. (At `smoke` all photos trained on are a portrait and a motorcycle: where should a code
# for a blue sky come from?)*
#
# Is it any good? The weakest decoder that has not seen the photo answers the mean colour of the *training* photos everywhere.
# A VQGAN that learned anything must beat it by far; this notebook demands 6 dB.

# %%
training, _ = Photos.of(run.data).split()
mean_colour = torch.stack(
    [training[i].mean((1, 2)) for i in range(min(len(training), 50))]
).mean(0).to(run.device).view(1, 3, 1, 1)
constant = {name: psnr_of(mean_colour.expand_as(photo), photo).item()
            for name, photo in photos.items()}
own = {name: psnr_of(photo.mean((2, 3), keepdim=True).expand_as(photo), photo).item()
       for name, photo in photos.items()}


def average(values: dict[str, float]) -> float:
    return sum(values.values()) / len(values)


gain = average(psnr) - average(constant)
display(Markdown(
    f"D_H(E_H(x)): **{average(psnr):.1f} dB**. "
    f"Mean colour of the training photos: {average(constant):.1f} dB, so **+{gain:.1f} dB**. "
    f"(A constant that is told each photo's *own* mean colour gets {average(own):.1f} dB.)"))
assert gain >= 6, f"held-out PSNR is only {gain:.1f} dB above the mean colour: need 6"

# %% [markdown]
# ## 11 · A token is local
#
# The same pixels inside a whole photo and inside a crop should get the same tokens. Then tokens of a photo can be cached, and
# a large picture can be restored in tiles. How far does a token see? Ask the gradient again.

# %%
probe = photos["coffee"][..., :128, :128].clone().requires_grad_(True)
z = vqgan.encoder(probe)
h, w = z.shape[-2:]
(seen,) = torch.autograd.grad(z[0, :, h // 2, w // 2].sum(), probe)
ys = seen.abs().sum((0, 1, 3)).nonzero().flatten()
# pixels beyond the token's own patch
reach = max(h // 2 * f - ys.min().item(), ys.max().item() - (h // 2 * f + f - 1))
margin = math.ceil(reach / f)
local = run.tier.vqgan.norm != "group" and not run.tier.vqgan.encoder_swin
print(f"a token sees {len(ys)} of {probe.shape[-2]} rows: its own {f} and {reach} beyond, "
      f"which is {margin} tokens")

# %%
size = 192
y, x = 9 * f, 13 * f  # any multiple of f
crop = photos["coffee"][..., y : y + size, x : x + size]
with torch.no_grad():
    in_crop = vqgan.encode(crop)[0]
in_photo = tokens["coffee"][0, y // f : (y + size) // f, x // f : (x + size) // f]
equal = (in_crop == in_photo).cpu()

n = size // f
depth = torch.minimum(torch.arange(n), torch.arange(n).flip(0))
depth = torch.minimum(depth[:, None], depth[None])  # distance to the crop's border, in tokens
share = [equal[depth == i].float().mean().item() for i in range(n // 2)]

fig, (left, right) = plt.subplots(1, 2, figsize=(8, 3.3), layout="constrained")
left.imshow(equal, cmap="gray", vmin=0, vmax=1)
left.set_title("Same token in photo and crop (white)")
right.plot([100 * s for s in share], marker=".")
if margin < n // 2:
    right.axvline(margin, color="tab:red", linestyle=":", label="receptive field ends")
    right.legend()
right.set(xlabel="tokens from the crop's border", ylabel="% equal", ylim=(0, 105))
path = run.save_figure(fig, "locality")

inside = depth >= min(margin, n // 2 - 1)
interior = equal[inside].float().mean().item()
print(f"{equal.float().mean():.1%} of all tokens are equal, "
      f"{interior:.1%} of those in the interior")
if local:
    assert interior >= 0.99, f"only {interior:.1%} of the interior tokens are equal: need 99 %"


# %% [markdown]
# *What to see: left, the places of the crop's token map, white where the token equals that of the whole photo; right, the share
# of equal tokens at each distance from its border. Black dots, if any, lie near the border, where the crop's zero padding
# shows; beyond the receptive field (red) there can be none.*
#
# What would break it? Any layer that looks at the whole picture. `GroupNorm`, which the published network uses, divides by a
# standard deviation over *all* positions. Two untrained encoders, same widths, one image and its crop; how far do the
# interior latents move?

# %%
def randomize(network: torch.nn.Module, generator: torch.Generator) -> torch.nn.Module:
    with torch.no_grad():
        for p in network.parameters():
            p.normal_(0, (p[0].numel() ** -0.5 if p.ndim > 1 else 0.1), generator=generator)
    return network.eval()


big = photos["coffee"][..., :192, :192].cpu()
moved = {}
for norm in ("none", "layer", "group"):
    encoder = randomize(VQGAN(dataclasses.replace(toy, width=32, res_blocks=1, norm=norm)).encoder,
                        run.generator(3, device="cpu"))
    with torch.no_grad():
        whole, part = encoder(big)[..., 12:36, 12:36], encoder(big[..., 48:144, 48:144])
    inner = (..., slice(10, 14), slice(10, 14))
    moved[norm] = ((whole - part)[inner].abs().max() / whole[inner].std()).item()
    print(f"norm {norm!r:8} interior latents move by up to {moved[norm]:.1e} standard deviations")
assert max(moved["none"], moved["layer"]) < 1e-3 < moved["group"]


# %% [markdown]
# With GroupNorm no token of a crop can be trusted to be the photo's. That is why the tiers `smoke`, `tiny` and `small` have
# none, and no Swin layers in E_H; `paper` keeps the published layers.
#
# ## 12 · Are all codes used?
#
# *Perplexity* counts codes the way they are used: exp of the entropy of the token histogram. K codes used evenly give K; one
# code alone gives 1.

# %% tags=["nbval-check-output"]
def perplexity(counts: list[int]) -> float:
    p = [c / sum(counts) for c in counts if c]
    return math.exp(-sum(x * math.log(x) for x in p))


for counts in ([5, 5, 5, 5], [20, 0, 0, 0], [10, 10, 0, 0], [17, 1, 1, 1]):
    print(counts, f"-> {perplexity(counts):.2f} of {len(counts)}")

# %%
usage = torch.bincount(torch.cat([ids.flatten() for ids in tokens.values()]),
                       minlength=run.tier.vqgan.codes).cpu()
used, evenness = int((usage > 0).sum()), perplexity(usage.tolist())
order = usage.argsort(descending=True)

fig, axis = plt.subplots(figsize=(8, 2.6), layout="constrained")
axis.bar(range(len(usage)), 100 * usage[order] / usage.sum(), width=1.0)
axis.axhline(100 / len(usage), color="k", linestyle=":", label="all used evenly")
axis.set(xlabel="codes, most used first", ylabel="% of tokens",
         title=f"{used} of {len(usage)} codes used, perplexity {evenness:.0f}")
axis.legend(loc="upper right")
path = run.save_figure(fig, "usage")
assert evenness > 4, "the codebook has collapsed"

# %% [markdown]
# *What to see: the tokens of the three photos of section 10. A few codes take much of the pictures: flat areas, such as the sky
# behind the rocket, repeat one token. A long tail does the rest. (The perplexity in section 9's table is of other photos.) A
# network that always answers the code of the tallest bar is right that often. Notebook 03 has such a guess too, on its own
# crops.*
#
# ## 13 · What does one code look like?
#
# Decode a map that holds the same token everywhere, for every code. Beside it the mean patch of pixels where E_H chose that
# code in the held-out photos.

# %%
from torchvision.utils import make_grid

K, window = run.tier.vqgan.codes, run.tier.vqgan.swin.window
with torch.no_grad():
    maps = torch.arange(K, device=run.device).view(K, 1, 1).expand(K, window, window)
    atlas = torch.cat([vqgan.decode(part).float().clamp(0, 1).cpu() for part in maps.split(64)])
middle = slice(window // 2 * f - 2 * f, window // 2 * f + 2 * f)
atlas = atlas[..., middle, middle]  # away from the border

total = torch.zeros(K, 3, f, f)
for name, photo in photos.items():
    patches = F.unfold(photo.cpu(), f, stride=f)[0].T.view(-1, 3, f, f)  # one patch a token
    total.index_add_(0, tokens[name].flatten().cpu(), patches)
patch = total / usage.clamp(min=1).view(-1, 1, 1, 1)

wide = 2 ** math.ceil(math.log2(math.sqrt(K)))
fig, axes = plt.subplots(1, 2, figsize=(8, 4.2), layout="constrained")
for axis, tiles, title in (
        (axes[0], atlas, "Atlas: D_H of one code everywhere"),
        (axes[1], patch.where(usage.view(-1, 1, 1, 1) > 0, torch.ones(())),
         "Mean patch that E_H gave this code")):
    tiles = F.interpolate(tiles[order], (16, 16), mode="nearest")
    axis.imshow(make_grid(tiles, nrow=wide, padding=2, pad_value=1.0).permute(1, 2, 0),
                interpolation="nearest")
    axis.set_title(title)
    axis.axis("off")
path = run.save_figure(fig, "atlas")

# %%
often = usage >= 20
a, b = atlas.mean((2, 3))[often].flatten(), patch.mean((2, 3))[often].flatten()
agreement = torch.corrcoef(torch.stack([a, b]))[0, 1].item()
print("colour of the atlas tile against colour of the mean patch, "
      f"{int(often.sum())} codes: correlation {agreement:.2f}")


# %% [markdown]
# *What to see: most used codes first, row by row. A code carries a shade, and many carry a stripe or a grain. Atlas and mean
# patch agree roughly, not exactly: D_H reads a token together with its neighbours, so a code looks different beside others.
# (White on the right: not used in these photos.)*
#
# The rest of this course needs this: in a restored token map each token must be right by itself *and* fit its neighbours.
#
# ## What you learned
#
# - A token is the number of the nearest code; ‖z − e‖² multiplied out makes that one matrix product.
# - The straight-through gradient is the gradient at the code, handed to the latent. The true one is 0.
# - Eq. 1's two terms have the same value: one moves codes, the other, weighed by β, moves the encoder.
# - Start codes from k-means of trained latents, restart the dead, and stop early so that numbers hold still.
# - Without a layer that mixes the whole picture a token is local.
#
# ## Check yourself
#
# <details><summary>1. Where does the gradient of the encoder come from, if the nearest code is a constant in pieces?</summary>
#
# From the straight-through trick: the gradient at the code is passed to the latent as if quantizing did nothing.
#
# </details>
#
# <details><summary>2. What do the codebook term and the commitment term move?</summary>
#
# The codebook term moves codes to latents, the commitment term moves latents to codes; `detach` stops the other direction.
#
# </details>
#
# <details><summary>3. Why k-means on the latents of a plain autoencoder first?</summary>
#
# Every code then starts where latents are. Random codes own no latents, get no gradient and stay dead.
#
# </details>
#
# <details><summary>4. Why must tokens be local?</summary>
#
# Then a crop has the tokens of the whole photo: training on crops fits inference on photos, and tiles can be exact.
#
# </details>
#
# ## Exercises
#
# Fill in the function, run the check below it. The solution is the folded cell between them.
#
# **1 · EMA instead of Eq. 1's codebook term.** Many VQGANs move codes without a gradient. After each batch,
# code ← decay · code + (1 − decay) · mean of the latents that chose it. Codes that nobody chose stay.

# %% tags=["exercise"]
def ema_update(codes: torch.Tensor, latents: torch.Tensor, decay: float) -> torch.Tensor:
    """codes (K, D), latents (N, D) -> the codes after one update."""
    raise NotImplementedError


# %% jupyter={"source_hidden": true} tags=["solution"]
def ema_update(codes: torch.Tensor, latents: torch.Tensor, decay: float) -> torch.Tensor:
    owner = torch.cdist(latents, codes).argmin(1)
    new = codes.clone()
    for i in owner.unique():
        new[i] = decay * codes[i] + (1 - decay) * latents[owner == i].mean(0)
    return new


# %% tags=["check"]
_codes = torch.tensor([[0.0, 0.0], [10.0, 10.0], [99.0, 99.0]])
_latents = torch.tensor([[1.0, 0.0], [3.0, 0.0], [10.0, 12.0]])
assert torch.allclose(ema_update(_codes, _latents, 0.5),
                      torch.tensor([[1.0, 0.0], [10.0, 11.0], [99.0, 99.0]]))
assert torch.equal(ema_update(_codes, _latents, 1.0), _codes)


# %% [markdown]
# **2 · Straight through a rounding.** Finite scalar quantization needs no codebook: it rounds each channel. Write the
# rounding whose gradient is 1.

# %% tags=["exercise"]
def round_straight_through(x: torch.Tensor) -> torch.Tensor:
    """round(x), with the gradient of x."""
    raise NotImplementedError


# %% jupyter={"source_hidden": true} tags=["solution"]
def round_straight_through(x: torch.Tensor) -> torch.Tensor:
    return x + (x.round() - x).detach()


# %% tags=["check"]
_x = torch.tensor([0.2, 0.8, -1.6], requires_grad=True)
_y = round_straight_through(_x)
assert torch.equal(_y.detach(), torch.tensor([0.0, 1.0, -2.0]))
(_slope,) = torch.autograd.grad((3 * _y).sum(), _x)
assert torch.equal(_slope, torch.full((3,), 3.0)), (
    f"the gradient of 3 · y is {_slope.tolist()}, expected 3 everywhere: see z_q in section 4")


# %% [markdown]
# **3 · Nearest by direction.** Some codebooks normalise latents and codes, so that only the angle counts. When both have
# length 1, ‖z − e‖² = 2 − 2 z·e.

# %% tags=["exercise"]
def nearest_by_angle(latent: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """latent (B, D, h, w), codes (K, D) -> ids (B, h, w) of the codes with the largest cosine."""
    raise NotImplementedError


# %% jupyter={"source_hidden": true} tags=["solution"]
def nearest_by_angle(latent: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    z, e = F.normalize(latent, dim=1), F.normalize(codes, dim=1)
    return torch.einsum("bdhw,kd->bhwk", z, e).argmax(-1)


# %% tags=["check"]
_codes = torch.tensor([[1.0, 0.0], [0.0, 5.0], [-3.0, -3.0]])
_latent = torch.tensor([[9.0, 0.1, -0.1], [1.0, 0.2, -0.2]]).view(1, 2, 1, 3)
assert nearest_by_angle(_latent, _codes).tolist() == [[[0, 1, 2]]]
assert torch.equal(nearest_by_angle(100 * _latent, _codes), nearest_by_angle(_latent, 7 * _codes))


# %% [markdown]
# **4 · Bits that a photo really needs.** With an ideal entropy coder a token costs not log₂ K bits but the entropy of the
# histogram, in bits. How many for a whole map?

# %% tags=["exercise"]
def coded_bits(tokens: torch.Tensor, codes: int) -> float:
    """tokens (h, w) with ids below `codes` -> bits for the map, coded by its own histogram."""
    raise NotImplementedError


# %% jupyter={"source_hidden": true} tags=["solution"]
def coded_bits(tokens: torch.Tensor, codes: int) -> float:
    p = torch.bincount(tokens.flatten(), minlength=codes).double() / tokens.numel()
    return tokens.numel() * torch.special.entr(p).sum().item() / math.log(2)


# %% tags=["check"]
assert math.isclose(coded_bits(torch.arange(16).view(4, 4), 16), 16 * 4)
assert coded_bits(torch.full((4, 4), 3), 16) == 0
assert math.isclose(coded_bits(torch.tensor([[0, 0], [0, 1]]), 512),
                    4 * (0.75 * math.log2(4 / 3) + 0.25 * 2))

# %% [markdown]
# ## Next
#
# You can turn a good photo into tokens and back. Next, a network that guesses those tokens from the *damaged* photo: [03 ·
# The LQ encoder E_l](03_lq_encoder.ipynb).

# %%
path = run.record(
    measured=(f"reconstruction {average(psnr):.1f} dB (mean colour {average(constant):.1f}), "
              f"{used}/{K} codes"),
    psnr=psnr, psnr_mean=average(psnr), mean_colour_psnr=average(constant),
    own_mean_colour_psnr=average(own), gain=gain,
    codes=K, codes_used=used, perplexity=evenness,
    interior_agreement=interior, receptive_field_beyond=reach,
    atlas_correlation=agreement, parameters=count,
)
