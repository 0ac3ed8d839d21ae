"""What is tried on a network with an input alone: silent on correct networks of all kinds, and faults are named."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_sequence

from rislab.checkup.probes.network_probes import MIXED, network_probes
from tests.checkup.correct_networks import CORRECT_NETWORKS, Of

# A network and its arguments.
Made = tuple[nn.Module, tuple[Any, ...]]


class Stateful(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.state = nn.GRU(8, 16, batch_first=True), None

    def forward(self, x: Tensor) -> Any:
        answer, self.state = self.cell(x, self.state)
        return answer


class Graph(nn.Module):
    """Keeps the matrix of its graph, and gets its nodes first."""

    def __init__(self, *, sparse: bool) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 4)
        matrix = (torch.rand(20, 20) < 0.5).float()
        self.matrix = matrix.to_sparse() if sparse else matrix

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.matrix @ torch.relu(self.one(self.matrix @ x)))  # type: ignore[no-any-return]


NEIGHBOURS = (torch.rand(20, 20, generator=torch.Generator().manual_seed(0)) < 0.5).float()


def among_neighbours(parts: nn.ModuleDict, x: Tensor) -> Tensor:
    """Takes the matrix of its graph from where the data are."""
    return NEIGHBOURS @ parts["a"](x)  # type: ignore[no-any-return]


class OnGraph(nn.Module):
    """Its forward looks a matrix up outside, in a function that it calls."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({"a": nn.Linear(8, 4)})

    def forward(self, x: Tensor) -> Tensor:
        return among_neighbours(self.parts, x)


def experts(parts: nn.ModuleDict, x: Tensor) -> Tensor:
    """Each takes no more samples than it has room for."""
    weight, which = parts["gate"](x).softmax(-1).max(-1)
    answer = x.clone()
    for number, name in enumerate(("a", "b", "c")):
        places = (which == number).nonzero()[: len(x) // 3, 0]
        answer = answer.index_add(0, places, weight[places, None] * parts[name](x[places]))
    return answer


def unbatched(parts: nn.ModuleDict, x: Tensor) -> Any:
    return parts["head"](parts["cell"](x[:, None])[0][:, 0])


def attention(*, first: bool) -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=first)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def cell(**options: Any) -> nn.Module:
    return Of(lambda p, x: p["head"](p["cell"](x)[0]), cell=nn.LSTM(8, 6, bidirectional=True, **options),
              head=nn.Linear(12, 4))  # fmt: skip


