"""The checks of the overfit ladder, each on the code that trains, and the models that they need."""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from rislab.checkup.recording.gradients import GRADIENT_TOLERANCES, compare_gradients
from rislab.data.covariance import (
    constant_baseline,
    covariance,
    frobenius_squared,
    identity_baseline,
    sample_factor,
    zero_baseline,
)
from rislab.data.philox import SPLITS
from rislab.data.scenes import SceneBatch
from rislab.data.simulation import simulate
from rislab.sanity.checks import Verdict, one_window
from rislab.sanity.overfit import first_window
from rislab.sanity.overfit_config import BATCH, OverfitConfig
from rislab.training.loop import HALF, evaluate, evaluate_in_mode, fit
from rislab.training.records import Record, epoch_records, equal_but_time, step_records
from rislab.training.shared_runs import shared_run
from rislab.training.state import TrainState

# NMSE that one batch must reach within 200 steps.
ONE_BATCH_NMSE = {"fp64": 1e-3, "fp32": 1e-3, "bf16": 1e-2, "fp16": 1e-2}
# NMSE that the whole set must reach in 30 epochs of 512 scenes.
FULL_SET_NMSE = {"full": 0.05, "classroom": 0.05}


class OracleModel(nn.Module):
    """A model that answers with the true factor of each scene.

    Args:
        data: the scenes that it can answer.
        change: of a factor [1, N, K] into the answer.
    """

    def __init__(self, data: SceneBatch, change: Callable[[Tensor], Tensor] = lambda factor: factor) -> None:
        super().__init__()
        self._answers = {self._key(scene.snapshots): change(scene.factor())[0] for scene in data}

    @staticmethod
    def _key(snapshots: Tensor) -> bytes:
        return torch.view_as_real(snapshots).detach().cpu().numpy().tobytes()

    def forward(self, snapshots: Tensor, codes: Tensor, channel: Tensor) -> Tensor:
        """True factors, [B,N,K]."""
        return torch.stack([self._answers[self._key(scene[None])] for scene in snapshots])


def check_splits(data: SceneBatch, seed: int) -> Verdict:
    """No scene of one split occurs in another, and none twice in its own; `data` is the first split of the seed."""
    others = [simulate(data.config, len(data), seed=seed, split=split) for split in SPLITS[1:]]
    hashes = [digest for batch in (data, *others) for digest in batch.hashes()]
    twice = len(hashes) - len(set(hashes))
    return Verdict(twice, "==", 0, f"scenes that occur twice among {len(hashes)} of three splits")


def check_oracle(data: SceneBatch, precision: str) -> Verdict:
    """The true covariance scores 0, by its NMSE and, at β = 0, by that against R_test."""
    score = evaluate(OracleModel(data[:BATCH]), data[:BATCH], precision=precision)
    worst = max(abs(score.nmse), abs(score.nmse_blended))
    return Verdict(worst, "<=", 1e-5, "NMSE of the true covariance through the training path, β = 0")


def check_oracle_blend(data: SceneBatch, beta: float, precision: str) -> Verdict:
    """At β > 0 the true covariance scores β² times the sample covariance, the floor that no training can pass."""
    data = data[:BATCH]
    score = evaluate(OracleModel(data), data, beta=beta, precision=precision).nmse_blended
    floor = blend_floor(data, beta)
    sentence = f"loss_nmse of the truth at β = {beta:g} is {score:.5g}; its floor, computed: {floor:.5g}"
    return Verdict(abs(score - floor), "<=", 1e-5, sentence)


def blend_floor(data: SceneBatch, beta: float) -> float:
    """loss_nmse of the true covariance at blend β: mean of β² · NMSE(R_sample), formed from dense matrices."""
    truth = data.covariance()
    sample = covariance(sample_factor(data))
    return float((beta**2 * frobenius_squared(sample - truth) / frobenius_squared(truth)).mean())


def check_zero(data: SceneBatch, precision: str) -> Verdict:
    """The zero matrix scores 1."""
    score = evaluate(OracleModel(data[:BATCH], torch.zeros_like), data[:BATCH], precision=precision)
    return Verdict(abs(score.nmse - zero_baseline()), "<=", 1e-5, "distance from 1 of the zero matrix's NMSE")


