"""What the paper compares ITER with, small and trained alike: a GAN and continuous diffusion.

    itersr train rival-iter --tier tiny --data DIR --out OUT --minutes M
    itersr train rival-gan …
    itersr train rival-ldm …

Same photos, degradation, crops, held-out pairs, training loop and minutes; OUT/weights holds what was trained. ITER and LDM
work on the tier's VQGAN that ships (or LDM on that of OUT/weights), as the paper's do on a VQGAN trained before.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from itersr import weights
from itersr.config import Tier, TrainConfig
from itersr.lab.rivals.gan import GAN
from itersr.lab.rivals.ldm import LDM
from itersr.training.run import changed, fit, load_networks, train_plan

RIVALS = ("rival-gan", "rival-ldm")
VALIDATIONS = 3  # of a run: a run by minutes pays for them


def settings_of(what: str, config: Tier) -> TrainConfig:
    """How a rival is trained at a tier: batch, crop and steps of Algorithm 1; its own learning rate and phases."""
    usual = dataclasses.replace(config.train["iter"], validations=VALIDATIONS)
    if what == "rival-gan":  # Real-ESRGAN: 2e-4, then 1e-4 with the adversary; here one run with one decay
        return dataclasses.replace(usual, lr=4e-4, gan_start=0.4, gan_weight=0.1, perceptual_weight=1.0)
    return dataclasses.replace(usual, lr=5e-4)


def make(what: str, config: Tier, settings: TrainConfig, seed: int = 0, folder: Path | None = None) -> GAN | LDM:
    """An untrained rival; rival-ldm has the VQGAN of a folder of weights. ValueError for an unknown name."""
    if what not in RIVALS:
        raise ValueError(f"rival {what!r}: there are {', '.join(RIVALS)}")
    if what == "rival-gan":
        return GAN(config, settings, seed)
    return LDM(config, settings, seed, None if folder is None else load_networks(folder, config, ("lq_encoder",)).vqgan)


def train_rival(what: str, config: Tier, data: str | Path | None, out: Path, *,
                changes: Mapping[str, Any] = MappingProxyType({}), seed: int = 0, **options: Any) -> dict[str, float]:
    """Train a rival. changes: of its usual settings (fields of `TrainConfig`). options and result: those of `run.fit`."""
    settings, own = changed(settings_of(what, config), changes), out / "weights"
    folder = own if (own / "vqgan.safetensors").exists() else weights.locate(config.name)
    return fit(what, lambda: make(what, config, settings, seed, folder), config, settings, data, out, seed=seed, **options)


def train_iter(config: Tier, data: str | Path | None, out: Path, *, changes: Mapping[str, Any] = MappingProxyType({}),
               **options: Any) -> dict[str, float]:
    """ITER on the rivals' terms: E_l, φ_r and φ_e on the VQGAN that ships, in the shares of the tier's plan after Stage I.

    changes: of all stages' settings. options and result: those of `run.train_plan`.
    """
    own, vqgan = out / "weights", weights.locate(config.name) / "vqgan.safetensors"
    if not (own / vqgan.name).exists():
        own.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(vqgan, own / vqgan.name)
    shares = {stage: share for stage, share in config.plan.items() if stage != "vqgan"}
    plan = {stage: share / sum(shares.values()) for stage, share in shares.items()}
    train = {stage: changed(dataclasses.replace(settings, validations=VALIDATIONS), changes)
             for stage, settings in config.train.items()}
    return train_plan(dataclasses.replace(config, plan=plan, train=train), data, out, **options)


def load(what: str, folder: Path, device: str = "cpu") -> GAN | LDM:
    """A trained rival from a folder of weights; rival-ldm needs a VQGAN there too, or the tier's that ships."""
    config, _ = weights.read_config(folder)
    own = (folder / "vqgan.safetensors").exists()
    task = make(what, config, settings_of(what, config), folder=folder if own else weights.locate(config.name))
    files = [folder / f"{name}.safetensors" for name in task.trained]
    for path, module in zip(files, task.trained.values(), strict=True):
        weights.load(module, path)
    task.fingerprint = weights.fingerprint(folder, files)
    return task.to(device).eval().requires_grad_(False)
