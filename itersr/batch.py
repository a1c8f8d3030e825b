"""Many files in, as many files out: what `itersr upscale` and `itersr degrade` do around the method.

Everything that can be known before the first pixel is computed is checked first (names, existing outputs, formats); then one
file after another, so that a bad one costs its own line and nothing else. Results appear whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image

from itersr import color, images
from itersr.images import ImageError, Photo, WriteError

log = logging.getLogger(__name__)

FIRST_TILE = 128  # LQ pixels: what is tried after the model's own choice did not fit into memory
SMALLEST_TILE = 64


class Upscaler(Protocol):
    """What `upscale_files` needs of a model; `ITER` is one. (`save_trace` needs its `restore`, too.)"""

    def upscale(self, image: Any, *, seed: int = 0, **settings: Any) -> Any:
        """(1, 3, H, W) in [0, 1] -> (1, 3, s·H, s·W) in [0, 1]. `settings` are those of Alg. 2, color_fix, and tile."""


@dataclass(frozen=True)
class Options:
    """How files are upscaled and named; names and defaults follow Real-ESRGAN's script where it has them."""

    suffix: str = "out"  # photo.png -> photo_out.png; "" keeps the name
    ext: str = "auto"  # "auto": the input's own where it can be written and holds what the picture has, else png
    force: bool = False  # overwrite existing outputs
    scale: float | None = None  # of the result; None: the model's. Another one is reached by bicubic resizing
    seed: int = 0
    tile: int | None = None  # LQ pixels; 0: in one piece; None: the model's choice, by size
    precision: str = "auto"  # or "fp32", "bf16"
    color_fix: str = "wavelet"  # or "adain", "none", see itersr.color
    save_trace: bool = False
    max_pixels: int = images.MAX_PIXELS
    quality: int = 95  # of JPEG and WebP
    settings: Mapping[str, Any] = field(default_factory=dict)  # of Alg. 2: steps, alpha, policy, schedule, temperature


@dataclass(frozen=True)
class Job:
    """One file to read, the place of its result, and the error that planning already found."""

    source: Path
    target: Path
    error: ImageError | None = None


@dataclass(frozen=True)
class Failure:
    """A file that was not done. `usage`: the fault lies in what was asked (exit code 2), not in the machine (1)."""

    source: Path
    message: str
    usage: bool


class UsageError(ValueError):
    """The call as a whole makes no sense; the message is one line with the cure."""


# -------------------------------------------------------------------------------------------------------------- names


def plan(inputs: Sequence[str | os.PathLike[str]], output: str | os.PathLike[str], options: Options) -> list[Job]:
    """Which file becomes which. Folders are searched with all they contain, and mirrored below `output`.

    `output` is a file when it has an image suffix and there is one input file, else a folder (made later, when needed).

    Raises:
        UsageError: no input, one output file for several inputs, two inputs with one output, an unknown `ext`.
        ImageError: an input folder without images.
    """
    if not inputs:
        raise UsageError("no input: name image files or folders")
    ext = options.ext.lower().lstrip(".")
    if ext != "auto" and f".{ext}" not in images.SUFFIXES:
        raise UsageError(f"--ext {options.ext}: use auto or one of {', '.join(s[1:] for s in images.SUFFIXES)}")
    out = Path(output)
    found = list(_sources([Path(entry) for entry in inputs], out))
    single = out.suffix.lower() in images.SUFFIXES and not out.is_dir()
    if single and (len(found) > 1 or Path(inputs[0]).is_dir()):
        raise UsageError(f"-o {out}: one file for {len(found)} inputs; name a folder")
    if not single and out.exists() and not out.is_dir():
        raise UsageError(f"-o {out}: is a file and has no image suffix ({', '.join(images.SUFFIXES)}); name a folder")

    jobs: list[Job] = []
    taken: dict[Path, Path] = {}
    for source, below in found:
        if single:
            target = out
        else:
            name = source.stem + (f"_{options.suffix}" if options.suffix else "")
            ending = source.suffix.lower() if ext == "auto" else f".{ext}"
            target = out / below / (name + (ending if ending in images.SUFFIXES else ".png"))
        key = Path(os.path.abspath(target))
        if key in taken and taken[key] != source:
            raise UsageError(f"{taken[key]} and {source} would both become {target}; rename one or use another folder")
        if key in taken:
            continue  # the same file, named twice
        taken[key] = source
        jobs.append(_checked(Job(source, target), options))
    return jobs


