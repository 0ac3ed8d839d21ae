"""The panel on one scene without a browser: every control, dragged sources, values that cannot be, what comes when."""

from __future__ import annotations

import math
import threading
from typing import Any

import plotly.graph_objects as go
import pytest

from rislab import panels
from rislab.errors import InputError
from rislab.music.scene_view import COARSE_MAP, MAP, SceneAnalysis, SceneExplorer, SceneSettings, separation_of
from rislab.panels import music_panel
from rislab.panels.music_panel import MusicPanel
from rislab.panels.scene_controls import settings_changed
from rislab.panels.scene_widget import SceneWidget

SETTINGS = SceneSettings(
    preset="classroom", places=((-25.0, 10.0, 1.5), (20.0, -10.0, 2.0)), snr_db=20.0, covariance="truth"
)


@pytest.fixture
def panel(monkeypatch: pytest.MonkeyPatch) -> MusicPanel:
    """With three maps: the others take most of the time."""
    monkeypatch.setenv("RISLAB_LIVE", "1")
    monkeypatch.setattr(music_panel, "SIDE_BY_SIDE", ("sample", "sparse"))
    made = panels.music(SETTINGS)
    made.settle(30)
    return made


def say(panel: MusicPanel, *, coarse: bool = False, **values: Any) -> SceneAnalysis:
    """Let the page say what the user has changed; returns the analysis once nothing is worked on."""
    request = panel.input.request + 1
    plot_of(panel).state.event = {"kind": "change", "values": values, "coarse": coarse, "request": request}
    panel.settle(30)
    assert panel.content()["answers"] == request
    return panel.analysis


def plot_of(panel: MusicPanel) -> SceneWidget:
    return next(child for child in panel.widget.children if isinstance(child, SceneWidget))


def controls(panel: MusicPanel) -> dict[str, Any]:
    return {control["name"]: control for group in panel.groups for control in group["controls"]}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "value", "field", "expected"),
    [
        ("snr_db", 3.0, "snr_db", 3.0),
        ("covariance", "sample", "covariance", "sample"),
        ("loading", 1e-2, "loading", 1e-2),
        ("snapshots", 32, "snapshots", 32),
        ("wavefront", "fresnel", "wavefront", "fresnel"),
        ("symbols", "constant", "symbols", "constant"),
        ("codes", "hadamard", "codes", "hadamard"),
        ("seed", 7, "seed", 7),
        ("chosen", 2, "chosen", 1),
        ("azimuth", 5.0, "places", ((5.0, 10.0, 1.5), (20.0, -10.0, 2.0))),
        ("elevation", -5.0, "places", ((-25.0, -5.0, 1.5), (20.0, -10.0, 2.0))),
        ("range", 2.5, "places", ((-25.0, 10.0, 2.5), (20.0, -10.0, 2.0))),
        ("separation", 5.0, "places", ((-5.0, 10.0, 1.5), (0.0, -10.0, 2.0))),
    ],
)
def test_every_control_changes_the_analysis(
    panel: MusicPanel, name: str, value: Any, field: str, expected: Any
) -> None:
    assert name in controls(panel)
    analysis = say(panel, **{name: value})
    assert getattr(analysis.settings, field) == expected
    assert analysis.settings == panel.settings == SETTINGS.changed(**{field: expected})
    assert panel.content()["values"][name] == value and panel.content()["state"] == "complete"


@pytest.mark.slow
def test_the_number_of_sources_grows_and_shrinks(panel: MusicPanel) -> None:
    assert len(say(panel, sources=4).settings.places) == 4
    say(panel, chosen=4)
    analysis = say(panel, sources=1)
    assert analysis.settings.places == SETTINGS.places[:1] and analysis.settings.chosen == 0
    assert separation_of(analysis.settings) == 0.0
    say(panel, separation=5.0)
    with pytest.raises(
        InputError, match=r"separation in degrees is 119; allowed: at most 100 around their middle at -10"
    ):
        settings_changed(SceneSettings(places=((-25.0, 0.0, 2.0), (5.0, 0.0, 2.0))), "separation", 119)
    assert "needs two sources" in panel.content()["refused"]["separation"][1]


