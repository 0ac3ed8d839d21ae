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
