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
# # 06 · Adaptive inference: Algorithm 2
#
# **What you build.** The sampler of ITER, first as a loop of ten lines on made-up networks, then line by line, then on the
# trained φ_r and φ_e: a restoration that you can stop at every step, and a panel to play with.
#
# **Why.** Notebooks 04 and 05 trained two networks, one that proposes tokens and one that judges them. Neither restores a
# photo. What restores is the loop around them, and most of what can go wrong goes wrong here: a mask with the wrong sign, a
# step too few, a kept token that quietly gets a new value.
#
# **What you need.** φ_r and φ_e as functions (notebooks [04](04_refiner.ipynb) and [05](05_evaluator.ipynb)), and the schedule
# γ. No training. Symbols: [one table](symbols.md).
#
# **Minutes.** Half an hour to read, about one to run on two CPU cores. The notebook shows `tiny`, whose weights ship, also
# where `tier` is "smoke"; nothing is trained.
#
# The evaluator also judges S_l, before any step: few good tokens mean many steps, many good ones mean few. So one network
# decides how far a picture stays with what E_l read, and how much texture is added (Chen et al. 2024, abstract; Eq. 6;
# Algorithm 2, lines 1 to 6).

# %% tags=["parameters"]
tier = "tiny"
seed = 0
device = "auto"
data = None
out = None

# %%
from itersr.lab.reproduce import Run

run = Run.start("06", tier=tier, seed=seed, device=device, data=data, out=out)

# %%
import itertools
import math

import matplotlib.pyplot as plt
import torch
from IPython.display import Markdown, display
from matplotlib.colors import ListedColormap

from itersr import masking, sampling
from itersr.lab import metrics, widgets
from itersr.lab.course import model_to_measure
from itersr.sampling import RELEASED, Sampler, proposer
from itersr.schedule import gamma, start_step, tokens_to_keep

# %% [markdown]
# ## 1. The whole algorithm in ten lines
#
# Words first. Masks say **True = good = keep**. γ(r) is the *masked* share at time r = t/T; γ(0) = 0, γ(1) = 1.
#
# **Algorithm 2** (Chen et al. 2024, in our words). Given S_l, the token map of the LQ encoder:
#
# 1. judge S_l with φ_e; a token is good if φ_e gives it at least the probability α: that is m_s;
# 2. T_s is the smallest t at which the schedule keeps no more tokens than m_s has (line 6 of the algorithm); start there;
# 3. for t = T_s, …, 1:
#    - φ_r proposes a token for every masked place, given the tokens kept so far and S_l;
#    - φ_e judges the complete map;
#    - k = ⌈(1 − γ((t − 1)/T))·N⌉ tokens are drawn, the good ones with more chance; they are m_{t−1};
# 4. after t = 1 all N tokens are kept: decode them.
#
# The networks are only called, never looked into. So for now two functions that we make up stand in for them: `phi_r` gives
# logits (codes, h, w), `phi_e` gives log p(good), (h, w).

# %%
h, w, codes = 8, 8, 16
N, T = h * w, 8
g = run.generator(1, "cpu")

s_h = torch.randint(codes, (h, w), generator=g)  # the truth: tokens of the HQ image
broken = torch.rand(h, w, generator=g) < 0.6
# E_l's guess, wrong in many places
s_l = torch.where(broken, torch.randint(codes, (h, w), generator=g), s_h)


def phi_r(s_t, m_t, s_l, m_s):
    """An oracle: it is sure of S_h."""
    return 50.0 * torch.nn.functional.one_hot(s_h, codes).permute(2, 0, 1)


def phi_e(s_t, s_l):
    """An oracle: 0 = log 1 where a token is right, else log of almost nothing."""
    return torch.where(s_t == s_h, 0.0, -40.0)


# %% [markdown]
# Two small tools do what chance there is. `draw` samples one token for each place: it walks along the cumulative probabilities
# until it passes a uniform number. `choose` keeps k places at random, the likely ones more often; why adding Gumbel noise does
# that is section 2e.

# %%
def draw(logits, u):
    """A token for each place from logits (codes, h, w), one uniform number u (h, w) each."""
    return (logits.softmax(0).cumsum(0) <= u).sum(0).clamp(max=len(logits) - 1)


def choose(score, k, u):
    """A mask (h, w) with k True: drawn without replacement, place i with chance ∝ exp(score_i)."""
    merit = (score.double() - torch.log(-torch.log(u.double()))).flatten()
    keep = torch.zeros(merit.numel(), dtype=torch.bool)
    keep[merit.argsort(descending=True)[:k]] = True
    return keep.view_as(score)


# %% [markdown]
# And here is Algorithm 2. Three lines of the paper's listing are different here:
#
# | line | as printed | here | what changes |
# |---|---|---|---|
# | 6 | < | ≤ | with <, T_s is never 0: at least one step is run |
# | 13 | samples every token anew | samples the masked places | a kept token keeps its value (section 2d) |
# | 14 | chooses among all tokens | chooses among the masked ones | a kept token stays kept, by the `inf` (section 2f) |
#
# The module can do each line as it is printed; section 5 compares them. The
# [whole list of differences](differences.md) has the reasons.

