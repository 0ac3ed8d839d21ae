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
from rislab.music.scene_view import SceneExplorer, SceneSettings
from rislab.panels.music_panel import MusicPanel
from rislab.panels.plot_widget import PlotWidget
from rislab.plots import scene
from rislab.plots.scene import error_table, scene_figure, scene_figure_dict
from rislab.plots.style import template

VIEW = SceneSettings(preset="classroom", places=((-25.0, 10.0, 1.5), (20.0, -10.0, 2.0)), snr_db=20.0)


@pytest.fixture
def panel(monkeypatch: pytest.MonkeyPatch) -> MusicPanel:
    monkeypatch.setenv("RISLAB_LIVE", "1")
    return panels.music(VIEW)


def widgets_of(panel: MusicPanel) -> dict[str, Any]:
    rows = panel.widget.children[:3]
    return {widget.description: widget for row in rows for widget in row.children}


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
def test_every_knob_changes_the_look(panel: MusicPanel, knob: str, value: Any, name: str, expected: Any) -> None:
    widgets_of(panel)[knob].value = value
    look = panel.settle()
    assert getattr(look.settings, name) == expected
    assert look.settings == panel.view == VIEW.changed(**{name: expected})


def test_the_number_of_sources_grows_and_shrinks(panel: MusicPanel) -> None:
    widgets_of(panel)["sources"].value = 4
    assert len(panel.settle().settings.places) == 4
    widgets_of(panel)["chosen"].value = 4
    widgets_of(panel)["sources"].value = 1
    look = panel.settle()
    assert look.settings.places == VIEW.places[:1] and look.settings.chosen == 0
    assert widgets_of(panel)["chosen"].value == 1


def test_a_dragged_ring_moves_its_source_and_chooses_it(panel: MusicPanel) -> None:
    plot_of(panel).event = {"kind": "shape", "moved": {"shapes[1].xanchor": 33.0, "shapes[1].yanchor": 4.0}, "at": 1}
    look = panel.settle()
    assert look.settings.places == (VIEW.places[0], (33.0, 4.0, 2.0))
    assert look.settings.chosen == 1
    assert widgets_of(panel)["azimuth (°)"].value == 33.0
    # Dropped outside the map it stays at the edge.
    plot_of(panel).event = {"kind": "shape", "moved": {"shapes[0].xanchor": 400.0, "shapes[0].yanchor": -90.0}, "at": 2}
    assert panel.settle().settings.places[0] == pytest.approx((60.0, -30.0, 1.5))


def test_choosing_a_source_shows_its_place_and_moves_nothing(panel: MusicPanel) -> None:
    widgets_of(panel)["chosen"].value = 2
    look = panel.settle()
    assert look.settings.places == VIEW.places
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
    assert panel.change(snr_db=VIEW.snr_db)
    panel.settle()
    assert alarm.value == "" and "MDL" in note.value
    # What was counted in another measurement is not shown beside this one.
    assert panel.change(snr_db=3.0)
    panel.settle()
    assert note.value == "" and note.layout.display == "none"


def test_values_that_cannot_be_are_explained_and_lose_nothing(panel: MusicPanel) -> None:
    assert panel.change(places=((99.0, 0.0, 1.0),)) is False
    assert "azimuth in degrees is 99" in panel.error
    assert "azimuth in degrees is 99" in panel.widget.children[3].value
    assert panel.view == VIEW
    assert panel.change(snr_db=12.0)
    panel.settle()
    assert panel.widget.children[3].value == "" and panel.widget.children[3].layout.display == "none"


