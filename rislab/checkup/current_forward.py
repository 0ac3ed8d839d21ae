"""The last forward of the network: what a loss that comes after it is a loss of."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rislab.checkup.call_stack import caller
from rislab.checkup.events import ForwardEvent, tensors_of
from rislab.checkup.trace import MicroBatch, autocast_types, precision_of


@dataclass
class CurrentForward:
    """A forward of the network.

    Args:
        samples: size of the first dimension of its first input.
        with_gradient: whether gradients were enabled.
        training: whether the network was in training mode.
        types: of autocast, and of the output.
    """

    samples: int = 0
    with_gradient: bool = True
    training: bool = True
    types: list[torch.dtype] = field(default_factory=list)

    def end(self, call: ForwardEvent) -> None:
        """The forward is over."""
        first = next((value for value in call.inputs() if value.dim()), None)
        self.samples = 1 if first is None else int(first.shape[0])
        self.types = autocast_types("cpu" if first is None else first.device.type)
        self.types += [value.dtype for value in tensors_of(call.output) if value.is_floating_point()][:1]
        self.with_gradient = torch.is_grad_enabled()

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
        where, call_stack = caller()
        value = loss.detach()
        number = float(value) if value.numel() == 1 and not value.is_complex() else math.nan
        return MicroBatch(
            samples=self.samples,
            count=float(self.samples) if count is None else count,
            loss=number,
            dtype=loss.dtype,
            gradient=None,
            why="",
            precision=precision_of((*dtypes, *self.types, *autocast_types(loss.device.type), loss.dtype)),
            where=where,
            call_stack=call_stack,
            nonfinite=not math.isfinite(number) and not bool(torch.isfinite(value).all()),
            training=self.training,
            scale_free=scale_free,
        )
