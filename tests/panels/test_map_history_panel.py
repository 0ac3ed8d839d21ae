"""The film beside a run: newest frame, slider, restart; and its figure in a report, by mouse in a browser."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from rislab import panels
from rislab.data.scenes import SceneConfig
from rislab.data.simulation import simulate
from rislab.errors import InputError
from rislab.model.network import CovarianceNet
from rislab.music.map_history import MapHistory, Snapshot
from rislab.panels import map_history_panel
from rislab.panels.map_history_panel import FilmPanel
from rislab.panels.plot_widget import PlotWidget
from rislab.plots import style
from rislab.plots.map_history import map_history_figure, snapshot_figure_dict
from rislab.reports.html_export import export_html

CONFIG = SceneConfig.preset("classroom", sources=2, snr_db=20.0)
CHROMIUM = shutil.which("chromium")
SHOTS = Path(__file__).resolve().parents[2] / "reports" / "out"


@pytest.fixture(scope="module")
def network() -> CovarianceNet:
    return CovarianceNet.build(CONFIG, width=32)


@pytest.fixture
def film() -> MapHistory:
    return MapHistory(simulate(CONFIG, 1, seed=3), shape=(31, 17))


@pytest.fixture
def panel(film: MapHistory, monkeypatch: pytest.MonkeyPatch) -> FilmPanel:
    monkeypatch.setenv("RISLAB_LIVE", "1")
    return panels.map_history(film)


def train(film: MapHistory, network: CovarianceNet, epochs: Any) -> None:
    """Frames of networks that differ from epoch to epoch."""
    model = copy.deepcopy(network)
    with torch.no_grad():
        for epoch in epochs:
            model.head.linear.bias.add_(0.3)
            film.take_snapshot(model, epoch)


def knobs(panel: FilmPanel) -> dict[str, Any]:
    play, slider, label, newest = panel.widget.children[0].children
    return {"play": play, "slider": slider, "label": label, "newest": newest}


def shown(panel: FilmPanel) -> str:
    """Title of what the page has been sent."""
    plot = panel.widget.children[2]
    plot.flush()
    return str(plot.figure["layout"]["title"]["text"])


def test_before_the_first_epoch_the_panel_says_so(panel: FilmPanel) -> None:
    assert panel.settle() is None
    assert shown(panel) == "no epoch yet"


def test_the_newest_frame_is_shown_while_a_run_goes_on(
    panel: FilmPanel, film: MapHistory, network: CovarianceNet
) -> None:
    train(film, network, range(4))
    frame = panel.settle()
    assert frame is film.last and frame is not None
    assert shown(panel) == frame.line() and shown(panel).startswith("epoch 3:")
    slider = knobs(panel)["slider"]
    assert (slider.value, slider.max, knobs(panel)["play"].max) == (3, 3, 3)
    assert "epoch 3" in knobs(panel)["label"].value and knobs(panel)["newest"].value is True


def test_the_slider_goes_back_and_stays_there(panel: FilmPanel, film: MapHistory, network: CovarianceNet) -> None:
    train(film, network, range(4))
    panel.settle()
    knobs(panel)["slider"].value = 1
    panel.settle()
    assert shown(panel).startswith("epoch 1:") and knobs(panel)["newest"].value is False
    # The run goes on; the reader is left alone.
    model = copy.deepcopy(network)
    film.take_snapshot(model, 4)
    frame = panel.settle()
    assert frame is not None and frame.epoch == 1
    assert (knobs(panel)["slider"].value, knobs(panel)["slider"].max) == (1, 4)
    knobs(panel)["newest"].value = True
    panel.settle()
    assert shown(panel).startswith("epoch 4:") and knobs(panel)["slider"].value == 4


def test_unticking_stays_at_the_present_frame(panel: FilmPanel, film: MapHistory, network: CovarianceNet) -> None:
    train(film, network, range(3))
    panel.settle()
    knobs(panel)["newest"].value = False
    film.take_snapshot(copy.deepcopy(network), 3)
    frame = panel.settle()
    assert frame is not None and frame.epoch == 2


def test_a_frame_that_was_let_go_gives_way_to_the_nearest(
    network: CovarianceNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RISLAB_LIVE", "1")
    film = MapHistory(simulate(CONFIG, 1, seed=3), shape=(31, 17), most=4)
    panel = panels.map_history(film)
    train(film, network, range(4))
    panel.settle()
    panel.choose(3)
    panel.settle()
    model = copy.deepcopy(network)
    for epoch in range(4, 9):
        film.take_snapshot(model, epoch)
    frame = panel.settle()
    kept = [each.epoch for each in film.snapshots()]
    assert kept == [0, 4, 8] and frame is not None and frame.epoch == 4
    assert knobs(panel)["slider"].value == 1


def test_a_second_run_begins_the_film_anew(panel: FilmPanel, film: MapHistory, network: CovarianceNet) -> None:
    train(film, network, range(5))
    panel.settle()
    train(film, network, range(2))
    frame = panel.settle()
    assert frame is film.last and frame is not None and frame.epoch == 1
    assert knobs(panel)["slider"].max == 1


def test_an_exception_while_drawing_is_said_and_the_next_frame_drawn(
    panel: FilmPanel, film: MapHistory, network: CovarianceNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = map_history_panel.snapshot_figure_dict
    monkeypatch.setattr(map_history_panel, "snapshot_figure_dict", lambda film, frame: 1 / 0)
    train(film, network, range(2))
    panel.settle()
    assert "division by zero" in panel.widget.children[1].value
    monkeypatch.setattr(map_history_panel, "snapshot_figure_dict", real)
    film.take_snapshot(copy.deepcopy(network), 2)
    panel.settle()
    assert panel.widget.children[1].value == "" and shown(panel).startswith("epoch 2:")


def test_a_drawing_holds_the_maps_the_rings_and_the_curve(film: MapHistory, network: CovarianceNet) -> None:
    train(film, network, range(3))
    frames = film.snapshots()
    drawn = snapshot_figure_dict(film, frames[1])
    heats = [trace for trace in drawn["data"] if trace["type"] == "heatmap"]
    for heat, values in zip(heats, (frames[1].map, film.truth), strict=True):
        decibels = 10 * np.log10(values.numpy() / values.max().item()).T
        # Single precision, of numbers down to −40 dB.
        np.testing.assert_allclose(heat["z"], np.maximum(decibels, -40.0), atol=1e-4)
    curve = next(trace for trace in drawn["data"] if trace.get("mode") == "lines+markers")
    assert curve["x"] == [0, 1, 2] and curve["y"] == [frame.nmse for frame in frames]
    ring = next(trace for trace in drawn["data"] if trace.get("name") == "true source")
    np.testing.assert_allclose(np.radians(ring["x"]), film.scene.azimuth[0][film.scene.active[0]], rtol=1e-5)
    assert drawn["layout"]["title"]["text"] == frames[1].line()
    go.Figure(drawn)  # raises for a property that plotly does not know


def test_a_frame_without_a_spectrum_is_drawn_as_that(film: MapHistory, network: CovarianceNet) -> None:
    train(film, network, range(2))
    broken = copy.deepcopy(network)
    with torch.no_grad():
        broken.head.linear.bias.fill_(torch.nan)
    film.take_snapshot(broken, 2)
    frame = film.last
    assert frame is not None
    drawn = snapshot_figure_dict(film, frame)
    assert "no spectrum" in drawn["layout"]["title"]["text"]
    assert "(no spectrum)" in drawn["layout"]["annotations"][0]["text"]
    assert np.isnan(drawn["data"][0]["z"]).all()
    marks = drawn["data"][-1]
    assert marks["x"] == [2] and "NaN" in marks["hovertext"][0]
    assert map_history_figure(film).layout.sliders[0].steps[2].args[1]["title.text"] == frame.line()


@pytest.mark.parametrize("epochs", [1, 5, 30])
def test_each_step_of_the_figure_shows_one_frame(film: MapHistory, network: CovarianceNet, epochs: int) -> None:
    train(film, network, range(epochs))
    drawn = map_history_figure(film)
    slider = drawn.layout.sliders[0]
    assert len(slider.steps) == min(epochs, 12)
    assert (slider.steps[0].label, slider.steps[-1].label) == ("0", str(epochs - 1))
    frames = {str(frame.epoch): frame for frame in film.snapshots()}
    for step in slider.steps:
        visible, title = step.args
        seen = [trace for trace, on in zip(drawn.data, visible["visible"], strict=True) if on]
        maps = [trace for trace in seen if trace.type == "heatmap"]
        frame: Snapshot = frames[step.label]
        assert len(maps) == 2 and title["title.text"] == frame.line()
        best = np.unravel_index(int(frame.map.argmax()), frame.map.shape)
        assert maps[0].z[best[1], best[0]] == 0.0
    # It opens at the last.
    assert [trace.visible is not False for trace in drawn.data] == list(slider.steps[-1].args[0]["visible"])
    assert drawn.layout.title.text == frames[slider.steps[-1].label].line()


def test_a_figure_needs_frames(film: MapHistory) -> None:
    with pytest.raises(InputError, match="film has 0 frames"):
        map_history_figure(film)


def test_headless_the_panel_says_where_its_figure_is(film: MapHistory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RISLAB_LIVE", "0")
    panel = panels.map_history(film)
    assert panel.widget is None
    assert "film_panel.figure(film)" in panel._repr_mimebundle_()["text/plain"]


def test_a_film_of_another_kind_is_named() -> None:
    with pytest.raises(InputError, match="history is a str"):
        panels.map_history("film")  # type: ignore[arg-type]


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_the_slider_of_an_exported_report_works_by_mouse_and_offline(
    film: MapHistory, network: CovarianceNet, tmp_path: Path
) -> None:
    import nbformat
    from nbformat.v4 import new_code_cell, new_notebook, new_output

    from tests.browser.chromium import FLAGS, sync_api

    train(film, network, range(8))
    content = json.loads(map_history_figure(film).to_json())
    output = new_output("display_data", {"application/vnd.plotly.v1+json": content})
    notebook = new_notebook(cells=[new_code_cell("film_panel.figure(film)", outputs=[output])])
    nbformat.write(notebook, tmp_path / "film.ipynb")
    export_html(tmp_path / "film.ipynb", tmp_path / "film.html", title="Film", header={})
    title = "document.querySelector('.js-plotly-plot').layout.title.text"
    lines = {frame.epoch: frame.line() for frame in film.snapshots()}
    SHOTS.mkdir(parents=True, exist_ok=True)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for theme in ("light", "dark"):
            page = browser.new_page(viewport={"width": 1280, "height": 800}, color_scheme=theme)
            requests: list[str] = []
            faults: list[str] = []
            page.on("request", lambda request, into=requests: into.append(request.url))
            page.on("pageerror", lambda error, into=faults: into.append(str(error)))
            page.goto((tmp_path / "film.html").as_uri())
            page.wait_for_selector(".slider-rail-touch-rect")
            assert page.evaluate(title) == lines[7]
            rail = page.locator(".slider-rail-touch-rect").first.bounding_box()
            page.mouse.click(rail["x"] + 3, rail["y"] + rail["height"] / 2)
            page.wait_for_function(f"{title} === {lines[0]!r}")
            page.mouse.move(rail["x"] + 3, rail["y"] + rail["height"] / 2)
            page.mouse.down()
            page.mouse.move(rail["x"] + rail["width"] * 3 / 7, rail["y"] + rail["height"] / 2, steps=6)
            page.mouse.up()
            page.wait_for_function(f"{title} === {lines[3]!r}")
            visible = "document.querySelector('.js-plotly-plot').data.filter(t => t.type === 'heatmap' && t.visible)"
            assert page.evaluate(f"{visible}.length") == 2
            page.screenshot(path=str(SHOTS / f"film-{theme}.png"))
            assert faults == [] and all(url.startswith(("file:", "data:", "blob:")) for url in requests)
            page.close()
        browser.close()


def test_the_plot_is_one_of_the_house(panel: FilmPanel) -> None:
    assert isinstance(panel.widget.children[2], PlotWidget)
    assert panel.widget.children[2].templates["dark"] == style.template("dark").to_plotly_json()
