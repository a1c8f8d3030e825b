"""`itersr upscale` around the model: names, kinds of pictures, and bad luck of every sort. The model is a bicubic stand-in."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from itersr import cli, disk, pictures
from itersr.pictures import Meta, Photo
from itersr.upscaling.files import Options, upscale_files
from itersr.upscaling.read import ImageError, read
from itersr.upscaling.write import write
from tests.benchmarks.bench_color import drift

ROOT = Path(__file__).parents[1]


class Bicubic:
    """Stands in for ITER: the same call, no weights."""

    tier = SimpleNamespace(scale=4)

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def upscale(self, image: Tensor, *, seed: int = 0, **settings: Any) -> Tensor:
        settings.pop("progress", None)
        self.calls.append({"seed": seed, **settings})
        return F.interpolate(image, scale_factor=4, mode="bicubic", align_corners=False).clamp(0, 1)

    def restore(self, lq: Tensor, *, keep_steps: bool, **settings: Any) -> Any:
        return SimpleNamespace(image=self.upscale(lq, **settings))


class OutOfMemory(Bicubic):
    """Fits tiles of at most `fits` pixels."""

    def __init__(self, fits: int) -> None:
        super().__init__()
        self.fits = fits

    def upscale(self, image: Tensor, *, seed: int = 0, tile: int | None = None, **settings: Any) -> Tensor:
        result = super().upscale(image, seed=seed, tile=tile, **settings)
        if tile is None or tile > self.fits:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried …")
        return result


@pytest.fixture
def model() -> Bicubic:
    return Bicubic()


def picture(path: Path, mode: str = "RGB", size: tuple[int, int] = (20, 16), **save: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    image = Image.fromarray(pixels)
    (image.convert("RGB").convert(mode) if mode in ("P", "CMYK") else image.convert(mode)).save(path, **save)
    return path


def files(folder: Path) -> list[str]:
    """Every file below a folder, hidden ones too: nothing half-done may stay."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


# -------------------------------------------------------------------------------------------------------------- results


@pytest.mark.parametrize(
    ("mode", "source", "result", "back"),
    [
        ("RGB", "x.png", "x_out.png", "RGB"),
        ("L", "x.png", "x_out.png", "L"),
        ("1", "x.png", "x_out.png", "L"),
        ("LA", "x.png", "x_out.png", "LA"),
        ("RGBA", "x.png", "x_out.png", "RGBA"),
        ("P", "x.png", "x_out.png", "RGB"),
        ("P", "x.gif", "x_out.png", "RGB"),
        ("CMYK", "x.jpg", "x_out.jpg", "RGB"),
        ("L", "x.JPG", "x_out.jpg", "L"),
        ("RGBA", "x.webp", "x_out.webp", "RGBA"),
        ("RGB", "x.tif", "x_out.tif", "RGB"),
        ("RGB", "x.bmp", "x_out.bmp", "RGB"),
        ("RGB", "x.ppm", "x_out.png", "RGB"),
    ],
)
def test_every_kind_comes_out_four_times_as_large(
    tmp_path: Path, model: Bicubic, mode: str, source: str, result: str, back: str
) -> None:
    path = picture(tmp_path / source, mode, format="JPEG" if source.lower().endswith("jpg") else None)
    assert upscale_files(lambda: model, [path], tmp_path / "out") == []
    assert files(tmp_path / "out") == [result]
    with Image.open(tmp_path / "out" / result) as image:
        assert image.size == (80, 64) and image.mode == back


def test_an_object_before_nothing_gets_no_dark_rim(tmp_path: Path, model: Bicubic, smoke: Any) -> None:
    y, x = np.mgrid[0:48, 0:48]
    alpha = np.clip(16.5 - np.hypot(x - 24, y - 24), 0, 1)
    rgba = np.dstack([np.where(alpha[..., None] > 0, [250] * 3, 0), alpha * 255]).round().astype(np.uint8)
    Image.fromarray(rgba).save(tmp_path / "disc.png")
    assert upscale_files(lambda: model, [tmp_path / "disc.png"], tmp_path / "out") == []
    result = np.asarray(Image.open(tmp_path / "out" / "disc_out.png"))
    assert (result[result[..., 3] > 0][:, :3] >= 249).all()
    for big in (smoke.upscale(Image.fromarray(rgba)), smoke.upscale(rgba)):
        shown = np.asarray(big).astype(float)
        a = shown[..., 3:] / 255
        assert (shown[..., :3] * a + 255 * (1 - a)).mean(-1).min() > 235, "laid on white"


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (17, 31), (1, 50), (50, 1), (5, 3)])
def test_any_size_from_one_pixel_on(tmp_path: Path, model: Bicubic, size: tuple[int, int]) -> None:
    path = picture(tmp_path / "x.png", "RGBA", size)
    assert upscale_files(lambda: model, [path], tmp_path / "y.png") == []
    assert Image.open(tmp_path / "y.png").size == (size[0] * 4, size[1] * 4)


def test_16_bit_stays_16_bit_and_metadata_stays(tmp_path: Path, model: Bicubic) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[315] = 6, "somebody"
    deep = Photo(torch.rand(3, 16, 20), None, Meta(bits=16, exif=exif.tobytes()))
    write(deep, tmp_path / "x.png")
    assert upscale_files(lambda: model, [tmp_path / "x.png"], tmp_path / "y.png") == []
    again = read(tmp_path / "y.png")
    assert again.meta.bits == 16 and again.size == (80, 64), "turned upright (EXIF 6), then enlarged"
    assert again.meta.exif is not None and b"somebody" in again.meta.exif


@pytest.mark.parametrize(("suffix", "side"), [("webp", 4097), ("jpg", 16_376)])
def test_a_result_too_large_for_its_format_is_told_before_the_networks_run(
    tmp_path: Path, model: Bicubic, suffix: str, side: int
) -> None:
    path = picture(tmp_path / f"x.{suffix}", size=(side, 2))
    failures = upscale_files(lambda: model, [path], tmp_path / "out")
    assert "ends at" in failures[0].message and model.calls == []
    assert upscale_files(lambda: model, [path], tmp_path / "out", Options(scale=2)) == []


