"""What a plotly figure shows, in words and numbers: its title, its axes, its traces; for screen readers and legends."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST = 12  # traces that a description names; others are only counted
KINDS = {"bar": "bars", "heatmap": "map", "contour": "map", "surface": "surface", "table": "table"}


def title_of(content: Mapping[str, Any]) -> str:
    """Title of a plotly figure as plain text; empty where it has none."""
    return _text(content.get("layout", {}).get("title"))


def headings(content: Mapping[str, Any]) -> list[str]:
    """Titles of subplots, which plotly keeps as annotations that stand on the upper edge of their frames."""
    notes = content.get("layout", {}).get("annotations", [])
    upper = [note for note in notes if note.get("xref") == "paper" and note.get("yanchor") == "bottom"]
    return [_text(note) for note in upper]


def unpacked(content: Mapping[str, Any]) -> NDArray[Any]:
    """An array that plotly has packed as "bdata"."""
    flat = np.frombuffer(base64.b64decode(content["bdata"]), dtype=content["dtype"])
    return flat.reshape([int(size) for size in str(content.get("shape", len(flat))).split(",")])


def coordinates(content: Any) -> Any:
    """Coordinates of a trace as an array, packed or not; None where they are no numbers."""
    if isinstance(content, Mapping) and "bdata" in content:
        return unpacked(content).astype(np.float64)
    if not isinstance(content, list | tuple) or not content:
        return None
    rows = content if isinstance(content[0], list | tuple) else [content]
    if not all(_is_number(value) for row in rows for value in row) or len({len(row) for row in rows}) != 1:
        return None
    numbers = np.array([[math.nan if value is None else value for value in row] for row in rows], dtype=np.float64)
    return numbers if rows is content else numbers[0]


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def describe_figure(content: Mapping[str, Any]) -> str:
    """What a figure shows, as a screen reader reads it: its title, then axes with limits and traces with values.

    Args:
        content: data and layout of a plotly figure.
    """
    title = title_of(content) or " · ".join(headings(content))
    traces = [trace for trace in content.get("data", []) if trace.get("visible", True) is True]
    layout = content.get("layout", {})
    shown = [sentence for trace in traces if (sentence := _trace(trace, alone=len(traces) == 1))]
    more = [f"{len(shown) - MOST} more"] if len(shown) > MOST else []
    sentences = [title, *_axes(traces, layout), *shown[:MOST], *more]
    return ". ".join(sentence.rstrip(".") for sentence in sentences if sentence) or "empty figure"


def _axes(traces: Sequence[Mapping[str, Any]], layout: Mapping[str, Any]) -> list[str]:
    """A phrase for each pair of axes: what is drawn over what."""
    pairs = dict.fromkeys((axis_of(trace, "x"), axis_of(trace, "y")) for trace in traces if "y" in trace)
    phrases = []
    for x, y in pairs:
        names = [_text(layout.get(axis, {}).get("title")) for axis in (y, x)]
        scale = " (logarithmic)" if layout.get(y, {}).get("type") == "log" else ""
        if any(names):
            phrases.append(f"{names[0] or 'values'}{scale} over {names[1] or 'their number'}")
    return list(dict.fromkeys(phrases))


def axis_of(trace: Mapping[str, Any], letter: str) -> str:
    """Name of the axis of a trace in the layout, such as "xaxis2"."""
    return f"{letter}axis{trace.get(f'{letter}axis', letter)[1:]}"


def _trace(trace: Mapping[str, Any], *, alone: bool) -> str:
    kind = trace.get("type", "scatter")
    default = KINDS.get(kind, "markers" if "markers" in str(trace.get("mode", "")) else "curve")
    name = _text(trace.get("name")) or default
    if trace.get("hoverinfo") == "skip" and not trace.get("name") and not alone:
        return ""  # an outline or a band, which belongs to the trace beside it
    if (heights := coordinates(trace.get("z"))) is not None:
        return f"{name}: {_map(trace, heights)}"
    letter = "x" if trace.get("orientation") == "h" else "y"
    values = coordinates(trace.get("r", trace.get(letter)))
    if values is None or not np.isfinite(values).any():
        return name if trace.get("name") else ""
    labels = trace.get("theta", trace.get("y" if letter == "x" else "x"))
    if kind == "bar" and isinstance(labels, list | tuple) and len(labels) <= MOST:
        shares = [f"{_text(label)} {_number(value)}" for label, value in zip(labels, values, strict=False)]
        return f"{name}: {', '.join(shares)}"
    finite = values[np.isfinite(values)]
    if len(finite) == 1:
        return f"{name}: {_number(finite[0])}"
    ends = f"from {_number(finite[0])} to {_number(finite[-1])}"
    return f"{name}: {len(values)} values {ends}, least {_number(finite.min())}, greatest {_number(finite.max())}"


def _map(trace: Mapping[str, Any], heights: Any) -> str:
    if not np.isfinite(heights).any():
        return "no finite value"
    limits = f"values from {_number(np.nanmin(heights))} to {_number(np.nanmax(heights))}"
    if heights.ndim != 2:
        return limits
    row, column = np.unravel_index(np.nanargmax(heights), heights.shape)
    x, y = (_at(trace.get(letter), index) for letter, index in (("x", column), ("y", row)))
    return f"{heights.shape[1]} by {heights.shape[0]} {limits}, greatest at {x}, {y}"


def _at(axis: Any, index: Any) -> str:
    """What stands at a place of an axis: a number, a word, or its index where the axis holds nothing."""
    numbers = coordinates(axis)
    if numbers is not None and numbers.ndim == 1:
        return _number(numbers[index])
    return _text(axis[index]) if isinstance(axis, list | tuple) else str(index)


def _number(value: float) -> str:
    return f"{value:.3g}"


def _text(title: Any) -> str:
    """Text of a title, an annotation or a label, without its markup."""
    inside = title.get("text") if isinstance(title, Mapping) else title
    return " ".join(re.sub("<[^>]*>", " ", "" if inside is None else str(inside)).split())


def legend(contents: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """One entry for each name of a trace in the figures, as their own legends show it.

    Args:
        contents: data and layout each.

    Returns:
        Of each its name, kind (line, marker, bar or scale), colour and dash, in the order of the figures; colour is ""
        where the values have colours of their own.
    """
    entries: dict[str, dict[str, str]] = {}
    for content in contents:
        template = content.get("layout", {}).get("template", {}).get("layout", {})
        cycle = content.get("layout", {}).get("colorway") or template.get("colorway") or ["currentColor"]
        for number, trace in enumerate(content.get("data", [])):
            name = _text(trace.get("name"))
            if not name or trace.get("showlegend") is False or name in entries:
                continue
            line, marker = trace.get("line", {}), trace.get("marker", {})
            lines = trace.get("type", "scatter") == "scatter" and "lines" in str(trace.get("mode", "lines"))
            colour = (line if lines else marker).get("color") or marker.get("color") or cycle[number % len(cycle)]
            kind = "line" if lines else "bar" if trace.get("type") == "bar" else "marker"
            dash = line.get("dash", "solid") if lines else "solid"
            entries[name] = {
                "name": name,
                "kind": kind,
                "dash": dash,
                "colour": colour if isinstance(colour, str) else "",
            }
        scale = content.get("layout", {}).get("coloraxis", {})
        if "cmin" in scale and "cmax" in scale:
            unit = _text(scale.get("colorbar", {}).get("title")) or "colour"
            name = f"{unit}: dark is {_number(scale['cmin'])}, bright is {_number(scale['cmax'])}"
            entries.setdefault(name, {"name": name, "kind": "scale", "dash": "solid", "colour": ""})
    return list(entries.values())
