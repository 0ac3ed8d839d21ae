"""A number that is typed or slid: taken if it is allowed, and refused beside the control in one sentence if not."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Callable
from typing import Any

import ipywidgets
import traitlets

from rislab.config import Declaration
from rislab.errors import InputError
from rislab.panels.base import say
from rislab.plots.style import ERROR_COLOUR

LARGEST = 1e6  # what is shown for "no limit"
NOTE = (
    "position:absolute;z-index:2000;width:max-content;max-width:320px;padding:2px 6px;line-height:1.2;"
    f"color:{ERROR_COLOUR};background:var(--jp-layout-color1,#fff);border:1px solid;border-radius:3px;"
    "pointer-events:none"
)
DIGITS = 12  # a slider counts in float64 and would show 0.30000000000000004


class NumberKnob(ipywidgets.VBox):  # type: ignore[misc]  # ipywidgets has no types
    """A box for a number, with a slider beside it if wanted; nothing is clipped.

    What is refused stays in the box, with the reason below it, until another number is typed; `value` stays as it was,
    and the reason says so.

    Attributes:
        value: the last number that was allowed; setting another one raises InputError.
        problem: why the number in the box was refused; "" if it was not.
        box: where the number is typed.
        slider: None without one.

    Args:
        name: of the field, for the sentence.
        declaration: which numbers are allowed.
        value: to be shown first.
        label: before the box.
        width: of the whole, as of CSS.
        step: of the arrows and the slider; None for any.
        ends: smallest and largest number of a slider; None for no slider.
        log: the slider is logarithmic.
        check: further refusals, such as limits that depend on other fields: raises InputError.
    """

    value = traitlets.Any()

    def __init__(
        self,
        name: str,
        declaration: Declaration,
        value: float | None,
        *,
        label: str,
        width: str,
        step: float | None = None,
        ends: tuple[float, float] | None = None,
        log: bool = False,
        check: Callable[[Any], object] = lambda value: None,
    ) -> None:
        self.name, self.declaration, self.check = name, declaration, check
        self.problem = ""
        arrows = step or (1 if declaration.kind == "integer" else None)
        looks = {"style": {"description_width": "initial"}, "tooltip": tooltip(declaration)}
        self.box = ipywidgets.FloatText(_shown(value), step=arrows, description=label, **looks)
        self.box.layout.width = width if ends is None else "45%"
        # Without a height and a margin: what is said hangs over the rows below, and moves none of them.
        self.note = ipywidgets.HTML(layout={"display": "none", "height": "0px", "margin": "0px", "overflow": "visible"})
        self.slider: Any = None
        row: list[Any] = [self.box]
        if ends is not None:
            kind = ipywidgets.FloatLogSlider if log else ipywidgets.FloatSlider
            powers = {"min": ends[0], "max": ends[1]} | ({} if step is None else {"step": step})
            self.slider = kind(readout=False, layout={"width": "55%"}, **powers)
            self.slider.value = self._position(_shown(value))
            row = [ipywidgets.HBox([self.box, self.slider])]
            self.slider.observe(self._slid, "value")
        layout = {"width": "auto" if ends is None else width, "overflow": "visible"}
        super().__init__([*row, self.note], value=value, layout=layout)
        self.add_class("rislab-knob")
        self.box.observe(lambda change: self._typed(change["new"]), "value")

    @property
    def description(self) -> str:
        """The label."""
        return str(self.box.description)

    @property
    def tooltip(self) -> str:
        """What the number means, and which are allowed."""
        return str(self.box.tooltip)

    def limit(self, low: float, high: float) -> None:
        """Allow other numbers from now on; the present one stays, whatever it is."""
        self.declaration = dataclasses.replace(self.declaration, low=low, high=high)
        self.box.tooltip = tooltip(self.declaration)

    def exact(self, value: Any) -> Any:
        """The number as the field holds it: boxes hold floats, also where an integer is meant."""
        integer = self.declaration.kind == "integer" and isinstance(value, float) and value.is_integer()
        return int(value) if integer else value

    @traitlets.validate("value")
    def _allowed(self, proposal: dict[str, Any]) -> Any:
        value = self.exact(proposal["value"])
        if value != self.value or self.problem:
            self.declaration.check(self.name, value)
            self.check(value)
        return value

    @traitlets.observe("value")
    def _show(self, change: Any) -> None:
        value = change["new"]
        self._say("")
        self.box.value = _shown(value)
        if self.slider is not None:
            self.slider.value = self._position(_shown(value))

    def _slid(self, change: Any) -> None:
        # The slider ends where a typed number may go on: its end is then no input.
        if change["new"] != self._position(self.value):
            self.box.value = round(change["new"], DIGITS)

    def _position(self, value: float) -> float:
        """Where the slider stands for a number."""
        log = isinstance(self.slider, ipywidgets.FloatLogSlider)
        low, high = ((self.slider.base**end if log else end) for end in (self.slider.min, self.slider.max))
        return float(min(max(value, low), high))

    def _typed(self, value: float) -> None:
        try:
            self.value = value
            self._say("")
        except InputError as error:
            self._say(str(error))

    def _say(self, problem: str) -> None:
        self.problem = problem
        text = html.escape(f"{problem}; {_shown(self.value):g} is still used")
        say(self.note, problem and f"<b role='alert' style='{NOTE}'>{text}</b>")


def _shown(value: float | None) -> float:
    """What the box shows: a large number where None sets no limit."""
    return LARGEST if value is None else value


def tooltip(declaration: Declaration) -> str:
    """What a field means, and which values are allowed."""
    shown = declaration.allowed and declaration.kind != "choice"
    return f"{declaration.help}{f' (allowed: {declaration.allowed})' if shown else ''}"
