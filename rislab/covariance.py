"""Covariances of the lab: truth, sample and blend, as factors, and the one conditioning for all of them.

A factor F [B,N,K] stands for R = F F^H. Training works with factors only: no N×N matrix is formed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rislab.data import SceneBatch
from rislab.errors import InputError, check_number


def back_projections(batch: SceneBatch, *, ridge: float = 0.1) -> Tensor:
    """RIS-domain estimate of the field on the surface, one column a snapshot, by ridge regression.

    x_l = G_l^H (G_l G_l^H + ρ I)^(-1) y_l with G_l = H diag(c_l). Since |c_l| = 1, G_l G_l^H = H H^H for every code,
    and one M×M inverse serves all snapshots: x_l = c_l* ⊙ (H^H (H H^H + ρ I)^(-1) y_l).

    Args:
        batch: scenes; snapshots, codes and channel are used, nothing of the truth.
        ridge: ρ as a fraction of the mean eigenvalue of H H^H, > 0.

    Returns:
        [B,N,L], complex.
    """
    return back_project(batch.snapshots, batch.codes, batch.channel, ridge=ridge)


def back_project(snapshots: Tensor, codes: Tensor, channel: Tensor, *, ridge: float = 0.1) -> Tensor:
    """back_projections() on plain tensors: snapshots [B,L,M], codes [B,L,N], channel [B,M,N] to [B,N,L]."""
    check_number("ridge", ridge, 0.0, 1e6, above=True)
    gram = channel @ channel.mH  # [B, M, M]
    antennas = gram.shape[-1]
    mean_eigenvalue = gram.diagonal(dim1=-2, dim2=-1).real.mean(-1)  # [B]
    loading = (ridge * mean_eigenvalue)[:, None, None] * torch.eye(antennas, dtype=gram.dtype, device=gram.device)
    whitened = torch.linalg.solve(gram + loading, snapshots.mT)  # [B, M, L]
    return (channel.mH @ whitened) * codes.mT.conj()  # [B, N, L]


def sample_factor(batch: SceneBatch, *, ridge: float = 0.1) -> Tensor:
    """Factor [B,N,L] of the sample covariance: back-projections scaled to trace N."""
    columns = back_projections(batch, ridge=ridge)
    return scale_to_trace(columns)


def scale_to_trace(factor: Tensor) -> Tensor:
    """The factor scaled so that trace(F F^H) = N; a zero factor stays zero."""
    energy = frobenius_squared(factor)[..., None, None]
    return factor * torch.where(energy > 0, factor.shape[-2] / energy, 1.0).sqrt()


def frobenius_squared(matrix: Tensor) -> Tensor:
    """‖A‖_F² of complex matrices, [..., N, K] to [...], real."""
    # Not abs().square(): the square root inside costs more than the whole sum, and again in the gradient.
    return torch.view_as_real(matrix).square().sum(dim=(-3, -2, -1))


def covariance(factor: Tensor) -> Tensor:
    """R = F F^H, [B,N,N], from a factor [B,N,K]."""
    return factor @ factor.mH


def beam_power(factor: Tensor, atoms: Tensor) -> Tensor:
    """Power a_g^H F F^H a_g that beams towards given points receive, in one matrix product for all scenes.

    Args:
        factor: F, [B,N,K], complex. atoms: steering vectors, [G,N], in the dtype of F.

    Returns:
        [B,G], real.
    """
    scenes, elements, columns = factor.shape
    stacked = factor.permute(1, 0, 2).reshape(elements, -1)  # [N, B·K]
    beams = torch.view_as_real(atoms.conj() @ stacked)  # [G, B·K, 2]
    return beams.square().reshape(-1, scenes, 2 * columns).sum(dim=-1).T


def blend(predicted: Tensor, sample: Tensor, beta: float) -> Tensor:
    """Factor [√(1−β) F, √β X] of R_test = (1−β) R_pred + β R_sample.

    Args:
        predicted: F, [B,N,K]. sample: X, [B,N,L].
        beta: β in [0, 1]; at 0 the prediction itself is returned.
    """
    check_number("blend", beta, 0.0, 1.0)
    if beta == 0:
        return predicted
    return torch.cat([(1 - beta) ** 0.5 * predicted, beta**0.5 * sample], dim=-1)


def condition(matrix: Tensor, *, loading: float = 0.0) -> Tensor:
    """The conditioning that every covariance of the lab goes through before it is searched.

    Takes the Hermitian part, adds `loading` times the mean eigenvalue to the diagonal, scales to trace N.

    Args:
        matrix: [..., N, N], complex.
        loading: diagonal loading as a fraction of the trace, ≥ 0 (each of the N eigenvalues gets loading · trace / N).

    Returns:
        [..., N, N], Hermitian, trace N.

    Raises:
        InputError: for a matrix that is not square, not finite, or whose trace is not positive.
    """
    check_number("loading", loading, 0.0, 1e6)
    if matrix.ndim < 2 or matrix.shape[-1] != matrix.shape[-2]:
        raise InputError(f"covariance has shape {tuple(matrix.shape)}; allowed: square matrices [..., N, N]")
    if not bool(torch.isfinite(matrix).all()):
        raise InputError("covariance holds NaN or infinity; allowed: finite values")
    size = matrix.shape[-1]
    hermitian = (matrix + matrix.mH) / 2
    trace = hermitian.diagonal(dim1=-2, dim2=-1).real.sum(-1)[..., None, None]
    if not bool((trace > 0).all()):
        raise InputError(f"covariance has trace {float(trace.min()):g}; allowed: above 0")
    loaded = hermitian + loading * trace / size * torch.eye(size, dtype=matrix.dtype, device=matrix.device)
    return loaded * (size / (trace * (1 + loading)))
