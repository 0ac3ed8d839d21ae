"""A term of a loss whose gradients nobody steps on is named; so is a step on the gradient of another's loss."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from rislab.checkup.findings import Findings
from rislab.checkup.process_watch import ProcessWatch

TRUE, FALSE = torch.ones(16, 1), torch.zeros(16, 1)
judge = functional.binary_cross_entropy_with_logits


def own(findings: Findings) -> list[tuple[str, str]]:
    """Those of this observer."""
    names = ("a term of the loss trains nothing", "gradients of another loss")
    return [(finding.severity, finding.name) for finding in findings if finding.name in names]


def gan(detached: bool, zeroed_late: bool = False, apart: float = 0.0) -> list[tuple[str, str]]:
    """Findings on a generator and a discriminator; the fakes detached for both, or the zeroing left out before it."""
    torch.manual_seed(0)
    make, tell = nn.Linear(4, 3), nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
    of_make, of_tell = (
        torch.optim.Adam(one.parameters(), lr=0.02 if apart and one is tell else 1e-3) for one in (make, tell)
    )
    with ProcessWatch() as process:
        for _ in range(24 if apart else 6):
            noise, real = torch.randn(16, 4), torch.randn(16, 3) + apart
            fake = make(noise)
            loss = judge(tell(fake.detach() if detached else fake), TRUE) + functional.l1_loss(fake, real)
            of_make.zero_grad()
            loss.backward()
            of_make.step()
            if not zeroed_late:
                of_tell.zero_grad()
            (judge(tell(real), TRUE) + judge(tell(fake.detach()), FALSE)).backward()
            of_tell.step()
            of_tell.zero_grad()
    return own(process.findings())


@pytest.mark.slow
def test_a_generator_whose_fakes_are_detached_is_named() -> None:
    assert gan(detached=True) == [("fault", "a term of the loss trains nothing")]
    assert gan(detached=False) == []


def test_a_discriminators_term_in_the_loss_of_a_generator_is_no_fault() -> None:
    """Its loss on data, which trains nothing there, beside a term that trains the generator through it."""
    torch.manual_seed(0)
    make, tell = nn.Linear(4, 3), nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
    of_make, of_tell = (torch.optim.Adam(one.parameters(), lr=1e-3) for one in (make, tell))
    with ProcessWatch() as process:
        for _ in range(6):
            noise, real = torch.randn(16, 4), torch.randn(16, 3)
            (judge(tell(make(noise).detach()), FALSE) + judge(tell(real), TRUE)).backward()
            of_tell.step()
            of_tell.zero_grad()
            (judge(tell(make(noise)), TRUE) + judge(tell(real), TRUE)).backward()
            of_make.step()
            of_make.zero_grad()
            of_tell.zero_grad()
    assert own(process.findings()) == [("warning", "a term of the loss trains nothing")]


def test_a_discriminator_that_steps_on_the_generators_loss_is_named() -> None:
    # A discriminator that tells nothing apart has gradients that point anywhere.
    assert gan(detached=False, zeroed_late=True) == [("warning", "gradients of another loss")]
    assert gan(detached=False, zeroed_late=True, apart=3.0) == [("fault", "gradients of another loss")]


def test_two_losses_of_one_head_may_be_meant() -> None:
    """One of a trunk and its head, then one of the head alone, of the same kind: both are to train the head."""
    torch.manual_seed(0)
    trunk, head = nn.Linear(4, 3), nn.Linear(3, 1)
    of_trunk, of_head = (torch.optim.SGD(one.parameters(), lr=1e-3) for one in (trunk, head))
    with ProcessWatch() as process:
        for _ in range(6):
            given = torch.randn(16, 4)
            functional.mse_loss(head(trunk(given)), TRUE).backward()
            of_trunk.step()
            of_trunk.zero_grad()
            functional.mse_loss(head(trunk(torch.randn(16, 4)).detach()), TRUE).backward()
            of_head.step()
            of_head.zero_grad()
    assert own(process.findings()) == [("warning", "gradients of another loss")]


@pytest.mark.parametrize("detached", [True, False])
def test_a_generator_that_steps_against_its_own_loss_is_a_fault(detached: bool) -> None:
    torch.manual_seed(0)
    make, tell = nn.Linear(4, 3), nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
    of_make, of_tell = (torch.optim.Adam(one.parameters(), lr=0.01) for one in (make, tell))
    with ProcessWatch() as process:
        for _ in range(20):
            of_make.zero_grad()
            of_tell.zero_grad()
            fake, real = make(torch.randn(16, 4)), torch.randn(16, 3) + 3
            (judge(tell(real), TRUE) + judge(tell(fake.detach() if detached else fake), FALSE)).backward()
            of_tell.step()
            judge(tell(make(torch.randn(16, 4))), TRUE).backward()
            of_make.step()
    assert own(process.findings()) == ([] if detached else [("fault", "gradients of another loss")])


@pytest.mark.parametrize("kind", ["running sum", "each loss", "one sum", "two terms", "a step each"])
def test_a_running_sum_is_no_root_of_each_backward(kind: str) -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with ProcessWatch() as process:
        for _ in range(4):
            optimizer.zero_grad()
            total = torch.zeros(())
            for place in range(6):
                loss = judge(model(torch.randn(16, 4)), TRUE) / 6
                total = total + loss
                if kind == "running sum":
                    total.backward(retain_graph=True)
                elif kind == "two terms":
                    loss.backward(retain_graph=True)
                    (loss + model.weight.square().sum()).backward()
                elif kind == "each loss" or (kind == "one sum" and place == 5):
                    (loss if kind == "each loss" else total).backward()
                elif kind == "a step each":
                    loss.backward()
                    optimizer.step()
                    optimizer.zero_grad()
            optimizer.step()
    found = [(one.severity, one.name) for one in process.findings() if one.name == "losses counted again"]
    assert found == [("fault", "losses counted again")] * (kind == "running sum")


@pytest.mark.parametrize("kind", ["attack kept", "attack zeroed", "free of charge", "clean and attacked"])
def test_gradients_of_an_attack_belong_to_no_step(kind: str) -> None:
    """Losses that are divided by their number, and one beside the attacked one, are meant to be trained on."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    count = 1 if kind == "clean and attacked" else 3
    with ProcessWatch() as process:
        for _ in range(8):
            optimizer.zero_grad()
            given, change = torch.randn(16, 4), torch.zeros(16, 4)
            for _ in range(count):
                change.requires_grad_()
                loss = judge(model(given + change), TRUE)
                (loss / count if kind == "free of charge" else loss).backward()
                change = (change + 0.1 * change.grad.sign()).detach()
            if kind == "attack zeroed":
                optimizer.zero_grad()
            if kind != "free of charge":
                judge(model(given + change), TRUE).backward()
            optimizer.step()
    assert own(process.findings()) == ([("fault", "gradients of another loss")] if kind == "attack kept" else [])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["in turn", "in turn, computed in turn", "at the end", "together"])
