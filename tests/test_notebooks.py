"""The notebooks of the course, checked by notebook_tools; and notebook_tools, proven on small notebooks first."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_output

from itersr.lab.reproduce import ROOT, kernel_environment, run
from tests import notebook_tools as tools
from tests import small_notebooks as small

NAMES = [
    "00_start_here", "01_degradation", "02_vqgan", "03_lq_encoder", "04_refiner", "05_evaluator", "06_adaptive_inference",
    "07_topk_vs_evaluator", "08_alpha_curves", "09_benchmark", "10_where_steps_pay", "11_rivals",
]
SOURCES = tools.sources()


# The course ----------------------------------------------------------------------------------------------------------


def test_the_course_is_complete() -> None:
    assert [source.stem for source in SOURCES] == NAMES


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_notebook(source: Path) -> None:
    assert tools.check(source) == []


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_notebook_has_exercises_and_compared_cells(source: Path) -> None:
    notebook = jupytext.read(source)
    assert len(tools.exercises(notebook)) >= 2
    assert sum("nbval-check-output" in tools.tags(cell) for cell in notebook.cells) >= 3


def test_jupytext_itself_finds_the_pair_and_writes_the_same_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from jupytext.cli import jupytext as command

    for source in SOURCES:
        notebook = str(source.with_suffix(".ipynb"))
        command(["--to", "py:percent", "--output", str(tmp_path / source.name), notebook])
        assert (tmp_path / source.name).read_text(encoding="utf-8") == source.read_text(encoding="utf-8"), source.name
        capsys.readouterr()
        command(["--paired-paths", notebook])
        assert capsys.readouterr().out.splitlines() == [str(source)]


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted((ROOT / "notebooks").glob("*.md"))], ids=lambda page: page.stem)
def test_links_and_words_of_a_page(page: Path) -> None:
    assert list(tools.broken_links(page.read_text(encoding="utf-8"), page.parent)) == []
    assert tools.misspelled(page) == []


@pytest.mark.slow
@pytest.mark.timeout(2700)
@pytest.mark.skipif(not SOURCES, reason="there are no notebooks")
def test_all_notebooks_run_and_every_exercise_is_proven_both_ways(tmp_path: Path) -> None:
    """What `make reproduce` does, plus a cell after each exercise that fails if its empty stub passes the check.

    The run folder is left for nbval, which `make test` runs next: it finds the checkpoints there.
    """
    folder = Path(os.environ.get("ITERSR_OUT", tmp_path / "run" / "figures")).parent
    if folder.exists():
        shutil.rmtree(folder)
    (tmp_path / "notebooks").mkdir()
    for source in SOURCES:
        nbformat.write(tools.with_proofs(nbformat.read(source.with_suffix(".ipynb"), as_version=4)),
                       tmp_path / "notebooks" / f"{source.stem}.ipynb")
    assert run(tier="smoke", notebooks=tmp_path / "notebooks", out=folder) == 0


# The tools -----------------------------------------------------------------------------------------------------------


def told(notebook: NotebookNode) -> list[float]:
    """The numbers in a notebook's sentences, and in its cells whose output nbval compares."""
    texts = []
    for cell in tools.code_cells(notebook):
        compared = "nbval-check-output" in tools.tags(cell)
        for output in cell.outputs:
            texts.append(output.get("text", "") if compared else output.get("data", {}).get("text/markdown", ""))
    return [float(number) for number in re.findall(r"\d+(?:\.\d+)?", " ".join(texts))]


@pytest.mark.slow
@pytest.mark.skipif(not SOURCES, reason="there are no notebooks")
def test_a_notebook_gives_what_it_shows(tmp_path: Path) -> None:
    """Run as it stands, with its own parameters, it says what is stored in it; another processor may draw other tokens."""
    stored = nbformat.read(SOURCES[0].with_suffix(".ipynb"), as_version=4)
    fresh = copy.deepcopy(stored)
    for cell in tools.code_cells(fresh):
        cell.outputs = []
    with kernel_environment(ITERSR_OUT=str(tmp_path)):
        NotebookClient(fresh, timeout=300, kernel_name="python3", coalesce_streams=True,
                       resources={"metadata": {"path": str(SOURCES[0].parent)}}).execute()
    before, now = told(stored), told(fresh)
    assert len(before) == len(now) > 40
    assert now == pytest.approx(before, rel=0.1, abs=2)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = small.project(tmp_path_factory.mktemp("built") / "p", nb00_small=small.good())
    tools.build(root / "notebooks/00_small.py", root)
    return root


@pytest.fixture
def project(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "p"))


def problems(root: Path) -> str:
    return "\n".join(tools.check(root / "notebooks/00_small.py", root))


