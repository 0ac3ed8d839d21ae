"""What is written in the files of a loop: what a name is given, and whether anything is done with it."""

from __future__ import annotations

import ast
import contextlib
import functools
import linecache
from collections.abc import Iterator

# What may be done with a scheduler that never ticks: its state is kept, its rates are looked at.
_LOOKED_AT = ("get_last_lr", "state_dict", "load_state_dict", "last_epoch", "base_lrs", "optimizer")
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@functools.lru_cache(maxsize=64)
def syntax_tree(name: str) -> ast.Module | None:
    """The syntax tree of a file, None if it has none."""
    text = "".join(linecache.getlines(name))
    try:
        # Before Python 3.12 parsing fails at times where two threads do so at once.
        for _ in range(9):
            with contextlib.suppress(SystemError):
                return ast.parse(text)
        return ast.parse(text)
    except (SyntaxError, ValueError):
        return None


def never_stepped_name(name: str, kind: str) -> str:
    """The name that a file gives to its only scheduler of a kind, if nothing there calls step() of it; else "".

    Args:
        name: of the file.
        kind: name of the scheduler's class.
    """
    made = _only_made(name, kind)
    if made is None:
        return ""
    tree, target = made
    if any(target in ast.walk(one) for one in ast.walk(tree) if isinstance(one, ast.ClassDef) and _is_derived(one)):
        return ""  # what it is derived from may step it
    word = last_word(target)
    idle = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # what becomes of it is dropped
    harmless = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and (node.attr in _LOOKED_AT or (node.attr == "step" and id(node) in idle))
    }
    # The word stands for the scheduler wherever it stands: as a name, an attribute, or a string by which it is found.
    for node in ast.walk(tree):
        written = (
            node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else
            node.value if isinstance(node, ast.Constant) else None
        )  # fmt: skip
        if written == word and node is not target and id(node) not in harmless:
            return ""
    return ast.unparse(target) if word else ""


def epochs_around_ticks(name: str, kind: str) -> int:
    """How many epochs a file goes through, whose only scheduler of a kind ticks in a loop within that loop; else 0.

    Args:
        name: of the file.
        kind: name of the scheduler's class.
    """
    made = _only_made(name, kind)
    if made is None:
        return 0
    tree, target = made
    loops = [*_loops_around_steps(tree, last_word(target), [])]
    lengths = {_epochs(tree, around[0]) if len(around) > 1 else 0 for around in loops}
    return lengths.pop() if len(lengths) == 1 else 0


def _loops_around_steps(node: ast.AST, word: str, around: list[ast.AST]) -> Iterator[list[ast.AST]]:
    """The loops around each call of step() of what has a name, from the outermost of its function."""
    for child in ast.iter_child_nodes(node):
        inside = [] if isinstance(child, (ast.FunctionDef, ast.Lambda)) else around
        inside = [*inside, child] if isinstance(child, (ast.For, ast.While)) else inside
        called = child.func if isinstance(child, ast.Call) else None
        if isinstance(called, ast.Attribute) and called.attr == "step" and last_word(called.value) == word:
            yield around
        yield from _loops_around_steps(child, word, inside)


def _epochs(tree: ast.Module, loop: ast.AST) -> int:
    """The rounds of a loop over a range of epochs, as it names them, if their number is written out; else 0."""
    if not isinstance(loop, ast.For) or "epoch" not in last_word(loop.target).lower():
        return 0
    given = loop.iter
    if not isinstance(given, ast.Call) or last_word(given.func) != "range" or not 1 <= len(given.args) <= 2:
        return 0
    first, last = [ast.Constant(0), *given.args][-2:]
    one_more = isinstance(last, ast.BinOp) and isinstance(last.op, ast.Add)
    ends = [last.left, last.right] if isinstance(last, ast.BinOp) and one_more else [last]
    numbers = [_written_number(tree, one) for one in (first, *ends)]
    return 0 if None in numbers else sum(one for one in numbers[1:] if one) - (numbers[0] or 0)


def _written_number(tree: ast.Module, node: ast.expr) -> int | None:
    """A whole number that is written out, or the only one that a name is given; None if there is none."""
    values = [node]
    if word := last_word(node):
        values = [
            one.value for one in ast.walk(tree)
            if isinstance(one, ast.Assign) and any(last_word(target) == word for target in one.targets)
        ]  # fmt: skip
    known = {one.value if isinstance(one, ast.Constant) and type(one.value) is int else None for one in values}
    return known.pop() if len(known) == 1 else None


