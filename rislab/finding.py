"""A Finding: what a checkup says of a training loop, with its numbers first."""

from __future__ import annotations

import html
from collections.abc import Iterable
from dataclasses import dataclass

SEVERITIES = ("fault", "warning", "note")
MARKS = {"fault": "FAULT  ", "warning": "WARNING", "note": "note   "}


@dataclass(frozen=True)
class Finding:
    """One thing that a checkup has found.

    Args:
        code: of the check, "C1" … "C14". name: of the fault, as the catalogue has it. aliases: names of other faults
            that show the same, from outside.
        severity: "fault", "warning" or "note".
        evidence: the numbers, and what they were measured on. where: file and line that the event was seen at, or "".
        fix: what to change.
    """

    code: str
    name: str
    severity: str
    evidence: str
    fix: str = ""
    where: str = ""
    aliases: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [f"{MARKS[self.severity]} {self.code} {self.name}: {self.evidence}"]
        parts += [f"        where: {self.where}"] if self.where else []
        parts += [f"        fix: {self.fix}"] if self.fix else []
        parts += [f"        may also be: {', '.join(self.aliases)}"] if self.aliases else []
        return "\n".join(parts)


class Findings(list[Finding]):
    """Findings, faults first; a table in a notebook, and lines in a terminal."""

    def __init__(self, found: Iterable[Finding] = ()) -> None:
        super().__init__(sorted(found, key=lambda finding: SEVERITIES.index(finding.severity)))

    @property
    def faults(self) -> list[Finding]:
        """Those of severity "fault"."""
        return [finding for finding in self if finding.severity == "fault"]

    def __str__(self) -> str:
        return "\n".join(map(str, self)) if self else "nothing to report"

    def _repr_html_(self) -> str:
        if not self:
            return "<p>nothing to report</p>"
        head = ("", "code", "what", "numbers", "where", "how to fix", "may also be")
        rows = [
            (f"<b>{f.severity}</b>", f.code, f.name, f.evidence, f.where, f.fix, ", ".join(f.aliases)) for f in self
        ]
        cell = "style='text-align:left;padding:2px 8px;vertical-align:top'"
        top = "".join(f"<th {cell}>{name}</th>" for name in head)
        body = "".join(
            "<tr>" + f"<td {cell}>{row[0]}</td>" + "".join(f"<td {cell}>{html.escape(part)}</td>" for part in row[1:])
            for row in rows
        )
        return f"<table style='font-size:13px'><tr>{top}</tr>{body}</table>"
