"""A report in a real browser: offline, interactive, quiet, and no wider than the window."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from rislab.checkup.html_table import html_table
from rislab.faults.catalogue import find_fault
from rislab.plots.diff import Diff
from rislab.reports import html_export
from rislab.reports.summary import Summary

pytestmark = pytest.mark.process


def displayed(data: dict[str, Any]) -> Any:
    return new_code_cell("show()", outputs=[new_output("display_data", data)])


def figures() -> list[Any]:
    import plotly.graph_objects as go

    curve = go.Figure(go.Scatter(x=[0, 1, 2], y=[3, 1, 2], mode="markers", marker={"size": 24}), {"title": "Loss"})
    map_ = go.Figure(go.Heatmap(z=[[1, 2], [3, 4]]), {"title": "Spectrum", "paper_bgcolor": "white"})
    return [displayed({html_export.PLOTLY: figure.to_plotly_json()}) for figure in (curve, map_)]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    wide = "x + " * 200
    cells = [
        new_markdown_cell(
            f"# Report\n\nText with $\\sqrt{{x}}$ and `{'code' * 60}`.\n\n$${wide} x$$\n\n```\n{wide}\n```"
        ),
        *figures(),
        new_code_cell(wide + "x", outputs=[new_output("stream", name="stdout", text=wide)]),
        displayed({"text/html": f"<table><tr>{'<td>12345678</td>' * 60}</tr></table>"}),
    ]
    path = tmp_path_factory.mktemp("report") / "report.html"
    summary = Summary(
        "r" * 400, "q" * 400, "failed", "e" * 400, "cell", (("n" * 400, 1.0, "cell"),), 0, (("p" * 400, 1, 2),)
    )
    long = {"versions": "v" * 400, "commit": "a b " * 100}
    html_export.export_html(new_notebook(cells=cells), path, title="Report", header=long, summary=summary)
    return path


class Visit:
    """One page in a window of its own without network; notes requests, console messages and errors."""

    def __init__(self, browser: Any, path: Path, *, width: int = 1280, scheme: str = "light") -> None:
        viewport = {"width": width, "height": 900}
        self.context = browser.new_context(viewport=viewport, color_scheme=scheme)
        self.requests: list[str] = []
        self.messages: list[str] = []
        self.context.route(lambda url: not url.startswith("file:"), self._refuse)
        self.context.set_offline(True)
        self.page = self.context.new_page()
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.goto(path.as_uri())

    def _refuse(self, route: Any) -> None:
        self.requests.append(route.request.url)
        route.abort()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()

    def colour(self, selector: str, style: str) -> Any:
        script = "([selector, style]) => getComputedStyle(document.querySelector(selector))[style]"
        return self.page.evaluate(script, [selector, style])


@pytest.fixture(scope="module")
def visit(browser: Any, page: Path) -> Iterator[Visit]:
    """The page once, for tests that change nothing of it for each other."""
    with Visit(browser, page) as visit:
        yield visit


def test_every_figure_is_drawn_quietly_and_offline(visit: Visit) -> None:
    visit.page.wait_for_function("document.querySelectorAll('.js-plotly-plot .main-svg').length >= 2")
    visit.page.wait_for_load_state("networkidle")
    assert visit.page.locator(".js-plotly-plot").count() == 2
    assert visit.page.locator("math").count() == 2
    assert visit.requests == []
    assert visit.messages == []


def test_code_unfolds_from_the_keyboard(visit: Visit) -> None:
    first = visit.page.locator("details").first
    assert first.get_attribute("open") is None
    visit.page.locator("summary").first.focus()
    visit.page.keyboard.press("Enter")
    assert first.get_attribute("open") is not None
    visit.page.keyboard.press("Enter")
    assert first.get_attribute("open") is None


def test_hovering_a_point_shows_its_value(visit: Visit) -> None:
    point = visit.page.locator(".scatterlayer .point").nth(1)
    point.scroll_into_view_if_needed()
    box = point.bounding_box()
    assert box is not None
    visit.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    label = visit.page.locator(".hoverlayer .hovertext")
    label.wait_for()
    assert "1" in label.first.text_content()


def fits(visit: Visit, width: int) -> None:
    visit.page.locator(".js-plotly-plot .main-svg").first.wait_for()
    visit.page.locator("summary").last.click()
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
    plot = visit.page.locator(".js-plotly-plot .main-svg").first.bounding_box()
    assert plot is not None and 900 < plot["width"] <= width


def test_a_page_fits_its_window(visit: Visit) -> None:
    fits(visit, 1280)


def test_a_page_fits_a_wide_window(browser: Any, page: Path) -> None:
    with Visit(browser, page, width=1920) as wide:
        fits(wide, 1920)


def test_a_figure_keeps_its_width_in_a_narrow_window_and_scrolls(browser: Any, page: Path) -> None:
    with Visit(browser, page, width=420) as narrow:
        narrow.page.locator(".js-plotly-plot .main-svg").first.wait_for()
        plot = narrow.page.locator(".js-plotly-plot .main-svg").first.bounding_box()
        # Those for which tests/browser/test_figures.py finds no text upon another.
        assert plot is not None and plot["width"] >= 900
        assert narrow.page.evaluate("document.documentElement.scrollWidth") <= 420


def test_figures_follow_the_colour_scheme(browser: Any, page: Path) -> None:
    with Visit(browser, page, scheme="dark") as visit:
        visit.page.locator(".gtitle").first.wait_for()
        dark = visit.colour("body", "backgroundColor"), visit.colour("body", "color")
        assert visit.colour(".gtitle", "fill") == dark[1]
        assert visit.colour("figure:has(.heatmaplayer) .main-svg", "backgroundColor") == "rgba(0, 0, 0, 0)"
        visit.page.emulate_media(color_scheme="light")
        light = visit.colour("body", "backgroundColor"), visit.colour("body", "color")
        assert light[0] != dark[0] and light[1] != dark[1]
        visit.page.wait_for_function(
            "ink => getComputedStyle(document.querySelector('.gtitle')).fill == ink", arg=light[1]
        )


def test_nothing_that_a_notebook_shows_can_reach_the_network(browser: Any, tmp_path: Path) -> None:
    address = "http://127.0.0.1:9/"
    markup = (
        f'<img src="{address}a.png"><script src="{address}b.js"></script><link rel="stylesheet" href="{address}c.css">'
        f'<iframe src="{address}d"></iframe><script>fetch("{address}e").catch(() => 0); '
        f'document.title = "ran"</script>'
        f'<style>@import "{address}f.css"; body {{ background: url({address}g) }}</style>'
    )
    path = tmp_path / "hostile.html"
    cells = [new_markdown_cell(f"![remote]({address}h.png)\n\n{markup}"), displayed({"text/html": markup})]
    html_export.export_html(new_notebook(cells=cells), path, title="Hostile", header={})
    with Visit(browser, path) as visit:
        visit.page.wait_for_function("document.title == 'ran'")
        visit.page.wait_for_timeout(300)
        assert visit.requests == []


def test_tables_and_logs_break_no_word_on_paper(browser: Any, tmp_path: Path) -> None:
    texts = ("fault", "C9", "backward after the batch loop", "88 forwards in training mode at one line, and a backward")
    rest = (
        "<rislab/training/loop.py, edited, 086a610e>:75",
        "indent loss, backward and step",
        "faults",
        "loss detached",
    )
    head = ("severity", "code", "what", "numbers", "where", "how to fix", "read on", "may also be")
    table = html_table(head, [(*texts, *rest)], label="findings")
    log = "ok  fp64                    1 × 64 L2 0.0e+00 |α−1| 0.0e+00 replay 0.0e+00 underflow 0.0e+00 stuck 0.0e+00"
    text = "Call `rislab info`.\n\n| call | page |\n|---|---|\n| `rislab info` | [docs](https://example.org/) |"
    cells = [
        new_markdown_cell(text),
        displayed({"text/html": table}),
        new_code_cell("1", outputs=[new_output("stream", name="stdout", text=log)]),
        displayed({"text/html": Diff(find_fault("validation of the averaged weights only"))._repr_html_()}),
    ]
    path = tmp_path / "paper.html"
    html_export.export_html(new_notebook(cells=cells), path, title="Paper", header={})
    with Visit(browser, path, width=680) as visit:  # A4 without its margins
        visit.page.emulate_media(media="print")
        lines = visit.page.evaluate("""() => [...document.querySelectorAll("td, th, pre")].flatMap((cell) => {
          const walker = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT), found = [];
          for (let node; (node = walker.nextNode());) for (const { 0: word, index } of node.data.matchAll(/\\S+/g)) {
            const range = document.createRange();
            range.setStart(node, index);
            range.setEnd(node, index + word.length);
            found.push([word, new Set([...range.getClientRects()].map((one) => one.top)).size]);
          }
          return found;
        })""")
        assert len(lines) > 40 and [word for word, count in lines if count > 1] == []
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= 680
        # Nobody scrolls on paper.
        cut = (
            "[...document.querySelectorAll('pre')].filter(({ scrollWidth, clientWidth }) => scrollWidth > clientWidth)"
        )
        assert visit.page.evaluate(f"{cut}.length") == 0
        # Eight points are 10.67 pixels, and are read at arm's length.
        small = visit.page.evaluate("""() => [...document.querySelectorAll("main *")].flatMap((one) => ["", "::after"]
          .filter((part) => part ? getComputedStyle(one, part).content !== "none" : one.textContent.trim())
          .filter((part) => parseFloat(getComputedStyle(one, part || null).fontSize) < 10.6)
          .map((part) => one.outerHTML.slice(0, 80) + part))""")
        assert small == []
