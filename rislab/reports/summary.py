"""What stands on top of a report: its question, the verdict, three numbers, and the parameters that are not default."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rislab.reports.measured import numbers_in_cell
from rislab.reports.notebooks import Parameter, code_cells, failed_cell, statements_of, tagged, unrun

NUMBERS = 3
LIVE = re.compile(r'\s*<span class="live">.*?</span>', re.DOTALL)  # sentences about controls that a page does not have


@dataclass(frozen=True)
class Summary:
    """The top of a report; every part of it names the place on the page that it rests on."""

    run: str  # notebook and parameters, in words
    question: str  # one sentence, or empty
    verdict: str  # one of "passed", "failed" (all cells were run, and one failed) and "partial" (some were not run)
    because: str  # what the verdict rests on, one sentence
    cell: str  # id of the cell that decided, or empty
    numbers: tuple[tuple[str, float, str], ...]  # name, value, and id of the cell that computed it
    parameters: int  # number of them
    changed: tuple[tuple[str, object, object], ...]  # parameter, value and default, where they differ


def summarise(
    notebook: Any, name: str, known: Mapping[str, Parameter], values: Mapping[str, object], *, question: str, error: str
) -> Summary:
    """The summary of an executed notebook.

    Args:
        notebook: as an nbformat node.
        name: of its file.
        known: its parameters, see notebooks.parameters().
        values: all values of the run.
        question: what the run asks; by default the heading of the notebook.
        error: one line that names cell and exception, or empty.
    """
    changed = tuple((key, value, known[key].default) for key, value in values.items() if value != known[key].default)
    cells = code_cells(notebook)
    measured = [
        (label, value, _evidence(cells[: place + 1], label))
        for place, cell in enumerate(cells)
        for label, value in numbers_in_cell(cell).items()
    ]
    first = notebook.cells[0].source.partition("\n")[0] if notebook.cells else ""
    decided = failed_cell(notebook) or next(reversed(cells), None)
    return Summary(
        run=f"{name} with {', '.join(f'{key} = {value!r}' for key, value, _ in changed) or 'its defaults'}",
        question=question or (first[2:] if first.startswith("# ") else ""),
        verdict=verdict_word(error, unrun(notebook)),
        because=_because(notebook, error),
        cell=decided.id if decided is not None else "",
        numbers=tuple({label: (label, value, cell) for label, value, cell in measured}.values())[:NUMBERS],
        parameters=len(known),
        changed=changed,
    )


def verdict_word(error: str, left: int) -> str:
    """The verdict of a run, see Summary.

    Args:
        error: one line, or empty.
        left: number of code cells that were not run.
    """
    return ("partial" if left else "failed") if error else "passed"


def _because(notebook: Any, error: str) -> str:
    cells = code_cells(notebook)
    if error:
        left = unrun(notebook)
        return f"{error}; {left} of {len(cells)} code cells were not run" if left else error
    claims = sum(isinstance(node, ast.Assert) for cell in cells for node in _nodes(cell.source))
    return (
        f"{len(cells)} code cells were run, and {f'the {claims} assertions' if claims != 1 else 'the assertion'} hold"
    )


def _evidence(cells: list[Any], label: str) -> str:
    """Id of the cell that computed a number, which the last of these cells lists under a label.

    That is the latest earlier cell that sets a name of the number's expression, or the last cell itself if none does.
    """
    nodes = _nodes(cells[-1].source)
    pairs = [pair for node in nodes if isinstance(node, ast.Dict) for pair in zip(node.keys, node.values, strict=True)]
    listed = [value for key, value in pairs if key is not None and _can_be(key, label)]
    listed += [node for node in nodes if isinstance(node, ast.DictComp) and _can_be(node.key, label)]
    wanted = {name for value in listed[:1] for name in _names(value, ast.Load) - _names(value, ast.Store)}
    # A name that the last cell sets itself stands for the names in its own expression.
    for node in reversed(nodes):
        if isinstance(node, ast.Assign) and _names(node, ast.Store) & wanted:
            wanted |= _names(node.value, ast.Load) - _names(node.value, ast.Store)
    for cell in reversed(cells[:-1]):
        if any(_names(node, ast.Store) & wanted for node in _nodes(cell.source) if isinstance(node, ast.stmt)):
            return str(cell.id)
    return str(cells[-1].id)


def _can_be(key: ast.expr, label: str) -> bool:
    """Whether a key of a mapping, as it is written, can stand for a label."""
    parts = key.values if isinstance(key, ast.JoinedStr) else [key]
    texts = [re.escape(str(part.value)) if isinstance(part, ast.Constant) else ".*" for part in parts]
    return re.fullmatch("".join(texts), label) is not None


def _names(node: ast.AST, context: type[ast.expr_context]) -> set[str]:
    """Names that a statement or an expression sets (ast.Store), also by an item of them, or reads (ast.Load)."""
    places = [each for each in ast.walk(node) if isinstance(getattr(each, "ctx", None), context)]
    named = [each.value if isinstance(each, ast.Subscript) else each for each in places]
    return {each.id for each in named if isinstance(each, ast.Name)}


def _nodes(source: str) -> list[ast.AST]:
    return list(ast.walk(ast.Module(statements_of(source), [])))  # none for a cell with an IPython magic


def without_controls(notebook: Any) -> Any:
    """The notebook without its exercises, and without sentences about controls; it is changed in place and returned.

    An exercise at which the run stopped stays.
    """
    failed = failed_cell(notebook)
    left_out = [cell.id for cell in tagged(notebook, "exercise") if cell is not failed]
    notebook.cells = [cell for cell in notebook.cells if cell.id not in left_out]
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = LIVE.sub("", cell.source)
    return notebook
