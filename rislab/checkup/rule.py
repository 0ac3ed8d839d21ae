"""What is known of one rule of the checkup."""

from __future__ import annotations

from dataclasses import dataclass

from rislab.checkup.fixes import FIXES


@dataclass(frozen=True)
class Rule:
    """One rule of the checkup.

    Args:
        code: "C1" … "C16" of a watched loop, "P1" … "P11" of a probe; it stands in findings.
        name: in words.
        what: what is compared, one sentence.
        why: what the numbers mean, and what a wrong one does to a training.
        fix: what to look at in the code; `fixes` says it for each finding.
        needs: what must be known before the rule can say anything.
        severity: usual one of its findings: "fault", "warning" or "note"; that of most rules if it is not given.
        faults: names of its findings that are faults of the catalogue, in `rislab faults NAME`.
        others: names of its findings that the catalogue does not have.
        reference: where the right way is documented, "" if nowhere.
    """

    code: str
    name: str
    what: str
    why: str
    fix: str
    needs: str
    severity: str = "fault"
    faults: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    reference: str = ""

    @property
    def fixes(self) -> dict[str, str]:
        """What to change, for each name that a finding of this rule may have; "" where nothing is to be changed."""
        return {name: FIXES.get(name, "") for name in (*self.faults, *self.others)}
