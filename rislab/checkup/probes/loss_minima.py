"""Where the losses of torch are smallest, given their target and options; and what their arguments must not be."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from rislab.checkup.recording.call_stack import caller
from rislab.checkup.recording.events import LossEvent

# A logit of what is sure: its exponential is below the rounding of every number format.
SURE = 40.0
# Logarithms of probabilities may exceed 0 by rounding.
ROUNDING = 1e-2


@dataclass(frozen=True, eq=False)
class LossMinimum:
    """What is known of the smallest value of a loss."""

    value: float  # smallest that there is; minus infinity if there is none
    minimiser: Tensor | None  # input that has it; None if there are many
    wrong: str = ""  # what is wrong with the arguments, so that the loss is not smallest at the truth; "" if nothing is


@dataclass(frozen=True, eq=False)
class LossCall:
    """A call of one of torch's losses."""

    function: Callable[..., Tensor]  # that was called
    arguments: Mapping[str, Any]  # by their names, defaults included
    result: Tensor  # of the call
    where: str  # file and line

    @property
    def name(self) -> str:
        """Of the function."""
        return str(self.function.__name__)

    def minimum(self) -> LossMinimum | None:
        """What is known of its smallest value; None if nothing is."""
        given = {name: value.detach() if isinstance(value, Tensor) else value for name, value in self.arguments.items()}
        variance = self.arguments.get("var")
        if isinstance(variance, Tensor) and variance.requires_grad:
            return None  # the loss falls as the variance does, down to its ε
        wrong = _wrong(self.name, given)
        if wrong:
            return LossMinimum(-math.inf, None, wrong)
        if self.function in BOUNDED:
            return LossMinimum(0.0, None)
        own, target = given["input"], given["target"]
        if self.name in DISTANCES and torch.broadcast_shapes(own.shape, target.shape) != own.shape:
            return None
        minimiser = MINIMISERS[self.function](given)
        return LossMinimum(float(self.function(**{**given, "input": minimiser}).sum()), minimiser)


class LossCalls(TorchFunctionMode):
    """Notes the calls of torch's losses: `with LossCalls() as calls: ...; calls.calls`.

    Args:
        on_loss: is told of each besides, as it is in a watched loop.
    """

    def __init__(self, on_loss: Callable[[LossEvent], object] | None = None) -> None:
        super().__init__()
        self.calls: list[LossCall] = []
        self._on_loss = on_loss

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(func is one for one in (*MINIMISERS, *BOUNDED)) and isinstance(result, Tensor):
            bound = inspect.signature(func).bind(*args, **(kwargs or {}))
            bound.apply_defaults()
            if self._on_loss is not None:
                self._on_loss(LossEvent(func, args, kwargs or {}, result))
            self.calls.append(LossCall(func, bound.arguments, result, caller()[0]))
        return result


def _at_target(given: Mapping[str, Any]) -> Tensor:
    """Of distances, and of the cross entropy of probabilities: the target."""
    target: Tensor = given["target"]
    return target.to(given["input"].dtype).expand_as(given["input"]).clone()


def _logits_of_classes(given: Mapping[str, Any]) -> Tensor:
    """Of the cross entropy: log p, where p is the share of a class in what the loss counts, weights and smoothing in.

    The loss is -Σ a_c log p_c with a_c = w_c ((1 - ε) t_c + ε/C), and least at p = a / Σ a.
    """
    logits, target = given["input"], given["target"]
    dimension = 1 if logits.dim() > 1 else 0
    classes = logits.shape[dimension]
    if target.is_floating_point():
        shares = target.to(logits.dtype)
    else:
        shares = functional.one_hot(_without_ignored(given), classes).to(logits.dtype).movedim(-1, dimension)
    smoothing = given["label_smoothing"]
    shares = (1 - smoothing) * shares + smoothing / classes
    if given["weight"] is not None:
        shape = [classes if place == dimension else 1 for place in range(logits.dim())]
        shares = shares * given["weight"].reshape(shape)
    total = shares.sum(dim=dimension, keepdim=True).clamp_min(1e-30)
    return (shares / total).clamp_min(math.exp(-SURE)).log()


def _without_ignored(given: Mapping[str, Any]) -> Tensor:
    target: Tensor = given["target"].long()
    ignored = given.get("ignore_index")
    return target if ignored is None else target.where(target != ignored, torch.zeros_like(target))


def _sure_classes(given: Mapping[str, Any]) -> Tensor:
    """Of nll_loss and multi_margin_loss: 0 at the class, and very little elsewhere."""
    scores = given["input"]
    dimension = 1 if scores.dim() > 1 else 0
    right = functional.one_hot(_without_ignored(given), scores.shape[dimension]).movedim(-1, dimension)
    return (SURE * (right - 1)).to(scores.dtype)


def _log_probabilities(given: Mapping[str, Any]) -> Tensor:
    target = given["target"].to(given["input"].dtype)
    return target if given["log_target"] else target.clamp_min(math.exp(-SURE)).log()


