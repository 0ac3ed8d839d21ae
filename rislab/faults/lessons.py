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
    """A question whose answer a run or a law can judge."""

    name: str  # by which a notebook asks for its check
    notebook: str  # name of its report
    level: int  # of difficulty, 1 … 3
    question: str  # as in the notebook, in short
    hints: tuple[str, ...]  # from the gentlest
    solution: str  # a sentence, or source for code; the teacher's
    kind: str = "code"  # of the answer, one of KINDS
    start: str = ""  # source of code as a student gets it
    # setting in which a training loop is watched; empty if the code is none
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
    """A question before a figure, with an answer that is locked before the figure appears."""

    name: str  # by which a notebook asks it
    notebook: str  # name of its report
    question: str  # as it is shown
    choices: tuple[str, ...]  # answers
    right: str  # the right one of them, at the notebook's defaults
    because: str  # why, in a sentence or two


@dataclass(frozen=True)
class Preparation:
    """What stands on top of a notebook."""

    minutes: int  # that it takes to read and to answer
    level: int  # of difficulty, 1 … 3
    needs: str  # what to know, or to have done, before


@dataclass(frozen=True)
class Lessons:
    """Everything that lessons.yaml declares."""

    exercises: dict[str, Exercise]  # by name
    predictions: dict[str, Prediction]  # by name
    preparations: dict[str, Preparation]  # by notebook
    words: dict[str, str]  # explanation by word
    # (minutes, notebook or "", what is done) in their order, by minutes in all
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
    """The cell below the title of a notebook: time, level, what to know before, and the words that its text uses."""
    stated = lessons().preparations[notebook]
    head = f"**Time** {stated.minutes} minutes · **Level** {STARS[: stated.level]} · **You need** {stated.needs}."
    used = {word: meaning for word, meaning in lessons().words.items() if re.search(rf"\b{word}", text)}
    return "\n".join([head, "", "**Words**", "", *(f"* *{word}*: {meaning}." for word, meaning in used.items())])
