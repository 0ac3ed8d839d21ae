"""Losses and backwards are intercepted where torch computes them; and how many parts a loss is the mean of."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge
from torch.nn import functional
from torch.overrides import TorchFunctionMode, handle_torch_function

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
MODULES: dict[type[nn.Module], Callable[..., Any]] = {
    nn.MSELoss: functional.mse_loss,
    nn.L1Loss: functional.l1_loss,
    nn.SmoothL1Loss: functional.smooth_l1_loss,
    nn.HuberLoss: functional.huber_loss,
    nn.BCELoss: functional.binary_cross_entropy,
    nn.BCEWithLogitsLoss: functional.binary_cross_entropy_with_logits,
    nn.CrossEntropyLoss: functional.cross_entropy,
    nn.NLLLoss: functional.nll_loss,
}


class LossInterceptor(TorchFunctionMode):
    """Reports the calls of some functions.

    Args:
        functions: of torch, whose calls are reported.
        on_call: called with function, arguments and result of each.
    """

    def __init__(self, functions: tuple[Callable[..., Any], ...], on_call: OnCall) -> None:
        super().__init__()
        # By identity: a function of somebody else may have no hash.
        self._functions, self._on_call = {id(function): function for function in functions}, on_call
        self._thread: int | None = None  # that entered; each thread has modes of its own
        self._paused = False

    def __enter__(self) -> LossInterceptor:
        # Every call of torch passes through a mode; without functions there is nothing to hear.
        if self._functions:
            self._thread = threading.get_ident()
            super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._thread is not None and not self._paused:
            super().__exit__(*error)
        self._thread, self._paused = None, False

    def pause(self) -> None:
        """Hear nothing until resume(): code of torch that computes no loss runs at its own speed."""
        if self._thread == threading.get_ident() and not self._paused and self._innermost():
            super().__exit__(None, None, None)
            self._paused = True

    def resume(self) -> None:
        """Hear again."""
        if self._paused and self._thread == threading.get_ident():
            self._paused = False
            super().__enter__()

    def _innermost(self) -> bool:
        """Whether no other mode was entered since: only the last one can be left."""
        try:
            return bool(handle_torch_function(_other_mode, ()))
        except TypeError:  # no mode is active at all, as within a hook of a backward
            return False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        if id(func) not in self._functions:
            if func is torch.Tensor.backward:
                # The method may be one that the loop has put there, and that is under way already.
                return _backward(*args, **named)
            return func is _other_mode or func(*args, **named)
        output = func(*args, **named)
        # torch.compile traces through this very function, which must not do more than this then.
        if not torch.compiler.is_compiling():
            self._on_call(func, args, named, output)
        return output


def _other_mode() -> bool:
    """What a mode that is not this one's makes of the question whether it is."""
    return False


def _backward(
    root: Tensor, gradient: Any = None, retain_graph: Any = None, create_graph: bool = False, inputs: Any = None
) -> None:
    """What Tensor.backward() does."""
    torch.autograd.backward(root, gradient, retain_graph, create_graph, inputs=inputs)


