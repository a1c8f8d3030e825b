"""Tiles: cover everything once, keep to the window grid, and give what the whole picture gives; then the model in tiles."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from itersr import pictures, tiling
from itersr.config import SwinConfig, Tier, tier
from itersr.model import ITER
from itersr.swin import SwinLayers
from itersr.tiled import tile_for

ROOT = Path(__file__).parents[1]

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


def part_of(fn: Callable[[Tensor], Tensor], x: Tensor) -> tiling.Part:
    return lambda rows, columns: fn(x[..., rows, columns])


def tiled(fn: Callable[[Tensor], Tensor], x: Tensor, *cut: int, **options: int) -> Tensor:
    return tiling.apply_tiled(part_of(fn, x), (x.shape[-2], x.shape[-1]), *cut, **options)


def blended(fn: Callable[[Tensor], Tensor], x: Tensor, *cut: int, **options: int) -> Tensor:
    return tiling.blend(part_of(fn, x), (x.shape[-2], x.shape[-1]), *cut, **options)


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
    assert torch.allclose(tiled(net, x, tile, 5), net(x), atol=1e-12)


@torch.no_grad()
def test_an_upsampling_network_in_tiles_equals_the_whole() -> None:
    net, x = stack(5, stride=True), torch.rand(1, 3, 37, 50, dtype=torch.float64)
    assert torch.allclose(tiled(net, x, 12, 5, factor=2), net(x), atol=1e-12)


@torch.no_grad()
def test_a_network_that_halves_equals_the_whole() -> None:
    net = nn.Sequential(stack(3), nn.Conv2d(3, 4, 3, stride=2, padding=1).double())
    x = torch.rand(1, 3, 36, 50, dtype=torch.float64)
    halved = tiling.apply_tiled(lambda r, c: net(x[..., tiling.scaled(r, 2), tiling.scaled(c, 2)]), (18, 25), 6, 2)
    assert torch.allclose(halved, net(x), atol=1e-12)


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
    exact = tiled(windowed, x, 10, 7, multiple=4)
    assert torch.allclose(exact, windowed(x), atol=1e-12)
    off_grid = tiled(windowed, x, 10, 7, multiple=1)
    assert not torch.allclose(off_grid, windowed(x), atol=1e-3), "the multiple matters, or the test shows nothing"


def test_a_halo_smaller_than_the_receptive_field_shows() -> None:
    net, x = stack(5), torch.rand(1, 3, 40, 40, dtype=torch.float64)
    with torch.no_grad():
        assert not torch.allclose(tiled(net, x, 16, 2), net(x), atol=1e-6)


def test_no_tile_is_larger_than_it_may_be() -> None:
    seen: list[tuple[int, int]] = []

    def watch(x: torch.Tensor) -> torch.Tensor:
        seen.append((x.shape[-2], x.shape[-1]))
        return x

    x = torch.rand(1, 3, 100, 300)
    assert torch.equal(tiled(watch, x, 32, 8), x)
    assert len(seen) == 4 * 10 and max(max(s) for s in seen) == 32 + 2 * 8


@settings(deadline=None, max_examples=60)
@given(sizes)
def test_ramps_of_all_tiles_never_leave_a_place_without_weight(case: tuple[int, int, int, int]) -> None:
    length, tile, overlap, multiple = case
    total = torch.zeros(length * 2)
    for t in tiling.tiles(length, tile, overlap, multiple):
        total[tiling.scaled(t.read, 2)] += tiling.ramp(t, 2)
    assert (total > 0.4).all()


def test_ramps_of_two_neighbours_add_up_to_one() -> None:
    total = torch.zeros(64)
    for t in tiling.tiles(64, 32, 8):
        total[t.read] += tiling.ramp(t)
    assert torch.allclose(total, torch.ones(64))


def test_blending_keeps_a_constant_and_hides_what_each_tile_got_wrong() -> None:
    constant = torch.full((1, 3, 50, 70), 0.3)
    assert torch.allclose(blended(lambda y: y, constant, 16, 4), constant, atol=1e-6)
    # a network that shifts each tile's brightness by its own amount: the worst case for seams
    x = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0)) * 0.1

    def drifting(y: torch.Tensor) -> torch.Tensor:
        return y * 0 + y.mean() * 20

    def jump(y: torch.Tensor) -> float:
        return float(torch.maximum(y.diff(dim=-1).abs().max(), y.diff(dim=-2).abs().max()))

    assert jump(blended(drifting, x, 16, 8)) < 0.3 * jump(tiled(drifting, x, 16, 8))


# ------------------------------------------------------------------------------------------------------------- the model


def shaken(which: Tier) -> ITER:
    """Random networks in which nothing is zero: a residual block that starts as the identity would hide what it reaches."""
    torch.manual_seed(0)
    model = ITER(which).ready("cpu")
    for weight in model.parameters():
        if not weight.any():
            weight.normal_(std=0.05)
        elif weight.ndim > 1:
            weight.mul_(1.3)
    return model


@pytest.fixture(scope="module")
def smoke() -> ITER:
    return ITER.from_pretrained("smoke", device="cpu")


def photo(name: str, h: int, w: int) -> Tensor:
    return pictures.bundled("test")[name][None, :, 60 : 60 + h, 100 : 100 + w]


@pytest.mark.parametrize(("groups", "depth"), [(1, 1), (1, 2), (1, 3), (2, 2), (2, 4)])
@torch.no_grad()
def test_reach_of_swin_layers_is_what_a_fault_at_the_border_spoils(groups: int, depth: int) -> None:
    """The rows that change when all beyond a tile's border is cut off end where `swin_reach` says."""
    torch.manual_seed(0)
    config = SwinConfig(width=8, groups=groups, depth=depth, heads=2)
    net = SwinLayers(8, config).double()
    for weight in net.parameters():
        weight.normal_(std=0.5)
    x = torch.randn(1, 8, 160, 16, dtype=torch.float64)
    spoiled = (net(x)[..., :80, :] - net(x[..., :80, :])).abs().amax((0, 1, 3)).flip(0) > 1e-12
    assert int(spoiled.nonzero().max()) + 1 == tiling.swin_reach(0, config)


