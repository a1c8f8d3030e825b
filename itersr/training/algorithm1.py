"""Algorithm 1: train φ_r (Eq. 4) and φ_e (Eq. 5) on pairs of HQ and LQ images, and E_l (Eq. 2) at the same time or before.

The printed algorithm takes S_l as given; that E_l trains at the same time is in the paper's training details. The VQGAN is
frozen: it only says which tokens S_h each HQ image has.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from itersr import losses
from itersr.config import TrainConfig
from itersr.masking import random_mask
from itersr.model import ITER
from itersr.sampling import categorical
from itersr.schedule import tokens_to_mask
from itersr.training.data import generator_for, uniform
from itersr.training.loop import Task
from itersr.training.perceptual import psnr


class Algorithm1(Task):
    """The losses of Algorithm 1 as one module, so that multi-process training can wrap it."""

    def __init__(self, model: ITER, config: TrainConfig, seed: int = 0) -> None:
        super().__init__()
        self.model, self.config, self.seed = model, config, seed
        self.model.requires_grad_(False)
        self.trained = {name: self.model.get_submodule(name).requires_grad_(True) for name in self.config.networks}
        self.parts = {"iter": nn.ModuleList(self.trained.values())}

    def noise(self, batch: dict[str, Tensor], purpose: str, shape: Sequence[int] = ()) -> Tensor:
        """Uniform numbers, (B, *shape), each image's from its own index: the same in every process and after every resume."""
        return uniform(self.seed, batch["index"].to(batch["hq"].device, non_blocking=True), purpose, shape)

    def random_mask(self, batch: dict[str, Tensor], s_h: Tensor) -> Tensor:
        """m_t (RandomMask): in each image ⌈γ(r)·N⌉ places of (B, h, w) are False, with r ~ U(0, 1]."""
        r = uniform(self.seed, batch["index"].cpu(), "per image", (3,))[:, 0].tolist()  # counted where nothing waits for a GPU
        masked = [tokens_to_mask(1 - x, s_h[0].numel(), self.config.gamma) for x in r]
        return random_mask(torch.tensor(masked, device=s_h.device), self.noise(batch, "mask", s_h.shape[1:]))

    @torch.no_grad()
    def corrupted(self, s_h: Tensor, batch: dict[str, Tensor], coin: Tensor, inputs: tuple[Tensor | None, ...]) -> Tensor:
        """S_h (B, h, w) where, in a share `corrupt` of the images, half to all tokens are φ_r's own samples.

        At inference what is kept was sampled by φ_r. In the other images it sees the truth, as in the paper.
        """
        share = torch.where(coin < self.config.corrupt, 0.5 + 0.5 * coin / self.config.corrupt, 0.0)  # ½ to 1, or none
        sampled = self.noise(batch, "corrupt", s_h.shape[1:]) < share
        own = self.model.refiner(s_h, torch.zeros_like(sampled), *inputs).float()  # from nothing known
        sharper = own / (0.5 + 0.5 * self.noise(batch, "temperature", (1, 1, 1)))
        return torch.where(sampled, categorical(sharper, self.noise(batch, "drawn", s_h.shape[1:]))[0], s_h)

    def forward(self, batch: dict[str, Tensor], along: float, part: str) -> tuple[Tensor, dict[str, Tensor]]:
        """Algorithm 1 for one batch: the sum of the losses of the networks in training, and the scalars to log."""
        net, trained = self.model, self.config.networks
        with torch.no_grad(), torch.autocast(batch["hq"].device.type, enabled=False):
            s_h = net.vqgan.encode(batch["hq"])  # (B, h, w), in full precision: bf16 moves 2–3 % of the tokens
        everywhere = torch.ones_like(s_h, dtype=torch.bool)

        # Stage II: E_l
        logits_l = net.lq_encoder(batch["lq"]).float()
        scalars = {"lq_encoder": losses.lq_encoder(logits_l, s_h), "lq_encoder accuracy": losses.share_right(logits_l, s_h)}
        if trained == ("lq_encoder",):
            return scalars["lq_encoder"], scalars
        log_probs = logits_l.detach().log_softmax(1)
        s_l = log_probs.argmax(1)

        # φ_e judges S_l; the good tokens at a random α, or in half of the images none, are the condition that φ_r meets
        seen = log_probs if net.tier.evaluator.posterior else None
        judged_l = net.evaluator(s_l, s_l, seen).float()
        _, alpha, coin = self.noise(batch, "per image", (3, 1, 1)).unbind(1)  # coin: whether known tokens are true
        m_s = (judged_l.detach().softmax(1)[:, 1] >= alpha) & (self.noise(batch, "start", (1, 1)) > 0.5)

        # φ_r restores S_h from S_t, in which ⌈γ(r)·N⌉ tokens are masked
        m_t = self.random_mask(batch, s_h)
        inputs = (s_l, m_s, log_probs if net.tier.refiner.posterior else None, net.refiner.lq_features(batch["lq"]))
        s_t = self.corrupted(s_h, batch, coin, inputs) if self.config.corrupt else s_h
        logits_r = net.refiner(s_t, m_t, *inputs).float()
        scalars |= {"refiner": losses.refiner(logits_r, s_h, ~m_t if self.config.masked_loss else everywhere),
                    "refiner masked": losses.refiner(logits_r, s_h, ~m_t),
                    "refiner masked accuracy": losses.share_right(logits_r, s_h, ~m_t)}

        # φ_e judges φ_r's sampled, complete map: only maps as inference has them, where some tokens are φ_r's own. Beside true
        # tokens φ_e would learn which were sampled (notebook 05, section 10b).
        drawn, _ = categorical(logits_r.detach(), self.noise(batch, "sample", s_h.shape[1:]))
        complete = torch.where(m_t, s_t, drawn)
        counted = everywhere & (coin < self.config.corrupt) if self.config.corrupt else everywhere
        judged = net.evaluator(complete, s_l, seen).float()
        on_samples = losses.evaluator(judged, complete, s_h, counted) / (self.config.corrupt or 1)  # a mean over what counts
        scalars |= {"evaluator on S_l": losses.evaluator(judged_l, s_l, s_h, everywhere), "evaluator on samples": on_samples}
        scalars["evaluator"] = (scalars["evaluator on S_l"] + on_samples) / 2
        told = {name: value for name, value in scalars.items() if name.startswith(trained)}
        return torch.stack([scalars[name] for name in trained]).sum(), told

    @torch.no_grad()
    def validate(self, pairs: dict[str, Tensor], look: nn.Module) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Everything that Algorithm 1 should improve, on held-out crops with fixed seeds; and the pictures to show."""
        model, seed, hq, lq = self.model, self.seed, pairs["hq"], pairs["lq"]
        s_h = torch.cat([model.vqgan.encode(x) for x in hq.split(1)])
        log_probs = model.log_posterior(lq)
        s_l = log_probs.argmax(1)
        entropy = torch.bincount(s_h.flatten(), minlength=model.tier.vqgan.codes).float()
        entropy = torch.special.entr(entropy / entropy.sum()).sum().item()
        nats = F.nll_loss(log_probs, s_h).item()
        scalars = {
            "E_l cross-entropy": nats,
            # share of the codes' entropy that E_l explains; none where all tokens are alike
            "E_l explained": 1 - nats / entropy if entropy > 0 else float("nan"),
            "E_l top-1": (s_l == s_h).float().mean().item(),
            "E_l top-5": (log_probs.topk(5, 1).indices == s_h[:, None]).any(1).float().mean().item(),
            "best constant": torch.bincount(s_h.flatten()).max().item() / s_h.numel(),
            "AUC of E_l's confidence on S_l": auc(log_probs.amax(1), s_l == s_h),
        }

        def noise(purpose: str) -> Tensor:
            rows = [torch.rand(s_h.shape[1:], generator=generator_for(seed, i, purpose)) for i in range(len(s_h))]
            return torch.stack(rows).to(hq.device)

        def distance(images: Tensor) -> float:
            return torch.cat([look(a, b) for a, b in zip(images.split(1), hq.split(1), strict=True)]).mean().item()

        def decode(tokens: Tensor) -> Tensor:
            return torch.cat([model.vqgan.decode(x).float().clamp(0, 1) for x in tokens.split(1)])

        pictures = {"lq": F.interpolate(lq, scale_factor=model.tier.scale, mode="bicubic").clamp(0, 1), "S_l": decode(s_l)}
        single = decode(categorical(log_probs, noise("single"), 0.7)[0])
        scalars |= {f"{look.name} bicubic": distance(pictures["lq"]), f"{look.name} S_l": distance(pictures["S_l"]),
                    "psnr S_l": psnr(pictures["S_l"], hq).mean().item(), f"{look.name} one sample of E_l": distance(single)}

        if {"refiner", "evaluator"} & set(self.config.networks):
            none = torch.zeros_like(s_h, dtype=torch.bool)
            n, fixed = s_h[0].numel(), noise("masks")
            nets = [model.functions(p, model.lq_features(x)) for p, x in zip(log_probs.split(1), lq.split(1), strict=True)]

            def each(which: int, *maps: Tensor) -> Tensor:
                """What φ_r (0) or φ_e (1) says of every image, each seen alone."""
                return torch.cat([net[which](*own) for net, *own in zip(nets, *(x.split(1) for x in maps), strict=True)])

            scalars["AUC of φ_e on S_l"] = auc(each(1, s_l, s_l), s_l == s_h)
            for ratio in (0.25, 0.5, 0.75, 1.0):
                keep = random_mask(round(ratio * n), fixed)
                logits = each(0, s_h, keep, s_l, none).float()
                loss, hit = F.cross_entropy(logits, s_h, reduction="none")[~keep], (logits.argmax(1) == s_h)[~keep]
                scalars[f"φ_r cross-entropy at {ratio}"] = loss.mean().item()
                scalars[f"φ_r masked accuracy at {ratio}"] = hit.sum().item() / hit.numel()
                drawn, confidence = categorical(logits, noise("sample"))
                complete = torch.where(keep, s_h, drawn)
                right = complete == s_h
                scalars[f"AUC of φ_e on samples at {ratio}"] = auc(each(1, complete, s_l)[~keep], right[~keep])
                scalars[f"AUC of φ_r's confidence at {ratio}"] = auc(confidence[~keep], right[~keep])
            trace = model.restore(lq, seed=seed, temperature=0.7)
            pictures["ITER"] = trace.image
            scalars |= {f"{look.name} ITER": distance(trace.image), "psnr ITER": psnr(trace.image, hq).mean().item(),
                        "mean T_s": trace.start.float().mean().item()}
        pictures["hq"] = hq
        return scalars, {name: picture[:4] for name, picture in pictures.items()}


def auc(score: Tensor, good: Tensor) -> float:
    """Area under the ROC curve: how often a good token scores above a bad one (ties count half). NaN without both kinds."""
    from scipy.stats import mannwhitneyu

    values, right = score.flatten().double().cpu().numpy(), good.flatten().cpu().numpy()
    pairs = int(right.sum()) * int((~right).sum())
    return float(mannwhitneyu(values[right], values[~right], method="asymptotic").statistic) / pairs if pairs else float("nan")
