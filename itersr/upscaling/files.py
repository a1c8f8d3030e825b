"""Many files in, as many files out: what `itersr upscale` and `itersr degrade` do around the method.

Names, existing outputs and the limits of formats are checked for all files first. Then the files are done one by one. A bad
file gives one line of error, and the others are still done. A result appears whole or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from itersr import degradation, pictures
from itersr.disk import FileError, WriteError, check_place, replace_file, shown
from itersr.pictures import Meta, Photo
from itersr.upscaling.read import ImageError, image_files, read
from itersr.upscaling.write import SUFFIXES, check_output, write

log = logging.getLogger(__name__)

SMALL_TILE = 64  # LQ pixels: what is tried after memory ran out


@dataclass(frozen=True)
class Options:
    """How files are upscaled and named; names and defaults follow Real-ESRGAN's script where it has them."""

    suffix: str = "out"  # photo.png -> photo_out.png; "" keeps the name
    ext: str = "auto"  # or png, jpg, webp, tif, bmp; "auto": the input's own where it can be written, else png
    force: bool = False  # overwrite existing outputs
    skip_existing: bool = False  # leave inputs out whose output exists: a batch that was stopped goes on
    scale: float | None = None  # of the result; None: the model's. Another one is reached by bicubic resizing
    seed: int = 0
    tile: int | None = None  # LQ pixels; 0: in one piece; None: the model's choice, by size
    precision: str = "fp32"  # or "bf16", which changes single tokens
    color_fix: str = "wavelet"  # or another of pictures.COLOR_FIXES
    save_trace: bool = False
    quality: int = 95  # of JPEG and WebP
    settings: Mapping[str, Any] = field(default_factory=dict)  # of Alg. 2: steps, alpha, policy, schedule, temperature


@dataclass(frozen=True)
class Job:
    """One file to read, the place of its result, and what is made with it: a second picture, or the folder of a trace."""

    source: Path
    target: Path
    beside: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Failure:
    """A file that was not done. `usage`: the fault lies in what was asked (exit code 2), not in the machine (1)."""

    source: Path
    message: str
    usage: bool


def plan(inputs: Sequence[str | os.PathLike[str]], output: str | os.PathLike[str], options: Options,
         beside: Callable[[Path], tuple[Path, ...]] = lambda target: ()) -> list[Job]:
    """Which file becomes which. Folders are searched with all they contain, and mirrored below `output`.

    `output` is a file when it has an image suffix and there is one input file, else a folder (made later, when needed). What
    an earlier run has put into an input folder, results and traces, is no input. `beside` names what is made with a result.
    ValueError for two inputs that would become one output, ImageError for a folder without images.
    """
    out = Path(output)
    sources: list[tuple[Path | None, Path]] = []  # (input folder, or None for a file named by itself, and the file)
    for entry in map(Path, inputs):
        sources += [(entry, file) for file in image_files(entry)] if os.path.isdir(entry) else [(None, entry)]
    single = out.suffix.lower() in SUFFIXES and not os.path.isdir(out)
    jobs: list[tuple[Path | None, Job]] = []
    made: set[str] = set()  # what this call makes, and an earlier one like it has made
    for root, source in sources:
        ending = source.suffix.lower() if options.ext == "auto" else f".{options.ext}"
        name = source.stem + (f"_{options.suffix}" if options.suffix else "") + (ending if ending in SUFFIXES else ".png")
        target = out if single else out / (source.parent.relative_to(root) if root is not None else "") / name
        jobs.append((root, Job(source, target, beside(target))))
        made |= {os.path.abspath(path) for path in (target, trace_folder(target), *beside(target))} - {os.path.abspath(source)}
        if root is not None and Path(os.path.abspath(root)) in Path(os.path.abspath(out)).parents:
            made.add(os.path.abspath(out))
    makers: dict[str, Job] = {}
    for root, job in jobs:
        place = Path(os.path.abspath(job.source))
        if root is not None and made & {str(place), *map(str, place.parents)}:
            continue
        for path in (job.target, *job.beside):
            first = makers.setdefault(os.path.abspath(path), job).source
            if first != job.source:
                both = f"{shown(first)} and {shown(job.source)} would both become {shown(path)}"
                raise ValueError(f"{both}; rename one or use another folder")
    return list(dict.fromkeys(makers.values()))


