"""A search as plotly figures: trials as they came, learning curves, score over each dimension, importance.

They take the trials of a search, by number, and its configuration.

Optuna's own figures leave out the trials that were pruned, that fail or that run, of which most of a search consists.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from rislab.plots.style import (
    BLUE,
    GREEN,
    GREY,
    LEGEND_BELOW,
    PURPLE,
    VERMILLION,
    log_ticks,
    log_ticks_of,
    template,
    trace_styles,
)
from rislab.training.records import epoch_records
from rislab.training.run_folder import read_records
from rislab.tuning.analysis import Rerun, effects
from rislab.tuning.space import Choice, Range
from rislab.tuning.study import Trial, trial_folder
from rislab.tuning.tuning_config import OBJECTIVES, TuningConfig

# State → its name, colour and symbol. Of a search that was stopped, a trial in progress does not run, and will go on.
STATES = {
    "complete": ("complete", BLUE, "circle"),
    "running": ("not ended", PURPLE, "circle-open"),
    "pruned": ("pruned", GREY, "x-thin-open"),
    "failed": ("failed", VERMILLION, "triangle-down"),
}


def history(trials: Sequence[Trial], config: TuningConfig) -> go.Figure:
    """The last score of each trial, and the best complete one so far."""
    figure = go.Figure()
    scored = [trial for trial in trials if trial.scores]
    _add_markers(figure, scored, config, [trial.number for trial in scored])
    lost = [trial for trial in trials if trial.state == "failed" and not trial.scores]
    if lost:  # they have no score, and stand below the others
        floor = min((trial.last_score for trial in scored), default=0.0)
        figure.add_scatter(
            x=[trial.number for trial in lost], y=[floor] * len(lost), mode="markers",
            name=f"failed before a score × {len(lost)}",
            marker={"color": VERMILLION, "symbol": "triangle-down-open", "size": 10}, **_hover(lost, config),
        )  # fmt: skip
    complete = [trial for trial in trials if trial.score is not None]
    if complete:
        best = list(accumulate((one.last_score for one in complete), max if config.higher_is_better else min))
        figure.add_scatter(
            x=[*(trial.number for trial in complete), trials[-1].number], y=[*best, best[-1]],
            mode="lines", line={"color": GREEN, "shape": "hv", "width": 2}, name="best complete so far",
        )  # fmt: skip
    # With room for the trials to come, so that the axis does not change.
    figure.update_xaxes(title="trial", range=[-0.5, max(config.trials, len(trials)) - 0.5])
    if not any(trial.scores or trial.state == "failed" for trial in trials):
        _show_note(figure, "no trial has a score yet")
    return _finished(figure, config)


def curves(trials: Sequence[Trial], config: TuningConfig) -> go.Figure:
    """The score of each trial after each epoch; where the pruner stopped one, a grey curve ends."""
    figure = go.Figure()
    shown = set()
    for trial in trials:
        if not trial.scores:
            continue
        name, colour, symbol = STATES[trial.state]
        thin = trial.state == "pruned"
        figure.add_scatter(
            x=list(trial.scores), y=list(trial.scores.values()), mode="lines+markers", name=name,
            legendgroup=trial.state, showlegend=trial.state not in shown,
            line={"color": colour, "width": 1 if thin else 1.5, "dash": "dot" if thin else "solid"},
            marker={"symbol": symbol, "size": 6}, **_hover([trial] * trial.epochs, config),
        )  # fmt: skip
        shown.add(trial.state)
    figure.update_xaxes(title="epoch", dtick=max(1, config.base.epochs // 8))
    return _finished(figure, config)


def slices(trials: Sequence[Trial], config: TuningConfig) -> go.Figure:
    """The last score over each dimension, one chart each; pruned trials with the score at which they were stopped."""
    figure = make_subplots(1, len(config.space), shared_yaxes=True, horizontal_spacing=0.02)
    for column, (name, dimension) in enumerate(config.space.items(), start=1):
        own = [trial for trial in trials if trial.scores and name in trial.values]
        kind = str if isinstance(dimension, Choice) else float
        _add_markers(figure, own, config, [kind(trial.values[name]) for trial in own], column=column)
        title = {"text": name.replace("_", " "), "standoff": 4}
        figure.update_xaxes(title=title, row=1, col=column, **_axis(dimension))
    _finished(figure, config)
    return figure.update_yaxes(title="", col=None).update_yaxes(title=_title(config), col=1)


def importance(trials: Sequence[Trial], config: TuningConfig) -> go.Figure:
    """How much of the order of the trials each dimension explains, beside what chance explains."""
    rows = list(reversed(effects(trials, config).items()))
    names = [name.replace("_", " ") for name, _ in rows]
    figure = go.Figure()
    figure.add_bar(
        x=[effect.share for _, effect in rows], y=names, orientation="h", marker={"color": BLUE},
        name="share explained", text=[f"{effect.share:.0%}" for _, effect in rows], textposition="outside",
        cliponaxis=False,
    )  # fmt: skip
    figure.add_scatter(
        x=[effect.chance for _, effect in rows], y=names, mode="markers", name="19 of 20 shuffles stay below",
        marker={"symbol": "line-ns-open", "size": 22, "color": VERMILLION, "line": {"width": 3}},
    )  # fmt: skip
    if not rows:
        _show_note(figure, "too few trials to tell")
    ranked = rows[0][1].trials if rows else 0
    title = f"share of the order of {ranked} trials explained (R² of ranks)"
    figure.update_xaxes(title=title, tickformat=".0%", range=[0, 1.05])
    margin = {"t": 20, "b": 110, "l": 150, "r": 16}
    return _finished(figure, config).update_layout(height=190 + 34 * len(rows), margin=margin).update_yaxes(title="")


def losses(folder: Path, trials: Sequence[Trial], config: TuningConfig) -> go.Figure:
    """What the complete trials minimised, the loss of their last epoch, against what they are scored by."""
    by_curriculum: dict[str, list[tuple[Trial, float]]] = {}
    for trial in trials:
        if trial.score is not None:
            loss = epoch_records(read_records(trial_folder(folder, trial.number)))[-1].train
            by_curriculum.setdefault(trial.values.get("curriculum", config.base.curriculum), []).append((trial, loss))
    figure = go.Figure()
    for style in trace_styles(sorted(by_curriculum)):
        own = by_curriculum[style.name]
        figure.add_scatter(
            x=[loss for _, loss in own], y=[trial.last_score for trial, _ in own], mode="markers", name=style.name,
            marker={"color": style.colour, "symbol": style.symbol, "size": 10},
            **_hover([trial for trial, _ in own], config),
        )  # fmt: skip
    title = "training loss of the last epoch, by each trial's own weights (dimensionless)"
    ticks = log_ticks_of([loss for own in by_curriculum.values() for _, loss in own])
    figure.update_xaxes(title=title, type="log", **ticks)
    return _finished(figure, config).update_layout(showlegend=True)


def reruns(finals: Sequence[Rerun], config: TuningConfig) -> go.Figure:
    """Best and default, trained again with the same seeds, on scenes of the test split."""
    figure = go.Figure()
    names = sorted({rerun.name for rerun in finals}, reverse=True)
    for style in trace_styles(names):
        own = [rerun for rerun in finals if rerun.name == style.name]
        figure.add_scatter(
            x=[getattr(rerun, config.objective) for rerun in own], y=[style.name] * len(own), mode="markers",
            name=style.name, marker={"symbol": style.symbol, "size": 11, "color": style.colour}, hoverinfo="text",
            hovertext=[f"seed {one.seed}: recall {one.recall:.4f}, peb {one.peb:.4f}" for one in own],
        )  # fmt: skip
    figure.update_xaxes(title=f"{_title(config)}, test split")
    margin = {"t": 16, "b": 56, "l": 90, "r": 16}
    _finished(figure, config).update_yaxes(title="", range=[-0.6, len(names) - 0.4])
    if not finals:
        _show_note(figure, "best and default are not trained again yet")
    return figure.update_layout(height=220, margin=margin, showlegend=False)


def _show_note(figure: go.Figure, text: str) -> None:
    """Why there is nothing to draw, in place of the axes."""
    figure.add_annotation(text=text, x=0, xanchor="left", y=0.5, xref="paper", yref="paper")
    figure.update_xaxes(visible=False).update_yaxes(visible=False)


def _add_markers(
    figure: go.Figure, trials: Sequence[Trial], config: TuningConfig, places: Sequence[Any], column: int | None = None
) -> None:
    """The last scores of trials, a trace for each state; in one column of several, or alone and counted."""
    for state, (name, colour, symbol) in STATES.items():
        own = [(trial, x) for trial, x in zip(trials, places, strict=True) if trial.state == state]
        if own:
            figure.add_scatter(
                x=[x for _, x in own], y=[trial.last_score for trial, _ in own], mode="markers",
                name=name if column else f"{name} × {len(own)}", legendgroup=state, showlegend=column in (None, 1),
                marker={"color": colour, "symbol": symbol, "size": 9, "line": {"width": 2}},
                row=1 if column else None, col=column, **_hover([trial for trial, _ in own], config),
            )  # fmt: skip


def _title(config: TuningConfig) -> str:
    return OBJECTIVES[config.objective][1].partition(" (")[0]


def _axis(dimension: Choice | Range) -> dict[str, Any]:
    if isinstance(dimension, Choice):
        names = [str(value) for value in dimension.values]
        order = {"categoryorder": "array", "categoryarray": names, "range": [-0.5, len(names) - 0.5]}
        # A long name is broken: there is no room for two of them in one line.
        texts = [name.replace("-", "-<br>") for name in names]
        return {"type": "category", **order, "tickvals": names, "ticktext": texts, "tickangle": 0}
    if not dimension.log:
        return {"nticks": 4, "tickangle": 0}
    low, high = math.log10(dimension.low), math.log10(dimension.high)
    room = 0.05 * (high - low)
    return {"type": "log", "tickangle": 0, "range": [low - room, high + room], **log_ticks(low, high)}


def _hover(trials: Sequence[Trial], config: TuningConfig) -> dict[str, Any]:
    texts = []
    for trial in trials:
        score = f"{config.objective} {trial.last_score:.4f} after {trial.epochs} epochs" if trial.scores else "no score"
        values = (
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in trial.values.items()
        )
        lines = [
            f"trial {trial.number}, {STATES[trial.state][0]}",
            score,
            *values,
            *([trial.reason] if trial.reason else []),
        ]
        texts.append("<br>".join(lines))
    return {"hovertext": texts, "hoverinfo": "text"}


def _finished(figure: go.Figure, config: TuningConfig) -> go.Figure:
    figure.update_yaxes(title=_title(config))
    margin = {"t": 24, "b": 96, "l": 64, "r": 16}
    return figure.update_layout(template=template(), height=400, autosize=True, legend=LEGEND_BELOW, margin=margin)
