"""What is tried on networks of sequences: whether padding changes answers, and what masks leave out."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from rislab.checkup.findings import Finding, as_fault, as_warning
from rislab.checkup.observers.token_targets import is_tokens, tails
from rislab.checkup.probes.network_copies import copy_network
from rislab.checkup.probes.network_probes import runner
from rislab.checkup.probes.probe_batches import map_leaves, tensors_in
from rislab.checkup.probes.sample_mixing import Arguments
from rislab.checkup.recording.call_stack import caller
from rislab.checkup.rules import Code

# Answers may change so much with padding: by what a convolution, or a state that fades, takes from beyond the end.
FADING = 0.02
# Padding that all rows have left: what a convolution takes from beyond the end is the same then.
MARGIN = 4
# Answers of so many rows that differ by so much less with padding have forgotten their rows.
MANY_ROWS, FORGOTTEN = 8, 0.1
# Answers that change so much are others.
OTHERS = 0.5
# Places, rows and lengths that tell anything.
PLACES, ROWS, LENGTHS = 4, 2, 3
# What is added to a score so that it counts nothing.
NOTHING = -1e3


def sequence_probes(network: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> list[Finding]:
    """Faults and warnings of what was tried on a network and an input of it; what cannot be tried tells nothing."""
    findings: list[Finding] = []
    for probe in (_attention, _empty_mask, _padding, _backward_direction):
        if probe is _padding and findings:
            continue  # a mask that is wrong tells why
        try:
            findings += probe(network, (args, named))
        except Exception:  # of the network, on an input that it does not take
            continue
    return findings


def _padding(network: nn.Module, arguments: Arguments) -> list[Finding]:
    """The rows that are short, once with all their padding, and once with less."""
    tables = [value for value in tensors_in(arguments).values() if is_tokens(value)]
    tokens = next((value for value in tables if _lengths(value) is not None), None)
    if tokens is None:
        return []
    lengths, (count, width) = _lengths(tokens), tokens.shape
    assert lengths is not None
    short = (lengths <= width // 2).nonzero().flatten()
    if len(short) < ROWS or any(value.dim() > 2 and width in value.shape for value in tensors_in(arguments).values()):
        return []
    narrow = int(lengths[short].max()) + MARGIN
    if narrow >= width:
        return []

    def shortened(leaf: Any, to: int) -> Any:
        rows = leaf[short] if isinstance(leaf, Tensor) and leaf.dim() and len(leaf) == count else leaf
        along = isinstance(rows, Tensor) and rows.dim() == 2 and rows.shape[1] == width
        return rows[:, :to] if along else rows

    run = runner(copy_network(network).eval())
    with torch.no_grad():
        wide, less = (tensors_in(run(map_leaves(arguments, partial(shortened, to=to)))) for to in (width, narrow))
    largest, lost = 0.0, False
    for one, two in zip(wide.values(), less.values(), strict=True):
        if one.is_floating_point() and one.dim() > 1 and len(one) == len(two) == len(short):
            if one.shape[1] == width and two.shape[1] == narrow:
                one = one[:, :narrow]
            # Only the places before the padding.
            real = torch.arange(narrow, device=one.device) < lengths[short][:, None]
            largest = max(largest, _change(one, two, real))
            lost |= one.shape == two.shape and len(one) >= MANY_ROWS and _spread(one) < FORGOTTEN * _spread(two)
    if not largest > FADING:
        return []
    text = f"{len(short)} rows of tokens of at most {int(lengths[short].max())} places were given with "
    text += f"{width - narrow} places of padding less, and their answers changed by {largest:.2g} of themselves"
    unread = largest > OTHERS and _ignores_lengths(run, arguments, lengths)
    if lost:
        text += f"; with all of it they differ from each other by less than {FORGOTTEN:g} of what they do with less: "
        text += "behind the padding, what was read is forgotten"
    elif unread:
        text += "; the network is given the lengths of the rows, and answers alike with those of other rows"
    # Padding that is learned with may be meant, but not where the lengths are at hand, nor where the rows are lost.
    return [(as_fault if lost or unread else as_warning)(Code.ARGUMENTS, "answers change with padding", text)]


def _empty_mask(network: nn.Module, arguments: Arguments) -> list[Finding]:
    """A mask that leaves out nothing, beside rows with padding: once as it is, and once with that left out."""
    given = tensors_in(arguments)
    padded = next((places for value in given.values() if (places := _padded_places(value)) is not None), None)
    masks = {
        id(value)
        for value in given.values()
        if padded is not None and _has_shape_of(value, padded) and _is_one_number(value)
    }
    if padded is None or not masks:
        return []
    run = runner(copy_network(network).eval())
    with torch.no_grad():
        before = tensors_in(run(arguments))
        masked = map_leaves(arguments, lambda leaf: _masking(leaf, padded) if id(leaf) in masks else leaf)
        after = tensors_in(run(masked))
    largest = max(
        (_change(one, two, ~padded) for one, two in zip(before.values(), after.values(), strict=True)), default=0.0
    )
    if largest <= FADING:
        return []
    text = (
        f"{int(padded.any(1).sum())} of {len(padded)} rows have padding, and the mask that the network is given leaves "
    )
    text += f"out nothing: with the padding left out, its answers change by {largest:.2g} of themselves"
    return [as_warning(Code.ARGUMENTS, "mask that leaves out nothing", text)]


def _has_shape_of(value: Tensor, padded: Tensor) -> bool:
    """Whether a tensor has a number for each place of each row, as a mask that is broadcast over heads and queries."""
    return value.dim() > 1 and value.numel() == padded.numel() and (len(value), value.shape[-1]) == tuple(padded.shape)


def _is_one_number(value: Tensor) -> bool:
    return bool((value == value.flatten()[0]).all()) and float(value.flatten()[0]) in (0.0, 1.0)


def _masking(mask: Tensor, padded: Tensor) -> Tensor:
    """The mask with the padding left out: 1 keeps; of 0, what is added keeps, and what is true leaves out."""
    places = padded.reshape(mask.shape)
    if bool(mask.all()):
        return (~places).to(mask.dtype)
    return places * NOTHING if mask.is_floating_point() else places.to(mask.dtype)


def _change(one: Tensor, two: Tensor, real: Tensor) -> float:
    """By how much of themselves answers differ, at real places if there is one for each; 0 of what is no answer."""
    if not one.is_floating_point() or one.dim() < 2 or one.shape != two.shape:
        return 0.0
    if one.shape[:2] == real.shape:
        one, two = one[real], two[real]
    return float((two - one).norm() / one.norm().clamp_min(1e-30)) if bool(torch.isfinite(one).all()) else 0.0


def _ignores_lengths(run: Any, arguments: Arguments, lengths: Tensor) -> bool:
    """Whether a network is given the lengths of its rows, and gives the same answers with those of others."""
    given = {
        id(value)
        for value in tensors_in(arguments).values()
        if value.dim() == 1 and len(value) == len(lengths) and torch.equal(value.to(lengths), lengths)
    }
    if not given:
        return False
    changed = map_leaves(arguments, lambda leaf: leaf.roll(1, 0) if id(leaf) in given else leaf)
    try:
        with torch.no_grad():
            pairs = zip(tensors_in(run(arguments)).values(), tensors_in(run(changed)).values(), strict=True)
            return all(torch.equal(one, two) for one, two in pairs)
    except Exception:  # of the network, which uses them
        return False


def _spread(answers: Tensor) -> float:
    """How much answers of several rows differ from their mean."""
    return float((answers - answers.mean(0)).norm())


def _attention(network: nn.Module, arguments: Arguments) -> list[Finding]:
    """Attention that leaves out all real places of each row, and takes in all places of its padding."""
    padded = [mask for value in tensors_in(arguments).values() if (mask := _padded_places(value)) is not None]
    if not padded:
        return []
    # Without a graph, torch's own layers take another way, past the functions that are looked at.
    masks = _Masks()
    with torch.enable_grad(), masks:
        runner(copy_network(network).eval().requires_grad_(True))(arguments)
    for given, function, where in masks.calls:
        if any(_is_inverse(given, places) for places in padded):
            text = f"the mask of {function} leaves out each place that holds something, and none of the padding"
            return [as_fault(Code.ARGUMENTS, "attention to padding alone", text, where)]
        if any(_is_over_queries(given, places) for places in padded):
            text = f"the scores that {function} is given leave out all keys of each place that is padding, and no key "
            text += "of the others: what they attend to holds the padding"
            return [as_fault(Code.ARGUMENTS, "mask over the queries", text, where)]
    return []


def _padded_places(value: Tensor) -> Tensor | None:
    """Where rows of tokens, or of vectors, are padded, at their ends or all at their beginnings; None if none are."""
    if value.dim() not in (2, 3):
        return None
    at_ends = _padded_ends(value)
    at_beginnings = None if at_ends is not None else _padded_ends(value.flip(1))
    return at_ends if at_beginnings is None else at_beginnings.flip(1)


def _padded_ends(value: Tensor) -> Tensor | None:
    if value.dim() == 3 and value.is_floating_point():
        empty = ~value.bool().any(2)
        length = (~empty).sum(1)
        places = torch.arange(value.shape[1], device=value.device) >= length[:, None]
        known = torch.equal(empty, places) and len(length.unique()) >= LENGTHS and bool((length > 0).all())
        return places if known else None
    lengths = _lengths(value) if is_tokens(value) else None
    return None if lengths is None else torch.arange(value.shape[1], device=value.device) >= lengths[:, None]


def _is_inverse(left_out: Tensor, padded: Tensor) -> bool:
    """Whether a mask, over rows and heads, queries and keys, leaves out all but the padding; rows without any aside."""
    rows, width = padded.shape
    if left_out.shape[-1] != width or left_out.dim() < 2 or left_out.shape[0] % rows:
        return False
    some = padded.any(1)
    # A key is left out of a row if no head and no query takes it in; heads may stand beside each other.
    by_row = left_out.reshape(rows, -1, width).all(1)
    return int(some.sum()) >= LENGTHS and torch.equal(by_row[some], ~padded[some])


def _is_over_queries(left_out: Tensor, padded: Tensor) -> bool:
    """Whether a mask over queries and keys leaves out all keys where the query is padding, and none elsewhere."""
    rows, width = padded.shape
    if left_out.dim() < 3 or tuple(left_out.shape[-2:]) != (width, width) or left_out.shape[0] != rows:
        return False
    expected = padded.reshape(rows, *[1] * (left_out.dim() - 3), width, 1)
    return int(padded.any(1).sum()) >= LENGTHS and torch.equal(left_out, expected.expand_as(left_out))


class _Masks(TorchFunctionMode):
    """Notes what attention leaves out: which keys, of which function, where."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Tensor, str, str]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name, mask = getattr(func, "__name__", ""), None
        if func is functional.multi_head_attention_forward:
            mask = kwargs.get("key_padding_mask")
        elif func is functional.scaled_dot_product_attention:
            mask = kwargs.get("attn_mask", args[3] if len(args) > 3 else None)
            mask = ~mask if mask is not None and mask.dtype == torch.bool else mask
        elif name == "softmax" and args and isinstance(args[0], Tensor) and args[0].dim() > 2:
            mask = args[0]
        if isinstance(mask, Tensor):
            mask = mask.detach()
            self.calls.append((mask if mask.dtype == torch.bool else mask < NOTHING, name, caller()[0]))
        return func(*args, **kwargs)


