"""`rislab grade`: the exercises of a class as a table."""

from __future__ import annotations

import argparse
from pathlib import Path

from rislab.cli import common

EXAMPLES = (("grade hand-ins --out grades.csv", "a notebook or a folder for each student"),)


def add(parser: argparse.ArgumentParser) -> None:
    """Give the parser its options."""
    parser.description = (
        "Grade the exercises in the notebooks of a class and print a table as CSV. Answers are read; no code of the "
        "notebooks is run."
    )
    parser.add_argument("folder", metavar="FOLDER", help="one folder or one notebook for each student")
    common.add_out(parser, "write the table to a file instead", metavar="CSV")


def run(options: argparse.Namespace) -> int:
    """The command itself; returns its exit code."""
    common.require("grade", "lab", "nbformat")

    from rislab import files
    from rislab.reports import grading

    # Toy models are run to measure the right answers.
    common.use_threads(1)
    grades = grading.grade(options.folder)
    table = grading.as_csv(grades)
    if options.out:
        files.replace(Path(options.out), table.encode())
        print(f"{options.out}: {len(grades)} students")
    else:
        print(table, end="")
    return 0
