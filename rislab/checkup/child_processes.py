"""Child processes of a watched script: those that `multiprocessing` starts watch themselves and leave a report.

A child is started with a `run` of ours around its own, which travels with it under any start method. Forks by os.fork()
and daemonic processes, as the workers of a data loader, only leave a mark if they take a step: that is not judged.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import Any

import torch
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

from rislab.checkup.findings import Finding, as_note
from rislab.checkup.observers.rank_differences import RankMarks, compare_ranks
from rislab.checkup.process_watch import ProcessWatch, StopWatching
from rislab.checkup.recording.interception import Replacement
from rislab.checkup.recording.windows import Declared
from rislab.checkup.rules import Code

# A child that was told to stop has so long to leave, seconds.
GRACE = 10.0
# As they are before hidden_handler() puts others in their place.
_handler, _set_handler = signal.getsignal, signal.signal
# Less CPU time than it takes to import torch, seconds: such children have trained nothing.
IDLE = 1.0


class Terminated(BaseException):
    """Raised in the watched code by SIGTERM."""


@dataclass(frozen=True)
class ChildReport:
    """What a child process found."""

    steps: int  # that it took
    optimisers: list[str]  # that it watched, in words
    findings: list[Finding]  # of its loops
    marks: RankMarks | None = None  # of its part in a distributed training, None outside of one


@dataclass(frozen=True)
class Children:
    """How the children of a script are watched, and where they leave what they found."""

    folder: Path  # for the reports
    root: int  # number of the process that reads them
    steps: int | None  # after which a child stops, and the script with it; None never
    every: int | None  # n ≥ 1; take the gradients of each n-th window
    declared: Declared | None  # what the loops are meant to do; None if nothing is declared

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Processes that are started in the block are watched; the others leave a mark if they take a step."""
        start = BaseProcess.start

        def start_watched(process: BaseProcess) -> None:
            if "run" in vars(process):
                start(process)
                return
            interruptible = _handler(signal.SIGTERM) == self.on_sigterm
            # An attribute of the object: a subclass may have a run() of its own.
            setattr(process, "run", WatchedChild(self, process, interruptible))  # noqa: B010
            try:
                with _sigterm_held_back() if interruptible else contextlib.nullcontext():
                    start(process)
            finally:
                del vars(process)["run"]

        setattr(BaseProcess, "start", start_watched)  # noqa: B010
        counting = register_optimizer_step_post_hook(self._on_step)
        try:
            yield
        finally:
            counting.remove()
            setattr(BaseProcess, "start", start)  # noqa: B010

    def on_sigterm(self, number: int, frame: FrameType | None) -> None:
        """The handler of SIGTERM in the process of the script."""
        if os.getpid() != self.root:
            # A fork has inherited the handler, and would have died of the signal without it.
            _set_handler(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        raise StopWatching if self._stopped.exists() else Terminated

    @contextlib.contextmanager
    def hidden_handler(self) -> Iterator[None]:
        """on_sigterm() is the handler of SIGTERM, and the script reads, and sets, the default in its place."""

        def reading(original: Callable[..., Any]) -> Callable[..., Any]:
            return lambda number: _hidden(original(number))

        def setting(original: Callable[..., Any]) -> Callable[..., Any]:
            def set_handler(number: int, handler: Any) -> Any:
                default = number == signal.SIGTERM and handler == signal.SIG_DFL
                return _hidden(original(number, self.on_sigterm if default else handler))

            return set_handler

        def _hidden(handler: Any) -> Any:
            return signal.SIG_DFL if handler == self.on_sigterm else handler

        _set_handler(signal.SIGTERM, self.on_sigterm)
        try:
            with Replacement(signal, "getsignal", reading), Replacement(signal, "signal", setting):
                yield
        finally:
            _set_handler(signal.SIGTERM, signal.SIG_DFL)

    def watch_run(self, run: Callable[[], None], interruptible: bool) -> None:
        """Do the work of a child, watched, and leave a report; `interruptible` if the script may be stopped with it."""
        watch = ProcessWatch(self.steps, every=self.every, declared=self.declared)
        stopped, failure = False, None
        watch.__enter__()
        try:
            with self.watched():
                run()
        except StopWatching:
            stopped = True
        except BaseException as error:
            failure = error
            raise
        finally:
            failed = failure is not None
            findings = list(watch.last_findings(failure, failed=failed, crashed=failed))
            report = ChildReport(watch.steps, watch.labels(), findings, watch.rank_marks())
            self._write(f"{os.getpid()}.json", json.dumps(dataclasses.asdict(report)))
        if stopped:
            self._stop_script(interruptible)

    def reports(self) -> list[ChildReport]:
        """Those that the children have left."""
        return [
            ChildReport(
                plain["steps"],
                plain["optimisers"],
                [Finding.from_dict(finding) for finding in plain["findings"]],
                None if plain["marks"] is None else RankMarks(**plain["marks"]),
            )
            for plain in (json.loads(path.read_text()) for path in sorted(self.folder.glob("*.json")))
        ]

    def unseen(self) -> int:
        """How many children took steps and left no report."""
        return sum(not path.with_suffix(".json").exists() for path in self.folder.glob("*.stepped"))

    @property
    def _stopped(self) -> Path:
        return self.folder / "stopped"

    def _on_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if torch.compiler.is_compiling():
            return
        mark = f"{os.getpid()}.stepped"
        if os.getpid() != self.root and not (self.folder / mark).exists():
            self._write(mark, "")

    def _write(self, name: str, text: str) -> None:
        temporary = self.folder / f"{name}.{os.getpid()}"
        # The folder is gone if the script has ended without waiting for this process: nobody reads any more.
        with contextlib.suppress(FileNotFoundError):
            temporary.write_text(text)
            os.replace(temporary, self.folder / name)

    def _stop_script(self, interruptible: bool) -> None:
        """Stop the process of the script, once: it may wait for something that this child will never send."""
        with contextlib.suppress(FileNotFoundError, FileExistsError):
            self._stopped.touch(exist_ok=False)
            if interruptible:
                os.kill(self.root, signal.SIGTERM)


@dataclass(frozen=True)
class WatchedChild:
    """The run() of a watched process."""

    children: Children  # how it is watched
    process: BaseProcess  # whose own run() is called
    interruptible: bool  # whether the script may be stopped with it, by SIGTERM

    def __call__(self) -> None:
        def run() -> None:
            type(self.process).run(self.process)

        if self.interruptible:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        if self.process.daemon:
            with self.children.watched():
                run()
        else:
            self.children.watch_run(run, self.interruptible)


@contextlib.contextmanager
def _sigterm_held_back() -> Iterator[None]:
    """A fork forgets the signals for which Python has a handler, if they come before it has begun."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def wait_for(before: Iterable[BaseProcess], timeout: float | None) -> None:
    """Wait for the children of this process, but for those of `before`, so many seconds or for ever; then stop them."""
    own = [child for child in multiprocessing.active_children() if child not in before and not child.daemon]
    end = None if timeout is None else monotonic() + timeout
    for child in own:
        child.join(None if end is None else max(0.0, end - monotonic()))
        if child.is_alive():
            child.terminate()
            child.join(GRACE)


def cpu_time() -> float:
    """Of the children that have ended, seconds."""
    times = os.times()
    return times.children_user + times.children_system


def merged(reports: Sequence[ChildReport]) -> list[Finding]:
    """The findings of all children, each once, and what differs between them."""
    groups: dict[tuple[str, ...], list[Finding]] = {}
    for report in reports:
        for finding in report.findings:
            groups.setdefault((finding.code, finding.name, finding.severity, finding.where), []).append(finding)
    own = [
        dataclasses.replace(group[0], evidence=f"{group[0].evidence} (in {_processes(len(group))})")
        for group in groups.values()
    ]
    return own + compare_ranks([report.marks for report in reports if report.marks is not None])


def unjudged(unseen: int, seconds: float, trained: bool) -> list[Finding]:
    """What could not be judged of children: how many took steps unseen, and the seconds of CPU time of all."""
    if unseen:
        why = "a fork, a daemonic process, or one that was ended before it could report"
        return [as_note(Code.LOSSES, "not judged", f"{_processes(unseen)} took steps that were not seen: {why}")]
    if seconds > IDLE and not trained:
        why = "only processes that `multiprocessing` starts are watched"
        text = f"child processes took {seconds:.1f} s of CPU time, and no training was seen: {why}"
        return [as_note(Code.LOSSES, "not judged", text)]
    return []


def _processes(count: int) -> str:
    return "a child process" if count == 1 else f"{count} child processes"
