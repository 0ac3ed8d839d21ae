"""A page for each rule of the checkup, from the registry, its example, and what the checkup says of the example now."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

from rislab import files
from rislab.checkup.explanations import silencing_of
from rislab.checkup.rule_examples import RuleExample, findings_of, numbers_of
from rislab.checkup.rules import RULES
from rislab.faults.catalogue import FAULTS
from rislab.reports import html_export
from rislab.reports.rule_pictures import rule_picture


def write_rule_pages(out: Path, on_page: Callable[[str], None] = lambda code: None) -> Path:
    """Run both loops of each example, and write a page for each rule and an index; returns the path of the index.

    Args:
        out: folder of the pages.
        on_page: called with the code of each rule whose page is written.
    """
    faults = {fault.name: fault for fault in FAULTS}
    style = html_export.static_text("rules.css")
    codes = list(RULES)
    for place, code in enumerate(codes):
        rule, example = RULES[code], RuleExample.of(code)
        # Warnings of torch about the wrong loop are not part of the page.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wrong, right = (findings_of(example.source(mark)) for mark in "-+")
            numbers = [numbers_of(example.source(mark)) for mark in "-+"] if code.startswith("C") else []
        loops = [one for one in numbers if one is not None]
        rows = [one.rows() for one in loops] if len(loops) == 2 else []
        body = html_export.render(
            "rule.html.j2",
            rule=rule,
            example=example,
            wrong=[finding for finding in wrong if finding.code == code],
            right=right.verdict,
            rows=[(name, *(one[name] for one in rows)) for name in (rows[0] if rows else ())],
            picture=rule_picture(*loops) if rows else "",
            happened={name: faults[name].reference for name in rule.faults if faults[name].reference},
            silence=silencing_of(rule),
            before=codes[place - 1] if place else "",
            after=codes[place + 1] if place + 1 < len(codes) else "",
        )
        page = html_export.html_page(f"rislab: {code} {rule.name}", body, style=style)
        files.replace(out / f"{code}.html", page.encode())
        on_page(code)
    return html_export.write_index(out, "rislab: rules of the checkup", "rules", rules=RULES)
