"""What the notebooks ask of a student, read from lessons.yaml: exercises, predictions, words, plans for a class."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from rislab import files

SOURCE = Path(__file__).with_name("lessons.yaml")
KINDS = ("number", "word", "quiz", "code")
STARS = "★★★"


@dataclass(frozen=True)
class Exercise:
    """A question whose answer a run or a law can judge.

    Args:
        name: by which a notebook asks for its check.
        notebook: name of its report.
        level: of difficulty, 1 … 3.
        question: as in the notebook, in short.
        kind: of the answer, one of KINDS.
        hints: from the gentlest.
        solution: a sentence, or source for code; the teacher's.
        start: source of code as a student gets it.
        loop: setting in which a training loop is watched; empty if the code is none.
    """

    name: str
    notebook: str
    level: int
    question: str
    hints: tuple[str, ...]
    solution: str
    kind: str = "code"
    start: str = ""
    loop: Mapping[str, Any] = field(default_factory=dict)

    @property
    def mark(self) -> str:
        """The level as stars."""
        return STARS[: self.level]

    @property
    def function(self) -> str:
        """Name of the function that is to be written; "" if the answer is no code."""
        return function_names(self.start)[-1] if self.start else ""


@dataclass(frozen=True)
class Prediction:
    """A question before a figure, with an answer that is locked before the figure appears.

    Args:
        name: by which a notebook asks it.
        notebook: name of its report.
        question: as it is shown.
        choices: answers.
        right: the right one of them, at the notebook's defaults.
        because: why, in a sentence or two.
    """

    name: str
    notebook: str
    question: str
    choices: tuple[str, ...]
    right: str
    because: str


@dataclass(frozen=True)
class Preparation:
    """What stands on top of a notebook.

    Args:
        minutes: that it takes to read and to answer.
        level: of difficulty, 1 … 3.
        needs: what to know, or to have done, before.
    """

    minutes: int
    level: int
    needs: str


@dataclass(frozen=True)
class Lessons:
    """Everything that lessons.yaml declares.

    Args:
        exercises: by name.
        predictions: by name.
        preparations: by notebook.
        words: explanation by word.
        plans: (minutes, notebook or "", what is done) in their order, by minutes in all.
    """

    exercises: dict[str, Exercise]
    predictions: dict[str, Prediction]
    preparations: dict[str, Preparation]
    words: dict[str, str]
    plans: dict[int, list[tuple[int, str, str]]]


@cache
def lessons() -> Lessons:
    """The lessons of this package, read once."""
    content = files.parse_yaml(SOURCE.read_text(encoding="utf-8"))
    exercises = {
        name: Exercise(name=name, **{**fields, "hints": tuple(fields["hints"])})
        for name, fields in content["exercises"].items()
    }
    predictions = {
        name: Prediction(name=name, **{**fields, "choices": tuple(fields["choices"])})
        for name, fields in content["predictions"].items()
    }
    preparations = {name: Preparation(**fields) for name, fields in content["notebooks"].items()}
    plans = {minutes: [tuple(part) for part in parts] for minutes, parts in content["plans"].items()}
    return Lessons(exercises, predictions, preparations, content["words"], plans)


def function_names(source: str) -> list[str]:
    """Names of the functions that a source defines at its margin."""
    return [node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]


def about(notebook: str, text: str) -> str:
    """The cell that stands below the title of a notebook: time, level, what to know before, and words.

    Args:
        notebook: name of its report.
        text: of all its cells; the words that occur in it are explained.
    """
    stated = lessons().preparations[notebook]
    head = f"**Time** {stated.minutes} minutes · **Level** {STARS[: stated.level]} · **You need** {stated.needs}."
    used = {word: meaning for word, meaning in lessons().words.items() if re.search(rf"\b{word}", text)}
    return "\n".join([head, "", "**Words**", "", *(f"* *{word}*: {meaning}." for word, meaning in used.items())])
