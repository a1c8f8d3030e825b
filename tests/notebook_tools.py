"""Build, check and hand out the notebooks: `python -m tests.notebook_tools build|pair|check|exercises [NN ...]`.

The .py (jupytext percent) is the source. `build` executes it into the paired .ipynb, with figures/ and figures/results/
beside it, and leaves a stamp of what it was made from; `pair` carries over what no output depends on; `check` says whether
the stamp still holds, and whether the notebook is fit to be shown. tests/test_notebooks.py runs `check` on every notebook.
"""

from __future__ import annotations

import argparse
import ast
import copy
import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbformat import NotebookNode

import itersr
from itersr.lab.course import SHOWN
from itersr.lab.reproduce import ROOT, kernel_environment
from tests import rows

PARAMETERS = {"tier", "seed", "device", "data", "out"}
WITHOUT_NETWORKS = {"01"}
SWEEPS = {"07", "08", "09", "10"}  # what they measure is kept as rows
MORE = {"10": {"stripes"}}  # further tiers whose weights a notebook uses
TAGS = {"parameters", "nbval-check-output", "exercise", "solution", "check"}
SIZE_LIMIT = 1_500_000  # bytes
# The .py's header holds nothing that a rebuild changes, and not what makes the pair: notebooks/jupytext.toml says that once for
# all, and `jupytext --to py:percent` then writes the very file that is committed.
HEADER = {
    "jupytext": {
        "notebook_metadata_filter": "kernelspec,jupytext,-jupytext.text_representation.jupytext_version",
        "text_representation": {"extension": ".py", "format_name": "percent", "format_version": "1.3"},
    },
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
}
WIDGET = "application/vnd.jupyter.widget-view+json"
MACHINE_PATH = re.compile(r"(?<![\w.:/])/(?:root|home|Users|work|tmp|usr|opt|var|mnt|private)/[\w.-]*\w|[A-Z]:\\\\?Users")
ADDRESS = re.compile(r"0x[0-9a-f]{8,}")
LINK = re.compile(r"\]\(\s*<?([^)\s>]+)>?[^)]*\)|(?:src|href)=[\"']([^\"']+)[\"']")


# Reading -------------------------------------------------------------------------------------------------------------


def sources(root: Path = ROOT, only: list[str] | None = None) -> list[Path]:
    """The notebooks' .py files, in order; `only` are numbers such as "07"."""
    found = sorted((root / "notebooks").glob("[0-9][0-9]_*.py"))
    return [path for path in found if not only or path.stem[:2] in {part[:2] for part in only}]


def tags(cell: NotebookNode) -> set[str]:
    return set(cell.metadata.get("tags", []))


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def texts(output: NotebookNode) -> Iterator[str]:
    """Everything in an output that a reader may see as text."""
    if output.output_type == "stream":
        yield output.text
    for kind, value in output.get("data", {}).items():
        if not kind.startswith("image/png"):
            yield value if isinstance(value, str) else str(value)


def py_text(notebook: NotebookNode) -> str:
    """The percent text of a notebook, under the fixed header and with one way to lay out cells."""
    plain = copy.deepcopy(notebook)
    plain.metadata = nbformat.from_dict(HEADER)
    for cell in plain.cells:  # sorted as in the .ipynb; blank lines between cells as jupytext sets them
        cell.metadata = nbformat.from_dict(dict(sorted((k, v) for k, v in cell.metadata.items() if k != "lines_to_next_cell")))
    return str(jupytext.writes(plain, fmt="py:percent"))


def with_py(source: Path) -> NotebookNode:
    """The .py as a notebook; cell ids, and outputs of unchanged cells, come from the paired .ipynb where there is one."""
    notebook = jupytext.read(source)
    paired = source.with_suffix(".ipynb")
    if paired.exists():
        from jupytext.combine import combine_inputs_with_outputs

        notebook = combine_inputs_with_outputs(notebook, nbformat.read(paired, as_version=4))
    return notebook


# The stamp -----------------------------------------------------------------------------------------------------------


