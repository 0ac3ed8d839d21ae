"""A run that goes on from a checkpoint, with and without all that the checkpoint holds."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from rislab.checkup.findings import Finding
from rislab.checkup.process_watch import ProcessWatch

EPOCHS = 6


def build(lr: float = 0.05, kind: Any = torch.optim.Adam) -> tuple[nn.Module, Any, Any]:
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = kind(model.parameters(), lr=lr)
    return model, optimizer, torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.7)


def train(model: nn.Module, optimizer: Any, scheduler: Any) -> None:
    for _ in range(EPOCHS):
        nn.functional.mse_loss(model(torch.randn(8, 3)), torch.randn(8, 1)).backward()
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()


def checkpoint(model: nn.Module, optimizer: Any, scheduler: Any) -> dict[str, Any]:
    return copy.deepcopy(
        {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}
    )


def resumed(*parts: str) -> None:
    first = build()
    train(*first)
    state, names = checkpoint(*first), ("model", "optimizer", "scheduler")
    second = build()
    for name, part in zip(names, second, strict=True):
        if name in parts:
            part.load_state_dict(state[name])
    train(*second)


def resumed_with_a_warm_up() -> None:
    """The optimiser's state comes back, and not that of its schedule."""
    saved: dict[str, Any] = {}
    for _ in range(2):
        model, optimizer, _ = build()
        if saved:
            model.load_state_dict(saved["model"])
            optimizer.load_state_dict(saved["optimizer"])
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda tick: min(1.0, 0.03 * 2**tick))
        train(model, optimizer, scheduler)
        saved = checkpoint(model, optimizer, scheduler)


def fine_tuned_without_a_state() -> None:
    first = build()
    train(*first)
    second = build()
    second[0].load_state_dict(copy.deepcopy(first[0].state_dict()))
    train(*second)


def fine_tuned_by_another() -> None:
    first = build()
    train(*first)
    state = checkpoint(*first)
    second = build(kind=torch.optim.RMSprop)
    second[0].load_state_dict(state["model"])
    train(*second)


def folds() -> None:
    model, optimizer, scheduler = build()
    start = copy.deepcopy(model.state_dict())
    for _ in range(3):
        model, optimizer, scheduler = build()
        model.load_state_dict(start)
        train(model, optimizer, scheduler)
        checkpoint(model, optimizer, scheduler)


def evaluated() -> None:
    first = build()
    train(*first)
    state = checkpoint(*first)
    build()[0].load_state_dict(state["model"])
    train(*first)


def copied() -> None:
    """The winner goes on beside its copy."""
    first = build()
    train(*first)
    state = checkpoint(*first)
    second = build()
    second[0].load_state_dict(state["model"])
    train(*second)
    train(*first)


def findings_of(run: Any, *args: Any) -> list[Finding]:
    torch.manual_seed(0)
    with ProcessWatch() as watched:
        run(*args)
    return [finding for finding in watched.findings() if finding.name == "optimiser state lost at resume"]


@pytest.mark.slow
def test_what_is_not_loaded_is_told() -> None:
    (finding,) = findings_of(resumed, "model")
    assert finding.severity == "warning" and "Adam went on with an empty state" in finding.evidence
    assert "and a rate of 0.035, where it had been 0.0059" in finding.evidence
    (finding,) = findings_of(resumed, "model", "scheduler")
    assert "empty state" in finding.evidence


@pytest.mark.parametrize(("times", "expected"), [(2, "warning"), (3, "fault")])
def test_a_state_that_is_lost_again_and_again_is_a_fault(times: int, expected: str) -> None:
    def run() -> None:
        current = build()
        train(*current)
        for _ in range(times):
            state, current = checkpoint(*current), build()
            current[0].load_state_dict(state["model"])
            train(*current)

    (finding,) = findings_of(run)
    assert finding.severity == expected


@pytest.mark.parametrize(
    ("before", "after", "total", "expected"),
    [(12, 8, 20, "fault"), (12, 20, 20, "warning"), (12, 4, 20, "warning"), (20, 20, 20, "warning")],
    ids=["one training", "a schedule of its own", "stopped again", "the first had ended"],
)
@pytest.mark.parametrize("per_step", [True, False])
def test_two_parts_of_one_schedule_are_one_training(
    before: int, after: int, total: int, expected: str, per_step: bool
) -> None:
    """Who trains on what was trained gives the second training a schedule of its own."""

    def part(ticks: int, state: dict[str, Any] | None) -> dict[str, Any]:
        model, optimizer, _ = build()
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total)
        if state is not None:
            model.load_state_dict(state["model"])
        for _ in range(ticks):
            for _ in range(1 if per_step else 3):
                nn.functional.mse_loss(model(torch.randn(8, 3)), torch.randn(8, 1)).backward()
                optimizer.step()
                optimizer.zero_grad()
            scheduler.step()
        return checkpoint(model, optimizer, scheduler)

    (finding,) = findings_of(lambda: part(after, part(before, None)))
    assert finding.severity == expected
    assert ("which is all of it" in finding.evidence) == (expected == "fault")


def test_a_schedule_that_begins_anew_is_told() -> None:
    (finding,) = findings_of(resumed_with_a_warm_up)
    assert "Adam went on with a rate of 0.003, where it had been 0.05" in finding.evidence


@pytest.mark.slow
@pytest.mark.parametrize(
    "run", [fine_tuned_without_a_state, fine_tuned_by_another, folds, evaluated, copied], ids=lambda run: run.__name__
)
def test_other_ways_to_go_on_are_none(run: Any) -> None:
    assert findings_of(run) == []


def test_a_whole_resume_is_none() -> None:
    assert findings_of(resumed, "model", "optimizer", "scheduler") == []
