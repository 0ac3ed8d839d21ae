"""Attribution of gradients: exact on the correct loop, sees all that a loop can do with a window, changes nothing."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch

from rislab.faults import symptoms
from rislab.faults.gradient_attribution import attribute_gradients
from rislab.training import records
from rislab.training.records import equal_but_time

# Floors of float32 gradients accumulated in another order, times about ten; those of float64 are far below.
TOLERANCE = {"fp32": 1e-4, "fp64": 1e-10}


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
@pytest.mark.parametrize("accumulation_steps", [1, 3, 4, 5, 50])
def test_the_correct_loop_counts_every_micro_batch_once_and_exactly(
    correct: ModuleType, accumulation_steps: int, optimiser: str, precision: str
) -> None:
    # 36 scenes are five micro-batches, the last of 4.
    run = symptoms.examine(
        correct, scenes=36, accumulation_steps=accumulation_steps, optimiser=optimiser, precision=precision, epochs=1
    )
    edges = [*run.window_starts, run.micro_batch_weights.shape[1]]
    expected = np.zeros_like(run.micro_batch_weights)
    for row in range(len(run.step_records)):
        expected[row, edges[row] : edges[row + 1]] = 1
    np.testing.assert_allclose(run.micro_batch_weights, expected, atol=30 * TOLERANCE[precision])
    np.testing.assert_allclose(run.alpha, 1, atol=TOLERANCE[precision])
    np.testing.assert_allclose(run.cosine, 1, atol=TOLERANCE[precision])
    assert (run.steps == 1).all() and (run.nonfinite_steps == 0).all() and not any(run.unchanged)
    np.testing.assert_allclose([window.loss for window in run.step_records], run.true_loss, rtol=TOLERANCE[precision])


def test_being_examined_changes_nothing(correct: ModuleType) -> None:
    config = correct.sanity.OverfitConfig(scenes=64, micro_batch=12, accumulation_steps=2, epochs=2)
    data, one, other = config.data(), config.model(), config.model()
    run = attribute_gradients(correct, config.training(), data, one)
    stream = correct.training.loop.fit(other, data, config.training())
    plain = [records.from_dict(correct.training.records.to_dict(record)) for record in stream]
    assert all(equal_but_time(own, its) for own, its in zip(run.records, plain, strict=True))
    assert all(torch.equal(mine, its) for mine, its in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.slow
def test_every_quantity_reads_what_its_name_says_on_the_correct_loop(correct: ModuleType) -> None:
    run = symptoms.examine(correct, validation=16)
    zero = (
        "relative error of the gradient", "relative error against one batch", "weight from outside the window",
        "steps on NaN or infinity", "skipped steps", "share of tensors that never moved",
        "epochs reported finite though a window was not", "relative error of a window's reported loss",
        "windows reported finite whose loss was not", "loss terms that are always 0",
    )  # fmt: skip
    elsewhere = (
        "rate at the last step over the largest", "validation over that of the averaged weights",
        "smallest relative movement in a window",
    )  # fmt: skip
    for name, quantity in symptoms.OF_A_TRAINING.items():
        if name not in elsewhere:
            assert quantity(run) == pytest.approx(float(name not in zero), abs=3e-3), name
    for name, of_package in symptoms.OF_A_PACKAGE.items():
        assert np.isfinite(of_package(correct)), name
    light = symptoms.examine(correct, validation=16, true_gradients=False)
    assert np.isnan(light.alpha).all() and np.isnan(light.micro_batch_weights).all()
    for name in symptoms.OF_A_TRAINING.keys() - symptoms.OF_TRUE_GRADIENTS.keys():
        assert symptoms.OF_A_TRAINING[name](light) == symptoms.OF_A_TRAINING[name](run), name


@pytest.mark.slow
def test_a_poisoned_window_is_skipped_by_the_correct_loop_and_not_hidden(correct: ModuleType) -> None:
    run = symptoms.examine(correct, poison="overflow")
    assert symptoms.OF_A_TRAINING["skipped steps"](run) == 2  # once an epoch
    assert symptoms.OF_A_TRAINING["steps on NaN or infinity"](run) == 0
    assert symptoms.OF_A_TRAINING["epochs reported finite though a window was not"](run) == 0
    silent = symptoms.examine(correct, poison="silence")
    assert symptoms.OF_A_TRAINING["skipped steps"](silent) == 0
