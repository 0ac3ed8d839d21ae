"""A target network that begins elsewhere is told from one that begins as a copy, and from what is no average."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from rislab.checkup.findings import Finding
from rislab.checkup.process_watch import ProcessWatch

NAME = "average begins elsewhere"
SHARE = 0.02


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 1))


def lerp(target: nn.Module, online: nn.Module) -> None:
    for own, value in zip(target.parameters(), online.parameters(), strict=True):
        own.lerp_(value, SHARE)


def copied(target: nn.Module, online: nn.Module) -> None:
    for own, value in zip(target.parameters(), online.parameters(), strict=True):
        own.data.copy_(SHARE * value.data + (1 - SHARE) * own.data)


def in_two_parts(target: nn.Module, online: nn.Module) -> None:
    for own, value in zip(target.parameters(), online.parameters(), strict=True):
        own.mul_(1 - SHARE).add_(value, alpha=SHARE)


def hard(target: nn.Module, online: nn.Module) -> None:
    target.load_state_dict(online.state_dict())


Update = Callable[[nn.Module, nn.Module], None]


def findings(begin: Callable[[nn.Sequential], nn.Module], update: Update, every: int = 1) -> list[Finding]:
    """Of a value that is learned towards that of its target network."""
    torch.manual_seed(0)
    online = network()
    with ProcessWatch() as process:
        target = begin(online)
        optimizer = torch.optim.Adam(online.parameters(), lr=1e-3)
        for step in range(40):
            states = torch.randn(16, 3)
            with torch.no_grad():
                aims = states.sum(1, keepdim=True) + 0.9 * target(states + 0.1)
            optimizer.zero_grad()
            nn.functional.mse_loss(online(states), aims).backward()
            optimizer.step()
            if step % every == 0:
                with torch.no_grad():
                    update(target, online)
    return [one for one in process.findings() if one.name == NAME]


def zeros(online: nn.Sequential) -> nn.Module:
    target = copy.deepcopy(online)
    for value in target.parameters():
        nn.init.zeros_(value)
    return target


def loaded(online: nn.Sequential) -> nn.Module:
    target = network()
    hard(target, online)
    return target


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("update", [lerp, copied, in_two_parts])
def test_a_target_that_was_drawn_apart_is_named(update: Update, every: int) -> None:
    assert [one.severity for one in findings(lambda online: network(), update, every)] == ["warning"]


@pytest.mark.parametrize("begin", [copy.deepcopy, loaded, zeros])
@pytest.mark.parametrize("update", [lerp, copied, in_two_parts])
def test_a_target_that_begins_as_a_copy_or_at_zero_is_not(update: Update, begin: Callable[..., nn.Module]) -> None:
    """An average that begins at 0 is divided by what it lacks."""
    assert findings(begin, update) == []


@pytest.mark.parametrize("update", [hard, lambda target, online: None], ids=["hard", "never"])
def test_a_network_that_becomes_the_other_one_or_never_moves_is_not(update: Update) -> None:
    """Hard copies, and random features."""
    assert findings(lambda online: network(), update) == []


def test_networks_that_are_trained_and_drawn_to_each_other_are_not() -> None:
    """Gossip between two: both are held by optimisers."""
    torch.manual_seed(0)
    networks = [network(), network()]
    optimizers = [torch.optim.SGD(one.parameters(), lr=0.01) for one in networks]
    with ProcessWatch() as process:
        for _ in range(40):
            for one, optimizer in zip(networks, optimizers, strict=True):
                states = torch.randn(16, 3)
                optimizer.zero_grad()
                nn.functional.mse_loss(one(states), states.sum(1, keepdim=True)).backward()
                optimizer.step()
            with torch.no_grad():
                lerp(networks[0], networks[1])
    assert [one for one in process.findings() if one.name == NAME] == []
