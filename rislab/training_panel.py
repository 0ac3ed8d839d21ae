"""The training panel: knobs, Start, Pause, Step, Stop and Reset, and every run on one live figure."""

from __future__ import annotations

import asyncio
import html
import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from torch import nn

from rislab import losses
from rislab.data import SceneBatch
from rislab.errors import InputError
from rislab.losses import CURRICULA
from rislab.overfit import WHOLE_SET, OverfitConfig, WholeSet
from rislab.records import EpochRecord, Record, StepRecord, epoch_line
from rislab.runner import POLL_SECONDS, Runner
from rislab.state import PRECISIONS

HEIGHT = 430
VEIL = "rgba(128,128,128,0.12)"
POINTS = 1000  # of a curve on the page; the records stay whole
KNOBS = (
    "preset",
    "accumulation_steps",
    "micro_batch",
    "precision",
    "lr",
    "clip_norm",
    "curriculum",
    "blend",
    "epochs",
    "seed",
)


@dataclass
class Curves:
    """What the figure needs of a run, grown record by record: no tick looks at all records again."""

    at: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    gradients: dict[str, list[float]] = field(default_factory=dict)
    rates: dict[str, list[float]] = field(default_factory=dict)
    scale: list[float] = field(default_factory=list)
    skipped: list[tuple[int, str]] = field(default_factory=list)
    strange: list[tuple[int, str]] = field(default_factory=list)
    ends: list[EpochRecord] = field(default_factory=list)
    seen: int = 0

    def follow(self, records: Sequence[Record]) -> None:
        """Take over the records that are new."""
        for record in records[self.seen :]:
            if isinstance(record, EpochRecord):
                self.ends.append(record)
                continue
            self._window(record)
        self.seen = len(records)

    def _window(self, window: StepRecord) -> None:
        self.at.append(window.step)
        self.loss.append(window.loss)
        self.scale.append(window.loss_scale)
        for store, values in ((self.gradients, window.grad_norm), (self.rates, window.learning_rate)):
            for name, value in values.items():
                store.setdefault(name, []).append(value)
        if not window.applied:
            self.skipped.append((window.step, window.reason))
        if not np.isfinite(window.loss) or window.loss <= 0:
            self.strange.append((window.step, f"loss is {window.loss:g}"))


class Run:
    """One training with its configuration, records and curves."""

    def __init__(self, name: str, config: OverfitConfig, on_tick: Callable[[], None]) -> None:
        self.name, self.config, self.curves = name, config, Curves()
        self.data: SceneBatch = config.data()
        self.whole = WholeSet(config, self.data)
        self.runner = Runner(self.whole.stream, on_tick)
        self._following = threading.Lock()

    @cached_property
    def levels(self) -> dict[str, float]:
        """Scores of predictors that learned nothing, on the data of the run."""
        levels = {"zero matrix": losses.zero_line(), "identity": losses.identity_line(self.data)}
        return levels | {"best constant": losses.constant_line(self.data)}

    def follow(self) -> None:
        """Bring the curves up to the records; ticks of the run and clicks come from different threads."""
        with self._following:
            self.curves.follow(self.runner.records())

    def label(self, first: OverfitConfig) -> str:
        """The name with what differs from the first run."""
        other, mine = asdict(first), asdict(self.config)
        changed = [f"{name} {mine[name]}" for name in KNOBS if mine[name] != other[name]]
        return f"{self.name}: {', '.join(changed)}" if changed else self.name