def _sources(inputs: list[Path], out: Path) -> Iterator[tuple[Path, Path]]:
    """(file, folder of its result relative to the output folder)."""
    outputs = Path(os.path.abspath(out))
    for entry in inputs:
        if not entry.is_dir():
            yield entry, Path()
            continue
        here = Path(os.path.abspath(entry))
        for file in images.folder(entry):
            inside = Path(os.path.abspath(file))
            if outputs != here and outputs in inside.parents:
                continue  # results of an earlier run that lie in a folder of the input folder
            yield file, file.parent.relative_to(entry)


def _checked(job: Job, options: Options) -> Job:
    try:
        if not job.source.exists():
            raise ImageError(job.source, "does not exist", "check the name")
        if job.target.exists():
            if job.target.is_dir():
                raise ImageError(job.target, "is a folder", "name a file, or another folder")
            if job.target.samefile(job.source):
                raise ImageError(job.source, "would be overwritten by its own result", "use a --suffix or another folder")
            if not options.force:
                raise ImageError(job.target, "exists already", "use --force to overwrite it, or another folder (-o)")
        if options.save_trace and trace_folder(job.target).exists() and not options.force:
            raise ImageError(trace_folder(job.target), "exists already", "use --force to overwrite it")
    except ImageError as error:
        return replace(job, error=error)
    return job


# ------------------------------------------------------------------------------------------------------------ upscale


def upscale_files(
    load: Callable[[], Upscaler],
    inputs: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    options: Options | None = None,
    progress: bool = False,
) -> list[Failure]:
    """Upscale files and folders; gives the files that could not be done, [] when all are.

    Args:
        load: gives the model. Called once, when the first good picture is at hand: bad input is told in milliseconds.
        inputs: image files and folders. output: a file or a folder, see `plan`.
        options: naming, memory and the settings of Alg. 2.
        progress: show a bar over the files on stderr.

    Each failure is logged as one line (error level), each success too (info level). KeyboardInterrupt passes through and leaves
    finished files only.

    Raises:
        UsageError, ImageError: see `plan`; and whatever `load` raises.
    """
    options = options or Options()
    jobs = plan(inputs, output, options)
    model: Upscaler | None = None
    failures: list[Failure] = []
    with _bar(jobs, progress) as bar:
        for job in bar:
            started = time.perf_counter()
            try:
                if job.error is not None:
                    raise job.error
                photo = images.read(job.source, options.max_pixels)
                job.target.parent.mkdir(parents=True, exist_ok=True)
                images.check_output(job.target, _result_size(photo, options.scale or 1))
            except (ImageError, OSError) as error:
                failures.append(_failed(job, error))
                continue
            if model is None:  # outside the try: a model that cannot be loaded stops the run
                model = _in_precision(load(), options.precision)
            try:
                _upscale_one(model, photo, job.target, options)
            except Exception as error:  # one file's fault must not cost the others
                failures.append(_failed(job, error))
                continue
            for note in photo.meta.notes:
                log.warning("%s: %s", job.source, note)
            seconds = time.perf_counter() - started
            log.info("%s -> %s (%.1f s)", job.source, job.target, seconds)
    return failures


