"""One page for a sweep: the same figure of every cell on shared axes, and a table with what each measured."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from rislab import files
from rislab.reports import gallery, html_export, runner
from rislab.reports.sweep import CellResult, SweepCell

HEIGHT = 240


def write_sweep_page(
    chosen: gallery.NamedSet,
    axes: Mapping[str, Sequence[object]],
    cells: Sequence[SweepCell],
    outcomes: Mapping[str, CellResult],
    out: Path,
    *,
    figure: int,
    seconds: float,
) -> Path:
    """Write index.html with what there is so far; returns its path.

    Args:
        chosen, axes, cells: see sweep.sweep_cells(). outcomes: by name of the cell. out: folder of the reports.
        figure: of each report that is compared, counted from 1. seconds: so far.
    """
    counts = {"passed": 0, "failed": 0, "partial": 0}
    for outcome in outcomes.values():
        counts[outcome.verdict] += 1
    told = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count) or "none yet"
    header = runner.run_provenance({}, chosen.path.parent) | {"duration": runner.duration(seconds)}
    fixed = {key: value for key, value in cells[0].parameters.items() if key not in axes}
    header["the same in all"] = " · ".join(f"{key} = {value!r}" for key, value in fixed.items())
    items = "".join(f"<div><dt>{escape(label)}</dt><dd>{escape(text)}</dd></div>" for label, text in header.items())
    title = f"{chosen.name}: {' × '.join(axes)}"
    body = (
        f"<h1>{escape(title)}</h1><p>{len(cells)} cells of {escape(' × '.join(axes))}: {told}.</p>"
        f'<dl class="provenance">{items}</dl>'
        f"<h2>Figure {figure} of each, on the same axes</h2>{_multiples(axes, cells, outcomes, out, figure)}"
        f"<h2>What each measured</h2>{_table(axes, cells, outcomes)}"
    )
    path = out / gallery.INDEX
    files.replace(path, html_export.html_page(f"rislab: {title}", body, style=_STYLE).encode())
    return path


# ------------------------------------------------------------------------------------------------------ small multiples


def _multiples(
    axes: Mapping[str, Sequence[object]],
    cells: Sequence[SweepCell],
    outcomes: Mapping[str, CellResult],
    out: Path,
    number: int,
) -> str:
    figures = {}
    for cell in cells:
        drawn = gallery.figures_of(out / f"{cell.name}.ipynb") if cell.name in outcomes else []
        if len(drawn) >= number:
            figures[cell.name] = drawn[number - 1]
    shared = shared_ranges(list(figures.values()))
    *rows, last = axes
    head = "".join(f"<th>{escape(f'{last} = {value}')}</th>" for value in axes[last])
    width = len(axes[last])
    body = ""
    for first in range(0, len(cells), width):
        row = cells[first : first + width]
        name = "<br>".join(escape(f"{key} = {row[0].values[key]}") for key in rows)
        shown = "".join(f"<td>{_multiple(cell, figures.get(cell.name), shared, outcomes)}</td>" for cell in row)
        body += f"<tr>{f'<th>{name}</th>' if rows else ''}{shown}</tr>"
    return f'<table class="multiples"><tr>{"<th></th>" if rows else ""}{head}</tr>{body}</table>'


def _multiple(
    cell: SweepCell, figure: Mapping[str, Any] | None, shared: Mapping[str, Any], outcomes: Mapping[str, CellResult]
) -> str:
    if figure is None:
        return f'<p class="empty">{"no such figure" if cell.name in outcomes else "not run"}</p>'
    label = ", ".join(f"{key} = {value}" for key, value in cell.values.items())
    link = f'<p class="caption"><a href="{escape(cell.name)}.html">{escape(label)}</a></p>'
    return html_export.figure_html(multiple(figure, shared), still=True, label=label) + link


def multiple(figure: Mapping[str, Any], shared: Mapping[str, Any]) -> dict[str, Any]:
    """A small version of a figure on the axes of all; unlike those of the gallery, its axes can be read.

    Args:
        figure: data and layout of a plotly figure. shared: see shared_ranges().
    """
    small = gallery.miniature(figure)
    layout, whole = small["layout"], figure.get("layout", {})
    for name, limits in shared.items():
        axis = {**layout.get(name, {}), "range": limits, "autorange": False, "showticklabels": True, "ticks": "outside"}
        title = (whole.get(name, {}).get("title") or {}).get("text") or ""
        # The first sentence of a title; the rest is in the report.
        axis |= {"title": {"text": title.split(";")[0], "font": {"size": 10}, "standoff": 2}, "automargin": True}
        layout[name] = {**axis, "tickfont": {"size": 10}, "nticks": 5}
    # Lines at epochs, so close together, would hide the curves.
    layout.pop("shapes", None)
    return {**small, "layout": {**layout, "height": HEIGHT, "margin": {"l": 46, "r": 6, "t": 6, "b": 36}}}


def shared_ranges(figures: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """The limits of each numeric axis over all figures, as plotly has them (logarithms of a logarithmic one).

    Args:
        figures: data and layout each. Axes without numbers, or with limits of their own, are left out.
    """
    seen: dict[str, list[float]] = {}
    for figure in figures:
        layout = figure.get("layout", {})
        for trace in figure.get("data", []):
            for letter in "xy":
                name = f"{letter}axis{trace.get(f'{letter}axis', letter)[1:]}"
                axis = layout.get(name, {})
                values = coordinates(trace.get(letter))
                if letter == "x" and "x" not in trace and (above := coordinates(trace.get("y"))) is not None:
                    values = np.arange(len(above), dtype=np.float64)
                if values is None or "range" in axis:
                    continue
                if axis.get("type") == "log":
                    values = np.log10(values[values > 0])
                seen.setdefault(name, []).extend(values[np.isfinite(values)].tolist())
    found = {}
    for name, values in seen.items():
        if values:
            low, high = min(values), max(values)
            edge = 0.04 * (high - low) or 0.5
            found[name] = [low - edge, high + edge]
    return found


def coordinates(content: Any) -> Any:
    """Coordinates of a trace as an array, packed or not; None where they are no numbers."""
    if isinstance(content, Mapping) and "bdata" in content:
        return np.frombuffer(base64.b64decode(content["bdata"]), dtype=content["dtype"]).astype(np.float64)
    if not isinstance(content, list | tuple) or not content:
        return None
    if not all(value is None or (isinstance(value, int | float) and not isinstance(value, bool)) for value in content):
        return None
    return np.array([math.nan if value is None else value for value in content], dtype=np.float64)


# ------------------------------------------------------------------------------------------------------------ the table


def _table(axes: Mapping[str, Sequence[object]], cells: Sequence[SweepCell], outcomes: Mapping[str, CellResult]) -> str:
    names = list(dict.fromkeys(name for one in outcomes.values() for name in one.numbers))
    head = "".join(f"<th>{escape(name)}</th>" for name in (*axes, "verdict", "time", *names, "report"))
    rows = ""
    for cell in cells:
        outcome = outcomes.get(cell.name)
        row = "".join(f"<td>{escape(str(value))}</td>" for value in cell.values.values())
        if outcome is None:
            rows += f'<tr>{row}<td>not run</td><td colspan="{len(names) + 2}"></td></tr>'
            continue
        row += f'<td class="{outcome.verdict}">{outcome.verdict}</td>'
        row += f"<td>{runner.duration(outcome.seconds)}{', reused' if outcome.reused else ''}</td>"
        row += "".join(f"<td>{_shown(outcome.numbers.get(name))}</td>" for name in names)
        links = f'<a href="{escape(cell.name)}.html">report</a> · <a href="{escape(cell.name)}.ipynb">notebook</a>'
        said = escape("\n".join([outcome.error, outcome.closing]).strip())
        words = f"<details{' open' if outcome.error else ''}><summary>what it said</summary><pre>{said}</pre></details>"
        rows += f"<tr>{row}<td>{links}{words}</td></tr>"
    return f'<table class="measured"><tr>{head}</tr>{rows}</table>'


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


_STYLE = """
main { max-width: 120rem }
main > p { max-width: none }
table.multiples { border-collapse: collapse; table-layout: fixed; width: 100% }
table.multiples th { font-weight: 600; font-size: .9rem; text-align: left; padding: .3rem .5rem; vertical-align: top }
table.multiples tr > th:first-child:not(:only-child) { width: 9rem }
table.multiples td { vertical-align: top; padding: .2rem }
table.multiples figure { margin: 0 } .caption { margin: 0 0 .6rem; font-size: .8rem } .empty { color: var(--soft) }
table.measured { border-collapse: collapse; font-size: .9rem; width: 100% }
table.measured th, table.measured td { text-align: left; padding: .25rem .8rem .25rem 0; vertical-align: top }
td.failed, td.partial { color: var(--bad) }
table.measured details { margin: 0 } details pre { margin: .3rem 0; white-space: pre-wrap }
"""
