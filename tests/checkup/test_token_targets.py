"""Target tokens: labels shifted once are right and twice are not; padding must not count."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from rislab.checkup.process_watch import ProcessWatch

V = 23


class Tagger(nn.Module):
    """A causal network with an answer for each token, and its loss if it is told how to compute it.

    Args:
        loss: of answers and tokens, None to give the answers.
    """

    def __init__(self, loss: Callable[[Tensor, Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.embed, self.rnn, self.out = nn.Embedding(V, 8), nn.GRU(8, 8, batch_first=True), nn.Linear(8, V)
        self.loss = loss

    def forward(self, tokens: Tensor) -> Tensor:
        answers: Tensor = self.out(self.rnn(self.embed(tokens))[0])
        return answers if self.loss is None else self.loss(answers, tokens)


def names(batch: Callable[[], Tensor], loss: Callable[[Tensor, Tensor], Tensor], inside: bool) -> list[str]:
    """What is found on a network that is trained on batches of tokens."""
    torch.manual_seed(0)
    model = Tagger(loss if inside else None)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ProcessWatch() as process:
        for _ in range(4):
            tokens = batch()
            optimizer.zero_grad()
            (model(tokens) if inside else loss(model(tokens), tokens)).backward()
            optimizer.step()
    return [finding.name for finding in process.findings()]


def severities(loss: Callable[[Tensor, Tensor], Tensor], given: slice = slice(None)) -> list[str]:
    """Of "labels shifted twice", in a loop whose network is given a part of the tokens."""
    torch.manual_seed(0)
    model = Tagger()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ProcessWatch() as process:
        for _ in range(4):
            tokens = plain()
            optimizer.zero_grad()
            loss(model(tokens[:, given]), tokens).backward()
            optimizer.step()
    return [one.severity for one in process.findings() if one.name == "labels shifted twice"]


def flat(answers: Tensor, tokens: Tensor) -> Tensor:
    """The loss of answers and as many tokens."""
    return functional.cross_entropy(answers.reshape(-1, V), tokens.reshape(-1))


ALL_BUT_LAST, TWO_ON = slice(None, -1), slice(None, -2)
TWICE: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], slice, list[str]]] = {
    "both in the loss": (lambda a, t: flat(a[:, :-1][:, :-1], t[:, 1:][:, 1:]), slice(None), ["fault"]),
    "in the data and in the loss": (lambda a, t: flat(a[:, :-1], t[:, 1:][:, 1:]), ALL_BUT_LAST, ["fault"]),
    "scaled": (lambda a, t: flat(a[:, :-1], t[:, 2:]) / 4, ALL_BUT_LAST, ["fault"]),
    "two places on by one shift": (lambda a, t: flat(a[:, :-2], t[:, 2:]), slice(None), ["warning"]),
    "two places on, in the data": (lambda a, t: flat(a, t[:, 2:]), TWO_ON, ["warning"]),
    "with a loss by hand of the next": (
        lambda a, t: (
            flat(a[:, :-1], t[:, 2:])
            - functional.log_softmax(a, -1).gather(2, t[:, 1:].unsqueeze(2)).mean()  # the usual loss
        ),
        ALL_BUT_LAST,
        ["warning"],
    ),
    "once": (lambda a, t: flat(a, t[:, 1:]), ALL_BUT_LAST, []),
    # The first token says nothing of the second, and its answer is left out.
    "once, without the first answer": (lambda a, t: flat(a[:, 1:], t[:, 2:]), ALL_BUT_LAST, []),
    "once, without the first answer, in the loss": (lambda a, t: flat(a[:, 1:-1], t[:, 2:]), slice(None), []),
    "two on, without the first answer": (lambda a, t: flat(a[:, 1:-1], t[:, 3:]), ALL_BUT_LAST, ["warning"]),
}


@pytest.mark.parametrize("kind", TWICE)
def test_two_shifts_are_certain_where_both_are_observed(kind: str) -> None:
    loss, given, expected = TWICE[kind]
    assert severities(loss, given) == expected


def shifted(places: int) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of answers for tokens so many places on."""

    def loss(answers: Tensor, tokens: Tensor) -> Tensor:
        kept = answers[:, : answers.shape[1] - places]
        return functional.cross_entropy(kept.reshape(-1, V), tokens[:, places:].reshape(-1))

    return loss


def plain() -> Tensor:
    """Tokens without padding, (16, 12)."""
    return torch.randint(1, V, (16, 12))


def padded() -> Tensor:
    """Tokens that end in zeros, (16, 12)."""
    lengths = torch.randint(2, 9, (16, 1))
    return plain() * (torch.arange(12) < lengths)


