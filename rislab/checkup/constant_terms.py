"""Terms of a loss that carry no gradient, and that are no constants either: they were to train something."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from torch import Tensor
from torch.autograd.graph import Node

from rislab.checkup.call_stack import caller
from rislab.checkup.events import Observer, Roots
from rislab.checkup.findings import Finding, as_warning
from rislab.checkup.interception import BACKWARDS
from rislab.checkup.loss_graph import sources_of, weighed_node
from rislab.checkup.rules import Code

# Backwards of one line that must agree; sums between two of them that are held; nodes of a loss that are gone through;
# spread of a term that is no constant.
AGREEING, HELD, NODES, SPREAD = 6, 8, 64, 1e-4
_SUMS = ("AddBackward", "SubBackward")


@dataclass
class _Place:
    """What backwards of one line have shown.

    Args:
        where: file and line.
        terms: values of the terms without a gradient, for each backward.
    """

    where: str
    terms: list[list[float]] = field(default_factory=list)


class ConstantTerms(Observer):
    """Looks at the sums behind the first backwards."""

    def __init__(self) -> None:
        self._sums: dict[Node, Tensor] = {}  # what carries no gradient, by the node of the sum
        self._places: dict[tuple[str, ...], _Place] = {}
        self._backwards = 0

    def on_sum(self, given: Sequence[Any], output: Tensor) -> None:
        """A number was computed as a sum."""
        tensors = [value for value in given if isinstance(value, Tensor)]
        constants = [value for value in tensors if not value.requires_grad]
        if len(tensors) == 2 and len(constants) == 1 and output.grad_fn is not None:
            # Each holds the graph behind it, of which no backward may ever come.
            self._sums = {} if len(self._sums) >= HELD else self._sums
            self._sums[output.grad_fn] = constants[0].detach().clone()

    def on_backward(self, roots: Roots) -> None:
        """A backward begins."""
        self._backwards += 1
        if self._backwards >= BACKWARDS:
            self._sums = {}
            return
        root = roots[0][0] if len(roots) == 1 else None
        if root is None or root.grad_fn is None:
            return
        where, stack = caller()
        terms = [float(self._sums[node]) for node in _sums_behind(root) if node in self._sums]
        self._sums = {}
        self._places.setdefault(stack, _Place(where)).terms.append(terms)

    def end(self, error: BaseException | None) -> None:
        """Hold no graphs."""
        self._sums = {}

    def findings(self) -> list[Finding]:
        """One for each line of a backward."""
        results = []
        for place in self._places.values():
            numbers = {len(terms) for terms in place.terms}
            if len(place.terms) < AGREEING or len(numbers) > 1:
                continue
            for values in zip(*place.terms, strict=True):
                low, high = min(values), max(values)
                if high - low > SPREAD * max(abs(low), abs(high)):
                    text = f"in all {len(values)} backwards that were looked at, a term of {low:.4g} to {high:.4g} is "
                    text += "added to the loss that carries no gradient: 0 of it trains anything"
                    results.append(as_warning(Code.LOSSES, "a term of the loss trains nothing", text, place.where))
        return results[:1]


def _sums_behind(root: Tensor) -> Iterator[Node]:
    """The sums that a loss consists of."""
    waiting = [weighed_node(root, ())]
    for _ in range(NODES):
        node = waiting.pop() if waiting else None
        if node is None:
            return
        if node.name().startswith(_SUMS):
            yield node
            waiting += sources_of(node)
        elif node.name().startswith(("MulBackward", "DivBackward", "NegBackward")):
            waiting += islice(sources_of(node), 1)
