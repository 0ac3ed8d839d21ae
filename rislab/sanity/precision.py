"""The precision lab: accumulation × number format, every window's gradient held against float64.

A cell is a short real run of the loop. At each window its raw gradient is compared with one taken in float64, at the
same weights, on the same scenes, outside the loop. Four ways of training are sound; four are expected to go red.
"""

from __future__ import annotations

import dataclasses
import gc
import itertools
import json
import math
import os
import statistics
import tempfile
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from rislab.checkup.gradients import compare, flat_gradient
from rislab.data.scenes import SceneBatch, SceneConfig
from rislab.data.simulation import simulate
from rislab.errors import InputError, check_choice, check_fields, check_number
from rislab.model.losses import NO_CURRICULUM, compute_loss
from rislab.model.network import CovarianceNet
from rislab.sanity.number_formats import MODES, Mode
from rislab.training.config import TrainConfig
from rislab.training.loop import Window, fit, windows
from rislab.training.records import Record, StepRecord
from rislab.training.state import TrainState

BATCH = 64  # scenes in a window, however many micro-batches share them
ACCUMULATION_STEPS = (1, 2, 4, 8, 16, 32)  # a micro-batch of one scene has no batch statistics

MARK = "rislab window"


@dataclass(frozen=True)
class PrecisionConfig:
    """What the lab runs: every mode with every number of accumulation steps, always 64 scenes a window.

    Args:
        preset: "classroom" or "full". scenes: size of the training set, a multiple of 64. windows: of a run, 2..1000.
        modes: rows, names from MODES. accumulation_steps: columns, from SPLITS.
        lr: peak learning rate of the head, > 0; the backbone gets a tenth of it. seed: of scenes, weights and order.
        device: see TrainConfig.
    """

    preset: str = "classroom"
    scenes: int = 128
    windows: int = 16
    modes: Sequence[str] = tuple(MODES)
    accumulation_steps: Sequence[int] = (1, 2, 4, 8)
    lr: float = 5e-3
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        SceneConfig.preset(self.preset)
        check_number("scenes", self.scenes, BATCH, 10**6, integer=True)
        if self.scenes % BATCH:
            raise InputError(f"scenes is {self.scenes}; allowed: multiples of {BATCH}")
        check_number("windows", self.windows, 2, 1000, integer=True)
        check_number("lr", self.lr, 0.0, 1e6, exclusive=True)
        for name, allowed in (("modes", tuple(MODES)), ("accumulation_steps", ACCUMULATION_STEPS)):
            chosen = vars(self)[name]
            if not isinstance(chosen, list | tuple) or not chosen:
                raise InputError(
                    f"{name} is {chosen!r}; allowed: a list of {', '.join(map(str, allowed))}, at least one"
                )
            for value in chosen:
                check_choice(name, value, allowed)
            if len(set(chosen)) < len(chosen):
                raise InputError(f"{name} is {chosen!r}; allowed: each value once")
            object.__setattr__(self, name, tuple(chosen))
        for mode in self.modes:
            self.training(MODES[mode], 1)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> PrecisionConfig:
        """Build from a plain mapping; raises InputError for an unknown field."""
        check_fields("PrecisionConfig", fields, (entry.name for entry in dataclasses.fields(cls)))
        return cls(**fields)

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
    """One window of a cell, and what float64 says of it; gradients are unscaled and unclipped.

    Args:
        step: number of the window, from 1.
        relative_error, alpha, cosine: of the gradient against float64 on all 64 scenes in one batch; see gradients.
        replay_error: relative L2 against float64 on the window's own micro-batches: what the loop itself adds.
        underflow, stuck: see Alarm. Of a step that was not applied, `stuck` is NaN.
        loss: NMSE before the step. loss_scale: of the scaler, 1 without one. applied: whether the optimiser stepped.
        seconds: wall time of the window.
    """

    step: int
    relative_error: float
    alpha: float
    cosine: float
    replay_error: float
    underflow: float
    stuck: float
    loss: float
    loss_scale: float
    applied: bool
    seconds: float

    @property
    def alpha_error(self) -> float:
        """|α − 1|."""
        return abs(self.alpha - 1)

    @property
    def allowance(self) -> float:
        """Factor on the levels of the gradient's errors, 1/√NMSE or 1: see Alarm."""
        return 1 / math.sqrt(min(1.0, max(self.loss, 1e-12)))


