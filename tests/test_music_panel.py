"""The panel on one scene without a browser: every knob, every button, dragged sources, values that cannot be."""

from __future__ import annotations

import math
from typing import Any

import plotly.graph_objects as go
import pytest

from rislab import music_panel, panels
from rislab.errors import InputError
from rislab.explore import Explorer, View
from rislab.figures import template
from rislab.live import Plot
from rislab.music_panel import MusicPanel, figure, table

VIEW = View(preset="classroom", places=((-25.0, 10.0, 1.5), (20.0, -10.0, 2.0)), snr_db=20.0)


@pytest.fixture
def panel(monkeypatch: pytest.MonkeyPatch) -> MusicPanel:
    monkeypatch.setenv("RISLAB_LIVE", "1")
    return panels.music(VIEW)


def widgets_of(panel: MusicPanel) -> dict[str, Any]:
    rows = panel.widget.children[:3]
    return {widget.description: widget for row in rows for widget in row.children}


def plot_of(panel: MusicPanel) -> Plot:
    return next(child for child in panel.widget.children if isinstance(child, Plot))


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
    assert getattr(look.view, name) == expected
    assert look.view == panel.view == VIEW.changed(**{name: expected})


def test_the_number_of_sources_grows_and_shrinks(panel: MusicPanel) -> None:
    widgets_of(panel)["sources"].value = 4
    assert len(panel.settle().view.places) == 4
    widgets_of(panel)["chosen"].value = 4
    widgets_of(panel)["sources"].value = 1
    look = panel.settle()
    assert look.view.places == VIEW.places[:1] and look.view.chosen == 0
    assert widgets_of(panel)["chosen"].value == 1


def test_a_dragged_ring_moves_its_source_and_chooses_it(panel: MusicPanel) -> None:
    plot_of(panel).event = {"kind": "shape", "moved": {"shapes[1].xanchor": 33.0, "shapes[1].yanchor": 4.0}, "at": 1}
    look = panel.settle()
    assert look.view.places == (VIEW.places[0], (33.0, 4.0, 2.0))
    assert look.view.chosen == 1
    assert widgets_of(panel)["azimuth (°)"].value == 33.0
    # Dropped outside the map it stays at the edge.
    plot_of(panel).event = {"kind": "shape", "moved": {"shapes[0].xanchor": 400.0, "shapes[0].yanchor": -90.0}, "at": 2}
    assert panel.settle().view.places[0] == pytest.approx((60.0, -30.0, 1.5))


def test_choosing_a_source_shows_its_place_and_moves_nothing(panel: MusicPanel) -> None:
    widgets_of(panel)["chosen"].value = 2
    look = panel.settle()
    assert look.view.places == VIEW.places
    assert widgets_of(panel)["range (m)"].value == 2.0


def test_buttons_answer(panel: MusicPanel) -> None:
    note = panel.widget.children[3]
    widgets_of(panel)["Conventions"].click()
    assert "green: conventions" in note.value
    widgets_of(panel)["Count sources"].click()
    assert "MDL" in note.value and "AIC" in note.value


def test_values_that_cannot_be_are_explained_and_lose_nothing(panel: MusicPanel) -> None:
    assert panel.change(places=((99.0, 0.0, 1.0),)) is False
    assert "azimuth in degrees is 99" in panel.error
    assert "azimuth in degrees is 99" in panel.widget.children[3].value
    assert panel.view == VIEW
    assert panel.change(snr_db=12.0)
    panel.settle()
    assert panel.widget.children[3].value == ""


def test_an_exception_while_computing_is_shown_and_the_next_view_works(
    panel: MusicPanel, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Explorer.look
    monkeypatch.setattr(Explorer, "look", lambda self, view: 1 / 0)
    panel.change(snr_db=1.0)
    panel.settle()
    assert "division by zero" in panel.error
    monkeypatch.setattr(Explorer, "look", real)
    panel.change(snr_db=2.0)
    assert panel.settle().view.snr_db == 2.0
    assert panel.error == ""


def test_only_the_newest_of_many_views_is_computed(panel: MusicPanel, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    real = Explorer.look

    def look(self: Explorer, view: View) -> Any:
        seen.append(view.snr_db)
        return real(self, view)

    monkeypatch.setattr(Explorer, "look", look)
    for step in range(200):
        panel.change(snr_db=step / 10)
    assert panel.settle().view.snr_db == pytest.approx(19.9)
    assert len(seen) < 100


def test_the_figure_names_units_and_draws_what_the_look_says() -> None:
    look = Explorer().look(VIEW)
    drawn = figure(look)
    titles = [axis.title.text for axis in drawn.select_xaxes()] + [axis.title.text for axis in drawn.select_yaxes()]
    assert {"azimuth (°)", "elevation (°)", "range (m)", "dB"} <= set(titles)
    maps = [trace for trace in drawn.data if trace.type == "heatmap"]
    assert [trace.z.shape for trace in maps] == [(91, 181)] * 2
    assert all(trace.z.max() == 0 and trace.z.min() >= -40 for trace in maps)
    rings = [shape for shape in drawn.layout.shapes if shape.editable]
    assert [(ring.xanchor, ring.yanchor) for ring in rings] == [place[:2] for place in VIEW.places]
    assert list(drawn.layout.shapes[: len(rings)]) == rings
    text = table(look)
    assert text.count("√CRB") == 6 and "not found" not in text
    drawn.update_layout(template=template("dark"))


def test_headless_the_panel_is_a_plain_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RISLAB_LIVE", "0")
    panel = panels.music(VIEW)
    assert panel.widget is None
    assert panel.change(snr_db=5.0)
    assert panel.settle().view.snr_db == 5.0
    assert isinstance(panel.figure(), go.Figure)
    panel._repr_mimebundle_()


def test_two_panels_do_not_disturb_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RISLAB_LIVE", "1")
    first, second = panels.music(VIEW), panels.music(VIEW.changed(seed=5))
    first.change(snr_db=1.0)
    second.change(snr_db=2.0)
    assert (first.settle().view.snr_db, second.settle().view.snr_db) == (1.0, 2.0)
    assert (first.view.seed, second.view.seed) == (0, 5)


def test_a_view_of_another_kind_is_named() -> None:
    with pytest.raises(InputError, match="view is a dict"):
        panels.music({"snr_db": 3})  # type: ignore[arg-type]


def test_a_source_that_is_not_found_is_said() -> None:
    look = Explorer().look(VIEW.changed(covariance="sample", snr_db=-10.0, places=((-5.0, 0.0, 1.0), (5.0, 0.0, 1.0))))
    found = int(look.matching.hit.sum())
    assert table(look).count("not found") == 2 - found
    assert math.isfinite(music_panel.HEIGHT)
