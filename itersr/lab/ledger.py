"""The ledger of claims: what the paper says, what was measured here, and a verdict that intervals decide (design §6).

Notebooks 07–09 record `evidence`: named means with their 95 % intervals. A claim names the evidence that it needs and
where each interval has to lie; nothing of a verdict is typed.

    python -m itersr.lab.ledger    figures/results/07–09.json → figures/results/claims.json, the README's first table, and
                                   the numbers on test photos in the model card of the weights that were measured
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from itersr.lab.reproduce import ROOT
from itersr.training.ship import CARD_BEGIN, CARD_END

NOTEBOOKS = ("07", "08", "09")
BEGIN, END = "<!-- claims -->", "<!-- /claims -->"
HOLDS, FAILS, UNKNOWN = "holds", "does not hold", "not measured"
FEWEST = 6  # photos: with fewer, all of them agree by chance more often than one time in twenty (2 · 2⁻⁵ > .05)


@dataclass(frozen=True)
class Need:
    """Where the interval of some evidence has to lie: all of it below or above `limit`, or its mean within `tolerance`."""

    evidence: str
    relation: str  # "<", "≤", ">", "≥" or "≈"
    limit: float
    tolerance: float = 0.0

    def met(self, found: Mapping[str, float]) -> bool:
        """ValueError for an unknown relation."""
        if self.relation == "≈":
            return abs(found["mean"] - self.limit) <= self.tolerance
        tests = {"<": found["high"] < self.limit, "≤": found["high"] <= self.limit,
                 ">": found["low"] > self.limit, "≥": found["low"] >= self.limit}
        if self.relation not in tests:
            raise ValueError(f"relation {self.relation!r}: there are <, ≤, >, ≥ and ≈")
        return tests[self.relation]

    def __str__(self) -> str:
        sign = f" ± {self.tolerance:g}" if self.relation == "≈" else ""
        return f"{self.evidence} {self.relation} {self.limit:g}{sign}"


@dataclass(frozen=True)
class Claim:
    """One row of the ledger: what is claimed, what the paper has for it, what must be so, and what would explain a failure."""

    number: str
    text: str
    paper: str
    notebook: str
    needs: tuple[Need, ...]
    explained_by: tuple[str, ...] = ()


# Differences are paired, first minus second; less LPIPS is better. A margin stands where "as good as" is the claim.
CLAIMS = (
    Claim("1", "Refinement adds texture over S_l alone", "Fig. 6, pictures", "09",
          (Need("LPIPS, ITER − S_l", "<", 0),), ("token accuracy of S_l", "token accuracy of ITER")),
    Claim("2a", "Top-k masks grow from their neighbours, the evaluator's less", "Fig. 8, pictures", "07",
          (Need("nearness of top-k", "<", 1), Need("nearness, top-k − evaluator", "<", 0)),
          ("nearness of random masks", "Moran's I of top-k")),
    Claim("2b", "The evaluator's masks lie about as evenly as random ones", "Fig. 8, pictures", "07",
          (Need("nearness of the evaluator", "≥", 0.9),), ("nearness of random masks", "Moran's I of the evaluator")),
    Claim("2c", "The evaluator's masks give better pictures than top-k", "Fig. 8, pictures", "07",
          (Need("LPIPS, evaluator − top-k", "<", 0),), ("LPIPS, evaluator − random", "LPIPS, oracle − evaluator")),
    Claim("2d", "… and better than random ones, from the same proposals", "not in the paper", "07",
          (Need("LPIPS, evaluator − random", "<", 0),), ("LPIPS, oracle − evaluator",)),
    Claim("3a", "The larger α, the more steps", "Fig. 7, curve", "08", (Need("T_s, corrected, α = .75 − α = .25", ">", 0),),
          ("T_s, raw, α = .75 − α = .25",)),
    Claim("3b", "The larger α, the lower PSNR", "Fig. 7, curve", "08", (Need("PSNR, α = 1 − α = 0", "<", 0),),
          ("PSNR at α = 0", "PSNR at α = 1")),
    Claim("3c", "LPIPS is best at an α inside", "Fig. 7, curve", "08",
          (Need("LPIPS, best α inside − α = 0", "<", 0), Need("LPIPS, best α inside − α = 1", "<", 0)),
          ("token accuracy at α = 0", "token accuracy at α = 1")),
    Claim("4", "Eight steps suffice: no worse than many by more than .01 LPIPS", "“within just 8 iterative steps”", "08",
          (Need("LPIPS, T = 8 − most steps", "≤", 0.01),), ("LPIPS, T = 1 − most steps",)),
    Claim("5", "The adaptive start saves steps and costs no more than .01 LPIPS", "Alg. 2, line 6", "08",
          (Need("steps, adaptive − full start", "<", 0), Need("LPIPS, adaptive − full start", "≤", 0.01)),
          ("seconds, adaptive − full start",)),
    Claim("6", "The metrics agree with Table 1 where they can be compared", "NIQE, bicubic 7.98, BSRGAN 5.49", "09",
          (Need("NIQE of bicubic on RealSRSet", "≈", 7.98, 0.03),
           Need("NIQE of BSRGAN on RealSRSet", "≈", 5.49, 0.02))),
    Claim("7a", "Alg. 2 beats one plain sample of E_l", "not in the paper", "09",
          (Need("LPIPS, ITER − one sample of E_l", "<", 0),),
          ("LPIPS, ITER from nothing known − one sample of E_l", "LPIPS, φ_r proposes − E_l proposes",
           "LPIPS, φ_e judges − dice judge", "LPIPS, one run − runs mixed",
           "LPIPS, oracle on E_l's proposals − one sample of E_l")),
    Claim("7b", "Alg. 2 beats one plain sample of φ_r", "not in the paper", "09",
          (Need("LPIPS, ITER − one sample of φ_r", "<", 0),),
          ("LPIPS, one sample of φ_r − one sample of E_l", "LPIPS, φ_e judges − dice judge", "LPIPS, one run − runs mixed",
           "LPIPS, oracle on φ_r's proposals − one sample of φ_r")),
)


def sign(found: Mapping[str, float]) -> int:
    """−1 or 1 where the whole interval lies on one side of zero and enough photos are behind it, else 0."""
    return 0 if found["n"] < FEWEST else -1 if found["high"] < 0 else 1 if found["low"] > 0 else 0


def verdict(claim: Claim, evidence: Mapping[str, Mapping[str, float]]) -> str:
    """"holds" where every need is met, "not measured" where evidence is missing or of too few photos, else "does not hold"."""
    if any(need.evidence not in evidence or evidence[need.evidence]["n"] < FEWEST for need in claim.needs):
        return UNKNOWN
    return HOLDS if all(need.met(evidence[need.evidence]) for need in claim.needs) else FAILS


def show(found: Mapping[str, float]) -> str:
    """A mean and its interval with three digits that matter: −0.030 [−0.056, −0.006]."""
    digits = 1 if abs(found["mean"]) >= 10 else 2 if abs(found["mean"]) >= 1 else 3
    mean, low, high = (f"{found[part]:.{digits}f}".replace("-", "−") for part in ("mean", "low", "high"))
    return mean if low == mean == high else f"{mean} [{low}, {high}]"


def draw(axis: Any, differences: dict[str, Mapping[str, float]]) -> None:
    """Differences with their intervals on a matplotlib axis, the first on top: blue below zero, red above, grey not decided."""
    for y, found in enumerate(reversed(differences.values())):
        axis.plot([found["low"], found["high"]], [y, y], lw=2, color={-1: "C0", 1: "C3", 0: "0.5"}[sign(found)])
        axis.plot(found["mean"], y, "o", color="k", ms=4)
    axis.axvline(0, color="k", lw=0.7)
    axis.set_yticks(range(len(differences)), list(reversed(differences)), fontsize=8)


def claims(results: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The ledger's rows from what notebooks recorded: {"07": the content of 07.json, …}; notebooks may be missing."""
    rows = []
    for claim in CLAIMS:
        content = results.get(claim.notebook, {})
        evidence = content.get("results", {}).get("evidence", {})
        decided = verdict(claim, evidence)
        named = [need.evidence for need in claim.needs if need.evidence in evidence]
        why = [name for name in claim.explained_by if name in evidence] if decided == FAILS else []
        fewest = min((evidence[name]["n"] for name in named), default=FEWEST)
        few = [f"too few photos for a verdict, {FEWEST} are needed"] if fewest < FEWEST else []
        tier = content.get("provenance", {}).get("tier", "smoke")
        rows.append({
            "number": claim.number, "claim": claim.text, "paper": claim.paper,
            "ours": "; ".join(f"{name}: {show(evidence[name])}" for name in named) + (f"; photos: {fewest:g}" if named else ""),
            "needed": "; ".join(map(str, claim.needs)), "verdict": decided,
            "because": "; ".join([f"{name}: {show(evidence[name])}" for name in why] + few),
            "evidence": {name: dict(evidence[name]) for name in (*named, *why)},
            "command": f"itersr reproduce --only {claim.notebook} --tier {tier}",
            "tier": tier if named else None, "weights": content.get("results", {}).get("weights"),
            "photos": int(fewest) if named else None, "seeds": content.get("results", {}).get("seeds"),
        })
    return rows


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The ledger as the README shows it."""
    lines = ["| | claim | paper | ours: mean [95 % interval] | verdict | made by |", "|---|---|---|---|---|---|"]
    for row in rows:
        ours = row["ours"] or "–"
        if row["because"]:
            ours += f" ({row['because']})"
        made = f"`{row['command']}`" + (f", seeds: {row['seeds']}" if row["tier"] else "")
        cells = (row["number"], row["claim"], row["paper"], ours, f"**{row['verdict']}**", made)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def read_results(folder: Path) -> dict[str, dict[str, Any]]:
    """What notebooks 07–09 recorded in a folder of NN.json files; those that are there."""
    paths = {number: folder / f"{number}.json" for number in NOTEBOOKS}
    return {number: json.loads(path.read_text(encoding="utf-8")) for number, path in paths.items() if path.is_file()}


def card(content: Mapping[str, Any]) -> str:
    """What a model card says of the test photos: the summary that notebook 09 recorded, a table for each set of photos."""
    results, tables = content["results"], []
    for name, found in results["sets"].items():
        values = list(dict.fromkeys(row["value"] for row in found["summary"]))
        tables += [f"{name}: {found['photos']} photos, centre crops of {results['side']}², {results['seeds']} seeds", "",
                   f"| | {' | '.join(values)} |", "|---" * (len(values) + 1) + "|"]
        for method in dict.fromkeys(row["method"] for row in found["summary"]):
            cells = {row["value"]: show(row) for row in found["summary"] if row["method"] == method}
            tables.append(f"| {method} | {' | '.join(cells.get(value, '–') for value in values)} |")
        tables += ["", *(f"- {what}: {show(value)}" for what, value in found["differences"].items()), ""]
    conventions = "; ".join(results["conventions"].values())
    return "\n".join([*tables, f"Mean and 95 % interval over photos and seeds; differences paired. {conventions}."])


def card_path(content: Mapping[str, Any], root: Path = ROOT) -> Path:
    """The model card of the weights that notebook 09 measured."""
    return root / "itersr" / "shipped" / content["results"]["tier"] / "MODEL_CARD.md"


def in_card(text: str, content: Mapping[str, Any]) -> str:
    """A model card with its numbers on test photos made anew."""
    return between(text, CARD_BEGIN, CARD_END, card(content), "MODEL_CARD.md")


def between(text: str, begin: str, end: str, content: str, where: str) -> str:
    """`text` with what stands between two marks made anew. ValueError where the marks are missing."""
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"{where} needs {begin} and {end} once each")
    head, _, rest = text.partition(begin)
    return f"{head}{begin}\n{content}\n{end}{rest.partition(end)[2]}"


def in_readme(text: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """The README with its table made anew."""
    return between(text, BEGIN, END, markdown(rows), "README.md")


def write(root: Path = ROOT) -> list[dict[str, Any]]:
    """Write figures/results/claims.json and the README's table; gives the rows."""
    folder, readme = root / "figures" / "results", root / "README.md"
    results = read_results(folder)
    rows = claims(results)
    text = in_readme(readme.read_text(encoding="utf-8"), rows)
    folder.mkdir(parents=True, exist_ok=True)
    ledger = json.dumps(rows, indent=1, ensure_ascii=False, allow_nan=False)
    (folder / "claims.json").write_text(ledger + "\n", encoding="utf-8")
    readme.write_text(text, encoding="utf-8")
    if results.get("09", {}).get("results", {}).get("sets"):
        path = card_path(results["09"], root)
        path.write_text(in_card(path.read_text(encoding="utf-8"), results["09"]), encoding="utf-8")
    return rows


if __name__ == "__main__":
    if not (ROOT / "figures").is_dir():
        sys.exit("ledger: the results are no part of the installed package: run this in a clone of the repository")
    for row in write():
        print(f"{row['number']:>2}  {row['verdict']:<13}  {row['claim']}")
    sys.exit(0)
