"""Signal subspaces: the projector of LAPACK whatever the path, and clear words for what has none."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rislab.data.covariance import sample_factor
from rislab.data.scene_config import SceneConfig
from rislab.data.scenes import SceneBatch
from rislab.data.simulation import simulate
from rislab.errors import InputError
from rislab.music import subspace
from rislab.music.spectra import music_spectrum
from rislab.music.subspace import check_sources, eigh_psd, signal_subspace, validate_covariance


def unitary(count: int, size: int, seed: int, columns: int | None = None) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(count, size, columns or size, generator=generator, dtype=torch.complex128)
    return torch.linalg.qr(drawn).Q


def with_spectrum(values: Tensor, count: int = 3, seed: int = 0) -> Tensor:
    """Covariances [B,N,N] of given eigenvalues [N] in random directions."""
    vectors = unitary(count, len(values), seed)
    return validate_covariance((vectors * values.double()) @ vectors.mH, len(values))


def projector(basis: Tensor) -> Tensor:
    return basis @ basis.mH


def by_lapack(covariance: Tensor, sources: int) -> Tensor:
    return projector(torch.linalg.eigh(covariance.to(torch.complex128)).eigenvectors[..., -sources:])


def distance(one: Tensor, other: Tensor) -> float:
    return float(torch.linalg.matrix_norm(one.to(torch.complex128) - other, 2).max())


@settings(max_examples=30, deadline=None)
@given(
    size=st.integers(6, 70),
    sources=st.integers(1, 5),
    level=st.floats(1e-6, 0.5),
    single=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_the_subspace_of_a_covariance_is_that_of_lapack(
    size: int, sources: int, level: float, single: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = level * torch.rand(size, generator=generator, dtype=torch.float64)
    values[:sources] = 1 + torch.rand(sources, generator=generator, dtype=torch.float64)
    covariance = with_spectrum(values, seed=seed).to(torch.complex64 if single else torch.complex128)
    basis = signal_subspace(covariance, sources)
    assert basis.shape == (3, size, sources) and basis.dtype == covariance.dtype
    # The residual is proved below 100 eps of the gap, and √K such vectors make the subspace; a third for rounding.
    bound = 300 * torch.finfo(basis.real.dtype).eps * math.sqrt(sources)
    assert distance(projector(basis), by_lapack(covariance, sources)) < bound
    assert distance(basis.mH @ basis, torch.eye(sources, dtype=torch.complex128)) < bound


@pytest.mark.parametrize("gap", [1e-2, 1e-4, 1e-6])
def test_a_small_gap_changes_the_path_and_not_the_result(gap: float) -> None:
    values = torch.full((64,), 0.5, dtype=torch.float64)
    values[:3] = torch.tensor([2.0, 1.0, 0.5 * (1 + gap)])
    # The spare columns do not help: all the others lie just behind the last wanted one.
    covariance = with_spectrum(values)
    own = projector(signal_subspace(covariance, 3))
    # What rounding of the matrix alone makes of such a subspace: eps ‖R‖ / gap, and ten times as much for both.
    expected = by_lapack(covariance, 3)
    assert distance(own, expected) < 10 * 2.2e-16 * 4 * math.sqrt(64) / gap


def test_without_any_gap_the_basis_still_carries_the_largest_eigenvalues() -> None:
    values = torch.tensor([3.0, 2.0, *[1.0] * 62])
    covariance = with_spectrum(values)
    basis = signal_subspace(covariance, 4)
    torch.testing.assert_close(basis.mH @ basis, torch.eye(4, dtype=basis.dtype).expand(3, -1, -1))
    carried = (basis.mH @ covariance @ basis).diagonal(dim1=1, dim2=2).real
    scaled = values.double() * 64 / values.sum()
    torch.testing.assert_close(carried.sum(-1), scaled[:4].sum().expand(3), rtol=1e-10, atol=0)


def test_scenes_with_and_without_gap_do_not_disturb_each_other() -> None:
    easy = torch.tensor([3.0, 2.5, *[1e-3] * 62])
    hard = torch.cat([torch.tensor([3.0]), torch.linspace(1.001, 1.0, 63)])
    mixed = torch.cat([with_spectrum(easy, 2, seed=1), with_spectrum(hard, 2, seed=2), with_spectrum(easy, 1, seed=3)])
    together = projector(signal_subspace(mixed, 2))
    # The smallest gap is 1.6e-5 of the largest eigenvalue.
    assert distance(together, by_lapack(mixed, 2)) < 1e-9
    for number in range(5):
        assert distance(projector(signal_subspace(mixed[number : number + 1], 2)), together[number : number + 1]) < 1e-9


@settings(max_examples=25, deadline=None)
@given(columns=st.integers(1, 7), seed=st.integers(0, 10**6))
def test_the_subspace_of_a_factor_is_that_of_its_covariance_and_turning_the_factor_changes_nothing(
    columns: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    factor = validate_covariance(torch.randn(2, 20, columns, generator=generator, dtype=torch.complex128), 20)
    sources = 1 + seed % columns
    own = projector(signal_subspace(factor, sources))
    assert distance(own @ own, own) < 1e-9
    turned = factor @ unitary(2, columns, seed + 1)
    # Random Gram matrices have gaps of a few per cent of their norm, now and then of 1e-5.
    assert distance(projector(signal_subspace(turned, sources)), own) < 1e-9
    assert distance(own, by_lapack(factor @ factor.mH, sources)) < 1e-9


@pytest.mark.parametrize("turn", [True, False])
def test_order_and_rotation_of_columns_change_no_spectrum(turn: bool, classroom: SceneBatch) -> None:
    scenes = classroom[classroom.active.sum(-1) == 3][:4].to(dtype=torch.float64)
    other = scenes.factor() @ unitary(4, 3, 5) if turn else scenes.factor()[..., [2, 0, 1]]
    grid = scenes.config.grid((25, 13, 4))
    one, two = (music_spectrum(factor, 3, grid) for factor in (scenes.factor(), other))
    # Near a source the spectrum is 1/δ with a δ that is known to 1e-14.
    torch.testing.assert_close(1 / one.values, 1 / two.values, atol=1e-12, rtol=1e-9)
    # All sources are of the same height, 1/0: their order is that of rounding.
    torch.testing.assert_close(one.peaks.azimuth.sort().values, two.peaks.azimuth.sort().values, atol=1e-6, rtol=0)


def test_scenes_with_fewer_sources_have_zero_columns_at_the_end(classroom: SceneBatch) -> None:
    counts = classroom.active.sum(-1)[:16]
    assert set(counts.tolist()) == {1, 2, 3}
    scenes = classroom[:16].to(dtype=torch.float64)
    for argument in (scenes.factor(), scenes.covariance()):
        matrix = validate_covariance(argument, 36)
        basis = signal_subspace(matrix, counts)
        beyond = torch.arange(3) >= counts.unsqueeze(-1)
        assert bool((basis.mT[beyond] == 0).all())
        for number, count in enumerate(counts.tolist()):
            alone = projector(signal_subspace(matrix[number : number + 1], count))
            assert distance(projector(basis[number : number + 1]), alone) < 1e-9


def test_eigenpairs_rebuild_the_matrix(classroom: SceneBatch) -> None:
    factor = validate_covariance(classroom[:4].to(dtype=torch.float64).factor()[..., :2], 36)
    covariance = validate_covariance(factor @ factor.mH, 36)
    for matrix in (factor, covariance):
        values, vectors = eigh_psd(matrix)
        assert bool((values >= 0).all()) and bool((values.diff(dim=-1) >= 0).all())
        torch.testing.assert_close((vectors * values.unsqueeze(-2)) @ vectors.mH, covariance, atol=1e-10, rtol=0)


@settings(max_examples=20, deadline=None)
@given(scale=st.floats(1e-8, 1e8), seed=st.integers(0, 1000))
def test_what_is_conditioned_is_hermitian_and_has_trace_n(scale: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    factor = scale * torch.randn(3, 12, 4, generator=generator, dtype=torch.complex128)
    scaled = validate_covariance(factor, 12)
    torch.testing.assert_close(scaled.abs().square().sum((1, 2)), torch.full((3,), 12.0, dtype=torch.float64))
    dense = factor @ factor.mH
    noisy = dense * (1 + 1e-6 * torch.randn(dense.shape, generator=generator))
    covariance = validate_covariance(noisy, 12)
    assert torch.equal(covariance, covariance.mH)
    torch.testing.assert_close(
        covariance.diagonal(dim1=1, dim2=2).real.sum(-1), torch.full((3,), 12.0, dtype=torch.float64)
    )
    torch.testing.assert_close(covariance, scaled @ scaled.mH, atol=1e-4, rtol=0)


def test_one_scene_needs_no_batch_axis(classroom: SceneBatch) -> None:
    assert validate_covariance(classroom.covariance()[0], 36).shape == (1, 36, 36)
    assert validate_covariance(classroom.factor()[0], 36).shape == (1, 36, 3)


GOOD = torch.eye(9, dtype=torch.complex128).repeat(2, 1, 1)


def spoilt(value: complex, scene: int = 1) -> Tensor:
    matrix = GOOD.clone()
    matrix[scene, 2, 3] = value
    return matrix


def test_the_hermitian_part_does_not_depend_on_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    factor = torch.randn(5, 9, 4, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    skew = torch.randn(5, 9, 9, dtype=torch.complex128, generator=torch.Generator().manual_seed(1))
    matrix = factor @ factor.mH + 1e-5 * (skew - skew.mH)
    exact = 9 * factor @ factor.mH / torch.linalg.matrix_norm(factor).square()[:, None, None]
    for work in (subspace.WORK, 1):
        monkeypatch.setattr(subspace, "WORK", work)
        for form in (matrix, matrix.mH, matrix.clone().requires_grad_()):  # contiguous, a view, and with a gradient
            torch.testing.assert_close(validate_covariance(form, 9).detach(), exact, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GOOD.real, "is torch.float64; allowed: complex64 or complex128"),
        (lambda: GOOD.real.long(), "is torch.int64; allowed: complex64 or complex128"),
        (lambda: GOOD[:, :7], r"has shape \(2, 7, 9\); allowed: \[B,9,9\]"),
        (lambda: GOOD[:, :, :0], r"has shape \(2, 9, 0\)"),
        (lambda: GOOD[:0], r"has shape \(0, 9, 9\)"),
        (lambda: torch.cat([GOOD, GOOD], dim=2), r"has shape \(2, 9, 18\)"),
        (lambda: GOOD[0, 0], r"has shape \(9,\)"),
        (lambda: GOOD.unsqueeze(0), r"has shape \(1, 2, 9, 9\)"),
        (lambda: spoilt(math.nan), "of scene 1 holds NaN or infinity"),
        (lambda: spoilt(complex(0, math.inf), 0), "of scene 0 holds NaN or infinity"),
        (lambda: spoilt(math.nan)[..., :4], "of scene 1 holds NaN or infinity"),
        (lambda: GOOD * torch.tensor([1.0, 0.0])[:, None, None], "of scene 1 is zero"),
        (lambda: (GOOD * 0)[..., :4], "of scene 0 is zero"),
        (lambda: spoilt(1e-2), "of scene 1 is not Hermitian"),
        (lambda: 1j * GOOD, "of scene 0 has a trace of 0 or below|of scene 0 is not Hermitian"),
        (lambda: -GOOD, "of scene 0 has a trace of 0 or below"),
        (lambda: unitary(1, 9, 0) + 3 * torch.eye(9), "is not Hermitian; .*of a square factor F, give F F"),
    ],
)
def test_what_is_no_covariance_is_refused_by_name(make: Callable[[], Tensor], message: str) -> None:
    with pytest.raises(InputError, match=f"covariance or factor.* {message}"):
        validate_covariance(make(), 9)


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (0, r"sources is 0; allowed: a whole number in \[1, 8\]"),
        (9, r"sources is 9; allowed: a whole number in \[1, 8\]"),
        (-1, "sources is -1"),
        (True, "sources is True"),
        (2.0, "sources is 2.0"),
        (None, "sources is None"),
        ("2", "sources is '2'"),
        (torch.tensor([1.0, 2.0]), "sources is torch.float32 of shape"),
        (torch.tensor([True, True]), "sources is torch.bool"),
        (torch.tensor([1 + 0j, 2 + 0j]), "sources is torch.complex64"),
        (torch.tensor([1, 2, 3]), r"sources is torch.int64 of shape \(3,\); allowed: one whole number, or \[2\]"),
        (torch.tensor([[1, 2]]), r"sources is torch.int64 of shape \(1, 2\)"),
        (torch.tensor([0, 2]), "sources is 0"),
        (torch.tensor([1, 9]), "sources is 9"),
    ],
)
def test_a_number_of_sources_that_is_none_is_refused(sources: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_sources(sources, 2, 9, torch.device("cpu"))  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [9, 40])
def test_a_rank_below_the_number_of_sources_is_refused(size: int) -> None:
    basis = unitary(2, size, 0, columns=2)
    with pytest.raises(InputError, match="covariance of scene 0 has a rank below 3, the number of sources"):
        signal_subspace(validate_covariance(basis @ basis.mH, size), 3)
    with pytest.raises(InputError, match="sources is 3, and the factor has 2 columns; allowed: a rank of at least K"):
        signal_subspace(validate_covariance(basis, size), 3)
    wide = torch.cat([basis, basis[..., :1]], dim=-1)
    with pytest.raises(InputError, match="rank below 3"):
        signal_subspace(validate_covariance(wide, size), 3)
    with pytest.raises(InputError, match="covariance of scene 1 has a rank below 3"):
        signal_subspace(validate_covariance(basis @ basis.mH, size), torch.tensor([2, 3]))
    assert signal_subspace(validate_covariance(wide, size), 2).shape == (2, size, 2)


def test_the_sample_covariance_of_a_scene_has_no_more_rank_than_snapshots() -> None:
    batch = simulate(SceneConfig.preset("classroom", snapshots=2), 2, seed=0)
    with pytest.raises(InputError, match="the factor has 2 columns"):
        music_spectrum(sample_factor(batch), 3, batch.config.grid((5, 3, 1)))
