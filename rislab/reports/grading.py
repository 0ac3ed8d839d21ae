"""Exercises of a class, graded: answers are read from the notebooks as they stand, and no code of theirs is run."""

from __future__ import annotations

import ast
import csv
import io
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rislab.errors import InputError
from rislab.faults.exercises import EXERCISES, check
from rislab.reports import notebooks

VERDICTS = ("right", "wrong", "no answer", "not readable", "not there")
# A power of two numbers can fill the memory; sums and products of numbers that somebody typed cannot.
_BINARY: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


@dataclass(frozen=True)
class Grade:
    """The answers of one student.

    Args:
        student: name of the notebook's folder within the graded one, or of the notebook if it lies there itself.
        verdicts: one of VERDICTS by exercise.
        problem: why a notebook could not be read, or "".
    """

    student: str
    verdicts: dict[str, str]
    problem: str = ""

    @property
    def points(self) -> int:
        """Number of right answers."""
        return sum(verdict == "right" for verdict in self.verdicts.values())


def grade(folder: Path | str) -> list[Grade]:
    """Grade every notebook below a folder, by student.

    An answer is what the last `answer = …` before `check("name", answer)` says in the same cell: a number, a text, or
    sums and products of numbers. Anything else is "not readable"; nothing is executed.

    Args:
        folder: one folder or one notebook for each student.

    Raises:
        InputError: if there is no such folder, or no notebook in it.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"{folder} is no folder; allowed: one that holds the notebooks of a class")
    paths = [path for path in sorted(root.rglob("*.ipynb")) if not _hidden(path.relative_to(root))]
    if not paths:
        raise InputError(f"{folder} holds no notebook; allowed: one folder or one notebook for each student")
    grades: dict[str, Grade] = {}
    for path in paths:
        inside = path.relative_to(root)
        student = inside.parts[0] if len(inside.parts) > 1 else inside.stem
        before = grades.get(student, Grade(student, dict.fromkeys(EXERCISES, "not there")))
        try:
            given = answers(notebooks.read_notebook(path))
            verdicts, problem = {name: verdict_of(name, each) for name, each in given.items()}, before.problem
        except InputError as error:
            verdicts, problem = {}, "; ".join(part for part in (before.problem, f"{inside}: {error}") if part)
        grades[student] = Grade(student, {**before.verdicts, **verdicts}, problem)
    return list(grades.values())


def _hidden(path: Path) -> bool:
    """Checkpoints of JupyterLab and the like, which nobody handed in."""
    return any(part.startswith(".") for part in path.parts)


def answers(notebook: Any) -> dict[str, ast.expr]:
    """The expression of each answer, by exercise; the last one counts."""
    expressions: dict[str, ast.expr] = {}
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        answer: ast.expr = ast.Constant(None)
        for statement in _statements(cell.source):
            if isinstance(statement, ast.Assign) and [ast.unparse(target) for target in statement.targets] == [
                "answer"
            ]:
                answer = statement.value
            name = _checked(statement)
            if name in EXERCISES:
                expressions[name] = answer
    return expressions


def _statements(source: str) -> list[ast.stmt]:
    """A cell that Python cannot read holds no answer: its exercise stays "not there"."""
    try:
        return ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError):
        return []


def _checked(statement: ast.stmt) -> str:
    """The exercise that a statement checks: check("name", answer), by whatever name check was imported."""
    call = statement.value if isinstance(statement, ast.Expr) else None
    if not isinstance(call, ast.Call) or ast.unparse(call.func).split(".")[-1] != "check" or len(call.args) != 2:
        return ""
    name, answer = call.args
    if not isinstance(answer, ast.Name) or answer.id != "answer" or not isinstance(name, ast.Constant):
        return ""
    return str(name.value)


def verdict_of(name: str, answer: ast.expr) -> str:
    """One of VERDICTS for the expression that answers an exercise; nothing in it is run."""
    try:
        value = _value(answer)
        feedback = check(name, value)
    except (InputError, ArithmeticError):
        return "not readable"
    return "no answer" if feedback.right is None else "right" if feedback.right else "wrong"


def _value(answer: ast.expr) -> Any:
    if isinstance(answer, ast.Constant) and (answer.value is None or isinstance(answer.value, int | float | str)):
        return answer.value
    if isinstance(answer, ast.UnaryOp) and isinstance(answer.op, ast.USub | ast.UAdd):
        value = _number(answer.operand)
        return -value if isinstance(answer.op, ast.USub) else value
    if isinstance(answer, ast.BinOp) and type(answer.op) in _BINARY:
        return _BINARY[type(answer.op)](_number(answer.left), _number(answer.right))
    raise InputError("answer is an expression; allowed: a number, a text, or sums and products of numbers")


def _number(answer: ast.expr) -> float:
    value = _value(answer)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"answer holds {value!r}; allowed: numbers")
    return float(value)


def as_csv(grades: Sequence[Grade]) -> str:
    """One line a student: name, points, each exercise, and what could not be read."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["student", "points", "of", *EXERCISES, "problem"])
    for one in grades:
        cells = [one.student, one.points, len(EXERCISES), *(one.verdicts[name] for name in EXERCISES), one.problem]
        writer.writerow(_plain(cells))
    return text.getvalue()


def _plain(cells: Iterable[object]) -> list[str]:
    """Cells that no spreadsheet takes for a formula: names come from whoever handed in."""
    return [f"'{text}" if (text := str(cell))[:1] in ("=", "+", "-", "@", "\t", "\r") else text for cell in cells]
