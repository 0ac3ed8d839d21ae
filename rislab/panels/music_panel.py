"""The panel on one scene: sources that can be dragged, everything else by knobs, and the spectra that follow."""

from __future__ import annotations

import html
import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import plotly.graph_objects as go
import torch

from rislab.data.geometry import WAVEFRONTS
from rislab.data.scenes import CODES, SYMBOLS
from rislab.errors import InputError
from rislab.model.network import CovarianceNet
from rislab.music.model_order import order_criteria
from rislab.music.scene_view import COVARIANCE_KINDS, Place, SceneAnalysis, SceneExplorer, SceneSettings, SpectraView
from rislab.plots.spectra import REACH, SHARE
from rislab.plots.style import BLUE, ERROR_COLOUR, GREEN, GREY, SKY, VERMILLION, template
from rislab.sanity import conventions

FLOOR_DB = -40.0
RING = 10  # pixels
CROSS = {"symbol": "x", "size": 8, "color": VERMILLION}
BAR = {"title": {"text": "dB below the peak", "side": "right"}, "y": 0.73, "len": 0.56}
HEIGHT = 470
# 95 % of normal errors of one quantity.
INTERVAL = math.sqrt(2) * float(torch.erfinv(torch.tensor(SHARE, dtype=torch.float64)))
BAND = "rgba(86,180,233,0.25)"  # SKY
# What an axis here never needs, and the page would measure at every drawing: a third of the time to the screen.
STILL = {"automargin": False, "ticklabeloverflow": "allow"}


def figure(look: SpectraView) -> go.Figure:
    """drawing() as a plain figure, which survives saving and reports."""
    return go.Figure(figure_dict(look)).update_layout(template=template())


def figure_dict(look: SpectraView) -> dict[str, Any]:
    """A look as data and layout: MUSIC and MVDR maps with sources, estimates and bound; range cut; eigenvalues.

    A glance is drawn without estimates and bound, with the same axes, so that nothing jumps when they follow.
    The rings of the true sources on the first map are the first shapes, in the order of the sources: a page can move
    them. Plain mappings, since plotly's objects check each property, which takes longer than all the spectra.
    """
    view = look.settings
    here = view.places[view.chosen][2]
    titles = [f"MUSIC, {view.covariance} covariance, at {here:.2f} m", f"MVDR, at {here:.2f} m"]
    titles += [f"range, source {view.chosen + 1}{_margin(look)}", "largest eigenvalues"]
    ends = [[float(axis[0]), float(axis[-1])] for axis in (degrees(look.grid.azimuth), degrees(look.grid.elevation))]
    ticks = [tick for tick in (0.5, 1, 2, 3, 5, 10) if look.ranges.min() <= tick <= look.ranges.max()]
    across, down = ([0.0, 0.45], [0.55, 1.0]), ([0.46, 1.0], [0.0, 0.24])
    layout: dict[str, Any] = {
        "coloraxis": {"colorscale": "Cividis", "cmin": FLOOR_DB, "cmax": 0.0, "colorbar": BAR},
        "height": HEIGHT,
        "margin": {"t": 26, "b": 56, "l": 60, "r": 20},
        "legend": {"orientation": "h", "x": 1, "xanchor": "right", "y": -0.14, "yanchor": "top"},
        "uirevision": "rislab",
        "xaxis": {"title": {"text": "azimuth (°)"}, "range": ends[0]},
        "xaxis2": {"title": {"text": "azimuth (°)"}, "range": ends[0]},
        "xaxis3": {"title": {"text": "range (m)"}, "type": "log", "tickvals": ticks},
        "xaxis4": {"title": {"text": "number"}, "dtick": 1},
        "yaxis": {"title": {"text": "elevation (°)"}, "range": ends[1]},
        "yaxis2": {"range": ends[1]},
        "yaxis3": {"title": {"text": "dB"}},
        "yaxis4": {"title": {"text": "share"}, "rangemode": "tozero"},
        "annotations": [],
    }
    for number, title in enumerate(titles):
        column, row, name = number % 2, number // 2, str(number + 1) if number else ""
        layout[f"xaxis{name}"] |= {"domain": across[column], "anchor": f"y{name}", **STILL}
        layout[f"yaxis{name}"] |= {"domain": down[row], "anchor": f"x{name}", **STILL}
        if row == 0:
            layout[f"xaxis{name}"]["showgrid"] = layout[f"yaxis{name}"]["showgrid"] = False
        place = {"x": sum(across[column]) / 2, "y": down[row][1], "xref": "paper", "yref": "paper", "yanchor": "bottom"}
        place["xanchor"] = "center"
        layout["annotations"].append({**place, "text": title, "showarrow": False, "font": {"size": 13}})
    rings = [[_ring(place, name, editable=not name) for place in view.places] for name in ("", "2")]
    lines = [_upright("3", here), _upright("4", len(view.places) + 0.5)]
    layout["shapes"] = [*rings[0], *rings[1], *lines, *_band(look)]
    maps = [trace for name, spectrum in (("", look.music), ("2", look.mvdr)) for trace in _map(look, spectrum, name)]
    return {"data": [*maps, *_cuts(look), _eigenvalues(look), _ranged(look)], "layout": layout}


