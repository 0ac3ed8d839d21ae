"""Freezing that has no effect: frozen tensors that move all the same, and modules that were given an attribute."""

from __future__ import annotations

import difflib
import math
import weakref
from dataclasses import dataclass
from types import FunctionType

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from rislab.checkup.findings import Finding, as_fault, as_warning, listed
from rislab.checkup.recording.call_stack import caller
from rislab.checkup.recording.events import MANY, ForwardEvent, Observer, Roots
from rislab.checkup.recording.looks import Looks
from rislab.checkup.recording.optimizers import tensors_held
from rislab.checkup.recording.tensors import few_coordinates, is_readable
from rislab.checkup.rules import Code

# Tensors that are looked at, steps that are, and moves that are no accident.
TENSORS, FIRST, MOVES = 8, 8, 2
# What freezes a tensor, and how alike a misspelt word must be.
RIGHT, CLOSE = "requires_grad", 0.9
# What a factor that all coordinates have in common may differ by.
SAME, ROUNDING = 1e-3, 1e-6
# Tensors that are trained, by which a decay of all is told from one of what is frozen.
TRAINED = 2


@dataclass(eq=False)
class FrozenTensor:
    """A tensor that asks for no gradient."""

    tensor: Tensor  # itself
    values: Tensor  # a few, when they were last read
    gradient: Tensor | None = None  # a few coordinates of what stood in its `.grad` at the last step, None for none
    decayed: int = 0  # how often it was shrunk outside of the step, all coordinates alike
    stepped: int = 0  # how often it moved in a step, on no gradient or on one of before
    shrunk: float = 1.0  # by what factor, all in all

    @property
    def factor(self) -> float:
        """By which it was shrunk each time, 1 if it was not."""
        return self.shrunk ** (1 / self.decayed) if self.decayed else 1.0

    def note_decay(self) -> None:
        """Read the values before a step, and ask whether they were shrunk since the step before."""
        values = few_coordinates(self.tensor)
        used = self.values.abs() > 0
        if bool((values != self.values).any()) and bool(used.any()):
            factors = values[used] / self.values[used]
            factor = float(factors.median())
            # Rounding is no reason where it is as large as the change.
            tolerance = SAME * (1 - factor) + min(1e-6, 0.1 * (1 - factor))
            if 0.5 < factor < 1 and bool(((factors - factor).abs() <= tolerance).all()):
                self.decayed += 1
                self.shrunk *= factor
        self.values = values

    def note_step(self) -> None:
        """Read the values after a step."""
        values, gradient = few_coordinates(self.tensor), self._gradient()
        # One who puts gradients there by hand puts another one there each time.
        left = gradient is None or not bool(gradient.any())
        known = left or (gradient is not None and self.gradient is not None and torch.equal(gradient, self.gradient))
        self.stepped += known and not torch.equal(values, self.values)
        self.values, self.gradient = values, gradient

    def _gradient(self) -> Tensor | None:
        return None if self.tensor.grad is None or self.tensor.grad.is_sparse else few_coordinates(self.tensor.grad)


