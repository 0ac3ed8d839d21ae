"""How many steps came so far: one count, for all observers that ask."""

from __future__ import annotations

from torch.optim.optimizer import Optimizer

from rislab.checkup.recording.events import Observer


class StepCount(Observer):
    """Counts the steps of all optimisers; it is to be told of them before those who ask it."""

    def __init__(self) -> None:
        self.total = 0
        self.counted = 0  # those that were only counted

    def after_step(self, optimizer: Optimizer) -> None:
        self.total += 1

    def count_step(self, optimizer: Optimizer) -> None:
        self.total += 1
        self.counted += 1
