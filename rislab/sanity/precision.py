"""The precision lab: accumulation × number format, every window's gradient compared with float64.

A cell is a short real run of the loop. At each window its raw gradient is compared with one taken in float64, at the
same weights, on the same scenes, outside the loop. Four ways of training are sound; four are expected to go red.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from rislab.checkup.recording.gradients import GRADIENT_TOLERANCES, compare_gradients, flat_gradient
from rislab.config import Config, choice, integer, same
from rislab.data.scene_config import SceneConfig, preset
from rislab.data.scenes import SceneBatch
from rislab.data.simulation import simulate
from rislab.errors import InputError
from rislab.model.curriculum import NO_CURRICULUM
from rislab.model.losses import compute_loss
from rislab.model.network import CovarianceNet
from rislab.sanity.memory import peak_memory
from rislab.sanity.number_formats import MODES, Mode
from rislab.sanity.overfit import first_window
from rislab.sanity.overfit_config import BATCH, OverfitConfig
from rislab.sanity.underflow import Underflow
from rislab.training.config import PRECISIONS, TrainConfig
from rislab.training.loop import Window, fit, windows
from rislab.training.records import Record, StepRecord
from rislab.training.state import TrainState

ACCUMULATION_STEPS = (1, 2, 4, 8, 16, 32)  # a micro-batch of one scene has no batch statistics


@dataclass(frozen=True)
class PrecisionConfig(Config):
    """What the lab runs: every mode with every number of accumulation steps, always 64 scenes a window."""

    preset: str = preset("classroom")
    scenes: int = integer(128, BATCH, 10**6, "size of the training set, a multiple of 64")
    windows: int = integer(16, 2, 1000, "of a run")
    modes: Sequence[str] = choice(tuple(MODES), MODES, "rows of the table", many=True)
    accumulation_steps: Sequence[int] = choice((1, 2, 4, 8), ACCUMULATION_STEPS, "columns of the table", many=True)
    lr: float = same(OverfitConfig, "lr")
    seed: int = same(OverfitConfig, "seed")
    device: str = same(TrainConfig, "device")

    def check(self) -> None:
        """Refuse windows that are not full, and what the loop refuses."""
        if self.scenes % BATCH:
            raise InputError(f"scenes is {self.scenes}; allowed: multiples of {BATCH}")
        for mode in self.modes:
            self.training(MODES[mode], 1)

    def training(self, mode: Mode, accumulation_steps: int) -> TrainConfig:
        """The configuration of one run: raw gradients, weights not averaged."""
        return TrainConfig(
            epochs=math.ceil(self.windows * BATCH / self.scenes),
            micro_batch=BATCH // accumulation_steps,
            accumulation_steps=accumulation_steps,
            precision=mode.precision,
            lr_head=self.lr,
            lr_backbone=self.lr / 10,
            clip_norm=None,
            ema=None,
            device=self.device,
            seed=self.seed,
        )

    def data(self) -> SceneBatch:
        """The training scenes."""
        return simulate(SceneConfig.preset(self.preset), self.scenes, seed=self.seed)

    def model(self, mode: Mode) -> nn.Module:
        """A new network of a mode, its weights drawn from the seed."""
        return mode.wrap(CovarianceNet.build(SceneConfig.preset(self.preset), seed=self.seed))

    def places(self) -> list[tuple[str, int]]:
        """All cells in the order of their runs: mode and accumulation steps."""
        return list(itertools.product(self.modes, self.accumulation_steps))


@dataclass(frozen=True)
class WindowComparison:
    """One window of a cell, and what float64 says of it; gradients are unscaled and unclipped."""

    step: int  # number of the window, from 1
    relative_error: float  # relative L2 of the gradient against float64 on all 64 scenes in one batch
    alpha: float  # scale of the gradient against the same, see GradientComparison
    cosine: float  # of the gradient and the same
    replay_error: float  # relative L2 against float64 on the window's own micro-batches: what the loop itself adds
    underflow: float  # see FormatTolerance
    stuck: float  # see FormatTolerance; NaN for a step that was not applied
    loss: float  # NMSE before the step
    loss_scale: float  # of the scaler, 1 without one
    applied: bool  # whether the optimiser stepped
    seconds: float  # wall time of the window

    @property
    def alpha_error(self) -> float:
        """|α − 1|."""
        return abs(self.alpha - 1)

    @property
    def allowance(self) -> float:
        """Factor on the levels of the gradient's errors, 1/√NMSE or 1: see FormatTolerance."""
        return 1 / math.sqrt(min(1.0, max(self.loss, 1e-12)))


