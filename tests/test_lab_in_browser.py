"""Both live panels in a real JupyterLab in a real browser: run all, watch, stop, compare, turn, drag, reload."""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from browser import CHROMIUM, FLAGS, sync_api
from nbformat.v4 import new_code_cell, new_notebook

SHOTS = Path(__file__).resolve().parent.parent / "reports" / "out"
CELLS = (
    "import torch, rislab\ntorch.set_num_threads(1)\n"
    "panel = rislab.panels.overfit(rislab.overfit.OverfitConfig(scenes=64, micro_batch=16, epochs=5000))\npanel",
    "scene = rislab.panels.music()\nscene",
)
TITLE = "[...document.querySelectorAll('.js-plotly-plot')].map(plot => plot.layout.title?.text ?? '')"
HEAT = "JSON.stringify(document.querySelectorAll('.js-plotly-plot')[1].layout.shapes.slice(0, 3).map(s => s.xanchor))"


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    notebook = new_notebook(cells=[new_code_cell(cell) for cell in CELLS])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    root = tmp_path / "root"
    root.mkdir()
    nbformat.write(notebook, root / "panels.ipynb")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folders = {f"JUPYTER_{name}_DIR": str(tmp_path / name) for name in ("CONFIG", "DATA", "RUNTIME")}
    # The server's own folders must not hide the extensions and kernels of this environment.
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1"]
    command += [f"--ServerApp.port={port}", "--IdentityProvider.token=lab", "--LabApp.expose_app_in_browser=True"]
    command += [f"--ServerApp.root_dir={root}", "--LabApp.news_url=None"]
    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen(
            command, env={**os.environ, **folders, "RISLAB_LIVE": "1"}, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            yield f"http://127.0.0.1:{port}/lab/tree/panels.ipynb?token=lab"
        finally:
            server.terminate()
            server.wait(30)


@pytest.fixture
def page(address: str) -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.set_default_timeout(90_000)
        for _ in range(120):
            try:
                page.goto(address)
                break
            except sync_api.Error:
                time.sleep(0.5)
        page.wait_for_selector(".jp-Notebook")
        page.wait_for_function("window.jupyterapp?.commands.hasCommand('notebook:run-all-cells')")
        yield page
        browser.close()


def command(page: Any, name: str, **options: Any) -> None:
    page.evaluate("([name, options]) => window.jupyterapp.commands.execute(name, options)", [name, options])


def press(page: Any, name: str) -> None:
    page.locator("button.jupyter-button", has_text=name).first.click()


def shoot(page: Any, name: str) -> None:
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=str(SHOTS / f"lab-{name}.png"))


def test_panels_live_in_jupyterlab(page: Any) -> None:
    page.wait_for_timeout(2000)  # the notebook's own kernel starts meanwhile
    command(page, "notebook:run-all-cells")
    page.wait_for_function("document.querySelectorAll('.js-plotly-plot').length === 2")
    page.wait_for_function(f"{TITLE}[0].startsWith('running')")
    # The curve grows, and a run that is stopped says so.
    page.wait_for_function(f"Number({TITLE}[0].split('step ')[1]) > 100")
    shoot(page, "training")
    press(page, "Stop")
    page.wait_for_function(f"{TITLE}[0].startsWith('stopped')")
    # Another accumulation and precision, beside the first run.
    page.locator("xpath=//label[contains(.,'accumulation')]/following-sibling::input").first.fill("4")
    page.keyboard.press("Tab")
    page.locator("xpath=//label[contains(.,'precision')]/following-sibling::select").first.select_option("fp64")
    press(page, "Start")
    page.wait_for_function(
        "document.querySelector('.js-plotly-plot').data.some("
        "trace => trace.name === 'run 2: accumulation_steps 4, precision fp64')"
    )
    page.wait_for_function(f"{TITLE}[0].includes('fp64') && Number({TITLE}[0].split('step ')[1]) > 5")
    press(page, "Pause")
    page.wait_for_function(f"{TITLE}[0].startsWith('paused')")
    before = page.evaluate(f"{TITLE}[0]")
    press(page, "Step")
    page.wait_for_function(f"{TITLE}[0] !== {before!r} && {TITLE}[0].startsWith('paused')")
    press(page, "Stop")
    page.wait_for_function(f"{TITLE}[0].startsWith('stopped')")
    # A new SNR gives a new map; measured, not asserted.
    page.locator(".js-plotly-plot").nth(1).scroll_into_view_if_needed()
    page.evaluate(
        "() => { window.drawn = []; document.querySelectorAll('.js-plotly-plot')[1]"
        ".on('plotly_afterplot', () => window.drawn.push(performance.now())); }"
    )
    handle = page.locator(".slider-container", has=page.locator(".noUi-handle")).nth(1).locator(".noUi-handle")
    handle.focus()
    times = []
    for _ in range(6):
        page.evaluate("() => { window.drawn = []; window.began = performance.now(); }")
        page.keyboard.press("ArrowRight")
        page.wait_for_function("window.drawn.length > 0")
        times.append(page.evaluate("window.drawn[0] - window.began"))
        page.wait_for_timeout(400)
    print(f"slider to new 181×91 maps on the screen: {statistics.median(times):.0f} ms (target 150)")
    # A ring that is dragged moves its source, and the estimate goes with it.
    places = page.evaluate(HEAT)
    ring = page.locator(".js-plotly-plot").nth(1).locator(".shapelayer path").first.bounding_box()
    page.mouse.move(ring["x"] + ring["width"] / 2, ring["y"] + ring["height"] / 2)
    page.mouse.down()
    page.mouse.move(ring["x"] + 60, ring["y"] + 30, steps=8)
    page.mouse.up()
    page.wait_for_function(
        f"{HEAT} !== {places!r} && Math.min(...document.querySelectorAll('.js-plotly-plot')[1]._fullData[2].x.map("
        "x => Math.abs(x - document.querySelectorAll('.js-plotly-plot')[1].layout.shapes[0].xanchor))) < 0.1"
    )
    moved = page.evaluate(HEAT)
    command(page, "apputils:change-theme", theme="JupyterLab Dark")
    page.wait_for_function(
        "document.querySelectorAll('.js-plotly-plot')[1].layout.template.layout.paper_bgcolor === '#111111'"
    )
    shoot(page, "scene-dark")
    # A page that is loaded again shows the present state, not the first.
    command(page, "docmanager:save")
    page.wait_for_timeout(2000)
    page.reload()
    page.wait_for_function("document.querySelectorAll('.js-plotly-plot').length === 2")
    page.wait_for_function(f"{TITLE}[0].startsWith('stopped')")
    assert page.evaluate(HEAT) == moved
    shoot(page, "reloaded")
