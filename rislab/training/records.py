"""Records of training: one StepRecord a window, one EpochRecord an epoch, and the log that is printed from them.

Records hold what was measured. NaN and infinity stay NaN and infinity, in memory, on disk and on the screen.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Term:
    """One term of the loss."""

    value: float  # without its weight
    weight: float  # in the loss
    share: float  # weight · value / total


@dataclass(frozen=True)
class GradientCounts:
    """How many parameter tensors got which kind of gradient."""

    tensors: int  # all of them
    none: int  # without a gradient
    zero: int  # whose gradient is all zero
    nonfinite: int  # whose gradient holds NaN or infinity


@dataclass(frozen=True)
class Counters:
    """Events since the start of the run, each counted where it happens."""

    forwards: int = 0  # calls of the model in training mode
    backwards: int = 0  # that reached a parameter of the model
    steps_applied: int = 0  # optimiser steps that really ran
    steps_skipped: int = 0  # windows that ended without one
    scheduler_ticks: int = 0  # steps of the learning-rate schedule


@dataclass(frozen=True)
class StepRecord:
    """One window: the micro-batches that share one optimiser step.

    Args:
        epoch: from 1.
        step: windows of the whole run, this one included.
        phase: name of the curriculum phase.
        micro_batches: in the window.
        samples: scenes in the window.
        loss: mean of the raw, unscaled micro-batch losses, weighted by their scenes.
        loss_nmse: the same mean of the NMSE of R_test.
        loss_nmse_pred: the same mean of the NMSE of R_pred.
        terms: value, weight and share of each loss term.
        requires_grad: whether the tested covariance carried a gradient.
        grad_norm: unscaled gradient norm by group ("backbone", "head") before clipping.
        grad_norm_clipped: the same after clipping, measured again.
        coverage: tensors with a missing, zero or non-finite gradient.
        learning_rate: by group, as used in this step.
        loss_scale: of the gradient scaler before this step; 1 without one.
        found_inf: whether a gradient held NaN or infinity.
        applied: whether the optimiser really stepped.
        reason: why it did not; "" if it did.
        update_ratio: ‖Δθ‖ / ‖θ‖ of this step, measured on the weights.
        seconds: wall time of the window.
    """

    epoch: int
    step: int
    phase: str
    micro_batches: int
    samples: int
    loss: float
    loss_nmse: float
    loss_nmse_pred: float
    terms: dict[str, Term]
    requires_grad: bool
    grad_norm: dict[str, float]
    grad_norm_clipped: dict[str, float]
    coverage: GradientCounts
    learning_rate: dict[str, float]
    loss_scale: float
    found_inf: bool
    applied: bool
    reason: str
    update_ratio: float
    seconds: float


@dataclass(frozen=True)
class EpochRecord:
    """One epoch.

    Args:
        epoch: from 1.
        epochs: of the whole run.
        step: windows so far.
        phase: name of the curriculum phase.
        train: mean of the raw training losses of the epoch, weighted by scenes, while the weights moved.
        train_eval: NMSE of R_pred on the same data afterwards, in eval mode, with the raw weights.
        loss_nmse: like train_eval, of the blend R_test.
        loss_nmse_pred: the same number as train_eval.
        validation: NMSE of R_pred on the validation scenes, in eval mode, with the raw weights; None without them.
        ema: NMSE of R_pred on the validation scenes (training scenes if there are none) with averaged weights; None
            without averaging.
        counters: events since the start of the run.
        seconds: wall time since the epoch began (or was resumed), evaluations and observers included.
    """

    epoch: int
    epochs: int
    step: int
    phase: str
    train: float
    train_eval: float
    loss_nmse: float
    loss_nmse_pred: float
    validation: float | None
    ema: float | None
    counters: Counters
    seconds: float


Record = StepRecord | EpochRecord


def step_records(records: Iterable[Record]) -> list[StepRecord]:
    """The StepRecords among records."""
    return [record for record in records if isinstance(record, StepRecord)]


def epoch_records(records: Iterable[Record]) -> list[EpochRecord]:
    """The EpochRecords among records."""
    return [record for record in records if isinstance(record, EpochRecord)]


class Recorded:
    """What holds the records of a run, sorted."""

    records: list[Record]

    @property
    def step_records(self) -> list[StepRecord]:
        """The records of the windows."""
        return step_records(self.records)

    @property
    def epoch_records(self) -> list[EpochRecord]:
        """The records of the epochs."""
        return epoch_records(self.records)

    @property
    def zero_terms(self) -> int:
        """Terms of the loss that were exactly 0 in every window."""
        steps = self.step_records
        names = {name for window in steps for name in window.terms}
        return sum(all(w.terms[name].value == 0 for w in steps if name in w.terms) for name in names)


def equal_but_time(one: Record, other: Record) -> bool:
    """Whether two records agree in everything but the time that they took; NaN equals NaN."""
    texts = {json.dumps(to_dict(dataclasses.replace(record, seconds=0.0))) for record in (one, other)}
    return len(texts) == 1


def to_dict(record: Record) -> dict[str, Any]:
    """Plain mapping of a record, with its kind; numbers keep all their digits through JSON."""
    return {"kind": "step" if isinstance(record, StepRecord) else "epoch", **_plain(record)}


def _plain(value: Any) -> Any:
    """What dataclasses.asdict() gives, six times as fast: a run that writes its records does this at every step."""
    if isinstance(value, float | int | str) or value is None:
        return value
    parts = value if isinstance(value, dict) else vars(value)
    return {name: _plain(part) for name, part in parts.items()}


def from_dict(fields: dict[str, Any]) -> Record:
    """The record that to_dict() was given."""
    values = {name: value for name, value in fields.items() if name != "kind"}
    if fields["kind"] == "epoch":
        return EpochRecord(**{**values, "counters": Counters(**values["counters"])})
    terms = {name: Term(**term) for name, term in values["terms"].items()}
    return StepRecord(**{**values, "terms": terms, "coverage": GradientCounts(**values["coverage"])})


def console(records: Iterable[Record]) -> Iterator[str]:
    """The log of a run, line by line: [LOSS] and [GRAD] before each epoch line, from the epoch's last window.

    The [GRAD] line counts applied and skipped steps of the whole run so far.
    """
    last: StepRecord | None = None
    for record in records:
        if isinstance(record, StepRecord):
            last = record
            continue
        if last is not None:
            yield loss_line(last)
            yield grad_line(last, record.counters)
        yield epoch_line(record)


def loss_line(record: StepRecord) -> str:
    """`[LOSS] loss_nmse=… loss_nmse_pred=… | R_test.requires_grad=… | finite=…` of one window."""
    finite = abs(record.loss) < float("inf")
    return (
        f"[LOSS] loss_nmse={record.loss_nmse:.5g} loss_nmse_pred={record.loss_nmse_pred:.5g} "
        f"| R_test.requires_grad={record.requires_grad} | finite={finite}"
    )


def grad_line(record: StepRecord, counters: Counters) -> str:
    """`[GRAD] backbone=… head=… ok=… | steps applied=… skipped=…` of one window."""
    norms = " ".join(f"{group}={norm:.2e}" for group, norm in record.grad_norm.items())
    missing = record.coverage.none + record.coverage.zero + record.coverage.nonfinite
    return f"[GRAD] {norms} ok={missing == 0} | steps applied={counters.steps_applied} skipped={counters.steps_skipped}"


def epoch_line(record: EpochRecord) -> str:
    """`Epoch 001/030 [no-curriculum] train …  val …`; without validation scenes it shows eval on the training data."""
    shown = ("val", record.validation) if record.validation is not None else ("eval", record.train_eval)
    return (
        f"Epoch {record.epoch:03d}/{record.epochs:03d} [{record.phase}] "
        f"train {record.train:.5g}  {shown[0]} {shown[1]:.5g}"
    )
