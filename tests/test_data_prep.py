"""data_prep over loopback HTTP with made-up archives: whatever goes wrong, no half-made dataset looks whole."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.server
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
from PIL import Image

from data_prep import PrepError, bench, download, patches
from data_prep.__main__ import main
from data_prep.datasets import TABLE, Archive, Dataset
from data_prep.patches import digest
from data_prep.prepare import prepare
from itersr.lab import experiments

SIZE = 32  # of a patch, here
TREE = Path(__file__).parents[1]


# ---- a server that misbehaves on request


@dataclass
class Site:
    """What the loopback server gives, and how it misbehaves: `cut[path]` is a list of byte counts after which it hangs up."""

    files: dict[str, bytes] = field(default_factory=dict)
    cut: dict[str, list[int]] = field(default_factory=dict)
    status: dict[str, int] = field(default_factory=dict)
    kind: dict[str, str] = field(default_factory=dict)
    etag: str = '"1"'
    ranges: bool = True
    slow: float = 0.0
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    address: str = ""


class Handler(http.server.BaseHTTPRequestHandler):
    site: Site
    protocol_version = "HTTP/1.0"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        site, path = self.site, self.path.lstrip("/")
        wanted = self.headers.get("Range")
        site.asked.append((path, wanted))
        if path in site.status:
            return self.send_error(site.status[path])
        if path not in site.files:
            return self.send_error(404)
        data, start = site.files[path], 0
        condition = self.headers.get("If-Range")
        if wanted and site.ranges and condition in (None, site.etag):
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(data):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(data)}")
                return self.end_headers()
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(data) - start))
        self.send_header("Content-Type", site.kind.get(path, "application/octet-stream"))
        self.send_header("ETag", site.etag)
        self.end_headers()
        end = start + site.cut[path].pop(0) if site.cut.get(path) else len(data)
        with contextlib.suppress(OSError):
            for at in range(start, min(end, len(data)), 4096):
                self.wfile.write(data[at : min(at + 4096, end)])
                time.sleep(site.slow)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(download, "PAUSE", 0.0)
    site = Site()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("H", (Handler,), {"site": site}))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    site.address = f"http://127.0.0.1:{server.server_port}"
    yield site
    server.shutdown()
    server.server_close()
    thread.join()


# ---- made-up archives


def picture(height: int = 70, width: int = 100, seed: int = 0) -> np.ndarray:
    photo = skimage.data.astronaut()
    return np.roll(photo, 37 * seed, 1)[:height, :width]


def as_png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def photos(count: int = 4) -> dict[str, bytes]:
    return {f"set/{i:04d}.png": as_png(picture(seed=i)) for i in range(count)}


def as_zip(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return file.getvalue()


def as_tar(files: dict[str, bytes], *more: tarfile.TarInfo) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for info in more:
            archive.addfile(info)
    return file.getvalue()


def toy(site: Site, data: bytes | None = None, **changes: Any) -> Dataset:
    """A dataset of one zip on the loopback server; `archive` changes the archive, the rest the dataset."""
    data = as_zip(photos()) if data is None else data
    site.files.setdefault("set.zip", data)
    archive = Archive("set.zip", (f"{site.address}/set.zip",))
    archive = replace(archive, **changes.pop("archive", {}))
    dataset = Dataset(
        name="toy", title="Toy", kind="patches", archives=(archive,), take=(("hq", r"set/(.+)\.png"),), images=4,
        by_hand="https://example.org/toy", licence="none", citation="nobody",
    )  # fmt: skip
    return replace(dataset, **changes)


def run(dataset: Dataset, root: Path, **options: Any) -> str:
    return prepare(dataset, root, **{"size": SIZE, **options})


def cuts(folder: Path) -> list[tuple[Path, str, int, int]]:
    """Each patch of a dataset with what its name says: file, photo, top, left."""
    found = [(path, re.fullmatch(r"(.+)_(\d{5})_(\d{5})", path.stem)) for path in sorted((folder / "patches").iterdir())]
    return [(path, name[1], int(name[2]), int(name[3])) for path, name in found if name]


def put_by_hand(root: Path, data: bytes, name: str = "set.zip") -> Path:
    """An archive of the user's own, where data_prep looks for it."""
    (root / "archives").mkdir(parents=True, exist_ok=True)
    (root / "archives" / name).write_bytes(data)
    return root / "archives" / name


def about(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "dataset.json").read_text())


def whole(folder: Path) -> bool:
    """The folder holds the patches of the four photos, pixel for pixel, and nothing else."""
    found = cuts(folder)
    for path, photo, top, left in found:
        assert np.array_equal(np.asarray(Image.open(path)), picture(seed=int(photo))[top : top + SIZE, left : left + SIZE])
    assert len(found) == len(list((folder / "patches").iterdir())) == 4 * 6
    assert {photo for _, photo, _, _ in found} == {f"{i:04d}" for i in range(4)}
    return True


