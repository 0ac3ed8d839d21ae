"""The precision panel without a browser: it fills, stops and answers."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Generator
from typing import Any

import pytest

from rislab import panels
from rislab.errors import InputError
from rislab.panels import precision_panel
from rislab.panels.plot_widget import PlotWidget
from rislab.panels.precision_panel import PrecisionPanel
from rislab.sanity import precision
from rislab.sanity.precision import PrecisionCell, PrecisionConfig, Progress

SMALL = PrecisionConfig(scenes=64, windows=2, modes=("fp64", "fp32"), accumulation_steps=(8,))
LONG = PrecisionConfig(scenes=64, windows=1000)


@pytest.fixture(scope="module")
def plain() -> list[Progress]:
    """What a run without a panel yields."""
    return list(precision.stream_cells(SMALL))


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RISLAB_LIVE", "1")


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch, live: None, plain: list[Progress]) -> None:
    """Panels show a run that was made before."""

    def again(config: PrecisionConfig) -> Generator[Progress]:
        yield from plain

    monkeypatch.setattr(precision_panel, "stream_cells", again)


def cells_of(progress: list[Progress]) -> list[PrecisionCell]:
    return [each for each in progress if isinstance(each, PrecisionCell)]


def awaited(panel: PrecisionPanel) -> list[PrecisionCell]:
    async def wait() -> list[PrecisionCell]:
        return await panel

    return asyncio.run(wait())


@pytest.mark.slow
def test_the_panel_gives_the_cells_of_a_plain_run(monkeypatch: pytest.MonkeyPatch, plain: list[Progress]) -> None:
    monkeypatch.setenv("RISLAB_LIVE", "0")
    panel = panels.precision(SMALL)
    cells = awaited(panel)
    assert (panel.state, panel.widget) == ("finished", None)
    assert [(cell.mode, cell.accumulation_steps) for cell in cells] == SMALL.places()
    losses = [[window.loss for window in cell.windows] for cell in cells]
    assert losses == [[window.loss for window in cell.windows] for cell in cells_of(plain)]
    assert "text/plain" in panel._repr_mimebundle_()


def test_with_widgets_the_panel_gives_all_cells_too(recorded: None, plain: list[Progress]) -> None:
    panel = panels.precision(SMALL)
    assert awaited(panel) == cells_of(plain)
    assert panel.widget is not None and "text/plain" in panel._repr_mimebundle_()


def parts(panel: PrecisionPanel) -> tuple[Any, Any, PlotWidget, Any, PlotWidget]:
    top, table, text, detail = panel.widget.children
    return top.children[0], top.children[1], table, text, detail


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_click_shows_the_curves_of_its_cell(recorded: None) -> None:
    panel = panels.precision(SMALL)
    awaited(panel)
    _, hint, table, text, detail = parts(panel)
    assert table.figure["layout"]["title"]["text"] == "finished: 2 of 2 cells"
    assert "fp32, 8 × 8" in detail.figure["layout"]["title"]["text"]
    table.state.event = {"kind": "click", "x": 0, "y": 0, "at": 1}
    assert panel.chosen == ("fp64", 8)
    detail.flush()
    assert "fp64, 8 × 8" in detail.figure["layout"]["title"]["text"]
    assert "fp64, 8 × 8" in text.value
    assert panel.problem == "" and hint.layout.display == ""


def test_a_click_on_a_cell_that_has_not_been_run_says_so(live: None) -> None:
    panel = panels.precision(LONG)
    stop, hint, table, _, _ = parts(panel)
    table.state.event = {"kind": "click", "x": 3, "y": 7, "at": 1}
    assert "BatchNorm, 8 × 8 scenes has not been run yet" in panel.alarm.value and hint.layout.display == "none"
    stop.click()
    assert awaited(panel) == []
    assert panel.choose("fp64", 1) is False
    assert "fp64, 1 × 64 scenes was not run" in panel.alarm.value


def test_stop_ends_within_a_window(live: None) -> None:
    panel = panels.precision(LONG)
    until(lambda: "window 2 of" in panel.title)
    parts(panel)[0].click()
    assert awaited(panel) == []
    assert panel.state == "stopped"
    assert parts(panel)[0].disabled
    assert parts(panel)[2].figure["layout"]["title"]["text"] == "stopped: 0 of 32 cells"


def test_the_title_says_stopping_until_the_window_in_progress_is_done(
    live: None, monkeypatch: pytest.MonkeyPatch, plain: list[Progress]
) -> None:
    at_work, read = threading.Event(), threading.Event()

    def stream(config: PrecisionConfig) -> Generator[Progress]:
        yield plain[0]
        at_work.set()
        read.wait(20)  # the window in progress, which lasts until the panel has been read
        yield plain[1]

    monkeypatch.setattr(precision_panel, "stream_cells", stream)
    panel = panels.precision(SMALL)
    stop, _, table, _, _ = parts(panel)
    assert at_work.wait(120)
    stop.click()
    until(lambda: not table.figure["layout"]["title"]["text"].startswith(("waiting", "running")))
    assert table.figure["layout"]["title"]["text"].startswith("stopping: 0 of 2 cells") and stop.disabled
    read.set()
    assert awaited(panel) == []
    assert table.figure["layout"]["title"]["text"].startswith("stopped")


def test_an_exception_is_shown_and_raised_where_the_panel_is_awaited(
    live: None, monkeypatch: pytest.MonkeyPatch, plain: list[Progress]
) -> None:
    def stream(config: PrecisionConfig) -> Generator[Progress]:
        yield cells_of(plain)[0]
        raise FloatingPointError("nothing adds up")

    monkeypatch.setattr(precision_panel, "stream_cells", stream)
    panel = panels.precision(SMALL)
    with pytest.raises(FloatingPointError, match="nothing adds up"):
        awaited(panel)
    assert panel.state == "failed"
    assert "FloatingPointError: nothing adds up" in panel.alarm.value
    assert len(panel.cells()) == 1


def test_a_fault_in_drawing_does_not_end_the_runs(recorded: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision_panel, "window_curves_dict", lambda cell, reference: 1 / 0)
    panel = panels.precision(SMALL)
    assert len(awaited(panel)) == 2
    assert isinstance(panel.drawing_error, ZeroDivisionError)


def test_a_config_of_another_kind_is_named() -> None:
    with pytest.raises(InputError, match="config is a dict"):
        panels.precision({"scenes": 64})  # type: ignore[arg-type]
