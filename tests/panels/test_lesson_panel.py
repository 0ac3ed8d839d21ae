"""Predictions lock an answer before the figure appears; exercises give hints, which are counted."""

from __future__ import annotations

import asyncio
import math
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from rislab.errors import InputError
from rislab.faults import exercises
from rislab.panels.exercise_panel import ExercisePanel
from rislab.panels.lesson_panel import Lesson
from rislab.panels.prediction_panel import HOLDS_FOR, PredictionPanel


async def awaited(panel: PredictionPanel) -> str:
    return await panel


def buttons(widget: object) -> dict[str, Any]:
    found = {}
    for child in getattr(widget, "children", ()):
        if hasattr(child, "click"):
            found[child.description.split(" (")[0]] = child
        found |= buttons(child)
    return found


def test_a_figure_waits_for_the_answer_which_is_locked() -> None:
    lesson = Lesson("start", live=True)
    panel = lesson.predict("sixteen snapshots")
    question, choices, _, outcome, _ = panel.widget.children
    waiting, output = panel.shows("3 of 3", go.Figure()).children
    assert "sixteen" in question.value and choices.value is None and outcome.value == ""
    assert output.outputs == () and "Lock an answer" in waiting.value
    assert buttons(panel.widget)["Lock my answer"].disabled
    choices.value = "some of them"
    lesson._repr_mimebundle_()
    buttons(panel.widget)["Lock my answer"].click()
    assert output.outputs[0]["text"] == "3 of 3\n" and "application/vnd.plotly.v1+json" in output.outputs[1]["data"]
    assert waiting.value == "" and choices.disabled and "none" in outcome.value and HOLDS_FOR in outcome.value
    with pytest.raises(InputError, match="locked already"):
        panel.lock("none")
    # The same cell again asks nothing anew, and later figures are there at once.
    assert lesson.predict("sixteen snapshots") is panel and asyncio.run(awaited(panel)) == "some of them"
    assert panel.shows("x").children[1].outputs
    assert repr(lesson).startswith("predictions: 0 right of 1 made, 3 asked")


def test_the_verdict_waits_in_a_live_notebook_until_all_predictions_are_locked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lesson = Lesson("start", live=True)
    asked = [lesson.predict(name) for name in ("sixteen snapshots", "one indent")]
    for panel, waiting in zip(asked, ("sixteen snapshots, one indent", "one indent"), strict=True):
        lesson.prints("NMSE 0.0123")
        lesson.prints("0.0123")
        text = capsys.readouterr().out
        assert text.count("\n") == 1 and text.endswith(f"run again: {waiting}\n") and "0.0123" not in text
        panel.lock(panel.prediction.choices[0])
    lesson.prints("NMSE 0.0123")
    assert capsys.readouterr().out == "NMSE 0.0123\n"
    # In a report nobody is asked, and all is shown.
    report = Lesson("start", live=False)
    report.predict("one indent")
    report.prints("NMSE 0.0123")
    assert capsys.readouterr().out == "NMSE 0.0123\n"


def test_a_panel_waits_in_a_live_notebook_and_appears_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    displayed: list[Any] = []
    monkeypatch.setattr("IPython.display.display", lambda *things: displayed.extend(things))
    lesson = Lesson("start", live=True)
    asked = [lesson.predict(name) for name in ("sixteen snapshots", "one indent")]
    panel = Lesson("start", live=True).predict("one indent")  # any panel
    lesson.displays(panel)
    waiting, output = displayed[0].children
    asked[0].lock("none")
    assert output.outputs == () and "Lock an answer to each prediction above" in waiting.value
    asked[1].skip()
    assert waiting.value == "" and output.outputs[0]["data"]["application/vnd.jupyter.widget-view+json"]
    # Once all are answered, and where none was asked, it is there at once.
    lesson.displays(panel)
    Lesson("start", live=True).displays(panel)
    assert displayed[1:] == [panel, panel]


def test_a_verdict_that_is_run_again_too_early_says_so_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lesson = Lesson("start", live=True)
    lesson.predict("one indent")
    for run in (1, 2):
        monkeypatch.setattr("IPython.get_ipython", lambda run=run: SimpleNamespace(execution_count=run))
        lesson.prints("a")
        lesson.prints("b")
        assert capsys.readouterr().out.count("\n") == 1


