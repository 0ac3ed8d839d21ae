"""Where the Cramér–Rao bound lets estimates of one scene fall: ellipses in the room and over angle and range.

The true position is a ring, estimates are dots, and grey is what the bound allows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots
from torch import Tensor

from rislab.data.geometry import position, position_jacobian
from rislab.data.scenes import SceneBatch
from rislab.errors import InputError
from rislab.music.crb import Bound
from rislab.music.metrics import Matching
from rislab.music.scene_view import SceneAnalysis
from rislab.plots.spectra import check_single_scene
from rislab.plots.style import GREY, LEGEND_BELOW, VIOLET, Array, TraceStyle, template, trace_styles

# 95 % of pairs of normal errors lie within √5.99 standard deviations, by χ² with two degrees of freedom.
SHARE = 0.95
RADIUS = math.sqrt(-2 * math.log(1 - SHARE))


def bound_ellipses(scene: SceneBatch, bound: Bound, draws: Matching | None = None) -> go.Figure:
    """Where the Cramér–Rao bound lets estimates of one scene fall, and where they fell.

    Args:
        scene: one scene.
        bound: its bound, for the same source slots.
        draws: estimates of many draws of the noise matched with the scene, as match() gives them; misses stay out.

    Returns:
        The room from above and from the side with the surface in it; below, for each source, the errors of azimuth and
        elevation against that of the range. Ellipses hold 95 % of unbiased normal errors of the bound's covariance;
        what has no finite bound has no ellipse.
    """
    check_single_scene(scene)
    if bound.blocks.shape[:2] != scene.active.shape:
        raise InputError(
            f"bound is of {tuple(bound.blocks.shape[:2])} scenes and sources; allowed: {tuple(scene.active.shape)}"
        )
    if draws is not None and draws.hit.shape[1] != scene.active.shape[1]:
        raise InputError(f"draws have {draws.hit.shape[1]} sources; allowed: {scene.active.shape[1]}, as the scene has")
    slots = scene.active[0].nonzero().squeeze(-1).tolist()
    columns = 2 * len(slots)
    specs = [[{"colspan": len(slots)}, *[None] * (len(slots) - 1)] * 2]
    specs += [[{"colspan": 2}, None] * len(slots)] * 2
    sources = [_Source(scene, bound, draws, slot) for slot in slots]
    titles = ["from above", "from the side"]
    titles += [f"source {one.slot + 1}: {_inside(*one.pair(angle))}" for angle in (0, 1) for one in sources]
    spacing = {"row_heights": [0.44, 0.28, 0.28], "vertical_spacing": 0.1, "horizontal_spacing": 0.3 / columns}
    figure = make_subplots(3, columns, specs=specs, subplot_titles=titles, **spacing)
    _room(figure, scene, len(slots))
    styles = trace_styles(f"source {slot + 1}" for slot in slots)
    for place, (style, source) in enumerate(zip(styles, sources, strict=True)):
        for column, rows in ((1, [0, 1]), (1 + len(slots), [0, 2])):
            spread = source.spread[rows][:, rows]
            _cloud(figure, style, source.spots[:, rows], spread, source.spot[rows], (1, column), "m", place)
        for angle, name in enumerate(("azimuth", "elevation")):
            cell = (2 + angle, 2 * place + 1)
            _cloud(figure, style, *source.pair(angle), np.zeros(2), cell, "°", place)
            figure.update_xaxes(title_text=f"{name} error (°)", row=cell[0], col=cell[1])
    figure.update_yaxes(title_text="range error (m)", row=2, col=1)
    figure.update_yaxes(title_text="range error (m)", row=3, col=1)
    figure.update_annotations(font_size=14)
    return figure.update_layout(template=template(), legend=LEGEND_BELOW, height=1080, margin_b=110)


class _Source:
    """One source in degrees and metres: where it is, its bound, and the errors of its estimates, [D,3]."""

    def __init__(self, scene: SceneBatch, bound: Bound, draws: Matching | None, slot: int) -> None:
        self.slot = slot
        place = [axis[0, slot].double() for axis in (scene.azimuth, scene.elevation, scene.range)]
        turn = position_jacobian(*place).numpy()
        block = bound.blocks[0, slot].cpu().numpy()
        degrees = np.array([180 / math.pi, 180 / math.pi, 1.0])
        self.spot: Array = position(*place).numpy()
        self.spread: Array = turn @ block @ turn.T
        self.block: Array = degrees[:, None] * block * degrees
        errors = np.zeros((0, 3))
        self.spots = np.zeros((0, 3))
        if draws is not None:
            axes = [
                axis[:, slot][draws.hit[:, slot]].double() for axis in (draws.azimuth, draws.elevation, draws.range)
            ]
            errors = np.stack([axis.numpy() for axis in axes], axis=-1)
            self.spots = position(*(middle + error for middle, error in zip(place, axes, strict=True))).numpy()
        self.errors: Array = errors * degrees

    def pair(self, angle: int) -> tuple[Array, Array]:
        """Errors [D,2] of azimuth (0) or elevation (1) and of the range, and the bound on their covariance."""
        rows = [angle, 2]
        return self.errors[:, rows], self.block[rows][:, rows]


def _room(figure: go.Figure, scene: SceneBatch, columns: int) -> None:
    """Axes in metres of one scale with the surface drawn as a bar, seen from above and from the side."""
    rows, across = scene.config.ris_shape
    for column, name, count in ((1, "y", across), (1 + columns, "z", rows)):
        half = count * scene.config.spacing * scene.config.wavelength / 2
        line = {"color": VIOLET, "width": 7}
        what = f"surface, {count} elements over {2 * half:g} m<extra></extra>"
        bar = {"x": [0, 0], "y": [-half, half], "line": line, "hovertemplate": what, "name": "surface (RIS)"}
        # Markers keep the line away from the edge of the panel.
        dots = {"mode": "lines+markers", "marker": {"size": 2, "color": VIOLET}}
        figure.add_scatter(**bar, **dots, showlegend=column == 1, row=1, col=column)
        figure.update_xaxes(title_text="x (m), away from the surface", row=1, col=column)
        anchor = next(figure.select_yaxes(row=1, col=column)).anchor
        title = f"{name} (m)" + (", sideways" if name == "y" else ", up")
        figure.update_yaxes(title_text=title, scaleanchor=anchor, scaleratio=1, row=1, col=column)


def _cloud(
    figure: go.Figure,
    style: TraceStyle,
    points: Array,
    spread: Array,
    middle: Array,
    cell: tuple[int, int],
    unit: str,
    place: int,
) -> None:
    """Points [D,2], the ellipse of a covariance [2,2] round the middle [2], and a ring there."""
    row, column = cell
    what = f"<b>{style.name}</b><br>%{{x:.4g}} {unit}, %{{y:.4g}} m<extra>%{{fullData.name}}</extra>"
    shared = {"hovertemplate": what, "row": row, "col": column}
    shown = row == 1 and column == 1
    look = {"color": style.colour, "symbol": style.symbol, "size": 5}
    name = f"estimates of {style.name}"
    group = {"legendgroup": name, "showlegend": shown and len(points) > 0, "legendrank": 1001 + place}
    figure.add_scatter(x=points[:, 0], y=points[:, 1], mode="markers", marker=look, name=name, **group, **shared)
    outline = error_ellipse(spread, middle)
    line = {"color": GREY, "width": 2.5}
    once = {"showlegend": shown and place == 0}
    name = f"{SHARE * 100:g} % of the bound"
    figure.add_scatter(x=outline[:, 0], y=outline[:, 1], mode="lines", line=line, name=name, **once, **shared)
    ring = {"symbol": "circle-open", "size": 11, "color": GREY, "line": {"width": 2}}
    at = {"x": middle[:1], "y": middle[1:], "mode": "markers", "marker": ring, "name": "true position"}
    figure.add_scatter(**at, **once, **shared)
    if row > 1:
        # plotly leaves no margin around lines.
        everything = np.concatenate([points, outline, -points, -outline, middle[None]])
        extent = 1.06 * np.abs(everything - middle).max(axis=0)
        for update, end in ((figure.update_xaxes, extent[0]), (figure.update_yaxes, extent[1])):
            update(range=[-end, end] if end > 0 else None, row=row, col=column)


def error_ellipse(spread: Array, middle: Array) -> Array:
    """Outline of the share SHARE of normal errors, [T,2]; empty where the covariance is not finite."""
    if not np.isfinite(spread).all():
        return np.zeros((0, 2))
    values, vectors = np.linalg.eigh(spread)
    turn = np.linspace(0, 2 * math.pi, 121)
    circle = np.stack([np.cos(turn), np.sin(turn)], axis=-1)
    outline: Array = middle + RADIUS * (circle * np.sqrt(values.clip(min=0))) @ vectors.T
    return outline


def direction_outlines(analysis: SceneAnalysis, turn: Tensor) -> Iterator[Tensor]:
    """Outline [T,2] of the ellipse of the bound around each source, degrees, at some angles; none where it is infinite.

    Args:
        analysis: of one scene.
        turn: [T], radians.
    """
    circle = RADIUS * torch.stack([torch.cos(turn), torch.sin(turn)])
    for slot, (azimuth, elevation, _) in enumerate(analysis.settings.places):
        block = analysis.bound.blocks[0, slot, :2, :2]
        if bool(torch.isfinite(block).all()):
            outline = torch.rad2deg(torch.linalg.cholesky(block) @ circle)
            yield outline.T + torch.tensor([azimuth, elevation], dtype=outline.dtype)


def _inside(errors: Array, spread: Array) -> str:
    if not np.isfinite(spread).all():
        return "no finite bound"
    if not len(errors):
        return f"{SHARE * 100:g} % of the bound"
    distance = np.einsum("di,ij,dj->d", errors, np.linalg.inv(spread), errors)
    return f"{100 * np.mean(distance <= RADIUS**2):.0f} % of {len(errors)} inside"
