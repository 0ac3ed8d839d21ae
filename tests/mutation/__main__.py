"""`python -m tests.mutation` (make mutants): writes mutants.md, confusion.md and innocent.md into reports/."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from tests.mutation import confusion, correct_loops, report
from tests.mutation.mutants import FUNCTIONS, mutants
from tests.mutation.trial import campaign, false_alarms, single_threaded

REPORTS = Path(__file__).resolve().parents[2] / "reports"


def main() -> None:
    """Write the reports and show their first numbers, or show the verdicts of some mutants."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("--only", help="show the verdicts of the mutants whose names hold this, and write nothing")
    parser.add_argument("--folder", type=Path, default=REPORTS, help="where the reports go")
    options = parser.parse_args()
    single_threaded()
    began = time.perf_counter()
    chosen = [mutant for loop in FUNCTIONS for mutant in mutants(loop)]
    if options.only is not None:
        for verdict in campaign([mutant for mutant in chosen if options.only in mutant.name]):
            print(report.entry(verdict))
        return
    alarms = false_alarms()
    verdicts = campaign(chosen)
    _write(options.folder / "mutants.md", report.text(verdicts, alarms, time.perf_counter() - began))
    _write(options.folder / "confusion.md", confusion.text(confusion.rows()))
    middle = time.perf_counter()
    found = list(correct_loops.trials(correct_loops.all_cases()))
    _write(options.folder / "innocent.md", correct_loops.text(found, time.perf_counter() - middle))
    print(f"{time.perf_counter() - began:.0f} s")


def _write(path: Path, text: str) -> None:
    """Write a report, and show its first numbers."""
    path.write_text(text)
    print(path, *(line for line in text.splitlines() if line.startswith("- ")), sep="\n")


if __name__ == "__main__":
    main()
