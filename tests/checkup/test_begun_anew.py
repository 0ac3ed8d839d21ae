"""Weights that are set back while the optimiser goes on, and a scaler for each step, are faults."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from rislab.checkup.process_watch import ProcessWatch


@pytest.mark.parametrize(
    "kind", ["set back", "new optimiser", "moments too", "best of each", "once", "no moments", "lower rate", "late"]
)
def test_weights_that_are_set_back(kind: str) -> None:
    torch.manual_seed(0)
    network = nn.Linear(3, 1)
    first = copy.deepcopy(network.state_dict())

    def make() -> torch.optim.Optimizer:
        kind_of = torch.optim.SGD if kind == "no moments" else torch.optim.Adam
        return kind_of(network.parameters(), lr=0.01)

    optimizer = make()
    moments = copy.deepcopy(optimizer.state_dict())
    with ProcessWatch() as process:
        for epoch in range(6):
            if kind != "once" or epoch == 1:
                network.load_state_dict(first)
            if kind == "lower rate":
                optimizer.param_groups[0]["lr"] /= 2
            if kind == "new optimiser":
                optimizer = make()
            if kind == "moments too":
                optimizer.load_state_dict(moments)
            for _ in range(5):
                optimizer.zero_grad()
                (network(torch.randn(8, 3)) - 1).square().mean().backward()
                optimizer.step()
            if kind == "best of each" or (kind == "late" and epoch < 2):
                first = copy.deepcopy(network.state_dict())
    named = [one.severity for one in process.findings() if one.name == "weights set back"]
    assert named == ["fault"] * (kind == "set back")


@pytest.mark.parametrize("kind", ["each step", "each epoch", "once", "disabled"])
def test_a_gradient_scaler_lives_as_long_as_the_loop(kind: str) -> None:
    torch.manual_seed(0)
    network = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu")
    with ProcessWatch() as process:
        for step in range(12):
            if kind in ("each step", "disabled") or (kind == "each epoch" and step % 3 == 0):
                scaler = torch.amp.GradScaler("cpu", enabled=kind != "disabled")
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.float16):
                loss = network(torch.randn(8, 3)).float().square().mean()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
    assert any(one.name == "scaler made anew" for one in process.findings()) is (kind == "each step")


@pytest.mark.parametrize(
    ("kind", "anew", "named"),
    [
        (lambda one: torch.optim.lr_scheduler.StepLR(one, 3), True, True),
        (lambda one: torch.optim.lr_scheduler.StepLR(one, 3), False, False),
        # The next one begins where this one has led.
        (lambda one: torch.optim.lr_scheduler.ExponentialLR(one, 0.9), True, False),
        (lambda one: torch.optim.lr_scheduler.LambdaLR(one, lambda _: 1.0), True, False),
    ],
)
def test_a_scheduler_lives_as_long_as_the_loop(kind: Any, anew: bool, named: bool) -> None:
    network = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    scheduler = kind(optimizer)
    with ProcessWatch() as process:
        for _ in range(6):
            scheduler = kind(optimizer) if anew else scheduler
            for _ in range(3):
                optimizer.zero_grad()
                network(torch.randn(4, 3)).square().mean().backward()
                optimizer.step()
            scheduler.step()
    found = [one.severity for one in process.findings() if one.name == "scheduler made anew"]
    assert found == ["fault"] * named
