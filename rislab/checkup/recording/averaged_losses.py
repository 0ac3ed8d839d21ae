"""How many parts a loss is the mean of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from rislab.checkup.recording.interception import ELEMENTS, TARGETS

# A few numbers are read in less time than an operation takes.
_FEW = 32
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


def reduction_of(named: Mapping[str, Any], usual: Any = "mean") -> Any:
    """How a loss of torch makes one number of many: "mean", "sum" or "none".

    Args:
        named: its arguments by name, those of old programs among them.
        usual: what it does if it is not told.
    """
    average, reduced = named.get("size_average"), named.get("reduce")
    if average is None and reduced is None:
        return named.get("reduction", usual)
    if reduced is not None and not reduced:
        return "none"
    return "mean" if average is None or average else "sum"


def count_averaged(loss: Any, args: tuple[Any, ...], named: Mapping[str, Any]) -> tuple[float | None, bool]:
    """How many equal parts a loss is the mean of, None if one for each sample, 1 for a sum; and whether it is a sum.

    It is a function of torch.nn.functional, a Module, or anything else.
    """
    # Attributes of a module stand for what is not given by name.
    function, module = (MODULES.get(type(loss)), loss) if isinstance(loss, nn.Module) else (loss, None)
    usual = getattr(module, "reduction", None)
    if (reduction_of(named, usual) if named else usual) == "sum":
        return 1.0, True
    given = [*args, *named.values()] if named else args
    if function in ELEMENTS and isinstance(given[0], Tensor):
        return float(given[0].numel()), False
    if function in TARGETS and len(given) > 1 and isinstance(given[1], Tensor):
        target = given[1]
        if target.is_floating_point():
            return given[0].numel() / given[0].shape[1], False
        ignored = named.get("ignore_index", getattr(module, "ignore_index", -100))
        weight, size = named.get("weight", getattr(module, "weight", None)), target.numel()
        if weight is None and ignored < 0 and size:
            few = size <= _FEW and target.dim() == 1
            if (min(target.tolist()) if few else target.min().item()) >= 0:
                return float(size), False
        counted = target != ignored
        return float(counted.sum() if weight is None else weight[target[counted]].sum()), False
    return None, False
