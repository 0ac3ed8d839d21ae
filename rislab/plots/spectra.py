"""Pictures of space: spectra, positions and bounds as plotly figures in the look of rislab.plots.style.

Pure functions like those: light by default, dark by `figure.update_layout(template=template("dark"))`. Rings are true
sources, crosses are estimates, and grey is what the Cramér–Rao bound allows.
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

from rislab.data.geometry import Grid, position, position_jacobian
from rislab.data.scenes import SceneBatch
from rislab.errors import InputError, check_number
from rislab.music.crb import Bound
from rislab.music.metrics import Matching
from rislab.music.spectra import Spectrum
from rislab.plots.style import GREY, SKY, VERMILLION, Array, TraceStyle, template, trace_styles

Sources = tuple[ArrayLike, ArrayLike]
# Levels of pairs of normal errors: 95 % lie within √5.99 standard deviations, since χ² has two degrees of freedom.
SHARE = 0.95
REACH = math.sqrt(-2 * math.log(1 - SHARE))
METRES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0, 10.0, 20.0, 50.0, 100.0)
ABOVE = {
    "orientation": "h",
    "itemsizing": "constant",
    "x": 1,
    "xanchor": "right",
    "yref": "container",
    "y": 1,
    "yanchor": "top",
}


def beam_map(values: ArrayLike, azimuth: ArrayLike, elevation: ArrayLike, *, title: str, **options: Any) -> go.Figure:
    """One map of power over azimuth and elevation; `options` are those of beam_maps()."""
    return beam_maps({title: values}, azimuth, elevation, **options)


def beam_maps(
    named: Mapping[str, ArrayLike],
    azimuth: ArrayLike,
    elevation: ArrayLike,
    *,
    sources: Sources | None = None,
    peaks: Mapping[str, Sources] | None = None,
    floor_db: float = -40.0,
) -> go.Figure:
    """Maps of power over azimuth and elevation side by side, in dB below the peak of each, on one colour scale.

    Args:
        named: [P, Q] or [P, Q, 1] by title, linear power ≥ 0 (not dB). NaN stays blank, and the title counts it.
        azimuth: [P], elevation: [Q], radians; the axes show degrees.
        sources: azimuth and elevation of the true sources, radians, drawn as rings.
        peaks: azimuth and elevation of estimates by title, radians, drawn as crosses.
        floor_db: lower end of the colour scale, < 0.

    Returns:
        Heat maps, at most three to a row.
    """
    x, y = _degrees("azimuth", azimuth), _degrees("elevation", elevation)
    for name in peaks or {}:
        if name not in named:
            raise InputError(f"peaks name {name!r}; allowed: {', '.join(map(repr, named))}")
    levels = {name: _decibels(name, values, (len(x), len(y)), floor_db) for name, values in named.items()}
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
            figure.add_traces([*_rings(*sources)], rows=cell["row"], cols=cell["col"])
        if peaks and name in peaks:
            figure.add_trace(_crosses(*peaks[name]), **cell)
    if sources:
        _key(figure, "true source", {"symbol": "circle-open", "size": 13, "color": GREY, "line": {"width": 2.5}})
    if peaks:
        _key(figure, "estimate", {"symbol": "x", "size": 9, "color": VERMILLION})
    bar = {"title": {"text": "dB below the peak of each map", "side": "right"}}
    scale = {"colorscale": "Cividis", "cmin": floor_db, "cmax": 0.0, "colorbar": bar}
    lines = max((title.count("<br>") for title in titles), default=0)
    top = 40 + 18 * lines + (32 if sources or peaks else 0)
    figure.update_layout(template=template(), coloraxis=scale, legend=ABOVE, height=top + 60 + 330 * rows, margin_t=top)
    figure.update_xaxes(range=_ends(x), showgrid=False).update_xaxes(title_text="azimuth (°)", row=rows)
    figure.update_yaxes(range=_ends(y), showgrid=False).update_yaxes(title_text="elevation (°)", col=1)
    return figure.update_annotations(font_size=14)


def spectra(
    named: Mapping[str, Spectrum],
    grid: Grid,
    *,
    scene: SceneBatch | None = None,
    number: int = 0,
    floor_db: float = -40.0,
) -> go.Figure:
    """Maps of spectra side by side with their peaks as crosses: the largest value over the ranges, see beam_maps().

    Args:
        named: spectra over one grid, by title. grid: that grid.
        scene: one scene, whose active sources are drawn as rings. number: which scene of the spectra.
        floor_db: lower end of the colour scale, < 0.
    """
    peaks = {}
    for name, spectrum in named.items():
        check_number(f"number for {name!r}", number, 0, len(spectrum.values) - 1, integer=True)
        found = spectrum.peaks.active[number]
        peaks[name] = (spectrum.peaks.azimuth[number][found], spectrum.peaks.elevation[number][found])
    rings = None
    if scene is not None:
        _one(scene)
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
        for pen, levels in zip(trace_styles(curves), curves.values(), strict=True):
            what = f"<b>{pen.name}</b><br>range %{{customdata:.3f}} m<br>%{{y:.2f}} dB<extra></extra>"
            data = {"x": 1 / metres, "y": levels[place], "customdata": metres, "name": pen.name}
            look = {"mode": "lines", "line": {"color": pen.colour, "dash": pen.dash, "width": 2}}
            group = {"legendgroup": pen.name, "showlegend": place == 0, "hovertemplate": what}
            figure.add_scatter(**data, **look, **group, **cell)
    nearest, farthest = metres.min(), metres.max()
    ticks = _apart([value for value in METRES if nearest <= value <= farthest], 1 / nearest - 1 / farthest)
    axis = {"tickvals": [1 / value for value in ticks], "ticktext": [f"{value:g}" for value in ticks]}
    figure.update_xaxes(**axis, range=[1 / farthest, 1 / nearest], title_text="range (m), uniform in 1/r")
    figure.update_xaxes(showticklabels=True)
    figure.update_yaxes(range=[floor_db, 2])
    figure.update_yaxes(title_text="dB below the peak of each curve", col=1)
    figure.update_annotations(font_size=14)
    return figure.update_layout(template=template(), legend=ABOVE, margin_t=104, height=164 + 300 * rows)


def bound_ellipses(scene: SceneBatch, bound: Bound, draws: Matching | None = None) -> go.Figure:
    """Where the Cramér–Rao bound lets estimates of one scene fall, and where they fell.

    Args:
        scene: one scene. bound: its bound, for the same source slots.
        draws: estimates of many draws of the noise matched with the scene, as match() gives them; misses stay out.

    Returns:
        The room from above and from the side with the surface in it; below, for each source, the errors of azimuth and
        elevation against that of the range. Ellipses hold 95 % of unbiased normal errors of the bound's covariance;
        what has no finite bound has no ellipse.
    """
    _one(scene)
    if bound.blocks.shape[:2] != scene.active.shape:
        raise InputError(
            f"bound is of {tuple(bound.blocks.shape[:2])} scenes and sources; allowed: {tuple(scene.active.shape)}"
        )
    if draws is not None and draws.hit.shape[1] != scene.active.shape[1]:
        raise InputError(f"draws have {draws.hit.shape[1]} sources; allowed: {scene.active.shape[1]}, as the scene has")
    slots = scene.active[0].nonzero().squeeze(-1).tolist()
    columns = 2 * len(slots)
    specs = [[{"colspan": len(slots)}, *[None] * (len(slots) - 1)] * 2]
    specs += [[{"colspan": 2}, None] * len(slots)] * 2
    owners = [_Source(scene, bound, draws, slot) for slot in slots]
    titles = ["from above", "from the side"]
    titles += [f"source {one.slot + 1}: {_inside(*one.pair(angle))}" for angle in (0, 1) for one in owners]
    spacing = {"row_heights": [0.44, 0.28, 0.28], "vertical_spacing": 0.1, "horizontal_spacing": 0.3 / columns}
    figure = make_subplots(3, columns, specs=specs, subplot_titles=titles, **spacing)
    _room(figure, scene, len(slots))
    for place, (pen, own) in enumerate(zip(trace_styles(f"source {slot + 1}" for slot in slots), owners, strict=True)):
        for column, rows in ((1, [0, 1]), (1 + len(slots), [0, 2])):
            seen = own.spots[:, rows], own.spread[rows][:, rows]
            _cloud(figure, pen, *seen, own.spot[rows], (1, column), "m", place)
        for angle, name in enumerate(("azimuth", "elevation")):
            cell = (2 + angle, 2 * place + 1)
            _cloud(figure, pen, *own.pair(angle), np.zeros(2), cell, "°", place)
            figure.update_xaxes(title_text=f"{name} error (°)", row=cell[0], col=cell[1])
    figure.update_yaxes(title_text="range error (m)", row=2, col=1)
    figure.update_yaxes(title_text="range error (m)", row=3, col=1)
    figure.update_annotations(font_size=14)
    return figure.update_layout(template=template(), legend=ABOVE, height=1080, margin_t=80)


class _Source:
    """One source in degrees and metres: where it is, its bound, and the errors of its estimates, [D,3]."""

    def __init__(self, scene: SceneBatch, bound: Bound, draws: Matching | None, slot: int) -> None:
        self.slot = slot
        place = [axis[0, slot].double() for axis in (scene.azimuth, scene.elevation, scene.range)]
        turn = position_jacobian(*place).numpy()
        block = bound.blocks[0, slot].cpu().numpy()
        degrees = np.array([180 / math.pi, 180 / math.pi, 1.0])
        self.spot: Array = position(*place).numpy()
        self.spread: Array = turn @ block @ turn.T
        self.block: Array = degrees[:, None] * block * degrees
        errors = np.zeros((0, 3))
        self.spots = np.zeros((0, 3))
        if draws is not None:
            axes = [
                axis[:, slot][draws.hit[:, slot]].double() for axis in (draws.azimuth, draws.elevation, draws.range)
            ]
            errors = np.stack([axis.numpy() for axis in axes], axis=-1)
            found = [middle + error for middle, error in zip(place, axes, strict=True)]
            self.spots = position(*found).numpy()
        self.errors: Array = errors * degrees

    def pair(self, angle: int) -> tuple[Array, Array]:
        """Errors [D,2] of azimuth (0) or elevation (1) and of the range, and the bound on their covariance."""
        rows = [angle, 2]
        return self.errors[:, rows], self.block[rows][:, rows]


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
        named: [X] by method; NaN leaves a gap. x: [X], in rising order.
        title, x_title, y_title: texts; those of the axes with units.
        allowed: [X], what the Cramér–Rao bound allows.
        log_x, log_y: logarithmic axes; on those all values must be > 0.
    """
    along = np.asarray(x, dtype=np.float64).reshape(-1)
    if log_x:
        _check_positive("x", along)
    figure = go.Figure(layout={"template": template(), "title_text": title, "height": 460})
    grey = [] if allowed is None else [(TraceStyle("what the bound allows", GREY, "solid", "circle"), allowed)]
    for pen, values in [*grey, *zip(trace_styles(named), named.values(), strict=True)]:
        heights = np.asarray(values, dtype=np.float64)
        if heights.shape != along.shape:
            raise InputError(f"curve {pen.name!r} has shape {heights.shape}; allowed: {along.shape}, as x has")
        if log_y and (heights <= 0).any():
            raise InputError(f"curve {pen.name!r} goes down to {np.nanmin(heights):g}; allowed: above 0 on a log axis")
        what = f"<b>{pen.name}</b><br>%{{y:.4g}} at %{{x:.4g}}<extra></extra>"
        line = {"color": pen.colour, "dash": pen.dash, "width": 5 if pen.colour == GREY else 2}
        look = {"line": line, "marker": {"symbol": pen.symbol, "size": 8, "color": pen.colour}}
        mode = "lines" if pen.colour == GREY else "lines+markers"
        figure.add_scatter(x=along, y=heights, mode=mode, name=pen.name, hovertemplate=what, cliponaxis=False, **look)
    ticks = {"tickvals": along, "ticktext": [f"{value:.3g}" for value in along]} if log_x else {}
    figure.update_xaxes(title_text=x_title, type="log" if log_x else "linear", **ticks)
    figure.update_yaxes(title_text=y_title)
    return figure.update_yaxes(type="log", dtick=1) if log_y else figure