def ignoring(answers: Tensor, tokens: Tensor) -> Tensor:
    """A loss in which padding does not count."""
    return functional.cross_entropy(answers.reshape(-1, V), tokens.reshape(-1), ignore_index=0)


@pytest.mark.slow
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("places", [0, 1, 2])
def test_labels_are_shifted_once(places: int, inside: bool) -> None:
    # Of a network that gives its loss alone, it cannot be tried whether it looks ahead.
    expected = {0: [] if inside else ["labels never shifted"], 1: [], 2: ["labels shifted twice"]}
    assert names(plain, shifted(places), inside) == expected[places]


class Seen(nn.Module):
    """A network that sees each token, or the one before it, with the first of all put before them.

    Args:
        itself: whether it sees the token.
    """

    def __init__(self, itself: bool) -> None:
        super().__init__()
        self.inner, self.itself = Tagger(), itself

    def forward(self, tokens: Tensor) -> Tensor:
        before = torch.cat([torch.zeros(len(tokens), 1).long(), tokens[:, :-1]], 1)
        answers: Tensor = self.inner(tokens if self.itself else before)
        return answers


@pytest.mark.parametrize(
    ("itself", "steps", "expected"), [(True, 4, ["warning"]), (True, 90, ["fault"]), (False, 90, [])]
)
def test_who_has_learned_to_repeat_has_labels_that_were_never_shifted(
    itself: bool, steps: int, expected: list[str]
) -> None:
    torch.manual_seed(0)
    model = Seen(itself)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    with ProcessWatch() as process:
        for _ in range(steps):
            # Each token follows from the one before: who does not see it knows it all the same.
            tokens = 1 + (torch.randint(0, V - 1, (32, 1)) + 5 * torch.arange(10)) % (V - 1)
            optimizer.zero_grad()
            flat(model(tokens), tokens).backward()
            optimizer.step()
    assert [one.severity for one in process.findings() if one.name == "labels never shifted"] == expected


@pytest.mark.slow
def test_a_second_head_for_the_token_after_the_next_is_right() -> None:
    assert names(plain, lambda answers, tokens: shifted(1)(answers, tokens) + shifted(2)(answers, tokens), False) == []


@pytest.mark.slow
@pytest.mark.parametrize("inside", [False, True])
def test_padding_that_counts_is_named(inside: bool) -> None:
    assert "padding counts in the loss" in names(padded, shifted(0), inside)
    assert "padding counts in the loss" not in names(padded, ignoring, inside)


@pytest.mark.slow
def test_a_token_that_also_stands_elsewhere_is_no_padding() -> None:
    scattered = names(lambda: padded() * (torch.rand(16, 12) > 0.1), shifted(0), False)
    assert "padding counts in the loss" not in scattered


class Translator(Tagger):
    """A decoder that knows a source, of which the target is the reverse."""

    def forward(self, tokens: Tensor, source: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(tokens) + self.out(self.rnn(self.embed(source))[0][:, -1:])


@pytest.mark.parametrize("leak", [True, False])
def test_the_source_of_a_decoder_may_hold_its_targets(leak: bool) -> None:
    torch.manual_seed(0)
    model = Translator()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ProcessWatch() as process:
        for _ in range(4):
            target = plain()
            given = target if leak else torch.cat([torch.zeros(16, 1).long(), target[:, :-1]], 1)
            optimizer.zero_grad()
            functional.cross_entropy(model(given, target.flip(1)).reshape(-1, V), target.reshape(-1)).backward()
            optimizer.step()
    assert [one.name for one in process.findings()] == (["labels never shifted"] if leak else [])


class Causal(Tagger):
    """Shifts its labels itself, and has none for the last token, as the models of transformers."""

    def forward(self, input_ids: Tensor, labels: Tensor) -> Tensor:  # type: ignore[override]
        answers = super().forward(input_ids)
        moved = functional.pad(labels, (0, 1), value=-100)[:, 1:]
        return functional.cross_entropy(answers.reshape(-1, V), moved.reshape(-1))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("batch", "shifted_before", "expected"),
    [(plain, True, ["labels shifted twice"]), (plain, False, []), (padded, False, ["padding counts in the loss"])],
)
def test_a_network_that_is_given_its_labels(batch: Any, shifted_before: bool, expected: list[str]) -> None:
    torch.manual_seed(0)
    model = Causal()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ProcessWatch() as process:
        for _ in range(4):
            tokens = batch()
            given = (tokens[:, :-1], tokens[:, 1:]) if shifted_before else (tokens, tokens.clone())
            optimizer.zero_grad()
            model(input_ids=given[0], labels=given[1]).backward()
            optimizer.step()
    assert [finding.name for finding in process.findings()] == expected
    assert bool(process.findings().faults) is shifted_before
