"""Frozen tensors of an optimiser that move, and who moves them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from rislab.checkup.findings import Finding
from rislab.checkup.loop_watch import watch
from rislab.checkup.process_watch import ProcessWatch


class Loop:
    """A body that is frozen, a head that is trained, one optimiser for both."""

    def __init__(self, kind: Any = torch.optim.SGD, **options: Any) -> None:
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(3, 8), nn.Linear(8, 1)
        self.model = nn.Sequential(self.body, nn.Tanh(), self.head)
        self.body.requires_grad_(False)
        self.optimizer = kind(self.model.parameters(), lr=0.01, **options)

    def before_step(self) -> None:
        """Whatever the loop does besides."""

    def findings(self) -> list[Finding]:
        with watch(self.model, self.optimizer) as watched:
            for _ in range(6):
                nn.functional.mse_loss(self.model(torch.randn(8, 3)), torch.randn(8, 1)).backward()
                with torch.no_grad():
                    self.before_step()
                self.optimizer.step()
                self.optimizer.zero_grad(set_to_none=False)
        return [finding for finding in watched.findings() if finding.name == "frozen weights move"]


class Decay(Loop):
    def before_step(self) -> None:
        for value in self.model.parameters():
            value.mul_(1 - 1e-3)


class Follows(Loop):
    """A momentum encoder in the optimiser of what it follows."""

    def before_step(self) -> None:
        self.body.weight.lerp_(self.head.weight.expand(3, 8).T, 0.01)


class FollowsSlowly(Follows):
    """By so little that rounding is as large."""

    def before_step(self) -> None:
        value = self.body.bias
        value.copy_(value * (1 - 1e-6 * (1 + torch.rand_like(value))))


class ByHand(Loop):
    """Gradients of one's own, as those of evolution strategies."""

    def before_step(self) -> None:
        for value in self.body.parameters():
            value.grad = torch.randn_like(value)


class FrozenInBetween(Loop):
    """Frozen at each step, trained in each backward."""

    def findings(self) -> list[Finding]:
        self.body.register_forward_pre_hook(lambda *_: self.body.requires_grad_(True) and None)
        return super().findings()

    def before_step(self) -> None:
        self.body.requires_grad_(False)


class Fades(Loop):
    """What is frozen is to fade away, and the rest is not."""

    def before_step(self) -> None:
        for value in self.body.parameters():
            value.mul_(1 - 1e-3)


class DecaysLess(Decay):
    """What is frozen fades faster."""

    def before_step(self) -> None:
        for value in self.model.parameters():
            value.mul_(1 - (1e-3 if value.requires_grad else 1e-2))


def test_a_decay_by_hand_is_told() -> None:
    (finding,) = Decay().findings()
    assert finding.severity == "fault"
    assert "a factor of 0.999 each time, as those that are trained: of 8×3, 8" in finding.evidence


@pytest.mark.parametrize("kind", [Fades, DecaysLess])
def test_a_decay_of_frozen_tensors_alone_may_be_meant(kind: type[Loop]) -> None:
    assert [finding.severity for finding in kind().findings()] == ["warning"]


def test_a_small_decay_by_hand_is_told() -> None:
    class Small(Loop):
        def before_step(self) -> None:
            for value in self.model.parameters():
                value.mul_(1 - 1e-5)

    (finding,) = Small().findings()
    assert finding.severity == "fault" and "a factor of 0.99999 each time" in finding.evidence


def test_gradients_of_before_are_told() -> None:
    loop = Loop(torch.optim.Adam, weight_decay=0.1)
    for value in loop.body.parameters():
        value.grad = torch.zeros_like(value)
    (finding,) = loop.findings()
    assert "by Adam.step(), on gradients or moments of before" in finding.evidence


def test_frozen_tensors_that_stay_or_are_moved_on_purpose_are_none() -> None:
    for loop in (Loop(weight_decay=0.1), Follows(), FollowsSlowly(), ByHand(momentum=0.9), FrozenInBetween()):
        assert loop.findings() == [], type(loop).__name__


