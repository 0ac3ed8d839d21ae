"""A ratio of a policy to itself, and a norm at each pixel, are named; the first step on new data, and samples, not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rislab.checkup.process_watch import ProcessWatch


@pytest.mark.parametrize("kind", ["of itself", "of before", "new data each time"])
def test_a_ratio_that_stays_1_after_steps_on_the_same_inputs(kind: str) -> None:
    torch.manual_seed(0)
    states, gain = torch.randn(16, 3), torch.randn(16)
    policy = nn.Linear(3, 4)
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.1)
    before = policy(states).log_softmax(1)[:, 0].detach()
    with ProcessWatch(every=1) as process:
        for _ in range(8):
            given = torch.randn(16, 3) if kind == "new data each time" else states
            new = policy(given).log_softmax(1)[:, 0]
            ratio = (new - (before if kind == "of before" else new.detach())).exp()
            optimizer.zero_grad()
            (-ratio * gain).mean().backward()
            optimizer.step()
    names = [one.name for one in process.findings() if one.severity != "note"]
    assert names == (["ratio always 1"] if kind == "of itself" else [])


@pytest.mark.parametrize("per_sample", [False, True])
def test_a_penalty_takes_one_norm_a_sample(per_sample: bool) -> None:
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(64, 1))
    optimizer = torch.optim.SGD(critic.parameters(), lr=0.01)
    with ProcessWatch(every=1) as process:
        for _ in range(6):
            images = torch.randn(8, 1, 6, 6, requires_grad=True)
            (slope,) = torch.autograd.grad(critic(images).sum(), images, create_graph=True)
            norms = (slope.flatten(1) if per_sample else slope).norm(dim=1)
            optimizer.zero_grad()
            (norms - 1).square().mean().backward()
            optimizer.step()
    names = [one.name for one in process.findings() if one.severity != "note"]
    assert names == ([] if per_sample else ["gradient penalty per position"])


@pytest.mark.parametrize("kind", ["column", "vector", "both trained"])
def test_a_difference_of_all_pairs_is_named(kind: str) -> None:
    torch.manual_seed(0)
    network = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    with ProcessWatch() as process:
        for _ in range(5):
            values = network(torch.randn(16, 3))
            others = values.t() if kind == "both trained" else torch.randn(16)
            optimizer.zero_grad()
            ((values.squeeze(1) if kind == "vector" else values) - others).square().mean().backward()
            optimizer.step()
    names = [one.name for one in process.findings() if one.code == "C15"]
    assert names == (["arguments that broadcast"] if kind == "column" else [])


@pytest.mark.parametrize("kind", ["added", "taken away", "detached", "half of the way", "an average"])
def test_what_is_added_and_taken_away_is_detached(kind: str) -> None:
    torch.manual_seed(0)
    network, book, layer = nn.Linear(3, 4), nn.Parameter(torch.randn(4)), nn.Linear(4, 1)
    optimizer = torch.optim.SGD([*network.parameters(), book, *layer.parameters()], lr=0.01)
    with ProcessWatch() as process:
        for _ in range(5):
            z = network(torch.randn(16, 3))
            q = z.round() + book
            passed = {
                "added": z + (q - z),
                "taken away": z - (z - q),
                "detached": z + (q - z).detach(),
                "half of the way": z + 0.5 * (q - z),
                "an average": torch.add(z, q - z, alpha=0.5),
            }[kind]
            optimizer.zero_grad()
            (layer(passed).square().mean() + (z - 1).square().mean()).backward()
            optimizer.step()
    names = [one.name for one in process.findings() if one.severity != "note"]
    assert names == (["straight-through without detach"] if kind in ("added", "taken away") else [])
