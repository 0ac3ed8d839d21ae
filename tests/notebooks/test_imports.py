"""Whatever a notebook imports of the package is there; running it would say so too, much later."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from rislab.reports import notebooks


@pytest.mark.parametrize("path", notebooks.available().values(), ids=lambda path: path.stem)
def test_names_that_a_notebook_imports_are_there(path: Path) -> None:
    cells = notebooks.code_cells(notebooks.read_notebook(path))
    nodes = [node for cell in cells for tree in notebooks.statements_of(cell.source) for node in ast.walk(tree)]
    wanted = [node for node in nodes if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rislab")]
    assert wanted, "a notebook imports something of the package"
    for node in wanted:
        exec(ast.unparse(node), {})
