"""Pictures: what our figures look like, from small runs; and how a figure is to look, wrong and right side by side."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import plotly.graph_objects as go

import rislab
from docs.site.page import Page
from rislab.model import pretrained
from rislab.music.scene_view import SceneSettings
from rislab.plots import bound, measurement, spectra, style, training
from rislab.reports.html_export import figure_html
from rislab.reports.scene_page import scene_page
from rislab.sanity import ladder

SMALL = {"height": 340, "margin": {"t": 50, "l": 64, "r": 16, "b": 56}}


def pages() -> list[Page]:
    """The gallery, a scene with sliders, and the page on style."""
    return [_gallery(), _scene(), _style()]


def _shown(figure: go.Figure) -> str:
    return str(figure_html(json.loads(figure.to_json())))


def _figures() -> Iterator[tuple[str, str, go.Figure]]:
    """What a figure shows, who draws it, and the figure."""
    scenes = rislab.simulate(rislab.SceneConfig.preset("classroom"), 64, seed=0)
    runs = {}
    for steps in (1, 4):
        config = rislab.TrainConfig(epochs=12, micro_batch=16, accumulation_steps=steps)
        runs[f"{steps} micro-batch{'es' * (steps > 1)} a step"] = list(
            rislab.fit(rislab.CovarianceNet.build(scenes.config, seed=0), scenes, config)
        )
    records = next(iter(runs.values()))
    yield "Losses of two trainings", "rislab.plots.training.loss_curves", training.loss_curves(runs)
    yield (
        "Gradient norms, before and after clipping",
        "rislab.plots.training.gradient_norms",
        training.gradient_norms(records, clip_norm=1.0),
    )
    yield "Counts of an epoch", "rislab.plots.training.epoch_counts", training.epoch_counts(records)
    config = rislab.sanity.OverfitConfig(scenes=64, epochs=2)
    checks = list(ladder(config, only=["splits", "oracle", "one scene"]))
    yield "Checks of the overfit ladder", "rislab.plots.training.ladder_figure", training.ladder_figure(checks)
    scene = rislab.simulate(rislab.SceneConfig.preset("full", sources=3, snr_db=10, separation=0.4), 1, seed=3)
    grid = scene.config.grid((91, 46, 6))
    maps = {
        "MUSIC": rislab.music_spectrum(scene.covariance(), 3, grid),
        "minimum variance": rislab.mvdr_spectrum(scene.covariance(), 3, grid),
        "conventional beam": rislab.bartlett_spectrum(scene.covariance(), 3, grid),
    }
    yield "Three spectra of one scene", "rislab.plots.spectra.spectra", spectra.spectra(maps, grid, scene=scene)
    yield "What the bound allows", "rislab.plots.bound.bound_ellipses", bound.bound_ellipses(scene, rislab.crb(scene))
    own = rislab.Measurement(scene.snapshots, scene.codes, scene.channel, scene.config.array())
    yield "Order of the elements", "rislab.plots.measurement.element_order", measurement.element_order(own)


def _gallery() -> Page:
    parts = ["<h1>Pictures</h1>", "<p>Each is drawn by one function, from a run of some seconds on this machine.</p>"]
    for title, name, figure in _figures():
        room, _, function = name.rpartition(".")
        page = f"../reference/{room.split('.')[1]}.html#{room.split('.')[2]}"
        parts.append(f'<h2>{title}</h2>{_shown(figure)}<p><a href="{page}"><code>{room}.{function}()</code></a></p>')
    return Page("gallery/index.html", "What the figures show", "gallery", "\n".join(parts))


def _scene() -> Page:
    settings = SceneSettings.of("classroom", covariance="learned")
    sliders = scene_page(settings, pretrained.load("shipped", settings.preset)[0], separations=(3.0, 8.0, 16.0, 30.0))
    text = "<p>What <code>rislab.panels.music()</code> shows live; here SNR and separation were computed before.</p>"
    title = "Where are the sources?"
    return Page("gallery/scene.html", title, "gallery", f"<h1>{title}</h1>{text}{sliders}")


def _style() -> Page:
    parts = [
        "<h1>Style of the figures</h1>",
        "<p>One template (<code>rislab.plots.style.template()</code>) and these rules, which every figure of "
        "the lab is to follow.</p>",
    ]
    for rule, why, wrong, right in _pairs():
        parts.append(
            f'<h2>{rule}</h2><p>{why}</p><div class="pair"><div class="bad"><p>Wrong</p>{_shown(wrong)}</div>'
            f'<div class="good"><p>Right</p>{_shown(right)}</div></div>'
        )
    return Page("gallery/style.html", "How figures are to look", "gallery", "\n".join(parts))


def _figure(traces: list[go.Scatter], title: str, x: str, y: str, **layout: object) -> go.Figure:
    figure = go.Figure(traces, layout={"template": style.template(), **SMALL, "title": {"text": title}})
    figure.update_xaxes(title_text=x)
    figure.update_yaxes(title_text=y)
    return figure.update_layout(**layout)


def _pairs() -> Iterator[tuple[str, str, go.Figure, go.Figure]]:
    x = np.arange(1, 61)
    curves = [np.exp(-x / (8 + 3 * turn)) + 0.01 * (turn + 1) for turn in range(9)]
    names = [f"run {turn + 1}" for turn in range(9)]

    def lines(count: int) -> list[go.Scatter]:
        styles = style.trace_styles(names[:count])
        return [
            go.Scatter(x=x, y=curve, name=each.name, line={"color": each.colour, "dash": each.dash})
            for each, curve in zip(styles, curves, strict=False)
        ]

    log = {"yaxis_type": "log"}
    plain = [go.Scatter(x=x, y=curve, name=name) for name, curve in zip(names, curves, strict=True)]
    band = [
        go.Scatter(x=x, y=np.max(curves, 0), line={"width": 0}, showlegend=False, hoverinfo="skip"),
        go.Scatter(
            x=x, y=np.min(curves, 0), line={"width": 0}, fill="tonexty", fillcolor=style.BAND, name="all nine runs"
        ),
        go.Scatter(x=x, y=np.median(curves, 0), line={"color": style.BLUE}, name="their median"),
    ]
    yield (
        "At most six entries in a legend",
        "A reader holds about six. More are grouped, or each line is labelled itself.",
        _figure(plain, "loss", "step", "NMSE (dimensionless)", **log),
        _figure(band, "loss of nine runs", "step", "NMSE (dimensionless)", **log),
    )
    inside = {"legend": {"x": 0.15, "y": 0.95, "bgcolor": "#fff"}}
    yield (
        "A legend never lies over data",
        "It stands above or below the axes, where no curve can go.",
        _figure(lines(3), "loss", "step", "NMSE (dimensionless)", **inside),
        _figure(lines(3), "", "step", "NMSE (dimensionless)", legend=style.LEGEND_ABOVE),
    )
    yield (
        "An axis says quantity and unit",
        "A number without a unit is no measurement; (dimensionless) is a unit too.",
        _figure(lines(1), "error", "x", "y", showlegend=False),
        _figure(lines(1), "error of the azimuth", "step", "median error (°)", showlegend=False),
    )
    crowded = {"yaxis": {"type": "log", "dtick": 0.1, "tickformat": ".17g"}}
    chosen = {"yaxis": {"type": "log", "tickvals": [0.01, 0.1, 1], "ticktext": ["0.01", "0.1", "1"]}}
    yield (
        "Ticks of a logarithmic axis are chosen",
        "Few and round; no 0.9999999999999901, no minor 9 beside a 1.",
        _figure(lines(1), "loss", "step", "NMSE (dimensionless)", showlegend=False, **crowded),
        _figure(lines(1), "loss", "step", "NMSE (dimensionless)", showlegend=False, **chosen),
    )
    alike = [
        go.Scatter(x=x, y=curve, name=name, line={"color": colour})
        for name, curve, colour in zip(names, curves[:3], ("#d62728", "#2ca02c", "#8c564b"), strict=False)
    ]
    yield (
        "Colour is never the only difference",
        "Dash or symbol serve those who do not see the colour, and a print in grey.",
        _figure(alike, "loss", "step", "NMSE (dimensionless)", **log),
        _figure(lines(3), "", "step", "NMSE (dimensionless)", legend=style.LEGEND_ABOVE, **log),
    )
