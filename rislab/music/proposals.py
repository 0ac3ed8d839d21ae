"""Where the posterior is sampled: the prior of the sources, and banks of candidates with the density of their draw.

A candidate has the coordinates azimuth, elevation, [ln power,] 1/r, all but the power scaled to the field of view,
0 … 1; on a known axis they mean nothing. Candidates come from three proposals: a Student t with the inverse Fisher
information, the same with a range from the prior, and the cells of a dictionary that match the snapshots best once
the other sources are taken out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from rislab.data.measurement import Measured
from rislab.data.scene_config import POWER_LAWS
from rislab.data.scenes import SceneBatch
from rislab.errors import check_choice
from rislab.music.dictionary import dictionary
from rislab.music.likelihood import Parameters, bounds_box, stacked_snapshots, stacked_steering, stochastic_terms
from rislab.music.spectra import power_on_grid
from rislab.music.waveforms import mmse_gain, project

POWERS = (*POWER_LAWS, "independent")
FREEDOM = 5  # degrees of freedom of the Student t
# Shares of the first bank by proposal; of later ones, what comes from the cells.
SHARES = (0.45, 0.2, 0.35)
# Proposals are wider than the inverse Fisher information, so that they cover the tails: of places, and of the scales.
INFLATE, INFLATE_SCALES = 1.3, 1.5
# Squared width of the kernel around candidates of the bank before, over that of the distribution.
KERNEL = 0.5
# ln of a density that is 0, so that sums of it stay numbers.
LOG_ZERO = -1e9


@dataclass(frozen=True, eq=False)
class Prior:
    """What is assumed of the sources before anything is measured."""

    low: Tensor  # smallest azimuth, elevation and 1/r, [3]; see likelihood.bounds_box()
    high: Tensor  # largest, [3]
    # "equal"; "free-space", proportional to 1/r²; or "independent", exponential with the mean of the fit. The level of
    # the first two and the noise power are unknown, uniform in the level and in ln σ²
    powers: str
    separation: float  # smallest angle between two sources, radians
    by_range: bool  # whether places are uniform in range, as scenes are drawn, or in 1/r, for measurements from outside

    @classmethod
    def of(cls, batch: Measured, powers: str | None = None) -> Prior:
        """That which scenes are drawn from; of a measurement, uniform in 1/r and independent powers."""
        law, separation, by_range = "independent", 0.0, False
        if isinstance(batch, SceneBatch):
            law, separation, by_range = batch.config.power_law, batch.config.separation, True
        powers = law if powers is None else powers
        check_choice("powers", powers, POWERS)
        return cls(*bounds_box(batch), powers, separation, by_range)

    @property
    def width(self) -> Tensor:
        """Of the field of view, [3]; 0 where an axis is known."""
        return self.high - self.low

    @property
    def size(self) -> int:
        """D, the number of coordinates."""
        return 4 if self.powers == "independent" else 3

    def points(self, coordinates: Tensor) -> Tensor:
        """Places of candidates [...,D], as in Parameters.points, [...,3]."""
        return self.low + self.width * _places(coordinates).clamp(0, 1)

    def coordinates(self, points: Tensor, log_power: Tensor) -> Tensor:
        """Candidates at places [...,3] with ln power over the level, [...]; [...,D]."""
        share = torch.where(self.width > 0, (points - self.low) / torch.where(self.width > 0, self.width, 1), 0.5)
        return _joined(share, log_power.unsqueeze(-1) if self.size == 4 else share[..., :0])

    def relative_power(self, coordinates: Tensor) -> Tensor:
        """Power of candidates [...,D] over the level, [...]."""
        if self.powers == "free-space":
            return self.points(coordinates)[..., 2].square()
        return torch.ones_like(coordinates[..., 0]) if self.powers == "equal" else coordinates[..., 2].exp()

    def log_density(self, coordinates: Tensor) -> Tensor:
        """ln of the density of candidates [...,D], [...]; LOG_ZERO outside the field of view."""
        places = _places(coordinates)
        inside = ((places >= 0) & (places <= 1)).all(-1)
        density = self.log_range_density(coordinates[..., -1])
        if self.powers == "independent":
            density = density + coordinates[..., 2] - coordinates[..., 2].exp()
        return torch.where(inside, density, LOG_ZERO)

    def range_coordinates(self, uniform: Tensor) -> Tensor:
        """The last coordinate, distributed as the prior, from uniform numbers."""
        if not self._uniform_in_range():
            return uniform
        nearest, farthest = 1 / self.high[2], 1 / self.low[2]
        return (1 / (nearest + (farthest - nearest) * uniform) - self.low[2]) / self.width[2]

    def log_range_density(self, last: Tensor) -> Tensor:
        """ln of the density of the last coordinate, [...]."""
        if not self._uniform_in_range():
            return torch.zeros_like(last)
        inverse = self.low[2] + self.width[2] * last.clamp(0, 1)
        return (self.low[2] * self.high[2]).log() - 2 * inverse.log()  # |dr/du| over the width in r

    def _uniform_in_range(self) -> bool:
        return self.by_range and bool(self.width[2] > 0)


def _places(coordinates: Tensor) -> Tensor:
    return torch.cat([coordinates[..., :2], coordinates[..., -1:]], dim=-1)


def _joined(places: Tensor, log_power: Tensor) -> Tensor:
    return torch.cat([places[..., :2], log_power, places[..., 2:]], dim=-1)


@dataclass(frozen=True, eq=False)
class Bank:
    """Candidates of each source."""

    coordinates: Tensor  # [B,K,T,D], real
    log_proposal: Tensor  # [B,K,T], real; ln of the density that they are drawn from, up to a constant
    start: Tensor  # [B,C,K], int64; candidate of each source at which each chain begins


@dataclass(frozen=True, eq=False)
class Scales:
    """Candidates of the level of the powers and of the noise power."""

    logarithms: Tensor  # [B,P,2], real
    log_proposal: Tensor  # [B,P], real; ln of the density that they are drawn from, over that of the prior

    def at(self, index: Tensor) -> Tensor:
        """Level and noise power of candidates [B,C], [B,C,2]."""
        return self.logarithms.gather(1, index.unsqueeze(-1).expand(-1, -1, 2)).exp()


class Proposals:
    """Draws banks for the scenes of a batch."""

    def __init__(self, batch: Measured, prior: Prior, start: Parameters, generator: Generator) -> None:
        """Take the Fisher information at a fit, whose powers are made to follow the prior; draw on the CPU."""
        self._prior, self._generator = prior, generator
        # ln of the level; independent powers are counted from their mean.
        fitted = (start.power * start.active).sum(1)
        bare = prior.coordinates(start.points, torch.zeros_like(start.power))
        tiny = torch.finfo(fitted.dtype).tiny
        self.log_level = (fitted / (prior.relative_power(bare) * start.active).sum(1)).clamp(min=tiny).log()
        log_power = start.power.clamp(min=tiny).log() - self.log_level.unsqueeze(-1)
        self._fit = prior.coordinates(start.points, torch.where(start.active, log_power, 0))  # [B, K, D]
        if prior.size == 3:
            power = prior.relative_power(self._fit) * self.log_level.exp().unsqueeze(-1) * start.active
            start = Parameters(start.points, power, start.noise_power, start.active)
        self._covariance, self._of_scales = _covariances(batch, prior, start)
        self._scales = torch.stack([self.log_level, start.noise_power.log()], dim=-1)
        self._cells = Cells(batch, prior, start)

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self._generator, dtype=self._fit.dtype).to(self._fit.device)

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self._generator, dtype=self._fit.dtype).to(self._fit.device)

    def _student(self, *shape: int) -> Tensor:
        squares = self._normal(*shape[:-1], FREEDOM).square().sum(-1, keepdim=True)
        return self._normal(*shape) * (FREEDOM / squares).sqrt()

    def _choose(self, weights: Tensor, count: int) -> Tensor:
        """Indices [B,K,count] by weights [B,K,T]."""
        cumulative = weights.cumsum(-1)
        drawn = self._uniform(*weights.shape[:-1], count) * cumulative[..., -1:]
        return torch.searchsorted(cumulative, drawn).clamp(max=weights.shape[-1] - 1)

    def _from_cells(self, exponent: float, count: int) -> Tensor:
        """Candidates [B,K,count,D] anywhere in cells that are drawn by their match."""
        cells = self._cells
        index = self._choose(cells.log_probability(exponent).exp(), count)
        low, high = cells.low[index], cells.high[index]
        places = low + (high - low) * self._uniform(*index.shape, 3)
        return _joined(places, self._normal(*index.shape, self._prior.size - 3))

    def _log_from_cells(self, exponent: float, coordinates: Tensor) -> Tensor:
        """ln of the density of _from_cells() at candidates [B,K,T,D]."""
        cells, places = self._cells, _places(coordinates)
        density = (cells.log_probability(exponent) - cells.log_volume).gather(-1, cells.locate(places))
        if self._prior.size == 4:
            density = density - coordinates[..., 2].square() / 2 - math.log(2 * math.pi) / 2
        return torch.where(((places < 0) | (places > 1)).any(-1), LOG_ZERO, density)

    def first(self, count: int, chains: int, exponent: float) -> Bank:
        """Bank of `count` candidates around the fit, for a likelihood to the power `exponent`."""
        prior, fit = self._prior, self._fit.unsqueeze(2)  # [B, K, 1, D]
        scenes, slots = self._fit.shape[:2]
        factor = INFLATE * torch.linalg.cholesky(self._covariance / exponent)
        near, far = int(SHARES[0] * count), int(SHARES[1] * count)
        around = fit + self._student(scenes, slots, near, prior.size) @ factor.mT
        around[:, :, 0] = self._fit
        flat = factor[..., :-1, :-1]
        sideways = fit[..., :-1] + self._student(scenes, slots, far, prior.size - 1) @ flat.mT
        depth = prior.range_coordinates(self._uniform(scenes, slots, far, 1))
        anywhere = self._from_cells(exponent, count - near - far)
        drawn = torch.cat([around, torch.cat([sideways, depth], dim=-1), anywhere], dim=2)
        parts = (
            _log_student(drawn, fit, factor),
            _log_student(drawn[..., :-1], fit[..., :-1], flat) + prior.log_range_density(drawn[..., -1]),
            self._log_from_cells(exponent, drawn),
        )
        density = torch.stack([part + math.log(share) for part, share in zip(parts, SHARES, strict=True)]).logsumexp(0)
        return Bank(drawn, density, torch.zeros(scenes, chains, slots, dtype=torch.int64, device=fit.device))

    def next(self, bank: Bank, weights: Tensor, index: Tensor, count: int, share: float) -> Bank:
        """Bank of `count` candidates around those of a bank.

        Args:
            bank: T candidates of each source.
            weights: [B,K,T], real; their probabilities.
            index: [B,C,K], int64; where the chains are: the first candidates of the new bank.
            count: at least C.
            share: 0 … 1; how many come from the cells.
        """
        old, size = bank.coordinates, self._prior.size
        scenes, chains, slots = index.shape
        offset = old - (weights.unsqueeze(-1) * old).sum(2, keepdim=True)
        spread = (weights.unsqueeze(-1) * offset).mT @ offset
        eye = torch.eye(size, dtype=old.dtype, device=old.device)
        # Narrower than the spread of the weights, which may span several maxima, and than a single maximum.
        kernel = KERNEL * torch.linalg.inv(torch.linalg.inv(spread + 1e-8 * eye) + torch.linalg.inv(self._covariance))
        factor = torch.linalg.cholesky((kernel + kernel.mT) / 2 + 1e-12 * eye)
        wide = int(share * count)
        chosen = self._choose(weights, count - wide - chains).unsqueeze(-1).expand(-1, -1, -1, size)
        moved = old.gather(2, chosen) + self._student(scenes, slots, count - wide - chains, size) @ factor.mT
        present = old.gather(2, index.mT.unsqueeze(-1).expand(-1, -1, -1, size))
        drawn = torch.cat([present, moved, self._from_cells(1.0, wide)], dim=2)
        density = _log_kernel(drawn, old, weights, factor) + math.log(1 - share)
        if share > 0:
            density = torch.logaddexp(density, self._log_from_cells(1.0, drawn) + math.log(share))
        start = torch.arange(chains, device=old.device)[None, :, None].expand(scenes, chains, slots).clone()
        return Bank(drawn, density, start)

    def scales(self, count: int, exponent: float, present: Tensor | None = None) -> Scales:
        """Candidates of level and noise power; `present`, logarithms [B,C,2] of the chains, come first."""
        factor = INFLATE_SCALES * torch.linalg.cholesky(self._of_scales / exponent)
        mean = (self._scales if present is None else present.mean(1)).unsqueeze(1)
        first = mean if present is None else present
        others = mean + self._normal(len(mean), count - first.shape[1], 2) @ factor.mT
        drawn = torch.cat([first, others], dim=1)
        if self._prior.size == 4:
            drawn = torch.stack([self.log_level.unsqueeze(-1).expand(-1, count), drawn[..., 1]], dim=-1)
            mean = torch.stack([self.log_level.unsqueeze(-1), mean[..., 1]], dim=-1)
        away = torch.linalg.solve_triangular(factor, (drawn - mean).mT, upper=False)
        # Uniform in the level: its density in ln level is the level itself.
        return Scales(drawn, -away.square().sum(-2) / 2 - drawn[..., 0])


def _log_student(drawn: Tensor, mean: Tensor, factor: Tensor) -> Tensor:
    """ln of a Student t with mean [...,1,D] and Cholesky factor [...,D,D] at [...,T,D]."""
    size = drawn.shape[-1]
    away = torch.linalg.solve_triangular(factor, (drawn - mean).mT, upper=False).square().sum(-2)
    return _log_norm(factor) - (FREEDOM + size) / 2 * torch.log1p(away / FREEDOM)


def _log_norm(factor: Tensor) -> Tensor:
    size = factor.shape[-1]
    constant = math.lgamma((FREEDOM + size) / 2) - math.lgamma(FREEDOM / 2) - size / 2 * math.log(FREEDOM * math.pi)
    return constant - factor.diagonal(dim1=-2, dim2=-1).log().sum(-1, keepdim=True)


def _log_kernel(drawn: Tensor, centres: Tensor, weights: Tensor, factor: Tensor) -> Tensor:
    """ln of a mixture of Student t around weighted centres [B,K,T,D] at [B,K,T',D]."""
    one, other = (torch.linalg.solve_triangular(factor, part.mT, upper=False).mT for part in (drawn, centres))
    shape = (1 + torch.cdist(one, other).square_() / FREEDOM).pow_(-(FREEDOM + drawn.shape[-1]) / 2)
    mixed = (shape @ weights.unsqueeze(-1)).squeeze(-1)
    return mixed.clamp(min=torch.finfo(mixed.dtype).tiny).log() + _log_norm(factor)


def _covariances(batch: Measured, prior: Prior, fit: Parameters) -> tuple[Tensor, Tensor]:
    """Inverse Fisher information of each source's coordinates [B,K,D,D], and of level and noise power [B,2,2]."""
    scenes, slots = fit.power.shape
    size, information = prior.size, stochastic_terms(batch, fit)[2]
    jacobian = information.new_zeros(scenes, 4 * slots + 1, size * slots + 2)
    for slot in range(slots):
        last = size * slot + size - 1
        for axis, column in enumerate((size * slot, size * slot + 1, last)):
            jacobian[:, 3 * slot + axis, column] = prior.width[axis]
        jacobian[:, 3 * slots + slot, size * slots if size == 3 else last - 1] = 1
        if prior.powers == "free-space":
            jacobian[:, 3 * slots + slot, last] = 2 * prior.width[2] / fit.points[:, slot, 2]
    jacobian[:, -1, -1] = 1
    # Information of the prior: a uniform coordinate has the variance 1/12.
    of_source = torch.full((size,), 12.0)
    of_source[2:-1] = 1.0
    of_prior = torch.cat([of_source.repeat(slots), torch.ones(2)]).to(information)
    information = jacobian.mT @ information @ jacobian + torch.diag(of_prior)
    scale = information.diagonal(dim1=-2, dim2=-1).rsqrt()
    covariance = torch.linalg.inv(scale.unsqueeze(-1) * information * scale.unsqueeze(-2))
    covariance = scale.unsqueeze(-1) * (covariance + covariance.mT) / 2 * scale.unsqueeze(-2)
    places = covariance[:, :-2, :-2].reshape(scenes, slots, size, slots, size).diagonal(dim1=1, dim2=3)
    return places.permute(0, 3, 1, 2), covariance[:, -2:, -2:]


class Cells:
    """Cells around the points of a dictionary, and how well each matches what the other sources of a fit leave."""

    def __init__(self, batch: Measured, prior: Prior, fit: Parameters) -> None:
        """Match all cells for each source, as sparse() does, with the mean received power of its own place."""
        grid = dictionary(batch.config)
        axes = (grid.azimuth, grid.elevation, 1 / grid.range)
        ends = [_cell_ends(axis.to(prior.low), prior.low[i], prior.high[i]) for i, axis in enumerate(axes)]
        self.low, self.high = (
            torch.stack(torch.meshgrid(*side, indexing="ij"), dim=-1).flatten(0, 2) for side in zip(*ends, strict=True)
        )
        self.log_volume = (self.high - self.low).log().sum(-1)  # [G]
        self._lows = [low for low, _ in ends]
        snapshots, noise = stacked_snapshots(batch), fit.noise_power[:, None]
        fields = stacked_steering(batch, fit.points, fit.active)
        energy = torch.view_as_real(fields).square().sum((-1, -3)).mean(1) / noise  # mean |b|²/σ², [B, K]
        rises = []
        for slot in range(fit.power.shape[1]):
            others = fit.active.clone()
            others[:, slot] = False
            gain = mmse_gain(fields, (fit.power * others)[:, None], noise)
            _, residual = project(fields, gain, snapshots)  # σ² R⁻¹ y
            surface = (batch.channel.mH @ residual.reshape(batch.snapshots.shape).mT) * batch.codes.mT.conj()
            surface = surface.sum(-1, keepdim=True) if batch.config.symbols == "constant" else surface
            power = fit.power[:, slot, None]
            matched = power_on_grid(surface, grid).flatten(1) * power / noise.square()
            rises.append(matched / (1 + power * energy[:, slot, None]))
        self._rise = torch.stack(rises, dim=1)  # [B, K, G]

    def log_probability(self, exponent: float) -> Tensor:
        """ln of the probability of each cell for each source, [B,K,G]."""
        return torch.log_softmax(exponent * self._rise + self.log_volume, dim=-1)

    def locate(self, places: Tensor) -> Tensor:
        """Numbers of the cells that hold places [...,3], [...]."""
        number = torch.zeros(places.shape[:-1], dtype=torch.int64, device=places.device)
        for axis, lows in enumerate(self._lows):
            order = lows.argsort()
            position = torch.searchsorted(lows[order], places[..., axis].contiguous(), right=True) - 1
            number = number * len(lows) + order[position.clamp(min=0)]
        return number


def _cell_ends(axis: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Ends of the cell of each point of an axis, [P] each, in coordinates 0 … 1; cells meet halfway between points."""
    share = (axis - low) / (high - low) if high > low else torch.full_like(axis, 0.5)
    order = share.argsort()
    middle = (share[order][1:] + share[order][:-1]) / 2
    below, above = torch.empty_like(share), torch.empty_like(share)
    below[order] = torch.cat([torch.zeros_like(share[:1]), middle])
    above[order] = torch.cat([middle, torch.ones_like(share[:1])])
    return below, above
