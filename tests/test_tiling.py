"""Tiles: cover everything once, keep to the window grid, and give what the whole picture gives."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from itersr import tiling

sizes = st.tuples(st.integers(1, 200), st.integers(1, 80), st.integers(0, 40), st.integers(1, 16))


@given(sizes)
def test_cores_cover_the_axis_once_and_reads_keep_to_the_grid(case: tuple[int, int, int, int]) -> None:
    length, tile, overlap, multiple = case
    cut = tiling.tiles(length, tile, overlap, multiple)
    assert [i for t in cut for i in range(length)[t.core]] == list(range(length))
    for t in cut:
        assert t.read.start % multiple == 0 and (t.read.stop % multiple == 0 or t.read.stop == length)
        assert t.core.start % multiple == 0
        assert t.core.start - t.read.start >= min(overlap, t.core.start)
        assert t.read.stop - t.core.stop >= min(overlap, length - t.core.stop)
        assert t.core.stop - t.core.start <= max(tile, multiple)
        assert list(range(length)[t.read])[t.inner] == list(range(length)[t.core])


@pytest.mark.parametrize("case", [(0, 4, 0, 1), (4, 0, 0, 1), (4, 4, -1, 1), (4, 4, 0, 0)])
def test_sizes_that_make_no_sense_are_named(case: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="is (0|-1), needed at least"):
        tiling.tiles(*case)


def stack(depth: int, stride: bool = False) -> nn.Module:
    """Convolutions with a receptive field of `depth` places on each side, and a nearest ×2 where `stride`."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, 8, 3, padding=1), nn.GELU()]
    for _ in range(depth - 2):
        layers += [nn.Conv2d(8, 8, 3, padding=1), nn.GELU()]
    if stride:
        layers += [nn.Upsample(scale_factor=2)]
    return nn.Sequential(*layers, nn.Conv2d(8, 3, 3, padding=1)).double().eval()


@pytest.mark.parametrize(("h", "w"), [(40, 56), (33, 17), (5, 70), (1, 40)])
@pytest.mark.parametrize("tile", [8, 16, 24])
@torch.no_grad()
def test_convolutions_in_tiles_equal_the_whole(h: int, w: int, tile: int) -> None:
    net, x = stack(5), torch.rand(2, 3, h, w, dtype=torch.float64)
    assert torch.allclose(tiling.apply_tiled(net, x, tile, 5), net(x), atol=1e-12)


@torch.no_grad()
def test_an_upsampling_network_in_tiles_equals_the_whole() -> None:
    net, x = stack(5, stride=True), torch.rand(1, 3, 37, 50, dtype=torch.float64)
    assert torch.allclose(tiling.apply_tiled(net, x, 12, 5, factor=2), net(x), atol=1e-12)


@torch.no_grad()
def test_a_network_that_halves_equals_the_whole() -> None:
    net = nn.Sequential(stack(3), nn.Conv2d(3, 4, 3, stride=2, padding=1).double())
    x = torch.rand(1, 3, 36, 50, dtype=torch.float64)
    assert torch.allclose(tiling.apply_tiled(net, x, 12, 4, factor=Fraction(1, 2), multiple=2), net(x), atol=1e-12)


def windowed(x: torch.Tensor, window: int = 4, shift: int = 2) -> torch.Tensor:
    """What Swin does to receptive fields: each window sees itself, then the shifted windows do (no wrap-around)."""

    def mean_in_windows(y: torch.Tensor, offset: int) -> torch.Tensor:
        h, w = y.shape[-2:]
        padded = F.pad(y, (offset, -(w + offset) % window, offset, -(h + offset) % window))
        means = F.avg_pool2d(padded, window).repeat_interleave(window, -1).repeat_interleave(window, -2)
        return means[..., offset : offset + h, offset : offset + w]

    x = x + mean_in_windows(x, 0)
    return x * 0.5 + mean_in_windows(x.square(), shift)


@pytest.mark.parametrize(("h", "w"), [(32, 48), (20, 28)])
def test_windows_stay_where_they_were_when_tiles_begin_at_multiples(h: int, w: int) -> None:
    x = torch.rand(1, 1, h, w, dtype=torch.float64)
    exact = tiling.apply_tiled(windowed, x, 10, 7, multiple=4)
    assert torch.allclose(exact, windowed(x), atol=1e-12)
    off_grid = tiling.apply_tiled(windowed, x, 10, 7, multiple=1)
    assert not torch.allclose(off_grid, windowed(x), atol=1e-3), "the multiple matters, or the test shows nothing"


def test_a_halo_smaller_than_the_receptive_field_shows() -> None:
    net, x = stack(5), torch.rand(1, 3, 40, 40, dtype=torch.float64)
    with torch.no_grad():
        assert not torch.allclose(tiling.apply_tiled(net, x, 16, 2), net(x), atol=1e-6)


def test_no_tile_is_larger_than_it_may_be() -> None:
    seen: list[tuple[int, int]] = []

    def watch(x: torch.Tensor) -> torch.Tensor:
        seen.append((x.shape[-2], x.shape[-1]))
        return x

    x = torch.rand(1, 3, 100, 300)
    assert torch.equal(tiling.apply_tiled(watch, x, 32, 8), x)
    assert len(seen) == 4 * 10 and max(max(s) for s in seen) == 32 + 2 * 8


def test_a_function_of_another_size_is_named() -> None:
    with pytest.raises(ValueError, match=r"made \(8, 8\) of a tile \(4, 4\), needed \(4, 4\)"):
        tiling.apply_tiled(lambda y: y.repeat_interleave(2, -1).repeat_interleave(2, -2), torch.rand(1, 1, 4, 4), 4, 0)


@settings(deadline=None, max_examples=60)
@given(sizes)
def test_ramps_of_all_tiles_never_leave_a_place_without_weight(case: tuple[int, int, int, int]) -> None:
    length, tile, overlap, multiple = case
    total = torch.zeros(length * 2)
    for t in tiling.tiles(length, tile, overlap, multiple):
        total[tiling.scaled(t.read, 2)] += tiling.ramp(t, length, 2)
    assert (total > 0.4).all()


def test_ramps_of_two_neighbours_add_up_to_one() -> None:
    total = torch.zeros(64)
    for t in tiling.tiles(64, 32, 8):
        total[t.read] += tiling.ramp(t, 64)
    assert torch.allclose(total, torch.ones(64))


def test_blending_keeps_a_constant_and_hides_what_each_tile_got_wrong() -> None:
    constant = torch.full((1, 3, 50, 70), 0.3)
    assert torch.allclose(tiling.blend(lambda y: y, constant, 16, 4), constant, atol=1e-6)
    # a network that shifts each tile's brightness by its own amount: the worst case for seams
    x = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0)) * 0.1

    def drifting(y: torch.Tensor) -> torch.Tensor:
        return y * 0 + y.mean() * 20

    def jump(y: torch.Tensor) -> float:
        return float(torch.maximum(y.diff(dim=-1).abs().max(), y.diff(dim=-2).abs().max()))

    assert jump(tiling.blend(drifting, x, 16, 8)) < 0.3 * jump(tiling.apply_tiled(drifting, x, 16, 8))
