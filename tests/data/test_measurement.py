"""Measurements of anyone: what fits together is taken, and each mistake is named in one sentence."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch

from rislab.data.covariance import frobenius_squared, sample_covariance, sample_factor
from rislab.data.geometry import ArrayGeometry
from rislab.data.measurement import Measurement, default_field_of_view, identifiable, unknown_axes
from rislab.data.scene_config import SceneConfig
from rislab.data.simulation import simulate
from rislab.errors import InputError
from rislab.music.likelihood import polish
from rislab.music.sparse import sparse
from tests.data.own_arrays import CASES, circle, grid, phases

L, M, N = 12, 3, 16
RNG = np.random.default_rng(0)


def normal(*shape: int) -> Any:
    return RNG.standard_normal(shape) + 1j * RNG.standard_normal(shape)


def leaning(angle: float) -> Any:
    """A plane whose normal rises by an angle above the x axis."""
    turn = [[math.cos(angle), 0, math.sin(angle)], [0, 1, 0], [-math.sin(angle), 0, math.cos(angle)]]
    return grid(6, 6, 0.05) @ np.array(turn)


def direction(azimuth: float, elevation: float) -> Any:
    flat = math.cos(elevation)
    return np.array([flat * math.cos(azimuth), flat * math.sin(azimuth), math.sin(elevation)])


SURFACE = ArrayGeometry(grid(4, 4, 0.05), 0.1)
GIVEN: dict[str, Any] = {"snapshots": normal(L, M), "codes": normal(L, N), "channel": normal(M, N), "array": SURFACE}


def test_numpy_and_torch_give_the_same_in_their_own_precision() -> None:
    one = Measurement(**GIVEN)
    other = Measurement(**{name: torch.as_tensor(value) if name != "array" else value for name, value in GIVEN.items()})
    assert one.snapshots.dtype == torch.complex128 and one.snapshots.shape == (1, L, M)
    assert torch.equal(one.snapshots, other.snapshots)
    single = Measurement(**GIVEN | {"snapshots": GIVEN["snapshots"].astype(np.complex64)})
    assert single.codes.dtype == torch.complex64
    assert "B=1, L=12, M=3, N=16" in repr(one)


def test_whatever_numpy_and_torch_hold_is_taken() -> None:
    """Turned, foreign, read-only and conjugated tables; what is masked is none."""
    rng, array = np.random.default_rng(0), ArrayGeometry.linear(4, 0.1)
    x = rng.standard_normal((6, 4)) + 1j * rng.standard_normal((6, 4))
    frozen = x.copy()
    frozen.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for same in (x[::-1][::-1], x.astype(">c16"), frozen, np.asfortranarray(x), x.tolist(), np.ma.array(x)):
            assert np.array_equal(Measurement.direct(same, array).snapshots[0].numpy(), x)
        turned = Measurement.direct(torch.tensor(x).conj(), array).snapshots[0]
    assert np.array_equal(turned.numpy(), x.conj())
    with pytest.raises(InputError, match=r"x\[2, 1\] is NaN"):
        Measurement.direct(np.ma.array(x, mask=np.arange(24).reshape(6, 4) == 9), array)
    with pytest.raises(InputError, match="array is a ndarray; allowed: an ArrayGeometry"):
        Measurement.direct(x, array.elements.numpy())  # type: ignore[arg-type]
    with pytest.raises(InputError, match="elements are complex"):
        ArrayGeometry(1j * np.ones((4, 3)), 0.1)  # type: ignore[arg-type]
    wide = Measurement.direct(x, ArrayGeometry(array.elements, np.float32(0.1)))  # type: ignore[arg-type]
    assert torch.equal(sparse(wide, np.int64(1)).azimuth, sparse(wide, 1).azimuth)  # type: ignore[arg-type]


def test_numbers_whose_squares_single_precision_does_not_hold_become_double() -> None:
    for scale, dtype in ((1e-22, torch.complex128), (1e-9, torch.complex64), (1e20, torch.complex128)):
        snapshots = (scale * GIVEN["snapshots"]).astype(np.complex64)
        assert Measurement(**GIVEN | {"snapshots": snapshots}).snapshots.dtype == dtype


def test_a_batch_shares_codes_and_channel() -> None:
    batch = Measurement(**GIVEN | {"snapshots": normal(5, L, M)}, noise_power=2.0)
    assert batch.codes.shape == (5, L, N) and batch.channel.shape == (5, M, N)
    part = batch[torch.tensor([3, 1])]
    assert len(part) == 2 and torch.equal(part.snapshots[0], batch.snapshots[3])
    assert part.noise_power is not None and part.noise_power.tolist() == [2.0, 2.0]
    assert len(batch[-1]) == 1
    with pytest.raises(IndexError):
        batch[5]
    assert batch.to(dtype=torch.float32).snapshots.dtype == torch.complex64


@pytest.mark.parametrize("name", CASES)
def test_steering_is_the_formula_written_apart(name: str) -> None:
    case = CASES[name]
    for place in case.places:
        vector = case.geometry().steering(*torch.tensor(place, dtype=torch.float64))
        expected = phases(case.elements, case.wavelength, place, case.planar)
        np.testing.assert_allclose(vector.numpy(), expected, atol=1e-9)


def test_arrays_have_constructors() -> None:
    line = ArrayGeometry.linear(5, 0.1, spacing=0.03)
    np.testing.assert_allclose(line.elements[:, 1], [-0.06, -0.03, 0, 0.03, 0.06], atol=1e-15)
    ring = ArrayGeometry.circular(7, 0.1, radius=0.2)
    np.testing.assert_allclose(ring.elements, circle(7, 0.2), atol=1e-15)
    surface = ArrayGeometry.surface((2, 3), 0.1, spacing=0.07, dtype=torch.float64)
    np.testing.assert_allclose(surface.elements, grid(2, 3, 0.07), atol=1e-15)


def test_spacing_is_a_field_of_the_scene() -> None:
    config = SceneConfig.preset("classroom", spacing=0.7, wavelength=0.2)
    np.testing.assert_allclose(config.array(dtype=torch.float64).elements, grid(6, 6, 0.14), atol=1e-15)
    usual = SceneConfig.preset("classroom")
    assert torch.equal(usual.array().elements, usual.changed(spacing=0.5).array().elements)


@pytest.mark.parametrize(
    ("elements", "azimuth", "elevation"),
    [
        (grid(1, 8, 0.05), (-math.pi / 2, math.pi / 2), (0.0, 0.0)),
        (grid(8, 1, 0.05), (0.0, 0.0), (-math.pi / 2, math.pi / 2)),
        (grid(4, 4, 0.05), (-math.pi / 2, math.pi / 2), (-math.pi / 2, math.pi / 2)),
        (circle(8, 0.1), (-math.pi, math.pi), (0.0, math.pi / 2)),
        (np.eye(4, 3), (-math.pi, math.pi), (-math.pi / 2, math.pi / 2)),
        (leaning(0.4), (-math.pi / 2, math.pi / 2), (-math.pi / 2, math.pi / 2)),
        (leaning(0.8), (-math.pi, math.pi), (-math.pi / 2, math.pi / 2)),
        (leaning(1.4), (-math.pi, math.pi), (0.0, math.pi / 2)),
    ],
)
def test_the_field_of_view_is_what_the_array_tells_apart(
    elements: Any, azimuth: tuple[float, float], elevation: tuple[float, float]
) -> None:
    view = default_field_of_view(ArrayGeometry(elements, 0.1))
    assert view["azimuth"] == pytest.approx(azimuth)
    assert view["elevation"] == pytest.approx(elevation)
    assert view["range"][1] == 1e9


@pytest.mark.parametrize("place", [(0.2, -0.5, 2.0), (-0.9, 0.3, 1.0), (2.5, 1.0, 1.5)])
def test_a_plane_that_leans_is_searched_on_both_sides(place: tuple[float, float, float]) -> None:
    """No interval of azimuth and elevation holds just one side of it: the place, or its mirror image, is the answer."""
    elements, rise = leaning(0.7), np.array([math.cos(0.7), 0.0, math.sin(0.7)])
    x = normal(30, 1) * phases(elements, 0.1, place, False)
    with pytest.warns(UserWarning, match="plane of the array leans"):
        measurement = Measurement.direct(x, ArrayGeometry(elements, 0.1), range=(0.5, 4.0))
    estimate = polish(measurement, sparse(measurement, 1))
    angles = estimate.azimuth[0, 0].item(), estimate.elevation[0, 0].item()
    truth = direction(*place[:2])
    image = truth - 2 * (truth @ rise) * rise
    # Rounding of the snapshots alone: there is no noise.
    assert min(np.abs(direction(*angles) - one).max() for one in (truth, image)) < 1e-6
    assert not Measurement.direct(x, ArrayGeometry(elements, 0.1), azimuth=(-1.0, 1.0)).doubt


def test_known_axes() -> None:
    planar = ArrayGeometry(grid(1, 8, 0.05), 0.1, "planar")
    assert unknown_axes(Measurement.direct(normal(3, 8), planar).config) == (True, False, False)
    assert unknown_axes(Measurement.direct(normal(3, 8), planar, azimuth=0.1, elevation=(-1.0, 1.0)).config)[:2] == (
        False,
        True,
    )
    assert unknown_axes(SceneConfig.preset("full")) == (True, True, True)
    assert unknown_axes(SceneConfig.preset("full", range=3.0)) == (True, True, False)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"snapshots": normal(M, L)}, r"codes and channel say .* allowed: \[L,M\], the transpose"),
        ({"codes": normal(N, L)}, r"codes has shape \(16, 12\); allowed: \[L,N\] = \[12, 16\].*transpose fits"),
        ({"channel": normal(N, M)}, r"channel has shape \(16, 3\); allowed: \[M,N\] = \[3, 16\].*transpose fits"),
        ({"channel": normal(M, N + 1)}, r"channel has shape \(3, 17\); allowed: .* with L = 12 snapshots, M = 3"),
        (
            {"snapshots": normal(M, L), "codes": normal(N, L), "channel": normal(N, M)},
            "the transposes of snapshots, codes, channel fit",
        ),
        ({"codes": normal(2, L, N)}, r"allowed: \[12, 16\], one for all, or \[1, 12, 16\]"),
        ({"snapshots": normal(2, 2, 2, 2)}, "snapshots has shape"),
        ({"snapshots": normal(L)}, r"snapshots have shape \(12,\); allowed: \[L,M\]"),
        ({"snapshots": np.full((L, M), np.nan)}, r"snapshots\[0, 0\] is NaN or infinite"),
        ({"snapshots": np.zeros((L, M))}, "snapshots of measurement 0 is zero everywhere"),
        (
            {"snapshots": 1e200 * normal(L, M)},
            r"snapshots of measurement 0 has .*e\+200 as its largest modulus; allowed: one",
        ),
        ({"snapshots": 1e-200 * normal(L, M)}, "snapshots of measurement 0 has .*e-200 as its largest"),
        ({"channel": np.zeros((M, N))}, "channel of measurement 0 is zero everywhere"),
        ({"codes": np.ones((L, N))}, "codes are equal in all 12 snapshots"),
        ({"codes": RNG.choice([0.0, 180.0], (L, N))}, "codes are real and go up to 180, as phases in degrees do"),
        ({"snapshots": [["a"]]}, "snapshots holds no numbers"),
        ({"array": 3}, "array is a int; allowed: an ArrayGeometry"),
        ({"azimuth": (-60, 60)}, "azimuth is .* looks like degrees"),
        ({"elevation": 30}, "elevation is 30, which looks like degrees"),
        ({"range": (0.0, 3.0)}, "range is 0"),
        ({"noise_power": -1.0}, "noise_power is -1"),
        ({"noise_power": [1.0, 2.0]}, r"noise_power has shape \(2,\)"),
        ({"symbols": "coherent"}, "symbols is 'coherent'"),
        ({"array": ArrayGeometry(torch.full((N, 3), math.nan), 0.1)}, "array holds NaN"),
        ({"azimuth": "broadside"}, "azimuth is 'broadside'; allowed: a number or a pair"),
        ({"noise_power": "low"}, "noise_power is 'low'"),
        ({"pilots": np.zeros(L)}, "pilots of measurement 0 is zero everywhere"),
        ({"pilots": [1.0]}, r"pilots have shape \(1,\); allowed: \[12\]"),
    ],
)
def test_a_mistake_is_one_sentence(change: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said) as error:
        Measurement(**GIVEN | change)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("elements", "said"),
    [
        (np.ones((3, 8)), r"elements have shape \(3, 8\); allowed: \[N,3\].*transpose fits"),
        (np.full((4, 3), np.inf), "elements hold NaN or infinity"),
        ([["x"]], "elements are not numbers"),
        (torch.ones(4, 2), r"elements have shape \(4, 2\); allowed: \[N,3\]"),
    ],
)
def test_elements_are_checked(elements: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        ArrayGeometry(elements, 0.1)


def test_an_array_of_one_place_and_a_transposed_table_are_refused() -> None:
    with pytest.raises(InputError, match="all its elements in one place"):
        Measurement.direct(normal(4, 2), ArrayGeometry(np.zeros((2, 3)), 0.1))
    with pytest.raises(InputError, match=r"x has shape \(8, 20\); allowed: \[T,8\].*transpose fits"):
        Measurement.direct(normal(8, 20), ArrayGeometry.linear(8, 0.1))
    x = normal(20, 8)
    with pytest.raises(InputError, match=r"real and imaginary parts are one number, x\[..., 0\] \+ 1j"):
        Measurement.direct(np.stack([x.real, x.imag], -1), ArrayGeometry.linear(8, 0.1))
    with pytest.raises(InputError, match="snapshots are Hermitian, as a covariance is"):
        Measurement.direct(x.T @ x.conj(), ArrayGeometry.linear(8, 0.1))


def test_real_snapshots_are_doubted_in_one_sentence() -> None:
    with pytest.warns(UserWarning, match="the snapshots are real, and tell no direction from its mirror image"):
        Measurement(**GIVEN | {"snapshots": GIVEN["snapshots"].real})
    assert Measurement(**GIVEN).doubt == ""


def test_an_origin_beside_the_array_is_doubted_in_the_near_field() -> None:
    elements, x = grid(1, 6, 0.05) + np.array([0.0, 5.0, 0.0]), 1j * np.ones((2, 6))
    with pytest.warns(UserWarning, match="the origin of the coordinates lies farther from the middle"):
        Measurement.direct(x, ArrayGeometry(elements, 0.1))
    for places, wavefront in (
        (elements, "planar"),
        (grid(1, 6, 0.05), "spherical"),
        (0.96 * elements - np.array([0, 4.6, 0]), "spherical"),
    ):
        assert not Measurement.direct(x, ArrayGeometry(places, 0.1, wavefront)).doubt


def test_what_a_line_cannot_tell_is_known_and_said() -> None:
    row, said = identifiable(SceneConfig.preset("classroom", ris_shape=(1, 12)))
    assert row.elevation == (0.0, 0.0) and "elevation is 0° and known" in said
    column, said = identifiable(SceneConfig.preset("classroom", ris_shape=(12, 1)))
    assert column.azimuth == (0.0, 0.0) and "one column" in said
    for config in (SceneConfig.preset("full"), SceneConfig.preset("full", ris_shape=(1, 9), elevation=0.1)):
        assert identifiable(config) == (config, "")
    with pytest.raises(InputError, match="one element measures no direction"):
        identifiable(SceneConfig.preset("full", ris_shape=(1, 1)))


def test_scenes_of_many_snapshots_have_a_covariance_and_no_factor() -> None:
    scenes = simulate(SceneConfig.preset("classroom", ris_shape=(2, 4)), 3, seed=0)
    assert sample_covariance(scenes).shape == (3, 8, 8)


def test_pilots_are_codes_of_a_constant_waveform() -> None:
    pilots = normal(L)
    known = Measurement(**GIVEN, pilots=pilots)
    assert known.config.symbols == "constant"
    np.testing.assert_allclose(known.codes[0], GIVEN["codes"] * pilots[:, None])


def test_the_sample_covariance_is_that_of_scenes_where_codes_have_modulus_one() -> None:
    scenes = simulate(SceneConfig.preset("classroom"), 3, seed=0).to(dtype=torch.float64)
    array = scenes.config.array(dtype=torch.float64)
    own = sample_covariance(Measurement(scenes.snapshots, scenes.codes, scenes.channel, array))
    torch.testing.assert_close(own, sample_factor(scenes), rtol=1e-5, atol=1e-6)


def test_the_sample_covariance_of_an_array_is_the_textbooks() -> None:
    x = normal(2, 40, 8)
    covariance = sample_covariance(Measurement.direct(x, ArrayGeometry.linear(8, 0.1)))
    expected = np.einsum("btn,btm->bnm", x, x.conj())
    expected *= 8 / np.trace(expected, axis1=1, axis2=2)[:, None, None]
    np.testing.assert_allclose(covariance, expected, atol=1e-12)


def test_constant_symbols_make_one_field() -> None:
    measurement = CASES["surface, one antenna"].draw(2, 30.0)
    factor = sample_covariance(measurement)
    assert factor.shape == (2, 36, 1)
    vector = torch.as_tensor(phases(grid(6, 6, 0.05), 0.1, np.array([0.3, -0.2, 0.6]), False))
    overlap = (vector.conj() @ factor[..., 0].mT).abs().square() / frobenius_squared(factor)
    assert bool((overlap > 0.85).all())


def test_what_the_codes_do_not_change_is_taken_away_exactly() -> None:
    measurement = CASES["surface, one antenna"].draw(2, 40.0)
    moved = measurement.changed(snapshots=measurement.snapshots + 3.0 - 2.0j)
    torch.testing.assert_close(moved.centred().snapshots, measurement.centred().snapshots)
    torch.testing.assert_close(moved.centred().codes, measurement.codes - measurement.codes.mean(1, keepdim=True))
    with pytest.raises(InputError, match="symbols vary or there is one snapshot"):
        Measurement(**GIVEN).centred()


def test_leading_snapshots() -> None:
    part = Measurement(**GIVEN).leading(5)
    assert part.snapshots.shape == (1, 5, M) and part.codes.shape == (1, 5, N) and part.config.snapshots == 5
    assert Measurement(**GIVEN).leading(500).config.snapshots == L
