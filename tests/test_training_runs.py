"""Whole runs: by the clock, by one command, interrupted, killed, refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from torch import Tensor

from itersr import pictures, weights
from itersr.cli import main
from itersr.config import tier
from itersr.model import ITER, pick_device
from itersr.training import loop, ship
from itersr.training import run as run_module
from itersr.training.data import Crops, Photos
from itersr.training.loop import Clock, OtherRun, TrainingError, Watch
from itersr.training.stage1 import Stage1
from tests.test_training import micro, run, state


class Made:
    """Time that passes when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: self.now))

    def passes(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Made:
    return Made(monkeypatch)


@pytest.fixture
def crop_takes_a_second(made: Made, monkeypatch: pytest.MonkeyPatch) -> Made:
    real = Crops.__getitem__

    def slow(self: Crops, index: int) -> dict[str, Tensor]:
        made.passes(1.0 if index >= 0 else 0.0)  # those of k-means take no time
        return real(self, index)

    monkeypatch.setattr(Crops, "__getitem__", slow)
    return made


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


# ----------------------------------------------------------------------------------------------------------- the clock


def test_a_run_by_steps_knows_no_time(made: Made) -> None:
    clock = Clock(8, None)
    for step in range(10):
        assert clock.along(step) == min(step / 8, 1)
        made.passes(1e6)
        clock.train()
    assert clock.seconds == 1e7 and not clock.ended


def test_a_run_by_minutes_leaves_room_for_what_is_not_training(made: Made) -> None:
    clock = Clock(3, 1.0)
    made.passes(5)
    assert clock.rest() == 5 and clock.along(0) == 0 == clock.along(1000)  # whatever the steps
    clock.reserve = 7
    shares = []
    for _ in range(12):
        made.passes(4)
        clock.train()
        shares.append(clock.along(0))
    assert shares == pytest.approx([4 * i / 48 for i in range(1, 13)])  # 48 = 60 − 5 − 7
    assert clock.seconds + clock.reserve == 60
    made.passes(100)
    clock.train()
    assert clock.along(0) == 1


def test_a_run_by_minutes_never_goes_back(made: Made) -> None:
    """Not even when a slow first validation, kept room for, is followed by quick ones."""
    clock, shares = Clock(3, 1.0), [0.0]
    while shares[-1] < 1:
        made.passes(1)
        clock.train()
        shares.append(clock.along(0))
        if len(shares) % 8 == 0:
            made.passes(10 if len(shares) == 8 else 1)
            clock.reserve = clock.rest()
            shares.append(clock.along(0))
    assert shares == sorted(shares) and shares[-1] == 1 and len(set(shares)) > 20
    assert 58 <= clock.seconds + clock.reserve <= 61
    assert Clock(3, 1e-9).along(0) == 0
    clock = Clock(3, 0.01)
    made.passes(5)
    clock.rest()
    assert clock.along(0) == 1  # no room at all


def test_a_run_ends_when_its_minutes_are_used_up(
    crop_takes_a_second: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Stage1.validate

    def slow(*inputs: object) -> object:
        crop_takes_a_second.passes(5.0)
        return real(*inputs)  # type: ignore[arg-type]

    monkeypatch.setattr(Stage1, "validate", slow)
    scalars = run(micro(validations=2, steps=3), tmp_path, minutes=1.0)
    log = pd.read_csv(tmp_path / "vqgan" / "log.csv")
    last = log[log.step == log.step.max()]
    assert set(last.split) == {"train", "validation"} and log[log.split == "validation"].step.nunique() == 2
    assert last[last.split == "validation"].set_index("name").value["psnr"] == pytest.approx(scalars["psnr"], rel=1e-4)
    assert 59 <= log.seconds.max() <= 62 and log.seconds.is_monotonic_increasing
    assert log.step.max() == state(tmp_path)["step"] > 20  # whatever `steps` says
    rates = log[log.name == "learning rate"].value
    assert rates.iloc[-1] < 0.1 * micro().train["vqgan"].lr
    assert (tmp_path / "weights" / "vqgan.safetensors").exists() and (tmp_path / "vqgan" / "samples.png").exists()

    before = contents(tmp_path)
    assert run(micro(validations=2, steps=3), tmp_path, minutes=1.0, resume=True) == {}
    assert contents(tmp_path) == before
    run(micro(validations=2, steps=3), tmp_path, minutes=2.0, resume=True)  # with more of them it goes on
    assert 119 <= pd.read_csv(tmp_path / "vqgan" / "log.csv").seconds.max() <= 122


def test_time_spent_before_an_interruption_counts(
    crop_takes_a_second: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = micro(checkpoint_every=2)
    run(config, tmp_path / "whole", minutes=1.0)
    slow = Crops.__getitem__

    def stopped(self: Crops, index: int) -> dict[str, Tensor]:
        if index >= 2 * 9:  # two crops a step, fetched one step ahead: the eighth is done, and has its checkpoint
            raise KeyboardInterrupt
        return slow(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(Crops, "__getitem__", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(config, tmp_path / "parts", minutes=1.0)
    assert state(tmp_path / "parts")["step"] == 8 and not state(tmp_path / "parts")["ended"]
    crop_takes_a_second.passes(1e6)  # a night
    run(config, tmp_path / "parts", minutes=1.0, resume=True)
    steps = [state(tmp_path / name)["step"] for name in ("whole", "parts")]
    seconds = [pd.read_csv(tmp_path / name / "vqgan" / "log.csv").seconds.max() for name in ("whole", "parts")]
    assert seconds == [60, 60] and steps == [29, 28]  # a call's first step, and what it fetches ahead, is no training


# ----------------------------------------------------------------------------------------------------------- one command


def test_one_command_trains_all_and_does_so_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    call = ["train", "all", "--tier", "smoke", "--steps", "6", "--batch", "2", "--device", "cpu", "--out", str(tmp_path)]
    assert main(call) == 0
    assert "token_nets" in (said := capsys.readouterr()).out and not said.err.count("Traceback")
    folder = tmp_path / "weights"
    model = ITER.from_pretrained(folder, "cpu")
    assert model.calibration != 0 and model.restore(torch.rand(1, 3, 20, 16), seed=0).image.shape == (1, 3, 80, 64)
    for stage in tier("smoke").plan:
        assert (tmp_path / stage / "samples.png").stat().st_size > 0
        curve = pd.read_csv(folder / f"{stage}.csv")
        assert curve.step.max() == 6 and set(curve.split) == {"train", "validation"}
        assert set(curve.step[curve.split == "validation"]) == {6}  # smoke's 120 steps have two: a short run has fewer
    card = (folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert len(card.splitlines()) <= 30
    assert card.count("- made by") == 1 and "- made by `itersr train all --tier smoke --steps 6 --batch 2`" in card
    assert "steps" in card and model.fingerprint in card and "codes used" in card

    def never(*inputs: object, **options: object) -> None:
        raise AssertionError("a finished run does nothing")

    before = contents(tmp_path)
    for module, name in ((loop, "update"), (ship, "best"), (ship, "export")):
        monkeypatch.setattr(module, name, never)
    assert main(call) == 0
    assert contents(tmp_path) == before and ITER.from_pretrained(folder, "cpu").fingerprint == model.fingerprint
    capsys.readouterr()

    given = {"--tier": "smoke", "--steps": "6", "--batch": "2"}
    for change, was in (
        ({"--tier": "tiny"}, "tier was smoke, now tiny"), ({"--seed": "1"}, "seed was 0, now 1"),
        ({"--minutes": "1", "--steps": ""}, "minutes was None, now 1"), ({"--batch": "3"}, "batch was 2, now 3"),
    ):
        options = [f"{name}={value}" for name, value in (given | change).items() if value]
        assert main(["train", "all", *options, "--device", "cpu", "--out", str(tmp_path)]) == 2, change
        told = capsys.readouterr().err.strip()
        assert was in told and "holds another run" in told and len(told.splitlines()) == 1, told
        assert contents(tmp_path) == before


def test_a_card_that_was_not_written_is_written_by_the_next_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = micro(steps=2)
    config = dataclasses.replace(config, train=dict.fromkeys(config.train, config.train["vqgan"]), plan={"vqgan": 0.9})
    exported: list[Path] = []

    def export(out: Path, *inputs: object, **options: object) -> None:
        exported.append(out)
        if len(exported) == 1:
            raise KeyboardInterrupt
        (out / "weights" / "MODEL_CARD.md").write_text(weights.fingerprint(out / "weights"))

    monkeypatch.setattr(ship, "export", export)
    options = {"device": "cpu", "validation": (1, 32), "progress": False}
    with pytest.raises(KeyboardInterrupt):
        run_module.train_all(config, None, tmp_path, **options)
    for _ in range(2):
        run_module.train_all(config, None, tmp_path, **options)
    assert len(exported) == 2


# -------------------------------------------------------------------------------------------------------------- refused


def test_another_run_is_refused_and_more_steps_are_not(tmp_path: Path) -> None:
    photos = Photos(pictures.bundled("train")), Photos(pictures.bundled("test"))
    run(micro(), tmp_path, stop_at=4)
    before = contents(tmp_path)
    tiny = dataclasses.replace(tier("tiny"), train=micro().train)
    others = [
        (micro(), {"photos": photos[::-1]}, "names of photos was "),
        (micro(batch=3), {}, "batch was 2, now 3"),
        (micro(crop=64), {}, "crop was 32, now 64"),
        (micro(lr=1e-4), {}, "lr was 0.002, now 0.0001"),
        (tiny, {}, "tier was smoke, now tiny"),
        (micro(), {"seed": 1}, "seed was 0, now 1"),
    ]
    for config, options, what in others:
        with pytest.raises(OtherRun, match=what) as told:
            run(config, tmp_path, resume=True, **options)
        assert "\n" not in str(told.value) and "vqgan: holds another run" in str(told.value)
        assert contents(tmp_path) == before
    run(micro(steps=14, validations=3), tmp_path, resume=True, photos=photos)
    assert state(tmp_path)["step"] == 14


@pytest.mark.parametrize("left", [0, 10, 20_000, -1])
def test_a_damaged_checkpoint_is_one_line_with_file_and_cure(
    left: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(micro(), tmp_path, stop_at=4)
    file = tmp_path / "vqgan" / "checkpoint.pt"
    file.write_bytes(file.read_bytes()[:left])
    before = contents(tmp_path)
    with pytest.raises(TrainingError) as told:
        run(micro(), tmp_path, resume=True)
    assert f"{file}: this checkpoint is damaged" in str(told.value) and "remove it" in str(told.value)
    assert "\n" not in str(told.value) and contents(tmp_path) == before
    file.unlink()
    run(micro(), tmp_path, resume=True)
    assert state(tmp_path)["step"] == 12


@pytest.mark.parametrize("text", ["", '{"stage": "vq', "[]"])
def test_a_damaged_record_is_one_line_with_file_and_cure(text: str, tmp_path: Path) -> None:
    run(micro(), tmp_path, stop_at=4)
    (tmp_path / "vqgan" / "settings.json").write_text(text)
    with pytest.raises(ValueError, match=r"settings.json: this record of a run is damaged .*remove") as told:
        run(micro(), tmp_path, resume=True)
    assert "\n" not in str(told.value)


def test_two_trainings_in_one_folder(tmp_path: Path) -> None:
    with loop.alone(tmp_path / "vqgan"):
        with pytest.raises(OtherRun, match="another process trains here"):
            run(micro(), tmp_path)
        assert not (tmp_path / "vqgan" / "settings.json").exists()
    run(micro(), tmp_path, stop_at=2)


def test_a_log_that_a_kill_cut_is_read(tmp_path: Path) -> None:
    whole = tmp_path / "log.csv"
    header, good, later = "step,seconds,split,name,value", "4,1.0,train,l1,0.5", "6,1.2,train,l1,0.4"
    for text, left in (
        ("", []), (header, []), (f"{header}\n{good}\n{later}\n", [good]), (f"{header}\n{good}\n1", [good]),
        (f"{header}\n{good}\n6,1.2,tra", [good]),
    ):
        whole.write_text(text)
        loop._forget_after(whole, 4)
        assert whole.read_text().splitlines() == [header, *left], text


def test_what_is_not_there_does_not_ship(tmp_path: Path) -> None:
    with pytest.raises(weights.WeightsError, match="not a configuration of itersr"):
        ship.export(tmp_path / "nothing", None, data="photos")
    ITER(tier("smoke")).save(tmp_path / "weights")
    (tmp_path / "weights" / "refiner.safetensors").unlink()
    with pytest.raises(weights.WeightsError, match=r"refiner.safetensors: no weights of this network \(No such file"):
        ship.export(tmp_path, None, data="photos")


def test_losses_read_later_still_name_the_first_bad_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, which is asked for its losses every 20 steps."""
    real = Crops.__getitem__

    def poisoned(self: Crops, index: int) -> dict[str, Tensor]:
        sample = real(self, index)
        if index == 2 * 6:  # step 6 of batch 2; the weights, and all that follows, are then NaN
            sample["hq"] = sample["hq"] * float("nan")
            sample["photo"] = torch.tensor(1)
        elif index >= 2 * 6:
            sample["photo"] = torch.tensor(0)
        return sample

    monkeypatch.setattr(loop, "Watch", lambda crops, checkpoint, every: Watch(crops, checkpoint, 20))
    run(micro(), tmp_path, stop_at=5)
    before = contents(tmp_path / "weights")
    monkeypatch.setattr(Crops, "__getitem__", poisoned)
    bad = r"step 6: loss or gradient is nan; photos astronaut, motorcycle_left; last good checkpoint: .*checkpoint\.pt"
    with pytest.raises(TrainingError, match=bad) as told:
        run(micro(), tmp_path, resume=True)
    assert not isinstance(told.value, ValueError) and "\n" not in str(told.value)
    assert state(tmp_path)["step"] == 5 and contents(tmp_path / "weights") == before
    assert all(torch.isfinite(v).all() for v in state(tmp_path)["average"].values())  # type: ignore[attr-defined]


@pytest.mark.parametrize("command", ["train", "upscale", "evaluate", "reproduce"])
@pytest.mark.parametrize("device", ["banana", "cuda:7"])
@pytest.mark.skipif(torch.cuda.device_count() > 7, reason="this machine has cuda:7")
def test_a_device_that_is_not_there(command: str, device: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from itersr.upscaling.read import Photo
    from itersr.upscaling.write import write

    (tmp_path / "in").mkdir()
    write(Photo(torch.rand(3, 8, 8)), tmp_path / "in" / "a.png")
    calls = {
        "train": ["vqgan", "--out", str(tmp_path / "out")], "upscale": [str(tmp_path / "in"), "-o", str(tmp_path / "out")],
        "evaluate": ["--outputs", f"a={tmp_path / 'in'}"], "reproduce": ["--only", "01", "--out", str(tmp_path / "out")],
    }
    assert main([command, *calls[command], "--device", device]) == 2
    told = capsys.readouterr().err.strip()
    assert f"device {device!r} cannot be used: there are auto, cpu" in told and len(told.splitlines()) == 1, told
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="cannot be used"):
        pick_device(device)


@pytest.mark.parametrize("option", ["--steps", "--lr", "--minutes", "--batch", "--crop"])
@pytest.mark.parametrize("what", ["all", "vqgan"])
def test_a_number_that_makes_no_run(option: str, what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for value in ("0", "-1"):
        assert main(["train", what, option, value, "--device", "cpu", "--out", str(tmp_path / "out")]) == 2
        told = capsys.readouterr().err.strip()
        assert f"{option} {value}: must be above 0" in told and len(told.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_half_precision_without_a_scale_is_no_choice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["train", "vqgan", "--precision", "fp16", "--out", str(tmp_path / "out")])
    assert left.value.code == 2 and "fp16" in capsys.readouterr().err and not (tmp_path / "out").exists()
