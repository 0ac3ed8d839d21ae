"""Mutants of a training loop: faults that nobody chose, made from its syntax tree.

Statements are deleted, dedented, indented and swapped with their neighbours, conditions are negated and comparisons
moved by one, and K becomes K ± 1 where the declared K stays.
"""

from __future__ import annotations

import ast
import copy
import difflib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from rislab.faults.fault import source_of
from tests.checkup.test_loop_watch import LOOP

# What is mutated of each loop: the loop of rislab with its windows, a plain one, and one that counts.
FUNCTIONS = {"fit": ("fit", "Window", "windows"), "plain": ("train",), "counted": ("counted",)}
# Accumulation as most people write it.
COUNTED = """
def counted(model, optimizer, compute_loss, data, K, epochs, scaler, scheduler, clip, half):
    reported = []
    for epoch in range(epochs):
        model.train()
        optimizer.zero_grad()
        running, samples = 0.0, 0
        for i, (x, y) in enumerate(data):
            with torch.autocast("cpu", dtype=half or torch.bfloat16, enabled=half is not None):
                loss = compute_loss(model(x), y)
            first = i - i % K
            size = sum(len(one) for one, _ in data[first : first + K])
            scaler.scale(loss * len(x) / size).backward()
            running += loss.item() * len(x)
            samples += len(x)
            if (i + 1) % K == 0 or i + 1 == len(data):
                scaler.unscale_(optimizer)
                if clip is not None:
                    torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
                before = scaler.get_scale()
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
                if scheduler is not None and scaler.get_scale() >= before:
                    scheduler.step()
        reported.append(running / samples)
    return reported

train = counted
"""
OPERATORS = ("delete", "dedent", "dedent alone", "indent", "indent alone", "swap", "negate", "off by one", "K")
# Names by which the loops call K.
SIZES = ("size", "K", "accumulation_steps")
INVERSE = {
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.Lt: ast.GtE, ast.GtE: ast.Lt, ast.Gt: ast.LtE, ast.LtE: ast.Gt,
}  # fmt: skip
BESIDE = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt}


@dataclass(frozen=True)
class Mutant:
    """An edit of a loop that nobody chose.

    Args:
        name: "function:line operator `what`"; lines are counted from that of the function's name.
        loop: of FUNCTIONS. operator: one of OPERATORS.
        source: of the whole module, with the edit. diff: of the function, lines that go and come.
    """

    name: str
    loop: str
    operator: str
    source: str
    diff: str


Nodes = list[ast.AST]


@dataclass(frozen=True)
class Place:
    """Where a statement stands: in which block of which node, nodes being numbered as ast.walk() meets them."""

    owner: int
    block: str
    index: int

    def among(self, nodes: Nodes) -> list[ast.stmt]:
        """The block it stands in."""
        statements: list[ast.stmt] = getattr(nodes[self.owner], self.block)
        return statements


@dataclass(frozen=True)
class Edit:
    """A change of a function's tree: which operator, on which line, of what, and how to do it on a fresh copy."""

    operator: str
    line: int
    what: str
    apply: Callable[[Nodes], None]


def source(loop: str) -> str:
    """Text of the module that a loop stands in."""
    return {"plain": LOOP, "counted": COUNTED}[loop] if loop != "fit" else source_of("training.loop")


def mutants(loop: str) -> list[Mutant]:
    """All mutants of a loop, in the order of its functions, of OPERATORS and of lines."""
    text, functions = source(loop), FUNCTIONS[loop]
    known = {node.name: node for node in ast.parse(text).body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    found = [mutant for name in functions for mutant in _of_function(loop, text, known[name])]
    seen: Counter[str] = Counter()
    for place, mutant in enumerate(found):
        seen[mutant.name] += 1
        if seen[mutant.name] > 1:
            found[place] = replace(mutant, name=f"{mutant.name} ({seen[mutant.name]})")
    return found


def _of_function(loop: str, text: str, function: ast.FunctionDef | ast.ClassDef) -> Iterator[Mutant]:
    plain = ast.unparse(function)
    seen = {plain}
    for edit in _edits(list(ast.walk(function))):
        fresh = copy.deepcopy(function)
        edit.apply(list(ast.walk(fresh)))
        changed = ast.unparse(fresh)
        if changed in seen or not _compiles(changed):
            continue
        seen.add(changed)
        name = f"{function.name}:{edit.line - function.lineno + 1} {edit.operator} {edit.what}"
        yield Mutant(name, loop, edit.operator, spliced(text, function, changed), _diff(plain, changed))


def spliced(text: str, function: ast.FunctionDef | ast.ClassDef, changed: str) -> str:
    """The module's text with another text for one of its functions."""
    lines = text.splitlines(keepends=True)
    first = min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)])
    return "".join([*lines[: first - 1], changed + "\n", *lines[function.end_lineno :]])


def _compiles(text: str) -> bool:
    try:
        compile(text, "mutant", "exec")
    except SyntaxError:
        return False
    return True


def _diff(plain: str, changed: str) -> str:
    lines = difflib.unified_diff(plain.splitlines(), changed.splitlines(), n=0, lineterm="")
    return "\n".join(line for line in lines if not line.startswith(("---", "+++", "@@")))


def _edits(nodes: Nodes) -> list[Edit]:
    """All edits of a tree, by operator and line."""
    found = [*_of_statements(nodes), *_of_conditions(nodes), *_of_comparisons(nodes), *_of_sizes(nodes)]
    return sorted(found, key=lambda edit: (OPERATORS.index(edit.operator), edit.line))


