"""The options of a checkup: limits and help of each, declared once for `watch()`, the command line and pytest."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rislab.errors import check_choice, check_number


@dataclass(frozen=True)
class Option:
    """The values that an option may have; the fields are those of rislab.config.Declaration.

    Args:
        kind: "integer", "number" or "choice".
        help: what the option means, without a capital at its start and a full stop at its end.
        low: smallest number.
        high: largest number.
        exclusive: whether `low` itself is not allowed.
        choices: values of a "choice".
        optional: whether None is allowed.
    """

    kind: str
    help: str
    low: float = -math.inf
    high: float = math.inf
    exclusive: bool = False
    choices: tuple[str, ...] = ()
    optional: bool = True

    def check(self, name: str, value: Any) -> None:
        """Raise InputError, which names the option and what is allowed, unless the value is allowed."""
        if value is None and self.optional:
            return
        if self.kind == "choice":
            check_choice(name, value, self.choices)
        else:
            check_number(name, value, self.low, self.high, integer=self.kind == "integer", exclusive=self.exclusive)


OPTIONS: Mapping[str, Option] = {
    "accumulation_steps": Option("integer", "micro-batches of one optimiser step, K; inferred if not given", 1, 10**6),
    "mean": Option(
        "choice", "what counts equally in a window; if not given, a smaller last batch is only warned of",
        choices=("samples", "batches"), optional=False,
    ),
    "clip_norm": Option("number", "largest gradient norm; if not given, evident clipping is taken as meant", 0,
                        exclusive=True),
    "epochs": Option("integer", "that the loop is to make", 1, 10**9),
    "scheduler_interval": Option(
        "choice", "at which the scheduler is to tick; inferred if not given", choices=("step", "epoch", ""),
        optional=False,
    ),
    "every": Option("integer", "take the gradients of each n-th window only", 1, 10**6),
    "steps": Option("integer", "stop after so many steps of one optimiser", 1, 10**9),
}  # fmt: skip


def check_options(**given: Any) -> None:
    """Raise InputError for the first value that its option does not allow."""
    for name, value in given.items():
        OPTIONS[name].check(name, value)
