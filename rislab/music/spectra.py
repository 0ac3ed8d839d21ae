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
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rislab.data.geometry import wavenumber
from rislab.data.grid import Grid, chunks, empty_huge
from rislab.data.measurement import Measured
from rislab.errors import check_number
from rislab.music.estimate import Estimate
from rislab.music.levenberg_marquardt import levenberg_marquardt
from rislab.music.subspace import check_sources, eigh_psd, signal_subspace, validate_covariance

# Bytes of one product of the scan; it stays in the second-level cache.
WORK = 2**20
# Two peaks whose steering vectors overlap |a^H b|² by more than this are one.
SAME = 0.999
NEAR = 0.9
# Starts beyond those needed: not the highest cell wins but the highest peak.
SPARE_PEAKS = 4
# A spectrum whose values differ by less than this many roundings has no peaks.
FLAT = 1e4
FIRST_STEPS, LAST_STEPS = 4, 30


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
    128·K·B numbers fit into it, and about 16·WORK for the peaks.

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
    matrix = validate_covariance(covariance_or_factor, grid.array.count)
    basis = signal_subspace(matrix, sources)
    return _with_peaks(residual_power(basis, grid).reciprocal_(), basis, matrix, sources, grid, refine)


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
    matrix = validate_covariance(covariance_or_factor, grid.array.count)
    values, vectors = eigh_psd(matrix.detach() if matrix.shape[-1] == matrix.shape[-2] else matrix)
    # (R + ε I)^(−1) leaves ε / (λ + ε) of a beam along the eigenvector of λ.
    weighted = vectors * (values / (values + loading)).sqrt().unsqueeze(-2)
    return _with_peaks(
        residual_power(weighted, grid).div_(loading).reciprocal_(), weighted, matrix, sources, grid, refine
    )


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
    matrix = validate_covariance(covariance_or_factor, grid.array.count)
    factor = matrix
    if matrix.shape[-1] == matrix.shape[-2]:
        values, vectors = eigh_psd(matrix.detach())
        factor = vectors * values.sqrt().unsqueeze(-2)
    weighted = factor / math.sqrt(grid.array.count)
    power = power_on_grid(weighted, grid).mul_(grid.array.count)
    return _with_peaks(power, weighted, matrix, sources, grid, refine)


def coarse_to_fine(covariance_or_factor: Tensor | Measured, sources: int | Tensor, grid: Grid) -> Estimate:
    """Peaks of music_spectrum() by coarse-to-fine search: every second point of each axis, then continuous refinement.

    An eighth of the work of a grid in three dimensions, and of its memory; no map comes with it. It finds what the full
    grid finds where the grid samples a beam width at least four times.

    Args:
        covariance_or_factor: see music_spectrum().
        sources: see music_spectrum().
        grid: see music_spectrum().

    Returns:
        Estimate [B,K]; see Spectrum.peaks.
    """
    return music_spectrum(covariance_or_factor, sources, grid.coarser).peaks


