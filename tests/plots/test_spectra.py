"""Maps and curves: the traces are the spectra and values that were given, in stated units, on light and dark pages."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

import rislab
from rislab.data.geometry import ArrayGeometry
from rislab.data.grid import Grid
from rislab.errors import InputError
from rislab.plots import spectra as spectrum_plots
from rislab.plots import style
from rislab.plots.bound import bound_ellipses
from tests.plots.test_bound import CONFIG, some_draws, some_scene

torch.set_num_threads(1)
NAN, INF = math.nan, math.inf


def some_map() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Power that differs in every cell, with its axes in radians."""
    azimuth, elevation = np.deg2rad(np.linspace(-60, 60, 7)), np.deg2rad(np.linspace(-30, 30, 4))
    return 1.0 + np.arange(28.0).reshape(7, 4), azimuth, elevation


def one_map(power: Any, azimuth: Any, elevation: Any, **options: Any) -> go.Figure:
    return spectrum_plots.beam_maps({"MUSIC": power}, azimuth, elevation, **options)


def some_cut(**options: Any) -> go.Figure:
    power = np.abs(np.sin(np.arange(2 * 30).reshape(2, 30))) + 0.1
    ranges = 1 / np.linspace(1 / 10, 1 / 0.5, 30)
    places = ([0.1, -0.2], [0.2, 0.3], [1.0, 4.0])
    return spectrum_plots.range_cut({"MUSIC": power, "MVDR": power**2}, ranges, places, **options)


def every_map() -> dict[str, go.Figure]:
    power, azimuth, elevation = some_map()
    scene = some_scene()
    grid = CONFIG.grid((31, 16, 3))
    spectrum = rislab.music_spectrum(scene.factor(), 2, grid)
    lines = {"title": "Bias", "x_title": "range (m)", "y_title": "error (°)", "log_x": True, "log_y": True}
    return {
        "beam_maps": one_map(power, azimuth, elevation, sources=([0.1], [0.2])),
        "spectra": spectrum_plots.spectra({"MUSIC": spectrum, "again": spectrum}, grid, scene=scene),
        "range_cut": some_cut(),
        "bound_ellipses": bound_ellipses(scene, rislab.crb(scene), some_draws(scene)),
        "sweep": spectrum_plots.sweep({"planar": [3.0, 2.0, 0.1]}, [1, 2, 5], **lines),
        "recall_curves": spectrum_plots.recall_curves({"sparse": [0.2, 0.9]}, [0, 10], allowed=[0.3, 0.95]),
    }


def trace(figure: go.Figure, name: str) -> Any:
    """The first trace of that name."""
    return next(each for each in figure.data if each.name == name)


def test_beam_map_is_in_degrees_and_decibels_below_the_peak() -> None:
    power, azimuth, elevation = some_map()
    figure = one_map(power, azimuth, elevation, sources=([0.1, -0.2], [0.2, 0.3]))
    heat, dark, white, key = figure.data
    assert np.allclose(heat.x, np.linspace(-60, 60, 7))
    assert np.allclose(heat.y, np.linspace(-30, 30, 4))
    assert np.allclose(heat.z, 10 * np.log10(power / power.max()).T, atol=1e-5)
    assert heat.z.dtype == np.float32
    assert np.allclose(white.x, np.rad2deg([0.1, -0.2]))
    assert np.allclose(white.y, np.rad2deg([0.2, 0.3]))
    assert white.marker.color == "#ffffff"
    assert dark.marker.line.width > white.marker.line.width
    assert key.name == "true source"
    assert figure.layout.annotations[0].text == "MUSIC"


def test_beam_maps_share_one_scale_and_wrap_after_three() -> None:
    power, azimuth, elevation = some_map()
    figure = spectrum_plots.beam_maps({str(n): power * 10**n for n in range(4)}, azimuth, elevation, floor_db=-30.0)
    assert {heat.coloraxis for heat in figure.data} == {"coloraxis"}
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (-30.0, 0.0)
    assert all(np.allclose(heat.z, figure.data[0].z) for heat in figure.data)
    assert figure.data[3].yaxis == "y4"
    assert figure.layout.yaxis4.domain[1] < figure.layout.yaxis.domain[0]


def test_the_colour_scale_follows_the_map() -> None:
    power, azimuth, elevation = some_map()
    flat, steep = (one_map(power**turn, azimuth, elevation).layout.coloraxis.cmin for turn in (0.1, 2))
    assert steep == pytest.approx(20 * flat, rel=1e-4) and flat > -3