@dataclass(frozen=True)
class PrecisionCell:
    """One mode with one number of accumulation steps: its windows, and peak memory in bytes (see peak_memory())."""

    mode: str
    accumulation_steps: int
    windows: tuple[WindowComparison, ...]
    peak_bytes: int

    @property
    def judged(self) -> tuple[WindowComparison, ...]:
        """The windows whose step was applied; a scaler skips one whose gradient is not finite."""
        return tuple(window for window in self.windows if window.applied)

    @property
    def skipped(self) -> int:
        """Windows without a step."""
        return len(self.windows) - len(self.judged)

    @property
    def relative_error(self) -> float:
        """Largest of the judged windows."""
        return _worst(window.relative_error for window in self.judged)

    @property
    def alpha_error(self) -> float:
        """Largest |α − 1| of the judged windows."""
        return _worst(window.alpha_error for window in self.judged)

    @property
    def direction_error(self) -> float:
        """Largest 1 − cos of the judged windows."""
        return _worst(1 - window.cosine for window in self.judged)

    @property
    def replay_error(self) -> float:
        """Largest of the judged windows."""
        return _worst(window.replay_error for window in self.judged)

    @property
    def underflow(self) -> float:
        """Largest of the judged windows."""
        return _worst(window.underflow for window in self.judged)

    @property
    def stuck(self) -> float:
        """Median of the judged windows: in the first of a warm-up few weights move far."""
        return statistics.median(window.stuck for window in self.judged) if self.judged else math.nan

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
        """What is judged by name, each with its alarm level; errors of the gradient are divided by their allowance."""
        alarm = MODES[self.mode].alarm
        gradient = _worst(window.relative_error / window.allowance for window in self.judged)
        scale = _worst(window.alpha_error / window.allowance for window in self.judged)
        return {
            "relative L2": (gradient, alarm.relative_error),
            "|α − 1|": (scale, alarm.alpha_error),
            "underflow": (self.underflow, alarm.underflow),
            "stuck": (self.stuck, alarm.stuck),
        }

    @property
    def red(self) -> tuple[str, ...]:
        """Names of what passes its alarm level; none for a green cell. NaN passes every level."""
        return tuple(name for name, (value, level) in self.measured.items() if not value <= level)

    @property
    def passed(self) -> bool:
        """Whether the cell is green."""
        return not self.red


Progress: TypeAlias = WindowComparison | PrecisionCell


def cells(config: PrecisionConfig) -> Iterator[PrecisionCell]:
    """All cells of a configuration, each as soon as its run is done."""
    return (progress for progress in stream(config) if isinstance(progress, PrecisionCell))


def stream(config: PrecisionConfig) -> Generator[Progress]:
    """Run cell after cell; yields a Compared for each window, and after the last one of a run its Cell."""
    data = config.data()
    for name, accumulation_steps in config.places():
        yield from run(config, MODES[name], accumulation_steps, data)