def code_hash(notebook: NotebookNode) -> str:
    text = "\n\0\n".join(cell.source for cell in code_cells(notebook))
    return hashlib.sha256(text.encode()).hexdigest()


def parameters(notebook: NotebookNode) -> dict[str, Any]:
    """Names and values of the `parameters` cell. ValueError unless there is exactly one, of plain assignments."""
    cells = [cell for cell in notebook.cells if "parameters" in tags(cell)]
    if len(cells) != 1:
        raise ValueError(f"{len(cells)} cells tagged `parameters`: need one")
    values = {}
    for line in ast.parse(cells[0].source).body:
        if not isinstance(line, ast.Assign) or not isinstance(line.targets[0], ast.Name):
            raise ValueError(f"the parameters cell holds {ast.unparse(line)!r}: need plain assignments only")
        values[line.targets[0].id] = ast.literal_eval(line.value)
    return values


def weights(tiers: Iterable[str], root: Path = ROOT) -> dict[str, str]:
    """Hash of the weights of those tiers that ship, and of their configuration: φ_e's shift and the temperature stand there."""
    hashes = {}
    for folder in (root / "itersr" / "shipped" / tier for tier in sorted(tiers)):
        files = sorted([*folder.glob("*.safetensors"), *folder.glob("config.json")])
        if files:
            hashes[folder.name] = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
    return hashes


def locked(name: str, root: Path = ROOT) -> str:
    match = re.search(rf"^{name}==([^\s;]+)", (root / "requirements.lock").read_text(encoding="utf-8"), re.MULTILINE)
    assert match, f"{name} is not in requirements.lock"
    return match[1]


def stamp(notebook: NotebookNode, source: Path, root: Path = ROOT) -> dict[str, Any]:
    """What the outputs depend on."""
    values = parameters(notebook)
    tiers = set() if source.stem[:2] in WITHOUT_NETWORKS else {SHOWN, values.get("tier", SHOWN), *MORE.get(source.stem[:2], ())}
    return {
        "code": code_hash(notebook),
        "parameters": values,
        "tier": values.get("tier"),
        "versions": {"itersr": itersr.__version__, "torch": locked("torch", root)},
        "weights": weights(tiers, root),
    }


def split(cell: NotebookNode) -> tuple[list[ast.stmt], list[str]]:
    """The import statements of a code cell, and the others as text."""
    body = ast.parse(cell.source).body
    imports = [line for line in body if isinstance(line, (ast.Import, ast.ImportFrom))]
    return imports, [ast.unparse(line) for line in body if line not in imports]


def imported(cell: NotebookNode) -> set[tuple[str, str, str]]:
    """What a code cell imports: the name it gives it, the thing's own name, and the package.

    The module is left out: the outputs cannot depend on where in a package a thing lies.
    """
    return {(alias.asname or alias.name, alias.name, (getattr(line, "module", None) or alias.name).partition(".")[0])
            for line in split(cell)[0] for alias in line.names}


def same_but_for_imports(a: NotebookNode, b: NotebookNode) -> bool:
    """Whether the code cells of two notebooks differ at most in the modules that they import the same things from."""
    return ([(imported(cell), split(cell)[1]) for cell in code_cells(a)]
            == [(imported(cell), split(cell)[1]) for cell in code_cells(b)])


def not_importable(notebook: NotebookNode) -> list[str]:
    """The import statements that fail."""
    missing = []
    for line in [line for cell in code_cells(notebook) for line in split(cell)[0]]:
        try:
            exec(ast.unparse(line), {})
        except ImportError:
            missing.append(ast.unparse(line))
    return missing


# Building ------------------------------------------------------------------------------------------------------------


