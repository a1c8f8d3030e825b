"""Training, measured: `python -m tests.benchmarks.bench_training --tier tiny --device cuda --precision bf16 --workers 8`.

For each stage, over --seconds of steps as they are at the end of a run (with the codebook, and with the adversary where the
tier has one):

    img/s       images a second
    share       operations of a step (products and convolutions, the backward pass too), by its seconds, by the rate of a
                large bfloat16 matrix product on the same machine, measured first
    waiting     time spent waiting for the next batch, over all. Without --workers that is the time to make the batch, and a
                GPU may still be at work meanwhile

Networks have random weights: they take the same time as trained ones.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from itersr.config import TIERS, Tier, tier
from itersr.model import ITER, pick_device
from itersr.swin import SwinBlock
from itersr.training.algorithm1 import Algorithm1
from itersr.training.data import Crops, From, Photos, ranges
from itersr.training.run import STAGES
from itersr.training.stage1 import Stage1
from tests.benchmarks import machine

WARM_UP = 3  # steps before the clock runs: libraries load, and choose their kernels, at the first use


def task_of(stage: str, config: Tier) -> Any:
    """What a stage trains, fresh."""
    torch.manual_seed(0)
    if stage == "vqgan":
        task: Any = Stage1(config, 0)
        task.started = True  # with the codebook
        return task
    model = ITER(config)
    model.refiner.start_from(model.lq_encoder)
    return Algorithm1(model, config.train[stage], 0)


def one_step(task: Any, optimizers: dict[str, Any], batch: dict[str, Tensor], half: bool) -> None:
    """The last step of a run, as itersr/training/loop.py takes it, without what it reads back, logs and averages."""
    along = 1.0
    for part in task.active(along):
        for optimizer in optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        with torch.autocast(batch["hq"].device.type, torch.bfloat16, enabled=half):
            loss, _ = task(batch, along, part)
        loss.backward()
        parameters = [p for group in optimizers[part].param_groups for p in group["params"]]
        torch.nn.utils.clip_grad_norm_(parameters, task.config.clip)
        optimizers[part].step()


def measure(stage: str, config: Tier, photos: Photos, device: torch.device, half: bool, batch: int, workers: int,
            seconds: float, compiled: bool) -> dict[str, Any]:
    """The numbers of a row but for its share of the machine's rate."""
    settings = config.train[stage]
    degradation = None if stage == "vqgan" else ranges(config.degradation)
    crops = Crops(photos, settings.crop, 0, degradation=degradation, scale=config.scale)
    loader = iter(DataLoader(crops, batch_size=batch, sampler=From(0, 10**9), num_workers=workers,
                             pin_memory=device.type == "cuda", multiprocessing_context="forkserver" if workers else None))
    task = task_of(stage, config).to(device, memory_format=torch.channels_last).train()
    optimizers = {}
    for name, part in task.parts.items():
        trained = [p for p in part.parameters() if p.requires_grad]
        optimizers[name] = torch.optim.Adam(trained, lr=settings.lr, betas=settings.betas, fused=device.type == "cuda")

    def next_batch() -> dict[str, Tensor]:
        return {name: value.to(device, non_blocking=True) for name, value in next(loader).items()}

    images = next_batch()
    operations = machine.operations(lambda: one_step(task, optimizers, images, half))  # before compiling: it looks inside
    for module in task.modules() if compiled else ():
        if isinstance(module, SwinBlock):
            module.compile()
    for _ in range(WARM_UP):
        one_step(task, optimizers, next_batch(), half)

    machine.wait(device)
    began, waited, steps = time.perf_counter(), 0.0, 0
    while time.perf_counter() - began < seconds:
        asked = time.perf_counter()
        images = next_batch()
        waited += time.perf_counter() - asked
        one_step(task, optimizers, images, half)
        steps += 1
    machine.wait(device)
    total = time.perf_counter() - began
    return {"stage": stage, "batch": batch, "crop": settings.crop, "steps": steps, "step": total / steps,
            "images": steps * batch / total, "operations": operations, "waiting": waited / total}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="bench_training", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tier", default="tiny", choices=list(TIERS))
    parser.add_argument("--stages", nargs="+", default=list(STAGES), choices=list(STAGES))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=("no", "bf16"), default="no", help="mixed precision (default: %(default)s)")
    parser.add_argument("--batch", type=int, help="instead of the tier's")
    parser.add_argument("--workers", type=int, default=0, help="processes that load photos (default: %(default)s)")
    parser.add_argument("--compile", action="store_true", help="Swin blocks through torch.compile, as a GPU trains them")
    parser.add_argument("--seconds", type=float, default=5, help="of each stage (default: %(default)s)")
    parser.add_argument("--data", metavar="DIR", help="a folder of photos (default: photos inside scikit-image)")
    parser.add_argument("--json", type=Path, help="also write the rows there")
    args = parser.parse_args(arguments)
    device, config, photos = pick_device(args.device), tier(args.tier), Photos.of(args.data)
    rate, product = machine.matrix_rate(device, torch.bfloat16)
    print(f"{args.tier}, mixed precision: {args.precision}, {args.workers} workers; {machine.where(device)}")
    print(f"{rate / 1e12:.3g} TFLOP/s in a {product} product")
    print(f"{'stage':12}{'batch':>6}{'crop':>6}{'steps':>7}{'s/step':>9}{'img/s':>9}{'TFLOP':>8}{'share':>8}{'waiting':>9}")
    rows = []
    for stage in args.stages:
        row = measure(stage, config, photos, device, args.precision == "bf16", args.batch or config.train[stage].batch,
                      args.workers, args.seconds, args.compile)
        row["share"] = row["operations"] / row["step"] / rate
        rows.append(row)
        print(f"{stage:12}{row['batch']:6}{row['crop']:6}{row['steps']:7}{row['step']:9.4f}{row['images']:9.1f}"
              f"{row['operations'] / 1e12:8.3g}{row['share']:8.1%}{row['waiting']:9.0%}", flush=True)
    if args.json:
        record = {"machine": machine.where(device), "tier": args.tier, "precision": args.precision, "workers": args.workers,
                  "compiled": args.compile, "rate": rate, "product": product, "rows": rows}
        args.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
