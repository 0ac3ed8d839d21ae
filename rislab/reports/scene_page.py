"""The music panel as a page without a kernel: SNR × separation × covariance, computed before, in one file.

python -m rislab.reports.scene_page FILE.html [classroom|full]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from rislab import files
from rislab.errors import InputError
from rislab.model import pretrained
from rislab.music.estimate import Predictor
from rislab.music.scene_view import SceneExplorer, SceneSettings, place_apart, separation_of, widest_apart
from rislab.plots.scene_content import scene_content, scene_css, scene_look, scene_script
from rislab.reports.html_export import html_page, render, script_json, static_text

SNRS_DB = (-5.0, 0.0, 5.0, 10.0, 15.0, 20.0)
SEPARATIONS = (2.0, 4.0, 8.0, 14.0, 22.0, 30.0)  # degrees of azimuth between sources 1 and 2
KINDS = ("sample", "learned", "sparse", "truth")
PAGE_MAP = (91, 46)
SHARED = ("limits", "surface", "antennas")  # by all positions of the sliders


def scene_page(
    settings: SceneSettings,
    model: Predictor | None = None,
    *,
    snrs_db: Sequence[float] | None = None,
    separations: Sequence[float] | None = None,
    hide: Sequence[str] = (),
) -> str:
    """A scene with sliders as HTML for html_page() or the output of a cell: it loads nothing and needs no kernel.

    It opens on the scene as it is, if the positions of the sliders are not given, else on the nearest of them.

    Args:
        settings: of the scene; sources 1 and 2 are moved apart around the middle between them. Two sources or more.
        model: network of the learned covariance; without it, that map is left out.
        snrs_db: positions of the slider, in rising order, dB; by default SNRS_DB, the nearest replaced by the own one.
        separations: the same of the other slider, degrees of azimuth; by default those of SEPARATIONS in the field of
            view, the nearest replaced by the scene's own.
        hide: parts that are left out, see rislab.panels.scene_controls.

    Raises:
        InputError: for one source alone, or a separation that leads out of the field of view.
    """
    explorer = SceneExplorer(model)
    kinds = [
        kind for kind in KINDS if (model is not None or kind != "learned") and (kind != "truth" or kind not in hide)
    ]
    own = round(separation_of(settings), 1)
    snrs_db = snrs_db or _with_own(SNRS_DB, settings.snr_db)
    apart = {degrees: place_apart(settings, degrees) for degrees in separations or ()}
    if not separations:
        separations = _with_own([one for one in SEPARATIONS if one <= widest_apart(settings)], own)
        apart = {one: settings if one == own else place_apart(settings, one) for one in separations}
    contents = [
        [_content(explorer, apart[degrees].changed(snr_db=snr_db), kinds) for degrees in separations]
        for snr_db in snrs_db
    ]
    covariance = settings.covariance if settings.covariance in kinds else kinds[0]
    values = {"snr_db": _nearest(snrs_db, settings.snr_db), "separation": _nearest(separations, own)}
    data = {
        "snr_db": list(snrs_db),
        "separation": list(separations),
        "groups": _groups(snrs_db, separations, kinds),
        "look": scene_look(),
        "parts": dict.fromkeys((*hide, "drag"), False),
        "values": values | {"covariance": covariance, "chosen": settings.chosen + 1, "depth": 100},
        "shared": {name: contents[0][0][name] for name in SHARED},
        "contents": [
            [{name: value for name, value in one.items() if name not in SHARED} for one in row] for row in contents
        ],
    }
    return str(
        render(
            "scene_page.html.j2",
            label="one scene: maps by SNR, separation and covariance",
            css=Markup(scene_css()),
            content=script_json(data),
            script=Markup(scene_script() + static_text("scene_page.js")),
        )
    )


def _nearest(values: Sequence[float], value: float) -> float:
    return min(values, key=lambda one: abs(one - value))


def _with_own(values: Sequence[float], own: float) -> list[float]:
    """The values in rising order, the nearest to `own` replaced by it."""
    return sorted({own, *values} - ({_nearest(values, own)} - {own} if values else set()))


def write_scene_page(path: Path, settings: SceneSettings, model: Predictor | None = None, **options: Any) -> Path:
    """Write scene_page() as a file of its own, which opens offline; returns its path."""
    title = "Where are the sources? Maps by SNR, separation and covariance"
    body = f"<h1>{title}</h1>\n{scene_page(settings, model, **options)}"
    files.replace(path, html_page(f"rislab: {title}", body).encode())
    return path


def _content(explorer: SceneExplorer, settings: SceneSettings, kinds: Sequence[str]) -> dict[str, Any]:
    scene = settings.scene()
    views = {
        kind: explorer.complete(explorer.spectra(settings.changed(covariance=kind), PAGE_MAP, scene)) for kind in kinds
    }
    return scene_content(views, cut_points=80)


def _groups(snrs_db: Sequence[float], separations: Sequence[float], kinds: Sequence[str]) -> list[dict[str, Any]]:
    apart = {"name": "separation", "label": "separation 1–2", "kind": "range", "unit": "°", "play": True}
    snr = {"name": "snr_db", "label": "SNR", "kind": "range", "unit": "dB", "play": True}
    depth = {"name": "depth", "label": "colour depth", "kind": "range", "unit": "%", "min": 10, "max": 100, "step": 1}
    table = {"name": "covariance", "label": "table of", "kind": "choice", "options": kinds}
    return [
        {"title": "Scene", "controls": [apart | {"stops": list(separations)}]},
        {"title": "Measurement", "controls": [snr | {"stops": list(snrs_db)}]},
        {"title": "Estimator", "controls": [table, depth]},
    ]


def write_page_of(arguments: Sequence[str]) -> int:
    """Write the page of a preset, by the words of a command line: file and preset; returns the exit code."""
    if not 1 <= len(arguments) <= 2:
        print(__doc__)
        return 2
    try:
        name = arguments[1] if len(arguments) > 1 else "classroom"
        settings = SceneSettings.of(name, covariance="learned")
        print(write_scene_page(Path(arguments[0]), settings, pretrained.load("shipped", name)[0]))
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(write_page_of(sys.argv[1:]))