def recall_curves(
    named: Mapping[str, ArrayLike], snr_db: ArrayLike, *, allowed: ArrayLike | None = None, title: str = "Recall"
) -> go.Figure:
    """Share of the sources found against SNR by method, with what the bound allows as a grey line.

    Args:
        named: [X] by method, in [0, 1]. snr_db: [X], in rising order, dB. allowed: [X], as allowed_recall() gives it.
    """
    for name, values in (named if allowed is None else {**named, "what the bound allows": allowed}).items():
        shares = np.asarray(values, dtype=np.float64)
        if ((shares < 0) | (shares > 1)).any():
            raise InputError(f"recall {name!r} reaches {np.nanmin(shares):g} … {np.nanmax(shares):g}; allowed: [0, 1]")
    what = "recall (share of the sources)"
    figure = sweep(named, snr_db, title=title, x_title="SNR (dB)", y_title=what, allowed=allowed)
    return figure.update_yaxes(range=[0, 1.02])


# ------------------------------------------------------------------------------------------------------------- details


def _rings(azimuth: ArrayLike, elevation: ArrayLike) -> list[go.Scatter]:
    """A white ring on a dark one is seen at either end of the colour map."""
    at = {"x": _degrees("azimuth of a source", azimuth), "y": _degrees("elevation of a source", elevation)}
    rings = []
    for colour, width in (("#111111", 5), ("#ffffff", 2)):
        look = {"symbol": "circle-open", "size": 16, "color": colour, "line": {"width": width}}
        what = "true source<br>%{x:.2f}°, %{y:.2f}°<extra></extra>"
        rings.append(go.Scatter(**at, mode="markers", marker=look, hovertemplate=what, showlegend=False))
    return rings


