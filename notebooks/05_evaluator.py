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
# # 05 · The evaluator φ_e
#
# **What you will build.** The network that ITER adds to masked token models: φ_e reads a complete token map and says of every
# token how likely it is to be right. You will write its loss (Eq. 5) and its part of Algorithm 1 by hand, measure it with an
# AUC and a reliability curve of your own, and turn its probabilities into the masks that
# [Algorithm 2](06_adaptive_inference.ipynb) starts from.
#
# **Why.** φ_r ([notebook 04](04_refiner.ipynb)) samples, and samples are sometimes wrong. Which tokens should be kept, and
# which drawn again? The paper answers with another network, φ_e, which learns to tell good tokens from bad ones (Chen et al.
# 2024, abstract and Eq. 5).
#
# **What you need.** Notebook 04; logistic regression.
# Symbols: [one table](symbols.md).
#
# **How it is ordered.** Section 2 has the paper's Eq. 5 and what it takes to train with it. Sections 3 to 9 build, train and
# measure φ_e. Everything else that the trained weights have beyond the paper is in section 10.
#
# **Minutes.** Reading 35. As it stands the notebook shows `tiny`, whose weights ship. With `tier = "smoke"` the networks
# train here: the cells then take half a minute on two CPU cores if notebooks 02–04 have run, two to three otherwise.

# %% tags=["parameters"]
tier = "tiny"
seed = 0
device = "auto"
data = None
out = None

# %%
from itersr.lab.reproduce import Run

run = Run.start("05", tier=tier, seed=seed, device=device, data=data, out=out)

# %%
import dataclasses
import inspect
import math

import matplotlib.pyplot as plt
import pandas as pd
import torch
from IPython.display import Markdown, display
from torch.nn import functional as F
from torch.utils.data import default_collate

from itersr.lab.course import learning_curve, load_or_train, recipe
from itersr.lab.reproduce import ROOT
from itersr.masking import keep_best, random_mask
from itersr.model import ITER
from itersr.pictures import bundled
from itersr.sampling import categorical
from itersr.schedule import start_step, tokens_to_keep, tokens_to_mask
from itersr.token_nets import Evaluator
from itersr.training.algorithm1 import Algorithm1, auc
from itersr.training.data import Crops, Photos, ranges, validation_pairs

# %% [markdown]
# ## 1. Why φ_r does not judge its own tokens
#
# MaskGIT keeps the k tokens that φ_r itself gave the highest probability. That costs nothing, and it has limits:
#
# 1. **S_l is not φ_r's.** At the start of Algorithm 2 the tokens come from E_l; φ_r has never given them a probability.
# 2. **φ_r reads a kept token.** Eq. 4 over all places teaches it to copy there, so its probability says little about quality.
#    (These weights trained on masked places alone; section 6 measures what φ_r says there.) MaskGIT never judges a kept token
#    again: an early mistake stays.
# 3. **It judges before the map is complete.** A confidence is computed while the neighbours are still masked; whether the
#    drawn tokens *fit together* shows only in the finished map.
# 4. **It picks the easy places.** The most confident places are next to kept tokens, so the kept regions grow from what is
#    already there ([notebook 07](07_topk_vs_evaluator.ipynb)).
#
# One thing must be said for it: where φ_r's probabilities are well calibrated, the probability of a freshly drawn token **is**
# the probability that it equals S_h. There no second network can do better, on average. So we measure both, side by side, in
# section 6.
#
# φ_e is asked another question, and later: *here is a complete map: is each of its tokens good?*

# %%
options = {"seed": run.seed, "device": str(run.device)}
# loads what earlier notebooks left, trains what is missing
for stage in ("vqgan", "lq_encoder", "token_nets"):
    model = load_or_train(stage, run.tier, run.data, run.checkpoints, **options)
f, codes = model.vqgan.config.factor, model.vqgan.config.codes

held_out = Photos(bundled("test"))  # no network here was trained on these
pairs = validation_pairs(held_out, 6, 32 * f, run.seed,
                         degradation=ranges(run.tier.degradation), scale=run.tier.scale)
hq, lq = pairs["hq"].to(run.device), pairs["lq"].to(run.device)
# which photo each crop is of: two degradations of three photos
photo = torch.arange(6) % len(held_out)
with torch.no_grad():
    s_h = torch.cat([model.vqgan.encode(x) for x in hq.split(1)])
    log_probs = model.log_posterior(lq)  # log p_l(token | LQ), (6, codes, 32, 32)
s_l = log_probs.argmax(1)
n = s_h[0].numel()
right_l = s_l == s_h  # what φ_e is to find out
print(f"S_h, S_l {tuple(s_h.shape)}, {codes} codes")

# %% [markdown]
# ## 2. The loss: Eq. 5
#
# The paper's loss has two terms, one for each map that φ_e judges:
# $$\mathcal{L}_e = -\,m_t \log \phi_e(S_t) \;-\; m_l \log \phi_e(S_l) .$$
# Here φ_e reads one map and gives a probability of "good" at each place. For S_t the target is m_t, the mask of Algorithm 1:
# a kept token is good. For S_l it is m_l, the mask of what is true: S_l equals S_h there. (m_l is not m_s. m_s is what φ_e
# says of S_l, cut at a threshold.)
#
# As printed, the loss counts the good tokens alone. Then one answer is best: *always good*. Take an evaluator that answers p
# at every place, where three tokens in ten are good:

# %% tags=["nbval-check-output"]
print("p      as printed   with both classes")
for p in (0.1, 0.3, 0.5, 0.9, 0.99):
    printed = -0.3 * math.log(p)
    print(f"{p:.2f}   {printed:.3f}        {printed - 0.7 * math.log(1 - p):.3f}")

# %% [markdown]
# The left column falls to 0 as p goes to 1. The right one, with −(1 − m) log(1 − φ_e) added, is smallest at p = 0.3, the true
# share. So this project takes cross-entropy with both classes.
#
# Two more things differ from the printed form, each for a reason:
#
# - **The map is complete.** In S_t a masked token is the mask token, so m_t can be read off the input and there is nothing to
#   learn; and at inference φ_e judges maps without masked tokens. Here φ_r first draws the masked tokens, and the target is 1
#   where a token equals S_h and 0 elsewhere: the same target as for S_l.
# - **φ_e reads S_l as well**, as a second input. Without it a first φ_e ranked sampled tokens no better than chance.
#
# φ_e has two outputs a place; only their difference z matters, since p(good) = softmax(…)₁ = σ(z). On a toy of 2×3 places:

