"""Folders of weights: which one a name means, and how they are written."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from safetensors.torch import save_file
from torch import nn

from itersr import cli, weights
from itersr.config import tier
from itersr.disk import WriteError


def test_files_have_ordinary_permissions_and_safetensors_own_bytes(tmp_path: Path) -> None:
    module = nn.Linear(2, 3)
    weights.save(tmp_path / "made", {"vqgan": module}, tier("smoke"))
    (tmp_path / "plain").write_bytes(b"")
    for path in (tmp_path / "made").iterdir():
        assert stat.S_IMODE(os.stat(path).st_mode) == stat.S_IMODE(os.stat(tmp_path / "plain").st_mode), path
    save_file({name: value.half() for name, value in module.state_dict().items()}, tmp_path / "own.safetensors")
    assert (tmp_path / "made" / "vqgan.safetensors").read_bytes() == (tmp_path / "own.safetensors").read_bytes()


def test_a_failing_write_leaves_the_weights_that_were_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights.save(tmp_path, {"vqgan": nn.Linear(2, 3)}, tier("smoke"))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteError, match="No space left"):
        weights.save(tmp_path, {"vqgan": nn.Linear(2, 3)}, tier("smoke"))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_folder_with_the_name_of_a_tier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert weights.locate(Path("tiny")) == weights.locate("tiny") == weights.SHIPPED / "tiny"
    weights.save(Path("tiny"), {}, tier("smoke"))
    assert weights.locate("tiny") == weights.SHIPPED / "tiny" and weights.locate(Path("tiny")) == Path("tiny")
    args = cli.parser().parse_args(["upscale", "x.png", "--weights", "tiny", "--device", "cpu"])
    with pytest.raises(weights.WeightsError, match=r"^tiny.vqgan.safetensors: no weights of this network .No such file"):
        cli._model(args)
    args = cli.parser().parse_args(["upscale", "x.png", "--tier", "tiny", "--device", "cpu"])
    assert cli._model(args).tier.name == "tiny"
