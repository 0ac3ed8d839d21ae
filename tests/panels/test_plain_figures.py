"""A plain figure reaches the page of a kernel as plotly sends it, and brings no renderer of plotly with it."""

from __future__ import annotations

from typing import Any

import pytest
from jupyter_client.manager import start_new_kernel

SHOWN = """
import sys, numpy, plotly.graph_objects as go
from rislab.panels.plain_figures import show_figures_at_once
show_figures_at_once()
figure = go.Figure(go.Scatter(y=numpy.arange(3.0)), {"title": {"text": "a"}})
display(figure)
print([name for name in ("nbformat", "jsonschema", "plotly.io._renderers") if name in sys.modules])
figure
"""
SAME = "figure.show()\nfigure"
CHOSEN = "import plotly.io\nplotly.io.renderers.default = 'json'\nfigure"


@pytest.mark.process
def test_a_figure_is_shown_as_plotly_shows_it_without_its_renderers() -> None:
    manager, client = start_new_kernel()

    def run(code: str) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = []
        client.execute_interactive(code, timeout=300, output_hook=messages.append)
        assert [one["content"] for one in messages if one["msg_type"] == "error"] == []
        return [one["content"] for one in messages if one["msg_type"] in ("display_data", "execute_result", "stream")]

    try:
        first, imported, last = run(SHOWN)
        assert imported["text"] == "[]\n"
        theirs, later = run(SAME)
        assert list(first["data"]) == ["application/vnd.plotly.v1+json"]
        assert first["data"] == last["data"] == theirs["data"] == later["data"]
        # Who has chosen a renderer gets it.
        assert list(run(CHOSEN)[0]["data"]) == ["application/json"]
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
