"""What a watched run came to: its findings, those that are silenced, how it ended, and the exit code that follows."""

from __future__ import annotations

import html
from collections import Counter
from dataclasses import dataclass
from typing import Any, NamedTuple

from rislab.checkup.findings import Finding, Findings
from rislab.errors import one_line


class Silenced(NamedTuple):
    """A finding that does not count.

    Args:
        finding: as it was made.
        by: "selection", "comment" or "baseline".
    """

    finding: Finding
    by: str


@dataclass(frozen=True)
class CheckupReport:
    """What was watched, and what is wrong with it.

    Args:
        script: its path, the name of the module, "pytest" or "the cell".
        steps: taken, by all optimisers, those in child processes included.
        optimisers: that were watched, each with its networks.
        ended: how, in words.
        failed: whether it was broken off, from inside or outside.
        code: exit code of the script itself, None if it was stopped.
        findings: what is wrong with its loops.
        remarks: what else is to be known of the run, sentences.
        silenced: findings that do not count.
        tests: the tests of pytest in which the findings were made, as many as there are findings; empty for a script.
        places: of the losses and steps that were recorded in this process, each "FILE:LINE", with absolute paths.
    """

    script: str
    steps: int
    optimisers: list[str]
    ended: str
    failed: bool
    code: int | None
    findings: Findings
    remarks: list[str]
    silenced: tuple[Silenced, ...] = ()
    tests: tuple[str, ...] = ()
    places: frozenset[str] = frozenset()

    @property
    def trained(self) -> bool:
        """Whether anything was trained that the checkup can say something about."""
        return bool(self.steps) or bool(self.findings) or bool(self.silenced)

    def exit_code(self, *, allow_unjudged: bool = False, fail_on: str = "fault") -> int:
        """0 clean, 1 faults, 2 could not be run, 3 not judged.

        Args:
            allow_unjudged: whether what was not judged is taken as clean.
            fail_on: the mildest severity that makes it 1: "fault", "warning" or "note".
        """
        if self.findings.of(fail_on):
            return 1
        if self.failed or not self.trained:
            return 2
        return 3 if self.findings.unjudged and not allow_unjudged else 0

    def head(self) -> list[str]:
        """What was watched and how it ended, in lines."""
        watched = ", ".join(self.optimisers) or "nothing"
        own = f" (exit code {self.code})" if self.code and str(self.code) not in self.ended else ""
        lines = [f"{self.script} {self.ended}{own} after {self.steps} steps; watched: {watched}", *self.remarks]
        lines = [*map(one_line, lines)]
        return lines if self.trained else [*lines, "no backward and no step was seen: there is nothing to judge"]

    def __str__(self) -> str:
        return "\n".join([*self.head(), *map(str, self.findings), *filter(None, [self.verdict])])

    def _repr_html_(self) -> str:
        lines = "<br>".join(map(html.escape, [*self.head(), *([] if self.findings else [self.verdict])]))
        return f"<p>{lines}</p>{self.findings.to_html(self.verdict) if self.findings else ''}"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(str(self))

    @property
    def verdict(self) -> str:
        """How much was found, silenced and not judged, in one line; "" if there was nothing to judge."""
        if not self.trained:
            return ""
        words = self.findings.verdict
        if self.failed and not self.findings:
            words = "Found nothing before it was broken off."
        elif self.silenced:
            words = words.replace("All checks", "All other checks")
        counts = Counter(one.by for one in self.silenced)
        silenced = ", ".join(f"{count} by {by}" for by, count in counts.items())
        return f"{words} Silenced: {silenced}." if silenced else words
