"""`rislab report`: a notebook, a named set, or all of them, as HTML that opens offline."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rislab import provenance
from rislab.cli import common, terminal
from rislab.errors import InputError, require

if TYPE_CHECKING:
    from rislab.reports.gallery import NamedSet

EXAMPLES = (
    ("report --list", "notebooks, their parameters, and named sets"),
    ("report overfit -p accumulation_steps 8", "one page, which opens offline"),
    ("report music --config mine.yaml --out there", "parameters from a file"),
    ("report --all", "every named set, and the gallery"),
)


def add(parser: argparse.ArgumentParser) -> None:
    """Give the parser its options."""
    parser.description = (
        "Run a notebook without a browser and write reports/out/NAME.html, which opens offline. "
        "Exit code 1 if a cell fails."
    )
    parser.add_argument(
        "name", metavar="NAME", nargs="?", help="of a notebook without its number (overfit, …), or of a named set"
    )
    common.add_notebook_parameters(parser)
    common.add_out(parser, "of the report", default="reports/out")
    parser.add_argument("--all", action="store_true", help="run every named set and write the gallery, index.html")
    common.add_integer(parser, "--workers", "with --all: processes (default: one a core)")
    parser.add_argument("--list", action="store_true", help="list the notebooks with their parameters, and the sets")


def run(options: argparse.Namespace) -> int:
    """The command itself; returns its exit code."""
    require("report", "lab", "papermill", "nbconvert", "plotly", "latex2mathml")

    from rislab.reports import gallery

    if options.all:
        if options.name or options.parameters or options.config or options.list:
            raise InputError("--all runs every named set as its file has it; allowed with it: --out and --workers")
        return _gallery(Path(options.out), provenance.cores() if options.workers is None else options.workers)
    if options.workers is not None:
        raise InputError(f"workers is {options.workers} for one report; allowed: with --all")
    if options.list or options.name is None:
        return _list()
    chosen = gallery.find_set(options.name)
    report = chosen.run(common.notebook_values(options, chosen.path), Path(options.out))
    if report.closing:
        print(report.closing)
    print(f"{report.html}  ({report.seconds:.0f} s)")
    if not report.ok:
        print(f"rislab: {report.error}", file=sys.stderr)
        return 1
    return 0


def _gallery(out: Path, workers: int) -> int:
    """All named sets, with a line on stderr as each begins and ends; those that failed are named again at the end."""
    from rislab.reports import gallery, html_export

    sets = gallery.named_sets()
    begun = 0

    def begin(chosen: NamedSet) -> None:
        nonlocal begun
        begun += 1
        print(f"[{begun}/{len(sets)}] {chosen.name}: {chosen.title}", file=sys.stderr, flush=True)

    failed = []
    reports = gallery.build_gallery(sets, out, on_begin=begin, workers=workers)
    for ended, report in enumerate(reports, start=1):
        line = f"[{ended}/{len(sets)}] {report.name} {report.verdict} in {report.seconds:.0f} s"
        print(line, file=sys.stderr, flush=True)
        failed += [report] if not report.ok else []
    print(f"{out / html_export.INDEX}  ({len(sets) - len(failed)} of {len(sets)} reports passed)")
    for report in failed:
        print(f"rislab: {report.name}: {report.error}", file=sys.stderr)
    return 1 if failed else 0


def _list() -> int:
    from rislab.reports import gallery, notebooks

    for name, path in notebooks.available().items():
        print(f"{name:<12} {path.name}")
        for parameter in notebooks.parameters(path).values():
            print(terminal.entry(f"    {parameter.name} = {parameter.default!r} ", parameter.comment))
    print("\nnamed sets, each with values of its own; --all runs them all")
    for chosen in gallery.named_sets() if gallery.set_files() else []:
        changed = ", ".join(f"{name} = {value!r}" for name, (value, _) in chosen.changed.items())
        print(terminal.entry(chosen.name, chosen.title, 23))
        print(terminal.entry(f"    {chosen.path.name},", changed or "defaults"))
    return 0
