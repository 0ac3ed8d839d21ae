"""The autopsy: exact on the correct loop, blind to nothing that a loop can do with a window, and itself unnoticed."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest
import torch

from rislab import faults, readings, records
from rislab.autopsy import autopsy
from rislab.records import same


@pytest.fixture(scope="module")
def house() -> Iterator[ModuleType]:
    with faults.broken() as house:
        yield house


# Floors of float32 gradients accumulated in another order, times about ten; those of float64 are far below.
TOLERANCE = {"fp32": 1e-4, "fp64": 1e-10}


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
@pytest.mark.parametrize("accumulation_steps", [1, 3, 4, 11, 50])
def test_the_correct_loop_counts_every_micro_batch_once_and_exactly(
    house: ModuleType, accumulation_steps: int, optimiser: str, precision: str
) -> None:
    seen = readings.examine(
        house, accumulation_steps=accumulation_steps, optimiser=optimiser, precision=precision, epochs=1
    )
    edges = [*seen.firsts, seen.coverage.shape[1]]
    expected = np.zeros_like(seen.coverage)
    for row in range(len(seen.told)):
        expected[row, edges[row] : edges[row + 1]] = 1
    np.testing.assert_allclose(seen.coverage, expected, atol=30 * TOLERANCE[precision])
    np.testing.assert_allclose(seen.alpha, 1, atol=TOLERANCE[precision])
    np.testing.assert_allclose(seen.cosine, 1, atol=TOLERANCE[precision])
    assert (seen.stepped == 1).all() and (seen.broken == 0).all() and not any(seen.still)
    np.testing.assert_allclose([window.loss for window in seen.told], seen.true_loss, rtol=TOLERANCE[precision])


def test_being_examined_changes_nothing(house: ModuleType) -> None:
    config = house.overfit.OverfitConfig(scenes=64, micro_batch=12, accumulation_steps=2, epochs=2)
    data, one, other = config.data(), config.model(), config.model()
    seen = autopsy(house, config.training(), data, one)
    stream = house.training.fit(other, data, config.training())
    plain = [records.from_dict(house.records.to_dict(record)) for record in stream]
    assert all(same(told, its) for told, its in zip(seen.records, plain, strict=True))
    assert all(torch.equal(mine, its) for mine, its in zip(one.parameters(), other.parameters(), strict=True))


def test_every_quantity_reads_what_its_name_says_on_the_correct_loop(house: ModuleType) -> None:
    seen = readings.examine(house, validation=16)
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
    for name, quantity in readings.OF_A_TRAINING.items():
        if name not in elsewhere:
            assert quantity(seen) == pytest.approx(float(name not in zero), abs=3e-3), name
    for name, of_house in readings.OF_A_HOUSE.items():
        assert np.isfinite(of_house(house)), name


def test_a_poisoned_window_is_skipped_by_the_correct_loop_and_not_hidden(house: ModuleType) -> None:
    seen = readings.examine(house, poison="overflow")
    assert readings.OF_A_TRAINING["skipped steps"](seen) == 2  # once an epoch
    assert readings.OF_A_TRAINING["steps on NaN or infinity"](seen) == 0
    assert readings.OF_A_TRAINING["epochs reported finite though a window was not"](seen) == 0
    silent = readings.examine(house, poison="silence")
    assert readings.OF_A_TRAINING["skipped steps"](silent) == 0