def build(source: Path, root: Path = ROOT, timeout: int = 3600) -> Path:
    """Execute `source` into its .ipynb and write figures/ and figures/results/; both files are left as `check` wants them."""
    from nbclient import NotebookClient

    notebook = with_py(source)
    if root == ROOT and source.stem[:2] in SWEEPS:
        rows.unpack()
    # One thread: sums are then in the same order on every machine, so that the rows that are packed fit what is measured.
    with kernel_environment(ITERSR_OUT=str(root / "figures"), OMP_NUM_THREADS="1"):
        NotebookClient(
            notebook, timeout=timeout, kernel_name="python3", record_timing=False, store_widget_state=False,
            coalesce_streams=True, extra_arguments=["--log-level=ERROR"], resources={"metadata": {"path": str(source.parent)}},
        ).execute()
    clean(notebook)
    notebook.metadata = nbformat.from_dict(
        {**copy.deepcopy(HEADER), "language_info": {"name": "python"}, "itersr": stamp(notebook, source, root)}
    )
    return write(notebook, source)


def pair(source: Path) -> Path:
    """Carry prose, tags, and where in a package things are imported from, from the .py to the .ipynb without executing.

    ValueError if other code changed: then the outputs are old.
    """
    paired = source.with_suffix(".ipynb")
    before = nbformat.read(paired, as_version=4)
    notebook = with_py(source)
    notebook.metadata = nbformat.from_dict({**copy.deepcopy(before.metadata), **copy.deepcopy(HEADER)})
    if code_hash(notebook) != code_hash(before):
        if not same_but_for_imports(notebook, before):
            raise ValueError(f"{source.name}: code cells changed, so its outputs are old: build it instead")
        if missing := not_importable(notebook):
            raise ValueError(f"{source.name}: these imports fail: {'; '.join(missing)}")
        for cell, old in zip(code_cells(notebook), code_cells(before), strict=True):
            cell.id, cell.outputs, cell.execution_count = old.id, old.outputs, old.execution_count
        if before.metadata.itersr.code == code_hash(before):  # what was stale stays so
            notebook.metadata.itersr.code = code_hash(notebook)
    return write(notebook, source)


def write(notebook: NotebookNode, source: Path) -> Path:
    path = source.with_suffix(".ipynb")
    for cell in notebook.cells:
        cell.metadata.pop("lines_to_next_cell", None)
    nbformat.validate(notebook)
    nbformat.write(notebook, path)
    text = py_text(notebook)
    if source.read_text(encoding="utf-8") != text:
        source.write_text(text, encoding="utf-8")
    return path


def clean(notebook: NotebookNode) -> None:
    """Drop what a reader of the file cannot use: widget views (their state is not stored), and run-time metadata.

    The size at which a picture is shown stays."""
    for cell in code_cells(notebook):
        cell.metadata.pop("execution", None)
        cell.outputs = [output for output in cell.outputs if WIDGET not in output.get("data", {})]
        for output in cell.outputs:
            if "metadata" in output:
                output.metadata = NotebookNode({kind: size for kind, size in output.metadata.items() if kind == "image/png"})


# Checking ------------------------------------------------------------------------------------------------------------


def check(source: Path, root: Path = ROOT) -> list[str]:
    """Everything that is wrong with a notebook, one line each; empty is good."""
    path = source.with_suffix(".ipynb")
    if not path.exists():
        return [f"{path.name} is missing: build it"]
    notebook = nbformat.read(path, as_version=4)
    return [f"{source.stem}: {line}" for test in CHECKS for line in test(notebook, source, root)]


def check_pair(notebook: NotebookNode, source: Path, root: Path) -> Iterator[str]:
    # Compared as text: time stamps mean nothing after a clone, and a round trip says nothing about the pair.
    if py_text(notebook) != source.read_text(encoding="utf-8"):
        yield "the .py and the .ipynb differ: `pair` it (prose changed) or `build` it (code changed)"


