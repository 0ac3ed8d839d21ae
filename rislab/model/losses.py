"""Losses on factors: NMSE by small Grams, and the further terms of the curriculum.

Every term is 0 at the true covariance, and every term is computed from the predicted factor, so that the whole network
gets a gradient from each.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rislab.data.covariance import beam_power, effective_rank, frobenius_squared, nmse, sample_factor, shrink
from rislab.data.scene_config import SceneConfig
from rislab.data.scenes import SceneBatch
from rislab.errors import InputError
from rislab.model.curriculum import LossWeights


def subspace_leakage(predicted: Tensor, truth: Tensor, active: Tensor) -> Tensor:
    """Share of the predicted energy outside the true signal subspace, 1 − tr(P_B F F^H) / tr(F F^H), [B] in [0, 1].

    P_B projects onto the span of the true factor. It comes from a QR decomposition of the truth, which carries no
    gradient: no singular vectors of a rank-deficient prediction are differentiated.

    Args:
        predicted: F, [B,N,K'], complex.
        truth: B, [B,N,K], complex, its active columns first.
        active: [B,K], bool; columns of `truth` that hold a source.
    """
    with torch.no_grad():
        basis = torch.linalg.qr(truth).Q  # [B, N, min(N, K)]
        basis = basis * active[..., : basis.shape[-1]].unsqueeze(-2)
    energy = frobenius_squared(predicted)
    return 1 - frobenius_squared(basis.mH @ predicted) / energy.clamp_min(torch.finfo(energy.dtype).tiny)


def order_error(predicted: Tensor, truth: Tensor) -> Tensor:
    """Squared logarithm of the ratio of effective ranks, [B], with effective rank (tr G)² / tr G² of the Gram G.

    For equal, orthogonal sources the effective rank is their number; the truth's own value is the target, so the
    term is 0 at the truth for any sources. The arguments are those of nmse().
    """
    return torch.log(effective_rank(predicted) / effective_rank(truth)).square()


def position_error(predicted: Tensor, truth: Tensor, position_grid: PositionGrid) -> Tensor:
    """Distance between predicted and true distributions of beam power along azimuth, elevation and inverse range, [B].

    Beam powers a_g^H R a_g on a coarse grid, over the true total, are summed to three marginals; each pair of
    marginals is compared by the mean squared difference of their cumulative sums (Cramér distance). Unlike the NMSE,
    whose slope vanishes once two beams no longer overlap, it falls steadily as power moves towards its place. It
    needs no pairing of sources.

    Args:
        predicted: F, [B,N,K'], complex.
        truth: B, [B,N,K], complex.
        position_grid: on which beam powers are compared.
    """
    true_power = position_grid.power(truth)  # [B, P, Q, R]
    difference = (position_grid.power(predicted) - true_power) / true_power.sum(dim=(1, 2, 3), keepdim=True)
    distance = torch.zeros_like(difference[:, 0, 0, 0])
    for axis in (1, 2, 3):
        others = [other for other in (1, 2, 3) if other != axis]
        distance = distance + difference.sum(dim=others).cumsum(dim=-1).square().mean(dim=-1)
    return distance


@dataclass(frozen=True, eq=False)
class PositionGrid:
    """Coarse grid of steering vectors on which position_error() compares covariances."""

    atoms: Tensor  # steering vectors, [G,N], complex
    shape: tuple[int, int, int]  # points along azimuth, elevation and inverse range, (P,Q,R) with P·Q·R = G

    @classmethod
    def of(cls, config: SceneConfig, dtype: torch.dtype, device: torch.device) -> PositionGrid:
        """One point a beam width over the field of view, at three inverse ranges."""
        rows, columns = config.ris_shape
        shape = (columns, max(rows // 2, 1), 3)
        atoms = config.grid(shape, spacing="sine").steering(torch.complex128)
        return cls(atoms.to(device, dtype), shape)

    def power(self, factor: Tensor) -> Tensor:
        """Beam power on the grid, a_g^H F F^H a_g, [B,P,Q,R]."""
        return beam_power(factor, self.atoms).reshape(-1, *self.shape)


@dataclass(frozen=True, eq=False)
class Loss:
    """Loss of one micro-batch."""

    total: Tensor  # mean weighted sum over the scenes, a real scalar with a gradient
    terms: dict[str, Tensor]  # value of each weighted term, mean over the scenes, without gradient; "nmse" is of R_test
    nmse_pred: Tensor  # mean NMSE of R_pred, without gradient
    requires_grad: bool  # whether R_test carries a gradient


def compute_loss(predicted: Tensor, batch: SceneBatch, weights: LossWeights, beta: float = 0.0) -> Loss:
    """Loss of a predicted factor: NMSE of R_test = (1−β) R_pred + β R_sample plus the further terms on R_pred.

    Args:
        predicted: F, [B,N,Kmax], complex.
        batch: the scenes, with their truth.
        weights: of the terms; a term of weight 0 is not computed.
        beta: share β of the sample covariance in R_test, [0, 1].

    Returns:
        Loss; `terms["nmse"]` is loss_nmse, on R_test.

    Raises:
        InputError: if the predicted factor has another shape, or is not complex.
    """
    truth = batch.factor()
    if not predicted.is_complex() or predicted.shape[:2] != truth.shape[:2] or predicted.ndim != 3:
        raise InputError(
            f"the model's answer is {predicted.dtype} of shape {tuple(predicted.shape)}; "
            f"allowed: a complex factor of shape ({truth.shape[0]}, {truth.shape[1]}, any)"
        )
    tested = shrink(predicted, sample_factor(batch), beta) if beta > 0 else predicted
    values = {"nmse": nmse(tested, truth)}
    if weights.subspace > 0:
        values["subspace"] = subspace_leakage(predicted, truth, batch.active)
    if weights.order > 0:
        values["order"] = order_error(predicted, truth)
    if weights.position > 0:
        values["position"] = position_error(predicted, truth, PositionGrid.of(batch.config, truth.dtype, truth.device))
    by_term = weights.by_term()
    total = torch.stack([by_term[name] * value for name, value in values.items()]).sum(dim=0)  # [B]
    with torch.no_grad():
        pred = values["nmse"] if beta == 0 else nmse(predicted, truth)
    terms = {name: value.detach().mean() for name, value in values.items()}
    return Loss(total.mean(), terms, pred.detach().mean(), tested.requires_grad)
