"""One plain training loop. `accelerate` carries the device, mixed precision and several processes. A run is laid over a number
of steps or of minutes; it continues exactly where it stopped, survives being killed, and never trains on after a NaN.

A folder of a run holds checkpoint.pt (everything needed to go on), log.csv (step, seconds, split, name, value), settings.json
(what a model card is written from), and samples.png (the latest validation pictures).
"""

from __future__ import annotations

import json
import logging
import math
import multiprocessing
import os
import pickle
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.utils import save_image
from tqdm.auto import tqdm

from itersr.config import TrainConfig
from itersr.disk import replace_file, whole_file
from itersr.model import pick_device
from itersr.training.data import Crops
from itersr.training.perceptual import perceptual, scores

log = logging.getLogger(__name__)
READ_EVERY = 20  # steps after which a GPU is asked for its losses: each time it has to finish first
ENDLESS = 1 << 40
COLUMNS = ["step", "seconds", "split", "name", "value"]  # of log.csv


class TrainingError(Exception):
    """A run that cannot go on; one line says at which step, on which photos, and where the last good checkpoint is."""


class OtherRun(TrainingError, ValueError):
    """What is to be continued is not what lies in the folder: the call is at fault."""


class Average:
    """An exponential moving average of weights, slow to forget but quick to start: decay = min(ema, (1 + n)/(10 + n))."""

    def __init__(self, networks: dict[str, nn.Module], decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.live = {f"{name}.{key}": p for name, net in networks.items() for key, p in net.named_parameters()}
        self.weights = {key: p.detach().clone() for key, p in self.live.items()}

    @torch.no_grad()
    def update(self) -> None:
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(list(self.weights.values()), list(self.live.values()), 1 - decay)
        self.updates += 1

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange live and averaged weights; a second call undoes the first."""
        for key, p in self.live.items():
            live = p.clone()
            p.copy_(self.weights[key])
            self.weights[key].copy_(live)


class Clock:
    """How far along a run is, by its steps, or by its minutes where it is given some.

    Minutes are all that a run takes, over all calls. What is not training (compilation, validation, checkpoints) is taken off
    them, and as much as the last validation took is kept for the one at the end. A run never goes back: where a validation
    took less than the one before, the share that is done waits for the time that was won.
    """

    def __init__(self, steps: int, minutes: float | None) -> None:
        self.steps, self.limit = steps, None if minutes is None else 60 * minutes
        self.trained = self.other = self.reserve = 0.0  # seconds
        self.earlier = 0.0  # of `trained`: what earlier calls did
        self.furthest = 0.0  # share that was done by the minutes
        self.ended = False  # the minutes are used up
        self._since = time.monotonic()

    @property
    def seconds(self) -> float:
        return self.trained + self.other

    def train(self) -> None:
        """The time since the last call of `train` or `rest` went into training."""
        self.trained += self._lap()

    def rest(self) -> float:
        """It went into something else; gives how long that took."""
        took = self._lap()
        self.other += took
        return took

    def _lap(self) -> float:
        before, self._since = self._since, time.monotonic()
        return self._since - before

    def along(self, step: int) -> float:
        """The share of the run that is done after `step` steps, from 0 to 1."""
        if self.limit is None:
            return min(step / self.steps, 1.0)
        if self.ended:
            return 1.0
        room = self.limit - self.other - self.reserve
        self.furthest = max(self.furthest, min(self.trained / room, 1.0) if room > 0 else 1.0)
        return self.furthest


def learning_rate(along: float, config: TrainConfig) -> float:
    """Linear warm-up, then a cosine from `lr` down to `final_lr`·`lr` at the end of the run (along = 1)."""
    if along < config.warmup:
        return config.lr * along / config.warmup
    floor = config.final_lr * config.lr
    fallen = (along - config.warmup) / max(1 - config.warmup, 1e-9)
    return floor + (config.lr - floor) * (1 + math.cos(math.pi * fallen)) / 2


class Task(nn.Module):
    """What `train` trains: `forward(batch, along, part)` gives the loss of a part and the scalars to log, and `validate` what
    a validation finds. `along` is the share of the run that is done, from 0 to 1."""

    config: TrainConfig
    seed: int
    trained: dict[str, nn.Module]  # the networks that ship (and are averaged), by name
    parts: dict[str, nn.Module]  # what each optimizer trains, in the order of their updates
    restore: Callable[..., Tensor]  # pictures of LQ images, for those that `validate` as below

    def active(self, along: float) -> list[str]:
        """The parts that are updated when this share of the run is done."""
        return list(self.parts)

    def validate(self, pairs: dict[str, Tensor], look: nn.Module) -> tuple[dict[str, float], dict[str, Tensor]]:
        """How good `restore` is on held-out pairs, and the pictures to show."""
        restored = torch.cat([self.restore(lq) for lq in pairs["lq"].split(1)])
        return scores(restored, pairs["hq"], look), {"restored": restored[:4], "hq": pairs["hq"][:4]}

    def after_step(self, step: int, along: float, crops: Crops, accelerator: Any) -> None:
        """Called after every step."""


def train(task: Any, crops: Crops, pairs: dict[str, Tensor], out: Path, *, save_weights: Callable[[], None], accelerator: Any,
          record: dict[str, Any], minutes: float | None = None, resume: bool = False, stop_at: int | None = None,
          workers: int | None = None, progress: bool = True) -> dict[str, float]:
    """Train `task` for `task.config.steps` steps, or for `minutes`; gives the last validation's scalars.

    task: see `Task`; it is validated on `pairs` with the averaged weights in place, and `save_weights` is called then.
    accelerator: see `make_accelerator`. record: what settings.json is to say of this run.
    minutes: the whole run, over all calls, with validation and export; warm-up, learning rate and phases are laid over them.
    resume: go on from `out`'s checkpoint. stop_at: end this call at an earlier step. workers: processes that make crops (None:
    all cores but two where a GPU trains, else none).
    Raises TrainingError for a NaN or an exploding loss, OtherRun for a checkpoint of another run, FileExistsError where `out`
    already holds a run.
    """
    config: TrainConfig = task.config
    main, device = accelerator.is_main_process, accelerator.device
    on_gpu = device.type == "cuda"
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = out / "checkpoint.pt"
    if checkpoint.exists() and not resume:
        raise FileExistsError(f"{out} already holds a run: go on with --resume, or name another folder")
    keep_record(out / "settings.json", record, resume and checkpoint.exists(), main)

    look = perceptual().to(device)
    clock = Clock(config.steps, minutes)
    task.to(device, memory_format=torch.channels_last)
    optimizers = make_optimizers(task, device)
    average = Average(task.trained, config.ema)
    step = _load(checkpoint, task, optimizers, average, clock) if resume and checkpoint.exists() else 0
    stop = min(config.steps if minutes is None else ENDLESS, stop_at or ENDLESS)
    if step >= stop or clock.ended:
        return {}
    if main:
        _forget_after(out / "log.csv", step)
    loader = make_loader(crops, range(step * config.batch, stop * config.batch), config.batch, workers, accelerator)
    wrapped, loader = accelerator.prepare(task, loader, device_placement=[True, False])

    watch, scalars = Watch(crops, checkpoint, READ_EVERY if on_gpu else 1), dict[str, float]()
    started, waited, validated = step, 0.0, _due(clock.along(step), config)
    clock.rest()
    bar = tqdm(total=config.steps if minutes is None else None, initial=step, disable=None if progress and main else True,
               unit="step", dynamic_ncols=True)
    batches = iter(loader)
    for _ in range(step, stop):
        asked = time.monotonic()
        batch = next(batches)
        waited += time.monotonic() - asked if step > started else 0.0  # the first batch waits for processes to start
        along = _shared(clock.along(step + 1), minutes, accelerator)
        wrapped.train()
        logged = update(task, wrapped, optimizers, batch, along, accelerator, watch, step)
        task.after_step(step, along, crops, accelerator)
        average.update()
        step += 1

        if step == started + 1:
            watch.read()
            clock.rest()  # the first step waits for the processes that make crops
        else:
            clock.train()
        now = _shared(clock.along(step), minutes, accelerator)
        clock.ended = minutes is not None and now >= 1
        last = step == stop or now >= 1
        if step % READ_EVERY == 0 or last:
            watch.read()
            values = {name: accelerator.reduce(v.detach().float(), "mean").item() for name, v in logged.items()}
            rate = (step - started - 1) * config.batch / max(clock.trained - clock.earlier, 1e-9)
            values |= {"learning rate": learning_rate(along, config), "images a second": rate,
                       "share of waiting": waited / max(clock.trained - clock.earlier, 1e-9)}
            if main:
                _write(out / "log.csv", step, clock.seconds, "train", values)
            left = "" if minutes is None else f", {clock.seconds / 60:.1f} of {minutes:g} min"
            bar.set_postfix_str(f"loss {values[task.active(along)[0]]:.4f}, {rate:.1f} img/s{left}")
        bar.update()
        if _due(now, config) > validated or last:
            watch.read()
            validated = _due(now, config)
            average.swap()
            task.eval()
            scalars, pictures = task.validate(pairs, look)
            if main:
                save_weights()
                columns = [torch.cat(list(p.float().cpu().clamp(0, 1)), 1) for p in pictures.values()]
                save_image(torch.cat(columns, 2), out / "samples.png")
            average.swap()
            clock.reserve = clock.rest()
            if main:
                _write(out / "log.csv", step, clock.seconds, "validation", scalars)
        if (step % config.checkpoint_every == 0 or last) and main:
            watch.read()
            _save(checkpoint, step, clock, task, optimizers, average)
            clock.rest()
        if last:
            break
    bar.close()
    accelerator.wait_for_everyone()
    return scalars


def make_accelerator(device: str = "auto", precision: str = "auto") -> Any:
    """The accelerator that `train` needs: whole batches are split among processes, buffers are each process's own.

    device: auto, cpu, cuda or cuda:1; ValueError for one that is not there. precision: "no", "bf16", or "auto", which is bf16
    where a GPU has it.
    """
    from accelerate import Accelerator, DataLoaderConfiguration, DistributedDataParallelKwargs

    chosen = pick_device(device)
    if chosen.type == "cuda" and chosen.index is not None:
        torch.cuda.set_device(chosen)
    if precision == "auto":
        fast = chosen.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        precision = "bf16" if fast else "no"
    return Accelerator(
        cpu=chosen.type == "cpu", mixed_precision=precision, dataloader_config=DataLoaderConfiguration(split_batches=True),
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True, broadcast_buffers=False)],
    )


def make_optimizers(task: Any, device: torch.device) -> dict[str, torch.optim.Optimizer]:
    """An Adam for each part of a task."""
    config: TrainConfig = task.config
    return {name: torch.optim.Adam([p for p in part.parameters() if p.requires_grad], lr=config.lr, betas=config.betas,
                                   fused=device.type == "cuda") for name, part in task.parts.items()}


def update(task: Any, wrapped: Any, optimizers: dict[str, Any], batch: dict[str, Tensor], along: float, accelerator: Any,
           watch: Watch, step: int) -> dict[str, Tensor]:
    """One step of training on a batch, with the learning rate of `along`; gives the losses to log.

    wrapped: the task as `accelerate` prepared it. TrainingError (from `watch`) leaves the weights as they were on a CPU; on a
    GPU it comes some steps later, before any checkpoint.
    """
    batch = batch | {name: batch[name].to(accelerator.device, non_blocking=True) for name in ("hq", "lq") if name in batch}
    logged: dict[str, Tensor] = {}
    for part in task.active(along):
        for optimizer in optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        with accelerator.autocast():
            loss, values = wrapped(batch, along, part)
        logged |= {part: loss, **values}
        accelerator.backward(loss)
        parameters = [p for group in optimizers[part].param_groups for p in group["params"]]
        norm = accelerator.clip_grad_norm_(parameters, task.config.clip)
        watch.note(step, not logged.keys() - {part, *values}, loss, norm, batch["photo"])
        for group in optimizers[part].param_groups:
            group["lr"] = learning_rate(along, task.config)
        optimizers[part].step()
    return logged


def make_loader(crops: Crops, indices: range, batch: int, workers: int | None, accelerator: Any) -> DataLoader:
    """Batches of the crops with these numbers, made by processes of their own where a GPU would wait for them otherwise."""
    on_gpu = accelerator.device.type == "cuda"
    if workers is None:
        workers = max((os.cpu_count() or 1) // accelerator.num_processes - 2, 1) if on_gpu else 0
    crops.photos.preload(share=workers > 0)
    # Not forked from this process: its threads of PyTorch and CUDA would be missing in the copy, which can then hang. A server
    # that has loaded PyTorch once starts many processes in the time of one.
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload(["itersr.training.data"])
    return DataLoader(crops, batch_size=batch, sampler=indices, drop_last=True, num_workers=workers, pin_memory=on_gpu,
                      multiprocessing_context=context if workers else None)


def _due(along: float, config: TrainConfig) -> int:
    """How many validations are due once this share of a run is done."""
    return int(along * config.validations + 1e-9)


def _shared(along: float, minutes: float | None, accelerator: Any) -> float:
    """What all processes take for the share that is done: clocks differ a little, and all must be in the same phase."""
    if minutes is None or accelerator.num_processes == 1:
        return along
    return float(accelerator.reduce(torch.tensor(along, device=accelerator.device), "mean"))


class Watch:
    """Notes losses and gradient norms on the device and reads them together, since to read is to wait for a GPU."""

    def __init__(self, crops: Crops, checkpoint: Path, every: int) -> None:
        self.crops, self.checkpoint, self.every = crops, checkpoint, every
        self.noted: list[tuple[int, bool, Tensor, Tensor]] = []  # step, whether the loss counts as history, values, photos
        self.history: deque[float] = deque([math.inf], maxlen=200)  # the latest losses

    def note(self, step: int, first: bool, loss: Tensor, norm: Tensor | None, photos: Tensor) -> None:
        """Note a step, and read after so many; first: of the part of a task whose loss is compared with what it was lately."""
        values = torch.stack([loss.detach().float(), loss.new_zeros(()) if norm is None else norm.detach().float()])
        self.noted.append((step, first, values, photos))
        if len(self.noted) >= self.every:
            self.read()

    def read(self) -> None:
        """TrainingError unless all is finite and no loss more than a hundred times what it has been lately."""
        noted, self.noted = self.noted, []
        values = torch.stack([entry[2] for entry in noted]).tolist() if noted else []
        for (step, first, _, photos), (loss, norm) in zip(noted, values, strict=True):
            exploded = first and loss > 100 * max(sum(self.history) / len(self.history), 1e-3)
            if exploded or not (math.isfinite(loss) and math.isfinite(norm)):
                names = ", ".join(sorted({self.crops.photos.names[i] for i in photos.tolist()}))
                where = self.checkpoint if self.checkpoint.exists() else "none yet"
                value = norm if math.isfinite(loss) and not exploded else loss
                raise TrainingError(
                    f"step {step}: loss or gradient is {value:g}; photos {names}; last good checkpoint: {where}")
            if first:
                self.history.append(loss)


MAY_CHANGE = ("steps", "minutes", "processes", "precision", "validations", "checkpoint_every")
"""What a resumed run may have different from its beginning."""


def read_record(path: Path) -> dict[str, Any]:
    """What settings.json or all.json says of a run; ValueError where the file is damaged."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")).items())
    except (ValueError, OSError, AttributeError) as error:
        raise ValueError(f"{path}: this record of a run is damaged ({error}); remove {path.parent} to train it anew") from None


