"""Averages of trained weights, and target networks: those that move away, forget, or never follow."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import Optimizer

from rislab.checkup.findings import Finding, as_fault, as_warning
from rislab.checkup.observers.own_mixtures import OwnMixtures
from rislab.checkup.observers.weight_copies import MANY_MOVES, MOST_MOVES, WeightCopies
from rislab.checkup.recording.events import MANY, WRITING, ForwardEvent, Observer
from rislab.checkup.recording.tensors import has_own_weights, is_readable
from rislab.checkup.rules import Code

# So many optimisers are followed: a loop that makes them again and again has no average of one.
OPTIMIZERS = 4
# Networks whose forwards tell which copies are used.
NETWORKS = 16


class MovingAverages(Observer):
    """Looks for copies of the weights of each optimiser that steps."""

    def __init__(self) -> None:
        # What dies with its optimiser is of no concern any more.
        self._copies: weakref.WeakKeyDictionary[Optimizer, WeightCopies] = weakref.WeakKeyDictionary()
        self._visited, self._observes = 0, False
        # By identity: a network may have no hash, or compare in a way of its own.
        self._networks: weakref.WeakValueDictionary[int, nn.Module] = weakref.WeakValueDictionary()
        self._mixtures = OwnMixtures()
        self._evaluated = False  # whether a forward in evaluation came since the last step
        self._before = 0  # the network of the last forward
        self._pairs = Counter[tuple[int, int]]()  # of networks whose forwards follow each other

    def on_forward(self, module: nn.Module, training: bool) -> None:
        """A forward without a graph, or in evaluation mode, may be that of an average."""
        known = id(module) if id(module) in self._networks else 0
        self._pairs[self._before, known] += 1
        self._before = known
        if training and torch.is_grad_enabled():
            return
        for copies in self._copies.values() if not self._evaluated else ():
            copies.before_evaluation(module)
        self._evaluated = True

    def after_step(self, optimizer: Optimizer) -> None:
        """The weights are where the step has led them."""
        self._evaluated = False
        copies = self._copies.get(optimizer)
        if copies is not None:
            copies.after_step()

    def count_step(self, optimizer: Optimizer) -> bool:
        """As long as there are averages, what each step leads to is read."""
        self.after_step(optimizer)
        return not any(copies.averages for copies in self._copies.values())

    def on_look(self, call: ForwardEvent) -> None:
        """A network is in use."""
        if len(self._networks) < NETWORKS and has_own_weights(call.module):
            self._networks[id(call.module)] = call.module

    def on_call(self, given: Sequence[Any], name: str) -> None:
        """What takes a weight may change an average of it."""
        self._observes = bool(self._copies)
        if self._copies:
            self._mixtures.note_call(given, name)
        for copies in self._copies.values():
            copies.note_call(given)
            if name in WRITING and given and is_readable(given[0]):
                copies.note_writing(given[0])

    def before_step(self, optimizer: Optimizer, closure: bool) -> None:
        """Between two steps, the weights stay, and their averages move."""
        self._mixtures.note_step(self._copies)
        copies = self._copies.get(optimizer)
        if copies is None and self._visited < OPTIMIZERS:
            self._visited += 1
            copies = self._copies[optimizer] = WeightCopies(optimizer)
        if copies is not None:
            if self._evaluated:
                copies.after_evaluation()
            others = any(one.averages for one in self._copies.values() if one is not copies)
            copies.before_step(self._observes, self._networks, others)

    def may_count(self) -> int:
        """Copies are read in pairs of steps."""
        return min((copies.steps_to_read() for copies in self._copies.values()), default=MANY)

    def count_steps(self, optimizer: Optimizer, steps: int) -> None:
        copies = self._copies.get(optimizer)
        if copies is not None:
            copies.count_steps(steps)

    def _left_behind(self) -> list[Finding]:
        """Copies that answer before averages do, as a target actor before the target critic, and never move."""
        results = []
        for copies in self._copies.values():
            stay = copies.left_behind()
            followers = [one for other in self._copies.values() if other is not copies for one in other.averages]
            first, then = (copies.networks_of(some, self._networks) for some in (stay, followers))
            for one in first - then if stay else ():
                following = {after: count for (before, after), count in self._pairs.items() if before == one}
                most = max(following, key=lambda key: following[key], default=0)
                if most in then and following[most] >= max(MOST_MOVES, 0.9 * sum(following.values())):
                    text = f"{len(stay)} copies of weights have not moved in all steps, while the weights have; their "
                    text += f"network answers {following[most]} times, each time before one that follows its weights"
                    kind = as_fault if min(one.moves for one in followers) >= MANY_MOVES else as_warning
                    results.append(kind(Code.WEIGHTS, "average never moves", text))
        return results

    def findings(self) -> list[Finding]:
        """One for each optimiser whose weights have such copies."""
        texts = dict.fromkeys(copies.evidence() for copies in self._copies.values())
        own = self._mixtures
        unmoved = dict.fromkeys(
            copies.unmoved() or own.evidence(copies.addresses()) or own.evidence_of_copies(copies.shapes())
            for copies in self._copies.values()
        )
        fast = dict.fromkeys(copies.too_fast() for copies in self._copies.values())
        return [
            *(one for copies in self._copies.values() for one in copies.left.findings()),
            *self._left_behind(),
            *(as_fault(Code.WEIGHTS, "average moves away from the weights", text) for text in texts if text),
            *(as_fault(Code.WEIGHTS, "average never moves", text) for text in unmoved if text),
            *(
                (as_fault if certain else as_warning)(Code.WEIGHTS, "average of the last weights alone", text)
                for text, certain in fast
                if text
            ),
        ]
