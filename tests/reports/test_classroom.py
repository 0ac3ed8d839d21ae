"""Students' copies answer nothing; the teacher's edition answers everything, and its answers earn all points."""

from __future__ import annotations

import html
import os
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

from rislab.faults import exercises
from rislab.faults.lessons import lessons
from rislab.faults.quiz import COUNT, SEED, questions
from rislab.reports import classroom, grading, notebooks, runner
from tests.notebooks.small import SMALL

LESSONS = lessons()
# All of them on `make soak`; a short one and that of the exercises and the quiz each time.
RUN = list(SMALL) if os.environ.get("RISLAB_SOAK") else ["start", "fault_clinic"]


# Beginnings of what the notebooks draw or print that answers a prediction before its figure does.
EVIDENCE = {
    "precision": ["precision_table(", "cell.line()", ".why"],
    "overfit": ["ladder_figure(", "lines=lines"],
    "music": ["Error of the direction by the model"],
    "your_data": ["residual_panels("],
}


def flat(text: str) -> str:
    """Words alone: a page writes them with tags and entities, a cell breaks its lines, Markdown has its marks."""
    return " ".join(re.sub(r"</?[a-z][^<>]*>|[`\\]", "", html.unescape(text)).split())


def answers(name: str) -> list[str]:
    """Sentences and lines of code that answer what a notebook asks, as words."""
    given = [one.because for one in LESSONS.predictions.values() if one.notebook == name]
    given += [f"Answer: {one.right}" for one in LESSONS.predictions.values() if one.notebook == name]
    exercises = [one for one in LESSONS.exercises.values() if one.notebook == name]
    # A line that an exercise of the notebook begins with is no answer to another one.
    begun = {line.strip() for one in exercises for line in one.start.splitlines()}
    for one in exercises:
        given += [*one.hints, *([] if one.kind == "code" else [one.solution])]
        given += [line.strip() for line in one.solution.splitlines() if line.strip() not in begun]
    return [flat(one) for one in given if one.strip()]


