"""What was recorded of a training loop: raw losses, backwards and optimiser steps, each with its numbers."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from rislab.checkup.recording.merged_steps import Loss, MergedSteps, StepNumbers
from rislab.checkup.recording.schedules import Schedule

_Numbers = TypeVar("_Numbers")
# Among the recorders that a backward came to, once an optimiser has stepped on its gradients.
STEPPED = -1
# So many optimisers that are made anew tell how a loop does it.
REMADE = 32
# Why the gradient of a loss was not taken.
NO_WEIGHT = "the loop gives it no weight"


@dataclass(eq=False, slots=True)
class Backward:
    """A backward of the loop."""

    number: int  # from 0, over the whole run
    fresh: bool | None = None  # whether all gradients were 0 or None when it began; None if the window is not compared
    # What was left of the gradients of the backward before when it began: 1 all, 0 none, the factor if they were made
    # longer or shorter, NaN if they were changed otherwise; None if it is not known.
    carried: float | None = None
    # Recorders to whose gradients it came, by identity; 0 among them if it is not known of one, and STEPPED if it was
    # the last one before a step.
    reached: set[int] = field(default_factory=set)
    own: bool = False  # whether it came to those of the recorder itself
    # The gradients when it was over, unscaled; only of the last one in a window that is compared.
    after: Tensor | None = None

    def come_to(self, recorder: int) -> None:
        """It came to the gradients of the recorder itself, by its identity; 0 if it is not known that it did."""
        self.own = True
        self.reached.add(recorder)


@dataclass(eq=False, slots=True)
class MicroBatch:
    """A raw loss that was computed in training, with its true gradient."""

    samples: int  # size of the first dimension of the network's first input
    count: float  # number of equal parts that the loss is the mean of, samples or elements
    loss: float  # raw; NaN for one that is not a single number
    dtype: torch.dtype  # of the loss
    # True one: what its backward added to the gradients, over the weight that the loop gave it; None if it was not
    # taken, or is no longer needed.
    gradient: Tensor | None
    why: str  # why it could not be taken, "" if it was
    precision: str  # "fp64", "fp32", "bf16" or "fp16"
    where: str  # file and line of the loss
    # Files, lines and calls of the loop that led there, the innermost first; see exact_caller().
    call_stack: tuple[str, ...]
    nonfinite: bool  # whether the loss or the gradient holds NaN or infinity
    training: bool  # whether the network was in training mode
    scale_free: bool = False  # whether the loss is no mean, so that its right scale is not known
    backwards: int = 0  # how many of the loop's came to this loss
    weight: float = 0.0  # what they weighed it with in sum, unscaled
    last: Backward | None = None  # the last of them
    # Weights of the means that it is known to be a sum of; empty for a single loss.
    term_weights: tuple[float, ...] = ()
    by_hand: bool = False  # whether its gradient was taken by torch.autograd.grad(), and put into .grad by the loop
    follows: bool = False  # whether the network was handed a state that one before it had given
    kind: str = ""  # name of the node of the graph that gave it, "" for none
    # For each term of a sum that backward() was called on, the factors that the loop gave it.
    term_factors: tuple[tuple[float, ...], ...] = ()
    term_divisors: tuple[tuple[float, ...], ...] = ()  # for each of these terms, by what the loop divided it
    terms: int = 1  # of the sum that it is, 1 if it is none, or not known to be one
    forward: int = 0  # which forward of the network came last before it, from 1; 0 for none

    @property
    def divisors(self) -> tuple[float, ...]:
        """By which the loop divided it, if it is a single loss."""
        return self.term_divisors[0] if len(self.term_divisors) == 1 else ()


# So many forwards are remembered, of each place and before only those of compared windows are.
FORWARD_USES = 1024
# So many evaluations of closures are.
CLOSURES = 256


class Clip(NamedTuple):
    """A call of clip_grad_norm_()."""

    max_norm: float  # its limit
    own: int  # number of its tensors that the optimiser holds
    tensors: int  # number of all its tensors
    foreign: bool  # whether no optimiser holds any of them
    late: bool  # whether no backward had come since the step before


@dataclass(eq=False, slots=True)
class ForwardUse:
    """Whether a backward came to a forward in training mode."""

    place: tuple[str, ...]  # files and lines of the loop that led there
    network: int  # its number
    reached: bool = False  # whether a backward came to it

    def reach(self) -> None:
        """A backward came."""
        self.reached = True


@dataclass(eq=False, slots=True)
class Step:
    """An optimiser step, or the place where one was left out."""

    micro_batches: list[MicroBatch]  # whose losses came since the last step
    backwards: list[Backward]  # since the last step
    clips: list[Clip]  # calls of clip_grad_norm_() since the last step
    # Unscaled, as the optimiser got it; None if the window is not compared, or no longer needed.
    gradient: Tensor | None
    norm: float  # of the whole gradient, unscaled; NaN if the window is not compared
    length: float  # of the part of it that is read, in the same way
    applied: bool  # False for a step that a scaler left out
    scale: float  # of the loss, at that time
    finite: bool  # whether the gradient holds neither NaN nor infinity
    rates: list[float]  # learning rates, one a group
    ticks: int | None  # of the scheduler so far, None without one
    where: str  # file and line of the step
    other_norm: float = 0.0  # norm of the gradients that tensors which are not compared held at that moment
    evaluation: int = 0  # 0, or which further evaluation of a closure within one step it is
    inferred: bool = False  # whether it was not seen itself, and the weights have moved
    comparison: Any = None  # of the gradient with that of the window, if it was found right at once
    number: int = 0  # from 1, over the whole run
    # Whether as many forwards without gradients, of as many samples each, came before its first one with them.
    ahead: bool = False
    # Call stacks whose gradients were zeroed before each step that was compared; of one that is not.
    zeroed_lines: frozenset[tuple[str, ...]] = frozenset()

    def numbers(self) -> StepNumbers:
        """What rules of schedules ask."""
        rate = max(self.rates, default=None)
        return StepNumbers(rate, self.ticks, len(self.micro_batches), self.applied, self.where)

    def release(self) -> None:
        """Keep the numbers, and let go of the gradients."""
        self.gradient = None
        for batch in self.micro_batches:
            batch.gradient = None
        for backward in self.backwards:
            backward.after = None

    def is_clipped_in_parts(self, tensors: int) -> bool:
        """Whether clip_grad_norm_() was called for several parts of so many tensors, each on its own."""
        parts = [clip.own for clip in self.clips if clip.own and not clip.late]
        return len(parts) > 1 and sum(parts) <= tensors

    def holds(self, batch: MicroBatch) -> bool:
        """Whether the gradient of a micro-batch was still there at the step: no zeroing was observed after it."""
        if batch.call_stack in self.zeroed_lines:
            return False
        zeroed = max((backward.number for backward in self.backwards if backward.fresh), default=-1)
        return batch.last is not None and batch.last.number >= zeroed


@dataclass(eq=False)
class Trace:
    """All that was recorded of a loop and one optimiser."""

    steps: list[Step] = field(default_factory=list)  # in order, but for those that are merged
    # Of a long run, steps of which others of the kind are kept.
    merged: MergedSteps = field(default_factory=MergedSteps)
    taken_count: int = 0  # number of steps, without further evaluations of their closures
    last_inferred: bool = False  # whether the last step was not seen itself
    left: list[MicroBatch] = field(default_factory=list)  # micro-batches after the last step
    forwards: int = 0  # with gradients
    backwards: int = 0  # their number
    detached_losses: int = 0  # number of losses that depend on none of the weights
    # File and line of the last of them before the last step after which others came, and of the last of all.
    detached_before_step: str = ""
    detached_last: tuple[int, str] = (0, "")  # with the number of steps before it
    frozen: int = 0  # number of tensors of the network that ask for no gradient
    tensors: int = 0  # number of trainable tensors at the beginning
    # Names of trainable tensors whose values are those of the beginning.
    unchanged: list[str] = field(default_factory=list)
    # Names of those among them that are more than a vector, and no weight of a layer.
    loose_matrices: list[str] = field(default_factory=list)
    # Names of those among them whose gradient was nothing but rounding.
    rounding_only: list[str] = field(default_factory=list)
    # Names of trainable tensors that had a gradient at some steps that were compared, and none at others.
    at_times: list[str] = field(default_factory=list)
    # Names of tensors without a gradient, of the last of numbered modules: the rest of it moves, and so does the same
    # part of those before.
    idle_parts: list[str] = field(default_factory=list)
    # Names of matrices and larger that are 0 throughout at the end, and frozen or given a gradient.
    zeros: list[str] = field(default_factory=list)
    # Names of matrices and larger whose rows, or columns, began as one and stayed so while they moved.
    equal_units: list[str] = field(default_factory=list)
    unoptimised: list[str] = field(default_factory=list)  # names of trainable tensors that the optimiser does not hold
    # Names of those that the optimiser does not hold, and that never had a gradient, as of a teacher.
    set_aside: list[str] = field(default_factory=list)
    # Number of tensors of the optimiser that the network does not have, and that never had a gradient.
    orphaned: int = 0
    copies: bool = False  # whether the optimiser steps on copies of the weights, which follow them
    # Number of larger trainable tensors that hold nothing but numbers of bfloat16, in whatever type.
    bf16_tensors: int = 0
    full_tensors: int = 0  # number of the other larger ones
    ticks: int | None = None  # of the scheduler at the end, None without one
    schedule: Schedule | None = None  # what the scheduler was made for, None without one
    # Names of tensors of the optimiser that lie where another one of them does.
    of_one_storage: list[str] = field(default_factory=list)
    mode_dependent: bool = False  # whether the network computes something else in training mode than in evaluation mode
    # Number of its layers that take statistics of their input, in the first forward in training mode.
    batch_norms: int = 0
    loss_declared: bool = True  # whether the loss was declared; False if losses are found from the backwards
    # By place, the first forwards in training mode, and whether a backward came to them.
    forward_uses: dict[tuple[str, ...], list[ForwardUse]] = field(default_factory=dict)
    missed: int = 0  # 1 if a step was taken, or under way, when the recording began
    idle: int = 0  # number of steps without a new loss, in which no tensor had a gradient: they change nothing
    remade: int = 0  # how often another optimiser took over the same tensors, as the one before had left them
    remade_at: list[int] = field(default_factory=list)  # raw losses that had come before each of the first of these
    other_settings: bool = False  # whether one of these had other settings, as a rate of its own
    stateful: bool = False  # whether the optimiser has a state of its own, as momentum
    only_frozen: bool = False  # whether all tensors of the optimiser ask for no gradient
    # Of the first evaluations of closures: which one in its step, from 0, what it returned, and the loss.
    returned: list[tuple[int, float, float]] = field(default_factory=list)
    crashed: bool = False  # whether an error ended the loop
    stopped: bool = False  # whether the checkup ended it
    by_library: bool = False  # whether a library other than torch called the steps
    among_ranks: bool = False  # whether other processes train with this one
    frozen_norms: bool = False  # whether the network has BatchNorm layers, all of whose own weights are frozen
    failure: str = ""  # what went wrong in the recording itself, "" if nothing did

    def note_remade(self) -> None:
        """Another optimiser, made anew, has taken over."""
        self.remade += 1
        if len(self.remade_at) < REMADE:
            self.remade_at.append(len(self.raw_losses()))

    def note_detached(self, where: str) -> None:
        """A loss at this line depends on none of the weights."""
        self.detached_losses += 1
        steps, last = self.detached_last
        if steps != self.step_count:
            self.detached_before_step = last
        self.detached_last = self.step_count, where

    def drop_steps(self) -> None:
        """What was recorded so far had begun before."""
        self.steps, self.taken_count, self.missed = [], 0, 1

    def used_at_once(self, place: tuple[str, ...]) -> bool:
        """Whether a backward has come to two forwards of a place in turn, or to its first: it wastes none by habit."""
        uses = self.forward_uses.get(place, [])
        return bool(uses) and (uses[0].reached or (uses[-1].reached and len(uses) > 1 and uses[-2].reached))

    def note_forward(self, use: ForwardUse) -> None:
        """A forward in training mode is over; the first ones of each place are remembered."""
        uses = self.forward_uses.setdefault(use.place, [])
        if len(uses) < FORWARD_USES:
            uses.append(use)

    def note_closure(self, evaluation: int, given: Any, batches: Iterable[MicroBatch]) -> None:
        """An evaluation of a closure, of that number in its step, is over; what the first returned is remembered."""
        if given is None:
            return
        number = given.detach().item() if isinstance(given, Tensor) and given.numel() == 1 else given
        if isinstance(number, int | float) and len(self.returned) < CLOSURES:
            loss = sum(batch.loss * batch.weight for batch in batches if batch.backwards)
            self.returned.append((evaluation, float(number), loss))

    @property
    def taken(self) -> list[Step]:
        """The steps, without further evaluations of their closures."""
        return [step for step in self.steps if not step.evaluation]

    @property
    def step_count(self) -> int:
        """Number of all steps, merged or not."""
        return len(self.steps) + len(self.merged)

    def numbers(self) -> list[StepNumbers]:
        """Those of all steps, merged or not, without further evaluations of their closures."""
        stored = ((step, step.numbers()) for step in self.steps)
        return [
            numbers
            for step, numbers in self._in_order(stored, self.merged.numbers())
            if not step or not step.evaluation
        ]

    def raw_losses(self) -> list[Loss]:
        """All raw losses of training, merged or not."""
        stored = ((step, _losses(step.micro_batches)) for step in self.steps)
        steps = self._in_order(stored, self.merged.raw_losses())
        return [loss for _, losses in steps for loss in losses] + _losses(self.left)

    def _in_order(
        self, stored: Iterator[tuple[Step, _Numbers]], merged: Iterator[_Numbers]
    ) -> Iterator[tuple[Step | None, _Numbers]]:
        number = 1
        for step, numbers in stored:
            for _ in range(step.number - number):
                yield None, next(merged)
            yield step, numbers
            number = step.number + 1
        yield from ((None, numbers) for numbers in merged)

    @property
    def micro_batches(self) -> list[MicroBatch]:
        """All micro-batches, in order."""
        return [batch for step in self.steps for batch in step.micro_batches] + self.left

    @property
    def stale(self) -> bool:
        """Whether the optimiser holds tensors that the network no longer has, and misses some that it has."""
        return bool(self.orphaned and self.unoptimised)


def _losses(batches: Sequence[MicroBatch]) -> list[Loss]:
    return [(batch.loss, batch.samples, batch.count) for batch in batches]


def autocast_types(device_type: str) -> list[torch.dtype]:
    """The type that autocast casts to on a kind of device, as a list; empty outside of autocast."""
    return [torch.get_autocast_dtype(device_type)] if torch.is_autocast_enabled(device_type) else []


@functools.lru_cache
def precision_of(dtypes: tuple[torch.dtype, ...]) -> str:
    """The coarsest precision among the types of weights, outputs and losses, and of autocast."""
    for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        if dtype in dtypes:
            return name
    return "fp32" if {torch.float32, torch.complex64}.intersection(dtypes) else "fp64"
