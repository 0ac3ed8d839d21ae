"""The music panel in a real JupyterLab and a real browser: from the pointer to the screen; printed, not judged.

RISLAB_SCENE_PRESET names the scenes, "full" by default.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.chromium import OVERLAPS, launched
from tests.browser.lab import command, opened

PRESET = os.environ.get("RISLAB_SCENE_PRESET", "full")
pytestmark = pytest.mark.timeout(900)
CELL = f"""
import torch, rislab
from rislab.music.scene_view import SceneSettings
torch.set_num_threads(1)
scene = rislab.panels.music(SceneSettings.of({PRESET!r}, covariance="learned"))
scene
"""
SCENE = "document.querySelector('.rislab-scene')"
REPEATS = 20
# One step of the slider, and the time until the frame is painted that shows a map of it.
STEP = """async (coarse) => {
  const root = document.querySelector(".rislab-scene"), slider = root.querySelector("input[type=range][id$=snr_db]");
  const map = root.querySelector("canvas");
  const before = map.source, began = performance.now();
  slider.value = Number(slider.value) + (slider.value > 20 ? -5 : 0.5);
  slider.dispatchEvent(new Event(coarse ? "input" : "change", { bubbles: true }));
  while (map.source === before && performance.now() - began < 5000) await new Promise(requestAnimationFrame);
  await new Promise((done) => setTimeout(done));
  return performance.now() - began;
}"""
# Of a drag: a redraw is another picture on the canvas of the map.
WATCH = """() => {
  const map = document.querySelector(".rislab-scene canvas");
  let last = map.source;
  window.redraws = 0;
  window.watching = true;
  (function frame() {
    if (map.source !== last) { last = map.source; window.redraws++; }
    if (window.watching) requestAnimationFrame(frame);
  })();
}"""


@pytest.fixture(scope="module")
def measured() -> Iterator[dict[str, Any]]:
    with (
        tempfile.TemporaryDirectory() as folder,
        launched() as browser,
        opened(browser, Path(folder), (CELL,)) as page,
    ):
        yield _measure(page)


def _measure(page: Any) -> dict[str, Any]:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    command(page, "notebook:run-all-cells")
    complete = f"{SCENE}?.dataset.state === 'complete' && {SCENE}.querySelectorAll('canvas').length === 4"
    page.wait_for_function(complete)
    result: dict[str, Any] = {"overlaps": page.evaluate(f"({OVERLAPS})({SCENE})")}
    result["height"] = page.locator(".rislab-scene").bounding_box()["height"]
    for name, coarse in (("coarse", True), ("fine", False)):
        result[name] = []
        for _ in range(REPEATS):
            result[name].append(page.evaluate(STEP, coarse))
            page.wait_for_timeout(400)
    page.evaluate(f"{SCENE}.querySelector('input[type=range][id$=snr_db]').dispatchEvent(new Event('change'))")
    page.wait_for_function(complete)
    result["redraws"] = [_drag(page) for _ in range(3)]
    own = ("http://127.0.0.1", "ws://127.0.0.1", "blob:", "data:")
    result["outside"] = [url for url in asked if not url.startswith(own)]
    return result


def _drag(page: Any) -> float:
    """Redraws a second while a source is dragged over a map for three seconds."""
    ring = page.locator(".source[data-view='map learned'] .ring").first.bounding_box()
    x, y = ring["x"] + ring["width"] / 2, ring["y"] + ring["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.evaluate(WATCH)
    began, step = time.monotonic(), 0
    while time.monotonic() - began < 3.0:
        step += 1
        page.mouse.move(x + 2 * (step % 20), y + step % 7)
    seconds = time.monotonic() - began
    redraws = page.evaluate("() => { window.watching = false; return window.redraws; }")
    page.mouse.up()
    page.wait_for_function(f"{SCENE}.dataset.state === 'complete'")
    return float(redraws / seconds)


def test_from_the_pointer_to_the_map_on_the_screen(benchmark: Any, measured: dict[str, Any]) -> None:
    benchmark.pedantic(lambda: None, rounds=1)
    coarse, fine = (statistics.median(measured[name]) for name in ("coarse", "fine"))
    redraws = statistics.median(measured["redraws"])
    benchmark.extra_info.update(coarse=coarse, fine=fine, redraws=redraws)
    print(
        f"\n{PRESET} scene: slider to map {coarse:.0f} ms coarse (target ≤ 100), {fine:.0f} ms fine (≤ 150), "
        f"medians of {REPEATS}; {redraws:.1f} redraws a second while a source is dragged (target ≥ 10); overlaps "
        f"{measured['overlaps']}; requests to the outside {measured['outside']}; {measured['height']:.0f} pixels high"
    )
