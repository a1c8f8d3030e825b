"""README's table of the paper: every function in it exists, and its docstring names the equation or algorithm."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
SECTION = re.search(r"## From the paper to the code\n(.*?)\n\n\[", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
ROWS = re.findall(r"^\| (?!in the paper)(?!-)(.+?) \| (.+?) \| (.+?) \|$", SECTION[1], re.MULTILINE) if SECTION else []


def found(path: str) -> Any:
    """The object at a dotted path."""
    parts = path.split(".")
    for i in range(len(parts), 0, -1):
        try:
            thing = importlib.import_module(".".join(parts[:i]))
        except ModuleNotFoundError:
            continue
        for name in parts[i:]:
            thing = getattr(thing, name)
        return thing
    raise LookupError(path)


@pytest.mark.parametrize(("what", "functions", "notebooks"), ROWS, ids=[row[0] for row in ROWS])
def test_each_equation_has_its_function(what: str, functions: str, notebooks: str) -> None:
    names = re.findall(r"`([\w.]+)`", functions)
    assert names
    for name in names:
        words = found(name).__doc__
        for label in re.findall(r"Eq\. \d|Alg\. \d", what.partition(",")[0]):
            kind, number = label.split()
            assert re.search(rf"({re.escape(kind)}|Algorithm) (\d and )?{number}", words), f"{name}: no {label} in {words!r}"
    for notebook in notebooks.split(", "):
        assert list((ROOT / "notebooks").glob(f"{notebook}_*.py")), notebook


def test_the_table_is_whole() -> None:
    told = " ".join(row[0] for row in ROWS)
    assert all(label in told for label in ("Alg. 1", "Alg. 2", *(f"Eq. {i}" for i in range(1, 8))))