# ---- the table


def test_the_table_is_complete_and_honest() -> None:
    names = [dataset.name for dataset in TABLE]
    assert names == ["div2k", "flickr2k", "ost", "realsr", "drealsr", "dped-iphone", "realsrset", "div2k-synthetic"]
    for dataset in TABLE:
        assert dataset.kind in ("patches", "images", "pairs")
        assert all((dataset.licence, dataset.citation, dataset.archives, dataset.images > 0))
        assert dataset.by_hand.startswith("https://")
        for archive in dataset.archives:
            assert all(re.match(r"https?://", address) for address in archive.addresses)
            assert (archive.sha256 is None) == (archive.size is None)
            assert archive.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", archive.sha256)


@pytest.mark.parametrize(
    ("name", "path", "folder", "image"),
    [
        ("div2k", "DIV2K_train_HR/0001.png", "hq", "0001"),
        ("flickr2k", "Flickr2K/Flickr2K_HR/000001.png", "hq", "000001"),
        ("flickr2k", "Flickr2K/000001.png", "hq", "000001"),
        ("flickr2k", "Flickr2K/Flickr2K_LR_bicubic/X2/000001x2.png", None, None),
        ("ost", "OST_dataset/OutdoorSceneTrain_v2/animal/a b.png", "hq", "animal_a b"),
        ("ost", "OST_dataset/OutdoorSceneTest300/OST_001.png", None, None),
        ("ost", "OST_dataset/OutdoorSeg/images/0001.jpg", None, None),
        ("realsr", "RealSR(V3)/Canon/Test/4/Canon_001_HR.png", "hq", "Canon_001"),
        ("realsr", "RealSR(V3)/Nikon/Test/4/Nikon_050_LR4.png", "lq", "Nikon_050"),
        ("realsr", "RealSR(V3)/Nikon/Train/4/Nikon_050_LR4.png", None, None),
        ("realsr", "RealSR(V3)/Nikon/Test/2/Nikon_050_LR2.png", None, None),
        ("drealsr", "Test_x4/test_HR/sony_131_x4.png", "hq", "sony_131"),
        ("drealsr", "Test_x4/test_LR/sony_131_x1.png", "lq", "sony_131"),
        ("realsrset", "RealSRSet+5images/butterfly2.png", "lq", "butterfly2"),
        ("realsrset", "RealSRSet+5images/ADE_val_00000114.png", None, None),
        ("div2k-synthetic", "DIV2K_valid_HR/0801.png", "hq", "0801"),
    ],
)
def test_what_each_dataset_takes(name: str, path: str, folder: str | None, image: str | None) -> None:
    dataset = next(dataset for dataset in TABLE if dataset.name == name)
    found = [(f, re.fullmatch(p, path)) for f, p in dataset.take if re.fullmatch(p, path)]
    assert len(found) == (folder is not None)
    for where, match in found:
        assert match is not None and (where, "_".join(g for g in match.groups() if g)) == (folder, image)


# ---- the good case


def test_patches_are_the_pictures_pixels_in_stated_order(site: Site, tmp_path: Path) -> None:
    assert "24 patches from 4 images" in run(toy(site), tmp_path)
    assert whole(tmp_path / "toy")
    first = [(top, left) for _, photo, top, left in cuts(tmp_path / "toy") if photo == "0000"]
    # 70×100: two rows of three, the rest of 6 rows and 4 columns left out
    assert first == [(y, x) for y in (0, 32) for x in (0, 32, 64)]
    record = about(tmp_path / "toy")
    assert record["sha256"] == hashlib.sha256((tmp_path / "archives" / "set.zip").read_bytes()).hexdigest()
    assert record["licence"] == "none" and record["left_out"] == {}
    assert not (tmp_path / ".work" / "toy").exists()


def test_the_default_patch_is_256() -> None:
    assert patches.SIZE == 256
    assert patches.boxes(520, 800) == [(y, x) for y in (0, 256) for x in (0, 256, 512)]
    assert patches.boxes(255, 800) == []


def test_patches_are_written_without_loss() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (19, 33, 3), np.uint8)
    for pixels in (picture(1, 1), noise, picture(80, 90)[5:40, 7:50]):
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(patches.png(pixels)))), pixels)


def test_a_second_run_does_nothing(site: Site, tmp_path: Path) -> None:
    run(toy(site), tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    asked = len(site.asked)
    assert "was there already" in run(toy(site), tmp_path)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} and len(site.asked) == asked


