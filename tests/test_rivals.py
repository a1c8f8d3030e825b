"""The rivals of ITER: what they are, that they learn, and a peer's weights in another form."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from data_prep import realesrgan
from itersr import cli, weights
from itersr.config import tier
from itersr.lab import experiments, rivals
from itersr.lab.experiments import Method
from itersr.lab.rivals import measure
from itersr.lab.rivals.gan import RRDBNet
from itersr.model import ITER
from itersr.pictures import Photo
from itersr.sampling import Sampler
from itersr.training import run as training_run
from itersr.training.loop import OtherRun, TrainingError
from itersr.upscaling.read import read
from itersr.upscaling.write import write
from tests import rivals as made

SMOKE = tier("smoke")


def parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_rivals_have_iters_size_within_a_fifth() -> None:
    config = tier("tiny")
    iter_ = ITER(config)
    nets = {what: rivals.make(what, config, rivals.settings_of(what, config)) for what in rivals.RIVALS}
    assert parameters(nets["rival-gan"].generator) == pytest.approx(parameters(iter_), rel=0.2)
    beside = sum(parameters(net) for net in (iter_.lq_encoder, iter_.refiner, iter_.evaluator))
    assert parameters(nets["rival-ldm"].unet) == pytest.approx(beside, rel=0.2)  # both beside the same VQGAN


@pytest.mark.parametrize("what", rivals.RIVALS)
def test_a_picture_of_any_size_comes_out_four_times_as_large(what: str) -> None:
    rival = rivals.make(what, SMOKE, rivals.settings_of(what, SMOKE)).eval()
    lq = torch.rand(2, 3, 21, 17)
    first = rival.restore(lq, steps=2, seed=3)
    assert first.shape == (2, 3, 84, 68) and 0 <= first.min() and first.max() <= 1
    assert torch.equal(first, rival.restore(lq, steps=2, seed=3))
    assert torch.equal(first, rival.restore(lq, steps=2, seed=4)) == (what == "rival-gan")


def test_the_command_line_knows_every_rival() -> None:
    for what in rivals.RIVALS:
        assert cli.parser().parse_args(["train", what]).what == what


def test_unknown_names_and_scales_are_refused() -> None:
    with pytest.raises(ValueError, match="there are rival-gan, rival-ldm"):
        rivals.make("rival-vae", SMOKE, rivals.settings_of("rival-gan", SMOKE))
    with pytest.raises(ValueError, match="×4 alone"):
        rivals.make("rival-gan", dataclasses.replace(SMOKE, scale=2), rivals.settings_of("rival-gan", SMOKE))


def test_the_velocity_of_a_known_field_leads_back_to_the_latent() -> None:
    """With the true velocity ε − z in place of the U-Net's, one Euler step and twenty both arrive at z."""
    ldm = rivals.make("rival-ldm", SMOKE, rivals.settings_of("rival-ldm", SMOKE)).eval()
    tokens = torch.randint(SMOKE.vqgan.codes, (1, 8, 8), generator=torch.Generator().manual_seed(0))
    z = ldm.vqgan.codebook.lookup(tokens).detach() / ldm.scale
    wanted = ldm.vqgan.decode(tokens).float().clamp(0, 1)
    # x_t = (1 − t) z + t ε, so (x_t − z) / t is ε − z
    ldm.unet.forward = lambda x, t, given: (x - z) / t[:, None, None, None]
    for steps in (1, 20):
        assert torch.allclose(ldm.restore(torch.rand(1, 3, 8, 8), steps=steps), wanted, atol=1e-4)


@pytest.mark.parametrize("what", ["rival-iter", *rivals.RIVALS])
def test_a_short_run_validates_once(what: str, tmp_path: Path) -> None:
    """A rival has three validations, which are all that a run of so few steps would do; other stages of a tier, likewise."""
    call = ["train", what, "--tier", "smoke", "--steps", "6", "--batch", "1", "--crop", "32", "--device", "cpu"]
    assert cli.main([*call, "--out", str(tmp_path)]) == 0
    for log in tmp_path.glob("*/log.csv"):
        rows = [line.split(",") for line in log.read_text().splitlines()]
        assert {row[0] for row in rows if row[2] == "validation"} == {"6"}
    assert training_run.changed(SMOKE.train["iter"], {"steps": 6, "validations": 3}).validations == 3
    assert training_run.changed(SMOKE.train["iter"], {"lr": 1.0}).validations == SMOKE.train["iter"].validations


