"""The look of all figures: template, colours, styles of traces; and thinning of long curves.

A figure brings its own opaque background: no grey reaches the legible contrast of 4.5:1 on both white and #111 (4.35:1
is the best there is), so a transparent figure would be hard to read on one of the two. Light is the default; any figure
turns dark by `figure.update_layout(template=template("dark"))`.
"""

from __future__ import annotations

import math
import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike, NDArray

from rislab.errors import check_choice, check_number

Array = NDArray[np.float64]
STATIC = Path(__file__).parent / "static"

# Okabe and Ito's colours. Their orange and sky blue are too pale for lines on white: they only fill cells. Two other
# colours replace them, and their purple is a shade darker, so that each curve has a contrast of 3:1 on the papers of
# pages, white or nearly so, and on #111.
BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY = "#0072B2", "#D55E00", "#009E73", "#CA76A5", "#E69F00", "#56B4E9"
OCHRE, VIOLET = "#998045", "#ab73ff"
COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, OCHRE, VIOLET)
BLACK, WHITE = "#111111", "#ffffff"  # the darkest and the brightest page
PRESSED = "#F4FAFF"  # of plotly.js
GREY = "#767676"  # readable on white and on #111, for what belongs to no run
PALE, INK = "#f4f1e4", "#222222"  # a cell without an error, and numbers on a coloured cell
SAND, MIST = "#f3e0b3", "#f1f3f5"  # of other cells, pale enough for these numbers
BAND = "rgba(86,180,233,0.25)"  # SKY, of an interval behind a curve
# Colour of an error message beside a figure: no orange is legible both on white and on black, so it is mixed with the
# page's colour of text.
ERROR_COLOUR = "color-mix(in srgb, #d95f02 70%, var(--jp-ui-font-color0, CanvasText))"
DASHES = ("solid", "dot", "dashdot", "longdashdot")  # plain dashes mean validation, or after clipping
SYMBOLS = ("circle", "square", "diamond", "triangle-up")
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
PAGES = {
    "light": {"paper": WHITE, "text": "#333333", "grid": "#e3e3e3", "line": "#767676"},
    "dark": {"paper": BLACK, "text": "#e0e0e0", "grid": "#363636", "line": "#9a9a9a"},
}
COUNTER_STYLES = {  # axis → counter → colour and pattern; the first two counters of each are a pair that should agree
    "micro-batches (count)": {"forwards": (BLUE, ""), "backwards": (VIOLET, "/")},
    "optimiser steps (count)": {
        "steps_applied": (GREEN, ""),
        "scheduler_ticks": (PURPLE, "/"),
        "steps_skipped": (VERMILLION, "x"),
    },
}
# Over one of the charts of a figure, in the middle of it.
CHART_TITLE = {"xanchor": "center", "yanchor": "bottom", "showarrow": False, "font": {"size": 13}}
CHART_TITLE |= {"xref": "paper", "yref": "paper"}
# Of axes in margins with room for all ticks: measuring them takes a third to a half of the time that plotly draws.
UNMEASURED = {"automargin": False, "ticklabeloverflow": "allow"}
# On the left: the buttons of plotly come up on the right.
_LEGEND = {"orientation": "h", "x": 0, "xanchor": "left", "yref": "container"}
LEGEND_ABOVE = {**_LEGEND, "y": 1, "yanchor": "top", "itemsizing": "constant"}
LEGEND_BELOW = {**_LEGEND, "y": 0, "yanchor": "bottom"}


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
        # plotly.js paints the pressed button in this colour in every theme, so the text on it must stay dark.
        "updatemenudefaults": {"bgcolor": PRESSED, "bordercolor": line, "font": {**small, "color": INK}},
        # Buttons that are of no use here would make the row so wide that it covers titles; the last one would upload.
        "modebar": {"remove": ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d", "sendChartToCloud"]},
    }
    layout["title"]["pad"] = {"b": 14}
    return go.layout.Template(layout=layout)


def templates() -> dict[str, go.layout.Template]:
    """The templates by theme, as a PlotWidget takes them."""
    return {theme: template(theme) for theme in PAGES}


def outlined(marker: Mapping[str, Any], width: float = 2.0) -> tuple[dict[str, Any], dict[str, Any]]:
    """A hollow marker in its colour upon a dark one that is wider: it is visible at either end of the colour map.

    Args:
        marker: of plotly, with its colour.
        width: of the line in its colour, pixels.
    """
    under = {"color": BLACK, "line": {"width": width + 3, "color": BLACK}}
    return {**marker, **under}, {**marker, "line": {"width": width, "color": marker["color"]}}


