"""What was seen of a training loop: raw losses, backwards and optimiser steps, each with its numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(eq=False)
class Backward:
    """A backward of the loop.

    Args:
        number: from 0, over the whole run. fresh: whether no gradient was held when it began; None if nobody looked.
        before, after: the gradients held, flat and unscaled; None where they were not taken.
    """

    number: int
    fresh: bool | None = None
    before: Tensor | None = None
    after: Tensor | None = None


@dataclass(eq=False)
class MicroBatch:
    """A raw loss that was computed in training, with its true gradient.

    Args:
        number: from 0, over the whole run. samples: size of its first dimension, as the network saw it.
        count: how many equal parts the loss is the mean of, samples or elements.
        loss: raw, a detached scalar tensor. gradient: true one, flat, None where it was not taken.
        why: why it could not be taken. precision: "fp64", "fp32", "bf16" or "fp16".
        where: file and line of the loss. site: all lines of the loop that led there.
        broken: whether the loss or the gradient holds NaN or infinity. mode: whether the network was in training mode.
        free: whether the loss is no mean, so that only its author knows its scale.
        backwards: of the loop, that came to this loss. weight: what they weighed it with, unscaled.
        last: the last of them. reached: whether the loss depends on the weights at all.
        terms: weights of the means that it is known to be a sum of, empty for a single loss.
    """

    number: int
    samples: int
    count: float
    loss: Tensor
    gradient: Tensor | None
    why: str
    precision: str
    where: str
    site: tuple[str, ...]
    broken: bool
    mode: bool
    free: bool = False
    backwards: int = 0
    weight: float = 0.0
    last: Backward | None = None
    terms: tuple[float, ...] = ()


@dataclass(eq=False)
class Step:
    """An optimiser step, or the place where one was left out.

    Args:
        micro_batches: whose losses came since the last one. backwards: since then.
        gradient: flat, unscaled, as the optimiser got it; None where it was not taken.
        applied: False for a step that a scaler left out. scale: of the loss, at that time.
        finite: whether all gradients were numbers. rates: learning rates. ticks: of the scheduler so far.
        forwards: in training mode since the last step. where: file and line of the step.
        inside: forwards that ran within the step itself, as those of a closure do. around: norm of the gradients that
            tensors of other optimisers held at that moment.
    """

    micro_batches: list[MicroBatch]
    backwards: list[Backward]
    gradient: Tensor | None
    applied: bool
    scale: float
    finite: bool
    rates: list[float]
    ticks: int | None
    forwards: int
    where: str
    inside: int = 0
    around: float = 0.0

    def kept(self, batch: MicroBatch) -> bool:
        """Whether what a micro-batch gave was still there at the step: no zeroing came after it, as far as was seen."""
        begun = max((one.number for one in self.backwards if one.fresh), default=-1)
        return batch.last is not None and batch.last.number >= begun


@dataclass(eq=False)
class Trace:
    """All that was seen of a loop.

    Args:
        steps: in order. left: micro-batches after the last step. micro_batches, forwards: in training mode.
        losses: raw losses in order, with the number of samples of each, and of equal parts.
        strays: losses that depend on none of the weights. frozen: tensors of the network that ask for no gradient.
        still: names of trainable tensors that never moved. strange: those that no optimiser holds.
        faint: those of the still ones that got a gradient of nothing but rounding.
        coarse: trainable tensors that hold none but numbers of bfloat16, in whatever type they are kept. fine: others.
        stale: tensors of the optimiser that the network has not, and that never had a gradient.
        ticks: of the scheduler at the end, None without one. moody: whether training mode makes a difference.
        heard: whether the losses are those that were declared; False if they were guessed from the backwards.
    """

    steps: list[Step] = field(default_factory=list)
    left: list[MicroBatch] = field(default_factory=list)
    micro_batches: int = 0
    forwards: int = 0
    strays: int = 0
    losses: list[tuple[Tensor, int, float]] = field(default_factory=list)
    frozen: int = 0
    tensors: int = 0
    still: list[str] = field(default_factory=list)
    faint: list[str] = field(default_factory=list)
    strange: list[str] = field(default_factory=list)
    stale: int = 0
    coarse: int = 0
    fine: int = 0
    ticks: int | None = None
    moody: bool = False
    heard: bool = True


def units(step: Step, size: int | None) -> list[MicroBatch]:
    """The micro-batches of a step, where several losses of one micro-batch count as one.

    Losses that one backward came to are terms of one loss; those of different lines of the loop are terms as well,
    unless everything that one line gave was thrown away, as a discriminator throws away what the generator's loss gave.

    Args:
        step: as seen. size: declared number of micro-batches in a window, None if not declared.
    """
    together: dict[Any, list[MicroBatch]] = {}
    for batch in step.micro_batches:
        together.setdefault(("one", id(batch)) if batch.last is None else batch.last.number, []).append(batch)
    groups: list[MicroBatch] = []
    for batches in together.values():
        # A window may as well be summed up first, and have one backward.
        window = size is not None and 1 < len(batches) <= size and len({batch.site for batch in batches}) == 1
        groups += batches if window or len(batches) == 1 else [_joined(batches)]
    sites = list(dict.fromkeys(batch.site for batch in groups))
    if len(sites) == 1:
        return groups
    of = {site: [batch for batch in groups if batch.site == site] for site in sites}
    kept = {site: [step.kept(batch) for batch in of[site]] for site in sites}
    if any(all(marks) for marks in kept.values()):
        of = {site: batches for site, batches in of.items() if any(kept[site])}
    if len({len(batches) for batches in of.values()}) == 1 and len(of) > 1:
        return [_joined(parts) for parts in zip(*of.values(), strict=True)]
    found = [batch for batch in groups if batch.site in of]
    return found if len(of) == 1 else [replace(batch, free=True) for batch in found]


def _joined(batches: Sequence[MicroBatch]) -> MicroBatch:
    """Several losses of one micro-batch as one, each with the weight that the loop gave it."""
    weight = sum(batch.weight for batch in batches) or 1.0
    known = [(batch.weight / weight, batch.gradient) for batch in batches if batch.gradient is not None]
    whole = len(known) == len(batches) and len({len(gradient) for _, gradient in known}) == 1
    return replace(
        batches[0],
        loss=torch.stack([batch.loss.reshape(()) for batch in batches]).sum(),
        gradient=torch.stack([share * gradient for share, gradient in known]).sum(dim=0) if whole else None,
        why=next((batch.why for batch in batches if batch.why), ""),
        broken=any(batch.broken for batch in batches),
        free=any(batch.free for batch in batches),
        backwards=max(batch.backwards for batch in batches),
        weight=weight,
        last=max((one.last for one in batches if one.last is not None), key=lambda one: one.number, default=None),
        terms=tuple(term for batch in batches for term in batch.terms or (batch.weight,)),
    )


def flat(layout: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> Tensor:
    """Gradients as one vector, in float32 or better; a missing one counts as zeros."""
    if not layout:
        return torch.zeros(0)
    wide = torch.float64 if any(value.dtype in (torch.float64, torch.complex128) for value in layout) else torch.float32
    parts = []
    for value, gradient in zip(layout, gradients, strict=True):
        part = torch.zeros_like(value) if gradient is None else gradient.detach()
        part = part.to_dense() if part.is_sparse else part
        parts.append((torch.view_as_real(part) if part.is_complex() else part).flatten().to(wide))
    return torch.cat(parts)


def cast_to(kind: str) -> list[torch.dtype]:
    """The type that autocast casts to on a kind of device, as a list; empty outside of autocast."""
    return [torch.get_autocast_dtype(kind)] if torch.is_autocast_enabled(kind) else []


def precision_of(dtypes: Iterable[torch.dtype]) -> str:
    """The coarsest precision among the types of weights, outputs and losses, and of autocast."""
    dtypes = set(dtypes)
    for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        if dtype in dtypes:
            return name
    return "fp32" if dtypes & {torch.float32, torch.complex64} else "fp64"


def number(value: Tensor) -> float:
    """A scalar tensor as a float; NaN for one that is not a single number."""
    return float(value) if value.numel() == 1 else math.nan
