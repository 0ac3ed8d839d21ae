"""Sparse reference: few atoms of a dictionary of positions explain the snapshots, all of them jointly.

Orthogonal matching pursuit in the measurement domain, with each new source moved off the grid at once, and then every
source in turn taken out and searched for again while the others stay (alternating projection).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from rislab.data import SceneBatch, SceneConfig
from rislab.errors import check_number
from rislab.estimates import Estimate
from rislab.geometry import Grid
from rislab.likelihood import fitted, information_criterion, limits, measured, polish, project, rss, scored, seen
from rislab.music import beam_power
from rislab.subspace import check_sources

# Scenes worked on at once: the power of 3 366 atoms for each and their images take about 10 MB a scene.
CHUNK = 32
# Atoms whose exact gain is computed, the strongest by matched beam power.
SHORTLIST = 48
SWEEPS = 2
SCORING_STEPS = 4
# A replacement must lower the RSS by more than this share to count.
GAIN = 1e-4

Progress = Callable[[int, int], object]


def dictionary(config: SceneConfig) -> Grid:
    """Grid of positions over the field of view, equidistant in sin φ, sin θ and 1/r: about three points a beam width.

    34 × 20 × 7 points for the 12×12 surface of the full preset.
    """
    rows, columns = config.ris_shape

    def points(interval: tuple[float, float], elements: int) -> int:
        width = math.sin(interval[1]) - math.sin(interval[0])
        return max(1, math.ceil(1.55 * elements * width) + 1) if width > 0 else 1

    shape = (points(config.azimuth, columns), points(config.elevation, rows), _ranges(config))
    return config.grid(shape, spacing="sine")


def _ranges(config: SceneConfig) -> int:
    if config.wavefront == "planar" or config.range[0] == config.range[1]:
        return 1
    radius = max(config.ris_shape) * config.wavelength / 4
    turns = radius**2 / config.wavelength / 2 * (1 / config.range[0] - 1 / config.range[1])  # of the phase at the edge
    return max(2, math.ceil(2 * turns) + 1)


def sparse(batch: SceneBatch, sources: int | Tensor, *, progress: Progress | None = None) -> Estimate:
    """Positions of K sources by matching pursuit over the dictionary, refined off its grid.

    The gain of an atom with image b_l and residual r_l is Σ_l |b_l^H r_l|² / ‖b_l‖², both after projecting out the
    sources already found. It is computed for the SHORTLIST atoms of highest Σ_l |b_l^H r_l|², which is one matrix product
    for the whole dictionary: b_l^H r_l = a^H (c_l* ⊙ H^H r_l).

    Args:
        batch: scenes. sources: K, for all scenes or [B], 1 ≤ K < M.
        progress: called as progress(scenes done, scenes in all) after each chunk.

    Returns:
        Estimate [B,K] in the precision of the batch, strongest first; polish() takes it to the maximum likelihood.

    Raises:
        InputError: for K out of range.

    Source:
        Y. C. Pati, R. Rezaiifar and P. S. Krishnaprasad, Orthogonal matching pursuit, Asilomar 1993; I. Ziskind and
        M. Wax, Maximum likelihood localization of multiple sources by alternating projection, IEEE Trans. ASSP 36(10),
        1988.
    """
    counts = check_sources(sources, len(batch), batch.config.elements, batch.azimuth.device)
    check_number("sources", int(counts.max()), 1, batch.config.antennas - 1, whole=True)
    grid = dictionary(batch.config)
    atoms = grid.steering(batch.codes.dtype, batch.codes.device)  # [G, N]
    parts = []
    for first in range(0, len(batch), CHUNK):
        rows = slice(first, first + CHUNK)
        parts.append(_pursue(batch[rows], counts[rows], int(counts.max()), grid, atoms))
        if progress is not None:
            progress(min(first + CHUNK, len(batch)), len(batch))
    fields = ("azimuth", "elevation", "range", "power", "active")
    return Estimate(*(torch.cat([getattr(part, name) for part in parts]) for name in fields))


def _pursue(batch: SceneBatch, counts: Tensor, most: int, grid: Grid, atoms: Tensor) -> Estimate:
    low, high = limits(batch)
    points = ((low + high) / 2).expand(len(batch), most, 3).clone()
    active = torch.zeros(len(batch), most, dtype=torch.bool, device=points.device)
    left = torch.full_like(points[:, 0, 0], torch.inf)
    turns = list(range(most)) + SWEEPS * list(range(most)) * (most > 1)
    for turn, slot in enumerate(turns):
        rows = ((counts > slot) & ((counts > 1) | (turn < most))).nonzero().squeeze(-1)
        if not len(rows):
            continue
        some, others, trial = batch[rows], active[rows], points[rows].clone()
        others[:, slot] = False
        trial[:, slot] = _strongest(some, trial, others, grid, atoms)
        others[:, slot] = True
        trial, value = scored(some, trial, others, SCORING_STEPS)
        better = value < left[rows] * (1 - GAIN) if turn >= most else torch.ones_like(value, dtype=torch.bool)
        kept = rows[better]
        points[kept], left[kept], active[kept] = trial[better], value[better], others[better]
    return fitted(batch, points, active)


def _strongest(batch: SceneBatch, points: Tensor, active: Tensor, grid: Grid, atoms: Tensor) -> Tensor:
    """The atom that explains most of what the active points [B,K,3] leave, as a point [B,3]."""
    azimuth, elevation, inverse = points.unbind(-1)
    array = batch.config.array(dtype=points.dtype, device=points.device)
    vectors = array.steering(azimuth, elevation, 1 / inverse) * active.unsqueeze(-1)
    present, known = seen(batch, vectors.mT), active.unsqueeze(1)
    _, residual = project(present, known, measured(batch))
    steps = residual.reshape(batch.snapshots.shape)  # [B, L, M]
    fields = (batch.channel.mH @ steps.mT) * batch.codes.mT.conj()  # c* ⊙ H^H r, [B, N, L]
    if batch.config.symbols == "constant":
        fields = fields.sum(-1, keepdim=True)
    matched = beam_power(fields, grid).flatten(1)
    shortlist = matched.topk(min(SHORTLIST, matched.shape[1]), dim=1).indices  # [B, T]
    images = seen(batch, atoms[shortlist].mT)  # [B, L, M, T]
    _, outside = project(present, known, images)
    energy = torch.view_as_real(outside).square().sum((-3, -1))  # [B, L, T]
    caught = torch.view_as_real(outside.mH @ residual).square().sum((-2, -1))
    floor = 1e-3 * torch.view_as_real(images).square().sum((-3, -1))
    gain = (caught / torch.maximum(energy, floor)).sum(1)  # [B, T]
    best = shortlist.gather(1, gain.argmax(1, keepdim=True)).squeeze(1)
    spots = [axis.to(points)[best] for axis in grid.points()]
    return torch.stack([spots[0], spots[1], 1 / spots[2]], dim=-1)


def order(batch: SceneBatch, most: int, *, criterion: str = "mdl", progress: Progress | None = None) -> Tensor:
    """Number of sources, 0 … most, that minimises information_criterion() over sparse and polished fits, [B].

    Args:
        batch: scenes. most: largest number tried, 1 ≤ most < M. criterion: "mdl" or "aic".
        progress: called as progress(numbers tried, most).
    """
    check_number("most", most, 1, batch.config.antennas - 1, whole=True)
    empty = torch.view_as_real(batch.snapshots).square().sum(dim=(1, 2, 3))
    scores = [information_criterion(batch, empty, 0, criterion=criterion)]
    for sources in range(1, most + 1):
        left = rss(batch, polish(batch, sparse(batch, sources)))
        scores.append(information_criterion(batch, left, sources, criterion=criterion))
        if progress is not None:
            progress(sources, most)
    return torch.stack(scores).argmin(dim=0)
