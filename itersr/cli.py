"""The command line. Handlers import what they need, so that `itersr --help` and a mistyped name answer at once.

Exit codes: 0 done · 1 something failed (disk, memory, weights of a metric, a notebook) · 2 wrong call or unusable input ·
130 stopped by Ctrl-C. Every failure is one line on stderr, what was done goes to stdout; `-v` adds the traceback behind a
failure.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.util
import io
import json
import logging
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, get_args

from itersr import __version__
from itersr.config import TIERS, GammaKind
from itersr.training import STAGES

log = logging.getLogger("itersr")

# Repeated here because importing them would load torch for --help; a test holds them equal to where they are defined.
POLICIES = ("evaluator", "evaluator_greedy", "topk", "topk_annealed", "confidence_sampled", "random", "halton")
COLOR_FIXES = ("none", "wavelet", "adain")


class _Parser(argparse.ArgumentParser):
    """An error is one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"itersr: {message} (see {self.prog} --help)\n")


def parser() -> argparse.ArgumentParser:
    """All subcommands with their options."""
    about = "ITER: iterative token evaluation and refinement for real-world super-resolution."
    top = _Parser(prog="itersr", description=about)
    top.add_argument("--version", action="version", version=f"itersr {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (add, handler, short) in COMMANDS.items():
        command = commands.add_parser(name, help=short, description=handler.__doc__)
        loud = command.add_mutually_exclusive_group()
        loud.add_argument("-q", "--quiet", action="store_true", help="only warnings and errors")
        loud.add_argument("-v", "--verbose", action="store_true", help="also the traceback behind a failure")
        command.set_defaults(handler=handler)
        add(command)
    return top


def _device(p: Any, default: str = "auto") -> None:
    p.add_argument("--device", default=default, help="auto, cpu, cuda, cuda:1 … (default: %(default)s)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; gives the exit code. argparse itself exits with 2 (and 0 for --help)."""
    for stream in (sys.stdout, sys.stderr):  # a terminal may know no arrows, and a file name bytes that are no text
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    args = parser().parse_args(argv)
    handler, level = _Lines(), log.level
    handler.setFormatter(logging.Formatter("itersr: %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.DEBUG if args.verbose else logging.WARNING if args.quiet else logging.INFO)
    try:
        return int(args.handler(args))
    except KeyboardInterrupt:
        print("itersr: stopped", file=sys.stderr)
        return 130
    except Exception as error:
        log.debug("traceback", exc_info=error)
        print(f"itersr: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
        return 2 if _is_usage(error) else 1
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


class _Lines(logging.Handler):
    """Progress to stdout, the rest to stderr, around any progress bar. A line that cannot be printed stops nothing."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        plain = record.levelno == logging.INFO
        with contextlib.suppress(OSError):
            tqdm.write(record.getMessage() if plain else self.format(record), file=sys.stdout if plain else sys.stderr)


def _need(*modules: str) -> None:
    """RuntimeError, before any work begins, where something is missing that only the extra `notebooks` installs."""
    if missing := [name for name in modules if importlib.util.find_spec(name) is None]:
        raise RuntimeError(f"{', '.join(missing)} not installed: pip install 'itersr[notebooks]'")


def _is_usage(error: BaseException) -> bool:
    """Whether the call or its input is at fault, rather than the machine: exit code 2."""
    from itersr.disk import FileError, WriteError
    from itersr.weights import WeightsError

    found = (FileExistsError, FileNotFoundError, NotADirectoryError, IsADirectoryError)
    return isinstance(error, (FileError, WeightsError, ValueError, *found)) and not isinstance(error, WriteError)


# ------------------------------------------------------------------------------------------------------------ upscale


def _add_upscale(p: argparse.ArgumentParser) -> None:
    p.add_argument("inputs", nargs="+", metavar="IN", help="image files and folders")
    p.add_argument("-o", "--output", default="results", metavar="OUT", help="a file, or a folder (default: %(default)s)")
    p.add_argument("-s", "--scale", type=float, help="size of the result; other than the model's by resizing its result")
    p.add_argument("--suffix", default="out", help="photo.png becomes photo_SUFFIX.png (default: %(default)s; '' for none)")
    p.add_argument("--ext", choices=("auto", "png", "jpg", "webp", "tif", "bmp"), default="auto",
                   help="auto: that of the input (default: auto)")
    there = p.add_mutually_exclusive_group()
    there.add_argument("--force", action="store_true", help="overwrite existing outputs")
    there.add_argument("--skip-existing", action="store_true", help="leave out what has a result: go on with a stopped batch")
    p.add_argument("--quality", type=int, default=95, help="of JPEG and WebP outputs (default: %(default)s)")
    p.add_argument("--color-fix", choices=COLOR_FIXES, default="wavelet", help="hold colours to the input's (default: wavelet)")
    p.add_argument("--save-trace", action="store_true", help="also write masks and pictures of every step")
    w = p.add_argument_group("model").add_mutually_exclusive_group()
    w.add_argument("--tier", choices=TIERS, help="shipped weights to use (default: the best that ship)")
    w.add_argument("--weights", metavar="DIR", help="a folder of weights, as `itersr train` writes it")
    w.add_argument("--published", metavar="DIR", help="the folder with the authors' ITER_swinvqgan.pth and ITER_x4.pth")
    a = p.add_argument_group("algorithm (paper, Alg. 2)")
    a.add_argument("--steps", type=int, metavar="T", help="refinement steps (default: the tier's)")
    a.add_argument("--alpha", type=float, help="threshold for good tokens, 0 to 1: more refines more (default: the tier's)")
    a.add_argument("--policy", choices=POLICIES, help="how tokens to keep are chosen (default: the tier's)")
    a.add_argument("--schedule", choices=get_args(GammaKind), help="γ, the masked fraction over the steps (default: cosine)")
    a.add_argument("--temperature", type=float, help="of the sampled tokens (default: the tier's)")
    a.add_argument("--preset", choices=("tier", "paper", "released"),
                   help="settings to start from: best for the weights, Alg. 2 as printed, the authors' code (default: tier)")
    a.add_argument("--seed", type=int, default=0, help="the same for every file (default: %(default)s)")
    d = p.add_argument_group("device and memory")
    _device(d)
    d.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of weights (default: %(default)s)")
    d.add_argument("-t", "--tile", type=int, metavar="N", help="tiles of N input pixels, 0: one piece (default: by size)")


def _upscale(args: argparse.Namespace) -> int:
    """Enlarge photos, ×4 by default."""
    from itersr.model import pick_device
    from itersr.sampling import Sampler
    from itersr.upscaling import files

    wanted = ("steps", "alpha", "policy", "schedule", "temperature", "preset")
    settings = {name: getattr(args, name) for name in wanted if getattr(args, name) is not None}
    Sampler(**{name: value for name, value in settings.items() if name != "preset"})  # checks them, before loading weights
    if args.scale is not None and not 0 < args.scale <= 16:
        raise ValueError(f"--scale {args.scale:g}: must be above 0 and at most 16")
    pick_device(args.device)
    named = {field.name: getattr(args, field.name) for field in dataclasses.fields(files.Options) if field.name in args}
    options = files.Options(**named, settings=settings)
    return _code(files.upscale_files(lambda: _model(args), args.inputs, args.output, options, progress=_bars(args)))


def _bars(args: argparse.Namespace) -> bool:
    return sys.stderr.isatty() and not args.quiet


def _model(args: argparse.Namespace) -> Any:
    from itersr import ITER, published

    if args.published is not None:
        return published.load(args.published, device=args.device)
    return ITER.from_pretrained(args.tier if args.weights is None else Path(args.weights), device=args.device)


def _code(failures: Sequence[Any]) -> int:
    if not failures:
        return 0
    return 2 if all(failure.usage for failure in failures) else 1


# --------------------------------------------------------------------------------------------------- the other commands


def _add_train(p: argparse.ArgumentParser) -> None:
    p.add_argument("what", choices=("all", *STAGES, "rival-iter", "rival-gan", "rival-ldm"),
                   help="all stages one after the other, or one of them")
    p.add_argument("--tier", default="smoke", metavar="T",
                   help=f"{', '.join(TIERS)}, or a folder of weights or a JSON file with a tier (default: %(default)s)")
    p.add_argument("--data", metavar="DIR", help="a folder of photos (default: photos inside scikit-image)")
    p.add_argument("--out", default="checkpoints", metavar="DIR", help="where runs and weights go (default: %(default)s)")
    length = p.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, metavar="M",
                        help="time for the whole run, over all calls: its phases are shares of it")
    length.add_argument("--steps", type=int, metavar="N", help="of each stage, instead of the tier's")
    p.add_argument("--resume", action="store_true", help="continue from the last checkpoint in --out (`all` always does)")
    p.add_argument("--batch", type=int, help="instead of the tier's")
    p.add_argument("--lr", type=float, help="the highest learning rate, instead of the tier's")
    p.add_argument("--crop", type=int, help="side in pixels, instead of the tier's")
    p.add_argument("--seed", type=int, default=0, help="of first weights and of what is drawn (default: %(default)s)")
    _device(p)
    p.add_argument("--precision", choices=("auto", "no", "bf16"), default="auto", help="mixed precision (auto: bf16 on a GPU)")
    p.add_argument("--workers", type=int, metavar="N", help="processes that make crops (default: cores less one with a GPU)")


def _train(args: argparse.Namespace) -> int:
    """Train all of a tier's networks, or one stage of them: Stage I (vqgan), then Stages II and III by iter (Alg. 1, all at
    once), or by lq_encoder and then token_nets (refiner and evaluator). Or a rival to compare with: a GAN, or continuous
    diffusion (itersr.lab.rivals)."""
    from itersr import weights
    from itersr.lab import rivals
    from itersr.model import pick_device
    from itersr.training import run, ship

    config, out = weights.read_tier(args.tier), Path(args.out)
    pick_device(args.device)  # before anything is written
    given = {name: value for name in ("minutes", "steps", "batch", "crop", "lr") if (value := getattr(args, name)) is not None}
    for name, value in given.items():
        if not value > 0:
            raise ValueError(f"--{name} {value:g}: must be above 0")
    changes = {name: value for name, value in given.items() if name != "minutes"}
    options = {name: getattr(args, name) for name in ("seed", "device", "precision", "minutes", "workers")}
    own = dataclasses.replace(config, train={name: run.changed(old, changes) for name, old in config.train.items()})
    if args.what == "all":
        said = {"data": "DIR"} if args.data else {}
        by = ship.call("all", tier=Path(args.tier).name, **said, **given, **({"seed": args.seed} if args.seed else {}))
        scalars = run.train_all(own, args.data, out, by=by, **options)
    elif args.what == "rival-iter":
        scalars = rivals.train_iter(config, args.data, out, changes=changes, resume=args.resume, **options)
    elif args.what in rivals.RIVALS:
        scalars = rivals.train_rival(args.what, config, args.data, out, changes=changes, resume=args.resume, **options)
    else:
        scalars = run.train_stage(args.what, own, args.data, out, resume=args.resume, **options)
    for name, value in scalars.items():
        print(f"{args.what}: {name} {value:.4g}")
    return 0


def _add_evaluate(p: argparse.ArgumentParser) -> None:
    p.add_argument("--outputs", nargs="+", action="extend", default=[], metavar="NAME=DIR",
                   help="a method's name and its results; several here, or one after each --outputs")
    p.add_argument("--peer", choices=("realesrgan",), help="also what this method makes of --inputs")
    p.add_argument("--inputs", metavar="DIR", help="low-quality pictures for --peer")
    p.add_argument("--peers", default="datasets/peers", metavar="DIR",
                   help="where `python -m data_prep realesrgan` put its weights (default: %(default)s)")
    p.add_argument("--reference", metavar="DIR", help="the originals, for metrics that compare: same subfolder and file name")
    p.add_argument("--metrics", help="comma-separated (default: niqe, and with --reference psnr, ssim, lpips; those at hand)")
    p.add_argument("--json", metavar="FILE", help="also write every value and the conventions there")
    p.add_argument("--force", action="store_true", help="overwrite the file of --json")
    p.add_argument("--download", action="store_true", help="fetch missing weights of metrics")
    _device(p, "cpu")


def _evaluate(args: argparse.Namespace) -> int:
    """Measure folders of results, any method's, the same way: a table with 95 % intervals over the images."""
    _need("pyiqa")
    from itersr.disk import check_place, replace_file
    from itersr.lab import evaluation, metrics
    from itersr.model import pick_device

    device = pick_device(args.device)
    if args.json and check_place(Path(args.json)) is not None and not args.force:
        raise FileExistsError(f"--json {args.json}: exists already; use --force to overwrite it, or another name")
    folders: dict[str, Path] = {}
    for entry in args.outputs:
        name, _, folder = entry.partition("=")
        if not (name and folder) or name in {*folders, args.peer}:
            raise ValueError(f"--outputs {entry}: must be NAME=DIR, and each name another")
        folders[name] = Path(folder)
    if not (folders or args.peer):
        raise ValueError("nothing to measure: add --outputs NAME=DIR or --peer")
    if bool(args.peer) != bool(args.inputs):
        raise ValueError("--peer needs --inputs DIR with low-quality pictures, and --inputs needs --peer")
    usual = "psnr,ssim,lpips,niqe" if args.reference else "niqe"
    names = [name.strip() for name in (args.metrics or usual).split(",") if name.strip()]
    for name in list(names):
        if metrics.find(name).needs_reference and not args.reference:
            raise ValueError(f"--metrics {name}: compares with originals; add --reference DIR")
        if args.download:
            metrics.fetch(name)
        elif not args.metrics and not metrics.available(name):
            log.warning("%s is left out: its weights are not here (--download fetches them)", name)
            names.remove(name)
    if not names:
        raise metrics.MetricUnavailable("no metric can be computed here: use --download, or set TORCH_HOME")

    with tempfile.TemporaryDirectory() as made:
        if args.peer:
            folders[args.peer] = Path(made)
            evaluation.upscale_by_peer(args.peer, Path(args.peers), args.inputs, Path(made), device, progress=_bars(args))
        rows = {name: evaluation.measure(folder, names, args.reference, device, progress=_bars(args))
                for name, folder in folders.items()}
    summaries = {name: evaluation.summarise(of_one) for name, of_one in rows.items()}
    conventions = {name: metrics.describe(name) for name in names}
    print(evaluation.table(summaries))
    for name, convention in conventions.items():
        print(f"{name}: {convention}")
    if args.json:
        every = [{"method": name, **row} for name, of_one in rows.items() for row in of_one]
        record = {"conventions": conventions, "summary": summaries, "rows": every}
        replace_file(Path(args.json), json.dumps(record, indent=1) + "\n")
    return 0


def _add_degrade(p: argparse.ArgumentParser) -> None:
    p.add_argument("inputs", nargs="+", metavar="IN", help="image files and folders")
    p.add_argument("-o", "--output", required=True, metavar="OUT", help="a folder")
    p.add_argument("--seed", type=int, default=0, help="with its name, what a picture's draw is made of (default: %(default)s)")
    p.add_argument("-s", "--scale", type=int, default=4, help="how much smaller (default: %(default)s)")
    p.add_argument("--force", action="store_true", help="overwrite existing pairs")


def _degrade(args: argparse.Namespace) -> int:
    """Make fixed test pairs by the second-order degradation: OUT/hq, OUT/lq and the draws in OUT/draws.jsonl."""
    from itersr.upscaling import files

    return _code(files.degrade_files(args.inputs, args.output, args.seed, args.scale, args.force, progress=_bars(args)))


def _add_reproduce(p: argparse.ArgumentParser) -> None:
    p.add_argument("--tier", default="smoke", metavar="T",
                   help=f"{', '.join(TIERS)}, or a folder of weights, for notebooks 06-10 (default: %(default)s)")
    p.add_argument("--only", metavar="NN", help="notebooks by number, for example 07 or 02,07 (default: all)")
    _device(p)
    p.add_argument("--data", metavar="DIR", help="a folder of photos (default: photos inside scikit-image)")
    p.add_argument("--out", metavar="DIR", help="the run folder (default: a new one below runs)")
    p.add_argument("--jobs", type=int, metavar="N", help="notebooks at a time (default: 2 at smoke, else 1)")


def _reproduce(args: argparse.Namespace) -> int:
    """Run the notebooks as experiments: executed copies, figures and results go into one folder."""
    _need("papermill", "jupytext", "ipywidgets", "matplotlib", "pyiqa")
    from itersr.lab.reproduce import run

    return run(tier=args.tier, only=args.only, device=args.device, data=args.data, out=args.out, jobs=args.jobs)


# The options of each command, what runs it (its docstring begins the page of help), and its line in `itersr --help`.
COMMANDS: dict[str, tuple[Callable[..., None], Callable[[argparse.Namespace], int], str]] = {
    "upscale": (_add_upscale, _upscale, "enlarge photos"),
    "train": (_add_train, _train, "train a stage"),
    "evaluate": (_add_evaluate, _evaluate, "measure folders of results"),
    "degrade": (_add_degrade, _degrade, "make low-quality test pairs"),
    "reproduce": (_add_reproduce, _reproduce, "run the notebooks as experiments"),
}
