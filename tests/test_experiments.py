"""The experiments and the ledger: statistics against an independent computation, sweeps that go on, verdicts both ways."""

from __future__ import annotations

import dataclasses
import json
import math
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from scipy.spatial.distance import cdist

from itersr import ITER, masking, tiling
from itersr.config import tier
from itersr.lab import experiments, ledger, metrics
from itersr.lab.experiments import Method, joins, moran, nearness
from itersr.lab.reproduce import ROOT
from itersr.pictures import Photo
from itersr.sampling import Sampler
from itersr.schedule import tokens_to_keep
from itersr.token_nets import Evaluator
from itersr.training.validate import fit_shift
from itersr.upscaling.write import write
from itersr.vqgan import VQGAN
from tests import elsewhere, ledger_tools


def mask(*rows: str) -> torch.Tensor:
    return torch.tensor([[c == "#" for c in row] for row in rows])


BLOCK = mask("####....", "####....", "####....", "####....", "........", "........", "........", "........")
BOARD = torch.tensor([[(y + x) % 2 == 0 for x in range(8)] for y in range(8)])


def random_masks(count: int, k: int, shape: tuple[int, int] = (8, 8)) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    places = shape[0] * shape[1]
    orders = [torch.randperm(places, generator=generator)[:k] for _ in range(count)]
    return [torch.zeros(places, dtype=torch.bool).index_fill(0, order, True).view(shape) for order in orders]


# Where a mask puts its tokens ----------------------------------------------------------------------------------------


def test_a_block_is_local_and_a_chequerboard_is_not() -> None:
    assert joins(BLOCK) > 3 and moran(BLOCK) > 0.7
    assert joins(BOARD) == 0 and moran(BOARD) == pytest.approx(-1)


def test_random_masks_are_the_unit_of_every_statistic() -> None:
    drawn = random_masks(1000, 20)
    assert np.mean([joins(m) for m in drawn]) == pytest.approx(1, abs=0.03)
    assert np.mean([moran(m) for m in drawn]) == pytest.approx(-1 / 63, abs=0.005)
    kept = BLOCK
    free = (~kept).flatten().nonzero().flatten()
    generator = torch.Generator().manual_seed(1)
    chosen = [torch.zeros(64, dtype=torch.bool).index_fill(0, free[torch.randperm(len(free), generator=generator)[:10]], True)
              for _ in range(1000)]
    assert np.mean([nearness(new.view(8, 8), kept) for new in chosen]) == pytest.approx(1, abs=0.03)


def test_a_mask_that_grows_is_near_and_one_that_jumps_is_far() -> None:
    ring = mask("....#...", "....#...", "....#...", "....#...", "#####...", "........", "........", "........")
    corner = mask(*["........"] * 6, "......##", "......##")
    assert nearness(ring, BLOCK) < 0.5 < 1.5 < nearness(corner, BLOCK)


@pytest.mark.parametrize("m", [BLOCK, BOARD, mask("#..#.", ".##..", "....#"), *random_masks(3, 9, (5, 7))])
def test_statistics_equal_an_independent_computation(m: torch.Tensor) -> None:
    """Neighbours as a sparse matrix from two paths; distances as a full table."""
    h, w = m.shape

    def path(n: int) -> Any:
        return sparse.diags([1.0, 1.0], [-1, 1], shape=(n, n))

    A = sparse.kron(sparse.identity(h), path(w)) + sparse.kron(path(h), sparse.identity(w))
    x = m.double().numpy().ravel()
    d, k, n = x - x.mean(), int(x.sum()), x.size
    assert moran(m) == pytest.approx(n / A.sum() * (d @ A @ d) / (d @ d))
    assert joins(m) == pytest.approx((x @ A @ x / 2) / (A.sum() / 2 * k * (k - 1) / (n * (n - 1))))

    old, free = np.argwhere(m.numpy()), np.argwhere(~m.numpy())
    distance = cdist(free, old).min(1)
    new = torch.zeros_like(m)
    new[tuple(free[::2].T)] = True
    assert nearness(new, m) == pytest.approx(distance[::2].mean() / distance.mean())


