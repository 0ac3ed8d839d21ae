"""What was recorded of a training loop: raw losses, backwards and optimiser steps, each with its numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(eq=False)
class Backward:
    """A backward of the loop.

    Args:
        number: from 0, over the whole run.
        fresh: whether all gradients were 0 or None when it began; None if the window is not compared.
        before: the gradients when it began, flat and unscaled; None if the window is not compared.
        after: the gradients when it was over, flat and unscaled; None if the window is not compared.
    """

    number: int
    fresh: bool | None = None
    before: Tensor | None = None
    after: Tensor | None = None


@dataclass(eq=False)
class MicroBatch:
    """A raw loss that was computed in training, with its true gradient.

    Args:
        samples: size of the first dimension of the network's first input.
        count: number of equal parts that the loss is the mean of, samples or elements.
        loss: raw, a detached scalar tensor.
        gradient: true one, flat; None if it was not taken.
        why: why it could not be taken, "" if it was.
        precision: "fp64", "fp32", "bf16" or "fp16".
        where: file and line of the loss.
        call_stack: files and lines of the loop that led there, the innermost first.
        nonfinite: whether the loss or the gradient holds NaN or infinity.
        training: whether the network was in training mode.
        scale_free: whether the loss is no mean, so that its right scale is not known.
        backwards: how many of the loop's came to this loss.
        weight: what they weighed it with in sum, unscaled.
        last: the last of them.
        term_weights: weights of the means that it is known to be a sum of; empty for a single loss.
    """

    samples: int
    count: float
    loss: Tensor
    gradient: Tensor | None
    why: str
    precision: str
    where: str
    call_stack: tuple[str, ...]
    nonfinite: bool
    training: bool
    scale_free: bool = False
    backwards: int = 0
    weight: float = 0.0
    last: Backward | None = None
    term_weights: tuple[float, ...] = ()


@dataclass(eq=False)
class Step:
    """An optimiser step, or the place where one was left out.

    Args:
        micro_batches: whose losses came since the last step.
        backwards: since the last step.
        gradient: flat and unscaled, as the optimiser got it; None if the window is not compared.
        applied: False for a step that a scaler left out.
        scale: of the loss, at that time.
        finite: whether the gradient holds neither NaN nor infinity.
        rates: learning rates, one a group.
        ticks: of the scheduler so far, None without one.
        where: file and line of the step.
        forwards_inside: forwards that ran within the step itself, as those of a closure do.
        other_norm: norm of the gradients that tensors of other optimisers held at that moment.
    """

    micro_batches: list[MicroBatch]
    backwards: list[Backward]
    gradient: Tensor | None
    applied: bool
    scale: float
    finite: bool
    rates: list[float]
    ticks: int | None
    where: str
    forwards_inside: int = 0
    other_norm: float = 0.0

    def holds(self, batch: MicroBatch) -> bool:
        """Whether the gradient of a micro-batch was still there at the step: no zeroing was observed after it."""
        zeroed = max((backward.number for backward in self.backwards if backward.fresh), default=-1)
        return batch.last is not None and batch.last.number >= zeroed


@dataclass(eq=False)
class Trace:
    """All that was recorded of a loop and one optimiser.

    Args:
        steps: in order.
        left: micro-batches after the last step.
        forwards: with gradients.
        detached_losses: number of losses that depend on none of the weights.
        frozen: number of tensors of the network that ask for no gradient.
        tensors: number of trainable tensors at the beginning.
        unchanged: names of trainable tensors whose values are those of the beginning.
        rounding_only: names of those among them whose gradient was nothing but rounding.
        unoptimised: names of trainable tensors that the optimiser does not hold.
        orphaned: number of tensors of the optimiser that the network does not have, and that never had a gradient.
        bf16_tensors: number of larger trainable tensors that hold nothing but numbers of bfloat16, in whatever type.
        full_tensors: number of the other larger ones.
        ticks: of the scheduler at the end, None without one.
        mode_dependent: whether the network computes something else in training mode than in evaluation mode.
        loss_declared: whether the loss was declared; False if losses are found from the backwards.
    """

    steps: list[Step] = field(default_factory=list)
    left: list[MicroBatch] = field(default_factory=list)
    forwards: int = 0
    detached_losses: int = 0
    frozen: int = 0
    tensors: int = 0
    unchanged: list[str] = field(default_factory=list)
    rounding_only: list[str] = field(default_factory=list)
    unoptimised: list[str] = field(default_factory=list)
    orphaned: int = 0
    bf16_tensors: int = 0
    full_tensors: int = 0
    ticks: int | None = None
    mode_dependent: bool = False
    loss_declared: bool = True

    @property
    def micro_batches(self) -> list[MicroBatch]:
        """All micro-batches, in order."""
        return [batch for step in self.steps for batch in step.micro_batches] + self.left

    @property
    def stale(self) -> bool:
        """Whether the optimiser holds tensors that the network no longer has, and misses some that it has."""
        return bool(self.orphaned and self.unoptimised)


def flat(tensors: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> Tensor:
    """Gradients as one vector, in float32 or better; a missing one counts as zeros.

    Args:
        tensors: whose gradients they are; they give the shapes.
        gradients: one for each tensor; sparse and complex ones are written out.
    """
    if not tensors:
        return torch.zeros(0)
    wide = any(value.dtype in (torch.float64, torch.complex128) for value in tensors)
    parts = []
    for value, gradient in zip(tensors, gradients, strict=True):
        part = torch.zeros_like(value) if gradient is None else gradient.detach()
        part = part.to_dense() if part.is_sparse else part
        part = torch.view_as_real(part) if part.is_complex() else part
        parts.append(part.flatten().to(torch.float64 if wide else torch.float32))
    return torch.cat(parts)


def autocast_types(device_type: str) -> list[torch.dtype]:
    """The type that autocast casts to on a kind of device, as a list; empty outside of autocast."""
    return [torch.get_autocast_dtype(device_type)] if torch.is_autocast_enabled(device_type) else []


def precision_of(dtypes: Iterable[torch.dtype]) -> str:
    """The coarsest precision among the types of weights, outputs and losses, and of autocast."""
    dtypes = set(dtypes)
    for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        if dtype in dtypes:
            return name
    return "fp32" if dtypes & {torch.float32, torch.complex64} else "fp64"


def as_number(value: Tensor) -> float:
    """A scalar tensor as a float; NaN for one that is not a single number."""
    return float(value) if value.numel() == 1 else math.nan
