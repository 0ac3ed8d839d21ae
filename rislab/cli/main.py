"""The `rislab` command.

Exit code 0: fine; 1: something measured is wrong; 2: the input cannot be used; 130: interrupted.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import textwrap
from collections.abc import Sequence
from importlib import import_module

from rislab.cli import terminal
from rislab.cli.parser import CommandParser
from rislab.errors import InputError, did_you_mean

# Each command is the module of its name, imported when it is given: its options may need torch.
SECTIONS = {
    "is a training loop right?": {
        "checkup": "run a training script, watched, and name what is wrong with its loop",
        "explain": "a rule of the checkup: what it compares, why, and how to mend or silence what it finds",
        "faults": "the catalogue of faults, each an edit of the real loop",
        "overfit": "run the overfit ladder on simulated RIS scenes",
    },
    "where are the sources?": {
        "localise": "estimators side by side: recall, errors, ratio to the bound; or a measurement of your own",
        "train": "train a network on fresh scenes",
        "tune": "search hyper-parameters, after the overfit ladder, on one machine or many",
    },
    "notebooks": {
        "lab": "open JupyterLab on the notebooks, or on a working copy",
        "report": "run a notebook and write a self-contained HTML report",
        "sweep": "reports of one notebook over a grid of parameters, compared on one page",
        "app": "serve a notebook as a page without code",
        "grade": "grade the exercises of a class: CSV, and JSON for Gradescope",
    },
    "this program": {
        "info": "versions, devices, threads, and whether widgets can render",
        "completion": "completion of commands and options for bash, zsh or fish",
    },
}
COMMANDS = {name: help for commands in SECTIONS.values() for name, help in commands.items()}
GRAMMAR = (
    "In every command: -p KEY VALUE sets a parameter, --config FILE reads a file of them, --run FOLDER is a run that "
    "can be resumed, --out is where results go, and --json prints for programs. rislab COMMAND --help shows all "
    "options, with examples."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    # A script under `rislab checkup` prints as it would without.
    terminal.allow_any_letter(*(() if given[:1] == ["checkup"] else (sys.stdout,)), sys.stderr)
    try:
        code = _run(given)
        # Flushed here: at the exit of the interpreter an error could not be caught.
        if sys.stdout is not None and not sys.stdout.closed:
            sys.stdout.flush()
        return code
    except InputError as error:
        print(f"rislab: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        print(f"rislab: {str(interrupt) or 'interrupted'}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        _print_nowhere()
        return 128 + signal.SIGPIPE  # as of a process that the signal ended: 1 would be a fault that was found
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        _print_nowhere()
        place = "the output" if error.filename is None else error.filename
        print(f"rislab: {place} could not be written: {error.strerror}", file=sys.stderr)
        return 2


def _print_nowhere() -> None:
    """The rest of the buffer of the standard output is written at exit, and must not raise again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(given: list[str]) -> int:
    name = given[0] if given else ""
    if name in ("", "-h", "--help", "help"):
        print(commands_page())
        return 0
    if name == "--version":
        from rislab.provenance import versions

        print(", ".join(f"{name} {version}" for name, version in sorted(versions(("rislab", "torch")).items())))
        return 0
    if name not in COMMANDS:
        kind = "option" if name.startswith("-") else "command"
        allowed = ["--help", "--version"] if kind == "option" else [*COMMANDS]
        raise InputError(f"rislab has no {kind} {name}{did_you_mean(name, allowed)}")
    try:
        os.getcwd()
    except FileNotFoundError:
        raise InputError("the current folder is there no more; allowed: cd to one that is") from None
    # What stands after -- belongs to the script of `rislab checkup`.
    own = given[: given.index("--")] if name == "checkup" and "--" in given else given
    module = import_module(f"rislab.cli.{name}")
    options = parser_of(name).parse_args(own[1:])
    options.arguments = given[len(own) + 1 :]
    return int(module.run(options))


def parser_of(name: str) -> CommandParser:
    """The parser of a command."""
    module = import_module(f"rislab.cli.{name}")
    parser = CommandParser(name, module.EXAMPLES, description=f"{COMMANDS[name][:1].upper()}{COMMANDS[name][1:]}.")
    module.add(parser)
    return parser


def commands_page() -> str:
    """The help of `rislab` itself: all commands in their sections."""
    width = terminal.width()
    lines = ["usage: rislab COMMAND [options]", ""]
    lines += textwrap.wrap("An interactive lab for one question: is this training loop telling the truth?", width)
    for section, commands in SECTIONS.items():
        lines += ["", terminal.painted(section, terminal.STRONG)]
        for name, help in commands.items():
            lines += textwrap.wrap(
                help, width, initial_indent=f"  {name:<12}", subsequent_indent=" " * 14, break_on_hyphens=False
            )
    lines += ["", *textwrap.wrap(GRAMMAR, width, break_on_hyphens=False)]
    lines += ["", terminal.painted("examples:", terminal.STRONG)]
    lines += [f"  rislab {words}" for words in ("checkup train.py", "overfit", "localise --data mine.npz", "--version")]
    return "\n".join(lines)
