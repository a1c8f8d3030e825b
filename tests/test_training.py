"""Training: that it learns, that it goes on to the bit, that it survives a kill, and that it never trains on past a NaN."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from itersr import pictures
from itersr.cli import main
from itersr.config import Tier, TrainConfig, tier
from itersr.lab import experiments, reproduce
from itersr.lab.course import learning_curve, model_to_measure, recipe
from itersr.losses import hinge_discriminator, per_image
from itersr.model import ITER
from itersr.sampling import Sampler, categorical
from itersr.training import algorithm1
from itersr.training import ship as ship_module
from itersr.training.algorithm1 import Algorithm1, auc
from itersr.training.data import Crops, Photos, generator_for, random_crop
from itersr.training.loop import Average, TrainingError, learning_rate
from itersr.training.perceptual import GradientLoss, psnr
from itersr.training.run import load_networks, train_all, train_stage
from itersr.training.ship import best, command, export, settings_to_try
from itersr.training.stage1 import Stage1
from itersr.weights import NETWORKS, SHIPPED, WeightsError, shipped, write_config

ROOT = Path(__file__).parents[1]


def micro(stage: str = "vqgan", **changes: object) -> Tier:
    """The smoke tier with a training of a few small steps."""
    smoke = tier("smoke")
    fields = {"steps": 12, "batch": 2, "crop": 32, "warmup": 0.15, "validations": 1, "checkpoint_every": 4,
              "autoencoder": 0.25, "gan_start": 0.67, **changes}
    settings = dataclasses.replace(smoke.train[stage], **fields)  # type: ignore[arg-type]
    return dataclasses.replace(smoke, train={**smoke.train, stage: settings})


def run(config: Tier, out: Path, stage: str = "vqgan", **options: object) -> dict[str, float]:
    options = {"progress": False, "device": "cpu", "validation": (1, 32), **options}
    return train_stage(stage, config, None, out, **options)  # type: ignore[arg-type]


def state(out: Path, stage: str = "vqgan") -> dict[str, object]:
    return torch.load(out / stage / "checkpoint.pt", weights_only=True)


def logged(out: Path, stage: str = "vqgan") -> pd.DataFrame:
    """What training logged, but for how fast it was."""
    log = pd.read_csv(out / stage / "log.csv").query("split == 'train'")
    return log[~log.name.isin(["images a second", "share of waiting"])]


def test_validation_crops_are_whole_windows() -> None:
    from itersr.training.data import ranges, validation_pairs

    photos = Photos({"wide": torch.rand(3, 150, 400), "small": torch.rand(3, 200, 131)})
    for unit, side in ((32, 128), (64, 128), (96, 96)):
        pairs = validation_pairs(photos, 3, 192, 0, degradation=ranges("mild"), scale=4, unit=unit)
        assert pairs["hq"].shape == (3, 3, side, side) and pairs["lq"].shape == (3, 3, side // 4, side // 4)
    with pytest.raises(ValueError, match="smaller than a window of tokens"):
        validation_pairs(photos, 3, 192, 0, degradation=ranges("mild"), scale=4, unit=160)


def assert_same(a: object, b: object, where: str = "") -> None:
    """Equal to the bit, all the way down."""
    if where.split("/")[-1] in ("trained", "other", "reserve"):
        return  # how long a run took is no part of its state
    if isinstance(a, Tensor):
        assert isinstance(b, Tensor) and torch.equal(a, b), where
    elif isinstance(a, dict):
        assert isinstance(b, dict) and a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, list | tuple):
        for i, (x, y) in enumerate(zip(a, b, strict=True)):  # type: ignore[call-overload]
            assert_same(x, y, f"{where}/{i}")
    else:
        assert a == b, where


# ---------------------------------------------------------------------------------------------------------- it learns


def test_smoke_learns_on_held_out_photos(smoke_run: tuple[Path, dict[str, dict[str, float]]]) -> None:
    out, results = smoke_run
    photos = pictures.bundled("test").values()
    pairs = algorithm_pairs()
    mean_colour = psnr(pairs["hq"].mean((2, 3), keepdim=True).expand_as(pairs["hq"]), pairs["hq"]).mean().item()
    margin = 3  # 300 steps leave much to chance: 5.6 dB and 4.0 dB were measured with two seeds
    assert len(photos) and results["vqgan"]["psnr"] >= mean_colour + margin, (results["vqgan"], mean_colour)
    assert results["vqgan"]["codes used"] >= 0.5 * tier("smoke").vqgan.codes
    constant = results["lq_encoder"]["best constant"]
    assert results["lq_encoder"]["E_l top-1"] > constant
    for ratio in (0.25, 0.5, 0.75, 1.0):
        assert results["token_nets"][f"φ_r masked accuracy at {ratio}"] > constant, ratio
    # of φ_e the loss need not fall: the better φ_r becomes, the harder it is to tell its good samples from others
    assert sum(results["token_nets"][f"AUC of φ_e on samples at {ratio}"] for ratio in (0.25, 0.5, 0.75, 1.0)) / 4 > 0.6

    losses = [("vqgan", "l1"), ("lq_encoder", "lq_encoder"), ("token_nets", "refiner")]
    for stage, name in losses:
        log = pd.read_csv(out / stage / "log.csv").query("split == 'train' and name == @name").value
        assert log.tail(2).mean() < 0.95 * log.head(2).mean(), (stage, name, log.tolist())


def algorithm_pairs() -> dict[str, Tensor]:
    from itersr.training.data import ranges, validation_pairs

    return validation_pairs(Photos(pictures.bundled("test")), 4, 96, 0, degradation=ranges("mild"), scale=4)


def test_the_weights_of_a_run_load_and_restore(smoke_run: tuple[Path, dict[str, dict[str, float]]]) -> None:
    model = ITER.from_pretrained(smoke_run[0] / "weights", device="cpu")
    pairs = algorithm_pairs()
    trace = model.restore(pairs["lq"][:1], seed=0)
    assert trace.image.shape == pairs["hq"][:1].shape and 0 <= trace.image.min() and trace.image.max() <= 1


@pytest.mark.parametrize("name", ["smoke", "tiny", "small"])
def test_tokens_of_a_crop_are_those_of_its_photo(name: str, smoke_run: tuple[Path, dict[str, dict[str, float]]]) -> None:
    photo = pictures.bundled("test")["coffee"][None, :, :256, :256]
    if name == "small":  # no weights yet: its encoder as it is initialised, codes among its own latents
        torch.manual_seed(0)
        model = ITER(tier("small")).ready("cpu")
        codes = model.vqgan.codebook.embedding.weight
        latents = model.vqgan.encoder(photo).permute(0, 2, 3, 1).flatten(0, 2)
        codes.copy_(latents[torch.randperm(len(latents))[: len(codes)]])
    else:
        model = ITER.from_pretrained(smoke_run[0] / "weights" if name == "smoke" else name, device="cpu")
    f, y, x, side, margin = model.tier.vqgan.factor, 52, 84, 128, 6  # any offset that is a multiple of f
    whole = model.vqgan.encode(photo)[:, y // f : (y + side) // f, x // f : (x + side) // f]
    crop = model.vqgan.encode(photo[..., y : y + side, x : x + side])
    inner = (whole == crop)[:, margin:-margin, margin:-margin]
    assert inner.float().mean() >= 0.99 and len(whole.unique()) > 16


@pytest.mark.parametrize("name", shipped())
@torch.no_grad()
def test_the_layers_of_shipped_token_networks_say_something(name: str) -> None:
    """With what the last layer says made the same at every place, the loss moves. Layers that have collapsed, behind a part
    that works, show in no learning curve."""
    model = ITER.from_pretrained(name, "cpu")
    pairs = experiments.make_pairs(pictures.bundled("test"), model.tier, 128)
    hq, lq = (torch.cat([getattr(pair, part) for pair in pairs]) for part in ("hq", "lq"))
    s_h, log_probs = model.vqgan.encode(hq), model.log_posterior(lq)
    s_l = log_probs.argmax(1)
    refine, judge = model.functions(log_probs, model.lq_features(lq))
    nothing = torch.zeros_like(s_l, dtype=torch.bool)
    noise = torch.rand(s_l.shape, generator=torch.Generator().manual_seed(0))
    drawn, _ = categorical(refine(s_h, nothing, s_l, nothing), noise)  # of S_l itself E_l's posterior tells φ_e nearly all
    losses = {
        "refiner": lambda: F.cross_entropy(refine(s_h, nothing, s_l, nothing).float(), s_h).item(),
        "evaluator": lambda: F.binary_cross_entropy(judge(drawn, s_l).exp(), (drawn == s_h).float()).item(),
    }
    for network, loss in losses.items():
        spoken = loss()
        with model.get_submodule(network).head.register_forward_hook(
            lambda layer, inputs, output: output.mean((0, 2, 3), keepdim=True).expand_as(output)
        ):
            assert abs(loss() - spoken) > 0.01, f"{network}: {spoken} either way"


def test_shipped_weights_bring_their_shift_their_curves_and_their_card(
    smoke_run: tuple[Path, dict[str, dict[str, float]]], tmp_path: Path
) -> None:
    shutil.copytree(smoke_run[0], tmp_path / "run", ignore=shutil.ignore_patterns("checkpoint.pt"))
    export(tmp_path / "run", None, data="three photos")
    to = tmp_path / "run" / "weights"
    model = ITER.from_pretrained(to, device="cpu")
    wanted = experiments.calibrate(model, experiments.held_out(None))
    assert model.calibration == pytest.approx(wanted, abs=1e-3) and model.calibration != 0
    steps = model.tier.train["token_nets"].steps
    line, seen = recipe("token_nets", name=str(to), minutes=(0.0,))
    assert line.startswith(f"`itersr train token_nets --tier smoke --steps {steps} --batch ") and "CPU" in line
    log = logged(smoke_run[0], "token_nets")
    last = log[log.name == "refiner masked"].sort_values("step").value.tail(5)
    assert seen.loc["train: refiner masked"].iloc[-1] == pytest.approx(last.mean(), abs=1e-3)
    card = (to / "MODEL_CARD.md").read_text(encoding="utf-8")
    chosen = {name: getattr(model.tier, name) for name in ("steps", "alpha", "policy", "remask", "temperature")}
    assert chosen in settings_to_try(tier("smoke").steps)
    assert f"unless told: T = {model.tier.steps}, masks by `{model.tier.policy}`" in card
    assert f"temperature {model.tier.temperature:g}: best of 65 on held-out photos" in card
    assert line.partition(":")[0] in card and f"{model.calibration:.3f}" in card and "three photos" in card
    with pytest.raises(WeightsError, match="no record of the stage iter"):
        recipe("iter", name=str(to))


def test_the_settings_that_ship_are_the_best_on_held_out_photos(monkeypatch: pytest.MonkeyPatch) -> None:
    model, photos = ITER(tier("smoke")), pictures.bundled("train")
    pairs = experiments.make_pairs(photos, model.tier, 160)

    def restore(lq: Tensor, sampler: Sampler, **settings: object) -> SimpleNamespace:
        """Grey, the lighter the further the settings are from those that this photo would like."""
        liked = next(t for pair, t in zip(pairs, (0.7, 1.0, 0.95), strict=True) if torch.equal(pair.lq, lq))
        far = abs(sampler.temperature - liked) + abs(sampler.alpha - 0.7)
        return SimpleNamespace(image=torch.full_like(pairs[0].hq, far))

    monkeypatch.setattr(model, "restore", restore)
    monkeypatch.setattr(ship_module, "perceptual", Brightness)
    several = settings_to_try(4)
    wanted = {"steps": 4, "policy": "evaluator", "remask": False, "alpha": 0.7}
    assert best(model, photos, several) == {**wanted, "temperature": 1.0}
    assert best(model, photos, several, seconds=0.0) == {**wanted, "temperature": 0.7}  # one photo, whatever the time
    assert best(model, photos, [{"alpha": 0.2}, {"alpha": 0.5}]) == {"alpha": 0.5}


class Brightness(torch.nn.Module):
    """A ruler that needs no original."""

    name = "brightness"

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        return image.mean((1, 2, 3))


def coarse() -> Tier:
    """`smoke` with tokens of 8×8 pixels: one level and one halving more."""
    smoke = tier("smoke")
    swin = dataclasses.replace(smoke.vqgan.swin, width=80)
    return dataclasses.replace(smoke, vqgan=dataclasses.replace(smoke.vqgan, multipliers=(1, 2, 4, 5), codes=128, swin=swin))


def looking() -> Tier:
    """`smoke` with a φ_r that reads the LQ image."""
    smoke = tier("smoke")
    nets = {name: dataclasses.replace(getattr(smoke, name), posterior=True, norm="none") for name in ("refiner", "evaluator")}
    return dataclasses.replace(smoke, **nets | {"refiner": dataclasses.replace(nets["refiner"], reads_lq=True)})


def test_a_tier_from_a_file_trains_and_is_measured_from_its_folder(tmp_path: Path) -> None:
    """f = 8, as in the paper, through the command line and on to the result notebooks."""
    write_config(tmp_path, coarse(), {})
    for stage, given in (("vqgan", tmp_path / "config.json"), ("iter", tmp_path / "weights")):
        assert main(["train", stage, "--tier", str(given), "--steps", "2", "--batch", "2", "--crop", "64", "--device", "cpu",
                     "--out", str(tmp_path)]) == 0
    folder = tmp_path / "weights"
    assert command(coarse(), json.loads((tmp_path / "iter" / "settings.json").read_text())) == (
        "itersr train iter --tier config.json --steps 2 --batch 2 --crop 64 --lr 0.001 --precision no --seed 0")
    model = model_to_measure(reproduce._tier(str(folder)), None, tmp_path / "elsewhere", device="cpu")
    assert model.tier.vqgan.factor == 8 and model.tier.vqgan.codes == 128 and model.cell == 2
    assert model.tier.name == str(folder)
    assert not model.tier.refiner.posterior and not model.tier.evaluator.posterior
    assert experiments.fingerprint(model) == experiments.fingerprint(ITER.from_pretrained(folder, "cpu"))
    assert model.restore(torch.rand(1, 3, 20, 16), seed=0).image.shape == (1, 3, 80, 64)
    assert reproduce.run(tier=str(folder), only="06", out=tmp_path / "run", device="cpu") == 0
    found = json.loads((tmp_path / "run" / "figures" / "results" / "06.json").read_text())
    assert found["provenance"]["tier"] == str(folder)


def test_the_form_that_reads_the_image_begins_as_the_trained_e_l(
    smoke_run: tuple[Path, dict[str, dict[str, float]]], tmp_path: Path
) -> None:
    """Through the command line, and then in tiles as in one piece."""
    folder = tmp_path / "weights"
    folder.mkdir()
    for name in ("vqgan", "lq_encoder"):
        shutil.copy(smoke_run[0] / "weights" / f"{name}.safetensors", folder)
    form = looking()
    write_config(tmp_path, form, {})
    model = load_networks(folder, form, ("refiner", "evaluator")).ready("cpu")
    lq = torch.rand(1, 3, 40, 64, generator=torch.Generator().manual_seed(0))
    log_probs = model.log_posterior(lq)
    s_l, nothing = log_probs.argmax(1), torch.zeros_like(log_probs[:, 0], dtype=torch.bool)
    refine, _ = model.functions(log_probs, model.lq_features(lq))
    torch.testing.assert_close(refine(s_l, nothing, s_l, nothing).log_softmax(1), log_probs, rtol=1e-4, atol=1e-4)
    assert main(["train", "token_nets", "--tier", str(tmp_path), "--steps", "3", "--batch", "2", "--device", "cpu",
                 "--out", str(tmp_path)]) == 0
    trained = ITER.from_pretrained(folder, "cpu")
    assert trained.tier.refiner == form.refiner
    assert not torch.equal(trained.refiner.head.weight, model.refiner.head.weight.half().float())
    one, tiles = (trained.restore(lq, seed=0, tile=tile).restored.tokens for tile in (0, 16))
    assert (one == tiles).float().mean() > 0.999


def test_one_of_the_token_networks_trains_alone_and_its_run_is_told(
    smoke_run: tuple[Path, dict[str, dict[str, float]]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, to = tmp_path / "run", tmp_path / "run" / "weights"
    shutil.copytree(smoke_run[0], out, ignore=shutil.ignore_patterns("checkpoint.pt"))
    call = ["train", "evaluator", "--tier", "smoke", "--device", "cpu", "--out", str(out)]
    assert main([*call, "--lr", "0.002", "--steps", "3", "--batch", "2"]) == 0
    for name in NETWORKS:
        before, after = ((folder / "weights" / f"{name}.safetensors").read_bytes() for folder in (smoke_run[0], out))
        assert (before == after) == (name != "evaluator"), name
    assert "evaluator on samples" in set(logged(out, "evaluator").name)

    export(out, None, data="three photos")
    line, seen = recipe("evaluator", name=str(to), minutes=())
    assert "`itersr train evaluator --tier smoke --steps 3 --batch 2 --crop 64 --lr 0.002 --precision no --seed 0`" in line
    assert "train: refiner" not in seen.index and "train: evaluator on samples" in seen.index
    line, seen = recipe("token_nets", "refiner", name=str(to), minutes=())
    assert "train evaluator" not in line and "train: refiner" in seen.index
    assert learning_curve(tier("smoke"), "token_nets", out, "evaluator").step.max() == 3
    assert learning_curve(tier("smoke"), "token_nets", out, "refiner").step.max() == tier("smoke").train["token_nets"].steps
    assert "| evaluator | 3 |" in (to / "MODEL_CARD.md").read_text(encoding="utf-8")

    # one more run begins with the weights in a new folder; in this one it is refused and keeps its record
    record = (out / "evaluator" / "settings.json").read_text()
    assert main([*call, "--steps", "5", "--batch", "2"]) == 2
    assert "already holds a run" in capsys.readouterr().err and (out / "evaluator" / "settings.json").read_text() == record
    shutil.copytree(out / "weights", tmp_path / "more" / "weights")
    begun = load_networks(tmp_path / "more" / "weights", tier("smoke"), ("evaluator",))
    assert torch.equal(begun.evaluator.head.weight, ITER.from_pretrained(to, "cpu").evaluator.head.weight)


def test_a_plan_may_name_any_stage(tmp_path: Path) -> None:
    config = micro("token_nets", steps=2)
    plan = dict.fromkeys(("vqgan", "lq_encoder", "refiner", "evaluator"), 0.2)
    train = dict.fromkeys(config.train, config.train["token_nets"])
    config = dataclasses.replace(config, train=train, plan=plan)
    train_all(config, None, tmp_path, device="cpu", validation=(1, 32), progress=False)
    assert [name for name in plan if (tmp_path / "weights" / f"{name}.csv").exists()] == list(plan)
    assert (tmp_path / "weights" / "MODEL_CARD.md").read_text(encoding="utf-8").count("- made by") == 4


@pytest.mark.parametrize("text", [None, "", "[]", '{"tier": {"name": "tiny"}}', '{"vqgan": 3}'])
def test_a_tier_that_is_none_is_one_line(text: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if text is not None:
        (tmp_path / "mine.json").write_text(text)
    assert main(["train", "vqgan", "--tier", str(tmp_path / "mine.json"), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "mine.json" in said and len(said.splitlines()) == 1 and not (tmp_path / "out").exists()


def test_only_some_notebooks_measure_a_folder_of_weights(tmp_path: Path) -> None:
    run(micro(), tmp_path)
    with pytest.raises(ValueError, match="06, 07, 08, 09, 10 measure a folder of weights, 03 need a tier"):
        reproduce.run(tier=str(tmp_path / "weights"), only="03,07")


# ------------------------------------------------------------------------------------------------ resuming and killing


@pytest.mark.parametrize("stage", ["vqgan", "iter"])
def test_many_short_runs_equal_one_long(stage: str, tmp_path: Path) -> None:
    config = micro(stage)
    if stage != "vqgan":
        for name in ("long", "short"):
            run(micro("vqgan"), tmp_path / name)
    run(config, tmp_path / "long", stage)
    for stop in (1, 3, 4, 9, 12):  # before and after k-means, restarts and the adversary's first step
        torch.manual_seed(stop)  # whatever else draws random numbers between runs must not matter
        run(config, tmp_path / "short", stage, resume=True, stop_at=stop)
    assert_same(state(tmp_path / "long", stage), state(tmp_path / "short", stage))
    logs = [logged(tmp_path / name, stage).query("step == 12").value.tolist() for name in ("long", "short")]
    assert logs[0] == logs[1]


def test_a_kill_loses_no_more_than_the_steps_since_the_last_checkpoint(tmp_path: Path) -> None:
    config = micro(steps=24, checkpoint_every=2, gan_start=1.0)
    run(config, tmp_path / "whole")
    code = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from tests.test_training import micro, run
run(micro(steps=24, checkpoint_every=2, gan_start=1.0), Path(sys.argv[1]), resume=True)
"""
    killed = tmp_path / "killed"
    for kill in range(2):
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen([sys.executable, "-c", code, str(killed)], **quiet)  # type: ignore[call-overload]
        checkpoint = killed / "vqgan" / "checkpoint.pt"
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            if checkpoint.exists() and checkpoint.stat().st_mtime_ns > before:
                time.sleep(0.01 + 0.03 * kill)  # somewhere within the steps, or the writing, that follow
                break
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert 0 < int(str(state(killed)["step"])) <= 24  # whole, and readable
    run(config, killed, resume=True)
    assert_same(state(tmp_path / "whole"), state(killed))