@pytest.mark.parametrize("name", ["smoke", "tiny", "small"])
@torch.no_grad()
def test_every_network_in_tiles_equals_itself_in_one_piece(name: str) -> None:
    """Each with the halo of its reach; without a halo each differs, or this would show nothing."""
    model = shaken(tier(name))
    g = torch.Generator().manual_seed(1)
    size, cut, reach = (48, 64) if name == "smoke" else (8, 144), (16 if name == "smoke" else 48, 8), tiling.reach(model.tier)
    codes = model.tier.vqgan.codes
    lq = torch.rand(1, 3, *size, generator=g)
    s_t, s_l = (torch.randint(codes, (1, *size), generator=g) for _ in range(2))
    keep, good = (torch.rand(1, *size, generator=g) < 0.5 for _ in range(2))
    log_probs = torch.randn(1, codes, *size, generator=g).log_softmax(1)
    lq_features = model.lq_features(lq)
    refine_all, judge_all = model.functions(log_probs, lq_features)

    def refine(r: slice, c: slice) -> Tensor:
        p = (..., r, c)
        refiner, _ = model.functions(log_probs[p], None if lq_features is None else lq_features[p])
        return refiner(s_t[p], keep[p], s_l[p], good[p])

    networks = {
        "lq_encoder": (lambda r, c: model.lq_encoder(lq[..., r, c]), model.lq_encoder(lq), 1),
        "refiner": (refine, refine_all(s_t, keep, s_l, good), 1),
        "evaluator": (lambda r, c: model.functions(log_probs[..., r, c])[1](s_t[..., r, c], s_l[..., r, c]),
                      judge_all(s_t, s_l), 1),
        "decoder": (lambda r, c: model.vqgan.decode(s_t[..., r, c]), model.vqgan.decode(s_t), model.tier.vqgan.factor),
    }  # fmt: skip
    if (stem := model.refiner.stem) is not None:
        networks["stem"] = (lambda r, c: stem.lq_features(lq[..., r, c]), lq_features, 1)
    for network, (part, whole, factor) in networks.items():
        exact = tiling.apply_tiled(part, size, cut[0], reach[network], cut[1], factor)
        rough = tiling.apply_tiled(part, size, cut[0], 0, cut[1], factor)
        spread = whole.std()
        assert (exact - whole).abs().max() < 1e-4 * spread, network
        assert (rough - whole).abs().max() > 0.03 * spread, network


