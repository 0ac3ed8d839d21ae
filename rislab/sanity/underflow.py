"""How much of a gradient is below the smallest normal number of its format."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn


class Underflow:
    """Counts entries of the gradient that flows back into a layer below the smallest normal number of their format."""

    def __init__(self, layer: nn.Module) -> None:
        self._small = self._all = 0
        layer.register_forward_hook(self._on_forward)

    def share(self) -> float:
        """Share of them since the last call; NaN if nothing flowed back."""
        share = self._small / self._all if self._all else math.nan
        self._small = self._all = 0
        return share

    def _on_forward(self, module: nn.Module, arguments: Any, output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(self._on_backward)

    def _on_backward(self, gradient: Tensor) -> None:
        self._small += int((gradient.abs() < torch.finfo(gradient.dtype).tiny).sum())
        self._all += gradient.numel()
