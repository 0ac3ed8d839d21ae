"""Loops on accelerate, of which nothing is declared: K is read from the Accelerator that prepared the optimiser."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from rislab.checkup.findings import Findings
from rislab.checkup.process_watch import ProcessWatch
from rislab.checkup.recording.windows import Declared


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    yield
    GradientState._reset_state()
    AcceleratorState._reset_state(reset_partial_state=True)


class Loop:
    """Correct, as the documentation of accelerate has it; a subclass changes one thing.

    Args:
        samples: in an epoch, of batches of 16.
        size: K of the Accelerator.
    """

    def __init__(self, samples: int = 256, size: int = 4) -> None:
        torch.manual_seed(0)
        self.accelerator = Accelerator(cpu=True, gradient_accumulation_steps=size)
        inputs = torch.randn(samples, 10)
        data = torch.utils.data.TensorDataset(inputs, inputs[:, :1].sin())
        model = nn.Sequential(nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, 1))
        self.model, self.optimizer, self.loader = self.accelerator.prepare(
            model, torch.optim.SGD(model.parameters(), lr=0.05), torch.utils.data.DataLoader(data, 16, shuffle=True)
        )

    def run(self) -> None:
        """Two epochs."""
        for _ in range(2):
            for place, batch in enumerate(self.loader):
                self.step(place, *batch)

    def step(self, place: int, inputs: Tensor, wanted: Tensor) -> None:
        with self.accelerator.accumulate(self.model):
            self.backward(mse_loss(self.model(inputs), wanted))
            self.clip()
            self.optimizer.step()
            self.zero()

    def backward(self, loss: Tensor) -> None:
        self.accelerator.backward(loss)

    def clip(self) -> None:
        if self.accelerator.sync_gradients:
            self.accelerator.clip_grad_norm_(self.model.parameters(), 0.05)

    def zero(self) -> None:
        self.optimizer.zero_grad()


class NoAccumulate(Loop):
    def step(self, place: int, inputs: Tensor, wanted: Tensor) -> None:
        self.backward(mse_loss(self.model(inputs), wanted))
        self.optimizer.step()
        self.zero()


class DividedTwice(Loop):
    def backward(self, loss: Tensor) -> None:
        self.accelerator.backward(loss / 4)


class NeverDivided(Loop):
    """Goes past the Accelerator."""

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def clip(self) -> None:
        pass


class NeverZeroed(Loop):
    def zero(self) -> None:
        pass

    def clip(self) -> None:
        pass


class ClippedPerMicroBatch(Loop):
    """The function of torch, which knows nothing of windows."""

    def clip(self) -> None:
        nn.utils.clip_grad_norm_(self.model.parameters(), 0.05)


class ByHand(Loop):
    """Windows of its own."""

    def step(self, place: int, inputs: Tensor, wanted: Tensor) -> None:
        self.backward(mse_loss(self.model(inputs), wanted))
        if place % 4 == 3:
            self.optimizer.step()
            self.zero()


class ByItems(Loop):
    """Sums over the items of a window, times the K by which backward divides: each item counts the same."""

    def run(self) -> None:
        batches = list(self.loader)
        for first in range(0, len(batches), 4):
            window = batches[first : first + 4]
            items = sum(wanted.numel() for _, wanted in window)
            for inputs, wanted in window:
                self.backward(4 * mse_loss(self.model(inputs), wanted, reduction="sum") / items)
            self.optimizer.step()
            self.zero()


class GrowingWindows(Loop):
    """K is set anew for the second epoch."""

    def run(self) -> None:
        super().run()
        self.accelerator.gradient_accumulation_steps = 2
        super().run()


def findings_of(kind: Any, declared: Declared | None = None, **given: Any) -> Findings:
    with ProcessWatch(declared=declared) as watch:
        kind(**given).run()
    return watch.findings()


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (NoAccumulate, "step per micro-batch"),
        (DividedTwice, "divided twice"),
        (NeverDivided, "never divided"),
        (NeverZeroed, "never zeroed"),
        (ClippedPerMicroBatch, "clipped per micro-batch"),
    ],
)
def test_a_fault_is_named(kind: Any, name: str) -> None:
    faults = findings_of(kind).faults
    assert name in [finding.name for finding in faults]
    assert "K = 4 (declared)" in str(faults)


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (Loop, {}),
        (Loop, {"size": 1}),
        (Loop, {"samples": 232}),
        (ByHand, {}),
        (ByItems, {"samples": 232}),
        (GrowingWindows, {}),
    ],
)
def test_a_correct_loop_is_not_accused(kind: Any, given: dict[str, Any]) -> None:
    """accelerate divides by K in every window, the last of an epoch included: that is no fault of the loop's."""
    findings = findings_of(kind, **given)
    ragged = (
        {"ragged window divided by K", "mean of means in the window"} if kind is Loop and "samples" in given else set()
    )
    assert {finding.name for finding in findings if finding.severity != "note"} == ragged
    assert findings.faults == []


def test_what_is_declared_comes_before_what_is_read() -> None:
    (warning,) = findings_of(Loop, Declared(8, mean="")).of("warning")
    assert warning.name == "window size" and "K = 8 (declared)" in warning.evidence
