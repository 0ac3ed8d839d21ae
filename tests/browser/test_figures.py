"""Every figure as the browser paints it: no text upon text or data, none cut off, ticks with room, contrast."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest

from rislab import plots
from rislab.plots.style import template
from rislab.reports.html_export import figure_html, html_page
from tests.browser.figures import change_theme, complaints, figure_defects
from tests.plots.gallery import figures

pytestmark = pytest.mark.process
# 829 pixels are what JupyterLab leaves of a window of 1280 beside its list of files.
WIDTHS = (829, 1280, 1920)
# What JupyterLab does with a figure when its window is made narrow, where a legend takes more rows, and wide again.
NARROW_AND_WIDE = """async () => {
  for (const plot of document.querySelectorAll(".js-plotly-plot")) {
    plot.style.height = `${plot._fullLayout.height}px`;
    for (const width of ["330px", ""]) {
      plot.style.width = width;
      await Plotly.Plots.resize(plot);
    }
  }
}"""
WIDE = "main { max-width: none; padding: 0 } figure { margin: 0 }"


def page_of(named: Iterable[tuple[str, go.Figure]], path: Path) -> Path:
    """All figures below each other, as wide as the window."""
    body = "".join(f"<h2>{name}</h2>{figure_html(json.loads(figure.to_json()))}" for name, figure in named)
    path.write_text(html_page("Figures", body, style=WIDE))
    return path


def shown(browser: Any, path: Path, width: int = 1280) -> Any:
    """The page of a file with all its figures drawn."""
    page = browser.new_context(viewport={"width": width, "height": 3600}, color_scheme="light").new_page()
    page.goto(path.as_uri())
    count = page.locator("figure[data-plotly]").count()
    page.wait_for_function(
        "count => document.querySelectorAll('.js-plotly-plot .main-svg .infolayer').length >= count", arg=count
    )
    return page


@pytest.fixture(scope="module")
def drawn() -> list[tuple[str, go.Figure]]:
    return list(figures())


@pytest.fixture(scope="module")
def gallery(drawn: list[tuple[str, go.Figure]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return page_of(drawn, tmp_path_factory.mktemp("figures") / "gallery.html")


def test_every_function_that_draws_is_in_the_gallery(drawn: list[tuple[str, go.Figure]]) -> None:
    import importlib
    import inspect
    import pkgutil

    modules = [importlib.import_module(f"rislab.plots.{one.name}") for one in pkgutil.iter_modules(plots.__path__)]
    draw = {
        name
        for module in modules
        for name, one in inspect.getmembers(module, inspect.isfunction)
        if name[0] != "_" and str(one.__annotations__.get("return")) == "go.Figure"
    }
    # tuning.losses reads run folders; its chart is that of a search in a report. figure_of() makes all figures.
    assert draw - {name.partition(" ")[0].rstrip(",") for name, _ in drawn} == {"losses", "figure_of"}


@pytest.mark.parametrize("width", WIDTHS)
def test_figures_have_no_defect(browser: Any, gallery: Path, width: int) -> None:
    page = shown(browser, gallery, width)
    defects = {}
    # A button that would upload the figure.
    assert page.locator(".modebar-btn").count() and not page.locator(".modebar-btn[data-title^=Share]").count()
    for theme in ("light", "dark"):
        change_theme(page, theme)
        if theme == "dark":
            page.evaluate(NARROW_AND_WIDE)
        defects |= {(theme, figure): wrong for figure, wrong in figure_defects(page).items()}
    said = complaints(page)
    page.context.close()
    assert defects == {} and said == []


DEFECTS = (
    "text upon text",
    "text upon data",
    "text cut off",
    "text under the buttons",
    "ticks without room",
    "tick with too many digits",
    "tick of a broken power",
    "tick turned for want of room",
    "two ticks of one text",
    "legend of more than six",
    "legend upon the axes",
    "text without contrast",
    "mark without contrast",
)


def spoiled() -> dict[str, go.Figure]:
    """A figure for each defect, which shows it."""
    x = list(range(50))
    curve = {"x": x, "y": x, "mode": "lines", "line": {"color": "#0072B2"}, "name": "a curve"}
    made = {name: go.Figure(go.Scatter(curve), layout={"template": template(), "height": 300}) for name in DEFECTS}
    for text in ("one text", "another"):
        made["text upon text"].add_annotation(text=text, x=0.2, y=0.8, xref="paper", yref="paper")
    made["text upon data"].add_annotation(text="upon the curve", x=25, y=25)
    made["text cut off"].add_annotation(
        text="far to the right, and longer than the margin", x=1, xanchor="left", y=0.5, xref="paper", yref="paper"
    )
    made["text under the buttons"].add_annotation(
        text="a title of its own", x=1, xanchor="right", y=1.35, xref="paper", yref="paper"
    )
    made["ticks without room"].update_xaxes(tickvals=x, tickangle=0, ticktext=[f"{one}.000" for one in x])
    made["tick with too many digits"].update_yaxes(tickvals=[1, 20], ticktext=["0.9999999999999901", "20"])
    made["tick of a broken power"].update_traces(x=[200 * one for one in x])
    made["tick turned for want of room"].update_xaxes(tickvals=x, ticktext=[f"number {one}" for one in x])
    made["two ticks of one text"].update_xaxes(range=[0, 2], tickformat="d", dtick=0.5)
    for place in range(7):
        made["legend of more than six"].add_scatter(
            x=[0, 1], y=[place, place], name=f"run {place}", line_color="#0072B2"
        )
    made["legend upon the axes"].update_layout(showlegend=True, legend={"x": 0.1, "y": 0.9, "xref": "paper"})
    made["text without contrast"].add_annotation(
        text="pale", x=0.2, y=0.8, xref="paper", yref="paper", font_color="#999999"
    )
    made["mark without contrast"].add_scatter(x=x, y=x[::-1], mode="lines", line_color="#E69F00", showlegend=False)
    # Plotly cannot choose the colour of a pattern upon several, and says so.
    made["mark without contrast"].add_bar(x=[1, 2], y=[9, 9], marker={"color": ["red", "blue"], "pattern_shape": "/"})
    made["mark without contrast"].update_traces(marker_pattern_fillmode="overlay", selector={"type": "bar"})
    return made


def test_each_defect_is_noticed_and_by_its_name(browser: Any, tmp_path: Path) -> None:
    made = spoiled()
    page = shown(browser, page_of(made.items(), tmp_path / "spoiled.html"))
    noticed = figure_defects(page)
    kinds = [{sentence.partition(":")[0] for sentence in sentences} for sentences in noticed.values()]
    assert [name for name, each in zip(made, kinds, strict=True) if name not in each] == []
    assert {one.partition(": Array")[0] for one in complaints(page)} == {"WARN: Invalid color specifier"}
    page.context.close()
