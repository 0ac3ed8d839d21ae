"""Exercises with a check that tells right from wrong: the truth is measured when it is asked for, and never shown."""

from __future__ import annotations

import ast
import inspect
import math
import textwrap
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch

from rislab.errors import InputError, check_choice, shown
from rislab.faults import code_checks, story
from rislab.faults.catalogue import find_fault
from rislab.faults.comparison import ComparisonCache, attribute_run
from rislab.faults.fault import source_of
from rislab.faults.lessons import Exercise, lessons
from rislab.faults.loop_layout import statement_places
from rislab.faults.quiz import COUNT, SEED, answer_key
from rislab.faults.symptoms import OF_A_TRAINING

ONE_EPOCH = {"epochs": 1}
EXERCISES = lessons().exercises
# Share of the truth by which a number may be off.
TOLERANCE = 0.02
TOLERANCES = {"last batch": 1e-5}
NO_ANSWER = "no answer yet"


@dataclass(frozen=True)
class Feedback:
    """What a check says."""

    right: bool | None  # None without an answer
    text: str  # one sentence
    share: float | None = None  # of the points; None for all or nothing

    def __repr__(self) -> str:
        return self.text

    @property
    def earned(self) -> float:
        """Share of the points that the answer earns."""
        return float(self.right is True) if self.share is None else self.share


def points(exercise: Exercise) -> int:
    """What an exercise is worth: 1 for a number or a word, the level for code, 1 for each question of the quiz."""
    return COUNT if exercise.kind == "quiz" else exercise.level if exercise.kind == "code" else 1


def check(name: str, answer: Any, *, quiz_seed: int = SEED) -> Feedback:
    """Check an answer; None says that there is none yet, and nothing is run.

    Code is called here and now; whatever it raises becomes a sentence.

    Args:
        name: of an exercise.
        answer: a number, a word, a list of names or a function, as the exercise asks.
        quiz_seed: of the quiz that is answered.

    Raises:
        InputError: for an unknown exercise, or an answer of the wrong kind.
    """
    check_choice("name", name, EXERCISES)
    exercise = EXERCISES[name]
    if answer is None:
        return Feedback(None, NO_ANSWER)
    answer = _plain(answer)
    if exercise.kind == "code":
        if not callable(answer):
            raise InputError(f"answer is {shown(answer)}; allowed: the function {exercise.function}")
        return check_function(exercise, answer)
    if exercise.kind == "quiz":
        return _check_quiz(answer, quiz_seed)
    truth = true_answer(name)
    if isinstance(truth, str):
        if not isinstance(answer, str):
            raise InputError(f"answer is {shown(answer)}; allowed: a word in quotes")
        right = answer.strip().lower() == truth
    else:
        if isinstance(answer, bool) or not isinstance(answer, int | float) or not math.isfinite(answer):
            raise InputError(f"answer is {shown(answer)}; allowed: a finite number")
        right = abs(answer - truth) <= TOLERANCES.get(name, TOLERANCE) * abs(truth)
    return Feedback(right, "right" if right else "not yet")


def _plain(answer: Any) -> Any:
    """A number of NumPy or torch as Python's own; anything else as it is."""
    if isinstance(answer, torch.Tensor | np.generic | np.ndarray) and math.prod(answer.shape) == 1:
        return answer.item()
    return answer


def check_function(exercise: Exercise, function: Callable[..., Any]) -> Feedback:
    """Check the function that answers an exercise by calling it; whatever it raises becomes a sentence."""
    if _is_start(exercise, function):
        return Feedback(None, NO_ANSWER)
    try:
        problem = code_checks.problem_of(exercise, function)
    except NotImplementedError:
        return Feedback(None, NO_ANSWER)
    except (Exception, SystemExit) as error:
        problem = f"{exercise.function}() raised {in_short(error)}"
    except KeyboardInterrupt as interrupt:
        problem = f"{exercise.function}() was interrupted{_place(interrupt)}: does it ever end?"
    return Feedback(not problem, f"not yet: {problem}" if problem else "right")


def _is_start(exercise: Exercise, function: Callable[..., Any]) -> bool:
    """Whether a function is the one that the exercise begins with, comments and blanks aside."""
    try:
        source = textwrap.dedent(inspect.getsource(function))
        return same_code(source, exercise.start)
    except (OSError, TypeError, SyntaxError):
        return False


