"""The figure of one scene: what it draws is what was computed, with and without estimates and bound."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from rislab.music.scene_view import SceneAnalysis, SceneExplorer, SceneSettings
from rislab.plots.scene import scene_figure, scene_figure_dict
from rislab.plots.scene_content import source_rows
from rislab.plots.style import template

SETTINGS = SceneSettings(
    preset="classroom", places=((-25.0, 10.0, 1.5), (20.0, -10.0, 2.0)), snr_db=20.0, covariance="truth"
)


@pytest.fixture(scope="module")
def explorer() -> SceneExplorer:
    return SceneExplorer()


@pytest.fixture(scope="module")
def analysis(explorer: SceneExplorer) -> SceneAnalysis:
    return explorer.analyse(SETTINGS)


def test_the_bound_of_the_range_is_a_band_around_the_true_range(explorer: SceneExplorer) -> None:
    quiet = explorer.analyse(SETTINGS.changed(snr_db=10.0))
    for analysis in (quiet, explorer.analyse(SETTINGS.changed(snr_db=10.0, chosen=1))):
        layout, settings = scene_figure_dict(analysis)["layout"], analysis.settings
        band = layout["shapes"][-1]
        here, deviation = settings.places[settings.chosen][2], float(analysis.bound.range[0, settings.chosen])
        # 1.96 standard deviations to each side hold 95 % of normal errors.
        assert (band["x0"], band["x1"]) == pytest.approx((here - 1.96 * deviation, here + 1.96 * deviation), rel=1e-4)
        assert band["xref"] == "x3" and f"{1.96 * deviation:.2g} m" in layout["annotations"][2]["text"]
    # Ten decibels less make it wider by √10: noise alone decides.
    loud = explorer.analyse(SETTINGS.changed(snr_db=0.0))
    assert float(loud.bound.range[0, 0] / quiet.bound.range[0, 0]) == pytest.approx(math.sqrt(10), rel=1e-3)


def test_a_bound_beyond_the_cut_ends_with_it_and_none_is_said(explorer: SceneExplorer) -> None:
    analysis = explorer.analyse(SETTINGS.changed(snr_db=-10.0, snapshots=1))
    band = scene_figure_dict(analysis)["layout"]["shapes"][-1]
    assert float(analysis.bound.range[0, 0]) > 2.0
    assert (band["x0"], band["x1"]) == pytest.approx(SETTINGS.config().range, rel=1e-6)
    plane = scene_figure_dict(explorer.analyse(SETTINGS.changed(wavefront="planar")))["layout"]
    assert plane["shapes"][-1]["type"] == "line" and "no finite bound" in plane["annotations"][2]["text"]


def test_the_estimated_range_stands_on_the_cut(explorer: SceneExplorer) -> None:
    analysis = explorer.analyse(SETTINGS.changed(chosen=1))
    mark = scene_figure_dict(analysis)["data"][-1]
    assert mark["xaxis"] == "x3" and mark["x"] == [pytest.approx(2.0, abs=0.05)]


def test_the_figure_names_units_and_draws_what_the_analysis_says(analysis: SceneAnalysis) -> None:
    drawn = scene_figure(analysis)
    titles = [axis.title.text for axis in drawn.select_xaxes()] + [axis.title.text for axis in drawn.select_yaxes()]
    assert {"azimuth (°)", "elevation (°)", "range (m)", "dB"} <= set(titles)
    maps = [trace for trace in drawn.data if trace.type == "heatmap"]
    assert [trace.z.shape for trace in maps] == [(91, 181)] * 2
    assert all(trace.z.max() == 0 and trace.z.min() >= -40 for trace in maps)
    rings = [trace for trace in drawn.data if trace.name == "true source" and trace.x[0] is not None]
    assert len(rings) == 4  # white in dark, on two maps
    assert [[*zip(ring.x, ring.y, strict=True)] for ring in rings] == [[place[:2] for place in SETTINGS.places]] * 4
    drawn.update_layout(template=template("dark"))


def test_a_source_that_is_not_found_is_said(explorer: SceneExplorer) -> None:
    places = ((-5.0, 0.0, 1.0), (5.0, 0.0, 1.0))
    analysis = explorer.analyse(SETTINGS.changed(covariance="sample", snr_db=-10.0, places=places))
    missed = 2 - int(analysis.matching.hit.sum())
    assert missed > 0 and source_rows(analysis).count("missed") == missed


@pytest.mark.parametrize("bound, text", [(0.1, "±0.10"), (0.0104, "±0.010"), (12.3, "±12")])
def test_the_bound_has_two_digits_also_where_the_last_is_zero(analysis: SceneAnalysis, bound: float, text: str) -> None:
    limits = torch.full_like(analysis.bound.range, bound)
    rows = source_rows(dataclasses.replace(analysis, bound=dataclasses.replace(analysis.bound, range=limits)))
    assert {row[8] for row in rows if row != "missed"} == {text}


def test_a_row_of_a_source_is_its_estimate_error_and_bound(analysis: SceneAnalysis) -> None:
    rows = source_rows(analysis)
    assert len(rows) == len(SETTINGS.places)
    numbers = [[float(cell.replace("−", "-").replace("±", "")) for cell in row] for row in rows]
    for (azimuth, elevation, range_), row in zip(SETTINGS.places, numbers, strict=True):
        for truth, (estimate, error, bound) in zip(
            (azimuth, elevation, range_), (row[:3], row[3:6], row[6:]), strict=True
        ):
            # Estimates are rounded to hundredths.
            assert estimate - error == pytest.approx(truth, abs=0.0056)
            assert abs(error) < 10 * bound
