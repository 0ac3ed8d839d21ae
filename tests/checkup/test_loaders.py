"""Loaders that give the first batch alone, none, or a few samples of many; and loaders that give all of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    RandomSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

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
    findings = [one for one in process.findings() if one.code == "C9" and one.name != "nothing was trained"]
    assert [one.name for one in findings] == expected
    assert all(one.severity == "fault" for one in findings if one.name == NONE)


@pytest.mark.parametrize("whole", [True, False])
def test_one_step_on_all_batches_is_none_on_the_first(whole: bool) -> None:
    """And a loader that is made anew for each step gives the first batch as well."""
    loader = DataLoader(DATA, 8)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with ProcessWatch() as process:
        for _ in range(12):
            optimizer.zero_grad()
            for inputs, targets in loader if whole else DataLoader(DATA, 8):
                (nn.functional.mse_loss(model(inputs), targets) / 4).backward()
                if not whole:
                    break
            optimizer.step()
    assert [one.name for one in process.findings() if one.code == "C9"] == ([] if whole else [FIRST])


SORTED = TensorDataset(DATA.tensors[0], torch.arange(32) // 8)


def by_sampler(places: range) -> DataLoader[tuple[torch.Tensor, ...]]:
    return DataLoader(SORTED, 8, sampler=SubsetRandomSampler(places))


def by_subset(places: range) -> DataLoader[tuple[torch.Tensor, ...]]:
    return DataLoader(Subset(SORTED, places), 8)


@pytest.mark.parametrize("make", [by_sampler, by_subset])
@pytest.mark.parametrize(("trained", "evaluated", "outputs", "expected"), [
    (range(16), range(16, 32), 4, True),
    (range(16), range(16, 32), 2, False),  # a few new classes at a time, as in learning to learn
    (range(0, 32, 2), range(1, 32, 2), 4, False),
])  # fmt: skip
def test_classes_of_an_evaluation_are_those_of_the_training(
    make: object, trained: range, evaluated: range, outputs: int, expected: bool
) -> None:
    assert callable(make)
    torch.manual_seed(0)
    model = nn.Linear(3, outputs)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with ProcessWatch() as process:
        for _ in range(3):
            for inputs, targets in make(trained):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(inputs), targets % outputs).backward()
                optimizer.step()
            with torch.no_grad():
                for inputs, _ in make(evaluated):
                    model(inputs).argmax(1)
    assert any(one.name == "classes that training never had" for one in process.findings()) is expected


@pytest.mark.parametrize("make", [by_sampler, by_subset])
@pytest.mark.parametrize(("evaluated", "trained_too", "expected"), [
    (range(12, 28), False, True),
    (range(20, 32), False, False),
    (range(4, 12), False, False),  # the score of the training
    (range(32), False, False),  # of all data
    (range(12, 28), True, False),  # another part to train on
])  # fmt: skip
def test_parts_of_one_dataset_that_have_samples_in_common(
    make: object, evaluated: range, trained_too: bool, expected: bool
) -> None:
    assert callable(make)
    torch.manual_seed(0)
    model = nn.Linear(3, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with ProcessWatch() as process:
        for _ in range(3):
            for places in (range(20), evaluated):
                for inputs, targets in make(places):
                    with torch.set_grad_enabled(places is not evaluated or trained_too):
                        loss = nn.functional.cross_entropy(model(inputs), targets)
                    if loss.requires_grad:
                        optimizer.zero_grad()
                        loss.backward()
                        optimizer.step()
    assert any(one.name == "split leakage" for one in process.findings()) is expected


def test_the_parts_of_other_folds_are_no_leak() -> None:
    torch.manual_seed(0)
    with ProcessWatch() as process:
        for fold in range(4):
            model = nn.Linear(3, 4)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
            held = range(8 * fold, 8 * fold + 8)
            for _ in range(2):
                for inputs, targets in DataLoader(Subset(SORTED, [k for k in range(32) if k not in held]), 8):
                    optimizer.zero_grad()
                    nn.functional.cross_entropy(model(inputs), targets).backward()
                    optimizer.step()
                with torch.no_grad():
                    for inputs, _ in by_subset(held):
                        model(inputs)
    assert not [one for one in process.findings() if one.name == "split leakage"]


class Noisy(TensorDataset):
    """Samples with noise, new in each pass."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
        inputs, target = super().__getitem__(index)
        return inputs + torch.randn(3), target


