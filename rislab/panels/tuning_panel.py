"""A search on the screen: its course as it comes, with Stop and Go on; awaiting it gives the last Progress."""

from __future__ import annotations

import asyncio
import html
import tempfile
import threading
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from typing import Any

from rislab.panels.background_task import POLL_SECONDS
from rislab.plots import tuning as tuning_plots
from rislab.plots.style import ERROR_COLOUR, template
from rislab.tuning import search
from rislab.tuning.search import Progress
from rislab.tuning.study import TuningConfig


class TuningPanel:
    """A search in worker processes, which begins at once.

    Args:
        config: see TuningConfig.
        folder: of the study; a search that was stopped there goes on. None keeps it as long as the panel lives.
        live: whether to make widgets. options: further arguments of search.search().
    """

    def __init__(self, config: TuningConfig, folder: Path | None, *, live: bool, **options: Any) -> None:
        self.config = config
        self._scratch = tempfile.TemporaryDirectory() if folder is None else None
        self.folder = folder or Path(self._scratch.name if self._scratch else "")
        self.progress: Progress | None = None
        self.error: BaseException | None = None
        self.widget: Any = None
        self._options = options
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._show: Callable[[], None] = lambda: None
        if live:
            self.widget, self._show = _widget(self)
        self.start()

    @property
    def state(self) -> str:
        """ "running", "stopped", "failed" or "finished"."""
        if self._thread is not None and self._thread.is_alive():
            return "running"
        if self.error is not None:
            return "failed"
        return "finished" if self.progress is not None and self.progress.stage == "done" else "stopped"

    def start(self) -> None:
        """Begin, or go on where it was stopped; does nothing while it runs."""
        if self.state == "running":
            return
        self._stop.clear()
        self.error = None
        self._thread = threading.Thread(target=self._work, name="rislab search", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop the workers at a step boundary; what they have begun is gone on with by start()."""
        self._stop.set()

    def _work(self) -> None:
        try:
            with closing(search.search(self.folder, self.config, **self._options)) as progress:
                for self.progress in progress:
                    self._show()
                    if self._stop.is_set():
                        break
        except BaseException as error:  # kept, and raised again where the search is awaited
            self.error = error
        threading.Timer(2 * POLL_SECONDS, self._show).start()

    def __await__(self) -> Generator[Any, None, Progress]:
        return self._wait().__await__()

    async def _wait(self) -> Progress:
        try:
            while self.state == "running":
                await asyncio.sleep(POLL_SECONDS)
        except asyncio.CancelledError:
            self.stop()
            raise KeyboardInterrupt from None
        if self.error is not None:
            raise self.error
        assert self.progress is not None
        return self.progress

    def headline(self) -> str:
        """What is being done, how far it is, and how long it will take."""
        now = self.progress
        if now is None:
            return "opening the study"
        if now.stage == "ladder":
            return f"climbing the overfit ladder: {len(now.ladder.get('checks', []))} checks"
        left = "" if now.left is None or now.stage != "search" else f", about {now.left:.0f} s left"
        stage = {
            "search": "searching",
            "runoff": "training the leaders again",
            "confirm": "training best and default again",
            "done": "all done",
        }[now.stage]
        best = (
            "" if now.best is None else f"; best: trial {now.best.number}, {self.config.objective} {now.best.score:.4f}"
        )
        return f"{self.state}, {stage}: {now.ended()} of {self.config.trials} trials{left}{best}"

    def verdict(self) -> str:
        """Best against default, once both are trained again; see search.verdict()."""
        if self.progress is None or self.progress.stage != "done" or not self.progress.finals:
            return ""
        return search.verdict(self.progress.finals, self.config)

    def _repr_mimebundle_(self, **options: Any) -> Any:
        if self.widget is not None:
            return self.widget._repr_mimebundle_(**options)
        return {"text/plain": f"{self.headline()}: await the panel for its progress"}


def _widget(panel: TuningPanel) -> tuple[Any, Callable[[], None]]:
    """Buttons, headline, warnings and plot, and the function that shows the present state in them."""
    import ipywidgets as widgets

    from rislab.panels.plot_widget import PlotWidget

    go_on = widgets.Button(description="Go on", icon="play", tooltip="Go on where it was stopped")
    stop = widgets.Button(description="Stop", icon="stop", tooltip="Stop the workers after the step in progress")
    headline, note = widgets.Label(), widgets.HTML()
    plot = PlotWidget(tuning_plots.history((), panel.config), {theme: template(theme) for theme in ("light", "dark")})

    def show() -> None:
        headline.value = panel.headline()
        now = panel.progress
        said = [*(now.warnings if now else ()), *([str(panel.error)] if panel.error else [])]
        alarms = "".join(f"<div style='color:{ERROR_COLOUR}'>{html.escape(text)}</div>" for text in said)
        note.value = f"<div>{html.escape(panel.verdict())}</div>{alarms}"
        go_on.disabled, stop.disabled = panel.state in ("running", "finished"), panel.state != "running"
        plot.update(lambda: tuning_plots.history(now.trials if now else (), panel.config))
        if panel.state != "running":
            plot.flush()

    def pressed(call: Callable[[], None]) -> Callable[[Any], None]:
        def press(button: Any) -> None:
            call()
            show()

        return press

    go_on.on_click(pressed(panel.start))
    stop.on_click(pressed(panel.stop))
    return widgets.VBox([widgets.HBox([go_on, stop, headline]), plot, note]), show