def _only_made(name: str, kind: str) -> tuple[ast.Module, ast.expr] | None:
    """The tree of a file, and what its only call of a class is assigned to; None if there is not just one of both."""
    tree = syntax_tree(name)
    made = [] if tree is None else [*_made(tree, kind)]
    return (tree, made[0][0]) if tree is not None and len(made) == 1 and len(made[0]) == 1 else None


def _is_derived(one: ast.ClassDef) -> bool:
    """Whether a class has methods of others than torch's."""
    return any(last_word(base) not in ("object", "Module", "ABC", "Protocol") for base in one.bases)


def _made(tree: ast.Module, kind: str) -> Iterator[list[ast.expr]]:
    """What each call of a class is assigned to, nothing where it is used in another way."""
    assigned: dict[int, list[ast.expr]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            assigned[id(node.value)] = node.targets
        elif isinstance(node, ast.AnnAssign):
            assigned[id(node.value)] = [node.target]
    for call in calls_of(tree, kind):
        yield assigned.get(id(call), [])


def multiplies_by_written_0(frame: str) -> bool:
    """Whether a function multiplies by a 0 that is written there, or its file by a name that is given nothing but a 0.

    Args:
        frame: file and line within the function, as caller() and exact_caller() give them.
    """
    name, _, place = frame.rpartition(":")
    line, tree = place.partition("+")[0], syntax_tree(name)
    if tree is None or not line.isdigit():
        return False
    around = [one for one in ast.walk(tree) if isinstance(one, _FUNCTIONS) and one.lineno <= int(line) <= _end(one)]
    of_module = [one for one in tree.body if not isinstance(one, (*_FUNCTIONS, ast.ClassDef))]
    parts: list[ast.stmt] = [*around[-1:]] or of_module
    if any(_is_0(factor) for part in parts for factor in _factors(part)):
        return True
    words = {*map(last_word, _factors(tree))} - {""}
    given = [(word, value) for node in ast.walk(tree) for word, value in _given(node) if word in words]
    # What hands a name on under itself, as an argument does, gives it nothing new.
    others = {word for word, value in given if not _is_0(value) and last_word(value) != word}
    return any(_is_0(value) and word not in others for word, value in given)


def _end(node: ast.stmt) -> int:
    return node.end_lineno or node.lineno


def _factors(tree: ast.AST) -> Iterator[ast.expr]:
    """What is multiplied in a part of a file."""
    for one in ast.walk(tree):
        if isinstance(one, ast.BinOp) and isinstance(one.op, ast.Mult):
            yield from (one.left, one.right)


def _is_0(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) in (int, float) and node.value == 0


def _given(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """The names that are given a value, with it: of variables, arguments, keys and options of a command line."""
    if isinstance(node, ast.Assign):
        yield from ((last_word(target), node.value) for target in node.targets)
    elif isinstance(node, (ast.AnnAssign, ast.AugAssign)) and node.value is not None:
        yield last_word(node.target), node.value
    elif isinstance(node, ast.arguments):
        positional = [*node.posonlyargs, *node.args]
        yield from ((one.arg, value) for one, value in zip(reversed(positional), reversed(node.defaults), strict=False))
        named = zip(node.kwonlyargs, node.kw_defaults, strict=True)
        yield from ((one.arg, value) for one, value in named if value is not None)
    elif isinstance(node, ast.Dict):
        keys = zip(node.keys, node.values, strict=True)
        yield from ((str(key.value), value) for key, value in keys if isinstance(key, ast.Constant))
    elif isinstance(node, ast.Call):
        yield from ((one.arg, one.value) for one in node.keywords if one.arg)
        defaults = [one.value for one in node.keywords if one.arg == "default"]
        options = [one.value for one in node.args if isinstance(one, ast.Constant) and isinstance(one.value, str)]
        yield from ((one.lstrip("-").replace("-", "_"), value) for one in options for value in defaults)


def calls_of(tree: ast.Module, kind: str) -> Iterator[ast.Call]:
    """The calls of what has a name, alone or at the end of others."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and last_word(node.func) == kind:
            yield node


def last_word(node: ast.expr) -> str:
    """The last part of a name with dots, or a key that is written out; "" of anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return node.attr
    key = node.slice if isinstance(node, ast.Subscript) else None
    return key.value if isinstance(key, ast.Constant) and isinstance(key.value, str) else ""
