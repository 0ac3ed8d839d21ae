"""The error that users see is one sentence, whatever a file or a word has put into it."""

from __future__ import annotations

import math

import pytest

from rislab.errors import LONGEST, InputError, error_text, require, with_error


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("lr is 2; allowed: [0, 1]", "lr is 2; allowed: [0, 1]"),
        ("it has 'α', Δθ and a b", "it has 'α', Δθ and a b"),
        ("first\n   second\r\nthird", "first second third"),
        ("a\u2028b\x1b[2Jc\x00d\udcffe\u202ef", "a b\\x1b[2Jc\\x00d\\udcffe\\u202ef"),
    ],
)
def test_what_a_file_holds_breaks_no_line_and_moves_no_cursor(text: str, shown: str) -> None:
    error = InputError(text)
    assert str(error) == shown
    assert "\n" not in str(error) and str(error).isprintable()
    str(error).encode()


def test_its_length_is_bounded_and_both_ends_are_there() -> None:
    text = str(InputError(f"it holds {'x' * 10**6}; allowed: snapshots"))
    assert len(text) <= LONGEST + 3
    assert text.startswith("it holds xxx") and text.endswith("xxx; allowed: snapshots")


def test_an_error_without_words_has_a_text() -> None:
    class WordlessError(Exception):
        def __str__(self) -> str:
            raise KeyError

    assert error_text(ValueError("one\ntwo")) == "one"
    assert error_text(MemoryError()) == ""
    assert error_text(WordlessError()) == "an error without words: KeyError"


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (1.2185, 0.0951, "1.218 ± 0.095"),
        (0.5, 0.04, "0.500 ± 0.040"),
        (1.5427, 1.8e-5, "1.542700 ± 0.000018"),
        (1.5427, 1.8e-8, "1.542700000 ± 1.8e-08"),
        (152.3, 31.0, "152 ± 31"),
        (0.5, 0.0, "0.5000 ± 0"),
        (0.5, math.inf, "0.5000 ± inf"),
    ],
)
def test_a_number_has_the_digits_that_its_error_leaves(value: float, error: float, text: str) -> None:
    assert with_error(value, error) == text


def test_a_missing_package_is_named_with_what_to_install() -> None:
    require("report", "lab", "json")
    with pytest.raises(InputError) as error:
        require("report", "lab", "json", "no_such_package", "nor_this")
    assert str(error.value) == (
        "report needs no_such_package, which is not installed; install it with pip install 'rislab[lab]'"
    )
