"""The panel on one scene: sources that can be dragged, everything else by knobs, and the spectra that follow."""

from __future__ import annotations

import html
import math
import threading
from collections.abc import Callable
from typing import Any

import plotly.graph_objects as go
import torch

from rislab.data.geometry import WAVEFRONTS
from rislab.data.scenes import CODES, SYMBOLS
from rislab.errors import InputError
from rislab.model.network import CovarianceNet
from rislab.music.scene_view import (
    COVARIANCE_KINDS,
    SceneAnalysis,
    SceneExplorer,
    SceneSettings,
    SpectraView,
)
from rislab.plots.scene import criteria_table, error_table, scene_figure, scene_figure_dict
from rislab.plots.style import ERROR_COLOUR, template
from rislab.sanity import conventions


class MusicPanel:
    """Knobs around one scene. `view` is what they show, `look` the last that was computed in full.

    A new view is shown in two drawings: its spectra at once (`seen`), then the estimates, which take three times as
    long and are left out while further views wait. What is drawn is always of one view.

    Args:
        view: where to begin. model: network of the learned covariance, or None.
        live: whether to make widgets; without them the panel shows a static figure.
    """

    def __init__(self, view: SceneSettings, model: CovarianceNet | None, *, live: bool) -> None:
        self.explorer = SceneExplorer(model)
        self.view = view
        self.look = self.explorer.analyse(view)
        self.seen: SpectraView = self.look
        self.error = ""
        self.widget: Any = None
        self._newest = threading.Condition()
        self._wanted: SceneSettings | None = None
        self._busy = False
        self._threads = torch.get_num_threads()
        self._show: Callable[[], None] = lambda: None
        if live:
            self.widget, self._show = _widget(self)
        threading.Thread(target=self._work, name="rislab spectra", daemon=True).start()

    def change(self, **fields: Any) -> bool:
        """Change fields of the view; the spectra follow in a thread of their own, the newest view only.

        Returns:
            Whether the values are allowed; if not, nothing changes, and `error` says why.
        """
        try:
            view = self.view.changed(**fields)
        except InputError as error:
            self.error = str(error)
            self._show()
            return False
        with self._newest:
            self.view, self._wanted, self.error = view, view, ""
            self._newest.notify_all()
        return True

    def settle(self, seconds: float = 30.0) -> SceneAnalysis:
        """Wait until the look is that of the present view; raises TimeoutError."""
        with self._newest:
            if not self._newest.wait_for(lambda: self._wanted is None and not self._busy, seconds):
                raise TimeoutError(f"no spectrum within {seconds:g} s")
        return self.look

    def figure(self) -> go.Figure:
        """The last look as a plain figure, which survives saving and reports."""
        return scene_figure(self.look)

    def _work(self) -> None:
        torch.set_num_threads(self._threads)
        while True:
            with self._newest:
                self._newest.wait_for(lambda: self._wanted is not None)
                view, self._wanted, self._busy = self._wanted, None, True
            try:
                if view is not None:
                    self._follow(view)
            except Exception as error:  # shown beside the knobs; the thread goes on with the next view
                self.error = str(error)
                self._show()
            with self._newest:
                self._busy = False
                self._newest.notify_all()

    def _follow(self, view: SceneSettings) -> None:
        self.seen = self.explorer.spectra(view)
        self._show()
        with self._newest:
            if self._wanted is not None:
                return
        self.seen = self.look = self.explorer.complete(self.seen)
        self._show()

    def _repr_mimebundle_(self, **options: Any) -> Any:
        shown = self.widget if self.widget is not None else self.figure()
        return shown._repr_mimebundle_(**options)


