"""The rows behind notebooks 07–10 in a form to commit: `python -m tests.rows pack|unpack [STORE]`.

A row is what one method made of one photo with one seed (`itersr.lab.experiments`). All of them take hours on two cores. `pack`
writes those of STORE (figures/checkpoints/rows.jsonl) into figures/results/rows/, with five digits of each number and three of
those that describe masks; pandas reads such a file by `pd.read_json(path, lines=True)`. `unpack` adds what is packed to STORE.
`make figures` unpacks first, so that a sentence or a figure can be changed without measuring again: rows whose weights, code or
settings have changed have other keys, and are measured anew. `itersr reproduce` never reads them.
"""

from __future__ import annotations

import argparse
import json
import lzma
from pathlib import Path
from typing import Any

from itersr.lab.experiments import Store
from itersr.lab.reproduce import ROOT

STORE = ROOT / "figures" / "checkpoints" / "rows.jsonl"
PACKED = ROOT / "figures" / "results" / "rows"
PART = 5000  # rows in a file, which then has less than 500 KB


def rounded(value: Any, digits: int = 5) -> Any:
    """The same with fewer digits, at any depth; three in lists, which is where masks are described."""
    if isinstance(value, float):
        return float(f"{value:.{digits}g}")
    if isinstance(value, list):
        return [rounded(item, 3) for item in value]
    if isinstance(value, dict):
        return {name: rounded(item, digits) for name, item in value.items()}
    return value


def pack(store: Path = STORE, packed: Path = PACKED) -> int:
    """Write all rows of a store in parts of `PART` rows; gives how many."""
    lines = [json.dumps({"key": key, "row": rounded(row)}, separators=(",", ":")) for key, row in Store(store).items()]
    packed.mkdir(parents=True, exist_ok=True)
    for old in packed.glob("*.jsonl.xz"):
        old.unlink()
    for part, first in enumerate(range(0, len(lines), PART), start=1):
        text = "\n".join(lines[first : first + PART]) + "\n"
        (packed / f"{part}.jsonl.xz").write_bytes(lzma.compress(text.encode(), preset=9))
    return len(lines)


def unpack(store: Path = STORE, packed: Path = PACKED) -> int:
    """Add the packed rows that a store lacks; gives how many these were."""
    rows, new = Store(store), 0
    for path in sorted(packed.glob("*.jsonl.xz")):
        for line in lzma.decompress(path.read_bytes()).decode().splitlines():
            entry = json.loads(line)
            if entry["key"] not in rows:
                rows[entry["key"]] = entry["row"]
                new += 1
    return new


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="rows", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("command", choices=["pack", "unpack"])
    parser.add_argument("store", nargs="?", type=Path, default=STORE)
    args = parser.parse_args()
    print(f"{(pack if args.command == 'pack' else unpack)(args.store)} rows {args.command}ed")
