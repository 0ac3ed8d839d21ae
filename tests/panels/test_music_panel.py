"""The panel on one scene without a browser: every knob, every button, dragged sources, values that cannot be."""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from rislab import panels
from rislab.errors import InputError
from rislab.music.scene_view import SceneAnalysis, SceneExplorer, SceneSettings
from rislab.panels.music_panel import MusicPanel
from rislab.panels.plot_widget import PlotWidget

SETTINGS = SceneSettings(preset="classroom", places=((-25.0, 10.0, 1.5), (20.0, -10.0, 2.0)), snr_db=20.0)


@pytest.fixture
def panel(monkeypatch: pytest.MonkeyPatch) -> MusicPanel:
    monkeypatch.setenv("RISLAB_LIVE", "1")
    return panels.music(SETTINGS)


def widgets_of(panel: MusicPanel) -> dict[str, Any]:
    rows = panel.widget.children[:3]
    return {widget.description: widget for row in rows for widget in row.children}


def settled(panel: MusicPanel) -> SceneAnalysis:
    """The analysis once nothing is worked on."""
    panel.settle(30)
    return panel.analysis


def plot_of(panel: MusicPanel) -> PlotWidget:
    return next(child for child in panel.widget.children if isinstance(child, PlotWidget))


@pytest.mark.parametrize(
    ("knob", "value", "name", "expected"),
    [
        ("SNR (dB)", 3.0, "snr_db", 3.0),
        ("covariance", "sample", "covariance", "sample"),
        ("loading", 1e-2, "loading", 1e-2),
        ("snapshots", 32, "snapshots", 32),
        ("wave", "fresnel", "wavefront", "fresnel"),
        ("symbols", "constant", "symbols", "constant"),
        ("codes", "hadamard", "codes", "hadamard"),
        ("seed", 7, "seed", 7),
        ("chosen", 2, "chosen", 1),
        ("azimuth (°)", 5.0, "places", ((5.0, 10.0, 1.5), (20.0, -10.0, 2.0))),
        ("elevation (°)", -5.0, "places", ((-25.0, -5.0, 1.5), (20.0, -10.0, 2.0))),
        ("range (m)", 2.5, "places", ((-25.0, 10.0, 2.5), (20.0, -10.0, 2.0))),
    ],
)
def test_every_knob_changes_the_analysis(panel: MusicPanel, knob: str, value: Any, name: str, expected: Any) -> None:
    widgets_of(panel)[knob].value = value
    analysis = settled(panel)
    assert getattr(analysis.settings, name) == expected
    assert analysis.settings == panel.settings == SETTINGS.changed(**{name: expected})


def test_the_number_of_sources_grows_and_shrinks(panel: MusicPanel) -> None:
    widgets_of(panel)["sources"].value = 4
    assert len(settled(panel).settings.places) == 4
    widgets_of(panel)["chosen"].value = 4
    widgets_of(panel)["sources"].value = 1
    analysis = settled(panel)
    assert analysis.settings.places == SETTINGS.places[:1] and analysis.settings.chosen == 0
    assert widgets_of(panel)["chosen"].value == 1


def test_a_dragged_ring_moves_its_source_and_chooses_it(panel: MusicPanel) -> None:
    plot_of(panel).state.event = {
        "kind": "shape",
        "moved": {"shapes[1].xanchor": 33.0, "shapes[1].yanchor": 4.0},
        "at": 1,
    }
    analysis = settled(panel)
    assert analysis.settings.places == (SETTINGS.places[0], (33.0, 4.0, 2.0))
    assert analysis.settings.chosen == 1
    assert widgets_of(panel)["azimuth (°)"].value == 33.0
    # Dropped outside the map it stays at the edge.
    plot_of(panel).state.event = {
        "kind": "shape",
        "moved": {"shapes[0].xanchor": 400.0, "shapes[0].yanchor": -90.0},
        "at": 2,
    }
    assert settled(panel).settings.places[0] == pytest.approx((60.0, -30.0, 1.5))


def test_choosing_a_source_shows_its_place_and_moves_nothing(panel: MusicPanel) -> None:
    widgets_of(panel)["chosen"].value = 2
    analysis = settled(panel)
    assert analysis.settings.places == SETTINGS.places
    assert widgets_of(panel)["range (m)"].value == 2.0


def test_buttons_answer(panel: MusicPanel) -> None:
    alarm, note = panel.widget.children[3:5]
    widgets_of(panel)["Conventions"].click()
    assert "green: conventions" in note.value
    widgets_of(panel)["Count sources"].click()
    assert "MDL" in note.value and "AIC" in note.value
    # An error stands beside the answer, in a field of its own, and goes without it.
    assert panel.change(snr_db=math.inf) is False
    assert "snr_db is inf" in alarm.value and "MDL" in note.value
    assert panel.change(snr_db=SETTINGS.snr_db)
    panel.settle()
    assert alarm.value == "" and "MDL" in note.value
    # What was counted in another measurement is not shown beside this one.
    assert panel.change(snr_db=3.0)
    panel.settle()
    assert note.value == "" and note.layout.display == "none"


