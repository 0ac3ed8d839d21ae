"""`rislab sweep`: a grid of reports of one notebook in parallel processes, and one page that compares them."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from rislab.cli import common
from rislab.errors import check_number, require

EXAMPLES = (
    ("sweep overfit --grid accumulation_steps=1,2,4", "three reports, and a page that compares them"),
    ("sweep music --grid snr_db=0,10,20 -p sources 3", "with a parameter that all have"),
)


def add(parser: argparse.ArgumentParser) -> None:
    """Give the parser its options."""
    parser.description = (
        "Run a notebook for every combination of a grid, each report in a process of its own, and write one page that "
        "compares them. Reports that are there already are reused: the same command goes on. Exit code 1 if one fails."
    )
    parser.add_argument("name", metavar="NAME", help="of a notebook without its number, or of a named set")
    parser.add_argument("--grid", nargs="+", required=True, metavar="NAME=A,B", help="accumulation_steps=1,2,4 …")
    common.add_notebook_parameters(parser)
    common.add_out(parser, "of the reports and the page (default reports/out/sweep-NAME)")
    common.add_integer(parser, "--figure", "which of each report is compared (default: that of the set, or 1)")
    common.add_integer(parser, "--workers", "processes (default: one a core)")


def run(options: argparse.Namespace) -> int:
    """The command itself; returns its exit code."""
    require("sweep", "lab", "papermill", "nbconvert", "plotly", "latex2mathml")

    from rislab.reports import gallery, sweep, sweep_page

    chosen = gallery.find_set(options.name)
    axes = sweep.parse_grid(chosen, options.grid)
    base = common.notebook_values(options, chosen.path)
    figure = chosen.figure if options.figure is None else options.figure
    check_number("figure", figure, 1, 1000, integer=True)
    cells = sweep.sweep_cells(chosen, axes, base)
    out = Path(options.out or f"reports/out/sweep-{chosen.name}")
    began = time.perf_counter()
    outcomes: dict[str, Any] = {}

    def write_sweep_page() -> Path:
        seconds = time.perf_counter() - began
        return sweep_page.write_sweep_page(chosen, axes, cells, outcomes, out, figure=figure, seconds=seconds)

    write_sweep_page()
    for outcome in sweep.run_sweep(chosen, cells, out, workers=options.workers):
        outcomes[outcome.name] = outcome
        page = write_sweep_page()
        print(_line(outcome, len(outcomes), len(cells)), file=sys.stderr, flush=True)
    failed = [outcome for outcome in outcomes.values() if outcome.verdict != "passed"]
    print(f"{page}  ({len(cells) - len(failed)} of {len(cells)} reports passed)")
    for outcome in failed:
        print(f"rislab: {outcome.name}: {outcome.error}", file=sys.stderr)
    return 1 if failed else 0


def _line(outcome: Any, done: int, count: int) -> str:
    how = "reused" if outcome.reused else f"in {outcome.seconds:.0f} s"
    return f"[{done}/{count}] {outcome.name} {outcome.verdict} {how}"
