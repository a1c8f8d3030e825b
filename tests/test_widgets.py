"""The widgets: the pure views over a grid of settings, the panels without a browser, and the restoration panel in one."""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from itersr import pictures
from itersr.config import tier
from itersr.lab import widgets
from itersr.lab.reproduce import ROOT
from itersr.masking import POLICIES
from itersr.model import ITER
from itersr.schedule import tokens_to_keep

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def made_up_model() -> ITER:
    """The smoke tier with random weights, large enough in φ_e's last layer that its judgements differ from place to place."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ITER(tier("smoke")).eval().requires_grad_(False)
    model.evaluator.head.weight *= 8
    model.refiner.head.weight *= 8
    return model


@pytest.fixture(scope="module")
def model() -> ITER:
    return made_up_model()


@pytest.fixture(scope="module")
def photo() -> torch.Tensor:
    return torch.rand(3, 16, 24, generator=torch.Generator().manual_seed(1))


def words(figure: object) -> str:
    """All text of a figure, its titles included."""
    from matplotlib.text import Text

    return "\n".join(text.get_text() for text in figure.findobj(Text))  # type: ignore[attr-defined]


# Restoration ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("alpha", "steps", "step", "policy"), [
    *((0.5, 8, 2, policy) for policy in POLICIES),
    (0.0, 8, 3, "evaluator"), (0.5, 1, 1, "topk"), (1.0, 4, 0, "evaluator"), (1.0, 4, 99, "random"),
])  # fmt: skip
def test_restoration_view_over_settings(model: ITER, photo: torch.Tensor, alpha: float, steps: int, step: int,
                                        policy: str) -> None:
    figure = widgets.restoration_view(model, photo, alpha, steps, policy, seed=3, step=step)
    trace = model.restore(photo[None], alpha=alpha, steps=steps, policy=policy, seed=3)
    n, taken = trace.restored.tokens[0].numel(), len(trace.restored.steps)
    shown = min(step, taken)
    kept = tokens_to_keep(taken - shown, steps, n) if shown else int(trace.restored.condition_keep.sum())
    said = words(figure)
    assert f"T_s = {int(trace.start)}" in said and f"step {shown} of {taken}" in said and f"kept {kept} of {n}" in said
    picture = Image.open(io.BytesIO(widgets.png(figure)))
    assert picture.size == (800, 460) and len(picture.convert("RGB").getcolors(1 << 20) or []) > 100


def test_restoration_view_is_pure(model: ITER, photo: torch.Tensor) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def seen(**changed: object) -> bytes:
        settings = {"alpha": 0.5, "steps": 4, "policy": "evaluator", "seed": 0, "step": 2, **changed}
        return widgets.png(widgets.restoration_view(model, photo, **settings))  # type: ignore[arg-type]

    first = seen()
    assert seen() == first
    for changed in ({"alpha": 0.9}, {"steps": 6}, {"policy": "topk"}, {"seed": 1}, {"step": 1}):
        assert seen(**changed) != first, changed
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_restoration_view_shows_the_reference_and_compares_with_it(model: ITER, photo: torch.Tensor) -> None:
    hq = torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(2))
    alone = widgets.restoration_view(model, photo, 0.5, 4, "evaluator", 0, 2)
    compared = widgets.restoration_view(model, photo, 0.5, 4, "evaluator", 0, 2, reference=hq)
    assert "HQ" in words(compared) and "psnr" in words(compared)
    assert "HQ" not in words(alone) and "psnr" not in words(alone)


@pytest.mark.parametrize(("changed", "complaint"), [({"step": -1}, "step = -1"), ({"alpha": 2.0}, "alpha = 2.0"),
                                                    ({"policy": "best"}, "policy 'best'"), ({"steps": 0}, "steps = 0")])
def test_restoration_view_refuses(model: ITER, photo: torch.Tensor, changed: dict[str, object], complaint: str) -> None:
    settings = {"alpha": 0.5, "steps": 4, "policy": "evaluator", "seed": 0, "step": 0, **changed}
    with pytest.raises(ValueError, match=complaint):
        widgets.restoration_view(model, photo, **settings)  # type: ignore[arg-type]


def test_mask_states_tell_old_from_new(model: ITER, photo: torch.Tensor) -> None:
    trace = model.restore(photo[None], steps=6, alpha=1.0)
    n, before = trace.restored.tokens[0].numel(), 0
    for i in range(1, len(trace.restored.steps) + 1):
        states = widgets.mask_states(trace, i)
        k = tokens_to_keep(6 - i, 6, n)
        assert [int((states == value).sum()) for value in (0, 1, 2)] == [n - k, before, k - before]
        before = k
    assert not widgets.mask_states(trace, 0).any()


def test_example_pairs_are_fixed(model: ITER) -> None:
    pairs = widgets.example_pairs(model, side=64)
    assert list(pairs) == list(pictures.bundled("test"))
    for name, (lq, hq) in widgets.example_pairs(model, side=64).items():
        assert lq.shape == (3, 16, 16) and hq is not None and hq.shape == (3, 64, 64)
        assert torch.equal(lq, pairs[name][0])


def test_a_moved_control_makes_the_picture_anew(model: ITER, photo: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    restored, restore = [], ITER.restore
    monkeypatch.setattr(ITER, "restore", lambda self, *a, **k: restored.append(k) or restore(self, *a, **k))
    panel = widgets.restoration_panel(model, {"noise": (photo, None), "half": (photo / 2, None)})
    row, shown = panel.children
    *controls, status = row.children
    controls = {control.description: control for control in controls}
    assert list(controls) == ["photo", "α", "T", "policy", "temperature", "seed", "step"] and status.value == "done"
    assert controls["step"].value == 0, "the panel opens where all steps are still to come"
    changes = (("α", 1.0), ("T", 3), ("policy", "random"), ("temperature", 0.7), ("seed", 7), ("photo", "half"), ("step", 1))
    for count, (name, value) in enumerate(changes, 2):
        before = shown.value
        controls[name].value = value
        assert shown.value != before, name
        assert len(restored) == min(count, len(changes)), "a step of a restoration is looked at, not made anew"
    assert controls["step"].max == 3
    assert shown.value == widgets.png(widgets.restoration_view(model, photo / 2, 1.0, 3, "random", 7, 1, temperature=0.7))


# Before and after ----------------------------------------------------------------------------------------------------


def test_before_after_view_shows_each_side() -> None:
    g = torch.Generator().manual_seed(0)
    before, after = ((torch.rand(3, 20, 30, generator=g) * 255).round() / 255 for _ in range(2))

    def seen(position: float) -> torch.Tensor:
        return pictures.to_tensor(widgets.before_after_view(before, after, position))[0]

    assert torch.equal(seen(0), after) and torch.equal(seen(1), before)
    for position in (0.1, 0.5, 0.77):
        line = round(position * 30)
        assert torch.equal(seen(position)[:, :, : line - 1], before[:, :, : line - 1])
        assert torch.equal(seen(position)[:, :, line + 1 :], after[:, :, line + 1 :])
        assert (seen(position)[:, :, line] == 1).all() and (seen(position)[:, :, line - 1] == 0).all()


def test_before_after_view_enlarges_and_refuses() -> None:
    before, after = torch.full((3, 5, 6), 0.25), Image.new("RGB", (24, 20), "white")
    view = widgets.before_after_view(before, after, 1.0)
    assert view.size == (24, 20) and view.getpixel((3, 3)) == (64, 64, 64)
    with pytest.raises(ValueError, match=r"position is 1\.5"):
        widgets.before_after_view(before, after, 1.5)
    with pytest.raises(ValueError, match="before holds 2 pictures"):
        widgets.before_after_view(torch.zeros(2, 3, 4, 4), after, 0.5)


def test_before_after_slider_moves() -> None:
    slider = widgets.before_after_slider(torch.zeros(3, 8, 8), torch.ones(3, 8, 8))
    row, shown = slider.children
    before = shown.value
    row.children[0].value = 0.25
    assert shown.value != before
    assert shown.value == widgets.png(widgets.before_after_view(torch.zeros(3, 8, 8), torch.ones(3, 8, 8), 0.25))


# In a browser --------------------------------------------------------------------------------------------------------


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[str]:
    """JupyterLab on a copy of notebook 06, with smoke weights at hand: its address, token included."""
    notebooks, config, out = tmp_path / "notebooks", tmp_path / "config", tmp_path / "figures"
    notebooks.mkdir()
    shutil.copy(ROOT / "notebooks/06_adaptive_inference.ipynb", notebooks)
    trained = Path(os.environ.get("ITERSR_OUT", ROOT / "figures")) / "checkpoints" / "weights"
    if all((trained / f"{name}.safetensors").is_file() for name in ("vqgan", "lq_encoder", "refiner", "evaluator")):
        shutil.copytree(trained, out / "checkpoints/weights")
    else:  # how well the networks restore does not matter to the widget
        made_up_model().save(out / "checkpoints/weights")
    settings = config / "lab/user-settings/@jupyterlab"  # all cells in the page, wherever it is scrolled to; no pop-up
    for name, content in {"notebook-extension/tracker": {"windowingMode": "none"},
                          "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False}}.items():
        path = settings / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(content))

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = os.urandom(16).hex()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ITERSR_", "JUPYTER"))}
    environment |= {
        "ITERSR_OUT": str(out), "ITERSR_TIER": "smoke", "ITERSR_DEVICE": "cpu", "PYTHONPATH": str(ROOT),
        "JUPYTER_PREFER_ENV_PATH": "1",
        "JUPYTER_CONFIG_DIR": str(config), "JUPYTER_DATA_DIR": str(tmp_path / "data"), "IPYTHONDIR": str(tmp_path / "ipython"),
        "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime"),
    }
    log = (tmp_path / "lab.log").open("w")
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}",
         "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={notebooks}"],
        env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        for _ in range(600):
            if server.poll() is not None:
                pytest.fail(f"JupyterLab ended at once:\n{(tmp_path / 'lab.log').read_text()[-2000:]}")
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/lab/tree/06_adaptive_inference.ipynb?token={token}"
    finally:
        server.terminate()  # it ends its kernels, too
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        log.close()


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: apt-get install chromium")
@pytest.mark.skipif(not (ROOT / "notebooks/06_adaptive_inference.ipynb").exists(), reason="notebook 06 is not built")
def test_the_alpha_slider_changes_the_picture_in_a_browser(lab: str) -> None:
    """Open notebook 06 in JupyterLab, run all cells from the menu, drag the α slider, and see another picture."""
    from playwright.sync_api import expect, sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1300, "height": 1000})
        page.set_default_timeout(120_000)
        page.goto(lab)
        page.locator(".jp-Notebook .jp-CodeCell").first.wait_for()
        page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
        page.locator(".lm-MenuBar-itemLabel", has_text="Run").first.click()
        page.get_by_text("Run All Cells", exact=True).click()

        picture = page.locator("img.widget-image")
        picture.wait_for(timeout=900_000)  # every cell before the panel has run by then
        slider = page.locator(".widget-hslider", has=page.get_by_text("α", exact=True))
        handle, track = slider.locator(".noUi-handle"), slider.locator(".noUi-base")
        handle.scroll_into_view_if_needed()
        before, source = pixels(page), picture.get_attribute("src")
        expect(slider.locator(".widget-readout")).to_have_text("0.50")

        box = track.bounding_box()
        at = handle.bounding_box()
        assert box is not None and at is not None
        page.mouse.move(at["x"] + at["width"] / 2, at["y"] + at["height"] / 2)
        page.mouse.down()
        page.mouse.move(box["x"] + 0.9 * box["width"], at["y"] + at["height"] / 2, steps=5)
        page.mouse.up()
        expect(picture).not_to_have_attribute("src", source or "", timeout=240_000)
        assert float(slider.locator(".widget-readout").inner_text()) > 0.8
        assert pixels(page) != before
        assert page.locator('[data-mime-type="application/vnd.jupyter.error"]').count() == 0
        browser.close()


def pixels(page: object) -> list[int]:
    """The bytes of the panel's picture, as the browser has them."""
    code = "async () => { const r = await fetch(document.querySelector('img.widget-image').src);"
    code += " return Array.from(new Uint8Array(await r.arrayBuffer())) }"
    return page.evaluate(code)  # type: ignore[attr-defined, no-any-return]