@dataclass(frozen=True)
class PrecisionCell:
    """One mode with one number of accumulation steps.

    Args:
        mode: name of the number format, see MODES.
        accumulation_steps: micro-batches of a window, ≥ 1.
        windows: compared one by one.
        peak_bytes: largest memory of a window, see peak_memory().
    """

    mode: str
    accumulation_steps: int
    windows: tuple[WindowComparison, ...]
    peak_bytes: int

    @property
    def applied_windows(self) -> tuple[WindowComparison, ...]:
        """The windows whose step was applied; a scaler skips one whose gradient is not finite."""
        return tuple(window for window in self.windows if window.applied)

    @property
    def skipped(self) -> int:
        """Windows without a step."""
        return len(self.windows) - len(self.applied_windows)

    @property
    def relative_error(self) -> float:
        """That of the applied window nearest to its alarm level, or farthest beyond it."""
        return self._of_alarm("relative_error")[0]

    @property
    def alpha_error(self) -> float:
        """|α − 1| of the applied window nearest to its alarm level, or farthest beyond it."""
        return self._of_alarm("alpha_error")[0]

    @property
    def direction_error(self) -> float:
        """Largest 1 − cos of the applied windows."""
        return _worst(1 - window.cosine for window in self.applied_windows)

    @property
    def replay_error(self) -> float:
        """Largest of the applied windows."""
        return _worst(window.replay_error for window in self.applied_windows)

    @property
    def underflow(self) -> float:
        """Largest of the applied windows."""
        return _worst(window.underflow for window in self.applied_windows)

    @property
    def stuck(self) -> float:
        """Median of the applied windows: in the first of a warm-up few weights move far."""
        return statistics.median(window.stuck for window in self.applied_windows) if self.applied_windows else math.nan

    @property
    def lost(self) -> float:
        """The larger of underflow and stuck: the share of numbers too small for their format."""
        return _worst((self.underflow, self.stuck))

    @property
    def seconds(self) -> float:
        """Median wall time of a window."""
        return statistics.median(window.seconds for window in self.windows)

    @property
    def nmse(self) -> float:
        """NMSE of the last window."""
        return self.windows[-1].loss

    @property
    def measured(self) -> dict[str, tuple[float, float]]:
        """The quantities that decide, by name, each with its alarm level; those of a gradient include `allowances`."""
        tolerance = MODES[self.mode].tolerance
        factors = self.allowances
        return {
            "relative L2": (self.relative_error, tolerance.relative_error * factors["relative L2"]),
            "|α − 1|": (self.alpha_error, tolerance.alpha_error * factors["|α − 1|"]),
            "underflow": (self.underflow, tolerance.underflow),
            "stuck": (self.stuck, tolerance.stuck),
        }

    @property
    def allowances(self) -> dict[str, float]:
        """Factors on the alarm levels of a gradient's errors, from the windows that decided; see `measured`."""
        return {"relative L2": self._of_alarm("relative_error")[1], "|α − 1|": self._of_alarm("alpha_error")[1]}

    def _of_alarm(self, error: str) -> tuple[float, float]:
        """An error and its allowance in the window nearest to its alarm level, or beyond it; NaN counts as beyond."""
        pairs = [(float(getattr(window, error)), window.allowance) for window in self.applied_windows]
        used = [math.inf if math.isnan(value) else value / allowance for value, allowance in pairs]
        return pairs[used.index(max(used))] if pairs else (math.nan, 1.0)

    @property
    def red(self) -> tuple[str, ...]:
        """Names of what passes its alarm level; none for a green cell. NaN passes every level."""
        return tuple(name for name, (value, level) in self.measured.items() if not value <= level)

    @property
    def passed(self) -> bool:
        """Whether the cell is green."""
        return not self.red

    def line(self) -> str:
        """One line for a terminal."""
        mark = "ok " if self.passed else "RED"
        shape = f"{self.accumulation_steps:>2} × {BATCH // self.accumulation_steps:<2}"
        return (
            f"{mark} {self.mode:<22} {shape} L2 {self.relative_error:.1e} |α−1| {self.alpha_error:.1e} "
            f"replay {self.replay_error:.1e} underflow {self.underflow:.1e} stuck {self.stuck:.1e} "
            f"{1e3 * self.seconds:5.0f} ms {self.peak_bytes / 2**20:5.2f} MiB"
        )


