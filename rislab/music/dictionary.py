"""Dictionaries of places: grids over the field of view with the steering vectors that a sparse fit chooses from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

import torch
from torch import Tensor

from rislab.data.grid import Grid
from rislab.data.measurement import Measured, MeasurementModel, unknown_axes
from rislab.data.scene_config import SceneConfig
from rislab.errors import check_number

# Steering vectors of the dictionary, in bytes: those of 24×24 elements are 190 MB.
LARGEST = 2**28


def dictionary(config: SceneConfig | MeasurementModel, *, density: float = 1.3) -> Grid:
    """Grid of positions over the field of view, equidistant in sin φ, sin θ and 1/r.

    Of an array that does not stand upright in the y-z plane, equidistant in the angles.

    Args:
        config: of the scenes or the measurement.
        density: points for each half beam width, 1/N_h of a surface with N_h columns λ/2 apart, > 0.

    Example:
        >>> dictionary(SceneConfig.preset("full")).shape
        (29, 17, 7)
    """
    check_number("density", density, 0.0, 1e3, exclusive=True)
    deep, *upright = _half_wavelengths(config)
    sine = deep == 1
    sizes = upright if sine else [max(deep, *upright)] * 2

    def points(interval: tuple[float, float], elements: float) -> int:
        ends = [math.sin(end) if sine else end for end in interval]
        width = ends[1] - ends[0]
        return max(1, math.ceil(density * elements * width) + 1) if width > 0 else 1

    shape = (points(config.azimuth, sizes[0]), points(config.elevation, sizes[1]), _ranges(config))
    return config.grid(shape, spacing="sine" if sine else "uniform")


def _half_wavelengths(config: SceneConfig | MeasurementModel) -> list[float]:
    """Numbers of elements half a wavelength apart that would span the array along x, y and z."""
    return [round(2 * size / config.wavelength + 1, 6) for size in config.array(dtype=torch.float64).extent().tolist()]


def _ranges(config: SceneConfig | MeasurementModel) -> int:
    if not unknown_axes(config)[2]:
        return 1
    radius = max(_half_wavelengths(config)) * config.wavelength / 4
    turns = radius**2 / config.wavelength / 2 * (1 / config.range[0] - 1 / config.range[1])  # of the phase at the edge
    return max(2, math.ceil(2 * turns) + 1)


@dataclass(frozen=True, eq=False)
class SearchGrid:
    """The dictionary of places in which sources are searched."""

    grid: Grid  # its places
    planes: Tensor  # real and imaginary parts of their steering vectors side by side, [G,2N], real

    @classmethod
    def of(cls, batch: Measured) -> Self:
        """That of scenes or measurements, in their precision; thinned if it takes more than LARGEST bytes.

        The last one is used again where the configuration is the same.
        """
        return cls(*_planes(batch.config, batch.snapshots.real.dtype, batch.codes.device, LARGEST))

    def atoms(self, which: Tensor) -> Tensor:
        """Steering vectors of places by their numbers [...], [...,N], complex."""
        return torch.complex(*self.planes[which].chunk(2, dim=-1))


@lru_cache(maxsize=1)
def _planes(
    config: SceneConfig | MeasurementModel, dtype: torch.dtype, device: torch.device, largest: int
) -> tuple[Grid, Tensor]:
    grid = dictionary(config)
    size = 2 * grid.array.count * dtype.itemsize
    while math.prod(grid.shape) * size > largest and grid.coarser.shape != grid.shape:
        grid = grid.coarser
    return grid, grid.planes(dtype, device)
