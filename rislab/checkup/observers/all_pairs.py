"""What is computed of all pairs, where a column met a row, and sums at repeated places that lose their terms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node

from rislab.checkup.findings import Finding, as_fault, as_warning
from rislab.checkup.observers.occurrences import AGREEING, Occurrences
from rislab.checkup.recording.events import ForwardEvent, Observer, Roots
from rislab.checkup.recording.interception import BACKWARDS
from rislab.checkup.recording.loss_graph import nodes_behind, sources_of
from rislab.checkup.recording.tensors import MarkedTensors
from rislab.checkup.rules import Code

# Nodes of a graph that are gone through, and rows that are all pairs of a batch.
NODES, SQUARE = 2000, 4
# Scores that must agree; products and comparisons of pairs that are held between backwards.
SCORES, HELD = 2, 16


class AllPairs(Observer):
    """Looks at what is computed of a column and a row, up to one of the first backwards."""

    of_first_backwards = True

    def __init__(self) -> None:
        self._answers: set[int] = set()  # lengths of the columns that networks gave without a gradient
        self._trained: set[int] = set()  # lengths of the columns and rows that they gave since the last backward
        self._products: dict[Node | None, int] = {}  # of all pairs, with the length of the column
        self._differences: dict[Node, int] = {}  # the same
        self._compared = MarkedTensors(HELD)
        self._multiplied, self._scored, self._lost, self._subtracted = (Occurrences() for _ in range(4))

    def on_forward_end(self, call: ForwardEvent) -> None:
        """Remember how many answers a network gave in a column."""
        if not isinstance(call.output, Tensor) or call.output.shape[1:] not in ((), (1,)) or not call.output.dim():
            return
        if torch.is_grad_enabled():
            self._trained.add(len(call.output))
        elif call.output.dim() == 2:
            self._answers.add(len(call.output))

    def on_result(self, given: Sequence[Any], output: Any) -> None:
        """A product or a comparison of all pairs of a column and a row, or a number that is computed of comparisons."""
        tensors = [one for one in given if isinstance(one, Tensor)]
        rows = (self._compared.of(tensors[0]) or 0) if len(tensors) == 1 else 0
        follows = rows > 0
        if follows and (isinstance(output, float) or (isinstance(output, Tensor) and not output.dim())):
            self._scored.note(_of_pairs(rows))
        if not isinstance(output, Tensor) or output.dim() != 2:
            return
        if not follows:
            rows = _pairs_of(given)
            if rows and output.requires_grad and output.grad_fn is not None:
                kind = output.grad_fn.name()
                if kind.startswith("MulBackward") and len(self._products) < HELD:
                    self._products[output.grad_fn] = rows
                # The other side is a target only if it carries no gradient.
                targets = rows in self._trained and not all(one.requires_grad for one in tensors)
                if kind.startswith(("SubBackward", "RsubBackward")) and targets and len(self._differences) < HELD:
                    self._differences[output.grad_fn] = rows
                return
            follows = rows in self._answers and (output.dtype is torch.bool or _is_difference(given, output))
        if follows and not output.requires_grad:
            self._compared.mark(output, rows)

    def on_backward(self, roots: Roots) -> None:
        products, self._products = self._products, {}
        self._compared.clear()
        differences, self._differences, self._trained = self._differences, {}, set()
        if len(roots) != 1 or roots[0][0].grad_fn is None:
            return
        for node in nodes_behind(roots[0][0].grad_fn, NODES):
            if node.name().startswith("IndexPutBackward") and (places := _written_twice(node)):
                text = f"x[places] += values was computed, of {places[0]} values with a gradient at {places[1]} places"
                self._lost.note(text)
                continue
            if rows := differences.get(node, 0):
                text = f"a difference of a column ({rows}, 1) and {rows} numbers, of which a network gave one and the "
                self._subtracted.note(f"{text}other carries no gradient, has the shape ({rows}, {rows})")
            elif node.name() in ("MeanBackward0", "SumBackward0") and (rows := products.get(_reduced(node), 0)):
                text = (
                    f"the products of a column ({rows}, 1) and {rows} numbers are {rows} x {rows}, of all pairs, and "
                )
                self._multiplied.note(f"{text}one number is made of them: it is the product of two means")

    def findings(self) -> list[Finding]:
        results = []
        if self._multiplied.count >= AGREEING:
            where = self._multiplied.where
            results.append(as_fault(Code.ARGUMENTS, "arguments that broadcast", str(self._multiplied), where))
        if self._subtracted.count >= AGREEING:
            # Samples that a network draws may well be compared with all of the data.
            text = f"{self._subtracted}: all pairs are compared"
            results.append(as_warning(Code.ARGUMENTS, "arguments that broadcast", text, self._subtracted.where))
        if self._scored.count >= SCORES:
            text, where = f"{self._scored.count} times {self._scored.text}", self._scored.where
            results.append(as_fault(Code.ARGUMENTS, "arguments that broadcast", text, where))
        if self._lost.count >= AGREEING:
            text = f"{self._lost}: of those at one place one alone is added"
            results.append(as_fault(Code.LOSSES, "sums that keep one of their terms", text, self._lost.where))
        return results


class EvaluatedPairs(Observer):
    """Looks at what the answers of evaluations are compared with, once AllPairs does so no more."""

    def __init__(self) -> None:
        self._rows = self._backwards = 0  # length of the column that the last forward gave, 0 if it is none of these
        self._scored = Occurrences()
        self._differ = False  # whether a column was another one than its row

    def on_backward(self, roots: Roots) -> bool:
        self._backwards += 1
        return self._backwards >= BACKWARDS

    def on_forward_end(self, call: ForwardEvent) -> None:
        column = isinstance(call.output, Tensor) and call.output.dim() == 2 and call.output.shape[1] == 1
        self._rows = len(call.output) if column and not torch.is_grad_enabled() else 0

    def on_comparison(self, given: Sequence[Any], output: Any) -> None:
        late = self._rows and self._backwards >= BACKWARDS
        if late and _shapes_of_pairs(given) == self._rows and not any(map(_is_count, given)):
            self._scored.note(_of_pairs(self._rows))
            self._differ |= _pairs_of(given) > 0

    def findings(self) -> list[Finding]:
        if self._scored.count < AGREEING or not self._differ:
            return []
        # What is made of the comparison is not seen: it may be a mask of pairs.
        text, where = f"{self._scored.count} times {self._scored.text}", self._scored.where
        return [as_warning(Code.ARGUMENTS, "arguments that broadcast", text, where)]


def _of_pairs(rows: int) -> str:
    return f"a column ({rows}, 1) was compared with {rows} numbers: the score counts {rows} x {rows} pairs"


def _is_count(value: Tensor) -> bool:
    """Whether a tensor numbers the classes, 0, 1, 2, …, as answers are compared with all of them."""
    flat = value.detach().flatten()
    return torch.equal(flat, torch.arange(len(flat), dtype=flat.dtype, device=flat.device))


def _is_difference(given: Sequence[Any], output: Tensor) -> bool:
    """Whether a result is the difference of a column and a row."""
    one, other = given
    return torch.equal(output, one - other)


def _shapes_of_pairs(given: Sequence[Any]) -> int:
    """The length of a column and of a row that two tensors are; 0 if they are none."""
    if len(given) != 2 or not all(isinstance(one, Tensor) for one in given):
        return 0
    row, column = sorted(given, key=Tensor.dim)
    rows = column.shape[0] if column.dim() == 2 else 0
    return rows if rows >= SQUARE and row.shape == (rows,) and column.shape == (rows, 1) else 0


def _pairs_of(given: Sequence[Any]) -> int:
    """The length of a column and of a row, of other numbers, that two tensors are; 0 if they are none."""
    rows = _shapes_of_pairs(given)
    if not rows:
        return 0
    row, column = sorted(given, key=Tensor.dim)
    return 0 if torch.equal(row, column.squeeze(1).to(row.dtype)) else rows


def _reduced(node: Node) -> Node | None:
    """What a mean or a sum over all elements is taken of, below a sign."""
    source = next(iter(sources_of(node)), None)
    return next(iter(sources_of(source)), None) if source is not None and source.name() == "NegBackward0" else source


def _written_twice(node: Node) -> tuple[int, int] | None:
    """How many values with a gradient are added at how many places by x[places] += values, None if it loses none."""
    values = node.next_functions[-1][0]
    if node._saved_accumulate or values is None or not values.name().startswith("AddBackward"):  # type: ignore[attr-defined]
        return None
    indices = [one for one in node._saved_indices if one is not None]  # type: ignore[attr-defined]
    # The first of the sum is what was there, the second what is added to it.
    added = values.next_functions[1:]
    if len(indices) != 1 or indices[0].dtype is torch.bool or not added or added[0][0] is None:
        return None
    places = len(indices[0].unique())
    return (indices[0].numel(), places) if places < indices[0].numel() else None
