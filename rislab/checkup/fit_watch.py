"""The checkup of a framework's fit: its trainer's settings are declared, the findings printed, logged and raised.

The modules `lightning`, `transformers`, `skorch` and `ignite` of this room tell it when a fit begins and ends.
"""

from __future__ import annotations

import atexit
import importlib
import importlib.util
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Any, NamedTuple

from torch import distributed, nn

from rislab.checkup.findings import Finding, Findings
from rislab.checkup.loggers import counts_by_severity
from rislab.checkup.options import check_options
from rislab.checkup.process_watch import ProcessWatch
from rislab.checkup.recording.optimizers import among_ranks
from rislab.checkup.recording.windows import Declared
from rislab.errors import InputError, check_choice

ON_FAULT = ("print", "raise")


class TrainingFaultError(RuntimeError):
    """Raised at the end of a fit that has faults, if it was asked for.

    Args:
        findings: of the fit.
    """

    def __init__(self, findings: Findings) -> None:
        super().__init__("\n".join(map(str, findings.faults)))
        self.findings = findings


class TrainedLoop(NamedTuple):
    """An optimiser of a trainer, with what belongs to it."""

    optimizer: Any  # wrapped ones are looked into
    network: nn.Module  # that it trains
    scheduler: Any = None  # of the optimiser, None without one
    scaler: Any = None  # gradient scaler, None without one


@dataclass(frozen=True)
class TrainerSettings:
    """What was read from a trainer."""

    loops: Sequence[TrainedLoop] = ()  # its optimisers
    declared: Declared = field(default_factory=lambda: Declared(mean=""))  # what it is set to do
    text: str = ""  # the same in words, "" if nothing was read
    fixes: Mapping[str, str] = field(default_factory=dict)  # what to change in such a trainer, by the names of findings


class Framework(NamedTuple):
    """A framework whose settings can be read."""

    package: str  # that is imported
    oldest: tuple[int, int]  # version that is known to work, major and minor
    newest: tuple[int, int]  # version that is known to work

    def remark(self) -> str:
        """A sentence if the version at hand is not a known one, "" if it is."""
        version = str(importlib.import_module(self.package).__version__)
        numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
        if self.oldest <= numbers <= self.newest:
            return ""
        ends = dict.fromkeys(".".join(map(str, one)) for one in (self.oldest, self.newest))
        known = f"{' to '.join(ends)} {'are' if len(ends) == 2 else 'is'}"
        return (
            f"{self.package} {version} is not known to work, {known}: "
            f"the settings of the trainer are not used, its loop is watched by hooks alone"
        )


class RunningCall:
    """The outermost call under way of a method of an object, as `Trainer.train()`.

    Some frameworks tell nobody that an exception has ended it; then it is no longer among the callers.
    """

    def __init__(self, owner: object) -> None:
        self._owner, self._thread = owner, threading.get_ident()
        own = [frame for frame in _callers() if frame.f_locals.get("self") is owner]
        self._code = own[-1].f_code if own else None

    def __call__(self) -> bool:
        """Whether it is still under way; another thread cannot tell."""
        if self._code is None or threading.get_ident() != self._thread:
            return True
        return any(one.f_code is self._code and one.f_locals.get("self") is self._owner for one in _callers())


class TrainerWatch(ProcessWatch):
    """Watches the optimisers of a trainer, and whatever else trains in its process.

    Args:
        settings: of the trainer.
        every: compare each n-th window; None the first ones, then ever fewer.
        running: whether the fit is still under way, asked at each forward.
        abandon: called if it is not.
    """

    def __init__(
        self,
        settings: TrainerSettings,
        every: int | None,
        running: Callable[[], bool],
        abandon: Callable[[], None],
    ) -> None:
        super().__init__(every=every, declared=settings.declared)
        self._loops, self._fixes = settings.loops, settings.fixes
        self._running, self._abandon = running, abandon
        self._parts = set[int]()  # of the trainer's networks, whose optimisers are known

    def _is_new_network(self, module: nn.Module) -> bool:
        return id(module) not in self._parts and super()._is_new_network(module)

    def begin(self) -> None:
        """Track the optimisers of the trainer from their first window on."""
        super().begin()
        for loop in self._loops:
            modules = list(loop.network.modules())
            self.track(loop.optimizer, loop.scaler, loop.scheduler, modules)
            self._parts.update(map(id, modules))

    def findings(self) -> Findings:
        """What is wrong with the loops, with what to change in such a trainer."""
        return Findings(replace(one, fix=self._fixes.get(one.name, one.fix)) for one in super().findings())

    def on_forward(self, module: nn.Module, training: bool) -> None:
        """A forward begins; after a fit that failed it is none of the trainer's."""
        if self._running():
            super().on_forward(module, training)
        else:
            self._abandon()


