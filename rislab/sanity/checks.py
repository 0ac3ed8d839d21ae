"""What a check of the lab returns, and the one window of the loop that several of them look at."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from rislab.data.scenes import SceneBatch
from rislab.training.config import TrainConfig
from rislab.training.loop import fit
from rislab.training.records import StepRecord


@dataclass(frozen=True)
class Verdict:
    """Value of a check, how it must relate to its reference, and what the numbers mean."""

    value: float
    relation: str
    reference: float
    sentence: str

    @property
    def holds(self) -> bool:
        """Whether the value relates to the reference as it must; NaN, of what could not be computed, never does."""
        value, reference = self.value, self.reference
        return {"<=": value <= reference, ">=": value >= reference, "==": value == reference}[self.relation]


@dataclass(frozen=True)
class CheckResult:
    """One check: `value relation reference`, e.g. 0.0144 <= 0.05, with a sentence that says what was compared.

    Args:
        name: of the check.
        value: that was measured; its unit is in the sentence.
        relation: one of "<=", ">=" and "==".
        reference: that the value is compared with.
        passed: whether the relation holds.
        sentence: what was compared.
        seconds: that the check took.
    """

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


def run_check(name: str, check: Callable[[], Verdict]) -> CheckResult:
    """Run one check and time it."""
    began = time.perf_counter()
    verdict = check()
    return CheckResult(name, passed=verdict.holds, seconds=time.perf_counter() - began, **dataclasses.asdict(verdict))


def one_window(model: nn.Module, data: SceneBatch, config: TrainConfig) -> StepRecord:
    """Run the loop for one window; its gradient is left on the parameters, raw if the config does not clip."""
    stream = fit(model, data, config)
    record = next(stream)
    stream.close()
    assert isinstance(record, StepRecord)
    return record
