"""Averages that begin elsewhere: what moves to trained weights by small shares, and was never near them.

t ← (1 − τ) t + τ w forgets where t began after some 1/τ steps only: a target network begins as a copy of its network.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.optim.optimizer import Optimizer

from rislab.checkup.findings import Finding, as_warning
from rislab.checkup.recording.events import MANY, WRITING, Observer
from rislab.checkup.recording.optimizers import tensors_held
from rislab.checkup.recording.tensors import cosine, few_coordinates, is_readable
from rislab.checkup.rules import Code

# Matrices of an optimiser that are looked at, tensors that may follow them, and steps at which these are read.
WEIGHTS, FOLLOWERS, READS = 4, 16, 12
# Moves straight to a weight, each by no more than this share of the way, make an average; so many of them tell.
STRAIGHT, SMALL, MOVES, TOGETHER = 0.99, 0.3, 3, 2
# Weights drawn apart have a cosine near 0; what is still near the zero that it began at corrects for that elsewhere.
ALIKE, EMPTY = 0.5, 0.1


class _Followers:
    """Tensors of the shapes of an optimiser's first matrices, which somebody writes to between its steps."""

    def __init__(self, optimizer: Optimizer) -> None:
        held = [value for value in tensors_held(optimizer) if value.requires_grad and value.dim() > 1]
        self._weights = [value for value in held if is_readable(value)][:WEIGHTS]
        self._held = {value.data_ptr() for value in held}
        # By address: a few numbers, as they were before the last step and as they are now.
        self._before: dict[int, Tensor] = {}
        self._now: dict[int, Tensor] = {}
        self._far: dict[int, int] = {}  # moves of those that were far at their first one, by address
        self._reads = 0

    @property
    def is_over(self) -> bool:
        return self._reads >= READS or not self._weights

    @property
    def is_reading(self) -> bool:
        return bool(self._now) and not self.is_over

    def note_writing(self, one: Tensor) -> None:
        place = one.data_ptr()
        if place not in self._now:
            fits = any(one.shape == weight.shape for weight in self._weights)
            if not fits or place in self._held or len(self._now) >= FOLLOWERS:
                return
        self._now[place] = few_coordinates(one)

    def read(self) -> None:
        """Hold what the tensors have moved since the last step against the way to each weight."""
        self._reads += bool(self._now)
        for place, now in self._now.items():
            before = self._before.get(place, now)
            if len(before) == len(now) and bool((now - before).any()):
                self._note_move(place, before, now - before)
        self._before |= self._now

    def _note_move(self, place: int, before: Tensor, change: Tensor) -> None:
        there = [values for weight in self._weights if len(values := few_coordinates(weight)) == len(before)]
        ways = [(values, values - before) for values in there]
        straight = [values for values, way in ways if cosine(change, way) > STRAIGHT]
        if not straight or float(change.norm()) > SMALL * float((straight[0] - before).norm()):
            self._far.pop(place, None)
            return
        is_full = float(before.norm()) > EMPTY * float(straight[0].norm())
        if place in self._far or (is_full and cosine(before, straight[0]) < ALIKE):
            self._far[place] = self._far.get(place, 0) + 1

    def evidence(self) -> str:
        """What was measured of averages that began elsewhere, "" if none did."""
        far = [moves for moves in self._far.values() if moves >= MOVES]
        if not far or len(far) < min(TOGETHER, len(self._weights)):
            return ""
        text = f"{len(far)} tensors move to trained weights by small shares, and had nothing in common with them when "
        return f"{text}that began: what they were drawn from stays in them for long"


class DistantAverages(Observer):
    """Looks for averages of the weights of each optimiser in its first steps."""

    def __init__(self) -> None:
        self._of: weakref.WeakKeyDictionary[Optimizer, _Followers] = weakref.WeakKeyDictionary()

    def on_call(self, given: Sequence[Any], name: str) -> None:
        """What writes to a tensor may move it to a weight."""
        if name in WRITING and given and isinstance(given[0], Tensor) and is_readable(given[0]):
            for followers in self._of.values():
                if not followers.is_over:
                    followers.note_writing(given[0])

    def before_step(self, optimizer: Optimizer, closure: bool) -> None:
        """Between two steps, the weights stay, and their averages move."""
        followers = self._of.get(optimizer)
        if followers is None:
            followers = self._of[optimizer] = _Followers(optimizer)
        if not followers.is_over:
            followers.read()

    def may_count(self) -> int:
        """Followers are read at steps that follow each other."""
        return 0 if any(followers.is_reading for followers in self._of.values()) else MANY

    def findings(self) -> list[Finding]:
        texts = dict.fromkeys(followers.evidence() for followers in self._of.values())
        return [as_warning(Code.WEIGHTS, "average begins elsewhere", text) for text in texts if text]
