"""Fixtures of the faults: one correct package for a session, and what the correct loop did under each setting."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import ModuleType

import pytest

from rislab.faults.comparison import ComparisonCache
from rislab.faults.fault import Symptom
from rislab.faults.patching import patched
from rislab.faults.symptoms import symptom_reader


@pytest.fixture(scope="session")
def correct() -> Iterator[ModuleType]:
    """The correct package, compiled like a patched one; not to be changed."""
    with patched() as package:
        yield package


@pytest.fixture(scope="session")
def measure_correct(correct: ModuleType) -> Callable[[Symptom], float]:
    """Measures symptoms on the correct package, with one training for each setting."""
    return symptom_reader(correct)


@pytest.fixture(scope="session")
def comparisons() -> ComparisonCache:
    """Compares faults with the correct loop, which is trained once for each setting."""
    return ComparisonCache()
