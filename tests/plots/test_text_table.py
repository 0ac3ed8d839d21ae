"""A table of text: as printed in a terminal, and with its own scroll in a notebook."""

from __future__ import annotations

from rislab.plots.text_table import TextTable


def test_a_line_is_not_broken_whatever_its_length_and_letters() -> None:
    table = TextTable(("name      correct   broken", "a <b> & c       0       1"), 'what is "broken"')
    assert str(table) == "name      correct   broken\na <b> & c       0       1"
    shown = table._repr_html_()
    assert "white-space:pre;overflow:auto" in shown and "a &lt;b&gt; &amp; c       0       1</pre>" in shown
    # It can be reached and scrolled by keyboard, and has a name.
    assert "tabindex='0' role='region' aria-label='what is &quot;broken&quot;'" in shown