def check_identity(data: SceneBatch, precision: str) -> Verdict:
    """The identity scores what its closed form says."""
    data = data[:BATCH]
    line = identity_baseline(data)
    eye = torch.eye(data.config.elements, dtype=data.snapshots.dtype, device=data.snapshots.device)
    identity = OracleModel(data, lambda factor: eye.expand(len(factor), -1, -1))
    score = evaluate(identity, data, precision=precision).nmse
    sentence = f"identity scores {score:.5g} on {BATCH} scenes; closed form: {line:.5g}"
    return Verdict(abs(score - line), "<=", 1e-4, sentence)


def check_constant(data: SceneBatch) -> Verdict:
    """The best constant beats the identity, which beats the zero matrix."""
    constant, identity = constant_baseline(data), identity_baseline(data)
    sentence = "NMSE of the best constant; a network that scores no better has learned nothing"
    return Verdict(constant, "<=", identity, sentence)


def check_untrained(config: OverfitConfig, data: SceneBatch) -> Verdict:
    """An untrained network scores near 1: a low score would mean that the answer leaks in."""
    model = config.model().to(device=config.device, dtype=data.azimuth.dtype)
    score = evaluate(model, data, precision=config.precision).nmse
    return Verdict(score, ">=", 0.9, "NMSE before training")


def check_coverage(config: OverfitConfig, data: SceneBatch) -> Verdict:
    """Every trainable tensor gets a finite gradient that is not all zero."""
    model = config.model()
    one_window(model, data[:BATCH], config.training(micro_batch=BATCH, accumulation_steps=1, clip_norm=None))
    bad = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None or not bool(torch.isfinite(parameter.grad).all()) or not bool(parameter.grad.any())
    ]
    count = sum(1 for _ in model.parameters())
    listed = f" ({', '.join(bad)})" if bad else ""
    return Verdict(len(bad), "==", 0, f"of {count} tensors without a usable gradient{listed}")


def check_batch_independence(config: OverfitConfig, data: SceneBatch) -> Verdict:
    """A scene gets the same answer alone and in a batch."""
    model = config.model().to(device=config.device, dtype=data.azimuth.dtype)
    together = model.predict(data[:8])
    alone = torch.cat([model.predict(scene) for scene in data[:8]])
    change = _relative(together, alone)
    return Verdict(change, "<=", 1e-4, "relative change of the factor between a batch of 8 and of 1")


def check_input_dependence(config: OverfitConfig, data: SceneBatch) -> Verdict:
    """The answer moves with each of snapshots, codes and channel: without one of them the target is undetermined."""
    model = config.model().to(device=config.device, dtype=data.azimuth.dtype)
    scenes, others = data[:8], data[8:16]
    base = model.predict(scenes)
    changes = {
        name: _relative(model.predict(dataclasses.replace(scenes, **{name: getattr(others, name)})), base)
        for name in ("snapshots", "codes", "channel")
    }
    # NaN counts as the weakest of all: min() would pass over it.
    weakest = min(changes, key=lambda name: -math.inf if math.isnan(changes[name]) else changes[name])
    sentence = f"relative change of the factor with other {weakest}, the weakest input"
    return Verdict(changes[weakest], ">=", 1e-3, sentence)


def check_one_scene(config: OverfitConfig, data: SceneBatch) -> Verdict:
    """One scene is memorised."""
    model = config.model()
    training = config.training(epochs=100, micro_batch=1, accumulation_steps=1, curriculum="no-curriculum", blend=0.0)
    last = epoch_records(fit(model, data[:1], training))[-1]
    return Verdict(last.train_eval, "<=", ONE_BATCH_NMSE[config.precision], "NMSE of one scene after 100 steps")


