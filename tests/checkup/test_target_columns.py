"""A target that is a column of the input is told; an input that is to be restored, and one that is near it, are not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from rislab.checkup.process_watch import ProcessWatch


def losses(kind: str, model: nn.Module, x: Tensor) -> Tensor:
    """The loss of one batch."""
    label = (x[:, :3].sum(1) > 0).float()
    if kind == "number":
        target = 2 * x[:, 0] - x[:, 1]
        return functional.mse_loss(model(torch.cat([x, target[:, None]], 1))[:, 0], target)
    if kind == "class":
        return functional.cross_entropy(model(torch.cat([x, label[:, None]], 1)), label.long())
    if kind == "restored":
        given = torch.cat([x, label[:, None]], 1)
        return functional.mse_loss(model(given), given)
    if kind == "masked":
        given = torch.cat([x, torch.zeros(len(x), 1)], 1)
        return functional.cross_entropy(model(given), label.long())
    noisy = torch.where(torch.rand(len(x)) < 0.1, 1 - label, label)
    return functional.cross_entropy(model(torch.cat([x, noisy[:, None]], 1)), label.long())


@pytest.mark.parametrize("kind", ["number", "class", "restored", "masked", "near"])
def test_a_target_that_is_a_column_of_the_input_is_told(kind: str) -> None:
    torch.manual_seed(0)
    model = nn.Linear(6, {"number": 1, "restored": 6}.get(kind, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with ProcessWatch() as process:
        for _ in range(8):
            optimizer.zero_grad()
            losses(kind, model, torch.randn(32, 5)).backward()
            optimizer.step()
    found = [(one.severity, one.name) for one in process.findings() if one.name == "target among the inputs"]
    assert found == [("warning", "target among the inputs")] * (kind in ("number", "class"))
