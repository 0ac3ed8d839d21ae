"""The scene as a page without a kernel: offline, by keyboard, in a narrow window, in both themes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from rislab.errors import InputError
from rislab.music.scene_view import SceneExplorer, SceneSettings, place_apart
from rislab.panels.scene_controls import control_groups
from rislab.plots.scene_content import scene_content, scene_css, scene_look, scene_script
from rislab.reports import scene_page as page_module
from rislab.reports.scene_page import PAGE_MAP, SEPARATIONS, SNRS_DB, scene_page, write_page_of, write_scene_page
from tests.browser.chromium import OVERLAPS

SETTINGS = SceneSettings.of("classroom", covariance="truth")
LARGEST = 8e6  # bytes of the page with all its sliders
SCENE = "document.querySelector('.rislab-scene')"
CURVE = f"{SCENE}.querySelector('.range .marks > svg path:last-child')"  # of the exact covariance
# Pixels from the frame of the range cut down to the lowest point of that curve.
BELOW = f"() => {CURVE}?.getBBox().y + {CURVE}?.getBBox().height - {CURVE}?.ownerSVGElement.viewBox.baseVal.height"
# A scene whose kernel, played here, refuses every separation, and moves the sources.
PLAYED = """({ script, content, groups, look }) => {
  (0, eval)(`${script}; globalThis.rislabScene = rislabScene;`);
  const send = ({ separation, ...places }, coarse, answers) => setTimeout(() => {
    for (const [name, place] of Object.entries(places)) content.places[Number(name.slice(5))] = place;
    scene.show({ ...content, answers, refused: separation ? { separation: [separation, "not allowed"] } : {} });
  }, 20);
  const scene = rislabScene(document.body.appendChild(document.createElement("div")),
    { groups, look, dark: () => false, send });
  scene.show(content);
}"""
PLACES = f"[...{SCENE}.querySelectorAll('.plan .source')].map((one) => one.ariaLabel.split(';')[0]).join()"
MAP = f"{SCENE}.querySelector('canvas').source"
# How high all of it is; the largest part of the width, in any row of maps, right of the last map; how wide a map is.
LAYOUT = """() => {
  const root = document.querySelector(".rislab-scene"), box = root.getBoundingClientRect();
  const maps = [...root.querySelectorAll(".map")].map((one) => one.querySelector("svg").getBoundingClientRect());
  const right = Math.max(...maps.map((one) => one.right));
  return { high: box.height, beside: (box.right - right) / box.width, across: maps[0].width };
}"""
LAB = 120  # pixels of menus, tabs and bars of JupyterLab above and below a notebook


@pytest.mark.process
def test_a_page_shows_every_position_of_its_sliders_without_a_network(browser: Any, tmp_path: Path) -> None:
    path = write_scene_page(tmp_path / "scene.html", SETTINGS, snrs_db=(0.0, 20.0), separations=(5.0, 30.0))
    assert path.stat().st_size * len(SNRS_DB) * len(SEPARATIONS) / 4 < LARGEST
    exact = SETTINGS.changed(covariance="sample", snr_db=20.0)
    wanted = [
        scene_content({"sample": SceneExplorer().spectra(place_apart(exact, degrees), PAGE_MAP)}, cut_points=80)[
            "maps"
        ][0]
        for degrees in (30.0, 5.0)
    ]
    for width, theme in ((1280, "light"), (420, "dark")):
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=theme)
        context.set_offline(True)
        page, asked, errors = context.new_page(), [], []
        page.on("request", lambda request, asked=asked: asked.append(request.url))
        page.on("pageerror", lambda error, errors=errors: errors.append(str(error)))
        page.goto(path.as_uri())
        page.wait_for_function(f"{SCENE}?.dataset.state === 'complete'")
        assert page.evaluate(f"{SCENE}.classList.contains('dark')") is (theme == "dark")
        slider = page.get_by_label("SNR in dB")
        slider.focus()
        page.keyboard.press("ArrowRight")
        for data in wanted:
            page.wait_for_function(f"{MAP} === {data['data']!r}")
            page.get_by_label("separation 1–2 in °").focus()
            page.keyboard.press("ArrowLeft")
        assert slider.get_attribute("aria-valuetext") == "20 dB"
        page.get_by_role("button", name="play: sweep SNR").click()
        page.wait_for_function(f"{MAP} !== {wanted[1]['data']!r}")
        page.get_by_role("button", name="play: sweep SNR").click()
        if width > 420:  # the table scrolls in a narrow window
            assert page.evaluate(f"({OVERLAPS})({SCENE})") == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        # The frame is as deep as the flattest curve: others leave it, and do not run along its border.
        page.get_by_label("table of").select_option("sample")
        page.wait_for_function(f"({BELOW})() > 50")
        assert page.evaluate(f"getComputedStyle({CURVE}.ownerSVGElement).overflow") == "hidden"
        assert (asked, errors) == ([path.as_uri()], [])
        context.close()


@pytest.mark.parametrize(("first", "second", "stops"), [(8.7, 17.23, [2.0, 8.5]), (57.0, 49.0, [2.0, 8.0])])
def test_a_page_opens_on_the_scene_as_it_is(
    first: float, second: float, stops: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It opened with sources 1 and 2 at 30° and the nearest SNR, and an error near the edge of the field of view."""
    monkeypatch.setattr(page_module, "SNRS_DB", (0.0, 20.0))
    monkeypatch.setattr(page_module, "SEPARATIONS", (2.0, 12.0, 30.0) if first > second else (2.0, 8.0))
    settings = SETTINGS.changed(places=((first, -3.0, 1.5), (second, 9.0, 2.0)), snr_db=7.0)
    page = scene_page(settings)
    data = json.loads(re.findall(r'<script type="application/json">(.*?)</script>', page)[0])
    assert data["separation"] == stops and data["snr_db"] == [7.0, 20.0]
    place = data["snr_db"].index(data["values"]["snr_db"]), stops.index(data["values"]["separation"])
    shown = {**data["shared"], **data["contents"][place[0]][place[1]]}
    views = {kind: SceneExplorer().spectra(settings.changed(covariance=kind), PAGE_MAP) for kind in ("sample", "truth")}
    wanted = scene_content(views, cut_points=80)
    assert [one["data"] for one in shown["maps"] if one["name"] in views] == [one["data"] for one in wanted["maps"]]


