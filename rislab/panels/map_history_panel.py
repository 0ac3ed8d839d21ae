"""The map during training as a picture: live beside a run, and a slider over its epochs that survives in a report."""

from __future__ import annotations

import html
import math
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import plotly.graph_objects as go
import torch

from rislab.errors import InputError
from rislab.music.map_history import MapHistory, Snapshot, evenly_spaced
from rislab.panels.music_panel import BAR, CROSS, FLOOR_DB, STILL, decibels, degrees
from rislab.plots.style import BLUE, ERROR_COLOUR, GREY, VERMILLION, template

HEIGHT = 444
REDRAW_SECONDS = 0.2
STEPS = 12  # frames of the figure in a report, each with a map of its own
RING = {"symbol": "circle-open", "size": 19, "color": "white", "line": {"width": 2.5}}
ABOVE = {"yref": "container", "y": 1, "yanchor": "top", "pad": {"t": 12}}
KEY = {"symbol": "circle-open", "size": 13, "color": GREY, "line": {"width": 2.5}}


def figure(film: MapHistory, *, most: int = STEPS) -> go.Figure:
    """The film as a plain figure with a slider over its epochs, which survives saving and reports.

    Args:
        film: with at least one frame. most: frames to show, evenly among those kept, with the first and the last, ≥ 2.

    Raises:
        InputError: for a film without frames.
    """
    frames = evenly_spaced(film.snapshots(), most)
    if not frames:
        raise InputError("film has 0 frames; allowed: at least one, so let a run call its take_snapshot() first")
    parts = [_own(film, frame) for frame in frames]
    common = _common(film, frames)
    layout = _layout(film, frames[-1])
    steps = []
    for place, (frame, part) in enumerate(zip(frames, parts, strict=True)):
        seen = [other == place for other in range(len(frames)) for _ in part]
        title = {"title.text": frame.line(), "annotations[0].text": _named(frame)}
        visible = {"visible": seen + [True] * len(common)}
        steps.append({"method": "update", "label": str(frame.epoch), "args": [visible, title]})
        for trace in part:
            trace["visible"] = place == len(frames) - 1
    layout["sliders"] = [
        {
            "active": len(steps) - 1,
            "steps": steps,
            "currentvalue": {"prefix": "epoch ", "xanchor": "left"},
            "pad": {"t": 50},
            "bgcolor": GREY,
            "bordercolor": GREY,
            "tickcolor": GREY,
            "activebgcolor": BLUE,
            "x": 0,
            "len": 0.92,
        }
    ]
    layout["height"] = HEIGHT + 90
    layout["margin"] = {**layout["margin"], "b": 150}
    data = [trace for part in parts for trace in part] + common
    return go.Figure({"data": data, "layout": layout}).update_layout(template=template())


def figure_dict(film: MapHistory, frame: Snapshot | None) -> dict[str, Any]:
    """A frame as data and layout: the map of the learned covariance beside that of the true one, and the NMSE so far.

    Args:
        film: the film. frame: one of its frames; None draws the true map alone.
    """
    own = [] if frame is None else _own(film, frame)
    return {"data": [*own, *_common(film, film.snapshots())], "layout": _layout(film, frame)}


def _own(film: MapHistory, frame: Snapshot) -> list[dict[str, Any]]:
    """What belongs to one frame: its map, its estimates, and where it stands on the curve."""
    marks: dict[str, Any] = {"x": [None], "y": [None]}
    if frame.peaks is not None and bool(frame.peaks.active.any()):
        found = frame.peaks.active[0]
        marks = {"x": degrees(frame.peaks.azimuth[0][found]), "y": degrees(frame.peaks.elevation[0][found])}
    place = {"x": [frame.epoch], "y": [frame.nmse if _drawable(frame) else None]}
    spot = {"mode": "markers", "marker": {"size": 12, "color": BLUE, "symbol": "diamond"}, "hoverinfo": "skip"}
    return [
        _heat(film, frame.map, ""),
        {"type": "scatter", "mode": "markers", "name": "estimate", "marker": CROSS, **marks},
        {"type": "scatter", "xaxis": "x3", "yaxis": "y3", "showlegend": False, **spot, **place},
    ]


