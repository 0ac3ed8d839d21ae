"""A sigmoid before a loss of logits is named in the evaluation as well; logits that are small are not."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from rislab.checkup.process_watch import ProcessWatch


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("sigmoid", True), ("logits", False), ("constant", False), ("another network", False), ("both small", False)],
)
def test_a_sigmoid_before_the_loss_of_the_evaluation(kind: str, expected: bool) -> None:
    torch.manual_seed(0)
    inputs, network, other = torch.randn(128, 6), nn.Linear(6, 4), nn.Linear(6, 4)
    targets = (inputs[:, :4] > 0).float()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    with ProcessWatch() as process:
        for _ in range(4):
            network.train()
            for rows in torch.arange(128).split(32):
                optimizer.zero_grad()
                logits = network(inputs[rows])
                answers = logits.sigmoid() if kind == "both small" else 5 * logits
                functional.binary_cross_entropy_with_logits(answers, targets[rows]).backward()
                optimizer.step()
            network.eval()
            with torch.no_grad():
                logits = (other if kind == "another network" else network)(inputs)
                answers = logits if kind == "logits" else torch.full_like(logits, 0.5)
                if kind in ("sigmoid", "another network", "both small"):
                    answers = logits.sigmoid()
                functional.binary_cross_entropy_with_logits(answers, targets)
    found = [one for one in process.findings() if "evaluations lie between 0 and 1" in one.evidence]
    assert bool(found) is expected
