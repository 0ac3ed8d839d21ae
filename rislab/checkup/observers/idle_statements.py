"""Statements that do nothing: a method that is not called, a result that nobody keeps, a part of a batch unread."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import torch
from torch import nn
from torch.optim.optimizer import Optimizer

from rislab.checkup.findings import Finding, as_fault, as_warning
from rislab.checkup.recording.call_stack import caller
from rislab.checkup.recording.events import Observer, Roots
from rislab.checkup.recording.source_text import last_word, syntax_tree
from rislab.checkup.rules import Code

# Methods of networks, optimisers, schedulers and losses that do nothing until they are called.
METHODS = ("eval", "train", "zero_grad", "step", "backward")
# Functions that give a new tensor, and leave the gradient, or the numbers of a weight, as they are; and those that may
# follow them, while others than tensors may have them too.
OUT_OF_PLACE = ("clamp", "clip", "div", "lerp", "mul", "nan_to_num")
FOLLOWING = (*OUT_OF_PLACE, "add", "sub")
UNCHANGED = {"grad": "the gradient stays as it is", "data": "the tensor stays as it is"}
# Parts of a batch without which a target, or attention, is another one.
ENDS = {
    f"{negation}{word}{plural}"
    for negation in ("", "not_", "non_")
    for word in ("done", "terminal", "terminated", "termination")
    for plural in ("", "s", "_batch", "_mask")
}
MASKS = {f"{word}_mask" for word in ("attention", "attn", "pad", "padding", "key_padding", "src_padding", "loss")}
# So many forwards without gradients, steps and backwards tell which lines of a file run.
EVENTS = 240


class IdleStatements(Observer):
    """Reads the functions and branches in which steps, backwards and evaluations stand."""

    def __init__(self) -> None:
        self._lines: set[tuple[str, int]] = set()  # that have run, with their files
        self._left = {"step": EVENTS, "backward": EVENTS, "evaluation": EVENTS}

    def _note(self, kind: str) -> bool:
        """Keep the lines that led here; whether no more are needed."""
        if self._left[kind]:
            self._left[kind] -= 1
            places = (one.rpartition(":") for one in caller()[1])
            self._lines |= {(name, int(line)) for name, _, line in places if name.endswith(".py")}
        return not self._left[kind]

    def on_forward(self, module: nn.Module, training: bool) -> None:
        if not torch.is_grad_enabled():
            self._note("evaluation")

    def on_backward(self, roots: Roots) -> bool:
        return self._note("backward")

    def before_step(self, optimizer: Optimizer, closure: bool) -> bool:
        return self._note("step")

    def findings(self) -> list[Finding]:
        results = []
        for name in sorted({name for name, _ in self._lines}):
            tree = syntax_tree(name)
            lines = {line for one, line in self._lines if one == name}
            body = [] if tree is None else tree.body
            # Nothing follows the last expressions of a file, and a notebook shows them.
            while body and isinstance(body[-1], ast.Expr):
                body = body[:-1]
            ran = [*_that_ran(body, lines)]
            for node in [*ran, *(one for function in _called(tree, ran) for one in _always(function.body))]:
                if text := _idle(node.value):
                    where = f"{name}:{node.lineno}"
                    results.append(as_fault(Code.LOSSES, "statement that does nothing", text, where))
            results += [
                _unread_part(node.id, f"{name}:{node.lineno}")
                for scope in _scopes_that_ran(tree, lines)
                for node in _never_read(scope)
            ]
        return results


def _unread_part(word: str, where: str) -> Finding:
    """The finding of a part of a batch that nobody reads."""
    name = "mask never read" if word in MASKS else "end of episodes never read"
    why = "padding counts as the rest does" if word in MASKS else "a target goes on beyond the end of its episode"
    return as_warning(Code.ARGUMENTS, name, f"{word} is taken out of a batch, and nothing reads it: {why}", where)


def _functions(tree: ast.AST | None) -> list[ast.FunctionDef]:
    return [] if tree is None else [one for one in ast.walk(tree) if isinstance(one, ast.FunctionDef)]


def _scopes_that_ran(tree: ast.Module | None, lines: set[int]) -> list[ast.Module | ast.FunctionDef]:
    """A file, and the functions in it of which lines are known to have run."""
    ran = [one for one in _functions(tree) if any(one.lineno <= line <= (one.end_lineno or 0) for line in lines)]
    return [tree, *ran] if tree is not None else []


def _never_read(scope: ast.Module | ast.FunctionDef) -> Iterator[ast.Name]:
    """Where a scope unpacks an end or a mask beside other parts, and nothing in it reads that name."""
    inner = {
        id(part)
        for one in ast.walk(scope)
        if one is not scope and isinstance(one, ast.FunctionDef | ast.Lambda | ast.ClassDef)
        for part in ast.walk(one)
    }
    read = {one.id for one in ast.walk(scope) if isinstance(one, ast.Name) and not isinstance(one.ctx, ast.Store)}
    for node in ast.walk(scope):
        given = node.value if isinstance(node, ast.Assign) else node.iter if isinstance(node, ast.For) else None
        # What an environment gives back is no batch.
        if given is None or id(node) in inner or (isinstance(given, ast.Call) and last_word(given.func) == "step"):
            continue
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]  # type: ignore[attr-defined]
        for target in targets:
            parts = [one for one in ast.walk(target) if isinstance(one, ast.Name)]
            others = sum(one.id in read for one in parts)
            yield from (one for one in parts if others > 1 and one.id in ENDS | MASKS and one.id not in read)


def _that_ran(body: list[ast.stmt], lines: set[int]) -> Iterator[ast.Expr]:
    """The expressions among statements, without functions and branches of which no line is known to have run."""
    for node in body:
        if isinstance(node, ast.Expr):
            yield node
        parts = [getattr(node, one, None) or [] for one in ("body", "orelse", "finalbody")]
        parts += [one.body for one in getattr(node, "handlers", [])]
        for part in parts if isinstance(node, ast.stmt) else []:
            always = isinstance(node, ast.For | ast.With | ast.ClassDef)
            last = max((one.end_lineno or 0 for one in part), default=0)
            if part and (always or any(part[0].lineno <= line <= last for line in lines)):
                yield from _that_ran(part, lines)


def _called(tree: ast.AST | None, ran: list[ast.Expr]) -> list[ast.FunctionDef]:
    """Functions and methods of a file that statements call which ran, of a name that no other has; none that ran."""
    functions = _functions(tree)
    names = {last_word(one.value.func) for one in ran if isinstance(one.value, ast.Call)}
    inside = {id(one) for one in ran}
    alone = [one for one in functions if one.name in names and sum(one.name == other.name for other in functions) == 1]
    return [one for one in alone if not any(id(part) in inside for part in ast.walk(one))]


def _always(body: list[ast.stmt]) -> Iterator[ast.Expr]:
    """The expressions among statements that run whenever the first does, and where something is there at all."""
    for node in body:
        if isinstance(node, ast.Expr):
            yield node
        test = node.test if isinstance(node, ast.If) and not node.orelse else None
        there = isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.IsNot)
        if isinstance(node, ast.For | ast.With) or (isinstance(node, ast.If) and there):
            yield from _always(node.body)
        if any(isinstance(one, ast.Return | ast.Raise | ast.Continue | ast.Break) for one in ast.walk(node)):
            return


def _idle(node: ast.expr) -> str:
    """What an expression fails to do, "" if it may do something."""
    if isinstance(node, ast.Attribute) and node.attr in METHODS:
        return f"{ast.unparse(node)} is named and not called: it lacks its parentheses"
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div | ast.Mult):
        word = last_word(node.left)
        return f"the result of {ast.unparse(node)} is not kept" if "loss" in word.lower() or word == "lr" else ""
    inner = node
    while _is_method(inner, FOLLOWING) and _is_method(inner.func.value, FOLLOWING):  # type: ignore[attr-defined]
        inner = inner.func.value  # type: ignore[attr-defined]
    if not isinstance(inner, ast.Call) or not isinstance(inner.func, ast.Attribute):
        return ""
    of_torch = last_word(inner.func.value) == "torch"
    changed = next(iter(inner.args), None) if of_torch else inner.func.value
    word = "" if changed is None else last_word(changed)
    if inner.func.attr not in OUT_OF_PLACE or word not in UNCHANGED or any(one.arg == "out" for one in inner.keywords):
        return ""
    return f"{ast.unparse(node)} gives a new tensor, which is not kept: {UNCHANGED[word]}"


def _is_method(node: ast.expr, names: tuple[str, ...]) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in names
