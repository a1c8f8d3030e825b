"""`reproduce` on small notebooks: what it runs, what it refuses, what it reports."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

from itersr.lab.reproduce import Run, kernel_environment, run
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
    assert run(tier="smoke", device="cpu", notebooks=root / "notebooks", out=tmp_path / "r") == 0
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
    assert run(notebooks=root / "notebooks", out=tmp_path / "r", timeout=timeout, device="cpu") == 1
    error = capsys.readouterr().err
    assert f"notebook 00_bad failed in cell [{4 if message == 'need both' else 3}]" in error and message in error
    assert "00_bad.ipynb" in error and "\x1b" not in error
    assert ("in broken()" in error) == ("KeyError" in message)  # the traceback is shown
    assert not (tmp_path / "r/notebooks/01_good.ipynb").exists()


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
