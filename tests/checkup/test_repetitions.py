"""Seeds that are set again and again, and batches of one class, are named; what draws anew is not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rislab.checkup.process_watch import ProcessWatch


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["same seed", "another seed", "apart", "shuffled", "another training"])
def test_seeds_that_repeat_and_data_that_are_not_shuffled(kind: str) -> None:
    torch.manual_seed(0)
    labels = torch.arange(4).repeat_interleave(16)
    inputs = torch.randn(64, 5)
    model = nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.2), nn.Linear(8, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    order = torch.randperm(64) if kind == "shuffled" else torch.arange(64)
    with ProcessWatch(every=1) as process:
        for epoch in range(5):
            with torch.random.fork_rng(enabled=kind == "apart"):
                if kind != "shuffled":
                    torch.manual_seed(epoch if kind == "another seed" else 7)
            if kind == "another training":
                model = nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.2), nn.Linear(8, 4))
                optimizer = torch.optim.SGD(model.parameters(), lr=0.01 * (epoch + 1))
            for picks in order.split(16):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(inputs[picks]), labels[picks]).backward()
                optimizer.step()
    found = {one.name for one in process.findings() if one.code == "C9"}
    expected = set() if kind == "shuffled" else {"batches of one class"}
    assert found == expected | ({"the same random numbers again"} if kind == "same seed" else set())


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("sorted", "fault"),
        ("turns", "warning"),
        ("clients", "warning"),
        ("one round", "warning"),
        ("two at a time", ""),
    ],
)
def test_sorted_classes_are_a_fault_and_turns_are_not(kind: str, expected: str) -> None:
    """Domains take turns, and each client that holds one class has an optimiser of its own."""
    torch.manual_seed(0)
    model = nn.Linear(5, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    length = {"turns": 1, "one round": 9}.get(kind, 2)
    with ProcessWatch(every=1) as process:
        for step in range(36):
            label = step // length % 4
            if kind == "clients" and step % length == 0:
                optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
            labels = torch.full((8,), label)
            if kind == "two at a time":
                labels[4:] = (label + 1) % 4
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(torch.randn(8, 5)), labels).backward()
            optimizer.step()
    found = [one.severity for one in process.findings() if one.name == "batches of one class"]
    assert found == [expected] * bool(expected)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("set again", "fault"), ("a generator of its own", "warning"), ("not shuffled", "warning"), ("of the epoch", "")],
)
def test_one_order_in_every_epoch_is_a_fault(kind: str, expected: str) -> None:
    torch.manual_seed(0)
    data = torch.utils.data.TensorDataset(torch.randn(32, 5), torch.randn(32, 1))
    own = torch.Generator() if kind == "a generator of its own" else None
    loader = torch.utils.data.DataLoader(data, batch_size=8, shuffle=kind != "not shuffled", generator=own)
    model = nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.1), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with ProcessWatch(every=1) as process:
        for epoch in range(6):
            torch.manual_seed(epoch if kind == "of the epoch" else 3)
            for inputs, targets in loader:
                optimizer.zero_grad()
                nn.functional.mse_loss(model(inputs), targets).backward()
                optimizer.step()
    found = [one.severity for one in process.findings() if one.name == "the same random numbers again"]
    assert found == [expected] * bool(expected)


@pytest.mark.parametrize("kind", ["one iterator", "an iterator for each", "without steps", "other inputs", "no epoch"])
def test_epochs_without_steps(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    """After the training, another evaluation may print lines of its own."""
    torch.manual_seed(0)
    batches = [torch.randn(8, 3) for _ in range(4)]
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    iterator = iter(batches)
    with ProcessWatch() as process:
        for epoch in range(5):
            for inputs in batches if kind in ("an iterator for each", "other inputs") else iterator:
                optimizer.zero_grad()
                model(inputs).square().mean().backward()
                if kind != "without steps":
                    optimizer.step()
            with torch.no_grad():
                error = model(batches[0]).square().mean()
            print(f"{'part' if kind == 'no epoch' else 'epoch'} {epoch}: {float(error):.6f}")
        if kind == "other inputs":
            with torch.no_grad():
                for number in range(4):
                    print(f"after the last epoch, inputs {number}: {float(model(batches[number]).square().mean()):.6f}")
    named = [one.name for one in process.findings().faults if one.name == "epochs without a step"]
    assert named == (["epochs without a step"] if kind == "one iterator" else [])
