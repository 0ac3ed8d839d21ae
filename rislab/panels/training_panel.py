"""The training panel: knobs, Start, Pause, Step, Stop and Reset, and every run on one live figure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rislab.panels.training_runs import TrainingRuns


class OverfitPanel(TrainingRuns):
    """Training on the full set of the overfit ladder, live; awaiting it gives the records of its last run.

    Args and attributes are those of TrainingRuns.
    """

    def build(self) -> tuple[Any, Callable[[], None]]:
        from rislab.panels.training_view import TrainingView

        view = TrainingView(self)
        return view.box, view.draw
