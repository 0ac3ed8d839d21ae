"""The training panel: knobs, Start, Pause, Step, Stop and Reset, and every run on one live figure."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from rislab.errors import InputError
from rislab.panels.background_task import BackgroundTask
from rislab.panels.base import Panel
from rislab.panels.knobs import knob, labelled
from rislab.panels.run import OnEpoch, Run, folders, new_folder
from rislab.panels.training_plot import figure_dict, table
from rislab.sanity.overfit_config import OverfitConfig
from rislab.training.records import Record, epoch_line


class OverfitPanel(Panel[list[Record]]):
    """Training on the full set of the overfit ladder, live; awaiting it gives the records of its last run.

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
        self._calls: dict[str, Any] = {"on_tick": self.redraw, "on_epoch": on_epoch}
        self._named = 0
        self._latest: Run | None = None
        super().__init__(live=live)
        self.start()

    @property
    def model(self) -> nn.Module:
        """The network of the last run."""
        return self.runs[-1].model

    @property
    def task(self) -> BackgroundTask[Record] | None:
        return self.runs[-1].task if self.runs else None

    @property
    def state(self) -> str:
        """That of the last run; see Run.state. "reset" where there is none."""
        return self.runs[-1].state if self.runs else "reset"

    def change(self, **fields: Any) -> bool:
        """Change the configuration of the next run.

        Returns:
            Whether the values are allowed; if not, nothing changes, and `input_error` says why.
        """
        return self.attempt(lambda: setattr(self, "config", self.config.changed(**fields)))

    def start(self) -> None:
        """Begin a run with the present configuration, or let a paused one go on; a running one is left alone."""
        if self.state == "paused":
            self.runs[-1].task.resume()
        elif self.state not in ("running", "waiting"):
            self.attempt(self._begin)

    def pause(self) -> None:
        """Wait after the window in progress."""
        if self.runs:
            self.runs[-1].task.pause()

    def step(self) -> None:
        """One window, then pause."""
        if self.runs:
            self.runs[-1].task.step()

    def remove(self, number: int) -> None:
        """Take a run off the plot, stopping it first; its folder stays."""
        if self.runs:
            self.runs.pop(number).task.stop()
        self.redraw()

    def reset(self) -> None:
        """Stop, and take all runs off the plot."""
        while self.runs:
            self.remove(0)
        self.input_error = ""
        self.redraw()

    def load(self, folder: Path | str) -> bool:
        """Put the run of a folder on the plot; returns whether it could be read, and if not, `input_error` says why."""

        def read() -> None:
            if any(run.folder is not None and run.folder.resolve() == Path(folder).resolve() for run in self.runs):
                raise InputError(f"{folder} is on the plot already; allowed: another run")
            run = Run.load(self._name(), Path(folder), **self._calls)
            # The run that is on stays last: the buttons are about it.
            self.runs.insert(len(self.runs) - (self.state in ("running", "paused")), run)

        return self.attempt(read)

    def go_on(self, number: int) -> bool:
        """Let a run go on where it was stopped; returns whether it can, and if not, `input_error` says why."""

        def again() -> None:
            if self.state in ("running", "paused"):
                raise InputError(f"{self.runs[-1].name} is {self.state}; allowed: one run at a time")
            self.runs.append(self.runs.pop(number))
            self._latest = self.runs[-1]
            self._latest.go_on()

        return self.attempt(again)

    def records(self) -> list[Record]:
        """The records of the last run so far."""
        return self.runs[-1].records() if self.runs else []

    def result(self) -> list[Record]:
        # Reset may have taken the run off while it was awaited.
        return self.records() if self.runs or self._latest is None else self._latest.records()

    def build(self) -> tuple[Any, Callable[[], None]]:
        view = _View(self)
        return view.box, view.draw

    def static(self) -> dict[str, Any]:
        return {"text/plain": f"training {self.config.scenes} {self.config.preset} scenes; await it for the records"}

    def _begin(self) -> None:
        now = datetime.now().strftime("%Y%m%d-%H%M%S")
        folder = None if self.folder is None else new_folder(self.folder, self.config, now)
        self.runs.append(Run(self._name(), self.config, folder, **self._calls))
        self._latest = self.runs[-1]
        self._latest.go_on()

    def _name(self) -> str:
        self._named += 1
        return f"run {self._named}"


def title(panel: OverfitPanel) -> str:
    """State, preset, precision and step of the last run."""
    if not panel.runs:
        return panel.state
    run = panel.runs[-1]
    return f"{panel.state}: {run.config.preset}, {run.config.precision}, step {run.history.windows}"


