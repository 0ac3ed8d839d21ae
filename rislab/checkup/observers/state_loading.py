"""States that are loaded into the very tensors that they hold, or kept as such: nothing comes back."""

from __future__ import annotations

import gc
import weakref
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from rislab.checkup.findings import Finding, as_fault, as_warning
from rislab.checkup.observers.saved_networks import parts_of
from rislab.checkup.recording.call_stack import caller
from rislab.checkup.recording.events import Observer
from rislab.checkup.recording.optimizers import tensors_held
from rislab.checkup.recording.tensors import few_coordinates, is_readable
from rislab.checkup.rules import Code

# States of one network that are kept, and were to be different ones.
STATES = 3


class StoredStates:
    """States that a loop keeps, by the first tensor of each: that of the network itself, which moves on."""

    def __init__(self) -> None:
        # By the line that asked for them: the tensor of the state, and a few numbers of it then.
        self._states: defaultdict[str, list[tuple[weakref.ReferenceType[Tensor], Tensor]]] = defaultdict(list)
        self._stored: dict[str, str] = {}

    def note_state(self, state: Mapping[str, Any]) -> None:
        """A network gave its state."""
        value = next((one for one in state.values() if isinstance(one, Tensor) and is_readable(one)), None)
        if value is None:
            return
        where, place = caller()[0], _place(value)
        self._states[where] = [
            one for one in self._states[where] if (held := one[0]()) is not None and _place(held) == place
        ]
        self._states[where].append((weakref.ref(value), few_coordinates(value)))
        if where not in self._stored and self._different(where) >= STATES:
            gc.collect()  # what waits for the collector is kept by nobody
        if (count := self._different(where)) >= STATES:
            self._stored[where] = (
                f"{count} states of a network are kept at once, which it gave with different weights: "
            )

    def _different(self, where: str) -> int:
        alive = [numbers for tensor, numbers in self._states[where] if tensor() is not None]
        return len({tuple(numbers.tolist()) for numbers in alive})

    def note_saved(self, saved: Any) -> None:
        """What is saved is a state of its own: it was stored as it was then."""
        held = {id(one) for one in parts_of(saved)}
        for states in self._states.values():
            own = [place for place, (tensor, _) in enumerate(states) if id(tensor()) in held]
            if len(own) == 1:
                del states[own[0]]

    def findings(self) -> list[Finding]:
        """One for each line that asked for such states."""
        text = "they are references to its weights, and all hold the last ones now"
        return [
            as_warning(Code.WEIGHTS, "kept states are one", stored + text, where)
            for where, stored in self._stored.items()
        ]


