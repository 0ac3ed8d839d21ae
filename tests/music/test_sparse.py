"""The sparse reference: everything found where noise is small, counted rightly, and each scene by itself."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from rislab.data.geometry import ArrayGeometry
from rislab.data.measurement import Measurement
from rislab.data.scene_config import SceneConfig
from rislab.data.simulation import simulate
from rislab.errors import InputError
from rislab.music import sparse as module
from rislab.music.crb import crb
from rislab.music.dictionary import SearchGrid, dictionary
from rislab.music.estimate import Estimate
from rislab.music.likelihood import polish, rss
from rislab.music.metrics import crb_recall, match
from rislab.music.model_order import model_order
from rislab.music.sparse import sparse
from tests.music.helpers import counted, truth

CLASSROOM = SceneConfig.preset("classroom", snr_db=20.0, separation=math.radians(20))
FULL = SceneConfig.preset("full", snr_db=20.0, separation=math.radians(10), sources=(1, 3))


def same(one: Estimate, other: Estimate, tolerance: float) -> None:
    for field in dataclasses.fields(Estimate):
        first, second = getattr(one, field.name), getattr(other, field.name)
        torch.testing.assert_close(first, second, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("config", "scenes"), [(CLASSROOM, 40), (FULL, 24)])
def test_everything_is_found_where_noise_is_small(config: SceneConfig, scenes: int) -> None:
    batch = simulate(config, scenes, seed=1)
    assert set(counted(batch).tolist()) == {1, 2, 3}
    estimate = sparse(batch, counted(batch))
    assert torch.equal(estimate.active.sum(-1), counted(batch))
    matching = match(estimate, batch)
    assert (matching.recall, matching.precision) == (1.0, 1.0)


@pytest.mark.slow
def test_nearly_everything_is_found_that_the_bound_allows_with_sources_anywhere() -> None:
    batch = simulate(SceneConfig.preset("full", snr_db=10.0, sources=(1, 3)), 60, seed=2)
    recall = match(polish(batch, sparse(batch, counted(batch))), batch).recall
    # About 120 sources: a recall of 0.95 scatters by 2 %.
    assert recall > crb_recall(batch, crb(batch)) - 0.06


@pytest.mark.parametrize("symbols", ["constant", "coherent"])
def test_constant_and_coherent_symbols_are_no_obstacle(symbols: str) -> None:
    batch = simulate(dataclasses.replace(CLASSROOM, symbols=symbols, sources=2), 30, seed=3)
    estimate = sparse(batch, 2)
    assert match(estimate, batch).recall >= 0.95
    assert match(polish(batch, estimate), batch).recall >= 0.95


def test_of_an_ordinary_array_with_sidelobes_all_sources_are_found_and_counted() -> None:
    # Eight elements anywhere within 1.2 wavelengths. By one source after the other alone, 3 scenes of 24 end in
    # sidelobes, and 10 get a wrong number; in the one that is left sources stand closer than MUSIC resolves.
    generator = torch.Generator().manual_seed(1)
    places = torch.cat([torch.zeros(8, 1), (torch.rand(8, 2, generator=generator) - 0.5) * 2.4], dim=1)
    array = ArrayGeometry(places.double(), wavelength=1.0)
    azimuths = torch.linspace(-0.8, 0.8, 6, dtype=torch.float64)
    azimuth = torch.stack([azimuths[torch.randperm(6, generator=generator)[:3]] for _ in range(24)])
    elevation = (torch.rand(24, 3, generator=generator, dtype=torch.float64) - 0.5) * 0.8
    one = torch.ones_like(azimuth)
    sources = Estimate(azimuth, elevation, 1e6 * one, one, one.bool())
    symbols = torch.randn(24, 3, 150, generator=generator, dtype=torch.complex128)
    noise = torch.randn(24, 150, 8, generator=generator, dtype=torch.complex128)
    vectors = sources.steering(array.to(dtype=torch.float64)) * math.sqrt(8)
    measurement = Measurement.direct((vectors @ symbols).mT + 0.4 * noise, array)
    found, true = (rss(measurement, polish(measurement, start)) for start in (sparse(measurement, 3), sources))
    assert int((found > 1.001 * true).sum()) <= 1
    assert model_order(measurement, 5).tolist() == [3] * 24


def test_the_estimate_explains_more_than_the_truth_does_once_polished() -> None:
    batch = simulate(CLASSROOM, 20, seed=4)
    # With the same waveforms free, the best fit of the deterministic model leaves no more than the true places do.
    energy = rss(batch, polish(batch, sparse(batch, counted(batch)), kind="deterministic"))
    assert bool((energy <= rss(batch, truth(batch)) * (1 + 1e-4)).all())


def test_a_number_for_each_scene_is_that_scene_by_itself() -> None:
    batch = simulate(dataclasses.replace(CLASSROOM, snr_db=10.0), 8, seed=5).to(dtype=torch.float64)
    counts = torch.tensor([1, 3, 2, 1, 3, 2, 2, 1])
    together = sparse(batch, counts)
    assert torch.equal(together.active, torch.arange(3) < counts.unsqueeze(-1))
    assert bool((together.power[~together.active] == 0).all())
    assert bool((together.power[together.active] > 0).all())
    for number, count in enumerate(counts.tolist()):
        own = Estimate(
            *(getattr(together, field.name)[number : number + 1, :count] for field in dataclasses.fields(Estimate))
        )
        # Both follow the same path in double precision, up to sums in another order.
        same(sparse(batch[number], count), own, 1e-6)


def test_chunks_change_no_result_and_progress_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = simulate(dataclasses.replace(CLASSROOM, snr_db=10.0), 8, seed=6).to(dtype=torch.float64)
    full = sparse(batch, counted(batch))
    monkeypatch.setattr(module, "CHUNK", 3)
    calls: list[tuple[int, int]] = []
    same(sparse(batch, counted(batch), progress=lambda done, of: calls.append((done, of))), full, 1e-6)
    assert calls == [(3, 8), (6, 8), (8, 8)]


def test_a_chunk_may_hold_fewer_sources_than_others() -> None:
    batch = simulate(CLASSROOM, module.CHUNK + 1, seed=6)
    counts = torch.full((len(batch),), 2)
    counts[-1] = 1
    estimate = sparse(batch, counts)
    assert torch.equal(estimate.active.sum(-1), counts)


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "dtype"), [(0, torch.float32), (2, torch.float32), (0, torch.float64)])
def test_more_sources_may_be_asked_for_than_there_are(seed: int, dtype: torch.dtype) -> None:
    batch = simulate(SceneConfig.preset("classroom"), 32, seed=seed).to(dtype=dtype)
    estimate = sparse(batch, 3)
    assert bool(estimate.active.all())
    for name in ("azimuth", "elevation", "range", "power"):
        assert bool(torch.isfinite(getattr(estimate, name)).all())
    # All powers sum to N = 36: two sources in one place must not outgrow each other to infinity.
    assert float(estimate.power.max()) < 1e4


def test_estimates_lie_in_the_field_of_view() -> None:
    config = SceneConfig.preset("classroom", snr_db=-10.0)
    estimate = sparse(simulate(config, 20, seed=7), 3)
    for name in ("azimuth", "elevation", "range"):
        low, high = getattr(config, name)
        place = getattr(estimate, name)
        assert float(place.min()) >= low - 1e-6 and float(place.max()) <= high + 1e-5


def test_the_dictionary_samples_a_beam_three_times_and_needs_no_range_for_plane_waves() -> None:
    assert dictionary(SceneConfig.preset("full")).shape == (29, 17, 7)
    grid = dictionary(SceneConfig.preset("full", wavefront="planar"))
    assert grid.shape == (29, 17, 1)
    flat = dictionary(SceneConfig.preset("full", elevation=0.0, range=2.0))
    assert flat.shape == (29, 1, 1)
    assert float(flat.elevation) == 0.0 and float(flat.range) == pytest.approx(2.0)
    # Any source of the field of view has an atom that sees more than half of its power.
    batch = simulate(SceneConfig.preset("full", sources=1), 200, seed=8)
    atoms = dictionary(batch.config).steering(torch.complex64)
    overlap = (atoms.conj() @ batch.steering()[..., 0].mT).abs().square().amax(0)
    assert float(overlap.min()) > 0.5


@pytest.mark.parametrize("sources", [0, 8, 9, True, 1.0, torch.tensor([1, 8]), torch.tensor([0, 1]), torch.ones(2)])
def test_numbers_of_sources_out_of_range_are_refused(sources: int | Tensor) -> None:
    batch = simulate(CLASSROOM, 2, seed=0)
    with pytest.raises(InputError, match="sources is"):
        sparse(batch, sources)


def test_a_line_of_sight_hides_no_source() -> None:
    config = SceneConfig.preset("full", snr_db=20.0, sources=(1, 2), rician_factor=10.0, separation=math.radians(10))
    batch = simulate(config, 24, seed=11)
    # By matched power alone, 0.62 of single sources: the direction that all atoms share outweighs all others.
    assert (
        match(polish(batch, sparse(batch, counted(batch))), batch).recall
        >= match(polish(batch, truth(batch)), batch).recall
    )


def test_a_dictionary_that_is_too_large_is_thinned_and_sources_are_still_there(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = simulate(CLASSROOM, 12, seed=12)
    full = SearchGrid.of(batch)
    largest = full.planes.nbytes // 2
    monkeypatch.setattr("rislab.music.dictionary.LARGEST", largest)
    thinned = SearchGrid.of(batch)
    assert thinned.grid.shape == full.grid.coarser.shape and thinned.planes.nbytes <= largest
    assert match(polish(batch, sparse(batch, counted(batch))), batch).recall == 1.0
