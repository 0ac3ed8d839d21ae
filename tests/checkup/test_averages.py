"""Averages and target networks are told from copies that run away from the weights."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from rislab.checkup.findings import Finding
from rislab.checkup.loop_watch import watch

Update = Callable[[], object]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))


def trained(average_of: Callable[[nn.Module], Update], steps: int = 12) -> list[Finding]:
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    update = average_of(model)
    with watch(model, optimizer) as watched:
        for _ in range(steps):
            nn.functional.mse_loss(model(torch.randn(8, 3)), torch.randn(8, 1)).backward()
            optimizer.step()
            optimizer.zero_grad()
            with torch.no_grad():
                update()
    return [finding for finding in watched.findings() if finding.name.startswith("average ")]


def in_place(sign: float) -> Callable[[nn.Module], Update]:
    def average_of(model: nn.Module) -> Update:
        shadow = [value.detach().clone() for value in model.parameters()]
        return lambda: [
            own.add_(sign * 0.01 * (value - own)) for own, value in zip(shadow, model.parameters(), strict=True)
        ]

    return average_of


def replaced(sign: float) -> Callable[[nn.Module], Update]:
    def average_of(model: nn.Module) -> Update:
        shadow: dict[str, Tensor] = {name: value.detach().clone() for name, value in model.named_parameters()}

        def update() -> None:
            for name, value in model.named_parameters():
                shadow[name] = shadow[name] + sign * 0.01 * (value.detach() - shadow[name])

        return update

    return average_of


def target(sign: float) -> Callable[[nn.Module], Update]:
    def average_of(model: nn.Module) -> Update:
        other = copy.deepcopy(model)
        pairs = list(zip(other.parameters(), model.parameters(), strict=True))
        return lambda: [own.lerp_(value, sign * 0.05) for own, value in pairs]

    return average_of


def hard_target(model: nn.Module) -> Update:
    other = copy.deepcopy(model)
    return lambda: other.load_state_dict(model.state_dict())


def swa(model: nn.Module) -> Update:
    average = AveragedModel(model)
    return lambda: average.update_parameters(model)


def twin(model: nn.Module) -> Update:
    """Another network that is trained by hand, from the same weights."""
    other = copy.deepcopy(model)

    def update() -> None:
        with torch.enable_grad():
            loss = nn.functional.mse_loss(other(torch.randn(8, 3)), torch.randn(8, 1))
        for own, gradient in zip(other.parameters(), torch.autograd.grad(loss, [*other.parameters()]), strict=True):
            own.sub_(0.01 * gradient)

    return update


@pytest.mark.parametrize("kind", [in_place, replaced, target])
def test_a_copy_that_moves_away_is_a_fault(kind: Callable[[float], Callable[[nn.Module], Update]]) -> None:
    (finding,) = trained(kind(-1.0))
    assert finding.severity == "fault" and "copies of weights moved" in finding.evidence


def test_a_copy_that_keeps_next_to_nothing_is_named() -> None:
    (finding,) = trained(in_place(99.5))
    assert finding.name == "average of the last weights alone" and "moved 0.995 of the way" in finding.evidence


@pytest.mark.parametrize("every,share", [(1, 0.5), (5, 0.5), (1, 0.2)])
def test_a_decay_of_one_half_is_none_unless_it_comes_rarely(every: int, share: float) -> None:
    def average_of(model: nn.Module) -> Update:
        other, calls = copy.deepcopy(model), [0]

        def update() -> None:
            calls[0] += 1
            for own, value in zip(other.parameters(), model.parameters(), strict=True):
                own.lerp_(value, 0.0 if calls[0] % every else share)

        return update

    assert len(trained(average_of, 40)) == (every == 1 and share == 0.5)


@pytest.mark.parametrize("sign,findings", [(-1.0, 1), (1.0, 0)])
def test_stored_states_do_not_hide_the_average(sign: float, findings: int) -> None:
    def average_of(model: nn.Module) -> Update:
        before = [copy.deepcopy(model.state_dict()) for _ in range(5)]
        update = target(sign)(model)
        after = [copy.deepcopy(model.state_dict()) for _ in range(5)]
        return lambda: (update(), before, after)

    assert len(trained(average_of)) == findings


@pytest.mark.parametrize("average_of", [in_place(1.0), replaced(1.0), target(1.0), hard_target, swa, twin])
def test_a_copy_that_follows_is_none(average_of: Callable[[nn.Module], Update]) -> None:
    assert trained(average_of) == []


def test_an_optimiser_of_one_number_has_no_copies() -> None:
    scale = nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([scale], lr=0.1)
    with watch(nn.ParameterList([scale]), optimizer) as watched:
        for _ in range(4):
            (scale - 1).square().backward()
            optimizer.step()
            optimizer.zero_grad()
    assert not any("average" in finding.name for finding in watched.findings())
