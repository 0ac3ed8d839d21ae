"""A search on the screen: its trials as they come, with Stop and Go on; awaiting it gives the last SearchProgress."""

from __future__ import annotations

import html
import tempfile
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from typing import Any

from rislab.errors import with_error
from rislab.panels.background_task import BackgroundTask
from rislab.panels.base import Panel, alarm, cut_line
from rislab.plots import tuning as tuning_plots
from rislab.sanity.overfit_ladder import CHECKS
from rislab.tuning.analysis import top_trials, verdict
from rislab.tuning.search import SearchProgress, run_search
from rislab.tuning.tuning_config import TuningConfig

STAGES = {
    "search": "searching",
    "runoff": "training the leaders again",
    "confirm": "training best and default again",
    "done": "all done",
}


class TuningPanel(Panel[SearchProgress]):
    """A search in worker processes, which begins at once.

    Args:
        config: see TuningConfig.
        folder: of the study; a search that was stopped there goes on. None stores it as long as the panel lives.
        live: whether to make widgets.
        options: further arguments of run_search().
    """

    def __init__(self, config: TuningConfig, folder: Path | None, *, live: bool, **options: Any) -> None:
        self.config = config
        self._scratch = tempfile.TemporaryDirectory() if folder is None else None
        self.folder = folder or Path(self._scratch.name if self._scratch else "")
        self.progress: SearchProgress | None = None
        self._options = options
        self._task = self._new_task()
        super().__init__(live=live)
        self.start()

    @property
    def task(self) -> BackgroundTask[SearchProgress]:
        return self._task

    @property
    def state(self) -> str:
        """ "waiting", "running", "stopped", "failed" or "finished"."""
        if self._task.state != "stopped":
            return self._task.state
        # It may have been done when Stop was pressed.
        return "finished" if self.progress is not None and self.progress.stage == "done" else "stopped"

    def start(self) -> None:
        """Begin, or go on where it was stopped; does nothing while it runs."""
        if self.state == "running":
            return
        if self.state != "waiting":
            self._task = self._new_task()
        self._task.start()
        self.redraw()

    def result(self) -> SearchProgress:
        assert self.progress is not None
        return self.progress

    def headline(self) -> str:
        """What is being done, how far it is, and how long it will take."""
        now = self.progress
        part = "check" if now is not None and now.stage == "ladder" else "step"
        doing = f"stopping after the {part} in progress" if self.activity == "stopping" else self.state
        if now is None:
            return f"{doing}, opening the study"
        if now.stage == "ladder" and now.ladder.get("skipped"):
            return f"{doing}, the overfit ladder is skipped"
        if now.stage == "ladder":
            done = len(now.ladder.get("checks", []))
            return f"{doing}, climbing the overfit ladder before the search: {done} of {len(CHECKS)} checks done"
        searching = now.stage == "search" and doing == "running"
        left = f", about {now.left:.0f} s left" if searching and now.left is not None else ""
        best = ""
        if now.best is not None:
            # After the run-off it need not be the one with the best score.
            score, error = now.best.last_score, now.best.error
            scored = f"{score:.4f}" if error is None else with_error(score, error)
            which = "best of the run-off" if now.stage in ("confirm", "done") and now.runoff else "best"
            best = f"; {which}: trial {now.best.number}, {self.config.objective} {scored}"
        return f"{doing}, {STAGES[now.stage]}: {self._count(now)}{left}{best}"

    def _count(self, now: SearchProgress) -> str:
        """How many of the trials have ended, or of the trainings after them."""
        again = {"runoff": (now.runoff, len(top_trials(now.trials, self.config))), "confirm": (now.finals, 2)}
        if now.stage not in again:
            running = len(now.trials) - now.ended() if self.state == "running" else 0
            return f"{now.ended()} of {self.config.trials} trials" + (f", {running} running" if running else "")
        done, configurations = again[now.stage]
        return f"{len(done)} of {configurations * self._options.get('confirm', 5)} trainings"

    def verdict(self) -> str:
        """Best against default, once both are trained again; see analysis.verdict()."""
        if self.progress is None or self.progress.stage != "done" or not self.progress.finals:
            return ""
        return verdict(self.progress.finals, self.config)

    def build(self) -> tuple[Any, Callable[[], None]]:
        import ipywidgets as widgets

        go_on = widgets.Button(description="Go on", icon="play", tooltip="Go on where it was stopped")
        tip = "Stop the workers after the step in progress"
        stop = widgets.Button(description="Stop", icon="stop", tooltip=tip)
        headline, note = widgets.HTML(layout={"flex": "1 1 0", "min_width": "0"}), widgets.HTML()
        for button in (go_on, stop):  # a longer text moves no button
            button.layout.flex = "0 0 auto"
        plot = self.plot(tuning_plots.history((), self.config))

        def draw() -> None:
            now, running, activity = self.progress, self.state == "running", self.activity
            headline.value = cut_line(html.escape(self.headline()), 2)
            warnings = "".join(f"<div>{alarm(text)}</div>" for text in (now.warnings if now else ()))
            note.value = f"<div>{html.escape(self.verdict())}</div>{warnings}"
            go_on.disabled, stop.disabled = running or self.state == "finished", activity != "running"
            plot.update(lambda: tuning_plots.history(now.trials if now else (), self.config))
            if not running:
                plot.flush()

        go_on.on_click(lambda button: self.start())
        stop.on_click(lambda button: self.stop())
        return widgets.VBox([widgets.HBox([go_on, stop, headline]), self.alarm, plot, note]), draw

    def static(self) -> dict[str, Any]:
        return {"text/plain": f"{self.headline()}: await the panel for its progress"}

    def _new_task(self) -> BackgroundTask[SearchProgress]:
        return BackgroundTask(self._stream, self.redraw)

    def _stream(self) -> Generator[SearchProgress]:
        with closing(run_search(self.folder, self.config, **self._options)) as stages:
            for self.progress in stages:
                yield self.progress
