"""Live runs as one figure and one table, in plain mappings: plotly's objects check every property at every redraw."""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, TypeAlias

import numpy as np

from rislab.checkup.html_table import html_table
from rislab.panels.live_checkup import FedStep
from rislab.panels.run import Run, Values
from rislab.plots.curves import curve, end_labels, epoch_lines, evaluation, level_lines, loss_and_median, marks
from rislab.plots.style import (
    BLUE,
    CHART_TITLE,
    COUNTER_STYLES,
    GREY,
    UNMEASURED,
    VERMILLION,
    TraceStyle,
    log_ticks,
    trace_style,
)

HEIGHT = 440
POINTS, MEDIANS = 500, 300  # of a curve on the page; the records hold all
SIDES = ("gradient norm", "learning rate", "loss scale", "counts")
ROWS = ([0.81, 0.96], [0.57, 0.72], [0.33, 0.48], [0.02, 0.19])  # of these, each under its title
BELOW = 0.36  # of the figure of the losses, for the strip
LONG = 1e3  # from which on the numbers of a linear axis need more room
MARGIN = {"t": 72, "b": 40, "l": 64, "r": 12}
COUNTER_DASHES = {"": "solid", "/": "dash", "x": "dot"}  # pattern of a bar → dash of a line
LABELLED = 6  # runs whose curves have a label; older ones are thin and share one
ROOM = 150  # pixels behind the ends of the curves, for their labels; plot.js makes it on any width of the page
GAP = 0.6  # between the bars of two steps
OFF = 0.02  # from 1, beyond which a weight is not the exact share
BARS = 40  # micro-batches in the strip
UNITS = {"samples": "samples", "epochs": "epochs", "steps": "optimiser steps"}
_COUNTS = ("count steps_applied", "count steps_skipped", "count forwards", "count backwards")
COMPARED = (*_COUNTS[:2], "train", "train_eval", "validation", *_COUNTS[2:])
Strip: TypeAlias = tuple[list[dict[str, Any]], dict[str, Any]]  # its traces, and the ticks of its axis
NOWHERE: dict[str, Any] = {"type": "scatter", "x": [None], "y": [None]}
HEAD = ("run", "state", "epoch", "steps", "skipped", "train", "eval, same data", "validation", "forwards", "backwards")


def figure_dict(
    runs: Sequence[Run], title: str, strip: Strip | None = None, *, log: bool = True, unit: str = "steps"
) -> dict[str, Any]:
    """Losses of all runs, and what fed the steps of the last one.

    While curves alone grow, and neither title nor strip are new, the layout is the same, and a page has half the work.

    Args:
        runs: oldest first.
        title: of the figure.
        strip: from fed_strip(), perhaps of a moment ago; None takes that of now.
        log: whether the loss axis is logarithmic.
        unit: of the axis across, a key of UNITS.
    """
    data: list[dict[str, Any]] = []
    ends: list[tuple[str, float, float]] = []  # label, x and y of its curve's end
    for place, run in enumerate(runs):
        style = trace_style(run.name, run.number - 1)
        old = len(runs) - place > LABELLED
        name = run.label(runs[0].config)
        drawn = _losses(run, name, style, unit, thin=old)
        data += drawn
        if (end := _end_of(drawn[1])) is not None and not old:
            ends.append((f"<span style='color:{style.colour}'>■</span> {_wrapped(name)}", *end))
    reach = _reach(runs, unit)
    if runs:
        levels = level_lines(runs[-1].levels, 0.0, reach, places=2)
        data += [{**level, "showlegend": False} for level in levels]
        ends += [(f"{name} {value:.3g}", reach, value) for name, value in runs[-1].levels.items()]
    span = _span(data, log)
    bars, ticks = strip or fed_strip(runs[-1] if runs else None)
    data += [*_key(data, runs), end_labels(ends, 1.02 * reach, span, log), *bars]
    if runs:
        data.insert(0, _epoch_ends(_across(runs[-1], unit, "epoch end").tolist(), span, log))
    layout = _layout(title, log, unit)
    layout["xaxis"]["range"], layout["yaxis"]["range"] = [0, reach], span
    layout["yaxis"] |= log_ticks(*span) if log else {"nticks": 6, "exponentformat": "e"}
    if not log and span[1] > LONG:
        layout["margin"] = {**MARGIN, "l": 84}
    if not runs:
        middle = {"x": 0.5, "y": 0.5, "xref": "x domain", "yref": "y domain", "yshift": 14, "showarrow": False}
        layout["annotations"].append({"text": "no run yet: press Start", **middle})
    layout["xaxis2"] |= ticks
    return {"data": data, "layout": layout}


