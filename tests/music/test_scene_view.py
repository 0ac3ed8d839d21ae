"""One scene under all estimators: an analysis is what the functions say, and settings refuse what cannot be."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from rislab.errors import InputError
from rislab.model.network import CovarianceNet
from rislab.music.crb import crb
from rislab.music.metrics import match
from rislab.music.scene_view import MAP, SceneAnalysis, SceneExplorer, SceneSettings, music_and_mvdr
from rislab.music.spectra import music_spectrum, mvdr_spectrum

SETTINGS = SceneSettings(
    preset="classroom", places=((-25.0, 10.0, 1.5), (20.0, -10.0, 2.0)), snr_db=20.0, covariance="truth"
)


def test_an_analysis_is_what_the_functions_say() -> None:
    analysis = SceneExplorer().analyse(SETTINGS)
    scene = SETTINGS.scene()
    assert analysis.scene.fingerprint() == scene.fingerprint()
    assert analysis.music.shape == analysis.mvdr.shape == MAP
    assert analysis.matching.recall == 1.0 == match(analysis.peaks, scene).recall
    torch.testing.assert_close(analysis.bound.azimuth, crb(scene).azimuth)
    assert int(analysis.cut["MUSIC"].argmax()) == int((analysis.ranges - 1.5).abs().argmin())
    assert bool((analysis.eigenvalues.diff() <= 0).all())
    # Of rank two.
    assert float(analysis.eigenvalues[2:].sum()) < 1e-5 * float(analysis.eigenvalues[0])


@pytest.mark.parametrize("covariance", ["truth", "sample"])
def test_both_maps_from_one_pass_are_those_of_music_and_mvdr(covariance: str) -> None:
    settings = SETTINGS.changed(covariance=covariance, loading=1e-2)
    spectra = SceneExplorer().spectra(settings)
    grid = SETTINGS.config().grid((*MAP, 1), range=(1.5, 1.5))
    given = spectra.factor.to(torch.complex128)
    maps = music_and_mvdr(given, 2, grid, loading=1e-2)
    apart = (
        music_spectrum(given, 2, grid, refine=False).values[0],
        mvdr_spectrum(given, 2, grid, loading=1e-2, refine=False).values[0],
    )
    for shared, single, single_precision in zip(maps, apart, (spectra.music, spectra.mvdr), strict=True):
        torch.testing.assert_close(shared, single)
        # What a beam leaves, 1/MUSIC, is a difference of numbers near 1: in single precision it is known to 36 sums'
        # roundings of 6e-8.
        torch.testing.assert_close(1 / single_precision.double(), 1 / single[..., 0], atol=5e-6, rtol=1e-3)
    # Another number of sources gives another MUSIC map, and the same MVDR.
    other = music_and_mvdr(spectra.factor.to(torch.complex128), 1, grid, loading=1e-2)
    assert float((other[0] / maps[0]).log().abs().max()) > 0.1
    torch.testing.assert_close(other[1], maps[1])


def test_a_rank_below_the_number_of_sources_is_named() -> None:
    grid = SETTINGS.config().grid((9, 9, 1), range=(1.5, 1.5))
    with pytest.raises(InputError, match="sources is 3, and the factor has 2 columns"):
        music_and_mvdr(SETTINGS.scene().factor(), 3, grid, loading=1e-3)


def test_an_analysis_is_its_spectra_and_what_follows() -> None:
    explorer = SceneExplorer()
    spectra = explorer.spectra(SETTINGS)
    assert not isinstance(spectra, SceneAnalysis)
    finished, full = explorer.complete(spectra), explorer.analyse(SETTINGS)
    assert finished.music is spectra.music and finished.factor is spectra.factor
    assert torch.equal(finished.music, full.music) and torch.equal(finished.mvdr, full.mvdr)
    assert torch.equal(finished.peaks.azimuth, full.peaks.azimuth)
    assert torch.equal(finished.bound.blocks, full.bound.blocks)


@pytest.mark.parametrize("covariance", ["sample", "sparse", "learned", "blend"])
def test_every_covariance_can_be_analysed(covariance: str) -> None:
    explorer = SceneExplorer(CovarianceNet.build(SETTINGS.config()))
    analysis = explorer.analyse(SETTINGS.changed(covariance=covariance))
    assert bool(torch.isfinite(analysis.music).all())
    if covariance == "sparse":
        assert analysis.matching.recall == 1.0


def test_a_few_grids_stay_between_analyses() -> None:
    explorer = SceneExplorer()
    first = explorer.analyse(SETTINGS).grid
    assert explorer.analyse(SETTINGS.changed(snr_db=5.0)).grid is first
    for step in range(6):
        explorer.analyse(SETTINGS.changed(places=((0.0, 0.0, 1.0 + 0.1 * step),)))
    assert len(explorer.grids) <= 4


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"places": ((80.0, 0.0, 1.0),)}, "azimuth in degrees is 80"),
        ({"places": ((0.0, 0.0, 9.0),)}, "range is 9"),
        ({"places": ()}, "chosen is 0"),
        ({"places": ((0.0, 0.0),)}, "a place is .*allowed: azimuth and elevation in degrees, range in metres"),
        ({"places": 3}, "places is 3; allowed: a list of places"),
        ({"chosen": 2}, "chosen is 2"),
        ({"covariance": "guess"}, "covariance is 'guess'"),
        ({"snr_db": math.inf}, "snr_db is inf"),
        ({"wavefront": "flat"}, "wavefront is 'flat'"),
        ({"loading": 0.0}, "loading is 0"),
        ({"beta": 1.5}, "beta is 1.5"),
        ({"preset": "huge"}, "preset is 'huge'"),
        ({"snapshots": 0}, "snapshots is 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SETTINGS.changed(**fields)


def test_settings_survive_a_round_trip() -> None:
    plain = SETTINGS.to_dict()
    assert plain["places"] == [[-25.0, 10.0, 1.5], [20.0, -10.0, 2.0]]
    assert SceneSettings.from_dict(plain) == SETTINGS
    with pytest.raises(InputError, match="snr is not a field of SceneSettings"):
        SceneSettings.from_dict({"snr": 3.0})


def test_a_learned_covariance_needs_a_network() -> None:
    with pytest.raises(InputError, match="no network is given"):
        SceneExplorer().analyse(SETTINGS.changed(covariance="learned"))


@pytest.mark.parametrize("preset", ["classroom", "full"])
def test_settings_can_begin_with_any_preset(preset: str) -> None:
    settings = SceneSettings.of(preset, snr_db=15.0, covariance="truth")
    assert settings.snr_db == 15.0 and len(settings.places) == 3
    assert SceneExplorer().analyse(settings).matching.recall == 1.0
