"""The map during training beside the run: the newest snapshot, or by slider that of any epoch."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import Any

from rislab.music.map_history import MapHistory, Snapshot
from rislab.panels.base import RequestPanel
from rislab.panels.knobs import labelled
from rislab.plots.map_history import snapshot_figure_dict

REST_SECONDS = 0.2  # between two drawings beside a run


class MapHistoryPanel(RequestPanel[None, Snapshot | None]):
    """A history beside the run that makes it; awaiting it gives the snapshot that it shows.

    Attributes:
        following: whether the newest snapshot is shown, or the one nearest to `epoch`.
        shown: the snapshot in the figure; None before the first.

    Args:
        history: what to show.
        live: whether to make widgets; without them the panel shows a line that says where the figure is.
    """

    def __init__(self, history: MapHistory, *, live: bool) -> None:
        self.history = history
        self.following = True
        self.epoch = 0
        self.shown = history.last
        self._due = 0.0
        super().__init__(live=live)
        if live:
            history.subscribe(self.refresh)
            self.refresh()

    def follow(self) -> None:
        """Show the newest snapshot, and every one that comes."""
        self.following = True
        self.refresh()

    def choose(self, epoch: int) -> None:
        """Show the snapshot that is nearest to an epoch, and stay there."""
        self.following, self.epoch = False, epoch
        self.refresh()

    def refresh(self) -> None:
        """Draw soon, in a thread of the panel's own; five times a second at most while it follows a run."""
        self.submit(None)

    def work(self, request: None) -> Generator[object]:
        time.sleep(max(0.0, self._due - time.monotonic()))
        began = time.monotonic()
        snapshots = self.history.snapshots()
        if self.following or not snapshots:
            self.shown = self.history.last
        else:
            self.shown = min(snapshots, key=lambda snapshot: abs(snapshot.epoch - self.epoch))
        try:
            yield self.shown
        finally:
            # Beside a run two thirds of the time are left to it: a search takes as long as some of its windows.
            drawn = time.monotonic()
            rest = max(REST_SECONDS, 2 * (drawn - began)) if self.following else REST_SECONDS / 10
            self._due = drawn + rest

    def result(self) -> Snapshot | None:
        return self.shown

    def static(self) -> dict[str, Any]:
        # A figure made in the middle of a training would depend on how fast the machine is.
        return {"text/plain": "a map history; map_history_figure(history) shows it after training"}

    def build(self) -> tuple[Any, Callable[[], None]]:
        import ipywidgets as widgets

        slider = labelled(widgets.IntSlider, "map of", "470px", min=0, max=0, readout=False)
        play = widgets.Play(min=0, max=0, interval=500, show_repeat=False)
        # Where there is little room it is the slider that gets shorter, and no text.
        label = widgets.Label(layout={"width": "180px", "flex": "0 0 auto"})
        newest = widgets.Checkbox(
            description="follow the newest", value=True, indent=False, layout={"width": "160px", "flex": "0 0 auto"}
        )
        # Linked in the page: Play moves the slider without the kernel, and the slider tells the kernel.
        widgets.jslink((play, "value"), (slider, "value"))
        plot = self.plot(snapshot_figure_dict(self.history, self.shown))
        drawn: list[object] = []

        def move(position: int) -> None:
            snapshots = self.history.snapshots()
            if snapshots:
                self.choose(snapshots[min(position, len(snapshots) - 1)].epoch)
                with self.user_input.paused():
                    newest.value = False

        def tick(follow: bool) -> None:
            if follow:
                self.follow()
            elif self.shown is not None:
                self.choose(self.shown.epoch)

        def draw() -> None:
            snapshots, snapshot = self.history.snapshots(), self.shown
            now = [snapshot, *snapshots]
            if now != drawn:
                plot.update(snapshot_figure_dict(self.history, snapshot))
                drawn[:] = now
            if snapshot in snapshots:
                slider.max = play.max = len(snapshots) - 1
                slider.value = snapshots.index(snapshot)
                newest.value = self.following
                label.value = f"epoch {snapshot.epoch}, newest {snapshots[-1].epoch}"

        self.user_input.observe(slider, move)
        self.user_input.observe(newest, tick)
        return widgets.VBox([widgets.HBox([play, slider, label, newest]), self.alarm, plot]), draw
