"""Training data: random numbers of their own for every sample, crops that no process changes, photos that cannot be used."""

from __future__ import annotations

import hashlib
import logging
import math
import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from itersr import pictures
from itersr.cli import main
from itersr.lab import experiments
from itersr.training.data import Crops, Photos, generator_for, random_crop, ranges, uniform, validation_pairs
from itersr.training.loop import make_accelerator, make_loader
from itersr.weights import NETWORKS

ALL = (1 << 64) - 1


def split_mix(state: int) -> int:
    """The finalizer of SplitMix64, as published, on unsigned numbers of 64 bits."""
    z = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & ALL
    z = (z ^ z >> 27) * 0x94D049BB133111EB & ALL
    return z ^ z >> 31


def noisy_photo(path: Path, width: int, height: int, seed: int = 0) -> Path:
    """Noise: its PNG is about as large as its pixels, so that a cut file lacks some."""
    noise = torch.randint(256, (height, width, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    Image.fromarray(noise.numpy()).save(path)
    return path


def cut(path: Path) -> Path:
    """Keep the first half of a file, its header included."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


# -------------------------------------------------------------------------------------------------------- uniform numbers


def test_uniform_numbers_are_those_of_splitmix64() -> None:
    assert split_mix(0x9E3779B97F4A7C15) == 0xE220A8397B1DCDAF  # the first number of its published sequence for seed 0
    start = int.from_bytes(hashlib.sha256(b"7/mask").digest()[:8], "little")
    index = torch.tensor([0, 5, 1 << 40])
    found = uniform(7, index, "mask", (2, 3))
    for row, sample in zip(found, index.tolist(), strict=True):
        own = split_mix((sample + start) & ALL)
        wanted = [(split_mix((own + place * 0x9E3779B97F4A7C15) & ALL) >> 40) / (1 << 24) for place in range(1, 7)]
        assert row.flatten().tolist() == wanted


def test_uniform_numbers_belong_to_their_sample() -> None:
    index, order = torch.arange(100, 164), torch.randperm(64, generator=torch.Generator().manual_seed(0))
    whole = uniform(3, index, "mask", (4, 5))
    assert whole.shape == (64, 4, 5) and whole.dtype == torch.float32 and uniform(3, index, "r").shape == (64,)
    assert torch.equal(torch.cat([uniform(3, part, "mask", (4, 5)) for part in index.split([1, 40, 23])]), whole)
    assert torch.equal(uniform(3, index[order], "mask", (4, 5)), whole[order])
    assert torch.equal(uniform(3, index.int(), "mask", (4, 5)), whole)
    for seed, samples, purpose in ((4, index, "mask"), (3, index, "drawn"), (3, index + 64, "mask")):
        assert not (uniform(seed, samples, purpose, (4, 5)) == whole).any()


def test_uniform_numbers_are_uniform_and_independent() -> None:
    """Within four standard errors, for neighbouring samples and places, which are what a batch is made of."""
    x = uniform(0, torch.arange(1000), "mask", (500,)).double()
    assert 0 <= x.min() and x.max() < 1
    error = 4 / math.sqrt(x.numel())
    assert abs(x.mean() - 0.5) < error * math.sqrt(1 / 12) and abs(x.var() - 1 / 12) < error * math.sqrt(1 / 180)
    share = torch.histc(x, 16, 0, 1) / x.numel()
    assert (share - 1 / 16).abs().max() < error * math.sqrt(15) / 16
    z = (x - 0.5) * math.sqrt(12)
    assert abs((z[1:] * z[:-1]).mean()) < error and abs((z[:, 1:] * z[:, :-1]).mean()) < error  # samples, places
    assert abs((z * (uniform(1, torch.arange(1000), "mask", (500,)).double() - 0.5) * math.sqrt(12)).mean()) < error  # seeds
    assert len(x.unique()) > 0.98 * x.numel()  # of 2²⁴ numbers


# --------------------------------------------------------------------------------------------------------- crops


@pytest.mark.parametrize("files", [False, True])
def test_crops_of_other_processes_are_the_same(files: bool, tmp_path: Path) -> None:
    """To the bit, from photos in memory and from files."""
    for i in range(3):
        noisy_photo(tmp_path / f"{i}.png", 90, 70, i)
    crops = Crops(Photos.of(tmp_path if files else None), 32, 5, degradation=ranges("mild"), mild=0.5)
    accelerator = make_accelerator("cpu")
    loaders = [make_loader(crops, range(4, 16), 3, workers, accelerator) for workers in (0, 2)]
    batches = [list(loader) for loader in loaders]
    assert len(batches[0]) == len(batches[1]) == 4
    for here, there in zip(*batches, strict=True):
        assert here.keys() == there.keys() == {"hq", "lq", "index", "photo"}
        assert all(torch.equal(here[name], there[name]) for name in here)
    assert torch.cat([batch["index"] for batch in batches[1]]).tolist() == list(range(4, 16))


def test_what_is_kept_in_memory_is_what_is_in_the_file(tmp_path: Path) -> None:
    for i in range(3):
        noisy_photo(tmp_path / f"{i}.png", 40 + i, 30, i)
    kept, read, few = Photos.of(tmp_path), Photos.of(tmp_path), Photos(sorted(tmp_path.iterdir()), cache_bytes=2 * 3 * 41 * 30)
    kept.preload()
    few.preload()  # the last one does not fit
    for path in tmp_path.iterdir():
        path.rename(path.with_suffix(".old")) if path.stem != "2" else None
    assert all(torch.equal(kept[i], few[i]) for i in range(3)) and torch.equal(kept[2], read[2])
    assert kept.stored(0).dtype == torch.uint8 and kept[1].shape == (3, 30, 41)


@pytest.mark.parametrize("sides", [(1, 50), (50, 1), (1, 1), (2, 3)])
def test_a_photo_of_one_row_gives_crops(sides: tuple[int, int]) -> None:
    photo = torch.rand(3, *sides, generator=torch.Generator().manual_seed(0))
    for index in range(8):
        crop = random_crop(photo, 16, generator_for(0, index))
        assert crop.shape == (3, 16, 16) and 0 <= crop.min() and crop.max() <= 1
        if sides == (1, 1):
            assert torch.allclose(crop, photo.expand_as(crop))


# ------------------------------------------------------------------------------------- photos that cannot be used


def test_photos_that_cannot_be_read_are_named_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    good = [noisy_photo(tmp_path / f"{i}.png", 40, 30, i) for i in range(3)]
    (tmp_path / "0a.png").write_bytes(b"no picture")
    (tmp_path / "0b.jpg").write_bytes(b"")
    cut(noisy_photo(tmp_path / "1a.png", 40, 30))
    photos = Photos.of(tmp_path)
    with caplog.at_level(logging.WARNING):
        photos.preload()
        photos.preload()
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 3 and all("\n" not in line and line.endswith("it is left out") for line in told)
    assert [Path(line.partition(": ")[0]).name for line in told] == ["0a.png", "0b.jpg", "1a.png"]
    assert [Path(name).name for name in photos.names] == ["0.png", "1.png", "2.png"] and len(photos) == 3
    assert all(torch.equal(photos[i], Photos([path])[0]) for i, path in enumerate(good))
    with pytest.raises(ValueError, match="no photos to train on: none of 1 files"):
        Photos([tmp_path / "1a.png"]).preload()


def test_small_photos_are_left_out_of_what_is_held_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tensors = {"row": torch.rand(3, 1, 90), "good": torch.rand(3, 70, 90), "small": torch.rand(3, 31, 90)}
    with caplog.at_level(logging.WARNING):
        pairs = validation_pairs(Photos(tensors), 3, 64, 0, degradation=ranges("mild"), scale=4, unit=32)
    assert pairs["hq"].shape == (3, 3, 64, 64) and torch.equal(pairs["hq"][0], pairs["hq"][2])
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == ["row", "small"]
    Image.new("RGB", (90, 1)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="smaller than a window"):
        validation_pairs(Photos.of(tmp_path), 3, 64, 0, degradation=ranges("mild"), scale=4, unit=32)


def test_a_folder_with_bad_photos_is_trained_on_to_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those that are held out too: they choose settings when all else is done."""
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    for i in range(40):
        noisy_photo(data / f"{i:02}.png", 64, 64, i)
    cut(data / "07.png")
    cut(data / "30.png")  # held out, as is 10
    Image.new("RGB", (80, 1)).save(data / "08.png")
    call = ["train", "all", "--tier", "smoke", "--steps", "2", "--batch", "2", "--crop", "32", "--device", "cpu",
            "--data", str(data), "--out", str(out)]
    assert main(call) == 0
    told = capsys.readouterr().err
    assert [told.count(name) for name in ("07.png", "08.png")] == [1, 0] and "30.png" in told, told
    assert "37 photos, 1 others held out" in (out / "weights" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert {path.stem for path in (out / "weights").glob("*.safetensors")} == {*NETWORKS}
    assert list(experiments.held_out(data, 32)) == ["10"]


def test_threads_that_read_photos_give_stderr_back(tmp_path: Path) -> None:
    """Decoders print to it, so that it is taken away from them; every error message of a run needs it afterwards."""
    for i in range(60):
        noisy_photo(tmp_path / f"{i}.png", 200, 200, i)
    before = os.fstat(2)
    for _ in range(3):
        Photos.of(tmp_path).preload()
    after = os.fstat(2)
    assert (before.st_dev, before.st_ino) == (after.st_dev, after.st_ino)


def test_photos_in_memory_stay_as_they_are() -> None:
    photos = Photos.of(None)
    photos.preload(share=True)
    assert list(photos.names) == list(pictures.bundled("train"))
    assert all(torch.equal(photos[i], photo) for i, photo in enumerate(pictures.bundled("train").values()))
