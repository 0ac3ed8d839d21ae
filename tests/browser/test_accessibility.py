"""Pages for everybody: contrast of every text in both themes, names for every figure, and all of it by keyboard."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import IPython.display
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from rislab.faults.catalogue import find_fault
from rislab.panels.api import is_live
from rislab.plots.diff import Diff
from rislab.plots.style import ERROR_COLOUR, PAGES
from rislab.reports import gallery, html_export, sweep, sweep_page

pytestmark = pytest.mark.process
CELLS = [
    new_markdown_cell(
        "# A page\n\nText with `code`, a [link](https://example.org) and $x^2$.\n\n## Part\n\n* one\n* two"
    ),
    new_code_cell('level: int = 2  # of the page\nword: str = "a"', metadata={"tags": ["parameters"]}),
    new_code_cell(
        "import plotly.graph_objects as go\nfrom rislab.plots.style import template\n"
        "from rislab.reports.measured import Measured\n"
        "go.Figure(go.Scatter(y=[1, level]), layout={'title': {'text': 'A curve'}, 'template': template()})"
    ),
    new_code_cell("display(Measured({'level': level}))\nprint('NMSE', level)\nassert level < 3, 'too high'"),
]
# Of every text that is seen: its colour, and the first colour behind it that is not transparent.
TEXTS = """() => {
  const opaque = (node) => {
    for (; node; node = node.parentElement) {
      const colour = getComputedStyle(node).backgroundColor;
      if (!colour.match(/rgba\\(.*, 0\\)/)) return colour;
    }
    return getComputedStyle(document.documentElement).colorScheme.includes("dark") &&
      matchMedia("(prefers-color-scheme: dark)").matches ? "rgb(18, 18, 18)" : "rgb(255, 255, 255)";
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), found = [];
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement, text = walker.currentNode.data.trim();
    if (!text || ["SCRIPT", "STYLE", "NOSCRIPT"].includes(node.tagName) || node.closest("svg, math")) continue;
    if (!node.checkVisibility()) continue;
    const style = getComputedStyle(node);
    found.push([text.slice(0, 40), style.color, opaque(node), parseFloat(style.fontSize)]);
  }
  return found;
}"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("pages")
    (root / "notebooks").mkdir()
    (root / "reports").mkdir()
    nbformat.write(new_notebook(cells=CELLS), root / "notebooks" / "01_page.ipynb")
    (root / "reports" / "page.yaml").write_text("notebook: page\ntitle: Is it low?\n")
    (root / "reports" / "high.yaml").write_text("notebook: page\ntitle: Is it high?\nparameters: {level: 5}\n")
    sets = gallery.named_sets(root / "notebooks")
    made = {report.name: report.html for report in gallery.build_gallery(sets, root / "out", progress=False)}
    chosen = gallery.find_set("page", root / "notebooks")
    axes = sweep.parse_grid(chosen, ["word=a,b"])
    cells = sweep.sweep_cells(chosen, axes, {})
    ended = {one.name: one for one in sweep.run_sweep(chosen, cells, root / "sweep", workers=1)}
    page = sweep_page.write_sweep_page(chosen, axes, cells, ended, root / "sweep", figure=1, seconds=1.0)
    return {**made, "index": root / "out" / html_export.INDEX, "sweep": page}


