"""What a posterior distribution looks like on the grids of a scene's maps: densities to be drawn beside spectra."""

from __future__ import annotations

import torch
from torch import Tensor

from rislab.data.grid import Grid
from rislab.music.posterior import Posterior

FLOOR = 1e-3  # lowest density that is told apart, over the largest: 30 dB
WIDTH = 1.5  # standard deviation of the smoothing, cells of the grid


def density_map(posterior: Posterior, grid: Grid) -> Tensor:
    """Density of the sources of one scene over a grid that is uniform in azimuth and elevation, [P,Q], above 0."""
    weights = (posterior.weights[0] * posterior.active[0].unsqueeze(-1)).reshape(-1).double()
    points = posterior.points[0].reshape(-1, 3).double()
    first, second = (_cells(points[:, place], axis) for place, axis in enumerate((grid.azimuth, grid.elevation)))
    shape = len(grid.azimuth), len(grid.elevation)
    counts = torch.zeros(shape[0] * shape[1], dtype=torch.float64)
    counts.index_add_(0, first * shape[1] + second, weights)
    density = _smoothed(_smoothed(counts.reshape(shape)).mT).mT
    return density + FLOOR * density.max()


def density_cut(posterior: Posterior, source: int, ranges: Tensor) -> Tensor:
    """Density of one source (slot) of one scene over ranges [R] in metres, uniform in 1/r: [R], above 0."""
    cells = _cells(1 / posterior.points[0, source, :, 2].double(), 1 / ranges.double())
    counts = torch.zeros(len(ranges), dtype=torch.float64)
    counts.index_add_(0, cells, posterior.weights[0, source].double())
    smooth = _smoothed(counts[:, None])[:, 0]
    return smooth + FLOOR * smooth.max()


def drawn_directions(posterior: Posterior, count: int) -> Tensor:
    """Directions [K·count,2] in radians, `count` drawn from the candidates of each source of one scene."""
    generator = torch.Generator().manual_seed(0)
    active = posterior.active[0]
    which = torch.multinomial(posterior.weights[0][active].double(), count, replacement=True, generator=generator)
    points = posterior.points[0][active].gather(1, which.unsqueeze(-1).expand(-1, -1, 3))
    return points[..., :2].reshape(-1, 2)


def _cells(values: Tensor, axis: Tensor) -> Tensor:
    """The nearest point of a uniform axis to each value."""
    step = (axis[-1] - axis[0]) / (len(axis) - 1)
    return ((values - axis[0]) / step).round().long().clamp(0, len(axis) - 1)


def _smoothed(values: Tensor) -> Tensor:
    """Values [n,m] with a Gaussian along the first axis."""
    away = torch.arange(len(values), dtype=values.dtype)
    kernel = torch.exp(-0.5 * ((away[:, None] - away) / WIDTH).square())
    return (kernel / kernel.sum(0)) @ values
