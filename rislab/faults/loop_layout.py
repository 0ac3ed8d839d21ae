"""Where the statements of the training loop stand: their columns, and what the grammar says that they belong to."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

STATEMENT_HEADER = "  statement      column in the loop?  under"
STATEMENTS = ("compute_loss", "backward", "meter.add", "scaler.step", "scheduler.step")


@dataclass(frozen=True)
class StatementPlace:
    """Where a statement of the loop stands."""

    name: str  # of the statement
    line: int  # in the source, from 1
    column: int  # in the source, from 0
    inside: bool  # whether it belongs to the loop over the micro-batches
    branch: str  # the innermost condition that it stands under, "" for none

    def row(self) -> str:
        """One line of a table under STATEMENT_HEADER."""
        inside = "yes" if self.inside else "no"
        return f"  {self.name:<14} {self.column:>6} {inside:>11}   {self.branch}".rstrip()


def statement_places(source: str) -> list[StatementPlace]:
    """The places of the statements in a source of training.loop, edited or not, as the parser finds them."""
    tree = ast.parse(source)
    fit = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "fit")
    loop = next(
        node for node in ast.walk(fit) if isinstance(node, ast.For) and ast.unparse(node.iter).endswith("micro_batches")
    )
    places = [StatementPlace("for", loop.lineno, loop.col_offset, False, "")]
    for name in STATEMENTS:
        node, parents = next(_calls(fit, name, []))
        inner = parents[parents.index(loop) :] if loop in parents else parents
        tests = [ast.unparse(one.test) for one in inner if isinstance(one, ast.If)]
        places.append(StatementPlace(name, node.lineno, node.col_offset, loop in parents, tests[-1] if tests else ""))
    return places


def _calls(node: ast.AST, name: str, parents: list[ast.AST]) -> Iterator[tuple[ast.stmt, list[ast.AST]]]:
    """Simple statements that call something of this name, with all nodes that they stand in."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Expr | ast.Assign) and any(
            isinstance(part, ast.Call) and ast.unparse(part.func).endswith(name) for part in ast.walk(child)
        ):
            yield child, parents
        yield from _calls(child, name, [*parents, child])
