"""Fixed synthetic test pairs: HQ images degraded once, with a seed, the draw of each on record.

The same as `itersr degrade IN -o OUT --seed`, with the paper's ranges.
"""

from __future__ import annotations

from pathlib import Path

from . import PrepError

SEED = 0


def make_pairs(source: Path, target: Path, seed: int = SEED, scale: int = 4, quiet: bool = False) -> list[tuple[str, str]]:
    """Degrade every image of the folder `source`: target/hq, target/lq and target/draws.jsonl (file, seed, draw).

    HQ images are cut at the right and lower border to a multiple of `scale`. Each LQ image depends on the seed and its own file
    name alone. Returns (file, reason) of the images that were left out. Raises PrepError if the machine is at fault.
    """
    from itersr.upscaling import files  # with PyTorch, which the other datasets do not need

    failures = files.degrade_files([source], target, seed=seed, scale=scale, force=True, progress=not quiet)
    if broken := [failure for failure in failures if not failure.usage]:  # the machine's fault: a full disk, say
        raise PrepError(f"{broken[0].message}; mend it and run again")
    return [(Path(failure.source).name, failure.message) for failure in failures]
