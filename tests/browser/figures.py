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
    result = {}
    for number, plot in enumerate(page.locator(figures).all(), 1):
        if not plot.is_visible():
            continue
        hide = page.add_style_tag(content=WITHOUT_TEXTS)
        picture = "data:image/png;base64," + base64.b64encode(plot.screenshot(animations="disabled")).decode()
        hide.evaluate("style => style.remove()")
        wrong = plot.evaluate(f"(plot, picture) => ({MEASURE})(plot, picture)", picture)
        if wrong:
            title = plot.evaluate("plot => plot._fullLayout.title?.text ?? ''")
            result[f"{number} {title[:50]}".strip()] = sorted(set(wrong))
    return result
