"""Lines that a loop prints, by the place that prints them, and the numbers that are written in them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from rislab.checkup.recording.call_stack import caller

# Lines of one kind, and kinds of lines, that are held.
LINES, KINDS = 64, 32
# The error of a printed number must be at most so large, relative to it; and that of the loop's own sum is this.
PRECISE, ROUNDING = 0.01, 1e-5
# Words of numbers that are meant to be sums, or of a part.
OF_SUMS = ("total", "sum", "cum", "area", "auc", "aulc", "regret", "so far", "running", "since", "scaled", "weighted")
_NUMBER = re.compile(r"(?<![\w.])-?\d+\.(\d+)(e[+-]?\d+)?")


class Printed(NamedTuple):
    """What print() was called with."""

    kind: tuple[str, str]  # its text without the numbers, and file and line: lines of one kind differ in numbers alone
    numbers: list[str]  # with a point, as they are written

    @classmethod
    def of(cls, args: Sequence[Any]) -> Printed | None:
        """What it is called with, None if there is no number with a point in it."""
        # Of other objects, to be asked twice may be noticed.
        text = " ".join(str(one) if _is_plain(one) else "?" for one in args)
        numbers = [one.group() for one in _NUMBER.finditer(text)]
        return cls((re.sub(r"\d+", "#", _NUMBER.sub("#", text)), caller()[0]), numbers) if numbers else None


def _is_plain(value: Any) -> bool:
    """Whether a value is a text or a number, or a list of numbers."""
    return type(value) in (str, int, float) or (type(value) is list and all(type(one) in (int, float) for one in value))


class Line(NamedTuple):
    """A printed line."""

    numbers: list[str]  # with a point, as they are written
    place: Any  # in what was recorded, at which it was printed


class PrintedLines:
    """Lines that differ in their numbers alone, by their text and by file and line."""

    def __init__(self) -> None:
        self.kinds: dict[tuple[str, str], list[Line]] = {}

    def add(self, line: Printed, place: Any) -> None:
        """Add what was printed at a place."""
        if line.kind in self.kinds or len(self.kinds) < KINDS:
            lines = self.kinds.setdefault(line.kind, [])
            if len(lines) < LINES:
                lines.append(Line(line.numbers, place))


def columns(lines: Sequence[Line]) -> Iterator[Sequence[str]]:
    """Numbers that stand at one place in all lines, none if the lines hold different counts of numbers."""
    if len({len(line.numbers) for line in lines}) == 1:
        yield from zip(*(line.numbers for line in lines), strict=True)


def error_of(number: str) -> float:
    """By how much a printed number may be off."""
    match = _NUMBER.match(number)
    digits = len(match.group(1)) - int((match.group(2) or "e0")[1:]) if match else 0
    return max(0.51 * 10.0**-digits, ROUNDING * abs(float(number)))


def are_precise(column: Sequence[str]) -> bool:
    """Whether the errors of all numbers are small beside them."""
    return all(error_of(one) <= PRECISE * abs(float(one)) for one in column)


def fits(column: Sequence[str], values: Sequence[float], errors: float = 1.0) -> list[bool]:
    """Which numbers are these values, up to so many of their errors."""
    return [abs(float(one) - value) <= errors * error_of(one) for one, value in zip(column, values, strict=True)]
