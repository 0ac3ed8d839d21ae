"""Figures of reports made small: without their words for the gallery, on shared axes for a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rislab.reports import html_export, notebooks
from rislab.reports.figure_content import axis_of, coordinates

SCALE = 0.45  # height of a miniature, as a share of that of its figure
HEIGHT = 240  # of a multiple, in pixels

_AXIS = {"title": {"text": ""}, "showticklabels": False, "ticks": "", "nticks": 6, "automargin": False}
_BARE: dict[str, dict[str, Any]] = {"xaxis": _AXIS, "yaxis": _AXIS, "coloraxis": {"showscale": False}}
_WORDS = ("title", "legend", "annotations", "updatemenus", "sliders", "height", "width", "margin")


def figures_of(executed: Path) -> list[Mapping[str, Any]]:
    """The plotly figures of an executed notebook, in the order of the page."""
    outputs = [output for cell in notebooks.read_notebook(executed).cells for output in cell.get("outputs", [])]
    return [output.data[html_export.PLOTLY] for output in outputs if html_export.PLOTLY in output.get("data", {})]


def miniature(figure: Mapping[str, Any]) -> dict[str, Any]:
    """The same traces and axes in a small frame, without the words: title, legend, colour bars, buttons, axis labels.

    Args:
        figure: data and layout of a plotly figure; it is not changed.
    """
    full = figure.get("layout", {})
    layout = {key: value for key, value in full.items() if key not in _WORDS}
    template = layout.get("template", {})
    # Set in the template, for axes that the layout does not mention, and in the layout, which overrides the template.
    base = dict(template.get("layout", {}))
    base |= {kind: {**base.get(kind, {}), **bare} for kind, bare in _BARE.items()}
    for key, value in layout.items():
        kind = key.rstrip("0123456789")
        if kind in _BARE:
            layout[key] = {**value, **_BARE[kind]}
    layout |= {
        "template": {**template, "layout": base},
        "height": min(max(SCALE * (full.get("height") or 450), 150), 260),
        "margin": dict.fromkeys("lrtb", 8),
        "showlegend": False,
    }
    return {"data": [_small(trace) for trace in figure.get("data", [])], "layout": layout}


def _small(trace: Mapping[str, Any]) -> dict[str, Any]:
    small = dict(trace)
    if trace.get("type") in ("heatmap", "contour"):
        small["showscale"] = False
    marker = trace.get("marker", {})
    if isinstance(marker.get("size"), int | float):
        small["marker"] = {**marker, "size": 0.6 * marker["size"]}
    return small


def multiple(figure: Mapping[str, Any], shared: Mapping[str, Any]) -> dict[str, Any]:
    """A small version of a figure on the axes of all; unlike those of the gallery, its axes can be read.

    Args:
        figure: data and layout of a plotly figure.
        shared: limits by axis, see shared_ranges().
    """
    small = miniature(figure)
    layout, full = small["layout"], figure.get("layout", {})
    for name, limits in shared.items():
        axis = {**layout.get(name, {}), "range": limits, "autorange": False, "showticklabels": True, "ticks": "outside"}
        title = (full.get(name, {}).get("title") or {}).get("text") or ""
        # The first sentence of a title; the rest is in the report.
        axis |= {"title": {"text": title.split(";")[0], "font": {"size": 10}, "standoff": 2}, "automargin": True}
        layout[name] = {**axis, "tickfont": {"size": 10}, "nticks": 5}
    # Lines at the ends of epochs would be so close together that they hide the curves.
    layout.pop("shapes", None)
    return {**small, "layout": {**layout, "height": HEIGHT, "margin": {"l": 46, "r": 6, "t": 6, "b": 36}}}


def shared_ranges(figures: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """The limits of each numeric axis over all figures, as plotly has them (logarithms of a logarithmic one).

    Args:
        figures: data and layout each. Axes without numbers, or with limits of their own, are left out.
    """
    content: dict[str, list[float]] = {}
    for figure in figures:
        layout = figure.get("layout", {})
        for trace in figure.get("data", []):
            for letter in "xy":
                name = axis_of(trace, letter)
                axis = layout.get(name, {})
                values = coordinates(trace.get(letter))
                if letter == "x" and "x" not in trace and (above := coordinates(trace.get("y"))) is not None:
                    values = np.arange(len(above), dtype=np.float64)
                if values is None or "range" in axis:
                    continue
                if axis.get("type") == "log":
                    values = np.log10(values[values > 0])
                content.setdefault(name, []).extend(values[np.isfinite(values)].tolist())
    limits = {}
    for name, values in content.items():
        if values:
            low, high = min(values), max(values)
            edge = 0.04 * (high - low) or 0.5
            limits[name] = [low - edge, high + edge]
    return limits
