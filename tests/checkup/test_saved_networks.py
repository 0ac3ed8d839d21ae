"""Weights that are saved while a copy of them is evaluated are named, unless either is done with both."""

from __future__ import annotations

import contextlib
import copy
import io
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from rislab.checkup.process_watch import ProcessWatch


@pytest.mark.parametrize(
    ("saved", "evaluated", "named"),
    [("raw", "copy", True), ("copy", "copy", False), ("raw", "raw", False), ("both", "copy", False)],
)
def test_what_is_saved_was_evaluated(saved: str, evaluated: str, named: bool) -> None:
    torch.manual_seed(0)
    networks = {"raw": nn.Linear(3, 2)}
    networks["copy"] = copy.deepcopy(networks["raw"]).requires_grad_(False)
    optimizer = torch.optim.SGD(networks["raw"].parameters(), lr=0.1)
    with ProcessWatch() as process:
        for step in range(20):
            optimizer.zero_grad()
            networks["raw"](torch.randn(4, 3)).square().mean().backward()
            optimizer.step()
            with torch.no_grad():
                for own, value in zip(networks["copy"].parameters(), networks["raw"].parameters(), strict=True):
                    own.lerp_(value, 0.1)
                if step % 5 == 4:
                    networks[evaluated](torch.randn(4, 3))
                    chosen = networks.items() if saved == "both" else [(saved, networks[saved])]
                    torch.save({name: one.state_dict() for name, one in chosen}, io.BytesIO())
    assert [one.name for one in process.findings()] == (["evaluation is another network"] if named else [])


@pytest.mark.parametrize(
    ("also", "every", "moves", "named"),
    [(False, 5, False, True), (True, 5, False, False), (False, 1, False, False), (False, 5, True, False)],
)
def test_a_copy_that_never_moves_is_all_that_was_evaluated(also: bool, every: int, moves: bool, named: bool) -> None:
    """It may be a reference if the network is evaluated too, or if it answers at each step."""
    torch.manual_seed(0)
    network = nn.Linear(3, 2)
    average = copy.deepcopy(network).requires_grad_(False)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    with ProcessWatch() as process:
        for step in range(20):
            optimizer.zero_grad()
            network(torch.randn(4, 3)).square().mean().backward()
            optimizer.step()
            with torch.no_grad():
                if moves:
                    for own, value in zip(average.parameters(), network.parameters(), strict=True):
                        own.lerp_(value, 0.1)
                if step % every == every - 1:
                    average(torch.randn(4, 3))
                    if also:
                        network(torch.randn(4, 3))
    assert [one.name for one in process.findings()] == (["evaluation is another network"] if named else [])


class Closed(dict[str, int]):
    """A mapping whose values nobody may have."""

    def values(self) -> Any:
        raise RuntimeError("closed")


def test_what_cannot_be_looked_into_is_saved_all_the_same() -> None:
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    target = io.BytesIO()
    with ProcessWatch():
        model(torch.randn(4, 3)).square().mean().backward()
        optimizer.step()
        torch.save(Closed(a=1), target)
    assert target.getvalue()


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("evaluated", True),
        ("both evaluated", True),
        ("saved in the end", True),
        ("updated late", False),
        ("saved early", False),
        ("broken off", False),
    ],
)
def test_an_average_that_is_used_was_given_weights(kind: str, named: bool) -> None:
    """A run may be too short for its first update, and a state of before is no result."""
    torch.manual_seed(0)
    network = nn.Linear(3, 2)
    average = AveragedModel(network)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    with contextlib.suppress(KeyboardInterrupt), ProcessWatch() as process:
        for step in range(20):
            optimizer.zero_grad()
            network(torch.randn(4, 3)).square().mean().backward()
            optimizer.step()
            if kind == "updated late" and step > 17:
                average.update_parameters(network)
            if step % 5 == 4 and not kind.startswith("saved"):
                with torch.no_grad():
                    average(torch.randn(4, 3))
                    if kind == "both evaluated":
                        network(torch.randn(4, 3))
            if step == (19 if kind == "saved in the end" else 9):
                torch.save({"average": average.state_dict()}, io.BytesIO())
        if kind == "broken off":
            raise KeyboardInterrupt
    found = [one.severity for one in process.findings() if one.name == "average never moves"]
    assert found == ["warning"] * named
