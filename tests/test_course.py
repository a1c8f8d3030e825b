"""Which networks a notebook gets: what ships, what lies in its folder, or what it trains."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from itersr.config import Tier, tier
from itersr.lab import course


class Trained(Exception):
    """A training has begun, on `data`."""


@pytest.fixture(autouse=True)
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def train_stage(stage: str, config: Tier, data: Any, out: Path, **options: Any) -> None:
        raise Trained(data)

    monkeypatch.setattr(course, "train_stage", train_stage)


def test_shipped_weights_stand_in_for_the_tier_alone(tmp_path: Path) -> None:
    assert course.load_or_train("vqgan", tier("tiny"), None, tmp_path, device="cpu").fingerprint != "untrained"
    coarse = replace(tier("tiny"), vqgan=replace(tier("tiny").vqgan, multipliers=(1, 2, 3, 4)))
    plain = replace(tier("tiny"), refiner=replace(tier("tiny").refiner, posterior=False, reads_lq=False))
    for config, data in ((tier("tiny"), "mine"), (coarse, None), (plain, None), (tier("smoke"), None)):
        with pytest.raises(Trained) as begun:
            course.load_or_train("vqgan", config, data, tmp_path, device="cpu")
        assert begun.value.args == (data,)


def test_results_are_shown_of_the_tier_that_a_reader_can_train(tmp_path: Path) -> None:
    assert course.model_to_measure(tier("smoke"), None, tmp_path, device="cpu").tier.name == course.SHOWN
    with pytest.raises(Trained):
        course.model_to_measure(tier("tiny"), "mine", tmp_path, device="cpu")
