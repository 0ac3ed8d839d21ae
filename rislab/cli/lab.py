"""`rislab lab`, `rislab app` and `rislab grade`: the lab for a class."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

from rislab.errors import InputError


def add_lab(parser: argparse.ArgumentParser, whole: Callable[[str], int]) -> None:
    """Give `rislab lab` its options; `whole` reads whole numbers."""
    parser.description = (
        "Open JupyterLab on the notebooks: on 127.0.0.1 and with a token, whatever a configuration of your own says."
    )
    parser.add_argument("--classroom", action="store_true", help="on a working copy, so that the originals stay clean")
    parser.add_argument("--folder", metavar="FOLDER", help="of the working copy (default: classroom)")
    _add_address(parser, whole, 8888)
    parser.add_argument("--prepare", action="store_true", help="make the working copy, and start nothing")
    parser.set_defaults(run=run_lab)


def add_app(parser: argparse.ArgumentParser, whole: Callable[[str], int]) -> None:
    """Give `rislab app` its options; `whole` reads whole numbers."""
    parser.description = "Serve a notebook as a page without code, by Voilà (pip install 'rislab[app]')."
    parser.add_argument("name", help="of a notebook without its number: music, overfit, …")
    _add_address(parser, whole, 8866)
    parser.set_defaults(run=run_app)


def add_grade(parser: argparse.ArgumentParser) -> None:
    """Give `rislab grade` its options."""
    parser.description = (
        "Grade the exercises in the notebooks of a class and print a table as CSV. Answers are read; no code of the "
        "notebooks is run."
    )
    parser.add_argument("folder", help="one folder or one notebook for each student")
    parser.add_argument("-o", "--out", metavar="CSV", help="write the table to a file instead")
    parser.set_defaults(run=run_grade)


def _add_address(parser: argparse.ArgumentParser, whole: Callable[[str], int], port: int) -> None:
    parser.add_argument("--ip", default="127.0.0.1", help="address to listen on (default %(default)s)")
    parser.add_argument("--port", type=whole, default=port, help="default %(default)s")
    parser.add_argument("--no-browser", action="store_true", help="print the address and open nothing")


def run_lab(options: argparse.Namespace) -> int:
    """`rislab lab`; returns its exit code."""
    from rislab.reports import notebooks, servers

    if (options.folder or options.prepare) and not options.classroom:
        raise InputError("--folder and --prepare belong to a working copy; allowed: with --classroom")
    folder = next(iter(notebooks.available().values())).parent.parent
    if options.classroom:
        folder = Path(options.folder or "classroom")
        copied, kept = servers.working_copy(folder)
        print(f"{folder}: {len(copied)} files copied, {len(kept)} there already and left as they are", flush=True)
        if options.prepare:
            return 0
    return servers.start(servers.lab(folder, address=options.ip, port=options.port, browser=not options.no_browser))


def run_app(options: argparse.Namespace) -> int:
    """`rislab app`; returns its exit code."""
    from rislab.reports import servers

    with tempfile.TemporaryDirectory() as scratch:
        server = servers.app(
            options.name, Path(scratch), address=options.ip, port=options.port, browser=not options.no_browser
        )
        print(f"http://{options.ip}:{options.port}/", flush=True)
        return servers.run(server)


def run_grade(options: argparse.Namespace) -> int:
    """`rislab grade`; returns its exit code."""
    import torch

    from rislab import files
    from rislab.reports import grading

    # The truth of an exercise is measured by runs of toy models.
    torch.set_num_threads(1)
    grades = grading.grade(options.folder)
    table = grading.as_csv(grades)
    if options.out:
        files.replace(Path(options.out), table.encode())
        print(f"{options.out}: {len(grades)} students")
    else:
        print(table, end="")
    return 0
