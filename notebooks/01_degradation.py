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
# # 01 · From a sharp photo to a bad one
#
# **What you build.** The degradation that makes ITER's training pairs: it takes a sharp photo (HQ) and returns what a cheap
# camera and several uploads would have left of it (LQ). Four operators by hand, each asserted equal to
# `itersr.degradation`; then the chain, its random draws, and the *second order*: all four operators again.
#
# **Why.** Nobody has a million pairs of the same scene, once bad and once good. So one takes good photos and ruins them. The
# network will learn to undo *this* ruin and nothing else: what is missing here, it will never repair.
#
# **What you need.** Convolution, and what a JPEG is. No training.
# Symbols: [one table](symbols.md).
#
# **Minutes.** Forty minutes to read, half a minute to run on two CPU cores; a GPU is not needed.
#
# ITER's pairs follow Real-ESRGAN (Chen et al. 2024, section 4), whose authors repeat the four operators, since real pictures go
# through more than one camera, program and upload (Wang et al. 2021, section 3).

# %% tags=["parameters"]
tier = "smoke"
seed = 0
device = "auto"
data = None
out = None

# %%
from itersr.lab.reproduce import Run

run = Run.start("01", tier=tier, seed=seed, device=device, data=data, out=out)

# %%
import io
import json
import math
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from IPython.display import Markdown, display
from PIL import Image

from itersr import degradation as deg
from itersr.degradation import MILD, Degradation, apply, degrade, draw
from itersr.pictures import bundled
from itersr.upscaling.read import image_files, read

# %% [markdown]
# ## The photo
#
# A piece of scikit-image's coffee cup. Images are float RGB tensors in [0, 1] of shape (B, 3, H, W), everywhere in this course.

# %% tags=["nbval-check-output"]
photos = {**bundled("train"), **bundled("test")}
hq = photos["coffee"][None, :, 60:252, 230:422].contiguous()
print("HQ", tuple(hq.shape))


