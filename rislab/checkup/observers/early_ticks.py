"""Schedules that tick before anything is trained, as at the head of each epoch, and so begin one tick late."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

from torch.optim import lr_scheduler
from torch.optim.optimizer import Optimizer

from rislab.checkup.findings import Finding, as_fault, as_warning
from rislab.checkup.observers.plateaus import rates_of
from rislab.checkup.recording.call_stack import caller
from rislab.checkup.recording.events import Observer, Roots
from rislab.checkup.recording.optimizers import has_stepped, tensors_held
from rislab.checkup.rules import Code

NAME = "scheduler before the optimiser"
# The loop's own functions: whoever writes them may count from 1.
OWN = (lr_scheduler.LambdaLR, lr_scheduler.MultiplicativeLR)


class EarlyTicks(Observer):
    """Compares the line of a tick that comes before the first backward with those of later ticks."""

    def __init__(self) -> None:
        # By scheduler: the line of its first tick and the rate until then; None after a second one.
        self._early: dict[weakref.ref[Any], tuple[str, float] | None] = {}
        self._trained = False
        self._findings: dict[str, Finding] = {}

    def on_backward(self, roots: Roots) -> bool:
        self._trained = True
        return True

    def on_schedule(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        scheduler, rates = args[0], rates_of(args[0])
        # Given the epoch, a tick sets the place in the schedule. One that is made ticks by itself, at -1.
        if len(args) + len(kwargs) > 1 or not rates or getattr(scheduler, "last_epoch", -1) < 0:
            return
        key, begins = weakref.ref(scheduler), not self._trained and not _has_trained(scheduler)
        if not begins and key not in self._early:
            return  # as most ticks, of which the line is of no concern
        where, rate = caller()[0], float(rates[0])
        if begins:
            # Many ticks lead to where a run goes on, and one may lead away from a rate of 0.
            first = scheduler.last_epoch == 0 and rate > 0
            self._early[key] = (where, rate) if first else None
        elif (early := self._early.pop(key)) is not None and early[0] == where:
            self._findings[where] = _finding(scheduler, where, early[1], rate)

    def findings(self) -> list[Finding]:
        """One for each line."""
        return [*self._findings.values()]


def _has_trained(scheduler: Any) -> bool:
    """Whether an optimiser has stepped, or is about to, on gradients of which nobody saw the backward."""
    optimizer = vars(scheduler).get("optimizer")
    return isinstance(optimizer, Optimizer) and (
        has_stepped(optimizer) or any(value.grad is not None for value in tensors_held(optimizer))
    )


def _finding(scheduler: Any, where: str, first: float, rate: float) -> Finding:
    text = "a tick before the first backward, and again at the same line after it: "
    if rate == first:
        return as_warning(Code.SCHEDULER, NAME, f"{text}each change of the rate comes one tick early", where)
    text += f"training began at a rate of {rate:.3g}, and {first:.3g}, that of the first tick, was never used"
    return (as_warning if isinstance(scheduler, OWN) else as_fault)(Code.SCHEDULER, NAME, text, where)
