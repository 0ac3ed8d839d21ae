"""What happens in a process that trains, heard through public hooks of torch, and told to whoever observes it.

Nothing of the watched code is changed: an observer that fails is left out from then on, and its failure remembered.
"""

from __future__ import annotations

import functools
import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Concatenate, ParamSpec

import torch
from torch import Tensor, nn
from torch.nn import DataParallel
from torch.nn.parallel import DistributedDataParallel
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

from rislab.checkup.findings import UNJUDGED, Finding, as_note
from rislab.checkup.forwards import ForwardInterceptor, Network
from rislab.checkup.interception import SUMS, BackwardInterceptor, LossInterceptor, OnCall, PatchedCalls
from rislab.checkup.looks import FIRST
from rislab.checkup.optimizers import has_numbers_to_step, inner_optimizer
from rislab.checkup.rules import Code
from rislab.checkup.tensors import has_numbers, tensors_of
from rislab.errors import error_text

# So many tensors of the arguments are looked at.
_LOOKED_AT = 4
# So many failures of the checkup's own are told.
_FAILURES = 16

is_tracing: Callable[[], bool] = torch.jit.is_tracing  # type: ignore[attr-defined]

_P = ParamSpec("_P")
Roots = Sequence[tuple[Tensor, Tensor | None]]


