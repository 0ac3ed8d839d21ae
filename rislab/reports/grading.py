"""Exercises of a class, graded: answers are read from the notebooks as they stand; code runs only if asked for."""

from __future__ import annotations

import ast
import csv
import io
import json
import operator
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rislab import files
from rislab.errors import InputError, check_choice, shown
from rislab.faults.exercises import EXERCISES, check, points
from rislab.faults.quiz import SEED
from rislab.reports.hand_ins import HandIn, hand_ins
from rislab.reports.notebooks import statements_of
from rislab.reports.sandbox import SECONDS, Job, Outcome, run_jobs

VERDICTS = ("right", "in part", "wrong", "no answer", "not readable", "not run", "not there")
ANSWERED = VERDICTS[:3]
# Without powers, which can fill the memory.
_BINARY: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
NOTEBOOKS = tuple(dict.fromkeys(exercise.notebook for exercise in EXERCISES.values()))


@dataclass(frozen=True)
class Mark:
    """What one answer is worth."""

    verdict: str  # one of VERDICTS
    earned: float = 0.0  # points
    text: str = ""  # a sentence for the student; "" if the verdict says it all


@dataclass(frozen=True)
class Grade:
    """The answers of one student."""

    student: str  # see HandIn
    marks: dict[str, Mark]  # by exercise, for all that were given
    missing: list[str]  # sentences on what was not handed in
    remarks: list[str]  # sentences on what could not be read, or is not as it was handed out

    @property
    def points(self) -> float:
        """Sum of what the answers earn."""
        return sum(mark.earned for mark in self.marks.values())

    @property
    def most(self) -> int:
        """Points of all exercises that were given."""
        return sum(points(EXERCISES[name]) for name in self.marks)


def grade(
    folder: Path | str,
    *,
    run: bool = False,
    quiz_seed: int = SEED,
    seconds: float = SECONDS,
    given: Collection[str] = NOTEBOOKS,
) -> tuple[list[Grade], list[str]]:
    """Grade a class, by student.

    An answer is what the last `answer = …` before `check("name", answer)` says in the same cell: a number, a text, a
    list of texts, or sums and products of numbers. Code is the function that a check is handed.

    Args:
        folder: see hand_ins().
        run: call the functions of the students, each in a sandbox; otherwise they are "not run".
        quiz_seed: of the quiz that the class was asked.
        seconds: of the processor that a function may take.
        given: names of the notebooks that the class was given; exercises of others do not count.

    Returns:
        The grades, and sentences on how code was run, and on notebooks that nobody handed in.

    Raises:
        InputError: for an unknown notebook; see hand_ins() too.
    """
    for notebook in given:
        check_choice("notebooks", notebook, NOTEBOOKS)
    exercises = [name for name, exercise in EXERCISES.items() if exercise.notebook in given]
    class_ = hand_ins(folder)
    marks = {one.student: {name: mark_of(one, name, quiz_seed) for name in exercises} for one in class_}
    waiting = [(one, name) for one in class_ for name in exercises if marks[one.student][name].verdict == "not run"]
    notes = (
        [f"{len(waiting)} answers are code that was not run, and earn nothing: --run judges them"] if waiting else []
    )
    if run:
        jobs = [Job(name, _imports(one, one.answers[name].source), one.answers[name].source) for one, name in waiting]
        outcomes = list(run_jobs(jobs, seconds=seconds)) if jobs else []
        for (one, name), outcome in zip(waiting, outcomes, strict=True):
            marks[one.student][name] = _mark_of_code(name, outcome)
        notes = _how_it_ran(outcomes)
    grades = []
    for one in class_:
        remarks = [*one.remarks, *_about_outputs(one, marks[one.student])]
        grades.append(Grade(one.student, marks[one.student], one.missing(exercises), remarks))
    return grades, [*notes, *_about_the_class(class_, given)]


def _about_the_class(class_: Sequence[HandIn], given: Collection[str]) -> list[str]:
    """A sentence on notebooks that nobody handed in, if somebody handed in others."""
    there = set().union(*(one.notebooks for one in class_)) & set(given)
    absent = [name for name in NOTEBOOKS if name in given and name not in there]
    if not (there and absent):
        return []
    present = " ".join(name for name in NOTEBOOKS if name in there)
    return [f"nobody handed in {', '.join(absent)}, which count: if they were not given, --notebooks {present}"]


