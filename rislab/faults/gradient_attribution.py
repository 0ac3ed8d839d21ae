"""What a loop really did, measured from outside: which micro-batches reached which step, and with what weight.

The true gradient of every micro-batch is computed at the weights that a window began with. The gradient that really
arrived at the optimiser is then written as a weighted sum of them: a weight of 1 says that a micro-batch counted with
its exact share, 0 that it was lost, 4 that it was never divided. Nothing is read from the loop's source or its log.
"""

from __future__ import annotations

import copy
import itertools
import math
import types
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rislab.checkup.recording.gradients import compare_gradients, flat_gradient
from rislab.training import records
from rislab.training.loop import windows
from rislab.training.records import Record, Recorded, StepRecord

Values = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class GradientAttribution(Recorded):
    """What arrived at the optimiser in a training of W windows, in epochs of M micro-batches.

    Args:
        records: what the loop reported of itself.
        scenes: in the training set.
        window_starts: first micro-batch of each declared window of an epoch.
        unchanged: of each parameter tensor, whether it is at the end what it was at the start.
        micro_batch_weights: [W, M], weight with which each micro-batch of the epoch entered the window's steps, as a
            multiple of its exact share in its own window; NaN where no step was taken on finite numbers. It and the
            next four are NaN throughout where true gradients were not asked for.
        alpha: [W], ⟨g,r⟩/⟨r,r⟩ of the applied gradient g and the true gradient r of the declared window; NaN without a
            step.
        cosine: [W], of g and r; NaN without a step.
        relative_error: [W], ‖g − r‖/‖r‖; NaN without a step.
        coupling: [W], ‖r − s‖/‖s‖ with the gradient s of all scenes of the window in one forward: what the model itself
            makes of the division into micro-batches.
        steps: [W], optimiser steps that ran in the window.
        nonfinite_steps: [W], those of them on NaN or infinity.
        head_rate: [W], learning rate of the head at the first of them; NaN without one.
        true_loss: [W], sample-weighted mean loss of the declared window at the weights that it began with.
        relative_update: [W], ‖Δθ‖/‖θ‖.
    """

    records: list[Record]
    scenes: int
    window_starts: list[int]
    unchanged: list[bool]
    micro_batch_weights: Values
    alpha: Values
    cosine: Values
    relative_error: Values
    coupling: Values
    steps: Values
    nonfinite_steps: Values
    head_rate: Values
    true_loss: Values
    relative_update: Values

    def true_epoch_loss(self, epoch: int) -> float:
        """Sample-weighted mean of the true losses of the windows of an epoch, counted from 1."""
        pairs = [
            (w.samples, loss) for w, loss in zip(self.step_records, self.true_loss, strict=True) if w.epoch == epoch
        ]
        return float(sum(samples * loss for samples, loss in pairs) / sum(samples for samples, _ in pairs))


def attribute_gradients(
    package: types.ModuleType,
    config: Any,
    data: Any,
    model: nn.Module,
    *,
    validation: Any = None,
    true_gradients: bool = True,
) -> GradientAttribution:
    """Train with the loop of a package and measure what arrives at its optimiser.

    Args:
        package: a package with the modules of rislab, see patched().
        config: TrainConfig of the package.
        data: SceneBatch of the package.
        model: network of the package, trained in place.
        validation: scenes for the validation score, or None.
        true_gradients: compute the true gradient of every micro-batch before each window, most of the time that this
            takes; without them there are losses, steps and rates.

    Returns:
        Of each window what arrived and how it is made of the micro-batches' gradients; and the records of the loop.
    """
    state = package.training.state.TrainState.begin(model, len(data), config)
    data = data.to(config.device, config.dtype)
    arrived: list[tuple[Tensor, float]] = []

    def note(optimizer: torch.optim.Optimizer, *unused: Any) -> None:
        arrived.append((flat_gradient(model).double(), float(optimizer.param_groups[-1]["lr"])))

    handle = state.optimizer.register_step_pre_hook(note)
    initial = [parameter.detach().clone() for parameter in model.parameters()]
    reported: list[Record] = []
    rows: list[dict[str, Any]] = []
    try:
        with closing(package.training.loop.fit(model, data, config, validation=validation, resume=state)) as stream:
            start = _start(package, state, data, true_gradients)
            for record in stream:
                reported.append(records.from_dict(package.training.records.to_dict(record)))
                if isinstance(reported[-1], StepRecord):
                    rows.append(_window_row(start, arrived, _weights(model)))
                    arrived.clear()
                if state.progress.epoch <= config.epochs and state.progress.window < len(start.window_starts):
                    start = _start(package, state, data, true_gradients)
    finally:
        handle.remove()
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    unchanged = [torch.equal(one, other) for one, other in zip(initial, model.parameters(), strict=True)]
    return GradientAttribution(reported, len(data), start.window_starts, unchanged, **columns)


