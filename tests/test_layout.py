"""The floors of the package: a module imports from its own floor and those below it, and nothing imports in a circle."""

from __future__ import annotations

import ast
import graphlib
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from PIL import Image

PACKAGE = Path(__file__).parents[1] / "itersr"
# From the top floor down to the ground. A name stands for a module, or for all that is in a folder.
FLOORS = (
    {"cli", "__main__"},
    {"lab"},
    {"__init__"},  # `from itersr import ITER`: it imports the model when it is asked for
    {"training", "upscaling", "published"},
    # The method, and nothing else, from here on.
    {"model"},
    {"tiled"},
    {"sampling", "weights"},
    {"vqgan", "lq_encoder", "token_nets", "degradation", "tiling", "pictures"},
    {"schedule", "masking", "losses", "swin", "disk", "config"},
)
# What `pip install itersr[notebooks]` brings is imported for the course alone.
EXTRAS = {"IPython", "ipywidgets", "jupytext", "matplotlib", "nbclient", "nbformat", "papermill", "pyiqa"}


class WithoutTypes(ast.NodeTransformer):
    """Takes out what only a type checker reads."""

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        return node.orelse if ast.unparse(node.test) == "TYPE_CHECKING" else self.generic_visit(node)


def imports(source: str) -> set[str]:
    """All that a module imports, inside functions too, by full name: {"torch", "itersr.config.Tier"}."""
    found = set()
    for node in ast.walk(WithoutTypes().visit(ast.parse(source))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"written with dots: {ast.unparse(node)}"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def modules(package: Path) -> dict[str, Path]:
    """Name as seen from the package → file: {"config": …, "lab": lab/__init__.py, "lab.metrics": …}."""
    found = {}
    for file in sorted(package.rglob("*.py")):
        *folders, name = file.relative_to(package).with_suffix("").parts
        found[".".join([*folders, name] if name != "__init__" or not folders else folders)] = file
    return found


def graph(package: Path) -> dict[str, set[str]]:
    """Module → the modules of the package that it imports."""
    files = modules(package)

    def module(name: str) -> str:  # "itersr.config.Tier" → "config"
        _, *parts = name.split(".")
        while parts and ".".join(parts) not in files:
            parts.pop()
        return ".".join(parts) or "__init__"

    return {name: {module(each) for each in imports(file.read_text(encoding="utf-8")) if each.split(".")[0] == "itersr"}
            for name, file in files.items()}


def floor(module: str) -> int:
    """The number of floors above a module. ValueError where the table does not have it."""
    found = [number for number, names in enumerate(FLOORS) if module.split(".")[0] in names]
    if len(found) != 1:
        raise ValueError(f"{module} stands on {len(found)} floors of the table in {Path(__file__).name}: needed one")
    return found[0]


def wrong(edges: dict[str, set[str]]) -> list[str]:
    """Every import that leads upstairs, one line each."""
    return [f"{name} imports {other}, which is above it" for name, others in edges.items() for other in sorted(others)
            if floor(other) < floor(name)]


def test_nothing_imports_from_above() -> None:
    assert wrong(graph(PACKAGE)) == []


def test_nothing_imports_in_a_circle() -> None:
    graphlib.TopologicalSorter(graph(PACKAGE)).prepare()  # CycleError names the modules


def test_what_the_notebooks_need_is_imported_for_them_alone() -> None:
    users = {name for name, file in modules(PACKAGE).items()
             if EXTRAS & {each.split(".")[0] for each in imports(file.read_text(encoding="utf-8"))}}
    assert users and {name.split(".")[0] for name in users} == {"lab"}, users


def test_the_test_sees_imports_of_every_kind(tmp_path: Path) -> None:
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "__init__.py").write_text("")
    (tmp_path / "lab" / "metrics.py").write_text("from itersr import config, ITER\nimport itersr.model\n")
    (tmp_path / "__init__.py").write_text("")
    (tmp_path / "model.py").write_text("from itersr.config import Tier, tier\nif TYPE_CHECKING:\n    from itersr import lab\n")
    (tmp_path / "config.py").write_text("def f():\n    from itersr.lab.metrics import score\n")
    edges = graph(tmp_path)
    assert edges == {"__init__": set(), "lab": set(), "lab.metrics": {"config", "__init__", "model"}, "model": {"config"},
                     "config": {"lab.metrics"}}
    assert wrong(edges) == ["config imports lab.metrics, which is above it"]
    with pytest.raises(graphlib.CycleError):
        graphlib.TopologicalSorter(edges).prepare()
    with pytest.raises(ValueError, match="another stands on 0 floors"):
        floor("another")


