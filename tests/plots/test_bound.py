"""Ellipses of the bound: those that theory gives, with the estimates that fell inside counted."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

import rislab
from rislab.data.geometry import position
from rislab.errors import InputError
from rislab.plots.bound import bound_ellipses

torch.set_num_threads(1)
CONFIG = rislab.SceneConfig.preset("classroom", sources=2, snr_db=15, separation=0.4)


def some_scene(**changes: Any) -> rislab.SceneBatch:
    return rislab.simulate(dataclasses.replace(CONFIG, **changes), 1, seed=1, split="test")


def some_draws(scene: rislab.SceneBatch, count: int = 40) -> rislab.Matching:
    """Estimates that scatter round the truth by what the bound allows, by its marginal deviations."""
    limit = rislab.crb(scene)
    generator = torch.Generator().manual_seed(0)
    slots = scene.active.shape[1]
    spread = [
        torch.randn(count, slots, generator=generator) * getattr(limit, name).nan_to_num(posinf=0.0)
        for name in ("azimuth", "elevation", "range")
    ]
    places = [getattr(scene, name) + one for name, one in zip(("azimuth", "elevation", "range"), spread, strict=True)]
    many = scene[[0] * count]
    return rislab.match(rislab.Estimate(*places, many.power, many.active), many)


def test_ellipses_are_those_of_the_bound() -> None:
    scene = some_scene()
    limit = rislab.crb(scene)
    figure = bound_ellipses(scene, limit, some_draws(scene))
    outlines = [each for each in figure.data if each.name == "95 % of the bound"]
    # For each source: from above, from the side, azimuth against range, elevation against range.
    assert len(outlines) == 8
    for source in range(2):
        above, _, azimuth, elevation = outlines[4 * source : 4 * source + 4]
        for outline, deviation in ((azimuth, limit.azimuth), (elevation, limit.elevation)):
            assert max(outline.x) == pytest.approx(2.4477 * math.degrees(deviation[0, source]), rel=1e-3)
            assert max(outline.y) == pytest.approx(2.4477 * float(limit.range[0, source]), rel=1e-3)
        middle = position(scene.azimuth[0, source], scene.elevation[0, source], scene.range[0, source])
        assert (np.mean(above.x[:-1]), np.mean(above.y[:-1])) == pytest.approx(middle[:2].tolist(), rel=1e-5)
    points = next(each for each in figure.data if each.name == "estimates of source 1")
    assert len(points.x) == 40


def test_the_share_inside_is_counted_on_the_draws_that_hit() -> None:
    scene = some_scene()
    draws = some_draws(scene, 200)
    hit = draws.hit.clone()
    hit[:10, 0] = False
    missed = dataclasses.replace(draws, hit=hit)
    texts = [note.text for note in bound_ellipses(scene, rislab.crb(scene), missed).layout.annotations]
    assert "of 190 inside" in texts[2]
    assert "of 200 inside" in texts[3]
    assert 88 <= int(texts[3].split(":")[1].split("%")[0]) <= 99


def test_without_a_finite_bound_there_is_no_ellipse() -> None:
    scene = some_scene(wavefront="planar")
    figure = bound_ellipses(scene, rislab.crb(scene))
    assert all(len(each.x) == 0 for each in figure.data if each.name == "95 % of the bound")
    assert figure.layout.annotations[2].text == "source 1: no finite bound"


def test_only_active_sources_are_drawn() -> None:
    scenes = rislab.simulate(dataclasses.replace(CONFIG, sources=(1, 3), separation=0.0), 20, seed=0)
    scene = next(one for one in scenes if int(one.active.sum()) == 1)
    figure = bound_ellipses(scene, rislab.crb(scene), some_draws(scene))
    assert len([each for each in figure.data if each.name == "true position"]) == 4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: bound_ellipses(rislab.simulate(CONFIG, 2, seed=0), rislab.crb(some_scene())),
            "scene holds 2 scenes; allowed: one",
        ),
        (
            lambda: bound_ellipses(some_scene(), rislab.crb(rislab.simulate(CONFIG, 2, seed=0))),
            "bound is of (2, 2) scenes and sources; allowed: (1, 2)",
        ),
        (
            lambda: bound_ellipses(
                some_scene(), rislab.crb(some_scene()), some_draws(some_scene(sources=3, separation=0.0))
            ),
            "draws have 3 sources; allowed: 2, as the scene has",
        ),
    ],
)
def test_bad_input_is_refused_by_name(call: Callable[[], go.Figure], message: str) -> None:
    with pytest.raises(InputError) as caught:
        call()
    assert message in str(caught.value)
