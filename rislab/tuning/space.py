"""What a search may vary: named dimensions of a LearningConfig, each a range or a list of choices."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from rislab import files
from rislab.config import plain
from rislab.errors import InputError, check_fields, check_number
from rislab.training.streaming_config import LearningConfig

# What makes trials comparable, and what a search gives each trial itself.
FIXED = ("preset", "device", "seed")
KINDS: dict[str, type] = {name: kind for name, kind in get_type_hints(LearningConfig).items() if name not in FIXED}


@dataclass(frozen=True)
class Range:
    """Numbers from low to high, both included.

    Args:
        low: smallest value.
        high: largest value, > low.
        log: whether equal factors count alike, which needs low > 0.
        integer: integers only.
    """

    low: float
    high: float
    log: bool = False
    integer: bool = False

    @property
    def ends(self) -> tuple[Any, ...]:
        """The smallest and the largest value."""
        return (self.low, self.high)

    def holds(self, value: Any) -> bool:
        """Whether a value lies within."""
        return self.low <= value <= self.high

    def place(self, value: float) -> float:
        """Where a value lies, 0 at the low end and 1 at the high one."""
        low, high, at = (math.log(one) if self.log else one for one in (self.low, self.high, value))
        return (at - low) / (high - low)


@dataclass(frozen=True)
class Choice:
    """One of several values.

    Args:
        values: at least two, each of them once.
    """

    values: tuple[Any, ...]

    @property
    def ends(self) -> tuple[Any, ...]:
        """All values."""
        return self.values

    def holds(self, value: Any) -> bool:
        """Whether a value is among them."""
        return value in self.values


Dimension = Range | Choice
Space = Mapping[str, Dimension]

DEFAULT_SPACE: dict[str, Dimension] = {
    "lr": Range(5e-4, 3e-2, log=True),
    "micro_batch": Choice((8, 16, 32, 64)),
    "accumulation_steps": Choice((1, 2, 4)),
    "curriculum": Choice(("no-curriculum", "three-phase")),
    "blend": Range(0.0, 0.3),
}


def parse_space(texts: Sequence[str]) -> dict[str, Dimension]:
    """Dimensions as they are typed: `lr=1e-4:1e-2:log`, `micro_batch=8:64`, `precision=fp32,bf16`.

    Raises:
        InputError: for text of another form, an unknown name, and what check_space() refuses.
    """
    space: dict[str, Dimension] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name or not name.isprintable() or not value:
            raise InputError(f"search holds {text!r}; allowed: NAME=LOW:HIGH, NAME=LOW:HIGH:log or NAME=A,B,…")
        if name in space:
            raise InputError(f"search names {name} twice; allowed: once")
        parts = value.split(":")
        content: Any = [_value(part) for part in value.split(",")]
        if len(parts) > 1:
            if len(parts) > 3 or parts[2:] not in ([], ["log"]):
                raise InputError(f"{name} is {value!r}; allowed: LOW:HIGH or LOW:HIGH:log")
            content = {"low": _value(parts[0]), "high": _value(parts[1]), "log": len(parts) == 3}
        space |= space_from_dict({name: content})
    return check_space(space)


def read_space(path: Path | str) -> dict[str, Dimension]:
    """Dimensions from a YAML file: a list of choices, or a mapping low, high and perhaps log, by name.

    Raises:
        InputError: for a file that cannot be read or is no mapping, and what check_space() refuses.
    """
    allowed = "holds no mapping; allowed: lines such as lr: {low: 0.0001, high: 0.01, log: true}"
    return check_space(space_from_dict(files.read_mapping(path, allowed)))


def space_from_dict(content: Mapping[str, Any]) -> dict[str, Dimension]:
    """The space that space_to_dict() was given; raises InputError for an unknown name or what is no dimension."""
    check_fields("a search space", content, KINDS)
    return {name: _dimension(name, value) for name, value in content.items()}


def space_to_dict(space: Space) -> dict[str, Any]:
    """Plain mapping that space_from_dict() and YAML take back."""
    return {name: plain(one.values if isinstance(one, Choice) else vars(one)) for name, one in space.items()}


def check_space(space: Space, base: LearningConfig | None = None) -> dict[str, Dimension]:
    """Refuse an empty space, and values that no training could have; what is not searched is that of `base`.

    Raises:
        InputError: naming dimension and value.
    """
    if not space:
        raise InputError(f"the search space is empty; allowed: at least one of {', '.join(KINDS)}")
    check_fields("a search space", space, KINDS)
    for name, dimension in space.items():
        for value in dimension.ends:
            dataclasses.replace(base or LearningConfig(), **{name: value})
    return dict(space)


def _dimension(name: str, content: Any) -> Dimension:
    if isinstance(content, Mapping):
        check_fields(f"the range of {name}", content, ("low", "high", "log", "integer"))
        if KINDS[name] not in (int, float):
            raise InputError(f"{name} is a range; allowed: a list of values")
        low, high = content.get("low"), content.get("high")
        integer, log = KINDS[name] is int, content.get("log", False)
        check_number(f"low of {name}", low, integer=integer)
        check_number(f"high of {name}", high, float(content["low"]), integer=integer, exclusive=True)
        if log is not True and log is not False:
            raise InputError(f"log of {name} is {log!r}; allowed: true or false")
        if log:
            check_number(f"low of {name} on a logarithmic scale", low, 0, exclusive=True)
        kind = KINDS[name]
        return Range(kind(low), kind(high), log, integer)
    if not isinstance(content, list | tuple) or len(content) < 2:
        raise InputError(f"{name} is {content!r}; allowed: at least two values to choose from, or a range")
    values = [float(value) if type(value) is int and KINDS[name] is float else value for value in content]
    for value in values:
        if type(value) is not KINDS[name]:
            raise InputError(f"{name} holds {value!r}; allowed: {KINDS[name].__name__}")
        if values.count(value) > 1:
            raise InputError(f"{name} holds {value!r} twice; allowed: once")
    return Choice(tuple(values))


def _value(text: str) -> Any:
    """A number where the text is one."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text
