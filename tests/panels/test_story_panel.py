"""The story on the screen, without a browser: figures of what was measured, and a panel that follows its boxes."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import pytest

from rislab import panels
from rislab.errors import InputError
from rislab.faults.story import EXTRA_FAULTS, Replay, StoryConfig, repairs, replay
from rislab.panels import story_panel
from rislab.panels.story_panel import StoryPanel
from rislab.plots import story as story_plots

SMALL = StoryConfig(epochs=3, repair_epochs=3, fault="stage two", extra_faults=())


@pytest.fixture(scope="module")
def fallen() -> Replay:
    return replay(SMALL, "stage two")


def test_the_ledger_has_a_bar_for_each_count_and_a_number_on_it(fallen: Replay) -> None:
    figure = story_plots.first_epoch_counts({"suspect, K = 1": replay(SMALL, "suspect"), "stage two": fallen})
    bars = {bar.name: (list(bar.y), list(bar.text)) for bar in figure.data}
    assert bars["forwards"] == ([8, 8], ["8", "8"])
    assert bars["backwards"] == ([8, 1], ["8", "1"])
    assert bars["steps skipped"] == ([0, 0], ["0", "0"])
    assert list(figure.data[0].x) == ["suspect<br>K = 1", "stage two"]


def test_last_over_n_lies_in_its_ring(fallen: Replay) -> None:
    every, last, times, reported = story_plots.last_over_n(fallen).data
    assert len(every.y) == 24 and list(last.y) == [losses[-1] for losses in fallen.batch_losses]
    assert list(times.y) == pytest.approx(list(last.y), rel=1e-6)
    assert list(reported.y) == [end.train for end in fallen.epoch_records]


def test_the_warm_up_is_drawn_over_the_batches(fallen: Replay) -> None:
    correct, late = story_plots.warm_up({"correct loop": replay(SMALL), "stage two": fallen}).data
    assert list(correct.x) == [*range(1, 25)] and list(late.x) == [8, 16, 24]
    assert correct.y[0] == late.y[0] and correct.y[7] > 4 * late.y[0]


def test_repairs_are_drawn_in_their_order() -> None:
    found = list(repairs(SMALL, ("split leakage",)))
    figure = story_plots.fix_scores(found)
    assert list(figure.layout.yaxis.ticktext) == ["nothing", "the branch: stage two", "the loop", "split leakage"]
    named = {trace.name: list(trace.x) for trace in figure.data if trace.name}
    assert named["validation, told"] == [repair.replay.validations[-1] for repair in found]
    assert named["validation, told"][-1] == named["NMSE on fresh scenes, true"][-1]
    assert named["validation, told"][-2] != named["NMSE on fresh scenes, true"][-2]


def test_the_curves_say_how_many_are_not_finite(fallen: Replay) -> None:
    lost = [dataclasses.replace(end, validation=math.nan) for end in fallen.epoch_records]
    told = dataclasses.replace(fallen, records=lost, fresh_nmse=[1.0, *[math.inf] * 3], extra_faults=("one", "other"))
    names = [trace.name for trace in story_plots.replay_figure(told).data]
    assert "validation, told (3 of 3 not finite)" in names
    assert "NMSE on fresh scenes, true (3 of 4 not finite)" in names
    assert "validation nan (the same in all epochs)" in story_plots.replay_summary(told)
    assert story_plots.replay_heading(told) == "stage two with 2 extra faults, 3 epochs"


def test_the_log_is_cut_in_its_middle(fallen: Replay) -> None:
    assert story_plots.log_excerpt(fallen).count("\n") == 2
    long = replay(StoryConfig(epochs=6), "stage one")
    assert story_plots.log_excerpt(long).splitlines()[3:] == ["…", long.log()[-1]]
    assert "(the same in all epochs)" in story_plots.replay_summary(long)
    assert "(the same in all epochs)" not in story_plots.replay_summary(fallen)


def awaited(panel: StoryPanel) -> Replay:
    async def wait() -> Replay:
        return await panel

    return asyncio.run(wait())


@pytest.mark.parametrize("live", ["0", "1"])
def test_the_panel_replays_what_it_begins_with(live: str, monkeypatch: pytest.MonkeyPatch, fallen: Replay) -> None:
    monkeypatch.setenv("RISLAB_LIVE", live)
    panel = panels.story(SMALL)
    told = awaited(panel)
    assert (panel.widget is not None) == (live == "1")
    assert (told.fault, told.extra_faults, told.epoch_records[0].phase) == ("stage two", (), "phase=0")
    assert told.same_as(replay(SMALL, "stage two", curriculum="three-phase")) and not told.same_as(fallen)
    assert "text/plain" in panel._repr_mimebundle_()


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RISLAB_LIVE", "1")


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def parts(panel: StoryPanel) -> tuple[Any, dict[str, Any], Any, Any, Any]:
    top, grid, log, said, plot = panel.widget.children
    return top.children[0], dict(zip(EXTRA_FAULTS, grid.children, strict=True)), log, said, plot


def test_boxes_switch_accomplices_on_and_off(live: None) -> None:
    panel = panels.story(SMALL)
    awaited(panel)
    menu, boxes, log, said, plot = parts(panel)
    boxes["split leakage"].value = True
    menu.value = "correct loop"
    told = awaited(panel)
    assert (told.fault, told.extra_faults) == ("correct loop", ("split leakage",))
    until(lambda: plot.figure["layout"]["title"]["text"] == "correct loop with split leakage, 3 epochs")
    until(lambda: told.log()[-1] in log.value)
    assert f"true NMSE on fresh scenes {told.fresh_nmse[-1]:.6f}" in said.value
    boxes["split leakage"].value = False
    assert awaited(panel).extra_faults == ()
    assert panel.drawing_error is None


def test_what_does_not_go_together_is_said_and_the_panel_goes_on(live: None) -> None:
    panel = panels.story(SMALL)
    awaited(panel)
    menu, boxes, log, said, plot = parts(panel)
    boxes["step gate too strict"].value = True
    menu.value = "stage one"
    with pytest.raises(InputError, match="'step gate too strict', but stage one or another"):
        awaited(panel)
    until(lambda: "changes the line that it edits" in said.value)
    assert log.value == "" and plot.figure["data"] == []
    boxes["step gate too strict"].value = False
    assert {end.train for end in awaited(panel).epoch_records} == {0.0}


def test_an_exception_is_shown_and_raised_where_the_panel_is_awaited(
    live: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*unused: Any, **options: Any) -> Replay:
        raise FloatingPointError("nothing adds up")

    monkeypatch.setattr(story_panel, "replay", fails)
    panel = panels.story(SMALL)
    with pytest.raises(FloatingPointError, match="nothing adds up"):
        awaited(panel)
    until(lambda: "FloatingPointError: nothing adds up" in parts(panel)[3].value)


def test_a_fault_in_drawing_does_not_end_the_replays(live: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(story_panel, "replay_summary", lambda told: 1 / 0)
    panel = panels.story(SMALL)
    awaited(panel)
    until(lambda: isinstance(panel.drawing_error, ZeroDivisionError))
    panel.choose("stage one", ())
    assert awaited(panel).fault == "stage one"


def test_of_several_that_wait_the_newest_alone_is_replayed(live: None, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def counted(config: StoryConfig, culprit: str, accomplices: tuple[str, ...], *, curriculum: str) -> Replay:
        made.append(culprit)
        return replay(config, culprit, accomplices, curriculum=curriculum)

    monkeypatch.setattr(story_panel, "replay", counted)
    panel = panels.story(SMALL)
    for culprit in ("suspect", "correct loop", "suspect, K = 4", "stage one"):
        panel.choose(culprit, ())
    assert awaited(panel).fault == "stage one"
    assert made[-1] == "stage one" and len(made) <= 2


def test_a_config_of_another_kind_is_named() -> None:
    with pytest.raises(InputError, match="config is a dict"):
        panels.story({"scenes": 64})  # type: ignore[arg-type]
