"""A synthetic twin of a published measurement, made without this package's model.

BRISC (arXiv 2602.21102): a surface of 256 elements with two states at 5.53 GHz, a transmitter at many positions, a
receiver of two antennas in phase with it, and about 10 000 configurations of the surface for each position. The twin is
of that kind and of that size; its numbers are its own. It holds effects that a model of ideal elements leaves out:

    coupling        a part of what an element reflects reaches its neighbours
    two states      of unequal amplitude, 165° apart instead of 180°, with a scatter over the elements; some are stuck
    patterns        elements see less from the side, and amplitudes fall with the distance over the aperture
    places          elements and antennas are not where the survey has them
    other paths     from the transmitter past the surface to the antennas, and off the wall around it
    receiver        a phase that wanders, noise, and twelve bits

The codes in the file are the states asked for, 1 and −1, and its channel is computed from the survey: what anyone would
have. `python -m rislab.data.brisc_twin FILE.npz` writes it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

FREQUENCY = 5.53e9
WAVELENGTH = 299_792_458.0 / FREQUENCY
SIDE, SPACING = 16, 0.027
ANTENNAS = np.array([(1.30, -0.55, 0.10), (1.30, -0.55 + WAVELENGTH / 2, 0.10)])
POSITIONS, CONFIGURATIONS = 9, 10_000


def make_twin(
    positions: int = POSITIONS, configurations: int = CONFIGURATIONS, *, block: int = 1, seed: int = 0
) -> dict[str, Any]:
    """The arrays of a file, by name; `true_positions` [B,3] in metres are for comparison alone.

    Args:
        positions: of the transmitter, on an arc before the surface.
        configurations: of the surface, the same for all positions.
        block: elements of a square of this side share one state; a divisor of 16.
        seed: of everything random.
    """
    rng = np.random.default_rng(seed)
    surveyed = _grid()
    states = _states(rng, configurations, block)
    channel = _spherical(surveyed, ANTENNAS)
    places = _places(rng, positions)
    true_elements = surveyed + rng.normal(0, 0.5e-3, surveyed.shape)
    true_antennas = ANTENNAS + rng.normal(0, 2e-3, ANTENNAS.shape)
    reflected = _reflection(rng, states)
    coupling = _coupling(rng, surveyed)
    onward = _spherical(true_elements, true_antennas) * _pattern(true_elements, true_antennas)
    snapshots = []
    for place in places:
        arriving = (_spherical(true_elements, place[None]) * _pattern(true_elements, place[None]))[0]
        first = reflected * arriving
        signal = (first + reflected * (first @ coupling)) @ onward.T  # [L, 2]
        level = np.sqrt(np.mean(np.abs(signal) ** 2))
        others = level * rng.uniform(1, 3, 2) * np.exp(2j * np.pi * rng.random(2))
        wander = np.exp(1j * np.cumsum(rng.normal(0, np.deg2rad(0.1), configurations)))[:, None]
        noise = level / np.sqrt(20) * _normal(rng, configurations, 2)
        snapshots.append(_digitised((signal + others) * wander + noise))
    return {
        "snapshots": np.stack(snapshots),
        "codes": states,
        "channel": channel,
        "rows": SIDE,
        "columns": SIDE,
        "spacing": SPACING,
        "frequency": FREQUENCY,
        "symbols": "constant",
        "azimuth": np.deg2rad((-60.0, 60.0)),
        "elevation": np.deg2rad((-30.0, 30.0)),
        "range": np.array((0.5, 10.0)),
        "true_positions": places,
    }


def _grid() -> Array:
    """Elements row by row, columns along y and rows along z."""
    steps = (np.arange(SIDE) - (SIDE - 1) / 2) * SPACING
    z, y = np.meshgrid(steps, steps, indexing="ij")
    return np.stack([np.zeros(SIDE * SIDE), y.ravel(), z.ravel()], axis=1)


def _states(rng: np.random.Generator, configurations: int, block: int) -> Array:
    blocks = rng.choice([-1.0, 1.0], (configurations, SIDE // block, SIDE // block))
    return np.kron(blocks, np.ones((1, block, block))).reshape(configurations, -1)


def _places(rng: np.random.Generator, positions: int) -> Array:
    azimuth = np.linspace(-0.7, 0.7, positions) + rng.uniform(-0.05, 0.05, positions)
    elevation, distance = rng.uniform(-0.25, 0.25, positions), rng.uniform(1.2, 3.0, positions)
    across = np.cos(elevation)
    toward = np.stack([across * np.cos(azimuth), across * np.sin(azimuth), np.sin(elevation)], axis=1)
    return distance[:, None] * toward


def _spherical(elements: Array, ends: Array) -> Array:
    """exp(−jkd)/d between each end and each element, [ends, elements]."""
    distance = np.linalg.norm(ends[:, None] - elements, axis=2)
    return np.exp(-2j * np.pi / WAVELENGTH * distance) / distance


def _pattern(elements: Array, ends: Array) -> Array:
    """Amplitude of an element towards each end: less from the side."""
    way = ends[:, None] - elements
    return (way[..., 0] / np.linalg.norm(way, axis=2)) ** 0.6


def _reflection(rng: np.random.Generator, states: Array) -> Array:
    """What the elements do in each state asked for."""
    elements = states.shape[1]
    scatter = rng.normal(0, np.deg2rad(8), (2, elements))
    on = 0.85 * np.exp(1j * scatter[0])
    off = 0.70 * np.exp(1j * (np.deg2rad(165) + scatter[1]))
    stuck = rng.random(elements) < 0.02
    return np.where((states > 0) | stuck, on, off)


def _coupling(rng: np.random.Generator, elements: Array) -> Array:
    """From each element to its neighbours; none to itself."""
    distance = np.linalg.norm(elements[:, None] - elements, axis=2)
    near = (distance > 0) & (distance < 1.6 * SPACING)
    strength = 0.05 * SPACING / np.where(near, distance, np.inf)
    phase = 2 * np.pi * distance / WAVELENGTH + rng.normal(0, 0.2, distance.shape)
    return np.where(near, strength * np.exp(-1j * (phase + phase.T) / 2), 0)


def _normal(rng: np.random.Generator, *shape: int) -> Array:
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) / np.sqrt(2)


def _digitised(values: Array) -> Array:
    """Twelve bits for the real and for the imaginary part, at a gain that clips nothing."""
    step = max(np.abs(values.real).max(), np.abs(values.imag).max()) / 2**11
    return (np.round(values.real / step) + 1j * np.round(values.imag / step)) * step


def write_twin(path: Path | str, **options: Any) -> Path:
    """Write make_twin() to an NPZ file; returns its path."""
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(file, **make_twin(**options))
    return file


def _main() -> None:
    """The script: `python -m rislab.data.brisc_twin FILE.npz`."""
    parser = argparse.ArgumentParser(description="Write a synthetic twin of the BRISC measurement.")
    parser.add_argument("file", metavar="FILE.npz")
    parser.add_argument("--positions", type=int, default=POSITIONS)
    parser.add_argument("--configurations", type=int, default=CONFIGURATIONS)
    parser.add_argument("--block", type=int, default=1, help="side of the squares whose elements share a state")
    parser.add_argument("--seed", type=int, default=0)
    options = vars(parser.parse_args())
    print(write_twin(options.pop("file"), **options))


if __name__ == "__main__":
    _main()
