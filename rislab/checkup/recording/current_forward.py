"""The last forward of the network: what a loss that comes after it is a loss of."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer
from torch.utils.hooks import unserializable_hook

from rislab.checkup.recording.call_stack import caller, exact_caller
from rislab.checkup.recording.events import ForwardEvent
from rislab.checkup.recording.optimizers import steps_within_itself
from rislab.checkup.recording.tensors import tensors_of
from rislab.checkup.recording.trace import ForwardUse, MicroBatch, Trace, autocast_types, precision_of

# Outputs that are remembered of one micro-batch.
GIVEN = 64


@dataclass
class CurrentForward:
    """A forward of the network."""

    samples: int = 0  # size of the first dimension of its first input
    with_gradient: bool = True  # whether gradients were enabled
    training: bool = True  # whether the network was in training mode
    trained_in: bool = True  # the same, of what the optimiser steps on
    types: list[torch.dtype] = field(default_factory=list)  # of autocast, and of the output
    follows: bool = False  # whether it was handed a state that a forward of the micro-batch before had given
    number: int = 0  # of the forward, from 1; 0 before the first
    steps: int = 0  # of the optimiser that are under way, one within another
    _under_way: bool = False
    _losses: list[tuple[MicroBatch, bool]] = field(default_factory=list)  # within it, and whether their parts are known
    # A few numbers of each output since the last loss, and of those before it, by its place in memory.
    _given: dict[int, Tensor] = field(default_factory=dict)
    _before: dict[int, Tensor] = field(default_factory=dict)
    _ended: bool = False  # whether a loss has come since the last forward

    def enters_step(self, optimizer: Optimizer) -> bool:
        """A step begins: whether it stands in another one of the same optimiser."""
        within = bool(self.steps) and steps_within_itself(optimizer)
        # One that ended by an exception is over as well.
        self.steps = self.steps + 1 if within else 1
        return within

    def leaves_step(self) -> bool:
        """A step is over: whether it stood in another one of the same optimiser."""
        self.steps = max(0, self.steps - 1)
        return bool(self.steps)

    def begin(self, training: bool, own: bool) -> None:
        """It begins, in training mode or not, of a part that the optimiser steps on or of another one."""
        self.training, self._losses, self._under_way = training, [], True
        self.trained_in = training if own else self.trained_in
        self.number += 1

    def end(self, call: ForwardEvent, compared: bool) -> None:
        """The forward is over; `compared` if it stands in a window that is compared."""
        first = next(filter(Tensor.dim, call.inputs), None)
        self.samples = call.samples
        for batch, counted in self._losses:
            batch.samples = self.samples
            batch.count = batch.count if counted else float(self.samples)
        self._losses, self._under_way = [], False
        output = call.output if isinstance(call.output, Tensor) else None
        outputs = [*tensors_of(call.output)] if output is None else [output]
        self.types = [
            *autocast_types("cpu" if first is None else first.device.type),
            *call.dtypes,
            *[value.dtype for value in outputs if value.is_floating_point()][:1],
        ]
        if self._ended:
            # What parts of the network hand on to each other within one micro-batch is no state of the one before.
            self._before, self._given, self.follows, self._ended = self._given, {}, False, False
        self.follows |= compared and (any(map(self._is_given, call.inputs)) or _holds_state(call.module))
        dense = [one for one in outputs if compared and one.layout is torch.strided]
        self._given = self._given if len(self._given) < GIVEN else {}
        self._given |= {one.data_ptr(): one.detach().reshape(-1)[:4].clone() for one in dense}
        self.with_gradient = torch.is_grad_enabled()

    def _is_given(self, value: Tensor) -> bool:
        """Whether a tensor is what a forward of the micro-batch before gave, detached or not."""
        numbers = self._before.get(value.data_ptr())
        return numbers is not None and torch.equal(numbers, value.detach().reshape(-1)[:4])

    def micro_batch(
        self, loss: Tensor, count: float | None, scale_free: bool, dtypes: Iterable[torch.dtype]
    ) -> MicroBatch:
        """A micro-batch of a loss that was just computed.

        Args:
            loss: raw.
            count: equal parts that it is the mean of, None for one a sample.
            scale_free: whether it is no mean.
            dtypes: of the weights.
        """
        where, call_stack = exact_caller()
        number = math.nan
        if loss.numel() == 1:
            held = loss.item()
            number = float(held.real if isinstance(held, complex) else held)
        batch = MicroBatch(
            samples=self.samples,
            count=float(self.samples) if count is None else count,
            loss=number,
            dtype=loss.dtype,
            gradient=None,
            why="",
            precision=precision_of((*dtypes, *self.types, *autocast_types(loss.device.type), loss.dtype)),
            where=where,
            call_stack=call_stack,
            nonfinite=not math.isfinite(number) and not bool(torch.isfinite(loss.detach()).all()),
            training=self.trained_in,
            scale_free=scale_free,
            follows=self.follows,
            kind="" if loss.grad_fn is None else loss.grad_fn.name(),
            forward=self.number,
        )
        self._ended = True
        if self._under_way:
            # What its samples are is known when it is over.
            self._losses.append((batch, count is not None))
        return batch


def watch_use(call: ForwardEvent, trace: Trace) -> None:
    """Notice in a trace whether a backward comes to a forward in training mode, by its output.

    Nothing is noticed of one that works on another's output: of a readout at each place of a sequence only the last may
    be used. What goes unused of a batch shows where the batch comes in.
    """
    if any(value.grad_fn is not None for value in call.inputs):
        return
    use = ForwardUse(caller()[1], call.network)
    if trace.used_at_once(use.place):
        return
    # A hook on a weight that is given as it is would stay there.
    graphs = [value for value in tensors_of(call.output) if value.grad_fn is not None]
    hook = unserializable_hook(lambda _: use.reach())
    for value in graphs:
        value.register_hook(hook)
    if graphs:
        trace.note_forward(use)


def _holds_state(module: nn.Module) -> bool:
    """Whether a network keeps tensors that are neither weights nor buffers, as the state of a sequence."""
    for value in vars(module).values():
        if isinstance(value, Tensor):
            return True
        if isinstance(value, tuple) and value and all(isinstance(one, Tensor) for one in value):
            return True
    return False
