"""The edit of a fault in colours that a light and a dark page can show."""

from __future__ import annotations

from dataclasses import dataclass

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import DiffLexer
from pygments.style import Style
from pygments.token import Generic

from rislab.faults.fault import Fault


class _Tints(Style):  # type: ignore[misc]
    """As in the figures, correct is blue and faulty is vermillion; the text is dark on every page."""

    styles = {Generic.Deleted: "bg:#b8d8ee #111111", Generic.Inserted: "bg:#f3c9a8 #111111"}  # noqa: RUF012


@dataclass(frozen=True)
class Diff:
    """The edit of a fault: coloured in a notebook, a unified diff as text."""

    fault: Fault

    def __repr__(self) -> str:
        return self.fault.diff()

    def _repr_html_(self) -> str:
        # The frame of pygments sets a lower line height, with which the tint of a line covers letters above it.
        css = "white-space:pre-wrap;overflow-wrap:anywhere;font:12px/1.45 ui-monospace,Menlo,Consolas,monospace"
        lines = highlight(self.fault.diff(), DiffLexer(), HtmlFormatter(style=_Tints, noclasses=True, nowrap=True))
        return f"<div class='highlight'><pre style='{css}'>{lines}</pre></div>"