def test_statistics_without_an_answer_are_nan() -> None:
    none = torch.zeros(4, 4, dtype=torch.bool)
    assert math.isnan(joins(none)) and math.isnan(moran(none)) and math.isnan(moran(~none)) and math.isnan(nearness(none, none))


# Sweeps --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model() -> ITER:
    torch.manual_seed(0)
    return ITER(tier("smoke")).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def pairs(model: ITER) -> list[experiments.Pair]:
    return experiments.make_pairs(experiments.unseen_photos(2), model.tier, 64)


def test_every_policy_keeps_the_same_number_of_tokens(model: ITER, pairs: list[experiments.Pair]) -> None:
    rows = experiments.policies(model, pairs, [0, 1], names=())
    steps = experiments.steps_of(rows)
    T, n = model.tier.steps, 16 * 16
    assert set(steps.method) == {*masking.POLICIES, "oracle"}
    for _, own in steps.groupby(["method", "photo", "seed"]):
        assert own.k.tolist() == [tokens_to_keep(t - 1, T, n) for t in range(T, 1, -1)]


def test_the_oracle_keeps_right_tokens(model: ITER, pairs: list[experiments.Pair]) -> None:
    s_h = experiments.tokens_of(model, pairs[0])
    other = (s_h + 1) % model.tier.vqgan.codes
    half = torch.where(torch.arange(16)[None, :, None] < 8, s_h, other)
    score = experiments.oracle(s_h)(half, s_h)
    assert (score[:, :8] == 0).all() and (score[:, 8:] < -6).all()


def test_baselines_need_no_seed_and_samples_do(model: ITER, pairs: list[experiments.Pair]) -> None:
    def picture(method: Method, seed: int) -> torch.Tensor:
        return experiments.apply(model, method, pairs[0], seed)[0]

    for method in experiments.baselines([1.0]):
        assert torch.equal(picture(method, 0), picture(method, 1)) != method.draws
        assert picture(method, 0).shape == pairs[0].hq.shape


def test_what_a_mixed_run_is(model: ITER, pairs: list[experiments.Pair]) -> None:
    sampler = Sampler(steps=2, adaptive=False)
    _, restored, tokens = experiments.apply(model, Method("mixed", "mixed", sampler), pairs[0], 3)
    assert restored is None and tokens is not None
    runs = [experiments.apply(model, Method("ITER", sampler=sampler), pairs[0], 1000 + 3 * experiments.MIXED + i)[2]
            for i in range(experiments.MIXED)]
    agree = torch.stack([tokens == run for run in runs if run is not None])
    assert agree.any(0).all()  # every token stood there in one of the runs
    for one in agree:  # and no run gave more than its share, agreements by chance aside
        assert 0.2 < float(one.double().mean()) < 0.6


def test_trust_in_the_refiner_runs_from_the_lq_encoder_to_itself(model: ITER, pairs: list[experiments.Pair]) -> None:
    lq = pairs[0].lq
    log_probs = model.log_posterior(lq)
    s_l = log_probs.argmax(1)
    none = torch.zeros_like(s_l, dtype=torch.bool)
    maps = (s_l, none, s_l, none)
    own = model.functions(log_probs, model.lq_features(lq))[0](*maps).log_softmax(1)
    assert torch.equal(experiments.trusting(model, lq, 0.0)(*maps), log_probs)
    assert torch.allclose(experiments.trusting(model, lq, 1.0)(*maps), own, atol=1e-5)
    assert not torch.allclose(own, log_probs, atol=0.1)

    def picture(**settings: Any) -> torch.Tensor:
        return experiments.apply(model, Method("ITER", sampler=Sampler(steps=2), **settings), pairs[0], 0)[0]

    assert not torch.equal(picture(trust=0.0), picture())