def test_beam_map_accepts_the_grid_of_the_lab() -> None:
    grid = Grid.field_of_view(ArrayGeometry.surface((2, 2), 0.3), (-1.0, 1.0), (-0.5, 0.5), (1.0, 2.0), (5, 3, 1))
    figure = one_map(torch.rand(5, 3, 1), grid.azimuth, grid.elevation)
    assert figure.data[0].z.shape == (3, 5)


def test_beam_map_shows_zeros_infinities_and_nan_for_what_they_are() -> None:
    power, azimuth, elevation = some_map()
    power[0, 0], power[1, 0], power[2, 0] = 0.0, INF, NAN
    figure = one_map(power, azimuth, elevation)
    assert figure.data[0].z[0, :2].tolist() == [-40.0, 0.0]
    assert np.isnan(figure.data[0].z[0, 2])
    assert figure.layout.annotations[0].text == "MUSIC (1 × NaN)"


@pytest.mark.parametrize(
    ("scale", "turn", "cut", "message"),
    [(-1.0, 1.0, 7, "not dB"), (1.0, 57.3, 7, "radians"), (1.0, 1.0, 6, "shape")],
)
def test_beam_map_refuses_decibels_degrees_and_wrong_shapes(scale: float, turn: float, cut: int, message: str) -> None:
    power, azimuth, elevation = some_map()
    with pytest.raises(InputError, match=message):
        one_map(power[:cut] * scale, azimuth * turn, elevation)


def test_peaks_are_crosses_on_their_own_map_and_named_in_the_legend() -> None:
    power, azimuth, elevation = some_map()
    peaks = {"two": ([0.3], [-0.1])}
    figure = spectrum_plots.beam_maps(
        {"one": power, "two": power}, azimuth, elevation, sources=([0.1], [0.2]), peaks=peaks
    )
    crosses = [each for each in figure.data if each.type == "scatter" and each.name == "estimate" and each.x[0]]
    assert [(each.xaxis, each.x[0], each.y[0]) for each in crosses] == [
        ("x2", pytest.approx(np.rad2deg(0.3)), pytest.approx(np.rad2deg(-0.1)))
    ] * 2  # a dark one below
    assert {each.marker.symbol for each in crosses} == {"x-thin-open"}
    assert [each.name for each in figure.data if each.showlegend is not False and each.type == "scatter"] == [
        "true source",
        "estimate",
    ]
    with pytest.raises(InputError, match="peaks name 'three'; allowed: 'one'"):
        spectrum_plots.beam_maps({"one": power}, azimuth, elevation, peaks={"three": ([0.0], [0.0])})


def test_marks_do_not_widen_a_map() -> None:
    power, azimuth, elevation = some_map()
    layout = one_map(power, azimuth, elevation, sources=([1.04], [0.52])).layout
    assert layout.xaxis.range == pytest.approx((-70, 70))
    assert layout.yaxis.range == pytest.approx((-40, 40))


def test_spectra_draw_the_map_the_sources_and_the_peaks_of_one_scene() -> None:
    scenes = rislab.simulate(CONFIG, 3, seed=2, split="test")
    grid = CONFIG.grid((31, 16, 3))
    spectrum = rislab.music_spectrum(scenes.factor(torch.float64), 2, grid)
    figure = spectrum_plots.spectra({"MUSIC": spectrum}, grid, scene=scenes[1], number=1)
    power = spectrum.map[1].numpy()
    assert np.allclose(figure.data[0].z, np.maximum(10 * np.log10(power / power.max()), -40).T, atol=1e-4)
    cross = next(each for each in figure.data if each.name == "estimate")
    assert np.allclose(sorted(cross.x), sorted(torch.rad2deg(scenes[1].azimuth[0]).tolist()), atol=1e-3)
    with pytest.raises(InputError, match="number for 'MUSIC' is 3"):
        spectrum_plots.spectra({"MUSIC": spectrum}, grid, number=3)
    with pytest.raises(InputError, match="scene holds 3 scenes; allowed: one"):
        spectrum_plots.spectra({"MUSIC": spectrum}, grid, scene=scenes)


