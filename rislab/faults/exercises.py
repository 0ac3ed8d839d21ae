"""Exercises with a check that tells right from wrong: the truth is measured when it is asked for, and never shown."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from rislab.errors import InputError, check_choice
from rislab.faults import story
from rislab.faults.catalogue import find_fault
from rislab.faults.comparison import ComparisonCache, attribute_run
from rislab.faults.fault import source_of
from rislab.faults.loop_layout import statement_places
from rislab.faults.symptoms import OF_A_TRAINING

ONE_EPOCH = {"epochs": 1}


@dataclass(frozen=True)
class Feedback:
    """What a check says: `right` is None without an answer."""

    right: bool | None
    text: str

    def __repr__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Exercise:
    """A question whose answer a run can give.

    Args:
        question: as in the notebook, in short.
        truth: runs, and returns a number or a word.
        hint: for a wrong answer.
        tolerance: share of the truth by which a number may be off.
    """

    question: str
    truth: Callable[[], float | str]
    hint: str
    tolerance: float = 0.02


def check(name: str, answer: float | str | None) -> Feedback:
    """Check an answer; None says that there is none yet, and nothing is run.

    Args:
        name: of an exercise.
        answer: a number, or a word where the exercise asks for one.

    Raises:
        InputError: for an unknown exercise, or an answer of the wrong kind.
    """
    check_choice("name", name, EXERCISES)
    exercise = EXERCISES[name]
    if answer is None:
        return Feedback(None, "no answer yet")
    truth = _truth(name)
    if isinstance(truth, str):
        if not isinstance(answer, str):
            raise InputError(f"answer is {answer!r}; allowed: a word in quotes")
        right = answer.strip().lower() == truth
    else:
        if isinstance(answer, str | bool) or not math.isfinite(answer):
            raise InputError(f"answer is {answer!r}; allowed: a number")
        right = abs(answer - truth) <= exercise.tolerance * abs(truth)
    return Feedback(right, "right" if right else f"not yet: {exercise.hint}")


@cache
def _truth(name: str) -> float | str:
    """Measured when first asked for: the runs that tell it are the same each time."""
    return EXERCISES[name].truth()


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


EXERCISES = {
    "suspect": Exercise(
        'α of the first window with "divided on the first batch only" and one micro-batch a window',
        lambda: _quantity("divided on the first batch only", "α of the first window", accumulation_steps=1),
        "with one micro-batch in the window, what is the number that the loss should have been divided by?",
    ),
    "ragged": Exercise(
        'weight of the last micro-batch of an epoch with "ragged window divided by K"',
        _last_weight,
        "the last window has 20 scenes, its last micro-batch 4 of them: hold 1/K against that share",
    ),
    "zeroed": Exercise(
        'share of the micro-batches that reach a step with "zeroed per micro-batch"',
        lambda: _quantity("zeroed per micro-batch", "share of micro-batches that reached a step"),
        "count the rows of the grid, and in each the micro-batches that no zero_grad comes after",
    ),
    "optimiser": Exercise(
        'optimiser whose curves give "never divided" away: adam or sgd',
        _sensitive_optimiser,
        "which of the two divides a gradient by its own size before it steps?",
    ),
    "effective": Exercise(
        'steps that an epoch takes with "step per micro-batch"',
        lambda: float(attribute_run(find_fault("step per micro-batch"), ONE_EPOCH)[0].steps.sum()),
        "84 scenes in micro-batches of 8: how many are there?",
    ),
    "last batch": Exercise(
        "true loss of the last batch of epoch 3 of stage two",
        lambda: story.replay(story.StoryConfig(), "stage two").batch_losses[2][-1],
        "the log holds the loss of one batch over the number of all: six digits of it, times that number",
        tolerance=1e-5,
    ),
    "ticks": Exercise(
        "epochs of stage two for as many scheduler ticks as one epoch of the correct loop",
        lambda: _ticks("correct loop") / _ticks("stage two"),
        "the schedule is ticked once for each step that is applied: how many are in an epoch of each?",
    ),
    "column": Exercise(
        "columns by which backward() of stage two must move to the right",
        lambda: float(_column() - _column("stage two")),
        "hold its column in the table of stage two against that in the table of the correct loop",
    ),
    "undone": Exercise(
        "steps applied in epoch 1 with singular vectors differentiated and sources supervised by slot",
        lambda: _beside("singular vectors differentiated", "sources supervised by slot").first_epoch.steps_applied,
        "each of the two edits the subspace term: who still calls what the other has changed?",
    ),
    "leak": Exercise(
        "true NMSE on fresh scenes over the last validation, with split leakage alone",
        lambda: (leaky := _beside("split leakage")).fresh_nmse[-1] / leaky.validations[-1],
        "the panel's sentence holds both: the second over the first, with the correct loop and one box ticked",
    ),
}