def side_charts_dict(runs: Sequence[Run], *, unit: str = "steps") -> dict[str, Any]:
    """Gradient norms, learning rates, loss scale and event counts of the last run.

    A figure of its own: a redraw of the losses took twice as long with these charts in it.

    Args:
        runs: oldest first.
        unit: of the axis across, a key of UNITS.
    """
    small = {"size": 11}
    layout: dict[str, Any] = {
        "height": HEIGHT,
        "autosize": True,
        "margin": {**MARGIN, "l": 52},
        "uirevision": f"rislab {unit}",
        "annotations": [],
    }
    data = _side(runs[-1], unit) if runs else _empty_sides()
    for number, (row, name) in enumerate(zip(ROWS, SIDES, strict=True), start=1):
        suffix = "" if number == 1 else str(number)
        column = {"anchor": f"y{suffix}", "showticklabels": number == len(ROWS), "nticks": 4, "tickfont": small}
        column |= {"matches": "x"} if suffix else {"range": [0, _reach(runs[-1:], unit)]}
        layout[f"xaxis{suffix}"] = column | UNMEASURED
        axis = {"domain": row, "anchor": f"x{suffix}", "nticks": 3, "tickfont": small, **UNMEASURED}
        layout[f"yaxis{suffix}"] = axis | ({"rangemode": "tozero"} if suffix else {"type": "log"} if runs else {})
        layout[f"yaxis{suffix}"] |= {} if runs else {"range": [0, 1]}
        place = {"x": 0, "xanchor": "left", "y": row[1], "font": {"size": 12}}
        lines = [trace for trace in data if trace["yaxis"] == f"y{suffix}"]
        layout["annotations"].append({**CHART_TITLE, **place, "text": name + _legend_of(lines), "align": "left"})
    layout[f"xaxis{len(ROWS)}"]["title"] = {"text": UNITS[unit], "standoff": 2, "font": small}
    if runs:
        layout["yaxis"] |= _few_ticks([trace["y"] for trace in data if trace["yaxis"] == "y"])
    return {"data": data, "layout": layout}


def _legend_of(lines: Sequence[dict[str, Any]]) -> str:
    """The names of lines beside their colours, two in the first row, for a title; "" for one line alone."""
    if len(lines) < 2:
        return ""
    names = [f"<span style='color:{line['line']['color']}'>■</span> {line['name'].split()[-1]}" for line in lines]
    return f": {' '.join(names[:2])}{'<br>' if names[2:] else ''}{' '.join(names[2:])}"


def _empty_sides() -> list[dict[str, Any]]:
    """What plotly needs to draw the axes of charts without data."""
    axes = ("", *(str(number) for number in range(2, len(SIDES) + 1)))
    return [{**NOWHERE, "showlegend": False, "xaxis": f"x{axis}", "yaxis": f"y{axis}"} for axis in axes]


def table(runs: Sequence[Run]) -> str:
    """Final numbers of all runs, oldest first, as HTML; of two, also their ratios."""
    if not runs:
        return ""
    rows = []
    for run in runs:
        end = run.history.last
        cells: list[object] = [""] * 8
        if end is not None:
            counters = end.counters
            fresh = "none" if end.validation is None else f"{end.validation:.3g}"
            cells = [f"{end.epoch}/{end.epochs}", counters.steps_applied, counters.steps_skipped, f"{end.train:.3g}"]
            cells += [f"{end.train_eval:.3g}", fresh, counters.forwards, counters.backwards]
        where = "in memory" if run.folder is None else run.folder
        rows.append([run.label(runs[0].config), run.state, *cells, where])
    if len(runs) == 2 and all(run.history.last is not None for run in runs):
        rows.append(_ratios(*runs))
    return html_table((*HEAD, "records"), rows, label="runs", numbers=range(2, 10), row_title=0, size=12)


def _ratios(one: Run, other: Run) -> list[object]:
    """A row of the table: how many times as large the numbers of the second run are, after equally many epochs."""
    last = min(len(run.history.column("epoch")) for run in (one, other))

    def ratio(name: str) -> str:
        a, b = (run.history.column(name) for run in (one, other))
        known = min(len(a), len(b)) >= last and a[last - 1] != 0
        return f"× {b[last - 1] / a[last - 1]:.3g}" if known else ""

    return [
        f"{other.name} / {one.name}",
        f"after {last} epoch{'' if last == 1 else 's'}",
        "",
        *map(ratio, COMPARED),
        "",
    ]


