"""The ledger of claims: what the paper says, what was measured here, and a verdict that intervals decide.

Notebooks 07–09 record `evidence` on photos, notebook 10 in the world of stripes: named means with their 95 % intervals. A
claim names the evidence that it needs and where each interval has to lie. No verdict is written by hand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NOTEBOOKS = ("07", "08", "09", "10", "11")
WORLD = "10"  # the notebook that measures the same evidence in the world of stripes
FEWEST = 6  # photos: with fewer, all of them agree by chance more often than one time in twenty (2 · 2⁻⁵ > .05)

Found = Mapping[str, Any]  # "mean", "low", "high", and "n" photos, or what "of" names


@dataclass(frozen=True)
class Claim:
    """One row of the ledger: what is claimed, what the paper has for it, what must be so, and what would explain a failure.

    needs: the name of some evidence and where its interval has to lie: all of it "< 0" (or >, ≤, ≥), or its mean "≈ 8 ± 0.1".
    """

    number: str
    text: str
    paper: str
    notebook: str
    needs: tuple[str, ...]
    explained_by: tuple[str, ...] = ()


# Differences are paired, first minus second; less LPIPS is better. A margin stands where "as good as" is the claim.
CLAIMS = (
    Claim("1", "Refinement adds texture over S_l alone", "Fig. 6, pictures", "09",
          ("LPIPS, ITER − S_l < 0",), ("token accuracy of S_l", "token accuracy of ITER")),
    Claim("2a", "Top-k masks grow from their neighbours, the evaluator's less", "Fig. 8, pictures", "07",
          ("nearness of top-k < 1", "nearness, top-k − evaluator < 0"), ("nearness of random masks", "Moran's I of top-k")),
    Claim("2b", "The evaluator's masks lie about as evenly as random ones", "Fig. 8, pictures", "07",
          ("nearness of the evaluator ≥ 0.9",), ("nearness of random masks", "Moran's I of the evaluator")),
    Claim("2c", "The evaluator's masks give better pictures than top-k", "Fig. 8, pictures", "07",
          ("LPIPS, evaluator − top-k < 0",), ("LPIPS, evaluator − random", "LPIPS, oracle − evaluator")),
    Claim("2d", "… and better than random ones, from the same proposals", "not in the paper", "07",
          ("LPIPS, evaluator − random < 0",),
          ("LPIPS, evaluator − random, at temperature 1", "LPIPS, evaluator − random, each at its best temperature",
           "LPIPS, oracle − evaluator")),
    Claim("3a", "The larger α, the more steps", "Fig. 7, curve", "08",
          ("T_s, corrected, α = .75 − α = .25 > 0",), ("T_s, raw, α = .75 − α = .25",)),
    Claim("3b", "The larger α, the lower PSNR", "Fig. 7, curve", "08", ("PSNR, α = 1 − α = 0 < 0",),
          ("PSNR at α = 0", "PSNR at α = 1")),
    Claim("3c", "LPIPS is best at an α inside", "Fig. 7, curve", "08",
          ("LPIPS, best α inside − α = 0 < 0", "LPIPS, best α inside − α = 1 < 0"),
          ("LPIPS, best α inside − α = 0, at temperature 1", "LPIPS, best α inside − α = 1, at temperature 1",
           "token accuracy at α = 0", "token accuracy at α = 1")),
    Claim("4", "Eight steps suffice: no worse than many by more than .01 LPIPS", "“within just 8 iterative steps”", "08",
          ("LPIPS, T = 8 − most steps ≤ 0.01",), ("LPIPS, T = 1 − most steps",)),
    Claim("5", "The adaptive start saves steps and costs no more than .01 LPIPS", "Alg. 2, line 6", "08",
          ("steps, adaptive − full start < 0", "LPIPS, adaptive − full start ≤ 0.01"), ("seconds, adaptive − full start",)),
    Claim("6", "The metrics agree with Table 1 where they can be compared",
          "NIQE, bicubic 7.98, BSRGAN 5.49, Real-ESRGAN 5.65", "09",
          ("NIQE of bicubic on RealSRSet ≈ 7.98 ± 0.03", "NIQE of BSRGAN on RealSRSet ≈ 5.49 ± 0.02",
           "NIQE of Real-ESRGAN on RealSRSet ≈ 5.65 ± 0.02")),
    Claim("7a", "Alg. 2 beats one plain sample of E_l", "not in the paper", "09", ("LPIPS, ITER − one sample of E_l < 0",),
          ("LPIPS, ITER from nothing known − one sample of E_l", "LPIPS, φ_r proposes − E_l proposes",
           "LPIPS, φ_e judges − dice judge", "LPIPS, one run − runs mixed",
           "LPIPS, oracle on E_l's proposals − one sample of E_l")),
    Claim("7b", "Alg. 2 beats one plain sample of φ_r", "not in the paper", "09", ("LPIPS, ITER − one sample of φ_r < 0",),
          ("LPIPS, ITER − one sample of φ_r, at temperature 1", "LPIPS, one sample of φ_r − one sample of E_l",
           "LPIPS, φ_e judges − dice judge", "LPIPS, one run − runs mixed",
           "LPIPS, oracle on φ_r's proposals − one sample of φ_r")),
    Claim("8", "Easier to train than a GAN: of the same short runs, at `smoke`'s size, more end near their own best",
          "abstract", "11", ("usable short runs, ITER − GAN at its usual weight > 0",),
          ("usable short runs, ITER − GAN at all weights",)),
    Claim("9", "Fewer steps than continuous diffusion until within .01 LPIPS of its own best, and no worse there",
          "introduction", "11", ("calls within .01 of the best, ITER − LDM < 0", "LPIPS, ITER − LDM, each at its best ≤ 0.01"),
          ("LPIPS, ITER − LDM, at equal seconds", "LPIPS, ITER − GAN, each at its best")),
)


def parse(need: str) -> tuple[str, str, float, float]:
    """The parts of a need: name of the evidence, relation, limit, tolerance. ValueError where it is none."""
    parts = re.fullmatch(r"(.+) ([<≤>≥≈]) ([\d.]+)(?: ± ([\d.]+))?", need)
    if parts is None:
        raise ValueError(f"need {need!r}: must be a name, one of <, ≤, >, ≥ and ≈, and a number")
    return parts[1], parts[2], float(parts[3]), float(parts[4] or 0)


def met(need: str, evidence: Mapping[str, Found]) -> bool:
    """Whether the evidence lies where `need` says."""
    name, relation, limit, tolerance = parse(need)
    found = evidence[name]
    return {
        "<": found["high"] < limit, "≤": found["high"] <= limit, ">": found["low"] > limit, "≥": found["low"] >= limit,
        "≈": abs(found["mean"] - limit) <= tolerance,
    }[relation]


def sign(found: Found) -> int:
    """−1 or 1 where the whole interval lies on one side of zero and enough photos are behind it, else 0."""
    return 0 if found["n"] < FEWEST else -1 if found["high"] < 0 else 1 if found["low"] > 0 else 0


def says(found: Found, below: str, above: str, undecided: str = "not told apart") -> str:
    """One of three texts for a difference: all of its interval below zero, above it, or neither (see `sign`)."""
    return {-1: below, 1: above, 0: undecided}[sign(found)]


def verdict(claim: Claim, evidence: Mapping[str, Found]) -> str:
    """"holds" where every need is met, "not measured" where evidence is missing or of too few photos, else "does not hold"."""
    names = [parse(need)[0] for need in claim.needs]
    if any(name not in evidence or evidence[name]["n"] < FEWEST for name in names):
        return "not measured"
    return "holds" if all(met(need, evidence) for need in claim.needs) else "does not hold"


def show(found: Found) -> str:
    """A mean and its interval with three digits that matter: −0.030 [−0.056, −0.006]."""
    digits = 1 if abs(found["mean"]) >= 10 else 2 if abs(found["mean"]) >= 1 else 3
    mean, low, high = (f"{found[part]:.{digits}f}".replace("-", "−") for part in ("mean", "low", "high"))
    return mean if low == mean == high else f"{mean} [{low}, {high}]"


def draw(axis: Any, differences: dict[str, Found]) -> None:
    """Differences with their intervals on a matplotlib axis, the first on top: blue below zero, red above, grey not decided."""
    for y, found in enumerate(reversed(differences.values())):
        axis.plot([found["low"], found["high"]], [y, y], lw=2, color={-1: "C0", 1: "C3", 0: "0.5"}[sign(found)])
        axis.plot(found["mean"], y, "o", color="k", ms=4)
    axis.axvline(0, color="k", lw=0.7)
    axis.set_yticks(range(len(differences)), list(reversed(differences)), fontsize=8)


def claims(results: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The ledger's rows from what notebooks recorded: {"07": the content of 07.json, …}; notebooks may be missing."""
    rows, world = [], results.get(WORLD, {"results": {}})["results"].get("evidence", {})
    for claim in CLAIMS:
        content = results.get(claim.notebook, {"provenance": {"tier": "smoke"}, "results": {}})
        evidence = content["results"].get("evidence", {})
        decided = verdict(claim, evidence)
        needed = [parse(need)[0] for need in claim.needs]
        named = [name for name in needed if name in evidence]
        why = [name for name in claim.explained_by if name in evidence] if decided == "does not hold" else []
        photos = min((evidence[name]["n"] for name in named), default=None)
        because = [f"{name}: {show(evidence[name])}" for name in why]
        if photos is not None and photos < FEWEST:
            because.append(f"too few photos for a verdict, {FEWEST} are needed")
        counted = evidence[named[0]].get("of", "photos") if named else ""
        ours = [f"{name}: {show(evidence[name])}" for name in named] + ([f"{counted}: {photos:g}"] if named else [])
        tier = content["provenance"]["tier"]
        rows.append({
            "number": claim.number, "claim": claim.text, "paper": claim.paper, "ours": "; ".join(ours),
            "needed": "; ".join(claim.needs), "verdict": decided, "because": "; ".join(because),
            "evidence": {name: dict(evidence[name]) for name in (*named, *why)},
            "command": f"itersr reproduce --only {claim.notebook} --tier {tier}", "notebook": claim.notebook,
            "tier": tier if named else None, "weights": content["results"].get("weights"),
            "photos": photos, "seeds": content["results"].get("seeds"),
            "stripes": verdict(claim, world),
            "stripes evidence": {name: dict(world[name]) for name in needed if name in world},
            "stripes because": {name: dict(world[name]) for name in claim.explained_by if name in world},
        })
    return rows


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The ledger as the README shows it: a table, and what else was measured where a claim does not hold."""
    def told(evidence: Mapping[str, Found]) -> str:
        return "; ".join(f"{name}: {show(found)}" for name, found in evidence.items())

    lines = ["| | claim | paper | on photos | in the world of stripes | notebook |", "|---|---|---|---|---|---|"]
    reasons = []
    for row in rows:
        ours = f"**{row['verdict']}**" + (f" · {row['ours']}" if row["ours"] else "")
        measured = row["stripes"] != "not measured"
        stripes = f"**{row['stripes']}** · {told(row['stripes evidence'])}" if measured else "–"
        lines.append(f"| {row['number']} | {row['claim']} | {row['paper']} | {ours} | {stripes} | {row['notebook']} |")
        reasons += [f"- {row['number']}, photos: {row['because']}"] if row["because"] else []
        if row["stripes"] == "does not hold" and row["stripes because"]:
            reasons.append(f"- {row['number']}, stripes: {told(row['stripes because'])}")
    return "\n".join(lines + (["", "What else was measured where a claim does not hold:", "", *reasons] if reasons else []))


def read_results(folder: Path) -> dict[str, dict[str, Any]]:
    """What notebooks 07–11 recorded in a folder of NN.json files; those that are there."""
    paths = {number: folder / f"{number}.json" for number in NOTEBOOKS}
    return {number: json.loads(path.read_text(encoding="utf-8")) for number, path in paths.items() if path.is_file()}
