"""The quiz: the same for everybody by seed, fair in its choices, and strict about its answers."""

from __future__ import annotations

import pytest

from rislab.errors import InputError
from rislab.faults import catalogue, comparison, quiz
from rislab.faults.quiz import Quiz


@pytest.mark.parametrize("seed", [0, 1, 2, 12345])
def test_questions_are_those_of_the_seed(seed: int) -> None:
    asked = quiz.questions(seed, 8)
    assert asked == quiz.questions(seed, 8)
    assert quiz.answer_key(seed, 8) == [question.fault.name for question in asked]
    # The teacher's list of eight holds for a class that is asked six.
    assert quiz.questions(seed, 6) == asked[:6]
    assert len({question.fault.name for question in asked}) == 8
    for question in asked:
        assert len(set(question.choices)) == quiz.CHOICES
        assert question.fault.name in question.choices
        assert set(question.choices) <= {fault.name for fault in catalogue.FAULTS}


def test_seeds_differ_and_the_answer_stands_anywhere() -> None:
    assert quiz.answer_key(1) != quiz.answer_key(2)
    places = {question.choices.index(question.fault.name) for question in quiz.questions(3, len(quiz.candidates()))}
    assert places == set(range(quiz.CHOICES))


def test_only_what_a_training_shows_is_asked() -> None:
    assert 20 <= len(quiz.candidates()) < len(catalogue.FAULTS)
    assert all(comparison.shows_in_training(fault) for fault in quiz.candidates())
    assert {fault.name for fault in catalogue.FAULTS} > set(quiz.UNSEEN)
    assert set(quiz.UNSEEN).isdisjoint(fault.name for fault in quiz.candidates())
    assert catalogue.find_fault("conjugated steering") not in quiz.candidates()


def test_names_that_are_easily_mistaken_are_offered() -> None:
    everything = quiz.questions(0, len(quiz.candidates()))
    for question in (question for question in everything if question.fault.mistaken_for):
        offered = set(question.choices) & set(question.fault.mistaken_for)
        assert len(offered) == min(len(question.fault.mistaken_for), quiz.CHOICES - 1)


def test_the_first_answer_counts_and_is_explained() -> None:
    mine = Quiz(1, 3)
    first, second, _ = mine.questions
    wrong = next(name for name in second.choices if name != second.fault.name)
    assert mine.answer(1, first.fault.name).startswith("Right.")
    said = mine.answer(2, wrong)
    assert second.fault.name in said and second.fault.story in said
    assert (mine.score, len(mine.answers)) == (1, 2)
    with pytest.raises(InputError, match="answered already"):
        mine.answer(2, second.fault.name)
    assert mine.score == 1


def test_bad_input_is_named() -> None:
    for call, said in (
        (lambda: quiz.questions(-1), "seed is -1"),
        (lambda: quiz.questions(0, 0), "count is 0"),
        (lambda: quiz.questions(0, 1000), "count is 1000"),
        (lambda: Quiz(1, 2).answer(3, "x"), "number is 3"),
        (lambda: Quiz(1, 2).answer(1, "x"), "name is 'x'"),
    ):
        with pytest.raises(InputError, match=said):
            call()
