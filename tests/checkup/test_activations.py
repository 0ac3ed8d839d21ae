"""Layers that are dead, that follow each other without an activation, or whose units never differ, are named."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from rislab.checkup.process_watch import ProcessWatch


def found(network: nn.Module, steps: int = 24, classes: int = 3) -> list[tuple[str, str]]:
    """Severities and names of what is found in the training of a network."""
    x = torch.randn(32, 6)
    y = x[:, :classes].argmax(1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    with ProcessWatch() as process:
        for _ in range(steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(x), y).backward()
            optimizer.step()
    return [(one.severity, one.name) for one in process.findings() if one.severity != "note"]


def made(bias: float = 0.0, middle: nn.Module | None = None, width: int = 16) -> nn.Sequential:
    """A network of two layers.

    Args:
        bias: of the units of the first layer.
        middle: between the layers, ReLU if None.
        width: of the first layer.
    """
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, width), middle or nn.ReLU(), nn.Linear(width, 3))
    nn.init.constant_(network[0].bias, bias)
    return network


def test_a_layer_that_gives_0_alone_is_a_fault() -> None:
    assert ("fault", "layer of dead units") in found(made(bias=-50.0))


@pytest.mark.parametrize("bias", [0.0, -1.0, 1.0])
def test_a_layer_with_units_that_live_is_none(bias: float) -> None:
    network = made(bias=bias)
    nn.init.constant_(network[0].bias[:8], -50.0)
    assert found(network) == []


def test_a_penalty_that_is_met_is_no_dead_layer() -> None:
    """Only what a layer with weights is given counts."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    with ProcessWatch() as process:
        for _ in range(24):
            optimizer.zero_grad()
            out = network(torch.randn(32, 6))
            (out.square().mean() + (out - 1e3).relu().mean()).backward()
            optimizer.step()
    assert process.findings() == []


def test_layers_that_follow_each_other_are_named() -> None:
    assert found(made(middle=nn.Identity())) == [("warning", "layers without an activation")]


@pytest.mark.parametrize("middle", [nn.Tanh(), nn.GELU(), nn.LayerNorm(16), nn.BatchNorm1d(16)])
def test_layers_with_something_between_them_are_not(middle: nn.Module) -> None:
    assert found(made(middle=middle)) == []


def test_a_layer_that_lowers_the_rank_needs_no_activation() -> None:
    assert found(made(middle=nn.Identity(), width=2)) == []


def constant(network: nn.Sequential) -> None:
    """All weights are one number, but for the last."""
    nn.init.constant_(network[0].weight, 0.1)
    nn.init.constant_(network[2].weight, 0.1)


def zero_last(network: nn.Sequential) -> None:
    """The last layer begins at 0, as that of a branch may."""
    nn.init.zeros_(network[2].weight)


def alike(network: nn.Sequential) -> None:
    """The first layer begins with equal units; the last tells them apart."""
    nn.init.constant_(network[0].weight, 0.1)


@pytest.mark.parametrize(("init", "named"), [(constant, True), (zero_last, False), (alike, False)])
def test_units_that_begin_as_one_and_stay_so_are_a_fault(init: Callable[[nn.Sequential], None], named: bool) -> None:
    network = made(middle=nn.Tanh())
    init(network)
    assert found(network) == ([("fault", "units that stay equal")] if named else [])


def test_two_networks_of_one_optimiser_may_have_weights_of_one_name() -> None:
    torch.manual_seed(0)
    networks = nn.Sequential(nn.Linear(6, 8), nn.Tanh()), nn.Sequential(nn.Linear(8, 3))
    optimizer = torch.optim.SGD([value for one in networks for value in one.parameters()], lr=0.1)
    with ProcessWatch() as process:
        for _ in range(12):
            optimizer.zero_grad()
            networks[1](networks[0](torch.randn(16, 6))).square().mean().backward()
            optimizer.step()
    assert process.findings() == []
