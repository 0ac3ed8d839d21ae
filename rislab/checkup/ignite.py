"""The checkup as a handler of ignite: `CheckupHandler(model, optimizer).attach(trainer)`."""

from __future__ import annotations

import importlib
from typing import Any

from torch import nn

from rislab.checkup.findings import Findings
from rislab.checkup.fit_watch import FitWatch, Framework, RunningCall, TrainedLoop, TrainerSettings
from rislab.checkup.options import check_options
from rislab.checkup.recording.windows import Declared

IGNITE = Framework("ignite", (0, 5), (0, 5))


class CheckupHandler:
    """Watches each run of an Engine, and changes no bit of it; the numbers of its findings go to the engine's logger.

    Args:
        model: that is trained.
        optimizer: of the model.
        accumulation_steps: K, ≥ 1; inferred from the steps if None.
        scaler: gradient scaler of the loop, or None.
        on_fault: "print", or "raise" to raise TrainingFaultError at the end of a run that has faults.
        every: n ≥ 1; compare the gradients of each n-th window only; None compares the first, then ever fewer.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Any,
        *,
        accumulation_steps: int | None = None,
        scaler: Any = None,
        on_fault: str = "print",
        every: int | None = None,
    ) -> None:
        check_options(accumulation_steps=accumulation_steps)
        declared = Declared(accumulation_steps, mean="")
        self._settings = TrainerSettings([TrainedLoop(optimizer, model, scaler=scaler)], declared)
        self._fit = FitWatch("Engine.run()", on_fault, every)

    @property
    def findings(self) -> Findings:
        """Of the last run."""
        return self._fit.findings

    def attach(self, engine: Any) -> None:
        """Watch each run of an engine from now on."""
        events = importlib.import_module("ignite.engine").Events
        engine.add_event_handler(events.STARTED, self._begin)
        engine.add_event_handler(events.COMPLETED, self._end)

    def _begin(self, engine: Any) -> None:
        self._fit.begin(IGNITE, lambda: self._settings, RunningCall(engine))

    def _end(self, engine: Any) -> None:
        self._fit.end(lambda numbers: engine.logger.info("checkup: %s", numbers))
        self._fit.raise_faults()
