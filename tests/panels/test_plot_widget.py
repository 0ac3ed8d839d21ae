"""The live plot: what is sent, when, and what comes back; the page is played by setting its traits."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from rislab.panels import plot_widget
from rislab.panels.plot_widget import PlotWidget
from rislab.plots.style import template

LOOKS = {theme: template(theme) for theme in ("light", "dark")}


@pytest.fixture(autouse=True)
def restless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plot_widget, "REST", 0.0)


def curve(*y: float) -> go.Figure:
    return go.Figure(go.Scatter(y=np.array(y, dtype=np.float32)), {"title": {"text": f"{len(y)} points"}})


def sent(plot: PlotWidget) -> tuple[int, list[float]]:
    packed = plot.figure["data"][0]["y"]
    return plot.figure["number"], np.frombuffer(base64.b64decode(packed["bdata"]), dtype=packed["dtype"]).tolist()


def test_the_whole_figure_is_the_state_so_that_a_reload_shows_it() -> None:
    plot = PlotWidget(curve(1, 2), LOOKS)
    assert sent(plot) == (1, [1.0, 2.0])
    assert plot.figure["layout"]["title"]["text"] == "2 points"
    assert "template" not in plot.figure["layout"]
    assert plot.templates["dark"]["layout"]["paper_bgcolor"] == "#111111"
    plot.state.drawn = 1
    plot.update(curve(3))
    assert sent(plot) == (2, [3.0])
    assert plot.state.get_state()["figure"]["number"] == 2


def test_while_the_page_draws_only_the_newest_waits() -> None:
    plot = PlotWidget(curve(1), LOOKS)
    plot.update(curve(2))
    plot.update(curve(3))
    assert sent(plot) == (1, [1.0])
    plot.state.drawn = 1
    assert sent(plot) == (2, [3.0])
    plot.state.drawn = 2
    assert sent(plot) == (2, [3.0])


def test_a_page_that_does_not_answer_holds_up_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plot_widget, "PATIENCE", 0.0)
    plot = PlotWidget(curve(1), LOOKS)
    plot.update(curve(2))
    assert sent(plot) == (2, [2.0])


def test_a_figure_is_made_when_the_page_is_ready_for_it() -> None:
    plot = PlotWidget(curve(1), LOOKS)
    made: list[int] = []

    def figure() -> go.Figure:
        made.append(plot.state.drawn)
        return curve(2)

    for _ in range(5):
        plot.update(figure)
    assert made == []
    plot.state.drawn = 1
    assert made == [1]
    assert sent(plot) == (2, [2.0])


def test_a_page_rests_half_as_long_as_it_drew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plot_widget, "REST", 30.0)
    plot = PlotWidget(curve(1), LOOKS)
    time.sleep(0.6)
    plot.state.drawn = 1
    plot.update(curve(2))
    assert sent(plot) == (1, [1.0])
    deadline = time.monotonic() + 20
    while plot.figure["number"] == 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert sent(plot) == (2, [2.0])


def test_nothing_piles_up_at_a_page_that_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plot_widget, "PATIENCE", 0.05)
    plot = PlotWidget(curve(1), LOOKS)
    began = time.monotonic()
    while time.monotonic() < began + 1.0:
        plot.update(curve(2))
        time.sleep(0.005)
    # After 0.05, 0.1, 0.2, 0.4 and 0.8 seconds more; regardless of patience it would have been 20 figures.
    assert 2 <= plot.figure["number"] <= 6


def test_the_last_drawing_reaches_a_page_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plot_widget, "PATIENCE", 0.05)
    plot = PlotWidget(curve(1), LOOKS)
    plot.update(curve(2))
    plot.update(curve(3))
    deadline = time.monotonic() + 30
    while plot.figure["number"] == 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert sent(plot) == (2, [3.0])


def test_the_last_state_can_be_sent_at_once() -> None:
    plot = PlotWidget(curve(1), LOOKS)
    plot.update(curve(2))
    plot.flush()
    assert sent(plot) == (2, [2.0])
    plot.flush()
    assert plot.figure["number"] == 2


def test_a_figure_waits_while_the_page_is_heard() -> None:
    # traitlets holds notifications back meanwhile: a figure that another thread sets just then could get lost.
    plot = PlotWidget(curve(1), LOOKS)
    drawer = threading.Thread(target=lambda: (plot.update(curve(2, 3)), plot.flush()))
    seen: list[int] = []

    class Message(dict[str, Any]):
        def __iter__(self) -> Iterator[str]:
            drawer.start()
            drawer.join(0.3)
            seen.append(plot.figure["number"])
            return super().__iter__()

    plot.state.set_state(Message(event={"kind": "none"}))
    drawer.join(30)
    assert seen == [1]
    assert sent(plot) == (2, [2.0, 3.0])


def test_events_reach_those_who_asked_for_their_kind() -> None:
    plot = PlotWidget(curve(1), LOOKS)
    clicks: list[Any] = []
    plot.on_event("click", clicks.append)
    plot.state.event = {"kind": "click", "x": 1.0, "at": 1}
    plot.state.event = {"kind": "shape", "moved": {}, "at": 2}
    plot.state.event = {"kind": "click", "x": 1.0, "at": 3}
    assert [click["at"] for click in clicks] == [1, 3]


def test_maps_travel_packed_and_what_json_cannot_say_as_null() -> None:
    z = np.arange(6, dtype=np.float64).reshape(2, 3)
    figure = go.Figure(go.Heatmap(z=z, x=[0.0, float("nan"), 2.0]))
    data = PlotWidget(figure, LOOKS).figure["data"][0]
    assert data["z"]["shape"] == "2, 3"
    assert base64.b64decode(data["z"]["bdata"]) == z.astype(data["z"]["dtype"]).tobytes()
    again = PlotWidget(go.Figure(layout={"meta": [float("inf"), 1.0]}), LOOKS)
    assert again.figure["layout"]["meta"] == [None, 1.0]


def test_plotly_travels_once() -> None:
    assert plot_widget.library() is plot_widget.library()
    assert "Plotly" in plot_widget.library().source[:2000]
    assert "Plotly" not in PlotWidget(curve(1), LOOKS).get_state().get("source", "")