def _lengths(tokens: Tensor) -> Tensor | None:
    """Lengths of rows that end in a token which stands nowhere else; None if there is none."""
    token = int(tokens[:, -1].mode().values)
    ends, padded = tails(tokens, token)
    if not bool(((tokens == token) == ends).all()) or len(padded.unique()) < LENGTHS or tokens.shape[1] < 2 * PLACES:
        return None
    lengths: Tensor = tokens.shape[1] - padded
    return lengths if bool((lengths > 0).all()) else None


def _backward_direction(network: nn.Module, arguments: Arguments) -> list[Finding]:
    """A recurrence in both directions of which the last place alone is used: there the backward one met one input."""
    copied = copy_network(network).eval()
    outputs: dict[nn.RNNBase, tuple[Tensor, list[Tensor]]] = {}

    def note(module: nn.RNNBase, _: Any, output: Any) -> None:
        sequence, states = output
        if isinstance(sequence, Tensor) and sequence.dim() == 3:
            outputs[module] = sequence, [*tensors_in(states).values()]

    recurrent = [one for one in copied.modules() if isinstance(one, nn.RNNBase) and one.bidirectional]
    for module in recurrent:
        module.requires_grad_(True).register_forward_hook(note)
    answers = tensors_in(runner(copied)(arguments)) if recurrent else {}
    total = sum((value.double().square().sum() for value in answers.values() if value.requires_grad), torch.zeros(()))
    for module, (sequence, states) in outputs.items():
        recurrence = f"weight_hh_l{module.num_layers - 1}_reverse"
        inputs = [getattr(module, recurrence), sequence, *states]
        weight, *grads = torch.autograd.grad(total, inputs, retain_graph=True, allow_unused=True)
        if grads[0] is None or any(one is not None and bool(one.any()) for one in grads[1:]):
            continue
        gradient = grads[0] if module.batch_first else grads[0].transpose(0, 1)
        used = gradient[..., gradient.shape[2] // 2 :].abs().sum((0, 2)) > 0
        if len(used) >= PLACES and bool(used[-1]) and int(used.sum()) == 1:
            text = f"of a bidirectional {type(module).__name__}, the last of {len(used)} places alone is used: there "
            text += "its backward direction has met one input"
            # A weight that no step can move is in nobody's plan; a state given at the start gives it a gradient.
            untrained = weight is not None and not bool(weight.any())
            text += f", and {recurrence} has a gradient of 0" * untrained
            kind = as_fault if untrained else as_warning
            return [kind(Code.ARGUMENTS, "backward direction after one input", text)]
    return []