@pytest.mark.parametrize(("scale", "size"), [(4, (80, 64)), (2, (40, 32)), (3, (60, 48)), (1.5, (30, 24)), (6, (120, 96))])
def test_other_scales_are_reached_by_resizing(
    tmp_path: Path, model: Bicubic, scale: float, size: tuple[int, int]
) -> None:
    path = picture(tmp_path / "x.png", "RGBA")
    upscale_files(lambda: model, [path], tmp_path / "y.png", Options(scale=scale))
    assert Image.open(tmp_path / "y.png").size == size


def test_settings_and_seed_reach_the_model(tmp_path: Path, model: Bicubic) -> None:
    path = picture(tmp_path / "x.png")
    upscale_files(lambda: model, [path], tmp_path / "y.png", Options(seed=7, tile=64, settings={"alpha": 0.3, "steps": 2}))
    assert model.calls == [{"seed": 7, "alpha": 0.3, "steps": 2, "tile": 64}]


# ---------------------------------------------------------------------------------------------------------------- names


def test_folders_are_mirrored_and_options_name_the_results(tmp_path: Path, model: Bicubic) -> None:
    picture(tmp_path / "in" / "a.png")
    picture(tmp_path / "in" / "sub" / "b.jpg")
    options = Options(suffix="x4", ext="webp")
    assert upscale_files(lambda: model, [tmp_path / "in"], tmp_path / "out", options) == []
    assert files(tmp_path / "out") == ["a_x4.webp", "sub/b_x4.webp"]
    assert upscale_files(lambda: model, [tmp_path / "in"], tmp_path / "same", Options(suffix="")) == []
    assert files(tmp_path / "same") == ["a.png", "sub/b.jpg"]


def test_results_inside_the_input_folder_are_not_upscaled_again(tmp_path: Path, model: Bicubic) -> None:
    picture(tmp_path / "a.png")
    for _ in range(2):
        upscale_files(lambda: model, [tmp_path], tmp_path / "results", Options(force=True))
    assert files(tmp_path) == ["a.png", "results/a_out.png"]


@pytest.mark.parametrize("suffix", ["out", ""])
def test_results_beside_their_inputs_are_not_upscaled_again(tmp_path: Path, model: Bicubic, suffix: str) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / f"a{suffix and '_out'}_trace").mkdir()
    picture(tmp_path / f"a{suffix and '_out'}_trace" / "00_start.png")
    before = set(files(tmp_path))
    for _ in range(2):
        failures = upscale_files(lambda: model, [tmp_path], tmp_path, Options(suffix=suffix, ext="webp"))
    assert set(files(tmp_path)) - before == {"a_out.webp" if suffix else "a.webp"} and len(model.calls) == 1
    assert len(failures) == 1 and "exists already" in failures[0].message


def test_a_result_may_lie_above_the_input_folder(tmp_path: Path, model: Bicubic) -> None:
    picture(tmp_path / "in" / "a.png")
    assert upscale_files(lambda: model, [tmp_path / "in"], tmp_path) == []
    assert files(tmp_path) == ["a_out.png", "in/a.png"]


def test_an_existing_output_is_kept_unless_forced(tmp_path: Path, model: Bicubic) -> None:
    path = picture(tmp_path / "x.png")
    (tmp_path / "y.png").write_bytes(b"mine")
    failures = upscale_files(lambda: model, [path], tmp_path / "y.png")
    assert len(failures) == 1 and failures[0].usage and "exists already; use --force" in failures[0].message
    assert (tmp_path / "y.png").read_bytes() == b"mine" and model.calls == []
    assert upscale_files(lambda: model, [path], tmp_path / "y.png", Options(force=True)) == []
    assert Image.open(tmp_path / "y.png").size == (80, 64)


