"""The training loop: data and TrainConfig in, records out.

fit() is a generator that prints nothing; closing it stops at a step boundary. Terminal, panel, report, test and checkup
consume its one stream of records, and none of them can change what is trained: with and without a consumer the weights
are bit-identical.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from rislab.data.covariance import nmse, sample_factor, shrink
from rislab.data.scenes import SceneBatch
from rislab.errors import InputError
from rislab.model.curriculum import LossWeights, loss_weights_at
from rislab.model.losses import Loss, compute_loss
from rislab.model.network import to_module_device
from rislab.training.config import TrainConfig
from rislab.training.records import EpochRecord, GradientCounts, Record, StepRecord, Term
from rislab.training.state import TrainState

EVALUATION_BATCH = 128
# Dtype of the real-valued layers under autocast; the other precisions run without.
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def fit(
    model: nn.Module,
    data: SceneBatch,
    config: TrainConfig,
    *,
    validation: SceneBatch | None = None,
    resume: TrainState | Path | str | None = None,
) -> Generator[Record]:
    """Train a model in place and yield a StepRecord for each window and an EpochRecord for each epoch.

    Args:
        model: maps snapshots [B,L,M], codes [B,L,N], channel [B,M,N] to a factor [B,N,Kmax]; left in training mode.
        data: training scenes.
        config: see TrainConfig.
        validation: scenes for the validation score.
        resume: a checkpoint, a run folder that holds one, or a TrainState, which is advanced in place; None begins.

    Raises:
        InputError: for data with NaN or infinity, naming the scene, and for a checkpoint that does not fit.
    """
    state = _begin(model, data, config, resume)
    data, validation = _checked(data, config), None if validation is None else _checked(validation, config)
    optimizer, scaler, counter, device = state.optimizer, state.scaler, state.counter, torch.device(config.device)
    meter = WindowMeter(state)
    with counter.attached(model, optimizer):
        for epoch in range(state.progress.epoch, config.epochs + 1):
            began = time.perf_counter()
            phase = loss_weights_at(config.curriculum, epoch, config.epochs)
            model.train()
            for window in windows(len(data), config, epoch)[state.progress.window :]:
                meter.begin_window()
                stepped = counter.events["steps_applied"]
                with state.randomness.current():
                    optimizer.zero_grad(set_to_none=True)
                    for indices in window.micro_batches:
                        batch = data[indices]
                        with _autocast(config.precision, device):
                            predicted = model(batch.snapshots, batch.codes, batch.channel)
                            loss = compute_loss(predicted, batch, phase, config.blend)
                        weight = len(batch) / window.samples
                        scaler.scale(weight * loss.total).backward()
                        meter.add(loss, weight)
                    scaler.unscale_(optimizer)
                    norm = meter.measure_gradient()
                    finite = bool(torch.isfinite(norm))
                    if finite and config.clip_norm is not None and norm > config.clip_norm:
                        clip_grads_with_norm_(model.parameters(), config.clip_norm, norm)
                        meter.measure_gradient()
                    if finite or scaler.is_enabled():
                        scaler.step(optimizer)
                    scaler.update()
                    applied = counter.events["steps_applied"] > stepped
                    if applied:
                        state.scheduler.step()
                        state.update_average()
                record = meter.record(epoch, phase, window, applied)
                state.progress.advance(record.loss, record.samples, applied)
                yield record
            summary = _summary(state, data, validation, phase, began)
            state.progress.next_epoch()
            yield summary


@dataclass(frozen=True, eq=False)
class Window:
    """The micro-batches that share one optimiser step."""

    micro_batches: tuple[Tensor, ...]  # indices into the data, one tensor for each

    @property
    def samples(self) -> int:
        """Scenes in the window; the weight of a micro-batch is its share of them, so that a ragged tail is exact."""
        return sum(len(indices) for indices in self.micro_batches)


def windows(count: int, config: TrainConfig, epoch: int) -> list[Window]:
    """The windows of one epoch, a pure function of (count, config, epoch): each scene occurs exactly once.

    Args:
        count: number of scenes.
        config: micro_batch, accumulation_steps and seed are used.
        epoch: from 1.

    Returns:
        ⌈⌈count / micro_batch⌉ / accumulation_steps⌉ windows; the last may be smaller, in micro-batches and in scenes.
    """
    order = torch.from_numpy(np.random.default_rng([config.seed, epoch]).permutation(count))
    micro_batches = order.split(config.micro_batch)
    size = config.accumulation_steps
    return [Window(micro_batches[first : first + size]) for first in range(0, len(micro_batches), size)]


def config_warnings(config: TrainConfig, count: int) -> list[str]:
    """What a user may not expect of a configuration with a training set of `count` scenes, one sentence each."""
    micro_batches = math.ceil(count / config.micro_batch)
    messages = []
    if config.accumulation_steps > micro_batches:
        messages.append(
            f"accumulation_steps is {config.accumulation_steps}, and an epoch has {micro_batches} micro-batches: "
            "each epoch is one window of all of them"
        )
    elif micro_batches % config.accumulation_steps or count % config.micro_batch:
        tail = windows(count, config, 1)[-1]
        messages.append(f"the last window of each epoch holds {tail.samples} scenes; they keep their exact weight")
    if config.precision == "fp16" and torch.device(config.device).type == "cpu":
        messages.append("fp16 on a CPU runs about ten times slower than fp32")
    return messages


def evaluate(model: nn.Module, data: SceneBatch, *, beta: float = 0.0, precision: str = "fp32") -> Evaluation:
    """Score a model in eval mode, by the forward and the NMSE of training; its mode is restored.

    Args:
        model: see fit().
        data: scenes; brought to the device and dtype of the model's weights.
        beta: β of R_test.
        precision: "bf16" and "fp16" run the real-valued layers under autocast, as in training.

    Returns:
        Means over the scenes: NMSE against R, and against R_test.
    """
    training = model.training
    model.eval()
    try:
        return evaluate_in_mode(model, data, beta=beta, precision=precision)
    finally:
        model.train(training)


def evaluate_in_mode(model: nn.Module, data: SceneBatch, *, beta: float = 0.0, precision: str = "fp32") -> Evaluation:
    """evaluate() in the mode that the model is in."""
    data = to_module_device(data, model)
    sums = torch.zeros(2, dtype=torch.float64)
    with torch.no_grad():
        for first in range(0, len(data), EVALUATION_BATCH):
            batch = data[first : first + EVALUATION_BATCH]
            with _autocast(precision, batch.snapshots.device):
                predicted = model(batch.snapshots, batch.codes, batch.channel)
                truth = batch.factor()
                pred = nmse(predicted, truth)
                tested = pred if beta == 0 else nmse(shrink(predicted, sample_factor(batch), beta), truth)
            sums += torch.stack([tested.sum(), pred.sum()]).to("cpu", torch.float64)
    means = (sums / len(data)).tolist()
    return Evaluation(nmse_blended=means[0], nmse=means[1])


@dataclass(frozen=True)
class Evaluation:
    """Mean NMSE over scenes."""

    nmse_blended: float  # of R_test, the blend of prediction and sample covariance
    nmse: float  # of R_pred, the prediction; depends on no blend, weight or phase


class WindowMeter:
    """Measures windows one by one: losses, gradients before and after clipping, and how far the weights moved."""

    def __init__(self, state: TrainState) -> None:
        self._state = state
        self._groups = {group["name"]: group["params"] for group in state.optimizer.param_groups}
        self._parameters = [parameter for parameters in self._groups.values() for parameter in parameters]
        # One set of copies for the whole run: fresh memory for each window costs more than the copying.
        self._before = [torch.empty_like(parameter) for parameter in self._parameters]

    def begin_window(self) -> None:
        """Forget the last window and note the state at the start of this one."""
        self._started = time.perf_counter()
        self._rates = {group["name"]: float(group["lr"]) for group in self._state.optimizer.param_groups}
        self._scale = float(self._state.scaler.get_scale())
        for copy, parameter in zip(self._before, self._parameters, strict=True):
            copy.copy_(parameter.detach())
        self._losses: list[Tensor] = []
        self._terms: list[str] = []
        self._requires_grad = True
        self._norms: list[list[float | None]] = []

    def add(self, loss: Loss, weight: float) -> None:
        """Add one micro-batch with its share of the window."""
        self._terms = list(loss.terms)
        self._losses.append(weight * torch.stack([loss.total.detach(), loss.nmse_pred, *loss.terms.values()]))
        self._requires_grad &= loss.requires_grad

    def measure_gradient(self) -> Tensor:
        """Note the present gradient norm of every tensor; returns the norm over all of them, a scalar tensor."""
        gradients = [parameter.grad for parameter in self._parameters]
        present = [gradient for gradient in gradients if gradient is not None]
        if not present:
            self._norms.append([None] * len(gradients))
            return torch.zeros(())
        norms = torch.stack([gradient.norm() for gradient in present])
        if not bool(torch.isfinite(norms).all()):
            # A sum of squares may overflow although every element is finite.
            norms = torch.stack([gradient.double().norm() for gradient in present])
        values = iter(norms.tolist())
        self._norms.append([None if gradient is None else next(values) for gradient in gradients])
        return norms.norm()

    def record(self, epoch: int, phase: LossWeights, window: Window, applied: bool) -> StepRecord:
        """The StepRecord of this window; measure_gradient() was called before clipping and, if it was done, after."""
        total, pred, *terms = torch.stack(self._losses).sum(dim=0).tolist()
        weights = phase.by_term()
        before, after = self._norms[0], self._norms[-1]
        finite = all(norm is None or math.isfinite(norm) for norm in before)
        return StepRecord(
            epoch=epoch,
            step=self._state.progress.step + 1,
            phase=phase.name,
            micro_batches=len(window.micro_batches),
            samples=window.samples,
            loss=total,
            loss_nmse=terms[self._terms.index("nmse")],
            loss_nmse_pred=pred,
            terms={
                name: Term(value, weights[name], weights[name] * value / total if total else math.nan)
                for name, value in zip(self._terms, terms, strict=True)
            },
            requires_grad=self._requires_grad,
            grad_norm=self._by_group(before),
            grad_norm_clipped=self._by_group(after),
            coverage=GradientCounts(
                tensors=len(before),
                none=before.count(None),
                zero=before.count(0.0),
                nonfinite=sum(norm is not None and not math.isfinite(norm) for norm in before),
            ),
            learning_rate=self._rates,
            loss_scale=self._scale,
            found_inf=not finite,
            applied=applied,
            reason="" if applied else "the optimiser did not step" if finite else "NaN or infinity in the gradient",
            update_ratio=self._update_ratio(),
            seconds=time.perf_counter() - self._started,
        )

    def _by_group(self, norms: list[float | None]) -> dict[str, float]:
        values = iter(norms)
        return {
            name: math.hypot(*(norm for norm in islice(values, len(parameters)) if norm is not None))
            for name, parameters in self._groups.items()
        }

    def _update_ratio(self) -> float:
        size = get_total_norm(self._before)
        with torch.no_grad():
            moved = [copy.sub_(now) for copy, now in zip(self._before, self._parameters, strict=True)]
        return float(get_total_norm(moved) / size)


def _summary(
    state: TrainState, data: SceneBatch, validation: SceneBatch | None, phase: LossWeights, began: float
) -> EpochRecord:
    config, progress = state.config, state.progress
    with state.randomness.current():
        train = evaluate(state.model, data, beta=config.blend, precision=config.precision)
        scored = data if validation is None else validation
        score = None if validation is None else evaluate(state.model, scored, precision=config.precision)
        averaged = None if state.ema is None else evaluate(state.ema.module, scored, precision=config.precision)
    return EpochRecord(
        epoch=progress.epoch,
        epochs=config.epochs,
        step=progress.step,
        phase=phase.name,
        train=progress.loss_sum / progress.loss_samples,
        train_eval=train.nmse,
        loss_nmse=train.nmse_blended,
        loss_nmse_pred=train.nmse,
        validation=None if score is None else score.nmse,
        ema=None if averaged is None else averaged.nmse,
        counters=state.counters(),
        seconds=time.perf_counter() - began,
    )


def _begin(
    model: nn.Module, data: SceneBatch, config: TrainConfig, resume: TrainState | Path | str | None
) -> TrainState:
    for name, value, kind in (("model", model, nn.Module), ("data", data, SceneBatch), ("config", config, TrainConfig)):
        if not isinstance(value, kind):
            raise InputError(f"{name} is a {type(value).__name__}; allowed: a {kind.__name__}")
    if isinstance(resume, TrainState):
        if resume.model is not model or resume.config != config or resume.progress.samples != len(data):
            raise InputError("resume is the state of another model, configuration or set; allowed: that of this run")
        return resume
    state = TrainState.begin(model, len(data), config)
    if resume is not None:
        path = Path(resume)
        state.load(path / "checkpoint.pt" if path.is_dir() else path)
    return state


def _checked(data: SceneBatch, config: TrainConfig) -> SceneBatch:
    if not isinstance(data, SceneBatch) or len(data) == 0:
        raise InputError("validation holds no scenes; allowed: a SceneBatch of at least one")
    data.check_finite()
    return data.to(config.device, config.dtype)


def _autocast(precision: str, device: torch.device) -> torch.autocast:
    half = HALF.get(precision)
    return torch.autocast(device.type, dtype=half, enabled=half is not None)
