"""Loops whose weights never change: with an update that makes a tensor of the same name, or without a backward."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim.optimizer import Optimizer

from rislab.checkup.findings import Finding, as_fault, as_warning
from rislab.checkup.recording.call_stack import caller
from rislab.checkup.recording.events import ForwardEvent, LossEvent, Observer, Roots
from rislab.checkup.recording.living_objects import living_optimizers
from rislab.checkup.recording.loss_graph import tensors_behind
from rislab.checkup.recording.optimizers import tensors_held
from rislab.checkup.recording.tensors import few_coordinates, tensors_of
from rislab.checkup.rules import Code

# So many backwards without an update are no accident; tensors that are followed.
BACKWARDS, TENSORS = 16, 64
# So many forwards of a network that an optimiser holds, in training mode and with a graph, are meant for a backward.
FORWARDS = 16


class HandUpdates(Observer):
    """Compares the leaves of the first backwards with what they were, until one of them moves."""

    def __init__(self) -> None:
        self._values: dict[int, tuple[Tensor, Tensor]] = {}  # leaves, with a few of their numbers
        self._count, self._where = 0, ""
        self._stepped = self._differentiated = self._to_be_trained = False
        self._forwards: dict[int, int] = {}  # of each network, in training mode and with a graph
        self._unused = "", 0  # file and line of forwards of one that is to be trained, and how many
        self._losses = 0  # of torch that carry a gradient

    def on_forward_end(self, call: ForwardEvent) -> bool:
        """Count forwards until the first backward or step."""
        if self._differentiated or self._stepped:
            return True
        if torch.is_grad_enabled() and call.training and any(value.requires_grad for value in tensors_of(call.output)):
            count = self._forwards[call.network] = self._forwards.get(call.network, 0) + 1
            if count == FORWARDS:
                own = set(map(id, torch.nn.Module.parameters(call.module)))
                held = (value for one in living_optimizers() for value in tensors_held(one))
                self._to_be_trained |= any(id(value) in own for value in held)
            self._unused = caller()[0], max(count, self._unused[1])
        return False

    def on_loss(self, call: LossEvent) -> bool:
        self._losses += isinstance(call.output, Tensor) and call.output.requires_grad
        return self._losses >= FORWARDS or self._differentiated

    def on_grad(self, outputs: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
        self._differentiated = True

    def on_backward(self, roots: Roots) -> bool:
        self._differentiated = True
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
        self._to_be_trained &= error is None

    def finding(self) -> Finding | None:
        """A fault if losses were never differentiated; a warning where answers or gradients may be all; or None."""
        where, count = self._unused
        if self._to_be_trained and not (self._stepped or self._differentiated):
            text = (
                f"{count} forwards in training mode of a network that an optimiser holds, and not one backward or step"
            )
            make = as_fault if self._losses >= FORWARDS else as_warning
            return make(Code.LOSSES, "loop tail in a branch never taken", text, where)
        if self._stepped or self._count < BACKWARDS:
            return None
        text = f"{self._count} backwards, no optimiser stepped, and the same weights in all of them"
        return as_warning(Code.STEPS, "weights never updated", text, self._where)
