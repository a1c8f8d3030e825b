"""Kill `train all` at random moments and continue it: `python -m tests.kill_training --kills 20`.

What comes out must equal, to the bit, what a run gives that nobody disturbed.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor

from itersr.config import Tier, tier
from itersr.training.run import train_all
from itersr.weights import fingerprint

ROOT = Path(__file__).parents[1]
TIMED = ("trained", "other", "reserve")  # seconds: how long a run took is no part of what came out
BEGAN = "begins to train"


def config() -> Tier:
    """The smoke tier with a few small steps: k-means, an adversary, validations and checkpoints all come within seconds.

    The crop is not smaller: below 40 pixels LPIPS has maps of one pixel, whose gradients MKL does not repeat to the bit.
    """
    smoke = tier("smoke")
    few = {"steps": 12, "batch": 1, "crop": 64, "validations": 3, "checkpoint_every": 2}
    train = {name: dataclasses.replace(settings, **few) for name, settings in smoke.train.items()}  # type: ignore[arg-type]
    train["vqgan"] = dataclasses.replace(train["vqgan"], autoencoder=0.25, gan_start=0.6)
    return dataclasses.replace(smoke, train=train)


def child(out: Path) -> None:
    """What is killed."""
    print(BEGAN, flush=True)  # the imports are over
    train_all(config(), None, out, device="cpu", validation=(1, 32), progress=False)


def started(out: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-m", "tests.kill_training", "--child", str(out)], cwd=ROOT, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None and BEGAN in process.stdout.readline(), "the run did not start"
    return process


def whole(out: Path) -> float:
    """Run to the end; gives the seconds from the first line of training on."""
    process, began = started(out), time.monotonic()
    assert process.wait(timeout=600) == 0, "a run did not end well"
    return time.monotonic() - began


def difference(a: object, b: object, where: str = "") -> str:
    """Where two checkpoints differ first; "" if they are the same to the bit."""
    if where.rpartition("/")[2] in TIMED:
        return ""
    if isinstance(a, Tensor):
        return "" if isinstance(b, Tensor) and torch.equal(a, b) else where
    if isinstance(a, dict):
        if not isinstance(b, dict) or a.keys() != b.keys():
            return where
        return next((found for key in a if (found := difference(a[key], b[key], f"{where}/{key}"))), "")
    if isinstance(a, list | tuple):
        if not isinstance(b, list | tuple) or len(a) != len(b):
            return where
        return difference(dict(enumerate(a)), dict(enumerate(b)), where)
    return "" if a == b else where


def kill_and_continue(folder: Path, kills: int, seed: int = 0) -> tuple[int, list[str]]:
    """(how many of `kills` calls were killed before they were done, what differs in the end from an undisturbed run).

    Each call has a random time, up to half of what a run takes; one that was done in that time is followed by a
    run from the beginning, so that later kills hit training too.
    """
    draw = random.Random(seed)
    undisturbed, disturbed, killed = folder / "undisturbed", folder / "disturbed", 0
    seconds, wrong = whole(undisturbed), list[str]()
    for i in range(kills):
        process = started(disturbed)
        try:
            process.wait(timeout=draw.uniform(0, seconds / 2))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            killed += 1
        if process.wait() not in (0, -signal.SIGKILL):
            wrong.append(f"call {i} failed")
        if process.returncode == 0:
            wrong += compared(undisturbed, disturbed)
            disturbed = folder / f"disturbed{i}"
    whole(disturbed)
    return killed, wrong + compared(undisturbed, disturbed)


def compared(a: Path, b: Path) -> list[str]:
    """The checkpoints and weights that differ between two finished runs."""
    wrong = []
    for stage in config().plan:
        states = [torch.load(out / stage / "checkpoint.pt", weights_only=True) for out in (a, b)]
        where = difference(*states)
        wrong += [f"{b.name}/{stage}{where}"] if where else []
    return wrong + ([f"{b.name}/weights"] if fingerprint(a / "weights") != fingerprint(b / "weights") else [])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.kill_training", description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child is not None:
        child(args.child)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        killed, wrong = kill_and_continue(Path(folder), args.kills, args.seed)
    print(f"{killed} of {args.kills} calls were killed before they were done; in the end "
          + (f"differs: {', '.join(wrong)}" if wrong else "all checkpoints and weights equal those of an undisturbed run"))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
