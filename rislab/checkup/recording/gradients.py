"""Gradients of a window, and how one compares with another: scale α, direction, relative error."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

# Alarm levels of the accumulated gradient against one batch, (relative L2, |α−1|), by precision: about ten times the
# floors measured for each.
GRADIENT_TOLERANCES = {"fp64": (1e-12, 1e-12), "fp32": (1e-5, 1e-5), "fp16": (1e-2, 1e-3), "bf16": (5e-2, 5e-3)}
# The square of a smaller number, or of one over it, is hardly one of float32.
SQUARED = 1e-16


@dataclass(frozen=True)
class GradientComparison:
    """Gradient g against reference r: relative L2 ‖g − r‖/‖r‖, α = ⟨g,r⟩/⟨r,r⟩, and their cosine."""

    relative_error: float
    alpha: float
    cosine: float


def length_of(gradient: Tensor) -> float:
    """Norm of a flat gradient; in float64, which takes longer, where its squares may be too small or too large."""
    length = float(torch.linalg.vector_norm(gradient))
    plain = SQUARED < length < 1 / SQUARED
    return length if plain else float(torch.linalg.vector_norm(gradient, dtype=torch.float64))


def compare_gradients(gradient: Tensor, reference: Tensor, length: float | None = None) -> GradientComparison:
    """Compare two flat gradients, in float64.

    Args:
        gradient: g.
        reference: r, of as many coordinates.
        length: length_of() the reference; None if it is not known.
    """
    length = length_of(reference) if length is None else length
    # Less is rounding in any precision, and takes less time to compute than whether they are equal.
    if 0 < length < math.inf and float(torch.linalg.vector_norm(gradient - reference)) <= SQUARED * length:
        return GradientComparison(0.0, 1.0, 1.0)
    g, r = gradient.double(), reference.double()
    square = float(r @ r)
    product = float(g @ r)
    # nan rather than a division by zero: a reference without length can judge nothing.
    alpha = product / square if square > 0 else math.nan
    length = math.sqrt(float(g @ g) * square)
    return GradientComparison(
        relative_error=float((g - r).norm()) / math.sqrt(square) if square > 0 else math.nan,
        alpha=alpha,
        cosine=product / length if length > 0 else math.nan,
    )


def flat_gradient(model: nn.Module) -> Tensor:
    """The gradients of all parameters as one vector on the CPU; a parameter without one counts as zeros."""
    missing_as_zero = [
        torch.zeros_like(parameter) if parameter.grad is None else parameter.grad for parameter in model.parameters()
    ]
    return torch.cat([gradient.flatten() for gradient in missing_as_zero]).cpu()
