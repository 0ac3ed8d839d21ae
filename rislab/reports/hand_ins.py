"""What was handed in: the notebooks of each student, the answers in them, and what is not as it should be."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rislab.errors import InputError
from rislab.faults.exercises import EXERCISES
from rislab.provenance import versions
from rislab.reports import notebooks

LARGEST = 20 << 20
# Key of a notebook's metadata under which a copy for the classroom says what it is.
MARK = "rislab"


@dataclass(frozen=True)
class Answer:
    """The answer to one exercise, as it stands in a cell.

    Args:
        expression: of a number, a word or a list; a name for code.
        source: of the cell, without its check.
        output: text that stands below the cell.
    """

    expression: ast.expr
    source: str
    output: str

    @property
    def empty(self) -> bool:
        """Whether it is None, as in the notebook that was handed out."""
        return isinstance(self.expression, ast.Constant) and self.expression.value is None


@dataclass
class HandIn:
    """Everything of one student.

    Args:
        student: name of the folder, or of the notebook if it lies in the class's folder itself.
        answers: by exercise.
        imports: import statements of all cells.
        notebooks: names of the reports whose notebooks are there.
        remarks: sentences on what could not be read, or is not as it was handed out.
    """

    student: str
    answers: dict[str, Answer] = field(default_factory=dict)
    imports: list[str] = field(default_factory=list)
    notebooks: set[str] = field(default_factory=set)
    remarks: list[str] = field(default_factory=list)

    def missing(self) -> list[str]:
        """Sentences on the notebooks and exercises that are not there."""
        if not self.notebooks:
            return ["nothing was handed in" if not self.remarks else "no notebook could be read"]
        asked = {exercise.notebook for exercise in EXERCISES.values()}
        absent = sorted(asked - self.notebooks)
        gone = [name for name, one in EXERCISES.items() if one.notebook in self.notebooks and name not in self.answers]
        sentences = [f"not handed in: {', '.join(absent)}"] if absent else []
        return sentences + ([f"cells that are gone: {', '.join(gone)}"] if gone else [])


def hand_ins(folder: Path | str) -> list[HandIn]:
    """Read a class: each folder or notebook in a folder is one student's. No code in them is run.

    Args:
        folder: one folder or one notebook for each student; an empty folder is an empty hand-in.

    Raises:
        InputError: if there is no such folder, or no student in it.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"{folder} is no folder; allowed: one that holds the notebooks of a class")
    students: dict[str, HandIn] = {}
    for path in sorted(path for path in root.iterdir() if not path.name.startswith(".")):
        if path.is_dir() or path.suffix == ".ipynb":
            name = path.name if path.is_dir() else path.stem
            hand_in = students.setdefault(name, HandIn(name))
            for file in _notebooks(path):
                _read(hand_in, file, str(file.relative_to(root)))
    if not students:
        raise InputError(f"{folder} holds no notebook; allowed: one folder or one notebook for each student")
    return list(students.values())


def _notebooks(path: Path) -> Iterator[Path]:
    """Notebooks below a path, without checkpoints of JupyterLab and the like, which nobody handed in."""
    if not path.is_dir():
        yield path
        return
    for file in sorted(path.rglob("*.ipynb")):
        if not any(part.startswith(".") for part in file.relative_to(path).parts):
            yield file


def _read(hand_in: HandIn, path: Path, name: str) -> None:
    """Add a notebook to a hand-in; what is wrong with it becomes a remark."""
    try:
        size = path.stat().st_size
        if size > LARGEST:
            raise InputError(
                f"has {size / (1 << 20):.0f} MB; allowed: {LARGEST >> 20}, without its outputs it is smaller"
            )
        if size == 0:
            raise InputError("is empty")
        notebook = notebooks.read_notebook(path)
    except OSError as error:
        hand_in.remarks.append(f"{name}: cannot be read: {error.strerror}")
        return
    except InputError as error:
        hand_in.remarks.append(f"{name}: {error}")
        return
    answers, unknown, imports = answers_of(notebook)
    hand_in.imports += imports
    mark = notebook.metadata.get(MARK)
    mark = mark if isinstance(mark, dict) else {}
    asked = {EXERCISES[each].notebook for each in answers} | ({str(mark["notebook"])} if "notebook" in mark else set())
    hand_in.notebooks |= asked
    hand_in.remarks += [f"{name}: {sentence}" for sentence in _remarks(path, mark, asked, unknown)]
    for each, answer in answers.items():
        if not answer.empty or each not in hand_in.answers:
            hand_in.answers[each] = answer


def _remarks(path: Path, mark: dict[str, Any], asked: set[str], unknown: list[str]) -> Iterator[str]:
    present = versions(("rislab",))["rislab"]
    if mark.get("version", present) != present:
        yield f"was handed out by rislab {mark['version']}, and this is {present}"
    if unknown:
        yield f"asks for what this version does not know: {', '.join(unknown)}"
    if not asked:
        yield "holds no exercise of this lab"
    named = {file.stem: report for report, file in notebooks.available().items()}
    if asked and path.stem in named and named[path.stem] not in asked:
        yield f"is {', '.join(sorted(asked))} under another name"


def answers_of(notebook: Any) -> tuple[dict[str, Answer], list[str], list[str]]:
    """The answer to each exercise, of several the last; names of unknown exercises; and all import statements."""
    answers: dict[str, Answer] = {}
    unknown, imports = [], []
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        statements = statements_of(cell.source)
        imports += [ast.unparse(each) for each in statements if isinstance(each, ast.Import | ast.ImportFrom)]
        answer: ast.expr = ast.Constant(None)
        for statement in statements:
            targets = statement.targets if isinstance(statement, ast.Assign) else []
            if isinstance(statement, ast.Assign) and [ast.unparse(target) for target in targets] == ["answer"]:
                answer = statement.value
            name, given = _checked(statement)
            if name in EXERCISES:
                expression = answer if given == "answer" else ast.Name(given)
                answers[name] = Answer(expression, _without(cell.source, statement), _text_below(cell))
            elif name:
                unknown.append(name)
    return answers, unknown, imports


def statements_of(source: str) -> list[ast.stmt]:
    """The statements of a cell; one that Python cannot read holds no answer."""
    try:
        return ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []


def _checked(statement: ast.stmt) -> tuple[str, str]:
    """What a statement checks, check("name", answer) of any object, and the name of what it hands over; else "", ""."""
    call = statement.value if isinstance(statement, ast.Expr) else None
    if not isinstance(call, ast.Call) or len(call.args) != 2:
        return "", ""
    called = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    name, answer = call.args
    if called != "check" or not isinstance(answer, ast.Name) or not isinstance(name, ast.Constant):
        return "", ""
    return str(name.value), answer.id


def _without(source: str, statement: ast.stmt) -> str:
    """A source whose lines of one statement are blank, so that all others keep their numbers."""
    lines = source.splitlines()
    for number in range(statement.lineno - 1, statement.end_lineno or statement.lineno):
        lines[number] = ""
    return "\n".join(lines)


def _text_below(cell: Any) -> str:
    """Plain text among the outputs of a cell."""
    texts = [output.get("text", output.get("data", {}).get("text/plain", "")) for output in cell.get("outputs", [])]
    return "\n".join(text for text in texts if isinstance(text, str))
