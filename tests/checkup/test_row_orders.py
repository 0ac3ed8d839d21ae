"""Inputs and targets that are taken in two different orders are named; one order, and pairs that are meant, are not."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from rislab.checkup.process_watch import ProcessWatch

COUNT, SIZE = 64, 16
Batches = Callable[[Tensor, Tensor], Iterator[tuple[Tensor, Tensor]]]


def slices(x: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    for first in range(0, COUNT, SIZE):
        yield x[first : first + SIZE], y[first : first + SIZE]


def two_indices(x: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    for one, other in zip(torch.randperm(COUNT).split(SIZE), torch.randperm(COUNT).split(SIZE), strict=True):
        yield x[one], y[other]


def two_orders_before(x: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    return slices(x[torch.randperm(COUNT)], y.index_select(0, torch.randperm(COUNT)))


def two_orders_of_a_set(x: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    return iter(DataLoader(TensorDataset(x[torch.randperm(COUNT)], y[torch.randperm(COUNT)]), SIZE))


def one_index(x: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    for places in torch.randperm(COUNT).split(SIZE):
        yield x[places], y[places]


def one_order_before(x: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    order = torch.randperm(COUNT)
    return slices(x[order], y[order])


def random_labels(x: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """What is to be memorised: only the labels lie in another order."""
    return one_index(x, y[torch.randperm(COUNT)])


def the_next_row(x: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    for places in torch.randperm(COUNT - 1).split(SIZE):
        yield x[places], y[places + 1]


def drawn_again(x: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """No order of all: rows that are drawn with repetitions may be pairs of a kind of its own."""
    for _ in range(COUNT // SIZE):
        yield x[torch.randint(COUNT, (SIZE,))], y[torch.randint(COUNT, (SIZE,))]


APART: list[Batches] = [two_indices, two_orders_before, two_orders_of_a_set]
TOGETHER: list[Batches] = [one_index, one_order_before, random_labels, the_next_row, drawn_again]


@pytest.mark.parametrize("batches", [*APART, *TOGETHER], ids=lambda one: one.__name__)
def test_orders_of_rows(batches: Batches) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(COUNT, 5), torch.randint(3, (COUNT,))
    model = nn.Linear(5, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ProcessWatch() as process:
        for _ in range(4):
            for inputs, targets in batches(x, y):
                optimizer.zero_grad()
                functional.cross_entropy(model(inputs), targets).backward()
                optimizer.step()
    named = [(one.severity, one.name) for one in process.findings() if one.severity != "note"]
    assert named == ([("fault", "targets of other samples")] if batches in APART else [])


def test_each_loss_has_the_inputs_of_its_own_forward() -> None:
    """Samples of another domain go through the network between a forward and its loss."""
    torch.manual_seed(0)
    source, labels, target = torch.randn(COUNT, 5), torch.randint(3, (COUNT,)), torch.randn(COUNT, 5)
    model = nn.Linear(5, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ProcessWatch() as process:
        for _ in range(4):
            for one, other in zip(torch.randperm(COUNT).split(SIZE), torch.randperm(COUNT).split(SIZE), strict=True):
                optimizer.zero_grad()
                answers, others = model(source[one]), model(target[other])
                entropy = -(others.softmax(1) * others.log_softmax(1)).sum(1).mean()
                (functional.cross_entropy(answers, labels[one]) + 0.1 * entropy).backward()
                optimizer.step()
    assert [one.name for one in process.findings() if one.severity != "note"] == []


def mixed_by(kind: str, x: Tensor, y: Tensor, model: nn.Module) -> Tensor:
    """The loss of samples that are mixed in pairs."""
    order, other = torch.randperm(len(x)), torch.randperm(len(x))
    share = 0.2 + 0.6 * torch.rand(len(x), 1) if "shares" in kind else 0.3
    x = x.double() if "gone" in kind else x
    y = y[order] if kind == "labels kept" else y
    x = x[order] if kind == "labels kept" else x
    second = (1 - share) * x[other if kind == "labels kept" else order, :]
    # What was mixed may be gone when the network answers, or be another by then.
    mixed = x.mul_(share).add_(second) if "gone" in kind else share * x + second
    del x, second
    answer = model(mixed.float())
    if kind == "labels kept":
        return functional.cross_entropy(answer, y)
    places = order if "one order" in kind else other
    if "soft" in kind or "shares" in kind:
        targets = functional.one_hot(y, 2).float()
        return functional.cross_entropy(answer, share * targets + (1 - share) * targets[places])
    losses = functional.cross_entropy(answer, y), functional.cross_entropy(answer, y[places])
    return share * losses[0] + (1 - share) * losses[1]


@pytest.mark.parametrize(
    "kind",
    [
        "one order",
        "two orders",
        "one order, soft",
        "two orders, soft",
        "one order, shares of each",
        "two orders, shares of each",
        "one order, soft, gone",
        "two orders, soft, gone",
        "labels kept",
    ],
)
def test_targets_of_mixed_samples_are_those_that_were_mixed(kind: str) -> None:
    torch.manual_seed(0)
    x, model = torch.randn(COUNT, 4), nn.Linear(4, 2)
    y = (x[:, 0] > 0).long()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ProcessWatch() as process:
        for _ in range(8):
            optimizer.zero_grad()
            mixed_by(kind, x, y, model).backward()
            optimizer.step()
    named = [one.severity for one in process.findings() if one.name == "targets of other samples"]
    assert named == ["fault"] * ("two orders" in kind)