# %%
def algorithm_2(s_l, phi_r, phi_e, T, alpha, generator):
    m_s = phi_e(s_l, s_l) >= math.log(alpha)  # which tokens of S_l are good
    n = s_l.numel()
    T_s = next(t for t in range(T + 1)  # where to start
               if math.ceil((1 - gamma(t / T)) * n - 1e-9) <= m_s.sum())
    s_t, m_t = s_l, m_s
    for t in range(T_s, 0, -1):
        u, v = torch.rand(2, *s_l.shape, generator=generator)
        # kept tokens keep their values
        s_t = torch.where(m_t, s_t, draw(phi_r(s_t, m_t, s_l, m_s), u))
        k = math.ceil((1 - gamma((t - 1) / T)) * n - 1e-9)
        m_t = choose(phi_e(s_t, s_l).masked_fill(m_t, math.inf), k, v)  # and stay kept
    return s_t, T_s


restored, T_s = algorithm_2(s_l, phi_r, phi_e, T, 0.5, run.generator(2, "cpu"))
assert torch.equal(restored, s_h), "with a φ_r and a φ_e that know S_h, Algorithm 2 must end at S_h"

# %% [markdown]
# An oracle must lead to S_h, from any S_l, at any T. (The cells use α = 0.5; the short loop above needs α > 0.) What if S_l was
# right everywhere? With our ≤ in line 6 T_s is then 0, no step is taken, and the answer is S_l itself.

# %% tags=["nbval-check-output"]
for name, start in (("S_l, 60 % broken", s_l), ("S_l = S_h", s_h),
                    ("every token wrong", (s_h + 1) % codes)):
    for steps in (1, 4, 8):
        answer, first = algorithm_2(start, phi_r, phi_e, steps, 0.5, run.generator(3, "cpu"))
        print(f"{name:18} T = {steps}   {'T_s = 0' if first == 0 else 'T_s > 0'}   "
              f"S_0 = S_h: {torch.equal(answer, s_h)}")

# %% [markdown]
# ### The module does the same, to the token
#
# An oracle forgives: almost any loop ends at S_h. So the comparison with `itersr.sampling.restore` uses two networks that are
# *not* right: convolutions with random weights, whose output hangs on every token they see. If our loop and the module's
# differed in one drawn number anywhere, the maps would part at that step and not meet again.

# %%
conv_r = torch.randn(codes, 2 * codes + 2, 3, 3, generator=g)
conv_e = torch.randn(1, 2 * codes, 3, 3, generator=g)


def one_hot(s):
    return torch.nn.functional.one_hot(s, codes).permute(2, 0, 1).float()


def noisy_r(s_t, m_t, s_l, m_s):
    seen = torch.cat([one_hot(s_t) * m_t, one_hot(s_l), m_t[None], m_s[None]])
    return torch.nn.functional.conv2d(seen[None], conv_r, padding=1)[0]


def noisy_e(s_t, s_l):
    seen = torch.cat([one_hot(s_t), one_hot(s_l)])
    return torch.nn.functional.logsigmoid(
        torch.nn.functional.conv2d(seen[None], conv_e, padding=1)[0, 0])


# %%
def module_restore(s_l, phi_r, phi_e, generator, **settings):
    """itersr.sampling.restore on one map: the same functions, with a batch axis."""
    propose = proposer(lambda s, m, sl, ms: phi_r(s[0], m[0], sl[0], ms[0])[None])
    judge = lambda s, sl: phi_e(s[0], sl[0])[None]
    return sampling.restore(s_l[None], Sampler(**settings), propose=propose, evaluator=judge,
                            generators=[generator])


same = 0
for trial, (steps, alpha) in enumerate(itertools.product((1, 2, 5, 8, 13), (0.05, 0.3, 0.5, 0.8))):
    ours, first = algorithm_2(s_l, noisy_r, noisy_e, steps, alpha, run.generator(10 + trial, "cpu"))
    module = module_restore(s_l, noisy_r, noisy_e, run.generator(10 + trial, "cpu"),
                            steps=steps, alpha=alpha)
    assert first == int(module.start) and torch.equal(ours, module.tokens[0]), (steps, alpha)
    same += 1
oracle = module_restore(s_l, phi_r, phi_e, run.generator(2, "cpu"), steps=T)
assert torch.equal(oracle.tokens[0], s_h)
print(f"{same} settings, each token map the same as the module's")

# %% [markdown]
# ## 2. Line by line
#
# ### 2a. m_s: which tokens of S_l are good
#
# φ_e answers a yes-or-no question for each token, so its output is a probability and α is a probability too: **keep what is
# good with at least the chance α**. A strict judge (α near 1) keeps little, a lenient one keeps much. The made-up evaluator
# here gives right tokens at least 0.4 and wrong ones at most 0.6. Between the two it makes mistakes at any α, as a trained one
# does.

# %%
doubt = torch.rand(h, w, generator=run.generator(4, "cpu"))
# right tokens mostly above 0.5, wrong ones mostly below
p_good = torch.where(s_l == s_h, 1 - 0.6 * doubt**2, 0.6 * doubt**2)

fig, axes = plt.subplots(1, 5, figsize=(8, 2.0), layout="constrained")
panels = [("S_l = S_h (not known)", (s_l == s_h).float()), ("p(good) by φ_e", p_good)]
panels += [(f"m_s at α = {alpha}", (p_good >= alpha).float()) for alpha in (0.3, 0.5, 0.8)]
for axis, (title, values) in zip(axes, panels):
    axis.imshow(values, vmin=0, vmax=1, cmap="viridis")
    axis.set_title(title, fontsize=8)
    axis.axis("off")
path = run.save_figure(fig, "threshold")