# %% tags=["nbval-check-output"]
# (B, 2, h, w): bad, good
logits = torch.randn(1, 2, 2, 3, generator=torch.Generator().manual_seed(0))
toy_tokens = torch.tensor([[[5, 1, 2], [3, 0, 7]]])
toy_truth = torch.tensor([[[5, 1, 4], [3, 6, 7]]])
total = 0.0
for y in range(2):
    for x in range(3):
        z = (logits[0, 1, y, x] - logits[0, 0, y, x]).item()
        p_good = 1 / (1 + math.exp(-z))
        good = toy_tokens[0, y, x] == toy_truth[0, y, x]
        total -= math.log(p_good if good else 1 - p_good)
by_module = F.cross_entropy(logits, (toy_tokens == toy_truth).long())
assert abs(total / 6 - by_module.item()) < 1e-5
print("targets", (toy_tokens == toy_truth).int().tolist()[0], "→ the loop equals F.cross_entropy")


# %% [markdown]
# ## 3. Why φ_e never reads the mask
#
# Most training maps of φ_e are made from S_h: some tokens are kept (all right, by construction), the others are φ_r's samples
# (often wrong). Would it not help φ_e to know which are which? It would lower its loss, and teach it nothing. Take a "network"
# that outputs nothing but *was this token kept?*, on maps where a fifth of the samples are right:

# %% tags=["nbval-check-output"]
def binary_entropy(p: float) -> float:
    return 0.0 if p in (0, 1) else -p * math.log(p) - (1 - p) * math.log(1 - p)


print("kept   AUC, all places   AUC, sampled places   "
      "loss, knowing the mask   loss, knowing only the share")
for kept in (250, 500, 750):
    is_kept = torch.arange(1000) < kept
    # all kept ones, and a fifth of the samples
    is_right = torch.arange(1000) < kept + (1000 - kept) // 5
    everywhere, sampled = (auc(is_kept.float(), is_right),
                           auc(is_kept[kept:].float(), is_right[kept:]))
    loss = (1000 - kept) / 1000 * binary_entropy(0.2)
    base = binary_entropy(is_right.float().mean().item())
    print(f"{kept / 1000:.0%}       {everywhere:.2f}              {sampled:.2f}                 "
          f"{loss:.3f}                    {base:.3f}")

# %% [markdown]
# The AUC (section 6) is high and the loss low, and on the samples, the only tokens in question, it is at chance. At inference
# it would say "good" to whatever is kept, right or wrong, so no mistake would ever be found. That is why φ_e gets a
# **complete** map and no mask. Its table does not even have a row for the mask token. (`log_probs` is for section 10.)

# %% tags=["nbval-check-output"]
print("φ_e is called with:", *list(inspect.signature(Evaluator.forward).parameters)[1:])
print("rows of φ_r's table beyond the codes:", model.refiner.table.num_embeddings - codes)
print("rows of φ_e's table beyond the codes:", model.evaluator.table.num_embeddings - codes)


# %% [markdown]
# ## 4. φ_e's part of Algorithm 1, by hand
#
# We take the trained VQGAN and E_l, an untrained φ_r and φ_e with the paper's inputs, and four training crops.

# %%
def papers(config):
    """The same sizes without what goes beyond the paper (section 10)."""
    norm = "layer" if config.norm == "none" else config.norm
    return dataclasses.replace(config, norm=norm, posterior=False, reads_lq=False)


form = dataclasses.replace(run.tier, refiner=papers(run.tier.refiner),
                           evaluator=papers(run.tier.evaluator))
with torch.random.fork_rng(devices=[]):  # nothing outside this block sees the seed
    torch.manual_seed(run.seed)
    fresh = ITER(form).to(run.device)
for name in ("vqgan", "lq_encoder"):
    fresh.get_submodule(name).load_state_dict(model.get_submodule(name).state_dict())
settings = dataclasses.replace(run.tier.train["token_nets"], networks=("evaluator",), corrupt=0.0)
task = Algorithm1(fresh, settings, run.seed)

training, _ = Photos.of(run.data).split()
crops = Crops(training, settings.crop, run.seed,
              degradation=ranges(run.tier.degradation), scale=run.tier.scale)
batch = {name: value.to(run.device)
         for name, value in default_collate([crops[i] for i in range(8, 12)]).items()}
with torch.no_grad():
    b_h = fresh.vqgan.encode(batch["hq"])
    b_l = fresh.lq_encoder(batch["lq"]).argmax(1)

# %% [markdown]
# **First map: S_l itself**, as it will be judged at the start of Algorithm 2. (Its second input is S_l too: here both are the
# same.)

# %%
judged_l = fresh.evaluator(b_l, b_l).float()  # (4, 2, h, w)
loss_l = F.cross_entropy(judged_l, (b_l == b_h).long())
print(f"S_l: {(b_l == b_h).float().mean():.1%} of the tokens are good; "
      f"Eq. 5 untrained {loss_l.item():.3f}, ln 2 = {math.log(2):.3f}")

# %% [markdown]
# **Second map: φ_r's sample**, as it will be judged at every later step. Mask S_h as in notebook 04, let φ_r propose, and
# **draw**, as inference does; the argmax would be a map that φ_e never meets. Drawing by hand: the cumulative distribution,
# inverted at a uniform number.

# %%
numbers = task.noise(batch, "per image", torch.Size([2]))
masked = torch.tensor([tokens_to_mask(1 - x, b_h[0].numel(), settings.gamma)
                       for x in numbers[:, 0].tolist()], device=run.device)
m_t = random_mask(masked, task.noise(batch, "mask", b_h.shape[1:]))
# α at random …
m_s = judged_l.softmax(1)[:, 1] >= numbers[:, 1, None, None]
# … and in half of the pictures no token is good
m_s = m_s & (task.noise(batch, "start", torch.Size([])) > 0.5)[:, None, None]
assert run.seed or (m_s.any() and not m_s.all()), "one value alone would hide a wrong m_s"

with torch.no_grad():
    logits_r = fresh.refiner(b_h, m_t, b_l, m_s).float()
u = task.noise(batch, "sample", b_h.shape[1:])
drawn_by_hand = (logits_r.softmax(1).cumsum(1) <= u[:, None]).sum(1).clamp(max=codes - 1)
drawn, _ = categorical(logits_r, u)
# a number on a border may fall on either side of it
assert (drawn_by_hand == drawn).float().mean() > 0.999

# %% [markdown]
# The kept tokens stay, so the map is complete, and no mask goes with it. The loss is the mean of the two maps'.

# %%
complete = torch.where(m_t, b_h, drawn)
judged = fresh.evaluator(complete, b_l).float()
loss_s = F.cross_entropy(judged, (complete == b_h).long())

