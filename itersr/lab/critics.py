"""Critics: φ_e trained once more on samples of the φ_r that ships, by one of two labels.

"equal" is the label of Eq. 5 as this project reads it: the token is that of S_h. "original" is Token-Critic's (Lezama et al.
2022): the token was given, and not drawn by φ_r. The first asks of a token whether it is likely, the second whether it fits
the others.

    python -m itersr.lab.critics original OUT [--tier stripes] [--data FOLDER] [--minutes 10]
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from itersr import weights
from itersr.config import TrainConfig, tier
from itersr.model import ITER
from itersr.sampling import categorical
from itersr.training.algorithm1 import Algorithm1, auc
from itersr.training.data import Photos
from itersr.training.loop import make_accelerator, train
from itersr.training.run import materials

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


def train_critic(label: Label, out: Path, name: str = "stripes", data: Path | None = None, *, minutes: float | None = None,
                 steps: int | None = None, device: str = "auto", seed: int = 0) -> dict[str, float]:
    """Train φ_e of the shipped tier `name` further by another label; OUT/weights/evaluator.safetensors is the critic.

    Gives the loss and the AUC on held-out crops. Called again after it was interrupted, it continues where it was.
    """
    model = ITER.from_pretrained(name, "cpu")
    settings = tier(name).train["token_nets"]
    config = dataclasses.replace(settings, steps=steps or settings.steps)
    accelerator = make_accelerator(device)
    task = Critic(model, config, label, seed)
    crops, pairs = materials(model.tier, config, Photos.of(data).split(), seed, accelerator.device, validation=(16, 128))
    pairs["index"] = torch.arange(16)

    @torch.no_grad()
    def validate() -> tuple[dict[str, float], dict[str, Tensor]]:
        loss, log_odds, good, tokens = task.judged(pairs)
        pictures = {"judged": model.vqgan.decode(tokens)[:4], "hq": pairs["hq"][:4]}
        return {"loss": loss.item(), "AUC": auc(log_odds, good)}, pictures

    def save() -> None:
        weights.save(out / "weights", task.trained, model.tier)

    return train(task, crops, out, validate=validate, save_weights=save, minutes=minutes, resume=True, accelerator=accelerator)


def with_critic(model: ITER, file: Path) -> ITER:
    """The model with the φ_e of a file."""
    weights.load_state(model.evaluator, weights.read_tensors(file), str(file))
    return model


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m itersr.lab.critics", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("label", choices=("equal", "original"))
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder of the run")
    parser.add_argument("--tier", default="stripes", help="shipped weights to begin from (default: %(default)s)")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="pictures to train on (default: scikit-image's photos)")
    parser.add_argument("--minutes", type=float, default=10.0, help="for the whole run (default: %(default)s)")
    args = parser.parse_args(arguments)
    print(train_critic(args.label, args.out, args.tier, args.data, minutes=args.minutes))
    return 0


if __name__ == "__main__":
    sys.exit(main())
