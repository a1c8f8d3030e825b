"""What the benchmarks of whole networks share: a machine's rate of matrix products, timing, and counting operations."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable

import torch


def where(device: torch.device) -> str:
    """The machine in words."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU"
    return f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def wait(device: torch.device) -> None:
    """Until all that was asked of the device is done: a GPU is given work and computes it while the program goes on."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(run: Callable[[], object], device: torch.device) -> float:
    """Seconds of one run."""
    wait(device)
    began = time.perf_counter()
    run()
    wait(device)
    return time.perf_counter() - began


def median(run: Callable[[], object], device: torch.device, repeats: int, seconds: float) -> float:
    """Median seconds of up to `repeats` runs; no further one begins after `seconds`."""
    times = [timed(run, device)]
    while len(times) < repeats and sum(times) < seconds:
        times.append(timed(run, device))
    return statistics.median(times)


def allow_tf32(allowed: bool) -> None:
    """Whether a GPU may round the factors of float32 products to TensorFloat-32 (10 bits); the rest of it stays float32."""
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def matrix_rate(device: torch.device, dtype: torch.dtype, side: int = 0) -> tuple[float, str]:
    """Operations a second in a large matrix product of random numbers, and that product in words.

    side: of the matrices; 0 takes 8192 on a GPU and 1024 on a CPU. (Zeros would be multiplied faster: they need less power.)
    """
    side = side or (8192 if device.type == "cuda" else 1024)
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    for _ in range(2):
        a @ b
    return 2 * side**3 / median(lambda: a @ b, device, 10, 2), f"{side}³ {str(dtype).removeprefix('torch.')}"


def operations(run: Callable[[], object]) -> int:
    """Multiplications and additions in the matrix products and convolutions of one run, its backward pass included."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()
