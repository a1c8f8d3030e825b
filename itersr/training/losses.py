"""The adversarial losses of Stage I; how different two pictures look is in `perceptual`."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from itersr.training.perceptual import perceptual as perceptual  # the notebooks take it from here


def hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """The adversary's hinge loss on its logits for real images and for reconstructions."""
    return (F.relu(1 - real) + F.relu(1 + fake)).mean() / 2


def hinge_generator(fake: Tensor) -> Tensor:
    """The generator's side: make the adversary's logits for reconstructions large."""
    return -fake.mean()
