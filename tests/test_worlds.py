"""The world of stripes: the same from the same seed, and a measure that sees whether stripes are whole."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from itersr.lab import worlds
from itersr.model import ITER
from itersr.training.data import Photos


@pytest.mark.parametrize("dial", worlds.DIALS)
def test_whole_stripes_are_coherent_and_broken_ones_are_not(dial: float) -> None:
    world = worlds.stripes(5, 160, dial)
    assert world.image.shape == (3, 160, 160) and 0 <= float(world.image.min()) < float(world.image.max()) <= 1
    assert torch.equal(world.image, worlds.stripes(5, 160, dial).image)
    assert not torch.equal(world.image, worlds.stripes(6, 160, dial).image)
    assert worlds.coherence(world.image, world) > 0.95

    # Tokens of 4×4 pixels moved at random, each by up to half a period: what single tokens show is as good as before.
    generator = torch.Generator().manual_seed(0)
    broken = world.image.clone()
    for y in range(0, 160, 8):
        for x in range(0, 160, 8):
            dy, dx = torch.randint(-8, 9, (2,), generator=generator).tolist()
            block = world.image.roll((dy, dx), (1, 2))[:, y : y + 8, x : x + 8]
            broken[:, y : y + 8, x : x + 8] = block
    assert worlds.coherence(broken, world) < 0.8 * worlds.coherence(world.image, world)
    assert worlds.coherence(torch.rand(3, 160, 160, generator=generator), world) < 0.6


def test_another_phase_is_as_coherent() -> None:
    """The measure asks for whole stripes, not for the original's."""
    world = worlds.stripes(3, 160)
    moved = worlds.World(world.image.roll(3, 2), world.cell.roll(3, 1), world.direction, world.period, world.color)
    assert worlds.coherence(moved.image, moved) > 0.9


def test_a_small_picture_of_short_stripes_has_lost_them() -> None:
    """At the lowest dial a quarter of the size leaves little of the contrast, at the highest nearly all."""
    left = []
    for dial in (worlds.DIALS[0], worlds.DIALS[-1]):
        image = worlds.stripes(1, 160, dial).image
        small = F.interpolate(image[None], scale_factor=0.25, mode="bicubic", antialias=True)[0]
        left.append(float(small.std((1, 2)).mean() / image.std((1, 2)).mean()))
    assert left[0] < 0.75 * left[1]


def test_networks_for_it_are_whole() -> None:
    model = ITER(worlds.stripes_tier())
    assert sum(p.numel() for p in model.parameters()) < 1.5e6  # 3 MB in half precision
    assert model.restore(torch.rand(1, 3, 16, 16), seed=0).image.shape == (1, 3, 64, 64)


def test_the_command_writes_pictures_to_train_on(tmp_path: Path) -> None:
    assert worlds.main([str(tmp_path), "--count", "5", "--size", "64"]) == 0
    photos = Photos.of(tmp_path)
    assert len(photos) == 5 and photos[0].shape == (3, 64, 64)
    assert torch.equal((worlds.stripes(1, 64, worlds.DIALS[1]).image * 255).round(), (photos[1] * 255).round())
