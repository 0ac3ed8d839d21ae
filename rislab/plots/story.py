"""The story as figures: what the log of a suspect says beside what is true."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from rislab.faults.story import Fix, Replay
from rislab.plots.style import (
    BLUE,
    COUNTER_STYLES,
    GREEN,
    GREY,
    LEGEND_BELOW,
    PURPLE,
    VERMILLION,
    figure_of,
    template,
)
from rislab.training.records import Counters

COUNTERS = {name: style for pair in COUNTER_STYLES.values() for name, style in pair.items()}
# A bar with its number over it, so that a 0 is visible as well.
NUMBERED = {"type": "bar", "textposition": "outside", "cliponaxis": False}
LINES = 4  # of the log that the panel shows
TALL = 290  # pixels, of the panel's figure


def first_epoch_counts(replays: Mapping[str, Replay]) -> go.Figure:
    """What ran in the first epoch of each replay: forwards, backwards, steps applied and skipped, scheduler ticks.

    Args:
        replays: by the name that is shown.
    """
    names = [name.replace(", ", "<br>") for name in replays]
    counters = [each.first_epoch for each in replays.values()]
    figure = go.Figure(layout={"template": template(), "title_text": "Ledger of the first epoch", "height": 420})
    figure.add_traces([go.Bar(trace) for trace in _counter_bars(names, counters)])
    figure.update_layout(bargap=0.18, margin_b=100, legend=LEGEND_BELOW)
    return figure.update_yaxes(title_text="events (count)", rangemode="tozero")


def _counter_bars(names: Sequence[str], counted: Sequence[Counters]) -> list[dict[str, Any]]:
    """A bar for each counter at each name."""
    bars = []
    for counter, (colour, pattern) in COUNTERS.items():
        values, name = [vars(each)[counter] for each in counted], counter.replace("_", " ")
        data = {"x": list(names), "y": values, "text": [str(value) for value in values], "name": name}
        marker = {"color": colour, "pattern": {"shape": pattern, "fillmode": "overlay"}}
        what = "%{x}<br>%{y} " + name + "<extra></extra>"
        bars.append({**NUMBERED, **data, "marker": marker, "hovertemplate": what})
    return bars


def last_over_n(replay: Replay) -> go.Figure:
    """The reported loss and its n-fold beside the true losses of all n batches of each epoch.

    Args:
        replay: a replay of stage two, whose report is the last batch's loss over n.
    """
    numbers = [end.epoch for end in replay.epoch_records]
    count = len(replay.batch_losses[0])
    spread = [[epoch] * count for epoch in numbers]
    reported = [end.train for end in replay.epoch_records]
    figure = go.Figure(layout={"template": template(), "title_text": "Whose loss is it?", "height": 440})
    dots = {"symbol": "circle", "size": 5, "color": GREY}
    flat = np.ravel(replay.batch_losses)
    figure.add_scatter(x=np.ravel(spread), y=flat, mode="markers", marker=dots, name=f"true loss of each of {count}")
    ring = {"symbol": "circle-open", "size": 13, "color": BLUE, "line": {"width": 2}}
    last = [losses[-1] for losses in replay.batch_losses]
    figure.add_scatter(x=numbers, y=last, mode="markers", marker=ring, name="true loss of the last batch")
    cross = {"symbol": "x-thin", "size": 9, "line": {"width": 2, "color": VERMILLION}}
    times = [count * loss for loss in reported]
    figure.add_scatter(x=numbers, y=times, mode="markers", marker=cross, name=f"reported × {count}")
    figure.add_scatter(x=numbers, y=reported, mode="lines", line={"color": VERMILLION}, name="reported")
    figure.update_traces(hovertemplate="epoch %{x}<br>%{y:.6g}")
    figure.update_xaxes(title_text="epoch", dtick=math.ceil(len(numbers) / 12))
    return figure.update_yaxes(title_text="loss (NMSE, dimensionless)", rangemode="tozero")


def warm_up(replays: Mapping[str, Replay]) -> go.Figure:
    """Learning rate of the head at each optimiser step against the batches that went forwards until then.

    Args:
        replays: by the name that is shown.
    """
    figure = go.Figure(layout={"template": template(), "title_text": "How fast does the warm-up rise?", "height": 400})
    styles = ((BLUE, "solid", "circle"), (VERMILLION, "dot", "square"), (GREEN, "dashdot", "diamond"))
    for (name, replay), (colour, dash, symbol) in zip(replays.items(), styles, strict=False):
        batches = np.cumsum([window.micro_batches for window in replay.step_records])
        rates = [window.learning_rate["head"] for window in replay.step_records]
        line = {"color": colour, "dash": dash, "shape": "vh"}
        look = {"mode": "lines+markers", "line": line, "marker": {"size": 4, "symbol": symbol, "color": colour}}
        figure.add_scatter(x=batches, y=rates, name=name, **look, hovertemplate="after %{x} batches<br>rate %{y:.3g}")
    figure.update_xaxes(title_text="batches that went forwards (count)", rangemode="tozero")
    return figure.update_yaxes(title_text="learning rate of the head (dimensionless)", rangemode="tozero")


def fix_scores(fixes: Sequence[Fix]) -> go.Figure:
    """What the log says and what is true after each of repairs(), at the end of its replay."""
    rows = [fix.fixed for fix in fixes]
    figure = go.Figure(layout={"template": template(), "title_text": "Put right from top to bottom"})
    scores = [fix.replay.validations[-1] for fix in fixes]
    true = [fix.replay.fresh_nmse[-1] for fix in fixes]
    train = [fix.replay.epoch_records[-1].train for fix in fixes]
    for place, pair in enumerate(zip(scores, true, strict=True)):
        if all(math.isfinite(value) for value in pair):
            bar = {"mode": "lines", "line": {"color": GREY, "width": 2}}
            figure.add_scatter(x=pair, y=[place] * 2, **bar, hoverinfo="skip", showlegend=False)
    markers = {
        "train, reported": (train, {"symbol": "x-thin", "size": 10, "line": {"width": 2.5, "color": VERMILLION}}),
        "validation, reported": (
            scores,
            {"symbol": "circle-open", "size": 14, "color": PURPLE, "line": {"width": 2.5}},
        ),
        "NMSE on fresh scenes, true": (true, {"symbol": "circle", "size": 8, "color": GREEN}),
    }
    for name, (values, marker) in markers.items():
        what = "%{y}<br>%{x:.6g}"
        look = {"mode": "markers", "marker": marker, "cliponaxis": False}
        figure.add_scatter(x=values, y=[*range(len(rows))], name=name, **look, hovertemplate=what)
    figure.update_xaxes(title_text="at the end of the replay (NMSE or loss, dimensionless)", rangemode="tozero")
    ticks = {"tickvals": [*range(len(rows))], "ticktext": rows, "range": [len(rows) - 0.4, -0.6], "showgrid": False}
    figure.update_yaxes(**ticks)
    return figure.update_layout(height=160 + 34 * len(rows), margin_b=90, legend=LEGEND_BELOW)


def replay_figure(replay: Replay) -> go.Figure:
    """replay_figure_dict() as a plain figure, which survives saving and reports."""
    return figure_of(replay_figure_dict(replay))


def replay_figure_dict(replay: Replay | None, title: str = "") -> dict[str, Any]:
    """A replay as plain data and layout: its curves as reported and as true, and the counts of its first epoch.

    Args:
        replay: None gives the empty axes.
        title: what stands over the figure; the names of the faults if "".
    """
    every = 1 if replay is None else math.ceil(len(replay.epoch_records) / 12)
    layout: dict[str, Any] = {
        "title": {"text": title or ("" if replay is None else replay_heading(replay)), "font": {"size": 14}},
        "height": TALL,
        "autosize": True,
        "margin": {"t": 40, "b": 84, "l": 64, "r": 12},
        "legend": {**LEGEND_BELOW, "font": {"size": 12}},
        "bargap": 0.25,
        "xaxis": {"domain": [0.0, 0.5], "anchor": "y", "title": {"text": "epoch", "standoff": 2}, "dtick": every},
        "yaxis": {"anchor": "x", "title": {"text": "loss, NMSE"}, "rangemode": "tozero"},
        "xaxis2": {"domain": [0.57, 1.0], "anchor": "y2", "tickangle": 0, "tickfont": {"size": 11}},
        "yaxis2": {"anchor": "x2", "title": {"text": "events in epoch 1"}, "rangemode": "tozero"},
    }
    return {"data": [] if replay is None else [*_curves(replay), *_first_epoch(replay.first_epoch)], "layout": layout}


def replay_heading(replay: Replay) -> str:
    """The names of a combination."""
    count = len(replay.extra_faults)
    extra = "" if not count else f" with {replay.extra_faults[0] if count == 1 else f'{count} extra faults'}"
    return f"{replay.fault}{extra}, {len(replay.epoch_records)} epochs"


def _curves(replay: Replay) -> list[dict[str, Any]]:
    numbers = [end.epoch for end in replay.epoch_records]
    reported, means = [end.train for end in replay.epoch_records], [float(np.mean(one)) for one in replay.batch_losses]
    series: dict[str, tuple[list[int], list[float], dict[str, Any]]] = {
        "train, reported": (numbers, reported, _line_style(VERMILLION, "solid", "square-open", 10)),
        "validation, reported": (numbers, replay.validations, _line_style(PURPLE, "dash", "circle-open", 10)),
        "train, true": (numbers, means, _line_style(BLUE, "dot", "square", 5)),
        "NMSE on fresh scenes, true": ([0, *numbers], replay.fresh_nmse, _line_style(GREEN, "dashdot", "circle", 5)),
    }
    traces = []
    for name, (x, y, look) in series.items():
        lost = sum(not math.isfinite(value) for value in y)
        label = f"{name} ({lost} of {len(y)} not finite)" if lost else name
        data = {"x": np.array(x, dtype=np.float64), "y": np.array(y, dtype=np.float64), "name": label}
        what = "epoch %{x}<br>%{y:.6g}<extra>" + name + "</extra>"
        traces.append({"type": "scatter", "mode": "lines+markers", **data, **look, "hovertemplate": what})
    return traces


def _line_style(colour: str, dash: str, symbol: str, size: int) -> dict[str, Any]:
    marker = {"symbol": symbol, "size": size, "color": colour, "line": {"width": 2 if symbol.endswith("open") else 0}}
    return {"cliponaxis": False, "line": {"color": colour, "dash": dash, "width": 2}, "marker": marker}


def _first_epoch(counters: Counters) -> list[dict[str, Any]]:
    """A bar for each counter; plotly chooses the colour of a pattern upon one colour, and of several it warns."""
    look = {"xaxis": "x2", "yaxis": "y2", "hovertemplate": "%{y} %{x}<extra></extra>", "showlegend": False}
    look |= {"width": 0.8, "offset": -0.4}  # each in the middle of its place, and not beside the others
    bars = _counter_bars([""], [counters])
    return [{**bar, "x": [bar["name"].replace(" ", "<br>")], **look} for bar in bars]


def replay_summary(replay: Replay) -> str:
    """What was reported at the end beside what is true, one sentence as HTML."""
    end, counters = replay.epoch_records[-1], replay.epoch_records[-1].counters
    constant = " (the same in all epochs)" if len({repr(score) for score in replay.validations}) == 1 else ""
    return (
        f"At the end: train {end.train:.6g}, validation {replay.validations[-1]:.6g}{constant}; "
        f"<b>true NMSE on fresh scenes {replay.fresh_nmse[-1]:.6g}</b>; "
        f"{counters.forwards} forwards, {counters.backwards} backwards, {counters.steps_applied} steps, "
        f"{counters.steps_skipped} skipped, {replay.idle_steps} that moved nothing; "
        f"{replay.zero_terms} loss terms always 0."
    )


def log_excerpt(replay: Replay) -> str:
    """The first lines of the log and the last, as plain text."""
    shown = replay.log()
    return "\n".join(shown if len(shown) <= LINES else [*shown[: LINES - 1], "…", shown[-1]])
