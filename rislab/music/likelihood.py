"""The likelihood of the measurement: polishing an estimate, and counting sources.

Two models of the waveforms, as in the bounds: "stochastic", s ~ CN(0, P) in noise σ² with P and σ² unknown,
−ln L = Σ_l ln det R_l + y_l^H R_l^(−1) y_l; and "deterministic", waveforms unknown, which leaves
RSS = Σ_l ‖y_l − B_l ŝ_l‖² to be minimised.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rislab.data.scenes import SceneBatch
from rislab.errors import InputError, check_choice, check_number
from rislab.music.crb import KINDS, stochastic_information
from rislab.music.estimate import Estimate
from rislab.music.levenberg_marquardt import levenberg_marquardt
from rislab.music.waveforms import least_squares_gain, mmse_gain, project

STEPS = 30
# Powers are searched from SMALLEST to LARGEST times the mean power of a snapshot entry: more than that only cancels.
SMALLEST, LARGEST = 1e-12, 1e2


@dataclass(frozen=True, eq=False)
class Parameters:
    """Unknowns of the likelihood.

    Args:
        points: azimuth, elevation and 1/r, [B,K,3]; in 1/r a near-field beam has constant width.
        power: [B,K]. noise_power: σ², [B]. active: [B,K], bool.
    """

    points: Tensor
    power: Tensor
    noise_power: Tensor
    active: Tensor

    def __getitem__(self, rows: Tensor) -> Parameters:
        return Parameters(self.points[rows], self.power[rows], self.noise_power[rows], self.active[rows])

    def take(self, rows: Tensor, other: Parameters) -> None:
        """Replace some scenes by those of another state, in place."""
        for name in ("points", "power", "noise_power", "active"):
            self.__dict__[name][rows] = other.__dict__[name]

    def estimate(self) -> Estimate:
        """As an Estimate, with ranges in metres."""
        azimuth, elevation, inverse = self.points.unbind(-1)
        return Estimate(azimuth, elevation, 1 / inverse, torch.where(self.active, self.power, 0), self.active)


def bounds_box(batch: SceneBatch) -> tuple[Tensor, Tensor]:
    """The field of view in the coordinates of State.points: smallest and largest, each [3]."""
    config = batch.config
    ends = (config.azimuth, config.elevation, (1 / config.range[1], 1 / config.range[0]))
    low, high = torch.tensor(ends, dtype=torch.float64).to(batch.azimuth).unbind(-1)
    return low, high


def stack_snapshots(batch: SceneBatch, columns: Tensor) -> Tensor:
    """Images of fields, [B,L,M,C]; with constant symbols all snapshots are one long measurement, [B,1,L·M,C]."""
    images = batch.received_fields(columns)
    return images.flatten(1, 2).unsqueeze(1) if batch.config.symbols == "constant" else images


def stacked_snapshots(batch: SceneBatch) -> Tensor:
    """Snapshots as stack_snapshots() shapes them, [B,L,M,1] or [B,1,L·M,1]."""
    snapshots = batch.snapshots.unsqueeze(-1)
    return snapshots.flatten(1, 2).unsqueeze(1) if batch.config.symbols == "constant" else snapshots


def images_of(batch: SceneBatch, points: Tensor, active: Tensor) -> Tensor:
    """B, images of the steering vectors towards points [B,K,3] as stack_snapshots() shapes them; inactive columns are 0."""
    azimuth, elevation, inverse = points.unbind(-1)
    array = batch.config.array(dtype=points.dtype, device=points.device)
    return stack_snapshots(batch, (array.steering(azimuth, elevation, 1 / inverse) * active.unsqueeze(-1)).mT)


def rss(batch: SceneBatch, estimate: Estimate) -> Tensor:
    """Energy that an estimate leaves of the snapshots with its best waveforms, [B]."""
    points = _points(estimate).to(batch.azimuth)
    return _least_squares(batch, points, estimate.active)[1]


def polish(batch: SceneBatch, estimate: Estimate, *, kind: str | None = None, steps: int = STEPS) -> Estimate:
    """Maximum-likelihood positions by damped Fisher scoring on the measurement, started from an estimate.

    All positions at once, within the field of view of the scene configuration.

    Args:
        batch: scenes. estimate: where to start; inactive slots stay so.
        kind: model of the waveforms, "deterministic" or "stochastic"; by default the latter where symbols vary.
        steps: most steps, ≥ 0.

    Returns:
        Estimate in the precision of the batch; powers are those of the model, or the mean |ŝ|².

    Raises:
        InputError: if the numbers of scenes differ, an active estimate is not finite or outside the field of view, or
            a scene has as many estimates as antennas.

    Source:
        P. Stoica and A. Nehorai, Performance study of conditional and unconditional direction-of-arrival estimation,
        IEEE Trans. ASSP 38(10), 1990.
    """
    check_number("steps", steps, 0, 100_000, integer=True)
    kind = kind or ("stochastic" if batch.config.symbols == "varying" else "deterministic")
    check_choice("kind", kind, KINDS)
    _check_estimate(batch, estimate)
    low, high = bounds_box(batch)
    points = torch.where(estimate.active.unsqueeze(-1), _points(estimate).to(low), (low + high) / 2).clamp(low, high)
    if kind == "stochastic":
        return fisher_scoring(batch, _begin(batch, points, estimate.active), steps)[0].estimate()
    slots = points.shape[1]
    ended = levenberg_marquardt(
        lambda flat, rows: _deterministic(batch[rows], flat.unflatten(-1, (slots, 3)), estimate.active[rows]),
        points.flatten(1),
        low.repeat(slots),
        high.repeat(slots),
        tolerance=_tolerance(points),
        rounding=torch.finfo(low.dtype).eps,
        enough=torch.finfo(low.dtype).eps,
        steps=steps,
    )
    return _begin(batch, ended.point.unflatten(-1, (slots, 3)), estimate.active).estimate()


def fisher_scoring(batch: SceneBatch, state: Parameters, steps: int) -> tuple[Parameters, Tensor]:
    """Damped Fisher scoring of the stochastic likelihood: the state it ends in, and −ln L there, [B]."""
    low, high = bounds_box(batch)
    slots = state.points.shape[1]
    level = torch.view_as_real(batch.snapshots).square().sum(-1).mean(dim=(1, 2)).unsqueeze(-1)  # [B, 1]
    quiet = level * torch.finfo(level.dtype).eps
    floor = torch.cat([(SMALLEST * level).expand(-1, slots), quiet], dim=-1).log()
    ceiling = (LARGEST * level).log().expand(-1, slots + 1)
    powers = torch.cat([state.power, state.noise_power.unsqueeze(-1)], dim=-1).log()
    start = torch.cat([state.points.flatten(1), powers], dim=-1)
    edges = [
        torch.cat([end.repeat(len(level), slots), logarithms], dim=-1)
        for end, logarithms in ((low, floor), (high, ceiling))
    ]

    def unpacked(flat: Tensor, active: Tensor) -> Parameters:
        power = flat[:, 3 * slots : -1].exp() * active
        return Parameters(flat[:, : 3 * slots].unflatten(-1, (slots, 3)), power, flat[:, -1].exp(), active)

    ended = levenberg_marquardt(
        lambda flat, rows: _stochastic(batch[rows], unpacked(flat, state.active[rows])),
        start.clamp(*edges),
        *edges,
        tolerance=_tolerance(start),
        rounding=torch.finfo(low.dtype).eps,
        enough=torch.finfo(low.dtype).eps,
        steps=steps,
    )
    return unpacked(ended.point, state.active), ended.value


def _begin(batch: SceneBatch, points: Tensor, active: Tensor) -> Parameters:
    """Points with the powers mean |ŝ|² and the noise power that least squares gives them."""
    waveforms, left = _least_squares(batch, points, active)
    power = torch.view_as_real(waveforms.squeeze(-1)).square().sum(-1).mean(1)
    size = batch.snapshots[0].numel()
    unknown = active.sum(-1) * waveforms.shape[1]
    return Parameters(points, torch.where(active, power, 0), left / (size - unknown).clamp(min=1), active)


def _least_squares(batch: SceneBatch, points: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
    """Waveforms [B,L,K,1] that fit the snapshots best, and the RSS, [B]."""
    images = images_of(batch, points, active)
    waveforms, residual = project(images, least_squares_gain(images, active.unsqueeze(1)), stacked_snapshots(batch))
    return waveforms, torch.view_as_real(residual).square().sum(dim=(1, 2, 3, 4))


def _slopes(batch: SceneBatch, points: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
    """Images of steering vectors [B,L,M,K] and of their derivatives by azimuth, elevation and 1/r, [B,L,M,3K]."""
    azimuth, elevation, inverse = points.unbind(-1)
    array = batch.config.array(dtype=points.dtype, device=points.device)
    vectors, phases = array.steering_and_phase_gradient(azimuth, elevation, inverse)  # [B, K, N], [B, K, 3, N]
    vectors = vectors * active.unsqueeze(-1)
    slopes = -1j * phases * vectors.unsqueeze(-2)
    images = stack_snapshots(batch, torch.cat([vectors, slopes.flatten(1, 2)], dim=1).mT)
    return images[..., : points.shape[1]], images[..., points.shape[1] :]


def _deterministic(batch: SceneBatch, points: Tensor, active: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """RSS [B]; gradient −2 Σ_l Re{ŝ* d^H r}; curvature 2 Σ_l Re{ŝ* ŝ' d^H Π d'}."""
    images, slopes = _slopes(batch, points, active)
    gain = least_squares_gain(images, active.unsqueeze(1))
    turned, left = project(images, gain, torch.cat([stacked_snapshots(batch), slopes], dim=-1))
    residual, across = left[..., :1], left[..., 1:]  # r and Π d
    weighted = across * turned[..., 0].repeat_interleave(3, dim=-1).unsqueeze(-2)  # Π d ŝ
    gradient = -2 * (weighted.conj() * residual).real.sum(dim=(1, 2))
    stacked = weighted.flatten(1, 2)  # [B, L·M, 3K]
    curvature = 2 * (stacked.mH @ stacked).real
    return torch.view_as_real(residual).square().sum(dim=(1, 2, 3, 4)), gradient, curvature


def _stochastic(batch: SceneBatch, state: Parameters) -> tuple[Tensor, Tensor, Tensor]:
    """−ln L [B], its gradient by points, logarithmic powers and noise power, and the Fisher information.

    With T, ŝ = T B^H y and r = y − B ŝ of waveforms.mmse_gain(), the gradient is
    2 Re Σ_l (T B^H d)_k − ŝ_k r^H d/σ² by a place, Σ_l (T B^H B)_kk − ŝ_k* b_k^H r/σ² by ln p_k, and
    Σ_l M − tr(T B^H B) − ‖r‖²/σ² by ln σ².
    """
    images, slopes = _slopes(batch, state.points, state.active)
    slots, antennas = images.shape[-1], images.shape[-2]
    sigma2 = state.noise_power[:, None]  # [B, 1]
    gain = mmse_gain(images, state.power[:, None, :], sigma2)
    turned, left = project(images, gain, torch.cat([stacked_snapshots(batch), images, slopes], dim=-1))
    waveforms, residual = turned[..., 0], left[..., :1]  # ŝ [B, L, K] and r [B, L, M, 1]
    owner = torch.arange(slots, device=images.device).repeat_interleave(3)
    own = turned[..., 1 + slots :][..., owner, :].diagonal(dim1=-2, dim2=-1)  # (T B^H d)_k, [B, L, 3K]
    pulled = (residual.mH @ slopes).squeeze(-2) / sigma2.unsqueeze(-1)  # r^H d / σ²
    by_place = 2 * (own - waveforms[..., owner] * pulled).real.sum(1)
    shared = turned[..., 1 : 1 + slots].diagonal(dim1=-2, dim2=-1).real  # (T B^H B)_kk, [B, L, K]
    answer = (images.mH @ residual).squeeze(-1) / sigma2.unsqueeze(-1)  # B^H R⁻¹ y
    by_power = (shared - (waveforms.conj() * answer).real).sum(1)
    left_over = (stacked_snapshots(batch).conj() * residual).real.sum((-2, -1)) / sigma2  # y^H R⁻¹ y, [B, L]
    energy = torch.view_as_real(residual).square().sum((-3, -2, -1)) / sigma2
    by_noise = (antennas - shared.sum(-1) - energy).sum(1, keepdim=True)
    scaled = images * state.power.sqrt()[:, None, None, :]
    eye = torch.eye(slots, dtype=images.dtype, device=images.device)
    volume = torch.linalg.slogdet(scaled.mH @ scaled / sigma2[..., None, None] + eye).logabsdet  # [B, L]
    value = (antennas * sigma2.log() + volume + left_over).sum(1)
    information = stochastic_information(images, slopes, state.power, state.noise_power)
    return value, torch.cat([by_place, by_power, by_noise], dim=-1), information


def _points(estimate: Estimate) -> Tensor:
    return torch.stack([estimate.azimuth, estimate.elevation, 1 / estimate.range], dim=-1)


def _tolerance(like: Tensor) -> float:
    return 1e-2 * math.sqrt(torch.finfo(like.dtype).eps)


def _check_estimate(batch: SceneBatch, estimate: Estimate) -> None:
    if len(estimate) != len(batch):
        raise InputError(f"estimate has {len(estimate)} scenes, and the batch {len(batch)}; allowed: as many")
    estimate.check_finite()
    crowded = int(estimate.active.sum(-1).max())
    room = batch.config.antennas * (batch.config.snapshots if batch.config.symbols == "constant" else 1)
    if crowded >= room:
        raise InputError(f"a scene has {crowded} estimates; allowed: fewer than {room}, the antennas that see them")
    for name in ("azimuth", "elevation", "range"):
        low, high = getattr(batch.config, name)
        values = getattr(estimate, name)[estimate.active].double()
        slack = 1e-6 * max(abs(low), abs(high))  # positions pass through float32
        outside = (values < low - slack) | (values > high + slack)
        if bool(outside.any()):
            value = float(values[outside][0])
            raise InputError(f"{name} of an estimate is {value:g}; allowed: [{low:g}, {high:g}], the field of view")
