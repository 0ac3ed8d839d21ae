"""The overfit ladder: a network that cannot memorise is broken, or its loop is; each check tells which, with a number.

Checks are ordered so that the first red one is the one to read. Each is judged through the same code that trains.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
import time
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rislab.checkup.gradients import GRADIENT_TOLERANCES, compare, flat_gradient
from rislab.config import Config, choice, integer, same
from rislab.data.covariance import (
    constant_baseline,
    covariance,
    frobenius_squared,
    identity_baseline,
    sample_factor,
    zero_baseline,
)
from rislab.data.philox import SPLITS
from rislab.data.scenes import SceneBatch, SceneConfig, preset
from rislab.data.simulation import simulate
from rislab.errors import InputError, check_choice, check_number
from rislab.model.network import DESIGNS, CovarianceNet
from rislab.sanity.checks import one_window
from rislab.training import run_folder
from rislab.training.config import HALF, PRECISIONS, TrainConfig
from rislab.training.loop import evaluate, fit, score
from rislab.training.records import Record, StepRecord, epoch_records, equal_but_time, step_records
from rislab.training.state import TrainState

# NMSE that one batch must reach within 200 steps.
ONE_BATCH = {"fp64": 1e-3, "fp32": 1e-3, "bf16": 1e-2, "fp16": 1e-2}
# NMSE that the whole set must reach in 30 epochs of 512 scenes.
WHOLE_SET = {"full": 0.05, "classroom": 0.05}
BATCH = 64


@dataclass(frozen=True)
class OverfitConfig(Config):
    """What the ladder trains; the backbone gets a tenth of `lr`. "unrolled" cannot learn noise by heart."""

    preset: str = preset("classroom")
    scenes: int = integer(512, BATCH, 10**7, "size of the training set")
    epochs: int = same(TrainConfig, "epochs", help="passes over the whole set")
    micro_batch: int = same(TrainConfig, "micro_batch", BATCH)
    accumulation_steps: int = same(TrainConfig, "accumulation_steps")
    precision: str = same(TrainConfig, "precision")
    seed: int = same(TrainConfig, "seed", help="of scenes, weights and order")
    lr: float = same(TrainConfig, "lr_head", help="peak learning rate of the head; a tenth for the backbone")
    blend: float = same(TrainConfig, "blend")
    curriculum: str = same(TrainConfig, "curriculum")
    clip_norm: float | None = same(TrainConfig, "clip_norm")
    validation: int = integer(0, 0, 10**7, "fresh scenes scored after each epoch; 0 for none")
    device: str = same(TrainConfig, "device")
    design: str = choice("memoriser", DESIGNS, "network, see CovarianceNet.build()")

    def check(self) -> None:
        """Refuse a micro-batch larger than the set, and what the loop refuses."""
        check_number("micro_batch", self.micro_batch, 1, self.scenes, integer=True)
        self.training()

    @classmethod
    def of_run(cls, folder: Path | str) -> OverfitConfig:
        """The configuration that a run folder of WholeSet was made with.

        Raises:
            InputError: for a folder that cannot be read, or that holds another kind of run.
        """
        plain = run_folder.read_config(folder)
        other = InputError(f"{folder} holds another kind of run; allowed: one of the overfit panel or `rislab overfit`")
        train, scenes = plain.get("train"), plain.get("scenes")
        if not isinstance(train, dict) or not isinstance(scenes, dict):
            raise other
        training, area = TrainConfig.from_dict(train), SceneConfig.from_dict(scenes)
        presets = [name for name in WHOLE_SET if SceneConfig.preset(name) == area]
        if not presets:
            raise other
        same_names = ("epochs", "micro_batch", "accumulation_steps", "precision", "seed", "blend", "curriculum")
        found = cls(
            preset=presets[0],
            scenes=plain.get("count"),  # type: ignore[arg-type]  # anything but a number is refused by name
            validation=plain.get("validation") or 0,
            design=plain.get("design", "memoriser"),
            lr=training.lr_head,
            **{name: vars(training)[name] for name in (*same_names, "clip_norm", "device")},
        )
        if found.training() != training:
            raise other
        return found

    def scene_config(self) -> SceneConfig:
        """The preset's scenes."""
        return SceneConfig.preset(self.preset)

    def training(self, **changes: Any) -> TrainConfig:
        """The training configuration of the whole set, with fields changed by keyword."""
        fields: dict[str, Any] = {
            "epochs": self.epochs,
            "micro_batch": self.micro_batch,
            "accumulation_steps": self.accumulation_steps,
            "precision": self.precision,
            "lr_head": self.lr,
            "lr_backbone": self.lr / 10,
            "blend": self.blend,
            "curriculum": self.curriculum,
            "clip_norm": self.clip_norm,
            "device": self.device,
            "seed": self.seed,
        }
        return TrainConfig(**{**fields, **changes})

    def data(self) -> SceneBatch:
        """The training scenes."""
        return simulate(self.scene_config(), self.scenes, seed=self.seed)

    def validation_data(self) -> SceneBatch | None:
        """The fresh scenes; None if there are none."""
        if not self.validation:
            return None
        return simulate(self.scene_config(), self.validation, seed=self.seed, split="validation")

    def model(self) -> CovarianceNet:
        """A new network, its weights drawn from the seed."""
        return CovarianceNet.build(self.scene_config(), seed=self.seed, design=self.design)


