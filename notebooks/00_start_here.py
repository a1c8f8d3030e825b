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
# # 00 · Start here
#
# **What you do.** Upscale a photo ×4 in the first minute, see how it came about, and find your way through the other notebooks.
#
# **Why.** *Iterative Token Evaluation and Refinement* (ITER; Chen et al., AAAI 2024) restores photos that were blurred,
# shrunk, noised and compressed. It works on **tokens**: a picture becomes a small map of numbers, each the name of an entry
# of a learned codebook; wrong tokens are found and drawn anew. This course builds every part of it by hand, trains it, and
# measures it.
#
# **What you need.** Python, some PyTorch. Nothing about diffusion: that is what the course teaches.
# Symbols: [one table](symbols.md). **Minutes.** Ten to read, one to run.

# %% tags=["parameters"]
tier = "tiny"
seed = 0
device = "auto"
data = None
out = None

# %%
from itersr.lab.reproduce import Run

run = Run.start("00", tier=tier, seed=seed, device=device, data=data, out=out)

# %%
import importlib.util
import math
import sys

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import Image as Png
from IPython.display import Markdown, display
from matplotlib.colors import ListedColormap
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from PIL import Image

from itersr import ITER, weights
from itersr.lab import metrics, widgets
from itersr.lab.course import SHOWN
from itersr.pictures import bundled, match_colors, resize, to_tensor
from itersr.upscaling.read import read
from itersr.upscaling.write import write

# %% [markdown]
# ## 1 · A photo, upscaled
#
# A cup of coffee, a photo inside scikit-image that no model here was trained on. We take a square of it, make it bad as a
# camera and the internet do (blur, a quarter of the side, noise, JPEG: notebook [01](01_degradation.ipynb)), and have ITER undo
# it. The bad, small picture is called LQ (low quality), the sharp one HQ.

# %%
model = ITER.from_pretrained(
    run.tier.name if run.tier.name in weights.shipped() else SHOWN, run.device)
photos = widgets.example_pairs(model, side=192, seed=run.seed)
lq, hq = photos["coffee"]
result = model.upscale(lq, seed=run.seed)  # a tensor in, a tensor out; PIL images and arrays too
bicubic = resize(lq, hq.shape[-2:])  # what an ordinary program does: smooth interpolation

fig, axes = plt.subplots(1, 3, figsize=(8, 3.0), layout="constrained")
for axis, (title, picture) in zip(
        axes, {"LQ, enlarged": bicubic, "ITER": result, "HQ (the truth)": hq}.items()):
    axis.imshow(picture.permute(1, 2, 0))
    axis.set_title(title, fontsize=10)
    axis.axis("off")
path = run.save_figure(fig, "first")

# %%
millions = sum(p.numel() for p in model.parameters()) / 1e6
words = (f"These are the weights of the tier **{model.tier.name}** "
         f"({millions:.1f} million numbers), which ship with the course. ")
if model.tier.name == "smoke":
    words += ("They were trained on three photos, so **the pictures are poor**: "
              "look at what happens, not at how it looks.")
display(Markdown(words))

# %% [markdown]
# *See: the left picture is all that the model got. In ITER's the rim of the cup and the foam have sharp edges again. It is
# not the truth: what was lost is replaced by what the codebook learned from other photos. The rim is a little ragged, and of
# the spoon below on the right ITER saw bright spots and painted glitter.*
#
# **Try it on a photo of yours now:** section 6 is one line.
#
# The sizes, which hold for any photo:

# %% tags=["nbval-check-output"]
print("LQ    ", tuple(lq.shape))
print("result", tuple(result.shape))
print("four times the sides:",
      result.shape[-1] == 4 * lq.shape[-1] and result.shape[-2] == 4 * lq.shape[-2])
print("values from 0 to 1:  ", bool(result.min() >= 0 and result.max() <= 1))
print("the same seed again: ", torch.equal(result, model.upscale(lq, seed=run.seed)))
print("another seed:        ", torch.equal(result, model.upscale(lq, seed=run.seed + 1)))

# %% [markdown]
# The last two lines: the model *draws* texture by chance, and the seed fixes the chance.
#
# ## 2 · Before and after
#
# Left of the line is LQ, enlarged; right of it is ITER's result. The line is movable. As a still picture, on GitHub for
# example, it is at 0.5:

# %%
shown = widgets.before_after_view(bicubic, result, position=0.5)
display(Png(data=widgets.png(shown), width=384))

# %%
widgets.before_after_slider(bicubic, result)

