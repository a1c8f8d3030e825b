"""Algorithm 2 with simple functions in place of the networks, and with the networks of `smoke`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from itersr import ITER, masking, sampling
from itersr.config import tier
from itersr.sampling import Restored, Sampler, categorical, proposer, restore
from itersr.schedule import start_step, tokens_to_keep

CODES = 12
H, W = 4, 6
N = H * W


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def maps(batch: int, seed: int = 0, h: int = H, w: int = W) -> Tensor:
    return torch.randint(CODES, (batch, h, w), generator=seeded(seed)[0])


def undecided(tokens: Tensor, keep: Tensor, condition: Tensor, condition_keep: Tensor) -> Tensor:
    """A φ_r that depends on every input, at its own place."""
    channels = torch.arange(CODES)[:, None, None]
    return torch.cos(channels * (1 + tokens * keep + 3 * condition + 2 * condition_keep)[:, None].double()).float()


def some_good(tokens: Tensor, condition: Tensor) -> Tensor:
    """A φ_e by the tokens alone: log-probabilities spread over (0, 1)."""
    return torch.log((1 + (tokens * 7 + condition * 5) % 11) / 12.0)


def oracle(truth: Tensor) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """φ_r and φ_e that know S_h."""
    def refiner(tokens: Tensor, *rest: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(truth[: len(tokens)], CODES).permute(0, 3, 1, 2) * 1000.0

    def evaluator(tokens: Tensor, condition: Tensor) -> Tensor:
        return torch.where(tokens == truth[: len(tokens)], 0.0, -torch.inf)

    return refiner, evaluator


def run(condition: Tensor, sampler: Sampler, refiner: Callable[..., Tensor] = undecided,
        evaluator: Callable[..., Tensor] = some_good, seed: int = 0) -> Restored:
    return restore(condition, sampler, propose=proposer(refiner), evaluator=evaluator,
                   generators=seeded(*range(seed, seed + len(condition))))


samplers = st.builds(
    Sampler, steps=st.integers(1, 9), alpha=st.sampled_from([0.0, 0.3, 0.5, 0.9, 1.0]),
    policy=st.sampled_from(sorted(masking.POLICIES)), schedule=st.sampled_from(["linear", "cosine", "square", "sqrt", "cubic"]),
    temperature=st.sampled_from([0.0, 0.7, 1.0]), adaptive=st.booleans(), remask=st.booleans(), resample=st.booleans(),
    skip_last=st.booleans())
plain_samplers = st.builds(dataclasses.replace, samplers, resample=st.just(False))


# ------------------------------------------------------------------------------------------------------------ Algorithm 2


@settings(max_examples=60, deadline=None)
@given(plain_samplers, st.integers(0, 20))
def test_kept_tokens_keep_their_values(sampler: Sampler, seed: int) -> None:
    result = run(maps(2, seed), sampler, seed=seed)
    tokens, keep = result.condition.clone(), result.condition_keep.clone()
    for step in result.steps:
        at = step.active
        assert torch.equal(step.tokens[keep[at]], tokens[at][keep[at]])
        if not sampler.remask:
            assert (step.keep | ~keep[at]).all()  # and what is kept stays kept
        tokens[at], keep[at] = step.tokens, step.keep
    assert torch.equal(result.tokens, tokens)


@settings(max_examples=60, deadline=None)
@given(samplers, st.integers(0, 20))
def test_each_step_keeps_exactly_k(sampler: Sampler, seed: int) -> None:
    result = run(maps(3, seed), sampler, seed=seed)
    times = [step.t for step in result.steps]
    assert times == sorted(set(times), reverse=True)
    assert not times or min(times) == (2 if sampler.skip_last else 1)
    for step in result.steps:
        k = tokens_to_keep(step.t - 1, sampler.steps, N, sampler.schedule)
        assert step.keep.flatten(1).sum(1).tolist() == [k] * len(step.active)
        assert step.active.tolist() == torch.nonzero(result.start >= step.t).flatten().tolist()


@settings(max_examples=40, deadline=None)
@given(samplers, st.integers(0, 20))
def test_start_follows_the_good_tokens_of_each_image(sampler: Sampler, seed: int) -> None:
    condition = maps(3, seed)
    result = run(condition, sampler, seed=seed)
    good = some_good(condition, condition).exp() >= sampler.alpha - 1e-6
    if not sampler.adaptive or sampler.alpha == 1:
        good = torch.zeros_like(good)
    assert torch.equal(result.condition_keep, good)
    counts = good.flatten(1).sum(1).tolist()
    assert result.start.tolist() == [start_step(c, N, sampler.steps, sampler.schedule) for c in counts]


@settings(max_examples=60, deadline=None)
@given(samplers, st.integers(0, 20))
def test_oracles_restore_the_truth(sampler: Sampler, seed: int) -> None:
    """With φ_r and φ_e that know S_h the answer is S_h, whatever S_l was and whatever the settings are."""
    truth = maps(1, seed)
    condition = torch.where(torch.rand(1, H, W, generator=seeded(seed)[0]) < 0.5, truth, maps(1, seed + 100))
    sampler = dataclasses.replace(sampler, alpha=max(sampler.alpha, 0.1))
    result = run(condition, sampler, *oracle(truth), seed=seed)
    if result.steps:
        assert torch.equal(result.tokens, truth)
    elif sampler.skip_last and int(result.start) == 1:  # the only step was the one that is left out
        assert torch.equal(result.tokens, condition)
    else:
        assert torch.equal(result.tokens, truth) and torch.equal(condition, truth)


@settings(max_examples=40, deadline=None)
@given(samplers, st.integers(0, 20))
def test_a_batch_is_its_singles(sampler: Sampler, seed: int) -> None:
    condition = maps(4, seed)
    batch = run(condition, sampler, seed=seed)
    for i in range(4):
        single = run(condition[i : i + 1], sampler, seed=seed + i)
        assert torch.equal(single.tokens[0], batch.tokens[i]) and single.start[0] == batch.start[i]
        own = [step for step in batch.steps if i in step.active]
        assert [step.t for step in single.steps] == [step.t for step in own]
        for a, b in zip(single.steps, own, strict=True):
            row = b.active.tolist().index(i)
            assert torch.equal(a.tokens[0], b.tokens[row]) and torch.equal(a.keep[0], b.keep[row])


def test_all_good_is_answered_by_the_condition() -> None:
    condition = maps(2)
    result = run(condition, Sampler(), evaluator=lambda tokens, _: torch.zeros(tokens.shape))
    assert torch.equal(result.tokens, condition) and result.start.tolist() == [0, 0] and not result.steps


def test_the_answer_has_no_masked_token_left() -> None:
    """Every place that S_l's good tokens do not hold was proposed by φ_r, here a φ_r that only says 3."""
    def only_three(tokens: Tensor, *rest: Tensor) -> Tensor:
        return torch.full((len(tokens), CODES, H, W), -1e4).index_fill(1, torch.tensor([3]), 0.0)

    result = run(maps(2), Sampler(), refiner=only_three)
    assert (result.tokens[~result.condition_keep] == 3).all()
    assert torch.equal(result.tokens[result.condition_keep], result.condition[result.condition_keep])


