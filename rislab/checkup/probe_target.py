"""What the probes try things on: a network, its loss and its micro-batches, of which only copies are ever touched."""

from __future__ import annotations

import copy
import hashlib
import io
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from rislab.checkup.gradients import flat_gradient
from rislab.checkup.trace import precision_of
from rislab.errors import InputError

Train = Callable[[nn.Module, torch.optim.Optimizer, Sequence[Any]], Sequence[float]]
# Logits of a class that a perfect network is sure of.
SURE = 40.0
# Learning rates that are tried one after the other when a batch is learned by heart.
RATES = (1e-2, 1e-3, 1e-1, 1e-4)


class Learned(NamedTuple):
    """A copy that learned the first micro-batch by heart: its loss before and after, and the rate of Adam."""

    model: nn.Module
    first: float
    last: float
    rate: float


@dataclass(frozen=True, eq=False)
class ProbeTarget:
    """What is probed; see probe() for the fields."""

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
        """The network as it was given, in training mode."""
        return copy.deepcopy(self.model).train()

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

    def pair(self) -> tuple[nn.Module, torch.optim.Optimizer]:
        """A copy and its optimiser."""
        model = self.copy()
        return model, self.optimizer_for(model)

    def compute_loss(self, model: nn.Module, batch: Any) -> Tensor:
        """The loss of a micro-batch, a scalar."""
        inputs, target = batch
        value: Tensor = self.loss(apply_model(model, inputs), target)
        return value

    def raw_loss(self, batch: Any, model: nn.Module | None = None) -> float:
        """The loss of a micro-batch as a number, of a fresh copy if no model is given."""
        with torch.no_grad():
            return float(self.compute_loss(self.copy() if model is None else model, batch).detach())

    def loss_and_slope(self, output: Tensor, target: Any) -> tuple[float, float]:
        """The loss of an output, and the norm of its gradient there."""
        at = output.detach().clone().requires_grad_()
        value = self.loss(at, target)
        (gradient,) = torch.autograd.grad(value, at)
        return float(value.detach()), float(gradient.abs().double().square().sum().sqrt())

    def perfect_output(self, batch: Any) -> Any:
        """What a perfect network would put out for a micro-batch, None if it cannot be guessed."""
        inputs, target = batch
        if self.perfect is not None:
            return self.perfect(target)
        with torch.no_grad():
            output = apply_model(copy.deepcopy(self.model), inputs)
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

    def output(self, inputs: Any, *, training: bool) -> Tensor:
        """The first tensor that a copy puts out."""
        with torch.no_grad(), seeded(self.seed):
            return first_tensor(apply_model(self.copy().train(training), inputs))

    def precision(self, output: Tensor) -> str:
        """The coarsest among the weights and an output."""
        return precision_of([value.dtype for value in self.model.parameters()] + [output.dtype])

    def gradient(self, model: nn.Module, batches: Sequence[Any], shares: Sequence[float]) -> Tensor:
        """The gradient that micro-batches leave on a network, each with its share; flat, real."""
        model.zero_grad(set_to_none=True)
        for batch, share in zip(batches, shares, strict=True):
            (share * self.compute_loss(model, batch)).backward()
        gradient = flat_gradient(model)
        return torch.view_as_real(gradient).flatten() if gradient.is_complex() else gradient

    def take_steps(self, model: nn.Module, optimizer: torch.optim.Optimizer, places: Iterable[int]) -> list[float]:
        """A step on each of some micro-batches; the losses before them."""
        losses = []
        for place in places:
            optimizer.zero_grad(set_to_none=True)
            loss = self.compute_loss(model, self.data[place % len(self.data)])
            loss.backward()
            optimizer.step(partial(float, loss.detach()) if isinstance(optimizer, torch.optim.LBFGS) else None)
            losses.append(float(loss.detach()))
        return losses

    def learn_by_heart(self, steps: int | None = None, stop: float = 0.0) -> Learned:
        """A copy after Adam on the first micro-batch, at the best of some rates.

        Args:
            steps: at each rate; `self.steps` if None.
            stop: share of the first loss at which a rate is left.
        """
        tried = []
        for rate in RATES:
            with seeded(self.seed):
                model = self.copy()
                adam = torch.optim.Adam([value for value in model.parameters() if value.requires_grad], lr=rate)
                losses: list[float] = []
                for _ in range(steps or self.steps):
                    losses += self.take_steps(model, adam, (0,))
                    if not math.isfinite(losses[-1]) or abs(losses[-1]) <= stop * abs(losses[0]):
                        break
            tried.append(Learned(model, losses[0], losses[-1], rate))
            if abs(losses[-1]) <= max(stop, 0.1) * abs(losses[0]):
                break
        return min(tried, key=lambda one: one.last if math.isfinite(one.last) else math.inf)


