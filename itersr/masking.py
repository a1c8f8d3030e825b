"""Which tokens to keep: one small function for each policy that the paper compares, and the controls it does not.

A policy turns the score of each token (higher is better), uniform noise in (0, 1) and the share of time left into a
*merit*; `keep_best` then keeps the k tokens of most merit. All functions are pure: the same inputs give the same mask.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

Policy = Callable[[Tensor, Tensor, float], Tensor]  # (score, noise, time) -> merit, all maps (B, h, w)


def keep_best(merit: Tensor, k: Tensor | int) -> Tensor:
    """A mask (B, h, w) with exactly k (or k[b]) True: the places of most merit. Ties go to the first in reading order."""
    flat = merit.flatten(1)
    order = flat.sort(dim=1, descending=True, stable=True).indices
    places = torch.arange(flat.shape[1], device=merit.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(1, order, places)
    ks = torch.as_tensor(k, device=merit.device).reshape(-1, 1)
    return (rank < ks).view_as(merit)


def random_mask(n_masked: Tensor | int, noise: Tensor) -> Tensor:
    """m_t of Alg. 1 (RandomMask): exactly n_masked (or n_masked[b]) places of (B, h, w) are False, uniformly at random."""
    return ~keep_best(noise, n_masked)


def gumbel(noise: Tensor) -> Tensor:
    """Standard Gumbel noise from uniform noise in (0, 1)."""
    return -torch.log(-torch.log(noise.double().clamp(1e-12, 1 - 1e-12)))


def sampled(score: Tensor, noise: Tensor, time: float) -> Tensor:
    """ITER's mask (Alg. 2): tokens drawn without replacement with probability ∝ exp(score).

    With score = log φ_e a token is kept as often as φ_e finds it good. Gumbel noise plus `keep_best` is that draw.
    """
    return score.double() + gumbel(noise)


def greedy(score: Tensor, noise: Tensor, time: float) -> Tensor:
    """The best scores. On φ_r's own confidence this is MaskGIT's top-k, whose masks grow from their neighbours (Fig. 8)."""
    return score.double()


def annealed(score: Tensor, noise: Tensor, time: float) -> Tensor:
    """MaskGIT as released: the confidence plus Gumbel noise, 4.5 × the share of time left."""
    return score.double() + 4.5 * time * gumbel(noise)


def uniform(score: Tensor, noise: Tensor, time: float) -> Tensor:
    """At random: the control. Masks that are sampled are even whatever the scores are."""
    return noise.double()


def halton(score: Tensor, noise: Tensor, time: float) -> Tensor:
    """The order of a Halton sequence, which spreads evenly over the picture whatever the tokens are."""
    return -halton_rank(*score.shape[-2:]).to(score.device).expand(score.shape).double()


def radical_inverse(i: Tensor, base: int) -> Tensor:
    """The digits of whole numbers i ≥ 0 in `base`, mirrored behind the point: 6 = 110₂ gives 0.011₂. In [0, 1), float64."""
    value, digit = torch.zeros(i.shape, dtype=torch.float64), 1.0 / base
    while i.any():
        value += digit * (i % base)
        i, digit = i // base, digit / base
    return value


@lru_cache(maxsize=8)
def halton_rank(h: int, w: int) -> Tensor:
    """(h, w) ranks: when the Halton sequence (base 2 down, base 3 across) first visits each place."""
    first = torch.full((h * w,), torch.iinfo(torch.long).max)
    done = 0
    while (first > done).any():  # in chunks, until every place has been visited
        i = torch.arange(done, done + min(max(done, h * w), 1 << 20)) + 1
        place = (radical_inverse(i, 2) * h).long() * w + (radical_inverse(i, 3) * w).long()
        first.scatter_reduce_(0, place, i, "amin")
        done = int(i[-1])
    return first.argsort().argsort().view(h, w)


# name → (what is scored: φ_e's log-probability of "good", φ_r's log-confidence, or nothing; how a score becomes merit)
POLICIES: dict[str, tuple[str, Policy]] = {
    "evaluator": ("evaluator", sampled),
    "evaluator_greedy": ("evaluator", greedy),
    "topk": ("confidence", greedy),
    "topk_annealed": ("confidence", annealed),
    "confidence_sampled": ("confidence", sampled),
    "random": ("nothing", uniform),
    "halton": ("nothing", halton),
}
