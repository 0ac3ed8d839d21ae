"""Target tokens against the tokens that the network saw: padding that counts, labels that are shifted twice."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from inspect import Parameter, signature
from itertools import zip_longest

import torch
from torch import Tensor, nn
from torch.nn import functional

from rislab.checkup.findings import Finding, as_fault, as_warning
from rislab.checkup.observers.loss_arguments import loss_arguments, setting
from rislab.checkup.recording.call_stack import caller
from rislab.checkup.recording.events import ForwardEvent, LossEvent, Observer, Roots
from rislab.checkup.recording.looks import Looks
from rislab.checkup.recording.loss_graph import Cuts, LossAlone, places_cut
from rislab.checkup.recording.tensors import tensors_of
from rislab.checkup.rules import Code

TOKEN_LOSSES = (functional.cross_entropy, functional.nll_loss)
# Names by which a network is given its targets, to compute a loss of its own.
TARGETS = ("labels", "label_ids", "targets", "target")
# So many calls of one line must agree; targets and inputs with more tokens than that are not looked at.
CALLS, TOKENS = 3, 1_000_000
# Targets are inputs moved by so many places; the share of tokens that must agree, and that may by chance.
SHIFTS, SAME, CHANCE = range(4), 0.995, 0.9
# The fewest tokens, and the fewest rows and columns, that tell anything.
FEWEST = 32
# The share of all targets that padding must have, and that of the rows which must end in it.
PADDING, ROWS_PADDED = 0.25, 0.5


@dataclass
class _Place:
    """What calls of one line have shown."""

    where: str  # file and line
    network: nn.Module  # in whose forward, or after which, the loss was computed
    # That they had, and of which of the tokens that the network was given; None where there was none, or more than one.
    shifts: list[tuple[int, int] | None] = field(default_factory=list)
    # Token, share of the targets and share of the rows that end in it, for each call; None without one.
    padding: list[tuple[int, float, float] | None] = field(default_factory=list)
    twice: list[bool] = field(default_factory=list)  # whether both shifts were observed, for each call


class TokenTargets(Observer):
    """Looks at the integer targets of losses: at the first calls of each line, then ever more rarely."""

    def __init__(self) -> None:
        self._looks = Looks()
        self._places: dict[tuple[str, ...], _Place] = {}
        self._names: dict[type[nn.Module], list[str]] = {}  # of the arguments of forwards
        self._inside = False
        self._last: tuple[nn.Module, list[Tensor], set[int]] | None = None
        self._waiting: list[tuple[Tensor, int, Cuts, str, tuple[str, ...]]] = []
        self._alone = LossAlone()

    def on_forward(self, module: nn.Module, training: bool) -> None:
        """A forward begins: losses within it are of its inputs, which are known when it is over."""
        self._inside, self._waiting = True, []

    def on_forward_end(self, call: ForwardEvent) -> None:
        self._inside = False
        tables = [value for value in call.inputs if value.dim() == 2 and not value.is_floating_point()]
        self._last = None
        if tables and torch.is_grad_enabled():
            named = {name: value for name, value in call.kwargs.items() if name not in TARGETS}
            names = self._names_of(call.module)
            args = [value for value, name in zip_longest(call.args, names[: len(call.args)]) if name not in TARGETS]
            alone = set(map(id, tables)) - set(map(id, tensors_of([args, named])))
            self._last = call.module, tables, alone
        for waiting in self._waiting:
            self._compare(*waiting)
        self._waiting = []

    def _names_of(self, module: nn.Module) -> list[str]:
        """Names of the arguments of a forward in their order; none where it takes whatever it is given."""
        kind = type(module)
        if kind not in self._names:
            kinds = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
            try:
                parameters = [*signature(kind.forward).parameters.values()]
            except (TypeError, ValueError):  # of a class that was not written in Python
                parameters = []
            self._names[kind] = [one.name for one in parameters if one.kind in kinds][1:]
        return self._names[kind]

    def on_loss(self, call: LossEvent) -> None:
        given = loss_arguments(call) if call.function in TOKEN_LOSSES else None
        trained = isinstance(call.output, Tensor) and call.output.requires_grad and call.output.numel() == 1
        if trained:
            self._alone.note_loss(call.output)
        if given is None or not trained or given[1].is_floating_point() or given[1].numel() > TOKENS:
            return
        if self._looks.wanted((call.function, given[1].dim())):
            where, stack = caller()
            weighed = setting(call, "weight", 2, None) is not None
            ignored = int(setting(call, "ignore_index", 4, -100))
            waiting = (given[1].detach(), ignored if not weighed else -1, places_cut(given[0]), where, stack)
            if self._inside:
                self._waiting.append(waiting)
            else:
                self._compare(*waiting)

    def on_backward(self, roots: Roots) -> bool:
        self._alone.note_backward(roots[0][0] if len(roots) == 1 else None)
        return self._alone.others

    def _compare(self, target: Tensor, ignored: int, cuts: Cuts, where: str, stack: tuple[str, ...]) -> None:
        if self._last is None:
            return
        network, tables, targets = self._last
        inputs = [value for value in tables if is_tokens(value)]
        alone = {place for place, value in enumerate(inputs) if id(value) in targets}
        if not inputs:
            return
        place = self._places.setdefault(stack, _Place(where, network))
        try:
            place.shifts.append(_of_answers(shift_between(target, ignored, inputs, alone), inputs, cuts))
            place.twice.append(_shifted_twice(target, ignored, inputs, alone, cuts.last))
            place.padding.append(None if ignored == -1 else padding_in(target, ignored, inputs))
        except RuntimeError:
            # The tensors of vmap and of some compilers have no numbers that could be read.
            return

    def input_with_shift(self, network: nn.Module, shift: int) -> int | None:
        """Which of the tokens that a network is given are all its targets, moved by a shift ≥ 0; None if none are."""
        places = [place for place in self._places.values() if place.network is network]
        wanted = {one for place in places for one in place.shifts}
        same = len(wanted) == 1 and all(_always(place.shifts, shift) for place in places)
        only = wanted.pop() if same else None
        return None if only is None else only[1]

    def findings(self) -> list[Finding]:
        results = []
        for place in self._places.values():
            others = [other for other in self._places.values() if other.network is place.network and other is not place]
            if _always(place.shifts, 2) and not any(_has(other.shifts, 1) for other in others):
                text = "each target is the input two places on: it is shifted twice, so that the network never learns "
                text += "the next token"
                # What is to be foretold two places on is shifted once, by two places.
                certain = all(place.twice) and not others and bool(self._alone)
                text += "; both shifts, each by one place, were observed, and no other loss is trained" * certain
                kind = as_fault if certain else as_warning
                results.append(kind(Code.ARGUMENTS, "labels shifted twice", text, place.where))
            visited = [one for one in place.padding if one is not None]
            if len(visited) == len(place.padding) >= CALLS and len({token for token, _, _ in visited}) == 1:
                token, share, rows = visited[-1]
                text = f"target {token} fills the ends of {rows:.0%} of the rows and stands nowhere else: {share:.0%} "
                text += "of all targets that the loss counts"
                results.append(as_warning(Code.ARGUMENTS, "padding counts in the loss", text, place.where))
        return results


def _always(values: list[tuple[int, int] | None], wanted: int) -> bool:
    return len(values) >= CALLS and all(value is not None and value[0] == wanted for value in values)


def _of_answers(shift: tuple[int, int] | None, inputs: list[Tensor], cuts: Cuts) -> tuple[int, int] | None:
    """The shift against the answers, whose first places a loss may leave out as nothing foretells them."""
    if shift is None or not cuts.front or cuts.size not in inputs[shift[1]].shape:
        return shift
    places = shift[0] - cuts.front
    return (places, shift[1]) if places >= 0 else None


def _has(values: list[tuple[int, int] | None], wanted: int) -> bool:
    return any(value is not None and value[0] == wanted for value in values)


def is_tokens(value: Tensor) -> bool:
    """Whether a tensor may hold rows of tokens: whole numbers of more than two kinds, in two dimensions."""
    integer = value.dtype in (torch.int64, torch.int32, torch.int16, torch.uint8)
    if not integer or value.dim() != 2 or not FEWEST <= value.numel() <= TOKENS or value.layout is not torch.strided:
        return False
    try:
        return bool(value.max() - value.min() > 1)
    except RuntimeError:
        return False


def _aligned(target: Tensor, inputs: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows of targets and of inputs over time, where time comes second, and where it comes first."""
    rows, columns = inputs.shape
    if target.numel() % rows == 0 and target.shape[0] in (rows, target.numel()):
        yield target.reshape(rows, -1), inputs
    if target.numel() % columns == 0 and (target.dim() == 1 or target.shape[1] == columns):
        yield target.reshape(-1, columns).t(), inputs.t()