@pytest.mark.parametrize("what", rivals.RIVALS)
def test_a_rival_learns_goes_on_and_is_loaded_again(what: str, tmp_path: Path) -> None:
    calls = {"validation": (2, 64), "progress": False, "device": "cpu"}
    rivals.train_rival(what, SMOKE, None, tmp_path / "a", changes={"steps": 30, "validations": 1}, stop_at=13, **calls)
    late = rivals.train_rival(what, SMOKE, None, tmp_path / "a", changes={"steps": 30, "validations": 1}, resume=True, **calls)
    once = rivals.train_rival(what, SMOKE, None, tmp_path / "b", changes={"steps": 30, "validations": 1}, **calls)
    assert late == once, "a run that was interrupted ends as one that was not"
    losses = [float(line.split(",")[4]) for line in (tmp_path / "b" / what / "log.csv").read_text().splitlines()
              if line.split(",")[2:4] in (["train", "generator"], ["train", "unet"])]
    assert all(np.isfinite(losses))
    loaded = rivals.load(what, tmp_path / "b" / "weights")
    trained = rivals.load(what, tmp_path / "a" / "weights")
    lq = torch.rand(1, 3, 16, 16)
    assert torch.equal(loaded.restore(lq, 2), trained.restore(lq, 2))
    with pytest.raises(OtherRun, match="lr was"):
        rivals.train_rival(what, SMOKE, None, tmp_path / "b", changes={"steps": 30, "lr": 1e-5}, resume=True, **calls)


def test_one_step_lowers_the_loss_of_what_was_seen() -> None:
    """Ten updates on one batch: both losses fall."""
    batch = {"hq": torch.rand(2, 3, 64, 64), "lq": torch.rand(2, 3, 16, 16), "index": torch.arange(2)}
    for what in rivals.RIVALS:
        torch.manual_seed(0)
        rival = rivals.make(what, SMOKE, rivals.settings_of(what, SMOKE))
        part = next(iter(rival.parts))
        adam, seen = torch.optim.Adam(rival.parts[part].parameters(), 1e-3), []
        for _ in range(10):
            loss, _ = rival(batch, 0.0, part)
            adam.zero_grad()
            loss.backward()
            adam.step()
            seen.append(loss.item())
        assert seen[-1] < 0.9 * seen[0], (what, seen)


def test_the_adversary_joins_where_it_is_told() -> None:
    gan = rivals.make("rival-gan", SMOKE, rivals.settings_of("rival-gan", SMOKE))
    assert gan.active(0.39) == ["generator"] and gan.active(0.4) == ["generator", "discriminator"]
    batch = {"hq": torch.rand(1, 3, 64, 64), "lq": torch.rand(1, 3, 16, 16)}
    assert "adversarial" not in gan(batch, 0.1, "generator")[1]
    assert {"l1", "adversarial"} <= gan(batch, 0.5, "generator")[1].keys()
    loss, _ = gan(batch, 0.5, "discriminator")
    loss.backward()
    assert all(p.grad is None for p in gan.generator.parameters()), "the adversary's loss does not move the generator"


# Experiments ---------------------------------------------------------------------------------------------------------


