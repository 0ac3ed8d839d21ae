"""At the end of a run its networks are tried on copies: what is wrong with them is told, and nothing is changed."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.module import register_module_forward_hook

from rislab.checkup.findings import Findings
from rislab.checkup.probes.outer_values import keeps_outside
from rislab.checkup.process_watch import ProcessWatch

CALLS: list[int] = []
NUMBERS = {"calls": 0}


class Net(nn.Module):
    """A network with something between its two layers.

    Args:
        between: the layers.
    """

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.between = nn.Linear(6, 8), nn.Linear(8, 3), between

    def forward(self, x: Tensor) -> Tensor:
        answers: Tensor = self.last(self.between(self.first(x)))
        return answers


class Counting(Net):
    """A network that counts its calls where no copy can."""

    def forward(self, x: Tensor) -> Tensor:
        CALLS.append(1)
        return super().forward(x)


def count_by_name(x: Tensor) -> Tensor:
    """Count a call in a mapping of the module."""
    NUMBERS["calls"] += 1
    return x


class CountingByName(Net):
    """A network whose helper counts its calls."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(count_by_name(x))


def train(model: nn.Module, batch: Callable[[], tuple[Tensor, Tensor]], evaluated: bool = True) -> Findings:
    """Five steps, and an evaluation."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ProcessWatch() as process:
        for _ in range(5):
            x, labels = batch()
            optimizer.zero_grad()
            answers = model(x)
            functional.cross_entropy(answers.reshape(-1, answers.shape[-1]), labels.reshape(-1)).backward()
            optimizer.step()
        if evaluated:
            with torch.no_grad():
                model.eval()(batch()[0])
    return process.findings()


def samples() -> tuple[Tensor, Tensor]:
    """Inputs and labels."""
    return torch.randn(16, 6), torch.randint(0, 3, (16,))


BETWEEN: list[tuple[Callable[[Tensor], Tensor], str]] = [
    (functional.dropout, "dropout in evaluation mode"),
    (lambda x: x * x.softmax(0), "normalised over the batch"),
    (lambda x: x.view(8, 16).t(), "the samples of a batch are mixed"),
    (functional.relu, ""),
    (lambda x: x * x.softmax(1), ""),
]


@pytest.mark.slow
@pytest.mark.parametrize(("between", "name"), BETWEEN)
def test_networks_are_tried_when_the_run_is_over(between: Callable[[Tensor], Tensor], name: str) -> None:
    torch.manual_seed(0)
    findings = train(Net(between), samples)
    assert [finding.name for finding in findings] == ([name] if name else [])
    assert all(__file__ in finding.where for finding in findings)


class Queue(nn.Module):
    """Keeps some of its answers, and compares the next ones with them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 3)
        self.register_buffer("rows", torch.randn(10, 3))
        self.place = 0

    def forward(self, x: Tensor) -> Tensor:
        answer = self.first(x)
        compared = answer - self.rows.mean(0)
        self.rows[self.place : self.place + 5] = answer[:5].detach()
        self.place = 5 - self.place
        return compared  # type: ignore[no-any-return]


@pytest.mark.parametrize("evaluated", [False, True])
def test_what_only_an_evaluation_shows_is_no_finding_without_one(evaluated: bool) -> None:
    torch.manual_seed(0)
    assert train(Net(functional.dropout), samples, evaluated=False) == []
    names = [finding.name for finding in train(Queue(), samples, evaluated)]
    assert names == ["evaluation changes the network"] * evaluated


def test_what_is_tried_changes_nothing_of_the_run() -> None:
    heard: list[Any] = []
    states = []
    handle = register_module_forward_hook(lambda *_: heard.append(1))
    try:
        for watched in (False, True):
            random.seed(0)
            np.random.seed(0)
            torch.manual_seed(0)
            heard.clear()
            model = Net(functional.dropout)
            model.first.register_forward_hook(lambda *_: heard.append(2))
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            process = ProcessWatch()
            if watched:
                process.__enter__()
            for _ in range(5):
                optimizer.zero_grad()
                functional.cross_entropy(model(samples()[0]), samples()[1]).backward()
                optimizer.step()
            model.eval()(samples()[0])
            if watched:
                process.__exit__(None, None, None)
                assert [finding.name for finding in process.findings()] == ["dropout in evaluation mode"]
            weights = torch.cat([value.detach().flatten() for value in model.parameters()])
            numbers = (torch.rand(1).item(), np.random.rand(), random.random())
            states.append((len(heard), weights.tolist(), numbers, model.training))
    finally:
        handle.remove()
    assert states[0] == states[1]


def test_a_network_that_keeps_something_outside_is_not_called() -> None:
    CALLS.clear()
    train(Counting(functional.dropout), samples)
    assert len(CALLS) == 6
    assert keeps_outside(Counting) and keeps_outside(CountingByName) and not keeps_outside(Net)


class Tagger(nn.Module):
    """Attention over tokens, with the later ones hidden or not.

    Args:
        causal: whether they are.
    """

    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(9, 8), nn.Linear(8, 9)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.causal = causal

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1]) if self.causal else None
        answers: Tensor = self.out(x + self.attention(x, x, x, attn_mask=mask, need_weights=False)[0])
        return answers


@pytest.mark.slow
@pytest.mark.parametrize("causal", [False, True])
def test_a_target_that_the_network_sees_is_named(causal: bool) -> None:
    def tokens() -> tuple[Tensor, Tensor]:
        some = torch.randint(0, 9, (8, 13))
        return some[:, :-1], some[:, 1:]

    torch.manual_seed(0)
    found = [(finding.severity, finding.name) for finding in train(Tagger(causal), tokens)]
    assert found == ([] if causal else [("fault", "the target is visible in the input")])
    # Other targets may be seen: those of a masked network, or of a tagger.
    assert train(Tagger(causal), lambda: (tokens()[0], tokens()[0])) == []


