"""LQ images a second: the module beside a plain loop over images written with NumPy and OpenCV, on the same draws.

    python -m tests.benchmarks.bench_degradation [--size 256] [--batch 16] [--seconds 5]

The rows take turns, so that a busy machine slows all of them alike; the best turn of each counts.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import cv2
import numpy as np
import skimage.data
import torch
from torch import Tensor

from itersr.degradation import MILD, Draw, Kernel, Noise, Order, apply, draw, kernel_weights

CODES = {"area": cv2.INTER_AREA, "bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}


def photos(batch: int, size: int) -> Tensor:
    """Crops of bundled photos, (batch,3,size,size) in [0, 1]."""
    crops = []
    for i in range(batch):
        pixels = (skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea())[i % 3]
        top, left = (17 * i) % max(1, pixels.shape[0] - size), (29 * i) % max(1, pixels.shape[1] - size)
        crops.append(torch.from_numpy(pixels[top : top + size, left : left + size].copy()))
    return torch.stack(crops).permute(0, 3, 1, 2).float().div(255).contiguous()


def plain_loop(hq: Tensor, draws: list[Draw], scale: int = 4) -> np.ndarray:
    """The same chain an image at a time, the way a first version is written."""
    return np.stack([plain(image.permute(1, 2, 0).numpy(), d, scale) for image, d in zip(hq, draws, strict=True)])


def plain(image: np.ndarray, d: Draw, scale: int) -> np.ndarray:
    h, w = image.shape[0] // scale, image.shape[1] // scale

    def filtered(image: np.ndarray, kernel: Kernel | None) -> np.ndarray:
        return image if kernel is None else cv2.filter2D(image, -1, kernel_weights(kernel).numpy())

    def order(image: np.ndarray, o: Order, h: int, w: int) -> np.ndarray:
        size = max(1, int(w * o.factor)), max(1, int(h * o.factor))
        return noisy(cv2.resize(filtered(image, o.kernel), size, interpolation=CODES[o.interpolation]), o.noise)

    image = order(image, d.first, scale * h, scale * w)
    if d.second is not None:
        image = order(coded(image, d.jpeg_first), d.second, h, w)
    if not d.jpeg_after:
        image = coded(image, d.jpeg_last)
    image = filtered(cv2.resize(image, (w, h), interpolation=CODES[d.interpolation]), d.sinc)
    if d.jpeg_after:
        image = coded(image, d.jpeg_last)
    return (image.clip(0, 1) * 255).round() / 255


def noisy(image: np.ndarray, noise: Noise) -> np.ndarray:
    random = np.random.default_rng(noise.seed)
    if noise.kind == "gaussian":
        field = random.standard_normal(image.shape[:2] + ((1,) if noise.grey else (3,))) * noise.strength / 255
    else:
        levels = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None] if noise.grey else image
        levels = (levels * 255).round().clip(0, 255) / 255
        photons = 2 ** np.ceil(np.log2(len(np.unique(levels))))
        field = (random.poisson(levels * photons) / photons - levels) * noise.strength
    return (image + field).clip(0, 1).astype(np.float32)


def coded(image: np.ndarray, quality: int) -> np.ndarray:
    pixels = (image * 255).round().clip(0, 255).astype(np.uint8)
    file = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.asarray(cv2.imdecode(file, cv2.IMREAD_COLOR))[..., ::-1].astype(np.float32) / 255


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=5, help="for each row")
    args = parser.parse_args()

    hq, threads = photos(args.batch, args.size), torch.get_num_threads()
    generator = torch.Generator().manual_seed(0)
    published = [draw(args.batch, generator=generator) for _ in range(8)]
    mild = [draw(args.batch, generator=generator, ranges=MILD) for _ in range(8)]

    def module(draws: list[Draw], threads: int) -> None:
        torch.set_num_threads(threads)
        apply(hq, draws)

    rows: dict[str, tuple[Callable[[list[Draw]], object], list[list[Draw]]]] = {
        "plain loop, NumPy and OpenCV": (lambda d: plain_loop(hq, d), published),
        "itersr, 1 thread": (lambda d: module(d, 1), published),
        f"itersr, {threads} threads": (lambda d: module(d, threads), published),
        f"itersr, {threads} threads, MILD": (lambda d: module(d, threads), mild),
    }
    best = dict.fromkeys(rows, 0.0)
    for run, draws in rows.values():
        run(draws[0])  # warm up
    end = time.perf_counter() + args.seconds * len(rows)
    while time.perf_counter() < end:
        for name, (run, draws) in rows.items():
            start = time.perf_counter()
            for d in draws:  # the same eight batches each turn
                run(d)
            best[name] = max(best[name], args.batch * len(draws) / (time.perf_counter() - start))
    print(f"degradation, {args.size}x{args.size} inputs, batch {args.batch}: LQ images a second (aim: 120 on 2 cores)")
    reference = next(iter(best.values()))
    for name, rate in best.items():
        print(f"  {name:32s} {rate:7.1f}   x{rate / reference:.2f}")


if __name__ == "__main__":
    main()