# %% [markdown]
# *What to see: yellow (1) is good, dark (0) is not. The threshold cuts the second picture at α; a higher α gives fewer yellow
# places. Where the third to fifth pictures and the first differ, the cut is wrong: a low α keeps tokens that φ_e itself finds
# improbable, a high one masks some that it finds probable. As long as kept tokens stay kept, a wrong token that is kept is an
# error that no step repairs; a right token that is masked costs only work.*
#
# ### 2b. T_s: where to start
#
# Line 6 of Algorithm 2. Having m_s with so many good tokens is like *being* at the time t at which the schedule keeps that
# many. At T nothing is kept, at 0 everything. So T_s is the smallest t that keeps no more tokens than are good. Because it is
# the smallest, the first step keeps more tokens than are good: it keeps all of m_s and adds at least one. By brute force: count
# them all.

# %%
def keep_by_hand(t, T, n, kind):
    """k = ⌈(1 − γ(t/T))·n⌉"""
    return math.ceil((1 - gamma(t / T, kind)) * n - 1e-9)


def start_by_hand(good, n, T, kind):
    return min(t for t in range(T + 1) if keep_by_hand(t, T, n, kind) <= good)


checked = 0
for kind in ("linear", "cosine", "square"):
    for steps in range(1, 17):
        for n in (1, 7, 16, 64):
            for good in range(n + 1):
                assert start_by_hand(good, n, steps, kind) == start_step(good, n, steps, kind)
                checked += 1
print(f"{checked} cases: the same T_s as the module's start_step")

# %% [markdown]
# (The 10⁻⁹ forgives floating point, in which 0.7·10 is a hair above 7 and would count as 8.)
#
# The table: T_s for a share of good tokens, N = 64. Read a row from left to right: the more tokens are judged good, the fewer
# steps are left.

# %% tags=["nbval-check-output"]
goods = [0, 6, 16, 32, 48, 60, 63, 64]
print("good tokens of 64 ", *(f"{good:4d}" for good in goods))
for kind in ("linear", "cosine", "square"):
    print(f"T_s, {kind:13}", *(f"{start_step(good, 64, 8, kind):4d}" for good in goods))

# %% [markdown]
# ### 2c. k: how many tokens each step keeps
#
# The step from t to t − 1 ends with k = ⌈(1 − γ((t − 1)/T))·N⌉ tokens kept. The last step (t = 1) keeps all. Under the cosine
# schedule the first steps keep few tokens, when φ_r knows little, and the last ones keep many; the linear one is even.

# %% tags=["nbval-check-output"]
print("step from t      ", *(f"{t:4d}" for t in range(8, 0, -1)))
for kind in ("linear", "cosine", "square", "sqrt"):
    kept = [tokens_to_keep(t - 1, 8, 64, kind) for t in range(8, 0, -1)]
    assert kept == [keep_by_hand(t - 1, 8, 64, kind) for t in range(8, 0, -1)]
    print(f"k, {kind:15}", *(f"{k:4d}" for k in kept))


# %% [markdown]
# ### 2d. Kept tokens keep their values
#
# φ_r predicts *every* place, the kept ones too. Tokens that are drawn later are drawn to fit the kept ones; a kept token that
# is drawn anew need not fit them. Hence `torch.where(m_t, s_t, draw(…))`. That a token is kept does not say that φ_e thinks it
# is good: k comes from the schedule, and the k that are drawn can all have a low p(good).
#
# The property to test, on networks that are wrong: from one step to the next no kept token changes.

# %% tags=["nbval-check-output"]
def changed_while_kept(result):
    """How many tokens changed in a step although they were kept before it."""
    tokens, keep = result.condition.clone(), result.condition_keep.clone()
    count = 0
    for step in result.steps:
        at = step.active  # the images of the batch that took part in this step
        count += int(((step.tokens != tokens[at]) & keep[at]).sum())
        tokens[at], keep[at] = step.tokens, step.keep
    return count


for resample in (False, True):
    result = module_restore(s_l, noisy_r, noisy_e, run.generator(5, "cpu"),
                            steps=T, resample=resample)
    count = changed_while_kept(result)
    print(f"resample={resample!s:5}   kept tokens that changed: {'none' if count == 0 else 'some'}")

# %% [markdown]
# `resample=True` is line 13 as printed, and what the authors' released sampler does (section 5). With it, a kept token may be
# replaced by one that φ_e never saw.
#
# ### 2e. Choosing k tokens by chance: Gumbel top-k
#
# The k best scores are one way to choose; it is greedy. Algorithm 2 *samples* instead: draw a token with chance proportional to
# p(good), put it aside, draw the next among the rest, and so on, k times. One by one that is slow. The trick: add independent
# Gumbel noise −log(−log u) to each log-probability and take the k largest. The result has exactly the same distribution.
#
# **Why?** Give token i a clock that rings after −log(u_i)/p_i: an exponential waiting time of rate p_i. Three facts are enough.
# (1) Clock i rings first with chance p_i/Σp. (2) Such clocks have no memory: after the first ring the others go on as if they
# had just been started, so that the next is drawn among the rest in the same way. The first k rings are k draws without
# replacement. (3) −log(−log(u)/p) = log p − log(−log u): the *earliest* ring is the *largest* sum of log-probability and Gumbel
# noise.

# %% tags=["nbval-check-output"]
rates = torch.tensor([0.9, 0.6, 0.3, 0.15, 0.05])
u = torch.rand(40_000, 5, generator=run.generator(11, "cpu"), dtype=torch.float64)
rings, gumbel = -u.log() / rates, rates.log() - (-u.log()).log()
first = torch.bincount(rings.argmin(1), minlength=5) / len(u)
assert torch.equal(rings.argsort(1), gumbel.argsort(1, descending=True))  # fact 3: one order
assert (first - rates / rates.sum()).abs().max() < 0.01  # fact 1
late = rings[rings[:, 0] > 1, 0] - 1  # fact 2: a clock that has not rung yet is as good as new
assert abs(late.mean() - rings[:, 0].mean()) < 0.03
print("the first ring, the order and the waiting afterwards are as they should be")

