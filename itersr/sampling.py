"""Algorithm 2: from S_l to the final tokens, by proposing, judging, masking and proposing again.

`step` is one pure step; `restore` is the loop with its adaptive start. The networks are given as functions:

    refiner(tokens, keep, condition, condition_keep) -> logits (B, codes, h, w)
    evaluator(tokens, condition) -> log-probability that each token is good, (B, h, w)

Every image of a batch has its own T_s, its own k and its own random numbers: a batch gives what its images give alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from itersr import masking
from itersr.config import GammaKind
from itersr.schedule import start_step, tokens_to_keep

RefinerFn = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
EvaluatorFn = Callable[[Tensor, Tensor], Tensor]
# (tokens, keep, condition, condition_keep, noise, temperature, given) -> sampled tokens and their log-probabilities;
# given: see `categorical`
ProposeFn = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, float, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Sampler:
    """The settings of Alg. 2; the paper's are T = 8, evaluator masks and α = 0.5. ValueError names a wrong one."""

    steps: int = 8  # T
    alpha: float = 0.5  # α: a token of S_l is good when φ_e says so with at least this probability
    policy: str = "evaluator"  # a name in masking.POLICIES
    schedule: GammaKind = "cosine"
    temperature: float = 1.0  # of φ_r's samples; 0 takes its argmax
    adaptive: bool = True  # start at T_s from the good tokens of S_l; False: at T, from nothing
    remask: bool = False  # True: kept tokens compete for their place again, as line 14 of Alg. 2 is printed
    resample: bool = False  # True: kept tokens get new values at every step, as in the released sampler
    printed_start: bool = False  # True: T_s by line 6 as it is printed, see `schedule.start_step`
    skip_last: bool = False  # True: one step fewer than T_s, as in the released sampler

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps = {self.steps}: T must be at least 1")
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha = {self.alpha}: must be a probability, from 0 to 1")
        if not self.temperature >= 0:
            raise ValueError(f"temperature = {self.temperature}: must be 0 or more")
        if self.policy not in masking.POLICIES:
            raise ValueError(f"policy {self.policy!r}: there are {', '.join(masking.POLICIES)}")
        tokens_to_keep(0, 1, 1, self.schedule)  # an unknown schedule names those that exist


# The released sampler differs from Alg. 2 in this, and in nothing else that can be chosen:
#
#                     "paper" (Alg. 2)                              "released"
#   γ                 the one that training used: cosine            linear
#   steps             T_s                                           one fewer: the step that would keep all tokens is left
#                                                                   out, and at T_s ≤ 1 the answer is S_l
#   kept tokens       keep their values                             are sampled again at every step
#   re-masking        `remask`, off by default (both are shown)     never
#   α                 0.5                                           0.7, since its φ_e was trained on balanced classes
#
# (In it the images of a batch also share one T_s.)
RELEASED = Sampler(alpha=0.7, schedule="linear", remask=False, resample=True, skip_last=True)
PRESETS = {"paper": Sampler(), "released": RELEASED}
"""Beside them `ITER.sampler` has the preset "tier": the settings that are best for its weights."""


@dataclass(frozen=True)
class Step:
    """What one step did to the images that took part in it."""

    t: int
    active: Tensor  # (b,) places in the batch of the images that took part
    tokens: Tensor  # the complete map: kept tokens and new proposals, (b, h, w)
    keep: Tensor  # m_{t−1}: what the next step keeps, (b, h, w)
    score: Tensor | None  # log-score by which the policy chose, (b, h, w); None where nothing had to be chosen


@dataclass(frozen=True)
class Restored:
    """The result of Alg. 2 and how it came about."""

    tokens: Tensor  # S_0, (B, h, w)
    start: Tensor  # T_s of each image, (B,)
    condition: Tensor  # S_l
    condition_keep: Tensor  # m_s: the tokens of S_l judged good; all False without an adaptive start
    steps: tuple[Step, ...]  # empty when they were not to be kept


