"""Masks: exact counts, the draw they stand for, and what each policy orders by."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from itersr import masking


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@given(st.integers(1, 9), st.integers(1, 9), st.lists(st.integers(0, 81), min_size=1, max_size=4), st.integers(0, 99))
def test_exactly_k_are_kept_and_they_are_the_best(h: int, w: int, ks: list[int], seed: int) -> None:
    k = torch.tensor([min(k, h * w) for k in ks])
    merit = (noise(len(ks), h, w, seed=seed) * 5).floor()  # with many ties
    keep = masking.keep_best(merit, k)
    assert keep.dtype == torch.bool and keep.flatten(1).sum(1).tolist() == k.tolist()
    for m, mask in zip(merit, keep, strict=True):
        if mask.any() and not mask.all():
            assert m[mask].min() >= m[~mask].max()


def test_ties_go_to_the_first_in_reading_order() -> None:
    assert masking.keep_best(torch.zeros(1, 2, 3), 4).flatten().tolist() == [True] * 4 + [False] * 2


def test_infinite_merit_is_kept_first() -> None:
    merit = torch.zeros(1, 4, 4)
    merit[0, 3] = torch.inf
    assert masking.keep_best(merit, 4)[0, 3].all()
    merit[0, :3] = -torch.inf
    assert masking.keep_best(merit, 5).sum() == 5


@given(st.integers(1, 12), st.integers(1, 12), st.floats(0, 1), st.integers(0, 99))
def test_random_mask_masks_as_many_as_asked(h: int, w: int, share: float, seed: int) -> None:
    n_masked = torch.tensor([0, round(share * h * w), h * w])
    keep = masking.random_mask(n_masked, noise(3, h, w, seed=seed))
    assert (~keep).flatten(1).sum(1).tolist() == n_masked.tolist()


def test_random_mask_is_uniform() -> None:
    """Every place is masked as often as every other: 3 of 12, within four standard deviations."""
    trials = 20_000
    masked = (~masking.random_mask(3, noise(trials, 3, 4))).double().mean(0)
    assert (masked - 0.25).abs().max() < 4 * (0.25 * 0.75 / trials) ** 0.5


def test_sampled_is_drawing_without_replacement() -> None:
    """Gumbel top-k against the definition: each next token with probability ∝ exp(score) among those left."""
    weights = [0.5, 0.2, 0.15, 0.1, 0.05]
    k, trials = 2, 40_000
    score = torch.tensor(weights).log()[None, None].expand(trials, 1, 5)
    keep = masking.keep_best(masking.sampled(score, noise(trials, 1, 5), 0.5), k)[:, 0]
    for pair in itertools.combinations(range(5), k):
        expected = sum(weights[a] * weights[b] / (1 - weights[a]) for a, b in itertools.permutations(pair))
        drawn = (keep[:, pair[0]] & keep[:, pair[1]]).double().mean().item()
        assert abs(drawn - expected) < 4 * (expected * (1 - expected) / trials) ** 0.5, pair


def test_gumbel_noise_has_its_mean_and_spread() -> None:
    drawn = masking.gumbel(noise(200_000))
    assert drawn.mean().item() == pytest.approx(0.5772, abs=0.01)  # Euler's constant
    assert drawn.var().item() == pytest.approx(torch.pi**2 / 6, abs=0.03)
    assert masking.gumbel(torch.tensor([0.0, 1.0])).isfinite().all()


@pytest.mark.parametrize("name", masking.POLICIES)
def test_policies_are_pure_and_keep_the_shape(name: str) -> None:
    scored, policy = masking.POLICIES[name]
    assert scored in ("evaluator", "confidence", "nothing")
    score, u = noise(2, 5, 6, seed=1).log(), noise(2, 5, 6, seed=2)
    before = score.clone(), u.clone()
    merit = policy(score, u, 0.5)
    assert merit.shape == score.shape and merit.isfinite().all()
    assert torch.equal(merit, policy(score, u, 0.5))
    assert torch.equal(score, before[0]) and torch.equal(u, before[1])
    for i in range(2):  # each image by itself
        assert torch.equal(merit[i : i + 1], policy(score[i : i + 1], u[i : i + 1], 0.5))


def test_what_each_policy_looks_at() -> None:
    score, other_score = noise(1, 6, 6, seed=1).log(), noise(1, 6, 6, seed=2).log()
    u, other_u = noise(1, 6, 6, seed=3), noise(1, 6, 6, seed=4)
    assert torch.equal(masking.greedy(score, u, 0.5), masking.greedy(score, other_u, 0.5))
    assert torch.equal(masking.uniform(score, u, 0.5), masking.uniform(other_score, u, 0.5))
    assert torch.equal(masking.halton(score, u, 0.5), masking.halton(other_score, other_u, 0.1))
    assert not torch.equal(masking.annealed(score, u, 1), masking.annealed(score, other_u, 1))
    assert torch.equal(masking.annealed(score, u, 0), masking.greedy(score, u, 0))  # cooled down at the end


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (8, 8), (5, 12)])
def test_halton_visits_every_place_once(size: tuple[int, int]) -> None:
    assert sorted(masking.halton_rank(*size).flatten().tolist()) == list(range(size[0] * size[1]))


def test_halton_is_spread_evenly() -> None:
    """Each quarter of the picture has its share after every few visits, unlike at random."""
    rank = masking.halton_rank(16, 16)
    for k in (16, 32, 64, 128):
        quarters = [(rank[y : y + 8, x : x + 8] < k).sum().item() for y in (0, 8) for x in (0, 8)]
        assert max(quarters) - min(quarters) <= 3, (k, quarters)
