"""ITER: the four networks together, and what one does with them: `restore` tokens, `upscale` a picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from operator import index
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from itersr import pictures, tiling, weights
from itersr.config import Tier, as_defined
from itersr.lq_encoder import LQEncoder, Stem
from itersr.sampling import PRESETS, EvaluatorFn, ProposeFn, Restored, Sampler, merge, restore
from itersr.tiled import TiledNetworks, tile_for
from itersr.token_nets import Evaluator, Refiner
from itersr.vqgan import VQGAN

SEVERAL_STEPS = {"steps", "alpha", "policy", "remask", "schedule", "adaptive", "resample", "skip_last", "printed_start"}


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """"auto" is CUDA where there is one, else the CPU. ValueError for a device that is not there."""
    if str(device) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        there = ["auto", "cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise ValueError(f"device {str(device)!r} cannot be used: there are {', '.join(there)}") from error
    return chosen


def one_by_one(network: Callable[[Tensor], Tensor], batch: Tensor) -> Tensor:
    """What a network gives for each image of a batch alone. A batch must give what its images give alone, to the bit, and
    the sums inside a matrix product depend on how many rows it has."""
    return network(batch) if len(batch) == 1 else torch.cat([network(image) for image in batch.split(1)])


@dataclass(frozen=True)
class Trace:
    """One restoration: the picture and all steps that led to it. `at` decodes the picture of a step."""

    image: Tensor  # the result, (B, 3, s·H, s·W) in [0, 1]
    restored: Restored  # S_l, m_s, T_s, and S_t, m_t and scores of every step, on the padded token grid
    sampler: Sampler
    decode: Callable[[Tensor], Tensor]  # tokens (B, h, w) → images in [0, 1], cropped to the picture

    @property
    def start(self) -> Tensor:
        """T_s of each image, (B,)."""
        return self.restored.start

    def at(self, index: int) -> Tensor:
        """The pictures after step `index` (0: S_l decoded, −1: the result); an image that starts later is still S_l there.

        ValueError where the steps were not kept (`keep_steps=False`), IndexError where there are fewer.
        """
        if not self.restored.steps and not torch.equal(self.restored.tokens, self.restored.condition):
            raise ValueError("the steps of this restoration were not kept: restore with keep_steps=True")
        tokens = self.restored.condition.clone()
        for done in self.restored.steps[: range(len(self.restored.steps) + 1)[index]]:
            tokens[done.active.to(tokens.device)] = done.tokens
        return self.decode(tokens)


class ITER(nn.Module):
    """The model: E_H and D_H with their codebook (`vqgan`), E_l (`lq_encoder`), φ_r (`refiner`), φ_e (`evaluator`)."""

    def __init__(self, tier: Tier) -> None:
        super().__init__()
        self.tier = tier
        codes = tier.vqgan.codes
        self.vqgan = VQGAN(tier.vqgan)
        self.lq_encoder = LQEncoder(tier.lq_encoder, codes, tier.halvings)
        stem = Stem(tier.lq_encoder, tier.halvings) if tier.refiner.reads_lq else None
        self.refiner = Refiner(tier.refiner, codes, stem)
        self.evaluator = Evaluator(tier.evaluator, codes)
        self.fingerprint = "untrained"
        # Added to φ_e's logit of "good", so that α is a probability: in training the share of good tokens is another. It is
        # fitted on held-out training photos.
        self.calibration = 0.0

    # ------------------------------------------------------------------ files

    @classmethod
    def from_pretrained(cls, name: str | Path | None = None, device: str | torch.device = "auto") -> ITER:
        """The shipped weights of a tier, those in a folder, or (None) the best that ship. WeightsError: none, or damaged."""
        folder = weights.locate(name)
        tier, extra = weights.read_config(folder)
        model = cls(tier)
        for network in weights.NETWORKS:
            weights.load(model.get_submodule(network), folder / f"{network}.safetensors")
        model.calibration = float(extra.get("calibration", 0.0))
        model.fingerprint = weights.fingerprint(folder)
        return model.ready(device)

    def ready(self, device: str | torch.device = "auto") -> ITER:
        """This model for inference: on its device, without gradients, channels last (the layout of the faster convolutions).

        `model.bfloat16()` afterwards halves memory and time on a processor with bfloat16 products. Distances to codes,
        probabilities, sampling and pixels stay in float32. Logits differ by about a hundredth of their spread, and so do
        single tokens and fine texture.
        """
        return self.to(pick_device(device)).to(memory_format=torch.channels_last).eval().requires_grad_(False)

    def save(self, folder: str | Path, *, dtype: torch.dtype = torch.float16, **extra: Any) -> None:
        """Write the four networks, in half precision by default, with their configuration; `extra` goes into config.json."""
        networks = {name: self.get_submodule(name) for name in weights.NETWORKS}
        weights.save(Path(folder), networks, self.tier, {"calibration": self.calibration, **extra}, dtype=dtype)

    # ------------------------------------------------------------ restoration

    @property
    def device(self) -> torch.device:
        return self.vqgan.codebook.embedding.weight.device

    @property
    def cell(self) -> int:
        """LQ pixels that a token covers along a side."""
        return 2**self.tier.halvings

    def pad(self, lq: Tensor) -> Tensor:
        """Mirror an LQ image (B, 3, H, W) at its right and bottom until its token grid is whole windows, and no further.

        In `paper`, GroupNorm and the gate average over the whole padded picture: the mirrored part changes all of it a little.
        """
        return tiling.whole_windows(lq, self.tier.unit // self.tier.scale)

    def log_posterior(self, lq: Tensor) -> Tensor:
        """log p_l(token | LQ) of every place, (B, codes, h, w) in float32: E_l's answer before any argmax."""
        return one_by_one(self.lq_encoder, lq).float().log_softmax(1)

    def lq_features(self, lq: Tensor) -> Tensor | None:
        """What φ_r reads of the LQ image itself, (B, width, h, w); None where it reads tokens alone (`reads_lq=False`)."""
        return None if self.refiner.stem is None else one_by_one(self.refiner.stem.lq_features, lq)

    def functions(self, log_probs: Tensor | None,
                  lq_features: Tensor | None = None) -> tuple[Callable[..., Tensor], EvaluatorFn]:
        """φ_r and φ_e as Alg. 2 calls them, for an image of which `log_posterior` and `lq_features` gave these.

        None will do for networks that do not read them (`posterior=False`, `reads_lq=False`)."""
        def refine(tokens: Tensor, keep: Tensor, condition: Tensor, condition_keep: Tensor) -> Tensor:
            seen = log_probs if self.tier.refiner.posterior else None
            return self.refiner(tokens, keep, condition, condition_keep, seen, lq_features)

        def judge(tokens: Tensor, condition: Tensor) -> Tensor:
            logits = self.evaluator(tokens, condition, log_probs if self.tier.evaluator.posterior else None).float()
            return F.logsigmoid(logits[:, 1] - logits[:, 0] + self.calibration)

        return refine, judge

    def sampler(self, preset: str = "tier", **settings: Any) -> Sampler:
        """The settings of Alg. 2: a preset, and `settings` that replace them.

        preset: "tier" (T, α, temperature and policy that are best for these weights), "paper" (Alg. 2 with the paper's own), or
        "released" (what the authors' code does instead, at the defined tier's T and temperature; see `sampling.RELEASED`).
        If one step is best for the weights, "tier" with a setting for several (`SEVERAL_STEPS`) starts from `as_defined`.
        ValueError for an unknown preset and for a wrong value, TypeError for an unknown setting.
        """
        usual = as_defined(self.tier)
        best = usual if self.tier.steps == 1 and SEVERAL_STEPS & settings.keys() else self.tier
        own = {name: getattr(best, name) for name in ("steps", "temperature", "alpha", "policy", "remask")}
        presets = {"tier": replace(PRESETS["paper"], **own), "paper": PRESETS["paper"],
                   "released": replace(PRESETS["released"], steps=usual.steps, temperature=usual.temperature)}
        if preset not in presets:
            raise ValueError(f"preset {preset!r}: there are {', '.join(presets)}")
        return replace(presets[preset], **settings)

    @torch.no_grad()
    def restore(self, lq: Tensor, sampler: Sampler | None = None, *, seed: int | Sequence[int] = 0,
                preset: str = "tier", tile: int | None = None, keep_steps: bool = True,
                evaluator: EvaluatorFn | None = None, propose: ProposeFn | None = None,
                progress: Callable[[int, int], None] | None = None, **settings: Any) -> Trace:
        """Algorithm 2 on LQ images (B, 3, H, W) in [0, 1]; gives a `Trace`.

        preset: "tier", "paper" or "released", see `sampler`.
        settings: fields of `Sampler` (steps, alpha, policy, temperature, …) that replace the preset's; or a whole `sampler`.
        seed: of the first image, the next has the next; or one for each.
        tile: every network works in tiles of so many LQ pixels; T_s, k and the random numbers are those of one piece (0). None
        chooses by size, see `tiled.tile_for`. At smoke, tiny and small the result is that of one piece but for the rounding of
        float32; `paper` is cross-faded.
        keep_steps=False: keep only the result. evaluator, propose: others in place of φ_e and φ_r (an oracle, say), for a
        batch of one.
        progress: called before each tile with the number of tiles done and the most there can be; for a batch of one.
        Raises ValueError for a wrong setting or shape, TypeError for an unknown setting, and for settings beside a `sampler`.
        """
        if sampler is not None and (settings or preset != "tier"):
            raise TypeError(f"sampler is given: put {', '.join(settings) or 'preset'} into it, or leave it out")
        if lq.ndim != 4 or lq.shape[1] != 3 or lq.numel() == 0:
            raise ValueError(f"lq has shape {tuple(lq.shape)}, needed is (B, 3, H, W)")
        sampler = sampler or self.sampler(preset, **settings)
        own_seeds = seed if isinstance(seed, Iterable) else range(index(seed), index(seed) + len(lq))
        seeds = [index(own) for own in own_seeds]  # NumPy's integers too
        h, w = lq.shape[-2:]
        padded = self.pad(lq.to(self.device))
        size = padded.shape[-2], padded.shape[-1]
        side = tile_for(self, size, tile)
        tiles, done = math.prod(len(tiling.tiles(length, side or length)) for length in size), count()
        most = tiles * (2 * sampler.steps + 2)  # E_l, φ_e on S_l, φ_r and φ_e in all steps (φ_e not in the last), D_H

        def tick() -> None:
            if progress is not None:
                progress(min(next(done), most - 1), most)  # `Trace.at` decodes more

        networks = partial(TiledNetworks, self, size, side, tick)

        def one(image: Tensor, own: int) -> Restored:
            tiled = networks()
            return restore(tiled.read(image), sampler, propose=propose or tiled.propose, evaluator=evaluator or tiled.evaluate,
                           generators=[torch.Generator().manual_seed(own)], keep_steps=keep_steps)

        def decode(tokens: Tensor) -> Tensor:
            s = self.tier.scale
            return one_by_one(networks().decode, tokens)[..., : s * h, : s * w]

        restored = merge([one(image, own) for image, own in zip(padded.split(1), seeds, strict=True)])
        return Trace(decode(restored.tokens), restored, sampler, decode)

    def upscale(self, image: Any, *, seed: int = 0, color_fix: str = "wavelet", **settings: Any) -> Any:
        """A picture, `tier.scale` times as large, by Alg. 2: PIL image, H×W×C array or tensor in, the same kind out.

        color_fix: "wavelet" and "adain" hold the colours to the input's (see `pictures.match_colors`), "none" is Alg. 2 alone.
        settings: those of `restore` (`tile` among them) and fields of `Sampler`.
        Raises TypeError and ValueError for what is no picture (`pictures.to_tensor` tells) and for wrong settings.
        """
        if color_fix not in pictures.COLOR_FIXES:  # before the networks run
            raise ValueError(f"color_fix {color_fix!r}: there are {', '.join(pictures.COLOR_FIXES)}")
        lq = pictures.to_tensor(image).detach()
        result = self.restore(lq, seed=seed, keep_steps=False, **settings).image.cpu()
        return pictures.like(image, pictures.match_colors(result, lq.cpu(), color_fix))
