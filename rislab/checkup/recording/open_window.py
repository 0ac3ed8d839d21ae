"""The window of a loop that is not over yet: what came since the last step of the optimiser."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.autograd.graph import Node

from rislab.checkup.recording.gradients import compare_gradients
from rislab.checkup.recording.trace import STEPPED, Backward, Clip, MicroBatch, Trace
from rislab.checkup.recording.windows import is_parallel


@dataclass
class OpenWindow:
    """What came since the last step."""

    micro_batches: list[MicroBatch] = field(default_factory=list)  # raw losses
    nodes: dict[Node, MicroBatch] = field(default_factory=dict)  # of the graph, each with the loss that it gave
    backwards: list[Backward] = field(default_factory=list)  # of the loop
    values: Tensor | None = None  # of the weights when the window began, as long as no step was seen
    compared: bool = False  # whether gradients are taken
    size: int = 0  # bytes of gradients
    clips: list[Clip] = field(default_factory=list)  # calls of clip_grad_norm_()
    by_hand: bool = False  # whether gradients by the weights were taken by torch.autograd.grad()
    partial: bool = False  # whether some of it came before the recording began
    # Of the forwards without gradients up to the first one with them, and of those with them.
    samples: tuple[list[int], list[int]] = field(default_factory=lambda: ([], []))

    def note_forward(self, samples: int, with_gradient: bool) -> None:
        """A forward on so many samples is over; one without gradients after others with them ends a first pass."""
        ahead, after = self.samples
        if not self.compared:
            return
        if with_gradient:
            after.append(samples)
        elif after:
            ahead.clear()
        else:
            ahead.append(samples)

    @property
    def ahead(self) -> bool:
        """Whether all forwards had one before them without gradients, on as many samples, in a first pass."""
        ahead, after = self.samples
        return len(after) > 1 and ahead[-len(after) :] == after

    def known(self) -> dict[Node, MicroBatch]:
        """Losses that may be in what backward() is called on, by their nodes."""
        return {node: batch for node, batch in self.nodes.items() if batch in self.micro_batches}

    def drop(self, batch: MicroBatch) -> None:
        """Take a loss away, if it is there."""
        if batch in self.micro_batches:
            self.micro_batches.remove(batch)

    def drop_earlier(self, trace: Trace, recorder: int) -> None:
        """A first forward: backwards before it that came to a recorder are of forwards before the recording."""
        self.partial |= any(recorder in backward.reached for backward in self.backwards)
        if len(trace.steps) == 1 and any(recorder in backward.reached for backward in trace.steps[0].backwards):
            trace.drop_steps()

    def unobserved(self, trace: Trace) -> bool:
        """Whether nothing has come that could give gradients, since the recording began."""
        return not (trace.forwards or trace.backwards or trace.step_count or trace.missed or self.micro_batches)

    def used_nan(self) -> bool:
        """Whether a backward came to a loss that is NaN or infinite."""
        return any(batch.backwards and batch.nonfinite for batch in self.micro_batches)

    def take_unused(self) -> list[MicroBatch]:
        """Take out the losses after the last one that a backward came to."""
        used = max(place for place, batch in enumerate(self.micro_batches, start=1) if batch.backwards)
        rest, self.micro_batches = self.micro_batches[used:], self.micro_batches[:used]
        return rest

    def by_hand_lines(self) -> set[tuple[str, ...]]:
        """Mark the losses whose gradients the loop itself put into .grad; their call stacks."""
        marked = self.micro_batches if self.by_hand and not self.backwards else []
        for batch in marked:
            batch.by_hand = True
        return {batch.call_stack for batch in marked}

    def stepped_on(self) -> list[Backward]:
        """Its backwards, of which the last is marked for all recorders: an optimiser steps on what it gave."""
        if self.backwards:
            self.backwards[-1].reached.add(STEPPED)
        return self.backwards

    def carried(self, before: Tensor | None) -> float | None:
        """What is left of the gradients of the last backward, if those that are there now were read; see Backward."""
        last = self.backwards[-1].after if self.backwards else None
        if last is None or before is None or last.shape != before.shape:
            return None
        if torch.equal(before, last):
            return 1.0
        if not bool(before.any()):
            return 0.0
        change = compare_gradients(before, last)
        return change.alpha if is_parallel(change, 1e-3) else math.nan


@dataclass
class LossLines:
    """What is known of the losses of each line, by its call stack."""

    # Gives how many of the weights ask for a gradient: more of them do once a layer is thawed.
    asking: Callable[[], int]
    detached: set[tuple[str, ...]] = field(default_factory=set)  # losses that depend on none of the weights
    trained: set[tuple[str, ...]] = field(default_factory=set)  # losses that had a backward
    # Losses some of which depend on the weights, and some do not, as those of several heads in turn.
    mixed: set[tuple[str, ...]] = field(default_factory=set)
    _asked: int = 0  # what that gave when the last detached line was found

    def is_detached(self, line: tuple[str, ...]) -> bool:
        """Whether losses of a line depend on none of the weights, of which as many ask for a gradient as then."""
        if line in self.detached and self.asking() != self._asked:
            self.detached = set()
        return line in self.detached

    def use(self, line: tuple[str, ...]) -> None:
        """A loss of this line came to the weights."""
        if line in self.detached:
            self.detached.remove(line)
            self.mixed.add(line)
        self.trained.add(line)

    def drop(self, line: tuple[str, ...]) -> None:
        """A loss of this line came to none of the weights."""
        self._asked = self.asking()
        (self.mixed if line in self.trained else self.detached).add(line)

    def training(self, batches: list[MicroBatch]) -> list[MicroBatch]:
        """Those of lines that were trained; of a mixed line, those that had a backward."""
        if not self.trained:
            return batches
        used = [batch for batch in batches if batch.backwards or batch.call_stack not in self.mixed]
        return [batch for batch in used if batch.call_stack in self.trained]
