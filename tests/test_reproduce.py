"""`reproduce` on small notebooks: what it runs, what it refuses, what it reports."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from matplotlib.figure import Figure

from itersr.lab.reproduce import ROOT, Run, kernel_environment, run
from itersr.schedule import tokens_to_keep
from tests import small_notebooks as small


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """`make test` sets ITERSR_OUT for nbval; these tests choose their own folders."""
    for name in [name for name in os.environ if name.startswith("ITERSR_")]:
        monkeypatch.delenv(name)


def start(out: Path | None, **changes: object) -> Run:
    return Run.start("04", **{"tier": "smoke", "out": out, **changes})  # type: ignore[arg-type]


def test_a_run_leaves_copies_figures_results_and_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ITERSR_SEED", "99")  # for nbval; under papermill the parameters count
    figure = '# %%\nfrom matplotlib.figure import Figure\n\npath = run.save_figure(Figure(figsize=(1, 1)), "empty")\n'
    drawer = small.text("01", "# %%\nkept = 5\n", figure, small.RECORD)
    root = small.course(tmp_path / "p", nb01_two=drawer, nb00_one=small.good())
    assert run(tier="smoke", device="cpu", notebooks=root / "notebooks", out=tmp_path / "r", jobs=1) == 0
    made = {str(path.relative_to(tmp_path / "r")) for path in (tmp_path / "r").rglob("*") if path.is_file()}
    assert made == {"notebooks/00_one.ipynb", "notebooks/01_two.ipynb", "summary.txt", "figures/01_empty.png",
                    "figures/results/00.json", "figures/results/01.json"}
    result = json.loads((tmp_path / "r/figures/results/00.json").read_text())
    assert result["provenance"]["seed"] == 0 and result["provenance"]["tier"] == "smoke"
    printed = capsys.readouterr().out
    assert printed.index("[1/2] 00_one") < printed.index("[2/2] 01_two") < printed.index("seconds  measured")
    assert printed.count(f"seed 0, {tokens_to_keep(4, 8, 64)} kept") == printed.count("seed 0, 5 kept") == 2  # progress, table
    assert os.environ["ITERSR_SEED"] == "99"


def test_only_runs_what_is_asked_for(tmp_path: Path) -> None:
    root = small.course(tmp_path / "p", nb00_one="not even python", nb01_two=small.good("01"))
    # 00 would fail: it is not read
    assert run(only="01", notebooks=root / "notebooks", out=tmp_path / "r", device="cpu") == 0
    assert [path.name for path in (tmp_path / "r/notebooks").iterdir()] == ["01_two.ipynb"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"only": "07"}, "no notebook 07: there are 00, 01"),
        ({"tier": "huge"}, "tier 'huge'"),
        ({"device": "abacus"}, "device 'abacus'"),
        ({"jobs": 0}, "jobs 0: must be 1 or more"),
        ({"jobs": 2, "tier": "tiny"}, "jobs 2: must be .* 1 at other tiers"),
        ({"data": "no/such/folder"}, "no/such/folder is not a folder"),
        ({"notebooks": "no/such/folder"}, "no/such/folder holds no notebooks"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_runs(tmp_path: Path, settings: dict, message: str) -> None:
    root = small.course(tmp_path / "p", nb00_one=small.good(), nb01_two=small.good("01"))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run(**{"notebooks": root / "notebooks", "out": tmp_path / "r", **settings})
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("cells", "timeout", "message"),
    [
        (["def broken():\n    raise KeyError('lost')\n\n\nbroken()"], 60, "KeyError: 'lost'"),
        (["import time\n\ntime.sleep(60)"], 3, "CellTimeoutError"),
        (["import os\n\nos._exit(1)"], 60, "DeadKernelError"),
        (["x = 1"], 60, "it ended without 00.json"),
        (["import sys\n\nsys.exit()", "x = 1"], 60, "it ended without 00.json"),
        ([small.START.format(number="00"), "path = run.record('nothing')"], 60, "need both"),
    ],
    ids=["error", "timeout", "kernel dies", "no result", "exit", "empty result"],
)
def test_a_failing_notebook_stops_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str], cells: list[str], timeout: int,
                                          message: str) -> None:
    content = "\n\n".join([small.PARAMETERS, *(f"# %%\n{cell}" for cell in cells)])
    root = small.course(tmp_path / "p", nb00_bad=content, nb01_good=small.good("01"))
    (tmp_path / "r/figures/results").mkdir(parents=True)
    (tmp_path / "r/figures/results/00.json").write_text('{"measured": "of an earlier run"}')
    assert run(notebooks=root / "notebooks", out=tmp_path / "r", timeout=timeout, device="cpu", jobs=1) == 1
    error = capsys.readouterr().err
    assert f"notebook 00_bad failed in cell [{4 if message == 'need both' else 3}]" in error and message in error
    assert "00_bad.ipynb" in error and "\x1b" not in error
    assert ("in broken()" in error) == ("KeyError" in message)  # the traceback is shown
    assert not (tmp_path / "r/notebooks/01_good.ipynb").exists()


WRITE = """# %%
import os
import time

(run.out / "{name}").parent.mkdir(parents=True, exist_ok=True)
(run.out / "{name}").write_text(f"{{time.time()}} {{os.environ['OMP_NUM_THREADS']}}")
"""
WAIT = """# %%
import time

until = time.time() + {seconds}
while time.time() < until and not (run.out / "{name}").exists():
    time.sleep(0.1)