def printed_numbers(notebook: Any) -> list[float]:
    """Numbers in the texts below the cells."""
    texts = [output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", [])]
    return [float(number) for text in texts for number in re.findall(r"\d+\.\d+(?:e[-+]\d+)?", text)]


def shown(notebook: Any) -> str:
    """Sources and outputs, figures too, as one text."""
    parts = [cell.source for cell in notebook.cells]
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            parts += [output.get("text", ""), *texts_of(output.get("data", {}))]
    return "\n".join(parts)


def texts_of(value: Any) -> list[str]:
    """All texts in the data of an output, its keys too."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for key, one in value.items() for text in (key, *texts_of(one))]
    return [text for one in value for text in texts_of(one)] if isinstance(value, list) else []


def leaks(name: str, notebook: Any) -> list[str]:
    """Answers that a notebook shows in its cells or below them."""
    text = shown(notebook)
    words = flat(text)
    found = [answer for answer in answers(name) if answer in words]
    # A solution may be its beginning with another indent.
    solutions = [one.solution.strip() for one in LESSONS.exercises.values() if one.notebook == name]
    found += [solution for solution in solutions if solution in text]
    # A number that is asked for is not printed anywhere; a whole one may be, of something else.
    asked = [one.name for one in LESSONS.exercises.values() if one.notebook == name and one.kind == "number"]
    fractions = [answer for one in asked if (answer := float(exercises.true_answer(one))) != int(answer)]
    numbers = printed_numbers(notebook)
    return found + [str(n) for n in numbers if any(abs(n / number - 1) < 1e-4 for number in fractions)]


def read(content: bytes) -> Any:
    return nbformat.reads(content.decode(), as_version=4)


@pytest.mark.parametrize("name", notebooks.available())
def test_a_students_copy_answers_nothing(name: str) -> None:
    original = notebooks.read_notebook(notebooks.find_notebook(name))
    copy = read(classroom.student_notebook(notebooks.find_notebook(name), quiz_seed=7))
    text = shown(copy)
    assert leaks(name, copy) == []
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
    assert leaks(name, executed) == []
    predictions = [one for one in LESSONS.predictions.values() if one.notebook == name]
    assert all(f"Predict: {one.question}" in text for one in predictions)
    assert text.count("appears once an answer is locked") >= len(predictions)
    # The verdict is true, and says no number.
    (verdict,) = executed.cells[-1].outputs
    assert (
        verdict.text.startswith("numbers appear here once these predictions are locked")
        and verdict.text.count("\n") == 1
    )


@pytest.mark.parametrize("name", EVIDENCE)
def test_what_answers_a_prediction_waits_for_it(name: str) -> None:
    copy = read(classroom.student_notebook(notebooks.find_notebook(name)))
    for evidence in EVIDENCE[name]:
        cells = [cell.source for cell in notebooks.code_cells(copy) if evidence in cell.source]
        assert cells and all(re.search(r"(prediction_\d\.shows|lesson\.(prints|displays))\(", one) for one in cells), (
            cells
        )


# Panels that show what a prediction asks: the table of number formats; lines of predictors, and the checkup's verdict.
@pytest.mark.parametrize(("name", "asked"), [("precision", 3), ("overfit", 2)])
def test_a_panel_that_answers_predictions_comes_after_them(name: str, asked: int) -> None:
    sources = [cell.source for cell in notebooks.code_cells(notebooks.read_notebook(notebooks.find_notebook(name)))]
    (place,) = [place for place, source in enumerate(sources) if f"panel = rislab.panels.{name}(" in source]
    assert sources[place].endswith("lesson.displays(panel)")
    assert sum("lesson.predict(" in source for source in sources[:place]) == asked


LEAKS = {
    "the edition itself": 'lesson.answers = True\nlesson.predictions.clear()\nlesson.predict("clipped scaled")',
    "in two pieces": "sys.stdout.write(because[:40]), sys.stdout.flush(), sys.stdout.write(because[40:])",
    "in a figure": 'plotly.graph_objects.Figure(layout={"title": {"text": because}})',
    "as HTML": "IPython.display.HTML(html.escape(because).replace(' ', '\\n<b> </b>', 3))",
    "a line of a solution": "print('y = 0\\n    (nn.functional.mse_loss(model(x), y) * len(x) / samples).backward()')",
    "a whole solution": "print(rislab.faults.lessons.lessons().exercises['zeroed too often'].solution)",
    "a hint": 'lesson.hint("zeroed too often")',
}


@pytest.mark.process
def test_the_search_finds_what_a_copy_leaks(tmp_path: Path) -> None:
    path = notebooks.find_notebook("your_loop")
    copy = read(classroom.student_notebook(path))
    because = LESSONS.predictions["clipped scaled"].because
    begin = f"import html, sys\nimport IPython, plotly.graph_objects, rislab.faults.lessons\n{because=}"
    question = next(cell for cell in copy.cells if cell.source.startswith("lesson ="))
    cells = [nbformat.v4.new_code_cell(source) for source in (begin, question.source, *LEAKS.values())]
    (tmp_path / path.name).write_text(nbformat.writes(nbformat.v4.new_notebook(cells=cells)))
    done = runner.run_notebook("your_loop", {}, out=tmp_path / "out", folder=tmp_path, progress=False)
    assert done.ok, done.error
    executed = notebooks.read_notebook(done.notebook)
    for cell in executed.cells:
        cell.source = ""
    for name, cell in zip(LEAKS, executed.cells[2:], strict=True):
        assert leaks("your_loop", nbformat.v4.new_notebook(cells=[cell])), name
    assert leaks("your_loop", nbformat.v4.new_notebook(cells=executed.cells[:2])) == []


@pytest.mark.parametrize(("name", "text"), [("fault_clinic", "share 1.250 of"), ("start", "Answer:  none")])
def test_the_search_finds_numbers_and_words(name: str, text: str) -> None:
    printed = [nbformat.v4.new_output("stream", text=text)]
    copy = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(outputs=printed)])
    assert leaks(name, copy)


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