def test_a_range_cut_is_uniform_in_inverse_range_with_ticks_in_metres() -> None:
    figure = some_cut(floor_db=-30.0)
    axis = figure.layout.xaxis
    assert axis.range == pytest.approx((0.1, 2.0))
    assert [1 / float(text) for text in axis.ticktext] == pytest.approx(list(axis.tickvals))
    assert "1/r" in axis.title.text
    first = trace(figure, "MUSIC")
    assert np.allclose(first.x, 1 / np.asarray(first.customdata))
    assert max(first.y) == 0
    assert min(first.y) >= -30
    true = [each for each in figure.data if each.name == "true range"]
    assert [each.x[0] for each in true] == [1.0, 0.25]
    assert [each.showlegend for each in true] == [True, False]
    assert len({each.line.dash for each in figure.data if each.name in ("MUSIC", "MVDR")}) == 2


def test_a_sweep_holds_its_numbers_and_leaves_gaps() -> None:
    titles = {"title": "t", "x_title": "x (m)", "y_title": "y (°)"}
    figure = spectrum_plots.sweep({"one": [1.0, NAN, 3.0]}, [1, 2, 3], **titles, allowed=[0.5, 0.4, 0.3])
    grey, one = figure.data
    assert (grey.name, grey.line.color) == ("what the bound allows", style.GREY)
    assert np.array_equal(one.y, [1.0, NAN, 3.0], equal_nan=True)
    assert one.x.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: spectrum_plots.recall_curves({"a": [0.1]}, [0, 10]), "curve 'a' has shape (1,); allowed: (2,)"),
        (
            lambda: spectrum_plots.recall_curves({"a": [0.1, 1.1]}, [0, 10]),
            "recall 'a' reaches 0.1 … 1.1; allowed: [0, 1]",
        ),
        (
            lambda: spectrum_plots.recall_curves({}, [0, 10], allowed=[-1, 0.5]),
            "recall 'what the bound allows' reaches -1 … 0.5",
        ),
        (
            lambda: spectrum_plots.sweep({"a": [0.0, 1.0]}, [1, 2], title="", x_title="", y_title="", log_y=True),
            "curve 'a' goes down to 0; allowed: above 0 on a log axis",
        ),
        (lambda: spectrum_plots.sweep({}, [0, 1], title="", x_title="", y_title="", log_x=True), "x goes down to 0"),
        (
            lambda: spectrum_plots.range_cut({"a": np.ones((1, 3))}, [1, 2, 3, 4], ([0.1], [0.1], [2.0])),
            "curves 'a' have shape (1, 3); allowed: (1, 4), sources by ranges",
        ),
        (lambda: spectrum_plots.range_cut({}, [0, 1], ([0.1], [0.1], [2.0])), "range goes down to 0; allowed: above 0"),
        (lambda: spectrum_plots.range_cut({}, [1, 2], ([0.1], [0.1], [NAN])), "range of a source goes down to nan"),
        (lambda: some_cut(floor_db=3.0), "floor_db is 3"),
    ],
)
def test_bad_input_is_refused_by_name(call: Callable[[], go.Figure], message: str) -> None:
    with pytest.raises(InputError) as caught:
        call()
    assert message in str(caught.value)


def test_every_axis_names_its_quantity_and_unit() -> None:
    units = ("(°)", "(m)", "dB", "(share of the sources)")
    figures = every_map()
    for name, figure in figures.items():
        titles = [axis.title.text for axis in figure.select_xaxes()]
        titles += [axis.title.text for axis in figure.select_yaxes() if axis.title.text]
        assert len(titles) > len(list(figure.select_xaxes())), name
        assert all(title and any(unit in title for unit in units) for title in titles), (name, titles)
    for name in ("beam_maps", "spectra"):
        assert "dB" in figures[name].layout.coloraxis.colorbar.title.text


def test_every_trace_that_has_points_tells_its_numbers() -> None:
    for name, figure in every_map().items():
        for each in figure.data:
            blank = each.x is None or len(each.x) == 0 or each.x[0] is None
            assert blank or each.hovertemplate, (name, each.name)


def test_every_map_carries_the_template_and_turns_dark() -> None:
    for name, figure in every_map().items():
        assert figure.layout.template.layout.paper_bgcolor == style.PAGES["light"]["paper"], name
        assert (figure.layout.paper_bgcolor, figure.layout.font.color) == (None, None), name
        figure.update_layout(template=style.template("dark"))
        assert figure.layout.template.layout.font.color == style.PAGES["dark"]["text"], name


@pytest.mark.slow
def test_maps_do_not_change_their_input_and_repeat_exactly() -> None:
    one, two = every_map(), every_map()
    assert all(one[name].to_json() == two[name].to_json() for name in one)
