"""Schedules that look the wrong way, for larger losses or smaller accuracies, or that take a loss for the epoch."""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from rislab.checkup.findings import Finding, as_fault, as_warning
from rislab.checkup.recording.call_stack import caller
from rislab.checkup.recording.events import ForwardEvent, Observer
from rislab.checkup.rules import Code

# Ticks that tell anything, and that are held; the share of them in one direction; samples of an evaluation.
FEWEST, TICKS, SHARE, SAMPLES = 5, 200, 0.6, 20


@dataclass
class _Ticks:
    """Ticks of one scheduler."""

    mode: str  # "min" or "max"
    where: str  # file and line of the first
    metrics: list[float] = field(default_factory=list)  # that it was given
    # Whether each is a share of the samples that were evaluated before, as an accuracy is.
    shares: list[bool] = field(default_factory=list)
    cuts: int = 0  # how often it lowered the rate

    def evidence(self) -> str:
        """How the metric went the other way, "" if it did not."""
        # Once the rate is low, a metric stands still.
        changes = [after - before for before, after in pairwise(self.metrics) if after != before]
        if len(changes) < FEWEST - 1 or not self.cuts:
            return ""
        sign = 1 if self.mode == "min" else -1
        against = sum(sign * change > 0 for change in changes) >= SHARE * len(changes)
        best = sign * self.metrics[-1] > sign * self.metrics[0]
        # A loss may rise, as in overfitting, and an accuracy may fall.
        fits = all(self.shares) if self.mode == "min" else not any(self.shares)
        if not against or not best or not fits:
            return ""
        kind = "a share of the samples, rose" if sign > 0 else "no share of the samples, fell"
        text = f'mode="{self.mode}", and the metric, {kind} from {self.metrics[0]:.4g} to {self.metrics[-1]:.4g} in '
        return f"{text}{len(self.metrics)} ticks: the rate was lowered {self.cuts} times"


class PlateauModes(Observer):
    """Follows what schedulers are given at their ticks."""

    def __init__(self) -> None:
        self._ticks: dict[weakref.ref[Any], _Ticks] = {}  # by scheduler
        # By scheduler: line of the first, and epochs it was given.
        self._given: dict[weakref.ref[Any], tuple[str, list[float]]] = {}
        self._samples = 0  # that were evaluated since the last tick
        # The last tick, after which the rate may be lower: a scheduler, its ticks, its rate before.
        self._last: tuple[Any, _Ticks, list[Any]] | None = None

    def on_schedule(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self._end_tick()
        epoch = args[1] if len(args) > 1 else kwargs.get("epoch")
        if isinstance(epoch, float) and math.isfinite(epoch):
            _, epochs = self._given.setdefault(weakref.ref(args[0]), (caller()[0], []))
            if len(epochs) < TICKS:
                epochs.append(epoch)

    def on_plateau(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        scheduler: Any = args[0]
        metric: Any = args[1] if len(args) > 1 else kwargs.get("metrics")
        self._end_tick()
        ticks = self._ticks.setdefault(weakref.ref(scheduler), _Ticks(scheduler.mode, caller()[0]))
        number = isinstance(metric, int | float) or (isinstance(metric, Tensor) and metric.numel() == 1)
        if number and len(ticks.metrics) < TICKS:
            value, count = float(metric), self._samples
            ticks.metrics.append(value)
            is_integer = math.isfinite(value) and abs(value * count - round(value * count)) < 1e-3
            ticks.shares.append(count >= SAMPLES and is_integer)
            self._last = scheduler, ticks, rates_of(scheduler)
        self._samples = 0

    def _end_tick(self) -> None:
        if self._last is not None:
            (scheduler, ticks, before), self._last = self._last, None
            ticks.cuts += rates_of(scheduler) < before

    def on_forward_end(self, call: ForwardEvent) -> None:
        self._end_tick()
        if not torch.is_grad_enabled() and call.inputs and call.inputs[0].dim():
            self._samples += len(call.inputs[0])

    def end(self, error: BaseException | None) -> None:
        self._end_tick()

    def findings(self) -> list[Finding]:
        texts = [(ticks.evidence(), ticks.where) for ticks in self._ticks.values()]
        name = "plateau looked for the other way"
        results = [as_warning(Code.SCHEDULER, name, text, where) for text, where in texts if text]
        for where, epochs in self._given.values():
            # Parts of an epoch rise, and fall where a cycle ends; a loss falls often, and is never a whole number.
            falls = sum(after < before for before, after in pairwise(epochs))
            if len(epochs) >= FEWEST and 3 * falls >= len(epochs) and all(value % 1 for value in epochs):
                text = f"step() was given {epochs[0]:.4g}, {epochs[1]:.4g}, … {epochs[-1]:.4g} as the epoch, which "
                text += f"fell {falls} times in {len(epochs)} ticks"
                results.append(as_fault(Code.SCHEDULER, "loss given as the epoch", text, where))
        return results


def rates_of(scheduler: Any) -> list[Any]:
    """The rate of the first group, none of a scheduler that was never made."""
    groups = getattr(vars(scheduler).get("optimizer"), "param_groups", [])
    return [group["lr"] for group in groups[:1] if "lr" in group]
