"""Metrics: conventions hold against other implementations, the paper's numbers come out, nothing is downloaded."""

from __future__ import annotations

import math
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from itersr.lab import metrics
from itersr.pictures import bundled
from itersr.upscaling.read import image_files, read

pytest.importorskip("pyiqa", reason="pyiqa is not installed")
SHARED = Path(__file__).parents[1] / ".." / "shared" / "data"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    # NIQE works on many small matrices: with several threads on a busy machine it takes five times as long.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    clean = bundled("test")["chelsea"][None, :, :128, :160]
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)) * 0.05
    return (clean + noise).clamp(0, 1), clean


@pytest.fixture
def torch_home(monkeypatch: pytest.MonkeyPatch) -> Path:
    home = (SHARED / "torch_home").resolve()
    if not home.is_dir():
        pytest.skip("needs ../shared/data/torch_home (metric weights)")
    monkeypatch.setenv("TORCH_HOME", str(home))
    return home


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(socket.socket, "connect", lambda *a: pytest.fail("reached for the network"))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: pytest.fail("reached for the network"))
    return tmp_path


def bt601_luma(x: torch.Tensor) -> np.ndarray:
    """Y of YCbCr as MATLAB's rgb2ycbcr has it, 16 to 235."""
    r, g, b = x[0].double().numpy() * 255
    return 16 + (65.481 * r + 128.553 * g + 24.966 * b) / 255


def test_psnr_is_that_of_y_without_crop(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    noisy, clean = pair
    mse = np.mean((bt601_luma(noisy) - bt601_luma(clean)) ** 2)
    assert float(metrics.score("psnr", noisy, clean)) == pytest.approx(10 * math.log10(255**2 / mse), abs=1e-3)


def test_ssim_agrees_with_scikit_image(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    from skimage.metrics import structural_similarity

    noisy, clean = (bt601_luma(x).round() for x in pair)
    _, full = structural_similarity(
        noisy, clean, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
    )
    expected = full[5:-5, 5:-5].mean()  # windows that lie inside the picture
    assert float(metrics.score("ssim", *pair)) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("name", ["psnr", "ssim", "gmsd"])
def test_better_is_scored_better_and_a_batch_equals_its_singles(
    name: str, pair: tuple[torch.Tensor, torch.Tensor]
) -> None:
    noisy, clean = pair
    half = (noisy + clean) / 2
    batch = metrics.score(name, torch.cat([noisy, half]), torch.cat([clean, clean]))
    assert batch.shape == (2,) and batch.dtype == torch.float64
    singles = torch.cat([metrics.score(name, noisy, clean), metrics.score(name, half, clean)])
    assert torch.allclose(batch, singles, atol=1e-6)
    assert (batch[1] < batch[0]) == metrics.find(name).lower_better


def test_names_and_conventions_are_stated() -> None:
    assert "Y of YCbCr" in metrics.describe("psnr") and "no border crop" in metrics.describe("ssim")
    with pytest.raises(ValueError, match="'fid', needed one of lpips, psnr"):
        metrics.available("fid")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda x: metrics.score("psnr", x), "reference is None"),
        (lambda x: metrics.score("psnr", x, x[..., :-1]), r"shape \(1, 3, 128, 159\), needed \(1, 3, 128, 160\)"),
        (lambda x: metrics.score("ssim", x[..., :10, :], x[..., :10, :]), "160×10 pixels, needed at least 11"),
        (lambda x: metrics.score("niqe", x[..., :95]), "needed at least 96"),
        (lambda x: metrics.score("psnr", x * 300, x), "divide by 255|needed"),
    ],
)
def test_wrong_calls_say_what_was_needed(call, said: str, pair: tuple[torch.Tensor, torch.Tensor]) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=said):
        call(pair[1])


@pytest.mark.parametrize("name", ["lpips", "lpips-squeeze", "niqe", "pi"])
def test_without_weights_nothing_is_downloaded_and_the_cure_is_named(name: str, no_weights: Path) -> None:
    assert not metrics.available(name)
    assert metrics.available("psnr") and metrics.available("gmsd")
    x = torch.rand(1, 3, 128, 128)
    with pytest.raises(metrics.MetricUnavailable, match="TORCH_HOME") as caught:
        metrics.score(name, x, x)
    assert str(no_weights) in str(caught.value) and "\n" not in str(caught.value)


def test_an_empty_weights_file_is_not_taken_for_weights(no_weights: Path) -> None:
    (no_weights / "hub/pyiqa").mkdir(parents=True)
    (no_weights / "hub/pyiqa/niqe_modelparameters.mat").write_bytes(b"")
    assert not metrics.available("niqe")


