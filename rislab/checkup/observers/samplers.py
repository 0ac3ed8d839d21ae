"""Samplers that draw the same order in each epoch: a DistributedSampler shuffles by its epoch, which the loop sets."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils.data.distributed import DistributedSampler

from rislab.checkup.findings import Finding, as_fault, as_warning
from rislab.checkup.recording.call_stack import caller
from rislab.checkup.recording.events import Observer
from rislab.checkup.rules import Code

# So many passes in one order are no accident, as a pass ahead of the first epoch may be.
CERTAIN = 3


@dataclass
class Passes:
    """Passes of one sampler that were trained on."""

    orders: list[tuple[int, int]] = field(default_factory=list)  # epoch and seed of each
    where: str = ""  # file and line of the loop over the first


class RepeatedOrder(Observer):
    """Listens to the iterators of shuffling DistributedSamplers, and to the forwards that follow."""

    def __init__(self) -> None:
        self._passes: dict[weakref.ref[DistributedSampler[Any]], Passes] = {}
        self._begun: tuple[DistributedSampler[Any], str] | None = None  # whose pass has not met a forward

    def on_order(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if getattr(args[0], "shuffle", False):
            self._begun = args[0], caller()[0]

    def on_forward(self, module: nn.Module, training: bool) -> None:
        """The first forward of a pass tells whether it is one of training."""
        if self._begun is None:
            return
        (sampler, where), self._begun = self._begun, None
        if training and torch.is_grad_enabled():
            passes = self._passes.setdefault(weakref.ref(sampler), Passes(where=where))
            passes.orders.append((int(sampler.epoch), int(sampler.seed)))

    def orders(self) -> list[list[list[int]]]:
        """Epoch and seed of each pass, for each sampler in the order of their first passes."""
        return [[[*order] for order in passes.orders] for passes in self._passes.values()]

    def findings(self) -> list[Finding]:
        """One for each sampler all of whose passes had one order."""
        results = []
        for passes in self._passes.values():
            if len(passes.orders) < 2 or len(set(passes.orders)) > 1:
                continue
            epoch, count = passes.orders[0][0], len(passes.orders)
            text = f"{count} passes of training, each at epoch {epoch} of the sampler: the order was always the same"
            kind = as_fault if count >= CERTAIN else as_warning
            results.append(kind(Code.LOSSES, "sampler without set_epoch", text, passes.where))
        return results
