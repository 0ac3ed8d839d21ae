"""Micro-batches as the probes see them: nested tensors, of which samples are counted, chosen, exchanged and joined."""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from rislab.errors import InputError

# Targets of this value are left out of a cross entropy.
IGNORED = -100


class SampleList(list[Any]):
    """Tensors of different lengths, one a sample; a network gets them as one argument."""


def as_pairs(name: str, model: nn.Module, batches: Sequence[Any]) -> list[tuple[Any, Any]]:
    """Micro-batches as pairs of inputs and target.

    Args:
        name: of the argument, for the message.
        model: that is to be called with the inputs.
        batches: pairs, or mappings that hold inputs and targets; such a one is its own target.

    Raises:
        InputError: for a micro-batch that is neither.
    """
    pairs = []
    for place, batch in enumerate(batches):
        if isinstance(batch, Mapping) and tensors_in(batch):
            pairs.append((batch, batch))
            continue
        if not isinstance(batch, tuple | list) or len(batch) != 2 or not tensors_in(batch[0]):
            kinds = "a pair of inputs and target, or a mapping that holds both"
            raise InputError(f"{name}[{place}] is a {type(batch).__name__}; allowed: {kinds}")
        inputs, target = batch
        if _is_ragged(model, inputs, target):
            inputs = SampleList(inputs)
        samples = len(inputs) if isinstance(inputs, SampleList) else sample_count((inputs, target))
        if isinstance(target, list) and len(target) == samples and tensors_in(target):
            target = SampleList(target)
        pairs.append((inputs, target))
    return pairs


def _is_ragged(model: nn.Module, inputs: Any, target: Any) -> bool:
    """Whether a list holds one tensor a sample, and not one an argument."""
    if not isinstance(inputs, list) or not all(isinstance(one, Tensor) for one in inputs):
        return False
    places = _positional(model)
    if places is not None and len(inputs) > places:
        return True
    scalar = isinstance(target, Tensor) and not target.dim()
    answers = len(target) if isinstance(target, list | Tensor) and not scalar else None
    return answers == len(inputs) and any(one.shape[:1] != (answers,) for one in inputs)


def _positional(model: nn.Module) -> int | None:
    """How many arguments a network takes by position; None for any number."""
    kinds = [one.kind for one in _parameters(model)]
    if not kinds or inspect.Parameter.VAR_POSITIONAL in kinds:
        return None
    return sum(kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD) for kind in kinds)


def _parameters(model: nn.Module) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):
        return []


