"""Weights of classes that grow with how often a class occurs: meant to help rare classes, they do the opposite."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from rislab.checkup.findings import Finding, as_fault, as_warning
from rislab.checkup.observers.loss_arguments import loss_arguments, setting
from rislab.checkup.recording.call_stack import caller
from rislab.checkup.recording.events import LossEvent, Observer
from rislab.checkup.recording.looks import Looks
from rislab.checkup.rules import Code

# Losses with a weight for each class, and the place of the weights among their arguments.
WEIGHED = {functional.cross_entropy: 2, functional.nll_loss: 2, functional.binary_cross_entropy_with_logits: 6}
# Calls, and targets of each class, that tell anything; how much more often one class must occur than another.
CALLS, TARGETS, SPREAD = 3, 20, 2.0
# Proportional to the counts: the largest deviation of the logarithm.
PROPORTIONAL = 0.3
# Standard errors of a count by which it may differ from a weight that was computed from all counts, at most so much;
# and rounding.
ERRORS, MOST, ROUNDING = 2.5, 0.08, 0.02
# Numbers that somebody has chosen are multiples of the first, or from the third on of the second.
CHOSEN, TENS, MANY = 0.05, 10.0, 20.0


@dataclass
class _Counts:
    """Targets of the classes in the calls of one line; of a loss of logits, those of 1 and those of 0."""

    where: str  # file and line
    weights: Tensor  # of the classes, in the same order
    counts: Tensor  # so far
    calls: int = 0  # that were looked at

    def evidence(self) -> str:
        """The weights and the counts, "" unless one is proportional to the other."""
        occur = self.counts > 0
        counts, weights = self.counts[occur], self.weights[occur]
        if self.calls < CALLS or len(counts) < 2 or counts.min() < TARGETS or not bool((weights > 0).all()):
            return ""
        ratios = (weights / counts).log()
        if counts.max() < SPREAD * counts.min() or float((ratios - ratios.mean()).abs().max()) > PROPORTIONAL:
            return ""
        rare, often = int(counts.argmin()), int(counts.argmax())
        text = f"a class of {int(counts[rare])} targets has the weight {float(weights[rare]):.3g}, one of "
        return text + f"{int(counts[often])} has {float(weights[often]):.3g}: weights are proportional to the counts"

    def certain(self) -> bool:
        """Whether weights that grow with the counts were computed from them: they are no round numbers, and fit."""
        occur = self.counts > 0
        counts, weights = self.counts[occur], self.weights[occur]
        ratios = (weights / counts).log()
        chance = (ERRORS * (1 / counts + 1 / counts.max()).sqrt()).clamp(max=MOST)
        fits = (ratios - ratios.median()).abs() <= ROUNDING + chance
        # Costs are chosen; that of a common class may be larger than that of a rare one.
        return bool(fits.all()) and not any(map(_are_chosen, (weights, weights / weights.sum())))


class ClassWeights(Observer):
    """Counts the targets of weighed losses: at the first calls of each, then ever more rarely."""

    def __init__(self) -> None:
        self._looks = Looks()
        self._counts: dict[tuple[str, ...], _Counts] = {}

    def on_loss(self, call: LossEvent) -> None:
        place = WEIGHED.get(call.function)
        if place is None:
            return
        binary = call.function is functional.binary_cross_entropy_with_logits
        weights = setting(call, "pos_weight" if binary else "weight", place, None)
        given = loss_arguments(call)
        trained = isinstance(call.output, Tensor) and call.output.requires_grad
        if not isinstance(weights, Tensor) or given is None or not trained or not self._looks.wanted(call.function):
            return
        target = given[1].detach()
        if target.is_floating_point() is not binary or (binary and weights.numel() != 1):
            return
        where, stack = caller()
        weights = weights.detach().reshape(-1).double().cpu()
        if binary:
            ones = float(target.double().sum())
            weights, counts = torch.cat([weights, torch.ones(1).double()]), [ones, target.numel() - ones]
        else:
            counts = target[target >= 0].bincount(minlength=len(weights))[: len(weights)].tolist()
        known = self._counts.setdefault(stack, _Counts(where, weights, torch.zeros(len(weights)).double()))
        if len(known.counts) == len(counts) and all(map(math.isfinite, counts)):
            known.counts += torch.tensor(counts).double()
            known.calls += 1

    def findings(self) -> list[Finding]:
        results = []
        for one in self._counts.values():
            text = one.evidence()
            certain = bool(text) and one.certain()
            text += ", to the last digit that these tell, and are no round numbers" * certain
            if text:
                kind = as_fault if certain else as_warning
                results.append(kind(Code.ARGUMENTS, "weights grow with the counts", text, one.where))
        return results


def _are_chosen(weights: Tensor) -> bool:
    """Whether all weights are round numbers."""
    unit = TENS if float(weights.max()) >= MANY else CHOSEN
    return bool(((weights / unit - (weights / unit).round()).abs() < 1e-5).all())
