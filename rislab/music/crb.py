"""Cramér–Rao bounds on azimuth, elevation and range, and the position error bound.

Measurement y_l = G_l A s_l + n_l with G_l = H diag(c_l); nuisance parameters are the waveforms ("deterministic") or the
powers and the noise power ("stochastic") [1], with an array that changes from snapshot to snapshot [2].

References:
    [1] P. Stoica, A. Nehorai, Performance study of conditional and unconditional direction-of-arrival estimation, IEEE
        Trans. ASSP 38(10), 1990.
    [2] A. Zeira, B. Friedlander, Signal Processing, 1995, doi 10.1016/0165-1684(94)00149-T.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from rislab.data.geometry import ArrayGeometry, position_jacobian
from rislab.data.measurement import Measured, check_measured, unknown_axes
from rislab.data.scenes import SceneBatch
from rislab.errors import InputError, check_choice
from rislab.music.estimate import Estimate, check_estimate
from rislab.music.waveforms import least_squares_gain, mmse_gain, project

KINDS = ("deterministic", "stochastic")
# Below this reciprocal condition the information matrix, scaled to unit diagonal, counts as singular.
SINGULAR = 1e-12


@dataclass(frozen=True, eq=False)
class Bound:
    """Smallest standard deviations that an unbiased estimator can have.

    Infinity stands where nothing can be known: for inactive slots, for the range of a plane wave, and for all sources
    of a scene whose information matrix is singular. There a block has infinity on its diagonal and NaN beside it. An
    axis whose field of view is one value is known: 0.

    Args:
        azimuth: [B,K], float64, radians.
        elevation: [B,K], float64, radians.
        range: [B,K], float64, metres.
        position: [B,K], float64, metres; position error bound √tr(T C Tᵀ) with T = ∂p/∂(φ, θ, r).
        blocks: C, [B,K,3,3], float64; covariance of azimuth, elevation and range of each source.
    """

    azimuth: Tensor
    elevation: Tensor
    range: Tensor
    position: Tensor
    blocks: Tensor


@dataclass(frozen=True, eq=False)
class _Sources(Estimate):
    """The sources at which a bound is taken, with their waveforms and the noise; see SceneBatch for the fields."""

    symbols: Tensor
    noise_power: Tensor


def crb(batch: Measured, *, kind: str = "deterministic", estimate: Estimate | None = None) -> Bound:
    """Cramér–Rao bound of every source of every scene, given its waveforms, codes, channel and noise power.

    Args:
        batch: B scenes, or measurements with an estimate; impairments are not known to the bound, which is that of the
            nominal model.
        kind: "deterministic" (waveforms unknown; constant symbols share one waveform vector over all snapshots) or
            "stochastic" (s ~ CN(0, P) in each snapshot, with unknown diagonal P and noise power).
        estimate: [B,K]; where the bound is taken, with the waveforms or powers that fit best there, and the noise that
            they leave if none is given; the truth of the scenes if None.

    Returns:
        Bound, computed in float64.

    Raises:
        InputError: for an unknown kind, as many sources as antennas where each snapshot has its own waveforms, or a
            measurement without an estimate.

    Example:
        >>> from rislab.data.scene_config import SceneConfig
        >>> from rislab.data.simulation import place
        >>> low, high = (place(SceneConfig.preset("full", snr_db=snr), [0.1], [0.0], [3.0], seed=0) for snr in (0, 20))
        >>> round(float(crb(low).azimuth / crb(high).azimuth), 3)  # 20 dB more: a tenth
        10.0
    """
    check_choice("kind", kind, KINDS)
    check_measured(batch)
    batch = batch.to(dtype=torch.float64)
    array = batch.config.array(dtype=torch.float64, device=batch.snapshots.device)
    if estimate is not None:
        sources = _sources_at(batch, estimate, array)
    elif isinstance(batch, SceneBatch):
        sources = _Sources(*(getattr(batch, field.name) for field in dataclasses.fields(_Sources)))
    else:
        raise InputError("estimate is None; allowed: an Estimate, since a measurement has no truth")
    most = int(sources.active.sum(-1).max())
    antennas = batch.config.antennas
    if kind == "deterministic" and batch.config.symbols != "constant" and most >= antennas:
        raise InputError(f"a scene has {most} sources at {antennas} antennas; allowed: fewer sources than antennas")
    slopes = array.derivatives(sources.azimuth, sources.elevation, sources.range)  # [B, K, 3, N]
    unknown = torch.tensor(unknown_axes(batch.config), device=slopes.device)
    slopes = slopes * (sources.active.unsqueeze(-1) & unknown).unsqueeze(-1)
    fields = batch.received_fields(sources.steering(array))  # B_l, [B, L, M, K]
    columns = slopes.flatten(1, 2).mT  # [B, N, 3K]: azimuth, elevation and range of the first source, then the next
    received_slopes = batch.received_fields(columns)  # d_l, [B, L, M, 3K]
    if kind == "deterministic":
        constant = batch.config.symbols == "constant"
        information = _deterministic_information(sources, fields, received_slopes, constant)
    else:
        information = _reduced_information(sources, fields, received_slopes)
    known_axes = ~unknown
    known_axes[2] &= batch.config.wavefront != "planar"
    return _bound(information, sources, known_axes)


def _sources_at(batch: Measured, estimate: Estimate, array: ArrayGeometry) -> _Sources:
    """An estimate with the waveforms that explain the snapshots best there, and the noise that they leave."""
    check_estimate(estimate, len(batch))
    places = [axis.double() for axis in (estimate.azimuth, estimate.elevation, estimate.range)]
    active = estimate.active
    # What an inactive slot holds is never used, and must not be NaN.
    azimuth, elevation, range_ = (torch.where(active, axis, 1.0) for axis in places)
    fields = batch.received_fields(estimate.steering(array))  # [B, L, M, K]
    constant = batch.config.symbols == "constant"
    stacked = fields.flatten(1, 2).unsqueeze(1) if constant else fields
    snapshots = batch.snapshots.reshape(*stacked.shape[:3], 1)
    gain = least_squares_gain(stacked, active.unsqueeze(1))
    waveforms, residual = project(stacked, gain, snapshots)
    energy, noise = residual.abs().square().sum((1, 2, 3)), batch.noise_power
    free = snapshots[0].numel() - active.sum(-1) * waveforms.shape[1]  # [B]
    received = fields.abs().square().mean((1, 2))  # mean |b|², [B, K]
    if bool((free > 0).all()):
        noise = energy / free if noise is None else noise
        # E|ŝ|² = p + σ² (B^H B)⁻¹
        spread = gain.diagonal(dim1=-2, dim2=-1).real.mean(1) * noise.unsqueeze(-1)
        power = (waveforms.abs().square().mean((1, 3)) - spread).clamp(min=0)
    else:
        # Waveforms that fit every snapshot exactly say nothing of power and noise.
        power = torch.where(active, estimate.power.double(), 0)
        level = snapshots.abs().square().mean((1, 2, 3))
        left = level - (power * received).sum(-1)
        noise = torch.maximum(left, torch.finfo(level.dtype).eps * level) if noise is None else noise
    smallest = 1e-6 * noise.unsqueeze(-1) / received.clamp(min=torch.finfo(received.dtype).tiny)
    power = torch.where(active, torch.maximum(power, smallest), 0)
    symbols = waveforms.squeeze(-1).expand(-1, batch.config.snapshots, -1)
    return _Sources(azimuth, elevation, range_, power, active, symbols, noise)


def _deterministic_information(sources: _Sources, fields: Tensor, slopes: Tensor, constant: bool) -> Tensor:
    """J = (2/σ²) Σ_l Re{ s*_{l,k} s_{l,k'} d_{l,kp}^H Π_l d_{l,k'p'} } with Π_l = I − B_l B_l^+, [B, 3K, 3K]."""
    waveforms = sources.symbols  # [B, L, K]
    if constant:
        # One waveform vector for all snapshots: they are one long measurement.
        fields, slopes = fields.flatten(1, 2).unsqueeze(1), slopes.flatten(1, 2).unsqueeze(1)
        waveforms = waveforms[:, :1]
    gram = fields.mH @ fields + torch.diag_embed((~sources.active).to(fields.dtype)).unsqueeze(1)  # [B, L, K, K]
    gram, distinct = _regular(gram)
    outside = slopes - fields @ torch.linalg.solve(gram, fields.mH @ slopes)  # Π d, [B, L, M, 3K]
    weights = waveforms.repeat_interleave(3, dim=-1)  # [B, L, 3K]
    weighted = outside * weights.unsqueeze(-2)
    information = 2 * (weighted.mH @ weighted).real.sum(dim=1) / sources.noise_power[:, None, None]
    return information * distinct.all(dim=1)[:, None, None]


def _reduced_information(sources: _Sources, fields: Tensor, slopes: Tensor) -> Tensor:
    """stochastic_information() with powers and noise power eliminated by a Schur complement, [B, 3K, 3K]."""
    information = stochastic_information(fields, slopes, sources.power, sources.noise_power)
    size = slopes.shape[-1]
    inactive = torch.nn.functional.pad(~sources.active, (0, 1))
    nuisance, distinct = _regular(information[:, size:, size:] + torch.diag_embed(inactive.to(information.dtype)))
    crossed = information[:, :size, size:]
    reduced = information[:, :size, :size] - crossed @ torch.linalg.solve(nuisance, crossed.mT)
    return reduced * distinct[:, None, None]


def stochastic_information(fields: Tensor, slopes: Tensor, power: Tensor, noise_power: Tensor) -> Tensor:
    """J_ij = Σ_l tr(R_l⁻¹ ∂_iR_l R_l⁻¹ ∂_jR_l) of places, logarithmic powers and logarithmic noise power.

    Every ∂R_l is p (d b^H + b d^H), p b b^H or σ² I. With T of waveforms.mmse_gain(), P B^H R⁻¹ = T B^H and
    R⁻¹ = (I − B T B^H)/σ², so that all traces are products of entries of K×K and K×3K matrices.

    Args:
        fields: B_l, [B,L,M,K], complex; received fields of the steering vectors.
        slopes: d_l, [B,L,M,3K], complex; their derivatives by the places, those of the first source first.
        power: p, [B,K], real, ≥ 0; 0 for inactive slots.
        noise_power: σ², [B], real, > 0.

    Returns:
        [B,4K+1,4K+1], real; rows of inactive slots are 0.
    """
    slots, antennas = fields.shape[-1], fields.shape[-2]
    gain = mmse_gain(fields, power[:, None, :], noise_power[:, None])
    fitted, residuals = project(fields, gain, torch.cat([fields, slopes], dim=-1))
    shared, crossed = fitted[..., :slots], fitted[..., slots:]  # P B^H R⁻¹ times B and D, [B, L, K, K], [B, L, K, 3K]
    owner = torch.arange(slots, device=fields.device).repeat_interleave(3)  # the source of each of the 3K parameters
    spread = shared * power[:, None, None, :]  # P B^H R⁻¹ B P
    outside = slopes.mH @ residuals[..., slots:] / noise_power[:, None, None, None]  # D^H R⁻¹ D
    mixed = crossed[..., owner, :]
    places = 2 * (mixed * mixed.mT + spread[..., owner, :][..., owner] * outside.mT).real  # [B, L, 3K, 3K]
    by_power = 2 * (shared[..., owner, :] * crossed.mT).real  # [B, L, 3K, K]
    powers = (shared * shared.mT).real
    # σ² P B^H R⁻² V = T B^H (what is residuals of V)
    damped = gain @ (fields.mH @ residuals)  # [B, L, K, 4K]
    by_noise = 2 * damped[..., slots:][..., owner, :].diagonal(dim1=-2, dim2=-1).real.unsqueeze(-1)  # [B, L, 3K, 1]
    power_noise = damped[..., :slots].diagonal(dim1=-2, dim2=-1).real.unsqueeze(-1)  # [B, L, K, 1]
    trace = shared.diagonal(dim1=-2, dim2=-1).real.sum(-1)
    noises = (antennas - 2 * trace + powers.sum((-2, -1)))[..., None, None]  # σ⁴ tr R⁻²
    rows = [[places, by_power, by_noise], [by_power.mT, powers, power_noise], [by_noise.mT, power_noise.mT, noises]]
    return torch.cat([torch.cat(row, dim=-1) for row in rows], dim=-2).sum(dim=1)


def _regular(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Hermitian matrices [..., P, P] with singular ones replaced by the identity, and which were regular, [...]."""
    scale = matrix.diagonal(dim1=-2, dim2=-1).real.rsqrt()
    scaled = scale.unsqueeze(-1) * matrix * scale.unsqueeze(-2)
    regular = torch.linalg.eigvalsh(scaled)[..., 0] >= SINGULAR
    return torch.where(regular[..., None, None], matrix, torch.eye(matrix.shape[-1]).to(matrix)), regular


def _bound(information: Tensor, sources: _Sources, known_axes: Tensor) -> Bound:
    """Standard deviations from an information matrix [B, 3K, 3K]; its rows of known and of unknowable axes are 0."""
    diagonal = information.diagonal(dim1=-2, dim2=-1)
    informed = diagonal > 0  # [B, 3K]
    scale = torch.where(informed, diagonal, 1.0).rsqrt()
    scaled = scale.unsqueeze(-1) * information * scale.unsqueeze(-2)
    scaled = scaled + torch.diag_embed((~informed).to(information.dtype))
    safe, regular = _regular(scaled)
    inverse = scale.unsqueeze(-1) * torch.linalg.inv(safe) * scale.unsqueeze(-2)
    scenes, slots = sources.active.shape
    # The 3×3 blocks of each source on the diagonal, [B, K, 3, 3].
    blocks = inverse.reshape(scenes, slots, 3, slots, 3).diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2)
    known = known_axes & sources.active.unsqueeze(-1)  # [B, K, 3]
    blocks = blocks * ~(known.unsqueeze(-1) | known.unsqueeze(-2))
    unknowable = (~regular[:, None, None] | ~informed.reshape(scenes, slots, 3)) & ~known
    deviations = torch.where(unknowable, torch.inf, blocks.diagonal(dim1=-2, dim2=-1).sqrt())
    jacobian = position_jacobian(sources.azimuth, sources.elevation, sources.range)  # T_k
    spread = (jacobian @ blocks @ jacobian.mT).diagonal(dim1=-2, dim2=-1).sum(-1).sqrt()
    position = torch.where(unknowable.any(-1), torch.inf, spread)
    beside = unknowable.unsqueeze(-1) | unknowable.unsqueeze(-2)
    variances = deviations.square()
    blocks = torch.where(beside, torch.nan, blocks).diagonal_scatter(variances, dim1=-2, dim2=-1)
    return Bound(deviations[..., 0], deviations[..., 1], deviations[..., 2], position, blocks)