def _of_statements(nodes: Nodes) -> Iterator[Edit]:
    places = _places(nodes)
    numbers = {id(node): number for number, node in enumerate(nodes)}
    outer = {numbers[id(place.among(nodes)[place.index])]: place for place in places}
    for place in places:
        block = place.among(nodes)
        statement, last = block[place.index], place.index == len(block) - 1
        edit = partial(Edit, line=statement.lineno)
        yield edit("delete", what=_shown(statement), apply=partial(_delete, place=place))
        if place.owner in outer:
            dedent = partial(_dedent, place=place, outer=outer[place.owner])
            yield edit("dedent", what=_shown(statement), apply=dedent)
            if not last:
                yield edit("dedent alone", what=_shown(statement), apply=partial(dedent, alone=True))
        if place.index and _last_block(block[place.index - 1]) is not None:
            yield edit("indent", what=_shown(statement), apply=partial(_indent, place=place))
            if not last:
                yield edit("indent alone", what=_shown(statement), apply=partial(_indent, place=place, alone=True))
        if not last:
            both = f"{_shown(statement)} and {_shown(block[place.index + 1])}"
            yield edit("swap", what=both, apply=partial(_swap, place=place))


def _places(nodes: Nodes) -> list[Place]:
    """Places of all statements but docstrings and those in the body of a class."""
    return [
        Place(number, block, index)
        for number, node in enumerate(nodes)
        for block in ("body", "orelse", "finalbody")
        if isinstance(getattr(node, block, None), list)
        for index, statement in enumerate(getattr(node, block))
        if not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))
        and not isinstance(node, ast.ClassDef)
    ]


def _shown(node: ast.AST) -> str:
    """First line of a piece of code, for a name."""
    line = ast.unparse(node).splitlines()[0]
    return f"`{line if len(line) <= 80 else line[:79] + '…'}`"


def _delete(nodes: Nodes, place: Place) -> None:
    _taken(nodes, place, alone=True)


def _dedent(nodes: Nodes, place: Place, outer: Place, alone: bool = False) -> None:
    moved = _taken(nodes, place, alone)
    outer.among(nodes)[outer.index + 1 : outer.index + 1] = moved


def _indent(nodes: Nodes, place: Place, alone: bool = False) -> None:
    inner = _last_block(place.among(nodes)[place.index - 1])
    assert inner is not None
    inner.extend(_taken(nodes, place, alone))


def _swap(nodes: Nodes, place: Place) -> None:
    block = place.among(nodes)
    block[place.index : place.index + 2] = block[place.index : place.index + 2][::-1]


def _taken(nodes: Nodes, place: Place, alone: bool) -> list[ast.stmt]:
    """Take a statement, with the rest of its block unless alone, out of it."""
    block = place.among(nodes)
    end = place.index + 1 if alone else len(block)
    taken = block[place.index : end]
    block[place.index : end] = []
    if not block:
        block.append(ast.Pass())
    return taken


def _last_block(statement: ast.stmt) -> list[ast.stmt] | None:
    """The block that a line indented below a compound statement belongs to; None for a simple one."""
    blocks = [getattr(statement, name, None) for name in ("finalbody", "orelse", "body")]
    return next((block for block in blocks if block), None)


def _of_conditions(nodes: Nodes) -> Iterator[Edit]:
    for test in _conditions(nodes):
        yield Edit("negate", test.lineno, _shown(test), partial(_replace, old=nodes.index(test), new=_negated))


def _conditions(nodes: Nodes) -> list[ast.expr]:
    """Tests, each operand of those that are joined by "and" or "or", and comparisons wherever they stand."""
    found: list[ast.expr] = []
    for node in nodes:
        if isinstance(node, (ast.If, ast.While, ast.IfExp)):
            found.append(node.test)
        elif isinstance(node, ast.comprehension):
            found += node.ifs
        elif isinstance(node, ast.BoolOp) and node in found:
            found += node.values
        elif isinstance(node, ast.Compare) and node not in found:
            found.append(node)
    return found


def _of_comparisons(nodes: Nodes) -> Iterator[Edit]:
    for number, node in enumerate(nodes):
        if isinstance(node, ast.Compare) and type(node.ops[0]) in BESIDE:
            yield Edit("off by one", node.lineno, _shown(node), partial(_replace, old=number, new=_beside))


def _of_sizes(nodes: Nodes) -> Iterator[Edit]:
    for number, node in enumerate(nodes):
        name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else None
        if name not in SIZES or not isinstance(getattr(node, "ctx", None), ast.Load):
            continue
        assert isinstance(node, ast.expr)
        around = next((one for one in nodes if node in ast.iter_child_nodes(one)), node)
        for operation, sign in ((ast.Add, "+"), (ast.Sub, "−")):
            what = f"{sign} 1 in {_shown(around)}"
            yield Edit("K", node.lineno, what, partial(_replace, old=number, new=partial(_moved, by=operation)))


def _replace(nodes: Nodes, old: int, new: Callable[[Any], ast.expr]) -> None:
    """Put another expression in the place of one."""
    for node in nodes:
        for name, value in ast.iter_fields(node):
            if value is nodes[old]:
                setattr(node, name, new(value))
            elif isinstance(value, list):
                value[:] = [new(entry) if entry is nodes[old] else entry for entry in value]


def _negated(test: ast.expr) -> ast.expr:
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return test.operand
    if isinstance(test, ast.Compare) and len(test.ops) == 1:
        return ast.Compare(test.left, [INVERSE[type(test.ops[0])]()], test.comparators)
    return ast.UnaryOp(ast.Not(), test)


def _beside(test: ast.Compare) -> ast.expr:
    return ast.Compare(test.left, [BESIDE[type(test.ops[0])](), *test.ops[1:]], test.comparators)


def _moved(value: ast.expr, by: type[ast.operator]) -> ast.expr:
    return ast.BinOp(value, by(), ast.Constant(1))
