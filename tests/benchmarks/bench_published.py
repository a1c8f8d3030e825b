"""The `paper` networks on this CPU, beside the released implementation, its plain forms, and the arithmetic they cannot avoid.

    python -m tests.benchmarks.bench_published [--sides 64 128] [--rounds 3] [--threads N]

Plain forms do what the released code does: token maps as one-hot channels, softmax written out, nearest upsampling before
a 3×3 convolution, always a block of padding (64 becomes 80), φ_e asked once more than needed. They run beside ours and take
turns with them, so that a busy machine slows all alike; the best turn of each counts. "released" is what the released
implementation itself took on another machine with as many cores, in float32, scaled by the two machines' rates of a large
matrix product. The floor is the number of operations of *our* form, counted, over that rate in the same run (of the released
form: GFLOP plain). Weights are random: times
do not depend on them, and an untrained φ_e finds no token good, so that Alg. 2 runs all its T = 8 steps. Peak memory is
that of a process of its own which loads nothing but that model and runs one ×4 upscale.
"""

from __future__ import annotations

import argparse
import copy
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional as F

from itersr import swin, token_nets, vqgan
from itersr.config import tier
from itersr.masking import keep_best, sampled
from itersr.model import ITER
from itersr.sampling import categorical
from itersr.schedule import tokens_to_keep

ALPHA = 0.999  # more than an untrained φ_e ever says
FORMS = ("plain float32", "float32", "bfloat16")
JOBS = ("E_l", "φ_r", "φ_e", "E_H", "D_H", "×4")
# The released implementation, measured with 2 cores that made products at 186 GFLOP/s in float32: seconds (of the networks at
# 32×32 tokens) and, at last, GB at the most.
RELEASED_RATE = 186
RELEASED = {64: {"E_l": 0.07, "φ_r": 0.35, "φ_e": 0.35, "E_H": 1.38, "D_H": 2.36, "×4": 13.9}, 128: {"×4": 54.7}}
RELEASED_PEAK = {64: 2.19, 128: 3.02}


# ------------------------------------------------------------------------------------------------------------ plain forms


