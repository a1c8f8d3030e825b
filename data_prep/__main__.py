"""The command line: `python -m data_prep --help` and `python -m data_prep pack --help`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from . import PrepError, bench, realesrgan
from .datasets import TABLE
from .pack import arguments_of, pack
from .prepare import prepare

EXTRA = {"bench": "what notebooks 06-10 measure on, with the metrics' weights", "realesrgan": "weights of a peer"}


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 0, 1 if a dataset could not be made, 2 for a call that makes no sense, 130 after Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if arguments[:1] == ["pack"]:
            args = arguments_of(arguments[1:])
            print(pack(args.data, args.out, args.megabytes, args.longest, args.jobs, args.quiet))
            return 0
        return _datasets(arguments)
    except (PrepError, OSError) as error:
        print(f"data_prep: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("data_prep: stopped" + ("" if arguments[:1] == ["pack"] else "; run again to go on"), file=sys.stderr)
        return 130


def _datasets(arguments: list[str]) -> int:
    known = {dataset.name: dataset for dataset in TABLE}
    also = ["pack --help: copy photos into a small folder", *(f"{name}: {what}" for name, what in EXTRA.items())]
    parser = argparse.ArgumentParser(prog="python -m data_prep", description="Make the datasets of the paper.",
                                     epilog="Also: " + "; ".join(also) + ".")
    parser.add_argument("names", nargs="+", metavar="NAME",
                        help=f"all, list, or any of: {', '.join((*known, *EXTRA))}")
    parser.add_argument("--root", type=Path, default=Path("datasets"), help="where they go (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="images cut at once (default: %(default)s)")
    parser.add_argument("--archive-dir", type=Path, help="a folder with archives, packed or unpacked, that are there already")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    args = parser.parse_args(arguments)
    if args.names == ["list"]:
        for dataset in TABLE:
            size = next((f"{archive.size / 1e9:.2f} GB" for archive in dataset.archives if archive.size), "size unknown")
            print(f"{dataset.name:16s} {dataset.images:6d} images  {dataset.kind:8s} {size:13s} {dataset.title}")
            for name, value in (("licence", dataset.licence), ("cite", dataset.citation), ("page", dataset.by_hand)):
                print(f"{'':16s} {name}: {value}")
        return 0
    names = list(known) if args.names == ["all"] else args.names
    if unknown := [name for name in names if name not in (*known, *EXTRA)]:
        parser.error(f"no dataset {', '.join(unknown)}; need all, list, or any of: {', '.join((*known, *EXTRA))}")
    if args.jobs < 1:
        parser.error(f"--jobs {args.jobs}: need 1 or more")
    if args.archive_dir is not None and not args.archive_dir.is_dir():
        parser.error(f"--archive-dir {args.archive_dir}: is not a folder")
    code = 0
    for name in dict.fromkeys(names):
        try:
            if name == "realesrgan":
                done = str(realesrgan.make(args.root))
            elif name == "bench":
                done = bench.make(args.root, args.archive_dir, args.jobs, args.quiet)
            else:
                done = prepare(known[name], args.root, args.jobs, args.archive_dir, quiet=args.quiet)
            print(done, flush=True)
        except PrepError as error:
            print(f"data_prep: {name}: {error}", file=sys.stderr)
            code = 1
    return code


if __name__ == "__main__":
    sys.exit(main())