def test_a_time_limit_ends_well(tmp_path: Path) -> None:
    run(micro(), tmp_path, minutes=0.0)
    assert state(tmp_path)["step"] == 1
    assert (tmp_path / "weights" / "vqgan.safetensors").exists() and (tmp_path / "vqgan" / "samples.png").exists()
    with pytest.raises(FileExistsError, match="--resume"):
        run(micro(), tmp_path)
    with pytest.raises(TrainingError, match="seed was 0, now 1"):
        run(micro(), tmp_path, resume=True, seed=1)


# At a tier's own learning rate two sums of the same numbers in another order drift apart by per cents within twenty steps,
# and so does one process whose first weights are nudged by 1e-7: Adam begins with the signs of gradients, and rounding
# decides those that are about zero. A larger ε and a small rate keep rounding small, and what is left to see is whether
# batches are shared out and gradients averaged.
TRAIN_SMOOTHLY = """
import functools, sys, torch
from itersr.cli import main
from itersr.training import loop
torch.optim.Adam = functools.partial(torch.optim.Adam, eps=1e-3)
loop.learning_rate = lambda along, config: 2e-4
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("stage", ["vqgan", "iter"])
def test_two_processes_equal_one(tmp_path: Path, stage: str) -> None:
    """Two CPU processes give the loss curve of one process with the same global batch, and speak with one voice."""
    (tmp_path / "train.py").write_text(TRAIN_SMOOTHLY)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    train = ["train.py", "train", stage, "--tier", "smoke", "--steps", "40", "--batch", "2", "--device", "cpu"]
    launch = {1: [], 2: ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]}
    curves = {}
    for processes, launcher in launch.items():
        out = tmp_path / str(processes)
        if stage == "iter":
            shutil.copytree(SHIPPED / "smoke", out / "weights", ignore=lambda _, names: {*names} - {"vqgan.safetensors"})
        done = subprocess.run([sys.executable, *launcher, *train, "--out", str(out)], cwd=tmp_path, env=environment,
                              capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
        printed = done.stdout.splitlines()
        assert len(printed) == len({*printed}) > 3, done.stdout
        assert json.loads((out / stage / "settings.json").read_text())["processes"] == processes
        curves[processes] = logged(out, stage).set_index(["step", "name"]).value
    one, two = curves[1], curves[2]
    assert len(one) > 6 and one.index.equals(two.index)
    for step, name in one.index:
        # a loss of the codebook alone is a small number, and hangs on which code is just a little nearer
        close = 0.02 if name == "codebook" else 2e-3
        assert two[step, name] == pytest.approx(one[step, name], rel=close, abs=1e-6), (step, name)


def test_a_nan_stops_the_run_and_names_the_photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Crops.__getitem__

    def poisoned(self: Crops, index: int) -> dict[str, Tensor]:
        sample = real(self, index)
        if index == 2 * 6:  # step 6 of batch 2
            sample["hq"] = sample["hq"] * float("nan")
        return sample

    monkeypatch.setattr(Crops, "__getitem__", poisoned)
    with pytest.raises(TrainingError, match=r"step 6: loss or gradient is nan; photos \w+.*checkpoint\.pt"):
        run(micro(), tmp_path)
    weights = state(tmp_path)
    assert weights["step"] == 4
    assert all(torch.isfinite(v).all() for v in weights["average"].values())  # type: ignore[attr-defined]


# -------------------------------------------------------------------------------------------------------- the pieces


def test_samples_depend_on_seed_and_index_alone() -> None:
    photos = Photos(pictures.bundled("train"))
    a, b = Crops(photos, 32, 0), Crops(photos, 32, 0)
    forward, backward = [a[i]["hq"] for i in range(6)], [b[i]["hq"] for i in reversed(range(6))][::-1]
    assert all(torch.equal(x, y) for x, y in zip(forward, backward, strict=True))
    assert not torch.equal(forward[0], forward[1]) and not torch.equal(forward[0], Crops(photos, 32, 1)[0]["hq"])


def test_a_crop_larger_than_its_photo_is_mirrored() -> None:
    photo = torch.rand(3, 20, 50, generator=torch.Generator().manual_seed(0))
    for index in range(20):
        crop = random_crop(photo, 64, generator_for(0, index))
        assert crop.shape == (3, 64, 64) and 0 <= crop.min() and crop.max() <= 1


def test_every_twentieth_photo_is_held_out(tmp_path: Path) -> None:
    from PIL import Image

    for i in range(40):
        Image.new("RGB", (8, 8), (i, i, i)).save(tmp_path / f"{i:02}.png")
    rest, held = Photos.of(tmp_path).split()
    assert [Path(n).stem for n in held.names] == ["10", "30"] and len(rest) == 38
    assert not set(rest.names) & set(held.names)
    assert held[0].mean().item() == pytest.approx(10 / 255)
    with pytest.raises(ValueError, match="no photos"):
        Photos([])


def test_learning_rate_warms_up_and_falls() -> None:
    config = TrainConfig(steps=100, batch=1, crop=32, lr=2.0, warmup=0.1, final_lr=0.1)
    rates = [learning_rate(i / 100, config) for i in range(101)]
    assert rates[:11] == pytest.approx([0.2 * i for i in range(11)]) and rates[55] == pytest.approx((2.0 + 0.2) / 2)
    assert rates[100] == pytest.approx(0.2) and all(a > b for a, b in zip(rates[10:], rates[11:], strict=False))
    assert learning_rate(0.0, dataclasses.replace(config, warmup=0.0)) == 2.0
    flat = dataclasses.replace(config, warmup=0.0, final_lr=1.0)  # the paper's
    assert {learning_rate(i / 10, flat) for i in range(11)} == {2.0}
    assert learning_rate(1.0, dataclasses.replace(config, warmup=1.0)) == pytest.approx(2.0)  # a run that only warms up


def test_average_swaps_and_returns() -> None:
    net = torch.nn.Linear(1, 1, bias=False)
    average = Average({"net": net}, 0.9)
    torch.nn.init.constant_(net.weight, 5.0)
    for _ in range(500):
        average.update()
    assert average.weights["net.weight"].item() == pytest.approx(5.0)
    torch.nn.init.constant_(net.weight, 7.0)
    average.swap()
    assert net.weight.item() == pytest.approx(5.0)
    average.swap()
    assert net.weight.item() == 7.0


def test_losses() -> None:
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 0.5])
    assert hinge_discriminator(real, fake).item() == pytest.approx((0.25 + 0.75) / 2)
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert GradientLoss()(image, image + 0.1).abs().max() < 1e-5 < GradientLoss()(image, image.flip(0)).min()
    values, where = torch.tensor([[1.0, 3.0], [5.0, 7.0]]), torch.tensor([[True, True], [True, False]])
    assert per_image(values, where).item() == pytest.approx((2 + 5) / 2)


def test_auc_is_the_share_of_ordered_pairs() -> None:
    g = torch.Generator().manual_seed(0)
    score, good = torch.randint(5, (60,), generator=g), torch.rand(60, generator=g) < 0.4
    pairs = [(a > b) + 0.5 * (a == b) for a in score[good].tolist() for b in score[~good].tolist()]
    assert auc(score, good) == pytest.approx(sum(pairs) / len(pairs))


def test_codebook_starts_from_latents_and_dead_codes_move() -> None:
    task = Stage1(micro(), 0)
    latents = torch.randn(500, 16, generator=torch.Generator().manual_seed(0)) + 3
    task.start_codebook(latents)
    codes = task.vqgan.codebook.embedding.weight.detach().clone()
    assert 2 < codes.mean() < 4 and len(codes.unique(dim=0)) == len(codes)
    task.used.fill_(1)
    task.used[[3, 7]] = 0
    with torch.no_grad():
        task.restart_dead_codes(latents, 5)
    moved = (task.vqgan.codebook.embedding.weight != codes).any(1).nonzero().flatten().tolist()
    assert moved == [3, 7]
    assert all((latents == task.vqgan.codebook.embedding.weight[i]).all(1).any() for i in moved)


def test_commitment_is_on_the_encoders_side() -> None:
    vqgan = Stage1(micro(), 0).vqgan
    quantized = vqgan.quantize(vqgan.encoder(torch.rand(1, 3, 32, 32)))
    encoder, codes = vqgan.encoder.blocks[0].weight, vqgan.codebook.embedding.weight
    assert torch.autograd.grad(quantized.commitment_loss, [encoder, codes], allow_unused=True, retain_graph=True)[1] is None
    assert torch.autograd.grad(quantized.codebook_loss, [encoder, codes], allow_unused=True)[0] is None


def test_algorithm1_trains_only_its_networks() -> None:
    for stage, networks in (("iter", {"lq_encoder", "refiner", "evaluator"}), ("token_nets", {"refiner", "evaluator"})):
        model = ITER(tier("smoke"))
        task = Algorithm1(model, dataclasses.replace(tier("smoke").train[stage], corrupt=0.2))
        crops = Crops(Photos(pictures.bundled("train")), 32, 0, degradation=algorithm_ranges())
        batch = torch.utils.data.default_collate([crops[i] for i in range(2)])
        loss, scalars = task(batch, 0, "iter")
        loss.backward()
        moved = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}
        assert moved == networks
        again, _ = task(batch, 0, "iter")
        assert again.item() == loss.item()  # all its randomness is the samples' own
        assert {"evaluator on S_l", "refiner masked"} <= scalars.keys()


@pytest.mark.parametrize("corrupt", [0.0, 0.5, 1.0])
def test_a_refiner_in_training_meets_its_own_samples(corrupt: float, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ITER(tier("smoke"))
    crops = Crops(Photos(pictures.bundled("train")), 32, 0, degradation=algorithm_ranges())
    batch = torch.utils.data.default_collate([crops[i] for i in range(24)])
    truth = model.vqgan.encode(batch["hq"])
    seen: list[torch.Tensor] = []
    forward = model.refiner.forward
    monkeypatch.setattr(model.refiner, "forward", lambda tokens, *rest: (seen.append(tokens), forward(tokens, *rest))[1])
    Algorithm1(model, dataclasses.replace(tier("smoke").train["token_nets"], corrupt=corrupt))(batch, 0, "iter")
    shown = seen[-1]  # with `corrupt`, φ_r is asked for its own samples first, from nothing known
    assert len(seen) == (2 if corrupt else 1)
    wrong = (shown != truth).flatten(1).double().mean(1)  # φ_r is untrained: a sample of it is wrong but for 1 in 64
    assert float((wrong > 0).double().mean()) == pytest.approx(corrupt, abs=0.2)  # the others show nothing but the truth
    if corrupt:
        assert float(wrong[wrong > 0].min()) > 0.3 and float(wrong[wrong > 0].mean()) == pytest.approx(0.75, abs=0.1)


def test_an_evaluator_in_training_judges_no_map_that_holds_the_truth() -> None:
    """With `corrupt`, those images alone count that show φ_r's own samples; the loss is their mean."""
    model = ITER(tier("smoke"))
    settings = dataclasses.replace(tier("smoke").train["token_nets"], networks=("evaluator",))
    crops = Crops(Photos(pictures.bundled("train")), 32, 0, degradation=algorithm_ranges())
    batch = torch.utils.data.default_collate([crops[i] for i in range(24)])
    coin = Algorithm1(model, settings).noise(batch, "per image", (3,))[:, 2]

    def on_samples(corrupt: float, chosen: torch.Tensor) -> float:
        some = {name: value[chosen] for name, value in batch.items()}
        task = Algorithm1(model, dataclasses.replace(settings, corrupt=corrupt))
        return task(some, 0, "iter")[1]["evaluator on samples"].item()

    own = coin < 0.5
    assert on_samples(0.5, ~own) == 0 < on_samples(0.5, own) == pytest.approx(2 * on_samples(1.0, own), rel=0.2)
    assert on_samples(0.0, ~own) > 0


def algorithm_ranges() -> algorithm1.Any:
    from itersr.training.data import ranges

    return ranges("mild")
