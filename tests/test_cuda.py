"""What the GPU computes is what the CPU computes, and what can go wrong there is answered.

    python -m pytest tests/test_cuda.py                          skipped, in one line, where there is no CUDA device
    ITERSR_CUDA_TESTS=cpu python -m pytest tests/test_cuda.py    the same tests on the CPU: a rehearsal for who writes them
    python -m pytest -rP tests/test_cuda.py                      also prints the differences that were measured
"""

from __future__ import annotations

import copy
import dataclasses
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from itersr import pictures
from itersr.cli import main
from itersr.config import TIERS
from itersr.degradation import PUBLISHED, apply, degrade, draw
from itersr.model import ITER
from itersr.published import read
from itersr.training import STAGES
from itersr.training.data import Crops
from itersr.training.perceptual import psnr
from itersr.weights import SHIPPED
from tests import published_files as files

DEVICE = "cpu" if os.environ.get("ITERSR_CUDA_TESTS") == "cpu" else "cuda"
if DEVICE == "cuda" and not torch.cuda.is_available():
    pytest.skip("no CUDA device here (ITERSR_CUDA_TESTS=cpu rehearses these tests on the CPU)", allow_module_level=True)
pytestmark = pytest.mark.cuda
PHOTOS = ("chelsea", "coffee", "rocket")


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    """Float32 products in full (TensorFloat-32 has 10 bits), and no convolution that adds in any order, as long as a test runs.

    The transposed convolutions of D_H are such: without the last setting a picture need not come out twice the same to the
    bit.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic
    matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic = False, False, True
    yield
    matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic = before


@pytest.fixture(scope="module")
def tiny() -> ITER:
    return ITER.from_pretrained("tiny", device=DEVICE)


@pytest.fixture(scope="module")
def smoke() -> ITER:
    return ITER.from_pretrained("smoke", device=DEVICE)


def photo(name: str, h: int, w: int) -> Tensor:
    """A part of a test photo at half its size, (1, 3, h, w)."""
    return F.avg_pool2d(pictures.bundled("test")[name][None], 2)[..., :h, :w]


# ---------------------------------------------------------------------------------------------------- the same numbers


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ITER]:
    """The `paper` model with the reference's values, read from files like the released ones."""
    paths = files.reference(tmp_path_factory.mktemp("released"))
    yield read(*paths).ready(DEVICE)
    for path in paths:
        path.unlink()


@torch.no_grad()
def test_the_published_networks_give_the_stored_arrays(published: ITER) -> None:
    """Largest difference, in standard deviations of the stored array. The CPU is held to 3e-5, see test_published.py."""
    v = {name: value.to(DEVICE) for name, value in files.vectors().items()}
    latent = published.vqgan.encoder(v["hq"])
    ours = {
        "latent": latent,
        "decoded": published.vqgan.decode(v["tokens"]).clamp(0, 1),
        "lq_logits": published.lq_encoder(v["lq"]),
        "refiner_logits": published.refiner(v["tokens"], v["keep"], v["condition"], v["condition_keep"]),
        "evaluator_logits": published.evaluator(v["tokens"], v["condition"]),
    }
    errors = {name: ((value - v[name]).abs().max() / v[name].std()).item() for name, value in ours.items()}
    print("published networks, largest difference:", {name: f"{error:.1e}" for name, error in errors.items()})
    assert all(value.shape == v[name].shape for name, value in ours.items())
    assert max(errors.values()) < 1e-3, errors
    assert (published.vqgan.codebook.nearest(latent) == v["indices"]).float().mean() >= 0.99


def test_a_seed_gives_the_tokens_of_the_cpu(tiny: ITER) -> None:
    """At least 999 of 1,000: a sample at the border of two codes may fall on the other side."""
    on_cpu = ITER.from_pretrained("tiny", device="cpu")
    same = []
    for seed, name in enumerate(PHOTOS):
        lq = photo(name, 64, 96)
        here, there = tiny.restore(lq, seed=seed), on_cpu.restore(lq, seed=seed)
        assert here.image.device.type == DEVICE and torch.equal(here.start, there.start)
        same.append((here.restored.tokens.cpu() == there.restored.tokens).float().mean().item())
    print("share of tokens that are the CPU's:", same)
    assert sum(same) / len(same) >= 0.999, same


def test_a_batch_is_its_singles_to_the_bit(tiny: ITER) -> None:
    lq = torch.cat([photo(name, 32, 48) for name in PHOTOS])
    batch = tiny.restore(lq, seed=5)
    for i in range(len(lq)):
        single = tiny.restore(lq[i : i + 1], seed=5 + i)
        assert torch.equal(single.restored.tokens[0], batch.restored.tokens[i])
        assert torch.equal(single.image[0], batch.image[i])


