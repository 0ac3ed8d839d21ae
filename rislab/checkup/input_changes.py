"""Inputs that come again from the same memory with other numbers: data that are changed in place each time."""

from __future__ import annotations

import torch
from torch import Tensor

from rislab.checkup.events import ForwardEvent, Observer
from rislab.checkup.findings import Finding, as_warning
from rislab.checkup.rules import Code

# Numbers that are read of an input; inputs that are remembered; changes that make it certain.
NUMBERS, PLACES, CHANGES = 32, 64, 3
# Residual of the straight line from the old numbers to the new ones, as a share of the new ones.
STRAIGHT = 1e-3


class InputChanges(Observer):
    """Compares inputs with what the same memory held when it came before.

    Numbers that lie on one straight line over the old ones, and not on the identity, were scaled or shifted.
    """

    def __init__(self) -> None:
        self._numbers: dict[tuple[int, ...], Tensor] = {}
        self._changes: list[tuple[float, float]] = []

    def on_forward_end(self, call: ForwardEvent) -> None:
        """Look at the first input of a network in training mode."""
        if not call.training or len(self._changes) >= CHANGES:
            return
        first = next(call.inputs(), None)
        if first is None or not first.is_floating_point() or first.numel() < NUMBERS or first.requires_grad:
            return
        place = (first.data_ptr(), *first.shape)
        before = self._numbers.get(place)
        if before is None and len(self._numbers) >= PLACES:
            return
        flat = first.detach().reshape(-1)
        now = flat[:: len(flat) // NUMBERS][:NUMBERS].double().cpu()
        self._numbers[place] = now
        if before is not None and not torch.equal(before, now):
            self._compare(before, now)

    def _compare(self, before: Tensor, now: Tensor) -> None:
        old, new = before - before.mean(), now - now.mean()
        square = float(old @ old)
        if square == 0:
            return
        scale = float(old @ new) / square
        shift = float(now.mean()) - scale * float(before.mean())
        if scale != 0 and float((new - scale * old).norm()) <= STRAIGHT * float(new.norm()):
            self._changes.append((scale, shift))

    def findings(self) -> list[Finding]:
        """One if inputs were scaled or shifted again and again."""
        if len(self._changes) < CHANGES:
            return []
        scale, shift = self._changes[-1]
        text = (
            f"{CHANGES} inputs came again from the same memory, each time with the numbers before "
            f"times {scale:.4g} plus {shift:.4g}"
        )
        return [as_warning(Code.DRIFT, "inputs changed in place", text)]
