"""The catalogue of faults, by family; see rislab.faults.fault for what a fault is."""

from __future__ import annotations

from rislab.errors import InputError, did_you_mean
from rislab.faults.accumulation import ACCUMULATION
from rislab.faults.estimator import ESTIMATOR
from rislab.faults.fault import Fault
from rislab.faults.numerics import NUMERICS
from rislab.faults.optimiser import OPTIMISER
from rislab.faults.reported import REPORTED

FAMILIES = {
    "accumulation": ACCUMULATION,
    "reported loss": REPORTED,
    "precision and numerics": NUMERICS,
    "optimiser and mode": OPTIMISER,
    "data and estimator": ESTIMATOR,
}
FAULTS = tuple(fault for family in FAMILIES.values() for fault in family)


def faults_by_name() -> dict[str, Fault]:
    """All faults by name."""
    return {fault.name: fault for fault in FAULTS}


def find_fault(name: str) -> Fault:
    """The fault of this name.

    Args:
        name: in the catalogue.

    Raises:
        InputError: for any other name, with the nearest ones.
    """
    known = faults_by_name()
    if name not in known:
        raise InputError(f"unknown fault {name!r}{did_you_mean(name, known, 3)}")
    return known[name]