HIDING = """
from importlib.machinery import PathFinder
real = PathFinder.find_spec
PathFinder.find_spec = staticmethod(lambda name, *rest: None if name.split(".")[0] in {names!r} else real(name, *rest))
"""


def python(*call: str, path: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(path), str(PACKAGE.parent)]), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *call], capture_output=True, text=True, cwd=cwd, timeout=600, env=env)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (["-m", "itersr", "degrade", "hq.png", "-o", "pairs"], ""),
        (["-m", "itersr", "upscale", "hq.png", "-o", "large.png", "--tier", "smoke", "--device", "cpu"], ""),
        (["-m", "itersr", "train", "vqgan", "--steps", "2", "--batch", "1", "--device", "cpu", "--workers", "0"], ""),
        (["-m", "itersr", "evaluate", "--outputs", "ours=."], "pyiqa not installed: pip install 'itersr[notebooks]'"),
        (["-m", "itersr", "reproduce", "--only", "01"], "matplotlib, pyiqa not installed: pip install 'itersr[notebooks]'"),
        (["-c", "from itersr.lab import ledger; ledger.claims({})"], ""),
    ],
    ids=["degrade", "upscale", "train", "evaluate", "reproduce", "ledger"],
)
def test_without_the_extra_a_command_works_or_names_it_in_one_line(call: list[str], says: str, tmp_path: Path) -> None:
    """A photo is upscaled and a network trained with the dependencies alone; the course needs what the extra brings."""
    (tmp_path / "sitecustomize.py").write_text(HIDING.format(names=EXTRAS | {"jupyterlab", "nbval"}))
    Image.effect_noise((128, 128), 40).save(tmp_path / "hq.png")
    done = python(*call, path=tmp_path, cwd=tmp_path)
    if says:
        assert done.returncode == 1 and says in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    else:
        assert done.returncode == 0, done.stderr


def test_outside_a_clone_the_course_says_so_in_one_line(tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "site" / "itersr", ignore=shutil.ignore_patterns("*.safetensors", "__pycache__"))
    done = python("-m", "itersr", "reproduce", path=tmp_path / "site", cwd=tmp_path)
    assert done.returncode and "run this in a clone of the repository" in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) == 1 and str(tmp_path) not in done.stderr


FORK = """
import multiprocessing, torch
from itersr import ITER
model, lq = ITER.from_pretrained("smoke", "cpu"), torch.rand(1, 3, 48, 48)
large = model.upscale(lq)
context = multiprocessing.get_context("fork")
there, here = context.Pipe()
context.Process(target=lambda: there.send(model.upscale(lq).numpy()), daemon=True).start()
assert here.poll(60), "the forked process hangs"
assert torch.allclose(torch.from_numpy(here.recv()), large, atol=1e-4)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_process_forked_after_an_upscale_can_upscale(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, timeout=600, cwd=PACKAGE.parent)
    assert done.returncode == 0, done.stderr


def test_the_source_distribution_holds_no_tests_without_their_helpers(tmp_path: Path) -> None:
    root = PACKAGE.parent
    for name in ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(root / name, tmp_path)
    for name in ("itersr", "tests"):
        shutil.copytree(root / name, tmp_path / name, ignore=shutil.ignore_patterns("*.safetensors", "__pycache__"))
    build = "from setuptools import build_meta; print(build_meta.build_sdist('made'))"
    done = subprocess.run([sys.executable, "-c", build], capture_output=True, text=True, timeout=600, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (archive,) = (tmp_path / "made").glob("*.tar.gz")
    with tarfile.open(archive) as file:
        names = file.getnames()
    assert not any("/tests" in name for name in names) and any(name.endswith("itersr/model.py") for name in names)
