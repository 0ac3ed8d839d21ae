"""All pages of the site, its search index, and a check of its links."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from docs.site import gallery, reference
from docs.site.markdown import heading_of, to_html
from docs.site.page import SECTIONS, Page, text_of
from rislab import files
from rislab.checkup.findings import UNJUDGED
from rislab.checkup.rule import Rule
from rislab.checkup.rules import RULES
from rislab.reports import html_export, notebooks, rule_pages

DOCS = Path(__file__).resolve().parents[1]
STATIC = Path(__file__).parent / "static"
ROOT = DOCS.parent
INDEXED = 3000  # characters of a page that the search knows


def build(out: Path, *, write_rules: Callable[[Path], Path] = rule_pages.write_rule_pages) -> Path:
    """Write the site; returns the path of its first page.

    Args:
        out: folder of the site.
        write_rules: writes the pages of the rules into a folder.
    """
    pages = [*tutorials(), *written("howto"), *written("explanation"), conventions(), *reference.pages()]
    pages += [*gallery.pages(), *rules(out, write_rules)]
    for page in (*pages, first_page(pages)):
        files.replace(out / page.path, page.html(pages).encode())
    assets = out / "assets"
    pictures = [DOCS / "conventions.svg", DOCS.parent / "reports" / "overview.png"]
    for path in [*STATIC.iterdir(), html_export.STATIC / "figures.js", *pictures]:
        files.replace(assets / path.name, path.read_bytes())
    from plotly.offline import get_plotlyjs

    files.replace(assets / "plotly.js", get_plotlyjs().encode())
    files.replace(assets / "index.js", f"const PAGES = {json.dumps(search_index(pages))};\n".encode())
    return out / "index.html"


def tutorials() -> list[Page]:
    """The notebooks; with results where a report of today's cells lies in reports/out, else without."""
    made = []
    for name, path in notebooks.available().items():
        executed = ROOT / "reports" / "out" / f"{name}.ipynb"
        source, note = path, "none here; rislab report makes a page with them"
        if executed.exists() and sources(executed) >= sources(path):
            source, note = executed, "those of its last report"
        with tempfile.TemporaryDirectory() as scratch:
            page = Path(scratch) / "page.html"
            header = {"results": note}
            html_export.export_html(source, page, title=path.stem, header=header, folder=path.parent)
            body, style = inner(page.read_text(encoding="utf-8"))
        body = body.replace("../docs/conventions.md", "../explanation/conventions.html")
        body = re.sub(r'href="(\w+)\.ipynb', r'href="\1.html', body)
        if source == path:
            body = body.replace("<details><summary>code", "<details open><summary>code")
        made.append(Page(f"tutorials/{path.stem}.html", heading_of(body) or path.stem, "tutorials", body, style))
    return made


def sources(path: Path) -> set[str]:
    """The code of a notebook's cells, its parameters left out."""
    cells = notebooks.read_notebook(path).cells
    return {
        cell.source for cell in cells if cell.cell_type == "code" and "parameters" not in cell.metadata.get("tags", [])
    }


def written(section: str) -> list[Page]:
    """Pages that are written by hand, in Markdown."""
    return [
        _of_markdown(path, f"{section}/{path.stem}.html", section) for path in sorted((DOCS / section).glob("*.md"))
    ]


def conventions() -> Page:
    """Signs, axes and orders."""
    return _of_markdown(DOCS / "conventions.md", "explanation/conventions.html", "explanation")


def _of_markdown(path: Path, target: str, section: str) -> Page:
    body = to_html(path.read_text(encoding="utf-8"), target)
    return Page(target, heading_of(body), section, body)


def rules(out: Path, write_rules: Callable[[Path], Path]) -> list[Page]:
    """A page for each rule of the checkup, in the frame of the site."""
    folder = out / "rules"
    shutil.rmtree(folder, ignore_errors=True)
    write_rules(folder)
    made = []
    for name in ("index", *RULES):
        body, style = inner((folder / f"{name}.html").read_text(encoding="utf-8"))
        found = findings_of(RULES[name]) if name in RULES else {}
        made.append(Page(f"rules/{name}.html", heading_of(body), "rules", body, style, found, listed=name == "index"))
    return made


def findings_of(rule: Rule) -> dict[str, str]:
    """What a rule may find, each with its fix."""
    return {name: f"{rule.code}: {fix}" for name, fix in rule.fixes.items() if name != UNJUDGED}


def inner(html: str) -> tuple[str, str]:
    """Body and style of a page of ours, to be put into the frame of the site."""
    body, style = re.search(r"<main>\n(.*)\n</main>", html, re.S), re.search(r"<style>\n(.*?)</style>", html, re.S)
    if body is None or style is None:
        raise ValueError("this is no page of rislab.reports.html_export")
    common = html_export.static_text("page.css")
    return body[1], style[1].removeprefix(common)


def first_page(pages: list[Page]) -> Page:
    """Where a reader begins: the first screen of the README, then the kinds of pages, each with its list."""
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    blocks = [match.end() for match in re.finditer(r"^```.*?^```\n", readme, re.S | re.M)]
    parts = [to_html(readme[: blocks[1]], "index.html"), '<div class="kinds">']
    for section, (title, what) in SECTIONS.items():
        links = [
            f'<li><a href="{page.path}">{page.title}</a></li>'
            for page in pages
            if page.section == section and page.listed
        ]
        parts.append(f"<section><h2>{title}</h2><p>{what}</p><ul>{''.join(links)}</ul></section>")
    return Page("index.html", "rislab", "", "\n".join([*parts, "</div>"]))


def search_index(pages: list[Page]) -> list[list[str]]:
    """Address, title, section and words of each page, and of each name of the reference."""
    rows = []
    for page in pages:
        rows.append([page.path, page.title, SECTIONS[page.section][0], text_of(page.body)[:INDEXED]])
        for name, text in page.names.items():
            rows.append([f"{page.path}#{name.replace(' ', '-')}", name, SECTIONS[page.section][0], text])
    return rows


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[tuple[str, str]] = []
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" and value:
                self.ids.add(value)
            if name in ("href", "src") and value:
                self.links.append((tag, value))


def broken_links(folder: Path) -> list[str]:
    """A sentence for each link of a page that leads nowhere, or that would fetch something from outside."""
    parsed: dict[Path, _Links] = {}
    for path in folder.rglob("*.html"):
        parsed[path.resolve()] = links = _Links()
        links.feed(path.read_text(encoding="utf-8"))
    problems = []
    for path, links in parsed.items():
        for tag, link in links.links:
            parts = urlsplit(link)
            if parts.scheme in ("http", "https", "mailto"):
                problems += [f"{path}: {tag} fetches {link}"] if tag != "a" else []
                continue
            if parts.scheme == "data":
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.exists():
                problems.append(f"{path}: {link} is not there")
            elif parts.fragment and target in parsed and unquote(parts.fragment) not in parsed[target].ids:
                problems.append(f"{path}: {link} has no such place")
    return problems