def test_a_network_under_vmap_is_not_tried() -> None:
    model = nn.Linear(6, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ProcessWatch() as process:
        for _ in range(3):
            torch.func.vmap(model)(samples()[0][:, None])
            optimizer.zero_grad()
            functional.mse_loss(model(samples()[0]), torch.zeros(16, 3)).backward()
            torch.func.vmap(model)(samples()[0][:, None])
            optimizer.step()
    assert process.findings().unjudged == []


class WithLoss(nn.Module):
    """A network that is given its targets by place, and computes the loss itself."""

    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.tagger = Tagger(causal)

    def forward(self, tokens: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        answers = self.tagger(tokens)
        return answers, functional.cross_entropy(answers.flatten(0, 1), targets.flatten())


@pytest.mark.parametrize("causal", [False, True])
def test_targets_that_are_given_to_the_network_by_place_are_none_of_its_inputs(causal: bool) -> None:
    torch.manual_seed(0)
    model = WithLoss(causal)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    with ProcessWatch() as watch:
        for _ in range(6):
            some = torch.randint(0, 9, (8, 13))
            optimizer.zero_grad()
            model(some[:, :-1], some[:, 1:])[1].backward()
            optimizer.step()
    names = [finding.name for finding in watch.findings() if finding.severity == "fault"]
    assert names == ([] if causal else ["the target is visible in the input"])


def severities_of_mixing(
    model: nn.Module, data: torch.utils.data.Dataset[Any], batch_size: int, shuffle: bool
) -> list[str]:
    """Of what is found of samples that are mixed, after one pass over a loader."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    with ProcessWatch() as process:
        for x, y in torch.utils.data.DataLoader(data, batch_size=batch_size, shuffle=shuffle):
            optimizer.zero_grad()
            functional.mse_loss(model(x), y).backward()
            optimizer.step()
    return [one.severity for one in process.findings() if one.name == "the samples of a batch are mixed"]


class AlongTheBatch(nn.Module):
    """An LSTM that takes the first dimension for time, and is given samples there, or time as it asks for."""

    def __init__(self, turned: bool) -> None:
        super().__init__()
        self.rnn, self.head, self.turned = nn.LSTM(3, 8), nn.Linear(8, 1), turned

    def forward(self, x: Tensor) -> Tensor:
        answers: Tensor = self.head(self.rnn(x.transpose(0, 1) if self.turned else x)[0])
        return answers.transpose(0, 1)[:, -1] if self.turned else answers[:, -1]


@pytest.mark.parametrize(
    ("turned", "shuffle", "expected"), [(False, True, "fault"), (False, False, "warning"), (True, True, "")]
)
def test_a_recurrence_along_shuffled_samples_is_a_fault(turned: bool, shuffle: bool, expected: str) -> None:
    torch.manual_seed(0)
    model = AlongTheBatch(turned)
    # As many samples as times.
    data = torch.utils.data.TensorDataset(torch.randn(32, 8, 3), torch.randn(32, 1))
    assert severities_of_mixing(model, data, 8, shuffle) == [expected] * bool(expected)


class Episode(nn.Module):
    """A memory that meets the samples of one episode in random order, one by one; or a table of places along them."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.cell, self.head, self.kind = nn.LSTMCell(3, 8), nn.Linear(8, 1), kind
        self.register_buffer("table", torch.randn(16 if kind == "places" else 4, 1))

    def forward(self, x: Tensor) -> Tensor:
        states = (torch.zeros(1, 8), torch.zeros(1, 8))
        if self.kind == "memory":
            answers = []
            for one in x:
                states = self.cell(one[None], states)
                answers.append(states[0])
            return self.head(torch.cat(answers))  # type: ignore[no-any-return]
        places = self.table.repeat(len(x) // len(self.table), 1) if self.kind == "members" else self.table[: len(x)]
        hidden, _ = self.cell(x, (torch.zeros(len(x), 8), torch.zeros(len(x), 8)))
        return self.head(hidden) + places  # type: ignore[no-any-return]


@pytest.mark.parametrize(("kind", "severity"), [("memory", "warning"), ("members", "warning"), ("places", "fault")])
def test_a_memory_and_an_ensemble_may_take_shuffled_samples_by_their_places(kind: str, severity: str) -> None:
    torch.manual_seed(0)
    model = Episode(kind)
    data = torch.utils.data.TensorDataset(torch.randn(48, 3), torch.randn(48, 1))
    assert severities_of_mixing(model, data, 16, shuffle=True) == [severity]


class Carrying(nn.Module):
    """A GRU whose state is kept for the next batch, or set back before it."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.GRU(3, 8, batch_first=True), nn.Linear(8, 1)
        self.state: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        out, state = self.rnn(x, self.state)
        self.state = state.detach()
        answers: Tensor = self.head(out[:, -1])
        return answers


@pytest.mark.parametrize(("set_back", "shuffle"), [(False, True), (True, True), (False, False)])
def test_a_state_is_not_carried_between_shuffled_batches(set_back: bool, shuffle: bool) -> None:
    torch.manual_seed(0)
    model = Carrying()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    data = torch.utils.data.TensorDataset(torch.randn(64, 5, 3), torch.randn(64, 1))
    with ProcessWatch() as process:
        for x, y in torch.utils.data.DataLoader(data, batch_size=8, shuffle=shuffle):
            model.state = None if set_back else model.state
            optimizer.zero_grad()
            functional.mse_loss(model(x), y).backward()
            optimizer.step()
    found = [one.severity for one in process.findings() if one.name == "state carried to the next call"]
    assert found == ["fault"] * (shuffle and not set_back)
