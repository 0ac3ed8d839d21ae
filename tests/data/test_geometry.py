"""Steering against brute force, wavefronts against each other, positions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rislab.data.geometry import ArrayGeometry, direction, path_difference, position, separation
from rislab.errors import InputError

ANGLES = st.floats(-1.0, 1.0)


def brute_force(
    shape: tuple[int, int], wavelength: float, azimuth: float, elevation: float, distance: float
) -> np.ndarray:
    """Steering vector element by element, from Cartesian distances in float64."""
    source = np.array(
        [
            distance * math.cos(elevation) * math.cos(azimuth),
            distance * math.cos(elevation) * math.sin(azimuth),
            distance * math.sin(elevation),
        ]
    )
    vector = []
    for v in range(shape[0]):
        for h in range(shape[1]):
            element = np.array(
                [0.0, (h - (shape[1] - 1) / 2) * wavelength / 2, (v - (shape[0] - 1) / 2) * wavelength / 2]
            )
            path = np.linalg.norm(source - element) - distance
            vector.append(np.exp(-2j * math.pi / wavelength * path))
    return np.array(vector) / math.sqrt(shape[0] * shape[1])


@settings(max_examples=50, deadline=None)
@given(azimuth=ANGLES, elevation=ANGLES, distance=st.floats(0.5, 1e4))
def test_spherical_steering_is_the_brute_force_distance(azimuth: float, elevation: float, distance: float) -> None:
    array = ArrayGeometry.surface((3, 4), 0.3, dtype=torch.float64)
    vector = array.steering(*(torch.tensor(value, dtype=torch.float64) for value in (azimuth, elevation, distance)))
    # The brute force loses 1e-16 · distance to cancellation, times k0 = 21: 4e-11 at 10 km.
    np.testing.assert_allclose(vector.numpy(), brute_force((3, 4), 0.3, azimuth, elevation, distance), atol=1e-10)


def test_single_precision_phases_stay_exact_far_away() -> None:
    values = torch.tensor([0.3, 0.2, 500.0], dtype=torch.float64)
    exact = ArrayGeometry.surface((12, 12), 0.3, dtype=torch.float64).steering(*values)
    single = ArrayGeometry.surface((12, 12), 0.3).steering(*values.float())
    # 24 bits of phases up to 25 rad; the plain difference of distances would be off by 6e-4 here.
    assert float((single - exact.to(torch.complex64)).abs().max() * 12) < 2e-5


def test_far_away_every_wavefront_is_planar() -> None:
    elements = ArrayGeometry.surface((12, 12), 0.3, dtype=torch.float64).elements
    angles = torch.tensor([0.4, -0.3], dtype=torch.float64)
    planar = path_difference(elements, *angles, torch.tensor(1.0, dtype=torch.float64), "planar")
    for wavefront in ("spherical", "fresnel"):
        far = path_difference(elements, *angles, torch.tensor(math.inf, dtype=torch.float64), wavefront)
        torch.testing.assert_close(far, planar, atol=1e-14, rtol=0)


def test_fresnel_error_falls_with_the_square_of_the_range() -> None:
    elements = ArrayGeometry.surface((12, 12), 0.3, dtype=torch.float64).elements

    def error(distance: float) -> float:
        values = [torch.tensor(value, dtype=torch.float64) for value in (0.5, 0.3, distance)]
        return float((path_difference(elements, *values, "fresnel") - path_difference(elements, *values)).abs().max())

    # Second-order expansion: the first term left out is of third order in the aperture, of second in 1/r.
    assert error(80.0) / error(160.0) == pytest.approx(4.0, rel=0.05)


def test_steering_has_unit_norm_and_centre_phase_zero() -> None:
    array = ArrayGeometry.surface((3, 3), 0.3, dtype=torch.float64)
    vector = array.steering(*(torch.tensor(value, dtype=torch.float64) for value in (0.7, -0.4, 1.1)))
    assert float(vector.norm()) == pytest.approx(1.0, abs=1e-15)
    assert complex(vector[4]) == pytest.approx(1 / 3, abs=1e-15)  # the middle element sits at the origin


def test_elements_are_centred_and_azimuth_runs_fastest() -> None:
    elements = ArrayGeometry.surface((2, 3), 0.4, dtype=torch.float64).elements
    assert torch.allclose(elements.sum(0), torch.zeros(3, dtype=torch.float64))
    assert elements[1, 1] - elements[0, 1] == pytest.approx(0.2)  # second element: one step along y
    assert elements[3, 2] - elements[0, 2] == pytest.approx(0.2)  # fourth: one step along z


def test_position_and_separation_agree_with_spherical_coordinates() -> None:
    values = torch.tensor([0.3, -0.2, 2.0], dtype=torch.float64)
    place = position(*values)
    assert float(place.norm()) == pytest.approx(2.0)
    assert math.atan2(float(place[1]), float(place[0])) == pytest.approx(0.3)
    assert math.asin(float(place[2]) / 2.0) == pytest.approx(-0.2)
    zero = torch.zeros((), dtype=torch.float64)
    assert float(separation(zero, zero, values[0], zero)) == pytest.approx(0.3)
    assert float(direction(values[0], values[1]).norm()) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ArrayGeometry.surface((2, 2), -0.3), "wavelength is -0.3"),
        (lambda: ArrayGeometry.surface((2, 2), 0.3, "cubic"), "wavefront is 'cubic'"),
        (lambda: ArrayGeometry.surface((2, 0), 0.3), "count is 0; allowed: a whole number in"),
        (lambda: ArrayGeometry.linear(0, 0.3), "count is 0; allowed: a whole number in"),
        (lambda: ArrayGeometry.linear(2.5, 0.3), "count is 2.5; allowed: a whole number in"),  # type: ignore[arg-type]
    ],
)
def test_bad_geometry_is_named(make: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()  # type: ignore[operator]


def test_a_surface_that_is_changed_in_place_changes_no_other() -> None:
    one, other = (ArrayGeometry.surface((2, 3), 0.3, dtype=torch.float64) for _ in range(2))
    one.elements.zero_()
    assert torch.equal(other.elements, ArrayGeometry.surface((2, 3), 0.3, dtype=torch.float64).elements)
    assert bool(other.elements.any())
