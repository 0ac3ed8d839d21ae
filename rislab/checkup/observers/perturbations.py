"""Weights that are moved uphill between two backwards, as in sharpness-aware minimisation, and never moved back."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from rislab.checkup.findings import Finding, as_fault
from rislab.checkup.recording.call_stack import caller
from rislab.checkup.recording.events import ForwardEvent, Observer
from rislab.checkup.recording.optimizers import tensors_held
from rislab.checkup.recording.tensors import cosine, few_coordinates, is_readable
from rislab.checkup.rules import Code

# Weights that are looked at; windows in which none moves by itself, after which nobody looks any more; windows that are
# looked at, and those that are no accident.
WEIGHTS, STILL, WINDOWS, UPHILL = 8, 4, 16, 6
# What is left of a window is no rounding from this share of the weights on; its cosine with the gradient.
MOVED, ALONG = 1e-5, 0.9


class Perturbations(Observer):
    """Adds up what the steps do to some weights, and compares the rest of their movement with the first gradient."""

    def __init__(self) -> None:
        self._weights: list[Tensor] = []
        self._start: Tensor | None = None  # numbers of the weights at the first forward of the window
        self._before: Tensor | None = None  # and before the step that is under way
        self._steps: Tensor | None = None  # what the steps of the window have done
        self._gradient: Tensor | None = None  # of the first backward of the window
        self._backwards = 0
        self._inputs: list[Tensor] = []  # the first of each forward of the window
        self._begins = True  # whether the next forward is the first of a window
        self._windows = self._still = self._uphill = 0
        self._where = ""
        self._length = 0.0  # of the last movement, as a share of the weights

    def _read(self) -> Tensor:
        return torch.cat([few_coordinates(value) for value in self._weights])

    def _over(self) -> bool:
        return self._still >= STILL or self._windows >= WINDOWS

    def on_optimizer(self, optimizer: Optimizer) -> None:
        held = [value for value in tensors_held(optimizer) if is_readable(value) and value.requires_grad]
        self._weights = self._weights or held[:WEIGHTS]

    def on_forward(self, module: nn.Module, training: bool) -> bool:
        if self._begins and self._weights and training and torch.is_grad_enabled():
            now = self._read()
            # Weights may be put into other shapes, or out of memory for a while.
            sizes = {None if one is None else len(one) for one in (now, self._start, self._steps, self._gradient)}
            if self._start is not None and self._steps is not None and len(sizes) == 1:
                self._compare(now - self._start - self._steps)
            self._start, self._steps, self._gradient = now, None, None
            self._backwards, self._inputs, self._begins = 0, [], False
        return self._over()

    def on_forward_end(self, call: ForwardEvent) -> bool:
        if not self._begins and call.training and torch.is_grad_enabled() and len(self._inputs) < 2:
            self._inputs += call.inputs[:1]
        return self._over()

    def on_backward_end(self) -> bool:
        if self._start is not None and not self._begins:
            self._backwards += 1
            if self._backwards == 1:
                dense = [one.grad if one.grad is not None and is_readable(one.grad) else None for one in self._weights]
                pairs = zip(dense, self._weights, strict=True)
                grads = [torch.zeros_like(weight) if grad is None else grad for grad, weight in pairs]
                self._gradient = torch.cat([few_coordinates(value) for value in grads])
        return self._over()

    def before_step(self, optimizer: Optimizer, closure: bool) -> bool:
        # Of steps within steps, as a wrapper makes, the innermost one is the last to begin and the first to end.
        self._before = self._read() if self._start is not None else None
        return self._over()

    def after_step(self, optimizer: Optimizer) -> bool:
        if self._before is not None:
            now, before, self._before = self._read(), self._before, None
            if len(now) == len(before) == len(self._before_steps(before)):
                self._steps = self._before_steps(before) + (now - before)
            else:
                self._start = None
        self._begins = True
        return self._over()

    def _before_steps(self, like: Tensor) -> Tensor:
        """What the steps of the window have done so far."""
        return torch.zeros_like(like) if self._steps is None else self._steps

    def may_count(self) -> int:
        """While there is something to look at, each window is."""
        return 0 if self._weights and not self._over() else super().may_count()

    def _compare(self, rest: Tensor) -> None:
        """What moved the weights besides the steps of a window."""
        assert self._start is not None and self._gradient is not None
        self._windows += 1
        length = float(rest.norm()) / max(float(self._start.norm()), 1e-30)
        self._still += length <= MOVED
        same = len(self._inputs) == 2 and self._inputs[0].shape == self._inputs[1].shape
        if length > MOVED and self._backwards > 1 and same and torch.equal(*self._inputs):
            self._uphill += cosine(rest, self._gradient) > ALONG
            self._where, self._length = self._where or caller()[0], length

    def end(self, error: BaseException | None) -> None:
        self._weights, self._inputs, self._start, self._before = [], [], None, None

    def findings(self) -> list[Finding]:
        if self._uphill < UPHILL or self._uphill < ALONG * self._windows:
            return []
        text = f"in {self._uphill} of {self._windows} windows the weights were moved along the gradient of the first "
        text += f"backward, by {self._length:.2g} of themselves, met a second backward on the same input, and were not "
        return [as_fault(Code.WEIGHTS, "perturbation never undone", f"{text}moved back", self._where)]
