"""What was handed in: the notebooks of each student, the answers in them, and what is not as it should be."""

from __future__ import annotations

import ast
import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rislab.errors import InputError
from rislab.faults.exercises import EXERCISES, same_code
from rislab.provenance import versions
from rislab.reports import notebooks
from rislab.reports.notebooks import statements_of

# Characters of code in one notebook, ten times those of the lab; a syntax tree takes some hundred times as many bytes.
CODE = 2**18
NOTEBOOKS, FOLDERS = 100, 1000  # of one student
# The check of an exercise, in a cell that Python cannot parse.
CHECK = re.compile(r"""\bcheck\(\s*(["'])(.{1,40}?)\1\s*,""")
# Key of a notebook's metadata under which a copy for the classroom says what it is.
MARK = "rislab"


@dataclass(frozen=True)
class Answer:
    """The answer to one exercise, as it stands in a cell."""

    expression: ast.expr | None  # of a number, a word or a list; a name for code; None if its cell is not Python
    source: str  # of the cell, without its check
    output: str  # text that stands below the cell
    empty: bool  # whether it is as in the notebook that was handed out
    others: bool = False  # whether other answers stand before it


@dataclass
class HandIn:
    """Everything of one student."""

    student: str  # name of the folder, or of the notebook if it lies in the class's folder itself
    answers: dict[str, Answer] = field(default_factory=dict)  # by exercise
    imports: list[str] = field(default_factory=list)  # import statements of all cells
    notebooks: set[str] = field(default_factory=set)  # names of the reports whose notebooks are there
    # sentences on what could not be read, or is not as it was handed out
    remarks: list[str] = field(default_factory=list)

    def missing(self, exercises: Collection[str]) -> list[str]:
        """Sentences on the notebooks and exercises that are not there, of those that were given."""
        if not self.notebooks:
            return ["nothing was handed in" if not self.remarks else "no notebook could be read"]
        of = {name: EXERCISES[name].notebook for name in exercises}
        absent = sorted(set(of.values()) - self.notebooks)
        gone = [name for name, notebook in of.items() if notebook in self.notebooks and name not in self.answers]
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
    paths = [path for path in sorted(root.iterdir()) if not path.name.startswith((".", "__MACOSX"))]
    if not any(path.is_dir() or _is_notebook(path.name) for path in paths):
        raise InputError(f"{folder} holds no notebook; allowed: one folder or one notebook for each student")
    for path in paths:
        name = path.name if path.is_dir() else path.stem
        if name in students:
            students[name].remarks.append(f"two hand-ins of one name, read as one: the second is {path.name}")
        _read(students.setdefault(name, HandIn(name)), path)
    for one in students.values():
        if several := [name for name, answer in one.answers.items() if answer.others]:
            one.remarks.append(f"answered more than once, and the last counts: {', '.join(several)}")
    return list(students.values())


def _is_notebook(name: str) -> bool:
    return name.lower().endswith(".ipynb")


def _read(hand_in: HandIn, path: Path) -> None:
    """Add a folder or a file of a class to a student's hand-in; what is wrong with it becomes a remark."""
    if path.is_symlink() or not path.is_dir():
        _read_notebook(hand_in, path, path.name)
        return
    present, others, complete = _files_below(path)
    for file in present:
        _read_notebook(hand_in, file, str(file.relative_to(path.parent)))
    if others and not present:
        hand_in.remarks.append(f"{path.name}: has no notebook (.ipynb) among its files: {_listed(others)}")
    if not complete:
        hand_in.remarks.append(
            f"{path.name}: not all of it was read; allowed: {NOTEBOOKS} notebooks in {FOLDERS} folders"
        )


def _files_below(folder: Path) -> tuple[list[Path], list[str], bool]:
    """Notebooks in a folder, names of other files, and whether these are all.

    Checkpoints of JupyterLab and the like are left out, which nobody handed in; links are not followed.
    """
    paths, others = [folder] if _is_notebook(folder.name) else [], []
    for number, (place, folders, names) in enumerate(os.walk(folder)):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in (*folders, *names):
            if _is_notebook(name) and not name.startswith("."):
                paths.append(Path(place, name))
            elif name in names:
                others.append(name)
        if number == FOLDERS or len(paths) > NOTEBOOKS:
            return sorted(paths)[:NOTEBOOKS], others, False
    return sorted(paths), others, True


def _read_notebook(hand_in: HandIn, path: Path, name: str) -> None:
    try:
        notebook = _content(path)
    except OSError as error:
        hand_in.remarks.append(f"{name}: cannot be read: {error.strerror}")
        return
    except InputError as error:
        hand_in.remarks.append(f"{name}: {error}")
        return
    answers, unknown, imports = answers_of(notebook)
    hand_in.imports += imports
    metadata = notebook.get("metadata")
    mark = metadata.get(MARK) if isinstance(metadata, dict) else None
    mark = mark if isinstance(mark, dict) else {}
    asked = {EXERCISES[each].notebook for each in answers}
    asked |= {one.notebook for one in EXERCISES.values() if one.notebook == mark.get("notebook")}
    hand_in.notebooks |= asked
    hand_in.remarks += [f"{name}: {sentence}" for sentence in _remarks(path, mark, asked, unknown)]
    for each, answer in answers.items():
        _take(hand_in.answers, each, answer)


