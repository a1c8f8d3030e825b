"""data_prep pack: the budget is kept and used, names are kept, and nothing is written over."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep import PrepError
from data_prep.__main__ import main
from data_prep.pack import encoded, pack, targets


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Two folders of made pictures: waves with noise, with a subfolder, equal names, a grey one and a turned one."""
    g = np.random.default_rng(0)
    rows, columns = np.mgrid[:90, :140]
    names = ["a/one.png", "a/sub/one.png", "a/two.PNG", "b/one.png", "b/grey.png", "b/turned.jpg"]
    for i, name in enumerate(names):
        wave = 128 + 60 * np.sin(rows / (3 + i)) * np.cos(columns / (5 + i))
        rgb = np.clip(wave[..., None] + g.normal(0, 12, (90, 140, 3)), 0, 255).astype(np.uint8)
        image = Image.fromarray(rgb)
        exif = Image.Exif()
        if "turned" in name:
            exif[0x0112] = 6
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        (image.convert("L") if "grey" in name else image).save(path, exif=exif)
    (tmp_path / "a" / "notes.txt").write_text("no photo")
    return [tmp_path / "a", tmp_path / "b"]


def packed(out: Path) -> dict[str, Path]:
    return {path.relative_to(out).as_posix(): path for path in sorted(out.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("kilobytes", [8, 15, 30])
def test_the_budget_is_kept_and_used(folders: list[Path], tmp_path: Path, kilobytes: int) -> None:
    line = pack(folders, tmp_path / "out", kilobytes / 1000)
    files = packed(tmp_path / "out")
    assert list(files) == ["a/one.webp", "a/sub/one.webp", "a/two.webp", "b/grey.webp", "b/one.webp", "b/turned.webp"]
    assert sum(path.stat().st_size for path in files.values()) <= kilobytes * 1000
    quality = int(line.split("quality ")[1].split(",")[0])
    assert sum(len(encoded(path, quality + 1)) for path in targets(folders).values()) > kilobytes * 1000
    assert line.startswith(f"{tmp_path / 'out'}: 6 photos, 0.0 MB")


def test_pictures_stay_the_pictures(folders: list[Path], tmp_path: Path) -> None:
    line = pack(folders, tmp_path / "out", 1)
    assert line.endswith("quality 100")
    pair = [np.asarray(Image.open(file), np.float64) for file in (folders[0] / "one.png", tmp_path / "out/a/one.webp")]
    assert 10 * np.log10(255**2 / np.square(pair[0] - pair[1]).mean()) > 25  # PSNR in dB
    sizes = {name: Image.open(path) for name, path in packed(tmp_path / "out").items()}
    assert all(image.mode == "RGB" and image.format == "WEBP" for image in sizes.values())
    assert sizes["a/one.webp"].size == (140, 90) and sizes["b/turned.webp"].size == (90, 140)


def test_longest_shrinks_and_never_grows(folders: list[Path], tmp_path: Path) -> None:
    pack(folders[:1], tmp_path / "small", 1, longest=70)
    pack(folders[:1], tmp_path / "same", 1, longest=200)
    assert Image.open(tmp_path / "small/a/one.webp").size == (70, 45)
    assert Image.open(tmp_path / "same/a/one.webp").size == (140, 90)


def test_refusals_leave_nothing_behind(folders: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(PrepError, match="6 photos take .* at quality 1"):
        pack(folders, out, 0.0001)
    (tmp_path / "else" / "a").mkdir(parents=True)
    with pytest.raises(PrepError, match="holds no image file"):
        pack([*folders, tmp_path / "else" / "a"], out, 1)
    Image.new("RGB", (20, 20)).save(tmp_path / "else" / "a" / "one.bmp")
    with pytest.raises(PrepError, match=r"both would be called a/one\.webp"):
        pack([*folders, tmp_path / "else" / "a"], out, 1)
    (folders[0] / "cut.png").write_bytes((folders[0] / "one.png").read_bytes()[:200])
    with pytest.raises(PrepError, match=r"cut\.png"):
        pack(folders, out, 1)
    assert not out.exists()


def test_the_command(folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    out.mkdir()  # empty: may be used
    call = ["pack", *(f"--data={folder}" for folder in folders), "-o", str(out), "--megabytes", "0.02"]
    assert main(call) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    before = {name: path.read_bytes() for name, path in packed(out).items()}
    assert main(call) == 1
    error = capsys.readouterr().err
    assert "not an empty folder" in error and len(error.splitlines()) == 1
    assert before == {name: path.read_bytes() for name, path in packed(out).items()}
    for wrong in (["--megabytes", "0"], ["--data", str(tmp_path / "no")]):
        assert main([*call, "-o", str(tmp_path / "new"), *wrong]) == 1
        assert len(capsys.readouterr().err.splitlines()) == 1 and not (tmp_path / "new").exists()


def test_what_is_left_out_is_told(folders: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folders[0] / "phone.heic").write_bytes(b"x")
    pack(folders, tmp_path / "out", 1)
    assert caplog.messages == [f"{folders[0]}: 1 left out (another format, a link or unreadable): phone.heic"]
