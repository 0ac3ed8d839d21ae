"""A fault is an edit of the real source, so the correct code holds no trace of it; faults.patching applies it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

from rislab.errors import InputError

PACKAGE = Path(__file__).parent.parent


@dataclass(frozen=True)
class Symptom:
    """What a fault shows: a quantity that lies within an interval where a correct loop's lies outside.

    Args:
        quantity: name of one in rislab.faults.symptoms.
        low: lower end of the interval.
        high: upper end of the interval.
        setting: of the training on which it is measured, see symptoms.prepare_training().
    """

    quantity: str
    low: float
    high: float
    setting: Mapping[str, Any] = field(default_factory=dict)

    def shown_by(self, value: float) -> bool:
        """Whether a value lies in the interval; NaN does not."""
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Fault:
    """One way in which training goes wrong in silence.

    Args:
        name: short, in words.
        story: what happened, and why it is easy to do.
        module: of rislab that is edited.
        before: text that the edit replaces; it occurs exactly once in the module's source.
        after: text that the edit puts there.
        description: what a user sees, in words.
        symptoms: the same in numbers.
        mistaken_for: names of other faults that show the like.
        checks: checks of the overfit ladder that must turn red.
        conventions: checks of the conventions report that must turn red; no others may.
        reference: where it has happened.
    """

    name: str
    story: str
    module: str
    before: str
    after: str
    description: str
    symptoms: tuple[Symptom, ...] = ()
    mistaken_for: tuple[str, ...] = ()
    checks: tuple[str, ...] = ()
    conventions: tuple[str, ...] = ()
    reference: str = ""

    def edited(self, source: str | None = None) -> str:
        """The source with the edit; of the module itself if None.

        Raises:
            InputError: if the edit does not match exactly once.
        """
        source = source_of(self.module) if source is None else source
        matches = source.count(self.before)
        if matches != 1:
            raise InputError(f"the edit of fault {self.name!r} matches {matches} times in {self.module}; allowed: once")
        return source.replace(self.before, self.after)

    def diff(self) -> str:
        """The edit as a unified diff."""
        old, new = source_of(self.module).splitlines(), self.edited().splitlines()
        path = f"rislab/{self.module.replace('.', '/')}.py"
        names = path, f"{path} ({self.name})"
        return "\n".join(difflib.unified_diff(old, new, *names, lineterm=""))


# An edit of the training loop, as most are.
LoopFault = partial(Fault, module="training.loop")


def path_of(module: str) -> Path | None:
    """The file of a module of rislab, by its dotted name without "rislab."; None if there is no such module."""
    stem = PACKAGE.joinpath(*module.split("."))
    files = (stem.with_suffix(".py"), stem / "__init__.py") if module else (PACKAGE / "__init__.py",)
    return next((file for file in files if file.is_file()), None)


@cache
def source_of(module: str) -> str:
    """Source text of a module of rislab, by its dotted name without "rislab."."""
    path = path_of(module)
    if path is None:
        raise InputError(f"module is {module!r}; allowed: a module of rislab, such as 'training.loop'")
    return path.read_text(encoding="utf-8")
