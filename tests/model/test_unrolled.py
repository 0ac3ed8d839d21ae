"""The unrolled fit: laws that hold on every path, and places that it must find."""

from __future__ import annotations

import dataclasses
import math
from itertools import accumulate

import pytest
import torch

from rislab.data.covariance import frobenius_squared, nmse
from rislab.data.scene_config import SceneConfig
from rislab.data.scenes import SceneBatch
from rislab.data.simulation import place, simulate
from rislab.errors import InputError
from rislab.model.designs import DESIGNS
from rislab.model.network import CovarianceNet, PowerHead, UnrolledNet, design_of, parameter_count
from rislab.model.unrolled import FEATURES, LAWS, NEVER, Pursuit, SourcePaths, default_shape
from rislab.music.estimate import Estimate
from rislab.music.metrics import match
from rislab.music.subspace import is_rank_deficient

CLASSROOM = SceneConfig.preset("classroom")


def fit_slices(pursuit: Pursuit) -> list[slice]:
    """Where the positions of the fit with one source, with two, … stand among the candidates."""
    ends = accumulate(range(1, pursuit.most + 1))
    return [slice(end - count, end) for count, end in enumerate(ends, start=1)]


def path_of(batch: SceneBatch, config: SceneConfig = CLASSROOM) -> tuple[Pursuit, SourcePaths]:
    pursuit = Pursuit(config, default_shape(config))
    return pursuit, pursuit(batch.snapshots, batch.codes, batch.channel)


def estimate_of(points: torch.Tensor) -> Estimate:
    azimuth, elevation, inverse = points.unbind(-1)
    ones = torch.ones_like(azimuth)
    return Estimate(azimuth, elevation, 1 / inverse, ones, ones.bool())


@pytest.mark.parametrize("count", [1, 2, 3])
def test_sources_well_apart_are_found_at_20_db(count: int) -> None:
    config = SceneConfig.preset("classroom", sources=count, snr_db=20.0, separation=math.radians(20))
    batch = simulate(config, 64, seed=3)
    pursuit, path = path_of(batch)
    found = estimate_of(path.points[:, fit_slices(pursuit)[count - 1]])
    # The bound allows 0.999 here; a cell of the coarse grid may be a trap for two or three scenes.
    assert match(found, batch).recall >= 0.95
    # Powers N/K at places whose beams are a small part of a beam width off.
    assert float(nmse(found.factor(batch.config.array()), batch.factor()).median()) < 1e-2


def test_places_are_in_the_field_of_view_and_vectors_are_unit() -> None:
    batch = simulate(SceneConfig.preset("classroom", snr_db=-20.0), 32, seed=1)
    pursuit, path = path_of(batch)
    assert path.factor.shape == (32, 36, pursuit.candidates) and pursuit.candidates == 6
    assert path.features.shape == (32, 6, FEATURES)
    low, high = pursuit.low.float(), pursuit.high.float()
    assert bool(((path.points >= low) & (path.points <= high)).all())
    assert bool(torch.isfinite(path.features).all())
    # Unit vectors of float32.
    assert frobenius_squared(path.factor.mT.unsqueeze(-1)) == pytest.approx(torch.ones(32, 6), abs=1e-5)
    assert [one.stop - one.start for one in fit_slices(pursuit)] == [1, 2, 3]
    assert fit_slices(pursuit)[-1].stop == 6


def test_a_scene_does_not_depend_on_its_company_and_on_the_phase_of_its_sources() -> None:
    batch = simulate(CLASSROOM, 6, seed=2).to("cpu", torch.float64)
    _, together = path_of(batch)
    alone = torch.cat([path_of(batch[place : place + 1])[1].points for place in range(6)])
    assert together.points == pytest.approx(alone, abs=1e-9)
    # A phase of each snapshot is one of the waveforms, which nobody knows.
    turned = torch.polar(torch.ones(16, dtype=torch.float64), torch.linspace(0, 6, 16, dtype=torch.float64))
    other = dataclasses.replace(batch, snapshots=batch.snapshots * turned[:, None])
    assert path_of(other)[1].points == pytest.approx(together.points, abs=1e-9)