def luminance(colour: str) -> float:
    """WCAG 2.2, relative luminance."""
    parts = [float(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_warning_in_a_panel_can_be_read_in_both_themes(browser: Any, theme: str) -> None:
    view = browser.new_page(color_scheme=theme)
    view.set_content(
        f"<style>:root {{ color-scheme: light dark }}</style><p style='color:{ERROR_COLOUR}'>no effect</p>"
    )
    mixed = view.evaluate("getComputedStyle(document.querySelector('p')).color")
    parts = [round(255 * float(part)) for part in mixed.removeprefix("color(srgb ").rstrip(")").split()]
    view.close()
    # JupyterLab's darkest and brightest ground.
    assert (
        contrast(
            f"rgb({parts[0]}, {parts[1]}, {parts[2]})", "rgb(17, 17, 17)" if theme == "dark" else "rgb(255, 255, 255)"
        )
        > 4.5
    )


def test_a_plain_figure_is_dark_when_the_output_of_the_panel_is_cleared(browser: Any, monkeypatch: Any) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(IPython, "get_ipython", object)
    monkeypatch.setattr(IPython.display, "display", shown.append)
    monkeypatch.delenv("RISLAB_LIVE", raising=False)
    assert is_live()
    figure = (
        "<style>#own .modebar-group { background: rgba(255, 255, 255, 0.5) }</style>"
        "<div class='js-plotly-plot' id='own'>"
        "<svg style='background: rgb(255, 255, 255)'></svg>"
        "<div class='modebar'><div class='modebar-group'></div></div></div>"
    )
    view = browser.new_page()
    view.set_content(f"<body data-jp-theme-light='false'><div id='cell'>{shown[0].data}</div>{figure}</body>")
    view.evaluate("document.getElementById('cell').remove()")
    for part, ground in (("svg", "rgb(17, 17, 17)"), (".modebar-group", "rgba(0, 0, 0, 0)")):
        assert view.evaluate(f"getComputedStyle(document.querySelector('{part}')).backgroundColor") == ground
    # A saved picture that was loaded outside of the page, as JupyterLab does after a reload, is drawn anew.
    dot = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="
    view.evaluate(
        """async (src) => {
          const image = Object.assign(new Image(), { className: "plot-img", src });
          await image.decode();
          image.addEventListener("mouseenter", () => { window.drawn = true; });
          document.body.append(image);
        }""",
        dot,
    )
    view.wait_for_function("window.drawn")
    # The locked choice of a prediction is as dark or light as its text.
    panel = (
        "<div class='rislab-panel' style='--jp-ui-font-color1: rgb(1, 2, 3)'><input type=radio checked disabled></div>"
    )
    view.evaluate("(panel) => document.body.insertAdjacentHTML('beforeend', panel)", panel)
    style = "getComputedStyle(document.querySelector('.rislab-panel input'))"
    choice = view.evaluate(f"(({{ opacity, borderTopColor }}) => [opacity, borderTopColor])({style})")
    assert choice == ["1", "rgb(1, 2, 3)"]
    arrow = view.evaluate(
        """() => {
          const list = document.querySelector(".rislab-panel").appendChild(document.createElement("select"));
          list.style.backgroundImage = "var(--jp-widgets-dropdown-arrow)";
          return getComputedStyle(list).backgroundImage;
        }"""
    )
    assert f"fill='%23{PAGES['dark']['text'][1:]}'" in arrow
    # A figure that needs more width than its cell has is drawn anew, and scrolls: its numbers lay upon each other.
    wide = view.evaluate(
        """async () => {
          document.body.insertAdjacentHTML("beforeend", "<p style='width: 500px'></p>");
          const cell = document.body.lastChild, plot = document.createElement("div");
          plot.className = "jp-RenderedPlotly js-plotly-plot";
          plot.layout = { meta: { least: 780 } };
          plot.textContent = "drawn";
          cell.append(plot);
          const drawn = new Promise((done) => { globalThis.rislabPlotly = { Plots: { resize: done } }; });
          return [(await drawn).clientWidth, cell.clientWidth, cell.scrollWidth, getComputedStyle(cell).overflowX];
        }"""
    )
    assert wide == [780, 500, 780, "auto"]
    view.close()


def test_a_diff_breaks_no_line_and_scrolls_by_itself(browser: Any) -> None:
    """Lines of code that went on in the next line could not be told from lines of their own."""
    fault = find_fault("validation of the averaged weights only")
    diff = Diff(fault)._repr_html_()
    view = browser.new_page(viewport={"width": 640, "height": 800})
    # As it stands in a cell, and beside something else.
    view.set_content(
        f"{diff}<div style='display:flex'><div style='flex:3'>{diff}</div><div style='flex:2'>3.14</div></div>"
    )
    lines = view.evaluate(
        """() => [...document.querySelectorAll("pre")].map((box) => {
          const range = document.createRange();
          range.selectNodeContents(box);
          return Math.round(range.getBoundingClientRect().height / parseFloat(getComputedStyle(box).lineHeight));
        })"""
    )
    assert lines == 2 * [len(fault.diff().strip().splitlines())]
    assert view.evaluate("document.documentElement.scrollWidth") <= 640
    view.keyboard.press("Tab")
    for _ in range(4):
        view.keyboard.press("ArrowRight")
    view.wait_for_function(
        "document.activeElement.matches('pre[aria-label]') && document.activeElement.scrollLeft > 20"
    )
    view.close()


def test_pages_can_be_read_heard_and_walked_through(pages: dict[str, Path], browser: Any) -> None:
    view = browser.new_page(viewport={"width": 1280, "height": 900})
    for name, path in pages.items():
        view.goto(path.as_uri())
        view.wait_for_selector(".js-plotly-plot .main-svg")
        view.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        wanted = view.locator("a[href]:visible, summary:visible").count()
        for theme in ("light", "dark"):
            view.emulate_media(color_scheme=theme)
            texts = view.evaluate(TEXTS)
            assert len(texts) > 10
            # 4.5:1 for text, 3:1 from 24 pixels on.
            poor = [text for text in texts if contrast(text[1], text[2]) < (3.0 if text[3] >= 24 else 4.5)]
            assert poor == [], (name, theme, poor)
            reached = walk(view)
            assert len(reached) >= wanted > 0, (name, theme, reached)
            assert all(visible for _, visible in reached), (name, theme, reached)
        assert view.evaluate("document.documentElement.lang") == "en" and view.title()
        nameless = "figure:not([aria-label]), img:not([alt]), svg[role=img]:not([aria-label])"
        assert view.locator(nameless).count() == 0
        levels = view.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].map(node => +node.tagName[1])")
        assert levels[0] == 1 and levels.count(1) == 1
        assert all(after <= before + 1 for before, after in itertools.pairwise(levels)), (name, levels)
    view.close()


def walk(view: Any) -> list[tuple[str, bool]]:
    """What the Tab key comes to, and whether it is seen to be there."""
    script = """() => {
      const node = document.activeElement;
      if (!node || node === document.body) return null;
      const style = getComputedStyle(node);
      const seen = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0;
      return [node.tagName + " " + node.textContent.trim().slice(0, 30), seen || style.boxShadow !== "none"];
    }"""
    view.evaluate("document.activeElement.blur()")
    found = []
    for _ in range(200):
        view.keyboard.press("Tab")
        here = view.evaluate(script)
        if here is None:
            break
        found.append(tuple(here))
    return found
