"""Closures of an optimiser's step, which run forward, backward and zeroing inside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


def reporting_closures(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], report: Callable[[Any], None]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """The arguments of a step with its closure made to report; None if there is no closure.

    Args:
        args: of the step; the optimiser is the first.
        kwargs: of the step.
        report: called after each evaluation of the closure, with what it gave.
    """
    if len(args) + len(kwargs) < 2 or not any(map(_is_closure, (*args, *kwargs.values()))):
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
    return callable(value) and not isinstance(value, Tensor | torch.optim.Optimizer)