def power_on_grid(factor: Tensor, grid: Grid) -> Tensor:
    """Power ‖F^H a‖² that the beam towards each point of a grid receives.

    One real matrix product, in pieces of WORK bytes. Plane waves on a surface factor into its two axes, which takes an
    eighth of the operations of a 12×12 surface. Differentiable in the factor; if a gradient is wanted, all pieces stay
    in memory.

    Args:
        factor: F, [B,N,K], complex.
        grid: P × Q × R points.

    Returns:
        [B,P,Q,R], real.
    """
    axes = grid.array.axes() if grid.array.wavefront == "planar" else None
    if axes is not None:
        return _separable_power(factor, grid, *axes)
    scenes, elements, columns = factor.shape
    # Sources run slowest, so that summing over them adds whole rows.
    rows = _real_rows(factor.permute(2, 0, 1).reshape(columns * scenes, elements))  # [2·K·B, 2N]
    real, points = rows.dtype, math.prod(grid.shape)
    width = min(points, max(64, WORK // (len(rows) * real.itemsize)))
    if rows.requires_grad and torch.is_grad_enabled():
        parts = (rows @ planes.clone().T for _, planes in grid.iter_steering(real, rows.device, width))
        power = torch.cat([part.square().view(2 * columns, scenes, -1).sum(dim=0) for part in parts], dim=-1)
        return power.view(scenes, *grid.shape)
    power = empty_huge((scenes, points), real, rows.device)
    scratch = rows.new_empty(len(rows) * width)  # one for all pieces: fresh pages would cost as much as the product
    for piece, planes in grid.iter_steering(real, rows.device, width):
        part = scratch[: len(rows) * len(planes)].view(len(rows), -1)
        torch.mm(rows, planes.T, out=part)
        torch.sum(part.square_().view(2 * columns, scenes, -1), dim=0, out=power[:, piece])
    return power.view(scenes, *grid.shape)


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
        (some @ other).square().view(len(some), 2 * columns, scenes, -1).sum(dim=1)  # [Q', B, P]
        for some, other in zip(rows.split(width), across.split(width), strict=True)
    ]
    power = torch.cat(parts).permute(1, 2, 0).unsqueeze(-1)  # [B, P, Q, 1]
    return power.expand(-1, -1, -1, len(grid.range)).contiguous()


def _real_rows(vectors: Tensor) -> Tensor:
    """Real rows [..., 2C, 2N] whose products with Re a over Im a are Re and Im of w^H a, from w [..., C, N]."""
    upper = torch.cat([vectors.real, vectors.imag], dim=-1)
    return torch.cat([upper, torch.cat([-vectors.imag, vectors.real], dim=-1)], dim=-2)


def residual_power(factor: Tensor, grid: Grid) -> Tensor:
    """δ = 1 − ‖W^H a‖² over a grid, not below rounding.

    Args:
        factor: W, [B,N,K], complex, W W^H ≤ I.
        grid: P × Q × R points.

    Returns:
        [B,P,Q,R], real, > 0.
    """
    power = power_on_grid(factor, grid)
    # In place: each fresh result of this size would cost as much as a tenth of the product.
    return power.neg_().add_(1.0).clamp_(min=torch.finfo(power.dtype).eps)


@torch.no_grad()
def _with_peaks(
    values: Tensor, weighted: Tensor, matrix: Tensor, sources: int | Tensor, grid: Grid, refine: bool
) -> Spectrum:
    """The spectrum with its peaks.

    Starts come from the grid. All of them are refined by a few steps, and those that then differ to the end.
    """
    weighted, matrix = weighted.detach(), matrix.detach()
    counts = check_sources(sources, len(weighted), weighted.shape[1], weighted.device)
    most = int(counts.max())
    searched = values.detach()
    if grid.array.wavefront == "planar":
        searched = searched[..., :1]
        grid = replace(grid, range=grid.range[:1])
    height, place = _starts(searched, most, refine)
    valid = torch.isfinite(height)
    axes = [axis.to(weighted.device, weighted.real.dtype) for axis in (grid.azimuth, grid.elevation, grid.range)]
    points = torch.stack([axis[index] for axis, index in zip(axes, place, strict=True)], dim=-1)  # [B, C, 3]
    if refine:
        points, delta = _refine(weighted, points, valid, grid, FIRST_STEPS)
        # A start that is no maximum counts if it leads away from all peaks.
        no_maximum = torch.arange(points.shape[1], device=points.device) >= 2 * most + SPARE_PEAKS
        alike = torch.where(no_maximum.unsqueeze(0) | no_maximum.unsqueeze(1), NEAR, SAME)
        first = _distinct(-delta, valid, _overlap(points, grid) > alike, counts + SPARE_PEAKS)
        # Starts that have not met yet may still meet; then, and only then, are those behind them needed.
        for count in (most, most + SPARE_PEAKS):
            valid = first[:, :count] >= 0
            ended, delta = _refine(weighted, _select(points, first[:, :count]), valid, grid, LAST_STEPS)
            chosen = _distinct(-delta, valid, _overlap(ended, grid) > SAME, counts)
            if bool(((chosen >= 0).sum(1) == torch.minimum(counts, (first >= 0).sum(1))).all()):
                break
        points, valid = _select(ended, chosen), chosen >= 0
    else:
        # A plateau may give neighbouring cells as two maxima.
        same = torch.stack([(index.unsqueeze(1) - index.unsqueeze(2)).abs() <= 1 for index in place]).all(0)
        chosen = _distinct(height, valid, same, counts)  # [B, K], −1 for none
        points, valid = _select(points, chosen), chosen >= 0
    peaks = Estimate(points[..., 0], points[..., 1], points[..., 2], torch.zeros_like(points[..., 0]), valid)
    power = _powers(peaks.steering(grid.array.to(weighted.device, weighted.real.dtype)), matrix, valid)
    return Spectrum(values, replace(peaks, power=power))


def _select(points: Tensor, chosen: Tensor) -> Tensor:
    return points.gather(1, chosen.clamp(min=0).unsqueeze(-1).expand(-1, -1, 3))


def _overlap(points: Tensor, grid: Grid) -> Tensor:
    """|a^H b|² of the steering vectors towards each two of some points [B,C,3], [B,C,C]."""
    vectors = grid.array.to(points.device, points.dtype).steering(*points.unbind(-1))  # [B, C, N]
    return (vectors.conj() @ vectors.mT).abs().square()


def _starts(values: Tensor, sources: int, refine: bool) -> tuple[Tensor, list[Tensor]]:
    """Height [B,C] and index along each axis, [B,C] each, of the cells from which peaks are looked for.

    Those are the highest local maxima and, for refinement, the highest of the other cells: of two sources closer than
    the grid resolves only one has a maximum. If there are fewer than C, the height of the rest is −inf; a flat spectrum
    has none.
    """
    maxima = 2 * sources + SPARE_PEAKS
    beside = sources + SPARE_PEAKS if refine else 0
    heights, indices = [], []
    for rows in chunks(len(values), max(1, 4 * WORK // values[0].nbytes)):
        part = values[rows]
        lowest, top = part.flatten(1).aminmax(dim=1)
        flat = (top - lowest <= FLAT * torch.finfo(part.dtype).eps * top) & (part[0].numel() > 1)
        peak = local_maxima(part).flatten(1)
        flattened = torch.where(flat.unsqueeze(1), -torch.inf, part.flatten(1))
        size = flattened.shape[1]
        best = [torch.where(peak, flattened, -torch.inf).topk(min(maxima, size), dim=1)]
        if beside:
            best.append(torch.where(peak, -torch.inf, flattened).topk(min(beside, size), dim=1))
        heights.append(torch.cat([some.values for some in best], dim=1))
        indices.append(torch.cat([some.indices for some in best], dim=1))
    index = torch.cat(indices)
    _, elevations, ranges = values.shape[1:]
    return torch.cat(heights), [index // (elevations * ranges), index // ranges % elevations, index % ranges]


def local_maxima(values: Tensor) -> Tensor:
    """Cells of maps [B,P,Q,R] that none of the cells around them exceeds, [B,P,Q,R] bool."""
    highest = values
    for axis in (1, 2, 3):
        highest = _highest_of_three(highest, axis)
    return values == highest


def _highest_of_three(values: Tensor, axis: int) -> Tensor:
    """The largest of each cell and its two neighbours along an axis."""
    count = values.shape[axis]
    highest = values.clone()
    for own, other in ((0, 1), (1, 0)):
        part = highest.narrow(axis, own, count - 1)
        torch.maximum(part, values.narrow(axis, other, count - 1), out=part)
    return highest


def _refine(weighted: Tensor, points: Tensor, valid: Tensor, grid: Grid, steps: int) -> tuple[Tensor, Tensor]:
    """Peaks [B,C,3] moved to the minimum of δ within the grid's limits, and δ there, [B,C].

    With p the derivatives of the phase k0·path by azimuth, elevation and 1/r, ∂a = −j p a, and with the residual
    e = a − W W^H a: δ = Re a^H e, gradient −2 Σ_n p_n Im(a_n* e_n), and curvature
    2 Σ_n p_n p_n^T (1/N − Re a_n* e_n) − 2 Re (W^H ∂a)^H W^H ∂a, Newton's but for the derivatives of p; where that is
    not convex, Gauss and Newton's, without the e_n.
    """
    scenes = torch.arange(len(points), device=points.device).unsqueeze(1).expand_as(valid)[valid]
    array = grid.array.to(weighted.device, weighted.real.dtype)
    elements = weighted.shape[1]

    def model(coordinates: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        azimuth, elevation, inverse = coordinates.unbind(-1)
        vectors, slopes = array.steering_and_phase_gradient(azimuth, elevation, inverse)  # [S, N], [S, 3, N]
        turned = weighted[scenes[rows]].conj() * vectors.unsqueeze(-1)
        sums = torch.cat([slopes, torch.ones_like(slopes[:, :1])], dim=1) @ torch.view_as_real(turned).flatten(-2)
        inside, beams = torch.view_as_complex(sums.unflatten(-1, (-1, 2))).split([3, 1], dim=1)  # j W^H ∂a, W^H a
        residual = 1 / elements - (turned.conj() @ beams.mT).squeeze(-1)  # a_n* e_n, [S, N]
        gradient = -2 * (slopes @ residual.imag.unsqueeze(-1)).squeeze(-1)
        captured = (inside.conj() @ inside.mT).real  # (W^H ∂a)^H W^H ∂a
        # Where δ stays far from 0, Gauss–Newton steps are much too short.
        newton = (slopes * (1 / elements - residual.real).unsqueeze(-2)) @ slopes.mT - captured
        convex = torch.linalg.cholesky_ex(newton + torch.diag_embed(resting)).info == 0
        curvature = torch.where(convex[:, None, None], newton, slopes @ slopes.mT / elements - captured)
        return residual.real.sum(-1), gradient, 2 * curvature

    start = torch.cat([points[valid][:, :2], 1 / points[valid][:, 2:]], dim=-1)
    ends = [torch.stack([axis.min(), axis.max()]) for axis in (grid.azimuth, grid.elevation, 1 / grid.range)]
    low, high = torch.stack(ends).to(start).unbind(-1)
    resting = (low >= high).to(low) * elements
    eps = torch.finfo(start.dtype).eps
    # The last step is below 1e-4 rad in single precision, 1e-9 in double; near an exact peak its square is left.
    minimum = levenberg_marquardt(model, start, low, high, xtol=eps**0.58, value_eps=eps, ftol=eps, steps=steps)
    moved, delta = points.clone(), torch.full_like(points[..., 0], torch.inf)
    moved[valid] = torch.cat([minimum.point[:, :2], 1 / minimum.point[:, 2:]], dim=-1)
    delta[valid] = minimum.value
    return moved, delta


def _distinct(height: Tensor, valid: Tensor, same: Tensor, counts: Tensor) -> Tensor:
    """The highest candidates [B,C] of which no two are the same, [B,K]; −1 where there are no more."""
    free = valid.clone()
    chosen = []
    for turn in range(int(counts.max())):
        best = torch.where(free, height, -torch.inf).argmax(dim=1)  # [B]
        taken = free.gather(1, best.unsqueeze(1)).squeeze(1) & (turn < counts)
        chosen.append(torch.where(taken, best, -1))
        free = free & ~same[torch.arange(len(best), device=best.device), best]
        free.scatter_(1, best.unsqueeze(1), False)
    return torch.stack(chosen, dim=1)


def _powers(vectors: Tensor, matrix: Tensor, active: Tensor) -> Tensor:
    """Diagonal of A^+ R A^{+H}, the powers that explain R (of trace N) by the steering vectors A [B,N,K]."""
    gram = vectors.mH @ vectors + torch.diag_embed((~active).to(vectors.dtype))
    inverse = torch.linalg.pinv(gram, hermitian=True) @ vectors.mH  # A^+, [B, K, N]
    if matrix.shape[-1] == matrix.shape[-2]:
        power = (inverse @ matrix @ inverse.mH).diagonal(dim1=-2, dim2=-1).real
    else:
        power = torch.view_as_real(inverse @ matrix).square().sum((-2, -1))
    return torch.where(active, power, 0)
