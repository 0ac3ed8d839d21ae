"""Markdown of ours as HTML, with links between pages of the site."""

from __future__ import annotations

import re
from html import escape

import mistune

from docs.site.page import text_of


def to_html(text: str, path: str) -> str:
    """HTML of Markdown.

    Args:
        text: Markdown with tables.
        path: of its page, below the folder of the site.
    """
    html = str(mistune.create_markdown(escape=False, plugins=["table"])(text))
    html = re.sub(r"<h([23])>(.*?)</h\1>", _with_id, html)
    up = "../" * path.count("/")
    html = re.sub(r'src="(?:[^":]*/)?([^":/]+)"', rf'src="{up}assets/\1"', html)
    return re.sub(r'href="([^":#]+)\.md(#[^"]*)?"', r'href="\1.html\2"', html)


def _with_id(match: re.Match[str]) -> str:
    name = re.sub(r"\W+", "-", text_of(match[2]).lower()).strip("-")
    return f'<h{match[1]} id="{escape(name)}">{match[2]}</h{match[1]}>'


def heading_of(html: str) -> str:
    """The text of the first heading."""
    match = re.search(r"<h1[^>]*>(.*?)</h1>", html, re.S)
    return text_of(match[1]).rstrip("¶ ") if match else ""
