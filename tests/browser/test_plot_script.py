"""The script of a live plot in a bare page, whose kernel is played: what nobody sees is not drawn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from plotly.offline import get_plotlyjs

from rislab.panels.plot_widget import AHEAD, STATIC

pytestmark = pytest.mark.process
PAGE = """<!doctype html>
<body style='margin:0'><div id='before'></div><div id='plot'></div><div style='height:3000px'></div></body>"""
# A model as a page has it, which knows nobody; show(n) is what a message of the kernel brings about.
PLAYED = """async (source) => {
  const figure = (number) => (
    { number, data: [{ y: [1, number] }], layout: { height: 440, title: { text: `${number}` } } });
  globalThis.rislabPlotly = Plotly;
  const calls = {}, attributes = { figure: figure(1), patch: {}, drawn: 0 };
  const state = {
    attributes, get: (name) => attributes[name], set: (values) => Object.assign(attributes, values),
    save_changes() { window.answers = (window.answers ?? 0) + 1; },
    on: (name, call) => { calls[name] = call; }, off() {},
  };
  const model = {
    get: (name) => ({ state: "IPY_MODEL_a", templates: { light: {}, dark: {} }, options: {} })[name],
    widget_manager: { get_model: async () => state },
  };
  window.show = (number) => { attributes.figure = figure(number); calls["change:figure"](); };
  window.drawn = () => attributes.drawn;
  window.take = (name, value) => { attributes[name] = value; calls[`change:${name}`](); };
  const address = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
  await (await import(address)).default.render({ model, el: document.querySelector("#plot") });
}"""
TITLE = "document.querySelector('.js-plotly-plot').layout.title.text"


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.set_content(PAGE)
    page.add_script_tag(content=get_plotlyjs())
    page.evaluate(PLAYED, (STATIC / "plot.js").read_text(encoding="utf-8"))
    page.wait_for_function("drawn() === 1")
    yield page
    page.close()


def send(page: Any, number: int) -> None:
    """A figure comes, and there is time to draw it."""
    page.evaluate("(number) => show(number)", number)
    page.wait_for_timeout(700)


@pytest.mark.parametrize(
    ("away", "back"),
    [
        ("scrollTo(0, 2000)", "scrollTo(0, 0)"),
        (
            "document.querySelector('#plot').style.cssText = 'height:0;overflow:hidden;margin-top:2000px'",
            "document.querySelector('#plot').style.cssText = ''",
        ),
        ("sight('hidden')", "sight('visible')"),
    ],
    ids=["scrolled away", "folded up", "in a hidden window"],
)
def test_a_plot_that_nobody_sees_is_drawn_when_it_comes_into_sight(page: Any, away: str, back: str) -> None:
    page.evaluate("""() => { window.sight = (state) => {
      Object.defineProperty(document, "visibilityState", { get: () => state, configurable: true });
      document.dispatchEvent(new Event("visibilitychange"));
    }; }""")
    send(page, 2)
    assert page.evaluate(TITLE) == "2"
    page.evaluate(away)
    page.wait_for_timeout(500)
    send(page, 3)
    send(page, 4)
    assert page.evaluate(TITLE) == "2"
    page.evaluate(back)
    page.wait_for_function(f"{TITLE} === '4'")
    send(page, 5)
    assert page.evaluate(TITLE) == "5"


def test_a_few_figures_have_one_answer(page: Any) -> None:
    # The first is answered, and the second, which says how long the first was drawn.
    answers = [1]
    for number in range(2, 3 + 2 * AHEAD):
        send(page, number)
        answers.append(page.evaluate("drawn()"))
        assert page.evaluate(TITLE) == f"{number}"
        # The kernel never waits for an answer that does not come.
        assert number - answers[-1] < AHEAD
    assert answers[1] == 2 and len(set(answers)) <= 2 + len(answers) / 3
    assert page.evaluate("window.answers") == len(set(answers))
    # A kernel that begins anew has its first figure answered.
    send(page, 1)
    assert page.evaluate("drawn()") == 1


def test_a_plot_keeps_its_height_when_the_window_is_resized(page: Any) -> None:
    # plotly.js gives it the height of its place from the second figure on, and that place had none.
    send(page, 2)
    for width in (1024, 1280, 1100):
        page.set_viewport_size({"width": width, "height": 768})
        page.wait_for_function(f"document.querySelector('.main-svg').getBoundingClientRect().width === {width}")
        box = page.locator(".js-plotly-plot").bounding_box()
        assert (box["width"], box["height"]) == (width, 440)


def test_where_points_alone_move_the_curves_alone_are_drawn_and_the_picture_is_the_same(page: Any) -> None:
    axes = {f"{side}axis": {"range": [0, 9]} for side in "xy"}
    curves = [
        {"type": "scatter", "mode": "lines+markers", "x": [1, 2], "y": [1, 2], "customdata": [1, 2]},
        {"type": "bar", "x": [6, 7], "y": [3, 4], "marker": {"color": ["red", "blue"]}},
        {"type": "scatter", "mode": "text", "x": [5], "y": [5], "text": ["label"]},
    ]
    figure = {
        "number": 2,
        "data": curves,
        "layout": {"height": 440, "title": {"text": "2"}, "showlegend": False, **axes},
    }
    page.evaluate("(figure) => take('figure', figure)", figure)
    page.wait_for_function(f"{TITLE} === '2'")
    page.wait_for_timeout(300)
    page.evaluate("""() => { window.whole = 0; window.part = 0;
      const plot = document.querySelector(".js-plotly-plot");
      plot.on("plotly_afterplot", () => { window.whole++; });
      plot.on("plotly_animated", () => { window.part++; }); }""")
    moved = {"0": {"set": {"x": [1, 2, 3], "y": [4, 2, 6], "customdata": [1, 2, 3]}}, "2": {"set": {"y": [8]}}}
    picture = "document.querySelector('.cartesianlayer').innerHTML"
    before = page.evaluate(picture)
    page.evaluate("(traces) => take('patch', { base: 2, number: 3, count: 3, traces })", moved)
    page.wait_for_function("window.part === 1")
    after = page.evaluate(picture)
    assert page.evaluate("window.whole") == 0 and after != before
    # A theme, a width, a title or the colour of a bar is drawn with all of the figure.
    page.evaluate("() => { document.body.dataset.jpThemeLight = 'true'; }")
    page.wait_for_function("window.whole === 1")
    assert page.evaluate(picture) == after
    for number, news in enumerate(
        ({"layout": {"set": {"title": {"text": "4"}}}}, {"traces": {"1": {"set": {"marker": {"color": "red"}}}}}), 4
    ):
        patch = {"base": number - 1, "number": number, "count": 3, "traces": {}, **news}
        page.evaluate("(patch) => take('patch', patch)", patch)
        page.wait_for_function(f"window.whole === {number - 2}")
    assert page.evaluate("window.part") == 1 and page.evaluate(TITLE) == "4"


def test_an_axis_without_a_range_of_its_own_follows_the_points_that_move(page: Any) -> None:
    """A trial of a search whose score had changed lay outside of the axes, and was not to be seen."""
    curves = [{"type": "scatter", "mode": "markers", "x": [0, 1], "y": [1.25, 1.26]}]
    figure = {
        "number": 2,
        "data": curves,
        "layout": {"height": 440, "xaxis": {"range": [-1, 9]}, "title": {"text": "2"}},
    }
    page.evaluate("(figure) => take('figure', figure)", figure)
    page.wait_for_function(f"{TITLE} === '2'")
    moved = {"0": {"set": {"y": [1.22, 1.26]}}}
    page.evaluate("(traces) => take('patch', { base: 2, number: 3, count: 1, traces })", moved)
    page.wait_for_function("document.querySelector('.js-plotly-plot').data[0].y[0] === 1.22")
    page.wait_for_timeout(300)
    low, high = page.evaluate("document.querySelector('.js-plotly-plot')._fullLayout.yaxis.range")
    assert low < 1.22 and high > 1.26


def test_a_figure_that_needs_more_width_than_the_window_has_scrolls_by_itself(page: Any) -> None:
    """The numbers of a table of 40 columns lay upon each other in a window of 1024 pixels."""
    layout = {"height": 440, "meta": {"least": 760}, "title": {"text": "2"}}
    page.evaluate("(figure) => take('figure', figure)", {"number": 2, "data": [{"y": [1, 2]}], "layout": layout})
    page.wait_for_function(f"{TITLE} === '2'")
    for width, drawn in ((1280, 1280), (575, 760), (900, 900)):
        page.set_viewport_size({"width": width, "height": 800})
        page.wait_for_function(f"document.querySelector('.main-svg').getBoundingClientRect().width === {drawn}")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        wide = page.evaluate(
            "(({ scrollWidth, clientWidth }) => [scrollWidth, clientWidth])(document.querySelector('#plot'))"
        )
        assert wide == [drawn, width]
