"""Number formats × accumulation steps as figures: what they print, colour and explain."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from rislab.plots import precision as precision_plots
from rislab.plots.precision import cell_explanation, cell_hover, mode_curves, precision_table, window_curves
from rislab.plots.style import template
from rislab.sanity.number_formats import FORMAT_TOLERANCES
from rislab.sanity.precision import PrecisionCell, WindowComparison


def made(mode: str, steps: int, **changes: Any) -> PrecisionCell:
    window = WindowComparison(1, 2e-7, 1 + 3e-8, 1 - 1e-12, 1e-7, 0.0, 1e-6, 0.5, 1.0, True, 0.012)
    windows = tuple(dataclasses.replace(window, step=step, **changes) for step in range(1, 6))
    return PrecisionCell(mode, steps, windows, 3 << 20)


CELLS = [
    made("fp32", 1),
    made("fp32", 8, relative_error=0.25),
    made("BatchNorm", 1, relative_error=math.nan),
    made("pure bf16", 8, stuck=0.3),
]


def maps_of(figure: go.Figure) -> dict[str, go.Heatmap]:
    return dict(zip(precision_plots.MAPS, figure.data, strict=True))


def test_the_table_prints_what_the_cells_hold() -> None:
    maps = maps_of(precision_table(CELLS))
    texts = [list(row) for row in maps["relative L2"].text]
    assert texts == [["2e-7", "✗0.25"], ["", "2e-7"], ["✗NaN", ""]]
    assert maps["too small (share)"].text[1][1] == "✗0.3"
    assert maps["time (ms)"].text[0][0] == "12"
    assert maps["memory (MiB)"].text[0][0] == "3"
    assert list(precision_table(CELLS).layout.yaxis.ticktext) == ["✗ fp32", "✗ pure bf16", "✗ BatchNorm"]
    assert list(precision_table(CELLS[:1]).layout.yaxis.ticktext) == ["✓ fp32"]
    assert list(precision_table([CELLS[0], made("bf16", 8)]).layout.yaxis.ticktext) == ["… fp32", "… bf16"]


def test_red_is_more_than_a_colour() -> None:
    figure = precision_table(CELLS)
    frames = [(shape.xref, shape.x0 + 0.45, shape.y0 + 0.45) for shape in figure.layout.shapes]
    assert sorted(frames) == [("x", 0.0, 2.0), ("x", 1.0, 0.0), ("x3", 1.0, 1.0)]
    assert precision_table([made("fp32", 1)]).layout.shapes == ()


def test_colour_is_the_share_of_the_alarm() -> None:
    level = FORMAT_TOLERANCES["fp32"].relative_error
    depth = maps_of(precision_table([made("fp32", 1, relative_error=level / 100, loss=1.0)]))["relative L2"].z[0][0]
    assert depth == pytest.approx(-2)
    for value, expected in ((1.0, 0.0), (math.nan, 0.0), (0.0, precision_plots.SMALLEST)):
        assert maps_of(precision_table([made("fp32", 1, relative_error=value)]))["relative L2"].z[0][0] == expected


def test_hover_and_explanation_hold_numbers_and_reasons() -> None:
    for text in (cell_hover(CELLS[3]), cell_explanation(CELLS[3])):
        assert "stuck 0.3" in text
        assert "bfloat16" in text
    assert "✓ relative L2" in cell_hover(CELLS[3])
    assert "within its alarms" in cell_explanation(CELLS[0])


def test_curves_show_every_window_and_what_a_logarithm_cannot() -> None:
    cell = made("fp16", 8, relative_error=1e-3, applied=False, loss_scale=65536.0)
    zero = dataclasses.replace(
        cell, windows=(dataclasses.replace(cell.windows[0], relative_error=0.0), *cell.windows[1:])
    )
    figure = window_curves(zero, made("fp64", 8))
    by_name = {trace.name: trace for trace in figure.data}
    assert np.isnan(by_name["relative L2"].y[0]) and list(by_name["relative L2"].y[1:]) == [1e-3] * 4
    assert "1 errors that are 0 or not finite" in figure.layout.title.text
    assert list(by_name["skipped × 5"].x) == [1, 2, 3, 4, 5]
    assert list(by_name["NMSE of fp64"].y) == [0.5] * 5
    # The alarm of this NMSE, not that of NMSE 1.
    assert by_name["alarm of relative L2"].y[0] == pytest.approx(1e-2 / math.sqrt(0.5))
    titles = [note.text for note in figure.layout.annotations]
    assert titles == ["error", "share too small", "loss scale", "NMSE"]
    assert "✕: 5 skipped" in figure.layout.title.text
    figure.update_layout(template=template("dark"))


def test_a_mode_that_was_not_run_says_so() -> None:
    assert "bf16 was not run" in mode_curves(CELLS, "bf16").layout.title.text
    assert mode_curves(CELLS, "fp32").layout.title.text.startswith("fp32, 8 × 8 scenes")
