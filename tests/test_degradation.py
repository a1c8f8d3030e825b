"""Each operator of the degradation against an independent implementation, and what must hold of the whole chain."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.ndimage
import scipy.signal
import scipy.special
import scipy.stats
import skimage.data
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio
from torch import Tensor

from itersr import degradation as deg
from itersr.degradation import MILD, Degradation, Draw, Kernel, Noise, apply, degrade, draw


def photo(size: int = 64, name: str = "astronaut") -> Tensor:
    """The middle of a bundled photo, (1,3,size,size) in [0, 1]."""
    pixels = getattr(skimage.data, name)()
    top, left = (pixels.shape[0] - size) // 2, (pixels.shape[1] - size) // 2
    crop = pixels[top : top + size, left : left + size].astype(np.float32) / 255
    return torch.from_numpy(crop).permute(2, 0, 1)[None].contiguous()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def hwc(image: Tensor) -> np.ndarray:
    return image[0].permute(1, 2, 0).numpy()


# ---- kernels


def grid(size: int) -> np.ndarray:
    """Pixel positions (x, y) from the middle, (size, size, 2)."""
    axis = np.arange(size) - size // 2
    return np.stack(np.meshgrid(axis, axis), -1)


def covariance(sigma_x: float, sigma_y: float, angle: float) -> np.ndarray:
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return turn @ np.diag([sigma_x**2, sigma_y**2]) @ turn.T


SHAPES = [(7, 0.2, 0.2, 0.0), (13, 3.0, 3.0, 0.0), (21, 2.6, 0.4, 0.7), (15, 0.9, 2.0, -2.5), (9, 1.0, 3.0, math.pi)]


@pytest.mark.parametrize(("size", "sigma_x", "sigma_y", "angle"), SHAPES)
def test_gaussian_kernel_is_scipys_density(size: int, sigma_x: float, sigma_y: float, angle: float) -> None:
    density = scipy.stats.multivariate_normal([0, 0], covariance(sigma_x, sigma_y, angle)).pdf(grid(size))
    ours = deg.generalized_kernel(size, sigma_x, sigma_y, angle).numpy()
    np.testing.assert_allclose(ours, density / density.sum(), atol=1e-6)


@pytest.mark.parametrize("sigma", [0.2, 1.3, 3.0])
def test_isotropic_gaussian_is_opencvs(sigma: float) -> None:
    column = cv2.getGaussianKernel(21, sigma, cv2.CV_64F)
    np.testing.assert_allclose(deg.generalized_kernel(21, sigma, sigma).numpy(), column @ column.T, atol=1e-6)


@pytest.mark.parametrize("beta", [0.5, 1.0, 1.7, 4.0])
@pytest.mark.parametrize(("size", "sigma_x", "sigma_y", "angle"), SHAPES)
def test_generalized_and_plateau_kernels(size: int, sigma_x: float, sigma_y: float, angle: float, beta: float) -> None:
    at = grid(size).astype(float)
    q = np.einsum("hwi,ij,hwj->hw", at, np.linalg.inv(covariance(sigma_x, sigma_y, angle)), at)
    for ours, theirs in (
        (deg.generalized_kernel(size, sigma_x, sigma_y, angle, beta), np.exp(-0.5 * q**beta)),
        (deg.plateau_kernel(size, sigma_x, sigma_y, angle, beta), 1 / (1 + q**beta)),
    ):
        np.testing.assert_allclose(ours.numpy(), theirs / theirs.sum(), atol=1e-6)


@pytest.mark.parametrize(("size", "cutoff"), [(7, math.pi / 3), (13, math.pi / 5), (21, 2.0), (21, math.pi)])
def test_sinc_kernel_is_scipys_bessel_disc(size: int, cutoff: float) -> None:
    at = grid(size)
    r = np.hypot(at[..., 0], at[..., 1])
    # J1(x)/x = (J0(x) + J2(x)) / 2, so that the middle needs no limit
    theirs = cutoff**2 / (4 * np.pi) * (scipy.special.jv(0, cutoff * r) + scipy.special.jv(2, cutoff * r))
    np.testing.assert_allclose(deg.sinc_kernel(size, cutoff).numpy(), theirs / theirs.sum(), atol=1e-6)


def test_sinc_passes_below_its_cutoff_and_stops_above() -> None:
    response = np.abs(np.fft.rfft2(deg.sinc_kernel(21, math.pi / 2).numpy(), s=(128, 128)))
    frequency = np.hypot(np.fft.fftfreq(128)[:, None], np.fft.rfftfreq(128)[None]) * 2 * np.pi
    assert np.abs(response[frequency < 0.8 * math.pi / 2] - 1).max() < 0.2
    assert response[frequency > 1.2 * math.pi / 2].max() < 0.2


def test_drawn_kernels_are_the_functions() -> None:
    made = deg.kernel_weights(Kernel("plateau_aniso", 9, 1.0, 2.0, 0.3, 1.5))
    assert torch.equal(made, deg.plateau_kernel(9, 1.0, 2.0, 0.3, 1.5))
    made = deg.kernel_weights(Kernel("aniso", 9, 1.0, 2.0, 0.3))
    assert torch.equal(made, deg.generalized_kernel(9, 1.0, 2.0, 0.3))
    with pytest.raises(ValueError, match="'box'"):
        deg.kernel_weights(Kernel("box", 9))


# ---- filter and resize


def correlate(image: Tensor, kernel: Tensor) -> np.ndarray:
    return np.stack([scipy.ndimage.correlate(c, kernel.numpy(), mode="mirror") for c in image[0].double().numpy()])


@pytest.mark.parametrize(
    "kernel",
    [deg.generalized_kernel(21, 2.0, 2.0), deg.generalized_kernel(13, 2.0, 0.7, 0.4), deg.sinc_kernel(7, 1.2)],
    ids=["separable", "turned", "sinc"],
)
@pytest.mark.parametrize("size", [64, 37])
def test_blur_is_scipys_and_opencvs(kernel: Tensor, size: int) -> None:
    image = photo(size)
    ours = deg.blur(image, kernel)
    theirs = correlate(image, kernel)
    np.testing.assert_allclose(ours[0].numpy(), theirs, atol=2e-6)
    np.testing.assert_allclose(hwc(ours), cv2.filter2D(hwc(image), -1, kernel.numpy()), atol=2e-6)  # mirrors by default


def test_blur_of_a_picture_smaller_than_the_kernel() -> None:
    kernel = deg.generalized_kernel(21, 2.0, 1.0, 0.3)
    for h, w in ((3, 5), (2, 9), (1, 4)):
        image = photo(16)[..., :h, :w]
        theirs = correlate(image, kernel)
        np.testing.assert_allclose(deg.blur(image, kernel)[0].numpy(), theirs, atol=2e-6)


@pytest.mark.parametrize("size", [(20, 31), (64, 64), (90, 70)])
def test_bilinear_and_bicubic_are_opencvs(size: tuple[int, int]) -> None:
    image = photo(64)
    for name, code in (("bilinear", cv2.INTER_LINEAR), ("bicubic", cv2.INTER_CUBIC)):
        theirs = cv2.resize(hwc(image), size[::-1], interpolation=code)
        np.testing.assert_allclose(hwc(deg.resize(image, size, name)), theirs, atol=1e-5)


def test_area_is_opencvs_where_the_factor_is_whole_and_pillows_box() -> None:
    image = photo(64)
    theirs = cv2.resize(hwc(image), (16, 16), interpolation=cv2.INTER_AREA)
    np.testing.assert_allclose(hwc(deg.resize(image, (16, 16), "area")), theirs, atol=1e-6)
    red = Image.fromarray(image[0, 0].numpy()).resize((32, 16), Image.Resampling.BOX)
    np.testing.assert_allclose(deg.resize(image, (16, 32), "area")[0, 0].numpy(), np.asarray(red), atol=1e-6)


# ---- noise


def test_gaussian_noise_has_its_variance_within_3_percent() -> None:
    flat = torch.full((1, 3, 256, 256), 0.5)
    for sigma in (1.0, 12.0, 30.0):
        for grey in (False, True):
            noise = deg.add_gaussian_noise(flat, sigma, grey=grey, generator=generator(1)) - flat
            assert noise.var().item() == pytest.approx((sigma / 255) ** 2, rel=0.03)
            assert (noise.std(1).max() < 1e-6) == grey  # the same in R, G and B, or not
            correlation = np.corrcoef(noise[0].flatten(1).numpy())[0, 1]
            assert correlation > 0.999 if grey else abs(correlation) < 0.02


def test_poisson_noise_has_its_variance_within_3_percent() -> None:
    # A ramp over all 256 values, so v = 256 photons: the variance at value x is scale² x / 256, by SciPy's own law.
    ramp = (torch.arange(256) / 255).repeat(512, 1)[None, None].expand(1, 3, 512, 256)
    noise = (deg.add_poisson_noise(ramp, 2.0, grey=False, generator=generator(2)) - ramp)[0].permute(2, 0, 1).flatten(1)
    x = np.arange(256) / 255
    theirs = 4.0 * scipy.stats.poisson(x * 256).var() / 256**2
    assert noise[0].abs().max() == 0  # black stays black
    bands = noise[1:].var(1).numpy().reshape(15, 17).mean(1) / theirs[1:].reshape(15, 17).mean(1)
    np.testing.assert_allclose(bands, 1, atol=0.03)
    assert abs(noise.mean().item()) < 1e-3


def test_poisson_noise_is_scipys_distribution() -> None:
    flat = torch.full((1, 3, 128, 128), 100 / 255)
    flat[..., 0, 0] = 101 / 255  # two values, so two photons for white
    counts = (deg.add_poisson_noise(flat, 1.0, grey=False, generator=generator(3)) * 2)[0].flatten()[1:].round()
    law = scipy.stats.poisson(100 / 255 * 2)
    for k in range(4):
        assert (counts == k).float().mean().item() == pytest.approx(law.pmf(k), abs=0.008)


def test_grey_poisson_noise_follows_the_grey_picture() -> None:
    image = photo(64)
    noise = deg.add_poisson_noise(image, 1.0, grey=True, generator=generator(4)) - image
    assert noise.std(1).max() < 1e-6
    grey = cv2.cvtColor(hwc(image), cv2.COLOR_RGB2GRAY)
    np.testing.assert_allclose(deg.luma(image)[0, 0].numpy(), grey, atol=2e-4)


def test_noise_depends_on_its_seed_alone() -> None:
    flat = torch.full((1, 3, 16, 16), 0.5)
    for kind in ("gaussian", "poisson"):
        one = Noise(kind, 2.0, grey=False, seed=5)
        assert torch.equal(deg.add_noise(flat, one), deg.add_noise(flat, one))
        assert not torch.equal(deg.add_noise(flat, one), deg.add_noise(flat, replace(one, seed=6)))
    with pytest.raises(KeyError, match="'salt'"):
        deg.add_noise(flat, Noise("salt", 1.0, False, 0))


# ---- JPEG


@pytest.mark.parametrize("quality", [30, 50, 75, 95])
@pytest.mark.parametrize("size", [64, 53])
def test_jpeg_is_libjpegs(quality: int, size: int) -> None:
    image = photo(size)
    pixels = (hwc(image) * 255).round().astype(np.uint8)
    ours = hwc(deg.jpeg(image, quality))
    coded = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]  # libjpeg, 4:2:0 by default
    theirs = cv2.imdecode(coded, cv2.IMREAD_COLOR)[..., ::-1] / 255
    loss = peak_signal_noise_ratio(pixels / 255, theirs)
    assert peak_signal_noise_ratio(pixels / 255, ours.astype(float)) == pytest.approx(loss, abs=1)
    assert peak_signal_noise_ratio(theirs, ours.astype(float)) > loss + 3  # and the same artefacts


def test_jpeg_is_a_file_written_and_read(tmp_path: Path) -> None:
    images = torch.cat([photo(48), photo(48, "coffee")]) * 1.2 - 0.1  # the codec clamps
    pixels = (images * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    for one, coded in zip(pixels, deg.jpeg(images, 60), strict=True):
        Image.fromarray(one).save(tmp_path / "one.jpg", quality=60)
        assert np.array_equal((hwc(coded[None]) * 255).round(), np.asarray(Image.open(tmp_path / "one.jpg")))
    assert torch.equal(deg.jpeg(images, 60)[1:], deg.jpeg(images[1:], 60))


# ---- draws


def test_the_defaults_are_the_published_values() -> None:
    d = Degradation()
    assert d.blur == (1.0, 0.8) and d.sinc == (0.1, 0.1) and d.last_sinc == 0.8 and d.last_jpeg_after == 0.5
    assert d.kernel_size == ((7, 21), (7, 21)) and d.last_kernel_size == (7, 21) and d.sinc_small == 13
    assert d.families == ((0.45, 0.25, 0.12, 0.03, 0.12, 0.03),) * 2
    assert d.sigma == ((0.2, 3), (0.2, 1.5)) and d.angle == ((-math.pi, math.pi),) * 2
    assert d.beta_generalized == ((0.5, 4),) * 2 and d.beta_plateau == ((1, 2),) * 2
    for small, large in zip(d.sinc_cutoff_small, d.sinc_cutoff_large, strict=True):
        assert small == d.last_sinc_cutoff == (math.pi / 3, math.pi) and large == (math.pi / 5, math.pi)
    assert d.resize == ((0.2, 0.7, 0.1), (0.3, 0.4, 0.3))
    assert d.resize_up == ((1, 1.5), (1, 1.2)) and d.resize_down == ((0.15, 1), (0.3, 1))
    assert d.gaussian == (0.5, 0.5) and d.gaussian_sigma == ((1, 30), (1, 25))
    assert d.poisson_scale == ((0.05, 3), (0.05, 2.5))
    assert d.grey == (0.4, 0.4) and d.jpeg_quality == ((30, 95), (30, 95))


def test_draws_follow_their_probabilities_and_ranges() -> None:
    n = 4000
    draws = draw(n, generator=generator(7))

    def share(true: list[bool]) -> float:
        return sum(true) / len(true)

    near = lambda p: pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / n) + 1e-9)  # noqa: E731
    for i, order in ((0, [d.first for d in draws]), (1, [d.second for d in draws if d.second])):
        assert len(order) == n
        ranges = Degradation()
        kernels = [o.kernel for o in order if o.kernel]
        assert share([o.kernel is not None for o in order]) == near(ranges.blur[i])
        assert {k.size for k in kernels} == set(range(7, 22, 2))
        plain = [k for k in kernels if k.family != "sinc"]
        assert share([k.family == "sinc" for k in kernels]) == near(0.1)
        for family, p in zip(deg.FAMILIES, ranges.families[i], strict=True):
            assert share([k.family == family for k in plain]) == near(p)
        for k in plain:
            low, high = ranges.sigma[i]
            assert low <= k.sigma_x <= high and low <= k.sigma_y <= high and abs(k.angle) <= math.pi
            assert (k.sigma_x == k.sigma_y and k.angle == 0) == (not k.family.endswith("aniso"))
            if k.family.startswith("plateau"):
                assert 1 <= k.beta <= 2
            else:
                assert 0.5 <= k.beta <= 4 if k.family.startswith("generalized") else k.beta == 1
        flat = [k.beta for k in plain if k.family.startswith("generalized")]
        assert share([b < 1 for b in flat]) == pytest.approx(0.5, abs=0.1)
        for k in kernels:
            if k.family == "sinc":
                assert (math.pi / 3 if k.size < 13 else math.pi / 5) <= k.cutoff <= math.pi
        up, down, keep = ranges.resize[i]
        assert share([o.factor > 1 for o in order]) == near(up)
        assert share([o.factor == 1 for o in order]) == near(keep)
        assert ranges.resize_down[i][0] <= min(o.factor for o in order) < ranges.resize_down[i][0] + 0.02
        assert ranges.resize_up[i][1] - 0.02 < max(o.factor for o in order) <= ranges.resize_up[i][1]
        for name in deg.INTERPOLATIONS:
            assert share([o.interpolation == name for o in order]) == near(1 / 3)
        assert share([o.noise.kind == "gaussian" for o in order]) == near(0.5)
        assert share([o.noise.grey for o in order]) == near(0.4)
        for kind, (low, high) in (("gaussian", ranges.gaussian_sigma[i]), ("poisson", ranges.poisson_scale[i])):
            strengths = [o.noise.strength for o in order if o.noise.kind == kind]
            assert low <= min(strengths) and max(strengths) <= high
            assert np.mean(strengths) == pytest.approx((low + high) / 2, rel=0.05)
    assert share([d.jpeg_after for d in draws]) == near(0.5)
    assert share([d.sinc is not None for d in draws]) == near(0.8)
    for qualities in ([d.jpeg_first for d in draws], [d.jpeg_last for d in draws]):
        assert min(qualities) == 30 and max(qualities) == 95
    assert len({d.first.noise.seed for d in draws} | {d.second.noise.seed for d in draws if d.second}) == 2 * n


def test_mild_is_milder() -> None:
    draws = draw(300, generator=generator(8), ranges=MILD)
    assert all(d.second is None for d in draws)
    assert all(50 <= d.jpeg_last <= 95 and 0.5 <= d.first.factor <= 1.2 for d in draws)
    assert all(d.sinc is None and d.first.kernel and d.first.kernel.family in deg.FAMILIES for d in draws)  # no ringing
    hq = torch.cat([photo(64), photo(64, "coffee"), photo(64, "chelsea")]).repeat(8, 1, 1, 1)
    clean = deg.resize(hq, (16, 16), "area")
    published, mild = (degrade(hq, generator=generator(9), ranges=r) - clean for r in (Degradation(), MILD))
    assert mild.square().mean() < 0.5 * published.square().mean()


def test_one_image_takes_the_same_numbers_whatever_is_drawn() -> None:
    together, alone = generator(10), generator(10)
    assert draw(5, generator=together) == [draw(1, generator=alone)[0] for _ in range(5)]
    published, mild = draw(3, generator=generator(11)), draw(3, generator=generator(11), ranges=MILD)
    assert [d.first.noise.seed for d in published] == [d.first.noise.seed for d in mild]
    assert [d.interpolation for d in published] == [d.interpolation for d in mild]


def test_a_draw_survives_json() -> None:
    draws = draw(20, generator=generator(12)) + draw(20, generator=generator(12), ranges=MILD)
    assert [Draw.from_dict(json.loads(json.dumps(d.to_dict()))) for d in draws] == draws
    record = draws[0].to_dict()
    del record["jpeg_last"]
    with pytest.raises(TypeError, match="jpeg_last"):
        Draw.from_dict(record)


@pytest.mark.parametrize(
    "bad",
    [
        {"second_order": 1.5},
        {"blur": (1.0, -0.1)},
        {"resize": ((0.5, 0.5, 0.5), (0.3, 0.4, 0.3))},
        {"families": ((1.0,), (1.0,))},
        {"kernel_size": ((6, 21), (7, 21))},
        {"sigma": ((3.0, 0.2), (0.2, 1.5))},
        {"resize_down": ((0.0, 1.0), (0.3, 1.0))},
        {"jpeg_quality": ((30, 101), (30, 95))},
        {"last_sinc_cutoff": (1.0, 4.0)},
    ],
)
def test_ranges_that_mean_nothing_are_refused_by_name(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        Degradation(**bad)  # type: ignore[arg-type]


# ---- the whole chain


@pytest.fixture(scope="module")
def batch() -> Tensor:
    return torch.cat([photo(64, name) for name in ("astronaut", "coffee", "chelsea", "rocket")])


def test_shape_range_and_steps_of_a_byte(batch: Tensor) -> None:
    for scale in (1, 2, 4):
        lq = degrade(batch, generator=generator(20), scale=scale)
        assert lq.shape == (4, 3, 64 // scale, 64 // scale) and lq.dtype == torch.float32
        assert 0 <= lq.min() and lq.max() <= 1
        steps = lq * 255
        assert torch.equal(steps, steps.round()) or (steps - steps.round()).abs().max() < 1e-4
        assert torch.equal(lq, steps.round() / 255)


def test_the_same_generator_gives_the_same_batch(batch: Tensor) -> None:
    before = torch.get_rng_state()
    one, two = degrade(batch, generator=generator(21)), degrade(batch, generator=generator(21))
    assert torch.equal(one, two)
    assert not torch.equal(one, degrade(batch, generator=generator(22)))
    assert torch.equal(before, torch.get_rng_state())  # the global generator is left alone


def test_a_batch_is_its_singles(batch: Tensor) -> None:
    draws = draw(4, generator=generator(23)) + draw(4, generator=generator(24), ranges=MILD)
    images = batch.repeat(2, 1, 1, 1)
    together = apply(images, draws)
    for i, d in enumerate(draws):
        assert torch.equal(together[i : i + 1], apply(images[i : i + 1], [d]))
    assert torch.equal(together[:4], degrade(batch, generator=generator(23)))


def test_threads_change_nothing_and_are_left_as_they_were(batch: Tensor) -> None:
    draws, before, results = draw(4, generator=generator(25)), torch.get_num_threads(), []
    try:
        for threads in (1, 3, 8):
            torch.set_num_threads(threads)
            results.append(apply(batch, draws))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def test_every_image_has_its_own_draw() -> None:
    lq = degrade(photo(64).repeat(6, 1, 1, 1), generator=generator(26))
    assert len({image.numpy().tobytes() for image in lq}) == 6


def test_the_order_of_the_last_two_steps_counts(batch: Tensor) -> None:
    d = draw(1, generator=generator(27))[0]
    after = apply(batch[:1], [replace(d, jpeg_after=True)])
    before = apply(batch[:1], [replace(d, jpeg_after=False)])
    assert not torch.equal(after, before)


@pytest.mark.parametrize("jpeg_after", [True, False])
def test_the_chain_is_its_operators_in_order(batch: Tensor, jpeg_after: bool) -> None:
    d = next(d for d in draw(50, generator=generator(28)) if d.second and d.second.kernel and d.sinc)
    d = replace(d, jpeg_after=jpeg_after)
    assert d.first.kernel and d.second and d.second.kernel and d.sinc
    image = deg.blur(batch[:1], deg.kernel_weights(d.first.kernel))
    image = deg.resize(image, (int(64 * d.first.factor),) * 2, d.first.interpolation)
    image = deg.jpeg(deg.add_noise(image, d.first.noise), d.jpeg_first)
    image = deg.blur(image, deg.kernel_weights(d.second.kernel))
    image = deg.resize(image, (int(16 * d.second.factor),) * 2, d.second.interpolation)
    image, kernel = deg.add_noise(image, d.second.noise), deg.kernel_weights(d.sinc)
    if jpeg_after:
        image = deg.jpeg(deg.blur(deg.resize(image, (16, 16), d.interpolation), kernel), d.jpeg_last)
    else:
        image = deg.blur(deg.resize(deg.jpeg(image, d.jpeg_last), (16, 16), d.interpolation), kernel)
    assert torch.equal(apply(batch[:1], [d]), deg.round_to_bytes(image))


def test_without_the_second_order_the_last_step_follows_the_first_noise(batch: Tensor) -> None:
    d = next(d for d in draw(50, generator=generator(28), ranges=replace(Degradation(), second_order=0.0)) if d.sinc)
    assert d.first.kernel and d.second is None and d.sinc
    d = replace(d, jpeg_after=True)
    image = deg.blur(batch[:1], deg.kernel_weights(d.first.kernel))
    image = deg.resize(image, (int(64 * d.first.factor),) * 2, d.first.interpolation)
    image = deg.resize(deg.add_noise(image, d.first.noise), (16, 16), d.interpolation)
    image = deg.jpeg(deg.blur(image, deg.kernel_weights(d.sinc)), d.jpeg_last)
    assert torch.equal(apply(batch[:1], [d]), deg.round_to_bytes(image))


def test_small_and_oblong_pictures() -> None:
    for h, w in ((8, 8), (4, 4), (16, 40), (12, 100)):
        hq = torch.rand(3, 3, h, w, generator=generator(29))
        assert degrade(hq, generator=generator(30)).shape == (3, 3, h // 4, w // 4)
    assert degrade(torch.zeros(0, 3, 16, 16), generator=generator(31)).shape == (0, 3, 4, 4)


def test_no_gradient_and_other_float_types(batch: Tensor) -> None:
    lq = degrade(batch.double().requires_grad_(), generator=generator(32))
    assert not lq.requires_grad
    assert torch.equal(lq, degrade(batch, generator=generator(32)))


@pytest.mark.parametrize(
    ("hq", "scale", "message"),
    [
        (torch.rand(3, 16, 16), 4, r"shape \(3, 16, 16\) .* need \(B, 3, H, W\)"),
        (torch.rand(1, 1, 16, 16), 4, r"need \(B, 3, H, W\)"),
        (torch.rand(1, 3, 18, 16), 4, "hq is 18×16, need multiples of scale 4"),
        (torch.rand(1, 3, 16, 18), 4, "hq is 16×18, need multiples of scale 4"),
        (torch.rand(1, 3, 0, 16), 4, "hq is 0×16"),
        (torch.rand(1, 3, 16, 16), 0, "scale 0, which is 1 or more"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.uint8), 4, "is torch.uint8, need .* floating point"),
        (torch.full((1, 3, 16, 16), 200.0), 4, r"values in \[200, 200\], need \[0, 1\]"),
        (torch.full((1, 3, 16, 16), float("nan")), 4, r"values in \[nan, nan\]"),
    ],
)
def test_wrong_input_is_named(hq: Tensor, scale: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        degrade(hq, generator=generator(), scale=scale)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_gives_the_cpus_pictures(batch: Tensor) -> None:
    cpu = degrade(batch, generator=generator(33))
    cuda = degrade(batch.cuda(), generator=generator(33)).cpu()
    assert (cpu - cuda).abs().mean() < 1 / 255  # rounding may tip a JPEG coefficient
    with pytest.raises(RuntimeError, match="generator"):
        degrade(batch, generator=torch.Generator("cuda"))


# ---- the panel's picture


@pytest.mark.parametrize("order", ["first", "second"])
def test_the_view_shows_what_the_settings_say(order: str) -> None:
    pytest.importorskip("matplotlib")
    from itersr.lab.widgets import degradation_view

    settings = {"sigma": 1.0, "factor": 0.5, "noise": 4.0, "quality": 60, "order": order, "seed": 0}

    def pictures(**changes: object) -> list[np.ndarray]:
        figure = degradation_view(photo(64)[0], **{**settings, **changes})  # type: ignore[arg-type]
        return [np.asarray(axis.images[0].get_array()) for axis in figure.axes]

    hq, blurred, small, noisy, coded, lq = pictures()
    assert hq.shape == blurred.shape == (64, 64, 3) and small.shape == noisy.shape == coded.shape == (32, 32, 3)
    assert lq.shape == (16, 16, 3)
    assert np.array_equal(lq, pictures()[5])
    for change in ({"sigma": 3.0}, {"factor": 0.2}, {"noise": 20.0}, {"quality": 30}, {"seed": 1}):
        assert not np.array_equal(lq, pictures(**change)[5]), change
    with pytest.raises(ValueError, match="'third'"):
        pictures(order="third")


def test_the_panel_moves() -> None:
    widgets = pytest.importorskip("ipywidgets")
    from itersr.lab.widgets import degradation_panel

    panel = degradation_panel({"photo": photo(64)[0]})
    controls, shown = panel.children
    before = bytes(shown.value)
    next(c for c in controls.children if isinstance(c, widgets.IntSlider)).value = 31
    assert bytes(shown.value) != before and bytes(shown.value).startswith(b"\x89PNG")