@pytest.mark.parametrize("kind", ["noise in both", "noise in training", "attacked", "regression"])
def test_an_evaluation_on_samples_that_are_augmented_at_random(kind: str) -> None:
    torch.manual_seed(0)
    inputs, targets = torch.randn(32, 3), torch.arange(32) % 2
    plain = TensorDataset(inputs, targets)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    held = DataLoader(plain if kind == "noise in training" else Noisy(inputs, targets), 8)
    with ProcessWatch() as process:
        for _ in range(4):
            model.train()
            for samples, classes in DataLoader(Noisy(inputs, targets), 8, shuffle=True):
                optimizer.zero_grad()
                output = model(samples)
                if kind == "regression":
                    loss = nn.functional.mse_loss(output, torch.zeros(8, 2))
                else:
                    loss = nn.functional.cross_entropy(output, classes)
                loss.backward()
                optimizer.step()
            model.eval()
            for samples, _ in held:
                if kind == "attacked":
                    model(samples.requires_grad_())
                with torch.no_grad():
                    model(samples)
    names = [one.name for one in process.findings() if one.severity != "note"]
    assert names == (["random inputs of evaluation"] if kind == "noise in both" else [])


class Unsized(Dataset[Any]):
    """Gives whole batches to a sampler that knows how many there are, and has a length that fails."""

    def __getitems__(self, places: list[int]) -> Any:
        return DATA[places]

    def __len__(self) -> int:
        return len(object())  # type: ignore[arg-type]


def test_a_dataset_need_not_know_its_length() -> None:
    batches = BatchSampler(RandomSampler(range(32)), 8, drop_last=False)
    loader = DataLoader(Unsized(), batch_sampler=batches, collate_fn=lambda batch: batch)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with ProcessWatch() as process:
        for inputs, targets in loader:
            optimizer.zero_grad()
            nn.functional.mse_loss(model(inputs), targets).backward()
            optimizer.step()
    assert [str(one) for one in process.findings() if one.name == "not judged"] == []


def test_a_dataset_at_the_address_of_one_that_is_gone_is_another() -> None:
    """Each dataset is made for one pass: the places of its samples have nothing to do with those of the one before."""
    torch.manual_seed(0)
    model = nn.Linear(3, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    again = 0
    with ProcessWatch() as process:
        for _ in range(30):
            data = TensorDataset(*SORTED.tensors)
            for inputs, targets in DataLoader(Subset(data, range(20)), 8):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(inputs), targets).backward()
                optimizer.step()
            address = id(data)
            del data
            data = TensorDataset(*SORTED.tensors)
            again += id(data) == address
            with torch.no_grad():
                for inputs, _ in DataLoader(Subset(data, range(12, 28)), 8):
                    model(inputs)
    assert again, "no address came again: the test shows nothing"
    assert not [one for one in process.findings() if one.name == "split leakage"]


def test_a_loader_of_evaluations_may_be_gone_at_the_end() -> None:
    """As where a function makes it: its one pass has ended, and nothing refers to it any more."""
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def evaluate() -> None:
        model.eval()
        with torch.no_grad():
            for inputs, _ in DataLoader(DATA, 8):
                model(inputs)

    with ProcessWatch() as process:
        for inputs, targets in DataLoader(DATA, 8, shuffle=True):
            optimizer.zero_grad()
            nn.functional.mse_loss(model(inputs), targets).backward()
            optimizer.step()
        evaluate()
    assert [one for one in process.findings() if one.name == "not judged"] == []
