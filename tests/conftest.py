"""What several test files share: one smoke model, trained once a session with fixed seeds; how tests go to processes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from itersr.config import tier
from itersr.training.run import train_stage

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
STAGES = ("vqgan", "lq_encoder", "token_nets")


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, float]]]:
    """The folder of a whole smoke training (about a minute), and the last validation of every stage."""
    out = tmp_path_factory.mktemp("smoke")
    with torch.random.fork_rng():
        return out, {stage: train_stage(stage, tier("smoke"), None, out, progress=False, device="cpu") for stage in STAGES}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With `--dist loadgroup` a file stays in one process, and so do the run of all notebooks and nbval, which follows it."""
    for item in items:
        course = item.path.parent == NOTEBOOKS or item.get_closest_marker("slow")
        item.add_marker(pytest.mark.xdist_group("course" if course else item.path.stem))
