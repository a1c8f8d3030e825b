"""Time upscaling: `make bench`, or `python -m tests.bench --tier tiny --side 64`.

Seconds per megapixel of the result, on one picture and in one run: ITER as `model.upscale` does it; the same networks run
naively (every step from T on, every step's picture decoded), in bfloat16, compiled; and bicubic. Every ratio is to
`upscale` in the same row. Networks with random weights take the same time as trained ones, so that tiers can be timed before
their weights exist; φ_e is shifted so that T_s comes out at --start, about where trained networks find it.
`--memory 1024` upscales one picture of that side with the first tier and tells the peak instead (minutes).
"""

from __future__ import annotations

import argparse
import math
import platform
import resource
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from itersr.config import TIERS, as_defined, tier
from itersr.model import ITER, pick_device
from itersr.schedule import tokens_to_keep


def seconds(run: Callable[[], object], repeats: int) -> float:
    """Best of `repeats`, after one run to warm up."""
    times = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return min(times[1:])


def fresh(name: str, device: torch.device, start: int, steps: int) -> ITER:
    """Random weights with an evaluator calibrated so that S_l has the good tokens of T_s = `start`."""
    torch.manual_seed(0)
    model = ITER(tier(name)).ready(device)
    calibrate(model, picture(64, device), start, steps)
    return model


@torch.no_grad()
def calibrate(model: ITER, lq: Tensor, start: int, steps: int) -> None:
    """Shift φ_e so that S_l of this picture has the good tokens of T_s = `start`."""
    model.calibration = 0.0
    log_probs = model.log_posterior(model.pad(lq))
    s_l = log_probs.argmax(1)
    odds = model.functions(log_probs)[1](s_l, s_l).exp().logit().flatten().sort(descending=True).values
    good = tokens_to_keep(start, steps, len(odds))
    alpha = as_defined(model.tier).alpha
    model.calibration = math.log(alpha / (1 - alpha)) - float(odds[min(good, len(odds) - 1)])  # so many have p(good) ≥ α


def naive(model: ITER, lq: Tensor, steps: int, tile: int | None = None) -> None:
    """Alg. 2 without its savings: every step from T on, from nothing known, and every step's picture decoded."""
    trace = model.restore(lq, adaptive=False, tile=tile, steps=steps)
    for i in range(len(trace.restored.steps)):
        trace.at(i)


def picture(side: int, device: torch.device) -> Tensor:
    return torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)).to(device)


def peak_mib() -> float:
    cuda = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else 0.0
    return cuda or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tier", nargs="+", default=["smoke", "tiny", "small"], choices=list(TIERS))
    parser.add_argument("--side", type=int, default=64, help="side of the LQ picture in pixels")
    parser.add_argument("--steps", type=int, default=8, help="T")
    parser.add_argument("--start", type=int, default=5, help="T_s that the random networks are calibrated to")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="also through torch.compile (minutes to compile)")
    parser.add_argument("--memory", type=int, metavar="SIDE", help="peak memory of one large picture instead of times")
    args = parser.parse_args()
    device = pick_device(args.device)
    where = f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    where = torch.cuda.get_device_name() if device.type == "cuda" else where
    if args.memory:
        model = ITER(tier(args.tier[0])).ready(device)
        before, began = peak_mib(), time.perf_counter()
        result = model.upscale((picture(args.memory, device)[0] * 255).byte(), steps=args.steps)
        print(f"{args.tier[0]}, LQ {args.memory}×{args.memory}, result {tuple(result.shape)}, T = {args.steps}, {where}:")
        took = time.perf_counter() - began
        print(f"{took:.0f} s, peak {peak_mib():.0f} MiB, of which {before:.0f} were there before")
        return

    print(f"LQ {args.side}×{args.side}, T = {args.steps}, {where}, torch {torch.__version__}; best of {args.repeats}")
    lq = picture(args.side, device)
    columns = ["naive", "bf16", *(["compiled"] if args.compile else []), "bicubic"]
    print(f"{'tier':8}{'M weights':>10}{'T_s':>5}{'s/megapixel':>13}" + "".join(f"{'× ' + c:>11}" for c in columns))
    for name in args.tier:
        model = fresh(name, device, args.start, args.steps)
        megapixels = (args.side * model.tier.scale) ** 2 / 1e6
        settings = {"steps": args.steps}

        ours = seconds(lambda: model.upscale(lq, **settings), args.repeats)  # noqa: B023
        times = {
            "naive": seconds(lambda: naive(model, lq, args.steps, tile=0), args.repeats),  # noqa: B023
            "bicubic": seconds(lambda: F.interpolate(lq, scale_factor=4, mode="bicubic", antialias=True), args.repeats),
        }
        if args.compile:
            for net in (model.lq_encoder, model.refiner, model.evaluator, model.vqgan.decoder):
                net.compile()
            times["compiled"] = seconds(lambda: model.upscale(lq, **settings), args.repeats)  # noqa: B023
        half = fresh(name, device, args.start, args.steps).bfloat16()
        times["bf16"] = seconds(lambda: half.upscale(lq, **settings), args.repeats)  # noqa: B023
        size = sum(weight.numel() for weight in model.parameters()) / 1e6
        start = int(half.restore(lq, **settings).start)
        ratios = "".join(f"{times[column] / ours:11.3g}" for column in columns)
        print(f"{name:8}{size:10.2f}{start:5}{ours / megapixels:13.2f}{ratios}", flush=True)
    print(f"peak memory {peak_mib():.0f} MiB")


if __name__ == "__main__":
    main()
