"""The perceptual distance: the same numbers and gradients as another implementation, whatever the size, type or layout."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from itersr.pictures import bundled
from itersr.training.perceptual import LPIPS, perceptual

SHARED = (Path(__file__).parents[1] / ".." / "shared" / "data" / "torch_home").resolve()


@pytest.fixture
def look(monkeypatch: pytest.MonkeyPatch) -> LPIPS:
    if SHARED.is_dir():
        monkeypatch.setenv("TORCH_HOME", str(SHARED))
    try:
        return LPIPS()
    except RuntimeError as error:
        pytest.skip(str(error))


@pytest.fixture
def other(look: LPIPS, monkeypatch: pytest.MonkeyPatch) -> Any:
    pyiqa = pytest.importorskip("pyiqa", reason="pyiqa is not installed")
    monkeypatch.setattr("pyiqa.utils.download_util.DEFAULT_CACHE_DIR", os.path.join(torch.hub.get_dir(), "pyiqa"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pyiqa.create_metric("lpips", net="squeeze", as_loss=True, loss_reduction="none", device="cpu")


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def pairs() -> dict[str, tuple[Tensor, Tensor]]:
    """Random images, and real ones each with a noisy form of itself."""
    photos = torch.stack([photo[:, :96, :120] for photo in bundled("test").values()])
    noisy = (photos + 0.2 * (noise(*photos.shape) - 0.5)).clamp(0, 1)
    random = noise(2, 3, 64, 80), noise(2, 3, 64, 80, seed=1)
    return {"random": random, "odd": (noise(3, 3, 17, 41), noise(3, 3, 17, 41, seed=1)), "photos": (photos, noisy)}


@pytest.mark.parametrize("name", ["random", "odd", "photos"])
def test_equals_pyiqa(look: LPIPS, other: Any, name: str) -> None:
    image, target = pairs()[name]
    with torch.no_grad():
        found, needed = look(image, target), other(image, target).flatten()
    assert found.shape == (len(image),) and found.dtype == torch.float32
    assert found.sub(needed).abs().max() < 1e-5 < found.min()
    assert torch.equal(look(image, image), torch.zeros(len(image)))


def test_gradients_equal_pyiqas(look: LPIPS, other: Any) -> None:
    for image, target in pairs().values():
        found, needed = (
            torch.autograd.grad(each(x, target).sum(), x)[0] for each in (look, other) for x in [image.clone().requires_grad_()]
        )
        assert needed.abs().max() > 0
        assert (found - needed).abs().max() < 1e-3 * needed.abs().max()


def test_is_a_fixed_ruler(look: LPIPS) -> None:
    assert look.name == "lpips" == perceptual().name
    assert not any(parameter.requires_grad for parameter in look.parameters())
    assert not any(module.training for module in look.train().modules())
    before = torch.get_rng_state()
    LPIPS()
    assert torch.equal(before, torch.get_rng_state()), "making it draws no random numbers"


def test_a_black_image_has_a_gradient(look: LPIPS) -> None:
    image = torch.zeros(1, 3, 32, 32, requires_grad=True)
    look(image, noise(1, 3, 32, 32)).sum().backward()
    assert image.grad is not None and torch.isfinite(image.grad).all()


def test_layout_and_autocast_change_little(look: LPIPS) -> None:
    image, target = pairs()["photos"]
    plain = look(image, target)
    last = look.to(memory_format=torch.channels_last)
    assert torch.allclose(last(image.contiguous(memory_format=torch.channels_last), target), plain, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        found = look(image, target)
    assert found.dtype == torch.float32 and torch.allclose(found, plain, rtol=0.05, atol=0.01)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda(look: LPIPS) -> None:
    image, target = pairs()["photos"]
    plain = look(image, target)
    assert torch.allclose(look.cuda()(image.cuda(), target.cuda()).cpu(), plain, atol=1e-3)  # TF32 may be on
    with torch.autocast("cuda", torch.bfloat16):
        found = look(image.cuda(), target.cuda())
    assert found.dtype == torch.float32 and torch.allclose(found.cpu(), plain, rtol=0.05, atol=0.01)


def test_without_weights_the_substitute_is_named_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(RuntimeError, match="not on this machine.*squeezenet1_1.*LPIPS_v0.1_squeeze"):
        LPIPS()
    assert perceptual().name == "gradients"
    assert len(caplog.records) == 1 and len(caplog.messages[0].splitlines()) == 1


def test_training_does_not_import_pyiqa(look: LPIPS) -> None:
    code = "import sys; from itersr.training import run, perceptual; perceptual.LPIPS(); sys.exit('pyiqa' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])
