"""Views that JupyterLab gave up while a page was loaded again are shown again."""

from __future__ import annotations

from functools import cache

import anywidget

from rislab.panels.plot_widget import STATIC


class GivenUpViews(anywidget.AnyWidget):
    """A script of the page, without a view of its own; see static/given_up.js."""

    _esm = STATIC / "given_up.js"


@cache
def given_up_views() -> GivenUpViews:
    """The one of this kernel."""
    return GivenUpViews()
