"""Terms of one loss that count the samples in different ways: a sum over all of them beside a mean over all numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.autograd.graph import Node

from rislab.checkup.findings import Finding, as_warning
from rislab.checkup.observers.loss_arguments import loss_arguments
from rislab.checkup.recording.averaged_losses import reduction_of
from rislab.checkup.recording.call_stack import caller
from rislab.checkup.recording.events import LossEvent, Observer, Roots
from rislab.checkup.recording.interception import BACKWARDS, ELEMENTS
from rislab.checkup.recording.loss_graph import factors, product_of_factors, summands
from rislab.checkup.rules import Code

# Backwards that must agree; numbers of a sample; means that are held; a weight that nobody chose is no smaller.
AGREEING, NUMBERS, MEANS, WEIGHT = 8, 4, 16, 0.5


@dataclass(eq=False)
class SumsBesideMeans(Observer):
    """Looks at the terms of the first losses that backward() is called on."""

    _means: dict[Node, tuple[int, int]] = field(default_factory=dict)  # of losses: samples, and all numbers
    _backwards: int = 0
    _texts: dict[str, list[str]] = field(default_factory=dict)  # by file and line
    _others: bool = False  # whether a loss had no such terms

    def on_loss(self, call: LossEvent) -> bool:
        given, output = loss_arguments(call), call.output
        mean = call.function in ELEMENTS and reduction_of(call.kwargs) == "mean"
        if mean and given is not None and isinstance(output, Tensor) and output.grad_fn is not None:
            shape = given[0].shape
            if len(shape) > 1 and shape.numel() >= NUMBERS * shape[0] and shape[0] > 1:
                self._means = {} if len(self._means) >= MEANS else self._means
                self._means[output.grad_fn] = shape[0], shape.numel()
        return self._backwards >= BACKWARDS

    def on_backward(self, roots: Roots) -> bool:
        self._backwards += 1
        means, self._means = self._means, {}
        root = roots[0][0].grad_fn if len(roots) == 1 else None
        if root is not None and (means or self._texts):
            terms = [(term, [*factors(term)][-1]) for term in summands([*factors(root)][-1])]
            own = [means[last] for term, last in terms if last in means and abs(product_of_factors(term)) <= 1]
            sums = [(product_of_factors(term), _summed(last)) for term, last in terms]
            texts = [
                f"{abs(weight):.3g} times a sum over {samples} samples of {count // samples} numbers is added to a "
                f"mean over all {numbers} numbers of the same samples"
                for samples, numbers in own[:1]
                for weight, count in ((weight, shape[1]) for weight, shape in sums if shape[0] == samples)
                if abs(weight) >= WEIGHT
            ]
            self._others |= not texts
            if texts:
                self._texts.setdefault(caller()[0], []).append(texts[0])
        return self._backwards >= BACKWARDS

    def end(self, error: BaseException | None) -> None:
        self._means = {}

    def findings(self) -> list[Finding]:
        results = []
        for where, texts in self._texts.items():
            if len(texts) >= AGREEING and not self._others:
                text = f"in all {len(texts)} backwards that were looked at, {texts[-1]}"
                results.append(as_warning(Code.GRADIENT_SCALE, "a sum beside a mean", text, where))
        return results


def _summed(node: Node) -> tuple[int, int]:
    """Samples and numbers of what a node is the sum of; 0 of both if it is none of rows."""
    sizes: Sequence[Any] = getattr(node, "_saved_self_sym_sizes", ()) if node.name().startswith("SumBackward0") else ()
    if len(sizes) < 2:
        return 0, 0
    return int(sizes[0]), math.prod(map(int, sizes))
