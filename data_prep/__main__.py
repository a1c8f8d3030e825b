"""python -m data_prep NAME... | all | list --root DIR [--jobs N] [--archive-dir DIR]
python -m data_prep pack --data DIR [--data DIR ...] -o OUT --megabytes N [--longest PIXELS]"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from . import PrepError
from .datasets import TABLE
from .pack import arguments_of, pack
from .prepare import prepare


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 0, 1 if a dataset could not be made, 2 for a call that makes no sense, 130 after Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["pack"]:
        return _pack(arguments[1:])
    known = {dataset.name: dataset for dataset in TABLE}
    parser = argparse.ArgumentParser(prog="python -m data_prep", description="Make the datasets of the paper.",
                                     epilog="python -m data_prep pack --help: copy photos into a small folder.")
    parser.add_argument("names", nargs="+", metavar="NAME", help=f"all, list, or any of: {', '.join(known)}")
    parser.add_argument("--root", type=Path, default=Path("datasets"), help="where they go (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="images cut at once (default: %(default)s)")
    parser.add_argument("--archive-dir", type=Path, help="a folder with archives, packed or unpacked, that are there already")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    args = parser.parse_args(arguments)
    if args.names == ["list"]:
        for dataset in TABLE:
            sizes = [f"{a.size / 1e9:.2f} GB" for a in dataset.archives if a.size]
            size = (sizes or ["size unknown"])[0]
            print(f"{dataset.name:16s} {dataset.images:6d} images  {dataset.kind:8s} {size:13s} {dataset.title}")
            print(f"{'':16s} licence: {dataset.licence}\n{'':16s} cite: {dataset.citation}\n{'':16s} page: {dataset.by_hand}")
        return 0
    names = list(known) if args.names == ["all"] else args.names
    if unknown := [name for name in names if name not in known]:
        parser.error(f"no dataset {', '.join(unknown)}; need all, list, or any of: {', '.join(known)}")
    if args.jobs < 1:
        parser.error(f"--jobs {args.jobs}: need 1 or more")
    if args.archive_dir is not None and not args.archive_dir.is_dir():
        parser.error(f"--archive-dir {args.archive_dir}: is not a folder")
    code = 0
    try:
        for name in dict.fromkeys(names):
            try:
                print(prepare(known[name], args.root, args.jobs, args.archive_dir, quiet=args.quiet), flush=True)
            except PrepError as error:
                print(f"data_prep: {name}: {error}", file=sys.stderr)
                code = 1
    except KeyboardInterrupt:
        print("data_prep: stopped; run again to go on from here", file=sys.stderr)
        return 130
    return code


def _pack(arguments: list[str]) -> int:
    args = arguments_of(arguments)
    try:
        print(pack(args.data, args.out, args.megabytes, args.longest, args.jobs, args.quiet))
    except (PrepError, OSError) as error:
        print(f"data_prep: pack: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("data_prep: pack: stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
