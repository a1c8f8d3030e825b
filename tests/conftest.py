"""What several test files share: one smoke model, trained once a session with fixed seeds; how tests go to processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from xdist.scheduler import LoadScopeScheduling

from itersr.config import tier
from itersr.training.run import train_stage

STAGES = ("vqgan", "lq_encoder", "token_nets")


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, float]]]:
    """The folder of a whole smoke training (about a minute), and the last validation of every stage."""
    out = tmp_path_factory.mktemp("smoke")
    with torch.random.fork_rng():
        return out, {stage: train_stage(stage, tier("smoke"), None, out, progress=False, device="cpu") for stage in STAGES}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """With `-n 2` a file stays in one process, and so do the run of all notebooks and nbval, which follows it."""

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file, _, name = nodeid.partition("::")
            return "course" if file.startswith("notebooks/") or name.startswith("test_all_notebooks_run") else file

    return ByFile(config, log)
