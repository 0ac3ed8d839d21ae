"""A measurement of one's own: how its elements are counted, where its sources are, and what a fit leaves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike
from plotly.subplots import make_subplots

from rislab.data.geometry import position, position_jacobian
from rislab.data.measurement import Measurement
from rislab.errors import InputError
from rislab.music.localisation import Localisation
from rislab.music.residual import Residual
from rislab.plots.bound import SHARE, error_ellipse
from rislab.plots.spectra import KEYS
from rislab.plots.style import BLUE, GREY, LEGEND_ABOVE, VERMILLION, VIOLET, Array, template

POINTS = 2000  # drawn of all snapshots
NUMBERED = 64  # elements; the numbers of more are not written beside them


def element_order(measurement: Measurement, snapshot: int = 0) -> go.Figure:
    """The elements as a source in front of them sees them, in the order in which they are counted.

    Args:
        measurement: one.
        snapshot: whose code gives the colours.

    Returns:
        Two panels: the number of each element, and the phase of its code.
    """
    elements = measurement.array.elements.double().cpu().numpy()
    codes = measurement.codes[0, snapshot].cpu().numpy()
    count = len(elements)
    titles = ["number of the element", f"phase of the code in snapshot {snapshot} (°)"]
    figure = make_subplots(1, 2, subplot_titles=titles, horizontal_spacing=0.2)
    values = (np.arange(count), np.rad2deg(np.angle(codes)))
    scales = ("Viridis", "Phase")
    size = min(18, max(6, 260 / math.sqrt(count)))
    for column, (value, scale) in enumerate(zip(values, scales, strict=True), start=1):
        few = count <= NUMBERED and column == 1
        bar = {"x": 0.41 if column == 1 else 1.01, "len": 1.0, "thickness": 12}
        limits = {} if column == 1 else {"cmin": -180, "cmax": 180}
        look = {"color": value, "colorscale": scale, "size": size, "symbol": "square", "colorbar": bar, **limits}
        look["line"] = {"color": GREY, "width": 1}  # some colours of the scale are as pale as the page
        what = "element %{customdata}<br>y %{x:.4g} m, z %{y:.4g} m<br>%{marker.color:.4g}<extra></extra>"
        at = {"x": elements[:, 1], "y": elements[:, 2], "customdata": np.arange(count), "hovertemplate": what}
        numbers = [str(number) for number in range(count)] if few else None
        written = {"mode": "markers+text" if few else "markers", "text": numbers, "textposition": "top center"}
        figure.add_scatter(**at, **written, marker=look, showlegend=False, row=1, col=column)
        anchor = next(figure.select_yaxes(row=1, col=column)).anchor
        figure.update_yaxes(scaleanchor=anchor, scaleratio=1, row=1, col=column)
        figure.update_xaxes(title_text="y (m), to the side of growing azimuth", row=1, col=column)
    figure.update_yaxes(title_text="z (m), up", col=1)
    figure.update_annotations(font_size=14)
    return figure.update_layout(template=template(), height=460, margin_r=60)


def residual_panels(named: Mapping[str, Residual]) -> go.Figure:
    """What fits explain and what they leave.

    Args:
        named: by title, at most three.

    Returns:
        For each a panel of measured against fitted values, which fall on the diagonal if the model explains them; and
        one of the residual's power, which falls on the grey line if it is noise.
    """
    if not 1 <= len(named) <= 3:
        raise InputError(f"named holds {len(named)} residuals; allowed: one to three")
    columns = len(named)
    titles = [*(f"{name}: measured over fitted" for name in named), *(f"{name}: what is left" for name in named)]
    figure = make_subplots(2, columns, subplot_titles=titles, vertical_spacing=0.2)
    for column, left in enumerate(named.values(), start=1):
        _measured_over_fitted(figure, left, column)
        _survival(figure, left, column)
    figure.update_yaxes(title_text="measured, real part", row=1, col=1)
    figure.update_yaxes(title_text="share above", row=2, col=1)
    figure.update_annotations(font_size=14)
    return figure.update_layout(template=template(), legend=LEGEND_ABOVE, height=760, margin_t=96)


def _measured_over_fitted(figure: go.Figure, left: Residual, column: int) -> None:
    fitted = left.fitted.cpu().numpy().reshape(-1)
    measured = fitted + left.snapshots.cpu().numpy().reshape(-1)
    scale = float(np.sqrt(np.mean(np.abs(measured) ** 2))) or 1.0
    step = -(-len(fitted) // POINTS)
    x, y = fitted.real[::step] / scale, measured.real[::step] / scale
    first = column == 1
    dots = {"color": BLUE, "size": 3}
    what = "fitted %{x:.3f}<br>measured %{y:.3f}<extra></extra>"
    figure.add_scatter(
        x=x, y=y, mode="markers", marker=dots, name="snapshots", showlegend=first, hovertemplate=what, row=1, col=column
    )
    end = 1.05 * float(np.abs(np.concatenate([x, y])).max())
    line = {"color": GREY, "width": 2}
    ends = {"x": [-end, end], "y": [-end, end], "mode": "lines", "line": line}
    figure.add_scatter(**ends, name="as it should be", showlegend=first, hoverinfo="skip", row=1, col=column)
    figure.update_xaxes(title_text="fitted, real part over RMS", range=[-end, end], row=1, col=column)
    figure.update_yaxes(range=[-end, end], row=1, col=column)


def _survival(figure: go.Figure, left: Residual, column: int) -> None:
    """How often the power of the residual exceeds a multiple of its mean; e^(−x) for complex normal noise."""
    power = np.sort(np.abs(left.snapshots.cpu().numpy().reshape(-1)) ** 2)
    power = power / (power.mean() or 1.0)
    share = 1 - np.arange(len(power)) / len(power)
    pick = np.unique(np.linspace(0, len(power) - 1, 400).astype(int))
    first, line = column == 1, {"color": VERMILLION, "width": 2}
    what = "%{x:.3g} times the mean<br>share above %{y:.3g}<extra></extra>"
    curve = {"x": power[pick], "y": share[pick], "mode": "lines", "line": line, "hovertemplate": what}
    figure.add_scatter(**curve, name="residual", showlegend=first, row=2, col=column)
    x = np.linspace(0, max(float(power[-1]), 1.0), 60)
    straight = {"x": x, "y": np.exp(-x), "mode": "lines", "line": {"color": GREY, "width": 2}, "hoverinfo": "skip"}
    figure.add_scatter(**straight, name="of noise", showlegend=False, row=2, col=column)
    figure.update_xaxes(title_text="power over its mean", row=2, col=column)
    low = math.floor(math.log10(0.5 / len(power)))
    ticks = [10.0**power for power in range(low, 1)]
    words = [f"10<sup>−{-power}</sup>" if power else "1" for power in range(low, 1)]
    figure.update_yaxes(type="log", range=[low, 0.1], tickvals=ticks, ticktext=words, row=2, col=column)


def located_positions(located: Sequence[Localisation], *, true_positions: ArrayLike | None = None) -> go.Figure:
    """Where the sources of measurements are, from above and from the side, with their standard errors as ellipses.

    Args:
        located: of one measurement each, by one array.
        true_positions: [S,3] metres, if they are known from elsewhere; drawn as rings.
    """
    figure = make_subplots(1, 2, subplot_titles=["from above", "from the side"])
    for column, axes in ((1, [0, 1]), (2, [0, 2])):
        spots, outlines = _spots(located, axes)
        cell = {"showlegend": column == 1, "row": 1, "col": column}
        square = {"color": VIOLET, "symbol": "square", "size": 11}
        figure.add_scatter(x=[0], y=[0], mode="markers", marker=square, name="array", hoverinfo="skip", **cell)
        if true_positions is not None:
            truth = np.asarray(true_positions, dtype=np.float64)[:, axes]
            ring = KEYS["true source"]
            what = "surveyed<br>%{x:.3f} m, %{y:.3f} m<extra></extra>"
            at = {"x": truth[:, 0], "y": truth[:, 1], "mode": "markers", "marker": ring, "hovertemplate": what}
            figure.add_scatter(**at, name="surveyed position", **cell)
        at = {"x": outlines[:, 0], "y": outlines[:, 1], "mode": "lines", "line": {"color": BLUE, "width": 1.5}}
        figure.add_scatter(**at, name=f"{SHARE * 100:g} % by the standard errors", hoverinfo="skip", **cell)
        cross = KEYS["estimate"]
        what = "estimate<br>%{x:.3f} m, %{y:.3f} m<extra></extra>"
        at = {"x": spots[:, 0], "y": spots[:, 1], "mode": "markers", "marker": cross, "hovertemplate": what}
        figure.add_scatter(**at, name="estimate", **cell)
        anchor = next(figure.select_yaxes(row=1, col=column)).anchor
        title = "y (m), sideways" if column == 1 else "z (m), up"
        figure.update_yaxes(title_text=title, scaleanchor=anchor, scaleratio=1, row=1, col=column)
        figure.update_xaxes(title_text="x (m), away from the array", row=1, col=column)
    figure.update_annotations(font_size=14)
    return figure.update_layout(template=template(), legend=LEGEND_ABOVE, height=560, margin_t=96)


def _spots(located: Sequence[Localisation], axes: list[int]) -> tuple[Array, Array]:
    """Positions [S,2] in two of the three coordinates, and the outlines of their errors with gaps between them."""
    spots, outlines = [np.zeros((0, 2))], [np.zeros((0, 2))]
    for one in located:
        places = [axis[0].double() for axis in (one.estimate.azimuth, one.estimate.elevation, one.estimate.range)]
        turn = position_jacobian(*places)
        spread = (turn @ one.bound.blocks[0] @ turn.mT).cpu().numpy()
        middle = position(*places).cpu().numpy()
        for slot in range(len(middle)):
            spots.append(middle[slot][axes][None])
            outlines += [error_ellipse(spread[slot][np.ix_(axes, axes)], middle[slot][axes]), np.full((1, 2), np.nan)]
    return np.concatenate(spots), np.concatenate(outlines)