def check_one_batch(config: OverfitConfig, data: SceneBatch) -> Verdict:
    """One batch of 64 scenes is memorised."""
    ends = epoch_records(one_batch(config, data))
    limit = ONE_BATCH_NMSE[config.precision]
    reached = next((end.step for end in ends if end.train_eval <= limit), None)
    when = f"reached at step {reached}" if reached else "never reached"
    return Verdict(ends[-1].train_eval, "<=", limit, f"NMSE of one batch of {BATCH} after 200 steps; {when}")


def one_batch(config: OverfitConfig, data: SceneBatch) -> list[Record]:
    """Records of 200 steps on the first 64 scenes."""
    training = config.training(
        epochs=200, micro_batch=BATCH, accumulation_steps=1, curriculum="no-curriculum", blend=0.0, ema=None
    )
    made = {"preset": config.preset, "design": config.design, "seed": config.seed}
    model, key = config.model(), {"one batch": vars(training), "model": made, "data": data[:BATCH].fingerprint()}
    return shared_run(__name__, key, model, lambda: list(fit(model, data[:BATCH], training)))


def check_accumulation(config: OverfitConfig, data: SceneBatch) -> Verdict:
    """Micro-batches of 16, 16, 16 and 8 scenes accumulate to the gradient of one batch of 56, ragged tail included."""
    data = data[:56]
    comparison = compare_gradients(first_window(config, data, 16, 4)[0], first_window(config, data, 56, 1)[0])
    limit, alpha_limit = GRADIENT_TOLERANCES[config.precision]
    # One number for both alarms: the larger of the two errors, each in units of its own alarm level.
    errors = comparison.relative_error / limit, abs(comparison.alpha - 1) / alpha_limit
    sentence = (
        f"× alarm level: relative L2 {comparison.relative_error:.1e}, α − 1 = {comparison.alpha - 1:+.1e}, "
        f"1 − cos = {1 - comparison.cosine:.1e} against one batch"
    )
    return Verdict(math.nan if math.isnan(errors[0]) else max(errors), "<=", 1.0, sentence)


def check_full_set(records: Sequence[Record], config: OverfitConfig) -> Verdict:
    """The whole set is memorised."""
    limit = FULL_SET_NMSE[config.preset]
    ends = epoch_records(records)
    if not ends:
        return Verdict(math.nan, "<=", limit, "the run was stopped before its first epoch ended: nothing to check")
    last = ends[-1]
    count = f"{last.epoch}" if last.epoch == config.epochs else f"{last.epoch} of {config.epochs}"
    sentence = f"NMSE of {config.scenes} scenes after {count} epochs (train {last.train:.5g} while it learned)"
    return Verdict(last.train_eval, "<=", limit, sentence)


def check_reported(records: Sequence[Record], config: OverfitConfig, data: SceneBatch) -> Verdict:
    """An epoch reports the mean over its windows, which equals the evaluated loss where no weight moves."""
    data = data[:56]
    # Two windows, of 32 and of 24 scenes; the last micro-batch is ragged; no step is large enough to move a weight.
    no_updates = {"optimiser": "sgd", "lr_head": 1e-12, "lr_backbone": 1e-12, "curriculum": "no-curriculum"}
    training = config.training(epochs=2, micro_batch=16, accumulation_steps=2, **no_updates)
    model = config.model()
    frozen = list(fit(model, data, training))
    true = evaluate(model, data, beta=config.blend, precision=config.precision)
    errors = [abs(end.train / true.nmse_blended - 1) for end in epoch_records(frozen)]
    errors += [abs(_window_mean(frozen, end.epoch, "loss_nmse_pred") / true.nmse - 1) for end in epoch_records(frozen)]
    errors += [abs(end.train / _window_mean(records, end.epoch, "loss") - 1) for end in epoch_records(records)]
    worst = math.nan if any(math.isnan(error) for error in errors) else max(errors)
    sentence = (
        f"relative error of reported losses: {epoch_records(frozen)[0].train:.6g} where {true.nmse_blended:.6g} is true"
    )
    return Verdict(worst, "<=", 1e-2 if config.precision in HALF else 1e-4, sentence)


