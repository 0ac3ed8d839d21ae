"""The quiz: a hidden fault, what it shows, four names; the same seed gives everybody the same questions."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from rislab.errors import InputError, check_number
from rislab.faults.catalogue import FAMILIES, FAULTS
from rislab.faults.comparison import shows_in_training
from rislab.faults.fault import Fault

CHOICES = 4
# Seed and number of questions in a panel, a key and a grade, if none are given.
SEED, COUNT = 1, 6
# Faults whose effect is a few tenths of a per cent: measured, but invisible in any figure.
UNSEEN = ("accumulated in bf16", "rounded to four digits")


@dataclass(frozen=True)
class Question:
    """One hidden fault."""

    number: int  # from 1
    fault: Fault  # the answer
    choices: tuple[str, ...]  # four names, one of them the fault's


def questions(seed: int, count: int = COUNT) -> list[Question]:
    """The questions of a seed: the same on every machine. Asked are the faults that a training shows.

    Args:
        seed: ≥ 0.
        count: of questions; each fault occurs once.

    Raises:
        InputError: for a seed or count out of range.
    """
    asked = candidates()
    check_number("seed", seed, 0, 2**63 - 1, integer=True)
    check_number("count", count, 1, len(asked), integer=True)
    # All are drawn, and each question has a generator of its own, so that a shorter quiz begins like a longer one.
    hidden = random.Random(seed).sample(asked, len(asked))[:count]
    return [
        Question(number, fault, _choices(fault, random.Random(f"{seed} {number}")))
        for number, fault in enumerate(hidden, start=1)
    ]


def candidates() -> list[Fault]:
    """The faults that can be told from the pictures and the log of a training."""
    return [fault for fault in FAULTS if shows_in_training(fault) and fault.name not in UNSEEN]


def _choices(fault: Fault, chance: random.Random) -> tuple[str, ...]:
    """The fault's name among others: those it is mistaken for first, then its own family, then any that show."""
    family = next(members for members in FAMILIES.values() if fault in members)
    known = [other.name for other in candidates()]
    others = [[*fault.mistaken_for], [member.name for member in family if member.name in known], known]
    names = [fault.name]
    for group in others:
        names += [name for name in chance.sample(group, len(group)) if name not in names][: CHOICES - len(names)]
    return tuple(chance.sample(names, CHOICES))


@dataclass
class Quiz:
    """Answers to the questions of a seed, and the score.

    Args:
        seed: ≥ 0; the same one asks the same everywhere.
        count: of questions, ≥ 1.
        answers: names by the number of their question, counted from 1.
    """

    seed: int
    count: int = COUNT
    answers: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.questions = questions(self.seed, self.count)

    @property
    def score(self) -> int:
        """Number of right answers."""
        return sum(self.answers.get(question.number) == question.fault.name for question in self.questions)

    def answer(self, number: int, name: str) -> str:
        """Take an answer and explain.

        Raises:
            InputError: for a question or a name that there is not, or a second answer to a question.
        """
        check_number("number", number, 1, self.count, integer=True)
        question = self.questions[number - 1]
        if name not in question.choices:
            raise InputError(f"name is {name!r}; allowed: {', '.join(question.choices)}")
        if number in self.answers:
            raise InputError(f"number is {number}, which is answered already; allowed: a question without an answer")
        self.answers[number] = name
        fault = question.fault
        head = "Right." if name == fault.name else f"No: it is not {name!r} but {fault.name!r}."
        return f"{head} {fault.story} {fault.description} ({self.score} of {len(self.answers)} right)"


def answer_key(seed: int, count: int = COUNT) -> list[str]:
    """The answers of a seed, for a teacher."""
    return [question.fault.name for question in questions(seed, count)]
