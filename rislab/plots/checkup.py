"""A picture of watched loops: what the optimiser got at each step, held against the true gradient of the window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from rislab.checkup.loop_watch import Watch
from rislab.checkup.recording.windows import StepComparison, compare_steps, micro_batch_weights
from rislab.faults.example_loops import LOOPS, LoopPair
from rislab.plots.style import GREY, LEGEND_BELOW, TraceStyle, template, trace_styles

TITLES = (
    "α = ⟨g, r⟩ / ⟨r, r⟩<br>1: the length of the window's gradient",
    "cosine of g and r<br>1: its direction",
    "weight of each micro-batch in its step<br>1: its exact share, 0: lost",
)


def pair_steps(compared: LoopPair) -> go.Figure | None:
    """What the optimiser got in the correct and in the faulty loop of a pair; None where nothing was run."""
    if compared.correct is None or compared.faulty is None:
        return None
    return loop_steps({"correct": compared.correct.watch, LOOPS[compared.name].fault: compared.faulty.watch})


def loop_steps(watches: Mapping[str, Watch]) -> go.Figure:
    """α, cosine and weights of the micro-batches at each step of some loops.

    Args:
        watches: by name; see checkup.watch().

    Returns:
        A figure of three charts over the optimiser's steps.
    """
    figure = make_subplots(1, 3, subplot_titles=TITLES, horizontal_spacing=0.07)
    last = 1
    for style, watch in zip(trace_styles(watches), watches.values(), strict=True):
        comparisons = compare_steps(watch.trace, watch.declared)
        last = max(last, len(watch.trace.steps))
        figure.add_trace(_curve(style, comparisons, [one.alpha for one in comparisons]), row=1, col=1)
        figure.add_trace(_curve(style, comparisons, [one.comparison.cosine for one in comparisons]), row=1, col=2)
        figure.add_trace(_weights(style, comparisons), row=1, col=3)
    for column in (1, 2, 3):
        level = {"color": GREY, "width": 1, "dash": "dash"}
        figure.add_hline(y=1, line=level, layer="below", row=1, col=column)
        spread = [trace.y for trace in figure.data[column - 1 :: 3] if len(trace.y)]
        heights = np.concatenate([[1.0], *spread])  # the level is always in view
        low, high = float(np.nanmin(heights)), float(np.nanmax(heights))
        room = max(0.08 * (high - low), 0.02)
        figure.update_yaxes(range=[low - room, high + room], row=1, col=column)
        every = {"tick0": 0, "dtick": max(1, round(last / 6)), "range": [0.5, last + 0.5]}
        figure.update_xaxes(title={"text": "optimiser step", "standoff": 2}, **every, row=1, col=column)
    figure.update_annotations(font_size=13)
    return figure.update_layout(
        template=template(), height=360, autosize=True, margin={"t": 74, "b": 84, "l": 48, "r": 16}, legend=LEGEND_BELOW
    )


def _curve(style: TraceStyle, comparisons: Sequence[StepComparison], values: Sequence[float]) -> go.Scatter:
    line, marker = (
        {"color": style.colour, "dash": style.dash},
        {"color": style.colour, "symbol": style.symbol, "size": 7},
    )
    texts = [
        f"{style.name}<br>step {one.number}, window of {one.size}<br>α = {one.alpha:.4g}, "
        f"cosine {one.comparison.cosine:.6f}"
        for one in comparisons
    ]
    return go.Scatter(
        x=[one.number for one in comparisons], y=values, name=style.name, legendgroup=style.name, showlegend=False,
        mode="lines+markers", line=line, marker=marker, hovertext=texts, hoverinfo="text",
    )  # fmt: skip


def _weights(style: TraceStyle, comparisons: Sequence[StepComparison]) -> go.Scatter:
    """The weights with which the micro-batches of a window, side by side, entered its step."""
    places, values, texts = [], [], []
    for one in comparisons:
        for place, weight in enumerate(micro_batch_weights(one) or []):
            # Within half a step to either side of its own.
            places.append(one.number + 0.6 * ((place + 0.5) / one.size - 0.5))
            values.append(weight)
            where = f"step {one.number}, micro-batch {place + 1} of {one.size}"
            texts.append(f"{style.name}<br>{where}: weight {weight:.4g}")
    marker = {"color": style.colour, "symbol": style.symbol, "size": 7}
    return go.Scatter(
        x=places, y=values, name=style.name, legendgroup=style.name, mode="markers", marker=marker, hovertext=texts,
        hoverinfo="text",
    )  # fmt: skip