# %% [markdown]
# Now the claim itself. Five tokens, k = 2: all 20 ordered draws can be written down, which gives the exact
# chance of each token to be among the kept. Then 20,000 draws of each kind.

# %%
p = torch.tensor([0.9, 0.6, 0.3, 0.15, 0.05])
weights = p / p.sum()
exact = torch.zeros(5)
for i, j in itertools.permutations(range(5), 2):
    chance = weights[i] * weights[j] / (1 - weights[i])  # i first, then j among the rest
    exact[i] += chance
    exact[j] += chance

draws = 20_000
g = run.generator(6, "cpu")
one_by_one = torch.multinomial(p.expand(draws, 5), 2, replacement=False, generator=g)
one_by_one = torch.nn.functional.one_hot(one_by_one, 5).sum(1).float().mean(0)
score = p.log().expand(draws, 1, 5)
top_k = masking.keep_best(masking.sampled(score, torch.rand(draws, 1, 5, generator=g), 0.5),
                          2)[:, 0].float().mean(0)

spread = (exact * (1 - exact) / draws).sqrt()
assert (((top_k - exact).abs() < 5 * spread).all()
        and ((one_by_one - exact).abs() < 5 * spread).all())
assert abs(float(exact.sum()) - 2) < 1e-5

# %%
fig, axis = plt.subplots(figsize=(6, 2.6), layout="constrained")
x = torch.arange(5)
for offset, values, label, colour in ((-0.27, exact, "exact", "#444444"),
                                      (0, one_by_one, "one by one", "#2f6690"),
                                      (0.27, top_k, "Gumbel top-k", "#f4a259")):
    axis.bar(x + offset, values, 0.25, label=label, color=colour)
axis.set(xticks=x, xticklabels=[f"p = {v:.2f}" for v in p], ylabel="chance to be kept")
axis.legend(fontsize=8)
path = run.save_figure(fig, "gumbel")

# %% [markdown]
# *What to see: for every token the three bars are equally high. A token with p = 0.05 is kept now and then: the sampling gives
# every token its chance, and this is why evaluator masks do not grow from one corner (notebook
# [07](07_topk_vs_evaluator.ipynb)).*
#
# ### 2f. May a kept token be masked again?
#
# By line 14 as printed, m_{t−1} is drawn anew among *all* tokens: one that was kept competes again and may lose its place
# (`remask=True`). The released sampler never takes a token back (`remask=False`, the module's default). Look at both on a
# made-up map, where φ_e likes the left side better.

# %%
side = 16
slope = torch.linspace(0.95, 0.05, side).log().expand(side, side)
truth = torch.randint(codes, (side, side), generator=run.generator(7, "cpu"))
sure = lambda s, m, sl, ms: 50.0 * torch.nn.functional.one_hot(truth, codes).permute(2, 0, 1)
both = {remask: module_restore((truth + 1) % codes, sure, lambda s, sl: slope,
                               run.generator(8, "cpu"), steps=6, alpha=1.0, remask=remask)
        for remask in (False, True)}

# %%
colours = ListedColormap([widgets.MASKED, widgets.KEPT, widgets.NEW, "#c1121f"])
fig, axes = plt.subplots(2, 6, figsize=(8, 2.9), layout="constrained")
lost = {}
for row, (remask, result) in zip(axes, both.items()):
    before, lost[remask] = result.condition_keep[0], 0
    for axis, step in zip(row, result.steps):
        now = step.keep[0]
        state = now.long() + (now & ~before) + 3 * (before & ~now)
        lost[remask] += int((before & ~now).sum())
        axis.imshow(state, cmap=colours, vmin=0, vmax=3)
        axis.set_title(f"t = {step.t}: k = {int(now.sum())}", fontsize=8)
        axis.set(xticks=[], yticks=[])
        before = now
    row[0].set_ylabel(f"remask={remask}", fontsize=8)
path = run.save_figure(fig, "remask")
assert lost[False] == 0 < lost[True]

# %% [markdown]
# *What to see: grey is masked, blue kept, orange newly kept, red taken back. Top row: no red; masks only grow, and faster on
# the left. Bottom row: tokens come and go. Re-masking can undo a mistake, and it also gives up good tokens by bad luck; which
# weighs more has to be measured on trained networks ([08](08_alpha_curves.ipynb), "The other dials").*
#
# ## 3. One photo, step by step
#
# Now the trained networks: those that ship with the package. (A tier that does not ship is taken from the earlier notebooks of
# this run, and trained where they left nothing.)

# %%
model = model_to_measure(run.tier, run.data, run.checkpoints, seed=run.seed, device=str(run.device))
print(f"tier {model.tier.name}: {model.tier.vqgan.codes} codes, a token covers "
      f"{model.tier.vqgan.factor}×{model.tier.vqgan.factor} pixels, ×{model.tier.scale}; "
      f"φ_e's logit is shifted by {model.calibration:+.2f}")

# %% [markdown]
# The shift makes φ_e's mean probability equal the share of good tokens on held-out photos ([05](05_evaluator.ipynb), section
# 7). `model.functions` and `model.restore` apply it, so every p(good) and every α below refers to the shifted φ_e.
#
# **Temperature**: φ_r's logits are divided by it before a token is drawn. Below 1, likely tokens are drawn more often; 0 takes
# the likeliest. The paper names none. Here it is that of the tier, and 1 in section 5.
#
# Three photos that no tier trains on, made worse as in notebook [01](01_degradation.ipynb): 192 × 192 pixels each, and LQ a
# quarter of the side.

