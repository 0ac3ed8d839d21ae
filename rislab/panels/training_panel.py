"""The training panel: what its knobs and buttons do, and its runs one after another; training_view shows them."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from torch import nn

from rislab import files
from rislab.checkup.findings import Findings
from rislab.errors import InputError
from rislab.faults.catalogue import find_fault
from rislab.faults.fault import Fault
from rislab.panels.background_task import BackgroundTask
from rislab.panels.base import Panel
from rislab.panels.run import OnEpoch, Run, folders, new_folder
from rislab.sanity.overfit import config_of_run
from rislab.sanity.overfit_config import OverfitConfig
from rislab.training.records import Record

RESTS = "rests"  # a file in the folder of a run that was stopped or paused by hand, where runs are resumed


class OverfitPanel(Panel[list[Record]]):
    """Trainings on the full set of the overfit ladder, one after another; awaiting them gives the records of the last.

    Attributes:
        fault: with which the next run is broken on purpose; None for the correct loop.
        hold_batch: whether the micro-batch follows the accumulation, so that a step sees as many scenes as before.
        watched: whether the checkup watches the next run.

    Args:
        config: what to train first; it starts at once.
        live: whether to make widgets.
        folder: where each run gets a run folder of its own; None keeps the records in memory.
        on_epoch: see Run.
        watched: whether the checkup watches the first run.
        resume: whether to show the runs of the folder, if it holds some, and to let the newest go on, unless it was
            stopped or paused by hand, in place of a first run.
    """

    def __init__(
        self,
        config: OverfitConfig,
        *,
        live: bool,
        folder: Path | None = None,
        on_epoch: OnEpoch = lambda model, epoch: None,
        watched: bool = True,
        resume: bool = False,
    ) -> None:
        saved = [folder / name for name in reversed(folders(folder))] if resume and folder is not None else []
        self.config, self.folder, self._resume = config_of_run(saved[-1]) if saved else config, folder, resume
        self.runs: list[Run] = []
        self.fault: Fault | None = None
        self.hold_batch, self.watched = True, watched
        self._calls: dict[str, Any] = {"on_tick": self.redraw, "on_epoch": on_epoch}
        self._count = 0
        self._latest: Run | None = None
        super().__init__(live=live)
        for each in saved:
            self.load(each)
        if not saved:
            self.start()
        elif self.state == "stopped" and not (saved[-1] / RESTS).exists():
            self.go_on(len(self.runs) - 1)

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
        """Change the configuration of the next run; see hold_batch for what follows the accumulation.

        Returns:
            Whether the values are allowed; if not, nothing changes, and `input_error` says why.
        """
        return self.attempt(lambda: setattr(self, "config", self.changed(**fields)))

    def changed(self, **fields: Any) -> OverfitConfig:
        """The configuration with some fields changed, as change() would make it; raises InputError."""
        steps = fields.get("accumulation_steps", self.config.accumulation_steps)
        if self.hold_batch and steps != self.config.accumulation_steps and "micro_batch" not in fields:
            batch = self.config.accumulation_steps * self.config.micro_batch
            if not isinstance(steps, int) or steps < 1 or batch % steps:
                raise InputError(
                    f"accumulation_steps is {steps!r}; allowed: a divisor of {batch}, the effective batch that is held"
                )
            fields["micro_batch"] = batch // steps
        return self.config.changed(**fields)

    def break_with(self, name: str) -> None:
        """Choose the fault of the next run, "" for the correct loop; raises InputError for an unknown name."""
        self.fault = find_fault(name) if name else None
        self.redraw()

    def batch_line(self) -> str:
        """The effective batch of the next run, and how it is made."""
        config = self.config
        window = config.accumulation_steps * config.micro_batch
        steps = math.ceil(math.ceil(config.scenes / config.micro_batch) / config.accumulation_steps)
        parts = f"{config.accumulation_steps} × {config.micro_batch} scenes"
        return f"effective batch {window} = {parts}, {steps} step{'' if steps == 1 else 's'} an epoch"

    def title(self) -> str:
        """State, preset, precision, fault and step of the last run."""
        if not self.runs:
            return self.state
        run = self.runs[-1]
        fault = "" if run.fault is None else f", {run.fault.name}"
        return f"{self.state}: {run.config.preset}, {run.config.precision}{fault}, step {run.history.windows}"

    def verdict(self) -> str:
        """What the checkup says of the last run, in one sentence; "" where nothing watches."""
        run = self.runs[-1] if self.runs else None
        if run is None or run.checkup is None:
            return ""
        hidden = run.fault is not None and run.state == "finished" and not run.checkup.findings.of("warning")
        return run.checkup.summary + ("; with these knobs the fault changes nothing that it watches" if hidden else "")

    def findings(self) -> Findings:
        """Those of the checkup of the last run so far."""
        checkup = self.runs[-1].checkup if self.runs else None
        return Findings() if checkup is None else checkup.findings

    def buttons(self) -> set[str]:
        """Those of "Start", "Pause", "Step", "Stop", "Reset", "Remove" and "Go on" that can do something now."""
        if self.task is None:
            return {"Start"}
        on = set() if self.activity == "stopping" else {"Pause", "Step", "Stop"}
        rest = {"paused": {"Start", "Step", "Stop"}, "running": on, "waiting": on}
        return {"Reset", "Remove"} | rest.get(self.state, {"Start", "Go on"})

    def start(self) -> None:
        """Begin a run with the present configuration, or let a paused one go on; a running one is left alone."""
        if self.state == "paused":
            self._note_rest(False)
            self.runs[-1].task.resume()
        elif self.state not in ("running", "waiting"):
            self.attempt(self._begin)

    def pause(self) -> None:
        """Wait after the window in progress."""
        if self.runs:
            self._note_rest(True)
            self.runs[-1].task.pause()

    def stop(self) -> None:
        self._note_rest(True)
        super().stop()

    def step(self) -> None:
        """One window, then pause."""
        if self.runs:
            self._note_rest(True)
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
            run = Run.load(**self._named(), folder=Path(folder), **self._calls)
            # The run that is on stays last: the buttons are about it.
            self.runs.insert(len(self.runs) - (self.state in ("running", "paused")), run)

        return self.attempt(read)

    def go_on(self, number: int) -> bool:
        """Let a run go on where it was stopped; returns whether it can, and if not, `input_error` says why."""

        def again() -> None:
            if self.state in ("running", "paused"):
                raise InputError(f"{self.runs[-1].name} is {self.state}; allowed: one run at a time")
            self.runs.append(self.runs.pop(number))
            self._note_rest(False)
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
        from rislab.panels.training_view import TrainingView

        view = TrainingView(self)
        return view.box, view.draw

    def static(self) -> dict[str, Any]:
        return {"text/plain": f"training {self.config.scenes} {self.config.preset} scenes; await it for the records"}

    def _begin(self) -> None:
        now = datetime.now().strftime("%Y%m%d-%H%M%S")
        folder = None if self.folder is None or self.fault else new_folder(self.folder, self.config, now)
        how = {"fault": self.fault, "watched": self.watched, **self._calls}
        run = Run(**self._named(), config=self.config, folder=folder, **how)
        self._latest = run
        self.runs.append(run)
        run.go_on()

    def _note_rest(self, rests: bool) -> None:
        """Note in its folder whether the last run is to rest when it is resumed."""
        if not self._resume or not self.runs or self.runs[-1].folder is None:
            return
        if rests:
            files.replace(self.runs[-1].folder / RESTS, b"")
        else:
            (self.runs[-1].folder / RESTS).unlink(missing_ok=True)

    def _named(self) -> dict[str, Any]:
        """Name and number of one more run."""
        self._count += 1
        return {"name": f"run {self._count}", "number": self._count}
