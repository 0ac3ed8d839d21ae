"""Configurations whose fields are declared once: limits, unit and help.

    @dataclass(frozen=True)
    class TrainConfig(Config):
        \"\"\"How to train.\"\"\"

        epochs: int = integer(30, 1, 10**9, "passes over the data")

From a declaration come the check of a value, from_dict(), the line in the docstring, the flag of the command line, the
knob of a panel and the parameter of a notebook.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import numbers
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from rislab import files
from rislab.errors import InputError, check_choice, check_device, check_fields, check_interval, check_number, limit_text

DECLARATION = "rislab"  # key in the metadata of a dataclass field


@dataclass(frozen=True)
class Declaration:
    """The values that a field may have.

    Args:
        kind: "integer", "number", "choice", "switch", "text", "device", "interval", "pair" or "part".
        help: what the field means, without a capital at its start and a full stop at its end.
        unit: of the numbers; "" for none.
        low: smallest number.
        high: largest number.
        exclusive: whether `low` itself is not allowed.
        integer: whether the numbers of an interval are integers.
        choices: values of a "choice", all of one type.
        former: what an earlier version called some of them, in files that from_dict() reads.
        optional: whether None is allowed.
        many: whether the field holds a tuple of such values, at least one and none twice.
        empty: whether that tuple may be empty.
        part: class of a "part".
        metavar: what stands for the value in the help of the command line; "" for N, X or the name.
    """

    kind: str
    help: str
    unit: str = ""
    low: float = -math.inf
    high: float = math.inf
    exclusive: bool = False
    integer: bool = False
    choices: tuple[Any, ...] = ()
    former: Mapping[str, str] = field(default_factory=dict)
    optional: bool = False
    many: bool = False
    empty: bool = False
    part: type[Config] | None = None
    metavar: str = ""

    def converted(self, value: Any) -> Any:
        """The value as a configuration holds it: lists as tuples, one number as an interval, numbers of Python."""
        if isinstance(value, list | tuple):
            value = tuple(plain(part) if isinstance(part, numbers.Real) else part for part in value)
        elif isinstance(value, numbers.Real):
            value = plain(value)
        if self.kind == "interval" and isinstance(value, int | float) and not isinstance(value, bool):
            return (value, value)
        if self.kind == "part" and self.part is not None and isinstance(value, Mapping):
            return self.part.from_dict(value)
        if self.kind == "device":
            return str(value)
        return value

    def check(self, name: str, value: Any) -> None:
        """Raise InputError, which names the field and what is allowed, unless the value is allowed."""
        if value is None and self.optional:
            return
        if not self.many:
            self._check_one(name, value)
            return
        if not isinstance(value, tuple) or not (value or self.empty):
            among = f" of {', '.join(map(str, self.choices))}" if self.choices else ""
            raise InputError(f"{name} is {value!r}; allowed: a list{among}{'' if self.empty else ', at least one'}")
        for each in value:
            self._check_one(name, each)
        if len(set(value)) < len(value):
            raise InputError(f"{name} is {list(value)!r}; allowed: each value once")

    def _check_one(self, name: str, value: Any) -> None:
        if self.kind in ("integer", "number"):
            check_number(name, value, self.low, self.high, integer=self.kind == "integer", exclusive=self.exclusive)
        elif self.kind == "choice":
            check_choice(name, value, self.choices)
        elif self.kind == "switch":
            check_choice(name, value, (False, True))
        elif self.kind == "device":
            check_device(value)
        elif self.kind == "interval":
            check_interval(name, value, self.low, self.high, integer=self.integer)
        elif self.kind == "pair":
            if not isinstance(value, tuple) or len(value) != 2:
                raise InputError(f"{name} is {value!r}; allowed: a pair of whole numbers")
            for each in value:
                check_number(name, each, self.low, self.high, integer=True)
        elif self.part is not None and not isinstance(value, self.part):
            raise InputError(f"{name} is a {type(value).__name__}; allowed: a {self.part.__name__} or its fields")
        elif self.kind == "text" and not isinstance(value, str):
            raise InputError(f"{name} is {value!r}; allowed: a text")

    def read(self, text: str) -> Any:
        """The value that a word of the command line stands for; check() says whether it is allowed.

        Raises:
            ValueError: for a word that is no such value, with what is allowed.
        """
        if text.lower() == "none" and self.optional:
            return None
        if self.kind == "switch":
            return _read({"true": True, "false": False}.__getitem__, text.lower(), "true or false")
        if self.kind == "integer":
            return _read(int, text, "a whole number")
        if self.kind == "number":
            return _read(float, text, "a number")
        if self.kind == "choice" and not isinstance(self.choices[0], str):
            return _read(type(self.choices[0]), text, "a number")
        return text

    @property
    def allowed(self) -> str:
        """The allowed values in a few words; "" if there is no limit."""
        unit = f" {self.unit}" if self.unit else ""
        if self.kind == "choice":
            return ", ".join(map(str, self.choices))
        low = "" if self.low == -math.inf else f"{'>' if self.exclusive else '≥'} {limit_text(self.low)}"
        high = "" if self.high >= 1e6 else f"≤ {limit_text(self.high)}"
        limits = ", ".join(part for part in (low, high) if part)
        return limits + unit if limits else self.unit


def integer(default: Any, low: int, high: int, help: str, *, unit: str = "", **options: Any) -> Any:
    """A field that holds an integer of [low, high]; see Declaration for the options."""
    return declared(default, Declaration("integer", help, unit, low, high, **options))


def number(default: Any, low: float, high: float, help: str, *, unit: str = "", **options: Any) -> Any:
    """A field that holds a finite number of [low, high]; see Declaration for the options."""
    return declared(default, Declaration("number", help, unit, low, high, **options))


def choice(default: Any, choices: Iterable[Any], help: str, **options: Any) -> Any:
    """A field that holds one of some values; see Declaration for the options."""
    return declared(default, Declaration("choice", help, choices=tuple(choices), **options))


def switch(default: bool, help: str) -> Any:
    """A field that holds True or False."""
    return declared(default, Declaration("switch", help))


def text(default: Any, help: str, **options: Any) -> Any:
    """A field that holds a text; check() of the configuration may narrow what is allowed."""
    return declared(default, Declaration("text", help, **options))


def device() -> Any:
    """A field that holds a device of torch that this machine has."""
    return declared("cpu", Declaration("device", "that computes: cpu, cuda or cuda:N"))


def interval(default: Any, low: float, high: float, help: str, *, unit: str = "", integer: bool = False) -> Any:
    """A field that holds (smallest, largest) within [low, high]; one number stands for an interval of one value."""
    return declared(default, Declaration("interval", help, unit, low, high, integer=integer))


def pair(default: tuple[int, int], low: int, high: int, help: str) -> Any:
    """A field that holds two integers of [low, high]."""
    return declared(default, Declaration("pair", help, "", low, high))


def part(default: Callable[[], Config], kind: type[Config], help: str) -> Any:
    """A field that holds another configuration; a mapping of its fields is taken for it."""
    return declared(MISSING, Declaration("part", help, part=kind), default)


def same(config: type[Config], name: str, default: Any = MISSING, **changes: Any) -> Any:
    """The field of another configuration, so that it is declared once.

    Args:
        config: that declares it.
        name: of the field.
        default: in place of the declared default.
        changes: in the Declaration.
    """
    original = config.__dataclass_fields__[name]
    declaration = dataclasses.replace(original.metadata[DECLARATION], **changes)
    if default is not MISSING:
        return declared(default, declaration)
    return declared(original.default, declaration, original.default_factory)


def declared(default: Any, declaration: Declaration, default_factory: Any = MISSING) -> Any:
    """A field with a declaration that may stand elsewhere.

    Args:
        default: of the field.
        declaration: of its values.
        default_factory: makes the default, in place of one.
    """
    return field(default=default, default_factory=default_factory, metadata={DECLARATION: declaration})


def declarations(config: type[Config]) -> dict[str, Declaration]:
    """The declarations of a configuration's fields, by name; fields without one are left out."""
    return {
        each.name: each.metadata[DECLARATION] for each in dataclasses.fields(config) if DECLARATION in each.metadata
    }


