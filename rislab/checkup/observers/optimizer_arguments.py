"""Arguments of optimisers that have the value of another one, and rates that are written where no step reads them."""

from __future__ import annotations

import ast
import inspect
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch.optim.optimizer import Optimizer

from rislab.checkup.findings import Finding, as_fault, as_warning
from rislab.checkup.recording.call_stack import caller
from rislab.checkup.recording.events import Observer
from rislab.checkup.recording.source_text import calls_of, last_word, syntax_tree
from rislab.checkup.rules import Code

# Optimisers that add the decay to the gradient; others, as AdamW, multiply it by the rate.
COUPLED = (torch.optim.Adam, torch.optim.NAdam, torch.optim.RAdam, torch.optim.RMSprop, torch.optim.SGD)
# A decay that is large, and so many times the rate that nobody chose.
LARGE, TIMES = 5e-3, 4
# Names of what is meant to be a rate.
RATES = ("lr", "learning_rate", "learningrate", "init_lr", "base_lr")
# So many rates that no group has are no memory of the first one.
WRITTEN = 2
# Rates of groups that differ by so much were chosen; so many steps at one rate are no accident.
CHOSEN, STEPS = 1.5, 8


class OptimizerArguments(Observer):
    """Looks at the groups of each optimiser at its first step."""

    def __init__(self) -> None:
        # The default rate of each optimiser, when it was last looked at.
        self._defaults: WeakKeyDictionary[Optimizer, Any] = WeakKeyDictionary()
        # Rates that no group had, by name.
        self._unread: WeakKeyDictionary[Optimizer, defaultdict[str, list[float]]] = WeakKeyDictionary()
        self._rates: WeakKeyDictionary[Optimizer, dict[str, list[Any]]] = WeakKeyDictionary()  # of the groups then
        self._findings: list[Finding] = []

    def on_optimizer(self, optimizer: Optimizer) -> None:
        kind = type(optimizer)
        default = inspect.signature(kind).parameters.get("lr")
        rates = {float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups if "lr" in group}
        if default is None or rates != {default.default}:
            return
        (rate,) = rates
        decays = {float(group.get("weight_decay") or 0) for group in optimizer.param_groups}
        coupled = kind in COUPLED and not any(group.get("decoupled_weight_decay") for group in optimizer.param_groups)
        if coupled and min(decays) >= max(LARGE, TIMES * rate):
            text = f"{kind.__name__} has its default rate of {rate:g}, and a weight decay of {min(decays):g}, "
            text += f"{min(decays) / rate:.3g} times as large"
            where, stack = caller()
            word = _rate_as_decay(kind.__name__, stack)
            text += f": it is given {word}" if word else ""
            # A name says what its number is meant for.
            named = as_fault if word else as_warning
            self._findings.append(named(Code.LEARNING_RATE, "weight decay in place of the rate", text, where))

    def before_step(self, optimizer: Optimizer, closure: bool) -> None:
        """Is a rate written where it is not read?"""
        default = optimizer.defaults.get("lr")
        if default is self._defaults.get(optimizer) and "lr" not in vars(optimizer):
            return  # nothing was written since the last step
        self._defaults[optimizer] = default
        if not type(optimizer).__module__.startswith("torch.optim"):
            return
        written = [("lr", vars(optimizer).get("lr")), ('defaults["lr"]', default)]
        for name, value in written:
            if not isinstance(value, float | int):
                continue
            values = self._unread.setdefault(optimizer, defaultdict(list))[name]
            used = any(group.get("lr") == value or group.get("initial_lr") == value for group in optimizer.param_groups)
            if used or (values and value == values[-1]):
                continue
            values.append(value)
            rates = [group.get("lr") for group in optimizer.param_groups]
            same = rates == self._rates.setdefault(optimizer, {}).setdefault(name, rates)
            if len(values) == WRITTEN:
                rate = optimizer.param_groups[0].get("lr")
                text = f"optimizer.{name} was set to {values[0]:.3g}, then to {values[1]:.3g}, and the steps are taken "
                text += f"at the rate of the groups, {float(rate):.3g}" if rate is not None else "at another rate"
                # Groups whose rates change as well may have multiples of what is written.
                make = as_fault if same else as_warning
                self._findings.append(make(Code.LEARNING_RATE, "rate that no group has", text, caller()[0]))

    def findings(self) -> list[Finding]:
        return self._findings


@dataclass
class _Groups:
    """The groups of an optimiser."""

    rates: list[float]  # that each was made with
    steps: int = 0  # at one rate for all
    differ: bool = False  # whether they ever did at a step
    where: str = ""  # file and line of a step
    evidence: str = ""
    cyclic: bool = False  # whether a schedule of torch writes the rates that it was given

    @property
    def chosen(self) -> bool:
        return min(self.rates) > 0 and max(self.rates) >= CHOSEN * min(self.rates)


class GroupRates(Observer):
    """Compares the rates that groups were made with and those that steps are taken at."""

    def __init__(self) -> None:
        self._groups: WeakKeyDictionary[Optimizer, _Groups] = WeakKeyDictionary()
        self._known: list[_Groups] = []  # of optimisers that have stepped, and may be gone

    def on_group(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        optimizer, group = args[0], next(iter((*args[1:], *kwargs.values())), None)
        rate = group.get("lr", optimizer.defaults.get("lr")) if isinstance(group, dict) else None
        self._groups.setdefault(optimizer, _Groups([])).rates.append(0.0 if rate is None else float(rate))

    def before_step(self, optimizer: Optimizer, closure: bool) -> None:
        groups = self._groups.get(optimizer)
        if groups is None or groups.differ or len(groups.rates) < 2 or not groups.chosen:
            return
        if not groups.steps:
            self._known.append(groups)
        now = {float(group.get("lr") or 0) for group in optimizer.param_groups}
        groups.steps, groups.differ = groups.steps + 1, len(now) > 1
        if groups.steps == STEPS:
            groups.where, groups.cyclic = caller()[0], any("max_lr" in group for group in optimizer.param_groups)
            groups.evidence = f"{len(groups.rates)} groups of {type(optimizer).__name__} were made with rates from "
            groups.evidence += f"{min(groups.rates):.3g} to {max(groups.rates):.3g}, and all steps were taken at one "
            groups.evidence += f"rate for all, {next(iter(now)):.3g} at step {STEPS}"

    def findings(self) -> list[Finding]:
        # A search for a rate may step on an optimiser of its own.
        used = [groups.rates for groups in self._known if groups.differ]
        overwritten = [one for one in self._known if one.evidence and not one.differ and one.rates not in used]
        return [
            (as_warning if one.cyclic else as_fault)(
                Code.LEARNING_RATE, "one rate for all groups", one.evidence, one.where
            )
            for one in overwritten[:1]
        ]


def _rate_as_decay(kind: str, stack: tuple[str, ...]) -> str:
    """How the loop writes what it gives as decay to all its optimisers of a kind, if a rate by its name; else ""."""
    trees = [syntax_tree(name) for name in {place.rpartition(":")[0] for place in stack}]
    calls = [call for tree in trees if tree is not None for call in calls_of(tree, kind)]
    given = [one.value for call in calls for one in call.keywords if one.arg == "weight_decay"]
    rates = [value for value in given if last_word(value).lower() in RATES]
    return ast.unparse(rates[0]) if rates and len(rates) == len(calls) else ""
