"""Windows × micro-batches as a grid: the weight with which each micro-batch entered the steps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from rislab.faults.gradient_attribution import GradientAttribution
from rislab.plots.style import BLUE, GREY, INK, ORANGE, PALE, SKY, VERMILLION, TraceStyle, outlined

# From lost (weight 0) over exact (1) to counted four times, in square roots, so that an error of a quarter is visible.
WEIGHTS = ((0.0, SKY), (1 / (1 + 3**0.5), PALE), (1.0, ORANGE))
MEANING = (
    ("square", SKY, "lost, or too light"),
    ("square", PALE, "exact share"),
    ("square", ORANGE, "too heavy, or not of this window"),
)
NO_WEIGHT = {  # of a micro-batch without a weight → symbol and meaning
    "no step": ("x-thin", "no step was taken"),
    "not finite": ("asterisk", "the step was on NaN or infinity"),
    "own": ("hash", "the micro-batch's own gradient is not finite"),
}
WRITTEN = 24  # windows; the numbers of more would not be legible


def loop_styles(names: tuple[str, str]) -> tuple[TraceStyle, TraceStyle]:
    """Of the correct and of the faulty loop, wherever both are drawn."""
    # The correct loop is drawn first and larger, so that a faulty loop with the same values does not hide it.
    correct = TraceStyle(names[0], BLUE, "solid", "circle", size=9)
    return correct, TraceStyle(names[1], VERMILLION, "dot", "square", size=5)


def grid_titles(names: tuple[str, str]) -> list[str]:
    """Of the two grids."""
    return [f"{name}: weight in the steps of the window<br>bars: where it says that its windows end" for name in names]


def draw_grid(figure: go.Figure, loop: GradientAttribution, style: TraceStyle, place: dict[str, int]) -> None:
    """Draw the weights of a loop's micro-batches into one place of a figure.

    Args:
        figure: with subplots.
        loop: what was measured on it.
        style: name and colour of the loop.
        place: {"row": …, "col": …}, from 1.
    """
    spans = [_declared(loop, row) for row in range(len(loop.step_records))]
    figure.add_trace(_heat(loop, spans), **place)
    for kind, (symbol, _) in NO_WEIGHT.items():
        cells = [cell for cell in np.ndindex(*loop.micro_batch_weights.shape) if _reason(loop, spans, cell) == kind]
        if cells:
            figure.add_trace(_no_weight_marks(cells, kind, symbol), **place)
    for trace in _ends(loop, style):
        figure.add_trace(trace, **place)
    for row, span in enumerate(spans):
        box = {"x0": span.start + 0.5, "x1": span.stop + 0.5, "y0": row + 0.5, "y1": row + 1.5}
        if len(span):
            figure.add_shape(type="rect", **box, line={"color": GREY, "width": 1.5}, **place)
    starts = [
        row + 1
        for row, window in enumerate(loop.step_records)
        if row == 0 or window.epoch != loop.step_records[row - 1].epoch
    ]
    ticks = {"tickvals": starts, "ticktext": [str(loop.step_records[row - 1].epoch) for row in starts]}
    size = loop.micro_batch_weights.shape
    title = {"text": "epoch", "standoff": 2}
    figure.update_yaxes(range=[size[0] + 0.5, 0.5], showgrid=False, title=title, **ticks, **place)
    across = {"text": "micro-batch of the epoch", "standoff": 2}
    figure.update_xaxes(range=[0.5, size[1] + 0.7], dtick=max(1, size[1] // 12), showgrid=False, title=across, **place)


def _declared(loop: GradientAttribution, row: int) -> range:
    """Micro-batches of the declared window that belongs to a row; none beyond the last window of an epoch."""
    within = sum(window.epoch == loop.step_records[row].epoch for window in loop.step_records[:row])
    edges = [*loop.window_starts, loop.micro_batch_weights.shape[1]]
    return range(edges[within], edges[within + 1]) if within < len(loop.window_starts) else range(0)


def _heat(loop: GradientAttribution, spans: Sequence[range]) -> go.Heatmap:
    own = np.array([[column in span for column in range(loop.micro_batch_weights.shape[1])] for span in spans])
    off = loop.micro_batch_weights - own
    depth = np.sign(off) * np.sqrt(np.abs(off))
    # Micro-batches of other windows without a weight are correct, and blank.
    blank = ~own & (np.round(loop.micro_batch_weights, 2) == 0)
    texts = [
        ["" if empty else _weight(weight) for empty, weight in zip(*pair, strict=True)]
        for pair in zip(blank, loop.micro_batch_weights, strict=True)
    ]
    rows, columns = (range(size) for size in own.shape)
    data = {"x": np.arange(1, len(columns) + 1), "y": np.arange(1, len(rows) + 1), "z": np.where(blank, np.nan, depth)}
    written = {"texttemplate": "%{text}" if len(spans) <= WRITTEN else "", "textfont": {"color": INK, "size": 10}}
    colours = {"colorscale": [list(stop) for stop in WEIGHTS], "zmin": -1.0, "zmax": 3**0.5, "showscale": False}
    hovers = [[_hover(loop, own, row, column) for column in columns] for row in rows]
    return go.Heatmap(**data, text=texts, **written, **colours, hovertext=hovers, hoverinfo="text", xgap=1, ygap=1)


def _weight(weight: float) -> str:
    """Two digits after the point at most, and no minus before a zero."""
    return "" if np.isnan(weight) else f"{round(weight, 2) + 0.0:.3g}"


def _hover(loop: GradientAttribution, own: NDArray[np.bool_], row: int, column: int) -> str:
    weight, own_window = float(loop.micro_batch_weights[row, column]), bool(own[row, column])
    where = f"window {row + 1} (epoch {loop.step_records[row].epoch}), micro-batch {column + 1}"
    what = f"weight {weight:.4g}" if np.isfinite(weight) else "no weight"
    return f"{where}<br>{what}; exact share: {1 if own_window else '0, not of this window'}"


def _reason(loop: GradientAttribution, spans: Sequence[range], cell: tuple[int, ...]) -> str:
    """Why a micro-batch of the declared window has no weight; "" if it has one, or is of another window."""
    row, column = cell
    if column not in spans[row] or np.isfinite(loop.micro_batch_weights[row, column]):
        return ""
    if loop.steps[row] == 0:
        return "no step"
    return "not finite" if loop.nonfinite_steps[row] else "own"


def _no_weight_marks(cells: Sequence[tuple[int, ...]], kind: str, symbol: str) -> go.Scatter:
    return go.Scatter(
        x=[column + 1 for _, column in cells],
        y=[row + 1 for row, _ in cells],
        mode="markers",
        name=NO_WEIGHT[kind][1],
        legendgroup=kind,
        marker={"symbol": symbol, "size": 7, "color": GREY, "line": {"color": GREY, "width": 1.5}},
        hovertext=[f"window {row + 1}, micro-batch {column + 1}: {NO_WEIGHT[kind][1]}" for row, column in cells],
        hoverinfo="text",
    )


def _ends(loop: GradientAttribution, style: TraceStyle) -> list[go.Scatter]:
    """Where the loop says that its windows end, on the micro-batches of their epoch."""
    ends: list[int] = []
    for row, window in enumerate(loop.step_records):
        before = ends[-1] if row and loop.step_records[row - 1].epoch == window.epoch else 0
        ends.append(before + window.micro_batches)
    texts = [
        f"window {row + 1}, as reported: {window.micro_batches} micro-batches, {window.samples} scenes"
        for row, window in enumerate(loop.step_records)
    ]
    at = {"x": [end + 0.5 for end in ends], "y": list(range(1, len(ends) + 1)), "hovertext": texts}
    name = f"{style.name}: end of a window, as reported"
    markers = outlined({"symbol": "line-ns-open", "size": 12, "color": style.colour}, width=3)
    return [
        go.Scatter(**at, mode="markers", name=title, marker=marker, hoverinfo="text", showlegend=False)
        for title, marker in zip(("", name), markers, strict=True)
    ]


def explain_grids(figure: go.Figure) -> None:
    """What colours and signs of the grids mean, in a legend of their own."""
    for symbol, colour, name in MEANING:
        marker = {"symbol": symbol, "size": 11, "color": colour, "line": {"color": GREY, "width": 1}}
        figure.add_scatter(x=[None], y=[None], mode="markers", name=name, marker=marker, legend="legend2")
    listed: set[str] = set()
    for trace in figure.data:
        if trace.type == "scatter" and trace.legendgroup in NO_WEIGHT:
            trace.update(legend="legend2", showlegend=None if trace.legendgroup not in listed else False)
            listed.add(trace.legendgroup)
