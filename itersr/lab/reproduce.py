"""Run the notebooks as experiments, and the few lines that every notebook shares with that.

`run` takes notebooks 00-09 through papermill into one run folder that is laid out like the repository:

    runs/20260131-0930-smoke/notebooks/         the executed copies
    runs/20260131-0930-smoke/figures/           what they drew
    runs/20260131-0930-smoke/figures/results/   NN.json: what they measured
    runs/20260131-0930-smoke/summary.txt        the table printed at the end

Inside a notebook, the cell after the parameters makes a `Run`: the tier, the device, the random generator, and the two
ways to hand something on, `save_figure` and `record`.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import platform
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from itersr import PASSIVE

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure
    from nbformat import NotebookNode

    from itersr.config import Tier

ROOT = Path(__file__).resolve().parents[2]
TAKE_A_FOLDER = ("06", "07", "08", "09")  # notebooks that train nothing
SMOKE_TIMEOUT = 1800  # seconds for one cell; papermill itself would wait for ever
DPI = 100  # with figures of 8 × 5 inches a notebook stays well inside its 1.5 MB


@dataclass(frozen=True)
class Run:
    """What one notebook knows about the run that it is part of."""

    notebook: str  # "04"
    tier: Tier
    seed: int
    device: torch.device
    data: Path | None  # folder of training photos; None: scikit-image's
    out: Path  # figures here, results in out/results, checkpoints in out/checkpoints

    @classmethod
    def start(
        cls, notebook: str, *, tier: str, seed: int = 0, device: str = "auto",
        data: str | Path | None = None, out: str | Path | None = None,
    ) -> Run:
        """Turn a notebook's parameters into a `Run` and print them in one line, with the versions.

        nbval cannot inject parameters, so ITERSR_TIER, ITERSR_SEED, ITERSR_DEVICE, ITERSR_DATA and ITERSR_OUT, where
        set, stand in for them (`run` clears them: there the parameters count). Without `out` a temporary folder is used.

        tier may also be a folder of weights, seen from the repository: notebooks 06-09 then measure those.

        Raises ValueError for an unknown tier or device, FileNotFoundError for a missing `data` folder.
        """
        import torch

        import itersr

        tier_name = os.environ.get("ITERSR_TIER", tier)
        seed = int(os.environ.get("ITERSR_SEED", seed))
        data = os.environ.get("ITERSR_DATA", data)
        out = os.environ.get("ITERSR_OUT", out)
        if data is not None and not Path(data).is_dir():
            raise FileNotFoundError(f"data: {data} is not a folder")
        chosen = cls(
            notebook=notebook,
            tier=_tier(tier_name),
            seed=seed,
            device=_device(os.environ.get("ITERSR_DEVICE", device)),
            data=None if data is None else Path(data).resolve(),
            out=Path(tempfile.mkdtemp(prefix="itersr-") if out is None else out).resolve(),
        )
        print(f"notebook {notebook} | tier {tier_name} | seed {seed} | {chosen.device.type} | itersr {itersr.__version__} | "
              f"torch {torch.__version__.split('+')[0]} | Python {platform.python_version().rpartition('.')[0]}")
        return chosen

    def generator(self, stream: int = 0, device: str | torch.device | None = None) -> torch.Generator:
        """A fresh generator of this run's seed; another `stream` gives other numbers. On `run.device` unless told."""
        import torch

        return torch.Generator(device=device or self.device).manual_seed(self.seed + 1_000_003 * stream)

    @property
    def checkpoints(self) -> Path:
        """Where this run's notebooks leave weights for the next ones (made if missing, git-ignored)."""
        folder = self.out / "checkpoints"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def save_figure(self, figure: Figure, name: str) -> Path:
        """Write `figure` as out/NN_name.png; `name` is letters, digits and underscores."""
        if not re.fullmatch(r"\w+", name):
            raise ValueError(f"figure name {name!r}: need letters, digits and underscores only")
        self.out.mkdir(parents=True, exist_ok=True)
        path = self.out / f"{self.notebook}_{name}.png"
        figure.savefig(path, dpi=DPI, bbox_inches="tight", metadata={"Software": None})
        return path

    def results(self, notebook: str) -> dict[str, Any]:
        """What notebook "07" recorded: in this run, else what the repository holds. FileNotFoundError if neither has it."""
        for folder in (self.out, ROOT / "figures"):
            path = folder / "results" / f"{notebook}.json"
            if path.is_file():
                return dict(json.loads(path.read_text(encoding="utf-8"))["results"])
        raise FileNotFoundError(f"no results of notebook {notebook}: run it first (make reproduce ONLY={notebook})")

    def record(self, measured: str, **results: Any) -> Path:
        """Write out/results/NN.json; every notebook ends with this.

        measured: one short line for the table, e.g. f"PSNR {psnr:.1f} dB over {n} photos".
        results: numbers, strings, lists, dicts, arrays or tensors behind every number of the notebook's prose.
        Raises ValueError if either is empty or a number is not finite (a notebook that measured nothing must not pass).
        """
        import torch

        import itersr

        if not measured.strip() or not results:
            raise ValueError(f"notebook {self.notebook} records measured={measured!r} with {len(results)} results: need both")
        content = {
            "notebook": self.notebook,
            "measured": measured.strip(),
            "provenance": {
                "tier": self.tier.name, "seed": self.seed, "device": self.device.type,
                "data": "scikit-image photos" if self.data is None else self.data.name,
                "versions": {"itersr": itersr.__version__, "torch": torch.__version__.split("+")[0]},
            },
            "results": results,
        }
        path = self.out / "results" / f"{self.notebook}.json"
        try:
            text = json.dumps(content, indent=1, default=_plain, allow_nan=False)
        except ValueError as error:
            raise ValueError(f"notebook {self.notebook} records a result that is not finite: {error}") from error
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
        return path


