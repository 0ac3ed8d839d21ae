"""A DistributedSampler whose epoch is never set draws one order."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

from rislab.checkup.findings import Findings
from rislab.checkup.loop_watch import watch


def trained(epochs: int, *, set_epoch: bool, shuffle: bool = True, valid_shuffled: bool = False) -> Findings:
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(16, 3), torch.randn(16, 1))
    sampler: Any = DistributedSampler(data, 1, 0, shuffle=shuffle)
    valid: Any = DistributedSampler(data, 1, 0, shuffle=valid_shuffled)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with watch(model, optimizer) as watched:
        for epoch in range(epochs):
            if set_epoch:
                sampler.set_epoch(epoch)
            for inputs, targets in DataLoader(data, 8, sampler=sampler):
                nn.functional.mse_loss(model(inputs), targets).backward()
                optimizer.step()
                optimizer.zero_grad()
            with torch.no_grad():
                for inputs, _ in DataLoader(data, 8, sampler=valid):
                    model(inputs)
    return Findings(finding for finding in watched.findings() if finding.name == "sampler without set_epoch")


@pytest.mark.slow
def test_one_order_in_all_epochs_is_a_fault_and_in_two_a_warning() -> None:
    (finding,) = trained(4, set_epoch=False)
    assert finding.severity == "fault" and "4 passes of training, each at epoch 0" in finding.evidence
    assert finding.where.startswith(__file__)
    assert [finding.severity for finding in trained(2, set_epoch=False)] == ["warning"]


@pytest.mark.slow
def test_an_epoch_that_is_set_and_orders_that_are_not_drawn_are_none() -> None:
    before = DistributedSampler.__iter__
    assert not trained(4, set_epoch=True, valid_shuffled=True)
    assert not trained(4, set_epoch=False, shuffle=False)
    assert not trained(1, set_epoch=False)
    assert DistributedSampler.__iter__ is before
