"""What happens in a process that trains, heard through public hooks of torch, and told to whoever observes it.

Nothing of the watched code is changed: an observer that fails is left out from then on, and its failure remembered.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

from rislab.checkup.findings import Finding, error_text
from rislab.checkup.interception import BackwardInterceptor, LossInterceptor, PatchedCalls

# So deep is looked into nested arguments, and at so many tensors of them.
_DEPTH, _LOOKED_AT = 8, 4

Roots = Sequence[tuple[Tensor, Tensor | None]]


@dataclass(frozen=True, eq=False)
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
    """

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: Any
    training: bool
    dtypes: frozenset[torch.dtype] = frozenset()
    inner: Sequence[nn.Module] = ()

    def inputs(self) -> Iterator[Tensor]:
        """All tensors among the arguments, in order."""
        return tensors_of((self.args, dict(self.kwargs)))


@dataclass(frozen=True, eq=False)
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
    """Told of events in the order in which they happen; a subclass takes those that concern it."""

    def begin(self) -> None:
        """The watching begins."""

    def on_forward(self, module: nn.Module, training: bool) -> None:
        """A forward begins that stands in no other."""

    def on_forward_end(self, call: ForwardEvent) -> None:
        """Such a forward is over."""

    def on_loss(self, call: LossEvent) -> None:
        """A loss was computed."""

    def on_backward(self, roots: Roots) -> None:
        """A backward begins, at these tensors, each with the gradient that was given for it, or None."""

    def on_backward_error(self) -> None:
        """The backward ends by an exception; on_backward_end() comes then."""

    def on_backward_end(self) -> None:
        """The backward is over."""

    def on_grad(self, sources: Sequence[Tensor]) -> None:
        """torch.autograd.grad() begins, by these tensors."""

    def before_step(self, optimizer: Optimizer, closure: bool) -> None:
        """A step of an optimiser begins, with a closure or without."""

    def after_step(self, optimizer: Optimizer) -> None:
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


class EventSource:
    """Tells observers of the events of a `with` block.

    Args:
        observers: called in this order.
        losses: functions of torch whose calls are losses.
    """

    def __init__(self, observers: Sequence[Observer], losses: tuple[Callable[..., Any], ...]) -> None:
        self.failures: list[str] = []
        self._observers = list(observers)
        self.process = os.getpid()
        self._handles: list[RemovableHandle] = []
        self._losses = LossInterceptor(losses, self._on_loss)
        self._interceptors = (
            BackwardInterceptor(
                self._on_backward,
                self._on_backward_end,
                lambda sources: self._tell("on_grad", sources),
            ),
            self._losses,
            PatchedCalls(
                lambda parameters, limit: self._tell("on_clip", parameters, limit),
                lambda module, state: self._tell("on_load", module, state),
            ),
        )
        self._calls: list[tuple[nn.Module, bool]] = []  # forwards under way, the outermost first
        self._inner: list[nn.Module] = []
        self._dtypes: set[torch.dtype] = set()
        self._computes = False  # whether the forward under way works on numbers
        self._reported = False  # of the backward under way

    def __enter__(self) -> EventSource:
        self._tell("begin")
        self._handles = [
            register_module_forward_pre_hook(self._on_forward),
            register_module_forward_hook(self._on_forward_end, with_kwargs=True, always_call=True),
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
        self._handles, self._inner = [], []
        self._tell("end", error)

    def _tell(self, event: str, *args: Any) -> None:
        # A fork of the watched process is another one.
        if os.getpid() != self.process:
            return
        # After a step that failed, the next event does it.
        self._losses.resume()
        for observer in list(self._observers):
            try:
                getattr(observer, event)(*args)
            except Exception as error:
                self._observers.remove(observer)
                reason = f"{type(error).__name__}: {error_text(error)}"
                self.failures.append(f"{type(observer).__name__}.{event}: {reason}")

    def _on_forward(self, module: nn.Module, inputs: Any) -> None:
        # torch.compile traces through hooks, which must not do more than this then.
        if torch.compiler.is_compiling():
            return
        self._calls.append((module, module.training))
        if len(self._calls) == 1:
            self._inner, self._dtypes = [], set()
            self._computes = _computes(module, inputs)
            if self._computes:
                self._tell("on_forward", module, module.training)
        self._inner.append(module)

    def _on_forward_end(self, module: nn.Module, args: Any, *rest: Any) -> None:
        # After a forward that failed, torch hands on no named arguments.
        kwargs, output = ({}, *rest)[-2:]
        if torch.compiler.is_compiling() or not self._calls:
            return
        if isinstance(output, Tensor):
            self._dtypes.add(output.dtype)
        outermost, training = self._calls[0]
        # A forward that failed may have left inner ones without an end.
        while self._calls and self._calls.pop()[0] is not module:
            pass
        if not self._calls and outermost is module and self._computes:
            given = args if isinstance(args, tuple) else (args,)
            dtypes = frozenset(self._dtypes)
            self._tell("on_forward_end", ForwardEvent(module, given, kwargs, output, training, dtypes, self._inner))

    def _on_loss(self, function: Callable[..., Any], args: Any, kwargs: Any, output: Any) -> None:
        if not isinstance(output, Tensor) or has_numbers(output):
            self._tell("on_loss", LossEvent(function, args, kwargs, output))

    def _on_backward(self, roots: Roots) -> None:
        self._reported = all(has_numbers(root) for root, _ in roots)
        if self._reported:
            self._tell("on_backward", roots)

    def _on_backward_end(self, failed: bool) -> None:
        if not self._reported:
            return
        if failed:
            self._tell("on_backward_error")
        self._tell("on_backward_end")

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if torch.compiler.is_compiling():
            return
        closure = any(map(callable, (*args[1:], *kwargs.values())))
        self._tell("before_step", optimizer, closure)
        if not closure:
            self._losses.pause()

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if torch.compiler.is_compiling():
            return
        self._tell("after_step", optimizer)


def tensors_of(value: Any, depth: int = _DEPTH) -> Iterator[Tensor]:
    """The tensors in nested tuples, lists and mappings, and in the fields of the outputs of libraries.

    Args:
        value: of any kind, which may hold itself.
        depth: ≥ 0; how deep to look.
    """
    if isinstance(value, Tensor):
        yield value
    elif depth and isinstance(value, Mapping | tuple | list):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from tensors_of(inner, depth - 1)


def has_numbers(value: Tensor) -> bool:
    """Whether a tensor holds numbers that can be read: not on the meta device, fake, nested, or within a transform."""
    if value.is_meta or value.is_nested:
        return False
    if value.layout is not torch.strided:
        return True
    try:
        # Within vmap(), grad() and jvp(), and under a fake mode, a tensor has no memory of its own.
        return value.data_ptr() != 0 or value.numel() == 0
    except RuntimeError:
        return False


def _computes(module: nn.Module, inputs: Any) -> bool:
    """Whether a forward works on numbers, and not for an export, a transform of functions or a plan of memory."""
    first = next(module.parameters(), None)
    return (first is None or has_numbers(first)) and all(map(has_numbers, islice(tensors_of(inputs), _LOOKED_AT)))
