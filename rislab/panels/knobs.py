"""Widgets for fields of configurations: limits, choices, help and unit stand in the declaration of the field alone."""

from __future__ import annotations

from typing import Any

from rislab.config import Config, declarations

# The page counts in float64 and shows every digit: more than these help nobody.
LARGEST_INTEGER = 2**31 - 1
LARGEST_NUMBER = 1e6


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
) -> Any:
    """The widget for a field: a box or a slider for numbers, a list for choices, a box to tick for a switch.

    Args:
        config: that declares the field.
        name: of the field.
        value: to be shown first; None, where it is allowed, shows the largest number.
        label: before the widget; the name in words if "". A unit follows in brackets.
        width: as of CSS.
        low: smallest number of the widget, where the declared one cannot be shown; of a logarithmic slider its power
            of ten.
        high: largest number of the widget, where the declared one is of no use on a screen.
        step: of numbers.
        slider: a slider instead of a box.
        log: the slider is logarithmic.
        without: choices that are not to be had here.
    """
    import ipywidgets as widgets

    one = declarations(config)[name]
    unit = f" ({one.unit})" if one.unit else ""
    allowed = f" (allowed: {one.allowed})" if one.allowed and one.kind != "choice" else ""
    text = f"{label or name.replace('_', ' ')}{unit}"
    shared: dict[str, Any] = {"tooltip": f"{one.help}{allowed}"}
    if one.kind == "choice":
        choices = [choice for choice in one.choices if choice not in without]
        return labelled(widgets.Dropdown, text, width, options=choices, value=value, **shared)
    if one.kind == "switch":
        return labelled(widgets.Checkbox, text, width, value=value, indent=False, **shared)
    if one.kind not in ("integer", "number"):
        raise TypeError(f"no knob for the {one.kind} {name!r}")
    integer = one.kind == "integer"
    least = one.low if low is None else low
    most = min(one.high, LARGEST_INTEGER if integer else LARGEST_NUMBER) if high is None else high
    shown = most if value is None else value
    # A widget must not change the value that it is to show first.
    bounds = {} if log else {"min": min(least, shown), "max": max(most, shown)}
    options = (bounds or {"min": least, "max": most}) | ({} if step is None else {"step": step})
    kinds = (widgets.BoundedIntText, widgets.IntSlider) if integer else (widgets.BoundedFloatText, widgets.FloatSlider)
    return labelled(widgets.FloatLogSlider if log else kinds[slider], text, width, value=shown, **options, **shared)