@pytest.mark.parametrize("settings_", [{}, {"policy": "topk", "alpha": 0.9}, {"remask": True, "adaptive": False}])
def test_the_tile_does_not_change_the_picture(smoke: ITER, settings_: dict[str, object]) -> None:
    """One T_s, one k and one map of noise for the whole picture: at least 999 of 1,000 tokens are those of one piece."""
    lq = photo("chelsea", 51, 90)
    whole = smoke.restore(lq, tile=0, seed=3, **settings_)
    for tile in (24, 64):
        cut = smoke.restore(lq, tile=tile, seed=3, **settings_)
        assert torch.equal(cut.start, whole.start) and len(cut.restored.steps) == len(whole.restored.steps)
        for a, b in zip(cut.restored.steps, whole.restored.steps, strict=True):
            assert int(a.keep.sum()) == int(b.keep.sum())
        assert (cut.restored.tokens == whole.restored.tokens).float().mean() >= 0.999
        assert (cut.image - whole.image).abs().mean() < 1e-3
    assert torch.equal(smoke.restore(lq, tile=200, seed=3, **settings_).image, whole.image), "one tile is one piece"


def test_a_network_that_reads_the_posterior_gets_it_tile_by_tile() -> None:
    model = shaken(tier("tiny"))
    lq = photo("coffee", 8, 144)
    whole, cut = model.restore(lq, tile=0, steps=2), model.restore(lq, tile=72, steps=2)
    assert torch.equal(whole.start, cut.start) and (whole.restored.tokens == cut.restored.tokens).float().mean() >= 0.999


def test_tiles_are_chosen_by_size_and_refused_when_negative(smoke: ITER) -> None:
    auto = tile_for(smoke, (10_000, 10_000))
    assert tile_for(smoke, (auto, auto)) == 0 and tile_for(smoke, (auto, auto + 1)) == auto
    assert tile_for(smoke, (auto, 2 * auto), 0) == 0
    assert tile_for(smoke, (100, 100), 37) == 32 and tile_for(smoke, (9, 9), 1) == 8
    assert [tile_for(ITER(tier(name)), (10**4, 10**4)) for name in ("tiny", "small")] == [216, 152]
    with pytest.raises(ValueError, match="tile = -1"):
        smoke.restore(photo("rocket", 8, 8), tile=-1)


def seams(image: Tensor, tile: int, factor: int) -> float:
    """Mean absolute jump across the borders of tiles, over that across all other borders of tokens (rows and columns)."""
    across, inside = [], []
    for x in (image, image.transpose(-2, -1)):
        jump = x.diff(dim=-1).abs().mean((0, 1, 2))[factor - 1 :: factor]  # one number a border of tokens
        at_border = torch.arange(1, len(jump) + 1) % tile == 0
        across.append(jump[at_border])
        inside.append(jump[~at_border])
    return float(torch.cat(across).mean() / torch.cat(inside).mean())


def test_tiles_leave_no_seams(smoke: ITER, monkeypatch: pytest.MonkeyPatch) -> None:
    lq, tile = F.avg_pool2d(pictures.bundled("test")["coffee"][None], 2)[..., :96, :144], 24
    whole = seams(smoke.restore(lq, tile=0).image, tile, 4)
    assert seams(smoke.restore(lq, tile=tile).image, tile, 4) <= 1.05 * max(whole, 1)
    none = dict.fromkeys(tiling.reach(smoke.tier), 0)
    monkeypatch.setattr(tiling, "reach", lambda tier: none)
    assert seams(smoke.restore(lq, tile=tile).image, tile, 4) > 1.05 * max(whole, 1), "without a halo there are seams to find"


