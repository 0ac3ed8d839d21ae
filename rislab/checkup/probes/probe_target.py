"""What the probes try things on: a network, its loss and its micro-batches, of which only copies are ever touched."""

from __future__ import annotations

import copy
import io
import math
import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rislab.checkup.probes.network_copies import copy_network
from rislab.checkup.probes.probe_batches import apply_model, tensors_in
from rislab.checkup.probes.seeds import one_seed
from rislab.checkup.recording.gradients import flat_gradient
from rislab.checkup.recording.trace import precision_of
from rislab.errors import InputError

Train = Callable[[nn.Module, torch.optim.Optimizer, Sequence[Any]], Sequence[float]]
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
    loss: Callable[..., Any] | None
    data: Sequence[Any]
    train: Train | None
    optimizer: torch.optim.Optimizer | None
    held_out: Sequence[Any]
    accumulation_steps: int
    perfect: Callable[[Any], Any] | None
    steps: int
    seed: int
    scheduler: Any = None
    scaler: Any = None

    def copy(self) -> nn.Module:
        """The network as it was given, in training mode."""
        return copy_network(self.model).train()

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

    def scheduler_for(self, optimizer: torch.optim.Optimizer) -> Any:
        """The schedule as it was given, for the optimiser of a copy; None if there is none."""
        return copy.deepcopy(self.scheduler, {id(self.optimizer): optimizer})

    def scaler_copy(self) -> Any:
        """The gradient scaler as it was given; None if there is none."""
        return copy.deepcopy(self.scaler)

    def apply(self, model: nn.Module, batch: Any) -> Any:
        """What a network puts out for a micro-batch."""
        return apply_model(model, batch[0])

    def loss_of(self, output: Any, truth: Any) -> Tensor:
        """The loss of an output, a scalar; the network's own if none was given."""
        if self.loss is not None:
            value: Tensor = self.loss(output, truth)
            return value
        own = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
        if not isinstance(own, Tensor):
            raise InputError(f"loss is None, and the network puts out a {type(output).__name__} without a loss")
        return own

    def repeated_loss(self, output: Any, truth: Any) -> Tensor:
        """The same at the same random state each time."""
        with one_seed(self.seed):
            return self.loss_of(output, truth)

    def compute_loss(self, model: nn.Module, batch: Any) -> Tensor:
        """The loss of a micro-batch, a scalar."""
        return self.loss_of(self.apply(model, batch), batch[1])

    def raw_loss(self, batch: Any, model: nn.Module | None = None) -> float:
        """The loss of a micro-batch as a number, of a fresh copy if no model is given."""
        with torch.no_grad():
            return float(self.compute_loss(self.copy() if model is None else model, batch).detach())

    def first_batch_precision(self) -> str:
        """The coarsest among the weights and the first inputs."""
        return self.precision(*tensors_in(self.data[0][0]).values())

    def precision(self, *tensors: Tensor) -> str:
        """The coarsest among the weights and some tensors."""
        return precision_of(tuple(value.dtype for value in (*self.model.parameters(), *tensors)))

    def gradient(self, model: nn.Module, batches: Sequence[Any], shares: Sequence[float]) -> Tensor:
        """The gradient that micro-batches leave on a network, each with its share; flat, real."""
        model.zero_grad(set_to_none=True)
        for batch, share in zip(batches, shares, strict=True):
            (share * self.compute_loss(model, batch)).backward()
        gradient = flat_gradient(model)
        return torch.view_as_real(gradient).flatten() if gradient.is_complex() else gradient

    def take_steps(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        places: Iterable[int],
        scheduler: Any = None,
        scaler: Any = None,
    ) -> list[float]:
        """A step on each of some micro-batches, and a tick of the schedule; the losses before them."""
        losses = []
        for place in places:
            optimizer.zero_grad(set_to_none=True)
            loss = self.compute_loss(model, self.data[place % len(self.data)])
            losses.append(float(loss.detach()))
            if scaler is not None:
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
            else:
                loss.backward()
                optimizer.step(partial(float, loss.detach()) if isinstance(optimizer, torch.optim.LBFGS) else None)
            if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
                scheduler.step(losses[-1])
            elif scheduler is not None:
                scheduler.step()
        return losses

    @cached_property
    def learned(self) -> Learned:
        """A copy that learned the first micro-batch by heart, down to a hundredth of its first loss."""
        return self.learn_by_heart(stop=0.01)

    def learn_by_heart(self, steps: int | None = None, stop: float = 0.0) -> Learned:
        """A copy after Adam on the first micro-batch, at the best of some rates; each stops at a share of its loss."""
        tried = []
        for rate in RATES:
            with one_seed(self.seed):
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
    try:
        return torch.load(file, weights_only=True)
    except pickle.UnpicklingError:
        # A state with objects of the loop's own, which no file may bring back.
        return copy.deepcopy(state)
