"""Stage I: train E_H, the codebook and D_H to reconstruct HQ images (Eq. 1).

A plain autoencoder comes first. Then k-means on its latents gives the first codes, so that every code starts where latents
are; codes that nobody uses are moved onto latents, but only in the first part of a run, so that ids hold still afterwards.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from itersr.config import Tier
from itersr.losses import hinge_discriminator, hinge_generator
from itersr.training.data import Crops, generator_for
from itersr.training.loop import Task
from itersr.training.perceptual import perceptual, scores
from itersr.vqgan import VQGAN, PatchDiscriminator

RESTART_EVERY = 100  # steps over which the use of codes is counted


class Stage1(Task):
    """The losses of Stage I as one module, so that multi-process training can wrap it."""

    def __init__(self, tier: Tier, seed: int = 0) -> None:
        super().__init__()
        self.config, self.seed = tier.train["vqgan"], seed
        self.vqgan = VQGAN(tier.vqgan)
        self.discriminator = PatchDiscriminator(self.config.disc_width)
        self.perceptual = perceptual()
        self.trained = {"vqgan": self.vqgan}
        self.parts = {"vqgan": self.vqgan, "discriminator": self.discriminator}
        self.register_buffer("used", torch.zeros(tier.vqgan.codes, dtype=torch.long))  # since the last restart
        self.register_buffer("clustered", torch.tensor(False))  # whether the codebook has its first codes
        self.started = False  # the same, where no device has to be asked
        self.used: Tensor
        self.clustered: Tensor
        self.reconstruction: Tensor  # of the generator's pass, for the discriminator's

    def adversary(self, along: float) -> bool:
        """Whether the adversarial loss has joined."""
        return self.config.gan_start < 1 and along >= self.config.gan_start

    def active(self, along: float) -> list[str]:
        return ["vqgan", "discriminator"] if self.adversary(along) else ["vqgan"]

    def forward(self, batch: dict[str, Tensor], along: float, part: str) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a part and the scalars to log."""
        image = batch["hq"].contiguous(memory_format=torch.channels_last)
        if part == "discriminator":
            loss = hinge_discriminator(self.discriminator(image), self.discriminator(self.reconstruction))
            return loss, {"discriminator": loss}

        if not self.started:
            output = self.vqgan.decoder(self.vqgan.encoder(image))
            codebook = commitment = torch.zeros((), device=image.device)
        else:
            output, quantized = self.vqgan(image)
            codebook, commitment = quantized.codebook_loss, quantized.commitment_loss
            tokens = quantized.tokens.flatten()
            self.used.index_add_(0, tokens, torch.ones_like(tokens))
        output = output.float()
        l1 = F.l1_loss(output, image)
        look = self.perceptual(output, image).mean()
        loss = l1 + self.config.perceptual_weight * look + codebook + self.config.commitment * commitment
        scalars: dict[str, Tensor] = {"l1": l1, str(self.perceptual.name): look, "codebook": codebook}
        if self.adversary(along):
            self.reconstruction = output.detach()
            adversarial = hinge_generator(self.discriminator(output))
            loss = loss + self.config.gan_weight * adversarial
            scalars["adversarial"] = adversarial
        return loss, scalars

    def after_step(self, step: int, along: float, crops: Crops, accelerator: Any) -> None:
        """Start the codebook when the autoencoder is ready; then restart dead codes from time to time.

        The latents come from crops with indices that training never reaches, the same ones in every process.
        """
        if not self.started and along >= self.config.autoencoder:
            self.start_codebook(self.latents(crops, 64, 0))
        elif self.started and (step + 1) % RESTART_EVERY == 0:
            self.used = accelerator.reduce(self.used, "sum")
            if along < self.config.restart_until:
                self.restart_dead_codes(self.latents(crops, 4, step), step)
            self.used.zero_()

    def load_state_dict(self, *args: Any, **options: Any) -> Any:
        result = super().load_state_dict(*args, **options)
        self.started = bool(self.clustered)
        return result

    @torch.no_grad()
    def latents(self, crops: Crops, count: int, step: int) -> Tensor:
        """Encoder outputs of `count` crops as rows, (N, D)."""
        device = self.used.device
        rows = [self.vqgan.encoder(crops[-1 - step * count - i]["hq"][None].to(device)) for i in range(count)]
        return torch.cat([row.float().permute(0, 2, 3, 1).flatten(0, 2) for row in rows])

    @torch.no_grad()
    def start_codebook(self, latents: Tensor) -> None:
        """Codes ← k-means of latents."""
        from scipy.cluster.vq import kmeans2

        codes = self.vqgan.codebook.embedding.weight
        rows = latents.cpu().double()
        pick = torch.randperm(len(rows), generator=generator_for(self.seed, 0, "k-means"))[:20_000]
        centres, _ = kmeans2(rows[pick].numpy(), len(codes), iter=25, minit="++", seed=self.seed)
        codes.copy_(torch.from_numpy(centres))
        self.started = True
        self.clustered.fill_(True)

    @torch.no_grad()
    def restart_dead_codes(self, latents: Tensor, step: int) -> None:
        """Move every code that no latent chose since the last restart onto a random latent."""
        dead = torch.nonzero(self.used == 0).flatten()
        if len(dead):
            pick = torch.randperm(len(latents), generator=generator_for(self.seed, step, "restart"))[: len(dead)]
            self.vqgan.codebook.embedding.weight[dead[: len(pick)]] = latents[pick.to(latents.device)].to(latents.dtype)

    @torch.no_grad()
    def validate(self, pairs: dict[str, Tensor], look: nn.Module) -> tuple[dict[str, float], dict[str, Tensor]]:
        """PSNR, the perceptual distance, codebook usage and perplexity on held-out crops; and the pictures to show."""
        outputs, tokens = [], []
        for image in pairs["hq"].split(1):
            ids = self.vqgan.encode(image)
            tokens.append(ids.flatten())
            outputs.append(self.vqgan.decode(ids).float().clamp(0, 1))
        output = torch.cat(outputs)
        p = torch.bincount(torch.cat(tokens), minlength=self.vqgan.config.codes).float()
        p = p / p.sum()
        usage = {"codes used": int((p > 0).sum()), "perplexity": torch.special.entr(p).sum().exp().item()}
        return scores(output, pairs["hq"], look) | usage, {"hq": pairs["hq"][:4], "reconstruction": output[:4]}