def _upscale_one(model: Any, photo: Photo, target: Path, options: Options) -> None:
    settings: dict[str, Any] = {"seed": options.seed, **options.settings}
    trace: Any = None
    if options.save_trace:
        trace = _in_memory(lambda tile: model.restore(photo.tensor[None], **settings, **tile), photo, target, options)
        result = color.match(trace.image.cpu().clone(), photo.tensor[None], options.color_fix)
    else:
        call = lambda tile: model.upscale(photo.tensor[None], color_fix=options.color_fix, **settings, **tile)  # noqa: E731
        result = _in_memory(call, photo, target, options)
    result = result.detach().float().cpu()
    if result.ndim != 4 or result.shape[:2] != (1, 3) or not torch.isfinite(result).all():
        raise RuntimeError("the model's result holds NaN or infinity; try --precision fp32")
    if options.scale is not None:
        size = _result_size(photo, options.scale)
        result = images.resize(result[0], size)[None] if tuple(result.shape[-2:]) != size else result
    images.check_output(target, (result.shape[-2], result.shape[-1]))
    if trace is not None:
        save_trace(trace, trace_folder(target), model.tier.vqgan.factor, settings)
    images.write(photo.upscaled(result[0]), target, options.quality)


def _in_memory(call: Callable[[dict[str, int]], Any], photo: Photo, target: Path, options: Options) -> Any:
    """call(tile), and once more with a smaller tile when memory ran out."""
    try:
        return call({} if options.tile is None else {"tile": options.tile})
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
    # Outside the except block: its traceback would keep the first try's tensors alive.
    smaller = options.tile // 2 if options.tile else min(FIRST_TILE, max(photo.size) // 2)
    smaller = max(SMALLEST_TILE, smaller // 16 * 16)
    log.warning("%s: out of memory; once more with --tile %d", target.name, smaller)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    try:
        return call({"tile": smaller})
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        raise RuntimeError(f"out of memory with --tile {smaller} too; use a smaller --tile, or --device cpu") from error


def _out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "out of memory" in text or "allocate memory" in text


def _in_precision(model: Any, name: str) -> Any:
    """The model with its weights in float32 or bfloat16. "auto" is float32: bfloat16 changes single tokens."""
    if name not in ("auto", "fp32", "bf16"):
        raise UsageError(f"precision {name!r}: there are auto, fp32 and bf16")
    return model.bfloat16() if name == "bf16" else model


def _result_size(photo: Photo, scale: float) -> tuple[int, int]:
    h, w = photo.size
    return max(1, round(h * scale)), max(1, round(w * scale))


def _failed(job: Job, error: BaseException) -> Failure:
    if isinstance(error, ImageError):
        message = str(error)
    else:
        reason = " ".join(str(getattr(error, "strerror", None) or error or type(error).__name__).split())
        message = f"{job.source}: {reason}"
        log.debug("%s", job.source, exc_info=error)
    log.error("%s", message)
    return Failure(job.source, message, usage=isinstance(error, ImageError) and not isinstance(error, WriteError))


def _bar(jobs: Iterable[Any], progress: bool) -> Any:
    from tqdm import tqdm

    return tqdm(jobs, unit="image", desc="itersr", disable=not progress)


# -------------------------------------------------------------------------------------------------------------- trace


def trace_folder(target: Path) -> Path:
    """Where the trace of a result goes: photo_out.png -> photo_out_trace."""
    return target.with_name(f"{target.stem}_trace")


def save_trace(trace: Any, folder: Path, factor: int, settings: Mapping[str, Any]) -> None:
    """Write every step of a `Trace` of one image: pictures, masks (white = kept), trace.json.

    `factor` is how many pixels of the result a token covers along a side.
    `00_start.png` is S_l decoded and `00_mask.png` the tokens of it judged good (m_s); then one picture and one mask a step.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name[:50]}."))
    try:
        steps = trace.restored.steps
        height, width = trace.image.shape[-2:]
        grid = trace.restored.tokens.shape[-2:]
        names = ["start", *(f"t{step.t}" for step in steps)]
        masks = [trace.restored.condition_keep, *(step.keep for step in steps)]
        for i, (name, mask) in enumerate(zip(names, masks, strict=True)):
            images.write(Photo(trace.at(i)[0]), made / f"{i:02d}_{name}.png")
            pixels = mask[0].cpu().numpy().astype(np.uint8) * 255
            pixels = pixels.repeat(factor, 0).repeat(factor, 1)[:height, :width]  # the grid is padded beyond the picture
            Image.fromarray(pixels).save(made / f"{i:02d}_mask.png")
        record = {
            "size": [height, width],
            "tokens": list(grid),
            "start_step": int(trace.start[0]),
            "steps": [{"t": step.t, "kept": float(step.keep.float().mean())} for step in steps],
            "settings": {key: value for key, value in settings.items() if isinstance(value, (str, int, float, bool))},
        }
        (made / "trace.json").write_text(json.dumps(record, indent=1) + "\n")
        if (folder / "trace.json").exists():
            shutil.rmtree(folder)  # an earlier trace: --force was asked for
        os.chmod(made, 0o755)
        os.replace(made, folder)
    except OSError as error:
        if isinstance(error, ImageError):
            raise
        raise WriteError(folder, f"cannot be written ({error.strerror})", "free space, or write elsewhere (-o)") from error
    finally:
        shutil.rmtree(made, ignore_errors=True)


# ------------------------------------------------------------------------------------------------------------ degrade


def degrade_files(
    inputs: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    seed: int = 0,
    scale: int = 4,
    force: bool = False,
    max_pixels: int = images.MAX_PIXELS,
    progress: bool = False,
) -> list[Failure]:
    """Make fixed test pairs: OUT/hq/NAME.png (cut to a multiple of `scale`), OUT/lq/NAME.png and a line in OUT/draws.jsonl.

    Every picture has its own generator, made of `seed` and its name, so that its LQ image does not depend on which others are
    made with it. The draw in draws.jsonl is enough to make it again (`degradation.Draw.from_dict`, `degradation.apply`).

    Raises:
        UsageError, ImageError: see `plan`; draws.jsonl exists and `force` is False.
    """
    from itersr import degradation

    out = Path(output)
    if out.suffix.lower() in images.SUFFIXES:
        raise UsageError(f"-o {out}: degrade makes a folder (hq, lq, draws.jsonl); name one")
    record = out / "draws.jsonl"
    if record.exists() and not force:
        raise UsageError(f"{record} exists already: use --force to overwrite, or another folder (-o)")
    jobs = plan(inputs, out / "lq", Options(suffix="", ext="png", force=force))
    failures: list[Failure] = []
    lines: list[str] = []
    with _bar(jobs, progress) as bar:
        for job in bar:
            try:
                if job.error is not None:
                    raise job.error
                photo = images.read(job.source, max_pixels)
                name = job.target.relative_to(out / "lq")
                h, w = (side // scale * scale for side in photo.size)
                if min(h, w) == 0:
                    raise ImageError(job.source, f"is {photo.size[1]}×{photo.size[0]}", f"use at least {scale}×{scale}")
                hq = photo.tensor[:, :h, :w].contiguous()
                digest = hashlib.sha256(f"{seed}/{name.as_posix()}".encode()).digest()
                generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
                draws = degradation.draw(1, generator=generator)
                lq = degradation.apply(hq[None], draws, scale=scale)[0]
                for folder, tensor in (("hq", hq), ("lq", lq)):
                    path = out / folder / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    images.write(Photo(tensor), path)
            except (ImageError, OSError, RuntimeError, ValueError) as error:
                failures.append(_failed(job, error))
                continue
            line = {"image": name.as_posix(), "seed": seed, "scale": scale, "size": [h, w], "draw": draws[0].to_dict()}
            lines.append(json.dumps(line))
            log.info("%s -> %s", job.source, out / "lq" / name)
    if lines:
        with images.whole_file(record) as handle:
            handle.write(("\n".join(lines) + "\n").encode())
    return failures
