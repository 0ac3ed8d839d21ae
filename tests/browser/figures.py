"""What is wrong with the figures of a page, measured in the browser that painted them; see figures.js."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

MEASURE = (Path(__file__).parent / "figures.js").read_text(encoding="utf-8")
WITHOUT_TEXTS = ".js-plotly-plot .main-svg text, .modebar { visibility: hidden !important }"


def figure_defects(page: Any, figures: str = ".js-plotly-plot") -> dict[str, list[str]]:
    """Sentences on each figure that has a defect, by its number and title.

    Args:
        page: of Playwright, with all its figures drawn.
        figures: selector of the figures.
    """
    plots = {number: plot for number, plot in enumerate(page.locator(figures).all(), 1) if plot.is_visible()}
    # The texts of all are hidden once: each change of style lays out the whole page anew.
    hide = page.add_style_tag(content=WITHOUT_TEXTS)
    pictures = {number: plot.screenshot(animations="disabled") for number, plot in plots.items()}
    hide.evaluate("style => style.remove()")
    result = {}
    for number, plot in plots.items():
        picture = "data:image/png;base64," + base64.b64encode(pictures[number]).decode()
        wrong = plot.evaluate(f"(plot, picture) => ({MEASURE})(plot, picture)", picture)
        if wrong:
            title = plot.evaluate("plot => plot._fullLayout.title?.text ?? ''")
            result[f"{number} {title[:50]}".strip()] = sorted(set(wrong))
    return result


def change_theme(page: Any, theme: str) -> None:
    """Show the page of a report in a theme, "light" or "dark", and wait until each figure is painted in its ink."""
    page.emulate_media(color_scheme=theme)
    page.wait_for_function(
        """theme => {
          const ink = getComputedStyle(document.documentElement).getPropertyValue("--ink").trim();
          return matchMedia(`(prefers-color-scheme: ${theme})`).matches &&
            [...document.querySelectorAll(".js-plotly-plot")].every((plot) => plot._fullLayout.font.color === ink);
        }""",
        arg=theme,
    )
    page.evaluate("() => new Promise((painted) => requestAnimationFrame(() => requestAnimationFrame(painted)))")
