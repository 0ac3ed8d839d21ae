"""A check: its value, its reference, and how they relate."""

from __future__ import annotations

import math

import pytest

from rislab.sanity.checks import Verdict, run_check


@pytest.mark.parametrize("relation", ["<=", ">=", "=="])
def test_a_check_that_is_not_a_number_is_red(relation: str) -> None:
    assert not Verdict(math.nan, relation, 1.0, "").holds
    assert Verdict(1.0, relation, 1.0, "").holds


def test_a_result_says_what_was_compared() -> None:
    result = run_check("twins", lambda: Verdict(2.0, "<=", 1.0, "of all"))
    assert not result.passed and result.seconds >= 0
    assert result.line() == "FAIL twins                           2 <= 1        of all"