# %%
pairs = widgets.example_pairs(model, side=192, seed=run.seed)
names = list(pairs)
lq, hq = (torch.stack(each).to(run.device) for each in zip(*pairs.values()))
# the truth, for the comparisons below only
s_h = torch.cat([model.vqgan.encode(one[None]) for one in hq])


def alg2(**settings):
    """T = 8 and α = 0.5 as in the paper, which gives no temperature; 1 is plain sampling."""
    return model.sampler("paper", **{"temperature": 0.85, **settings})


trace = model.restore(lq, alg2(), seed=run.seed)
print("T_s:", dict(zip(names, trace.start.tolist())))


# %%
@torch.no_grad()
def judge_start(one):
    """φ_e's log p(good) for the tokens of S_l of one photo, before any step."""
    evidence = model.log_posterior(model.pad(one))
    s_l = evidence.argmax(1)
    return model.functions(evidence)[1](s_l, s_l)


def show_state(axes, trace, i, score):
    """The complete map after step i, decoded; its mask; p(good) where there was a choice."""
    axes[0].imshow(trace.at(i)[0].permute(1, 2, 0).cpu())
    axes[1].imshow(widgets.mask_states(trace, i), vmin=0, vmax=2,
                   cmap=ListedColormap([widgets.MASKED, widgets.KEPT, widgets.NEW]))
    if score is None:
        axes[2].text(0.5, 0.5, "all are kept:\nno judging", ha="center", va="center", fontsize=8,
                     transform=axes[2].transAxes)
        axes[2].set_box_aspect(1)
    else:
        axes[2].imshow(score[0].exp().cpu(), vmin=0, vmax=1, cmap="viridis")


# %%
def trajectory(index, columns=5):
    """The restoration of one photo of the batch, at some of its steps."""
    one = lq[index : index + 1]
    alone = model.restore(one, alg2(), seed=run.seed + index)
    steps = alone.restored.steps
    shown = sorted({round(i * len(steps) / (columns - 1)) for i in range(columns)})
    fig, axes = plt.subplots(3, len(shown), figsize=(1.6 * len(shown), 4.9),
                             layout="constrained", squeeze=False)
    for i, column in zip(shown, axes.T):
        show_state(column, alone, i, steps[i - 1].score if i else judge_start(one))
        title = f"step {i}, t = {steps[i - 1].t}" if i else f"S_l, T_s = {len(steps)}"
        column[0].set_title(title, fontsize=9)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    for row, label in zip(axes, ("complete map, decoded", "kept", "p(good)")):
        row[0].set_ylabel(label, fontsize=8)
    fig.colorbar(axes[2, 0].images[0], ax=axes[2])
    return fig


deepest = int(trace.start.argmax())  # the photo with the most steps has most to show
path = run.save_figure(trajectory(deepest), "trajectory")

# %% [markdown]
# *What to see, for the photo with the most steps, from left to right. Top row: S_l decoded is smooth; then texture comes in.
# Each picture is the complete map: kept tokens, and φ_r's latest guess at the masked places. Middle row: blue was kept before,
# orange is new in this step, grey is still masked; the first picture is m_s. Bottom row: φ_e's probability for every token of
# the complete map, dark 0, bright 1. m_s is grey where the first p(good) is below α. T_s = T does not mean that m_s is empty:
# it may have a few tokens, too few for a smaller T_s. p(good) may stay low to the end: "good" means "equals S_h", and several
# codes can look alike. So a low value does not mean a bad picture. How many tokens are kept is decided by the schedule, not by
# φ_e.*
#
# The photo with the fewest steps:

# %%
taken = trace.start.clone()
taken[taken == 0] = 99  # without a step there is nothing to see
shortest = int(taken.argmin())
path = run.save_figure(trajectory(shortest), "short_trajectory")

# %% [markdown]
# *The same rows and colours. The more tokens of S_l pass α, the smaller T_s, and the fewer steps are run.*
#
# The trace obeys the properties of section 2, now on trained networks and on real photos:

# %% tags=["nbval-check-output"]
n = s_h[0].numel()
ok = {
    "kept tokens keep their values": changed_while_kept(trace.restored) == 0,
    "masks only grow": True,
    "k follows the schedule": True,
}
keep = trace.restored.condition_keep.clone()
for step in trace.restored.steps:
    ok["masks only grow"] &= bool((step.keep >= keep[step.active]).all())
    ok["k follows the schedule"] &= bool(
        (step.keep.sum((1, 2)) == tokens_to_keep(step.t - 1, 8, n)).all())
    keep[step.active] = step.keep
ok["the last step keeps all"] = bool(keep.all())
assert all(ok.values()), ok
print(*ok, sep="\n")

# %% [markdown]
# ### A batch is its singles
#
# Each image has its own T_s, its own k and its own random numbers, so that it does not matter with which others it is restored.
# Image i of a batch has the seed `seed + i`. Not "nearly equal": the same bits.

# %% tags=["nbval-check-output"]
for i in range(len(names)):
    alone = model.restore(lq[i : i + 1], alg2(), seed=run.seed + i)
    assert (torch.equal(alone.restored.tokens[0], trace.restored.tokens[i])
            and torch.equal(alone.image[0], trace.image[i]))
print(f"{len(names)} photos: tokens and pixels are the same, in a batch and alone")

