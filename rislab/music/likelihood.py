"""The likelihood of the measurement, and polishing: from an estimate to the nearest maximum of the likelihood.

Snapshot l is y_l = B_l s_l + n_l, B_l = H diag(c_l) A the received fields of the steering vectors. Two models of the
waveforms s_l, as in the bounds of music.crb:

    stochastic      s ~ CN(0, P), noise σ²; P and σ² unknown     −ln L = Σ_l ln det R_l + y_l^H R_l^(−1) y_l
    deterministic   waveforms unknown                            RSS = Σ_l ‖y_l − B_l ŝ_l‖²

with R_l = B_l P B_l^H + σ² I. Both are minimised over the places of all sources at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rislab.data.measurement import Measured, Measurement, check_measured, unknown_axes
from rislab.data.scenes import received_fields
from rislab.errors import InputError, check_choice, check_number
from rislab.music.crb import KINDS, stochastic_information
from rislab.music.estimate import Estimate, check_estimate
from rislab.music.levenberg_marquardt import Minimum, Model, levenberg_marquardt
from rislab.music.waveforms import least_squares_gain, mmse_gain, project

STEPS = 30
FULL_CIRCLE = 1e-6
# Powers are searched from SMALLEST to LARGEST times the power of a single source that explains the mean power of the
# snapshots. Sources stronger than that cancel each other.
SMALLEST, LARGEST = 1e-12, 1e2


@dataclass(frozen=True, eq=False)
class Parameters:
    """Unknowns of the stochastic likelihood."""

    # [B,K,3], real; azimuth and elevation in radians, and 1/r in 1/m: in 1/r a near-field beam has constant width
    points: Tensor
    power: Tensor  # p, [B,K], real, ≥ 0
    noise_power: Tensor  # σ², [B], real, > 0
    active: Tensor  # [B,K], bool

    def __getitem__(self, rows: Tensor) -> Parameters:
        return Parameters(self.points[rows], self.power[rows], self.noise_power[rows], self.active[rows])

    def leading(self, slots: int) -> Parameters:
        """Views of the first slots alone."""
        return Parameters(self.points[:, :slots], self.power[:, :slots], self.noise_power, self.active[:, :slots])

    def replace_rows(self, rows: Tensor, other: Parameters) -> None:
        """Overwrite some scenes by those of other parameters, in place."""
        for name in ("points", "power", "noise_power", "active"):
            self.__dict__[name][rows] = other.__dict__[name]

    def estimate(self) -> Estimate:
        """The sources as an Estimate, with ranges in metres; inactive powers are 0."""
        azimuth, elevation, inverse = self.points.unbind(-1)
        turned = torch.remainder(azimuth + math.pi, 2 * math.pi) - math.pi
        azimuth = torch.where(azimuth.abs() > math.pi, turned, azimuth)
        return Estimate(azimuth, elevation, 1 / inverse, torch.where(self.active, self.power, 0), self.active)


def bounds_box(batch: Measured) -> tuple[Tensor, Tensor]:
    """The field of view in the coordinates of Parameters.points: smallest and largest, each [3]."""
    config = batch.config
    ends = (config.azimuth, config.elevation, (1 / config.range[1], 1 / config.range[0]))
    low, high = torch.tensor(ends, dtype=torch.float64).to(batch.snapshots.real).unbind(-1)
    if float(high[0] - low[0]) > 2 * math.pi - FULL_CIRCLE:
        # A full circle has no edge at which a search could stop.
        widen = torch.tensor([1.0, 0.0, 0.0]).to(low)
        return low - widen, high + widen
    return low, high


def most_sources(batch: Measured) -> int:
    """Largest number of sources whose unknowns are not more than the real numbers that were measured.

    A source has its unknown axes and, for each waveform sample, two numbers. A single antenna cannot fit waveforms of
    its own to every snapshot; there the powers are fitted to |y_l|², of which each code gives one.
    """
    config = batch.config
    length, antennas, axes = config.snapshots, config.antennas, sum(unknown_axes(config))
    if config.symbols == "constant":
        return min(2 * length * antennas // (axes + 2), length * antennas - 1)
    if antennas == 1:
        distinct = min(len(torch.unique(torch.view_as_real(codes), dim=0)) for codes in batch.codes)
        return (distinct - 1) // (axes + 1)
    return min(2 * length * antennas // (axes + 2 * length), antennas - 1)


def check_identifiable(batch: Measured, sources: int) -> None:
    """Raise InputError if there are more sources than most_sources() of the batch."""
    most = most_sources(batch)
    if sources <= most:
        return
    config = batch.config
    sizes = f"{config.snapshots} snapshots of {config.antennas} antennas"
    if most < 1:
        raise InputError(
            f"snapshots is {config.snapshots}; allowed: more, since {sizes} hold fewer numbers than one source has "
            "unknowns"
        )
    raise InputError(f"sources is {sources}; allowed: a whole number in [1, {most}], as many as {sizes} tell apart")


def select_scenes(batch: Measured, rows: Tensor) -> Measured:
    """The scenes of numbers [S] in rising order, without a copy if these are all."""
    return batch if len(rows) == len(batch) else batch[rows]


def stacked_fields(batch: Measured, columns: Tensor) -> Tensor:
    """Received fields [B,L,M,C] of fields on the surface, [B,N,C].

    With constant symbols all snapshots are one long measurement, [B,1,L·M,C].
    """
    fields = batch.received_fields(columns)
    return fields.flatten(1, 2).unsqueeze(1) if batch.config.symbols == "constant" else fields


def stacked_snapshots(batch: Measured) -> Tensor:
    """Snapshots in the shape of stacked_fields(), [B,L,M,1] or [B,1,L·M,1]."""
    snapshots = batch.snapshots.unsqueeze(-1)
    return snapshots.flatten(1, 2).unsqueeze(1) if batch.config.symbols == "constant" else snapshots


def stacked_steering(batch: Measured, points: Tensor, active: Tensor) -> Tensor:
    """B, the received fields of the steering vectors towards points [B,K,3], in the shape of stacked_fields().

    Columns of slots that are not `active`, [B,K], are 0.
    """
    azimuth, elevation, inverse = points.unbind(-1)
    array = batch.config.array(dtype=points.dtype, device=points.device)
    return stacked_fields(batch, (array.steering(azimuth, elevation, 1 / inverse) * active.unsqueeze(-1)).mT)


def rss(batch: Measured, estimate: Estimate) -> Tensor:
    """Energy that an estimate with its best waveforms leaves of the snapshots, [B], real."""
    return _least_squares(batch, points_of(estimate).to(batch.snapshots.real), estimate.active)[1]


def degrees_of_freedom(batch: Measured, active: Tensor) -> Tensor:
    """Complex numbers in the snapshots less those in the waveforms of the active [B,K] sources, [B]."""
    waveforms = 1 if batch.config.symbols == "constant" else batch.config.snapshots
    return batch.snapshots[0].numel() - active.sum(-1) * waveforms


def best_fit(batch: Measured, estimate: Estimate) -> tuple[Tensor, Tensor]:
    """B ŝ of an estimate with its best waveforms, and what that leaves of the snapshots, [B,L,M] each."""
    points = points_of(estimate).to(batch.snapshots.real)
    waveforms, _ = _least_squares(batch, points, estimate.active)
    fitted = (stacked_steering(batch, points, estimate.active) @ waveforms).reshape(batch.snapshots.shape)
    return fitted, batch.snapshots - fitted


def polish(batch: Measured, estimate: Estimate, *, kind: str | None = None, steps: int = STEPS) -> Estimate:
    """Maximum-likelihood positions, started from an estimate, within the field of view of the scene configuration.

    Damped Fisher scoring moves all sources at once; at high SNR it reaches the Cramér–Rao bound [1].

    Args:
        batch: B scenes.
        estimate: [B,K]; where to start. Inactive slots stay inactive.
        kind: model of the waveforms, "deterministic" or "stochastic"; by default the latter where symbols vary.
        steps: most steps, ≥ 0.

    Returns:
        Estimate [B,K] in the precision of the batch; powers are those of the model, or the mean |ŝ|².

    Raises:
        InputError: if the numbers of scenes differ, an active estimate is not finite or outside the field of view, or
            a scene has as many estimates as antennas.

    References:
        [1] P. Stoica, A. Nehorai, Performance study of conditional and unconditional direction-of-arrival estimation,
            IEEE Trans. ASSP 38(10), 1990.
    """
    check_measured(batch)
    check_number("steps", steps, 0, 100_000, integer=True)
    kind = kind or ("stochastic" if batch.config.symbols == "varying" else "deterministic")
    check_choice("kind", kind, KINDS)
    if kind == "deterministic" and single_antenna(batch):
        raise InputError("kind is 'deterministic' with one antenna; allowed: 'stochastic', or symbols='constant'")
    _check_estimate(batch, estimate)
    low, high = bounds_box(batch)
    points = starting_points(batch, estimate)
    if kind == "stochastic":
        return fisher_scoring(batch, initial_parameters(batch, points, estimate.active), steps)[0].estimate()
    slots = points.shape[1]

    def model(flat: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return deterministic_terms(select_scenes(batch, rows), flat.unflatten(-1, (slots, 3)), estimate.active[rows])

    minimum = _minimum(model, points.flatten(1), low.repeat(slots), high.repeat(slots), steps)
    return initial_parameters(batch, minimum.point.unflatten(-1, (slots, 3)), estimate.active).estimate()


def fisher_scoring(batch: Measured, parameters: Parameters, steps: int) -> tuple[Parameters, Tensor]:
    """Minimise −ln L of the stochastic model by damped Fisher scoring, from some parameters in at most `steps` steps.

    Returns:
        The parameters at the end, and −ln L there, [B], real.
    """
    low, high = bounds_box(batch)
    slots = parameters.points.shape[1]
    level = torch.view_as_real(batch.snapshots).square().sum(-1).mean(dim=(1, 2)).unsqueeze(-1)  # [B, 1]
    smallest_noise = level * torch.finfo(level.dtype).eps
    power_alone = (level / _mean_gain(batch).unsqueeze(-1)).expand(-1, slots)
    floor = torch.cat([SMALLEST * power_alone, smallest_noise], dim=-1).log()
    ceiling = torch.cat([LARGEST * power_alone, LARGEST * level], dim=-1).log()
    powers = torch.cat([parameters.power, parameters.noise_power.unsqueeze(-1)], dim=-1).log()
    start = torch.cat([parameters.points.flatten(1), powers], dim=-1)
    smallest = torch.cat([low.repeat(len(level), slots), floor], dim=-1)
    largest = torch.cat([high.repeat(len(level), slots), ceiling], dim=-1)

    def unpacked(flat: Tensor, active: Tensor) -> Parameters:
        power = flat[:, 3 * slots : -1].exp() * active
        return Parameters(flat[:, : 3 * slots].unflatten(-1, (slots, 3)), power, flat[:, -1].exp(), active)

    def model(flat: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return stochastic_terms(select_scenes(batch, rows), unpacked(flat, parameters.active[rows]))

    minimum = _minimum(model, start.clamp(smallest, largest), smallest, largest, steps)
    return unpacked(minimum.point, parameters.active), minimum.value


def _mean_gain(batch: Measured) -> Tensor:
    """Mean power of a snapshot entry that a source of power 1 makes, over all directions, [B]."""
    powers = [torch.view_as_real(part).square().sum(-1).mean(1) for part in (batch.codes, batch.channel)]  # [B, N]
    return (powers[0] * powers[1]).mean(-1)


def _minimum(model: Model, start: Tensor, low: Tensor, high: Tensor, steps: int) -> Minimum:
    eps = torch.finfo(start.dtype).eps
    xtol = 1e-2 * math.sqrt(eps)
    return levenberg_marquardt(model, start, low, high, xtol=xtol, value_eps=eps, ftol=eps, steps=steps)


def initial_parameters(batch: Measured, points: Tensor, active: Tensor) -> Parameters:
    """Sources at points [B,K,3] with the powers mean |ŝ|² and the noise power that least squares gives them."""
    level = torch.view_as_real(batch.snapshots).square().sum(-1).mean(dim=(1, 2))  # [B]
    if single_antenna(batch):
        gain = torch.view_as_real(stacked_steering(batch, points, active)).square().sum(-1).mean(dim=(1, 2))  # [B, K]
        share = level / (2 * active.sum(-1).clamp(min=1))
        power = share.unsqueeze(-1) / torch.where(active, gain, 1).clamp(min=torch.finfo(gain.dtype).tiny)
        return Parameters(points, torch.where(active, power, 0), level / 2, active)
    waveforms, energy = _least_squares(batch, points, active)
    power = torch.view_as_real(waveforms.squeeze(-1)).square().sum(-1).mean(1)
    free = degrees_of_freedom(batch, active).clamp(min=1)
    # An exact fit leaves rounding, which is 0 once it is squared.
    noise_power = torch.maximum(energy / free, torch.finfo(level.dtype).eps * level)
    return Parameters(points, torch.where(active, power, 0), noise_power, active)


def single_antenna(batch: Measured) -> bool:
    """Whether one source with a waveform of its own would explain every snapshot exactly."""
    return batch.config.antennas == 1 and batch.config.symbols == "varying"


def _least_squares(batch: Measured, points: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
    """Waveforms [B,L,K,1] that fit the snapshots best, and the RSS, [B]."""
    fields = stacked_steering(batch, points, active)
    waveforms, residual = project(fields, least_squares_gain(fields, active.unsqueeze(1)), stacked_snapshots(batch))
    return waveforms, torch.view_as_real(residual).square().sum(dim=(1, 2, 3, 4))


def _fields_and_slopes(batch: Measured, points: Tensor, active: Tensor, single: bool = False) -> tuple[Tensor, Tensor]:
    """B [B,L,M,K] and its derivatives d by azimuth, elevation and 1/r, [B,L,M,3K]; L = 1 for a `single` code."""
    azimuth, elevation, inverse = points.unbind(-1)
    array = batch.config.array(dtype=points.dtype, device=points.device)
    vectors, phases = array.steering_and_phase_gradient(azimuth, elevation, inverse)  # [B, K, N], [B, K, 3, N]
    vectors = vectors * active.unsqueeze(-1)
    slopes = -1j * phases * vectors.unsqueeze(-2)
    columns = torch.cat([vectors, slopes.flatten(1, 2)], dim=1).mT
    fields = received_fields(batch.codes[:, :1], batch.channel, columns) if single else stacked_fields(batch, columns)
    return fields[..., : points.shape[1]], fields[..., points.shape[1] :]


def deterministic_terms(batch: Measured, points: Tensor, active: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """RSS, its gradient −2 Σ_l Re{ŝ* d^H r} and the curvature 2 Σ_l Re{ŝ* ŝ' d^H Π d'} by the places, points [B,K,3].

    Returns:
        [B], [B,3K] and [B,3K,3K], real; azimuth, elevation and 1/r of the first source come first.
    """
    fields, slopes = _fields_and_slopes(batch, points, active)
    gain = least_squares_gain(fields, active.unsqueeze(1))
    fitted, residuals = project(fields, gain, torch.cat([stacked_snapshots(batch), slopes], dim=-1))
    residual, across = residuals[..., :1], residuals[..., 1:]  # r and Π d
    weighted = across * fitted[..., 0].repeat_interleave(3, dim=-1).unsqueeze(-2)  # Π d ŝ
    gradient = -2 * (weighted.conj() * residual).real.sum(dim=(1, 2))
    stacked = weighted.flatten(1, 2)  # [B, L·M, 3K]
    curvature = 2 * (stacked.mH @ stacked).real
    return torch.view_as_real(residual).square().sum(dim=(1, 2, 3, 4)), gradient, curvature


def stochastic_terms(batch: Measured, parameters: Parameters) -> tuple[Tensor, Tensor, Tensor]:
    """−ln L, its gradient by points, logarithmic powers and logarithmic noise power, and the Fisher information.

    With T, ŝ = T B^H y and r = y − B ŝ of waveforms.mmse_gain(), the gradient is
    2 Re Σ_l (T B^H d)_k − ŝ_k r^H d/σ² by a place, Σ_l (T B^H B)_kk − ŝ_k* b_k^H r/σ² by ln p_k, and
    Σ_l M − tr(T B^H B) − ‖r‖²/σ² by ln σ².

    Returns:
        [B], [B,4K+1] and [B,4K+1,4K+1], real; rows of inactive slots are 0.
    """
    # If all snapshots share one code, they are columns of one measurement, and the fields are computed once.
    single = _one_code(batch)
    fields, slopes = _fields_and_slopes(batch, parameters.points, parameters.active, single)
    snapshots = batch.snapshots.mT.unsqueeze(1) if single else stacked_snapshots(batch)  # [B, L, M, 1] or [B, 1, M, L]
    slots, antennas, repeats = fields.shape[-1], fields.shape[-2], snapshots.shape[-1]
    sigma2 = parameters.noise_power[:, None]  # [B, 1]
    gain = mmse_gain(fields, parameters.power[:, None, :], sigma2)
    fitted, residuals = project(fields, gain, torch.cat([snapshots, fields, slopes], dim=-1))
    waveforms, residual = fitted[..., :repeats], residuals[..., :repeats]  # ŝ [B, L, K, 1] and r [B, L, M, 1]
    owner = torch.arange(slots, device=fields.device).repeat_interleave(3)
    own = fitted[..., repeats + slots :][..., owner, :].diagonal(dim1=-2, dim2=-1)  # (T B^H d)_k, [B, L, 3K]
    pulled = ((residual.mH @ slopes) * waveforms.mT[..., owner]).sum(-2) / sigma2.unsqueeze(-1)  # ŝ r^H d / σ²
    by_place = 2 * (repeats * own - pulled).real.sum(1)
    shared = fitted[..., repeats : repeats + slots].diagonal(dim1=-2, dim2=-1).real  # (T B^H B)_kk, [B, L, K]
    answer = (waveforms.conj() * (fields.mH @ residual)).real.sum(-1) / sigma2.unsqueeze(-1)  # ŝ* B^H R⁻¹ y
    by_power = (repeats * shared - answer).sum(1)
    whitened = (snapshots.conj() * residual).real.sum((-2, -1)) / sigma2  # y^H R⁻¹ y, [B, L]
    energy = torch.view_as_real(residual).square().sum((-3, -2, -1)) / sigma2
    by_noise = (repeats * (antennas - shared.sum(-1)) - energy).sum(1, keepdim=True)
    scaled = fields * parameters.power.sqrt()[:, None, None, :]
    eye = torch.eye(slots, dtype=fields.dtype, device=fields.device)
    volume = torch.linalg.slogdet(scaled.mH @ scaled / sigma2[..., None, None] + eye).logabsdet  # [B, L]
    value = (repeats * (antennas * sigma2.log() + volume) + whitened).sum(1)
    information = repeats * stochastic_information(fields, slopes, parameters.power, parameters.noise_power)
    return value, torch.cat([by_place, by_power, by_noise], dim=-1), information


def _one_code(batch: Measured) -> bool:
    """Whether symbols vary and all snapshots share one code, as with an array without a surface."""
    codes = batch.codes
    if batch.config.symbols == "constant" or codes.shape[1] < 2 or not torch.equal(codes[:, 0], codes[:, 1]):
        return False
    return torch.equal(codes, codes[:, :1].expand_as(codes))


def points_of(estimate: Estimate) -> Tensor:
    """Places of an estimate in the coordinates of Parameters.points, [B,K,3]."""
    return torch.stack([estimate.azimuth, estimate.elevation, 1 / estimate.range], dim=-1)


def starting_points(batch: Measured, estimate: Estimate) -> Tensor:
    """points_of() within bounds_box(), in the precision of the batch; inactive slots are in its middle."""
    low, high = bounds_box(batch)
    return torch.where(estimate.active.unsqueeze(-1), points_of(estimate).to(low), (low + high) / 2).clamp(low, high)


def _check_estimate(batch: Measured, estimate: Estimate) -> None:
    check_estimate(estimate, len(batch))
    most = int(estimate.active.sum(-1).max())
    limit = batch.config.antennas * (batch.config.snapshots if batch.config.symbols == "constant" else 1)
    if most >= limit and not single_antenna(batch):
        raise InputError(f"a scene has {most} estimates; allowed: fewer than {limit}, the antennas that see them")
    if isinstance(batch, Measurement):
        check_identifiable(batch, most)
    for name in ("azimuth", "elevation", "range"):
        low, high = getattr(batch.config, name)
        values = getattr(estimate, name)[estimate.active].double()
        slack = 1e-6 * max(abs(low), abs(high))  # positions pass through float32
        outside = (values < low - slack) | (values > high + slack)
        if bool(outside.any()):
            value = float(values[outside][0])
            raise InputError(f"{name} of an estimate is {value:g}; allowed: [{low:g}, {high:g}], the field of view")