def test_the_refiner_sees_what_algorithm_2_gives_it() -> None:
    seen: list[tuple[Tensor, ...]] = []

    def watched(*inputs: Tensor) -> Tensor:
        seen.append(tuple(x.clone() for x in inputs))
        return undecided(*inputs)

    result = run(maps(1), Sampler(steps=5), refiner=watched)
    tokens, keep = result.condition, result.condition_keep
    for (s_t, m_t, s_l, m_s), step in zip(seen, result.steps, strict=True):
        assert torch.equal(s_t, tokens) and torch.equal(m_t, keep)
        assert torch.equal(s_l, result.condition) and torch.equal(m_s, result.condition_keep)
        tokens, keep = step.tokens, step.keep


def test_the_evaluator_is_asked_once_a_step_and_never_for_nothing() -> None:
    calls = 0

    def counted(tokens: Tensor, condition: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return some_good(tokens, condition)

    result = run(maps(1), Sampler(steps=6, alpha=0.95), evaluator=counted)
    assert calls == 1 + len(result.steps) - 1  # S_l, then every step but the last, which keeps everything
    calls = 0
    run(maps(1), Sampler(steps=6, adaptive=False, policy="topk"), evaluator=counted)
    assert calls == 0


def test_remasking_lets_kept_tokens_go() -> None:
    free = run(maps(1), Sampler(steps=8, adaptive=False, remask=True))
    lost = [(a.keep & ~b.keep).any() for a, b in zip(free.steps, free.steps[1:], strict=False)]
    assert any(lost)


@pytest.mark.parametrize("policy", ["topk", "topk_annealed", "confidence_sampled"])
def test_a_kept_token_competes_by_its_own_probability(policy: str) -> None:
    tokens, condition = maps(1), maps(1, seed=1)
    keep = torch.arange(N).view(1, H, W) % 2 == 0
    noise = torch.rand(2, 1, H, W, generator=seeded(0)[0])
    done = sampling.step(tokens, keep, condition, keep, 5, Sampler(policy=policy, remask=True), propose=proposer(undecided),
                         evaluator=some_good, noise=(noise[0], noise[1]))
    log_p = undecided(tokens, keep, condition, keep).log_softmax(1)
    assert done.score is not None
    assert torch.equal(done.score, log_p.gather(1, done.tokens[:, None])[:, 0]), "the probability of what stands there"


# --------------------------------------------------------------------------------------------------------- released preset


def test_released_preset_is_the_table() -> None:
    released = sampling.PRESETS["released"]
    assert released is sampling.RELEASED and sampling.PRESETS["paper"] == Sampler()
    changed = {f.name for f in dataclasses.fields(Sampler) if getattr(released, f.name) != getattr(Sampler(), f.name)}
    assert changed == {"alpha", "schedule", "resample", "skip_last"}
    assert (released.alpha, released.schedule, released.remask) == (0.7, "linear", False)


def test_released_keeps_by_linear_gamma() -> None:
    result = run(maps(1), dataclasses.replace(sampling.RELEASED, adaptive=False))
    counts = [int(step.keep.sum()) for step in result.steps]
    assert counts == [math.ceil(N * (8 - t + 1) / 8) for t in range(8, 1, -1)]


def test_released_runs_one_step_fewer() -> None:
    for steps in (1, 2, 8):
        paper = run(maps(1), Sampler(steps=steps, adaptive=False))
        released = run(maps(1), dataclasses.replace(sampling.RELEASED, steps=steps, adaptive=False))
        assert len(paper.steps) == steps and len(released.steps) == steps - 1
        assert released.start.tolist() == [steps]
        if steps == 1:
            assert torch.equal(released.tokens, released.condition)


def test_released_samples_kept_values_again() -> None:
    condition = maps(1)
    released = run(condition, dataclasses.replace(sampling.RELEASED, alpha=0.5))
    good = released.condition_keep
    assert good.any() and (released.steps[0].tokens[good] != condition[good]).any()
    for before, after in zip(released.steps, released.steps[1:], strict=False):
        assert (after.keep | ~before.keep).all()  # no re-masking: the places stay kept, their values move


def test_released_alpha_asks_for_more() -> None:
    condition = maps(1)
    kept = [int(run(condition, sampling.PRESETS[name]).condition_keep.sum()) for name in ("paper", "released")]
    assert kept[1] < kept[0]


# ------------------------------------------------------------------------------------------------------------- categorical


def test_categorical_follows_its_probabilities() -> None:
    """χ² over 60,000 draws of each of three distributions, against the 99.9 % point of 7 degrees of freedom, 24.3."""
    logits = torch.randn(3, 8, generator=seeded(0)[0]) * 1.5
    draws = 60_000
    noise = torch.rand(3, draws, 1, generator=seeded(1)[0])
    tokens, log_p = categorical(logits[:, :, None, None].expand(3, 8, draws, 1), noise)
    for i in range(3):
        expected = logits[i].softmax(0).double() * draws
        counts = torch.bincount(tokens[i].flatten(), minlength=8)
        assert ((counts - expected) ** 2 / expected).sum() < 24.3
        torch.testing.assert_close(log_p[i].flatten(), logits[i].log_softmax(0)[tokens[i].flatten()])


def test_temperature_sharpens_and_zero_is_the_argmax() -> None:
    logits = torch.randn(1, CODES, 50, 50, generator=seeded(0)[0])
    noise = torch.rand(1, 50, 50, generator=seeded(1)[0])
    confidence = [categorical(logits, noise, temperature)[1].mean().item() for temperature in (2.0, 1.0, 0.5, 0.0)]
    assert confidence == sorted(confidence)
    assert torch.equal(categorical(logits, noise, 0.0)[0], logits.argmax(1))
    assert torch.equal(categorical(logits, noise, 1e-4)[0], logits.argmax(1))


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (8, 8), (7, 9)])
def test_categorical_in_a_tile_is_categorical_in_the_whole(size: tuple[int, int]) -> None:
    logits = torch.randn(1, 512, 24, 24, generator=seeded(0)[0]) * 3
    noise = torch.rand(1, 24, 24, generator=seeded(1)[0])
    whole = categorical(logits, noise)
    h, w = size
    part = categorical(logits[:, :, 4 : 4 + h, 6 : 6 + w], noise[:, 4 : 4 + h, 6 : 6 + w])
    assert torch.equal(part[0], whole[0][:, 4 : 4 + h, 6 : 6 + w])