def categorical(logits: Tensor, noise: Tensor, temperature: float = 1.0,
                given: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """One token per place from logits (B, codes, h, w): the cumulative distribution inverted at `noise` (B, h, w) in [0, 1).

    Each place needs one uniform number, so it draws the same token in a whole picture and in a tile of it.
    Returns ids (B, h, w) and their log-probabilities at temperature 1; temperature 0 takes the argmax.
    given: ids (B, h, w) to return in place of drawn ones, with their own log-probabilities; −1 where there is none.
    """
    log_p = logits.float().permute(0, 2, 3, 1).log_softmax(-1)  # codes last, as they lie in memory: six times as fast
    if temperature == 0:
        tokens = log_p.argmax(-1)
    else:
        cumulative = (log_p / temperature).softmax(-1).cumsum(-1)
        u = noise[..., None].to(cumulative) * cumulative[..., -1:]  # the sum can miss 1 by a rounding
        tokens = (cumulative <= u).sum(-1).clamp(max=logits.shape[1] - 1)
    if given is not None:
        tokens = torch.where(given < 0, tokens, given)
    return tokens, log_p.gather(-1, tokens[..., None]).squeeze(-1)


def proposer(refiner: RefinerFn) -> ProposeFn:
    """φ_r as a function that proposes tokens: samples of its logits."""
    def propose(tokens: Tensor, keep: Tensor, condition: Tensor, condition_keep: Tensor, noise: Tensor,
                temperature: float, given: Tensor) -> tuple[Tensor, Tensor]:
        return categorical(refiner(tokens, keep, condition, condition_keep), noise, temperature, given)

    return propose


def good_tokens(log_good: Tensor, alpha: float) -> Tensor:
    """m_s (Eq. 6): True where φ_e finds a token of S_l good with probability α or more; nowhere for α = 1.

    log_good: φ_e's log-probabilities, (B, h, w).
    """
    if alpha >= 1:
        return torch.zeros_like(log_good, dtype=torch.bool)
    return log_good >= (math.log(alpha) if alpha > 0 else -math.inf)


def step(tokens: Tensor, keep: Tensor, condition: Tensor, condition_keep: Tensor, t: int, sampler: Sampler, *,
         propose: ProposeFn, evaluator: EvaluatorFn, noise: Sequence[Tensor]) -> Step:
    """One step of Alg. 2: from S_t and m_t to S_{t−1} and m_{t−1}.

    tokens, keep: S_t and m_t; condition, condition_keep: S_l and m_s; all (B, h, w).
    noise: two maps (B, h, w) of uniform numbers, for φ_r's samples and for the mask.
    """
    given = tokens.masked_fill(~keep | sampler.resample, -1)  # a kept token is known: it keeps its value
    proposal, confidence = propose(tokens, keep, condition, condition_keep, noise[0], sampler.temperature, given)

    n = tokens[0].numel()
    k = tokens_to_keep(t - 1, sampler.steps, n, sampler.schedule)
    images = torch.arange(len(tokens))
    if k == n:  # the last step keeps everything: nothing to judge
        return Step(t, images, proposal, torch.ones_like(keep), None)

    scored, policy = masking.POLICIES[sampler.policy]
    score = evaluator(proposal, condition) if scored == "evaluator" else confidence
    merit = policy(score, noise[1], (t - 1) / sampler.steps)
    if not sampler.remask:
        merit = merit.masked_fill(keep, math.inf)  # what is kept stays kept
    return Step(t, images, proposal, masking.keep_best(merit, k), score)


def restore(condition: Tensor, sampler: Sampler, *, propose: ProposeFn, evaluator: EvaluatorFn,
            generators: Sequence[torch.Generator], keep_steps: bool = True) -> Restored:
    """Algorithm 2 with Eq. 6 and 7: refine S_l = `condition` (B, h, w), each image alone, with a random generator of its own.

    S_l is judged, which gives T_s (lines 1–6); then t runs from T_s down to 1. An image whose tokens are all good is answered
    by S_l itself. keep_steps=False keeps no maps of the steps (`Restored.steps` is then empty). ValueError where there are more
    or fewer generators than images.
    """
    if len(generators) != len(condition):
        raise ValueError(f"{len(generators)} generators for {len(condition)} images: each image needs its own")
    if len(condition) != 1:
        return merge([restore(image, sampler, propose=propose, evaluator=evaluator, generators=[own], keep_steps=keep_steps)
                      for image, own in zip(condition.split(1), generators, strict=True)])
    good = torch.zeros_like(condition, dtype=torch.bool)
    if sampler.adaptive and sampler.alpha < 1:
        good = good_tokens(evaluator(condition, condition), sampler.alpha)
    start = start_step(int(good.sum()), good.numel(), sampler.steps, sampler.schedule, printed=sampler.printed_start)

    tokens, keep = condition, good  # Eq. 7: m_t = m_s, and S_t is S_l there and masked elsewhere
    steps: list[Step] = []
    for t in range(start, 1 if sampler.skip_last else 0, -1):
        # drawn on the CPU, so that every device sees the same numbers
        noise = [torch.rand(condition.shape, generator=generators[0]).to(condition.device) for _ in range(2)]
        done = step(tokens, keep, condition, good, t, sampler, propose=propose, evaluator=evaluator, noise=noise)
        tokens, keep = done.tokens, done.keep
        if keep_steps:
            steps.append(done)
    return Restored(tokens, torch.tensor([start]), condition, good, tuple(steps))


def merge(results: Sequence[Restored]) -> Restored:
    """The results of single images as that of a batch: step by step from the largest T_s down."""
    steps: list[Step] = []
    for t in sorted({step.t for result in results for step in result.steps}, reverse=True):
        own = [(i, step) for i, result in enumerate(results) for step in result.steps if step.t == t]
        scores = [step.score for _, step in own if step.score is not None]
        steps.append(Step(t, torch.tensor([i for i, _ in own]), torch.cat([step.tokens for _, step in own]),
                          torch.cat([step.keep for _, step in own]), torch.cat(scores) if scores else None))
    return Restored(torch.cat([r.tokens for r in results]), torch.cat([r.start for r in results]),
                    torch.cat([r.condition for r in results]), torch.cat([r.condition_keep for r in results]), tuple(steps))
