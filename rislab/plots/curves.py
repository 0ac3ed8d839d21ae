"""Curves over the steps of trainings, as plain data: static figures and live panels are made of these traces."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rislab.errors import check_number
from rislab.plots.style import GREY, Array, TraceStyle, decimation_indices, trace_styles

POINTS = 2000  # of a curve
LABEL_ROWS = 17  # that fit one above the other beside the curves
EPOCH_LINES = 30  # more than these are thinned
MARKS = 500  # of one trace; more are thinned, and the hover text says so
EVALUATIONS = {  # field of an EpochRecord → name, mode, suffix of its symbol, size, dash
    "train_eval": ("eval, same data", "markers", "", 8, "solid"),
    "validation": ("validation", "lines+markers", "-open", 8, "dash"),
    "ema": ("averaged weights", "lines+markers", "", 4, "longdash"),
}


def curve(
    style: TraceStyle,
    name: str,
    x: ArrayLike,
    y: ArrayLike,
    *,
    detail: ArrayLike | None = None,
    points: int = POINTS,
    look: Mapping[str, Any] | None = None,
    **line: Any,
) -> dict[str, Any]:
    """One value per window, thinned such that spikes survive.

    Args:
        style: of the run or the group; names the group in the legend.
        name: of the trace.
        x: [n], steps.
        y: [n], values; may hold NaN and infinity.
        detail: [n, 2], epochs and samples so far, for the hover text.
        points: largest number of samples, ≥ 8.
        look: further properties of the trace.
        line: of the line, beside colour and dash of the style.
    """
    values = np.asarray(y, dtype=np.float64)
    chosen = decimation_indices(values, points)
    shown = values[chosen]
    # A sample between two gaps draws no line, so curves with gaps get dots.
    unbroken = len(chosen) > 1 and bool((np.isfinite(shown) & (shown > 0)).all())
    trace: dict[str, Any] = {
        "type": "scatter",
        "mode": "lines" if unbroken else "lines+markers",
        "name": name,
        "legendgroup": style.name,
        "x": np.asarray(x)[chosen],
        "y": shown,
        "marker": {"size": 3, "color": style.colour},
        "line": {"color": style.colour, "dash": style.dash, **line},
    }
    if detail is not None:
        where = "epoch %{customdata[0]} · step %{x:d} · %{customdata[1]} samples<extra></extra>"
        trace["customdata"] = np.asarray(detail)[chosen]
        trace["hovertemplate"] = f"<b>{style.name}</b> · {name}<br>%{{y:.6g}}<br>{where}"
    return trace | dict(look or {})


def loss_and_median(
    style: TraceStyle,
    name: str,
    steps: ArrayLike,
    losses: Array,
    *,
    detail: NDArray[Any] | None = None,
    points: int = POINTS,
    medians: int = POINTS,
) -> list[dict[str, Any]]:
    """The loss of each window, thin, and its running median, thick.

    Args:
        style: see curve(), as for all others that are not named here.
        name: of the first trace; the second says how far it looks back.
        steps: [n].
        losses: [n].
        medians: largest number of places at which the median is taken.
    """
    # Powers of two, so that the points drawn of a growing curve seldom change.
    width = min(129, (1 << max(1, len(losses) // 20).bit_length()) + 1)
    stride = 1 << (math.ceil(max(1, len(losses)) / medians) - 1).bit_length()
    at = np.unique([*range(0, len(losses), stride), *([len(losses) - 1] if len(losses) else [])]).astype(np.intp)
    smooth, about = running_median(losses, width, at), None if detail is None else detail[at]
    return [
        # A hairline, since a paler colour would have a contrast below 3:1.
        curve(style, name, steps, losses, detail=detail, points=points, dash="solid", width=0.75),
        curve(style, f"median of last {width}", np.asarray(steps)[at], smooth, detail=about, width=3),
    ]


def running_median(values: Array, width: int, at: NDArray[np.intp]) -> Array:
    """Median of the finite ones among the last `width` values, at the given places; NaN where there are none."""
    places = at[:, None] + np.arange(1 - width, 1)  # [len(at), width]
    spans = np.where(places < 0, np.nan, values[np.maximum(places, 0)]) if len(values) else np.empty((0, width))
    spans[~np.isfinite(spans)] = np.nan
    spans.sort(axis=1)  # NaN comes last
    known, row = np.isfinite(spans).sum(axis=1), np.arange(len(spans))
    middle: Array = (spans[row, np.maximum(known - 1, 0) // 2] + spans[row, known // 2]) / 2
    return middle


def evaluation(style: TraceStyle, field: str, steps: ArrayLike, values: ArrayLike, epochs: ArrayLike) -> dict[str, Any]:
    """A field of EVALUATIONS at the ends of epochs.

    Args:
        style: of the run.
        field: "train_eval", "validation" or "ema".
        steps: [n], at the ends of the epochs.
        values: [n].
        epochs: [n], their numbers.
    """
    name, mode, suffix, size, dash = EVALUATIONS[field]
    x, y = (np.asarray(numbers, dtype=np.float64) for numbers in (steps, values))
    marker = {"symbol": style.symbol + suffix, "size": size, "color": style.colour}
    look = {"mode": mode, "marker": marker, "line": {"color": style.colour, "width": 1.5, "dash": dash}}
    where = "epoch %{customdata} · step %{x:d}<extra></extra>"
    what = f"<b>{style.name}</b> · {name}<br>NMSE %{{y:.6g}}<br>{where}"
    hover = {"hovertemplate": what, "customdata": np.asarray(epochs)}
    return {"type": "scatter", "name": name, "legendgroup": style.name, "x": x, "y": y, **look, **hover}


def level_lines(levels: Mapping[str, float], first: float, last: float, places: int = 41) -> list[dict[str, Any]]:
    """Grey horizontal lines, highest first, named with their values in the legend, where close ones cannot collide.

    Args:
        levels: by name, each > 0.
        first: step at which they begin.
        last: step at which they end.
        places: of each, to hover at.
    """
    common = {"type": "scatter", "mode": "lines", "legendgroup": "levels", "hoverinfo": "name"}
    common |= {"x": np.linspace(first, last, places).tolist()}
    lines = []
    for style in trace_styles(sorted(levels, key=lambda name: -levels[name])):
        level = levels[style.name]
        check_number(f"line {style.name!r}", level, 0.0, exclusive=True)
        line = {"color": GREY, "dash": style.dash, "width": 1.5}
        lines.append({**common, "name": f"{style.name} = {level:.4g}", "y": [level] * places, "line": line})
    return lines


def epoch_lines(ends: Sequence[float]) -> tuple[list[dict[str, Any]], int]:
    """Thin lines at the ends of epochs, as shapes, and the number of epochs between two lines."""
    every = max(1, math.ceil(len(ends) / EPOCH_LINES))
    thin = {"type": "line", "y0": 0, "y1": 1, "yref": "paper", "layer": "below", "opacity": 0.4}
    return [{**thin, "x0": end, "x1": end} for end in ends[every - 1 :: every]], every


def end_labels(ends: Sequence[tuple[str, float, float]], x: float, span: Sequence[float], log: bool) -> dict[str, Any]:
    """The names of curves behind their ends, none over another, in an axis of some 280 pixels.

    Args:
        ends: of each its name, and x and y of its end.
        x: where the names begin, within the axis.
        span: ends of the y axis, as plotly takes them.
        log: whether that axis is logarithmic.
    """
    low, high = span
    row = (high - low) / LABEL_ROWS
    order = sorted(ends, key=lambda end: -end[2])
    places: list[float] = []
    free = high
    for text, _, y in order:
        height = row * (1 + text.count("<br>"))
        free = min(free, math.log10(y) + height / 2 if log and y > 0 else y + height / 2) - height
        places.append(free + height / 2)
    # A label that would fall below the axis moves up, and pushes those above it.
    bottom = low
    for place in reversed(range(len(order))):
        height = row * (1 + order[place][0].count("<br>"))
        places[place] = max(places[place], bottom + height / 2)
        bottom = places[place] + height / 2
    heights, texts = [10**place if log else place for place in places], [text for text, *_ in order]
    look = {"mode": "text", "textposition": "middle right", "textfont": {"size": 11}}
    no_hover = {"hoverinfo": "skip", "showlegend": False, "name": "labels"}
    return {"type": "scatter", "x": [x] * len(order), "y": heights, "text": texts, **look, **no_hover}


def marks(
    name: str, texts: Mapping[int, str] | Mapping[float, str], height: float, marker: Mapping[str, Any]
) -> dict[str, Any]:
    """Marks at steps where there is something to say, which stands in the hover text.

    Args:
        name: of the trace.
        texts: by step.
        height: at which they stand.
        marker: of plotly.
    """
    every = max(1, math.ceil(len(texts) / MARKS))
    note = f"<br>drawn: every {every}th of {len(texts)} such steps" if every > 1 else ""
    shown = [*texts.items()][::every]
    places = {"x": [step for step, _ in shown], "y": [height] * len(shown)}
    hover = {"hovertext": [text + note for _, text in shown], "hoverinfo": "text"}
    return {"type": "scatter", "mode": "markers", "name": name, "marker": dict(marker), **places, **hover}