@pytest.mark.parametrize("emptied", [False, True])
def test_what_is_frozen_later_stays_where_its_gradients_are_none(emptied: bool) -> None:
    """A gradient of zeros is one: decay and momentum move on."""
    torch.manual_seed(0)
    body, head = nn.Linear(3, 8), nn.Linear(8, 1)
    optimizer = torch.optim.SGD([*body.parameters(), *head.parameters()], lr=0.01, momentum=0.9)
    with ProcessWatch(known=[optimizer]) as process:
        for step in range(24):
            body.requires_grad_(step < 12)
            nn.functional.mse_loss(head(body(torch.randn(8, 3))), torch.randn(8, 1)).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=emptied)
    assert [one.name for one in process.findings().faults] == ([] if emptied else ["frozen weights move"])


@pytest.mark.parametrize("method", [False, True])
def test_a_module_is_frozen_by_its_method_and_not_by_an_attribute(method: bool) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    if method:
        model[0].requires_grad_(False)
    else:
        model[0].requires_grad = False  # type: ignore[assignment]
    with ProcessWatch() as process:
        optimizer = torch.optim.SGD([value for value in model.parameters() if value.requires_grad], lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.randn(8, 3)).square().mean().backward()
            optimizer.step()
    named = [(one.severity, one.name) for one in process.findings() if one.name == "requires_grad of a module"]
    assert named == ([] if method else [("fault", "requires_grad of a module")])


@pytest.mark.parametrize("undone", [False, True])
@pytest.mark.parametrize("joined", [False, True])
def test_the_attribute_of_a_module_is_seen_in_the_training_where_it_is_set(joined: bool, undone: bool) -> None:
    """Long after the network's first forwards, and where it is taken back for a third training."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 1))

    def train() -> None:
        network[1] = nn.Linear(8, 1)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
        for _ in range(40):
            inputs = torch.randn(8, 3)
            optimizer.zero_grad()
            (network(inputs) if joined else network[1](network[0](inputs))).square().mean().backward()
            optimizer.step()

    with ProcessWatch() as process:
        train()
        network[0].requires_grad = False  # type: ignore[assignment]
        train()
        if undone:
            network[0].requires_grad = True  # type: ignore[assignment]
            train()
    assert [one.name for one in process.findings().faults] == ["requires_grad of a module"]


def test_the_attribute_of_a_module_that_is_not_stepped_meanwhile_is_none() -> None:
    """A discriminator that is marked in the turn of its generator: its gradients are emptied before its own step."""
    torch.manual_seed(0)
    generator, judge = nn.Linear(2, 3), nn.Linear(3, 1)
    of_generator, of_judge = (torch.optim.SGD(one.parameters(), lr=0.01) for one in (generator, judge))
    with ProcessWatch() as process:
        for _ in range(20):
            made, real = generator(torch.randn(8, 2)), torch.randn(8, 3) + 1
            judge.requires_grad = True  # type: ignore[assignment]
            of_judge.zero_grad()
            nn.functional.softplus(judge(made.detach()) - judge(real)).mean().backward()
            of_judge.step()
            judge.requires_grad = False  # type: ignore[assignment]
            of_generator.zero_grad()
            nn.functional.softplus(-judge(made)).mean().backward()
            of_generator.step()
    assert process.findings().faults == []


class OwnFlag(nn.Linear):
    """A layer with an attribute that it looks at itself."""

    def __init__(self) -> None:
        super().__init__(3, 4)
        self.requires_grads = False

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        output = super().forward(inputs)
        return output if self.requires_grads else output + 0


@pytest.mark.parametrize(("attribute", "expected"), [
    ("require_grad", True), ("requires_grads", True), ("requires_grad", False), ("is_frozen", False),
])  # fmt: skip
def test_what_freezes_a_tensor_has_one_name(attribute: str, expected: bool) -> None:
    model = nn.Sequential(OwnFlag(), nn.Linear(4, 1))
    for value in model[0].parameters():
        setattr(value, attribute, False)
    with ProcessWatch() as process:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.randn(8, 3)).square().mean().backward()
            optimizer.step()
    named = [one for one in process.findings() if one.name == "requires_grad misspelt"]
    assert bool(named) is expected
    assert all("2 tensors or modules of Sequential" in one.evidence for one in named)
