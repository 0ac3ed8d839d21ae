"""Gradients that flow into what a loss is to take as given: its target, or the advantage of a policy's loss."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn import functional
from torch.optim.optimizer import Optimizer

from rislab.checkup.findings import Finding, as_fault, as_warning
from rislab.checkup.recording.call_stack import caller
from rislab.checkup.recording.events import ForwardEvent, Observer, Roots
from rislab.checkup.recording.looks import Looks
from rislab.checkup.recording.loss_graph import nodes_behind, sources_of, tensors_behind
from rislab.checkup.recording.optimizers import tensors_held
from rislab.checkup.rules import Code

# So many steps must agree; nodes of a graph near its root that are gone through.
AGREEING, NEAR = 3, 400
# Nodes among which it is looked for whether one side is computed from the other.
BEHIND = 4000
# So many products of a loss are looked at.
PRODUCTS = 32
# Tensors whose gradients tell whether they were zeroed.
WITNESSES = 3
# Answers of at least so many samples have one direction where so little of their length is not that of their mean, and
# so much less than at first.
SAMPLES, ONE_DIRECTION, FALLEN = 8, 0.03, 0.2
# So many networks are known.
NETWORKS = 64
# Nodes that compute a number for each sample from what networks gave.
_POINTWISE = (
    "Add", "Sub", "Rsub", "Mul", "Div", "Neg", "Exp", "LogBackward", "Pow", "Sqrt", "Abs", "Mean", "Sum", "Std", "Var",
    "Clamp", "Min", "Where", "ToCopy", "Clone", "Alias", "View", "UnsafeView", "Reshape", "Squeeze", "Unsqueeze",
    "Expand", "Permute", "Transpose", "TBackward", "Select", "Slice", "Stack", "Cat", "Unbind", "Split",
)  # fmt: skip
# Nodes that compute each number from one at its place.
_ELEMENTWISE = tuple(
    f"{name}Backward"
    for name in ("Add", "Sub", "Rsub", "Mul", "Div", "Neg", "Exp", "Log", "Pow", "Sqrt", "Abs", "Clamp")
)
_DISTANCES = ("MseLoss", "SmoothL1Loss", "L1Loss", "HuberLoss", "KlDiv", "CosineSimilarity")
_REGRESSIONS = ("MseLoss", "SmoothL1Loss", "HuberLoss", "L1Loss", "Pow")
_SAMPLED = ("Gather", "NllLoss", "BinaryCrossEntropyWithLogits")
_NORMS = ("LinalgVectorNorm", "Norm")


@dataclass(eq=False)
class _Suspect:
    """A backward that reached what it may be meant to take as given."""

    name: str  # of the finding
    where: str  # file and line
    stack: tuple[str, ...]  # files and lines that led there
    # By the identity of each tensor that each side of the loss depends on, the given one last.
    sides: list[dict[int, Tensor]]
    regressed: bool = True  # whether a loss of its own trains the given side
    apart: bool = False  # whether the given side has weights that the rest of the term has not
    directions: bool = False  # whether the two sides are compared by their directions alone

    def alive(self) -> bool:
        """Whether its gradients have not been zeroed."""
        some = sorted(self.sides[-1].values(), key=Tensor.numel)[:WITNESSES]
        return any(value.grad is not None and bool(value.grad.any()) for value in some)


@dataclass
class _Place:
    """What backwards of one line have shown: how many led to a step of which optimiser, and how many did not."""

    where: str
    label: str = ""
    steps: int = 0
    others: int = 0
    apart: bool = False
    directions: bool = False
    trained: frozenset[int] = frozenset()  # what both sides depend on


@dataclass
class LossBranches(Observer):
    """Looks at the graphs of the first backwards, and at whose step uses their gradients."""

    _looks: Looks = field(default_factory=Looks)
    _suspects: list[_Suspect] = field(default_factory=list)
    _places: dict[tuple[str, tuple[str, ...]], _Place] = field(default_factory=dict)
    _differentiated: bool = False  # whether a gradient was taken since the last backward
    _directions: bool = False  # whether any loss compares two answers by their directions
    # By the first weight of a network, and its number: how far its answers are from one direction, first and last.
    _spreads: dict[tuple[int, int], tuple[float, float]] = field(default_factory=dict)

    def on_look(self, call: ForwardEvent) -> None:
        given = call.output
        rows = isinstance(given, Tensor) and given.dim() == 2 and given.is_floating_point() and given.requires_grad
        if not rows or len(given) < SAMPLES or given.shape[1] < 2 or given.layout is not torch.strided:
            return
        weight = next(nn.Module.parameters(call.module), None)
        key = id(weight), call.network
        if key in self._spreads and not self._directions:
            return  # until directions are compared, the first one alone is needed
        if weight is None or (key not in self._spreads and len(self._spreads) >= NETWORKS):
            return
        mean = functional.normalize(given.detach().float(), dim=1).mean(0)
        now = 1 - float(mean.square().sum())
        self._spreads[key] = self._spreads.get(key, (now, now))[0], now

    def on_grad(self, outputs: object, sources: object) -> None:
        """A loss of gradients, as of a differential equation, has the network on both sides."""
        self._differentiated = True

    def on_backward(self, roots: Roots) -> None:
        differentiated, self._differentiated = self._differentiated, False
        self._suspects = [one for one in self._suspects if one.alive()]
        root = roots[0][0] if len(roots) == 1 else None
        if root is None or root.grad_fn is None or root.numel() != 1:
            return
        if not self._looks.wanted(root.grad_fn.name()):
            return
        where, stack = caller()
        near = [*_nodes_near(root.grad_fn)]
        for suspect in self._suspects:
            suspect.regressed |= _regresses(near, suspect.sides[-1])
        sides = None if differentiated else _two_trained_sides(root.grad_fn)
        if sides is not None:
            suspect = _Suspect("stop-gradient missing", where, stack, sides[0], directions=sides[1])
            self._suspects.append(suspect)
            self._directions |= suspect.directions
        else:
            self._place("stop-gradient missing", where, stack).others += 1
        advantage = _advantage(near)
        if advantage is not None:
            side, apart = advantage
            regressed = _regresses(near, side)
            self._suspects.append(_Suspect("advantage not detached", where, stack, [side], regressed, apart))

    def _place(self, name: str, where: str, stack: tuple[str, ...]) -> _Place:
        return self._places.setdefault((name, stack), _Place(where))

    def before_step(self, optimizer: Optimizer, closure: bool) -> None:
        """A step begins: on gradients of a suspect?"""
        if not self._suspects:
            return
        held = set(map(id, tensors_held(optimizer)))
        used = [one for one in self._suspects if all(held & side.keys() for side in one.sides) and one.alive()]
        for (name, stack), one in {(one.name, one.stack): one for one in used if one.regressed}.items():
            place = self._place(name, one.where, stack)
            place.apart, place.directions = one.apart, one.directions
            place.trained = frozenset(one.sides[0].keys() & one.sides[-1].keys())
            place.steps, place.label = place.steps + 1, f"{type(optimizer).__name__} of {len(held)} tensors"
        self._suspects = [one for one in self._suspects if one not in used]

    def findings(self) -> list[Finding]:
        results = []
        for (name, _), place in self._places.items():
            if place.steps < AGREEING or place.others:
                continue
            text = f"in {place.steps} steps of the {place.label}, "
            # A gradient of both answers may be meant, as in residual methods; a value that its own loss draws to the
            # return, and the policy's loss away from it, is not.
            kind = as_fault if place.apart else as_warning
            if name == "stop-gradient missing":
                text += "all terms of the loss compare two answers that it trains both: the target moves to the answer"
                text += " as well, and the loss is smallest where all inputs have one answer"
                # A training that is to bring answers together has something else that keeps them apart.
                before, after = self._spread(place) if place.directions else (0.0, 0.0)
                if 0 <= after < min(ONE_DIRECTION, FALLEN * before):
                    kind = as_fault
                    text += ", which they have come to: the share of them that is not their mean direction fell from "
                    text += f"{before:.2g} to {after:.2g}"
            else:
                text += "the policy's loss is log-probability times (return - value), and its gradient goes into the "
                text += "value too: what a regression trains, the policy's loss pushes away"
            results.append(kind(Code.LOSSES, name, text, place.where))
        return results

    def _spread(self, place: _Place) -> tuple[float, float]:
        """At first and at last, of the network on both sides whose answers differ most; 0 where none is known."""
        known = [spread for (weight, _), spread in self._spreads.items() if weight in place.trained]
        return max(known, key=lambda spread: spread[1], default=(0.0, 0.0))

    def end(self, error: BaseException | None) -> None:
        self._suspects = []


# Graphs.


def _is(node: Node, names: tuple[str, ...]) -> bool:
    return node.name().lstrip("_").startswith(names)


def _nodes_near(*starts: Node, through: tuple[str, ...] = _POINTWISE + _REGRESSIONS) -> Iterator[Node]:
    """These nodes, and those behind them through nodes of some kinds: by these, each sample keeps its number."""
    visited, waiting = {*starts}, deque(starts)
    while waiting and len(visited) < NEAR:
        node = waiting.popleft()
        yield node
        for source in sources_of(node) if _is(node, through) else ():
            if source not in visited:
                visited.add(source)
                waiting.append(source)


def _tensors_behind(*starts: Node) -> dict[int, Tensor]:
    """The tensors that nodes depend on, by identity; none if there are too many nodes."""
    tensors = [*tensors_behind(*starts)]
    complete = not tensors or tensors[-1] is not None
    return {id(value): value for value in tensors if value is not None} if complete else {}


def _two_trained_sides(root: Node) -> tuple[list[dict[int, Tensor]], bool] | None:
    """What both sides of all terms of a loss depend on, and whether all terms compare directions alone.

    None if one term is no comparison of two such answers.
    """
    directions = True
    sides: list[list[Node]] = [[], []]
    waiting, visited = [root], 0
    while waiting:
        node, over_features = waiting.pop(), False
        # Factors, means and sums over features.
        while _is(node, _POINTWISE) and not _is(node, ("Pow", "Sqrt", "Abs")) and len(sources_of(node)) == 1:
            over_features = _is(node, ("SumBackward1",)) or (over_features and not _is(node, ("Mean", "Sum")))
            node = sources_of(node)[0]
        visited += 1
        if visited > NEAR:
            return None
        if _is(node, ("Add", "Sub", "Stack", "Cat")) and len(sources_of(node)) > 1:
            waiting += sources_of(node)
            continue
        pair = _compared(node, over_features)
        # What is computed from the other side is its reconstruction, as in an autoencoder of samples that are made.
        if pair is None or any(one in nodes_behind(other, BEHIND) for one, other in (pair, pair[::-1])):
            return None
        if _answers(pair[0]) == _answers(pair[1]):
            return None  # two functions of the same numbers, as the odds of a probability
        directions &= _is(node, ("CosineSimilarity",)) or all(map(_is_normalised, pair))
        for side, one in zip(sides, pair, strict=True):
            side.append(one)
    tensors = [_tensors_behind(*side) for side in sides]
    return (tensors, directions) if all(tensors) else None


def _answers(start: Node) -> set[Node]:
    """What a node is computed from, number by number."""
    return {node for node in _nodes_near(start, through=_ELEMENTWISE) if not _is(node, _ELEMENTWISE)}


def _compared(node: Node, over_features: bool) -> list[Node] | None:
    """The two answers that a term compares, None if it is no such term."""
    sources = sources_of(node)
    if _is(node, _DISTANCES):
        return sources if len(sources) == 2 else None
    if _is(node, ("Pow", "Abs", *_NORMS)) and len(sources) == 1 and _is(sources[0], ("SubBackward",)):
        pair = sources_of(sources[0])
        return pair if len(pair) == 2 else None
    if not over_features or not _is(node, ("MulBackward",)) or len(sources) != 2:
        return None
    if all(_is_normalised(one) for one in sources):
        return sources
    kinds = [[one for one in sources if _is(one, (kind,))] for kind in ("Softmax", "LogSoftmax")]
    return sources if all(kinds) and sources_of(sources[0]) != sources_of(sources[1]) else None


def _is_normalised(node: Node) -> bool:
    """Whether something is divided by its norm."""
    sources = sources_of(node)
    return (
        _is(node, ("DivBackward",)) and len(sources) == 2 and any(_is(one, _NORMS) for one in _nodes_near(sources[1]))
    )


def _advantage(near: Iterable[Node]) -> tuple[dict[int, Tensor], bool] | None:
    """What a value depends on, if the log-probability of a sample is multiplied with (constant - value).

    With it, whether the log-probability does not depend on that.
    """
    products = [node for node in near if _is(node, ("MulBackward",)) and len(sources_of(node)) == 2]
    for node in products[:PRODUCTS]:
        sources = sources_of(node)
        behind = [[*_nodes_near(one)] for one in sources]
        sampled = [any(map(_is_log_probability, nodes)) for nodes in behind]
        if sampled.count(True) != 1:
            continue
        values = [value for one in behind[sampled.index(False)] for value in _subtracted(one)]
        if values:
            tensors = _tensors_behind(*values)
            own = _tensors_behind(sources[sampled.index(True)])
            alone = {key: value for key, value in tensors.items() if key not in own}
            return (alone or tensors, bool(alone)) if tensors else None
    return None


def _subtracted(node: Node) -> list[Node]:
    """What is subtracted from something that holds a constant, as a value from a return."""
    if not _is(node, ("SubBackward",)) or len(node.next_functions) != 2:
        return []
    first, second = (source for source, _ in node.next_functions)
    constant = first is None or (_is(first, ("AddBackward",)) and len(sources_of(first)) == 1)
    return [second] if constant and second is not None else []


def _is_log_probability(node: Node) -> bool:
    """Whether a node takes the log-probability of a sample that carries no gradient."""
    if _is(node, _SAMPLED):
        return True
    sources = sources_of(node)
    if _is(node, ("Index",)):
        return any(_is(one, ("LogSoftmax", "Log")) for one in sources)
    # The square in the density of a normal distribution.
    square = _is(node, ("Pow",)) and len(sources) == 1 and _is(sources[0], ("SubBackward",))
    return square and sources[0].next_functions[0][0] is None


def _regresses(near: Iterable[Node], tensors: dict[int, Tensor]) -> bool:
    """Whether a regression near the root trains one of some tensors."""
    regressions = [node for node in near if _is(node, _REGRESSIONS)]
    return bool(regressions) and not tensors.keys().isdisjoint(_tensors_behind(*regressions))