Progress: TypeAlias = WindowComparison | PrecisionCell


def precision_cells(config: PrecisionConfig) -> Iterator[PrecisionCell]:
    """All cells of a configuration, each as soon as its run is done.

    Args:
        config: see PrecisionConfig.
    """
    return (progress for progress in stream_cells(config) if isinstance(progress, PrecisionCell))


def stream_cells(config: PrecisionConfig) -> Generator[Progress]:
    """Run cell after cell; yields a WindowComparison for each window, and after a run's last its PrecisionCell."""
    data = config.data()
    for name, accumulation_steps in config.places():
        yield from run_cell(config, MODES[name], accumulation_steps, data)


def run_cell(config: PrecisionConfig, mode: Mode, accumulation_steps: int, data: SceneBatch) -> Generator[Progress]:
    """One run of the loop beside its reference in float64; yields its windows, then its cell.

    `data` is config.data(), so that many runs share it.
    """
    model, records = begin_run(config, mode, accumulation_steps, data)
    exact = config.model(mode).to(config.device, torch.float64).train()
    exact_data = data.to(config.device, torch.float64)
    underflow = Underflow(model.get_submodule("head.linear"))
    compared: list[WindowComparison] = []
    for window in _plan(config, mode, accumulation_steps, data):
        exact.load_state_dict(model.state_dict())
        full = exact_gradient(exact, exact_data, [torch.cat(window.micro_batches)])
        replayed = exact_gradient(exact, exact_data, window.micro_batches)
        before = parameters_to_vector(model.parameters()).detach().cpu()
        record = next(record for record in records if isinstance(record, StepRecord))
        gradient = flat_gradient(model)
        stayed = parameters_to_vector(model.parameters()).detach().cpu() == before
        against = compare_gradients(gradient, full)
        compared.append(
            WindowComparison(
                step=record.step,
                relative_error=against.relative_error,
                alpha=against.alpha,
                cosine=against.cosine,
                replay_error=compare_gradients(gradient, replayed).relative_error,
                underflow=underflow.share(),
                stuck=float(stayed[full != 0].double().mean()) if record.applied else math.nan,
                loss=record.loss,
                loss_scale=record.loss_scale,
                applied=record.applied,
                seconds=record.seconds,
            )
        )
        yield compared[-1]
    records.close()
    yield PrecisionCell(
        mode.name, accumulation_steps, tuple(compared), window_memory(config, mode, accumulation_steps, data)
    )


def begin_run(
    config: PrecisionConfig, mode: Mode, accumulation_steps: int, data: SceneBatch
) -> tuple[nn.Module, Generator[Record]]:
    """A new model of a mode and the loop that trains it, before the first window."""
    training = config.training(mode, accumulation_steps)
    model = config.model(mode)
    state = TrainState.begin(model, len(data), training)
    mode.prepare(state)
    return model, fit(model, data, training, resume=state)


def _plan(config: PrecisionConfig, mode: Mode, accumulation_steps: int, data: SceneBatch) -> list[Window]:
    """The windows of a run, in their order."""
    training = config.training(mode, accumulation_steps)
    epochs = range(1, training.epochs + 1)
    every = itertools.chain.from_iterable(windows(len(data), training, epoch) for epoch in epochs)
    return list(itertools.islice(every, config.windows))


def exact_gradient(model: nn.Module, data: SceneBatch, micro_batches: Sequence[Tensor]) -> Tensor:
    """Gradient of the mean NMSE of some scenes, flat, accumulated over micro-batches in the precision of `data`.

    Written without the training loop, so that no fault of the loop can hide in its own reference.
    """
    samples = sum(len(indices) for indices in micro_batches)
    model.zero_grad(set_to_none=True)
    for indices in micro_batches:
        batch = data[indices]
        predicted = model(batch.snapshots, batch.codes, batch.channel)
        (len(batch) / samples * compute_loss(predicted, batch, NO_CURRICULUM).total).backward()
    return flat_gradient(model)