def run(config: PrecisionConfig, mode: Mode, accumulation_steps: int, data: SceneBatch) -> Generator[Progress]:
    """One run of the loop beside its reference in float64; yields its windows, then its cell.

    Args:
        config: see PrecisionConfig. mode: see Mode. accumulation_steps: from SPLITS.
        data: config.data(), so that many runs share it.
    """
    model, records = begin(config, mode, accumulation_steps, data)
    exact = config.model(mode).to(config.device, torch.float64).train()
    exact_data = data.to(config.device, torch.float64)
    underflow = Underflow(model.get_submodule("head.linear"))
    compared: list[WindowComparison] = []
    for window in _plan(config, mode, accumulation_steps, data):
        exact.load_state_dict(model.state_dict())
        whole = exact_gradient(exact, exact_data, [torch.cat(window.micro_batches)])
        replayed = exact_gradient(exact, exact_data, window.micro_batches)
        before = parameters_to_vector(model.parameters()).detach().cpu()
        record = next(record for record in records if isinstance(record, StepRecord))
        gradient = flat_gradient(model)
        stayed = parameters_to_vector(model.parameters()).detach().cpu() == before
        against = compare(gradient, whole)
        compared.append(
            WindowComparison(
                step=record.step,
                relative_error=against.relative_error,
                alpha=against.alpha,
                cosine=against.cosine,
                replay_error=compare(gradient, replayed).relative_error,
                underflow=underflow.share(),
                stuck=float(stayed[whole != 0].double().mean()) if record.applied else math.nan,
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


def begin(
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


class Underflow:
    """Counts entries of the gradient that flows back into a layer below the smallest normal number of their format."""

    def __init__(self, layer: nn.Module) -> None:
        self._small = self._all = 0
        self._handle = layer.register_forward_hook(self._on_forward)

    def share(self) -> float:
        """Share of them since the last call; NaN if nothing flowed back."""
        share = self._small / self._all if self._all else math.nan
        self._small = self._all = 0
        return share

    def remove(self) -> None:
        """Stop counting."""
        self._handle.remove()

    def _on_forward(self, module: nn.Module, arguments: Any, output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(self._on_backward)

    def _on_backward(self, gradient: Tensor) -> None:
        self._small += int((gradient.abs() < torch.finfo(gradient.dtype).tiny).sum())
        self._all += gradient.numel()


# torch has one profiler for a process.
_PROFILER = threading.Lock()


def window_memory(config: PrecisionConfig, mode: Mode, accumulation_steps: int, data: SceneBatch) -> int:
    """Peak memory of the second window of a new run, in bytes (see peak_memory()); the first one makes the moments."""

    def prepare() -> Callable[[], object]:
        model, records = begin(config, mode, accumulation_steps, data)
        next(records)
        if len(data) == BATCH:
            next(records)  # the summary of the epoch
        model.zero_grad(set_to_none=True)
        return lambda: next(records)

    return peak_memory(torch.device(config.device), prepare)


def peak_memory(device: torch.device, prepare: Callable[[], Callable[[], object]]) -> int:
    """Bytes of tensors that a call holds at once, beyond those that were there when it began.

    On CUDA the rise of torch.cuda.max_memory_allocated(). On a CPU the highest running sum over the allocations and
    frees that torch.profiler reports of this thread. Neither sees workspace that a library takes elsewhere.

    Args:
        device: where the tensors are.
        prepare: returns what is to be called. On a CPU it is watched too, so that a free is known by its allocation.
    """
    if device.type == "cuda":
        call = prepare()
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
        call()
        return torch.cuda.max_memory_allocated(device) - held
    # The profiler would write its progress to the standard error output; this is its own switch.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    gc.collect()  # what waits to be freed was allocated unwatched
    with _PROFILER, tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            call = prepare()
            with torch.profiler.record_function(MARK):
                call()
        profile.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    return _highest(events)


def ready(device: torch.device) -> None:
    """Start torch's profiler; to be called in the thread that imported torch, since it complains of any other."""
    if device.type == "cpu":
        peak_memory(device, lambda: lambda: None)


def _highest(events: Sequence[Mapping[str, Any]]) -> int:
    """The highest sum of allocations and frees since the mark began, from the events of a trace."""
    mark = next(event for event in events if event["name"] == MARK)
    changes = sorted((event["ts"], event["args"]["Bytes"]) for event in events if event["name"] == "[memory]")
    during = [size for at, size in changes if mark["ts"] <= at <= mark["ts"] + mark["dur"]]
    return max(itertools.accumulate(during, initial=0))


def line(cell: PrecisionCell) -> str:
    """One line for a terminal."""
    mark = "ok " if cell.passed else "RED"
    shape = f"{cell.accumulation_steps:>2} × {BATCH // cell.accumulation_steps:<2}"
    return (
        f"{mark} {cell.mode:<22} {shape} L2 {cell.relative_error:.1e} |α−1| {cell.alpha_error:.1e} "
        f"replay {cell.replay_error:.1e} underflow {cell.underflow:.1e} stuck {cell.stuck:.1e} "
        f"{1e3 * cell.seconds:5.0f} ms {cell.peak_bytes / 2**20:5.2f} MiB"
    )


def unexpected(cells: Sequence[PrecisionCell]) -> list[str]:
    """What contradicts the expectations of the modes, one sentence each: red where sound, or green where it is not."""
    said = [f"{line(cell)}: {', '.join(cell.red)}" for cell in cells if MODES[cell.mode].sound and cell.red]
    for mode in MODES.values():
        due = [cell for cell in cells if cell.mode == mode.name and cell.accumulation_steps >= mode.red_from > 0]
        if due and all(cell.passed for cell in due):
            said.append(f"{mode.name}: expected red, and all {len(due)} cells are green")
    return said


def _worst(values: Iterable[float]) -> float:
    """The largest; NaN if there is one, or nothing."""
    found = list(values)
    return math.nan if not found or any(math.isnan(value) for value in found) else max(found)