# %% [markdown]
# ## 4. The adaptive start
#
# What α does: it moves m_s, m_s moves T_s. One call of φ_e for each photo gives p(good) on S_l; T_s for every α follows by
# counting.

# %%
alphas = [i / 40 for i in range(41)]
starts, shares = {}, {}
for i, name in enumerate(names):
    log_p = judge_start(lq[i : i + 1])
    counts = [int((log_p >= math.log(max(alpha, 1e-30))).sum()) if alpha < 1 else 0
              for alpha in alphas]
    shares[name] = [count / n for count in counts]
    starts[name] = [start_step(count, n, 8) for count in counts]

fig, axes = plt.subplots(1, 2, figsize=(8, 2.8), layout="constrained")
for name in names:
    axes[0].plot(alphas, shares[name], label=name)
    axes[1].step(alphas, starts[name], where="mid", label=name)
axes[0].set(xlabel="α", ylabel="share of S_l judged good")
axes[1].set(xlabel="α", ylabel="T_s (T = 8)", ylim=(-0.3, 8.3))
axes[1].legend(fontsize=8)
path = run.save_figure(fig, "start")

for name in names:
    assert starts[name] == sorted(starts[name]) and starts[name][0] == 0 and starts[name][-1] == 8
assert [starts[name][20] for name in names] == trace.start.tolist()  # α = 0.5, as restored above

# %% [markdown]
# *What to see: at α = 0 everything is good and T_s = 0 (the answer is S_l); at α = 1 nothing is and T_s = T. Between, each
# photo has its own curve: one whose S_l φ_e trusts more needs fewer steps. Both curves can only go one way, which the cell
# asserts. Colours as in the right panel; where curves coincide, only the last that was drawn is seen.*
#
# What do the steps buy? Restore all three photos at some α, with and without re-masking, and compare with the HQ photos. (Three
# photos are no evidence; notebook [08](08_alpha_curves.ipynb) measures this properly, with intervals.)

# %%
quality = [name for name in ("psnr", "ssim", "lpips") if metrics.available(name)]
print("computed here:", "; ".join(metrics.describe(name) for name in quality))


def mean_quality(images):
    return {name: float(metrics.score(name, images.cpu(), hq.cpu()).mean()) for name in quality}


rows = {}
for alpha in (0.0, 0.3, 0.5, 0.7, 1.0):
    result = model.restore(lq, alg2(alpha=alpha), seed=run.seed)
    rows[f"α = {alpha}"] = {"T_s": float(result.start.float().mean()), **mean_quality(result.image)}
again = model.restore(lq, alg2(remask=True), seed=run.seed)
rows["α = 0.5, remask"] = {"T_s": float(again.start.float().mean()), **mean_quality(again.image)}
rows["S_h decoded"] = {"T_s": 0.0, **mean_quality(model.vqgan.decode(s_h).clamp(0, 1))}
print(f"{'':16}" + "".join(f"{name:>8}" for name in rows["α = 0.5"]))
for name, row in rows.items():
    print(f"{name:16}" + "".join(f"{value:8.3f}" for value in row.values()))

# %%
base, half = rows["α = 0.0"], rows["α = 0.5"]
words = (f"On these photos with `{model.tier.name}`, going from S_l (α = 0, no step) to α = 0.5 "
         f"({half['T_s']:.1f} steps on average) moves PSNR by ")
words += f"**{half['psnr'] - base['psnr']:+.2f} dB**"
if "lpips" in half:
    words += f" and LPIPS by **{half['lpips'] - base['lpips']:+.3f}** (lower is better)"
words += (f". Even the true tokens S_h give only {rows['S_h decoded']['psnr']:.2f} dB: "
          "that is the limit of this VQGAN.")
display(Markdown(words))

# %%
psnrs = [row["psnr"] for name, row in rows.items() if name.startswith("α") and "remask" not in name]
falls = "falls" if psnrs == sorted(psnrs, reverse=True) else "does not fall"
above = psnrs[1:]  # α above 0: some tokens are drawn anew
display(Markdown(
    "PSNR rewards the average of all plausible pictures, LPIPS a plausible one; so the paper "
    "expects PSNR to fall and LPIPS to improve as α grows, up to a point. In this table PSNR "
    f"{falls} from each α to the next. Between the α above 0 it differs by up to "
    f"{max(above) - min(above):.2f} dB. Three photos and one seed cannot say which of these α "
    "is the best; notebook [08](08_alpha_curves.ipynb) measures more photos, with intervals."))

# %% [markdown]
# ## 5. The released sampler is another one
#
# The printed listing, this module and the authors' released code differ. `itersr.sampling.RELEASED` holds the code's choices in
# one line, so that all can be run and compared. Read the table before you compare your numbers with somebody else's.

# %% tags=["nbval-check-output"]
meaning = {
    "alpha": "threshold for good tokens of S_l",
    "schedule": "γ at inference",
    "printed_start": "line 6 with <",
    "resample": "line 13: kept tokens get new values",
    "remask": "line 14: kept tokens compete again",
    "skip_last": "one step fewer than T_s",
}
printed = Sampler(printed_start=True, resample=True, remask=True)
print(f"{'setting':14}{'printed':>8}{'module':>8}{'released':>10}   meaning")
for field, says in meaning.items():
    values = [getattr(sampler, field) for sampler in (printed, Sampler(), RELEASED)]
    print(f"{field:14}{values[0]!s:>8}{values[1]!s:>8}{values[2]!s:>10}   {says}")