def map_depth(*levels: NDArray[Any]) -> float:
    """Lower end of the colour scale of maps in dB below their peaks, < 0: a twentieth of their cells lies below it."""
    known = np.concatenate([level[np.isfinite(level)] for level in levels])
    return min(float(np.quantile(known, 0.05)), -0.1) if len(known) else -0.1


def log_ticks(low: float, high: float) -> dict[str, Any]:
    """Ticks of a logarithmic axis: round steps in a short span, 1, 2 and 5 in a longer one, else whole decades.

    Args:
        low: power of ten at which the axis begins.
        high: power of ten at which it ends.
    """
    decades = range(math.floor(low), math.ceil(high) + 1)
    if high - low < 0.6:
        span = 10.0**high - 10.0**low or 10.0**high
        power = 10.0 ** math.floor(math.log10(span / 4))
        step = power * next(digit for digit in (1, 2, 5, 10) if digit * power >= span / 4)
        values = [step * turn for turn in range(math.floor(10.0**low / step), math.ceil(10.0**high / step) + 1) if turn]
    elif high - low < 1.7:
        values = [digit * 10.0**power for power in decades for digit in (1, 2, 5)]
    else:
        shown = [power for power in decades if power % math.ceil((high - low) / 5) == 0]
        words = [f"10<sup>{power}</sup>".replace("-", "−") for power in shown]
        return {"tickvals": [10.0**power for power in shown], "ticktext": words}
    return {"tickvals": values, "ticktext": [f"{value:.6g}" for value in values]}


def log_ticks_of(values: ArrayLike) -> dict[str, Any]:
    """log_ticks() of an axis that shows these values; plotly's own for none that it can show."""
    known = np.asarray(values, dtype=np.float64)
    known = known[np.isfinite(known) & (known > 0)]
    return log_ticks(math.log10(known.min()), math.log10(known.max())) if len(known) else {}


def theme_css() -> str:
    """CSS that turns plain figures, and what widgets leave light or black, dark where JupyterLab is; see theme.css."""
    light, dark = PAGES["light"], PAGES["dark"]
    # As browsers write the colours that plotly.js has set.
    painted = {name: ", ".join(str(int(colour[at : at + 2], 16)) for at in (1, 3, 5)) for name, colour in light.items()}
    values = {f"light_{name}": f"rgb({numbers})" for name, numbers in painted.items()}
    values |= {f"dark_{name}": colour for name, colour in dark.items()} | {"arrow": dark["text"].replace("#", "%23")}
    return string.Template((STATIC / "theme.css").read_text(encoding="utf-8")).substitute(values)


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


def figure_of(content: dict[str, Any]) -> go.Figure:
    """Plain data and layout as a figure in our look, which survives saving and reports."""
    return go.Figure(content).update_layout(template=template())


def trace_styles(names: Iterable[str]) -> list[TraceStyle]:
    """A style for each name: the first four differ in colour, dash and symbol, any 24 in colour or dash."""
    return [trace_style(name, place) for place, name in enumerate(names)]


def trace_style(name: str, place: int) -> TraceStyle:
    """The style of the name at a place, 0 for the first; see trace_styles()."""
    turn = (place + place // 6) % 4
    return TraceStyle(name, COLOURS[place % 6], DASHES[turn], SYMBOLS[turn])


def decimation_indices(values: Array, points: int) -> NDArray[np.intp]:
    """Which samples of a curve to draw such that spikes, NaN and infinities survive.

    Args:
        values: [n], ordinates; may hold NaN and infinity.
        points: largest number of samples in the result, ≥ 8.

    Returns:
        Indices in rising order: the first, the last, and of each stretch the smallest, the largest and one of each kind
        of non-finite value. All of them if there are no more than `points`.
    """
    check_number("points", points, 8, integer=True)
    count = len(values)
    if count <= points:
        return np.arange(count)
    wrong = () if np.isfinite(values).all() else (np.isnan(values), np.isposinf(values), np.isneginf(values))
    kinds = [kind for kind in wrong if kind.any()]
    # Powers of two, so that the points drawn of a growing curve seldom change.
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


def is_drawable(value: float) -> bool:
    """Whether a logarithmic axis can show a value."""
    return math.isfinite(value) and value > 0


def number_text(value: float) -> str:
    """Six significant digits, or what the value is instead of a number."""
    if math.isnan(value):
        return "NaN"
    return f"{value:.6g}" if math.isfinite(value) else ("+∞" if value > 0 else "−∞")
