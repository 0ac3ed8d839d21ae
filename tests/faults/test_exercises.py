"""Exercises: the right answer passes, a wrong one gets a hint and never the truth, and none runs nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from rislab.errors import InputError
from rislab.faults import exercises
from rislab.faults.exercises import EXERCISES, check

# By hand: 1/1; (1/4) / (4/20); 3 of 11; Adam divides by its own root mean square; ⌈84/8⌉.
RIGHT: dict[str, float | str] = {"suspect": 1, "ragged": 1.25, "zeroed": 3 / 11, "optimiser": "SGD", "effective": 11}
WRONG: dict[str, float | str] = {"suspect": 4, "ragged": 0.625, "zeroed": 1.0, "optimiser": "adam", "effective": 3}


@pytest.mark.parametrize("name", RIGHT)
def test_right_and_wrong_are_told_apart_without_the_answer(name: str) -> None:
    assert check(name, RIGHT[name]) == exercises.Feedback(True, "right")
    outcome = check(name, WRONG[name])
    assert outcome.right is False
    assert repr(outcome) == f"not yet: {EXERCISES[name].hint}"
    assert str(RIGHT[name]).lower() not in outcome.text.lower().split()


def test_the_notebook_asks_what_has_been_answered_here() -> None:
    cells = json.loads(Path("notebooks/04_fault_clinic.ipynb").read_text())["cells"]
    asked = re.findall(r'exercises.check\("([^"]+)"', "".join(line for cell in cells for line in cell["source"]))
    assert asked == [*RIGHT] == [*WRONG]


def test_without_an_answer_nothing_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*unused: object) -> None:
        raise AssertionError("a run")

    monkeypatch.setattr(exercises, "attribute_run", fails)
    assert all(check(name, None) == exercises.Feedback(None, "no answer yet") for name in EXERCISES)


def test_a_number_may_be_off_by_its_tolerance_and_no_more() -> None:
    assert check("effective", 11 * 1.01).right
    assert not check("effective", 11 * 1.05).right


@pytest.mark.parametrize(
    ("name", "answer", "said"),
    [
        ("nothing", 1, "name is 'nothing'"),
        ("effective", "eleven", "answer is 'eleven'; allowed: a number"),
        ("effective", float("nan"), "answer is nan"),
        ("effective", True, "answer is True"),
        ("optimiser", 1, "answer is 1; allowed: a word"),
    ],
)
def test_bad_input_is_named(name: str, answer: float | str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        check(name, answer)
