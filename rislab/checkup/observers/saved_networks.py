"""Trained weights that were never evaluated: all evaluations were of a copy, which stays, or alone follows them.

So are averages that are evaluated or saved, and that were never given any weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer
from torch.optim.swa_utils import AveragedModel

from rislab.checkup.findings import Finding, as_warning
from rislab.checkup.observers.step_count import StepCount
from rislab.checkup.recording.call_stack import caller
from rislab.checkup.recording.events import ForwardEvent, Observer
from rislab.checkup.recording.optimizers import tensors_held
from rislab.checkup.recording.tensors import few_coordinates, has_own_weights, is_readable
from rislab.checkup.rules import Code

# An evaluation comes after at least so many steps, on average; evaluations that tell anything; networks and saved
# objects that are looked at.
STEPS_BETWEEN, EVALUATIONS, NETWORKS, SAVED = 4, 2, 4, 256


class _Evaluated:
    """A network that was run without gradients."""

    def __init__(self, network: nn.Module) -> None:
        self.weights = [value for value in nn.Module.parameters(network) if is_readable(value)]
        self.average = network if isinstance(network, AveragedModel) else None
        self.name = type(network).__name__
        self.steps: set[int] = set()
        self.where = caller()[0]
        self.first = few_coordinates(self.weights[0]) if self.weights else torch.zeros(0)

    def places(self) -> set[int]:
        """Where its weights lie."""
        return {value.data_ptr() for value in self.weights}

    def moved(self) -> bool:
        """Whether it is another one than at its first evaluation."""
        return not torch.equal(few_coordinates(self.weights[0]), self.first)

    def shapes(self) -> Counter[torch.Size]:
        """Those of its weights."""
        return Counter(value.shape for value in self.weights)


class SavedNetworks(Observer):
    """Listens to torch.save(), and to the forwards of evaluations."""

    def __init__(self, steps: StepCount) -> None:
        self._steps = steps
        self._saved: dict[int, str] = {}  # places in memory of what was saved: file and line
        self._networks: dict[int, _Evaluated] = {}
        self._trained: list[list[Tensor]] = []  # what each optimiser holds
        self._evidence = self._empty = ("", "")
        # Where an average that had been given no weights was saved, and after which step.
        self._saved_empty: tuple[str, int] = "", 0

    def on_save(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if self._steps.total:
            given = [*parts_of((*args, *kwargs.values()))]
            where = caller()[0]
            self._saved |= dict.fromkeys((one.data_ptr() for one in given if isinstance(one, Tensor)), where)
            if any(isinstance(one, Mapping) and _is_empty(one) for one in given):
                self._saved_empty = where, self._steps.total

    def on_forward_end(self, call: ForwardEvent) -> None:
        if torch.is_grad_enabled() or not self._steps.total or not has_own_weights(call.module):
            return
        key = call.network
        if key not in self._networks:
            if len(self._networks) >= NETWORKS:
                return
            self._networks[key] = _Evaluated(call.module)
        self._networks[key].steps.add(self._steps.total)

    def on_optimizer(self, optimizer: Optimizer) -> None:
        if len(self._trained) < NETWORKS:
            self._trained.append([value for value in tensors_held(optimizer) if is_readable(value)])

    def end(self, error: BaseException | None) -> None:
        # Of a run that is broken off, the updates may have been still to come.
        if error is None and self._steps.total:
            self._look_at_empty()
        for held in self._trained:
            own = {value.data_ptr() for value in held}
            if not any(one.places() & own for one in self._networks.values()):
                self._look_at_copies(own, Counter(value.shape for value in held))
        self._trained, self._networks = [], {}

    def _look_at_empty(self) -> None:
        """Look for averages that were evaluated, or saved in the end, before anything was averaged."""
        text = f"of an AveragedModel in {self._steps.total} steps, and update_parameters() was never called"
        for one in self._networks.values():
            if one.average is not None and bool(one.average.n_averaged == 0) and len(one.steps) >= EVALUATIONS:
                self._empty = f"{len(one.steps)} evaluations {text}: its weights are the first ones", one.where
        where, steps = self._saved_empty
        if steps == self._steps.total and not self._empty[0]:
            self._empty = f"a state was saved {text}: its weights are the first ones", where

    def _look_at_copies(self, own: set[int], shapes: Counter[torch.Size]) -> None:
        """Look at the networks of these shapes that were evaluated, where the one that is trained never was."""
        for one in self._networks.values():
            # What runs at each step, as a reference in the loss, is no evaluation.
            rare = len(one.steps) >= EVALUATIONS and self._steps.total >= STEPS_BETWEEN * len(one.steps)
            if one.shapes() != shapes or not rare:
                continue
            often = f"after {len(one.steps)} of {self._steps.total} steps {one.name} was"
            where = next((self._saved[place] for place in own if place in self._saved), None)
            if not one.moved():
                text = f"the weights that are trained were never evaluated: {often}, whose weights never moved"
                self._evidence = text, one.where
            elif where is not None and not one.places() & self._saved.keys():
                text = f"the weights that are trained were saved and never evaluated: {often}, a copy that follows "
                self._evidence = text + "them and was never saved", where

    def findings(self) -> list[Finding]:
        """One if what is trained is not what was evaluated, or saved."""
        text, where = self._empty
        if text:
            return [as_warning(Code.WEIGHTS, "average never moves", text, where)]
        text, where = self._evidence
        return [as_warning(Code.EVALUATION, "evaluation is another network", text, where)] if text else []


def parts_of(saved: Any) -> Iterator[Tensor | Mapping[Any, Any]]:
    """The first tensors of what is saved, and the mappings."""
    waiting, visited = [saved], 0
    while waiting and visited < SAVED:
        one, visited = waiting.pop(), visited + 1
        if isinstance(one, Tensor) and is_readable(one):
            yield one
        elif isinstance(one, nn.Module):
            waiting += nn.Module.parameters(one)
        elif isinstance(one, Mapping):
            yield one
            waiting += [*one.values()][:SAVED]
        elif isinstance(one, tuple | list):
            waiting += one[:SAVED]


def _is_empty(state: Mapping[Any, Any]) -> bool:
    """Whether a mapping is the state of an AveragedModel that has been given no weights."""
    averaged = state.get("n_averaged")
    return isinstance(averaged, Tensor) and bool(averaged == 0)
