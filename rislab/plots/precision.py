"""Number formats × accumulation steps as figures: the table as heat maps, and the curves of one cell."""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from rislab.plots import style
from rislab.sanity.number_formats import MODES
from rislab.sanity.overfit_config import BATCH
from rislab.sanity.precision import PrecisionCell, WindowComparison

SHARES = ((0.0, style.PALE), (0.85, style.SAND), (1.0, style.ORANGE))  # a tenth of the alarm is still pale
ERRORS = ((0.0, style.PALE), (1.0, style.ORANGE))  # pale enough for dark numbers on every cell
COSTS = ((0.0, style.MIST), (1.0, style.SKY))  # pale enough for dark numbers, as SHARES are
ROW, CURVES_HEIGHT = 25, 280  # pixels
GAP = 0.014  # between two maps, share of the width
WIDTHS = (1.2, 1.2, 1.2, 0.8, 0.8)  # of the maps: a number with a cross is longer than one of time or memory
RED = {"color": style.VERMILLION, "width": 2.5}
CHOSEN = {"color": style.INK, "width": 2, "dash": "dot"}
SMALLEST = -5.0  # powers of ten of the share of an alarm that still differ in colour
# Title → value, and the alarms that colour it.
MAPS: dict[str, tuple[Callable[[PrecisionCell], float], tuple[str, ...]]] = {
    "relative L2": (lambda cell: cell.relative_error, ("relative L2",)),
    "|α − 1|": (lambda cell: cell.alpha_error, ("|α − 1|",)),
    "too small (share)": (lambda cell: cell.lost, ("underflow", "stuck")),
    "time (ms)": (lambda cell: 1e3 * cell.seconds, ()),
    "memory (MiB)": (lambda cell: cell.peak_bytes / 2**20, ()),
}


def precision_table(cells: Sequence[PrecisionCell]) -> go.Figure:
    """The cells as five heat maps: two errors of the gradient, numbers too small, time and memory of a window.

    Args:
        cells: of one configuration, in any order; combinations that are missing show as "not run".

    Returns:
        A figure; what passes its alarm level has a border and a cross, and the hover text has all numbers and a reason.
    """
    rows = [name for name in MODES if any(cell.mode == name for cell in cells)]
    columns = sorted({cell.accumulation_steps for cell in cells})
    title = f"Gradient against float64, {len(cells)} cells: the worst window of each"
    return style.figure_of(precision_table_dict(cells, rows, columns, title))


def precision_table_dict(
    cells: Sequence[PrecisionCell],
    rows: Sequence[str],
    columns: Sequence[int],
    title: str,
    chosen: tuple[str, int] | None = None,
) -> dict[str, Any]:
    """precision_table() as plain data and layout, with all rows and columns, and a frame around a chosen cell."""
    by_place = {(cell.mode, cell.accumulation_steps): cell for cell in cells}
    data = [_map(by_place, rows, columns, number) for number in range(len(MAPS))]
    names = [f"{_mark([by_place.get((row, column)) for column in columns])} {row}" for row in rows]
    layout: dict[str, Any] = {
        "title": {"text": title, "font": {"size": 14}, "pad": {"b": 26}},
        "height": 104 + ROW * len(rows),
        "margin": {"t": 58, "b": 46, "l": 160, "r": 4},
        "uirevision": "rislab",
        "autosize": True,  # or a page that draws before its layout keeps plotly's own width
        "meta": {"least": 780},  # pixels, in which the numbers have room; a panel that is narrower scrolls
        "coloraxis": {"colorscale": SHARES, "cmin": SMALLEST, "cmax": 0, "showscale": False},
        "annotations": [],
        "shapes": [],
    }
    for number, (name, (_, alarms)) in enumerate(MAPS.items()):
        axis = str(number + 1) if number else ""
        layout |= _map_axes(number, axis, names, columns)
        layout["annotations"].append({**style.CHART_TITLE, "xref": f"x{axis} domain", "x": 0.5, "y": 1, "text": name})
        framed = [(place, RED) for place, cell in by_place.items() if set(cell.red) & set(alarms)]
        framed += [] if chosen is None else [(chosen, CHOSEN)]
        for (row, column), line in framed:
            layout["shapes"].append(_frame(axis, columns.index(column), rows.index(row), line))
    return {"data": data, "layout": layout}


