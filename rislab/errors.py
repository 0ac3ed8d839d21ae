"""The one error that users see: a sentence naming the field, its value and what is allowed."""

from __future__ import annotations

import math
from collections.abc import Iterable


class InputError(ValueError):
    """Raised for input that rislab cannot accept; its text is one clear sentence, and the command line exits with 2."""


def check_choice(field: str, value: object, allowed: Iterable[object]) -> None:
    """Raise InputError unless `value` is one of `allowed`."""
    choices = tuple(allowed)
    if value not in choices:
        raise InputError(f"{field} is {value!r}; allowed: {', '.join(repr(choice) for choice in choices)}")


def check_number(
    field: str,
    value: object,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    whole: bool = False,
    above: bool = False,
) -> None:
    """Raise InputError unless `value` is a finite number within [low, high].

    Args:
        field: name shown to the user.
        value: what was given; booleans are refused.
        low, high: limits, both inclusive unless `above` is set.
        whole: demand an integer.
        above: exclude `low` itself.
    """
    kind = "a whole number" if whole else "a number"
    bracket = "(" if above else "["
    allowed = f"{kind} in {bracket}{low:g}, {high:g}]"
    types = int if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, types) or not math.isfinite(value):
        raise InputError(f"{field} is {value!r}; allowed: {allowed}")
    if value < low or value > high or (above and value == low):
        raise InputError(f"{field} is {value!r}; allowed: {allowed}")


def check_interval(field: str, value: object, low: float, high: float, *, whole: bool = False) -> None:
    """Raise InputError unless `value` is a pair (smallest, largest) of numbers within [low, high]."""
    if not isinstance(value, tuple) or len(value) != 2:
        raise InputError(f"{field} is {value!r}; allowed: a number or a pair (smallest, largest)")
    for end in value:
        check_number(field, end, low, high, whole=whole)
    if value[0] > value[1]:
        raise InputError(f"{field} is {value!r}; allowed: a pair whose first number is not the larger one")


def check_fields(kind: str, given: Iterable[str], allowed: Iterable[str]) -> None:
    """Raise InputError if `given` holds a name that is not in `allowed`."""
    names = tuple(allowed)
    for name in given:
        if name not in names:
            raise InputError(f"{name} is not a field of {kind}; allowed: {', '.join(names)}")
