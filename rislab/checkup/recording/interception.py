"""Losses, backwards and other calls are intercepted where torch computes them."""

from __future__ import annotations

import builtins
import gc
import inspect
import threading
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial, wraps
from types import FunctionType, MethodWrapperType
from typing import Any, Self

import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.autograd.graph import GradientEdge
from torch.compiler import is_compiling
from torch.distributions import Bernoulli, Categorical, Normal
from torch.nn import functional
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torch.optim.optimizer import Optimizer
from torch.overrides import TorchFunctionMode, handle_torch_function, has_torch_function
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from rislab.checkup.recording.own_operations import unobserved
from rislab.checkup.recording.plain_stack import showing

# Warnings of functions that are called here belong to the loop, which remembers those that it has shown.
__warningregistry__ = None
# Called with function, arguments, named arguments and result.
OnCall = Callable[[Callable[..., Any], tuple[Any, ...], Mapping[str, Any], Any], None]

# Means over all elements, and over all targets that are not ignored.
ELEMENTS = (
    functional.mse_loss,
    functional.l1_loss,
    functional.smooth_l1_loss,
    functional.huber_loss,
    functional.binary_cross_entropy,
    functional.binary_cross_entropy_with_logits,
    functional.poisson_nll_loss,
    functional.soft_margin_loss,
)
TARGETS = (functional.cross_entropy, functional.nll_loss)
OTHERS = (
    functional.ctc_loss,
    functional.cosine_embedding_loss,
    functional.gaussian_nll_loss,
    functional.hinge_embedding_loss,
    functional.kl_div,
    functional.margin_ranking_loss,
    functional.multi_margin_loss,
    functional.multilabel_margin_loss,
    functional.multilabel_soft_margin_loss,
    functional.triplet_margin_loss,
    functional.triplet_margin_with_distance_loss,
)
LOSSES = (*ELEMENTS, *TARGETS, *OTHERS)
# By which a loop adds up the terms of a loss; in so many backwards they are reported.
SUMS: tuple[Callable[..., Any], ...] = (Tensor.add, Tensor.add_, torch.add, Tensor.sub, Tensor.sub_, torch.sub)
# By which a loop counts right answers.
COMPARISONS: tuple[Callable[..., Any], ...] = (Tensor.eq, Tensor.__eq__, torch.eq)
BACKWARDS = 24
_KINDS = (Normal, Categorical, Bernoulli)
# Calls that no hook of torch reports, by the events that they are.
CALLS: dict[str, tuple[tuple[Any, str], ...]] = {
    "on_pass": ((DataLoader, "__iter__"),),
    "on_order": ((DistributedSampler, "__iter__"),),
    "on_seed": ((torch, "manual_seed"),),
    "on_save": ((torch, "save"),),
    "on_state": ((nn.Module, "state_dict"),),
    "on_print": ((builtins, "print"),),
    "on_schedule": ((LRScheduler, "step"),),
    "on_plateau": ((ReduceLROnPlateau, "step"),),
    "on_scaler_update": ((GradScaler, "update"),),
    "on_group": ((Optimizer, "add_param_group"),),
    "on_checkpoint": ((torch.utils.checkpoint, "checkpoint"),),
    "on_sample": tuple((kind, "sample") for kind in _KINDS),
    "on_log_prob": tuple((kind, "log_prob") for kind in _KINDS),
    "on_entropy": tuple((kind, "entropy") for kind in _KINDS),
}
# Those of which the result is reported as well.
_ENDED = {"on_sample", "on_entropy", "on_state"}
_TORCH = torch.__path__[0]
# What has no mode of its own.
_NOTHING = (None,)


