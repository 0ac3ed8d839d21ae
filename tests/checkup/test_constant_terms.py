"""A term that varies and carries no gradient is named; constants, and terms that train something, are not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from rislab.checkup.process_watch import ProcessWatch
from rislab.checkup.recording.interception import BACKWARDS

TEACHER = nn.Linear(1, 2)
TRAINS_NOTHING = ["a term of the loss trains nothing"]


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (lambda out, w: out.square().mean() + 0.1 * w.data.square().sum(), TRAINS_NOTHING),
        (lambda out, w: (out.detach().abs().mean() - out.square().mean()) * -1, TRAINS_NOTHING),
        (lambda out, w: out.square().mean() + 0.1 * out.abs().mean().item(), TRAINS_NOTHING),
        (
            lambda out, w: out.square().mean() + torch.autograd.grad(out.sum(), w, retain_graph=True)[0].norm(),
            TRAINS_NOTHING,
        ),
        (lambda out, w: out.square().mean() + (TEACHER(torch.ones(1)) * 0).detach().mean(), TRAINS_NOTHING),
        (lambda out, w: out.square().mean() + ((out > 0).float().mean() + 1) ** 2, TRAINS_NOTHING),
        (lambda out, w: out.square().mean() - TEACHER(torch.randn(4, 1)).detach().square().mean(), []),
        (lambda out, w: out.square().mean() - torch.randn(4).square().mean(), []),
        (lambda out, w: out.square().mean() + float(torch.randn(1)), []),
        (lambda out, w: torch.zeros(()) + out.square().mean() + 0.1 * w.square().sum(), []),
        (lambda out, w: out.square().mean() + torch.tensor(0.5) + 3, []),
        (lambda out, w: (out.square() + out.detach()).mean(), []),
    ],
    ids=[
        *("of the data of weights", "detached", "as a number", "of a gradient without a graph", "teacher with itself"),
        *("of what is rounded", "entropy of a teacher", "noise", "noise as a number"),
        *("with a gradient", "constants", "of each sample"),
    ],
)
def test_terms_without_a_gradient(loss: Callable[[Tensor, Tensor], Tensor], expected: list[str]) -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ProcessWatch() as process:
        for _ in range(8):
            optimizer.zero_grad()
            loss(model(torch.randn(8, 3)), model.weight).backward()
            optimizer.step()
    assert [one.name for one in process.findings()] == expected


@torch.no_grad()
def _features_apart(out: Tensor, y: Tensor) -> Tensor:
    return functional.mse_loss(TEACHER(out), TEACHER(y))


def _gradients(out: Tensor) -> Tensor:
    (result,) = torch.autograd.grad(out.square().sum(), out, retain_graph=True)
    return result


@pytest.mark.parametrize(
    ("term", "expected"),
    [
        (lambda out, y: functional.mse_loss(out.detach(), y), "fault"),
        (lambda out, y: 0.1 * functional.l1_loss(out.detach(), y), "fault"),
        (lambda out, y: 10 * (_gradients(out).norm(2, dim=1) - 1).square().mean(), "fault"),
        (_features_apart, "fault"),
        (lambda out, y: out.detach().abs().mean(), "warning"),
        # The value of another loss, in place of that of the one that is minimised.
        (lambda out, y: (functional.l1_loss(out, y) - functional.mse_loss(out, y)).detach(), "warning"),
    ],
    ids=["detached", "and weighted", "penalty", "features of another network", "no loss", "the value alone"],
)
def test_a_loss_without_a_gradient_is_a_fault(term: Callable[[Tensor, Tensor], Tensor], expected: str) -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ProcessWatch() as process:
        for _ in range(8):
            out, y = model(torch.randn(8, 3)), torch.randn(8, 1)
            optimizer.zero_grad()
            (functional.mse_loss(out, y) + term(out, y)).backward()
            optimizer.step()
    assert [(one.name, one.severity) for one in process.findings()] == [(TRAINS_NOTHING[0], expected)]


@pytest.mark.parametrize("detached", [True, False])
def test_a_second_training_is_looked_at_as_the_first(detached: bool) -> None:
    """What is looked at in the first backwards of a run would be over with those of a teacher."""
    torch.manual_seed(0)
    teacher, student = nn.Linear(3, 2), nn.Linear(3, 2)
    with ProcessWatch() as process:
        optimizer = torch.optim.SGD(teacher.parameters(), lr=0.1)
        for _ in range(2 * BACKWARDS):
            optimizer.zero_grad()
            functional.mse_loss(teacher(torch.randn(8, 3)), torch.randn(8, 2)).backward()
            optimizer.step()
        optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
        for _ in range(BACKWARDS):
            inputs = torch.randn(8, 3)
            answers, wanted = student(inputs), teacher(inputs).detach()
            optimizer.zero_grad()
            term = functional.mse_loss(answers.detach() if detached else answers, wanted)
            (functional.l1_loss(answers, torch.randn(8, 2)) + term).backward()
            optimizer.step()
    assert [one.name for one in process.findings().faults] == TRAINS_NOTHING * detached
