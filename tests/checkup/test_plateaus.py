"""A schedule that waits for larger losses, or for smaller accuracies, is named; a loss that rises is not."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, ReduceLROnPlateau, StepLR

from rislab.checkup.process_watch import ProcessWatch

FALLING, ACCURACY = [1 / (2.3 + k) for k in range(9)], [(30 + k) / 64 for k in range(9)]


@pytest.mark.parametrize(
    ("mode", "metrics", "named"),
    [
        ("max", FALLING, True),
        ("min", FALLING, False),
        ("min", ACCURACY, True),
        ("min", [*ACCURACY, *ACCURACY[-1:] * 9], True),  # the rate is too low to go on
        ("max", ACCURACY, False),
        ("min", FALLING[::-1], False),
        ("max", ACCURACY[::-1], False),
    ],
)
def test_a_plateau_is_looked_for_where_the_metric_goes(mode: str, metrics: list[float], named: bool) -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = ReduceLROnPlateau(optimizer, mode=mode, patience=1)  # type: ignore[arg-type]
    with ProcessWatch() as process:
        for metric in metrics:
            optimizer.zero_grad()
            model(torch.randn(4, 3)).square().mean().backward()
            optimizer.step()
            with torch.no_grad():
                model(torch.randn(64, 3))
            scheduler.step(metric)
    assert any(one.name == "plateau looked for the other way" for one in process.findings()) is named


@pytest.mark.parametrize("metric", [float("nan"), float("inf"), torch.tensor(float("nan"))])
def test_a_metric_that_is_no_number_ends_no_training(metric: float) -> None:
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = ReduceLROnPlateau(optimizer, patience=1)
    with ProcessWatch() as process:
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.randn(4, 3)).square().mean().backward()
            optimizer.step()
            with torch.no_grad():
                model(torch.randn(64, 3))
            scheduler.step(metric)
    assert process.steps == 2


@pytest.mark.filterwarnings("ignore:The epoch parameter")
@pytest.mark.parametrize("kind", ["loss", "noisy loss", "parts of epochs", "parts of cycles", "nothing"])
def test_a_loss_is_no_epoch(kind: str) -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    kinds = {
        "loss": FALLING,
        "noisy loss": [0.124, 0.203, 0.149, 0.217, 0.135, 0.223, 0.174, 0.101, 0.122],
        "parts of epochs": [tick / 4 for tick in range(12)],
        "parts of cycles": [(0.5 + tick) / 4 % 1 for tick in range(12)],
    }
    parts = kind.startswith("parts")
    scheduler = CosineAnnealingWarmRestarts(optimizer, 2) if parts else StepLR(optimizer, 2)
    with ProcessWatch() as process:
        for epoch in kinds.get(kind, [None] * 9):
            optimizer.zero_grad()
            model(torch.randn(4, 3)).square().mean().backward()
            optimizer.step()
            scheduler.step(epoch)
    names = [one.name for one in process.findings() if one.severity != "note"]
    assert names == ["loss given as the epoch"] * kind.endswith("loss")
