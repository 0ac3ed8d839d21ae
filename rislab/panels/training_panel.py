"""The training panel: knobs, Start, Pause, Step, Stop and Reset, and every run on one live figure."""

from __future__ import annotations

import asyncio
import html
from collections.abc import Callable, Generator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from torch import nn

from rislab.errors import InputError
from rislab.model.losses import CURRICULA
from rislab.panels.background_task import POLL_SECONDS
from rislab.panels.run import OnEpoch, Run, folders, new_folder
from rislab.panels.training_plot import figure_dict, table
from rislab.plots.style import ERROR_COLOUR, template
from rislab.sanity.overfit import WHOLE_SET, OverfitConfig
from rislab.training.config import PRECISIONS
from rislab.training.records import Record, epoch_line


class OverfitPanel:
    """Training on the whole set of the overfit ladder, live; awaiting it gives the records of its last run.

    Args:
        config: what to train first; it starts at once.
        live: whether to make widgets.
        folder: where each run gets a run folder of its own; None keeps the records in memory.
        on_epoch: see Run.
    """

    def __init__(
        self,
        config: OverfitConfig,
        *,
        live: bool,
        folder: Path | None = None,
        on_epoch: OnEpoch = lambda model, epoch: None,
    ) -> None:
        self.config, self.folder = config, folder
        self.runs: list[Run] = []
        self.error = ""
        self.widget: Any = None
        self._on_epoch = on_epoch
        self._named = 0
        self._draw: Callable[[], None] = lambda: None
        self.start()
        if live:
            self.widget, self._draw = _widget(self)

    @property
    def model(self) -> nn.Module:
        """The network of the last run."""
        return self.runs[-1].model

    @property
    def state(self) -> str:
        """That of the last run; see Run.state. "reset" where there is none."""
        return self.runs[-1].state if self.runs else "reset"

    @property
    def problem(self) -> str:
        """Why the last input was refused, or the last run's figure could not be drawn; "" if neither was."""
        fault = self.runs[-1].runner.tick_error if self.runs else None
        return self.error or (f"the figure could not be drawn: {type(fault).__name__}: {fault}" if fault else "")

    def change(self, **fields: Any) -> bool:
        """Change the configuration of the next run.

        Returns:
            Whether the values are allowed; if not, nothing changes, and `error` says why.
        """
        return self._tried(lambda: setattr(self, "config", replace(self.config, **fields)))

    def start(self) -> None:
        """Begin a run with the present configuration, or let a paused one go on; a running one is left alone."""
        if self.state == "paused":
            self.runs[-1].runner.resume()
        elif self.state not in ("running", "waiting"):
            self._tried(self._begin)

    def pause(self) -> None:
        """Wait after the window in progress."""
        if self.runs:
            self.runs[-1].runner.pause()

    def step(self) -> None:
        """One window, then pause."""
        if self.runs:
            self.runs[-1].runner.step()

    def stop(self) -> None:
        """Stop after the window in progress."""
        if self.runs:
            self.runs[-1].runner.stop()

    def remove(self, number: int) -> None:
        """Take a run off the plot, stopping it first; its folder stays."""
        if self.runs:
            self.runs.pop(number).runner.stop()
        self._draw()

    def reset(self) -> None:
        """Stop, and take all runs off the plot."""
        while self.runs:
            self.remove(0)
        self.error = ""

    def load(self, folder: Path | str) -> bool:
        """Put the run of a folder on the plot; returns whether it could be read, and if not, `error` says why."""

        def read() -> None:
            if any(run.folder is not None and run.folder.resolve() == Path(folder).resolve() for run in self.runs):
                raise InputError(f"{folder} is on the plot already; allowed: another run")
            run = Run.load(self._name(), Path(folder), **self._calls())
            # The run that is on stays last: the buttons are about it.
            self.runs.insert(len(self.runs) - (self.state in ("running", "paused")), run)

        return self._tried(read)

    def go_on(self, number: int) -> bool:
        """Let a run go on where it was stopped; returns whether it can, and if not, `error` says why."""

        def again() -> None:
            if self.state in ("running", "paused"):
                raise InputError(f"{self.runs[-1].name} is {self.state}; allowed: one run at a time")
            self.runs.append(self.runs.pop(number))
            self.runs[-1].go_on()

        return self._tried(again)

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

    def _begin(self) -> None:
        now = datetime.now().strftime("%Y%m%d-%H%M%S")
        folder = None if self.folder is None else new_folder(self.folder, self.config, now)
        self.runs.append(Run(self._name(), self.config, folder, **self._calls()))
        self.runs[-1].go_on()

    def _name(self) -> str:
        self._named += 1
        return f"run {self._named}"

    def _calls(self) -> dict[str, Callable[..., None]]:
        return {"on_tick": lambda: self._draw(), "on_epoch": self._on_epoch}

    def _tried(self, call: Callable[[], None]) -> bool:
        """Whether a call went well; if its input was refused, `error` holds the sentence."""
        try:
            call()
            self.error = ""
        except InputError as error:
            self.error = str(error)
        self._draw()
        return not self.error

    def _repr_mimebundle_(self, **options: Any) -> Any:
        if self.widget is not None:
            return self.widget._repr_mimebundle_(**options)
        return {"text/plain": f"training {self.config.scenes} {self.config.preset} scenes; await it for the records"}


def title(panel: OverfitPanel) -> str:
    """State, preset, precision and step of the last run."""
    if not panel.runs:
        return panel.state
    run = panel.runs[-1]
    return f"{panel.state}: {run.config.preset}, {run.config.precision}, step {run.curves.windows}"


