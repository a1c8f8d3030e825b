"""The tiers: one set of dataclasses, five sets of numbers. Nothing else in the package differs between tiers.

`paper` is the published network (Sec. 4.1 and the released tensors' shapes); `smoke`, `tiny` and `small` are the same
design at smaller sizes, and `stripes` is it for the pictures of `itersr.lab.worlds`; these four are without the two layers
that mix the whole picture (GroupNorm and the gate of the released MLP), so that their tokens depend on a neighbourhood alone.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

Norm = Literal["group", "layer", "none"]
GammaKind = Literal["linear", "cosine", "square", "sqrt", "cubic"]


@dataclass(frozen=True)
class SwinConfig:
    """Sizes of a stack of residual Swin groups (the "Swin layers" of Fig. 2)."""

    width: int  # channels inside the attention
    groups: int  # residual Swin groups
    depth: int = 6  # Swin blocks a group; every second one shifts its windows
    heads: int = 8
    window: int = 8  # side of a window, in tokens
    mlp_ratio: int = 4
    gate: bool = False  # the released MLP's gate on the mean over all tokens


@dataclass(frozen=True)
class VQGANConfig:
    """Stage I: encoder E_H, codebook, decoder D_H."""

    width: int
    multipliers: tuple[int, ...]
    codes: int
    code_dim: int
    swin: SwinConfig
    encoder_swin: bool = True  # False keeps E_H purely convolutional: a token is then the same at any crop offset
    res_blocks: int = 2
    norm: Norm = "none"

    @property
    def factor(self) -> int:
        """Pixels a token covers along a side (f)."""
        return 2 ** (len(self.multipliers) - 1)


@dataclass(frozen=True)
class LQEncoderConfig:
    """Stage II: E_l from the LQ image to token logits."""

    width: int  # channels of the first convolution; doubled by every stage
    swin: SwinConfig
    norm: Norm = "none"


@dataclass(frozen=True)
class TokenNetConfig:
    """Stage III: φ_r or φ_e."""

    width: int
    swin: SwinConfig
    norm: Norm = "layer"
    posterior: bool = False  # beyond the paper: also see E_l's posterior, not only its argmax S_l
    reads_lq: bool = False  # beyond the paper, φ_r only: also see the LQ image, through a network that begins as E_l's own


@dataclass(frozen=True)
class TrainConfig:
    """One training run (Stage I, or Stages II and III by Algorithm 1).

    Points of a run are given as shares of it, because its length can be a number of steps or of minutes.
    """

    steps: int  # length of a run without a time limit
    batch: int
    crop: int  # HQ pixels
    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.99)
    warmup: float = 0.0  # share of the run in which the learning rate rises to `lr`
    final_lr: float = 0.05  # share of `lr` left at the end of the cosine
    clip: float = 1.0  # largest gradient norm
    ema: float = 0.999
    validations: int = 4  # evenly spaced over the run, the last at its end
    checkpoint_every: int = 500  # steps
    mild: float = 0.0  # share of the crops that are degraded by the mild ranges, where the tier's are the paper's
    # Stage I
    autoencoder: float = 0.0  # share of the run without a codebook, which is then made by k-means of the latents
    commitment: float = 0.25  # β, on the encoder's side (Eq. 1)
    perceptual_weight: float = 1.0
    gan_start: float = 0.0  # share of the run after which the adversarial loss joins; 1: never
    gan_weight: float = 0.1
    disc_width: int = 32
    restart_until: float = 0.5  # unused codes are restarted in this share of the run only, so that ids do not change later
    # Algorithm 1
    gamma: GammaKind = "cosine"
    networks: tuple[str, ...] = ("lq_encoder", "refiner", "evaluator")  # those trained by this run
    corrupt: float = 0.0  # share of images in which ½ to all of the known tokens are φ_r's own samples, and not S_h's
    masked_loss: bool = False  # Eq. 4 over masked tokens alone (True) or over all (False, the paper)


@dataclass(frozen=True)
class Tier:
    """One tier: the sizes of the four networks and how each is trained."""

    name: str
    vqgan: VQGANConfig
    lq_encoder: LQEncoderConfig
    refiner: TokenNetConfig
    evaluator: TokenNetConfig
    # "vqgan" (Stage I), "lq_encoder" (Stage II alone), "token_nets" (φ_r and φ_e), "iter" (Alg. 1: all three at once)
    train: dict[str, TrainConfig]
    # the stages of `itersr train all` in their order, and the share of its time that each gets; the rest is for the export
    plan: dict[str, float] = field(default_factory=lambda: {"vqgan": 0.2, "lq_encoder": 0.2, "iter": 0.55})
    scale: int = 4
    # How Alg. 2 is run unless told otherwise, see `sampling.Sampler`; for weights that ship, the best on held-out photos
    steps: int = 8  # T
    alpha: float = 0.5  # (the authors' code has 0.7)
    temperature: float = 1.0
    policy: str = "evaluator"
    remask: bool = False
    degradation: Literal["paper", "mild"] = "paper"
    notes: str = field(default="", compare=False)

    @property
    def halvings(self) -> int:
        """Stride-2 convolutions in E_l: from LQ pixels to tokens."""
        ratio = self.vqgan.factor / self.scale
        if ratio < 1 or not math.log2(ratio).is_integer():
            raise ValueError(f"scale {self.scale} with a VQGAN of factor {self.vqgan.factor}: their ratio must be 1, 2, 4, …")
        return int(math.log2(ratio))

    @property
    def unit(self) -> int:
        """HQ pixels along a side of a window of tokens: a picture of whole windows needs no padding."""
        return self.lq_encoder.swin.window * self.vqgan.factor


def _paper() -> Tier:
    swin = SwinConfig(width=256, groups=1, gate=True)
    token_net = TokenNetConfig(width=256, swin=SwinConfig(width=256, groups=4, gate=True), norm="group")
    schedule = TrainConfig(steps=400_000, batch=16, crop=256, lr=1e-4, final_lr=1.0, disc_width=64, validations=80,
                           checkpoint_every=5000, restart_until=0.0)
    return Tier(
        name="paper",
        vqgan=VQGANConfig(width=128, multipliers=(1, 2, 2, 4), codes=512, code_dim=128, swin=swin, norm="group"),
        lq_encoder=LQEncoderConfig(width=64, swin=SwinConfig(width=128, groups=2, gate=True), norm="group"),
        refiner=token_net,
        evaluator=token_net,
        train={"vqgan": schedule, "iter": schedule,
               "lq_encoder": replace(schedule, networks=("lq_encoder",)),
               "token_nets": replace(schedule, networks=("refiner", "evaluator"))},
        plan={"vqgan": 0.5, "iter": 0.49},
        notes="the published networks and schedule (Sec. 4.1)",
    )


def _smoke() -> Tier:
    token_net = TokenNetConfig(width=64, swin=SwinConfig(width=64, groups=1, depth=2, heads=4, mlp_ratio=2), posterior=False)
    base = TrainConfig(steps=120, batch=4, crop=64, lr=1e-3, warmup=0.08, ema=0.95, validations=2, checkpoint_every=60,
                       disc_width=16)
    return Tier(
        name="smoke",
        vqgan=VQGANConfig(width=16, multipliers=(1, 2, 4), codes=64, code_dim=16, encoder_swin=False,
                          swin=SwinConfig(width=32, groups=1, depth=2, heads=4, mlp_ratio=2)),
        lq_encoder=LQEncoderConfig(width=32, swin=SwinConfig(width=64, groups=1, depth=2, heads=4, mlp_ratio=2)),
        refiner=token_net,
        evaluator=token_net,
        train={
            "vqgan": replace(base, steps=300, warmup=0.03, autoencoder=0.3, gan_start=0.87, gan_weight=0.02, lr=2e-3,
                             perceptual_weight=0.5),
            "lq_encoder": replace(base, steps=250, warmup=0.04, networks=("lq_encoder",)),
            "token_nets": replace(base, steps=200, warmup=0.05, networks=("refiner", "evaluator"), masked_loss=True),
            "iter": base,
        },
        plan={"vqgan": 0.35, "lq_encoder": 0.25, "token_nets": 0.25},
        steps=4,
        degradation="mild",
        notes="every stage from scratch in minutes on two cores: tests, CI, a first look",
    )


def _tiny() -> Tier:
    swin = SwinConfig(width=96, groups=2, depth=4, heads=4, mlp_ratio=2)
    base = TrainConfig(steps=40_000, batch=4, crop=128, lr=5e-4, warmup=0.01, validations=20, checkpoint_every=250)
    return Tier(
        name="tiny",
        vqgan=VQGANConfig(width=32, multipliers=(1, 2, 3), codes=128, code_dim=32, encoder_swin=False, res_blocks=1,
                          swin=SwinConfig(width=96, groups=1, depth=2, heads=4, mlp_ratio=2)),
        lq_encoder=LQEncoderConfig(width=48, swin=swin),
        refiner=TokenNetConfig(width=96, norm="none", posterior=True, reads_lq=True, swin=swin),
        evaluator=TokenNetConfig(width=64, norm="none", posterior=True,
                                 swin=SwinConfig(width=64, groups=2, depth=4, heads=4, mlp_ratio=2)),
        train={
            "vqgan": replace(base, steps=7_000, batch=8, crop=96, lr=1e-3, warmup=0.03, autoencoder=0.09, gan_start=1.0,
                             perceptual_weight=0.5, validations=14),
            "lq_encoder": replace(base, steps=12_000, networks=("lq_encoder",)),
            "token_nets": replace(base, steps=12_000, lr=4e-4, networks=("refiner", "evaluator"), corrupt=0.5, masked_loss=True,
                                  validations=12),
            "iter": replace(base, steps=30_000, lr=4e-4, corrupt=0.5, masked_loss=True),
        },
        alpha=0.7,
        temperature=0.85,
        degradation="mild",
        notes="trainable on a CPU in hours; its weights ship with the package",
    )


def _small() -> Tier:
    base = TrainConfig(steps=10_000, batch=32, crop=192, lr=6e-4, warmup=0.03, ema=0.998, validations=3, checkpoint_every=300,
                       mild=0.5)
    swin = SwinConfig(width=160, groups=2, depth=4, heads=5, mlp_ratio=2)
    return Tier(
        name="small",
        vqgan=VQGANConfig(width=64, multipliers=(1, 2, 2), codes=256, code_dim=32, encoder_swin=False, res_blocks=1,
                          swin=SwinConfig(width=96, groups=1, depth=2, heads=3, mlp_ratio=2)),
        lq_encoder=LQEncoderConfig(width=48, swin=swin),
        refiner=TokenNetConfig(width=160, norm="none", posterior=True, reads_lq=True, swin=swin),
        evaluator=TokenNetConfig(width=128, norm="none", posterior=True,
                                 swin=SwinConfig(width=128, groups=1, depth=4, heads=4, mlp_ratio=2)),
        train={
            "vqgan": replace(base, batch=32, crop=128, lr=1e-3, autoencoder=0.08, gan_start=0.75, gan_weight=0.02,
                             disc_width=64, perceptual_weight=0.5),
            "lq_encoder": replace(base, networks=("lq_encoder",), final_lr=0.5),  # it trains on in `iter`
            "token_nets": replace(base, networks=("refiner", "evaluator"), corrupt=0.5, masked_loss=True),
            "iter": replace(base, corrupt=0.5, masked_loss=True),
        },
        plan={"vqgan": 0.22, "lq_encoder": 0.23, "iter": 0.5},
        notes="ten minutes of one GPU",
    )


def _stripes() -> Tier:
    swin = SwinConfig(width=64, groups=1, depth=4, heads=4, mlp_ratio=2)
    token_net = TokenNetConfig(width=64, norm="none", posterior=True, reads_lq=True, swin=swin)
    base = TrainConfig(steps=2_000, batch=8, crop=64, lr=1e-3, warmup=0.03, ema=0.99, validations=4, checkpoint_every=100)
    return Tier(
        name="stripes",
        vqgan=VQGANConfig(width=20, multipliers=(1, 2, 2), codes=96, code_dim=24, encoder_swin=False, res_blocks=1,
                          swin=SwinConfig(width=40, groups=1, depth=2, heads=4, mlp_ratio=2)),
        lq_encoder=LQEncoderConfig(width=20, swin=swin),
        refiner=token_net,
        evaluator=replace(token_net, reads_lq=False),
        train={
            "vqgan": replace(base, steps=900, autoencoder=0.2, gan_start=1.0, perceptual_weight=0.5, lr=2e-3),
            "lq_encoder": replace(base, networks=("lq_encoder",)),
            "token_nets": replace(base, steps=3_500, networks=("refiner", "evaluator"), corrupt=0.5, masked_loss=True),
            "iter": base,
        },
        plan={"vqgan": 0.2, "lq_encoder": 0.2, "token_nets": 0.58},
        alpha=1.0,
        temperature=0.3,
        degradation="mild",
        notes="pictures of stripes, in which neighbours tell a token (itersr.lab.worlds)",
    )


TIERS: dict[str, Tier] = {t.name: t for t in (_smoke(), _tiny(), _small(), _paper(), _stripes())}


def tier(name: str) -> Tier:
    """The tier called `name`; ValueError names the tiers that exist."""
    if name not in TIERS:
        raise ValueError(f"tier {name!r}: there are {', '.join(TIERS)}")
    return TIERS[name]


def as_defined(config: Tier) -> Tier:
    """The tier of that name as it is defined here: weights may name other settings as the best, such as one step."""
    return TIERS.get(config.name, config)


def to_dict(config: Tier) -> dict[str, Any]:
    """A tier as plain values that JSON can hold, without `train` and `plan`: each run records its own settings."""
    values = asdict(config)
    return {name: values[name] for name in values if name not in ("train", "plan")}


def from_dict(values: dict[str, Any]) -> Tier:
    """The tier that `to_dict` wrote, trained as the tier of that name is, or as `paper` where there is none; unknown or missing
    fields raise a TypeError that names them."""
    kinds = {"vqgan": VQGANConfig, "lq_encoder": LQEncoderConfig, "refiner": TokenNetConfig, "evaluator": TokenNetConfig}
    networks = {name: kind(**{**values[name], "swin": SwinConfig(**values[name]["swin"])}) for name, kind in kinds.items()}
    networks["vqgan"] = replace(networks["vqgan"], multipliers=tuple(values["vqgan"]["multipliers"]))
    usual = TIERS.get(values["name"], TIERS["paper"])
    return Tier(**{**values, **networks, "train": usual.train, "plan": usual.plan})
