"""Figures of a measurement: every element, source and residual stands in them."""

from __future__ import annotations

import numpy as np
import pytest

from rislab.errors import InputError
from rislab.music.likelihood import polish
from rislab.music.localisation import locate
from rislab.music.residual import residual
from rislab.music.sparse import sparse
from rislab.plots import measurement as plots
from tests.data.own_arrays import CASES

CASE = CASES["surface, one antenna"]


def test_elements_carry_their_numbers_and_codes() -> None:
    measurement = CASE.draw(1, 20.0)
    figure = plots.element_order(measurement, 3)
    numbers, phases = figure.data
    assert list(numbers.text) == [str(number) for number in range(36)]
    np.testing.assert_allclose(numbers.x, CASE.elements[:, 1])
    np.testing.assert_allclose(numbers.y, CASE.elements[:, 2])
    np.testing.assert_allclose(phases.marker.color, np.rad2deg(np.angle(measurement.codes[0, 3])))


def test_a_good_fit_lies_on_the_diagonal() -> None:
    measurement = CASE.draw(1, 40.0)
    left = residual(measurement, polish(measurement, sparse(measurement, 1)))
    dots, line, power, noise = plots.residual_panels({"fit": left}).data
    np.testing.assert_allclose(dots.x, dots.y, atol=0.1)
    assert list(line.x) == list(line.y)
    assert power.y[0] == 1.0 and np.all(np.diff(power.y) < 0) and np.all(np.diff(power.x) >= 0)
    np.testing.assert_allclose(noise.y, np.exp(-np.asarray(noise.x)))
    with pytest.raises(InputError, match="named holds 0 residuals"):
        plots.residual_panels({})


@pytest.mark.slow
def test_estimates_stand_where_they_are_with_their_errors() -> None:
    located = [locate(one, 1) for one in (CASE.draw(1, 20.0, seed) for seed in (0, 1))]
    azimuth, elevation, distance = CASE.places[0]
    across = distance * np.cos(elevation)
    truth = [across * np.cos(azimuth), across * np.sin(azimuth), distance * np.sin(elevation)]
    figure = plots.located_positions(located, true_positions=[truth])
    above = {trace.name: trace for trace in figure.data[:4]}
    estimates = np.stack([above["estimate"].x, above["estimate"].y], 1)
    np.testing.assert_allclose(estimates, [truth[:2]] * 2, atol=0.05)
    outline = np.asarray(above["95 % by the standard errors"].x, dtype=float)
    assert np.isnan(outline).sum() == 2 and np.nanmax(outline) - np.nanmin(outline) < 0.2
    assert list(above["surveyed position"].x) == [truth[0]]
    assert len(plots.located_positions(located).data) == 6