def shift_between(
    target: Tensor, ignored: int, inputs: list[Tensor], alone: Collection[int] = ()
) -> tuple[int, int] | None:
    """By how many places targets are inputs moved, and the first of these inputs; None if that cannot be told.

    Args:
        target: tokens, (N, T) or flat.
        ignored: a target that does not count.
        inputs: tokens, each (N, T) or (T, N).
        alone: places of inputs that are nothing but targets, and tell something only where the others do not.
    """
    places = set(range(len(inputs)))
    of_others = _shifts(target, ignored, inputs, places - set(alone))
    results = of_others or _shifts(target, ignored, inputs, alone)
    return next(iter(results.items())) if len(results) == 1 and -1 not in results else None


def _shifts(target: Tensor, ignored: int, inputs: list[Tensor], places: Collection[int]) -> dict[int, int]:
    """The first place of each shift; −1 for tokens that are nearly those of a shift, or of several."""
    results: dict[int, int] = {}
    for place in sorted(places):
        for wanted, given in _aligned(target, inputs[place]):
            shares = {shift: _agreement(wanted, ignored, given, shift) for shift in SHIFTS}
            same = [shift for shift, share in shares.items() if share is not None and share >= SAME]
            near = [shift for shift, share in shares.items() if share is not None and share >= CHANCE]
            for shift in same if same == near else [-1]:
                results.setdefault(shift, place)
    return results