def test_values_that_cannot_be_are_explained_and_lose_nothing(panel: MusicPanel) -> None:
    assert panel.change(places=((99.0, 0.0, 1.0),)) is False
    assert "azimuth in degrees is 99" in panel.problem
    assert "azimuth in degrees is 99" in panel.widget.children[3].value
    assert panel.settings == SETTINGS
    assert panel.change(snr_db=12.0)
    panel.settle()
    assert panel.widget.children[3].value == "" and panel.widget.children[3].layout.display == "none"


@pytest.mark.parametrize("part", ["spectra", "complete"])
def test_an_exception_while_computing_is_shown_and_the_next_works(
    panel: MusicPanel, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    real = getattr(SceneExplorer, part)
    monkeypatch.setattr(SceneExplorer, part, lambda self, given: 1 / 0)
    panel.change(snr_db=1.0)
    panel.settle()
    assert "division by zero" in panel.problem and "division by zero" in panel.widget.children[3].value
    monkeypatch.setattr(SceneExplorer, part, real)
    panel.change(snr_db=2.0)
    assert settled(panel).settings.snr_db == 2.0
    assert panel.problem == ""


def test_only_the_newest_of_many_settings_is_computed(panel: MusicPanel, monkeypatch: pytest.MonkeyPatch) -> None:
    computed = []
    real = SceneExplorer.spectra

    def counted(self: SceneExplorer, settings: SceneSettings) -> Any:
        computed.append(settings.snr_db)
        return real(self, settings)

    monkeypatch.setattr(SceneExplorer, "spectra", counted)
    for step in range(200):
        panel.change(snr_db=step / 10)
    assert settled(panel).settings.snr_db == pytest.approx(19.9)
    assert len(computed) < 100


def test_maps_come_first_and_estimates_are_never_those_of_another_scene(
    panel: MusicPanel, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[dict[str, Any]] = []
    monkeypatch.setattr(PlotWidget, "update", lambda self, figure: drawn.append(figure))
    panel.change(places=((-10.0, 5.0, 1.5), (20.0, -10.0, 2.0)))
    panel.settle()
    first, second = drawn
    for drawing, known in ((first, False), (second, True)):
        assert [ring["xanchor"] for ring in drawing["layout"]["shapes"][:2]] == [-10.0, 20.0]
        estimates = [value for value in drawing["data"][2]["x"] if value is not None]
        assert len(estimates) == (2 if known else 0)
        assert (len(drawing["data"][1]["x"]) > 1) is known
        assert ("of the bound" in drawing["layout"]["annotations"][2]["text"]) is known
    np.testing.assert_array_equal(first["data"][0]["z"], second["data"][0]["z"])
    assert min(abs(float(value) + 10.0) for value in second["data"][2]["x"]) < 0.5
    # Both have the same axes and the same traces, so that nothing jumps.
    assert [trace["type"] for trace in first["data"]] == [trace["type"] for trace in second["data"]]
    assert first["layout"]["xaxis3"] == second["layout"]["xaxis3"]


def test_the_search_is_left_out_while_further_settings_wait(panel: MusicPanel, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, searched, busy, go = [], [], threading.Event(), threading.Event()
    spectra, complete = SceneExplorer.spectra, SceneExplorer.complete

    def slow(self: SceneExplorer, settings: SceneSettings) -> Any:
        begun.append(settings.snr_db)
        busy.set()
        go.wait(10)
        return spectra(self, settings)

    def counted(self: SceneExplorer, given: Any) -> Any:
        searched.append(given.settings.snr_db)
        return complete(self, given)

    monkeypatch.setattr(SceneExplorer, "spectra", slow)
    monkeypatch.setattr(SceneExplorer, "complete", counted)
    panel.change(snr_db=1.0)
    assert busy.wait(10)
    panel.change(snr_db=2.0)
    go.set()
    assert settled(panel).settings.snr_db == 2.0
    assert begun == [1.0, 2.0] and searched == [2.0]


def test_headless_the_panel_is_a_plain_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RISLAB_LIVE", "0")
    panel = panels.music(SETTINGS)
    assert panel.widget is None
    assert panel.change(snr_db=5.0)
    assert settled(panel).settings.snr_db == 5.0
    assert isinstance(panel.figure(), go.Figure)
    panel._repr_mimebundle_()


def test_two_panels_do_not_disturb_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RISLAB_LIVE", "1")
    first, second = panels.music(SETTINGS), panels.music(SETTINGS.changed(seed=5))
    first.change(snr_db=1.0)
    second.change(snr_db=2.0)
    assert (settled(first).settings.snr_db, settled(second).settings.snr_db) == (1.0, 2.0)
    assert (first.settings.seed, second.settings.seed) == (0, 5)


def test_settings_of_another_kind_is_named() -> None:
    with pytest.raises(InputError, match="settings is a dict"):
        panels.music({"snr_db": 3})  # type: ignore[arg-type]