def mixing() -> Tier:
    """The published design (GroupNorm, gates) at a size for tests."""
    small, net_l = tier("smoke"), tier("smoke").lq_encoder
    swin = replace(small.vqgan.swin, gate=True)
    net = replace(small.refiner, norm="group", swin=replace(small.refiner.swin, gate=True))
    return replace(small, vqgan=replace(small.vqgan, width=32, norm="group", swin=swin), refiner=net, evaluator=net,
                   lq_encoder=replace(net_l, norm="group", swin=replace(net_l.swin, gate=True)))  # fmt: skip


def test_networks_that_mix_the_whole_picture_are_blended_without_seams() -> None:
    model = shaken(mixing())
    assert not tiling.is_local(model.tier) and all(tiling.is_local(tier(n)) for n in ("smoke", "tiny", "small"))
    lq = photo("coffee", 96, 128)
    cut = model.restore(lq, tile=32, steps=2, temperature=0)
    assert cut.image.shape == (1, 3, 384, 512) and cut.image.isfinite().all()
    assert seams(cut.image, 32, 4) <= 1.05 * max(1, seams(model.restore(lq, tile=0, steps=2, temperature=0).image, 32, 4))
    n, k = cut.restored.tokens.numel(), [int(step.keep.sum()) for step in cut.restored.steps]
    assert k[-1] == n, "one budget for the whole picture"


def test_steps_are_kept_for_those_who_ask(smoke: ITER) -> None:
    lq = photo("rocket", 24, 24)
    kept, forgot = smoke.restore(lq, alpha=1.0), smoke.restore(lq, alpha=1.0, keep_steps=False)
    assert torch.equal(kept.image, forgot.image) and len(kept.restored.steps) == smoke.tier.steps and not forgot.restored.steps
    assert torch.equal(smoke.upscale(lq, alpha=1.0, color_fix="none"), kept.image)
    with pytest.raises(ValueError, match="keep_steps=True"):
        forgot.at(-1)
    nothing_to_do = smoke.restore(lq, alpha=0.0, keep_steps=False)  # T_s = 0: S_l is the answer, and there are no steps
    assert torch.equal(nothing_to_do.at(-1), nothing_to_do.image)


def test_networks_that_are_not_needed_do_not_run(smoke: ITER, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: dict[str, int] = {}
    for name in ("lq_encoder", "refiner", "evaluator"):
        net = smoke.get_submodule(name)
        inner = net.forward

        def counted(*args: object, name: str = name, inner: Callable[..., Tensor] = inner) -> Tensor:
            ran[name] = ran.get(name, 0) + 1
            return inner(*args)

        monkeypatch.setattr(net, "forward", counted)
    decoded: list[int] = []
    inner_decode = smoke.vqgan.decode
    monkeypatch.setattr(smoke.vqgan, "decode", lambda tokens: decoded.append(1) or inner_decode(tokens))
    lq = photo("rocket", 24, 24)
    for settings_, expected in (
        ({"alpha": 0.0}, {"lq_encoder": 1, "evaluator": 1}),  # all good: T_s = 0
        ({"adaptive": False, "policy": "topk"}, {"lq_encoder": 1, "refiner": smoke.tier.steps}),
        ({"alpha": 1.0, "steps": 1}, {"lq_encoder": 1, "refiner": 1}),  # one step keeps all: nothing to judge
    ):
        ran.clear(), decoded.clear()
        smoke.upscale(lq, **settings_)
        assert ran == expected and len(decoded) == 1, settings_


MEASURE = """
import resource, sys, torch
from itersr.model import ITER
model = ITER.from_pretrained("smoke", device="cpu")
model.upscale(torch.rand(1, 3, 64, 64), tile=64, steps=2)
image = torch.rand(1, 3, int(sys.argv[1]), 256, generator=torch.Generator().manual_seed(0))
model.upscale(image, tile=64, steps=2)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no resource module")
def test_memory_grows_by_the_pictures_own_pixels_alone() -> None:
    """From 128×256 to 512×256: at most 1,000 bytes for each LQ pixel more. 192 are the result in float32, 256 E_l's features
    (until S_l is known), the rest masks, noise and sorting; in one piece it is several thousand."""
    def peak(height: int) -> int:
        command = [sys.executable, "-c", MEASURE, str(height)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    small, large = peak(128), peak(512)
    assert large - small < 1000 * (512 - 128) * 256, (small, large)