class OverfitPanel:
    """Training on the whole set of the overfit ladder, live; awaiting it gives the records of its last run.

    Args:
        config: what to train first; it starts at once. live: whether to make widgets.
    """

    def __init__(self, config: OverfitConfig, *, live: bool) -> None:
        self.config = config
        self.runs: list[Run] = []
        self.error = ""
        self.widget: Any = None
        self._started = 0
        self._draw: Callable[[], None] = lambda: None
        self.start()
        if live:
            self.widget, self._draw = _widget(self)

    @property
    def model(self) -> nn.Module:
        """The network of the last run."""
        return self.runs[-1].whole.model

    @property
    def state(self) -> str:
        """That of the last run; see Runner.state. "reset" where there is none."""
        return self.runs[-1].runner.state if self.runs else "reset"

    def change(self, **fields: Any) -> bool:
        """Change the configuration of the next run.

        Returns:
            Whether the values are allowed; if not, nothing changes, and `error` says why.
        """
        try:
            self.config, self.error = replace(self.config, **fields), ""
        except InputError as error:
            self.error = str(error)
        self._draw()
        return not self.error

    def start(self) -> None:
        """Begin a run with the present configuration, or let a paused one go on; a running one is left alone."""
        if self.state == "paused":
            self.resume()
            return
        if self.state in ("running", "waiting"):
            return
        self._started += 1
        self.runs.append(Run(f"run {self._started}", self.config, lambda: self._draw()))
        self.runs[-1].runner.start()

    def pause(self) -> None:
        """Wait after the window in progress."""
        if self.runs:
            self.runs[-1].runner.pause()

    def resume(self) -> None:
        """Go on after a pause."""
        if self.runs:
            self.runs[-1].runner.resume()

    def step(self) -> None:
        """One window, then pause."""
        if self.runs:
            self.runs[-1].runner.step()

    def stop(self) -> None:
        """Stop after the window in progress."""
        if self.runs:
            self.runs[-1].runner.stop()

    def remove(self, number: int) -> None:
        """Take a run off the plot, stopping it first."""
        run = self.runs.pop(number)
        run.runner.stop()
        self._draw()

    def reset(self) -> None:
        """Stop, and take all runs off the plot."""
        while self.runs:
            self.remove(0)

    def records(self) -> list[Record]:
        """The records of the last run so far."""
        return self.runs[-1].runner.records() if self.runs else []

    def __await__(self) -> Generator[Any, None, list[Record]]:
        return self._wait().__await__()

    async def _wait(self) -> list[Record]:
        while True:
            # Start may begin another run while this one is awaited.
            while not self.runs:
                await asyncio.sleep(POLL_SECONDS)
            run = self.runs[-1]
            records = await run.runner.wait()
            if not self.runs or self.runs[-1] is run:
                self._draw()
                return records

    def _repr_mimebundle_(self, **options: Any) -> Any:
        if self.widget is not None:
            return self.widget._repr_mimebundle_(**options)
        return {"text/plain": f"training {self.config.scenes} {self.config.preset} scenes; await it for the records"}


