"""Copies of the weights of an optimiser, and how they move between steps.

A copy c of a weight p that is averaged moves along p − c. Whatever else a copy may do, it does not move against it,
step by step.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from rislab.checkup.observers.left_averages import LeftAverages
from rislab.checkup.recording.events import MANY
from rislab.checkup.recording.living_objects import living_objects, living_optimizers
from rislab.checkup.recording.optimizers import tensors_held
from rislab.checkup.recording.tensors import cosine, few_coordinates, is_readable, tensors_of

# Copies are looked for before this step at the earliest, and read before so many steps, then in pairs of this distance,
# which doubles with the number of steps from 2 to this power on.
LOOK, FIRST, DISTANCE, RARER = 2, 40, 16, 8
# Weights of an optimiser that are looked at, copies of each, and looks for copies that were put in place of others.
# Stored states of a network are near it too, and never move: they must not take the place of its average.
WEIGHTS, COPIES, RENEWALS = 8, 16, 12
# A copy is at most so far from its weight, relative to it, when it is found.
NEAR = 0.5
# Cosine of a movement that is straight away from the weight; moves that make it certain; copies that must do it.
AWAY, MOVES, TOGETHER = -0.99, 3, 2
# An average moves a small share of the way; moves that make a large one certain.
MOST_OF_IT, MOST_MOVES = 0.9, 8
# A share that differs from 1 by no more is that of a hard copy.
A_COPY = 1e-3
# An average that takes so much of the new weights, by one share each time, has its decay the wrong way round.
NEARLY_ALL, ALIKE = 0.975, 5e-4
# One that begins fast, as where the decay grows with the steps, has slowed down after so many moves in a row.
MUCH_OF_IT, MANY_MOVES = 0.3, 30
# A copy that has grown by this factor over its weight is no mean of it.
GROWN = 1.02
# What is written to so often stays by no accident, but for rounding, where its weight moves by so much of itself.
WRITTEN, ROUNDING, FAR = 8, 1e-5, 1e-2


@dataclass(eq=False)
class WeightCopy:
    """A copy of a weight."""

    place: int  # of the weight, among those that are looked at
    copy: weakref.ReferenceType[Tensor]  # itself, as long as it lives
    values: Tensor  # a few, when it was last read
    step: int  # before which it was last read
    moves: int = 0  # how often it moved
    away: int = 0  # how often straight away from the weight
    along: int = 0  # how often by a multiple of the weight, while its network was in use
    # Of the way to the weight that it moved, the first times; 1 if it became the weight.
    shares: list[float] = field(default_factory=list)
    share: float = 0.0  # the last one
    rested: bool = False  # whether it ever did not move between two steps
    first: Tensor = field(init=False)  # the values when it was found
    written: int = 0  # how often it was given to a function that writes to it

    def __post_init__(self) -> None:
        self.first = self.values

    @property
    def overtaken(self) -> bool:
        """Whether moves take nearly all of the way, or much of it for good, and never all, as those of a hard copy."""
        first = len(self.shares) >= MOST_MOVES and all(
            share > MOST_OF_IT and abs(share - 1) > A_COPY for share in self.shares
        )
        return first or (self.moves >= MANY_MOVES and not self.rested and MUCH_OF_IT < self.share < 1)

    @property
    def is_average(self) -> bool:
        """Whether most moves are small ones to the weight: slow weights take in fast ones by halves, and are none."""
        return self.moves >= MOVES and 2 * sum(0 < share < MUCH_OF_IT for share in self.shares) > len(self.shares)

    @property
    def forgets(self) -> bool:
        """Whether each move has kept the same few percent of what was averaged before, and never nothing."""
        shares = [*self.shares, self.share]
        near = all(abs(share - self.share) <= ALIKE for share in shares)
        return len(self.shares) >= MOST_MOVES and near and 2 * ALIKE <= abs(1 - self.share) <= 1 - NEARLY_ALL


class WeightCopies:
    """Copies of the weights of one optimiser."""

    def __init__(self, optimizer: Optimizer) -> None:
        held = [value for value in tensors_held(optimizer) if is_readable(value) and value.requires_grad]
        # In shared memory, as of asynchronous training, another process moves them between a copy and a look at it.
        self._weights = [value for value in held if value.device.type != "cpu" or not value.is_shared()][:WEIGHTS]
        self._own = set(map(id, self._weights))
        self._copies: list[WeightCopy] = []
        self._optimizers = weakref.WeakSet[Optimizer]()  # all that a search has come upon
        self._step = self._renewals = 0
        self._used_by_hand = self._searched = False
        self._first: list[Tensor] = []  # a few numbers of each weight, before the first step
        self.left = LeftAverages()

    def note_call(self, given: Iterable[Any]) -> None:
        """A function was called outside of forwards, perhaps with a weight: no copy follows one otherwise."""
        tensors = [] if self._used_by_hand else [*tensors_of(given)]
        if tensors:
            places = {weight.data_ptr() for weight in self._weights}
            self._used_by_hand = any(
                id(value) in self._own or (is_readable(value) and value.data_ptr() in places) for value in tensors
            )

    def note_writing(self, one: Tensor) -> None:
        """A function wrote to a tensor outside of forwards, perhaps to a copy that should follow a weight."""
        self._used_by_hand |= any(one.shape == weight.shape for weight in self._weights)
        for copy in self._copies:
            value = copy.copy()
            copy.written += value is not None and value.data_ptr() == one.data_ptr() and value.shape == one.shape

    def before_step(self, observes: bool, networks: Mapping[int, nn.Module], others: bool) -> None:
        """Look for copies, or at those that are known, before a step.

        Args:
            observes: whether calls outside of forwards are observed.
            networks: whose forwards have run, by identity.
            others: whether copies of the weights of another optimiser follow these.
        """
        self._step += 1
        self._first = self._first or [few_coordinates(weight) for weight in self._weights]
        # A search goes through all objects, which takes as long as many steps of a small network.
        if not self._searched and (
            self._step >= LOOK if self._used_by_hand or others else self._step == LOOK and not observes
        ):
            self._searched = True
            for place, value in self._search():
                self._copies.append(WeightCopy(place, weakref.ref(value), few_coordinates(value), self._step))
        if self._copies and self._is_read(self._step):
            self._read([*networks.values()])

    @property
    def averages(self) -> list[WeightCopy]:
        """The copies that are averages."""
        return [copy for copy in self._copies if copy.is_average]

    def after_step(self) -> None:
        """A step is over."""
        if self.averages:
            self.left.after_step(self._weights)

    def before_evaluation(self, module: nn.Module) -> None:
        """A forward in evaluation begins, the first since a step."""
        own = {id(weight) for weight in self._weights}
        if any(id(value) in own for value in nn.Module.parameters(module)):
            self.left.before_evaluation(self._weights, self._first)

    def after_evaluation(self) -> None:
        """A step is about to begin after an evaluation: perhaps from an average, in place of the weights."""
        self.left.before_step(self._weights, self.averages)

    def steps_to_read(self) -> int:
        """How many steps come before the next one at which copies are read."""
        return next(place for place in count() if self._is_read(self._step + 1 + place)) if self._copies else MANY

    def count_steps(self, steps: int) -> None:
        """So many steps came of which nothing was read."""
        self._step += steps

    def _is_read(self, step: int) -> bool:
        # Ever more rarely: what moves at all has moved often by then.
        return step <= FIRST or step % (DISTANCE << max(0, step.bit_length() - RARER)) < 2

    def _search(self, young: bool = False) -> list[tuple[int, Tensor]]:
        """Tensors that no optimiser holds, nor uses, near a weight, each with its place; all or `young` ones."""
        shapes = {value.shape for value in self._weights}
        tensors = living_objects((Tensor, nn.Parameter), young, subclasses=False)
        read = {id(copy.values) for copy in self._copies}
        fitting = [one for one in tensors if one.shape in shapes and id(one) not in read and is_readable(one)]
        known = {shape: self._of_shape(shape) for shape in shapes}
        storages = {weight.data_ptr() for weight in self._weights}
        near = []
        for one in fitting:
            if one.data_ptr() in storages or one.grad_fn is not None:
                continue
            places, values, norms = known[one.shape]
            if not places:
                continue
            distances = ((values - few_coordinates(one)).norm(dim=1) / norms).nan_to_num(torch.inf)  # [weights]
            nearest = int(distances.argmin())
            if distances[nearest] <= NEAR:
                near.append((places[nearest], one))
        # In most loops nothing is near, and no optimiser need be looked for.
        used = self._used(young) if near else set()
        results, counts = [], Counter[int]()
        for place, one in near:
            if id(one) not in used and counts[place] < COPIES:
                counts[place] += 1
                results.append((place, one))
        return results

    def _used(self, young: bool) -> set[int]:
        """Tensors that optimisers hold or use, by identity."""
        self._optimizers.update(living_optimizers(young))
        used: set[int] = set()
        for optimizer in self._optimizers:
            used |= set(map(id, tensors_held(optimizer)))
            states = [state for state in optimizer.state.values() if isinstance(state, dict)]
            used |= {id(value) for state in states for value in state.values()}
        return used

    def _of_shape(self, shape: torch.Size) -> tuple[list[int], Tensor, Tensor]:
        """Places of the weights of a shape, twice, and with their norms a few coordinates of each, now and at first."""
        # Weights that all begin at one number, as those of a normalisation, are near to statistics that do so too.
        first = [bool((values == values[0]).all()) and len(values) > 1 for values in self._first]
        places = [place for place, weight in enumerate(self._weights) if weight.shape == shape and not first[place]]
        values = [few_coordinates(self._weights[place]) for place in places] + [self._first[place] for place in places]
        stacked = torch.stack(values) if values else torch.zeros(0, 1)  # [2 · weights, coordinates]
        return places + places, stacked, stacked.norm(dim=1)

    def _read(self, networks: Iterable[nn.Module]) -> None:
        if any(copy.copy() is None for copy in self._copies):
            self._renew()
        for copy in self._copies:
            value = copy.copy()
            if value is None:
                continue
            values = few_coordinates(value)
            change = values - copy.values
            moved = bool(change.any())
            copy.rested |= copy.step == self._step - 1 and not moved
            if copy.step == self._step - 1 and moved:
                copy.moves += 1
                way = few_coordinates(self._weights[copy.place]) - copy.values
                alike = cosine(change, way)
                copy.away += alike < AWAY
                share = 1.0 if torch.equal(change, way) else float(change @ way) / max(float(way @ way), 1e-30)
                copy.share = share if alike > -AWAY else 0.0
                if cosine(change, few_coordinates(self._weights[copy.place])) > -AWAY and alike <= -AWAY:
                    copy.along += any(value is one for net in networks for one in nn.Module.parameters(net))
                if len(copy.shares) < MOST_MOVES:
                    copy.shares.append(copy.share)
            copy.values, copy.step = values, self._step

    def _renew(self) -> None:
        """An average may be a new tensor each time, in the place of the old one."""
        dead = [copy for copy in self._copies if copy.copy() is None]
        alive = {id(copy.copy()) for copy in self._copies}
        self._renewals += 1
        # A search through all objects would take as long as many steps.
        candidates = self._search(young=True) if self._renewals <= RENEWALS else []
        results = [(place, value) for place, value in candidates if id(value) not in alive]
        for copy in dead:
            fitting = [value for place, value in results if place == copy.place]
            if fitting:
                nearest = min(fitting, key=lambda value: float((few_coordinates(value) - copy.values).norm()))
                copy.copy = weakref.ref(nearest)
        self._copies = [copy for copy in self._copies if copy.copy() is not None or copy.moves >= MOVES]

    def too_fast(self) -> tuple[str, bool]:
        """What was measured of copies that keep next to nothing of what they were, "" if they do; is it certain?"""
        fast = [copy for copy in self._copies if copy.overtaken]
        if not fast or len(fast) < min(TOGETHER, len(self._weights)):
            return "", False
        text = f"{len(fast)} copies of weights moved {fast[0].share:.4g} of the way to the weights in the end"
        certain = len(fast) >= TOGETHER and all(copy.forgets for copy in fast)
        text += f", and each time: {1 - fast[0].share:.2g} of the average is kept" if certain else ""
        return f"{text}: next to nothing is averaged", certain

    def unmoved(self) -> str:
        """What was measured of copies that are written to, and stay as they are, "" if there are none."""
        unmoved = []
        for copy in self._copies:
            value, weight = copy.copy(), few_coordinates(self._weights[copy.place])
            if value is None or copy.written < WRITTEN:
                continue
            size = float(copy.first.norm())
            moved = float((few_coordinates(value) - copy.first).norm())
            if moved <= ROUNDING * size and float((weight - copy.first).norm()) > FAR * size:
                unmoved.append(copy)
        if not unmoved or len(unmoved) < min(TOGETHER, len(self._weights)):
            return ""
        text = (
            f"{len(unmoved)} copies of weights were written to {sum(copy.written for copy in unmoved)} times in what "
        )
        return f"{text}was looked at, and have not moved, while the weights have: they are mixed with themselves"

    def evidence(self) -> str:
        """What was measured of copies that move away, "" if they do not."""
        moving = [copy for copy in self._copies if copy.moves >= MOVES]
        away = [copy for copy in moving if copy.away == copy.moves]
        along = [copy for copy in moving if 4 * copy.along >= 3 * copy.moves and self._growth(copy) > GROWN]
        text = "each time straight away from the weights"
        if len(along) > len(away):
            growth = max(map(self._growth, along))
            away, text = (
                along,
                f"nearly always by a multiple of the weights: they have grown to {growth:.3g} times as much as these",
            )
        if not away or len(away) < min(TOGETHER, len(self._weights)) or 2 * len(away) < len(moving):
            return ""
        moves = sum(copy.moves for copy in away)
        return f"{len(away)} copies of weights moved {moves} times, {text}"

    def networks_of(self, copies: Iterable[WeightCopy], networks: Mapping[int, nn.Module]) -> set[int]:
        """The networks that hold such copies."""
        held = {id(copy.copy()) for copy in copies}
        return {key for key, one in networks.items() if any(id(value) in held for value in nn.Module.parameters(one))}

    def left_behind(self) -> list[WeightCopy]:
        """Copies that were exact before the first step, and never moved, while their weights went far."""
        stay = []
        for copy in self._copies:
            value, first = copy.copy(), self._first[copy.place]
            if value is not None and not copy.moves and torch.equal(few_coordinates(value), first):
                far = float((few_coordinates(self._weights[copy.place]) - first).norm()) > FAR * float(first.norm())
                stay += [copy] * far
        return stay if len(stay) >= min(TOGETHER, len(self._weights)) else []

    def _growth(self, copy: WeightCopy) -> float:
        return float(copy.values.norm()) / max(float(few_coordinates(self._weights[copy.place]).norm()), 1e-30)

    def addresses(self) -> Iterable[int]:
        """Where the weights lie."""
        return (weight.data_ptr() for weight in self._weights)

    def shapes(self) -> set[torch.Size]:
        """Of the weights."""
        return {weight.shape for weight in self._weights}