def check_pairs(name: str, pairs: Sequence[Any]) -> None:
    """Raise InputError unless each micro-batch is a pair of inputs and target."""
    for place, pair in enumerate(pairs):
        if not isinstance(pair, tuple | list) or len(pair) != 2 or not tensors_in(pair[0]):
            raise InputError(f"{name}[{place}] is a {type(pair).__name__}; allowed: a pair of inputs and target")


def apply_model(model: nn.Module, inputs: Any) -> Any:
    """Call a network with one tensor, a tuple of them, or a mapping."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple | list) else model(inputs)


def tensors_in(value: Any, name: str = "input") -> dict[str, Tensor]:
    """The tensors in nested tuples, lists and mappings, by name."""
    if isinstance(value, Tensor):
        return {name: value}
    pairs: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping | tuple | list):
        pairs = value.items() if isinstance(value, Mapping) else enumerate(value, start=1)
    return {key: tensor for label, inner in pairs for key, tensor in tensors_in(inner, f"{name} {label}").items()}


def first_tensor(output: Any) -> Tensor:
    """The first tensor of an output."""
    return next(iter(tensors_in(output).values()))


def map_tensors(value: Any, call: Callable[[Tensor], Tensor]) -> Any:
    """Nested tuples, lists and mappings with a function applied to each tensor."""
    if isinstance(value, Tensor):
        return call(value)
    if isinstance(value, Mapping):
        return {name: map_tensors(inner, call) for name, inner in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(map_tensors(inner, call) for inner in value)
    return value


def exchange(value: Any, which: Tensor, other: Tensor) -> Any:
    """Nested tensors with one of them, told by identity, replaced."""
    return map_tensors(value, lambda tensor: other if tensor is which else tensor)


def sample_count(batch: Any) -> int:
    """Samples of a micro-batch: the first dimension of its first input."""
    first = next((tensor for tensor in tensors_in(batch[0]).values() if tensor.dim()), None)
    return 1 if first is None else int(first.shape[0])


def select_samples(batch: Any, places: Tensor) -> Any:
    """Some samples of a micro-batch, in this order."""
    samples = sample_count(batch)
    return map_tensors(batch, lambda tensor: tensor[places] if tensor.dim() and tensor.shape[0] == samples else tensor)


def concatenate(batches: Sequence[Any]) -> Any:
    """Several micro-batches as one."""
    if isinstance(batches[0], Tensor):
        return torch.cat([*batches])
    if isinstance(batches[0], Mapping):
        return {name: concatenate([batch[name] for batch in batches]) for name in batches[0]}
    if isinstance(batches[0], tuple | list):
        return type(batches[0])(concatenate(inner) for inner in zip(*batches, strict=True))
    return batches[0]


def sample_hashes(batches: Sequence[Any]) -> list[str]:
    """A fingerprint of each sample's inputs."""
    hashes = []
    for batch in batches:
        held = [tensor.detach().cpu() for tensor in tensors_in(batch[0]).values() if tensor.dim()]
        for place in range(sample_count(batch)):
            rows = [tensor[place].contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() for tensor in held]
            hashes.append(hashlib.sha256(b"".join(rows)).hexdigest())
    return hashes


def state_bytes(model: nn.Module) -> Tensor:
    """All weights and buffers as one vector of bytes."""
    held = [*model.parameters(), *model.buffers()]
    parts = [value.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for value in held]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.uint8)


def save_and_load(state: Any) -> Any:
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