@dataclass(frozen=True, eq=False)
class _Start:
    """The truth at the start of a window: its loss, and gradient and share of each micro-batch of its epoch."""

    weights: Tensor
    window_starts: list[int]
    current: slice
    shares: Tensor  # [M], of each micro-batch in its own window
    loss: float
    gradients: Tensor | None  # [M, parameters], float64
    one_forward: Tensor | None  # [parameters], of the declared window in one forward


def _start(package: types.ModuleType, state: Any, data: Any, true_gradients: bool) -> _Start:
    config, progress, model = state.config, state.progress, copy.deepcopy(state.model).train()
    losses = package.model.losses
    phase = package.model.curriculum.loss_weights_at(config.curriculum, progress.epoch, config.epochs)

    def loss_of(indices: Tensor) -> Tensor:
        batch = data[indices]
        with torch.set_grad_enabled(true_gradients):
            predicted = model(batch.snapshots, batch.codes, batch.channel)
            return losses.compute_loss(predicted, batch, phase, config.blend).total

    def gradient(loss: Tensor) -> Tensor:
        model.zero_grad()
        loss.backward()
        return flat_gradient(model).double()

    declared = windows(len(data), config, progress.epoch)
    starts = [0, *itertools.accumulate(len(window.micro_batches) for window in declared)]
    current = slice(*starts[progress.window : progress.window + 2])
    micro_batches = [indices for window in declared for indices in window.micro_batches]
    shares = [len(indices) / window.samples for window in declared for indices in window.micro_batches]
    gradients, true_losses = [], []
    for indices in micro_batches if true_gradients else micro_batches[current]:
        true_losses.append(loss_of(indices))
        gradients += [gradient(true_losses[-1])] if true_gradients else []
    own = true_losses[current] if true_gradients else true_losses
    return _Start(
        weights=_weights(model),
        window_starts=starts[:-1],
        current=current,
        shares=torch.tensor(shares, dtype=torch.float64),
        loss=float(sum(share * float(loss.detach()) for share, loss in zip(shares[current], own, strict=True))),
        gradients=torch.stack(gradients) if true_gradients else None,
        one_forward=gradient(loss_of(torch.cat(micro_batches[current]))) if true_gradients else None,
    )


def _window_row(start: _Start, arrived: Sequence[tuple[Tensor, float]], weights: Tensor) -> dict[str, Any]:
    """What arrived at the optimiser in one window, in terms of what was true before."""
    return {
        **_against_true_gradients(start, [gradient for gradient, _ in arrived]),
        "steps": float(len(arrived)),
        "nonfinite_steps": float(sum(not bool(_finite(gradient)) for gradient, _ in arrived)),
        "head_rate": arrived[0][1] if arrived else math.nan,
        "true_loss": start.loss,
        "relative_update": float((weights - start.weights).norm() / start.weights.norm()),
    }


def _against_true_gradients(start: _Start, steps_taken: Sequence[Tensor]) -> dict[str, Any]:
    """The columns that need true gradients, NaN without them."""
    if start.gradients is None or start.one_forward is None:
        unknown = dict.fromkeys(("alpha", "cosine", "relative_error", "coupling"), math.nan)
        return {"micro_batch_weights": torch.full_like(start.shares, math.nan).numpy(), **unknown}
    true = start.shares[start.current] @ start.gradients[start.current]
    step = torch.stack([*steps_taken]).sum(dim=0) if steps_taken else torch.full_like(true, math.nan)
    comparison = compare_gradients(step, true)
    return {
        "micro_batch_weights": _weights_in(start.gradients, start.shares, step).numpy(),
        "alpha": comparison.alpha,
        "cosine": comparison.cosine,
        "relative_error": comparison.relative_error,
        "coupling": compare_gradients(true, start.one_forward).relative_error,
    }


def _weights_in(gradients: Tensor, shares: Tensor, step: Tensor) -> Tensor:
    """Weights of the micro-batches in a step by least squares, [M]; NaN for one whose gradient is not finite."""
    weight = torch.full_like(shares, math.nan)
    finite = _finite(gradients)
    if bool(_finite(step)):
        gradients = gradients if bool(finite.all()) else gradients[finite]
        gram = gradients @ gradients.mT
        weight[finite] = torch.linalg.pinv(gram, hermitian=True) @ (gradients @ step) / shares[finite]
    return weight


def _finite(gradients: Tensor) -> Tensor:
    """Whether all numbers of each gradient [..., P] are finite: their sum is not if one of them is not."""
    return torch.isfinite(gradients.sum(dim=-1))


def _weights(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().double().flatten() for parameter in model.parameters()]).cpu()
