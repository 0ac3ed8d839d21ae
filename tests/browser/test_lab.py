"""A real JupyterLab in a real browser: two live panels run, stop, compare, turn, drag, reload, restart; `%%checkup`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rislab.reports.html_export import export_html
from tests.browser.chromium import CHROMIUM, FLAGS, OVERLAPS
from tests.browser.figures import figure_defects
from tests.browser.lab import KERNEL, SHOTS, box, command, opened, press, settle, shoot, until, write_notebook
from tests.browser.test_accessibility import TEXTS, contrast
from tests.checkup.test_notebook import SETUP

pytestmark = pytest.mark.process
CELLS = (
    "import time, torch, rislab\nfrom torch.optim.optimizer import register_optimizer_step_post_hook\n"
    "torch.set_num_threads(1)\n"
    # A step that takes a while: a run that nothing slows would take a core from the page that is looked at.
    "register_optimizer_step_post_hook(lambda *_: time.sleep(0.01))\n"
    "config = rislab.sanity.OverfitConfig(scenes=64, micro_batch=16, epochs=5000, validation=16)\n"
    "panel = rislab.panels.overfit(config)\npanel",
    "scene = rislab.panels.music()\nscene",
    "from rislab.plots.training import loss_curves\nrecords = await panel\nloss_curves({'the run': records})",
)
# Of the first plot, which is brought into view: nothing is drawn where nobody looks, and JupyterLab scrolls to the end.
TITLE = """((plot) => {
  plot?.scrollIntoView({ block: "nearest" });
  return plot?.layout.title?.text ?? "";
})(document.querySelector(".js-plotly-plot"))"""
SCENE = "document.querySelector('.rislab-scene')"
PLACE = f"{SCENE}.querySelector('.source').ariaLabel"
MAP = f"{SCENE}.querySelector('canvas').source"
RING = f"{SCENE}.querySelector('.source[data-view=\"map learned\"] .ring').getBoundingClientRect()"
COMPLETE = f"{SCENE}.dataset.state === 'complete'"
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
CURVE = "[...document.querySelector('.js-plotly-plot').data[1].y].join()"
# Controls that a screen reader could not name.
NAMELESS = """(() => {
  const controls = document.querySelectorAll(".jp-OutputArea-output :is(input, select, button, [role=slider])");
  return [...controls].filter(one => one.checkVisibility() && !one.closest(".js-plotly-plot")).filter(one => !(
    one.textContent.trim() && one.tagName === "BUTTON" || one.labels?.[0]?.textContent.trim() || one.title ||
    one.ariaLabel)).map(one => one.outerHTML.slice(0, 120));
})()"""
PANEL = "document.querySelector('.jp-OutputArea-output')"
# Where the controls of the training panel stand in its output: nothing that appears may move one under the mouse.
PLACES = f"""(() => {{
  const panel = {PANEL}, {{ top }} = panel.getBoundingClientRect();
  const controls = [...panel.querySelectorAll("button.jupyter-button, select, input")];
  const boxes = controls.filter((one) => one.checkVisibility()).map((one) => one.getBoundingClientRect());
  return boxes.map((box) => [box.left, box.top - top].map(Math.round));
}})()"""
# Pixels of the axis behind the end of the grey lines, which end with the curves.
ROOM = """(() => {
  const { data, _fullLayout: { xaxis } } = document.querySelector(".js-plotly-plot");
  const end = data.find((trace) => trace.name.startsWith("zero matrix")).x[1];
  return Math.round(xaxis._length * (1 - end / xaxis.range[1]));
})()"""
IDLE = "![...document.querySelectorAll('.jp-InputArea-prompt')].some(one => one.textContent.includes('*'))"
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
    until(page, f"{PLOTS} === 0")
    command(page, "notebook:run-all-cells")
    until(page, f"{PLOTS} === 2 && {SCENE}")
    until(page, f"{TITLE}.startsWith('running')")


def toggle(page: Any, group: str, name: str) -> None:
    row = page.locator(".widget-toggle-buttons", has_text=group).first
    row.get_by_role("button", name=name, exact=True).click()


def wait_for_step(page: Any, step: int) -> None:
    until(page, f"Number({TITLE}.split('step ')[1]) > {step}")


def test_panels_live_in_jupyterlab(page: Any, folder: Path) -> None:
    run_all(page)
    # The curve grows, and a run that is stopped says so.
    places = page.evaluate(PLACES)
    wait_for_step(page, 100)
    shoot(page, "training")
    # The player of a map history has icons alone.
    player = "<div class='widget-play'><button><i class='fa fa-play'></i></button></div>"
    page.evaluate("(player) => document.querySelector('.rislab-panel').insertAdjacentHTML('beforeend', player)", player)
    until(page, "document.querySelector('.widget-play button').title === 'play or pause'")
    # Long lines of printed text are broken between words.
    page.evaluate("document.querySelector('.rislab-panel').insertAdjacentHTML('beforeend', '<pre></pre>')")
    assert page.evaluate("getComputedStyle(document.querySelector('.rislab-panel pre')).wordBreak") == "normal"
    # A knob is heard more than once while a cell awaits the run.
    for steps in ("2", "8", "4"):
        toggle(page, "accumulation", steps)
        until(page, f"document.body.textContent.includes('effective batch 16 = {steps} × ')")
    # What is not allowed is refused beside its box, and stays there.
    box(page, "micro-batch").fill("0")
    page.keyboard.press("Tab")
    page.wait_for_selector("[role=alert]:has-text('micro_batch is 0; allowed: a whole number in')")
    page.wait_for_timeout(500)  # its text and its place come one after the other
    assert box(page, "micro-batch").input_value() == "0" and page.evaluate(PLACES) == places
    box(page, "micro-batch").fill("16")
    page.keyboard.press("Tab")
    page.wait_for_selector("[role=alert]:has-text('micro_batch')", state="detached")
    # A button that moves between press and release, as the page scrolls, takes the click.
    stop = page.locator("button.jupyter-button", has_text="Stop").first.bounding_box()
    page.mouse.move(stop["x"] + 40, stop["y"] + 20)
    page.mouse.down()
    page.evaluate(f"() => {{ {PANEL}.style.paddingTop = '80px'; }}")
    page.mouse.up()
    until(page, f"{TITLE}.startsWith('stopped')")
    page.evaluate(f"() => {{ {PANEL}.style.paddingTop = ''; }}")
    # What can do nothing now cannot be pressed; the labels of the curves have as much room in a wide window.
    assert page.locator("button.jupyter-button:disabled").all_inner_texts()[:3] == ["Pause", "Step", "Stop"]
    for width in (1920, 1280):
        page.set_viewport_size({"width": width, "height": 800})
        until(page, f"{ROOM} === 150")
    page.wait_for_selector("[role=status]:has-text('nothing wrong')")
    # Another accumulation and precision, beside the first run; the loop is broken on purpose, and the verdict turns.
    toggle(page, "precision", "fp64")
    box(page, "break").select_option("never divided")
    page.wait_for_selector("[role=region]:has-text('weight = 1.0')")
    press(page, "Start", f"{TITLE}.startsWith('running')")
    page.wait_for_selector("[role=status]:has-text('✗ never divided')")
    until(
        page,
        "document.querySelector('.js-plotly-plot').data.some("
        "trace => trace.name === 'run 2: never divided, 4 × 16, fp64')",
    )
    shoot(page, "broken")
    assert page.evaluate(PLACES) == places
    assert page.evaluate(NAMELESS) == []
    until(page, f"{TITLE}.includes('fp64') && Number({TITLE}.split('step ')[1]) > 5")
    press(page, "Pause", f"{TITLE}.startsWith('paused')")
    before = page.evaluate(f"{TITLE}")
    press(page, "Step", f"{TITLE} !== {before!r} && {TITLE}.startsWith('paused')")
    press(page, "Stop", f"{TITLE}.startsWith('stopped')")
    moved = scene_follows(page)
    command(page, "apputils:change-theme", theme="JupyterLab Dark")
    until(page, f"{SCENE}.classList.contains('dark')")
    shoot(page, "scene-dark")
    # A page that is loaded again shows the present state, not the first.
    page.evaluate("() => window.jupyterapp.shell.currentWidget.context.save()")
    curve = page.evaluate(CURVE)
    page.reload()
    until(page, f"{PLOTS} >= 1 && {SCENE}")
    until(page, f"{TITLE}.startsWith('stopped')")
    # All of it, though it came in pieces.
    until(page, f"{CURVE} === {curve!r}")
    page.wait_for_selector("[role=status]:has-text('✗ never divided')")
    page.evaluate(f"{SCENE}.scrollIntoView()")  # nothing is drawn where nobody looks
    until(page, COMPLETE)
    assert page.evaluate(PLACE) == moved
    shoot(page, "reloaded")
    exported(page, folder)


def scene_follows(page: Any) -> str:
    """Knobs, a dragged source and the keyboard change the maps; returns where source 1 is in the end."""
    scene = page.locator(".rislab-scene")
    scene.scroll_into_view_if_needed()
    until(page, f"{COMPLETE} && {SCENE}.querySelectorAll('canvas').length === 4")
    assert page.evaluate(f"({OVERLAPS})({SCENE})") == []
    for _ in range(2):  # with the list of files beside it, and without
        command(page, "application:toggle-left-area")
        page.wait_for_timeout(500)
        box = scene.bounding_box()
        assert box["height"] <= 680, "does not fit into JupyterLab on 800 lines"
    # Every control has a name, and what cannot be is refused beside it.
    assert (
        page.evaluate(
            f"[...{SCENE}.querySelectorAll('input, select, button, .source')].filter(one => "
            "!(one.ariaLabel || one.labels?.length || one.textContent.trim())).length"
        )
        == 0
    )
    page.evaluate(f"() => {{ window.map = {MAP}; }}")
    scene.get_by_label("snapshots").fill("0")
    page.keyboard.press("Tab")
    refusal = scene.locator(".refusal:visible")
    refusal.wait_for()
    assert "snapshots is 0; allowed: " in refusal.inner_text() and scene.get_by_label("snapshots").input_value() == "0"
    assert page.evaluate(f"{MAP} === window.map") and scene.bounding_box()["height"] == box["height"]
    # Of two sentences the newer one is shown, and the other where its control is pointed at.
    scene.get_by_label("loading of MVDR").fill("-1")
    page.keyboard.press("Tab")
    scene.locator(".refusal:visible", has_text="loading is -1").wait_for()
    assert refusal.count() == 1
    scene.get_by_label("snapshots").hover()
    assert refusal.count() == 2
    scene.get_by_label("loading of MVDR").fill("0.001")
    page.keyboard.press("Tab")
    scene.locator(".refusal:visible", has_text="loading is -1").wait_for(state="hidden")
    scene.get_by_label("snapshots").fill("12")
    page.keyboard.press("Tab")
    refusal.wait_for(state="hidden")
    until(page, f"{MAP} !== window.map && {COMPLETE}")
    # Of a number that is refused the slider shows nothing: it stays at the one in use.
    slider = scene.get_by_label("SNR in dB", exact=True)
    number, used = scene.get_by_label("SNR in dB, as a number"), slider.input_value()
    for typed, said in (("", "snr_db is empty"), ("1000", "snr_db is 1000; allowed: ")):
        number.fill(typed)
        page.keyboard.press("Tab")
        scene.locator(".refusal:visible", has_text=said).wait_for()
        assert slider.input_value() == used
    number.fill(used)
    page.keyboard.press("Tab")
    scene.locator(".refusal:visible", has_text="snr_db").wait_for(state="hidden")
    # A source that is dragged on a map takes the maps with it before it is let go.
    ring = scene.locator(".source[data-view='map learned'] .ring").first.bounding_box()
    place = page.evaluate(PLACE)
    page.mouse.move(ring["x"] + ring["width"] / 2, ring["y"] + ring["height"] / 2)
    page.mouse.down()
    page.mouse.move(ring["x"] + 60, ring["y"] + 30, steps=8)
    # The source stays under the pointer.
    x, y = (ring[side] + shift - ring[size] / 2 for side, shift, size in (("x", 60, "width"), ("y", 30, "height")))
    until(page, f"Math.hypot({RING}.x - {x}, {RING}.y - {y}) < 3")
    until(page, f"{SCENE}.dataset.state === 'coarse' && {PLACE} !== {place!r}")
    page.mouse.up()
    until(page, COMPLETE)
    dragged = page.evaluate(PLACE)
    # By keyboard half a degree at a time.
    scene.locator(".source").first.focus()
    page.keyboard.press("ArrowRight")
    until(page, f"{PLACE} !== {dragged!r} && {COMPLETE}")
    # A sweep runs until its button is pressed again.
    play = scene.get_by_role("button", name="play: sweep SNR")
    before = float(scene.get_by_label("SNR in dB", exact=True).input_value())
    play.click()
    until(page, f"Math.abs({SCENE}.querySelector('input[type=range][id$=snr_db]').value - {before}) > 2")
    play.click()
    until(page, COMPLETE)
    assert play.get_attribute("aria-pressed") == "false"
    # The answer of a button stands below the panel, and is brought into sight.
    scene.get_by_role("button", name="count sources").click()
    until(page, f"{SCENE}.querySelector('.note table')?.getBoundingClientRect().bottom < innerHeight - 20")
    return str(page.evaluate(PLACE))


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
    page.evaluate(f"{KERNEL}.restart()")
    settle(page)
    run_all(page)
    press(page, "Stop", f"{TITLE}.startsWith('stopped')")
    press(page, "runs")
    press(page, "Load", f"Number({TITLE}.split('step ')[1]) >= 50")
    press(page, "Go on", f"{TITLE}.startsWith('running') && Number({TITLE}.split('step ')[1]) > 60")
    press(page, "Stop", f"{TITLE}.startsWith('stopped')")
    shoot(page, "restarted")


def test_two_tabs_a_reload_before_saving_and_a_small_window_without_webgl(page: Any) -> None:
    errors: list[str] = []
    until(page, IDLE)  # or a cell that awaits a stopped run would answer after its output was cleared
    run_all(page)
    press(page, "Stop", f"{TITLE}.startsWith('stopped')")
    page.evaluate("() => window.jupyterapp.shell.currentWidget.context.save()")
    # A browser of its own has no WebGL, and a window of 1024 pixels.
    plain = page.context.browser.browser_type.launch(executable_path=CHROMIUM, args=[*FLAGS, "--disable-3d-apis"])
    other = plain.new_page(viewport={"width": 1024, "height": 768})
    other.set_default_timeout(180_000)
    other.on("pageerror", lambda error: errors.append(str(error)))
    other.goto(f"{page.url.partition('?')[0]}?token=lab")
    until(other, f"{PLOTS} >= 1 && {SCENE}")
    assert other.evaluate("document.createElement('canvas').getContext('webgl')") is None
    until(other, f"{TITLE}.startsWith('stopped')")
    assert figure_defects(other) == {}
    shoot(other, "small")
    other.evaluate(f"{SCENE}.scrollIntoView()")
    until(other, COMPLETE)
    assert other.evaluate(f"({OVERLAPS})({SCENE})") == []
    assert other.evaluate(f"{SCENE}.scrollWidth <= {SCENE}.clientWidth + 1")
    # What one tab changes, the other shows: they are of one kernel.
    seed = other.locator(".rislab-scene").get_by_label("seed")
    seed.fill("7")
    other.keyboard.press("Tab")
    page.evaluate(f"{SCENE}.scrollIntoView()")
    until(page, f"{SCENE}.querySelector('input[id$=seed]').value === '7' && {COMPLETE}")
    press(other, "Start", f"{TITLE}.startsWith('running')")
    press(page, "Stop", f"{TITLE}.startsWith('stopped')")
    until(other, f"{TITLE}.startsWith('stopped')")
    plain.close()
    # Nothing is lost with a page that was not saved: the kernel goes on, and its cells show it again.
    page.once("dialog", lambda dialog: dialog.accept())
    page.add_init_script(NO_TIME)
    page.reload()
    settle(page)
    run_all(page)
    plots_change_though_the_page_was_too_slow_for_anywidget(page)
    assert errors == []


def plots_change_though_the_page_was_too_slow_for_anywidget(page: Any) -> None:
    assert page.evaluate("window.timesUp") >= 3  # plotly.js, the plot and the scene
    wait_for_step(page, 20)
    page.evaluate(f"{SCENE}.scrollIntoView()")
    until(page, COMPLETE)
    page.evaluate(f"() => {{ window.map = {MAP}; }}")
    page.locator(".rislab-scene").get_by_label("seed").fill("3")
    page.keyboard.press("Tab")
    until(page, f"{MAP} !== window.map")
    press(page, "Stop", f"{TITLE}.startsWith('stopped')")


CHECKED = ("%load_ext rislab", SETUP, "%%checkup --accumulation-steps 4\nlast = train(divisor=16)")
TABLE = "table:has(> caption)"


def test_the_table_of_the_checkup_can_be_read_in_both_themes_and_is_known_to_a_screen_reader(
    page: Any, folder: Path
) -> None:
    write_notebook(folder / "root" / "checkup.ipynb", CHECKED)
    command(page, "docmanager:open", path="checkup.ipynb")
    until(page, "window.jupyterapp.shell.currentWidget?.context?.path === 'checkup.ipynb'")
    settle(page)
    command(page, "notebook:run-all-cells")
    until(page, f"document.querySelector('{TABLE}')")
    for theme in ("Light", "Dark"):
        command(page, "apputils:change-theme", theme=f"JupyterLab {theme}")
        page.wait_for_function(f"document.body.dataset.jpThemeName === 'JupyterLab {theme}'")
        page.wait_for_timeout(1000)
        shoot(page, f"checkup-{theme.lower()}")
        page.evaluate("table => document.querySelector(table).id = 'watched'", TABLE)
        texts = page.evaluate(
            TEXTS.replace("document.body, NodeFilter", "document.querySelector('#watched'), NodeFilter")
        )
        assert "Found 1 fault." in [text for text, *_ in texts] and len(texts) > 10
        assert [text for text in texts if contrast(text[1], text[2]) < 4.5] == []
    # By their roles, as a screen reader finds them.
    table = page.get_by_role("table", name="Found 1 fault.")
    titles = table.get_by_role("columnheader").all_text_contents()
    assert titles[:4] == ["severity", "code", "what", "numbers"] and all(titles)
    assert table.get_by_role("rowheader").all_text_contents() == ["divided twice"]
    assert page.get_by_role("region", name="findings").is_visible()
