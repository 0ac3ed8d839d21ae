"""Unrolled matching pursuit: a fixed number of steps of the sparse fit, so that a whole batch is done at once.

The source that raises the likelihood most is taken from a map of beam power, moved off the grid by Gauss–Newton steps
together with those before it, and subtracted from the snapshots; then the next one. There is no test of convergence,
and the number of sources is not known: the result holds the positions of a fit with one source, of one with two, up to
the most, and features of each.

Waveforms are posterior means for s ~ CN(0, p): with the received fields B of the positions,
ŝ = (B^H B + σ²/p I)^(−1) B^H y. The noise power σ² is what the fit before has left of the snapshots.

How likely each fit is, is computed on the stochastic likelihood under each of LAWS, by which powers are equal, fall
with the square of the range, or are those of the waveforms: scenes do not say which of them holds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from rislab.data.geometry import ArrayGeometry
from rislab.data.grid import Grid
from rislab.data.scene_config import SceneConfig
from rislab.data.scenes import received_fields
from rislab.music.sparse import balanced_channel, power_and_rise
from rislab.music.spectra import power_on_grid
from rislab.music.waveforms import project

# Laws that the powers of sources may follow, with their prior probabilities. A larger prior helps scenes of that law
# and hurts the others; powers that follow no law explain so much more that a small prior suffices.
LAWS = {"equal": 0.945, "free-space": 0.05499, "own": 0.00001}
# Smallest share of the snapshots' power that is taken for noise: 40 dB below it.
NOISE_FLOOR = 1e-4
# Share of its own diagonal that is added to the curvature.
DAMPING = 0.05
# Fewer columns than these are received faster by codes and channel in turn than by the stacked H diag(c_l).
FEW = 5
# Atoms whose exact rise of the likelihood is computed, the strongest of the map.
SHORTLIST = 8
# No more sources are looked for unless the best place raises ln L by this share of the penalty of a source.
WORTH = 0.4
# Smallest logarithm of a weight; that of fits that are not made.
NEVER = -30.0
FEATURES = 13


@dataclass(frozen=True, eq=False)
class SourcePaths:
    """Candidate positions: those of a fit with one source, with two, …, with K; C = 1 + 2 + … + K in all."""

    factor: Tensor  # steering vectors towards the candidates, [B,N,C], complex
    points: Tensor  # their azimuth and elevation in radians, and 1/r in 1/m, [B,C,3]
    features: Tensor  # of each candidate and its fit, [B,C,FEATURES], real, of the order of 1
    # ln of the probability of the fit and of each of LAWS, times the candidate's share by it, [B,C,3]
    log_weights: Tensor


class Pursuit(nn.Module):
    """The unrolled fit; it has nothing to train.

    Args:
        config: of the scenes; gives surface, field of view, wavefront and the most sources.
        shape: grid points (P, Q, R) of the maps.
        single_steps: Gauss–Newton steps of a new source by itself.
        joint_steps: Gauss–Newton steps of all sources after them.
    """

    grid_points: Tensor
    elements: Tensor
    low: Tensor
    high: Tensor
    largest_move: Tensor

    def __init__(
        self, config: SceneConfig, shape: tuple[int, int, int], single_steps: int = 1, joint_steps: int = 2
    ) -> None:
        super().__init__()
        self.config, self.single_steps, self.joint_steps = config, single_steps, joint_steps
        self.most = min(config.sources[1], config.antennas - 1)
        self.grid = config.grid(shape, spacing="sine")
        azimuth, elevation, distance = (axis.double() for axis in self.grid.points())
        grid_points = torch.stack([azimuth, elevation, 1 / distance], dim=-1)
        ends = torch.tensor([config.azimuth, config.elevation, (1 / config.range[1], 1 / config.range[0])]).double()
        array = config.array(dtype=torch.float64)
        cells = (ends[:, 1] - ends[:, 0]) / (torch.tensor(shape) - 1).clamp(min=1)
        buffers = {
            "grid_points": grid_points,  # [G, 3]
            "elements": array.elements,
            "low": ends[:, 0],
            "high": ends[:, 1],
            "largest_move": cells / 2,  # of one step
        }
        for name, value in buffers.items():
            self.register_buffer(name, value, persistent=False)

    @torch.no_grad()
    def forward(self, snapshots: Tensor, codes: Tensor, channel: Tensor) -> SourcePaths:
        """[B,L,M], [B,L,N], [B,M,N], complex, to SourcePaths."""
        real = snapshots.real.dtype
        grid_points = self.grid_points.to(real)
        array = ArrayGeometry(self.elements.to(real), self.config.wavelength, self.config.wavefront)
        limits = self.low.to(real), self.high.to(real), self.largest_move.to(real)
        sensing = (codes.unsqueeze(2) * channel.unsqueeze(1)).flatten(1, 2)
        scene = _Scene(snapshots, codes, channel, sensing, balanced_channel(channel), array, limits)
        rows, fit = torch.arange(len(snapshots), device=snapshots.device), scene.empty_fit()
        # Places of the fits that are not made.
        places = limits[0].repeat(len(rows), self.most, 1)
        fits: list[tuple[Tensor, _Fit]] = []
        for _ in range(self.most):
            strongest, rise = scene.strongest(fit, self.grid, grid_points, max(SHORTLIST, self.most))
            known = torch.cat([fit.points, strongest], dim=1)[:, : self.most]
            places[rows, : known.shape[1]] = known
            worth = rise > WORTH * scene.price
            if not bool(worth.all()):
                rows, strongest = rows[worth], strongest[worth]
                scene, fit = scene.select(worth), fit.select(worth)
            if not len(rows):
                break
            added = strongest[:, :1]
            for _ in range(self.single_steps):
                added = scene.step(fit.residual, added, fit.noise)
            points = torch.cat([fit.points, added], dim=1)
            for _ in range(self.joint_steps):
                points = scene.step(scene.snapshots, points, fit.noise)
            fit = scene.fit(points, fit.level)
            fits.append((rows, fit))
        return _paths(places, array, fits, scene.price)

    @property
    def candidates(self) -> int:
        """C, the number of candidate positions of a scene."""
        return sum(range(1, self.most + 1))


@dataclass(frozen=True, eq=False)
class _Fit:
    """The fit with K sources."""

    points: Tensor  # [B,K,3]
    vectors: Tensor  # steering vectors, [B,K,N]
    fields: Tensor  # received of them, [B,L,M,K]
    residual: Tensor  # [B,L,M]
    level: Tensor  # mean power of the snapshots, [B]
    noise: Tensor  # σ², [B]
    gain: Tensor  # diagonal of B^H B, mean over the snapshots, [B,K]
    shares: Tensor  # of the powers by each of LAWS, [B,K,3]; each adds up to 1
    log_likelihood: Tensor  # by each of LAWS, over that of noise alone, [B,3]

    def select(self, rows: Tensor) -> _Fit:
        """That of some scenes."""
        return _Fit(**{name: value[rows] for name, value in vars(self).items()})

    def features(self, posterior: Tensor) -> Tensor:
        """Of each source, [B,K,FEATURES]; `posterior` is ln of the probability of the fit by each law, [B,3]."""
        count, elements = self.vectors.shape[1:]
        level = self.level.unsqueeze(-1)
        products = torch.view_as_real(self.vectors.conj() @ self.vectors.mT).square().sum(-1)  # [B, K, K]
        nearest = (products - torch.diag_embed(products.diagonal(dim1=-2, dim2=-1))).amax(-1)
        noise = self.noise.unsqueeze(-1)
        of_fit = [(noise / level).log(), torch.full_like(level, count / 3), *(posterior / 10).split(1, dim=-1)]
        of_each = [
            *(self.shares * count + 1e-3).log().unbind(-1)[1:],
            (self.shares[..., 2] * elements * self.gain / noise + 1e-3).log() / 3,
            (self.gain + 1e-3).log(),
            nearest,
            self.points[..., 2],
            self.points[..., 0],
            self.points[..., 1],
        ]
        stacked = torch.stack([*of_each, *(value.expand_as(nearest) for value in of_fit)], dim=-1)
        return torch.nan_to_num(stacked).clamp(-10, 10)


@dataclass(frozen=True, eq=False)
class _Scene:
    """What all steps need: the measurement, the surface, and how a source's place is limited.

    `sensing` holds the rows of all H diag(c_l), [B,L·M,N].
    """

    snapshots: Tensor
    codes: Tensor
    channel: Tensor
    sensing: Tensor
    balanced: Tensor
    array: ArrayGeometry
    limits: tuple[Tensor, Tensor, Tensor]

    def select(self, rows: Tensor) -> _Scene:
        """Some of the scenes."""
        names = ("snapshots", "codes", "channel", "sensing", "balanced")
        return replace(self, **{name: getattr(self, name)[rows] for name in names})

    @property
    def price(self) -> float:
        """Of a source with a place and a power: ln L must rise by more."""
        return 2 * math.log(2 * self.snapshots.shape[1:].numel())

    def empty_fit(self) -> _Fit:
        """The fit without a source."""
        # The floor keeps snapshots that are all zero from becoming NaN.
        tiny = torch.finfo(self.array.elements.dtype).tiny
        level = (_power(self.snapshots) / self.snapshots.shape[1:].numel()).clamp_min(tiny)
        points, fields = level[:, None, None].expand(-1, 0, 3), self.snapshots.unsqueeze(-1)[..., :0]
        vectors, gain = self.codes[:, :0], points[..., 0]
        return _Fit(points, vectors, fields, self.snapshots, level, level, gain, points, points.sum(1))

    def fields(self, columns: Tensor) -> Tensor:
        """Received fields of columns [B,N,C], [B,L,M,C]."""
        if columns.shape[-1] < FEW:
            return received_fields(self.codes, self.channel, columns)
        return (self.sensing @ columns).unflatten(1, self.snapshots.shape[1:])

    def strongest(self, fit: _Fit, grid: Grid, places: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Strong places of what a fit leaves, [B,T,3], the one that raises the likelihood most first, and its rise."""
        surface = (self.balanced.mH @ fit.residual.mT) * self.codes.mT.conj()  # [B, N, L]
        chosen = power_on_grid(surface, grid).flatten(1).topk(min(count, len(places)), dim=-1).indices  # [B, T]
        azimuth, elevation, inverse_range = places[chosen].unbind(-1)
        fields = self.fields(self.array.steering(azimuth, elevation, 1 / inverse_range).mT)  # [B, L, M, T]
        _, fields = project(fit.fields, self._gain(fit.fields, fit.noise), fields)
        sigma2 = fit.noise[:, None, None]
        g = torch.view_as_real(fields).square().sum((-3, -1)) / sigma2  # [B, L, T]
        h = torch.view_as_real(fields.mH @ fit.residual.unsqueeze(-1)).square().sum((-2, -1)) / sigma2.square()
        rise, order = power_and_rise(g, h)[1].sort(dim=1, descending=True)  # [B, T]
        return places[chosen.gather(1, order)], rise[:, 0]

    def step(self, snapshots: Tensor, points: Tensor, noise: Tensor) -> Tensor:
        """Points after one damped Gauss–Newton step, [B,K,3], on the residual that the waveforms' means leave."""
        count, (low, high, largest_move) = points.shape[1], self.limits
        vectors, slopes = self.array.steering_and_phase_gradient(*points.unbind(-1))  # [B, K, N], [B, K, 3, N]
        # −j ∂φ a
        derivatives = torch.complex(slopes * vectors.imag.unsqueeze(-2), -slopes * vectors.real.unsqueeze(-2))
        received = self.fields(torch.cat([vectors, derivatives.flatten(1, 2)], dim=1).mT)  # [B, L, M, 4K]
        fields, others = received[..., :count], torch.cat([snapshots.unsqueeze(-1), received[..., count:]], dim=-1)
        waveforms, outside = project(fields, self._gain(fields, noise), others)  # [B, L, K, 1 + 3K], [B, L, M, 1 + 3K]
        across = outside[..., 1:] * waveforms[..., 0].repeat_interleave(3, dim=-1).unsqueeze(-2)
        jacobian, residual = across.flatten(1, 2), outside[..., :1].flatten(1, 2)  # [B, L·M, 3K], [B, L·M, 1]
        curvature, slope = (jacobian.mH @ jacobian).real, (jacobian.mH @ residual).real
        diagonal = curvature.diagonal(dim1=-2, dim2=-1)
        tiny = torch.finfo(diagonal.dtype).tiny
        loading = DAMPING * diagonal + 1e-6 * diagonal.mean(-1, keepdim=True) + tiny
        move = torch.linalg.solve_ex(curvature + torch.diag_embed(loading), slope)[0].reshape(points.shape)
        move = torch.nan_to_num(move, nan=0.0).clamp(-largest_move, largest_move)
        return (points + move).clamp(low, high)

    def fit(self, points: Tensor, level: Tensor) -> _Fit:
        """The fit with sources at given points [B,K,3], their waveforms by least squares; `level` is that of _Fit."""
        count, (length, antennas) = points.shape[1], self.snapshots.shape[1:]
        azimuth, elevation, inverse_range = points.unbind(-1)
        vectors = self.array.steering(azimuth, elevation, 1 / inverse_range)
        fields = self.fields(vectors.mT)
        gram = fields.mH @ fields  # [B, L, K, K]
        spread = gram.diagonal(dim1=-2, dim2=-1).real  # [B, L, K]
        eye = torch.eye(count, dtype=gram.dtype, device=gram.device)
        inverse = torch.linalg.inv_ex(gram + 1e-5 * spread.mean(-1)[..., None, None] * eye)[0]
        waveforms, residual = project(fields, inverse, self.snapshots.unsqueeze(-1))  # [B, L, K, 1]
        residual_power = torch.nan_to_num(_power(residual), nan=0.0) / (length * (antennas - count))
        noise = torch.minimum(torch.maximum(residual_power, NOISE_FLOOR * level), level)
        power = torch.view_as_real(waveforms.squeeze(-1)).square().sum(-1)  # [B, L, K]
        of_noise = noise[:, None, None] * inverse.diagonal(dim1=-2, dim2=-1).real
        own = torch.nan_to_num((power - of_noise).mean(1)).clamp(min=1e-4 * level[:, None])
        by_law = torch.stack([torch.ones_like(own), points[..., 2].square(), own], dim=-1)
        shares = by_law / by_law.sum(1, keepdim=True)
        value = self._log_likelihood(fields, gram, noise, shares * self.array.count)
        value = value + (length * antennas * (level.log() + 1)).unsqueeze(-1)
        residual = torch.nan_to_num(residual.squeeze(-1))
        value = torch.nan_to_num(value, nan=-1e4).clamp(min=-1e4)
        return _Fit(points, vectors, fields, residual, level, noise, spread.mean(1), shares, value)

    def _log_likelihood(self, fields: Tensor, gram: Tensor, noise: Tensor, power: Tensor) -> Tensor:
        """ln L by each law, [B,3]; `power` is [B,K,3]."""
        length, antennas = self.snapshots.shape[1:]
        sigma2 = noise[:, None, None, None]
        root = power.sqrt().mT.unsqueeze(1)  # [B, 1, 3, K]
        eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
        scaled = root.unsqueeze(-1) * gram.unsqueeze(2) * root.unsqueeze(-2) / sigma2.unsqueeze(-1) + eye  # [B,L,3,K,K]
        factor = torch.linalg.cholesky_ex(scaled)[0]
        volume = 2 * factor.diagonal(dim1=-2, dim2=-1).real.log().sum(-1)  # [B, L, 3]
        matched = root * (fields.mH @ self.snapshots.unsqueeze(-1)).mT / sigma2  # [B, L, 3, K]
        whitened = torch.linalg.solve_triangular(factor, matched.unsqueeze(-1), upper=False)
        explained = torch.view_as_real(whitened).square().sum((-3, -2, -1))  # [B, L, 3]
        of_noise_alone = _power(self.snapshots) / noise + length * antennas * noise.log()
        return (explained - volume).sum(1) - of_noise_alone.unsqueeze(-1)

    def _gain(self, fields: Tensor, noise: Tensor) -> Tensor:
        """(B^H B + σ²/p I)^(−1) for equal powers p = N/K, [B,L,K,K]."""
        count = fields.shape[-1]
        ridge = (noise * count / self.array.count)[:, None, None, None]
        eye = torch.eye(count, dtype=fields.dtype, device=fields.device)
        return torch.linalg.inv_ex(fields.mH @ fields + ridge * eye)[0]


