"""The live plot: what is sent, when, and what comes back; the page is played by setting its traits."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
    return plot.figure["number"], plot.figure["data"][0]["y"].tolist()


def test_the_whole_figure_is_the_state_so_that_a_reload_shows_it() -> None:
    plot = PlotWidget(curve(1, 2), LOOKS)
    assert sent(plot) == (1, [1.0, 2.0])
    assert plot.figure["layout"]["title"]["text"] == "2 points"
    assert "template" not in plot.figure["layout"]
    assert plot.templates["dark"]["layout"]["paper_bgcolor"] == "#111111"
    plot.state.drawn = 1
    plot.update(curve(3))
    assert sent(plot) == (2, [3.0])
    assert plot.state.get_state()["figure"]["number"] == 2  # what a page gets that is loaded again


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


@pytest.mark.slow
def test_a_page_rests_half_as_long_as_it_drew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plot_widget, "REST", 30.0)
    plot = PlotWidget(curve(1), LOOKS)
    time.sleep(0.6)
    plot.state.drawn = 1
    plot.update(curve(2))
    assert sent(plot) == (1, [1.0])
    deadline = time.monotonic() + 300
    while plot.figure["number"] == 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert sent(plot) == (2, [2.0])


def test_a_page_that_says_how_long_it_drew_rests_half_of_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plot_widget, "REST", 1e6)
    plot = PlotWidget(curve(1), LOOKS)
    time.sleep(0.1)  # on the way, and in the kernel
    plot.state.set_state({"drawn": 1, "took": 1})
    time.sleep(0.001)
    plot.update(curve(2))
    assert sent(plot) == (2, [2.0])
    plot.state.set_state({"drawn": 2, "took": 10**9})
    plot.update(curve(3))
    assert sent(plot) == (2, [2.0])


def test_a_page_that_draws_quickly_need_not_answer_each_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plot_widget, "PATIENCE", 1e6)
    plot = PlotWidget(curve(1), LOOKS)
    plot.state.set_state({"drawn": 1, "took": 1})
    for number in range(2, plot_widget.AHEAD + 2):
        time.sleep(0.002)  # which it draws longer than
        plot.update(curve(number))
        assert sent(plot) == (number, [float(number)])
        # Of each what is new to the one before, which the page has though it has not said so.
        assert plot.state.patch["base"] == number - 1
    plot.update(curve(0))
    assert plot.figure["number"] == plot_widget.AHEAD + 1
    # An answer to one of them makes room for more.
    time.sleep(0.002)
    plot.state.set_state({"drawn": 4, "took": 1})
    assert sent(plot) == (plot_widget.AHEAD + 2, [0.0])


def test_no_figure_is_sent_sooner_than_the_last_can_be_drawn() -> None:
    plot = PlotWidget(curve(1), LOOKS)
    plot.state.set_state({"drawn": 1, "took": 10**9})
    plot.update(curve(2))
    plot.update(curve(3))
    assert sent(plot) == (2, [2.0])


@pytest.mark.slow
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
    deadline = time.monotonic() + 300
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
    drawer.join(120)
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


def test_maps_travel_in_binary_and_what_json_cannot_say_as_null() -> None:
    z = np.arange(6, dtype=np.float32).reshape(2, 3)
    data = PlotWidget(go.Figure(go.Heatmap(z=z, x=[0.0, float("nan"), 2.0])), LOOKS).state.get_state()["figure"]["data"]
    assert data[0]["z"] == {"dtype": "f4", "shape": [2, 3], "buffer": z.tobytes()}
    again = PlotWidget(go.Figure(layout={"meta": [float("inf"), 1.0]}), LOOKS)
    assert again.state.get_state()["figure"]["layout"]["meta"] == [None, 1.0]


def changed(part: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    part = {**part, **changes.get("set", {})}
    for name, tail in changes.get("tail", {}).items():
        size = tail["from"] * int(tail["values"]["dtype"][1:])
        joined = part[name]["buffer"][:size] + tail["values"]["buffer"]
        shape = [tail["from"] + tail["values"]["shape"][0]]
        part[name] = {"dtype": tail["values"]["dtype"], "shape": shape, "buffer": joined}
    return {name: value for name, value in part.items() if name not in changes.get("gone", [])}


def applied(shown: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    """What plot.js makes of a message, in Python."""
    old = shown if patch["base"] else {"data": [], "layout": {}}
    old["data"] += [{}] * (patch["count"] - len(old["data"]))
    data = [changed(old["data"][place], patch["traces"].get(str(place), {})) for place in range(patch["count"])]
    return {"number": patch["number"], "data": data, "layout": changed(old["layout"], patch.get("layout", {}))}


@pytest.mark.slow
@given(
    st.lists(
        st.lists(
            st.lists(st.sampled_from([0.0, 1.0, math.nan, math.inf]), max_size=6).map(np.array), min_size=1, max_size=3
        ),
        min_size=1,
        max_size=5,
    ),
    st.lists(st.booleans(), min_size=5, max_size=5),
)
@settings(deadline=None, max_examples=60)
def test_all_messages_together_are_the_figure(frames: list[list[Any]], answered: list[bool]) -> None:
    plot = PlotWidget(curve(1), LOOKS)
    shown = plot.state.get_state()["figure"]
    for curves, answer in zip(frames, answered, strict=False):
        names = ["hovertext", "name", "customdata"]
        layout = {"height": 1, ("title", "shapes")[len(curves) % 2]: [len(curves)]}
        plot.update({"data": [{"y": y, names[len(y) % 3]: "a"} for y in curves], "layout": layout})
        plot.flush()
        shown = applied(shown, plot.state.patch)
        assert shown == plot.state.get_state()["figure"]
        plot.state.drawn = shown["number"] if answer else 0


def test_of_a_curve_that_grows_only_its_new_points_travel() -> None:
    plot = PlotWidget(go.Figure(), LOOKS)
    for count in (1000, 1003):
        plot.state.drawn = plot.figure["number"]
        plot.update({"data": [{"y": np.arange(count, dtype=np.float32), "name": "run"}], "layout": {"height": 1}})
    tail = {
        "from": 1000,
        "values": {"dtype": "f4", "shape": [3], "buffer": np.arange(1000, 1003, dtype="f4").tobytes()},
    }
    assert plot.state.patch == {"base": 2, "number": 3, "count": 1, "traces": {"0": {"tail": {"y": tail}}}}


def test_of_a_layout_only_what_changed_travels() -> None:
    plot = PlotWidget(go.Figure(), LOOKS)
    axis = {"type": "log", "range": [0, 1]}
    for layout in (
        {"title": {"text": "step 1"}, "meta": 1, "xaxis": axis},
        {"title": {"text": "step 2"}, "xaxis": axis},
    ):
        plot.state.drawn = plot.figure["number"]
        plot.update({"data": [], "layout": layout})
    assert plot.state.patch["layout"] == {"set": {"title": {"text": "step 2"}}, "gone": ["meta"]}


def test_a_page_that_missed_a_message_gets_all_of_it() -> None:
    plot = PlotWidget(curve(1, 2), LOOKS)
    plot.state.drawn = 1
    plot.update(curve(1, 2, 3))
    plot.state.event = {"kind": "lost", "number": 1, "at": 1}
    assert plot.state.patch["base"] == 0 and plot.state.patch["number"] == 2
    assert applied({}, plot.state.patch) == plot.state.get_state()["figure"]


def test_plotly_travels_once() -> None:
    assert plot_widget.library() is plot_widget.library()
    assert "Plotly" in plot_widget.library().source[:2000]
    assert "Plotly" not in PlotWidget(curve(1), LOOKS).get_state().get("source", "")
