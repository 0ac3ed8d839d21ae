"""The checkup beside a run that trains: what is wrong so far, and which micro-batches fed each step."""

from __future__ import annotations

import time
import types
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from rislab.checkup.diagnosis import diagnose
from rislab.checkup.findings import OF_THE_END, Findings
from rislab.checkup.loop_watch import Watch
from rislab.checkup.recording.gradients import compare_gradients
from rislab.checkup.recording.trace import Step
from rislab.checkup.recording.windows import (
    Declared,
    StepComparison,
    StepWindow,
    is_parallel,
    micro_batch_weights,
    step_window,
)
from rislab.checkup.rules import Code
from rislab.faults.comparison import watched_loop
from rislab.training.records import EpochRecord, Record, StepRecord

STEPS = 64  # of which the micro-batches are remembered
PACE = 0.5  # least seconds between two verdicts
SHARE = 1 / 50  # of the time that verdicts may take


@dataclass(frozen=True)
class FedStep:
    """An optimiser step, and what its micro-batches gave to it."""

    number: int  # of the step, from 1
    weights: tuple[float, ...]  # how often each micro-batch counts; 1 is its exact share, 0 one that was lost
    # whether the gradient of the step was held against the true one; else the weights are the loop's word
    compared: bool
    applied: bool = True  # whether the optimiser stepped


class LiveCheckup:
    """The checkup of one run, by watch() at its default sampling; filled in the thread that trains.

    Attributes:
        findings: so far.
        summary: the same in one sentence.
        fed: the last steps.
        steps: number of steps so far.
        compared: number of those whose gradient was compared with the true one.

    Args:
        package: whose loop runs; see patched().
    """

    def __init__(self, package: types.ModuleType) -> None:
        self.findings = Findings()
        self.summary = "no step yet"
        self.fed: deque[FedStep] = deque(maxlen=STEPS)
        self.steps = self.compared = 0
        self._package = package
        self._watch: Watch | None = None
        self._entered = 0  # steps of the trace that are in `fed`
        self._reported: list[float] = []
        self._of_reports = Findings()
        self._due = 0.0

    @contextmanager
    def observe(self, state: Any) -> Iterator[None]:
        """Watch the loop of the package while the block runs.

        Args:
            state: TrainState of the run.
        """
        self._watch = watched_loop(self._package, state)
        try:
            with self._watch:
                yield
        finally:
            finished = state.progress.epoch > state.config.epochs
            reported = self._reported if finished and state.progress.step == self._watch.trace.step_count else None
            findings = self._watch.findings(reported=reported)
            self.findings = findings if finished else _without_end([*findings, *self._of_reports])
            self.summary = self._summarised("in")

    def take(self, record: Record) -> None:
        """Note what is new in the trace after a record; now and then the verdict is made anew."""
        if self._watch is None:
            return
        trace, declared = self._watch.trace, self._watch.declared
        if isinstance(record, StepRecord):
            for step in trace.steps[self._entered :]:
                fed = fed_step(step, declared, trace.loss_declared)
                self.compared += fed.compared
                self.fed.append(fed)
            # One of many that were found right is not stored.
            if trace.step_count > self.steps and len(trace.steps) == self._entered:
                self.fed.append(FedStep(trace.step_count, (1.0,) * record.micro_batches, False, record.applied))
            self._entered, self.steps = len(trace.steps), trace.step_count
        else:
            self._reported.append(record.train)
        began = time.monotonic()
        if began >= self._due:
            self._diagnose(trace, declared, at_epoch=isinstance(record, EpochRecord))
            self._due = time.monotonic() + max(PACE, (time.monotonic() - began) / SHARE)

    def _summarised(self, when: str) -> str:
        count = f"{self.steps} step{'' if self.steps == 1 else 's'}"
        among = f"{count}, {self.compared} of them compared with the true gradient"
        wrong = [finding.name for finding in self.findings.of("warning")]
        return f"✗ {', '.join(wrong)}: {when} {among}" if wrong else f"✓ nothing wrong {when} {among}"

    def _diagnose(self, trace: Any, declared: Declared, *, at_epoch: bool) -> None:
        # Reported losses are those of complete epochs: in the middle of one they fit nothing.
        findings = diagnose(trace, declared, self._reported if at_epoch and trace.missed == 0 else None)
        reports = [finding for finding in findings if finding.code == Code.REPORT.value]
        if at_epoch:
            self._of_reports = Findings(reports)
        self.findings = _without_end([*findings, *(() if at_epoch else self._of_reports)])
        self.summary = self._summarised("so far in")


def _without_end(findings: Sequence[Any]) -> Findings:
    """Those that do not speak of what comes after the last step."""
    return Findings(finding for finding in findings if finding.name not in OF_THE_END).in_cells()


def fed_step(step: Step, declared: Declared, loss_declared: bool) -> FedStep:
    """What the micro-batches of a recorded step gave to it.

    Args:
        step: as recorded.
        declared: what the loop is meant to do.
        loss_declared: whether the loss was declared.
    """
    window = step.comparison or step_window(step, step.micro_batches, declared, loss_declared)
    clipped = bool(step.clips) or declared.clip_norm is not None
    weights = micro_batch_weights(window) if window.size and not (clipped and _only_clipped(window)) else None
    if weights is None:
        weights = [
            held / share if share else 0.0 for held, share in zip(window.held_weights, window.shares, strict=True)
        ]
    return FedStep(step.number, tuple(weights), isinstance(window, StepComparison), step.applied)


def _only_clipped(window: StepWindow) -> bool:
    """Whether the gradient is what the loop's own weights make, but for its length, which clipping has changed."""
    known = [batch.gradient for batch in window.batches if batch.gradient is not None]
    if not window.complete or len(known) < window.size:
        return False
    given = torch.stack([weight * gradient for weight, gradient in zip(window.held_weights, known, strict=True)]).sum(0)
    return bool(given.norm() > 0) and is_parallel(compare_gradients(window.gradient, given), window.tolerance)
