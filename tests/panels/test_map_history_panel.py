"""The map history beside a run: newest snapshot, slider, restart."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from rislab import panels
from rislab.errors import InputError
from rislab.model.network import CovarianceNet
from rislab.music.map_history import MapHistory, Snapshot
from rislab.panels import map_history_panel
from rislab.panels.map_history_panel import MapHistoryPanel
from rislab.panels.plot_widget import PlotWidget
from rislab.plots import style
from tests.plots.test_map_history import new_history, new_network, train


@pytest.fixture(scope="module")
def network() -> CovarianceNet:
    return new_network()


@pytest.fixture
def history() -> MapHistory:
    return new_history()


@pytest.fixture
def panel(history: MapHistory, monkeypatch: pytest.MonkeyPatch) -> MapHistoryPanel:
    monkeypatch.setenv("RISLAB_LIVE", "1")
    return panels.map_history(history)


def knobs(panel: MapHistoryPanel) -> dict[str, Any]:
    play, slider, label, newest = panel.widget.children[0].children
    return {"play": play, "slider": slider, "label": label, "newest": newest}


def settled(panel: MapHistoryPanel) -> Snapshot | None:
    """The snapshot that is shown once nothing is left to do."""
    panel.settle(30)
    return panel.shown


def shown(panel: MapHistoryPanel) -> str:
    """Title of what the page has been sent."""
    plot = panel.widget.children[2]
    plot.flush()
    return str(plot.figure["layout"]["title"]["text"])


def test_before_the_first_epoch_the_panel_says_so(panel: MapHistoryPanel) -> None:
    assert settled(panel) is None
    assert shown(panel) == "no epoch yet"
    # "newest 30" was cut after the 3: in a narrow page the slider alone gets shorter.
    assert [knobs(panel)[name].layout.flex for name in ("label", "newest", "slider")] == ["0 0 auto", "0 0 auto", None]


def test_the_newest_snapshot_is_shown_while_a_run_goes_on(
    panel: MapHistoryPanel, history: MapHistory, network: CovarianceNet
) -> None:
    train(history, network, range(4))
    snapshot = settled(panel)
    assert snapshot is history.last and snapshot is not None
    assert shown(panel) == snapshot.line() and shown(panel).startswith("epoch 3:")
    slider = knobs(panel)["slider"]
    assert (slider.value, slider.max, knobs(panel)["play"].max) == (3, 3, 3)
    assert "epoch 3" in knobs(panel)["label"].value and knobs(panel)["newest"].value is True


def test_the_slider_goes_back_and_stays_there(
    panel: MapHistoryPanel, history: MapHistory, network: CovarianceNet
) -> None:
    train(history, network, range(4))
    panel.settle()
    knobs(panel)["slider"].value = 1
    panel.settle()
    assert shown(panel).startswith("epoch 1:") and knobs(panel)["newest"].value is False
    # The run goes on; the reader is left alone.
    model = copy.deepcopy(network)
    history.take_snapshot(model, 4)
    snapshot = settled(panel)
    assert snapshot is not None and snapshot.epoch == 1
    assert (knobs(panel)["slider"].value, knobs(panel)["slider"].max) == (1, 4)
    knobs(panel)["newest"].value = True
    panel.settle()
    assert shown(panel).startswith("epoch 4:") and knobs(panel)["slider"].value == 4


def test_unticking_stays_at_the_present_snapshot(
    panel: MapHistoryPanel, history: MapHistory, network: CovarianceNet
) -> None:
    train(history, network, range(3))
    panel.settle()
    knobs(panel)["newest"].value = False
    history.take_snapshot(copy.deepcopy(network), 3)
    snapshot = settled(panel)
    assert snapshot is not None and snapshot.epoch == 2


@pytest.mark.slow
def test_a_snapshot_that_was_let_go_gives_way_to_the_nearest(
    network: CovarianceNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RISLAB_LIVE", "1")
    history = new_history(most=4)
    panel = panels.map_history(history)
    train(history, network, range(4))
    panel.settle()
    panel.choose(3)
    panel.settle()
    model = copy.deepcopy(network)
    for epoch in range(4, 9):
        history.take_snapshot(model, epoch)
    snapshot = settled(panel)
    epochs = [each.epoch for each in history.snapshots()]
    assert epochs == [0, 4, 8] and snapshot is not None and snapshot.epoch == 4
    assert knobs(panel)["slider"].value == 1


def test_a_second_run_begins_the_history_anew(
    panel: MapHistoryPanel, history: MapHistory, network: CovarianceNet
) -> None:
    train(history, network, range(5))
    panel.settle()
    train(history, network, range(2))
    snapshot = settled(panel)
    assert snapshot is history.last and snapshot is not None and snapshot.epoch == 1
    assert knobs(panel)["slider"].max == 1


def test_an_exception_while_drawing_is_said_and_the_next_snapshot_drawn(
    panel: MapHistoryPanel, history: MapHistory, network: CovarianceNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = map_history_panel.snapshot_figure_dict
    monkeypatch.setattr(map_history_panel, "snapshot_figure_dict", lambda *given: 1 / 0)
    train(history, network, range(2))
    panel.settle()
    assert "division by zero" in panel.widget.children[1].value
    monkeypatch.setattr(map_history_panel, "snapshot_figure_dict", real)
    history.take_snapshot(copy.deepcopy(network), 2)
    panel.settle()
    assert panel.problem == panel.widget.children[1].value == "" and shown(panel).startswith("epoch 2:")


def test_headless_the_panel_says_where_its_figure_is(history: MapHistory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RISLAB_LIVE", "0")
    panel = panels.map_history(history)
    assert panel.widget is None
    assert "map_history_figure(history)" in panel._repr_mimebundle_()["text/plain"]


def test_a_history_of_another_kind_is_named() -> None:
    with pytest.raises(InputError, match="history is a str"):
        panels.map_history("history")  # type: ignore[arg-type]


def test_the_plot_has_the_templates_of_all_figures(panel: MapHistoryPanel) -> None:
    assert isinstance(panel.widget.children[2], PlotWidget)
    assert panel.widget.children[2].templates["dark"] == style.template("dark").to_plotly_json()
