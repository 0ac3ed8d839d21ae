"""The precision lab on the screen: the table that fills cell by cell, and the curves of one cell."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import closing
from typing import Any

import torch

from rislab.errors import InputError
from rislab.panels.background_task import BackgroundTask
from rislab.panels.base import Panel, see
from rislab.plots.precision import (
    CURVES_HEIGHT,
    cell_explanation,
    fp64_reference,
    precision_table_dict,
    window_curves_dict,
)
from rislab.plots.style import empty_figure_dict
from rislab.sanity.memory import start_profiler
from rislab.sanity.overfit_config import BATCH
from rislab.sanity.precision import PrecisionCell, PrecisionConfig, Progress, WindowComparison, stream_cells

HINT = "Click a cell for its curves; ✗ passes its alarm level; colour: share of the alarm."


class PrecisionPanel(Panel[list[PrecisionCell]]):
    """The table that fills cell by cell, and the curves of one cell; awaiting it gives the cells.

    Attributes:
        chosen: mode and accumulation steps of the cell whose curves are shown; None for the last that was done.

    Args:
        config: what to run; it starts at once.
        live: whether to make widgets.
    """

    def __init__(self, config: PrecisionConfig, *, live: bool) -> None:
        self.config = config
        self.chosen: tuple[str, int] | None = None
        self._cells: list[PrecisionCell] = []
        self._window = 0
        self._lock = threading.Lock()
        self._task = BackgroundTask(self._stream, self.redraw)
        super().__init__(live=live)
        start_profiler(torch.device(config.device))
        self._task.start()
        self.redraw()

    @property
    def task(self) -> BackgroundTask[Progress]:
        return self._task

    @property
    def state(self) -> str:
        state = super().state
        return "finished" if state == "stopped" and len(self.cells()) == len(self.config.places()) else state

    @property
    def title(self) -> str:
        """The state, how many cells are done, and the one in progress."""
        done, places = len(self.cells()), self.config.places()
        text = f"{self.activity}: {done} of {len(places)} cells"
        if self.state == "running" and done < len(places):
            mode, steps = places[done]
            text += f", {mode} {steps} × {BATCH // steps}, window {self._window} of {self.config.windows}"
        return text

    def cells(self) -> list[PrecisionCell]:
        """The cells so far, as a list of the caller's own."""
        with self._lock:
            return list(self._cells)

    def shown(self) -> PrecisionCell | None:
        """The cell whose curves are on the screen: the chosen one, else the last that was done."""
        cells = self.cells()
        here = [cell for cell in cells if (cell.mode, cell.accumulation_steps) == self.chosen]
        return (here or cells)[-1] if cells else None

    def choose(self, mode: str, accumulation_steps: int) -> bool:
        """Show the curves of a cell; returns whether it has been run, and `problem` says so if not."""
        return self.attempt(lambda: self._choose(mode, accumulation_steps))

    def result(self) -> list[PrecisionCell]:
        return self.cells()

    def static(self) -> dict[str, Any]:
        return {"text/plain": f"running {len(self.config.places())} cells; await the panel for them"}

    def build(self) -> tuple[Any, Callable[[], None]]:
        import ipywidgets as widgets

        rows, columns = self.config.modes, self.config.accumulation_steps
        tip = "End after the window in progress"
        stop = widgets.Button(description="Stop", icon="stop", tooltip=tip, layout={"width": "100px"})
        hint, text = widgets.HTML(HINT), widgets.HTML()
        table = self.plot(precision_table_dict([], rows, columns, self.title))
        detail = self.plot(empty_figure_dict("no cell is done yet", CURVES_HEIGHT))

        def draw() -> None:
            cells, cell, ended = self.cells(), self.shown(), self.state != "running"
            stop.disabled = self.activity != "running"
            see(hint, not self.problem)
            chosen = None if cell is None else (cell.mode, cell.accumulation_steps)
            table.update(precision_table_dict(cells, rows, columns, self.title, chosen))
            if cell is not None:
                text.value = cell_explanation(cell)
                detail.update(window_curves_dict(cell, fp64_reference(cells, cell.accumulation_steps)))
            if ended:
                table.flush()
                detail.flush()

        def click(event: dict[str, Any]) -> None:
            self.choose(rows[int(event["y"])], columns[int(event["x"])])

        stop.on_click(lambda button: self.stop())
        table.on_event("click", click)
        return widgets.VBox([widgets.HBox([stop, hint, self.alarm]), table, text, detail]), draw

    def _choose(self, mode: str, accumulation_steps: int) -> None:
        if (mode, accumulation_steps) not in [(cell.mode, cell.accumulation_steps) for cell in self.cells()]:
            state = "has not been run yet" if self.state == "running" else "was not run"
            raise InputError(f"{mode}, {accumulation_steps} × {BATCH // accumulation_steps} scenes {state}")
        self.chosen = (mode, accumulation_steps)

    def _stream(self) -> Generator[Progress]:
        with closing(stream_cells(self.config)) as progress_of_run:
            for progress in progress_of_run:
                with self._lock:
                    if isinstance(progress, PrecisionCell):
                        self._cells.append(progress)
                self._window = progress.step if isinstance(progress, WindowComparison) else 0
                yield progress
