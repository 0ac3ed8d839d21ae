"""The clinic: two loops that differ by the fault alone, readings that are measured, diffs that hide nothing."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest

from rislab.errors import InputError
from rislab.faults import catalogue, comparison
from rislab.faults.comparison import ComparisonCache, ComparisonConfig, OptimiserRun, QuantityComparison
from rislab.faults.fault import Fault
from rislab.faults.symptoms import OF_A_TRAINING
from rislab.training.records import equal_but_time

NEVER = catalogue.find_fault("never divided")


@pytest.fixture(scope="module")
def sgd() -> OptimiserRun:
    return comparison.compare_runs(NEVER, optimiser="sgd", epochs=2)


def test_an_edit_that_changes_nothing_changes_no_number() -> None:
    line = "                    scaler.update()\n"
    fault = Fault(
        "renamed", "nothing happened", "training.loop", line, line + "                    # and that is all\n", ""
    )
    seen = comparison.compare_runs(fault, optimiser="adam", epochs=1)
    assert seen.differences() == []
    assert all(equal_but_time(one, other) for one, other in zip(seen.correct.records, seen.faulty.records, strict=True))


def test_the_factor_of_a_missing_division_is_the_number_of_micro_batches(sgd: OptimiserRun) -> None:
    # Four micro-batches of eight in the full windows; float32 sums in another order, times about ten.
    np.testing.assert_allclose(sgd.faulty.alpha[[0, 1, 3, 4]], 4, rtol=1e-4)
    np.testing.assert_allclose(sgd.correct.alpha, 1, rtol=1e-4)
    # The ragged window: 8, 8 and 4 of 20 scenes, weights of 1 over their shares.
    np.testing.assert_allclose(sgd.faulty.micro_batch_weights[2, 8:], [2.5, 2.5, 5.0], rtol=1e-3)
    found = {reading.quantity: reading for reading in sgd.quantities}
    assert set(found) == set(OF_A_TRAINING)
    assert "α of full windows" in {reading.quantity for reading in sgd.differences()}
    assert "steps per window" not in {reading.quantity for reading in sgd.differences()}


def test_both_loops_begin_with_the_same_weights_and_scenes(sgd: OptimiserRun) -> None:
    assert sgd.correct.true_loss[0] == sgd.faulty.true_loss[0]
    assert sgd.correct.scenes == sgd.faulty.scenes


def test_adam_hides_what_sgd_shows(sgd: OptimiserRun) -> None:
    adam = comparison.compare_runs(NEVER, optimiser="adam", epochs=2)
    apart = [
        abs(math.log(case.faulty.epoch_records[-1].train_eval / case.correct.epoch_records[-1].train_eval))
        for case in (adam, sgd)
    ]
    assert apart[0] < 0.25 * apart[1]


def test_the_correct_loop_is_trained_once_for_each_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Fault | None] = []
    real = comparison.attribute_run

    def counted(fault: Fault | None, setting: dict[str, object]) -> object:
        asked.append(fault)
        return real(fault, setting)

    monkeypatch.setattr(comparison, "attribute_run", counted)
    desk = ComparisonCache()
    one = desk.compare_runs(NEVER, optimiser="adam", epochs=1)
    other = desk.compare_runs(catalogue.find_fault("zeroed per micro-batch"), optimiser="adam", epochs=1)
    assert asked == [None, NEVER, other.fault]
    assert one.correct is other.correct
    assert desk.compare_runs(NEVER, optimiser="adam", epochs=2).correct is not one.correct


def test_a_loop_without_a_step_is_read_without_noise() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        seen = comparison.compare_runs(catalogue.find_fault("step in a branch never taken"), epochs=1)
    found = {reading.quantity: reading for reading in seen.differences()}
    assert math.isnan(found["α of full windows"].faulty)
    assert found["share of windows that moved a weight"].faulty == 0


def test_what_python_warned_of_is_kept() -> None:
    line = "                    scaler.update()\n"
    loud = Fault(
        "loud",
        "it says so",
        "training.loop",
        line,
        line + '                    __import__("warnings").warn("x. y")\n',
        "",
    )
    assert comparison.compare_runs(loud, epochs=1).warnings == ("x",)


def test_a_fault_of_the_physics_turns_checks_and_not_curves() -> None:
    seen = comparison.fault_report(catalogue.find_fault("conjugated steering"))
    assert seen.runs == {}
    red = {check.name for check in seen.checks if not check.faulty.passed}
    assert red == set(seen.fault.conventions)
    assert all(check.correct.passed for check in seen.checks)


def test_rungs_of_the_ladder_stand_beside_the_badge() -> None:
    fault = catalogue.find_fault("identity miscounted")
    seen = comparison.fault_report(fault)
    assert [check.name for check in seen.checks if check.suite == "ladder"] == list(fault.checks)
    assert [check.name for check in seen.checks if not check.faulty.passed] == list(fault.checks)


def test_readings_are_those_of_the_signs_and_surprises_know_both_kinds() -> None:
    found = comparison.compare_symptoms(NEVER)
    assert [reading.quantity for reading in found] == [sign.quantity for sign in NEVER.symptoms]
    assert comparison.unexpected_symptoms(NEVER, found) == []
    turned = [QuantityComparison(reading.quantity, reading.faulty, reading.correct) for reading in found]
    assert len(comparison.unexpected_symptoms(NEVER, turned)) == 2 * len(found)


@pytest.mark.parametrize(
    ("one", "other", "differs"),
    [(1.0, 1.0005, False), (1.0, 1.01, True), (0.0, 1e-9, False), (math.nan, 1.0, True), (math.nan, math.nan, False)],
)
def test_readings_differ_beyond_noise(one: float, other: float, differs: bool) -> None:
    assert QuantityComparison("", one, other).differs(1e-3) is differs


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"fault": "never devided"}, "did you mean 'never divided'"),
        ({"compared": ["nothing"]}, "unknown fault 'nothing'"),
        ({"epochs": 0}, "epochs is 0"),
        ({"quiz_seed": -1}, "quiz_seed is -1"),
    ],
)
def test_bad_input_is_named(fields: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        ComparisonConfig(**fields)  # type: ignore[arg-type]
    for optimiser, epochs, words in (("rmsprop", 2, "optimiser is 'rmsprop'"), ("adam", 0, "epochs is 0")):
        with pytest.raises(InputError, match=words):
            comparison.compare_runs(NEVER, optimiser=optimiser, epochs=epochs)
