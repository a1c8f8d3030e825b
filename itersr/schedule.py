"""Mask schedules: how many tokens are masked at each time, how many a step keeps, and where to start (Sec. 3.3, Alg. 2).

γ(r) is the *masked* share of the tokens at time r = t/T, with γ(0) = 0 and γ(1) = 1. All functions are pure.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from itersr.config import GammaKind

_CURVES: dict[str, Callable[[float], float]] = {
    "linear": lambda r: r,
    "cosine": lambda r: math.cos(math.pi / 2 * (1 - r)),  # rises fast: few tokens are kept early, many late
    "square": lambda r: r * r,
    "cubic": lambda r: r**3,
    "sqrt": lambda r: math.sqrt(r),
}


def gamma(r: float, kind: GammaKind = "cosine") -> float:
    """γ(r): the share of masked tokens at time r in [0, 1]; ValueError outside it or for an unknown kind."""
    if kind not in _CURVES:
        raise ValueError(f"schedule {kind!r}: there are {', '.join(_CURVES)}")
    if not 0 <= r <= 1:
        raise ValueError(f"time r = {r} must lie in [0, 1]")
    return _CURVES[kind](r)


def ceil(x: float) -> int:
    """⌈x⌉, where rounding errors of floating point do not count: 7.000000000000001 gives 7."""
    return math.ceil(x - 1e-9)


def tokens_to_mask(r: float, n: int, kind: GammaKind = "cosine") -> int:
    """⌈γ(r)·N⌉, the number of masked tokens in training (RandomMask, Alg. 1)."""
    return ceil(gamma(r, kind) * n)


def tokens_to_keep(t: int, T: int, n: int, kind: GammaKind = "cosine") -> int:
    """k = ⌈(1 − γ(t/T))·N⌉, the number of tokens that S_t keeps. The step from t keeps `tokens_to_keep(t − 1, …)`.

    S_T keeps none and S_0 keeps all. ValueError unless 0 ≤ t ≤ T.
    """
    if not 0 <= t <= T or T < 1:
        raise ValueError(f"step t = {t} must lie in 0…T with T = {T} ≥ 1")
    return ceil((1 - gamma(t / T, kind)) * n)


def share_revealed(t: int, T: int, kind: GammaKind = "cosine") -> float:
    """Eq. 3's way back: the probability (γ(t/T) − γ((t−1)/T)) / γ(t/T) that a token which is masked at t is not at t − 1.

    Bayes' rule for a chain in which a masked token stays masked: if it is masked at t, it was already masked at t − 1 with
    probability γ((t−1)/T)/γ(t/T), else it was s_0. A token that is not masked at t is s_0 at all earlier times.
    ValueError unless 1 ≤ t ≤ T.
    """
    if not 1 <= t <= T:
        raise ValueError(f"step t = {t} must lie in 1…T with T = {T}")
    now, before = gamma(t / T, kind), gamma((t - 1) / T, kind)
    return (now - before) / now


def start_step(good: int, n: int, T: int, kind: GammaKind = "cosine", *, printed: bool = False) -> int:
    """T_s (Alg. 2, line 6): the smallest t whose S_t keeps no more tokens than the `good` ones of S_l.

    All good gives 0 (the answer is S_l), none good gives T. ValueError unless 0 ≤ good ≤ n.
    printed: the line as the paper prints it, with < in place of ≤. Where the counts are equal this starts one step earlier (at
    T at most), and that step keeps no new token. All good gives 1 or more.
    """
    if not 0 <= good <= n:
        raise ValueError(f"{good} good tokens of {n}")
    fits = (t for t in range(T + 1) if tokens_to_keep(t, T, n, kind) < good + (not printed))
    return next(fits, T)
