"""A rule of the checkup in words: what it compares, why, what it finds, and how to mend or silence that."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

from rislab.checkup.output.silencing import names_of
from rislab.checkup.rule import Rule
from rislab.checkup.rule_examples import RuleExample
from rislab.checkup.rules import RULES
from rislab.errors import InputError

WIDTH = 100


def rules_named(name: str) -> list[Rule]:
    """The rules that a name means: a code, the prefix of codes, or the name of a rule or of a finding.

    Raises:
        InputError: for a name that no rule has.
    """
    known = names_of("CODE", [name])
    if not known:
        raise InputError(f"CODE is {name!r}; allowed: a code, or the name of a rule or a finding")
    return [rule for rule in RULES.values() if known[0] in (rule.code, rule.code[0], rule.name, *rule.fixes)]


def explain(rule: Rule, places: Mapping[str, str], width: int = WIDTH) -> str:
    """A rule in words.

    Args:
        rule: to be explained.
        places: where faults have happened, by their names.
        width: of the lines, in characters; those of the example are as they are.
    """
    rows = {"what": rule.what, "why": rule.why, "needs": f"{rule.needs}.", "fix": f"{rule.fix}."}
    lines = [f"{rule.code} {rule.name} ({rule.severity})", ""]
    lines += [_row(label, text, width) for label, text in rows.items()]
    lines += ["", "example", textwrap.indent(str(RuleExample.of(rule.code)), "  ")]
    lines += ["", "finds"]
    lines += [_folded(f"  {name}" + (f": {fix}" if fix else ""), width) for name, fix in rule.fixes.items()]
    happened = [_folded(f"  {name}: {places[name]}", width) for name in rule.faults if places.get(name)]
    lines += ["", "happened in", *happened] if happened else []
    lines += ["", _row("silence", silencing_of(rule), width)]
    lines += [_row("read on", rule.reference, width)] if rule.reference else []
    return "\n".join(lines)


def silencing_of(rule: Rule) -> str:
    """How to silence what a rule finds, one sentence."""
    if rule.code.startswith("P"):
        return (
            f"leave {rule.code} out of `only` of rislab.probe(), or --ignore {rule.code}, where the checkup tries it."
        )
    comment = f"# rislab: ignore[{rule.code}]"
    return f"--ignore {rule.code}, the comment {comment} on the line that the finding names, or a baseline."


def _row(label: str, text: str, width: int) -> str:
    return _folded(f"{label:<9}{text}", width, 9)


def _folded(text: str, width: int, indent: int = 4) -> str:
    return textwrap.fill(text, width, subsequent_indent=" " * indent, break_on_hyphens=False, break_long_words=False)
