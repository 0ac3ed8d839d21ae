"""Students' copies answer nothing; the teacher's edition answers everything, and its answers earn all points."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from rislab.faults import exercises
from rislab.faults.lessons import lessons
from rislab.faults.quiz import COUNT, SEED, questions
from rislab.reports import classroom, grading, notebooks, runner
from tests.notebooks.small import SMALL

LESSONS = lessons()
# All of them on `make soak`; a short one and that of the exercises and the quiz each time.
RUN = list(SMALL) if os.environ.get("RISLAB_SOAK") else ["start", "fault_clinic"]


def answers(name: str) -> list[str]:
    """Sentences that answer what a notebook asks."""
    given = [one.because for one in LESSONS.predictions.values() if one.notebook == name]
    given += [f"Answer: {one.right}" for one in LESSONS.predictions.values() if one.notebook == name]
    for one in LESSONS.exercises.values():
        if one.notebook == name:
            given += [one.solution.strip(), *one.hints]
    return given


def printed_numbers(notebook: Any) -> list[float]:
    """Numbers in the texts below the cells."""
    texts = [output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", [])]
    return [float(number) for text in texts for number in re.findall(r"\d+\.\d+(?:e[-+]\d+)?", text)]


def shown(notebook: Any) -> str:
    """Sources and outputs, figures too, as one text."""
    parts = [cell.source for cell in notebook.cells]
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            parts += [output.get("text", ""), json.dumps(output.get("data", {}), ensure_ascii=False)]
    return "\n".join(parts)


def read(content: bytes) -> Any:
    import nbformat

    return nbformat.reads(content.decode(), as_version=4)


@pytest.mark.parametrize("name", notebooks.available())
def test_a_students_copy_answers_nothing(name: str) -> None:
    original = notebooks.read_notebook(notebooks.find_notebook(name))
    copy = read(classroom.student_notebook(notebooks.find_notebook(name), quiz_seed=7))
    text = shown(copy)
    assert [answer for answer in answers(name) if answer in text] == []
    assert text.count("answers=False") == 1 and ("quiz_seed: int = 7 " in text) == (name == "fault_clinic")
    assert copy.metadata["rislab"]["notebook"] == name
    # Only what explains is gone.
    removed = {cell.id for cell in original.cells} - {cell.id for cell in copy.cells}
    assert removed == {cell.id for cell in notebooks.tagged(original, "answer")}
    assert all(cell.cell_type == "markdown" for cell in notebooks.tagged(original, "answer"))


@pytest.mark.parametrize("name", notebooks.available())
def test_a_verdict_says_its_numbers_through_the_lesson(name: str) -> None:
    # Run All of a notebook would show them before anything is predicted.
    verdict = notebooks.code_cells(notebooks.read_notebook(notebooks.find_notebook(name)))[-1].source
    assert re.search(r"lesson\.displays\(\s*Measured\(", verdict) and not re.search(
        r"(?<![\w.])(print|display)\(", verdict
    )


@pytest.mark.process
@pytest.mark.parametrize("name", RUN)
def test_run_all_of_a_students_copy_shows_no_answer(name: str, tmp_path: Path) -> None:
    path = tmp_path / notebooks.find_notebook(name).name
    path.write_bytes(classroom.student_notebook(notebooks.find_notebook(name)))
    values = {} if os.environ.get("RISLAB_SOAK") else SMALL[name]
    done = runner.run_notebook(name, values, out=tmp_path / "out", folder=tmp_path, progress=False)
    assert done.ok, done.error
    executed = notebooks.read_notebook(done.notebook)
    text = shown(executed)
    assert [answer for answer in answers(name) if answer in text] == []
    predictions = [one for one in LESSONS.predictions.values() if one.notebook == name]
    assert all(f"Predict: {one.question}" in text.replace('\\\\"', '"') for one in predictions)
    assert text.count("appears once an answer is locked") >= len(predictions)
    # The verdict is true, and says no number.
    (verdict,) = executed.cells[-1].outputs
    assert (
        verdict.text.startswith("numbers appear here once these predictions are locked")
        and verdict.text.count("\n") == 1
    )
    # A number that is asked for is not printed anywhere; a whole one may be, of something else.
    numbers = [one.name for one in LESSONS.exercises.values() if one.notebook == name and one.kind == "number"]
    fractions = [answer for one in numbers if (answer := float(exercises.true_answer(one))) != int(answer)]
    assert [n for n in printed_numbers(executed) if any(abs(n / number - 1) < 1e-4 for number in fractions)] == []


@pytest.mark.process
def test_the_teachers_edition_earns_all_points_and_the_students_none(tmp_path: Path) -> None:
    classroom.write_teachers_edition(tmp_path / "class" / "teacher")
    for path in notebooks.available().values():
        student = tmp_path / "class" / "student" / path.name
        student.parent.mkdir(exist_ok=True)
        student.write_bytes(classroom.student_notebook(path))
    (student, teacher), notes = grading.grade(tmp_path / "class", run=True)
    assert teacher.points == teacher.most, teacher
    assert student.points == 0 and {mark.verdict for mark in student.marks.values()} == {"no answer"}
    assert not [*teacher.missing, *teacher.remarks, *student.missing, *student.remarks]
    assert re.match(r"\d+ functions were run, each in a process of its own", notes[0])
    key = (tmp_path / "class" / "teacher" / "key.md").read_text()
    for question in questions(SEED, COUNT):
        assert f"{question.number}. **{question.fault.name}**" in key
    assert all(f"**{one.name}**" in key for one in LESSONS.exercises.values())
    assert all(one.because in key for one in LESSONS.predictions.values())
    plan = (tmp_path / "class" / "teacher" / "lesson_plan.md").read_text()
    assert all(f"## {minutes} minutes" in plan for minutes in (45, 90, 180))