class FrozenTensors(Observer):
    """Looks at the frozen tensors of each optimiser in its first steps, and at those that are frozen later."""

    def __init__(self) -> None:
        self._held: weakref.WeakKeyDictionary[Optimizer, list[FrozenTensor]] = weakref.WeakKeyDictionary()
        self._trained: weakref.WeakKeyDictionary[Optimizer, list[FrozenTensor]] = weakref.WeakKeyDictionary()
        # Of each optimiser, its last step, and the one since which frozen tensors are followed.
        self._steps: weakref.WeakKeyDictionary[Optimizer, tuple[int, int]] = weakref.WeakKeyDictionary()
        self._any = False  # whether one was ever held
        self._where = ""
        self._looks = Looks()  # at steps of each optimiser
        self._names = Looks(first=2)  # at forwards of each network: attributes are set once
        # By identity: a network may have no hash, or compare in a way of its own.
        self._networks: weakref.WeakValueDictionary[int, nn.Module] = weakref.WeakValueDictionary()
        self._frozen_modules: weakref.WeakKeyDictionary[nn.Module, str] = weakref.WeakKeyDictionary()
        self._stepped: weakref.WeakKeyDictionary[nn.Module, int] = weakref.WeakKeyDictionary()  # tensors of these
        self._misspelt = ""  # what was set in place of requires_grad

    def on_look(self, call: ForwardEvent) -> None:
        """A module knows requires_grad_(); the attribute of a tensor is none of a module."""
        self._networks[id(call.module)] = call.module
        if self._names.wanted_at(call.module):
            self._find_attributes(call.module)

    def _find_attributes(self, network: nn.Module) -> None:
        for name, module in network.named_modules():
            if vars(module).get(RIGHT) is False and not _mentions(type(module), RIGHT):
                self._frozen_modules[module] = name or type(module).__name__
        self._misspelt = self._misspelt or _misspelt(network)

    def on_backward(self, roots: Roots) -> None:
        """A tensor that asks for a gradient here is frozen for a while only, as those of an adversary are."""
        for frozen in self._held.values() if self._any else ():
            if frozen:
                frozen[:] = [one for one in frozen if not one.tensor.requires_grad]

    def before_step(self, optimizer: Optimizer, closure: bool) -> None:
        """What has happened since the step before is not the optimiser's doing."""
        number, begun = self._steps.get(optimizer, (0, 1))
        number += 1
        if number == 1:
            for network in list(self._networks.values()):
                self._find_attributes(network)
        if self._frozen_modules and number <= FIRST:
            self._note_stepped(optimizer)
        if number == 1 or (number > begun + FIRST and self._looks.wanted_at(optimizer)):
            begun = self._begin(optimizer, number, begun)
        elif begun < number < begun + FIRST:
            for one in (*self._held.get(optimizer, ()), *self._trained.get(optimizer, ())):
                one.note_decay()
            self._where = self._where or caller()[0]
        self._steps[optimizer] = number, begun

    def _note_stepped(self, optimizer: Optimizer) -> None:
        """Count the tensors that are stepped though their module has the attribute now."""
        held = {id(value) for value in tensors_held(optimizer)}
        for module in self._frozen_modules:
            own = list(nn.Module.parameters(module))
            count = sum(id(value) in held for value in own)
            if count and vars(module).get(RIGHT) is False and all(value.requires_grad for value in own):
                self._stepped[module] = count

    def _begin(self, optimizer: Optimizer, number: int, begun: int) -> int:
        """Follow what is frozen now for some steps; the number of the first, that of before if nothing is new."""
        held = tensors_held(optimizer)
        known = self._held.get(optimizer, [])
        followed = {id(one.tensor) for one in known}
        some = [one for one in held if not one.requires_grad and id(one) not in followed and is_readable(one)]
        # Where all are frozen, gradients come from elsewhere.
        if not some[:TENSORS] or not any(value.requires_grad for value in held):
            return begun
        for one in known:
            one.values = few_coordinates(one.tensor)
        self._held[optimizer] = [*known, *(FrozenTensor(value, few_coordinates(value)) for value in some[:TENSORS])]
        trained = [value for value in held if value.requires_grad and is_readable(value)]
        self._trained[optimizer] = [FrozenTensor(value, few_coordinates(value)) for value in trained[:TRAINED]]
        self._any = True
        return number

    def after_step(self, optimizer: Optimizer) -> None:
        """What has happened in the step is."""
        number, begun = self._steps.get(optimizer, (1, 1))
        if number < begun + FIRST:
            for one in (*self._held.get(optimizer, ()), *self._trained.get(optimizer, ())):
                one.note_step()

    def may_count(self) -> int:
        """What was frozen lately is followed for some steps."""
        following = any(number < begun + FIRST for number, begun in self._steps.values())
        return 0 if self._any and following else MANY

    def findings(self) -> list[Finding]:
        """One for each optimiser whose frozen tensors move."""
        results = []
        if self._misspelt:
            results.append(as_fault(Code.WEIGHTS, "requires_grad misspelt", self._misspelt))
        for module, count in self._stepped.items():
            text = f"{self._frozen_modules[module]}, a {type(module).__name__}, has an attribute requires_grad, which "
            text += f"freezes nothing: the optimiser steps {count} of its tensors, and all ask for gradients"
            results.append(as_fault(Code.WEIGHTS, "requires_grad of a module", text))
        for optimizer, frozen in self._held.items():
            decayed = [one for one in frozen if one.decayed >= MOVES and not one.tensor.requires_grad]
            stepped = [one for one in frozen if one.stepped >= MOVES and not one.tensor.requires_grad]
            # A step that moves what is to get no gradient is wrong; a decay by hand may be meant, as of a temperature.
            kind, moved = (as_fault, stepped) if stepped else (as_warning, decayed)
            who = f"{type(optimizer).__name__}.step(), on gradients or moments of before"
            if decayed and not stepped:
                shrink = math.prod(one.shrunk for one in decayed) ** (1 / sum(one.decayed for one in decayed))
                who = f"a decay outside of the step, by a factor of {shrink:.6g} each time"
                # A decay of all that the optimiser holds has no regard to what is frozen.
                alike = [one for one in self._trained.get(optimizer, ()) if one.decayed >= MOVES]
                if alike and all(abs(one.factor - shrink) <= SAME * (1 - shrink) + ROUNDING for one in alike):
                    kind, who = as_fault, f"{who}, as those that are trained"
            if moved:
                shapes = listed(["×".join(map(str, one.tensor.shape)) for one in moved])
                text = f"{len(moved)} frozen tensors that the optimiser holds moved, by {who}: of {shapes}"
                results.append(kind(Code.WEIGHTS, "frozen weights move", text, self._where))
        return results


def _misspelt(network: nn.Module) -> str:
    """What stands in place of requires_grad = False at tensors and modules of a network, "" if nothing does."""
    tensors = [value for value in nn.Module.parameters(network) if value.requires_grad]
    wrong = [
        name
        for part in (*tensors, *network.modules())
        for name, value in vars(part).items()
        if value is False and name != RIGHT and difflib.get_close_matches(name, [RIGHT], 1, CLOSE)
        if not _mentions(type(part), name)
    ]
    text = f"{len(wrong)} tensors or modules of {type(network).__name__} have an attribute {{}}, which freezes nothing"
    return text.format(wrong[0]) if wrong else ""


def _mentions(kind: type, name: str) -> bool:
    """Whether methods of a class, unless they are torch's, have a use of their own for an attribute."""
    methods = [one for base in kind.__mro__ if not base.__module__.startswith("torch.") for one in vars(base).values()]
    return any(name in one.__code__.co_names for one in methods if isinstance(one, FunctionType))
