"""The adversarial losses of Stage I; how different two pictures look is in `perceptual`."""

from __future__ import annotations

from itersr.losses import hinge_discriminator as hinge_discriminator
from itersr.losses import hinge_generator as hinge_generator
from itersr.training.perceptual import perceptual as perceptual

