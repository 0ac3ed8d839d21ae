"""The map during training as a figure: one snapshot for a live panel, and a slider over the epochs for a report."""

from __future__ import annotations

import math
from typing import Any

import plotly.graph_objects as go
import torch

from rislab.errors import InputError
from rislab.music.map_history import MapHistory, Snapshot, evenly_spaced
from rislab.plots import style
from rislab.plots.scene import BAR, decibel_map, decibels, map_ends
from rislab.plots.spectra import legend_keys, marks_on_map

HEIGHT = 444
STEPS = 12  # snapshots of the figure in a report, each with a map of its own
ABOVE = {"yref": "container", "y": 1, "yanchor": "top", "pad": {"t": 12}}
BELOW: dict[str, Any] = {"type": "scatter", "xaxis": "x3", "yaxis": "y3", "showlegend": False}  # NMSE over epochs


def map_history_figure(history: MapHistory) -> go.Figure:
    """The history as a plain figure with a slider over its epochs, which survives saving and reports.

    Args:
        history: with at least one snapshot; of more than STEPS some, evenly among them, are shown.

    Raises:
        InputError: for a history without snapshots.
    """
    snapshots = evenly_spaced(history.snapshots(), STEPS)
    if not snapshots:
        raise InputError("history has 0 snapshots; allowed: at least one, so let a run call its take_snapshot() first")
    parts = [_own(history, snapshot) for snapshot in snapshots]
    common = _common(history, snapshots)
    layout = _layout(history, snapshots[-1])
    steps = []
    for number, (snapshot, part) in enumerate(zip(snapshots, parts, strict=True)):
        visible_traces = [other == number for other in range(len(snapshots)) for _ in part]
        title = {"title.text": snapshot.line(), "annotations[0].text": _named(snapshot)}
        visible = {"visible": visible_traces + [True] * len(common)}
        steps.append({"method": "update", "label": str(snapshot.epoch), "args": [visible, title]})
        for trace in part:
            trace["visible"] = number == len(snapshots) - 1
    colours = {"bgcolor": style.GREY, "bordercolor": style.GREY, "tickcolor": style.GREY, "activebgcolor": style.BLUE}
    place = {"x": 0, "len": 0.92, "pad": {"t": 50}, "currentvalue": {"prefix": "epoch ", "xanchor": "left"}}
    layout["sliders"] = [{"active": len(steps) - 1, "steps": steps, **place, **colours}]
    layout["height"] = HEIGHT + 90
    layout["legend"] = {**layout["legend"], "y": 1 - 50 / layout["height"]}
    layout["margin"] = {**layout["margin"], "b": 150}
    data = [trace for part in parts for trace in part] + common
    return style.figure_of({"data": data, "layout": layout})


def snapshot_figure_dict(history: MapHistory, snapshot: Snapshot | None) -> dict[str, Any]:
    """A snapshot as data and layout: maps of the learned and of the true covariance, and the NMSE so far.

    Args:
        history: whose maps are drawn.
        snapshot: one of its snapshots; None draws the true map alone.
    """
    own = [] if snapshot is None else _own(history, snapshot)
    return {"data": [*own, *_common(history, history.snapshots())], "layout": _layout(history, snapshot)}


def _own(history: MapHistory, snapshot: Snapshot) -> list[dict[str, Any]]:
    """What belongs to one snapshot: its map, its estimates, and where it stands on the curve."""
    # Always the same number of traces: the slider counts them.
    azimuth, elevation = torch.zeros(0), torch.zeros(0)
    if snapshot.peaks is not None:
        active = snapshot.peaks.active[0]
        azimuth, elevation = snapshot.peaks.azimuth[0][active], snapshot.peaks.elevation[0][active]
    place = {"x": [snapshot.epoch], "y": [snapshot.nmse if style.is_drawable(snapshot.nmse) else None]}
    spot = {"mode": "markers", "marker": {"size": 12, "color": style.BLUE, "symbol": "diamond"}, "hoverinfo": "skip"}
    return [
        decibel_map(history.grid, snapshot.map, "", 1),
        *marks_on_map("estimate", azimuth, elevation),
        {**BELOW, **spot, **place},
    ]


