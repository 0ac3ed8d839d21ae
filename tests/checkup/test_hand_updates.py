"""Loops without an optimiser: an update that changes nothing is named; one that works, and gradients alone, are not."""

from __future__ import annotations

import pytest
import torch

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