def _crosses(azimuth: ArrayLike, elevation: ArrayLike) -> go.Scatter:
    at = {"x": _degrees("azimuth of a peak", azimuth), "y": _degrees("elevation of a peak", elevation)}
    look = {"symbol": "x", "size": 9, "color": VERMILLION, "line": {"width": 1, "color": "#ffffff"}}
    what = "estimate<br>%{x:.3f}°, %{y:.3f}°<extra></extra>"
    return go.Scatter(**at, mode="markers", marker=look, hovertemplate=what, showlegend=False, cliponaxis=False)


def _key(figure: go.Figure, name: str, marker: Mapping[str, Any]) -> None:
    """An entry of the legend without points, in colours that every page shows."""
    figure.add_scatter(x=[None], y=[None], mode="markers", marker=marker, name=name, hoverinfo="skip")


def _room(figure: go.Figure, scene: SceneBatch, columns: int) -> None:
    """Axes in metres of one scale with the surface drawn as a bar, seen from above and from the side."""
    rows, across = scene.config.ris_shape
    for column, name, count in ((1, "y", across), (1 + columns, "z", rows)):
        half = count * scene.config.wavelength / 4
        line = {"color": SKY, "width": 7}
        what = f"surface, {count} elements over {2 * half:g} m<extra></extra>"
        bar = {"x": [0, 0], "y": [-half, half], "line": line, "hovertemplate": what}
        # With markers it keeps off the edge of the panel.
        figure.add_scatter(
            **bar,
            mode="lines+markers",
            marker={"size": 2, "color": SKY},
            name="surface (RIS)",
            showlegend=column == 1,
            row=1,
            col=column,
        )
        figure.update_xaxes(title_text="x (m), away from the surface", row=1, col=column)
        anchor = next(figure.select_yaxes(row=1, col=column)).anchor
        title = f"{name} (m)" + (", sideways" if name == "y" else ", up")
        figure.update_yaxes(title_text=title, scaleanchor=anchor, scaleratio=1, row=1, col=column)


