"""A loss that is written over is told; one that is read, kept, returned by a network or chosen at times is not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from rislab.checkup.process_watch import ProcessWatch


class WithLoss(nn.Module):
    """A network that gives a loss beside its answer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        answer = self.layer(x)
        return functional.cross_entropy(answer, y), answer


def loss_of(kind: str, model: WithLoss, x: Tensor, y: Tensor, step: int, kept: list[Tensor]) -> Tensor:
    """The loss of one batch, beside another one."""
    answer = model(x, y)[1]
    other = nn.MultiMarginLoss()(answer, y)
    if kind == "read":
        kept.append(other.new_tensor(other.item()))
    elif kind == "shown":
        kept.append(other.new_tensor(float(f"{other:.3f}")))
    elif kind == "added":
        return other + functional.cross_entropy(answer, y)
    elif kind == "kept":
        kept.append(other)
    elif kind == "stacked":
        return torch.stack([other, functional.cross_entropy(answer, y)]).sum()
    elif kind == "in turns" and step % 2:
        return other
    # In place of the other one, which nobody has now.
    other = functional.cross_entropy(answer, y)
    return other  # noqa: RET504


@pytest.mark.parametrize("kind", ["written over", "read", "shown", "added", "kept", "stacked", "in turns"])
def test_a_loss_that_is_written_over_is_told(kind: str) -> None:
    torch.manual_seed(0)
    model, kept = WithLoss(), list[Tensor]()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with ProcessWatch() as process:
        for step in range(16):
            x, y = torch.randn(16, 6), torch.randint(0, 3, (16,))
            optimizer.zero_grad()
            loss_of(kind, model, x, y, step, kept).backward()
            optimizer.step()
    found = [(one.severity, one.name) for one in process.findings() if one.name == "loss that nothing uses"]
    assert found == [("warning", "loss that nothing uses")] * (kind == "written over")
