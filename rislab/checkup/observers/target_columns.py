"""Targets that are a column of what the network was given: an answer need but repeat it."""

from __future__ import annotations

import weakref

import torch
from torch import Tensor

from rislab.checkup.findings import Finding, as_warning
from rislab.checkup.observers.loss_arguments import loss_arguments
from rislab.checkup.recording.call_stack import caller
from rislab.checkup.recording.events import ForwardEvent, LossEvent, Observer
from rislab.checkup.rules import Code

# Columns of an input among which one may be the target; calls and targets that are no accident; calls after which no
# more is asked.
COLUMNS, CALLS, TARGETS, MOST = 3, 3, 64, 64


class TargetAmongInputs(Observer):
    """Asks whether the targets of a loss are a column of what the network was given, until a call says no."""

    def __init__(self) -> None:
        self._last: tuple[Tensor, weakref.ReferenceType[Tensor]] | None = None  # input and output of the last forward
        self._columns: set[int] | None = None  # those that were the targets so far
        self._calls = self._targets = self._width = 0
        self._where = ""

    def on_forward_end(self, call: ForwardEvent) -> bool:
        self._last, output = None, call.output
        if self._is_settled():
            return True
        table = call.inputs[0] if len(call.inputs) == 1 and call.inputs[0].dim() == 2 else None
        trains = call.training and torch.is_grad_enabled() and isinstance(output, Tensor)
        if table is not None and trains and table.shape[1] >= COLUMNS and not table.requires_grad:
            self._last = table, weakref.ref(output)
        return False

    def on_loss(self, call: LossEvent) -> bool:
        last, given = self._last, loss_arguments(call)
        if last is not None and given is not None and torch.is_grad_enabled() and _is_of(given[0], last[1]()):
            self._compare(last[0].detach(), given[1].detach())
        return self._is_settled()

    def _is_settled(self) -> bool:
        return self._columns == set() or self._calls >= MOST

    def _compare(self, inputs: Tensor, targets: Tensor) -> None:
        targets = targets.flatten() if targets.numel() == len(targets) else targets
        fits = targets.dim() == 1 and len(targets) == len(inputs) and targets.device == inputs.device
        # A target of one value is like many columns.
        if fits and bool((targets == targets[0]).all()):
            return
        same = (inputs == targets[:, None].to(inputs.dtype)).all(0).nonzero().flatten().tolist() if fits else []
        self._columns = {*same} if self._columns is None else self._columns & {*same}
        self._calls, self._targets, self._width = self._calls + 1, self._targets + len(targets), inputs.shape[1]
        self._where = self._where or caller()[0]

    def end(self, error: BaseException | None) -> None:
        self._last = None

    def findings(self) -> list[Finding]:
        if not self._columns or self._calls < CALLS or self._targets < TARGETS:
            return []
        text = f"in {self._calls} calls of the loss, all {self._targets} targets were column {min(self._columns)} of "
        text += f"the {self._width} that the network was given: it need but repeat it"
        return [as_warning(Code.ARGUMENTS, "target among the inputs", text, self._where)]


def _is_of(value: Tensor, output: Tensor | None) -> bool:
    """Whether a tensor is an output, or a view of it."""
    return output is not None and value.data_ptr() == output.data_ptr()
