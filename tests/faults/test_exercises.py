"""Exercises: the right answer passes, a wrong one gets a hint and never the truth, and none runs nothing."""

from __future__ import annotations

import dataclasses

import pytest

from rislab.errors import InputError
from rislab.faults import code_checks, exercises
from rislab.faults.exercises import EXERCISES, check
from rislab.faults.quiz import answer_key

# By hand: 1/1; (1/4) / (4/20); 6 of 11; Adam divides by its own root mean square; ⌈84/8⌉.
RIGHT: dict[str, float | str] = {"suspect": 1, "ragged": 1.25, "zeroed": 6 / 11, "optimiser": "SGD", "effective": 11}
WRONG: dict[str, float | str] = {"suspect": 4, "ragged": 0.625, "zeroed": 1.0, "optimiser": "adam", "effective": 3}
CODE = [name for name, exercise in EXERCISES.items() if exercise.kind == "code"]


@pytest.mark.slow
@pytest.mark.parametrize("name", RIGHT)
def test_right_and_wrong_are_told_apart_without_the_answer(name: str) -> None:
    assert check(name, RIGHT[name]) == exercises.Feedback(True, "right")
    assert check(name, WRONG[name]) == exercises.Feedback(False, "not yet")


@pytest.mark.slow
@pytest.mark.parametrize("name", CODE)
def test_a_solution_is_right_and_what_is_handed_out_is_not(name: str) -> None:
    exercise = EXERCISES[name]
    assert check(name, code_checks.reference(exercise)) == exercises.Feedback(True, "right")
    start = code_checks.reference(dataclasses.replace(exercise, solution=exercise.start))
    feedback = check(name, start)
    assert feedback == exercises.Feedback(None, exercises.NO_ANSWER) or feedback.text.startswith("not yet: ")
    assert not feedback.right


@pytest.mark.slow
def test_a_wrong_loop_is_named_by_the_checkup_or_by_where_its_weights_end() -> None:
    texts = {}
    right = EXERCISES["ragged window"].solution
    for change in ((" * len(x) / samples", ""), ("range(2)", "range(3)"), ("optimizer.step()", "pass")):
        source = right.replace(*change)
        assert source != right
        exercise = dataclasses.replace(EXERCISES["ragged window"], solution=source)
        texts[change[0]] = check("ragged window", code_checks.reference(exercise)).text
    assert "the checkup says" in texts[" * len(x) / samples"]
    assert "the weights end elsewhere" in texts["range(2)"]
    assert "the checkup says" in texts["optimizer.step()"]


def test_whatever_code_raises_or_returns_is_a_sentence() -> None:
    def fails(sizes: object) -> object:
        raise ValueError("two\nlines")

    def leaves(sizes: object) -> object:
        raise SystemExit

    def recurses(sizes: object) -> object:
        return recurses(sizes)

    functions = [
        fails,
        leaves,
        recurses,
        lambda sizes: None,
        lambda sizes: "x",
        lambda sizes: [float("nan")] * len(sizes),
    ]
    for function in [*functions, lambda: 1, lambda sizes: [[1]]]:
        feedback = check("weights", function)
        assert feedback.right is False and "\n" not in feedback.text and feedback.text.startswith("not yet: ")
    assert "raised ValueError: two lines" in check("weights", fails).text


def test_the_quiz_counts_each_question() -> None:
    key = answer_key(5)
    assert check("quiz", key, quiz_seed=5) == exercises.Feedback(True, f"{len(key)} of {len(key)} right", 1.0)
    assert check("quiz", [key[0]], quiz_seed=5).earned == 1 / len(key)


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
        ("weights", 1, "allowed: the function weights"),
        ("quiz", "x", "allowed: a list of names"),
    ],
)
def test_bad_input_is_named(name: str, answer: float | str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        check(name, answer)