def _common(history: MapHistory, snapshots: list[Snapshot]) -> list[dict[str, Any]]:
    """What all snapshots share: the true map, the rings of the sources, and NMSE over epochs."""
    active = history.scene.active[0]
    places = history.scene.azimuth[0][active], history.scene.elevation[0][active]
    known = [snapshot for snapshot in snapshots if style.is_drawable(snapshot.nmse)]
    undrawable = [snapshot for snapshot in snapshots if not style.is_drawable(snapshot.nmse)]
    curve = {"x": [snapshot.epoch for snapshot in known], "y": [snapshot.nmse for snapshot in known]}
    curve |= {"mode": "lines+markers", "line": {"color": style.BLUE, "width": 1.5}, "marker": {"size": 5}}
    curve |= {"hovertemplate": "epoch %{x}<br>NMSE %{y:.4g}<extra></extra>"}
    lowest = min((snapshot.nmse for snapshot in known), default=1.0)
    marks = {"x": [snapshot.epoch for snapshot in undrawable], "y": [lowest] * len(undrawable), "mode": "markers"}
    marks |= {"marker": {"symbol": "triangle-down", "size": 10, "color": style.VERMILLION}}
    marks |= {"hovertext": [snapshot.line() for snapshot in undrawable], "hoverinfo": "text"}
    return [
        decibel_map(history.grid, history.truth, "2", 1),
        *marks_on_map("true source", *places),
        *marks_on_map("true source", *places, axis="2"),
        *legend_keys(),
        {**BELOW, **curve},
        {**BELOW, **marks},
    ]


def _named(snapshot: Snapshot | None) -> str:
    if snapshot is None:
        return "learned covariance: no epoch yet"
    return f"learned covariance, epoch {snapshot.epoch}" + (" (no spectrum)" if snapshot.problem else "")


def _layout(history: MapHistory, snapshot: Snapshot | None) -> dict[str, Any]:
    ends = map_ends(history.grid)
    across, maps, curve = ([0.0, 0.445], [0.505, 0.95]), [0.46, 1.0], [0.0, 0.24]
    titles = ((across[0], maps, _named(snapshot)), (across[1], maps, f"true covariance; both MUSIC, {_where(history)}"))
    still = {"showgrid": False, **style.UNMEASURED}
    known = history.snapshots()
    ticks = style.log_ticks_of([one.nmse for one in known])
    epochs = {"title": {"text": "epoch"}, "dtick": max(1, math.ceil(max((one.epoch for one in known), default=1) / 12))}
    return {
        "coloraxis": style.decibel_axis(style.map_depth(decibels(history.truth).numpy()), {**BAR, "x": 0.96}),
        "height": HEIGHT,
        "margin": {"t": 84, "b": 50, "l": 66, "r": 20},
        "title": {"text": "no epoch yet" if snapshot is None else snapshot.line(), **ABOVE},
        "legend": {**style.LEGEND_ABOVE, "x": 0.95, "xanchor": "right", "y": 1 - 50 / HEIGHT, "yanchor": "bottom"},
        "uirevision": "rislab",
        "xaxis": {"title": {"text": "azimuth (°)"}, "range": ends[0], "domain": across[0], "anchor": "y", **still},
        "yaxis": {"title": {"text": "elevation (°)"}, "range": ends[1], "domain": maps, "anchor": "x", **still},
        "xaxis2": {"title": {"text": "azimuth (°)"}, "range": ends[0], "domain": across[1], "anchor": "y2", **still},
        "yaxis2": {"range": ends[1], "domain": maps, "anchor": "x2", **still},
        "xaxis3": {**epochs, "domain": [0.0, 0.95], "anchor": "y3", "rangemode": "tozero", **style.UNMEASURED},
        "yaxis3": {
            "title": {"text": "NMSE"},
            "type": "log",
            "domain": curve,
            "anchor": "x3",
            **ticks,
            **style.UNMEASURED,
        },
        "annotations": [
            {**style.CHART_TITLE, "x": sum(span) / 2, "y": top[1], "text": text} for span, top, text in titles
        ],
    }


def _where(history: MapHistory) -> str:
    return "plane waves" if history.scene.config.wavefront == "planar" else f"at {float(history.grid.range[0]):.2f} m"
