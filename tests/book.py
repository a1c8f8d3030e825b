"""The course as a site: `make book`, or `python -m tests.book [OUT]`; OUT/index.html is its first page.

The pages are the README, the executed notebooks as they stand, the pages beside them, and the model cards. jupyter-book 1
builds them, from an environment of its own (`requirements-book.lock`): it needs older packages than the course. Links that
leave the book (to code, to other files of the repository) become plain text in the copies that are built.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat

ROOT = Path(__file__).resolve().parents[1]
MARKDOWN_LINK = re.compile(r"(?<!!)\[([^\]\n]+)\]\(([^)\s]+)\)")
CONFIG = """title: itersr
author: the itersr developers
execute: {execute_notebooks: "off"}
only_build_toc_files: true
html: {use_edit_page_button: false, use_repository_button: false, use_issues_button: false}
sphinx:
  config:
    html_theme_options: {navbar_persistent: []}
    suppress_warnings: ["myst.header", "mystnb.unknown_mime_type", "myst.xref_missing"]
    html_show_copyright: false
parse: {myst_enable_extensions: [dollarmath, tasklist]}
"""


def guides() -> list[Path]:
    """The pages beside the notebooks; the table of symbols first."""
    return sorted((ROOT / "notebooks").glob("*.md"), key=lambda path: (path.stem != "symbols", path.stem))


def pages() -> list[Path]:
    """What the book shows, in order, relative to the repository; the first is its start page."""
    notebooks = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    cards = sorted((ROOT / "itersr" / "shipped").glob("*/MODEL_CARD.md"))
    found = [ROOT / "README.md", *notebooks, *guides(), *cards, ROOT / "CONTRIBUTING.md"]
    return [path.relative_to(ROOT) for path in found]


def inside(markdown: str, page: Path, known: set[Path]) -> str:
    """Markdown of a page without the links that lead to files of the repository that are no part of the book."""
    def kept(match: re.Match[str]) -> str:
        text, target = match.groups()
        path = target.partition("#")[0]
        if not path or urlsplit(target).scheme:
            return match[0]
        here = (ROOT / page.parent / path).resolve()
        return match[0] if here.is_relative_to(ROOT) and here.relative_to(ROOT) in known else text

    return MARKDOWN_LINK.sub(kept, markdown)


def write_sources(to: Path) -> None:
    """Copies of all pages, figures, the table of contents and the configuration: what jupyter-book reads."""
    shutil.rmtree(to, ignore_errors=True)
    order = pages()
    known = set(order) | {path.relative_to(ROOT) for path in (ROOT / "figures").glob("*.png")}
    for page in order:
        target = to / page
        target.parent.mkdir(parents=True, exist_ok=True)
        if page.suffix == ".md":
            target.write_text(inside((ROOT / page).read_text(encoding="utf-8"), page, known), encoding="utf-8")
            continue
        notebook = nbformat.read(ROOT / page, as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = inside(cell.source, page, known)
                continue
            for output in cell.get("outputs", []):  # what a cell displayed is not read as a page: its links stay as they are
                if text := output.get("data", {}).get("text/markdown"):
                    output.data["text/markdown"] = re.sub(r"\]\((\w+)\.ipynb", r"](\1.html", text)
            if {"solution", "parameters"} & set(cell.metadata.get("tags", [])):
                cell.metadata.tags = [*cell.metadata.tags, "hide-input"]
        nbformat.write(notebook, target)
    shutil.copytree(ROOT / "figures", to / "figures", ignore=shutil.ignore_patterns("results", "checkpoints", "*.json"))
    (to / "_config.yml").write_text(CONFIG, encoding="utf-8")
    (to / "_toc.yml").write_text(contents(order), encoding="utf-8")


def contents(order: list[Path]) -> str:
    """The table of contents as jupyter-book reads it: notebooks, then what one looks up."""
    lines = ["format: jb-book", f"root: {order[0].stem}", "parts:"]
    for caption, suffix in (("The course", ".ipynb"), ("To look up", ".md")):
        lines += [f"- caption: {caption}", "  chapters:"]
        for page in (page for page in order[1:] if page.suffix == suffix):
            lines.append(f"  - file: {page.with_suffix('')}")
            lines += [f"    title: 'Weights: {page.parent.name}'"] * (page.stem == "MODEL_CARD")
    return "\n".join(lines) + "\n"


class _Links(HTMLParser):
    """The targets of a page's links and pictures, and its anchors."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: set[str] = set()
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        self.anchors |= {value for name in ("id", "name") if (value := values.get(name))}
        for name in ("href", "src"):
            if (value := values.get(name)) and tag in ("a", "img", "link", "script"):
                self.targets.add(value)


def broken(site: Path) -> Iterator[str]:
    """Links and pictures of a built site that lead nowhere within it; links to other hosts are not followed."""
    read: dict[Path, _Links] = {}
    for page in sorted(page for page in site.rglob("*.html") if "_static" not in page.parts):
        read[page.resolve()] = _Links()
        read[page.resolve()].feed(page.read_text(encoding="utf-8"))
    for page, links in read.items():
        for target in sorted(links.targets):
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            file = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            if not file.exists():
                yield f"{page.relative_to(site.resolve())}: {target} leads nowhere"
            elif parts.fragment and file in read and unquote(parts.fragment) not in read[file].anchors:
                yield f"{page.relative_to(site.resolve())}: {target} names no place of that page"


def main(arguments: list[str] | None = None) -> int:
    out = Path((arguments or sys.argv[1:] or [ROOT / "build" / "book"])[0]).resolve()
    environment, lock = ROOT / "build" / "book-env", ROOT / "requirements-book.lock"
    builder = environment / "bin" / "jupyter-book"
    if not builder.exists() or lock.stat().st_mtime > builder.stat().st_mtime:
        uv = [sys.executable, "-m", "uv", "--quiet"]
        subprocess.run([*uv, "venv", "--clear", "--python", sys.executable, environment], check=True)
        subprocess.run([*uv, "pip", "install", "--python", environment / "bin" / "python", "-r", lock], check=True)
        builder.touch()
    sources = ROOT / "build" / "book-src"
    write_sources(sources)
    call = [builder, "build", "--quiet", "--path-output", sources / "made", sources]
    done = subprocess.run(call, capture_output=True, text=True)
    if done.returncode:
        print(done.stdout[-4000:], done.stderr[-4000:], file=sys.stderr)
        return 1
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(sources / "made" / "_build" / "html", out)
    if wrong := list(broken(out)):
        print("\n".join(wrong), file=sys.stderr)
        return 1
    print(f"open {out / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
