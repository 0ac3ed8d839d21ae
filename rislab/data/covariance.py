"""Covariances as factors: sample, blend, NMSE and its baselines.

A factor F [B,N,K] stands for R = F F^H. Training works with factors only: no N×N matrix is formed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rislab.data.measurement import Measured
from rislab.data.scenes import SceneBatch
from rislab.errors import check_number


def back_project(snapshots: Tensor, codes: Tensor, channel: Tensor, *, ridge: float = 0.1) -> Tensor:
    """RIS-domain estimate of the field on the surface, one column a snapshot, by ridge regression.

    x_l = G_l^H (G_l G_l^H + ρ I)^(-1) y_l with G_l = H diag(c_l). Since |c_l| = 1, G_l G_l^H = H H^H for every code,
    and one M×M inverse serves all snapshots: x_l = c_l* ⊙ (H^H (H H^H + ρ I)^(-1) y_l).

    Args:
        snapshots: y, [B,L,M], complex.
        codes: c, [B,L,N], complex, of modulus 1.
        channel: H, [B,M,N], complex.
        ridge: ρ as a fraction of the mean eigenvalue of H H^H, > 0.

    Returns:
        [B,N,L], complex.

    Raises:
        InputError: for a ridge out of range.
    """
    check_number("ridge", ridge, 0.0, 1e6, exclusive=True)
    whitened = torch.linalg.solve(_loaded(channel @ channel.mH, ridge), snapshots.mT)  # [B, M, L]
    return (channel.mH @ whitened) * codes.mT.conj()  # [B, N, L]


def sample_factor(batch: SceneBatch, *, ridge: float = 0.1) -> Tensor:
    """Factor [B,N,L] of the sample covariance: back_project() scaled to trace N."""
    return scale_to_trace(back_project(batch.snapshots, batch.codes, batch.channel, ridge=ridge))


def scale_to_trace(factor: Tensor) -> Tensor:
    """The factor scaled so that trace(F F^H) = N; a zero factor stays zero."""
    energy = frobenius_squared(factor)[..., None, None]
    return factor * torch.where(energy > 0, factor.shape[-2] / energy, 1.0).sqrt()


def sample_covariance(measurement: Measured, *, ridge: float = 0.1) -> Tensor:
    """Sample covariance of scenes or measurements, or its factor where that has fewer columns than rows; of trace N.

    Codes of any modulus: x_l = G_l^H (G_l G_l^H + ρ I)^(−1) y_l, ρ a fraction of the mean eigenvalue of all G_l G_l^H.
    If the symbols of a measurement are constant, all snapshots measure one field, and the factor has one column. Of
    scenes it is sample_factor().

    Args:
        measurement: B scenes or measurements.
        ridge: see back_project().

    Returns:
        F [B,N,L] or [B,N,1], or R = F F^H [B,N,N] if L ≥ N.
    """
    check_number("ridge", ridge, 0.0, 1e6, exclusive=True)
    if isinstance(measurement, SceneBatch):
        factor = sample_factor(measurement, ridge=ridge)
        return factor if factor.shape[-1] < factor.shape[-2] else factor @ factor.mH
    codes, channel, snapshots = measurement.codes, measurement.channel, measurement.snapshots
    scenes, length, antennas = snapshots.shape
    sensing = codes.unsqueeze(2) * channel.unsqueeze(1)  # G, [B, L, M, N]
    elements = sensing.shape[-1]
    if measurement.config.symbols == "constant" and length * antennas > elements:
        stacked, received = sensing.flatten(1, 2), snapshots.reshape(scenes, -1, 1)
        normal = stacked.mH @ stacked
        return scale_to_trace(torch.linalg.solve(_loaded(normal, ridge), stacked.mH @ received))
    if measurement.config.symbols == "constant":
        sensing, snapshots = sensing.flatten(1, 2).unsqueeze(1), snapshots.reshape(scenes, 1, -1)
    whitened = torch.linalg.solve(_loaded(sensing @ sensing.mH, ridge), snapshots.unsqueeze(-1))
    fields = scale_to_trace((sensing.mH @ whitened).squeeze(-1).mT)  # [B, N, L]
    return fields if fields.shape[-1] < elements else fields @ fields.mH


def _loaded(gram: Tensor, ridge: float) -> Tensor:
    """Gram matrices [B,…,P,P] with a fraction of their mean eigenvalue, one for each scene, on the diagonal."""
    eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    mean = gram.diagonal(dim1=-2, dim2=-1).real.flatten(1).mean(-1)
    return gram + ridge * mean.reshape(-1, *[1] * (gram.ndim - 1)) * eye


def frobenius_squared(matrix: Tensor) -> Tensor:
    """‖A‖_F² of complex matrices, [..., N, K] to [...], real."""
    # Not abs().square(): the square root inside costs more than the whole sum, and again in the gradient.
    return torch.view_as_real(matrix).square().sum(dim=(-3, -2, -1))


def covariance(factor: Tensor) -> Tensor:
    """R = F F^H, [B,N,N], from a factor [B,N,K]."""
    return factor @ factor.mH


def beam_power(factor: Tensor, atoms: Tensor) -> Tensor:
    """Power a_g^H F F^H a_g that beams towards given points receive, [B,G], in one matrix product for all scenes.

    Args:
        factor: F, [B,N,K], complex.
        atoms: a_g, [G,N], steering vectors in the dtype of F.
    """
    scenes, elements, columns = factor.shape
    stacked = factor.permute(1, 0, 2).reshape(elements, -1)  # [N, B·K]
    beams = torch.view_as_real(atoms.conj() @ stacked)  # [G, B·K, 2]
    return beams.square().reshape(-1, scenes, 2 * columns).sum(dim=-1).T


def shrink(factor: Tensor, toward: Tensor, weight: float) -> Tensor:
    """Factor [√(1−β) F, √β X] of the covariance (1−β) F F^H + β X X^H.

    Args:
        factor: F, [B,N,K], complex; such as a prediction.
        toward: X, [B,N,L], complex; such as sample_factor().
        weight: β in [0, 1]; at 0 `factor` itself is returned.

    Returns:
        [B,N,K+L], complex.

    Raises:
        InputError: for a weight out of range.
    """
    check_number("weight", weight, 0.0, 1.0)
    if weight == 0:
        return factor
    return torch.cat([(1 - weight) ** 0.5 * factor, weight**0.5 * toward], dim=-1)


def nmse(predicted: Tensor, truth: Tensor) -> Tensor:
    """Normalised mean squared error ‖R̂ − R‖_F² / ‖R‖_F² of covariances given by their factors.

    With R̂ = F F^H and R = B B^H: (‖F^H F‖² − 2 ‖F^H B‖² + ‖B^H B‖²) / ‖B^H B‖². In float32 the three terms cancel to
    about 1e-6 near 0, and may end slightly below it; nothing is clamped.

    Args:
        predicted: F, [B,N,K'], complex.
        truth: B, [B,N,K], complex.

    Returns:
        [B], real.

    Example:
        >>> truth = torch.eye(3, 1, dtype=torch.complex64).unsqueeze(0)
        >>> float(nmse(0 * truth, truth)), float(nmse(2 * truth, truth))  # of 0 and of 4 R
        (1.0, 9.0)
    """
    truth_energy = frobenius_squared(truth.mH @ truth)
    error = frobenius_squared(predicted.mH @ predicted) - 2 * frobenius_squared(predicted.mH @ truth) + truth_energy
    return error / truth_energy


def effective_rank(factor: Tensor) -> Tensor:
    """Effective rank (tr R)² / tr R² of R = F F^H, F [B,N,K]: [B], 1 … K; 1/2 for a zero factor, which has none."""
    gram = factor.mH @ factor
    energy = frobenius_squared(gram)
    rank = gram.diagonal(dim1=-2, dim2=-1).real.sum(-1).square() / energy.clamp_min(torch.finfo(energy.dtype).tiny)
    return rank.clamp_min(0.5)


def zero_baseline() -> float:
    """NMSE of the zero matrix: 1 by definition."""
    return 1.0


def identity_baseline(batch: SceneBatch) -> float:
    """Mean NMSE of the identity scaled to trace N: 1 − 2 tr R/‖R‖² + N/‖R‖² with tr R = N."""
    energy = frobenius_squared(batch.factor().mH @ batch.factor())
    return float((1 - batch.config.elements / energy).mean())


def constant_baseline(batch: SceneBatch) -> float:
    """Mean NMSE of the best constant prediction: the mean of the covariances weighted by 1/‖R‖²."""
    truth = batch.covariance()
    weight = 1 / frobenius_squared(truth)
    constant = (weight[:, None, None] * truth).sum(0) / weight.sum()
    return float((frobenius_squared(constant - truth) / frobenius_squared(truth)).mean())
