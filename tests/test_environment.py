"""pyproject.toml, requirements.lock, environment.yml and what is installed say the same."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import itersr

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINS = [
    Requirement(line)
    for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    if line.strip() and not line.startswith("#")
]
DECLARED = [
    Requirement(text)
    for text in PROJECT["dependencies"] + [dep for extra in PROJECT["optional-dependencies"].values() for dep in extra]
]
FOLDERS = {"itersr", "notebooks", "data_prep", "figures", "tests"}


def pins(name: str) -> list[Requirement]:
    return [pin for pin in PINS if canonicalize_name(pin.name) == canonicalize_name(name)]


@pytest.mark.parametrize("requirement", DECLARED, ids=lambda requirement: requirement.name)
def test_the_lock_satisfies_every_dependency(requirement: Requirement) -> None:
    assert pins(requirement.name), f"{requirement.name} is not in requirements.lock"
    for pin in pins(requirement.name):
        version = next(iter(pin.specifier)).version
        assert requirement.specifier.contains(version), f"{pin} does not satisfy {requirement}"


def test_the_named_packages_are_declared() -> None:
    named = {"torch", "jupyterlab", "jupytext", "ipywidgets", "papermill", "pyiqa", "matplotlib", "nbval"}
    assert named <= {canonicalize_name(requirement.name) for requirement in DECLARED}


def test_the_lock_holds_exact_pins_and_no_addresses() -> None:
    for pin in PINS:
        assert pin.url is None and re.fullmatch(r"==[^*]+", str(pin.specifier)), f"{pin}: need name==version"
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert not re.search(r"://|^\s*-|file:", text, re.MULTILINE), "requirements.lock names an index or an address"


def test_the_lock_holds_one_opencv() -> None:
    """pyiqa asks for two that overwrite each other's files; `make setup` installs the lock and nothing beside it."""
    assert [pin.name for pin in PINS if "opencv" in pin.name] == ["opencv-python-headless"]
    assert "--no-deps -r requirements.lock" in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_conda_installs_the_same_pins() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    (pip,) = [part["pip"] for part in environment["dependencies"] if isinstance(part, dict)]
    assert pip == ["-r requirements.lock", "-e ."]
    (python,) = [part for part in environment["dependencies"] if str(part).startswith("python=")]
    assert Requirement("python" + PROJECT["requires-python"]).specifier.contains(python.removeprefix("python=") + ".0")


def test_installed_versions_are_the_locked_ones() -> None:
    different = []
    for pin in PINS:
        if pin.marker is None or pin.marker.evaluate():
            wanted = next(iter(pin.specifier)).version
            try:
                installed = metadata.version(pin.name).partition("+")[0]  # torch adds its build: 2.14.1+cu130
            except metadata.PackageNotFoundError:
                installed = "nothing"
            if installed != wanted:
                different.append(f"{pin.name}: {installed} installed, {wanted} locked")
    assert not different, "; ".join(different) + " (make setup installs the lock)"


def test_the_package_under_test_is_this_one() -> None:
    assert Path(itersr.__file__).resolve().parent == ROOT / "itersr"
    assert PROJECT["version"] == itersr.__version__


def test_only_the_agreed_folders() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout: its folders cannot be told from what commands left here")
    top = {line.split("/")[0] for line in listed.stdout.splitlines() if "/" in line}
    assert {name for name in top if not name.startswith(".")} <= FOLDERS
    large = [line for line in listed.stdout.splitlines() if (ROOT / line).is_file() and too_large(ROOT / line)]
    assert not large, f"too large for the repository: {large}"


def too_large(path: Path) -> bool:
    if path.suffix == ".safetensors":
        return path.stat().st_size > 24_000_000
    return path.stat().st_size > (1_500_000 if path.suffix in (".ipynb", ".npz") else 500_000)


def test_a_clone_holds_the_same_bytes_everywhere() -> None:
    listed = subprocess.run(["git", "ls-files", "--eol"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    for line in listed.stdout.splitlines():
        facts, _, path = line.partition("\t")
        stored, here, attributes = facts.split(maxsplit=2)
        if stored == "i/lf":
            assert here == "w/lf" and attributes.strip() == "attr/text eol=lf", f"{path}: name its kind in .gitattributes"
        else:
            assert stored in ("i/none", "i/-text"), f"{path}: a text with the line ends of another system"


def test_idle_threads_sleep() -> None:
    code = "import os; {}import itersr; print(os.environ.get('OMP_WAIT_POLICY'), os.environ.get('KMP_BLOCKTIME'))"
    clean = {name: value for name, value in os.environ.items() if name not in itersr.PASSIVE}

    def told(env: dict[str, str], first: str = "") -> str:
        done = subprocess.run([sys.executable, "-c", code.format(first)], cwd=ROOT, env=env, capture_output=True, text=True)
        return done.stdout.strip()

    assert told(clean) == "PASSIVE 0"
    assert told(clean | {"OMP_WAIT_POLICY": "ACTIVE"}) == "ACTIVE 0", "what is set stays"
    assert told(clean, "import torch; ") == "None None", "too late: torch is loaded"


TOOLS = [path for path in sorted([*ROOT.glob("tests/*.py"), *ROOT.glob("tests/benchmarks/*.py")])
         if not path.name.startswith(("test_", "_"))]


@pytest.mark.parametrize("path", TOOLS, ids=lambda path: path.stem)
def test_tools_and_benchmarks_find_what_they_import(path: Path) -> None:
    """They run by hand, so a name that they import could go unnoticed."""
    importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
