"""Terms that cannot be meant: a ratio of one policy to itself, a norm at each pixel, all pairs, sums that cancel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor
from torch.autograd.graph import Node
from torch.optim.optimizer import Optimizer

from rislab.checkup.findings import Finding, as_warning
from rislab.checkup.recording.call_stack import caller
from rislab.checkup.recording.events import ForwardEvent, Observer, Roots
from rislab.checkup.recording.looks import Looks
from rislab.checkup.recording.loss_graph import nodes_behind, sources_of
from rislab.checkup.rules import Code

# Nodes of a graph that are gone through, and backwards that must agree.
NODES, AGREEING = 2000, 3
# Dimensions of samples, channels and at least two of space.
IMAGE = 4
# So many rows and columns are all pairs of a batch.
SQUARE = 4


@dataclass
class _Pattern:
    """What backwards have shown: in how many, where first, and what."""

    count: int = 0
    text: str = ""
    where: str = ""

    def note(self, text: str) -> None:
        """One more."""
        self.count, self.text, self.where = self.count + 1, text, self.where or caller()[0]

    def __str__(self) -> str:
        return f"in {self.count} backwards {self.text}"


class GraphPatterns(Observer):
    """Goes through the graphs of the first backwards, then of ever fewer.

    What a node keeps for its backward is read by the attributes that torch documents, whose names begin with _saved.
    """

    def __init__(self) -> None:
        self._looks = Looks()
        self._inputs: tuple[int, ...] = ()
        self._before: tuple[int, ...] = ()  # inputs of the step before
        self._others = self._again = 0  # ratios that were not 1, and ratios of 1 after a step on the same inputs
        self._differentiated: list[torch.Size] = []
        self._columns: set[int] = set()  # lengths of the columns that networks gave since the last backward
        self._ratios, self._norms, self._pairs, self._cancelled = (_Pattern() for _ in range(4))

    def on_forward_end(self, call: ForwardEvent) -> None:
        """Remember where the input of the last forward is."""
        if torch.is_grad_enabled() and isinstance(call.output, Tensor) and call.output.shape[1:] == (1,):
            self._columns.add(len(call.output))
        if torch.is_grad_enabled() and (first := next(iter(call.inputs), None)) is not None:
            self._inputs = (first.data_ptr(), *first.shape)

    def on_grad(self, sources: Sequence[Tensor]) -> None:
        """Remember the shapes of what a loss is differentiated by."""
        self._differentiated = [value.shape for value in islice(sources, IMAGE) if value.dim() >= IMAGE]

    def on_backward(self, roots: Roots) -> None:
        shapes, self._differentiated = self._differentiated, []
        columns, self._columns = self._columns, set()
        if len(roots) != 1 or roots[0][0].grad_fn is None or not self._looks.wanted("backward"):
            return
        cancelled = False
        for node in nodes_behind(roots[0][0].grad_fn, NODES):
            kind = node.name()
            cancelled |= _cancels(node)
            if kind.startswith("ExpBackward") and _is_ratio(node):
                if bool((node._saved_result == 1).all()):  # type: ignore[attr-defined]
                    self._ratios.note("the ratio exp(new - old) was 1 for all samples")
                    self._again += self._inputs == self._before
                else:
                    self._others += 1
            elif columns and kind.startswith(("PowBackward", "AbsBackward")) and (rows := _all_pairs(node)) in columns:
                text = f"a difference of a column ({rows}, 1) that a network gave and {rows} numbers without "
                self._pairs.note(f"{text}a gradient has the shape ({rows}, {rows})")
            elif shapes and kind.startswith("LinalgVectorNormBackward"):
                shape, dims = node._saved_self.shape, getattr(node, "_saved_dim", None)  # type: ignore[attr-defined]
                if shape in shapes and dims is not None and tuple(dims) == (1,):
                    text = f"the norm of a gradient of shape {tuple(shape)} is taken over dimension 1 alone: "
                    self._norms.note(f"{text}{shape[2:].numel()} norms a sample")
        if cancelled:
            self._cancelled.note("z + (q - z) was computed, with a gradient in both places of z")

    def after_step(self, optimizer: Optimizer) -> None:
        self._before = self._inputs

    def count_steps(self, optimizer: Optimizer, steps: int) -> None:
        """The inputs of the last step are not known."""
        self._before = ()

    def findings(self) -> list[Finding]:
        results = []
        if self._cancelled.count >= AGREEING:
            text = f"{self._cancelled}: they cancel each other, and what is computed of the sum does not train z"
            results.append(as_warning(Code.LOSSES, "straight-through without detach", text, self._cancelled.where))
        if self._pairs.count >= AGREEING:
            text = f"{self._pairs}: all pairs are compared"
            results.append(as_warning(Code.ARGUMENTS, "arguments that broadcast", text, self._pairs.where))
        if self._again >= AGREEING and not self._others:
            text = f"{self._ratios}, in {self._again} of them after a step on the same inputs: old is computed by the "
            text += "network that is trained"
            results.append(as_warning(Code.LOSSES, "ratio always 1", text, self._ratios.where))
        if self._norms.count >= AGREEING:
            norms = self._norms
            results.append(as_warning(Code.LOSSES, "gradient penalty per position", norms.text, norms.where))
        return results


def _cancels(node: Node) -> bool:
    """Whether something is z + (q - z), or q with z added and taken away in another order."""
    given = node.next_functions
    if not node.name().startswith(("AddBackward", "SubBackward")) or len(given) != 2:
        return False
    added = node.name().startswith("Add")
    for own, other in (given, given[::-1]) if added else (given,):
        inner = other[0]
        if own[0] is not None and inner is not None and inner.name().startswith("SubBackward"):
            # z + (q - z), and z - (z - q).
            taken = inner.next_functions[1 if added else 0]
            weights = (getattr(one, "_saved_alpha", 1) for one in (node, inner))
            if taken == own and all(weight == 1 for weight in weights):
                return True
    return False


def _is_ratio(node: Node) -> bool:
    """Whether something is exp(new - old), where old carries no gradient."""
    source = next(iter(sources_of(node)), None)
    if source is None or not source.name().startswith("SubBackward") or len(source.next_functions) != 2:
        return False
    return source.next_functions[0][0] is not None and source.next_functions[1][0] is None


def _all_pairs(node: Node) -> int:
    """How many rows and columns the square of a difference has, of which one side carries no gradient; else 0."""
    source = next(iter(sources_of(node)), None)
    if source is None or not source.name().startswith("SubBackward") or len(sources_of(source)) != 1:
        return 0
    try:
        shape = node._saved_self.shape  # type: ignore[attr-defined]
    except RuntimeError:  # changed in place
        return 0
    return int(shape[0]) if len(shape) == 2 and shape[0] == shape[1] >= SQUARE else 0