def _window_mean(records: Sequence[Record], epoch: int, name: str) -> float:
    """Sample-weighted mean of a number over the windows of an epoch."""
    windows = [record for record in step_records(records) if record.epoch == epoch]
    return sum(vars(window)[name] * window.samples for window in windows) / sum(window.samples for window in windows)


def check_event_counts(records: Sequence[Record], config: OverfitConfig) -> Verdict:
    """Forwards, backwards, steps and scheduler ticks are as many as the configuration declares."""
    ends = epoch_records(records)
    if not ends:
        return Verdict(math.nan, "==", 0, "the run was stopped before its first epoch ended: nothing to count")
    training, counters, done = config.training(), ends[-1].counters, ends[-1].epoch
    micro_batches = math.ceil(config.scenes / training.micro_batch)
    windows = math.ceil(micro_batches / training.accumulation_steps)
    expected = {
        "forwards": micro_batches * done,
        "backwards": micro_batches * done,
        "steps": windows * done,
        "scheduler_ticks": counters.steps_applied,
    }
    # A step may be skipped only if its gradient was not finite.
    skipped_for_inf = sum(not window.applied and window.found_inf for window in step_records(records))
    counted = {
        "forwards": counters.forwards,
        "backwards": counters.backwards,
        "steps": counters.steps_applied + skipped_for_inf,
        "scheduler_ticks": counters.scheduler_ticks,
    }
    missing = sum(abs(counted[name] - expected[name]) for name in expected)
    shown = ", ".join(f"{name} {counted[name]}/{expected[name]}" for name in expected)
    return Verdict(missing, "==", 0, f"events too few or too many: {shown}; skipped {counters.steps_skipped}")


def check_train_against_eval(model: nn.Module, data: SceneBatch, config: OverfitConfig) -> Verdict:
    """The same weights on the same data answer alike in training mode and in eval mode."""
    evaluated = evaluate(model, data, precision=config.precision).nmse
    model.train()
    difference = abs(evaluate_in_mode(model, data, precision=config.precision).nmse - evaluated)
    limit = 1e-6 + 0.05 * abs(evaluated)
    sentence = "difference between training-mode and eval-mode NMSE, same weights and data"
    return Verdict(difference, "<=", limit, sentence)


class WithDropout(nn.Module):
    """A model with dropout behind it, so that its training depends on the random state."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.dropout = nn.Dropout(0.1)

    def forward(self, snapshots: Tensor, codes: Tensor, channel: Tensor) -> Tensor:
        """The model's factor with a tenth of its real and imaginary parts dropped in training mode."""
        return torch.view_as_complex(self.dropout(torch.view_as_real(self.model(snapshots, codes, channel))))


def check_resume(config: OverfitConfig, data: SceneBatch) -> Verdict:
    """Stopped in mid-epoch, saved, loaded and continued: the weights and records of a run never stopped, bit by bit."""
    data = data[:BATCH]
    training = config.training(epochs=2, micro_batch=BATCH // 8, accumulation_steps=2)

    def begin() -> TrainState:
        return TrainState.begin(WithDropout(config.model()), len(data), training)

    straight, stopped, resumed = begin(), begin(), begin()
    expected = list(fit(straight.model, data, training, resume=straight))
    stream = fit(stopped.model, data, training, resume=stopped)
    records = [next(stream) for _ in range(3)]
    stream.close()
    with tempfile.TemporaryDirectory() as folder:
        stopped.save(Path(folder) / "checkpoint.pt")
        resumed.load(Path(folder) / "checkpoint.pt")
    records += fit(resumed.model, data, training, resume=resumed)
    pairs = zip(_tensors(straight), _tensors(resumed), strict=True)
    different = sum(not torch.equal(one, other) for one, other in pairs)
    different += sum(not equal_but_time(one, other) for one, other in zip(expected, records, strict=True))
    return Verdict(different, "==", 0, f"weight tensors and records (of {len(expected)}) that differ after a resume")


def _tensors(state: TrainState) -> list[Tensor]:
    averaged = [] if state.ema is None else [*state.ema.state_dict().values()]
    return [*state.model.state_dict().values(), *averaged]


def _relative(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().square().sum().sqrt() / other.abs().square().sum().sqrt())