def test_the_step_goes_downhill() -> None:
    """More steps leave no more of the snapshots, on the average over scenes."""
    batch = simulate(SceneConfig.preset("classroom", sources=2, snr_db=15.0), 64, seed=5)
    left = []
    for steps in (0, 1, 3):
        pursuit = Pursuit(CLASSROOM, default_shape(CLASSROOM), single_steps=steps, joint_steps=steps)
        level = fit_slices(pursuit)[1]
        path = pursuit(batch.snapshots, batch.codes, batch.channel)
        left.append(float(path.features[:, level.start, -5].mean()))  # ln of what is left
    assert left[2] < left[1] < left[0]


def test_a_planar_wavefront_and_a_single_source_work() -> None:
    config = SceneConfig.preset("classroom", wavefront="planar", sources=1)
    batch = simulate(config, 4, seed=0)
    pursuit, path = path_of(batch, config)
    assert pursuit.candidates == 1 and path.points.shape == (4, 1, 3)
    assert bool(torch.isfinite(path.factor.abs()).all())


def test_nothing_but_noise_of_no_power_is_no_nan() -> None:
    batch = simulate(CLASSROOM, 2, seed=0)
    silent = dataclasses.replace(batch, snapshots=torch.zeros_like(batch.snapshots))
    _, path = path_of(silent)
    assert bool(torch.isfinite(path.points).all()) and bool(torch.isfinite(path.features).all())


def test_the_likelier_law_of_powers_weighs_more() -> None:
    """Two sources, the nearer four times as far as the other: 16 times the power, or the same."""
    config = SceneConfig.preset("classroom", sources=2)
    for number, law in enumerate(("equal", "free-space")):
        one = config.changed(power_law=law, snr_db=20.0)
        batch = place(one, [-0.5, 0.5], [0.1, -0.1], [0.6, 2.4], seed=4)
        pursuit, path = path_of(batch, config)
        weights = path.log_weights[0, fit_slices(pursuit)[1]].exp().sum(0)  # of the laws
        assert float(weights[number]) > 100 * float(weights[1 - number])


def test_a_scene_without_a_further_source_has_no_further_fits() -> None:
    batch = simulate(SceneConfig.preset("classroom", sources=1, snr_db=20.0), 64, seed=3)
    pursuit, path = path_of(batch)
    made = [
        bool(path.log_weights[:, level].amax((1, 2)).gt(NEVER).float().mean() > 0.5) for level in fit_slices(pursuit)
    ]
    assert made == [True, False, False]
    # A factor of full rank all the same, so that MUSIC may be asked for any number of sources.
    factor = CovarianceNet.build(CLASSROOM, design="unrolled").predict(batch)
    assert not bool(is_rank_deficient(factor, 3).any())


@pytest.mark.parametrize("design", DESIGNS)
def test_designs_build_and_say_nothing_untrained(design: str) -> None:
    model = CovarianceNet.build(CLASSROOM, design=design)
    batch = simulate(CLASSROOM, 64, seed=0)
    factor = model.predict(batch)
    assert design_of(model) == design
    assert factor.shape[:2] == (64, 36) and factor.is_complex()
    # The zero matrix scores 1; the ladder asks for 0.9.
    assert float(nmse(factor, batch.factor()).mean()) >= 0.9
    assert CovarianceNet.build(CLASSROOM, design=design, seed=1).state_dict().keys() == model.state_dict().keys()
    assert parameter_count(model) == sum(value.numel() for value in model.parameters())


def test_powers_add_up_to_less_than_n_and_all_get_a_gradient() -> None:
    weigher = PowerHead(6, FEATURES, 16, 36)
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(5, 6, len(LAWS), generator=generator)
    powers = weigher(torch.randn(5, 6, FEATURES, generator=generator), weights)
    assert powers.shape == (5, 6)
    assert bool((powers > 0).all()) and bool((powers.sum(-1) < 36).all())
    powers.square().sum().backward()
    assert all(value.grad is not None and bool(value.grad.any()) for value in weigher.parameters())


def test_a_single_antenna_is_refused() -> None:
    with pytest.raises(InputError, match="antennas is 1; allowed: at least 2"):
        CovarianceNet.build(SceneConfig.preset("classroom", antennas=1), design="unrolled")


def test_columns_stay_on_the_manifold() -> None:
    """The unrolled design predicts multiples of steering vectors, whatever its weights are."""
    batch = simulate(CLASSROOM, 8, seed=4)
    model = CovarianceNet.build(CLASSROOM, design="unrolled")
    assert isinstance(model, UnrolledNet)
    factor = model.predict(batch)
    moduli = factor.abs()
    # All elements of a column have one modulus.
    assert moduli == pytest.approx(moduli[:, :1].expand_as(moduli), rel=1e-4)
