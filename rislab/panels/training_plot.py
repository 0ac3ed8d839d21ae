"""Live runs as one figure and one table, in plain mappings: plotly's objects check every property at every redraw."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from rislab.panels.run import Run, Values
from rislab.plots.style import BLUE, COLOURS, DASHES, GREEN, GREY, PURPLE, SKY, VERMILLION, decimate

HEIGHT = 430
VEIL = "rgba(128,128,128,0.12)"
SMALL = {"font": {"size": 11}, "tracegroupgap": 0}
POINTS = 500  # of a curve on the page; the records stay whole
EPOCH_LINES = 30
SIDES = ("gradient norm", "learning rate", "loss scale", "event counts")
COUNTER_STYLES = {
    "forwards": (BLUE, "solid"),
    "backwards": (SKY, "dash"),
    "steps_applied": (GREEN, "solid"),
    "steps_skipped": (VERMILLION, "dot"),
    "scheduler_ticks": (PURPLE, "dash"),
}


def figure_dict(runs: Sequence[Run], title: str, *, log: bool = True) -> dict[str, Any]:
    """All runs as data and layout: losses; of the last run gradient norms, learning rates, loss scale and ledger.

    Args:
        runs: oldest first. title: of the figure. log: whether the loss axis is logarithmic.
    """
    data: list[dict[str, Any]] = []
    for place, run in enumerate(runs):
        pen = {"color": COLOURS[place % len(COLOURS)], "dash": DASHES[place // len(COLOURS) % len(DASHES)]}
        data += _loss(run, run.label(runs[0].config), pen)
    for name in ("eval, same data", "validation"):
        # One entry in the legend speaks for all runs.
        for trace in [trace for trace in data if trace["name"] == name and len(trace["x"])][1:]:
            trace["showlegend"] = False
    if runs:
        reach = max(2.0, *(float(run.history.windows) for run in runs))
        data += [*_levels(runs[-1], reach), *_side(runs[-1])]
    layout = _layout(title, _epoch_lines(runs[-1]) if runs else [], log)
    layout["legend"] |= _free_corner(runs, log)
    return {"data": data, "layout": layout}


def table(runs: Sequence[Run]) -> str:
    """Final numbers of all runs, as HTML."""
    head = ("run", "state", "epoch", "steps", "skipped", "train", "eval, same data", "validation", "forwards")
    rows = []
    for run in runs:
        end = run.history.last
        cells = [html.escape(run.label(runs[0].config)), run.state]
        if end is not None:
            counters = end.counters
            fresh = "none" if end.validation is None else f"{end.validation:.3g}"
            cells += [f"{end.epoch}/{end.epochs}", str(counters.steps_applied), str(counters.steps_skipped)]
            cells += [f"{end.train:.3g}", f"{end.train_eval:.3g}", fresh, str(counters.forwards)]
            cells += [str(counters.backwards)]
        else:
            cells += [""] * 8
        cells += ["in memory" if run.folder is None else html.escape(str(run.folder))]
        rows.append("".join(f"<td style='padding:0 8px'>{cell}</td>" for cell in cells))
    names = (*head, "backwards", "kept")
    top = "".join(f"<th style='padding:0 8px;text-align:left'>{name}</th>" for name in names)
    return f"<table style='font-size:12px'><tr>{top}</tr>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"


def _layout(title: str, lines: list[dict[str, Any]], log: bool) -> dict[str, Any]:
    rows = ([0.78, 1.0], [0.52, 0.7], [0.26, 0.44], [0.0, 0.18])
    loss = {"domain": [0, 1], "type": "log" if log else "linear", "title": {"text": "NMSE (dimensionless)"}}
    across = {"domain": [0, 0.58], "title": {"text": "optimiser step; thin lines: epochs"}, "showgrid": False}
    layout: dict[str, Any] = {
        "height": HEIGHT,
        "margin": {"t": 34, "b": 44, "l": 64, "r": 10},
        "title": {"text": title},
        "legend": {"x": 0.58, "xanchor": "right", "bgcolor": VEIL, **SMALL},
        "uirevision": f"rislab {log}",
        "shapes": lines,
        "xaxis": across,
        "yaxis": {**loss, "exponentformat": "power"} if log else {**loss, "rangemode": "tozero"},
    }
    for number, (row, name) in enumerate(zip(rows, SIDES, strict=True), start=2):
        below = {"domain": [0.7, 1.0], "anchor": f"y{number}", "matches": "x", "showticklabels": number == 5}
        layout[f"xaxis{number}"] = below
        named = {"text": name, "font": {"size": 11}}
        layout[f"yaxis{number}"] = {"domain": row, "anchor": f"x{number}", "title": named, "nticks": 3}
        layout[f"yaxis{number}"] |= {"type": "log", "dtick": 1} if number == 2 else {"rangemode": "tozero"}
    return layout


def _free_corner(runs: Sequence[Run], log: bool) -> dict[str, Any]:
    """Where on the right the legend hides least: above curves that fall far, below curves that stay high."""
    above, below = {"y": 0.8, "yanchor": "top"}, {"y": 0.01, "yanchor": "bottom"}
    pairs = [_pair(run, "step", "loss") for run in runs]
    shown = [(at[loss > 0], loss[loss > 0]) for at, loss in pairs if (loss > 0).any()]
    if not log or not shown:
        return above
    every = np.log(np.concatenate([loss for _, loss in shown]))
    middle = max(float(at.max()) for at, _ in shown) / 2
    late = [np.log(loss[at > middle]) for at, loss in shown if (at > middle).any()]
    return below if np.median(np.concatenate(late)) > (every.min() + every.max()) / 2 else above


def _epoch_lines(run: Run) -> list[dict[str, Any]]:
    ends = run.history.column("epoch end")
    every = max(1, -(-len(ends) // EPOCH_LINES))
    look = {"type": "line", "y0": 0, "y1": 1, "yref": "y domain", "layer": "below", "opacity": 0.35}
    return [{**look, "x0": end, "x1": end, "line": {"color": GREY, "width": 1}} for end in ends[every - 1 :: every]]


def _thinned(x: Values, y: Values) -> dict[str, Any]:
    at, values = decimate(x, y, POINTS)
    return {"x": at, "y": values}


def _pair(run: Run, x: str, y: str) -> tuple[Values, Values]:
    """Two columns of one length, though the run goes on between reading one and the other."""
    first, second = run.history.column(x), run.history.column(y)
    length = min(len(first), len(second))
    return first[:length], second[:length]


def _loss(run: Run, label: str, pen: dict[str, str]) -> list[dict[str, Any]]:
    """Loss of every window, its running median, evaluations, and marks for what is no loss."""
    config = "<br>".join(f"{name} {value}" for name, value in asdict(run.config).items())
    group = {"type": "scatter", "legendgroup": run.name, "hovertext": config, "hoverlabel": {"align": "left"}}
    at, loss = _pair(run, "step", "loss")
    ends, scores = _pair(run, "epoch end", "eval")
    raw = {**group, "name": label, "mode": "lines", "line": {**pen, "width": 1}, "opacity": 0.6}
    smooth = {**group, "name": "running median", "mode": "lines", "line": {**pen, "width": 2.5}, "showlegend": False}
    marks = {"symbol": "circle", "size": 7, "color": pen["color"]}
    evaluated = {**group, "name": "eval, same data", "mode": "markers", "marker": marks}
    traces = [
        {**raw, **_thinned(at, loss)},
        {**smooth, **_median(at, loss)},
        {**evaluated, **_thinned(ends, scores)},
    ]
    ends, scores = _pair(run, "epoch end", "validation")
    if len(scores):
        dashed = {"mode": "lines+markers", "line": {"color": pen["color"], "dash": "dash", "width": 1.5}}
        dashed["marker"] = {**marks, "symbol": "circle-open"}
        traces.append({**group, "name": "validation", **dashed, **_thinned(ends, scores)})
    floor = _floor(loss)
    for name, symbol, points in (
        ("skipped", "x", run.history.skipped),
        ("not a loss", "triangle-down", run.history.strange),
    ):
        traces += _marks(group, name, {"symbol": symbol, "size": 9, "color": pen["color"]}, list(points), floor)
    return traces


def _marks(
    group: dict[str, Any], name: str, marker: dict[str, Any], points: list[tuple[int, str]], level: float
) -> list[dict[str, Any]]:
    """Marks at the foot of the curves, at most POINTS of them; the legend counts all."""
    if not points:
        return []
    shown = points[:: -(-len(points) // POINTS)]
    texts = [f"step {step}: {reason}" for step, reason in shown]
    place = {"x": [step for step, _ in shown], "y": [level] * len(shown), "hovertext": texts, "hoverinfo": "text"}
    return [{**group, "name": f"{name} × {len(points)}", "mode": "markers", "marker": marker, **place}]


def _floor(loss: Values) -> float:
    """Where marks of steps without a loss stand: at the smallest loss so far."""
    known = loss[np.isfinite(loss) & (loss > 0)]
    return float(known.min()) if len(known) else 1.0


def _median(at: Values, loss: Values) -> dict[str, Any]:
    width = min(101, max(3, len(loss) // 20)) | 1
    if len(loss) < 2 * width:
        return {"x": [], "y": []}
    places = np.unique(np.linspace(width // 2, len(loss) - 1 - width // 2, min(len(loss), 300)).astype(int))
    around = loss[places[:, None] + np.arange(width) - width // 2]  # [places, width]
    return {"x": at[places], "y": np.median(around, axis=1)}


def _levels(run: Run, reach: float) -> list[dict[str, Any]]:
    """Reference levels of the run's data, up to step `reach`."""
    levels = [*run.levels.items()]
    return [
        {
            "type": "scatter",
            "x": [1.0, reach],
            "y": [level, level],
            "mode": "lines",
            "line": {"color": GREY, "width": 1, "dash": DASHES[place + 1]},
            "name": f"{name} = {level:.3g}",
        }
        for place, (name, level) in enumerate(levels)
    ]


