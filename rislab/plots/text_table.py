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
        # Who has no mouse scrolls what has the focus by the arrow keys.
        named = f"tabindex='0' role='region' aria-label='{html.escape(self.label, quote=True)}'"
        css = "white-space:pre;overflow-x:auto;font:12px/1.45 ui-monospace,Menlo,Consolas,monospace"
        return f"<pre {named} style='{css}'>{html.escape(str(self))}</pre>"
