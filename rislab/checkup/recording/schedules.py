"""What a scheduler of the loop was made for, as far as its public attributes say it, and how often it has ticked."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch.optim import lr_scheduler

# Names under which functions of a schedule know its lengths.
WARM_UP, TOTAL = ("warm",), ("total", "training_steps", "train_steps", "num_steps", "max_steps")


@dataclass(frozen=True)
class Schedule:
    """What a scheduler was made for."""

    kind: str  # name of its class
    begun: int = 0  # ticks before the recording began
    base: float = 0.0  # largest of the rates that it starts from
    # Ticks after which it has done what it was made for; None if it does not say, or has no end.
    length: int | None = None
    rises_after: bool = False  # whether its rates rise again after that
    warm_up: int | None = None  # ticks of its warm-up, None if it does not say
    last_fall: int | None = None  # the tick of its last fall, or between two; None if it does not fall at times
    unchosen: bool = False  # whether it is a ConstantLR of which nothing was chosen, not even that it begins low


class SchedulerTicks:
    """Ticks of a scheduler since the recording began; None stands for a loop without one."""

    def __init__(self, scheduler: Any) -> None:
        self._scheduler, self._before = scheduler, 0

    def begin(self) -> Schedule | None:
        """Count from here; says what the scheduler was made for, None without one."""
        self._before += self.count() or 0
        return None if self._scheduler is None else schedule_of(self._scheduler, self._before)

    def count(self) -> int | None:
        """Ticks so far, None without a scheduler."""
        last = getattr(self._scheduler, "last_epoch", None)
        if last is None and isinstance(self._scheduler, lr_scheduler.ChainedScheduler):
            # Its parts tick together, and have no public name but in the state that a checkpoint holds.
            last = self._scheduler.state_dict()["_schedulers"][0].get("last_epoch")
        # Given a number that is none of an epoch, it ticked all the same.
        return None if last is None else math.ceil(last) - self._before


def schedule_of(scheduler: Any, begun: int) -> Schedule:
    """What a scheduler, of torch or with its attributes, was made for, after so many ticks."""
    kind, base = type(scheduler), max(getattr(scheduler, "base_lrs", ()), default=0.0)
    values: Mapping[str, Any] = {}
    offset = 0
    if kind is lr_scheduler.SequentialLR:
        # The parts have no public name but in the state that a checkpoint holds.
        state = scheduler.state_dict()
        parts, ends = state.get("_schedulers") or [{}], state.get("_milestones") or [0]
        values, offset = parts[-1], ends[-1]
    elif kind.__module__ == lr_scheduler.__name__ and kind is not lr_scheduler.LambdaLR:
        values = vars(scheduler)
    elif kind is lr_scheduler.LambdaLR:
        warm_up, total = _named_lengths(scheduler.lr_lambdas[0])
        return Schedule(kind.__name__, begun, base, total, warm_up=warm_up)
    length = _length(values)
    rises, unchosen = "T_max" in values, kind is lr_scheduler.ConstantLR and _is_unchosen(values)
    falls = [*values.get("milestones", ())] or [values.get("step_size")]
    last = max((one for one in falls if isinstance(one, int)), default=None)
    total = None if length is None else offset + length
    return Schedule(kind.__name__, begun, base, total, rises, last_fall=last, unchosen=unchosen)


def _is_unchosen(values: Mapping[str, Any]) -> bool:
    """Whether all settings of a ConstantLR are those that torch gives."""
    given = inspect.signature(lr_scheduler.ConstantLR).parameters
    return all(values.get(name) == given[name].default for name in ("factor", "total_iters") if name in given)


def _length(values: Mapping[str, Any]) -> int | None:
    for name in ("T_max", "total_steps", "total_iters"):
        value = values.get(name)
        if isinstance(value, int) and value > 0:
            return value
    return None


def _named_lengths(factor: Any) -> tuple[int | None, int | None]:
    """Warm-up and total of a function of ticks, by the names of what is bound in it; None where none, or many, fit."""
    known: dict[str, Any] = {}
    if isinstance(factor, functools.partial):
        known = dict(factor.keywords)
    elif inspect.isfunction(factor):
        known = _bound(factor)
    results = []
    for words, others in ((WARM_UP, ()), (TOTAL, WARM_UP)):
        fits = [
            value
            for name, value in known.items()
            if isinstance(value, int)
            and any(word in name.lower() for word in words)
            and not any(word in name.lower() for word in others)
        ]
        results.append(fits[0] if len(fits) == 1 else None)
    return results[0], results[1]


def _bound(function: Any) -> dict[str, Any]:
    """Values by the names that a function looks up outside of itself."""
    try:
        results = inspect.getclosurevars(function)
    except ValueError:  # a name that is bound later
        return {}
    return {**results.globals, **results.nonlocals}
