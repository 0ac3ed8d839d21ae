"""`rislab grade`: the exercises of a class as a table, and as files for Gradescope."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rislab.cli import common
from rislab.errors import require

EXAMPLES = (
    ("grade hand-ins --out grades", "a notebook or a folder for each student; grades.csv and gradescope/"),
    ("grade hand-ins --notebooks overfit music", "if the class was given these two alone"),
    ("grade hand-ins --out grades --run", "code too, each function in a sandbox"),
)


def add(parser: argparse.ArgumentParser) -> None:
    """Give the parser its options."""
    parser.description = (
        "Grade the exercises in the notebooks of a class: points for each exercise, and what is missing, as CSV. "
        "Answers are read; no code of the notebooks is run unless --run asks for it."
    )
    parser.add_argument("folder", metavar="FOLDER", help="one folder or one notebook for each student")
    common.add_out(parser, "write grades.csv and gradescope/STUDENT.json there")
    parser.add_argument(
        "--notebooks", nargs="+", metavar="NAME", help="that the class was given; exercises of others do not count"
    )
    parser.add_argument(
        "--run",
        action="store_true",
        help="judge code as well: each function in a process of its own, with limits of time, memory and network",
    )
    parser.add_argument(
        "--seconds", type=common.to_number, metavar="X", help="of the processor for a function, with --run (default 10)"
    )
    common.add_integer(parser, "--quiz-seed", "of the quiz (default 1)")


def run(options: argparse.Namespace) -> int:
    """The command itself; returns its exit code."""
    require("grade", "lab", "nbformat")

    from rislab.errors import InputError, check_number
    from rislab.faults.quiz import SEED
    from rislab.reports import grading
    from rislab.reports.sandbox import SECONDS

    if options.seconds is not None and not options.run:
        raise InputError("--seconds belongs to code that is run; allowed: with --run")
    if options.out and Path(options.out).resolve().is_relative_to(Path(options.folder).resolve()):
        raise InputError(
            f"out is {options.out}; allowed: a folder outside of {options.folder}, which holds the hand-ins"
        )
    seconds = SECONDS if options.seconds is None else options.seconds
    check_number("seconds", seconds, 1, 3600)
    # Toy models are run to measure the right answers.
    common.use_threads(1)
    seed = SEED if options.quiz_seed is None else options.quiz_seed
    given = options.notebooks or grading.NOTEBOOKS
    grades, notes = grading.grade(options.folder, run=options.run, quiz_seed=seed, seconds=seconds, given=given)
    if options.out:
        grading.write(grades, Path(options.out))
        print(f"{options.out}: {len(grades)} students, grades.csv and gradescope/")
    else:
        print(grading.as_csv(grades), end="")
    for note in notes:
        print(note, file=sys.stderr)
    return 0