def run(
    tier: str = "smoke", only: str | Iterable[str] | None = None, device: str = "auto", data: str | Path | None = None,
    out: str | Path | None = None, parameters: dict[str, Any] | None = None, timeout: int | None = None,
    notebooks: str | Path | None = None,
) -> int:
    """Run the notebooks in order through papermill; print a line for each and a table at the end.

    tier: its name, or a folder of weights for notebooks 06-09.
    only: "07", "02,07" or a list of such numbers; None is all. out: the run folder (default runs/<date-time>-<tier>).
    parameters: further notebook parameters, such as {"seed": 1}.
    timeout: seconds for one cell; None is SMOKE_TIMEOUT at `smoke`, and no limit at tiers that train for hours.
    notebooks: their folder; each runs with it as working folder, as in JupyterLab and under nbval.
    Returns 0, or 1 at the first notebook that fails (its name, cell and traceback are printed).
    Raises ValueError or FileNotFoundError before anything runs: unknown tier, device, notebook or parameter, a notebook
    without a cell tagged `parameters`, a missing folder.
    """
    import papermill

    from itersr.config import TIERS

    source = ROOT / "notebooks" if notebooks is None else Path(notebooks)
    if notebooks is None and not source.is_dir():
        raise FileNotFoundError("the notebooks are no part of the installed package: run this in a clone of the repository")
    if is_folder := tier not in TIERS and Path(tier).is_dir():
        tier = str(_short(Path(tier).resolve(), ROOT))  # the notebooks have a working folder of their own
        only = only or TAKE_A_FOLDER
    _tier(tier), _device(device)
    if data is not None and not Path(data).is_dir():
        raise FileNotFoundError(f"data: {data} is not a folder")
    folder = Path(out) if out is not None else ROOT / "runs" / f"{datetime.now():%Y%m%d-%H%M%S}-{Path(tier).name}"
    folder = folder.resolve()
    if timeout is None and tier == "smoke":
        timeout = SMOKE_TIMEOUT
    given = {
        "tier": tier, "device": device, "data": None if data is None else str(Path(data).resolve()),
        "out": str(folder / "figures"), **(parameters or {}),
    }
    chosen = {path.stem: (path, _read(path)) for path in _choose(source, only)}
    if is_folder and (others := sorted(name[:2] for name in chosen if name[:2] not in TAKE_A_FOLDER)):
        raise ValueError(f"only: {', '.join(TAKE_A_FOLDER)} measure a folder of weights, {', '.join(others)} need a tier")
    for name, (_, notebook) in chosen.items():
        known = _parameters(notebook, name)
        if unknown := sorted(given.keys() - known):
            raise ValueError(f"notebook {name} has no parameter {', '.join(unknown)}: it has {', '.join(sorted(known))}")

    (folder / "notebooks").mkdir(parents=True, exist_ok=True)
    _say(f"Running {len(chosen)} notebooks at tier {tier} into {_short(folder)}")
    rows: list[tuple[str, float, str]] = []
    for number, (name, (path, notebook)) in enumerate(chosen.items(), start=1):
        _say(f"[{number}/{len(chosen)}] {name} ...", end=" ")
        copy = folder / "notebooks" / f"{name}.ipynb"
        result = folder / "figures" / "results" / f"{name[:2]}.json"
        result.unlink(missing_ok=True)  # a result of an earlier run in the same folder must not stand in for this one's
        if path.suffix == ".ipynb":
            shutil.copyfile(path, copy)
        else:
            import jupytext

            jupytext.write(notebook, copy)
        began = time.monotonic()
        try:
            with kernel_environment():
                done = papermill.execute_notebook(
                    str(copy), str(copy), parameters=given, kernel_name="python3", language="python",
                    cwd=str(source.resolve()), progress_bar=False, execution_timeout=timeout,
                    extra_arguments=["--log-level=ERROR"],
                )
            measured = _outcome(done, result)
        except papermill.PapermillExecutionError as error:
            return _failed(name, f"cell [{error.exec_count}]", f"{error.ename}: {error.evalue}", copy, error.traceback)
        except (_NothingDone, TimeoutError, RuntimeError) as error:  # RuntimeError: the kernel died
            return _failed(name, _last_cell(copy), f"{type(error).__name__.lstrip('_')}: {error}", copy)
        rows.append((name, time.monotonic() - began, measured))
        _say(f"{rows[-1][1]:.0f} s: {measured}")
    table = _table(rows)
    (folder / "summary.txt").write_text(table + "\n", encoding="utf-8")
    _say(f"\n{table}\n\nExecuted notebooks, figures and results: {_short(folder)}")
    return 0