@dataclass(eq=False, slots=True)
class ForwardEvent:
    """A forward of a network that stands in no other network's forward.

    Args:
        module: that was called.
        args: its arguments.
        kwargs: its arguments by name.
        output: what it gave.
        training: whether it was in training mode when it began.
        dtypes: of what the modules in it gave.
        inner: modules that were called in it, itself included; empty if nobody asked for them.
        inputs: all tensors among the arguments, in order.
    """

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: Any
    training: bool
    dtypes: frozenset[torch.dtype] = frozenset()
    inner: Sequence[nn.Module] = ()
    inputs: list[Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.inputs = [*self.args] if all(type(one) is Tensor for one in self.args) else [*tensors_of(self.args)]
        self.inputs += tensors_of(self.kwargs) if self.kwargs else ()


@dataclass(eq=False, slots=True)
class LossEvent:
    """A call of a loss.

    Args:
        function: of torch.nn.functional, a module, or the loop's own.
        args: its arguments.
        kwargs: its arguments by name.
        output: what it gave.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: Any


class Observer:
    """Told of events in the order in which they happen; a subclass takes those that concern it.

    One that gives back True for an event is not told of such an event again.
    """

    def begin(self) -> None:
        """The watching begins."""

    def on_forward(self, module: nn.Module, training: bool) -> None:
        """A forward begins that stands in no other."""

    def on_forward_end(self, call: ForwardEvent) -> None:
        """Such a forward is over."""

    def on_loss(self, call: LossEvent) -> bool | None:
        """A loss was computed."""

    def on_sum(self, given: Sequence[Any], output: Tensor) -> None:
        """A number with a gradient was computed as a sum or a difference, in one of the first backwards."""

    def on_result(self, given: Sequence[Any], output: Any) -> None:
        """Tensors without a gradient, or a number, were computed of something, in one of the first backwards."""

    def on_backward(self, roots: Roots) -> bool | None:
        """A backward begins, at these tensors, each with the gradient that was given for it, or None."""

    def on_backward_error(self) -> None:
        """The backward ends by an exception; on_backward_end() comes then."""

    def on_backward_end(self) -> bool | None:
        """The backward is over."""

    def on_grad(self, sources: Sequence[Tensor]) -> None:
        """torch.autograd.grad() begins, by these tensors."""

    def before_step(self, optimizer: Optimizer, closure: bool) -> bool | None:
        """A step of an optimiser begins, with a closure or without."""

    def after_step(self, optimizer: Optimizer) -> bool | None:
        """A step of an optimiser is over."""

    def on_clip(self, parameters: list[Tensor], max_norm: float) -> None:
        """clip_grad_norm_() begins on some tensors."""

    def on_load(self, module: nn.Module, state: Mapping[str, Any]) -> None:
        """Module.load_state_dict() begins."""

    def end(self, error: BaseException | None) -> None:
        """The watching ends, by an error or not."""

    def findings(self) -> list[Finding]:
        """What is wrong."""
        return []


_EVENTS = tuple(name for name in vars(Observer) if not name.startswith("_") and name != "findings")


def _harmless(method: Callable[Concatenate[EventSource, _P], None]) -> Callable[Concatenate[EventSource, _P], None]:
    """A method that torch calls within the watched code: no error leaves it."""

    @functools.wraps(method)
    def heard(source: EventSource, /, *args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            method(source, *args, **kwargs)
        except Exception as error:
            source.note_failure(method.__name__.lstrip("_"), error)

    return heard


def _of_numbers(method: Callable[Concatenate[EventSource, _P], None]) -> Callable[Concatenate[EventSource, _P], None]:
    """Such a method that is deaf where torch only traces."""
    harmless = _harmless(method)

    @functools.wraps(method)
    def heard(source: EventSource, /, *args: _P.args, **kwargs: _P.kwargs) -> None:
        # torch.compile traces through hooks, which must not do more than this then.
        if not torch.compiler.is_compiling() and not is_tracing():
            harmless(source, *args, **kwargs)

    return heard


class EventSource:
    """Tells observers of the events of a `with` block.

    Args:
        observers: called in this order.
        losses: functions of torch whose calls are losses.
        module: the loss of the loop, whose calls are reported wherever they stand; None for none. With one, other
            losses are told only after forwards that are looked into.
        on_call: called with it, its arguments, those by name, and its output.
    """

    def __init__(
        self,
        observers: Sequence[Observer],
        losses: tuple[Callable[..., Any], ...],
        module: nn.Module | None = None,
        on_call: OnCall = lambda *_: None,
    ) -> None:
        self.failures: list[str] = []
        self._listeners = {
            event: [(one, getattr(one, event)) for one in observers if _takes(one, event)] for event in _EVENTS
        }
        self.process = os.getpid()
        self._handles: list[RemovableHandle] = []
        heard: tuple[Callable[..., Any], ...] = (*losses, *SUMS) if losses and self._listeners["on_sum"] else losses
        self._losses = LossInterceptor(heard, self._on_loss, self._on_result if self._listeners["on_result"] else None)
        self._module, self._on_call = module, on_call
        calls = ForwardInterceptor(self._on_forward, self._on_forward_end, module, self._on_module_loss)
        self._forward = calls.now
        self._interceptors = (
            calls,
            BackwardInterceptor(
                self._on_backward,
                self._on_backward_end,
                lambda sources: self._tell("on_grad", sources),
            ),
            self._losses,
            PatchedCalls(
                self._on_clip,
                lambda module, state: self._tell("on_load", module, state),
            ),
        )
        self._networks: dict[int, Network] = {}
        self._telling = threading.RLock()
        self._trainer: int | None = None  # the thread that is watched
        self._others: set[int] = set()  # threads that train beside it: their gradients change while they are read
        self._reported = False  # of the backward under way
        self._stepping: set[int] = set()  # optimisers whose steps are under way

    def __enter__(self) -> EventSource:
        self._tell("begin")
        self._handles = [
            register_optimizer_step_pre_hook(self._before_step),
            register_optimizer_step_post_hook(self._after_step),
        ]
        for interceptor in self._interceptors:
            interceptor.__enter__()
        return self

    def close(self, error: BaseException | None) -> None:
        """Take all hooks away, after an error too."""
        for interceptor in reversed(self._interceptors):
            interceptor.__exit__(None, None, None)
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._tell("end", error)
        self._listeners = {event: [] for event in _EVENTS}

    def _tell(self, event: str, *args: Any) -> None:
        # A fork of the watched process is another one.
        if self._listeners[event] and os.getpid() == self.process:
            self._tell_more(event, *args)

    def _tell_more(self, event: str, *args: Any) -> None:
        """Tell what comes after something that was told."""
        if self._others and self._stands_beside():
            return
        if self._losses.active:
            self._losses.outside(self._tell_all, event, args)
        else:
            self._tell_all(event, args)

    def _tell_all(self, event: str, args: tuple[Any, ...]) -> None:
        with self._telling:
            for observer, method in self._listeners[event]:
                try:
                    if method(*args):
                        self._listeners[event] = [one for one in self._listeners[event] if one[0] is not observer]
                except Exception as error:
                    for name, listeners in self._listeners.items():
                        self._listeners[name] = [one for one in listeners if one[0] is not observer]
                    self.note_failure(f"{type(observer).__name__}.{event}", error)

    def note_failure(self, place: str, error: Exception) -> None:
        """Remember an error of the checkup's own, once.

        Args:
            place: where it came up.
            error: itself.
        """
        failure = f"{place}: {type(error).__name__}: {error_text(error)}"
        if failure not in self.failures and len(self.failures) < _FAILURES:
            self.failures.append(failure)

    def unjudged(self) -> list[Finding]:
        """What could not be judged, as the checkup itself failed."""
        others = [f"training in other threads than the watched one: {len(self._others)}"] if self._others else []
        return [as_note(Code.LOSSES, UNJUDGED, failure) for failure in [*self.failures, *others]]

    @property
    def one_thread_trains(self) -> bool:
        """Whether gradients of all optimisers may be read: those of another thread change while they are."""
        return not self._others

    def _choose_thread(self) -> None:
        """Watch the first thread that trains, and another one when it is over."""
        here = threading.get_ident()
        if here == self._trainer:
            return
        if self._trainer in {thread.ident for thread in threading.enumerate()}:
            self._others.add(here)
        else:
            self._trainer = here

    def _stands_beside(self) -> bool:
        here = threading.get_ident()
        return here in self._others and here != self._trainer

    @_harmless
    def _on_forward(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        now, network = self._forward, self._network(module)
        if network.alone or is_tracing():
            return
        # A wrapper has a mode of its own, which changes nothing.
        training = nn.Module.get_submodule(module, "module").training if network.wraps else module.training
        now.begin(module, training, network.looks.wanted(training))
        # All that is called of torch passes the mode that hears losses: it is there only where it is wanted.
        if now.looked_into or (self._module is None and network.computes_loss):
            self._losses.resume()
        else:
            self._losses.pause()
        self._losses.outside(self._begin_forward, module, inputs)

    def _begin_forward(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        now = self._forward
        now.computes = _computes(module, inputs, now.looked_into)
        if now.computes:
            self._tell("on_forward", module, now.training)

    @_harmless
    def _on_module_loss(self, *call: Any) -> None:
        if is_tracing():
            return
        if self._forward.outermost is not None:
            self._network(self._forward.outermost).computes_loss = True
        self._losses.outside(self._on_call, *call)

    @_harmless
    def _on_forward_end(self, module: Any, *call: Any) -> None:
        self._losses.outside(self._end_forward, module, *call)
        if self._module is None and not self._losses.resume():
            # The loop has a mode of its own, within which this one must stand already.
            self._forward.hears_between = True

    def _end_forward(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        now, network = self._forward, self._network(module)
        if now.inner:
            network.dtypes = frozenset(now.dtypes)
        first = output if isinstance(output, Tensor) else next(tensors_of(output), None)
        # The weights may be those of a transform of functions.
        if now.computes and (first is None or has_numbers(first)):
            event = ForwardEvent(module, args, kwargs, output, now.training, network.dtypes, now.inner)
            self._tell_more("on_forward_end", event)

    def _network(self, module: nn.Module) -> Network:
        """What is known of a module; forgotten with it, since a loop may make ever new ones."""
        place = id(module)
        if place not in self._networks:
            reference = weakref.ref(module, lambda _: self._networks.pop(place, None))
            wraps = isinstance(module, DataParallel | DistributedDataParallel)
            self._networks[place] = Network(reference, _is_function(module), wraps)
        return self._networks[place]

    @_of_numbers
    def _on_loss(self, function: Callable[..., Any], args: Any, kwargs: Any, output: Any) -> None:
        summed = function in SUMS
        if summed and not (
            isinstance(output, Tensor) and not output.dim() and output.requires_grad and has_numbers(output)
        ):
            return
        now = self._forward
        if now.outermost is not None:
            self._network(now.outermost).computes_loss = True
        now.hears_between |= now.stepped
        if summed:
            self._tell("on_sum", args, output)
            return
        if not isinstance(output, Tensor) or has_numbers(output):
            self._tell("on_loss", LossEvent(function, args, kwargs, output))

    @_of_numbers
    def _on_result(self, function: Callable[..., Any], args: Any, kwargs: Any, output: Any) -> None:
        one = next(tensors_of(output), None) if isinstance(output, tuple | list) else output
        if isinstance(one, float) or (isinstance(one, Tensor) and not one.requires_grad and has_numbers(one)):
            self._tell("on_result", [*args, *kwargs.values()], output)

    @_harmless
    def _on_backward(self, roots: Roots) -> None:
        self._choose_thread()
        if self._others and self._stands_beside():
            return
        self._losses.note_backward()
        self._reported = not is_tracing() and all(has_numbers(root) for root, _ in roots)
        if self._reported:
            self._tell("on_backward", roots)

    @_harmless
    def _on_backward_end(self, failed: bool) -> None:
        if not self._reported or (self._others and self._stands_beside()):
            return
        if failed:
            self._tell_more("on_backward_error")
        self._tell_more("on_backward_end")

    @_of_numbers
    def _on_clip(self, tensors: list[Any], limit: Any) -> None:
        # What else is given, torch refuses.
        if isinstance(limit, int | float | Tensor) and all(isinstance(value, Tensor) for value in tensors):
            self._tell("on_clip", tensors, float(limit))
            self._losses.pause()

    @_of_numbers
    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if not has_numbers_to_step(optimizer) or inner_optimizer(optimizer) is not None:
            return
        self._stepping.add(id(optimizer))
        closure = any(map(callable, (*args[1:], *kwargs.values())))
        self._tell("before_step", optimizer, closure)
        if not closure:
            self._losses.pause()

    @_of_numbers
    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if id(optimizer) in self._stepping:
            self._stepping.remove(id(optimizer))
            self._tell_more("after_step", optimizer)
        now = self._forward
        now.stepped, now.steps = True, now.steps + 1
        if self._module is None and (now.looked_into or now.hears_between or now.steps < FIRST):
            self._losses.resume()


def _is_function(module: nn.Module) -> bool:
    """Whether a module is a layer of torch's own that holds no weights and no other module."""
    own = type(module).__module__.startswith("torch.nn.modules.")
    return own and not any(True for _ in (*module.children(), *nn.Module.parameters(module)))


def _takes(observer: Observer, event: str) -> bool:
    return getattr(type(observer), event) is not getattr(Observer, event)


def _computes(module: nn.Module, inputs: Any, thorough: bool) -> bool:
    """Whether a forward works on numbers, and not for an export, a transform of functions or a plan of memory."""
    plain = len(inputs) <= _LOOKED_AT and all(type(one) is Tensor for one in inputs)
    given = [*inputs] if plain else [*islice(tensors_of(inputs), _LOOKED_AT)]
    # The weights take longer to be asked.
    given += islice(nn.Module.parameters(module), 1) if thorough or not given else ()
    return all(map(has_numbers, given))
