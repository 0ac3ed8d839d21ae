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


def test_sparse_gradients_are_looked_at_as_well() -> None:
    table = nn.Embedding(20, 3, sparse=True)
    optimizer = torch.optim.SparseAdam(table.parameters(), lr=0.01)
    with ProcessWatch() as process:
        for _ in range(4):
            optimizer.zero_grad()
            table(torch.randint(0, 20, (8,))).square().mean().backward()
            optimizer.step()
    assert not [one for one in process.findings().unjudged if "Perturbations" in one.evidence]


def test_weights_that_take_another_shape_are_no_error() -> None:
    network = nn.Linear(6, 2)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    with ProcessWatch() as process:
        for step in range(6):
            if step == 2:
                network.weight.data, network.bias.data = torch.randn(3, 6), torch.zeros(3)
                optimizer.zero_grad()
            network(torch.randn(4, 6)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    assert not [one for one in process.findings().unjudged if "Perturbations" in one.evidence]
