"""What a notebook asks: predictions, which lock an answer before a figure appears, and exercises with hints."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any, TypeVar

from rislab.errors import InputError, check_choice, did_you_mean, shown
from rislab.faults.exercises import NO_ANSWER, Feedback, check, points
from rislab.faults.lessons import Exercise, Prediction, lessons
from rislab.faults.quiz import SEED
from rislab.panels.exercise_panel import ExercisePanel
from rislab.panels.prediction_panel import PredictionPanel, withheld

Asked = TypeVar("Asked", Exercise, Prediction)


class Lesson:
    """The questions of one notebook, and the score; its text is the score.

    Args:
        notebook: name of its report.
        live: whether to make widgets.
        answers: without widgets, whether a prediction shows its answer; False in copies for students.
        quiz_seed: of the quiz.
    """

    def __init__(self, notebook: str, *, live: bool, answers: bool = True, quiz_seed: int = SEED) -> None:
        check_choice("notebook", notebook, lessons().preparations)
        self.notebook, self.live, self.answers, self.quiz_seed = notebook, live, answers, quiz_seed
        self.predictions: dict[str, PredictionPanel] = {}
        self.feedback: dict[str, Feedback] = {}
        self.hints_taken: dict[str, int] = {}
        self._scores: list[Any] = []
        self._withheld: list[Callable[[], None]] = []
        self._refused: object = None  # what waited for answers last, and in which run of a cell

    def predict(self, name: str) -> PredictionPanel:
        """Ask a prediction of this notebook; asked again, it stays as it was answered.

        Raises:
            InputError: for a prediction that this notebook does not have.
        """
        known = of_notebook(lessons().predictions, self.notebook)
        check_choice("name", name, known)
        if name not in self.predictions:
            self.predictions[name] = PredictionPanel(
                known[name], live=self.live, answers=self.answers, on_answer=self._redraw
            )
        return self.predictions[name]

    def check(self, name: str = "", answer: Any = None, *more: Any, **named: Any) -> ExercisePanel | Feedback:
        """Check an answer; whatever is wrong with it, or with the call, is a sentence.

        Args:
            name: of an exercise of this notebook.
            answer: see rislab.faults.exercises.check().
            more: refused.
            named: refused.

        Returns:
            The panel of the exercise; of a call that names none the sentence alone, which no score counts.
        """
        known = of_notebook(lessons().exercises, self.notebook)
        exercise = known.get(name) if isinstance(name, str) else None
        if exercise is None:
            return Feedback(None, f"name is {shown(name)}{did_you_mean(shown(name), known)}")
        if more or named:
            return Feedback(None, f'check() takes a name and an answer, such as lesson.check("{name}", answer)')
        try:
            feedback = check(name, answer, quiz_seed=self.quiz_seed)
        except InputError as error:
            feedback = Feedback(None, str(error))
        self.feedback[name] = feedback
        self._redraw()
        return ExercisePanel(
            exercise, feedback, lambda: self.hints_taken.get(name, 0), lambda: self.hint(name), live=self.live
        )

    def hint(self, name: str) -> str:
        """The next hint of an exercise, which is counted; the last one again, uncounted, if there is no other.

        Raises:
            InputError: for an exercise that this notebook does not have.
        """
        hints, taken = self._exercise(name).hints, self.hints_taken.get(name, 0)
        self.hints_taken[name] = min(taken + 1, len(hints))
        self._redraw()
        return hints[self.hints_taken[name] - 1]

    def prints(self, *values: object, **options: Any) -> None:
        """print(), once all predictions of the notebook are answered; before, it says so, once in a run of a cell."""
        if self._is_answered():
            print(*values, **options)

    def displays(self, *things: Any) -> None:
        """display(), once all predictions are answered that were asked; before, a widget waits or a line says so."""
        from IPython.display import display

        if self.live and self._waiting:
            page, show = withheld(things, "Lock an answer to each prediction above, and what follows appears here.")
            self._withheld.append(show)
            display(page)
        elif self._is_answered():
            display(*things)

    @property
    def _waiting(self) -> list[str]:
        """Names of the predictions that were asked and are not answered."""
        return [name for name, panel in self.predictions.items() if not panel.shown]

    def _is_answered(self) -> bool:
        from IPython import get_ipython

        waiting = self._waiting
        refused = (waiting, getattr(get_ipython(), "execution_count", None))
        if waiting and refused != self._refused:
            names = ", ".join(waiting)
            print(f"numbers appear here once these predictions are locked, and the cell is run again: {names}")
        self._refused = refused
        return not waiting

    @property
    def score(self) -> str:
        """Where this notebook stands, in one sentence."""
        exercises = of_notebook(lessons().exercises, self.notebook)
        earned = sum(self.feedback[name].earned * points(exercises[name]) for name in self.feedback)
        given = [panel for panel in self.predictions.values() if panel.answer]
        right = sum(panel.is_right for panel in given)
        predictions = of_notebook(lessons().predictions, self.notebook)
        hints = sum(self.hints_taken.values())
        answered = sum(feedback.text != NO_ANSWER for feedback in self.feedback.values())
        return (
            f"predictions: {right} right of {len(given)} made, {len(predictions)} asked; exercises: "
            f"{earned:g} of {sum(map(points, exercises.values()))} points, {answered} of {len(exercises)} answered, "
            f"{hints} {'hint' if hints == 1 else 'hints'}"
        )

    def _exercise(self, name: str) -> Exercise:
        known = of_notebook(lessons().exercises, self.notebook)
        check_choice("name", name, known)
        return known[name]

    def _redraw(self) -> None:
        while self._withheld and not self._waiting:
            self._withheld.pop(0)()
        for field in self._scores:
            field.value = self._as_html

    @property
    def _as_html(self) -> str:
        return f"<div style='font-size:14px;line-height:1.45'>{html.escape(self.score)}</div>"

    def __repr__(self) -> str:
        return self.score

    def _repr_mimebundle_(self, **options: Any) -> Any:
        """The score, which follows what is answered later; without widgets its text."""
        if not self.live:
            return {"text/plain": self.score}
        import ipywidgets as widgets

        self._scores.append(widgets.HTML(self._as_html))
        return self._scores[-1]._repr_mimebundle_(**options)


def of_notebook(asked: dict[str, Asked], notebook: str) -> dict[str, Asked]:
    """Those of the exercises or predictions that belong to a notebook."""
    return {name: one for name, one in asked.items() if one.notebook == notebook}
