"""Plain figures on the page of a kernel, as plotly shows them there, without what it imports to do so."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import plotly.graph_objects as go

# Imported when plotly is about to show a figure: its renderers ask nbformat for its version, which brings a validator
# of JSON with a grammar of addresses. Of the processor time up to the first picture of a notebook that was a third.
RENDERERS = "plotly.io._renderers"
# Where plotly would choose another renderer than that of Jupyter: its own variable, and those of other services.
ELSEWHERE = (
    "PLOTLY_RENDERER",
    "COLAB_NOTEBOOK_ID",
    "AZURE_NOTEBOOKS_HOST",
    "COCALC_PROJECT_ID",
    "DATABRICKS_RUNTIME_VERSION",
)


def show_figures_at_once() -> None:
    """In a kernel of Jupyter, show plain figures without plotly's renderers, unless something has imported them."""
    from IPython import get_ipython

    shell = get_ipython()
    in_kernel = type(shell).__module__.startswith("ipykernel.")
    if not in_kernel or os.path.exists("/kaggle/input") or any(name in os.environ for name in ELSEWHERE):
        return
    shell.display_formatter.ipython_display_formatter.for_type_by_name("plotly.graph_objs._figure", "Figure", _show)


def _show(figure: go.Figure) -> None:
    import json

    from IPython.display import display

    if RENDERERS in sys.modules:  # somebody may have chosen one
        figure.show()
        return
    display({"application/vnd.plotly.v1+json": json.loads(figure.to_json(remove_uids=False))}, raw=True)
