"""The precision lab on the screen: the table as heat maps, the curves of one cell, and the panel that fills both."""

from __future__ import annotations

import asyncio
import html
import threading
import time
from collections.abc import Callable, Generator
from typing import Any

import torch

from rislab.panels.background_task import POLL_SECONDS, REDRAW_SECONDS
from rislab.plots.precision import (
    CURVES_HEIGHT,
    cell_explanation,
    fp64_reference,
    precision_table_dict,
    window_curves_dict,
)
from rislab.plots.style import ERROR_COLOUR, empty_figure_dict, template
from rislab.sanity.precision import BATCH, PrecisionCell, PrecisionConfig, WindowComparison, ready, stream


class PrecisionPanel:
    """The table that fills cell by cell, and the curves of one cell; awaiting it gives the cells.

    Args:
        config: what to run; it starts at once. live: whether to make widgets.
    """

    def __init__(self, config: PrecisionConfig, *, live: bool) -> None:
        self.config = config
        self.chosen: tuple[str, int] | None = None
        self.note = ""
        self.error: BaseException | None = None
        self.drawing_error: Exception | None = None
        self.widget: Any = None
        self._cells: list[PrecisionCell] = []
        self._window = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._ended = threading.Event()
        self._draw: Callable[[], None] = lambda: None
        # OpenMP counts threads per thread: the worker would not inherit what the notebook has set.
        self._threads = torch.get_num_threads()
        if live:
            self.widget, self._draw = _widget(self)
        ready(torch.device(config.device))
        self._thread = threading.Thread(target=self._work, name="rislab precision", daemon=True)
        self._thread.start()

    @property
    def state(self) -> str:
        """ "running", "stopped", "failed" or "finished"."""
        if not self._ended.is_set():
            return "running"
        if self.error is not None:
            return "failed"
        return "finished" if len(self.cells()) == len(self.config.places()) else "stopped"

    @property
    def title(self) -> str:
        """The state, how many cells are done, and the one in progress."""
        done, places = len(self.cells()), self.config.places()
        text = f"{self.state}: {done} of {len(places)} cells"
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
        """Show the curves of a cell; returns whether it has been run, and `note` says so if not."""
        done = [(cell.mode, cell.accumulation_steps) for cell in self.cells()]
        where = f"{mode}, {accumulation_steps} × {BATCH // accumulation_steps} scenes"
        if (mode, accumulation_steps) not in done:
            self.note = f"{where} has not been run yet" if self.state == "running" else f"{where} was not run"
        else:
            self.chosen, self.note = (mode, accumulation_steps), ""
        self._show()
        return not self.note

    def stop(self) -> None:
        """Stop after the window in progress."""
        self._stop.set()

    def __await__(self) -> Generator[Any, None, list[PrecisionCell]]:
        return self._wait().__await__()

    async def _wait(self) -> list[PrecisionCell]:
        try:
            while not self._ended.is_set():
                await asyncio.sleep(POLL_SECONDS)
        except asyncio.CancelledError:
            self.stop()
            self._thread.join()
            raise KeyboardInterrupt from None
        self._thread.join()  # the last drawing
        if self.error is not None:
            raise self.error
        return self.cells()

    def _work(self) -> None:
        torch.set_num_threads(self._threads)
        shown = 0.0
        try:
            for progress in stream(self.config):
                with self._lock:
                    if isinstance(progress, PrecisionCell):
                        self._cells.append(progress)
                self._window = progress.step if isinstance(progress, WindowComparison) else 0
                if isinstance(progress, PrecisionCell) or time.monotonic() - shown >= REDRAW_SECONDS:
                    self._show()
                    shown = time.monotonic()
                if self._stop.is_set():
                    break
        except BaseException as error:  # kept, and raised again where the panel is awaited
            self.error = error
        self._ended.set()
        self._show()

    def _show(self) -> None:
        if self.drawing_error is None:
            try:
                self._draw()
            except Exception as error:  # a drawing fault must not end the runs; the figures below are static
                self.drawing_error = error

    def _repr_mimebundle_(self, **options: Any) -> Any:
        if self.widget is not None:
            return self.widget._repr_mimebundle_(**options)
        return {"text/plain": f"running {len(self.config.places())} cells; await the panel for them"}


def _widget(panel: PrecisionPanel) -> tuple[Any, Callable[[], None]]:
    """Stop, table, meaning and curves of the chosen cell, and the function that shows the present state in them."""
    import ipywidgets as widgets

    from rislab.panels.plot_widget import PlotWidget

    rows, columns = panel.config.modes, panel.config.accumulation_steps
    templates = {theme: template(theme) for theme in ("light", "dark")}
    stop = widgets.Button(
        description="Stop", icon="stop", tooltip="End after the window in progress", layout={"width": "100px"}
    )
    hint = "Click a cell for its curves; ✗ passes its alarm level; colour: share of the alarm."
    note, text = widgets.HTML(hint), widgets.HTML()
    table = PlotWidget(precision_table_dict([], rows, columns, panel.title), templates)
    detail = PlotWidget(empty_figure_dict("no cell is done yet", CURVES_HEIGHT), templates)

    def draw() -> None:
        cells, cell, ended = panel.cells(), panel.shown(), panel.state != "running"
        chosen = None if cell is None else (cell.mode, cell.accumulation_steps)
        table.update(precision_table_dict(cells, rows, columns, panel.title, chosen))
        said = panel.note if panel.error is None else f"{type(panel.error).__name__}: {panel.error}"
        note.value = f"<b style='color:{ERROR_COLOUR}'>{html.escape(said)}</b>" if said else hint
        stop.disabled = ended
        if cell is not None:
            text.value = cell_explanation(cell)
            detail.update(window_curves_dict(cell, fp64_reference(cells, cell.accumulation_steps)))
        if ended:
            table.flush()
            detail.flush()

    def clicked(event: dict[str, Any]) -> None:
        panel.choose(rows[int(event["y"])], columns[int(event["x"])])

    stop.on_click(lambda button: panel.stop())
    table.on_event("click", clicked)
    return widgets.VBox([widgets.HBox([stop, note]), table, text, detail]), draw
