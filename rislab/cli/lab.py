"""`rislab lab`: JupyterLab on the notebooks."""

from __future__ import annotations

import argparse
from pathlib import Path

from rislab.cli import common
from rislab.errors import InputError

EXAMPLES = (
    ("lab", "opens a browser, or prints the address with its token"),
    ("lab --classroom --prepare", "a working copy for students"),
)


def add(parser: argparse.ArgumentParser) -> None:
    """Give the parser its options."""
    parser.description = (
        "Open JupyterLab on the notebooks: on 127.0.0.1 and with a token, whatever a configuration of your own says."
    )
    parser.add_argument("--classroom", action="store_true", help="on a working copy, so that the originals stay clean")
    common.add_run(parser, None, "of the working copy, in which work goes on (default classroom)")
    common.add_address(parser, 8888)
    parser.add_argument("--prepare", action="store_true", help="make the working copy, and start nothing")


def run(options: argparse.Namespace) -> int:
    """The command itself; returns its exit code."""
    common.require("lab", "lab", "jupyterlab")

    from rislab.reports import notebooks, servers

    if (options.folder or options.prepare) and not options.classroom:
        raise InputError("--folder and --prepare belong to a working copy; allowed: with --classroom")
    folder = next(iter(notebooks.available().values())).parent.parent
    if options.classroom:
        folder = Path(options.folder or "classroom")
        copied, present = servers.working_copy(folder)
        print(f"{folder}: {len(copied)} files copied, {len(present)} there already and left as they are", flush=True)
        if options.prepare:
            return 0
    return servers.exec_server(
        servers.lab_command(folder, address=options.ip, port=options.port, browser=not options.no_browser)
    )
