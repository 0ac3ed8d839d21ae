"""The autopsy: exact on the correct loop, blind to nothing that a loop can do with a window, and itself unnoticed."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest
import torch

from rislab.faults import symptoms
from rislab.faults.gradient_attribution import attribute_gradients
from rislab.faults.patching import patched
from rislab.training import records
from rislab.training.records import equal_but_time


@pytest.fixture(scope="module")
def package() -> Iterator[ModuleType]:
    with patched() as package:
        yield package


# Floors of float32 gradients accumulated in another order, times about ten; those of float64 are far below.
TOLERANCE = {"fp32": 1e-4, "fp64": 1e-10}


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
@pytest.mark.parametrize("accumulation_steps", [1, 3, 4, 11, 50])
def test_the_correct_loop_counts_every_micro_batch_once_and_exactly(
    package: ModuleType, accumulation_steps: int, optimiser: str, precision: str
) -> None:
    seen = symptoms.examine(
        package, accumulation_steps=accumulation_steps, optimiser=optimiser, precision=precision, epochs=1
    )
    edges = [*seen.window_starts, seen.micro_batch_weights.shape[1]]
    expected = np.zeros_like(seen.micro_batch_weights)
    for row in range(len(seen.step_records)):
        expected[row, edges[row] : edges[row + 1]] = 1
    np.testing.assert_allclose(seen.micro_batch_weights, expected, atol=30 * TOLERANCE[precision])
    np.testing.assert_allclose(seen.alpha, 1, atol=TOLERANCE[precision])
    np.testing.assert_allclose(seen.cosine, 1, atol=TOLERANCE[precision])
    assert (seen.steps == 1).all() and (seen.nonfinite_steps == 0).all() and not any(seen.unchanged)
    np.testing.assert_allclose([window.loss for window in seen.step_records], seen.true_loss, rtol=TOLERANCE[precision])


def test_being_examined_changes_nothing(package: ModuleType) -> None:
    config = package.sanity.overfit.OverfitConfig(scenes=64, micro_batch=12, accumulation_steps=2, epochs=2)
    data, one, other = config.data(), config.model(), config.model()
    seen = attribute_gradients(package, config.training(), data, one)
    stream = package.training.loop.fit(other, data, config.training())
    plain = [records.from_dict(package.training.records.to_dict(record)) for record in stream]
    assert all(equal_but_time(told, its) for told, its in zip(seen.records, plain, strict=True))
    assert all(torch.equal(mine, its) for mine, its in zip(one.parameters(), other.parameters(), strict=True))


def test_every_quantity_reads_what_its_name_says_on_the_correct_loop(package: ModuleType) -> None:
    seen = symptoms.examine(package, validation=16)
    zero = (
        "relative error of the gradient", "relative error against one batch", "weight from outside the window",
        "steps on NaN or infinity", "skipped steps", "share of tensors that never moved",
        "epochs reported finite though a window was not", "relative error of a window's reported loss",
        "windows reported finite whose loss was not", "loss terms that are always 0",
    )  # fmt: skip
    elsewhere = (
        "rate at the last step over the largest", "validation over the averaged weights'",
        "smallest relative movement in a window",
    )  # fmt: skip
    for name, quantity in symptoms.OF_A_TRAINING.items():
        if name not in elsewhere:
            assert quantity(seen) == pytest.approx(float(name not in zero), abs=3e-3), name
    for name, of_house in symptoms.OF_A_PACKAGE.items():
        assert np.isfinite(of_house(package)), name


def test_a_poisoned_window_is_skipped_by_the_correct_loop_and_not_hidden(package: ModuleType) -> None:
    seen = symptoms.examine(package, poison="overflow")
    assert symptoms.OF_A_TRAINING["skipped steps"](seen) == 2  # once an epoch
    assert symptoms.OF_A_TRAINING["steps on NaN or infinity"](seen) == 0
    assert symptoms.OF_A_TRAINING["epochs reported finite though a window was not"](seen) == 0
    silent = symptoms.examine(package, poison="silence")
    assert symptoms.OF_A_TRAINING["skipped steps"](silent) == 0