assert (run.out / "{name}").exists()
"""


def test_two_at_a_time_and_what_trains_in_its_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """01 waits for 00 and 00 for 01, so they run together; 03 needs what 02 made; the table is in order."""
    def waits(number: str, own: str, other: str) -> str:
        return small.text(number, "# %%\nkept = 1\n", WRITE.format(name=own), WAIT.format(name=other, seconds=60), small.RECORD)

    root = small.course(
        tmp_path / "p", nb00_a=waits("00", "a", "b"), nb01_b=waits("01", "b", "a"),
        nb02_c=small.text("02", "# %%\nkept = 1\n\nimport time\n\ntime.sleep(3)\n", WRITE.format(name="c"), small.RECORD),
        nb03_d=small.text("03", "# %%\nkept = 1\n", WAIT.format(name="c", seconds=0), small.RECORD))
    before = os.getcwd()
    assert run(notebooks=root / "notebooks", out=tmp_path / "r", device="cpu") == 0
    assert os.getcwd() == before
    assert (tmp_path / "r/figures/a").read_text().split()[1] == str(max(1, (os.cpu_count() or 1) // 2))
    table = (tmp_path / "r/summary.txt").read_text()
    assert [line[:2] for line in table.splitlines()] == ["no", "00", "01", "02", "03", "al"]
    assert "[4/4]" in capsys.readouterr().out


def test_a_failing_notebook_stops_the_one_beside_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = small.text("01", WAIT.format(name="started", seconds=60), "# %%\nraise KeyError('lost')\n")
    endless = small.text("02", WRITE.format(name="started"), WAIT.format(name="never", seconds=600))
    root = small.course(tmp_path / "p", nb00_good=small.good(), nb01_bad=bad, nb02_endless=endless)
    began = time.monotonic()
    assert run(notebooks=root / "notebooks", out=tmp_path / "r", device="cpu") == 1
    assert time.monotonic() - began < 120  # it does not wait for the endless one
    out, error = capsys.readouterr()
    assert "01_bad FAILED" in out and "KeyError: 'lost'" in error and "02_endless" not in error
    assert not (tmp_path / "r/notebooks/00_good.ipynb").exists() and not (tmp_path / "r/summary.txt").exists()


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT")
def test_ctrl_c_stops_all_kernels(tmp_path: Path) -> None:
    endless = {f"nb0{n}_endless": small.text(f"0{n}", WRITE.format(name=f"started{n}"), WAIT.format(name="never", seconds=600))
               for n in (0, 1)}
    root = small.course(tmp_path / "p", **endless)
    # A job in the background may ignore SIGINT, and hands that down.
    command = ("import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
               "from itersr.lab.reproduce import run; "
               "sys.exit(run(notebooks=sys.argv[1], out=sys.argv[2], device='cpu'))")
    process = subprocess.Popen([sys.executable, "-c", command, str(root / "notebooks"), str(tmp_path / "r")],
                               stderr=subprocess.PIPE, text=True, cwd=ROOT)
    wait_for(lambda: all((tmp_path / f"r/figures/started{n}").exists() for n in (0, 1)))
    kernels = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in process.communicate(timeout=60)[1]
    assert len(kernels) >= 2
    wait_for(lambda: not any(kernel.is_running() for kernel in kernels))


def wait_for(happens: Callable[[], bool], seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < until
        time.sleep(0.2)


def test_the_environment_stands_in_for_parameters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"TIER": "tiny", "SEED": "5", "DEVICE": "cpu", "DATA": str(tmp_path), "OUT": str(tmp_path / "o")}
    for name, value in settings.items():
        monkeypatch.setenv(f"ITERSR_{name}", value)
    one = start(None)
    assert (one.tier.name, one.seed, one.device.type, one.data, one.out) == ("tiny", 5, "cpu", tmp_path, tmp_path / "o")
    with kernel_environment(ITERSR_OUT="there"):
        assert {name for name in os.environ if name.startswith("ITERSR_")} == {"ITERSR_OUT"}
    assert os.environ["ITERSR_SEED"] == "5"


def test_generators_repeat_and_streams_differ(tmp_path: Path) -> None:
    one, same, other = (start(tmp_path, device="cpu", seed=seed) for seed in (1, 1, 2))
    first = torch.rand(4, generator=one.generator())
    assert torch.equal(first, torch.rand(4, generator=one.generator()))
    assert torch.equal(first, torch.rand(4, generator=same.generator()))
    assert not torch.equal(first, torch.rand(4, generator=other.generator()))
    assert not torch.equal(first, torch.rand(4, generator=one.generator(stream=1)))


def test_record_takes_tensors_and_refuses_what_says_nothing(tmp_path: Path) -> None:
    one = start(tmp_path)
    path = one.record("a line", curve=torch.tensor([1.0, 2.0]), count=torch.tensor(3), names=["a"])
    assert json.loads(path.read_text())["results"] == {"curve": [1.0, 2.0], "count": 3, "names": ["a"]}
    for measured, results in [("", {"a": 1}), ("a line", {}), ("a line", {"psnr": float("nan")})]:
        with pytest.raises(ValueError, match="notebook 04 records|Out of range float"):
            one.record(measured, **results)
    with pytest.raises(AttributeError, match="'Run' object"):
        one.record("a line", run=one)


def test_figures_are_png_named_after_the_notebook(tmp_path: Path) -> None:
    path = start(tmp_path).save_figure(Figure(figsize=(1, 1)), "masks")
    assert path == tmp_path / "04_masks.png" and path.read_bytes().startswith(b"\x89PNG")
