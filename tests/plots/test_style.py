"""The look of all figures: everybody can read it, and thinning loses nothing that matters."""

from __future__ import annotations

import itertools
import math
import pkgutil
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import rislab.plots
from rislab.errors import InputError
from rislab.plots import style

NAN, INF = math.nan, math.inf
VALUES = arrays(np.float64, st.integers(0, 400), elements=st.floats(allow_nan=True, allow_infinity=True, width=64))


@settings(deadline=None)
@given(VALUES, st.integers(8, 60))
def test_decimation_keeps_extremes_ends_and_every_kind_of_gap(values: np.ndarray, points: int) -> None:
    x = style.decimation_indices(values, points)
    y = values[x]
    assert len(y) == len(x) <= max(points, 8)
    assert np.all(np.diff(x) > 0)
    if len(values) <= points:
        assert np.array_equal(y, values, equal_nan=True)
    if len(values):
        assert (x[0], x[-1]) == (0, len(values) - 1)
    for kind in (np.isnan, np.isposinf, np.isneginf):
        assert kind(y).any() == kind(values).any()
    if np.isfinite(values).any():
        kept, finite = y[np.isfinite(y)], values[np.isfinite(values)]
        assert (kept.min(), kept.max()) == (finite.min(), finite.max())


@settings(deadline=None)
@given(st.integers(0, 4999), st.sampled_from([NAN, INF, -INF, 7.0, -7.0]))
def test_a_single_spike_survives_anywhere(place: int, spike: float) -> None:
    values = np.sin(np.arange(5000.0))
    values[place] = spike
    assert place in style.decimation_indices(values, 100)


def test_too_few_points_are_refused() -> None:
    with pytest.raises(InputError, match="points"):
        style.decimation_indices(np.ones(20), 7)


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2."""
    red, green, blue = linear(colour)
    return float(0.2126 * red + 0.7152 * green + 0.0722 * blue)


def linear(colour: str) -> np.ndarray:
    """Linear RGB of an sRGB colour like "#0072B2"."""
    values = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def lab(colour: np.ndarray) -> np.ndarray:
    """CIELAB (D65) of linear RGB."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt(np.clip(to_xyz @ colour / np.array([0.9505, 1.0, 1.089]), 1e-4, None))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB.
SEEN_BY = {
    "anyone": np.eye(3),
    "protanopes": np.array([[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0519]]),
    "deuteranopes": np.array([[0.3673, 0.8606, -0.2280], [0.2801, 0.6727, 0.0472], [-0.0118, 0.0429, 0.9689]]),
}


def nearest(colours: Sequence[str], eyes: np.ndarray) -> float:
    """Smallest CIELAB distance between two of the colours."""
    seen = [lab(np.clip(eyes @ linear(colour), 0, 1)) for colour in colours]
    return min(float(np.linalg.norm(one - other)) for one, other in itertools.combinations(seen, 2))


@pytest.mark.parametrize("who", SEEN_BY)
def test_colours_stay_apart_for_colour_blind_readers(who: str) -> None:
    # 2.3 is just noticeable on large patches side by side; thin lines far apart need several times that, here six.
    assert nearest(style.COLOURS, SEEN_BY[who]) > 15
    assert nearest((style.GREEN, style.VERMILLION), SEEN_BY[who]) > 30


def test_the_colour_blindness_test_would_catch_a_common_red_and_green() -> None:
    assert nearest(("#d62728", "#2ca02c"), SEEN_BY["anyone"]) > 100
    assert nearest(("#d62728", "#2ca02c"), SEEN_BY["deuteranopes"]) < 15


@pytest.mark.parametrize("theme", style.PAGES)
def test_text_and_lines_have_contrast(theme: str) -> None:
    layout = style.template(theme).layout
    paper = layout.paper_bgcolor
    assert contrast(layout.font.color, paper) >= 4.5
    assert layout.plot_bgcolor == paper
    assert all(contrast(colour, paper) >= 3 for colour in (*style.COLOURS, style.GREY, layout.xaxis.linecolor))
    button = layout.updatemenudefaults
    assert min(contrast(button.font.color, ground) for ground in (button.bgcolor, style.PRESSED)) >= 4.5


def test_no_grey_is_readable_on_both_white_and_dark_pages() -> None:
    greys = [f"#{level:02x}{level:02x}{level:02x}" for level in range(256)]
    assert max(min(contrast(grey, "#ffffff"), contrast(grey, "#111111")) for grey in greys) < 4.5


def test_the_first_runs_differ_in_colour_and_dash_and_symbol() -> None:
    styles = style.trace_styles(map(str, range(24)))
    for field in ("colour", "dash", "symbol"):
        assert len({vars(one)[field] for one in styles[:4]}) == 4
    assert len({one.colour for one in styles[:6]}) == 6
    assert len({(one.colour, one.dash) for one in styles}) == 24


def test_fonts_are_legible() -> None:
    layout = style.template().layout
    sizes = [layout.font.size, layout.xaxis.tickfont.size, layout.yaxis.title.font.size, layout.legend.font.size]
    assert min(sizes) >= 13


def test_an_unknown_theme_is_refused() -> None:
    with pytest.raises(InputError, match="theme is 'sepia'"):
        style.template("sepia")


@pytest.mark.process
def test_figures_load_no_widgets() -> None:
    modules = [f"rislab.plots.{module.name}" for module in pkgutil.iter_modules(rislab.plots.__path__)]
    code = f"import sys, {', '.join(modules)}; print({{'ipywidgets', 'anywidget', 'IPython'}} & set(sys.modules))"
    child = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert child.stdout == "set()\n"
