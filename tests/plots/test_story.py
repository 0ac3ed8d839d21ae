"""The story as figures: they show what was measured, reported beside true."""

from __future__ import annotations

import dataclasses
import math

import pytest

from rislab.faults.story import Replay, StoryConfig, repairs, replay
from rislab.plots import story as story_plots

SMALL = StoryConfig(epochs=3, repair_epochs=3)


@pytest.fixture(scope="module")
def fallen() -> Replay:
    return replay(SMALL, "stage two")


@pytest.fixture(scope="module")
def correct() -> Replay:
    return replay(SMALL)


def test_the_ledger_has_a_bar_for_each_count_and_a_number_on_it(correct: Replay, fallen: Replay) -> None:
    figure = story_plots.first_epoch_counts({"correct loop, K = 1": correct, "stage two": fallen})
    bars = {bar.name: (list(bar.y), list(bar.text)) for bar in figure.data}
    assert bars["forwards"] == ([8, 8], ["8", "8"])
    assert bars["backwards"] == ([8, 1], ["8", "1"])
    assert bars["steps skipped"] == ([0, 0], ["0", "0"])
    assert list(figure.data[0].x) == ["correct loop<br>K = 1", "stage two"]


def test_last_over_n_lies_in_its_ring(fallen: Replay) -> None:
    every, last, times, reported = story_plots.last_over_n(fallen).data
    assert len(every.y) == 24 and list(last.y) == [losses[-1] for losses in fallen.batch_losses]
    assert list(times.y) == pytest.approx(list(last.y), rel=1e-6)
    assert list(reported.y) == [end.train for end in fallen.epoch_records]


def test_the_warm_up_is_drawn_over_the_batches(correct: Replay, fallen: Replay) -> None:
    early, late = story_plots.warm_up({"correct loop": correct, "stage two": fallen}).data
    assert list(early.x) == [*range(1, 25)] and list(late.x) == [8, 16, 24]
    assert early.y[0] == late.y[0] and early.y[7] > 4 * late.y[0]


@pytest.mark.slow
def test_repairs_are_drawn_in_their_order() -> None:
    fixes = list(repairs(SMALL, ("split leakage",)))
    figure = story_plots.fix_scores(fixes)
    assert list(figure.layout.yaxis.ticktext) == ["nothing", "the branch: stage two", "the loop", "split leakage"]
    named = {trace.name: list(trace.x) for trace in figure.data if trace.name}
    assert named["validation, reported"] == [repair.replay.validations[-1] for repair in fixes]
    assert named["validation, reported"][-1] == named["NMSE on fresh scenes, true"][-1]
    assert named["validation, reported"][-2] != named["NMSE on fresh scenes, true"][-2]


def test_the_curves_say_how_many_are_not_finite(fallen: Replay) -> None:
    lost = [dataclasses.replace(end, validation=math.nan) for end in fallen.epoch_records]
    changed = dataclasses.replace(
        fallen, records=lost, fresh_nmse=[1.0, *[math.inf] * 3], extra_faults=("one", "other")
    )
    names = [trace.name for trace in story_plots.replay_figure(changed).data]
    assert "validation, reported (3 of 3 not finite)" in names
    assert "NMSE on fresh scenes, true (3 of 4 not finite)" in names
    assert "validation nan (the same in all epochs)" in story_plots.replay_summary(changed)
    assert story_plots.replay_heading(changed) == "stage two with 2 extra faults, 3 epochs"


def test_the_log_is_cut_in_its_middle(fallen: Replay) -> None:
    assert story_plots.log_excerpt(fallen).count("\n") == 2
    long = replay(StoryConfig(epochs=5), "stage one")
    assert story_plots.log_excerpt(long).splitlines()[3:] == ["…", long.log()[-1]]
    assert "(the same in all epochs)" in story_plots.replay_summary(long)
    assert "(the same in all epochs)" not in story_plots.replay_summary(fallen)
