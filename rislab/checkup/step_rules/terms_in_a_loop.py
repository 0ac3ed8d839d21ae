"""Losses of one line whose backwards come to one step: micro-batches of a window, or terms of one loss.

A window is divided among its micro-batches; terms are added up. What the loop says of itself tells them apart.
"""

from __future__ import annotations

import ast
import functools
import itertools
from collections.abc import Iterator

from rislab.checkup.findings import Finding, as_fault, as_note
from rislab.checkup.recording.source_text import syntax_tree
from rislab.checkup.recording.trace import MicroBatch
from rislab.checkup.recording.windows import StepComparison, WatchedRun, near
from rislab.checkup.rules import Code

# What hands on the elements of its arguments, one by one.
_HANDING_ON = {"enumerate", "items", "keys", "list", "reversed", "tuple", "values", "zip"}


def undivided(text: str, one: StepComparison, run: WatchedRun) -> Finding:
    """The finding for losses of which each counts 1: a fault, or a note where they are terms of one loss."""
    # The first pass of the first window may have come before the recording.
    if one.step.ahead or (one.number == 1 and any(other.step.ahead for other in run.comparisons)):
        evidence = f"{text}: the network ran on each of them before, without gradients, as for a loss over all of them"
        return as_note(Code.GRADIENT_SCALE, "gradient scale", evidence)
    if run.declared.accumulation_steps is None and are_terms(one):
        evidence = f"{text}: terms of one loss, each with a backward of its own, are added up"
        return as_note(Code.GRADIENT_SCALE, "gradient scale", evidence)
    aliases = ("divided on the first batch only",)
    return as_fault(Code.GRADIENT_SCALE, "never divided", text, one.step.where, aliases)


def are_terms(one: StepComparison) -> bool:
    """Whether the losses of a window are terms of one: of one forward, or of a loop over values written out."""
    forwards = {batch.forward for batch in one.batches}
    if one.size > 1 and len(forwards) == 1 and 0 not in forwards:
        return True
    return one.size > 1 and all(_in_a_written_loop(batch, one.size, one.step.where) for batch in one.batches)


def is_one_sequence(one: StepComparison) -> bool:
    """Whether the micro-batches after the first were handed the state of those before."""
    return one.size > 1 and all(batch.follows for batch in one.batches[1:])


def divided_again(one: StepComparison, shared: list[int], run: WatchedRun) -> bool:
    """Whether losses that are no means have the factor 1/K twice, or, as sums over items, once beside their number."""
    if any(batch.terms == one.size for batch in one.batches):
        # One of the two is the mean over its terms.
        return False
    sums = run.declared.counted and all(batch.scale_free and batch.count == 1 for batch in one.batches)
    items = {min(factors_of(batch), default=1.0) for batch in one.batches}
    counted = sums and len(items) == 1 and not near(items.pop(), 1 / one.size, 1e-3)
    return set(shared) == {2} or (counted and set(shared) == {1})


def shares_of(one: StepComparison) -> list[int]:
    """How often each loss of a window of K has the factor 1/K."""
    return [sum(near(factor, 1 / one.size, 1e-3) for factor in factors_of(batch)) for batch in one.batches]


def factors_of(batch: MicroBatch) -> list[float]:
    """All factors that the loop gave the terms of a loss."""
    pairs = [pair for values in batch.term_factors for pair in itertools.pairwise(values)]
    return [after / before for before, after in pairs if before]


def _in_a_written_loop(batch: MicroBatch, size: int, step: str) -> bool:
    """Whether a loop over so many values that are written out leads to a loss, and not to the step."""
    step_file, _, step_line = step.rpartition(":")
    for place in batch.call_stack:
        name, _, rest = place.rpartition(":")
        line = int(rest.partition("+")[0])
        for first, last, values in _written_loops(name):
            inside = step_file == name and step_line.isdigit() and first <= int(step_line) <= last
            if values == size and first <= line <= last and not inside:
                return True
    return False


@functools.lru_cache(maxsize=64)
def _written_loops(name: str) -> tuple[tuple[int, int, int], ...]:
    """First and last line, and number of values, of each loop of a file over values that are written out."""
    tree = syntax_tree(name)
    if tree is None:
        return ()
    written = dict(_written_names(tree))
    loops = []
    for node in ast.walk(tree):
        iterables = [node.iter] if isinstance(node, ast.For) else []
        if isinstance(node, (ast.ListComp, ast.GeneratorExp, ast.SetComp, ast.DictComp)):
            iterables = [part.iter for part in node.generators]
        for iterable in iterables:
            values = _values(iterable, written)
            if values > 1 and isinstance(node, (ast.stmt, ast.expr)):
                loops.append((node.lineno, node.end_lineno or node.lineno, values))
    return tuple(loops)


def _written_names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Names that are given values that are written out, with how many these are."""
    for node in ast.walk(tree):
        targets = node.targets if isinstance(node, ast.Assign) else []
        for target in targets:
            values = _values(node.value, {}) if isinstance(node, ast.Assign) else 0
            if values > 1 and isinstance(target, (ast.Name, ast.Attribute)):
                yield ast.unparse(target), values


def _values(node: ast.expr, written: dict[str, int]) -> int:
    """How many values an expression holds that are written out; 0 where they are not."""
    if isinstance(node, (ast.Tuple, ast.List, ast.Set)):
        return 0 if any(isinstance(value, ast.Starred) for value in node.elts) else len(node.elts)
    if isinstance(node, ast.Dict):
        return 0 if None in node.keys else len(node.keys)
    if isinstance(node, (ast.Name, ast.Attribute)):
        return written.get(ast.unparse(node), 0)
    if isinstance(node, ast.Call):
        called = node.func
        name = called.id if isinstance(called, ast.Name) else called.attr if isinstance(called, ast.Attribute) else ""
        parts = [*node.args, *([called.value] if isinstance(called, ast.Attribute) else [])]
        return max((_values(part, written) for part in parts), default=0) if name in _HANDING_ON else 0
    return 0
