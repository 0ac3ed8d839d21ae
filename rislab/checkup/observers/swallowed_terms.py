"""Terms of a loss that are always 0 because an exception is caught each time: the line that makes the 0 handles it."""

from __future__ import annotations

import ast
import functools
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node

from rislab.checkup.findings import Finding, as_warning
from rislab.checkup.recording.call_stack import caller, innermost_frame
from rislab.checkup.recording.events import Observer, Roots
from rislab.checkup.recording.loss_graph import sources_of
from rislab.checkup.recording.source_text import last_word, syntax_tree
from rislab.checkup.recording.tensors import MarkedTensors, tensors_of
from rislab.checkup.rules import Code

# Backwards that must agree; zeros that are followed between two of them, and numbers in each.
AGREEING, HELD, NUMBERS = 6, 64, 4096
# By which terms are added up.
ADDING = {"add", "add_", "sub", "sub_", "stack", "cat", "concat", "hstack", "vstack"}
# Nodes behind a loss that weigh it, add it up or take its mean, and how many nodes are gone through.
LINEAR = ("Add", "Sub", "Mul", "Div", "Neg", "Mean", "Sum", "Stack", "Cat", "Clone", "ToCopy", "View", "Squeeze")
NODES = 256
# What these say, a loop may well ask each time: whether something is there.
ASKING = {"KeyError", "AttributeError", "IndexError", "ImportError", "ModuleNotFoundError", "NameError"}


class SwallowedTerms(Observer):
    """Follows zeros that handlers of exceptions make, up to the sums that they are added to."""

    of_first_backwards = True

    def __init__(self) -> None:
        self._zeros = MarkedTensors(HELD)  # each with the place where it was made
        # Where terms were added since the last backward: the place of a 0 among them, and the nodes of the others.
        self._now: dict[str, tuple[str, list[Node]]] = {}
        self._places: dict[str, str] = {}  # of all backwards: where terms were added, and the place of a 0 among them
        self._counts: Counter[str] = Counter()  # backwards with a 0, by where terms were added
        self._refuted: set[str] = set()  # where there was none at times

    def on_result(self, given: Sequence[Any], output: Any) -> None:
        if type(output) is not Tensor or output.requires_grad or output.layout is not torch.strided:
            return
        if output.is_floating_point() and 0 < output.numel() <= NUMBERS and not bool(output.any()):
            # A weight may be multiplied by it.
            self._zeros.mark(output, self._made(given) or caller()[0])

    def _made(self, given: Sequence[Any]) -> str:
        """Where the first 0 among some values was made; "" if there is none."""
        places = (self._zeros.of(value) for value in tensors_of(given)) if self._zeros else ()
        return next(filter(None, places), "")

    def on_call(self, given: Sequence[Any], name: str) -> None:
        if name in ADDING:
            self._note(given)

    def on_sum(self, given: Sequence[Any], output: Tensor) -> None:
        self._note(given)

    def _note(self, given: Sequence[Any]) -> None:
        """Terms are added up."""
        made = self._made(given)
        number = any(type(value) is float and value == 0 for value in given)
        nodes = [value.grad_fn for value in tensors_of(given) if value.grad_fn is not None]
        if not nodes or not (made or number or self._places):
            return
        where = caller()[0]
        if (made or number) and not (_handles(made) and not _handles(where)):
            made = self._attempt_in_vain()
        if made or (where in self._places and where not in self._now):
            self._now[where] = made, nodes

    def _attempt_in_vain(self) -> str:
        """The try that was to give a variable of the line that is running its value, where that is a 0 from elsewhere.

        "" if there is none. A 0 that is written in a file is an object of it, which no other file gives; a tensor was
        made in a line of the function that is running.
        """
        frame, _ = innermost_frame()
        if frame is None:
            return ""
        code, values = frame.f_code, frame.f_locals
        for word, attempt, gives_0 in _attempts(code.co_filename, frame.f_lineno):
            held, inside = values.get(word), range(attempt.lineno, (attempt.body[-1].end_lineno or 0) + 1)
            own = {f"{code.co_filename}:{line}" for line, *_ in code.co_positions() if line not in inside}
            written = type(held) is float and held == 0 and any(held is one for one in code.co_consts)
            if (written and not gives_0) or self._zeros.of(held) in own:
                return f"{code.co_filename}:{attempt.lineno}"
        return ""

    def on_backward(self, roots: Roots) -> None:
        now, self._now = self._now, {}
        self._zeros.clear()
        root = roots[0][0].grad_fn if len(roots) == 1 else None
        terms = _terms_behind(root) if now and root is not None else set()
        for where, (made, nodes) in now.items():
            if made and not terms.isdisjoint(nodes):
                self._places[where] = made
                self._counts[where] += 1
            elif not made:
                self._refuted.add(where)

    def end(self, error: BaseException | None) -> None:
        self._now = {}

    def findings(self) -> list[Finding]:
        results = {}
        for where, made in self._places.items():
            count = self._counts[where]
            if count >= AGREEING and where not in self._refuted and made not in results:
                text = f"in all {count} backwards that were looked at, a term that is added to the loss is 0 and "
                text += "carries no gradient, as an exception is caught where it is computed: 0 of it trains anything"
                results[made] = as_warning(Code.LOSSES, "exception swallowed into 0", text, made)
        return [*results.values()]


