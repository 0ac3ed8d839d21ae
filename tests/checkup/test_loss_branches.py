"""Gradients into a target or an advantage are told where a step uses them, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from rislab.checkup.process_watch import ProcessWatch

OWN = ("stop-gradient missing", "advantage not detached")
STEPS = 6


def told(
    modules: list[nn.Module], loss: Callable[[], Tensor], steps: int = STEPS, rate: float = 0.01
) -> list[tuple[str, str]]:
    """Findings of this observer on a loop with one optimiser over some modules."""
    optimizer = torch.optim.SGD([value for module in modules for value in module.parameters()], lr=rate)
    with ProcessWatch() as process:
        for _ in range(steps):
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()
    return [(finding.severity, finding.name) for finding in process.findings() if finding.name in OWN]


def cosine(one: Tensor, two: Tensor) -> Tensor:
    return -functional.cosine_similarity(one, two).mean()


def normalised(one: Tensor, two: Tensor) -> Tensor:
    return (2 - 2 * (functional.normalize(one, dim=-1) * functional.normalize(two, dim=-1)).sum(-1)).mean()


def squared(one: Tensor, two: Tensor) -> Tensor:
    return 0.5 * (one - two).pow(2).mean()


def between_distributions(one: Tensor, two: Tensor) -> Tensor:
    return -(two.softmax(-1) * one.log_softmax(-1)).sum(-1).mean()


@pytest.mark.parametrize("distance", [cosine, normalised, squared, between_distributions, functional.mse_loss])
@pytest.mark.parametrize("detached", [False, True])
def test_a_target_that_is_trained_is_told(distance: Callable[[Tensor, Tensor], Tensor], detached: bool) -> None:
    torch.manual_seed(0)
    backbone, predictor = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 4)), nn.Linear(4, 4)

    def loss() -> Tensor:
        one, two = backbone(torch.randn(16, 5)), backbone(torch.randn(16, 5))
        targets = (one.detach(), two.detach()) if detached else (one, two)
        return 0.5 * (distance(predictor(one), targets[1]) + distance(predictor(two), targets[0]))

    assert told([backbone, predictor], loss) == ([] if detached else [("warning", "stop-gradient missing")])


@pytest.mark.parametrize(
    ("distance", "detached", "expected"),
    [(cosine, False, ["fault"]), (normalised, False, ["fault"]), (cosine, True, []), (squared, False, ["warning"])],
)
def test_answers_that_have_come_to_one_direction_make_it_certain(
    distance: Callable[[Tensor, Tensor], Tensor], detached: bool, expected: list[str]
) -> None:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Linear(5, 32), nn.ReLU(), nn.Linear(32, 8))
    predictor = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))

    def loss() -> Tensor:
        x = torch.randn(32, 5)
        one, two = backbone(x + 0.1 * torch.randn(32, 5)), backbone(x + 0.1 * torch.randn(32, 5))
        targets = (one.detach(), two.detach()) if detached else (one, two)
        return 0.5 * (distance(predictor(one), targets[1]) + distance(predictor(two), targets[0]))

    assert [severity for severity, _ in told([backbone, predictor], loss, 80, 0.2)] == expected


@pytest.mark.parametrize(
    "kind", ["a term that spreads", "a term with data", "entropy", "other optimiser", "equation", "odds"]
)
def test_two_trained_sides_that_are_meant_are_not_told(kind: str) -> None:
    torch.manual_seed(0)
    network, other = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3)), nn.Linear(3, 3)

    def loss() -> Tensor:
        x = torch.randn(16, 3, requires_grad=kind == "equation")
        one, two = network(x), network(x + 0.1)
        share = one.sigmoid()
        if kind == "a term that spreads":
            return squared(one, two) + functional.relu(1 - one.std(0)).mean()
        if kind == "a term with data":
            return squared(one, two) + functional.mse_loss(one, torch.ones(16, 3))
        if kind == "entropy":
            return between_distributions(one, one)
        if kind == "other optimiser":
            # A target that nobody trains, though it asks for gradients.
            return squared(one, other(x))
        if kind == "odds":
            # A probability that is to come to one half: its own complement is no answer of another.
            return squared(share.log(), (1 - share).log())
        slope = torch.autograd.grad(one.sum(), x, create_graph=True)[0]
        return functional.mse_loss(slope, one)

    assert told([network], loss) == []


@pytest.mark.parametrize("own", [False, True])
def test_a_sample_that_is_made_is_no_target_of_its_reconstruction(own: bool) -> None:
    torch.manual_seed(0)
    generator, other = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 4)), nn.Linear(3, 4)
    critic = nn.Sequential(nn.Linear(4, 2), nn.Tanh(), nn.Linear(2, 4))

    def loss() -> Tensor:
        noise = torch.randn(16, 3)
        made = generator(noise)
        return (critic(made if own else other(noise)) - made).abs().mean()

    assert told([generator, other], loss) == ([] if own else [("warning", "stop-gradient missing")])


def of_a_policy(actor: nn.Module, critic: nn.Module, kind: str, detached: bool) -> Tensor:
    """The loss of a policy and of its value."""
    state = torch.randn(16, 4)
    policy = torch.distributions.Categorical(logits=actor(state))
    if kind == "continuous":
        policy = torch.distributions.Normal(actor(state)[:, 0], 1.0)
    action = policy.sample()
    returns, value = state[:, 0] + action, critic(state).squeeze(1)
    advantage = (returns - value).detach() if detached else returns - value
    if kind == "probabilities":
        chosen = actor(state).softmax(1).gather(1, action[:, None]).squeeze(1)
        return (-torch.log(chosen) * advantage + functional.smooth_l1_loss(value, returns)).mean()
    if kind == "clipped":
        ratio = (policy.log_prob(action) - policy.log_prob(action).detach()).exp()
        spread = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        return -torch.min(ratio * spread, ratio.clamp(0.8, 1.2) * spread).mean() + squared(returns, value)
    return -(advantage * policy.log_prob(action)).mean() + functional.mse_loss(value, returns)


@pytest.mark.parametrize("kind", ["discrete", "continuous", "clipped", "probabilities"])
@pytest.mark.parametrize("detached", [False, True])
def test_an_advantage_that_is_not_detached_is_told(kind: str, detached: bool) -> None:
    torch.manual_seed(0)
    actor, critic = nn.Linear(4, 3), nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    found = told([actor, critic], lambda: of_a_policy(actor, critic, kind, detached))
    assert found == ([] if detached else [("fault", "advantage not detached")])


@pytest.mark.parametrize("zeroed", [False, True])
def test_gradients_of_a_policy_that_are_thrown_away_do_no_harm(zeroed: bool) -> None:
    torch.manual_seed(0)
    actor, critic = nn.Linear(4, 3), nn.Linear(4, 1)
    steps = [torch.optim.SGD(one.parameters(), lr=0.01) for one in (actor, critic)]
    with ProcessWatch() as process:
        for _ in range(STEPS):
            state = torch.randn(16, 4)
            policy = torch.distributions.Categorical(logits=actor(state))
            action = policy.sample()
            for one in steps:
                one.zero_grad()
            (-(state[:, 0] - critic(state)[:, 0]) * policy.log_prob(action)).mean().backward()
            if zeroed:
                steps[1].zero_grad()
            functional.mse_loss(critic(state)[:, 0], state[:, 0]).backward()
            for one in steps:
                one.step()
    assert ("advantage not detached" in [finding.name for finding in process.findings()]) is not zeroed


def test_weights_of_experts_are_no_advantage() -> None:
    torch.manual_seed(0)
    experts, gate = nn.ModuleList(nn.Linear(4, 3) for _ in range(2)), nn.Linear(4, 1)

    def loss() -> Tensor:
        x = torch.randn(16, 4)
        share, target = gate(x).sigmoid()[:, 0], x[:, :3].argmax(1)
        losses = [functional.cross_entropy(one(x), target, reduction="none") for one in experts]
        certain = experts[0](x).log_softmax(1).gather(1, target[:, None])
        return (share * losses[0] + (torch.ones(16) - share) * losses[1]).mean() - (
            (1 - certain.exp()) ** 2 * certain
        ).mean()

    assert told([experts, gate], loss) == []