def _knobs(panel: OverfitPanel) -> dict[str, Any]:
    """The widgets of the configuration, by field."""
    looks: dict[str, tuple[str, str, dict[str, Any]]] = {
        "preset": ("", "150px", {}),
        "precision": ("", "140px", {}),
        "accumulation_steps": ("accumulation", "150px", {}),
        "micro_batch": ("micro-batch", "150px", {}),
        "lr": ("", "110px", {"step": 1e-3}),
        "clip_norm": ("clip", "110px", {"step": 0.1}),
        "curriculum": ("", "220px", {}),
        "blend": ("β", "170px", {"high": 0.95, "step": 0.05, "slider": True}),
        "epochs": ("", "120px", {}),
        "validation": ("fresh scenes", "150px", {}),
        "seed": ("", "100px", {}),
    }

    def check(name: str) -> Callable[[Any], object]:
        return lambda value: panel.config.changed(**{name: value})

    values = vars(panel.config)
    return {
        name: knob(OverfitConfig, name, values[name], label=label, width=width, check=check(name), **options)
        for name, (label, width, options) in looks.items()
    }


class _View:
    """The widgets of a training panel."""

    def __init__(self, panel: OverfitPanel) -> None:
        import ipywidgets as widgets

        self.panel = panel
        self.runs = labelled(widgets.Dropdown, "run", "200px")
        self.folders = labelled(widgets.Dropdown, "folder", "285px")
        self.log = widgets.ToggleButton(value=True, description="log axis", layout={"width": "90px"})
        self.line, self.numbers = widgets.Label(), widgets.HTML()
        self.plot = panel.plot(figure_dict((), panel.state))
        fields = _knobs(panel)
        for name, field in fields.items():
            panel.user_input.observe(field, partial(self._change, name))
        panel.user_input.observe(self.log, lambda value: panel.redraw())
        knobs = [*fields.values()]
        press = self._buttons()
        control = [press[name] for name in ("Start", "Pause", "Step", "Stop", "Reset")]
        history = [self.runs, press["Remove"], press["Go on"], self.folders, press["Load"], self.log]
        rows = [widgets.HBox(row) for row in (knobs[:6], knobs[6:], [*control, self.line], history)]
        self.box = widgets.VBox([*rows, panel.alarm, self.plot, self.numbers])

    def draw(self) -> None:
        if list(self.runs.options) != [run.name for run in self.panel.runs]:
            self._offer()
        self.plot.update(self._figure)
        if self.panel.state not in ("running", "waiting"):
            self.plot.flush()

    def _figure(self) -> dict[str, Any]:
        runs = self.panel.runs
        last = runs[-1].history.last if runs else None
        self.line.value = epoch_line(last) if last is not None else ""
        self.numbers.value = table(runs)
        return figure_dict(runs, title(self.panel), log=self.log.value)

    def _offer(self) -> None:
        """Bring the two lists up to date: the runs on the plot, and the folders of those that are not."""
        panel = self.panel
        names = [run.name for run in panel.runs]
        if list(self.runs.options) != names:
            self.runs.options = names
            self.runs.index = len(names) - 1 if names else None
        if panel.folder is not None:
            shown = {run.folder for run in panel.runs}
            names = [name for name in folders(panel.folder) if panel.folder / name not in shown]
            if list(self.folders.options) != names:
                self.folders.options = names
                self.folders.index = 0 if names else None

    def _buttons(self) -> dict[str, Any]:
        import ipywidgets as widgets

        panel = self.panel
        calls: dict[str, tuple[str, str, Callable[[], object]]] = {
            "Start": ("play", "Begin a run with these knobs, or go on after a pause", panel.start),
            "Pause": ("pause", "Wait after the window in progress", panel.pause),
            "Step": ("step-forward", "One window, then wait", panel.step),
            "Stop": ("stop", "End the run after the window in progress", panel.stop),
            "Reset": ("refresh", "Stop, and take all runs off the plot", panel.reset),
            "Remove": ("trash", "Take the chosen run off the plot; its folder stays", self._with_run(panel.remove)),
            "Go on": ("forward", "Let the chosen run go on where it was stopped", self._with_run(panel.go_on)),
            "Load": ("folder-open", "Put the run of this folder on the plot", self._load),
        }
        made = {}
        for name, (icon, tooltip, call) in calls.items():
            width = {"width": "96px" if name == "Remove" else "86px"}
            made[name] = widgets.Button(description=name, icon=icon, tooltip=tooltip, layout=width)
            made[name].on_click(self._presses(call))
        return made

    def _presses(self, call: Callable[[], object]) -> Callable[[Any], None]:
        def pressed(button: Any) -> None:
            call()
            self._offer()
            self.panel.redraw()

        return pressed

    def _change(self, name: str, value: Any) -> None:
        self.panel.change(**{name: value})

    def _with_run(self, call: Callable[[int], object]) -> Callable[[], object]:
        """A call about the run that is chosen, if there is one."""
        return lambda: call(self.runs.index) if self.runs.index is not None and self.panel.runs else None

    def _load(self) -> None:
        if self.panel.folder is not None and self.folders.value is not None:
            self.panel.load(self.panel.folder / self.folders.value)