def change(root: Path, edit: Callable[[NotebookNode], None]) -> None:
    """Edit both sides of the pair alike, so that nothing but the edit can be complained of."""
    path = root / "notebooks/00_small.ipynb"
    notebook = nbformat.read(path, as_version=4)
    edit(notebook)
    nbformat.write(notebook, path)
    path.with_suffix(".py").write_text(tools.py_text(notebook), encoding="utf-8")


def test_a_built_notebook_is_good(project: Path) -> None:
    assert problems(project) == ""
    result = json.loads((project / "figures/results/00.json").read_text())
    assert result["measured"] == f"seed 0, {result['results']['kept']} kept"


def test_a_clone_is_good_whatever_its_time_stamps(project: Path) -> None:
    os.utime(project / "notebooks/00_small.py", (0, 0))
    assert problems(project) == ""
    os.utime(project / "notebooks/00_small.ipynb", (-1, -1))
    assert problems(project) == ""


def test_building_again_changes_nothing(project: Path) -> None:
    path = project / "notebooks/00_small.ipynb"
    before = path.read_text()
    tools.build(path.with_suffix(".py"), project)
    assert path.read_text() == before  # cell ids included


def test_changed_prose_is_carried_over_and_changed_code_is_not(project: Path) -> None:
    source = project / "notebooks/00_small.py"
    text = source.read_text()
    source.write_text(text.replace("# # How many tokens", "# # So many tokens"))
    assert "the .py and the .ipynb differ" in problems(project) and "stale" not in problems(project)
    tools.pair(source)
    assert problems(project) == "" and "So many tokens" in source.with_suffix(".ipynb").read_text()
    source.write_text(text.replace("tokens_to_keep(t, 8", "tokens_to_keep(t, 9"))
    with pytest.raises(ValueError, match="code cells changed"):
        tools.pair(source)


IMPORT = "from itersr.schedule import tokens_to_keep"


def test_where_a_name_is_imported_from_is_carried_over_with_the_stamp(project: Path) -> None:
    source = project / "notebooks/00_small.py"
    before = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    source.write_text(source.read_text().replace(IMPORT, "from itersr.sampling import tokens_to_keep"))
    assert "stale: code" not in problems(project) and "differ" in problems(project)
    tools.pair(source)
    after = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    assert problems(project) == "" and before.metadata.itersr.code != after.metadata.itersr.code
    for old, new in zip(before.cells, after.cells, strict=True):
        assert old.id == new.id and old.get("outputs") == new.get("outputs")
        assert old.get("execution_count") == new.get("execution_count")


@pytest.mark.parametrize(
    ("code", "complaint"),
    [
        ("from itersr.nowhere import tokens_to_keep", "these imports fail: from itersr.nowhere import tokens_to_keep"),
        ("from itersr.config import tokens_to_keep", "these imports fail: from itersr.config import tokens_to_keep"),
        ("from itersr.schedule import tokens_to_mask as tokens_to_keep", "code cells changed"),
        ("from numpy import tokens_to_keep", "code cells changed"),
        ("import math\n" + IMPORT, "code cells changed"),
        (IMPORT + "\nkept = 1", "code cells changed"),
    ],
)
def test_no_other_change_of_code_is_carried_over(code: str, complaint: str, project: Path) -> None:
    source = project / "notebooks/00_small.py"
    before = source.with_suffix(".ipynb").read_text()
    source.write_text(source.read_text().replace(IMPORT, code))
    with pytest.raises(ValueError, match=complaint):
        tools.pair(source)
    assert source.with_suffix(".ipynb").read_text() == before


def test_a_stale_notebook_stays_stale_when_imports_are_carried_over(project: Path) -> None:
    change(project, edited_code)
    source = project / "notebooks/00_small.py"
    source.write_text(source.read_text().replace(IMPORT, "from itersr.sampling import tokens_to_keep"))
    tools.pair(source)
    assert "stale: code" in problems(project)


def test_the_stamp_names_the_weights_that_outputs_depend_on(tmp_path: Path) -> None:
    def stamped(number: str) -> set[str]:
        notebook = jupytext.reads(small.good(number), fmt="py:percent")
        return set(tools.stamp(notebook, Path(f"{number}_x.py"), root)["weights"])

    root = small.project(tmp_path / "p")
    for name in ("smoke", "tiny", "small"):
        folder = root / "itersr" / "shipped" / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(name)
    assert stamped("01") == set() and stamped("00") == stamped("07") == {"smoke", "tiny"}


def edited_code(notebook: NotebookNode) -> None:
    notebook.cells[-1].source += "\nkept = 0"


