"""Unrolled matching pursuit: a fixed number of steps of the sparse fit, so that a whole batch is done at once.

The strongest source is taken from a map of beam power, moved off the grid by Gauss–Newton steps together with those
before it, and subtracted from the snapshots; then the next one. There is no test of convergence, and the number of
sources is not known: the result holds the positions of a fit with one source, of one with two, up to the most, and
features of each.

Waveforms are posterior means for s ~ CN(0, p): with the received fields B of the positions,
ŝ = (B^H B + σ²/p I)^(−1) B^H y. The noise power σ² is what the channel does not explain: as powers add up to N, an
antenna gets ‖H‖²/M of signal on average.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn

from rislab.data.covariance import beam_power
from rislab.data.geometry import ArrayGeometry
from rislab.data.scene_config import SceneConfig
from rislab.data.scenes import received_fields
from rislab.music.waveforms import project

# Smallest share of the snapshots' power that is taken for noise: 25 dB below it.
NOISE_FLOOR = 3e-3
# Share of its own diagonal that is added to the curvature.
DAMPING = 0.05
FEATURES = 9


@dataclass(frozen=True, eq=False)
class SourcePaths:
    """Candidate positions: those of a fit with one source, with two, …, with K; C = 1 + 2 + … + K in all.

    Args:
        factor: steering vectors towards the candidates, [B,N,C], complex.
        points: their azimuth and elevation in radians, and 1/r in 1/m, [B,C,3].
        features: of each candidate and its fit, [B,C,FEATURES], real, of the order of 1.
    """

    factor: Tensor
    points: Tensor
    features: Tensor


class Pursuit(nn.Module):
    """The unrolled fit; it has nothing to train.

    Args:
        config: of the scenes; gives surface, field of view, wavefront and the most sources.
        shape: grid points (P, Q, R) of the maps.
        single_steps: Gauss–Newton steps of a new source by itself.
        joint_steps: Gauss–Newton steps of all sources after them.
    """

    atoms: Tensor
    grid_points: Tensor
    elements: Tensor
    low: Tensor
    high: Tensor
    largest_move: Tensor

    def __init__(
        self, config: SceneConfig, shape: tuple[int, int, int], single_steps: int = 2, joint_steps: int = 1
    ) -> None:
        super().__init__()
        self.config, self.single_steps, self.joint_steps = config, single_steps, joint_steps
        self.most = min(config.sources[1], config.antennas - 1)
        grid = config.grid(shape, spacing="sine")
        azimuth, elevation, distance = (axis.double() for axis in grid.points())
        grid_points = torch.stack([azimuth, elevation, 1 / distance], dim=-1)
        ends = torch.tensor([config.azimuth, config.elevation, (1 / config.range[1], 1 / config.range[0])]).double()
        array = config.array(dtype=torch.float64)
        cells = (ends[:, 1] - ends[:, 0]) / (torch.tensor(shape) - 1).clamp(min=1)
        buffers = {
            # Real and imaginary parts apart: module.to(dtype) keeps both.
            "atoms": torch.view_as_real(grid.steering(torch.complex128)),  # [G, N, 2]
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
        atoms = torch.view_as_complex(self.atoms).to(snapshots.dtype)
        grid_points, low, high, largest_move = (
            value.to(real) for value in (self.grid_points, self.low, self.high, self.largest_move)
        )
        array = ArrayGeometry(self.elements.to(real), self.config.wavelength, self.config.wavefront)
        # The floor keeps snapshots that are all zero from becoming NaN.
        level = (_power(snapshots) / snapshots[0].numel()).clamp_min(torch.finfo(real).tiny)  # [B]
        noise = torch.maximum(level - _power(channel) / channel.shape[1], NOISE_FLOOR * level)
        scene = _Scene(snapshots, codes, channel, array, noise / self.config.elements)
        points = grid_points[:0].expand(len(snapshots), 0, 3)
        residual = snapshots
        parts: list[tuple[Tensor, Tensor, Tensor]] = []
        for count in range(1, self.most + 1):
            fields = (channel.mH @ residual.mT) * codes.mT.conj()  # [B, N, L]
            strongest = grid_points[beam_power(fields, atoms).argmax(dim=-1)].unsqueeze(1)  # [B, 1, 3]
            for _ in range(self.single_steps):
                strongest = scene.step(residual, strongest, low, high, largest_move)
            points = torch.cat([points, strongest], dim=1)
            for _ in range(self.joint_steps if count > 1 else 0):
                points = scene.step(snapshots, points, low, high, largest_move)
            vectors, features, residual = scene.explain(points, level)
            parts.append((vectors, points, features))
        factor, candidates, features = (torch.cat(part, dim=1) for part in zip(*parts, strict=True))
        return SourcePaths(factor.mT, candidates, features)

    @property
    def candidates(self) -> int:
        """C, the number of candidate positions of a scene."""
        return sum(range(1, self.most + 1))

    def levels(self) -> list[slice]:
        """Where the positions of the fit with one source, with two, … stand among the candidates."""
        ends = list(accumulate(range(1, self.most + 1)))
        return [slice(end - count, end) for count, end in enumerate(ends, start=1)]


@dataclass(frozen=True, eq=False)
class _Scene:
    """What all steps need: the measurement, the surface, and the noise σ²/N, [B]."""

    snapshots: Tensor
    codes: Tensor
    channel: Tensor
    array: ArrayGeometry
    noise: Tensor

    def step(self, snapshots: Tensor, points: Tensor, low: Tensor, high: Tensor, largest_move: Tensor) -> Tensor:
        """Points after one damped Gauss–Newton step, [B,K,3], on the residual that the waveforms' means leave."""
        count = points.shape[1]
        vectors, slopes = self.array.steering_and_phase_gradient(*points.unbind(-1))  # [B, K, N], [B, K, 3, N]
        derivatives = torch.complex(
            slopes * vectors.imag.unsqueeze(-2), -slopes * vectors.real.unsqueeze(-2)
        )  # −j ∂φ a
        columns = torch.cat([vectors, derivatives.flatten(1, 2)], dim=1).mT
        received = received_fields(self.codes, self.channel, columns)  # [B, L, M, 4K]
        fields, others = received[..., :count], torch.cat([snapshots.unsqueeze(-1), received[..., count:]], dim=-1)
        waveforms, outside = project(fields, self._gain(fields), others)  # [B, L, K, 1 + 3K], [B, L, M, 1 + 3K]
        across = outside[..., 1:] * waveforms[..., 0].repeat_interleave(3, dim=-1).unsqueeze(-2)
        jacobian, residual = across.flatten(1, 2), outside[..., :1].flatten(1, 2)  # [B, L·M, 3K], [B, L·M, 1]
        curvature, slope = (jacobian.mH @ jacobian).real, (jacobian.mH @ residual).real
        diagonal = curvature.diagonal(dim1=-2, dim2=-1)
        tiny = torch.finfo(diagonal.dtype).tiny
        loading = DAMPING * diagonal + 1e-6 * diagonal.mean(-1, keepdim=True) + tiny
        move = torch.linalg.solve_ex(curvature + torch.diag_embed(loading), slope)[0].reshape(points.shape)
        move = torch.nan_to_num(move, nan=0.0).clamp(-largest_move, largest_move)
        return (points + move).clamp(low, high)

    def explain(self, points: Tensor, level: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Steering vectors of points, [B,K,N], their features, [B,K,FEATURES], and the residual, [B,L,M]."""
        count = points.shape[1]
        azimuth, elevation, inverse = points.unbind(-1)
        vectors = self.array.steering(azimuth, elevation, 1 / inverse)
        fields = received_fields(self.codes, self.channel, vectors.mT)
        gain = self._gain(fields)
        waveforms, residual = project(fields, gain, self.snapshots.unsqueeze(-1))  # [B, L, K, 1], [B, L, M, 1]
        residual = residual.squeeze(-1)
        power = torch.view_as_real(waveforms.squeeze(-1)).square().sum(-1)  # [B, L, K]
        spread = gain.diagonal(dim1=-2, dim2=-1).real.clamp_min(torch.finfo(level.dtype).tiny)
        size = self.snapshots[0].numel()
        noise = self.noise.unsqueeze(-1)  # σ²/N
        elements, total = self.array.count, level.unsqueeze(-1)
        gain_of_fit = (power / spread).sum(1) / (noise * elements)  # lost without this source, in units of σ²
        unexplained = _power(residual).unsqueeze(-1) / size / total
        nearest = _nearest(vectors)
        of_fit = [unexplained.log(), (noise * elements / total).log(), torch.full_like(unexplained, count / 3)]
        of_each = [
            (power.mean(1) * count / elements + 1e-3).log(),
            torch.log1p(gain_of_fit) / 3,
            gain_of_fit / self.snapshots.shape[1] / 10,
            (spread.mean(1) / noise + 1e-3).log(),
            nearest,
            inverse,
        ]
        features = torch.stack([*of_each, *(value.expand_as(nearest) for value in of_fit)], dim=-1)
        return vectors, torch.nan_to_num(features).clamp(-10, 10), torch.nan_to_num(residual)

    def _gain(self, fields: Tensor) -> Tensor:
        """(B^H B + σ²/p I)^(−1) for equal powers p = N/K, [B,L,K,K]."""
        count = fields.shape[-1]
        ridge = (self.noise * count)[:, None, None, None]
        eye = torch.eye(count, dtype=fields.dtype, device=fields.device)
        return torch.linalg.inv_ex(fields.mH @ fields + ridge * eye)[0]


def _power(values: Tensor) -> Tensor:
    """Sum of |x|² over all but the first dimension."""
    return torch.view_as_real(values).square().flatten(1).sum(-1)


def _nearest(vectors: Tensor) -> Tensor:
    """Largest |a^H a'|² of each unit vector with another one, [B,K,N] to [B,K]; 0 for a single one."""
    products = torch.view_as_real(vectors.conj() @ vectors.mT).square().sum(-1)  # [B, K, K]
    return (products - torch.diag_embed(products.diagonal(dim1=-2, dim2=-1))).amax(-1)


def default_shape(config: SceneConfig) -> tuple[int, int, int]:
    """Grid points (P, Q, R) of the maps: about two a beam width in the angles, and up to five ranges."""
    rows, columns = config.ris_shape
    across = math.sin(config.azimuth[1]) - math.sin(config.azimuth[0])
    along = math.sin(config.elevation[1]) - math.sin(config.elevation[0])
    ranges = 1 if config.wavefront == "planar" or config.range[0] == config.range[1] else 5
    return max(2, round(columns * across)), max(2, round(rows * along)), ranges
