"""Colours held to the input: what is corrected is the low band, and nothing else."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from itersr import pictures
from tests.benchmarks.bench_color import drift


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    """A photo that stands for the result (values well inside [0, 1]), and the LQ image that it belongs to."""
    hq = pictures.bundled("test")["coffee"][None, :, :256, :320] * 0.5 + 0.25
    return hq, F.interpolate(hq, scale_factor=0.25, mode="area")


@pytest.mark.parametrize("kind", pictures.COLOR_FIXES)
def test_a_result_with_the_right_colours_stays(kind: str) -> None:
    hq, lq = pair()
    assert (pictures.match_colors(hq.clone(), lq, kind) - hq).abs().mean() < (1e-5 if kind != "adain" else 0.02)


@pytest.mark.parametrize("kind", ["wavelet", "adain"])
def test_a_cast_over_the_whole_picture_is_taken_back(kind: str) -> None:
    hq, lq = pair()
    tint = torch.tensor([0.12, -0.05, 0.08]).view(1, 3, 1, 1)
    fixed = pictures.match_colors(hq + tint, lq, kind)
    assert drift(hq + tint, hq) > 0.08 and drift(fixed, hq) < 0.004


def test_wavelet_takes_back_a_drift_that_changes_over_the_picture_and_adain_does_not() -> None:
    hq, lq = pair()
    tint = 0.15 * torch.linspace(-1, 1, hq.shape[-1]).expand_as(hq)
    assert drift(pictures.match_colors(hq + tint, lq, "wavelet"), hq) < 0.01
    assert drift(pictures.match_colors(hq + tint, lq, "adain"), hq) > 0.03


def test_fine_texture_stays_the_models_own() -> None:
    hq, lq = pair()
    checker = 0.1 * (torch.arange(hq.shape[-1]) % 2 * 2 - 1).float().expand_as(hq)
    assert (pictures.match_colors(hq + checker, lq, "wavelet") - (hq + checker)).abs().mean() < 0.002


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (3, 2)])
@pytest.mark.parametrize("kind", ["wavelet", "adain"])
def test_any_size(size: tuple[int, int], kind: str) -> None:
    lq = torch.rand(1, 3, *size)
    fixed = pictures.match_colors(torch.rand(1, 3, 4 * size[0], 4 * size[1]), lq, kind)
    assert fixed.isfinite().all() and 0 <= fixed.min() and fixed.max() <= 1


def test_a_batch_is_its_singles_and_unknown_kinds_are_named() -> None:
    image, lq = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 8, 8)
    for kind in ("wavelet", "adain"):
        both = pictures.match_colors(image.clone(), lq, kind)
        assert torch.equal(both[1:], pictures.match_colors(image[1:].clone(), lq[1:], kind))
    with pytest.raises(ValueError, match="color_fix 'x': there are none, wavelet, adain"):
        pictures.match_colors(image, lq, "x")