class FitWatch:
    """The checkup of the fits of one trainer, one after the other.

    Args:
        title: what is watched, as "Trainer.fit()".
        on_fault: "print" prints the findings, "raise" raises TrainingFaultError besides if there are faults.
        every: compare each n-th window; None the first ones, then ever fewer.
    """

    def __init__(self, title: str, on_fault: str, every: int | None) -> None:
        check_choice("on_fault", on_fault, ON_FAULT)
        check_options(every=every)
        self.findings = Findings()
        self._title, self._on_fault, self._every = title, on_fault, every
        self._watch: TrainerWatch | None = None
        self._remarks: list[str] = []

    def __getstate__(self) -> dict[str, Any]:
        """What copies and pickles get, in the midst of a fit too: they watch nothing."""
        return {**vars(self), "_watch": None}

    def begin(
        self, framework: Framework, read: Callable[[], TrainerSettings], running: Callable[[], bool] = lambda: True
    ) -> None:
        """A fit of a framework begins; read() gives its trainer's settings, running() says whether it is under way."""
        self.abandon()
        remark = framework.remark()
        settings = _loops_alone(read) if remark else read()
        if settings.text:
            remark = f"read from the trainer: {settings.text}"
        self._remarks = [remark] if remark else []
        self._watch = TrainerWatch(settings, self._every, running, self.abandon)
        self._watch.__enter__()
        atexit.register(self.abandon)

    def abandon(self) -> None:
        """End a watch whose fit an exception has ended, without a word of its framework."""
        if self._watch is not None:
            self._end(RuntimeError("the fit was broken off"))

    def end(self, log: Callable[[dict[str, int]], object] | None = None) -> None:
        """The fit is over: print what is wrong with it, and hand numbers by name to `log`, the trainer's own logger."""
        if self._watch is not None:
            self._end(None)
            if log is not None:
                log(self.numbers())

    def fail(self, error: BaseException) -> None:
        """The fit was ended by an exception: print what was wrong with it until then."""
        if self._watch is not None:
            self._end(error)

    def raise_faults(self) -> None:
        """Raise TrainingFaultError if the last fit has faults, and it was asked for."""
        if self._on_fault == "raise" and self.findings.faults:
            raise TrainingFaultError(self.findings)

    def numbers(self) -> dict[str, int]:
        """How many findings of each kind, and of each rule that has a fault or a warning."""
        counts = counts_by_severity(self.findings)
        for one in self.findings:
            if one.severity != "note":
                counts[f"checkup/{one.code} {one.name}"] = counts.get(f"checkup/{one.code} {one.name}", 0) + 1
        return counts

    def _end(self, error: BaseException | None) -> None:
        watch, self._watch = self._watch, None
        assert watch is not None
        atexit.unregister(self.abandon)
        failed, crashed = error is not None, isinstance(error, Exception)
        findings = watch.last_findings(error, failed=failed, crashed=crashed).in_cells().relative_to(os.getcwd())
        # After an exception the other processes may be gone.
        self.findings = findings if failed else of_all_ranks(findings)
        if _rank() == 0:
            ending = " until an error ended it" if failed else ""
            watched = "; ".join(tracked.label() for tracked in watch.tracked) or "no optimiser"
            lines = [f"rislab checkup of {self._title}, {watch.steps} steps{ending}: {watched}", *self._remarks]
            print("\n".join([*lines, *map(str, self.findings), self.findings.verdict]))


def _loops_alone(read: Callable[[], TrainerSettings]) -> TrainerSettings:
    """The optimisers of a trainer of which nothing else is known; none if it does not even have those."""
    try:
        return TrainerSettings(read().loops)
    except (AttributeError, KeyError):
        return TrainerSettings()


def of_all_ranks(findings: Findings) -> Findings:
    """The findings of all processes of a distributed run, each once; those of this one if there are no others."""
    if not among_ranks():
        return findings
    gathered: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(gathered, list(findings))
    ranks: dict[tuple[str, ...], list[int]] = {}
    first: dict[tuple[str, ...], Finding] = {}
    for rank, own in enumerate(gathered):
        for finding in own:
            key = (finding.code, finding.name, finding.severity, finding.where)
            first.setdefault(key, finding)
            ranks.setdefault(key, []).append(rank)
    return Findings(
        replace(finding, evidence=f"{finding.evidence} (rank {', '.join(map(str, sorted(set(ranks[key]))))})")
        for key, finding in first.items()
    )


def is_first(callback: object, callbacks: Sequence[object]) -> bool:
    """Whether a callback is the first of its kind, the one that reports; the others say that they do not."""
    first = next((one for one in callbacks if isinstance(one, type(callback))), callback)
    if first is not callback and _rank() == 0:
        print("rislab checkup: the trainer has another CheckupCallback before this one, which reports alone")
    return first is callback


def framework_class(name: str, modules: Sequence[str]) -> Any:
    """A class of a framework: of the first of the modules that is imported already, else that is installed.

    Args:
        name: of the class.
        modules: that may hold it.

    Returns:
        `object` if none is installed; needs() then says so where the class is used.
    """
    installed = [one for one in modules if importlib.util.find_spec(one.split(".")[0]) is not None]
    module = next((one for one in installed if one in sys.modules), next(iter(installed), None))
    return object if module is None else getattr(importlib.import_module(module), name)


def needs(base: type, package: str) -> None:
    """Raise InputError if a framework was not found."""
    if base is object:
        raise InputError(
            f"CheckupCallback needs {package}, which is not installed; install it with pip install {package}"
        )


def owner_of(fits: Callable[[object], bool]) -> Any:
    """The nearest object of which a method is under way and that fits; None if there is none."""
    owners = (frame.f_locals.get("self") for frame in _callers())
    return next((one for one in owners if one is not None and fits(one)), None)


def _callers() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def _rank() -> int:
    return distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0
