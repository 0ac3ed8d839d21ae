"""One scene as a figure: MUSIC and MVDR maps, a cut over the range, eigenvalues, and what the bound allows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import plotly.graph_objects as go
import torch

from rislab.checkup.html_table import Html, html_table
from rislab.data.grid import Grid
from rislab.music.model_order import order_criteria
from rislab.music.scene_view import SceneAnalysis, SpectraView
from rislab.plots.bound import SHARE, direction_outlines
from rislab.plots.spectra import FLOOR_DB, KEYS, legend_keys, marks_on_map
from rislab.plots.style import (
    BAND,
    BLUE,
    CHART_TITLE,
    GREEN,
    GREY,
    LEGEND_BELOW,
    UNMEASURED,
    decibel_axis,
    figure_of,
    map_depth,
)

BAR = {"title": {"text": "dB below the peak", "side": "right"}, "y": 0.73, "len": 0.56}
HEIGHT = 496
# 95 % of normal errors of one quantity.
INTERVAL = math.sqrt(2) * float(torch.erfinv(torch.tensor(SHARE, dtype=torch.float64)))


def scene_figure(spectra: SpectraView) -> go.Figure:
    """scene_figure_dict() as a plain figure, which survives saving and reports."""
    return figure_of(scene_figure_dict(spectra))


def scene_figure_dict(spectra: SpectraView) -> dict[str, Any]:
    """Spectra as data and layout: MUSIC and MVDR maps with sources, estimates and bound; range cut; eigenvalues.

    Spectra that are no SceneAnalysis are drawn without estimates and bound, with the same axes.
    """
    settings = spectra.settings
    here = settings.places[settings.chosen][2]
    depths = [map_depth(decibels(values).numpy()) for values in (spectra.music, spectra.mvdr)]
    titles = [f"MUSIC, {settings.covariance} covariance, at {here:.2f} m", f"MVDR, at {here:.2f} m"]
    titles = [f"{title}: {depth:.1f} … 0 dB".replace("-", "−") for title, depth in zip(titles, depths, strict=True)]
    titles += [f"range, source {settings.chosen + 1}{_margin(spectra)}", "largest eigenvalues"]
    ends = map_ends(spectra.grid)
    ticks = [tick for tick in (0.5, 1, 2, 3, 5, 10) if spectra.ranges.min() <= tick <= spectra.ranges.max()]
    across, down = ([0.0, 0.45], [0.55, 1.0]), ([0.46, 1.0], [0.0, 0.24])
    layout: dict[str, Any] = {
        "coloraxis": {**decibel_axis(depths[0], {}), "showscale": False},
        "coloraxis2": {**decibel_axis(depths[1], {}), "showscale": False},
        "height": HEIGHT,
        "margin": {"t": 52, "b": 84, "l": 60, "r": 20},
        "legend": {**LEGEND_BELOW, "x": 1, "xanchor": "right"},
        "uirevision": "rislab",
        "xaxis": {"title": {"text": "azimuth (°)"}, "range": ends[0]},
        "xaxis2": {"title": {"text": "azimuth (°)"}, "range": ends[0]},
        "xaxis3": {"title": {"text": "range (m)"}, "type": "log", "tickvals": ticks},
        "xaxis4": {"title": {"text": "number"}, "dtick": 1},
        "yaxis": {"title": {"text": "elevation (°)"}, "range": ends[1]},
        "yaxis2": {"range": ends[1]},
        "yaxis3": {"title": {"text": "dB"}},
        "yaxis4": {"title": {"text": "share"}, "rangemode": "tozero"},
        "annotations": [],
    }
    for number, title in enumerate(titles):
        column, row, name = number % 2, number // 2, str(number + 1) if number else ""
        layout[f"xaxis{name}"] |= {"domain": across[column], "anchor": f"y{name}", **UNMEASURED}
        layout[f"yaxis{name}"] |= {"domain": down[row], "anchor": f"x{name}", **UNMEASURED}
        if row == 0:
            layout[f"xaxis{name}"]["showgrid"] = layout[f"yaxis{name}"]["showgrid"] = False
        place = {"x": sum(across[column]) / 2, "y": down[row][1]}
        layout["annotations"].append({**CHART_TITLE, **place, "text": title})
    layout["shapes"] = [_vertical_line("3", here), _vertical_line("4", len(settings.places) + 0.5), *_band(spectra)]
    maps = [*_map(spectra, spectra.music, ""), *_map(spectra, spectra.mvdr, "2")]
    others = [*_cuts(spectra), _eigenvalues(spectra), *legend_keys(), _ranged(spectra)]
    return {"data": [*maps, *others], "layout": layout}


def degrees(radians: torch.Tensor) -> np.ndarray[Any, Any]:
    """Radians as degrees, float32."""
    return torch.rad2deg(radians).to(torch.float32).numpy()


def map_ends(grid: Grid) -> list[list[float]]:
    """First and last azimuth and elevation of a grid, degrees."""
    return [[float(axis[0]), float(axis[-1])] for axis in (degrees(grid.azimuth), degrees(grid.elevation))]


def decibels(values: torch.Tensor) -> torch.Tensor:
    """Linear power as dB below its largest value, not under FLOOR_DB, float32; NaN stays."""
    return (10 * torch.log10(values / values.max())).clamp(min=FLOOR_DB).to(torch.float32)


def decibel_map(grid: Grid, values: torch.Tensor, axis: str, digits: int) -> dict[str, Any]:
    """A trace of decibels() over azimuth and elevation.

    Args:
        grid: of the values.
        values: [P, Q], linear power.
        axis: "" or the number of the axes.
        digits: after the point, in the hover text.
    """
    x, y, z = (f"%{{{name}:.{digits}f}}" for name in "xyz")
    what = f"azimuth {x}°<br>elevation {y}°<br>{z} dB<extra></extra>"
    data = {"x": degrees(grid.azimuth), "y": degrees(grid.elevation), "hovertemplate": what}
    data["z"] = np.ascontiguousarray(decibels(values).numpy().T)
    return {"type": "heatmap", **data, "coloraxis": "coloraxis", "xaxis": f"x{axis}", "yaxis": f"y{axis}"}


def _map(spectra: SpectraView, values: torch.Tensor, axis: str) -> list[dict[str, Any]]:
    cell = {"xaxis": f"x{axis}", "yaxis": f"y{axis}", "showlegend": not axis}
    azimuth, elevation = _ellipses(spectra)
    heat = {**decibel_map(spectra.grid, values, axis, 2), "coloraxis": f"coloraxis{axis}", "showlegend": False}
    outline = {"type": "scatter", "x": azimuth, "y": elevation, "mode": "lines", "line": {"color": GREY, "width": 1.5}}
    outline |= {"name": "95 % of the bound", "hoverinfo": "skip"}
    places = torch.deg2rad(torch.tensor(spectra.settings.places, dtype=torch.float64))
    marks = marks_on_map("true source", places[:, 0], places[:, 1], axis)
    if isinstance(spectra, SceneAnalysis):
        active = spectra.peaks.active[0]
        marks += marks_on_map("estimate", spectra.peaks.azimuth[0][active], spectra.peaks.elevation[0][active], axis)
    return [heat, {**outline, **cell}, *marks]


def _cuts(spectra: SpectraView) -> list[dict[str, Any]]:
    styles = {"MUSIC": {"color": BLUE, "dash": "solid"}, "MVDR": {"color": GREEN, "dash": "dot"}}
    cell = {"type": "scatter", "mode": "lines", "xaxis": "x3", "yaxis": "y3", "x": spectra.ranges.numpy()}
    return [
        {**cell, "y": decibels(values).numpy(), "name": name, "line": styles[name]}
        for name, values in spectra.cut.items()
    ]


def _eigenvalues(spectra: SpectraView) -> dict[str, Any]:
    shares = (spectra.eigenvalues / spectra.eigenvalues.sum()).numpy()
    bars = {"type": "bar", "x": np.arange(1, len(shares) + 1), "y": shares, "marker": {"color": BLUE}}
    return {**bars, "xaxis": "x4", "yaxis": "y4", "showlegend": False}


def _ranged(spectra: SpectraView) -> dict[str, Any]:
    """The estimated range of the chosen source, on the range cut; nothing if it was missed."""
    at: list[float | None] = [None]
    if isinstance(spectra, SceneAnalysis) and bool(spectra.matching.hit[0, spectra.settings.chosen]):
        at = [float(spectra.peaks.range[0, spectra.matching.slot[0, spectra.settings.chosen]])]
    cell = {"type": "scatter", "mode": "markers", "xaxis": "x3", "yaxis": "y3", "showlegend": False}
    cell["marker"] = KEYS["estimate"]
    return {**cell, "x": at, "y": [0.0] if at[0] else [None], "hovertemplate": "estimate %{x:.3f} m<extra></extra>"}


def _half_interval(spectra: SpectraView) -> float:
    """Half the 95 % interval of the chosen source's range by the bound, metres; NaN before the bound is known."""
    if not isinstance(spectra, SceneAnalysis):
        return math.nan
    return INTERVAL * float(spectra.bound.range[0, spectra.settings.chosen])