def _paths(places: Tensor, array: ArrayGeometry, fits: list[tuple[Tensor, _Fit]], price: float) -> SourcePaths:
    """The fits of the scenes that have them, and for the others places alone, [B,K,3]."""
    scenes, most, _ = places.shape
    values = places.new_full((scenes, most, len(LAWS)), -math.inf)
    expected = places.new_tensor(list(LAWS.values())).log()
    for index, (rows, fit) in enumerate(fits):
        values[rows, index] = fit.log_likelihood - price * (index + 1) + expected
    # A scene without any fit has no probabilities.
    posterior = torch.log_softmax(values.flatten(1), dim=1).nan_to_num(NEVER).clamp(min=NEVER).reshape(values.shape)
    azimuth, elevation, inverse_range = places.unbind(-1)
    vectors = array.steering(azimuth, elevation, 1 / inverse_range)
    parts = []
    for index in range(most):
        count = index + 1
        own = (
            vectors[:, :count].clone(),
            places[:, :count].clone(),
            places.new_zeros(scenes, count, FEATURES),
            places.new_full((scenes, count, len(LAWS)), NEVER),
        )
        for rows, fit in fits[index:count]:
            weights = posterior[rows, index].unsqueeze(1) + fit.shares.clamp(min=1e-9).log()
            made = (fit.vectors, fit.points, fit.features(posterior[rows, index]), weights)
            for full, some in zip(own, made, strict=True):
                full[rows] = some
        parts.append(own)
    vectors, points, features, weights = (torch.cat(part, dim=1) for part in zip(*parts, strict=True))
    return SourcePaths(vectors.mT, points, features, weights)


def _power(values: Tensor) -> Tensor:
    """Sum of |x|² over all but the first dimension."""
    return torch.view_as_real(values).square().flatten(1).sum(-1)


def default_shape(config: SceneConfig) -> tuple[int, int, int]:
    """Grid points (P, Q, R) of the maps: about two a beam width in the angles, and up to five ranges."""
    rows, columns = config.ris_shape
    across = math.sin(config.azimuth[1]) - math.sin(config.azimuth[0])
    along = math.sin(config.elevation[1]) - math.sin(config.elevation[0])
    ranges = 1 if config.wavefront == "planar" or config.range[0] == config.range[1] else 5
    return max(2, round(columns * across)), max(2, round(rows * along)), ranges
