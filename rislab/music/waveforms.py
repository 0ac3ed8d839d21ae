"""Waveforms of sources at given places: those that explain a snapshot best, and the residual that they leave.

With B = G A the received fields of the steering vectors and T = (B^H B + C)^(−1), the waveforms of a snapshot y are
ŝ = T B^H y and the residual is r = y − B ŝ. C = 0 is least squares (waveforms unknown, I − B T B^H a projection);
C = σ² P^(−1) is the posterior mean of s ~ CN(0, P), and then R^(−1) y = r/σ² for R = B P B^H + σ² I, so that no M×M
matrix is ever inverted.
"""

from __future__ import annotations

import torch
from torch import Tensor


def least_squares_gain(fields: Tensor, active: Tensor) -> Tensor:
    """T = (B^H B)^(−1) of unknown waveforms.

    A loading at rounding level lets two sources at one place share a waveform instead of having none.

    Args:
        fields: B, [...,M,K], complex; received fields of the sources.
        active: [...,K], bool.

    Returns:
        [...,K,K], complex; 0 for inactive sources.
    """
    gram = fields.mH @ fields
    diagonal = gram.diagonal(dim1=-2, dim2=-1).real
    loading = 4 * torch.finfo(diagonal.dtype).eps * diagonal.amax(-1, keepdim=True) + (~active).to(diagonal)
    loading = torch.where(loading > 0, loading, 1.0)
    inverse, singular = torch.linalg.inv_ex(gram + torch.diag_embed(loading).to(gram.dtype))
    inverse = torch.where((singular > 0)[..., None, None], torch.nan, inverse)
    return inverse * (active.unsqueeze(-1) & active.unsqueeze(-2))


def mmse_gain(fields: Tensor, power: Tensor, noise_power: Tensor) -> Tensor:
    """T = (B^H B + σ² P^(−1))^(−1) of waveforms CN(0, P) in noise σ².

    Written as P^½ (P^½ B^H B P^½ + σ² I)^(−1) P^½, which holds for p = 0 too.

    Args:
        fields: B, [...,M,K], complex; received fields of the sources.
        power: p, [...,K], real, ≥ 0.
        noise_power: σ², [...], real, > 0.

    Returns:
        [...,K,K], complex.
    """
    root = power.sqrt()
    scaled = fields * root.unsqueeze(-2)
    eye = torch.eye(fields.shape[-1], dtype=fields.dtype, device=fields.device)
    inverse, singular = torch.linalg.inv_ex(scaled.mH @ scaled + noise_power[..., None, None] * eye)
    # Not an exception for all scenes: a search steps back from what is not a number.
    inverse = torch.where((singular > 0)[..., None, None], torch.nan, inverse)
    return root.unsqueeze(-1) * inverse * root.unsqueeze(-2)


def project(fields: Tensor, gain: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Waveforms T B^H v [...,K,C] of columns v [...,M,C], and what they leave of them, v − B T B^H v [...,M,C]."""
    waveforms = gain @ (fields.mH @ columns)
    return waveforms, columns - fields @ waveforms
