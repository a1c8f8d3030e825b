"""The command line: `python -m data_prep --help` and `python -m data_prep pack --help`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from . import PrepError, bench, pack, realesrgan
from .datasets import TABLE
from .prepare import prepare

EXTRA = {"bench": "what notebooks 06-10 measure on, with the metrics' weights", "realesrgan": "weights of a peer"}


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 0, 1 if a dataset could not be made, 2 for a call that makes no sense, 130 after Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        return _pack(arguments[1:]) if arguments[:1] == ["pack"] else _datasets(arguments)
    except (PrepError, OSError) as error:
        print(f"data_prep: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("data_prep: stopped; run again to go on", file=sys.stderr)
        return 130


def _datasets(arguments: list[str]) -> int:
    known = {dataset.name: dataset for dataset in TABLE}
    also = ["pack --help: copy photos into a small folder", *(f"{name}: {what}" for name, what in EXTRA.items())]
    parser = argparse.ArgumentParser(prog="python -m data_prep", description="Make the datasets of the paper.",
                                     epilog="Also: " + "; ".join(also) + ".")
    parser.add_argument("names", nargs="+", metavar="NAME", choices=("all", "list", *known, *EXTRA),
                        help=f"all, list, or any of: {', '.join((*known, *EXTRA))}")
    parser.add_argument("--root", type=Path, default=Path("datasets"),
                        help="where they go, and, in ROOT/archives, archives that you have already (default: %(default)s)")
    args = parser.parse_args(arguments)
    if "list" in args.names:
        for dataset in TABLE:
            size = next((f"{archive.size / 1e9:.2f} GB" for archive in dataset.archives if archive.size), "size unknown")
            print(f"{dataset.name:16s} {dataset.images:6d} images  {dataset.kind:8s} {size:13s} {dataset.title}")
            for name, value in (("licence", dataset.licence), ("cite", dataset.citation), ("page", dataset.by_hand)):
                print(f"{'':16s} {name}: {value}")
        return 0
    code = 0
    for name in known if "all" in args.names else args.names:
        try:
            if name in EXTRA:
                print(bench.make(args.root) if name == "bench" else realesrgan.make(args.root), flush=True)
            else:
                print(prepare(known[name], args.root), flush=True)
        except PrepError as error:
            print(f"data_prep: {name}: {error}", file=sys.stderr)
            code = 1
    return code


def _pack(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m data_prep pack", description=pack.__doc__)
    parser.add_argument("--data", type=Path, action="append", required=True, help="a folder of photos; may be given again")
    parser.add_argument("-o", "--out", type=Path, required=True, help="a new or empty folder")
    parser.add_argument("--megabytes", type=float, required=True, help="the most that all may take (of 10⁶ bytes)")
    parser.add_argument("--longest", type=int, help="shrink photos whose longer side is above this (default: keep)")
    args = parser.parse_args(arguments)
    print(pack.pack(args.data, args.out, args.megabytes, args.longest))
    return 0


if __name__ == "__main__":
    sys.exit(main())
