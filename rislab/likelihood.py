"""The likelihood of the measurement with unknown waveforms: its residual, polishing an estimate, and counting sources.

With B_l = G_l A the images of the steering vectors, the waveforms that fit best are ŝ_l = B_l^+ y_l, and what is left,
RSS = Σ_l ‖y_l − B_l ŝ_l‖², is all that the deterministic likelihood knows of the positions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rislab.data import SceneBatch
from rislab.descent import descend
from rislab.errors import InputError, check_choice, check_number
from rislab.estimates import Estimate

STEPS = 30
CRITERIA = ("mdl", "aic")


@dataclass(frozen=True, eq=False)
class Fit:
    """Waveforms fitted to given positions: waveforms ŝ [B,L,K], residual y − B ŝ [B,L,M], and rss = its energy [B]."""

    waveforms: Tensor
    residual: Tensor
    rss: Tensor


def places(estimate: Estimate) -> Tensor:
    """Azimuth, elevation and 1/r of an estimate, [B,K,3]: the coordinates in which the likelihood is searched."""
    return torch.stack([estimate.azimuth, estimate.elevation, 1 / estimate.range], dim=-1)


def limits(batch: SceneBatch) -> tuple[Tensor, Tensor]:
    """The field of view in the coordinates of places(): smallest and largest, each [3]."""
    config = batch.config
    ends = (config.azimuth, config.elevation, (1 / config.range[1], 1 / config.range[0]))
    low, high = torch.tensor(ends, dtype=torch.float64).to(batch.azimuth).unbind(-1)
    return low, high


def project(images: Tensor, active: Tensor, onto: Tensor) -> tuple[Tensor, Tensor]:
    """Least-squares coefficients B^+ v, and what they leave of v.

    Args:
        images: B, [..., M,K]; inactive columns are 0. active: [..., K] bool. onto: v, [..., M,C].

    Returns:
        [..., K,C] and [..., M,C].
    """
    gram = images.mH @ images
    diagonal = gram.diagonal(dim1=-2, dim2=-1).real
    # A loading at rounding level, so that two sources at one place share a waveform instead of having none.
    loading = 4 * torch.finfo(diagonal.dtype).eps * diagonal.amax(-1, keepdim=True) + (~active).to(diagonal)
    root = torch.linalg.cholesky(gram + torch.diag_embed(loading).to(gram.dtype))
    coefficients = torch.cholesky_solve(images.mH @ onto, root)
    return coefficients, onto - images @ coefficients


def seen(batch: SceneBatch, columns: Tensor) -> Tensor:
    """Images of fields, [B,L,M,C]; with constant symbols all snapshots are one long measurement, [B,1,L·M,C]."""
    images = batch.images(columns)
    return images.flatten(1, 2).unsqueeze(1) if batch.config.symbols == "constant" else images


def measured(batch: SceneBatch) -> Tensor:
    """Snapshots as seen() shapes them, [B,L,M,1] or [B,1,L·M,1]."""
    snapshots = batch.snapshots.unsqueeze(-1)
    return snapshots.flatten(1, 2).unsqueeze(1) if batch.config.symbols == "constant" else snapshots


def rss(batch: SceneBatch, estimate: Estimate) -> Tensor:
    """Energy that an estimate leaves of the snapshots with its best waveforms, [B]."""
    array = batch.config.array(dtype=batch.azimuth.dtype, device=batch.azimuth.device)
    _, residual = project(seen(batch, estimate.steering(array)), estimate.active.unsqueeze(1), measured(batch))
    return torch.view_as_real(residual).square().sum(dim=(1, 2, 3, 4))


def polish(batch: SceneBatch, estimate: Estimate, *, steps: int = STEPS) -> Estimate:
    """Maximum-likelihood positions by damped Fisher scoring on the measurement, started from an estimate.

    Minimises the RSS over all positions at once within the field of view of the scene configuration. With r_l the
    residual, its gradient is −2 Σ_l Re{ŝ* d^H r_l}, its curvature the Fisher information (times σ²) at the fitted
    waveforms. Powers become the mean |ŝ|².

    Args:
        batch: scenes. estimate: where to start; inactive slots stay so. steps: most steps, ≥ 0.

    Returns:
        Estimate in the precision of the batch.

    Raises:
        InputError: if the numbers of scenes differ, an active estimate is not finite or outside the field of view, or
            a scene has as many estimates as antennas.

    Source:
        P. Stoica and A. Nehorai, MUSIC, maximum likelihood, and Cramér–Rao bound, IEEE Trans. ASSP 37(5), 1989.
    """
    check_number("steps", steps, 0, 100_000, whole=True)
    _check_estimate(batch, estimate)
    low, high = limits(batch)
    start = torch.where(estimate.active.unsqueeze(-1), places(estimate).to(low), (low + high) / 2)
    points, _ = scored(batch, start, estimate.active, steps)
    return fitted(batch, points, estimate.active)


def scored(batch: SceneBatch, points: Tensor, active: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Points [B,K,3] of places() after damped Fisher scoring within the field of view, and the RSS there, [B]."""
    low, high = limits(batch)
    slots = points.shape[1]
    ended = descend(
        lambda flat, rows: _score(batch[rows], flat.unflatten(-1, (slots, 3)), active[rows]),
        points.clamp(low, high).flatten(1),
        low.repeat(slots),
        high.repeat(slots),
        tolerance=1e-2 * math.sqrt(torch.finfo(low.dtype).eps),
        rounding=0.0,
        steps=steps,
    )
    return ended.point.unflatten(-1, (slots, 3)), ended.value