def test_while_a_source_moves_maps_are_coarse_and_fine_when_it_rests(panel: MusicPanel) -> None:
    say(panel, coarse=True, place1=[33.0, 4.0, 2.0])
    assert panel.settings.places == (SETTINGS.places[0], (33.0, 4.0, 2.0)) and panel.settings.chosen == 1
    maps = {one["name"]: one for one in panel.content()["maps"]}
    # The slow one waits, and says so; no estimate of another scene is shown.
    assert {name: one["stale"] for name, one in maps.items()} == dict.fromkeys(maps, False) | {"sparse": True}
    assert maps["sample"]["shape"] == list(COARSE_MAP) and "peaks" not in maps["sample"]
    assert panel.content()["state"] == "coarse"
    analysis = say(panel, place1=[33.0, 4.0, 2.0])
    maps = {one["name"]: one for one in panel.content()["maps"]}
    assert all(one["shape"] == list(MAP) and not one["stale"] and one["rows"] for one in maps.values())
    assert analysis.settings == panel.settings and panel.content()["state"] == "complete"


def test_a_value_that_cannot_be_is_refused_beside_its_control(panel: MusicPanel) -> None:
    for name, value, sentence in (
        ("snapshots", 0, "snapshots is 0; allowed: a whole number in [1, "),
        ("azimuth", 200, "azimuth in degrees is 200; allowed: a number in [-60, 60]"),
        ("range", None, "range is empty"),
        ("sources", 2.5, "sources is 2.5; allowed: a whole number in [1, 5]"),
    ):
        say(panel, **{name: value})
        content = panel.content()
        assert content["refused"][name][0] == value and content["refused"][name][1].startswith(sentence)
    assert panel.settings == SETTINGS
    # The others are taken all the same, and what is allowed later takes the sentence away.
    assert say(panel, snr_db=3.0, snapshots=-1).settings.snr_db == 3.0
    say(panel, snapshots=8, azimuth=60, range=1.5, sources=2)
    assert panel.content()["refused"] == {} and panel.problem == ""


def test_what_is_refused_is_gone_once_another_control_moves_it(panel: MusicPanel) -> None:
    say(panel, azimuth=200, snapshots=0)
    say(panel, **{f"place{panel.settings.chosen}": [12.0, 4.0, 2.0]})
    content = panel.content()
    assert set(content["refused"]) == {"snapshots"} and content["values"]["azimuth"] == 12.0


def test_code_is_refused_in_a_sentence_too(panel: MusicPanel) -> None:
    assert panel.change(places=((99.0, 0.0, 1.0),)) is False
    assert "azimuth in degrees is 99" in panel.problem and "azimuth in degrees is 99" in panel.alarm.value
    assert panel.settings == SETTINGS
    assert panel.change(snr_db=math.inf) is False and panel.change(snr_db=12.0)
    panel.settle()
    assert panel.alarm.value == "" and panel.alarm.layout.display == "none"


def test_maps_are_shown_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RISLAB_LIVE", "1")
    panel = panels.music(SETTINGS)
    panel.settle(30)

    def names() -> list[str]:
        return [one["name"] for one in panel.content()["maps"]]

    assert names() == ["sample", "learned", "sparse", "posterior", "truth"]
    assert panel.content()["maps"][3]["cloud"]
    say(panel, show_sparse=False, show_posterior=False, show_truth=False)
    # The table was of one that is not shown any more.
    assert names() == ["sample", "learned"] and panel.settings.covariance == "sample"
    say(panel, covariance="blend")
    assert names() == ["sample", "learned", "blend"]
    say(panel, show_sample=False, show_learned=False, show_blend=False)
    assert names() == ["blend"] and "at least one" in panel.content()["refused"]["show_blend"][1]
    before = panel.content()["maps"][0]["data"]
    say(panel, depth=None)
    assert panel.content()["refused"]["depth"][1] == "colour depth is empty; allowed: a number"
    say(panel, spectrum="MVDR", depth=50)
    assert panel.content()["maps"][0]["data"] != before and panel.content()["values"]["depth"] == 50


@pytest.mark.slow
def test_buttons_answer_once_about_the_scene_that_is_shown(panel: MusicPanel) -> None:
    say(panel, conventions=1)
    assert "green: conventions" in panel.content()["note"]
    say(panel, count_sources=1, conventions=1)
    assert "MDL" in panel.content()["note"] and "AIC" in panel.content()["note"]
    say(panel, snr_db=3.0)
    assert panel.content()["note"] == ""