def check_stamp(notebook: NotebookNode, source: Path, root: Path) -> Iterator[str]:
    old = notebook.metadata.get("itersr", {})
    try:
        new = stamp(notebook, source, root)
    except ValueError:
        return  # check_tags says so
    for name in ("code", "parameters", "tier", "versions"):
        if old.get(name) != new[name]:
            yield f"stale: {name} is not what the outputs were made from: build it"
    for tier, value in old.get("weights", {}).items():  # weights that came later do not matter
        if new["weights"].get(tier) != value:
            yield f"stale: the shipped weights of {tier} have changed: build it"
    if not (root / "figures" / "results" / f"{source.stem[:2]}.json").is_file():
        yield f"figures/results/{source.stem[:2]}.json is missing: build it"


def check_outputs(notebook: NotebookNode, source: Path, root: Path) -> Iterator[str]:
    counts = [cell.execution_count for cell in code_cells(notebook)]
    if counts != list(range(1, len(counts) + 1)):
        yield "code cells were not executed once each and in order"
    for number, cell in enumerate(code_cells(notebook), start=1):
        for output in cell.outputs:
            kinds = set(output.get("data", {}))
            if output.output_type == "error":
                yield f"cell [{number}] stores an error: {output.ename}"
            if output.get("name") == "stderr":
                yield f"cell [{number}] stores what was written to stderr: {output.text.strip()[:100]!r}"
            if pictures := {kind for kind in kinds if kind.startswith("image/")} - {"image/png"}:
                yield f"cell [{number}] stores {', '.join(sorted(pictures))}: PNG only"
            if kinds & {"application/javascript", WIDGET}:
                yield f"cell [{number}] stores an output that only a running kernel can show"
            if "text/html" in kinds and not kinds & {"text/plain", "text/markdown", "image/png"}:
                yield f"cell [{number}] stores HTML alone"
            for text in texts(output):
                if found := MACHINE_PATH.search(text) or ADDRESS.search(text):
                    yield f"cell [{number}] stores {found[0]!r}, which is of one machine only"
        if "nbval-check-output" in tags(cell) and not any(text.strip() for o in cell.outputs for text in texts(o)):
            yield f"cell [{number}] is tagged nbval-check-output but stores no text, so nothing would be compared"
    if not any("nbval-check-output" in tags(cell) for cell in notebook.cells):
        yield "no cell is tagged nbval-check-output"
    if "widgets" in notebook.metadata and not notebook.metadata.widgets:
        yield "metadata.widgets is there without state: GitHub would call the notebook invalid"


def check_tags(notebook: NotebookNode, source: Path, root: Path) -> Iterator[str]:
    for cell in notebook.cells:
        if unknown := tags(cell) - TAGS:
            yield f"unknown tag {', '.join(sorted(unknown))}: there are {', '.join(sorted(TAGS))}"
    try:
        if missing := PARAMETERS - set(parameters(notebook)):
            yield f"the parameters cell lacks {', '.join(sorted(missing))}"
    except ValueError as error:
        yield str(error)
    try:
        exercises(notebook)
    except ValueError as error:
        yield str(error)


def check_words(notebook: NotebookNode, source: Path, root: Path) -> Iterator[str]:
    for cell in notebook.cells:
        if found := MACHINE_PATH.search(cell.source):
            yield f"a cell names {found[0]!r}, which is of one machine only"
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    yield from broken_links(prose, source.parent)
    for word in misspelled(source):
        yield f"spelling: {word}"


def check_size(notebook: NotebookNode, source: Path, root: Path) -> Iterator[str]:
    size = source.with_suffix(".ipynb").stat().st_size
    if size > SIZE_LIMIT:
        yield f"{size / 1e6:.1f} MB: at most {SIZE_LIMIT / 1e6:.1f} MB (fewer or smaller figures)"


CHECKS = (check_pair, check_stamp, check_outputs, check_tags, check_words, check_size)


def broken_links(markdown: str, folder: Path) -> Iterator[str]:
    """Relative links of `markdown` that lead nowhere from `folder`. Code is left out of the search."""
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", markdown, flags=re.DOTALL)
    for one, other in LINK.findall(prose):
        target = (one or other).partition("#")[0]
        if target and not re.match(r"[a-z]+:", target) and not (folder / target).exists():
            yield f"link to {target} leads nowhere"