def test_an_experiment_that_takes_the_difference_apart(model: ITER, pairs: list[experiments.Pair]) -> None:
    rows = experiments.taken_apart(model, pairs, [0], 0.7, names=())
    assert rows.method.nunique() == 8 and len(rows) == 16
    right = rows.groupby("method")["token accuracy"].mean()
    assert right["E_l proposes, an oracle judges"] > right["E_l proposes, φ_e judges"]
    assert right["φ_r proposes, an oracle judges"] > right["φ_r proposes, φ_e judges"]


def measured_rows(monkeypatch: pytest.MonkeyPatch, stop_at: int = 1000) -> list[str]:
    """The names of the methods whose rows are measured from now on; the measuring is interrupted at `stop_at`."""
    measured: list[str] = []
    real = experiments.measure

    def counted(model: ITER, method: Method, pair: experiments.Pair, *rest: Any) -> dict[str, Any]:
        if pair.name != "small":  # that one stands for the code
            if len(measured) == stop_at:
                raise KeyboardInterrupt
            measured.append(method.name)
        return real(model, method, pair, *rest)

    monkeypatch.setattr(experiments, "measure", counted)
    return measured


def test_a_sweep_goes_on_where_it_stopped(model: ITER, pairs: list[experiments.Pair], tmp_path: Path) -> None:
    store = tmp_path / "rows.jsonl"
    methods = [Method("ITER", sampler=Sampler(steps=2)), *experiments.baselines([1.0])]
    whole = experiments.sweep(model, methods, pairs, [0, 1], names=())
    with pytest.MonkeyPatch.context() as context, pytest.raises(KeyboardInterrupt):
        measured_rows(context, stop_at=3)
        experiments.sweep(model, methods, pairs, [0, 1], store=store, names=())
    assert len(store.read_text().split()) > 3 and len(experiments.Store(store)) == 3
    with store.open("a") as file:
        file.write('\n{"key": "cut sho')  # the power went while a line was written

    with pytest.MonkeyPatch.context() as context:
        measured = measured_rows(context)
        rows = experiments.sweep(model, methods, pairs, [0, 1], store=store, names=())
        assert measured.count("ITER") == 4 - 3
        same = [c for c in whole.columns if c != "seconds"]
        pd.testing.assert_frame_equal(rows[same], whole[same])
        measured.clear()
        experiments.sweep(model, methods, pairs, [0, 1], store=store, names=())
        assert measured == []  # the row after the cut line was readable too


