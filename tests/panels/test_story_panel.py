"""The story panel without a browser: it follows its boxes, and says what does not go together."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from rislab import panels
from rislab.errors import InputError
from rislab.faults.story import EXTRA_FAULTS, Replay, StoryConfig, replay
from rislab.panels import story_panel
from rislab.panels.story_panel import StoryPanel

SMALL = StoryConfig(epochs=3, repair_epochs=3, fault="stage two", extra_faults=())
# The same replay need not be made by each test.
remembered = cache(replay)


def awaited(panel: StoryPanel) -> Replay:
    async def wait() -> Replay:
        return await panel

    return asyncio.run(wait())


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RISLAB_LIVE", "1")
    monkeypatch.setattr(story_panel, "replay", remembered)


@pytest.mark.slow
def test_the_panel_replays_what_it_begins_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RISLAB_LIVE", "0")
    panel = panels.story(SMALL)
    shown = awaited(panel)
    assert panel.widget is None and "text/plain" in panel._repr_mimebundle_()
    assert (shown.fault, shown.extra_faults, shown.epoch_records[0].phase) == ("stage two", (), "phase=0")
    assert shown.same_as(remembered(SMALL, "stage two", (), curriculum="three-phase"))


def test_with_widgets_it_shows_the_same(live: None) -> None:
    panel = panels.story(SMALL)
    assert awaited(panel) is remembered(SMALL, "stage two", (), curriculum="three-phase")
    assert panel.widget is not None and "text/plain" in panel._repr_mimebundle_()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def parts(panel: StoryPanel) -> tuple[Any, dict[str, Any], Any, Any, Any]:
    top, grid, log, summary, _, plot = panel.widget.children
    return top.children[0], dict(zip(EXTRA_FAULTS, grid.children, strict=True)), log, summary, plot


@pytest.mark.slow
def test_boxes_switch_extra_faults_on_and_off(live: None) -> None:
    panel = panels.story(SMALL)
    awaited(panel)
    menu, boxes, log, summary, plot = parts(panel)
    boxes["split leakage"].value = True
    menu.value = "correct loop"
    shown = awaited(panel)
    assert (shown.fault, shown.extra_faults) == ("correct loop", ("split leakage",))
    until(lambda: plot.figure["layout"]["title"]["text"] == "correct loop with split leakage, 3 epochs")
    until(lambda: shown.log()[-1] in log.value)
    assert f"true NMSE on fresh scenes {shown.fresh_nmse[-1]:.6g}" in summary.value
    boxes["split leakage"].value = False
    assert awaited(panel).extra_faults == ()
    assert panel.problem == ""


@pytest.mark.slow
def test_what_does_not_go_together_is_said_and_the_panel_goes_on(live: None) -> None:
    panel = panels.story(SMALL)
    awaited(panel)
    menu, boxes, log, _, plot = parts(panel)
    boxes["step gate too strict"].value = True
    menu.value = "stage one"
    with pytest.raises(InputError, match="'step gate too strict', but stage one or another"):
        awaited(panel)
    until(lambda: "changes the line that it edits" in panel.alarm.value)
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
    until(lambda: "FloatingPointError: nothing adds up" in panel.alarm.value)


def test_a_fault_in_drawing_does_not_end_the_replays(live: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(story_panel, "replay_summary", lambda shown: 1 / 0)
    panel = panels.story(SMALL)
    awaited(panel)
    until(lambda: isinstance(panel.drawing_error, ZeroDivisionError))
    panel.choose("stage one", ())
    assert awaited(panel).fault == "stage one"


def test_of_several_that_wait_the_newest_alone_is_replayed(live: None, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    all_chosen = threading.Event()

    def counted(config: StoryConfig, fault: str, extra_faults: tuple[str, ...], *, curriculum: str) -> Replay:
        made.append(fault)
        assert all_chosen.wait(120)
        return remembered(config, fault, extra_faults, curriculum=curriculum)

    monkeypatch.setattr(story_panel, "replay", counted)
    panel = panels.story(SMALL)
    until(lambda: made == ["stage two"])
    for fault in ("suspect", "correct loop", "suspect, K = 4", "stage one"):
        panel.choose(fault, ())
    all_chosen.set()
    assert awaited(panel).fault == "stage one"
    assert made == ["stage two", "stage one"]


def test_a_config_of_another_kind_is_named() -> None:
    with pytest.raises(InputError, match="config is a dict"):
        panels.story({"scenes": 64})  # type: ignore[arg-type]
