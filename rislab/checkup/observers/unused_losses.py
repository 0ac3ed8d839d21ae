"""Losses that are computed with a gradient, and dropped: what another loss was written over, nobody has read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rislab.checkup.findings import Finding, as_warning
from rislab.checkup.recording.call_stack import by_library, exact_caller
from rislab.checkup.recording.events import ForwardEvent, LossEvent, Observer, Roots
from rislab.checkup.recording.interception import BACKWARDS
from rislab.checkup.recording.tensors import MarkedTensors, tensors_of
from rislab.checkup.rules import Code

# Losses of one line that must have been dropped, and losses that are held.
AGREEING, HELD = 8, 64
_Place = tuple[str, tuple[str, ...]]  # file and line, and what led there


class DroppedLosses(Observer):
    """Follows each loss of torch up to the first function that takes it, while all functions are reported."""

    def __init__(self) -> None:
        self._losses = MarkedTensors(HELD)  # each with its place
        self._dropped: Counter[_Place] = Counter()
        self._used: set[_Place] = set()
        self._backwards, self._inside = 0, False

    def on_forward(self, module: nn.Module, training: bool) -> None:
        self._inside = True

    def on_forward_end(self, call: ForwardEvent) -> None:
        self._inside = False

    def on_loss(self, call: LossEvent) -> bool:
        output = call.output
        self._dropped.update(self._losses.take_dead())
        # A network may always give a loss, whether it is wanted or not.
        if isinstance(output, Tensor) and output.requires_grad and not output.dim() and not self._inside:
            where, stack = exact_caller()
            if torch.is_grad_enabled() and not by_library(stack):
                self._losses.mark(output, (where, stack))
        return self._backwards >= BACKWARDS

    def on_call(self, given: Sequence[Any], name: str) -> None:
        for value in tensors_of(given) if self._losses else ():
            self._note_used(value)

    def on_backward(self, roots: Roots) -> bool:
        for root, _ in roots:
            self._note_used(root)
        self._backwards += 1
        if self._backwards >= BACKWARDS:
            self._dropped.update(self._losses.take_dead())
            self._losses.clear()
        return self._backwards >= BACKWARDS

    def _note_used(self, value: Tensor) -> None:
        place = self._losses.take(value)
        if place is not None:
            self._used.add(place)

    def end(self, error: BaseException | None) -> None:
        self._losses.clear()

    def findings(self) -> list[Finding]:
        results = []
        for place, count in self._dropped.items():
            if count >= AGREEING and place not in self._used and self._backwards:
                text = f"{count} losses were computed with a gradient, and dropped: no function took one, and no "
                text += f"backward began at one, in {self._backwards} backwards"
                results.append(as_warning(Code.LOSSES, "loss that nothing uses", text, place[0]))
        return results
