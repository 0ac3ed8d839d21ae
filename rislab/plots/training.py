"""Records and checks as plotly figures: pure functions without display and widgets.

What an axis cannot show (NaN, infinity, a skipped step, a value ≤ 0 on a log axis) is marked in lanes under the axis,
with the reason in the hover text.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from rislab.errors import check_choice
from rislab.plots.curves import (
    EVALUATIONS,
    curve,
    epoch_lines,
    evaluation,
    level_lines,
    loss_and_median,
    marks,
)
from rislab.plots.style import (
    COUNTER_STYLES,
    GREEN,
    GREY,
    LEGEND_ABOVE,
    VERMILLION,
    Array,
    TraceStyle,
    figure_of,
    is_drawable,
    log_ticks,
    log_ticks_of,
    number_text,
    template,
    trace_styles,
)
from rislab.training.records import Counters, Record, StepRecord, epoch_records, step_records

BARS = 40  # epochs; more would blur, and become lines
ENTRIES = 6  # of a legend; more are not read


@dataclass(frozen=True)
class _Mark:
    """A mark in the lane `kind`; the text says why."""

    kind: str
    step: int
    text: str


# ------------------------------------------------------------------------------ what every figure over the steps shares


def _layout(title: str, records: Sequence[Record], axis: Mapping[str, Any]) -> dict[str, Any]:
    """Of a figure over the steps, with thin lines at the ends of the epochs.

    Args:
        title: of the figure.
        records: of all runs.
        axis: properties of the y axis.
    """
    lines, every = epoch_lines(sorted({end.step for end in epoch_records(records)}))
    note = f"; thin lines: {'each epoch' if every == 1 else f'every {every} epochs'}" if lines else ""
    empty = {"text": "no windows recorded", "x": 0.5, "y": 0.5, "xref": "paper", "yref": "paper"}
    steps = {"text": f"window (optimiser step){note}"}
    return {
        "title": {"text": title},
        "height": 480,
        "shapes": lines,
        "annotations": [] if step_records(records) else [empty],
        "xaxis": {"title": steps, "exponentformat": "none", "separatethousands": True},
        "yaxis": {"nticks": 6, **axis},
    }


def _columns(windows: Sequence[StepRecord]) -> tuple[Array, NDArray[Any]]:
    """Steps [n], and epochs and samples so far [n, 2]."""
    detail = np.array([(window.epoch, window.samples) for window in windows]).reshape(-1, 2)
    return np.array([window.step for window in windows]), detail


def _finished(data: Sequence[Mapping[str, Any]], layout: Mapping[str, Any]) -> go.Figure:
    """The figure, with a title in the legend over the traces of each group."""
    titled = [
        {**trace, "legendgrouptitle": {"text": trace["legendgroup"]}}
        if trace.get("showlegend", True) and trace["name"] != trace["legendgroup"]
        else trace
        for trace in data
    ]
    heights = [trace["y"] for trace in data if trace.get("yaxis", "y") == "y"]
    ticks = log_ticks_of(np.concatenate([np.asarray(one, dtype=np.float64) for one in heights])) if heights else {}
    mode = "array" if layout["yaxis"]["type"] == "log" and ticks else "auto"
    layout = _with_axes(dict(layout), {"yaxis": {**ticks, "tickmode": mode}})
    return figure_of({"data": titled, "layout": layout})


def _level_lines(levels: Mapping[str, float], windows: Sequence[StepRecord]) -> list[dict[str, Any]]:
    return level_lines(levels, *((windows[0].step, windows[-1].step) if windows else (0, 1)))


def _value_marks(what: str, points: Iterable[tuple[int, float]]) -> list[_Mark]:
    """Marks for values that are not finite, or ≤ 0."""
    wrong = [(step, value) for step, value in points if not is_drawable(value)]
    return [
        _Mark("≤ 0" if math.isfinite(v) else "not finite", step, f"{what} is {number_text(v)}") for step, v in wrong
    ]


def _skip_marks(windows: Iterable[StepRecord]) -> list[_Mark]:
    return [_Mark("skipped", w.step, w.reason or "no reason recorded") for w in windows if not w.applied]


def _lanes(marked: Sequence[tuple[TraceStyle, Sequence[_Mark]]]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Marks in lanes between the curves and their step axis, and the layout of the lanes; without marks there are none.

    Args:
        marked: the marks of each run or group.
    """
    kinds = sorted({mark.kind for _, own in marked for mark in own})
    counts = dict.fromkeys(kinds, 0)
    data = []
    for (lane, kind), (place, (style, own)) in product(enumerate(kinds), enumerate(marked)):
        texts: dict[int, str] = {}
        for mark in (mark for mark in own if mark.kind == kind):
            head = f"<b>{style.name}</b> · {kind} · step {mark.step}"
            texts[mark.step] = f"{texts.get(mark.step, head)}<br>{mark.text}"
        counts[kind] += len(texts)
        height = lane - 0.5 + (place + 1) / (len(marked) + 1)
        symbol = {"symbol": "triangle-down" if kind == "≤ 0" else "x", "size": 8, "color": style.colour}
        if texts:
            group = {"legendgroup": style.name, "showlegend": False, "yaxis": "y2"}
            data.append({**marks(kind, texts, height, symbol), **group})
    if not kinds:
        return data, {}
    top = 0.07 * len(kinds)
    ticks = {"tickvals": list(range(len(kinds))), "ticktext": [f"{kind} × {counts[kind]}" for kind in kinds]}
    lanes = {"range": [-0.5, len(kinds) - 0.5], "fixedrange": True, "showgrid": False, "ticks": "", **ticks}
    under = {"xaxis": {"anchor": "y2"}, "yaxis": {"domain": [top + 0.02, 1]}, "yaxis2": {"domain": [0, top], **lanes}}
    return data, under


