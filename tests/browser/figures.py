"""What is wrong with the figures of a page, measured in the browser that painted them; see figures.js."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

MEASURE = (Path(__file__).parent / "figures.js").read_text(encoding="utf-8")
WITHOUT_TEXTS = ".js-plotly-plot .main-svg text, .modebar { visibility: hidden !important }"

# Where each figure begins in a picture of the window, or null if a part of it is outside, or cut off by what holds it.
CORNERS = """(plots) => plots.map((plot) => {
  const { left, top, right, bottom } = plot.getBoundingClientRect();
  const holds = (box) => left >= box.left && top >= box.top && right <= box.right && bottom <= box.bottom;
  if (!holds({ left: 0, top: 0, right: innerWidth, bottom: innerHeight })) return null;
  for (let node = plot.parentElement; node !== document.body; node = node.parentElement)
    if (getComputedStyle(node).overflow !== "visible" && !holds(node.getBoundingClientRect())) return null;
  return [left, top];
})"""


def _image(page: Any, png: bytes) -> Any:
    """An image in the page, which can be painted from."""
    url = "data:image/png;base64," + base64.b64encode(png).decode()
    return page.evaluate_handle(
        """async (url) => {
          const image = Object.assign(new Image(), { src: url });
          await image.decode();
          return createImageBitmap(image);
        }""",
        url,
    )


def figure_defects(page: Any, figures: str = ".js-plotly-plot") -> dict[str, list[str]]:
    """Sentences on each figure that has a defect, by its number and title.

    Args:
        page: of Playwright, with all its figures drawn.
        figures: selector of the figures.
    """
    plots = {number: plot for number, plot in enumerate(page.locator(figures).all(), 1) if plot.is_visible()}
    # The texts of all are hidden once: each change of style lays out the whole page anew.
    hide = page.add_style_tag(content=WITHOUT_TEXTS)
    pictures: dict[int, list[Any]] = {}
    for number, plot in plots.items():
        if number in pictures:
            continue
        plot.evaluate("plot => plot.scrollIntoView()")
        corners = dict(enumerate(page.locator(figures).evaluate_all(CORNERS), 1))
        shot = _image(page, page.screenshot(animations="disabled"))
        pictures = {other: [shot, corners[other]] for other in plots if corners[other]} | pictures
        if number not in pictures:
            pictures[number] = [_image(page, plot.screenshot(animations="disabled")), [0, 0]]
    hide.evaluate("style => style.remove()")
    result = {}
    for number, plot in plots.items():
        wrong = plot.evaluate(f"(plot, [image, corner]) => ({MEASURE})(plot, image, corner)", pictures[number])
        if wrong:
            title = plot.evaluate("plot => plot._fullLayout.title?.text ?? ''")
            result[f"{number} {title[:50]}".strip()] = sorted(set(wrong))
    return result


def complaints(page: Any) -> list[str]:
    """What the console of a page holds of warnings and errors; plotly's own warnings come as traces."""
    said = [one.text for one in page.console_messages() if one.type in ("warning", "error", "trace", "assert")]
    return [*said, *map(str, page.page_errors())]


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
