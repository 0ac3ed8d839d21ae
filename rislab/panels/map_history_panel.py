"""The map during training as a picture: live beside a run, and a slider over its epochs that survives in a report."""

from __future__ import annotations

import html
import threading
import time
from collections.abc import Callable
from typing import Any

import torch

from rislab.music.map_history import MapHistory, Snapshot
from rislab.plots.map_history import snapshot_figure_dict
from rislab.plots.style import ERROR_COLOUR, template

REDRAW_SECONDS = 0.2


class FilmPanel:
    """A film beside the run that makes it: the newest frame while it trains, any frame by slider.

    Args:
        film: what to show. live: whether to make widgets; without them the panel shows figure().
    """

    def __init__(self, film: MapHistory, *, live: bool) -> None:
        self.film = film
        self.following = True
        self.epoch: int | None = None  # of the frame to show while not following
        self.shown: Snapshot | None = None
        self.error = ""
        self.widget: Any = None
        self._changed = threading.Condition()
        self._asked = self._drawn = 0
        self._threads = torch.get_num_threads()
        self._show: Callable[[], None] = lambda: None
        if live:
            self.shown = film.last
            self.widget, self._show = _widget(self)
            self._leave = film.subscribe(self.refresh)
            threading.Thread(target=self._work, name="rislab film", daemon=True).start()
            self.refresh()

    def follow(self) -> None:
        """Show the newest frame, and every one that comes."""
        self.following = True
        self.refresh()

    def choose(self, epoch: int) -> None:
        """Show the frame that is nearest to an epoch, and stay there."""
        self.following, self.epoch = False, epoch
        self.refresh()

    def refresh(self) -> None:
        """Draw soon, in a thread of the panel's own; five times a second at most while it follows a run."""
        with self._changed:
            self._asked += 1
            self._changed.notify_all()

    def settle(self, seconds: float = 30.0) -> Snapshot | None:
        """Wait until all that was asked for so far is shown; raises TimeoutError."""
        with self._changed:
            asked = self._asked
            if not self._changed.wait_for(lambda: self._drawn >= asked, seconds):
                raise TimeoutError(f"no frame within {seconds:g} s")
        return self.shown

    def _wanted(self) -> Snapshot | None:
        frames = self.film.snapshots()
        if not frames or self.following or self.epoch is None:
            return frames[-1] if frames else None
        epoch = self.epoch
        return min(frames, key=lambda frame: abs(frame.epoch - epoch))

    def _work(self) -> None:
        torch.set_num_threads(self._threads)
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._asked > self._drawn)
                asked = self._asked
            began = time.monotonic()
            try:
                self.shown, self.error = self._wanted(), ""
                self._show()
            except Exception as error:  # said beside the slider; the next frame may be drawn again
                self.error = str(error)
                self._show_error()
            with self._changed:
                self._drawn = asked
                self._changed.notify_all()
            # Beside a run two thirds of the time are left to it: a search takes as long as some of its windows.
            time.sleep(max(REDRAW_SECONDS, 2 * (time.monotonic() - began)) if self.following else REDRAW_SECONDS / 10)

    def _show_error(self) -> None:
        self.widget.children[1].value = f"<b style='color:{ERROR_COLOUR}'>{html.escape(self.error)}</b>"

    def _repr_mimebundle_(self, **options: Any) -> Any:
        if self.widget is not None:
            return self.widget._repr_mimebundle_(**options)
        # A picture taken in the middle of a training would depend on how fast the machine is.
        return {"text/plain": "a film of one scene; film_panel.figure(film) shows it after training"}


def _widget(panel: FilmPanel) -> tuple[Any, Callable[[], None]]:
    """Slider, Play and plot, and the function that shows the panel's frame in them."""
    import ipywidgets as widgets

    from rislab.panels.plot_widget import PlotWidget

    slider = widgets.IntSlider(min=0, max=0, readout=False, layout={"width": "420px"})
    play = widgets.Play(min=0, max=0, interval=500, show_repeat=False)
    label = widgets.Label(layout={"width": "150px"})
    newest = widgets.Checkbox(description="follow the newest", value=True, indent=False, layout={"width": "160px"})
    alarm = widgets.HTML()
    # Linked in the page: Play moves the slider without the kernel, and the slider tells the kernel.
    widgets.jslink((play, "value"), (slider, "value"))
    plot = PlotWidget(
        snapshot_figure_dict(panel.film, panel.shown), {theme: template(theme) for theme in ("light", "dark")}
    )
    quiet = threading.local()

    def moved(change: Any) -> None:
        frames = panel.film.snapshots()
        if vars(quiet).get("on") or not frames:
            return
        panel.choose(frames[min(change["new"], len(frames) - 1)].epoch)
        quiet.on = True
        newest.value = False
        quiet.on = False

    def ticked(change: Any) -> None:
        if vars(quiet).get("on"):
            return
        if change["new"]:
            panel.follow()
        elif panel.shown is not None:
            panel.choose(panel.shown.epoch)

    slider.observe(moved, "value")
    newest.observe(ticked, "value")

    def show() -> None:
        frames, frame = panel.film.snapshots(), panel.shown
        plot.update(snapshot_figure_dict(panel.film, frame))
        alarm.value = ""
        if frame is None or frame not in frames:
            return
        quiet.on = True
        slider.max = play.max = len(frames) - 1
        slider.value = frames.index(frame)
        newest.value = panel.following
        quiet.on = False
        label.value = f"epoch {frame.epoch}, newest {frames[-1].epoch}"

    return widgets.VBox([widgets.HBox([play, slider, label, newest]), alarm, plot]), show
