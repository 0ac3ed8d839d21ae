"""Weights and gradients of one optimiser, read at the same coordinates each time, as flat vectors.

All coordinates of small tensors, evenly spread ones of large tensors: what a loop does to gradients, it does to whole
tensors, so that a part tells as much as all, and memory stays small.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.parameter import Parameter, is_lazy

from rislab.checkup.recording.optimizers import tensors_held

# So many coordinates are read in all, and at least so many of each tensor.
COORDINATES = 65_536
FEWEST = 64


class Norms(NamedTuple):
    """Norms of gradients at one moment."""

    total: float = math.nan  # of those of the optimiser, every coordinate of them
    read: float = math.nan  # of the coordinates that are read
    others: float = 0.0  # of other tensors: of other optimisers, or of other networks under this one


class GradientSamples:
    """Gradients of the weights that one optimiser trains.

    Args:
        weights: gives names and tensors of the network, asked anew for each window.
        optimizer: of the loop.
        scaler: gradient scaler of the loop, or None.
        clipped_with: gives tensors whose gradients may be clipped together with those of the optimiser; None for all of
            the network.
    """

    def __init__(
        self,
        weights: Callable[[], Iterable[tuple[str, Tensor]]],
        optimizer: torch.optim.Optimizer,
        scaler: Any,
        clipped_with: Callable[[], Iterable[Tensor]] | None = None,
    ) -> None:
        self._weights, self.optimizer, self.scaler = weights, optimizer, scaler
        self._clipped_with = clipped_with or (lambda: [value for _, value in self.named])
        self._tensors: list[Tensor] = []
        self._places: dict[int, slice] = {}
        self._strides: list[int] = []
        self._held: list[Tensor] = []  # by the optimiser, when the weights were last laid out
        self._in_full = False  # whether all coordinates are read
        self._dtype = torch.float32
        self._zeros: Tensor | None = None  # what gradients() gives if there are none
        self.dtypes: set[torch.dtype] = set()  # of the weights
        self.named: list[tuple[str, Tensor]] = []  # the weights when they were last laid out

    def weights(self) -> list[tuple[str, Tensor]]:
        """Names and tensors of the network, but those that the first forward makes."""
        return [(name, value) for name, value in self._weights() if type(value) is Parameter or not is_lazy(value)]

    def trainable(self) -> list[tuple[str, Tensor]]:
        """Names and tensors that ask for a gradient."""
        return [(name, value) for name, value in self.weights() if value.requires_grad]

    def optimised(self) -> set[int]:
        """Identities of the tensors that the optimiser holds."""
        return set(map(id, tensors_held(self.optimizer)))

    def asking(self) -> int:
        """How many tensors of the optimiser ask for a gradient."""
        return len([value for value in tensors_held(self.optimizer) if value.requires_grad])

    def scale(self) -> float:
        """Of the loss, 1 without a scaler."""
        return 1.0 if self.scaler is None or not self.is_scaled() else float(self.scaler.get_scale())

    def is_scaled(self) -> bool:
        """Whether a scaler is at work."""
        return self.scaler is not None and bool(self.scaler.is_enabled())

    def rates(self) -> list[float]:
        """Learning rates of the optimiser, one a group."""
        return [float(group["lr"]) for group in self.optimizer.param_groups if "lr" in group]

    def lay_out(self, anew: bool = True) -> None:
        """Take the weights as they are now; if not `anew`, only if the optimiser holds others than the last time."""
        held = tensors_held(self.optimizer)
        same = len(held) == len(self._held) and all(map(operator.is_, held, self._held))
        if same and not anew:
            return
        own, named = set(map(id, held)), self.weights()
        self.named, self._held = named, held
        # A network that is frozen at times keeps its place; zeroing what no optimiser holds is not the loop's business.
        tensors = [value for _, value in named if id(value) in own] or [
            value for _, value in named if value.requires_grad
        ]
        if len(tensors) == len(self._tensors) and all(map(operator.is_, tensors, self._tensors)):
            return
        self._tensors, self._zeros = tensors, None
        self.dtypes = {value.dtype for value in tensors}
        limit = max(FEWEST, COORDINATES // max(1, len(tensors)))
        # An odd step does not read one column of a matrix again and again.
        self._strides = [value.numel() // limit | 1 for value in tensors]
        self._in_full = max(self._strides, default=1) == 1
        wide = any(value.dtype in (torch.float64, torch.complex128) for value in tensors)
        self._dtype = torch.float64 if wide else torch.float32
        self._places, first = {}, 0
        for value, stride in zip(tensors, self._strides, strict=True):
            size = len(_coordinates(value, stride))
            self._places[id(value)] = slice(first, first + size)
            first += size

    def gradients(self) -> Tensor:
        """The gradients as they are now; a missing one counts as zeros."""
        gradients = [value.grad for value in self._tensors]
        if [one for one in gradients if one is not None]:
            return self._read(gradients)
        if self._zeros is None:
            self._zeros = self._read(gradients)
        return self._zeros

    def are_zero(self, gradients: Tensor) -> bool:
        """Whether gradients that unscaled() gave are all 0."""
        return gradients is self._zeros or not bool(gradients.any())

    def unscaled(self) -> Tensor:
        """gradients() over the scale of the loss."""
        scale = self.scale()
        return self.gradients() if scale == 1 else self.gradients() / scale

    def values(self) -> Tensor:
        """The weights as they are now."""
        return self._read(self._tensors)

    def _read(self, sources: Sequence[Tensor | None]) -> Tensor:
        plain = [
            one
            for one in sources
            if one is not None and one.dtype is self._dtype and one.layout is torch.strided and not one.requires_grad
        ]
        if plain and self._in_full and len(plain) == len(sources):
            return torch.cat([one if one.dim() == 1 else one.flatten() for one in plain])
        parts = []
        for value, source, stride in zip(self._tensors, sources, self._strides, strict=True):
            part = _coordinates(value if source is None else source, stride)
            part = torch.zeros_like(part) if source is None else part
            parts.append(part if part.dtype is self._dtype else part.to(self._dtype))
        # cat() copies, so that what the loop writes later is not seen.
        return torch.cat(parts) if parts else torch.zeros(0)

    def norms(self, gradients: Tensor, scale: float) -> Norms:
        """Norms over a scale; given are the gradients that gradients() has just read."""
        read = float(torch.linalg.vector_norm(gradients))
        total = read if self._in_full else self.norm_of(self._tensors)
        return Norms(total / scale, read / scale, self._norm_of_others())

    @staticmethod
    def norm_of(tensors: Iterable[Tensor]) -> float:
        """Norm of the gradients of some tensors, 0 if there are none."""
        gradients = [value.grad for value in tensors if value.grad is not None]
        dense = [gradient.to_dense() if gradient.is_sparse else gradient for gradient in gradients]
        return float(torch.nn.utils.get_total_norm(dense)) if dense else 0.0

    def _norm_of_others(self) -> float:
        """Norm of the gradients of other tensors: of other optimisers, or of other networks under this one."""
        candidates = (*self._clipped_with(), *tensors_held(self.optimizer))
        others = {id(value): value for value in candidates if id(value) not in self._places}
        return self.norm_of(others.values())

    def missing(self) -> int:
        """Number of tensors without a gradient."""
        return len([value for value in self._tensors if value.grad is None])

    def present(self) -> bool:
        """Whether any tensor of the optimiser has a gradient."""
        return bool([value for value in tensors_held(self.optimizer) if value.grad is not None])

    def empty(self) -> bool:
        """Whether all gradients are 0 or None."""
        return all(value.grad is None or not bool(value.grad.any()) for value in self._tensors)

    def largest_share(self, parameter: Tensor, gradients: Iterable[Tensor]) -> float:
        """Largest share that a tensor has in the norm of gradients; 0 where it has none."""
        place = self._places.get(id(parameter))
        if place is None:
            return 0.0
        size = max(place.stop for place in self._places.values())
        known = [gradient for gradient in gradients if len(gradient) == size and float(gradient.norm()) > 0]
        return max((float(gradient[place].norm() / gradient.norm()) for gradient in known), default=0.0)


def _coordinates(value: Tensor, stride: int) -> Tensor:
    """Every so many numbers of a tensor; sparse and complex ones are written out."""
    value = value.detach() if value.requires_grad else value
    value = value.to_dense() if value.is_sparse else value
    value = torch.view_as_real(value.resolve_conj()) if value.is_complex() else value
    flat = value.reshape(-1)
    return flat if stride == 1 else flat[::stride]
