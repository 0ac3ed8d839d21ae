"""Live panels for notebooks: `panel = rislab.panels.overfit(config)`, and in the next cell `records = await panel`.

A run is one worker thread that drains a stream of records; buttons only set flags; awaiting neither blocks the kernel
nor loses an exception. Without widgets (RISLAB_LIVE=0, as in reports, or no anywidget) the same cells run to the end.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from rislab import machine
from rislab.errors import InputError
from rislab.overfit import OverfitConfig, WholeSet
from rislab.records import Record, epoch_line, epochs, steps

if TYPE_CHECKING:
    import ipywidgets

    from rislab.explore import View
    from rislab.model import CovarianceNet
    from rislab.music_panel import MusicPanel

REDRAW_SECONDS = 0.2
POLL_SECONDS = 0.05


class Runner:
    """Drains a stream of records in a thread of its own; stops at a step boundary.

    Args:
        stream: called in that thread; returns the generator of records.
        on_tick: called there after a record, five times a second at most, and once at the end. Its exception ends the
            ticks (see `tick_error`), never the run.
    """

    def __init__(self, stream: Callable[[], Generator[Record]], on_tick: Callable[[], None] = lambda: None) -> None:
        self.error: BaseException | None = None
        self.tick_error: Exception | None = None
        self._stream, self._on_tick = stream, on_tick
        self._records: list[Record] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        # OpenMP counts threads per thread: the worker would not inherit what the notebook has set.
        self._threads = torch.get_num_threads()
        self._thread = threading.Thread(target=self._work, name="rislab run", daemon=True)

    def start(self) -> None:
        """Begin; a second call does nothing."""
        if self._thread.ident is None:
            self._thread.start()

    def stop(self) -> None:
        """Ask the run to stop after the window in progress."""
        self._stop.set()

    @property
    def running(self) -> bool:
        """Whether the thread is alive."""
        return self._thread.is_alive()

    @property
    def state(self) -> str:
        """ "waiting", "running", "stopped", "failed" or "finished"."""
        if self._thread.ident is None:
            return "waiting"
        if self.running:
            return "running"
        if self.error is not None:
            return "failed"
        return "stopped" if self._stop.is_set() else "finished"

    def records(self) -> list[Record]:
        """The records so far, as a list of the caller's own."""
        with self._lock:
            return list(self._records)

    async def wait(self) -> list[Record]:
        """All records, once the run has ended; raises the run's exception. An interrupt stops the run first."""
        try:
            while self.running:
                await asyncio.sleep(POLL_SECONDS)
        except asyncio.CancelledError:
            self.stop()
            self._thread.join()
            raise KeyboardInterrupt from None
        if self.error is not None:
            raise self.error
        return self.records()

    def _work(self) -> None:
        torch.set_num_threads(self._threads)
        drawn = 0.0
        try:
            stream = self._stream()
            try:
                for record in stream:
                    with self._lock:
                        self._records.append(record)
                    if time.monotonic() - drawn >= REDRAW_SECONDS:
                        self._tick()
                        drawn = time.monotonic()
                    if self._stop.is_set():
                        break
            finally:
                stream.close()
        except BaseException as error:  # kept, and raised again where the run is awaited
            self.error = error

    def _tick(self) -> None:
        if self.tick_error is None:
            try:
                self._on_tick()
            except Exception as error:  # a drawing fault must not end a training; the panel shows it
                self.tick_error = error


