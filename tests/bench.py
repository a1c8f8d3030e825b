"""Time Algorithm 2 on one picture: `make bench`, or `python -m tests.bench --tier small --side 128`.

Networks with random weights take the same time as trained ones, so every tier can be timed before its weights exist.
Policy "random" goes through all T steps whatever the evaluator says, so that the times of two tiers compare.
"""

from __future__ import annotations

import argparse
import platform
import resource
import time

import torch

from itersr.config import TIERS, tier
from itersr.model import ITER, pick_device


def seconds(model: ITER, lq: torch.Tensor, steps: int, repeats: int) -> float:
    """Best of `repeats`, after one run to warm up."""
    times = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        model.restore(lq, steps=steps, policy="random", adaptive=False, seed=0)
        if lq.device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return min(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__.splitlines()[0])
    parser.add_argument("--tier", nargs="+", default=["smoke", "tiny"], choices=list(TIERS))
    parser.add_argument("--side", type=int, default=64, help="side of the LQ picture in pixels")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    device = pick_device(args.device)
    cuda = device.type == "cuda"
    where = torch.cuda.get_device_name() if cuda else f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    print(f"LQ {args.side}×{args.side} on {where}, torch {torch.__version__}; best of {args.repeats}")
    print(f"{'tier':8}{'million weights':>16}" + "".join(f"{f'T = {steps}, s':>12}" for steps in args.steps))
    for tier_name in args.tier:
        torch.manual_seed(0)
        model = ITER(tier(tier_name)).to(device).eval()
        lq = torch.rand(1, 3, args.side, args.side, generator=torch.Generator().manual_seed(0)).to(device)
        row = [seconds(model, lq, steps, args.repeats) for steps in args.steps]
        size = sum(weight.numel() for weight in model.parameters()) / 1e6
        print(f"{tier_name:8}{size:16.2f}" + "".join(f"{value:12.3f}" for value in row), flush=True)
    kib = torch.cuda.max_memory_allocated() / 1024 if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"peak memory {kib / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