def _map_axes(number: int, axis: str, names: Sequence[str], columns: Sequence[int]) -> dict[str, Any]:
    """The axes of one of the maps side by side."""
    unit = (1 - GAP * (len(MAPS) - 1)) / sum(WIDTHS)
    left, width = unit * sum(WIDTHS[:number]) + GAP * number, unit * WIDTHS[number]
    title = {"text": "accumulation steps" if number == len(MAPS) // 2 else "", "standoff": 4}
    across = {"tickvals": [*range(len(columns))], "ticktext": [*map(str, columns)], "range": [-0.5, len(columns) - 0.5]}
    down: dict[str, Any] = {"tickvals": [*range(len(names))], "ticktext": names, "range": [len(names) - 0.5, -0.5]}
    both = {"showgrid": False, "fixedrange": True}
    if number == 0:
        down["tickfont"] = {"size": 12}
    return {
        f"xaxis{axis}": {"domain": [left, left + width], "anchor": f"y{axis}", "title": title, **across, **both},
        f"yaxis{axis}": {"anchor": f"x{axis}", "showticklabels": number == 0, "automargin": False, **down, **both},
    }


def _mark(cells: Sequence[PrecisionCell | None]) -> str:
    """✗ for a row with a red cell, ✓ for one that is all green, … for one that is not complete."""
    if any(cell is not None and not cell.passed for cell in cells):
        return "✗"
    return "…" if None in cells else "✓"


def _frame(axis: str, x: int, y: int, line: dict[str, Any]) -> dict[str, Any]:
    inset = 0.45
    box = {"x0": x - inset, "x1": x + inset, "y0": y - inset, "y1": y + inset}
    return {"type": "rect", "xref": f"x{axis}", "yref": f"y{axis}", **box, "line": line, "editable": False}


def _map(
    by_place: dict[tuple[str, int], PrecisionCell], rows: Sequence[str], columns: Sequence[int], number: int
) -> dict[str, Any]:
    value, reds = [*MAPS.values()][number]
    axis = str(number + 1) if number else ""
    levels = np.full((len(rows), len(columns)), np.nan)
    texts = [["" for _ in columns] for _ in rows]
    hovers = [["not run" for _ in columns] for _ in rows]
    for (row, column), cell in by_place.items():
        y, x = rows.index(row), columns.index(column)
        shown = value(cell)
        levels[y, x] = _depth(cell, reds) if reds else shown
        cross = "✗" if set(cell.red) & set(reds) else ""
        texts[y][x] = cross + (_short(shown) if reds else f"{shown:.0f}" if shown >= 10 else f"{shown:.2g}")
        hovers[y][x] = cell_hover(cell)
    colours = {"coloraxis": "coloraxis"} if reds else {"colorscale": COSTS, "zmin": 0, "showscale": False}
    data = {"x": [*range(len(columns))], "y": [*range(len(rows))], "z": levels, "text": texts, "customdata": hovers}
    look = {"texttemplate": "%{text}", "textfont": {"size": 10, "color": style.INK}, "xgap": 2, "ygap": 2, **colours}
    where = {"xaxis": f"x{axis}", "yaxis": f"y{axis}", "hovertemplate": "%{customdata}<extra></extra>"}
    return {"type": "heatmap", **data, **look, **where}


def _depth(cell: PrecisionCell, names: Sequence[str]) -> float:
    """Power of ten of the share of an alarm that a cell uses, at most 0; NaN uses all of it."""
    shares = [value / level for value, level in (cell.measured[name] for name in names)]
    if not all(share <= 1 for share in shares):
        return 0.0
    return max(SMALLEST, math.log10(max(*shares, 1e-99)))


def _short(value: float) -> str:
    """A number in five characters at most, as 3e-7, 0.24 or 45; exactly 0 as 0."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "∞"
    if value == 0 or 0.05 <= value < 1000:
        return f"{value:.2g}"
    return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")


def cell_hover(cell: PrecisionCell) -> str:
    """All numbers of a cell and the reason of its mode, for a hover text."""
    mode = MODES[cell.mode]
    lines = [f"<b>{cell.mode}</b>, {cell.accumulation_steps} × {BATCH // cell.accumulation_steps} scenes"]
    lines += [
        f"{'✗' if name in cell.red else '✓'} {name} {_short(value)}, {_alarm_text(cell, name)}"
        for name, (value, _) in cell.measured.items()
    ]
    lines += [
        f"1 − cos {cell.direction_error:.1e}; relative L2 against a replay in float64 {cell.replay_error:.1e}",
        f"{1e3 * cell.seconds:.1f} ms a window, {cell.peak_bytes / 2**20:.2f} MiB at its peak",
        f"{len(cell.windows)} windows, {cell.skipped} skipped, NMSE {cell.nmse:.5g} at the last",
        *textwrap.wrap(mode.why, 80),
    ]
    return "<br>".join(lines)


def cell_explanation(cell: PrecisionCell) -> str:
    """What passes its alarm in a cell, and why, as HTML."""
    verdict = "; ".join(f"{name} {_short(cell.measured[name][0])}, {_alarm_text(cell, name)}" for name in cell.red)
    colour = f" style='color:{style.ERROR_COLOUR}'" if cell.red else ""
    mark, text = "✗" if cell.red else "✓", f"{_where(cell)}: {verdict or 'within its alarms'}"
    head = f"<b{colour}>{mark} {html.escape(text)}</b>"
    parts = [f"<i>{name}</i> {html.escape(text)}" for name, text in _reasons(cell.mode)]
    return f"<div style='line-height:1.35;font-size:13px'>{head}<br>{'<br>'.join(parts)}</div>"


def _where(cell: PrecisionCell) -> str:
    return f"{cell.mode}, {cell.accumulation_steps} × {BATCH // cell.accumulation_steps} scenes"


def _alarm_text(cell: PrecisionCell, name: str) -> str:
    """The alarm of a quantity, and for one of the gradient the allowance that is in it."""
    level, factor = cell.measured[name][1], cell.allowances.get(name)
    return f"alarm {level:.1e}" + (f" = {level / factor:.0e} × allowance {factor:.3g}" if factor else "")


def _reasons(name: str) -> list[tuple[str, str]]:
    mode = MODES[name]
    return [("What happens:", mode.why), ("What shows:", mode.symptom), ("What helps:", mode.remedy)]


def window_curves(cell: PrecisionCell, reference: PrecisionCell | None = None) -> go.Figure:
    """One cell window by window: errors of the gradient, numbers too small, loss scale, and the loss beside another's.

    Args:
        cell: to be shown.
        reference: whose loss is drawn beside it, as a rule that of fp64; None leaves it out.
    """
    return style.figure_of(window_curves_dict(cell, reference))


def mode_curves(cells: Sequence[PrecisionCell], mode: str) -> go.Figure:
    """window_curves() of a mode's cell with the most accumulation steps beside fp64's, if the mode was run."""
    cells_of_mode = [cell for cell in cells if cell.mode == mode]
    if not cells_of_mode:
        return style.figure_of(style.empty_figure_dict(f"{mode} was not run", CURVES_HEIGHT))
    most = max(cells_of_mode, key=lambda cell: cell.accumulation_steps)
    return window_curves(most, fp64_reference(cells, most.accumulation_steps))


def window_curves_dict(cell: PrecisionCell, reference: PrecisionCell | None) -> dict[str, Any]:
    """window_curves() as plain data and layout."""
    windows = cell.windows
    steps = np.array([window.step for window in windows], dtype=np.float64)
    alarm = MODES[cell.mode].tolerance
    levels, angles = [window.relative_error for window in windows], [1 - window.cosine for window in windows]
    scales = [window.alpha_error for window in windows]
    data = [
        _line("", "relative L2", steps, levels, style.BLUE, "solid"),
        _line("", "|α − 1|", steps, scales, style.VERMILLION, "dot"),
        _line("", "1 − cos", steps, angles, style.GREEN, "dashdot"),
    ]
    for curve, level in zip(data[:2], (alarm.relative_error, alarm.alpha_error), strict=True):
        limits = [level * window.allowance for window in windows]
        thin = _line("", f"alarm of {curve['name']}", steps, limits, curve["line"]["color"], "dash")
        data.append({**thin, "mode": "lines", "line": {**thin["line"], "width": 1}, "showlegend": False})
    data.append(_line("2", "underflow", steps, [window.underflow for window in windows], style.PURPLE, "solid"))
    data.append(_line("2", "stuck", steps, [window.stuck for window in windows], style.OCHRE, "dot"))
    scale = _line("3", "loss scale", steps, [window.loss_scale for window in windows], style.GREEN, "solid")
    data += [{**scale, "showlegend": False}, *_skips(windows)]
    if reference is not None and reference.mode != cell.mode:
        at = np.array([window.step for window in reference.windows], dtype=np.float64)
        beside = [window.loss for window in reference.windows]
        data.append(_line("4", f"NMSE of {reference.mode}", at, beside, style.GREY, "dash"))
    own = _line("4", "NMSE", steps, [window.loss for window in windows], style.BLUE, "solid")
    data.append({**own, "showlegend": False})
    layout = _curve_layout(cell, sum(not style.is_drawable(value) for value in (*levels, *scales, *angles)))
    errors = [float(value) for trace in data if trace["yaxis"] == "y" for value in trace["y"]]
    for axis, shown in (("yaxis", errors), ("yaxis4", [window.loss for window in windows])):
        layout[axis] |= {"type": "log", **style.log_ticks_of(shown)}
    return {"data": data, "layout": layout}


def _curve_layout(cell: PrecisionCell, hidden: int) -> dict[str, Any]:
    skipped = f"; ✕: {cell.skipped} skipped" if cell.skipped else ""
    note = f"{skipped}; {hidden} errors that are 0 or not finite are not drawn" if hidden else skipped
    title = f"{_where(cell)} (thin dashes: alarm{note})"
    layout: dict[str, Any] = {
        "title": {"text": title, "font": {"size": 14}, "pad": {"b": 22}},
        "height": CURVES_HEIGHT,
        "meta": {"least": 640},  # as of the table
        "autosize": True,
        "margin": {"t": 58, "b": 72, "l": 56, "r": 12},
        "legend": {**style.LEGEND_BELOW, "font": {"size": 11}},
        "annotations": [],
        "uirevision": f"{cell.mode} {cell.accumulation_steps}",
    }
    axes: tuple[tuple[tuple[float, float], str, dict[str, Any]], ...] = (
        ((0.0, 0.36), "error", {}),
        ((0.42, 0.6), "share too small", {"range": [-0.03, 1.03]}),
        ((0.67, 0.81), "loss scale", {"rangemode": "tozero", "nticks": 4}),
        ((0.86, 1.0), "NMSE", {}),
    )
    for number, (domain, name, options) in enumerate(axes):
        axis = str(number + 1) if number else ""
        layout[f"xaxis{axis}"] = {"domain": domain, "anchor": f"y{axis}", "title": {"text": "window", "standoff": 2}}
        layout[f"yaxis{axis}"] = {"anchor": f"x{axis}", **options}
        # Beside its axis the title would stand in the chart before it.
        above = {**style.CHART_TITLE, "xref": f"x{axis} domain", "yref": f"y{axis} domain", "x": 0.5, "y": 1}
        layout["annotations"].append({**above, "text": name})
    return layout


def _line(axis: str, name: str, x: Any, y: Sequence[float], colour: str, dash: str) -> dict[str, Any]:
    shown = np.asarray(y, dtype=np.float64)
    if axis in ("", "4"):
        shown = np.where(shown > 0, shown, np.nan)
    look = {"line": {"color": colour, "dash": dash, "width": 2}, "marker": {"size": 4, "color": colour}}
    cell = {"xaxis": f"x{axis}", "yaxis": f"y{axis}", "hovertemplate": "window %{x}<br>%{y:.3g}"}
    return {"type": "scatter", "mode": "lines+markers", "name": name, "x": x, "y": shown, **look, **cell}


def _skips(windows: Sequence[WindowComparison]) -> list[dict[str, Any]]:
    """The windows without a step, if there are any, at their loss scale."""
    skipped = [window for window in windows if not window.applied]
    data = {"x": [window.step for window in skipped], "y": [window.loss_scale for window in skipped]}
    look = {"mode": "markers", "marker": {"symbol": "x", "size": 9, "color": style.VERMILLION}, "showlegend": False}
    cell = {"name": f"skipped × {len(skipped)}", "xaxis": "x3", "yaxis": "y3"}
    return [{"type": "scatter", **data, **look, **cell}] if skipped else []


def fp64_reference(cells: Sequence[PrecisionCell], accumulation_steps: int) -> PrecisionCell | None:
    """The fp64 cell with as many accumulation steps, else any fp64 cell, else None."""
    exact = [cell for cell in cells if cell.mode == "fp64"]
    same = [cell for cell in exact if cell.accumulation_steps == accumulation_steps]
    return next(iter(same or exact), None)


def accumulation_table(cells: Sequence[Any]) -> go.Figure:
    """Precision × accumulation: error of the accumulated gradient and of its scale, as heat maps with the numbers.

    Args:
        cells: the combinations measured, each with precision, accumulation_steps, relative_error and alpha_error;
            what else a cell holds stands in the hover text. Other combinations show as "not run".

    Returns:
        Two heat maps of log10(error) on one colour scale; 0 takes the colour of 1e-17, what is not finite stays blank.
    """
    axes = ("precision", "accumulation_steps")
    rows = list(dict.fromkeys(cell.precision for cell in cells))
    columns = [str(count) for count in sorted({cell.accumulation_steps for cell in cells})]
    titles = {"relative_error": "relative L2 error of the gradient", "alpha_error": "error of its scale, |α − 1|"}
    figure = make_subplots(cols=2, shared_yaxes=True, horizontal_spacing=0.06, subplot_titles=[*titles.values()])
    for number, field in enumerate(titles, start=1):
        levels = np.full((len(rows), len(columns)), np.nan)
        texts = np.full(levels.shape, "not run", dtype=object)
        hovers = np.full(levels.shape, "", dtype=object)
        for cell in cells:
            place = rows.index(cell.precision), columns.index(str(cell.accumulation_steps))
            error = vars(cell)[field]
            levels[place] = math.log10(max(error, 1e-17)) if math.isfinite(error) else math.nan
            texts[place] = f"{error:.1e}" if math.isfinite(error) and error else style.number_text(error)
            rest = {name: value for name, value in vars(cell).items() if name not in (*titles, *axes)}
            shown = {name: f"{value:.3g}" if isinstance(value, float) else value for name, value in rest.items()}
            hovers[place] = "<br>".join(f"{name.replace('_', ' ')}: {value}" for name, value in shown.items())
        what = "%{y} · %{x} accumulation steps<br>error %{text}<br>%{customdata}<extra></extra>"
        look = {"texttemplate": "%{text}", "textfont": {"size": 14, "color": style.INK}, "xgap": 3, "ygap": 3}
        data = {"x": columns, "y": rows, "z": levels, "customdata": hovers, "hovertemplate": what, "hoverongaps": False}
        printed = np.where(np.isnan(levels), "", texts)
        figure.add_heatmap(**data, text=printed, **look, coloraxis="coloraxis", row=1, col=number)
        for row, column in np.argwhere(np.isnan(levels)):  # the page shows through, so its own text colour is needed
            figure.add_annotation(text=texts[row, column], x=column, y=row, row=1, col=number)
    powers = range(-18, 18, 3)
    names = [f"10<sup>{power}</sup>" for power in powers]
    bar = {"title": {"text": "error (dimensionless)", "side": "right"}, "tickvals": [*powers], "ticktext": names}
    figure.update_xaxes(title_text="accumulation steps (count)", type="category", showgrid=False)
    figure.update_yaxes(type="category", autorange="reversed", showgrid=False)
    figure.update_yaxes(title_text="precision (number format)", col=1)
    look = {"coloraxis": {"colorscale": ERRORS, "colorbar": bar}, "height": 150 + 64 * max(2, len(rows))}
    return figure.update_layout(template=style.template(), **look).update_annotations(font_size=14)
