"""Weights that a first gradient has perturbed, and nobody moved back, are named; those that come back are not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rislab.checkup.process_watch import ProcessWatch


@pytest.mark.parametrize(
    "kind", ["never undone", "before the step", "after the step", "downhill", "on other samples", "by one backward"]
)
def test_a_perturbation_is_undone(kind: str) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 1))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    weights = [*network.parameters()]

    def backward(inputs: torch.Tensor) -> None:
        optimizer.zero_grad()
        (network(inputs) - inputs[:, :1]).square().mean().backward()

    with ProcessWatch() as process:
        for _ in range(14):
            inputs = torch.randn(16, 6)
            backward(inputs)
            with torch.no_grad():
                norm = torch.stack([one.grad.norm() for one in weights if one.grad is not None]).norm()
                moves = [one.grad * (0.05 / norm) for one in weights if one.grad is not None]
                for one, move in zip(weights, moves, strict=True):
                    one.add_(move, alpha=-1.0 if kind == "downhill" else 1.0)
            if kind != "by one backward":
                # Who forgets some samples climbs on theirs, and learns on others.
                backward(torch.randn(16, 6) if kind == "on other samples" else inputs)
            with torch.no_grad():
                if kind == "before the step":
                    for one, move in zip(weights, moves, strict=True):
                        one.sub_(move)
                optimizer.step()
                if kind == "after the step":
                    for one, move in zip(weights, moves, strict=True):
                        one.sub_(move)
    found = [one.severity for one in process.findings() if one.name == "perturbation never undone"]
    assert found == ["fault"] * (kind == "never undone")
