"""What all panels share: one thread, awaiting, stopping, errors, and drawing that cannot end the work."""

from __future__ import annotations

import asyncio
import html
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch

from rislab.errors import InputError
from rislab.panels.background_task import NO_NEWS, POLL_SECONDS, BackgroundTask, LatestOnly, Request
from rislab.plots.style import ERROR_COLOUR, templates

if TYPE_CHECKING:
    from rislab.panels.plot_widget import Drawing, DrawnWidget, PlotWidget

JOIN_SECONDS = 5.0  # that an interrupted cell waits for the item in progress
GIVE_UP_SECONDS = 0.01  # after which a newer request is looked for during a long part of the work

Result = TypeVar("Result")
Plot = TypeVar("Plot", bound="DrawnWidget")
Part = TypeVar("Part")


class UserInput(threading.local):
    """Observes what the user changes in widgets, and not what the panel changes itself: `with user_input.paused():`.

    Changes of other threads are the user's meanwhile.
    """

    def __init__(self) -> None:
        self._paused = False

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The panel's own changes stand in this block."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    def observe(self, field: Any, call: Callable[[Any], object]) -> None:
        """Call a function with the new value of a widget; a choice of nothing is no input."""
        field.observe(lambda change: None if self._paused or change["new"] is None else call(change["new"]), "value")


class Panel(Generic[Result]):
    """A background task with its knobs and plots; awaiting it gives its result.

    A subclass sets its own attributes, calls this __init__, which makes the widgets, and then begins its work.

    Attributes:
        input_error: why the last input was refused; "" if it was not.
        drawing_error: exception of the last drawing; None if it went well.
        widget: what a notebook shows; None without widgets.
        alarm: the widget that says `problem`, to be placed by build().
        user_input: observes widgets; what a drawing sets is no input.

    Args:
        live: whether to make widgets.
    """

    def __init__(self, *, live: bool) -> None:
        self.input_error = ""
        self.drawing_error: Exception | None = None
        self.widget: Any = None
        self.alarm: Any = None
        self._draw: Callable[[], None] = lambda: None
        self._plots: list[DrawnWidget] = []
        self._stale = False
        self._drawing = threading.Lock()
        self.user_input = UserInput()
        if live:
            import ipywidgets as widgets

            self.alarm = widgets.HTML()
            say(self.alarm, "")
            self.widget, self._draw = self.build()
            self.widget.add_class("rislab-panel")

    # ------------------------------------------------------------------------------------------ of a subclass

    @property
    def task(self) -> BackgroundTask[Any] | None:
        """The present task; None if there is none yet, or none at all."""
        return None

    def result(self) -> Result:
        """What awaiting gives after a task without an error."""
        raise NotImplementedError

    def build(self) -> tuple[Any, Callable[[], None]]:
        """The widget, and the function that shows the present state in it."""
        raise NotImplementedError

    def static(self) -> dict[str, Any]:
        """What a notebook shows without widgets, by MIME type."""
        raise NotImplementedError

    # ------------------------------------------------------------------------------------------------ of all panels

    @property
    def error(self) -> BaseException | None:
        """The exception that ended the last task, which awaiting raises again."""
        return None if self.task is None else self.task.error

    @property
    def state(self) -> str:
        """See BackgroundTask.state."""
        return "waiting" if self.task is None else self.task.state

    @property
    def activity(self) -> str:
        """The state as it is shown: "stopping" from stop() until the item in progress is done."""
        return "stopping" if self.task is not None and self.task.stopping else self.state

    @property
    def problem(self) -> str:
        """What went wrong, in one sentence: a refused input, an error of the task, or a drawing; "" if nothing did."""
        if self.input_error:
            return self.input_error
        if self.error is not None:
            return str(self.error) if isinstance(self.error, InputError) else in_words(self.error)
        fault = next((plot.error for plot in self._plots if plot.error is not None), self.drawing_error)
        return "" if fault is None else f"the figure could not be drawn: {in_words(fault)}"

    def stop(self) -> None:
        """Stop after the item in progress; until then the panel says that it is stopping."""
        if self.task is not None:
            self.task.stop()
            self.redraw()

    def settle(self, seconds: float = 120.0) -> None:
        """Wait until nothing is worked on any more and the last drawing is made; raises TimeoutError."""
        if self.task is not None and not self.task.join(seconds):
            raise TimeoutError(f"the panel is still at work after {seconds:g} s")

    def attempt(self, call: Callable[[], object]) -> bool:
        """Whether a call took its input; if not, `input_error` says why. Both are shown."""
        try:
            call()
            self.input_error = ""
        except InputError as error:
            self.input_error = str(error)
        self.redraw()
        return not self.input_error

    def redraw(self) -> None:
        """Show the present state. Only one thread draws: while it does, others leave it to draw once more.

        An exception of a drawing is shown, and ends nothing; the next drawing is tried all the same.
        """
        self._stale = True
        while self._stale and self._drawing.acquire(blocking=False):
            try:
                self._stale = False
                with self.user_input.paused():
                    self._draw()
                self.drawing_error = None
            except Exception as error:
                self.drawing_error = error
            finally:
                self._drawing.release()
            self._say_problem()

    def plot(self, figure: Drawing, **options: Any) -> PlotWidget:
        """A live plot in both themes, whose drawing errors the panel says; see PlotWidget for the options."""
        from rislab.panels.plot_widget import PlotWidget

        return self.add_plot(PlotWidget(figure, templates(), **options))

    def add_plot(self, plot: Plot) -> Plot:
        """Say the drawing errors of a plot from now on; returns it."""
        plot.on_error = self._say_problem
        self._plots.append(plot)
        return plot

    def __await__(self) -> Generator[Any, None, Result]:
        return self._wait().__await__()

    async def _wait(self) -> Result:
        """The result of the task; of the newest, if another begins meanwhile, and of the first, if there is none."""
        task = self.task
        try:
            while task is None or task.busy:
                await asyncio.sleep(POLL_SECONDS)
                task = self.task or task
        except asyncio.CancelledError:
            self.stop()
            if task is not None:
                task.join(JOIN_SECONDS)
            raise KeyboardInterrupt from None
        if task.error is not None:
            raise task.error
        return self.result()

    def _say_problem(self) -> None:
        if self.alarm is not None:
            say(self.alarm, alarm(self.problem) if self.problem else "")

    def _repr_mimebundle_(self, **options: Any) -> Any:
        return self.static() if self.widget is None else self.widget._repr_mimebundle_(**options)


