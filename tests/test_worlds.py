"""The world of stripes: the same from the same seed, and a measure that sees whether stripes are whole."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from itersr import weights
from itersr.config import tier
from itersr.lab import critics, experiments, worlds
from itersr.model import ITER
from itersr.pictures import bundled
from itersr.training.data import Photos
from itersr.training.validate import Pair, neighbour_information


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
    model = ITER(tier("stripes"))
    assert sum(p.numel() for p in model.parameters()) < 1.5e6  # 3 MB in half precision
    assert model.restore(torch.rand(1, 3, 16, 16), seed=0).image.shape == (1, 3, 64, 64)


def test_the_command_writes_pictures_to_train_on(tmp_path: Path) -> None:
    assert worlds.main([str(tmp_path), "--count", "5", "--size", "64"]) == 0
    photos = Photos.of(tmp_path)
    assert len(photos) == 5 and photos[0].shape == (3, 64, 64)
    assert torch.equal((worlds.stripes(1, 64, worlds.DIALS[1]).image * 255).round(), (photos[1] * 255).round())


def test_what_neighbours_tell_is_the_fall_of_the_loss() -> None:
    """A φ_r that copies its neighbour, in a world in which all tokens of a map are alike: nothing known, ln 2; any known, 0."""
    class Model:
        device, tier = torch.device("cpu"), tier("smoke")

        def log_posterior(self, lq: torch.Tensor) -> torch.Tensor:
            return torch.zeros(1, 2, 8, 8).log_softmax(1)

        def lq_features(self, lq: torch.Tensor) -> None:
            return None

        def functions(self, log_probs: torch.Tensor, features: None) -> tuple[Callable[..., torch.Tensor], None]:
            def refine(tokens: torch.Tensor, keep: torch.Tensor, *condition: torch.Tensor) -> torch.Tensor:
                known = F.one_hot(tokens, 2).permute(0, 3, 1, 2) * keep[:, None]
                return 30.0 * known.float().mean((2, 3), keepdim=True).expand(1, 2, 8, 8)

            return refine, None

        class vqgan:
            @staticmethod
            def encode(hq: torch.Tensor) -> torch.Tensor:
                return torch.full((1, 8, 8), int(hq.mean() > 0.5))

    pairs = [Pair(str(x), torch.full((1, 3, 32, 32), x), torch.zeros(1, 3, 8, 8)) for x in (0.2, 0.8, 0.9)]
    found = neighbour_information(Model(), pairs)  # type: ignore[arg-type]
    assert found[0.0] == pytest.approx(math.log(2), abs=1e-5) and found[0.75] < 1e-3
    assert found[0.0] > found[0.25] > found[0.5] > found[0.75]
    own = neighbour_information(Model(), pairs, own=True)  # type: ignore[arg-type]
    assert own[0.0] == pytest.approx(math.log(2), abs=1e-5) and own[0.75] > 0.5  # draws that know nothing tell nothing


def test_a_phi_r_that_is_asked_again_finds_the_token_that_does_not_fit() -> None:
    """In a map of one token, all alike but one: that one has the lowest score, and the choice of half of the places is fair."""
    model = ITER(tier("stripes")).eval()

    def refine(tokens: torch.Tensor, keep: torch.Tensor, *condition: torch.Tensor) -> torch.Tensor:
        near = F.avg_pool2d((F.one_hot(tokens, 96).permute(0, 3, 1, 2) * keep[:, None]).float(), 3, 1, 1)
        return 5 * near

    model.functions = lambda *inputs: (refine, None)  # type: ignore[method-assign, assignment, return-value]
    tokens = torch.zeros(1, 16, 16, dtype=torch.long)
    tokens[0, 5, 7] = 3
    with torch.no_grad():
        score = experiments.asked_again(model, torch.rand(1, 3, 16, 16))(tokens, tokens)
    assert int(score.flatten().argmin()) == 5 * 16 + 7
    assert float(score[0, 10:15, 10:15].std()) < 0.1  # places of both colours are judged alike


def test_a_world_pair_measures_coherence_and_a_photo_nothing_more() -> None:
    pair = worlds.pairs(tier("stripes"), 1, size=96)[0]
    assert pair.facts(pair.hq)["coherence"] > 0.95 and pair.lq.shape == (1, 3, 24, 24)
    assert Pair("photo", pair.hq, pair.lq).facts(pair.hq) == {}
    row = experiments.measure(ITER(tier("stripes")).eval(), experiments.Method("bicubic", "bicubic"), pair, 0, ["psnr"])
    assert set(row) == {"seconds", "psnr", "coherence"}


@pytest.mark.parametrize("label", ["equal", "original"])
def test_a_critic_learns_its_label_from_maps_that_phi_r_drew(label: critics.Label, tmp_path: Path) -> None:
    model = ITER.from_pretrained("smoke", "cpu")
    config = tier("smoke").train["token_nets"]
    task = critics.Critic(model, config, label)
    hq = torch.stack([photo[:, :64, :64] for photo in bundled("test").values()][:2])
    lq = F.interpolate(hq, scale_factor=0.25, mode="area")
    batch = {"hq": hq, "lq": lq, "index": torch.arange(2)}
    tokens, s_l, log_probs, good = task.complete_map(batch)
    s_h = model.vqgan.encode(hq)
    assert torch.equal(s_l, log_probs.argmax(1)) and good.any() and not good.all()
    if label == "equal":
        assert torch.equal(good, tokens == s_h)
    else:
        assert torch.equal(tokens[good], s_h[good]) and not torch.equal(tokens[~good], s_h[~good])
    assert [name for name, p in task.named_parameters() if p.requires_grad and "evaluator" not in name] == []
    before = {name: p.clone() for name, p in model.named_parameters()}
    found = critics.train_critic(label, tmp_path, "smoke", steps=2)
    assert set(found) == {"loss", "AUC"}
    assert (tmp_path / "critic" / "settings.json").exists()
    weights.load(model.evaluator, tmp_path / "weights" / "evaluator.safetensors")
    changed = {name.partition(".")[0] for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {"evaluator"}
