"""Run the notebooks as experiments, and what every notebook needs for that.

`run` executes notebooks 00-11 with papermill. It writes one run folder with the same layout as the repository:

    runs/20260131-0930-smoke/notebooks/         the executed copies
    runs/20260131-0930-smoke/figures/           what they drew
    runs/20260131-0930-smoke/figures/results/   NN.json: what they measured
    runs/20260131-0930-smoke/summary.txt        the table printed at the end

Inside a notebook, the cell after the parameters makes a `Run`: the tier, the device, the random generator, `save_figure` and
`record`.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from operator import methodcaller
from pathlib import Path
from typing import Any
from unittest import mock

import torch

import itersr
from itersr import PASSIVE, config, weights
from itersr.lab import checks
from itersr.model import pick_device

ROOT = Path(__file__).resolve().parents[2]
TAKE_A_FOLDER = ("06", "07", "08", "09", "10")  # notebooks that measure what was trained
SMOKE_TIMEOUT = 1800  # seconds for one cell; papermill has no limit of its own
DPI = 100  # figures of 8 × 5 inches then keep a notebook well below 1.5 MB


@dataclass(frozen=True)
class Run:
    """What one notebook knows about the run that it is part of."""

    notebook: str  # "04"
    tier: config.Tier
    seed: int
    device: torch.device
    data: Path | None  # folder of training photos; None: scikit-image's
    out: Path  # figures here, results in out/results, checkpoints in out/checkpoints

    @classmethod
    def start(cls, notebook: str, *, tier: str, seed: int = 0, device: str = "auto", data: str | Path | None = None,
              out: str | Path | None = None) -> Run:
        """Make a `Run` of a notebook's parameters and print them in one line, with the versions.

        tier: its name, or (in notebooks 06-10) a folder of weights relative to the repository.
        out: None is a temporary folder.
        ITERSR_TIER, ITERSR_SEED, ITERSR_DEVICE, ITERSR_DATA and ITERSR_OUT replace the parameters where they are set: nbval
        cannot set parameters.
        Raises ValueError for an unknown tier or device, FileNotFoundError for a missing `data` folder.
        """
        tier = os.environ.get("ITERSR_TIER", tier)
        out = os.environ.get("ITERSR_OUT", out) or tempfile.mkdtemp(prefix="itersr-")
        chosen = cls(
            notebook=notebook,
            tier=_tier(tier),
            seed=int(os.environ.get("ITERSR_SEED", seed)),
            device=pick_device(os.environ.get("ITERSR_DEVICE", device)),
            data=_folder(os.environ.get("ITERSR_DATA", data)),
            out=Path(out).resolve(),
        )
        print(f"notebook {notebook} | tier {tier} | seed {chosen.seed} | {chosen.device.type} | itersr {itersr.__version__} | "
              f"torch {torch.__version__.split('+')[0]} | Python {platform.python_version().rpartition('.')[0]}")
        checks.speak()
        return chosen

    def generator(self, stream: int = 0, device: str | torch.device | None = None) -> torch.Generator:
        """A new generator of this run's seed; another `stream` gives other numbers. On `run.device` by default."""
        return torch.Generator(device=device or self.device).manual_seed(self.seed + 1_000_003 * stream)

    @property
    def checkpoints(self) -> Path:
        """Where this run's notebooks keep weights for the next ones."""
        folder = self.out / "checkpoints"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def save_figure(self, figure: Any, name: str) -> Path:
        """Write a matplotlib figure as out/NN_name.png."""
        self.out.mkdir(parents=True, exist_ok=True)
        path = self.out / f"{self.notebook}_{name}.png"
        figure.savefig(path, dpi=DPI, bbox_inches="tight", metadata={"Software": None})
        return path

    def record(self, measured: str, **results: Any) -> Path:
        """Write out/results/NN.json; the last cell of every notebook calls this.

        measured: one short line for the table, e.g. f"PSNR {psnr:.1f} dB over {n} photos".
        results: the numbers, strings, lists, dicts, arrays or tensors that the notebook's text is based on.
        Raises ValueError if either is empty or a number is not finite.
        """
        if not measured.strip() or not results:
            raise ValueError(f"notebook {self.notebook} records measured={measured!r} with {len(results)} results: need both")
        provenance = {
            "tier": self.tier.name, "seed": self.seed, "device": self.device.type,
            "data": "scikit-image photos" if self.data is None else self.data.name,
            "versions": {"itersr": itersr.__version__, "torch": torch.__version__.split("+")[0]},
        }
        content = {"notebook": self.notebook, "measured": measured.strip(), "provenance": provenance, "results": results}
        path = self.out / "results" / f"{self.notebook}.json"
        text = json.dumps(content, indent=1, default=methodcaller("tolist"), allow_nan=False)  # arrays and tensors as lists
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
        return path


