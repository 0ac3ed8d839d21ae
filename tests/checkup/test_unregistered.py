"""One layer in many places, and a table of tokens that is copied where it was to be tied, are named."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from rislab.checkup.findings import Findings
from rislab.checkup.process_watch import ProcessWatch


class Tokens(nn.Module):
    """Foretells the next token; how its head is made of the embedding is the question."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.embed, self.cell = nn.Embedding(9, 6), nn.GRU(6, 6, batch_first=True)
        self.head = nn.Linear(6, 9, bias=False)
        if kind in ("tied", "a copy of the tied head", "a copy of all"):
            self.head.weight = self.embed.weight
        if kind == "a copy of the tied head":
            self.head = copy.deepcopy(self.head)
        if kind in ("a clone", "frozen"):
            self.head.weight = nn.Parameter(self.embed.weight.clone())
        if kind == "copied numbers":
            self.head.weight.data.copy_(self.embed.weight.data)
        if kind == "frozen":
            self.embed.requires_grad_(False)
        if kind == "one number":
            for layer in (self.embed, self.head):
                nn.init.constant_(layer.weight, 0.1)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.cell(self.embed(tokens))[0])  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", ["a clone", "copied numbers", "a copy of the tied head"])
def test_a_head_that_begins_as_the_embedding_and_is_trained_alone(kind: str) -> None:
    assert apart(kind) == ["warning"]


@pytest.mark.parametrize("kind", ["tied", "a copy of all", "frozen", "free", "one number"])
def test_a_head_that_is_tied_or_has_numbers_of_its_own(kind: str) -> None:
    """A copy of the whole network is tied as the network is; beside a frozen embedding the head alone is trained."""
    assert apart(kind) == []


def apart(kind: str) -> list[str]:
    """Severities of what is said of tied weights."""
    torch.manual_seed(0)
    network = Tokens(kind)
    network = copy.deepcopy(network) if kind == "a copy of all" else network
    optimizer = torch.optim.SGD([value for value in network.parameters() if value.requires_grad], lr=0.1)
    with ProcessWatch() as process:
        for _ in range(6):
            tokens = torch.randint(0, 9, (4, 8))
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(tokens[:, :-1]).transpose(1, 2), tokens[:, 1:]).backward()
            optimizer.step()
    return [one.severity for one in process.findings() if one.name == "tied weights come apart"]


def findings_of(network: nn.Module) -> Findings:
    """What is said of four steps of a network."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    with ProcessWatch() as process:
        for _ in range(4):
            optimizer.zero_grad()
            network(torch.randn(8, 4)).square().mean().backward()
            optimizer.step()
    return process.findings()


def layers_of(kind: str) -> list[nn.Module]:
    layer, other, activation = nn.Linear(4, 4), nn.Linear(4, 4), nn.Tanh()
    return {
        "one layer": [layer] * 3,
        "a block": [layer, activation] * 3,
        "a block amid others": [other, activation, *[layer, activation] * 3, nn.Linear(4, 4)],
        "one activation": [layer, activation, other, activation],
        "twice amid others": [other, activation, layer, activation, layer, activation, nn.Linear(4, 4)],
        "at both ends": [layer, activation, other, activation, layer],
        "layers of their own": [nn.Linear(4, 4) for _ in range(3)],
    }[kind]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("one layer", "warning"),
        ("a block", "warning"),
        ("a block amid others", "note"),
        ("one activation", ""),
        ("twice amid others", ""),
        ("at both ends", ""),
        ("layers of their own", ""),
    ],
)
def test_layers_that_come_again_after_themselves(kind: str, expected: str) -> None:
    torch.manual_seed(0)
    findings = findings_of(nn.Sequential(*layers_of(kind)))
    found = [one.severity for one in findings if one.name == "one layer in all places"]
    assert found == ([expected] if expected else [])


class Residual(nn.Module):
    """Layers in a list, of which some have no norm: None stands in its place, and is passed over."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList([None, nn.Linear(4, 4), None, None, nn.Linear(4, 4), None, None])  # type: ignore[list-item]

    def forward(self, values: Tensor) -> Tensor:
        for part in self.parts:
            values = values if part is None else part(values)
        return values


def test_a_list_of_layers_may_hold_none() -> None:
    torch.manual_seed(0)
    assert [(one.name, one.evidence) for one in findings_of(Residual())] == []


@pytest.mark.parametrize("kind", ["held", "left out", "an input", "of a derivative", "moved by hand"])
def test_tensors_of_no_module_belong_in_an_optimiser_or_are_inputs(kind: str) -> None:
    torch.manual_seed(0)
    network, loose = nn.Linear(3, 4), torch.randn(4, 2, requires_grad=True)
    inputs = torch.randn(8, 3, requires_grad=kind in ("an input", "of a derivative"))
    held = [*network.parameters(), *[loose][: kind != "left out" and kind != "moved by hand"]]
    optimizer = torch.optim.SGD(held, lr=0.05)
    with ProcessWatch() as process:
        for _ in range(8):
            optimizer.zero_grad()
            # What a network is given, or a loss is differentiated by, has a gradient that nobody steps on.
            loss = (network(2 * inputs if kind == "an input" else inputs) @ loose).square().mean()
            if kind == "of a derivative":
                loss = loss + torch.autograd.grad(loss, inputs, create_graph=True)[0].square().mean()
            loss.backward()
            optimizer.step()
            if kind == "moved by hand":
                with torch.no_grad():
                    loose -= 0.05 * loose.grad  # type: ignore[operator]
                    loose.grad = None
    named = [(one.severity, one.name) for one in process.findings() if one.code == "C4"]
    assert named == [("fault", "tensors that no optimiser holds")] * (kind == "left out")


class Criterion(nn.Module):
    """A value of a point under a surrogate that is already fitted, as of Bayesian optimisation."""

    def __init__(self, surrogate: list[nn.Module]) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(1), requires_grad=False)
        self.surrogate = surrogate

    def forward(self, point: Tensor) -> Tensor:
        return self.surrogate[0](point).sum() + self.offset


@pytest.mark.parametrize(("trains", "expected"), [(False, "note"), (True, "fault")])
def test_only_where_an_optimiser_steps_must_it_hold_what_gets_gradients(trains: bool, expected: str) -> None:
    torch.manual_seed(0)
    value, other = Criterion([nn.Linear(4, 4)]), nn.Linear(4, 4)
    optimizer = torch.optim.SGD([*other.parameters()], lr=0.1)
    point = torch.zeros(3, 4)
    with ProcessWatch() as process:
        for _ in range(6):
            # An optimiser of another library moves the point, on gradients that it takes from here.
            point = point.detach().requires_grad_()
            value(other(point) if trains else point).backward()
            if trains:
                optimizer.step()
                optimizer.zero_grad()
            assert point.grad is not None
            point = point + 0.1 * point.grad
    name = "tensors that no optimiser holds"
    assert [one.severity for one in process.findings() if one.name == name] == [expected]