def degrees(radians: torch.Tensor) -> np.ndarray[Any, Any]:
    """Radians as degrees, float32."""
    return torch.rad2deg(radians).to(torch.float32).numpy()


def decibels(values: torch.Tensor) -> torch.Tensor:
    """Linear power as dB below its largest value, not under FLOOR_DB, float32; NaN stays."""
    return (10 * torch.log10(values / values.max())).clamp(min=FLOOR_DB).to(torch.float32)


def _map(look: SpectraView, values: torch.Tensor, axis: str) -> list[dict[str, Any]]:
    cell = {"xaxis": f"x{axis}", "yaxis": f"y{axis}", "showlegend": not axis}
    azimuth, elevation = _ellipses(look)
    heat = {
        "type": "heatmap",
        "x": degrees(look.grid.azimuth),
        "y": degrees(look.grid.elevation),
        "z": np.ascontiguousarray(decibels(values).numpy().T),
        "coloraxis": "coloraxis",
        "hovertemplate": "azimuth %{x:.2f}°<br>elevation %{y:.2f}°<br>%{z:.2f} dB<extra></extra>",
    }
    marks = {
        "type": "scatter",
        **_crosses(look),
        "mode": "markers",
        "name": "estimate",
        "marker": CROSS,
    }
    outline = {
        "type": "scatter",
        "x": azimuth,
        "y": elevation,
        "mode": "lines",
        "name": "95 % of the bound",
        "line": {"color": SKY, "width": 1.5},
        "hoverinfo": "skip",
    }
    return [{**heat, **cell, "showlegend": False}, {**outline, **cell}, {**marks, **cell}]


def _crosses(look: SpectraView) -> dict[str, Any]:
    # A gap, not nothing: a trace without points would leave the legend, and the legend would jump.
    if not isinstance(look, SceneAnalysis) or not bool(look.peaks.active.any()):
        return {"x": [None], "y": [None]}
    found = look.peaks.active[0]
    return {"x": degrees(look.peaks.azimuth[0][found]), "y": degrees(look.peaks.elevation[0][found])}


def _cuts(look: SpectraView) -> list[dict[str, Any]]:
    pens = {"MUSIC": {"color": BLUE, "dash": "solid"}, "MVDR": {"color": GREEN, "dash": "dot"}}
    cell = {"type": "scatter", "mode": "lines", "xaxis": "x3", "yaxis": "y3", "x": look.ranges.numpy()}
    return [
        {**cell, "y": decibels(values).numpy(), "name": name, "line": pens[name]} for name, values in look.cut.items()
    ]


def _eigenvalues(look: SpectraView) -> dict[str, Any]:
    shares = (look.eigenvalues / look.eigenvalues.sum()).numpy()
    bars = {"type": "bar", "x": np.arange(1, len(shares) + 1), "y": shares, "marker": {"color": BLUE}}
    return {**bars, "xaxis": "x4", "yaxis": "y4", "showlegend": False}


def _ranged(look: SpectraView) -> dict[str, Any]:
    """The estimated range of the chosen source, on the range cut; nothing if it was not found."""
    at: list[float | None] = [None]
    if isinstance(look, SceneAnalysis) and bool(look.matching.hit[0, look.settings.chosen]):
        at = [float(look.peaks.range[0, look.matching.slot[0, look.settings.chosen]])]
    cell = {"type": "scatter", "mode": "markers", "xaxis": "x3", "yaxis": "y3", "showlegend": False, "marker": CROSS}
    return {**cell, "x": at, "y": [0.0] if at[0] else [None], "hovertemplate": "estimate %{x:.3f} m<extra></extra>"}


def _reach(look: SpectraView) -> float:
    """Half the 95 % interval of the chosen source's range by the bound, metres; NaN before the bound is known."""
    return INTERVAL * float(look.bound.range[0, look.settings.chosen]) if isinstance(look, SceneAnalysis) else math.nan


def _margin(look: SpectraView) -> str:
    reach = _reach(look)
    if math.isnan(reach):
        return ""
    return f": ± {reach:.2g} m in 95 % of the bound" if math.isfinite(reach) else ": no finite bound"


def _band(look: SpectraView) -> list[dict[str, Any]]:
    """The 95 % interval of the bound around the true range, as far as the cut goes; nothing where it is infinite."""
    here, reach = look.settings.places[look.settings.chosen][2], _reach(look)
    if not math.isfinite(reach):
        return []
    ends = [min(max(here + turn * reach, float(look.ranges.min())), float(look.ranges.max())) for turn in (-1, 1)]
    box = {"type": "rect", "xref": "x3", "yref": "y3 domain", "x0": ends[0], "x1": ends[1], "y0": 0, "y1": 1}
    return [{**box, "editable": False, "fillcolor": BAND, "line": {"color": SKY, "width": 1}}]