@contextlib.contextmanager
def kernel_environment(**extra: str) -> Iterator[None]:
    """The environment for a notebook's kernel: parameters count, pictures go inline, no progress bar freezes in an output."""
    before = dict(os.environ)
    keep = "ITERSR_BENCH"  # names the test photos, and no notebook has a parameter for it
    for name in [name for name in os.environ if name.startswith("ITERSR_") and name != keep or name == "MPLBACKEND"]:
        del os.environ[name]
    os.environ.update({**PASSIVE, **os.environ, **extra}, TQDM_DISABLE="1", JUPYTER_PREFER_ENV_PATH="1")
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


class _NothingDone(Exception):
    """A notebook came to its end without doing its work."""


def _outcome(notebook: NotebookNode, result: Path) -> str:
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    if skipped := sum(cell.execution_count is None for cell in code):
        raise _NothingDone(f"{skipped} of {len(code)} code cells did not run")
    if mute := sum("nbval-check-output" in cell.metadata.get("tags", []) and not cell.outputs for cell in code):
        raise _NothingDone(f"{mute} cells whose output is compared (tag nbval-check-output) printed nothing")
    if not result.is_file():
        raise _NothingDone(f"it ended without a result: its last cell must call run.record(...), which writes {result.name}")
    return str(json.loads(result.read_text(encoding="utf-8"))["measured"])


