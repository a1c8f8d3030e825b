"""The ledger of claims as the repository shows it: `python -m tests.ledger_tools`, after the notebooks were built.

From figures/results/07–11.json it writes figures/results/claims.json, the README's first table, and the numbers on test photos
in the model card of the weights that were measured.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from itersr.lab import ledger
from itersr.lab.reproduce import ROOT
from itersr.training.ship import CARD_BEGIN, CARD_END

BEGIN, END = "<!-- claims -->", "<!-- /claims -->"  # the README's table stands between them


def card(results: Mapping[str, Any]) -> str:
    """What a model card says of the test photos: the summary that notebook 09 recorded, a table for each set of photos."""
    lines = []
    for name, found in results["sets"].items():
        values = list(dict.fromkeys(row["value"] for row in found["summary"]))
        lines += [f"{name}: {found['photos']} photos, centre crops of {results['side']}², {results['seeds']} seeds", "",
                  f"| | {' | '.join(values)} |", "|---" * (len(values) + 1) + "|"]
        for method in dict.fromkeys(row["method"] for row in found["summary"]):
            cells = {row["value"]: ledger.show(row) for row in found["summary"] if row["method"] == method}
            lines.append(f"| {method} | {' | '.join(cells.get(value, '–') for value in values)} |")
        lines += ["", *(f"- {what}: {ledger.show(value)}" for what, value in found["differences"].items()), ""]
    conventions = "; ".join(results["conventions"].values())
    return "\n".join([*lines, f"Mean and 95 % interval over photos and seeds; differences paired. {conventions}."])


def fill(path: Path, begin: str, end: str, content: str) -> None:
    """Replace what stands between two marks in a file. ValueError where the marks are missing."""
    text = path.read_text(encoding="utf-8")
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"{path.name} needs {begin} and {end} once each")
    before, after = text.partition(begin)[0], text.partition(end)[2]
    path.write_text(f"{before}{begin}\n{content}\n{end}{after}", encoding="utf-8")


def write(root: Path = ROOT) -> list[dict[str, Any]]:
    """Write the README's table, figures/results/claims.json and the model card of the weights that notebook 09 measured."""
    folder = root / "figures" / "results"
    results = ledger.read_results(folder)
    rows = ledger.claims(results)
    fill(root / "README.md", BEGIN, END, ledger.markdown(rows))
    text = json.dumps(rows, indent=1, ensure_ascii=False, allow_nan=False)
    (folder / "claims.json").write_text(text + "\n", encoding="utf-8")
    measured = results.get("09", {}).get("results", {})
    if measured.get("sets"):
        fill(root / "itersr" / "shipped" / measured["tier"] / "MODEL_CARD.md", CARD_BEGIN, CARD_END, card(measured))
    return rows


if __name__ == "__main__":
    for row in write():
        print(f"{row['number']:>2}  {row['verdict']:<13}  {row['claim']}")
