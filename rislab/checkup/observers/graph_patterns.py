"""Terms that cannot be meant: a ratio of one policy to itself, a norm at each pixel, all pairs, sums that cancel."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import islice

import torch
from torch import Tensor
from torch.autograd.graph import Node
from torch.optim.optimizer import Optimizer

from rislab.checkup.findings import Finding, as_fault, as_warning
from rislab.checkup.observers.occurrences import AGREEING, Occurrences
from rislab.checkup.recording.events import ForwardEvent, Observer, Roots
from rislab.checkup.recording.looks import Looks
from rislab.checkup.recording.loss_graph import factors, nodes_behind, sources_of
from rislab.checkup.rules import Code

# Nodes of a graph that are gone through.
NODES = 2000
# Dimensions of samples, channels and at least two of space.
IMAGE = 4
# Nodes that change a shape alone, and how many of them are passed.
SHAPES, PASSED = ("View", "UnsafeView", "Reshape", "Expand", "Transpose", "Permute", "Unsqueeze", "Squeeze", "TBack"), 6


# What is looked at.
_KINDS = (
    "AddBackward", "SubBackward", "MulBackward", "PowBackward", "ClampBackward", "ExpBackward", "SumBackward",
    "LinalgVectorNormBackward", "BmmBackward", "IndexBackward", "GatherBackward", "MeanBackward", "LogSigmoidBackward",
)  # fmt: skip
# By which scores become the weights of an attention, and how many of these nodes are passed; what dropout and a cast to
# half precision leave of the relative differences between two weights.
SCORES, WAY, SCALED = (
    ("Mul", "Div", "Add", "Sub", "MaskedFill", "Where", "NativeDropout", *SHAPES, "Clone", "ToCopy"),
    12,
    0.01,
)
# What torch keeps of a loss that gives a number for each sample; the fewest places of a mask.
NONE, PLACES = 0, 4


class GraphPatterns(Observer):
    """Goes through the graphs of the first backwards, then of ever fewer.

    What a node keeps for its backward is read by the attributes that torch documents, whose names begin with _saved.
    """

    def __init__(self) -> None:
        self._looks = Looks()
        self._inputs: tuple[int, ...] = ()
        self._before: tuple[int, ...] = ()  # inputs of the step before
        self._others = self._again = 0  # ratios that were not 1, and ratios of 1 after a step on the same inputs
        self._same_samples = 0  # clamped ratios of 1 after a step on the same samples
        self._gains: list[Tensor] = []  # what ratios that are clamped were multiplied with, in the backward before
        # Shapes of what something is differentiated by, and whether that is one number for each sample.
        self._differentiated: list[tuple[torch.Size, bool]] = []
        self._ratios, self._noted = Occurrences(), defaultdict[str, Occurrences](Occurrences)
        # Preferences against a reference that is the network itself, as all are before the first step; None once one is
        # not.
        self._preferences: Occurrences | None = Occurrences()
        self._stepped = False

    def on_forward_end(self, call: ForwardEvent) -> None:
        """Remember where the input of the last forward is."""
        if torch.is_grad_enabled() and (first := next(iter(call.inputs), None)) is not None:
            self._inputs = (first.data_ptr(), *first.shape)

    def on_grad(self, outputs: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
        """Remember the shapes of what something is differentiated by."""
        numbers = outputs[0].numel() if len(outputs) == 1 else 0
        self._differentiated = [
            (value.shape, 1 < numbers == len(value)) for value in islice(sources, IMAGE) if value.dim() >= IMAGE
        ]

    def on_backward(self, roots: Roots) -> None:
        shapes, self._differentiated = dict(self._differentiated), []
        if len(roots) != 1 or roots[0][0].grad_fn is None or not self._looks.wanted("backward"):
            return
        cancelled, gains, self._gains = [], self._gains, []
        penalised: list[Node] = []
        for node in nodes_behind(roots[0][0].grad_fn, NODES):
            kind = node.name()
            if not kind.startswith(_KINDS):
                continue
            if (independent := _cancels(node)) is not None:
                cancelled.append(independent)
            penalised += [one for one in (_squared(node),) if shapes and one is not None]
            if kind.startswith("ClampBackward") and any(map(_is_always_1, sources_of(node))):
                self._gains += _gains_of(roots[0][0].grad_fn, sources_of(node)[0])
            if kind.startswith("ExpBackward") and _is_ratio(node):
                if bool((node._saved_result == 1).all()):  # type: ignore[attr-defined]
                    self._ratios.note("the ratio exp(new - old) was 1 for all samples")
                    self._again += self._inputs == self._before
                else:
                    self._others += 1
            elif shapes and kind.startswith("LinalgVectorNormBackward"):
                shape, dims = node._saved_self.shape, getattr(node, "_saved_dim", None)  # type: ignore[attr-defined]
                if shape in shapes and dims is not None and tuple(dims) == (1,):
                    text = f"the norm of a gradient of shape {tuple(shape)} is taken over dimension 1 alone: "
                    # Of a network with an answer for each place it may be meant, and of what no penalty compares.
                    certain = node in penalised and (shapes[shape] or shape[1] == 1)
                    why = " of single numbers" if shape[1] == 1 else ", where the network gives one number a sample"
                    self._noted["norms"].note(f"{text}{shape[2:].numel()} norms a sample{why * certain}", certain)
            elif kind.startswith("LogSigmoidBackward") and self._stepped and self._preferences is not None:
                given = _saved(node, "_saved_self")
                if given is None or bool(given.any()) or not _is_against_reference(node):
                    self._preferences = None
                else:
                    self._preferences.note("log-probabilities less those of a reference were 0 in all samples")
            elif masked := _mean_before_its_mask(node):
                self._noted["masked"].note(*masked)
            elif text := _single_softmax(node):
                self._noted["single"].note(text)
            elif attention := _over_no_keys(node):
                self._noted["heads" if attention[1] else "queries"].note(*attention)
            elif text := _chosen_over_the_rows(node):
                self._noted["chosen"].note(text)
        if self._gains and any(torch.equal(one, other) for one in self._gains for other in gains):
            # The same samples as in the backward before, on which a step was taken.
            self._same_samples += self._inputs == self._before
        if cancelled:
            self._noted["cancelled"].note(
                "z + (q - z) was computed, with a gradient in both places of z", all(cancelled)
            )

    def after_step(self, optimizer: Optimizer) -> None:
        self._before, self._stepped = self._inputs, True

    def count_steps(self, optimizer: Optimizer, steps: int) -> None:
        """The inputs of the last step are not known."""
        self._before = ()

    def findings(self) -> list[Finding]:
        results = []
        if self._noted["cancelled"].count >= AGREEING:
            text = (
                f"{self._noted['cancelled']}: they cancel each other, and what is computed of the sum does not train z"
            )
            # A step of a recurrence, z + (f(z) - z), is right.
            kind = self._noted["cancelled"].kind
            text += "; q does not depend on z otherwise" * (kind is as_fault)
            results.append(kind(Code.LOSSES, "straight-through without detach", text, self._noted["cancelled"].where))
        if self._again >= AGREEING and not self._others:
            text = f"{self._ratios}, in {self._again} of them after a step on the same inputs: old is computed by the "
            text += "network that is trained"
            # A ratio to itself may stand for a logarithm, which nobody clamps on samples that were stepped on before.
            certain = self._same_samples >= AGREEING
            text += f"; it was clamped, and {self._same_samples} times a step on the same samples had come before"
            text = text if certain else text.rpartition(";")[0]
            kind = as_fault if certain else as_warning
            results.append(kind(Code.LOSSES, "ratio always 1", text, self._ratios.where))
        same = self._preferences
        if same is not None and same.count >= 2 * AGREEING:
            text = f"{same}, after steps too: the reference is the network that is trained"
            results.append(as_warning(Code.LOSSES, "reference is the trained network", text, same.where))
        if self._noted["norms"].count >= AGREEING:
            norms = self._noted["norms"]
            results.append(norms.kind(Code.LOSSES, "gradient penalty per position", norms.text, norms.where))
        for name in ("single", "chosen", "heads", "queries"):
            one = self._noted[name]
            if one.count >= AGREEING:
                # Over the queries it may be meant, as where they compete for the keys.
                kind = as_warning if name == "queries" else as_fault
                results.append(kind(Code.ARGUMENTS, "normalised along another axis", str(one), one.where))
        if self._noted["masked"].count >= AGREEING:
            text, where = str(self._noted["masked"]), self._noted["masked"].where
            results.append(self._noted["masked"].kind(Code.ARGUMENTS, "mask after the mean", text, where))
        return results


def _cancels(node: Node) -> bool | None:
    """Whether q does not depend on z, if something is z + (q - z), or so in another order; None if it is not."""
    given = node.next_functions
    if not node.name().startswith(("AddBackward", "SubBackward")) or len(given) != 2:
        return None
    added = node.name().startswith("Add")
    for own, other in (given, given[::-1]) if added else (given,):
        inner = other[0]
        if own[0] is not None and inner is not None and inner.name().startswith("SubBackward"):
            # z + (q - z), and z - (z - q).
            taken, rest = inner.next_functions[:: -1 if added else 1]
            weights = (getattr(one, "_saved_alpha", 1) for one in (node, inner))
            if taken == own and all(weight == 1 for weight in weights):
                return rest[0] is None or own[0] not in nodes_behind(rest[0], NODES)
    return None


def _is_against_reference(node: Node) -> bool:
    """Whether what logsigmoid() is given is a difference in which one side, or one side of both, has no gradient."""
    sources = sources_of(node)
    while len(sources) == 1 and sources[0].name().startswith(("MulBackward", "DivBackward", "NegBackward")):
        sources = sources_of(sources[0])
    outer = sources[0] if len(sources) == 1 else None
    if outer is None or not outer.name().startswith("SubBackward"):
        return False
    inner = [one for one in sources_of(outer) if one.name().startswith("SubBackward")]
    return any(len(sources_of(one)) == 1 for one in (outer, *inner))


def _is_always_1(node: Node) -> bool:
    """Whether something is exp(new - old), and 1 for all samples."""
    ratio = _saved(node, "_saved_result") if node.name().startswith("ExpBackward") and _is_ratio(node) else None
    return ratio is not None and bool((ratio == 1).all())


def _gains_of(root: Node, ratio: Node) -> list[Tensor]:
    """What a ratio is multiplied with, if that differs from sample to sample."""
    products = [
        one for one in nodes_behind(root, NODES) if one.name().startswith("MulBackward") and ratio in sources_of(one)
    ]
    saved = [_saved(one, name) for one in products for name in ("_saved_other", "_saved_self")]
    return [one for one in saved if one is not None and one.numel() > 1 and bool((one != one.flatten()[0]).any())]


def _saved(node: Node, name: str) -> Tensor | None:
    """A tensor that a node keeps for its backward, None if it keeps none, or if it was changed in place."""
    try:
        value = getattr(node, name, None)
    except RuntimeError:
        return None
    return value.detach() if isinstance(value, Tensor) else None


def _squared(node: Node) -> Node | None:
    """What is squared after a number was taken away, as in a penalty (norm - 1)^2; None if a node is no such square."""
    sources = sources_of(node)
    product = node.name().startswith("MulBackward") and len(sources) == 2 and sources[0] is sources[1]
    if not (product or node.name().startswith("PowBackward")):
        return None
    inner = sources_of(sources[0]) if sources and sources[0].name().startswith(("SubBackward", "AddBackward")) else []
    return inner[0] if len(inner) == 1 else None


def _unshaped(node: Node | None) -> Node | None:
    """What a tensor is, apart from its shape."""
    for _ in range(PASSED):
        if node is None or not node.name().lstrip("_").startswith(SHAPES):
            break
        node = next(iter(sources_of(node)), None)
    return node


def _single_softmax(node: Node) -> str:
    """What is summed with the weights of a softmax over one number, which are 1 all along the sum; "" if nothing is."""
    factors: list[tuple[Node | None, list[int]]] = []  # each with the sizes that are summed over
    if node.name().startswith("SumBackward1"):
        sizes = [int(size) for size in node._saved_self_sym_sizes]  # type: ignore[attr-defined]
        summed = [sizes[_from_start(one, len(sizes))] for one in node._saved_dim]  # type: ignore[attr-defined]
        products = [one for one in sources_of(node) if one.name().startswith("MulBackward")]
        factors = [(one, summed) for product in products for one in sources_of(product)]
    elif node.name().startswith("BmmBackward"):
        saved = [(_saved(node, "_saved_mat2"), 1), (_saved(node, "_saved_self"), 2)]
        factors = [
            (one, [] if other is None else [other.shape[place]])
            for (one, _), (other, place) in zip(node.next_functions, saved, strict=True)
        ]
    for factor, summed in factors:
        softmax = _unshaped(factor)
        if softmax is None or not softmax.name().startswith("SoftmaxBackward"):
            continue
        result = _saved(softmax, "_saved_result")
        shape = result.shape if result is not None else torch.Size()
        over = _from_start(softmax._saved_dim, max(1, len(shape)))  # type: ignore[attr-defined]
        places = [size for size in summed if size > 1 and size in shape]
        if len(shape) > 1 and shape[over] == 1 and places:
            text = f"a sum over {places[0]} places has the weights of a softmax over dimension {over} of "
            return f"{text}{tuple(shape)}, which are 1 whatever it is given"
    return ""


def _over_no_keys(node: Node) -> tuple[str, bool] | None:
    """What is said of a sum over keys whose weights were normalised along another axis, and whether over no queries.

    Weights are a softmax of what a product of queries and keys has given; a pool, whose weights are those of groups,
    or an average of votes has no such scores.
    """
    if not node.name().startswith("BmmBackward"):
        return None
    softmax = _behind(node.next_functions[0][0], "SoftmaxBackward")
    if softmax is None or _behind(next(iter(sources_of(softmax)), None), "BmmBackward") is None:
        return None
    weights, result = _saved(node, "_saved_self"), _saved(softmax, "_saved_result")
    if weights is None or result is None or result.dim() < 3:
        return None
    axis, shape = _from_start(softmax._saved_dim, result.dim()), result.shape  # type: ignore[attr-defined]
    queries, keys = shape[-2:]
    if axis == result.dim() - 1 or shape[axis] == 1 or weights.shape[-2:] != shape[-2:] or 1 in (queries, keys):
        return None
    one, other = weights.detach()[0], result.reshape(-1, queries, keys)[0]
    nonzero = one != 0
    ratios = one[nonzero].double() / other[nonzero].double()
    if weights.numel() != result.numel() or not len(ratios) or bool((ratios / ratios[0] - 1).abs().max() > SCALED):
        return None  # the axes were exchanged, or something else came between
    text = f"a sum over {keys} keys has the weights of a softmax over dimension {axis} of {tuple(shape)}: over "
    if axis < result.dim() - 2:
        return f"{text}neither keys nor queries", True
    return (f"{text}the queries", False) if queries == keys else None


def _behind(node: Node | None, kind: str) -> Node | None:
    """The nearest node of a kind, by what leaves an element at its place; None if something else comes first."""
    for _ in range(WAY):
        if node is None or node.name().startswith(kind) or not node.name().lstrip("_").startswith(SCORES):
            break
        node = next(iter(sources_of(node)), None)
    return node if node is not None and node.name().startswith(kind) else None


def _mean_before_its_mask(node: Node) -> tuple[str, bool] | None:
    """What is said of one number, made of a loss of many places, times a mask of these; whether it is all 0 and 1."""
    product = _unshaped(next(iter(sources_of(node)), None)) if node.name().startswith(("Sum", "Mean")) else None
    if product is None or not product.name().startswith("MulBackward") or len(product.next_functions) != 2:
        return None
    places, mask = _places_of(next(iter(sources_of(product)), None)), None
    if places and len(sources_of(product)) == 1:
        given = [_saved(product, name) for name in ("_saved_other", "_saved_self")]
        mask = next((one for one in given if one is not None and one.numel() >= PLACES), None)
    if mask is None or places % mask.numel() or bool((mask == mask.flatten()[0]).all()):
        return None
    text = (
        f"a loss of {places} places was made one number, and then multiplied with {tuple(mask.shape)} numbers, one of "
    )
    return f"{text}each place: none of them is left out, or counts more", bool(((mask == 0) | (mask == 1)).all())


def _places_of(node: Node | None) -> int:
    """Of how many places one number is the mean or the sum, or a sum of such; 0 if it is something else."""
    last = node and [*factors(node)][-1]
    if last is None:
        return 0
    if last.name().startswith("AddBackward"):
        terms = [_places_of(one) for one in sources_of(last)]
        return max(terms) if terms and all(terms) else 0
    if last.name() in ("MeanBackward0", "SumBackward0"):
        return torch.Size(last._saved_self_sym_sizes).numel()  # type: ignore[attr-defined]
    if getattr(last, "_saved_reduction", NONE) == NONE:
        return 0
    target = _saved(last, "_saved_target")
    return 0 if target is None else target.numel()


def _chosen_over_the_rows(node: Node) -> str:
    """What is chosen in each row of numbers that were normalised over the rows, several in one column; or ""."""
    chosen = _unshaped(next(iter(sources_of(node)), None))
    if chosen is not None and chosen.name().startswith("LogBackward"):
        chosen = _unshaped(next(iter(sources_of(chosen)), None))
    if chosen is None or not chosen.name().startswith(("LogSoftmaxBackward", "SoftmaxBackward")):
        return ""
    # What a node keeps may be computed again as it is read: only now is it.
    columns = _columns_chosen(node)
    if columns is None:
        return ""
    result = _saved(chosen, "_saved_result")
    shape = result.shape if result is not None else torch.Size()
    if len(shape) != 2 or 1 in shape or len(columns) != shape[0]:
        return ""
    # One in each column belongs to a contrast of all with all.
    if _from_start(chosen._saved_dim, 2) != 0 or len(columns.unique()) == len(columns):  # type: ignore[attr-defined]
        return ""
    text = f"a softmax over dimension 0 of {tuple(shape)} sums to 1 over the samples, and of each sample the number of "
    return f"{text}one class is taken"


def _columns_chosen(node: Node) -> Tensor | None:
    """The column that is taken in each row of a matrix, None if a node takes something else."""
    kind = node.name()
    if kind.startswith("IndexBackward"):
        indices = [*node._saved_indices]  # type: ignore[attr-defined]
        if len(indices) == 2 and all(one is not None and one.dim() == 1 for one in indices):
            rows, columns = indices
            in_order = not rows.is_floating_point() and rows.dtype is not torch.bool and len(rows) == len(columns)
            return columns if in_order and torch.equal(rows, torch.arange(len(rows), device=rows.device)) else None
    elif kind.startswith("GatherBackward"):
        index = _saved(node, "_saved_index")
        along = index is not None and index.dim() == 2 and _from_start(node._saved_dim, 2) == 1  # type: ignore[attr-defined]
        return index[:, 0] if along and index is not None and index.shape[1] == 1 else None
    elif kind.startswith("MulBackward"):
        given = [_saved(node, name) for name in ("_saved_self", "_saved_other")]
        for one in given:
            if one is not None and one.dim() == 2 and bool(((one == 0) | (one == 1)).all()):
                return one.argmax(1) if bool((one.sum(1) == 1).all()) else None
    return None


def _from_start(dimension: int, dimensions: int) -> int:
    """A dimension counted from the first; one that is counted from the end is saved as a number without a sign."""
    return (dimension - 2**64 if dimension >= 2**63 else dimension) % dimensions


def _is_ratio(node: Node) -> bool:
    """Whether something is exp(new - old), where old carries no gradient."""
    source = next(iter(sources_of(node)), None)
    if source is None or not source.name().startswith("SubBackward") or len(source.next_functions) != 2:
        return False
    return source.next_functions[0][0] is not None and source.next_functions[1][0] is None