def _ring(place: Place, axis: str, *, editable: bool) -> dict[str, Any]:
    at = {"xref": f"x{axis}", "yref": f"y{axis}", "xanchor": place[0], "yanchor": place[1]}
    box = {"xsizemode": "pixel", "ysizemode": "pixel", "x0": -RING, "x1": RING, "y0": -RING, "y1": RING}
    look = {"line": {"color": "white", "width": 2.5}, "fillcolor": "rgba(0,0,0,0.15)" if editable else "rgba(0,0,0,0)"}
    return {"type": "circle", "editable": editable, **at, **box, **look}


def _upright(axis: str, x: float) -> dict[str, Any]:
    line = {"type": "line", "xref": f"x{axis}", "yref": f"y{axis} domain", "x0": x, "x1": x, "y0": 0, "y1": 1}
    return {**line, "editable": False, "line": {"color": GREY, "width": 1.5, "dash": "dash"}}


def _ellipses(look: SpectraView) -> tuple[list[float | None], list[float | None]]:
    """Outlines of the bound around each source, in degrees, with gaps between them; a gap before it is known."""
    if not isinstance(look, SceneAnalysis):
        return [None], [None]
    angle = torch.linspace(0, 2 * math.pi, 49, dtype=torch.float64)
    circle = REACH * torch.stack([torch.cos(angle), torch.sin(angle)])
    x: list[float | None] = [None]
    y: list[float | None] = [None]
    for slot, (azimuth, elevation, _) in enumerate(look.settings.places):
        block = look.bound.blocks[0, slot, :2, :2]
        if not bool(torch.isfinite(block).all()):
            continue
        outline = torch.rad2deg(torch.linalg.cholesky(block) @ circle)
        x += [*(outline[0] + azimuth).tolist(), None]
        y += [*(outline[1] + elevation).tolist(), None]
    return x, y


def table(look: SpectraView) -> str:
    """Errors of the estimates source by source, with the ratio to the bound, as HTML; of a glance the places only."""
    rows = []
    for slot, (azimuth, elevation, range_) in enumerate(look.settings.places):
        cells = [f"{slot + 1}", f"{azimuth:.1f}°", f"{elevation:.1f}°", f"{range_:.2f} m"]
        if not isinstance(look, SceneAnalysis):
            cells += ["…", "…", "…"]
        elif bool(look.matching.hit[0, slot]):
            limit, matching = look.bound, look.matching
            errors = (
                (math.degrees(matching.azimuth[0, slot]), math.degrees(limit.azimuth[0, slot]), "°"),
                (math.degrees(matching.elevation[0, slot]), math.degrees(limit.elevation[0, slot]), "°"),
                (float(matching.range[0, slot]), float(limit.range[0, slot]), " m"),
            )
            cells += [f"{error:+.3f}{unit} ({abs(error) / bound:.1f} × √CRB)" for error, bound, unit in errors]
        else:
            cells += ["not found", "", ""]
        rows.append("".join(f"<td style='text-align:right;padding:0 12px'>{cell}</td>" for cell in cells))
    names = ("source", "azimuth", "elevation", "range", "error in azimuth", "in elevation", "in range")
    head = "".join(f"<th style='text-align:right;padding:0 12px'>{name}</th>" for name in names)
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f"<table style='font-size:13px'><tr>{head}</tr>{body}</table>"


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
        return figure(self.look)

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
        figure_dict(panel.seen), {theme: template(theme) for theme in ("light", "dark")}, edits={"shapePosition": True}
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
        say(seen.settings, _criteria(seen))

    counted.on_click(counting)
    checked.on_click(lambda button: say(panel.view, conventions.check_conventions(panel.view.config())._repr_html_()))
    follow()

    def show() -> None:
        seen = panel.seen
        plot.update(figure_dict(seen))
        errors.value = table(seen)
        _tell(alarm, f"<b style='color:{ERROR_COLOUR}'>{html.escape(panel.error)}</b>" if panel.error else "")
        if seen.settings != noted[0]:
            _tell(note, "")

    for widget in (alarm, note):
        _tell(widget, "")
    errors.value = table(panel.seen)
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


def _criteria(look: SpectraView) -> str:
    named = order_criteria(look.scene)
    cells = "".join(
        f"<tr><td>{name.upper()}</td>"
        + "".join(
            f"<td style='text-align:right;padding:0 10px'>{'<b>0</b>' if value == 0 else f'+{value:.1f}'}</td>"
            for value in values
        )
        + "</tr>"
        for name, values in named.items()
    )
    head = "".join(f"<th>{count}</th>" for count in range(len(named["mdl"])))
    return f"<table style='font-size:13px'><tr><th>sources</th>{head}</tr>{cells}</table>"
