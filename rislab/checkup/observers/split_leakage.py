"""Batches of an evaluation that hold samples of the training beside others: the split was not clean.

A batch that holds training samples alone is meant: the score of the training. So is an evaluation of all data.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rislab.checkup.findings import Finding, as_warning
from rislab.checkup.recording.call_stack import caller
from rislab.checkup.recording.events import MANY, ForwardEvent, Observer
from rislab.checkup.rules import Code

# The fewest numbers of a sample, and of samples in a batch, that tell one from another; numbers of each that are read.
NUMBERS, BATCH, READ = 4, 8, 64
# So many samples of a network are followed in training, and in evaluation; and so many networks.
SAMPLES, NETWORKS = 12_000, 8
# Each sample must have come so often, none much more often; the share of a batch, or of all, that is no accident.
PASSES, MORE, SHARE, ALL = 2, 2, 0.05, 0.9


@dataclass(eq=False)
class _Samples:
    """Samples of one network, by a number that is drawn from each."""

    # How often each was trained on, since the first evaluation.
    trained: Counter[float] = field(default_factory=Counter)
    evaluated: list[frozenset[float]] = field(default_factory=list)  # those of each batch of an evaluation
    where: str = ""  # file and line of the last
    # Samples that are still to be followed, in training and in evaluation.
    left: list[int] = field(default_factory=lambda: [SAMPLES, SAMPLES])

    def evidence(self) -> str:
        """How many samples of an evaluation are those of the training, "" if it is meant, or cannot be told."""
        trained, evaluated = set(self.trained), frozenset[float]().union(*self.evaluated)
        both = trained & evaluated
        if not both or min(self.trained.values()) < PASSES:
            return ""
        even = max(self.trained.values()) <= min(self.trained.values()) + MORE
        mixed = any(SHARE <= len(batch & trained) / len(batch) <= 1 - SHARE for batch in self.evaluated)
        share = len(both) / len(evaluated)
        if not even or not mixed or len(both) >= ALL * len(trained) or not SHARE <= share <= 1 - SHARE:
            return ""
        return f"{len(both)} of {len(evaluated)} samples of the evaluation are among the {len(trained)} of the training"


class SplitLeakage(Observer):
    """Compares the samples of training with those of evaluation, from the first evaluation on."""

    def __init__(self) -> None:
        self._networks: dict[int, _Samples] = {}

    def on_forward_end(self, call: ForwardEvent) -> None:
        gradients, key = torch.is_grad_enabled(), call.network
        network = self._networks.get(key)
        if network is None:
            if gradients or call.training or len(self._networks) >= NETWORKS:
                return
            network = self._networks[key] = _Samples()
        place = 0 if gradients else 1
        if (gradients and not call.training) or network.left[place] <= 0 or not call.inputs:
            return
        samples = _numbers_of(call.inputs[0])
        network.left[place] -= len(samples)
        if gradients:
            network.trained.update(samples)
        elif len(samples) >= BATCH and len(network.evaluated) < SAMPLES // BATCH:
            network.evaluated.append(frozenset(samples))
            network.where = network.where or caller()[0]

    def may_count(self) -> int:
        """Samples are compared until there are too many."""
        return 0 if any(network.left[0] > 0 for network in self._networks.values()) else MANY

    def findings(self) -> list[Finding]:
        texts = [(network.evidence(), network.where) for network in self._networks.values()]
        return [as_warning(Code.DUPLICATES, "split leakage", text, where) for text, where in texts if text]


def _numbers_of(inputs: Tensor) -> list[float]:
    """A number for each sample, the same for the same sample; none where samples are too small to be told apart."""
    if not inputs.is_floating_point() or inputs.dim() < 2 or len(inputs) < 1:
        return []
    rows = inputs.detach().flatten(1)
    if rows.shape[1] < NUMBERS or inputs.layout is not torch.strided:
        return []
    some = rows[:, :: max(1, rows.shape[1] // READ)].double()
    places = torch.arange(1, some.shape[1] + 1, dtype=torch.float64, device=some.device)
    # Rounded: batches of other sizes are added up in another order.
    numbers = [float(f"{number:.11g}") for number in (some @ places.sqrt()).tolist()]
    # What comes twice in one batch, as padding, tells nothing.
    counts = Counter(numbers)
    return [number for number in numbers if counts[number] == 1 and number]
