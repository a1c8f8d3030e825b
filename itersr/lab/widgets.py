"""Panels for the notebooks: a pure function from settings to a picture each, and a widget around it.

Tests run the pure function (`..._view`) over a grid of settings, and a notebook can show it where no kernel runs. The widget
gives it the values of its controls, and shows the picture as PNG bytes.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from itersr import degradation as deg
from itersr.config import as_defined
from itersr.lab import metrics
from itersr.masking import POLICIES
from itersr.model import ITER, Trace
from itersr.pictures import bundled, middle, resize, to_tensor
from itersr.training.data import ranges

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

Pair = tuple[Tensor, Tensor | None]  # an LQ image (3, h, w) and, where it is known, its HQ image (3, s·h, s·w)


def png(picture: Figure | Image) -> bytes:
    """A picture as the bytes of a PNG file: what `ipywidgets.Image` shows."""
    buffer = io.BytesIO()
    if hasattr(picture, "savefig"):
        picture.savefig(buffer, format="png", dpi=100)
    else:
        picture.save(buffer, format="png")
    return buffer.getvalue()


def _live(view: Callable[..., Figure | Image], controls: dict[str, Any]) -> Any:
    """Controls above the picture that `view(**their values)` makes; a moved control makes it anew, and says so meanwhile."""
    import ipywidgets

    shown, status = ipywidgets.Image(format="png"), ipywidgets.Label()

    def look(change: Any = None) -> None:
        status.value = "working …"
        shown.value = png(view(**{name: control.value for name, control in controls.items()}))
        status.value = "done"

    look()
    for control in controls.values():
        control.observe(look, names="value")
    rows = ipywidgets.HBox([*controls.values(), status], layout=ipywidgets.Layout(flex_flow="row wrap"))
    return ipywidgets.VBox([rows, shown])


def _one(picture: Any, name: str) -> Tensor:
    """One picture as (3, H, W) in [0, 1], on the CPU."""
    tensor = to_tensor(picture).detach().float().cpu().clamp(0, 1)
    if len(tensor) != 1:
        raise ValueError(f"{name} holds {len(tensor)} pictures, needed one")
    return tensor[0]


def _show(axis: Any, picture: Any, title: str, **options: Any) -> None:
    axis.imshow(_one(picture, title).permute(1, 2, 0).numpy(), **options)
    axis.set_title(title, fontsize=9)


def _middles(side: int) -> dict[str, Tensor]:
    """The middle side×side pixels of the bundled test photos."""
    return {name: middle(photo, side, side).contiguous() for name, photo in bundled("test").items()}


def before_after_view(before: Any, after: Any, position: float) -> Image:
    """Two pictures of one scene in one frame: `before` left of the line at `position`, `after` right of it.

    before, after: anything that `pictures.to_tensor` takes; `before` is resized bicubically to the size of `after`.
    position: from 0 (only `after`) to 1 (only `before`). ValueError outside, or for several pictures in a batch.
    """
    from torchvision.transforms.functional import to_pil_image

    if not 0 <= position <= 1:
        raise ValueError(f"position is {position}, needed from 0 to 1")
    left, right = _one(before, "before"), _one(after, "after")
    width = right.shape[-1]
    line = round(position * width)
    if left.shape != right.shape:
        left = resize(left, right.shape[-2:])
    wiped = torch.cat([left[:, :, :line], right[:, :, line:]], 2)
    if 0 < line < width:  # a white line with a dark edge is seen on every photo
        wiped[:, :, line] = 1
        wiped[:, :, line - 1] = 0
    return to_pil_image((wiped * 255).round().to(torch.uint8))


def before_after_slider(before: Any, after: Any) -> Any:
    """`before_after_view` with a slider for the position: an ipywidgets box."""
    import ipywidgets

    position = ipywidgets.FloatSlider(value=0.5, min=0, max=1, step=0.01, description="position", readout=False,
                                      layout=ipywidgets.Layout(width="480px"))
    return _live(lambda position: before_after_view(before, after, position), {"position": position})


MASKED, KEPT, NEW = "#e4e4e4", "#2f6690", "#f4a259"  # masked; kept already; kept since this step


def restoration_view(model: ITER, photo: Tensor, alpha: float, steps: int, policy: str, seed: int, step: int,
                     reference: Tensor | None = None, temperature: float = 1.0) -> Figure:
    """One restoration by Alg. 2, seen after `step` of its steps: pictures above, masks, scores and metrics below.

    photo: an LQ image (3, h, w) or (1, 3, h, w) in [0, 1]. alpha, steps, policy, seed, temperature: of the preset "paper".
    step: how many steps have been taken, 0 is S_l before any; above T_s the last one is shown.
    reference: the HQ image, if known: it is shown, and the metrics compare with it.
    ValueError for a wrong setting (see `Sampler`) or a negative step.
    """
    lq = to_tensor(photo)
    trace = model.restore(lq, preset="paper", steps=steps, alpha=alpha, policy=policy, temperature=temperature, seed=seed)
    return trace_view(model, lq, trace, step, reference)


def trace_view(model: ITER, lq: Tensor, trace: Trace, step: int, reference: Tensor | None = None) -> Figure:
    """`restoration_view` of a restoration of `lq` (1, 3, h, w) that has been made."""
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure

    if step < 0:
        raise ValueError(f"step = {step}: needed 0 (S_l) or more")
    sampler, taken = trace.sampler, trace.restored.steps
    step = min(step, len(taken))
    mask, score = mask_states(trace, step), taken[step - 1].score if step else judged_start(model, lq, trace)
    stages = {"S_l": trace.at(0), "step": trace.at(step), "result": trace.image}
    target = None if reference is None else to_tensor(reference)

    figure = Figure(figsize=(8, 4.6), layout="constrained")
    title = f"α = {sampler.alpha:.2f}   T = {sampler.steps}   T_s = {int(trace.start)}   {sampler.policy}"
    figure.suptitle(f"{title}   step {step} of {len(taken)}", fontsize=10)
    above, (kept, judged, truth, words) = figure.subplots(2, 4)
    _show(above[0], resize(lq[0].cpu(), trace.image.shape[-2:]), "LQ, bicubic")
    for axis, title, picture in zip(above[1:], ("S_l decoded", f"after step {step}", "result"), stages.values(), strict=True):
        _show(axis, picture, title)

    kept.imshow(mask.numpy(), cmap=ListedColormap([MASKED, KEPT, NEW]), vmin=0, vmax=2, interpolation="nearest")
    kept.set_title(f"kept {int((mask > 0).sum())} of {mask.numel()}", fontsize=9)
    if score is None:
        judged.text(0.5, 0.5, "no score:\nnothing was\nto be chosen", ha="center", va="center", fontsize=9)
        judged.set_title("score", fontsize=9)
    else:
        judged.imshow(score[0].exp().float().cpu().numpy(), vmin=0, vmax=1, cmap="viridis", interpolation="nearest")
        by = "φ_e: p(good)" if POLICIES[sampler.policy][0] == "evaluator" or not step else "φ_r: p(token)"
        judged.set_title(f"{by}, 0 dark, 1 bright", fontsize=9)
    if target is not None:
        _show(truth, target, "HQ")
    words.text(0, 1, _measured(stages, target), va="top", fontsize=8, family="monospace")
    words.text(0, 0.4, "kept:\n■ before this step", color=KEPT, va="top", fontsize=8)
    words.text(0, 0.22, "■ in this step", color=NEW, va="top", fontsize=8)
    for axis in figure.axes:
        axis.set(xticks=[], yticks=[])
    words.axis("off")
    if target is None:
        truth.axis("off")
    return figure


def judged_start(model: ITER, lq: Tensor, trace: Trace) -> Tensor:
    """φ_e's log p(good) for every token of S_l, (1, h, w), of which α makes m_s (Eq. 6)."""
    s_l = trace.restored.condition
    return model.functions(model.log_posterior(model.pad(lq.to(model.device))))[1](s_l, s_l)


