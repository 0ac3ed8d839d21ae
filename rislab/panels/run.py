"""A training as a panel holds it: configuration, run folder, task, and the history that its figure is drawn from."""

from __future__ import annotations

import threading
from array import array
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from rislab.data import covariance
from rislab.data.scenes import SceneBatch
from rislab.errors import InputError
from rislab.faults.fault import Fault
from rislab.faults.patching import patched
from rislab.panels.background_task import BackgroundTask
from rislab.panels.live_checkup import LiveCheckup
from rislab.sanity.overfit import FullTraining, config_of_run
from rislab.sanity.overfit_config import OverfitConfig
from rislab.training import run_folder
from rislab.training.records import EpochRecord, Record, StepRecord
from rislab.training.run_folder import Observe

Values = NDArray[np.float64]
OnEpoch = Callable[[nn.Module, int], None]
# How a field is written in a label, where its name is not needed.
SHORT = {"precision": "{value}", "preset": "{value}", "design": "{value}", "curriculum": "{value}"}


class RunHistory:
    """What the figure needs of a run, in columns that grow record by record: 8 bytes a number, and nothing else.

    Filled in the thread of the run and read in others, so both hold a lock.
    """

    def __init__(self) -> None:
        self.samples = 0
        self.skipped: list[tuple[int, str]] = []
        self.strange: list[tuple[int, str]] = []
        self.last: EpochRecord | None = None
        self.windows = 0
        self._columns: dict[str, array[float]] = {}
        self._lock = threading.Lock()

    def add(self, record: Record) -> None:
        """Take in one record."""
        with self._lock:
            if isinstance(record, EpochRecord):
                self._epoch(record)
            else:
                self._window(record)

    def replace(self, records: Sequence[Record]) -> None:
        """Forget everything, and take in these records."""
        with self._lock:
            self.skipped, self.strange, self.last, self.windows, self.samples, self._columns = [], [], None, 0, 0, {}
        for record in records:
            self.add(record)

    def column(self, name: str) -> Values:
        """A copy of one column, empty if nothing came yet: "step", "samples", "loss", "gradient backbone", …"""
        with self._lock:
            return np.array(self._columns.get(name, array("d")))

    def groups(self, kind: str) -> dict[str, Values]:
        """The columns `kind` of all parameter groups, by group."""
        with self._lock:
            names = [name.removeprefix(f"{kind} ") for name in self._columns if name.startswith(f"{kind} ")]
        return {name: self.column(f"{kind} {name}") for name in names}

    def _window(self, window: StepRecord) -> None:
        self.windows += 1
        self.samples += window.samples
        self._append({"step": window.step, "samples": self.samples, "loss": window.loss})
        self._append({"loss scale": window.loss_scale})
        self._append({f"gradient {name}": norm for name, norm in window.grad_norm.items()})
        self._append({f"rate {name}": rate for name, rate in window.learning_rate.items()})
        if not window.applied:
            self.skipped.append((window.step, window.reason))
        if not np.isfinite(window.loss) or window.loss <= 0:
            self.strange.append((window.step, f"loss is {window.loss:g}"))

    def _epoch(self, end: EpochRecord) -> None:
        self.last = end
        self._append({"epoch end": end.step, "epoch samples": self.samples, "epoch": end.epoch})
        self._append({"train": end.train, "train_eval": end.train_eval})
        self._append({f"count {name}": count for name, count in asdict(end.counters).items()})
        if end.validation is not None:
            self._append({"validation": end.validation})

    def _append(self, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._columns.setdefault(name, array("d")).append(value)


class Run:
    """One training: waiting, on in a thread of its own, or ended.

    Args:
        name: in legends.
        config: what to train.
        folder: run folder, which keeps its records and lets it go on; None keeps the records in memory.
        on_tick: see BackgroundTask.
        on_epoch: called in the thread of the run with the model and 0 before the first window, then with the number of
            each epoch that has ended.
        fault: with which the loop runs; its records stay in memory, for no folder should hold a broken run. None runs
            the correct loop.
        watched: whether the checkup watches.
        number: from 1, which gives it its colour, whatever other runs are shown beside it.

    Attributes:
        checkup: of the last start; None before the first one, and where nothing watches.
    """

    def __init__(
        self,
        name: str,
        config: OverfitConfig,
        folder: Path | None = None,
        on_tick: Callable[[], None] = lambda: None,
        on_epoch: OnEpoch = lambda model, epoch: None,
        fault: Fault | None = None,
        watched: bool = True,
        number: int = 1,
    ) -> None:
        self.name, self.number, self.config, self.history = name, number, config, RunHistory()
        self.fault, self.watched, self.folder = fault, watched, None if fault is not None else folder
        self.checkup: LiveCheckup | None = None
        self.data: SceneBatch = config.data()
        self._on_tick, self._on_epoch = on_tick, on_epoch
        self._ready()

    @classmethod
    def load(cls, name: str, folder: Path, **calls: Any) -> Run:
        """The run of a folder, with the records that it holds; it goes on from there when started.

        Raises:
            InputError: for a folder that is not one of this kind of run.
        """
        run = cls(name, config_of_run(folder), folder, **calls)
        run.history.replace(run_folder.read_records(folder))
        return run

    @property
    def model(self) -> nn.Module:
        """The network in training."""
        return self.training.model

    @property
    def state(self) -> str:
        """See BackgroundTask.state; a run that has done its epochs is "finished", whenever Stop was pressed."""
        state = self.task.state
        if state not in ("waiting", "stopped") or not self.history.windows:
            return state
        last = self.history.last
        return "finished" if last is not None and last.epoch == self.config.epochs else "stopped"

    @cached_property
    def levels(self) -> dict[str, float]:
        """Scores of predictors that learned nothing, on the data of the run."""
        levels = {"zero matrix": covariance.zero_baseline(), "identity": covariance.identity_baseline(self.data)}
        return levels | {"best constant": covariance.constant_baseline(self.data)}

    def records(self) -> list[Record]:
        """The records so far, as a list of the caller's own."""
        if self.folder is None:
            return self._records[:]
        return run_folder.read_records(self.folder) if (self.folder / run_folder.RECORDS).exists() else []

    def go_on(self) -> None:
        """Begin, or go on where the folder says; raises InputError for a run that cannot."""
        if self.task.running:
            return
        if self.state == "finished":
            raise InputError(f"{self.name} has done its {self.config.epochs} epochs; allowed: a run that was stopped")
        if self.state != "waiting" and self.folder is None:
            raise InputError(f"{self.name} has no run folder to go on from; allowed: a run in a folder")
        if self.task.state != "waiting":
            self._ready()
        self.task.start()

    def label(self, first: OverfitConfig) -> str:
        """The name with the fault, and with what differs from the first run; 4 × 16 are micro-batches of 16 scenes."""
        other, mine = asdict(first), asdict(self.config)
        changed = [] if self.fault is None else [self.fault.name]
        window = (self.config.accumulation_steps, self.config.micro_batch)
        if window != (first.accumulation_steps, first.micro_batch):
            changed.append(f"{window[0]} × {window[1]}")
        plain = (name for name in mine if name not in ("accumulation_steps", "micro_batch"))
        changed += [
            SHORT.get(name, "{name} {value}").format(name=name.replace("_", " "), value=mine[name])
            for name in plain
            if mine[name] != other[name]
        ]
        return f"{self.name}: {', '.join(changed)}" if changed else self.name

    def _ready(self) -> None:
        self.training = FullTraining(self.config, self.data, self.folder)
        self._records: list[Record] = []
        self.task: BackgroundTask[Record] = BackgroundTask(self._stream, self._on_tick)

    def _stream(self) -> Generator[Record]:
        if not self.watched and self.fault is None:
            yield from self._records_of(self.training, lambda state: nullcontext())
            return
        with patched(*(() if self.fault is None else (self.fault,))) as package:
            trained = (self.model, ())
            if self.fault is None:
                self.training = package.sanity.overfit.FullTraining(
                    self.config, self.data, self.folder, trained=trained
                )
            else:
                twin = package.sanity.OverfitConfig(**vars(self.config))
                self.training = package.sanity.overfit.FullTraining(twin, twin.data())
            self.checkup = LiveCheckup(package) if self.watched else None
            observe = (lambda state: nullcontext()) if self.checkup is None else self.checkup.observe
            yield from self._records_of(self.training, observe)

    def _records_of(self, training: Any, observe: Observe) -> Generator[Record]:
        first = True
        with closing(training.stream(observe)) as stream:
            self._on_epoch(self.model, 0)
            for record in stream:
                if self.checkup is not None:
                    self.checkup.take(record)
                if self.folder is None:
                    self._records.append(record)
                if first and self.folder is not None:
                    # Records after the last checkpoint are made again: the file knows which of them still stand.
                    self.history.replace(self.records())
                else:
                    self.history.add(record)
                first = False
                if isinstance(record, EpochRecord):
                    self._on_epoch(self.model, record.epoch)
                yield record


def new_folder(parent: Path, config: OverfitConfig, now: str) -> Path:
    """A folder that does not exist yet, named after the time and the configuration; made by the run that uses it."""
    stem = f"{now}-{config.preset}-{config.precision}-{config.accumulation_steps}x{config.micro_batch}"
    names = (stem if number == 1 else f"{stem}-{number}" for number in range(1, 1_000_000))
    for name in names:
        try:
            (parent / name).mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise InputError(f"run folder {parent / name} cannot be made: {error.strerror}") from error
        return parent / name
    raise InputError(f"{parent} holds a million runs of this second; allowed: fewer")


def folders(parent: Path) -> list[str]:
    """Names of the folders under `parent` that hold a run with records, newest name first."""
    runs = [path.parent for path in parent.glob(f"*/{run_folder.CONFIG}")]
    return sorted((path.name for path in runs if (path / run_folder.RECORDS).exists()), reverse=True)
