"""A term that varies and carries no gradient is named; constants, and terms that train something, are not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from rislab.checkup.process_watch import ProcessWatch

TRAINS_NOTHING = ["a term of the loss trains nothing"]


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (lambda out, w: out.square().mean() + 0.1 * w.data.square().sum(), TRAINS_NOTHING),
        (lambda out, w: (out.detach().abs().mean() - out.square().mean()) * -1, TRAINS_NOTHING),
        (lambda out, w: out.square().mean() + 0.1 * w.square().sum(), []),
        (lambda out, w: out.square().mean() + torch.tensor(0.5) + 3, []),
        (lambda out, w: (out.square() + out.detach()).mean(), []),
    ],
    ids=["of the data of weights", "detached", "with a gradient", "constants", "of each sample"],
)
def test_terms_without_a_gradient(loss: Callable[[Tensor, Tensor], Tensor], expected: list[str]) -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ProcessWatch() as process:
        for _ in range(8):
            optimizer.zero_grad()
            loss(model(torch.randn(8, 3)), model.weight).backward()
            optimizer.step()
    assert [one.name for one in process.findings()] == expected
