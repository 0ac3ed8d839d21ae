"""Spectra against dense brute force, and peaks: exact sources found, none invented, none twice."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rislab.data import grid as grids
from rislab.data.covariance import sample_factor
from rislab.data.geometry import ArrayGeometry
from rislab.data.grid import Grid
from rislab.data.scene_config import SceneConfig
from rislab.data.scenes import SceneBatch
from rislab.data.simulation import simulate
from rislab.data.wavefronts import WAVEFRONTS
from rislab.errors import InputError
from rislab.music import spectra
from rislab.music.estimate import Estimate
from rislab.music.likelihood import polish
from rislab.music.metrics import match
from rislab.music.peaks import SAME
from rislab.music.sparse import sparse
from rislab.music.spectra import (
    Spectrum,
    bartlett_spectrum,
    coarse_to_fine,
    music_spectrum,
    mvdr_spectrum,
    power_on_grid,
)
from tests.music.helpers import counted

SPECTRA = (music_spectrum, mvdr_spectrum, bartlett_spectrum)
CLASSROOM = SceneConfig.preset("classroom")
APART = SceneConfig.preset("full", separation=math.radians(15))


def noise_subspace_spectrum(covariance: Tensor, sources: Tensor, grid: Grid) -> Tensor:
    """1 / ‖U_n^H a‖² of the eigenvectors behind the K largest, in double precision, [B,G]."""
    atoms = grid.steering(torch.complex128)
    rows = []
    for matrix, count in zip(covariance.to(torch.complex128), sources.tolist(), strict=True):
        noise = torch.linalg.eigh((matrix + matrix.mH) / 2).eigenvectors[:, : len(matrix) - count]
        rows.append(1 / (atoms.conj() @ noise).abs().square().sum(-1))
    return torch.stack(rows)


def of_trace_n(matrix: Tensor) -> Tensor:
    """The matrices [B,N,N] scaled to trace N."""
    return matrix * (matrix.shape[-1] / matrix.diagonal(dim1=-2, dim2=-1).sum(-1).real)[:, None, None]


def quadratic_form(matrix: Tensor, grid: Grid) -> Tensor:
    """a^H Q a over a grid, [B,P,Q,R]."""
    atoms = grid.steering(torch.complex128)
    return torch.einsum("gn,bnm,gm->bg", atoms.conj(), matrix, atoms).real.unflatten(1, grid.shape)


def overlaps(peaks: Estimate, array: ArrayGeometry) -> Tensor:
    """Largest |a^H b|² of two active peaks of a scene, [B]."""
    vectors = peaks.steering(array.to(dtype=torch.float64))
    gram = (vectors.mH @ vectors).abs().square()
    return (gram - torch.diag_embed(gram.diagonal(dim1=-2, dim2=-1))).amax((1, 2))


def same_peaks(one: Estimate, other: Estimate, distance: float = 1e-2) -> Tensor:
    """Which scenes have the same peaks: each within `distance` (rad, rad, 1/m) of one of the other set, both ways."""
    places = [torch.stack([peaks.azimuth, peaks.elevation, 1 / peaks.range], dim=-1) for peaks in (one, other)]
    near = ((places[0].unsqueeze(2) - places[1].unsqueeze(1)).abs() < distance).all(-1)
    near = near & one.active.unsqueeze(2) & other.active.unsqueeze(1)
    return (near.any(2) == one.active).all(1) & (near.any(1) == other.active).all(1)


# ---- the exact covariance ----


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "degrees", "metres", "watts"),
    [
        # The minimum of δ is quadratic, and δ known to N·eps = 3e-14: √ of it over a curvature of 100/rad² is 2e-8 rad.
        (torch.float64, 1e-5, 1e-5, 1e-6),
        # By the gradient, not the value, the place follows to about eps / beam width: 1e-5 rad with N terms summed, and
        # a range at r = 10 m to Δ(1/r)·r² = 1e-5 · 100 m.
        (torch.float32, 5e-3, 5e-3, 1e-3),
    ],
)
def test_every_source_of_an_exact_covariance_is_found_off_the_grid(
    dtype: torch.dtype, degrees: float, metres: float, watts: float
) -> None:
    batch = simulate(APART, 40, seed=11).to(dtype=dtype)
    sources = counted(batch)
    assert sorted(set(sources.tolist())) == [1, 2, 3, 4, 5]
    grid = APART.grid((49, 25, 10))
    for argument in (batch.covariance(), batch.factor()):
        peaks = music_spectrum(argument, sources, grid).peaks
        assert peaks.azimuth.dtype == dtype
        matching = match(peaks, batch)
        assert (matching.recall, matching.precision) == (1.0, 1.0)
        for error in (matching.azimuth, matching.elevation):
            assert math.degrees(float(error[matching.hit].abs().max())) < degrees
        assert float(matching.range[matching.hit].abs().max()) < metres
        power = peaks.power.gather(1, matching.slot.clamp(min=0))
        assert float((power - batch.power)[matching.hit].abs().max()) < watts * 144


@pytest.mark.parametrize("power_law", ["equal", "free-space"])
def test_powers_are_those_of_the_sources(power_law: str) -> None:
    config = dataclasses.replace(APART, power_law=power_law, sources=3, range=(1.0, 4.0))
    batch = simulate(config, 10, seed=3).to(dtype=torch.float64)
    spectrum = music_spectrum(batch.covariance(), 3, config.grid((49, 25, 10)))
    matching = match(spectrum.peaks, batch)
    assert matching.recall == 1.0
    torch.testing.assert_close(spectrum.powers.gather(1, matching.slot), batch.power, rtol=1e-5, atol=0)


# ---- spectra against brute force ----


@pytest.mark.parametrize("wavefront", WAVEFRONTS)
@pytest.mark.parametrize("dtype", [torch.complex128, torch.complex64])
@pytest.mark.parametrize("source", ["truth", "sample"])
def test_music_is_the_noise_subspace_spectrum(wavefront: str, dtype: torch.dtype, source: str) -> None:
    config = dataclasses.replace(CLASSROOM, wavefront=wavefront, snr_db=(10.0, 20.0))
    batch = simulate(config, 8, seed=1)
    grid = config.grid((25, 13, 4))
    factor = (batch.factor() if source == "truth" else sample_factor(batch)).to(dtype)
    covariance = factor @ factor.mH
    if source == "truth":
        covariance = covariance + 0.1 * torch.eye(36, dtype=dtype)
    sources = counted(batch)
    expected = noise_subspace_spectrum(covariance, sources, grid)
    values = music_spectrum(covariance, sources, grid).values
    assert values.shape == (8, 25, 13, 4) and values.dtype == dtype.to_real()
    # Where δ > 1/50: complex64 knows δ to about 1e-6, which is 5e-5 of it there.
    away = expected < 50
    assert float(away.double().mean()) > 0.9
    assert float((values.flatten(1) / expected - 1)[away].abs().max()) < 1e-4
    from_factor = music_spectrum(factor, sources, grid).values.flatten(1)
    assert float((from_factor / expected - 1)[away].abs().max()) < 1e-4


@pytest.mark.parametrize("loading", [1e-3, 0.3])
def test_mvdr_is_the_inverse_of_the_loaded_covariance(loading: float) -> None:
    batch = simulate(CLASSROOM, 4, seed=2).to(dtype=torch.float64)
    grid = CLASSROOM.grid((13, 7, 3))
    for factor in (batch.factor(), sample_factor(batch)):
        covariance = of_trace_n(factor @ factor.mH)
        inverse = torch.linalg.inv(covariance + loading * torch.eye(36, dtype=covariance.dtype))
        expected = 1 / quadratic_form(inverse, grid)
        for argument in (factor, covariance):
            # 1 − ‖W^H a‖² loses the loading over the largest eigenvalue: 1e-3/36 of it, with eps = 2e-16.
            torch.testing.assert_close(
                mvdr_spectrum(argument, 2, grid, loading=loading).values, expected, rtol=1e-9, atol=0
            )


def test_the_conventional_beam_is_the_power_of_the_covariance() -> None:
    batch = simulate(CLASSROOM, 4, seed=2).to(dtype=torch.float64)
    grid = CLASSROOM.grid((13, 7, 3))
    for factor in (batch.factor(), sample_factor(batch)):
        covariance = of_trace_n(factor @ factor.mH)
        expected = quadratic_form(covariance, grid)
        for argument in (factor, covariance):
            torch.testing.assert_close(bartlett_spectrum(argument, 2, grid).values, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("estimator", SPECTRA)
def test_scale_does_not_matter(estimator: Callable[..., Spectrum]) -> None:
    batch = simulate(CLASSROOM, 4, seed=3).to(dtype=torch.float64)
    grid, sources = CLASSROOM.grid((13, 7, 3)), counted(batch)
    factor = sample_factor(batch)
    for argument, scale in ((factor, 1e-6), (factor, 1e5), (factor @ factor.mH, 1e-9), (factor @ factor.mH, 1e9)):
        one, other = estimator(argument, sources, grid), estimator(scale * argument, sources, grid)
        torch.testing.assert_close(other.values, one.values, rtol=1e-8, atol=0)
        torch.testing.assert_close(other.powers, one.powers, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("estimator", [music_spectrum, mvdr_spectrum, bartlett_spectrum, coarse_to_fine])
def test_what_is_no_grid_is_refused(estimator: Callable[..., Spectrum]) -> None:
    with pytest.raises(InputError, match="grid is a tuple; allowed: a Grid"):
        estimator(torch.eye(4, dtype=torch.complex64), 1, (91, 1, 1))


@pytest.mark.parametrize("estimator", SPECTRA)
def test_a_lone_source_is_where_every_spectrum_peaks(estimator: Callable[..., Spectrum]) -> None:
    config = dataclasses.replace(CLASSROOM, sources=1)
    batch = simulate(config, 10, seed=4).to(dtype=torch.float64)
    matching = match(estimator(batch.covariance(), 1, config.grid((33, 17, 6))).peaks, batch)
    assert matching.recall == 1.0
    # All three have their maximum at the place of a single source exactly.
    assert max(float(error[matching.hit].abs().max()) for error in (matching.azimuth, matching.elevation)) < 1e-6
    assert float(matching.range[matching.hit].abs().max()) < 1e-5


def test_separated_sources_are_found_by_the_other_spectra_too() -> None:
    config = dataclasses.replace(APART, sources=3, separation=math.radians(30), range=(1.0, 4.0))
    batch = simulate(config, 10, seed=5)
    grid = config.grid((49, 25, 10))
    assert match(mvdr_spectrum(batch.factor(), 3, grid).peaks, batch).recall == 1.0
    # Sidelobes of 13 dB pull the conventional beam, and may hide a source behind them: not all are found.
    assert match(bartlett_spectrum(batch.factor(), 3, grid).peaks, batch).recall > 0.7


# ---- one result whatever the path ----


def test_the_separable_path_of_plane_waves_is_the_general_one() -> None:
    config = dataclasses.replace(CLASSROOM, wavefront="planar", ris_shape=(4, 6))
    batch = simulate(config, 5, seed=6).to(dtype=torch.float64)
    grid = config.grid((17, 9, 2))
    elements = grid.array.elements.clone()
    elements[3, 0] = 1e-30
    general = dataclasses.replace(grid, array=dataclasses.replace(grid.array, elements=elements))
    assert grid.array.axes() is not None and general.array.axes() is None
    for argument in (batch.factor(), sample_factor(batch)):
        for estimator in SPECTRA:
            fast, slow = (estimator(argument, 1, either).values for either in (grid, general))
            torch.testing.assert_close(fast, slow, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("wavefront", ["spherical", "fresnel"])
@pytest.mark.parametrize("surface", [(6, 8), (5, 7), (1, 8), (4, 1)])
def test_beams_at_mirror_images_are_those_of_all_steering_vectors(surface: tuple[int, int], wavefront: str) -> None:
    array = ArrayGeometry.surface(surface, 0.3, wavefront, dtype=torch.float64)
    factor = torch.randn(3, array.count, 2, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    folds = set()
    for shape in ((9, 6, 2), (8, 7, 3), (1, 5, 1), (6, 1, 1)):
        for ends in ((1.0, 0.5), (1.0, 0.4), (1.2, 0.5), (1.2, 0.4)):
            grid = Grid.field_of_view(array, (-1.0, ends[0]), (-0.5, ends[1]), (0.9, 5.0), shape)
            folds.add(grid.folded.folds)
            exact = (grid.steering(torch.complex128).conj() @ factor).abs().square().sum(-1).view(3, *shape)
            for _ in range(3):  # without and with a cache
                torch.testing.assert_close(power_on_grid(factor, grid), exact, rtol=0, atol=1e-12 * float(exact.max()))
    assert len(folds) == (2 if 1 in surface else 4)


@pytest.mark.parametrize("wavefront", ["spherical", "planar"])
def test_neither_pieces_nor_cached_steering_vectors_change_results(
    wavefront: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(CLASSROOM, wavefront=wavefront)
    batch = simulate(config, 5, seed=7).to(dtype=torch.float64)
    factor, sources = sample_factor(batch), counted(batch)
    full = music_spectrum(factor, sources, config.grid((17, 9, 3)))

    def check() -> None:
        # A new grid each time: it must not find what another one kept.
        again = music_spectrum(factor, sources, config.grid((17, 9, 3)))
        torch.testing.assert_close(again.values, full.values, rtol=1e-9, atol=0)
        for name in ("azimuth", "elevation", "range", "power", "active"):
            torch.testing.assert_close(getattr(again.peaks, name), getattr(full.peaks, name), rtol=1e-6, atol=1e-8)

    monkeypatch.setattr(spectra, "WORK", 1)
    check()
    monkeypatch.setattr(grids, "CACHE_BYTES", 0)
    check()
    monkeypatch.undo()
    monkeypatch.setattr(grids, "CACHE_BYTES", 0)
    check()


def test_gradients_do_not_depend_on_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = simulate(CLASSROOM, 3, seed=8).to(dtype=torch.float64)
    gradients = []
    for work in (spectra.WORK, 1):
        monkeypatch.setattr(spectra, "WORK", work)
        factor = sample_factor(batch).requires_grad_()
        music_spectrum(factor, 2, CLASSROOM.grid((17, 9, 3))).values.log().sum().backward()
        gradients.append(factor.grad)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-8, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("estimator", SPECTRA)
def test_scenes_do_not_depend_on_their_neighbours_nor_on_sources_given_together(
    estimator: Callable[..., Spectrum],
) -> None:
    batch = simulate(CLASSROOM, 9, seed=9).to(dtype=torch.float64)
    grid, sources = CLASSROOM.grid((25, 13, 4)), counted(batch)
    assert len(set(sources.tolist())) == 3
    together = estimator(sample_factor(batch), sources, grid)
    assert torch.equal(together.peaks.active, torch.arange(3) < sources.unsqueeze(-1))
    for number, count in enumerate(sources.tolist()):
        alone = estimator(sample_factor(batch[number]), count, grid)
        torch.testing.assert_close(alone.values[0], together.values[number], rtol=1e-9, atol=0)
        for name in ("azimuth", "elevation", "range", "power", "active"):
            one, other = getattr(alone.peaks, name)[0], getattr(together.peaks, name)[number, :count]
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)
    assert bool((together.powers[~together.peaks.active] == 0).all())


# ---- gradients ----


def tiny() -> tuple[Grid, Tensor]:
    """A grid over a 3×3 surface, and four orthonormal columns."""
    array = ArrayGeometry.surface((3, 3), 0.3, dtype=torch.float64)
    grid = Grid.field_of_view(array, (-0.9, 0.8), (-0.4, 0.5), (0.4, 2.0), (3, 2, 2))
    generator = torch.Generator().manual_seed(0)
    return grid, torch.linalg.qr(torch.randn(9, 4, generator=generator, dtype=torch.complex128)).Q


@pytest.mark.slow
@pytest.mark.parametrize("wavefront", ["spherical", "planar"])
def test_gradients_by_a_factor_are_right_where_eigenvalues_coincide(wavefront: str) -> None:
    grid, basis = tiny()
    grid = dataclasses.replace(grid, array=dataclasses.replace(grid.array, wavefront=wavefront))
    # Two equal powers within the signal subspace, two equal ones outside, turned so that no column is an eigenvector.
    turn = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.complex128)).Q
    factor = (basis * torch.tensor([2.0, 2.0, 0.5, 0.5]) @ turn).unsqueeze(0).requires_grad_()
    assert torch.autograd.gradcheck(lambda f: music_spectrum(f, 2, grid, refine=False).values, (factor,))


@pytest.mark.slow
def test_gradients_by_a_covariance_are_right_where_eigenvalues_coincide() -> None:
    grid, basis = tiny()
    half = (basis * torch.tensor([2.0, 2.0, 0.5, 0.5]) @ basis.mH / 2).unsqueeze(0).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: music_spectrum(x + x.mH, 2, grid, refine=False).values, (half,))


@pytest.mark.slow
@pytest.mark.parametrize("estimator", [mvdr_spectrum, bartlett_spectrum])
def test_the_other_spectra_are_differentiable_too(estimator: Callable[..., Spectrum]) -> None:
    grid, basis = tiny()
    factor = (basis * torch.tensor([2.0, 1.5, 1.0, 0.5])).unsqueeze(0).requires_grad_()
    assert torch.autograd.gradcheck(lambda f: estimator(f, 2, grid, refine=False).values, (factor,))


@pytest.mark.parametrize("estimator", [mvdr_spectrum, bartlett_spectrum])
def test_no_gradient_is_better_than_a_wrong_one(estimator: Callable[..., Spectrum]) -> None:
    # The root of a covariance without full rank has no derivative.
    batch = simulate(dataclasses.replace(CLASSROOM, sources=2), 2, seed=0)
    covariance = batch.covariance().requires_grad_()
    assert not estimator(covariance, 2, CLASSROOM.grid((5, 3, 2))).values.requires_grad


def test_the_gradient_of_the_conventional_beam_by_a_factor_is_that_of_the_quadratic_form() -> None:
    batch = simulate(dataclasses.replace(CLASSROOM, sources=2), 2, seed=0).to(dtype=torch.float64)
    grid = CLASSROOM.grid((5, 3, 2))
    weights = torch.randn(2, 5, 3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    by_library, by_hand = (batch.factor().requires_grad_() for _ in range(2))
    (bartlett_spectrum(by_library, 2, grid).values * weights).sum().backward()
    (quadratic_form(of_trace_n(by_hand @ by_hand.mH), grid) * weights).sum().backward()
    torch.testing.assert_close(by_library.grad, by_hand.grad, rtol=1e-6, atol=1e-8)


def test_where_a_gradient_is_wanted_all_scenes_have_one_number_of_sources() -> None:
    factor = simulate(CLASSROOM, 2, seed=0).factor().requires_grad_()
    with pytest.raises(InputError, match="sources differ between scenes"):
        music_spectrum(factor, torch.tensor([1, 2]), CLASSROOM.grid((5, 3, 1)))


# ---- peaks ----


@pytest.mark.parametrize("estimator", [mvdr_spectrum, bartlett_spectrum])
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_a_spectrum_that_is_flat_to_rounding_has_no_peaks(
    estimator: Callable[..., Spectrum], dtype: torch.dtype
) -> None:
    # The same power from everywhere: what differs between points is rounding, and no estimate of a place.
    peaks = estimator(torch.eye(36, dtype=dtype), 3, CLASSROOM.grid((25, 13, 4))).peaks
    assert not bool(peaks.active.any())


def test_a_constant_spectrum_has_no_peaks_and_no_power() -> None:
    # One antenna element receives the same from everywhere, exactly; two make the subspace.
    elements = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    grid = Grid(ArrayGeometry(elements, 0.3), *(torch.linspace(0.5, 1.0, 5, dtype=torch.float64) for _ in range(3)))
    spectrum = bartlett_spectrum(torch.eye(2, dtype=torch.complex128), 1, grid)
    assert float(spectrum.values.amax() - spectrum.values.amin()) == 0
    assert not bool(spectrum.peaks.active.any())
    assert bool((spectrum.powers == 0).all())


def test_a_grid_of_one_point_holds_the_source_that_stands_there() -> None:
    batch = simulate(dataclasses.replace(CLASSROOM, sources=1), 1, seed=0).to(dtype=torch.float64)
    grid = Grid(CLASSROOM.array(dtype=torch.float64), batch.azimuth[0], batch.elevation[0], batch.range[0])
    peaks = music_spectrum(batch.factor(), 1, grid).peaks
    assert peaks.active.tolist() == [[True]]
    torch.testing.assert_close(peaks.azimuth, batch.azimuth)


def test_fewer_peaks_than_sources_are_reported_as_fewer() -> None:
    config = dataclasses.replace(APART, sources=3)
    batch = simulate(config, 1, seed=0).to(dtype=torch.float64)
    places = [
        torch.tensor([row], dtype=torch.float64) for row in ((0.1, 0.8, -0.7), (0.05, 0.3, -0.3), (3.0, 2.0, 4.0))
    ]
    batch = dataclasses.replace(batch, azimuth=places[0], elevation=places[1], range=places[2])
    # A window of one beam width around the first source: the others stand outside, and nothing else peaks in it.
    window = Grid.field_of_view(config.array(), (0.06, 0.14), (0.01, 0.09), (2.0, 6.0), (9, 9, 7))
    for refine in (True, False):
        peaks = music_spectrum(batch.factor(), 3, window, refine=refine).peaks
        assert peaks.active.tolist() == [[True, False, False]]
        assert float((peaks.azimuth[0, 0] - 0.1).abs()) < 0.011 and float((peaks.elevation[0, 0] - 0.05).abs()) < 0.011
        assert bool((peaks.power[0, 1:] == 0).all())


def test_a_source_is_found_among_phantoms_when_more_are_asked_for() -> None:
    config = dataclasses.replace(CLASSROOM, sources=1)
    batch = simulate(config, 10, seed=12).to(dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    noise = 1e-4 * torch.randn(10, 36, 4, generator=generator, dtype=torch.complex128)
    factor = torch.cat([batch.factor(), noise], dim=-1)
    peaks = music_spectrum(factor, 3, config.grid((33, 17, 6))).peaks
    matching = match(peaks, batch)
    assert matching.recall == 1.0
    # The source lies in any signal subspace; noise of 1e-8 of its power turns it by about 1e-4 at the most.
    assert float(matching.azimuth[matching.hit].abs().max()) < 1e-4
    power = peaks.power.gather(1, matching.slot)
    torch.testing.assert_close(power, torch.full_like(power, 36.0), rtol=1e-3, atol=0)
    assert float(overlaps(peaks, config.array()).max()) < SAME


@pytest.mark.slow
@pytest.mark.parametrize("estimator", SPECTRA)
def test_no_two_refined_peaks_stand_at_one_place(estimator: Callable[..., Spectrum]) -> None:
    # Rare, so many scenes: candidates that are apart after the first steps and meet in the last ones.
    cases = ((CLASSROOM, (25, 13, 6), 150), (SceneConfig.preset("full"), (49, 25, 10), 50))
    for config, shape, scenes in cases:
        batch = simulate(config, scenes, seed=0)
        for factor in (batch.factor(), sample_factor(batch)):
            peaks = estimator(factor, counted(batch), config.grid(shape)).peaks
            assert float(overlaps(peaks, config.array()).max()) <= SAME + 1e-5


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), estimator=st.sampled_from(SPECTRA), exact=st.booleans())
def test_peaks_without_refinement_are_cells_of_the_grid_that_no_neighbour_exceeds(
    seed: int, estimator: Callable[..., Spectrum], exact: bool
) -> None:
    batch = simulate(CLASSROOM, 3, seed=seed)
    factor = (batch.factor() if exact else sample_factor(batch)).to(torch.complex128)
    grid = CLASSROOM.grid((17, 9, 4))
    spectrum = estimator(factor, 3 if not exact else counted(batch), grid, refine=False)
    peaks = spectrum.peaks
    padded = torch.nn.functional.pad(spectrum.values, (1, 1, 1, 1, 1, 1), value=-math.inf)
    heights = []
    for scene, slot in peaks.active.nonzero().tolist():
        cell = []
        for name, axis in (("azimuth", grid.azimuth), ("elevation", grid.elevation), ("range", grid.range)):
            distance = (axis - getattr(peaks, name)[scene, slot]).abs()
            assert float(distance.min()) < 1e-12
            cell.append(int(distance.argmin()))
        p, q, r = cell
        around = padded[scene, p : p + 3, q : q + 3, r : r + 3]
        assert float(spectrum.values[scene, p, q, r]) == float(around.max())
        heights.append((scene, -float(spectrum.values[scene, p, q, r])))
    assert heights == sorted(heights)
    assert bool((peaks.active[:, :-1] >= peaks.active[:, 1:]).all())


def test_refined_peaks_are_at_least_as_high_as_cells_and_stay_within_the_grid() -> None:
    batch = simulate(CLASSROOM, 30, seed=13).to(dtype=torch.float64)
    grid, factor = CLASSROOM.grid((13, 7, 3)), sample_factor(batch)
    refined, cells = (music_spectrum(factor, 1, grid, refine=refine).peaks for refine in (True, False))
    basis = torch.linalg.svd(factor, full_matrices=False).U[..., :1]
    heights = [(peaks.steering(grid.array).mH @ basis).abs().square().flatten() for peaks in (refined, cells)]
    assert bool((heights[0] >= heights[1] - 1e-12).all())
    assert float((heights[0] - heights[1]).max()) > 1e-3
    for name in ("azimuth", "elevation", "range"):
        axis, place = getattr(grid, name), getattr(refined, name)
        assert float(place.min()) >= float(axis.min()) - 1e-12 and float(place.max()) <= float(axis.max()) + 1e-12


def test_a_grid_of_one_range_holds_the_peaks_there() -> None:
    batch = simulate(CLASSROOM, 5, seed=14)
    spectrum = music_spectrum(batch.factor(), 1, CLASSROOM.grid((25, 13, 1)))
    expected = spectrum.peaks.range[spectrum.peaks.active]
    torch.testing.assert_close(expected, torch.full_like(expected, float(CLASSROOM.grid((1, 1, 1)).range)))


def test_the_map_is_the_highest_over_the_ranges() -> None:
    spectrum = music_spectrum(simulate(CLASSROOM, 2, seed=0).factor(), 1, CLASSROOM.grid((9, 5, 4)))
    assert torch.equal(spectrum.map, spectrum.values.max(dim=-1).values)


# ---- coarse to fine ----


def factors(batch: SceneBatch) -> dict[str, Tensor]:
    estimate = polish(batch, sparse(batch, counted(batch)))
    return {
        "truth": batch.factor(),
        "sample": sample_factor(batch),
        "sparse": estimate.factor(batch.config.array()),
    }


@pytest.mark.slow
@pytest.mark.parametrize("separation", [0.0, 15.0])
def test_coarse_to_fine_finds_the_peaks_of_the_full_grid(separation: float) -> None:
    config = SceneConfig.preset("full", sources=(1, 3), snr_db=(5.0, 20.0), separation=math.radians(separation))
    batch = simulate(config, 60, seed=21)
    grid, sources = config.grid((49, 25, 12)), counted(batch)
    given = factors(batch)
    full = {name: music_spectrum(factor, sources, grid).peaks for name, factor in given.items()}
    coarse = {name: coarse_to_fine(factor, sources, grid) for name, factor in given.items()}
    agreement = {name: float(same_peaks(full[name], coarse[name]).double().mean()) for name in given}
    # Most peaks of a sample covariance of 16 snapshots are those of noise, of about equal height, and which of them are
    # the K highest hangs on every cell: its peaks cannot agree, but about as many sources must be found. Of 120, about
    # half of them found, two searches that share nothing would differ by 0.06 (one standard deviation).
    recalls = [match(peaks["sample"], batch).recall for peaks in (full, coarse)]
    assert abs(recalls[0] - recalls[1]) < 0.1
    assert min(agreement["truth"], agreement["sparse"]) >= 0.99, agreement


def test_the_coarse_grid_keeps_both_ends() -> None:
    batch = simulate(dataclasses.replace(CLASSROOM, sources=1), 1, seed=0).to(dtype=torch.float64)
    for azimuth in (-math.pi / 3, math.pi / 3):
        edge = dataclasses.replace(batch, azimuth=torch.full_like(batch.azimuth, azimuth))
        # An even number of points: leaving out every second one would leave out the last.
        peaks = coarse_to_fine(edge.factor(), 1, CLASSROOM.grid((26, 14, 6)))
        torch.testing.assert_close(peaks.azimuth, edge.azimuth, atol=1e-6, rtol=0)


# ---- what is refused ----


def test_what_cannot_be_searched_is_refused() -> None:
    factor, grid = simulate(CLASSROOM, 2, seed=0).factor(), CLASSROOM.grid((5, 3, 1))
    with pytest.raises(InputError, match="covariance or factor has shape .*rows as the array has elements"):
        music_spectrum(factor[:, :30], 1, grid)
    for loading in (0.0, -1.0, math.nan):
        with pytest.raises(InputError, match="loading is"):
            mvdr_spectrum(factor, 1, grid, loading=loading)
    for estimator in SPECTRA:
        with pytest.raises(InputError, match="sources is 36"):
            estimator(factor, 36, grid)
        with pytest.raises(InputError, match="scene 1 holds NaN or infinity"):
            estimator(torch.cat([factor[:1], factor[1:] * math.nan]), 1, grid)
