"""Exercises: the right answer passes, a wrong one gets a hint and never the truth, and none runs nothing."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

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
    assert "the network was given 252 samples in all, and 168 in a correct loop" in texts["range(2)"]
    assert "the checkup says" in texts["optimizer.step()"]


# Window by window; what stands in it is the answer.
WINDOWS = """
import torch
from torch import nn


def train(model, optimizer, batches, K):
    for _ in range(2):
        for first in range(0, len(batches), K):
            window = batches[first : first + K]
            samples = sum(len(x) for x, _ in window)
            optimizer.zero_grad()
            ANSWER
            optimizer.step()
"""
SUM = "nn.functional.mse_loss(model(x), y, reduction='sum')"
ONE_BACKWARD = f"(sum({SUM} for x, y in window) / samples).backward()"
AT_ONCE = (
    "nn.functional.mse_loss(model(torch.cat([x for x, _ in window])), torch.cat([y for _, y in window])).backward()"
)
REPORT = """
import torch
from torch import nn


def train(model, optimizer, batches):
    reported = []
    for _ in range(3):
        total, count = torch.zeros(()), 0
        for x, y in batches:
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(x), y)
            loss.backward()
            optimizer.step()
            total, count = total + loss.detach() * len(x), count + len(x)
        reported.append(total / count)
    return reported
"""
NO_SCALER = """
from torch import nn


def train(model, optimizer, scaler, batches):
    for _ in range(2):
        for x, y in batches:
            optimizer.zero_grad()
            nn.functional.mse_loss(model(x), y).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
"""
SHARES = "from fractions import Fraction\n\n\ndef weights(sizes):\n    return ANSWER"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "source", "answer", "text"),
    [
        ("accumulate", WINDOWS, ONE_BACKWARD, "right"),
        ("ragged window", WINDOWS, ONE_BACKWARD, "right"),
        (
            "ragged window",
            WINDOWS,
            AT_ONCE,
            "the network was given 32 samples at once; allowed: the 8 of one micro-batch",
        ),
        ("honest report", REPORT, "", "right"),
        ("honest report", REPORT.replace("range(3)", "range(2)"), "", "allowed: a list of 3 numbers"),
        ("unscale first", NO_SCALER, "", "the scaler was not used"),
        ("zero grad", NO_SCALER.replace(" scaler,", ""), "", "the weights end elsewhere"),
        ("weights", SHARES, "[Fraction(size, sum(sizes)) for size in sizes]", "right"),
        (
            "weights",
            SHARES,
            "(size / sum(sizes) for size in sizes)",
            "returned a generator; allowed: a list of numbers",
        ),
        ("weights", SHARES, "1", "returned the shape (); allowed: (4,)"),
    ],
)
def test_what_is_right_by_another_way_is_right_and_what_is_wrong_has_its_sentence(
    name: str, source: str, answer: str, text: str
) -> None:
    exercise = dataclasses.replace(EXERCISES[name], solution=source.replace("ANSWER", answer))
    feedback = check(name, code_checks.reference(exercise))
    assert (feedback.text == "right") if text == "right" else (not feedback.right and text in feedback.text)


def test_a_root_mean_square_may_be_rounded_and_is_float16() -> None:
    def scaled(x: torch.Tensor) -> torch.Tensor:
        return x.abs().max() * (x / x.abs().max()).square().mean().sqrt()

    answers = {
        "right": scaled,
        "returned float32; allowed: float16": lambda x: x.float().square().mean().sqrt(),
        "returned 1.1582, which is wrong": lambda x: x.float().std().half(),
        "returned the shape (501,); allowed: a single number": lambda x: x,
    }
    for text, answer in answers.items():
        assert check("root mean square", answer).text.endswith(text)


def test_a_set_may_be_frozen_and_a_list_is_none() -> None:
    def survivors(scores: list[float]) -> list[int]:
        order = sorted(range(len(scores)), key=lambda k: (math.isnan(scores[k]), scores[k]))
        return order[: math.ceil(len(scores) / 2)]

    assert check("halving", lambda scores: frozenset(survivors(scores))).right
    assert check("halving", survivors).text.endswith("returned [1, 2]; allowed: a set of whole numbers")
    assert check("halving", lambda scores: {0}).text.endswith("returned {0}, which is wrong")


def test_an_endless_answer_that_is_interrupted_has_its_sentence() -> None:
    def endless(sizes: object) -> object:
        raise KeyboardInterrupt

    assert check("weights", endless).text == "not yet: weights() was interrupted: does it ever end?"


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
        ("effective", "eleven", "answer is 'eleven'; allowed: a finite number"),
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
