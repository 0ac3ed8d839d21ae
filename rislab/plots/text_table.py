"""Lines of text that stand below each other, in a notebook whose page may be narrower than they are."""

from __future__ import annotations

import html
from dataclasses import dataclass


@dataclass(frozen=True)
class TextTable:
    """A table as it is printed; in a notebook no line of it is broken, and it scrolls from side to side instead.

    Args:
        lines: with columns of equal width.
        label: what the table shows, in words, for those who do not see it.
    """

    lines: tuple[str, ...]
    label: str

    def __repr__(self) -> str:
        return "\n".join(self.lines)

    def _repr_html_(self) -> str:
        return unbroken(html.escape(str(self)), self.label)


def unbroken(lines: str, label: str, css: str = "") -> str:
    """Lines of HTML that are not broken, and scroll by themselves where the page is narrower than they are.

    Args:
        lines: what stands in the box.
        label: what it shows, for those who do not see it.
        css: further style of the box.
    """
    # Who has no mouse scrolls what has the focus by the arrow keys.
    named = f"tabindex='0' role='region' aria-label='{html.escape(label, quote=True)}'"
    # The height of a line is that of the letters and their tint: a lower one would cover the letters above.
    look = "white-space:pre;overflow:auto;font:12px/1.45 ui-monospace,Menlo,Consolas,monospace"
    return f"<pre {named} style='{look};{css}'>{lines}</pre>"
