"""Many faults at once, as figures: `python -m tests.fault_load [mutated] [killed] [folder]`, with `--share .1` for a tenth.

mutated   20,000 damaged files of seven formats: each gives a picture or one line; no traceback, no hang, no file left over
killed    100 × kill -9 at random moments, of `itersr train`, `itersr upscale` and `python -m data_prep`: nothing is corrupt
folder    300 files, 30 of them bad in 15 ways: 270 are done, 30 are named, the exit code is 2, and memory stays flat

`make test` runs all three with a small share.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from itersr.pictures import Meta, Photo
from itersr.upscaling.files import upscale_files
from itersr.upscaling.write import write
from tests.kill_training import kill_and_continue
from tests.test_upscale import Bicubic, files

ROOT = Path(__file__).parents[1]
SUFFIXES = ("png", "jpg", "webp", "tif", "bmp", "gif", "ppm")
SLOW = 20  # seconds for one damaged file: more counts as a hang


# ---------------------------------------------------------------------------------------------------------- mutated files


class Hang(BaseException):
    """Not an Exception: nothing on the way may take it for a fault of the file."""


@contextlib.contextmanager
def within(seconds: int) -> Iterator[None]:
    """Raises Hang in the block after so many seconds (where the system has alarms)."""
    def ring(*_: object) -> None:
        raise Hang

    if not hasattr(signal, "SIGALRM"):
        yield
        return
    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def seeds() -> list[bytes]:
    """One small valid file of each kind."""
    found = []
    rng = np.random.default_rng(0)
    rgba = Image.fromarray(rng.integers(0, 256, (24, 20, 4), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112], exif[315] = 3, "x"
    kinds: list[tuple[str, str, dict[str, Any]]] = [
        ("RGBA", "PNG", {}), ("P", "PNG", {"transparency": 0}), ("L", "PNG", {}), ("1", "PNG", {}),
        ("RGB", "JPEG", {"exif": exif.tobytes()}), ("CMYK", "JPEG", {}), ("L", "JPEG", {"progressive": True}),
        ("RGBA", "WEBP", {}), ("RGB", "WEBP", {"lossless": True}), ("RGB", "BMP", {}), ("P", "GIF", {}), ("RGB", "PPM", {}),
        ("RGB", "TIFF", {"compression": "tiff_lzw"}), ("RGBA", "TIFF", {"compression": "tiff_adobe_deflate"}),
        ("L", "TIFF", {}),
    ]  # fmt: skip
    for mode, name, options in kinds:
        out = io.BytesIO()
        image = rgba.convert("RGB").convert(mode) if mode in ("P", "CMYK") else rgba.convert(mode)
        image.save(out, format=name, **options)
        found.append(out.getvalue())
    with tempfile.TemporaryDirectory() as folder:
        for suffix in ("png", "tif"):
            deep = Photo(torch.rand(3, 20, 24), torch.rand(1, 20, 24), Meta(bits=16))
            write(deep, Path(folder) / f"x.{suffix}")
            found.append((Path(folder) / f"x.{suffix}").read_bytes())
    return found


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Cut, flip, overwrite, insert or repeat: what disks, networks and attackers do."""
    content = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        at = rng.randrange(len(content)) if content else 0
        kind = rng.randrange(6)
        if kind == 0:
            del content[at:]
        elif kind == 1 and content:
            content[at] ^= 1 << rng.randrange(8)
        elif kind == 2 and content:
            content[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif kind == 3:
            content[at:at] = rng.randbytes(rng.randrange(1, 16))
        elif kind == 4:
            content[at : at + 4] = rng.choice((b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\1\0"))
        else:
            content[at:at] = content[at : at + rng.randrange(1, 64)]
    return bytes(content)


def mutated_files(count: int, seed: int = 0) -> dict[str, int]:
    """What became of `count` damaged files: {"pictures", "lines", "tracebacks", "hangs", "files left"}."""
    rng, kinds, model = random.Random(seed), seeds(), Bicubic()
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, 500_000  # Pillow opens twice as many: damaged sizes cost less time
    found = dict.fromkeys(("pictures", "lines", "tracebacks", "hangs", "files left"), 0)
    for i in range(count):
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            path = folder / f"x.{rng.choice(SUFFIXES)}"
            path.write_bytes(mutated(kinds[i % len(kinds)], rng))
            try:
                with within(SLOW):
                    failures = upscale_files(lambda: model, [path], folder / "out")
            except Hang:
                found["hangs"] += 1
                continue
            except Exception:
                found["tracebacks"] += 1
                continue
            made = [name for name in files(folder) if name != path.name]
            if failures:
                found["lines"] += 1
                one_line = "\n" not in failures[0].message and f"{folder}" in failures[0].message
                found["tracebacks"] += not one_line
                found["files left"] += bool(made)
            else:
                found["pictures"] += 1
                found["files left"] += len(made) != 1
                with Image.open(folder / made[0]) as image:
                    image.load()
    Image.MAX_IMAGE_PIXELS = before
    return found


# ------------------------------------------------------------------------------------------------------------ kill -9


def killed_often(call: Callable[[Path], Sequence[str]], finished: Callable[[Path], dict[str, bytes]], folder: Path, kills: int,
                 seed: int = 0) -> tuple[int, list[str]]:
    """(how many calls were killed before they were done, what is corrupt). After every kill, results under their final names
    must be those of a run that nobody disturbed; in the end all of them must be there. Calls go on until `kills` were killed.

    call: the command that puts its results into a folder, and goes on where results are. finished: the results there.
    """
    draw = random.Random(seed)
    began = time.monotonic()
    subprocess.run(call(folder / "undisturbed"), cwd=ROOT, check=True, capture_output=True, timeout=600)
    seconds, wanted = time.monotonic() - began, finished(folder / "undisturbed")
    out, finishes, killed, corrupt = folder / "disturbed", 0, 0, list[str]()
    while killed < kills:
        process = subprocess.Popen(call(out), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(timeout=draw.uniform(0.3, 0.9) * seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            killed += 1
        process.wait()
        corrupt += [f"{out.name}/{name}" for name, content in finished(out).items() if wanted.get(name) != content]
        if finished(out).keys() == wanted.keys():
            finishes += 1
            out = folder / f"disturbed{finishes}"  # all is done: begin again, so that later kills hit work too
    subprocess.run(call(out), cwd=ROOT, check=True, capture_output=True, timeout=600)
    return killed, corrupt + ([] if finished(out) == wanted else [f"{out.name}: not what an undisturbed run gives"])


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder that is not hidden, and what is in it."""
    named = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in named
            if not any(part.startswith(".") for part in path.relative_to(folder).parts)}


def photos(folder: Path, count: int, size: int = 48, seed: int = 0) -> Path:
    """A folder with `count` made pictures, PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[0:size, 0:size]
    for i in range(count):
        waves = [128 + 90 * np.sin(x / (4 + i) + c) * np.cos(y / 5 + i + seed) for c in range(3)]
        Image.fromarray(np.stack(waves, -1).astype(np.uint8)).save(folder / f"{i:03d}.png")
    return folder


DATA_PREP = """
import shutil
import sys
from pathlib import Path
from data_prep.datasets import Archive, Dataset
from data_prep.prepare import prepare
archive = Archive("set.zip", ("http://127.0.0.1:9/set.zip",))
dataset = Dataset("toy", "Toy", "patches", (archive,), (("hq", r"(.+)[.]png"),), 99, "https://example.org", "none", "nobody")
(Path(sys.argv[1]) / "archives").mkdir(parents=True, exist_ok=True)
shutil.copy(Path(sys.argv[2]) / "set.zip", Path(sys.argv[1]) / "archives")
prepare(dataset, Path(sys.argv[1]), 64)
"""


def kill_all(kills: int, pictures: int = 24) -> dict[str, tuple[int, list[str]]]:
    """For each of the three commands, on so many pictures: how many of its calls were killed, and what was corrupt."""
    found = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        found["train"] = kill_and_continue(folder / "train", kills)
        inputs = photos(folder / "inputs", pictures)
        upscale = [sys.executable, "-m", "itersr", "upscale", str(inputs), "--tier", "smoke", "--skip-existing", "--suffix", ""]
        found["upscale"] = killed_often(lambda out: [*upscale, "-o", str(out)], contents, folder / "upscale", kills)
        shutil.make_archive(str(folder / "archives" / "set"), "zip", photos(folder / "large", pictures, 600))
        found["data_prep"] = killed_often(
            lambda out: [sys.executable, "-c", DATA_PREP, str(out), str(folder / "archives")],
            lambda out: contents(out / "toy"), folder / "data_prep", kills)
    return found


# ---------------------------------------------------------------------------------------------------------- a folder


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def bad_files(folder: Path) -> list[str]:
    """Put a file of each of 15 bad kinds into a folder; gives their names."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    png, jpeg, tiff = encoded(image, "PNG"), encoded(image, "JPEG"), encoded(image, "TIFF", compression="tiff_lzw")
    bomb = bytearray(encoded(image, "BMP"))
    bomb[18:26] = (60_000).to_bytes(4, "little") * 2
    nan = io.BytesIO()
    Image.fromarray(np.full((16, 16), np.nan, np.float32)).save(nan, "TIFF")
    content = {
        "empty.png": b"", "text.jpg": b"no picture\n" * 9, "zip.png": b"PK\3\4" + bytes(300), "cut1.png": png[: len(png) // 2],
        "cut2.jpg": jpeg[: len(jpeg) // 2], "cut3.tif": tiff[: len(tiff) // 2], "cut4.webp": encoded(image, "WEBP")[:60],
        "cut5.gif": encoded(image, "GIF")[:500], "checksum.png": png.replace(b"IDAT", b"IDAX"), "header.png": png[:20],
        "bomb.bmp": bytes(bomb), "nan.tif": nan.getvalue(), "zeros.jpg": bytes(4000),
        "n" * 248 + ".png": png,  # the name of its result is too long
    }
    for name, data in content.items():
        (folder / name).write_bytes(data)
    (folder / "sub.png").symlink_to(folder / "nowhere.png")
    return [*content, "sub.png"]


def mixed_folder(folder: Path, good: int, bad: int) -> list[str]:
    """`good` pictures of many kinds and `bad` bad ones (15 a subfolder); gives the names of the bad ones."""
    rng = np.random.default_rng(0)
    kinds = [("png", "RGB"), ("jpg", "RGB"), ("webp", "RGBA"), ("tif", "RGB"), ("bmp", "L"), ("gif", "P"), ("png", "LA"),
             ("ppm", "RGB"), ("jpg", "CMYK")]
    folder.mkdir()
    for i in range(good):
        suffix, mode = kinds[i % len(kinds)]
        pixels = rng.integers(0, 256, (*rng.integers(5, 40, 2), 4), dtype=np.uint8)
        image = Image.fromarray(pixels)
        image = image.convert("RGB").convert(mode) if mode in ("P", "CMYK") else image.convert(mode)
        image.save(folder / f"good{i:03d}.{suffix}")
    names = []
    for i in range(bad // 15):
        (folder / f"part{i}").mkdir()
        names += [f"part{i}/{name}" for name in bad_files(folder / f"part{i}")]
    return names


def upscale_folder(good: int, bad: int) -> dict[str, object]:
    """`itersr upscale` on such a folder, as a program: what was done, named, left, its exit code, and MiB in use."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        names = mixed_folder(folder / "in", good, bad)
        command = [sys.executable, "-m", "itersr", "upscale", str(folder / "in"), "-o", str(folder / "out"), "--tier", "smoke"]
        with open(folder / "said", "w+b") as said:
            process = subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=subprocess.STDOUT)
            memory, status = list[int](), Path(f"/proc/{process.pid}/status")
            while process.poll() is None:
                if (folder / "out").exists() and status.exists():  # the networks are loaded
                    memory += [int(x) // 1024 for x in re.findall(r"VmRSS:\s+(\d+)", status.read_text())]
                time.sleep(0.1)
            said.seek(0)
            text = said.read().decode("utf-8", "replace")
        errors = "\n".join(line for line in text.splitlines() if line.startswith("itersr: "))
        quarter = max(len(memory) // 4, 1)
        return {
            "done": sum(name.endswith("_out") for name in (path.stem for path in (folder / "out").rglob("*"))),
            "named": sum(Path(name).with_suffix("").as_posix() in errors for name in names), "bad": len(names),
            "exit code": process.returncode, "tracebacks": text.count("Traceback"),
            "hidden files left": sum(path.name.startswith(".") for path in (folder / "out").rglob("*")),
            "MiB, second quarter": statistics.median(memory[quarter : 2 * quarter] or [0]),
            "MiB, last quarter": statistics.median(memory[-quarter:] or [0]),
        }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fault_load", description=__doc__.split("\n")[0])
    parser.add_argument("which", nargs="*", default=["mutated", "killed", "folder"], metavar="WHICH",
                        help="mutated, killed or folder (default: all three)")
    parser.add_argument("--share", type=float, default=1.0, help="of the full numbers (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the damage")
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # Pillow's, of what it reads
    bad = False
    for which in args.which:
        began = time.monotonic()
        if which == "mutated":
            found = mutated_files(round(20_000 * args.share), args.seed)
            bad |= any(found[name] for name in ("tracebacks", "hangs", "files left"))
            print("mutated:", found, end="")
        elif which == "killed":
            kills = {name: (n, corrupt) for name, (n, corrupt) in kill_all(max(round(34 * args.share), 1)).items()}
            bad |= any(corrupt for _, corrupt in kills.values())
            print("killed:", "; ".join(f"{name}: {n} killed, {len(c)} corrupt {c[:3] or ''}" for name, (n, c) in kills.items()),
                  end="")
        elif which == "folder":
            parts = max(round(2 * args.share), 1)
            told = upscale_folder(135 * parts, 15 * parts)
            bad |= told["done"] != 135 * parts or told["named"] != told["bad"] or told["exit code"] != 2
            print("folder:", told, end="")
        else:
            parser.error(f"{which}: there are mutated, killed and folder")
        print(f"  ({time.monotonic() - began:.0f} s)", flush=True)
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
