"""Answers that are logits in training, and probabilities in the evaluation, where one loss takes both for logits."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from rislab.checkup.findings import Finding, as_fault
from rislab.checkup.observers.all_pairs import EvaluatedPairs
from rislab.checkup.observers.loss_arguments import loss_arguments
from rislab.checkup.recording.call_stack import caller
from rislab.checkup.recording.events import LossEvent
from rislab.checkup.recording.looks import Looks
from rislab.checkup.rules import Code

# Evaluations, and numbers, that are no accident; the share of the logits of training that are no probabilities; the
# least spread of answers that come from several samples.
CALLS, NUMBERS, SHARE, SPREAD = 3, 256, 0.25, 0.05


class EvaluatedLogits(EvaluatedPairs):
    """Also compares the range of what binary_cross_entropy_with_logits() is given in training and in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self._looks = Looks()
        self._network = self._trained = 0  # called last, and in training, by identity
        self._outside = 0.0  # the share of the last logits of training that are no probabilities
        self._calls = self._numbers = 0
        self._refuted = False
        self._spread = 0.0
        self._where = ""

    def on_forward(self, module: nn.Module, training: bool) -> None:
        self._network = id(module)

    def on_loss(self, call: LossEvent) -> bool:
        given = loss_arguments(call) if call.function is functional.binary_cross_entropy_with_logits else None
        if given is None or not isinstance(given[0], Tensor) or given[0].numel() < 2:
            return self._refuted
        logits = given[0].detach()
        if torch.is_grad_enabled():
            if self._looks.wanted(call.function):
                self._trained, self._outside = self._network, 1 - float(_inside(logits).double().mean())
        elif self._network == self._trained:
            self._refuted |= not bool(_inside(logits).all())
            self._calls, self._numbers = self._calls + 1, self._numbers + logits.numel()
            self._spread = float(logits.double().std())
            self._where = self._where or caller()[0]
        return self._refuted

    def findings(self) -> list[Finding]:
        enough = self._calls >= CALLS and self._numbers >= NUMBERS and self._spread >= SPREAD
        if self._refuted or not enough or self._outside < SHARE:
            return super().findings()
        text = f"all {self._numbers} numbers that binary_cross_entropy_with_logits() was given in {self._calls} "
        text += f"evaluations lie between 0 and 1, and {self._outside:.0%} of those of the training do not"
        return [*super().findings(), as_fault(Code.ARGUMENTS, "probabilities where logits belong", text, self._where)]


def _inside(logits: Tensor) -> Tensor:
    """Which of them may be probabilities."""
    return (logits > 0) & (logits < 1)