@pytest.mark.parametrize("settings", [{}, {"remask": True, "adaptive": False}], ids=["tier's own", "remasked"])
def test_tiles_give_the_tokens_of_one_piece(smoke: ITER, settings: dict[str, Any]) -> None:
    same = []
    for name in PHOTOS:
        lq = pictures.bundled("test")[name][None, :, 60:111, 100:190]
        whole = smoke.restore(lq, tile=0, seed=3, **settings)
        for tile in (24, 64):
            cut = smoke.restore(lq, tile=tile, seed=3, **settings)
            assert torch.equal(cut.start, whole.start)
            assert (cut.image - whole.image).abs().mean() < 1e-3
            same.append((cut.restored.tokens == whole.restored.tokens).float().mean().item())
    print("share of tokens that are those of one piece:", same)
    assert sum(same) / len(same) >= 0.999, same


def test_bfloat16_is_nearer_to_float32_than_another_seed_is(tiny: ITER) -> None:
    """Half precision changes single tokens, and no more of the picture than chance does.

    On a CPU: 35 dB to float32, 31 dB between seeds (means of three photos); the worst photo had 31 dB.
    """
    half = copy.deepcopy(tiny).bfloat16()
    distances = []
    for name in PHOTOS:
        lq = photo(name, 48, 64)
        full, rounded, other = tiny.upscale(lq, seed=0), half.upscale(lq, seed=0), tiny.upscale(lq, seed=7)
        assert rounded.isfinite().all() and 0 <= rounded.min() and rounded.max() <= 1
        distances.append((psnr(rounded, full).item(), psnr(other, full).item()))
    print("PSNR to float32 of (bfloat16, another seed):", distances)
    to_rounded, to_other = (sum(column) / len(distances) for column in zip(*distances, strict=True))
    assert to_rounded > to_other and min(pair[0] for pair in distances) > 25, distances


# ------------------------------------------------------------------------------------------------------- degradation


def test_degradation_on_the_device_is_that_of_the_cpu() -> None:
    """16 crops, in 1/255. A value that rounding moves across a byte's border is coded anew by JPEG, and Poisson noise that
    meets one pixel more or less bright may take other random numbers from there on: single pictures may differ, most not.
    """
    photos = [*pictures.bundled("test").values(), *pictures.bundled("train").values()]
    corners = [(40 + 7 * i, 60 + 11 * i) for i in range(16)]
    hq = torch.stack([photos[i % len(photos)][:, y : y + 128, x : x + 128] for i, (y, x) in enumerate(corners)])
    draws = draw(16, generator=torch.Generator().manual_seed(0), ranges=PUBLISHED)
    there, here = apply(hq, draws), apply(hq.to(DEVICE), draws)
    assert here.device.type == DEVICE and here.shape == there.shape and (here * 255).frac().minimum(
        1 - (here * 255).frac()).max() < 1e-3, "whole bytes"
    difference = (here.cpu() - there).abs() * 255
    means = difference.mean((1, 2, 3))
    print(f"degradation: mean {means.mean():.4f}, median {means.median():.4f}, largest {difference.max():.0f} of 255")
    assert means.median() < 0.05 and means.mean() < 0.5, means
    for statistic in (torch.mean, torch.std):
        assert (statistic(here.cpu(), (1, 2, 3)) - statistic(there, (1, 2, 3))).abs().max() < 2 / 255, statistic.__name__
    again = degrade(hq.to(DEVICE), generator=torch.Generator().manual_seed(0), ranges=PUBLISHED)
    assert torch.equal(again, here), "the same seed draws the same"


# ---------------------------------------------------------------------------------------------------------- upscaling


def test_a_picture_comes_back_as_what_it_was(smoke: ITER) -> None:
    """PIL image, array or tensor; a tensor on the device that it was on, whatever device the model is on."""
    lq = photo("coffee", 16, 24)
    pixels = (lq[0] * 255).byte()
    rows = pixels.permute(1, 2, 0).contiguous().numpy()
    reference = smoke.upscale(lq)
    assert reference.device.type == "cpu" and reference.shape == (1, 3, 64, 96)

    image = smoke.upscale(Image.fromarray(rows))
    assert isinstance(image, Image.Image) and image.mode == "RGB" and image.size == (96, 64)
    array = smoke.upscale(rows)
    assert isinstance(array, np.ndarray) and array.dtype == np.uint8 and array.shape == (64, 96, 3)
    assert np.array_equal(array, np.asarray(image))
    for x in (lq, lq[0], lq.half(), lq.repeat(2, 1, 1, 1), pixels, lq[:, :1]):
        y = smoke.upscale(x.to(DEVICE))
        assert y.device.type == DEVICE and y.dtype == x.dtype
        assert y.shape == (*x.shape[:-2], 64, 96)
    assert torch.equal(smoke.upscale(lq.to(DEVICE)).cpu(), reference)


