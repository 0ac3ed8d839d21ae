"""Live runs as one figure and one table, in plain mappings: plotly's objects check every property at every redraw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from rislab.checkup.html import html_table
from rislab.panels.run import Run, Values
from rislab.plots.curves import curve, epoch_lines, evaluation, level_lines, loss_and_median, marks
from rislab.plots.style import BLUE, COUNTER_STYLES, VERMILLION, TraceStyle, trace_styles

HEIGHT = 430
VEIL = "rgba(128,128,128,0.12)"
SMALL = {"font": {"size": 11}, "tracegroupgap": 0}
POINTS, MEDIANS = 500, 300  # of a curve on the page; the records hold all
SIDES = ("gradient norm", "learning rate", "loss scale", "event counts")
COUNTER_DASHES = {"": "solid", "/": "dash", "x": "dot"}  # pattern of a bar → dash of a line
HEAD = ("run", "state", "epoch", "steps", "skipped", "train", "eval, same data", "validation", "forwards", "backwards")


def figure_dict(runs: Sequence[Run], title: str, *, log: bool = True) -> dict[str, Any]:
    """All runs as data and layout: losses; of the last run gradient norms, learning rates, loss scale and event counts.

    Args:
        runs: oldest first.
        title: of the figure.
        log: whether the loss axis is logarithmic.
    """
    data: list[dict[str, Any]] = []
    for style, run in zip(trace_styles(run.name for run in runs), runs, strict=True):
        data += _losses(run, run.label(runs[0].config), style)
    for name in ("eval, same data", "validation"):
        # One entry in the legend speaks for all runs.
        for trace in [trace for trace in data if trace["name"] == name and len(trace["x"])][1:]:
            trace["showlegend"] = False
    lines: list[dict[str, Any]] = []
    if runs:
        reach = max(2.0, *(float(run.history.windows) for run in runs))
        data += [*level_lines(runs[-1].levels, 1.0, reach, places=2), *_side(runs[-1])]
        lines, _ = epoch_lines(runs[-1].history.column("epoch end").tolist())
    layout = _layout(title, lines, log)
    layout["legend"] |= _free_corner(runs, log)
    return {"data": data, "layout": layout}


def table(runs: Sequence[Run]) -> str:
    """Final numbers of all runs, as HTML."""
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
    return html_table((*HEAD, "records"), rows, label="runs", numbers=range(2, 11), row_title=0, size=12)


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


def _pair(run: Run, x: str, y: str) -> tuple[Values, Values]:
    """Two columns of one length, though the run goes on between reading one and the other."""
    first, second = run.history.column(x), run.history.column(y)
    length = min(len(first), len(second))
    return first[:length], second[:length]


def _losses(run: Run, label: str, style: TraceStyle) -> list[dict[str, Any]]:
    """Loss of every window, its running median, evaluations, and marks for what is no loss."""
    config = "<br>".join(f"{name} {value}" for name, value in asdict(run.config).items())
    hover = {"hovertext": config, "hoverlabel": {"align": "left"}}
    steps, losses = _pair(run, "step", "loss")
    raw, median = loss_and_median(style, label, steps, losses, points=POINTS, medians=MEDIANS)
    traces = [{**raw, **hover}, {**median, **hover, "showlegend": False}]
    for field in ("train_eval", "validation"):
        ends, values = _pair(run, "epoch end", field)
        if len(values) or field == "train_eval":
            epochs, _ = _pair(run, "epoch", field)
            traces.append(evaluation(style, field, ends, values, epochs))
    level = _floor(losses)
    for name, symbol, points in (
        ("skipped", "x", [*run.history.skipped]),
        ("not a loss", "triangle-down", [*run.history.strange]),
    ):
        texts = {step: f"step {step}: {reason}" for step, reason in points}
        if texts:
            # The legend counts all, also those that are not drawn.
            look = {"symbol": symbol, "size": 9, "color": style.colour}
            traces.append({**marks(f"{name} × {len(texts)}", texts, level, look), "legendgroup": style.name})
    return traces


def _floor(loss: Values) -> float:
    """Where marks of steps without a loss stand: at the smallest loss so far."""
    known = loss[np.isfinite(loss) & (loss > 0)]
    return float(known.min()) if len(known) else 1.0


def _side(run: Run) -> list[dict[str, Any]]:
    """Gradient norms, learning rates, loss scale and event counts of one run."""
    line = {"mode": "lines", "showlegend": False}
    steps = run.history.column("step")
    traces: list[dict[str, Any]] = []
    for axis, kind in (("2", "gradient"), ("3", "rate")):
        groups = run.history.groups(kind).items()
        for (name, values), colour, dash in zip(groups, (BLUE, VERMILLION), ("solid", "dot"), strict=False):
            length = min(len(steps), len(values))
            style, look = (
                TraceStyle(run.name, colour, dash, "circle"),
                {"xaxis": f"x{axis}", "yaxis": f"y{axis}", **line},
            )
            drawn = curve(style, name, steps[:length], values[:length], points=POINTS, look=look, width=1.5)
            traces.append(drawn)
    style, look = TraceStyle(run.name, BLUE, "solid", "circle"), {"xaxis": "x4", "yaxis": "y4", **line}
    scale = _pair(run, "step", "loss scale")
    traces.append(curve(style, "loss scale", *scale, points=POINTS, look=look, width=1.5, shape="hv"))
    below = {"xaxis": "x5", "yaxis": "y5", "showlegend": False, "mode": "lines+markers", "marker": {"size": 4}}
    for counters in COUNTER_STYLES.values():
        for name, (colour, pattern) in counters.items():
            style = TraceStyle(run.name, colour, COUNTER_DASHES[pattern], "circle")
            counts = _pair(run, "epoch end", f"count {name}")
            traces.append(curve(style, name.replace("_", " "), *counts, points=POINTS, look=below))
    return traces