class LossInterceptor(TorchFunctionMode):
    """Reports the calls of some functions.

    Args:
        functions: of torch, whose calls are reported.
        on_call: called with function, arguments and result of each.
        on_other: the same for all functions, up to one of the first backwards and while `observes_all`; None if they
            are of no concern.
        on_followed: the same for all functions while `follows`, before the others.
    """

    def __init__(
        self, functions: tuple[Callable[..., Any], ...], on_call: OnCall, on_other: OnCall | None, on_followed: OnCall
    ) -> None:
        super().__init__()
        self._on_other, self._on_followed = on_other, on_followed
        # By identity: a function of somebody else may have no hash.
        self._functions, self._on_call = {id(function) for function in functions}, on_call
        self._sums = self._functions & set(map(id, SUMS))
        self._by_code = {one.__code__: one for one in LOSSES if type(one) is FunctionType}
        self._backwards = 0
        self.begins = True  # whether it is one of the first backwards
        self.observes_all, self.skips_attributes = True, False  # of functions: whether the others are reported
        self.follows = False  # whether all calls are reported to `on_followed`, as those of an evaluation
        self._thread: int | None = None  # that entered; each thread has modes of its own
        self._paused = False
        self.active = False  # whether it stands among the modes of its thread
        self.own_class = False  # whether tensors of a class of the loop's own have come

    def __enter__(self) -> LossInterceptor:
        # Every call of torch passes through a mode; without functions there is nothing to observe.
        if self._functions:
            self._thread, self.active = threading.get_ident(), True
            super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._thread == threading.get_ident() and not self._paused and self._innermost() is self:
            super().__exit__(*error)
        self._thread, self._paused, self.active, self._functions = None, False, False, set()
        # One that was entered before this one, and left before it, could not be taken away until now.
        while (other := self._innermost()) is not None and other._thread is None:
            super(LossInterceptor, other).__exit__(*error)

    def begin_anew(self) -> None:
        """The next backwards are the first ones of another training."""
        self._backwards, self.begins, self.observes_all = 0, True, True
        self._functions |= self._sums

    def note_backward(self) -> None:
        """After some backwards, sums are reported no more, and all others only now and then."""
        self._backwards += 1
        if self._backwards == BACKWARDS:
            self._functions -= set(map(id, SUMS))
            self.observes_all = self.begins = False

    def pause(self) -> None:
        """Hear nothing until resume(): code of torch that computes no loss runs at its own speed."""
        if self.active and self._thread == threading.get_ident() and self._innermost() is self:
            super().__exit__(None, None, None)
            self._paused, self.active = True, False

    def resume(self) -> bool:
        """Hear again, unless within another's mode, which would be left in place of this one; whether it does."""
        if self._paused and self._thread == threading.get_ident() and (self._innermost() or not _mode_is_active()):
            self._paused, self.active = False, True
            super().__enter__()
        return not self._paused

    @staticmethod
    def _innermost() -> LossInterceptor | None:
        """The mode that was entered last, if it is one of these: only the last one can be left."""
        # No mode is active at all within a hook of a backward.
        innermost: LossInterceptor | None = handle_torch_function(_other_mode, ()) if _mode_is_active() else None
        return innermost

    def outside(self, work: Callable[..., None], *args: Any) -> None:
        """Do work that computes no loss: what it calls of torch passes no mode, this one's or another's."""
        if not self.active:
            work(*args)
        elif not _mode_is_active():
            # The mode of unobserved(), in which this was called, has been left on the way here.
            unobserved(self.own_class, work, *args)
        else:
            handle_torch_function(self.outside, (), work, *args)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if type(func) is MethodWrapperType and self.skips_attributes and not self.follows:
            return func(*args, **(kwargs or {}))
        named, reported = kwargs or {}, id(func) in self._functions
        if not reported:
            if func is torch.Tensor.backward:
                # The method may be one that the loop has put there, and that is under way already.
                return _backward(*args, **named) if types == (Tensor,) else func(*args, **named)
            if func is _other_mode:
                return self
            if getattr(func, "__func__", None) is LossInterceptor.outside:
                return func(*args, **named)
        if type(func) is FunctionType and not is_compiling():
            func = self._under_way(func)
            reported = id(func) in self._functions
        output = func(*args, **named)
        # torch.compile traces through this very function, which must not do more than this then.
        if not is_compiling() and (reported or self.observes_all or self.follows):
            if self.follows:
                self._on_followed(func, args, named, output)
            if self.observes_all and self._on_other is not None:
                self._on_other(func, args, named, output)
            if reported:
                self._on_call(func, args, named, output)
        return output

    def _under_way(self, function: FunctionType) -> Callable[..., Any]:
        """A function of torch that asks a mode, by its name: the loop may have one of its own there that calls it."""
        if function.__code__.co_filename.startswith((_TORCH, __file__)):
            return function
        own = inspect.currentframe()
        dispatch = own and own.f_back and own.f_back.f_back
        asking = dispatch and dispatch.f_code is handle_torch_function.__code__ and dispatch.f_back
        if not asking or not asking.f_code.co_filename.startswith(_TORCH):
            return function
        code = asking.f_code
        if code not in self._by_code:
            known = (one for one in gc.get_referrers(code) if type(one) is FunctionType and one.__code__ is code)
            self._by_code[code] = next(known, function)
        return self._by_code[code]