# %% [markdown]
# ## 3 · What happened, in five pictures
#
# `upscale` ran ITER with the settings that are best for these weights, which for `tiny` is a single step. The paper takes
# eight (`preset="paper"`); that is what we look at here. [Notebook 10](10_where_steps_pay.ipynb) asks when eight are worth
# their price.
#
# `model.restore` is the algorithm behind `upscale` and hands back every step of it, a `Trace`. (`upscale` afterwards takes the
# colours' low frequencies from the input.)

# %%
cat = photos["chelsea"][0]
# T = 8 steps, threshold α = .5, and tokens drawn at a temperature a little below 1
eight = {"preset": "paper", "temperature": 0.85, "seed": run.seed}
trace, rocket = (model.restore(photos[name][0][None], **eight) for name in ("chelsea", "rocket"))
answer = match_colors(trace.image.cpu().clone(), cat[None].cpu(), "wavelet")[0]
assert torch.equal(answer, model.upscale(cat, **eight))


def five_pictures(axes, trace, lq):
    """One restoration on five axes, from LQ to the result."""
    count = len(trace.restored.steps)
    middle = max(1, count // 2) if count else 0
    pictures = {
        "1  LQ": resize(lq, trace.image.shape[-2:]),
        "2  S_l decoded": trace.at(0)[0].cpu(),
        f"3  m_s, T_s = {int(trace.start[0])}": trace.restored.condition_keep[0].cpu(),
        f"4  after step {middle} of {count}": trace.at(middle)[0].cpu(),
        "5  result": trace.image[0].cpu(),
    }
    for axis, (title, picture) in zip(axes, pictures.items()):
        if picture.ndim == 2:
            axis.imshow(picture, cmap=ListedColormap([widgets.MASKED, widgets.KEPT]),
                        vmin=0, vmax=1, interpolation="nearest")
        else:
            axis.imshow(picture.permute(1, 2, 0))
        axis.set_title(title, fontsize=8)
        axis.set(xticks=[], yticks=[])


fig, axes = plt.subplots(2, 5, figsize=(8, 3.9), layout="constrained")
five_pictures(axes[0], trace, cat)
five_pictures(axes[1], rocket, photos["rocket"][0])
path = run.save_figure(fig, "five_pictures")

# %% [markdown]
# 1. **LQ.** The bad photo.
# 2. **S_l.** The LQ encoder E_l reads it as tokens, one for each small square, and the decoder D_H paints them. The distortion
#   goes; the texture does not come back yet.
# 3. **m_s.** The evaluator φ_e gives each token a probability of being good. Blue is at least α and is kept; grey is to be
#    made anew. How many are good decides how many steps are taken, T_s. The line below has the numbers.
# 4. **S_t.** In each step the refiner φ_r proposes tokens for the grey places, φ_e judges again, and some more are kept.
# 5. **Result.** After the last step all tokens are kept; D_H paints them. Its colours drift (see the sky of the rocket);
#   `upscale` then takes their low frequencies from the input.

# %%
good = {name: each.restored.condition_keep[0]
        for name, each in (("chelsea", trace), ("rocket", rocket))}
rows, columns = good["chelsea"].shape
words = (f"Each picture is a map of {rows} × {columns} tokens "
         f"out of {model.tier.vqgan.codes} codes. With α = 0.5, ")
words += "; ".join(f"φ_e finds **{int(mask.sum())} of {mask.numel()}** tokens of S_l good "
                   f"for {name}, so **T_s = {int(each.start[0])}** of 8"
                   for (name, mask), each in zip(good.items(), (trace, rocket)))
display(Markdown(words + "."))

# %% [markdown]
# ## 4 · The schedule
#
# How many tokens a step keeps does not depend on the photo or the model; the schedule γ says it in advance. Of 64 tokens:

# %% tags=["nbval-check-output"]
from itersr.schedule import tokens_to_keep

print("from t =", *(f"{t:3d}" for t in range(8, 0, -1)))
print("kept   =", *(f"{tokens_to_keep(t - 1, 8, 64):3d}" for t in range(8, 0, -1)))

# %% [markdown]
# ## 5 · The map
#
# The whole method in one picture; the orange numbers are the notebooks that build each part (09 measures the result).

# %%
boxes = {  # name: (x, y, text, notebook)
    "hq": (0.0, 3, "HQ photo", ""),
    "eh": (1.8, 3, "encoder E_H", "02"),
    "sh": (3.6, 3, "true tokens S_h", "02"),
    "lq": (0.0, 1, "LQ photo", "01"),
    "el": (1.8, 1, "LQ encoder E_l", "03"),
    "sl": (3.6, 1, "first guess S_l", "03"),
    "pr": (5.4, 2, "refiner φ_r", "04"),
    "pe": (5.4, 0, "evaluator φ_e", "05"),
    "st": (5.4, 1, "S_t and masks,\nAlgorithm 2", "06"),
    "dh": (7.2, 1, "decoder D_H", "02"),
    "out": (9.0, 1, "result", "09"),
}
arrows = [("hq", "eh"), ("eh", "sh"), ("hq", "lq"), ("lq", "el"), ("el", "sl"), ("sl", "st"),
          ("sl", "pr"), ("sl", "pe"), ("st", "pr"), ("st", "pe"), ("st", "dh"), ("dh", "out")]
both_ways = {("st", "pr"), ("st", "pe")}
fig, axis = plt.subplots(figsize=(8, 3.3), layout="constrained")
axis.axhspan(2.55, 3.5, color="#f6efe2", zorder=0)
for x, y, text, number in boxes.values():
    axis.add_patch(FancyBboxPatch((x - 0.65, y - 0.24), 1.3, 0.48, boxstyle="round,pad=0.06",
                                  facecolor="#eef3f7", edgecolor=widgets.KEPT))
    axis.text(x, y - 0.05, text, ha="center", va="center", fontsize=7)
    axis.text(x + 0.66, y + 0.19, number, ha="right", va="center", fontsize=7,
              color="#c8660a", weight="bold")
for a, b in arrows:
    (xa, ya), (xb, yb) = boxes[a][:2], boxes[b][:2]
    start = (xa, ya + math.copysign(0.32, yb - ya)) if xa == xb else (xa + 0.72, ya)
    end = (xb, yb - math.copysign(0.32, yb - ya)) if xa == xb else (xb - 0.72, yb)
    style = "<|-|>" if (a, b) in both_ways else "-|>"
    axis.add_patch(FancyArrowPatch(start, end, arrowstyle=style, mutation_scale=9, color="#444444"))
axis.text(0.12, 2, "degradation", fontsize=7, color="#444444", va="center")
axis.text(4.5, 3.0, "training only: E_l and φ_r learn to predict S_h (Eq. 2, 4),\n"
                    "φ_e learns where a token equals S_h's (Eq. 5)",
          fontsize=7, color="#444444", va="center")
axis.set(xlim=(-0.85, 9.85), ylim=(-0.4, 3.5))
axis.axis("off")
path = run.save_figure(fig, "map")

# %% [markdown]
# *See: what lies on white, from the LQ photo on, runs on a photo of yours. The coloured band and the arrow "degradation" exist
# in training only, because there the HQ photo is known. φ_r and φ_e both read S_l and the current S_t; the loop between S_t and
# the two is Algorithm 2.*
#
# | notebook | what you build | in the paper |
# |---|---|---|
# | [01 Degradation](01_degradation.ipynb) | how a sharp photo becomes a bad one | Sec. 4.1 |
# | [02 VQGAN](02_vqgan.ipynb) | tokens: encoder, codebook, decoder, and their losses | Stage I, Eq. 1 |
# | [03 LQ encoder](03_lq_encoder.ipynb) | E_l: tokens from a distorted photo | Stage II, Eq. 2 |
# | [04 Refiner](04_refiner.ipynb) | φ_r: masked tokens, predicted from the others | Stage III, Eq. 4, Alg. 1 |
# | [05 Evaluator](05_evaluator.ipynb) | φ_e: which tokens are good | Stage III, Eq. 5, Alg. 1 |
# | [06 Adaptive inference](06_adaptive_inference.ipynb) | the sampler, with a panel to play with | Alg. 2 |
# | [07 Top-k or evaluator](07_topk_vs_evaluator.ipynb) | who should choose the tokens to keep | Fig. 8 |
# | [08 α curves](08_alpha_curves.ipynb) | what the threshold trades | Fig. 7 |
# | [09 Benchmark](09_benchmark.ipynb) | the method against others, with intervals | Table 1, Figs. 1, 4, 6 |
# | [10 Where the steps pay](10_where_steps_pay.ipynb) | a world in which eight steps beat one, and a number to compare with their gain | – |
# | [11 Rivals](11_rivals.ipynb) | a GAN and continuous diffusion, trained alike | abstract, Fig. 5 |
#
# Read them in order for the whole story (nine to ten hours). In a hurry: 02, 04, 06. For the results alone: 07–11.
#
# Four words that all notebooks use: **token**, a number that names a codebook entry; **mask**, True where a token is good and
# kept; **tier**, a size of the networks (`smoke` trains in minutes, `tiny` and `small` are better, `paper` has the published
# sizes); **S_h, S_l, S_t**: the token maps of the HQ photo, of E_l's guess, and after the step to t.
#
# The abstract of Chen et al. (2024) claims two things of ITER: training is easy, and eight steps are enough. README's table
# says what came of these and other claims here.
#
# ## 6 · Your own photo
#
# Put a path in place of `None` and run this cell: the result is shown, and saved as `my_photo_x4.png` in the folder of the
# notebook. A large photo takes a while on a CPU: begin with a small one.

# %%
my_photo = None  # for example "holiday.jpg"

if my_photo is None:
    mine = bundled("test")["coffee"][:, 150:230, 200:320]  # a small one to show the way
    large = model.upscale(mine, seed=run.seed)
else:
    large = model.upscale(read(my_photo), seed=run.seed)
    write(large, "my_photo_x4.png")  # with the photo's transparency, colour profile and EXIF
pixels = to_tensor(large)[0]
fig, axis = plt.subplots(figsize=(5, 3.4), layout="constrained")
axis.imshow(pixels.permute(1, 2, 0))
axis.axis("off")
path = run.save_figure(fig, "own_photo")

# %% [markdown]
# `upscale` gives back the kind that it gets. From the command line, for one photo or many:
#
# ```
# itersr upscale holiday.jpg -o holiday_x4.png
# ```

# %% tags=["nbval-check-output"]
flat = np.full((20, 30, 3), 128, dtype=np.uint8)
for picture in (flat, Image.fromarray(flat), Image.fromarray(flat).convert("L"),
                Image.fromarray(flat).convert("RGBA")):
    answer = model.upscale(picture, seed=run.seed)
    kind = (f"PIL image {answer.mode:4} {answer.size}" if isinstance(answer, Image.Image)
            else f"array {answer.dtype} {answer.shape}")
    print(f"{type(picture).__name__:8} -> {kind}")
    assert isinstance(answer, type(picture)) or isinstance(answer, Image.Image)


# %% [markdown]
# ## 7 · What you learned
#
# - ITER restores tokens, not pixels: E_l guesses them, φ_e judges them, φ_r draws the bad ones anew, D_H paints them.
# - A good first guess needs fewer steps, and a seed fixes what is drawn.
# - Weights come in tiers. What you see is as good as the tier, the mechanism is the same in all.
#
# ## Check yourself
#
# <details><summary>1. Which of the parts run when a photo is upscaled, and which only in training?</summary>
#
# E_l, φ_r, φ_e and the decoder D_H run. (With a single step there is nothing to choose, and φ_e is not called.) E_H is needed
# in training alone: it turns sharp photos into the tokens S_h that the others learn from.
#
# </details>
#
# <details><summary>2. Why can two seeds give two different pictures of the same photo?</summary>
#
# The detail is lost in LQ. φ_r gives a distribution over tokens, and each seed draws others from it.
#
# </details>
#
# <details><summary>3. What does T_s say about a photo?</summary>
#
# How much of E_l's first answer φ_e trusts. The more tokens pass α, the smaller T_s, and the fewer steps are run.
#
# </details>
#
# <details><summary>4. A photo of a face in strong noise comes out with odd texture. Is that a bug?</summary>
#
# No. The weights that ship learned mild distortions of everyday photos. They take noise for texture, and know little of faces
# and small text.
#
# </details>
#
# ## 8 · Exercises
#
# Each exercise is a cell to fill in, a folded solution and a check. `make exercises` writes copies of the notebooks without
# the solutions.
#
# **1.** A token covers f × f pixels of the HQ picture, and the LQ picture has 1/scale of its sides. How many tokens (rows,
# columns) does an LQ picture become? Assume that the sides fit.

# %% tags=["exercise"]
def token_grid(lq_size: tuple[int, int], scale: int, f: int) -> tuple[int, int]:
    """Rows and columns of the token map of an LQ picture of (height, width) pixels."""
    raise NotImplementedError


# %% jupyter={"source_hidden": true} tags=["solution"]
def token_grid(lq_size: tuple[int, int], scale: int, f: int) -> tuple[int, int]:
    """Rows and columns of the token map of an LQ picture of (height, width) pixels."""
    return lq_size[0] * scale // f, lq_size[1] * scale // f


# %% tags=["check"]
assert token_grid((64, 64), 4, 8) == (32, 32)
assert token_grid((32, 48), 4, 4) == (32, 48)
assert (token_grid(tuple(lq.shape[-2:]), model.tier.scale, model.tier.vqgan.factor)
        == tuple(trace.restored.tokens.shape[-2:]))


# %% [markdown]
# **2.** Tokens are few. A token out of K codes needs log₂ K bits, a pixel 24. By what factor is the token map of an HQ
# picture smaller than the picture?

# %% tags=["exercise"]
def compression(f: int, codes: int) -> float:
    """Bits of a picture (24 a pixel) divided by bits of its token map, f × f pixels a token."""
    raise NotImplementedError


# %% jupyter={"source_hidden": true} tags=["solution"]
def compression(f: int, codes: int) -> float:
    """Bits of a picture (24 a pixel) divided by bits of its token map, f × f pixels a token."""
    return 24 * f * f / math.log2(codes)


# %% tags=["check"]
assert compression(1, 2**24) == 1
assert math.isclose(compression(8, 512), 24 * 64 / 9)
assert compression(8, 512) > compression(4, 512) > compression(4, 1024)


# %% [markdown]
# **3.** Write the wipe of section 2 yourself: left of the line the first picture, from the line on the second one.

# %% tags=["exercise"]
def wipe(before: torch.Tensor, after: torch.Tensor, position: float) -> torch.Tensor:
    """(3, H, W): `before` in the first round(position · W) columns, `after` in the others."""
    raise NotImplementedError


# %% jupyter={"source_hidden": true} tags=["solution"]
def wipe(before: torch.Tensor, after: torch.Tensor, position: float) -> torch.Tensor:
    """(3, H, W): `before` in the first round(position · W) columns, `after` in the others."""
    line = round(position * after.shape[-1])
    return torch.cat([before[..., :line], after[..., line:]], -1)


# %% tags=["check"]
for position in (0.0, 0.25, 1.0):
    wiped = wipe(bicubic, result, position)
    assert wiped.shape == result.shape, (
        f"the shape is {tuple(wiped.shape)}, expected {tuple(result.shape)}: join along the columns")
    view = to_tensor(widgets.before_after_view(bicubic, result, position))[0]
    line = round(position * result.shape[-1])
    apart = ((wiped - view).abs().amax(0) > 1 / 255).any(0).nonzero().flatten().tolist()
    assert set(apart) <= {line - 1, line}, (
        f"position {position}: columns {apart[:5]} … differ from the picture of section 2, "
        f"expected none but {line - 1} and {line}, where the line is drawn")

# %% [markdown]
# ## 9 · Is everything here?
#
# If a cell above failed, look here first.

# %% tags=["nbval-check-output"]
needed = ["torch", "torchvision", "skimage", "safetensors", "matplotlib", "ipywidgets",
          "pyiqa", "papermill", "jupytext"]
missing = [name for name in needed if importlib.util.find_spec(name) is None]
print("Python 3.11 or newer:", sys.version_info >= (3, 11))
print("packages:",
      "all found" if not missing else f"missing {', '.join(missing)} (make setup installs them)")
print("photos that need no download:", *bundled("test"))
assert not missing

# %% [markdown]
# What depends on your machine: a GPU is used if there is one; some metrics need weights that may not be here (then the
# notebooks say so and use the others).

# %%
print("device:", run.device.type,
      f"({torch.cuda.get_device_name()})" if run.device.type == "cuda" else "")
print("metrics:", ", ".join(f"{name} {'yes' if metrics.available(name) else 'no weights here'}"
                            for name in ("psnr", "ssim", "lpips", "niqe")))
print("tiers with shipped weights:", ", ".join(weights.shipped()) or "none")

# %%
measured = {name: float(metrics.score(name, result[None], hq[None])) for name in ("psnr", "ssim")}
path = run.record(
    measured=(f"×4 photo by the {model.tier.name} model; "
              f"T_s {int(trace.start[0])} and {int(rocket.start[0])} of 8"),
    model=model.tier.name, start=int(trace.start[0]), good=int(good["chelsea"].sum()),
    tokens=good["chelsea"].numel(),
    bicubic_psnr=float(metrics.score("psnr", bicubic[None], hq[None])), **measured,
)

# %% [markdown]
# **Next:** [01 · Degradation](01_degradation.ipynb): how a sharp photo becomes a bad one.
