"""Optimisers: their tensors, and what a wrapper holds."""

from __future__ import annotations

from torch import Tensor, distributed
from torch.optim.optimizer import Optimizer

from rislab.checkup.recording.tensors import has_numbers


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


def has_stepped(optimizer: Optimizer) -> bool:
    """Whether the state of an optimiser says that it has stepped; without a state none can."""
    entries = [entry for entry in optimizer.state.values() if isinstance(entry, dict) and entry]
    return any(
        not isinstance(step := entry.get("step", 1), int | float | Tensor) or bool(step > 0) for entry in entries
    )


def fused_scaling(optimizer: Optimizer) -> tuple[float, bool]:
    """The scale that a scaler leaves to an optimiser, 1 for none, and whether it is to skip its step."""
    attributes = vars(optimizer)
    scale, infinite = attributes.get("grad_scale"), attributes.get("found_inf")
    return 1.0 if scale is None else float(scale), infinite is not None and bool(infinite.item())


def among_ranks() -> bool:
    """Whether other processes train with this one, and may have their share in a gradient."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