def _cloud(
    figure: go.Figure,
    pen: TraceStyle,
    points: Array,
    spread: Array,
    middle: Array,
    cell: tuple[int, int],
    unit: str,
    place: int,
) -> None:
    """Points [D,2], the ellipse of a covariance [2,2] round the middle [2], and a ring there."""
    row, column = cell
    what = f"<b>{pen.name}</b><br>%{{x:.4g}} {unit}, %{{y:.4g}} m<extra>%{{fullData.name}}</extra>"
    shared = {"hovertemplate": what, "row": row, "col": column}
    shown = row == 1 and column == 1
    look = {"color": pen.colour, "symbol": pen.symbol, "size": 5, "opacity": 0.75}
    name = f"estimates of {pen.name}"
    group = {"legendgroup": name, "showlegend": shown and len(points) > 0, "legendrank": 1001 + place}
    figure.add_scatter(x=points[:, 0], y=points[:, 1], mode="markers", marker=look, name=name, **group, **shared)
    outline = _ellipse(spread, middle)
    line = {"color": GREY, "width": 2.5}
    once = {"showlegend": shown and place == 0}
    name = f"{SHARE * 100:g} % of the bound"
    figure.add_scatter(x=outline[:, 0], y=outline[:, 1], mode="lines", line=line, name=name, **once, **shared)
    ring = {"symbol": "circle-open", "size": 11, "color": GREY, "line": {"width": 2}}
    at = {"x": middle[:1], "y": middle[1:], "mode": "markers", "marker": ring, "name": "true position"}
    figure.add_scatter(**at, **once, **shared)
    if row > 1:
        # Lines get no margin by themselves.
        everything = np.concatenate([points, outline, -points, -outline, middle[None]])
        reach = 1.06 * np.abs(everything - middle).max(axis=0)
        known = reach > 0
        for update, end, wide in ((figure.update_xaxes, reach[0], known[0]), (figure.update_yaxes, reach[1], known[1])):
            update(range=[-end, end] if wide else None, row=row, col=column)


