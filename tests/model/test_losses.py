"""Losses: small Grams against dense matrices, zero at the truth, gradients, reference lines, curriculum."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from rislab.data.covariance import (
    constant_baseline,
    covariance,
    effective_rank,
    frobenius_squared,
    identity_baseline,
    nmse,
    sample_factor,
    shrink,
    zero_baseline,
)
from rislab.data.scenes import SceneBatch
from rislab.model import curriculum, losses


def random_factor(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def dense_nmse(predicted: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    return frobenius_squared(covariance(predicted) - covariance(truth)) / frobenius_squared(covariance(truth))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_nmse_by_grams_is_the_dense_nmse(dtype: torch.dtype, tolerance: float, beta: float, full: SceneBatch) -> None:
    batch = full.to("cpu", dtype)
    truth = batch.factor()
    for scale in (0.0, 1e-3, 1.0):
        near = truth + scale * random_factor(truth.shape, truth.dtype)
        tested = shrink(near, sample_factor(batch), beta)
        dense = dense_nmse(tested.to(torch.complex128), truth.to(torch.complex128))
        grams = nmse(tested, truth)
        assert float((grams.double() - dense).abs().max()) <= tolerance * max(1.0, float(dense.max()))


def test_nmse_does_not_depend_on_which_factor_is_taken(classroom: SceneBatch) -> None:
    truth = classroom.to("cpu", torch.float64).factor()
    rotation = torch.linalg.qr(random_factor((3, 3), torch.complex128)).Q
    predicted = random_factor(truth.shape, truth.dtype, seed=1)
    torch.testing.assert_close(nmse(predicted @ rotation, truth), nmse(predicted, truth))
    order = torch.randperm(3, generator=torch.Generator().manual_seed(0))
    assert float(nmse(truth[..., order], truth).abs().max()) < 1e-12


def test_every_term_is_zero_at_the_truth_and_positive_beside_it(full: SceneBatch) -> None:
    batch = full.to("cpu", torch.float64)
    truth = batch.factor()
    every = curriculum.LossWeights("all", nmse=1.0, subspace=1.0, order=1.0, position=1.0)
    perfect = losses.compute_loss(truth, batch, every)
    assert set(perfect.terms) == {"nmse", "subspace", "order", "position"}
    assert max(abs(float(value)) for value in perfect.terms.values()) < 1e-10
    beside = losses.compute_loss(truth + 0.1 * random_factor(truth.shape, truth.dtype), batch, every)
    assert min(float(value) for value in beside.terms.values()) > 1e-6


def test_terms_do_not_depend_on_the_factor_or_the_order_of_sources(full: SceneBatch) -> None:
    batch = full.to("cpu", torch.float64)
    predicted = random_factor(tuple(batch.factor().shape), torch.complex128, seed=2)
    rotation = torch.linalg.qr(random_factor((5, 5), torch.complex128)).Q
    every = curriculum.LossWeights("all", nmse=1.0, subspace=1.0, order=1.0, position=1.0)
    one, two = losses.compute_loss(predicted, batch, every), losses.compute_loss(predicted @ rotation, batch, every)
    for name in one.terms:
        torch.testing.assert_close(one.terms[name], two.terms[name])


@pytest.mark.parametrize("name", ["nmse", "subspace", "order", "position"])
def test_gradients_are_right_and_finite_for_rank_deficient_predictions(name: str, classroom: SceneBatch) -> None:
    batch = classroom[:2].to("cpu", torch.float64)
    weights = curriculum.LossWeights("one", **{"nmse": 0.0, name: 1.0})
    predicted = random_factor((2, 36, 3), torch.complex128, seed=3).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda factor: losses.compute_loss(factor, batch, weights).total, (predicted,), fast_mode=True
    )
    # One column three times: the singular vectors of this factor are not unique, and their gradient would be NaN.
    degenerate = predicted.detach()[..., :1].expand(-1, -1, 3).clone().requires_grad_()
    losses.compute_loss(degenerate, batch, weights).total.backward()
    assert degenerate.grad is not None
    assert bool(torch.isfinite(torch.view_as_real(degenerate.grad)).all())


def test_effective_rank_counts_equal_orthogonal_columns() -> None:
    basis = torch.linalg.qr(random_factor((1, 20, 4), torch.complex128)).Q
    assert float(effective_rank(basis)) == pytest.approx(4.0)
    assert float(effective_rank(basis[..., :1])) == pytest.approx(1.0)


def test_subspace_leakage_is_the_share_outside() -> None:
    basis = torch.linalg.qr(random_factor((1, 20, 4), torch.complex128)).Q
    truth, outside = basis[..., :2], basis[..., 2:3]
    active = torch.ones(1, 2, dtype=torch.bool)
    mixed = torch.cat([truth[..., :1] * 3**0.5, outside], dim=-1)
    assert float(losses.subspace_leakage(mixed, truth, active)) == pytest.approx(0.25)


def test_position_error_grows_with_the_displacement_where_nmse_does_not(full: SceneBatch) -> None:
    batch = dataclasses.replace(full[:1], active=torch.tensor([[True, False, False, False, False]]))
    batch = dataclasses.replace(
        batch,
        azimuth=torch.zeros(1, 5),
        elevation=torch.zeros(1, 5),
        range=torch.full((1, 5), 3.0),
        power=144.0 * batch.active,
    )
    position_grid = losses.PositionGrid.of(batch.config, torch.complex64, torch.device("cpu"))
    errors, scores = [], []
    for azimuth in (0.2, 0.5, 0.9):
        moved = dataclasses.replace(batch, azimuth=torch.full((1, 5), azimuth))
        errors.append(float(losses.position_error(moved.factor(), batch.factor(), position_grid)))
        scores.append(float(nmse(moved.factor(), batch.factor())))
    assert errors[0] < errors[1] < errors[2]
    assert max(scores) - min(scores) < 0.1


def test_reference_lines_are_what_their_predictors_score(classroom: SceneBatch) -> None:
    truth = classroom.factor(torch.float64)
    eye = torch.eye(36, dtype=torch.complex128).expand(128, -1, -1)
    assert float(dense_nmse(eye, truth).mean()) == pytest.approx(identity_baseline(classroom), abs=1e-6)
    assert 0.86 <= identity_baseline(classroom) <= 0.97
    assert zero_baseline() == float(dense_nmse(torch.zeros_like(truth), truth).mean())
    best = constant_baseline(classroom)
    dense = classroom.covariance(torch.float64)
    energy = frobenius_squared(dense)
    constant = (dense / energy[:, None, None]).sum(0) / (1 / energy).sum()
    for scale in (0.9, 1.1):  # no other multiple does better
        other = float((frobenius_squared(scale * constant - dense) / energy).mean())
        assert other > best
    assert best < identity_baseline(classroom)


def test_the_blend_is_tested_and_the_prediction_reported_beside_it(classroom: SceneBatch) -> None:
    predicted = classroom.factor().requires_grad_()
    loss = losses.compute_loss(predicted, classroom, curriculum.NO_CURRICULUM, beta=0.4)
    assert abs(float(loss.nmse_pred)) < 1e-5
    assert float(loss.terms["nmse"]) > 0.01
    assert loss.requires_grad
    assert not losses.compute_loss(predicted.detach(), classroom, curriculum.NO_CURRICULUM).requires_grad