def drawing(panel: OverfitPanel) -> dict[str, Any]:
    """All runs as data and layout: loss, gradient norms, learning rates, loss scale, and the ledger of the last run."""
    from rislab.figures import COLOURS, DASHES

    data: list[dict[str, Any]] = []
    for place, run in enumerate(panel.runs):
        run.follow()
        pen = {"color": COLOURS[place % len(COLOURS)], "dash": DASHES[place // len(COLOURS) % len(DASHES)]}
        data += _loss(run, run.label(panel.runs[0].config), pen)
    if panel.runs:
        last = panel.runs[-1]
        reach = max(run.curves.at[-1] if run.curves.at else 1 for run in panel.runs)
        data += [*_lines(last, reach), *_side(last)]
    count = len(panel.runs[-1].curves.at) if panel.runs else 0
    rows = ([0.78, 1.0], [0.52, 0.7], [0.26, 0.44], [0.0, 0.18])
    names = ("gradient norm", "learning rate", "loss scale", "ledger (count)")
    layout: dict[str, Any] = {
        "height": HEIGHT,
        "margin": {"t": 34, "b": 44, "l": 64, "r": 10},
        "title": {"text": f"{panel.state}: {panel.config.preset}, {panel.config.precision}, step {count}"},
        # Curves fall from the upper left to the lower right: what they leave free is the upper right.
        "legend": {"x": 0.58, "y": 0.9, "xanchor": "right", "yanchor": "top", "font": {"size": 11}, "bgcolor": VEIL},
        "uirevision": "rislab",
        "xaxis": {"domain": [0, 0.58], "title": {"text": "optimiser step"}},
        "yaxis": {
            "domain": [0, 1],
            "type": "log",
            "title": {"text": "NMSE (dimensionless)"},
            "exponentformat": "power",
        },
    }
    for number, (row, name) in enumerate(zip(rows, names, strict=True), start=2):
        layout[f"xaxis{number}"] = {
            "domain": [0.7, 1.0],
            "anchor": f"y{number}",
            "matches": "x",
            "showticklabels": number == 5,
        }
        title = {"text": name, "font": {"size": 11}}
        layout[f"yaxis{number}"] = {"domain": row, "anchor": f"x{number}", "title": title, "nticks": 3}
        layout[f"yaxis{number}"] |= {"type": "log", "dtick": 1} if number == 2 else {"rangemode": "tozero"}
    return {"data": data, "layout": layout}


def _thinned(x: Sequence[float], y: Sequence[float]) -> dict[str, Any]:
    from rislab.figures import decimate

    at, values = decimate(np.asarray(x), np.asarray(y, dtype=np.float64), POINTS)
    return {"x": at.astype(np.float64), "y": values}


def _loss(run: Run, label: str, pen: dict[str, str]) -> list[dict[str, Any]]:
    curves, config = run.curves, ", ".join(f"{name} {value}" for name, value in asdict(run.config).items())
    group = {"type": "scatter", "legendgroup": run.name, "hovertext": config}
    ends = [end.step for end in curves.ends]
    raw = {**group, "name": label, "mode": "lines", "line": {**pen, "width": 1}, "opacity": 0.6}
    smooth = {**group, "name": "running median", "mode": "lines", "line": {**pen, "width": 2.5}, "showlegend": False}
    marks = {"symbol": "circle", "size": 7, "color": pen["color"]}
    traces = [
        {**raw, **_thinned(curves.at, curves.loss)},
        {**smooth, **_median(curves)},
        {
            **group,
            "name": "eval, same data",
            "mode": "markers",
            "marker": marks,
            "showlegend": run.name == "run 1",
            "x": np.array(ends, dtype=np.float64),
            "y": np.array([end.train_eval for end in curves.ends], dtype=np.float64),
        },
    ]
    for name, symbol, points in (("skipped", "x", curves.skipped), ("not a loss", "triangle-down", curves.strange)):
        if points:
            traces.append(
                {
                    **group,
                    "name": name,
                    "mode": "markers",
                    "marker": {"symbol": symbol, "size": 9, "color": pen["color"]},
                    "hovertext": [text for _, text in points[-POINTS:]],
                    "x": [step for step, _ in points[-POINTS:]],
                    "y": [_level(curves)] * len(points[-POINTS:]),
                }
            )
    return traces


def _level(curves: Curves) -> float:
    """Where marks of steps without a loss stand: at the smallest loss so far."""
    known = [value for value in curves.loss if np.isfinite(value) and value > 0]
    return min(known, default=1.0)


def _median(curves: Curves) -> dict[str, Any]:
    values = np.asarray(curves.loss, dtype=np.float64)
    width = min(101, max(3, len(values) // 20)) | 1
    if len(values) < 2 * width:
        return {"x": [], "y": []}
    at = np.unique(np.linspace(width // 2, len(values) - 1 - width // 2, min(len(values), 300)).astype(int))
    middles = [float(np.median(values[place - width // 2 : place + width // 2 + 1])) for place in at]
    return {"x": np.asarray(curves.at, dtype=np.float64)[at], "y": np.array(middles)}


def _lines(run: Run, reach: int) -> list[dict[str, Any]]:
    """Reference levels of the run's data, up to step `reach`."""
    from rislab.figures import DASHES, GREY

    return [
        {
            "type": "scatter",
            "x": [1.0, max(float(reach), 2.0)],
            "y": [level, level],
            "mode": "lines",
            "line": {"color": GREY, "width": 1, "dash": DASHES[place + 1]},
            "name": f"{name} = {level:.3g}",
        }
        for place, (name, level) in enumerate(run.levels.items())
    ]


def _side(run: Run) -> list[dict[str, Any]]:
    from rislab.figures import BLUE, GREEN, PURPLE, SKY, VERMILLION

    curves = run.curves
    line = {"type": "scatter", "mode": "lines", "showlegend": False}
    traces: list[dict[str, Any]] = []
    for axis, store in (("2", curves.gradients), ("3", curves.rates)):
        for name, colour, dash in zip(store, (BLUE, VERMILLION), ("solid", "dot"), strict=False):
            place = {
                "xaxis": f"x{axis}",
                "yaxis": f"y{axis}",
                "name": name,
                "line": {"color": colour, "dash": dash, "width": 1.5},
            }
            traces.append({**line, **place, **_thinned(curves.at, store[name])})
    scale = {"xaxis": "x4", "yaxis": "y4", "name": "loss scale", "line": {"color": GREEN, "shape": "hv"}}
    traces.append({**line, **scale, **_thinned(curves.at, curves.scale)})
    books = {
        "forwards": BLUE,
        "backwards": SKY,
        "steps_applied": GREEN,
        "steps_skipped": VERMILLION,
        "scheduler_ticks": PURPLE,
    }
    ends = [float(end.step) for end in curves.ends]
    for (name, colour), dash in zip(books.items(), ("solid", "dash", "solid", "dot", "dash"), strict=True):
        place = {"xaxis": "x5", "yaxis": "y5", "name": name.replace("_", " "), "line": {"color": colour, "dash": dash}}
        counts = [float(asdict(end.counters)[name]) for end in curves.ends]
        traces.append({**line, **place, "mode": "lines+markers", "marker": {"size": 4}, "x": ends, "y": counts})
    return traces


def table(panel: OverfitPanel) -> str:
    """Final numbers of all runs, as HTML."""
    head = ("run", "state", "epoch", "steps", "skipped", "train", "eval, same data", "forwards", "backwards")
    rows = []
    for run in panel.runs:
        run.follow()
        end = run.curves.ends[-1] if run.curves.ends else None
        cells = [html.escape(run.label(panel.runs[0].config)), run.runner.state]
        if end is not None:
            counters = end.counters
            cells += [f"{end.epoch}/{end.epochs}", str(counters.steps_applied), str(counters.steps_skipped)]
            cells += [f"{end.train:.3g}", f"{end.train_eval:.3g}", str(counters.forwards), str(counters.backwards)]
        rows.append("".join(f"<td style='padding:0 10px'>{cell}</td>" for cell in cells))
    top = "".join(f"<th style='padding:0 10px;text-align:left'>{name}</th>" for name in head)
    return f"<table style='font-size:12px'><tr>{top}</tr>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"


def _widget(panel: OverfitPanel) -> tuple[Any, Callable[[], None]]:
    """The knobs, buttons and plot, and the function that shows the present state in them."""
    import ipywidgets as widgets

    from rislab.figures import template
    from rislab.live import Plot

    config = panel.config
    style = {"description_width": "initial"}

    def knob(kind: Any, description: str, width: str, **options: Any) -> Any:
        return kind(description=description, style=style, layout={"width": width}, **options)

    whole, real = widgets.BoundedIntText, widgets.BoundedFloatText
    knobs = {
        "preset": knob(widgets.Dropdown, "preset", "150px", options=list(WHOLE_SET), value=config.preset),
        "precision": knob(widgets.Dropdown, "precision", "140px", options=list(PRECISIONS), value=config.precision),
        "accumulation_steps": knob(whole, "accumulation", "150px", min=1, max=512, value=config.accumulation_steps),
        "micro_batch": knob(whole, "micro-batch", "150px", min=1, max=config.scenes, value=config.micro_batch),
        "lr": knob(real, "lr", "110px", min=1e-6, max=10.0, step=1e-3, value=config.lr),
        "clip_norm": knob(real, "clip", "110px", min=1e-6, max=1e6, step=0.1, value=config.clip_norm or 1e6),
        "curriculum": knob(widgets.Dropdown, "curriculum", "220px", options=list(CURRICULA), value=config.curriculum),
        "blend": knob(widgets.FloatSlider, "β", "170px", min=0, max=0.95, step=0.05, value=config.blend),
        "epochs": knob(whole, "epochs", "120px", min=1, max=100_000, value=config.epochs),
        "seed": knob(whole, "seed", "100px", min=0, max=2**31 - 1, value=config.seed),
    }
    buttons = {
        "Start": ("play", "Begin a run with these knobs, or go on after a pause", panel.start),
        "Pause": ("pause", "Wait after the window in progress", panel.pause),
        "Step": ("step-forward", "One window, then wait", panel.step),
        "Stop": ("stop", "End the run after the window in progress", panel.stop),
        "Reset": ("refresh", "Stop, and take all runs off the plot", panel.reset),
        "Remove last": ("trash", "Take the last run off the plot", lambda: panel.remove(-1) if panel.runs else None),
    }
    made = {
        name: widgets.Button(description=name, icon=icon, tooltip=tooltip, layout={"width": "125px"})
        for name, (icon, tooltip, _) in buttons.items()
    }
    line, note, numbers = widgets.Label(), widgets.HTML(), widgets.HTML()
    plot = Plot(drawing(panel), {theme: template(theme) for theme in ("light", "dark")})

    def draw() -> None:
        state = panel.state
        plot.show(drawing(panel))
        if state not in ("running", "waiting"):
            plot.flush()
        ends = panel.runs[-1].curves.ends if panel.runs else []
        line.value = epoch_line(ends[-1]) if ends else ""
        numbers.value = table(panel)
        note.value = f"<b style='color:#b34700'>{html.escape(panel.error)}</b>" if panel.error else ""

    def press(call: Callable[[], None]) -> Callable[[Any], None]:
        def pressed(button: Any) -> None:
            call()
            draw()

        return pressed

    def tie(name: str) -> Callable[[Any], object]:
        return lambda change: panel.change(**{name: change["new"]})

    for name, button in made.items():
        button.on_click(press(buttons[name][2]))
    for name, widget in knobs.items():
        widget.observe(tie(name), "value")
    rows = [list(knobs.values())[:6], list(knobs.values())[6:]]
    shown = [*(widgets.HBox(row) for row in rows), widgets.HBox([*made.values(), line]), note, plot, numbers]
    return widgets.VBox(shown), draw