class BackwardInterceptor:
    """Reports backwards, through whatever entry: Tensor.backward() calls torch.autograd.backward() as well.

    Args:
        on_backward: called before each with its roots, and the gradient that was given for each, or None.
        on_backward_end: called after each, with whether it ended by an exception.
        on_grad: called before each torch.autograd.grad() with what it differentiates by.
    """

    def __init__(
        self,
        on_backward: Callable[[list[tuple[Tensor, Tensor | None]]], None],
        on_backward_end: Callable[[bool], None],
        on_grad: Callable[[list[Tensor]], None],
    ) -> None:
        self._on_backward, self._on_backward_end, self._on_grad = on_backward, on_backward_end, on_grad
        self._original, self._original_grad = torch.autograd.backward, torch.autograd.grad
        self._depth = 0

    def __enter__(self) -> BackwardInterceptor:
        self._original, self._original_grad = torch.autograd.backward, torch.autograd.grad
        torch.autograd.backward, torch.autograd.grad = self._reporting, self._reporting_grad
        return self

    def __exit__(self, *error: object) -> None:
        torch.autograd.backward, torch.autograd.grad = self._original, self._original_grad

    def _reporting_grad(self, outputs: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return self._original_grad(outputs, inputs, *args, **kwargs)
        inputs = _as_tuple(inputs)
        self._on_grad([value for value in inputs if isinstance(value, Tensor)])
        return self._original_grad(outputs, inputs, *args, **kwargs)

    def _reporting(self, tensors: Any, grad_tensors: Any = None, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return self._original(tensors, grad_tensors, *args, **kwargs)
        # A checkpoint of activations runs backwards within the loop's own.
        outermost, self._depth = self._depth == 0, self._depth + 1
        failed = True
        try:
            tensors, grad_tensors = _as_tuple(tensors), _as_tuple(grad_tensors)
            if outermost:
                given = grad_tensors or (None,) * len(tensors)
                pairs = zip(tensors, given, strict=False)
                self._on_backward([(root, upstream) for root, upstream in pairs if isinstance(root, Tensor)])
            output = self._original(tensors, grad_tensors, *args, **kwargs)
            failed = False
            return output
        finally:
            self._depth -= 1
            if outermost:
                self._on_backward_end(failed)


def _as_tuple(given: Any) -> Any:
    """Tensors as torch takes them, one or many; a generator is used up by looking at it."""
    if given is None:
        return None
    return (given,) if isinstance(given, Tensor | GradientEdge) else tuple(given)


class PatchedCalls:
    """Reports calls of clip_grad_norm_() and of Module.load_state_dict(), which no hook of torch reports.

    Args:
        on_clip: called before each clipping with its tensors and its limit.
        on_load: called before each loading with the module and the state.
    """

    def __init__(
        self,
        on_clip: Callable[[list[Tensor], float], None],
        on_load: Callable[[nn.Module, Mapping[str, Any]], None],
    ) -> None:
        self._on_clip, self._on_load = on_clip, on_load
        self._patches: list[Any] = []

    def __enter__(self) -> PatchedCalls:
        clip, load = nn.utils.clip_grad_norm_, nn.Module.load_state_dict

        @functools.wraps(clip)
        def clip_grad_norm_(parameters: Any, max_norm: float, *args: Any, **kwargs: Any) -> Any:
            # A generator is used up by looking at it.
            tensors = [parameters] if isinstance(parameters, Tensor) else list(parameters)
            self._on_clip(tensors, float(max_norm))
            return clip(tensors, max_norm, *args, **kwargs)

        @functools.wraps(load)
        def load_state_dict(module: nn.Module, state_dict: Any, *args: Any, **kwargs: Any) -> Any:
            self._on_load(module, state_dict)
            return load(module, state_dict, *args, **kwargs)

        self._patches = [
            mock.patch.object(nn.utils, "clip_grad_norm_", clip_grad_norm_),
            mock.patch.object(nn.utils.clip_grad, "clip_grad_norm_", clip_grad_norm_),
            mock.patch.object(nn.Module, "load_state_dict", load_state_dict),
        ]
        for patch in self._patches:
            patch.start()
        return self

    def __exit__(self, *error: object) -> None:
        for patch in reversed(self._patches):
            patch.stop()
        self._patches = []


def count_averaged(loss: Any, args: tuple[Any, ...], named: Mapping[str, Any]) -> tuple[float | None, bool]:
    """How many equal parts a loss is the mean of, None if it is one for each sample, and whether it is a sum instead.

    Args:
        loss: a function of torch.nn.functional, a Module, or anything else.
        args: that it was called with.
        named: arguments that it was called with by name.
    """
    settings: Mapping[str, Any] = named
    function = loss
    if isinstance(loss, nn.Module):
        settings = {**vars(loss), "weight": dict(loss.named_buffers()).get("weight"), **named}
        function = MODULES.get(type(loss))
    if settings.get("reduction", "mean") == "sum":
        return None, True
    given = [*args, *named.values()]
    if function in ELEMENTS and isinstance(given[0], Tensor):
        return float(given[0].numel()), False
    if function in TARGETS and len(given) > 1 and isinstance(given[1], Tensor):
        target = given[1]
        if target.is_floating_point():
            return given[0].numel() / given[0].shape[1], False
        counted = target[target != settings.get("ignore_index", -100)]
        weight = settings.get("weight")
        return float(counted.numel() if weight is None else weight[counted].sum()), False
    return None, False
