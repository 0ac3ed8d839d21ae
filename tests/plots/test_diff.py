"""The coloured edit of a fault: every line is there, what was removed and what was added have colours of their own."""

from __future__ import annotations

import html
import re

from rislab.faults import catalogue
from rislab.faults.fault import Fault
from rislab.plots.diff import Diff


def text_of(page: str) -> str:
    return html.unescape(re.sub(r"<[^>]+>", "", page))


def test_a_diff_shows_every_line_and_escapes_it() -> None:
    loud = Fault("html", "", "data.covariance", "    return error / truth_energy\n", "    return '<i>&'\n", "")
    for fault in (*catalogue.FAULTS, loud):
        page = Diff(fault)._repr_html_()
        assert text_of(page).strip() == fault.diff().strip()
        assert page.count("<span") == page.count("</span>") and "<i>" not in page
        assert repr(Diff(fault)) == fault.diff()


def test_removed_and_added_lines_have_colours_that_any_page_shows() -> None:
    page = Diff(catalogue.find_fault("never divided"))._repr_html_()
    colours = dict(re.findall(r'<span style="color: #111; background-color: (#\w+)">([-+]) ', page))
    assert sorted(colours.values()) == ["+", "-"]


def test_the_tint_of_a_line_has_room_below_the_letters_of_the_one_above() -> None:
    page = Diff(catalogue.find_fault("never divided"))._repr_html_()
    # The last height that a style names is the one that holds.
    heights = re.findall(r"line-height: *([\d.]+)(%?)|font:12px/([\d.]+)", page)
    assert [float(high) / (100 if per else 1) if high else float(short) for high, per, short in heights][-1] >= 1.4
