"""Which answers of a network change with which samples of its batch: told by trying, without loss and target."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rislab.checkup.probes.outer_values import outer_values
from rislab.checkup.probes.probe_batches import SampleList, map_leaves, tensors_in
from rislab.checkup.recording.tracking import NORMS

# Two answers that differ by more of themselves are not the same but for rounding, by precision.
SAME = {"fp64": 1e-9, "fp32": 1e-4, "fp16": 2e-2, "bf16": 1e-1}
# The share of the answers that a sample must change for all to be called changed.
NEARLY_ALL = 0.9

Arguments = tuple[tuple[Any, ...], Mapping[str, Any]]
# Calls a network in a known state with some arguments.
Run = Callable[[Arguments], Any]


@dataclass(frozen=True)
class Mixing:
    """What was tried on the samples of a batch."""

    # "" if each answer depends on its own sample alone; "all" if each sample changes all answers, "most" if most change
    # half of them; "others" if samples change answers that are not theirs, and not their own; "following" if each
    # changes its own answer and all after it, "fading" if only some after it; "place" if each answer depends on its own
    # sample, and on where that stands; "some" otherwise.
    kind: str
    error: float = 0.0  # the largest change of an answer that was not the sample's own, relative to the answers
    changed: tuple[int, ...] = ()  # answers that one sample changed, from 0, as an example
    sample: int = 0  # that changed them
    samples: int = 0  # of the batch
    # One along which the answers are independent though not along the first, -1 if there is none.
    other_dimension: int = -1
    # Whether most samples change several answers, hardly any their own, at distances that differ: as where a tensor
    # whose samples do not come first is viewed as if they did. No order of the samples, and no partner, does that.
    scrambled: bool = False


@dataclass(frozen=True)
class _Trial:
    """A network on a batch, to be tried with changed arguments."""

    run: Run
    arguments: Arguments
    answers: dict[str, Tensor]  # by name, to the arguments as they are
    tolerance: float  # share of itself by which an answer may differ and be the same


def find_mixing(run: Run, arguments: Arguments, precision: str) -> Mixing | None:
    """Exchange some samples one by one, and look at whose answers change; None if this shows nothing."""
    first = next((leaf for leaf in leaves_in(arguments) if isinstance(leaf, SampleList) or leaf.dim()), None)
    samples = 0 if first is None else len(first)
    if samples < 2:
        return None
    answers = tensors_in(run(arguments))
    # NaN differs from itself, whatever is exchanged.
    if not all(bool(torch.isfinite(answer).all()) for answer in answers.values()):
        return None
    trial = _Trial(run, arguments, answers, SAME[precision])
    changes = _changes(trial, 0, samples)
    if not changes:
        return _scrambled_along_the_second(trial, first)
    if all(changed <= {place} for place, changed, _ in changes):
        error = _error_of_turning(trial, samples)
        # Weights or states that belong to the rows, as to the nodes of a graph, fit no other number of them.
        fixed = not error > trial.tolerance or not takes_fewer(run, arguments, samples)
        time_first = _independent(trial, first) > 0
        return Mixing("" if fixed or time_first else "place", error, samples=samples)
    others = [(error, place, changed) for place, changed, error in changes if changed - {place}]
    error, place, changed = max(others, key=lambda one: one[0])
    moved = [(place, changed) for place, changed, _ in changes if changed]
    if all(len(changed) >= NEARLY_ALL * samples for _, changed in moved):
        kind = "all"
    else:
        kind = "others" if sum(place not in changed for place, changed in moved) * 2 >= len(moved) else "some"
        if kind == "some" and all(min(changed) == place for place, changed in moved):
            kind = "following" if all(changed == {*range(place, samples)} for place, changed in moved) else "fading"
        elif kind == "some" and 2 * sum(2 * len(changed) >= samples for _, changed in moved) >= len(moved):
            kind = "most"
    scrambled = kind == "others" and _is_scrambled(trial, 0, samples, moved)
    return Mixing(kind, error, tuple(sorted(changed)), place, samples, _independent(trial, first), scrambled)


def _is_scrambled(trial: _Trial, dimension: int, samples: int, moved: list[tuple[int, set[int]]]) -> bool:
    """Whether samples change answers as the rows of a view do that takes those of several samples for one.

    Which answers that are does not depend on what the samples hold, as it does where they are sorted; and half of the
    samples alone have answers as well, which nodes of a graph have not.
    """
    several = sum(2 <= len(changed) <= samples // 2 for _, changed in moved)
    foreign = sum(place not in changed for place, changed in moved)
    distances = {tuple(sorted((one - place) % samples for one in changed)) for place, changed in moved}
    if len(moved) < 3 or 2 * min(several, foreign) <= len(moved) or len(distances) == 1:
        return False
    others = _changes(trial, dimension, samples, 2)
    same = moved == [(place, changed) for place, changed, _ in others if changed]
    return same and takes_fewer(trial.run, trial.arguments, samples, dimension)


def _scrambled_along_the_second(trial: _Trial, first: Any) -> Mixing | None:
    """The same where the samples stand in the second dimension of the inputs, as behind one of time."""
    samples = first.shape[1] if isinstance(first, Tensor) and first.dim() > 2 else 0
    changes = _changes(trial, 1, samples) if samples > 1 else []
    moved = [(place, changed) for place, changed, _ in changes if changed]
    if not _is_scrambled(trial, 1, samples, moved):
        return None
    place, changed, error = max(changes, key=lambda one: one[2])
    return Mixing("others", error, tuple(sorted(changed)), place, samples, scrambled=True)


def _independent(trial: _Trial, first: Any) -> int:
    """The second dimension, if answers are independent along it; as for sequences that come first."""
    if not isinstance(first, Tensor) or first.dim() < 2:
        return -1
    size = first.shape[1]
    if size == 1 and first.dim() > 2:
        return 1
    changes = _changes(trial, 1, size) if size > 1 else []
    independent = all(changed <= {place} for place, changed, _ in changes) and any(changed for _, changed, _ in changes)
    return 1 if independent else -1


def _changes(trial: _Trial, dimension: int, size: int, shift: int = 1) -> list[tuple[int, set[int], float]]:
    """For some places along a dimension: which answers change with it, and by how much those of others do.

    What stands there becomes what stands that shift further on, or still further if that is the same.
    """
    changes = []
    leaves = [leaf for leaf in leaves_in(trial.arguments) if isinstance(leaf, Tensor) and leaf.dim() > 1]
    lengths = tuple(leaf.shape[1] for leaf in leaves)
    for place in sorted({size // 5, size // 3, size // 2, (2 * size) // 3, size - 1}):
        changed = _exchanged(trial.arguments, dimension, place, size, shift)
        if changed is None:
            continue
        moved: set[int] = set()
        largest, compared = 0.0, False
        for one, two in zip(trial.answers.values(), tensors_in(trial.run(changed)).values(), strict=True):
            before, after = (by_place(answer, dimension, size, lengths) for answer in (one, two))
            if before is None or after is None or before.shape != after.shape:
                continue
            compared = True
            length = before.abs().double().norm(dim=1).max().clamp_min(1e-30)
            error = (after - before).abs().double().norm(dim=1) / length
            places = (~(error <= trial.tolerance)).nonzero().flatten().tolist()
            moved.update(places)
            largest = max([largest, *(float(error[at]) for at in places if at != place)])
        if compared:
            changes.append((place, moved, largest))
    return changes


def _error_of_turning(trial: _Trial, samples: int) -> float:
    """The largest relative change of an answer where the samples stand in another order, each with its answer."""

    def turn(leaf: Any) -> Any:
        if not _has(leaf, 0, samples):
            return leaf
        return SampleList([*leaf[1:], leaf[0]]) if isinstance(leaf, SampleList) else leaf.roll(-1, 0)

    largest, turned = 0.0, tensors_in(trial.run(map_leaves(trial.arguments, turn)))
    for one, two in zip(trial.answers.values(), turned.values(), strict=True):
        if one.shape == two.shape and one.dim() and one.shape[0] == samples:
            before, after = (answer.reshape(samples, -1).double() for answer in (one.roll(-1, 0), two))
            largest = max(largest, float((after - before).norm() / before.norm().clamp_min(1e-30)))
    return largest


def takes_fewer(run: Run, arguments: Arguments, samples: int, dimension: int = 0) -> bool:
    """Whether a network takes half of the samples alone, which those that belong to places of a graph are not."""
    half = (samples + 1) // 2

    def cut(leaf: Any) -> Any:
        if not _has(leaf, dimension, samples):
            return leaf
        return SampleList(leaf[:half]) if isinstance(leaf, SampleList) else _narrow(leaf, dimension, half)

    try:
        run(map_leaves(arguments, cut))
    except (RuntimeError, IndexError, ValueError):
        return False
    return True


def _narrow(leaf: Tensor, dimension: int, size: int) -> Tensor:
    return leaf.narrow(min(dimension, leaf.dim() - 1), 0, size)


def by_place(answer: Tensor, dimension: int, size: int, lengths: tuple[int, ...] = ()) -> Tensor | None:
    """An answer as a matrix, a row for each place along a dimension of the input; None if it has no such rows."""
    if not answer.dim() or not answer.numel():
        return None
    if dimension == 0 and answer.shape[0] % size == 0 and answer.shape[0] // size in (1, *lengths):
        return answer.reshape(size, -1)
    if dimension == 1 and answer.dim() > 1 and answer.shape[1] == size:
        return answer.movedim(1, 0).reshape(size, -1)
    if dimension == 1 and answer.shape[0] == size:
        return answer.reshape(size, -1)
    if dimension == 1 and answer.shape[0] % size == 0:
        return answer.reshape(answer.shape[0] // size, size, -1).movedim(1, 0).reshape(size, -1)
    return None


def _exchanged(arguments: Arguments, dimension: int, place: int, size: int, shift: int) -> Arguments | None:
    """Arguments in which what stands at a place is that of another place; None if all places hold the same."""
    leaves = [leaf for leaf in leaves_in(arguments) if _has(leaf, dimension, size)]
    for distance in range(shift, size):
        other = (place + distance) % size
        if any(_differ(leaf, dimension, place, other) for leaf in leaves):
            break
    else:
        return None

    def exchange(leaf: Any) -> Any:
        if not _has(leaf, dimension, size):
            return leaf
        if isinstance(leaf, SampleList):
            return SampleList(leaf[other] if at == place else one for at, one in enumerate(leaf))
        along = min(dimension, leaf.dim() - 1)
        changed = leaf.clone()
        changed.select(along, place).copy_(leaf.select(along, other))
        return changed

    args, named = map_leaves(arguments, exchange)
    return args, named


def _has(leaf: Any, dimension: int, size: int) -> bool:
    if isinstance(leaf, SampleList):
        return dimension == 0 and len(leaf) == size
    # A vector among matrices, such as lengths, has one entry for each place.
    return leaf.dim() > 0 and leaf.shape[min(dimension, leaf.dim() - 1)] == size


def _differ(leaf: Any, dimension: int, one: int, two: int) -> bool:
    if isinstance(leaf, SampleList):
        return leaf[one].shape != leaf[two].shape or not torch.equal(leaf[one], leaf[two])
    along = min(dimension, leaf.dim() - 1)
    return not torch.equal(leaf.select(along, one), leaf.select(along, two))


def leaves_in(arguments: Arguments) -> list[Any]:
    """The tensors and lists of samples among arguments."""
    leaves: list[Any] = []
    map_leaves(arguments, leaves.append)
    return leaves


def why_meant(model: nn.Module, run: Run, arguments: Arguments, mixing: Mixing) -> str:
    """Why samples may well be mixed on purpose; "" if nothing speaks for it."""
    size = mixing.samples
    if mixing.other_dimension > 0:
        return "the answers are independent along the second dimension: the first may be one of time"
    leaves = [leaf for leaf in leaves_in(arguments) if isinstance(leaf, Tensor)]
    if any(leaf.dim() and size not in leaf.shape for leaf in leaves):
        return "one input has no entry for each sample, as the edges of a graph"
    norms = [one for one in model.modules() if isinstance(one, NORMS)]
    if any(one.running_mean is None for one in norms):
        return "a BatchNorm keeps no running statistics, and takes those of the batch in evaluation mode as well"
    own = [tensor for module in model.modules() for tensor in tensors_in(state_of(module)).values()]
    outer = [value for kind in {*map(type, model.modules())} for value in outer_values(kind)[0]]
    own += [value for value in outer if isinstance(value, Tensor)]
    # A weight may have as many rows and columns by chance; one over the samples fits no other number of them.
    held = any(_is_graph(tensor, size) for tensor in own) and not takes_fewer(run, arguments, size)
    if held or any(_is_graph(leaf, size) for leaf in leaves):
        return "a matrix tells which samples belong together, as in a graph"
    if any(_are_neighbours(tensor, size) for tensor in (*leaves[1:], *own)):
        return "a matrix of places tells which samples are neighbours"
    unbatched: list[str] = []
    handles = [module.register_forward_pre_hook(_noting_unbatched(unbatched)) for module in model.modules()]
    try:
        answers = tensors_in(run(arguments)).values()
    finally:
        for handle in handles:
            handle.remove()
    if any(answer.dim() > 1 and answer.shape[0] == answer.shape[1] == size for answer in answers):
        return "the answers compare all samples with each other"
    if unbatched:
        return f"{unbatched[0]} got an input without a batch: one sample"
    vectors = [leaf for leaf in leaves if leaf.dim()]
    if vectors and all(leaf.dim() == 1 and leaf.is_floating_point() for leaf in vectors):
        return "the input is a vector: one sample"
    return ""


def state_of(module: nn.Module) -> dict[str, Any]:
    """Tensors, and what may hold some, and numbers that a module holds itself, by name."""
    kinds = (Tensor, tuple, list, int, float)
    plain = {name: value for name, value in vars(module).items() if isinstance(value, kinds)}
    return {**plain, **dict(module.named_buffers(recurse=False)), **dict(module.named_parameters(recurse=False))}


def _is_graph(tensor: Tensor, size: int) -> bool:
    if tensor.layout is not torch.strided or tuple(tensor.shape[-2:]) == (size, size):
        return True
    return tensor.dim() == 2 and tensor.shape[0] == 2 and not tensor.is_floating_point() and tensor.dtype != torch.bool


def _are_neighbours(tensor: Tensor, size: int) -> bool:
    """Whether a tensor holds several places of samples for each sample, as of the neighbours in a mesh."""
    if tensor.layout is not torch.strided or tensor.is_floating_point() or tensor.is_complex():
        return False
    rows = tensor.dim() == 2 and len(tensor) == size and tensor.shape[1] > 1 and tensor.dtype != torch.bool
    return rows and int(tensor.max()) == size - 1


def _noting_unbatched(names: list[str]) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    """A hook that notes modules of torch to which one sample alone came, or a sequence of it."""
    spatial: dict[type[nn.Module], int] = {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}

    def note(module: nn.Module, args: tuple[Any, ...]) -> None:
        if not args or not isinstance(args[0], Tensor):
            return
        given = args[0]
        dimensions = spatial.get(type(module))
        sequence = isinstance(
            module, nn.RNNBase | nn.MultiheadAttention | nn.TransformerEncoderLayer | nn.TransformerDecoderLayer
        )
        one_of_them = sequence and given.dim() == 3 and given.shape[0 if getattr(module, "batch_first", False) else 1]
        alone = (
            (dimensions is not None and given.dim() == dimensions + 1)
            or (sequence and (given.dim() == 2 or one_of_them == 1))
            or (isinstance(module, nn.Linear) and given.dim() == 1)
        )
        if alone:
            names.append(type(module).__name__)

    return note
