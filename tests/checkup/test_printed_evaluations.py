"""What a loop prints of an evaluation is named if it fits a wrong number in all lines; means are not."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from rislab.checkup.process_watch import ProcessWatch

SIZES, EPOCHS = (64, 64, 37), 5
COUNT = sum(SIZES)
# Of the means of the batches of an evaluation, and of all so far.
Printed = Callable[[Sequence[float], Sequence[float]], float]


def over_samples(means: Sequence[float]) -> float:
    return sum(mean * size for mean, size in zip(means, SIZES, strict=True)) / COUNT


# How a number is computed, what is found in losses, and what in shares of right answers.
KINDS: list[tuple[Printed, list[tuple[str, str]], list[tuple[str, str]]]] = [
    (lambda own, all_of: over_samples(own), [], []),
    (lambda own, all_of: 100 * over_samples(own), [], []),
    (lambda own, all_of: sum(own), [], []),
    (lambda own, all_of: sum(own) / 3, [], [("fault", "mean of unequal means")]),
    (lambda own, all_of: own[-1], *2 * ([("fault", "only the last batch")],)),
    (lambda own, all_of: own[-1] / 3, *2 * ([("fault", "divided by another number")],)),
    (lambda own, all_of: over_samples(own) * COUNT / 192, *2 * ([("fault", "divided by another number")],)),
    (lambda own, all_of: over_samples(own) * COUNT / 200, *2 * ([("fault", "divided by another number")],)),
    (lambda own, all_of: sum(own) / COUNT, *2 * ([("fault", "sum of means over the set's size")],)),
    (lambda own, all_of: own[0], [], []),
]


class Sets:
    """A network, and loaders of a training and an evaluation."""

    def __init__(self, batch: int = SIZES[0]) -> None:
        torch.manual_seed(0)
        inputs, targets = torch.randn(200, 6), torch.randint(3, (200,))
        self.train = DataLoader(TensorDataset(inputs, targets), batch_size=40, shuffle=True)
        self.val = DataLoader(TensorDataset(inputs[:COUNT], targets[:COUNT]), batch_size=batch)
        self.model = nn.Linear(6, 3)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.3)

    def train_an_epoch(self) -> None:
        self.model.train()
        for inputs, targets in self.train:
            self.optimizer.zero_grad()
            functional.cross_entropy(self.model(inputs), targets).backward()
            self.optimizer.step()

    def evaluate(self, of_batch: Callable[[Tensor, Tensor], float]) -> list[float]:
        self.model.eval()
        with torch.no_grad():
            return [of_batch(self.model(inputs), targets) for inputs, targets in self.val]


def loss_of(logits: Tensor, targets: Tensor) -> float:
    return float(functional.cross_entropy(logits, targets))


def share_right(logits: Tensor, targets: Tensor) -> float:
    return float((logits.argmax(1) == targets).float().mean())


def found(
    printed: Printed, of_batch: Callable[[Tensor, Tensor], float], text: str, batch: int = SIZES[0]
) -> list[tuple[str, str]]:
    sets, all_of = Sets(batch), list[float]()
    with ProcessWatch() as process:
        for _ in range(EPOCHS):
            sets.train_an_epoch()
            own = sets.evaluate(of_batch)
            all_of += own
            print(text.format(printed(own, all_of)))
    return [(one.severity, one.name) for one in process.findings()]


@pytest.mark.parametrize(("printed", "of_losses", "of_shares"), KINDS)
def test_printed_evaluations(
    printed: Printed, of_losses: list[tuple[str, str]], of_shares: list[tuple[str, str]]
) -> None:
    assert found(printed, loss_of, "validation loss {:.6f}") == of_losses
    assert found(printed, share_right, "validation accuracy {:.5f}") == of_shares


@pytest.mark.parametrize(("text", "severity"), [("loss of the last batch {:.6f}", "warning"), ("{:.6f}", "warning")])
def test_a_line_that_does_not_say_what_it_prints_is_warned_of(text: str, severity: str) -> None:
    assert found(lambda own, all_of: own[-1], loss_of, text) == [(severity, "only the last batch")]


def test_a_mean_of_batches_that_are_nearly_equal_is_warned_of() -> None:
    batch = COUNT // 3 + 1
    named = found(lambda own, all_of: sum(own) / 3, share_right, "accuracy {:.6f}", batch)
    assert named == [("warning", "mean of unequal means")]


def test_a_sum_that_is_never_set_back_is_named() -> None:
    def printed(own: Sequence[float], all_of: Sequence[float]) -> float:
        return sum(over_samples(all_of[first : first + 3]) for first in range(0, len(all_of), 3))

    assert found(printed, loss_of, "validation loss {:.6f}") == [("fault", "sum never set back")]


@pytest.mark.parametrize(("text", "severity"), [("accuracy {:.5f}", "fault"), ("accuracy so far {:.5f}", "warning")])
def test_a_mean_of_all_evaluations_so_far_is_told(text: str, severity: str) -> None:
    """Both the right answers and the samples were counted on, unless the line says that this is meant."""

    def printed(own: Sequence[float], all_of: Sequence[float]) -> float:
        epochs = [over_samples(all_of[first : first + 3]) for first in range(0, len(all_of), 3)]
        return sum(epochs) / len(epochs)

    assert found(printed, share_right, text) == [(severity, "sum never set back")]


def test_each_of_two_evaluations_may_be_printed() -> None:
    sets = Sets()
    with ProcessWatch() as process:
        for _ in range(EPOCHS):
            sets.train_an_epoch()
            first, second = sets.evaluate(share_right), sets.evaluate(share_right)
            print(f"accuracy {over_samples(first):.5f} and again {over_samples(second):.5f}")
    assert not process.findings()


def test_the_last_of_several_conditions_may_be_printed() -> None:
    """Without a loader, the losses need not be batches of one set."""
    sets = Sets()
    inputs, targets = torch.randn(50, 6), torch.randint(3, (50,))
    with ProcessWatch() as process:
        for _ in range(EPOCHS):
            sets.train_an_epoch()
            with torch.no_grad():
                losses = [
                    loss_of(sets.model(inputs + noise * torch.randn(50, 6)), targets) for noise in (0.0, 1.0, 2.0)
                ]
            print(f"loss with the largest noise {losses[-1]:.6f}")
    assert not process.findings()


def test_the_last_batch_may_be_printed_amid_an_evaluation() -> None:
    sets = Sets()
    with ProcessWatch() as process:
        for _ in range(EPOCHS):
            sets.train_an_epoch()
            sets.model.eval()
            with torch.no_grad():
                for number, (inputs, targets) in enumerate(sets.train, 1):
                    loss = loss_of(sets.model(inputs), targets)
                    if number % 2 == 0:
                        print(f"batch {number} loss {loss:.6f}")
    assert not process.findings()


def test_the_best_answers_of_a_sample_are_no_answers_of_several_samples() -> None:
    sets, count = Sets(), 0.0

    def among_two(logits: Tensor, targets: Tensor) -> float:
        return float((logits.topk(2).indices.t() == targets).float().sum())

    with ProcessWatch() as process:
        for _ in range(EPOCHS):
            sets.train_an_epoch()
            count = sum(sets.evaluate(among_two))
            print(f"accuracy among the best two {count / COUNT:.5f}")
    assert not process.findings()


def test_a_mean_of_sums_and_a_sum_over_the_steps_of_sequences_may_be_meant() -> None:
    """The sequences of the loader are fewer than the steps that are evaluated one by one."""
    torch.manual_seed(0)
    data = torch.randn(50, 4, 3)
    loader = DataLoader(TensorDataset(data), batch_size=16)
    model = nn.Linear(3, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ProcessWatch() as process:
        for _ in range(EPOCHS):
            optimizer.zero_grad()
            functional.mse_loss(model(data[:, 0]), data[:, 1]).backward()
            optimizer.step()
            of_steps, of_batches = 0.0, list[float]()
            with torch.no_grad():
                for (batch,) in loader:
                    for step in range(3):
                        of_steps += len(batch) * float(functional.mse_loss(model(batch[:, step]), batch[:, step + 1]))
                    of_batches.append(float(functional.mse_loss(model(batch[:, 0]), batch[:, 3], reduction="sum")))
            print(f"loss {of_steps / len(data):.5f}, of a batch {sum(of_batches) / len(of_batches):.4f}")
    assert not process.findings()


def test_several_comparisons_of_one_batch_are_no_batches() -> None:
    """A line, or a library behind it, may compare the answers with more than the targets."""
    sets = Sets(batch=COUNT)

    def share(logits: Tensor, targets: Tensor) -> float:
        return float(
            (logits.argmax(1) == targets.roll(1)).float().mean() * 0 + (logits.argmax(1) == targets).float().mean()
        )

    with ProcessWatch() as process:
        for _ in range(EPOCHS):
            sets.train_an_epoch()
            print(f"accuracy {sets.evaluate(share)[0]:.5f}")
    assert not process.findings()


@pytest.mark.filterwarnings("ignore:size_average")
def test_a_sum_that_is_asked_for_as_in_old_programs_may_be_divided_by_the_samples() -> None:
    def of_batch(logits: Tensor, targets: Tensor) -> float:
        return float(functional.cross_entropy(logits, targets, size_average=False))

    assert not found(lambda own, all_of: sum(own) / COUNT, of_batch, "loss {:.5f}")
