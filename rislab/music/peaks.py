"""Peaks of a spectrum: cells of its grid that none around them exceeds, and the minima of δ between them.

δ(a) = 1 − ‖W^H a‖² is what a spectrum leaves of a steering vector; see music.spectra. Its minimum near a cell is
predicted by a parabola through the cells around. The lowest minima are then found exactly; other starts are followed
only if, by their predictions, they may lead to a lower one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from rislab.data.grid import Grid, chunks
from rislab.music.estimate import Estimate
from rislab.music.levenberg_marquardt import levenberg_marquardt
from rislab.music.subspace import check_sources

# Bytes of values searched at once.
WORK = 2**20
# Two peaks whose steering vectors overlap |a^H b|² by more than this are one.
SAME = 0.999
NEAR = 0.9
# Starts beyond those needed: not the highest cell wins but the highest peak.
SPARE_PEAKS = 4
# A spectrum whose values differ by less than this many roundings has no peaks.
FLAT = 1e4
FIRST_STEPS, LAST_STEPS = 4, 30

# A parabola is trusted up to TRUST_RADIUS cells away; δ may fall by MARGIN times as much as it predicts.
TRUST_RADIUS, MARGIN = 2.0, 3.0
# Around a lone source δ rises by at least RISE · (1 − |a^H b|²), up to the distance 1 − |a^H b|² = SLOPE. With half of
# RISE, one of two sources within a cell is lost.
RISE, SLOPE = 0.3, 0.5
# Where δ is not convex, a step changes the vector by at most 1 − |a^H b|² = TURN, with at least the share LEAST of the
# Gauss–Newton curvature.
TURN, LEAST = 0.1, 0.02


@torch.no_grad()
def find_peaks(
    values: Tensor,
    delta_of: Callable[[Tensor], Tensor],
    weighted: Tensor,
    matrix: Tensor,
    sources: int | Tensor,
    grid: Grid,
    refine: bool,
) -> Estimate:
    """The K highest peaks of a spectrum, no two of them at one place.

    Args:
        values: [B,P,Q,R], real, ≥ 0; the spectrum.
        delta_of: from values to δ.
        weighted: W, [B,N,K'], complex; δ = 1 − ‖W^H a‖².
        matrix: R or F; see subspace.validate_covariance(); for the powers.
        sources: K for all scenes, or [B].
        grid: P × Q × R points.
        refine: see music_spectrum().

    Returns:
        Estimate [B,K]; see Spectrum.peaks.
    """
    weighted, matrix = weighted.detach(), matrix.detach()
    counts = check_sources(sources, len(weighted), weighted.shape[1], weighted.device)
    searched = values.detach()
    if grid.array.wavefront == "planar":
        searched = searched[..., :1]
        grid = replace(grid, range=grid.range[:1])
    height, place = _starts(searched, int(counts.max()), refine)
    if refine:
        points, valid = _minima(searched, delta_of, weighted, counts, grid, height, place)
    else:
        # A plateau may give neighbouring cells as two maxima.
        same = torch.stack([(index.unsqueeze(1) - index.unsqueeze(2)).abs() <= 1 for index in place]).all(0)
        chosen = _distinct(height, torch.isfinite(height), same, counts)  # [B, K], −1 for none
        points, valid = _select(_at(place, grid, searched), chosen), chosen >= 0
    peaks = Estimate(points[..., 0], points[..., 1], points[..., 2], torch.zeros_like(points[..., 0]), valid)
    power = _powers(peaks.steering(grid.array.to(weighted.device, weighted.real.dtype)), matrix, valid)
    return replace(peaks, power=power)


def _minima(
    values: Tensor,
    delta_of: Callable[[Tensor], Tensor],
    weighted: Tensor,
    counts: Tensor,
    grid: Grid,
    height: Tensor,
    place: list[Tensor],
) -> tuple[Tensor, Tensor]:
    """The K lowest minima of δ to which starts lead, [B,K,3], lowest first, and which slots hold one, [B,K]."""
    valid, maxima = torch.isfinite(height), 2 * int(counts.max()) + SPARE_PEAKS
    where, predicted, low = _parabola_minima(values, delta_of, [index[:, :maxima] for index in place])
    near = (where.unsqueeze(1) - where.unsqueeze(2)).abs().amax(-1) <= 1  # [B, C', C']
    chosen = _distinct(-predicted, valid[:, :maxima], near, counts)
    refined, lowest = _refine(weighted, _select(_between(where, grid), chosen), chosen >= 0, grid, LAST_STEPS)
    distinct = _distinct(-lowest, chosen >= 0, _overlap(refined, grid) > SAME, counts)
    result, present = _select(refined, distinct), distinct >= 0
    complete = present.sum(1) == counts
    highest = torch.where(complete, torch.where(chosen >= 0, lowest, -torch.inf).amax(1), torch.inf)
    points = _at(place, grid, values)
    done = (torch.arange(valid.shape[1], device=valid.device) == chosen.unsqueeze(-1)).any(1)
    beside = ~_explained(points[:, maxima:], delta_of(height[:, maxima:]), refined, lowest, grid)
    needed = valid & ~done & torch.cat([low <= highest.unsqueeze(1), beside], dim=1)
    rest = (needed.any(1) | ~complete).nonzero().squeeze(-1)
    if len(rest):
        delta = torch.full_like(height, torch.inf)
        scene, slot = (chosen >= 0).nonzero().unbind(-1)
        points[scene, chosen[scene, slot]] = refined[scene, slot]
        delta[scene, chosen[scene, slot]] = lowest[scene, slot]
        few = (points[rest], delta[rest], done[rest], needed[rest], counts[rest])
        refined, active = _minima_of_all(weighted[rest], *few, grid, maxima)
        present[rest] = False
        result[rest, : refined.shape[1]], present[rest, : refined.shape[1]] = refined, active
    return result, present


def _explained(points: Tensor, delta: Tensor, peaks: Tensor, lowest: Tensor, grid: Grid) -> Tensor:
    """Which points [B,C,3] lie on the slope of a peak, where δ rises as around a lone source, [B,C].

    Around one of two sources that the grid does not resolve, δ rises much less.
    """
    array = grid.array.to(points.device, points.dtype)
    vectors, of_peaks = (array.steering(*places.unbind(-1)) for places in (points, peaks))
    turned = 1 - (vectors.conj() @ of_peaks.mT).abs().square()  # [B, C, K]
    rise = delta.unsqueeze(2) - lowest.unsqueeze(1)
    lone = (turned <= SLOPE) & (rise >= RISE * (1 - lowest).unsqueeze(1) * turned)
    return (lone & torch.isfinite(lowest).unsqueeze(1)).any(2)  # a slot without a peak has δ = ∞


def _minima_of_all(
    weighted: Tensor,
    points: Tensor,
    delta: Tensor,
    done: Tensor,
    needed: Tensor,
    counts: Tensor,
    grid: Grid,
    maxima: int,
) -> tuple[Tensor, Tensor]:
    """_minima() from all starts that are needed: each moves a few steps, and those that still differ then converge.

    Starts that are done stand at their minima δ already; the first `maxima` of the starts are maxima of the grid.
    """
    most = int(counts.max())
    points, moved = _refine(weighted, points, needed, grid, FIRST_STEPS)
    delta = torch.where(needed, moved, delta)
    # A start that is no maximum counts if it leads away from all peaks.
    no_maximum = torch.arange(points.shape[1], device=points.device) >= maxima
    alike = torch.where(no_maximum.unsqueeze(0) | no_maximum.unsqueeze(1), NEAR, SAME)
    first = _distinct(-delta, done | needed, _overlap(points, grid) > alike, counts + SPARE_PEAKS)
    # Two starts may still end at one minimum; only then are the next ones needed.
    for count in (most, most + SPARE_PEAKS):
        starts = first[:, :count]
        index = starts.clamp(min=0)
        fresh = (starts >= 0) & ~done.gather(1, index)
        refined, moved = _refine(weighted, _select(points, starts), fresh, grid, LAST_STEPS)
        height = -torch.where(fresh, moved, delta.gather(1, index))
        chosen = _distinct(height, starts >= 0, _overlap(refined, grid) > SAME, counts)
        if bool(((chosen >= 0).sum(1) == torch.minimum(counts, (first >= 0).sum(1))).all()):
            break
    return _select(refined, chosen), chosen >= 0


def _parabola_minima(
    values: Tensor, delta_of: Callable[[Tensor], Tensor], place: list[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Minima of the parabolas through cells and their neighbours.

    Returns:
        Their places [B,C,3], in cells; δ there, [B,C]; and a lower limit of δ, −inf where a parabola has no minimum.
    """
    sizes = torch.tensor(values.shape[1:], device=values.device)
    cell = torch.stack(place, dim=-1)  # [B, C, 3]
    centre = torch.minimum(cell.clamp(min=1), sizes - 2).clamp(min=0)
    free = sizes > 2
    units = torch.diag_embed(free.long())
    steps = torch.cat([torch.zeros_like(units[:1]), units, -units, units + units.roll(1, 0), -units - units.roll(1, 0)])
    index = _number(centre.unsqueeze(2) + steps, sizes)  # [B, C, 13]
    delta = delta_of(values.flatten(1).gather(1, index.flatten(1)).view(index.shape))
    middle, up, down, both, none = delta.split([1, 3, 3, 3, 3], dim=-1)
    slope = (up - down) / 2
    curved = up + down - 2 * middle
    # 2 H_ij = f(+i, +j) + f(−i, −j) − 2 f − H_ii − H_jj, for (i, j) = (0, 2), (1, 0), (2, 1)
    crossed = (both + none - 2 * middle - curved - curved.roll(1, -1)) / 2
    hessian = torch.diag_embed(curved)
    for i in range(3):
        hessian[..., i, i - 1] = hessian[..., i - 1, i] = crossed[..., i]
    off = (cell - centre).to(delta)
    slope = slope + (hessian @ off.unsqueeze(-1)).squeeze(-1)
    fixed = ~free | ((cell == 0) & (slope > 0)) | ((cell == sizes - 1) & (slope < 0))
    moving = (~fixed).to(delta)
    restricted = hessian * moving.unsqueeze(-1) * moving.unsqueeze(-2) + torch.diag_embed(fixed.to(delta))
    root, info = torch.linalg.cholesky_ex(restricted)
    step = -torch.cholesky_solve((slope * moving).unsqueeze(-1), root).squeeze(-1)
    convex = (info == 0) & (step.abs() <= TRUST_RADIUS).all(-1) & (sizes != 2).all()
    where = torch.where(convex.unsqueeze(-1), cell + step, cell.to(delta))
    where = torch.minimum(where.clamp(min=0), (sizes - 1).to(delta))
    step = where - cell
    change = (slope * step).sum(-1) + (step * (hessian @ step.unsqueeze(-1)).squeeze(-1)).sum(-1) / 2
    here = delta_of(values.flatten(1).gather(1, _number(cell, sizes)))
    change = change.clamp(max=0)
    return where, here + change, torch.where(convex, here + MARGIN * change, -torch.inf)


def _number(cell: Tensor, sizes: Tensor) -> Tensor:
    """Numbers of cells [...,3] among all of a map, [...]."""
    return (cell[..., 0] * sizes[1] + cell[..., 1]) * sizes[2] + cell[..., 2]


def _axes(grid: Grid, like: Tensor) -> list[Tensor]:
    return [axis.to(like) for axis in (grid.azimuth, grid.elevation, grid.range)]


def _at(place: list[Tensor], grid: Grid, like: Tensor) -> Tensor:
    """Points of cells, [B,C,3]."""
    return torch.stack([axis[index] for axis, index in zip(_axes(grid, like), place, strict=True)], dim=-1)


def _between(where: Tensor, grid: Grid) -> Tensor:
    """Points of places in cells [B,C,3], in 1/r where they lie between ranges."""
    azimuth, elevation, metres = _axes(grid, where)
    parts = []
    for axis, place in zip((azimuth, elevation, 1 / metres), where.unbind(-1), strict=True):
        first = place.long().clamp(max=max(len(axis) - 2, 0))
        parts.append(torch.lerp(axis[first], axis[(first + 1).clamp(max=len(axis) - 1)], place - first))
    return torch.stack([parts[0], parts[1], 1 / parts[2]], dim=-1)


def _select(points: Tensor, chosen: Tensor) -> Tensor:
    return points.gather(1, chosen.clamp(min=0).unsqueeze(-1).expand(-1, -1, 3))


def _overlap(points: Tensor, grid: Grid) -> Tensor:
    """|a^H b|² of the steering vectors towards each two of some points [B,C,3], [B,C,C]."""
    vectors = grid.array.to(points.device, points.dtype).steering(*points.unbind(-1))  # [B, C, N]
    return (vectors.conj() @ vectors.mT).abs().square()


def _starts(values: Tensor, sources: int, refine: bool) -> tuple[Tensor, list[Tensor]]:
    """Height [B,C] and index along each axis, [B,C] each, of the cells from which peaks are looked for.

    Those are the highest local maxima and, for refinement, the highest of the other cells: of two sources closer than
    the grid resolves only one has a maximum. Where fewer than C exist, the height of the rest is −inf; a flat spectrum
    has none.
    """
    maxima = 2 * sources + SPARE_PEAKS
    beside = sources + SPARE_PEAKS if refine else 0
    heights, indices = [], []
    for rows in chunks(len(values), max(1, WORK // values[0].nbytes)):
        part = values[rows].contiguous()
        # What is not looked for is 0: to choose by a mask takes ten times as long.
        peak = torch.eq(part, _highest_around(part), out=torch.empty_like(part)).mul_(part)
        best = [_highest(peak, maxima)]
        if beside:
            best.append(_highest(torch.sub(part, peak, out=peak), beside))
        height = torch.cat([heights_of for heights_of, _ in best], dim=1)
        lowest, top = part.amin((1, 2, 3)), height[:, 0]
        height = torch.where(height > 0, height, -torch.inf)
        flat = (top - lowest <= FLAT * torch.finfo(part.dtype).eps * top) & (part[0].numel() > 1)
        heights.append(height.masked_fill_(flat.unsqueeze(1), -torch.inf))
        indices.append(torch.cat([numbers for _, numbers in best], dim=1))
    index = torch.cat(indices)
    _, elevations, ranges = values.shape[1:]
    return torch.cat(heights), [index // (elevations * ranges), index // ranges % elevations, index % ranges]


def _highest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The highest cells of maps [B,P,Q,R], and their numbers among P·Q·R; only the rows with the highest are sorted."""
    lines = values.flatten(1, 2) if values.shape[3] > 1 else values.squeeze(3)  # [B, T, S]
    rows = lines.amax(2).topk(min(count, lines.shape[1]), dim=1).indices
    few = lines.gather(1, rows.unsqueeze(-1).expand(-1, -1, lines.shape[2])).flatten(1)
    best = few.topk(min(count, few.shape[1]), dim=1)
    within = best.indices % lines.shape[2]
    return best.values, rows.gather(1, best.indices // lines.shape[2]) * lines.shape[2] + within


def local_maxima(values: Tensor) -> Tensor:
    """Cells of maps [B,P,Q,R], contiguous, that none of the cells around them exceeds, [B,P,Q,R] bool."""
    return values == _highest_around(values)


def _highest_around(values: Tensor) -> Tensor:
    """The largest of each cell and those around it."""
    for axis in (1, 2, 3):
        if values.shape[axis] > 1:
            values = _highest_of_three(values, axis)
    return values


def _highest_of_three(values: Tensor, axis: int) -> Tensor:
    """The largest of each cell and its two neighbours along an axis."""
    # The map is taken as one line: only at the ends of the axis are its neighbours wrong, and these are set after it.
    stride, last = values.stride(axis), values.shape[axis] - 1
    line, highest = values.view(-1), torch.empty_like(values)
    pairs = torch.maximum(line[:-stride], line[stride:])
    torch.maximum(pairs[:-stride], pairs[stride:], out=highest.view(-1)[stride:-stride])
    for end, beside in ((0, 1), (last, last - 1)):
        torch.maximum(values.select(axis, end), values.select(axis, beside), out=highest.select(axis, end))
    return highest


def _refine(weighted: Tensor, points: Tensor, valid: Tensor, grid: Grid, steps: int) -> tuple[Tensor, Tensor]:
    """Peaks [B,C,3] moved to the minimum of δ within the grid's limits, and δ there, [B,C].

    With p the derivatives of the phase k0·path by azimuth, elevation and 1/r, ∂a = −j p a, and with the residual
    e = a − W W^H a: δ = Re a^H e, gradient −2 Σ_n p_n Im(a_n* e_n), and curvature
    2 Σ_n p_n p_n^T (1/N − Re a_n* e_n) − 2 Re (W^H ∂a)^H W^H ∂a, Newton's but for the derivatives of p; where that is
    not convex, a share of Gauss and Newton's, without the e_n, by which a step turns the vector by no more than TURN.
    """
    moved, delta = points.clone(), torch.full_like(points[..., 0], torch.inf)
    if not bool(valid.any()):
        return moved, delta
    scenes = torch.arange(len(points), device=points.device).unsqueeze(1).expand_as(valid)[valid]
    array = grid.array.to(weighted.device, weighted.real.dtype)
    elements, beams = weighted.shape[1], weighted.mH.contiguous()
    start = torch.cat([points[valid][:, :2], 1 / points[valid][:, 2:]], dim=-1)
    ends = [torch.stack([axis.min(), axis.max()]) for axis in (grid.azimuth, grid.elevation, 1 / grid.range)]
    low, high = torch.stack(ends).to(start).unbind(-1)

    def model(coordinates: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        azimuth, elevation, inverse = coordinates.unbind(-1)
        vectors, slopes = array.steering_and_phase_gradient(azimuth, elevation, inverse)  # [S, N], [S, 3, N]
        turned = beams[scenes[rows]] * vectors.unsqueeze(1)  # [S, K, N]
        parts = torch.cat([turned.real, turned.imag], dim=1)  # [S, 2K, N]
        # Sums along the last axis of both factors take a tenth of the time of others.
        sums = torch.cat([slopes, torch.ones_like(slopes[:, :1])], dim=1) @ parts.mT
        inside, (real, imag) = sums[:, :3], sums[:, 3].chunk(2, dim=-1)  # j W^H ∂a, W^H a
        weights = torch.stack([torch.cat([real, imag], dim=-1), torch.cat([imag, -real], dim=-1)], dim=1)
        projected, cross = (weights @ parts).split(1, dim=1)  # Re and Im of a_n* (W W^H a)_n
        gradient = 2 * (slopes @ cross.mT).squeeze(-1)
        captured = inside @ inside.mT  # Re (W^H ∂a)^H W^H ∂a
        # Where δ stays far from 0, Gauss–Newton steps are much too short.
        newton = slopes @ (slopes * projected).mT - captured
        gauss = slopes @ slopes.mT / elements - captured
        fixed = ((coordinates <= low) & (gradient > 0)) | ((coordinates >= high) & (gradient < 0)) | (low >= high)
        free = (~fixed).to(newton)
        restricted = newton * free.unsqueeze(-1) * free.unsqueeze(-2) + elements * torch.diag_embed(fixed.to(newton))
        convex = torch.linalg.cholesky_ex(restricted).info == 0
        steepness = gradient.square() * free / gauss.diagonal(dim1=-2, dim2=-1).clamp(min=torch.finfo(gauss.dtype).tiny)
        share = (steepness.sum(-1) / (4 * TURN)).sqrt().clamp(LEAST, 1.0)
        curvature = torch.where(convex[:, None, None], newton, gauss * share[:, None, None])
        return (1 / elements - projected).sum((1, 2)), gradient, 2 * curvature

    eps = torch.finfo(start.dtype).eps
    # The last step is below 1e-4 rad in single precision, 1e-9 in double; near an exact peak its square is left.
    minimum = levenberg_marquardt(model, start, low, high, xtol=eps**0.58, value_eps=eps, ftol=eps, steps=steps)
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
