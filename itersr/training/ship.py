"""What stands at the end of a training: φ_e's shift, the best settings of Alg. 2, the learning curves and a model card.

`export` completes RUN/weights, at the end of `itersr train all`; to ship them is to copy that folder to itersr/shipped/TIER.
What is chosen is chosen on photos that training held out. The numbers on test photos come later, from notebook 09:
`python -m tests.ledger_tools` writes them into the card.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from itersr import weights
from itersr.config import TIERS, Tier, as_defined
from itersr.disk import replace_file
from itersr.model import ITER
from itersr.training import STAGES
from itersr.training.loop import read_record
from itersr.training.perceptual import perceptual
from itersr.training.validate import calibrate, held_out, make_pairs, neighbour_information

log = logging.getLogger(__name__)
CARD_BEGIN, CARD_END = "<!-- test photos -->", "<!-- /test photos -->"  # numbers on test photos stand between them
CURVE_ROWS = 60  # training rows kept of every curve
TEMPERATURES, ALPHAS = (0.3, 0.5, 0.7, 0.85, 1.0), (0.5, 0.7, 1.0)  # α is 0.5 in the paper and 0.7 in the authors' code
MASKS = (("evaluator", False), ("evaluator", True), ("evaluator_greedy", True), ("topk", False))  # policy, re-masking


def settings_to_try(steps: int) -> list[dict[str, Any]]:
    """One step of φ_r, and `steps` steps of Alg. 2 by policy, re-masking, α and temperature: what `best` chooses from."""
    once = [{"steps": 1, "alpha": 1.0, "policy": "random", "remask": False, "temperature": x} for x in TEMPERATURES]
    return once + [{"steps": steps, "alpha": alpha, "policy": policy, "remask": remask, "temperature": x}
                   for (policy, remask), alpha, x in itertools.product(MASKS, ALPHAS, TEMPERATURES)]


def export(run: Path, photos: Path | None, *, data: str, by: str | None = None, device: str = "auto",
           seconds: float | None = None) -> None:
    """Complete RUN/weights: curves of all stages, φ_e's shift, the best settings of Alg. 2, and the card.

    photos: the folder it was trained on (None: scikit-image's); those held out there decide. data: what it was trained on, for
    the card. by: the one command that made it all, where there was one. seconds: use only as many of the photos as that allows.
    WeightsError where a network is missing. A run that ended before it logged anything is left out.
    """
    to = run / "weights"
    config, extra = weights.read_config(to)
    model = ITER.from_pretrained(to, device)
    on_gpu = model.device.type == "cuda"
    hardware = torch.cuda.get_device_name(model.device) if on_gpu else f"CPU, {torch.get_num_threads()} threads"
    logs, runs = {}, {}
    for stage in (stage for stage in STAGES if (run / stage / "log.csv").exists()):
        used = read_record(run / stage / "settings.json")
        logs[stage] = _thin(run / stage / "log.csv")
        logs[stage].to_csv(to / f"{stage}.csv", index=False)
        runs[stage] = {"stage": stage, "networks": used["networks"], "command": by or command(config, used),
                       "hardware": hardware, "steps": int(logs[stage].step.max()),
                       "minutes": round(logs[stage].seconds.max() / 60, 1)}
    unseen = held_out(photos, config.unit)
    model.calibration = round(calibrate(model, unseen), 4)
    nats = [*neighbour_information(model, make_pairs(unseen, config, 160), (0.0, 0.75)).values()]
    config = dataclasses.replace(config, **best(model, unseen, settings_to_try(as_defined(config).steps), seconds=seconds))
    extra |= {"calibration": model.calibration, "nats": nats, "runs": runs}
    weights.write_config(to, config, extra)
    replace_file(to / "MODEL_CARD.md", card(config, extra, logs, weights.fingerprint(to), data, hardware))


def this_commit() -> str:
    """The commit of the code that runs, or "unknown"."""
    call = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(call, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


@torch.no_grad()
def best(model: ITER, photos: Mapping[str, Tensor], settings: Sequence[dict[str, Any]], *,
         seconds: float | None = None) -> dict[str, Any]:
    """Of several settings of `Sampler` the one with which Alg. 2 is nearest to HQ, by LPIPS or its substitute.

    Centre crops of 160² of `photos`, each with its own seed. After every third photo the worse half is given up, until four
    are left; these see all photos, or as many as `seconds` allow. All settings are chosen together, since masks, α and
    temperature do alike: each decides how likely the tokens are that stay.
    """
    left = {i: 0.0 for i in range(len(settings))}
    ruler, began = perceptual().to(model.device), time.monotonic()
    for done, pair in enumerate(make_pairs(photos, model.tier, 160)):
        if done and seconds is not None and time.monotonic() - began > seconds:
            log.info("settings were chosen on %d of %d held-out photos: there was no time for more", done, len(photos))
            break
        for i in left:
            image = model.restore(pair.lq, model.sampler(**settings[i]), seed=done, keep_steps=False).image
            left[i] += ruler(image.float(), pair.hq.to(model.device)).item()
        order = sorted(left, key=lambda i: left[i])
        log.info("held-out %s after %d photos: %s", ruler.name, done + 1,
                 "; ".join(f"{settings[i]} {left[i] / (done + 1):.4f}" for i in order[:4]))
        if done % 3 == 2:
            left = {i: left[i] for i in order[: max(len(order) // 2, 4)]}
    return settings[min(left, key=lambda i: left[i])]


def command(config: Tier, used: Mapping[str, Any]) -> str:
    """The call that trained a stage. used: what settings.json says of its run."""
    own = any(getattr(TIERS.get(config.name), name, None) != getattr(config, name) for name in weights.NETWORKS)
    names = ("minutes" if used["minutes"] else "steps", "batch", "crop", "lr", "precision", "seed")
    return call(used["stage"], tier="config.json" if own else config.name, **{name: used[name] for name in names})


def call(what: str, **said: Any) -> str:
    """`itersr train WHAT --NAME VALUE …`"""
    options = [f"--{name} {value:g}" if isinstance(value, float) else f"--{name} {value}" for name, value in said.items()]
    return " ".join(["itersr train", what, *options])


def _thin(path: Path) -> Any:
    """A log with about CURVE_ROWS steps of training and every validation; seconds run on over resumed calls."""
    import pandas as pd

    log = pd.read_csv(path)
    log = log.sort_values("step", kind="stable")
    train = sorted(log[log.split == "train"].step.unique())
    keep = set(train[:: max(len(train) // CURVE_ROWS, 1)]) | set(train[-1:])
    return log[(log.split == "validation") | log.step.isin(keep)]


def card(config: Any, extra: dict[str, Any], logs: dict[str, Any], fingerprint: str, data: str, hardware: str) -> str:
    """The model card: what these weights are, how they came about, and what they reached on held-out photos."""
    lines = [
        f"# itersr `{config.name}`: {config.notes}", "",
        f"Weights of ITER (Chen et al., AAAI 2024) for ×{config.scale} super-resolution, trained by this project's code.", "",
        f"- fingerprint: `{fingerprint}`", f"- data: {data}",
        f"- degradation: `{config.degradation}` ranges (`itersr.degradation`)",
        f"- hardware: {hardware}; commit {this_commit()}",
        f"- VQGAN: f = {config.vqgan.factor}, {config.vqgan.codes} codes of {config.vqgan.code_dim} dimensions",
        f"- φ_e's logit is shifted by {extra.get('calibration', 0.0):.3f} (share of good tokens, held-out training photos)",
        f"- unless told: T = {config.steps}, masks by `{config.policy}`{', re-masking' if config.remask else ''}, "
        f"α = {config.alpha:g}, temperature {config.temperature:g}: best of {len(settings_to_try(8))} on held-out photos",
        *(["- one step was best: Algorithm 2 as printed is `--preset paper`"] if config.steps == 1 else []),
        *(["- neighbour information {:.1%}: φ_r's loss is {:.3f} nats with nothing known, {:.3f} with ¾ of the tokens "
           "known (notebook 10)".format(1 - told[1] / told[0], *told)] if (told := extra.get("nats")) else []),
        *sorted({f"- made by `{done['command']}`" for done in extra["runs"].values()}), "",
        "For research and teaching. The numbers are the last validation's, on crops of photos that were not trained on.", "",
        "| run | steps | minutes | reached |", "|---|---|---|---|",
    ]
    for name, done in extra["runs"].items():
        last = logs[name][logs[name].split == "validation"]
        last = last[last.step == last.step.max()].set_index("name").value
        reached = "; ".join(f"{what} {last[what]:.4g}" for what in IN_CARD if what in last.index)
        lines.append(f"| {name} | {done['steps']} | {done['minutes']:g} | {reached} |")
    return "\n".join([*lines, "", "## On test photos", "", CARD_BEGIN, "Not measured yet.", CARD_END]) + "\n"


IN_CARD = ("psnr", "lpips", "gradients", "codes used", "perplexity", "E_l cross-entropy", "E_l explained", "E_l top-1",
           "φ_r cross-entropy at 1.0", "φ_r cross-entropy at 0.25", "AUC of φ_e on S_l", "AUC of φ_e on samples at 1.0",
           "AUC of φ_r's confidence at 1.0", "lpips bicubic", "lpips S_l", "lpips one sample of E_l", "lpips ITER", "mean T_s")
"""Which of a validation's numbers the card tells; log.csv has all."""