# %%
def show(pictures, name, columns=4, size=1.9):
    """Pictures (1,3,h,w) side by side, pixels as blocks."""
    rows = math.ceil(len(pictures) / columns)
    fig, axes = plt.subplots(rows, columns, figsize=(size * columns, (size + 0.25) * rows),
                             squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, (title, picture) in zip(axes.flat, pictures.items()):
        axis.imshow(picture[0].clamp(0, 1).permute(1, 2, 0).numpy(), interpolation="nearest")
        axis.set_title(title, fontsize=8)
    fig.tight_layout(pad=0.3)
    return run.save_figure(fig, name)


# %% [markdown]
# ## 1 · Blur
#
# A lens spreads each point over its neighbours. The simplest such kernel is a Gaussian: weight falls with the squared
# distance, $w(x) \propto \exp(-\tfrac12\, x^\top \Sigma^{-1} x)$. Three lines:

# %%
axis = torch.arange(13, dtype=torch.float64) - 6
squared = axis[:, None] ** 2 + axis[None, :] ** 2
kernel = torch.exp(-squared / (2 * 2.0**2))
kernel = kernel / kernel.sum()  # brightness stays
assert torch.allclose(kernel, deg.generalized_kernel(13, 2.0, 2.0), atol=1e-12)

# %% [markdown]
# Filtering is a weighted sum of shifted pictures. At the border the picture is mirrored, so that no black creeps in.

# %%
padded = F.pad(hq, [6] * 4, mode="reflect")
by_hand = torch.zeros_like(hq)
for y in range(13):
    for x in range(13):
        by_hand += kernel[y, x].float() * padded[..., y : y + 192, x : x + 192]
assert torch.allclose(by_hand, deg.blur(hq, kernel), atol=1e-5)

# %% [markdown]
# Real-ESRGAN draws from six families (and sinc, below). They differ in whether the blur has a direction, and in how the
# weight falls: with $q = x^\top \Sigma^{-1} x$ it is $\exp(-\tfrac12 q^\beta)$ (*generalized*: β < 1 a sharp peak with long
# tails, β > 1 a flat top) or $1 / (1 + q^\beta)$ (*plateau*).

# %%
q = (axis[:, None] / 1.0) ** 2 + (axis[None, :] / 3.0) ** 2  # σ = 3 along x, 1 along y
for by_hand, module in (
    (torch.exp(-0.5 * q**0.6), deg.generalized_kernel(13, 3.0, 1.0, 0.0, 0.6)),
    (1 / (1 + q**1.7), deg.plateau_kernel(13, 3.0, 1.0, 0.0, 1.7)),
):
    assert torch.allclose(by_hand / by_hand.sum(), module, atol=1e-12)

# %% [markdown]
# The odd one is **sinc**, the ideal low-pass filter: it lets frequencies below ω pass and stops the rest. So it is the sum of
# all waves of frequency below ω, and that sum *rings*. (The module uses its closed form, a Bessel function.) Sharpened photos
# and strong JPEGs show such echoes beside edges, so a network should have met them.

# %%
# frequencies in radians a pixel
waves = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000 * 2 * math.pi - math.pi
# those in the disc of radius ω
passes = (waves[:, None] ** 2 + waves[None, :] ** 2 < (math.pi / 2) ** 2).double()
cosines = torch.cos(axis[:, None] * waves)  # (13, 1000); the sines cancel, as the disc is symmetric
by_hand = cosines @ passes @ cosines.T
assert torch.allclose(by_hand / by_hand.sum(), deg.sinc_kernel(13, math.pi / 2), atol=1e-4)

# %%
kernels = {
    "iso σ 2": deg.generalized_kernel(21, 2, 2),
    "aniso σ 3, 0.7": deg.generalized_kernel(21, 3, 0.7, math.pi / 5),
    "generalized β 0.6": deg.generalized_kernel(21, 2, 2, 0, 0.6),
    "plateau β 2": deg.plateau_kernel(21, 2, 2, 0, 2),
    "sinc ω π/3": deg.sinc_kernel(21, math.pi / 3),
}
pictures = {name: (k / k.max()).sqrt().nan_to_num()[None, None].expand(1, 3, -1, -1).float()
            for name, k in kernels.items()}
path = show(pictures | {"blurred: " + n: deg.blur(hq, k)[..., 20:116, 40:136]
                        for n, k in kernels.items()}, "kernels", 5, 1.55)

# %% [markdown]
# *Above: the weights of each kernel, 21×21. Brightness is the square root of the weight, relative to the largest of the kernel,
# so that small weights show; the negative weights of sinc are black. Below: a piece of the cup, blurred by each. See the aniso
# blur in the bright line on the coffee: sharp where the line runs along the kernel, soft where it runs across; and the echo
# lines that sinc leaves beside it.*
#
# A property that a bug would break: blurring a constant changes nothing (weights sum to 1), and the sinc kernel does what it
# says. Its frequency response, by FFT, is near 1 below ω and near 0 above.

# %%
response = torch.fft.rfft2(deg.sinc_kernel(21, math.pi / 2), s=(256, 256)).abs()
fy, fx = torch.fft.fftfreq(256) * 2 * math.pi, torch.fft.rfftfreq(256) * 2 * math.pi
frequency = torch.hypot(fy[:, None], fx[None, :])
passed, stopped = response[frequency < 0.8 * math.pi / 2], response[frequency > 1.2 * math.pi / 2]
assert passed.min() > 0.8 and stopped.max() < 0.2
for k in kernels.values():
    assert torch.allclose(deg.blur(torch.full((1, 3, 32, 32), 0.4), k), torch.tensor(0.4),
                          atol=1e-5)

# %% [markdown]
# ## 2 · Resize
#
# Down and up again, by area, bilinear or bicubic interpolation. Area averages all pixels that fall into one; the other two
# look at 2×2 or 4×4 pixels only, *however far down they go*. What lies between is skipped, and fine patterns come back as
# false, coarse ones: aliasing. A library would filter first; phones and web pages often do not, and neither does the
# degradation.

# %%
# area, a whole factor: the mean of 4×4 blocks
by_hand = hq.reshape(1, 3, 48, 4, 48, 4).mean((3, 5))
assert torch.allclose(by_hand, deg.resize(hq, (48, 48), "area"), atol=1e-6)


# %% [markdown]
# The other two: find where the middle of a new pixel lies among the old ones, and weigh the nearest two or four by their
# distance, along rows and then along columns.

# %%
def along_rows(image, n, weight, reach):
    middle = (torch.arange(n) + 0.5) * image.shape[-1] / n - 0.5  # of each new pixel, in old ones
    near = middle.floor().long()[:, None] + torch.arange(1 - reach, reach + 1)  # (n, 2·reach)
    weights = weight((middle[:, None] - near).abs())
    return (image[..., near.clamp(0, image.shape[-1] - 1)] * weights).sum(-1)


def linear(d):
    return 1 - d


def cubic(d, a=-0.75):
    return torch.where(d < 1, (a + 2) * d**3 - (a + 3) * d**2 + 1,
                       a * (d**3 - 5 * d**2 + 8 * d - 4))


for name, weight, reach in (("bilinear", linear, 1), ("bicubic", cubic, 2)):
    by_hand = along_rows(along_rows(hq, 62, weight, reach).mT, 62, weight, reach).mT
    assert torch.allclose(by_hand, deg.resize(hq, (62, 62), name), atol=1e-5)

# %%
stripes = (torch.arange(192) % 3 < 1).float().expand(1, 3, 192, 192)
pictures = {"stripes": stripes[..., :62, :62]} | {
    f"{n} / 3.1": deg.resize(stripes, (62, 62), n) for n in deg.INTERPOLATIONS}
path = show(pictures, "resize")

# %% [markdown]
# *Left, a third of the width of stripes three pixels apart. Then the whole picture, reduced 3.1 times: the stripes are too fine
# for the smaller grid. All three show wide bands that were never there: with area they are much weaker than the stripes; with
# bilinear and bicubic they have the stripes' full contrast.*
#
# ## 3 · Noise
#
# **Gaussian** noise is the electronics': the same everywhere. **Poisson** noise is the light's own: a pixel that expects λ
# photons counts a number with mean λ *and variance λ*. So bright places are noisier, though less so in proportion. Either can
# hit R, G and B apart or as one (*grey*).

# %%
g = run.generator(1, "cpu")
noise = torch.randn(hq.shape, generator=g) * (12 / 255)
assert torch.equal(
    hq + noise, deg.add_gaussian_noise(hq, 12, grey=False, generator=run.generator(1, "cpu")))

levels = (hq * 255).round() / 255  # an 8 bit picture
# as published: a power of two that tells the values apart
photons = 2 ** math.ceil(math.log2(len(levels.unique())))
counted = torch.poisson(levels[0] * photons, generator=run.generator(2, "cpu")) / photons
by_hand = hq + 2.0 * (counted - levels[0])
assert torch.allclose(
    by_hand, deg.add_poisson_noise(hq, 2.0, grey=False, generator=run.generator(2, "cpu")),
    atol=1e-6)

# grey: the same in R, G and B
one_field = torch.randn(1, 1, *hq.shape[2:], generator=run.generator(1, "cpu")) * (12 / 255)
assert torch.equal(
    hq + one_field, deg.add_gaussian_noise(hq, 12, grey=True, generator=run.generator(1, "cpu")))

# %% [markdown]
# The property: measure the noise at every brightness of a ramp. Gaussian must be flat; Poisson must follow $s\sqrt{x / v}$
# with scale s and v = 256 photons for white.

# %%
ramp = (torch.arange(256) / 255).expand(1, 3, 400, 256)
measured = {
    "Gaussian, σ = 12": (
        deg.add_gaussian_noise(ramp, 12, grey=False, generator=run.generator(3, "cpu")) - ramp
    ).std((0, 1, 2)),
    "Poisson, scale 1": (
        deg.add_poisson_noise(ramp, 1, grey=False, generator=run.generator(4, "cpu")) - ramp
    ).std((0, 1, 2)),
}
truth = {"Gaussian, σ = 12": torch.full((256,), 12 / 255),
         "Poisson, scale 1": (torch.arange(256) / 255 / 256).sqrt()}
fig, axes = plt.subplots(figsize=(5, 2.4))
for name, values in measured.items():
    axes.plot(values * 255, ".", ms=2, label=name)
    axes.plot(truth[name] * 255, "k", lw=0.8)
    assert (values - truth[name])[8:].abs().max() < 0.15 * truth[name].max()
axes.set(xlabel="brightness (0…255)", ylabel="noise σ (1/255)")
axes.legend(fontsize=8)
path = run.save_figure(fig, "noise_laws")


# %% [markdown]
# *Brightness to the right, σ of the noise upwards: dots are measured, the black lines are the two laws.*
#
# ## 4 · JPEG
#
# JPEG cuts the picture into 8×8 blocks and rounds their frequencies, the more coarsely the lower the quality; and it keeps
# colour at half the resolution (4:2:0). An imitation would miss details that real files have, so the module uses the real
# codec: write, then read.

# %%
def jpeg_by_hand(picture, quality):
    pixels = (picture[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)[None] / 255


assert torch.allclose(jpeg_by_hand(hq, 40), deg.jpeg(hq, 40), atol=1e-6)
crop = hq[..., 20:84, 40:104]
path = show({"HQ": crop, **{f"JPEG {q}": deg.jpeg(hq, q)[..., 20:84, 40:104]
                            for q in (95, 60, 30)}}, "jpeg")

# %% [markdown]
# *A piece of the cup, as it is and at three qualities. At 30 there are blocks, and colour is lost; at 95 hardly anything
# changes.*
#
# ## 5 · The chain
#
# **First order:** blur → resize → noise → JPEG. **Second order:** the same again, with milder ranges, as if the photo was
# shared once more. **Last:** resize to a quarter of the HQ size, a sinc filter, and JPEG, the last two in either order.
#
# Everything about one image is drawn first. A `Draw` is plain numbers: it can be written to a file, and the same draw makes
# the same picture.

# %% tags=["nbval-check-output"]
d = draw(1, generator=torch.Generator().manual_seed(5))[0]
record = json.loads(json.dumps(d.to_dict()), parse_float=lambda number: round(float(number), 3))
for order in ("first", "second"):
    for name, value in record.pop(order).items():
        print(f"{order}.{name} = {value}")
print(record)


# %% [markdown]
# Now by hand, operator by operator, exactly as the draw says.

# %%
def one_order(image, order, h, w):
    if order.kernel is not None:
        image = deg.blur(image, deg.kernel_weights(order.kernel))
    image = deg.resize(image, (int(h * order.factor), int(w * order.factor)), order.interpolation)
    return deg.add_noise(image, order.noise)


def chain(image, d, scale=4):
    h, w = image.shape[-2] // scale, image.shape[-1] // scale
    image = one_order(image, d.first, scale * h, scale * w)  # relative to the HQ size
    image = one_order(deg.jpeg(image, d.jpeg_first), d.second, h, w)  # relative to the LQ size
    if not d.jpeg_after:
        image = deg.jpeg(image, d.jpeg_last)
    image = deg.resize(image, (h, w), d.interpolation)
    if d.sinc is not None:
        image = deg.blur(image, deg.kernel_weights(d.sinc))
    return deg.jpeg(image, d.jpeg_last) if d.jpeg_after else image


# %%
for d in draw(8, generator=run.generator(5, "cpu")):
    assert torch.equal(deg.round_to_bytes(chain(hq, d)), apply(hq, [d]))
print("eight draws: by hand == apply, to the bit")

# %% [markdown]
# `degrade` is `draw`, then `apply`. Every image of a batch has its own draw, and the generator lives on the CPU, noise
# included: one seed is one picture, whatever the device.

# %% tags=["nbval-check-output"]
batch = hq.expand(6, -1, -1, -1)
lq = degrade(batch, generator=torch.Generator().manual_seed(1), scale=4)
again = degrade(batch, generator=torch.Generator().manual_seed(1), scale=4)
singles = torch.cat([apply(hq, [d]) for d in draw(6, generator=torch.Generator().manual_seed(1))])
print("LQ", tuple(lq.shape), "| same seed, same batch:", torch.equal(lq, again),
      "| batch = singles:", torch.equal(lq, singles))
print("different pictures:", len({picture.numpy().tobytes() for picture in lq}), "of", len(lq))

# %%
many = degrade(hq.expand(11, -1, -1, -1), generator=run.generator(6, "cpu"))
path = show({"HQ / 4": deg.resize(hq, (48, 48), "area")}
            | {f"draw {i + 1}": p[None] for i, p in enumerate(many)}, "draws", 6, 1.35)


# %% [markdown]
# *The cup at a quarter of its side, by area, and eleven draws. The LQ encoder E_l (notebook 03) must recognise one cup in all
# of them: it may come soft, noisy, blocky, ringing, or nearly clean.*
#
# ## 6 · What the second order buys
#
# The first order is the classical model: each flaw once, in a fixed order, so noise is always *on top* of blur. In a real bad
# photo the noise has itself been blurred, shrunk and coded; it has become blotches. `second_order=0` switches the second
# order off, and the same seed keeps all else. We measure the noise's grain: how alike two neighbouring pixels of the error
# are.

# %%
def grain(lq):
    """Correlation of neighbouring pixels of the noise on a flat grey picture: 0 is white noise."""
    error = lq - lq.mean((2, 3), keepdim=True)
    return float((error[..., 1:] * error[..., :-1]).mean() / error.square().mean())


flat = torch.full((60, 3, 128, 128), 0.5)
noisy_only = replace(Degradation(), blur=(1.0, 1.0), gaussian_sigma=((10.0, 30.0), (1.0, 8.0)),
                     poisson_scale=((1.0, 3.0), (0.05, 0.5)))
grains = {}
for name, ranges in (("first order", replace(noisy_only, second_order=0.0)),
                     ("second order", noisy_only)):
    grains[name] = grain(degrade(flat, generator=run.generator(7, "cpu"), ranges=ranges))
assert grains["second order"] > grains["first order"] > 0, grains
display(Markdown(
    "Correlation of neighbours: "
    + ", ".join(f"{name} **{value:.2f}**" for name, value in grains.items()) + "."))

# %%
five = hq.expand(5, -1, -1, -1)
pair = [degrade(five, generator=run.generator(8, "cpu"), ranges=r)
        for r in (replace(Degradation(), second_order=0.0), Degradation())]
titled = {f"{name} order, draw {i + 1}": p[None]
          for name, lq in zip(("first", "second"), pair) for i, p in enumerate(lq)}
path = show(titled, "second_order", 5, 1.55)


# %% [markdown]
# *The same five draws without (above) and with the second order (below). At seed 0: above, noise in dots of single pixels
# (draws 1 and 4) or a little blur. Below, what a second pass makes of that: coloured blotches of several pixels (draw 1), more
# blur (draw 2), the edges of JPEG's blocks (draw 5). Photos from the web look like that.*
#
# ## 7 · The whole distribution
#
# One wrong range (noise σ in [1, 30] instead of [1, 30]/255, a quality read as percent) still makes plausible single
# pictures. So look at many: 500 draws, three measures each, all against the bicubic reduction of the same photo.
#
# - **PSNR** to the bicubic reduction, in dB: how much is lost in all;
# - **noise** σ in 1/255, estimated by a mask that cancels smooth pictures (Immerkær 1996);
# - **sharpness**: the strength of edges after light smoothing, 1 = like the bicubic reduction.

# %%
def noise_level(x):
    mask = torch.tensor([[1.0, -2, 1], [-2, 4, -2], [1, -2, 1]])[None, None]
    return F.conv2d(deg.luma(x), mask).abs().mean((1, 2, 3)) * math.sqrt(math.pi / 2) / 6 * 255


def sharpness(x):
    smooth = deg.blur(deg.luma(x).expand(-1, 3, -1, -1), deg.generalized_kernel(7, 1.0, 1.0))[:, :1]
    return F.conv2d(
        smooth, torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])[None, None]).std((1, 2, 3))