class RequestPanel(Panel[Result], Generic[Request, Result]):
    """A panel that works on the newest request only, such as the last position of a slider."""

    def __init__(self, *, live: bool) -> None:
        self.requests: LatestOnly[Request] = LatestOnly(self.work, self.redraw)
        # OpenMP counts threads per thread.
        self._parts = ThreadPoolExecutor(1, "rislab part", torch.set_num_threads, (torch.get_num_threads(),))
        super().__init__(live=live)

    def work(self, request: Request) -> Generator[object]:
        """Answer a request; yields whenever there is something new to be drawn. Given up there if a newer one waits."""
        raise NotImplementedError

    def aside(self, part: Callable[[], Part]) -> Generator[object, None, Part]:
        """What a long part of the work gives, made in another thread: a newer request need not wait for its end.

        Of a work that is given up the part that has begun is finished, one after another, and forgotten.
        """
        made = self._parts.submit(part)
        try:
            while not wait([made], GIVE_UP_SECONDS).done:
                yield NO_NEWS
            return made.result()
        finally:
            made.cancel()

    @property
    def task(self) -> BackgroundTask[Any]:
        return self.requests.task

    def submit(self, request: Request) -> None:
        """Work on this, and on nothing else that still waits."""
        self.requests.submit(request)


def in_words(error: BaseException) -> str:
    """An exception as a sentence that begins with its type."""
    return f"{type(error).__name__}: {error}"


def alarm(text: str) -> str:
    """A sentence that cannot be overlooked, and that a screen reader says at once, as HTML."""
    return f"<b role='alert' style='color:{ERROR_COLOUR}'>{html.escape(text)}</b>"


def cut_line(text: str, lines: int = 1) -> str:
    """HTML that is cut where its room, as high as a button, ends."""
    room = (
        f"white-space:normal;display:-webkit-box;-webkit-box-orient:vertical;-webkit-line-clamp:{lines};overflow:hidden"
    )
    return f"<div style='{room};line-height:{28 // lines}px'>{text}</div>"


def say(field: Any, text: str) -> None:
    """Show HTML in a widget; an empty one takes no room."""
    field.value = text
    see(field, bool(text))


def see(field: Any, shown: bool) -> None:
    """Show a widget, or give its room to others."""
    field.layout.display = "" if shown else "none"


def unfold(plot: Any, shown: bool) -> None:
    """Show a plot, or fold it up; it keeps its width, without which plotly would draw it 700 pixels wide."""
    plot.layout.height, plot.layout.overflow = ("auto", "visible") if shown else ("0px", "hidden")


def offer(field: Any, names: Sequence[str], chosen: str) -> None:
    """Offer these names in a widget, and choose one."""
    if tuple(field.options) != tuple(names):
        field.options = tuple(names)
    field.value = chosen
