"""Numbers that a notebook measured, kept in its output where programs find them without reading its words."""

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
        # JSON has no NaN and no infinity.
        plain = {name: value if math.isfinite(value) else str(value) for name, value in self.numbers.items()}
        text = "\n".join(f"{name}: {value:.6g}" for name, value in self.numbers.items())
        return {MIME: plain, "text/plain": text}


def measured_numbers(notebook: Any) -> dict[str, float]:
    """What an executed notebook holds, later cells last; empty if it measured nothing by that name."""
    numbers: dict[str, float] = {}
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            content = output.get("data", {}).get(MIME, {})
            numbers |= {str(name): float(value) for name, value in content.items()}
    return numbers