def _mode_is_active() -> bool:
    return has_torch_function(_NOTHING)


def _other_mode() -> None:
    """What another mode makes of the question which one it is."""


def _backward(
    root: Tensor, gradient: Any = None, retain_graph: Any = None, create_graph: bool = False, inputs: Any = None
) -> None:
    """What Tensor.backward() does."""
    torch.autograd.backward(root, gradient, retain_graph, create_graph, inputs=inputs)


class Replacement:
    """An attribute that is another one for a while, taken back in whatever order such whiles end.

    Args:
        owner: module or class that has the attribute.
        name: of the attribute, a function.
        reporting: makes what takes its place out of what it was.
        direct: whether that asks itself whether the replacement is `active`, as somebody may have kept it.
    """

    def __init__(
        self,
        owner: Any,
        name: str,
        reporting: Callable[[Callable[..., Any]], Callable[..., Any]],
        direct: bool = False,
    ) -> None:
        self._owner, self._name, self._reporting, self._direct = owner, name, reporting, direct
        self._original: Callable[..., Any] = lambda: None
        self._replaced: Callable[..., Any] | None = None
        self.active = False

    def __enter__(self) -> Replacement:
        original = self._original = getattr(self._owner, self._name)
        reporting = self._reporting(original)

        @wraps(original)
        def replaced(*args: Any, **kwargs: Any) -> Any:
            # Somebody may have kept it, or put something of their own around it.
            return (reporting if self.active else original)(*args, **kwargs)

        self._replaced = wraps(original)(reporting) if self._direct else replaced
        vars(self._replaced)["replacement"] = self
        self.active = True
        setattr(self._owner, self._name, self._replaced)
        return self

    def __exit__(self, *error: object) -> None:
        self.active = False
        while (one := self._current()) is not None and not one.active:
            setattr(self._owner, self._name, one._original)

    def _current(self) -> Replacement | None:
        """The replacement that stands there, None if it is something else."""
        current = getattr(self._owner, self._name)
        one = getattr(current, "__dict__", {}).get("replacement")
        return one if isinstance(one, Replacement) and one._replaced is current else None


class _Replacing:
    """Replaces calls of torch in a `with` block."""

    _replacements: tuple[Replacement, ...]

    def __enter__(self) -> Self:
        for one in self._replacements:
            one.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        for one in self._replacements:
            one.__exit__()