def _layout(title: str, log: bool, unit: str) -> dict[str, Any]:
    small = {"size": 11}
    loss = {"domain": [BELOW, 1], "type": "log" if log else "linear", "title": {"text": "loss: NMSE (dimensionless)"}}
    across = {"domain": [0, 1], "anchor": "y", "showgrid": False, "nticks": 6, "tickfont": small, "zeroline": False}
    key = {"orientation": "h", "traceorder": "normal", "bgcolor": "rgba(0,0,0,0)", "font": small}
    layout: dict[str, Any] = {
        "height": HEIGHT,
        "autosize": True,
        "meta": {"room": ROOM},
        "margin": MARGIN,
        "title": {"text": title, "font": {"size": 14}, "y": 1, "yref": "container", "yanchor": "top", "pad": {"t": 8}},
        # From the top of the figure, not of the axes: it is not put right where these move as a window grows.
        "legend": {"x": 0, "xanchor": "left", "yref": "container", "y": 1 - 68 / HEIGHT, "yanchor": "bottom", **key},
        "uirevision": f"rislab {log} {unit}",
        "annotations": [],
        "bargap": 0.15,
        "xaxis": {**across, "title": {"text": f"{UNITS[unit]} (thin lines: epochs)", "standoff": 2, "font": small}},
        "yaxis": loss,
        "xaxis2": {"anchor": "y2", "showgrid": False, "fixedrange": True, "tickfont": small},
        "yaxis2": {"domain": [0, 0.2], "anchor": "x2", "fixedrange": True, "nticks": 3, "rangemode": "tozero"},
    }
    layout["yaxis2"]["title"] = {"text": "weight", "font": small}
    below = "optimiser step and its micro-batches (grey: not compared)"
    layout["xaxis2"]["title"] = {"text": below, "standoff": 2, "font": small}
    for name in ("xaxis", "yaxis", "xaxis2", "yaxis2"):
        layout[name] |= UNMEASURED
    return layout


def _reach(runs: Sequence[Run], unit: str) -> float:
    """How far the axis across goes: to the end of the longest run, and a little further where one goes on."""
    reach = max((float(_across(run, unit)[-1]) for run in runs if run.history.windows), default=1.0)
    return _rounded(reach) if any(run.state in ("waiting", "running", "paused") for run in runs) else reach


def _rounded(reach: float) -> float:
    """A little more than the reach of curves that grow, in steps of a fifth: the axis must not move all the time."""
    return float(1.2 ** math.ceil(math.log(reach, 1.2)))


def _span(traces: Sequence[dict[str, Any]], log: bool) -> list[float]:
    """Range of the loss axis, in powers of ten on a logarithmic one, with room on both sides."""
    values = np.concatenate([np.ones(1), *(np.asarray(trace["y"], dtype=np.float64) for trace in traces)])
    known = values[np.isfinite(values) & ((values > 0) | (not log))]
    shown = np.log10(known) if log else known
    low, high = float(shown.min()), float(shown.max())
    room = 0.06 * max(high - low, 0.5 if log else 0.1)
    return [math.floor(20 * (low - room)) / 20 if log else min(0.0, low), math.ceil(20 * (high + room)) / 20]


def _few_ticks(curves: Sequence[Any]) -> dict[str, Any]:
    """Range and ticks of a low logarithmic axis: at most three ticks, where its curves are."""
    values = np.concatenate([np.ones(0), *curves])
    known = values[np.isfinite(values) & (values > 0)]
    if not len(known):
        return {}
    low, high = np.log10([known.min(), known.max()]).tolist()
    room = 0.05 + 0.06 * (high - low)
    ticks = log_ticks(low - room, high + room)
    pairs = zip(ticks["tickvals"], ticks["ticktext"], strict=True)
    within = [pair for pair in pairs if low - room <= math.log10(pair[0]) <= high + room]
    shown = within[:: max(1, math.ceil(len(within) / 3))]
    places, texts = ([pair[side] for pair in shown] for side in (0, 1))
    return {"tickvals": places, "ticktext": texts, "range": [low - room, high + room]}


