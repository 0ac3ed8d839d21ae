"""What stands on top of a report: its question, the verdict, three numbers, and the parameters that are not default."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rislab.reports.measured import numbers_in_cell
from rislab.reports.notebooks import Parameter, code_cells, failed_cell, tagged, unrun

NUMBERS = 3
LIVE = re.compile(r'\s*<span class="live">.*?</span>', re.DOTALL)  # sentences about controls that a page does not have


@dataclass(frozen=True)
class Summary:
    """The top of a report; every part of it names the place on the page that it rests on.

    Args:
        run: notebook and parameters, in words.
        question: one sentence, or empty.
        verdict: one of "passed", "failed" (all cells were run, and one failed) and "partial" (some were not run).
        because: what the verdict rests on, one sentence.
        cell: id of the cell that decided, or empty.
        numbers: name, value, and id of the cell that measured it.
        parameters: number of them.
        changed: parameter, value and default, where they differ.
    """

    run: str
    question: str
    verdict: str
    because: str
    cell: str
    numbers: tuple[tuple[str, float, str], ...]
    parameters: int
    changed: tuple[tuple[str, object, object], ...]


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
    measured = [
        (label, value, cell.id) for cell in code_cells(notebook) for label, value in numbers_in_cell(cell).items()
    ]
    first = notebook.cells[0].source.partition("\n")[0] if notebook.cells else ""
    decided = failed_cell(notebook) or next(reversed(code_cells(notebook)), None)
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


def _nodes(source: str) -> list[ast.AST]:
    try:
        return list(ast.walk(ast.parse(source)))
    except SyntaxError:
        return []  # a magic of IPython


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
