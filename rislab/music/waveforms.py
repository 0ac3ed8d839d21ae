"""Waveforms of sources at given places: what explains a snapshot best, and what it leaves.

With B the images of the steering vectors and T = (B^H B + C)^(−1), the waveforms of a snapshot y are ŝ = T B^H y and
r = y − B ŝ is left. C = 0 is least squares (waveforms unknown, I − B T B^H a projection); C = σ² P^(−1) is the
posterior mean of s ~ CN(0, P), and then R^(−1) y = r/σ² for R = B P B^H + σ² I, so that no M×M matrix is ever inverted.
"""

from __future__ import annotations

import torch
from torch import Tensor


def least_squares_gain(images: Tensor, active: Tensor) -> Tensor:
    """T of unknown waveforms, (B^H B)^(−1), [..., K,K]; 0 for inactive sources.

    A loading at rounding level lets two sources at one place share a waveform instead of having none.

    Args:
        images: B, [..., M,K], complex. active: [..., K], bool.
    """
    gram = images.mH @ images
    diagonal = gram.diagonal(dim1=-2, dim2=-1).real
    loading = 4 * torch.finfo(diagonal.dtype).eps * diagonal.amax(-1, keepdim=True) + (~active).to(diagonal)
    loading = torch.where(loading > 0, loading, 1.0)
    inverse, singular = torch.linalg.inv_ex(gram + torch.diag_embed(loading).to(gram.dtype))
    inverse = torch.where((singular > 0)[..., None, None], torch.nan, inverse)
    return inverse * (active.unsqueeze(-1) & active.unsqueeze(-2))


def mmse_gain(images: Tensor, power: Tensor, noise_power: Tensor) -> Tensor:
    """T of waveforms CN(0, P) in noise σ², (B^H B + σ² P^(−1))^(−1), [..., K,K].

    Written as P^½ (P^½ B^H B P^½ + σ² I)^(−1) P^½, which serves p = 0 too.

    Args:
        images: B, [..., M,K], complex. power: p, [..., K], ≥ 0. noise_power: σ², [...], > 0.
    """
    root = power.sqrt()
    scaled = images * root.unsqueeze(-2)
    eye = torch.eye(images.shape[-1], dtype=images.dtype, device=images.device)
    inverse, singular = torch.linalg.inv_ex(scaled.mH @ scaled + noise_power[..., None, None] * eye)
    # Not an exception for all scenes: a search steps back from what is not a number.
    inverse = torch.where((singular > 0)[..., None, None], torch.nan, inverse)
    return root.unsqueeze(-1) * inverse * root.unsqueeze(-2)


def project(images: Tensor, gain: Tensor, onto: Tensor) -> tuple[Tensor, Tensor]:
    """Waveforms T B^H v [..., K,C] of columns v [..., M,C], and what they leave, v − B T B^H v."""
    waveforms = gain @ (images.mH @ onto)
    return waveforms, onto - images @ waveforms