def test_the_grid_runs_every_setting_once_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, float, float, int]] = []

    def rival(what: str, config: Any, data: Any, out: Path, *, changes: dict[str, float], seed: int, **_: Any) -> None:
        calls.append((what, changes["lr"], changes["gan_weight"], seed))
        if len(calls) == 5:
            raise KeyboardInterrupt
        if changes["gan_weight"] > 0.2:
            raise TrainingError("step 3: loss is nan")

    def stage(name: str, config: Any, data: Any, out: Path, *, minutes: float, seed: int, **_: Any) -> dict[str, float]:
        calls.append((name, config.train["vqgan"].lr, minutes, seed))
        return {}  # as for a stage that had been trained before a kill

    def bright(run: dict[str, Any], folder: Path, lq: torch.Tensor) -> torch.Tensor:
        return experiments.bicubic(lq, 4) + (0.01 if run["method"] == "ITER" else 0.02)

    monkeypatch.setattr(made, "train_rival", rival)
    monkeypatch.setattr(training_run, "train_stage", stage)
    monkeypatch.setattr(made, "restored", bright)
    with pytest.raises(KeyboardInterrupt):
        made.grid(SMOKE, None, tmp_path, 2.0)
    rows = made.grid(SMOKE, None, tmp_path, 2.0)
    assert rows == [json.loads(line) for line in (tmp_path / "grid.jsonl").read_text().splitlines()]
    assert len(rows) == 1 + 9 + 27 and sum("failed" in row for row in rows) == 9
    assert len({(row["method"], row.get("rate"), row.get("weight"), row.get("seed")) for row in rows}) == len(rows)
    stages = [stage for stage in SMOKE.plan if stage != "vqgan"]
    first = [call for call in calls if call[0] in stages][: len(stages)]
    assert sum(minutes for _, _, minutes, _ in first) == pytest.approx(2.0), "the stages share the minutes of a run"
    assert first[0][1] == pytest.approx(SMOKE.train["vqgan"].lr / 3)
    psnr = {method: {row["psnr"] for row in rows if row["method"] == method and "psnr" in row} for method in ("ITER", "GAN")}
    assert len(psnr["ITER"]) == len(psnr["GAN"]) == 1, "every run is judged on the same crops"
    assert rows[0]["psnr"] > min(psnr["ITER"]) > min(psnr["GAN"])
    assert made.grid(SMOKE, None, tmp_path, 2.0) == rows and len(calls) == 1 + 27 + 9 * len(stages)


@pytest.mark.skipif(not experiments.metrics.available("lpips") or not experiments.metrics.available("niqe"),
                    reason="the weights of LPIPS and NIQE are not on this machine")
