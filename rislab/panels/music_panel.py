"""The panel on one scene: sources that can be dragged, everything else by knobs, and the spectra that follow."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Generator, Sequence
from typing import Any

import plotly.graph_objects as go

from rislab.data.scene_config import CODES, SYMBOLS
from rislab.data.wavefronts import WAVEFRONTS
from rislab.errors import InputError
from rislab.model.network import CovarianceNet
from rislab.music.scene_view import COVARIANCE_KINDS, SceneAnalysis, SceneExplorer, SceneSettings, SpectraView
from rislab.panels.base import RequestPanel, UserInput, say
from rislab.plots.scene import criteria_table, error_table, scene_figure, scene_figure_dict
from rislab.sanity import conventions

MOST_SOURCES = 5
ROWS = (
    ("snr_db", "covariance", "beta", "loading"),
    ("count", "chosen", "azimuth", "elevation", "range", "seed"),
    ("wavefront", "symbols", "codes", "snapshots"),
)
# Knobs that set the field of their name.
TIED = ("snr_db", "covariance", "beta", "loading", "seed", "wavefront", "symbols", "codes", "snapshots")
POSITION = ("azimuth", "elevation", "range")


class MusicPanel(RequestPanel[SceneSettings, SceneAnalysis]):
    """Knobs around one scene; awaiting it gives the analysis of the present settings.

    New settings are shown in two drawings: their spectra at once, then the estimates, which take three times as long
    and are left out while further settings wait. What is drawn is always of one scene.

    Attributes:
        settings: what the knobs show.
        spectra: what the figure shows.
        analysis: the last spectra that were completed by estimates and bound.

    Args:
        settings: where to begin.
        model: network of the learned covariance, or None.
        live: whether to make widgets; without them the panel shows a static figure.
    """

    def __init__(self, settings: SceneSettings, model: CovarianceNet | None, *, live: bool) -> None:
        self.explorer = SceneExplorer(model)
        self.settings = settings
        self.analysis = self.explorer.analyse(settings)
        self.spectra: SpectraView = self.analysis
        super().__init__(live=live)

    def change(self, **fields: Any) -> bool:
        """Change fields of the settings; the spectra of the newest settings follow, made in a thread of their own.

        Returns:
            Whether the values are allowed; if not, nothing changes, and `problem` says why.
        """
        try:
            self.settings = self.settings.changed(**fields)
        except InputError as error:
            self.input_error = str(error)
            self._say_problem()
            return False
        self.input_error = ""
        self.submit(self.settings)
        return True

    def work(self, request: SceneSettings) -> Generator[object]:
        self.spectra = self.explorer.spectra(request)
        yield self.spectra
        self.spectra = self.analysis = self.explorer.complete(self.spectra)

    def result(self) -> SceneAnalysis:
        return self.analysis

    def figure(self) -> go.Figure:
        """The last analysis as a plain figure, which survives saving and reports."""
        return scene_figure(self.analysis)

    def static(self) -> dict[str, Any]:
        return dict(self.figure()._repr_mimebundle_())

    def build(self) -> tuple[Any, Callable[[], None]]:
        controls = _Controls(self)
        return controls.widget, controls.draw


class _Controls:
    """The knobs, the plot and the table of a MusicPanel."""

    def __init__(self, panel: MusicPanel) -> None:
        import ipywidgets as widgets

        self.panel = panel
        self.user_input = UserInput()
        self.angles = _angles(panel.settings)
        has_network = panel.explorer.model is not None
        kinds = [kind for kind in COVARIANCE_KINDS if has_network or kind not in ("learned", "blend")]
        self.knobs = _knobs(panel.settings, kinds)
        self.plot = panel.plot(scene_figure_dict(panel.spectra), edits={"shapePosition": True})
        self.table, self.note = widgets.HTML(error_table(panel.spectra)), widgets.HTML()
        say(self.note, "")
        self.noted = panel.settings  # of the scene that the note is about
        self._show_position()
        rows = [[self.knobs[name] for name in row] for row in ROWS]
        rows[-1] += [
            self._button("Count sources", "Order criteria of the measurement", self._count_sources),
            self._button("Conventions", "Check that the package agrees with the definitions", self._check_conventions),
        ]
        self._observe()
        boxes = [widgets.HBox(row) for row in rows]
        self.widget = widgets.VBox([*boxes, panel.alarm, self.note, self.plot, self.table])

    def draw(self) -> None:
        """Show the present spectra."""
        spectra = self.panel.spectra
        self.plot.update(scene_figure_dict(spectra))
        self.table.value = error_table(spectra)
        if spectra.settings != self.noted:
            say(self.note, "")

    def _button(self, name: str, tip: str, call: Callable[[], None]) -> Any:
        import ipywidgets as widgets

        button = widgets.Button(description=name, tooltip=tip, layout={"width": "120px"})
        button.on_click(lambda clicked: call())
        return button

    def _observe(self) -> None:
        def set_field(name: str) -> Callable[[Any], object]:
            return lambda value: self.panel.change(**{name: value})

        for name in TIED:
            self.user_input.observe(self.knobs[name], set_field(name))
        for name in POSITION:
            self.user_input.observe(self.knobs[name], lambda value: self._move_to_boxes())
        self.user_input.observe(self.knobs["count"], self._set_count)
        self.user_input.observe(self.knobs["chosen"], self._choose)
        self.plot.on_event("shape", self._drag)

    def _show_position(self) -> None:
        """Put the position of the chosen source into the boxes, without moving it."""
        settings = self.panel.settings
        with self.user_input.paused():
            self.knobs["chosen"].max = len(settings.places)
            self.knobs["chosen"].value = settings.chosen + 1
            for name, value in zip(POSITION, settings.places[settings.chosen], strict=True):
                self.knobs[name].value = round(value, 3)

    def _move(self, slot: int, place: tuple[float, ...]) -> None:
        places = [*self.panel.settings.places]
        places[slot] = (place[0], place[1], place[2])
        self.panel.change(chosen=slot, places=tuple(places))

    def _move_to_boxes(self) -> None:
        self._move(self.panel.settings.chosen, tuple(self.knobs[name].value for name in POSITION))

    def _set_count(self, count: int) -> None:
        settings = self.panel.settings
        range_ = 0.5 * sum(settings.config().range)
        further = [(-45.0 + 22.0 * slot, (-1) ** slot * 12.0, range_) for slot in range(MOST_SOURCES)]
        places = settings.places[:count] + tuple(further[len(settings.places) : count])
        self.panel.change(places=places, chosen=min(settings.chosen, count - 1))
        self._show_position()

    def _choose(self, number: int) -> None:
        self.panel.change(chosen=min(number, len(self.panel.settings.places)) - 1)
        self._show_position()

    def _drag(self, event: dict[str, Any]) -> None:
        """Move sources whose rings were dragged; a ring dropped outside the map stays at its edge."""
        places = self.panel.settings.places
        for slot, at in _dragged_shapes(event).items():
            if slot < len(places) and {"xanchor", "yanchor"} <= set(at):
                anchors = zip((at["xanchor"], at["yanchor"]), self.angles, strict=True)
                self._move(slot, (*(min(max(angle, low), high) for angle, (low, high) in anchors), places[slot][2]))
                self._show_position()

    def _count_sources(self) -> None:
        spectra = self.panel.spectra
        self._say_of(spectra.settings, criteria_table(spectra))

    def _check_conventions(self) -> None:
        report = conventions.check_conventions(self.panel.settings.config())
        self._say_of(self.panel.settings, report._repr_html_())

    def _say_of(self, settings: SceneSettings, text: str) -> None:
        self.noted = settings
        say(self.note, text)


def _angles(settings: SceneSettings) -> list[tuple[float, float]]:
    """The field of view in azimuth and elevation, degrees."""
    config = settings.config()
    return [(math.degrees(low), math.degrees(high)) for low, high in (config.azimuth, config.elevation)]


def _knobs(settings: SceneSettings, covariances: Sequence[str]) -> dict[str, Any]:
    """A widget for each name in ROWS."""
    import ipywidgets as widgets

    (left, right), (bottom, top) = _angles(settings)
    nearest, farthest = settings.config().range
    integer, real, menu = widgets.BoundedIntText, widgets.BoundedFloatText, widgets.Dropdown
    table: dict[str, tuple[Any, str, int, dict[str, Any]]] = {  # class, description, width in pixels, options
        "snr_db": (widgets.FloatSlider, "SNR (dB)", 260, {"min": -10, "max": 40, "step": 0.5}),
        "covariance": (menu, "covariance", 180, {"options": covariances}),
        "beta": (widgets.FloatSlider, "β", 180, {"min": 0, "max": 1, "step": 0.05}),
        "loading": (widgets.FloatLogSlider, "loading", 220, {"min": -6, "max": 0, "step": 0.5}),
        "count": (integer, "sources", 110, {"min": 1, "max": MOST_SOURCES, "value": len(settings.places)}),
        "chosen": (integer, "chosen", 110, {"min": 1, "max": MOST_SOURCES}),
        "azimuth": (real, "azimuth (°)", 150, {"min": left, "max": right, "step": 0.5}),
        "elevation": (real, "elevation (°)", 160, {"min": bottom, "max": top, "step": 0.5}),
        "range": (real, "range (m)", 140, {"min": nearest, "max": farthest, "step": 0.1}),
        "seed": (integer, "seed", 110, {"min": 0, "max": 2**31 - 1}),
        "wavefront": (menu, "wave", 140, {"options": list(WAVEFRONTS)}),
        "symbols": (menu, "symbols", 150, {"options": list(SYMBOLS)}),
        "codes": (menu, "codes", 140, {"options": list(CODES)}),
        "snapshots": (integer, "snapshots", 120, {"min": 1, "max": 256}),
    }
    shared = {"style": {"description_width": "initial"}}
    knobs = {}
    for name, (kind, description, width, options) in table.items():
        start = {"value": getattr(settings, name)} if name in TIED else {}
        knobs[name] = kind(description=description, layout={"width": f"{width}px"}, **shared, **start, **options)
    return knobs


def _dragged_shapes(event: dict[str, Any]) -> dict[int, dict[str, float]]:
    """What a page tells of dragged shapes, such as "shapes[1].xanchor", by number and property."""
    shapes: dict[int, dict[str, float]] = defaultdict(dict)
    for name, value in event["moved"].items():
        shape, _, part = name.partition("].")
        shapes[int(shape.removeprefix("shapes["))][part] = float(value)
    return shapes
