"""What must be the same in all processes of one distributed training: weights, and the order that samplers draw.

Nothing is exchanged while they train, as a message of ours might be taken for one of theirs: each process leaves marks,
which are compared when all are over.
"""

from __future__ import annotations

import hashlib
import weakref
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from torch.optim.optimizer import Optimizer

from rislab.checkup.findings import Finding, as_fault, as_warning, listed
from rislab.checkup.observers.samplers import RepeatedOrder
from rislab.checkup.recording.events import MANY, Observer
from rislab.checkup.recording.living_objects import living_objects
from rislab.checkup.recording.optimizers import tensors_held
from rislab.checkup.recording.tensors import few_coordinates, is_readable
from rislab.checkup.rules import Code

# Optimisers that are followed, tensors of each, and steps before which they are read: the 1st, 2nd, 4th, 8th …
OPTIMIZERS, TENSORS = 4, 16


@dataclass(frozen=True)
class RankMarks:
    """What one process of a distributed training has left."""

    rank: int  # of the process
    size: int  # number of processes
    wrapped: bool  # whether it had a DistributedDataParallel
    # By optimiser and step, in words, what its weights were before the step.
    weights: dict[str, str] = field(default_factory=dict)
    gradients: dict[str, str] = field(default_factory=dict)  # the same, of its gradients
    orders: list[list[list[int]]] = field(default_factory=list)  # of each sampler, epoch and seed of each pass


class RankObserver(Observer):
    """Leaves marks before some steps, in a process of a group; `samplers` know the orders that were drawn."""

    def __init__(self, samplers: RepeatedOrder) -> None:
        self._samplers = samplers
        self._steps: dict[int, tuple[weakref.ReferenceType[Optimizer], int]] = {}
        self._marks: RankMarks | None = None

    def before_step(self, optimizer: Optimizer, closure: bool) -> None:
        known = self._steps.get(id(optimizer))
        if known is None and len(self._steps) >= OPTIMIZERS:
            return
        step = 1 if known is None or known[0]() is not optimizer else known[1] + 1
        self._steps[id(optimizer)] = weakref.ref(optimizer), step
        if step & (step - 1) or not _has_ranks():
            return
        if self._marks is None:
            wrapped = bool(living_objects((DistributedDataParallel,)))
            self._marks = RankMarks(distributed.get_rank(), distributed.get_world_size(), wrapped)
        tensors = [value for value in tensors_held(optimizer) if is_readable(value)]
        key = f"{[*self._steps].index(id(optimizer)) + 1}, step {step}"
        self._marks.weights[key] = _mark(tensors[:TENSORS])
        gradients = [value.grad for value in tensors if value.grad is not None and not value.grad.is_sparse]
        self._marks.gradients[key] = _mark(gradients[:TENSORS]) if gradients else ""

    def may_count(self) -> int:
        """Ranks are compared at steps 1, 2, 4, 8 …."""
        if not _has_ranks():
            return MANY
        return min(((1 << step.bit_length()) - step - 1 for _, step in self._steps.values()), default=MANY)

    def count_steps(self, optimizer: Optimizer, steps: int) -> None:
        if id(optimizer) in self._steps:
            known, before = self._steps[id(optimizer)]
            self._steps[id(optimizer)] = known, before + steps

    def end(self, error: BaseException | None) -> None:
        self._steps = {}

    def marks(self) -> RankMarks | None:
        """All that was left; None outside of a distributed training."""
        if self._marks is not None:
            self._marks.orders[:] = self._samplers.orders()
        return self._marks


def _has_ranks() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def _mark(tensors: Iterable[Any]) -> str:
    digest = hashlib.sha256()
    for value in tensors:
        digest.update(repr((tuple(value.shape), few_coordinates(value).tolist())).encode())
    return digest.hexdigest()[:16]


def compare_ranks(marks: Sequence[RankMarks]) -> list[Finding]:
    """What differs between the processes of one training that left marks, and must not."""
    sizes = {one.size for one in marks}
    # Of several groups it is not known who belongs together.
    if len(marks) < 2 or sizes != {len(marks)} or {one.rank for one in marks} != set(range(len(marks))):
        return []
    return [*_weights(marks), *_orders(marks)]


def _weights(marks: Sequence[RankMarks]) -> list[Finding]:
    wrapped = all(one.wrapped for one in marks)
    steps: dict[str, list[str]] = defaultdict(list)
    for key in marks[0].weights:
        if all(key in one.weights for one in marks):
            steps[key.split(",")[0]].append(key)
    for keys in steps.values():
        same = [len({one.weights[key] for one in marks}) == 1 for key in keys]
        shared = [len({one.gradients[key] for one in marks}) == 1 and bool(marks[0].gradients[key]) for key in keys]
        # Processes that train networks of their own begin with other weights, and share no gradients.
        joined = wrapped or same[0] or all(shared)
        if len(keys) < 2 or same[-1] or not joined:
            continue
        last = max((place for place, one in enumerate(same) if one), default=-1)
        since = "from the first step on" if last < 0 else f"after {keys[last].split(', ')[1]}"
        text = f"the weights of {len(marks)} ranks differ {since}, at each of {len(keys) - 1 - last} looks before "
        text += listed([key.split(", ")[1] for key in keys[last + 1 :]])
        certain = (wrapped and len(keys) - 1 - last >= 2) or all(shared)
        make = as_fault if certain else as_warning
        return [make(Code.WEIGHTS, "weights differ between ranks", text)]
    return []


def _orders(marks: Sequence[RankMarks]) -> list[Finding]:
    """Samplers that share out a set by one order, which is another one in each process."""
    for passes in zip(*(one.orders for one in marks), strict=False):
        first = [orders[0] for orders in passes if orders]
        seeds = {seed for _, seed in first}
        epochs = {tuple(epoch for epoch, _ in orders) for orders in passes}
        if len(first) == len(marks) and len(seeds) > 1:
            text = f"the DistributedSamplers of {len(marks)} ranks have the seeds {listed(sorted(seeds))}"
            evidence = f"{text}: they share out different orders, so that samples come twice or never"
            return [as_fault(Code.LOSSES, "samplers differ between ranks", evidence)]
        if len({len(orders) for orders in epochs}) == 1 and len(epochs) > 1:
            text = f"the DistributedSamplers of {len(marks)} ranks were at different epochs in the same pass"
            evidence = f"{text}: they share out different orders, so that samples come twice or never"
            return [as_fault(Code.LOSSES, "samplers differ between ranks", evidence)]
    return []