by_module, scalars = task(batch, 0, "iter")
torch.testing.assert_close((loss_l + loss_s) / 2, by_module)
print(f"Eq. 5 by hand: S_l {loss_l.item():.3f}, samples {loss_s.item():.3f}, "
      f"mean {((loss_l + loss_s) / 2).item():.3f} = Algorithm1 {by_module.item():.3f}")


# %% [markdown]
# φ_e is untrained, so these losses are not far from ln 2, that of a coin.
#
# **The two kinds of targets**, on a held-out photo. The weights used from here on go beyond the paper; section 10 says how.

# %%
@torch.no_grad()
def picture(tokens: torch.Tensor) -> torch.Tensor:
    """Decoded tokens (h, w) as (H, W, 3) to show."""
    return model.vqgan.decode(tokens[None])[0].clamp(0, 1).permute(1, 2, 0).cpu()


@torch.no_grad()
def each(function, *maps: torch.Tensor) -> torch.Tensor:
    """Apply to every picture alone."""
    return torch.cat([function(*(x[i : i + 1] for x in maps)) for i in range(len(maps[0]))])


def refine(tokens, keep, condition, condition_keep, log_p, image):
    """φ_r's logits; `functions` gives it what its form reads besides (section 10)."""
    return model.functions(log_p, model.lq_features(image))[0](
        tokens, keep, condition, condition_keep).float()


def judge(tokens, condition, log_p):
    """z, the log-odds of "good", of every token: (1, h, w)."""
    logits = model.evaluator(
        tokens, condition, log_p if run.tier.evaluator.posterior else None).float()
    return logits[:, 1] - logits[:, 0]


places, u = torch.rand(2, *s_h.shape, generator=run.generator(1, "cpu")).to(run.device)
nobody = torch.zeros_like(s_l, dtype=torch.bool)


