"""`rislab checkup`: run a training script as it stands, watch it, and say what is wrong with it."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import sys
from typing import Any

from rislab.cli import common
from rislab.errors import check_choice, check_number


def add(parser: argparse.ArgumentParser) -> None:
    """Give the parser its options."""
    parser.description = (
        "Run a training script, unmodified, with every optimiser watched, and print what is wrong with its loop. "
        "Exit code 0: clean; 1: faults; 2: the script could not be run, or trained nothing."
    )
    parser.usage = "rislab checkup [options] SCRIPT [-- arguments of the script]"
    parser.add_argument("script", metavar="SCRIPT", help="Python file")
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

    from rislab.checkup.script import ScriptRun, run_script
    from rislab.checkup.windows import Declared

    declared = Declared(options.accumulation_steps, options.mean or "", options.clip_norm)
    with contextlib.redirect_stdout(sys.stderr) if options.json else contextlib.nullcontext():
        result: ScriptRun = run_script(
            options.script, options.arguments, steps=options.steps, every=options.every, declared=declared
        )
    if options.json:
        plain: dict[str, Any] = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
        plain |= {"findings": [dataclasses.asdict(finding) | {"docs": finding.docs} for finding in result.findings]}
        print(json.dumps(plain | {"faults": len(result.findings.faults), "exit_code": result.exit_code()}, indent=2))
        return result.exit_code()
    sys.stdout.flush()
    optimisers = ", ".join(result.optimisers) or "nothing"
    print(f"\n{result.script} {result.ended} after {result.steps} steps; watched: {optimisers}")
    if result.trained:
        print(result.findings)
    else:
        print("no backward and no step was seen: there is nothing to judge")
    return result.exit_code()