class OverfitPanel:
    """The training on the whole set with its live curve and a Stop button; awaiting it gives the records.

    Args:
        config: what to train. live: whether to make widgets.
    """

    def __init__(self, config: OverfitConfig, *, live: bool) -> None:
        self.config = config
        self.whole = WholeSet(config, config.data())
        self.widget: ipywidgets.Widget | None = None
        self._draw: Callable[[str], None] = lambda state: None
        self._runner = Runner(self.whole.stream, lambda: self._draw("running"))
        if live:
            self.widget, self._draw = _overfit_widget(self)
        self._runner.start()

    @property
    def model(self) -> nn.Module:
        """The network that is being trained."""
        return self.whole.model

    def records(self) -> list[Record]:
        """The records so far."""
        return self._runner.records()

    def stop(self) -> None:
        """Stop after the window in progress."""
        self._runner.stop()

    def __await__(self) -> Generator[Any, None, list[Record]]:
        records = yield from self._runner.wait().__await__()
        self._draw(self._runner.state)
        return records

    def _repr_mimebundle_(self, **options: Any) -> Any:
        if self.widget is not None:
            return self.widget._repr_mimebundle_(**options)
        return {"text/plain": f"training {self.config.scenes} {self.config.preset} scenes; await it for the records"}


def overfit(config: OverfitConfig | None = None) -> OverfitPanel:
    """Start training the whole set of the overfit ladder; show it as the last value of a cell, await it in the next.

    Args:
        config: see OverfitConfig; its defaults if None.

    Raises:
        InputError: for anything that is not an OverfitConfig.
    """
    chosen = OverfitConfig() if config is None else config
    if not isinstance(chosen, OverfitConfig):
        raise InputError(f"config is a {type(chosen).__name__}; allowed: an OverfitConfig")
    return OverfitPanel(chosen, live=is_live())


def music(view: View | None = None, *, model: CovarianceNet | None = None) -> MusicPanel:
    """The panel on one scene: drag its sources, turn its knobs, and watch the spectra follow.

    Args:
        view: where to begin; the default View if None. model: network of the learned covariance.

    Raises:
        InputError: for anything that is not a View.
    """
    from rislab.explore import View
    from rislab.music_panel import MusicPanel

    chosen = View() if view is None else view
    if not isinstance(chosen, View):
        raise InputError(f"view is a {type(chosen).__name__}; allowed: a View")
    return MusicPanel(chosen, model, live=is_live())


def is_live() -> bool:
    """Whether panels make widgets: not if RISLAB_LIVE is 0, nor where a package for them is missing (which is said)."""
    if os.environ.get("RISLAB_LIVE") == "0":
        return False
    able = machine.widgets()
    if able != "yes":
        print(f"live panels: {able}")
    return able == "yes"


def _overfit_widget(panel: OverfitPanel) -> tuple[Any, Callable[[str], None]]:
    """The widget, and the function that draws the present records into it."""
    import ipywidgets as widgets
    import plotly.graph_objects as go

    from rislab import figures

    config = panel.config
    figure = go.FigureWidget()
    figure.update_layout(
        template=figures.template(),
        height=420,
        xaxis={"title": {"text": "optimiser step"}},
        yaxis={"title": {"text": "NMSE (dimensionless)"}, "type": "log"},
        title={"text": "starting"},
    )
    figure.add_scatter(name="each window", mode="lines", line={"color": figures.BLUE, "width": 1})
    figure.add_scatter(name="eval, same data", mode="markers", marker={"color": figures.VERMILLION, "size": 8})
    stop = widgets.Button(description="Stop", icon="stop", tooltip="Stop after the window in progress")
    stop.on_click(lambda button: panel.stop())
    progress = widgets.IntProgress(min=0, max=config.epochs, description="epoch", layout={"width": "30%"})
    line = widgets.Label(layout={"flex": "1 1 auto"})

    def draw(state: str) -> None:
        records = panel.records()
        windows, ends = steps(records), epochs(records)
        with figure.batch_update():
            curve, marks = figure.data
            at, losses = [window.step for window in windows], [window.loss for window in windows]
            curve.x, curve.y = figures.decimate(at, losses)
            marks.x, marks.y = [end.step for end in ends], [end.train_eval for end in ends]
            figure.layout.title.text = f"{state}: {config.preset}, {config.precision}, step {len(windows)}"
        progress.value = len(ends)
        line.value = epoch_line(ends[-1]) if ends else ""
        stop.disabled = state != "running"

    return widgets.VBox([widgets.HBox([stop, progress, line]), figure]), draw
