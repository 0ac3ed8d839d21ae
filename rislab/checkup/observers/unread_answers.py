"""Evaluations that read nothing of what the network gave: their numbers say nothing of it.

What is alive of all that a forward computed, when it ends, may be read later by whatever function: it is marked until
it is gone. One that is compiled, or that another thread runs, is out of sight; nothing is said where there are such.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from rislab.checkup.findings import Finding, as_fault, as_warning
from rislab.checkup.observers.step_count import StepCount
from rislab.checkup.recording.call_stack import caller
from rislab.checkup.recording.events import ForwardEvent, Observer, Roots
from rislab.checkup.recording.forwards import FUSED
from rislab.checkup.recording.living_objects import living_objects
from rislab.checkup.recording.tensors import MarkedTensors, has_numbers, tensors_of
from rislab.checkup.rules import Code

# Evaluations between steps, and forwards in them, that must agree; tensors, and forwards at once, that are followed.
EVALUATIONS, FORWARDS, MOST, HELD = 2, 4, 4096, 8
# So many networks are followed, and forwards of each are counted.
NETWORKS, COUNTED = 16, 64
# Forwards of a network after which what an earlier one gave is gone, unless the loop keeps it.
LATER = 2
# What takes numbers out of tensors, out of sight from then on.
TAKING = {"item", "tolist", "numpy", "__array__", "__float__", "__int__", "__index__", "__dlpack__", "__reduce_ex__"}


@dataclass(eq=False)
class _Forward:
    """A forward of an evaluation that is followed."""

    network: int  # the number of the network
    samples: int = 1
    steps: int = 0  # that came before
    taken: bool = False  # whether numbers were taken out of sight within it
    given: int = 0  # tensors that functions gave within it
    answers: list[weakref.ref[Tensor]] = field(default_factory=list)  # what is left of them at its end
    later: int = 0  # forwards of the network since then
    compared: bool = False  # whether a function then took two other tensors of as many samples
    itself: str = ""  # the function that took one tensor twice
    where: str = ""  # file and line of that

    @property
    def is_gone(self) -> bool:
        """Whether nobody can read an answer any more."""
        return all(one() is None for one in self.answers)


@dataclass(eq=False)
class _Network:
    """What evaluations by a network have shown."""

    read: bool = False  # whether anything of what a forward gave was read
    forwards: list[_Forward] = field(default_factory=list)  # of which nothing was, where other tensors were compared


class UnreadAnswers(Observer):
    """Follows what is computed in evaluations by a network, until something is read of it."""

    def __init__(self, steps: StepCount) -> None:
        self._steps = steps
        self._networks: dict[int, _Network] = {}
        self._next: _Forward | None = None
        self._now: _Forward | None = None  # that is under way
        self._waiting: list[_Forward] = []  # of which something may still be read
        self._given = MarkedTensors(MOST)  # each with the forward that it was computed in

    def follows(self, network: int) -> bool:
        if len(self._networks) < NETWORKS:
            self._networks.setdefault(network, _Network())
        one = self._networks.get(network)
        self._next = None if one is None or one.read or len(one.forwards) >= COUNTED else _Forward(network)
        # What another one has given may still be read.
        return self._next is not None or bool(self._waiting)

    def on_forward(self, module: nn.Module, training: bool) -> None:
        self._now, self._next = self._next, None
        self._given.take_dead()
        if training and torch.is_grad_enabled():
            self._stop()
        elif next(nn.Module.parameters(module), None) is None:
            self._now = None  # a loss or a score

    def on_evaluation_call(self, given: Sequence[Any], name: str, output: Any, within: bool) -> None:
        values = [*tensors_of(given)]
        for value in values:
            forward = self._given.of(value)
            if forward is not None and not (within and forward is self._now):
                self._note_read(forward)
        if within:
            if self._now is not None:
                self._now.taken |= name in TAKING or len(self._given) >= MOST
                for value in tensors_of(output):
                    # What a conversion hands on as it is was there before.
                    if name.endswith("_") or all(value is not one for one in values):
                        self._now.given += 1
                        self._given.mark(value, self._now)
        elif isinstance(output, Tensor):
            self._compare(values, name)

    def _compare(self, values: Sequence[Tensor], name: str) -> None:
        """A function took several tensors, none of which a forward gave."""
        if not self._waiting or self._waiting[-1].later or len(values) < 2 or _others_compute():
            return
        last, (one, other) = self._waiting[-1], values[:2]
        if not one.dim() or one.shape[:1] != other.shape[:1] or not len(one) or len(one) % last.samples:
            return
        # A number that differs from itself is none, and may well be looked for.
        if name not in ("ne", "__ne__") and one.numel() == other.numel() and _is_same(one, other):
            if not last.itself:
                last.itself, last.where = name, caller()[0]
        elif len(one) == last.samples:
            last.compared, last.where = True, last.where or caller()[0]

    def _note_read(self, forward: _Forward) -> None:
        network = self._networks[forward.network]
        network.read, network.forwards = True, []
        self._waiting = [one for one in self._waiting if one.network != forward.network]

    def on_forward_end(self, call: ForwardEvent) -> None:
        for value in call.inputs if self._waiting else ():
            if (forward := self._given.of(value)) is not None and forward is not self._now:
                self._note_read(forward)
        for one in self._waiting:
            one.later += one.network == call.network
        self._settle()
        forward, self._now = self._now, None
        if forward is None:
            self._compare(call.inputs, type(call.module).__name__)
            return
        observed = forward.given and not forward.taken and call.inner and not any(map(_is_opaque, call.inner))
        if not observed or len(self._waiting) >= HELD:
            return
        forward.samples, forward.steps = max(1, call.samples), self._steps.total
        for value in tensors_of(call.output):
            self._given.mark(value, forward)
        forward.answers = self._given.references(forward)
        self._waiting += [forward] if forward.answers else []

    def _settle(self) -> None:
        """Nothing of what is gone was read; what is still there is kept."""
        for one in self._waiting:
            network = self._networks[one.network]
            if one.is_gone and (one.compared or one.itself) and not network.read:
                network.forwards.append(one)
                # What such functions take is out of sight.
                network.read = len(network.forwards) == FORWARDS and bool(living_objects((torch.jit.ScriptFunction,)))
            elif not one.is_gone and one.later >= LATER:
                network.read = True
        self._waiting = [one for one in self._waiting if not one.is_gone and one.later < LATER]

    def _stop(self) -> None:
        """An evaluation is over: what is left of it is out of sight."""
        self._settle()
        self._waiting = []
        self._given.clear()

    def on_backward(self, roots: Roots) -> None:
        self._stop()

    def end(self, error: BaseException | None) -> None:
        self._stop()

    def findings(self) -> list[Finding]:
        results = []
        for network in self._networks.values():
            forwards = network.forwards
            evaluations = len({one.steps for one in forwards})
            if network.read or evaluations < EVALUATIONS or len(forwards) < FORWARDS:
                continue
            text = f"in {len(forwards)} forwards of {evaluations} evaluations nothing of what the network gave was "
            text += "read by a function, or kept, while other tensors of as many samples were computed with"
            where = forwards[-1].where
            if all(one.itself for one in forwards):
                text += f": {forwards[-1].itself}() was given one tensor on both sides"
                results.append(as_fault(Code.REPORT, "scored against itself", text, where))
            else:
                results.append(as_warning(Code.REPORT, "answers of the evaluation unread", text, where))
        return results


def _others_compute() -> bool:
    """Whether other threads may read what a network gives: those that come with the process by themselves do not."""
    own = (threading.main_thread(), threading.current_thread())
    return any(one not in own and not one.daemon for one in threading.enumerate())


def _is_opaque(module: nn.Module) -> bool:
    """Whether what a module computes is out of sight."""
    return isinstance(module, (*FUSED, torch.jit.ScriptModule)) or type(module).__module__.startswith("torch._dynamo")


def _is_same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same memory."""
    strided = one.layout is other.layout is torch.strided and has_numbers(one) and has_numbers(other)
    return one is other or (strided and one.data_ptr() == other.data_ptr())