def fitted(batch: SceneBatch, points: Tensor, active: Tensor) -> Estimate:
    """The estimate at points [B,K,3] of places(), with the powers mean |ŝ|² that fit the snapshots."""
    azimuth, elevation, inverse = points.unbind(-1)
    estimate = Estimate(azimuth, elevation, 1 / inverse, torch.zeros_like(azimuth), active)
    array = batch.config.array(dtype=points.dtype, device=points.device)
    waveforms, _ = project(seen(batch, estimate.steering(array)), active.unsqueeze(1), measured(batch))
    power = torch.view_as_real(waveforms.squeeze(-1)).square().sum(-1).mean(1)
    return replace(estimate, power=torch.where(active, power, 0))


def _score(batch: SceneBatch, points: Tensor, active: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """RSS [B], its gradient [B,3K] and curvature [B,3K,3K] at points [B,K,3]."""
    azimuth, elevation, inverse = points.unbind(-1)
    array = batch.config.array(dtype=points.dtype, device=points.device)
    vectors = array.steering(azimuth, elevation, 1 / inverse) * active.unsqueeze(-1)  # [B, K, N]
    phases = array.phase_gradient(azimuth, elevation, 1 / inverse)  # [B, K, 3, N]
    phases[..., 2, :] *= -1 / inverse.square().unsqueeze(-1)  # by 1/r
    slopes = -1j * phases * vectors.unsqueeze(-2)
    images = seen(batch, torch.cat([vectors, slopes.flatten(1, 2)], dim=1).mT)  # [B, L, M, K + 3K]
    slots = points.shape[1]
    both = torch.cat([measured(batch), images[..., slots:]], dim=-1)
    coefficients, left = project(images[..., :slots], active.unsqueeze(1), both)
    residual, across = left[..., :1], left[..., 1:]  # r and Π d
    weighted = across * coefficients[..., 0].repeat_interleave(3, dim=-1).unsqueeze(-2)  # Π d ŝ
    gradient = -2 * (weighted.conj() * residual).real.sum(dim=(1, 2))
    stacked = weighted.flatten(1, 2)  # [B, L·M, 3K]
    curvature = 2 * (stacked.mH @ stacked).real
    return torch.view_as_real(residual).square().sum(dim=(1, 2, 3, 4)), gradient, curvature


def information_criterion(batch: SceneBatch, rss: Tensor, sources: int, *, criterion: str = "mdl") -> Tensor:
    """L·M·ln(RSS/LM) + penalty, [B]: ½ (3k + 2Lk) ln(2LM) for "mdl", 3k + 2Lk for "aic".

    Args:
        batch: scenes, for their sizes. rss: what k sources leave, [B]. sources: k.
    """
    check_choice("criterion", criterion, CRITERIA)
    snapshots, antennas = batch.config.snapshots, batch.config.antennas
    size = snapshots * antennas
    waveforms = 1 if batch.config.symbols == "constant" else snapshots
    unknowns = (3 + 2 * waveforms) * sources
    penalty = unknowns * math.log(2 * size) / 2 if criterion == "mdl" else unknowns
    return size * torch.log(rss / size) + penalty


def order_by_eigenvalues(batch: SceneBatch, *, criterion: str = "mdl") -> Tensor:
    """Number of sources from the eigenvalues of the M×M data covariance, [B]: right only where all snapshots share a code.

    With λ_1 ≥ … ≥ λ_M, minimises −L Σ_{i>k} ln λ_i + L (M−k) ln(mean_{i>k} λ_i) + penalty, ½ k(2M−k) ln L for "mdl" and
    k(2M−k) for "aic", in logarithms throughout. A new code for each snapshot gives the signal part full rank, and this
    count means nothing.

    Raises:
        InputError: for an unknown criterion, or fewer snapshots than antennas, where the smallest eigenvalues are 0.

    Source:
        M. Wax and T. Kailath, Detection of signals by information theoretic criteria, IEEE Trans. ASSP 33(2), 1985.
    """
    check_choice("criterion", criterion, CRITERIA)
    snapshots, antennas = batch.snapshots.shape[1:]
    if snapshots < antennas:
        raise InputError(f"snapshots is {snapshots}; allowed: at least {antennas}, the number of antennas")
    data = batch.snapshots.to(torch.complex128)
    values = torch.linalg.eigvalsh(data.mT @ data.conj() / snapshots).flip(-1)  # [B, M], falling
    values = values.clamp(min=torch.finfo(values.dtype).tiny)
    noise = torch.arange(antennas, 0, -1, device=values.device)  # M − k for k = 0 … M−1
    logarithms = values.log().flip(-1).cumsum(-1).flip(-1)  # Σ_{i>k} ln λ_i
    means = values.flip(-1).cumsum(-1).flip(-1) / noise
    k = antennas - noise
    free = k * (2 * antennas - k)
    penalty = free * math.log(snapshots) / 2 if criterion == "mdl" else free
    return (snapshots * (noise * means.log() - logarithms) + penalty).argmin(dim=-1)


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