def same_code(source: str, start: str) -> bool:
    """Whether the functions of two sources are the same, comments and blanks aside; raises SyntaxError."""
    trees = [[node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)] for text in (source, start)]
    return [ast.dump(node) for node in trees[0]] == [ast.dump(node) for node in trees[1]]


def in_short(error: BaseException) -> str:
    """The type and text of an exception, and the last line of the student's code that it passed."""
    text = " ".join(str(error).split())
    text = text if len(text) <= 160 else f"{text[:159]}…"
    return f"{type(error).__name__}{f': {text}' if text else ''}{_place(error)}"


def _place(error: BaseException) -> str:
    """The last line of the student's code that an exception passed, in brackets; "" if it passed none."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)[1:] if _is_answer(frame.filename)]
    return f" (line {lines[-1]} of the cell)" if lines else ""


def _is_answer(filename: str) -> bool:
    """Whether a frame is of a cell or of a hand-in, and not of a package."""
    return "ipykernel" in filename or filename.startswith("<")


def _check_quiz(answer: Any, seed: int) -> Feedback:
    if not isinstance(answer, list | tuple) or not all(isinstance(one, str) for one in answer):
        raise InputError(f"answer is {shown(answer)}; allowed: a list of names in quotes")
    key = answer_key(seed)
    right = sum(one.strip().lower() == name.lower() for one, name in zip(answer, key, strict=False))
    return Feedback(right == len(key), f"{right} of {len(key)} right", right / len(key))


@cache
def true_answer(name: str) -> float | str:
    """The right number or word, measured when first asked for, by runs that are the same each time."""
    return TRUTHS[name]()


def _quantity(fault: str, quantity: str, **changes: object) -> float:
    attribution, _ = attribute_run(find_fault(fault), {**ONE_EPOCH, **changes})
    return OF_A_TRAINING[quantity](attribution)


def _last_weight() -> float:
    """Weight of the last micro-batch of an epoch in the step of its window."""
    attribution, _ = attribute_run(find_fault("ragged window divided by K"), ONE_EPOCH)
    return float(attribution.micro_batch_weights[-1, -1])


def _sensitive_optimiser() -> str:
    """The optimiser under which "never divided" moves the NMSE after the last epoch by the larger factor."""
    cache = ComparisonCache()
    apart = {}
    for optimiser in ("adam", "sgd"):
        run = cache.compare_runs(find_fault("never divided"), optimiser=optimiser)
        apart[optimiser] = abs(
            math.log(run.faulty.epoch_records[-1].train_eval / run.correct.epoch_records[-1].train_eval)
        )
    return max(apart, key=lambda name: apart[name])


def _ticks(fault: str) -> int:
    """Ticks of the schedule in the first epoch of a replay."""
    return story.replay(story.StoryConfig(epochs=3), fault).first_epoch.scheduler_ticks


def _column(fault: str = "correct loop") -> int:
    """Column of backward() in a variant of the loop."""
    name = story.LOOP_VARIANTS[fault].fault
    source = find_fault(name).edited() if name else source_of("training.loop")
    return next(place.column for place in statement_places(source) if place.name == "backward")


def _beside(*extra_faults: str) -> story.Replay:
    """The correct loop with extra faults, as the panel replays it."""
    return story.replay(story.StoryConfig().short, extra_faults=extra_faults, curriculum="three-phase")


TRUTHS: dict[str, Callable[[], float | str]] = {
    "suspect": lambda: _quantity("divided on the first batch only", "α of the first window", accumulation_steps=1),
    "ragged": _last_weight,
    "zeroed": lambda: _quantity(
        "zeroed per micro-batch", "share of micro-batches that reached a step", accumulation_steps=2
    ),
    "optimiser": _sensitive_optimiser,
    "effective": lambda: float(attribute_run(find_fault("step per micro-batch"), ONE_EPOCH)[0].steps.sum()),
    "last batch": lambda: story.replay(story.StoryConfig(), "stage two").batch_losses[6][-1],
    "ticks": lambda: _ticks("correct loop") / _ticks("stage two"),
    "column": lambda: float(_column() - _column("stage two")),
    "undone": lambda: (
        _beside("singular vectors differentiated", "sources supervised by slot").first_epoch.steps_applied
    ),
    "leak": lambda: (leaky := _beside("split leakage")).fresh_nmse[-1] / leaky.validations[-1],
}
