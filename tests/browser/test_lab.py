"""Two live panels in a real JupyterLab in a real browser: run, stop, compare, turn, drag, reload, restart."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rislab.reports.html_export import export_html
from tests.browser.lab import SHOTS, box, command, opened, press, settle, shoot

pytestmark = pytest.mark.process
CELLS = (
    "import torch, rislab\ntorch.set_num_threads(1)\n"
    "config = rislab.sanity.OverfitConfig(scenes=64, micro_batch=16, epochs=5000, validation=16)\n"
    "panel = rislab.panels.overfit(config)\npanel",
    "scene = rislab.panels.music()\nscene",
    "from rislab.plots.training import loss_curves\nrecords = await panel\nloss_curves({'the run': records})",
)
TITLE = "[...document.querySelectorAll('.js-plotly-plot')].map(plot => plot.layout.title?.text ?? '')"
HEAT = "JSON.stringify(document.querySelectorAll('.js-plotly-plot')[1].layout.shapes.slice(0, 3).map(s => s.xanchor))"
MAP = "JSON.stringify(document.querySelectorAll('.js-plotly-plot')[1].data[0].z)"
# anywidget gives models two seconds to get ready: on this page the time is up at once.
NO_TIME = """
const timeout = AbortSignal.timeout;
AbortSignal.timeout = (milliseconds) => {
  if (milliseconds !== 2000) return timeout.call(AbortSignal, milliseconds);
  window.timesUp = (window.timesUp ?? 0) + 1;
  const controller = new AbortController();
  queueMicrotask(() => controller.abort());
  return controller.signal;
};
"""
PLOTS = "document.querySelectorAll('.js-plotly-plot').length"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lab")


@pytest.fixture(scope="module")
def page(browser: Any, folder: Path) -> Iterator[Any]:
    """One server, one page and one kernel for all tests of this file."""
    with opened(browser, folder, CELLS) as page:
        yield page
        shoot(page, "at-the-end")


def run_all(page: Any) -> None:
    # What ran before is still there, and would answer for the new run.
    command(page, "notebook:clear-all-cell-outputs")
    page.wait_for_function(f"{PLOTS} === 0")
    command(page, "notebook:run-all-cells")
    page.wait_for_function(f"{PLOTS} === 2")
    page.wait_for_function(f"{TITLE}[0].startsWith('running')")


def wait_for_step(page: Any, step: int) -> None:
    page.wait_for_function(f"Number({TITLE}[0].split('step ')[1]) > {step}")


def test_panels_live_in_jupyterlab(page: Any, folder: Path) -> None:
    run_all(page)
    # The curve grows, and a run that is stopped says so.
    wait_for_step(page, 100)
    shoot(page, "training")
    # A knob is heard more than once while a cell awaits the run.
    for steps in ("2", "8", "4"):
        box(page, "accumulation").fill(steps)
        page.keyboard.press("Tab")
        page.wait_for_timeout(300)
    press(page, "Stop")
    page.wait_for_function(f"{TITLE}[0].startsWith('stopped')")
    # Another accumulation and precision, beside the first run.
    box(page, "precision").select_option("fp64")
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
    # A new SNR gives a new map, of a covariance that knows of noise; its time is printed.
    page.locator(".js-plotly-plot").nth(1).scroll_into_view_if_needed()
    page.wait_for_timeout(1000)  # outputs that scroll into view are attached anew
    page.evaluate(f"() => {{ window.map = {MAP}; }}")
    box(page, "covariance").select_option("sample")
    page.wait_for_function(f"{MAP} !== window.map")
    page.wait_for_timeout(1000)
    handle = page.locator(".slider-container", has=page.locator(".noUi-handle")).nth(1).locator(".noUi-handle")
    times = []
    for _ in range(6):
        handle.focus()
        # Asked of the plot that is there now: an output that is attached anew brings another node.
        page.evaluate(
            f"() => {{ window.drawn = 0; window.map = {MAP}; window.began = performance.now(); "
            "document.querySelectorAll('.js-plotly-plot')[1]"
            ".once('plotly_afterplot', () => window.drawn = performance.now()); }"
        )
        page.keyboard.press("ArrowRight")
        page.wait_for_function(f"{MAP} !== window.map")
        if drawn := page.evaluate("window.drawn"):
            times.append(drawn - page.evaluate("window.began"))
        page.wait_for_timeout(400)
    assert times
    print(f"slider to new 181×91 maps on the screen: {statistics.median(times):.0f} ms (target 150)")
    # A ring that is dragged moves its source, and the estimate goes with it.
    page.evaluate(f"() => {{ window.map = {MAP}; }}")
    box(page, "covariance").select_option("truth")
    page.wait_for_function(f"{MAP} !== window.map")
    page.wait_for_timeout(1000)
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
    page.wait_for_function(f"{PLOTS} >= 2")
    page.wait_for_function(f"{TITLE}[0].startsWith('stopped')")
    assert page.evaluate(HEAT) == moved
    shoot(page, "reloaded")
    exported(page, folder)


def exported(page: Any, folder: Path) -> None:
    """The saved notebook as a page of its own: its figure shows and answers the mouse without a network."""
    export_html(folder / "root" / "panels.ipynb", folder / "panels.html", title="panels", header={})
    context = page.context.browser.new_context(viewport={"width": 1280, "height": 800})
    context.set_offline(True)
    alone = context.new_page()
    asked: list[str] = []
    alone.on("request", lambda request: asked.append(request.url))
    alone.goto((folder / "panels.html").as_uri())
    alone.wait_for_selector(".js-plotly-plot .main-svg")
    assert alone.locator(".js-plotly-plot").count() == 1
    plot = alone.locator(".js-plotly-plot .nsewdrag").first
    plot.scroll_into_view_if_needed()
    area, texts = plot.bounding_box(), alone.locator(".hoverlayer .hovertext")
    for place in range(200):  # from left to right: a busy page takes no notice of a single move
        alone.mouse.move(area["x"] + area["width"] * (place % 20 + 0.5) / 20, area["y"] + area["height"] / 2)
        alone.wait_for_timeout(50)
        if texts.count():
            break
    assert texts.count()
    assert all(url.startswith(("file:", "data:", "blob:")) for url in asked)
    alone.screenshot(path=str(SHOTS / "lab-exported.png"))
    context.close()


def test_a_restarted_kernel_finds_its_run_again(page: Any) -> None:
    run_all(page)
    wait_for_step(page, 50)
    page.evaluate("window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")
    settle(page)
    run_all(page)
    press(page, "Stop")
    page.wait_for_function(f"{TITLE}[0].startsWith('stopped')")
    press(page, "Load")
    page.wait_for_function(f"Number({TITLE}[0].split('step ')[1]) >= 50")
    press(page, "Go on")
    page.wait_for_function(f"{TITLE}[0].startsWith('running') && Number({TITLE}[0].split('step ')[1]) > 60")
    press(page, "Stop")
    page.wait_for_function(f"{TITLE}[0].startsWith('stopped')")
    shoot(page, "restarted")


def test_plots_change_in_a_page_that_was_too_slow_for_anywidget(page: Any) -> None:
    page.add_init_script(NO_TIME)
    page.reload()
    settle(page)
    run_all(page)
    assert page.evaluate("window.timesUp") >= 3  # plotly.js and two plots
    wait_for_step(page, 20)
    page.evaluate(f"() => {{ window.map = {MAP}; }}")
    box(page, "covariance").select_option("sample")
    page.wait_for_function(f"{MAP} !== window.map")
    press(page, "Stop")
    page.wait_for_function(f"{TITLE}[0].startsWith('stopped')")