def _terms_behind(root: Node) -> set[Node]:
    """The nodes of what a loss is a weighed sum or a mean of."""
    waiting, visited = [root], {root}
    while waiting and len(visited) < NODES:
        node = waiting.pop()
        new = {*sources_of(node)} - visited if node.name().startswith(LINEAR) else set()
        visited |= new
        waiting += new
    return visited


@functools.lru_cache(maxsize=1024)
def _handles(where: str) -> bool:
    """Whether a line stands in a handler that hides an error of what is computed."""
    name, _, place = where.rpartition(":")
    handlers = (handler for one in _tries(name) for handler in one.handlers) if place else ()
    return any(one.body[0].lineno <= int(place) <= (one.end_lineno or 0) for one in handlers)


@functools.lru_cache(maxsize=64)
def _tries(name: str) -> tuple[ast.Try, ...]:
    """The tries of a file around calls, none of whose handlers asks for something optional, or raises."""
    tree = syntax_tree(name)
    tries = [] if tree is None else [one for one in ast.walk(tree) if isinstance(one, ast.Try)]
    return tuple(one for one in tries if _holds(one.body, ast.Call) and not any(map(_asks_or_raises, one.handlers)))


def _holds(body: Sequence[ast.AST], kind: type[ast.AST]) -> bool:
    return any(isinstance(part, kind) for one in body for part in ast.walk(one))


def _asks_or_raises(handler: ast.ExceptHandler) -> bool:
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type] if handler.type else []
    return any(last_word(kind) in ASKING for kind in kinds) or _holds(handler.body, ast.Raise)


@functools.lru_cache(maxsize=64)
def _suppressed(name: str) -> tuple[ast.With, ...]:
    """The blocks of a file under contextlib.suppress(), unless it asks for something optional."""
    tree = syntax_tree(name)
    blocks = [] if tree is None else [one for one in ast.walk(tree) if isinstance(one, ast.With)]
    called = [(one, item.context_expr) for one in blocks for item in one.items[:1]]
    return tuple(
        one
        for one, call in called
        if isinstance(call, ast.Call) and last_word(call.func) == "suppress"
        if not any(last_word(kind) in ASKING for kind in call.args)
    )


@functools.lru_cache(maxsize=256)
def _attempts(name: str, line: int) -> tuple[tuple[str, ast.Try | ast.With, bool], ...]:
    """The variables that the statement in a line reads, and that a try gives the result of a call, with the try.

    The last part says whether that call may give a 0 that is written in the file. The try stands before that statement,
    is begun whenever that one is reached, and nothing between the two gives them another value.
    """
    tree = syntax_tree(name)
    nodes = [] if tree is None else [*ast.walk(tree)]
    simple = (ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Return, ast.Expr)
    statements = [one for one in nodes if isinstance(one, simple) and _spans(one, line)]
    used = [part for one in statements for part in ast.walk(one) if isinstance(part, ast.Name)]
    read = {part.id for part in used if isinstance(part.ctx, ast.Load)}
    stored = [one for one in nodes if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)]
    attempts: list[ast.Try | ast.With] = [*_tries(name), *_suppressed(name)]
    return tuple(
        (word, one, _may_give_0(name, given.value))
        for one in attempts
        if any(_comes_before(one, body, line) for node in nodes for body in _bodies(node))
        for given in one.body
        if isinstance(given, ast.Assign) and isinstance(given.value, ast.Call)
        for word in map(last_word, given.targets)
        if word in read and not any(each.id == word and (one.end_lineno or 0) < each.lineno < line for each in stored)
    )


def _may_give_0(name: str, call: ast.Call) -> bool:
    """Whether a call may give a 0.0 that is written in its file: by a function there, or by one that is not known."""
    tree = syntax_tree(name)
    nodes = [] if tree is None else [*ast.walk(tree)]
    functions = [one for one in nodes if isinstance(one, ast.FunctionDef)]
    imported = {
        each.asname or each.name for one in nodes if isinstance(one, ast.Import | ast.ImportFrom) for each in one.names
    }
    known = {one.name for one in functions} | imported
    if isinstance(call.func, ast.Name) and call.func.id not in known:
        return True
    words, parts = {"forward", "__call__"}, list[ast.AST]()
    waiting: list[ast.AST] = [call]
    while waiting:
        parts += ast.walk(waiting.pop())
        called = {last_word(one.func) for one in parts if isinstance(one, ast.Call)} | words
        waiting += [one for one in functions if one.name in called and all(one is not part for part in parts)][:1]
    return any(isinstance(one, ast.Constant) and type(one.value) is float and one.value == 0 for one in parts)


def _spans(node: ast.stmt, line: int) -> bool:
    return node.lineno <= line <= (node.end_lineno or 0)


def _bodies(node: ast.AST) -> Iterator[list[ast.stmt]]:
    for word in ("body", "orelse", "finalbody"):
        body = getattr(node, word, None)
        if isinstance(body, list):
            yield body


def _comes_before(one: ast.stmt, body: list[ast.stmt], line: int) -> bool:
    """Whether a try is among statements, and a line in a later one of them, which defines no function."""
    later = body[body.index(one) + 1 :] if any(one is each for each in body) else []
    return any(_spans(each, line) and not isinstance(each, ast.FunctionDef | ast.ClassDef) for each in later)
