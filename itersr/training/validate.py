"""Held-out photos as pairs of HQ and LQ; what neighbours tell φ_r on them; how far φ_e is to be trusted: its logit's shift."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from itersr.config import Tier
from itersr.degradation import degrade
from itersr.masking import random_mask
from itersr.model import ITER
from itersr.pictures import bundled, middle
from itersr.sampling import categorical
from itersr.training.data import Photos, ranges


@dataclass(frozen=True)
class Pair:
    """A sharp photo and its degraded version: hq (1, 3, H, W) and lq (1, 3, H/s, W/s), both in [0, 1]."""

    name: str
    hq: Tensor
    lq: Tensor

    def facts(self, image: Tensor) -> dict[str, float]:
        """What can be measured on a restored picture (1, 3, H, W) of this pair alone, by name (photos: nothing)."""
        return {}

    @cached_property
    def digest(self) -> str:
        """A hash of the pixels: rows on disk belong to them, whatever the photo is called."""
        return hashlib.sha256(self.hq.numpy().tobytes() + self.lq.numpy().tobytes()).hexdigest()[:12]


def make_pairs(photos: Mapping[str, Tensor], tier: Tier, side: int, seed: int = 0) -> list[Pair]:
    """Centre crops of the photos (3, H, W), degraded as the tier was trained, each from its own name and the seed.

    side: of a crop in HQ pixels, less where the photo is smaller; always whole windows of tokens, so that nothing is padded.
    """
    unit = tier.unit
    pairs = []
    for name, photo in photos.items():
        h, w = (min(side, n) // unit * unit for n in photo.shape[-2:])
        if not h or not w:
            raise ValueError(f"photo {name} is {tuple(photo.shape[-2:])}, needed at least {unit} pixels on each side")
        hq = middle(photo[None], h, w).contiguous()
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}/{name}".encode()))
        lq = degrade(hq, generator=generator, scale=tier.scale, ranges=ranges(tier.degradation))
        pairs.append(Pair(name, hq, lq))
    return pairs


@torch.no_grad()
def tokens_of(model: ITER, pair: Pair) -> Tensor:
    """S_h, (1, h, w)."""
    return model.vqgan.encode(pair.hq.to(model.device))


@contextmanager
def calibrated(model: ITER, shift: float | None) -> Iterator[None]:
    """Within it φ_e's logit is shifted by `shift` (None: as the model ships)."""
    before = model.calibration
    model.calibration = before if shift is None else shift
    try:
        yield
    finally:
        model.calibration = before


def held_out(data: Path | None, side: int = 1) -> dict[str, Tensor]:
    """Photos to calibrate on, never those of a test: scikit-image's training split (None), or those that training held out.

    Of these the ones that can be read and have `side` pixels along both sides.
    """
    if data is None:
        return bundled("train")
    _, rest = Photos.of(data).split()
    rest.preload()
    return {Path(rest.names[i]).stem: rest[i] for i in rest.large_enough(side)}


@torch.no_grad()
def neighbour_information(model: ITER, pairs: Sequence[Pair], shares: Sequence[float] = (0.0, 0.25, 0.5, 0.75), *,
                          own: bool = False, seed: int = 0) -> dict[float, float]:
    """φ_r's mean loss in nats (Eq. 4) where a share of the tokens of S_h is known: {share: loss}.

    The loss is always taken over the same places of a map, those that stay hidden at the largest share. How far it falls is
    what neighbours tell beyond the LQ image: only that can make several steps better than one. own: φ_r's own sample, drawn
    with nothing known, in place of the true tokens; these are what inference knows.
    """
    losses: dict[float, list[Tensor]] = {share: [] for share in shares}
    for i, pair in enumerate(pairs):
        lq, s_h = pair.lq.to(model.device), tokens_of(model, pair)
        log_probs = model.log_posterior(lq)
        refine, _ = model.functions(log_probs, model.lq_features(lq))
        generator = torch.Generator().manual_seed(seed + i)
        order, noise = (torch.rand(s_h.shape, generator=generator).to(s_h.device) for _ in range(2))
        s_l, none = log_probs.argmax(1), torch.zeros_like(s_h, dtype=torch.bool)
        known = categorical(refine(s_h, none, s_l, none), noise)[0] if own else s_h
        masks = {share: random_mask(round((1 - share) * s_h[0].numel()), order) for share in shares}
        for share, keep in masks.items():
            loss = F.cross_entropy(refine(known, keep, s_l, none).float(), s_h, reduction="none")
            losses[share].append(loss[~masks[max(shares)]].cpu())
    return {share: float(torch.cat(values).mean()) for share, values in losses.items()}


@torch.no_grad()
def judge(model: ITER, pairs: Sequence[Pair]) -> tuple[Tensor, Tensor]:
    """φ_e's logit of "good", without any shift, for every token of every S_l (float64), and whether it is good (bool); flat."""
    logits, good = [], []
    with calibrated(model, 0.0):
        for pair in pairs:
            log_probs = model.log_posterior(model.pad(pair.lq.to(model.device)))
            s_l = log_probs.argmax(1)
            log_p = model.functions(log_probs)[1](s_l, s_l).double()
            logits.append((log_p - torch.log(-torch.expm1(log_p))).flatten().cpu())
            good.append((s_l == tokens_of(model, pair)).flatten().cpu())
    return torch.cat(logits), torch.cat(good)


def fit_shift(logits: Tensor, good: Tensor) -> float:
    """The shift b with mean σ(logit + b) = the share of good tokens: the most likely one, and the prior put right.

    ValueError where all tokens are good, or none: no shift would do.
    """
    share = float(good.double().mean())
    if not 0 < share < 1:
        raise ValueError(f"the share of good tokens is {share:g}, needed strictly between 0 and 1 to fit a shift")
    low, high = -50.0, 50.0
    for _ in range(60):
        halfway = (low + high) / 2
        if float((logits + halfway).sigmoid().mean()) < share:
            low = halfway
        else:
            high = halfway
    return (low + high) / 2


def calibrate(model: ITER, photos: Mapping[str, Tensor], *, side: int = 256, seed: int = 0) -> float:
    """The shift of φ_e's logit that makes α a probability, fitted on S_l of `photos` (see `held_out`: never test photos).

    It is what `ITER.calibration` holds; this function does not set it.
    """
    return fit_shift(*judge(model, make_pairs(photos, model.tier, side, seed)))
