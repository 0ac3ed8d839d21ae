"""A fault on the screen: choose one, run it beside the correct loop, see its diff and its figures."""

from __future__ import annotations

import html
from collections.abc import Callable, Generator, Sequence
from typing import Any

import plotly.graph_objects as go

from rislab.checkup.html_table import html_table
from rislab.errors import check_choice
from rislab.faults.catalogue import FAMILIES, find_fault
from rislab.faults.comparison import (
    ComparisonCache,
    ComparisonConfig,
    FaultReport,
    OptimiserRun,
    QuantityComparison,
    shows_in_training,
)
from rislab.faults.fault import Fault
from rislab.faults.run_config import RATES
from rislab.panels.base import RequestPanel, offer, see, unfold
from rislab.panels.knobs import labelled
from rislab.plots import faults as fault_plots
from rislab.plots.diff import Diff
from rislab.plots.style import empty_figure_dict

TRAINED = ("losses", "windows", "coverage")
ROWS = 12  # of the table of quantities


class FaultPanel(RequestPanel[tuple[Fault, Sequence[str]], FaultReport]):
    """A fault beside the correct loop, which begins at once; awaiting it gives the last FaultReport.

    Args:
        config: the first fault, and the epochs of all.
        live: whether to make widgets.
    """

    def __init__(self, config: ComparisonConfig, *, live: bool) -> None:
        self.config = config
        self.fault, self.optimiser, self.view = find_fault(config.fault), "adam", "diff"
        self.latest: FaultReport | None = None
        self._on: Fault | None = None  # what is trained, or was last
        self._cache = ComparisonCache()
        self._reports: dict[str, FaultReport] = {}
        super().__init__(live=live)
        self.run()

    @property
    def state(self) -> str:
        """ "running", "failed", "stopped", "finished", or "chosen": a fault that has not been run."""
        if self.task.state in ("running", "failed", "stopped"):
            return self.task.state
        return "finished" if self.report is not None else "chosen"

    @property
    def views(self) -> tuple[str, ...]:
        """What there is to see of the chosen fault."""
        return ("diff", *(TRAINED if shows_in_training(self.fault) else ("checks",)))

    @property
    def report(self) -> FaultReport | None:
        """That of the chosen fault, as far as it is known."""
        return self._reports.get(self.fault.name)

    @property
    def optimiser_run(self) -> OptimiserRun | None:
        """That of the chosen fault and optimiser, if it has been trained."""
        return None if self.report is None else self.report.runs.get(self.optimiser)

    def choose(self, name: str) -> None:
        """Show the diff of another fault; run() trains it.

        Raises:
            InputError: for an unknown name.
        """
        self.fault = find_fault(name)
        self.requests.forget()
        self.view = "diff" if self.report is None or self.view not in self.views else self.view
        self.redraw()

    def look(self, view: str) -> None:
        """Show "diff", "losses", "windows", "coverage" or "checks"; raises InputError for what there is not."""
        check_choice("view", view, self.views)
        self.view = view
        self.redraw()

    def change(self, optimiser: str) -> None:
        """Show the windows and the coverage under "adam" or "sgd"; raises InputError for any other."""
        check_choice("optimiser", optimiser, RATES)
        self.optimiser = optimiser
        self.redraw()

    def run(self) -> None:
        """Train the chosen fault and the correct loop, first with the chosen optimiser."""
        self.submit((self.fault, sorted(RATES, key=lambda name: name != self.optimiser)))
        self.redraw()

    def work(self, request: tuple[Fault, Sequence[str]]) -> Generator[None]:
        fault, optimisers = request
        self._on = fault
        for report in self._cache.reports(fault, optimisers, epochs=self.config.epochs):
            self.latest = self._reports[fault.name] = report
            yield

    def result(self) -> FaultReport:
        if self.latest is None:
            raise RuntimeError("nothing was run")
        return self.latest

    def figure(self) -> go.Figure | None:
        """The figure of the view; None if it is the diff, or not known yet."""
        report, run = self.report, self.optimiser_run
        if report is None or self.view == "diff":
            return None
        if self.view == "checks":
            return fault_plots.check_table(report)
        if self.view == "losses":
            return fault_plots.loss_comparison(report.runs)
        if run is None:
            return None
        return fault_plots.signals(run) if self.view == "windows" else fault_plots.weight_grids(run)

    def progress(self) -> str:
        """The state in words."""
        report, running = self.report, self.state == "running"
        other = "" if self._on is None or self._on.name == self.fault.name else self._on.name
        if self.state == "failed":
            return ""
        rest = f"press Run; until then {other} is trained …" if running else "press Run"
        here = running and not other
        if report is None:
            return "training the correct and the faulty loop …" if here else rest
        if not report.runs:
            return "no training shows it; its checks do"
        if self.view not in ("diff", "losses") and self.optimiser not in report.runs:
            return f"training with {self.optimiser} …" if here else f"not trained with {self.optimiser}: {rest}"
        more = "" if len(report.runs) == len(RATES) else ", more to come …" if here else f"; for more, {rest}"
        return f"trained with {' and '.join(report.runs)}{more}"

    def build(self) -> tuple[Any, Callable[[], None]]:
        import ipywidgets as widgets

        family = labelled(widgets.Dropdown, "family", "250px", options=[*FAMILIES])
        fault = labelled(widgets.Dropdown, "fault", "330px")
        optimiser = labelled(widgets.Dropdown, "optimiser", "150px", options=[*RATES])
        tip = "Train the correct and the faulty loop"
        run = widgets.Button(description="Run", icon="play", tooltip=tip, layout={"width": "80px"})
        views = widgets.ToggleButtons(options=self.views, style={"button_width": "90px"})
        status, story, diff, numbers = (widgets.HTML() for _ in range(4))
        diff.layout.width = "60%"
        page = widgets.HBox([diff, numbers])
        plot = self.plot(empty_figure_dict())

        def draw() -> None:
            family.value = next(name for name, members in FAMILIES.items() if self.fault in members)
            offer(fault, [member.name for member in FAMILIES[family.value]], self.fault.name)
            offer(views, self.views, self.view)
            optimiser.value = self.optimiser
            status.value = html.escape(self.progress())
            story.value, diff.value = story_of(self.fault), diff_of(self.fault)
            pair, figure = self.optimiser_run, self.figure()
            own = [symptom.quantity for symptom in self.fault.symptoms]
            numbers.value = quantities_table(pair.differences(), own) if pair is not None else ""
            see(page, self.view == "diff")
            unfold(plot, figure is not None)
            if figure is not None:
                plot.update(figure)
                plot.flush()

        observe = self.user_input.observe
        observe(family, lambda name: self.choose(FAMILIES[name][0].name))
        observe(fault, self.choose)
        observe(optimiser, self.change)
        observe(views, self.look)
        run.on_click(lambda button: self.run())
        rows = (widgets.HBox([family, fault, optimiser, run]), widgets.HBox([views, status]))
        return widgets.VBox([*rows, self.alarm, story, page, plot]), draw

    def static(self) -> dict[str, Any]:
        text = f"{self.fault.name}: await the panel for its report\n{self.fault.diff()}"
        return {"text/plain": text, "text/html": story_of(self.fault) + diff_of(self.fault)}


def story_of(fault: Fault) -> str:
    """What happened, what a user sees, and where, as HTML."""
    source = f" ({html.escape(fault.reference)})" if fault.reference else ""
    story, symptom = html.escape(fault.story), html.escape(fault.description)
    return f"<div style='line-height:1.4'>{story}<br><b>Symptom.</b> {symptom}{source}</div>"


def diff_of(fault: Fault) -> str:
    """The edit of a fault, as HTML."""
    return Diff(fault)._repr_html_()


def quantities_table(rows: Sequence[QuantityComparison], own: Sequence[str] = ()) -> str:
    """What was measured on both loops, as HTML.

    Args:
        rows: the quantities; at most ROWS are shown.
        own: names of the fault's own symptoms, which come first and with a dot.
    """
    chosen = sorted(rows, key=lambda row: row.quantity not in own)[:ROWS]
    cells = [
        (f"{'● ' if row.quantity in own else ''}{row.quantity}", f"{row.correct:.4g}", f"{row.faulty:.4g}")
        for row in chosen
    ]
    label = "quantities of the correct and of the faulty loop"
    return html_table(("measured", "correct", "faulty"), cells, label=label, numbers=(1, 2), row_title=0, size=12)
