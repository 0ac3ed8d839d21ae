"""What can be tried on a network with nothing but an input of it: the same input twice, and its samples exchanged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from rislab.checkup.findings import Finding, as_fault, as_note, as_warning, listed
from rislab.checkup.observers.token_targets import TARGETS
from rislab.checkup.probes.batch_softmax import own_weights
from rislab.checkup.probes.network_copies import copy_network
from rislab.checkup.probes.probe_batches import exchange, map_leaves, tensors_in
from rislab.checkup.probes.sample_mixing import (
    SAME,
    Arguments,
    Mixing,
    Run,
    by_place,
    find_mixing,
    state_of,
    why_meant,
)
from rislab.checkup.probes.seeds import one_seed
from rislab.checkup.recording.call_stack import caller
from rislab.checkup.recording.trace import precision_of
from rislab.checkup.rules import Code
from rislab.errors import error_text

MIXED = "the samples of a batch are mixed"
OVER_THE_BATCH = "normalised over the batch"
# Layers that take their first dimension for times unless they are told otherwise; places that are no ensemble.
SEQUENCES = (nn.RNNBase, nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)
PLACES = 8
NAMES = {"all": OVER_THE_BATCH, "most": OVER_THE_BATCH} | dict.fromkeys(
    ("others", "some", "following", "fading", "place"), MIXED
)


def network_probes(
    model: nn.Module, args: tuple[Any, ...], named: Mapping[str, Any] | None = None, shuffled: bool = False
) -> list[Finding]:
    """Try a network on an input that it was called with, without loss and target; nothing that is given is changed.

    Evaluated twice on one input it must answer the same: a fault. Answers that change with the other samples of the
    batch are a warning, and only where nothing speaks for that they are meant to; so is an input that changes none.
    They are a fault where no batch is mixed on purpose like that: by a view that takes several samples for one, or by
    weights that are normalised over the samples, and used within one; and where samples that are `shuffled`, each a
    sequence, are taken for times by a layer of torch, or where each place among them has answers of its own.
    """
    arguments = _detached((args, named or {}))
    with one_seed(0), torch.no_grad():
        try:
            findings = evaluated_twice(model, arguments)
        except Exception as error:
            return [not_tried(Code.TWICE, error)]
        if findings:
            return findings
        try:
            copied = copy_network(model).eval()
            run = runner(copied)
            mixing = find_mixing(run, arguments, precision_in(model, arguments))
            if mixing is None or mixing.kind in ("", "some") or why_meant(copied, run, arguments, mixing):
                return _unused_inputs(model, arguments)
            # Short convolutions along the first dimension fade as well, and may be meant.
            if mixing.kind == "fading" and not any(isinstance(one, nn.RNNBase) for one in copied.modules()):
                return _unused_inputs(model, arguments)
            text, where = own_weights(run, arguments, mixing.samples) if mixing.kind in ("all", "most") else ("", "")
            evidence = f"{described(mixing)}; {text}" if text else described(mixing)
            random = shuffled and (
                _samples_are_times(copied, run, arguments, mixing)
                if mixing.kind in ("following", "fading")
                else mixing.kind == "place" and _each_place_differs(run, arguments, mixing.samples)
            )
            evidence += ", whose samples a loader has shuffled" if random else ""
            kind = as_fault if text or mixing.scrambled or random else as_warning
            return [kind(Code.INDEPENDENCE, NAMES[mixing.kind], evidence, where)]
        except Exception as error:
            return [not_tried(Code.INDEPENDENCE, error)]


def _samples_are_times(copied: nn.Module, run: Run, arguments: Arguments, mixing: Mixing) -> bool:
    """Whether a layer of torch that wants times first was given samples there, each of them several places long.

    A network that remembers the samples of an episode runs along them on purpose: they come to it one by one.
    """
    shapes: list[torch.Size] = []

    def note(module: nn.Module, args: tuple[Any, ...]) -> None:
        if not getattr(module, "batch_first", False) and args and isinstance(args[0], Tensor):
            shapes.append(args[0].shape)

    handles = [one.register_forward_pre_hook(note) for one in copied.modules() if isinstance(one, SEQUENCES)]
    try:
        run(arguments)
    finally:
        for handle in handles:
            handle.remove()
    return any(len(shape) == 3 and shape[0] == mixing.samples and shape[1] > 1 for shape in shapes)


def _each_place_differs(run: Run, arguments: Arguments, samples: int) -> bool:
    """Whether one sample at all places has another answer at each; members of an ensemble answer at several alike."""

    def filled(leaf: Any) -> Any:
        of_samples = isinstance(leaf, Tensor) and leaf.dim() and len(leaf) == samples
        return leaf[:1].expand_as(leaf).clone() if of_samples else leaf

    tables = [by_place(value, 0, samples) for value in tensors_in(run(map_leaves(arguments, filled))).values()]
    rows = [value.double().round(decimals=6) for value in tables if value is not None and not value.is_complex()]
    return samples >= PLACES and any(len(value.unique(dim=0)) == samples for value in rows)


def _unused_inputs(model: nn.Module, arguments: Arguments) -> list[Finding]:
    """Inputs with an entry for each sample that change no answer in either mode, where others do."""
    # A target may be handed to a network that leaves the loss to its caller.
    named = {name: value for name, value in arguments[1].items() if name not in TARGETS}
    given = {f"input {place}": value for place, value in enumerate(arguments[0], start=1)} | named
    inputs = {name: value for name, value in given.items() if isinstance(value, Tensor) and value.dim()}
    samples = max((len(value) for value in inputs.values()), default=0)
    runs = [runner(copy_network(model).train(mode)) for mode in (False, True)] if len(inputs) > 1 else []
    answers = [run(arguments) for run in runs]
    uses: dict[str, bool] = {}
    for name, value in inputs.items():
        # Masks and flags may well be alike in all that they change.
        other = value.roll(1, 0) if len(value) == samples and value.dtype != torch.bool else value
        if not torch.equal(other, value):
            changed = exchange(arguments, value, other)
            uses[name] = any(_difference(answer, run(changed)) > 0 for answer, run in zip(answers, runs, strict=True))
    unused = [name for name, used in uses.items() if not used]
    if not unused or len(unused) == len(uses):
        return []
    text = f"exchanged between samples, {listed(unused)} changes no answer in either mode, and the others do"
    return [as_warning(Code.INPUTS, "network never sees an input", text)]


def not_tried(code: Code, error: Exception) -> Finding:
    """The note that something could not be tried, with what was raised."""
    return as_note(code, "not judged", f"{type(error).__name__}: {error_text(error)}")


def described(mixing: Mixing, mode: str = "evaluation") -> str:
    """What was found of a mixing, in words."""
    text = f"in {mode} mode, sample {mixing.sample + 1} of {mixing.samples} was exchanged"
    if mixing.kind == "all":
        return f"{text}, and all answers changed, those of others by {mixing.error:.2g} of themselves"
    if mixing.kind == "place":
        text = f"in {mode} mode, {mixing.samples} samples were turned by one place, and their answers changed by "
        return f"{text}{mixing.error:.2g} of themselves: an answer depends on the place of its sample in the batch"
    if mixing.kind in ("following", "fading"):
        return f"{text}, and its answer and those after it changed: a recurrence runs along the batch"
    answers = listed([place + 1 for place in mixing.changed])
    return f"{text}, and the answers that changed are {answers}, by {mixing.error:.2g} of themselves"


def precision_in(model: nn.Module, arguments: Arguments) -> str:
    """The coarsest precision among weights and inputs."""
    types = {value.dtype for value in (*model.parameters(), *tensors_in(arguments).values())}
    return precision_of(tuple(types))


def runner(model: nn.Module, seed: int = 0) -> Run:
    """Calls a network with copies of arguments, at the same random state each time."""

    def run(arguments: Arguments) -> Any:
        args, named = map_leaves(arguments, _clone)
        with one_seed(seed):
            return model(*args, **named)

    return run


def evaluated_twice(model: nn.Module, arguments: Arguments) -> list[Finding]:
    """The same input twice in evaluation mode, on copies of a network."""
    code = Code.TWICE
    tolerance = SAME[precision_in(model, arguments)]
    copied = copy_network(model).eval()
    first = runner(copied, 1)(arguments)
    before = _state(copied)
    second = runner(copied, 2)(arguments)
    error = _difference(first, second)
    if not error > tolerance:
        return []
    text = f"one input, twice in evaluation mode: answers differ by {error:.2g} of themselves"
    again = copy_network(model).eval()
    if not _difference(first, runner(again, 2)(arguments)) > tolerance:
        return _changed_state(text, before, _state(copied), arguments)
    calls = _RandomCalls()
    args, named = map_leaves(arguments, _clone)
    with one_seed(3), calls:
        copy_network(model).eval()(*args, **named)
    for kind, name in (("dropout", "dropout in evaluation mode"), ("layer", "layers made in the forward")):
        drawing = [one for one in calls.calls if one.kind == kind]
        if drawing:
            return [as_fault(code, name, f"{text}; {drawing[0].function} drew random numbers", drawing[0].where)]
    drawn = [one for one in calls.calls if one.kind == "sample"]
    source = f"{drawn[0].function} at {drawn[0].where}" if drawn else "no function of torch that could be observed"
    meant = "as is meant in variational networks, diffusion and policies"
    return [as_note(code, "random answers in evaluation mode", f"{text}; random numbers came from {source}, {meant}")]


def _changed_state(text: str, before: dict[str, Any], after: dict[str, Any], arguments: Arguments) -> list[Finding]:
    """What to say of a network whose state, and not chance, made its second answer another."""
    changed = [name for name in after if name not in before or not _equal(before[name], after[name])]
    sizes = {int(tensor.shape[0]) for tensor in tensors_in(arguments).values() if tensor.dim()}
    sizes |= {int(tensor.shape[1]) for tensor in tensors_in(arguments).values() if tensor.dim() > 1}
    carried = [name for name in changed if isinstance(after[name], Tensor) and sizes & {*after[name].shape[:-1]}]
    if carried or not changed:
        where = listed(carried) if carried else "nothing that could be observed"
        evidence = f"{text}; between them changed {where}, as the state of a recurrent network"
        return [as_note(Code.TWICE, "state carried to the next call", evidence)]
    evidence = f"{text}; between them changed {listed(changed)}"
    return [as_fault(Code.TWICE, "evaluation changes the network", evidence)]


def _state(model: nn.Module) -> dict[str, Any]:
    """Numbers and copies of all tensors that the modules of a network hold, by name."""
    held: dict[str, Any] = {}
    for prefix, module in model.named_modules():
        where = f"{prefix}." if prefix else ""
        for name, value in state_of(module).items():
            if isinstance(value, int | float):
                held[where + name] = value
            else:
                tensors = tensors_in(value, where + name)
                held |= {path: tensor.detach().clone() for path, tensor in tensors.items()}
    return held


def _equal(one: Any, two: Any) -> bool:
    return torch.equal(one, two) if isinstance(one, Tensor) and isinstance(two, Tensor) else bool(one == two)


def _difference(first: Any, second: Any) -> float:
    """The largest relative difference between the tensors of two outputs; infinity if their shapes differ."""
    pairs = [*tensors_in(first).values()], [*tensors_in(second).values()]
    if [one.shape for one in pairs[0]] != [two.shape for two in pairs[1]]:
        return float("inf")
    largest = 0.0
    for one, two in zip(*pairs, strict=True):
        if not (one.is_floating_point() or one.is_complex()) or one.isnan().any():
            continue
        length = float(one.abs().double().norm())
        change = float((one - two).abs().double().norm())
        largest = max(largest, change / length if length else float(change > 0))
    return largest


def _clone(leaf: Any) -> Any:
    return leaf.detach().clone() if isinstance(leaf, Tensor) else type(leaf)(_clone(one) for one in leaf)


def _detached(arguments: Arguments) -> Arguments:
    args, named = map_leaves(arguments, _clone)
    return args, named


@dataclass(frozen=True)
class _RandomCall:
    """A function of torch that drew random numbers: a dropout, the first values of a layer, or a sample."""

    kind: str
    function: str
    where: str


class _RandomCalls(TorchFunctionMode):
    """Notes which functions move the random state."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[_RandomCall] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        devices = {value.device for value in tensors_in((args, kwargs)).values() if value.is_cuda}
        before = _random_states(devices)
        result = func(*args, **kwargs)
        if any(not torch.equal(one, two) for one, two in zip(before, _random_states(devices), strict=True)):
            name = getattr(func, "__name__", str(func))
            attention = name in ("scaled_dot_product_attention", "multi_head_attention_forward")
            made = any(isinstance(value, nn.Parameter) for value in (*args[:1], kwargs.get("tensor")))
            kind = "dropout" if "dropout" in name or attention else "layer" if made else "sample"
            self.calls.append(_RandomCall(kind, name, caller()[0]))
        return result


def _random_states(devices: set[torch.device]) -> list[Tensor]:
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in devices)]