class OwnWeights(Observer):
    """Listens to load_state_dict() after the first step: before it, a state of its own is no loss."""

    def __init__(self) -> None:
        self._stepped = False
        self._loads: dict[str, tuple[int, str]] = {}  # by line: how often, and what
        # Loaded without a name that fits: module, a few of its numbers before, and what is to be said.
        self._unfit: list[tuple[nn.Module, Tensor, str, str, bool]] = []
        self._nothing: dict[str, tuple[str, bool]] = {}
        # Tensors that were one in a state, and are two in the module that it was loaded into; what to say, and where.
        self._apart: list[tuple[Tensor, Tensor, str, str]] = []
        self._first: weakref.ref[Optimizer] | None = None  # the optimiser that stepped first
        self._stored = StoredStates()

    def after_step(self, optimizer: Optimizer) -> bool:
        """From now on there is something to be restored."""
        self._stepped, self._first = True, weakref.ref(optimizer)
        self._apart = [one for one in self._apart if self._are_stepped(one[0], one[1])]
        return True

    def _are_stepped(self, *tensors: Tensor) -> bool:
        optimizer = None if self._first is None else self._first()
        held = set() if optimizer is None else set(map(id, tensors_held(optimizer)))
        return all(id(value) in held for value in tensors)

    def on_state(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        if self._stepped and len(args) == 1 and kwargs.get("destination") is None:
            self._stored.note_state(state)

    def on_save(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self._stored.note_saved([*args, *kwargs.values()])

    def on_load(self, module: nn.Module, state: Mapping[str, Any]) -> None:
        """Compare the names of the state with those of the module, and the addresses."""
        self._look_at_names(module, state)
        self._look_at_ties(module, state)
        if not self._stepped:
            return
        given = [value for value in state.values() if isinstance(value, Tensor) and value.numel()]
        own = set(map(_place, (*nn.Module.parameters(module), *nn.Module.buffers(module))))
        where, frames = caller()
        # A state of which a part is new, and what a library does on its own account, is no mistake of the loop.
        if given and all(_place(value) in own for value in given) and where in frames[:1]:
            count, _ = self._loads.get(where, (0, ""))
            self._loads[where] = (
                count + 1,
                f"all {len(given)} tensors of the state are those of {type(module).__name__}",
            )

    def _look_at_names(self, module: nn.Module, state: Mapping[str, Any]) -> None:
        named = dict(nn.Module.named_parameters(module))
        first = next((value for value in named.values() if is_readable(value)), None)
        names = [*named, *(name for name, _ in nn.Module.named_buffers(module))]
        where, frames = caller()
        if first is not None and not any(name in state for name in names) and where in frames[:1]:
            if not state:
                text = f"the state that {type(module).__name__} was given for its {len(names)} names is empty"
                self._unfit.append((module, few_coordinates(first), text, where, False))
                return
            text = (
                f"of {len(names)} names of {type(module).__name__}, as {names[0]}, none is among the {len(state)} of "
            )
            text = f"{text}the state, as {next(iter(state))}"
            # A state of these very shapes is that of the network, under other names: no part of it is another's.
            weights = Counter(
                map(_shape, (value for _, value in nn.Module.named_parameters(module, remove_duplicate=False)))
            )
            buffers = Counter(
                map(_shape, (value for _, value in nn.Module.named_buffers(module, remove_duplicate=False)))
            )
            given = Counter(map(_shape, state.values()))
            # Not all buffers are stored. state_dict() would tell, and calls hooks of the loop.
            same = weights <= given <= weights + buffers
            fits = _under_other_names(named, state)
            text += f"; {fits} of the {len(named)} weights are in it, of these shapes, under longer or shorter names"
            self._unfit.append((module, few_coordinates(first), text, where, same or 2 * fits >= len(named)))

    def _look_at_ties(self, module: nn.Module, state: Mapping[str, Any]) -> None:
        weights = dict(nn.Module.named_parameters(module, remove_duplicate=False))
        first: dict[tuple[Any, ...], str] = {}
        for name, value in state.items():
            if not isinstance(value, Tensor) or value.dim() < 2 or name not in weights:
                continue
            other = first.setdefault(_place(value), name)
            if weights[other] is weights[name]:
                continue
            if not self._stepped or self._are_stepped(weights[other], weights[name]):
                text = f"{other} and {name} are one tensor in the state, and two in {type(module).__name__}"
                self._apart.append((weights[other], weights[name], text, caller()[0]))

    def on_forward(self, module: nn.Module, training: bool) -> None:
        """A module may rename what it loads: what has changed was loaded."""
        unfit, self._unfit = self._unfit, []
        for loaded, before, text, where, same in unfit:
            first = next(value for value in nn.Module.parameters(loaded) if is_readable(value))
            if torch.equal(few_coordinates(first), before):
                self._nothing[where] = f"{text}: nothing changed", same

    def findings(self) -> list[Finding]:
        nothing = [
            (as_fault if same else as_warning)(Code.WEIGHTS, "nothing was loaded", text, where)
            for where, (text, same) in self._nothing.items()
        ]
        apart = [
            as_warning(Code.WEIGHTS, "tied weights come apart", f"{text}: both are trained, and differ now", where)
            for one, two, text, where in self._apart
            if self._stepped and not torch.equal(one, two)
        ]
        return (
            nothing
            + apart[:1]
            + ([] if self._loads else self._stored.findings())
            + [
                as_fault(Code.WEIGHTS, "loads its own weights", f"{text} itself, {_times(count)}", where)
                for where, (count, text) in self._loads.items()
            ]
        )


def _under_other_names(named: Mapping[str, Tensor], state: Mapping[str, Any]) -> int:
    """How many weights a state holds with one prefix more or less, or within one of its parts.

    Args:
        named: weights of a module.
        state: none of whose names is one of these.
    """
    most = 0
    for part in (state, *(value for value in state.values() if isinstance(value, Mapping))):
        shapes = {name: _shape(value) for name, value in part.items() if isinstance(name, str)}
        own = {name: _shape(value) for name, value in named.items()}
        for short, long in ((own, shapes), (shapes, own)):
            last = [name for name in short if "." in name] or [*short]
            prefixes = {one[: len(one) - len(last[0])] for one in long if one.endswith(last[0])} if last else set()
            fits = [sum(long.get(prefix + name) == shape for name, shape in short.items()) for prefix in prefixes]
            most = max(most, *fits, 0)
    return most


def _place(value: Any) -> tuple[Any, ...]:
    """Where a tensor lies in memory."""
    if not isinstance(value, Tensor) or value.is_meta or value.layout is not torch.strided:
        return (id(value),)
    return value.data_ptr(), value.shape, value.stride(), value.device


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(value.shape) if isinstance(value, Tensor) else (-1,)


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
