"""An evaluation that holds samples of the training beside others is named; that of all data, or of a part, is not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from rislab.checkup.process_watch import ProcessWatch

DATA = torch.randn(60, 6, generator=torch.Generator().manual_seed(0))
TRAINED = 40


@pytest.mark.parametrize(
    ("batches", "leaks"),
    [
        ([DATA[TRAINED:]], False),
        ([DATA[TRAINED - 10 :]], True),
        ([DATA[TRAINED:], DATA[:20]], False),
        ([DATA], False),
        ([DATA[:TRAINED]], False),
    ],
    ids=["apart", "overlapping", "each part", "all", "training"],
)
def test_samples_of_an_evaluation(batches: list[Tensor], leaks: bool) -> None:
    torch.manual_seed(0)
    model = nn.Linear(6, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with ProcessWatch() as process:
        for _ in range(4):
            model.train()
            for rows in torch.randperm(TRAINED).split(10):
                optimizer.zero_grad()
                model(DATA[rows]).square().mean().backward()
                optimizer.step()
            model.eval()
            with torch.no_grad():
                for batch in batches:
                    model(batch)
    found = [one for one in process.findings() if one.name == "split leakage"]
    assert len(found) == leaks
    assert not leaks or "10 of 30 samples" in found[0].evidence
