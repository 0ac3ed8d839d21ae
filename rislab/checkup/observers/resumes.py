"""Runs that go on from a checkpoint, and leave behind what the checkpoint holds of the optimiser and the schedule.

A loop that saves the state of its optimiser means to load it. If its weights come back in a new network, and an
optimiser of the same kind goes on with them whose state is empty, or whose rates begin anew, that state was lost.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from torch.optim.optimizer import Optimizer
from torch.utils.hooks import RemovableHandle

from rislab.checkup.findings import Finding, as_fault, as_warning
from rislab.checkup.recording.call_stack import caller
from rislab.checkup.recording.events import Observer
from rislab.checkup.recording.optimizers import tensors_held
from rislab.checkup.recording.schedules import Schedule
from rislab.checkup.recording.tensors import few_coordinates, is_readable
from rislab.checkup.rules import Code

# Tensors of an optimiser by which its weights are known again, and saved states that are remembered.
TENSORS, SAVED = 4, 8
# Steps of a resumed optimiser whose rates are looked at, and the least factors, up and down, that are a jump.
STEPS, UP, DOWN = 2, 2.0, 12.0
# A state that was saved, and lost, so often is no new phase of a training.
AGAIN = 3
# A schedule of at least so many ticks is shared out by no accident; so many are not counted, after the last steps.
LENGTH, UNCOUNTED = 8, 2

Weights = tuple[tuple[float, ...], ...]


@dataclass(eq=False)
class Course:
    """The steps of one optimiser."""

    steps: int = 0  # so far
    stateful: bool = False  # whether it has a state
    schedule: Schedule | None = None  # of its rates
    ticks: int = 0  # of that, up to the last step


@dataclass(eq=False)
class Saved:
    """A state of an optimiser that the loop asked for."""

    kind: tuple[Any, ...]  # class of the optimiser, and its settings but for the rate
    weights: Weights  # a few of those that it had trained
    course: Course  # of the optimiser
    steps: int  # that it had taken
    rate: float  # of the optimiser, then
    networks: list[weakref.ReferenceType[nn.Module]] = field(default_factory=list)  # new ones that loaded these weights


@dataclass(eq=False)
class Resumed:
    """An optimiser that goes on with weights that were saved."""

    saved: Saved  # what it should go on from
    course: Course  # its own
    empty: bool  # whether its state was empty before its first step
    where: str  # file and line of the first
    rates: list[float] = field(default_factory=list)  # of its first steps

    @property
    def jumps(self) -> bool:
        """Whether the rates begin anew; a schedule may let them fall by a factor of ten in one tick."""
        rates = [self.saved.rate, *self.rates]
        return any(after > UP * before or after < before / DOWN for before, after in pairwise(rates) if before > 0)

    @property
    def shares(self) -> str:
        """How both share the ticks of one schedule out, of which each has gone through the first; "" if they do not."""
        first, own, ticks = (
            self.saved.course.schedule,
            self.course.schedule,
            (self.saved.course.ticks, self.course.ticks),
        )
        if first is None or own != first or first.begun or first.length is None or first.length < LENGTH:
            return ""
        if not all(0 < one < first.length - UNCOUNTED for one in ticks):
            return ""
        if not 0 <= first.length - sum(ticks) <= UNCOUNTED:
            return ""
        text = f"a {first.kind} of {first.length} ticks had {ticks[0]} before and has had {ticks[1]} since, which is "
        return f"{text}all of it, and began anew"


class LostState(Observer):
    """Listens to states that are saved and loaded, and to the first steps after that."""

    def __init__(self) -> None:
        self._courses: weakref.WeakKeyDictionary[Optimizer, Course] = weakref.WeakKeyDictionary()
        self._saved: list[Saved] = []
        self._resumed: list[Resumed] = []
        self._handles: list[RemovableHandle] = []
        self._counted: Mapping[Optimizer, int] = {}  # steps that count_steps() is to tell

    def on_optimizer(self, optimizer: Optimizer) -> None:
        """The first step of an optimiser shows what it goes on from."""
        course = self._courses[optimizer] = Course()
        self._handles.append(optimizer.register_state_dict_pre_hook(self._on_save))
        self._note_resume(optimizer, course)

    def before_step(self, optimizer: Optimizer, closure: bool) -> None:
        course = self._courses.get(optimizer)  # none of one whose first step came in another thread
        if course is None:
            return
        course.steps += 1
        if course.steps <= STEPS:
            for resumed in self._resumed:
                if resumed.course is course:
                    resumed.rates.append(_rate(optimizer))

    def after_step(self, optimizer: Optimizer) -> None:
        """A state is there after the first step, or never."""
        course = self._courses.get(optimizer)
        if course is not None and course.steps == 1:
            course.stateful = bool(optimizer.state)

    def begin_counting(self, change: Any, all_came: Any, steps: Mapping[Optimizer, int]) -> None:
        self._counted = steps

    def count_steps(self, optimizer: Optimizer, steps: int) -> None:
        course = self._courses.get(optimizer)
        if course is not None:
            course.steps += steps

    def end(self, error: BaseException | None) -> None:
        """Listen to nothing any more."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def note_schedule(self, optimizer: Optimizer, schedule: Schedule | None, ticks: int) -> None:
        """What the schedule of an optimiser was made for, and how often it has ticked."""
        course = self._courses.get(optimizer)
        if course is not None:
            course.schedule, course.ticks = schedule, ticks

    def _note_resume(self, optimizer: Optimizer, course: Course) -> None:
        own = set(map(id, tensors_held(optimizer)))
        for saved in reversed(self._saved):
            networks = [network() for network in saved.networks]
            known = any(
                id(value) in own
                for network in networks
                if network is not None
                for value in nn.Module.parameters(network)
            )
            if known and saved.kind == _kind(optimizer):
                self._resumed.append(Resumed(saved, course, not optimizer.state, caller()[0]))
                return

    def _on_save(self, optimizer: Optimizer) -> None:
        where, frames = caller()
        course = self._courses.get(optimizer)
        # What a library saves of its own accord says nothing about the loop's intent.
        if course is None or not course.stateful or where not in frames[:1]:
            return
        weights = _weights(tensors_held(optimizer))
        if weights:
            self._saved = self._saved[1 - SAVED :]
            steps = course.steps + self._counted.get(optimizer, 0)
            self._saved.append(Saved(_kind(optimizer), weights, course, steps, _rate(optimizer)))

    def on_load(self, module: nn.Module, state: Mapping[str, Any]) -> None:
        """Weights that come back in a network that is not the one they come from."""
        if not self._saved:
            return
        given = {
            tuple(few_coordinates(value).tolist())
            for value in state.values()
            if isinstance(value, Tensor) and is_readable(value)
        }
        trained = {id(value) for optimizer in self._courses for value in tensors_held(optimizer)}
        if any(id(value) in trained for value in nn.Module.parameters(module)):
            return
        for saved in self._saved:
            if given.issuperset(saved.weights):
                saved.networks.append(weakref.ref(module))

    def findings(self) -> list[Finding]:
        """One for all that was lost alike."""
        # An optimiser that steps on is no predecessor: its weights were copied.
        ended = [one for one in self._resumed if one.saved.course.steps == one.saved.steps]
        lost = [one for one in ended if one.empty or one.jumps]
        if not lost:
            return []
        first = lost[0]
        parts = []
        if first.empty:
            parts.append("an empty state, where the state after the steps before had been saved")
        if first.jumps:
            parts.append(f"a rate of {first.rates[-1]:.2g}, where it had been {first.saved.rate:.2g}")
        text = (
            f"weights of {first.saved.steps} steps were loaded into a new network, and {first.saved.kind[0].__name__}"
        )
        often = "" if len(lost) == 1 else f"; {len(lost)} times"
        evidence = f"{text} went on with {' and '.join(parts)}{often}"
        shares = next(filter(None, (one.shares for one in lost)), "")
        evidence += f"; {shares}" if shares else ""
        # A phase of a training may begin anew on the weights of the one before. Who saves the state again and again
        # wants it back; and who stops and goes on within the ticks of one schedule runs one training.
        certain = bool(shares) or sum(one.empty for one in lost) >= AGAIN
        kind = as_fault if certain else as_warning
        return [kind(Code.WEIGHTS, "optimiser state lost at resume", evidence, first.where)]


def _kind(optimizer: Optimizer) -> tuple[Any, ...]:
    """Class and settings of an optimiser; rates may differ, as schedules change them."""
    settings = {name: value for name, value in optimizer.defaults.items() if name != "lr"}
    return type(optimizer), repr(sorted(settings.items(), key=lambda item: item[0]))


def _rate(optimizer: Optimizer) -> float:
    return max((float(group["lr"]) for group in optimizer.param_groups), default=0.0)


def _weights(tensors: Any) -> Weights:
    readable = [value for value in tensors if is_readable(value) and value.requires_grad]
    return tuple(tuple(few_coordinates(value).tolist()) for value in readable[:TENSORS])
