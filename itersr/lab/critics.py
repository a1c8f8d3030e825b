"""Critics: φ_e trained once more on samples of the φ_r that ships, by one of two labels.

"equal" is the label of Eq. 5 as this project reads it: the token is that of S_h. "original" is Token-Critic's (Lezama et al.
2022): the token was given, and not drawn by φ_r. The first asks of a token whether it is likely, the second whether it fits
the others.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from itersr.config import TrainConfig, tier
from itersr.model import ITER
from itersr.sampling import categorical
from itersr.training.algorithm1 import Algorithm1, auc
from itersr.training.run import fit

Label = Literal["equal", "original"]


class Critic(Algorithm1):
    """φ_e's part of Algorithm 1, with all else fixed, on complete maps that φ_r drew in two steps."""

    def __init__(self, model: ITER, config: TrainConfig, label: Label, seed: int = 0) -> None:
        super().__init__(model, dataclasses.replace(config, networks=("evaluator",)), seed)
        self.label = label

    @torch.no_grad()
    def complete_map(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A complete map, S_l, log p_l, and which tokens of the map count as good; maps are (B, h, w).

        For "original" a random share of the places holds the tokens of S_h. φ_r draws the others, given those; then a random
        share of what it drew is kept as well and the rest is drawn anew, as inference does it.
        """
        s_h = self.model.vqgan.encode(batch["hq"])
        log_probs = self.model.lq_encoder(batch["lq"]).float().log_softmax(1)
        s_l, places = log_probs.argmax(1), s_h.shape[1:]
        none = torch.zeros_like(s_h, dtype=torch.bool)
        refine, _ = self.model.functions(log_probs, self.model.lq_features(batch["lq"]))
        given = self.random_mask(batch, s_h) if self.label == "original" else none
        tokens, keep = s_h, given
        for round_ in ("first", "second"):
            drawn, _ = categorical(refine(tokens, keep, s_l, none), self.noise(batch, f"{round_} draw", places))
            tokens = torch.where(keep, tokens, drawn)
            share = self.noise(batch, f"{round_} share", (1, 1))
            keep = keep | (self.noise(batch, f"{round_} mask", places) < share)
        return tokens, s_l, log_probs, given if self.label == "original" else tokens == s_h

    def forward(self, batch: dict[str, Tensor], along: float, part: str) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy of φ_e's two classes on the label, over all places."""
        loss, *_ = self.judged(batch)
        return loss, {"evaluator": loss}

    def judged(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """That loss; φ_e's log-odds of "good", which tokens are good, and the judged map, all (B, h, w)."""
        tokens, s_l, log_probs, good = self.complete_map(batch)
        logits = self.model.evaluator(tokens, s_l, log_probs if self.model.tier.evaluator.posterior else None).float()
        return F.cross_entropy(logits, good.long()), logits[:, 1] - logits[:, 0], good, tokens

    @torch.no_grad()
    def validate(self, pairs: dict[str, Tensor], look: nn.Module) -> tuple[dict[str, float], dict[str, Tensor]]:
        """The loss and the AUC on held-out pairs; and the pictures that the judged maps show."""
        loss, log_odds, good, tokens = self.judged(pairs | {"index": torch.arange(len(pairs["hq"]))})
        pictures = {"judged": self.model.vqgan.decode(tokens)[:4], "hq": pairs["hq"][:4]}
        return {"loss": loss.item(), "AUC": auc(log_odds, good)}, pictures


def train_critic(label: Label, out: Path, name: str = "stripes", data: Path | None = None, *, steps: int | None = None,
                 seed: int = 0, **options: Any) -> dict[str, float]:
    """Train φ_e of the shipped tier `name` further by another label; OUT/weights/evaluator.safetensors is the critic.

    OUT/critic holds the run. Called again after it was interrupted, it continues where it was. options and result: those of
    `run.fit`.
    """
    model = ITER.from_pretrained(name, "cpu")
    settings = tier(name).train["token_nets"]
    config = dataclasses.replace(settings, steps=steps or settings.steps)
    return fit("critic", lambda: Critic(model, config, label, seed), model.tier, config, data, out, seed=seed,
               validation=(16, 128), resume=True, **options)