def _ellipse(spread: Array, middle: Array) -> Array:
    """Outline of the share SHARE of normal errors, [T,2]; empty where the covariance is not finite."""
    if not np.isfinite(spread).all():
        return np.zeros((0, 2))
    values, vectors = np.linalg.eigh(spread)
    turn = np.linspace(0, 2 * math.pi, 121)
    circle = np.stack([np.cos(turn), np.sin(turn)], axis=-1)
    outline: Array = middle + REACH * (circle * np.sqrt(values.clip(min=0))) @ vectors.T
    return outline


def _inside(errors: Array, spread: Array) -> str:
    if not np.isfinite(spread).all():
        return "no finite bound"
    if not len(errors):
        return f"{SHARE * 100:g} % of the bound"
    distance = np.einsum("di,ij,dj->d", errors, np.linalg.inv(spread), errors)
    return f"{100 * np.mean(distance <= REACH**2):.0f} % of {len(errors)} inside"


def _one(scene: SceneBatch) -> None:
    if len(scene) != 1:
        raise InputError(f"scene holds {len(scene)} scenes; allowed: one")


def _ends(axis: Array) -> list[float] | None:
    """From the outer edge of the first cell to that of the last: marks near the border shall not widen the map."""
    if len(axis) < 2:
        return None
    return [float(axis[0] - (axis[1] - axis[0]) / 2), float(axis[-1] + (axis[-1] - axis[-2]) / 2)]


def _apart(values: list[float], width: float) -> list[float]:
    """Those of some rising ranges, farthest first, that keep a fifteenth of the axis in 1/r between them."""
    kept: list[float] = []
    for value in reversed(values):
        if not kept or 1 / value - 1 / kept[-1] >= width / 15:
            kept.append(value)
    return kept


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