def window_memory(config: PrecisionConfig, mode: Mode, accumulation_steps: int, data: SceneBatch) -> int:
    """Peak memory of the second window of a new run, in bytes (see peak_memory()); the first one makes the moments."""

    def prepare() -> Callable[[], object]:
        model, records = begin_run(config, mode, accumulation_steps, data)
        next(records)
        if len(data) == BATCH:
            next(records)  # the summary of the epoch
        model.zero_grad(set_to_none=True)
        return lambda: next(records)

    return peak_memory(torch.device(config.device), prepare)


def unexpected_cells(cells: Sequence[PrecisionCell]) -> list[str]:
    """Cells that contradict what is expected of their mode, one sentence each: red but sound, or green but unsound."""
    messages = [f"{cell.line()}: {', '.join(cell.red)}" for cell in cells if MODES[cell.mode].sound and cell.red]
    for mode in MODES.values():
        due = [cell for cell in cells if cell.mode == mode.name and cell.accumulation_steps >= mode.fails_from > 0]
        if due and all(cell.passed for cell in due):
            messages.append(f"{mode.name}: expected red, and all {len(due)} cells are green")
    return messages


@dataclass(frozen=True)
class AccumulationCell:
    """Gradient of one precision and number of accumulation steps, always over the same 64 scenes.

    Args:
        precision: number format of the loop, see TrainConfig.
        accumulation_steps: micro-batches that share the scenes.
        relative_error: relative L2 against one batch in the same precision.
        alpha_error: |α − 1| against one batch in the same precision.
        fp64_error: relative L2 against one batch in float64.
        seconds_per_step: wall time of that window.
        passed: whether relative_error and alpha_error are within GRADIENT_TOLERANCES of the precision.
    """

    precision: str
    accumulation_steps: int
    relative_error: float
    alpha_error: float
    fp64_error: float
    seconds_per_step: float
    passed: bool

    def line(self) -> str:
        """One line of a table under ACCUMULATION_HEADER."""
        return (
            f"{'ok  ' if self.passed else 'FAIL'} {self.precision:<10} {self.accumulation_steps:>5} "
            f"{self.relative_error:>12.1e} {self.alpha_error:>10.1e} {self.fp64_error:>16.1e} "
            f"{1e3 * self.seconds_per_step:>10.1f}"
        )


ACCUMULATION_HEADER = "     precision  steps  relative L2    |α − 1|  L2 against fp64  ms a step"


def accumulation_cells(
    config: OverfitConfig, precisions: Sequence[str] = PRECISIONS, accumulation_steps: Sequence[int] = (1, 2, 4, 8)
) -> Iterator[AccumulationCell]:
    """Precision × accumulation at the first weights: does accumulating change the gradient?

    Args:
        config: scenes, network and loop.
        precisions: rows of the table.
        accumulation_steps: columns of the table, divisors of 64.

    Yields:
        Each cell of the table, row by row, as soon as it is measured.

    Raises:
        InputError: for a number of steps that does not divide 64.
    """
    for count in accumulation_steps:
        if BATCH % count:
            raise InputError(f"accumulation_steps holds {count}; allowed: divisors of {BATCH}")
    data = config.data()[:BATCH]
    exact, _ = first_window(config.changed(precision="fp64"), data, BATCH, 1)
    for precision in precisions:
        chosen = config.changed(precision=precision)
        limit, alpha_limit = GRADIENT_TOLERANCES[precision]
        reference, _ = first_window(chosen, data, BATCH, 1)
        for count in accumulation_steps:
            gradient, record = first_window(chosen, data, BATCH // count, count)
            against = compare_gradients(gradient, reference)
            errors = against.relative_error, abs(against.alpha - 1)
            passed = errors[0] <= limit and errors[1] <= alpha_limit
            yield AccumulationCell(
                precision, count, *errors, compare_gradients(gradient, exact).relative_error, record.seconds, passed
            )


def _worst(values: Iterable[float]) -> float:
    """The largest; NaN if there is one, or nothing."""
    known = list(values)
    return math.nan if not known or any(math.isnan(value) for value in known) else max(known)