def _free(jobs: Sequence[Job], options: Options, failures: list[Failure]) -> list[Job]:
    """The jobs whose results can be put in place. All are checked first; the errors of the others are logged."""
    inputs: dict[tuple[int, int], Path] = {}
    for job in jobs:
        with contextlib.suppress(OSError, ValueError):
            found = os.stat(job.source)
            inputs[found.st_dev, found.st_ino] = job.source
    free = []
    for job in jobs:
        with _told(job, failures):
            for path in (job.target, *job.beside):
                if (there := check_place(path)) is None:
                    continue
                if (other := inputs.get((there.st_dev, there.st_ino))) is not None:
                    result = "its own result" if other == job.source else f"the result of {shown(job.source)}"
                    raise ImageError(other, f"would be overwritten by {result}", "use a --suffix or another folder")
                if options.skip_existing and path == job.target:
                    break
                if path == trace_folder(job.target) and not (path / "trace.json").is_file():
                    raise ImageError(path, "exists and holds no trace", "rename it, or use another folder (-o)")
                if not options.force and not options.skip_existing:
                    raise ImageError(path, "exists already", "use --force to overwrite it, or another folder (-o)")
            else:
                free.append(job)
    if skipped := len(jobs) - len(free) - len(failures):
        log.info("%d skipped: their results exist", skipped)
    return free


def upscale_files(load: Callable[[], Any], inputs: Sequence[str | os.PathLike[str]], output: str | os.PathLike[str],
                  options: Options | None = None, progress: bool = False) -> list[Failure]:
    """Upscale files and folders (`plan` says what becomes of `inputs` and `output`); gives the files that could not be done.

    load: gives the model, an `ITER` or what has its `restore` and `tier`. Called once, when there is a picture to upscale: bad
    input is reported at once. progress: bars on stderr, over files and over tiles.

    Each failure is logged as one line (error level), each success too (info level). KeyboardInterrupt passes through and leaves
    finished files only. Raises what `plan` and `load` raise.
    """
    options = options or Options()
    failures: list[Failure] = []
    jobs = plan(inputs, output, options, lambda target: (trace_folder(target),) if options.save_trace else ())
    model = None
    for job, photo in _photos(_free(jobs, options, failures), failures, progress):
        if model is None:
            model = load().bfloat16() if options.precision == "bf16" else load()
        with _told(job, failures), tqdm(unit="tile", desc=shown(job.source.name), leave=False, disable=not progress) as bar:

            def show(done: int, total: int, bar: Any = bar) -> None:
                bar.total = total
                bar.update(done - bar.n)

            started = time.perf_counter()
            _upscale_one(model, photo, job.target, options, show)
            log.info("%s -> %s (%.1f s)", shown(job.source), shown(job.target), time.perf_counter() - started)
    return failures


def _photos(jobs: Sequence[Job], failures: list[Failure], progress: bool) -> Iterator[tuple[Job, Photo]]:
    """The jobs whose picture can be read, each with its picture; errors of the others are logged."""
    with tqdm(jobs, unit="image", desc="itersr", disable=not progress or len(jobs) < 2) as bar:
        for job in bar:
            with _told(job, failures):
                photo = read(job.source)
                for note in photo.meta.notes:
                    log.warning("%s: %s", shown(job.source), note)
                yield job, photo


@contextlib.contextmanager
def _told(job: Job, failures: list[Failure]) -> Iterator[None]:
    """An error in the block is logged as one line and kept in `failures`; the other files are not affected."""
    try:
        yield
    except Exception as error:
        message = " ".join(str(error).split()) or type(error).__name__
        if not isinstance(error, FileError):
            message = f"{shown(job.source)}: {message}"
            log.debug("%s", job.source, exc_info=error)
        log.error("%s", message)
        usage = isinstance(error, (FileError, ValueError)) and not isinstance(error, WriteError)
        failures.append(Failure(job.source, message, usage))


def _upscale_one(model: Any, photo: Photo, target: Path, options: Options, progress: Callable[[int, int], None]) -> None:
    h, w = (max(1, round(side * (options.scale or model.tier.scale))) for side in photo.size)
    check_output(target, (h, w), photo.meta.exif)
    settings: dict[str, Any] = {"seed": options.seed, **options.settings}
    lq = pictures.to_tensor(photo)
    call = partial(model.restore, lq, keep_steps=options.save_trace, progress=progress, **settings)
    trace = _in_memory(call, target, options.tile)
    result = pictures.match_colors(trace.image.cpu(), lq, options.color_fix)
    if not torch.isfinite(result).all():
        raise RuntimeError("the model's result holds NaN or infinity; try --precision fp32")
    if tuple(result.shape[-2:]) != (h, w):
        result = pictures.resize(result[0], (h, w))[None]
    if options.save_trace:
        save_trace(trace, trace_folder(target), model.tier.vqgan.factor, settings)
    write(photo.upscaled(result[0]), target, options.quality)


