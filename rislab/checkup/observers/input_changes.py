"""Inputs that hold other numbers each time they come: data that are changed in place, as by a dataset that reads them.

Numbers that lie on one straight line over the old ones, and not on the identity, were scaled or shifted.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from rislab.checkup.findings import Finding, as_fault, as_warning
from rislab.checkup.recording.call_stack import caller, definition_of
from rislab.checkup.recording.events import ForwardEvent, Observer
from rislab.checkup.recording.looks import Looks
from rislab.checkup.recording.tensors import few_coordinates
from rislab.checkup.rules import Code

# Numbers that are read of an input; inputs that are remembered; changes that make it certain.
NUMBERS, PLACES, CHANGES = 32, 64, 3
# Residual of the straight line from the old numbers to the new ones, as a share of their spread; and rounding.
STRAIGHT, ROUNDING = 1e-3, 1e-6
# Maps that differ by no more are one; so often one is repeated between two looks; a factor that no annealing has.
SAME, TIMES, LARGE = 1e-3, 4, 50.0
# Samples that are read of each array that a dataset holds; arrays, of datasets within datasets so deep.
SAMPLES, ARRAYS, DEPTH = 4, 16, 4


@dataclass
class _Sample:
    """Numbers of one sample that a dataset holds, or one number of many samples."""

    name: str  # of the dataset and of what it holds
    where: str  # file and line at which the dataset reads a sample
    of_many: bool  # whether its numbers are those of many samples, one of each
    numbers: Tensor  # that it held when it was read last
    changes: list[tuple[float, float]] = field(default_factory=list)  # scale and shift of each change since then
    largest: float = 0.0  # of all numbers that it has held

    def is_normalised_again(self) -> bool:
        """Whether all changes are one map, and none that may be meant, as a factor of noise, or a drift.

        The first batch of a pass was read before one could look, so that a sample may be read twice between two looks.
        """
        scale, shift = min(self.changes, key=lambda change: abs(math.log(abs(change[0]))))
        if scale <= 0 or abs(math.log(scale)) <= SAME:
            return False
        for one, two in self.changes:
            times = round(math.log(abs(one)) / math.log(scale))
            again = scale**times, shift * sum(scale**place for place in range(times))
            off = abs(one - again[0]) > SAME * abs(again[0])
            if (
                not 0 < times <= TIMES
                or off
                or abs(two - again[1]) > max(SAME * abs(again[1]), ROUNDING * self.largest)
            ):
                return False
        return abs(shift) > SAME or abs(math.log(scale)) > math.log(LARGE)


class InputChanges(Observer):
    """Compares inputs with what the same memory held when it came before, and samples of datasets with themselves."""

    def __init__(self) -> None:
        # By address and shape, with the memory itself: once that is gone, other data may come to its place.
        self._numbers: dict[tuple[int, ...], tuple[weakref.ref[torch.UntypedStorage], Tensor]] = {}
        self._looks = Looks()
        self._changes: list[tuple[float, float]] = []
        self._where = ""
        self._samples: dict[tuple[int, int], _Sample] = {}
        # Of a pass that has met no forward: its loader, and what its dataset held before.
        self._begun: tuple[DataLoader[Any], list[tuple[str, str, int, Tensor]]] | None = None

    def on_pass(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self._begun = None
        if self._looks.wanted("pass"):
            arrays = ((name, where, id(one), _numbers_of(one)) for name, where, one in _arrays_of(args[0].dataset))
            self._begun = args[0], [(name, where, key, one) for name, where, key, one in arrays if one is not None]

    def on_forward_end(self, call: ForwardEvent) -> None:
        """Look at the first input of a network in training mode, and at the dataset of a pass that has begun."""
        begun, self._begun = self._begun, None
        if not call.training or not torch.is_grad_enabled() or len(self._changes) >= CHANGES:
            return
        if begun is not None:
            loader, numbers = begun
            # What is put into batches may be changed then.
            otherwise = definition_of(loader.collate_fn)
            for name, where, array in _arrays_of(loader.dataset):
                for sample in _samples_in(array):
                    key = sample.data_ptr(), sample.numel()
                    self._compare(name, where or otherwise, key, few_coordinates(sample, NUMBERS))
            for name, where, own, few in numbers:
                self._compare(f"the numbers of {name}", where or otherwise, (own, -1), few)
        first = next(iter(call.inputs), None)
        if first is None or not first.is_floating_point() or first.numel() < NUMBERS or first.requires_grad:
            return
        place = (first.data_ptr(), *first.shape)
        if not self._looks.wanted(place):
            return
        known = self._numbers.get(place)
        if known is None and len(self._numbers) >= PLACES:
            return
        now = few_coordinates(first, NUMBERS)
        self._numbers[place] = weakref.ref(first.untyped_storage()), now
        change = _change(known[1], now) if known is not None and known[0]() is not None else None
        if change is not None:
            self._changes.append(change)
            self._where = self._where or caller()[0]

    def _compare(self, name: str, where: str, key: tuple[int, int], now: Tensor) -> None:
        known = self._samples.setdefault(key, _Sample(name, where, key[1] < 0, now))
        change = _change(known.numbers, now)
        known.numbers, known.largest = now, max(known.largest, float(now.abs().max()))
        if change is not None:
            known.changes.append(change)

    def end(self, error: BaseException | None) -> None:
        self._begun = None

    def findings(self) -> list[Finding]:
        """One if inputs were scaled or shifted again and again."""
        again = next((one for one in self._samples.values() if len(one.changes) >= CHANGES), None)
        if again is not None:
            (scale, shift), where = again.changes[-1], again.where
            text = f"{again.name}: between passes, a sample changed {len(again.changes)} times, at last to the numbers "
            alike = [one for one in self._samples.values() if one.name == again.name and len(one.changes) >= CHANGES]
            if where and (len(alike) > 1 or again.of_many) and all(one.is_normalised_again() for one in alike):
                text += f"before times {scale:.4g} plus {shift:.4g}; by this map, once or again, in all "
                text += f"{len(again.numbers) if again.of_many else len(alike)} samples that were looked at"
                return [as_fault(Code.DRIFT, "inputs changed in place", text, where)]
        elif len(self._changes) >= CHANGES:
            (scale, shift), where = self._changes[-1], self._where
            text = f"{CHANGES} inputs came again from the same memory, each time with the numbers "
        else:
            return []
        text += f"before times {scale:.4g} plus {shift:.4g}"
        return [as_warning(Code.DRIFT, "inputs changed in place", text, where)]


def _change(before: Tensor, now: Tensor) -> tuple[float, float] | None:
    """Scale and shift by which numbers became others; None if they are the same, or became others in another way."""
    if torch.equal(before, now):
        return None
    rounding = ROUNDING * float(now.norm())
    old, new = before - before.mean(), now - now.mean()
    square = float(old @ old)
    if square == 0 or float((now - before).norm()) <= rounding:
        return None
    scale = float(old @ new) / square
    shift = float(now.mean()) - scale * float(before.mean())
    straight = float((new - scale * old).norm()) <= max(STRAIGHT * float(new.norm()), rounding)
    return (scale, shift) if scale and straight else None


def _arrays_of(dataset: Any, depth: int = DEPTH) -> Iterator[tuple[str, str, Any]]:
    """What a dataset holds, and those within it; each with its name, and where it is read."""
    where, arrays = definition_of(getattr(type(dataset), "__getitem__", None)), 0
    if isinstance(dataset, list):
        yield "list", where, dataset
    for name, value in list(getattr(dataset, "__dict__", {}).items()):
        for array in value if isinstance(value, tuple) and len(value) < SAMPLES else (value,):
            if depth and hasattr(type(array), "__getitem__") and not isinstance(array, Tensor | np.ndarray | list):
                yield from _arrays_of(array, depth - 1)
            elif arrays < ARRAYS:
                arrays += 1
                yield f"{type(dataset).__name__}.{name}", where, array


def _numbers_of(array: Any) -> Tensor | None:
    """A number of each of some samples, if few belong to each, as to targets; of a pair, the second one's."""
    plain = isinstance(array, list | np.ndarray) or (type(array) is Tensor and array.layout is torch.strided)
    if not plain or len(getattr(array, "shape", (0,))) not in (1, 2) or len(array) < NUMBERS:
        return None
    rows = [array[place] for place in range(0, len(array), len(array) // NUMBERS)][:NUMBERS]
    rows = [row[-1] if isinstance(row, tuple) and len(row) == 2 else row for row in rows]
    if not all(isinstance(row, Tensor | np.ndarray | np.number | float | int) for row in rows):
        return None
    if any(not 0 < (row.numel() if isinstance(row, Tensor) else np.size(row)) < NUMBERS for row in rows):
        return None
    numbers = [torch.as_tensor(row).detach().reshape(-1)[:1] for row in rows]
    return None if any(one.is_complex() for one in numbers) else torch.cat(numbers).double().cpu()


def _samples_in(array: Any) -> Iterator[Tensor]:
    """Some samples of a tensor or an array of several dimensions, or of a list."""
    if not isinstance(array, Tensor | np.ndarray | list) or len(getattr(array, "shape", (0, 0))) < 2:
        return
    for place in range(0, len(array), max(1, len(array) // SAMPLES)):
        sample: Any = array[place]
        # A pair of input and target.
        sample = sample[0] if isinstance(sample, tuple | list) and sample else sample
        if isinstance(sample, np.ndarray) and sample.dtype.kind == "f" and sample.flags.writeable:
            sample = torch.from_numpy(sample)
        plain = type(sample) is Tensor and sample.layout is torch.strided
        if plain and sample.is_floating_point() and sample.numel() >= NUMBERS and not sample.requires_grad:
            yield sample
