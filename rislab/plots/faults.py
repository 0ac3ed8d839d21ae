"""Figures of a fault: what a loop reports beside what it does, correct and faulty on the same axes.

They take a run, or runs by optimiser, and the names of the correct and of the faulty loop.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from rislab.faults.comparison import FaultReport, OptimiserRun
from rislab.faults.fault import Symptom
from rislab.faults.gradient_attribution import GradientAttribution
from rislab.plots.gradient_attribution import draw_grid, explain_grids, grid_titles, loop_styles
from rislab.plots.style import (
    GREY,
    INK,
    LEGEND_BELOW,
    ORANGE,
    PALE,
    Array,
    TraceStyle,
    log_ticks,
    number_text,
    template,
)
from rislab.sanity.checks import CheckResult

NAMES = ("correct", "faulty")
MOVES = ("steps in the window", "learning rate at the step", "‖Δθ‖ / ‖θ‖")
KINDS = (  # word in the names of traces → symbol and meaning
    (", true", "circle-open", "hollow: true"),
    (", epoch", "diamond", "mean of an epoch"),
    (", validation", "square-open", "hollow: validation"),
    (": ", "triangle-down", "at the foot: 0 or less, or no number"),
    (" × ", "x", "reported as skipped, or on NaN or infinity"),
)
LARGE = 20.0  # from here on, up or down, α needs a logarithmic axis


@dataclass(frozen=True, eq=False)
class _Series:
    """One curve over the windows; `texts` say more at each point, in the hover; `symbol` replaces that of the style."""

    style: TraceStyle
    name: str
    values: Array
    texts: Sequence[str]
    at: Array
    drawn: str = "lines+markers"
    open: bool = False
    symbol: str = ""


@dataclass(frozen=True)
class _Axis:
    """A chart: its title, whether it is logarithmic, and the place in the grid."""

    title: str
    log: bool
    place: dict[str, int]
    level: float | None = None


def loss_comparison(runs: Mapping[str, OptimiserRun], names: tuple[str, str] = NAMES) -> go.Figure:
    """Reported and true loss, and the NMSE of the evaluation, of both loops; a column for each optimiser."""
    titles = [f"{_written(name)}: loss of each window" for name in runs]
    titles += [f"{_written(name)}: NMSE after each epoch" for name in runs]
    figure = make_subplots(2, len(runs), subplot_titles=titles, vertical_spacing=0.2, horizontal_spacing=0.09)
    for column, run in enumerate(runs.values(), start=1):
        top = _Axis("loss" if column == 1 else "", True, {"row": 1, "col": column})
        below = _Axis("NMSE" if column == 1 else "", True, {"row": 2, "col": column})
        pairs = _pairs(run, names)
        _chart(figure, top, [series for style, loop in pairs for series in _reported_and_true(style, loop)])
        _chart(figure, below, [series for style, loop in pairs for series in _evaluations(style, loop)])
        _epoch_lines(figure, run.correct, (top.place, below.place))
    _explain(figure, names)
    return _finished(figure, "Loss: what was reported, what was true, and what was learned", 520)


def signals(run: OptimiserRun, names: tuple[str, str] = NAMES) -> go.Figure:
    """Six charts over the windows: loss reported and true, α, cosine, steps, learning rate, movement of the weights."""
    figure = make_subplots(2, 3, subplot_titles=_titles(), vertical_spacing=0.2, horizontal_spacing=0.08)
    _signals(figure, run, names, (1, 2, 3))
    _explain(figure, names)
    return _finished(figure, "Each window, reported and measured", 480)


def weight_grids(run: OptimiserRun, names: tuple[str, str] = NAMES) -> go.Figure:
    """Two grids, windows × micro-batches: with which weight a micro-batch entered the window's steps.

    Frames are the declared windows; a bar stands where the loop says that its window ended.
    """
    figure = make_subplots(1, 2, subplot_titles=grid_titles(names), horizontal_spacing=0.07)
    for place, (style, loop) in enumerate(_pairs(run, names), start=1):
        draw_grid(figure, loop, style, {"row": 1, "col": place})
    explain_grids(figure)
    height = 170 + 18 * max(len(run.correct.step_records), len(run.faulty.step_records))
    _finished(figure, "Which micro-batch reached which step", min(max(height, 380), 920))
    return figure.update_layout(margin_t=86)


def overview(run: OptimiserRun, names: tuple[str, str] = NAMES) -> go.Figure:
    """signals() and weight_grids() on one sheet: skipped steps, losses, α and cosine, weights, windows."""
    rows = max(len(run.correct.step_records), len(run.faulty.step_records))
    grid = min(max(16 * rows, 200), 600)
    figure = make_subplots(
        3,
        6,
        specs=[[{"colspan": 2}, None] * 3, [{"colspan": 2}, None] * 3, [{"colspan": 3}, None, None] * 2],
        subplot_titles=[*_titles(), *grid_titles(names)],
        row_heights=[190, 190, grid],
        vertical_spacing=100 / (380 + grid + 200),
        horizontal_spacing=0.06,
    )
    _signals(figure, run, names, (1, 3, 5))
    _explain(figure, names)
    for column, (style, loop) in enumerate(_pairs(run, names)):
        draw_grid(figure, loop, style, {"row": 3, "col": 1 + 3 * column})
    explain_grids(figure)
    return _finished(figure, f"What the loop reported and what it did, {_written(run.optimiser)}", 380 + grid + 376)


def check_table(report: FaultReport) -> go.Figure:
    """Symptoms of a fault that no training shows, and checks, on both packages: values, and whether they hold."""
    labels = [f"{reading.quantity} (symptom)" for reading in report.symptoms]
    labels += [f"{check.name} ({check.suite})" for check in report.checks]
    pairs = [
        (_symptom_cell(symptom, pair.correct), _symptom_cell(symptom, pair.faulty))
        for symptom, pair in zip(report.fault.symptoms, report.symptoms, strict=True)
    ]
    pairs += [(_check_cell(check.correct), _check_cell(check.faulty)) for check in report.checks]
    data = {"x": list(NAMES), "y": labels, "z": [[0.0 if cell.holds else 1.0 for cell in pair] for pair in pairs]}
    texts = [[f"{'✓' if cell.holds else '✗'} {cell.text}" for cell in pair] for pair in pairs]
    written = {"text": texts, "texttemplate": "%{text}", "textfont": {"color": INK, "size": 13}}
    hovers = [[cell.hover for cell in pair] for pair in pairs]
    hover = {"hovertext": hovers, "hovertemplate": "%{hovertext}<br>%{x}: %{text}<extra></extra>"}
    colours = {"colorscale": [[0, PALE], [1, ORANGE]], "zmin": 0, "zmax": 1, "showscale": False}
    heat = go.Heatmap(**data, **written, **hover, **colours, xgap=2, ygap=2)
    counts = [f"{sum(not pair[place].holds for pair in pairs)} red {NAMES[place]}" for place in (0, 1)]
    title = f"{report.fault.name}: of {len(pairs)} checks {', '.join(counts)}"
    figure = go.Figure(heat, layout={"yaxis": {"autorange": "reversed"}, "xaxis": {"side": "top"}})
    _finished(figure, title, 110 + 22 * len(pairs)).update_layout(margin={"b": 16, "l": 300})
    # Over the charts alone it would be cut on the right, under the buttons.
    return figure.update_layout(title={"xref": "container", "x": 0.01})


@dataclass(frozen=True)
class _Cell:
    """One value of a check: whether it is as it should be, in short, and in words."""

    holds: bool
    text: str
    hover: str


def _symptom_cell(symptom: Symptom, value: float) -> _Cell:
    shown = symptom.shown_by(value)
    verb = "shows" if shown else "does not show"
    hover = f"{symptom.quantity}<br>{verb} the fault: [{symptom.low:g}, {symptom.high:g}]"
    return _Cell(not shown, f"{value:.3g}", hover)


def _check_cell(check: CheckResult) -> _Cell:
    numbers = f"{check.value:.2g} {check.relation} {check.reference:.2g}"
    return _Cell(check.passed, numbers, f"{check.name}: {check.sentence}")


def fault_figures(report: FaultReport) -> list[go.Figure]:
    """What there is to see of a fault: losses and a sheet of figures for each optimiser, or its checks."""
    if not report.runs:
        return [check_table(report)]
    return [loss_comparison(report.runs), *map(overview, report.runs.values())]


# ------------------------------------------------------------------------------------------------- over the windows


def _written(optimiser: str) -> str:
    return {"adam": "Adam", "sgd": "SGD"}[optimiser]


def _titles() -> list[str]:
    return ["loss, reported and true", "α = ⟨g, r⟩ / ⟨r, r⟩", "cosine of g and r", *MOVES]


def _reported_and_true(style: TraceStyle, loop: GradientAttribution) -> list[_Series]:
    """The loss of each window, and the mean of each epoch: as reported, and as it was."""
    reported = np.array([window.loss for window in loop.step_records], dtype=np.float64)
    pairs = zip(reported, loop.true_loss, strict=True)
    texts = [f"reported {number_text(one)}, true {number_text(true)}" for one, true in pairs]
    epochs = np.array([end.train for end in loop.epoch_records], dtype=np.float64)
    true = np.array([loop.true_epoch_loss(end.epoch) for end in loop.epoch_records], dtype=np.float64)
    means = [
        f"mean of epoch {end.epoch}: reported {number_text(end.train)}, true {number_text(one)}"
        for end, one in zip(loop.epoch_records, true, strict=True)
    ]
    at = _windows(loop)
    return [
        _Series(style, f"{style.name}, reported", reported, texts, at, "lines"),
        _Series(style, f"{style.name}, true", loop.true_loss, texts, at, "markers", open=True),
        _Series(style, f"{style.name}, epoch as reported", epochs, means, _ends(loop), "markers", symbol="diamond"),
        _Series(style, f"{style.name}, epoch, true", true, means, _ends(loop), "markers", open=True, symbol="diamond"),
    ]


def _ends(loop: GradientAttribution) -> Array:
    """The last window of each epoch."""
    counts = [sum(window.epoch <= end.epoch for window in loop.step_records) for end in loop.epoch_records]
    return np.array(counts, dtype=np.float64)


def _evaluations(style: TraceStyle, loop: GradientAttribution) -> list[_Series]:
    ends = _ends(loop)
    texts = [f"end of epoch {end.epoch}, train reported {number_text(end.train)}" for end in loop.epoch_records]
    scored = np.array([end.train_eval for end in loop.epoch_records], dtype=np.float64)
    series = [_Series(style, f"{style.name}, same data", scored, texts, ends)]
    fresh = [end.validation for end in loop.epoch_records]
    if any(value is not None for value in fresh):
        values = np.array([np.nan if value is None else value for value in fresh], dtype=np.float64)
        series.append(_Series(style, f"{style.name}, validation", values, texts, ends, open=True))
    return series


def _pairs(run: OptimiserRun, names: tuple[str, str]) -> list[tuple[TraceStyle, GradientAttribution]]:
    """The correct and the faulty loop, each with its style."""
    return [*zip(loop_styles(names), (run.correct, run.faulty), strict=True)]


def _signals(figure: go.Figure, run: OptimiserRun, names: tuple[str, str], columns: Sequence[int]) -> None:
    """Six charts in two rows of three columns."""
    both = _pairs(run, names)
    places = [{"row": row, "col": column} for row in (1, 2) for column in columns]

    def measured(values: Callable[[GradientAttribution], Array]) -> list[_Series]:
        return [_Series(style, style.name, values(loop), _window_texts(loop), _windows(loop)) for style, loop in both]

    alphas = np.concatenate([loop.alpha[np.isfinite(loop.alpha)] for _, loop in both])
    wide = bool((np.abs(alphas) > LARGE).any() or ((alphas > 0) & (alphas < 1 / LARGE)).any())
    _chart(figure, _Axis("", True, places[0]), [one for style, loop in both for one in _reported_and_true(style, loop)])
    _chart(figure, _Axis("", wide, places[1], 1.0), measured(lambda loop: loop.alpha))
    _chart(figure, _Axis("", False, places[2], 1.0), measured(lambda loop: loop.cosine))
    _chart(figure, _Axis("", False, places[3], 1.0), measured(lambda loop: loop.steps))
    _chart(figure, _Axis("", False, places[4]), measured(lambda loop: loop.head_rate))
    _chart(figure, _Axis("", True, places[5]), measured(lambda loop: loop.relative_update))
    _skips(figure, both, places[3])
    _epoch_lines(figure, run.correct, places)


def _window_texts(loop: GradientAttribution) -> list[str]:
    """Hover text of each window: what the loop reported of its step, and what was measured."""
    texts = []
    for window, taken, nonfinite in zip(loop.step_records, loop.steps, loop.nonfinite_steps, strict=True):
        report = "applied" if window.applied else f"skipped ({window.reason or 'no reason reported'})"
        rates = ", ".join(f"{name} {rate:.3g}" for name, rate in window.learning_rate.items())
        texts.append(
            f"epoch {window.epoch}: reported {report}, loss scale {window.loss_scale:g}, rate {rates}<br>"
            f"measured {taken:g} steps, {nonfinite:g} of them on NaN or infinity"
        )
    return texts


def _skips(figure: go.Figure, both: Sequence[tuple[TraceStyle, GradientAttribution]], place: dict[str, int]) -> None:
    """Windows that the loop itself reports as skipped, and steps on numbers that are not finite."""
    for style, loop in both:
        kinds = {
            "reported as skipped": ("x", [not window.applied for window in loop.step_records]),
            "step on NaN or infinity": ("star-triangle-up", [bool(count) for count in loop.nonfinite_steps]),
        }
        for name, (symbol, flags) in kinds.items():
            rows = [row for row, flag in enumerate(flags) if flag]
            if not rows:
                continue
            texts, marker = _window_texts(loop), {"symbol": symbol, "size": 10, "color": style.colour}
            figure.add_scatter(
                x=[row + 1 for row in rows], y=[loop.steps[row] for row in rows], mode="markers", marker=marker,
                name=f"{style.name}, {name} × {len(rows)}", hoverinfo="text",
                hovertext=[f"window {row + 1}, {texts[row]}" for row in rows], **place,
            )  # fmt: skip


def _windows(loop: GradientAttribution) -> Array:
    return np.arange(1, len(loop.step_records) + 1, dtype=np.float64)


def _chart(figure: go.Figure, axis: _Axis, series: Sequence[_Series]) -> None:
    """Curves, and marks at the foot for what the axis cannot show."""
    shown = [np.isfinite(one.values) & ((one.values > 0) | (not axis.log)) for one in series]
    known = np.concatenate([one.values[flags] for one, flags in zip(series, shown, strict=True)])
    low = float(known.min()) if len(known) else 1.0
    high = float(known.max()) if len(known) else 1.0
    spread = high - low or 0.1 * abs(high) or 1.0
    foot = low / max(1.15, (high / low) ** 0.12) if axis.log else low - 0.12 * spread
    if axis.level is not None:
        figure.add_hline(y=axis.level, line={"color": GREY, "width": 1, "dash": "dash"}, layer="below", **axis.place)
    for one, flags in zip(series, shown, strict=True):
        figure.add_trace(_curve(one, flags), **axis.place)
        for name, symbol, marked in (
            ("not a number, or no step", "x", ~np.isfinite(one.values)),
            ("0 or less", "triangle-down", np.isfinite(one.values) & ~flags),
        ):
            if marked.any():
                figure.add_trace(_marks(one, marked, foot, name, symbol), **axis.place)
    title = {"text": axis.title, "standoff": 2}
    if axis.log:
        figure.update_yaxes(type="log", **log_ticks(math.log10(low), math.log10(high)), **axis.place)
    elif spread < 1e-3 * abs(high):  # rounding alone, which no tick could tell
        figure.update_yaxes(range=[low - 1e-3 * abs(low), high + 1e-3 * abs(high)], **axis.place)
    figure.update_yaxes(title=title, nticks=4, **axis.place)
    last = max(float(one.at[-1]) for one in series)
    every = {"tick0": 0, "dtick": math.ceil(last / 8), "range": [0.5, last + 0.5]}
    # The upper row shares its windows with the row below.
    across = {"text": "" if axis.place["row"] == 1 else "window", "standoff": 2}
    figure.update_xaxes(title=across, **every, **axis.place)


def _curve(one: _Series, flags: Array | NDArray[np.bool_]) -> go.Scatter:
    size = one.style.size + 2 if one.open else one.style.size
    shape = one.symbol or one.style.symbol
    symbol = f"{shape}-open" if one.open else shape
    return go.Scatter(
        x=one.at,
        y=np.where(flags, one.values, np.nan),
        mode=one.drawn,
        name=one.name,
        line={"color": one.style.colour, "dash": "dash" if one.open else one.style.dash, "width": 2},
        marker={"symbol": symbol, "size": size, "color": one.style.colour},
        customdata=list(one.texts),
        hovertemplate=f"<b>{one.name}</b><br>window %{{x}}: %{{y:.6g}}<br>%{{customdata}}<extra></extra>",
    )


def _marks(one: _Series, marked: NDArray[np.bool_], foot: float, name: str, symbol: str) -> go.Scatter:
    texts = [
        f"<b>{one.name}</b><br>window {at:g}: {number_text(value)}<br>{text}"
        for at, value, text in zip(one.at[marked], one.values[marked], np.array(one.texts)[marked], strict=True)
    ]
    # Marks of two loops may lie on each other: one is hollow and larger.
    shape = symbol if one.style.symbol == "square" else f"{symbol}-open"
    return go.Scatter(
        x=one.at[marked],
        y=np.full(int(marked.sum()), foot),
        mode="markers",
        name=f"{one.style.name}: {name}",
        marker={"symbol": shape, "size": 7 if one.style.symbol == "square" else 10, "color": one.style.colour},
        hovertext=texts,
        hoverinfo="text",
    )


def _epoch_lines(figure: go.Figure, loop: GradientAttribution, places: Sequence[dict[str, int]]) -> None:
    for place in places:
        for end in _ends(loop)[:-1] + 0.5:
            figure.add_vline(x=end, line={"color": GREY, "width": 1}, opacity=0.3, layer="below", **place)


def _explain(figure: go.Figure, names: tuple[str, str]) -> None:
    """What colours and marks mean, in the legend; what a curve is in particular, its hover text says."""
    drawn = " ".join(trace.name for trace in figure.data)
    figure.update_traces(showlegend=False)
    for style in loop_styles(names):
        line, marker = {"color": style.colour, "dash": style.dash}, {"symbol": style.symbol, "color": style.colour}
        figure.add_scatter(x=[None], y=[None], mode="lines+markers", name=style.name, line=line, marker=marker)
    for word, symbol, meaning in KINDS:
        if word in drawn:
            key = {"symbol": symbol, "size": 8, "color": GREY}
            figure.add_scatter(x=[None], y=[None], mode="markers", name=meaning, marker=key)


def _finished(figure: go.Figure, title: str, height: int) -> go.Figure:
    figure.update_annotations(font_size=13)
    below = {**LEGEND_BELOW, "font": {"size": 12}}
    shown = [trace for trace in figure.data if trace.type == "scatter" and trace.showlegend is None]
    both = {"legend", "legend2"} <= {trace.legend or "legend" for trace in shown}
    return figure.update_layout(
        template=template(),
        title={"text": title, "font": {"size": 15}, "y": 1, "yref": "container", "yanchor": "top", "pad": {"t": 10}},
        height=height,
        autosize=True,
        margin={"t": 62, "b": 140 if both else 96, "l": 62, "r": 16},
        legend={**below, "y": 44 / height if both else 0},
        legend2=below,
    )