EDGES = torch.randint(0, 20, (2, 60), generator=torch.Generator().manual_seed(0))
SILENT: dict[str, Callable[[], Made]] = {
    "BatchNorm": lambda: (nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout()), (torch.randn(16, 8),)),
    "sequences first": lambda: (cell(), (torch.randn(12, 6, 8),)),
    "sequences first, one of them": lambda: (cell(), (torch.randn(12, 1, 8),)),
    "one sequence": lambda: (cell(), (torch.randn(12, 8),)),
    "one sequence, with a batch made inside": lambda: (
        Of(unbatched, cell=nn.LSTM(8, 6, bidirectional=True), head=nn.Linear(12, 4)), (torch.randn(12, 8),)
    ),
    "sequences first, answers flat": lambda: (
        Of(lambda p, x, h: (p["cell"](x, h)[0].flatten(0, 1), h), cell=nn.GRU(8, 6, bidirectional=True)),
        (torch.randn(12, 6, 8), torch.zeros(2, 6, 6)),
    ),
    "packed": lambda: (nn.GRU(8, 6), (pack_sequence([torch.randn(size, 8) for size in (6, 5, 4)]),)),
    "transformer, sequences first": lambda: (attention(first=False), (torch.randn(12, 6, 8),)),
    "transformer": lambda: (attention(first=True), (torch.randn(12, 6, 8),)),
    "transformer, one sequence": lambda: (attention(first=True), (torch.randn(12, 8),)),
    "one image": lambda: (nn.Conv2d(3, 3, 3, padding=1), (torch.randn(3, 8, 8),)),
    "one vector": lambda: (nn.Linear(8, 8), (torch.randn(8),)),
    "graph of edges": lambda: (
        Of(lambda p, x, e: (y := p["a"](x)).index_add(0, e[1], y[e[0]]), a=nn.Linear(8, 8)),
        (torch.randn(20, 8), EDGES),
    ),
    "graph of a matrix": lambda: (Graph(sparse=False), (torch.randn(20, 8),)),
    "graph of a sparse matrix": lambda: (Graph(sparse=True), (torch.randn(20, 8),)),
    "graph of a matrix outside": lambda: (OnGraph(), (torch.randn(20, 8),)),
    "graph of a matrix given": lambda: (
        Of(lambda p, x, m: m @ p["a"](x), a=nn.Linear(8, 4)), (torch.randn(20, 8), torch.rand(20, 20))
    ),
    "experts": lambda: (
        Of(experts, gate=nn.Linear(8, 3), a=nn.Linear(8, 8), b=nn.Linear(8, 8), c=nn.Linear(8, 8)),
        (torch.randn(30, 8),),
    ),
    "similarities": lambda: (
        Of(lambda p, a, b: functional.normalize(p["a"](a)) @ functional.normalize(p["a"](b)).T, a=nn.Linear(8, 8)),
        (torch.randn(16, 8), torch.randn(16, 8)),
    ),
    "siamese": lambda: (
        Of(lambda p, a, b: (p["a"](a), p["a"](b)), a=nn.Linear(8, 8)), (torch.randn(16, 8), torch.randn(16, 8))
    ),
    "spectral norm": lambda: (nn.utils.spectral_norm(nn.Linear(8, 8)), (torch.randn(16, 8),)),
    "list": lambda: (
        Of(lambda p, xs: torch.stack([p["a"](x).mean(0) for x in xs]), a=nn.Linear(8, 4)),
        ([torch.randn(size, 8) for size in (3, 5, 2, 4)],),
    ),
    "scripted": lambda: (torch.jit.script(nn.Sequential(nn.Linear(8, 8), nn.ReLU())), (torch.randn(4, 8),)),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", SILENT)
def test_nothing_is_found_in_a_correct_network(name: str) -> None:
    torch.manual_seed(0)
    model, args = SILENT[name]()
    assert network_probes(model, args) == []


@pytest.mark.parametrize("name", CORRECT_NETWORKS)
def test_nothing_louder_than_a_note_is_found_in_networks_with_a_loss(name: str) -> None:
    torch.manual_seed(0)
    model, _, data = CORRECT_NETWORKS[name]()
    inputs = data[0] if isinstance(data[0], dict) else data[0][0]
    if isinstance(inputs, dict):
        findings = network_probes(model, (), {key: inputs[key] for key in ("input_ids", "attention_mask")})
    else:
        findings = network_probes(model, inputs if isinstance(inputs, tuple) else (inputs,))
    assert [finding for finding in findings if finding.severity != "note"] == []


def test_what_is_carried_and_what_is_drawn_on_purpose_is_a_note() -> None:
    model, x = Stateful(), torch.randn(4, 6, 8)
    for _ in range(2):
        assert [(one.severity, one.name) for one in network_probes(model, (x,))] == [
            ("note", "state carried to the next call")
        ]
        model(x)
    draw, _, data = CORRECT_NETWORKS["variational"]()
    (finding,) = network_probes(draw, (data[0][0],))
    assert finding.severity == "note" and "randn_like at " in finding.evidence