def test_what_a_teacher_hides_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RISLAB_LIVE", "1")
    panel = panels.music(SETTINGS.changed(covariance="sample"), hide=("truth", "seed", "cut"))
    panel.settle(30)
    assert {"seed", "azimuth", "separation"} & set(controls(panel)) == set() and "snr_db" in controls(panel)
    assert plot_of(panel).options["parts"] == {"truth": False, "cut": False}
    assert "truth" not in panel.offered and panel.kinds == ("sample", "learned", "sparse", "posterior")
    with pytest.raises(InputError, match="hide is 'everything'"):
        panels.music(SETTINGS, hide=("everything",))
    with pytest.raises(InputError, match="covariance is 'truth'"):
        panels.music(SETTINGS, hide=("truth",))


@pytest.mark.slow
@pytest.mark.parametrize("part", ["spectra", "complete"])
def test_an_exception_while_computing_is_shown_and_the_next_works(
    panel: MusicPanel, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    real = getattr(SceneExplorer, part)
    monkeypatch.setattr(SceneExplorer, part, lambda self, *given: 1 / 0)
    say(panel, snr_db=1.0)
    assert "division by zero" in panel.problem and "division by zero" in panel.alarm.value
    monkeypatch.setattr(SceneExplorer, part, real)
    assert say(panel, snr_db=2.0).settings.snr_db == 2.0
    assert panel.problem == ""


def test_only_the_newest_of_many_settings_is_searched(panel: MusicPanel, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, searched, busy, go = [], [], threading.Event(), threading.Event()
    spectra, complete = SceneExplorer.spectra, SceneExplorer.complete

    def slow(self: SceneExplorer, settings: SceneSettings, *more: Any) -> Any:
        begun.append(settings.snr_db)
        busy.set()
        go.wait(120)
        return spectra(self, settings, *more)

    def counted(self: SceneExplorer, given: Any) -> Any:
        searched.append(given.settings.snr_db)
        return complete(self, given)

    monkeypatch.setattr(SceneExplorer, "spectra", slow)
    monkeypatch.setattr(SceneExplorer, "complete", counted)
    for step in range(1, 6):
        panel.change(snr_db=step)
        assert busy.wait(120)
    go.set()
    panel.settle(30)
    assert panel.analysis.settings.snr_db == 5.0
    assert set(begun) == {1.0, 5.0} and set(searched) == {5.0}


def test_what_is_drawn_is_always_of_one_scene(panel: MusicPanel, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[dict[str, Any]] = []
    monkeypatch.setattr(SceneWidget, "update", lambda self, figure: drawn.append(figure))
    panel.change(places=((-10.0, 5.0, 1.5), (20.0, -10.0, 2.0)))
    panel.settle()
    assert [one["state"] for one in drawn] == ["fine"] * (len(drawn) - 1) + ["complete"]
    for content in drawn:
        assert content["places"][0] == [-10.0, 5.0, 1.5]
        for one in content["maps"]:
            assert "peaks" not in one or one["stale"] or min(abs(peak[0] + 10.0) for peak in one["peaks"]) < 8
    exact = drawn[-1]["maps"][-1]
    assert exact["name"] == "truth" and min(abs(peak[0] + 10.0) for peak in exact["peaks"]) < 0.5


def test_headless_the_panel_is_a_page_with_sliders_or_a_plain_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RISLAB_LIVE", "0")
    monkeypatch.setattr(
        music_panel, "scene_page", lambda settings, model, hide: f"{settings.snr_db} dB, without {hide}"
    )
    panel = panels.music(SETTINGS, hide=("cut", "seed"))
    assert panel.widget is None
    assert panel.change(snr_db=5.0)
    panel.settle()
    assert panel.analysis.settings.snr_db == 5.0
    assert isinstance(panel.figure(), go.Figure)
    assert panel._repr_mimebundle_()["text/html"] == "5.0 dB, without ['cut']"
    # One source alone has no separation.
    assert panel.change(places=SETTINGS.places[:1])
    assert "text/html" not in panel._repr_mimebundle_()


def test_two_panels_do_not_disturb_each_other(panel: MusicPanel) -> None:
    other = panels.music(SETTINGS.changed(seed=5))
    assert say(panel, snr_db=1.0).settings.seed == 0
    assert say(other, snr_db=2.0).settings.seed == 5
    assert (panel.settings.snr_db, other.settings.snr_db) == (1.0, 2.0)


def test_settings_of_another_kind_is_named() -> None:
    with pytest.raises(InputError, match="settings is a dict"):
        panels.music({"snr_db": 3})  # type: ignore[arg-type]