def plain_attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Attention in so many words."""
    return ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1) + bias).softmax(-1) @ v


def plain_upsample(self: vqgan.Upsample, x: Tensor) -> Tensor:
    """All nine products for each of the four copies of a pixel."""
    return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


def one_hot(net: token_nets.TokenNet, tokens: Tensor, keep: Tensor, flag: Tensor | None) -> Tensor:
    """A token map through the 1×1 convolution that the table is, (B, h, w, width)."""
    channels = F.one_hot(tokens, net.codes).permute(0, 3, 1, 2).float() * keep[:, None]
    if flag is not None:
        channels = torch.cat([channels, flag[:, None].float()], 1)
    return F.conv2d(channels, net.table.weight.T[:, :, None, None]).permute(0, 2, 3, 1)


def plain_refiner(self: token_nets.Refiner, tokens: Tensor, keep: Tensor, condition: Tensor, condition_keep: Tensor,
                  log_probs: Tensor | None = None, lq_features: Tensor | None = None) -> Tensor:
    everywhere = torch.ones_like(keep)
    return self.predict(one_hot(self, condition, everywhere, ~condition_keep), one_hot(self, tokens, keep, ~keep), tokens, None)


def plain_evaluator(self: token_nets.Evaluator, tokens: Tensor, condition: Tensor, log_probs: Tensor | None = None) -> Tensor:
    everywhere = torch.ones_like(tokens)
    return self.predict(one_hot(self, tokens, everywhere, None), one_hot(self, condition, everywhere, None), tokens, None)


def plain_forms() -> ExitStack:
    """A context in which the networks are the plain ones."""
    stack = ExitStack()
    stack.enter_context(mock.patch.object(swin, "attend", plain_attend))
    for network, forward in ((vqgan.Upsample, plain_upsample), (token_nets.Refiner, plain_refiner),
                             (token_nets.Evaluator, plain_evaluator)):
        stack.enter_context(mock.patch.object(network, "forward", forward))
    return stack


def plain_upscale(model: ITER, lq: Tensor, steps: int = 8) -> Tensor:
    """Alg. 2 as a first version has it: one block of padding too many, and φ_e asked after the last step too."""
    h, w = lq.shape[-2:]
    unit = model.tier.unit // model.tier.scale
    lq = F.pad(lq, (0, unit - w % unit, 0, unit - h % unit), mode="reflect")
    condition = model.lq_encoder(lq).argmax(1)
    good = model.evaluator(condition, condition).softmax(1)[:, 1] >= ALPHA
    tokens, keep = condition, good
    for t in range(steps, 0, -1):
        proposal, _ = categorical(model.refiner(tokens, keep, condition, good), torch.rand(tokens.shape))
        tokens = torch.where(keep, tokens, proposal)
        score = model.evaluator(tokens, condition).log_softmax(1)[:, 1]
        keep = keep_best(sampled(score, torch.rand(tokens.shape), t / steps), tokens_to_keep(t - 1, steps, tokens[0].numel()))
    return model.vqgan.decode(tokens).clamp(0, 1)[..., : 4 * h, : 4 * w]


# ------------------------------------------------------------------------------------------------------------ measurement


def rate(dtype: torch.dtype) -> float:
    """Billions of operations a second in a 1024³ matrix product, best of ten."""
    a, b = torch.randn(1024, 1024).to(dtype), torch.randn(1024, 1024).to(dtype)
    return 2 * 1024**3 / min(seconds(lambda: a @ b) for _ in range(10)) / 1e9


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
clock = CLOCKS["wall"]


def seconds(run: Callable[[], object]) -> float:
    began = clock()
    run()
    return clock() - began


def operations(run: Callable[[], object]) -> float:
    """Billions of operations in products and convolutions."""
    from torch.utils.flop_counter import FlopCounterMode  # here, since it holds 80 MB that no upscale needs

    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 1e9


def jobs(model: ITER, side: int, plain: bool) -> dict[str, Callable[[], object]]:
    """Each network on a `side`×`side` photo, and the whole ×4 upscale in T = 8 steps."""
    g = torch.Generator().manual_seed(0)
    lq, hq = torch.rand(1, 3, side, side, generator=g), torch.rand(1, 3, 4 * side, 4 * side, generator=g)
    tokens = torch.randint(model.tier.vqgan.codes, (1, side // 2, side // 2), generator=g)
    keep = torch.rand(tokens.shape, generator=g) < 0.5

    def upscale() -> object:
        if plain:
            return plain_upscale(model, lq)
        trace = model.restore(lq, alpha=ALPHA)
        assert trace.start.tolist() == [8], "the untrained φ_e found good tokens"
        return trace

    return {
        "E_l": lambda: model.lq_encoder(lq),
        "φ_r": lambda: model.refiner(tokens, keep, tokens, keep),
        "φ_e": lambda: model.evaluator(tokens, tokens),
        "E_H": lambda: model.vqgan.encoder(hq),
        "D_H": lambda: model.vqgan.decode(tokens),
        "×4": upscale,
    }


def build() -> ITER:
    torch.manual_seed(0)
    return ITER(tier("paper"))


def peak_memory(side: int, form: str) -> float:
    """GB at most held by this process during one upscale, weights and libraries included."""
    model = build().requires_grad_(False).eval() if form == FORMS[0] else build().ready("cpu")
    if form == "bfloat16":
        model.bfloat16()
    run = jobs(model, side, form == FORMS[0])["×4"]
    try:
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak of building random weights
    except OSError:
        pass
    in_form(form, run)
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1e6 * 1.024
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6 * 1.024


def in_form(form: str, run: Callable[[], object]) -> object:
    if form != FORMS[0]:
        return run()
    with plain_forms():
        return run()


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sides", type=int, nargs="+", default=[64, 128], help="of the LQ photo, multiples of 16")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", nargs="+", choices=JOBS, default=list(JOBS), help="(default: all, and peak memory)")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: time at work, for a busy machine (--threads 1)")
    parser.add_argument("--peak", choices=FORMS, help="print only the peak memory of one form at the first side, in GB")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    global clock
    clock = CLOCKS[args.clock]
    if args.peak:
        print(peak_memory(args.sides[0], args.peak))
        return

    plain = build().requires_grad_(False).eval()
    fast = copy.deepcopy(plain).ready("cpu")
    models = {FORMS[0]: plain, FORMS[1]: fast, FORMS[2]: copy.deepcopy(fast).bfloat16()}
    print(f"{platform.machine()} CPU, {torch.get_num_threads()} of {os.cpu_count()} threads, torch {torch.__version__}; "
          f"{args.clock} seconds, best of {args.rounds} turns")
    for side in args.sides:
        report(models, side, args.rounds, args.only)
        if args.only != list(JOBS):
            continue
        peaks = []
        for form in FORMS:
            options = ["--threads", str(args.threads), "--sides", str(side), "--peak", form]
            command = [sys.executable, "-m", "tests.benchmarks.bench_published", *options]
            peaks.append(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        there = f"{RELEASED_PEAK[side]:8.2f}" if side in RELEASED_PEAK else ""
        print("{:8} {:>8} {:8.2f} {:8.2f} {:20} {:9.2f}".format("peak GB", there, *map(float, peaks[:2]), "", float(peaks[2])),
              flush=True)


def report(models: dict[str, ITER], side: int, rounds: int, names: list[str]) -> None:
    """Time every network in every form, in turns, and print the table."""
    rows = {form: jobs(model, side, form == FORMS[0]) for form, model in models.items()}
    rates = dict.fromkeys((torch.float32, torch.bfloat16), 0.0)
    best = {(form, name): float("inf") for form in FORMS for name in names}
    counted: dict[tuple[str, str], float] = {}
    for turn in range(rounds + 1):
        for name in names:
            for dtype in rates:
                rates[dtype] = max(rates[dtype], rate(dtype))
            for form in FORMS:
                run = partial(in_form, form, rows[form][name])
                if turn == 0:  # the first turn warms up and counts
                    counted[form, name] = operations(run)
                else:
                    best[form, name] = min(best[form, name], seconds(run))
    slow, fast = rates.values()
    print(f"\n{side}×{side} → {4 * side}×{4 * side}; products at {slow:.0f} GFLOP/s in float32, {fast:.0f} in bfloat16")
    print("× is how many times as fast as the released implementation, and as the plain forms")
    ratios = f"{'floor':>6} {'×':>6} {'×':>5}"
    print(f"{'seconds':8} {'released':>8} {'plain':>8} {'float32':>8} {ratios} {'bfloat16':>9} {ratios} "
          f"{'GFLOP plain':>12} {'ours':>7}")
    for name in names:
        p, f32, bf16 = (best[form, name] for form in FORMS)
        released = RELEASED.get(side, {}).get(name, float("nan")) * RELEASED_RATE / slow
        before, work = counted[FORMS[0], name], counted[FORMS[1], name]
        print(f"{name:8} {released:8.3f} {p:8.3f} {f32:8.3f} {work / slow:6.3f} {released / f32:6.2f} {p / f32:5.2f} "
              f"{bf16:9.3f} {work / fast:6.3f} {released / bf16:6.2f} {p / bf16:5.2f} {before:12.1f} {work:7.1f}", flush=True)


if __name__ == "__main__":
    main()
