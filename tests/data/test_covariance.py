"""Covariances: back-projection against its definition, blends against dense forms."""

from __future__ import annotations

import pytest
import torch

from rislab.data.covariance import (
    back_project,
    beam_power,
    covariance,
    frobenius_squared,
    sample_factor,
    shrink,
)
from rislab.data.scenes import SceneBatch
from rislab.errors import InputError


def test_back_projection_is_ridge_regression_snapshot_by_snapshot(classroom: SceneBatch) -> None:
    scene = classroom[:1].to("cpu", torch.float64)
    ridge = 0.1 * float((scene.channel[0] @ scene.channel[0].mH).diagonal().real.mean())
    columns = back_project(scene.snapshots, scene.codes, scene.channel, ridge=0.1)[0]
    for l in range(scene.config.snapshots):
        sensing = scene.channel[0] @ torch.diag(scene.codes[0, l])
        inverse = torch.linalg.inv(sensing @ sensing.mH + ridge * torch.eye(8, dtype=sensing.dtype))
        # Codes are rounded to float32 when drawn: |c| = 1 to 1e-7.
        torch.testing.assert_close(columns[:, l], sensing.mH @ inverse @ scene.snapshots[0, l], atol=1e-5, rtol=1e-5)


def test_sample_covariance_has_trace_n_and_scores_worse_than_nothing(full: SceneBatch) -> None:
    matrix = covariance(sample_factor(full))
    torch.testing.assert_close(matrix.diagonal(dim1=1, dim2=2).real.sum(-1), torch.full((16,), 144.0))
    truth = full.covariance()
    score = (frobenius_squared(matrix - truth) / frobenius_squared(truth)).mean()
    assert 0.9 < float(score) < 1.2


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_blend_of_factors_is_the_blend_of_covariances(beta: float, classroom: SceneBatch) -> None:
    truth, sample = classroom[:4].factor(), sample_factor(classroom[:4])
    dense = (1 - beta) * covariance(truth) + beta * covariance(sample)
    torch.testing.assert_close(covariance(shrink(truth, sample, beta)), dense, atol=1e-4, rtol=1e-5)


def test_bad_ridge_and_weight_are_named(classroom: SceneBatch) -> None:
    with pytest.raises(InputError, match="ridge is 0"):
        sample_factor(classroom[:1], ridge=0.0)
    with pytest.raises(InputError, match="weight is 1.5"):
        shrink(classroom[:1].factor(), classroom[:1].factor(), 1.5)


def test_beam_power_is_the_quadratic_form(full: SceneBatch) -> None:
    scene = full[:3].to("cpu", torch.float64)
    array = scene.config.array(dtype=torch.float64)
    atoms = array.steering(scene.azimuth[0], scene.elevation[0], scene.range[0])
    direct = torch.einsum("gn,bnm,gm->bg", atoms.conj(), scene.covariance(), atoms).real
    torch.testing.assert_close(beam_power(scene.factor(), atoms), direct)
