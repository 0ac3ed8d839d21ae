"""Schedules that tick at the head of each epoch, and those that are led to where they begin."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import ExponentialLR, LambdaLR, LRScheduler, StepLR

from rislab.checkup.process_watch import ProcessWatch


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("kind", "severity"),
    [
        ("at the head", "fault"),
        ("a tick that changes nothing", "warning"),
        ("its own function", "warning"),
        ("at the end", ""),
        ("led to where it goes on", ""),
        ("led within the loop", ""),
        ("given the epoch", ""),
        ("from a rate of 0", ""),
        ("set back by one", ""),
    ],
)
def test_a_tick_before_anything_is_trained(kind: str, severity: str) -> None:
    torch.manual_seed(0)
    with ProcessWatch() as process:
        # A script makes them while it is watched.
        model = nn.Linear(3, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scheduler: LRScheduler = ExponentialLR(optimizer, 0.5)
        if kind == "a tick that changes nothing":
            scheduler = StepLR(optimizer, 30)
        elif kind == "its own function":
            scheduler = LambdaLR(optimizer, lambda tick: 0.5 ** (tick - 1))
        elif kind == "from a rate of 0":
            scheduler = LambdaLR(optimizer, lambda tick: min(1.0, tick / 3))
        elif kind == "set back by one":
            scheduler.last_epoch = -1
        elif kind == "led to where it goes on":
            scheduler.step()
        for epoch in range(5):
            if kind == "given the epoch":
                scheduler.step(epoch)
            elif kind not in ("at the end", "led to where it goes on"):
                scheduler.step()
            if kind == "led within the loop" and epoch < 2:
                continue
            for _ in range(3):
                optimizer.zero_grad()
                model(torch.randn(4, 3)).square().mean().backward()
                optimizer.step()
            if kind in ("at the end", "led to where it goes on"):
                scheduler.step()
    named = [one for one in process.findings() if one.name == "scheduler before the optimiser"]
    assert [one.severity for one in named] == [severity] * bool(severity)
    if severity == "fault":
        assert "at a rate of 0.05, and 0.1, that of the first tick" in named[0].evidence
        assert __file__.endswith(named[0].where.partition(":")[0])
