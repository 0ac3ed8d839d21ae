"""`rislab checkup`: run a training script as it stands, watch it, and say what is wrong with it.

Exit code 0: all that matters was judged and is clean; 1: faults; 2: the script could not be run, trained nothing, or
ended with an error; 3: something was not judged.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rislab import files
from rislab.cli import common
from rislab.errors import InputError, check_choice, check_number

if TYPE_CHECKING:
    from rislab.checkup.script import ScriptRun


def add(parser: argparse.ArgumentParser) -> None:
    """Give the parser its options."""
    parser.description = (
        "Run a training script, unmodified, with every optimiser watched, and print what is wrong with its loop. "
        "Processes that it starts by multiprocessing are watched too. "
        "Exit code 0: all that matters was judged and is clean; 1: faults; 2: the script could not be run (it was not "
        "found, trained nothing, or ended with an error or an exit code of its own), and no fault was seen before; "
        "3: something was not judged, and it is said which rule and why."
    )
    parser.usage = "rislab checkup [options] (SCRIPT | -m MODULE) [-- arguments of the script]"
    parser.add_argument("script", metavar="SCRIPT", nargs="?", help="Python file")
    parser.add_argument("-m", dest="module", metavar="MODULE", help="run a module, as python -m does")
    parser.add_argument(
        "--steps", type=common.to_integer, default=100, help="stop after so many steps (default %(default)s)"
    )
    parser.add_argument(
        "--every", type=common.to_integer, default=1, help="take the gradients of each n-th window only"
    )
    parser.add_argument(
        "--accumulation-steps", type=common.to_integer, metavar="K", help="declare K; else it is inferred"
    )
    parser.add_argument("--mean", help="declare it: samples or batches; else a smaller last batch is only warned of")
    parser.add_argument("--clip-norm", type=common.to_number, metavar="C", help="declare the largest gradient norm")
    parser.add_argument("--json", action="store_true", help="print JSON; what the script prints goes to stderr")
    parser.add_argument("--output", metavar="FILE", help="write the JSON to a file as well")
    parser.add_argument(
        "--allow-unjudged", action="store_true", help="exit code 0 instead of 3 where something was not judged"
    )


def run(options: argparse.Namespace) -> int:
    """The command itself; returns its exit code."""
    check_number("steps", options.steps, 1, 10**9, integer=True)
    check_number("every", options.every, 1, 10**6, integer=True)
    if options.accumulation_steps is not None:
        check_number("accumulation_steps", options.accumulation_steps, 1, 10**6, integer=True)
    if options.clip_norm is not None:
        check_number("clip_norm", options.clip_norm, 0, exclusive=True)
    if options.mean is not None:
        check_choice("mean", options.mean, ("samples", "batches"))
    if (options.script is None) == (options.module is None):
        given = "nothing" if options.script is None else f"{options.script!r} and -m {options.module!r}"
        raise InputError(f"SCRIPT is {given}; allowed: the path of a Python file, or -m and the name of a module")
    # As seen from here: the script may go elsewhere.
    output = None if options.output is None else Path(options.output).absolute()
    if output is not None:
        if output.is_dir():
            raise InputError(f"output is {options.output!r}, a folder; allowed: the path of a file")
        files.check_writable(output.parent)

    from rislab.checkup.script import run_script
    from rislab.checkup.windows import Declared

    with _stdout_apart() if options.json else contextlib.nullcontext():
        result = run_script(
            options.script if options.module is None else options.module,
            options.arguments,
            module=options.module is not None,
            steps=options.steps,
            every=options.every,
            declared=Declared(options.accumulation_steps, options.mean or "", options.clip_norm),
        )
    code = result.exit_code(allow_unjudged=options.allow_unjudged)
    report = json.dumps(common.strict_json(_plain(result, code)), indent=2)
    if output is not None:
        files.replace(output, f"{report}\n".encode())
    try:
        print(report if options.json else _text(result, code), flush=True)
    except BrokenPipeError:
        # Nobody reads any more; what is left in the buffer must go somewhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def _text(result: ScriptRun, code: int) -> str:
    """A run for people."""
    optimisers = ", ".join(result.optimisers) or "nothing"
    lines = [f"\n{result.script} {result.ended} after {result.steps} steps; watched: {optimisers}", *result.remarks]
    if not result.trained:
        return "\n".join([*lines, "no backward and no step was seen: there is nothing to judge"])
    lines += [str(result.findings)] if result.findings else []
    lines += [result.findings.verdict]
    if code == 3:
        rules = ", ".join(dict.fromkeys(finding.code for finding in result.findings.unjudged))
        lines += [f"exit code 3, as {rules} could not be judged; --allow-unjudged makes it 0"]
    return "\n".join(lines)


def _plain(result: ScriptRun, code: int) -> dict[str, Any]:
    """A run for programs."""
    plain: dict[str, Any] = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    plain["findings"] = [dataclasses.asdict(finding) | {"docs": finding.docs} for finding in result.findings]
    counts = {"faults": len(result.findings.faults), "unjudged": len(result.findings.unjudged)}
    return plain | counts | {"verdict": result.findings.verdict if result.trained else "", "exit_code": code}


@contextlib.contextmanager
def _stdout_apart() -> Iterator[None]:
    """What anybody writes to the standard output goes to stderr: Python, C code, and child processes."""
    sys.stdout.flush()
    try:
        stdout = os.dup(1)
    except OSError:  # closed
        stdout = None
    if stdout is not None:
        os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        if stdout is not None:
            os.dup2(stdout, 1)
            os.close(stdout)
            # Exit handlers of the script come later: the last that is registered is the first that is called.
            atexit.unregister(_stdout_to_stderr)
            atexit.register(_stdout_to_stderr)


def _stdout_to_stderr() -> None:
    with contextlib.suppress(OSError, ValueError):  # closed, or replaced by something without a number
        sys.stdout.flush()
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
