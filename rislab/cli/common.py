"""What the commands share: options from declarations, output for people and programs, missing packages."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

from rislab.config import Config, Declaration, declarations
from rislab.errors import InputError, check_number, did_you_mean

C = TypeVar("C", bound=Config)
THREADS = 1


def option_type(declaration: Declaration) -> Callable[[str], Any]:
    """A type of argparse, which shows the text of one kind of error only, for the values that are declared."""

    def read_option(text: str) -> Any:
        try:
            return declaration.read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read_option


to_integer, to_number = option_type(Declaration("integer", "")), option_type(Declaration("number", ""))


def add_integer(parser: argparse.ArgumentParser, flag: str, help: str, default: int | None = None) -> None:
    """Add an option that takes an integer; `%(default)s` in the help is its default."""
    parser.add_argument(flag, type=to_integer, metavar="N", default=default, help=help)


def add_parameters(
    parser: argparse.ArgumentParser,
    config: type[Config],
    names: Collection[str] = (),
    *,
    defaults: Config | None = None,
    group: argparse._ActionsContainer | None = None,
) -> None:
    """The options --config FILE, -p KEY VALUE, and one for each field; configured() makes the configuration of them.

    See add_fields(); the options of fields stand in a group of the parser, if one is given.
    """
    add_config_file(parser)
    add_fields(group or parser, config, names, optional=True, defaults=defaults)
    add_parameter(parser, config, names)


def add_parameter(
    parser: argparse.ArgumentParser,
    config: type[Config],
    names: Collection[str] = (),
    *,
    others: str = "",
    help: str = "set a parameter: -p some_name 4 is --some-name 4",
) -> None:
    """The option -p KEY VALUE for fields of a configuration, see add_fields().

    Pairs of other names go to the list `others` of the options; "" refuses them.
    """
    fields = {name: one for name, one in declarations(config).items() if not names or name in names}
    parser.add_argument(
        "-p", nargs=2, action=_Parameter, dest=others or "parameters", fields=fields, others=others,
        default=[] if others else argparse.SUPPRESS, metavar=("KEY", "VALUE"), help=help,
    )  # fmt: skip


def add_config_file(parser: argparse.ArgumentParser) -> None:
    """The option --config."""
    parser.add_argument("--config", metavar="FILE", help="YAML file of parameters; options override it")


class _Parameter(argparse.Action):
    """-p KEY VALUE: what the option of the field would do; other names are refused, or go to the list `others`."""

    def __init__(self, *words: Any, fields: Mapping[str, Declaration], others: str = "", **options: Any) -> None:
        super().__init__(*words, **options)
        self.fields, self.others = fields, others
        self.values = tuple(fields)  # for completion

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, flag: str | None = None
    ) -> None:
        name, text = values
        if name in self.fields:
            try:
                setattr(namespace, name, self.fields[name].read(text))
            except ValueError as error:
                raise argparse.ArgumentError(self, f"{name} is {error}") from None
        elif self.others:
            setattr(namespace, self.others, [*getattr(namespace, self.others), (name, text)])
        else:
            raise InputError(f"{name} is no parameter of {parser.prog}{did_you_mean(name, self.fields)}")


def configured(options: argparse.Namespace, config: type[C], names: Collection[str] = (), base: C | None = None) -> C:
    """The configuration of add_parameters(): the file of --config, or `base`, with what else was given."""
    start = config.from_file(options.config) if options.config else base or config()
    return start.changed(**fields_given(options, config, names))


def add_notebook_parameters(parser: argparse.ArgumentParser) -> None:
    """The options --config FILE and -p KEY VALUE, for the parameters of a notebook; see notebook_values()."""
    add_config_file(parser)
    parser.add_argument(
        "-p", dest="parameters", nargs=2, action="append", default=[], metavar=("KEY", "VALUE"),
        help="set a parameter of the notebook; rislab report --list shows them",
    )  # fmt: skip


def notebook_values(options: argparse.Namespace, path: Path) -> dict[str, object]:
    """Values of a notebook's parameters: those of --config, and over them those of -p."""
    from rislab.reports import notebooks

    values = notebooks.read_values(path, Path(options.config)) if options.config else {}
    return values | notebooks.parse_values(path, dict(options.parameters))


def add_run(parser: argparse.ArgumentParser, default: str | None, help: str) -> None:
    """The option --run: a folder that can be resumed.

    `--folder` is for `torchrun -m rislab.cli …`, which takes --run for an option of its own.
    """
    shown = "" if default is None else " (default %(default)s)"
    parser.add_argument("--run", dest="folder", metavar="FOLDER", default=default, help=f"{help}{shown}")
    parser.add_argument("--folder", default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def add_out(parser: argparse.ArgumentParser, help: str, *, default: str | None = None) -> None:
    """The option --out: where results go."""
    shown = "" if default is None else " (default %(default)s)"
    parser.add_argument("-o", "--out", metavar="FOLDER", default=default, help=f"{help}{shown}")


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
        action = parser.add_argument(
            flag,
            dest=name,
            type=option_type(declaration),
            default=default,
            metavar=declaration.metavar or {"integer": "N", "number": "X"}.get(declaration.kind),
            help=f"{declaration.help}{f' ({limits})' if limits else ''}".replace("%", "%%"),
        )
        action.values = declaration.choices  # type: ignore[attr-defined]  # for completion


def fields_given(options: argparse.Namespace, config: type[Config], names: Collection[str] = ()) -> dict[str, Any]:
    """The fields whose options add_fields() made, by name; optional ones only if they were given."""
    known = names or [each.name for each in dataclasses.fields(config)]
    return {name: getattr(options, name) for name in known if hasattr(options, name)}


def add_threads(parser: argparse.ArgumentParser) -> None:
    """The option --threads; one is enough for small networks, and leaves a result that is the same anywhere."""
    add_integer(parser, "--threads", "intra-op threads of torch (default %(default)s)", THREADS)


def add_address(parser: argparse.ArgumentParser, port: int) -> None:
    """Options of a server: where it listens, and whether it opens a browser."""
    parser.add_argument("--ip", default="127.0.0.1", help="address to listen on (default %(default)s)")
    add_integer(parser, "--port", "default %(default)s", port)
    parser.add_argument("--no-browser", action="store_true", help="print the address and open nothing")


def use_threads(count: int) -> None:
    """Give torch this many intra-op threads."""
    check_number("threads", count, 1, 1024, integer=True)
    import torch

    torch.set_num_threads(count)


def printer(silent: bool) -> Callable[..., None]:
    """print() that shows each line at once, or nothing if output is JSON."""
    return (lambda *lines: None) if silent else (lambda *lines: print(*lines, flush=True))


def origin() -> str:
    """Versions, commit and machine in one line."""
    from rislab import provenance

    versions = provenance.versions(("rislab", "torch"))
    return f"rislab {versions['rislab']} ({provenance.commit()}), torch {versions['torch']}, {provenance.processor()}"


def print_json(content: dict[str, Any]) -> None:
    """Print what a command measured as JSON, with versions, commit and machine."""
    from rislab import provenance

    where = {"versions": provenance.versions(), "commit": provenance.commit(), "machine": provenance.processor()}
    print(json.dumps(strict_json(content | where), indent=2))


def strict_json(value: Any) -> Any:
    """The value with NaN and infinity as the strings "nan" and "inf", which any JSON reader takes."""
    if isinstance(value, dict):
        return {name: strict_json(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [strict_json(part) for part in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
