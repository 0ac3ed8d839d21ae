"""Forwards of networks, reported where modules are called: hooks of all modules would slow each of them down.

A network that Module.compile() has compiled runs its hooks within what is compiled, and is called like any other.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling, is_dynamo_compiling
from torch.nn import DataParallel
from torch.nn.parallel import DistributedDataParallel

from rislab.checkup.recording.interception import BACKWARDS, LossInterceptor, OnCall, Replacement
from rislab.checkup.recording.looks import Looks
from rislab.checkup.recording.tensors import has_numbers, tensors_of

# Of all calls between a step and the next forward, those are observed that come so many steps after others that were; a
# prime number, as loops do things every 2, 5 or 8 steps.
BETWEEN = 7
# So many tensors of the arguments are looked at.
_LOOKED_AT = 4
# Layers that compute by one fused function in evaluation mode, with other last digits, unless a mode is active.
FUSED = (nn.MultiheadAttention, nn.TransformerEncoder, nn.TransformerEncoderLayer)


@dataclass(eq=False, slots=True)
class Network:
    """A module whose forward stands in no other."""

    reference: weakref.ref[nn.Module]  # to it
    number: int  # which no other one has or will have, as it may have the address
    alone: bool  # whether it is a layer of torch's own without weights, as a loss: no network
    wraps: bool  # whether it is a wrapper of another module, for several devices or processes
    looks: Looks = field(default_factory=Looks)  # which of its forwards are looked into, by mode and gradients
    dtypes: frozenset[torch.dtype] = frozenset()  # of what the modules in it gave, in the last one that was
    computes_loss: bool = False  # whether a loss was computed within one


class Networks(dict[int, Network]):
    """What is known of modules; forgotten with them, since a loop may make ever new ones."""

    def __init__(self) -> None:
        super().__init__()
        self._numbers = itertools.count()

    def of(self, module: nn.Module) -> Network:
        """What is known of a module."""
        place = id(module)
        network = self.get(place)
        if network is None:
            reference = weakref.ref(module, lambda _: self.pop(place, None))
            wraps = isinstance(module, DataParallel | DistributedDataParallel)
            network = self[place] = Network(reference, next(self._numbers), _is_function(module), wraps)
        return network


def _is_function(module: nn.Module) -> bool:
    """Whether a module is a layer of torch's own that holds no weights and no other module."""
    own = type(module).__module__.startswith("torch.nn.modules.")
    return own and not any(True for _ in (*module.children(), *nn.Module.parameters(module)))


def computes(module: nn.Module, inputs: Any, thorough: bool) -> bool:
    """Whether a forward works on numbers, and not for an export, a transform of functions or a plan of memory.

    If it is `thorough`, its weights are asked too, which takes longer.
    """
    plain = len(inputs) <= _LOOKED_AT and set(map(type, inputs)) <= {Tensor}
    given = [*inputs] if plain else [*islice(tensors_of(inputs), _LOOKED_AT)]
    given += islice(nn.Module.parameters(module), 1) if thorough or not given else ()
    return all(map(has_numbers, given))


class ForwardUnderWay(threading.local):
    """A forward that has begun, or the last that was; each thread has its own.

    `outermost` is its module, None when it is over; `training` its mode; `computes` says whether it works on numbers,
    `looked_into` whether `inner`, the modules that are called in it, and `dtypes`, of what they give, are noted.
    `stepped` says whether a step came since it began, `steps` counts them all, `next_observed` is the next one after
    which all calls are observed, and `observes_between` says whether losses are to be observed between a step and the
    next forward, as one has come there. `reported` says whether the backward under way is.
    """

    def __init__(self) -> None:
        self.outermost: nn.Module | None = None
        self.depth = 0  # how often it stands in its own forward
        self.training = self.computes = self.stepped = self.observes_between = self.reported = False
        self.looked_into, self.steps, self.next_observed = True, 0, 0
        self.inner: list[nn.Module] = []
        self.dtypes: set[torch.dtype] = set()

    def begin(self, module: nn.Module, training: bool, looked_into: bool) -> None:
        """The forward of an outermost module begins; if it is looked into, what is called in it is noted."""
        self.outermost, self.depth, self.training, self.looked_into = module, 1, training, looked_into
        self.computes = self.stepped = False
        if self.inner or self.dtypes or looked_into:
            self.inner, self.dtypes = [], set()

    def note_step(self, counted: bool) -> bool:
        """A step is over, that was only counted or not; whether all calls up to the next forward are to be observed."""
        self.stepped, self.steps = True, self.steps + 1
        if counted or self.steps < self.next_observed:
            return False
        self.next_observed = self.steps + (BETWEEN if self.steps > BACKWARDS else 1)
        return True


class ForwardInterceptor:
    """Reports forwards that stand in no other.

    Args:
        on_forward: called before each with its module, arguments, and those by name; calls now.begin() for a network.
        on_forward_end: called after it, with its arguments by name and its output as well, None after an exception.
        loss: module whose calls are reported wherever they stand, None for none.
        on_loss: called with it, its arguments, those by name, and its output.
        losses: observes what torch computes, but within layers that would then compute otherwise.
    """

    def __init__(
        self,
        on_forward: Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None],
        on_forward_end: OnCall,
        loss: nn.Module | None,
        on_loss: OnCall,
        losses: LossInterceptor,
    ) -> None:
        self.now, self._losses = ForwardUnderWay(), losses
        self._on_forward, self._on_forward_end = on_forward, on_forward_end
        self._loss, self._on_loss = loss, on_loss
        self._calls = Replacement(nn.Module, "__call__", self._reporting, direct=True)

    def __enter__(self) -> ForwardInterceptor:
        self._calls.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._calls.__exit__()
        self.now.outermost = None

    def _reporting(self, original: Callable[..., Any]) -> Callable[..., Any]:
        interceptor, calls, now = self, self._calls, self.now
        # A loss that computes by itself is no network: nothing begins with it.
        alone = None if self._loss is None or not _is_function(self._loss) else self._loss

        def call(self: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
            # The profiler of torch looks for the module in the local variable of this name.
            # torch.compile traces through this very function, which must not do more than this then.
            if is_dynamo_compiling() or not calls.active:
                return original(self, *args, **kwargs)
            outermost = now.outermost
            if outermost is None:
                if is_compiling():
                    return original(self, *args, **kwargs)
                if self is alone:
                    output = original(self, *args, **kwargs)
                    interceptor._on_loss(self, args, kwargs, output)
                    return output
                interceptor._on_forward(self, args, kwargs)
            elif self is outermost:
                now.depth += 1
            elif not now.looked_into and self is not interceptor._loss and not interceptor._losses.active:
                return original(self, *args, **kwargs)
            if now.looked_into and now.outermost is not None:
                now.inner.append(self)
            output, aside = None, interceptor._losses.active and not self.training and isinstance(self, FUSED)
            if aside:
                interceptor._losses.pause()
            try:
                output = original(self, *args, **kwargs)
                return output
            finally:
                if aside:
                    interceptor._losses.resume()
                interceptor._end(self, args, kwargs, output)

        return call

    def _end(self, module: nn.Module, *call: Any) -> None:
        now = self.now
        if now.looked_into and now.outermost is not None and type(call[-1]) is Tensor:
            now.dtypes.add(call[-1].dtype)
        if module is self._loss:
            self._on_loss(module, *call)
        if module is now.outermost:
            now.depth -= 1
            if now.depth == 0:
                now.outermost = None
                self._on_forward_end(module, *call)