def _logits(given: Mapping[str, Any]) -> Tensor:
    """Of the cross entropy of logits: log of the odds, each target's times its weight."""
    target = given["target"].to(given["input"].dtype)
    weight = given.get("pos_weight")
    odds = (target if weight is None else target * weight) / (1 - target)
    return odds.log().clamp(-SURE, SURE)


def _rates(given: Mapping[str, Any]) -> Tensor:
    target = given["target"].to(given["input"].dtype)
    return target.log().clamp_min(-SURE) if given["log_input"] else (target - given["eps"]).clamp_min(0)


def _sure_signs(given: Mapping[str, Any]) -> Tensor:
    return SURE * given["target"].to(given["input"].dtype).sign()


def _margins(given: Mapping[str, Any]) -> Tensor:
    """Of distances: 0 where the target is 1, and the margin where it is -1."""
    target = given["target"].to(given["input"].dtype)
    return torch.where(target > 0, torch.zeros_like(target), torch.full_like(target, given["margin"]))


def _sure_labels(given: Mapping[str, Any]) -> Tensor:
    """Of multilabel_margin_loss: its target lists labels up to the first -1."""
    scores, target = given["input"], given["target"]
    listed = (target >= 0).long().cumprod(dim=-1).bool()
    held = functional.one_hot(target.clamp(min=0), scores.shape[-1]).mul(listed[..., None]).amax(dim=-2)
    return SURE * held.to(scores.dtype)


MINIMISERS: Mapping[Callable[..., Tensor], Callable[[Mapping[str, Any]], Tensor]] = {
    functional.mse_loss: _at_target,
    functional.l1_loss: _at_target,
    functional.smooth_l1_loss: _at_target,
    functional.huber_loss: _at_target,
    functional.binary_cross_entropy: _at_target,
    functional.gaussian_nll_loss: _at_target,
    functional.binary_cross_entropy_with_logits: _logits,
    functional.multilabel_soft_margin_loss: _logits,
    functional.cross_entropy: _logits_of_classes,
    functional.nll_loss: _sure_classes,
    functional.multi_margin_loss: _sure_classes,
    functional.multilabel_margin_loss: _sure_labels,
    functional.kl_div: _log_probabilities,
    functional.poisson_nll_loss: _rates,
    functional.soft_margin_loss: _sure_signs,
    functional.hinge_embedding_loss: _margins,
}
# Never below 0; what has that value is not one answer, but many.
BOUNDED = (
    functional.ctc_loss,
    functional.cosine_embedding_loss,
    functional.margin_ranking_loss,
    functional.triplet_margin_loss,
    functional.triplet_margin_with_distance_loss,
)
DISTANCES = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")
_LOGARITHMS = ("nll_loss", "kl_div", "ctc_loss")
_SIGNS = ("soft_margin_loss", "hinge_embedding_loss", "margin_ranking_loss", "cosine_embedding_loss")
_SHARES = ("binary_cross_entropy", "binary_cross_entropy_with_logits", "multilabel_soft_margin_loss")


def _wrong(name: str, given: Mapping[str, Any]) -> str:
    """What makes a loss smaller somewhere else than at the truth; "" if nothing does."""
    own, target = given.get("input", given.get("log_probs")), given.get("target")
    if isinstance(own, Tensor) and name in _LOGARITHMS and own.numel() and float(own.max()) > ROUNDING:
        return f"{name} takes logarithms of probabilities, which are at most 0, and got {float(own.max()):.4g}"
    if name == "nll_loss" and isinstance(own, Tensor) and own.numel():
        sums = own.double().logsumexp(dim=1 if own.dim() > 1 else 0)
        if float(sums.max()) > ROUNDING:
            return f"nll_loss takes logarithms of probabilities, and those got sum up to {float(sums.max().exp()):.4g}"
    if not isinstance(target, Tensor) or not target.numel() or target.is_complex():
        return ""
    low, high = float(target.min()), float(target.max())
    if name in _SHARES and not (low >= 0 and high <= 1):
        return f"{name} takes targets from 0 to 1, and got {low:.4g} … {high:.4g}: beyond them it has no least value"
    if name == "cross_entropy" and target.is_floating_point() and low < 0:
        return f"cross_entropy takes probabilities as targets, and got {low:.4g}"
    if name == "poisson_nll_loss" and low < 0:
        return f"poisson_nll_loss takes counts as targets, and got {low:.4g}: there it has no least value"
    if name in _SIGNS and bool((target == 0).any()):
        return f"{name} takes targets of -1 and 1, and got 0: such samples have the same loss whatever is put out"
    if isinstance(own, Tensor) and name == "hinge_embedding_loss" and float(own.min()) < -ROUNDING:
        return f"hinge_embedding_loss takes distances, and got {float(own.min()):.4g}: below 0 it has no least value"
    if isinstance(own, Tensor) and name in DISTANCES and given["reduction"] != "none":
        together = torch.broadcast_shapes(own.shape, target.shape).numel()
        if own.numel() == target.numel() < together:
            return f"{name} got {[*own.shape]} and {[*target.shape]}, and compares each with all"
    return ""
