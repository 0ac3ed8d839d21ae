"""Parts of a network that are computed again in the backward, and get no gradient: the reentrant kind needs an input
that asks for one.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from rislab.checkup.findings import Finding, as_fault, listed
from rislab.checkup.recording.call_stack import caller
from rislab.checkup.recording.events import Observer
from rislab.checkup.recording.optimizers import tensors_held
from rislab.checkup.recording.tensors import tensors_of
from rislab.checkup.rules import Code

# Calls, and steps without a gradient, that are no accident; modules that are followed.
CALLS, STEPS, MODULES = 3, 3, 64


@dataclass
class _Part:
    """A module that a checkpoint computes."""

    where: str  # file and line of the checkpoint
    module: weakref.ReferenceType[nn.Module]
    calls: int = 0
    steps: int = 0  # of an optimiser that holds its trainable tensors, none of which had a gradient
    refuted: bool = False  # whether an input asked for a gradient, or a tensor of it had one
    names: list[str] = field(default_factory=list)  # of its trainable tensors


class Checkpoints(Observer):
    """Follows the modules that torch.utils.checkpoint.checkpoint() computes."""

    def __init__(self) -> None:
        self._parts: dict[int, _Part] = {}

    def on_checkpoint(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if kwargs.get("use_reentrant") is False or not torch.is_grad_enabled():
            return
        function = args[0] if args else kwargs.get("function")
        module = function if isinstance(function, nn.Module) else getattr(function, "__self__", None)
        if not isinstance(module, nn.Module) or (id(module) not in self._parts and len(self._parts) >= MODULES):
            return
        part = self._parts.get(id(module))
        if part is None or part.module() is not module:
            part = self._parts[id(module)] = _Part(caller()[0], weakref.ref(module))
        part.refuted |= any(value.requires_grad for value in tensors_of([args[1:], kwargs]))
        part.calls += 1

    def before_step(self, optimizer: Optimizer, closure: bool) -> None:
        if not self._parts:
            return
        open_parts = [one for one in self._parts.values() if not one.refuted and one.steps < STEPS]
        held = set(map(id, tensors_held(optimizer))) if open_parts else set()
        for part in open_parts:
            module = part.module()
            own = [] if module is None else [*nn.Module.named_parameters(module)]
            trained: list[tuple[str, Tensor]] = [
                (name, value) for name, value in own if value.requires_grad and id(value) in held
            ]
            part.refuted |= any(value.grad is not None for _, value in trained)
            part.steps += bool(trained)
            part.names = [name for name, _ in trained] or part.names

    def findings(self) -> list[Finding]:
        lost = [one for one in self._parts.values() if not one.refuted and one.calls >= CALLS and one.steps >= STEPS]
        if not lost:
            return []
        module, calls = lost[0].module(), sum(one.calls for one in lost)
        text = (
            f"checkpoint() with use_reentrant=True computed {'a module' if module is None else type(module).__name__}"
        )
        text += f" and {len(lost) - 1} more parts" if len(lost) > 1 else ""
        text += f" {calls} times from inputs that ask for no gradient: what the optimiser holds of them never had one, "
        names = [name for one in lost for name in one.names]
        return [
            as_fault(Code.WEIGHTS, "detached backbone", f"{text}{len(names)} tensors: {listed(names)}", lost[0].where)
        ]
