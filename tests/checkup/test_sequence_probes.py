"""Padding that changes answers, or is all that is attended to, and backward directions that have met one input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rislab.checkup.probes.sequence_probes import sequence_probes
from tests.checkup.correct_networks import Of

ROWS, WIDTH = 24, 20
LENGTHS = 2 + torch.arange(ROWS) % 18
TOKENS = (1 + torch.arange(ROWS * WIDTH).reshape(ROWS, WIDTH) % 11) * (torch.arange(WIDTH) < LENGTHS[:, None])


def tokens_to(call: Callable[..., Tensor], **parts: nn.Module) -> nn.Module:
    """A network of tokens, lengths and a mask."""
    torch.manual_seed(0)
    network = Of(call, table=nn.Embedding(12, 8, padding_idx=0), out=nn.Linear(8, 2, bias=False), **parts)
    for name, value in network.named_parameters():
        # As if it were trained: at first, biases hide what the tokens do.
        value.data *= 0 if "bias" in name else 2
    return network


def attended(p: Any, tokens: Tensor, lengths: Tensor, mask: Tensor) -> Tensor:
    embedded = p["table"](tokens)
    mixed, _ = p["attention"](embedded, embedded, embedded, key_padding_mask=mask == 0)
    answer: Tensor = p["out"]((mixed * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))
    return answer


def last(p: Any, tokens: Tensor, lengths: Tensor, mask: Tensor) -> Tensor:
    answer: Tensor = p["out"](p["cell"](p["table"](tokens))[0][:, -1])
    return answer


def last_and_lengths(p: Any, tokens: Tensor, lengths: Tensor, mask: Tensor) -> Tensor:
    return last(p, tokens, lengths, mask) + 1e-3 * lengths[:, None]


def last_real(p: Any, tokens: Tensor, lengths: Tensor, mask: Tensor) -> Tensor:
    answer: Tensor = p["out"](p["cell"](p["table"](tokens))[0][torch.arange(len(tokens)), lengths - 1])
    return answer


def largest(p: Any, tokens: Tensor, lengths: Tensor, mask: Tensor) -> Tensor:
    answer: Tensor = p["out"](p["convolution"](p["table"](tokens).transpose(1, 2)).relu().amax(2))
    return answer


def each_place(p: Any, tokens: Tensor, lengths: Tensor, mask: Tensor) -> Tensor:
    answer: Tensor = p["out"](p["cell"](p["table"](tokens))[0])
    return answer


def cell() -> nn.Module:
    return nn.GRU(8, 8, batch_first=True)


def attention() -> nn.Module:
    return nn.MultiheadAttention(8, 2, batch_first=True)


REAL = (TOKENS > 0).long()
CASES: list[tuple[Callable[..., Tensor], Callable[[], dict[str, nn.Module]], Tensor, str]] = [
    (attended, lambda: {"attention": attention()}, REAL, ""),
    (last, lambda: {"cell": cell()}, REAL, "fault"),  # it is given the lengths
    (last_and_lengths, lambda: {"cell": cell()}, REAL, "warning"),
    (last_real, lambda: {"cell": cell()}, REAL, ""),
    (largest, lambda: {"convolution": nn.Conv1d(8, 8, 3)}, REAL, ""),
    (each_place, lambda: {"cell": cell()}, REAL, ""),
]


@pytest.mark.parametrize(("call", "parts", "mask", "expected"), CASES)
def test_padding_may_change_no_answer(
    call: Callable[..., Tensor], parts: Callable[[], dict[str, nn.Module]], mask: Tensor, expected: str
) -> None:
    findings = sequence_probes(tokens_to(call, **parts()), (TOKENS, LENGTHS, mask), {})
    wanted = [("answers change with padding", expected)] if expected else []
    assert [(one.name, one.severity) for one in findings] == wanted


@pytest.mark.parametrize(("kept", "expected"), [(0.02, "fault"), (0.9, "warning")])
def test_rows_that_are_forgotten_behind_their_padding(kept: float, expected: str) -> None:
    """A state that keeps so much of itself at each place, and no lengths."""

    def call(p: Any, tokens: Tensor) -> Tensor:
        given = p["table"](tokens)
        state = torch.ones_like(given[:, 0])
        for place in given.unbind(1):
            state = kept * state + place
        answer: Tensor = p["out"](state)
        return answer

    (finding,) = sequence_probes(tokens_to(call), (TOKENS,), {})
    assert (finding.name, finding.severity) == ("answers change with padding", expected)
    assert ("forgotten" in finding.evidence) is (expected == "fault")


def test_rows_of_one_length_have_no_padding() -> None:
    network = tokens_to(last, cell=cell())
    assert sequence_probes(network, (TOKENS.roll(1, 1), LENGTHS, REAL), {}) == []
    assert sequence_probes(network, (TOKENS.clamp_min(1), LENGTHS, REAL), {}) == []


BOTH: list[tuple[Callable[[Tensor, Tensor], Tensor], str]] = [
    (lambda places, states: places[:, -1], "fault"),
    (lambda places, states: torch.cat([places[:, -1, :4], places[:, 0, 4:]], 1), ""),
    (lambda places, states: states.transpose(0, 1).flatten(1), ""),
    (lambda places, states: places.mean(1), ""),
]


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize(("read", "expected"), BOTH)
def test_a_backward_direction_is_read_at_the_first_place(
    read: Callable[[Tensor, Tensor], Tensor], expected: str, layers: int, kind: Any
) -> None:
    torch.manual_seed(0)
    cell = kind(3, 4, layers, bidirectional=True, batch_first=True)

    def call(p: Any, x: Tensor) -> Tensor:
        places, states = p["cell"](x)
        answer: Tensor = p["out"](read(places, states[0] if isinstance(states, tuple) else states)[:, :8])
        return answer

    findings = sequence_probes(Of(call, cell=cell, out=nn.Linear(8, 2)), (torch.randn(6, 9, 3),), {})
    wanted = [("backward direction after one input", expected)] if expected else []
    assert [(one.name, one.severity) for one in findings] == wanted


def test_a_backward_direction_that_begins_with_a_state_is_trained() -> None:
    cell, start = nn.GRU(3, 4, bidirectional=True, batch_first=True), torch.ones(2, 6, 4)
    network = Of(lambda p, x: p["out"](p["cell"](x, start)[0][:, -1]), cell=cell, out=nn.Linear(8, 2))
    (finding,) = sequence_probes(network, (torch.randn(6, 9, 3),), {})
    assert (finding.name, finding.severity) == ("backward direction after one input", "warning")


def by_hand(p: Any, queries: Tensor, real: Tensor, inverted: bool) -> Tensor:
    scores = queries @ queries.mT
    weights: Tensor = scores.masked_fill((real == inverted)[:, None, :], -1e9).softmax(-1) @ queries
    return weights


def by_torch(p: Any, queries: Tensor, real: Tensor, inverted: bool) -> Tensor:
    mixed: Tensor = p["attention"](queries, queries, queries, key_padding_mask=real == inverted)[0]
    return mixed


def by_product(p: Any, queries: Tensor, real: Tensor, inverted: bool) -> Tensor:
    heads = queries.unflatten(2, (2, 4)).transpose(1, 2)
    mask = (real != inverted)[:, None, None, :]
    return nn.functional.scaled_dot_product_attention(heads, heads, heads, attn_mask=mask).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("attend", [by_hand, by_torch, by_product])
@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("vectors", [False, True])
def test_attention_leaves_out_the_padding_and_not_the_rest(
    attend: Callable[..., Tensor], inverted: bool, vectors: bool
) -> None:
    """Of tokens, and of vectors that are padded by zeros."""
    table = nn.Embedding(12, 8, padding_idx=0)
    attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def call(p: Any, given: Tensor, real: Tensor) -> Tensor:
        queries = given if vectors else p["table"](given)
        answer: Tensor = queries + attend(p, queries, real, inverted)
        return answer

    network = Of(call, table=table, attention=attention)
    given = table(TOKENS).detach() if vectors else TOKENS
    names = [one.name for one in sequence_probes(network, (given, TOKENS > 0), {}) if one.severity == "fault"]
    assert names == (["attention to padding alone"] if inverted else [])


@pytest.mark.parametrize(
    ("masked", "expected"), [("keys", []), ("queries", ["mask over the queries"]), ("both", []), ("causal too", [])]
)
def test_a_mask_over_the_queries_leaves_the_padding_in(masked: str, expected: list[str]) -> None:
    def call(p: Any, tokens: Tensor) -> Tensor:
        queries, real = p["table"](tokens), tokens > 0
        scores = queries @ p["key"](queries).transpose(1, 2)
        if masked != "queries":
            scores = scores.masked_fill(~real[:, None], -1e9)
        if masked != "keys":
            scores = scores.masked_fill(~real[:, :, None], -1e9)
        if masked == "causal too":
            ahead = torch.ones(tokens.shape[1], tokens.shape[1], dtype=torch.bool).triu(1)
            scores = scores.masked_fill(ahead, -1e9)
        answer: Tensor = scores.softmax(-1) @ queries
        return answer

    model = Of(call, table=nn.Embedding(12, 8, padding_idx=0), key=nn.Linear(8, 8))
    assert [one.name for one in sequence_probes(model, (TOKENS,), {}) if one.severity == "fault"] == expected


@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
@pytest.mark.parametrize("vectors", [False, True], ids=["tokens", "vectors"])
@pytest.mark.parametrize(
    ("keep", "take"),
    [
        (lambda real: real, lambda mask: mask),
        (lambda real: real.long(), lambda mask: mask == 1),
        (lambda real: real.float()[:, None, None, :], lambda mask: mask[:, 0, 0] > 0),
        (lambda real: ~real, lambda mask: ~mask),
        (lambda real: (~real) * -1e9, lambda mask: mask == 0),
    ],
    ids=["keeps", "ones", "broadcast", "leaves out", "added"],
)
def test_a_mask_that_leaves_out_nothing_beside_padding(
    keep: Callable[..., Tensor], take: Callable[..., Tensor], vectors: bool, left: bool
) -> None:
    torch.manual_seed(0)
    table = nn.Embedding(12, 8, padding_idx=0)
    table.weight.data *= 0.3  # so that a place attends to others too
    tokens = TOKENS.flip(1) if left else TOKENS
    given = table(tokens).detach() if vectors else tokens

    def call(p: Any, given: Tensor, mask: Tensor) -> Tensor:
        queries = given if vectors else p["table"](given)
        scores = (queries @ queries.mT).masked_fill(~take(mask)[:, None, :], -1e9)
        mixed: Tensor = scores.softmax(-1) @ queries
        return mixed

    network = Of(call, table=table)

    def names(real: Tensor) -> list[str]:
        return [one.name for one in sequence_probes(network, (given, keep(real)), {})]

    assert names(torch.ones_like(tokens, dtype=torch.bool)) == ["mask that leaves out nothing"]
    assert "mask that leaves out nothing" not in names(tokens > 0)


def test_a_mask_that_leaves_out_nothing_may_do_no_harm() -> None:
    """Where each place sees those before it, padding behind it is not seen; a table of ones may be no mask."""
    table, everything = nn.Embedding(12, 8, padding_idx=0), torch.ones_like(TOKENS, dtype=torch.bool)
    before = torch.ones(TOKENS.shape[1], TOKENS.shape[1], dtype=torch.bool).tril()

    def causal(p: Any, tokens: Tensor, mask: Tensor) -> Tensor:
        queries = p["table"](tokens)
        scores = (queries @ queries.mT).masked_fill(~(mask[:, None, :] & before), -1e9)
        mixed: Tensor = scores.softmax(-1) @ queries
        return mixed

    assert sequence_probes(Of(causal, table=table), (TOKENS, everything), {}) == []
    unread = Of(lambda p, tokens, ones: (p["table"](tokens) * (tokens > 0)[..., None]).sum(1), table=table)
    assert sequence_probes(unread, (TOKENS, everything), {}) == []
