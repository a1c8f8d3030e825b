"""Training, measured: `python -m tests.benchmarks.bench_training --tier tiny --device cuda --precision bf16 --workers 8`.

For each stage, over --seconds of steps as they are at the end of a run (with the codebook and, where the tier has one, the
adversary):

    img/s       images a second
    share       operations of a step (products and convolutions, the backward pass too), by its seconds, by the rate of a
                large bfloat16 matrix product on the same machine, measured first
    waiting     time spent waiting for the next batch, over all. Without --workers that is the time to make the batch, and a
                GPU may still be at work meanwhile

Networks have random weights: they take the same time as trained ones.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from itersr.config import TIERS, Tier, tier
from itersr.model import ITER
from itersr.swin import SwinBlock
from itersr.training.algorithm1 import Algorithm1
from itersr.training.data import Crops, Photos, ranges
from itersr.training.loop import Watch, make_accelerator, make_loader, make_optimizers, update
from itersr.training.stage1 import Stage1
from tests.benchmarks import machine

WARM_UP = 3  # steps before the clock runs: libraries load, and choose their kernels, at the first use


def task_of(stage: str, config: Tier) -> Any:
    """What a stage trains, fresh."""
    torch.manual_seed(0)
    if stage == "vqgan":
        return Stage1(config, 0)
    model = ITER(config)
    model.refiner.start_from(model.lq_encoder)
    return Algorithm1(model, config.train[stage], 0)


def compile_blocks(task: nn.Module) -> None:
    """torch.compile for the Swin blocks: not for whole networks, since all blocks of a kind share what is compiled once."""
    for module in task.modules():
        if isinstance(module, SwinBlock):
            module.compile(dynamic=False)


def measure(stage: str, config: Tier, photos: Photos, accelerator: Any, batch: int, workers: int | None, compiled: bool,
            seconds: float, profile: bool = False) -> dict[str, Any]:
    """The numbers of a row but for its share of the machine's rate."""
    settings, device = config.train[stage], accelerator.device
    degradation = None if stage == "vqgan" else ranges(config.degradation)
    crops = Crops(photos, settings.crop, 0, degradation=degradation, scale=config.scale, mild=settings.mild)
    task = task_of(stage, config).to(device, memory_format=torch.channels_last).train()
    if stage == "vqgan":
        task.started = True
    optimizers = make_optimizers(task, device)
    watch = Watch(crops, Path("none"), 20)
    loader = make_loader(crops, range(10**9), batch, workers, accelerator)
    wrapped, loader = accelerator.prepare(task, loader, device_placement=[True, False])
    batches, began = iter(loader), time.perf_counter()
    images = next(batches)

    def step() -> None:
        watch.history = [math.inf]  # networks with random weights may do what they like
        update(task, wrapped, optimizers, images, 0.99, accelerator, watch, 0)

    operations = machine.operations(step)  # before compilation, which would hide them
    first = time.perf_counter()
    if compiled:
        compile_blocks(task)
    for _ in range(WARM_UP):
        images = next(batches)
        step()
    machine.wait(device)
    ready, waited, steps = time.perf_counter(), 0.0, 0
    while time.perf_counter() - ready < seconds:
        asked = time.perf_counter()
        images = next(batches)
        waited += time.perf_counter() - asked
        step()
        steps += 1
    machine.wait(device)
    watch.read()
    total = time.perf_counter() - ready
    if profile:
        with torch.profiler.profile() as seen:
            for _ in range(3):
                step()
            machine.wait(device)
        by = f"self_{device.type}_time_total"
        print(seen.key_averages().table(sort_by=by, row_limit=25, max_name_column_width=60))
    return {"stage": stage, "batch": batch, "crop": settings.crop, "compiled": compiled, "steps": steps, "step": total / steps,
            "images": steps * batch / total, "operations": operations, "waiting": waited / total,
            "workers start": first - began, "warm-up": ready - first,
            "memory": torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else float("nan")}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="bench_training", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tier", default="tiny", choices=list(TIERS))
    parser.add_argument("--stages", nargs="+", default=list(TIERS["paper"].train), choices=list(TIERS["paper"].train))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=("auto", "no", "bf16"), default="auto", help="mixed precision")
    parser.add_argument("--compiled", choices=("auto", "yes", "no", "both"), default="auto",
                        help="torch.compile (auto: on a GPU)")
    parser.add_argument("--batch", type=int, help="instead of the tier's")
    parser.add_argument("--workers", type=int, help="processes that make crops (default: as in training)")
    parser.add_argument("--seconds", type=float, default=5, help="of each stage (default: %(default)s)")
    parser.add_argument("--data", metavar="DIR", help="a folder of photos (default: photos inside scikit-image)")
    parser.add_argument("--profile", action="store_true", help="also the operations that took longest, of three steps")
    parser.add_argument("--json", type=Path, help="also write the rows there")
    args = parser.parse_args(arguments)
    accelerator, config, photos = make_accelerator(args.device, args.precision), tier(args.tier), Photos.of(args.data)
    device = accelerator.device
    kinds = {"auto": [device.type == "cuda"], "yes": [True], "no": [False], "both": [False, True]}[args.compiled]
    rate, product = machine.matrix_rate(device, torch.bfloat16)
    print(f"{args.tier}, mixed precision: {accelerator.mixed_precision}; {machine.where(device)}")
    print(f"{rate / 1e12:.3g} TFLOP/s in a {product} product")
    print(f"{'stage':12}{'batch':>6}{'crop':>6}{'steps':>7}{'s/step':>9}{'img/s':>9}{'TFLOP':>8}{'share':>8}{'waiting':>9}{'compiled':>9}{'ready':>7}{'GiB':>6}")
    rows = []
    for stage, compiled in itertools.product(args.stages, kinds):
        row = measure(stage, config, photos, accelerator, args.batch or config.train[stage].batch, args.workers, compiled,
                      args.seconds, args.profile)
        row["share"] = row["operations"] / row["step"] / rate
        rows.append(row)
        print(f"{stage:12}{row['batch']:6}{row['crop']:6}{row['steps']:7}{row['step']:9.4f}{row['images']:9.1f}"
              f"{row['operations'] / 1e12:8.3g}{row['share']:8.1%}{row['waiting']:9.0%}{str(compiled):>9}"
              f"{row['workers start'] + row['warm-up']:7.1f}{row['memory']:6.1f}", flush=True)
    if args.json:
        record = {"machine": machine.where(device), "tier": args.tier, "precision": accelerator.mixed_precision,
                  "rate": rate, "product": product, "rows": rows}
        args.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
