"""What happens in a process that trains, observed through public hooks of torch, and passed on to observers.

Nothing of the watched code is changed: an observer that fails is left out from then on, and its failure remembered.
"""

from __future__ import annotations

import atexit
import functools
import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from types import MethodWrapperType
from typing import Any, Concatenate, ParamSpec

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling, is_dynamo_compiling
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

from rislab.checkup.findings import UNJUDGED, Finding, as_note
from rislab.checkup.recording.counting import ODD, ExpectedEvents, kind_of
from rislab.checkup.recording.events import MANY, WRITING, ForwardEvent, LossEvent, Observer, Roots
from rislab.checkup.recording.forwards import ForwardInterceptor, Networks, computes
from rislab.checkup.recording.interception import (
    CALLS,
    COMPARISONS,
    SUMS,
    BackwardInterceptor,
    LossInterceptor,
    OnCall,
    PatchedCalls,
)
from rislab.checkup.recording.listeners import Listeners
from rislab.checkup.recording.optimizers import has_numbers_to_step, inner_optimizer, steps_within_itself
from rislab.checkup.recording.own_operations import UNWATCHED, has_dispatch_mode, is_of_own_class, unobserved
from rislab.checkup.recording.printed_lines import Printed
from rislab.checkup.recording.tensors import has_numbers, is_result, samples_of, tensors_of
from rislab.checkup.recording.training_threads import TrainingThreads
from rislab.checkup.rules import Code

# So many trainings, one after another, are looked at anew.
TRAININGS = 4

is_tracing: Callable[[], bool] = torch.jit.is_tracing  # type: ignore[attr-defined]

_P = ParamSpec("_P")


def _guarded(
    method: Callable[Concatenate[EventSource, _P], None], untraced: bool = False
) -> Callable[Concatenate[EventSource, _P], None]:
    """A method that torch calls within the watched code: no error leaves it; an `untraced` one rests in a trace."""

    @functools.wraps(method)
    def guarded(source: EventSource, /, *args: _P.args, **kwargs: _P.kwargs) -> None:
        # torch.compile traces through hooks, which must not do more than this then.
        # No step is traced amid windows that are only counted.
        if untraced and (is_dynamo_compiling() or (not source._expected.active and (is_compiling() or is_tracing()))):
            return
        if UNWATCHED.get():
            return
        try:
            losses = source._losses
            if not (untraced or source._expected.active or losses.own_class):
                losses.own_class = is_of_own_class(args)
            if losses.own_class or has_dispatch_mode():
                unobserved(losses.own_class, method, source, *args, **kwargs)
            else:
                method(source, *args, **kwargs)
        except Exception as error:
            source.listeners.note_failure(method.__name__.lstrip("_"), error)

    return guarded


# Such a method that does nothing where torch only traces.
_untraced = functools.partial(_guarded, untraced=True)


