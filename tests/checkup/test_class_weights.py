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


def named(weights: Tensor, binary: bool, labels: Tensor = LABELS) -> list[tuple[str, str]]:
    torch.manual_seed(0)
    model = nn.Linear(4, 1 if binary else 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ProcessWatch() as process:
        for _ in range(4):
            optimizer.zero_grad()
            answers = model(torch.randn(len(labels), 4))
            if binary:
                functional.binary_cross_entropy_with_logits(answers[:, 0], RARE, pos_weight=weights).backward()
            else:
                functional.cross_entropy(answers, labels, weight=weights).backward()
            optimizer.step()
    return [(one.severity, one.name) for one in process.findings()]


@pytest.mark.parametrize("binary", [False, True])
def test_weights_that_grow_with_the_counts(binary: bool) -> None:
    ratio = 10 / 130
    wrong, right = (torch.tensor(ratio), torch.tensor(1 / ratio)) if binary else (COUNTS / 140, 140 / COUNTS)
    assert named(wrong, binary) == [("fault", "weights grow with the counts")]
    assert named(right, binary) == []
    assert named(torch.ones_like(wrong), binary) == []


@pytest.mark.parametrize(
    "weights", [torch.tensor([10.0, 3.0, 1.0]), torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.771, 0.169, 0.06])]
)
def test_costs_that_were_chosen_may_be_meant(weights: Tensor) -> None:
    """Round numbers, and numbers that do not fit many counts."""
    assert named(weights, False, LABELS.repeat(40)) == [("warning", "weights grow with the counts")]