def test_nobody_has_to_answer() -> None:
    panel = Lesson("start", live=True).predict("one indent")
    output = panel.shows("x").children[1]
    buttons(panel.widget)["Show without an answer"].click()
    assert output.outputs and panel.answer == "" and "without an answer" in panel.widget.children[3].value


def test_without_widgets_question_and_answer_are_shown_or_neither_figure_nor_answer(
    capsys: pytest.CaptureFixture[str],
) -> None:
    teacher = Lesson("start", live=False).predict("one indent")
    text = teacher.static()["text/plain"]
    assert "Will the reported loss still fall?" in text and f"Answer: {teacher.prediction.right}" in text
    named = Lesson("your_loop", live=False).predict("exit code").static()
    assert "<code>rislab checkup</code> runs" in named["text/html"] and "`rislab checkup`" in named["text/plain"]
    teacher.shows("the figure")
    assert capsys.readouterr().out == "the figure\n"
    lesson = Lesson("start", live=False, answers=False)
    student = lesson.predict("one indent")
    assert "Answer" not in student.static()["text/plain"] and "Answer" not in student.static()["text/html"]
    student.shows("the figure")
    assert "the figure" not in capsys.readouterr().out
    lesson.prints("the verdict")
    lesson.prints("of it")
    assert capsys.readouterr().out.count("\n") == 1
    student.lock("no, it rises")
    lesson.prints("the verdict")
    assert capsys.readouterr().out == "the verdict\n"
    student.shows("the figure")
    assert capsys.readouterr().out == "the figure\n" and student.prediction.because in student.static()["text/plain"]


@pytest.mark.slow
def test_hints_are_counted_and_points_added() -> None:
    lesson = Lesson("fault_clinic", live=True)

    def of(*answer: Any) -> str:
        return cast(ExercisePanel, lesson.check(*answer)).feedback.text

    panel = cast(ExercisePanel, lesson.check("weights", lambda sizes: [1.0] * len(sizes)))
    hint = buttons(panel.widget)["Hint"]
    hint.click()
    assert lesson.score.endswith(", 1 hint")
    for _ in range(2):
        hint.click()
    assert hint.disabled and lesson.hints_taken == {"weights": 2}
    assert all(text in panel.widget.children[2].value for text in panel.exercise.hints)
    assert of("weights", lambda sizes: [size / sum(sizes) for size in sizes]) == "right"
    assert "2 of 16 points, 1 of 8 answered, 2 hints" in lesson.score
    # What cannot be read is a sentence, not a traceback.
    assert "allowed: a finite number" in of("suspect", "one") and "is nan; allowed: " in of("suspect", math.nan)
    for call in (
        lambda: lesson.predict("one indent"),
        lambda: lesson.hint("x"),
    ):
        with pytest.raises(InputError, match="name is"):
            call()


@pytest.mark.parametrize(
    ("arguments", "named", "sentence"),
    [
        (("supect", 1.0), {}, "name is 'supect', did you mean 'suspect'? allowed: suspect, ragged"),
        (("steering", None), {}, "name is 'steering'; allowed: "),
        ((), {}, "name is ''; allowed: "),
        ((len,), {}, "name is <built-in function len>; allowed: "),
        ((["suspect"], 1.0), {}, "name is ['suspect']"),
        (("suspect", 1.0, 2.0), {}, 'check() takes a name and an answer, such as lesson.check("suspect", answer)'),
        (("suspect",), {"anwser": 1.0}, 'check() takes a name and an answer, such as lesson.check("suspect", answer)'),
    ],
)
def test_a_call_that_cannot_be_is_a_sentence_and_counts_nothing(
    arguments: tuple[Any, ...], named: dict[str, Any], sentence: str
) -> None:
    lesson = Lesson("fault_clinic", live=True)
    before = lesson.score
    assert repr(lesson.check(*arguments, **named)).startswith(sentence)
    assert lesson.score == before


def test_a_number_of_numpy_or_torch_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exercises, "true_answer", lambda name: 0.5)
    for answer in (0.5, np.float32(0.5), np.array([0.5]), torch.tensor(0.5)):
        assert exercises.check("suspect", answer).right
    for wrong in (torch.ones(2), torch.tensor(True), torch.tensor(0.5j)):
        with pytest.raises(InputError, match="allowed: a finite number"):
            exercises.check("suspect", wrong)
