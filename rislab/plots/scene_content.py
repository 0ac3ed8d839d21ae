"""One scene under several estimators as plain values for scene.js, which draws it in panels and on pages of its own.

Maps travel as one byte a point, in dB below the peak of each, from its own lowest level: 4 kB for 61 × 31 points.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Collection, Mapping
from functools import cache
from typing import Any

import numpy as np
import torch
from plotly import colors
from torch import Tensor

from rislab.music.posterior_view import drawn_directions
from rislab.music.scene_view import SceneAnalysis, SpectraView, in_degrees
from rislab.plots.bound import direction_outlines
from rislab.plots.style import BLUE, GREEN, GREY, OCHRE, PURPLE, STATIC, VERMILLION, Array

DEEPEST = 120.0  # dB; below it is the rounding of single precision
TITLES = {
    "truth": "exact covariance",
    "sample": "sample covariance",
    "learned": "learned covariance",
    "blend": "learned and sample",
    "sparse": "sparse fit",
    "posterior": "posterior density",
}
COLOURS = dict(zip(TITLES, (GREY, BLUE, VERMILLION, OCHRE, GREEN, PURPLE), strict=True))
PATTERNS = dict(zip(TITLES, ("6 3", "none", "2 2", "8 2 2 2", "5 2", "9 3"), strict=True))
STALE = 60  # steps of azimuth in a map of the scene before
CLOUD = 80  # directions drawn of each source


@cache
def scene_script() -> str:
    """The script that draws a scene."""
    return (STATIC / "scene.js").read_text(encoding="utf-8")


@cache
def scene_css() -> str:
    """Style sheet of scene_script()."""
    return (STATIC / "scene.css").read_text(encoding="utf-8")


def scene_look() -> dict[str, Any]:
    """Settings of scene_script(): the colours of the maps, from the floor to the peak."""
    return {"ramp": list(colors.sequential.Cividis)}


def scene_content(
    views: Mapping[str, SpectraView], *, spectrum: str = "MUSIC", stale: Collection[str] = (), cut_points: int = 200
) -> dict[str, Any]:
    """Views of one scene as the script takes them.

    Args:
        views: by the covariance that they are of, in the order of the maps; those of `stale` may be of another scene.
        spectrum: "MUSIC" or "MVDR".
        stale: covariances whose map is of the scene before.
        cut_points: of a range cut, at most.

    Returns:
        JSON: limits, places, surface, maps with their cuts, peaks and rows, ellipses and reach of the bound.
    """
    present = [view for name, view in views.items() if name not in stale]
    analysis = next((view for view in present if isinstance(view, SceneAnalysis)), None)
    view = present[0]
    config = view.scene.config
    extent = config.array().elements.amax(0) - config.array().elements.amin(0)
    return {
        "limits": {
            "azimuth": in_degrees(config.azimuth),
            "elevation": in_degrees(config.elevation),
            "range": list(config.range),
        },
        "places": [list(place) for place in view.settings.places],
        "surface": extent[1:].tolist(),
        "antennas": config.antennas,
        "maps": [_map(name, one, spectrum, stale=name in stale, cut_points=cut_points) for name, one in views.items()],
        "ellipses": [] if analysis is None else bound_ellipse_outlines(analysis),
        "reach": None if analysis is None else _finite(1.96 * analysis.bound.range[0]),
    }


def bound_ellipse_outlines(analysis: SceneAnalysis) -> list[list[list[float]]]:
    """Outline of the 95 % ellipse of the bound around each source, degrees; none where it is infinite."""
    turn = torch.linspace(0, 2 * math.pi, 33, dtype=torch.float64)[:-1]
    return [_rounded(outline, 3) for outline in direction_outlines(analysis, turn)]


def _map(name: str, view: SpectraView, spectrum: str, *, stale: bool, cut_points: int) -> dict[str, Any]:
    values = view.music if spectrum == "MUSIC" else view.mvdr
    if stale:  # drawn pale, and sent with every frame while something moves, so as coarse as the others
        values = values[:: max(1, values.shape[0] // STALE), :: max(1, values.shape[0] // STALE)]
    cut = view.cut[spectrum]
    level = _levels(values)
    made = {
        "name": name,
        "title": TITLES[name],
        "by": f"MUSIC, {name}" if view.posterior is None else "posterior mean",  # the estimates
        "colour": COLOURS[name],
        "dash": PATTERNS[name],
        "stale": stale,
        "shape": list(values.shape),
        # The colours end where the lowest twentieth of the map begins.
        "spread": round(float(np.percentile(level, 5)), 2),
        "cut": _packed(_levels(cut[:: max(1, len(cut) // cut_points)])),
        **_packed(level),
    }
    if view.posterior is not None:
        made["cloud"] = _rounded(torch.rad2deg(drawn_directions(view.posterior, CLOUD)), 2)
    if isinstance(view, SceneAnalysis):
        active = view.peaks.active[0]
        angles = [torch.rad2deg(one[0][active].double()) for one in (view.peaks.azimuth, view.peaks.elevation)]
        made["peaks"] = _rounded(torch.stack([*angles, view.peaks.range[0][active].double()], dim=-1), 3)
        made["rows"] = source_rows(view)
    return made


def source_rows(analysis: SceneAnalysis) -> list[Any]:
    """For each source "missed", or estimate, error and √CRB of azimuth, elevation (degrees) and range (metres)."""
    rows: list[Any] = []
    matching, limit, peaks = analysis.matching, analysis.bound, analysis.peaks
    for source in range(len(analysis.settings.places)):
        if not bool(matching.hit[0, source]):
            rows.append("missed")
            continue
        slot = int(matching.slot[0, source])
        cells = []
        for name, scale in (("azimuth", 180 / math.pi), ("elevation", 180 / math.pi), ("range", 1.0)):
            estimate = scale * float(getattr(peaks, name)[0, slot])
            error, bound = (scale * float(getattr(each, name)[0, source]) for each in (matching, limit))
            cells += [f"{estimate:.2f}".replace("-", "−"), f"{error:+.3f}".replace("-", "−")]
            cells += [f"±{bound:#.2g}".rstrip(".") if math.isfinite(bound) else "none"]
        rows.append(cells)
    return rows


def _levels(values: Tensor) -> Array:
    """Linear power in dB below its peak, no lower than DEEPEST."""
    power = values.double().numpy()
    floor = 10 ** (-DEEPEST / 10)
    return np.asarray(10 * np.log10(np.clip(np.nan_to_num(power / power.max(), nan=floor), floor, 1.0)))


def _packed(level: Array) -> dict[str, Any]:
    """Levels as bytes: 255 is the peak, 0 is `low` dB."""
    low = min(float(level.min()), -0.01)
    steps = np.round(255 * (1 - level / low)).astype(np.uint8)
    return {"low": round(low, 3), "data": base64.b64encode(np.ascontiguousarray(steps).tobytes()).decode()}


def _finite(values: Tensor) -> list[float | None]:
    return [round(value, 4) if math.isfinite(value) else None for value in values.tolist()]


def _rounded(values: Tensor, digits: int) -> list[list[float]]:
    return [[round(value, digits) for value in row] for row in values.tolist()]
