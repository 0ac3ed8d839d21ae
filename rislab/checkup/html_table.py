"""One table in HTML for the whole package: escaped, readable by a screen reader, and scrolled on its own."""

from __future__ import annotations

import html
import re
from collections.abc import Collection, Iterable, Sequence

# Letters of a word that is broken where it has to be.
LONG = 24


class Html(str):
    """Text that is HTML already: html_table() puts it into a cell as it is."""


def html_table(
    head: Sequence[object],
    rows: Iterable[Sequence[object]],
    *,
    label: str,
    numbers: Collection[int] = (),
    row_title: int = -1,
    caption: str = "",
    size: int = 13,
) -> str:
    """A table as HTML. It takes the width that there is, and scrolls from side to side if it needs more.

    Args:
        head: titles of the columns; "" for a column without a title.
        rows: cells of each row, as many as there are titles; anything that str() can write. Texts are escaped, except
            those of class Html.
        label: what the table shows, in words, for those who do not see it.
        numbers: places of the columns that hold numbers, from 0; their cells are aligned to the right and not broken.
        row_title: place of the cell that is the title of its row, −1 if none is.
        caption: that is shown above the table, "" for none.
        size: of the letters, pixels.

    Returns:
        HTML for `_repr_html_` or a widget.
    """

    def cell(value: object, place: int, title: str = "") -> str:
        aligned = "text-align:right;white-space:nowrap" if place in numbers else "text-align:left"
        text = value if isinstance(value, Html) else _breakable(str(value))
        # A title without a word would be read out as one.
        tag, scope = ("th", f" scope='{title}'") if title and text else ("td", "")
        return f"<{tag}{scope} style='{aligned};padding:2px 8px;vertical-align:top'>{text}</{tag}>"

    titles = "".join(cell(name, place, "col") for place, name in enumerate(head))
    body = "".join(
        "<tr>"
        + "".join(cell(value, place, "row" if place == row_title else "") for place, value in enumerate(row))
        + "</tr>"
        for row in rows
    )
    above = f"<caption style='text-align:left;caption-side:top;padding:2px 8px'>{html.escape(caption)}</caption>"
    return (
        f"<div role='region' tabindex='0' aria-label='{html.escape(label)}' style='overflow-x:auto;max-width:100%'>"
        f"<table style='font-size:{size}px;line-height:1.35;border-collapse:collapse'>"
        f"{above if caption else ''}<thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _breakable(text: str) -> str:
    """Text as HTML, in which a long path or name may go on in the next line after a separator."""
    words = re.split(r"(\s+)", text)
    # Such a word would take the width that the other columns need.
    words = [re.sub(r"([/\\_])(?=\S)", "\\1\0", word) if len(word) > LONG else word for word in words]
    return html.escape("".join(words)).replace("\0", "<wbr>")
