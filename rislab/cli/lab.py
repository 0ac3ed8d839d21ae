"""`rislab lab`: JupyterLab on the notebooks."""

from __future__ import annotations

import argparse
from pathlib import Path

from rislab.cli import common
from rislab.errors import InputError, require

EXAMPLES = (
    ("lab", "on a working copy; prints the address with its token, where no browser opens"),
    ("lab --classroom --prepare", "copies for students, without answers"),
    ("lab --teacher --prepare", "solutions, key and lesson plan"),
)


def add(parser: argparse.ArgumentParser) -> None:
    """Give the parser its options."""
    parser.description = (
        "Open JupyterLab on a working copy of the notebooks: on 127.0.0.1 and with a token, whatever a configuration "
        "of your own says."
    )
    edition = parser.add_mutually_exclusive_group()
    edition.add_argument(
        "--classroom", action="store_true", help="on students' copies: without answers, and the originals stay clean"
    )
    edition.add_argument(
        "--teacher", action="store_true", help="on the teacher's edition: solutions, key.md and lesson_plan.md"
    )
    edition.add_argument(
        "--originals", action="store_true", help="on the notebooks themselves, for those who write them"
    )
    common.add_run(parser, None, "of the copies, in which work goes on (default work, classroom or teacher)")
    common.add_address(parser, 8888)
    parser.add_argument("--prepare", action="store_true", help="make the copies, and start nothing")
    common.add_integer(parser, "--quiz-seed", "of the quiz in the copies (default 1)")


def run(options: argparse.Namespace) -> int:
    """The command itself; returns its exit code."""
    require("lab", "lab", "jupyterlab")

    from rislab.reports import notebooks, servers

    if (options.prepare or options.quiz_seed is not None) and not (options.classroom or options.teacher):
        raise InputError("--prepare and --quiz-seed belong to a class; allowed: with --classroom or --teacher")
    edition = "classroom" if options.classroom else "teacher" if options.teacher else "work"
    folder = Path(options.folder or edition)
    if options.originals:
        folder = next(iter(notebooks.available().values())).parent.parent
    server = servers.lab_command(folder, address=options.ip, port=options.port, browser=not options.no_browser)
    if not options.originals:
        print(_prepare(folder, options), flush=True)
    if options.prepare:
        return 0
    print(servers.way_in(server), flush=True)
    return servers.exec_server(server)


def _prepare(folder: Path, options: argparse.Namespace) -> str:
    """Make the copies; returns what was done, in a sentence."""
    from functools import partial

    from rislab.faults.quiz import SEED, questions
    from rislab.reports import classroom, servers

    if not (options.classroom or options.teacher):
        copied, present = servers.working_copy(folder)
        return f"working copy {folder}: {len(copied)} files copied, {len(present)} there already and left as they are"
    seed = SEED if options.quiz_seed is None else options.quiz_seed
    questions(seed)
    if options.classroom:
        copied, present = servers.working_copy(folder, partial(classroom.student_notebook, quiz_seed=seed))
        return f"{folder}: {len(copied)} files copied, {len(present)} there already and left as they are"
    common.use_threads(1)
    written, present = classroom.write_teachers_edition(folder, quiz_seed=seed)
    others = f"; {len(present)} were there already and left as they are" if present else ""
    solved = sum(name.endswith(".ipynb") for name in written)  # what they read and show is copied beside them
    return f"{folder}: key.md, lesson_plan.md and {solved} notebooks with solutions{others}"
