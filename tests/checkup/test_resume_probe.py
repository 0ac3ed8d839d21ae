"""A resumed run: which of model, optimizer, scheduler and scaler loses its state is told by its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LambdaLR,
    LinearLR,
    LRScheduler,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
)  # fmt: skip

import rislab
from rislab.checkup.findings import Findings


def resumed(model: nn.Module, optimizer: torch.optim.Optimizer, scheduler: Any = None, scaler: Any = None) -> Findings:
    x = torch.randn(32, 4, generator=torch.Generator().manual_seed(1))
    data = list(zip(x.split(8), x[:, :2].split(8), strict=True))
    return rislab.probe(
        model, nn.functional.mse_loss, data, optimizer=optimizer, scheduler=scheduler, scaler=scaler, only=["P7"]
    )


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Linear(8, 2))


class Forgetful(LRScheduler):
    """A schedule by its own counter, which it does not save."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.own = 0
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:
        self.own += 1
        return [rate / self.own for rate in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        return {}


class Momentum(torch.optim.SGD):
    """Saves no momentum."""

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "state": {}}


class Growing(torch.amp.GradScaler):
    """Divides by a number that it counts, and does not save."""

    def __init__(self) -> None:
        super().__init__("cpu", init_scale=2.0)
        self.own = 1.0

    def scale(self, outputs: Any) -> Any:
        self.own *= 1.5
        return super().scale(outputs * self.own)


class Plain:
    """A schedule without a state_dict."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    def step(self) -> None:
        self.optimizer.param_groups[0]["lr"] *= 0.5


SCHEDULERS: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "cosine": lambda optimizer: CosineAnnealingLR(optimizer, 6),
    "function": lambda optimizer: LambdaLR(optimizer, lambda tick: 1 / (1 + tick)),
    "cycle": lambda optimizer: OneCycleLR(optimizer, 0.1, total_steps=10),
    "plateau": lambda optimizer: ReduceLROnPlateau(optimizer, patience=0),
    "sequence": lambda optimizer: SequentialLR(
        optimizer, [LinearLR(optimizer, 0.1, 1.0, 2), CosineAnnealingLR(optimizer, 6)], [2]
    ),
}


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_schedules_and_scalers_of_torch_come_back(name: str, kind: Callable[..., torch.optim.Optimizer]) -> None:
    model = network()
    optimizer = kind(model.parameters(), lr=0.01)
    scheduler = SCHEDULERS[name](optimizer)
    before = str(scheduler.state_dict()), str(optimizer.state_dict())
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=1)
    assert resumed(model, optimizer, scheduler, scaler) == []
    assert (str(scheduler.state_dict()), str(optimizer.state_dict())) == before
    assert scaler.get_scale() == 4.0


def test_a_part_that_loses_its_state_is_named() -> None:
    model = network()
    momentum = Momentum(model.parameters(), lr=0.1, momentum=0.9)
    assert "state is lost of: optimizer" in resumed(model, momentum).faults[0].evidence
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    assert "state is lost of: scheduler" in resumed(model, sgd, Forgetful(sgd)).faults[0].evidence
    assert "state is lost of: scaler" in resumed(model, sgd, None, Growing()).faults[0].evidence
    assert "scheduler has no state_dict" in resumed(model, sgd, Plain(sgd)).faults[0].evidence
    both = resumed(model, momentum, Forgetful(momentum)).faults
    assert [finding.name for finding in both] == ["state outside of state_dict"]
    assert "state is lost of: optimizer, scheduler" in both[0].evidence


def test_a_network_that_loses_its_state_is_named() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.calls = network(), 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return self.inner(x) / self.calls  # type: ignore[no-any-return]

    model = Counting()
    findings = resumed(model, torch.optim.Adam(model.parameters(), lr=0.01))
    assert "state is lost of: model" in findings.faults[0].evidence and model.calls == 0
