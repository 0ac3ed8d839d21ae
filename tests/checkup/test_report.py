"""What a report says of itself: its verdict, and the exit code that follows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rislab.checkup.findings import Finding, Findings, as_fault, as_note, as_warning
from rislab.checkup.output.report import CheckupReport, Silenced
from rislab.checkup.rules import Code

FAULT = as_fault(Code.WINDOW_SIZE, "stepped twice", "2")
WARNING = as_warning(Code.STEPS, "tail never stepped", "3")
NOTE = as_note(Code.CLIPPING, "clipping assumed", "at 1")
UNJUDGED = as_note(Code.LOSSES, "not judged", "nobody knows")
CLEAN = CheckupReport("train.py", 4, ["SGD"], "ran to its end", False, 0, Findings(), [])


@pytest.mark.parametrize(
    ("findings", "codes", "verdict"),
    [
        ([], [0, 0, 0], "All checks passed."),
        ([NOTE], [0, 0, 1], "All checks passed, 1 note."),
        ([WARNING, NOTE, NOTE], [0, 1, 1], "Found 1 warning, 2 notes."),
        ([FAULT, FAULT, WARNING], [1, 1, 1], "Found 2 faults, 1 warning."),
        ([UNJUDGED, UNJUDGED], [3, 3, 3], "Found no fault. Not judged: C9."),
        ([UNJUDGED, NOTE], [3, 3, 1], "Found no fault, 1 note. Not judged: C9."),
        ([UNJUDGED, WARNING], [3, 1, 1], "Found 1 warning. Not judged: C9."),
    ],
)
def test_verdict_and_exit_code(findings: list[Finding], codes: list[int], verdict: str) -> None:
    report = replace(CLEAN, findings=Findings(findings))
    assert report.verdict == verdict
    assert [report.exit_code(fail_on=each) for each in ("fault", "warning", "note")] == codes
    assert report.exit_code(allow_unjudged=True, fail_on="warning") == (0 if codes[1] == 3 else codes[1])


def test_a_run_that_was_broken_off_is_not_clean() -> None:
    broken = replace(CLEAN, failed=True)
    assert broken.exit_code() == 2 and broken.verdict == "Found nothing before it was broken off."
    assert replace(broken, findings=Findings([FAULT])).exit_code() == 1
    nothing = replace(CLEAN, steps=0)
    assert nothing.exit_code() == 2 and not nothing.trained and nothing.verdict == ""
    # A loop that never stepped, and whose only fault is silenced.
    assert replace(nothing, silenced=(Silenced(FAULT, "comment"),)).exit_code() == 0