def _imports(hand_in: HandIn, source: str) -> tuple[str, ...]:
    """The import statements of a student that bind a name which a source uses."""
    nodes = (node for statement in statements_of(source) for node in ast.walk(statement))
    used = {node.id for node in nodes if isinstance(node, ast.Name)}
    bound = {
        line: {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        for line in dict.fromkeys(hand_in.imports)
        for node in statements_of(line)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    return tuple(line for line, names in bound.items() if names & (used | {"*"}))


def _how_it_ran(outcomes: Sequence[Outcome]) -> list[str]:
    """Sentences on the limits under which code was run."""
    if not outcomes:
        return ["no code was there to be run"]
    by_kernel = any(one.by_kernel for one in outcomes)
    who = "the kernel" if by_kernel else "Python alone, since this kernel offers no filter of system calls,"
    return [
        f"{len(outcomes)} functions were run, each in a process of its own with limits of time and memory; {who} "
        "refused them programs, processes, signals, sockets and writing files"
    ]


def mark_of(hand_in: HandIn, name: str, quiz_seed: int = SEED) -> Mark:
    """What can be said of an answer without running it."""
    answer = hand_in.answers.get(name)
    if answer is None:
        return Mark("not there")
    if EXERCISES[name].kind == "code":
        return Mark("no answer") if answer.empty else Mark("not run", text="code is judged by rislab grade --run")
    if answer.expression is None:
        return Mark("not readable", text="its cell is not Python")
    try:
        feedback = check(name, _value(answer.expression), quiz_seed=quiz_seed)
    except InputError as error:
        return Mark("not readable", text=str(error))
    except (ArithmeticError, RecursionError) as error:
        return Mark("not readable", text=f"answer cannot be computed: {error}")
    if feedback.right is None:
        return Mark("no answer")
    earned = feedback.earned * points(EXERCISES[name])
    return Mark("right" if feedback.right else "in part" if earned else "wrong", earned, feedback.text)


def _mark_of_code(name: str, outcome: Outcome) -> Mark:
    if outcome.right is None:
        return Mark("no answer")
    earned = points(EXERCISES[name]) if outcome.right else 0.0
    return Mark("right" if outcome.right else "wrong", earned, outcome.text)


def _about_outputs(hand_in: HandIn, marks: dict[str, Mark]) -> Iterator[str]:
    """Sentences on outputs that say "right" below an answer that is not."""
    right = [name for name, answer in hand_in.answers.items() if re.match(r"\s*right\b", answer.output)]
    if edited := [name for name in right if marks[name].verdict in ("wrong", "no answer")]:
        yield f"the output says right, the answer is not: {', '.join(edited)}"
    if unread := [name for name in right if marks[name].verdict == "not readable"]:
        yield f"the output says right, the answer cannot be read: {', '.join(unread)}"


def _value(answer: ast.expr) -> Any:
    if isinstance(answer, ast.Constant) and (answer.value is None or isinstance(answer.value, int | float | str)):
        return answer.value
    if isinstance(answer, ast.List | ast.Tuple):
        return [_value(each) for each in answer.elts]
    if isinstance(answer, ast.UnaryOp) and isinstance(answer.op, ast.USub | ast.UAdd):
        value = _number(answer.operand)
        return -value if isinstance(answer.op, ast.USub) else value
    if isinstance(answer, ast.BinOp) and type(answer.op) in _BINARY:
        return _BINARY[type(answer.op)](_number(answer.left), _number(answer.right))
    raise InputError(
        "answer is an expression; allowed: in the cell of its check, a number, a text, or sums and products"
    )


def _number(answer: ast.expr) -> float:
    value = _value(answer)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"answer holds {shown(value)}; allowed: numbers")
    return float(value)


# ---------------------------------------------------------------------------------------------------------------- files


def as_csv(grades: Sequence[Grade]) -> str:
    """One line a student: name, points, the points of each exercise, what is missing, and what else is to be said.

    An exercise without points for the lack of an answer says so in words.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["student", "points", "of", *grades[0].marks, "missing", "remarks"])
    for one in grades:
        cells = [one.student, f"{one.points:g}", one.most, *map(_cell, one.marks.values())]
        writer.writerow(_plain([*cells, "; ".join(one.missing), "; ".join(one.remarks)]))
    return text.getvalue()


def _cell(mark: Mark) -> str:
    return f"{mark.earned:g}" if mark.verdict in ANSWERED else mark.verdict


def _plain(cells: Iterable[object]) -> list[str]:
    """Cells that no spreadsheet takes for a formula: names of students may hold anything."""
    return [f"'{text}" if (text := str(cell))[:1] in ("=", "+", "-", "@", "\t", "\r") else text for cell in cells]


def as_gradescope(one: Grade) -> str:
    """The results.json of Gradescope's autograder for one student."""
    tests = []
    for name, mark in one.marks.items():
        exercise = EXERCISES[name]
        in_words = f"{mark.verdict}: {mark.text}" if mark.text else mark.verdict
        test = {
            "name": f"{exercise.notebook}: {name}",
            "score": round(mark.earned, 4),
            "max_score": points(exercise),
            "status": "passed" if mark.verdict == "right" else "failed",
            "output": mark.text if mark.verdict in ANSWERED else in_words,
            "tags": [exercise.mark],
            "visibility": "visible",
        }
        tests.append(test)
    remarks = "\n".join([*one.missing, *one.remarks])
    report = {"score": round(one.points, 4), "output": remarks, "stdout_visibility": "hidden", "tests": tests}
    return json.dumps(report, ensure_ascii=False, indent=1)


def write(grades: Sequence[Grade], folder: Path) -> list[Path]:
    """Write grades.csv, and a file for Gradescope for each student, into a folder; returns the files."""
    contents = {folder / "grades.csv": as_csv(grades)}
    for one, name in zip(grades, _file_names([one.student for one in grades]), strict=True):
        contents[folder / "gradescope" / f"{name}.json"] = as_gradescope(one)
    for path, content in contents.items():
        # Names of files and texts of students may hold characters that UTF-8 cannot encode.
        files.replace(path, content.encode(errors="backslashreplace"))
    return list(contents)


def _file_names(students: Sequence[str]) -> Iterator[str]:
    """A file name for each student: printable, short and unique."""
    taken: set[str] = set()
    for student in students:
        visible = "".join(letter if letter.isprintable() else "_" for letter in student)
        name = short = visible.encode()[:200].decode(errors="ignore")
        # Some file systems ignore case, and two forms of one accent.
        while (key := unicodedata.normalize("NFC", name).casefold()) in taken:
            name = f"{short} ({len(taken)})"
        taken.add(key)
        yield name