@dataclass(frozen=True)
class CheckResult:
    """One check: `value relation reference`, e.g. 0.0144 <= 0.05, with a sentence that says what was compared."""

    name: str
    value: float
    relation: str
    reference: float
    passed: bool
    sentence: str
    seconds: float

    def line(self) -> str:
        """One line for a terminal."""
        mark = "ok  " if self.passed else "FAIL"
        return f"{mark} {self.name:<22} {self.value:>10.3g} {self.relation:<2} {self.reference:<8.3g} {self.sentence}"


@dataclass(frozen=True)
class Verdict:
    """Value of a check, how it must relate to its reference, and what the numbers mean."""

    value: float
    relation: str
    reference: float
    sentence: str


def ladder(
    config: OverfitConfig,
    *,
    only: Collection[str] = (),
    folder: Path | str | None = None,
    on_record: Callable[[Record], None] = lambda record: None,
    trained: tuple[nn.Module, Sequence[Record]] | None = None,
) -> Iterator[CheckResult]:
    """Climb the ladder; yields each check as soon as it is judged.

    Args:
        config: see OverfitConfig.
        only: names of the checks to climb; all by default.
        folder: run folder for the training on the whole set, which then survives being stopped; none by default.
        on_record: called with each new record of that training.
        trained: model and records of a training on the whole set that was done elsewhere; it is done here if None.

    Raises:
        InputError: for an unknown check, or a run folder that cannot be used.
    """
    data = config.data()
    on_device = data.to(config.device, config.training().dtype)
    whole = FullTraining(config, data, folder, on_record, trained)
    checks: dict[str, Callable[[], Verdict]] = {
        "splits": lambda: check_splits(data, config.seed),
        "oracle": lambda: check_oracle(on_device, config.precision),
        "oracle blend": lambda: check_oracle_blend(on_device, max(config.blend, 0.2), config.precision),
        "zero matrix": lambda: check_zero(on_device, config.precision),
        "identity": lambda: check_identity(on_device, config.precision),
        "constant": lambda: check_constant(on_device),
        "untrained": lambda: check_untrained(config, on_device),
        "gradient coverage": lambda: check_coverage(config, data),
        "batch independence": lambda: check_batch_independence(config, on_device),
        "input dependence": lambda: check_input_dependence(config, on_device),
        "one scene": lambda: check_one_scene(config, data),
        "one batch": lambda: check_one_batch(config, data),
        "accumulation": lambda: check_accumulation(config, data),
        "whole set": lambda: check_whole_set(whole.records(), config),
        "reported loss": lambda: check_reported(whole.records(), config, data),
        "event counts": lambda: check_event_counts(whole.records(), config),
        "train against eval": lambda: check_train_against_eval(whole.trained(), on_device, config),
        "resume": lambda: check_resume(config, data),
    }
    for name in only:
        check_choice("only", name, checks)
    for name, judge in checks.items():
        if only and name not in only:
            continue
        yield run_check(name, judge)


def run_check(name: str, judge: Callable[[], Verdict]) -> CheckResult:
    """Run one check and time it."""
    began = time.perf_counter()
    verdict = judge()
    return CheckResult(name, passed=_holds(verdict), seconds=time.perf_counter() - began, **dataclasses.asdict(verdict))


