"""Optimisers: their tensors, what a wrapper holds, closures of their steps, and those of other libraries."""

from __future__ import annotations

import inspect
import weakref
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.optim.optimizer import Optimizer
from torch.utils.hooks import RemovableHandle

from rislab.checkup.recording.tensors import has_numbers

# So many coordinates of a network tell whether it has moved.
COORDINATES = 64
# What torch puts around each step(): the code in which hooks are called.
_HOOKED = Optimizer.profile_hook_step(lambda: None).__code__


def steps_within_itself(optimizer: Optimizer) -> bool:
    """Whether this step, in a hook of it, stands in another one of the same: its step() calls that of a base class."""
    frame, steps = inspect.currentframe(), 0
    while frame is not None and steps < 2:
        steps += frame.f_code is _HOOKED and frame.f_locals.get("self") is optimizer
        frame = frame.f_back
    return steps > 1


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


def reporting_closures(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], report: Callable[[Any], None]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """The arguments of a step with its closure made to report; None if there is no closure.

    Args:
        args: of the step; the optimiser is the first.
        kwargs: of the step.
        report: called after each evaluation of the closure, with what it gave.
    """
    if not any(map(_is_closure, (*args, *kwargs.values()))):
        return None

    def reporting(value: Any) -> Any:
        if not _is_closure(value):
            return value

        def evaluated(*given: Any, **named: Any) -> Any:
            output = value(*given, **named)
            report(output)
            return output

        return evaluated

    return tuple(map(reporting, args)), {name: reporting(value) for name, value in kwargs.items()}


def _is_closure(value: Any) -> bool:
    return callable(value) and not isinstance(value, Tensor | Optimizer)


# Optimisers that are not torch's, as of other libraries or a loop's own lines, are known by what their tensors do.


class ForeignOptimizer(Optimizer):
    """Stands for whatever moves the weights of a network; it never steps itself."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.param_groups = [{"params": [*tensors]}]
        self.state: Any = defaultdict(dict)

    def register_step_pre_hook(self, hook: Any) -> RemovableHandle:
        """No step will come that could be reported."""
        return RemovableHandle(OrderedDict())

    register_step_post_hook = register_step_pre_hook


class MovedNetworks:
    """Networks that no known optimiser holds, and whether their weights have moved since they were first looked at."""

    def __init__(self) -> None:
        # Of a copy there are no numbers.
        self._first: dict[int, tuple[weakref.ReferenceType[nn.Module], list[float] | None]] = {}

    def moved(self, module: nn.Module, trained: Iterable[list[nn.Module]]) -> bool:
        """Whether a network with tensors that ask for gradients has moved, and not as a copy of another.

        Args:
            module: the network.
            trained: networks that each optimiser holds. What is built as one of them, or as a part of it, is a copy
                that follows it, as the target of Q-learning does.
        """
        tensors = [value for value in nn.Module.parameters(module) if value.requires_grad]
        if not tensors:
            return False
        known = self._first.get(id(module))
        if known is None or known[0]() is not module:
            known = self._first[id(module)] = weakref.ref(module), _numbers(tensors)
        moved = known[1] is not None and known[1] != _numbers(tensors)
        if moved and any(_built_as(module, part) for roots in trained for one in roots for part in one.modules()):
            self._first[id(module)] = known[0], None
            return False
        return moved


def _built_as(module: nn.Module, other: nn.Module) -> bool:
    """Whether two networks are of one kind, with tensors of the same shapes."""
    return type(module) is type(other) and [value.shape for value in nn.Module.parameters(module)] == [
        value.shape for value in nn.Module.parameters(other)
    ]


def _numbers(tensors: Sequence[Tensor]) -> list[float]:
    share = max(1, COORDINATES // len(tensors))
    with torch.no_grad():
        return [float(number) for value in tensors[:COORDINATES] for number in value.detach().reshape(-1)[:share].abs()]