def test_a_scene_of_one_source_has_no_separation(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="separation needs two sources"):
        scene_page(SETTINGS.changed(places=SETTINGS.places[:1]))
    assert write_page_of(["page.html", "unknown"]) == 2 and "unknown" in capsys.readouterr().err


def test_a_sweep_that_is_refused_ends_with_its_sentence(browser: Any) -> None:
    drawn = scene_content({"truth": SceneExplorer().spectra(SETTINGS, PAGE_MAP)})
    values = {"separation": 45.0, "covariance": "truth", "chosen": 1}
    separation = [one for one in control_groups(SETTINGS, ("truth",), ())[0]["controls"] if one["name"] == "separation"]
    page = browser.new_page()
    page.evaluate(
        PLAYED,
        {
            "script": scene_script(),
            "content": {**drawn, "values": values, "answers": 0, "state": "complete"},
            "groups": [{"title": "Scene", "controls": separation}],
            "look": scene_look(),
        },
    )
    play = page.get_by_role("button", name="play: sweep separation")
    play.click()
    page.wait_for_function("document.querySelector('button[aria-pressed]').ariaPressed === 'false'")
    page.locator(".refusal:visible", has_text="not allowed").wait_for()
    page.close()


def test_a_source_that_was_moved_is_put_back_by_a_button_and_by_a_key(browser: Any) -> None:
    drawn = scene_content({"truth": SceneExplorer().spectra(SETTINGS, PAGE_MAP)})
    content = {**drawn, "answers": 0, "state": "complete", "values": {"covariance": "truth", "chosen": 1}}
    page = browser.new_page(viewport={"width": 1160, "height": 800})
    page.add_style_tag(content=scene_css())
    page.evaluate(PLAYED, {"script": scene_script(), "content": content, "groups": [], "look": scene_look()})
    page.wait_for_function(f"{SCENE}?.dataset.state === 'complete'")
    undo, high = page.get_by_role("button", name="undo the last move of a source"), page.evaluate(LAYOUT)["high"]
    places = [page.evaluate(PLACES)]
    assert not undo.is_visible()
    ring = page.locator(".plan .source .ring").first.bounding_box()
    page.mouse.move(ring["x"] + ring["width"] / 2, ring["y"] + ring["height"] / 2)
    page.mouse.down()
    page.mouse.move(ring["x"] + 40, ring["y"] + 30, steps=4)
    page.mouse.up()
    page.wait_for_function(f"{PLACES} !== {places[0]!r}")
    places.append(page.evaluate(PLACES))
    page.locator(".plan .source").nth(1).focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function(f"{PLACES} !== {places[1]!r}")
    assert page.evaluate(LAYOUT)["high"] == high and page.evaluate(f"({OVERLAPS})({SCENE})") == []
    undo.click()
    page.wait_for_function(f"{PLACES} === {places[1]!r}")
    page.locator(".plan .source").first.focus()
    page.keyboard.press("Control+z")
    page.wait_for_function(f"{PLACES} === {places[0]!r}")
    undo.wait_for(state="hidden")
    page.keyboard.press("Control+z")
    assert page.evaluate(PLACES) == places[0]
    page.close()


@pytest.mark.parametrize(("width", "height"), [(1160, 800), (1800, 1080), (2400, 1300)])
def test_maps_fill_the_width_and_all_of_it_fits_on_one_screen(browser: Any, width: int, height: int) -> None:
    """Of JupyterLab in a window of 1280, 1920 and 2560 pixels, whose margins take the rest of the width."""
    spectra = SceneExplorer().spectra(SETTINGS, PAGE_MAP)
    drawn, wide = scene_content({"truth": spectra}), {}
    page = browser.new_page(viewport={"width": width, "height": height})
    for count in (1, 2, 4, 6):
        maps = [{**drawn["maps"][0], "name": f"{number}"} for number in range(count)]
        content = {**drawn, "maps": maps, "answers": 0, "state": "complete"}
        content["values"] = {"separation": 45.0, "covariance": "0", "chosen": 1}
        page.goto("about:blank")
        page.add_style_tag(content=scene_css())
        groups = control_groups(SETTINGS, ("truth", "sample", "sparse", "posterior", "learned", "blend"), ())
        page.evaluate(PLAYED, {"script": scene_script(), "content": content, "groups": groups, "look": scene_look()})
        page.wait_for_function(f"{SCENE}?.dataset.state === 'complete'")
        layout = page.evaluate(LAYOUT)
        assert layout["high"] <= height - LAB, count
        assert page.evaluate(f"({OVERLAPS})({SCENE})") == []
        wide[count] = layout
    # No strip beside the four that are shown first is empty, but for margins; fewer are no smaller, more no larger.
    assert wide[4]["beside"] < 0.02
    assert wide[1]["across"] >= wide[2]["across"] >= wide[4]["across"] >= wide[6]["across"]
    page.close()
