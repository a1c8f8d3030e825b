"""Every fast form equals the slow one that a reader would write first; any size of picture, any grid of tokens."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from itersr import ITER, swin
from itersr.config import LQEncoderConfig, Norm, SwinConfig, TokenNetConfig, tier
from itersr.lq_encoder import LQEncoder, Stem
from itersr.token_nets import Evaluator, Refiner
from itersr.vqgan import ResBlock, Upsample, folded

CODES = 24


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


# -------------------------------------------------------------------------------------------------------------- upsampling


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (4, 3), (8, 8)])
def test_upsampling_is_nearest_then_3x3(size: tuple[int, int]) -> None:
    up = Upsample(6).double()
    x = torch.randn(2, 6, *size, dtype=torch.float64, generator=generator())
    slow = up.train()(x)
    assert torch.equal(slow, up.conv(F.interpolate(x, scale_factor=2, mode="nearest")))
    torch.testing.assert_close(up.eval()(x), slow, rtol=0, atol=1e-12)


def test_upsampling_is_four_2x2_convolutions() -> None:
    """Each parity of row and column has a 2×2 kernel of its own; together they are the transposed kernel."""
    weight = torch.randn(5, 4, 3, 3, dtype=torch.float64, generator=generator())
    x = torch.randn(1, 4, 7, 6, dtype=torch.float64, generator=generator(1))
    pairs = {0: ([0], [1, 2]), 1: ([0, 1], [2])}  # which of the three taps fall on the first and the second pixel
    out = torch.empty(1, 5, 14, 12, dtype=torch.float64)
    for row, down in pairs.items():
        for column, across in pairs.items():
            kernel = torch.stack([torch.stack([weight[:, :, i][:, :, :, j].sum((2, 3)) for j in across], -1) for i in down], -2)
            out[..., row::2, column::2] = F.conv2d(F.pad(x, (1 - column, column, 1 - row, row)), kernel)
    torch.testing.assert_close(F.conv_transpose2d(x, folded(weight), stride=2, padding=1), out, rtol=0, atol=1e-12)


def test_upsampling_follows_its_weights() -> None:
    up = Upsample(3).eval()
    x = torch.randn(1, 3, 4, 4, generator=generator())
    before = up(x)
    with torch.no_grad():
        up.conv.weight.mul_(2)
        up.conv.bias.mul_(2)
    torch.testing.assert_close(up(x), 2 * before)


# --------------------------------------------------------------------------------------------------------------- attention


def full_attention(attention: swin.WindowAttention, x: Tensor) -> Tensor:
    """Window attention over all tokens at once: two see each other if the shifted grid puts them into one window."""
    _, h, w, c = x.shape
    side, heads, d = attention.side, attention.heads, c // attention.heads
    shift = side // 2 if attention.shifted else 0
    y, z = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    y, z = y.flatten(), z.flatten()
    # a grid of windows moved up and left by `shift`: the windows at the border are the smaller ones
    window = torch.div(y + side - shift, side, rounding_mode="floor") * 1000 + (z + side - shift) // side
    together = window[:, None] == window
    dy, dz = y[:, None] - y, z[:, None] - z
    near = (dy.abs() < side) & (dz.abs() < side)
    row = ((dy + side - 1) * (2 * side - 1) + dz + side - 1).masked_fill(~near, 0)
    q, k, v = attention.qkv(x).view(-1, h * w, 3, heads, d).permute(2, 0, 3, 1, 4)  # (B, heads, h·w, d)
    scores = q @ k.transpose(-2, -1) / d**0.5 + attention.bias_table[row].permute(2, 0, 1)
    scores = scores.masked_fill(~together, -torch.inf)
    return attention.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(x.shape))


@pytest.mark.parametrize("grid", [(8, 8), (8, 16), (16, 8), (16, 16), (24, 8), (24, 32)])
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("train", [False, True])
def test_windows_are_full_attention_with_a_mask(grid: tuple[int, int], shifted: bool, train: bool) -> None:
    attention = swin.WindowAttention(SwinConfig(width=16, groups=1, heads=2), shifted).double()
    attention.bias_table.data.normal_(generator=generator())
    x = torch.randn(2, *grid, 16, dtype=torch.float64, generator=generator(1))
    with torch.set_grad_enabled(train):
        torch.testing.assert_close(attention(x), full_attention(attention, x), rtol=0, atol=1e-10)


@pytest.mark.parametrize("side", [2, 4])
def test_other_windows_too(side: int) -> None:
    attention = swin.WindowAttention(SwinConfig(width=8, groups=1, heads=2, window=side), shifted=True).double()
    attention.bias_table.data.normal_(generator=generator())
    x = torch.randn(1, 2 * side, side, 8, dtype=torch.float64, generator=generator(1))
    torch.testing.assert_close(attention(x), full_attention(attention, x), rtol=0, atol=1e-10)


def test_the_fused_kernel_is_the_explicit_softmax() -> None:
    q, k, v = torch.randn(3, 4, 2, 64, 8, dtype=torch.float64, generator=generator())
    for bias in (torch.randn(1, 2, 64, 64, dtype=torch.float64, generator=generator(1)),
                 torch.randn(4, 2, 64, 64, dtype=torch.float64, generator=generator(2))):
        explicit = swin.attend(q, k, v, bias.requires_grad_())
        with torch.no_grad():
            torch.testing.assert_close(swin.attend(q, k, v, bias), explicit.detach(), rtol=0, atol=1e-12)


def test_windows_and_back() -> None:
    x = torch.randn(2, 8, 12, 3, generator=generator())
    cut = swin.windows(x, 4)
    assert cut.shape == (12, 16, 3)
    assert torch.equal(cut[1], x[0, :4, 4:8].reshape(16, 3))
    assert torch.equal(swin.unwindows(cut, 4, 8, 12), x)


def test_grids_that_are_no_whole_windows_are_refused() -> None:
    layers = swin.SwinLayers(8, SwinConfig(width=8, groups=1, depth=1, heads=1))
    with pytest.raises(ValueError, match="token map 8×12: both sides must be multiples of the window, 8"):
        layers(torch.zeros(1, 8, 8, 12))


# ---------------------------------------------------------------------------------------------------------- in one's place


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("train", [False, True])
def test_the_gate_in_the_matrix_is_the_gate_on_the_activations(batch: int, train: bool) -> None:
    block = swin.SwinBlock(SwinConfig(width=16, groups=1, heads=2, gate=True), shifted=False).double()
    assert block.gate is not None
    y = torch.randn(batch, 8, 16, 64, dtype=torch.float64, generator=generator())
    gate = torch.stack([block.gate(image[None])[0] for image in y])  # of each image alone
    assert gate.shape == (batch, 64) and gate.std() > 0
    slow = block.fc2(y * gate[:, None, None])
    with torch.set_grad_enabled(train):
        torch.testing.assert_close(block.contract(y), slow, rtol=0, atol=1e-12)


@pytest.mark.parametrize("norm", ["group", "layer", "none"])
@pytest.mark.parametrize("slope", [None, 0.2])
@pytest.mark.parametrize("widths", [(32, 32), (32, 64)])
def test_working_in_place_spoils_nothing(norm: Norm, slope: float | None, widths: tuple[int, int]) -> None:
    """Without gradients the blocks write into their own results: their inputs stay, and the numbers are the same."""
    net = torch.nn.Sequential(ResBlock(*widths, norm, slope), swin.SwinLayers(widths[1], CONFIG.swin))
    for weight in net.parameters():  # a zeroed convolution would hide a spoiled input
        torch.nn.init.normal_(weight, std=0.1)
    x = torch.randn(2, 32, 8, 16, generator=generator())
    before = x.clone()
    slow = net(x)
    assert slow.requires_grad
    with torch.no_grad():
        fast = net(x)
    assert torch.equal(x, before)
    torch.testing.assert_close(fast, slow.detach(), rtol=1e-4, atol=1e-4)


# ------------------------------------------------------------------------------------------------------------- token maps


def one_hot(net: Refiner | Evaluator, tokens: Tensor, keep: Tensor, flag: Tensor | None) -> Tensor:
    """A token map as the released networks read it: one-hot channels through a 1×1 convolution."""
    channels = F.one_hot(tokens, CODES).permute(0, 3, 1, 2).double() * keep[:, None]
    if flag is not None:
        channels = torch.cat([channels, flag[:, None].double()], 1)
    return F.conv2d(channels, net.table.weight.T[:, :, None, None]).permute(0, 2, 3, 1)


def token_maps() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g = generator()
    tokens, condition = torch.randint(CODES, (2, 2, 8, 16), generator=g)
    keep, good = torch.rand(2, 2, 8, 16, generator=g) < 0.5
    return tokens, keep, condition, good


CONFIG = TokenNetConfig(width=16, swin=SwinConfig(width=16, groups=1, depth=2, heads=2))


def test_refiner_reads_one_hot_maps() -> None:
    net = Refiner(CONFIG, CODES).double().eval()
    tokens, keep, condition, good = token_maps()
    s_l = one_hot(net, condition, torch.ones_like(keep), ~good)  # whole, and its bad tokens flagged
    s_t = one_hot(net, tokens, keep, ~keep)  # nothing but the mask where the token is masked
    torch.testing.assert_close(net(tokens, keep, condition, good), net.predict(s_l, s_t, tokens, None), rtol=0, atol=1e-12)


def test_evaluator_reads_one_hot_maps() -> None:
    net = Evaluator(CONFIG, CODES).double().eval()
    tokens, keep, condition, _ = token_maps()
    whole = torch.ones_like(keep)
    slow = net.predict(one_hot(net, tokens, whole, None), one_hot(net, condition, whole, None), tokens, None)
    torch.testing.assert_close(net(tokens, condition), slow, rtol=0, atol=1e-12)


LOOKING = dataclasses.replace(CONFIG, norm="none", posterior=True, reads_lq=True)
LOOKED_BY = LQEncoderConfig(width=8, swin=CONFIG.swin)


@pytest.mark.parametrize("config", [CONFIG, dataclasses.replace(CONFIG, posterior=True), LOOKING])
def test_masked_tokens_leave_no_trace(config: TokenNetConfig) -> None:
    net = Refiner(config, CODES, Stem(LOOKED_BY, 0) if config.reads_lq else None).eval()
    for weight in net.parameters():  # those that start at zero as well
        torch.nn.init.normal_(weight, std=0.1)
    tokens, keep, condition, good = token_maps()
    log_probs = torch.randn(2, CODES, 8, 16, generator=generator()).log_softmax(1)
    lq_features = net.stem.lq_features(torch.rand(2, 3, 8, 16, generator=generator())) if net.stem is not None else None
    other, changed = torch.where(keep, tokens, (tokens + 7) % CODES), torch.where(keep, (tokens + 7) % CODES, tokens)
    logits = net(tokens, keep, condition, good, log_probs, lq_features)
    assert torch.equal(logits, net(other, keep, condition, good, log_probs, lq_features))
    assert not torch.equal(logits, net(changed, keep, condition, good, log_probs, lq_features))


def test_with_the_posterior_both_networks_begin_with_what_e_l_says() -> None:
    config = dataclasses.replace(CONFIG, posterior=True)
    tokens, keep, condition, good = token_maps()
    log_probs = 4 * torch.randn(2, CODES, 8, 16, generator=generator())
    log_probs[0, 3] += 60  # E_l is certain in the first picture: its log-odds must stay finite
    log_probs = log_probs.log_softmax(1)
    torch.testing.assert_close(Refiner(config, CODES)(tokens, keep, condition, good, log_probs), log_probs)
    judged = Evaluator(config, CODES)(tokens, condition, log_probs).softmax(1)[:, 1]
    torch.testing.assert_close(judged, log_probs.gather(1, tokens[:, None])[:, 0].exp(), rtol=1e-3, atol=2e-4)
    with pytest.raises(ValueError, match="needs E_l's log-probabilities"):
        Evaluator(config, CODES)(tokens, condition)


def test_a_refiner_that_looks_begins_as_e_l_with_every_layer_at_work() -> None:
    encoder, net = LQEncoder(LOOKED_BY, CODES, 0), Refiner(LOOKING, CODES, Stem(LOOKED_BY, 0))
    for weight in encoder.parameters():  # as if trained: none is zero
        torch.nn.init.normal_(weight, std=0.1)
    tokens, keep, condition, good = token_maps()
    lq = torch.rand(2, 3, 8, 16, generator=generator())
    net.start_from(encoder)
    assert net.stem is not None
    logits, theirs = net(tokens, keep, condition, good, encoder(lq).log_softmax(1), net.stem.lq_features(lq)), encoder(lq)
    torch.testing.assert_close(logits, theirs)
    F.cross_entropy(logits, tokens).backward()
    still = {name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().any()}
    assert still == {"table.weight"}  # behind convolutions that begin at zero, which do get a gradient
    with pytest.raises(ValueError, match="needs the `lq_features`"):
        net(tokens, keep, condition, good, encoder(lq).log_softmax(1))
    with pytest.raises(ValueError, match="needs a stem"):
        Refiner(LOOKING, CODES)
    with pytest.raises(ValueError, match="must be those of E_l"):
        net.start_from(LQEncoder(dataclasses.replace(LOOKED_BY, swin=dataclasses.replace(CONFIG.swin, groups=2)), CODES, 0))


# ------------------------------------------------------------------------------------------------------- sizes, precision


@pytest.fixture(scope="module")
def smoke() -> ITER:
    torch.manual_seed(0)
    return ITER(tier("smoke")).ready("cpu")


@pytest.mark.parametrize("size", [(1, 1), (3, 20), (16, 16), (17, 31), (33, 16)])
def test_any_size(smoke: ITER, size: tuple[int, int]) -> None:
    lq = torch.rand(1, 3, *size, generator=generator())
    unit = smoke.tier.lq_encoder.swin.window * 2**smoke.tier.halvings
    padded = smoke.pad(lq)
    for axis, length in zip((-2, -1), size, strict=True):
        assert padded.shape[axis] % unit == 0 and 0 <= padded.shape[axis] - length < unit  # never a whole block too many
    assert torch.equal(padded[..., : size[0], : size[1]], lq)
    add = min(padded.shape[-1] - size[1], size[1])  # mirrored: the edge is there twice, then backwards
    mirrored = padded[..., : size[0], size[1] : size[1] + add]
    assert torch.equal(mirrored, lq.flip(-1)[..., :add])
    assert smoke.restore(lq, steps=1).image.shape == (1, 3, 4 * size[0], 4 * size[1])


def test_whole_windows_are_not_padded(smoke: ITER) -> None:
    unit = smoke.tier.lq_encoder.swin.window * 2**smoke.tier.halvings
    lq = torch.rand(1, 3, unit, 2 * unit, generator=generator())
    assert smoke.pad(lq) is lq


def test_an_empty_picture_is_refused(smoke: ITER) -> None:
    with pytest.raises(ValueError, match=r"lq has shape \(1, 3, 0, 5\)"):
        smoke.restore(torch.zeros(1, 3, 0, 5))


def test_bfloat16_is_close_and_float32_where_it_counts(smoke: ITER) -> None:
    """Logits within a few hundredths of their spread; the codes' distances, the pixels and the sampling stay float32."""
    half = ITER(smoke.tier)
    half.load_state_dict(smoke.state_dict())
    half.ready("cpu").bfloat16()
    lq = torch.rand(1, 3, 32, 32, generator=generator())
    exact = smoke.log_posterior(lq)
    rough = half.log_posterior(lq)
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).std() < 0.05 * exact.std()
    tokens = torch.randint(smoke.tier.vqgan.codes, (1, 16, 16), generator=generator())
    a, b = smoke.vqgan.decode(tokens), half.vqgan.decode(tokens)
    assert b.dtype == torch.float32 and 0 < (a - b).std() < 0.05 * a.std()
    assert half.vqgan.encode(torch.rand(1, 3, 32, 32, generator=generator())).shape == (1, 8, 8)
    image = half.restore(lq, steps=2).image
    assert image.dtype == torch.float32 and image.shape == (1, 3, 128, 128)


def test_bfloat16_with_a_posterior() -> None:
    which = tier("smoke")
    net = dataclasses.replace(which.refiner, posterior=True)
    model = ITER(dataclasses.replace(which, refiner=net, evaluator=net)).ready("cpu").bfloat16()
    assert model.restore(torch.rand(1, 3, 16, 16, generator=generator()), steps=2).image.isfinite().all()