def mask_states(trace: Trace, step: int) -> Tensor:
    """The tokens of a single image after `step` steps, (h, w): 0 masked, 1 kept already, 2 kept since this step."""
    kept = [trace.restored.condition_keep, *(s.keep for s in trace.restored.steps)]
    now, before = kept[step][0].cpu(), kept[max(step - 1, 0)][0].cpu()
    return now.long() + (now & ~before)


def _measured(stages: Mapping[str, Tensor], target: Tensor | None) -> str:
    """A small table of the metrics that this machine can compute."""
    lines = [f"{'':8}" + "".join(f"{name:>7}" for name in stages)[1:]]
    for name in ("psnr", "ssim", "lpips", "niqe"):
        metric = metrics.find(name)
        fits = min(stages["result"].shape[-2:]) >= metric.smallest and (target is not None or not metric.needs_reference)
        if fits and metrics.available(name):
            digits = 1 if name in ("psnr", "niqe") else 3
            values = [float(metrics.score(name, picture, target)) for picture in stages.values()]
            lines.append(f"{name} {'↓' if metric.lower_better else '↑'}".ljust(7) + "".join(f"{v:7.{digits}f}" for v in values))
    return "\n".join(lines)


def example_pairs(model: ITER, side: int = 192, seed: int = 0) -> dict[str, Pair]:
    """The bundled test photos as the panel shows them: their middle, `side` HQ pixels, degraded as the tier was trained."""
    tier = model.tier
    pairs: dict[str, Pair] = {}
    for name, hq in _middles(side).items():
        generator = torch.Generator().manual_seed(seed)
        lq = deg.degrade(hq[None], generator=generator, scale=tier.scale, ranges=ranges(tier.degradation))
        pairs[name] = (lq[0], hq)
    return pairs


