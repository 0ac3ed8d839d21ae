"""A state that is loaded into the tensors that it holds restores nothing."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import nn

from rislab.checkup.findings import Findings
from rislab.checkup.loop_watch import watch
from rislab.checkup.process_watch import ProcessWatch


def trained(then: Callable[[nn.Module, Mapping[str, Any]], object], keep: Callable[[Any], Any]) -> Findings:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with watch(model, optimizer) as watched:
        for step in range(4):
            nn.functional.mse_loss(model(torch.randn(8, 3)), torch.randn(8, 1)).backward()
            optimizer.step()
            optimizer.zero_grad()
            if step == 1:
                state = keep(model.state_dict())
        then(model, state)
    return Findings(finding for finding in watched.findings() if finding.name == "loads its own weights")


def test_a_state_that_is_a_reference_is_a_fault() -> None:
    (finding,) = trained(lambda model, state: model.load_state_dict(state), lambda state: state)
    assert finding.severity == "fault" and "Sequential itself, once" in finding.evidence
    assert finding.where.startswith(__file__)


@pytest.mark.parametrize(
    ("then", "keep"),
    [
        (lambda model, state: model.load_state_dict(state), copy.deepcopy),
        (lambda model, state: copy.deepcopy(model).load_state_dict(state), dict),
        (lambda model, state: model.load_state_dict({**state, "0.bias": torch.zeros(4)}), dict),
    ],
    ids=["a copy", "into another network", "a part of it is new"],
)
def test_other_states_are_not(then: Any, keep: Any) -> None:
    assert not trained(then, keep)


def test_before_the_first_step_nothing_can_be_lost() -> None:
    model = nn.Linear(3, 1)
    with watch(model, torch.optim.SGD(model.parameters(), lr=0.01)) as watched:
        model.load_state_dict(model.state_dict())
    assert not any(finding.name == "loads its own weights" for finding in watched.findings())


def unfit(model: nn.Module, state: Mapping[str, Any], then: Mapping[str, Any] | None = None) -> list[str]:
    """Severities of what is said of a state, and another one, that are loaded before a forward."""
    with watch(model, torch.optim.SGD(model.parameters(), lr=0.01)) as watched:
        model.load_state_dict(state, strict=False)
        if then is not None:
            model.load_state_dict(then, strict=False)
        model(torch.randn(2, 3))
    return [one.severity for one in watched.findings() if one.name == "nothing was loaded"]


def state_of(model: nn.Module, prefix: str) -> dict[str, Any]:
    return {prefix + name: torch.zeros_like(value) for name, value in model.state_dict().items()}


@pytest.mark.parametrize(
    ("prefix", "more", "expected"), [("module.", 0, ["fault"]), ("module.", 1, ["fault"]), ("", 0, [])]
)
def test_a_state_without_a_name_that_fits_is_named(prefix: str, more: int, expected: list[str]) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    others = {f"other.{number}": torch.zeros(2) for number in range(more)}
    assert unfit(model, state_of(model, prefix) | others) == expected


def test_a_state_within_another_one_and_one_without_its_prefix_are_faults() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    assert unfit(model, {"epoch": 3, "model": state_of(model, "")}) == ["fault"]
    wrapped = nn.ModuleDict({"inner": model})
    wrapped.forward = model.forward  # type: ignore[method-assign]
    assert unfit(wrapped, state_of(model, "")) == ["fault"]


def test_a_state_of_other_networks_may_be_given_to_each() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    assert unfit(model, state_of(nn.Sequential(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 2)), "encoder.")) == ["warning"]


def test_a_prefix_that_is_taken_away_at_a_second_try_is_no_fault() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    assert unfit(model, state_of(model, "module."), state_of(model, "")) == []


class Tied(nn.Module):
    """A table of tokens that also reads them off, or two tables."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.table, self.out = nn.Embedding(9, 4), nn.Linear(4, 9, bias=False)
        if tied:
            self.out.weight = self.table.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.out(self.table(tokens))
        return result


@pytest.mark.parametrize(("before", "after"), [(True, False), (True, True), (False, False)])
def test_weights_that_were_one_and_are_trained_apart_are_named(before: bool, after: bool) -> None:
    model = Tied(after)
    with ProcessWatch() as process:
        model.load_state_dict(copy.deepcopy(Tied(before).state_dict()))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.arange(9))[:, 1:].square().mean().backward()
            optimizer.step()
    apart = any(one.name == "tied weights come apart" for one in process.findings())
    assert apart is (before and not after)


def test_hooks_of_the_state_of_a_network_are_not_called() -> None:
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    calls = []
    model.register_state_dict_post_hook(lambda *_: calls.append(1))
    with watch(model, optimizer):
        nn.functional.mse_loss(model(torch.randn(8, 3)), torch.randn(8, 1)).backward()
        optimizer.step()
        model.load_state_dict({name: value.clone() for name, value in model.named_parameters()})
        model.load_state_dict({"other": torch.zeros(1)}, strict=False)
    assert not calls


def test_an_empty_state_loads_nothing() -> None:
    """It may be meant, as where no checkpoint was asked for."""
    model = nn.Linear(3, 1)
    assert unfit(model, {}) == ["warning"]
    assert unfit(model, {}, copy.deepcopy(nn.Linear(3, 1).state_dict())) == []


def kept(kind: str) -> list[str]:
    """Severities of what is said of states that a loop keeps, one an epoch."""
    torch.manual_seed(0)
    models = [nn.Linear(3, 2) for _ in range(4)]
    states: list[Any] = []
    with ProcessWatch() as process:
        for epoch in range(4):
            model = models[epoch if kind == "of several networks" else 0]
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            for _ in range(3):
                optimizer.zero_grad()
                model(torch.randn(8, 3)).square().mean().backward()
                if kind != "nothing moves":
                    optimizer.step()
            state: Any = model.state_dict()
            if kind == "clones":
                state = {name: value.clone() for name, value in state.items()}
            if kind == "on the CPU":
                state = {name: value.cpu() for name, value in state.items()}
            if kind == "saved one by one":
                torch.save({"model": state}, io.BytesIO())
            states = (
                [state] if kind == "the last one" else [*states, copy.deepcopy(state) if kind == "copies" else state]
            )
            if kind == "a cycle":
                cycle: list[Any] = [state]
                cycle.append(cycle)
                states = []
        if kind == "averaged":
            model.load_state_dict({name: torch.stack([one[name] for one in states]).mean(0) for name in states[0]})
        if kind == "saved together":
            torch.save(states, io.BytesIO())
    return [one.severity for one in process.findings() if one.name == "kept states are one"]


@pytest.mark.parametrize("kind", ["averaged", "saved together", "on the CPU"])
def test_states_that_are_kept_are_those_of_then(kind: str) -> None:
    assert kept(kind) == ["warning"]


@pytest.mark.parametrize(
    "kind", ["copies", "clones", "the last one", "of several networks", "saved one by one", "nothing moves", "a cycle"]
)
def test_copies_of_states_and_single_ones_may_be_kept(kind: str) -> None:
    assert kept(kind) == []
