"""What the networks are trained to make small: Eq. 1 of the VQGAN, Eq. 2 of E_l, Eq. 4 of φ_r and Eq. 5 of φ_e.

Every loss is a mean over places and images; all but `quantization` and the adversary's two take logits from before the softmax.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def quantization(latent: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """The two terms of Eq. 1 for E_H's latent and the nearest codes, both (B, D, h, w).

    The first, ‖sg[E_H(x)] − z_q‖², moves the codes to the latents; the second, ‖E_H(x) − sg[z_q]‖², holds the encoder to its
    codes, and is the one that β weighs. (sg: no gradient passes.)
    """
    return F.mse_loss(codes, latent.detach()), F.mse_loss(latent, codes.detach())


def hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """The adversary's hinge loss in Eq. 1, on its logits for real images and for reconstructions."""
    return (F.relu(1 - real) + F.relu(1 + fake)).mean() / 2


def hinge_generator(fake: Tensor) -> Tensor:
    """The generator's side of it in Eq. 1: make the adversary's logits for reconstructions large."""
    return -fake.mean()


def lq_encoder(logits: Tensor, s_h: Tensor) -> Tensor:
    """Eq. 2: cross-entropy of E_l's logits (B, codes, h, w) on the HQ image's tokens S_h (B, h, w), in nats."""
    return F.cross_entropy(logits, s_h)


def refiner(logits: Tensor, s_h: Tensor, where: Tensor) -> Tensor:
    """Eq. 4: cross-entropy of φ_r's logits (B, codes, h, w) on S_h (B, h, w), over the places `where` (B, h, w), in nats.

    where: all places (the paper), or the masked ones alone: what φ_r has to say of a token that is kept teaches little.
    """
    return per_image(F.cross_entropy(logits, s_h, reduction="none"), where)


def evaluator(logits: Tensor, tokens: Tensor, s_h: Tensor, where: Tensor) -> Tensor:
    """Eq. 5 with two classes: cross-entropy of φ_e's logits (B, 2, h, w) on "the token is that of S_h", over `where`.

    tokens, s_h: the judged map and the HQ image's, (B, h, w).
    """
    return per_image(F.cross_entropy(logits, (tokens == s_h).long(), reduction="none"), where)


def per_image(values: Tensor, where: Tensor) -> Tensor:
    """Mean over the True places of each image, then over images: the same however a batch is shared among processes.

    values, where: (B, h, w); an image without a True place counts as 0.
    """
    counts = where.flatten(1).sum(1).clamp(min=1)
    return ((values * where).flatten(1).sum(1) / counts).mean()


def share_right(logits: Tensor, s_h: Tensor, where: Tensor | None = None) -> Tensor:
    """For the log: the share of places where the most likely token is that of S_h."""
    right = (logits.argmax(1) == s_h).float()
    return per_image(right, torch.ones_like(s_h, dtype=torch.bool) if where is None else where)
