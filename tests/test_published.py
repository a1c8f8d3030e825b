"""The published networks: loaded by name, equal to the reference, and every wrong file answered with one line."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from itersr import ITER, published
from itersr.weights import WeightsError
from tests import published_files as files

LIMIT = 3e-5  # of the standard deviation: tells a wrong GroupNorm eps from rounding


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ITER]:
    """The `paper` model with the reference's values, read from files like the released ones."""
    folder = tmp_path_factory.mktemp("released")
    paths = files.reference(folder)
    yield published.read(*paths).ready("cpu")
    for path in paths:
        path.unlink()


# ---------------------------------------------------------------------------------------------------------------- parity


def assert_equal(ours: Tensor, name: str) -> None:
    stored = files.vectors()[name]
    assert ours.shape == stored.shape
    error = ((ours - stored).abs().max() / stored.std()).item()
    assert error < LIMIT, f"{name}: off by {error:.1e} of its standard deviation"


@torch.no_grad()
def test_latent_and_indices(model: ITER) -> None:
    latent = model.vqgan.encoder(files.vectors()["hq"])
    assert_equal(latent, "latent")
    assert torch.equal(model.vqgan.codebook.nearest(latent), files.vectors()["indices"])


@torch.no_grad()
def test_decoded(model: ITER) -> None:
    assert_equal(model.vqgan.decode(files.vectors()["tokens"]).clamp(0, 1), "decoded")


@torch.no_grad()
def test_lq_logits(model: ITER) -> None:
    assert_equal(model.lq_encoder(files.vectors()["lq"]), "lq_logits")


@torch.no_grad()
def test_refiner_logits(model: ITER) -> None:
    v = files.vectors()
    assert_equal(model.refiner(v["tokens"], v["keep"], v["condition"], v["condition_keep"]), "refiner_logits")


@torch.no_grad()
def test_evaluator_logits(model: ITER) -> None:
    v = files.vectors()
    assert_equal(model.evaluator(v["tokens"], v["condition"]), "evaluator_logits")


@torch.no_grad()
def test_a_wrong_norm_would_be_seen(model: ITER) -> None:
    """The limit is tight enough: another eps in one GroupNorm of E_H fails it."""
    norm = model.vqgan.encoder.get_submodule("blocks.1.norm1")
    assert isinstance(norm, torch.nn.GroupNorm)
    eps, norm.eps = norm.eps, 1e-3
    try:
        with pytest.raises(AssertionError, match="latent: off by"):
            assert_equal(model.vqgan.encoder(files.vectors()["hq"]), "latent")
    finally:
        norm.eps = eps


def test_every_tensor_is_mapped_once(model: ITER) -> None:
    names = [("vqgan." if network == "vqgan" else prefix) + published.published_name(own, rows)
             for network, (prefix, rows) in published.table(halvings=1).items()
             for own in model.get_submodule(network).state_dict()]
    assert len(names) == 1497
    assert sorted(names) == sorted(files.LAYOUT)


def test_x2_has_one_stage_more() -> None:
    """64→128→256, then the 1×1 convolution to 128: every part of E_l behind the stages moves up by one."""
    own = ITER(files.small(scale=2)).lq_encoder.state_dict()
    prefix, rows = published.table(halvings=2)["lq_encoder"]
    shapes = {prefix + published.published_name(name, rows): tuple(value.shape) for name, value in own.items()}
    assert shapes["lq_encoder.model.0.weight"] == (32, 3, 3, 3)
    assert shapes["lq_encoder.model.1.0.weight"] == (64, 32, 3, 3)
    assert shapes["lq_encoder.model.2.0.weight"] == (128, 64, 3, 3)
    assert shapes["lq_encoder.model.2.2.conv.5.weight"] == (128, 128, 3, 3)
    assert shapes["lq_encoder.model.3.weight"] == (32, 128, 1, 1)
    assert shapes["lq_encoder.model.4.conv_in.weight"] == (32, 32, 3, 3)
    assert shapes["lq_encoder.model.5.weight"] == (40, 32, 1, 1)


# --------------------------------------------------------------------------------------------------- files, in miniature


