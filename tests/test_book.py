"""The course as a site: what becomes of links, what the link check finds, and two pages in a browser."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests import book

KNOWN = {Path("README.md"), Path("notebooks/01_degradation.ipynb"), Path("figures/00_map.png")}


@pytest.mark.parametrize(("text", "page", "wanted"), [
    ("[01](notebooks/01_degradation.ipynb)", "README.md", "[01](notebooks/01_degradation.ipynb)"),
    ("[01](01_degradation.ipynb#kernels)", "notebooks/00_start_here.ipynb", "[01](01_degradation.ipynb#kernels)"),
    ("see [config.py](itersr/config.py)", "README.md", "see config.py"),
    ("[a](https://example.org/x.py) [b](#below)", "README.md", "[a](https://example.org/x.py) [b](#below)"),
    ("![map](figures/nowhere.png)", "README.md", "![map](figures/nowhere.png)"),
    ("[out](../../x.md)", "notebooks/00_start_here.ipynb", "out"),
])
def test_links_that_leave_the_book_become_text(text: str, page: str, wanted: str) -> None:
    assert book.inside(text, Path(page), KNOWN) == wanted


def test_every_notebook_is_a_chapter_and_none_is_named_twice() -> None:
    contents = book.contents(book.pages())
    for page in sorted((book.ROOT / "notebooks").glob("[0-9][0-9]_*.py")):
        assert contents.count(f"file: notebooks/{page.stem}\n") == 1
    assert "root: README" in contents and "title: 'Weights: tiny'" in contents


def test_the_link_check_finds_what_is_broken(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text('<h1 id="top">A</h1><a href="b.html#there">b</a><a href="https://example.org/x">x</a>')
    (tmp_path / "b.html").write_text('<h1 id="there">B</h1><a href="a.html#top">a</a>')
    assert list(book.broken(tmp_path)) == []
    (tmp_path / "b.html").write_text('<h1>B</h1><a href="c.html">c</a><img src="d.png">')
    assert list(book.broken(tmp_path)) == [
        "a.html: b.html#there names no place of that page", "b.html: c.html leads nowhere", "b.html: d.png leads nowhere"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built book; skipped where its environment cannot be installed."""
    out = tmp_path_factory.mktemp("site") / "book"
    try:
        assert book.main([str(out)]) == 0
    except (subprocess.CalledProcessError, OSError) as error:
        pytest.skip(f"the book's environment cannot be installed here: {error}")
    return out


@pytest.mark.slow
def test_two_pages_in_a_browser(site: Path) -> None:
    """The start page and a notebook: one leads to the other, pictures are there, dark mode and search work, nothing fails."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--allow-file-access-from-files"])
        page, wrong = browser.new_page(), list[str]()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto((site / "index.html").as_uri())
        page.get_by_role("link", name="04 · The refiner").first.click()
        assert page.url.endswith("notebooks/04_refiner.html")
        missing = page.evaluate("[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)")
        assert not missing, missing
        assert page.locator("img").count() > 5
        before = page.evaluate("document.documentElement.dataset.theme")
        page.locator("button.theme-switch-button:visible").first.click()
        page.locator("button.theme-switch-button:visible").first.click()
        after = page.evaluate("document.documentElement.dataset.theme")
        assert {before, after} <= {"light", "dark"} and page.evaluate("document.documentElement.dataset.mode") is not None
        page.goto((site / "search.html").as_uri() + "?q=codebook")
        page.wait_for_selector("#search-results li", timeout=30_000)
        assert [error for error in wrong if "THEBE_JS_URL" not in error] == []  # sphinx-thebe declares that twice
        browser.close()
