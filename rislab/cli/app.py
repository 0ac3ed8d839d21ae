"""`rislab app`: a notebook's live panel as a page without code."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from rislab.cli import common
from rislab.errors import require

EXAMPLES = (("app music", "knobs and maps, without code"),)


def add(parser: argparse.ArgumentParser) -> None:
    """Give the parser its options."""
    parser.description = "Serve a notebook as a page without code, by Voilà (pip install 'rislab[app]')."
    parser.add_argument("name", metavar="NAME", help="of a notebook without its number: music, overfit, …")
    common.add_address(parser, 8866)


def run(options: argparse.Namespace) -> int:
    """The command itself; returns its exit code."""
    require("app", "app", "voila")

    from rislab.reports import servers

    with tempfile.TemporaryDirectory() as scratch:
        server = servers.app_command(
            options.name, Path(scratch), address=options.ip, port=options.port, browser=not options.no_browser
        )
        print(server.address, flush=True)
        return servers.run_server(server)
