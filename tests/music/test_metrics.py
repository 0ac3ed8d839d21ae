"""Metrics: matching against brute force, its independence of order and of far estimates, and what the numbers mean."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rislab.data.scene_config import SceneConfig
from rislab.data.scenes import SceneBatch
from rislab.data.simulation import simulate
from rislab.errors import InputError
from rislab.music.crb import crb
from rislab.music.estimate import Estimate
from rislab.music.metrics import (
    MISS,
    QUANTITIES,
    TOLERANCES,
    Matching,
    assign,
    crb_recall,
    match,
    tolerances_of,
    truncated_ratio,
)


@pytest.fixture(scope="module")
def scenes() -> SceneBatch:
    return simulate(SceneConfig.preset("full", separation=math.radians(12)), 40, seed=0)


def rms(matching: Matching, name: str) -> float:
    """Root mean square error of the hits in one quantity."""
    return float(getattr(matching, name)[matching.hit].square().mean().sqrt())


def guessed(batch: SceneBatch, shift: float = 0.0, seed: int = 0) -> Estimate:
    """The truth, its angles shifted by normal errors of `shift` radians."""
    generator = torch.Generator().manual_seed(seed)
    noise = [shift * torch.randn(batch.azimuth.shape, generator=generator) for _ in range(2)]
    return Estimate(batch.azimuth + noise[0], batch.elevation + noise[1], batch.range, batch.power, batch.active)


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(1, 4), columns=st.integers(1, 5), seed=st.integers(0, 10**6))
def test_assignment_is_the_cheapest_of_all(rows: int, columns: int, seed: int) -> None:
    cost = torch.rand(3, rows, columns, generator=torch.Generator().manual_seed(seed))
    columns_of_rows = assign(cost)
    for scene in range(3):
        if columns >= rows:
            best = min(
                sum(float(cost[scene, row, column]) for row, column in enumerate(chosen))
                for chosen in itertools.permutations(range(columns), rows)
            )
            assert float(cost[scene, torch.arange(rows), columns_of_rows[scene]].sum()) == pytest.approx(best)
            assert len(set(columns_of_rows[scene].tolist())) == rows


def test_the_truth_is_found_in_full(scenes: SceneBatch) -> None:
    matching = match(guessed(scenes), scenes)
    assert (matching.recall, matching.precision) == (1.0, 1.0)
    assert torch.equal(matching.hit, scenes.active)
    assert max(rms(matching, name) for name in QUANTITIES) < 1e-6


def test_order_of_estimates_and_far_ones_change_nothing(scenes: SceneBatch) -> None:
    base = match(guessed(scenes, 0.02), scenes)
    estimate = guessed(scenes, 0.02)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(1))
    turned = Estimate(*(getattr(estimate, field.name)[:, order] for field in dataclasses.fields(estimate)))
    far = torch.full((40, 1), 3.0)
    extra = Estimate(
        *(
            torch.cat([far.to(getattr(turned, f.name).dtype), getattr(turned, f.name)], dim=1)
            for f in dataclasses.fields(turned)
        )
    )
    for other in (match(turned, scenes), match(extra, scenes)):
        assert torch.equal(other.hit, base.hit)
        assert [rms(other, name) for name in QUANTITIES] == pytest.approx([rms(base, name) for name in QUANTITIES])
        assert other.recall == base.recall
    assert match(extra, scenes).precision < base.precision


def test_more_hits_win_over_closer_ones() -> None:
    batch = simulate(SceneConfig.preset("full", sources=2), 1, seed=0)
    degree = math.radians(1.0)
    batch = dataclasses.replace(
        batch, azimuth=torch.tensor([[0.0, 4 * degree]]), elevation=torch.zeros(1, 2), range=torch.full((1, 2), 3.0)
    )
    # The first estimate lies nearest to the second source, but only it can serve the first one.
    estimate = Estimate(
        torch.tensor([[3.9 * degree, 8.5 * degree]]),
        torch.zeros(1, 2),
        torch.full((1, 2), 3.0),
        batch.power,
        batch.active,
    )
    assert match(estimate, batch).slot.tolist() == [[0, 1]]


def test_misses_and_false_alarms_are_counted(scenes: SceneBatch) -> None:
    estimate = guessed(scenes)
    none = dataclasses.replace(estimate, active=torch.zeros_like(estimate.active))
    empty = match(none, scenes)
    assert empty.recall == 0.0
    assert math.isnan(empty.precision)
    assert all(math.isnan(value) for value in (*empty.ratio(crb(scenes)).values(), *empty.median().values()))
    everything = dataclasses.replace(estimate, active=torch.ones_like(estimate.active))
    matching = match(everything, scenes)
    assert matching.recall == 1.0
    assert matching.precision == pytest.approx(float(scenes.active.sum()) / 200)
    fewer = Estimate(*(getattr(estimate, f.name)[:, :2] for f in dataclasses.fields(estimate)))
    assert match(fewer, scenes).recall == pytest.approx(float(scenes.active[:, :2].sum() / scenes.active.sum()))


def test_errors_have_the_size_that_was_put_in(scenes: SceneBatch) -> None:
    matching = match(guessed(scenes, 0.01), scenes)
    count = int(matching.hit.sum())
    assert rms(matching, "azimuth") == pytest.approx(0.01, rel=3 / math.sqrt(2 * count))
    assert matching.median()["azimuth"] == pytest.approx(0.6745 * 0.01, rel=0.3)
    assert rms(matching, "range") < 1e-6


def test_ratio_is_one_for_errors_of_the_size_of_the_bound() -> None:
    batch = simulate(SceneConfig.preset("full", sources=1, snr_db=15.0, range=(1.0, 4.0)), 400, seed=1)
    limit = crb(batch)
    generator = torch.Generator().manual_seed(0)
    errors = [
        deviation * torch.randn(400, 1, generator=generator)
        for deviation in (limit.azimuth, limit.elevation, limit.range)
    ]
    estimate = Estimate(
        batch.azimuth + errors[0], batch.elevation + errors[1], batch.range + errors[2], batch.power, batch.active
    )
    ratio = match(estimate, batch).ratio(limit)
    # 400 normal errors: the root mean square scatters by 1/√800 = 3.5 %.
    assert ratio["azimuth"] == pytest.approx(1.0, abs=0.12)
    assert ratio["range"] == pytest.approx(1.0, abs=0.12)
    recall = match(estimate, batch).recall
    assert recall == pytest.approx(crb_recall(batch, limit), abs=0.03)


def test_bad_estimates_are_named(scenes: SceneBatch) -> None:
    estimate = guessed(scenes)
    with pytest.raises(InputError, match="estimate has 40 scenes, and the batch 3"):
        match(estimate, scenes[:3])
    with pytest.raises(InputError, match="holds NaN"):
        match(dataclasses.replace(estimate, azimuth=estimate.azimuth * math.nan), scenes)
    assert MISS > 3 * 64


def test_matching_makes_its_tensors_where_the_scenes_are(scenes: SceneBatch) -> None:
    truth = Estimate(scenes.azimuth, scenes.elevation, scenes.range, scenes.power, scenes.active)
    # A tensor that is made without a device is "meta" here, and mixes with the others no more than with those on a GPU.
    with torch.device("meta"):
        assert match(truth, scenes).recall == 1.0


def test_plane_waves_are_matched_without_a_range() -> None:
    batch = simulate(SceneConfig.preset("classroom", wavefront="planar", sources=1), 20, seed=0)
    off = Estimate(batch.azimuth, batch.elevation, batch.range + 50.0, batch.power, batch.active)
    tolerances = tolerances_of(batch.config)
    assert match(off, batch).recall == 0.0
    assert match(off, batch, tolerances=tolerances).recall == 1.0
    limit = crb(batch)
    assert crb_recall(batch, limit) == 0.0
    assert 0.9 < crb_recall(batch, limit, tolerances=tolerances) <= 1.0
    assert tolerances_of(SceneConfig.preset("classroom")) == TOLERANCES


def test_a_truncated_ratio_is_that_of_drawn_errors() -> None:
    deviation = torch.tensor([0.2, 0.7, 2.0, 0.0, math.inf], dtype=torch.float64)
    drawn = torch.randn(200_000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    counts = (drawn * deviation[:3]).abs() < 1.0
    assert truncated_ratio(deviation, 1.0) == pytest.approx(float(drawn[counts].square().mean().sqrt()), rel=0.01)
    assert truncated_ratio(deviation, math.inf) == 1.0
    assert math.isnan(truncated_ratio(deviation[3:], 1.0))