def test_what_is_recorded_for_the_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that notebook 11 reads is there, of every family, for networks that nobody trained."""
    folder = tmp_path / "runs" / "weights"
    ITER(SMOKE).save(folder)
    for what in rivals.RIVALS:
        weights.save(folder, rivals.make(what, SMOKE, rivals.settings_of(what, SMOKE)).trained, SMOKE)
    photo = {"one": experiments.unseen_photos(1)["chelsea"]}
    monkeypatch.setattr(experiments, "unseen_photos", lambda *_: photo)
    monkeypatch.setattr(made, "ROOT", tmp_path)  # for the picture
    (tmp_path / "figures").mkdir()
    counts = {"iter_steps": (1, 2), "ldm_steps": (1, 3)}
    for name, own in (("curves", {**counts, "temperatures": (0.7, 1.0)}), ("seconds", counts), ("noise", {"ldm_steps": 2}),
                      ("noise_figure", {"ldm_steps": 2})):
        monkeypatch.setattr(measure, name, functools.partial(getattr(measure, name), **own))
    found = json.loads(json.dumps(made.record(tmp_path / "runs", 3.0, None, 1)))
    rows = pd.DataFrame(found["rows"])
    assert {(row.family, row.calls, row.dial) for row in rows.itertuples()} == {
        ("ITER", 2, 0.7), ("ITER", 2, 1.0), ("ITER", 4, 0.7), ("ITER", 4, 1.0), ("GAN", 1, 1.0),
        ("LDM", 1, 0.7), ("LDM", 1, 1.0), ("LDM", 3, 0.7), ("LDM", 3, 1.0)}
    assert rows[["psnr", "lpips", "gmsd", "niqe"]].notna().all(axis=None)
    assert {(row["family"], row["calls"]) for row in found["seconds"]} == {(row.family, row.calls) for row in rows.itertuples()}
    assert set(found["costs"]) == {"ITER", "LDM", "GAN"} and all(own["megabytes"] >= 0 for own in found["costs"].values())
    assert {row["sigma"] for row in found["noise"]} == {10, 25} and found["grid"] == [] and found["minutes"] == 3
    assert (tmp_path / "figures" / "11_rivals_noise.png").read_bytes().startswith(b"\x89PNG")


def rows_of(family: str, values: dict[int, float], photos: int = 8) -> pd.DataFrame:
    """LPIPS by number of calls; at temperature 1 worse by .02, and each photo worse than the one before."""
    return pd.DataFrame([{"family": family, "calls": n, "dial": dial, "photo": f"p{i}", "seed": 0,
                          "lpips": value + 0.02 * (dial == 1) + 0.03 * i}
                         for n, value in values.items() for dial in (0.85, 1.0) for i in range(photos)])


def test_how_many_calls_are_enough() -> None:
    rows = pd.concat([rows_of("ITER", {2: 0.21, 4: 0.20}), rows_of("LDM", {1: 0.5, 10: 0.215, 50: 0.2})])
    ours, theirs = (measure.by_calls(rows, family, "lpips") for family in ("ITER", "LDM"))
    assert ours.shape == (8, 2) and ours[4].iloc[0] == pytest.approx(0.2), "at the better temperature"
    assert measure.enough(ours, 0.011) == 2 and measure.enough(ours, 0.009) == 4 and measure.enough(theirs, 0.011) == 50
    found = measure.enough_difference(ours, theirs, 0.011)
    assert found == {"mean": 2 - 50, "low": 2 - 50, "high": 2 - 50, "n": 8}
    theirs.iloc[:4, 2] -= 0.1  # half of the photos gain by 50 calls, the others lose: photos decide, so the interval is wide
    theirs.iloc[4:, 2] += 0.1
    found = measure.enough_difference(ours, theirs, 0.011)
    assert found["low"] < found["high"]


def runs_of(scores: list[float]) -> pd.DataFrame:
    """Runs of three seeds, by turns; nan: it broke off."""
    return pd.DataFrame([{"seed": i % 3, "lpips": score} for i, score in enumerate(scores)])


def test_which_share_of_runs_is_usable() -> None:
    assert measure.usable([0.2, 0.21, 0.22, None]) == [True, True, False, False]
    third = runs_of([0.2] * 3 + [np.nan] * 3 + [0.5] * 3)
    found = measure.usable_difference(runs_of([0.2] * 9), third, "lpips", draws=50)
    assert found == {**dict.fromkeys(("mean", "low", "high"), pytest.approx(2 / 3)), "n": 9, "of": "runs"}
    one_seed_is_bad = measure.usable_difference(runs_of([0.2] * 9), runs_of([0.2, 0.2, 0.5] * 3), "lpips", draws=200)
    assert one_seed_is_bad["low"] == 0 < one_seed_is_bad["mean"] < one_seed_is_bad["high"], "of one seed alone all are usable"


def test_noise_is_seen_in_flat_places_alone() -> None:
    hq = torch.full((1, 3, 64, 64), 0.5)
    hq[..., 32:] = torch.rand(1, 3, 64, 32, generator=torch.Generator().manual_seed(0))
    assert not measure.flat_places(hq)[:, 40:].any()
    noise = 20 / 255 * torch.randn(hq.shape, generator=torch.Generator().manual_seed(1))
    assert measure.noise_left(hq, hq) < 1
    assert measure.noise_left(hq + noise, hq) == pytest.approx(20, rel=0.1), "the mean of 25 pixels takes 2 % away"


def test_how_far_noise_is_from_that_of_hq() -> None:
    model = ITER(SMOKE).eval()
    gan, ldm = (rivals.make(what, SMOKE, rivals.settings_of(what, SMOKE)).eval() for what in ("rival-gan", "rival-ldm"))
    pair = experiments.make_pairs(experiments.bundled("test"), SMOKE, 32, 0)[0]
    rows = pd.DataFrame(measure.noise(model, gan, ldm, [pair], (25,), ldm_steps=1)).set_index("family")
    assert list(rows.index) == ["bicubic", "GAN", "LDM", "ITER", "bound", "HQ"] and rows.beyond["HQ"] == 0
    assert rows.beyond["bicubic"] == pytest.approx(abs(rows.left["bicubic"] - rows.left["HQ"]), abs=0.002)


def test_seconds_are_counted_by_calls() -> None:
    model = ITER(SMOKE).eval()
    gan, ldm = (rivals.make(what, SMOKE, rivals.settings_of(what, SMOKE)).eval() for what in ("rival-gan", "rival-ldm"))
    pair = experiments.make_pairs(experiments.bundled("test"), SMOKE, 32, 0)[0]
    rows = measure.seconds(model, gan, ldm, pair, iter_steps=(1, 2), ldm_steps=(1,), repeats=1)
    assert [(row["family"], row["calls"]) for row in rows] == [("GAN", 1), ("ITER", 2), ("ITER", 4), ("LDM", 1)]
    assert all(row["seconds"] > 0 for row in rows)


def test_logs_are_thinned(tmp_path: Path) -> None:
    (tmp_path / "iter").mkdir()
    lines = [f"{i},{6 * i},train,{name},{i / 10}" for i in range(1, 101) for name in ("lpips", "learning rate")]
    lines.append("100,600,validation,lpips,0.3")
    (tmp_path / "iter" / "log.csv").write_text("\n".join(["step,seconds,split,name,value", *lines]))
    logs = measure.logs_of(tmp_path, 10)
    assert list(logs) == ["iter"] and list(logs["iter"]) == ["lpips", "validation lpips"]
    assert logs["iter"]["lpips"][0] == [0.1, 0.1] and logs["iter"]["lpips"][-1] == [10, 10] and len(logs["iter"]["lpips"]) == 11
    assert logs["iter"]["validation lpips"] == [[10, 0.3]]


def test_a_rival_takes_part_in_experiments(tmp_path: Path) -> None:
    model = ITER(SMOKE).eval()
    ldm = rivals.make("rival-ldm", SMOKE, rivals.settings_of("rival-ldm", SMOKE)).eval()
    pairs = experiments.make_pairs(experiments.bundled("test"), SMOKE, 32, 0)[:2]
    methods = [Method("LDM", "rival", Sampler(steps=n), dial=n, rival=ldm) for n in (1, 2)]
    rows = experiments.sweep(model, methods, pairs, (0, 1), store=tmp_path / "rows.jsonl", names=["psnr"])
    assert len(rows) == 8 and rows.psnr.notna().all()
    assert rows.groupby(["photo", "dial"]).psnr.nunique().eq(2).all(), "another seed, another picture"


# A peer's weights ----------------------------------------------------------------------------------------------------


def test_ncnns_file_becomes_the_same_network() -> None:
    torch.manual_seed(0)
    network = RRDBNet(7, 1)  # an odd width: some weights have to be filled up to whole words
    numbers, tensors = b"", list(network.state_dict().values())
    for weight, bias in zip(tensors[::2], tensors[1::2], strict=True):
        halves = weight.half().numpy().tobytes()
        numbers += b"mark" + halves + b"\0" * (-len(halves) % 4) + bias.numpy().tobytes()
    found = realesrgan.read_convolutions(numbers, network)
    for name, own in network.state_dict().items():
        assert torch.allclose(own, torch.from_numpy(found[name]), atol=1e-3)
    with pytest.raises(ValueError, match="4 bytes are left over"):
        realesrgan.read_convolutions(numbers + b"\0" * 4, network)


def test_real_esrgan_has_351_convolutions() -> None:
    assert len([name for name in RRDBNet().state_dict() if name.endswith("weight")]) == 351
    assert parameters(RRDBNet()) == pytest.approx(16.7e6, rel=0.01)


def test_a_peer_is_measured_on_ones_own_photos(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    call = ["evaluate", "--peer", "realesrgan", "--inputs", str(tmp_path / "lq"), "--reference", str(tmp_path / "hq"),
            "--peers", str(tmp_path / "peers"), "--metrics", "psnr"]
    for folder, side in (("lq", 12), ("hq", 48)):
        (tmp_path / folder).mkdir()
        write(Photo(torch.rand(3, side, side)), tmp_path / folder / "a.png")
    assert cli.main(call) != 0 and "get it by `python -m data_prep realesrgan`" in capsys.readouterr().err

    small = RRDBNet(8, 1)
    monkeypatch.setattr("itersr.lab.evaluation.RRDBNet", lambda: small)
    weights.save(tmp_path / "peers" / "realesrgan", {"generator": small}, SMOKE)
    assert cli.main(call) == 0
    assert "realesrgan" in capsys.readouterr().out
    assert [p.name for p in (tmp_path / "lq").iterdir()] == ["a.png"], "outputs are not left among the inputs"
    assert read(tmp_path / "lq" / "a.png").tensor.shape == (3, 12, 12)
    write(Photo(torch.rand(3, 12, 12)), tmp_path / "lq" / "a.jpg")
    assert cli.main(call) == 2
    assert re.search("a.jpg and .*a.png would both become .*a.png; rename one", capsys.readouterr().err)


@pytest.mark.parametrize(("arguments", "message"), [
    ([], "nothing to measure"),
    (["--peer", "realesrgan"], "--peer needs --inputs"),
    (["--inputs", "x", "--outputs", "a=b"], "--inputs needs --peer"),
    (["--peer", "realesrgan", "--inputs", "x", "--outputs", "realesrgan=b"], "and each name another"),
])
def test_calls_that_make_no_sense_are_refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", *arguments]) == 2
    assert message in capsys.readouterr().err
