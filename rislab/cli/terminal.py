"""Output on a terminal: colours, width, encodings, tables that fit, and a line of progress."""

from __future__ import annotations

import codecs
import functools
import html
import math
import os
import shutil
import sys
import textwrap
import time
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

WIDEST = 100  # columns; longer lines are hard to read
RED, GREEN, YELLOW, CYAN, FAINT, STRONG = "1;31", "32", "1;33", "1;36", "2", "1"
# Letters for a terminal without UTF-8; accents are dropped.
PLAIN = str.maketrans(
    {"…": "...", "×": "x", "·": ".", "—": "-", "–": "-", "≥": ">=", "≤": "<=", "→": "->", "±": "+-", "√": "sqrt ",
     "°": "deg", "Δ": "d", "θ": "theta", "‖": "|", "β": "beta", "λ": "lambda", "σ": "sigma", "’": "'", "“": '"',
     "”": '"', "−": "-", "∞": "inf", "∇": "grad ", "µ": "u", "α": "alpha", "κ": "kappa", "φ": "phi", "ρ": "rho",
     "Σ": "sum ", "⟨": "<", "⟩": ">", "✓": "ok", "✗": "FAIL", "★": "*", "▶": ">", "‘": "'", "≈": "~", "≠": "!=",
     "∈": "in", "½": "1/2"}
)  # fmt: skip


def width() -> int:
    """Columns of the terminal, at most WIDEST; WIDEST if the output goes elsewhere."""
    return max(20, min(WIDEST, shutil.get_terminal_size((WIDEST, 24)).columns))


def has_colours() -> bool:
    """Whether the standard output is a terminal that shows colours.

    NO_COLOR and FORCE_COLOR decide if they are set.
    """
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or _is_terminal(sys.stdout)


def _is_terminal(stream: TextIO | None) -> bool:
    """Whether a stream is a terminal that takes control sequences; it is None if the process began with it closed."""
    return stream is not None and not stream.closed and stream.isatty() and os.environ.get("TERM") != "dumb"


def painted(text: str, colour: str) -> str:
    """The text in a colour, such as RED, where the standard output shows colours."""
    return f"\033[{colour}m{text}\033[0m" if text and has_colours() else text


def entry(head: str, text: str, at: int = 0) -> str:
    """A line of a list, folded to the width of the terminal: its head, then a text that begins in one column.

    Args:
        head: indented as it stands.
        text: folded into further lines.
        at: column of the text; 0 puts it after the head. Where less than half of the line is left, it stands below.
    """
    limit, indent = width(), len(head) - len(head.lstrip()) + 4
    fold = functools.partial(textwrap.fill, width=limit, break_on_hyphens=False, break_long_words=False)
    if at > limit // 2:
        return f"{head}\n{fold(text, initial_indent=' ' * indent, subsequent_indent=' ' * indent)}"
    return fold(f"{head:<{max(at - 1, 0)}} {text}", subsequent_indent=" " * (at or indent))


def marked(line: str) -> str:
    """A line of a check, which begins with ok or FAIL, with that word in colour."""
    for word, colour in (("ok", GREEN), ("FAIL", RED)):
        if line.startswith(f"{word} "):
            return painted(word, colour) + line.removeprefix(word)
    return line


def allow_any_letter(*streams: TextIO) -> None:
    """Print `x` for `×` and so on, instead of ending with an error, where the encoding of a stream lacks a letter."""
    codecs.register_error("rislab.plain", _plain)
    for stream in streams:
        if hasattr(stream, "reconfigure") and not (stream.encoding or "").lower().startswith("utf"):
            stream.reconfigure(errors="rislab.plain")


def printable(text: str, stream: TextIO | None = None) -> str:
    """The text in letters that the encoding of a stream has; the stream is not changed."""
    codecs.register_error("rislab.plain", _plain)
    encoding = getattr(stream or sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, "rislab.plain").decode(encoding, "replace")


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(PLAIN)
    letters = unicodedata.normalize("NFKD", text)
    return "".join(each for each in letters if not unicodedata.combining(each)).encode("ascii", "replace").decode(), (
        error.end
    )


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    title: str  # its head; two lines if it holds a newline
    width: int  # in characters
    format: str = ""  # of a value, as after the colon in an f-string
    left: bool = False  # whether values and title stand at its left

    def cell(self, text: str) -> str:
        """A text in the width of the column, after a blank."""
        return f" {text:{'<' if self.left else '>'}{self.width}}"


@dataclass(frozen=True)
class Table:
    """A table whose rows are printed as they come; a row that is wider than the terminal takes more lines."""

    columns: Sequence[Column]  # from left to right
    limit: int = field(default_factory=width)  # in columns of the terminal
    absent: str = "nan"  # what stands for NaN, where that means a number that is not there

    def head(self) -> str:
        """The titles, strong where the terminal can."""
        parts = [column.title.rpartition("\n") for column in self.columns]
        above, below = [part[0] for part in parts], [part[2] for part in parts]
        lines = [self._lines(titles) for titles in (above, below) if any(titles)]
        return "\n".join(painted(line, STRONG) for each in zip(*lines, strict=True) for line in each if line)

    def row(self, *values: Any) -> str:
        """A row, as one text."""
        return "\n".join(self._lines(self._texts(values)))

    def page(self, rows: Iterable[Sequence[Any]], label: str) -> str:
        """The table as HTML, for a notebook, where no row is broken; `label` says what it shows."""
        from rislab.checkup.html_table import Html, html_table

        titles = [Html(html.escape(column.title).replace("\n", "<br>")) for column in self.columns]
        numbers = [place for place, column in enumerate(self.columns) if not column.left]
        return html_table(titles, map(self._texts, rows), label=label, numbers=numbers, row_title=0, size=12)

    def _texts(self, values: Sequence[Any]) -> list[str]:
        return [
            self.absent if isinstance(value, float) and math.isnan(value) else format(value, column.format)
            for column, value in zip(self.columns, values, strict=True)
        ]

    def _lines(self, texts: Sequence[str]) -> list[str]:
        lines, used = [""], 0
        for column, text in zip(self.columns, texts, strict=True):
            if used and used + column.width + 1 > self.limit:
                lines.append("   ")
                used = 3
            lines[-1] += column.cell(text) if used else column.cell(text)[1:]
            used = len(lines[-1])
        return [line.rstrip() for line in lines]


class Progress:
    """A line on stderr that is written over, where that is a terminal; nothing elsewhere.

    Args:
        silent: show nothing.
    """

    def __init__(self, silent: bool = False) -> None:
        self.shown = not silent and _is_terminal(sys.stderr)
        self.last = 0.0

    def show(self, text: str) -> None:
        """Show a text, at most ten times a second."""
        if self.shown and time.monotonic() - self.last > 0.1:
            self.last = time.monotonic()
            sys.stderr.write(f"\r\033[K{text[: width() - 1]}")
            sys.stderr.flush()

    def clear(self) -> None:
        """Take the line away, before something else is printed."""
        if self.shown and self.last:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()