def arguments_of(model: nn.Module, inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments by position and by name with which a network is called: one tensor, a tuple or a mapping of them.

    Of a mapping, the network gets what it has a name for: targets may be in it too. It gets the mapping itself if it
    has a name for nothing in it.
    """
    if isinstance(inputs, Mapping):
        own = _parameters(model)
        if not own or any(one.kind is inspect.Parameter.VAR_KEYWORD for one in own):
            return (), dict(inputs)
        named = {one.name: inputs[one.name] for one in own if one.name in inputs}
        return ((), named) if named else ((inputs,), {})
    several = isinstance(inputs, tuple | list) and not isinstance(inputs, SampleList | PackedSequence)
    return (tuple(inputs) if several else (inputs,)), {}


def apply_model(model: nn.Module, inputs: Any) -> Any:
    """Call a network with what arguments_of() makes of inputs."""
    args, named = arguments_of(model, inputs)
    return model(*args, **named)


def tensors_in(value: Any, name: str = "input") -> dict[str, Tensor]:
    """The tensors in nested tuples, lists, mappings and plain objects, by name."""
    if isinstance(value, Tensor):
        return {name: value}
    pairs: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        pairs = value.items()
    elif isinstance(value, tuple | list):
        pairs = enumerate(value, start=1)
    elif is_dataclass(value) and not isinstance(value, type):
        pairs = [(one.name, getattr(value, one.name)) for one in fields(value)]
    elif hasattr(value, "__dict__") and not isinstance(value, type | nn.Module) and not callable(value):
        pairs = [(key, inner) for key, inner in vars(value).items() if not key.startswith("_")]
    return {key: tensor for label, inner in pairs for key, tensor in tensors_in(inner, f"{name} {label}").items()}


def map_leaves(value: Any, call: Callable[[Any], Any]) -> Any:
    """Nested tuples, lists and mappings with a function applied to each tensor, and to each list of samples."""
    if isinstance(value, Tensor | SampleList):
        return call(value)
    if isinstance(value, Mapping):
        return {name: map_leaves(inner, call) for name, inner in value.items()}
    if isinstance(value, PackedSequence):
        return value
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_leaves(inner, call) for inner in value))
    if isinstance(value, tuple | list):
        return type(value)(map_leaves(inner, call) for inner in value)
    return value


def leaves_of(inputs: Any) -> dict[str, Any]:
    """The tensors and lists of samples in inputs, by name."""
    if isinstance(inputs, SampleList):
        return {"input": inputs}
    if isinstance(inputs, Mapping):
        return {f"input {name}": leaf for name, inner in inputs.items() for leaf in leaves_of(inner).values()}
    if isinstance(inputs, tuple | list) and any(isinstance(inner, SampleList) for inner in inputs):
        return {f"input {at}": leaf for at, inner in enumerate(inputs, start=1) for leaf in leaves_of(inner).values()}
    return dict(tensors_in(inputs))


def exchange(value: Any, which: Any, other: Any) -> Any:
    """Nested tensors with one of them, told by identity, replaced."""
    return map_leaves(value, lambda leaf: other if leaf is which else leaf)


def sample_count(batch: Any) -> int:
    """Samples of a micro-batch: the first dimension of its first input."""
    if isinstance(batch[0], PackedSequence):
        return int(batch[0].batch_sizes[0])
    for leaf in leaves_of(batch[0]).values():
        if isinstance(leaf, SampleList) or leaf.dim():
            return len(leaf)
    return 1


def by_sample(leaf: Any, samples: int) -> bool:
    """Whether a tensor, or a list, has an entry for each sample."""
    return (isinstance(leaf, SampleList) or leaf.dim() > 0) and len(leaf) == samples


def concatenate(batches: Sequence[Any]) -> Any:
    """Several micro-batches as one."""
    first = batches[0]
    if isinstance(first, Tensor):
        return torch.cat([*batches]) if first.dim() else first
    if isinstance(first, SampleList):
        return SampleList(one for batch in batches for one in batch)
    if isinstance(first, Mapping):
        masked = any("mask" in str(name) for name in first)
        parts = {name: [batch[name] for batch in batches] for name in first}
        return {name: concatenate(_padded(name, part) if masked else part) for name, part in parts.items()}
    if isinstance(first, PackedSequence):
        raise InputError(
            "inputs is a PackedSequence; allowed where micro-batches are joined: padded tensors, or a list"
        )
    if isinstance(first, tuple | list):
        return type(first)(concatenate(inner) for inner in zip(*batches, strict=True))
    return first


def _padded(name: Any, parts: list[Any]) -> list[Any]:
    """Tensors of one length, the longest; a mask beside them says what was added, and labels are ignored there."""
    if not all(isinstance(part, Tensor) and part.dim() > 1 for part in parts):
        return parts
    longest = max(part.shape[1] for part in parts)
    added = IGNORED if "label" in str(name) else 0
    return [
        torch.cat([part, part.new_full((len(part), longest - part.shape[1], *part.shape[2:]), added)], dim=1)
        for part in parts
    ]


def sample_hashes(batches: Sequence[Any]) -> list[str]:
    """A fingerprint of each sample's inputs."""
    hashes = []
    for batch in batches:
        samples = sample_count(batch)
        leaves = [leaf for leaf in leaves_of(batch[0]).values() if by_sample(leaf, samples)]
        for place in range(samples if leaves else 0):
            rows = [torch.as_tensor(leaf[place]).detach().cpu().contiguous().reshape(-1) for leaf in leaves]
            hashes.append(hashlib.sha256(b"".join(row.view(torch.uint8).numpy().tobytes() for row in rows)).hexdigest())
    return hashes


def bits_of_sample(batch: Any) -> float:
    """How much the inputs of a sample can tell it from others, in bits; infinity for real numbers."""
    samples, bits = sample_count(batch), 0.0
    for leaf in leaves_of(batch[0]).values():
        if by_sample(leaf, samples):
            first = torch.as_tensor(leaf[0])
            real = first.is_floating_point() or first.is_complex()
            largest = max(int(torch.as_tensor(one).max()) for one in leaf) if not real and first.numel() else 0
            bits += math.inf if real else first.numel() * math.log2(2 + max(0, largest))
    return bits


def of_other_samples(leaf: Any) -> Any:
    """The samples of a leaf moved on by one; with other values, where all samples are the same."""
    moved = _moved_on(leaf)
    if isinstance(leaf, Tensor) and torch.equal(moved, leaf) and (leaf.is_floating_point() or leaf.is_complex()):
        return leaf + torch.randn_like(leaf) * (1 + leaf.abs())
    return moved


def samples_differ(leaf: Any) -> bool:
    """Whether the samples of a leaf are not all the same."""
    return not same_leaf(_moved_on(leaf), leaf)


def _moved_on(leaf: Any) -> Any:
    if isinstance(leaf, SampleList):
        return SampleList([*leaf[1:], *leaf[:1]])
    return leaf.roll(1, 0) if leaf.dim() else leaf


def same_leaf(first: Any, second: Any) -> bool:
    """Whether two leaves hold the same numbers."""
    if isinstance(first, Tensor):
        return torch.equal(first, second)
    return all(torch.equal(one, two) for one, two in zip(first, second, strict=True))
