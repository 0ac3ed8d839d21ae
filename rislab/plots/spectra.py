"""Spectra over directions and ranges, and values over what was varied.

Rings are true sources, crosses are estimates, and grey is what the Cramér–Rao bound allows.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike, NDArray
from plotly.subplots import make_subplots

from rislab.data.grid import Grid
from rislab.data.scenes import SceneBatch
from rislab.errors import InputError, check_number
from rislab.music.spectra import Spectrum
from rislab.plots.style import (
    GREY,
    LEGEND_ABOVE,
    VERMILLION,
    WHITE,
    Array,
    TraceStyle,
    decibel_axis,
    log_ticks_of,
    map_depth,
    outlined,
    template,
    trace_styles,
)

Sources = tuple[ArrayLike, ArrayLike]
FLOOR_DB = -40.0  # levels below are drawn as this one
MARKS = {  # on maps, hollow
    "true source": {"symbol": "circle-open", "size": 16, "color": WHITE},
    "estimate": {"symbol": "x-thin-open", "size": 10, "color": VERMILLION},
}
KEYS = {  # the same in a legend, in colours that are visible on every page
    "true source": {"symbol": "circle-open", "size": 13, "color": GREY, "line": {"width": 2.5}},
    "estimate": {"symbol": "x-thin-open", "size": 9, "color": VERMILLION, "line": {"width": 2.5, "color": VERMILLION}},
}
METRES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0, 10.0, 20.0, 50.0, 100.0)


def beam_maps(
    named: Mapping[str, ArrayLike],
    azimuth: ArrayLike,
    elevation: ArrayLike,
    *,
    sources: Sources | None = None,
    peaks: Mapping[str, Sources] | None = None,
    floor_db: float | None = None,
) -> go.Figure:
    """Maps of power over azimuth and elevation side by side, in dB below the peak of each, on one colour scale.

    Args:
        named: [P, Q] or [P, Q, 1] by title, linear power ≥ 0 (not dB). NaN stays blank, and the title counts it.
        azimuth: [P], radians; the axis shows degrees.
        elevation: [Q], radians; the axis shows degrees.
        sources: azimuth and elevation of the true sources, radians, drawn as rings.
        peaks: azimuth and elevation of estimates by title, radians, drawn as crosses.
        floor_db: lower end of the colour scale, < 0; that of the maps if None, see style.map_depth().

    Returns:
        Heat maps, at most three to a row.
    """
    x, y = _degrees("azimuth", azimuth), _degrees("elevation", elevation)
    for name in peaks or {}:
        if name not in named:
            raise InputError(f"peaks name {name!r}; allowed: {', '.join(map(repr, named))}")
    lowest = FLOOR_DB if floor_db is None else floor_db
    levels = {name: _decibels(name, values, (len(x), len(y)), lowest) for name, values in named.items()}
    blanks = {name: int(np.isnan(level).sum()) for name, level in levels.items()}
    rows, columns = math.ceil(len(named) / 3) or 1, min(3, len(named)) or 1
    titles = [name + (f" ({count} × NaN)" if count else "") for name, count in blanks.items()]
    titles = ["<br>".join(textwrap.wrap(title, 75 // columns)) for title in titles]
    figure = make_subplots(rows, columns, shared_xaxes="all", shared_yaxes="all", subplot_titles=titles)
    for place, (name, level) in enumerate(levels.items()):
        cell = {"row": place // 3 + 1, "col": place % 3 + 1}
        what = "azimuth %{x:.2f}°<br>elevation %{y:.2f}°<br>%{z:.2f} dB<extra></extra>"
        figure.add_heatmap(x=x, y=y, z=level.T, coloraxis="coloraxis", hovertemplate=what, **cell)
        if sources:
            figure.add_traces(marks_on_map("true source", *sources), rows=cell["row"], cols=cell["col"])
        if peaks and name in peaks:
            figure.add_traces(marks_on_map("estimate", *peaks[name]), rows=cell["row"], cols=cell["col"])
    for name in ["true source"] * bool(sources) + ["estimate"] * bool(peaks):
        figure.add_scatter(x=[None], y=[None], mode="markers", marker=KEYS[name], name=name, hoverinfo="skip")
    bar = {"title": {"text": "dB below the peak of each map", "side": "right"}}
    scale = decibel_axis(map_depth(*levels.values()) if floor_db is None else floor_db, bar)
    lines = max((title.count("<br>") for title in titles), default=0)
    top = 56 + 18 * lines + (24 if sources or peaks else 0)
    figure.update_layout(
        template=template(), coloraxis=scale, legend=LEGEND_ABOVE, height=top + 60 + 330 * rows, margin_t=top
    )
    figure.update_xaxes(range=_ends(x), showgrid=False).update_xaxes(title_text="azimuth (°)", row=rows)
    figure.update_yaxes(range=_ends(y), showgrid=False).update_yaxes(title_text="elevation (°)", col=1)
    return figure.update_annotations(font_size=14)


def spectra(
    named: Mapping[str, Spectrum],
    grid: Grid,
    *,
    scene: SceneBatch | None = None,
    number: int = 0,
    floor_db: float | None = None,
) -> go.Figure:
    """Maps of spectra side by side with their peaks as crosses: the largest value over the ranges, see beam_maps().

    Args:
        named: spectra over one grid, by title.
        grid: that grid.
        scene: one scene, whose active sources are drawn as rings.
        number: which scene of the spectra.
        floor_db: as of beam_maps().
    """
    peaks = {}
    for name, spectrum in named.items():
        check_number(f"number for {name!r}", number, 0, len(spectrum.values) - 1, integer=True)
        active = spectrum.peaks.active[number]
        peaks[name] = (spectrum.peaks.azimuth[number][active], spectrum.peaks.elevation[number][active])
    rings = None
    if scene is not None:
        check_single_scene(scene)
        rings = (scene.azimuth[scene.active], scene.elevation[scene.active])
    values = {name: spectrum.map[number] for name, spectrum in named.items()}
    return beam_maps(values, grid.azimuth, grid.elevation, sources=rings, peaks=peaks, floor_db=floor_db)


def range_cut(
    named: Mapping[str, ArrayLike],
    range: ArrayLike,
    sources: tuple[ArrayLike, ArrayLike, ArrayLike],
    *,
    floor_db: float = -40.0,
) -> go.Figure:
    """Spectra against range in the direction of each source, in dB below the peak of each curve.

    Args:
        named: [K, R] by estimator, linear power ≥ 0, in the directions of the K sources.
        range: [R], metres, > 0; the axis is uniform in 1/r, where a near-field beam has constant width.
        sources: azimuth, elevation (radians) and range (metres) of the true sources, [K] each.
        floor_db: lower end of the axis, < 0.

    Returns:
        One panel a source with its true range as a line, at most three to a row.
    """
    metres = np.asarray(range, dtype=np.float64).reshape(-1)
    _check_positive("range", metres)
    azimuth, elevation = _degrees("azimuth", sources[0]), _degrees("elevation", sources[1])
    truth = np.asarray(sources[2], dtype=np.float64).reshape(-1)
    _check_positive("range of a source", truth)
    shape = (len(truth), len(metres))
    curves = {name: _rows(name, values, shape, floor_db) for name, values in named.items()}
    rows, columns = math.ceil(len(truth) / 3) or 1, min(3, len(truth)) or 1
    titles = [
        f"source {place + 1}: {azimuth[place]:.1f}° azimuth,<br>{elevation[place]:.1f}° elevation, {r:.2f} m".replace(
            "-", "−"
        )
        for place, r in enumerate(truth)
    ]
    options = {"horizontal_spacing": 0.04, "vertical_spacing": 0.34 / rows, "subplot_titles": titles}
    figure = make_subplots(rows, columns, shared_xaxes="all", shared_yaxes="all", **options)
    for place, r in enumerate(truth):
        cell = {"row": place // 3 + 1, "col": place % 3 + 1}
        true = {"x": [1 / r, 1 / r], "y": [floor_db, 2], "line": {"color": GREY, "width": 1.5}, "name": "true range"}
        note = f"true range {r:.3f} m<extra></extra>"
        figure.add_scatter(**true, mode="lines", hovertemplate=note, legendgroup="truth", showlegend=place == 0, **cell)
        for style, levels in zip(trace_styles(curves), curves.values(), strict=True):
            what = f"<b>{style.name}</b><br>range %{{customdata:.3f}} m<br>%{{y:.2f}} dB<extra></extra>"
            data = {"x": 1 / metres, "y": levels[place], "customdata": metres, "name": style.name}
            look = {"mode": "lines", "line": {"color": style.colour, "dash": style.dash, "width": 2}}
            group = {"legendgroup": style.name, "showlegend": place == 0, "hovertemplate": what}
            figure.add_scatter(**data, **look, **group, **cell)
    nearest, farthest = metres.min(), metres.max()
    ticks = _apart([value for value in METRES if nearest <= value <= farthest], 1 / nearest - 1 / farthest)
    axis = {"tickvals": [1 / value for value in ticks], "ticktext": [f"{value:g}" for value in ticks]}
    figure.update_xaxes(**axis, range=[1 / farthest, 1 / nearest], title_text="range (m), uniform in 1/r")
    figure.update_xaxes(showticklabels=True)
    figure.update_yaxes(range=[floor_db, 2])
    figure.update_yaxes(title_text="dB below the peak of each curve", col=1)
    figure.update_annotations(font_size=14)
    return figure.update_layout(template=template(), legend=LEGEND_ABOVE, margin_t=104, height=164 + 300 * rows)


def sweep(
    named: Mapping[str, ArrayLike],
    x: ArrayLike,
    *,
    title: str,
    x_title: str,
    y_title: str,
    allowed: ArrayLike | None = None,
    log_x: bool = False,
    log_y: bool = False,
) -> go.Figure:
    """Measured values against what was varied, with what the bound allows as a grey line.

    Args:
        named: [X] by method; NaN leaves a gap.
        x: [X], in rising order.
        title: of the figure.
        x_title: of the axis, with its unit.
        y_title: of the axis, with its unit.
        allowed: [X], what the Cramér–Rao bound allows.
        log_x: logarithmic axis; all x must be > 0.
        log_y: logarithmic axis; all values must be > 0.
    """
    along = np.asarray(x, dtype=np.float64).reshape(-1)
    if log_x:
        _check_positive("x", along)
    figure = go.Figure(layout={"template": template(), "title_text": title, "height": 460})
    grey = [] if allowed is None else [(TraceStyle("what the bound allows", GREY, "solid", "circle"), allowed)]
    for style, values in [*grey, *zip(trace_styles(named), named.values(), strict=True)]:
        heights = np.asarray(values, dtype=np.float64)
        if heights.shape != along.shape:
            raise InputError(f"curve {style.name!r} has shape {heights.shape}; allowed: {along.shape}, as x has")
        if log_y and (heights <= 0).any():
            raise InputError(
                f"curve {style.name!r} goes down to {np.nanmin(heights):g}; allowed: above 0 on a log axis"
            )
        what = f"<b>{style.name}</b><br>%{{y:.4g}} at %{{x:.4g}}<extra></extra>"
        line = {"color": style.colour, "dash": style.dash, "width": 5 if style.colour == GREY else 2}
        look = {"line": line, "marker": {"symbol": style.symbol, "size": 8, "color": style.colour}}
        mode = "lines" if style.colour == GREY else "lines+markers"
        figure.add_scatter(x=along, y=heights, mode=mode, name=style.name, hovertemplate=what, cliponaxis=False, **look)
    ticks = {"tickvals": along, "ticktext": [f"{value:.3g}" for value in along]} if log_x else {}
    figure.update_xaxes(title_text=x_title, type="log" if log_x else "linear", **ticks)
    figure.update_yaxes(title_text=y_title)
    everything = np.concatenate([np.ravel(values) for _, values in [*grey, *enumerate(named.values())]])
    return figure.update_yaxes(type="log", **log_ticks_of(everything)) if log_y else figure


def recall_curves(
    named: Mapping[str, ArrayLike], snr_db: ArrayLike, *, allowed: ArrayLike | None = None, title: str = "Recall"
) -> go.Figure:
    """Share of the sources found against SNR by method, with what the bound allows as a grey line.

    Args:
        named: [X] by method, in [0, 1].
        snr_db: [X], in rising order, dB.
        allowed: [X], as crb_recall() gives it.
        title: of the figure.
    """
    for name, values in (named if allowed is None else {**named, "what the bound allows": allowed}).items():
        shares = np.asarray(values, dtype=np.float64)
        if ((shares < 0) | (shares > 1)).any():
            raise InputError(f"recall {name!r} reaches {np.nanmin(shares):g} … {np.nanmax(shares):g}; allowed: [0, 1]")
    what = "recall (share of the sources)"
    figure = sweep(named, snr_db, title=title, x_title="SNR (dB)", y_title=what, allowed=allowed)
    return figure.update_yaxes(range=[0, 1.02])


# ------------------------------------------------------------------------------------------------------------- details


def marks_on_map(name: str, azimuth: ArrayLike, elevation: ArrayLike, axis: str = "") -> list[dict[str, Any]]:
    """True sources or estimates upon a map of directions, hollow.

    Args:
        name: of MARKS.
        azimuth: radians.
        elevation: radians.
        axis: number of the axes, "" for the first.
    """
    at: dict[str, Any] = {"x": _degrees(f"azimuth, {name}", azimuth), "y": _degrees(f"elevation, {name}", elevation)}
    at |= {"xaxis": f"x{axis}", "yaxis": f"y{axis}", "hovertemplate": name + "<br>%{x:.3f}°, %{y:.3f}°<extra></extra>"}
    look = {"type": "scatter", "mode": "markers", "name": name, "showlegend": False, "cliponaxis": False}
    return [{**look, **at, "marker": marker} for marker in outlined(MARKS[name])]


def legend_keys() -> list[dict[str, Any]]:
    """What marks_on_map() means, for a legend."""
    empty = {"type": "scatter", "mode": "markers", "x": [None], "y": [None]}
    return [{**empty, "marker": marker, "name": name} for name, marker in KEYS.items()]


def check_single_scene(scene: SceneBatch) -> None:
    """Raise InputError unless a batch holds one scene."""
    if len(scene) != 1:
        raise InputError(f"scene holds {len(scene)} scenes; allowed: one")


def _ends(axis: Array) -> list[float] | None:
    """From the outer edge of the first cell to that of the last, so that marks near the border do not widen the map."""
    if len(axis) < 2:
        return None
    return [float(axis[0] - (axis[1] - axis[0]) / 2), float(axis[-1] + (axis[-1] - axis[-2]) / 2)]


def _apart(values: list[float], width: float) -> list[float]:
    """Of ranges in rising order those, farthest first, that are at least a fifteenth of the axis in 1/r apart."""
    chosen: list[float] = []
    for value in reversed(values):
        if not chosen or 1 / value - 1 / chosen[-1] >= width / 15:
            chosen.append(value)
    return chosen


def _check_positive(name: str, values: Array) -> None:
    if values.size and not values.min() > 0:
        raise InputError(f"{name} goes down to {values.min():g}; allowed: above 0")


def _degrees(name: str, radians: ArrayLike) -> Array:
    angles = np.asarray(radians, dtype=np.float64).reshape(-1)
    if angles.size and not np.abs(angles).max() <= math.pi:
        raise InputError(f"{name} reaches {np.abs(angles).max():g}; allowed: radians in [-π, π]")
    return np.rad2deg(angles)


def _rows(name: str, values: ArrayLike, shape: tuple[int, int], floor_db: float) -> NDArray[np.float32]:
    """Each row in dB below its own peak."""
    power = np.asarray(values, dtype=np.float64)
    if power.shape != shape:
        raise InputError(f"curves {name!r} have shape {power.shape}; allowed: {shape}, sources by ranges")
    return np.stack([_decibels(name, row[None], (1, shape[1]), floor_db)[0] for row in power])


def _decibels(name: str, values: ArrayLike, shape: tuple[int, int], floor_db: float) -> NDArray[np.float32]:
    """Power in dB below its finite peak, no lower than the floor; infinity counts as the peak."""
    check_number("floor_db", floor_db, high=-1e-3)
    power = np.asarray(values, dtype=np.float64)
    if power.shape not in (shape, (*shape, 1)):
        raise InputError(f"map {name!r} has shape {power.shape}; allowed: {shape}, azimuth by elevation")
    if (power < 0).any():
        raise InputError(f"map {name!r} goes down to {np.nanmin(power):g}; allowed: linear power ≥ 0, not dB")
    peak = np.max(power, where=np.isfinite(power), initial=0.0) or 1.0
    with np.errstate(divide="ignore"):
        decibels = 10 * np.log10(np.minimum(power.reshape(shape) / peak, 1.0))
    clipped: NDArray[np.float32] = np.maximum(decibels, floor_db).astype(np.float32)
    return clipped
