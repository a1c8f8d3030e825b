"""Small versions of `python -m tests.fault_load`."""

from __future__ import annotations

import os

from tests.fault_load import kill_all, mutated_files, upscale_folder


def test_mutated_files_give_a_picture_or_one_line() -> None:
    """2,000 files; ITERSR_FUZZ gives another number, ITERSR_FUZZ_SEED other files."""
    count = int(os.environ.get("ITERSR_FUZZ", "2000"))
    found = mutated_files(count, int(os.environ.get("ITERSR_FUZZ_SEED", "0")))
    assert found["tracebacks"] == found["hangs"] == found["files left"] == 0, found
    assert found["pictures"] > count // 50 and found["lines"] > count // 4, found


def test_bad_files_of_a_folder_cost_only_themselves() -> None:
    told = upscale_folder(12, 15)
    assert told["done"] == 12 and told["named"] == told["bad"] == 15 and told["exit code"] == 2, told
    assert told["tracebacks"] == told["hidden files left"] == 0, told


def test_kills_at_random_moments_corrupt_nothing() -> None:
    killed = kill_all(1, pictures=6)
    assert all(n and not corrupt for n, corrupt in killed.values()), killed
