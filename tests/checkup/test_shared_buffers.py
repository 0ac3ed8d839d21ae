"""A dataset whose samples share a buffer is a fault; one of equal samples, or of copies, is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from rislab.checkup.process_watch import ProcessWatch


class Samples(Dataset[tuple[Tensor, Tensor]]):
    """Numbers that are filled into one array."""

    def __init__(self, kind: str) -> None:
        self.kind, self.buffer = kind, np.zeros(4, dtype=np.float32)

    def __len__(self) -> int:
        return 32

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor]:
        self.buffer[:] = 1.0 if self.kind == "equal" else place
        values = torch.from_numpy(self.buffer if self.kind == "shared" else self.buffer.copy())
        return values, torch.tensor([float(place)])


@pytest.mark.parametrize("kind", ["shared", "copied", "equal"])
def test_samples_have_memory_of_their_own(kind: str) -> None:
    torch.manual_seed(0)
    network = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4)
    with ProcessWatch() as process:
        for _ in range(2):
            for values, target in DataLoader(Samples(kind), batch_size=8, shuffle=True):
                optimizer.zero_grad()
                nn.functional.mse_loss(network(values), target).backward()
                optimizer.step()
    named = [one.severity for one in process.findings() if one.name == "one buffer in all samples"]
    assert named == ["fault"] * (kind == "shared")
