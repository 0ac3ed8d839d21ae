"""Damped scoring: many small least-squares problems in a box, solved together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# (points [S,P], which problems [S]) → value [S], gradient [S,P], curvature [S,P,P]
Model = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]

FIRST_DAMPING, SMALLEST_DAMPING, LARGEST_DAMPING = 1e-3, 1e-9, 1e9


@dataclass(frozen=True, eq=False)
class Minimum:
    """Where the descents ended: point [S,P] and value [S]."""

    point: Tensor
    value: Tensor


def levenberg_marquardt(
    model: Model,
    start: Tensor,
    low: Tensor,
    high: Tensor,
    *,
    tolerance: float,
    rounding: float,
    enough: float,
    steps: int,
) -> Minimum:
    """Minimise S functions at once, each by damped scoring (Levenberg–Marquardt) within its box.

    A step solves (J + μ diag J) δ = −g. It is kept if the value falls, and then μ shrinks; otherwise μ grows. A
    coordinate at the edge of the box that wants to leave it rests. Problems that have converged are not computed again.

    Args:
        model: value, gradient and a positive semidefinite curvature J (the Fisher or Gauss–Newton matrix).
        start: [S,P], real, within the box.
        low, high: the box, broadcastable to [S,P]; equal ends hold a coordinate.
        tolerance: a problem has converged when no coordinate of its step is larger than this.
        rounding: a value that rises by no more than this share of 1 + |value| has not risen.
        enough: a problem has converged too when its step promises to lower the value by no more than this share of it.
        steps: most steps, ≥ 0.

    Source:
        D. Marquardt, An algorithm for least-squares estimation of nonlinear parameters, J. SIAM 11(2), 1963.
    """
    point = start.clone()
    low, high = low.expand_as(point), high.expand_as(point)
    # Below rounding, damping would not keep a singular curvature solvable.
    smallest = max(SMALLEST_DAMPING, 8 * torch.finfo(point.dtype).eps)
    active = torch.arange(len(point), device=point.device)
    value, slope, curvature = model(point, active)
    damping = torch.full_like(value, FIRST_DAMPING)
    for _ in range(steps):
        if not len(active):
            break
        here, slope_there = point[active], slope[active]
        step = _step(here, slope_there, curvature[active], damping[active], low[active], high[active])
        moved = (here + step).clamp(low[active], high[active])
        new_value, new_slope, new_curvature = model(moved, active)
        old = value[active]
        better = new_value <= old + rounding * (1 + old.abs())  # NaN is never better
        kept, tried = active[better], better.nonzero().squeeze(-1)
        point[kept], value[kept] = moved[tried], new_value[tried]
        slope[kept], curvature[kept] = new_slope[tried], new_curvature[tried]
        damping[active] *= torch.where(better, 0.1, 10.0).to(damping)
        damping.clamp_(min=smallest)
        promised = -(slope_there * step).sum(-1) / 2
        going = ((moved - here).abs() > tolerance).any(dim=-1) & (promised > enough * old.abs())
        going &= damping[active] <= LARGEST_DAMPING
        active = active[going]
    return Minimum(point, value)


def _step(here: Tensor, slope: Tensor, curvature: Tensor, damping: Tensor, low: Tensor, high: Tensor) -> Tensor:
    resting = ((here <= low) & (slope > 0)) | ((here >= high) & (slope < 0)) | (low >= high)  # [S, P]
    diagonal = curvature.diagonal(dim1=-2, dim2=-1)
    resting = resting | (diagonal <= 0)
    # Scaled to unit diagonal, so that radians and inverse metres weigh alike.
    scale = torch.where(resting, 0, diagonal).rsqrt().masked_fill(resting, 0.0)
    scaled = scale.unsqueeze(-1) * curvature * scale.unsqueeze(-2)
    damped = scaled + torch.diag_embed(damping.unsqueeze(-1) + resting.to(scaled))
    return -scale * torch.linalg.solve_ex(damped, (scale * slope).unsqueeze(-1)).result.squeeze(-1)