@pytest.mark.parametrize("change", ["weights", "calibration", "setting", "seed", "photo"])
def test_rows_of_something_else_are_not_taken(change: str, model: ITER, pairs: list[experiments.Pair], tmp_path: Path,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    store, method, seeds, photos = tmp_path / "rows.jsonl", Method("ITER", sampler=Sampler(steps=2)), [0], pairs[:1]
    experiments.sweep(model, [method], photos, seeds, store=store, names=())
    measured = measured_rows(monkeypatch)
    method = dataclasses.replace(method, name="another name")
    experiments.sweep(model, [method], photos, seeds, store=store, names=())
    assert measured == []
    bias = model.refiner.head.bias
    assert bias is not None
    if change == "weights":
        bias.data += 1
    elif change == "calibration":
        monkeypatch.setattr(model, "calibration", 1.0)
    elif change == "setting":
        method = dataclasses.replace(method, sampler=Sampler(steps=2, remask=True))
    elif change == "seed":
        seeds = [1]
    else:  # other pixels under the same name
        photos = [dataclasses.replace(pairs[0], lq=pairs[0].lq.flip(-1))]
    try:
        experiments.sweep(model, [method], photos, seeds, store=store, names=())
    finally:
        if change == "weights":
            bias.data -= 1
    assert measured == ["another name"]


Change = Callable[[pytest.MonkeyPatch], None]


def other_sampler(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(masking.POLICIES, "evaluator", ("evaluator", masking.greedy))


def other_network(patch: pytest.MonkeyPatch) -> None:
    real = Evaluator.forward
    patch.setattr(Evaluator, "forward", lambda self, *maps: real(self, *maps).flip(1))


def other_picture(patch: pytest.MonkeyPatch) -> None:
    real = VQGAN.decode
    patch.setattr(VQGAN, "decode", lambda self, tokens: real(self, tokens) * 0.9)


def other_metric(patch: pytest.MonkeyPatch) -> None:
    real = metrics.score
    patch.setattr(metrics, "score", lambda *given: real(*given) + 0.001)


def other_tiling(patch: pytest.MonkeyPatch) -> None:
    real = tiling.apply_tiled
    patch.setattr(tiling, "apply_tiled", lambda *given: real(*given).roll(1, -1))


def nothing(patch: pytest.MonkeyPatch) -> None:
    pass


@pytest.mark.parametrize(("change", "again"), [
    (nothing, []), (other_sampler, ["ITER"]), (other_network, ["ITER"]), (other_picture, ["ITER", "S_l"]),
    (other_metric, ["ITER", "S_l", "bicubic"]),
])  # fmt: skip
def test_rows_of_other_code_are_not_taken(change: Change, again: list[str], model: ITER, pairs: list[experiments.Pair],
                                          tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the methods whose behaviour has changed are measured again."""
    pytest.importorskip("pyiqa", reason="pyiqa is not installed")
    methods = [Method("ITER", sampler=Sampler(steps=4)), Method("S_l", "S_l"), Method("bicubic", "bicubic")]
    call = {"store": tmp_path / "rows.jsonl", "names": ["psnr"]}
    experiments.sweep(model, methods, pairs[:1], [0], **call)
    measured = measured_rows(monkeypatch)
    change(monkeypatch)
    experiments.sweep(model, methods, pairs[:1], [0], **call)
    assert measured == again


@pytest.fixture
def real_photos(tmp_path: Path) -> Path:
    """A folder like shared/data, with noise for RealSRSet and the outputs of another method."""
    generator = torch.Generator().manual_seed(0)
    peer = ("published/peer", ("a_peer.png", "b_peer.png"), 96)
    for folder, names, side in (("test/realsrset", ("a.png", "b.png"), 24), peer):
        (tmp_path / folder).mkdir(parents=True)
        for i, name in enumerate(names):
            image = torch.rand(3, side + 8 * i, side + 8 * i, generator=generator)
            write(Photo(image), tmp_path / folder / name)
    return tmp_path


def mean_of_pixels(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The only metric from now on; the sizes of what it is given, but for the pictures that stand for the code."""
    scored: list[tuple[int, ...]] = []

    def score(name: str, image: torch.Tensor, *reference: object) -> torch.Tensor:
        if not reference:
            scored.append(tuple(image.shape[-2:]))
        return image.mean()

    monkeypatch.setattr(metrics, "available", lambda name: name == "niqe")
    monkeypatch.setattr(metrics, "score", score)
    return scored


def test_table_1_scores_every_method_alike(model: ITER, real_photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scored = mean_of_pixels(monkeypatch)
    store = real_photos / "rows.jsonl"
    rows = experiments.real_set(model, real_photos, Sampler(steps=1), largest=24, store=store)
    photos = rows.groupby("method", sort=False).photo.agg(list).to_dict()
    assert photos == {"bicubic": ["a", "b"], "peer": ["a", "b"], "ITER": ["a"]}
    assert scored == [(96, 96), (128, 128), (96, 96), (104, 104), (96, 96)]
    again = experiments.real_set(model, real_photos, Sampler(steps=1), largest=24, store=store)
    assert len(scored) == 5 and again.equals(rows)


@pytest.mark.parametrize(("change", "again"), [(nothing, 0), (other_sampler, 1), (other_picture, 1), (other_tiling, 1),
                                               (other_metric, 5)])
def test_table_1_takes_no_rows_of_other_code(change: Change, again: int, model: ITER, real_photos: Path,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    scored = mean_of_pixels(monkeypatch)
    call = {"largest": 24, "store": real_photos / "rows.jsonl"}
    experiments.real_set(model, real_photos, Sampler(steps=4), **call)
    scored.clear()
    change(monkeypatch)
    experiments.real_set(model, real_photos, Sampler(steps=4), **call)
    assert len(scored) == again


def test_crops_are_whole_windows_and_photos_too_small_are_refused(model: ITER) -> None:
    (pair,) = experiments.make_pairs({"odd": torch.rand(3, 75, 130)}, model.tier, 100)
    assert pair.hq.shape == (1, 3, 64, 96) and pair.lq.shape == (1, 3, 16, 24)
    with pytest.raises(ValueError, match=r"photo small is \(20, 90\), needed at least 32"):
        experiments.make_pairs({"small": torch.rand(3, 20, 90)}, model.tier, 100)


# The share of good tokens --------------------------------------------------------------------------------------------


def test_the_fitted_shift_undoes_a_shift_that_was_put_in() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(20_000, generator=generator, dtype=torch.float64) - 1
    good = torch.rand(20_000, generator=generator) < logits.sigmoid()
    assert fit_shift(logits + 1.5, good) == pytest.approx(-1.5, abs=0.06)
    with pytest.raises(ValueError, match="share of good tokens is 1"):
        fit_shift(logits, torch.ones_like(good))


def test_the_models_own_shift_does_not_reach_the_fit_and_comes_back(model: ITER, pairs: list[experiments.Pair],
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    plain, _ = experiments.judge(model, pairs)
    monkeypatch.setattr(model, "calibration", 3.0)
    shifted, _ = experiments.judge(model, pairs)
    assert torch.allclose(plain, shifted) and model.calibration == 3.0


def test_photos_to_calibrate_on_are_never_tested_on() -> None:
    assert not set(experiments.held_out(None)) & set(experiments.unseen_photos())


# What rows answer ----------------------------------------------------------------------------------------------------


def table(values: dict[float, list[float]], method: str = "m") -> pd.DataFrame:
    return pd.DataFrame([{"method": method, "photo": f"p{i}", "seed": 0, "dial": dial, "lpips": v}
                         for dial, per_photo in values.items() for i, v in enumerate(per_photo)])


def test_the_best_setting_is_chosen_without_its_own_photo() -> None:
    rows = table({0.0: [0.0, 0.9, 0.9], 1.0: [0.5, 0.5, 0.5]})  # setting 0 is best on p0 alone
    assert experiments.at_its_best(rows, "lpips").sort_values("photo").dial.tolist() == [1.0, 0.0, 0.0]


def test_differences_are_paired() -> None:
    photos = torch.randn(30, generator=torch.Generator().manual_seed(0)).tolist()
    a, b = table({0.0: [v - 0.1 for v in photos]}), table({0.0: photos})
    found = experiments.difference(a, b, "lpips")
    assert found["mean"] == pytest.approx(-0.1) and found["high"] < 0 and found["n"] == 30
    wide = experiments.interval(a, "lpips")
    assert wide["high"] - wide["low"] > 0.3
    with pytest.raises(ValueError, match="not measured on the same photos"):
        experiments.difference(a, b[1:], "lpips")


def test_the_gain_of_steps_is_a_share_of_one_steps_mean() -> None:
    rows = table({1.0: [0.4, 0.6, 0.5], 8.0: [0.3, 0.5, 0.4]})
    found = experiments.gain_of_steps(rows, "lpips")
    assert found == {"mean": pytest.approx(0.2), "low": pytest.approx(0.2), "high": pytest.approx(0.2), "n": 3}


def test_a_point_for_notebook_10_is_measured(model: ITER) -> None:
    found = elsewhere.point(model, photos=2, seeds=(0,), value="gmsd")
    assert found["gain"]["n"] == 2 and abs(found["information"]) < 0.2, "random weights read no neighbour"


# The ledger ----------------------------------------------------------------------------------------------------------


def found(mean: float, half: float = 0.01, n: int = 24) -> dict[str, float]:
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": n}


BELOW = ledger.Claim("0", "less", "Fig. 0", "09", ("d < 0",), ("why",))


@pytest.mark.parametrize(("evidence", "verdict"), [
    ({"d": found(-0.02)}, "holds"),
    ({"d": found(0.02)}, "does not hold"),
    ({"d": found(-0.005)}, "does not hold"),  # the interval reaches over zero
    ({"d": found(-0.02, n=5)}, "not measured"),
    ({}, "not measured"),
])
def test_a_verdict_comes_from_the_interval(evidence: dict[str, dict[str, float]], verdict: str) -> None:
    assert ledger.verdict(BELOW, evidence) == verdict


@pytest.mark.parametrize(("need", "met", "missed"), [
    ("x < 1", 0.9, 0.995), ("x > 1", 1.1, 1.005), ("x ≤ 0.01", 0.0, 0.005), ("x ≥ 0.9", 0.92, 0.9),
    ("x ≈ 7.98 ± 0.03", 8.0, 8.02),
])  # fmt: skip
def test_every_relation_is_met_and_missed(need: str, met: float, missed: float) -> None:
    assert ledger.met(need, {"x": found(met)}) and not ledger.met(need, {"x": found(missed)})


def test_an_unknown_relation_is_refused() -> None:
    with pytest.raises(ValueError, match="need 'x == 0'"):
        ledger.met("x == 0", {"x": found(0)})


def everything(value: float) -> dict[str, dict[str, Any]]:
    evidence = {name: found(value) for claim in ledger.CLAIMS
                for name in (*(ledger.parse(need)[0] for need in claim.needs), *claim.explained_by)}
    results = {"evidence": evidence, "weights": "0123456789ab", "photos": 24, "seeds": 3}
    return {number: {"provenance": {"tier": "tiny"}, "results": results} for number in ledger.NOTEBOOKS}


def test_the_ledger_has_every_claim_and_a_command_that_parses() -> None:
    from itersr.cli import parser

    rows = ledger.claims({})
    assert {row["number"][0] for row in rows} == set("123456789")
    assert {row["verdict"] for row in rows} == {"not measured"}
    for row in ledger.claims(everything(-5.0)):
        assert parser().parse_args(shlex.split(row["command"])[1:]).tier == "tiny"


def test_a_difference_is_coloured_by_what_its_interval_decides() -> None:
    from matplotlib.colors import to_hex
    from matplotlib.figure import Figure

    axis = Figure().subplots()
    differences = {"less": (-2.0, -1.0, 24), "more": (1.0, 2.0, 24), "open": (-1.0, 1.0, 24), "few photos": (1.0, 2.0, 2)}
    ledger.draw(axis, {name: {"mean": (low + high) / 2, "low": low, "high": high, "n": n}
                       for name, (low, high, n) in differences.items()})
    bars = [line for line in axis.lines if line.get_linewidth() == 2]
    assert [to_hex(bar.get_color()) for bar in bars] == [to_hex(c) for c in ("0.5", "0.5", "C3", "C0")]  # from the bottom up
    assert [label.get_text() for label in axis.get_yticklabels()] == ["few photos", "open", "more", "less"]


def test_a_sentence_says_what_the_interval_decides() -> None:
    bounds = ((-2, -1, 24), (1, 2, 24), (-1, 1, 24), (1, 2, 2))
    found = [{"mean": 0.0, "low": low, "high": high, "n": n} for low, high, n in bounds]
    assert [ledger.says(one, "better", "worse") for one in found] == ["better", "worse", "not told apart", "not told apart"]


def test_the_variants_that_notebook_09_shows_have_their_numbers_and_commands() -> None:
    paths = sorted((ROOT / "figures" / "results" / "variants").glob("*.json"))
    assert [path.stem for path in paths] == ["tiny-f8", "tiny-paper-form", "tiny-posterior-form"]
    for path in paths:
        content = json.loads(path.read_text(encoding="utf-8"))
        results = content["results"]
        assert results["sets"]["Kodak24"]["photos"] == 24 and results["seeds"] == 3
        assert {"LPIPS, φ_r proposes − E_l proposes", "LPIPS, one run − runs mixed"} <= results["evidence"].keys()
        assert any("itersr train token_nets --tier tiny" in command for command in content["commands"])


def test_what_does_not_hold_says_why() -> None:
    rows = {row["number"]: row for row in ledger.claims(everything(5.0))}
    assert rows["7a"]["verdict"] == "does not hold" and "LPIPS, one run − runs mixed: 5.00" in rows["7a"]["because"]
    assert rows["3a"]["verdict"] == "holds" and rows["3a"]["because"] == ""


def test_the_readme_is_made_from_the_ledger(tmp_path: Path) -> None:
    (tmp_path / "figures" / "results").mkdir(parents=True)
    for number, content in everything(-5.0).items():
        (tmp_path / "figures" / "results" / f"{number}.json").write_text(json.dumps(content))
    (tmp_path / "README.md").write_text(f"# One\n{ledger_tools.BEGIN}\nstale text\n{ledger_tools.END}\nrest\n")
    rows = ledger_tools.write(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert "stale text" not in text and text.startswith("# One\n") and text.endswith(f"{ledger_tools.END}\nrest\n")
    assert "LPIPS, ITER − S_l: −5.00 [−5.01, −4.99]" in text and "**holds**" in text
    assert json.loads((tmp_path / "figures" / "results" / "claims.json").read_text()) == rows
    ledger_tools.write(tmp_path)
    assert (tmp_path / "README.md").read_text() == text
    (tmp_path / "README.md").write_text("no marks")
    with pytest.raises(ValueError, match="needs <!-- claims -->"):
        ledger_tools.write(tmp_path)


def test_a_model_card_takes_its_test_photos_from_notebook_09() -> None:
    summary = [{"method": name, "value": value, **found(number)} for name, number in (("bicubic", 0.5), ("ITER", 0.2))
               for value in ("psnr", "lpips")]
    text = ledger_tools.card({"side": 192, "seeds": 3, "conventions": {"lpips": "LPIPS v0.1"}, "sets": {
        "Kodak24": {"photos": 24, "summary": summary[:-1], "differences": {"LPIPS, ITER − bicubic": found(-0.3)}}}})
    assert "Kodak24: 24 photos, centre crops of 192², 3 seeds" in text
    assert "| bicubic | 0.500 [0.490, 0.510] | 0.500 [0.490, 0.510] |" in text
    assert "| ITER | 0.200 [0.190, 0.210] | – |" in text and "- LPIPS, ITER − bicubic: −0.300" in text


def test_the_committed_ledger_readme_and_card_are_what_the_results_say(tmp_path: Path) -> None:
    benchmark = ledger.read_results(ROOT / "figures" / "results")["09"]["results"]
    card = Path("itersr") / "shipped" / benchmark["tier"] / "MODEL_CARD.md"
    results = [Path("figures") / "results" / f"{number}.json" for number in ledger.NOTEBOOKS]
    written = [Path("README.md"), Path("figures") / "results" / "claims.json", card]
    for path in (*results, *written):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, tmp_path / path)
    rows = ledger_tools.write(tmp_path)
    for path in written:
        assert (ROOT / path).read_bytes() == (tmp_path / path).read_bytes(), "python -m tests.ledger_tools renews it"
    for row in rows:  # the ordering behind every verdict, from the stored numbers
        claim = next(c for c in ledger.CLAIMS if c.number == row["number"])
        if row["verdict"] != "not measured":
            assert all(ledger.met(need, row["evidence"]) for need in claim.needs) == (row["verdict"] == "holds")
