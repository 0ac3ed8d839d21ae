"""Values and bytes that nobody should write, for tests that fuzz; ten times as many in a soak."""

from __future__ import annotations

import os
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from rislab.errors import InputError

TIMES = 10 if os.environ.get("RISLAB_SOAK") == "1" else 1
QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]


def cases(count: int) -> Any:
    """So many cases, ten times as many in a soak; the same ones each time."""
    return settings(max_examples=count * TIMES, deadline=None, derandomize=True, suppress_health_check=QUIET)


NUMBERS = st.one_of(
    st.integers(-5, 70000),
    st.integers(),
    st.floats(),
    st.sampled_from([0, -1, 1, 10**30, float("inf"), float("-inf"), float("nan"), -0.0, 1e-320, True, False, None]),
)
WORDS = st.one_of(
    st.sampled_from(
        ["fp32", "bf16", "adam", "cpu", "cuda:99", "full", "classroom", "spherical", "varying", "1e-3", ""]
    ),
    st.text(max_size=12),
)
PLAIN = st.recursive(
    NUMBERS | WORDS,
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(max_size=8), inside, max_size=3),
    max_leaves=6,
)


def one_sentence(error: InputError) -> None:
    text = str(error)
    assert text.strip() and "\n" not in text and "Traceback" not in text, text


def refused_or_used(call: Any) -> None:
    """Only an InputError of one line may come out; pytest shows anything else as what it is, a bug."""
    try:
        call()
    except InputError as error:
        one_sentence(error)


SPOILS = st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 255)), max_size=4)


def spoilt(content: bytes, spoils: list[tuple[int, int]], cut: int) -> bytes:
    changed = bytearray(content)
    for place, value in spoils:
        changed[place % len(changed)] = value
    return bytes(changed[: len(changed) - cut % len(changed)] if cut else changed)
