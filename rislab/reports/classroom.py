"""Notebooks for a class: copies without answers for students; answers, key and lesson plan for the teacher.

A seed is that of the quiz which the class is asked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from rislab import files
from rislab.faults.exercises import EXERCISES, points, true_answer
from rislab.faults.lessons import Exercise, lessons
from rislab.faults.quiz import COUNT, SEED, questions
from rislab.provenance import versions
from rislab.reports import notebooks
from rislab.reports.hand_ins import MARK, answers_of
from rislab.reports.servers import working_copy

ANSWER = "answer"  # tag of cells that explain what a prediction asked
LESSON = re.compile(r"(rislab\.panels\.lesson\([^)]*)\)")


def student_notebook(path: Path, *, quiz_seed: int = SEED) -> bytes:
    """A notebook as a student gets it, without answers; Run All shows none either.

    Cells that explain are left out, predictions keep their answers and figures to themselves until an answer is locked,
    and there are no outputs.
    """
    notebook = _opened(path, "student")
    notebook.cells = [cell for cell in notebook.cells if ANSWER not in cell.metadata.get("tags", [])]
    for cell in notebook.cells:
        cell.source = LESSON.sub(r"\1, answers=False)", _with_seed(cell, quiz_seed))
    return notebooks.notebook_json(notebook).encode()


def teacher_notebook(path: Path, *, quiz_seed: int = SEED) -> bytes:
    """A notebook with all exercises solved, and a word on each solution below it."""
    from nbformat.v4 import new_markdown_cell

    notebook = _opened(path, "teacher")
    cells = []
    for cell in notebook.cells:
        cells.append(cell)
        cell.source = _with_seed(cell, quiz_seed)
        for name in answers_of({"cells": [cell]})[0] if cell.cell_type == "code" else ():
            exercise = EXERCISES[name]
            cell.source = solved(exercise, quiz_seed)
            if exercise.kind != "code":
                cells.append(new_markdown_cell(f"**Solution.** {exercise.solution}", id=f"solution-{cell.id}"))
    notebook.cells = cells
    return notebooks.notebook_json(notebook).encode()


def solved(exercise: Exercise, quiz_seed: int) -> str:
    """The source of a cell that answers an exercise rightly; numbers are measured here and now."""
    if exercise.kind == "code":
        return f'{exercise.solution.rstrip()}\n\n\nlesson.check("{exercise.name}", {exercise.function})'
    answer = [one.fault.name for one in questions(quiz_seed)] if exercise.kind == "quiz" else true_answer(exercise.name)
    return f'answer = {answer!r}\nlesson.check("{exercise.name}", answer)'


def write_teachers_edition(folder: Path, *, quiz_seed: int = SEED) -> tuple[list[str], list[str]]:
    """Write the teacher's edition: notebooks with solutions, key.md and lesson_plan.md.

    Args:
        folder: made if there is none; notebooks in it that somebody changed stay as they are.

    Returns:
        Names of the notebooks that were written, and of those that were there.

    Raises:
        InputError: if the folder cannot be written, or is that of the originals.
    """
    written, present = working_copy(folder, partial(teacher_notebook, quiz_seed=quiz_seed))
    files.replace(folder / "key.md", key(quiz_seed).encode())
    files.replace(folder / "lesson_plan.md", lesson_plan().encode())
    return written, present


# --------------------------------------------------------------------------------------------- key and lesson plan


def key(quiz_seed: int = SEED) -> str:
    """All answers as Markdown: predictions, exercises, and the quiz of a seed with what it asks."""
    parts = ["# Key", "", f"Of rislab {_version()}; numbers were measured when this was written. Not for students."]
    for name, stated in lessons().preparations.items():
        file = notebooks.find_notebook(name).stem
        parts += ["", f"## {file} ({stated.minutes} minutes, level {stated.level})", "", "Predictions:", ""]
        for asked in (one for one in lessons().predictions.values() if one.notebook == name):
            parts.append(f"* {asked.question} **{asked.right}.** {asked.because}")
        parts += ["", "Exercises:", ""]
        for exercise in (one for one in EXERCISES.values() if one.notebook == name):
            parts += list(_solution(exercise, quiz_seed))
    return "\n".join(parts) + "\n"


def _solution(exercise: Exercise, quiz_seed: int) -> Iterator[str]:
    head = f"* **{exercise.name}** ({exercise.mark}, {points(exercise)}): {exercise.question}."
    if exercise.kind == "code":
        yield head
        yield ""
        yield from (f"      {line}".rstrip() for line in exercise.solution.rstrip().splitlines())
        yield ""
    elif exercise.kind == "quiz":
        yield f"{head} Seed {quiz_seed}, {COUNT} questions:"
        yield ""
        for one in questions(quiz_seed):
            others = ", ".join(name for name in one.choices if name != one.fault.name)
            yield f"    {one.number}. **{one.fault.name}** (offered beside it: {others}). {one.fault.description}"
        yield ""
    else:
        answer = true_answer(exercise.name)
        yield f"{head} **{answer if isinstance(answer, str) else f'{answer:.6g}'}**. {exercise.solution}"


def lesson_plan() -> str:
    """Plans for the lengths that lessons.yaml declares, as Markdown, with what a teacher does before and after."""
    parts = ["# Lesson plan", ""]
    parts += [
        "Before: `rislab lab --classroom --prepare` makes the students' copies, `rislab lab --teacher --prepare` this",
        "folder.",
        "After: `rislab grade FOLDER --out grades`, and with `--run` for code.",
    ]
    for minutes, plan in lessons().plans.items():
        parts += ["", f"## {minutes} minutes", "", "| from | to | notebook | what |", "|---|---|---|---|"]
        now = 0
        for length, notebook, what in plan:
            file = notebooks.find_notebook(notebook).stem if notebook else ""
            parts.append(f"| {now} | {now + length} | {file} | {what} |")
            now += length
    parts += [
        "",
        "## Each notebook alone",
        "",
        "| notebook | minutes | level | needs | predictions | exercises | points |",
    ]
    parts.append("|---|---|---|---|---|---|---|")
    for name, stated in lessons().preparations.items():
        exercises = [one for one in EXERCISES.values() if one.notebook == name]
        predictions = sum(one.notebook == name for one in lessons().predictions.values())
        cells = (notebooks.find_notebook(name).stem, stated.minutes, stated.level, stated.needs, predictions)
        parts.append(f"| {' | '.join(map(str, cells))} | {len(exercises)} | {sum(map(points, exercises))} |")
    return "\n".join(parts) + "\n"


# ------------------------------------------------------------------------------------------------------------ notebooks


def _opened(path: Path, edition: str) -> Any:
    """A notebook without outputs that says what it is."""
    notebook = notebooks.read_notebook(path)
    report = next(name for name, file in notebooks.available(path.parent).items() if file.name == path.name)
    notebook.metadata[MARK] = {"notebook": report, "version": _version(), "edition": edition}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return notebook


def _with_seed(cell: Any, quiz_seed: int) -> str:
    """The source of a cell, in which the parameter of the quiz has another seed."""
    if "parameters" not in cell.metadata.get("tags", []):
        return str(cell.source)
    return str(cell.source).replace(f"quiz_seed: int = {SEED} ", f"quiz_seed: int = {quiz_seed} ")


def _version() -> str:
    return str(versions(("rislab",))["rislab"])
