"""A Finding: what the checkup reports about a training loop, with its numbers first."""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rislab.checkup.html_table import Html, html_table
from rislab.checkup.rules import RULES, Code
from rislab.errors import one_line

SEVERITIES = ("fault", "warning", "note")
MARKS = {"fault": "FAULT  ", "warning": "WARNING", "note": "note   "}
COLUMNS = ("severity", "code", "what", "numbers", "where", "how to fix", "read on", "may also be")
# Columns that are shown even if they are empty.
ALWAYS = 4
UNJUDGED = "not judged"
PLACE = re.compile(r"(\S+):(\d+)")
# They speak of what came after the last step: of a loop that was broken off, nothing could come.
OF_THE_END = (
    "tail never stepped", "step in a branch never taken", "loop tail in a branch never taken",
    "schedule hardly begins", "warm-up never ends", "rate below the one asked for", "classes that training never had",
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """One thing that the checkup reports.

    Args:
        code: of the rule, a key of RULES.
        name: of the fault, as `rislab faults` lists it if it is in the catalogue.
        severity: "fault": it is wrong; "warning": it may be meant; "note": worth knowing.
        evidence: the numbers, and what they were measured on.
        fix: what to change, "" if nothing.
        where: file and line at which it was observed, "" if there is none.
        aliases: names of other faults that look the same from outside.
    """

    code: str
    name: str
    severity: str
    evidence: str
    fix: str = ""
    where: str = ""
    aliases: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{MARKS[self.severity]} {self.code} {self.name}: {self.evidence}"]
        lines += [f"        where: {self.where}"] if self.where else []
        lines += [f"        fix: {self.fix}"] if self.fix else []
        lines += [f"        read on: {self.docs}"] if self.docs else []
        lines += [f"        may also be: {', '.join(self.aliases)}"] if self.aliases else []
        # Names of a stranger's tensors and files stand in them.
        return "\n".join(line[:8] + one_line(line[8:]) for line in lines)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Finding:
        """A finding from its fields, as JSON has them."""
        return cls(**{**plain, "aliases": tuple(plain["aliases"])})

    @property
    def docs(self) -> str:
        """Where to read more about a fault or a warning: in the catalogue, in the documentation of torch, or ""."""
        if self.severity == "note":
            return ""
        if any(self.name in rule.faults for rule in RULES.values()):
            return f'rislab faults "{self.name}"'
        return RULES[self.code].reference if self.code in RULES else ""


class Findings(list[Finding]):
    """Findings, faults first; a table in a notebook, and lines in a terminal.

    Args:
        findings: in any order; those of one severity stay in theirs.
    """

    def __init__(self, findings: Iterable[Finding] = ()) -> None:
        super().__init__(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity)))

    @property
    def faults(self) -> list[Finding]:
        """Those of severity "fault"."""
        return [finding for finding in self if finding.severity == "fault"]

    @property
    def unjudged(self) -> list[Finding]:
        """Those that say what a rule could not judge of a loop. A probe that could not be made is none."""
        return [finding for finding in self if is_unjudged(finding)]

    def of(self, severity: str) -> list[Finding]:
        """Those of this severity or a graver one; what could not be judged is none of them."""
        graver = SEVERITIES[: SEVERITIES.index(severity) + 1]
        return [finding for finding in self if finding.severity in graver and not is_unjudged(finding)]

    @property
    def verdict(self) -> str:
        """How many there are of each kind, and which rules could not judge, in one line."""
        unjudged = list(dict.fromkeys(finding.code for finding in self.unjudged))
        counts = Counter(finding.severity for finding in self.of("note"))
        words = [f"{counts[one]} {one}{'' if counts[one] == 1 else 's'}" for one in SEVERITIES if counts[one]]
        if self.of("warning"):
            text = f"Found {', '.join(words)}."
        else:
            text = ", ".join(["Found no fault" if unjudged else "All checks passed", *words]) + "."
        return f"{text} Not judged: {', '.join(unjudged)}." if unjudged else text

    def relative_to(self, folder: str) -> Findings:
        """The same, with the paths of files inside a folder as seen from there."""
        start = folder.rstrip(os.sep) + os.sep
        return Findings(replace(finding, where=finding.where.removeprefix(start)) for finding in self)

    def in_cells(self, shell: Any = None) -> Findings:
        """The same, with places in the cells of a notebook as its tracebacks name them; see in_cells()."""
        return Findings(
            replace(one, evidence=in_cells(one.evidence, shell), where=in_cells(one.where, shell)) for one in self
        )

    def __str__(self) -> str:
        return "\n".join(map(str, self)) if self else "nothing to report"

    def _repr_html_(self) -> str:
        return self.to_html(self.verdict) if self else "<p>nothing to report</p>"

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Titles of columns, and a row for each finding; columns without a word are left out."""
        rows = [[f.severity, f.code, f.name, f.evidence, f.where, f.fix, f.docs, ", ".join(f.aliases)] for f in self]
        rows = [[one_line(cell) for cell in row] for row in rows]
        # An empty column would take the width that another needs.
        shown = [place for place in range(len(COLUMNS)) if place < ALWAYS or any(row[place] for row in rows)]
        return [COLUMNS[place] for place in shown], [[row[place] for place in shown] for row in rows]

    def to_html(self, caption: str) -> str:
        """The table as HTML, with a caption above it."""
        head, rows = self.table()
        strong = [[Html(f"<b>{severity}</b>"), *others] for severity, *others in rows]
        return html_table(head, strong, label="findings", caption=caption, row_title=COLUMNS.index("what"))


def in_cells(text: str, shell: Any = None) -> str:
    """A text with each "file:line" of a notebook's cell as its tracebacks name it: "Cell In[4], line 3".

    Args:
        text: any.
        shell: of IPython; None for the one that runs. Without one the text stays as it is.
    """
    if shell is None and (ipython := sys.modules.get("IPython")) is not None:
        shell = ipython.get_ipython()
    if shell is None:
        return text

    def named(place: re.Match[str]) -> str:
        cell = shell.compile.format_code_name(place[1])
        if cell is None:
            return place[0]
        # A cell that a magic runs counts as the next one.
        count = len(shell.history_manager.input_hist_parsed) - 1
        return f"{cell[0]} {cell[1].replace(f'[{shell.execution_count}]', f'[{count}]')}, line {place[2]}"

    return PLACE.sub(named, text)


def is_unjudged(finding: Finding) -> bool:
    """Whether a finding says what a rule could not judge of a loop."""
    return finding.name == UNJUDGED and finding.code.startswith("C")


def assert_no_faults(findings: Findings, *, fail_on: str = "fault", allow_unjudged: bool = False) -> None:
    """Raise AssertionError, with the findings as its text, if there are faults, or if something could not be judged.

    Args:
        findings: of a watch.
        fail_on: the mildest severity that is refused: "fault", "warning" or "note".
        allow_unjudged: whether what was not judged is taken as clean.
    """
    __tracebackhide__ = True  # of pytest, which then points at the test
    if findings.of(fail_on) or (findings.unjudged and not allow_unjudged):
        raise AssertionError(f"{findings.verdict}\n{findings}")


def as_fault(code: Code, name: str, evidence: str, where: str = "", aliases: tuple[str, ...] = ()) -> Finding:
    """A Finding of something that is wrong; its rule must know the name."""
    return Finding(code.value, name, "fault", evidence, RULES[code].fixes[name], where, aliases)


def as_warning(code: Code, name: str, evidence: str, where: str = "", aliases: tuple[str, ...] = ()) -> Finding:
    """A Finding of something that may be meant; its rule must know the name."""
    return Finding(code.value, name, "warning", evidence, RULES[code].fixes[name], where, aliases)


def as_note(code: Code, name: str, evidence: str, aliases: tuple[str, ...] = ()) -> Finding:
    """A Finding of something worth knowing; its rule must know the name."""
    assert name in RULES[code].fixes, name
    return Finding(code.value, name, "note", evidence, aliases=aliases)


def listed(names: Sequence[object], shown: int = 4, more: int = 0) -> str:
    """The first few names, and how many there are besides, those that are not even given included."""
    more += max(0, len(names) - shown)
    return ", ".join(map(str, names[:shown])) + (f" and {more} more" if more else "")