# %%
samplers = {
    "module: kept stay kept": Sampler(),
    "line 6 as printed": Sampler(printed_start=True),
    "line 13 as printed": Sampler(resample=True),
    "line 14 as printed": Sampler(remask=True),
    "all three as printed": printed,
    "released": RELEASED,
}
print(f"{'':24}{'mean T_s':>10}{'calls of φ_r':>14}{'changed while kept':>20}"
      + "".join(f"{name:>8}" for name in quality))
compared = {}
for name, sampler in samplers.items():
    result = model.restore(lq, sampler, seed=run.seed)
    own = compared[name] = {"T_s": float(result.start.float().mean()),
                            "calls": sum(len(step.active) for step in result.restored.steps),
                            "changed": changed_while_kept(result.restored),
                            **mean_quality(result.image)}
    print(f"{name:24}{own['T_s']:10.2f}{own['calls']:14d}{own['changed']:20d}"
          + "".join(f"{own[key]:8.3f}" for key in quality))
assert compared["module: kept stay kept"]["changed"] == 0

# %%
module_T, released_T = (compared[name]["T_s"] for name in ("module: kept stay kept", "released"))
happens = "does not happen" if compared["line 6 as printed"]["T_s"] == module_T else "happens"
display(Markdown(
    "These rows use temperature 1, plain sampling; section 4 used "
    f"{alg2().temperature:g}. So the same settings give other numbers there. "
    "Line 6 with < starts one step earlier where the good tokens are just as many as the "
    f"schedule keeps; that {happens} on these photos. "
    f"The released sampler leaves out one step. Its α of {RELEASED.alpha:g} and its "
    f"{RELEASED.schedule} γ also change the start: T_s is {released_T:.1f} on average, and "
    f"{module_T:.1f} with the module's settings. The released settings were made for a φ_e that "
    "was trained on balanced classes, and this one was not ([05](05_evaluator.ipynb), section "
    "10c). So the row *released* does not judge the authors' model."))

# %% [markdown]
# Without its last step the released sampler never reaches k = N, and it does not need to: it resamples every place in every
# step, the kept ones too, so that its last proposal is the answer as it is.
#
# ## 6. The panel
#
# `itersr.lab.widgets.restoration_view` draws one restoration after any of its steps: a pure function of the photo and the
# settings. First as a still picture:

# %%
photo, reference = pairs[names[shortest]]
fig = widgets.restoration_view(model, photo, alpha=0.5, steps=8, policy="evaluator",
                               temperature=0.85, seed=run.seed, step=1, reference=reference)
path = run.save_figure(fig, "panel")
display(fig)

# %% [markdown]
# *What to see. Top row: LQ, S_l, S_t after the chosen step, the result. Bottom row: what is kept (blue before, orange new in
# this step, grey still masked), the score by which it was chosen, the HQ photo, and the metrics of S_l, of this step and of the
# result.*
#
# With a running kernel, the same with controls. It opens before the first step, with m_s and φ_e's judgement of S_l; the step
# slider ends at T_s. Try: α from 0 to 1 and watch T_s; `topk` in place of `evaluator`, and watch the orange places step by
# step; a lower temperature; another seed.

# %%
panel = widgets.restoration_panel(model, pairs)
panel


# %% [markdown]
# ## What you learned
#
# - Algorithm 2 is ten lines, and the networks are arguments: with two oracles it must return S_h, whatever the schedule.
# - α is a probability: it decides m_s, m_s decides T_s, each photo has its own.
# - A kept token keeps its value. Sampling k tokens without replacement is Gumbel noise plus top-k.
# - Where to start, resampling, re-masking and the last step: the printed listing, this module and the released code differ in
#   them. Name them when you compare.
# - A batch equals its singles to the bit, because nothing is shared between images but the weights.
#
# ## Check yourself
#
# <details><summary>1. What is m_s, and what happens if it is all True?</summary>
#
# The tokens of S_l that φ_e finds good. If all are, T_s = 0 with ≤ in line 6: no step is run and the answer is S_l. With the
# printed < one step is run; where kept tokens keep their values, the answer is the same.
#
# </details>
#
# <details><summary>2. Why add Gumbel noise to log-scores and keep the k largest?</summary>
#
# That draws k places without replacement, each next one with probability proportional to its score among those left, without a
# loop.
#
# </details>
#
# <details><summary>3. α = 0 and α = 1: which pictures do they give?</summary>
#
# α = 0 gives S_l. α = 1 trusts nothing: a start from scratch with T steps.
#
# </details>
#
# <details><summary>4. How many tokens are kept after the step at t?</summary>
#
# ⌈(1 − γ((t − 1)/T)) · N⌉, the same for every policy, a rule that chooses which tokens to keep
# ([07](07_topk_vs_evaluator.ipynb)): only which ones differs.
#
# </details>
#
# ## Exercises
#
# **1.** A photo costs one call of E_l, one of φ_e on S_l, and then φ_r once a step and φ_e once a step, except in the last
# step, where nothing has to be judged. Write the number of calls of φ_r and φ_e for given T_s.

# %% tags=["exercise"]
def calls(T_s: int) -> int:
    """Calls of φ_r and φ_e together, for a photo that starts at T_s (0: S_l is the answer)."""
    raise NotImplementedError


# %% jupyter={"source_hidden": true} tags=["solution"]
def calls(T_s: int) -> int:
    """Calls of φ_r and φ_e together, for a photo that starts at T_s (0: S_l is the answer)."""
    return 1 + 2 * T_s - 1 if T_s else 1


