"""Estimators and bounds on arrays of any shape, whose measurements a formula of NumPy alone has made."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import rislab
from rislab.data.geometry import ArrayGeometry
from rislab.data.measurement import Measurement
from rislab.data.scene_config import SceneConfig
from rislab.data.simulation import simulate
from rislab.errors import InputError
from rislab.music.crb import crb
from rislab.music.estimate import Estimate
from rislab.music.likelihood import polish
from rislab.music.metrics import assign, match, tolerances_of
from rislab.music.model_order import model_order
from rislab.music.sparse import sparse
from rislab.music.spectra import bartlett_spectrum, music_spectrum, mvdr_spectrum
from tests.data.own_arrays import CASES, Case, circle, grid, phases


def sorted_places(estimate: Estimate, case: Case) -> tuple[Tensor, Tensor]:
    """Places [B,K,3] in the order of the true sources, and that order, [B,K]."""
    places = torch.stack([estimate.azimuth, estimate.elevation, estimate.range], dim=-1)
    truth = torch.as_tensor(case.places)
    order = (places[:, None, :, 0] - truth[None, :, None, 0]).abs().argmin(-1)
    return places.gather(1, order.unsqueeze(-1).expand(-1, -1, 3)), order


@pytest.mark.parametrize("name", CASES)
def test_positions_are_exact_without_noise(name: str) -> None:
    case = CASES[name]
    measurement = case.draw(1, 160.0)
    count = len(case.places)
    found, _ = sorted_places(polish(measurement, sparse(measurement, count)), case)
    errors = (found - torch.as_tensor(case.places)).abs()
    assert float(errors[..., : 2 if case.planar else 3].max()) < 1e-6


@pytest.mark.parametrize(("snapshots", "channel", "codes"), [(1e10, 1.0, 1.0), (1.0, 1e-5, 1.0), (1e-9, 1e3, 1e-2)])
@pytest.mark.parametrize("symbols", ["varying", "constant"])
def test_no_unit_of_snapshots_channel_or_codes_changes_a_place(
    snapshots: float, channel: float, codes: float, symbols: str
) -> None:
    """Volts or converter steps, a channel with its path loss or without."""
    one = dataclasses.replace(CASES["surface, four antennas"], symbols=symbols).draw(1, 15.0)
    scaled = {"snapshots": snapshots * one.snapshots, "channel": channel * one.channel, "codes": codes * one.codes}
    other = one.changed(**scaled, noise_power=None)
    assert model_order(other, 3).tolist() == model_order(one, 3).tolist() == [2]
    here, there = (polish(each, sparse(each, 2)) for each in (one, other))
    torch.testing.assert_close(there.azimuth, here.azimuth, rtol=0, atol=1e-5)
    torch.testing.assert_close(1 / there.range, 1 / here.range, rtol=1e-4, atol=0)
    gain = (snapshots / channel / codes) ** 2
    torch.testing.assert_close(there.power, gain * here.power, rtol=1e-3, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["circular array, planar", "surface, one antenna"])
def test_errors_are_those_of_the_bound(name: str) -> None:
    """The slower arrays stand in tests/benchmarks/test_music_speed.py."""
    case = CASES[name]
    measurement = case.draw(200, 15.0, seed=3)
    estimate = polish(measurement, sparse(measurement, len(case.places)))
    kind = "stochastic" if case.symbols == "varying" else "deterministic"
    bound = crb(measurement, kind=kind, estimate=estimate)
    found, order = sorted_places(estimate, case)
    deviation = torch.stack([bound.azimuth, bound.elevation, bound.range], dim=-1)
    deviation = deviation.gather(1, order.unsqueeze(-1).expand(-1, -1, 3))
    ratio = ((found - torch.as_tensor(case.places)) / deviation).square().mean((0, 1)).sqrt()
    unknown = (deviation[0, 0] > 0) & torch.isfinite(deviation[0, 0])
    assert unknown.tolist() == ([True, False, False] if case.planar else [True, True, True])
    assert bool(((ratio[unknown] > 0.9) & (ratio[unknown] < 1.15)).all()), ratio


def test_a_measurement_gives_what_its_scene_gives() -> None:
    config = SceneConfig.preset("classroom", sources=2, snr_db=15.0, separation=0.4)
    scenes = simulate(config, 6, seed=1).to(dtype=torch.float64)
    area = {name: getattr(config, name) for name in ("azimuth", "elevation", "range")}
    array = config.array(dtype=torch.float64)
    own = Measurement(scenes.snapshots, scenes.codes, scenes.channel, array, scenes.noise_power, **area)
    one, other = (polish(batch, sparse(batch, 2)) for batch in (scenes, own))
    torch.testing.assert_close(one.azimuth, other.azimuth, atol=1e-6, rtol=0)
    assert model_order(own, 3).tolist() == model_order(scenes, 3).tolist()
    truth = Estimate(scenes.azimuth, scenes.elevation, scenes.range, scenes.power, scenes.active)
    for kind in ("deterministic", "stochastic"):
        at_truth, at_estimate = crb(scenes, kind=kind), crb(own, kind=kind, estimate=truth)
        ratio = at_estimate.azimuth / at_truth.azimuth
        assert 0.7 < float(ratio.min()) <= float(ratio.max()) < 1.4


def test_spectra_take_the_sample_covariance_of_a_measurement() -> None:
    case = CASES["circular array, planar"]
    measurement = case.draw(3, 30.0)
    grid_ = measurement.grid((181, 1, 1))
    for spectrum in (music_spectrum, mvdr_spectrum, bartlett_spectrum):
        found, _ = sorted_places(spectrum(measurement, 2, grid_).peaks, case)
        assert float((found - torch.as_tensor(case.places))[..., 0].abs().max()) < 0.1
    scenes = simulate(SceneConfig.preset("classroom", sources=1, snr_db=30.0), 2, seed=0)
    assert len(music_spectrum(scenes, 1, scenes.config.grid((31, 17, 5))).peaks) == 2


def test_a_full_circle_has_no_edge() -> None:
    """A source behind the array, where azimuth jumps from π to −π."""
    for azimuth in (math.pi - 1e-3, -math.pi + 1e-3, 3.1, -3.1):
        case = Case(circle(9, 0.08), 0.1, np.array([(azimuth, 0.0, 1.0)]), planar=True, view={"elevation": 0.0})
        measurement = case.draw(4, 40.0)
        found = polish(measurement, sparse(measurement, 1)).azimuth
        assert bool((found.abs() <= math.pi).all())
        assert float(torch.sin(found - azimuth).abs().max()) < 2e-3


def test_one_antenna_and_varying_symbols_leave_the_powers() -> None:
    case = Case(grid(6, 6, 0.05), 0.1, np.array([(0.3, -0.2, 0.6)]), antennas=1, snapshots=400)
    measurement = case.draw(6, 20.0)
    estimate = polish(measurement, sparse(measurement, 1))
    errors = (sorted_places(estimate, case)[0] - torch.as_tensor(case.places))[:, 0]
    bound = crb(measurement, kind="stochastic", estimate=estimate)
    assert float((errors[:, 0].abs() / bound.azimuth[:, 0]).max()) < 4
    assert model_order(measurement, 2).tolist() == [1] * 6
    with pytest.raises(InputError, match="criterion is 'mdl' with one antenna"):
        model_order(measurement, 1, criterion="mdl")
    with pytest.raises(InputError, match="kind is 'deterministic' with one antenna"):
        polish(measurement, estimate, kind="deterministic")


def test_one_snapshot_of_many_antennas_is_enough() -> None:
    case = Case(grid(1, 16, 0.05), 0.1, np.array([(0.4, 0.0, 1.0)]), planar=True, snapshots=1)
    measurement = case.draw(4, 40.0)
    found = polish(measurement, sparse(measurement, 1)).azimuth
    assert float((found - 0.4).abs().max()) < 0.01


def test_more_unknowns_than_measurements_are_refused() -> None:
    array = ArrayGeometry(grid(4, 4, 0.05), 0.1)
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)

    few = Measurement(normal(2, 1), normal(2, 16), normal(1, 16), array, symbols="constant")
    with pytest.raises(InputError, match="snapshots is 2; allowed: more, since 2 snapshots of 1 antennas hold fewer"):
        sparse(few, 1)
    crowd = Measurement(normal(9, 4), normal(9, 16), normal(4, 16), array)
    with pytest.raises(InputError, match=r"sources is 4; allowed: a whole number in \[1, 3\], as many as 9 snapshots"):
        sparse(crowd, 4)
    with pytest.raises(InputError, match=r"most is 4; allowed: a whole number in \[1, 3\]"):
        model_order(crowd, 4)
    with pytest.raises(InputError, match="estimate is None"):
        crb(crowd)


def test_surfaces_of_one_row_and_of_one_column_are_searched() -> None:
    for shape in ((1, 12), (12, 1)):
        known = {"elevation": 0.0} if shape[0] == 1 else {"azimuth": 0.0}
        config = SceneConfig.preset("classroom", ris_shape=shape, sources=1, snr_db=30.0, **known)
        scenes = simulate(config, 8, seed=0)
        bound = crb(scenes)
        estimate = polish(scenes, sparse(scenes, 1))
        axis, other = ("azimuth", "elevation") if shape[0] == 1 else ("elevation", "azimuth")
        assert bool((getattr(bound, other) == 0).all()) and bool(torch.isfinite(bound.position).all())
        errors = (getattr(estimate, axis) - getattr(scenes, axis)).abs() / getattr(bound, axis)
        assert float(errors.median()) < 3


def test_a_field_of_view_may_hold_the_elements() -> None:
    """A line is as long as its nearest range is not: some places of the search lie on its last element."""
    case = Case(grid(1, 14, 0.05), 0.1, np.array([(0.5, 0.0, 1.0)]), antennas=4, snapshots=32)
    measurement = case.draw(2, 40.0)
    estimate = polish(measurement, sparse(measurement, 1))
    assert float((estimate.azimuth - 0.5).abs().max()) < 0.01
    end = torch.tensor([math.pi / 2, 0.0, 0.325], dtype=torch.float64)
    vector, slopes = case.geometry().steering_and_phase_gradient(end[0], end[1], 1 / end[2])
    assert bool(torch.isfinite(torch.view_as_real(vector)).all()) and bool(torch.isfinite(slopes).all())


def test_arrays_without_their_measurement_are_refused() -> None:
    measurement, table = CASES["circular array, planar"].draw(1, 20.0), np.ones((3, 4))
    calls: list[tuple[Any, ...]] = [
        (sparse, table, 1),
        (model_order, table, 2),
        (polish, measurement, 3),
        (music_spectrum, table, 1, measurement.grid((3, 3, 1))),
        (match, sparse(measurement, 1), measurement),
    ]
    for function, *given in calls:
        with pytest.raises(InputError, match=r" is an? \w+; allowed: "):
            function(*given)


def test_codes_that_only_absorb_do_not_mislead_the_search() -> None:
    """The part of the codes that never changes prefers some directions, as a line of sight does."""
    rng, case = np.random.default_rng(1), Case(grid(5, 8, 0.05), 0.1, np.array([(-0.8, 0.3, 0.5)]))

    def normal(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) / np.sqrt(2)

    codes, channel = np.where(rng.random((24, 96, 40)) < 0.5, 0.2, 1.0), normal(24, 2, 40)
    vector = phases(case.elements, case.wavelength, case.places[0], False)
    clean = np.einsum("bmn,bln,n,bl->blm", channel, codes, vector, normal(24, 96))
    noise = 0.1 * np.sqrt(np.mean(np.abs(clean) ** 2)) * normal(*clean.shape)
    measurement = Measurement(clean + noise, codes, channel, case.geometry())
    azimuth = sparse(measurement, 1).azimuth
    assert float(((azimuth + 0.8).abs() < 0.1).double().mean()) >= 0.9


def test_far_sources_are_planes_and_do_no_harm() -> None:
    config = SceneConfig.preset("classroom", range=(1e6, 1e9), sources=1, snr_db=30.0)
    scenes = simulate(config, 8, seed=0)
    estimate = polish(scenes, sparse(scenes, 1))
    assert float((estimate.azimuth - scenes.azimuth).abs().max()) < 0.05
    bound = crb(scenes)
    assert bool(torch.isfinite(bound.azimuth).all()) and float(bound.range.min()) > 1e3


def test_known_and_unknowable_axes_have_no_ratio() -> None:
    for changes, none in (({"range": 2.0}, ["range"]), ({"wavefront": "planar"}, ["range", "position"])):
        config = SceneConfig.preset("classroom", sources=1, snr_db=20.0, **changes)
        scenes = simulate(config, 12, seed=0)
        matching = match(polish(scenes, sparse(scenes, 1)), scenes, tolerances=tolerances_of(config))
        ratio = matching.ratio(crb(scenes))
        assert {name for name, value in ratio.items() if math.isnan(value)} == set(none)
        assert 0.5 < ratio["azimuth"] < 1.5
        assert math.isnan(matching.median()["range"]) == (config.wavefront == "planar")


def test_sixty_four_sources_are_assigned_at_lowest_cost() -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(2, 64, generator=generator, dtype=torch.float64)
    order = torch.stack([torch.randperm(64, generator=generator) for _ in range(2)])
    # Of points on a line, order by order is the cheapest.
    cost = (points.unsqueeze(2) - (points.gather(1, order) + 0.3).unsqueeze(1)).square()
    slots = assign(cost)
    assert bool((order.gather(1, slots) == torch.arange(64)).all())
    for shape in ((3, 4, 6), (3, 5, 5), (3, 6, 4)):
        small = torch.rand(shape, generator=generator, dtype=torch.float64)
        wide = torch.nn.functional.pad(small, (0, 9), value=2e3)  # so many columns that not all are tried
        totals = [
            one.gather(2, assign(one).unsqueeze(-1)).sum() if shape[1] <= shape[2] else None for one in (small, wide)
        ]
        if totals[0] is not None and totals[1] is not None:
            assert float(totals[0]) == pytest.approx(float(totals[1]))


def test_the_name_is_public() -> None:
    assert rislab.Measurement is Measurement
