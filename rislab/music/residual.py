"""Whether the model explains the data at all: what a fit leaves, what chance would leave, and which change helps.

A mistake of convention (a conjugate, a transpose, elements counted in another order) leaves a measurement that no place
explains. Each such change is tried, and named if it makes the residual fall. What only mirrors the place, such as the
conjugate of everything that a planar array has received, no residual can show.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rislab.data.covariance import frobenius_squared
from rislab.data.measurement import Measurement
from rislab.music.estimate import Estimate
from rislab.music.likelihood import best_fit, degrees_of_freedom, most_sources, rss
from rislab.music.sparse import sparse

# Draws of noise that tell what chance explains.
DRAWS = 3
# A change is named if it leaves at most this share of what is left without it.
HELPS = 0.75
# Changes are tried on this many snapshots at most.
ENOUGH = 400
# Changes that leave at most this factor of the smallest residual help as much.
ALIKE, ROUNDING = 1.001, 1e-6
STATIC = "what does not change with the codes is subtracted (Measurement.centred(), --centred)"
# Between 0 (what chance explains) and 1 (everything): to the first it is nothing, from the second nearly all.
NOTHING, NEARLY = 0.1, 0.8


@dataclass(frozen=True, eq=False)
class Residual:
    """What a fit leaves of one measurement."""

    share: float  # of the energy of the snapshots that is left, 0 … 1
    chance: float  # the same, of noise that is fitted in the same way
    over_noise: float  # what is left over what noise of the given power would leave; NaN if no noise power is given
    further: float  # share of the residual that one more source would explain; NaN if no more can be fitted
    further_chance: float  # the same, of noise
    fitted: Tensor  # B ŝ, [L,M], complex
    snapshots: Tensor  # r = y − B ŝ, [L,M], complex

    @property
    def explained(self) -> float:
        """Share of what chance would leave that the model explains: 0 for noise, 1 for a perfect fit."""
        return 1 - self.share / self.chance if self.chance > 0 else math.nan

    def verdict(self) -> str:
        """Whether the model explains the data, in one sentence."""
        chance = f"the same fit to noise would leave {100 * self.chance:.3g} %"
        left = f"{100 * self.share:.3g} % of the energy is left; {chance}"
        if not self.explained > NOTHING:
            return f"the model does not explain the data: {left}"
        if self.over_noise > 2:
            return f"the model explains the data in part: {left}; what is left is {self.over_noise:.3g} times the noise"
        if self.over_noise <= 2:
            return f"the model explains the data down to the noise: {left}"
        if self.further > 2 * self.further_chance + 0.05:
            more = f"one more source would explain {100 * self.further:.3g} % of the rest"
            return f"the model explains the data in part: {left}; {more}"
        how_far = "explains the data" if self.explained > NEARLY else "explains the data in part"
        return f"the model {how_far}: {left}; without a noise power nobody can say how much of that is noise"


def residual(measurement: Measurement, estimate: Estimate) -> Residual:
    """What the sources of an estimate [1,K] leave of one measurement, with the waveforms that fit best."""
    sources = int(estimate.active.sum())
    energy = float(frobenius_squared(measurement.snapshots))
    fitted, left = (part[0] for part in best_fit(measurement, estimate))
    remaining = float(torch.view_as_real(left).square().sum())
    over_noise = further = further_chance = math.nan
    if measurement.noise_power is not None:
        free = int(degrees_of_freedom(measurement, estimate.active))
        over_noise = remaining / (float(measurement.noise_power[0]) * free) if free > 0 else math.nan
    noise = list(_noise_like(measurement))
    chance = _mean_share(noise, max(sources, 1))
    if sources < most_sources(measurement) and remaining > 0:
        further = 1 - float(rss(measurement, sparse(measurement, sources + 1))) / remaining
        further_chance = 1 - _mean_share(noise, sources + 1) / chance if sources else 1 - chance
    return Residual(remaining / energy, chance, over_noise, further, further_chance, fitted, left)


def _noise_like(measurement: Measurement) -> Iterator[Measurement]:
    """The measurement with noise in place of its snapshots."""
    generator = torch.Generator().manual_seed(0)
    snapshots = measurement.snapshots
    for _ in range(DRAWS):
        noise = torch.randn(snapshots.shape, generator=generator, dtype=torch.complex128)
        yield measurement.changed(snapshots=noise.to(snapshots))


def _mean_share(measurements: list[Measurement], sources: int) -> float:
    return sum(energy_share(one, sources) for one in measurements) / len(measurements)


def energy_share(measurement: Measurement, sources: int) -> float:
    """Share of the energy of the snapshots that a sparse fit leaves, mean over the measurements."""
    left = rss(measurement, sparse(measurement, sources))
    return float((left / frobenius_squared(measurement.snapshots)).mean())


Change = Callable[[Measurement], Measurement]


def convention_changes(measurement: Measurement) -> dict[str, Measurement]:
    """B measurements after each change of convention that their shapes allow, by what is changed."""
    surface = not measurement.is_direct
    changes: dict[str, Measurement] = {}
    parts = {"snapshots": "the snapshots"} | ({"codes": "the codes", "channel": "the channel"} if surface else {})
    for bits in range(1, 2 ** len(parts)):
        chosen = [name for place, name in enumerate(parts) if bits >> place & 1]
        names = " and ".join(parts[name] for name in chosen)
        conjugated = {name: getattr(measurement, name).conj().resolve_conj() for name in chosen}
        verb = "is" if chosen == ["channel"] else "are"
        changes[f"{names} {verb} conjugated"] = measurement.changed(**conjugated)
    if measurement.config.wavefront == "planar":
        array = dataclasses.replace(measurement.array, wavefront="spherical")
        config = dataclasses.replace(measurement.config, geometry=array)
        changes["the waves are spherical and not planar"] = measurement.changed(array=array, config=config)
    snapshots, codes, channel = measurement.snapshots, measurement.codes, measurement.channel
    if snapshots.shape[1] == snapshots.shape[2]:
        changes["the snapshots are transposed"] = measurement.changed(snapshots=snapshots.mT)
    if not surface:
        return changes
    for words, table in (("the channel is", channel), ("the codes are", codes)):
        if table.shape[1] == table.shape[2]:
            name = words.split()[1]
            changes[f"{words} transposed"] = measurement.changed(**{name: table.mT})
            changes[f"{words} transposed and conjugated"] = measurement.changed(**{name: table.mH.resolve_conj()})
    for name, order in _orders(measurement).items():
        where = {"codes": codes[..., order], "channel": channel[..., order]}
        changes[f"the elements of codes and channel {name}"] = measurement.changed(**where)
        for part, tensor in where.items():
            changes[f"the elements of the {part} {name}"] = measurement.changed(**{part: tensor})
    for step, words in ((1, "later"), (-1, "earlier")):
        changes[f"each code belongs to the snapshot one {words}"] = measurement.changed(codes=codes.roll(step, dims=1))
    if measurement.config.symbols == "constant" and measurement.config.snapshots > 2:
        changes[STATIC] = measurement.centred()
    for words, other in _other_codes(codes).items():
        changes[words] = measurement.changed(codes=other)
    return changes


def _orders(measurement: Measurement) -> dict[str, Tensor]:
    """Other orders in which the elements of a rectangular surface may have been counted."""
    axes = measurement.array.axes()
    if axes is None:
        return {}
    rows, columns = (len(axis) for axis in axes)
    every = torch.arange(rows * columns, device=measurement.codes.device)
    number = every.reshape(rows, columns)
    orders = {"are counted from the other end of each row": number.flip(1)}
    orders["are counted from the other end of each column"] = number.flip(0)
    if rows > 1 and columns > 1:
        orders["are counted column by column"] = every.reshape(columns, rows).T
    return {name: order.flatten() for name, order in orders.items()}


def _other_codes(codes: Tensor) -> dict[str, Tensor]:
    """Codes that may have been meant, where those given look like phases or bits."""
    other: dict[str, Tensor] = {}
    values = np.unique(codes.cpu().numpy())
    real = not values.imag.any()
    if real and values.tolist() == [0.0, 1.0]:
        other["the codes 0 and 1 stand for the factors 1 and −1"] = 1 - 2 * codes
        other["the codes 0 and 1 change places"] = 1 - codes
    if real and len(np.unique(np.abs(values))) > 1:
        other["the codes are phases in radians"] = torch.polar(torch.ones_like(codes.real), codes.real)
    degrees = torch.arange(-360, 361, dtype=torch.float64, device=codes.device)
    if not real and len(values) <= len(degrees):
        # If every phase equals that of a whole number of radians, 0 … 360, degrees were taken for radians.
        apart = torch.remainder(codes.angle().double().unsqueeze(-1) - degrees + math.pi, 2 * math.pi) - math.pi
        closest = apart.abs().min(-1)
        if bool((closest.values < 1e-4).all()):
            meant = torch.deg2rad(degrees[closest.indices])
            turned = torch.polar(torch.ones_like(meant), meant).to(codes)
            other["the phases of the codes were degrees taken for radians"] = turned
    return other


def convention_hint(measurement: Measurement, sources: int) -> str:
    """One sentence that names the change of convention with which K sources leave least; "" if none helps much."""
    measurement = measurement.leading(ENOUGH)
    now = energy_share(measurement, sources)
    shares = {name: energy_share(other, sources) for name, other in convention_changes(measurement).items()}
    least = min(shares.values(), default=now)
    if least > HELPS * now:
        return ""
    # Some changes differ by a mirrored place only.
    alike = [name for name, share in shares.items() if share <= ALIKE * least + ROUNDING]
    # A change that adds a constant to the codes is undone by subtracting what is static, too.
    alike = [name for name in alike if name != STATIC] or alike
    return f"the residual falls from {100 * now:.3g} % to {100 * least:.3g} % of the energy if {', or if '.join(alike)}"
