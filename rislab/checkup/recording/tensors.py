"""Which tensors there are in what a loop hands on, and whether they hold numbers that can be read."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

# Classes that are neither lazy nor fake.
_PLAIN = (Tensor, nn.Parameter)
# A network of no more numbers may live on for what is asked at the end, beside two of any size.
SMALL = 500_000
# So deep is looked into nested values.
_DEPTH = 8


def tensors_of(value: Any, depth: int = _DEPTH) -> Iterator[Tensor]:
    """The tensors in nested tuples, lists and mappings, and in the fields of the outputs of libraries, to a depth."""
    if isinstance(value, Tensor):
        yield value
    elif depth and isinstance(value, tuple | list):
        for inner in value:
            if isinstance(inner, Tensor):
                yield inner
            else:
                yield from tensors_of(inner, depth - 1)
    elif depth and isinstance(value, Mapping):
        yield from tensors_of([*value.values()], depth)


def samples_of(inputs: tuple[Any, ...], named: Mapping[str, Any]) -> int:
    """Size of the first dimension of the first argument, by position or by name, that has one, else 1."""
    plain = bool(inputs) and type(inputs[0]) is Tensor and inputs[0].dim() > 0
    first = inputs[0] if plain else next(filter(Tensor.dim, tensors_of((inputs, named))), None)
    return 1 if first is None else first.size(0)


def has_numbers(value: Tensor) -> bool:
    """Whether a tensor holds numbers that can be read: not on the meta device, fake, nested, or within a transform."""
    if type(value) in _PLAIN:
        try:
            if value.data_ptr() and not value.is_nested:
                return True
        except RuntimeError:
            return value.layout is not torch.strided
    # The class of fake tensors has no public name; asked for its memory, one warns.
    if is_lazy(value) or value.is_meta or value.is_nested or type(value).__name__ == "FakeTensor":
        return False
    if value.layout is not torch.strided:
        return True
    try:
        # Within vmap(), grad() and jvp(), and under a fake mode, a tensor has no memory of its own.
        return value.data_ptr() != 0 or value.numel() == 0
    except RuntimeError:
        return False


def few_coordinates(value: Tensor, most: int = 16) -> Tensor:
    """So many coordinates at most, spread over a real tensor of any shape, as float64 on the CPU."""
    with torch.no_grad():
        flat = value.detach().reshape(-1)
        return flat[:: max(1, len(flat) // most)][:most].double().cpu()


def is_readable(value: Tensor) -> bool:
    """Whether a tensor holds two real numbers or more, in memory that can be read."""
    return (
        value.is_floating_point()
        and value.layout is torch.strided
        and type(value) in _PLAIN
        and value.numel() > 1
        and has_numbers(value)
    )


def cosine(one: Tensor, other: Tensor) -> float:
    """Cosine of the angle between two vectors, 0 if one of them is 0."""
    lengths = float(one.norm() * other.norm())
    return float(one @ other) / lengths if lengths > 0 else 0.0


def may_live_on(network: nn.Module, others: int, most: int) -> bool:
    """Whether a network is kept alive, as it is looked at again at the end: a loop may make ever new ones.

    Args:
        network: that is new.
        others: how many are kept already.
        most: how many may be.
    """
    return others < 2 or (others < most and sum(map(Tensor.numel, nn.Module.parameters(network))) <= SMALL)


class MarkedTensors:
    """Marks of tensors, by their addresses, as long as they live: another one may have an address later.

    Args:
        most: so many are marked.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._marks: dict[int, tuple[weakref.ReferenceType[Tensor], Any]] = {}

    def __len__(self) -> int:
        return len(self._marks)

    def take(self, value: Any) -> Any:
        """The mark of a value, which has none from now on; None if it had none."""
        what = self.of(value)
        if what is not None:
            del self._marks[id(value)]
        return what

    def take_dead(self) -> list[Any]:
        """The marks of tensors that have died."""
        dead = [key for key, (reference, _) in self._marks.items() if reference() is None]
        return [self._marks.pop(key)[1] for key in dead]

    def mark(self, value: Tensor, what: Any = True) -> None:
        """Mark one more tensor, unless there are too many."""
        if len(self._marks) < self._most:
            self._marks[id(value)] = weakref.ref(value), what

    def of(self, value: Any) -> Any:
        """The mark of a value, None if it has none."""
        reference, what = self._marks.get(id(value), (None, None))
        return what if reference is not None and reference() is value else None

    def references(self, what: Any) -> list[weakref.ReferenceType[Tensor]]:
        """References to the tensors with a mark that are alive."""
        return [one for one, mark in self._marks.values() if mark is what and one() is not None]

    def clear(self) -> None:
        """Forget all."""
        self._marks.clear()


def is_result(value: Tensor) -> bool:
    """Whether a tensor carries no gradient, or is square, as what is computed of all pairs."""
    return not value.requires_grad or (value.dim() == 2 and value.shape[0] == value.shape[1])


def has_own_weights(module: nn.Module) -> bool:
    """Whether a module that runs holds parameters: torch.func.functional_call() puts tensors in their place."""
    return isinstance(next(nn.Module.parameters(module), None), nn.Parameter)
