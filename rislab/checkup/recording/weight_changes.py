"""What training does to the weights: which of them change, which the optimiser holds, and in how many digits."""

from __future__ import annotations

import re
from collections import Counter

import torch
from torch import Tensor

from rislab.checkup.recording.gradient_samples import GradientSamples
from rislab.checkup.recording.optimizers import tensors_held
from rislab.checkup.recording.trace import Trace

# So many units of a layer are no accident; they differ by this share of their movement at most.
UNITS, APART = 4, 1e-4
# A tensor whose share of the gradient is smaller has none but rounding, as a bias before BatchNorm.
ROUNDING = 1e-5
# At so many steps that are compared it is noted which tensors have a gradient.
STEPS = 32
_NUMBER, _NUMBERED = re.compile(r"(\d+)"), re.compile(r".*?\d+\.")


class WeightChanges:
    """The weights of one optimiser's network, at the beginning and at the end."""

    def __init__(self, samples: GradientSamples) -> None:
        self._samples = samples
        self._first: dict[str, Tensor] = {}
        self._begun: dict[str, int] = {}  # identities then, by name
        self._trained: set[int] = set()
        self._with_gradient: Counter[int] = Counter()  # at the first steps
        self._steps = 0
        self._unheld: dict[int, str] = {}  # tensors that got a gradient and that the optimiser does not hold

    def begin(self, trace: Trace) -> None:
        """Remember the values of the weights."""
        # With a dimension more: the search for averages of the weights must not take it for one.
        self._first = {name: value.detach()[None].clone() for name, value in self._samples.trainable()}
        self._begun = {name: id(value) for name, value in self._samples.trainable()}
        trace.tensors = len(self._first)

    def at_step(self) -> None:
        """Note which tensors of the optimiser have a gradient."""
        held = self._samples.optimised()
        for name, value in self._samples.named:
            if id(value) not in held and value.requires_grad and value.grad is not None:
                if id(value) not in self._unheld and self._begun.get(name, 0) not in (0, id(value)):
                    self._first[name] = value.detach()[None].clone()  # another one has taken its place
                self._unheld[id(value)] = name
        given = [value for value in tensors_held(self._samples.optimizer) if value.grad is not None]
        self._trained |= set(map(id, given))
        if given and self._steps < STEPS:
            self._steps += 1
            self._with_gradient.update(
                id(value) for value in given if value.grad is not None and bool(value.grad.any())
            )

    def end(self, trace: Trace) -> None:
        """Write into a trace what only the end shows."""
        weights, trainable, held = self._samples.weights(), self._samples.trainable(), self._samples.optimised()
        values = tensors_held(self._samples.optimizer)
        trace.only_frozen = bool(values) and not any(
            value.requires_grad or id(value) in self._trained for value in values
        )
        foreign = [value for value in values if id(value) not in {id(own) for _, own in weights}]
        replaced = {self._begun.get(name) for name in self._unheld.values()} - {*self._unheld}
        orphans = [value for value in foreign if id(value) not in self._trained or id(value) in replaced]
        missed = [(name, value) for name, value in trainable if id(value) not in held]
        # A network in half precision may follow copies of its weights in float32.
        copies = trace.copies = any(
            name in self._first and not torch.equal(value, self._first[name][0]) and follows(value, foreign)
            for name, value in missed
        )
        trace.orphaned = 0 if copies else len(orphans)
        left = {name for name, value in missed if name in self._first and torch.equal(value, self._first[name][0])}
        trace.unoptimised = [
            # What moves all the same is stepped on by another optimiser.
            name
            for name, value in missed
            if not copies and id(value) in self._unheld and (name in left or orphans)
        ]
        trace.set_aside = [name for name, value in missed if id(value) not in self._unheld]
        trace.frozen = sum(not value.requires_grad for _, value in weights)
        if trace.crashed:
            return
        coarse = [_is_bfloat16(value) for _, value in trainable if _has_many_values(value)]
        trace.bf16_tensors, trace.full_tensors = 0 if copies else sum(coarse), len(coarse) - sum(coarse)
        unchanged = [
            (name, value)
            for name, value in trainable
            if name in self._first and torch.equal(value, self._first[name][0])
        ]
        if len(unchanged) < len(trainable) and not copies:
            # A network that is called nowhere, and shares weights with this one, need not move.
            unchanged = [(name, value) for name, value in unchanged if id(value) in held or name in trace.unoptimised]
        used = [one for one in weights if id(one[1]) in self._trained or not one[1].requires_grad]
        trace.zeros = [name for name, value in used if value.dim() > 1 and not bool(value.detach().any())]
        trace.equal_units = [
            name
            for name, value in trainable
            if name in self._first and id(value) in self._trained and _moves_as_one(value, self._first[name][0])
        ]
        gradients = [step.gradient for step in trace.steps if step.gradient is not None]
        trace.unchanged = [name for name, _ in unchanged]
        trace.loose_matrices = [
            name
            for name, value in unchanged
            if sum(size > 1 for size in value.shape) > 1 and not name.endswith("weight")
        ]
        trace.at_times = [name for name, value in trainable if 0 < self._with_gradient[id(value)] < self._steps]
        moved = [name for name, value in trainable if name in self._first and name not in trace.unchanged]
        idle = [name for name, value in unchanged if id(value) not in self._trained]
        trace.idle_parts = _idle_parts(idle, moved)
        trace.rounding_only = [
            name for name, value in unchanged if 0 < self._samples.largest_share(value, gradients) < ROUNDING
        ]