class FullTraining:
    """The training on the whole set, run once and when first asked for."""

    def __init__(
        self,
        config: OverfitConfig,
        data: SceneBatch,
        folder: Path | str | None = None,
        on_record: Callable[[Record], None] = lambda record: None,
        trained: tuple[nn.Module, Sequence[Record]] | None = None,
    ) -> None:
        self._config, self._data, self._folder, self._on_record = config, data, folder, on_record
        self.model, records = trained or (config.model(), ())
        self._records = list(records)

    def records(self) -> list[Record]:
        """All records of the run, earlier ones from the run folder included."""
        if not self._records:
            # Closed at once on an interrupt, so that a run folder gets its checkpoint.
            with closing(self.stream()) as stream:
                for record in stream:
                    self._records.append(record)
                    self._on_record(record)
            if self._folder is not None:
                self._records = run_folder.read_records(self._folder)
        return self._records

    def trained(self) -> nn.Module:
        """The model after the run."""
        self.records()
        return self.model

    def stream(self) -> Generator[Record]:
        """The records as they come; in a run folder it goes on where it was stopped."""
        training, fresh = self._config.training(), self._config.validation_data()
        if self._folder is None:
            return fit(self.model, self._data, training, validation=fresh)
        return run_folder.train(self._folder, self.model, self._data, training, validation=fresh)


def _holds(verdict: Verdict) -> bool:
    # NaN satisfies no relation, so a check that could not be computed is red.
    value, reference = verdict.value, verdict.reference
    return {"<=": value <= reference, ">=": value >= reference, "==": value == reference}[verdict.relation]


class OracleModel(nn.Module):
    """A model that answers with the true factor of the batch it was given, in the order that it is asked."""

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
    return Verdict(
        len(hashes) - len(set(hashes)), "==", 0, f"scenes that occur twice among {len(hashes)} of three splits"
    )


def check_oracle(data: SceneBatch, precision: str) -> Verdict:
    """The true covariance scores 0, by loss_nmse_pred and, at β = 0, by loss_nmse."""
    score = evaluate(OracleModel(data[:BATCH]), data[:BATCH], precision=precision)
    worst = max(abs(score.nmse), abs(score.nmse_blended))
    return Verdict(worst, "<=", 1e-5, "NMSE of the true covariance through the training path, β = 0")


def check_oracle_blend(data: SceneBatch, beta: float, precision: str) -> Verdict:
    """At β > 0 the true covariance scores β² times the sample covariance, the floor that no training can pass."""
    data = data[:BATCH]
    score = evaluate(OracleModel(data), data, beta=beta, precision=precision).nmse_blended
    floor = blend_floor(data, beta)
    return Verdict(
        abs(score - floor),
        "<=",
        1e-5,
        f"loss_nmse of the truth at β = {beta:g} is {score:.4f}; its floor, computed: {floor:.4f}",
    )


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
    line = identity_baseline(data[:BATCH])
    eye = torch.eye(data.config.elements, dtype=data.snapshots.dtype, device=data.snapshots.device)
    score = evaluate(
        OracleModel(data[:BATCH], lambda factor: eye.expand(len(factor), -1, -1)), data[:BATCH], precision=precision
    ).nmse
    return Verdict(
        abs(score - line), "<=", 1e-4, f"identity scores {score:.4f} on {BATCH} scenes; closed form: {line:.4f}"
    )


def check_constant(data: SceneBatch) -> Verdict:
    """The best constant beats the identity, which beats the zero matrix."""
    constant, identity = constant_baseline(data), identity_baseline(data)
    return Verdict(constant, "<=", identity, "NMSE of the best constant; a figure at this line has learned nothing")


def check_untrained(config: OverfitConfig, data: SceneBatch) -> Verdict:
    """An untrained network knows nothing: a low score would mean that the answer leaks in."""
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
    """A scene gets the same answer alone and in company."""
    model = config.model().to(device=config.device, dtype=data.azimuth.dtype)
    together = model.predict(data[:8])
    alone = torch.cat([model.predict(scene) for scene in data[:8]])
    return Verdict(
        _relative(together, alone), "<=", 1e-4, "relative change of the factor between a batch of 8 and of 1"
    )


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
    return Verdict(
        changes[weakest], ">=", 1e-3, f"relative change of the factor with other {weakest}, the weakest input"
    )


