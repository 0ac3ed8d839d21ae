"""The confusion table: what the checkup says of every fault of the catalogue that a training shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rislab.checkup.findings import Finding
from rislab.faults import catalogue, comparison
from tests.checkup.test_loop_watch import setting_of
from tests.mutation.report import header, share, table
from tests.mutation.trial import workers

CODES = tuple(f"C{number}" for number in range(1, 15))
MARKS = {"fault": "F", "warning": "w", "note": "n"}


@dataclass(frozen=True)
class Row:
    """A fault, or the correct loop if "", the setting that it was trained under, and what was found."""

    fault: str
    setting: str
    found: tuple[Finding, ...]

    def named(self) -> str:
        """How one of the first two findings names the fault: "name", "alias" or "no"."""
        if any(finding.name == self.fault for finding in self.found[:2]):
            return "name"
        return "alias" if any(self.fault in finding.aliases for finding in self.found[:2]) else "no"


def others(found: Sequence[Row]) -> list[tuple[str, str]]:
    """Faults that no training shows, or that no finding names, each with what turns red by it, as the tests assert."""
    shown = {row.fault for row in found if row.named() != "no"}
    told = {"the ladder": lambda fault: fault.checks, "the conventions": lambda fault: fault.conventions}
    return [
        (
            fault.name,
            "; ".join(f"{name}: {', '.join(of(fault))}" for name, of in told.items() if of(fault)) or "its own sign",
        )
        for fault in catalogue.FAULTS
        if fault.name not in shown
    ]


def rows() -> list[Row]:
    """All faults of the catalogue that a training shows, then the correct loop under each of their settings."""
    shown = [fault for fault in catalogue.FAULTS if comparison.shows_in_training(fault)]
    settings = {_words(setting_of(fault)): setting_of(fault) for fault in shown}
    tasks = [(fault.name, setting_of(fault)) for fault in shown] + [("", setting) for setting in settings.values()]
    with workers() as pool:
        return list(pool.imap(row, tasks))


def row(task: tuple[str, dict[str, Any]]) -> Row:
    name, setting = task
    found = comparison.diagnose_fault(catalogue.find_fault(name) if name else None, setting)
    return Row(name, _words(setting), tuple(found))


def _words(setting: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in sorted(setting.items())) or "as usual"


def text(found: Sequence[Row]) -> str:
    """The whole report, in Markdown."""
    faulty, correct = [row for row in found if row.fault], [row for row in found if not row.fault]
    flagged = [row for row in correct if any(finding.severity == "fault" for finding in row.found)]
    named = [row for row in faulty if row.named() != "no"]
    lines = header("What the checkup says of the faults of the catalogue", "python -m tests.mutation")
    lines += [
        f"- named by one of the first two findings, of the faults that a training shows: "
        f"**{share(len(named), len(faulty))}**; by name {sum(row.named() == 'name' for row in faulty)}",
        f"- the correct loop flagged, of the same settings: {share(len(flagged), len(correct))}",
        "",
        "## Findings",
        "",
        "A fault is named if one of the first two findings has its name, or has it among those that look alike.",
        "",
    ]
    family = {fault.name: name for name, members in catalogue.FAMILIES.items() for fault in members}
    head = ("fault", "family", "setting", "first finding", "second finding", "further", "named")
    lines += table(head, [_cells(row, family[row.fault]) for row in faulty])
    lines += ["## By check", "", "F a fault, w a warning, n a note.", ""]
    lines += table(("", *CODES), [(row.fault, *_marks(row)) for row in faulty])
    lines += ["## The correct loop", ""]
    lines += table(
        ("setting", "findings"), [(row.setting, "; ".join(map(_said, row.found)) or "none") for row in correct]
    )
    lines += ["## Faults that no training shows, or no finding names", ""]
    lines += table(("fault", "turns red"), others(found))
    return "\n".join(lines).rstrip() + "\n"


def _cells(row: Row, family: str) -> tuple[object, ...]:
    first, second, *rest = [*map(_said, row.found), "", ""]
    return row.fault, family, row.setting, first, second, sum(map(bool, rest)), row.named()


def _said(finding: Finding) -> str:
    return f"{finding.code} {finding.name} ({finding.severity})"


def _marks(row: Row) -> list[str]:
    """For each check the marks of its findings."""
    return ["".join(MARKS[finding.severity] for finding in row.found if finding.code == code) for code in CODES]