def keep_record(path: Path, record: dict[str, Any], resumed: bool, main: bool, may_change: Sequence[str] = MAY_CHANGE) -> None:
    """Write what a run is, whole or not at all; OtherRun where a resumed one was something else."""
    record = json.loads(json.dumps(record))
    if resumed and path.exists():
        before = read_record(path)
        other = [f"{name} was {before[name]}, now {value}" for name, value in record.items()
                 if name in before and name not in may_change and before[name] != value]
        if other:
            raise OtherRun(f"{path.parent}: holds another run ({'; '.join(other)}): name another folder for this one")
    elif main:
        replace_file(path, json.dumps(record, indent=1) + "\n")


@contextmanager
def alone(folder: Path, main: bool = True) -> Iterator[None]:
    """Nobody else trains in this folder meanwhile; OtherRun where somebody does. A killed process holds nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        with lock if main else nullcontext():
            yield
    except Timeout:
        raise OtherRun(f"{folder}: another process trains here; wait for it, or name another folder") from None


def _save(path: Path, step: int, clock: Clock, task: Any, optimizers: dict[str, Any], average: Average) -> None:
    """Write a checkpoint beside the old one, then put it in its place: a kill leaves one of the two whole."""
    state = {
        "step": step, "task": task.state_dict(), "average": average.weights, "updates": average.updates,
        "optimizers": {name: optimizer.state_dict() for name, optimizer in optimizers.items()},
        **{name: getattr(clock, name) for name in ("trained", "other", "reserve", "limit", "furthest", "ended")},
    }
    with whole_file(path, path.with_suffix(".part")) as file:
        torch.save(state, file)


def _load(path: Path, task: Any, optimizers: dict[str, Any], average: Average, clock: Clock) -> int:
    """Bring everything to where a checkpoint was written; gives the step."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, pickle.UnpicklingError) as error:
        raise TrainingError(f"{path}: this checkpoint is damaged ({error}); remove it to train this stage anew") from None
    task.load_state_dict(state["task"])
    for name, optimizer in optimizers.items():
        optimizer.load_state_dict(state["optimizers"][name])
    for name, weight in average.weights.items():
        weight.copy_(state["average"][name])
    average.updates = state["updates"]
    clock.trained, clock.other, clock.reserve = state["trained"], state["other"], state["reserve"]
    clock.earlier = clock.trained
    if state["limit"] == clock.limit:  # with more minutes than before, less of them is done
        clock.furthest, clock.ended = state["furthest"], state["ended"]
    return int(state["step"])


def _write(path: Path, step: int, seconds: float, split: str, values: dict[str, float]) -> None:
    rows = [(step, round(seconds, 1), split, name, f"{value:.6g}") for name, value in values.items()]
    pd.DataFrame(rows, columns=COLUMNS).to_csv(path, mode="a", header=not path.exists(), index=False)


def _forget_after(path: Path, step: int) -> None:
    """Drop rows that a killed run logged after its last checkpoint: the resumed run will write them again."""
    if path.exists():
        rows = pd.read_csv(path, names=COLUMNS, skiprows=1, dtype=str, keep_default_na=False)
        kept = (rows.value != "") & (rows.step.astype(int) <= step)  # the last row may be cut
        replace_file(path, rows[kept].to_csv(index=False))