def test_a_stopped_batch_goes_on(tmp_path: Path, model: Bicubic, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a.png", "b.png", "sub/c.png"):
        picture(tmp_path / "in" / name)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a_out.png").write_bytes(b"done")
    with caplog.at_level("INFO", "itersr"):
        assert upscale_files(lambda: model, [tmp_path / "in"], tmp_path / "out", Options(skip_existing=True)) == []
    assert (tmp_path / "out" / "a_out.png").read_bytes() == b"done" and len(model.calls) == 2
    assert "1 skipped: their results exist" in caplog.messages
    place = tmp_path / "in" / "sub"
    failures = upscale_files(lambda: model, [place], place, Options(skip_existing=True, suffix=""))
    assert "its own result" in failures[0].message, "an input is no result of itself"


def test_a_folder_that_cannot_be_made_is_told_by_the_name_of_the_result(
    tmp_path: Path, model: Bicubic, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    picture(tmp_path / "in" / "sub" / "x.png")
    monkeypatch.setattr(Path, "mkdir", refused)
    (failure,) = upscale_files(lambda: model, [tmp_path / "in"], tmp_path / "out")
    assert failure.message.startswith(str(tmp_path / "out" / "sub" / "x_out.png: cannot be written")) and not failure.usage


def test_a_large_photo_shows_its_tiles(tmp_path: Path, smoke: Any, capsys: pytest.CaptureFixture[str]) -> None:
    path = picture(tmp_path / "large.png", size=(80, 64))
    assert upscale_files(lambda: smoke, [path], tmp_path / "y.png", Options(tile=16, save_trace=True), progress=True) == []
    err = capsys.readouterr().err
    assert "large.png:" in err and "tile" in err and "image/s" not in err
    for settings in ({}, {"policy": "topk"}, {"tile": 0}):
        told: list[tuple[int, int]] = []
        smoke.restore(torch.rand(1, 3, 64, 80), progress=lambda *now, told=told: told.append(now), **{"tile": 16, **settings})
        assert [done for done, _ in told] == list(range(len(told))) and all(done < total for done, total in told)


def test_an_input_is_never_overwritten(tmp_path: Path, model: Bicubic) -> None:
    path = picture(tmp_path / "x.png")
    before = path.read_bytes()
    failures = upscale_files(lambda: model, [path], tmp_path, Options(suffix="", force=True))
    assert "its own result" in failures[0].message and path.read_bytes() == before


def test_an_input_is_not_overwritten_by_the_result_of_another(tmp_path: Path, model: Bicubic) -> None:
    first, second = picture(tmp_path / "a.png"), picture(tmp_path / "a_out.png", size=(9, 9))
    before = second.read_bytes()
    (failure,) = upscale_files(lambda: model, [first, second], tmp_path, Options(force=True))
    assert failure.message.startswith(f"{second}: would be overwritten by the result of {first}") and failure.usage
    assert second.read_bytes() == before and files(tmp_path) == ["a.png", "a_out.png", "a_out_out.png"]


def test_what_cannot_be_made_is_told_before_the_first_picture(
    tmp_path: Path, model: Bicubic, caplog: pytest.LogCaptureFixture
) -> None:
    """A name, an existing file, a trace that is none: all are told before a picture is computed."""
    place = tmp_path / "in"
    for name in ("a.png", "there.png", "traced.png", "n" * 250 + ".png"):
        picture(place / name)
    picture(tmp_path / "out" / "there_out.png")
    (tmp_path / "out" / "traced_out_trace").mkdir()
    (tmp_path / "out" / "traced_out_trace" / "mine.txt").write_text("mine")

    class Late(Bicubic):
        def restore(self, *_: Any, **__: Any) -> Any:
            assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 3
            raise RuntimeError("reached")

    failures = upscale_files(Late, [place], tmp_path / "out", Options(save_trace=True))
    said = [failure.message.rpartition("/")[2] for failure in failures]
    for start in ("there_out.png: exists already", "traced_out_trace: exists and holds no trace", "a.png: reached"):
        assert any(message.startswith(start) for message in said), said
    assert any("too long" in message for message in said) and len(said) == 4
    failures = upscale_files(Late, [place / ("n" * 250 + ".png")], tmp_path / "new" / "folder")
    assert "too long" in failures[0].message and not (tmp_path / "new").exists()


def test_a_folder_that_may_not_be_written_to_is_told_before_the_networks_run(
    tmp_path: Path, model: Bicubic, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = picture(tmp_path / "x.png")
    monkeypatch.setattr(os, "access", lambda *_: False)
    (failure,) = upscale_files(lambda: model, [path], tmp_path / "out")
    assert "Permission denied" in failure.message and not failure.usage and model.calls == []


def test_too_much_exif_for_jpeg_is_told_before_the_networks_run(tmp_path: Path, model: Bicubic) -> None:
    exif = Image.Exif()
    exif[0x8769] = {0x927C: bytes(70_000)}  # a camera's own notes
    path = picture(tmp_path / "x.png", exif=exif)
    (failure,) = upscale_files(lambda: model, [path], tmp_path / "out", Options(ext="jpg"))
    assert "of EXIF, JPEG ends at 65,533; write PNG or TIFF" in failure.message and model.calls == []
    assert upscale_files(lambda: model, [path], tmp_path / "out") == []


@pytest.mark.parametrize("call", [[], ["upscale"], ["upscale", "x.png", "--ext", "gif"], ["train", "nothing"]])
def test_what_the_parser_refuses_is_one_line(call: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(call)
    assert stopped.value.code == 2 and len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    ("inputs", "output", "options", "said"),
    [
        (["a.png", "b.png"], "y.png", Options(), "would both become"),
        (["a.png", "sub/a.png"], "out", Options(), "would both become"),
        (["a.png", "a.jpg"], "out", Options(ext="png"), "would both become"),
        (["a.jpg", "a.png"], "out", Options(save_trace=True), "would both become"),
    ],
)
def test_calls_that_make_no_sense_are_refused_before_anything_runs(
    tmp_path: Path, model: Bicubic, inputs: list[str], output: str, options: Options, said: str
) -> None:
    for name in inputs:
        picture(tmp_path / name)
    before = files(tmp_path)
    with pytest.raises(ValueError, match=said):
        upscale_files(lambda: model, [tmp_path / name for name in inputs], tmp_path / output, options)
    assert files(tmp_path) == before and model.calls == []


# ------------------------------------------------------------------------------------------------------------- bad luck


def test_one_bad_file_costs_only_itself(tmp_path: Path, model: Bicubic, caplog: pytest.LogCaptureFixture) -> None:
    good = [picture(tmp_path / name) for name in ("a.png", "z.png")]
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "half.png").write_bytes(good[0].read_bytes()[:-300])
    (tmp_path / "page.jpg").write_text("<html>")
    inputs = [good[0], *(tmp_path / n for n in ("empty.png", "half.png", "page.jpg", "none.png")), good[1]]
    failures = upscale_files(lambda: model, inputs, tmp_path / "out")
    assert [f.source.name for f in failures] == ["empty.png", "half.png", "page.jpg", "none.png"]
    assert all(f.usage and "\n" not in f.message for f in failures)
    assert files(tmp_path / "out") == ["a_out.png", "z_out.png"]
    assert len([r for r in caplog.records if r.levelname == "ERROR"]) == 4


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes")
def test_odd_names_cost_only_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in" / "folder.png").mkdir(parents=True)
    (tmp_path / "in" / "nowhere.png").symlink_to("nothing")
    os.mkfifo(tmp_path / "in" / "pipe.png")
    for name in ("a.png", "n" * 250 + ".png", "line\nbreak.png", os.fsdecode(b"bytes_\xe9.png"), "z.png"):
        picture(tmp_path / "in" / name)
    log = tmp_path / "log.txt"
    monkeypatch.setattr(cli, "_model", lambda args: Bicubic())
    with open(log, "w", encoding="utf-8", errors="strict") as out:
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", out)
        assert cli.main(["upscale", str(tmp_path / "in"), "-o", str(tmp_path / "out")]) == 2
    made = ["a_out.png", os.fsdecode(b"bytes_\xe9_out.png"), "line\nbreak_out.png", "z_out.png"]
    assert files(tmp_path / "out") == made
    lines = log.read_text().splitlines()
    assert sum("too long" in line for line in lines) == 1 and len(lines) == 6, "a line a file, and one for what is left out"


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full")
def test_lines_that_cannot_be_printed_stop_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [picture(tmp_path / name) for name in ("a.png", "b.png")]
    monkeypatch.setattr(cli, "_model", lambda args: Bicubic())
    full = open("/dev/full", "w", buffering=1, encoding="utf-8")
    monkeypatch.setattr(sys, "stdout", full)
    assert cli.main(["upscale", *map(str, paths), "-o", str(tmp_path / "out")]) == 0
    assert files(tmp_path / "out") == ["a_out.png", "b_out.png"]
    with pytest.raises(OSError):
        full.close()


@pytest.mark.skipif(os.name != "posix", reason="pipes of POSIX")
def test_a_picture_may_come_through_a_pipe(tmp_path: Path, model: Bicubic) -> None:
    data = picture(tmp_path / "x.png").read_bytes()
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes(data))
    writer.start()
    assert upscale_files(lambda: model, [tmp_path / "pipe"], tmp_path / "y.png") == []
    writer.join()
    assert Image.open(tmp_path / "y.png").size == (80, 64)


def test_the_model_is_loaded_once_and_only_for_a_good_picture(tmp_path: Path) -> None:
    loads: list[int] = []

    def load() -> Bicubic:
        loads.append(1)
        return Bicubic()

    (tmp_path / "bad.png").write_bytes(b"x")
    upscale_files(load, [tmp_path / "bad.png"], tmp_path / "out")
    assert loads == []
    upscale_files(load, [picture(tmp_path / "a.png"), picture(tmp_path / "b.png")], tmp_path / "out")
    assert loads == [1]


@pytest.mark.parametrize(("fits", "tile", "tried"), [(64, None, [None, 64]), (64, 128, [128, 64])])
def test_out_of_memory_is_retried_once_with_a_smaller_tile(
    tmp_path: Path, fits: int, tile: int | None, tried: list[int | None], caplog: pytest.LogCaptureFixture
) -> None:
    model = OutOfMemory(fits)
    path = picture(tmp_path / "x.png", size=(256, 200))
    assert upscale_files(lambda: model, [path], tmp_path / "y.png", Options(tile=tile)) == []
    assert [call["tile"] for call in model.calls] == tried
    assert f"--tile {tried[-1]}" in caplog.text


def test_out_of_memory_twice_is_told_with_a_cure_and_the_rest_is_done(tmp_path: Path) -> None:
    class OnlySmall(OutOfMemory):
        def upscale(self, image: Tensor, *, seed: int = 0, tile: int | None = None, **settings: Any) -> Tensor:
            return Bicubic().upscale(image) if image.shape[-1] < 50 else super().upscale(image, seed=seed, tile=tile)

    model = OnlySmall(1)
    big, small = picture(tmp_path / "big.png", size=(512, 64)), picture(tmp_path / "small.png")
    failures = upscale_files(lambda: model, [big, small], tmp_path / "out")
    assert len(failures) == 1 and not failures[0].usage
    assert "big.png: out of memory" in failures[0].message and "--tile" in failures[0].message
    assert files(tmp_path / "out") == ["small_out.png"]


def test_ctrl_c_leaves_finished_files_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stopped(Bicubic):
        def upscale(self, image: Tensor, **settings: Any) -> Tensor:
            if self.calls:
                raise KeyboardInterrupt
            return super().upscale(image, **settings)

    paths = [picture(tmp_path / "in" / name) for name in ("a.png", "b.png", "c.png")]
    with pytest.raises(KeyboardInterrupt):
        model = Stopped()
        upscale_files(lambda: model, paths, tmp_path / "out")
    assert files(tmp_path / "out") == ["a_out.png"]
    stopped = Stopped()
    stopped.calls.append({})
    monkeypatch.setattr(cli, "_model", lambda args: stopped)
    assert cli.main(["upscale", str(paths[0]), "-o", str(tmp_path / "later")]) == 130
    assert files(tmp_path / "later") == []


def test_nan_from_the_model_is_not_written(tmp_path: Path) -> None:
    class Broken(Bicubic):
        def upscale(self, image: Tensor, **settings: Any) -> Tensor:
            return super().upscale(image, **settings) * float("nan")

    failures = upscale_files(lambda: Broken(), [picture(tmp_path / "x.png")], tmp_path / "out")
    assert "NaN" in failures[0].message and not failures[0].usage and files(tmp_path / "out") == []


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_folder_is_named(tmp_path: Path, model: Bicubic) -> None:
    path = picture(tmp_path / "x.png")
    (tmp_path / "locked").mkdir(mode=0o500)
    failures = upscale_files(lambda: model, [path], tmp_path / "locked" / "y.png")
    assert "Permission denied" in failures[0].message and not failures[0].usage


def test_a_folder_that_refuses_is_named(tmp_path: Path, model: Bicubic, monkeypatch: pytest.MonkeyPatch) -> None:
    """What root, who may write everywhere, cannot try out."""
    def refused(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    path = picture(tmp_path / "x.png")
    monkeypatch.setattr(disk, "open", refused, raising=False)
    failures = upscale_files(lambda: model, [path], tmp_path / "out")
    assert "Permission denied" in failures[0].message and not failures[0].usage and files(tmp_path / "out") == []


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path, model: Bicubic, monkeypatch: pytest.MonkeyPatch) -> None:
    path = picture(tmp_path / "x.png")

    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk.os, "fsync", full)
    failures = upscale_files(lambda: model, [path], tmp_path / "out")
    assert "No space left" in failures[0].message and not failures[0].usage and files(tmp_path / "out") == []


@pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")
def test_a_disk_that_ends_in_the_middle_of_a_file(tmp_path: Path) -> None:
    """For real: the process may write 20 kB a file, the result needs more. Nothing stays, the smaller picture is done."""
    code = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
from tests.test_upscale import Bicubic
from itersr import cli
cli._model = lambda args: Bicubic()
sys.exit(cli.main(sys.argv[1:]))
"""
    paths = [picture(tmp_path / "big.png", size=(60, 60)), picture(tmp_path / "small.png", size=(5, 5))]
    # -B: or the limit would cut the bytecode that Python keeps of modules, and each later process would stumble over it
    command = [sys.executable, "-B", "-c", code, "upscale", *map(str, paths), "-o", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and "big_out.png: cannot be written" in done.stderr
    assert files(tmp_path / "out") == ["small_out.png"]


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_ctrl_c_in_a_running_process(tmp_path: Path) -> None:
    code = """
import sys, time
from tests.test_upscale import Bicubic
from itersr import cli
from itersr.upscaling import write
cli._model = lambda args: Bicubic()
def slow(photo, file_format, handle, quality):
    handle.write(b"half a picture")
    handle.flush()
    print("writing", file=sys.stderr, flush=True)
    time.sleep(60)
write._encode = slow
sys.exit(cli.main(sys.argv[1:]))
"""
    command = [sys.executable, "-c", code, "upscale", str(picture(tmp_path / "x.png")), "-o", str(tmp_path / "out")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT,
                               # a job in a shell's background has SIGINT ignored, and hands that on
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    assert process.stderr is not None and process.stderr.readline() == "writing\n"
    process.send_signal(signal.SIGINT)
    assert process.stderr.read() == "itersr: stopped\n" and process.wait(30) == 130
    assert files(tmp_path / "out") == []


# ------------------------------------------------------------------------------------------------------ the model itself


@pytest.fixture(scope="module")
def smoke() -> Any:
    from itersr.model import ITER

    return ITER.from_pretrained("smoke", device="cpu")


@pytest.mark.parametrize(("h", "w"), [(1, 1), (1, 5000), (5, 3)])
def test_the_model_takes_any_size(smoke: Any, h: int, w: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (h, w, 3), dtype=np.uint8)
    result = smoke.upscale(image, steps=1)
    assert result.shape == (4 * h, 4 * w, 3) and result.dtype == np.uint8


def test_every_kind_of_picture_comes_back_from_the_model_as_it_came(smoke: Any) -> None:
    rgba = np.random.default_rng(0).integers(1, 256, (8, 12, 4), dtype=np.uint8)
    plain = smoke.upscale(rgba[..., :3], steps=1)
    assert plain.shape == (32, 48, 3)
    for x in (Image.fromarray(rgba), rgba, torch.from_numpy(rgba[..., :3].copy()).permute(2, 0, 1), rgba[..., :3] / 255.0):
        y = smoke.upscale(x, steps=1)
        assert type(y) is type(x) or (isinstance(x, Image.Image) and isinstance(y, Image.Image) and y.mode == x.mode)
        values = np.asarray(y.permute(1, 2, 0) if isinstance(y, Tensor) else y).astype(np.float64)[..., :3]
        assert np.abs(values * (255 if values.max() <= 1 else 1) - plain).max() <= 1


def test_a_tensor_that_takes_part_in_training_can_be_upscaled(smoke: Any) -> None:
    x = torch.rand(1, 3, 8, 8, requires_grad=True)
    assert torch.equal(smoke.upscale(x, steps=1), smoke.upscale(x.detach(), steps=1))


@pytest.mark.parametrize(
    ("x", "settings", "error", "said"),
    [
        (torch.full((3, 8, 8), float("nan")), {}, ValueError, "from nan to nan"),
        (torch.zeros(3, 8, 8, dtype=torch.int64), {}, ValueError, "dtype int64, needed uint8"),
        (np.full((8, 8, 3), 200.0), {}, ValueError, "divide by 255"),
        (np.zeros((8, 0, 3)), {}, ValueError, "at least one pixel"),
        ("photo.png", {}, TypeError, "is a str, needed a PIL image"),
        (torch.zeros(3, 8, 8), {"color_fix": "x"}, ValueError, "there are none, wavelet, adain"),
        (torch.zeros(3, 8, 8), {"tile": -1}, ValueError, "tile = -1"),
        (torch.zeros(3, 8, 8), {"alpha": 2}, ValueError, "alpha = 2"),
    ],
)
def test_the_model_names_what_it_cannot_use(
    smoke: Any, x: Any, settings: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        smoke.upscale(x, **settings)


def test_color_fix_and_precision_reach_the_result(tmp_path: Path, smoke: Any) -> None:
    from itersr.model import ITER

    path = picture(tmp_path / "x.png", size=(24, 16))
    enlarged = F.interpolate(read(path).tensor[None], scale_factor=4)
    made = {}
    for name, options in {
        "plain": Options(color_fix="none"), "fixed": Options(), "traced": Options(save_trace=True),
        "half": Options(precision="bf16"),
    }.items():  # fmt: skip
        model = ITER(smoke.tier)
        model.load_state_dict(smoke.state_dict())
        assert upscale_files(lambda: model.ready("cpu"), [path], tmp_path / f"{name}.png", options) == []  # noqa: B023
        assert {p.dtype for p in model.parameters()} == {torch.bfloat16 if name == "half" else torch.float32}
        made[name] = read(tmp_path / f"{name}.png").tensor[None]
    assert torch.equal(made["fixed"], made["traced"]) and not torch.equal(made["fixed"], made["plain"])
    assert not torch.equal(made["half"], made["fixed"])
    assert drift(made["fixed"], enlarged, 16) < drift(made["plain"], enlarged, 16)


def test_every_option_of_the_command_reaches_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, loaded = Bicubic(), []
    monkeypatch.setattr(cli, "_model", lambda args: loaded.append(args.device) or model)
    path = picture(tmp_path / "x.png")
    options = "--steps 3 --alpha 0.25 --policy topk --schedule linear --temperature 0.5 --seed 9 --tile 64 --preset released"
    options += " --scale 2 --suffix x2 --ext jpg --device cpu --color-fix adain"
    assert cli.main(["upscale", str(path), "-o", str(tmp_path / "out"), *options.split()]) == 0
    assert model.calls == [{
        "seed": 9, "steps": 3, "alpha": 0.25, "policy": "topk", "schedule": "linear", "temperature": 0.5, "preset": "released",
        "tile": 64,
    }]  # fmt: skip
    assert loaded == ["cpu"] and Image.open(tmp_path / "out" / "x_x2.jpg").size == (40, 32)


# ---------------------------------------------------------------------------------------------------------------- trace


def test_the_trace_shows_every_step(tmp_path: Path) -> None:
    from itersr.config import tier
    from itersr.model import ITER

    torch.manual_seed(0)
    iter_ = ITER(tier("smoke")).eval().requires_grad_(False)
    path = picture(tmp_path / "x.png", size=(21, 18))
    options = Options(save_trace=True, color_fix="none", settings={"steps": 3, "alpha": 1.0})
    assert upscale_files(lambda: iter_, [path], tmp_path / "out", options) == []
    made = files(tmp_path / "out")
    steps = ["t3", "t2", "t1"]
    names = ["00_start.png", "00_mask.png"] + [f"{i}_{n}.png" for i, s in enumerate(steps, 1) for n in (f"0{i}", s)]
    assert "x_out.png" in made and len([n for n in made if n.endswith("_mask.png")]) == 4, names
    folder = tmp_path / "out" / "x_out_trace"
    for name in files(folder):
        if name.endswith(".png"):
            assert Image.open(folder / name).size == (84, 72), name
    last = np.asarray(Image.open(folder / "03_t1.png"))
    assert np.array_equal(last, np.asarray(Image.open(tmp_path / "out" / "x_out.png")))
    assert (np.asarray(Image.open(folder / "03_mask.png")) == 255).all(), "the last step keeps every token"
    failures = upscale_files(lambda: iter_, [path], tmp_path / "out", options)
    assert "exists already" in failures[0].message
    assert upscale_files(lambda: iter_, [path], tmp_path / "out", Options(force=True, save_trace=True)) == []
    (folder / "trace.json").rename(folder / "mine.json")
    failures = upscale_files(lambda: iter_, [path], tmp_path / "out", Options(force=True, save_trace=True))
    assert len(failures) == 1 and (folder / "mine.json").exists(), "no trace of ours: not replaced"


# ----------------------------------------------------------------------------------------------------------------- fuzz


def test_damaged_tiff_says_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = picture(tmp_path / "x.tif", size=(64, 64), compression="tiff_adobe_deflate")
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 200] = bytes(200)
    path.write_bytes(data)
    assert cli.main(["upscale", str(path), "-o", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1 and "x.tif" in err, err


def test_a_png_whose_pixels_are_damaged_is_refused(tmp_path: Path) -> None:
    write(Photo(torch.rand(3, 8, 8), None, Meta(bits=16)), tmp_path / "x.png")
    data = (tmp_path / "x.png").read_bytes()
    end = data.index(b"IEND") - 8  # before it: the checksum of the pixels, 4 bytes, and that of the chunk, 4 more
    body = data[data.index(b"IDAT") : end - 4] + bytes(4)
    (tmp_path / "x.png").write_bytes(data[: data.index(b"IDAT")] + body + zlib.crc32(body).to_bytes(4, "big") + data[end + 4 :])
    with pytest.raises(ImageError, match="broken data stream"):
        read(tmp_path / "x.png")


# ------------------------------------------------------------------------------------------------------------------ CLI


def itersr(*args: str | Path, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **kwargs.pop("env", {})}
    command = [sys.executable, "-m", "itersr", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=env, **kwargs)


def test_help_needs_no_torch() -> None:
    code = "import sys; from itersr import cli; cli.parser(); print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.stdout.split() == ["False", "False"], done.stderr
    for command in ("upscale", "train", "evaluate", "degrade", "reproduce"):
        with pytest.raises(SystemExit) as stopped:
            cli.main([command, "--help"])
        assert stopped.value.code == 0


@pytest.mark.parametrize("command", ["upscale", "train", "evaluate", "degrade", "reproduce"])
def test_help_pages_are_whole(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    page = capsys.readouterr().out
    assert "%%" not in page and "%(" not in page and "None" not in page
    (commands,) = [action for action in cli.parser()._actions if action.dest == "command"]
    own = commands.choices[command]  # type: ignore[index]
    assert own.description and all(action.help for action in own._actions)


def test_methods_may_be_named_together_or_one_by_one() -> None:
    args = cli.parser().parse_args(["evaluate", "--outputs", "A=a", "B=b", "--outputs", "C=c"])
    assert args.outputs == ["A=a", "B=b", "C=c"]


def test_a_device_that_is_not_there_is_told_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = picture(tmp_path / "x.png")
    for command in (["upscale", path], ["evaluate", "--outputs", f"A={tmp_path}", "--metrics", "niqe"]):
        for device in ("banana", "cuda:99"):
            code, out, err = run_cli(capsys, *command, "--device", device)
            assert code == 2 and device in err and len(err.splitlines()) == 1 and out == ""


def test_choices_are_those_of_the_package() -> None:
    from itersr import masking

    assert cli.COLOR_FIXES == pictures.COLOR_FIXES
    assert cli.POLICIES == tuple(masking.POLICIES)


def run_cli(capsys: pytest.CaptureFixture[str], *args: str | Path) -> tuple[int, str, str]:
    code = cli.main([str(a) for a in args])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize("content", [None, b"", b"not an image", b"\x89PNG\r\n\x1a\n" + b"\0" * 30])
def test_bad_input_is_one_line_and_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "x.png").write_bytes(content)
    code, out, err = run_cli(capsys, "upscale", tmp_path / "x.png", "-o", tmp_path / "y.png")
    assert code == 2 and len(err.splitlines()) == 1 and str(tmp_path / "x.png") in err and "; " in err
    assert out == "" and not (tmp_path / "y.png").exists()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--alpha", "2"], "alpha = 2.0"),
        (["--steps", "0"], "steps = 0"),
        (["--scale", "0"], "--scale 0"),
        (["--tile", "-1"], "tile = -1"),
        (["--weights", "nowhere"], "nowhere"),
        (["--published", "nowhere"], "needed in this folder are ITER_swinvqgan.pth"),
    ],
)
def test_wrong_options_are_one_line_and_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], args: list[str], said: str
) -> None:
    path = picture(tmp_path / "x.png")
    code, _, err = run_cli(capsys, "upscale", path, "-o", tmp_path / "y.png", *args)
    assert code == 2 and len(err.splitlines()) == 1 and said in err and not (tmp_path / "y.png").exists()


def test_the_command_upscales_with_a_folder_of_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from itersr.config import tier
    from itersr.model import ITER

    torch.manual_seed(0)
    ITER(tier("smoke")).save(tmp_path / "weights")
    path, result = picture(tmp_path / "x.png", "LA", (16, 16)), tmp_path / "out" / "x_out.png"
    command = ["upscale", path, tmp_path / "none.png", "-o", tmp_path / "out", "--weights", tmp_path / "weights"]
    command += ["--steps", "2", "--seed", "1", "--device", "cpu"]
    done = itersr(*command)
    assert done.returncode == 2, "one of the two does not exist"
    assert len(done.stderr.splitlines()) == 1 and "none.png" in done.stderr
    assert done.stdout.startswith(f"{path} -> {result}")
    with Image.open(result) as image:
        assert image.size == (64, 64) and image.mode == "LA"
        first = np.asarray(image)
    code, out, err = run_cli(capsys, *command)
    assert code == 2 and "exists already" in err and out == ""
    code, out, err = run_cli(capsys, *command, "--force", "-q")
    assert code == 2 and len(err.splitlines()) == 1 and out == ""
    assert np.array_equal(first, np.asarray(Image.open(result))), "the same seed, the same picture"
    code, _, _ = run_cli(capsys, "upscale", path, "-o", tmp_path / "y.png", *command[5:])
    assert code == 0 and np.array_equal(first, np.asarray(Image.open(tmp_path / "y.png"))), "whatever else is in the batch"


def test_evaluate_prints_a_table_and_writes_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import json

    pytest.importorskip("pyiqa", reason="pyiqa is not installed")
    for name in ("a", "b", "c"):
        picture(tmp_path / "hq" / f"{name}.png", size=(40, 32))
        picture(tmp_path / "same" / f"{name}_ours.png", size=(40, 32))
        (tmp_path / "grey").mkdir(exist_ok=True)
        Image.new("RGB", (40, 32), "grey").save(tmp_path / "grey" / f"{name}.png")
    code, out, err = run_cli(
        capsys, "evaluate", "--outputs", f"Same={tmp_path / 'same'}", f"Grey={tmp_path / 'grey'}",
        "--reference", tmp_path / "hq", "--metrics", "psnr,ssim,gmsd", "--json", tmp_path / "made" / "out.json",
    )  # fmt: skip
    assert code == 0, err
    lines = out.splitlines()
    assert "psnr ↑" in lines[0] and "gmsd ↓" in lines[0] and lines[1].startswith("Same") and lines[2].startswith("Grey")
    assert any("Y of YCbCr" in line for line in lines)
    record = json.loads((tmp_path / "made" / "out.json").read_text())
    assert record["summary"]["Same"]["ssim"]["mean"] == pytest.approx(1) and record["summary"]["Same"]["ssim"]["n"] == 3
    assert record["summary"]["Grey"]["psnr"]["mean"] < 20 and len(record["rows"]) == 2 * 3 * 3
    for args, said in (
        (["--outputs", "nothing"], "must be NAME=DIR"),
        (["--outputs", f"A={tmp_path / 'none'}", "--metrics", "niqe"], "is not a folder"),
        (["--outputs", f"A={tmp_path / 'grey'}", "--metrics", "psnr"], "add --reference"),
        (["--outputs", f"A={tmp_path / 'grey'}", "--metrics", "fid"], "'fid'"),
    ):
        code, out, err = run_cli(capsys, "evaluate", *args)
        assert code == 2 and said in err and len(err.splitlines()) == 1, err


def test_results_are_compared_with_the_original_of_the_same_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pyiqa", reason="pyiqa is not installed")
    from itersr.lab.evaluation import pair

    for i, name in enumerate(("a/1.png", "b/1.png", "a/2.png")):
        for place in ("ref", "out") if i < 2 else ("ref",):
            (tmp_path / place / name).parent.mkdir(parents=True, exist_ok=True)
            Image.effect_noise((32, 32), 20 + 20 * i).save(tmp_path / "ref" / name)
            path = tmp_path / place / name
            path.write_bytes((tmp_path / "ref" / name).read_bytes())
    ref, out = tmp_path / "ref", tmp_path / "out"
    (out / "b/1.png").rename(out / "b/1_out.png")
    assert pair(out, ref) == {ref / "a/1.png": out / "a/1.png", ref / "a/2.png": None, ref / "b/1.png": out / "b/1_out.png"}
    command = ["evaluate", "--outputs", f"A={out}", "--reference", ref, "--metrics", "psnr"]
    code, said, err = run_cli(capsys, *command)
    assert code == 0 and "80.000" in said.splitlines()[1] and err.count("\n") == 1
    assert "no result for 1 of the references" in err and str(ref / "a/2.png") in err

    def refused(made: str, what: str) -> None:
        path = picture(tmp_path / made)
        code, _, err = run_cli(capsys, *command)
        path.unlink()
        assert code == 2 and what in err and str(path) in err and len(err.splitlines()) == 1, err

    refused("out/1.png", "has no reference")
    refused("out/c/1.png", "has no reference")
    refused("out/a/1_out.png", "has the same reference as")
    (out / "b/1_out.png").rename(out / "b/1_out.webp")
    refused("ref/b/1.jpg", "has the references")
    (out / "b/1_out.webp").rename(out / "b/1_out.jpg")
    picture(ref / "b/1.jpg")
    assert pair(out, ref)[ref / "b/1.jpg"] == out / "b/1_out.jpg", "the suffix decides between two of one name"


def test_degrade_makes_pairs_that_do_not_depend_on_their_company(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import json

    from itersr import degradation

    for name in ("a", "b"):
        picture(tmp_path / "in" / f"{name}.png", size=(70, 66))
    code, _, err = run_cli(capsys, "degrade", tmp_path / "in", "-o", tmp_path / "both", "--seed", "3")
    assert code == 0, err
    assert files(tmp_path / "both") == ["draws.jsonl", "hq/a.png", "hq/b.png", "lq/a.png", "lq/b.png"]
    assert Image.open(tmp_path / "both/hq/a.png").size == (68, 64) and Image.open(tmp_path / "both/lq/a.png").size == (17, 16)
    run_cli(capsys, "degrade", tmp_path / "in" / "b.png", "-o", tmp_path / "one", "--seed", "3")
    assert (tmp_path / "both/lq/b.png").read_bytes() == (tmp_path / "one/lq/b.png").read_bytes()
    line = json.loads((tmp_path / "both/draws.jsonl").read_text().splitlines()[0])
    hq = read(tmp_path / "both/hq" / line["image"]).tensor[None]
    again = degradation.apply(hq, [degradation.Draw.from_dict(line["draw"])], scale=4)
    assert torch.allclose(again[0], read(tmp_path / "both/lq" / line["image"]).tensor, atol=1e-6)
    code, _, err = run_cli(capsys, "degrade", tmp_path / "in", "-o", tmp_path / "both")
    assert code == 2 and "exists already" in err


def test_degrade_overwrites_no_original(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = picture(tmp_path / "set" / "hq" / "x.png", size=(65, 51))
    before = path.read_bytes()
    for more in ([], ["--force"]):
        code, _, err = run_cli(capsys, "degrade", tmp_path / "set" / "hq", "-o", tmp_path / "set", *more)
        assert code == 2 and "its own result" in err and path.read_bytes() == before
    assert files(tmp_path / "set") == ["hq/x.png"]


def test_degrade_does_not_degrade_its_own_pairs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture(tmp_path / "set" / "x.png", size=(65, 51))
    for _ in range(2):
        code, _, err = run_cli(capsys, "degrade", tmp_path / "set", "-o", tmp_path / "set", "--force")
        assert code == 0, err
    assert files(tmp_path / "set") == ["draws.jsonl", "hq/x.png", "lq/x.png", "x.png"]


def test_degrade_tells_what_it_leaves_out_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frames = [Image.new("RGB", (20, 16), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    code, _, err = run_cli(capsys, "degrade", tmp_path / "x.gif", "-o", tmp_path / "out")
    assert code == 0 and "x.gif: 2 frames or pages: only the first is used" in err


def test_what_exists_is_refused_before_anything_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pyiqa", reason="pyiqa is not installed")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "README.md").write_text("mine")
    measure = ["evaluate", "--outputs", f"A={tmp_path / 'none'}", "--metrics", "niqe", "--json"]
    code, _, err = run_cli(capsys, *measure, tmp_path / "mine" / "README.md")
    assert code == 2 and "README.md: exists already; use --force" in err and len(err.splitlines()) == 1, err
    assert (tmp_path / "mine" / "README.md").read_text() == "mine"


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_output_in_any_encoding(tmp_path: Path, encoding: str) -> None:
    pytest.importorskip("pyiqa", reason="pyiqa is not installed")
    for name in ("a", "b"):
        picture(tmp_path / "hq" / f"{name}.png", size=(40, 32))
    how = {"env": {"PYTHONIOENCODING": encoding}, "errors": "replace"}
    command = ["evaluate", "--outputs", f"α={tmp_path / 'hq'}", "--reference", tmp_path / "hq", "--metrics", "psnr"]
    done = itersr(*command, "--json", tmp_path / "x.json", **how)
    assert done.returncode == 0 and (tmp_path / "x.json").exists(), done.stderr
    assert itersr("upscale", "--help", **how).returncode == 0


def test_names_with_spaces_and_letters_of_any_language(tmp_path: Path) -> None:
    path = picture(tmp_path / "mein Ordner" / "zażółć 写真.png", size=(8, 8))
    done = itersr("upscale", path, "-o", tmp_path / "große Bilder", "--tier", "smoke", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert files(tmp_path / "große Bilder") == ["zażółć 写真_out.png"]


def test_missing_files_and_empty_folders(tmp_path: Path, model: Bicubic) -> None:
    (failure,) = upscale_files(lambda: model, [tmp_path / "none.png"], tmp_path / "out")
    assert "No such file" in failure.message and failure.usage
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match="holds no image"):
        upscale_files(lambda: model, [tmp_path / "empty"], tmp_path / "out")


def test_who_may_read_and_write_files() -> None:
    """The model and what it is made of know pictures in memory; files are for the command and for what is around the model."""
    users = {"cli", "evaluation", "experiments", "metrics", "widgets", "data"}
    for path in (ROOT / "itersr").glob("**/*.py"):
        if "upscaling" not in path.parts and path.stem not in users:
            assert not re.search(r"(from|import) itersr\.upscaling|from itersr import .*upscaling", path.read_text()), path
