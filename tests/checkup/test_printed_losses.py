"""What a loop prints is named if it fits a wrong mean in all lines; means and last losses are not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, SubsetRandomSampler, TensorDataset

from rislab.checkup.process_watch import ProcessWatch

BATCHES, SIZE, K = 6, 8, 2
# Of the losses of an epoch, and of all so far.
Printed = Callable[[list[float], list[float]], float]


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        (lambda own, all_of: sum(own) / BATCHES, []),
        (lambda own, all_of: own[-1], []),
        (lambda own, all_of: sum(own), []),
        (lambda own, all_of: sum(all_of) / len(all_of), []),
        (lambda own, all_of: sum(own) / (BATCHES * SIZE), ["sum of means over the set's size"]),
        (lambda own, all_of: sum(all_of) / BATCHES, ["sum never set back"]),
        (lambda own, all_of: sum(own) / K / BATCHES, ["logged after the division"]),
        (lambda own, all_of: own[-1] / BATCHES, ["last over n"]),
        (lambda own, all_of: own[0], []),
        (lambda own, all_of: own[0] / BATCHES, ["first over n"]),
    ],
)
def test_printed_losses(printed: Printed, expected: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    all_of: list[float] = []
    with ProcessWatch() as process:
        for epoch in range(4):
            own: list[float] = []
            for number in range(1, BATCHES + 1):
                loss = nn.functional.mse_loss(model(torch.randn(SIZE, 3)), torch.randn(SIZE, 1))
                (loss / K).backward()
                own.append(loss.item())
                if number % K == 0:
                    optimizer.step()
                    optimizer.zero_grad()
            all_of += own
            print(f"epoch {epoch} loss {printed(own, all_of):.5f}")
    assert [one.name for one in process.findings()] == expected
    assert capsys.readouterr().out.count("epoch") == 4


def step(model: nn.Module, optimizer: torch.optim.Optimizer, size: int) -> float:
    """Take a step on so many samples; their loss."""
    loss = nn.functional.mse_loss(model(torch.randn(size, 3)), torch.randn(size, 1))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def test_a_sum_over_as_many_batches_as_each_has_samples_may_be_meant() -> None:
    """It is what a sum over samples gives that is divided by the number of batches."""
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ProcessWatch() as process:
        for epoch in range(4):
            total = 0.0
            for _ in range(SIZE):
                total += step(model, optimizer, SIZE)
            print(f"epoch {epoch} loss {total:.5f}")
    assert not process.findings()


@pytest.mark.parametrize("own_size", [True, False])
def test_a_short_batch_is_weighed_by_its_own_size(own_size: bool) -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ProcessWatch() as process:
        for epoch in range(4):
            total = 0.0
            for size in (SIZE, SIZE, 3):
                total += step(model, optimizer, size) * (size if own_size else SIZE)
            print(f"epoch {epoch} loss {total / (2 * SIZE + 3):.5f}")
    named = [(one.severity, one.name) for one in process.findings()]
    assert named == ([] if own_size else [("fault", "mean of unequal means")])


@pytest.mark.parametrize(
    ("text", "severity"),
    [
        ("epoch {epoch} loss {all_of:.5f}", "fault"),
        ("epoch {epoch} cumulative loss {all_of:.5f}", "warning"),
        ("epoch {epoch} area {all_of:.5f}", "warning"),
        ("epoch {epoch} loss {own:.5f} and before {all_of:.5f}", "warning"),
    ],
)
def test_a_sum_over_epochs_is_wrong_where_the_line_calls_it_the_loss(text: str, severity: str) -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    all_of = 0.0
    with ProcessWatch() as process:
        for epoch in range(4):
            own = 0.0
            for _ in range(BATCHES):
                own += step(model, optimizer, SIZE)
            all_of += own
            print(text.format(epoch=epoch, own=own / BATCHES, all_of=all_of / BATCHES))
    assert [(one.severity, one.name) for one in process.findings()] == [(severity, "sum never set back")]


@pytest.mark.parametrize(("divisor", "expected"), [(48, []), (64, ["another loss reported"]), (50, [])])
def test_a_sum_over_a_part_is_divided_by_the_samples_of_the_part(divisor: int, expected: list[str]) -> None:
    """Not by those of the whole dataset; a number that is no size of a dataset may be meant."""
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(64, 3), torch.randn(64, 1))
    loader = DataLoader(data, batch_size=SIZE, sampler=SubsetRandomSampler(range(48)))
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ProcessWatch() as process:
        for epoch in range(4):
            total = 0.0
            for inputs, target in loader:
                loss = nn.functional.mse_loss(model(inputs), target)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += len(inputs) * loss.item()
            print(f"epoch {epoch} loss {total / divisor:.5f}")
    assert [one.name for one in process.findings() if one.code == "C14"] == expected


@pytest.mark.filterwarnings("ignore:size_average")
def test_a_sum_that_is_asked_for_as_in_old_programs_may_be_divided_by_the_samples() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with ProcessWatch() as process:
        for _ in range(4):
            total = 0.0
            for _ in range(BATCHES):
                inputs, targets = torch.randn(SIZE, 3), torch.randn(SIZE, 1)
                loss = nn.functional.mse_loss(model(inputs), targets, size_average=False)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += loss.item()
            print(f"loss {total / (BATCHES * SIZE):.5f}")
    assert not process.findings()


@pytest.mark.parametrize("divisor", [1, K])
@pytest.mark.parametrize("how", ["a list", "a text", "their mean", "their rounded mean"])
def test_losses_that_are_printed_once_at_the_end(how: str, divisor: int) -> None:
    """One number tells something if it is exact."""
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    history = []
    with ProcessWatch() as process:
        for _ in range(4):
            total = torch.zeros(())
            for number in range(1, BATCHES + 1):
                loss = nn.functional.mse_loss(model(torch.randn(SIZE, 3)), torch.randn(SIZE, 1))
                (loss / K).backward()
                total += loss.detach() / divisor
                if number % K == 0:
                    optimizer.step()
                    optimizer.zero_grad()
            history.append(total.item() / BATCHES)
        mean = sum(history) / len(history)
        if how == "a list":
            print("losses", [round(one, 5) for one in history])
        elif how == "a text":
            print(f"losses {history}")
        else:
            print(f"mean loss {mean:.8f}" if how == "their mean" else f"mean loss {mean:.3f}")
    found = [(one.severity, one.name) for one in process.findings()]
    expected = divisor != 1 and how != "their rounded mean"
    assert found == [("warning", "logged after the division")] * expected


@pytest.mark.parametrize("by_samples", [True, False])
@pytest.mark.parametrize("terms", ["sum", "mixture"])
def test_the_mean_of_a_loss_of_two_terms(terms: str, by_samples: bool) -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ProcessWatch() as process:
        for epoch in range(5):
            total = samples = 0.0
            for size in (SIZE, SIZE, 3):
                answer, first, second = model(torch.randn(size, 3)), torch.arange(size) % 2, torch.arange(size) // 2 % 2
                share = 1.0 if terms == "sum" else float(torch.rand(()))
                loss = share * nn.functional.cross_entropy(answer, first)
                other = 1.0 if terms == "sum" else 1 - share
                loss = loss + other * nn.functional.cross_entropy(answer, second)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += loss.item() * (size if by_samples else 1)
                samples += size
            print(f"epoch {epoch} loss {total / samples:.6f}")
    found = [one.name for one in process.findings() if one.code == "C14"]
    assert found == ([] if by_samples else ["sum of means over the set's size"])
