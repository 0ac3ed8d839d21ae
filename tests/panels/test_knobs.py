"""Knobs take limits, choices, help and unit from the declaration of a field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ipywidgets as widgets
import pytest

from rislab.config import Config, choice, declarations, device, integer, number, switch
from rislab.errors import InputError
from rislab.panels.knobs import knob
from rislab.panels.number_knob import NumberKnob


@dataclass(frozen=True)
class Kitchen(Config):
    """A configuration."""

    eggs: int = integer(6, 1, 12, "how many to break")
    heat: float = number(80.0, 0.0, 300.0, "of the plate", unit="°C", exclusive=True)
    limit: float | None = number(None, 0.0, 1e30, "none for no limit", optional=True)
    oil: str = choice("rape", ("rape", "olive"), "what to fry in")
    lid: bool = switch(True, "cover the pan")
    device: str = device()


def test_a_box_has_the_help_and_the_unit_of_its_field() -> None:
    eggs, heat = knob(Kitchen, "eggs", 6), knob(Kitchen, "heat", 80.0, label="plate", step=5)
    assert (eggs.value, eggs.box.value, eggs.slider) == (6, 6.0, None)
    assert eggs.tooltip == "how many to break (allowed: ≥ 1, ≤ 12)"
    assert (heat.description, heat.tooltip) == ("plate (°C)", "of the plate (allowed: > 0, ≤ 300 °C)")


@pytest.mark.parametrize("typed", [0, 13, 2.5, 1e9])
@pytest.mark.parametrize("slider", [False, True])
def test_what_is_not_allowed_is_refused_beside_the_box_and_not_clipped(typed: float, slider: bool) -> None:
    eggs, heard = knob(Kitchen, "eggs", 6, slider=slider), []
    eggs.observe(lambda change: heard.append(change["new"]), "value")
    eggs.box.value = typed
    assert (eggs.value, eggs.box.value, heard) == (6, typed, [])
    assert eggs.problem == f"eggs is {eggs.exact(typed)}; allowed: a whole number in [1, 12]"
    assert f"{eggs.problem}; {eggs.value} is still used" in eggs.note.value and eggs.note.layout.display == ""
    eggs.box.value = 7
    assert (eggs.value, heard, eggs.problem, eggs.note.layout.display) == (7, [7], "", "none")
    with pytest.raises(InputError, match="eggs is 13; allowed: a whole number in"):
        eggs.value = 13


def test_further_checks_stand_beside_the_box_too() -> None:
    def check(value: int) -> None:
        if value % 2:
            raise InputError(f"eggs is {value}; allowed: an even number")

    eggs = knob(Kitchen, "eggs", 6, check=check)
    eggs.box.value = 7
    assert (eggs.value, eggs.problem) == (6, "eggs is 7; allowed: an even number")
    eggs.box.value = 6
    assert (eggs.value, eggs.problem) == (6, "")


def test_slider_and_box_are_one_and_the_slider_may_end_earlier() -> None:
    heat = knob(Kitchen, "heat", 80.0, slider=True, high=200, step=0.1)
    heat.slider.value = 0.1 + 0.2
    assert (heat.value, heat.box.value) == (0.3, 0.3)
    heat.box.value = 250
    assert (heat.value, heat.slider.value) == (250, 200)
    heat.limit(100, 200)
    heat.box.value = 99
    assert heat.value == 250 and "(100, 200]" in heat.problem
    log = knob(Kitchen, "heat", 1e-9, slider=True, log=True, low=-6, high=2)
    assert (log.value, log.slider.value) == (1e-9, 1e-6)


@pytest.mark.parametrize(
    ("name", "value", "options", "kind"),
    [
        ("eggs", 6, {}, NumberKnob),
        ("oil", "olive", {}, widgets.Dropdown),
        ("lid", True, {}, widgets.Checkbox),
    ],
)
def test_each_kind_has_its_widget(name: str, value: Any, options: dict[str, Any], kind: type) -> None:
    made = knob(Kitchen, name, value, **options)
    assert type(made) is kind and made.value == value
    assert made.tooltip.startswith(declarations(Kitchen)[name].help)


def test_choices_can_be_left_out_and_no_limit_has_a_number() -> None:
    none = knob(Kitchen, "limit", None)
    assert (none.value, none.box.value) == (None, 1e6)
    assert knob(Kitchen, "oil", "rape", without=("olive",)).options == ("rape",)


def test_a_kind_without_a_widget_is_named() -> None:
    with pytest.raises(TypeError, match="no knob for the device 'device'"):
        knob(Kitchen, "device", "cpu")
