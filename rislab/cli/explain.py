"""`rislab explain`: the rules of the checkup in words."""

from __future__ import annotations

import argparse
from pathlib import Path

from rislab import files
from rislab.cli import common, terminal
from rislab.errors import InputError, require

EXAMPLES = (
    ("explain C1", "a rule"),
    ('explain "never divided"', "the rule that names it"),
    ("explain --all", "all rules"),
    ("explain --out pages", "a page for each rule"),
)


def add(parser: argparse.ArgumentParser) -> None:
    """Give the parser its options."""
    parser.description = (
        "Explain a rule of the checkup: what it compares, why, and how to mend or silence its findings."
    )
    parser.add_argument("name", metavar="CODE|NAME", nargs="?", help="a code as C1, or the name of a rule or a finding")
    parser.add_argument("--all", action="store_true", help="explain all rules")
    common.add_out(parser, "write a page for each rule, with what its example shows now")


def run(options: argparse.Namespace) -> int:
    """The command itself; returns its exit code."""
    from rislab.checkup.explanations import explain, rules_named
    from rislab.checkup.rules import RULES
    from rislab.faults.catalogue import FAULTS

    if options.out is not None:
        return _pages(Path(options.out))
    if (options.name is None) != options.all:
        given = "nothing" if options.name is None else f"{options.name!r} and --all"
        raise InputError(f"CODE is {given}; allowed: a code, a name, or --all")
    places = {fault.name: fault.reference for fault in FAULTS}
    rules = [*RULES.values()] if options.all else rules_named(options.name)
    print("\n\n\n".join(explain(rule, places, terminal.width()) for rule in rules))
    return 0


def _pages(out: Path) -> int:
    require("explain --out", "lab", "jinja2")
    files.check_writable(out)
    from rislab.reports.rule_pages import write_rule_pages

    print(write_rule_pages(out, lambda code: print(code, end=" ", flush=True)))
    return 0