def _margin(spectra: SpectraView) -> str:
    width = _half_interval(spectra)
    if math.isnan(width):
        return ""
    return f": ± {width:.2g} m in 95 % of the bound" if math.isfinite(width) else ": no finite bound"


def _band(spectra: SpectraView) -> list[dict[str, Any]]:
    """The 95 % interval of the bound around the true range, as far as the cut goes; nothing where it is infinite."""
    here, width = spectra.settings.places[spectra.settings.chosen][2], _half_interval(spectra)
    if not math.isfinite(width):
        return []
    ends = [min(max(here + turn * width, float(spectra.ranges.min())), float(spectra.ranges.max())) for turn in (-1, 1)]
    box = {"type": "rect", "xref": "x3", "yref": "y3 domain", "x0": ends[0], "x1": ends[1], "y0": 0, "y1": 1}
    return [{**box, "editable": False, "fillcolor": BAND, "line": {"color": GREY, "width": 1}}]


def _vertical_line(axis: str, x: float) -> dict[str, Any]:
    line = {"type": "line", "xref": f"x{axis}", "yref": f"y{axis} domain", "x0": x, "x1": x, "y0": 0, "y1": 1}
    return {**line, "editable": False, "line": {"color": GREY, "width": 1.5, "dash": "dash"}}


def _ellipses(spectra: SpectraView) -> tuple[list[float | None], list[float | None]]:
    """Outlines of the bound around each source, in degrees, with gaps between them; a gap before it is known."""
    if not isinstance(spectra, SceneAnalysis):
        return [None], [None]
    x: list[float | None] = [None]
    y: list[float | None] = [None]
    for outline in direction_outlines(spectra, torch.linspace(0, 2 * math.pi, 49, dtype=torch.float64)):
        x += [*outline[:, 0].tolist(), None]
        y += [*outline[:, 1].tolist(), None]
    return x, y


def criteria_table(spectra: SpectraView) -> str:
    """Order criteria over the number of sources, above the smallest of each, as HTML."""
    named = order_criteria(spectra.scene)
    rows = [
        [name.upper(), *(Html("<b>0</b>") if value == 0 else f"+{value:.1f}" for value in values)]
        for name, values in named.items()
    ]
    counts = range(len(named["bic"]))
    numbers = range(1, len(counts) + 1)
    return html_table(("sources", *counts), rows, label="order criteria", numbers=numbers, row_title=0)
