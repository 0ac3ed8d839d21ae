"""The posterior: what a dense grid gives, regions that hold what they say, more hits than maximum likelihood."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from rislab.data.geometry import ArrayGeometry, separation
from rislab.data.measurement import Measurement
from rislab.data.scene_config import SceneConfig
from rislab.data.scenes import SceneBatch
from rislab.data.simulation import simulate
from rislab.errors import InputError
from rislab.music.estimate import Estimate
from rislab.music.metrics import match
from rislab.music.posterior import Posterior, sample_posterior
from rislab.music.sparse import sparse

CLASSROOM = SceneConfig.preset("classroom", snr_db=0.0, sources=2)
SCENES = 70


@pytest.fixture(scope="module")
def noisy() -> tuple[SceneBatch, Estimate, Posterior]:
    batch = simulate(CLASSROOM, SCENES, seed=811)
    start = sparse(batch, 2)
    return batch, start, sample_posterior(batch, start, seed=3)


def test_a_fit_that_leaves_nothing_has_a_posterior() -> None:
    """One source has as many unknowns as two snapshots of one antenna have numbers: no noise is left."""
    config = SceneConfig.preset("classroom", ris_shape=(1, 5), elevation=0.0, sources=1, antennas=1, snapshots=2)
    batch = simulate(config.changed(symbols="constant", snr_db=20.0), 2, seed=0)
    posterior = sample_posterior(batch, sparse(batch, 1), candidates=64, chains=2, sweeps=2)
    assert bool(torch.isfinite(posterior.samples).all())
    torch.testing.assert_close(posterior.weights.sum(-1), torch.ones(2, 1))


@pytest.mark.slow
def test_nine_of_ten_regions_hold_their_source(noisy: tuple[SceneBatch, Estimate, Posterior]) -> None:
    batch, _, posterior = noisy
    slot = match(posterior.expected_hits(), batch, tolerances=(9.0, 9.0, 99.0)).slot
    low, high = (end.gather(1, slot.unsqueeze(-1).expand(-1, -1, 3)) for end in posterior.interval(0.9))
    truth = torch.stack([batch.azimuth, batch.elevation, batch.range], dim=-1)
    # 420 intervals: 0.9 scatters by 0.015.
    assert 0.85 <= float(((low <= truth) & (truth <= high)).float().mean()) <= 0.95


def test_expected_hits_are_hits_and_more_than_those_of_the_start(
    noisy: tuple[SceneBatch, Estimate, Posterior],
) -> None:
    batch, start, posterior = noisy
    recall = match(posterior.expected_hits(), batch).recall
    assert recall > match(start, batch).recall
    assert float(posterior.hit_probability().mean()) == pytest.approx(recall, abs=0.08)
    quick = sample_posterior(batch, start, candidates=96, chains=4, sweeps=2, flattened=False)
    torch.testing.assert_close(quick.weights.sum(-1), torch.ones_like(quick.weights[..., 0]))
    assert match(start, batch).recall < match(quick.expected_hits(), batch).recall < recall


def log_likelihood(batch: SceneBatch, azimuth: Tensor, level: Tensor, noise: Tensor) -> Tensor:
    """ln L of one source at each azimuth, power and noise power, [A,P,S], with every covariance written out."""
    vectors = batch.config.array(dtype=torch.float64).steering(azimuth, 0 * azimuth, 0 * azimuth + 2.0)
    fields = torch.einsum("mn,ln,an->alm", batch.channel[0], batch.codes[0], vectors)
    signal = (fields.unsqueeze(-1) * fields.unsqueeze(-2).conj())[:, None, None]  # [A, 1, 1, L, M, M]
    eye = torch.eye(fields.shape[-1], dtype=fields.dtype)
    covariance = level[:, None, None, None, None] * signal + noise[:, None, None, None] * eye
    snapshots = batch.snapshots[0].unsqueeze(-1)
    energy = (snapshots.mH @ torch.linalg.solve(covariance, snapshots)).real.sum((-3, -2, -1))
    return -energy - torch.linalg.slogdet(covariance).logabsdet.sum(-1)


@pytest.mark.slow
def test_one_unknown_angle_is_distributed_as_on_a_dense_grid() -> None:
    config = dataclasses.replace(CLASSROOM, sources=(1, 1), elevation=(0.0, 0.0), range=(2.0, 2.0), snr_db=(-8.0, -8.0))
    batch = simulate(config, 1, seed=5).to(dtype=torch.float64)
    start = sparse(batch, 1)
    azimuth = torch.linspace(*config.azimuth, 81, dtype=torch.float64)
    level = start.power[0] * torch.linspace(-2.4, 1.6, 9, dtype=torch.float64).exp()
    noise = batch.noise_power * torch.linspace(-0.4, 0.4, 5, dtype=torch.float64).exp()
    # Uniform in the level, so that each step of its logarithm counts by the level.
    table = log_likelihood(batch, azimuth, level, noise) + level.log().unsqueeze(-1)
    density = torch.softmax(table.flatten(1).logsumexp(1), 0)
    posterior = sample_posterior(batch, start, candidates=4096, sweeps=10)
    below = posterior.points[0, 0, :, :1] <= azimuth + (azimuth[1] - azimuth[0]) / 2
    shares = posterior.weights[0, 0] @ below.double()
    assert float((shares - density.cumsum(0)).abs().max()) < 0.06


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bits_and_leaves_other_random_numbers_alone() -> None:
    batch = simulate(CLASSROOM, 3, seed=1)
    start = sparse(batch, 2)
    before = torch.get_rng_state()
    one, same, other = (sample_posterior(batch, start, seed=seed) for seed in (7, 7, 8))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(vars(one)[name], vars(same)[name]) for name in vars(one))
    assert not torch.equal(one.points, other.points)


def test_samples_keep_the_prior_and_inactive_slots_stay_so() -> None:
    config = dataclasses.replace(CLASSROOM, separation=math.radians(15), power_law="free-space")
    batch = simulate(config, 6, seed=2)
    places = sample_posterior(batch, sparse(batch, torch.tensor([2, 2, 2, 2, 1, 1]))).samples
    azimuth, elevation, metres = places.unbind(-1)
    angle = separation(azimuth[..., 0], elevation[..., 0], azimuth[..., 1], elevation[..., 1])
    assert float(angle[:4].min()) >= math.radians(15) - 1e-3
    for axis, name in ((azimuth, "azimuth"), (elevation, "elevation"), (metres, "range")):
        low, high = getattr(config, name)
        assert low - 1e-5 <= float(axis.min()) and float(axis.max()) <= high + 1e-5


@pytest.mark.parametrize("symbols", ["varying", "constant"])
def test_measurements_of_any_array_are_taken(symbols: str) -> None:
    array = ArrayGeometry.circular(10, 0.1, "planar", radius=0.1)
    generator = torch.Generator().manual_seed(0)
    waveform = torch.randn(20, 1, dtype=torch.complex64, generator=generator)
    if symbols == "constant":
        waveform = waveform[:1].expand(20, 1)
    place = (torch.tensor([value], dtype=torch.float64) for value in (2.5, 0.0, 1.0))
    noise = torch.randn(20, 10, dtype=torch.complex64, generator=generator)
    measurement = Measurement.direct(waveform * array.steering(*place) * 3 + 0.1 * noise, array, symbols=symbols)
    posterior = sample_posterior(measurement, sparse(measurement, 1))
    low, high = (float(end[0, 0, 0]) for end in posterior.interval(0.99))
    assert low < 2.5 < high and high - low < 0.3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "seed is -1"),
        ({"candidates": 3}, "candidates is 3"),
        ({"chains": 500}, "chains is 500"),
        ({"sweeps": 1}, "sweeps is 1"),
        ({"powers": "any"}, "powers is 'any'"),
    ],
)
def test_bad_arguments_are_named(options: dict[str, Any], message: str) -> None:
    batch = simulate(CLASSROOM, 1, seed=0)
    with pytest.raises(InputError, match=message):
        sample_posterior(batch, sparse(batch, 2), **options)
