"""Weights that make frequent classes count even more are named, and those that make up for rare ones are not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from rislab.checkup.process_watch import ProcessWatch

LABELS = torch.tensor([0] * 100 + [1] * 30 + [2] * 10)
COUNTS = LABELS.bincount().double().float()
RARE = (LABELS == 2).float()


def names(weights: Tensor, binary: bool) -> list[str]:
    torch.manual_seed(0)
    model = nn.Linear(4, 1 if binary else 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ProcessWatch() as process:
        for _ in range(4):
            optimizer.zero_grad()
            answers = model(torch.randn(140, 4))
            if binary:
                functional.binary_cross_entropy_with_logits(answers[:, 0], RARE, pos_weight=weights).backward()
            else:
                functional.cross_entropy(answers, LABELS, weight=weights).backward()
            optimizer.step()
    return [one.name for one in process.findings()]


@pytest.mark.parametrize("binary", [False, True])
def test_weights_that_grow_with_the_counts(binary: bool) -> None:
    ratio = 10 / 130
    wrong, right = (torch.tensor(ratio), torch.tensor(1 / ratio)) if binary else (COUNTS / 140, 140 / COUNTS)
    assert names(wrong, binary) == ["weights grow with the counts"]
    assert names(right, binary) == []
    assert names(torch.ones_like(wrong), binary) == []
