"""Data that are changed in place are told; a buffer that is filled anew, and data that are read only, are not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rislab.checkup.process_watch import ProcessWatch


@pytest.mark.parametrize("kind", ["normalised in place", "normalised in a copy", "buffer filled anew"])
def test_inputs_that_are_changed_in_place_are_told(kind: str) -> None:
    torch.manual_seed(0)
    data, buffer = torch.rand(64, 8), torch.empty(16, 8)
    model = nn.Linear(8, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with ProcessWatch() as watch:
        for _ in range(4):
            for inputs in data.split(16):
                if kind == "normalised in place":
                    inputs.sub_(0.5).div_(0.3)
                elif kind == "normalised in a copy":
                    inputs = (inputs - 0.5) / 0.3
                else:
                    inputs = buffer.copy_(torch.rand(16, 8))
                optimizer.zero_grad()
                nn.functional.mse_loss(model(inputs), torch.ones(16, 1)).backward()
                optimizer.step()
    names = [finding.name for finding in watch.findings() if finding.code == "C16"]
    assert names == (["inputs changed in place"] if kind == "normalised in place" else [])