def test_a_deleted_dataset_is_made_again_without_a_download(site: Site, tmp_path: Path) -> None:
    run(toy(site), tmp_path)
    shutil.rmtree(tmp_path / "toy")
    asked = len(site.asked)
    run(toy(site), tmp_path)
    assert whole(tmp_path / "toy") and len(site.asked) == asked


def test_tar_archives_and_unpacked_folders(site: Site, tmp_path: Path) -> None:
    site.files["set.tar.gz"] = as_tar({"./" + name: data for name, data in photos().items()})
    tar = Archive("set.tar.gz", (f"{site.address}/set.tar.gz",))
    run(toy(site, archives=(tar,)), tmp_path / "a")
    assert whole(tmp_path / "a" / "toy")
    # what `unzip set.zip` leaves, and what `unzip -d set set.zip` leaves
    for root, folder in (("b", "archives"), ("c", "archives/set")):
        with zipfile.ZipFile(io.BytesIO(as_zip(photos()))) as archive:
            archive.extractall(tmp_path / root / folder)
        run(toy(site, take=(("hq", r"(?:.*/)?set/(.+)\.png"),)), tmp_path / root)
        assert whole(tmp_path / root / "toy")


@pytest.mark.parametrize(
    ("name", "files", "sources"),
    [
        ("div2k", ["DIV2K_train_HR/0001.png", "DIV2K_train_HR/0002.png"], ["0001", "0002"]),
        ("ost", ["OST_dataset/animal/1.png", "OST_dataset/OutdoorSceneTest300/2.png"], ["animal_1"]),
        ("ost", ["OST/sky/1.jpg", "OST/3.png"], ["OST_3", "sky_1"]),
        ("ost", ["OutdoorSceneTrain_v2/water/1.png", "DIV2K_train_HR/0001.png"], ["water_1"]),
    ],
)
def test_the_papers_datasets_as_unzip_leaves_them(tmp_path: Path, name: str, files: list[str], sources: list[str]) -> None:
    for file in files:
        (tmp_path / "archives" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "archives" / file).write_bytes(as_png(picture()))
    run(next(dataset for dataset in TABLE if dataset.name == name), tmp_path)
    assert sorted({photo for _, photo, _, _ in cuts(tmp_path / name)}) == sources


def test_an_archive_on_disk_needs_no_network(site: Site, tmp_path: Path) -> None:
    mine = put_by_hand(tmp_path, as_zip(photos()))
    run(toy(site), tmp_path)
    assert whole(tmp_path / "toy") and site.asked == []
    assert mine.read_bytes() == as_zip(photos())


def test_pairs_and_images(site: Site, tmp_path: Path) -> None:
    pairs = {f"set/HR/{i}.png": as_png(picture(40, 48, i)) for i in range(3)}
    pairs |= {f"set/LR/{i}.png": as_png(picture(10, 12, i)) for i in range(2)}  # 2 has no partner
    take = (("hq", r"set/HR/(.+)\.png"), ("lq", r"set/LR/(.+)\.png"))
    run(toy(site, as_zip(pairs), kind="images", take=take), tmp_path / "a")
    folder = tmp_path / "a/toy"
    images = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    assert images == ["hq/0.png", "hq/1.png", "lq/0.png", "lq/1.png"]
    assert list(about(folder)["left_out"]) == ["hq/2.png"]
    assert (folder / "hq/1.png").read_bytes() == pairs["set/HR/1.png"]


def test_synthetic_pairs_have_their_draws_on_record(site: Site, tmp_path: Path) -> None:
    import torch

    from itersr import degradation

    data = as_zip({f"set/{i}.png": as_png(picture(42, 49, i)) for i in range(2)})
    for root in ("a", "b"):
        run(toy(site, data, kind="pairs"), tmp_path / root)
    folder = tmp_path / "a/toy"
    for name in ("0.png", "1.png"):
        assert Image.open(folder / "hq" / name).size == (48, 40) and Image.open(folder / "lq" / name).size == (12, 10)
        assert (folder / "lq" / name).read_bytes() == (tmp_path / "b/toy/lq" / name).read_bytes()
    for line in map(json.loads, (folder / "draws.jsonl").read_text().splitlines()):
        hq = torch.from_numpy(np.asarray(Image.open(folder / "hq" / line["image"])).copy()).permute(2, 0, 1)[None] / 255
        lq = degradation.apply(hq, [degradation.Draw.from_dict(line["draw"])])[0].permute(1, 2, 0) * 255
        assert np.array_equal(lq.round().numpy(), np.asarray(Image.open(folder / "lq" / line["image"])))


# ---- bad luck on the way


def test_a_cut_connection_is_gone_on_with(site: Site, tmp_path: Path) -> None:
    dataset = toy(site)
    site.cut["set.zip"] = [5_000, 9_000, 1, 12_000]
    run(dataset, tmp_path)
    assert whole(tmp_path / "toy")
    starts = [wanted for _, wanted in site.asked]
    assert starts == [None, "bytes=5000-", "bytes=14000-", "bytes=14001-", "bytes=26001-"]


