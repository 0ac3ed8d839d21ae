"""Samples without a gradient are faults, log-probabilities of other samples than were used are warned of."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Normal, kl_divergence

from rislab.checkup.process_watch import ProcessWatch


def _names(process: ProcessWatch) -> list[tuple[str, str]]:
    return [(one.severity, one.name) for one in process.findings() if one.code == "C9" and one.severity != "note"]


class Autoencoder(nn.Module):
    """Both networks in one."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(6, 4), nn.Linear(2, 6)

    def forward(self, inputs: Tensor, drawn: str) -> tuple[Normal, Tensor, Tensor]:
        mean, spread = self.encoder(inputs).chunk(2, 1)
        posterior = Normal(mean, spread.exp())
        code = posterior.rsample() if drawn == "rsample" else posterior.sample()
        return posterior, code, self.decoder(code)


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("kind", ["sample", "rsample", "scored"])
def test_what_is_drawn_in_an_autoencoder_carries_a_gradient(kind: str, inside: bool) -> None:
    torch.manual_seed(0)
    network, prior = Autoencoder(), Normal(0.0, 1.0)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    with ProcessWatch() as process:
        for _ in range(6):
            inputs = torch.randn(8, 6)
            network.decoder(prior.sample((8, 2)))
            posterior, code, answer = network(inputs, kind) if inside else Autoencoder.forward(network, inputs, kind)
            error = (answer - inputs).square().sum(1)
            loss = (error + kl_divergence(posterior, prior).sum(1)).mean()
            if kind == "scored":  # the gradient of a score
                loss = loss + (error.detach() * posterior.log_prob(code).sum(1)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert _names(process) == [("fault", "sample without a gradient")] * (kind == "sample")


@pytest.mark.parametrize("kind", ["another", "the same", "both", "one alone"])
def test_the_log_probability_is_that_of_the_action(kind: str) -> None:
    torch.manual_seed(0)
    policy = nn.Linear(4, 3)
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.01)
    with ProcessWatch() as process:
        for _ in range(6):
            states = torch.randn(16, 4)
            actions = Categorical(logits=policy(states))
            action = torch.zeros(16, dtype=torch.long) if kind == "one alone" else actions.sample()
            gain = (action == states[:, :3].argmax(1)).float() - 0.3
            score = actions.log_prob(action if kind in ("the same", "both") else actions.sample())
            if kind == "both":  # the entropy, of a sample of its own
                score = score - 0.01 * actions.log_prob(actions.sample())
            optimizer.zero_grad()
            (-score * gain).mean().backward()
            optimizer.step()
    assert _names(process) == [("warning", "log-probability of another sample")] * (kind == "another")


def test_a_density_that_is_written_out_trains_by_what_another_network_says_of_its_sample() -> None:
    torch.manual_seed(0)
    policy, critic = nn.Linear(4, 2), nn.Linear(2, 1)
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.01)
    with ProcessWatch() as process:
        for _ in range(6):
            actions = Normal(policy(torch.randn(16, 4)), 1.0)
            action = actions.sample()
            score = -(action - actions.loc).square().sum(1) / 2
            optimizer.zero_grad()
            (-score * critic(action).detach().squeeze(1)).mean().backward()
            optimizer.step()
    assert _names(process) == []


@pytest.mark.parametrize("kind", ["lowered", "raised", "maximised", "beside no policy"])
def test_an_entropy_that_is_lowered(kind: str) -> None:
    torch.manual_seed(0)
    network = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, maximize=kind == "maximised")
    with ProcessWatch() as process:
        for _ in range(8):
            policy = Categorical(logits=network(torch.randn(16, 4)))
            action = policy.sample()
            entropy = 0.01 * policy.entropy().mean()
            loss = entropy if kind == "beside no policy" else -(policy.log_prob(action) * torch.randn(16)).mean()
            optimizer.zero_grad()
            (
                -loss + entropy if kind == "maximised" else loss - entropy if kind == "raised" else loss + entropy
            ).backward()
            optimizer.step()
    assert _names(process) == [("fault", "entropy is lowered")] * (kind == "lowered")


def of_the_actor(kind: str, actor: nn.Module, critic: nn.Module, states: Tensor) -> Tensor:
    """The loss of an actor whose actions a critic judges."""
    mean, spread = actor(states).chunk(2, 1)
    policy = Normal(mean, spread.exp())
    action = policy.rsample() if kind == "rsample" else policy.sample()
    score = policy.log_prob(action)
    if kind == "an energy":  # lowered at data, raised at samples of what is trained by another score
        return (
            critic(torch.cat([states, states[:, :1]], 1)).mean()
            - critic(torch.cat([states, action], 1)).mean()
            + (score * torch.randn(32, 1)).mean()
        )
    action = action.tanh() if "squashed" in kind else action
    value = critic(torch.cat([states, action], 1))
    if kind == "a score of the policy":
        return -(score * value.detach()).mean()
    if kind == "a score and a regression":
        return -(score * (value.detach() - 1)).mean() + 0.5 * (value - 1).square().mean()
    if kind == "the next state":  # of an environment, whose value is regressed
        return (
            -(score * torch.randn(32, 1)).mean() + (critic(torch.cat([states + action, action], 1)) - 1).square().mean()
        )
    return ((policy.entropy() if "entropy" in kind else score) * 0.1 - value).mean()


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("sample", True),
        ("sample, squashed", True),
        ("sample and entropy", True),
        ("rsample", False),
        ("a score of the policy", False),
        ("a score and a regression", False),
        ("the next state", False),
        ("an energy", False),
    ],
)
def test_a_critic_trains_the_actor_by_the_action(kind: str, named: bool) -> None:
    torch.manual_seed(0)
    actor, critic = nn.Linear(3, 2), nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = torch.optim.Adam([*actor.parameters(), *critic.parameters()], lr=0.01)
    with ProcessWatch() as process:
        for _ in range(6):
            optimizer.zero_grad()
            of_the_actor(kind, actor, critic, torch.randn(32, 3)).backward()
            optimizer.step()
    assert ("fault", "sample without a gradient") in _names(process) if named else _names(process) == []
