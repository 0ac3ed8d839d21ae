"""Loops without an optimiser whose weights never change, as where the update makes a tensor of the same name."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim.optimizer import Optimizer

from rislab.checkup.findings import Finding, as_warning
from rislab.checkup.recording.call_stack import caller
from rislab.checkup.recording.events import Observer, Roots
from rislab.checkup.recording.loss_graph import tensors_behind
from rislab.checkup.recording.tensors import few_coordinates
from rislab.checkup.rules import Code

# So many backwards without an update are no accident; tensors that are followed.
BACKWARDS, TENSORS = 16, 64


class HandUpdates(Observer):
    """Compares the leaves of the first backwards with what they were, until one of them moves."""

    def __init__(self) -> None:
        self._values: dict[int, tuple[Tensor, Tensor]] = {}  # leaves, with a few of their numbers
        self._count, self._where = 0, ""
        self._stepped = False

    def on_backward(self, roots: Roots) -> bool:
        node = roots[0][0].grad_fn if len(roots) == 1 else None
        behind = [] if node is None else [*tensors_behind(node)]
        tensors = [value for value in behind if isinstance(value, Tensor)]
        leaves = [value for value in tensors if type(value) in (Tensor, Parameter) and value.is_floating_point()]
        if not leaves or len(leaves) < len(behind) or len(leaves) > TENSORS:
            return self._stop()
        if not self._values:
            self._values = {id(value): (value, few_coordinates(value)) for value in leaves}
            self._where = caller()[0]
        # What is new in each backward is an input whose gradient is wanted, or the result of an update.
        same = {id(value) for value in leaves} == self._values.keys()
        if not same or any(not torch.equal(few_coordinates(value), first) for value, first in self._values.values()):
            return self._stop()
        self._count += 1
        return False

    def _stop(self) -> bool:
        self._values, self._count = {}, 0
        return True

    def before_step(self, optimizer: Optimizer, closure: bool) -> bool:
        """There is an optimiser."""
        self._stepped = True
        return True

    def end(self, error: BaseException | None) -> None:
        self._values = {}

    def finding(self) -> Finding | None:
        """A warning, as gradients may be all that is wanted; None if something moved."""
        if self._stepped or self._count < BACKWARDS:
            return None
        text = f"{self._count} backwards, no optimiser stepped, and the same weights in all of them"
        return as_warning(Code.STEPS, "weights never updated", text, self._where)