def test_a_server_without_ranges_starts_again(site: Site, tmp_path: Path) -> None:
    dataset = toy(site)
    site.cut["set.zip"], site.ranges = [5_000], False
    run(dataset, tmp_path)
    assert whole(tmp_path / "toy") and len(site.asked) == 2


def test_a_file_that_changed_meanwhile_is_not_glued_to_the_old(site: Site, tmp_path: Path) -> None:
    dataset = toy(site)
    site.cut["set.zip"] = [5_000, 0, 0, 0, 0]
    with pytest.raises(PrepError, match="the connection ended"):
        run(dataset, tmp_path)
    site.cut, site.etag = {}, '"2"'
    site.files["set.zip"] = as_zip({**photos(), "note.txt": b"new"})
    run(dataset, tmp_path)
    assert whole(tmp_path / "toy")
    assert (tmp_path / "archives/set.zip").read_bytes() == site.files["set.zip"]


def test_a_later_run_goes_on_where_the_first_stopped(site: Site, tmp_path: Path) -> None:
    dataset = toy(site)
    site.cut["set.zip"] = [8_000, 0, 0, 0, 0]
    with pytest.raises(PrepError, match=r"the connection ended after 8,000 of .* \(4 tries\)"):
        run(dataset, tmp_path)
    assert not (tmp_path / "toy").exists() and not (tmp_path / "archives/set.zip").exists()
    site.asked.clear()
    run(dataset, tmp_path)
    assert whole(tmp_path / "toy") and site.asked == [("set.zip", "bytes=8000-")]


