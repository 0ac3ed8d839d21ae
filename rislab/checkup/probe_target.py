"""What the probes try things on: a network, its loss and its micro-batches, of which only copies are ever touched."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rislab.checkup.gradients import flat_gradient

Train = Callable[[nn.Module, torch.optim.Optimizer, Sequence[Any]], Sequence[float]]
# Logits of a class that a perfect network is sure of.
SURE = 40.0


@dataclass(frozen=True, eq=False)
class ProbeTarget:
    """What is probed; see probes.probe() for the fields."""

    model: nn.Module
    loss: Callable[..., Any]
    data: Sequence[Any]
    train: Train | None
    optimizer: torch.optim.Optimizer | None
    held_out: Sequence[Any]
    accumulation_steps: int
    perfect: Callable[[Any], Any] | None
    steps: int
    seed: int

    def copy(self) -> nn.Module:
        """The network, as it was given."""
        return copy.deepcopy(self.model)

    def optimizer_for(self, model: nn.Module) -> torch.optim.Optimizer:
        """A fresh optimiser for a copy: of the same class and options, Adam if there is none."""
        if self.optimizer is None:
            return torch.optim.Adam([value for value in model.parameters() if value.requires_grad], lr=1e-3)
        own = dict(zip(map(id, self.model.parameters()), model.parameters(), strict=True))
        groups = [
            {**group, "params": [own[id(value)] for value in group["params"] if id(value) in own]}
            for group in self.optimizer.param_groups
        ]
        kind: Callable[..., torch.optim.Optimizer] = type(self.optimizer)
        return kind(groups)

    def loss_of(self, model: nn.Module, batch: Any) -> Tensor:
        """The loss of a micro-batch, a scalar."""
        inputs, target = batch
        value: Tensor = self.loss(forward(model, inputs), target)
        return value

    def ideal(self, batch: Any) -> Any:
        """What a perfect network would put out for a micro-batch, None if nobody can tell."""
        inputs, target = batch
        if self.perfect is not None:
            return self.perfect(target)
        with torch.no_grad():
            output = forward(self.copy(), inputs)
        if not isinstance(output, Tensor) or not isinstance(target, Tensor):
            return None
        if output.shape == target.shape and output.is_complex() == target.is_complex():
            # A loss on logits has its best value at infinity.
            bounded = target.is_floating_point() or target.is_complex()
            return target.clone().to(output.dtype) if bounded else None
        if output.dim() == target.dim() + 1 and not target.is_floating_point():
            sure = functional.one_hot(target.clamp(min=0), output.shape[1]).movedim(-1, 1).to(output.dtype)
            return functional.log_softmax(SURE * sure, dim=1)
        return None

    def gradient(self, model: nn.Module, batches: Sequence[Any], shares: Sequence[float]) -> Tensor:
        """The gradient that micro-batches leave on a network, each with its share."""
        model.zero_grad(set_to_none=True)
        for batch, share in zip(batches, shares, strict=True):
            (share * self.loss_of(model, batch)).backward()
        return flat_gradient(model)


def forward(model: nn.Module, inputs: Any) -> Any:
    """Call a network with one tensor, a tuple of them, or a mapping."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple | list) else model(inputs)


def parts(value: Any, name: str = "input") -> dict[str, Tensor]:
    """The tensors in nested tuples, lists and mappings, by name."""
    if isinstance(value, Tensor):
        return {name: value}
    pairs: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping | tuple | list):
        pairs = value.items() if isinstance(value, Mapping) else enumerate(value, start=1)
    return {key: part for label, held in pairs for key, part in parts(held, f"{name} {label}").items()}


def mapped(value: Any, call: Callable[[Tensor], Tensor]) -> Any:
    """Nested tuples, lists and mappings with a function applied to each tensor."""
    if isinstance(value, Tensor):
        return call(value)
    if isinstance(value, Mapping):
        return {name: mapped(part, call) for name, part in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(mapped(part, call) for part in value)
    return value


def changed(value: Any, which: Tensor, other: Tensor) -> Any:
    """Nested tensors with one of them, told by identity, replaced."""
    return mapped(value, lambda part: other if part is which else part)


def count(batch: Any) -> int:
    """Samples of a micro-batch: the first dimension of its first input."""
    first = next((part for part in parts(batch[0]).values() if part.dim()), None)
    return 1 if first is None else int(first.shape[0])


def select(batch: Any, places: Tensor) -> Any:
    """Some samples of a micro-batch, in this order."""
    samples = count(batch)
    return mapped(batch, lambda part: part[places] if part.dim() and part.shape[0] == samples else part)


def joined(batches: Sequence[Any]) -> Any:
    """Several micro-batches as one."""
    if isinstance(batches[0], Tensor):
        return torch.cat([*batches])
    if isinstance(batches[0], Mapping):
        return {name: joined([batch[name] for batch in batches]) for name in batches[0]}
    if isinstance(batches[0], tuple | list):
        return type(batches[0])(joined(held) for held in zip(*batches, strict=True))
    return batches[0]


def weights(model: nn.Module) -> Tensor:
    """All weights and buffers as one vector of bytes."""
    held = [*model.parameters(), *model.buffers()]
    whole = [value.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for value in held]
    return torch.cat(whole) if whole else torch.zeros(0, dtype=torch.uint8)


def broken(model: nn.Module) -> bool:
    """Whether a weight is NaN or infinite."""
    return not all(bool(torch.isfinite(value).all()) for value in model.parameters())


def reloaded(state: Any) -> Any:
    """A state as a file would give it back."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """torch's random states begin at a seed, and are as they were afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