def test_categorical_at_the_ends_of_the_noise() -> None:
    logits = torch.tensor([-torch.inf, 0.0, 0.0, -torch.inf]).view(1, 4, 1, 1)
    for u, token in ((0.0, 1), (0.4999, 1), (0.5001, 2), (1 - 2**-24, 2)):
        assert categorical(logits, torch.full((1, 1, 1), u))[0].item() == token  # never one of probability 0


def test_categorical_of_half_precision_logits_is_computed_in_float32() -> None:
    logits = torch.randn(1, CODES, 4, 4, generator=seeded(0)[0]).bfloat16()
    tokens, log_p = categorical(logits, torch.rand(1, 4, 4, generator=seeded(1)[0]))
    assert log_p.dtype == torch.float32
    torch.testing.assert_close(log_p, logits.float().log_softmax(1).gather(1, tokens[:, None])[:, 0])


# ------------------------------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize("wrong, message", [
    ({"steps": 0}, "steps = 0: T must be at least 1"),
    ({"alpha": 1.01}, "alpha = 1.01: must be a probability"),
    ({"alpha": math.nan}, "alpha = nan: must be a probability"),
    ({"temperature": -0.1}, "temperature = -0.1: must be 0 or more"),
    ({"temperature": math.nan}, "temperature = nan: must be 0 or more"),
    ({"policy": "best"}, "policy 'best': there are evaluator, "),
    ({"schedule": "step"}, "schedule 'step': there are linear, "),
])
def test_wrong_settings_are_named(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampler(**wrong)  # type: ignore[arg-type]


def test_as_many_generators_as_images() -> None:
    with pytest.raises(ValueError, match="1 generators for 2 images"):
        restore(maps(2), Sampler(), propose=proposer(undecided), evaluator=some_good, generators=seeded(0))


# ------------------------------------------------------------------------------------------------------------------- ITER


@pytest.fixture(scope="module")
def smoke() -> ITER:
    torch.manual_seed(0)
    return ITER(tier("smoke")).ready("cpu")


def test_a_batch_of_pictures_is_its_singles_to_the_bit(smoke: ITER) -> None:
    lq = torch.rand(3, 3, 20, 28, generator=seeded(0)[0])
    settings_ = {"steps": 4, "alpha": 0.5}
    batch = smoke.restore(lq, seed=5, **settings_)
    for i in range(3):
        single = smoke.restore(lq[i : i + 1], seed=5 + i, **settings_)
        assert torch.equal(single.image[0], batch.image[i])
        assert torch.equal(single.restored.tokens[0], batch.restored.tokens[i])
    for seeds in ([5, 6, 7], np.int64(5), np.arange(5, 8)):
        again = smoke.restore(lq, seed=seeds, steps=np.int64(4), alpha=np.float64(0.5))  # type: ignore[arg-type]
        assert torch.equal(again.image, batch.image)


def test_a_trace_of_a_batch_has_the_picture_of_every_image(smoke: ITER) -> None:
    lq = torch.rand(3, 3, 16, 16, generator=seeded(0)[0])
    lq[0] = 0.5
    trace = smoke.restore(lq, steps=8, alpha=0.5)
    assert len(set(trace.start.tolist())) > 1, "images that begin at different steps"
    assert torch.equal(trace.at(-1), trace.image) and torch.equal(trace.at(len(trace.restored.steps)), trace.image)
    assert torch.equal(trace.at(0), trace.decode(trace.restored.condition))
    late = int(trace.start.argmin())
    assert torch.equal(trace.at(1)[late], trace.at(0)[late]), "not yet joined in"
    with pytest.raises(IndexError):
        trace.at(len(trace.restored.steps) + 1)


def test_settings_beside_a_whole_sampler_are_refused(smoke: ITER) -> None:
    lq = torch.rand(1, 3, 16, 16, generator=seeded(0)[0])
    for wrong, named in (({"alpha": 0.9, "nonsense": 5}, "alpha, nonsense"), ({"preset": "released"}, "preset")):
        with pytest.raises(TypeError, match=named):
            smoke.restore(lq, Sampler(), **wrong)  # type: ignore[arg-type]


def test_presets_of_the_model(smoke: ITER) -> None:
    lq = torch.rand(1, 3, 16, 16, generator=seeded(0)[0])
    released = smoke.restore(lq, preset="released")
    assert released.sampler == dataclasses.replace(sampling.RELEASED, steps=smoke.tier.steps)
    assert smoke.restore(lq, preset="released", alpha=0.9).sampler.alpha == 0.9
    assert smoke.restore(lq).sampler == Sampler(steps=smoke.tier.steps)
    cooler = ITER(dataclasses.replace(smoke.tier, temperature=0.7))
    assert cooler.sampler() == Sampler(steps=smoke.tier.steps, temperature=0.7)
    stricter = ITER(dataclasses.replace(smoke.tier, alpha=0.9))
    assert stricter.sampler() == Sampler(steps=smoke.tier.steps, alpha=0.9)
    assert stricter.sampler("released").alpha == 0.7 and stricter.sampler(alpha=0.2).alpha == 0.2
    other = ITER(dataclasses.replace(smoke.tier, steps=1, policy="random", remask=True))
    assert other.sampler() == Sampler(steps=1, policy="random", remask=True) and other.sampler("paper") == Sampler()
    assert other.sampler(temperature=0.4) == Sampler(steps=1, policy="random", remask=True, temperature=0.4)
    assert other.sampler(alpha=0.3) == Sampler(steps=smoke.tier.steps, alpha=0.3), "one step has no use for α: Alg. 2 has"
    warmer = dataclasses.replace(sampling.RELEASED, steps=smoke.tier.steps, temperature=0.5)
    assert cooler.sampler("released", temperature=0.5) == warmer
    picture = smoke.upscale(lq[0], preset="released", color_fix="none")
    assert torch.equal(picture, released.image[0])
    with pytest.raises(ValueError, match="preset 'x': there are tier, paper, released"):
        smoke.restore(lq, preset="x")
