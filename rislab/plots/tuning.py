"""A search as plotly figures: its course, its learning curves, each dimension against the score, and what matters."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from rislab.plots.style import BLUE, GREEN, GREY, PURPLE, VERMILLION, template, trace_styles
from rislab.training.records import epoch_records
from rislab.training.run_folder import read_records
from rislab.tuning.analysis import Rerun, effects
from rislab.tuning.objective import OBJECTIVES
from rislab.tuning.space import Choice, Range
from rislab.tuning.study import Trial, TuningConfig, trial_folder

# State → colour and symbol; failed trials have no score and stand below the others.
LOOKS = {
    "complete": (BLUE, "circle"),
    "running": (PURPLE, "circle-open"),
    "pruned": (GREY, "x-thin-open"),
    "failed": (VERMILLION, "triangle-down"),
}
LEGEND = {"orientation": "h", "x": 0, "xanchor": "left", "y": 0, "yref": "container", "yanchor": "bottom"}


def history(trials: Sequence[Trial], config: TuningConfig) -> go.Figure:
    """The last score of each trial, and the best complete one so far.

    Args:
        trials: by number. config: of the search.
    """
    figure = go.Figure()
    for state, (colour, symbol) in LOOKS.items():
        mine = [trial for trial in trials if trial.state == state and trial.scores]
        if mine:
            figure.add_scatter(
                x=[trial.number for trial in mine], y=[_last(trial) for trial in mine], mode="markers",
                name=f"{state} × {len(mine)}",
                marker={"color": colour, "symbol": symbol, "size": 9, "line": {"width": 2}},
                hovertext=[_hover(trial, config) for trial in mine], hoverinfo="text",
            )  # fmt: skip
    lost = [trial for trial in trials if trial.state == "failed" and not trial.scores]
    if lost:
        floor = min([_last(trial) for trial in trials if trial.scores], default=0.0)
        figure.add_scatter(
            x=[trial.number for trial in lost], y=[floor] * len(lost), mode="markers",
            name=f"failed before a score × {len(lost)}",
            marker={"color": VERMILLION, "symbol": "triangle-down-open", "size": 10},
            hovertext=[_hover(trial, config) for trial in lost], hoverinfo="text",
        )  # fmt: skip
    complete = [trial for trial in trials if trial.score is not None]
    if complete:
        better = max if config.higher_is_better else min
        best = list(accumulate((_last(one) for one in complete), better))
        figure.add_scatter(
            x=[*(trial.number for trial in complete), trials[-1].number], y=[*best, best[-1]],
            mode="lines", line={"color": GREEN, "shape": "hv", "width": 2}, name="best complete so far",
        )  # fmt: skip
    # All that are to come have their place, so that the axis stands still.
    figure.update_xaxes(title="trial", range=[-0.5, max(config.trials, len(trials)) - 0.5])
    return _dressed(figure, config)


def curves(trials: Sequence[Trial], config: TuningConfig) -> go.Figure:
    """The score of each trial after each epoch; the pruner's cuts are the ends of the grey curves.

    Args:
        trials: by number. config: of the search.
    """
    figure = go.Figure()
    seen = set()
    for trial in trials:
        if not trial.scores:
            continue
        colour, symbol = LOOKS[trial.state]
        thin = trial.state == "pruned"
        figure.add_scatter(
            x=list(trial.scores), y=list(trial.scores.values()), mode="lines+markers", name=trial.state,
            legendgroup=trial.state, showlegend=trial.state not in seen, opacity=0.7 if thin else 0.9,
            line={"color": colour, "width": 1 if thin else 1.5, "dash": "dot" if thin else "solid"},
            marker={"symbol": symbol, "size": 6}, hovertext=[_hover(trial, config)] * trial.epochs, hoverinfo="text",
        )  # fmt: skip
        seen.add(trial.state)
    figure.update_xaxes(title="epoch", dtick=max(1, config.base.epochs // 8))
    return _dressed(figure, config)


def slices(trials: Sequence[Trial], config: TuningConfig) -> go.Figure:
    """The last score over each dimension, one chart each; pruned trials with the score at which they were cut.

    Args:
        trials: by number. config: of the search.
    """
    names = list(config.space)
    figure = make_subplots(1, len(names), shared_yaxes=True, horizontal_spacing=0.02)
    for column, (name, dimension) in enumerate(config.space.items(), start=1):
        for state, (colour, symbol) in LOOKS.items():
            mine = [trial for trial in trials if trial.state == state and trial.scores and name in trial.values]
            values = [trial.values[name] for trial in mine]
            figure.add_scatter(
                x=[str(value) for value in values] if isinstance(dimension, Choice) else values,
                y=[_last(trial) for trial in mine], mode="markers", name=state, legendgroup=state,
                showlegend=column == 1 and bool(mine), hoverinfo="text",
                marker={"color": colour, "symbol": symbol, "size": 8, "line": {"width": 2}},
                hovertext=[_hover(trial, config) for trial in mine], row=1, col=column,
            )  # fmt: skip
        figure.update_xaxes(title={"text": name.replace("_", " "), "standoff": 4}, row=1, col=column)
        figure.update_xaxes(**_axis(dimension), row=1, col=column)
    _dressed(figure, config)
    return figure.update_yaxes(title="", col=None).update_yaxes(title=_title(config), col=1)


def importance(trials: Sequence[Trial], config: TuningConfig) -> go.Figure:
    """How much of the order of the trials each dimension explains, beside what chance explains.

    Args:
        trials: by number. config: of the search.
    """
    found = effects(trials, config)
    figure = go.Figure()
    names = [name.replace("_", " ") for name in found][::-1]
    shares = [effect.share for effect in found.values()][::-1]
    chances = [effect.chance for effect in found.values()][::-1]
    figure.add_bar(
        x=shares, y=names, orientation="h", marker={"color": BLUE}, name="share explained",
        text=[f"{share:.0%}" for share in shares], textposition="outside", cliponaxis=False,
    )  # fmt: skip
    figure.add_scatter(
        x=chances, y=names, mode="markers", name="19 of 20 shuffles stay below",
        marker={"symbol": "line-ns-open", "size": 22, "color": VERMILLION, "line": {"width": 3}},
    )  # fmt: skip
    if not found:
        figure.add_annotation(text="too few trials to tell", x=0.5, y=0.5, xref="paper", yref="paper")
    ranked = next(iter(found.values())).trials if found else 0
    figure.update_xaxes(title=f"share of the order of {ranked} trials explained (R² of ranks)", tickformat=".0%")
    figure.update_xaxes(range=[0, 1.05])
    height = 190 + 34 * len(names)
    margin = {"t": 20, "b": 110, "l": 150, "r": 16}
    return figure.update_layout(template=template(), height=height, autosize=True, legend=LEGEND, margin=margin)


def losses(folder: Path, trials: Sequence[Trial], config: TuningConfig) -> go.Figure:
    """What the complete trials minimised, the loss of their last epoch, against what they are judged by.

    Args:
        folder: of the study. trials: by number. config: of the search.
    """
    complete = [trial for trial in trials if trial.score is not None]
    minimised = [epoch_records(read_records(trial_folder(folder, trial.number)))[-1].train for trial in complete]
    kinds = [str(trial.values.get("curriculum", config.base.curriculum)) for trial in complete]
    figure = go.Figure()
    for pen in trace_styles(sorted(set(kinds))):
        mine = [place for place, kind in enumerate(kinds) if kind == pen.name]
        figure.add_scatter(
            x=[minimised[place] for place in mine], y=[_last(complete[place]) for place in mine], mode="markers",
            name=pen.name, marker={"color": pen.colour, "symbol": pen.symbol, "size": 10}, hoverinfo="text",
            hovertext=[_hover(complete[place], config) for place in mine],
        )  # fmt: skip
    figure.update_xaxes(
        title="training loss of the last epoch, by each trial's own weights (dimensionless)", type="log"
    )
    return _dressed(figure, config).update_layout(showlegend=True)


def finals(found: Sequence[Rerun], config: TuningConfig) -> go.Figure:
    """Best and default, trained again with the same seeds, on scenes of the test split.

    Args:
        found: see tuning.Final. config: of the search.
    """
    figure = go.Figure()
    names = sorted({final.name for final in found}, reverse=True)
    for pen in trace_styles(names):
        mine = [final for final in found if final.name == pen.name]
        values = [getattr(final, config.objective) for final in mine]
        figure.add_scatter(
            x=values, y=[pen.name] * len(mine), mode="markers", name=pen.name, showlegend=False,
            marker={"symbol": pen.symbol, "size": 11, "color": pen.colour},
            hovertext=[f"seed {one.seed}: recall {one.recall:.4f}, peb {one.peb:.4f}" for one in mine],
            hoverinfo="text",
        )  # fmt: skip
    figure.update_xaxes(title=f"{_title(config)}, test split")
    figure.update_yaxes(range=[-0.6, len(names) - 0.4])
    margin = {"t": 16, "b": 56, "l": 90, "r": 16}
    return figure.update_layout(template=template(), height=220, autosize=True, margin=margin)


def _last(trial: Trial) -> float:
    return trial.scores[max(trial.scores)]


def _title(config: TuningConfig) -> str:
    return OBJECTIVES[config.objective][1].partition(" (")[0]


def _axis(dimension: Choice | Range) -> dict[str, Any]:
    if isinstance(dimension, Choice):
        names = [str(value) for value in dimension.values]
        return {"type": "category", "categoryorder": "array", "categoryarray": names, "range": [-0.5, len(names) - 0.5]}
    return {"type": "log", "nticks": 4} if dimension.log else {"nticks": 5}


def _hover(trial: Trial, config: TuningConfig) -> str:
    values = "<br>".join(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
                         for name, value in trial.values.items())  # fmt: skip
    told = f"{config.objective} {_last(trial):.4f} after {trial.epochs} epochs" if trial.scores else "no score"
    return f"trial {trial.number}, {trial.state}<br>{told}<br>{values}{f'<br>{trial.reason}' if trial.reason else ''}"


def _dressed(figure: go.Figure, config: TuningConfig) -> go.Figure:
    figure.update_yaxes(title=_title(config))
    margin = {"t": 24, "b": 96, "l": 64, "r": 16}
    return figure.update_layout(template=template(), height=400, autosize=True, legend=LEGEND, margin=margin)
