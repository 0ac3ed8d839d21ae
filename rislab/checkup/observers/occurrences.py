"""What was met again and again: how often, what, and where first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rislab.checkup.findings import Finding, as_fault, as_warning
from rislab.checkup.recording.call_stack import caller

# Backwards that must agree.
AGREEING = 3


@dataclass
class Occurrences:
    """What backwards have shown."""

    count: int = 0  # in how many
    text: str = ""  # what
    where: str = ""  # file and line of the first
    certain: int = 0  # those that cannot be meant

    def note(self, text: str, certain: bool = False) -> None:
        """Once more."""
        self.count, self.text, self.where = self.count + 1, text, self.where or caller()[0]
        self.certain += certain

    @property
    def kind(self) -> Callable[..., Finding]:
        """Of a finding: a fault where enough cannot be meant, and none may be."""
        return as_fault if self.certain >= AGREEING and self.certain == self.count else as_warning

    def __str__(self) -> str:
        return f"in {self.count} backwards {self.text}"
