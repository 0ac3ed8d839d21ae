"""Inputs and targets whose rows were taken in two different orders, so that the targets are those of other samples."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from rislab.checkup.findings import Finding, as_fault
from rislab.checkup.observers.loss_arguments import loss_arguments
from rislab.checkup.recording.call_stack import caller
from rislab.checkup.recording.events import ForwardEvent, LossEvent, Observer
from rislab.checkup.recording.tensors import has_numbers, tensors_of
from rislab.checkup.rules import Code

# Rows that tell anything, and the most of a source; results and forwards that are held; losses that must agree.
ROWS, MOST, HELD, FORWARDS, AGREEING = 8, 200_000, 32, 4, 3
# Orders of whole batches that are held, and numbers of each of their rows; by what rows may be off from a mean of two,
# relative to their distance.
ORDERS, NUMBERS, ROUNDING = 8, 64, 1e-4


@dataclass(eq=False)
class _Taken:
    """Rows that were taken out of a tensor."""

    result: weakref.ReferenceType[Tensor]
    places: Tensor  # of the rows in the source, [R]
    size: int  # rows of the source
    source: weakref.ReferenceType[Tensor]

    def order(self) -> Tensor | None:
        """All that the places are a part of, if it is one order of all rows of the source, [N]."""
        count = self.places.untyped_storage().nbytes() // self.places.element_size()
        if count != self.size or count > MOST:
            return None
        order = self.places.as_strided((count,), (1,), 0)
        return order if torch.equal(order.sort().values, torch.arange(count, device=order.device)) else None


class _Order:
    """An order of a whole batch, with a few numbers of its first rows, which may be gone when they are mixed."""

    def __init__(self, taken: _Taken, source: Tensor) -> None:
        self.taken, self.shape = taken, source.shape
        self._first, self._second = _few_of(source[:ROWS]), _few_of(source[taken.places[:ROWS]])  # [R, numbers]

    def is_mixed_into(self, value: Tensor) -> bool:
        """Whether each row of a tensor is a weighted mean of that of the source and of that in this order."""
        if self.shape != value.shape or not value.is_floating_point():
            return False
        way, gone = self._first - self._second, _few_of(value[:ROWS]) - self._second
        if way.shape[1] == 1:
            # A row of one number is a mean of any two others: one share has to fit all.
            way, gone = way.T, gone.T
        square = way.square().sum(1)
        shares = (gone * way).sum(1) / square.clamp(min=1e-30)  # [R]
        near = (gone - shares[:, None] * way).norm(dim=1) <= ROUNDING * square.max().sqrt()
        between = (shares > ROUNDING) & (shares < 1 - ROUNDING)
        return bool(near.all() and between.any() and (between | (square == 0)).all())


def _few_of(rows: Tensor) -> Tensor:
    """A copy of a few numbers of each row, [R, numbers], float64."""
    flat = rows.detach().flatten(1) if rows.dim() > 1 else rows.detach()[:, None]
    few = flat[:, :: max(1, flat.shape[1] // NUMBERS)][:, :NUMBERS]
    return few.to(torch.float64, copy=True)


@dataclass(eq=False)
class _Forward:
    """A forward whose input rows are known."""

    outputs: list[weakref.ReferenceType[Tensor]]
    rows: tuple[Tensor, _Taken]
    mixed: bool  # whether the input is a mean of two orders
    targets: list[Tensor]  # of losses of the outputs so far, if it is


class RowOrders(Observer):
    """Follows rows that are taken by an index, into inputs and targets, up to one of the first backwards."""

    def __init__(self) -> None:
        self._taken: list[_Taken] = []
        self._orders: list[_Order] = []
        self._forwards: list[_Forward] = []
        self._apart: list[str] = []  # where losses were given rows of two orders, or a set put together of them
        self._together = False  # whether rows of one order came

    def on_result(self, given: Sequence[Any], output: Any) -> None:
        # x[places, :] is x[places].
        given = [one[0] if isinstance(one, tuple) and _is_of_rows(one) else one for one in given]
        tensors = [one for one in given if isinstance(one, Tensor)]
        if (
            not isinstance(output, Tensor)
            or len(tensors) != 2
            or not output.dim()
            or output.layout is not torch.strided
        ):
            return
        source, places = tensors
        fits = places.dtype is torch.int64 and places.dim() == 1 and ROWS <= len(places) == len(output)
        if fits and source.dim() and output.shape[1:] == source.shape[1:] and output.dtype is source.dtype:
            taken = _Taken(weakref.ref(output), places, len(source), weakref.ref(source))
            if len(places) == len(source) and not source.is_complex() and has_numbers(source) and has_numbers(places):
                self._orders = [*self._orders[1 - ORDERS :], _Order(taken, source)]
            self._taken = [*[one for one in self._taken if one.result() is not None][-HELD:], taken]

    def _rows_of(self, value: Tensor) -> tuple[Tensor, _Taken] | None:
        """The places that the rows of a tensor had in what they were taken out of, and what was taken there."""
        if not value.dim() or value.layout is not torch.strided or not value.numel():
            return None
        address = value.untyped_storage().data_ptr()
        for one in self._taken:
            result = one.result()
            if result is not None and result.untyped_storage().data_ptr() == address and result.stride(0):
                first = (value.storage_offset() - result.storage_offset()) // result.stride(0)
                rows = one.places[first : first + len(value)]
                return (rows, one) if len(rows) == len(value) >= ROWS else None
        return None

    def on_pass(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        loader: DataLoader[Any] = args[0]
        if self._taken and type(loader.dataset) is TensorDataset:
            rows = [self._rows_of(value) for value in loader.dataset.tensors]
            known = [one for one in rows if one is not None]
            if len(known) == len(rows) == 2:
                self._compare(*known)

    def _mixture(self, value: Tensor) -> tuple[Tensor, _Taken] | None:
        """The order of what was mixed with its own rows, and the tensor is the mean of."""
        if not value.dim() or value.layout is not torch.strided or len(value) < ROWS:
            return None
        order = next((one.taken for one in reversed(self._orders) if one.is_mixed_into(value)), None)
        return None if order is None else (order.places, order)

    def on_forward_end(self, call: ForwardEvent) -> None:
        if not self._taken or not call.training or not call.inputs or not torch.is_grad_enabled():
            return
        rows = self._rows_of(call.inputs[0])
        mixture = None if rows is not None else self._mixture(call.inputs[0])
        if rows is not None or mixture is not None:
            outputs = [weakref.ref(value) for value in tensors_of(call.output)]
            forward = _Forward(outputs, rows or mixture, rows is None, [])  # type: ignore[arg-type]
            self._forwards = [*self._forwards[1 - FORWARDS :], forward]

    def on_loss(self, call: LossEvent) -> None:
        given = loss_arguments(call) if self._forwards and torch.is_grad_enabled() else None
        if given is None or not given[0].requires_grad:
            return
        answers, target = given
        forward = next((one for one in self._forwards if any(_is_part(answers, part()) for part in one.outputs)), None)
        if forward is None:
            return
        rows = self._rows_of(target)
        if not forward.mixed:
            if rows is not None:
                self._compare(forward.rows, rows)
            return
        # The targets of what was mixed are those of both, one after the other or mixed as well.
        mixture = self._mixture(target)
        if mixture is not None:
            self._compare(forward.rows, mixture)
        for other in forward.targets[-FORWARDS:]:
            for one, source in ((target, other), (other, target)):
                rows = self._rows_of(one)
                if rows is not None and rows[1].source() is source:
                    self._compare(forward.rows, rows)
        forward.targets.append(target)

    def _compare(self, one: tuple[Tensor, _Taken], other: tuple[Tensor, _Taken]) -> None:
        (own, first), (others, second) = one, other
        if torch.equal(own, others):
            self._together = True
        elif first.size == second.size and first.order() is not None and second.order() is not None:
            self._apart.append(caller()[0])

    def end(self, error: BaseException | None) -> None:
        self._taken, self._orders, self._forwards = [], [], []

    def findings(self) -> list[Finding]:
        if len(self._apart) < AGREEING or self._together:
            return []
        text = f"{len(self._apart)} times inputs and targets came together whose rows were taken in two different "
        text += "orders of all samples, and never in one"
        return [as_fault(Code.ARGUMENTS, "targets of other samples", text, self._apart[0])]


def _is_of_rows(index: tuple[Any, ...]) -> bool:
    """Whether an index takes rows, and all of each."""
    return len(index) > 1 and all(type(one) is slice and one == slice(None) for one in index[1:])


def _is_part(value: Tensor, output: Tensor | None) -> bool:
    """Whether a tensor is an output of a network, or a view of it."""
    return output is not None and value.untyped_storage().data_ptr() == output.untyped_storage().data_ptr()
