"""Which steps of a run are kept in full: the first ones, and later those that are unlike any before."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Container
from typing import Any

from torch import Tensor

from rislab.checkup.recording.counting import is_simple
from rislab.checkup.recording.merged_steps import Loss, StepNumbers
from rislab.checkup.recording.optimizers import among_ranks
from rislab.checkup.recording.trace import MicroBatch, Step, Trace
from rislab.checkup.recording.windows import Declared, StepComparison, micro_batches_of, step_window

# Steps and losses that are kept in full whatever they are, and those that are for being unlike others.
FIRST, UNLIKE = 6144, 6144
# So many of a kind are many; so many kinds are told apart.
MANY, KINDS = 8, 1024
# Bytes of gradients that are kept for the naming of faults.
_FOR_NAMES = 16 * 2**20


class StepStorage:
    """Enters steps in a trace."""

    def __init__(self, trace: Trace, declared: Declared) -> None:
        self._trace, self._declared = trace, declared
        self._stored = self._records = 0
        self._before: tuple[Step, Tensor] | None = None
        self._kinds: Counter[Any] = Counter()
        self._held: dict[tuple[str, ...], bool] = {}  # by line: whether any compared step had its gradients
        self._simple: Counter[Any] = Counter()
        self.usual: Step | None = None  # the last step, if many like it came, and later ones need only be counted
        self._counted: Step | None = None  # the usual step, if the last one that was entered was counted

    def enter(self, step: Step, trained: Container[tuple[str, ...]], size: int) -> None:
        """Enter a step, in full or as a few numbers; given are the lines that were trained, and the bytes it holds."""
        trace = self._trace
        if trace.merged.full:
            # What comes now is not known any more.
            trace.stopped = True
            step.release()
            return
        step.number, self._counted = trace.step_count + 1, None
        trace.among_ranks |= step.gradient is not None and among_ranks()
        self._note_held(step)
        used = [batch for batch in step.micro_batches if batch.call_stack in trained]
        if step.gradient is None:
            self.usual = step if is_simple(step, used) and self._is_usual(step) else None
        self._compare(step, used, size)
        trace.last_inferred, records = step.inferred, 1 + len(step.micro_batches)
        trace.taken_count += not step.evaluation
        if (self._records >= FIRST or len(trace.merged)) and self._is_one_of_many(step, used):
            losses = [(batch.loss, batch.samples, batch.count) for batch in used]
            numbers = step.numbers()._replace(losses=len(losses))
            trace.merged.add(numbers, *self._size_and_kinds(step, used), losses)
        else:
            self._records += records
            trace.steps.append(step)

    def _note_held(self, step: Step) -> None:
        """What was zeroed before a step is known of those that are compared, and taken over by the others."""
        if any(backward.fresh is not None for backward in step.backwards):
            for batch in step.micro_batches:
                self._held[batch.call_stack] = self._held.get(batch.call_stack, False) or step.holds(batch)
        elif not all(self._held.values()):
            step.zeroed_lines = frozenset(line for line, held in self._held.items() if not held)

    def count(self, rate: float | None, ticks: int | None, losses: list[Loss]) -> None:
        """Enter the numbers of a step that is like the usual one: rate, ticks of the scheduler so far, losses."""
        trace, usual, self._before = self._trace, self.usual, None
        if usual is None or trace.merged.full:
            trace.stopped = True
            return
        trace.last_inferred, trace.taken_count = False, trace.taken_count + 1
        if self._counted is usual:
            trace.merged.add_alike(rate, ticks, losses)
            return
        self._counted = usual
        numbers = StepNumbers(rate, ticks, len(losses), True, usual.where)
        trace.merged.add(numbers, *self._size_and_kinds(usual, usual.micro_batches), losses)

    def _is_usual(self, step: Step) -> bool:
        """Whether many windows like that of a step came before, each loss of the same weight and share."""
        weights = tuple(float(f"{batch.weight:.5g}") for batch in step.micro_batches)
        parts = tuple(batch.count / max(1, batch.samples) for batch in step.micro_batches)
        kind = _kind(step), weights, () if self._trace.loss_declared else parts
        if kind in self._simple or len(self._simple) < KINDS:
            self._simple[kind] += 1
        return self._simple[kind] >= MANY

    def _is_one_of_many(self, step: Step, used: list[MicroBatch]) -> bool:
        if not self._kinds:
            self._kinds.update(map(_kind, self._trace.steps))
        kind = _kind(step)
        often = kind is not None and self._kinds[kind] >= MANY
        if kind in self._kinds or len(self._kinds) < KINDS:
            self._kinds[kind] += 1
        return not step.evaluation and (often or self._records >= FIRST + UNLIKE)

    def _size_and_kinds(self, step: Step, used: list[MicroBatch]) -> tuple[int, list[str]]:
        """Micro-batches of its window, and what is to be counted of its losses, in words."""
        batches = micro_batches_of(step, used, self._declared.accumulation_steps) if used else []
        kinds = ["used" for batch in used if batch.backwards]
        kinds += ["evaluated" for batch in used if not batch.training and step.holds(batch)]
        kinds += ["not finite" for batch in used if not math.isfinite(batch.loss)]
        return len(batches), kinds

    def _compare(self, step: Step, used: list[MicroBatch], size: int) -> None:
        """Compare a step with its window at once, and keep the gradients only where they may name a fault."""
        before, self._before = self._before, None
        if step.gradient is None:
            return
        window = step_window(step, used, self._declared, self._trace.loss_declared)
        needed = size + 2 * step.gradient.nbytes
        spare = not self._stored or self._stored + needed <= _FOR_NAMES
        if isinstance(window, StepComparison) and (window.exact() or not spare):
            window.true = None
            step.comparison = window
            self._before = (step, step.gradient)
        elif spare:
            self._stored += needed
            if before is not None:
                # What an exact step had may be left over in this one.
                before[0].gradient = before[1]
            return
        step.release()


def _kind(step: Step) -> Any:
    """What a rule may tell steps apart by; None for one whose gradient is not that of its window."""
    if step.gradient is not None or (step.comparison is not None and not step.comparison.exact()):
        return None
    batches = tuple(
        (
            batch.call_stack,
            batch.precision,
            batch.training,
            math.isfinite(batch.loss) and not batch.nonfinite,
            batch.loss == 0,
            batch.scale_free,
            batch.backwards > 0,
            batch.by_hand,
            batch.why,
            step.holds(batch),
        )
        for batch in step.micro_batches
    )
    clips = tuple((clip.own > 0, clip.tensors > 0, clip.foreign, clip.late) for clip in step.clips)
    numbers = step.applied, step.finite, step.scale, step.norm == 0, step.inferred, step.where
    return batches, clips, numbers, step.comparison is not None
