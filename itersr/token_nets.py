"""Stage III: φ_r proposes tokens, φ_e judges them. Both read two token maps through one shared table of embeddings.

The published networks feed a token map as one-hot channels through a 1×1 convolution; looking the columns of that
convolution up is the same sum to the bit, without the 512 zeros.

`posterior` is an option beyond the paper: S_l is only the argmax of E_l and throws away how sure E_l was. With the
option both networks also read E_l's posterior p(token | LQ), given as log-probabilities (B, codes, h, w), and both learn
what to add to it: untrained, φ_r samples as E_l does and φ_e finds a token as good as E_l finds it probable.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from itersr.config import TokenNetConfig
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
        self.head = nn.Conv2d(config.width, outputs, 1)
        # p(token) for every code, and the log-probability of the very token that stands there
        self.posterior = nn.Conv2d(codes + 1, config.width, 1) if config.posterior else None
        if config.posterior:  # begin with what E_l says, to the bit
            for parameter in self.head.parameters():
                nn.init.zeros_(parameter)

    def predict(self, first: Tensor, second: Tensor, tokens: Tensor, evidence: Tensor | None) -> Tensor:
        """Logits (B, outputs, h, w) of two embedded maps (B, h, w, width)."""
        x = self.combine(torch.cat([first, second], -1).permute(0, 3, 1, 2))
        if self.posterior is not None:
            if evidence is None:
                raise ValueError("this network was built with posterior=True: it needs E_l's log-probabilities as `evidence`")
            here = evidence.gather(1, tokens[:, None])
            x = x + self.posterior(torch.cat([evidence.exp(), here], 1).to(x.dtype))
        return self.head(F.silu(self.norm(self.swin(x))))


class Refiner(TokenNet):
    """φ_r: the distribution of S_h given the tokens known so far and the LQ encoder's guess (Eq. 4).

    Its table has one row more than there are codes: the mask token, which also flags the judged-bad tokens of S_l.
    """

    def __init__(self, config: TokenNetConfig, codes: int) -> None:
        super().__init__(config, codes, entries=codes + 1, outputs=codes)
        # Which codes stand beside which is most of what known tokens tell, and the Swin layers are slow to find it: a plain
        # convolution learns it in a few hundred steps.
        self.nearby = nn.Conv2d(config.width, codes, 5, padding=2, bias=False) if config.posterior else None
        if self.nearby is not None:
            nn.init.zeros_(self.nearby.weight)

    def forward(self, tokens: Tensor, keep: Tensor, condition: Tensor, condition_keep: Tensor,
                evidence: Tensor | None = None) -> Tensor:
        """Logits (B, codes, h, w).

        tokens, keep: S_t and m_t, (B, h, w); where m_t is False the token is masked and its value is not seen.
        condition, condition_keep: S_l and m_l; a token judged bad keeps its value and is flagged.
        evidence: log p_l(token | LQ), (B, codes, h, w), for a network with `posterior`.
        """
        mask_token = self.table.weight[self.codes]
        s_l = self.table(condition) + (~condition_keep)[..., None] * mask_token  # (B, h, w, width)
        s_t = torch.where(keep[..., None], self.table(tokens), mask_token)
        # a masked token must leave no trace, not even through its log-probability: S_l's stands in for it
        logits = self.predict(s_l, s_t, torch.where(keep, tokens, condition), evidence)
        if self.nearby is None or evidence is None:
            return logits
        known = (self.table(tokens) * keep[..., None]).permute(0, 3, 1, 2)
        return logits + self.nearby(known) + evidence


class Evaluator(TokenNet):
    """φ_e: is each token of a complete map the token of S_h? (Eq. 5). It never sees a mask token, which would leak m_t."""

    def __init__(self, config: TokenNetConfig, codes: int) -> None:
        super().__init__(config, codes, entries=codes, outputs=2)

    def forward(self, tokens: Tensor, condition: Tensor, evidence: Tensor | None = None) -> Tensor:
        """Logits (B, 2, h, w), class 1 = good, of the tokens (B, h, w) to judge, given S_l (and E_l's log-probabilities)."""
        logits = self.predict(self.table(tokens), self.table(condition), tokens, evidence)
        if self.posterior is None or evidence is None:
            return logits
        here = evidence.gather(1, tokens[:, None]).clamp(max=-1e-4)  # log p_l of the very token; its log-odds stay finite
        return logits + torch.cat([torch.log(-torch.expm1(here)), here], 1)