def check_one_scene(config: OverfitConfig, data: SceneBatch) -> Verdict:
    """One scene is learned by heart."""
    model = config.model()
    training = config.training(epochs=100, micro_batch=1, accumulation_steps=1, curriculum="no-curriculum", blend=0.0)
    last = epoch_records(fit(model, data[:1], training))[-1]
    return Verdict(last.train_eval, "<=", ONE_BATCH[config.precision], "NMSE of one scene after 100 steps")


def check_one_batch(config: OverfitConfig, data: SceneBatch) -> Verdict:
    """One batch of 64 scenes is learned by heart."""
    records = one_batch(config, data)
    limit = ONE_BATCH[config.precision]
    reached = next((record.step for record in epoch_records(records) if record.train_eval <= limit), None)
    when = f"reached at step {reached}" if reached else "never reached"
    return Verdict(
        epoch_records(records)[-1].train_eval, "<=", limit, f"NMSE of one batch of {BATCH} after 200 steps; {when}"
    )


def one_batch(config: OverfitConfig, data: SceneBatch) -> list[Record]:
    """Records of 200 steps on the first 64 scenes."""
    training = config.training(
        epochs=200, micro_batch=BATCH, accumulation_steps=1, curriculum="no-curriculum", blend=0.0, ema=None
    )
    return list(fit(config.model(), data[:BATCH], training))


def first_window(
    config: OverfitConfig, data: SceneBatch, micro_batch: int, accumulation_steps: int
) -> tuple[Tensor, StepRecord]:
    """Gradient (flat, unscaled, unclipped) and record of the first window of a run on `data`."""
    training = config.training(micro_batch=micro_batch, accumulation_steps=accumulation_steps, clip_norm=None)
    model = config.model()
    record = one_window(model, data, training)
    return flat_gradient(model), record


@dataclass(frozen=True)
class Cell:
    """Gradient of one precision and number of accumulation steps, always over the same 64 scenes.

    Args:
        relative_error, alpha_error: relative L2 and |α − 1| against one batch in the same precision.
        fp64_error: relative L2 against one batch in float64. seconds_per_step: wall time of that window.
        passed: whether both errors are within the alarm levels of the precision.
    """

    precision: str
    accumulation_steps: int
    relative_error: float
    alpha_error: float
    fp64_error: float
    seconds_per_step: float
    passed: bool


