"""Spectra over a grid and their peaks: MUSIC, with the minimum-variance (MVDR) and the conventional beam beside it.

All three are one form. With a matrix W [N,K], 0 ≤ W W^H ≤ I, the beam power of a unit-norm steering vector a is
‖W^H a‖² ≤ 1, and what it leaves, δ(a) = 1 − ‖W^H a‖², is smallest towards a source:

    MUSIC         1 / δ(a),   W = U_s, the signal subspace
    MVDR          ε / δ(a),   W W^H = I − ε (R + ε I)^(−1), ε the loading
    conventional  R's beam power a^H R a, W W^H = R / tr R

Peaks are local maxima on the grid, moved to the exact minimum of δ between its points, and told apart by their overlap.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rislab.descent import descend
from rislab.errors import check_number
from rislab.estimates import Estimate
from rislab.geometry import Grid
from rislab.subspace import check_sources, conditioned, eigenpairs, signal_subspace

# Bytes of one product of the scan; it stays in the second-level cache.
WORK = 2**20
# Two peaks whose steering vectors overlap |a^H b|² by more than this are one.
SAME = 0.999
# Local maxima that are refined, beyond twice the number of sources: not the highest cell wins but the highest peak.
SPARE_PEAKS = 6
FIRST_STEPS, LAST_STEPS = 4, 30


@dataclass(frozen=True, eq=False)
class Spectrum:
    """A spectrum over a grid with its peaks.

    Args:
        values: [B,P,Q,R], real. peaks: highest first, [B,K]; where there are fewer than K, the last are inactive.
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


def music(covariance_or_factor: Tensor, sources: int | Tensor, grid: Grid, *, refine: bool = True) -> Spectrum:
    """MUSIC spectrum 1 / (1 − ‖U_s^H a‖²) on the signal subspace.

    Equal to 1/‖U_n^H a‖² on the noise subspace at N/K − 1 times fewer operations. Working memory beyond the result and
    the steering vectors that the grid keeps (at most geometry.KEPT bytes): WORK bytes, if 128·K·B numbers fit into it.

    Args:
        covariance_or_factor: R [B,N,N] Hermitian, or F [B,N,J] with R = F F^H and J < N; complex64 or complex128, which
            is also the precision of the result; on any device.
        sources: K, for all scenes or [B].
        grid: where to look, with the steering vectors of its array.
        refine: move the peaks to the maximum between grid points; else they are cells of the grid.

    Returns:
        Spectrum. Its values are differentiable in the argument; peaks are not. A grid of one range holds the peaks at
        that range. The power of a peak is that of a source at its place which, with the others, explains R.

    Raises:
        InputError: see signal_subspace().

    Source:
        R. O. Schmidt, Multiple emitter location and signal parameter estimation, IEEE Trans. AP 34(3), 1986.
    """
    matrix = conditioned(covariance_or_factor, grid.array.count)
    basis = signal_subspace(matrix, sources)
    return _with_peaks(_left(basis, grid).reciprocal_(), basis, matrix, sources, grid, refine)


def mvdr(
    covariance_or_factor: Tensor, sources: int | Tensor, grid: Grid, *, loading: float = 1e-3, refine: bool = True
) -> Spectrum:
    """Minimum-variance spectrum 1 / (a^H (R + ε I)^(−1) a), R of trace N.

    Args:
        covariance_or_factor, sources, grid, refine: see music(); K only says how many peaks are wanted.
        loading: ε as a fraction of the mean eigenvalue, > 0.

    Source:
        J. Capon, High-resolution frequency-wavenumber spectrum analysis, Proc. IEEE 57(8), 1969.
    """
    check_number("loading", loading, 0.0, 1e6, above=True)
    matrix = conditioned(covariance_or_factor, grid.array.count)
    values, vectors = eigenpairs(matrix)
    # (R + ε I)^(−1) leaves ε / (λ + ε) of a beam along the eigenvector of λ.
    weighted = vectors * (values / (values + loading)).sqrt().unsqueeze(-2)
    return _with_peaks(_left(weighted, grid).reciprocal_().mul_(loading), weighted, matrix, sources, grid, refine)


def bartlett(covariance_or_factor: Tensor, sources: int | Tensor, grid: Grid, *, refine: bool = True) -> Spectrum:
    """Conventional beam power a^H R a, R of trace N; arguments and result as in music()."""
    matrix = conditioned(covariance_or_factor, grid.array.count)
    values, vectors = eigenpairs(matrix)
    weighted = vectors * (values / grid.array.count).sqrt().unsqueeze(-2)
    power = beam_power(weighted, grid).mul_(grid.array.count)
    return _with_peaks(power, weighted, matrix, sources, grid, refine)


