"""The controls of the music panel: what they are called, what they may hold, and what each changes."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from rislab.config import declarations
from rislab.data.scene_config import SceneConfig
from rislab.errors import InputError, check_choice, check_number
from rislab.music.scene_view import SceneSettings, in_degrees, place_apart

MOST_SOURCES = 5
SPECTRA = ("MUSIC", "MVDR")
POSITION = ("azimuth", "elevation", "range")
# Controls that set the field of their name.
TIED = ("snr_db", "snapshots", "wavefront", "symbols", "codes", "seed", "covariance", "beta", "loading")
BUTTONS = ("count_sources", "conventions")
# What can be left out besides controls.
PARTS = ("scene", "cut", "table", "truth", "estimates", "bound", "drag")
SHOW = "show_"


def control_groups(settings: SceneSettings, kinds: Iterable[str], hidden: Collection[str]) -> list[dict[str, Any]]:
    """The controls as the page makes them, in three groups, without the hidden ones.

    Args:
        settings: whose field of view limits the places.
        kinds: covariances on offer.
        hidden: names of controls, or of PARTS; "truth" takes the controls of the places with it.
    """
    config, kinds = settings.config(), tuple(kinds)
    units = dict(zip(POSITION, (*map(in_degrees, (config.azimuth, config.elevation)), config.range), strict=True))
    places = [
        _number("sources", "sources", 1, f"1 to {MOST_SOURCES}"),
        _number("chosen", "chosen", 1, "the source that the boxes beside move, at whose range the maps are taken"),
        *(
            _number(name, name, step, f"of the chosen source, {low:g} to {high:g}", unit=unit, position=number)
            for number, (name, step, unit, (low, high)) in enumerate(
                zip(POSITION, (0.5, 0.5, 0.1), ("°", "°", "m"), units.values(), strict=True), 1
            )
        ),
        _slider("separation", "separation 1–2", 0.5, 60.0, 0.5, "°", "of sources 1 and 2 in azimuth", (1.0, 30.0, 0.5)),
    ]
    scene = [*([] if "truth" in hidden else places), _tied("wavefront", "wave"), _tied("seed", "seed", step=1)]
    measurement = [
        _slider(
            "snr_db", "SNR", -10.0, 40.0, 0.5, "dB", declarations(SceneSettings)["snr_db"].help, (-10.0, 30.0, 1.0)
        ),
        _tied("snapshots", "snapshots", step=1),
        _tied("symbols", "symbols"),
        _tied("codes", "codes"),
        _button("count_sources", "count sources", "order criteria of this measurement"),
        _button("conventions", "conventions", "check that the package agrees with its definitions"),
    ]
    estimator = [
        *({"name": SHOW + kind, "label": kind, "kind": "switch", "help": f"show the map of {kind}"} for kind in kinds),
        _tied("covariance", "table of", options=kinds),
        {"name": "spectrum", "label": "spectrum", "kind": "choice", "options": SPECTRA, "help": "what the maps show"},
        *([_tied("beta", "β", step=0.05)] if "blend" in kinds else []),
        _tied("loading", "loading of MVDR", step=0.001),
        _slider(
            "depth", "colour depth", 10, 100, 1, "%", "share of each map's own spread that the colours cover", None
        ),
    ]
    named = (("Scene", scene), ("Measurement", measurement), ("Estimator", estimator))
    names = [control["name"] for _, controls in named for control in controls]
    for name in hidden:
        check_choice("hide", name, (*PARTS, *POSITION, "sources", "chosen", "separation", *names))
    return [{"title": title, "controls": [one for one in each if one["name"] not in hidden]} for title, each in named]


def settings_changed(settings: SceneSettings, name: str, value: Any) -> SceneSettings:
    """The settings with one control changed.

    Args:
        settings: as they are.
        name: of a control, or "place0", "place1" … with azimuth, elevation and range.
        value: that the user gave; None for an empty box.

    Raises:
        InputError: for a value that is not allowed.
    """
    if value is None:
        raise InputError(f"{name} is empty; allowed: a number")
    places = [*settings.places]
    if name in TIED:
        return settings.changed(**{name: value})
    if name == "chosen":
        check_number("chosen", value, 1, len(places), integer=True)
        return settings.changed(chosen=value - 1)
    if name == "sources":
        check_number("sources", value, 1, MOST_SOURCES, integer=True)
        middle = round(0.5 * sum(settings.config().range), 2)
        further = [(-45.0 + 22.0 * slot, (-1) ** slot * 12.0, middle) for slot in range(MOST_SOURCES)]
        places = [*places[:value], *further[len(places) : value]]
        return settings.changed(places=tuple(places), chosen=min(settings.chosen, value - 1))
    if name == "separation":
        return place_apart(settings, value)
    if name in POSITION:
        slot, at = settings.chosen, POSITION.index(name)
        place = [*places[slot]]
        place[at] = value
    else:
        slot, place = int(name.removeprefix("place")), value
    places[slot] = (place[0], place[1], place[2])
    return settings.changed(places=tuple(places), chosen=slot)


def _number(name: str, label: str, step: float, help: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "label": label, "kind": "number", "step": step, "help": help, **more}


def _slider(
    name: str, label: str, low: float, high: float, step: float, unit: str, help: str, play: tuple[float, ...] | None
) -> dict[str, Any]:
    sweep = {"play": {"between": play[:2], "step": play[2]}} if play else {}
    limits = {"min": low, "max": high, "step": step, "unit": unit}
    return {"name": name, "label": label, "kind": "range", **limits, "help": help, **sweep}


def _button(name: str, label: str, help: str) -> dict[str, Any]:
    return {"name": name, "label": label, "kind": "button", "help": help}


def _tied(name: str, label: str, **more: Any) -> dict[str, Any]:
    """The control of a declared field."""
    one = (declarations(SceneSettings) | declarations(SceneConfig))[name]
    if one.kind == "choice":
        return {"name": name, "label": label, "kind": "choice", "options": one.choices, "help": one.help, **more}
    return _number(name, label, help=f"{one.help} ({one.allowed})", **{"step": 1, **more})
