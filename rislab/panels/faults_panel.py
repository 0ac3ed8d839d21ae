"""The clinic on the screen: choose a fault, run it, see its diff and its pictures."""

from __future__ import annotations

import asyncio
import html
import threading
from collections.abc import Callable, Generator, Sequence
from typing import Any

import plotly.graph_objects as go
import torch

from rislab.errors import check_choice
from rislab.faults.catalogue import FAMILIES, find_fault
from rislab.faults.comparison import (
    RATES,
    ComparisonCache,
    ComparisonConfig,
    Diff,
    FaultReport,
    OptimiserRun,
    QuantityComparison,
    shows_in_training,
)
from rislab.faults.fault import Fault
from rislab.panels.background_task import POLL_SECONDS
from rislab.plots import faults as fault_plots
from rislab.plots.style import ERROR_COLOUR, template

TRAINED = {"losses": "losses", "windows": "windows", "coverage": "coverage"}
ROWS = 12  # of the table of readings


class LatestOnly:
    """A thread that works on the newest request only; one that waits is replaced by the next.

    Args:
        work: called there with a request. failed: with its exception, after which the thread waits for the next.
    """

    def __init__(self, work: Callable[[Any], None], failed: Callable[[Exception], None]) -> None:
        self._work, self._failed = work, failed
        self._changed = threading.Condition()
        self._wanted: list[Any] = []
        self._busy = False
        # OpenMP counts threads per thread: the worker would not inherit what the notebook has set.
        self._threads = torch.get_num_threads()
        threading.Thread(target=self._run, name="rislab clinic", daemon=True).start()

    def ask(self, request: Any) -> None:
        """Want this, and nothing else that still waits."""
        with self._changed:
            self._wanted = [request]
            self._changed.notify_all()

    @property
    def busy(self) -> bool:
        """Whether something is being worked on, or waits."""
        with self._changed:
            return self._busy or bool(self._wanted)

    @property
    def overtaken(self) -> bool:
        """Whether a request waits: what is being worked on is no longer wanted."""
        with self._changed:
            return bool(self._wanted)

    def settle(self, seconds: float = 120.0) -> None:
        """Wait until nothing is asked for any more; raises TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: not self._wanted and not self._busy, seconds):
                raise TimeoutError(f"the clinic is still at work after {seconds:g} s")

    def _run(self) -> None:
        torch.set_num_threads(self._threads)
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._wanted))
                request, self._busy = self._wanted.pop(), True
            try:
                self._work(request)
            except Exception as error:  # shown in the panel; the thread goes on with the next request
                self._failed(error)
            with self._changed:
                self._busy = False
                self._changed.notify_all()


class FaultPanel:
    """A fault and its study, which starts at once; awaiting it gives the last Study.

    Args:
        config: the first fault, and the epochs of all. live: whether to make widgets.
    """

    def __init__(self, config: ComparisonConfig, *, live: bool) -> None:
        self.config = config
        self.fault, self.optimiser, self.view = find_fault(config.fault), "adam", "diff"
        self.study: FaultReport | None = None
        self.error: Exception | None = None
        self.widget: Any = None
        self._clinic = ComparisonCache()
        self._studies: dict[str, FaultReport] = {}
        self._show: Callable[[], None] = lambda: None
        self.newest = LatestOnly(self._follow, self._fail)
        if live:
            self.widget, self._show = _clinic_widget(self)
        self.run()

    @property
    def state(self) -> str:
        """ "running", "failed", "finished", or "chosen": a fault that has not been run."""
        if self.newest.busy:
            return "running"
        if self.error is not None:
            return "failed"
        return "finished" if self.seen() is not None else "chosen"

    @property
    def views(self) -> tuple[str, ...]:
        """What there is to see of the chosen fault."""
        return ("diff", *(TRAINED if shows_in_training(self.fault) else ("checks",)))

    def seen(self) -> FaultReport | None:
        """The study of the chosen fault, as far as it is known."""
        return self._studies.get(self.fault.name)

    def choose(self, name: str) -> None:
        """Show the diff of another fault; run() trains it.

        Raises:
            InputError: for an unknown name.
        """
        self.fault, self.error = find_fault(name), None
        self.view = "diff" if self.seen() is None or self.view not in self.views else self.view
        self._show()

    def look(self, view: str) -> None:
        """Show "diff", "losses", "windows", "coverage" or "checks"; raises InputError for what there is not."""
        check_choice("view", view, self.views)
        self.view = view
        self._show()

    def change(self, optimiser: str) -> None:
        """Show the windows and the coverage under "adam" or "sgd"; raises InputError for any other."""
        check_choice("optimiser", optimiser, RATES)
        self.optimiser = optimiser
        self._show()

    def run(self) -> None:
        """Train the chosen fault and the correct loop, first with the chosen optimiser, in a thread of its own."""
        self.error = None
        self.newest.ask((self.fault, sorted(RATES, key=lambda name: name != self.optimiser)))
        self._show()

    def case(self) -> OptimiserRun | None:
        """The case of the chosen fault and optimiser, if it has been trained."""
        study = self.seen()
        return study.runs.get(self.optimiser) if study is not None else None

    def figure(self) -> go.Figure | None:
        """The figure of the view; None if it is the diff, or not known yet."""
        study, case = self.seen(), self.case()
        if study is None or self.view == "diff":
            return None
        if self.view == "checks":
            return fault_plots.checks(study)
        if self.view == "losses":
            return fault_plots.losses(study.runs)
        if case is None:
            return None
        return fault_plots.signals(case) if self.view == "windows" else fault_plots.coverage(case)

    def _follow(self, request: tuple[Fault, Sequence[str]]) -> None:
        fault, optimisers = request
        for study in self._clinic.reports(fault, optimisers, epochs=self.config.epochs):
            self.study = self._studies[fault.name] = study
            if self.newest.overtaken:
                return
            self._show()
        self._show()

    def _fail(self, error: Exception) -> None:
        self.error = error
        self._show()

    def __await__(self) -> Generator[Any, None, FaultReport]:
        return self._wait().__await__()

    async def _wait(self) -> FaultReport:
        while self.newest.busy:
            await asyncio.sleep(POLL_SECONDS)
        if self.error is not None:
            raise self.error
        if self.study is None:
            raise RuntimeError("nothing was run")
        return self.study

    def _repr_mimebundle_(self, **options: Any) -> Any:
        if self.widget is not None:
            return self.widget._repr_mimebundle_(**options)
        text = f"{self.fault.name}: await the panel for its study"
        return {"text/plain": f"{text}\n{self.fault.diff()}", "text/html": story_of(self.fault) + diff_of(self.fault)}


# -------------------------------------------------------------------------------------------------------- what they say


def story_of(fault: Fault) -> str:
    """What happened, what a user sees, and where, as HTML."""
    seen = f" ({html.escape(fault.reference)})" if fault.reference else ""
    story, symptom = html.escape(fault.story), html.escape(fault.description)
    return f"<div style='line-height:1.4'>{story}<br><b>Symptom.</b> {symptom}{seen}</div>"


def diff_of(fault: Fault) -> str:
    """The edit of a fault, as HTML."""
    return Diff(fault)._repr_html_()


def readings_table(rows: Sequence[QuantityComparison], signs: Sequence[str] = ()) -> str:
    """Readings as HTML, those named in `signs` first and with a dot."""
    chosen = sorted(rows, key=lambda row: row.quantity not in signs)
    cells = [
        f"<td>{'● ' if row.quantity in signs else ''}{html.escape(row.quantity)}</td>"
        f"<td {RIGHT}>{row.correct:.4g}</td><td {RIGHT}>{row.faulty:.4g}</td>"
        for row in chosen[:ROWS]
    ]
    return as_table(("measured", "correct", "faulty"), cells)


RIGHT = "style='text-align:right;white-space:nowrap;padding-left:12px'"


def as_table(head: Sequence[str], rows: Sequence[str]) -> str:
    """Column titles and rows of cells as HTML."""
    top = "".join(f"<th {RIGHT if place else ''}>{name}</th>" for place, name in enumerate(head))
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f"<table style='font-size:12px;line-height:1.35'><tr>{top}</tr>{body}</table>"


def _alarm(text: str) -> str:
    return f"<b style='color:{ERROR_COLOUR}'>{html.escape(text)}</b>"


def failure(error: Exception) -> str:
    """An exception in words that cannot be overlooked, as HTML."""
    return _alarm(f"{type(error).__name__}: {error}")


def _empty() -> dict[str, Any]:
    hidden = {"visible": False}
    return {"data": [], "layout": {"height": 300, "autosize": True, "xaxis": hidden, "yaxis": hidden}}


# -------------------------------------------------------------------------------------------------------------- widgets


def empty_plot() -> Any:
    """A live plot that shows nothing yet."""
    from rislab.panels.plot_widget import PlotWidget

    return PlotWidget(_empty(), {theme: template(theme) for theme in ("light", "dark")})


def offer(view: Any, names: Sequence[str], chosen: str) -> None:
    """Offer these views, without telling the panel what it has said itself."""
    if tuple(view.options) != tuple(names):
        view.options = tuple(names)
    view.value = chosen


def see(field: Any, shown: bool) -> None:
    """Show a widget, or give its room to others."""
    field.layout.display = "" if shown else "none"


def unfold(plot: Any, shown: bool) -> None:
    """Show a plot, or fold it up; it keeps its width, without which plotly would draw it 700 pixels wide."""
    plot.layout.height, plot.layout.overflow = ("auto", "visible") if shown else ("0px", "hidden")


def _clinic_widget(panel: FaultPanel) -> tuple[Any, Callable[[], None]]:
    """Choice, Run, diff, table and plot, and the function that shows the panel's state in them."""
    import ipywidgets as widgets

    quiet = threading.local()
    own = next(name for name, members in FAMILIES.items() if panel.fault in members)
    short = {"description_width": "initial"}
    family = widgets.Dropdown(
        description="family", options=[*FAMILIES], value=own, style=short, layout={"width": "250px"}
    )
    names = [fault.name for fault in FAMILIES[own]]
    fault = widgets.Dropdown(
        description="fault", options=names, value=panel.fault.name, style=short, layout={"width": "330px"}
    )
    optimiser = widgets.Dropdown(
        description="optimiser", options=[*RATES], value=panel.optimiser, style=short, layout={"width": "150px"}
    )
    tip = "Train the correct and the faulty loop"
    run = widgets.Button(description="Run", icon="play", tooltip=tip, layout={"width": "80px"})
    view = widgets.ToggleButtons(options=panel.views, value=panel.view, style={"button_width": "90px"})
    status, story, diff, numbers = (widgets.HTML() for _ in range(4))
    diff.layout.width = "60%"
    page = widgets.HBox([diff, numbers])
    plot = empty_plot()

    def tied(call: Callable[[Any], None]) -> Callable[[Any], None]:
        def told(change: Any) -> None:
            if not vars(quiet).get("on") and change["new"] is not None:
                call(change["new"])

        return told

    def family_chosen(name: str) -> None:
        quiet.on = True
        fault.options = [member.name for member in FAMILIES[name]]
        quiet.on = False
        panel.choose(fault.value)

    family.observe(tied(family_chosen), "value")
    fault.observe(tied(panel.choose), "value")
    optimiser.observe(tied(panel.change), "value")
    view.observe(tied(panel.look), "value")
    run.on_click(lambda button: panel.run())

    def show() -> None:
        quiet.on = True
        family.value = next(name for name, members in FAMILIES.items() if panel.fault in members)
        fault.options = [member.name for member in FAMILIES[family.value]]
        fault.value = panel.fault.name
        offer(view, panel.views, panel.view)
        quiet.on = False
        status.value = failure(panel.error) if panel.error is not None else _progress(panel)
        story.value, diff.value = story_of(panel.fault), diff_of(panel.fault)
        case, figure = panel.case(), panel.figure()
        signs = [sign.quantity for sign in panel.fault.symptoms]
        numbers.value = readings_table(case.differences(), signs) if case is not None else ""
        see(page, panel.view == "diff")
        unfold(plot, figure is not None)
        if figure is not None:
            plot.update(figure)
            plot.flush()

    rows = [widgets.HBox([family, fault, optimiser, run]), widgets.HBox([view, status]), story, page, plot]
    return widgets.VBox(rows), show


def _progress(panel: FaultPanel) -> str:
    """The state in words."""
    study = panel.seen()
    if study is None:
        return "training the correct and the faulty loop …" if panel.state == "running" else "press Run"
    if not study.runs:
        return "no training shows it; its checks do"
    if panel.view not in ("diff", "losses") and panel.optimiser not in study.runs:
        return f"training with {panel.optimiser} …"
    return f"trained with {' and '.join(study.runs)}" + ("" if len(study.runs) == len(RATES) else ", more to come …")
