"""Averages that take the place of the weights for an evaluation, and stay there after it, or never move."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from rislab.checkup.findings import Finding, as_fault, as_warning
from rislab.checkup.recording.living_objects import living_objects
from rislab.checkup.recording.tensors import few_coordinates, is_readable
from rislab.checkup.rules import Code

# Steps from an average after an evaluation that are no accident; searches for what was put aside; weights that tell;
# evaluations with the first weights that are no accident.
LEFT, SEARCHES, WEIGHTS, EVALUATIONS = 2, 3, 2, 3


class Copy(Protocol):
    """A copy of a weight, by the place of that."""

    place: int

    def copy(self) -> Tensor | None:
        """The copy itself, while it lives."""


class LeftAverages:
    """Holds the first weights of an optimiser against their averages at the first step after an evaluation."""

    def __init__(self) -> None:
        self._after: list[Tensor] = []  # a few numbers of the weights after the last step
        self._left = self._put_aside = 0  # steps from an average, and those beside a copy of what was there before
        # A few numbers of the weights before the first step, if the last evaluation was with them; how many were, after
        # which the steps went on from others, and how many were with others.
        self._begun: list[Tensor] = []
        self._of_first = self._of_others = 0

    def before_evaluation(self, weights: Sequence[Tensor], first: Sequence[Tensor]) -> None:
        """An evaluation begins, with these weights.

        Args:
            weights: of the optimiser.
            first: a few numbers of each before the first step.
        """
        same = bool(first) and _are(weights, first)
        self._begun, self._of_others = [*first] * same, self._of_others + (not same)

    def after_step(self, weights: Sequence[Tensor]) -> None:
        """A step is over: where it has led to is kept."""
        self._after = [few_coordinates(weight) for weight in weights[:WEIGHTS]]

    def before_step(self, weights: Sequence[Tensor], averages: Sequence[Copy]) -> None:
        """A step is about to begin after an evaluation."""
        if self._begun:
            self._of_first, self._begun = self._of_first + (not _are(weights, self._begun)), []
        now = [few_coordinates(weight) for weight in weights[: len(self._after)]]
        values = [(one.place, value) for one in averages if (value := one.copy()) is not None]
        same = {
            place for place, value in values if place < len(now) and torch.equal(few_coordinates(value), now[place])
        }
        if not now or len(same) < len(now) or any(map(torch.equal, now, self._after)):
            return
        self._left += 1
        if self._left <= SEARCHES:
            self._put_aside += self._is_put_aside({weight.shape for weight in weights[: len(now)]})

    def _is_put_aside(self, shapes: set[torch.Size]) -> bool:
        """Whether somebody keeps copies of what the last step led to."""
        living = living_objects((Tensor, nn.Parameter), subclasses=False)
        fitting = [few_coordinates(one) for one in living if one.shape in shapes and is_readable(one)]
        return all(any(torch.equal(one, after) for one in fitting) for after in self._after)

    def findings(self) -> list[Finding]:
        """A fault where the weights were put aside, and not put back; without that, it may be meant."""
        results = []
        if self._of_first >= EVALUATIONS and not self._of_others:
            text = f"all {self._of_first} evaluations were with the weights as they were before the first step: they "
            text += "take the place of those that are trained, which come back, and follow no step"
            results.append(as_warning(Code.WEIGHTS, "average never moves", text))
        if self._left >= LEFT:
            text = f"after {self._left} evaluations the steps went on from an average of the weights, in their place"
            aside = self._put_aside >= LEFT
            text += ", though a copy of what the steps had led to is kept" * aside
            results.append((as_fault if aside else as_warning)(Code.WEIGHTS, "averaged weights stay", text))
        return results


def _are(weights: Sequence[Tensor], numbers: Sequence[Tensor]) -> bool:
    """Whether weights have these few numbers."""
    return all(torch.equal(few_coordinates(one), few) for one, few in zip(weights, numbers, strict=True))
