"""What is begun anew again and again, while the rest goes on: weights that are set back, scalers and schedulers."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim.lr_scheduler import ConstantLR, LambdaLR
from torch.optim.optimizer import Optimizer

from rislab.checkup.findings import Finding, as_fault
from rislab.checkup.recording.call_stack import caller
from rislab.checkup.recording.events import Observer
from rislab.checkup.recording.optimizers import tensors_held
from rislab.checkup.recording.tensors import is_readable
from rislab.checkup.rules import Code

# Times that are no accident: the same weights loaded again, and scalers with one update each. After so many loads of
# other weights, no more of a network are looked at. So many schedulers had one tick each.
AGAIN, SCALERS, OTHERS, SCHEDULERS = 2, 8, 4, 4
# Schedulers whose rate may be meant to stay as it is.
CONSTANT = (ConstantLR, LambdaLR)


@dataclass
class _Loaded:
    """What was loaded into a network last."""

    mark: float  # of all its numbers
    steps: float  # that the optimiser of the network had counted
    rates: tuple[float, ...]  # of that optimiser
    others: int = 0  # loads before it of other weights, or of a network that nothing steps
    again: int = 0  # loads of the same after a training that the moments of the optimiser outlived
    undone: float = 0  # steps before these
    where: str = ""  # file and line


class WeightsSetBack(Observer):
    """Compares the states that a network loads with each other, and with the steps that its optimiser counts."""

    def __init__(self) -> None:
        self._loaded: weakref.WeakKeyDictionary[nn.Module, _Loaded] = weakref.WeakKeyDictionary()
        self._stepped: weakref.WeakSet[Optimizer] = weakref.WeakSet()

    def on_optimizer(self, optimizer: Optimizer) -> None:
        self._stepped.add(optimizer)

    def on_load(self, module: nn.Module, state: Mapping[str, Any]) -> None:
        before = self._loaded.get(module)
        if before is not None and before.others >= OTHERS:
            return
        weights = dict(nn.Module.named_parameters(module))
        pairs = [(weights[name], value) for name, value in state.items() if name in weights]
        given = [pair for pair in pairs if all(isinstance(value, Tensor) and is_readable(value) for value in pair)]
        if not given:
            return
        mark, now = (sum(float(pair[place].detach().double().sum()) for pair in given) for place in (1, 0))
        own = set(map(id, weights.values()))
        holders = [one for one in self._stepped if own & set(map(id, tensors_held(one)))]
        steps = _counted(holders[0]) if len(holders) == 1 else 0.0
        rates = tuple(float(group["lr"]) for one in holders for group in one.param_groups)
        # A first load undoes nothing unless the network was trained before. Who goes back to the best weights on
        # purpose goes on at another rate, or has loaded others before.
        again = before is not None and (before.mark, before.rates) == (mark, rates) and before.others <= 1
        if before is None or not again or not 0 < before.steps < steps or now == mark:
            self._loaded[module] = _Loaded(mark, steps, rates, 0 if before is None else before.others + 1)
            return
        before.again, before.undone, before.steps = before.again + 1, before.undone + steps - before.steps, steps
        before.where = caller()[0]

    def findings(self) -> list[Finding]:
        return [
            as_fault(
                Code.WEIGHTS,
                "weights set back",
                f"{type(module).__name__} was given the same weights {one.again + 1} times after it was trained: "
                f"{one.undone:.0f} steps are undone, and the optimiser keeps their moments",
                one.where,
            )
            for module, one in self._loaded.items()
            if one.again >= AGAIN
        ]


def _counted(optimizer: Optimizer) -> float:
    """Steps that an optimiser has counted in its state, as Adam does; 0 if it counts none."""
    counts = [one["step"] for one in optimizer.state.values() if isinstance(one, dict) and "step" in one]
    return max((float(one) for one in counts), default=0.0)


class RemadeScalers(Observer):
    """Counts gradient scalers, and their updates."""

    def __init__(self) -> None:
        self._known: weakref.WeakSet[GradScaler] = weakref.WeakSet()
        self._scalers = self._count = 0
        self._where = ""

    def on_scaler_update(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        scaler = args[0]
        self._count += 1
        if scaler not in self._known and scaler.is_enabled():
            self._known.add(scaler)
            self._scalers, self._where = self._scalers + 1, self._where or caller()[0]

    def findings(self) -> list[Finding]:
        if self._scalers < SCALERS or self._scalers != self._count:
            return []
        text = f"{self._scalers} gradient scalers in {self._count} updates: each begins at its first scale, which no "
        return [as_fault(Code.PRECISION, "scaler made anew", f"{text}overflow ever lowers", self._where)]


class RemadeSchedulers(Observer):
    """Counts the schedulers of each optimiser that tick once, and change no rate by that."""

    def __init__(self) -> None:
        self._last: weakref.WeakKeyDictionary[Optimizer, tuple[Any, list[float]]] = weakref.WeakKeyDictionary()
        self._counts: weakref.WeakKeyDictionary[Optimizer, int] = weakref.WeakKeyDictionary()
        self._others: weakref.WeakSet[Optimizer] = weakref.WeakSet()  # whose schedulers tick again, or change a rate
        self._where = ""

    def on_schedule(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        scheduler, optimizer = args[0], vars(args[0]).get("optimizer")
        last = getattr(scheduler, "last_epoch", -1)
        # One that is made ticks by itself, at -1.
        if last < 0 or not isinstance(optimizer, Optimizer) or optimizer in self._others:
            return
        kind, rates = type(scheduler), [float(group["lr"]) for group in optimizer.param_groups]
        before = self._last.setdefault(optimizer, (kind, rates))
        if last > 0 or before != (kind, rates) or kind in CONSTANT:
            self._others.add(optimizer)
            return
        self._counts[optimizer] = self._counts.get(optimizer, 0) + 1
        self._where = self._where or caller()[0]

    def findings(self) -> list[Finding]:
        counts = [count for optimizer, count in self._counts.items() if optimizer not in self._others]
        if max(counts, default=0) < SCHEDULERS:
            return []
        text = f"{max(counts)} schedulers of one optimiser ticked once each, and the rate never changed: each begins "
        return [as_fault(Code.SCHEDULER, "scheduler made anew", f"{text}the schedule from its start", self._where)]
