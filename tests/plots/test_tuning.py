"""Figures of a search: every trial is in them, with its state and its score."""

from __future__ import annotations

from typing import Any

from rislab.plots import tuning
from rislab.tuning.analysis import Rerun
from rislab.tuning.space import Choice, Range
from rislab.tuning.study import Trial
from rislab.tuning.tuning_config import TuningConfig

CONFIG = TuningConfig(space={"lr": Range(1e-3, 1e-1, log=True), "micro_batch": Choice((16, 32))}, trials=12)


def trial(number: int, state: str, scores: list[float], reason: str = "") -> Trial:
    values = {"lr": 1e-3 * (1 + number), "micro_batch": 16 if number % 2 else 32}
    score = scores[-1] if state == "complete" else None
    return Trial(number, state, values, dict(enumerate(scores, start=1)), score, 0.01, reason, 1.0)


def of_all() -> list[Trial]:
    """Trials of a search over all dimensions that there are by default."""
    trials = []
    for number in range(6):
        values = {
            name: one.values[number % len(one.values)]
            if isinstance(one, Choice)
            else (one.low + one.high) / (2 + number)
            for name, one in TuningConfig().space.items()
        }
        trials.append(Trial(number, "complete", values, {1: 2.0 - number / 10}, 2.0 - number / 10, 0.04, "", 1.0))
    return trials


TRIALS = [
    trial(0, "complete", [2.0, 1.5]),
    trial(1, "pruned", [2.5]),
    trial(2, "failed", [], "loss of step 3 is nan"),
    trial(3, "complete", [2.0, 1.7]),
    trial(4, "complete", [2.0, 1.2]),
    trial(5, "running", [1.9]),
]


def traces(figure: Any) -> dict[str, tuple[list[Any], list[float]]]:
    return {trace.name: (list(trace.x), list(trace.y)) for trace in figure.data}


def test_the_history_shows_every_trial_and_the_best_so_far() -> None:
    figure = tuning.history(TRIALS, CONFIG)
    assert traces(figure) == {
        "complete × 3": ([0, 3, 4], [1.5, 1.7, 1.2]),
        "not ended × 1": ([5], [1.9]),
        "pruned × 1": ([1], [2.5]),
        "failed before a score × 1": ([2], [1.2]),
        "best complete so far": ([0, 3, 4, 5], [1.5, 1.5, 1.2, 1.2]),
    }
    assert "loss of step 3 is nan" in figure.data[3].hovertext[0]
    assert tuple(figure.layout.xaxis.range) == (-0.5, 11.5)
    assert len(tuning.history((), CONFIG).data) == 0


def test_curves_end_where_the_pruner_stopped_a_trial() -> None:
    figure = tuning.curves(TRIALS, CONFIG)
    assert [(trace.name, list(trace.x)) for trace in figure.data] == [
        ("complete", [1, 2]), ("pruned", [1]), ("complete", [1, 2]), ("complete", [1, 2]), ("not ended", [1])
    ]  # fmt: skip
    assert [trace.showlegend for trace in figure.data] == [True, True, False, False, True]


def test_slices_show_each_dimension_on_its_own_axis() -> None:
    figure = tuning.slices(TRIALS, CONFIG)
    complete = [trace for trace in figure.data if trace.name == "complete"]
    assert [list(trace.x) for trace in complete] == [[1e-3, 4e-3, 5e-3], ["32", "16", "32"]]
    assert figure.layout.xaxis.type == "log" and list(figure.layout.xaxis2.categoryarray) == ["16", "32"]
    assert figure.layout.yaxis.title.text.startswith("mean position error") and not figure.layout.yaxis2.title.text


def test_importance_needs_trials_and_reruns_show_each_seed() -> None:
    nothing = (tuning.importance(TRIALS, CONFIG), tuning.reruns((), CONFIG), tuning.history((), CONFIG))
    for figure, text in zip(
        nothing, ("too few trials", "best and default are not", "no trial has a score"), strict=True
    ):
        note = figure.layout.annotations[0]
        assert note.text.startswith(text) and not figure.layout.xaxis.visible
        # On a telephone a page shows the left half of a figure, and the other half by scrolling.
        assert (note.x, note.xanchor) == (0, "left")
    many = [trial(number, "complete", [2.0, 1.0 + number]) for number in range(10)]
    assert list(tuning.importance(many, CONFIG).data[0].y) == ["micro batch", "lr"]
    finals = [Rerun(name, seed, 0.9, peb) for name, peb in (("default", 1.6), ("best", 1.5)) for seed in (1, 2)]
    assert traces(tuning.reruns(finals, CONFIG)) == {
        "default": ([1.6, 1.6], ["default"] * 2), "best": ([1.5, 1.5], ["best"] * 2)
    }  # fmt: skip