def _knobs(config: OverfitConfig) -> dict[str, Any]:
    """The widgets of the configuration, by field; what they allow is what the configuration allows."""
    import ipywidgets as widgets

    def knob(kind: Any, description: str, width: str, **options: Any) -> Any:
        return kind(description=description, style={"description_width": "initial"}, layout={"width": width}, **options)

    whole, real = widgets.BoundedIntText, widgets.BoundedFloatText
    return {
        "preset": knob(widgets.Dropdown, "preset", "150px", options=list(WHOLE_SET), value=config.preset),
        "precision": knob(widgets.Dropdown, "precision", "140px", options=list(PRECISIONS), value=config.precision),
        "accumulation_steps": knob(whole, "accumulation", "150px", min=1, max=512, value=config.accumulation_steps),
        "micro_batch": knob(whole, "micro-batch", "150px", min=1, max=config.scenes, value=config.micro_batch),
        "lr": knob(real, "lr", "110px", min=1e-6, max=10.0, step=1e-3, value=config.lr),
        "clip_norm": knob(real, "clip", "110px", min=1e-6, max=1e6, step=0.1, value=config.clip_norm or 1e6),
        "curriculum": knob(widgets.Dropdown, "curriculum", "220px", options=list(CURRICULA), value=config.curriculum),
        "blend": knob(widgets.FloatSlider, "β", "170px", min=0, max=0.95, step=0.05, value=config.blend),
        "epochs": knob(whole, "epochs", "120px", min=1, max=100_000, value=config.epochs),
        "validation": knob(whole, "fresh scenes", "150px", min=0, max=10_000, value=config.validation),
        "seed": knob(whole, "seed", "100px", min=0, max=2**31 - 1, value=config.seed),
    }


def _widget(panel: OverfitPanel) -> tuple[Any, Callable[[], None]]:
    """The knobs, buttons and plot, and the function that shows the present state in them."""
    import ipywidgets as widgets

    from rislab.panels.plot_widget import Drawing, PlotWidget

    knobs = _knobs(panel.config)
    chosen = widgets.Dropdown(description="run", layout={"width": "200px"}, style={"description_width": "initial"})
    kept = widgets.Dropdown(description="folder", layout={"width": "285px"}, style={"description_width": "initial"})
    log = widgets.ToggleButton(value=True, description="log axis", layout={"width": "90px"})
    line, note, numbers = widgets.Label(), widgets.HTML(), widgets.HTML()
    plot = PlotWidget(figure_dict(panel.runs, title(panel)), {theme: template(theme) for theme in ("light", "dark")})

    def about(call: Callable[[int], object]) -> Callable[[], object]:
        """A call about the run that is chosen, if there is one."""
        return lambda: call(chosen.index) if chosen.index is not None and panel.runs else None

    def load() -> None:
        if panel.folder is not None and kept.value is not None:
            panel.load(panel.folder / kept.value)

    buttons: dict[str, tuple[str, str, Callable[[], object]]] = {
        "Start": ("play", "Begin a run with these knobs, or go on after a pause", panel.start),
        "Pause": ("pause", "Wait after the window in progress", panel.pause),
        "Step": ("step-forward", "One window, then wait", panel.step),
        "Stop": ("stop", "End the run after the window in progress", panel.stop),
        "Reset": ("refresh", "Stop, and take all runs off the plot", panel.reset),
        "Remove": ("trash", "Take the chosen run off the plot; its folder stays", about(panel.remove)),
        "Go on": ("forward", "Let the chosen run go on where it was stopped", about(panel.go_on)),
        "Load": ("folder-open", "Put the run of this folder on the plot", load),
    }
    made = {
        name: widgets.Button(
            description=name, icon=icon, tooltip=tooltip, layout={"width": "96px" if name == "Remove" else "86px"}
        )
        for name, (icon, tooltip, _) in buttons.items()
    }

    def picture() -> Drawing:
        last = panel.runs[-1].curves.last if panel.runs else None
        line.value = epoch_line(last) if last is not None else ""
        numbers.value = table(panel.runs)
        return figure_dict(panel.runs, title(panel), log=log.value)

    def draw() -> None:
        # First, since drawing may fail.
        note.value = f"<b style='color:{ERROR_COLOUR}'>{html.escape(panel.problem)}</b>" if panel.problem else ""
        plot.show(picture)
        if panel.state not in ("running", "waiting"):
            plot.flush()

    def offer() -> None:
        """Bring the two lists up to date: the runs on the plot, and the folders of those that are not."""
        names = [run.name for run in panel.runs]
        if list(chosen.options) != names:
            chosen.options = names
            chosen.index = len(names) - 1 if names else None
        if panel.folder is not None:
            shown = {run.folder for run in panel.runs}
            names = [name for name in folders(panel.folder) if panel.folder / name not in shown]
            if list(kept.options) != names:
                kept.options = names
                kept.index = 0 if names else None

    def press(call: Callable[[], object]) -> Callable[[Any], None]:
        def pressed(button: Any) -> None:
            call()
            offer()
            draw()

        return pressed

    def tie(name: str) -> Callable[[Any], object]:
        return lambda change: panel.change(**{name: change["new"]})

    for name, button in made.items():
        button.on_click(press(buttons[name][2]))
    for name, widget in knobs.items():
        widget.observe(tie(name), "value")
    log.observe(lambda change: draw(), "value")
    offer()
    fields = list(knobs.values())
    control = [made[name] for name in ("Start", "Pause", "Step", "Stop", "Reset")]
    history = [chosen, made["Remove"], made["Go on"], kept, made["Load"], log]
    rows = [widgets.HBox(fields[:6]), widgets.HBox(fields[6:]), widgets.HBox([*control, line])]
    return widgets.VBox([*rows, widgets.HBox(history), note, plot, numbers]), draw
