"""Stage III: φ_r proposes tokens, φ_e judges them. Both read two token maps through one shared table of embeddings.

The published networks feed a token map as one-hot channels through a 1×1 convolution. To look up the columns of that
convolution gives the same sum, to the bit.

Two options go beyond the paper. `posterior`: S_l is only the argmax of E_l and does not tell how sure E_l was. With the
option both networks also read E_l's posterior p(token | LQ), given as log-probabilities (B, codes, h, w), and learn what to
add to it: untrained, φ_r samples as E_l does, and φ_e finds a token as good as E_l finds it probable.

`reads_lq`: φ_r also reads the LQ image, through a network that begins as a copy of the trained E_l. The convolutions that
bring in the tokens and the posterior begin at zero. So untrained it again samples as E_l does, and all its layers are used.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from itersr.config import TokenNetConfig
from itersr.lq_encoder import LQEncoder, Stem
from itersr.swin import SwinLayers, normalization


class TokenNet(nn.Module):
    """What φ_r and φ_e share: two embedded token maps → Swin layers → logits."""

    def __init__(self, config: TokenNetConfig, codes: int, entries: int, outputs: int) -> None:
        super().__init__()
        self.codes, self.outputs = codes, outputs
        self.table = nn.Embedding(entries, config.width)
        self.combine = nn.Conv2d(2 * config.width, config.width, 1, bias=False)
        self.swin = SwinLayers(config.width, config.swin)
        self.norm = normalization(config.norm, config.width)
        self.activation = nn.Identity() if config.norm == "none" else nn.SiLU()  # E_l's output layer has neither
        self.head = nn.Conv2d(config.width, outputs, 1)
        # reads p(token) of every code, and the log-probability of the token that stands there
        self.posterior = nn.Conv2d(codes + 1, config.width, 1) if config.posterior else None
        if config.posterior:  # untrained, the answer is E_l's to the bit
            for parameter in self.head.parameters():
                nn.init.zeros_(parameter)

    def predict(self, first: Tensor, second: Tensor, tokens: Tensor, log_probs: Tensor | None,
                lq_features: Tensor | None = None) -> Tensor:
        """Logits (B, outputs, h, w) of two embedded maps (B, h, w, width), and of a stem's features of the LQ image."""
        x = self.combine(torch.cat([first, second], -1).permute(0, 3, 1, 2))
        if lq_features is not None:
            x = x + lq_features
        if self.posterior is not None:
            if log_probs is None:
                raise ValueError("this network was built with posterior=True: it needs E_l's log-probabilities, `log_probs`")
            here = log_probs.gather(1, tokens[:, None])
            x = x + self.posterior(torch.cat([log_probs.exp(), here], 1).to(x.dtype))
        return self.head(self.activation(self.norm(self.swin(x))))


class Refiner(TokenNet):
    """φ_r: the distribution of S_h given the tokens known so far and S_l (Eq. 4).

    Its table has one row more than there are codes: the mask token, which also flags the tokens of S_l that are judged bad.
    stem: for a network with `reads_lq`, the convolutions that read the LQ image.
    """

    def __init__(self, config: TokenNetConfig, codes: int, stem: Stem | None = None) -> None:
        super().__init__(config, codes, entries=codes + 1, outputs=codes)
        if (stem is not None) != config.reads_lq:
            raise ValueError("a refiner with reads_lq=True needs a stem, and no other has one")
        self.stem = stem
        # Which codes stand beside which is most of what known tokens tell. The Swin layers are slow to learn it; a plain
        # convolution learns it in a few hundred steps.
        self.nearby = nn.Conv2d(config.width, codes, 5, padding=2, bias=False) if config.posterior else None
        if self.nearby is not None:
            nn.init.zeros_(self.nearby.weight)

    @torch.no_grad()
    def start_from(self, encoder: LQEncoder) -> None:
        """Copy the stem, Swin layers and output layer of a trained E_l; what reads tokens and posterior is set to zero.

        Does nothing without a stem. ValueError where the two networks are not of the same sizes.
        """
        if self.stem is None:
            return
        try:
            self.stem.load_state_dict(encoder.state_dict(), strict=False)  # E_l is a Stem with Swin layers and an output layer
            self.swin.load_state_dict(encoder.swin.state_dict())
            self.head.load_state_dict(encoder.head.state_dict())
        except RuntimeError:
            raise ValueError("reads_lq=True: φ_r's width and Swin layers must be those of E_l") from None
        for convolution in (self.combine, self.posterior):
            for parameter in convolution.parameters() if convolution is not None else ():
                nn.init.zeros_(parameter)

    def lq_features(self, lq: Tensor) -> Tensor | None:
        """The stem's features of LQ images (B, 3, H, W): (B, width, h, w); None for a network without a stem."""
        return None if self.stem is None else self.stem.lq_features(lq)

    def forward(self, tokens: Tensor, keep: Tensor, condition: Tensor, condition_keep: Tensor,
                log_probs: Tensor | None = None, lq_features: Tensor | None = None) -> Tensor:
        """Logits (B, codes, h, w).

        tokens, keep: S_t and m_t, (B, h, w); where m_t is False the token is masked and its value is not seen.
        condition, condition_keep: S_l and m_s; a token judged bad keeps its value and is flagged.
        log_probs: log p_l(token | LQ), (B, codes, h, w), for a network with `posterior`.
        lq_features: `self.lq_features` of the LQ image, (B, width, h, w), for a network with `reads_lq`.
        """
        if (lq_features is None) != (self.stem is None):
            raise ValueError("a network built with reads_lq=True needs the `lq_features` of an image, and no other takes them")
        mask_token = self.table.weight[self.codes]
        s_l = self.table(condition) + (~condition_keep)[..., None] * mask_token  # (B, h, w, width)
        s_t = torch.where(keep[..., None], self.table(tokens), mask_token)
        # the log-probability of a masked token would tell its value: S_l's is read instead
        logits = self.predict(s_l, s_t, torch.where(keep, tokens, condition), log_probs, lq_features)
        if self.nearby is None or log_probs is None:
            return logits
        logits = logits + self.nearby((self.table(tokens) * keep[..., None]).permute(0, 3, 1, 2))
        return logits if self.stem is not None else logits + log_probs  # without a stem, they are added to E_l's answer


class Evaluator(TokenNet):
    """φ_e: is each token of a complete map the token of S_h? (Eq. 5). It never sees a mask token, which would tell it m_t."""

    def __init__(self, config: TokenNetConfig, codes: int) -> None:
        super().__init__(config, codes, entries=codes, outputs=2)

    def forward(self, tokens: Tensor, condition: Tensor, log_probs: Tensor | None = None) -> Tensor:
        """Logits (B, 2, h, w), class 1 = good, of the tokens (B, h, w) to judge, given S_l (and E_l's log-probabilities)."""
        logits = self.predict(self.table(tokens), self.table(condition), tokens, log_probs)
        if self.posterior is None or log_probs is None:
            return logits
        here = log_probs.gather(1, tokens[:, None]).clamp(max=-1e-4)  # log p_l of these tokens; their log-odds stay finite
        return logits + torch.cat([torch.log(-torch.expm1(here)), here], 1)