def edited_parameters(notebook: NotebookNode) -> None:
    cell = next(cell for cell in notebook.cells if "parameters" in tools.tags(cell))
    cell.source = cell.source.replace('"smoke"', '"tiny"')


def fewer_parameters(notebook: NotebookNode) -> None:
    cell = next(cell for cell in notebook.cells if "parameters" in tools.tags(cell))
    cell.source = cell.source.replace("data = None\n", "")


def other_torch(notebook: NotebookNode) -> None:
    notebook.metadata.itersr.versions["torch"] = "1.0"


def other_weights(notebook: NotebookNode) -> None:
    notebook.metadata.itersr.weights["tiny"] = "of another training"


def output(**data: object) -> Callable[[NotebookNode], None]:
    def edit(notebook: NotebookNode) -> None:
        kinds = {name.replace("__", "/"): value for name, value in data.items()}
        notebook.cells[-1].outputs = [new_output("display_data", data=kinds)]

    return edit


def stream(name: str, text: str) -> Callable[[NotebookNode], None]:
    def edit(notebook: NotebookNode) -> None:
        notebook.cells[-1].outputs = [new_output("stream", name=name, text=text)]

    return edit


def stored_error(notebook: NotebookNode) -> None:
    notebook.cells[-1].outputs = [new_output("error", ename="KeyError", evalue="", traceback=[])]


def no_checked_output(notebook: NotebookNode) -> None:
    for cell in notebook.cells:
        if "nbval-check-output" in tools.tags(cell):
            cell.outputs = []


def retag(old: str, new: str) -> Callable[[NotebookNode], None]:
    def edit(notebook: NotebookNode) -> None:
        for cell in notebook.cells:
            if old in tools.tags(cell):
                cell.metadata.tags = [new] if new else []

    return edit


def prose(text: str) -> Callable[[NotebookNode], None]:
    def edit(notebook: NotebookNode) -> None:
        next(cell for cell in notebook.cells if cell.cell_type == "markdown").source += text

    return edit


def open_solution(notebook: NotebookNode) -> None:
    next(cell for cell in notebook.cells if "solution" in tools.tags(cell)).metadata.pop("jupyter")


def out_of_order(notebook: NotebookNode) -> None:
    notebook.cells[-1].execution_count = 77


def widgets(notebook: NotebookNode) -> None:
    notebook.metadata["widgets"] = {}


def heavy(notebook: NotebookNode) -> None:
    prose("x" * tools.SIZE_LIMIT)(notebook)


@pytest.mark.parametrize(
    ("edit", "complaint"),
    [
        (edited_code, "stale: code"),
        (edited_parameters, "stale: tier"),
        (fewer_parameters, "the parameters cell lacks data"),
        (other_torch, "stale: versions"),
        (other_weights, "stale: the shipped weights of tiny"),
        (output(**{"image__svg+xml": "<svg/>"}), "image/svg+xml: PNG only"),
        (output(**{"text__html": "<b>x</b>"}), "HTML alone"),
        (output(**{tools.WIDGET: {"model_id": "1"}}), "only a running kernel can show"),
        (stream("stderr", "UserWarning: old"), "stderr"),
        (stream("stdout", "saved to /home/me/x.png"), "'/home/me'"),
        (stream("stdout", "<f at 0x7f0012345678>"), "'0x7f0012345678'"),
        (stored_error, "stores an error: KeyError"),
        (no_checked_output, "nothing would be compared"),
        (retag("nbval-check-output", ""), "no cell is tagged nbval-check-output"),
        (retag("nbval-check-output", "nbval-chek"), "unknown tag nbval-chek"),
        (retag("parameters", ""), "0 cells tagged `parameters`"),
        (retag("solution", ""), "need solution and check next"),
        (retag("exercise", ""), "stands without its exercise"),
        (open_solution, "is open to see"),
        (out_of_order, "not executed once each and in order"),
        (widgets, "metadata.widgets"),
        (prose(" [gone](no_such.ipynb)"), "link to no_such.ipynb leads nowhere"),
        (prose(' <img src="no_such.png">'), "link to no_such.png leads nowhere"),
        (prose(" Rec" "ieve it."), "==> Receive"),
        (prose(" See /home/notes."), "'/home/notes'"),
        (heavy, "at most 1.5 MB"),
    ],
)  # fmt: skip
def test_the_check_finds(project: Path, edit: Callable[[NotebookNode], None], complaint: str) -> None:
    change(project, edit)
    found = problems(project)
    assert complaint in found, found
    assert "differ" not in found


