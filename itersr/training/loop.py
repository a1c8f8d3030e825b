"""One plain training loop. `accelerate` carries the device, mixed precision and several processes; a run stops at a time
limit, goes on to the bit where it stopped, survives being killed, and never trains on after a NaN.

A folder of a run holds checkpoint.pt (everything needed to go on), log.csv (step, seconds, split, name, value), settings.json
(what a model card is written from), TensorBoard events, and the latest validation pictures.
"""

from __future__ import annotations

import csv
import itertools
import json
import logging
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from itersr.config import TrainConfig
from itersr.training.data import Crops, From

log = logging.getLogger(__name__)

Validate = Callable[[], tuple[dict[str, float], dict[str, Tensor]]]


class Task(Protocol):
    """What the loop trains: `Stage1` or `Algorithm1`."""

    config: TrainConfig
    seed: int

    @property
    def trained(self) -> dict[str, nn.Module]: ...
    @property
    def parts(self) -> dict[str, nn.Module]: ...
    def active(self, step: int) -> list[str]: ...
    def after_step(self, step: int, crops: Crops, accelerator: Any) -> None: ...


class TrainingError(Exception):
    """A run that cannot go on; one line says at which step, on which photos, and where the last good checkpoint is."""


class Average:
    """An exponential moving average of weights, slow to forget but quick to start: decay = min(ema, (1 + n)/(10 + n))."""

    def __init__(self, networks: dict[str, nn.Module], decay: float) -> None:
        self.networks, self.decay, self.updates = networks, decay, 0
        self.weights = {key: p.detach().clone() for key, p in self._live().items()}

    def _live(self) -> dict[str, Tensor]:
        return {f"{name}.{key}": p for name, net in self.networks.items() for key, p in net.named_parameters()}

    @torch.no_grad()
    def update(self) -> None:
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(list(self.weights.values()), list(self._live().values()), 1 - decay)
        self.updates += 1

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange live and averaged weights; a second call undoes the first."""
        for key, p in self._live().items():
            live = p.clone()
            p.copy_(self.weights[key])
            self.weights[key].copy_(live)


def learning_rate(step: int, config: TrainConfig) -> float:
    """Linear warm-up, then a cosine from `lr` down to `final_lr`·`lr` at the last step."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    along = (step - config.warmup) / max(config.steps - config.warmup, 1)
    floor = config.final_lr * config.lr
    return floor + (config.lr - floor) * (1 + math.cos(math.pi * along)) / 2


def train(task: Any, crops: Crops, out: Path, *, validate: Validate, save_weights: Callable[[], None],
          record: dict[str, Any] | None = None, minutes: float | None = None, resume: bool = False, stop_at: int | None = None,
          accelerator: Any = None, workers: int = 0, progress: bool = True) -> dict[str, float]:
    """Train `task` for `task.config.steps` steps; gives the last validation's scalars.

    validate, save_weights: called with the averaged weights in place. record: what settings.json is to say of this run.
    minutes: stop well after so long and leave a checkpoint. resume: go on from `out`'s checkpoint. stop_at: end this call at
    an earlier step (the schedule still aims at `config.steps`). Raises TrainingError for a NaN or an exploding loss,
    FileExistsError where `out` already holds a run.
    """
    config: TrainConfig = task.config
    accelerator = accelerator or make_accelerator()
    main = accelerator.is_main_process
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = out / "checkpoint.pt"
    if checkpoint.exists() and not resume:
        raise FileExistsError(f"{out} already holds a run: go on with --resume, or name another folder")
    if main and record is not None:
        (out / "settings.json.tmp").write_text(json.dumps(record, indent=1) + "\n")
        os.replace(out / "settings.json.tmp", out / "settings.json")  # whole or not at all, as checkpoints are

    task.to(accelerator.device, memory_format=torch.channels_last)
    optimizers = {name: torch.optim.Adam([p for p in part.parameters() if p.requires_grad], lr=config.lr, betas=config.betas)
                  for name, part in task.parts.items()}
    average = Average(task.trained, config.ema)
    step, before = 0, 0.0  # before: seconds of training in earlier calls
    if resume and checkpoint.exists():
        step, before = _load(checkpoint, task, optimizers, average)
    if main:
        _forget_after(out / "log.csv", step)
    start, stop = step, min(config.steps, stop_at or config.steps)
    loader = DataLoader(crops, batch_size=config.batch, sampler=From(start * config.batch, stop * config.batch),
                        num_workers=workers, drop_last=True)
    wrapped, loader = accelerator.prepare(task, loader)
    writer = _tensorboard(out, step) if main else None

    began, losses = time.monotonic(), [math.inf]
    scalars: dict[str, float] = {}
    bar = tqdm(total=config.steps, initial=step, disable=None if progress and main else True, unit="step", dynamic_ncols=True)
    for batch in loader if start < stop else ():
        wrapped.train()
        logged: dict[str, Tensor] = {}
        for part in task.active(step):
            for optimizer in optimizers.values():
                optimizer.zero_grad(set_to_none=True)
            with accelerator.autocast():
                loss, values = wrapped(batch, step, part)
            logged |= {part: loss, **values}
            _check(loss.item(), losses if part == task.active(step)[0] else None, step, batch, crops, checkpoint)
            accelerator.backward(loss)
            parameters = [p for group in optimizers[part].param_groups for p in group["params"]]
            norm = accelerator.clip_grad_norm_(parameters, config.clip)
            if norm is not None:
                _check(float(norm), None, step, batch, crops, checkpoint)
            for group in optimizers[part].param_groups:
                group["lr"] = learning_rate(step, config)
            optimizers[part].step()
        task.after_step(step, crops, accelerator)
        average.update()
        step += 1

        seconds = time.monotonic() - began
        last = step == stop or _out_of_time(seconds, minutes, accelerator)
        if step % 20 == 0 or last:
            values = {name: accelerator.reduce(v.detach().float(), "mean").item() for name, v in logged.items()}
            values["learning rate"] = learning_rate(step - 1, config)
            _write(out, writer, step, before + seconds, "train", values, main)
            rate = (step - start) * config.batch / seconds
            bar.set_postfix_str(f"loss {values[task.active(step - 1)[0]]:.4f}, {rate:.1f} img/s")
        bar.update()
        if step % config.validate_every == 0 or step == config.steps or last:
            average.swap()
            task.eval()
            scalars, pictures = validate()
            if main:
                save_weights()
                _pictures(out, writer, step, pictures)
            average.swap()
            _write(out, writer, step, before + seconds, "validation", scalars, main)
        if (step % config.checkpoint_every == 0 or last) and main:
            _save(checkpoint, step, before + seconds, task, optimizers, average)
        if last:
            break
    bar.close()
    if writer is not None:
        writer.close()
    accelerator.wait_for_everyone()
    return scalars