def _end_of(trace: dict[str, Any]) -> tuple[float, float] | None:
    """The last point of a curve that can be drawn."""
    y = np.asarray(trace["y"], dtype=np.float64)
    known = np.flatnonzero(np.isfinite(y) & (y > 0))
    return (float(trace["x"][known[-1]]), float(y[known[-1]])) if len(known) else None


def _wrapped(name: str) -> str:
    """A label in lines that fit beside the curves."""
    return "<br>".join(textwrap.wrap(name, 19, max_lines=2, placeholder=" …"))


def _epoch_ends(ends: Sequence[float], span: Sequence[float], log: bool) -> dict[str, Any]:
    """Thin lines at the ends of epochs, as one curve: shapes would be another layout at each epoch."""
    lines, _ = epoch_lines(ends)
    heights = [10**end if log else end for end in span]
    x = [place for line in lines for place in (line["x0"], line["x1"], None)]
    look = {"mode": "lines", "line": {"color": GREY, "width": 0.5}, "hoverinfo": "skip"}
    where = {"x": x, "y": [*heights, None] * len(lines), "showlegend": False}
    return {"type": "scatter", "name": "ends of epochs", **where, **look}


def _key(data: Sequence[dict[str, Any]], runs: Sequence[Run]) -> list[dict[str, Any]]:
    """What lines and symbols mean, for the legend: grey, since colours tell runs apart."""
    names = {trace["name"] for trace in data}
    skipped = sum(len(run.history.skipped) for run in runs)
    strange = sum(len(run.history.strange) for run in runs)
    entries: list[tuple[str, str, dict[str, Any], object]] = [
        ("each step", "line", {"width": 0.75}, runs),
        ("running median", "line", {"width": 2.5}, runs),
        ("eval, same data", "marker", {"size": 8}, "eval, same data" in names),
        ("validation", "marker", {"symbol": "circle-open"}, "validation" in names),
        (f"{skipped} skipped", "marker", {"symbol": "x"}, skipped),
        (f"{strange} no loss", "marker", {"symbol": "triangle-down"}, strange),
    ]
    return [
        {**NOWHERE, "showlegend": True, "name": f"{name} ", "mode": f"{kind}s", kind: {**look, "color": GREY}}
        for name, kind, look, there in entries
        if there
    ]


def fed_strip(run: Run | None) -> Strip:
    """Which micro-batches fed the last steps of a run, as bars, and the ticks of their axis.

    A bar is a micro-batch, its height the weight in its step: 1 is its exact share, 0 one that was lost.
    """
    steps: list[FedStep] = []
    for step in reversed(list(run.checkup.fed) if run is not None and run.checkup is not None else []):
        if steps and sum(len(one.weights) for one in (*steps, step)) > BARS:
            break
        steps.insert(0, step)
    heights = [weight for step in steps for weight in step.weights]
    owners = [step for step in steps for _ in step.weights]
    colours = [
        VERMILLION if abs(weight - 1) > OFF else (BLUE if step.compared else GREY)
        for weight, step in zip(heights, owners, strict=True)
    ]
    gaps = [GAP * place for place, step in enumerate(steps) for _ in step.weights]
    texts = [
        f"step {step.number}, micro-batch {place} of {len(step.weights)}<br>weight {weight:.4g}"
        f"{'' if step.compared else ', as the loop has it'}{'' if step.applied else '<br>the step was skipped'}"
        for step in steps
        for place, weight in enumerate(step.weights, start=1)
    ]
    at = np.arange(len(heights)) + np.array(gaps)
    bars = {"x": at, "y": np.array(heights), "marker": {"color": colours}, "hovertext": texts, "hoverinfo": "text"}
    lost = [float(place) for place, weight in zip(at, heights, strict=True) if abs(weight) < OFF]
    crosses = {"x": lost, "y": [0.08] * len(lost), "marker": {"symbol": "x", "size": 8, "color": VERMILLION}}
    line = {"x": [-0.5, len(heights) - 0.5], "y": [1, 1], "line": {"color": GREY, "dash": "dot", "width": 1}}
    edges = np.cumsum([0, *(len(step.weights) for step in steps)])
    middles = [(left + right - 1) / 2 + GAP * place for place, (left, right) in enumerate(itertools.pairwise(edges))]
    every = max(1, math.ceil(len(steps) / 14))
    ticks = {
        "tickvals": [float(middle) for middle in middles][::every],
        "ticktext": [str(step.number) for step in steps][::every],
        "range": [-0.6, max(8.0, float(at[-1]) + 1 if len(at) else 0.0) - 0.4],
    }
    on = {"xaxis": "x2", "yaxis": "y2", "showlegend": False}
    mute = {"type": "scatter", "hoverinfo": "skip", **on}
    return [
        {"type": "bar", "name": "fed", **bars, **on},
        {"name": "lost", "mode": "markers", **crosses, **mute},
        {"name": "exact share", "mode": "lines", **line, **mute},
    ], ticks


