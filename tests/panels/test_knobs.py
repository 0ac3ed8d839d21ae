"""Knobs take limits, choices, help and unit from the declaration of a field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ipywidgets as widgets
import pytest

from rislab.config import Config, choice, declarations, device, integer, number, switch
from rislab.panels.knobs import knob


@dataclass(frozen=True)
class Kitchen(Config):
    """A configuration."""

    eggs: int = integer(6, 1, 12, "how many to break")
    heat: float = number(80.0, 0.0, 300.0, "of the plate", unit="°C", exclusive=True)
    limit: float | None = number(None, 0.0, 1e30, "none for no limit", optional=True)
    oil: str = choice("rape", ("rape", "olive"), "what to fry in")
    lid: bool = switch(True, "cover the pan")
    device: str = device()


def test_a_box_has_the_limits_the_help_and_the_unit_of_its_field() -> None:
    eggs, heat = knob(Kitchen, "eggs", 6), knob(Kitchen, "heat", 80.0, label="plate", step=5)
    assert isinstance(eggs, widgets.BoundedIntText) and (eggs.min, eggs.max, eggs.value) == (1, 12, 6)
    assert eggs.tooltip == "how many to break (allowed: ≥ 1, ≤ 12)"
    assert isinstance(heat, widgets.BoundedFloatText) and (heat.min, heat.max, heat.step) == (0.0, 300.0, 5)
    assert (heat.description, heat.tooltip) == ("plate (°C)", "of the plate (allowed: > 0, ≤ 300 °C)")


@pytest.mark.parametrize(
    ("name", "value", "options", "kind"),
    [
        ("eggs", 6, {"slider": True}, widgets.IntSlider),
        ("heat", 80.0, {"slider": True}, widgets.FloatSlider),
        ("heat", 0.1, {"slider": True, "log": True, "low": -6, "high": 0}, widgets.FloatLogSlider),
        ("oil", "olive", {}, widgets.Dropdown),
        ("lid", True, {}, widgets.Checkbox),
    ],
)
def test_each_kind_has_its_widget(name: str, value: Any, options: dict[str, Any], kind: type) -> None:
    made = knob(Kitchen, name, value, **options)
    assert type(made) is kind and made.value == value
    assert made.tooltip.startswith(declarations(Kitchen)[name].help)


def test_limits_can_be_narrowed_for_the_screen_and_huge_ones_are() -> None:
    assert (knob(Kitchen, "eggs", 3, low=2, high=4).min, knob(Kitchen, "eggs", 3, high=4).max) == (2, 4)
    assert knob(Kitchen, "eggs", 9, high=4).value == 9
    none = knob(Kitchen, "limit", None)
    assert none.value == none.max == 1e6
    assert knob(Kitchen, "oil", "rape", without=("olive",)).options == ("rape",)


def test_a_kind_without_a_widget_is_named() -> None:
    with pytest.raises(TypeError, match="no knob for the device 'device'"):
        knob(Kitchen, "device", "cpu")