def psnr(x, y):
    return -10 * torch.log10((x - y).square().mean((1, 2, 3)))


# %%
from itersr.lab.reproduce import ROOT

kodak = ROOT.parent / "shared" / "data" / "test" / "kodak24"  # nothing of it is shown
folder = run.data or (kodak if kodak.is_dir() else None)
sources = (list(photos.values()) if folder is None
           else [read(path).tensor for path in image_files(folder)[:24]])
# from the middle of each photo; smaller where a photo is smaller
side = min(192, *(n // 4 * 4 for p in sources for n in p.shape[1:]))
crops = torch.stack([p[:, (p.shape[1] - side) // 2 :, (p.shape[2] - side) // 2 :][:, :side, :side]
                     for p in sources])
bicubic = F.interpolate(crops, scale_factor=1 / 4, mode="bicubic", antialias=True).clamp(0, 1)
where = "scikit-image" if folder is None else folder.name
print(len(crops), "photos from", where)


# %%
def distribution(ranges, count):
    """PSNR, noise and sharpness of `count` draws, the photos in turn; (3, count)."""
    rows, g = [], run.generator(9, "cpu")
    for start in range(0, count, 20):
        i = torch.arange(start, min(start + 20, count)) % len(crops)
        lq = degrade(crops[i], generator=g, ranges=ranges)
        rows.append(torch.stack([psnr(lq, bicubic[i]), noise_level(lq),
                                 sharpness(lq) / sharpness(bicubic[i])]))
    return torch.cat(rows, 1)


# a tenth of the noise
wrong = replace(Degradation(), poisson_scale=((0.05, 0.3), (0.05, 0.25)),
                gaussian_sigma=((0.1, 3.0), (0.1, 2.5)))
measured = {
    "published": distribution(Degradation(), 500),
    "first order": distribution(replace(Degradation(), second_order=0.0), 60),
    "mild": distribution(MILD, 240),
    "wrong range": distribution(wrong, 60),
}

# %%
quantiles = (0.05, 0.25, 0.5, 0.75, 0.95)
table = {name: values.double().quantile(torch.tensor(quantiles).double(), dim=1).T
         for name, values in measured.items()}
lines = ["| ranges | measure | " + " | ".join(f"{q:.0%}" for q in quantiles) + " |",
         "|---|---|" + "---:|" * len(quantiles)]
for name, rows in table.items():
    for label, row, digits in zip(
            ("PSNR, dB", "noise, 1/255", "sharpness"), rows.tolist(), (1, 1, 2)):
        lines.append(f"| {name} | {label} | " + " | ".join(f"{v:.{digits}f}" for v in row) + " |")
display(Markdown("\n".join(lines)))

# %% [markdown]
# *Mild* is `MILD`, the ranges that the small tiers train with: one order, each step of it gentler, and no sinc filter at all.
#
# The limits asserted below are wide enough for any photos and narrow enough for a wrong range: with a tenth of the noise the
# noise row leaves them at once.

# %%
median = {name: rows[:, 2].tolist() for name, rows in table.items()}
assert all(d.second is None and d.sinc is None
           for d in draw(50, generator=run.generator(10, "cpu"), ranges=MILD))
assert 17 < median["published"][0] < 26, f"PSNR {median['published'][0]:.1f} dB is outside its band"
assert median["published"][0] < median["first order"][0] < median["mild"][0], (
    "more degradation must cost more")
assert 0.1 < median["published"][2] < 1.0, (
    f"sharpness {median['published'][2]:.2f}: most LQ images are softer than bicubic")
assert median["wrong range"][1] < 0.8 * median["published"][1], "a tenth of the noise must show"

# %%
fig, axes = plt.subplots(1, 3, figsize=(8, 2.4), layout="constrained")
for row, (label, ax) in enumerate(zip(("PSNR (dB)", "noise σ (1/255)", "sharpness"), axes)):
    values = {name: measured[name][row].numpy() for name in ("published", "mild")}
    edges = np.histogram_bin_edges(np.concatenate(list(values.values())), 30)  # for both
    for name, v in values.items():
        ax.hist(v, edges, weights=np.full(len(v), 1 / len(v)), histtype="step", label=name)
    ax.set_xlabel(label)
axes[0].set_ylabel("share of draws")
axes[0].legend(fontsize=8)
path = run.save_figure(fig, "distribution")

# %%
beyond = (measured["published"][1] > measured["mild"][1].max()).double().mean()
spread = {name: f"{rows[2, 0]:.2f} to {rows[2, -1]:.2f}" for name, rows in table.items()}
display(Markdown(
    f"Median PSNR: published {median['published'][0]:.1f} dB, mild {median['mild'][0]:.1f} dB. "
    f"Median noise: {median['published'][1]:.1f} and {median['mild'][1]:.1f}; "
    f"{beyond:.1%} of the published draws have more noise than any of the mild ones. "
    f"Sharpness of the middle 90 % of draws: {spread['published']} and {spread['mild']}."))

# %% [markdown]
# *Height is the share of the draws, in 30 bins that both ranges have in common; the sentence above has the numbers. The noise
# is what is left in LQ: a second blur, the shrinking and JPEG take away much of what the first pass put in.*
#
# ## 8 · How good is a picture? A primer on metrics
#
# From the next notebook on, pictures are judged by numbers. Four of them are met everywhere, and each can be fooled.
#
# | metric | compares with HQ | what it sees |
# |---|---|---|
# | **PSNR** ↑ | yes | the mean squared error of pixels, in decibels: 10 log₁₀(1/MSE), on luma |
# | **SSIM** ↑ | yes | whether small windows have the same brightness, contrast and structure |
# | **LPIPS** ↓ | yes | the distance between features of a network that learned to name objects |
# | **NIQE** ↓ | no | how far simple statistics of the picture are from those of good photos |
#
# Two more belong to this course: **token accuracy**, the share of tokens that equal S_h's (from notebook 02 on), and
# **coherence**, whether neighbouring tokens fit each other ([10](10_where_steps_pay.ipynb)).
#
# Now spoil three photos of scikit-image (192 pixels a side) in seven ways and ask all four. The table has the means over the
# three.

# %%
from itersr.lab import metrics

sharp = torch.stack([photo[:, :192, :192] if name != "coffee" else hq[0]
                     for name, photo in bundled("test").items()])
noise = torch.randn(sharp.shape, generator=run.generator(90, "cpu"))
soft = deg.blur(sharp, deg.kernel_weights(deg.Kernel("iso", 21, sigma_x=1.5, sigma_y=1.5)))
spoiled = {
    "blur, σ 1.5": soft,
    "grain, σ 10": sharp + noise * 10 / 255,
    "blur, then grain": soft + noise * 10 / 255,
    "sharpened": sharp + (sharp - soft),
    "moved by 2 pixels": sharp.roll((2, 2), (-2, -1)),
    "mean of 4 moves": torch.stack([sharp.roll((y, x), (-2, -1))
                                    for y in (2, -2) for x in (2, -2)]).mean(0),
    "another photo": sharp.roll(1, 0),
}
spoiled = {name: images.clamp(0, 1) for name, images in spoiled.items()}

fig, axes = plt.subplots(2, 4, figsize=(7, 3.7), layout="constrained")
for axis, (name, images) in zip(axes.flat, {"HQ": sharp, **spoiled}.items()):
    axis.imshow(images[1, :, 40:120, 60:140].permute(1, 2, 0))
    axis.set_title(name, fontsize=8)
    axis.axis("off")
path = run.save_figure(fig, "spoiled")

# %% [markdown]
# *A piece of the cup, and the same piece after each treatment. In the last one, each photo stands in for the next: sharp,
# clean and wrong.*

# %%
import pandas as pd

here = [name for name in ("psnr", "ssim", "lpips", "niqe") if metrics.available(name)]
scores = pd.DataFrame({
    way: {name.upper(): float(metrics.score(name, images, sharp).mean()) for name in here}
    for way, images in {"HQ itself": sharp, **spoiled}.items()}).T
scores.round(3)

# %%
lower = {name.upper(): metrics.find(name).lower_better for name in here}
words = []
for name in scores:
    own = scores[name].drop("HQ itself")
    order = own.sort_values(ascending=lower[name]).index
    words.append(f"- **{name}** likes “{order[0]}” best and “{order[-1]}” least.")
if "NIQE" in scores:
    better = [way for way in spoiled if scores.NIQE[way] < scores.NIQE["HQ itself"] - 1e-6]
    words.append("- NIQE finds " + (", ".join(f"“{way}”" for way in better) or "nothing")
                 + " better than the originals.")
for name in scores.columns.intersection(["PSNR", "LPIPS"]):
    one, mean = scores[name]["moved by 2 pixels"], scores[name]["mean of 4 moves"]
    won = "their mean" if (mean < one) == lower[name] else "one"
    words.append(f"- One of four equally likely answers, or their mean? {name} prefers {won} "
                 f"({one:.3g}, {mean:.3g}).")
display(Markdown("\n".join(words)))

# what the text below says of these photos
assert scores.PSNR["moved by 2 pixels"] < scores.PSNR["blur, σ 1.5"]
assert ("LPIPS" not in scores
        or scores.LPIPS["sharpened"] < 0.1 < scores.LPIPS[["blur, σ 1.5", "grain, σ 10"]].min())
assert "NIQE" not in scores or scores.NIQE["sharpened"] < scores.NIQE["HQ itself"]

# %% [markdown]
# Two numbers of the table are so by construction. Equal pictures would have an infinite PSNR; the code adds 10⁻⁸ to the MSE,
# which makes it 80 dB. And “another photo” has the NIQE of HQ, because it is a mean over the same three photos.
#
# What to take along:
#
# - **PSNR rewards the mean.** Where the truth is not known, the mean of all answers has the least error, and the mean of sharp
#   pictures is blurred. A shift of two pixels, which nobody sees, costs more than a blur that everybody sees.
# - **LPIPS** forgives small shifts and punishes blur and grain, which is nearer to what people say; it is the main number of
#   this course. It still needs HQ, it favours a method that was trained with it, and sharpening hardly changes it.
# - **NIQE needs no HQ, so it cannot know whether the picture is the right one**: any other good photo scores as well, and
#   sharpening improves it. It is the number of the paper's Table 1 (notebook [09](09_benchmark.ipynb)).
# - So look at several numbers, at intervals, and at the pictures.
#
# ## 9 · Play
#
# `degradation_view` is a function from settings to a picture; the panel under it only adds controls. Without a kernel you see
# the picture alone: blur 1.5, resize × 0.6, noise 8, JPEG 60. The panels up to JPEG are the first pass; the last is LQ after
# the second pass.

# %%
from itersr.lab.widgets import degradation_view

figure = degradation_view(hq[0], sigma=1.5, factor=0.6, noise=8, quality=60, order="second", seed=0)
display(figure)

# %%
from itersr.lab.widgets import degradation_panel

degradation_panel({"coffee": hq[0]})


# %% [markdown]
# ## What you learned
#
# - Training pairs are made, not found: blur, resize, noise, JPEG, then all of it again.
# - A draw is plain data; pictures follow from it. So a batch can be replayed, stored, and equals its singles.
# - The second order is not *more* of the same: it turns white noise into blotches and blocks into smears.
# - Look at distributions. One picture cannot show a wrong range.
#
# ## Check yourself
#
# <details><summary>1. Why not train on photos that were only shrunk by bicubic interpolation?</summary>
#
# The network would learn to undo exactly that, and fail on photos whose blur, noise and compression are different and unknown.
#
# </details>
#
# <details><summary>2. What does the second order add that a stronger first order does not?</summary>
#
# Distortions act on each other: noise is blurred and compressed again, so it becomes blotches and smeared blocks.
#
# </details>
#
# <details><summary>3. Why do published ranges leave *less* noise in many LQ pictures than the mild ones?</summary>
#
# The second blur, the shrinking and JPEG remove much of what the first pass put in. Only a tail keeps a lot.
#
# </details>
#
# <details><summary>4. Two libraries both call a filter "bicubic". Are their LQ pictures the same?</summary>
#
# Not necessarily: the kernel's parameter, the alignment of pixels and the filter against aliasing differ.
#
# </details>
#
# ## Exercises

# %% [markdown]
# **1.** How strong is Poisson noise of scale s at brightness x, with v photons for white? Return its σ in 1/255.

# %% tags=["exercise"]
def poisson_sigma(x: float, scale: float, photons: int) -> float:
    """σ of the noise in 1/255 at brightness x in [0, 1]."""
    raise NotImplementedError


# %% jupyter={"source_hidden": true} tags=["solution"]
def poisson_sigma(x: float, scale: float, photons: int) -> float:
    return 255 * scale * math.sqrt(x / photons)  # counts have variance x·v; divided by v it is x/v


# %% tags=["check"]
sample = deg.add_poisson_noise(
    ramp, 3, grey=False, generator=torch.Generator().manual_seed(0)) - ramp
for level in (60, 128, 250):
    seen = float(sample[..., level - 3 : level + 4].std() * 255)
    answer = poisson_sigma(level / 255, 3, 256)
    assert math.isclose(answer, seen, rel_tol=0.06), (
        f"brightness {level}: σ is {answer:.2f}, measured {seen:.2f}; section 3 has the law")


# %% [markdown]
# **2.** Blurring twice with Gaussians σ₁ and σ₂ is blurring once. With which σ? (So why does Real-ESRGAN put a resize and noise
# between them?)

# %% tags=["exercise"]
def sigma_of_both(first: float, second: float) -> float:
    """σ of the one Gaussian that does what the two do in turn."""
    raise NotImplementedError


# %% jupyter={"source_hidden": true} tags=["solution"]
def sigma_of_both(first: float, second: float) -> float:
    # variances add; without a step between, a second order would buy nothing here
    return math.hypot(first, second)


# %% tags=["check"]
both = sigma_of_both(1.5, 2.0)
twice = deg.blur(deg.blur(hq, deg.generalized_kernel(21, 1.5, 1.5)),
                 deg.generalized_kernel(21, 2.0, 2.0))
once = deg.blur(hq, deg.generalized_kernel(21, both, both))
apart = float((twice - once)[..., 24:-24, 24:-24].abs().max())
assert apart < 0.005, (
    f"one blur of σ = {both:.2f} differs from the two by up to {apart:.4f}, expected less than "
    "0.005: what adds up when independent random numbers are added?")


# %% [markdown]
# **3.** Write ranges for scans of old black-and-white prints: all noise grey, no noise of the light (Gaussian only), no JPEG
# below quality 85, the rest as published.

# %% tags=["exercise"]
def old_prints() -> Degradation:
    """Ranges for scans of old prints."""
    raise NotImplementedError


# %% jupyter={"source_hidden": true} tags=["solution"]
def old_prints() -> Degradation:
    return replace(Degradation(), grey=(1.0, 1.0), gaussian=(1.0, 1.0),
                   jpeg_quality=((85, 95), (85, 95)))


# %% tags=["check"]
drawn = draw(200, generator=torch.Generator().manual_seed(0), ranges=old_prints())
assert {(o.noise.kind, "grey" if o.noise.grey else "colour")
        for d in drawn for o in (d.first, d.second)} == {("gaussian", "grey")}
assert min(min(d.jpeg_first, d.jpeg_last) for d in drawn) >= 85
assert {d.first.interpolation for d in drawn} == set(deg.INTERPOLATIONS)

# %% [markdown]
# **4.** Degrade a whole folder once, with the draws on record: `itersr degrade photos/ -o pairs/ --seed 0` in a terminal. Read
# `pairs/draws.jsonl`, and make one LQ image again with `Draw.from_dict` and `apply`.
#
# **Next:** [02, the VQGAN](02_vqgan.ipynb) turns HQ images into tokens.

# %%
record = run.record(
    measured=(f"median PSNR to bicubic {median['published'][0]:.1f} dB, "
              f"mild {median['mild'][0]:.1f} dB"),
    photos=where,
    quantiles=list(quantiles),
    table={name: rows.tolist() for name, rows in table.items()},
    grain=grains,
)
