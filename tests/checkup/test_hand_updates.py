"""Loops without an optimiser: an update that changes nothing is named; one that works, and gradients alone, are not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rislab.checkup.process_watch import ProcessWatch


@pytest.mark.parametrize("kind", ["another tensor", "in place", "new tensors", "gradients of inputs", "optimiser"])
def test_weights_that_are_updated_by_hand(kind: str) -> None:
    torch.manual_seed(0)
    weights = [torch.randn(3, 4, requires_grad=True), torch.zeros(1, requires_grad=True)]
    optimizer = torch.optim.SGD(weights, lr=0.0)
    with ProcessWatch() as process:
        for _ in range(20):
            inputs = torch.randn(8, 3, requires_grad=kind == "gradients of inputs")
            (torch.tanh(inputs @ weights[0]).sum(1) + weights[1]).square().mean().backward()
            if kind == "optimiser":
                optimizer.step()
            for place, value in enumerate(weights):
                assert value.grad is not None
                with torch.no_grad():
                    moved = value - 0.1 * value.grad
                    if kind == "in place":
                        value.copy_(moved)
                value.grad = None
                if kind == "new tensors":
                    weights[place] = moved.requires_grad_()
    names = [one.name for one in process.findings() if one.name == "weights never updated"]
    assert names == (["weights never updated"] if kind == "another tensor" else [])


@pytest.mark.parametrize(
    "kind",
    ["never", "no loss of torch", "debugging", "no optimiser", "evaluation", "no gradients", "few", "gradients alone"],
)
def test_forwards_of_what_is_to_be_trained_without_a_backward(kind: str) -> None:
    torch.manual_seed(0)
    network = nn.Linear(3, 1).train(kind != "evaluation")
    optimizer = None if kind == "no optimiser" else torch.optim.SGD(network.parameters(), lr=0.1)
    with ProcessWatch() as process, torch.set_grad_enabled(kind != "no gradients"):
        for place in range(8 if kind == "few" else 40):
            if optimizer is not None:
                optimizer.zero_grad()
            answer = network(torch.randn(4, 3))
            loss = answer.square().mean()
            if kind == "never":
                loss = torch.nn.functional.mse_loss(answer, torch.zeros(4, 1))
            if kind == "debugging" and place == 30:
                loss.backward()
            if kind == "gradients alone":
                torch.autograd.grad(loss, network.weight)
    found = [(one.name, one.severity) for one in process.findings() if one.severity != "note"]
    severity = {"never": "fault", "no loss of torch": "warning"}
    assert found == [("loop tail in a branch never taken", severity[kind]) for _ in range(kind in severity)]