def make_accelerator(device: str = "auto", precision: str = "no") -> Any:
    """The accelerator that `train` needs: whole batches are split among processes, buffers are each process's own."""
    from accelerate import Accelerator, DataLoaderConfiguration, DistributedDataParallelKwargs

    return Accelerator(
        cpu=device == "cpu", mixed_precision=precision, dataloader_config=DataLoaderConfiguration(split_batches=True),
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True, broadcast_buffers=False)],
    )


def _out_of_time(seconds: float, minutes: float | None, accelerator: Any) -> bool:
    """Whether any process is past the time limit: all must stop at the same step."""
    if minutes is None:
        return False
    over = torch.tensor(float(seconds > 60 * minutes), device=accelerator.device)
    return bool(accelerator.reduce(over, "sum") > 0)


def _check(value: float, history: list[float] | None, step: int, batch: dict[str, Tensor], crops: Crops,
           checkpoint: Path) -> None:
    """TrainingError unless `value` is finite and no more than a hundred times what the loss has been lately."""
    bad = not math.isfinite(value)
    if history is not None and not bad:
        recent = history[-200:]
        bad = value > 100 * max(sum(recent) / len(recent), 1e-3)
        history.append(value)
        if history[0] == math.inf and len(history) > 50:
            del history[0]
    if bad:
        names = sorted({crops.photos.names[i] for i in batch["photo"].tolist()})
        where = checkpoint if checkpoint.exists() else "none yet"
        photos = ", ".join(names)
        raise TrainingError(f"step {step}: loss or gradient is {value:g}; photos {photos}; last good checkpoint: {where}")


def _save(path: Path, step: int, seconds: float, task: Any, optimizers: dict[str, Any], average: Average) -> None:
    """Write a checkpoint beside the old one, then put it in its place: a kill leaves one of the two whole."""
    state = {
        "step": step, "seconds": seconds, "seed": task.seed, "task": task.state_dict(),
        "average": average.weights, "updates": average.updates,
        "optimizers": {name: optimizer.state_dict() for name, optimizer in optimizers.items()},
    }
    temporary = path.with_suffix(".part")
    with open(temporary, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _load(path: Path, task: Any, optimizers: dict[str, Any], average: Average) -> tuple[int, float]:
    state = torch.load(path, map_location="cpu", weights_only=True)
    if state["seed"] != task.seed:
        raise TrainingError(f"{path}: was made with seed {state['seed']}, this run has seed {task.seed}")
    task.load_state_dict(state["task"])
    for name, optimizer in optimizers.items():
        optimizer.load_state_dict(state["optimizers"][name])
    for name, weight in average.weights.items():
        weight.copy_(state["average"][name])
    average.updates = state["updates"]
    return int(state["step"]), float(state["seconds"])


def _write(out: Path, writer: Any, step: int, seconds: float, split: str, values: dict[str, float], main: bool) -> None:
    if not main:
        return
    path = out / "log.csv"
    new = not path.exists()
    with open(path, "a", newline="") as file:
        rows = csv.writer(file)
        if new:
            rows.writerow(["step", "seconds", "split", "name", "value"])
        rows.writerows([step, round(seconds, 1), split, name, f"{value:.6g}"] for name, value in values.items())
    if writer is not None:
        for name, value in values.items():
            writer.add_scalar(f"{split}/{name}", value, step)


def _forget_after(path: Path, step: int) -> None:
    """Drop rows that a killed run logged after its last checkpoint: the resumed run will write them again."""
    if path.exists():
        with open(path, newline="") as file:
            header, *rows = csv.reader(file)
        with open(path, "w", newline="") as file:
            csv.writer(file).writerows([header, *itertools.takewhile(lambda row: int(row[0]) <= step, rows)])


def _tensorboard(out: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(out / "tensorboard"), purge_step=step)


def _pictures(out: Path, writer: Any, step: int, pictures: dict[str, Tensor]) -> None:
    """Validation pictures, a column each, as one PNG and in TensorBoard."""
    from PIL import Image

    columns = [torch.cat(list(p.float().cpu().clamp(0, 1)), 1) for p in pictures.values()]
    grid = torch.cat(columns, 2)
    Image.fromarray((grid * 255).round().byte().permute(1, 2, 0).numpy()).save(out / "samples.png")
    if writer is not None:
        writer.add_image(" | ".join(pictures), grid, step)
