"""What a check says of an answer, and hints for those who ask."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any

from rislab.faults.exercises import Feedback, points
from rislab.faults.lessons import Exercise
from rislab.panels.base import Panel, say

MARKS = {True: "✓", False: "✗", None: "·"}


class ExercisePanel(Panel[Feedback]):
    """The feedback to an answer; awaiting it gives that at once.

    Attributes:
        feedback: what the check said.

    Args:
        exercise: that was answered.
        feedback: what the check said.
        hints_taken: how many hints were asked for.
        on_hint: called when one more is asked for.
        live: whether to make widgets.
    """

    def __init__(
        self,
        exercise: Exercise,
        feedback: Feedback,
        hints_taken: Callable[[], int],
        on_hint: Callable[[], object],
        *,
        live: bool,
    ) -> None:
        self.exercise, self.feedback, self.hints_taken, self.on_hint = exercise, feedback, hints_taken, on_hint
        super().__init__(live=live)
        self.redraw()

    def result(self) -> Feedback:
        return self.feedback

    async def _wait(self) -> Feedback:
        return self.feedback

    def ask_for_hint(self) -> None:
        """Show one more hint."""
        self.on_hint()
        self.redraw()

    def build(self) -> tuple[Any, Callable[[], None]]:
        import ipywidgets as widgets

        sentence, hints = widgets.HTML(), widgets.HTML()
        button = widgets.Button(icon="lightbulb-o", layout={"width": "150px"})
        button.on_click(lambda button: self.ask_for_hint())

        def draw() -> None:
            taken, number = self.hints_taken(), len(self.exercise.hints)
            sentence.value = (
                f"<div style='line-height:1.45;font-size:14px'><b>{MARKS[self.feedback.right]}</b> "
                f"{html.escape(self.feedback.text)} <span style='opacity:.75'>({self._worth})</span></div>"
            )
            button.description = f"Hint ({taken} of {number})"
            button.disabled = taken == number
            rows = "".join(f"<li>{html.escape(hint)}</li>" for hint in self.exercise.hints[:taken])
            say(hints, f"<ol style='margin:2px 0;line-height:1.45;font-size:14px'>{rows}</ol>" if rows else "")

        return widgets.VBox([sentence, button, hints, self.alarm]), draw

    @property
    def _worth(self) -> str:
        most = points(self.exercise)
        return f"{self.exercise.mark}, {self.feedback.earned * most:g} of {most} {'point' if most == 1 else 'points'}"

    def static(self) -> dict[str, Any]:
        return {"text/plain": f"{self.feedback.text} ({self._worth})"}