# %% tags=["check"]
assert calls(0) == 1
counted = []
counting_r = lambda *seen: counted.append("φ_r") or noisy_r(*seen)
counting_e = lambda *seen: counted.append("φ_e") or noisy_e(*seen)
for steps in (1, 3, 8):
    for alpha in (0.0, 0.2, 0.6, 0.99):
        counted.clear()
        result = module_restore(torch.zeros(8, 8, dtype=torch.long), counting_r, counting_e,
                                torch.Generator(), steps=steps, alpha=alpha)
        T_s = int(result.start)
        assert calls(T_s) == len(counted), f"calls({T_s}) gave {calls(T_s)}, needed {len(counted)}"


# %% [markdown]
# **2.** Without the adaptive start every photo runs all T steps. Write the share of steps that the adaptive start saves over a
# set of photos, given T_s of each and T.

# %% tags=["exercise"]
def saved(T_s: list[int], T: int) -> float:
    """The share of the steps, from 0 to 1, that starting at T_s saves against starting at T."""
    raise NotImplementedError


# %% jupyter={"source_hidden": true} tags=["solution"]
def saved(T_s: list[int], T: int) -> float:
    """The share of the steps, from 0 to 1, that starting at T_s saves against starting at T."""
    return 1 - sum(T_s) / (T * len(T_s))


# %% tags=["check"]
assert saved([8, 8], 8) == 0 and saved([0], 4) == 1
assert abs(saved([2, 4, 6], 8) - 0.5) < 1e-9
full = model.restore(lq, alg2(adaptive=False), seed=0)
taken = (sum(len(step.active) for step in trace.restored.steps)
         / sum(len(step.active) for step in full.restored.steps))
assert abs(saved(trace.start.tolist(), 8) - (1 - taken)) < 1e-9


# %% [markdown]
# **3.** A policy is a function that turns a score into a merit, and the k tokens of most merit are kept. Write one that keeps
# tokens at random *among those with p(good) ≥ 0.5 first*, and only then among the others. (score is log p(good), noise is
# uniform in (0, 1).)

# %% tags=["exercise"]
def good_first(score: torch.Tensor, noise: torch.Tensor, time: float) -> torch.Tensor:
    ("Merit (B, h, w): every token with p(good) ≥ 0.5 before every other one, "
     "in random order within the two groups.")
    raise NotImplementedError


# %% jupyter={"source_hidden": true} tags=["solution"]
def good_first(score: torch.Tensor, noise: torch.Tensor, time: float) -> torch.Tensor:
    ("Merit (B, h, w): every token with p(good) ≥ 0.5 before every other one, "
     "in random order within the two groups.")
    return noise + (score >= math.log(0.5)).float()


# %% tags=["check"]
assert good_first(torch.tensor([[[-0.1, -2.0]]]), torch.tensor([[[0.1, 0.9]]]), 0.5).argmax() == 0
g = torch.Generator().manual_seed(0)
chance = torch.rand(4, 8, 8, generator=g)
noise = torch.rand(4, 8, 8, generator=g)
merit = good_first(chance.log(), noise, 0.5)
good = chance >= 0.5
for k in (1, 10, 64):
    keep = masking.keep_best(merit, k)
    assert (keep.sum((1, 2)) == k).all()
    assert ((keep & good).sum((1, 2)) == good.sum((1, 2)).clamp(max=k)).all(), (
        "good tokens come first")
other = masking.keep_best(good_first(chance.log(), torch.rand(4, 8, 8, generator=g), 0.5), 10)
assert not torch.equal(other, masking.keep_best(merit, 10)), "other noise must give another mask"


# %% [markdown]
# **4.** T_s without a search. For the cosine schedule 1 − γ(t/T) = 1 − cos(π/2·(1 − t/T)) can be solved for t. Write T_s in
# closed form. Hint: the number of good tokens is whole, so ⌈x⌉ ≤ good exactly when x ≤ good. Solve for t, then round up;
# subtract 10⁻⁹ before you round.

# %% tags=["exercise"]
def start_cosine(good: int, n: int, T: int) -> int:
    """T_s under the cosine schedule, without a loop over t."""
    raise NotImplementedError


# %% jupyter={"source_hidden": true} tags=["solution"]
def start_cosine(good: int, n: int, T: int) -> int:
    """T_s under the cosine schedule, without a loop over t."""
    # ⌈(1 − γ)·n⌉ ≤ good  ⇔  γ ≥ 1 − good/n  ⇔  t ≥ T·(1 − 2/π·arccos(1 − good/n))
    return math.ceil(T * (1 - 2 / math.pi * math.acos(1 - good / n)) - 1e-9)


# %% tags=["check"]
assert start_cosine(64, 64, 8) == 0 and start_cosine(0, 64, 8) == 8
for steps in (1, 3, 8, 16):
    for good in range(65):
        found, needed = start_cosine(good, 64, steps), start_step(good, 64, steps)
        assert found == needed, f"start_cosine({good}, 64, {steps}) gave {found}, needed {needed}"

# %%
path = run.record(
    measured=f"T_s {min(trace.start.tolist())} to {max(trace.start.tolist())} of 8 at α = 0.5; "
             f"PSNR {half['psnr'] - base['psnr']:+.2f} dB over S_l",
    start=dict(zip(names, trace.start.tolist())),
    good_share={name: shares[name][20] for name in names},
    alpha_rows=rows, samplers=compared,
    inclusion={"exact": exact, "one_by_one": one_by_one, "top_k": top_k},
    settings_equal_to_module=same, saved=1 - float(trace.start.float().mean()) / 8,
)

# %% [markdown]
# **Next:** [07 · Top-k or evaluator](07_topk_vs_evaluator.ipynb): who should choose the tokens to keep?