def _in_memory(call: Callable[..., Any], target: Path, tile: int | None) -> Any:
    """What `call` gives with this tile, or, when memory ran out, with a small one."""
    while True:
        try:
            return call(tile=tile)
        except (MemoryError, RuntimeError) as error:
            if not (isinstance(error, MemoryError) or re.search("out of memory|allocate memory", str(error))):
                raise
            if tile and tile <= SMALL_TILE:
                raise RuntimeError(f"out of memory with --tile {tile} too; use a smaller --tile, or --device cpu") from error
        # Outside the except block: its traceback would keep the first try's tensors alive.
        tile = SMALL_TILE
        log.warning("%s: out of memory; once more with --tile %d", shown(target.name), tile)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def trace_folder(target: Path) -> Path:
    """Where the trace of a result goes: photo_out.png -> photo_out_trace."""
    return target.with_name(f"{target.stem}_trace")


def save_trace(trace: Any, folder: Path, factor: int, settings: Mapping[str, Any]) -> None:
    """Write every step of a `Trace` of one image: pictures, masks (white = kept), trace.json.

    `factor` is how many pixels of the result a token covers along a side.
    `00_start.png` is S_l decoded and `00_mask.png` the tokens of it judged good (m_s); then one picture and one mask a step.
    """
    steps = trace.restored.steps
    height, width = trace.image.shape[-2:]
    names = ["start", *(f"t{step.t}" for step in steps)]
    masks = [trace.restored.condition_keep, *(step.keep for step in steps)]
    record = {
        "size": [height, width],
        "tokens": list(trace.restored.tokens.shape[-2:]),
        "start_step": int(trace.start[0]),
        "steps": [{"t": step.t, "kept": float(step.keep.float().mean())} for step in steps],
        "settings": dict(settings),
    }
    if (folder / "trace.json").exists():
        shutil.rmtree(folder)  # an earlier trace: --force was asked for
    replace_file(folder / "trace.json", json.dumps(record, indent=1) + "\n")
    for i, (name, mask) in enumerate(zip(names, masks, strict=True)):
        write(Photo(trace.at(i)[0]), folder / f"{i:02d}_{name}.png")
        large = mask.float().repeat_interleave(factor, 1).repeat_interleave(factor, 2)
        large = large[:, :height, :width].expand(3, -1, -1)  # the grid is padded beyond the picture
        write(Photo(large, meta=Meta(grey=True)), folder / f"{i:02d}_mask.png")


def degrade_files(inputs: Sequence[str | os.PathLike[str]], output: str | os.PathLike[str], seed: int = 0, scale: int = 4,
                  force: bool = False, progress: bool = False) -> list[Failure]:
    """Make fixed test pairs: OUT/hq/NAME.png (cut to a multiple of `scale`), OUT/lq/NAME.png and a line in OUT/draws.jsonl.

    Every picture has its own generator, made of `seed` and its name, so that its LQ image does not depend on which others are
    made with it. The draw in draws.jsonl is enough to make it again (`degradation.Draw.from_dict`, `degradation.apply`).
    Raises what `plan` does, and ValueError where draws.jsonl exists and `force` is False.
    """
    out = Path(output)
    record = out / "draws.jsonl"
    if record.exists() and not force:
        raise ValueError(f"{record} exists already: use --force to overwrite, or another folder (-o)")
    failures: list[Failure] = []
    lines: list[str] = []
    options = Options(suffix="", ext="png", force=force)
    jobs = plan(inputs, out / "lq", options, lambda target: (out / "hq" / target.relative_to(out / "lq"),))
    for job, photo in _photos(_free(jobs, options, failures), failures, progress):
        with _told(job, failures):
            name = job.target.relative_to(out / "lq")
            h, w = (side // scale * scale for side in photo.size)
            hq = photo.visible()[:, :h, :w].contiguous()
            digest = hashlib.sha256(os.fsencode(f"{seed}/{name.as_posix()}")).digest()
            draws = degradation.draw(1, generator=torch.Generator().manual_seed(int.from_bytes(digest[:7], "little")))
            lq = degradation.apply(hq[None], draws, scale=scale)[0]
            write(Photo(hq), job.beside[0])
            write(Photo(lq), job.target)
            line = {"image": name.as_posix(), "seed": seed, "scale": scale, "size": [h, w], "draw": draws[0].to_dict()}
            lines.append(json.dumps(line))
            log.info("%s -> %s", shown(job.source), shown(job.target))
    if lines:
        replace_file(record, "\n".join(lines) + "\n")
    return failures