def _choose(source: Path, only: str | Iterable[str] | None) -> list[Path]:
    if not source.is_dir():
        raise FileNotFoundError(f"{source} is not a folder")
    found = {path.stem[:2]: path for path in sorted(source.glob("[0-9][0-9]_*.py"))}
    found |= {path.stem[:2]: path for path in sorted(source.glob("[0-9][0-9]_*.ipynb"))}  # the paired ipynb comes first
    if only is None:
        wanted = sorted(found)
    else:
        wanted = [part.strip()[:2] for part in (only.split(",") if isinstance(only, str) else only)]
    if missing := [part for part in wanted if part not in found]:
        raise ValueError(f"only: no notebook {', '.join(missing)}: there are {', '.join(sorted(found))}")
    if not wanted:
        raise FileNotFoundError(f"{source} holds no notebooks named NN_name")
    return [found[part] for part in wanted]


def _read(path: Path) -> NotebookNode:
    import jupytext

    return jupytext.read(path)


def _parameters(notebook: NotebookNode, name: str) -> set[str]:
    """Names assigned in the cell tagged `parameters` (papermill itself only warns of an unknown one, or of no such cell)."""
    cells = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    if len(cells) != 1:
        raise ValueError(f"notebook {name} has {len(cells)} cells tagged `parameters`: need one")
    names: set[str] = set()
    for line in ast.parse(cells[0].source).body:
        targets = line.targets if isinstance(line, ast.Assign) else [line.target] if isinstance(line, ast.AnnAssign) else []
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def _last_cell(copy: Path) -> str:
    """The last cell that was started, for errors that papermill raises without saying where."""
    import nbformat

    cells = nbformat.read(copy, as_version=4).cells
    started = [i for i, cell in enumerate(cells) if cell.metadata.get("papermill", {}).get("start_time")]
    return f"cell {started[-1] + 1} of {len(cells)}" if started else "before its first cell"


def _failed(name: str, where: str, what: str, copy: Path, traceback: Iterable[str] = ()) -> int:
    _say("FAILED")
    for line in traceback:
        print(re.sub(r"\x1b\[[0-9;]*m", "", line), file=sys.stderr)
    print(f"notebook {name} failed in {where}: {what}\nsee {_short(copy)}", file=sys.stderr, flush=True)
    return 1


def _table(rows: list[tuple[str, float, str]]) -> str:
    width = max(len(name) for name, _, _ in rows)
    lines = [f"{'notebook':<{width}}  seconds  measured"]
    lines += [f"{name:<{width}}  {seconds:7.0f}  {measured}" for name, seconds, measured in rows]
    lines += [f"{'all':<{width}}  {sum(seconds for _, seconds, _ in rows):7.0f}"]
    return "\n".join(lines)


def _say(text: str, end: str = "\n") -> None:
    print(text, end=end, flush=True)


def _short(path: Path, folder: Path | None = None) -> Path:
    """`path` as seen from a folder (the working folder), where it lies below it."""
    folder = folder or Path.cwd()
    return path.relative_to(folder) if path.is_relative_to(folder) else path


def _tier(name: str) -> Tier:
    """A tier; or that of a folder of weights, named after the folder so that results say whose they are."""
    from itersr import config, weights

    if name not in config.TIERS and (ROOT / name).is_dir():
        return replace(weights.read_config(ROOT / name)[0], name=name)
    return config.tier(name)


def _device(name: str) -> torch.device:
    from itersr.model import pick_device

    return pick_device(name)


def _plain(value: Any) -> Any:
    """Arrays and tensors as lists, for json."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a result of type {type(value).__name__}: need numbers, strings, lists, dicts, arrays or tensors")