def _with_axes(layout: dict[str, Any], changes: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The layout with further properties of its axes."""
    return {**layout, **{name: {**layout.get(name, {}), **part} for name, part in changes.items()}}


# ------------------------------------------------------------------------------------------------ curves over the steps


def loss_curves(
    runs: Mapping[str, Sequence[Record]], *, lines: Mapping[str, float] | None = None, log: bool = True
) -> go.Figure:
    """Loss of each window, its running median, and the evaluations at the ends of the epochs.

    Args:
        runs: records by run name; runs differ by colour, dash and symbol.
        lines: reference levels by label, each > 0, such as {"zero matrix": 1.0}.
        log: whether the figure opens on a logarithmic axis; a button switches.

    Returns:
        Figure over the steps; skipped steps, NaN, infinities and values ≤ 0 are marked in lanes.
    """
    everything = [record for records in runs.values() for record in records]
    windows = sorted(step_records(everything), key=lambda window: window.step)
    plain = all([*window.terms] == ["nmse"] and window.terms["nmse"].weight == 1 for window in windows)
    title = "NMSE (dimensionless)" if plain else "weighted loss, NMSE at epochs (dimensionless)"
    data: list[dict[str, Any]] = []
    marked = []
    for style, records in zip(trace_styles(runs), runs.values(), strict=True):
        data += _run_traces(style, records)
        marked.append((style, _loss_marks(records)))
    under, lanes = _lanes(marked)
    data, legend = _one_entry_a_run(data) if len(data) + len(lines or {}) > ENTRIES else (data, "")
    data = _limited_legend([*data, *under, *_level_lines(lines or {}, windows)])
    # One button that toggles: of two, plotly.js would paint the pressed one too pale.
    modes = {"log": "array", "linear": "auto"}
    order = ("linear", "log") if log else ("log", "linear")
    kinds = [[{"yaxis.type": kind, "yaxis.tickmode": modes[kind]}] for kind in order]
    switch = {"label": "log ⇄ linear", "method": "relayout", "args": kinds[0], "args2": kinds[1]}
    place = {"x": 1, "xanchor": "right", "y": 1, "yanchor": "bottom", "pad": {"b": 6}, "direction": "right"}
    # A legend taller than its figure scrolls, and what is scrolled away is lost in a static report.
    rows = sum(trace.get("showlegend", True) for trace in data)
    layout = _layout("Loss and evaluation", everything, {"title": {"text": title}, "type": "log" if log else "linear"})
    layout["updatemenus"] = [{"type": "buttons", "active": -1, "buttons": [switch], **place}]
    layout["legend"] = {"title": {"text": legend, "font": {"size": 12}}}
    layout["height"] = max(520, 140 + 36 * (len(runs) + 1) + 20 * rows)
    return _finished(data, _with_axes(layout, lanes))


def _one_entry_a_run(data: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], str]:
    """Traces of which only the median of each run is in the legend, by the run's name, and what the legend says."""
    texts = ["thin: each window", "thick: its running median"]
    for name, _, suffix, size, _ in EVALUATIONS.values():
        if any(trace["name"] == name for trace in data):
            texts.append(f"{'small' if size < 8 else 'hollow' if suffix else 'filled'} marks: {name}")
    shown = [
        {**trace, "name": trace["legendgroup"]}
        if trace["name"].startswith("median")
        else {**trace, "showlegend": False}
        for trace in data
    ]
    return shown, "<br>".join(texts)


def _limited_legend(data: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Traces with no more entries in the legend than are read: lines share one, and so do the last of many runs."""
    shown = [trace for trace in data if trace.get("showlegend", True)]
    levels = [trace for trace in shown if trace["legendgroup"] == "levels"]
    if len(shown) <= ENTRIES:
        return data
    for place, trace in enumerate(levels):
        trace["showlegend"] = place == 0
    if levels:
        levels[0]["name"] = "from above:<br>" + "<br>".join(each["name"] for each in levels)
    runs = [trace for trace in shown if trace not in levels]
    room = ENTRIES - bool(levels)
    if len(runs) > room:
        for trace in runs[room - 1 :]:
            trace["showlegend"] = False
        runs[room - 1] |= {"showlegend": True, "name": f"{len(runs) - room + 1} more, named by the pointer"}
    return data


def _run_traces(style: TraceStyle, records: Sequence[Record]) -> list[dict[str, Any]]:
    """Loss, median and evaluations of one run."""
    windows = step_records(records)
    steps, detail = _columns(windows)
    losses = np.array([window.loss for window in windows], dtype=np.float64)
    traces = loss_and_median(style, "each window", steps, losses, detail=detail)
    for field in EVALUATIONS:
        points = [(end.step, vars(end)[field], end.epoch) for end in epoch_records(records)]
        known = [point for point in points if point[1] is not None]
        traces += [evaluation(style, field, *zip(*known, strict=True))] if known else []
    return traces


def _loss_marks(records: Sequence[Record]) -> list[_Mark]:
    own = _value_marks("loss", ((window.step, window.loss) for window in step_records(records)))
    for field, (name, *_) in EVALUATIONS.items():
        points = [(end.step, vars(end)[field]) for end in epoch_records(records)]
        own += _value_marks(name, [point for point in points if point[1] is not None])
    return own + _skip_marks(step_records(records))


def gradient_norms(records: Sequence[Record], *, clip_norm: float | None = None) -> go.Figure:
    """Gradient norm of each parameter group before and after clipping, on a log axis.

    Args:
        records: of one run.
        clip_norm: clipping threshold, drawn as a line.

    Returns:
        Figure over the steps; NaN, infinite and zero norms and skipped steps are marked in lanes.
    """
    windows = step_records(records)
    steps, detail = _columns(windows)
    data: list[dict[str, Any]] = []
    marked = []
    for style in trace_styles(windows[0].grad_norm if windows else ()):
        own: list[_Mark] = []
        for field, name, dash in (
            ("grad_norm", "before clipping", "solid"),
            ("grad_norm_clipped", "after clipping", "dash"),
        ):
            norms = [vars(window)[field][style.name] for window in windows]
            data.append(curve(style, name, steps, norms, detail=detail, dash=dash))
            own += _value_marks(name, zip(steps.tolist(), norms, strict=True))
        marked.append((style, own))
    under, lanes = _lanes([*marked, (TraceStyle("all groups", GREY, "solid", "circle"), _skip_marks(windows))])
    data += [*under, *_level_lines({} if clip_norm is None else {"clip_norm": clip_norm}, windows)]
    axis = {"title": {"text": "gradient norm (dimensionless)"}, "type": "log"}
    return _finished(data, _with_axes(_layout("Gradient norms", records, axis), lanes))


# ------------------------------------------------------------------------------------------------------------- pictures


def epoch_counts(records: Sequence[Record]) -> go.Figure:
    """What ran in each epoch: forwards against backwards, and optimiser steps against ticks of the schedule.

    Args:
        records: of one run; a first epoch other than 1 is left out, for nothing says where it began.

    Returns:
        Two panels of bars by epoch; "≠" stands over each pair that differs, and the titles count them.
    """
    ends = epoch_records(records)
    pairs = [*zip([Counters(), *(end.counters for end in ends)], ends, strict=False)]
    pairs = pairs[1:] if ends and ends[0].epoch > 1 else pairs
    numbers = [end.epoch for _, end in pairs]
    figure = make_subplots(cols=2, horizontal_spacing=0.1, subplot_titles=[*COUNTER_STYLES])
    for column, (axis, bars) in enumerate(COUNTER_STYLES.items(), start=1):
        counts = {name: [vars(end.counters)[name] - vars(start)[name] for start, end in pairs] for name in bars}
        for name, (colour, pattern) in bars.items():
            data = {"x": numbers, "y": counts[name], "name": name.replace("_", " "), "row": 1, "col": column}
            if len(pairs) <= BARS:
                figure.add_bar(marker={"color": colour, "pattern": {"shape": pattern, "fillmode": "overlay"}}, **data)
            else:
                look = {"color": colour, "dash": "dash" if pattern else "solid", "shape": "hvh", "width": 2.5}
                figure.add_scatter(mode="lines", line=look, **data)
        one, other = [*bars][:2]
        uneven = [place for place in range(len(pairs)) if counts[one][place] != counts[other][place]]
        tops = [max(row[place] for row in counts.values()) for place in uneven]
        font = {"size": 18 if len(pairs) <= 24 else 10}
        data = {"x": [numbers[place] for place in uneven], "y": tops, "text": ["≠"] * len(uneven), "textfont": font}
        over = {"mode": "text", "textposition": "top center", "name": "≠", "cliponaxis": False}
        figure.add_scatter(**data, **over, hoverinfo="skip", showlegend=False, row=1, col=column)
        sign, share = "≠" if uneven else "=", len(uneven) or len(pairs)
        title = f"{one} {sign} {other}<br>in {share} of {len(pairs)} epochs" if pairs else "no epochs counted"
        figure.layout.annotations[column - 1].text = title.replace("_", " ")
        figure.update_yaxes(title_text=axis, rangemode="tozero", col=column)
    # By itself an axis with "≠" over its bars would begin at an epoch 0, and the one beside it would not.
    span = [numbers[0] - 0.6, numbers[-1] + 0.6] if numbers else None
    figure.update_xaxes(title_text="epoch", tickformat="d", dtick=1 if len(pairs) <= 16 else None, range=span)
    figure.update_annotations(font_size=14)
    return figure.update_layout(template=template(), height=460, margin_t=76, bargap=0.25)


def ladder_figure(checks: Sequence[Any]) -> go.Figure:
    """Verdicts of a ladder of checks: how much of its limit each uses, with ✓ or ✗, the numbers and a sentence.

    Args:
        checks: from the first check to the last, each with name, value, relation ("<=", ">=" or "=="), reference,
            passed and sentence; `passed` decides the mark, the numbers only its place.

    Returns:
        Dot plot on a log axis with the limit at 1; a share without a logarithm stands at the edge: left if passed.
    """
    shares = [_share(check) for check in checks]
    known = [share for share in shares if math.isfinite(share)]
    low, high = min([0.1, *known]) / 3, max([10.0, *known]) * 3
    sentences = [textwrap.wrap(check.sentence, 76) for check in checks]
    height = 150 + (48 + 17 * max(map(len, sentences), default=1)) * len(checks)
    figure = go.Figure(layout={"template": template(), "title_text": "Ladder", "height": height})
    # The limit is a short line on each row: one long line would run through the sentences.
    gate = {"symbol": "line-ns", "size": 12, "line": {"width": 3, "color": GREY}}
    limits = {"x": [1] * len(checks), "y": [*range(len(checks))], "name": "limit", "hoverinfo": "name"}
    figure.add_scatter(**limits, mode="markers", marker=gate)
    for passed, colour, symbol in ((True, GREEN, "circle"), (False, VERMILLION, "x")):
        places = [place for place, check in enumerate(checks) if check.passed == passed]
        x = [shares[place] if math.isfinite(shares[place]) else (low if passed else high) for place in places]
        look = {"color": colour, "symbol": symbol, "size": 13}
        name = "✓ passed" if passed else "✗ failed"
        figure.add_scatter(x=x, y=places, mode="markers", marker=look, name=name, cliponaxis=False, hoverinfo="x+name")
    signs = {"<=": "≤", ">=": "≥", "==": "="}
    beside = {"x": 0, "xref": "paper", "xanchor": "left", "xshift": 8, "yanchor": "top", "yshift": -10, "align": "left"}
    for place, (check, sentence) in enumerate(zip(checks, sentences, strict=True)):
        numbers = f"{number_text(check.value)} {signs[check.relation]} {number_text(check.reference)}"
        text = "<br>".join([f"<b>{numbers}</b>", *sentence])
        figure.add_annotation(text=text, y=place, **beside)
    names = [f"{'✓' if check.passed else '✗'} {check.name}" for check in checks]
    rows = {"tickvals": list(range(len(checks))), "ticktext": names, "range": [len(checks) - 0.2, -0.4]}
    title = "share of the limit used (dimensionless)<br>≤, =: measured / limit; ≥: limit / measured"
    ends = math.log10(low), math.log10(high)
    across = {"type": "log", "title": {"text": title}, "range": ends, **log_ticks(*ends)}
    rows |= {"fixedrange": True}
    return figure.update_layout(xaxis=across, yaxis=rows, margin_t=90, height=height + 26, legend=LEGEND_ABOVE)


def _share(check: Any) -> float:
    """Share of its limit that a check uses, at most 1 if it holds; NaN if the share has no logarithm."""
    check_choice(f"relation of {check.name!r}", check.relation, ("<=", ">=", "=="))
    if check.value == check.reference:
        return 1.0  # also 0 of 0
    if not (0 < check.value < math.inf and 0 < check.reference < math.inf):
        return math.nan
    ratio = float(check.value / check.reference)
    return {"<=": ratio, ">=": 1 / ratio, "==": max(ratio, 1 / ratio)}[check.relation]
