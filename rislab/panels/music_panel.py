"""The panel on one scene: sources that can be dragged, everything else by knobs, and maps that follow meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import plotly.graph_objects as go

from rislab.data.scenes import SceneBatch
from rislab.errors import InputError, check_choice, check_number
from rislab.model.network import CovarianceNet
from rislab.music.scene_view import (
    COARSE_MAP,
    COVARIANCE_KINDS,
    MAP,
    SceneAnalysis,
    SceneExplorer,
    SceneSettings,
    SpectraView,
    separation_of,
)
from rislab.panels.base import RequestPanel
from rislab.panels.scene_controls import (
    BUTTONS,
    PARTS,
    POSITION,
    SHOW,
    SPECTRA,
    TIED,
    control_groups,
    settings_changed,
)
from rislab.plots.scene import criteria_table, scene_figure
from rislab.plots.scene_content import scene_content
from rislab.reports.scene_page import scene_page
from rislab.sanity import conventions

OF_A_NETWORK = ("learned", "blend")
SIDE_BY_SIDE = ("sample", "learned", "sparse", "posterior")  # maps to begin with
SLOW = ("sparse", "posterior")  # covariances whose maps wait until nothing moves


@dataclass(frozen=True)
class ViewRequest:
    """What to show."""

    settings: SceneSettings  # of the scene; their covariance is the one of table and range cut
    kinds: tuple[str, ...]  # covariances whose maps are shown
    coarse: bool = False  # whether it may be coarse, because something still moves
    number: int = 0  # of the user's change that it answers


@dataclass(frozen=True)
class ShownViews:
    """What the page shows: views by covariance, those of the scene before, and how far the work has come."""

    request: ViewRequest  # that they answer
    views: dict[str, SpectraView]  # by covariance
    stale: frozenset[str] = frozenset()  # covariances whose view is of the scene before
    state: str = "complete"  # "coarse", "fine" (without all estimates) or "complete"


@dataclass
class PanelInput:
    """What the page has said, beyond the settings."""

    spectrum: str = SPECTRA[0]  # of the maps
    depth: float = 100.0  # share of a map's spread that the colours cover, %
    request: int = 0  # number of the last change
    # by control: the value, and the sentence that says what is allowed
    refused: dict[str, tuple[Any, str]] = field(default_factory=dict)
    presses: dict[str, int] = field(default_factory=dict)  # of each button
    # HTML that a button asked for, and the settings that it is about
    note: tuple[str, SceneSettings | None] = ("", None)


class MusicPanel(RequestPanel[ViewRequest, SceneAnalysis]):
    """Knobs around one scene; awaiting it gives the analysis of the present settings.

    While something moves, the maps are coarse, those of slow estimators wait, and nothing is searched for sources. Then
    maps come first, the estimates follow, three times as long. What is drawn is always of one scene.

    Attributes:
        settings: what the knobs show.
        kinds: covariances whose maps are shown side by side.
        spectra: of the covariance of the settings, as the figure shows it.
        analysis: the last spectra of that covariance that were completed by estimates and bound.
        shown: all that the figure shows.

    Args:
        settings: where to begin.
        model: network of the learned covariance, or None.
        live: whether to make widgets; without them the panel shows a static figure.
        hide: names of controls and of parts that are left out, see rislab.panels.scene_controls.
    """

    def __init__(
        self, settings: SceneSettings, model: CovarianceNet | None, *, live: bool, hide: Sequence[str] = ()
    ) -> None:
        self.explorer = SceneExplorer(model)
        self.settings = settings
        left_out = (*(OF_A_NETWORK if model is None else ()), *({"truth"} & set(hide)))
        self.offered = tuple(kind for kind in COVARIANCE_KINDS if kind not in left_out)
        check_choice("covariance", settings.covariance, self.offered)
        self.hidden = tuple(hide)
        self.groups = control_groups(settings, self.offered, self.hidden)
        first = [kind for kind in SIDE_BY_SIDE if kind in self.offered]
        self.kinds = tuple(dict.fromkeys([*first, settings.covariance]))
        self.analysis = self.explorer.analyse(settings)
        self.spectra: SpectraView = self.analysis
        self.shown = ShownViews(ViewRequest(settings, (settings.covariance,)), {settings.covariance: self.analysis})
        self.input = PanelInput()
        super().__init__(live=live)
        if live:
            self._ask()

    def change(self, **fields: Any) -> bool:
        """Change fields of the settings; the maps of the newest settings follow, made in a thread of their own.

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
        self._ask()
        return True

    def receive(self, event: dict[str, Any]) -> None:
        """Take in what the page says: `values` by control, `coarse`, and the number of the `request`.

        A value that is not allowed changes nothing, and is shown with a sentence beside its control, until another one
        is given or something else moves the control, as a drag does.
        """
        before = self._values()
        for name, value in event["values"].items():
            try:
                self._take(name, value)
                self.input.refused.pop(name, None)
            except InputError as error:
                self.input.refused[name] = (value, str(error))
        for name, value in self._values().items():
            if name not in event["values"] and value != before.get(name):
                self.input.refused.pop(name, None)
        self.input.request = event["request"]
        self._ask(coarse=event["coarse"])

    def work(self, request: ViewRequest) -> Generator[object]:
        scene, settings = request.settings.scene(), request.settings
        # First what takes least time: the network takes three times as long as a map.
        order = sorted(
            dict.fromkeys((settings.covariance, *request.kinds)), key=lambda kind: (kind in SLOW, kind in OF_A_NETWORK)
        )
        quick = [kind for kind in order if kind not in SLOW] or order[:1]
        later = [kind for kind in order if kind not in quick]
        # While others are made, those of the scene before stay where they are.
        views = {kind: view for kind, view in self.shown.views.items() if kind in order}
        stale = {
            kind for kind, view in views.items() if replace(view.settings, covariance=settings.covariance) != settings
        }
        for kind in quick:
            views[kind] = self._view(request, kind, scene)
            stale.discard(kind)
            if not request.coarse:
                yield self._show(request, views, stale, "fine")
        if request.coarse:
            yield self._show(request, views, stale, "coarse")
            return
        for kind in later:
            views[kind] = yield from self.aside(partial(self._view, request, kind, scene))
            stale.discard(kind)
            yield self._show(request, views, stale, "fine")
        for kind in order:
            if not isinstance(views[kind], SceneAnalysis):
                views[kind] = yield from self.aside(partial(self.explorer.complete, views[kind]))
                if kind == settings.covariance:
                    yield self._show(request, views, (), "fine")
        self._show(request, views, (), "complete")

    def result(self) -> SceneAnalysis:
        return self.analysis

    def figure(self) -> go.Figure:
        """The last analysis as a plain figure, which survives saving and reports."""
        return scene_figure(self.analysis)

    def static(self) -> dict[str, Any]:
        """A scene with sliders that were computed before; of one source alone the plain figure."""
        if len(self.settings.places) < 2:
            return dict(self.figure()._repr_mimebundle_())
        hidden = [part for part in self.hidden if part in PARTS]
        page = scene_page(self.settings, self.explorer.model, hide=hidden)
        return {"text/html": page, "text/plain": "one scene, with sliders"}

    def build(self) -> tuple[Any, Callable[[], None]]:
        import ipywidgets as widgets

        from rislab.panels.scene_widget import SceneWidget

        parts = {part: False for part in PARTS if part in self.hidden}
        drawn = self.add_plot(SceneWidget(self.content(), self.groups, parts))
        drawn.on_event("change", self.receive)
        return widgets.VBox([self.alarm, drawn]), lambda: drawn.update(self.content())

    def content(self) -> dict[str, Any]:
        """What the page draws now."""
        shown = self.shown
        order = [kind for kind in COVARIANCE_KINDS if kind in shown.views]
        order.sort(key=lambda kind: SIDE_BY_SIDE.index(kind) if kind in SIDE_BY_SIDE else len(SIDE_BY_SIDE))
        note, about = self.input.note
        drawn = scene_content(
            {kind: shown.views[kind] for kind in order}, spectrum=self.input.spectrum, stale=shown.stale
        )
        # After an error nothing more will come for the last change.
        answers = shown.request.number if self.error is None else self.input.request
        state = {"answers": answers, "state": shown.state, "note": note if about == shown.request.settings else ""}
        return {**drawn, "values": self._values(), "refused": dict(self.input.refused), **state}

    def _values(self) -> dict[str, Any]:
        """What each control holds."""
        settings = self.settings
        values = {name: getattr(settings, name) for name in TIED}
        values |= {
            "sources": len(settings.places),
            "chosen": settings.chosen + 1,
            "separation": separation_of(settings),
        }
        values |= dict(zip(POSITION, settings.places[settings.chosen], strict=True))
        values |= {SHOW + kind: kind in self.kinds for kind in self.offered}
        return values | {"spectrum": self.input.spectrum, "depth": self.input.depth, **self.input.presses}

    def _ask(self, *, coarse: bool = False) -> None:
        self.submit(ViewRequest(self.settings, self.kinds, coarse, self.input.request))

    def _view(self, request: ViewRequest, kind: str, scene: SceneBatch) -> SpectraView:
        """Of one covariance; the one that is shown already, if it is of this scene and as fine as asked for."""
        settings = replace(request.settings, covariance=kind)
        before = self.shown.views.get(kind)
        shape = COARSE_MAP if request.coarse else MAP
        if before is not None and before.settings == settings and before.music.shape in (shape, MAP):
            return before
        return self.explorer.spectra(settings, shape, scene)

    def _show(
        self, request: ViewRequest, views: dict[str, SpectraView], stale: set[str] | tuple[()], state: str
    ) -> ShownViews:
        self.shown = ShownViews(request, dict(views), frozenset(stale), state)
        covariance = request.settings.covariance
        if covariance in views and covariance not in stale:
            self.spectra = views[covariance]
            if isinstance(self.spectra, SceneAnalysis):
                self.analysis = self.spectra
        return self.shown

    def _take(self, name: str, value: Any) -> None:
        if name in BUTTONS:
            if value > self.input.presses.get(name, 0):
                self.input.presses[name] = value
                self._answer(name)
        elif name == "spectrum":
            check_choice(name, value, SPECTRA)
            self.input.spectrum = value
        elif name == "depth":
            if value is None:
                raise InputError("colour depth is empty; allowed: a number")
            check_number("colour depth in %", value, 1, 100)
            self.input.depth = value
        elif name.startswith(SHOW):
            self._show_kind(name.removeprefix(SHOW), shown=value)
        else:
            self.settings = settings_changed(self.settings, name, value)
            if name == "covariance":
                self._show_kind(value, shown=True)

    def _show_kind(self, kind: str, *, shown: bool) -> None:
        check_choice("map", kind, self.offered)
        kinds = tuple(each for each in self.offered if (shown if each == kind else each in self.kinds))
        if not kinds:
            raise InputError("no map is chosen; allowed: at least one")
        self.kinds = kinds
        if self.settings.covariance not in kinds:
            self.settings = self.settings.changed(covariance=kinds[0])

    def _answer(self, button: str) -> None:
        """The note that a button asks for, about the scene that is shown."""
        if button == "count_sources":
            self.input.note = (criteria_table(self.spectra), self.shown.request.settings)
        else:
            report = conventions.check_conventions(self.settings.config())
            self.input.note = (report._repr_html_(), self.shown.request.settings)
