"""The catalogue of faults, by family; see rislab.fault for what a fault is."""

from __future__ import annotations

import difflib

from rislab.errors import InputError
from rislab.fault import CORE, Fault, Sign, broken, source_of
from rislab.faults_accumulation import ACCUMULATION
from rislab.faults_estimator import ESTIMATOR
from rislab.faults_numerics import NUMERICS
from rislab.faults_optimiser import OPTIMISER
from rislab.faults_reported import REPORTED

__all__ = ["CORE", "FAMILIES", "FAULTS", "Fault", "Sign", "broken", "catalogue", "named", "source_of"]

FAMILIES = {
    "accumulation": ACCUMULATION,
    "reported loss": REPORTED,
    "precision and numerics": NUMERICS,
    "optimiser and mode": OPTIMISER,
    "data and estimator": ESTIMATOR,
}
FAULTS = tuple(fault for family in FAMILIES.values() for fault in family)


def catalogue() -> dict[str, Fault]:
    """All faults by name."""
    return {fault.name: fault for fault in FAULTS}


def named(name: str) -> Fault:
    """The fault of this name; raises InputError with the nearest ones for any other."""
    known = catalogue()
    if name not in known:
        near = " or ".join(map(repr, difflib.get_close_matches(name, known, n=3)))
        raise InputError(
            f"unknown fault {name!r}{f', did you mean {near}?' if near else ';'} allowed: {', '.join(known)}"
        )
    return known[name]
