"""Losses and backwards are intercepted where torch computes them; and how many parts a loss is the mean of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

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
    """Reports the calls of some functions, and those of backward() if it is asked to.

    Args:
        functions: of torch, whose calls are reported.
        on_call: called with function, arguments and result of each.
        on_backward: called with tensor and gradient of backward(), before it; None if nobody asks.
        on_backward_end: called after backward(); None if nobody asks.
    """

    def __init__(
        self,
        functions: tuple[Callable[..., Any], ...],
        on_call: OnCall,
        on_backward: Callable[[Tensor, Tensor | None], None] | None = None,
        on_backward_end: Callable[[], None] | None = None,
    ) -> None:
        super().__init__()
        self._functions, self._on_call = set(functions), on_call
        self._on_backward, self._on_backward_end = on_backward, on_backward_end

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        # torch.compile traces through this very function, which must not do more than this then.
        if torch.compiler.is_compiling():
            return func(*args, **named)
        if func is torch.Tensor.backward and self._on_backward is not None and self._on_backward_end is not None:
            self._on_backward(args[0], args[1] if len(args) > 1 else named.get("gradient"))
            try:
                return func(*args, **named)
            finally:
                self._on_backward_end()
        output = func(*args, **named)
        if func in self._functions:
            self._on_call(func, args, named, output)
        return output


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