def test_memory_that_runs_out_is_answered_by_a_smaller_tile(
    smoke: ITER, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error is the allocator's own: the first try asks for a pebibyte."""
    tried: list[int | None] = []
    upscale = ITER.upscale

    def greedy(self: ITER, image: Tensor, *, tile: int | None = None, **settings: object) -> Tensor:
        tried.append(tile)
        if len(tried) == 1:
            torch.empty(2**50, dtype=torch.uint8, device=DEVICE)
        return upscale(self, image, tile=tile, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(ITER, "upscale", greedy)
    pixels = (photo("coffee", 64, 160)[0] * 255).byte().permute(1, 2, 0).contiguous().numpy()
    Image.fromarray(pixels).save(tmp_path / "x.png")
    call = ["upscale", str(tmp_path / "x.png"), "-o", str(tmp_path / "y.png"), "--tier", "smoke", "--device", DEVICE]
    assert main(call) == 0
    assert tried == [None, 80] and "y.png: out of memory; once more with --tile 80" in capsys.readouterr().err
    with Image.open(tmp_path / "y.png") as result:
        assert result.size == (640, 256)


# ----------------------------------------------------------------------------------------------------------- training


STEPS = 12  # enough for the autoencoder's part, the codebook's and the adversary's of Stage I, each at its share of a run


@pytest.fixture
def short_runs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The smoke tier with a checkpoint at every fourth step, and nothing compiled: that takes longer than the steps."""
    smoke = TIERS["smoke"]
    often = {stage: dataclasses.replace(settings, checkpoint_every=4) for stage, settings in smoke.train.items()}
    monkeypatch.setitem(TIERS, "smoke", dataclasses.replace(smoke, train=often))
    with torch.compiler.set_stance("force_eager"):
        yield
    forget_accelerator()


def forget_accelerator() -> None:
    """`accelerate` keeps one device and one precision for a process, and other tests train with others."""
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def train(stage: str, out: Path, *more: str) -> int:
    forget_accelerator()
    return main(["train", stage, "--tier", "smoke", "--steps", str(STEPS), "--batch", "2", "--crop", "64", "--device", DEVICE,
                 "--precision", "bf16", "--workers", "0", "--out", str(out), *more])


def spoil(monkeypatch: pytest.MonkeyPatch, step: int, spoiled: Callable[[dict[str, Tensor]], None]) -> None:
    """Have `spoiled` change the samples from `step` on."""
    real = Crops.__getitem__

    def getitem(self: Crops, index: int) -> dict[str, Tensor]:
        sample = real(self, index)
        if index >= 2 * step:
            spoiled(sample)
        return sample

    monkeypatch.setattr(Crops, "__getitem__", getitem)


def ctrl_c(sample: dict[str, Tensor]) -> None:
    raise KeyboardInterrupt


def not_a_number(sample: dict[str, Tensor]) -> None:
    sample["hq"].fill_(float("nan"))


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_trains_in_bfloat16_and_goes_on_from_its_checkpoint(
    stage: str, tmp_path: Path, short_runs: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "weights").mkdir()
    for name in ("vqgan", "lq_encoder"):  # what the stages before would have left
        shutil.copy(SHIPPED / "smoke" / f"{name}.safetensors", tmp_path / "weights")
    with monkeypatch.context() as patch:
        spoil(patch, 8, ctrl_c)
        assert train(stage, tmp_path) == 130
    checkpoint = tmp_path / stage / "checkpoint.pt"
    assert 4 <= torch.load(checkpoint, weights_only=True)["step"] <= 8
    assert train(stage, tmp_path, "--resume") == 0
    assert torch.load(checkpoint, weights_only=True)["step"] == STEPS
    log = pd.read_csv(tmp_path / stage / "log.csv").query("split == 'train'")
    assert log.step.max() == STEPS and np.isfinite(log.value).all(), log
    for name in STAGES[stage]:
        tensors = load_file(tmp_path / "weights" / f"{name}.safetensors")
        assert all(tensor.isfinite().all() for tensor in tensors.values()), name


def test_a_nan_stops_the_run(
    tmp_path: Path, short_runs: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(monkeypatch, 5, not_a_number)  # the codebook is there by then, and a validation may follow before losses are read
    assert train("vqgan", tmp_path) == 1
    said = capsys.readouterr().err
    assert "loss or gradient is nan; photos " in said, said
    saved = torch.load(tmp_path / "vqgan" / "checkpoint.pt", weights_only=True)["average"]
    for file in (tmp_path / "weights").glob("*.safetensors"):  # of a validation before the fault
        saved |= load_file(file)
    assert saved and all(value.isfinite().all() for value in saved.values())
