"""Estimators and covariances over SNR and number of sources, as plotly figures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from rislab.music.benchmark import CovarianceError, Score
from rislab.plots.curves import end_labels
from rislab.plots.style import GREY, SYMBOLS, TraceStyle, log_ticks, log_ticks_of, template, trace_styles

# The sign that stands for each marker in the names of curves.
KEYS = dict(zip(SYMBOLS, "●■◆▲", strict=True))


def recall_over_snr(scores: Sequence[Score]) -> go.Figure:
    """Recall of compare() over SNR, a chart for each number of sources, with what the bound allows."""
    counts = sorted({score.sources for score in scores})
    figure = _panes(counts)
    names = list(dict.fromkeys(score.estimator for score in scores))
    for style in trace_styles(names):
        for column, count in enumerate(counts, start=1):
            cells = [score for score in scores if score.sources == count and score.estimator == style.name]
            hover = [
                f"{style.name}<br>{one.snr_db:g} dB, K = {count}: recall {one.recall:.3f}, the bound allows "
                f"{one.allowed:.3f}<br>{one.milliseconds:.2f} ms a scene, {one.scenes} scenes"
                for one in cells
            ]
            figure.add_trace(_curve(style, cells, [one.recall for one in cells], hover), row=1, col=column)
    for column, count in enumerate(counts, start=1):
        allowed = {score.snr_db: score.allowed for score in scores if score.sources == count}
        figure.add_scatter(
            x=list(allowed), y=list(allowed.values()), name="what the bound allows", mode="lines", legendgroup="bound",
            line={"color": GREY, "dash": "dash"}, hoverinfo="skip", row=1, col=column,
        )  # fmt: skip
    figure.update_yaxes(range=[0, 1.03], row=1)
    return _finished(figure, "recall (share of sources)", (0, 1.03))


def covariance_nmse(errors: Sequence[CovarianceError]) -> go.Figure:
    """NMSE of covariance_errors() over SNR, a chart for each number of sources."""
    counts = sorted({one.sources for one in errors})
    figure = _panes(counts)
    for style in trace_styles(errors[0].nmse):
        for column, count in enumerate(counts, start=1):
            cells = [one for one in errors if one.sources == count]
            hover = [
                f"{style.name}<br>{one.snr_db:g} dB (realised {one.realised_snr_db:.2f}), K = {count}<br>"
                f"NMSE {one.nmse[style.name]:.4g}, median {one.median[style.name]:.4g}, {one.scenes} scenes"
                for one in cells
            ]
            values = [one.nmse[style.name] for one in cells]
            figure.add_trace(_curve(style, cells, values, hover), row=1, col=column)
    known = [math.log10(value) for one in errors for value in one.nmse.values() if value > 0]
    span = (min(known, default=-1.0) - 0.1, max(known, default=0.0) + 0.1)
    figure.update_yaxes(type="log", range=span, **log_ticks(*span), row=1)
    return _finished(figure, "NMSE of the covariance (mean)", span)


def learning_curves(scores: Mapping[str, Iterable[tuple[int, float]]], line: float) -> go.Figure:
    """Score on the validation after each epoch, a curve for each design.

    Args:
        scores: by name, pairs of fresh scenes seen and NMSE.
        line: NMSE of the best constant.
    """
    figure = go.Figure()
    curves = {name: [*pairs] for name, pairs in scores.items()}
    for style, pairs in zip(trace_styles(curves), curves.values(), strict=True):
        x, y = zip(*pairs, strict=True)
        figure.add_scatter(
            x=x, y=y, name=style.name, mode="lines+markers", line={"color": style.colour, "dash": style.dash},
            marker={"symbol": style.symbol, "size": 7},
        )  # fmt: skip
    counts = [x for pairs in curves.values() for x, _ in pairs]
    ends = [min(counts), max(counts)]
    level = {"color": GREY, "width": 1.5, "dash": "dash"}
    figure.add_scatter(x=ends, y=[line, line], mode="lines", name="best constant", line=level)
    figure.update_xaxes(title="fresh scenes seen", exponentformat="none", separatethousands=True)
    figure.update_yaxes(title="NMSE on the validation (mean)", type="log")
    figure.update_yaxes(**log_ticks_of([line, *(score for pairs in curves.values() for _, score in pairs)]))
    return figure.update_layout(template=template(), height=360, autosize=True, margin={"t": 36})


def _curve(
    style: TraceStyle, cells: Sequence[Score | CovarianceError], values: Sequence[float], hover: Sequence[str]
) -> go.Scatter:
    """A curve over SNR."""
    return go.Scatter(
        x=[one.snr_db for one in cells], y=values, name=style.name, mode="lines+markers", legendgroup=style.name,
        line={"color": style.colour, "dash": style.dash},
        marker={"symbol": style.symbol, "size": 7}, hovertext=hover, hoverinfo="text",
    )  # fmt: skip


def _panes(counts: Sequence[int]) -> go.Figure:
    titles = [f"K = {count}" for count in counts]
    return make_subplots(1, len(counts), subplot_titles=titles, shared_yaxes=True, horizontal_spacing=0.025)


def _finished(figure: go.Figure, title: str, span: tuple[float, float]) -> go.Figure:
    """With the curves' names behind their ends in the last chart, since a legend holds no more than six."""
    log = figure.layout.yaxis.type == "log"
    last = [trace for trace in figure.data if trace.xaxis == figure.data[-1].xaxis and len(trace.x)]
    keys = [KEYS.get(trace.marker.symbol, "╌") for trace in last]
    names = [
        (f"<span style='color:{trace.line.color}'>{key}</span> {trace.name}", trace.x[-1], trace.y[-1])
        for key, trace in zip(keys, last, strict=True)
    ]
    right = max((x for _, x, _ in names), default=0.0)
    left = min((trace.x[0] for trace in last), default=0.0)
    snrs = sorted({x for trace in last for x in trace.x})
    edge = 0.04 * (right - left or 1.0)
    labels = end_labels(names, 0.0, span, log)
    at = {"xref": f"{last[0].xaxis} domain", "yref": last[0].yaxis, "x": 1, "xshift": 6, "xanchor": "left"}
    for text, y in zip(labels["text"], labels["y"], strict=True):
        figure.add_annotation(text=text, y=math.log10(y) if log else y, **at, yanchor="middle")
    figure.update_xaxes(title={"text": "SNR (dB)", "standoff": 4}, range=[left - edge, right + edge], tickvals=snrs)
    figure.update_yaxes(title=title, col=1)
    margin = {"t": 56, "b": 60, "l": 64, "r": 220}
    return figure.update_layout(template=template(), height=400, autosize=True, showlegend=False, margin=margin)
