"""The one HTML table of the package."""

from __future__ import annotations

from html.parser import HTMLParser

from rislab.checkup.html_table import Html, html_table


class Cells(HTMLParser):
    """Cells of a table: tag, attributes, text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.cells: list[tuple[str, dict[str, str | None], str]] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag in ("th", "td"):
            self.cells.append((tag, dict(attrs), ""))

    def handle_data(self, data: str) -> None:
        if not self.cells:
            return
        tag, attributes, text = self.cells[-1]
        self.cells[-1] = (tag, attributes, text + data)


def test_titles_have_a_scope_and_cells_are_escaped() -> None:
    text = html_table(("", "name", "α"), [("<b>", "a & b", 1.5)], label='of "all"', numbers=(2,), row_title=0)
    cells = Cells(text).cells
    assert [(tag, attributes.get("scope"), content) for tag, attributes, content in cells] == [
        ("td", None, ""), ("th", "col", "name"), ("th", "col", "α"),
        ("th", "row", "<b>"), ("td", None, "a & b"), ("td", None, "1.5"),
    ]  # fmt: skip
    assert "text-align:right" in (cells[5][1]["style"] or "") and "text-align:left" in (cells[4][1]["style"] or "")
    assert "&lt;b&gt;" in text and "a &amp; b" in text
    assert "aria-label='of &quot;all&quot;'" in text and "tabindex='0'" in text and "overflow-x:auto" in text


def test_html_stays_html() -> None:
    assert "<b>fault</b>" in html_table(("what",), [(Html("<b>fault</b>"),)], label="findings")
    assert "b" not in Cells(html_table(("what",), [("<b>fault</b>",)], label="findings")).tags


def test_long_paths_may_go_on_in_the_next_line() -> None:
    path = "/home/anna/projects/<localisation>/train_loop.py:88"
    text = html_table(("where", "code"), [(path, "C1.a_b")], label="findings")
    cells = Cells(text)
    assert [content for _, _, content in cells.cells][2:] == [path, "C1.a_b"]
    assert cells.tags.count("wbr") == text.count("<wbr>") == 6
