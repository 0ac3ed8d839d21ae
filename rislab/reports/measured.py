"""Numbers that a notebook measured, in its output under a MIME type, where programs find them without parsing text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rislab.errors import InputError

MIME = "application/vnd.rislab.reports.measured+json"


class Measured:
    """Named numbers; as the last value of a cell, or displayed, they are kept in the executed notebook.

    Args:
        numbers: name, with its unit if it has one, to value; NaN and infinity are kept as they are.

    Raises:
        InputError: for a value that is no number.
    """

    def __init__(self, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise InputError(f"{name} is {value!r}; allowed: a number")
        self.numbers = dict(numbers)

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        # JSON has no NaN and no infinity, and notebooks sort the names of a mapping.
        plain = [[name, value if math.isfinite(value) else str(value)] for name, value in self.numbers.items()]
        text = "\n".join(f"{name}: {value:.6g}" for name, value in self.numbers.items())
        return {MIME: plain, "text/plain": text}


def measured_numbers(notebook: Any) -> dict[str, float]:
    """What an executed notebook holds, later cells last; empty if it measured nothing by that name."""
    return {name: value for cell in notebook.cells for name, value in numbers_in_cell(cell).items()}


def numbers_in_cell(cell: Any) -> dict[str, float]:
    """What one cell of an executed notebook measured."""
    contents = [output.get("data", {}).get(MIME, []) for output in cell.get("outputs", [])]
    return {str(name): float(value) for content in contents for name, value in content}