def _shifted_twice(target: Tensor, ignored: int, inputs: list[Tensor], alone: Collection[int], cuts: int) -> bool:
    """Whether targets are inputs two places on by two shifts, each of one place.

    Args:
        target: tokens, (N, T) or flat.
        ignored: a target that does not count.
        inputs: tokens, each (N, T) or (T, N).
        alone: places of inputs that are nothing but targets.
        cuts: how often the loss was given its answers without the last place.
    """
    others = set(range(len(inputs))) - set(alone)
    if any({*_shifts(inputs[place], ignored, inputs, others)} == {1} for place in alone):
        # The network was given labels that are shifted, and has shifted them.
        return {*_shifts(target, ignored, inputs, alone)} == {1}
    fewer = {value.numel() - length for place in others for value in (inputs[place],) for length in value.shape}
    # Without the last answer, and yet with a target beyond the end of the inputs.
    return cuts > 1 or (cuts == 1 and target.numel() in fewer)


def _agreement(wanted: Tensor, ignored: int, given: Tensor, shift: int) -> float | None:
    """The share of targets that are the input some places on."""
    length = min(wanted.shape[1], given.shape[1] - shift)
    if length < 2:
        return None
    ends = wanted[:, :length].to(given.device), given[:, shift : shift + length]
    counted = (ends[0] != ignored) & (ends[0] >= 0)
    number = int(counted.sum())
    return None if number < FEWEST else float((ends[0] == ends[1])[counted].double().mean())


def padding_in(target: Tensor, ignored: int, inputs: list[Tensor]) -> tuple[int, float, float] | None:
    """A token that fills the ends of rows of unequal lengths and stands nowhere else, in targets and in inputs.

    Args:
        target: tokens, (N, T) or flat.
        ignored: a target that does not count.
        inputs: tokens, each (N, T) or (T, N).

    Returns:
        Token, its share of the targets, and the share of the rows that end in it; None if there is none.
    """
    for tokens in inputs:
        for wanted, given in _aligned(target, tokens):
            # Networks that shift the targets themselves have none left for the last tokens.
            wanted = wanted[:, : int((wanted != ignored).any(0).sum())]
            if min(wanted.shape) < 4 or bool((wanted == ignored).any()):
                continue
            token = int(wanted[:, -1].mode().values)
            ends, lengths = tails(wanted, token)
            if not bool(ends.any()) or len(lengths.unique()) < 3:
                continue
            held, turned = wanted == token, given is not tokens
            share, rows = float(held.double().mean()), float((lengths > 1).double().mean())
            visited = [
                (tails(one, token)[0], one == token) for one in (value.t() if turned else value for value in inputs)
            ]
            alone = bool((held == ends).all()) and all(bool((tail == all_of).all()) for tail, all_of in visited)
            also = any(bool(tail.any()) for tail, _ in visited)
            if alone and also and share >= PADDING and rows >= ROWS_PADDED:
                return token, share, rows
    return None


def tails(rows: Tensor, token: int) -> tuple[Tensor, Tensor]:
    """Where rows of tokens, (N, T), end in runs of one token, and how long those are."""
    ends = (rows == token).flip(1).long().cumprod(1).flip(1).bool()
    return ends, ends.sum(1)
