"""Draws reports/overview.png, the picture of the README, from runs of the lab itself: `make picture`."""

from __future__ import annotations

import math
import tempfile
import textwrap
from html import escape
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import torch

import rislab
from rislab.data import covariance
from rislab.faults import catalogue, comparison
from rislab.model import pretrained
from rislab.plots import spectra as spectrum_plots
from rislab.plots.style import template, trace_styles
from rislab.reports import html_export
from tests.browser.chromium import launched

FAULT = "backward after the batch loop"
PAGE = Path(__file__).resolve().parent.parent / "reports" / "overview.png"
STYLE = """
main { max-width: none; margin: 0; padding: 14px 18px 4px }
h2 { font-size: 17px; max-width: none; margin: 6px 0 4px; padding: 0; border: 0 }
.pair { display: grid; grid-template-columns: minmax(0, 9fr) minmax(0, 11fr); gap: 0 22px }
pre { font-size: 13px; margin: 0; white-space: pre-wrap }
pre .old { color: var(--bad) } pre .new { font-weight: bold }
figure.plot { margin: 0 }
"""


def plain(figure: Any, height: int) -> str:
    drawn = figure.update_layout(template=template("light"), height=height, title=None, margin={"t": 44, "b": 44})
    return html_export.figure_html(drawn.to_plotly_json(), still=True)


def curves(case: comparison.OptimiserRun) -> go.Figure:
    """What both loops report, and how they do on scenes that they have not seen."""
    figure = go.Figure()
    for pen, seen in zip(trace_styles(["correct loop", "two lines moved"]), (case.correct, case.faulty), strict=True):
        for name, mode, dash, symbol in (("train", "lines", "solid", ""), ("val", "lines+markers", "dash", "-open")):
            values = [end.train if name == "train" else end.validation for end in seen.epoch_records]
            figure.add_scatter(
                x=list(range(1, len(values) + 1)), y=values, mode=mode, name=f"{pen.name}, {name}",
                line={"color": pen.colour, "dash": dash, "width": 2.5},
                marker={"symbol": pen.symbol + symbol, "size": 8},
            )  # fmt: skip
    figure.update_xaxes(title="epoch", dtick=1)
    figure.update_yaxes(title="NMSE (dimensionless)", rangemode="tozero")
    return figure.update_layout(legend={"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"})


def maps_of_a_scene() -> Any:
    """What MUSIC makes of the sample covariance, and of the one that a network predicts from the same snapshots."""
    model, _, _ = pretrained.load("shipped", "full")
    area = rislab.SceneConfig.preset("full", sources=3, snr_db=10.0, separation=math.radians(20))
    scene = rislab.simulate(area, 1, seed=2024, split="test")
    grid = area.grid((121, 61, 6))
    factors = {"sample covariance": covariance.sample_factor(scene), "learned covariance": model.predict(scene)}
    views = {f"MUSIC, {name}": rislab.music_spectrum(factor, 3, grid).map[0] for name, factor in factors.items()}
    rings = (scene.azimuth[scene.active], scene.elevation[scene.active])
    return spectrum_plots.beam_maps(views, grid.azimuth, grid.elevation, sources=rings)


def lines_of(diff: str) -> str:
    """A diff as HTML, without the indent that all of its lines share."""
    head, lines = diff.splitlines()[:2], diff.splitlines()[3:]
    texts = textwrap.dedent("\n".join(line[1:] for line in lines)).splitlines()
    kinds = {"-": "old", "+": "new", " ": "same"}
    rows = [
        f'<span class="{kinds[line[0]]}">{line[0]} {escape(text)}</span>'
        for line, text in zip(lines, texts, strict=True)
    ]
    return "\n".join([*map(escape, head), *rows])


def body() -> str:
    fault = catalogue.find_fault(FAULT)
    study = list(comparison.ComparisonCache().reports(fault, ["adam"], epochs=8))[-1]
    case = study.runs["adam"]
    findings = str(comparison.diagnose_fault(fault, case.setting)).splitlines()
    first = "\n".join(findings[: findings.index(next(line for line in findings[1:] if line.startswith("FAULT")))])
    return (
        f'<div class="pair"><div><h2>A loop that reports {case.faulty.epoch_records[-1].train:.2f} …</h2>'
        f"{plain(curves(case), 350)}</div>"
        f"<div><h2>… what was moved in it, and what the checkup says</h2>"
        f"<pre>{lines_of(fault.diff())}</pre><pre>{escape(first)}</pre></div></div>"
        f"<h2>The problem: three radio sources (rings) by way of a surface</h2>{plain(maps_of_a_scene(), 300)}"
    )


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch, launched() as browser:
        path = Path(scratch) / "overview.html"
        path.write_text(html_export.html_page("rislab", body(), style=STYLE))
        page = browser.new_page(viewport={"width": 1200, "height": 700})
        page.goto(path.as_uri())
        page.wait_for_timeout(3000)
        page.screenshot(path=str(PAGE), full_page=True)
    print(PAGE)


if __name__ == "__main__":
    main()