def _common(film: MapHistory, frames: list[Snapshot]) -> list[dict[str, Any]]:
    """What all frames share: the true map, the rings of the sources, and NMSE over epochs."""
    active = film.scene.active[0]
    at = {"x": degrees(film.scene.azimuth[0][active]), "y": degrees(film.scene.elevation[0][active])}
    ring = {
        "type": "scatter",
        "mode": "markers",
        "marker": RING,
        "showlegend": False,
        "cliponaxis": False,
        "name": "true source",
        **at,
    }
    key = {"type": "scatter", "mode": "markers", "marker": KEY, "name": "true source", "x": [None], "y": [None]}
    curve = {"type": "scatter", "xaxis": "x3", "yaxis": "y3", "showlegend": False}
    known = [frame for frame in frames if _drawable(frame)]
    strange = [frame for frame in frames if not _drawable(frame)]
    return [
        _heat(film, film.truth, "2"),
        ring,
        {**ring, "xaxis": "x2", "yaxis": "y2"},
        key,
        {
            **curve,
            "mode": "lines+markers",
            "line": {"color": BLUE, "width": 1.5},
            "marker": {"size": 5},
            "x": [frame.epoch for frame in known],
            "y": [frame.nmse for frame in known],
            "hovertemplate": "epoch %{x}<br>NMSE %{y:.4g}<extra></extra>",
        },
        {
            **curve,
            "mode": "markers",
            "marker": {"symbol": "triangle-down", "size": 10, "color": VERMILLION},
            "x": [frame.epoch for frame in strange],
            "y": [min((frame.nmse for frame in known), default=1.0)] * len(strange),
            "hovertext": [frame.line() for frame in strange],
            "hoverinfo": "text",
        },
    ]


def _drawable(frame: Snapshot) -> bool:
    """Whether a logarithmic axis can show the NMSE."""
    return math.isfinite(frame.nmse) and frame.nmse > 0


def _heat(film: MapHistory, values: torch.Tensor, axis: str) -> dict[str, Any]:
    return {
        "type": "heatmap",
        "x": degrees(film.grid.azimuth),
        "y": degrees(film.grid.elevation),
        "z": np.ascontiguousarray(decibels(values).numpy().T),
        "coloraxis": "coloraxis",
        "xaxis": f"x{axis}",
        "yaxis": f"y{axis}",
        "hovertemplate": "azimuth %{x:.1f}°<br>elevation %{y:.1f}°<br>%{z:.1f} dB<extra></extra>",
    }


def _named(frame: Snapshot | None) -> str:
    if frame is None:
        return "learned covariance: no epoch yet"
    return f"learned covariance, epoch {frame.epoch}" + (" (no spectrum)" if frame.problem else "")


def _layout(film: MapHistory, frame: Snapshot | None) -> dict[str, Any]:
    ends = [[float(axis[0]), float(axis[-1])] for axis in (degrees(film.grid.azimuth), degrees(film.grid.elevation))]
    across, maps, curve = ([0.0, 0.45], [0.5, 0.95]), [0.46, 1.0], [0.0, 0.24]
    titles = ((across[0], maps, _named(frame)), (across[1], maps, f"true covariance; both MUSIC, {_where(film)}"))
    place = {"xref": "paper", "yref": "paper", "xanchor": "center", "yanchor": "bottom", "showarrow": False}
    still = {"showgrid": False, **STILL}
    return {
        "coloraxis": {"colorscale": "Cividis", "cmin": FLOOR_DB, "cmax": 0.0, "colorbar": {**BAR, "x": 0.96}},
        "height": HEIGHT,
        "margin": {"t": 84, "b": 50, "l": 66, "r": 20},
        "title": {"text": "no epoch yet" if frame is None else frame.line(), **ABOVE},
        "legend": {"orientation": "h", "x": 0.95, "xanchor": "right", "y": 1.08, "yanchor": "bottom"},
        "uirevision": "rislab",
        "xaxis": {"title": {"text": "azimuth (°)"}, "range": ends[0], "domain": across[0], "anchor": "y", **still},
        "yaxis": {"title": {"text": "elevation (°)"}, "range": ends[1], "domain": maps, "anchor": "x", **still},
        "xaxis2": {"title": {"text": "azimuth (°)"}, "range": ends[0], "domain": across[1], "anchor": "y2", **still},
        "yaxis2": {"range": ends[1], "domain": maps, "anchor": "x2", **still},
        "xaxis3": {"title": {"text": "epoch"}, "domain": [0.0, 0.95], "anchor": "y3", "rangemode": "tozero", **STILL},
        "yaxis3": {"title": {"text": "NMSE"}, "type": "log", "domain": curve, "anchor": "x3", "nticks": 4, **STILL},
        "annotations": [
            {**place, "x": sum(span) / 2, "y": top[1], "text": text, "font": {"size": 13}} for span, top, text in titles
        ],
    }


def _where(film: MapHistory) -> str:
    return "plane waves" if film.scene.config.wavefront == "planar" else f"at {float(film.grid.range[0]):.2f} m"


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
    plot = PlotWidget(figure_dict(panel.film, panel.shown), {theme: template(theme) for theme in ("light", "dark")})
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
        plot.update(figure_dict(panel.film, frame))
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