def _content(path: Path) -> dict[str, Any]:
    """The JSON of a notebook; not by nbformat, which takes ten times its memory, and refuses what can be graded."""
    if path.is_symlink():
        raise InputError("is a link; allowed: the notebook itself")
    if path.is_dir():
        raise InputError("is a folder; allowed: a notebook")
    if not path.is_file() or not _is_notebook(path.name):
        raise InputError("is no notebook (.ipynb)")
    size = path.stat().st_size
    if size > notebooks.NOTEBOOK_BYTES:
        allowed = notebooks.NOTEBOOK_BYTES >> 20
        raise InputError(f"has {size / (1 << 20):.0f} MB; allowed: {allowed}, without its outputs it is smaller")
    if size == 0:
        raise InputError("is empty")
    try:
        content = json.loads(path.read_bytes())
    except UnicodeDecodeError:
        raise InputError("not a notebook (its text is not UTF-8)") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"not a notebook, or cut ({str(error)[:100]})") from None
    if not isinstance(content, dict) or not isinstance(content.get("cells"), list):
        raise InputError("not a notebook of format 4 (it has no list of cells)")
    if (code := sum(len(source) for source, _ in _code_cells(content))) > CODE:
        raise InputError(f"has {code:,} characters of code; allowed: {CODE:,}")
    return content


def _code_cells(notebook: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Source of each cell of code, and the plain text of its outputs."""
    for cell in notebook["cells"]:
        if not isinstance(cell, dict) or cell.get("cell_type") != "code":
            continue
        outputs = cell.get("outputs")
        texts = []
        for output in outputs if isinstance(outputs, list) else ():
            data = output.get("data") if isinstance(output, dict) else None
            plain = data.get("text/plain") if isinstance(data, dict) else None
            texts.append(_text(output.get("text", plain)) if isinstance(output, dict) else "")
        yield _text(cell.get("source")), "\n".join(texts)


def _text(value: Any) -> str:
    """A text of a notebook, which may be split into lines."""
    if isinstance(value, list):
        return "".join(line for line in value if isinstance(line, str))
    return value if isinstance(value, str) else ""


def _remarks(path: Path, mark: dict[str, Any], asked: set[str], unknown: list[str]) -> Iterator[str]:
    present = versions(("rislab",))["rislab"]
    if mark.get("version", present) != present:
        yield f"was handed out by rislab {str(mark['version'])[:30]}, and this is {present}"
    if unknown:
        yield f"asks for what this version does not know: {_listed(unknown)}"
    if not asked:
        yield "holds no exercise of this lab"
    named = {file.stem: report for report, file in notebooks.available().items()}
    if asked and path.stem in named and named[path.stem] not in asked:
        yield f"is {', '.join(sorted(asked))} under another name"


def _listed(names: Iterable[str]) -> str:
    """A few names of many, cut where they are long."""
    chosen = [name if len(name) <= 60 else f"{name[:59]}…" for name in dict.fromkeys(names)]
    return ", ".join(chosen[:4]) + (f" and {len(chosen) - 4} more" if len(chosen) > 4 else "")


def answers_of(notebook: Mapping[str, Any]) -> tuple[dict[str, Answer], list[str], list[str]]:
    """The last answer to each exercise that is not empty; names of unknown exercises; import statements."""
    answers: dict[str, Answer] = {}
    unknown, imports = [], []
    for source, output in _code_cells(notebook):
        if not (statements := statements_of(source)):
            for _, name in CHECK.findall(source):
                if name in EXERCISES:
                    _take(answers, name, Answer(None, source, output, empty=False))
        imports += [ast.unparse(each) for each in statements if isinstance(each, ast.Import | ast.ImportFrom)]
        # If the cell does not assign an answer, this name makes it "not readable".
        answer: ast.expr = ast.Name("answer")
        for statement in statements:
            answer = _assigned(statement, answer)
            name, given = _checked(statement)
            if name not in EXERCISES:
                unknown += [name] if name else []
                continue
            expression = answer if given == "answer" else ast.Name(given)
            rest = _without(source, statement)
            code = EXERCISES[name].kind == "code"
            empty = _is_start(rest, EXERCISES[name].start) if code else _is_none(expression)
            _take(answers, name, Answer(expression, rest, output, empty))
    return answers, unknown, imports


def _take(answers: dict[str, Answer], name: str, answer: Answer) -> None:
    """Add an answer; it replaces an earlier one unless it is empty."""
    before = answers.get(name)
    if before is None or before.empty:
        answers[name] = answer
    elif not answer.empty:
        others = before.others or answer.others or before.source.strip() != answer.source.strip()
        answers[name] = replace(answer, others=others)


def _is_none(expression: ast.expr) -> bool:
    return isinstance(expression, ast.Constant) and expression.value is None


def _is_start(source: str, start: str) -> bool:
    try:
        return same_code(source, start)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def _assigned(statement: ast.stmt, before: ast.expr) -> ast.expr:
    """The expression of `answer` after a statement; its name alone if a statement other than an assignment sets it."""
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    is_answer = len(targets) == 1 and isinstance(targets[0], ast.Name) and targets[0].id == "answer"
    if isinstance(statement, ast.Assign | ast.AnnAssign) and is_answer and statement.value is not None:
        return statement.value
    stored = (node for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store))
    return ast.Name("answer") if any(node.id == "answer" for node in stored) else before


def _checked(statement: ast.stmt) -> tuple[str, str]:
    """Exercise and name of the answer in a statement check("name", answer), of any object; else "", ""."""
    call = statement.value if isinstance(statement, ast.Expr) else None
    if not isinstance(call, ast.Call) or len(call.args) != 2:
        return "", ""
    called = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    name, answer = call.args
    if called != "check" or not isinstance(answer, ast.Name) or not isinstance(name, ast.Constant):
        return "", ""
    return str(name.value), answer.id


def _without(source: str, statement: ast.stmt) -> str:
    """A source in which the lines of one statement are blank, so that all others keep their numbers."""
    lines = source.splitlines()
    for number in range(statement.lineno - 1, statement.end_lineno or statement.lineno):
        lines[number] = ""
    return "\n".join(lines)
