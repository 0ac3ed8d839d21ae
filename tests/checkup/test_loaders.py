"""Loaders that give the first batch alone, none, or a few samples of many; and loaders that give all of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

from rislab.checkup.process_watch import ProcessWatch

DATA = TensorDataset(torch.randn(32, 3, generator=torch.Generator().manual_seed(0)), torch.zeros(32, 1))
FIRST, NEVER, NONE = "always the first batch", "samples that are never drawn", "loader without a batch"


@pytest.mark.parametrize(
    ("loader", "anew", "expected"),
    [
        (DataLoader(DATA, 8), True, [FIRST]),
        (DataLoader(DATA, 8, shuffle=True), True, []),
        (DataLoader(DATA, 32), True, []),
        (DataLoader(DATA, 8), False, []),
        (DataLoader(DATA, 8, sampler=WeightedRandomSampler([1.0, 9.0], 32)), False, [NEVER]),
        (DataLoader(DATA, 8, sampler=WeightedRandomSampler([1.0] * 32, 32)), False, []),
        (DataLoader(DATA, 64, drop_last=True), False, [NONE]),
    ],
    ids=["first", "shuffled", "one batch of all", "on and on", "weights of classes", "of samples", "none"],
)
def test_what_a_loader_gives(loader: DataLoader[tuple[torch.Tensor, ...]], anew: bool, expected: list[str]) -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with ProcessWatch() as process:
        for _ in range(12):
            for inputs, targets in [next(iter(loader))] if anew else loader:
                optimizer.zero_grad()
                nn.functional.mse_loss(model(inputs), targets).backward()
                optimizer.step()
    assert [
        one.name for one in process.findings() if one.code == "C9" and one.name != "nothing was trained"
    ] == expected
