"""The look of all figures: template, colours, styles of traces; and thinning of long curves.

A figure brings its own opaque background: no grey reaches the legible contrast of 4.5:1 on both white and #111 (4.35:1
is the best there is), so a transparent figure would be hard to read on one of the two. Light is the default; any figure
turns dark by `figure.update_layout(template=template("dark"))`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike, NDArray

from rislab.errors import check_choice, check_number

Array = NDArray[np.float64]

# Okabe and Ito's colours. The first four keep 3:1 on white and on #111; orange and sky blue come last for that reason.
BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)
BLACK, WHITE = "#111111", "#ffffff"  # the darkest and the brightest page
GREY = "#767676"  # readable on white and on #111, for what belongs to no run
PALE, INK = "#f4f1e4", "#222222"  # a cell without an error, and numbers on a coloured cell
SAND, MIST = "#f3e0b3", "#f1f3f5"  # of other cells, pale enough for these numbers
BAND = "rgba(86,180,233,0.25)"  # SKY, of an interval behind a curve
# Of a sentence beside a figure that says what is wrong: no orange can be read both on white and on black, so it is
# mixed with the colour that the page has for text.
ERROR_COLOUR = "color-mix(in srgb, #d95f02 70%, var(--jp-ui-font-color0, CanvasText))"
DASHES = ("solid", "dot", "dashdot", "longdashdot")  # plain dashes mean validation, or after clipping
SYMBOLS = ("circle", "square", "diamond", "triangle-up")
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
PAGES = {
    "light": {"paper": WHITE, "text": "#333333", "grid": "#e3e3e3", "line": "#767676"},
    "dark": {"paper": BLACK, "text": "#e0e0e0", "grid": "#363636", "line": "#9a9a9a"},
}
COUNTER_STYLES = {  # axis → counter → colour and pattern; the first two counters of each are a pair that should agree
    "micro-batches (count)": {"forwards": (BLUE, ""), "backwards": (SKY, "/")},
    "optimiser steps (count)": {
        "steps_applied": (GREEN, ""),
        "scheduler_ticks": (PURPLE, "/"),
        "steps_skipped": (VERMILLION, "x"),
    },
}
LEGEND_ABOVE = {
    "orientation": "h",
    "itemsizing": "constant",
    "x": 1,
    "xanchor": "right",
    "yref": "container",
    "y": 1,
    "yanchor": "top",
}
LEGEND_BELOW = {"orientation": "h", "x": 0, "xanchor": "left", "y": 0, "yref": "container", "yanchor": "bottom"}


@dataclass(frozen=True)
class TraceStyle:
    """How one run or group is drawn; dash and symbol serve those who do not see the colour."""

    name: str
    colour: str
    dash: str
    symbol: str
    size: int = 7  # of the symbol, pixels


def template(theme: str = "light") -> go.layout.Template:
    """The "rislab" look, applied figure by figure and never registered as a global default.

    Args:
        theme: "light" or "dark".

    Returns:
        A plotly template for `figure.update_layout(template=…)`.
    """
    check_choice("theme", theme, PAGES)
    page = PAGES[theme]
    line, small = page["line"], {"size": 13}
    axis = {"gridcolor": page["grid"], "linecolor": line, "tickcolor": line, "showline": True, "zeroline": False}
    axis |= {"ticks": "outside", "automargin": True, "exponentformat": "power", "tickfont": small}
    axis |= {"title": {"font": {"size": 14}, "standoff": 10}}
    bar = {"outlinewidth": 0, "ticks": "outside", "tickcolor": line, "tickfont": small, "title": {"font": {"size": 14}}}
    layout: dict[str, Any] = {
        "font": {"family": FONT, "size": 13, "color": page["text"]},
        "title": {"font": {"size": 16}, "x": 0, "xref": "paper", "y": 1, "yref": "paper", "yanchor": "bottom"},
        "paper_bgcolor": page["paper"],
        "plot_bgcolor": page["paper"],
        "colorway": COLOURS,
        "margin": {"l": 70, "r": 24, "t": 64, "b": 60},
        "legend": {"x": 1.01, "xanchor": "left", "y": 1, "yanchor": "top", "font": small, "tracegroupgap": 14},
        "hoverlabel": {"font": {**small, "family": FONT}, "align": "left", "namelength": -1},
        "hovermode": "closest",
        "xaxis": axis,
        "yaxis": axis,
        "coloraxis": {"colorbar": bar},
        "annotationdefaults": {"font": small, "showarrow": False},
        "shapedefaults": {"line": {"color": line, "width": 1}},
        # plotly.js paints the pressed button nearly white in every theme, so the text on it must stay dark.
        "updatemenudefaults": {"bgcolor": "#dcdcdc", "bordercolor": line, "font": {**small, "color": INK}},
    }
    layout["title"]["pad"] = {"b": 14}
    return go.layout.Template(layout=layout)


def templates() -> dict[str, go.layout.Template]:
    """The templates by theme, as a PlotWidget takes them."""
    return {theme: template(theme) for theme in PAGES}


def decibel_axis(floor_db: float, bar: dict[str, Any]) -> dict[str, Any]:
    """Colour axis of maps in dB below their peak.

    Args:
        floor_db: level of the darkest colour, dB, < 0.
        bar: colour bar, as plotly takes it.
    """
    return {"colorscale": "Cividis", "cmin": floor_db, "cmax": 0.0, "colorbar": bar}


def empty_figure_dict(text: str = "", height: int = 300) -> dict[str, Any]:
    """Data and layout of a figure without axes.

    Args:
        text: its title.
        height: pixels.
    """
    title, hidden = {"text": text, "font": {"size": 14}}, {"visible": False}
    return {
        "data": [],
        "layout": {"title": title, "height": height, "autosize": True, "xaxis": hidden, "yaxis": hidden},
    }


def trace_styles(names: Iterable[str]) -> list[TraceStyle]:
    """A style for each name: the first four differ in colour, dash and symbol, any 24 in colour or dash."""
    turns = [(place, (place + place // 6) % 4, name) for place, name in enumerate(names)]
    return [TraceStyle(name, COLOURS[place % 6], DASHES[turn], SYMBOLS[turn]) for place, turn, name in turns]


def decimate(x: ArrayLike, y: ArrayLike, points: int = 2000) -> tuple[NDArray[Any], Array]:
    """Thin a curve to at most `points` samples such that spikes, NaN and infinities survive.

    Args:
        x: [n], abscissae.
        y: [n], ordinates; may hold NaN and infinity.
        points: largest number of samples in the result, ≥ 8.

    Returns:
        x and y of the selected samples in their order: the first, the last, and of each stretch the smallest, the
        largest and one of each kind of non-finite value. All samples if there are no more than `points`.
    """
    values = np.asarray(y, dtype=np.float64)
    selected = decimation_indices(values, points)
    return np.asarray(x)[selected], values[selected]


def decimation_indices(values: Array, points: int = 2000) -> NDArray[np.intp]:
    """Indices of the samples that decimate() selects, in rising order."""
    check_number("points", points, 8, integer=True)
    count = len(values)
    if count <= points:
        return np.arange(count)
    wrong = () if np.isfinite(values).all() else (np.isnan(values), np.isposinf(values), np.isneginf(values))
    kinds = [kind for kind in wrong if kind.any()]
    # Powers of two: while a curve grows, what was drawn of it stays as it is for as long as possible.
    width = 1 << (math.ceil(count / ((points - 2) // (2 + len(kinds)))) - 1).bit_length()
    starts = np.arange(0, count, width)

    def rows(samples: NDArray[Any], fill: float) -> NDArray[Any]:
        padded = np.full(len(starts) * width, fill, samples.dtype)
        padded[:count] = samples
        return padded.reshape(len(starts), width)

    def finite_or(fill: float) -> Array:
        return np.where(np.isfinite(values), values, fill) if kinds else values

    lowest = rows(finite_or(np.inf), np.inf).argmin(axis=1)
    highest = rows(finite_or(-np.inf), -np.inf).argmax(axis=1)
    tables = [rows(kind, False) for kind in kinds]
    firsts = [(starts + table.argmax(axis=1))[table.any(axis=1)] for table in tables]
    return np.unique(np.concatenate([[0, count - 1], starts + lowest, starts + highest, *firsts]))


def number_text(value: float) -> str:
    """Six significant digits, or what the value is instead of a number."""
    if math.isnan(value):
        return "NaN"
    return f"{value:.6g}" if math.isfinite(value) else ("+∞" if value > 0 else "−∞")