class EventSource:
    """Tells observers of the events of a `with` block.

    Args:
        observers: called in this order.
        losses: functions of torch whose calls are losses.
        loss: that of the loop, a module or a function of torch; None if it is another one, or not known. The calls of a
            module are reported wherever they stand; other losses only after forwards that are looked into.
        on_call: called with it, its arguments, those by name, and its output.
    """

    def __init__(
        self,
        observers: Sequence[Observer],
        losses: tuple[Callable[..., Any], ...],
        loss: Callable[..., Any] | None = None,
        on_call: OnCall = lambda *_: None,
    ) -> None:
        self.listeners = Listeners(observers)
        self.process, self._trainings = os.getpid(), 1
        self._handles: list[RemovableHandle] = []
        for event, functions in {"on_sum": SUMS, "on_comparison": COMPARISONS}.items():
            losses += functions if losses and self.listeners.take(event) else ()
        others = self.listeners.take("on_result") or self.listeners.take("on_call")
        self._losses = LossInterceptor(losses, self._on_loss, self._on_other if others else None, self._on_followed)
        self._loss, self._on_call = loss, on_call
        self._module = loss if isinstance(loss, nn.Module) else None
        calls = ForwardInterceptor(
            self._on_forward, self._on_forward_end, self._module, self._on_module_loss, self._losses
        )
        self._forward = calls.now
        reported = [event for event in CALLS if event == "on_pass" or self.listeners.take(event)]
        self._interceptors = (
            calls,
            BackwardInterceptor(self._on_backward, self._on_backward_end, self._on_grad),
            self._losses,
            PatchedCalls(self._on_clip, self._on_load, self._on_reported, reported),
        )
        self._networks, self._threads = Networks(), TrainingThreads()
        self._expected = ExpectedEvents(self._threads, self._end_counting)
        self._known: weakref.WeakSet[Optimizer] = weakref.WeakSet()  # optimisers that have stepped
        self._stepping: dict[int, int] = {}  # optimisers whose steps are under way: how many of its own each is within

    def __enter__(self) -> EventSource:
        # What is still open then, as in a generator that is never finished, is taken apart while torch is in order.
        atexit.register(self.close, None)
        unobserved(False, self._notify, "begin")
        self._handles = [
            register_optimizer_step_pre_hook(self._before_step),
            register_optimizer_step_post_hook(self._after_step),
        ]
        for interceptor in self._interceptors:
            interceptor.__enter__()
        return self

    def close(self, error: BaseException | None) -> None:
        """Take all hooks away, after an error too."""
        atexit.unregister(self.close)
        for interceptor in reversed(self._interceptors):
            interceptor.__exit__(None, None, None)
        for handle in self._handles:
            handle.remove()
        self._handles = []
        unobserved(False, self._end_counting)
        # In whatever thread: what observers have put in the place of functions is taken back there.
        if os.getpid() == self.process:
            unobserved(False, self.listeners.notify, "end", (error,))
        self.listeners.clear()

    def begin_anew(self, kinds: Sequence[type[Observer]]) -> list[Observer]:
        """Another training begins: new observers of the kinds whose looks end with the first backwards."""
        if self._losses.begins or self._trainings >= TRAININGS:
            return []
        self._trainings += 1
        self._losses.begin_anew()
        self._forward.steps = self._forward.next_observed = 0
        observers = [kind() for kind in kinds]
        self.listeners.add(observers)
        return observers

    def _notify(self, event: str, *args: Any) -> None:
        # A fork of the watched process is another one.
        if self.listeners.take(event) and os.getpid() == self.process:
            self._notify_further(event, *args)

    def _notify_further(self, event: str, *args: Any) -> None:
        """Notify observers of what comes after something that they were notified of."""
        if self._threads.others and self._threads.is_other():
            return
        if self._losses.active:
            self._losses.outside(self.listeners.notify, event, args)
        else:
            self.listeners.notify(event, args)

    def unjudged(self) -> list[Finding]:
        """What could not be judged, as the checkup itself failed."""
        count = len(self._threads.others)
        others = [f"training in other threads than the watched one: {count}"] if count else []
        return [as_note(Code.LOSSES, UNJUDGED, failure) for failure in [*self.listeners.failures, *others]]

    @property
    def one_thread_trains(self) -> bool:
        """Whether gradients of all optimisers may be read: those of another thread change while they are."""
        return not self._threads.others

    # Windows that are only counted.

    def _end_counting(self) -> None:
        if self._expected.active:
            events, steps = self._expected.end(), self._expected.steps
            for optimizer in [*steps]:
                self._notify("count_steps", optimizer, steps.pop(optimizer))
            self._notify("end_counting", sum(kind == "clip" for kind, *_ in events))

    def _begin_window(self) -> None:
        """A window begins that is not counted already: is it, with those that follow?"""
        self._end_counting()
        if self._expected.usual and not self._threads.others:
            left = MANY
            for method in self.listeners["may_count"]:
                if (left := min(left, method())) <= 0:
                    break
            self._expected.left = left
            if left > 0:
                self._notify("begin_counting", self._end_counting, self._expected.all_came, self._expected.steps)
                self._expected.each_step = [*self.listeners["count_step"]]
                self._expected.active, self._losses.follows = True, False

    # What torch reports.

    @_guarded
    def _on_forward(self, module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        now, network = self._forward, self._networks.get(id(module)) or self._networks.of(module)
        if network.alone or is_tracing():
            return
        # A wrapper has a mode of its own, which changes nothing.
        training = nn.Module.get_submodule(module, "module").training if network.wraps else module.training
        if self._expected.count("forward", network.number, training, torch.is_grad_enabled()):
            now.begin(module, training, False)
            if self.listeners.agree("count_forward", module, samples_of(inputs, named)):
                return
            self._end_counting()
        now.begin(module, training, network.looks.wanted((training, torch.is_grad_enabled())))
        self._losses.observes_all, self._losses.skips_attributes = self._losses.begins, False
        evaluates = not (training and torch.is_grad_enabled())
        if now.looked_into or not evaluates:
            self._losses.follows = evaluates and any([one(network.number) for one in self.listeners["follows"]])
        # All that is called of torch passes the mode that observes losses: it is there only where it is wanted.
        if now.looked_into or (self._module is None and network.computes_loss):
            self._losses.resume()
        else:
            self._losses.pause()
        self._losses.outside(self._begin_forward, module, inputs)

    def _begin_forward(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        now = self._forward
        now.computes = computes(module, inputs, now.looked_into)
        if now.computes:
            self._notify("on_forward", module, now.training)

    @_guarded
    def _on_module_loss(self, *call: Any) -> None:
        if is_tracing():
            return
        if self._forward.outermost is not None:
            self._networks.of(self._forward.outermost).computes_loss = True
        if self._losses.active:
            self._losses.outside(self._on_call, *call)
        else:
            self._on_call(*call)

    def _on_forward_end(self, *call: Any) -> None:
        if not self._expected.active or (self._loss is not None and self._module is None):
            self._on_observed_forward_end(*call)

    @_guarded
    def _on_observed_forward_end(self, *call: Any) -> None:
        self._losses.outside(self._end_forward, *call)
        if self._module is None and not self._losses.resume():
            # The loop has a mode of its own, within which this one must stand already.
            self._forward.observes_between = True

    def _end_forward(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        now, network = self._forward, self._networks.of(module)
        if now.inner:
            network.dtypes = frozenset(now.dtypes)
        first = output if isinstance(output, Tensor) else next(tensors_of(output), None)
        # The weights may be those of a transform of functions.
        if now.computes and (first is None or has_numbers(first)):
            event = ForwardEvent(module, args, kwargs, output, now.training, network.dtypes, network.number, now.inner)
            self._notify_further("on_forward_end", event)
            if now.looked_into:
                self._notify_further("on_look", event)

    @_guarded
    def _on_loss(self, function: Callable[..., Any], args: Any, kwargs: Any, output: Any) -> None:
        if is_tracing():
            return
        if function in COMPARISONS:
            if self._forward.outermost is None:
                self._notify("on_comparison", args, output)
            return
        is_number = isinstance(output, Tensor) and not output.dim() and output.requires_grad
        if (summed := function in SUMS) and not (is_number and has_numbers(output)):
            return
        now = self._forward
        if now.outermost is not None:
            self._networks.of(now.outermost).computes_loss = True
        now.observes_between |= now.stepped
        if self._expected.active:
            if function is self._loss:
                self._on_call(function, args, kwargs, output)
            return
        if summed:
            self._notify("on_sum", args, output)
            return
        if not isinstance(output, Tensor) or has_numbers(output):
            self._notify("on_loss", LossEvent(function, args, kwargs, output))

    def _on_other(self, *call: Any) -> None:
        # What a network computes on its way, with a gradient, is no concern, and most of all calls.
        if self._forward.outermost is None or type(call[-1]) is not Tensor or not call[-1].requires_grad:
            self._on_result(*call)

    @_guarded
    def _on_followed(self, function: Callable[..., Any], args: Any, kwargs: Any, output: Any) -> None:
        within, name = self._forward.outermost is not None, getattr(function, "__name__", "")
        self._notify("on_evaluation_call", [*args, *kwargs.values()], name, output, within)

    @_guarded
    def _on_result(self, function: Callable[..., Any], args: Any, kwargs: Any, output: Any) -> None:
        now = self._forward
        if is_tracing():
            return
        # What gives an attribute, a size or an address computes nothing. A forward may write to averages of weights.
        name = getattr(function, "__name__", "")
        within = now.outermost is not None and (torch.is_grad_enabled() or name not in WRITING)
        if not within and not isinstance(output, int) and type(function) is not MethodWrapperType:
            self._notify("on_call", [*args, *kwargs.values()], name)
        if not self._losses.begins or (now.stepped and self._module is not None):
            return
        one = next(tensors_of(output), None) if isinstance(output, tuple | list) else output
        if isinstance(one, float) or (isinstance(one, Tensor) and is_result(one) and has_numbers(one)):
            self._notify("on_result", [*args, *kwargs.values()], output)

    @_guarded
    def _on_backward(self, roots: Roots) -> None:
        self._forward.reported = False
        if self._expected.count(*kind_of(roots)):
            root = roots[0][0]
            if self.listeners.agree("count_backward", root, float(root.item())):
                return
            self._end_counting()
        self._threads.choose()
        if self._threads.is_other():
            return
        begun = self._losses.begins
        self._losses.note_backward()
        self._forward.reported = not is_tracing() and all(has_numbers(root) for root, _ in roots)
        if self._forward.reported:
            self._notify("on_backward", roots)
        if begun and not self._losses.begins:
            self.listeners.end_first_backwards()

    def _on_backward_end(self, failed: bool) -> None:
        if failed or self._forward.reported:
            self._on_observed_backward_end(failed)

    @_guarded
    def _on_observed_backward_end(self, failed: bool) -> None:
        if failed:
            self._end_counting()
        if not self._forward.reported or self._threads.is_other():
            return
        if failed:
            self._notify_further("on_backward_error")
        self._notify_further("on_backward_end")

    @_guarded
    def _on_grad(self, outputs: list[Tensor], sources: list[Tensor]) -> None:
        self._expected.count(*ODD)
        self._notify("on_grad", outputs, sources)

    @_guarded
    def _on_load(self, module: nn.Module, state: Mapping[str, Any]) -> None:
        self._expected.count(*ODD)
        self._notify("on_load", module, state)

    @_untraced
    def _on_clip(self, tensors: list[Any], limit: Any) -> None:
        # What else is given, torch refuses.
        if isinstance(limit, int | float | Tensor) and all(isinstance(value, Tensor) for value in tensors):
            if not self._expected.count("clip", len(tensors), float(limit)):
                self._notify("on_clip", tensors, float(limit))
            self._losses.pause()

    @_untraced
    def _on_reported(self, event: str, *call: Any) -> None:
        if event == "on_pass" and self._expected.passes.wanted("pass"):
            self._end_counting()
        if event == "on_print":
            line = Printed.of(call[0])
            call = () if line is None else (line,)
        if call:
            self._notify(event, *call)

    @_untraced
    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if id(optimizer) in self._stepping and steps_within_itself(optimizer):
            self._stepping[id(optimizer)] += 1
            return
        closure = len(args) + len(kwargs) > 1 and any(map(callable, (*args[1:], *kwargs.values())))
        # A step within a step is like no other.
        event = ODD if self._stepping else ("closure" if closure else "step", weakref.ref(optimizer))
        if self._expected.active and self._expected.count(*event):
            self._stepping[id(optimizer)] = 0
            return
        known = optimizer in self._known
        if not has_numbers_to_step(optimizer) or (not known and inner_optimizer(optimizer) is not None):
            return
        self._expected.count(*event)
        self._stepping[id(optimizer)] = 0
        if not known:
            self._known.add(optimizer)
            self._notify("on_optimizer", optimizer)
        self._notify("before_step", optimizer, closure)
        if not closure:
            self._losses.pause()

    @_untraced
    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self._stepping.get(id(optimizer)):
            self._stepping[id(optimizer)] -= 1
            return
        if id(optimizer) in self._stepping:
            del self._stepping[id(optimizer)]
            if self._expected.active:
                self._expected.steps[optimizer] += 1
                self._expected.each_step = self._expected.each_step and self.listeners.not_agreeing(
                    self._expected.each_step, optimizer
                )
            else:
                self._notify_further("after_step", optimizer)
            if not self._expected.end_window():
                self._begin_window()
        now = self._forward
        look = now.note_step(self._expected.active)
        if self._expected.active and (self._loss is None or self._module is not None):
            return
        self._losses.observes_all |= look
        self._losses.skips_attributes = self._module is not None or not self._losses.begins
        if look or (self._module is None and (now.looked_into or now.observes_between)):
            self._losses.resume()
