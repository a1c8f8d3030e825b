"""Colour correction, measured: `python -m tests.benchmarks.bench_color [--tier tiny] [--data kodak24] [--count 24]`.

Crops of photos, degraded as the tier was trained, upscaled once, then corrected in every way: PSNR, LPIPS (where its weights
are at hand) and the drift of the mean colours of 32×32 blocks, with the paired difference to no correction. Also the same
weights in bfloat16, next to another seed, as a measure of how visible that is.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from itersr import pictures
from itersr.degradation import MILD, PUBLISHED, degrade
from itersr.lab import metrics
from itersr.model import ITER
from itersr.upscaling.read import image_files, read


def drift(image: Tensor, reference: Tensor, block: int = 32) -> Tensor:
    """Mean absolute difference of the mean colours of blocks of `block`² pixels, (B,): how far colours have drifted."""
    return F.avg_pool2d(image - reference, min(block, *image.shape[-2:])).abs().mean((1, 2, 3))


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench_color")
    parser.add_argument("--tier", default=None)
    parser.add_argument("--data", type=Path, help="a folder of photos (default: the test photos inside scikit-image)")
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--side", type=int, default=256, help="of the crops, in pixels")
    args = parser.parse_args()
    model = ITER.from_pretrained(args.tier)
    photos = [read(path).tensor for path in image_files(args.data)] if args.data else list(pictures.bundled().values())
    names = [n for n in ("psnr", "lpips") if metrics.available(n)]
    half = ITER(model.tier)
    half.load_state_dict(model.state_dict())
    half.ready(model.device).bfloat16()

    ranges = MILD if model.tier.degradation == "mild" else PUBLISHED
    rows: dict[str, list[list[float]]] = {}
    for i, photo in enumerate(photos[: args.count]):
        top, left = ((s - args.side) // 2 for s in photo.shape[-2:])
        hq = photo[None, :, top : top + args.side, left : left + args.side]
        lq = degrade(hq, generator=torch.Generator().manual_seed(i), scale=model.tier.scale, ranges=ranges)
        raw = model.restore(lq, seed=i).image.cpu()
        results = {"none": raw, "adain": pictures.match_colors(raw.clone(), lq, "adain")}
        for levels in range(5):
            results[f"wavelet {levels}"] = pictures.match_colors(raw.clone(), lq, "wavelet", levels)
        results |= {"bf16": half.restore(lq, seed=i).image.cpu(), "other seed": model.restore(lq, seed=i + 1000).image.cpu()}
        for name, result in results.items():
            values = [float(metrics.score(n, result, hq)) for n in names] + [float(drift(result, hq)) * 255]
            rows.setdefault(name, []).append([*values, float((result - raw).abs().mean()) * 255])
    columns = [*names, "drift /255", "change /255"]
    count = len(rows["none"])
    print(f"{model.tier.name}, {count} crops of {args.side}²; mean (paired difference to none ± 1.96 standard errors)")
    print(f"{'':12}" + "".join(f"{c:>28}" for c in columns))
    none = torch.tensor(rows["none"])
    for name, values in rows.items():
        x = torch.tensor(values)
        d = x - none
        error = 1.96 * d.std(0) / len(d) ** 0.5
        cells = (f"{m:10.4f} ({a:+.4f} ± {e:.4f})" for m, a, e in zip(x.mean(0), d.mean(0), error, strict=True))
        print(f"{name:12}" + "".join(f"{c:>28}" for c in cells))


if __name__ == "__main__":
    main()