def test_the_build_drops_widget_views() -> None:
    notebook = nbformat.v4.new_notebook(cells=[new_code_cell("x", outputs=[
        new_output("display_data", data={tools.WIDGET: {"model_id": "1"}, "text/plain": "VBox()"}),
        new_output("display_data", data={"image/png": "iVBO"}, metadata={"needs_background": "light"}),
    ])])  # fmt: skip
    tools.clean(notebook)
    assert [set(output.data) for output in notebook.cells[0].outputs] == [{"image/png"}]


def test_learners_get_no_solution() -> None:
    notebook = jupytext.reads(small.good(), fmt="py:percent")
    learner = tools.learner_copy(notebook)
    text = nbformat.writes(learner)
    assert "r**3" not in text and "raise NotImplementedError" in text and "gamma_cubic(0.5) == 0.125" in text
    nbformat.validate(learner)
    assert "r**3" in nbformat.writes(notebook)


def exercise_run(root: Path, content: str) -> int:
    small.project(root)
    notebook = jupytext.reads(small.PARAMETERS + content + "\n# %%\nprint('after')\n", fmt="py:percent")
    folder = root / "proven"
    folder.mkdir()
    nbformat.write(tools.with_proofs(notebook), folder / "00_small.ipynb")
    return run(notebooks=folder, out=root / "run", device="cpu")


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("", "", "it ended without 00.json"),  # good: it fails for nothing but the missing record
        ("    return r**3", "    return r**2", "AssertionError"),  # the solution is wrong
        ("    raise NotImplementedError", "    return r**3", "the empty stub passes the check"),
        ("assert gamma_cubic(1) == 1\nassert gamma_cubic(0.5) == 0.125", "gamma_cubic", "the empty stub passes the check"),
    ],
)
def test_exercises_are_proven_both_ways(tmp_path: Path, capsys: pytest.CaptureFixture[str], old: str, new: str,
                                        complaint: str) -> None:
    assert old in small.EXERCISE
    assert exercise_run(tmp_path / "p", small.EXERCISE.replace(old, new) if old else small.EXERCISE) == 1
    error = capsys.readouterr().err
    assert complaint in error
    assert ("ended without" in error) != bool(old)


# nbval ---------------------------------------------------------------------------------------------------------------


def nbval(notebook: Path, package: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """`make test`'s nbval on one notebook, with the itersr that lies in `package`."""
    environment = {**os.environ, "PYTHONPATH": str(package), "ITERSR_OUT": str(out)}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(notebook.parent),
         "--nbval-lax", "--nbval-current-env", "--nbval-sanitize-with", str(ROOT / "tests/nbval_sanitize.cfg"), str(notebook)],
        env=environment, capture_output=True, text=True, timeout=600, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def changed_package(folder: Path) -> Path:
    """A copy of itersr whose schedules keep one token less."""
    shutil.copytree(ROOT / "itersr", folder / "itersr", ignore=shutil.ignore_patterns("shipped", "__pycache__"))
    path = folder / "itersr/schedule.py"
    with path.open("a") as file:
        file.write("\n\n_right = tokens_to_keep\n\n\ndef tokens_to_keep(*args, **kwargs):\n"
                   "    return max(0, _right(*args, **kwargs) - 1)\n")
    return folder


def test_nbval_passes_and_bites(project: Path, tmp_path: Path) -> None:
    notebook = project / "notebooks/00_small.ipynb"
    good = nbval(notebook, ROOT, tmp_path / "out")
    assert good.returncode == 0, good.stdout
    bad = nbval(notebook, changed_package(tmp_path), tmp_path / "out")
    assert bad.returncode == 1 and "mismatch" in bad.stdout, bad.stdout


@pytest.mark.skipif(not SOURCES, reason="there are no notebooks")
def test_nbval_bites_on_the_course(tmp_path: Path) -> None:
    """A real notebook, up to its first compared cell that shows how many tokens a step keeps, under a changed schedule.

    The one in which that cell comes first: before it nothing is trained.
    """
    found = []
    for source in SOURCES:
        notebook = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
        found += [(place, source, notebook) for place, cell in enumerate(notebook.cells)
                  if "nbval-check-output" in tools.tags(cell) and "tokens_to_keep(" in cell.source]
    place, _, notebook = min(found, key=lambda one: one[:2])
    notebook.cells = notebook.cells[: place + 1]
    nbformat.write(notebook, tmp_path / "start.ipynb")
    bad = nbval(tmp_path / "start.ipynb", changed_package(tmp_path), tmp_path / "out")
    assert bad.returncode == 1 and "mismatch" in bad.stdout, bad.stdout
    good = nbval(tmp_path / "start.ipynb", ROOT, tmp_path / "out")
    assert good.returncode == 0, good.stdout
