"""Targets that are classes, and tell nothing: always one class, always one logit, or the blank of ctc_loss()."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node
from torch.nn import functional
from torch.optim.optimizer import Optimizer

from rislab.checkup.findings import Finding, as_fault
from rislab.checkup.recording.call_stack import caller
from rislab.checkup.recording.events import MANY, LossEvent, Observer
from rislab.checkup.recording.loss_graph import sources_of
from rislab.checkup.recording.optimizers import tensors_held
from rislab.checkup.rules import Code

# Calls, and targets, that are no accident; targets of one call.
CALLS, TARGETS, ROWS = 3, 64, 6
# The spread of other logits, as a share of that of the target; roundings by which equal logits differ.
SPREAD, ROUNDINGS = 1e-3, 64
# Layers that end a classifier, if a weight is among what they are given. Other logits may be similarities, the first of
# which is the right one by design.
_LAYERS = ("AddmmBackward", "MmBackward", "ConvolutionBackward")


def constant_logit(logits: Tensor, target: Tensor, name: str) -> str:
    """What a logit is that all targets have, whatever the sample, beside others that vary; "" if they differ."""
    logits, target = logits.detach(), target.detach()
    if logits.dim() != 2 or target.dim() != 1 or len(target) < ROWS or target.is_floating_point():
        return ""
    if logits.shape[1] < 2 or int(target.min()) < 0:
        return ""
    places = target[:, None].long()
    own = logits.gather(1, places)
    value = float(own[0])
    if not value or bool(((own - value).abs() > ROUNDINGS * torch.finfo(logits.dtype).eps * abs(value)).any()):
        return ""
    others = logits.masked_select(torch.ones_like(logits, dtype=torch.bool).scatter(1, places, False))
    if float(others[others.isfinite()].std()) < SPREAD * abs(value):
        return ""
    return f"{name}() was given {value:.6g} as the logit of the target in all {len(target)} rows: it pulls no answer"


def blanks(targets: Tensor, lengths: Any, blank: int, name: str) -> str:
    """How many targets of ctc_loss(), within their lengths, are its blank; "" if none is."""
    if targets.dim() == 2:
        lengths = torch.as_tensor(lengths, device=targets.device)
        targets = targets[torch.arange(targets.shape[1], device=targets.device) < lengths[:, None]]
    count = int((targets == blank).sum())
    text = f"{name}() takes no blank as a target, and {count} of {targets.numel()} targets are {blank}, the blank"
    return text if count else ""


class OneClass(Observer):
    """Asks each target of cross_entropy() whether it is the class of all before, until one is another."""

    def __init__(self) -> None:
        self._class: int | None = None
        self._calls = self._targets = 0
        self._varies = False  # or what is compared is no classifier
        self._weight: Tensor | None = None  # of its last layer, which rests where inputs are moved towards one class
        self._trained = False
        self._text = self._where = ""

    def on_loss(self, call: LossEvent) -> bool | None:
        """Another target, of which no more is asked once it was another class."""
        if call.function is not functional.cross_entropy or not torch.is_grad_enabled():
            return None
        given = [*call.args[:2], *(call.kwargs[name] for name in ("input", "target") if name in call.kwargs)]
        logits, target = given if len(given) == 2 else (None, None)
        if not isinstance(logits, Tensor) or not isinstance(target, Tensor):
            return None
        self._weight = _weight_of(logits.grad_fn)
        classifier = self._weight is not None and not target.is_floating_point()
        low, high = (int(one) for one in target.aminmax()) if classifier and target.numel() else (0, 1)
        self._varies = low != high or low < 0 or logits.shape[1] < 2 or self._class not in (None, low)
        if self._varies:
            self._weight = None
            return True
        self._class, self._calls, self._targets = low, self._calls + 1, self._targets + target.numel()
        self._where = self._where or caller()[0]
        self._text = f"all {self._targets} targets of {self._calls} calls of cross_entropy() are class {low}, of "
        self._text += f"{logits.shape[1]} classes"
        return None

    def after_step(self, optimizer: Optimizer) -> None:
        if self._weight is not None and not self._trained:
            self._trained = any(one is self._weight for one in tensors_held(optimizer))

    def may_count(self) -> int:
        """While all targets are one class, each is looked at."""
        return MANY if self._varies or self._class is None else 0

    def findings(self) -> list[Finding]:
        if self._varies or not self._trained or self._calls < CALLS or self._targets < TARGETS:
            return []
        return [as_fault(Code.ARGUMENTS, "targets of one class", self._text, self._where)]


def _weight_of(node: Node | None) -> Tensor | None:
    """The weight of the layer that a node is of, None if it is no layer."""
    if node is None or not node.name().startswith(_LAYERS):
        return None
    source = node.next_functions[1 if node.name().startswith("Conv") else -1][0]
    if source is not None and source.name().startswith("TBack"):
        source = next(iter(sources_of(source)), None)
    return getattr(source, "variable", None)
