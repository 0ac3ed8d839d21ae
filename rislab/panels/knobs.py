"""Widgets for fields of configurations: limits, choices, help and unit stand in the declaration of the field alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rislab.config import Config, declarations


def labelled(kind: Any, label: str, width: str, **options: Any) -> Any:
    """A widget of some kind with a label of any length before it, in `width` as of CSS."""
    return kind(description=label, style={"description_width": "initial"}, layout={"width": width}, **options)


def knob(
    config: type[Config],
    name: str,
    value: Any,
    *,
    label: str = "",
    width: str = "150px",
    low: float | None = None,
    high: float | None = None,
    step: float | None = None,
    slider: bool = False,
    log: bool = False,
    without: tuple[Any, ...] = (),
    check: Callable[[Any], object] = lambda value: None,
) -> Any:
    """The widget for a field: a NumberKnob for numbers, a list for choices, a box to tick for a switch.

    Args:
        config: that declares the field.
        name: of the field.
        value: to be shown first; None, where it is allowed, shows a large number.
        label: before the widget; the name in words if "". A unit follows in brackets.
        width: as of CSS.
        low: smallest number of a slider, where the declared one cannot be shown; of a logarithmic slider its power of
            ten. Smaller ones can still be typed, if they are allowed.
        high: largest number of a slider, in the same way.
        step: of numbers.
        slider: a slider beside the box.
        log: the slider is logarithmic.
        without: choices that are not to be had here.
        check: further refusals of a number: raises InputError, whose sentence stands beside the widget.
    """
    import ipywidgets as widgets

    from rislab.panels.number_knob import NumberKnob, tooltip

    one = declarations(config)[name]
    unit = f" ({one.unit})" if one.unit else ""
    text = f"{label or name.replace('_', ' ')}{unit}"
    if one.kind == "choice":
        choices = [choice for choice in one.choices if choice not in without]
        return labelled(widgets.Dropdown, text, width, options=choices, value=value, tooltip=tooltip(one))
    if one.kind == "switch":
        return labelled(widgets.Checkbox, text, width, value=value, indent=False, tooltip=tooltip(one))
    if one.kind not in ("integer", "number"):
        raise TypeError(f"no knob for the {one.kind} {name!r}")
    ends = (one.low if low is None else low, one.high if high is None else high) if slider else None
    return NumberKnob(name, one, value, label=text, width=width, step=step, ends=ends, log=log, check=check)