def complete_map(ratio: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    ("True tokens at 1 − ratio of the places, φ_r's samples elsewhere: "
     "(map, keep, φ_r's own log-confidence).")
    keep = random_mask(round(ratio * n), places)
    drawn, confidence = categorical(each(refine, s_h, keep, s_l, nobody, log_probs, lq), u)
    return torch.where(keep, s_h, drawn), keep, confidence


half, half_keep, _ = complete_map(0.5)
all_drawn, _, _ = complete_map(1.0)
fig, axes = plt.subplots(2, 4, figsize=(8, 4.2), layout="constrained")
which = 1
columns = {"S_h": s_h, "S_l": s_l, "half sampled by φ_r": half, "all sampled by φ_r": all_drawn}
for (name, tokens), top, bottom in zip(columns.items(), axes[0], axes[1]):
    top.imshow(picture(tokens[which]))
    good = (tokens[which] == s_h[which]).cpu()
    bottom.imshow(good, cmap="gray", vmin=0, vmax=1)
    top.set_title(name, fontsize=9)
    bottom.set_title(f"{good.float().mean():.0%} good", fontsize=9)
for axis in axes.flat:
    axis.set(xticks=[], yticks=[])
path = run.save_figure(fig, "targets")

# %% [markdown]
# *What to see. Top: complete maps, decoded. Bottom: the targets of Eq. 5, white = good. The first column is S_h itself, for
# comparison. In the third map half of the tokens are true by construction. φ_e has to say the bottom row, and gets the token
# maps.*

# %% [markdown]
# ## 5. Training
#
# φ_e was trained beside φ_r (notebook 04 ran it). What should the loss fall below? An evaluator that knows only *how many*
# tokens are good has the entropy of that share.

# %%
curve = learning_curve(run.tier, "token_nets", run.checkpoints, "evaluator")
fig, (left, right) = plt.subplots(1, 2, figsize=(8, 2.8), layout="constrained")
train_curve, validated = curve[curve["split"] == "train"], curve[curve["split"] == "validation"]
for name in ("evaluator on S_l", "evaluator on samples"):
    rows = train_curve[train_curve["name"] == name]
    left.plot(rows["step"], rows["value"], label=name.replace("evaluator", "φ_e"))
left.axhline(math.log(2), color="grey", ls=":", label="ln 2: a coin")
left.set(xlabel="step", ylabel="nats a token", title="Eq. 5 on training crops")
rows = validated[validated["name"] == "AUC of φ_e on S_l"]
right.plot(rows["step"], rows["value"], "o-", ms=3, color="black", label="S_l")
for i, ratio in enumerate((0.25, 0.5, 0.75, 1.0)):
    rows = validated[validated["name"] == f"AUC of φ_e on samples at {ratio}"]
    right.plot(rows["step"], rows["value"], "o-", ms=3, color=plt.cm.viridis(i / 3.5),
               label=f"samples, {ratio:.0%} masked")
right.axhline(0.5, color="grey", ls=":", label="chance")
right.set(xlabel="step", ylabel="AUC", title="held-out crops")
left.legend(fontsize=8)
right.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
path = run.save_figure(fig, "training")

# %% [markdown]
# *What to see. Left: the loss on both kinds of maps; one batch a point, so neighbouring points differ much; single batches of
# samples lie above the dotted line (ln 2, a coin). At `tiny` φ_e begins as E_l's confidence (section 10a), so it starts below
# that line. Right: how well φ_e tells good from bad on crops of photos held out of the training set, for S_l and at four mask
# ratios; the dotted line is chance. What an AUC is comes in section 6. (From here on "held-out photos" are again the three of
# section 1, as in notebook 04.)*

# %% [markdown]
# **The run behind the weights that ship.** Its command, and what its log showed on the way: a run that is far from this at
# minute 2 has an error; do not wait for it.

# %%
line, healthy = recipe("token_nets", "evaluator")
display(Markdown(line))
healthy.loc[["train: evaluator on S_l", "train: evaluator on samples",
             "validation: AUC of φ_e on S_l", "validation: AUC of E_l's confidence on S_l",
             *(f"validation: AUC of {who} at {ratio}"
               for ratio in (0.25, 0.5, 0.75, 1.0)
               for who in ("φ_e on samples", "φ_r's confidence"))]]

# %%
# log-odds of "good" for every token of S_l, as φ_e was trained (no correction yet)
z_l = each(judge, s_l, s_l, log_probs)
loss_held = F.binary_cross_entropy_with_logits(z_l, right_l.float()).item()
base_loss = binary_entropy(right_l.float().mean().item())
relation = "below" if loss_held < base_loss else "not below"
display(Markdown(
    f"On S_l of the held-out photos Eq. 5 is **{loss_held:.3f}**, {relation} "
    f"**{base_loss:.3f}**, the entropy of the share of good tokens "
    f"({right_l.float().mean():.1%}). A loss mixes two things: are good tokens "
    "ranked above bad ones (section 6), and are the probabilities right (section 7)?"))


# %% [markdown]
# ## 6. Ranking: AUC and ROC
#
# Draw a good and a bad token at random: how often does φ_e give the good one the higher score? That share is the **AUC**: 1 is
# perfect, 0.5 is chance, and it does not matter how many tokens are good. By hand it is a double loop over pairs (ties count
# half):

# %%
def auc_by_hand(score: list[float], good: list[bool]) -> float:
    wins = pairs = 0.0
    for s, is_good in zip(score, good):
        for other, other_good in zip(score, good):
            if is_good and not other_good:
                pairs += 1
                wins += 1.0 if s > other else 0.5 if s == other else 0.0
    return wins / pairs


sample = torch.randperm(z_l.numel(), generator=run.generator(2, "cpu"))[:400].to(run.device)
# rounded, so that there are ties
some, some_right = z_l.flatten()[sample].round(decimals=1), right_l.flatten()[sample]
assert abs(auc_by_hand(some.tolist(), some_right.tolist()) - auc(some, some_right)) < 1e-9
print("AUC: the double loop == itersr.training.algorithm1.auc, which sorts (N log N instead of N²)")


# %% [markdown]
# The same number is the area under the **ROC** curve: lower the threshold from the highest score down, and plot the share of
# the good tokens found against the share of the bad ones taken by mistake.

# %%
def roc(score: torch.Tensor, good: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(share of bad tokens taken, share of good tokens found) as the threshold falls."""
    order = score.flatten().argsort(descending=True)
    hits = good.flatten()[order].double()
    zero = hits.new_zeros(1)
    return (torch.cat([zero, (1 - hits).cumsum(0) / (1 - hits).sum()]).cpu(),
            torch.cat([zero, hits.cumsum(0) / hits.sum()]).cpu())


false_alarms, found = roc(z_l, right_l)
area = torch.trapezoid(found, false_alarms).item()
assert abs(area - auc(z_l, right_l)) < 1e-3
print("the area under the ROC curve is the AUC")

# %% [markdown]
# Now all the judges, on the held-out photos:
# - **S_l**: φ_e, and E_l's own confidence (the probability of its argmax).
# - **φ_r's samples** with ¼ … all of the tokens masked, the other tokens true; sampled places only. φ_e, and φ_r's own
#   confidence.
# - **kept tokens, some of them wrong**: half of the tokens are kept, three in ten of these are replaced by samples of E_l, as
#   at inference some kept tokens are wrong. φ_e, and φ_r's probability of the token that is kept there.

# %%
table = {"S_l": (auc(z_l, right_l), auc(log_probs.amax(1), right_l), "E_l")}
curves = {"S_l": [("φ_e", z_l, right_l), ("E_l's confidence", log_probs.amax(1), right_l)]}
for ratio in (0.25, 0.5, 0.75, 1.0):
    tokens, keep, confidence = complete_map(ratio)
    z, right = each(judge, tokens, s_l, log_probs)[~keep], (tokens == s_h)[~keep]
    table[f"samples, {ratio:.0%} masked"] = (auc(z, right), auc(confidence[~keep], right), "φ_r")
    curves["φ_r's samples, all masked"] = [
        ("φ_e", z, right), ("φ_r's confidence", confidence[~keep], right)]

swap, v = torch.rand(2, *s_h.shape, generator=run.generator(3, "cpu")).to(run.device)
s_t = torch.where(swap < 0.3, categorical(log_probs, v)[0], s_h)  # some of these are right by luck
logits_r = each(refine, s_t, half_keep, s_l, nobody, log_probs, lq)
tokens = torch.where(half_keep, s_t, categorical(logits_r, u)[0])
of_kept = logits_r.log_softmax(1).gather(1, s_t[:, None])[:, 0][half_keep]
right = (tokens == s_h)[half_keep]
table["kept tokens, some wrong"] = (
    auc(each(judge, tokens, s_l, log_probs)[half_keep], right), auc(of_kept, right), "φ_r")

print(f"{'AUC on held-out photos':<26} φ_e    own confidence")
for name, (of_e, own, whose) in table.items():
    print(f"{name:<26} {of_e:.3f}  {own:.3f} ({whose})")
if table["S_l"][0] < 0.5:
    print("On S_l φ_e is below chance: what E_l gets wrong on its few training photos "
          "is not what it gets wrong on others.")
assert table["samples, 100% masked"][0] > 0.6, "φ_e must be clearly above chance on samples"

# %%
fig, axes = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained")
for axis, (title, several) in zip(axes, curves.items()):
    for name, score, right in several:
        axis.plot(*roc(score, right), label=f"{name}: {auc(score, right):.2f}")
    axis.plot([0, 1], [0, 1], color="grey", ls=":")
    axis.set(xlabel="bad tokens taken", ylabel="good tokens found", title=title)
    axis.legend(fontsize=8)
path = run.save_figure(fig, "roc")

# %%
of_e, own, _ = table["kept tokens, some wrong"]
wins = [name for name, (of_e, own, _) in table.items() if of_e > own + 0.005]
losses = [name for name, (of_e, own, _) in table.items() if own > of_e + 0.005]
display(Markdown(
    "*What to see: ROC curves on S_l (left) and on maps that φ_r drew whole (right); the further "
    "to the upper left, the better; the number is the AUC; dotted: chance.* "
    "φ_e ranks better than the network's own confidence on: "
    f"**{', '.join(wins) or 'none of these'}**; worse on: **{', '.join(losses) or 'none'}**. "
    "On fresh samples a well-calibrated φ_r is hard to beat (section 1). The question that "
    "φ_e is made for is the last row of the table: which of the kept tokens are wrong? "
    f"There φ_e has {of_e:.3f}, φ_r's probability of the token it reads {own:.3f}. "
    "The AUC is also not all that counts: a judge that finds only the easy places good "
    "has a fine AUC and bad masks. Notebook 07 compares the *results*."))


# %% [markdown]
# ## 7. Probabilities: reliability
#
# α is a threshold on a probability: "keep what is good with at least 50 %". That means something only if 50 % means 50 %. The
# **reliability curve** groups tokens by what φ_e says and asks how many of each group are good.

# %%
def reliability(p: torch.Tensor, good: torch.Tensor,
                bins: int = 10) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """For groups of equal size, by rising p: mean p, share of good tokens, size."""
    order = p.flatten().argsort()
    said = p.flatten()[order].chunk(bins)
    was = good.flatten()[order].float().chunk(bins)
    return (torch.stack([x.mean() for x in said]), torch.stack([x.mean() for x in was]),
            torch.tensor([float(len(x)) for x in said]))


def calibration_error(p: torch.Tensor, good: torch.Tensor) -> float:
    """Mean distance between what is said and what is so, over the groups."""
    said, was, size = reliability(p, good)
    return ((said - was).abs().cpu() * size).sum().item() / size.sum().item()


p_good = z_l.sigmoid()
error_raw = calibration_error(p_good, right_l)
fig, axis = plt.subplots(figsize=(4.2, 3.6), layout="constrained")
said, was, _ = reliability(p_good, right_l)
axis.plot(said.cpu(), was.cpu(), "o-", ms=4, label="φ_e on S_l")
axis.plot([0, 1], [0, 1], color="grey", ls=":", label="what it should be")
axis.set(xlabel="p(good) that φ_e says, mean of the group", ylabel="share that is good", title="the six held-out crops")
axis.legend(fontsize=8)
path = run.save_figure(fig, "reliability")

# %%
too = "more" if p_good.mean() > right_l.float().mean() else "less"
display(Markdown(
    "*What to see: each point is a tenth of the tokens, by rising p(good). Below the dotted line "
    "φ_e says more than is so, above it less.* "
    f"φ_e says {p_good.mean():.1%} on average, {right_l.float().mean():.1%} are good: on these "
    f"crops it says {too} than is so. The calibration error, the mean distance to the dotted "
    f"line, is **{error_raw:.3f}**. Section 10c tries to correct it."))

# %% [markdown]
# ## 8. Where φ_e is right: score maps against true errors
#
# The score map should look like the map of right tokens, blurred. (A shifted grid, or swapped classes, would be visible at
# once.)

# %%
fig, axes = plt.subplots(3, 5, figsize=(8, 5), layout="constrained")
for row, i in zip(axes, range(3)):
    row[0].imshow(hq[i].permute(1, 2, 0).cpu())
    row[1].imshow(picture(s_l[i]))
    row[2].imshow(right_l[i].cpu(), cmap="gray", vmin=0, vmax=1)
    row[3].imshow(p_good[i].cpu(), vmin=0, vmax=1)
    scores = row[4].imshow(log_probs[i].amax(0).exp().cpu(), vmin=0, vmax=1)
    row[0].set_ylabel(held_out.names[i], fontsize=9)
    row[3].set_xlabel(f"AUC {auc(z_l[i], right_l[i]):.2f}", fontsize=8)
    row[4].set_xlabel(f"AUC {auc(log_probs[i].amax(0), right_l[i]):.2f}", fontsize=8)
for axis, title in zip(
        axes[0], ("HQ", "S_l decoded", "white: S_l is right", "φ_e", "E_l's confidence")):
    axis.set_title(title, fontsize=9)
for axis in axes.flat:
    axis.set(xticks=[], yticks=[])
fig.colorbar(scores, ax=axes, label="probability", shrink=0.6)
path = run.save_figure(fig, "score_maps")

# %% [markdown]
# *What to see: one crop of each photo. Columns 4 and 5 have one colour scale, yellow is likely right; they should be bright
# where column 3 is white. The AUC within this crop is below each map. They can agree on which regions are easy, and not token
# by token: whether one token of a texture is exactly right is mostly chance.*

# %%
inside = {name: auc(z_l[photo == i], right_l[photo == i]) for i, name in enumerate(held_out.names)}
fooled = [name for name, value in inside.items() if value < 0.5]
display(Markdown(
    f"Over both crops of **{', '.join(fooled)}** φ_e ranks worse than chance: compare the third "
    "and fourth columns to see what it trusts wrongly. E_l and φ_e learned from the same photos; "
    "where a picture is unlike those, both can be wrong together, and sure of it." if fooled else
    "Over both crops of each photo φ_e ranks better than chance, AUC: "
    + ", ".join(f"{name} {value:.2f}" for name, value in inside.items()) + "."))


# %% [markdown]
# ## 9. Preview: α → m_s → T_s
#
# What Algorithm 2 does first. Tokens of S_l with p(good) ≥ α are the good ones, **m_s**. The more there are, the later in the
# schedule one may start: **T_s** is the smallest t whose S_t keeps no more tokens than that. By hand, a search:

# %% tags=["nbval-check-output"]
def start_by_hand(good: int, n: int, T: int) -> int:
    t = 0
    while tokens_to_keep(t, T, n, "cosine") > good:
        t += 1
    return t


assert all(start_by_hand(g, 64, T) == start_step(g, 64, T, "cosine")
           for T in range(1, 17) for g in range(65))
print("good tokens of 64 →", *(f"{g:3d}" for g in (0, 1, 5, 11, 19, 29, 40, 52, 63, 64)))
print("T_s, for T = 8    →", *(f"{start_step(g, 64, 8, 'cosine'):3d}"
                               for g in (0, 1, 5, 11, 19, 29, 40, 52, 63, 64)))


# %%
def starts(p: torch.Tensor, alpha: float) -> tuple[float, float]:
    """Share of good tokens, and mean T_s (of T = 8), over the held-out crops."""
    good = p >= alpha
    return (good.float().mean().item(),
            sum(start_step(int(m.sum()), n, 8, "cosine") for m in good) / len(good))


alphas = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
by_alpha = [(a, *starts(p_good, a)) for a in alphas]
print(" α     good   mean T_s")
for a, share, t_s in by_alpha:
    print(f"{a:.1f}  {share:6.1%}   {t_s:.1f}")
assert all(x[2] <= y[2] for x, y in zip(by_alpha, by_alpha[1:])), (
    "a stricter α must not need fewer steps")

# %%
fig, axes = plt.subplots(1, 4, figsize=(8, 2.5), layout="constrained", width_ratios=[1, 1, 1, 1.6])
image = picture(s_l[which])
quantiles = torch.quantile(
    p_good[which].flatten().cpu(), torch.tensor([0.25, 0.5, 0.75])).tolist()
for axis, a in zip(axes, quantiles):
    m_s = (p_good[which] >= a).cpu()
    pixels = m_s.repeat_interleave(f, 0).repeat_interleave(f, 1)
    axis.imshow(torch.where(pixels[..., None], image, torch.tensor(0.35)))
    axis.set(xticks=[], yticks=[])
    axis.set_title(f"α = {a:.2f}: T_s = {start_step(int(m_s.sum()), n, 8, 'cosine')}", fontsize=9)
axes[3].plot(alphas, [row[2] for row in by_alpha], "o-", ms=3)
axes[3].set(xlabel="α", ylabel="mean T_s of 8", ylim=(0, 8.3))
path = run.save_figure(fig, "alpha_preview")

# %% [markdown]
# *What to see. Left: what is kept of S_l at three thresholds (set so that ¾, ½ and ¼ of the tokens of this crop pass); masked
# places are grey. A high α keeps only the surest tokens and starts at a larger T_s, so more steps are run; a low one keeps most
# of S_l. Right: the mean T_s of the six crops against α, from "keep nearly all of S_l" to "start anew". [Notebook
# 08](08_alpha_curves.ipynb) measures what α does to the picture.*

# %% [markdown]
# ## 10. Beyond the paper
#
# Section 2 has said what the loss needs. Three more things separate these weights from the paper's φ_e; then comes
# an argument about what any φ_e can learn from this loss.
#
# ### 10a. E_l's posterior as an input
#
# With `posterior=True` φ_e also reads E_l's log-probabilities, and its output layer starts at zero, so that untrained it finds
# a token as good as E_l finds it probable ([notebook 04](04_refiner.ipynb), section 8a). So its first loss is not near ln 2,
# as in section 4; what counts is what training adds to E_l's confidence.

# %%
with torch.random.fork_rng(devices=[]), torch.no_grad():
    torch.manual_seed(run.seed)
    informed = Evaluator(dataclasses.replace(run.tier.evaluator, posterior=True), codes)
    start = informed.to(run.device)(s_l, s_l, log_probs)
first = F.cross_entropy(start, right_l.long()).item()
torch.testing.assert_close(start.log_softmax(1)[:, 1], log_probs.amax(1), atol=1e-3, rtol=1e-3)
own = auc(log_probs.amax(1), right_l)
display(Markdown(
    f"Eq. 5 on S_l of the held-out photos: a φ_e that is E_l's confidence **{first:.3f}**, "
    f"the trained φ_e **{loss_held:.3f}**; AUC {own:.3f} and {auc(z_l, right_l):.3f}. "
    + (f"This tier's φ_e, `{run.tier.name}`, reads the posterior." if run.tier.evaluator.posterior
       else f"This tier's φ_e, `{run.tier.name}`, reads S_l alone.")))

# %% [markdown]
# ### 10b. Own samples in the place of true tokens
#
# In Algorithm 1 the kept tokens are those of S_h. So φ_e meets maps in which some tokens are true and the others sampled. No
# mask is given, but *which tokens were sampled* can be guessed, and among true tokens those are the bad ones (section 3). At
# inference all tokens were sampled.
#
# In one run φ_e, which had met only sampled maps, trained on with true tokens in half of the maps, all else fixed. The figure
# is the log of that run.

# %%
tried = pd.read_csv(ROOT / "figures" / "results" / "tried" / "evaluator_beside_truth.csv")
logged = {name: rows.set_index("step")["value"] for name, rows in tried.groupby("name")}
fig, axis = plt.subplots(figsize=(6.5, 2.8), layout="constrained")
for i, ratio in enumerate((0.25, 0.5, 0.75, 1.0)):
    rows = logged[f"AUC of φ_e on samples at {ratio}"]
    axis.plot(rows.index, rows, "o-", ms=3, color=plt.cm.viridis(i / 3.5),
              label=f"samples, {ratio:.0%} masked")
rows = logged["AUC of φ_e on S_l"]
axis.plot(rows.index, rows, "o-", ms=3, color="black", label="S_l")
axis.set(xlabel="steps with true tokens in half of the maps", ylabel="AUC of φ_e")
axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
path = run.save_figure(fig, "beside_truth")

# %%
moved = {name: rows.iloc[-1] - rows.iloc[0] for name, rows in logged.items()}
display(Markdown(
    "*What to see: the AUC of φ_e on held-out crops against training steps; coloured: sampled "
    "tokens at four mask ratios; black: S_l.* Among sampled tokens it moves by "
    f"**{moved['AUC of φ_e on samples at 0.25']:+.3f}** where a quarter is masked and the rest "
    f"true, by {moved['AUC of φ_e on samples at 1.0']:+.3f} where all are sampled; on S_l by "
    f"{moved['AUC of φ_e on S_l']:+.3f}."))


# %% [markdown]
# Hence `Algorithm1` counts Eq. 5 on samples only in those maps whose kept tokens are φ_r's samples (`corrupt`, notebook 04,
# section 8d).
#
# ### 10c. A shift of the log-odds
#
# One error is common, and simple to correct: φ_e learned on maps with another **share of good tokens** than those it judges
# now. By Bayes, if only the share π changes, the log-odds change by a constant:
# $$z' = z + c, \qquad c = \operatorname{logit} \pi_\text{new} - \operatorname{logit} \pi_\text{old} .$$
# A toy in which everything is known: scores x ~ N(±1, 1), for which the right log-odds are 2x + logit π. A judge made for
# π = ½ meets data with π = ⅕.

# %% tags=["nbval-check-output"]
def logit(p: float) -> float:
    return math.log(p / (1 - p))


toy_good = torch.arange(20_000) < 4_000  # a fifth
x = torch.randn(20_000, generator=torch.Generator().manual_seed(0)) + toy_good.float() * 2 - 1
z_toy = 2 * x + logit(0.5)
c_toy = logit(0.2) - logit(0.5)
before, after = (calibration_error(z_toy.sigmoid(), toy_good),
                 calibration_error((z_toy + c_toy).sigmoid(), toy_good))
assert after < 0.015 < 0.1 < before
print(f"logit shift {c_toy:.4f}; calibration error before: more than 0.1; after: less than 0.015")


# %% [markdown]
# φ_e met many kinds of maps, so π_old is not one number. But we can fit c: the shift with which the mean probability equals the
# share of good tokens. A few halvings of an interval find it. This is `ITER.calibration`.

# %%
def fit_shift(z: torch.Tensor, good: torch.Tensor) -> float:
    """c with mean σ(z + c) = share of good tokens."""
    low, high = -12.0, 12.0
    for _ in range(50):
        c = (low + high) / 2
        low, high = (c, high) if (z + c).sigmoid().mean() < good.float().mean() else (low, c)
    return c


with torch.no_grad():  # S_l of 24 more training crops
    more = [{k: crops[i][k][None].to(run.device) for k in ("hq", "lq")} for i in range(12, 36)]
    shares = [(fresh.lq_encoder(one["lq"]).argmax(1) == fresh.vqgan.encode(one["hq"]))
              .float().mean().item() for one in more]
share_trained = sum(shares) / len(shares)
print(f"good tokens of S_l: {share_trained:.1%} on {len(more)} training crops, "
      f"{right_l.float().mean():.1%} on these photos")

# %%
shift = fit_shift(z_l, right_l)
corrected = (z_l + shift).sigmoid()
assert abs(corrected.mean() - right_l.float().mean()) < 1e-3
assert abs(auc(corrected.double(), right_l) - auc(z_l, right_l)) < 1e-3, (
    "a shift must not change the ranking")

stored, model.calibration = model.calibration, shift
# φ_e as Algorithm 2 calls it: the log-probability of "good"
evaluator_fn = model.functions(log_probs[:1])[1]
with torch.no_grad():
    torch.testing.assert_close(evaluator_fn(s_l[:1], s_l[:1]).exp(), corrected[:1],
                               atol=1e-4, rtol=1e-3)
model.calibration = stored
print("σ(z + c) by hand == the model with calibration = c; the AUC stays")

# %% [markdown]
# c must not be fitted on the photos that it is tested on. So: fit on two photos, test on the third, in turn.

# %%
rows = []
for i, name in enumerate(held_out.names):
    test = photo == i
    c = fit_shift(z_l[~test], right_l[~test])
    rows.append((right_l[test].float().mean().item(), c,
                 calibration_error(z_l[test].sigmoid(), right_l[test]),
                 calibration_error((z_l[test] + c).sigmoid(), right_l[test])))
    print(f"{name:<8} {rows[-1][0]:5.1%} good; shift fitted on the others {c:+.2f}; "
          f"error {rows[-1][2]:.3f} → {rows[-1][3]:.3f}")
error_before, error_after = (sum(row[k] for row in rows) / len(rows) for k in (2, 3))

# %%
helped = "helps" if error_after < error_before - 0.005 else "does not help"
display(Markdown(
    "A shift moves the curve of section 7 as a whole; it cannot bend it. "
    f"On photos it was not fitted on, the shift **{helped}**: "
    f"mean calibration error {error_before:.3f} → {error_after:.3f}. "
    f"The share of good tokens runs from {min(row[0] for row in rows):.0%} "
    f"to {max(row[0] for row in rows):.0%} among these photos, so no one shift is right for each "
    "of them. It can be right for the mean of many photos; that is why it is fitted on many. "
    f"(The shift stored with this tier's weights is {stored:+.2f}.)"))

# %% [markdown]
# If the two classes weigh one half each in training, however rare one is, then π_old = ½, and the probabilities come out too
# high wherever good tokens are rarer than that: the threshold α has to go up to give the same mask (exercise 2). This project
# trains with plain cross-entropy, so that α stays a probability.
#
# What does the shift do to α? The table of section 9, beside it with the shift fitted on these crops:

# %%
shifted = [(a, *starts(corrected, a)) for a in alphas]
pd.DataFrame({"α": alphas, "good": [row[1] for row in by_alpha],
              "good, shifted": [row[1] for row in shifted], "T_s": [row[2] for row in by_alpha],
              "T_s, shifted": [row[2] for row in shifted]}).set_index("α").round(3)


# %% [markdown]
# ### 10d. Equality is not coherence
#
# What can φ_e know that φ_r does not? Follow the question "does this token equal that of S_h?" to the place where it is used.
#
# - At inference *every* token of the map is φ_r's own draw (or E_l's), made from the LQ image. S_h played no part in it.
# - S_h is another draw from the same LQ image. Given the LQ image, the two are independent.
# - So the map adds nothing to that question. The best possible answer is p(token | LQ): the *confidence* of a network that
#   reads the LQ image.
#
# Whether the tokens of a map fit *each other* is another question. Two neighbours that show one edge one pixel apart are both
# likely, and wrong as a pair. A judge that was asked for equality learns to answer with confidence; it has no reason to look at
# the neighbours (exercise 3 is the smallest case).
#
# The argument can be tested. Predict "equals S_h" by logistic regression, from φ_r's log-probability of the token, from φ_e's
# log-odds, and from both. If φ_e knew something of its own, both together would be clearly better than φ_r alone. Maps with all
# tokens φ_r's own; each photo is predicted by a fit on the other two.

# %%
def logistic(features: list[torch.Tensor], good: torch.Tensor) -> torch.Tensor:
    """Weights of a logistic regression (the first is the constant), by Newton's method."""
    x = torch.stack([torch.ones_like(features[0]), *features], -1)
    w = x.new_zeros(x.shape[1])
    for _ in range(15):
        p = (x @ w).sigmoid()
        curvature = x.T @ (x * (p * (1 - p))[:, None]) + 1e-6 * torch.eye(len(w), dtype=x.dtype)
        w += torch.linalg.solve(curvature, x.T @ (good.to(x) - p))
    return w


drawn, _, confidence = complete_map(1.0)
equals = (drawn == s_h).cpu()
of_r, of_e = confidence.double().cpu(), each(judge, drawn, s_l, log_probs).double().cpu()
told = {
    "the share of good tokens": [],
    "log φ_r": [of_r],
    "φ_e": [of_e],
    "log φ_r and φ_e": [of_r, of_e],
}
regression = {}
for name, maps in told.items():
    predicted = torch.zeros_like(of_r)
    for i in range(len(held_out)):
        # `constant`: a feature that says nothing, for the first row
        test, constant = photo == i, torch.zeros_like(of_r)
        inputs = maps or [constant]
        w = logistic([m[~test].flatten() for m in inputs], equals[~test].flatten())
        predicted[test] = w[0] + sum(weight * m[test] for weight, m in zip(w[1:], inputs))
    loss = F.binary_cross_entropy_with_logits(predicted, equals.double()).item()
    # the share alone ranks nothing: it is one number for each photo
    regression[name] = {"nats a token": loss, "AUC": auc(predicted, equals) if maps else math.nan}
pd.DataFrame(regression).T.map(lambda x: "–" if math.isnan(x) else f"{x:.3f}")

# %%
gain = regression["log φ_r"]["nats a token"] - regression["log φ_r and φ_e"]["nats a token"]
whole = (regression["the share of good tokens"]["nats a token"]
         - regression["log φ_r"]["nats a token"])
display(Markdown(
    f"φ_r's probability alone saves **{whole:.3f}** nats a token over knowing only how many "
    f"are good; φ_e beside it changes that by **{gain:+.3f}**. "
    + ("φ_e knows hardly anything of its own." if gain < 0.1 * abs(whole) else
       "Here φ_e does add something: where φ_r's probabilities are poor, a second opinion helps.")
    + " [Notebook 10](10_where_steps_pay.ipynb) asks the other question, whether tokens fit "
      "each other, in a world where the answer is known."))


# %% [markdown]
# ## What you learned
#
# - Eq. 5 as printed counts good tokens alone, and "always good" is then best; with both classes it asks of each token of a
#   complete map: is it that of S_h?
# - φ_e must not read the mask: in training "kept" means "right", and it would learn that and nothing else.
# - It is trained on the two maps that it will meet: S_l, and φ_r's *drawn* tokens.
# - Ranking (AUC) and probabilities (reliability) are two questions. A change of the share of good tokens is a constant shift of
#   the log-odds.
# - A network's own confidence is hard to beat on fresh samples. Always measure it beside φ_e.
# - α turns scores into m_s, and m_s into T_s.
#
# ## Check yourself
#
# <details><summary>1. What is the target of φ_e, and on which maps is it trained?</summary>
#
# Whether a token equals that of S_h. On S_l, and on complete maps that φ_r drew, since inference has it judge these.
#
# </details>
#
# <details><summary>2. AUC .8 and a bad reliability curve: can both be?</summary>
#
# Yes. AUC asks for the order of scores alone; a threshold such as α needs them to be probabilities.
#
# </details>
#
# <details><summary>3. Why can φ_e not be much better than φ_r's own confidence at its task?</summary>
#
# Given LQ, S_h is independent of φ_r's draw. The best answer to "equals S_h?" is the probability of the token given LQ, which
# φ_r estimates.
#
# </details>
#
# <details><summary>4. What other question could a critic be asked?</summary>
#
# Whether a token fits the others (Token-Critic: was it given or drawn?). Notebook 10 compares them.
#
# </details>
#
# ## Exercises
#
# **1. What Algorithm 2 really needs** is not an AUC but this: of the k tokens that it keeps, how many are good? Write it, for
# the k of highest score (`keep_best` helps).

# %% tags=["exercise"]
def good_among_kept(score: torch.Tensor, good: torch.Tensor, k: int) -> float:
    """score, good (B, h, w): the share of good tokens among the k best of each picture."""
    raise NotImplementedError


# %% jupyter={"source_hidden": true} tags=["solution"]
def good_among_kept(score: torch.Tensor, good: torch.Tensor, k: int) -> float:
    """score, good (B, h, w): the share of good tokens among the k best of each picture."""
    return good[keep_best(score, k)].float().mean().item()


# %% tags=["check"]
_good = torch.tensor([[[True, False], [True, False]]])
assert good_among_kept(torch.tensor([[[0.9, 0.1], [0.8, 0.2]]]), _good, 2) == 1.0
assert good_among_kept(torch.tensor([[[0.1, 0.9], [0.8, 0.2]]]), _good, 2) == 0.5
# keep all: the share of good ones
assert abs(good_among_kept(z_l, right_l, n) - right_l.float().mean().item()) < 1e-6


# %% [markdown]
# **2. Balanced training.** A judge was trained with both classes weighing one half. With what shift of its log-odds (section
# 10c) are its probabilities right where the share of good tokens is π? And which threshold on its *uncorrected* probability
# equals α = ½ on the corrected one?

# %% tags=["exercise"]
def shift_from_balanced(share: float) -> float:
    """c for a judge of balanced classes, where `share` of the tokens are good."""
    raise NotImplementedError


def uncorrected_threshold(alpha: float, share: float) -> float:
    """The threshold on σ(z) that gives the same mask as α on σ(z + c)."""
    raise NotImplementedError


# %% jupyter={"source_hidden": true} tags=["solution"]
def shift_from_balanced(share: float) -> float:
    """c for a judge of balanced classes, where `share` of the tokens are good."""
    return math.log(share / (1 - share))


def uncorrected_threshold(alpha: float, share: float) -> float:
    """The threshold on σ(z) that gives the same mask as α on σ(z + c)."""
    return 1 / (1 + math.exp(-(logit(alpha) - shift_from_balanced(share))))


# %% tags=["check"]
assert shift_from_balanced(0.5) == 0 and abs(shift_from_balanced(0.2) - c_toy) < 1e-12
assert abs(uncorrected_threshold(0.5, 0.3) - 0.7) < 1e-12  # 30 % good: α = 0.5 has to become 0.7
_p = torch.rand(1000, generator=torch.Generator().manual_seed(3)).double()
_same = ((_p >= uncorrected_threshold(0.4, 0.25))
         == ((_p.logit() + shift_from_balanced(0.25)).sigmoid() >= 0.4))
assert _same.all()


# %% [markdown]
# **3. What the target cannot see.** A world of two neighbouring tokens: S_h is `AA` or `BB`, each half of the time. φ_r, with
# no token kept, draws each token A or B with ½, on its own. Given the drawn pair, with what probability is its *first* token
# good? With what probability are *both*? (Count over the two S_h.) The loss asks the first question, so it cannot tell `AB`,
# which is impossible, from `AA`.

# %% tags=["exercise"]
def first_and_both_good(drawn: str) -> tuple[float, float]:
    """(P(first token good), P(both good)) for a drawn pair such as "AB"."""
    raise NotImplementedError


# %% jupyter={"source_hidden": true} tags=["solution"]
def first_and_both_good(drawn: str) -> tuple[float, float]:
    """(P(first token good), P(both good)) for a drawn pair such as "AB"."""
    truths = ("AA", "BB")
    return sum(drawn[0] == s[0] for s in truths) / 2, sum(drawn == s for s in truths) / 2


# %% tags=["check"]
assert first_and_both_good("AA") == (0.5, 0.5)
assert first_and_both_good("BB") == (0.5, 0.5)
assert first_and_both_good("AB") == (0.5, 0.0)
assert first_and_both_good("BA") == (0.5, 0.0)

# %% [markdown]
# So one round of judging cannot repair a pair that does not fit. Keeping *one* of the two can: in the next step φ_r reads it,
# and the other follows. That is the reason to iterate, and to keep few tokens early.

# %%
path = run.record(
    measured=(f"AUC of φ_e on S_l {table['S_l'][0]:.2f}, "
              f"on samples {table['samples, 100% masked'][0]:.2f}"),
    auc={name: {"evaluator": of_e, "own_confidence": own, "whose": whose}
         for name, (of_e, own, whose) in table.items()},
    auc_by_photo=inside, share_good=right_l.float().mean().item(),
    loss=loss_held, base_loss=base_loss, shift=shift, stored_shift=stored,
    calibration_error={"as_trained": error_before, "shifted": error_after},
    by_alpha=[{"alpha": a, "good": s, "T_s": t, "good_shifted": sc, "T_s_shifted": tc}
              for (a, s, t), (_, sc, tc) in zip(by_alpha, shifted)],
)

# %% [markdown]
# Next: φ_r proposes, φ_e judges, and [06 · Adaptive inference](06_adaptive_inference.ipynb) puts them into the loop of
# Algorithm 2.
