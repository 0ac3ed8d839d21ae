"""Measurements of other arrays, by formulas of NumPy alone that share nothing with the package."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rislab.data.geometry import ArrayGeometry
from rislab.data.measurement import Measurement

Array = NDArray[Any]


def phases(elements: Array, wavelength: float, place: Array, planar: bool) -> Array:
    """Field of a source of unit power at each element, over √N, from Cartesian distances."""
    azimuth, elevation, distance = place
    toward = np.array(
        [np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)], dtype=float
    )
    path = -elements @ toward if planar else np.linalg.norm(distance * toward - elements, axis=1) - distance
    return np.exp(-2j * np.pi * path / wavelength) / np.sqrt(len(elements))


@dataclasses.dataclass(frozen=True)
class Case:
    """An array, its sources, and how it is seen."""

    elements: Array
    wavelength: float
    places: Array  # [K, 3]: azimuth, elevation, range
    planar: bool = False
    antennas: int = 0  # 0: the array itself, without a surface
    snapshots: int = 32
    symbols: str = "varying"
    view: dict[str, Any] = dataclasses.field(default_factory=dict)

    def geometry(self) -> ArrayGeometry:
        return ArrayGeometry(self.elements, self.wavelength, "planar" if self.planar else "spherical")

    def draw(self, count: int, snr_db: float, seed: int = 0) -> Measurement:
        """Measurements of one place, with new symbols, codes, channel and noise in each."""
        rng = np.random.default_rng(seed)
        size, length = len(self.elements), self.snapshots
        fields = np.stack([phases(self.elements, self.wavelength, place, self.planar) for place in self.places], 1)

        def normal(*shape: int) -> Array:
            return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) / np.sqrt(2)

        symbols = normal(count, length, len(self.places))
        if self.symbols == "constant":
            symbols = np.broadcast_to(symbols[:, :1], symbols.shape)
        arriving = np.einsum("nk,blk->bln", fields, symbols)
        codes = channel = None
        signal = arriving
        if self.antennas:
            # Amplitudes of 0.4 … 1: the codes of a real surface.
            codes = rng.uniform(0.4, 1, (count, length, size)) * np.exp(2j * np.pi * rng.random((count, length, size)))
            channel = normal(count, self.antennas, size)
            signal = np.einsum("bmn,bln,bln->blm", channel, codes, arriving)
        noise_power = np.mean(np.abs(signal) ** 2, axis=(1, 2)) / 10 ** (snr_db / 10)
        y = signal + normal(*signal.shape) * np.sqrt(noise_power)[:, None, None]
        options = {"symbols": self.symbols, **self.view}
        if codes is None or channel is None:
            return Measurement.direct(y, self.geometry(), noise_power, **options)
        return Measurement(y, codes, channel, self.geometry(), noise_power, **options)


def circle(count: int, radius: float) -> Array:
    turn = 2 * np.pi * np.arange(count) / count
    return np.stack([radius * np.cos(turn), radius * np.sin(turn), 0 * turn], axis=1)


def grid(rows: int, columns: int, spacing: float) -> Array:
    return np.array(
        [
            (0.0, (h - (columns - 1) / 2) * spacing, (v - (rows - 1) / 2) * spacing)
            for v in range(rows)
            for h in range(columns)
        ]
    )


CASES = {
    "circular array, planar": Case(
        circle(9, 0.08), 0.1, np.array([(2.6, 0.0, 1.0), (-1.9, 0.0, 1.0)]), planar=True, view={"elevation": 0.0}
    ),
    "linear array, near field": Case(grid(1, 16, 0.05), 0.1, np.array([(0.4, 0.0, 1.3), (-0.3, 0.0, 2.2)])),
    "28 GHz rectangular array": Case(grid(8, 8, 0.0053), 0.0107, np.array([(0.5, -0.2, 0.12), (-0.4, 0.3, 0.2)])),
    "any positions, near field": Case(
        np.random.default_rng(5).uniform(-0.1, 0.1, (14, 3)), 0.1, np.array([(2.0, 0.6, 0.5), (-2.6, -0.5, 0.8)])
    ),
    "surface, one antenna": Case(
        grid(6, 6, 0.05), 0.1, np.array([(0.3, -0.2, 0.6)]), antennas=1, snapshots=200, symbols="constant"
    ),
    "surface, four antennas": Case(
        grid(6, 6, 0.05), 0.1, np.array([(0.3, -0.2, 0.6), (-0.5, 0.25, 0.9)]), antennas=4, snapshots=48
    ),
}
