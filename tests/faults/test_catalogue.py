"""The catalogue: enough faults, each a single edit, each with symptoms that it shows and the correct loop does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import ModuleType

import pytest

from rislab.faults import catalogue, symptoms
from rislab.faults.catalogue import FAMILIES, FAULTS
from rislab.faults.comparison import LADDER
from rislab.faults.fault import Fault, Symptom, source_of
from rislab.faults.patching import patched
from rislab.faults.symptoms import symptom_reader
from rislab.sanity.conventions import check_conventions
from rislab.sanity.overfit_config import OverfitConfig
from rislab.sanity.overfit_ladder import ladder

QUIET = ["ignore:Detected call of `lr_scheduler.step", "ignore:torch.cuda.amp.GradScaler is enabled"]
# The correct loop reaches an NMSE of 0.014 in 24 epochs, where 0.05 is asked for; the other checks need no more than 6.
LONG, SHORT = {**LADDER, "epochs": 24}, {**LADDER, "epochs": 6}


def test_the_catalogue_is_complete() -> None:
    assert len(FAULTS) >= 40
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    assert all(len(family) >= 6 for family in FAMILIES.values())
    for fault in FAULTS:
        assert fault.story and fault.description, fault.name
        assert fault.symptoms or fault.checks or fault.conventions, fault.name
        assert set(fault.mistaken_for) <= {other.name for other in FAULTS} - {fault.name}, fault.name
    assert len({(fault.module, fault.before, fault.after) for fault in FAULTS}) == len(FAULTS)


@pytest.mark.slow
@pytest.mark.filterwarnings(*QUIET)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_shows_as_the_catalogue_says_and_the_correct_loop_does_not(
    fault: Fault, measure_correct: Callable[[Symptom], float]
) -> None:
    with patched(fault) as package:
        measure = symptom_reader(package)
        for symptom in fault.symptoms:
            assert symptom.shown_by(measure(symptom)), f"{symptom.quantity} is {measure(symptom)}"
            value = measure_correct(symptom)
            assert not symptom.shown_by(value), f"{symptom.quantity} of the correct loop is {value}"
        if fault.checks:
            config = package.sanity.OverfitConfig(**(LONG if "whole set" in fault.checks else SHORT))
            checks = package.sanity.overfit_ladder.ladder(config, only=fault.checks)
            assert {check.name for check in checks if not check.passed} == set(fault.checks)
        if fault.conventions:
            report = package.sanity.conventions.check_conventions()
            assert {check.name for check in report.checks if not check.passed} == set(fault.conventions)
            assert not report.passed and "red" in report._repr_html_() and "FAIL" in str(report)


@pytest.mark.slow
def test_every_check_holds_on_the_correct_package_and_is_made_red_by_a_fault() -> None:
    checks = list(ladder(OverfitConfig(**LONG)))
    assert [check.line() for check in checks if not check.passed] == []
    short = ladder(OverfitConfig(**SHORT), only=["reported loss", "event counts", "train against eval"])
    assert [check.line() for check in short if not check.passed] == []
    assert {check.name for check in checks} == {name for fault in FAULTS for name in fault.checks}
    named = {name for fault in FAULTS for name in fault.conventions}
    assert {check.name for check in check_conventions().checks} == named


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_is_one_edit_of_the_real_source(fault: Fault) -> None:
    assert source_of(fault.module).count(fault.before) == 1
    changed = [line for line in fault.diff().splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")]
    assert 1 <= len(changed) <= 12


def test_no_trace_of_a_fault_is_in_the_correct_code() -> None:
    for fault in FAULTS:
        assert fault.after.strip() == "" or source_of(fault.module).count(fault.after) <= 1, fault.name


SUSPECT = catalogue.find_fault("divided on the first batch only")


def trained(package: ModuleType, accumulation_steps: int, optimiser: str) -> tuple[list[str], list[bytes]]:
    """Records, without their times, and weights after a short training with validation."""
    config = package.sanity.OverfitConfig(
        scenes=64, micro_batch=12, accumulation_steps=accumulation_steps, epochs=3, validation=8
    )
    model = config.model()
    training = config.training(optimiser=optimiser)
    stream = package.training.loop.fit(model, config.data(), training, validation=config.validation_data())
    lines = [json.dumps({**package.training.records.to_dict(record), "seconds": 0.0}) for record in stream]
    return lines, [parameter.detach().numpy().tobytes() for parameter in model.parameters()]


@pytest.mark.slow
@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
def test_the_suspect_did_nothing_where_a_window_is_one_micro_batch(optimiser: str, correct: ModuleType) -> None:
    with patched(SUSPECT) as suspect:
        assert trained(suspect, 1, optimiser) == trained(correct, 1, optimiser)
        lines, weights = trained(suspect, 4, optimiser)
    true_lines, true_weights = trained(correct, 4, optimiser)
    assert weights != true_weights and all(one != other for one, other in zip(lines, true_lines, strict=True))
    reported, true = json.loads(lines[-1]), json.loads(true_lines[-1])
    assert reported["epoch"] == 3 and reported["validation"] != json.loads(lines[2])["validation"]
    # Far from 0 and far from constant: about four times too large, with what the other weights make of it.
    assert 3 < reported["train"] / true["train"] < 5


@pytest.mark.slow
def test_a_tail_in_a_branch_never_taken_reports_exactly_nothing() -> None:
    with patched(catalogue.find_fault("loop tail in a branch never taken")) as package:
        for steps in (1, 4):
            run = symptoms.examine(package, accumulation_steps=steps, validation=16, epochs=2)
            assert [end.train for end in run.epoch_records] == [0.0] * 2
            assert len({end.validation for end in run.epoch_records}) == 1
            last = run.epoch_records[-1].counters
            assert last.forwards == 22 and last.backwards == last.steps_applied == last.scheduler_ticks == 0
            assert all(run.unchanged)