def _side(run: Run) -> list[dict[str, Any]]:
    line = {"type": "scatter", "mode": "lines", "showlegend": False}
    at = run.history.column("step")
    traces: list[dict[str, Any]] = []
    for axis, kind in (("2", "gradient"), ("3", "rate")):
        groups = run.history.groups(kind).items()
        for (name, values), colour, dash in zip(groups, (BLUE, VERMILLION), ("solid", "dot"), strict=False):
            pen = {"color": colour, "dash": dash, "width": 1.5}
            place = {"xaxis": f"x{axis}", "yaxis": f"y{axis}", "name": name, "line": pen}
            length = min(len(at), len(values))
            traces.append({**line, **place, **_thinned(at[:length], values[:length])})
    scale = {"xaxis": "x4", "yaxis": "y4", "name": "loss scale", "line": {"color": BLUE, "width": 1.5, "shape": "hv"}}
    traces.append({**line, **scale, **_thinned(*_pair(run, "step", "loss scale"))})
    for name, (colour, dash) in COUNTER_STYLES.items():
        place = {"xaxis": "x5", "yaxis": "y5", "name": name.replace("_", " "), "line": {"color": colour, "dash": dash}}
        counts = _thinned(*_pair(run, "epoch end", f"count {name}"))
        traces.append({**line, **place, "mode": "lines+markers", "marker": {"size": 4}, **counts})
    return traces
