"""The few nodes of the graph between a raw loss and what backward() is called on: how a loop weighs its losses."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Container, Iterator, Sequence
from typing import NamedTuple

from torch import Tensor
from torch.autograd.graph import Node

# Nodes by which a loop weighs a loss: they have one source, and its gradient is a multiple of theirs.
_FACTORS = ("MulBackward", "DivBackward", "NegBackward", "ToCopyBackward", "AliasBackward", "CloneBackward")
_MEANS = ("MeanBackward",)
_SUMS = ("AddBackward", "SubBackward")
# What torch keeps of reduction="sum" in the node of a loss.
SUM = 2
# A sum of more terms than this is no sum of losses.
_TERMS = 64
# So many nodes of a graph are gone through.
_NODES = 20_000
# Nodes that change the shape alone, and how many of them lie between an answer and its loss.
_SHAPES = ("View", "UnsafeView", "Reshape", "Clone", "Slice", "Permute", "Transpose", "TBackward", "ToCopy", "Alias")
_WAY, _UNSIGNED = 12, 2**64


def weighed_node(root: Tensor, known: Container[Node]) -> Node | None:
    """The node below all factors of what backward() was called on, or the first of the known nodes on the way."""
    node = root.grad_fn
    while node is not None and node not in known and (source := _factor_of(node)) is not None:
        node = source
    return node


class LossAlone:
    """Tells whether all backwards so far began at the loss that came last, and at nothing else."""

    def __init__(self) -> None:
        self._node: Node | None = None
        self._backwards, self.others = 0, False  # and whether one began elsewhere

    def note_loss(self, output: Tensor) -> None:
        """A loss was computed; its node is held until the next backward, or the next loss."""
        self._node = output.grad_fn

    def note_backward(self, root: Tensor | None) -> None:
        """A backward begins at one tensor, or at several, for which None stands."""
        node, self._node = self._node, None
        self._backwards += 1
        alone = root is not None and node is not None and (root.grad_fn is node or weighed_node(root, (node,)) is node)
        self.others |= not alone

    def __bool__(self) -> bool:
        return self._backwards > 0 and not self.others


class Cuts(NamedTuple):
    """Places that were cut off one dimension, on the way from a network's answer to what a loss is given."""

    front: int  # so many first ones
    last: int  # how often the last one was
    size: int  # of the dimension before, 0 if nothing was cut


def places_cut(value: Tensor) -> Cuts:
    """What was cut off a network's answer.

    Args:
        value: that the loss is given, with its classes in the last dimension before.
    """
    node, cuts = value.grad_fn, list[tuple[int, int, bool, int]]()
    for _ in range(_WAY):
        if node is None or not node.name().lstrip("_").startswith(_SHAPES):
            break
        sizes = getattr(node, "_saved_self_sym_sizes", ())
        if node.name().startswith("SliceBackward"):
            along, step = int(getattr(node, "_saved_dim", 0)), int(getattr(node, "_saved_step", 1))
            size = int(sizes[along])
            # A place that is counted from the end is kept as a number without a sign.
            first, end = (
                place - _UNSIGNED + size if place >= _UNSIGNED // 2 else place
                for place in (int(getattr(node, "_saved_start", 0)), int(getattr(node, "_saved_end", 0)))
            )
            if along < len(sizes) - 1:
                cuts.append((along, first * (step == 1), first == 0 and step == 1 and end == size - 1, size))
        node = next(iter(sources_of(node)), None)
    front = sum(first for _, first, _, _ in cuts) if len({along for along, *_ in cuts}) == 1 else 0
    return Cuts(front, sum(last for _, _, last, _ in cuts), cuts[-1][-1] if cuts else 0)


def sources_of(node: Node) -> list[Node]:
    """The nodes that a node takes its values from."""
    return [source for source, _ in node.next_functions if source is not None]


def nodes_behind(root: Node, most: int) -> Iterator[Node]:
    """A node and those behind it, until so many have been met."""
    waiting, visited = [root], {root}
    while waiting and len(visited) < most:
        node = waiting.pop()
        yield node
        sources = []
        for one, _ in node.next_functions:
            if one is not None and one not in visited:
                sources.append(one)
        visited.update(sources)
        waiting += sources


def depends_on(loss: Tensor, own: Container[int]) -> bool:
    """Whether a loss depends on one of some tensors, by their identities, or on too much to tell."""
    if loss.grad_fn is None:
        return id(loss) in own
    return any(value is None or id(value) in own for value in tensors_behind(loss.grad_fn))


def tensors_behind(*starts: Node) -> Iterator[Tensor | None]:
    """The tensors that nodes depend on, the nearest first; None at the end if there are too many nodes."""
    visited, waiting = {*starts}, deque(starts)
    while waiting:
        node = waiting.popleft()
        value = getattr(node, "variable", None)
        if isinstance(value, Tensor):
            yield value
        for source, _ in node.next_functions:
            if source is not None and source not in visited:
                visited.add(source)
                waiting.append(source)
        if len(visited) > _NODES:
            yield None
            return


def summands(node: Node) -> list[Node]:
    """The terms of a sum, itself if it is none; each with the factors that it has there."""
    terms: list[Node] = []
    open_nodes = [node]
    while open_nodes and len(terms) + len(open_nodes) < _TERMS:
        one = open_nodes.pop()
        sources = sources_of(one)
        if one.name().startswith(_SUMS) and sources:
            open_nodes += sources
        else:
            terms.append(one)
    return terms + open_nodes


def parts_of_sum(node: Node) -> list[Node]:
    """A sum, the sums that it is made of, and their terms; itself alone if it is none."""
    parts = [node]
    for one in parts:
        parts += sources_of(one) if one.name().startswith(_SUMS) and len(parts) < _TERMS else []
    return parts


def factors(node: Node) -> Iterator[Node]:
    """The factors of a term, from the outermost, and what they are multiplied with at last."""
    yield node
    while (source := _factor_of(node)) is not None:
        node = source
        yield node


def product_of_factors(term: Node) -> float:
    """The product of the factors of a term that are numbers, which a node keeps for its backward."""
    product = 1.0
    for node in factors(term):
        other = getattr(node, "_saved_other", None)
        if isinstance(other, Tensor) and other.numel() == 1 and not other.is_complex():
            product *= other.item() if node.name().startswith("Mul") else 1 / (other.item() or math.nan)
    return product


def divisions(term: Sequence[Node]) -> list[int]:
    """Places of the divisions among the factors() of a single loss; none if a sum is divided."""
    *nodes, last = term
    if last.name().startswith(_SUMS):
        return []
    return [place for place, node in enumerate(nodes) if node.name().startswith("DivBackward")]


def _factor_of(node: Node) -> Node | None:
    """What a factor is multiplied with, None if the node is no factor."""
    if not node.name().startswith(_FACTORS):
        return None
    sources = sources_of(node)
    return sources[0] if len(sources) == 1 else None


def is_mean(node: Node | None) -> bool:
    """Whether what a node gives is a mean, or a sum of terms of which one at least is an unweighted mean."""
    if node is None:
        return False
    if node.name().startswith(_SUMS):
        return any(map(is_mean, sources_of(node)))
    return node.name().startswith(_MEANS)


def is_sum(node: Node | None) -> bool:
    """Whether what a node gives is a sum over items, or a sum of such: each item counts once, whatever their number."""
    if node is None:
        return False
    terms = [[*factors(term)][-1] for term in summands(node)]
    return all(
        term.name().startswith("SumBackward") or getattr(term, "_saved_reduction", None) == SUM for term in terms
    )
