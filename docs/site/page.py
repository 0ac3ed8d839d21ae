"""A page in the frame of the site."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from html import escape, unescape
from pathlib import Path
from typing import Any

from rislab.reports import html_export

SECTIONS = {
    "tutorials": ("Tutorials", "The notebooks, in the order in which they build on each other."),
    "howto": ("How to", "Ten questions, each answered by a few commands."),
    "reference": ("Reference", "Every public name: shapes, units, errors, an example."),
    "explanation": ("Explanation", "How the checkup knows, what the bound says, which conventions hold."),
    "rules": ("Rules", "What each rule of the checkup compares, and why."),
    "gallery": ("Pictures", "What the figures look like, and how they are to look."),
}


@dataclass(frozen=True)
class Page:
    """A page.

    Args:
        path: below the folder of the site.
        title: as text.
        section: of SECTIONS; "" for the first page.
        body: HTML.
        style: CSS beyond that of all pages.
        names: what else the search finds on it: its words by name, of which the id has hyphens for spaces.
        listed: whether the first page names it.
    """

    path: str
    title: str
    section: str
    body: str
    style: str = ""
    names: Mapping[str, str] = field(default_factory=dict)
    listed: bool = True

    def html(self, pages: Sequence[Page]) -> str:
        """The page as a file."""
        up = "../" * self.path.count("/")
        beside = [page for page in pages if page.section == self.section]
        values = {"page": self, "up": up, "sections": SECTIONS, "firsts": _firsts(pages), "beside": beside}
        return str(_template().render(**values, css=html_export.static_text("page.css"))) + "\n"


def _firsts(pages: Sequence[Page]) -> dict[str, str]:
    """The page with which each section begins."""
    firsts: dict[str, str] = {}
    for page in pages:
        firsts.setdefault(page.section, page.path)
    return firsts


@cache
def _template() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(Path(__file__).parent)
    made = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    return made.get_template("page.html.j2")


def text_of(html: str) -> str:
    """The words of HTML, without those of scripts, styles and links to other pages."""
    bare = re.sub(r"<(script|style|nav)\b.*?</\1>", " ", html, flags=re.S)
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", bare))).strip()


def code(text: str) -> str:
    """A block of code."""
    return f"<pre><code>{escape(text)}</code></pre>"