def test_a_stop_after_the_last_byte_asks_for_nothing_again(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(download, "fault", stop)
        with pytest.raises(KeyboardInterrupt):
            run(toy(site), tmp_path)
    run(toy(site), tmp_path)
    assert whole(tmp_path / "toy") and len(site.asked) == 1


def test_a_file_that_became_shorter_is_fetched_anew(site: Site, tmp_path: Path) -> None:
    dataset = toy(site, as_zip({"filler.bin": bytes(99_000)}))
    site.etag, site.cut["set.zip"] = "", [90_000, 0, 0, 0, 0]  # nothing to know the file by: each try begins anew
    with pytest.raises(PrepError, match="the connection ended"):
        run(dataset, tmp_path)
    site.files["set.zip"] = as_zip(photos())
    run(dataset, tmp_path)
    assert whole(tmp_path / "toy")


def test_bytes_of_one_mirror_are_not_glued_to_those_of_another(site: Site, tmp_path: Path) -> None:
    site.files["old.zip"], site.cut["old.zip"] = as_zip({"filler.bin": bytes(99_000)}), [9_000, 0, 0, 0, 0]
    run(toy(site, archive={"addresses": tuple(f"{site.address}/{name}" for name in ("old.zip", "set.zip"))}), tmp_path)
    assert whole(tmp_path / "toy") and site.asked[-1] == ("set.zip", None)


def test_mirrors_are_tried_in_turn(site: Site, tmp_path: Path) -> None:
    addresses = tuple(f"{site.address}/{name}" for name in ("gone.zip", "busy.zip", "page.zip", "set.zip"))
    site.status["busy.zip"] = 503
    site.files["page.zip"], site.kind["page.zip"] = b"<html>quota exceeded</html>", "text/html"
    run(toy(site, archive={"addresses": addresses}), tmp_path)
    assert whole(tmp_path / "toy")
    assert [path for path, _ in site.asked] == ["gone.zip", *["busy.zip"] * download.TRIES, "page.zip", "set.zip"]


def test_a_dead_dataset_says_how_to_get_it_by_hand(site: Site, tmp_path: Path) -> None:
    addresses = (f"{site.address}/gone.zip", "http://127.0.0.1:9/set.zip")
    with pytest.raises(PrepError) as error:
        run(toy(site, archive={"addresses": addresses}), tmp_path)
    text = str(error.value)
    assert "gone.zip: HTTP Error 404" in text and "127.0.0.1:9" in text and "refused" in text
    assert "https://example.org/toy" in text and "set.zip" in text and str(tmp_path / "archives") in text and "\n" not in text
    with pytest.raises(PrepError, match="no address that a program can use.*by hand"):
        run(toy(site, archive={"addresses": ()}), tmp_path)


def test_a_wrong_checksum_or_size_is_refused(site: Site, tmp_path: Path) -> None:
    data = as_zip(photos())
    with pytest.raises(PrepError, match="sha256 is .*, need 0000"):
        run(toy(site, data, archive={"sha256": "0" * 64}), tmp_path)
    with pytest.raises(PrepError, match=f"offers {len(data):,} bytes, need 99"):
        run(toy(site, archive={"size": 99}), tmp_path)
    assert not (tmp_path / "toy").exists() and not list((tmp_path / "archives").iterdir())
    good = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    run(toy(site, archive=good), tmp_path)
    assert whole(tmp_path / "toy")


def test_the_second_mirror_helps_against_a_wrong_checksum(site: Site, tmp_path: Path) -> None:
    data = as_zip(photos())
    site.files["bad.zip"] = data[:-9] + b"corrupted"
    addresses = tuple(f"{site.address}/{name}" for name in ("bad.zip", "set.zip"))
    sha = hashlib.sha256(data).hexdigest()
    run(toy(site, data, archive={"addresses": addresses, "sha256": sha}), tmp_path)
    assert whole(tmp_path / "toy")


def test_a_damaged_archive_of_the_users_is_named(site: Site, tmp_path: Path) -> None:
    data = as_zip(photos())
    for bad in (data[: len(data) // 2], b"", b"not an archive", data[:600] + bytes(500) + data[1100:]):
        put_by_hand(tmp_path, bad)
        with pytest.raises(PrepError, match="archives/set.zip"):
            run(toy(site), tmp_path)
        assert not (tmp_path / "toy").exists()
    tar = as_tar(photos())
    put_by_hand(tmp_path, tar[: len(tar) - 2000], "set.tar.gz")
    with pytest.raises(PrepError, match="set.tar.gz"):
        run(toy(site, archives=(Archive("set.tar.gz", ()),)), tmp_path)
    assert not (tmp_path / "toy").exists()


# ---- hostile archives


@pytest.mark.parametrize("name", ["../evil.png", "/evil.png", "set/../../evil.png", "..\\evil.png", "C:\\evil.png"])
def test_nothing_is_written_outside(site: Site, tmp_path: Path, name: str) -> None:
    for i, pack in enumerate((as_zip, as_tar)):
        site.files["set.zip"] = pack({**photos(), name: as_png(picture())})
        with contextlib.suppress(PrepError):  # some refuse the archive, some leave the file out
            run(toy(site), tmp_path / str(i) / "deep" / "root")
            assert whole(tmp_path / str(i) / "deep/root/toy")
        assert not list(tmp_path.rglob("*evil*"))
        assert [path.name for path in (tmp_path / str(i) / "deep").iterdir()] == ["root"]


def test_links_and_devices_are_not_followed(site: Site, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(as_png(picture()))
    zipped = io.BytesIO(as_zip(photos()))
    with zipfile.ZipFile(zipped, "a") as archive:
        info = zipfile.ZipInfo("set/9.png")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, str(secret))
    site.files["set.zip"] = zipped.getvalue()
    run(toy(site), tmp_path / "zip")
    assert whole(tmp_path / "zip/toy")
    assert list(about(tmp_path / "zip/toy")["left_out"]) == ["9.png"]
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE):
        info_ = tarfile.TarInfo("set/9.png")
        info_.type, info_.linkname = kind, str(secret)
        site.files["set.zip"] = as_tar(photos(), info_)
        root = tmp_path / kind.decode()
        with pytest.raises(PrepError, match="set/9.png.*delete it and run again"):
            run(toy(site), root)
        assert not (root / "toy").exists() and not list(root.glob(".work/toy/*"))


def test_a_size_in_the_table_of_contents_that_is_not_the_files(site: Site, tmp_path: Path) -> None:
    data = bytearray(as_zip({"set/0.png": bytes(100_000)}))
    at = data.rindex(b"PK\x01\x02") + 24
    data[at : at + 4] = (10).to_bytes(4, "little")
    site.files["set.zip"] = bytes(data)
    with pytest.raises(PrepError):
        run(toy(site), tmp_path / "lie")
    assert not (tmp_path / "lie/toy").exists()


def test_an_archive_of_something_else_is_named(site: Site, tmp_path: Path) -> None:
    with pytest.raises(PrepError, match="holds no image of Toy"):
        run(toy(site, as_zip({"readme.txt": b"hello"})), tmp_path)


def test_two_files_that_would_get_one_name(site: Site, tmp_path: Path) -> None:
    data = as_zip({"set/a/b.png": as_png(picture()), "set/a_b.png": as_png(picture())})
    with pytest.raises(PrepError, match="twice"):
        run(toy(site, data, take=(("hq", r"set/(?:(.+)/)?(.+)\.png"),)), tmp_path)


@pytest.mark.parametrize("kind", ["patches", "images", "pairs"])
def test_two_files_of_one_stem_do_not_overwrite_each_other(site: Site, tmp_path: Path, kind: str) -> None:
    jpg = io.BytesIO()
    Image.fromarray(picture(seed=1)).save(jpg, "JPEG")
    data = as_zip({"set/a.png": as_png(picture()), "set/a.jpg": jpg.getvalue()})
    with pytest.raises(PrepError, match="holds hq/a twice .again as 'set/a.png'."):
        run(toy(site, data, kind=kind, take=(("hq", r"set/(.+)\.(?:png|jpg)"),)), tmp_path)
    assert not (tmp_path / "toy").exists()


# ---- odd images


def test_corrupt_and_small_images_are_named_and_left_out(site: Site, tmp_path: Path) -> None:
    good = as_png(picture())
    deep = io.BytesIO()
    Image.fromarray(np.zeros((64, 64), np.uint16)).save(deep, "PNG")
    odd = {
        "set/bad1.png": good[: len(good) // 2],
        "set/bad2.png": b"",
        "set/bad3.png": b"GIF89a no",
        "set/deep.png": deep.getvalue(),
        "set/small.png": as_png(picture(31, 200)),
    }
    run(toy(site, as_zip({**photos(), **odd})), tmp_path)
    assert whole(tmp_path / "toy")
    left_out = about(tmp_path / "toy")["left_out"]
    assert set(left_out) == {name.removeprefix("set/") for name in odd}
    assert left_out["small.png"] == "is 200×31, need at least 32×32" and "8 bits" in left_out["deep.png"]


def test_grey_alpha_palette_and_turned_images_are_used(site: Site, tmp_path: Path) -> None:
    files = {}
    base = Image.fromarray(picture(40, 70))
    for mode in ("L", "RGBA", "P", "1"):
        file = io.BytesIO()
        base.convert(mode).save(file, "PNG")
        files[f"set/{mode}.png"] = file.getvalue()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90°
    file = io.BytesIO()
    base.save(file, "PNG", exif=exif)
    files["set/turned.png"] = file.getvalue()
    run(toy(site, as_zip(files)), tmp_path)
    found = cuts(tmp_path / "toy")
    assert [(top, left) for _, photo, top, left in found if photo == "turned"] == [(0, 0), (32, 0)]
    assert {photo for _, photo, _, _ in found} == {"L", "RGBA", "P", "1", "turned"}


def test_nothing_usable_is_an_error(site: Site, tmp_path: Path) -> None:
    with pytest.raises(PrepError, match="no usable image"):
        run(toy(site, as_zip({"set/a.png": b"x"})), tmp_path)
    assert not (tmp_path / "toy").exists()


# ---- a stop at any moment

stop_at: dict[str, Any] = {"root": None, "left": -1}


def _interrupt(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: Ctrl-C at the n-th time that something is done to a file below `root`."""
    if stop_at["root"] is None or event not in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.listdir"):
        return
    if not str(arguments[0]).startswith(stop_at["root"]):
        return
    stop_at["left"] -= 1
    if stop_at["left"] == 0:
        raise KeyboardInterrupt


@pytest.fixture(scope="module")
def interrupts() -> None:
    sys.addaudithook(_interrupt)  # there is no way to remove it; it does nothing while there is no root


@pytest.mark.parametrize("kind", ["patches", "images", "pairs"])
def test_ctrl_c_at_any_point(site: Site, tmp_path: Path, interrupts: None, kind: str) -> None:
    dataset = toy(site, kind=kind)
    moments, n = 0, 1
    while True:
        root = tmp_path / str(n)
        stop_at.update(root=str(root), left=n)
        try:
            run(dataset, root)
        except KeyboardInterrupt:
            moments += 1
        else:
            break
        finally:
            stop_at["root"] = None
        if (root / "toy").exists():
            assert (root / "toy/dataset.json").exists()
        run(dataset, root)
        assert about(root / "toy")["told"] == f"{24 if kind == 'patches' else 4} {kind} from 4 images"
        assert whole(root / "toy") if kind == "patches" else len(list((root / "toy/hq").iterdir())) == 4
        shutil.rmtree(root)
        n += 1 if n < 8 else random.Random(n).randint(1, 8)  # each of the first, then some of the many alike
    assert moments > 10


DRIVER = """
import sys
from pathlib import Path
sys.path.insert(0, {tree!r})
from data_prep import __main__ as program, datasets
archive = datasets.Archive("set.zip", ({address!r},))
program.TABLE = (datasets.Dataset("toy", "Toy", "patches", (archive,), (("hq", r"set/(.+)[.]png"),), 4, "https://x", "n", "n"),)
import data_prep.prepare as prepare
prepare.prepare.__defaults__ = ({size},)
sys.exit(program.main(["toy", "--root", {root!r}]))
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_program_goes_on(site: Site, tmp_path: Path, how: signal.Signals) -> None:
    toy(site, as_zip({**photos(), "filler.bin": random.Random(0).randbytes(200_000)}))
    site.slow = 0.02
    driver = DRIVER.format(tree=str(TREE), address=f"{site.address}/set.zip", root=str(tmp_path), size=SIZE)
    program = subprocess.Popen([sys.executable, "-c", driver], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                               # a job in a shell's background has SIGINT ignored, and hands that on
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    part = tmp_path / "archives/set.zip.part"
    while not (part.exists() and part.stat().st_size > 20_000):  # stop it in the middle of the download
        assert program.poll() is None
        time.sleep(0.005)
    program.send_signal(how)
    _, errors = program.communicate()
    if how is signal.SIGINT:
        assert program.returncode == 130 and "Traceback" not in errors and "run again" in errors
    assert not (tmp_path / "toy").exists() and part.stat().st_size > 0
    site.slow = 0.0
    again = subprocess.run([sys.executable, "-c", driver], capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert whole(tmp_path / "toy")
    assert site.asked[-1][1] is not None  # it went on, it did not start again


def test_a_dataset_deleted_after_a_stop_in_the_clearing_up_is_made_again(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(path: Path, ignore_errors: bool = False) -> None:
        if (tmp_path / "toy").exists():
            raise KeyboardInterrupt
        real(path, ignore_errors)

    real = shutil.rmtree
    monkeypatch.setattr(shutil, "rmtree", stop)
    with pytest.raises(KeyboardInterrupt):
        run(toy(site), tmp_path)
    assert whole(tmp_path / "toy")
    monkeypatch.setattr(shutil, "rmtree", real)
    shutil.rmtree(tmp_path / "toy")
    run(toy(site), tmp_path)
    assert whole(tmp_path / "toy")


# ---- what is there already


def test_what_appears_meanwhile_is_kept(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program makes the planned folder while this one works on it."""
    real = os.rename

    def rename(made: Path, final: Path) -> None:
        final.mkdir()
        (final / "mine").write_bytes(b"not yours")
        real(made, final)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(PrepError, match="toy: Directory not empty"):
        run(toy(site), tmp_path)
    assert [path.name for path in (tmp_path / "toy").iterdir()] == ["mine"]
    monkeypatch.undo()
    shutil.rmtree(tmp_path / "toy")
    run(toy(site), tmp_path)
    assert whole(tmp_path / "toy")


def test_a_dangling_link_in_the_place_of_a_dataset_is_kept(site: Site, tmp_path: Path) -> None:
    (tmp_path / "toy").symlink_to("nowhere")
    with pytest.raises(PrepError, match="was not made here"):
        run(toy(site), tmp_path)
    assert (tmp_path / "toy").is_symlink() and site.asked == []


# ---- no space


def test_no_space_while_cutting_keeps_what_is_downloaded(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, count = Path.write_bytes, 0

    def full(path: Path, data: bytes) -> int:
        nonlocal count
        count += 1
        if count > 8:
            real(path, data[:10])
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return real(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(PrepError, match="no space left for toy; make room"):
        run(toy(site), tmp_path)
    assert not (tmp_path / "toy").exists()
    monkeypatch.setattr(Path, "write_bytes", real)
    asked = len(site.asked)
    run(toy(site), tmp_path)
    assert whole(tmp_path / "toy") and len(site.asked) == asked


def test_a_download_larger_than_the_disk_is_not_begun(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(PrepError, match=r"needs 0\.\d MB more and 0\.0 MB are free"):
        run(toy(site), tmp_path)


def test_no_space_for_pairs_is_no_left_out_image(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from itersr.disk import WriteError
    from itersr.upscaling import files

    def full(photo: Any, path: Path) -> None:
        raise WriteError(path, "cannot be written (No space left on device)", "free space")

    monkeypatch.setattr(files, "write", full)
    with pytest.raises(PrepError, match="No space left"):
        run(toy(site, kind="pairs"), tmp_path)
    assert not (tmp_path / "toy").exists()


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=80k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk(site: Site, tiny_disk: Path) -> None:
    dataset = toy(site)
    assert 40_000 < len(site.files["set.zip"]) < 60_000  # fits once, not twice
    with pytest.raises(PrepError, match="no space left|are free"):
        run(dataset, tiny_disk)
    assert not (tiny_disk / "toy").exists()
    (tiny_disk / "filler").write_bytes(bytes(max(0, shutil.disk_usage(tiny_disk).free - 8192)))
    with pytest.raises(PrepError, match="no space left|are free"):
        run(dataset, tiny_disk)
    assert not (tiny_disk / "toy").exists()
    subprocess.run(["mount", "-o", "remount,size=2m", str(tiny_disk)], check=True)
    run(dataset, tiny_disk)
    assert whole(tiny_disk / "toy")


# ---- the command


def test_the_command(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    big = {f"set/{i:04d}.png": as_png(picture(300, 300, i)) for i in range(2)}
    dead = toy(site, as_zip(big), name="dead", archive={"addresses": (f"{site.address}/gone",)})
    monkeypatch.setattr("data_prep.__main__.TABLE", (dead, toy(site)))
    assert main(["all", "--root", str(tmp_path)]) == 1  # one is dead, the other is made all the same
    out, err = capsys.readouterr()
    assert "toy: 2 patches from 2 images" in out and "data_prep: dead:" in err and len(err.splitlines()) == 1
    assert main(["toy", "--root", str(tmp_path)]) == 0
    assert main(["list"]) == 0
    for bad in (["nothing"], ["toy", "--jobs", "2"]):
        with pytest.raises(SystemExit) as stop:
            main(bad)
        assert stop.value.code == 2


def test_a_foreign_folder_is_left_alone(site: Site, tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    with pytest.raises(PrepError, match="was not made here"):
        run(toy(site), tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_folder_is_named(site: Site, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(PrepError, match="Permission denied"):
        run(toy(site), tmp_path / "root")
    tmp_path.chmod(0o700)


# ---- the bench


@pytest.fixture
def bench_site(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """Two photos at two addresses each, RealSRSet as a toy, and no weights to fetch."""
    known = {f"kodak24/{i:02d}.png": digest(picture(seed=i)) for i in range(2)}
    (tmp_path / "bench.json").write_text(json.dumps(known))
    site.files |= {f"a/{i:02d}.png": as_png(picture(seed=i)) for i in range(2)}
    set_ = toy(site, as_zip(photos(2)), name="realsrset", kind="images", take=(("lq", r"set/(\d{4})\.png"),), images=2)
    monkeypatch.setattr(bench, "TABLE_OF_PHOTOS", tmp_path / "bench.json")
    monkeypatch.setattr(bench, "addresses", lambda name: tuple(f"{site.address}/{place}/{name[-6:]}" for place in "ab"))
    monkeypatch.setattr(bench, "TABLE", (set_,))
    monkeypatch.setattr(bench, "metric_weights", list)
    return site


def test_the_bench_is_fetched_once_and_completed(bench_site: Site, tmp_path: Path) -> None:
    bench_site.cut["a/00.png"] = [5000, 3000]  # a connection that breaks twice
    said = bench.make(tmp_path)
    assert said.startswith(f"{tmp_path / 'bench'}: 2 photos, RealSRSet")
    made = sorted(path.relative_to(tmp_path / "bench").as_posix() for path in (tmp_path / "bench").rglob("*.*"))
    assert made == ["test/kodak24/00.png", "test/kodak24/01.png", "test/realsrset/0000.png", "test/realsrset/0001.png"]
    assert digest(patches.pixels(tmp_path / "bench/test/kodak24/01.png")) == digest(picture(seed=1))
    asked = len(bench_site.asked)
    (tmp_path / "bench/test/kodak24/01.png").write_bytes(as_png(picture(seed=3)))  # damaged since
    bench.make(tmp_path)
    assert [path for path, _ in bench_site.asked[asked:]] == ["a/01.png"], "only what is wrong is fetched again"


def test_a_photo_that_is_another_is_taken_from_the_next_address(bench_site: Site, tmp_path: Path) -> None:
    bench_site.files["b/00.png"] = bench_site.files["a/00.png"]
    bench_site.files["a/00.png"] = as_png(picture(seed=5))
    bench.make(tmp_path)
    assert digest(patches.pixels(tmp_path / "bench/test/kodak24/00.png")) == digest(picture(seed=0))


def test_what_the_bench_lacks_is_told_when_all_else_is_there(bench_site: Site, tmp_path: Path,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    del bench_site.files["a/00.png"]
    monkeypatch.setattr(bench, "metric_weights", lambda: ["niqe needs weights"])
    with pytest.raises(PrepError, match=r"2 of 5 parts of bench are missing: .*00\.png.*404.*by hand.*niqe needs weights"):
        bench.make(tmp_path)
    assert (tmp_path / "bench/test/kodak24/01.png").exists() and (tmp_path / "bench/test/realsrset/0001.png").exists()


def test_the_bench_has_an_address_for_every_photo() -> None:
    known = json.loads(bench.TABLE_OF_PHOTOS.read_text())
    assert len(known) == 49
    assert bench.addresses("kodak24/07.png")[0] == "https://r0k.us/graphics/kodak/kodak/kodim07.png"
    assert all(len(bench.addresses(name)) == 2 for name in known)
    local = experiments.bench_folder()
    if local is None:
        pytest.skip("no bench beside the repository to compare the table with")
    assert all(digest(patches.pixels(local / "test" / name)) == sha256 for name, sha256 in known.items())
