"""Many small least-squares problems, each in its box, solved together."""

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
    """Where the descents ended."""

    point: Tensor  # [S,P], real
    value: Tensor  # [S], real


def levenberg_marquardt(
    model: Model,
    start: Tensor,
    low: Tensor,
    high: Tensor,
    *,
    xtol: float,
    value_eps: float,
    ftol: float,
    steps: int,
) -> Minimum:
    """Minimise S functions of P coordinates at once by damped steps, each within its box [1].

    A step solves (J + μ diag J) δ = −g. It is taken if the value falls, and then μ shrinks; otherwise μ grows. A
    coordinate at a bound stays there if its gradient points out of the box. Converged problems are not computed again.

    Args:
        model: value, gradient g and a positive semidefinite curvature J (the Fisher or Gauss–Newton matrix).
        start: [S,P], real, within the box.
        low: smallest coordinates, broadcastable to [S,P].
        high: largest coordinates, broadcastable to [S,P]; a coordinate whose ends are equal is fixed.
        xtol: > 0; a problem has converged when no coordinate of its step is larger than this.
        value_eps: relative error of a value; one that rises by no more than this share of 1 + |value| has not risen.
        ftol: a problem has converged too when the predicted decrease of its value is at most this share of it.
        steps: most steps, ≥ 0.

    Returns:
        Minimum, in the dtype of `start`.

    References:
        [1] D. Marquardt, An algorithm for least-squares estimation of nonlinear parameters, J. SIAM 11(2), 1963.
    """
    # Below rounding, damping would not keep a singular curvature solvable.
    smallest = max(SMALLEST_DAMPING, 8 * torch.finfo(start.dtype).eps)
    active = torch.arange(len(start), device=start.device)
    value, gradient, curvature = model(start, active)
    result = Minimum(start.clone(), value.clone())
    here, low, high = start, low.expand_as(start), high.expand_as(start)
    damping = torch.full_like(value, FIRST_DAMPING)
    for _ in range(steps):
        if not len(active):
            break
        step = _step(here, gradient, curvature, damping, low, high)
        moved = (here + step).clamp(low, high)
        new_value, new_gradient, new_curvature = model(moved, active)
        better = new_value <= value + value_eps * (1 + value.abs())  # NaN is never better
        decrease = -(gradient * step).sum(-1) / 2
        unfinished = ((moved - here).abs() > xtol).any(dim=-1) & (decrease > ftol * value.abs())
        damping = (damping * torch.where(better, 0.1, 10.0).to(damping)).clamp_(min=smallest)
        unfinished &= damping <= LARGEST_DAMPING
        row = better.unsqueeze(-1)
        here, value = torch.where(row, moved, here), torch.where(better, new_value, value)
        gradient = torch.where(row, new_gradient, gradient)
        curvature = torch.where(row.unsqueeze(-1), new_curvature, curvature)
        rest = unfinished.nonzero().squeeze(-1)
        if len(rest) < len(active):
            result.point[active], result.value[active] = here, value
            here, value, gradient, curvature = here[rest], value[rest], gradient[rest], curvature[rest]
            damping, low, high, active = damping[rest], low[rest], high[rest], active[rest]
    result.point[active], result.value[active] = here, value
    return result


def _step(here: Tensor, gradient: Tensor, curvature: Tensor, damping: Tensor, low: Tensor, high: Tensor) -> Tensor:
    fixed = ((here <= low) & (gradient > 0)) | ((here >= high) & (gradient < 0)) | (low >= high)  # [S, P]
    diagonal = curvature.diagonal(dim1=-2, dim2=-1)
    fixed = fixed | (diagonal <= 0)
    # Scaled to unit diagonal, so that radians and inverse metres weigh alike.
    scale = torch.where(fixed, 0, diagonal).rsqrt().masked_fill(fixed, 0.0)
    scaled = scale.unsqueeze(-1) * curvature * scale.unsqueeze(-2)
    damped = scaled + torch.diag_embed(damping.unsqueeze(-1) + fixed.to(scaled))
    return -scale * torch.linalg.solve_ex(damped, (scale * gradient).unsqueeze(-1)).result.squeeze(-1)