def test_lpips_says_which_network_it_uses(torch_home: Path, pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    assert metrics.available("lpips") and metrics.describe("lpips") == "LPIPS v0.1, net squeeze, RGB"
    noisy, clean = pair
    value, same = float(metrics.score("lpips", noisy, clean)), float(metrics.score("lpips", clean, clean))
    assert same == pytest.approx(0, abs=1e-6) and 0.01 < value < 0.5
    assert torch.equal(metrics.score("lpips", noisy, clean), metrics.score("lpips-squeeze", noisy, clean))
    assert not metrics.available("pi"), "NRQM's weights are not there"


def test_weights_are_found_in_a_fresh_interpreter(torch_home: Path) -> None:
    code = (
        "import torch; from itersr.lab import metrics; x = torch.rand(1, 3, 96, 96);"
        "print(float(metrics.score('lpips', x, x)), float(metrics.score('niqe', x)) > 0)"
    )
    root = str(Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, env=os.environ | {"PYTHONPATH": root}
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0.0", "True"], "and pyiqa's own prints are kept off stdout"


def test_niqe_of_published_bsrgan_outputs_is_the_papers(torch_home: Path) -> None:
    """Table 1 of the paper has 5.49 for BSRGAN on RealSRSet; these are its authors' own pictures."""
    values = [metrics.score("niqe", read(path)) for path in image_files(SHARED / "published" / "bsrgan")]
    assert len(values) == 20
    assert float(torch.cat(values).mean()) == pytest.approx(5.49, abs=0.02)


def test_niqe_of_cubic_upscaled_realsrset_is_the_papers(torch_home: Path) -> None:
    """Table 1 of the paper has 7.98 for bicubic: OpenCV's cubic (a = -0.75) gives it, Pillow's does not."""
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
    values = []
    for path in image_files(SHARED / "test" / "realsrset"):
        small = (read(path).tensor.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
        big = cv2.resize(small, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
        values.append(metrics.score("niqe", big))
    assert len(values) == 20
    assert float(torch.cat(values).mean()) == pytest.approx(7.98, abs=0.03)


# ---------------------------------------------------------------------------------------------------------- intervals


def test_interval_matches_the_normal_theory_for_many_values() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(400, generator=g, dtype=torch.float64) * 2 + 5
    got = metrics.mean_interval(x, g)
    half = 1.96 * float(x.std()) / 20
    assert got["n"] == 400 and got["mean"] == pytest.approx(float(x.mean()))
    assert got["low"] == pytest.approx(got["mean"] - half, abs=0.03)
    assert got["high"] == pytest.approx(got["mean"] + half, abs=0.03)


def test_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    g = torch.Generator().manual_seed(1)
    hits = 0
    for _ in range(200):
        got = metrics.mean_interval(torch.randn(30, generator=g), g, resamples=500)
        hits += got["low"] <= 0 <= got["high"]
    assert 175 <= hits <= 198  # 95 % of 200, less what the bootstrap misses at n = 30


def test_pairing_cancels_what_the_images_differ_by() -> None:
    g = torch.Generator().manual_seed(2)
    images = torch.randn(24, generator=g) * 10
    a, b = images + 0.5 + torch.randn(24, generator=g) * 0.1, images
    paired = metrics.mean_interval(a - b, g)
    assert paired["low"] > 0.4 and paired["high"] < 0.6
    loose = metrics.mean_interval(a, g)
    assert loose["high"] - loose["low"] > 20 * (paired["high"] - paired["low"])


def test_seeds_are_resampled_with_the_images() -> None:
    g = torch.Generator().manual_seed(3)
    by_seed = torch.tensor([0.0, 10.0, 20.0]).expand(12, 3)  # the images agree, the seeds do not
    got = metrics.mean_interval(by_seed, g)
    assert got["mean"] == pytest.approx(10) and got["low"] < 5 and got["high"] > 15
    again = metrics.mean_interval(by_seed, torch.Generator().manual_seed(4))
    assert again == metrics.mean_interval(by_seed, torch.Generator().manual_seed(4))


@pytest.mark.parametrize("values", [[1.0], [], [1.0, float("nan")], [[[1.0]], [[2.0]]]])
def test_intervals_refuse_what_has_none(values: list) -> None:
    with pytest.raises(ValueError, match="needed"):
        metrics.mean_interval(values, torch.Generator())
