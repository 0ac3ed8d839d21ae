"""The map during training as a figure: what a snapshot shows, and its slider."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from rislab.data.scene_config import SceneConfig
from rislab.data.simulation import simulate
from rislab.errors import InputError
from rislab.model.network import CovarianceNet
from rislab.music.map_history import MapHistory
from rislab.plots.map_history import map_history_figure, snapshot_figure_dict

CONFIG = SceneConfig.preset("classroom", sources=2, snr_db=20.0)


def new_network() -> CovarianceNet:
    return CovarianceNet.build(CONFIG, width=32)


def new_history(**options: int) -> MapHistory:
    return MapHistory(simulate(CONFIG, 1, seed=3), shape=(31, 17), **options)


def train(history: MapHistory, network: CovarianceNet, epochs: Iterable[int]) -> None:
    """Snapshots of networks that differ from epoch to epoch."""
    model = copy.deepcopy(network)
    with torch.no_grad():
        for epoch in epochs:
            model.head.linear.bias.add_(0.3)
            history.take_snapshot(model, epoch)


@pytest.fixture(scope="module")
def network() -> CovarianceNet:
    return new_network()


@pytest.fixture
def history() -> MapHistory:
    return new_history()


def test_a_drawing_holds_the_maps_the_rings_and_the_curve(history: MapHistory, network: CovarianceNet) -> None:
    train(history, network, range(3))
    snapshots = history.snapshots()
    drawn = snapshot_figure_dict(history, snapshots[1])
    heats = [trace for trace in drawn["data"] if trace["type"] == "heatmap"]
    for heat, values in zip(heats, (snapshots[1].map, history.truth), strict=True):
        decibels = 10 * np.log10(values.numpy() / values.max().item()).T
        # Single precision, of numbers down to −40 dB.
        np.testing.assert_allclose(heat["z"], np.maximum(decibels, -40.0), atol=1e-4)
    curve = next(trace for trace in drawn["data"] if trace.get("mode") == "lines+markers")
    assert curve["x"] == [0, 1, 2] and curve["y"] == [snapshot.nmse for snapshot in snapshots]
    ring = next(trace for trace in drawn["data"] if trace.get("name") == "true source")
    np.testing.assert_allclose(np.radians(ring["x"]), history.scene.azimuth[0][history.scene.active[0]], rtol=1e-5)
    assert drawn["layout"]["title"]["text"] == snapshots[1].line()
    assert drawn["layout"]["xaxis3"]["dtick"] == 1  # there is no half epoch
    go.Figure(drawn)  # raises for a property that plotly does not know


def test_a_snapshot_without_a_spectrum_is_drawn_as_that(history: MapHistory, network: CovarianceNet) -> None:
    train(history, network, range(2))
    lost_network = copy.deepcopy(network)
    with torch.no_grad():
        lost_network.head.linear.bias.fill_(torch.nan)
    history.take_snapshot(lost_network, 2)
    snapshot = history.last
    assert snapshot is not None
    drawn = snapshot_figure_dict(history, snapshot)
    assert "no spectrum" in drawn["layout"]["title"]["text"]
    assert "(no spectrum)" in drawn["layout"]["annotations"][0]["text"]
    assert np.isnan(drawn["data"][0]["z"]).all()
    marks = drawn["data"][-1]
    assert marks["x"] == [2] and "NaN" in marks["hovertext"][0]
    assert map_history_figure(history).layout.sliders[0].steps[2].args[1]["title.text"] == snapshot.line()


@pytest.mark.slow
@pytest.mark.parametrize("epochs", [1, 5, 30])
def test_each_step_of_the_figure_shows_one_snapshot(history: MapHistory, network: CovarianceNet, epochs: int) -> None:
    train(history, network, range(epochs))
    drawn = map_history_figure(history)
    slider = drawn.layout.sliders[0]
    assert len(slider.steps) == min(epochs, 12)
    assert (slider.steps[0].label, slider.steps[-1].label) == ("0", str(epochs - 1))
    snapshots = {str(snapshot.epoch): snapshot for snapshot in history.snapshots()}
    for step in slider.steps:
        visible, title = step.args
        shown = [trace for trace, on in zip(drawn.data, visible["visible"], strict=True) if on]
        maps = [trace for trace in shown if trace.type == "heatmap"]
        snapshot = snapshots[step.label]
        assert len(maps) == 2 and title["title.text"] == snapshot.line()
        best = np.unravel_index(int(snapshot.map.argmax()), snapshot.map.shape)
        assert maps[0].z[best[1], best[0]] == 0.0
    # It opens at the last.
    assert [trace.visible is not False for trace in drawn.data] == list(slider.steps[-1].args[0]["visible"])
    assert drawn.layout.title.text == snapshots[slider.steps[-1].label].line()


def test_a_figure_needs_snapshots(history: MapHistory) -> None:
    with pytest.raises(InputError, match="history has 0 snapshots"):
        map_history_figure(history)
