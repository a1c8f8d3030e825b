"""Upscaling on a GPU, measured: `python -m tests.benchmarks.bench_gpu [--device cuda] [--seconds 45] [--json FILE]`.

A row is a tier (random weights, with φ_e shifted so that T_s comes out at --start, as in tests/bench.py), an LQ size and a
precision: fp32, tf32 (float32 with factors rounded to TensorFloat-32) or bf16. It tells

    seconds     median of an upscale, with all that belongs to it (the colours, the way back to the CPU)
    GiB         largest memory in use at a time, weights included (on a CPU: of the whole process)
    share       operations of that upscale (products and convolutions), by its seconds, by the rate of the machine: that of a
                large matrix product in the row's precision, measured first
    × naive     seconds of the same networks run naively (all T steps from nothing known, every step's picture decoded)

Rows come from quick to slow. One that would not end within --seconds, judged by the same tier at a smaller size, is left out
and named. A rehearsal on a CPU: `--device cpu --sides 32 --tier tiny`.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from pathlib import Path
from typing import Any

import torch

from itersr.config import TIERS, tier
from itersr.model import ITER, pick_device
from itersr.tiled import tile_for
from tests.bench import calibrate, naive, peak_mib, picture
from tests.benchmarks import machine

PRECISIONS = {"bf16": torch.bfloat16, "tf32": torch.float32, "fp32": torch.float32}


def measure(model: ITER, side: int, steps: int, start: int) -> dict[str, Any]:
    """The numbers of a row but for its rate; `model` is on its device and in its precision."""
    device = model.device
    lq = picture(side, device)
    calibrate(model, lq, start, steps)

    def upscale() -> None:
        model.upscale(lq, steps=steps)

    upscale()  # libraries load, and choose their kernels, at the first use
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    upscale()
    peak = peak_mib() / 1024
    seconds = machine.median(upscale, device, 5, 2)
    if seconds < 0.5:
        naive(model, lq, steps)
    return {
        "T_s": int(model.restore(lq, steps=steps, keep_steps=False).start),
        "tile": tile_for(model, (side, side)),
        "seconds": seconds,
        "GiB": peak,
        "operations": machine.operations(upscale),
        "naive": machine.median(lambda: naive(model, lq, steps), device, 3, 1),
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="bench_gpu", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=45)
    parser.add_argument("--tier", nargs="+", default=["tiny", "small", "paper"], choices=list(TIERS))
    parser.add_argument("--sides", nargs="+", type=int, default=[128, 256], help="of the LQ picture in pixels")
    parser.add_argument("--precision", nargs="+", default=list(PRECISIONS), choices=list(PRECISIONS))
    parser.add_argument("--steps", type=int, default=8, help="T")
    parser.add_argument("--start", type=int, default=5, help="T_s that the random networks are calibrated to")
    parser.add_argument("--json", type=Path, help="also write the rows there")
    args = parser.parse_args(arguments)
    began, device = time.perf_counter(), pick_device(args.device)
    print(f"{machine.where(device)}; T = {args.steps}, random weights")
    rates = {}
    for precision in args.precision:
        machine.allow_tf32(precision == "tf32")
        rates[precision], product = machine.matrix_rate(device, PRECISIONS[precision])
        print(f"{precision}: {rates[precision] / 1e12:.3g} TFLOP/s in a {product} product")

    torch.manual_seed(0)
    on_cpu = {name: ITER(tier(name)) for name in args.tier}
    print(f"{'tier':7}{'LQ':>5}{'':>6}{'T_s':>5}{'tile':>6}{'seconds':>10}{'GiB':>7}{'TFLOP':>8}{'share':>8}{'× naive':>9}")
    rows: list[dict[str, Any]] = []
    took: dict[tuple[str, str], tuple[int, float]] = {}  # (tier, precision) -> the last side, and the seconds of its row
    left_out = []
    for side in sorted(args.sides):
        for name in args.tier:
            for precision in args.precision:
                now = time.perf_counter()
                before, seconds = took.get((name, precision), (side, 0.0))
                if now - began + seconds * (side / before) ** 2 > args.seconds:
                    left_out.append(f"{name} {side} {precision}")
                    continue
                machine.allow_tf32(precision == "tf32")
                model = copy.deepcopy(on_cpu[name]).to(PRECISIONS[precision]).ready(device)
                row = {"tier": name, "side": side, "precision": precision, **measure(model, side, args.steps, args.start)}
                row["share"] = row["operations"] / row["seconds"] / rates[precision]
                rows.append(row)
                print(f"{name:7}{side:5}{precision:>6}{row['T_s']:5}{row['tile']:6}{row['seconds']:10.4f}{row['GiB']:7.2f}"
                      f"{row['operations'] / 1e12:8.3g}{row['share']:8.1%}{row['naive'] / row['seconds']:9.2f}", flush=True)
                took[name, precision] = side, time.perf_counter() - now
    print(f"{time.perf_counter() - began:.0f} s; left out for want of time: {', '.join(left_out) or 'nothing'}")
    if args.json:
        record = {"machine": machine.where(device), "rates": rates, "rows": rows, "left out": left_out}
        args.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