@pytest.fixture
def miniature(monkeypatch: pytest.MonkeyPatch) -> ITER:
    """A small model of the published design; `published.read` expects its sizes instead of the full ones."""
    monkeypatch.setattr(published, "published_tier", lambda halvings: files.small(8 // 2**halvings))
    torch.manual_seed(0)
    return ITER(files.small()).eval()


@torch.no_grad()
def same(a: ITER, b: ITER) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_round_trip(miniature: ITER, tmp_path: Path) -> None:
    files.write(tmp_path, *files.released(miniature))
    loaded = published.load(tmp_path, device="cpu")
    assert same(loaded, miniature)
    assert loaded.tier.scale == 4 and not loaded.training
    assert loaded.upscale(torch.rand(3, 20, 33, generator=torch.Generator().manual_seed(0)), steps=1).shape == (3, 80, 132)


def test_scale_two(miniature: ITER, tmp_path: Path) -> None:
    x2 = ITER(files.small(scale=2)).eval()
    files.write(tmp_path, *files.released(x2), scale=2)
    loaded = published.load(tmp_path, device="cpu")
    assert same(loaded, x2) and loaded.tier.scale == 2
    assert loaded.upscale(torch.rand(3, 20, 33), steps=1).shape == (3, 40, 66)


def test_buffers_of_the_release_are_not_needed_and_not_loaded(miniature: ITER, tmp_path: Path) -> None:
    stage1, rest = files.released(miniature)
    attention = "blocks.2.swin_blks.0.residual_group.blocks.1"
    for prefix in ("decoder.", "generator."):
        stage1[prefix + attention + ".attn.relative_position_index"] = torch.zeros(64, 64, dtype=torch.long)
        stage1[prefix + attention + ".attn_mask"] = torch.zeros(4, 64, 64)
    rest["lq_encoder.model.3.swin_blks.0.residual_group.blocks.1.attn_mask"] = torch.zeros(4, 64, 64)
    assert same(published.read(*files.write(tmp_path, stage1, rest)).ready("cpu"), miniature)


def test_saved_as_a_folder_of_our_own_they_stay_the_same(miniature: ITER, tmp_path: Path) -> None:
    files.write(tmp_path, *files.released(miniature))
    published.load(tmp_path, device="cpu").save(tmp_path / "saved", dtype=torch.float32)
    loaded = ITER.from_pretrained(tmp_path / "saved", device="cpu")
    assert same(loaded, miniature) and loaded.tier == miniature.tier


# ------------------------------------------------------------------------------------------------------------ wrong files

State = dict[str, Tensor]
SOME = "token_refine_net.token_refine_net.swin_layers.swin_blks.1.residual_group.blocks.0.attn.qkv.weight"


def _rename(state: State) -> None:
    state[SOME + "_v2"] = state.pop(SOME)


WRONG_ITER: dict[str, tuple[Callable[[State], object], str]] = {
    "missing": (lambda s: s.pop(SOME), f"tensor {SOME} is missing"),
    "renamed": (_rename, f"tensor {SOME} is missing"),
    "unexpected": (lambda s: s.update({SOME + "_v2": torch.zeros(1)}), f"tensor {SOME}_v2 is unexpected"),
    "stray": (lambda s: s.update(stray=torch.zeros(1)), "tensor stray is unexpected"),
    "shape": (lambda s: s.update({SOME: s[SOME][:, :-1]}), f"tensor {SOME} has shape (96, 31), needed is (96, 32)"),
    "text": (lambda s: s.update({SOME: "text"}), "no dictionary `params` of tensors alone"),
    "list": (lambda s: s.update({SOME: [1.0, 2.0]}), "no dictionary `params` of tensors alone"),
    "no lq encoder": (lambda s: [s.pop(name) for name in list(s) if name.startswith("lq_encoder")],
                      "tensor lq_encoder.model.0.weight is missing"),
    "empty": (lambda s: s.clear(), "tensor lq_encoder.model.0.weight is missing"),
}


def one_line(caught: pytest.ExceptionInfo[WeightsError], path: Path, message: str) -> None:
    text = str(caught.value)
    assert text.startswith(f"{path}: ") and message in text and "\n" not in text, text


@pytest.mark.parametrize("case", WRONG_ITER)
def test_wrong_tensors(miniature: ITER, tmp_path: Path, case: str) -> None:
    spoil, message = WRONG_ITER[case]
    stage1, rest = files.released(miniature)
    rest = {name: value.clone() for name, value in rest.items()}
    spoil(rest)
    vqgan_path, iter_path = files.write(tmp_path, stage1, rest)
    with pytest.raises(WeightsError) as caught:
        published.read(vqgan_path, iter_path)
    one_line(caught, iter_path, message)


WRONG_STAGE1: dict[str, tuple[Callable[[State], object], str]] = {
    "discriminator": (lambda s: s.update({"disc.0.weight": torch.zeros(1)}), "tensor disc.0.weight is unexpected"),
    "prefixed": (lambda s: s.update({"vqgan." + n: s.pop(n) for n in list(s)}),
                 "tensor encoder.blocks.0.weight is missing"),
    "half a codebook": (lambda s: s.update({"quantize.embedding.weight": s["quantize.embedding.weight"][:20]}),
                        "tensor quantize.embedding.weight has shape (20, 16), needed is (40, 16)"),
}


@pytest.mark.parametrize("case", WRONG_STAGE1)
def test_wrong_stage1(miniature: ITER, tmp_path: Path, case: str) -> None:
    spoil, message = WRONG_STAGE1[case]
    stage1, rest = files.released(miniature)
    spoil(stage1)
    vqgan_path, iter_path = files.write(tmp_path, stage1, rest)
    with pytest.raises(WeightsError) as caught:
        published.read(vqgan_path, iter_path)
    one_line(caught, vqgan_path, message)


def test_files_the_wrong_way_round(miniature: ITER, tmp_path: Path) -> None:
    vqgan_path, iter_path = files.write(tmp_path, *files.released(miniature))
    with pytest.raises(WeightsError, match="tensor encoder.blocks.0.weight is missing"):
        published.read(iter_path, vqgan_path)


class Evil:
    """A pickle that would make a folder if anything in it were run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("content, message", [
    (b"", "not a readable file of tensors"),
    (b"<!DOCTYPE html><html><body>404</body></html>", "a web page"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "not a readable file of tensors"),
    (b"PK\x03\x04" + bytes(100), "not a readable file of tensors"),
    (bytes(range(256)) * 40, "not a readable file of tensors"),
    (pickle.dumps({"params": 3}), "not a readable file of tensors"),
], ids=["empty", "html", "pointer", "zip", "bytes", "plain pickle"])
def test_files_that_are_no_weights(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "ITER_x4.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsError) as caught:
        published.read_pickle(path)
    one_line(caught, path, message)


@pytest.mark.parametrize("content", [{"state_dict": {}}, {"params": torch.zeros(2)}, {}, [torch.zeros(2)], torch.zeros(2)])
def test_files_of_another_kind(tmp_path: Path, content: object) -> None:
    path = tmp_path / "ITER_x4.pth"
    torch.save(content, path)
    with pytest.raises(WeightsError) as caught:
        published.read_pickle(path)
    one_line(caught, path, "no dictionary `params`")


def test_nothing_in_a_pickle_is_run(tmp_path: Path) -> None:
    path = tmp_path / "ITER_x4.pth"
    torch.save({"params": {"a": Evil(tmp_path / "made")}}, path)
    with pytest.raises(WeightsError) as caught:
        published.read_pickle(path)
    one_line(caught, path, "holding more than tensors")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("share", [0.01, 0.5, 0.9, 0.999])
def test_truncated(miniature: ITER, tmp_path: Path, share: float) -> None:
    _, path = files.write(tmp_path, *files.released(miniature))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(WeightsError) as caught:
        published.read_pickle(path)
    one_line(caught, path, "truncated")


def test_safetensors_instead(tmp_path: Path) -> None:
    path = tmp_path / "ITER_x4.pth"
    save_file({"a": torch.zeros(3)}, path)
    with pytest.raises(WeightsError) as caught:
        published.read_pickle(path)
    one_line(caught, path, "not a readable file of tensors")


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        published.read_pickle(tmp_path / "gone.pth")
    one_line(caught, tmp_path / "gone.pth", "missing")
    for _ in range(2):
        with pytest.raises(WeightsError, match="needed in this folder are ITER_swinvqgan.pth and ITER_x4.pth or ITER_x2.pth"):
            published.load(tmp_path)
        (tmp_path / "ITER_swinvqgan.pth").touch()