def run(tier: str = "smoke", only: str | Iterable[str] | None = None, device: str = "auto", data: str | Path | None = None,
        out: str | Path | None = None, timeout: int | None = None, notebooks: str | Path = ROOT / "notebooks",
        jobs: int | None = None) -> int:
    """Execute the notebooks with papermill; print a line for each and a table at the end.

    tier: its name, or a folder of weights for notebooks 06-10. only: "07", "02,07" or a list of such numbers; None is all.
    out: the run folder (default runs/<date-time>-<tier>). notebooks: their folder, which is also the working folder of each.
    timeout: seconds for one cell; None is SMOKE_TIMEOUT at `smoke`, and no limit at tiers that train for hours.
    jobs: how many notebooks run at a time, each with its share of the cores; None is two at `smoke`, else one. Only there do
    notebooks 06-11 not need what 02-05 train.
    Returns 0, or 1 at the first notebook that fails (its name, cell and traceback are printed; the others are stopped).
    Raises ValueError or FileNotFoundError before anything runs: unknown tier, device or notebook, a missing folder.
    """
    import papermill

    source = Path(notebooks).absolute()
    if is_folder := tier not in config.TIERS and Path(tier).is_dir():
        weights_folder = Path(tier).resolve()  # the notebooks have another working folder
        tier = str(weights_folder.relative_to(ROOT) if weights_folder.is_relative_to(ROOT) else weights_folder)
        only = only or TAKE_A_FOLDER
    _tier(tier), pick_device(device)
    folder = Path(out or ROOT / "runs" / f"{datetime.now():%Y%m%d-%H%M%S}-{Path(tier).name}").resolve()
    data = _folder(data)
    given = {"tier": tier, "device": device, "data": data and str(data), "out": str(folder / "figures")}
    chosen = _choose(source, only)
    if is_folder and (others := [path.name[:2] for path in chosen if path.name[:2] not in TAKE_A_FOLDER]):
        raise ValueError(f"only: {', '.join(TAKE_A_FOLDER)} measure a folder of weights, {', '.join(others)} need a tier")
    if jobs is None:
        jobs = 2 if tier == "smoke" else 1
    if jobs < 1 or jobs > 1 and tier != "smoke":
        raise ValueError(f"jobs {jobs}: must be 1 or more, and 1 at other tiers than smoke")

    (folder / "notebooks").mkdir(parents=True, exist_ok=True)
    print(f"Running {len(chosen)} notebooks at tier {tier}, {jobs} at a time, into {folder}", flush=True)
    start, stopped = time.monotonic(), threading.Event()
    lines: dict[str, str] = {}

    def one_after_the_other(paths: Iterable[Path]) -> None:
        for path in paths:
            began = time.monotonic()
            try:
                measured = "" if stopped.is_set() else _execute(path, folder, given, timeout)
            except (papermill.PapermillExecutionError, TimeoutError, RuntimeError) as error:  # RuntimeError: the kernel died
                if not stopped.is_set():  # else this is the kernel that was stopped below
                    _stop(stopped)
                    copy = folder / "notebooks" / path.name
                    where = f"notebook {path.stem} failed in cell [{_last_cell(copy)}], see {copy}"
                    print(f"{path.stem} FAILED", flush=True)
                    print(f"{type(error).__name__}: {error}\n{where}", file=sys.stderr, flush=True)
            if stopped.is_set():
                return
            lines[path.stem] = f"{path.stem:<24}{time.monotonic() - began:7.0f}  {measured}"
            print(f"[{len(lines)}/{len(chosen)}] {lines[path.stem]}", flush=True)

    cores = str(max(1, (os.cpu_count() or 1) // jobs))
    threads = {"OMP_NUM_THREADS": cores} if jobs > 1 else {}
    # The working folder is of the whole process: papermill's `cwd` would change it in one thread while another restores it.
    with kernel_environment(**threads), contextlib.chdir(source), ThreadPoolExecutor(jobs) as pool:
        try:
            list(pool.map(one_after_the_other, _queues(chosen, jobs)))
        except BaseException:  # Ctrl-C
            _stop(stopped)
            raise
    if stopped.is_set():
        return 1
    table = "\n".join([f"{'notebook':<24}seconds  measured", *(lines[path.stem] for path in chosen),
                       f"{'all':<24}{time.monotonic() - start:7.0f}"])
    (folder / "summary.txt").write_text(table + "\n", encoding="utf-8")
    print(f"\n{table}\n\nExecuted notebooks, figures and results: {folder}", flush=True)
    return 0


def _queues(paths: list[Path], jobs: int) -> list[list[Path]]:
    """What has to run in order: all for one job; else 02-05, of which each goes on from the one before, and each other alone.

    The longest come first, so that the jobs end at about the same time.
    """
    if jobs == 1:
        return [paths]
    chain = [path for path in paths if "02" <= path.name[:2] <= "05"]
    return [chain, *([path] for path in reversed(paths) if path not in chain)]


def _execute(path: Path, folder: Path, given: dict[str, Any], timeout: int | None) -> str:
    """Run one notebook into the run folder; gives what it measured. RuntimeError where it recorded nothing."""
    import papermill

    result = folder / "figures" / "results" / f"{path.name[:2]}.json"
    result.unlink(missing_ok=True)  # of an earlier run in the same folder
    papermill.execute_notebook(
        path, folder / "notebooks" / path.name, parameters=given, kernel_name="python3", language="python",
        progress_bar=False, extra_arguments=["--log-level=ERROR"],
        execution_timeout=timeout or (SMOKE_TIMEOUT if given["tier"] == "smoke" else None),
    )
    if not result.is_file():
        raise RuntimeError(f"it ended without {result.name}: the last cell must call run.record(...)")
    return str(json.loads(result.read_text(encoding="utf-8"))["measured"])


def _stop(stopped: threading.Event) -> None:
    """No further notebook starts, and the kernels of those that run end."""
    import psutil

    stopped.set()
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if "ipykernel_launcher" in child.cmdline():
                child.kill()


@contextlib.contextmanager
def kernel_environment(**extra: str) -> Iterator[None]:
    """The environment for a notebook's kernel: ITERSR_… replaces no parameter, pictures go inline, no progress bars."""
    with mock.patch.dict(os.environ):
        for name in list(os.environ):  # ITERSR_BENCH names the test photos: no notebook has a parameter for it
            if name == "MPLBACKEND" or name.startswith("ITERSR_") and name != "ITERSR_BENCH":
                del os.environ[name]
        os.environ.update({**PASSIVE, **os.environ, **extra}, TQDM_DISABLE="1", JUPYTER_PREFER_ENV_PATH="1")
        yield


def _choose(source: Path, only: str | Iterable[str] | None) -> list[Path]:
    """The notebooks in a folder, or those of some numbers."""
    found = {path.name[:2]: path for path in sorted(source.glob("[0-9][0-9]_*.ipynb"))}
    if not found:
        here = "the installed package" if source == ROOT / "notebooks" else source
        raise FileNotFoundError(f"{here} holds no notebooks NN_name.ipynb: run this in a clone of the repository")
    if isinstance(only, str):
        only = only.split(",")
    wanted = list(found) if only is None else [part.strip()[:2] for part in only]
    if missing := [part for part in wanted if part not in found]:
        raise ValueError(f"only: no notebook {', '.join(missing)}: there are {', '.join(found)}")
    return [found[part] for part in wanted]


def _last_cell(copy: Path) -> int:
    """The number of the last code cell that was started, as Jupyter counts."""
    import nbformat

    code = [cell for cell in nbformat.read(copy, as_version=4).cells if cell.cell_type == "code"]
    return sum(bool(cell.metadata.get("papermill", {}).get("start_time")) for cell in code)


def _folder(data: str | Path | None) -> Path | None:
    """The folder of training photos, FileNotFoundError where it is none."""
    if data is not None and not Path(data).is_dir():
        raise FileNotFoundError(f"data: {data} is not a folder")
    return None if data is None else Path(data).resolve()


def _tier(name: str) -> config.Tier:
    """A tier; or that of a folder of weights, with the folder as its name, which results then show."""
    if name not in config.TIERS and (ROOT / name).is_dir():
        return replace(weights.read_config(ROOT / name)[0], name=name)
    return config.tier(name)
