"""One scene under all estimators: a look is what the functions say, and a view refuses what cannot be."""

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

VIEW = SceneSettings(preset="classroom", places=((-25.0, 10.0, 1.5), (20.0, -10.0, 2.0)), snr_db=20.0)


def test_a_look_is_what_the_functions_say() -> None:
    look = SceneExplorer().analyse(VIEW)
    scene = VIEW.scene()
    assert look.scene.fingerprint() == scene.fingerprint()
    assert look.music.shape == look.mvdr.shape == MAP
    assert look.matching.recall == 1.0 == match(look.peaks, scene).recall
    torch.testing.assert_close(look.bound.azimuth, crb(scene).azimuth)
    assert int(look.cut["MUSIC"].argmax()) == int((look.ranges - 1.5).abs().argmin())
    assert bool((look.eigenvalues.diff() <= 0).all())
    # Of rank two.
    assert float(look.eigenvalues[2:].sum()) < 1e-5 * float(look.eigenvalues[0])


@pytest.mark.parametrize("covariance", ["truth", "sample"])
def test_both_maps_from_one_pass_are_those_of_music_and_mvdr(covariance: str) -> None:
    view = VIEW.changed(covariance=covariance, loading=1e-2)
    glance = SceneExplorer().spectra(view)
    grid = VIEW.config().grid((*MAP, 1), range=(1.5, 1.5))
    given = glance.factor.to(torch.complex128)
    maps = music_and_mvdr(given, 2, grid, loading=1e-2)
    apart = (
        music_spectrum(given, 2, grid, refine=False).values[0],
        mvdr_spectrum(given, 2, grid, loading=1e-2, refine=False).values[0],
    )
    for shared, single, single_precision in zip(maps, apart, (glance.music, glance.mvdr), strict=True):
        torch.testing.assert_close(shared, single)
        # What a beam leaves, 1/MUSIC, is a difference of numbers near 1: in single precision it is known to 36 sums'
        # roundings of 6e-8.
        torch.testing.assert_close(1 / single_precision.double(), 1 / single[..., 0], atol=5e-6, rtol=1e-3)
    # Another number of sources gives another MUSIC map, and the same MVDR.
    other = music_and_mvdr(glance.factor.to(torch.complex128), 1, grid, loading=1e-2)
    assert float((other[0] / maps[0]).log().abs().max()) > 0.1
    torch.testing.assert_close(other[1], maps[1])


def test_a_rank_below_the_number_of_sources_is_named() -> None:
    grid = VIEW.config().grid((9, 9, 1), range=(1.5, 1.5))
    with pytest.raises(InputError, match="sources is 3, and the factor has 2 columns"):
        music_and_mvdr(VIEW.scene().factor(), 3, grid, loading=1e-3)


def test_a_look_is_its_glance_and_what_follows() -> None:
    explorer = SceneExplorer()
    glance = explorer.spectra(VIEW)
    assert not isinstance(glance, SceneAnalysis)
    finished, whole = explorer.complete(glance), explorer.analyse(VIEW)
    assert finished.music is glance.music and finished.factor is glance.factor
    assert torch.equal(finished.music, whole.music) and torch.equal(finished.mvdr, whole.mvdr)
    assert torch.equal(finished.peaks.azimuth, whole.peaks.azimuth)
    assert torch.equal(finished.bound.blocks, whole.bound.blocks)


@pytest.mark.parametrize("covariance", ["sample", "sparse", "learned", "blend"])
def test_every_covariance_can_be_looked_at(covariance: str) -> None:
    explorer = SceneExplorer(CovarianceNet.build(VIEW.config()))
    look = explorer.analyse(VIEW.changed(covariance=covariance))
    assert bool(torch.isfinite(look.music).all())
    if covariance == "sparse":
        assert look.matching.recall == 1.0


def test_grids_are_kept_between_looks_and_not_without_end() -> None:
    explorer = SceneExplorer()
    first = explorer.analyse(VIEW).grid
    assert explorer.analyse(VIEW.changed(snr_db=5.0)).grid is first
    for step in range(6):
        explorer.analyse(VIEW.changed(places=((0.0, 0.0, 1.0 + 0.1 * step),)))
    assert len(explorer.grids) <= 4


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"places": ((80.0, 0.0, 1.0),)}, "azimuth in degrees is 80"),
        ({"places": ((0.0, 0.0, 9.0),)}, "range is 9"),
        ({"places": ()}, "chosen is 0"),
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
def test_a_view_that_cannot_be_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        VIEW.changed(**fields)


def test_a_learned_covariance_needs_a_network() -> None:
    with pytest.raises(InputError, match="no network is given"):
        SceneExplorer().analyse(VIEW.changed(covariance="learned"))


@pytest.mark.parametrize("preset", ["classroom", "full"])
def test_a_view_can_begin_with_any_preset(preset: str) -> None:
    view = SceneSettings.of(preset, snr_db=15.0)
    assert view.snr_db == 15.0 and len(view.places) == 3
    assert SceneExplorer().analyse(view).matching.recall == 1.0
