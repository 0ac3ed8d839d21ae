"""Estimates: the covariance that they stand for, and the images of fields that the likelihood is built on."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rislab.data.covariance import covariance, frobenius_squared
from rislab.data.scene_config import SceneConfig
from rislab.data.scenes import SceneBatch
from rislab.data.simulation import simulate
from rislab.data.wavefronts import WAVEFRONTS
from rislab.errors import InputError
from rislab.music.estimate import Estimate
from tests.music.helpers import truth


@settings(max_examples=20, deadline=None)
@given(scale=st.floats(1e-6, 1e6), seed=st.integers(0, 1000), wavefront=st.sampled_from(WAVEFRONTS))
def test_the_factor_of_the_truth_is_that_of_the_scene_whatever_the_scale_of_the_powers(
    scale: float, seed: int, wavefront: str
) -> None:
    config = SceneConfig.preset("classroom", wavefront=wavefront, power_law="free-space")
    batch = simulate(config, 4, seed=seed).to(dtype=torch.float64)
    estimate = dataclasses.replace(truth(batch), power=scale * batch.power)
    factor = estimate.factor(config.array(dtype=torch.float64))
    # Powers are drawn in float32: they sum to N within 1e-7.
    torch.testing.assert_close(factor, batch.factor(), atol=1e-6, rtol=0)
    torch.testing.assert_close(frobenius_squared(factor), torch.full((4,), 36.0, dtype=torch.float64))


def test_inactive_slots_have_zero_columns_even_where_they_hold_nan(classroom: SceneBatch) -> None:
    estimate = truth(classroom)
    empty = ~classroom.active
    assert bool(empty.any())
    holes = {
        name: getattr(estimate, name).masked_fill(empty, math.nan)
        for name in ("azimuth", "elevation", "range", "power")
    }
    factor = dataclasses.replace(estimate, **holes).factor(classroom.config.array())
    assert bool((factor.mT[empty] == 0).all())
    torch.testing.assert_close(factor, estimate.factor(classroom.config.array()))
    torch.testing.assert_close(frobenius_squared(factor), torch.full((len(classroom),), 36.0))


def test_sources_without_power_add_nothing_and_without_any_the_factor_is_zero(classroom: SceneBatch) -> None:
    scenes = classroom[classroom.active.sum(-1) == 3][:2]
    array = scenes.config.array()
    estimate = truth(scenes)
    for nothing in (0.0, -1.0):
        power = estimate.power.clone()
        power[:, 1] = nothing
        quiet = dataclasses.replace(estimate, power=power).factor(array)
        assert bool((quiet[..., 1] == 0).all())
        torch.testing.assert_close(frobenius_squared(quiet), torch.full((2,), 36.0))
    silent = dataclasses.replace(estimate, power=torch.zeros_like(estimate.power))
    empty = dataclasses.replace(estimate, active=torch.zeros_like(estimate.active))
    for nothing_at_all in (silent, empty):
        assert bool((nothing_at_all.factor(array) == 0).all())


def test_order_of_sources_does_not_change_the_covariance(classroom: SceneBatch) -> None:
    estimate = truth(classroom[:8])
    turned = Estimate(*(getattr(estimate, field.name)[:, [2, 0, 1]] for field in dataclasses.fields(estimate)))
    array = classroom.config.array()
    torch.testing.assert_close(covariance(turned.factor(array)), covariance(estimate.factor(array)))


def test_only_active_estimates_must_be_finite(classroom: SceneBatch) -> None:
    estimate = truth(classroom)
    holes = estimate.range.masked_fill(~classroom.active, math.inf)
    dataclasses.replace(estimate, range=holes).check_finite()
    with pytest.raises(InputError, match="an active estimate holds NaN or infinity"):
        dataclasses.replace(estimate, range=torch.full_like(holes, math.inf)).check_finite()


@pytest.mark.parametrize("columns", [1, 5])
def test_received_fields_are_the_channel_after_the_codes(columns: int, classroom: SceneBatch) -> None:
    scenes = classroom[:3].to(dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    fields = torch.randn(3, 36, columns, generator=generator, dtype=torch.complex128)
    expected = torch.einsum("bmn,bln,bnc->blmc", scenes.channel, scenes.codes, fields)
    torch.testing.assert_close(scenes.received_fields(fields), expected, atol=1e-12, rtol=1e-12)


def test_received_fields_of_the_sources_with_their_symbols_are_the_snapshots_without_noise() -> None:
    batch = simulate(SceneConfig.preset("classroom", snr_db=120.0), 3, seed=0)
    received = (batch.received_fields(batch.steering()) @ batch.symbols.unsqueeze(-1)).squeeze(-1)
    # Single precision: a sum of 36 × 3 terms, each of the order of the result.
    torch.testing.assert_close(received, batch.snapshots, rtol=0, atol=1e-4 * float(batch.snapshots.abs().max()))