class Averaging(nn.Module):
    """Follows the mean of what it evaluates."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8)
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        self.mean = 0.9 * self.mean + 0.1 * self.inner(x).mean(dim=0).detach()
        return self.inner(x) - self.mean  # type: ignore[no-any-return]


def scaled_attention(p: nn.ModuleDict, x: Tensor) -> Tensor:
    return functional.scaled_dot_product_attention(p["a"](x), x, x, dropout_p=0.1)


FAULTS: dict[str, tuple[Callable[[], Made], str, str]] = {
    "functional dropout": (
        lambda: (Of(lambda p, x: functional.dropout(p["a"](x), 0.5), a=nn.Linear(8, 8)), (torch.randn(16, 8),)),
        "dropout in evaluation mode", "dropout drew",
    ),
    "dropout of attention": (
        lambda: (Of(scaled_attention, a=nn.Linear(8, 8)), (torch.randn(4, 6, 8),)),
        "dropout in evaluation mode", "scaled_dot_product_attention drew",
    ),
    "new layers": (
        lambda: (Of(lambda p, x: nn.Linear(8, 4)(p["a"](x)), a=nn.Linear(8, 8)), (torch.randn(16, 8),)),
        "layers made in the forward", "",
    ),
    "running mean": (lambda: (Averaging(), (torch.randn(16, 8),)), "evaluation changes the network", "mean"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_an_evaluation_that_is_not_the_same_twice_is_a_fault(name: str) -> None:
    torch.manual_seed(0)
    make, wanted, text = FAULTS[name]
    (finding,) = network_probes(*make())
    assert (finding.severity, finding.code, finding.name) == ("fault", "P11", wanted)
    assert text in finding.evidence
    assert finding.where or name == "running mean"


def hidden_view(p: nn.ModuleDict, x: Tensor) -> Any:
    return p["head"](p["cell"](x)[1].view(len(x), 12))


def time_first_view(p: nn.ModuleDict, x: Tensor) -> Any:
    return p["head"](p["cell"](x)[1][0].reshape(x.shape[1], 12))


class Heads(nn.Module):
    """Attention whose weights are normalised over the samples; as many features as there are samples."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.inner, self.axis, self.out = nn.Linear(16, 16), axis, nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        one = self.inner(x).unflatten(2, (2, 8)).transpose(1, 2)
        weights = (one @ one.transpose(2, 3)).softmax(dim=self.axis)
        return self.out((weights @ one).transpose(1, 2).flatten(2).mean(1))  # type: ignore[no-any-return]


PLACES = torch.stack([torch.randperm(24, generator=torch.Generator().manual_seed(at))[:3] for at in range(24)])
# What mixes rows on purpose, if they are a set, nodes of a mesh, or in an order that is told.
MEANT: dict[str, Callable[[], Made]] = {
    "weights of a set": lambda: (
        Of(lambda p, x: p["b"](x + (p["a"](x).softmax(0) * x).sum(0)), a=nn.Linear(8, 1), b=nn.Linear(8, 3)),
        (torch.randn(16, 8),),
    ),
    "heads of a set": lambda: (
        Of(lambda p, x: p["b"](x) + (p["a"](x).softmax(0).transpose(1, 2) @ p["b"](x)).sum(0), a=nn.Linear(8, 5),
           b=nn.Linear(8, 3)),
        (torch.randn(16, 5, 8),),
    ),
    "a partner": lambda: (Of(lambda p, x: p["a"](x.roll(8, 0)), a=nn.Linear(8, 3)), (torch.randn(16, 8),)),
    "sorted": lambda: (Of(lambda p, x: p["a"](x[x[:, 0].argsort()]), a=nn.Linear(8, 3)), (torch.randn(16, 8),)),
    "neighbours outside": lambda: (
        Of(lambda p, x: p["a"](x[PLACES].sum(1)), a=nn.Linear(8, 3)), (torch.randn(24, 8),)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MEANT)
def test_samples_that_may_be_mixed_on_purpose_are_no_fault(name: str) -> None:
    torch.manual_seed(0)
    assert [one for one in network_probes(*MEANT[name]()) if one.severity == "fault"] == []


MIXING: dict[str, tuple[Callable[[], Made], str]] = {
    "heads over the batch": (lambda: (Heads(0), (torch.randn(16, 6, 16),)), "normalised over the batch"),
    "view of a state, sequences first": (
        lambda: (
            Of(time_first_view, cell=nn.LSTM(8, 6, bidirectional=True), head=nn.Linear(12, 3)),
            (torch.randn(5, 24, 8),),
        ),
        MIXED,
    ),
    "softmax over the batch": (
        lambda: (Of(lambda p, x: p["a"](x).softmax(dim=0), a=nn.Linear(8, 8)), (torch.randn(16, 8),)),
        "normalised over the batch",
    ),
    "attention over the batch": (
        lambda: (
            Of(lambda p, x: p["b"]((p["a"](x).softmax(0) * x).sum(1)), a=nn.Linear(8, 1), b=nn.Linear(8, 3)),
            (torch.randn(16, 5, 8),),
        ),
        "normalised over the batch",
    ),
    "view of the hidden state": (
        lambda: (
            Of(hidden_view, cell=nn.GRU(8, 6, bidirectional=True, batch_first=True), head=nn.Linear(12, 3)),
            (torch.randn(32, 5, 8),),
        ),
        MIXED,
    ),
    "recurrence along the batch": (
        lambda: (
            Of(lambda p, x: p["head"](p["cell"](x)[0][:, -1]), cell=nn.LSTM(8, 6), head=nn.Linear(6, 3)),
            (torch.randn(24, 5, 8),),
        ),
        MIXED,
    ),
    "places counted along the batch": (
        lambda: (
            Of(lambda p, x: p["a"](x) + p["place"](torch.arange(len(x))), a=nn.Linear(8, 3), place=nn.Embedding(64, 3)),
            (torch.randn(16, 8),),
        ),
        MIXED,
    ),
}  # fmt: skip


CERTAIN = (
    "heads over the batch", "attention over the batch", "view of the hidden state", "view of a state, sequences first",
)  # fmt: skip


def test_rows_with_weights_of_their_own_may_stand_in_their_order_alone() -> None:
    own = nn.ParameterList([torch.randn(16, 3)])
    nodes = Of(lambda p, x: p["a"](x) + p["own"][0], a=nn.Linear(8, 3), own=own)
    assert network_probes(nodes, (torch.randn(16, 8),)) == []


def in_training(parts: nn.ModuleDict, x: Tensor, given: Tensor) -> Tensor:
    return parts["a"](x) + given if parts.training else parts["a"](x)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "use,second,named",
    [
        (lambda p, x, t: p["a"](x), torch.randn(16), True),
        (lambda p, x, t: p["a"](x) + t[:, None], torch.randn(16), False),
        (in_training, torch.randn(16, 4), False),
        (lambda p, x, mask: p["a"](x), torch.ones(16, 8), False),
    ],
    ids=["unused", "used", "used in training", "the same for all"],
)
def test_an_input_that_changes_no_answer_is_warned_of(use: Any, second: Tensor, named: bool) -> None:
    torch.manual_seed(0)
    findings = network_probes(Of(use, a=nn.Linear(8, 4)), (torch.randn(16, 8), second))
    assert [(one.severity, one.name) for one in findings] == [("warning", "network never sees an input")] * named