def search(covariance_or_factor: Tensor, sources: int | Tensor, grid: Grid) -> Estimate:
    """Peaks of music() by coarse-to-fine search: every second point of each axis, then continuous refinement.

    An eighth of the work of a grid in three dimensions, and its memory; no map comes with it. Sound where the grid
    samples a beam width at least four times.

    Args:
        covariance_or_factor, sources, grid: see music().
    """
    return music(covariance_or_factor, sources, _coarser(grid)).peaks


def beam_power(factor: Tensor, grid: Grid) -> Tensor:
    """Power ‖F^H a‖² that the beam towards each point of a grid receives.

    One real matrix product, in pieces of WORK bytes. Plane waves on a surface factor into its two axes, which takes an
    eighth of the operations of a 12×12 surface. Differentiable in the factor; where a gradient is wanted, all pieces
    are kept.

    Args:
        factor: F, [B,N,K], complex.

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
    pieces = [slice(first, min(first + width, points)) for first in range(0, points, width)]
    if rows.requires_grad and torch.is_grad_enabled():
        parts = (rows @ grid.planes(real, rows.device, piece) for piece in pieces)
        power = torch.cat([part.square().view(2 * columns, scenes, -1).sum(dim=0) for part in parts], dim=-1)
        return power.view(scenes, *grid.shape)
    power = rows.new_empty(scenes, points)
    scratch = rows.new_empty(len(rows) * width)  # one for all pieces: fresh pages would cost as much as the product
    for piece in pieces:
        planes = grid.planes(real, rows.device, piece)
        part = scratch[: len(rows) * planes.shape[1]].view(len(rows), -1)
        torch.mm(rows, planes, out=part)
        torch.sum(part.square_().view(2 * columns, scenes, -1), dim=0, out=power[:, piece])
    return power.view(scenes, *grid.shape)


def _separable_power(factor: Tensor, grid: Grid, z: Tensor, y: Tensor) -> Tensor:
    """beam_power() of plane waves, a_n = N^(−1/2) e^(j k0 z_v sinθ) e^(j k0 y_h sinφ cosθ): over v first, then h."""
    scenes, _, columns = factor.shape
    like = factor.real
    azimuth, elevation, z, y = (axis.to(like) for axis in (grid.azimuth, grid.elevation, z, y))
    wavenumber = 2 * math.pi / grid.array.wavelength
    down = torch.polar(torch.ones_like(like[:1, 0, 0]), wavenumber * torch.outer(z, elevation.sin()))  # [N_v, Q]
    turn = elevation.cos()[:, None, None] * azimuth.sin() * y.unsqueeze(-1)  # [Q, N_h, P]
    across = torch.cat([torch.cos(wavenumber * turn), torch.sin(wavenumber * turn)], dim=1)  # [Q, 2N_h, P]
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


def _left(factor: Tensor, grid: Grid) -> Tensor:
    """δ = 1 − ‖W^H a‖² over the grid, [B,P,Q,R], not below rounding."""
    power = beam_power(factor, grid)
    # In place: each fresh result of this size would cost as much as a tenth of the product.
    return power.neg_().add_(1.0).clamp_(min=torch.finfo(power.dtype).eps)


def _coarser(grid: Grid) -> Grid:
    def thinned(axis: Tensor) -> Tensor:
        # Both ends stay; the last interval may be shorter than the others.
        return torch.cat([axis[:-1:2], axis[-1:]])

    return replace(grid, azimuth=thinned(grid.azimuth), elevation=thinned(grid.elevation), range=thinned(grid.range))


@torch.no_grad()
def _with_peaks(
    values: Tensor, weighted: Tensor, matrix: Tensor, sources: int | Tensor, grid: Grid, refine: bool
) -> Spectrum:
    """The spectrum with its peaks: the highest local maxima of the grid, first all of them refined a little, then the
    K highest of those that differ to the end."""
    weighted, matrix = weighted.detach(), matrix.detach()
    counts = check_sources(sources, len(weighted), weighted.shape[1], weighted.device)
    most = int(counts.max())
    height, place = _local_maxima(values.detach(), 2 * most + SPARE_PEAKS if refine else 3 * most)
    found = torch.isfinite(height)
    axes = [axis.to(weighted.device, weighted.real.dtype) for axis in (grid.azimuth, grid.elevation, grid.range)]
    spots = torch.stack([axis[index] for axis, index in zip(axes, place, strict=True)], dim=-1)  # [B, C, 3]
    if refine:
        spots, left = _refine(weighted, spots, found, grid, FIRST_STEPS)
        height = torch.where(found, -left, -torch.inf)
        same = _overlap(spots, grid) > SAME
    else:
        # A plateau may give neighbouring cells as two maxima.
        same = torch.stack([(index.unsqueeze(1) - index.unsqueeze(2)).abs() <= 1 for index in place]).all(0)
    chosen = _distinct(height, found, same, counts, most)  # [B, K], −1 for none
    active, slot = chosen >= 0, chosen.clamp(min=0)
    spots = spots.gather(1, slot.unsqueeze(-1).expand(-1, -1, 3))
    if refine:
        spots, _ = _refine(weighted, spots, active, grid, LAST_STEPS)
    peaks = Estimate(spots[..., 0], spots[..., 1], spots[..., 2], torch.zeros_like(spots[..., 0]), active)
    power = _powers(peaks.steering(grid.array.to(weighted.device, weighted.real.dtype)), matrix, active)
    return Spectrum(values, replace(peaks, power=power))


def _overlap(spots: Tensor, grid: Grid) -> Tensor:
    """|a^H b|² of the steering vectors towards each two of some points [B,C,3], [B,C,C]."""
    vectors = grid.array.to(spots.device, spots.dtype).steering(*spots.unbind(-1))  # [B, C, N]
    return (vectors.conj() @ vectors.mT).abs().square()


def _local_maxima(values: Tensor, most: int) -> tuple[Tensor, list[Tensor]]:
    """Height [B,C] and index along each axis, [B,C] each, of the highest cells that no neighbour exceeds.

    Where there are fewer than C, height is −inf; a flat spectrum has none.
    """
    highest = values
    for axis in (1, 2, 3):
        highest = _highest_of_three(highest, axis)
    flat = values.flatten(1).amin(1) == values.flatten(1).amax(1)
    peak = (values == highest) & ~flat[:, None, None, None]
    masked = torch.where(peak, values, -torch.inf).flatten(1)
    height, index = masked.topk(min(most, masked.shape[1]), dim=1)
    _, elevations, ranges = values.shape[1:]
    return height, [index // (elevations * ranges), index // ranges % elevations, index % ranges]


def _highest_of_three(values: Tensor, axis: int) -> Tensor:
    """The largest of each cell and its two neighbours along an axis."""
    count = values.shape[axis]
    highest = values.clone()
    for own, other in ((0, 1), (1, 0)):
        part = highest.narrow(axis, own, count - 1)
        torch.maximum(part, values.narrow(axis, other, count - 1), out=part)
    return highest


def _refine(weighted: Tensor, spots: Tensor, found: Tensor, grid: Grid, steps: int) -> tuple[Tensor, Tensor]:
    """Peaks [B,C,3] moved to the minimum of δ within the grid's limits, and δ there, [B,C].

    With p the derivatives of the phase k0·path by azimuth, elevation and 1/r, ∂a = −j p a, and with the residual
    e = a − W W^H a: δ = Re a^H e, gradient −2 Σ_n p_n Im(a_n* e_n), Gauss–Newton curvature
    2 Re (∂a^H ∂a − (W^H ∂a)^H W^H ∂a).
    """
    scenes = torch.arange(len(spots), device=spots.device).unsqueeze(1).expand_as(found)[found]
    array = grid.array.to(weighted.device, weighted.real.dtype)
    elements = weighted.shape[1]

    def model(points: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        azimuth, elevation, inverse = points.unbind(-1)
        slopes = array.phase_gradient(azimuth, elevation, 1 / inverse)  # [S, 3, N]
        slopes[:, 2] *= -1 / inverse.square().unsqueeze(-1)  # by 1/r
        turned = weighted[scenes[rows]].conj() * array.steering(azimuth, elevation, 1 / inverse).unsqueeze(-1)
        sums = torch.cat([slopes, torch.ones_like(slopes[:, :1])], dim=1) @ torch.view_as_real(turned).flatten(-2)
        inside, beams = torch.view_as_complex(sums.unflatten(-1, (-1, 2))).split([3, 1], dim=1)  # j W^H ∂a, W^H a
        residual = 1 / elements - (turned.conj() @ beams.mT).squeeze(-1)  # a_n* e_n, [S, N]
        gradient = -2 * (slopes @ residual.imag.unsqueeze(-1)).squeeze(-1)
        curvature = 2 * (slopes @ slopes.mT / elements - (inside.conj() @ inside.mT).real)
        return residual.real.sum(-1), gradient, curvature

    start = torch.cat([spots[found][:, :2], 1 / spots[found][:, 2:]], dim=-1)
    ends = [torch.stack([axis.min(), axis.max()]) for axis in (grid.azimuth, grid.elevation, 1 / grid.range)]
    low, high = torch.stack(ends).to(start).unbind(-1)
    eps = torch.finfo(start.dtype).eps
    ended = descend(model, start, low, high, tolerance=1e-3 * math.sqrt(eps), rounding=eps, steps=steps)
    moved, left = spots.clone(), torch.full_like(spots[..., 0], torch.inf)
    moved[found] = torch.cat([ended.point[:, :2], 1 / ended.point[:, 2:]], dim=-1)
    left[found] = ended.value
    return moved, left


def _distinct(height: Tensor, found: Tensor, same: Tensor, counts: Tensor, most: int) -> Tensor:
    """The highest candidates [B,C] of which no two are the same, [B,K]; −1 where there are no more."""
    free = found.clone()
    chosen = []
    for turn in range(most):
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
