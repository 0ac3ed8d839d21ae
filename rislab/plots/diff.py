"""The edit of a fault in colours that a light and a dark page can show."""

from __future__ import annotations

from dataclasses import dataclass

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import DiffLexer
from pygments.style import Style
from pygments.token import Generic

from rislab.faults.fault import Fault
from rislab.plots.text_table import unbroken


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
        return self.box()

    def box(self, height: str = "none") -> str:
        """The edit as HTML that scrolls by itself, at most so high as CSS says."""
        lines = highlight(self.fault.diff(), DiffLexer(), HtmlFormatter(style=_Tints, noclasses=True, nowrap=True))
        # Where a row shares its width among its parts, it is the page that says how wide this one is, not its lines.
        css = f"max-height:{height};width:0;min-width:100%"
        return f"<div class='highlight'>{unbroken(lines, f'edit: {self.fault.name}', css)}</div>"
