"""A fault is an edit of the real source, so the correct code holds no trace of it.

A fault's edit is applied to one module, and the whole house is compiled again around it under a name of its own:
broken(fault) returns a package whose modules import each other, and never the correct ones.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import linecache
import re
import sys
import types
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rislab.errors import InputError

# In the order in which they import each other.
CORE = (
    "errors", "geometry", "draws", "data", "covariance", "estimates", "descent", "subspace", "music", "waveforms",
    "bounds", "metrics", "likelihood", "sparse", "losses", "randomness", "pursuit", "model", "records", "files",
    "state", "training", "gradients", "runs", "overfit", "conventions",
)  # fmt: skip

# What they look after belongs to the whole process: houses share them, unless a fault is in them.
SHARED = ("randomness",)


@dataclass(frozen=True)
class Sign:
    """What a fault shows: a quantity that lies within an interval where a correct loop's lies outside.

    Args:
        quantity: name of one in rislab.readings. low, high: the interval. setting: of the training it is read off.
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
        before, after: the edit; `before` occurs exactly once in the module's source.
        symptom: what a user sees, in words. signs: the same in numbers.
        mistaken_for: names of other faults that show the like.
        checks: rungs of the overfit ladder that must turn red.
        badge: checks of the conventions badge that must turn red, and no others may.
        reference: where it has happened.
    """

    name: str
    story: str
    module: str
    before: str
    after: str
    symptom: str
    signs: tuple[Sign, ...] = ()
    mistaken_for: tuple[str, ...] = ()
    checks: tuple[str, ...] = ()
    badge: tuple[str, ...] = ()
    reference: str = ""

    def edited(self, source: str | None = None) -> str:
        """Source of the module with the edit.

        Args:
            source: to be edited; the module's own if None.

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
        names = f"rislab/{self.module}.py", f"rislab/{self.module}.py ({self.name})"
        return "\n".join(difflib.unified_diff(old, new, *names, lineterm=""))


def source_of(module: str) -> str:
    """Source text of a module of rislab."""
    return inspect.getsource(importlib.import_module(f"rislab.{module}"))


@contextmanager
def broken(*faults: Fault) -> Iterator[types.ModuleType]:
    """The house with faults in it, as a package: `with broken(fault) as house: house.training.fit(...)`.

    Its classes are not those of rislab: take configurations and data from the same house. Without any fault it is the
    correct house, compiled like a broken one.

    Raises:
        InputError: if two edits do not go together.
    """
    edited: dict[str, str] = {}
    for fault in faults:
        edited[fault.module] = fault.edited(edited.get(fault.module))
    with _house(" and ".join(fault.name for fault in faults) or "correct", edited) as house:
        yield house


@contextmanager
def _house(name: str, edited: Mapping[str, str]) -> Iterator[types.ModuleType]:
    # Two threads may live in houses of one fault at a time.
    words = re.sub(r"\W+", "_", name)
    prefix = f"rislab_{words}_{uuid.uuid4().hex[:8]}"
    house = types.ModuleType(prefix)
    house.__path__ = []
    names = [prefix]
    sys.modules[prefix] = house
    try:
        for module in CORE:
            names.append(f"{prefix}.{module}")
            if module in SHARED and module not in edited:
                sys.modules[names[-1]] = importlib.import_module(f"rislab.{module}")
            else:
                _compiled(names[-1], _moved(edited.get(module) or source_of(module), prefix))
            setattr(house, module, sys.modules[names[-1]])
        yield house
    finally:
        for name in names:
            sys.modules.pop(name, None)
            linecache.cache.pop(f"<{name}>", None)


def _moved(source: str, prefix: str) -> str:
    """The source with its imports from rislab turned to the new package."""
    return re.sub(r"^(\s*)(from|import) rislab\b", rf"\1\2 {prefix}", source, flags=re.MULTILINE)


def _compiled(name: str, source: str) -> None:
    """Make a module of some source, and enter it among the loaded ones."""
    module = types.ModuleType(name)
    module.__file__ = f"<{name}>"
    sys.modules[name] = module
    # So that tracebacks and inspect show the edited lines.
    linecache.cache[module.__file__] = (len(source), None, source.splitlines(keepends=True), module.__file__)
    exec(compile(source, module.__file__, "exec"), module.__dict__)
