"""Windows like many before are only counted: as long as each event is the expected one, a few numbers are read.

Nothing else is looked at then. What is unlike the windows before, or is to be compared, ends it.
"""

from __future__ import annotations

import math
import sys
import threading
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from types import CodeType
from typing import Any

from torch import Tensor
from torch.autograd.graph import Node
from torch.optim.optimizer import Optimizer

from rislab.checkup.recording.call_stack import innermost_frame
from rislab.checkup.recording.events import Roots
from rislab.checkup.recording.looks import Looks
from rislab.checkup.recording.loss_graph import product_of_factors, weighed_node
from rislab.checkup.recording.merged_steps import Loss
from rislab.checkup.recording.open_window import OpenWindow
from rislab.checkup.recording.trace import STEPPED, Backward, MicroBatch, Step, Trace
from rislab.checkup.recording.training_threads import TrainingThreads

# Windows of one kind that are observed; events of a window, and kinds of windows, that are remembered.
ALIKE, EVENTS, KINDS = 24, 256, 64
# By how much a weighed loss may differ from its weight times the loss.
ROUNDING = 1e-3
# An event after which a window is like no other.
ODD = ("odd",)


class ExpectedEvents:
    """The events from one step to the next, and whether they are those of many windows before.

    `active` says that they are expected to be, and only counted, in so many windows as are `left`. `usual` says whether
    many like the last window came; `passes` chooses passes over a loader that end the counting; `steps` are those that
    were counted.

    Args:
        threads: of which one is watched.
        end_counting: called when an event is another one than expected.
    """

    def __init__(self, threads: TrainingThreads, end_counting: Callable[[], None]) -> None:
        self._threads, self._end_counting = threads, end_counting
        self.active = self.usual = False
        self.left = 0
        self.passes = Looks()
        self.steps = Counter[Optimizer]()
        self.each_step: list[Callable[..., Any]] = []  # who is told of each step that is counted
        self._events: list[tuple[Hashable, ...]] = []
        self._expected: tuple[tuple[Hashable, ...], ...] = ()
        self._place = 0
        self._kinds: Counter[tuple[tuple[Hashable, ...], ...]] = Counter()

    def count(self, *event: Hashable) -> bool:
        """Whether an event is the one that is expected, and need only be counted."""
        if self.active:
            if threading.get_ident() != self._threads.watched:
                # The watched thread may be in the midst of an event: it ends the counting itself, after its window.
                self.left = 0
                return False
            # Of a fork too: what it counts is its own, and when that ends, nobody is notified.
            if self._place < len(self._expected) and self._expected[self._place] == event:
                self._place += 1
                return True
            self._end_counting()
        if len(self._events) < EVENTS:
            self._events.append(event)
        return False

    def all_came(self) -> bool:
        """Whether all events of the window came."""
        return self._place == len(self._expected)

    def end(self) -> tuple[tuple[Hashable, ...], ...]:
        """Expect nothing any more; the events of the window so far."""
        self.active = False
        events = self._expected[: self._place]
        self._events = [*events]
        return events

    def end_window(self) -> bool:
        """A window is over; whether the next one is only counted as well."""
        self._place, self.left = 0, self.left - 1
        if not self.active:
            events, self._events = tuple(self._events), []
            known = events in self._kinds or len(self._kinds) < KINDS
            self._kinds[events if known and len(events) < EVENTS and ODD not in events else ()] += 1
            self._expected, self.usual = events, bool(events) and self._kinds[events] >= ALIKE
        return self.active and self.left > 0