@pytest.mark.parametrize("part", ["spectra", "complete"])
def test_an_exception_while_computing_is_shown_and_the_next_view_works(
    panel: MusicPanel, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    real = getattr(SceneExplorer, part)
    monkeypatch.setattr(SceneExplorer, part, lambda self, given: 1 / 0)
    panel.change(snr_db=1.0)
    panel.settle()
    assert "division by zero" in panel.error and "division by zero" in panel.widget.children[3].value
    monkeypatch.setattr(SceneExplorer, part, real)
    panel.change(snr_db=2.0)
    assert panel.settle().settings.snr_db == 2.0
    assert panel.error == ""


def test_only_the_newest_of_many_views_is_computed(panel: MusicPanel, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    real = SceneExplorer.spectra

    def glance(self: SceneExplorer, view: SceneSettings) -> Any:
        seen.append(view.snr_db)
        return real(self, view)

    monkeypatch.setattr(SceneExplorer, "spectra", glance)
    for step in range(200):
        panel.change(snr_db=step / 10)
    assert panel.settle().settings.snr_db == pytest.approx(19.9)
    assert len(seen) < 100


def test_maps_come_first_and_estimates_are_never_those_of_another_view(
    panel: MusicPanel, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[dict[str, Any]] = []
    monkeypatch.setattr(PlotWidget, "show", lambda self, figure: drawn.append(figure))
    panel.change(places=((-10.0, 5.0, 1.5), (20.0, -10.0, 2.0)))
    panel.settle()
    first, second = drawn
    for picture, known in ((first, False), (second, True)):
        assert [ring["xanchor"] for ring in picture["layout"]["shapes"][:2]] == [-10.0, 20.0]
        estimates = [value for value in picture["data"][2]["x"] if value is not None]
        assert len(estimates) == (2 if known else 0)
        assert (len(picture["data"][1]["x"]) > 1) is known
        assert ("of the bound" in picture["layout"]["annotations"][2]["text"]) is known
    np.testing.assert_array_equal(first["data"][0]["z"], second["data"][0]["z"])
    assert min(abs(float(value) + 10.0) for value in second["data"][2]["x"]) < 0.5
    # Both have the same axes and the same traces, so that nothing jumps.
    assert [trace["type"] for trace in first["data"]] == [trace["type"] for trace in second["data"]]
    assert first["layout"]["xaxis3"] == second["layout"]["xaxis3"]


def test_the_search_is_left_out_while_further_views_wait(panel: MusicPanel, monkeypatch: pytest.MonkeyPatch) -> None:
    looked, searched, busy, go = [], [], threading.Event(), threading.Event()
    glance, finish = SceneExplorer.spectra, SceneExplorer.complete

    def slow(self: SceneExplorer, view: SceneSettings) -> Any:
        looked.append(view.snr_db)
        busy.set()
        go.wait(10)
        return glance(self, view)

    def counted(self: SceneExplorer, seen: Any) -> Any:
        searched.append(seen.settings.snr_db)
        return finish(self, seen)

    monkeypatch.setattr(SceneExplorer, "spectra", slow)
    monkeypatch.setattr(SceneExplorer, "complete", counted)
    panel.change(snr_db=1.0)
    assert busy.wait(10)
    panel.change(snr_db=2.0)
    go.set()
    assert panel.settle().settings.snr_db == 2.0
    assert looked == [1.0, 2.0] and searched == [2.0]


def test_a_glance_has_places_and_no_errors_in_its_table() -> None:
    explorer = SceneExplorer()
    glance = explorer.spectra(VIEW)
    assert "√CRB" not in error_table(glance) and "-25.0°" in error_table(glance)
    assert error_table(explorer.complete(glance)).count("√CRB") == 6


def test_the_bound_of_the_range_is_a_band_around_the_true_range() -> None:
    explorer = SceneExplorer()
    for view in (VIEW.changed(snr_db=10.0), VIEW.changed(snr_db=10.0, chosen=1)):
        look = explorer.analyse(view)
        band = scene_figure_dict(look)["layout"]["shapes"][-1]
        here, deviation = view.places[view.chosen][2], float(look.bound.range[0, view.chosen])
        # 1.96 standard deviations to each side hold 95 % of normal errors.
        assert (band["x0"], band["x1"]) == pytest.approx((here - 1.96 * deviation, here + 1.96 * deviation), rel=1e-4)
        assert (
            band["xref"] == "x3"
            and f"{1.96 * deviation:.2g} m" in scene_figure_dict(look)["layout"]["annotations"][2]["text"]
        )
        # Ten decibels more make it narrower by √10: noise alone decides.
        # A layer below would come first in the page, where the rings have to: they are dragged by their order.
        assert all(shape.get("layer", "above") == "above" for shape in scene_figure_dict(look)["layout"]["shapes"])
    loud, quiet = (explorer.analyse(VIEW.changed(snr_db=level)).bound.range[0, 0] for level in (0.0, 10.0))
    assert float(loud / quiet) == pytest.approx(math.sqrt(10), rel=1e-3)


def test_a_bound_beyond_the_cut_ends_with_it_and_none_is_said() -> None:
    explorer = SceneExplorer()
    far = VIEW.changed(snr_db=-10.0, snapshots=1)
    look = explorer.analyse(far)
    band = scene_figure_dict(look)["layout"]["shapes"][-1]
    assert float(look.bound.range[0, 0]) > 2.0
    assert (band["x0"], band["x1"]) == pytest.approx(VIEW.config().range, rel=1e-6)
    plane = explorer.analyse(VIEW.changed(wavefront="planar"))
    assert scene_figure_dict(plane)["layout"]["shapes"][-1]["type"] == "line"
    assert "no finite bound" in scene_figure_dict(plane)["layout"]["annotations"][2]["text"]


def test_the_estimated_range_stands_on_the_cut() -> None:
    look = SceneExplorer().analyse(VIEW.changed(chosen=1))
    mark = scene_figure_dict(look)["data"][-1]
    assert mark["xaxis"] == "x3" and mark["x"] == [pytest.approx(2.0, abs=0.05)]


def test_the_figure_names_units_and_draws_what_the_look_says() -> None:
    look = SceneExplorer().analyse(VIEW)
    drawn = scene_figure(look)
    titles = [axis.title.text for axis in drawn.select_xaxes()] + [axis.title.text for axis in drawn.select_yaxes()]
    assert {"azimuth (°)", "elevation (°)", "range (m)", "dB"} <= set(titles)
    maps = [trace for trace in drawn.data if trace.type == "heatmap"]
    assert [trace.z.shape for trace in maps] == [(91, 181)] * 2
    assert all(trace.z.max() == 0 and trace.z.min() >= -40 for trace in maps)
    rings = [shape for shape in drawn.layout.shapes if shape.editable]
    assert [(ring.xanchor, ring.yanchor) for ring in rings] == [place[:2] for place in VIEW.places]
    assert list(drawn.layout.shapes[: len(rings)]) == rings
    text = error_table(look)
    assert text.count("√CRB") == 6 and "not found" not in text
    drawn.update_layout(template=template("dark"))


def test_headless_the_panel_is_a_plain_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RISLAB_LIVE", "0")
    panel = panels.music(VIEW)
    assert panel.widget is None
    assert panel.change(snr_db=5.0)
    assert panel.settle().settings.snr_db == 5.0
    assert isinstance(panel.figure(), go.Figure)
    panel._repr_mimebundle_()


def test_two_panels_do_not_disturb_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RISLAB_LIVE", "1")
    first, second = panels.music(VIEW), panels.music(VIEW.changed(seed=5))
    first.change(snr_db=1.0)
    second.change(snr_db=2.0)
    assert (first.settle().settings.snr_db, second.settle().settings.snr_db) == (1.0, 2.0)
    assert (first.view.seed, second.view.seed) == (0, 5)


def test_a_view_of_another_kind_is_named() -> None:
    with pytest.raises(InputError, match="settings is a dict"):
        panels.music({"snr_db": 3})  # type: ignore[arg-type]


def test_a_source_that_is_not_found_is_said() -> None:
    look = SceneExplorer().analyse(
        VIEW.changed(covariance="sample", snr_db=-10.0, places=((-5.0, 0.0, 1.0), (5.0, 0.0, 1.0)))
    )
    found = int(look.matching.hit.sum())
    assert error_table(look).count("not found") == 2 - found
    assert scene.HEIGHT
