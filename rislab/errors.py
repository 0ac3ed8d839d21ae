"""The one error that users see: a sentence that names the field, its value and what is allowed."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Mapping
from typing import Any

# Characters of a sentence; a longer one is cut in its middle.
LONGEST = 1000


class InputError(ValueError):
    """Raised for input that rislab cannot accept; its text is one clear sentence, and the command line exits with 2.

    Args:
        text: the sentence; text from a file can neither break its line nor send control characters to the terminal.
    """

    def __init__(self, text: str) -> None:
        line = one_line(text)
        super().__init__(line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} … {line[-LONGEST // 2 :]}")

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows: the sentence, which forty lines of source would hide."""
        return [f"{type(self).__name__}: {self}"]


def one_line(text: str) -> str:
    """A text as one line: lines are joined, control characters escaped."""
    line = " ".join(part.strip() for part in text.splitlines())
    return line if line.isprintable() else "".join(one if one.isprintable() else repr(one)[1:-1] for one in line)


def error_text(error: BaseException) -> str:
    """The first line of an error's text, "" if it has none."""
    try:
        return next(iter(str(error).splitlines()), "")
    except Exception as own:
        return f"an error without words: {type(own).__name__}"


def check_choice(field: str, value: object, allowed: Iterable[object]) -> None:
    """Raise InputError unless `value` is one of `allowed`."""
    choices = tuple(allowed)
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        raise InputError(f"{field} is {value!r}; allowed: {', '.join(repr(choice) for choice in choices)}")


def check_number(
    field: str,
    value: Any,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    integer: bool = False,
    exclusive: bool = False,
) -> None:
    """Raise InputError unless `value` is a finite number within [low, high].

    Args:
        field: name shown to the user.
        value: as given, of Python or of NumPy; booleans are refused.
        low: smallest value, itself allowed unless `exclusive`.
        high: largest value, itself allowed.
        integer: whether it has to be an integer.
        exclusive: whether `low` itself is not allowed.
    """
    kind = "a whole number" if integer else "a number"
    bracket = "(" if exclusive else "["
    allowed = f"{kind} in {bracket}{limit_text(low)}, {limit_text(high)}]"
    right = isinstance(value, numbers.Integral if integer else numbers.Real) and not isinstance(value, bool)
    # NaN fails both comparisons; an integer of any size can be compared.
    if not right or not low <= value <= high or value in (math.inf, -math.inf) or (exclusive and value == low):
        raise InputError(f"{field} is {shown(value)}; allowed: {allowed}")


def check_interval(field: str, value: object, low: float, high: float, *, integer: bool = False) -> None:
    """Raise InputError unless `value` is a pair (smallest, largest) of numbers within [low, high]."""
    if not isinstance(value, tuple) or len(value) != 2:
        raise InputError(f"{field} is {value!r}; allowed: a number or a pair (smallest, largest)")
    for end in value:
        check_number(field, end, low, high, integer=integer)
    if value[0] > value[1]:
        raise InputError(f"{field} is {value!r}; allowed: a pair whose first number is not the larger one")


def check_fields(kind: str, given: object, allowed: Iterable[str]) -> None:
    """Raise InputError unless `given` is a mapping whose names are all in `allowed`."""
    names = tuple(allowed)
    if not isinstance(given, Mapping):
        raise InputError(f"{kind} is given as a {type(given).__name__}; allowed: a mapping of {', '.join(names)}")
    for name in given:
        if name not in names:
            text = name if isinstance(name, str) and name.isidentifier() else shown(name)
            raise InputError(f"{text} is not a field of {kind}{did_you_mean(text, names)}")


def did_you_mean(name: str, allowed: Iterable[str], count: int = 1) -> str:
    """The end of a sentence about an unknown name: the closest allowed ones, and all of them.

    Args:
        name: as it was given.
        allowed: names.
        count: the most close ones that are named.
    """
    import difflib

    names = tuple(allowed)
    close = " or ".join(map(repr, difflib.get_close_matches(name, names, count)))
    return f"{f', did you mean {close}?' if close else ';'} allowed: {', '.join(names) or 'none'}"


def require(what: str, extra: str, *packages: str) -> None:
    """Raise InputError, which says what to install, if a package of an extra is missing.

    Args:
        what: that needs it.
        extra: of rislab that brings it.
        packages: names to import.
    """
    import importlib.util

    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise InputError(
                f"{what} needs {package}, which is not installed; install it with pip install 'rislab[{extra}]'"
            )


def check_device(device: object) -> None:
    """Raise InputError unless this machine has `device`: "cpu", "cuda" or "cuda:N"."""
    if device == "cpu":
        return
    import torch

    try:
        named = torch.device(str(device))
    except RuntimeError:
        raise InputError(f"device is {device!r}; allowed: 'cpu', 'cuda' or 'cuda:N'") from None
    if named.type not in ("cpu", "cuda"):
        raise InputError(f"device is {device!r}; allowed: 'cpu', 'cuda' or 'cuda:N'")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if named.type == "cuda" and (named.index or 0) >= count:
        raise InputError(f"device is {device!r}; allowed: 'cpu' (this machine has {count} CUDA devices)")


def limit_text(value: float) -> str:
    """A limit for a sentence: a few digits, or all if a few would show another integer."""
    text = f"{value:g}"
    return repr(value) if float(text) != value and float(text).is_integer() else text


def shown(value: object) -> str:
    """A value for a sentence, cut if it would fill the screen."""
    try:
        text = repr(value)
    except ValueError:  # Python refuses to print integers of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= 60 else f"{text[:57]}..."


def with_error(value: float, error: float) -> str:
    """A number to the digits that its standard error, or spread, leaves: of 1.2185 and 0.095, 1.218 ± 0.095."""
    digits = max(0, 1 - math.floor(math.log10(error))) if 0 < error < math.inf else 4
    text = f"{error:.{digits}f}" if 0 < digits <= 6 and error else f"{error:.2g}"
    return f"{value:.{min(digits, 12)}f} ± {text}"