@dataclass(eq=False)
class StepCounter:
    """Counts the windows of one optimiser that are like another one."""

    like: Step  # the step of that one
    # In which forwards and backwards are counted. Without a declared loss, a loss is what backward() is called on.
    trace: Trace
    change: Callable[[], None]  # called when something is unlike it
    all_came: Callable[[], bool]  # whether all events of the window came
    samples: int = 0  # of the last forward
    evaluated: bool = False  # whether the closure of the step under way has been
    forwards: int = 0  # of the open window
    backwards: int = 0  # of it
    losses: list[Loss] = field(default_factory=list)  # of it
    nodes: list[Node] = field(default_factory=list)  # of the graph, one for each loss
    _frames: dict[tuple[str, int], tuple[CodeType, int, int]] = field(default_factory=dict)  # by line, or place
    _multiples: dict[int, float] = field(default_factory=dict)  # of the losses in their places, where none is declared

    def _is_at(self, where: str, place: int = 0) -> bool:
        """Whether the innermost frame of the loop is at a file and line; where it was in this place, if that is ""."""
        code, offset, depth = self._frames.get((where, place), (None, 0, 0))
        if code is not None:
            # To ask for a frame takes less time than to look for it.
            try:
                frame = sys._getframe(depth)
            except ValueError:
                frame = None
            if frame is not None and frame.f_code is code and frame.f_lasti == offset:
                return True
        frame, depth = innermost_frame()
        if frame is None:
            return not where
        if code is frame.f_code and offset == frame.f_lasti:
            return True
        same = f"{frame.f_code.co_filename}:{frame.f_lineno}" == where if where else code is None
        if same:
            self._frames[where, place] = frame.f_code, frame.f_lasti, depth
        return same

    def note_forward(self, samples: int) -> None:
        """A forward of the network begins, on so many samples."""
        self.samples, self.forwards = samples, self.forwards + 1

    def note_loss(self, loss: Tensor, count: float | None) -> bool:
        """Whether a declared loss, and its count of parts, is like the one in its place; else the counting is over."""
        return self._fits(loss, count) or self._is_over()

    def _fits(self, loss: Tensor, count: float | None) -> bool:
        place, node = len(self.losses), loss.grad_fn
        if place >= len(self.like.micro_batches) or node is None or loss.output_nr:
            return False
        like = self.like.micro_batches[place]
        if node.name() != like.kind or loss.dtype is not like.dtype or not self._is_at(like.where):
            return False
        return self._add(node, float(loss.item()), float(self.samples) if count is None else count)

    def note_backward(self, root: Tensor, value: float) -> bool:
        """Whether a backward from a real number is like the one in its place: of the loss there, with its weight."""
        place = self.backwards
        if place >= len(self.like.micro_batches):
            return False
        like = self.like.micro_batches[place]
        if not self.trace.loss_declared:
            node = root.grad_fn
            weight = 0.0 if node is None else product_of_factors(node)
            if node is None or not self._is_at("", place) or self._multiples.setdefault(place, weight) != weight:
                return False
            fits = self._add(node, value / like.weight, self._count_like(like))
        else:
            fits = len(self.losses) == place + 1
            # Of a sum, the weight is not known.
            if fits and weighed_node(root, self.nodes[-1:]) is self.nodes[-1]:
                weighed = like.weight * self.losses[-1][0]
                fits = abs(value - weighed) <= ROUNDING * abs(weighed)
        self.backwards += fits
        return fits

    def _count_like(self, like: MicroBatch) -> float:
        """The parts of a loss, of which another one of its line had so many; a sum over its samples has one."""
        summed = like.count == 1 != like.samples
        return like.count if summed else self.samples * like.count / max(1, like.samples)

    def _add(self, node: Node, loss: float, count: float) -> bool:
        finite = math.isfinite(loss)
        if finite:
            self.nodes.append(node)
            self.losses.append((loss, self.samples, count))
        return finite

    def may_step(self, closure: bool) -> bool:
        """Whether a step may begin now; else the counting is over. With a closure, the window goes on."""
        return ((closure or self._is_complete()) and self._is_at(self.like.where, -1)) or self._is_over()

    def note_evaluation(self) -> bool:
        """Whether the closure of the step was evaluated for the first time, and as expected; else it is over."""
        self.evaluated = (not self.evaluated and self._is_complete()) or self._is_over()
        return self.evaluated

    def ends_window(self, closure: bool) -> bool:
        """Whether a step, which had a closure or not, ends the window; else the counting is over."""
        return (self.evaluated == closure and self.all_came()) or self._is_over()

    def _is_complete(self) -> bool:
        return len(self.losses) == self.backwards == len(self.like.micro_batches)

    def _is_over(self) -> bool:
        """Something is unlike the window before."""
        self.change()
        return False

    def end_window(self) -> list[Loss]:
        """A step is over; the losses before it."""
        losses = self.losses
        self.trace.forwards += self.forwards
        self.trace.backwards += self.backwards
        self.forwards, self.backwards, self.losses, self.nodes, self.evaluated = 0, 0, [], [], False
        return losses

    def resume(self, window: OpenWindow, clips: int) -> bool:
        """Enter in the open window what was counted of it; whether it is over, as its closure was evaluated."""
        over, begun = self.evaluated, self.forwards or self.backwards
        for place, (loss, samples, count) in enumerate(self.losses):
            like = self.like.micro_batches[place]
            batch = replace(like, loss=loss, samples=samples, count=count)
            batch.backwards, batch.last, batch.weight = 0, None, 0.0
            if place < self.backwards and like.last is not None:
                batch.backwards, batch.weight = 1, like.weight
                batch.last = Backward(self.trace.backwards + place, reached=like.last.reached - {STEPPED})
                window.backwards.append(batch.last)
            window.micro_batches.append(batch)
            window.nodes[self.nodes[place]] = batch
        # Where it is over, the calls were those of the window before.
        window.clips += self.like.clips[: clips if begun else 0]
        self.end_window()
        return over


def is_simple(step: Step, used: Sequence[MicroBatch]) -> bool:
    """Whether all losses of a step were `used`, by one backward each, in order, and all is known of it."""
    batches = step.micro_batches
    return (
        0 < len(batches) == len(used) == len(step.backwards)
        and step.applied
        and not (step.inferred or step.evaluation)
        and all(
            batch.last is backward
            and batch.backwards == 1
            and batch.training
            and not (batch.nonfinite or batch.by_hand or batch.why or not batch.weight)
            and math.isfinite(batch.loss + batch.weight)
            for batch, backward in zip(batches, step.backwards, strict=True)
        )
    )


def kind_of(roots: Roots) -> tuple[Hashable, ...]:
    """What tells a backward from others: odd unless it begins at a real number, with no gradient given for it."""
    root, upstream = roots[0] if len(roots) == 1 else (None, None)
    if root is None or root.grad_fn is None or upstream is not None or root.numel() != 1 or root.is_complex():
        return ODD
    return "backward", root.grad_fn.name(), root.dtype