def _widget(panel: MusicPanel) -> tuple[Any, Callable[[], None]]:
    """The knobs and the plot, and the function that shows the present look in them."""
    import ipywidgets as widgets

    from rislab.panels.plot_widget import PlotWidget

    view = panel.view
    config = view.config()
    style = {"description_width": "initial"}

    def knob(kind: Any, name: str, width: str = "170px", **options: Any) -> Any:
        return kind(description=name, style=style, layout={"width": width}, **options)

    angles = [tuple(map(math.degrees, interval)) for interval in (config.azimuth, config.elevation)]
    sources = [
        source for source in COVARIANCE_KINDS if panel.explorer.model is not None or source not in ("learned", "blend")
    ]
    snr = knob(widgets.FloatSlider, "SNR (dB)", "260px", min=-10, max=40, step=0.5, value=view.snr_db)
    count = knob(widgets.BoundedIntText, "sources", "110px", min=1, max=5, value=len(view.places))
    chosen = knob(widgets.BoundedIntText, "chosen", "110px", min=1, max=5, value=view.chosen + 1)
    box = widgets.BoundedFloatText
    azimuth = knob(box, "azimuth (°)", "150px", min=angles[0][0], max=angles[0][1], step=0.5)
    elevation = knob(box, "elevation (°)", "160px", min=angles[1][0], max=angles[1][1], step=0.5)
    range_ = knob(box, "range (m)", "140px", min=config.range[0], max=config.range[1], step=0.1)
    covariance = knob(widgets.Dropdown, "covariance", "180px", options=sources, value=view.covariance)
    beta = knob(widgets.FloatSlider, "β", "180px", min=0, max=1, step=0.05, value=view.beta)
    loading = knob(widgets.FloatLogSlider, "loading", "220px", min=-6, max=0, step=0.5, value=view.loading)
    snapshots = knob(widgets.BoundedIntText, "snapshots", "120px", min=1, max=256, value=view.snapshots)
    wavefront = knob(widgets.Dropdown, "wave", "140px", options=list(WAVEFRONTS), value=view.wavefront)
    symbols = knob(widgets.Dropdown, "symbols", "150px", options=list(SYMBOLS), value=view.symbols)
    codes = knob(widgets.Dropdown, "codes", "140px", options=list(CODES), value=view.codes)
    seed = knob(widgets.BoundedIntText, "seed", "110px", min=0, max=2**31 - 1, value=view.seed)
    wide = {"width": "120px"}
    counted = widgets.Button(description="Count sources", tooltip="Order criteria of the measurement", layout=wide)
    checked = widgets.Button(
        description="Conventions", tooltip="Check that the package agrees with the definitions", layout=wide
    )
    alarm, note, errors = widgets.HTML(), widgets.HTML(), widgets.HTML()
    noted = [view]  # what the note was said of
    plot = PlotWidget(
        scene_figure_dict(panel.seen),
        {theme: template(theme) for theme in ("light", "dark")},
        edits={"shapePosition": True},
    )
    quiet = threading.local()

    def moved(place: tuple[float, float, float]) -> None:
        places = list(panel.view.places)
        places[panel.view.chosen] = place
        panel.change(places=tuple(places))

    def typed(change: Any) -> None:
        if not getattr(quiet, "on", False):
            moved((azimuth.value, elevation.value, range_.value))

    def recount(change: Any) -> None:
        places = panel.view.places[: count.value]
        fresh = [(-45.0 + 22.0 * k, (-1) ** k * 12.0, 0.5 * sum(config.range)) for k in range(5)]
        places += tuple(fresh[len(places) : count.value])
        panel.change(places=places, chosen=min(panel.view.chosen, len(places) - 1))
        follow()

    def choose(change: Any) -> None:
        if not getattr(quiet, "on", False):
            panel.change(chosen=min(chosen.value, len(panel.view.places)) - 1)
            follow()

    def follow() -> None:
        """Put the place of the chosen source into the boxes, without moving it."""
        quiet.on = True
        chosen.max = len(panel.view.places)
        chosen.value = panel.view.chosen + 1
        place = panel.view.places[panel.view.chosen]
        azimuth.value, elevation.value, range_.value = (round(value, 3) for value in place)
        quiet.on = False

    def dragged(event: dict[str, Any]) -> None:
        shapes: dict[int, dict[str, float]] = {}
        for name, value in event["moved"].items():
            shape, _, part = name.partition("].")
            shapes.setdefault(int(shape.removeprefix("shapes[")), {})[part] = float(value)
        for slot, parts in shapes.items():
            if slot >= len(panel.view.places) or not {"xanchor", "yanchor"} <= set(parts):
                continue
            # A ring dropped outside the map stays at its edge.
            at = [
                min(max(parts[name], low), high)
                for name, (low, high) in zip(("xanchor", "yanchor"), angles, strict=True)
            ]
            panel.change(chosen=slot)
            moved((at[0], at[1], panel.view.places[slot][2]))
            follow()

    def tie(widget: Any, name: str) -> None:
        widget.observe(lambda change: panel.change(**{name: change["new"]}), "value")

    for widget, name in (
        (snr, "snr_db"), (covariance, "covariance"), (beta, "beta"), (loading, "loading"), (snapshots, "snapshots"),
        (wavefront, "wavefront"), (symbols, "symbols"), (codes, "codes"), (seed, "seed"),
    ):  # fmt: skip
        tie(widget, name)
    for widget in (azimuth, elevation, range_):
        widget.observe(typed, "value")
    count.observe(recount, "value")
    chosen.observe(choose, "value")
    plot.on_event("shape", dragged)

    def say(of: SceneSettings, text: str) -> None:
        noted[0] = of
        _tell(note, text)

    def counting(button: Any) -> None:
        seen = panel.seen
        say(seen.settings, criteria_table(seen))

    counted.on_click(counting)
    checked.on_click(lambda button: say(panel.view, conventions.check_conventions(panel.view.config())._repr_html_()))
    follow()

    def show() -> None:
        seen = panel.seen
        plot.update(scene_figure_dict(seen))
        errors.value = error_table(seen)
        _tell(alarm, f"<b style='color:{ERROR_COLOUR}'>{html.escape(panel.error)}</b>" if panel.error else "")
        if seen.settings != noted[0]:
            _tell(note, "")

    for widget in (alarm, note):
        _tell(widget, "")
    errors.value = error_table(panel.seen)
    rows = [
        widgets.HBox([snr, covariance, beta, loading]),
        widgets.HBox([count, chosen, azimuth, elevation, range_, seed]),
        widgets.HBox([wavefront, symbols, codes, snapshots, counted, checked]),
    ]
    return widgets.VBox([*rows, alarm, note, plot, errors]), show


def _tell(field: Any, text: str) -> None:
    """Show a sentence; an empty field takes no room."""
    field.value = text
    field.layout.display = "" if text else "none"