class TakesLabels(nn.Module):
    """As a network for the Trainer of transformers whose loss is computed outside: it takes labels and leaves them."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor, labels: Tensor | None = None, lengths: Tensor | None = None) -> Tensor:
        return self.head(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize(("name", "named"), [("labels", False), ("lengths", True)])
def test_a_target_that_a_network_is_handed_may_change_no_answer(name: str, named: bool) -> None:
    torch.manual_seed(0)
    arguments = {"x": torch.randn(16, 8), name: torch.arange(16)}
    findings = network_probes(TakesLabels(), (), arguments)
    assert [one.name for one in findings] == ["network never sees an input"] * named


@pytest.mark.parametrize("name", MIXING)
def test_samples_that_change_the_answers_of_others_are_named(name: str) -> None:
    torch.manual_seed(0)
    make, wanted = MIXING[name]
    severity = "fault" if name in CERTAIN else "warning"
    assert [(one.severity, one.code, one.name) for one in network_probes(*make())] == [(severity, "P3", wanted)]
    assert network_probes(Heads(-1), (torch.randn(16, 6, 16),)) == []


def test_nothing_that_is_given_is_changed() -> None:
    model, x = Averaging(), torch.randn(16, 8, requires_grad=True)
    inplace = nn.Sequential(nn.Linear(8, 8), nn.ReLU(inplace=True))
    before, given = model.mean.clone(), x.detach().clone()
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    network_probes(model, (x * 1,))
    network_probes(inplace, (x,))
    assert torch.equal(model.mean, before) and torch.equal(x, given) and model.training and x.grad is None
    assert torch.equal(torch.get_rng_state(), states[0]) and random.getstate() == states[1]
    assert bool((np.random.get_state()[1] == states[2]).all())


def test_what_raises_is_not_judged() -> None:
    (finding,) = network_probes(nn.Linear(3, 3), (torch.randn(4, 8),))
    assert finding.name == "not judged" and "RuntimeError" in finding.evidence
