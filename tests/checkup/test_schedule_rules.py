"""Schedules are judged by their rates and ticks, against the length that they were made for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from rislab.checkup.findings import Findings
from rislab.checkup.loop_watch import watch
from rislab.checkup.process_watch import ProcessWatch, StopWatching

EPOCHS, BATCHES = 5, 8
STEPS = EPOCHS * BATCHES
Make = Callable[[Any], Any]


def run(optimizer: Any, scheduler: Any, model: nn.Module, per: str, steps: bool = True) -> None:
    for _ in range(EPOCHS):
        for _ in range(BATCHES):
            nn.functional.mse_loss(model(torch.randn(4, 3)), torch.randn(4, 1)).backward()
            if steps:
                optimizer.step()
            optimizer.zero_grad()
            if per == "step":
                scheduler.step()
        if per == "epoch":
            scheduler.step()


def trained(make: Make, per: str, steps: bool = True, **declared: Any) -> Findings:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    scheduler = make(optimizer)
    with watch(model, optimizer, scheduler=scheduler, **declared) as watched:
        run(optimizer, scheduler, model, per, steps)
    return watched.findings()


def of_schedules(findings: Findings) -> dict[str, str]:
    return {
        finding.name: finding.severity
        for finding in findings
        if finding.code in ("C6", "C11") and finding.severity != "note"
    }


def warm_up_and_down(tick: int, num_warmup_steps: int, num_training_steps: int) -> float:
    if tick < num_warmup_steps:
        return (tick + 1) / num_warmup_steps
    return max(0.0, (num_training_steps - tick) / max(1, num_training_steps - num_warmup_steps))


def by_names(warm_up: int, total: int) -> Make:
    factor = partial(warm_up_and_down, num_warmup_steps=warm_up, num_training_steps=total)
    return lambda optimizer: lr_scheduler.LambdaLR(optimizer, factor)


def by_closure(warm_steps: int, total_steps: int) -> Make:
    return lambda optimizer: lr_scheduler.LambdaLR(
        optimizer, lambda tick: warm_up_and_down(tick, warm_steps, total_steps)
    )


def warm_cosine(total: int) -> Make:
    def make(optimizer: Any) -> Any:
        parts = [lr_scheduler.LinearLR(optimizer, 0.1, 1.0, 8), lr_scheduler.CosineAnnealingLR(optimizer, total - 8)]
        return lr_scheduler.SequentialLR(optimizer, parts, [8])

    return make


FAULTY: dict[str, tuple[Make, str, str, str]] = {
    "a cosine of epochs in batches": (
        lambda o: lr_scheduler.CosineAnnealingLR(o, EPOCHS), "step", "epoch schedule stepped per batch", "fault"
    ),
    "the same that ends above 0": (
        lambda o: lr_scheduler.CosineAnnealingLR(o, EPOCHS, 1e-4), "step", "epoch schedule stepped per batch",
        "warning",
    ),
    "a cosine that is too short": (
        lambda o: lr_scheduler.CosineAnnealingLR(o, 28, 1e-5), "step", "schedule runs past its end", "warning"
    ),
    "after a warm-up": (warm_cosine(28), "step", "schedule runs past its end", "warning"),
    "a cosine of steps in epochs": (
        lambda o: lr_scheduler.CosineAnnealingLR(o, STEPS), "epoch", "schedule hardly begins", "fault"
    ),
    "one cycle in epochs": (
        lambda o: lr_scheduler.OneCycleLR(o, 0.1, epochs=EPOCHS, steps_per_epoch=BATCHES), "epoch",
        "schedule hardly begins", "fault",
    ),
    "warm-up and total swapped": (by_names(STEPS, 4), "step", "warm-up never ends", "fault"),
    "the same in a closure": (by_closure(STEPS, 4), "step", "warm-up never ends", "fault"),
    "a warm-up that is too long for the run": (by_names(90, 4), "step", "warm-up never ends", "warning"),
    "a warm-up of unknown length": (
        lambda o: lr_scheduler.LambdaLR(o, lambda tick: (tick + 1) / 64), "step", "warm-up never ends", "warning"
    ),
    "a rate in place of a factor": (
        lambda o: lr_scheduler.LambdaLR(o, lambda tick: 0.01 * 0.9**tick), "step", "rate below the one asked for",
        "fault",
    ),
    "a line that ends early": (
        lambda o: lr_scheduler.LinearLR(o, 1.0, 0.0, 15), "step", "schedule ends early", "fault"
    ),
    "a decay of epochs in batches": (
        lambda o: lr_scheduler.ExponentialLR(o, 0.3), "step", "schedule ends early", "fault"
    ),
    "a decay that goes far": (
        lambda o: lr_scheduler.ExponentialLR(o, 0.65), "step", "schedule ends early", "warning"
    ),
    "one in a closure": (
        lambda o: lr_scheduler.LambdaLR(o, lambda tick: max(0.0, 1 - tick / 15)), "step", "schedule ends early",
        "warning",
    ),
    "one that ends above 0": (
        lambda o: lr_scheduler.LinearLR(o, 1.0, 1e-4, 15), "step", "schedule ends early", "warning"
    ),
    "one that ends after half": (
        lambda o: lr_scheduler.LinearLR(o, 1.0, 0.0, 20), "step", "schedule ends early", "warning"
    ),
    "a third of the rate": (lr_scheduler.ConstantLR, "epoch", "rate below the one asked for", "fault"),
    "a half that was asked for": (
        lambda o: lr_scheduler.ConstantLR(o, 0.5, 9), "epoch", "rate below the one asked for", "warning"
    ),
}  # fmt: skip

CORRECT: dict[str, tuple[Make, str]] = {
    "a cosine of epochs": (lambda o: lr_scheduler.CosineAnnealingLR(o, EPOCHS), "epoch"),
    "a cosine of steps": (lambda o: lr_scheduler.CosineAnnealingLR(o, STEPS), "step"),
    "a warm-up and a cosine": (warm_cosine(STEPS), "step"),
    "one cycle": (lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=STEPS + 1), "step"),
    "a triangle that is longer than the run": (lambda o: lr_scheduler.CyclicLR(o, 0.001, 0.1, 100), "step"),
    "triangles": (lambda o: lr_scheduler.CyclicLR(o, 0.001, 0.1, 5), "step"),
    "restarts": (lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 5), "step"),
    "names in order": (by_names(4, STEPS), "step"),
    "a warm-up alone": (lambda o: lr_scheduler.LinearLR(o, 0.1, 1.0, 10), "step"),
    "a search for a rate": (lambda o: lr_scheduler.ExponentialLR(o, 1.2), "step"),
    "steps that the run never reaches": (lambda o: lr_scheduler.StepLR(o, 30), "epoch"),
    "a rate that is held back for some epochs": (lambda o: lr_scheduler.ConstantLR(o, 0.5, 2), "epoch"),
    "a warm-up from a tenth": (lambda o: lr_scheduler.LambdaLR(o, lambda tick: min(1, 0.1 + tick / 20)), "step"),
    "a schedule for a longer run": (lambda o: lr_scheduler.CosineAnnealingLR(o, 100), "epoch"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", FAULTY)
def test_a_wrong_schedule_is_named(case: str) -> None:
    make, per, name, severity = FAULTY[case]
    assert of_schedules(trained(make, per)) == {name: severity}


@pytest.mark.slow
@pytest.mark.parametrize("case", CORRECT)
def test_a_right_schedule_is_not(case: str) -> None:
    make, per = CORRECT[case]
    assert of_schedules(trained(make, per)) == {}


def test_a_schedule_that_is_declared_in_epochs_makes_it_certain() -> None:
    make = FAULTY["the same that ends above 0"][0]
    assert of_schedules(trained(make, "step", epochs=EPOCHS)) == {"epoch schedule stepped per batch": "fault"}


STUCK: dict[str, tuple[Make, str]] = {
    "a warm-up that is over in the run": (lambda o: lr_scheduler.LinearLR(o, 0.1, 1.0, 30), "fault"),
    "one cycle": (lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=STEPS), "fault"),
    "a warm-up by a function": (by_names(30, 90), "fault"),
    "a warm-up of epochs, in the first of them": (lambda o: lr_scheduler.LinearLR(o, 0.1, 1.0, 5), "warning"),
    "a warm-up for a longer run": (lambda o: lr_scheduler.LinearLR(o, 0.1, 1.0, 100), "warning"),
    "a decay that may begin later": (lambda o: lr_scheduler.ExponentialLR(o, 0.9), "warning"),
}


@pytest.mark.parametrize("case", STUCK)
def test_a_scheduler_that_is_never_stepped_is_a_fault_where_it_holds_the_rate_down(case: str) -> None:
    make, severity = STUCK[case]
    assert of_schedules(trained(make, "never")) == {"scheduler never stepped": severity}


@pytest.mark.filterwarnings("ignore:Detected call of")
def test_a_scheduler_in_place_of_the_optimiser_is_a_fault() -> None:
    findings = trained(lambda o: lr_scheduler.StepLR(o, 30), "step", steps=False)
    assert of_schedules(findings) == {"scheduler stepped instead of the optimiser": "fault"}
    assert "40 losses with a backward, 40 ticks" in findings[0].evidence


@pytest.mark.slow
@pytest.mark.parametrize("per", ["epoch", "step"])
def test_nothing_is_said_of_the_end_of_a_run_that_was_stopped(per: str) -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    scheduler = (lr_scheduler.ConstantLR if per == "epoch" else by_closure(9, 90))(optimizer)
    with pytest.raises(StopWatching), ProcessWatch(steps=6) as watched:
        run(optimizer, scheduler, model, per)
    assert of_schedules(watched.findings()) == {}


@pytest.mark.parametrize("zeros,severities", [
    ({0}, {"learning rate 0 at the first step": "note"}),
    ({38, 39}, {"schedule ends in a rate of 0": "note"}),
    ({0, 38, 39}, {"learning rate 0 at the first step": "note", "schedule ends in a rate of 0": "note"}),
    ({0, *range(18, 40)}, {"learning rate 0 at the first step": "note", "schedule ends early": "warning"}),
    ({0, 1}, {"learning rate 0 at the first step": "fault"}),
    ({0, 20, 39}, {"learning rate 0 at the first step": "note", "schedule ends in a rate of 0": "note"}),
    ({0, 1, 20}, {"learning rate 0 at the first step": "fault"}),
    ({0, 2, 4, 6, 8, 10}, {"learning rate 0 at the first step": "fault"}),
    ({*range(40)}, {"learning rate 0 at the first step": "fault"}),
])  # fmt: skip
def test_a_first_step_and_the_last_ones_may_be_at_a_rate_of_0(zeros: set[int], severities: dict[str, str]) -> None:
    findings = trained(lambda o: lr_scheduler.LambdaLR(o, lambda tick: float(tick not in zeros)), "step")
    assert {one.name: one.severity for one in findings if one.code == "C6"} == severities
