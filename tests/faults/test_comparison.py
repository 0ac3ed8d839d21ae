"""Comparison: two loops that differ by the fault alone, and quantities that are measured on both."""

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
def sgd(comparisons: ComparisonCache) -> OptimiserRun:
    return comparisons.compare_runs(NEVER, optimiser="sgd", epochs=2)


def edited(name: str, line: str) -> Fault:
    """A fault that adds a line to the loop."""
    before = "                    scaler.update()\n"
    return Fault(name, "", "training.loop", before, f"{before}                    {line}\n", "")


@pytest.mark.slow
def test_an_edit_that_changes_nothing_changes_no_number(comparisons: ComparisonCache) -> None:
    run = comparisons.compare_runs(edited("renamed", "# and that is all"), optimiser="adam", epochs=1)
    assert run.differences() == []
    assert all(equal_but_time(one, other) for one, other in zip(run.correct.records, run.faulty.records, strict=True))


@pytest.mark.slow
def test_the_factor_of_a_missing_division_is_the_number_of_micro_batches(sgd: OptimiserRun) -> None:
    # Four micro-batches of eight in the full windows; float32 sums in another order, times about ten.
    np.testing.assert_allclose(sgd.faulty.alpha[[0, 1, 3, 4]], 4, rtol=1e-4)
    np.testing.assert_allclose(sgd.correct.alpha, 1, rtol=1e-4)
    # The ragged window: 8, 8 and 4 of 20 scenes, weights of 1 over their shares.
    np.testing.assert_allclose(sgd.faulty.micro_batch_weights[2, 8:], [2.5, 2.5, 5.0], rtol=1e-3)
    assert {one.quantity for one in sgd.quantities} == set(OF_A_TRAINING)
    assert "α of full windows" in {one.quantity for one in sgd.differences()}
    assert "steps per window" not in {one.quantity for one in sgd.differences()}


def test_both_loops_begin_with_the_same_weights_and_scenes(sgd: OptimiserRun) -> None:
    assert sgd.correct.true_loss[0] == sgd.faulty.true_loss[0]
    assert sgd.correct.scenes == sgd.faulty.scenes


@pytest.mark.slow
def test_adam_hides_a_gradient_that_is_too_large_and_sgd_shows_it(
    sgd: OptimiserRun, comparisons: ComparisonCache
) -> None:
    adam = comparisons.compare_runs(NEVER, optimiser="adam", epochs=2)
    apart = [
        abs(math.log(run.faulty.epoch_records[-1].train_eval / run.correct.epoch_records[-1].train_eval))
        for run in (adam, sgd)
    ]
    assert apart[0] < 0.25 * apart[1]
    # The first update of Adam has the length of the learning rate, but for its ε of 1e-8 under small gradients.
    first = [run.faulty.relative_update[0] / run.correct.relative_update[0] for run in (adam, sgd)]
    assert first == pytest.approx([1, 4], abs=1e-3)


def test_the_correct_loop_is_trained_once_for_each_setting(sgd: OptimiserRun, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[tuple[Fault | None, int]] = []

    def attribute(fault: Fault | None, setting: dict[str, int]) -> object:
        trained.append((fault, setting["epochs"]))
        return sgd.correct, ()

    monkeypatch.setattr(comparison, "attribute_run", attribute)
    cache, other = ComparisonCache(), catalogue.find_fault("zeroed per micro-batch")
    for fault, epochs in ((NEVER, 1), (other, 1), (NEVER, 2)):
        assert cache.compare_runs(fault, optimiser="adam", epochs=epochs).faulty is sgd.correct
    assert trained == [(None, 1), (NEVER, 1), (other, 1), (None, 2), (NEVER, 2)]


def test_a_loop_without_a_step_is_measured_without_warnings(comparisons: ComparisonCache) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = comparisons.compare_runs(catalogue.find_fault("step in a branch never taken"), epochs=1)
    differing = {one.quantity: one for one in run.differences()}
    assert math.isnan(differing["α of full windows"].faulty)
    assert differing["share of windows that moved a weight"].faulty == 0


def test_warnings_of_python_are_part_of_the_run(comparisons: ComparisonCache) -> None:
    loud = edited("loud", '__import__("warnings").warn("x. y")')
    assert comparisons.compare_runs(loud, epochs=1).warnings == ("x",)


@pytest.mark.slow
def test_a_fault_of_the_physics_turns_checks_and_not_curves() -> None:
    report = comparison.fault_report(catalogue.find_fault("conjugated steering"))
    assert report.runs == {}
    assert {check.name for check in report.checks if not check.faulty.passed} == set(report.fault.conventions)
    assert all(check.correct.passed for check in report.checks)


@pytest.mark.slow
def test_checks_of_the_ladder_stand_beside_the_conventions() -> None:
    fault = catalogue.find_fault("identity miscounted")
    report = comparison.fault_report(fault)
    assert [check.name for check in report.checks if check.suite == "ladder"] == list(fault.checks)
    assert [check.name for check in report.checks if not check.faulty.passed] == list(fault.checks)


@pytest.mark.slow
def test_symptoms_are_those_of_the_catalogue_and_both_kinds_of_surprise_are_named() -> None:
    measured = comparison.compare_symptoms(NEVER)
    assert [one.quantity for one in measured] == [symptom.quantity for symptom in NEVER.symptoms]
    assert comparison.unexpected_symptoms(NEVER, measured) == []
    assert comparison.compare_symptoms(NEVER, 1) == measured[:1]
    turned = [QuantityComparison(one.quantity, one.faulty, one.correct) for one in measured]
    assert len(comparison.unexpected_symptoms(NEVER, turned)) == 2 * len(measured)


@pytest.mark.parametrize(
    ("one", "other", "differs"),
    [(1.0, 1.0005, False), (1.0, 1.01, True), (0.0, 1e-9, False), (math.nan, 1.0, True), (math.nan, math.nan, False)],
)
def test_quantities_differ_beyond_noise(one: float, other: float, differs: bool) -> None:
    assert QuantityComparison("", one, other).differs(1e-3) is differs


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"fault": "never devided"}, "did you mean 'never divided'"),
        ({"compared": ["nothing"]}, "unknown fault 'nothing'"),
        ({"epochs": 0}, "epochs is 0"),
        ({"quiz_seed": -1}, "quiz_seed is -1"),
    ],
)
def test_bad_input_is_named(fields: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ComparisonConfig(**fields)  # type: ignore[arg-type]
    for optimiser, epochs, words in (("rmsprop", 2, "optimiser is 'rmsprop'"), ("adam", 0, "epochs is 0")):
        with pytest.raises(InputError, match=words):
            comparison.compare_runs(NEVER, optimiser=optimiser, epochs=epochs)
