"""Optimisers: their tensors, and what a wrapper holds."""

from __future__ import annotations

from torch import Tensor
from torch.optim.optimizer import Optimizer

from rislab.checkup.tensors import has_numbers


def tensors_held(optimizer: Optimizer) -> list[Tensor]:
    """All tensors of an optimiser."""
    return [value for group in optimizer.param_groups for value in group["params"]]


def has_numbers_to_step(optimizer: Optimizer) -> bool:
    """Whether an optimiser steps on tensors with numbers, and not for a plan of memory."""
    for group in optimizer.param_groups:
        first = next(iter(group["params"]), None)
        if first is not None and not has_numbers(first):
            return False
    return True


def inner_optimizer(optimizer: Optimizer) -> Optimizer | None:
    """The one that a wrapper holds, and that steps on its tensors; None if it is no wrapper."""
    for value in vars(optimizer).values():
        if issubclass(type(value), Optimizer) and value is not optimizer and _ids(value) == _ids(optimizer):
            inner: Optimizer = value
            return inner
    return None


def _ids(optimizer: Optimizer) -> set[int]:
    # Before its __init__ is over, it has no groups.
    return set(map(id, tensors_held(optimizer))) if hasattr(optimizer, "param_groups") else set()
