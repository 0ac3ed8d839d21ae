"""A backward of the loop under way: which raw loss is in what it was called on, and how the loop weighs it."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor
from torch.autograd.graph import Node
from torch.utils.hooks import RemovableHandle

from rislab.checkup.recording.events import Roots
from rislab.checkup.recording.loss_graph import (
    divisions,
    factors,
    is_mean,
    is_sum,
    summands,
    tensors_behind,
    weighed_node,
)
from rislab.checkup.recording.own_operations import unobserved
from rislab.checkup.recording.trace import NO_WEIGHT, Backward, MicroBatch

# Makes a micro-batch of a loss, the number of its parts, and whether it is no mean.
NewMicroBatch = Callable[[Tensor, float | None, bool], MicroBatch]


@dataclass
class OpenBackward:
    """A backward under way."""

    record: Backward  # of it
    before: Tensor | None  # the gradients when it began, unscaled; None if the window is not compared
    missing: int  # number of tensors without a gradient when it began, 0 if the window is not compared
    root: MicroBatch | None = None  # the raw loss in what backward() was called on; None if the losses are declared
    factor: float = math.nan  # with which it stands there
    # Losses that it came to, each with the weight that the loop gave it.
    reached: list[tuple[MicroBatch, float]] = field(default_factory=list)
    _value: float | None = None  # of what backward() was called on
    _handles: list[RemovableHandle] = field(default_factory=list)
    _terms: list[list[float]] = field(default_factory=list)  # what arrives at the factors of each term
    _start: Node | None = None  # at which it begins
    _divisions: list[list[int]] = field(default_factory=list)  # which of the factors of each term are divisions

    def find_loss(
        self,
        roots: Roots,
        known: Mapping[Node, MicroBatch],
        new_micro_batch: NewMicroBatch,
        compared: bool,
    ) -> None:
        """Find the raw loss in what backward() was called on, and watch what weighs it.

        Those that were intercepted are `known`, by their nodes; new_micro_batch() makes one of a loss that was not.
        """
        root, upstream = roots[0]
        if len(roots) > 1 or root.numel() != 1 or root.grad_fn is None:
            self.root, self.factor = new_micro_batch(root, None, True), 1.0
            self._value = sum(_total(one, given) for one, given in roots)
            return
        node = weighed_node(root, known)
        self.root = None if node is None else known.get(node)
        if self.root is None:
            self.root = new_micro_batch(root, 1.0 if is_sum(node) else None, not is_mean(node))
            self.root.terms = 1 if node is None else len(summands(node))
            self._value = None if root.is_complex() else float(root.detach())
            self.factor = 1.0 if upstream is None or upstream.is_complex() else float(upstream)
            if node is not None and node is not root.grad_fn:
                self.watch(node, self._on_factor)
        if compared:
            self._watch_terms(root, upstream)

    def watch_losses(
        self,
        roots: Roots,
        nodes: Mapping[Node, MicroBatch],
        report: Callable[[MicroBatch, Sequence[Tensor | None], float], None],
    ) -> None:
        """Notice which losses, by their nodes, the backward comes to, and how the loop weighs them.

        report() is called with a loss, the gradients that come to it, and what stands for a missing one.
        """
        root, upstream = roots[0] if nodes and len(roots) == 1 else (None, None)
        node = None if root is None else weighed_node(root, nodes)
        self._start = roots[0][0].grad_fn if len(roots) == 1 else None
        if self.root is None and self.before is not None and root is not None and root.grad_fn is not None:
            self._watch_terms(root, upstream)
        if root is None or node is None or node not in nodes:
            for one, batch in nodes.items():
                self.watch(one, lambda given, batch=batch: report(batch, given, math.nan))
        elif node is not root.grad_fn:
            self.watch(node, lambda given: report(nodes[node], given, math.nan))
        elif not root.output_nr:
            report(nodes[node], [upstream], 1.0)

    def watch(self, node: Node, hook: Callable[..., None]) -> None:
        """Call a hook with the gradients of what a node gave, when the backward comes to it."""
        self._handles.append(node.register_prehook(hook))

    def _on_factor(self, upstream: Sequence[Tensor | None]) -> None:
        """The backward has come to the raw loss: its weight."""
        self.factor = number_of(upstream, self.factor)

    def _watch_terms(self, root: Tensor, upstream: Tensor | None) -> None:
        """Watch the factors of each term of a sum, or of a single loss."""
        start = root.grad_fn
        for term in () if start is None else summands(start):
            nodes, values = [*factors(term)], list[float]()
            self._terms.append(values)
            self._divisions.append(divisions(nodes))
            for node in nodes:
                if node is start and not root.output_nr:
                    # What comes to the root itself is known already.
                    values.append(1.0 if upstream is None else number_of([upstream]))
                else:
                    self.watch(node, lambda given, values=values: values.append(number_of(given)))

    def close(self, scale: float) -> None:
        """The backward is over: what it has shown of the loss that was found from it, at the scale of a scaler."""
        for handle in self._handles:
            handle.remove()
        batch = self.root
        if batch is None:
            for declared, _ in self.reached if len(self._terms) == 1 else ():
                declared.term_factors = self._factors(scale)
            return
        if self._value is not None:
            batch.loss = self._value / (self.factor or 1.0)
            batch.nonfinite = not math.isfinite(self._value)
        batch.term_factors = self._factors(scale)
        for values, places in zip(self._terms, self._divisions, strict=False):
            arrived = [*values, math.nan]
            divisors = tuple(arrived[place] / (arrived[place + 1] or math.nan) for place in places)
            batch.term_divisors += (divisors,)
        self.reached = [(batch, self.factor / scale)]

    def _factors(self, scale: float) -> tuple[tuple[float, ...], ...]:
        return tuple(tuple(value / scale for value in values) for values in self._terms)

    def adds_nothing(self, trained: Container[tuple[str, ...]], own: Container[int]) -> bool:
        """Whether gradients may stay as they are: for no weight, or, on trained lines, one of 0 or below rounding."""
        if not self.reached or not any(weight for _, weight in self.reached):
            return bool(self.reached)
        if self._start is None or any(batch.call_stack not in trained for batch, _ in self.reached):
            return False
        return any(id(value) in own for value in tensors_behind(self._start))

    def growth(self, after: Tensor, backwards: Sequence[Backward]) -> Tensor | None:
        """What it added to the gradients, None if there are others than when it began; of all, it alone keeps them."""
        for earlier in backwards:
            earlier.after = None
        self.record.after = after
        if self.before is None or after.shape != self.before.shape:
            return None
        return after if self.record.fresh else after - self.before

    def weigh_losses(self, growth: Tensor | None, finite: bool, why: str) -> int:
        """Give the losses that it came to their weights, and its growth unless it says why not; bytes held."""
        total = sum(weight for _, weight in self.reached)
        reason = "" if math.isfinite(total) else "its weight is no number"
        reason = (reason if total else NO_WEIGHT) or why
        gradient = None
        if growth is not None and not reason:
            gradient = growth if total == 1 else growth / total
        for batch, weight in self.reached:
            batch.backwards += 1
            batch.weight += weight
            batch.last = self.record
            batch.nonfinite |= not finite
            batch.why = batch.why or reason
            # Several losses with one backward share what it added.
            batch.gradient = gradient
        return 0 if gradient is None else gradient.nbytes


def _total(root: Tensor, upstream: Tensor | None) -> float:
    """What a backward differentiates, for a root of any shape."""
    value = root.detach() if upstream is None else root.detach() * upstream.detach()
    return math.nan if value.is_complex() else float(value.sum())


def number_of(given: Sequence[Tensor | None], missing: float = math.nan) -> float:
    """The first gradient that a node was given, if it is a single real number, else what stands for a missing one."""
    first = given[0] if given else None
    if first is None or first.numel() != 1 or first.is_complex():
        return missing
    return float(unobserved(False, first.item))
