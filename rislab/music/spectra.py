"""Spectra over a grid and their peaks: MUSIC, with the minimum-variance (MVDR) and the conventional beam beside it.

All three are one form. With a matrix W [N,K], 0 ≤ W W^H ≤ I, the beam power of a unit-norm steering vector a is
‖W^H a‖² ≤ 1, and what it leaves, δ(a) = 1 − ‖W^H a‖², is smallest towards a source:

    MUSIC         1 / δ(a),   W = U_s, the signal subspace
    MVDR          ε / δ(a),   W W^H = I − ε (R + ε I)^(−1), ε the loading
    conventional  R's beam power a^H R a, W W^H = R / tr R

Peaks are local maxima on the grid, moved to the exact minimum of δ between its points; two peaks whose steering vectors
overlap are one.

References:
    [1] R. O. Schmidt, Multiple emitter location and signal parameter estimation, IEEE Trans. AP 34(3), 1986.
    [2] J. Capon, High-resolution frequency-wavenumber spectrum analysis, Proc. IEEE 57(8), 1969.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rislab.data.geometry import wavenumber
from rislab.data.grid import Grid, check_grid, empty_huge, mirror_parts
from rislab.data.measurement import Measured
from rislab.errors import check_number
from rislab.music.estimate import Estimate
from rislab.music.peaks import find_peaks
from rislab.music.subspace import eigh_psd, signal_subspace, validate_covariance

# Bytes of one product of the scan; it stays in the second-level cache.
WORK = 2**20


@dataclass(frozen=True, eq=False)
class Spectrum:
    """A spectrum over a grid with its peaks.

    Args:
        values: [B,P,Q,R], real, linear (not dB); axes are azimuth, elevation and range.
        peaks: [B,K], highest first; where there are fewer than K, the last are inactive.
    """

    values: Tensor
    peaks: Estimate

    @property
    def powers(self) -> Tensor:
        """Estimated power of each peak, [B,K]."""
        return self.peaks.power

    @property
    def map(self) -> Tensor:
        """The largest value over the ranges, [B,P,Q]."""
        return self.values.amax(dim=-1)


def music_spectrum(
    covariance_or_factor: Tensor | Measured, sources: int | Tensor, grid: Grid, *, refine: bool = True
) -> Spectrum:
    """MUSIC spectrum 1 / (1 − ‖U_s^H a‖²) on the signal subspace U_s [1].

    Equal to 1/‖U_n^H a‖² on the noise subspace at N/K − 1 times fewer operations. Working memory beyond the result and
    the steering vectors that the grid caches (at most grid.CACHE_BYTES bytes): WORK bytes for the scan, if
    512·K·B numbers fit into it, and about 16·WORK for the peaks; a grid that is finer than the beams need is scanned
    at fewer points and interpolated to rounding, and a scan of a surface is put together from mirror images, for which
    as much as the result is held besides, at most.

    Args:
        covariance_or_factor: R [B,N,N] Hermitian, or F [B,N,J] with R = F F^H and J < N; complex64 or complex128, which
            is also the precision of the result; on any device. Element n = v·N_h + h, h (azimuth axis) fastest. A
            Measurement or a SceneBatch stands for its sample covariance.
        sources: K for all scenes, or [B], integer, 1 ≤ K < N.
        grid: P × Q × R points to search, with the steering vectors of its array.
        refine: move the peaks to the maximum between grid points; else they are cells of the grid.

    Returns:
        Spectrum [B,P,Q,R]. Its values are differentiable in the argument; peaks are not. If the grid has one range, all
        peaks have it; plane waves have no range, and their peaks carry the first of the grid. The power of a peak is
        that of a source at its place which, with the others, explains R, scaled to trace N.

    Raises:
        InputError: see signal_subspace().

    Example:
        >>> from rislab.data.scene_config import SceneConfig
        >>> from rislab.data.simulation import place
        >>> scene = place(SceneConfig.preset("classroom"), [0.25], [-0.1], [1.5], seed=0)
        >>> peaks = music_spectrum(scene.factor(), 1, scene.config.grid((31, 17, 5))).peaks
        >>> [round(float(axis), 3) for axis in (peaks.azimuth, peaks.elevation, peaks.range, peaks.power)]
        [0.25, -0.1, 1.5, 36.0]
    """
    check_grid(grid)
    matrix = validate_covariance(covariance_or_factor, grid.array.count)
    basis = signal_subspace(matrix, sources)
    values = residual_power(basis, grid).reciprocal_()
    return Spectrum(values, find_peaks(values, torch.reciprocal, basis, matrix, sources, grid, refine))


def mvdr_spectrum(
    covariance_or_factor: Tensor | Measured,
    sources: int | Tensor,
    grid: Grid,
    *,
    loading: float = 1e-3,
    refine: bool = True,
) -> Spectrum:
    """Minimum-variance spectrum 1 / (a^H (R + ε I)^(−1) a), R of trace N [2].

    Args:
        covariance_or_factor: see music_spectrum().
        sources: one number or [B], ≥ 1; largest number of peaks, and the values do not depend on it.
        grid: see music_spectrum().
        loading: ε as a fraction of the mean eigenvalue, > 0.
        refine: see music_spectrum().

    Returns:
        Spectrum [B,P,Q,R]; see music_spectrum(). Its values are differentiable in a factor, not in a covariance.

    Raises:
        InputError: for a loading out of range; see validate_covariance().
    """
    check_number("loading", loading, 0.0, 1e6, exclusive=True)
    check_grid(grid)
    matrix = validate_covariance(covariance_or_factor, grid.array.count)
    values, vectors = eigh_psd(matrix.detach() if matrix.shape[-1] == matrix.shape[-2] else matrix)
    # (R + ε I)^(−1) leaves ε / (λ + ε) of a beam along the eigenvector of λ.
    weighted = vectors * (values / (values + loading)).sqrt().unsqueeze(-2)
    values = residual_power(weighted, grid).div_(loading).reciprocal_()
    return Spectrum(values, find_peaks(values, lambda v: loading / v, weighted, matrix, sources, grid, refine))


def bartlett_spectrum(
    covariance_or_factor: Tensor | Measured, sources: int | Tensor, grid: Grid, *, refine: bool = True
) -> Spectrum:
    """Conventional beam power a^H R a, R of trace N.

    Args:
        covariance_or_factor: see music_spectrum().
        sources: one number or [B], ≥ 1; largest number of peaks, and the values do not depend on it.
        grid: see music_spectrum().
        refine: see music_spectrum().

    Returns:
        Spectrum [B,P,Q,R]; see music_spectrum(). Its values are differentiable in a factor, not in a covariance.

    Raises:
        InputError: see validate_covariance().
    """
    check_grid(grid)
    matrix = validate_covariance(covariance_or_factor, grid.array.count)
    factor = matrix
    if matrix.shape[-1] == matrix.shape[-2]:
        values, vectors = eigh_psd(matrix.detach())
        factor = vectors * values.sqrt().unsqueeze(-2)
    weighted = factor / math.sqrt(grid.array.count)
    power = power_on_grid(weighted, grid).mul_(grid.array.count)
    peaks = find_peaks(power, lambda v: 1 - v / grid.array.count, weighted, matrix, sources, grid, refine)
    return Spectrum(power, peaks)


def coarse_to_fine(covariance_or_factor: Tensor | Measured, sources: int | Tensor, grid: Grid) -> Estimate:
    """Peaks of music_spectrum() by coarse-to-fine search: every second point of each axis, then continuous refinement.

    An eighth of the work of a grid in three dimensions, and of its memory; no map comes with it. It finds what the full
    grid finds where the grid samples a beam width at least four times. The arguments are those of music_spectrum().

    Returns:
        Estimate [B,K]; see Spectrum.peaks.
    """
    check_grid(grid)
    return music_spectrum(covariance_or_factor, sources, grid.coarser).peaks


def power_on_grid(factor: Tensor, grid: Grid) -> Tensor:
    """Power ‖F^H a‖² that the beam towards each point of a grid receives.

    One real matrix product, in pieces of WORK bytes, over the nodes that Grid.interpolation() needs; of a surface over
    a quarter of them, see Grid.folded. Plane waves on a surface factor into its two axes, which takes an eighth of the
    operations of a 12×12 surface. Differentiable in the factor; if a gradient is wanted, all nodes and all pieces stay
    in memory.

    Args:
        factor: F, [B,N,K], complex.
        grid: P × Q × R points.

    Returns:
        [B,P,Q,R], real.
    """
    interpolation = grid.interpolation(factor.real.dtype)
    if not interpolation:
        return _power(factor, grid)
    return interpolation(_power(factor, interpolation.nodes)).clamp_(min=torch.finfo(factor.real.dtype).tiny)


def _power(factor: Tensor, grid: Grid) -> Tensor:
    """power_on_grid() at each point by itself."""
    axes = grid.array.axes() if grid.array.wavefront == "planar" else None
    if axes is not None:
        return _separable_power(factor, grid, *axes)
    scenes, elements, columns = factor.shape
    # Sources run slowest, so that summing over them adds whole rows.
    vectors = factor.permute(2, 0, 1).reshape(columns * scenes, elements)
    if not (factor.requires_grad and torch.is_grad_enabled()):
        return _mirrored_power(vectors, scenes, grid)
    rows = _real_rows(vectors)  # [2·K·B, 2N]
    width = max(64, WORK // (len(rows) * rows.dtype.itemsize))
    parts = (rows @ planes.clone().T for _, planes in grid.iter_steering(rows.dtype, rows.device, width))
    power = torch.cat([part.square().view(2 * columns, scenes, -1).sum(dim=0) for part in parts], dim=-1)
    return power.view(scenes, *grid.shape)


def _mirrored_power(vectors: Tensor, scenes: int, grid: Grid) -> Tensor:
    """_power() of vectors [K·B,N] without gradients, [B,P,Q,R].

    By the even and odd parts of steering vectors at a place, the beams at its mirror images are known too: of a surface
    and angles around 0, that takes a quarter of the operations.
    """
    part = grid.folded
    sides = 1 + part.folds[0], 1 + part.folds[1]
    rows = [_real_rows(mirrored) for mirrored in mirror_parts(vectors, grid.array, part.folds)]
    sizes = [each.shape[1] for each in rows]
    count, points, real = len(rows[0]), math.prod(part.shape), rows[0].dtype
    width = min(points, max(64, WORK // (2 * len(rows) * count * real.itemsize)))
    power = empty_huge((*sides, scenes, points), real, vectors.device)
    # The same for all pieces: fresh pages would cost as much as the product.
    scratch = vectors.real.new_empty(2, len(rows) * count * width)
    for piece, planes in part.iter_steering(real, vectors.device, width):
        products, beams = (half[: len(rows) * count * len(planes)].view(*sides, count, -1) for half in scratch)
        for left, right, out in zip(rows, planes.split(sizes, dim=1), products.flatten(0, 1), strict=True):
            torch.mm(left, right.T, out=out)
        for axis in (0, 1):
            if part.folds[axis]:
                even, odd = products.unbind(axis)
                torch.add(even, odd, out=beams.select(axis, 0))
                torch.sub(even, odd, out=beams.select(axis, 1))
                products, beams = beams, products
        torch.sum(products.square_().view(*sides, -1, scenes, len(planes)), dim=2, out=power[..., piece])
    power = power.view(*sides, scenes, *part.shape)
    power = _unfolded(power, 4, grid.shape[1]) if part.folds[0] else power.squeeze(0)
    return _unfolded(power, 2, grid.shape[0]) if part.folds[1] else power.squeeze(0)


def _unfolded(halves: Tensor, axis: int, count: int) -> Tensor:
    """A map from its halves along an axis of `count` points, [2,...]: the upper one, and the lower one mirrored."""
    upper, lower = halves
    return torch.cat([lower.flip(axis - 1).narrow(axis - 1, 0, count // 2), upper], dim=axis - 1)


def _separable_power(factor: Tensor, grid: Grid, z: Tensor, y: Tensor) -> Tensor:
    """power_on_grid() of plane waves, a_n = N^(−1/2) e^(j k0 z_v sinθ) e^(j k0 y_h sinφ cosθ): over v first, then h."""
    scenes, _, columns = factor.shape
    like = factor.real
    azimuth, elevation, z, y = (axis.to(like) for axis in (grid.azimuth, grid.elevation, z, y))
    k0 = wavenumber(grid.array.wavelength)
    down = torch.polar(torch.ones_like(like[:1, 0, 0]), k0 * torch.outer(z, elevation.sin()))  # [N_v, Q]
    turn = elevation.cos()[:, None, None] * azimuth.sin() * y.unsqueeze(-1)  # [Q, N_h, P]
    across = torch.cat([torch.cos(k0 * turn), torch.sin(k0 * turn)], dim=1)  # [Q, 2N_h, P]
    folded = factor.permute(2, 0, 1).reshape(columns * scenes, len(z), len(y)) / math.sqrt(len(z) * len(y))
    # conj, since _real_rows() takes the conjugate of its argument.
    rows = _real_rows(torch.einsum("cvh,vq->qch", folded, down.conj()))  # [Q, 2·K·B, 2N_h]
    width = max(1, WORK // (rows.shape[1] * across.shape[-1] * like.dtype.itemsize))
    parts = [
        (left @ right).square().view(len(left), 2 * columns, scenes, -1).sum(dim=1)  # [Q', B, P]
        for left, right in zip(rows.split(width), across.split(width), strict=True)
    ]
    power = torch.cat(parts).permute(1, 2, 0).unsqueeze(-1)  # [B, P, Q, 1]
    return power.expand(-1, -1, -1, len(grid.range)).contiguous()


def _real_rows(vectors: Tensor) -> Tensor:
    """Real rows [..., 2C, 2N] whose products with Re a over Im a are Re and Im of w^H a, from w [..., C, N]."""
    upper = torch.cat([vectors.real, vectors.imag], dim=-1)
    return torch.cat([upper, torch.cat([-vectors.imag, vectors.real], dim=-1)], dim=-2)


def residual_power(factor: Tensor, grid: Grid) -> Tensor:
    """δ = 1 − ‖W^H a‖² over a grid, [B,P,Q,R], not below rounding; W [B,N,K], complex, W W^H ≤ I."""
    power = power_on_grid(factor, grid)
    # In place: each fresh result of this size would cost as much as a tenth of the product.
    return power.neg_().add_(1.0).clamp_(min=torch.finfo(power.dtype).eps)