def restoration_panel(model: ITER, photos: Mapping[str, Pair] | None = None) -> Any:
    """`restoration_view` with a control for each setting. photos: those of `example_pairs`, or others by name."""
    import ipywidgets

    pairs = photos or example_pairs(model)
    T = as_defined(model.tier).steps
    adaptive = "rocket" if "rocket" in pairs else next(iter(pairs))  # a photo that starts below T
    controls = {
        "photo": ipywidgets.Dropdown(options=list(pairs), value=adaptive, description="photo"),
        "alpha": ipywidgets.FloatSlider(value=0.5, min=0, max=1, step=0.05, description="α", continuous_update=False),
        "steps": ipywidgets.IntSlider(value=T, min=1, max=16, description="T", continuous_update=False),
        "policy": ipywidgets.Dropdown(options=list(POLICIES), description="policy"),
        "temperature": ipywidgets.FloatSlider(value=as_defined(model.tier).temperature, min=0, max=1.5, step=0.05,
                                              description="temperature", continuous_update=False),
        "seed": ipywidgets.BoundedIntText(value=0, min=0, max=999, description="seed"),
        "step": ipywidgets.IntSlider(value=0, min=0, max=T, description="step", continuous_update=False),
    }
    last: dict[Any, Trace] = {}  # the steps of one restoration are looked at, not made anew

    def view(photo: str, step: int, **settings: Any) -> Figure:
        lq, hq = to_tensor(pairs[photo][0]), pairs[photo][1]
        key = (photo, *settings.values())
        if key not in last:
            last.clear()
            last[key] = model.restore(lq, preset="paper", **settings)
            controls["step"].max = int(last[key].start)
        return trace_view(model, lq, last[key], step, hq)

    return _live(view, controls)


def degradation_view(photo: Tensor, sigma: float, factor: float, noise: float, quality: int, order: str, seed: int) -> Figure:
    """One photo through a chosen degradation, ×4: HQ, after each step, and the LQ image.

    photo: an HQ image (3, H, W) in [0, 1], H and W multiples of 4. sigma: width of an isotropic Gaussian blur, in pixels.
    factor: of resizing. noise: σ of colour noise, in 1/255, and its seed. quality: of the JPEG.
    order: "first" (blur, resize, noise, JPEG) or "second" (the same twice).
    ValueError for another order, or a setting that the degradation refuses.
    """
    from matplotlib.figure import Figure

    if order not in ("first", "second"):
        raise ValueError(f'order is {order!r}, needed "first" or "second"')
    kernel = deg.Kernel("iso", 21, sigma_x=sigma, sigma_y=sigma)
    once = deg.Order(kernel, factor, "bilinear", deg.Noise("gaussian", noise, grey=False, seed=seed))
    draw = deg.Draw(once, quality, once if order == "second" else None, "area", None, True, quality)
    hq = photo[None]
    blurred = deg.blur(hq, deg.kernel_weights(kernel))
    height, width = hq.shape[-2:]
    smaller = deg.resize(blurred, (max(1, int(height * factor)), max(1, int(width * factor))), "bilinear")
    noisy = deg.add_noise(smaller, once.noise)
    steps = {
        "HQ": hq, f"blur, σ = {sigma:g}": blurred, f"resize × {factor:g}": smaller, f"noise, σ = {noise:g}": noisy,
        f"JPEG {quality}": deg.jpeg(noisy, quality), f"LQ after the {order} order": deg.apply(hq, [draw]),
    }  # fmt: skip
    figure = Figure(figsize=(8, 5.4), layout="constrained")
    for axis, (title, picture) in zip(figure.subplots(2, 3).flat, steps.items(), strict=True):
        _show(axis, picture.clamp(0, 1), f"{title}, {picture.shape[-1]}×{picture.shape[-2]}", interpolation="nearest")
        axis.axis("off")
    return figure


def degradation_panel(photos: Mapping[str, Tensor] | None = None) -> Any:
    """`degradation_view` with a control for each setting. photos: the middle of the bundled test photos, or others by name."""
    import ipywidgets

    chosen = photos or _middles(192)

    def slider(label: str, value: float, low: float, high: float, step: float) -> Any:
        return ipywidgets.FloatSlider(value=value, min=low, max=high, step=step, description=label, continuous_update=False)

    controls = {
        "photo": ipywidgets.Dropdown(options=list(chosen), description="photo"),
        "sigma": slider("blur σ", 1.5, 0.2, 3.0, 0.1),
        "factor": slider("resize ×", 0.6, 0.15, 1.5, 0.05),
        "noise": slider("noise σ", 8, 0, 30, 1),
        "quality": ipywidgets.IntSlider(value=60, min=30, max=95, description="JPEG", continuous_update=False),
        "order": ipywidgets.Dropdown(options=["first", "second"], description="order"),
        "seed": ipywidgets.BoundedIntText(value=0, min=0, max=999, description="seed"),
    }
    return _live(lambda photo, **settings: degradation_view(chosen[photo], **settings), controls)
