"""How many steps came so far: one count, for all observers that ask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.optim.optimizer import Optimizer

from rislab.checkup.recording.events import Observer


class StepCount(Observer):
    """Counts the steps of all optimisers; it is to be told of them before those who ask it."""

    def __init__(self) -> None:
        self._observed = self._reported = 0
        self._unreported: Mapping[Optimizer, int] = {}

    @property
    def counted(self) -> int:
        """Those that were only counted."""
        return self._reported + sum(self._unreported.values())

    @property
    def total(self) -> int:
        """All."""
        return self._observed + self.counted

    def after_step(self, optimizer: Optimizer) -> None:
        self._observed += 1

    def begin_counting(self, change: Any, all_came: Any, steps: Mapping[Optimizer, int]) -> None:
        self._unreported = steps

    def count_steps(self, optimizer: Optimizer, steps: int) -> None:
        self._reported += steps