class Config:
    """Base of the configurations: frozen dataclasses, strict and immutable.

    A subclass declares its fields by integer(), number(), choice() and so on, and overrides check() for limits that
    depend on more than one field. Its docstring gets a line for each field that it declares.
    """

    if TYPE_CHECKING:
        __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    def __init_subclass__(cls) -> None:
        fields = {name: value for name, value in vars(cls).items() if isinstance(value, dataclasses.Field)}
        known = {name: value.metadata[DECLARATION] for name, value in fields.items() if DECLARATION in value.metadata}
        lines = [f"    {name}: {one.help}{f' ({one.allowed})' if one.allowed else ''}." for name, one in known.items()]
        if lines:
            cls.__doc__ = "\n".join([inspect.cleandoc(cls.__doc__ or ""), "", "Args:", *lines])

    def __post_init__(self) -> None:
        for name, declaration in declarations(type(self)).items():
            value = declaration.converted(getattr(self, name))
            object.__setattr__(self, name, value)
            declaration.check(name, value)
        self.check()

    def check(self) -> None:
        """Raise InputError for values that are allowed each alone, but not together."""

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Build from a plain mapping, as read from YAML.

        Raises:
            InputError: for an unknown or a missing field, and for a value that is not allowed.
        """
        declared = dataclasses.fields(cls)
        check_fields(cls.__name__, fields, (each.name for each in declared))
        needed = [each.name for each in declared if each.default is MISSING and each.default_factory is MISSING]
        if missing := [name for name in needed if name not in fields]:
            raise InputError(f"{cls.__name__} lacks {', '.join(missing)}; allowed: a mapping with {', '.join(needed)}")
        known = declarations(cls)
        texts = {name: text for name, text in fields.items() if isinstance(text, str) and name in known}
        return cls(**{**fields, **{name: known[name].former.get(text, text) for name, text in texts.items()}})

    @classmethod
    def from_file(cls, path: Path | str) -> Self:
        """Read a YAML file.

        Raises:
            InputError: for a file that cannot be read or holds no mapping, and for values that are not allowed.
        """
        return cls.from_dict(files.read_mapping(path, f"holds no mapping; allowed: fields of {cls.__name__}"))

    def to_dict(self) -> dict[str, Any]:
        """Plain mapping that from_dict() and YAML take back."""
        return dict(plain(dataclasses.asdict(self)))

    def shared(self, config: type[Config]) -> dict[str, Any]:
        """The values of the fields that another configuration declares too, by name."""
        names = declarations(config)
        return {name: value for name, value in vars(self).items() if name in names}

    def changed(self, **fields: Any) -> Self:
        """The configuration with some fields changed.

        Raises:
            InputError: for an unknown field, and for a value that is not allowed.
        """
        check_fields(type(self).__name__, fields, (each.name for each in dataclasses.fields(self)))
        return dataclasses.replace(self, **fields)


def plain(value: Any) -> Any:
    """The value as YAML and JSON know it: mappings, lists, and numbers of Python instead of NumPy's."""
    if isinstance(value, Mapping):
        return {name: plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    return int(value) if isinstance(value, numbers.Integral) else float(value)


def _read(kind: Callable[[str], Any], text: str, expected: str) -> Any:
    try:
        return kind(text)
    except (ValueError, KeyError):
        raise ValueError(f"{text!r}; allowed: {expected}") from None