def test_terms_of_several_optimisers_are_right(kind: str) -> None:
    torch.manual_seed(0)
    body, heads = nn.Linear(3, 8), [nn.Linear(8, 1), nn.Linear(8, 1)]
    steps = [torch.optim.SGD(one.parameters(), lr=0.1) for one in (body, *heads)]
    with ProcessWatch() as process:
        for _ in range(6):
            x = torch.randn(16, 3)
            for one in steps:
                one.zero_grad()
            losses = (functional.mse_loss(head(body(x)), x[:, :1]) for head in heads)
            if kind == "together":
                (next(losses) + 0.5 * next(losses)).backward()
            for loss, step in zip(losses if "computed" in kind else [*losses], steps[1:], strict=False):
                loss.backward()
                if "in turn" in kind:
                    step.step()
            for one in steps[:1] if "in turn" in kind else steps:
                one.step()
    assert process.findings() == []


def test_two_optimisers_may_step_on_the_sum_of_two_losses_that_pull_apart() -> None:
    torch.manual_seed(0)
    networks = [nn.Linear(4, 1) for _ in range(2)]
    optimizers = [torch.optim.SGD(one.parameters(), lr=0.01) for one in networks]
    with ProcessWatch() as watch:
        for _ in range(24):
            inputs = torch.randn(16, 4)
            for optimizer in optimizers:
                optimizer.zero_grad()
            first, second = (one(inputs) for one in networks)
            nn.functional.mse_loss(2 * first + 3 * second, inputs[:, :1]).backward(retain_graph=True)
            nn.functional.mse_loss(3 * first - 5 * second, inputs[:, :1]).backward()
            for optimizer in optimizers:
                optimizer.step()
    assert watch.findings().faults == []
