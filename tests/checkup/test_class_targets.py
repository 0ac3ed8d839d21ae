"""Targets that tell nothing are faults: one class, one logit, or the blank; those that vary are not."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from rislab.checkup.process_watch import ProcessWatch


def _names(process: ProcessWatch) -> list[tuple[str, str]]:
    return [(one.severity, one.name) for one in process.findings() if one.code == "C15"]


@pytest.mark.parametrize(
    "kind", ["one", "no bias", "one rare", "late", "similarities", "ranks", "attack", "two networks", "few"]
)
def test_targets_of_one_class(kind: str) -> None:
    torch.manual_seed(0)
    network = nn.Linear(3, 4, bias=kind != "no bias")
    image = torch.randn(16, 3, requires_grad=True)
    optimizer = torch.optim.SGD([image] if kind == "attack" else network.parameters(), lr=0.1)
    with ProcessWatch() as process:
        for step in range(2 if kind == "few" else 40):
            logits = network(image if kind == "attack" else torch.randn(16, 3))
            if kind == "similarities":
                logits = torch.cat([logits.sum(1, keepdim=True), logits], 1)
            if kind == "ranks":
                # The first document is the one that was asked for.
                logits = logits @ network(torch.randn(5, 3)).t()
            targets = torch.zeros(16, dtype=torch.long)
            targets[3] = int(kind == "one rare")
            targets += kind == "late" and step == 37
            optimizer.zero_grad()
            loss = functional.cross_entropy(logits, targets)
            if kind == "two networks":
                loss = loss + functional.cross_entropy(network(torch.randn(16, 3)), targets + 1)
            loss.backward()
            optimizer.step()
    assert _names(process) == [("fault", "targets of one class")] * (kind in ("one", "no bias"))


@pytest.mark.parametrize("kind", ["unmasked", "two views", "masked"])
def test_a_logit_that_is_the_same_for_all_targets(kind: str) -> None:
    torch.manual_seed(0)
    encoder = nn.Linear(6, 5)
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.1)
    with ProcessWatch() as process:
        for _ in range(5):
            inputs = torch.randn(16, 6)
            one, two = (functional.normalize(encoder(inputs + torch.randn(16, 6))) for _ in range(2))
            both = torch.cat([one, two])
            targets = torch.arange(32)
            logits = both @ both.t() / 0.3
            if kind == "masked":
                logits, targets = logits.masked_fill(torch.eye(32) > 0, -torch.inf), targets.roll(16)
            if kind == "two views":
                logits, targets = one @ two.t() / 0.3, targets[:16]
            optimizer.zero_grad()
            functional.cross_entropy(logits, targets).backward()
            optimizer.step()
    assert _names(process) == [("fault", "logit of the target is constant")] * (kind == "unmasked")


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("kind", ["from 0", "from 1", "blank at the end", "padded"])
def test_the_blank_is_no_target(kind: str, flat: bool) -> None:
    torch.manual_seed(0)
    network = nn.Linear(4, 6)
    loss = nn.CTCLoss(blank=5 if kind == "blank at the end" else 0)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    lengths = torch.tensor([3, 5, 4, 5])
    with ProcessWatch() as process:
        for _ in range(5):
            targets = torch.arange(20).view(4, 5) % 5 + (kind not in ("from 0", "blank at the end"))
            if kind == "padded":
                targets[torch.arange(5) >= lengths[:, None]] = 0
            if flat:
                targets = targets[torch.arange(5) < lengths[:, None]]
            optimizer.zero_grad()
            loss(network(torch.randn(12, 4, 4)).log_softmax(2), targets, torch.full((4,), 12), lengths).backward()
            optimizer.step()
    assert _names(process) == [("fault", "the blank among the targets")] * (kind == "from 0")
