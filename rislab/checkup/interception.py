"""Hearing of losses and backwards as torch computes them, and what a loss is the mean of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

Tell = Callable[[Callable[..., Any], tuple[Any, ...], Mapping[str, Any], Any], None]

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
    """Hears of the calls of some functions, and of backward() where someone asks for it.

    Args:
        wanted: functions of torch. tell: called with function, arguments and result of each.
        begins, ends: called with the tensor and gradient of backward(), before and after it; None where nobody asks.
    """

    def __init__(
        self,
        wanted: tuple[Callable[..., Any], ...],
        tell: Tell,
        begins: Callable[[Tensor, Tensor | None], None] | None = None,
        ends: Callable[[], None] | None = None,
    ) -> None:
        super().__init__()
        self._wanted, self._tell, self._begins, self._ends = set(wanted), tell, begins, ends

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        # What is compiled is traced through this very function, which must not ask for more than it says here.
        if torch.compiler.is_compiling():
            return func(*args, **named)
        if func is torch.Tensor.backward and self._begins is not None and self._ends is not None:
            self._begins(args[0], args[1] if len(args) > 1 else named.get("gradient"))
            try:
                return func(*args, **named)
            finally:
                self._ends()
        output = func(*args, **named)
        if func in self._wanted:
            self._tell(func, args, named, output)
        return output


def parts(loss: Any, args: tuple[Any, ...], named: Mapping[str, Any]) -> tuple[float | None, bool]:
    """How many equal parts a loss is the mean of, None if it is one for each sample, and whether it is a sum instead.

    Args:
        loss: a function of torch.nn.functional, a Module, or anything else. args, named: what it was called with.
    """
    own: Mapping[str, Any] = named
    function = loss
    if isinstance(loss, nn.Module):
        own = {**vars(loss), "weight": dict(loss.named_buffers()).get("weight"), **named}
        function = MODULES.get(type(loss))
    reduction = own.get("reduction", "mean")
    given = [*args, *named.values()]
    if reduction == "sum":
        return None, True
    if function in ELEMENTS and isinstance(given[0], Tensor):
        return float(given[0].numel()), False
    if function in TARGETS and len(given) > 1 and isinstance(given[1], Tensor):
        target = given[1]
        if target.is_floating_point():
            return given[0].numel() / given[0].shape[1], False
        counted = target[target != own.get("ignore_index", -100)]
        weight = own.get("weight")
        return float(counted.numel() if weight is None else weight[counted].sum()), False
    return None, False
