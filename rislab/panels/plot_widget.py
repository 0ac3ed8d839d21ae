"""A plotly figure that the kernel can redraw: its state survives a page reload, and a slow page slows nobody down.

plotly's own FigureWidget forgets every update when the page is reloaded and never says when it has drawn. Here the
state of the widget is the present figure, made when a page asks for it; while it changes, one message a frame says what
is new. The page answers drawings with their number, and few are made and sent that it has not answered (or one after a
while, so that a closed page holds up nothing). plotly.js travels once for all.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import anywidget
import ipywidgets
import plotly.graph_objects as go
import traitlets

from rislab.panels.figure_delta import content_of, delta, packed

# A figure, or its data and layout as plain mappings.
Drawing: TypeAlias = go.Figure | dict[str, Any]

STATIC = Path(__file__).parent / "static"

# A page that does not answer within this many seconds may be closed, or slow: each time it is given twice as many, up
# to the last figure. What is sent to a slow page regardless would pile up there, and its buttons would seem dead.
PATIENCE = 1.0
LONGEST = 16.0
# A page rests after each figure half as long as it drew, up to so many seconds: it must have time for whoever uses it.
# Where it does not say how long that was, the way there and back counts too.
REST = 0.5
# Each answer makes JupyterLab draw its own bars, which took a third of the time of a figure. A plot that says how long
# it draws answers one of a few (plot.js), and so many figures may be on their way, no faster than it draws them.
AHEAD = 6
EMPTY: dict[str, Any] = {"data": [], "layout": {}}


class Library(anywidget.AnyWidget):
    """plotly.js in the page, once for all plots of a kernel: nothing of it changes later (see PlotState)."""

    _esm = STATIC / "library.js"
    source = traitlets.Unicode().tag(sync=True)


@cache
def library() -> Library:
    """The one Library of this kernel."""
    from plotly.offline import get_plotlyjs

    return Library(source=get_plotlyjs())


class PlotState(ipywidgets.Widget):  # type: ignore[misc]
    """What changes of a plot.

    A model of its own: anywidget drops all later messages of the kernel to a model that was not ready within two
    seconds, and a busy page needs longer. The base class, a plain model of Jupyter's own, takes them at any time.
    """

    figure = traitlets.Dict().tag(sync=True)
    # What the page says is not sent back to it.
    drawn = traitlets.Int(0).tag(sync=True, echo_update=False)
    event = traitlets.Dict().tag(sync=True, echo_update=False)
    # Milliseconds that the page says its last drawing took, painting included; 0 where it does not say.
    took = traitlets.Int(0).tag(sync=True, echo_update=False)

    def __init__(self, figure: dict[str, Any]) -> None:
        self.gate = threading.RLock()
        super().__init__(figure=figure)

    @property
    def ahead(self) -> int:
        """How many figures may be on their way without an answer."""
        return 1

    @property
    def shown(self) -> dict[str, Any]:
        """What was sent last."""
        return dict(self.figure)

    def show(self, figure: dict[str, Any]) -> None:
        """Send a figure."""
        self.figure = figure

    def set_state(self, sync_data: dict[str, Any]) -> None:
        """Take in what the page says, while no other thread sends a figure.

        traitlets holds all changes of a widget back while it takes some in: a figure of another thread could get lost.
        """
        with self.gate:
            super().set_state(sync_data)


class DeltaState(PlotState):
    """The state of a figure of which only what is new is sent.

    Args:
        figure: number, data and layout; see content_of().
    """

    # What a page gets that asks for all there is; it is never sent by itself.
    figure = traitlets.Dict().tag(sync=True, to_json=lambda value, widget: packed(widget.content))
    # What turns the figure of number `base` into the next one; a base of 0 is an empty figure.
    patch = traitlets.Dict().tag(sync=True)

    def __init__(self, figure: dict[str, Any]) -> None:
        self.content = figure
        super().__init__({})

    @property
    def ahead(self) -> int:
        return AHEAD if self.took else 1

    @property
    def shown(self) -> dict[str, Any]:
        return self.content

    def show(self, figure: dict[str, Any]) -> None:
        # A page that answers no more may have missed what came before.
        base = self.content["number"] if self.content["number"] - self.drawn < self.ahead else 0
        before, self.content = self.content if base else EMPTY, figure
        self.patch = {"base": base, "number": figure["number"], **delta(before, figure)}

    def show_all(self) -> None:
        """Send all of it again, to a page that does not have what the last message was about."""
        news = delta(EMPTY, self.content)
        self.patch = {"base": 0, "number": self.content["number"], "again": time.time(), **news}


class DrawnWidget(anywidget.AnyWidget):
    """What a page draws again and again: sent when the page is ready for it (PlotState.ahead), and only the newest.

    A subclass brings the script of the page, and encode(), and perhaps another state.

    Attributes:
        error: of the figure that was to be drawn last; None if it was made.
        on_error: called when a figure could not be made, after `error` has been set.

    Args:
        figure: what to show first.
        templates: the looks "light" and "dark"; the page takes the one of its theme.
        options: what the script needs to know besides.
    """

    kind_of_state: type[PlotState] = PlotState
    templates = traitlets.Dict().tag(sync=True)
    options = traitlets.Dict().tag(sync=True)
    state = traitlets.Instance(PlotState).tag(sync=True, **ipywidgets.widget_serialization)

    def __init__(self, figure: Drawing, templates: dict[str, Any], **options: Any) -> None:
        self.error: Exception | None = None
        self.on_error: Callable[[], None] = lambda: None
        super().__init__(state=self.kind_of_state(self.encode(figure, 1)), templates=templates, options=options)
        self._number, self._pushed_at, self._patience, self._due = 1, time.monotonic(), PATIENCE, 0.0
        self._pending: Drawing | Callable[[], Drawing] | None = None
        self.state.observe(lambda change: self._answered(), "drawn")

    def encode(self, figure: Drawing, number: int) -> dict[str, Any]:
        """A figure as JSON for the page, with its number."""
        raise NotImplementedError

    @property
    def figure(self) -> dict[str, Any]:
        """What the page was sent last, with its number."""
        return dict(self.state.shown)

    def update(self, figure: Drawing | Callable[[], Drawing]) -> None:
        """Show a figure: at once if the page has drawn the last one, else when it has; only the newest waits.

        Args:
            figure: or what makes it when the time has come, and may bring other widgets up to date with it.
        """
        with self.state.gate:
            waited = self._pending is not None
            self._pending = figure
            due = self._ready_at()
            if time.monotonic() < due:
                if not waited:
                    self._push_at(due)
                return
        self._push()

    def flush(self) -> None:
        """Send what still waits, whether or not the page has answered: the last state of a run must not be lost."""
        self._push()

    def on_event(self, kind: str, call: Callable[[dict[str, Any]], None]) -> None:
        """Call a function with the content of "click" and "shape" events."""
        self.state.observe(lambda change: call(change["new"]) if change["new"].get("kind") == kind else None, "event")

    @property
    def _unanswered(self) -> int:
        return max(0, self._number - int(self.state.drawn))

    def _ready_at(self) -> float:
        """When the page is ready for the next figure."""
        if not self._unanswered:
            return self._due
        if self._unanswered >= self.state.ahead:
            return self._pushed_at + self._patience
        drew = 1e-3 * self.state.took
        return self._pushed_at + drew + min(drew / 2, REST)

    def _answered(self) -> None:
        with self.state.gate:
            if self._unanswered >= self.state.ahead:
                return
            self._patience = PATIENCE
            now = time.monotonic()
            drew = 1e-3 * self.state.took or now - self._pushed_at
            self._due = now + min(drew / 2, REST)
            if self._pending is not None:
                self._push_at(self._ready_at())

    def _push_at(self, due: float) -> None:
        left = due - time.monotonic()
        if left <= 0:
            self._push()
            return
        late = threading.Timer(left, self._push)
        late.daemon = True
        late.start()

    def _push(self) -> None:
        with self.state.gate:
            figure, self._pending = self._pending, None
            if figure is None:
                return
            if self._unanswered >= self.state.ahead:
                self._patience = min(2 * self._patience, LONGEST)
            try:
                made = self.encode(figure() if callable(figure) else figure, self._number + 1)
            except Exception as error:  # often in a thread of nobody, where it would be lost
                self.error = error
                self.on_error()
                return
            self.error = None
            self._number += 1
            self._pushed_at = time.monotonic()
            self.state.show(made)


class PlotWidget(DrawnWidget):
    """A figure to be shown and redrawn.

    Args:
        figure: what to show first; a template of its own is left out.
        templates: the looks "light" and "dark"; the page takes the one of its theme.
        options: further options of plotly.js, such as edits={"shapePosition": True} for shapes that can be dragged.
    """

    _esm = STATIC / "plot.js"
    kind_of_state = DeltaState

    def __init__(self, figure: Drawing, templates: dict[str, go.layout.Template], **options: Any) -> None:
        library()
        plain = {theme: template.to_plotly_json() for theme, template in templates.items()}
        super().__init__(figure, plain, **options)
        self.on_event("lost", lambda event: self.state.show_all())

    def encode(self, figure: Drawing, number: int) -> dict[str, Any]:
        return {"number": number, **content_of(figure)}
