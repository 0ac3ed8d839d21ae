"""The slider of a map history in an exported report, by mouse in a browser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from rislab.plots.map_history import map_history_figure
from rislab.reports.html_export import export_html
from tests.browser.lab import SHOTS
from tests.plots.test_map_history import new_history, new_network, train

pytestmark = pytest.mark.process


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_slider_of_an_exported_report_works_by_mouse_and_offline(browser: Any, tmp_path: Path, theme: str) -> None:
    history = new_history()
    train(history, new_network(), range(8))
    content = json.loads(map_history_figure(history).to_json())
    output = new_output("display_data", {"application/vnd.plotly.v1+json": content})
    notebook = new_notebook(cells=[new_code_cell("map_history_figure(history)", outputs=[output])])
    nbformat.write(notebook, tmp_path / "history.ipynb")
    export_html(tmp_path / "history.ipynb", tmp_path / "history.html", title="History", header={})
    title = "document.querySelector('.js-plotly-plot').layout.title.text"
    lines = {snapshot.epoch: snapshot.line() for snapshot in history.snapshots()}
    page = browser.new_page(viewport={"width": 1280, "height": 800}, color_scheme=theme)
    requests: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto((tmp_path / "history.html").as_uri())
    page.wait_for_selector(".slider-rail-touch-rect")
    assert page.evaluate(title) == lines[7]
    rail = page.locator(".slider-rail-touch-rect").first.bounding_box()
    left, middle = rail["x"] + 3, rail["y"] + rail["height"] / 2
    page.mouse.click(left, middle)
    page.wait_for_function(f"{title} === {lines[0]!r}")
    page.mouse.move(left, middle)
    page.mouse.down()
    page.mouse.move(rail["x"] + rail["width"] * 3 / 7, middle, steps=6)
    page.mouse.up()
    page.wait_for_function(f"{title} === {lines[3]!r}")
    visible = "document.querySelector('.js-plotly-plot').data.filter(t => t.type === 'heatmap' && t.visible)"
    assert page.evaluate(f"{visible}.length") == 2
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=str(SHOTS / f"map-history-{theme}.png"))
    assert errors == [] and all(url.startswith(("file:", "data:", "blob:")) for url in requests)
    page.close()
