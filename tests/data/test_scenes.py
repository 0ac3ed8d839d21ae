"""Scenes: the truth, the batch as a container."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from rislab.data.scene_config import SceneConfig
from rislab.data.scenes import SceneBatch
from rislab.data.simulation import simulate
from rislab.errors import InputError

SMALL = SceneConfig.preset("classroom", ris_shape=(3, 4), antennas=5, snapshots=6)


# The truth


def test_source_snr_adds_up_for_many_snapshots() -> None:
    config = dataclasses.replace(SMALL, snapshots=2000, sources=(3, 3), snr_db=(7.0, 7.0))
    batch = simulate(config, 4, seed=2)
    total = 10 * torch.log10((10 ** (batch.source_snr_db() / 10)).sum(-1))
    # Cross terms between independent sources vanish like 1/√2000.
    torch.testing.assert_close(total, batch.snr_db, atol=0.3, rtol=0)


def test_inactive_sources_have_no_power_and_minus_infinite_snr() -> None:
    batch = simulate(SMALL, 50, seed=0)
    assert set(batch.active.sum(-1).tolist()) == {1, 2, 3}
    assert torch.equal(batch.power > 0, batch.active)
    assert torch.isneginf(batch.source_snr_db()[~batch.active]).all()
    assert float(batch.steering().abs().sum(1)[~batch.active].abs().max()) == 0.0


def test_truth_is_hermitian_of_rank_k_and_trace_n() -> None:
    batch = simulate(SceneConfig.preset("full"), 30, seed=4)
    matrix = batch.covariance(torch.float64)
    assert matrix.dtype == torch.complex128
    torch.testing.assert_close(matrix, matrix.mH)
    torch.testing.assert_close(
        matrix.diagonal(dim1=1, dim2=2).real.sum(-1), torch.full((30,), 144.0, dtype=torch.float64)
    )
    assert torch.equal(torch.linalg.matrix_rank(matrix, rtol=1e-9, hermitian=True), batch.active.sum(-1))


# The batch as a container


def test_indexing_and_joining_are_inverse(classroom: SceneBatch) -> None:
    parts = [classroom[:10], classroom[np.int64(10)], classroom[torch.arange(11, 50)], classroom[list(range(50, 128))]]
    assert SceneBatch.cat(parts).hashes() == classroom.hashes()
    assert len(classroom[-1]) == 1
    assert [len(scene) for scene in classroom[:3]] == [1, 1, 1]
    with pytest.raises(IndexError):
        classroom[128]
    with pytest.raises(InputError, match="different scene configurations"):
        SceneBatch.cat([classroom, simulate(SMALL, 1, seed=0)])


def test_dtype_moves_complex_tensors_along(classroom: SceneBatch) -> None:
    double = classroom[:2].to("cpu", torch.float64)
    assert double.snapshots.dtype == torch.complex128
    assert double.power.dtype == torch.float64
    assert double.active.dtype == torch.bool
    assert double.index.dtype == torch.int64


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["snapshots", "channel", "codes", "azimuth", "noise_power"])
def test_nan_and_infinity_are_named_by_scene(name: str, bad: float, classroom: SceneBatch) -> None:
    tensor = classroom[100:].tensors()[name].clone()
    tensor[7] = bad
    batch = dataclasses.replace(classroom[100:], **{name: tensor})
    with pytest.raises(InputError, match=rf"{name} of scene 7 \(index 107 of its split\)"):
        batch.check_finite()
    classroom.check_finite()