class BackwardInterceptor(_Replacing):
    """Reports backwards, through whatever entry: Tensor.backward() calls torch.autograd.backward() as well.

    Args:
        on_backward: called before each with its roots, and the gradient that was given for each, or None.
        on_backward_end: called after each, with whether it ended by an exception.
        on_grad: called before each torch.autograd.grad() with what it differentiates, and by what.
    """

    def __init__(
        self,
        on_backward: Callable[[list[tuple[Tensor, Tensor | None]]], None],
        on_backward_end: Callable[[bool], None],
        on_grad: Callable[[list[Tensor], list[Tensor]], None],
    ) -> None:
        self._on_backward, self._on_backward_end, self._on_grad = on_backward, on_backward_end, on_grad
        self._replacements = (
            Replacement(torch.autograd, "backward", self._reporting, direct=True),
            Replacement(torch.autograd, "grad", self._reporting_grad),
        )
        self._local = threading.local()  # each thread has backwards of its own

    def _reporting_grad(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def grad(outputs: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            if is_compiling():
                return original(outputs, inputs, *args, **kwargs)
            inputs = _as_tuple(inputs)
            given = (_as_tuple(one) or () for one in (outputs, inputs))
            self._on_grad(*([value for value in some if isinstance(value, Tensor)] for some in given))
            return original(outputs, inputs, *args, **kwargs)

        return grad

    def _reporting(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def backward(tensors: Any, grad_tensors: Any = None, *args: Any, **kwargs: Any) -> Any:
            if is_compiling() or not self._replacements[0].active:
                return original(tensors, grad_tensors, *args, **kwargs)
            # A checkpoint of activations runs backwards within the loop's own.
            outermost, self._local.under_way = not getattr(self._local, "under_way", False), True
            failed = True
            try:
                tensors, grad_tensors = _as_tuple(tensors), _as_tuple(grad_tensors)
                if outermost:
                    given = grad_tensors or (None,) * len(tensors)
                    pairs = zip(tensors, given, strict=False)
                    self._on_backward([(root, upstream) for root, upstream in pairs if isinstance(root, Tensor)])
                output = original(tensors, grad_tensors, *args, **kwargs)
                failed = False
                return output
            finally:
                if outermost:
                    self._local.under_way = False
                    self._on_backward_end(failed)

        return backward


def _as_tuple(given: Any) -> Any:
    """Tensors as torch takes them, one or many; a generator is used up by looking at it."""
    if given is None or type(given) is tuple:
        return given
    if isinstance(given, (Tensor, GradientEdge)):  # a union would be made at each call
        return (given,)
    # What is no collection, torch refuses in words of its own.
    return tuple(given) if isinstance(given, Iterable) else given


class PatchedCalls(_Replacing):
    """Reports calls of clip_grad_norm_(), Module.load_state_dict() and others, which no hook of torch reports.

    Args:
        on_clip: called before each clipping with its tensors and its limit.
        on_load: called before each loading with the module and the state.
        on_call: called with the event of each other call, its arguments, and those by name, before it, or after it and
            with its result.
        events: of CALLS, those that are wanted.
    """

    def __init__(
        self,
        on_clip: Callable[[list[Any], Any], None],
        on_load: Callable[[nn.Module, Mapping[str, Any]], None],
        on_call: Callable[..., None],
        events: Collection[str],
    ) -> None:
        self._on_clip, self._on_load, self._on_call = on_clip, on_load, on_call
        self._replacements = (
            Replacement(nn.utils, "clip_grad_norm_", self._clipping),
            Replacement(nn.utils.clip_grad, "clip_grad_norm_", self._clipping),
            Replacement(nn.Module, "load_state_dict", self._loading),
            *(Replacement(*place, partial(self._calling, event)) for event in events for place in CALLS[event]),
            # What warn() calls; catch_warnings() takes back whatever stands in the place of showwarning().
            Replacement(warnings, "_showwarnmsg", showing),
        )

    def _clipping(self, clip: Callable[..., Any]) -> Callable[..., Any]:
        def clip_grad_norm_(parameters: Any, max_norm: float, *args: Any, **kwargs: Any) -> Any:
            # A generator is used up by looking at it.
            if not isinstance(parameters, Tensor) and isinstance(parameters, Iterable):
                parameters = list(parameters)
            tensors = [parameters] if isinstance(parameters, Tensor) else parameters
            if isinstance(tensors, list):
                self._on_clip(tensors, max_norm)
            return clip(parameters, max_norm, *args, **kwargs)

        return clip_grad_norm_

    def _loading(self, load: Callable[..., Any]) -> Callable[..., Any]:
        def load_state_dict(module: nn.Module, state_dict: Any, *args: Any, **kwargs: Any) -> Any:
            if isinstance(state_dict, Mapping):
                self._on_load(module, state_dict)
            return load(module, state_dict, *args, **kwargs)

        return load_state_dict

    def _calling(self, event: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def reporting(*args: Any, **kwargs: Any) -> Any:
            self._on_call(event, args, kwargs)
            return original(*args, **kwargs)

        def reporting_result(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            self._on_call(event, args, kwargs, result)
            return result

        return reporting_result if event in _ENDED else reporting
