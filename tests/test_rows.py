"""Packed rows: what comes back, and what is committed."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import pytest

from itersr.lab.experiments import Store
from tests import rows

ROW = {"seconds": 1.23456789, "T_s": 8, "lpips": 0.123456789, "niqe": None,
       "masks": [{"t": 8, "k": 31, "nearness": None, "joins": 1.23456}]}


def test_rows_come_back_with_fewer_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "PART", 3)
    store, again = Store(tmp_path / "a.jsonl"), tmp_path / "b.jsonl"
    for i in range(7):
        store[f"key {i}"] = ROW
    assert rows.pack(tmp_path / "a.jsonl", tmp_path / "packed") == 7
    assert sorted(path.name for path in (tmp_path / "packed").iterdir()) == ["1.jsonl.xz", "2.jsonl.xz", "3.jsonl.xz"]
    Store(again)["key 2"] = {"lpips": 0.5}  # measured here: it stays
    assert rows.unpack(again, tmp_path / "packed") == 6
    found = Store(again)
    assert found["key 2"] == {"lpips": 0.5} and set(found) == set(store)
    assert found["key 0"] == {**ROW, "seconds": 1.2346, "lpips": 0.12346,
                              "masks": [{"t": 8, "k": 31, "nearness": None, "joins": 1.23}]}
    assert rows.unpack(again, tmp_path / "packed") == 0
    assert rows.pack(again, tmp_path / "packed") == 7  # parts of before are gone


@pytest.mark.parametrize("path", sorted(rows.PACKED.glob("*")), ids=lambda path: path.name)
def test_what_is_committed_can_be_read_and_is_small(path: Path) -> None:
    assert path.stat().st_size <= 500_000
    entries = [json.loads(line) for line in lzma.decompress(path.read_bytes()).decode().splitlines()]
    assert entries and all(len(entry["key"]) == 20 and entry["row"] for entry in entries)