def _across(run: Run, unit: str, column: str = "step") -> Values:
    """A column of the axis across: "step" for each step, "epoch end" for the ends of epochs, in a unit."""
    names = {"step": "samples", "epoch end": "epoch samples"}
    values = run.history.column(column if unit == "steps" else names[column])
    return values / run.config.scenes if unit == "epochs" else values


def _shortest(*columns: Values) -> list[Values]:
    """Columns of one length, though the run goes on between reading one and the other."""
    length = min(map(len, columns))
    return [column[:length] for column in columns]


def _losses(run: Run, label: str, style: TraceStyle, unit: str, *, thin: bool) -> list[dict[str, Any]]:
    """Loss of every window, its running median, evaluations, and marks for what is no loss."""
    config = "<br>".join(f"{name} {value}" for name, value in asdict(run.config).items())
    hover = {"hovertext": config, "hoverlabel": {"align": "left"}, "showlegend": False}
    at, losses = _shortest(_across(run, unit), run.history.column("loss"))
    raw, median = loss_and_median(style, label, at, losses, points=POINTS, medians=MEDIANS)
    traces = [{**raw, **hover}, {**median, **hover}]
    if thin:
        return [{**trace, "line": {**trace["line"], "color": GREY, "width": 1}} for trace in traces]
    for field in ("train_eval", "validation"):
        ends, values, epochs = _shortest(
            _across(run, unit, "epoch end"), run.history.column(field), run.history.column("epoch")
        )
        if len(values) or field == "train_eval":
            traces.append({**evaluation(style, field, ends, values, epochs), "showlegend": False})
    level = _floor(losses)
    skipped, strange = ("skipped", "x", [*run.history.skipped]), ("not a loss", "triangle-down", [*run.history.strange])
    for name, symbol, points in (skipped, strange):
        texts = {float(at[step - 1]): f"step {step}: {reason}" for step, reason in points if step <= len(at)}
        if texts:
            look = {"symbol": symbol, "size": 9, "color": style.colour}
            own = {"legendgroup": style.name, "showlegend": False}
            traces.append({**marks(f"{name} × {len(texts)}", texts, level, look), **own})
    return traces


def _floor(loss: Values) -> float:
    """Where marks of steps without a loss stand: at the smallest loss so far."""
    known = loss[np.isfinite(loss) & (loss > 0)]
    return float(known.min()) if len(known) else 1.0


def _side(run: Run, unit: str) -> list[dict[str, Any]]:
    """Gradient norms, learning rates, loss scale and event counts of one run."""
    line = {"mode": "lines", "showlegend": False}
    at = _across(run, unit)
    traces: list[dict[str, Any]] = []
    for axis, kind in (("", "gradient"), ("2", "rate")):
        groups = run.history.groups(kind).items()
        for (name, values), colour, dash in zip(groups, (BLUE, VERMILLION), ("solid", "dot"), strict=False):
            style = TraceStyle(run.name, colour, dash, "circle")
            look = {"xaxis": f"x{axis}", "yaxis": f"y{axis}", **line}
            traces.append(curve(style, name, *_shortest(at, values), points=POINTS // 2, look=look, width=1.5))
    style, look = TraceStyle(run.name, BLUE, "solid", "circle"), {"xaxis": "x3", "yaxis": "y3", **line}
    scale = _shortest(at, run.history.column("loss scale"))
    traces.append(curve(style, "loss scale", *scale, points=POINTS // 2, look=look, width=1.5, shape="hv"))
    below = {"xaxis": "x4", "yaxis": "y4", **line}
    ends = _across(run, unit, "epoch end")
    for counters in COUNTER_STYLES.values():
        for name, (colour, pattern) in counters.items():
            style = TraceStyle(run.name, colour, COUNTER_DASHES[pattern], "circle")
            counts = _shortest(ends, run.history.column(f"count {name}"))
            traces.append(curve(style, name.replace("_", " "), *counts, points=POINTS // 2, look=below))
    return traces
