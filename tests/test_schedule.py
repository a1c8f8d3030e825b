"""Schedules: k and T_s against a brute force straight over Algorithm 2, in exact fractions where γ is rational."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from itersr.config import GammaKind
from itersr.schedule import gamma, share_revealed, start_step, tokens_to_keep, tokens_to_mask

KINDS: tuple[GammaKind, ...] = get_args(GammaKind)
RATIONAL = {"linear": 1, "square": 2, "cubic": 3}


def exact_keep(t: int, T: int, n: int, kind: str) -> int:
    """⌈(1 − γ(t/T))·N⌉ without floating point.

    sqrt and cosine are irrational but for a few values, which are settled here; elsewhere no count is near an integer.
    """
    if kind in RATIONAL:
        return math.ceil((1 - Fraction(t, T) ** RATIONAL[kind]) * n)
    if kind == "sqrt":  # ⌈n − √(n²·t/T)⌉ = n − ⌊√(n²·t/T)⌋
        return n - math.isqrt(n * n * t // T)
    rational = {Fraction(0): Fraction(0), Fraction(1, 3): Fraction(1, 2), Fraction(1): Fraction(1)}  # of the cosine (Niven)
    if Fraction(t, T) in rational:
        return math.ceil((1 - rational[Fraction(t, T)]) * n)
    return math.ceil((1 - math.cos(math.pi / 2 * (1 - t / T))) * n)


def algorithm2_start(good: int, T: int, n: int, kind: str) -> int:
    """Line 6, read aloud: walk down from T as long as the earlier map would not keep more than the good tokens."""
    t = T
    while t > 0 and exact_keep(t - 1, T, n, kind) <= good:
        t -= 1
    return t


@pytest.mark.parametrize("kind", KINDS)
def test_k_and_start_against_brute_force(kind: GammaKind) -> None:
    for T in range(1, 17):
        for n in range(1, 65):
            keeps = [tokens_to_keep(t, T, n, kind) for t in range(T + 1)]
            assert keeps == [exact_keep(t, T, n, kind) for t in range(T + 1)], (T, n)
            starts = [start_step(good, n, T, kind) for good in range(n + 1)]
            assert starts == [algorithm2_start(good, T, n, kind) for good in range(n + 1)], (T, n)
            printed = [start_step(good, n, T, kind, printed=True) for good in range(n + 1)]
            for good, t in enumerate(printed):  # `while ⌈(1 − γ((T_s − 1)/T))·N⌉ < Σ m_s: T_s ← T_s − 1`
                walked = T
                while exact_keep(walked - 1, T, n, kind) < good:
                    walked -= 1
                assert t == walked, (good, T, n)
            assert printed[n] >= 1 and printed[0] == T


@pytest.mark.parametrize("kind", KINDS)
def test_gamma_is_the_masked_share(kind: GammaKind) -> None:
    assert gamma(0, kind) == pytest.approx(0, abs=1e-15) and gamma(1, kind) == 1
    values = [gamma(i / 100, kind) for i in range(101)]
    assert all(a < b for a, b in zip(values, values[1:], strict=False))


@given(st.integers(1, 64), st.integers(1, 20_000), st.sampled_from(KINDS))
def test_counts_fall_from_all_to_none(T: int, n: int, kind: GammaKind) -> None:
    keeps = [tokens_to_keep(t, T, n, kind) for t in range(T + 1)]
    assert keeps[0] == n and keeps[T] == 0
    assert keeps == sorted(keeps, reverse=True)


@given(st.integers(1, 64), st.integers(1, 20_000), st.sampled_from(KINDS), st.data())
def test_start_keeps_no_more_than_is_good(T: int, n: int, kind: GammaKind, data: st.DataObject) -> None:
    good = data.draw(st.integers(0, n))
    t = start_step(good, n, T, kind)
    assert tokens_to_keep(t, T, n, kind) <= good
    assert t == 0 or tokens_to_keep(t - 1, T, n, kind) > good
    assert start_step(n, n, T, kind) == 0 and start_step(0, n, T, kind) == T


@given(st.fractions(0, 1, max_denominator=1000), st.integers(1, 5000), st.sampled_from(sorted(RATIONAL)))
def test_masked_counts_are_exact(r: Fraction, n: int, kind: GammaKind) -> None:
    assert tokens_to_mask(float(r), n, kind) == math.ceil(r ** RATIONAL[kind] * n)


def test_a_product_that_floats_miss() -> None:
    assert math.ceil((1 - 1 / 3) * 9) == 7  # what floating point alone would say
    assert tokens_to_keep(1, 3, 9, "linear") == 6


@pytest.mark.parametrize("r", [-0.01, 1.01, math.nan])
def test_time_outside_is_refused(r: float) -> None:
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        gamma(r)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="schedule 'cubical': there are linear, cosine, square, cubic, sqrt"):
        gamma(0.5, "cubical")  # type: ignore[arg-type]
    for t, T in ((-1, 4), (5, 4), (0, 0)):
        with pytest.raises(ValueError, match=f"step t = {t} must lie in 0…T with T = {T}"):
            tokens_to_keep(t, T, 10)
    for good in (-1, 11):
        with pytest.raises(ValueError, match=f"{good} good tokens of 10"):
            start_step(good, 10, 4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_way_back_is_that_of_counted_chains(kind: GammaKind) -> None:
    """Eq. 3 against counting: 200,000 tokens, each masked at a random time on the way forward, then looked at backwards."""
    T, chains = 8, 200_000
    level = torch.rand(chains, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    masked = [level < gamma(t / T, kind) for t in range(T + 1)]  # masked at t, and so at every later time
    for t in range(1, T + 1):
        revealed = (masked[t] & ~masked[t - 1]).sum() / masked[t].sum()
        assert float(revealed) == pytest.approx(share_revealed(t, T, kind), abs=0.02)
    assert share_revealed(1, T, kind) == pytest.approx(1)
    for t in (0, T + 1):
        with pytest.raises(ValueError, match=f"step t = {t}"):
            share_revealed(t, T, kind)
