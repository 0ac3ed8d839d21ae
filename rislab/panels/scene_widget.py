"""The scene with its maps and knobs in a page, drawn by plots/static/scene.js: canvas and SVG, no plotly, no WebGL."""

from __future__ import annotations

from typing import Any

import traitlets

from rislab.panels.plot_widget import STATIC, Drawing, DrawnWidget
from rislab.plots.scene_content import scene_css, scene_look, scene_script


class SceneWidget(DrawnWidget):
    """Knobs, drawn scene, maps, range cut and table in one widget.

    A change by the user is an event "change": `values` by control, as far as they are not answered yet; `coarse` while
    the pointer moves; `request`, a number that a later figure returns as its `answers`.

    Args:
        content: what to show first, as scene_content() with values, refused, state and answers.
        groups: controls by group, see rislab.panels.scene_controls.
        parts: parts of the display that are left out, by name, each False.
    """

    _esm = scene_script() + (STATIC / "scene_live.js").read_text(encoding="utf-8")
    css = traitlets.Unicode().tag(sync=True)

    def __init__(self, content: dict[str, Any], groups: list[dict[str, Any]], parts: dict[str, bool]) -> None:
        super().__init__(content, {}, groups=groups, parts=parts, look=scene_look())
        self.css = scene_css()

    def encode(self, figure: Drawing, number: int) -> dict[str, Any]:
        return {**figure, "number": number}