def _idle_parts(names: list[str], moved: list[str]) -> list[str]:
    """Parts of a numbered module of which the rest moves, as the same part of all before it does: it is the last."""
    prefixes = {_prefix(name) for name in moved} - {""}
    last: dict[str, int] = {}
    for name in moved:
        if _prefix(name):
            kind, number = _kind_and_number(name)
            last[kind] = max(number, last.get(kind, -1))
    chosen = []
    for name in names:
        if _prefix(name) in prefixes:
            kind, number = _kind_and_number(name)
            chosen += [name] * (-1 < last.get(kind, -1) < number)
    return chosen


def _kind_and_number(name: str) -> tuple[str, int]:
    """A name without its first number, and that."""
    before, number, after = _NUMBER.split(name, maxsplit=1)
    return f"{before}.{after}", int(number)


def _prefix(name: str) -> str:
    """A name up to its first number, "" without one."""
    numbered = _NUMBERED.match(name)
    return "" if numbered is None else numbered[0]


def _moves_as_one(value: Tensor, first: Tensor) -> bool:
    """Whether the units of a layer began as one and stayed so, while they moved."""
    if value.dim() < 2 or not value.is_floating_point():
        return False
    now, before = value.detach().flatten(1), first.flatten(1)
    moved = float((now - before).abs().max())
    return moved > 0 and any(
        len(own) >= UNITS
        and torch.equal(start, start[:1].expand_as(start))
        and float((own - own[:1]).abs().max()) <= APART * moved
        for own, start in ((now, before), (now.t(), before.t()))
    )


def follows(value: Tensor, others: list[Tensor]) -> bool:
    """Whether a tensor holds, rounded, the values of another."""
    return any(
        value.shape == other.shape and torch.equal(value.detach(), other.detach().to(value.dtype)) for other in others
    )


def _has_many_values(value: Tensor) -> bool:
    """Whether a tensor holds so many different numbers that they are not all simple ones by chance."""
    if not value.is_floating_point() or value.numel() < 16:
        return False
    return int(value.detach().flatten()[:64].unique().numel()) >= 8


def _is_bfloat16(value: Tensor) -> bool:
    """Whether all its numbers are numbers of bfloat16, whatever its type."""
    held = value.detach()
    return bool((held.bfloat16().to(held.dtype) == held).all())
