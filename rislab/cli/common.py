"""What the commands share: options from declarations, output for people and programs, missing packages."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import math
import os
import sys
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from rislab.errors import InputError, check_number

if TYPE_CHECKING:
    from rislab.config import Config


def to_integer(text: str) -> int:
    """An integer, as a type of argparse."""
    return _read(int, text, "a whole number")


def to_number(text: str) -> float:
    """A number, as a type of argparse."""
    return _read(float, text, "a number")


def _read(kind: Callable[[str], Any], text: str, expected: str) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}; allowed: {expected}") from None


def add_fields(
    parser: argparse._ActionsContainer,
    config: type[Config],
    names: Collection[str] = (),
    *,
    optional: bool = False,
    defaults: Config | None = None,
) -> None:
    """Options for fields of a configuration: `--accumulation-steps` sets `accumulation_steps`.

    Type, help, allowed values and default come from the declaration of the field. A switch is an option without a
    value, which turns it on.

    Args:
        parser: of the command.
        config: that declares the fields.
        names: of the fields; all of them if there are none.
        optional: an option that is not given leaves no trace, so that it overrides nothing.
        defaults: configuration that holds the defaults; those of the fields if None.
    """
    from rislab.config import declarations

    usual = {each.name: each.default for each in dataclasses.fields(config)}
    usual |= vars(defaults) if defaults is not None else {}
    for name, declaration in declarations(config).items():
        if names and name not in names:
            continue
        flag, default = f"--{name.replace('_', '-')}", argparse.SUPPRESS if optional else usual[name]
        if declaration.kind == "switch":
            parser.add_argument(flag, dest=name, action="store_true", default=default, help=declaration.help)
            continue
        shown = "" if usual[name] is None else f"default {usual[name]}"
        limits = "; ".join(part for part in (declaration.allowed, shown) if part)
        parser.add_argument(
            flag,
            dest=name,
            type=_reader(declaration.read),
            default=default,
            metavar=declaration.metavar or {"integer": "N", "number": "X"}.get(declaration.kind),
            help=f"{declaration.help}{f' ({limits})' if limits else ''}".replace("%", "%%"),
        )


def _reader(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """A type of argparse, which shows the text of one kind of error only."""

    def read_option(text: str) -> Any:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read_option


def fields_given(options: argparse.Namespace, config: type[Config], names: Collection[str] = ()) -> dict[str, Any]:
    """The fields whose options add_fields() made, by name; optional ones only if they were given."""
    known = names or [each.name for each in dataclasses.fields(config)]
    return {name: getattr(options, name) for name in known if hasattr(options, name)}


def add_threads(parser: argparse.ArgumentParser, default: int) -> None:
    """The option --threads."""
    parser.add_argument(
        "--threads",
        type=to_integer,
        metavar="N",
        default=default,
        help="intra-op threads of torch (default %(default)s)",
    )


def add_address(parser: argparse.ArgumentParser, port: int) -> None:
    """Options of a server: where it listens, and whether it opens a browser."""
    parser.add_argument("--ip", default="127.0.0.1", help="address to listen on (default %(default)s)")
    parser.add_argument("--port", type=to_integer, metavar="N", default=port, help="default %(default)s")
    parser.add_argument("--no-browser", action="store_true", help="print the address and open nothing")


def use_threads(count: int) -> None:
    """Give torch this many intra-op threads."""
    check_number("threads", count, 1, 1024, integer=True)
    import torch

    torch.set_num_threads(count)


def require(command: str, extra: str, *packages: str) -> None:
    """Raise InputError, which says what to install, if a package of an extra is missing.

    Args:
        command: that needs it.
        extra: of rislab that brings it.
        packages: names to import.
    """
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise InputError(
                f"{command} needs {package}, which is not installed; install it with pip install 'rislab[{extra}]'"
            )


def has_colours() -> bool:
    """Whether the standard output is a terminal that shows colours; NO_COLOR and FORCE_COLOR decide if they are set."""
    if os.environ.get("NO_COLOR"):
        return False
    terminal = not sys.stdout.closed and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    return bool(os.environ.get("FORCE_COLOR")) or terminal


def printer(silent: bool) -> Callable[..., None]:
    """print() that shows each line at once, or nothing if output is JSON."""
    return (lambda *lines: None) if silent else (lambda *lines: print(*lines, flush=True))


def origin() -> str:
    """Versions, commit and machine in one line."""
    from rislab import provenance

    versions = provenance.versions(("rislab", "torch"))
    return f"rislab {versions['rislab']} ({provenance.commit()}), torch {versions['torch']}, {provenance.processor()}"


def measured_on() -> dict[str, Any]:
    """Versions, commit and machine for JSON."""
    from rislab import provenance

    return {"versions": provenance.versions(), "commit": provenance.commit(), "machine": provenance.processor()}


def strict_json(value: Any) -> Any:
    """The value with NaN and infinity as the strings "nan" and "inf", which any JSON reader takes."""
    if isinstance(value, dict):
        return {name: strict_json(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [strict_json(part) for part in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