def matrix(
    config: OverfitConfig, precisions: Sequence[str] = PRECISIONS, accumulation_steps: Sequence[int] = (1, 2, 4, 8)
) -> Iterator[Cell]:
    """The precision × accumulation table: does accumulating change the gradient?

    Args:
        config: preset, seed and device are used.
        precisions, accumulation_steps: rows and columns; 64 must be divisible by each number of steps.
    """
    for count in accumulation_steps:
        if BATCH % count:
            raise InputError(f"accumulation_steps holds {count}; allowed: divisors of {BATCH}")
    data = config.data()[:BATCH]
    exact, _ = first_window(dataclasses.replace(config, precision="fp64"), data, BATCH, 1)
    for precision in precisions:
        chosen = dataclasses.replace(config, precision=precision)
        reference, _ = first_window(chosen, data, BATCH, 1)
        for count in accumulation_steps:
            gradient, record = first_window(chosen, data, BATCH // count, count)
            comparison = compare(gradient, reference)
            error, alpha_error = comparison.relative_error, abs(comparison.alpha - 1)
            passed = error <= GRADIENT_TOLERANCES[precision][0] and alpha_error <= GRADIENT_TOLERANCES[precision][1]
            against_exact = compare(gradient, exact).relative_error
            yield Cell(precision, count, error, alpha_error, against_exact, record.seconds, passed)


def check_accumulation(config: OverfitConfig, data: SceneBatch) -> Verdict:
    """Micro-batches of 16, 16, 16 and 8 scenes accumulate to the gradient of one batch of 56, ragged tail included."""
    data = data[:56]
    comparison = compare(first_window(config, data, 16, 4)[0], first_window(config, data, 56, 1)[0])
    limit, alpha_limit = GRADIENT_TOLERANCES[config.precision]
    # One number for both alarms: the larger of the two errors, each in units of its own alarm level.
    excess = max(comparison.relative_error / limit, abs(comparison.alpha - 1) / alpha_limit)
    return Verdict(
        excess if not math.isnan(comparison.relative_error) else math.nan,
        "<=",
        1.0,
        f"× alarm level: relative L2 {comparison.relative_error:.1e}, α − 1 = {comparison.alpha - 1:+.1e}, "
        f"1 − cos = {1 - comparison.cosine:.1e} against one batch",
    )


def check_whole_set(records: Sequence[Record], config: OverfitConfig) -> Verdict:
    """The whole set is learned by heart."""
    limit = WHOLE_SET[config.preset]
    ends = epoch_records(records)
    if not ends:
        return Verdict(math.nan, "<=", limit, "the run was stopped before its first epoch ended: nothing to judge")
    last = ends[-1]
    count = f"{last.epoch}" if last.epoch == config.epochs else f"{last.epoch} of {config.epochs}"
    sentence = f"NMSE of {config.scenes} scenes after {count} epochs (train {last.train:.4f} while it learned)"
    return Verdict(last.train_eval, "<=", limit, sentence)


def check_reported(records: Sequence[Record], config: OverfitConfig, data: SceneBatch) -> Verdict:
    """What an epoch reports is the mean of its windows, and the loss that an evaluation finds where nothing moves."""
    data = data[:56]
    # Two windows, of 32 and of 24 scenes; the last micro-batch is ragged; no step is large enough to move a weight.
    still = {"optimiser": "sgd", "lr_head": 1e-12, "lr_backbone": 1e-12, "curriculum": "no-curriculum"}
    training = config.training(epochs=2, micro_batch=16, accumulation_steps=2, **still)
    model = config.model()
    frozen = list(fit(model, data, training))
    found = evaluate(model, data, beta=config.blend, precision=config.precision)
    errors = [abs(end.train / found.nmse_blended - 1) for end in epoch_records(frozen)]
    errors += [abs(_window_mean(frozen, end.epoch, "loss_nmse_pred") / found.nmse - 1) for end in epoch_records(frozen)]
    errors += [abs(end.train / _window_mean(records, end.epoch, "loss") - 1) for end in epoch_records(records)]
    worst = math.nan if any(math.isnan(error) for error in errors) else max(errors)
    sentence = (
        f"relative error of reported losses: {epoch_records(frozen)[0].train:.6f} "
        f"where {found.nmse_blended:.6f} is true"
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
    # A window that ended without a step, though its gradient was finite, is a step that is missing.
    excused = sum(not window.applied and window.found_inf for window in step_records(records))
    counted = {
        "forwards": counters.forwards,
        "backwards": counters.backwards,
        "steps": counters.steps_applied + excused,
        "scheduler_ticks": counters.scheduler_ticks,
    }
    missing = sum(abs(counted[name] - expected[name]) for name in expected)
    shown = ", ".join(f"{name} {counted[name]}/{expected[name]}" for name in expected)
    return Verdict(missing, "==", 0, f"events too few or too many: {shown}; skipped {counters.steps_skipped}")


def check_train_against_eval(model: nn.Module, data: SceneBatch, config: OverfitConfig) -> Verdict:
    """The same weights on the same data answer alike in training mode and in eval mode."""
    evaluated = evaluate(model, data, precision=config.precision).nmse
    model.train()
    difference = abs(score(model, data, precision=config.precision).nmse - evaluated)
    limit = 1e-6 + 0.05 * abs(evaluated)
    return Verdict(
        difference, "<=", limit, "difference between training-mode and eval-mode NMSE, same weights and data"
    )


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
    found = [next(stream) for _ in range(3)]
    stream.close()
    with tempfile.TemporaryDirectory() as folder:
        stopped.save(Path(folder) / "checkpoint.pt")
        resumed.load(Path(folder) / "checkpoint.pt")
    found += fit(resumed.model, data, training, resume=resumed)
    pairs = zip(_tensors(straight), _tensors(resumed), strict=True)
    different = sum(not torch.equal(one, other) for one, other in pairs)
    different += sum(not equal_but_time(one, other) for one, other in zip(expected, found, strict=True))
    return Verdict(different, "==", 0, f"weight tensors and records (of {len(expected)}) that differ after a resume")


def _tensors(state: TrainState) -> list[Tensor]:
    averaged = [] if state.ema is None else [*state.ema.state_dict().values()]
    return [*state.model.state_dict().values(), *averaged]


def _relative(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().square().sum().sqrt() / other.abs().square().sum().sqrt())
