"""Optimisers that are not torch's, as of other libraries or a loop's own lines: known by what their tensors do."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer
from torch.utils.hooks import RemovableHandle

# So many coordinates of a network tell whether it has moved.
COORDINATES = 64


class ForeignOptimizer(Optimizer):
    """Stands for whatever moves the weights of a network; it never steps itself.

    Args:
        tensors: that are moved.
    """

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
        self._first: dict[int, tuple[nn.Module, list[float]]] = {}

    def moved(self, module: nn.Module) -> bool:
        """Whether a network with tensors that ask for gradients has moved."""
        tensors = [value for value in nn.Module.parameters(module) if value.requires_grad]
        if not tensors:
            return False
        numbers = _numbers(tensors)
        first = self._first.setdefault(id(module), (module, numbers))[1]
        return first != numbers


def _numbers(tensors: Sequence[Tensor]) -> list[float]:
    share = max(1, COORDINATES // len(tensors))
    with torch.no_grad():
        return [float(number) for value in tensors[:COORDINATES] for number in value.detach().reshape(-1)[:share].abs()]
