"""Terms of a loss that carry no gradient, and were to train something: numbers that come from what is trained.

What comes from elsewhere may vary, as the entropy of a teacher does, and is right unless it is always 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from torch import Tensor
from torch.autograd.graph import Node
from torch.nn import Module
from torch.optim.optimizer import Optimizer

from rislab.checkup.findings import Finding, as_fault, as_warning
from rislab.checkup.recording.call_stack import caller
from rislab.checkup.recording.events import ForwardEvent, LossEvent, Observer, Roots
from rislab.checkup.recording.loss_graph import depends_on, sources_of, weighed_node
from rislab.checkup.recording.optimizers import tensors_held
from rislab.checkup.recording.tensors import MarkedTensors, tensors_of
from rislab.checkup.rules import Code

# Backwards of one line that must agree; sums between two of them that are held; nodes of a loss that are gone through;
# spread of a term that is no constant; relative error of a multiple.
AGREEING, HELD, NODES, SPREAD, EXACT = 6, 8, 64, 1e-4, 1e-5
# So many tensors and numbers between two backwards are followed.
FOLLOWED, NUMBERS = 4096, 64
_SUMS = ("AddBackward", "SubBackward")


@dataclass
class _Term:
    """A number that carries no gradient, and is added to a loss."""

    value: float  # itself
    trained: bool | None  # whether it comes from what is trained; None if from another network
    # Of each number that was read of what is trained; empty if it is a tensor.
    shares: list[float] = field(default_factory=list)
    of_loss: bool = False  # whether a loss of torch gave it
    of_gradients: bool = False  # whether it comes from what torch.autograd.grad() gave


@dataclass
class _Place:
    """What backwards of one line have shown."""

    where: str  # file and line
    terms: list[list[_Term]] = field(default_factory=list)  # those without a gradient, for each backward


class ConstantTerms(Observer):
    """Looks at the sums behind the first backwards, and at what their numbers were computed from."""

    of_first_backwards = True

    def __init__(self) -> None:
        self._sums: dict[Node, _Term] = {}  # what carries no gradient, by the node of the sum
        self._places: dict[tuple[str, ...], _Place] = {}
        self._trained: dict[int, Tensor] = {}  # what optimisers have stepped on
        # What carries no gradient, and comes from what is trained, or else from another network.
        self._followed = MarkedTensors(FOLLOWED)
        self._numbers: list[float] = []  # that were read of what is trained
        self._losses = MarkedTensors(FOLLOWED)  # that carry no gradient, and multiples of them
        self._asked: list[Tensor] = []  # for the gradients by which torch.autograd.grad() is asked
        self._gradients = MarkedTensors(FOLLOWED)  # that it gave, and what comes from them

    def _origin(self, given: Iterable[Any]) -> bool | None:
        """Whether numbers come from what is trained, None if from other networks, False if from neither."""
        other = False
        for value in tensors_of(given):
            trained = self._followed.of(value)
            if trained or (value.requires_grad and depends_on(value, self._trained.keys())):
                return True
            other |= trained is not None or value.requires_grad
        return None if other else False

    def on_loss(self, call: LossEvent) -> None:
        output = call.output
        if self._trained and isinstance(output, Tensor) and not output.requires_grad and not output.dim():
            self._losses.mark(output)

    def on_grad(self, outputs: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
        self._asked = [*sources] if self._trained else []

    def _is_of_gradients(self, given: Iterable[Any]) -> bool:
        return any(map(self._gradients.of, tensors_of(given)))

    def _follow_gradients(self, given: Sequence[Any], output: Any) -> None:
        answers = [*tensors_of(output)]
        shapes, self._asked = [one.shape for one in self._asked], []
        if [one.shape for one in answers] == shapes if shapes else self._is_of_gradients(given):
            for one in answers:
                if not one.requires_grad:
                    self._gradients.mark(one)

    def on_result(self, given: Sequence[Any], output: Any) -> None:
        if not self._trained:
            return
        if self._asked or self._gradients:
            self._follow_gradients(given, output)
        if isinstance(output, Tensor) and len(given) == 2 and any(map(self._losses.of, given)) and not output.dim():
            self._losses.mark(output)
        origin = self._origin(given)
        if isinstance(output, float):
            self._numbers += [output] if origin and len(self._numbers) < NUMBERS else []
        elif origin is not False:
            self._follow(output, bool(origin))

    def _follow(self, output: Any, trained: bool) -> None:
        for value in tensors_of(output):
            if not value.requires_grad:
                self._followed.mark(value, trained)

    def on_forward_end(self, call: ForwardEvent) -> None:
        """A network may give what carries no gradient."""
        if not self._trained:
            return
        constants = [value for value in tensors_of(call.output) if not value.requires_grad]
        own = [*Module.parameters(call.module)] if constants else []
        if own:
            # What a frozen network makes of an answer comes from what is trained all the same.
            trained = any(id(value) in self._trained for value in own) or self._origin(call.inputs) is True
            self._follow(constants, trained)

    def on_sum(self, given: Sequence[Any], output: Tensor) -> None:
        constants = [value for value in given if not (isinstance(value, Tensor) and value.requires_grad)]
        if not self._trained or len(given) != 2 or len(constants) != 1 or output.grad_fn is None:
            return
        # Each holds the graph behind it, of which no backward may ever come.
        self._sums = {} if len(self._sums) >= HELD else self._sums
        value = float(constants[0])
        shares = [] if isinstance(constants[0], Tensor) else [value / one for one in self._numbers if one]
        trained = bool(shares) or self._origin(constants)
        of_loss, of_gradients = bool(self._losses.of(constants[0])), self._is_of_gradients(constants)
        self._sums[output.grad_fn] = _Term(value, trained, shares, of_loss, of_gradients)

    def before_step(self, optimizer: Optimizer, closure: bool) -> None:
        """What is stepped on is trained."""
        self._trained |= {id(value): value for value in tensors_held(optimizer)}

    def on_backward(self, roots: Roots) -> None:
        sums, self._sums, self._numbers, self._asked = self._sums, {}, [], []
        for marked in (self._followed, self._losses, self._gradients):
            marked.clear()
        root = roots[0][0] if len(roots) == 1 else None
        if not self._trained or root is None or root.grad_fn is None:
            return
        where, stack = caller()
        terms = [sums[node] for node in _sums_behind(root) if node in sums]
        self._places.setdefault(stack, _Place(where)).terms.append(terms)

    def end(self, error: BaseException | None) -> None:
        self._sums, self._trained, self._asked = {}, {}, []

    def findings(self) -> list[Finding]:
        results = []
        for place in self._places.values():
            numbers = {len(terms) for terms in place.terms}
            if len(place.terms) < AGREEING or len(numbers) > 1:
                continue
            for terms in zip(*place.terms, strict=True):
                kind = as_warning
                low, high = min(term.value for term in terms), max(term.value for term in terms)
                if all(term.trained for term in terms) and high - low > SPREAD * max(abs(low), abs(high)):
                    if terms[0].shares and not _are_multiples(terms):
                        continue
                    text = f"a term of {low:.4g} to {high:.4g} is added to the loss that comes from what is trained, "
                    text += "and carries no gradient"
                    # Another number may be there to be seen; what is a loss, or a penalty on gradients, is to train.
                    of_loss, penalty = all(one.of_loss for one in terms), all(one.of_gradients for one in terms)
                    kind = as_fault if of_loss or penalty else as_warning
                    text += ", a loss of torch" if of_loss else ""
                    text += (
                        ", made of gradients that torch.autograd.grad() gave without create_graph" if penalty else ""
                    )
                elif all(term.trained is None and term.value == 0 for term in terms):
                    text = "a term that is computed from a network which is not trained is added to the loss, and is 0"
                else:
                    continue
                text = f"in all {len(terms)} backwards that were looked at, {text}: 0 of it trains anything"
                results.append(kind(Code.LOSSES, "a term of the loss trains nothing", text, place.where))
        return results[:1]


def _are_multiples(terms: Sequence[_Term]) -> bool:
    """Whether terms are one and the same multiple of a number that was read before each."""
    return any(
        all(any(abs(other - share) <= EXACT * abs(share) for other in term.shares) for term in terms)
        for share in terms[0].shares
    )


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