def misspelled(*paths: Path) -> list[str]:
    done = subprocess.run([sys.executable, "-m", "codespell_lib", *map(str, paths)], capture_output=True, text=True)
    return [line.rpartition("/")[2] for line in done.stdout.splitlines() if "==>" in line]


# Exercises -----------------------------------------------------------------------------------------------------------


def exercises(notebook: NotebookNode) -> list[tuple[NotebookNode, NotebookNode, NotebookNode]]:
    """The (exercise, solution, check) cells. ValueError where the three do not follow each other or define other names."""
    code = code_cells(notebook)
    kinds = [next(iter(tags(cell) & {"exercise", "solution", "check"}), "") for cell in code]
    found = []
    for i, kind in enumerate(kinds):
        if kind == "exercise":
            if kinds[i : i + 3] != ["exercise", "solution", "check"]:
                raise ValueError(f"code cell {i + 1} is an exercise: need solution and check next, got {kinds[i + 1 : i + 3]}")
            stub, solution, test = code[i : i + 3]
            if missing := defined(stub) - defined(solution):
                raise ValueError(f"the solution in code cell {i + 2} does not define {', '.join(sorted(missing))}")
            if not solution.metadata.get("jupyter", {}).get("source_hidden"):
                raise ValueError(f"the solution in code cell {i + 2} is open to see: need jupyter={{\"source_hidden\": true}}")
            found.append((stub, solution, test))
    if 3 * len(found) != sum(map(bool, kinds)):
        raise ValueError("a solution or check cell stands without its exercise")
    return found


def defined(cell: NotebookNode) -> set[str]:
    return {node.name for node in ast.parse(cell.source).body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}


def learner_copy(notebook: NotebookNode) -> NotebookNode:
    """The notebook without solutions and outputs."""
    learner = copy.deepcopy(notebook)
    learner.cells = [cell for cell in learner.cells if "solution" not in tags(cell)]
    for cell in code_cells(learner):
        cell.outputs, cell.execution_count = [], None
    learner.metadata = nbformat.from_dict({"kernelspec": HEADER["kernelspec"], "language_info": {"name": "python"}})
    return learner


def with_proofs(notebook: NotebookNode) -> NotebookNode:
    """The notebook with a cell after each exercise that fails if the stub passes the check.

    That the solution passes it is shown by running the notebook at all; so one run proves both, in the notebook's state.
    """
    proven = copy.deepcopy(notebook)
    for stub, solution, test in reversed(exercises(proven)):
        place = next(i for i, cell in enumerate(proven.cells) if cell is test)
        proven.cells.insert(place + 1, nbformat.v4.new_code_cell(
            f"exec({stub.source!r}, globals())\n"
            f"try:\n    exec({test.source!r}, globals())\nexcept Exception:\n    pass\n"
            f"else:\n    raise AssertionError('the empty stub passes the check of: ' + {stub.source.splitlines()[0]!r})\n"
            f"exec({solution.source!r}, globals())\n",
        ))
    return proven


# Command line --------------------------------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="notebook_tools", description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["build", "pair", "check", "exercises"])
    parser.add_argument("only", nargs="*", help='numbers such as 07; without any: all notebooks')
    args = parser.parse_args(arguments)
    wrong = 0
    for source in sources(only=args.only):
        if args.command == "build":
            print(f"{source.stem} ...", flush=True)
            build(source)
        elif args.command == "pair":
            pair(source)
        elif args.command == "exercises":
            folder = ROOT / "learner"
            folder.mkdir(exist_ok=True)
            path = folder / f"{source.stem}.ipynb"
            nbformat.write(learner_copy(jupytext.read(source)), path)
            for page in (ROOT / "notebooks").glob("*.md"):  # notebooks lead there
                shutil.copy(page, folder)
            print(path.relative_to(ROOT))
        if args.command in ("build", "pair", "check"):
            problems = check(source)
            wrong += len(problems)
            print("\n".join(problems or [f"{source.stem}: good"]), flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
