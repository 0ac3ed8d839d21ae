"""The `rislab` command.

Exit code 0: fine; 1: something measured is wrong; 2: the input cannot be used; 130: interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from rislab.errors import InputError

# Each command is the module of its name, imported when it is given: its options may need torch.
COMMANDS = {
    "overfit": "climb the overfit ladder on simulated RIS scenes",
    "report": "run a notebook and write a self-contained HTML report",
    "localise": "estimators side by side: recall, errors, ratio to the bound",
    "train": "train a network on fresh scenes",
    "tune": "search hyper-parameters, after the overfit ladder, on one machine or many",
    "sweep": "reports of one notebook over a grid of parameters, compared on one page",
    "lab": "open JupyterLab on the notebooks, or on a working copy",
    "app": "serve a notebook as a page without code",
    "grade": "grade the exercises of a class into a CSV",
    "faults": "the catalogue of faults, each an edit of the real loop",
    "checkup": "run a training script, watched, and name what is wrong with its loop",
    "explain": "a rule of the checkup: what it compares, why, and how to mend or silence what it finds",
    "info": "versions, devices, threads, and whether widgets can render",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    # What stands after -- belongs to the script of `rislab checkup`.
    own = given[: given.index("--")] if given[:1] == ["checkup"] and "--" in given else given
    parser = _parser(next((word for word in own if not word.startswith("-")), ""))
    options = parser.parse_args(own)
    options.arguments = given[len(own) + 1 :]
    if options.command is None:
        parser.print_help()
        return 0
    try:
        return int(options.run(options))
    except InputError as error:
        print(f"rislab: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        print(f"rislab: {str(interrupt) or 'interrupted'}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Nobody reads any more.
        sys.stderr.close()
        return 1


def _parser(chosen: str) -> argparse.ArgumentParser:
    """The parser, with the options of the chosen command only."""
    parser = argparse.ArgumentParser(
        prog="rislab", description="An interactive lab for one question: is this training loop telling the truth?"
    )
    commands = parser.add_subparsers(dest="command", title="commands", metavar="COMMAND")
    for name, help in COMMANDS.items():
        command = commands.add_parser(name, help=help)
        if name == chosen:
            module = import_module(f"rislab.cli.{name}")
            module.add(command)
            command.set_defaults(run=module.run)
    return parser
